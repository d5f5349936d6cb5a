"""How long a person waits for the first word: `xtune --help`, a bad recipe, `import xtune`.

    python benchmarks/startup.py

Each is run ten times in turn with `python -c pass`; prints medians in seconds and writes results/startup.json.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

RUNS = 10
BAD_RECIPE = """
model = dict(path="smollm2", familly="auto")
method = dict(kind="lora", rank=0)
data = dict(sources=[])
train = dict(lrr=1, steps=1, epochs=1)
"""


def seconds(command: list[str], code: int) -> float:
    begun = time.perf_counter()
    done = subprocess.run(command, capture_output=True)
    assert done.returncode == code, done.stderr
    return time.perf_counter() - begun


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        recipe = Path(folder) / "bad.py"
        recipe.write_text(BAD_RECIPE)
        python, xtune = [sys.executable], [sys.executable, "-m", "xtune"]
        commands = {
            "python -c pass": ([*python, "-c", "pass"], 0),
            "import xtune": ([*python, "-c", "import xtune"], 0),
            "xtune --help": ([*xtune, "--help"], 0),
            "a recipe with five mistakes": ([*xtune, "train", str(recipe)], 2),
        }
        times = {name: [] for name in commands}
        for _ in range(RUNS):
            for name, (command, code) in commands.items():
                times[name].append(seconds(command, code))
    figures = {name: round(statistics.median(values), 3) for name, values in times.items()}
    for name, value in figures.items():
        print(f"{value:6.3f} s  {name}")
    results = Path(__file__).parent / "results" / "startup.json"
    results.write_text(json.dumps({"median_seconds": figures, "runs": RUNS}, indent=2) + "\n")


if __name__ == "__main__":
    main()
