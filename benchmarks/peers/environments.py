"""The peers' own environments, made on first use from the pinned sets beside this file.

    python benchmarks/peers/environments.py [PEER ...]

They lie in ~/.cache/xtune-bench (another place: XTUNE_BENCH). The sets are for Python 3.11 and are installed without
looking at dependencies, which would bring CUDA.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

SETS = Path(__file__).parent
ENVIRONMENTS = Path(os.environ.get("XTUNE_BENCH", Path.home() / ".cache" / "xtune-bench"))


def python_of(peer: str) -> str:
    """The Python of a peer's environment, made if it is not there or not of the pinned set. xtune and TRL share that
    of the tests. Raises CalledProcessError or OSError where it cannot be made."""
    pinned = SETS / f"{peer}.txt"
    if not pinned.exists():
        return sys.executable
    folder = ENVIRONMENTS / peer
    python, installed = folder / "bin" / "python", folder / "installed.txt"
    if not installed.exists() or installed.read_text() != pinned.read_text():
        print(f"installing {pinned.name} in {folder}", flush=True)
        if not python.exists():
            base = shutil.which("python3.11") or sys.executable
            subprocess.run([base, "-m", "venv", str(folder)], check=True)
        install = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps"]
        subprocess.run([*install, "-r", str(pinned)], check=True)
        installed.write_text(pinned.read_text())
    return str(python)


if __name__ == "__main__":
    for name in sys.argv[1:] or sorted(path.stem for path in SETS.glob("*.txt")):
        print(name, python_of(name))
