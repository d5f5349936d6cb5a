"""Writes first_hour.md: the commands of a first hour with what each really prints: python docs/first_hour.py"""

import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parent.parent
PAGE = Path(__file__).parent / "first_hour.md"
MOST_LINES = 60

STORY = """\
# A first hour

From nothing to a model of your own that answers over HTTP: every command, and what it printed on a machine with two CPU cores and no
GPU. Long outputs are shortened where a line says "…".

## Install

In a clone of the repository; once, for some minutes:

```text
make .venv/.installed
source .venv/bin/activate
```

What this machine has:

    $ xtune doctor

## Your own data

A shop exports its support tickets in a form that no program knows. `examples/own_data` has them, with a recipe of a few lines; here it
is copied, to be changed:

    $ cp -r {examples}/own_data shop && ls shop
    $ cat shop/recipe.py

What is in the data, and what is wrong with it:

    $ xtune data check shop/recipe.py

One conversation as the model will read it; what it learns is between ⟦ and ⟧ (green in a terminal):

    $ xtune data show shop/recipe.py -n 1

## Before training

What it takes:

    $ xtune estimate shop/recipe.py

Whether all is in order:

    $ xtune train shop/recipe.py --dry-run

## Train

    $ xtune train shop/recipe.py --run-dir first

Stopped by Ctrl-C or a power cut, it would go on with `xtune train --resume first`. A second run, with a lower learning rate, to
compare:

    $ xtune train shop/recipe.py --run-dir second --set train.lr=1e-4

## Look

`first/report.html` is the whole run on one page. In the terminal:

    $ xtune runs .
    $ xtune runs compare first second
    $ xtune doctor first

The loss on the tickets that were kept aside, before and after:

    $ xtune eval first

And the answers, side by side:

    $ xtune chat first --compare base --system "You answer for Plum, a shop." --prompt "The chair is too small."

## Ship

One model instead of a base and an adapter, checked against the two:

    $ xtune convert merge first merged
    $ ls merged

It answers as OpenAI's API does, for any client:

    $ xtune serve merged --port {port} & server=$!; curl -s --retry 60 --retry-connrefused --retry-delay 1 http://127.0.0.1:{port}/v1/chat/completions --json '{"model": "merged", "temperature": 0, "messages": [{"role": "system", "content": "You answer for Plum, a shop."}, {"role": "user", "content": "Can I return the clock?"}]}' | python -m json.tool; kill $server

For llama.cpp and Ollama, as one file:

    $ xtune convert gguf merged merged.gguf --type q8_0

More: [recipes](recipes.md), [your own data](data.md), [chat](chat.md), [serving](serve.md), [convert and deploy](convert.md).
"""


def commands() -> list[str]:
    return re.findall(r"^    \$ (.*)$", STORY, re.M)


def ready(command: str) -> str:
    return command.replace("{examples}", str(ROOT / "examples")).replace("{port}", "8765")


def printed(command: str, folder: Path) -> str:
    """What a command printed, as a terminal of 100 columns shows it. Raises CalledProcessError."""
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path, "COLUMNS": "100", "NO_COLOR": "1"}
    done = subprocess.run(
        ["bash", "-c", ready(command)],
        cwd=folder,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=True,
    )
    return done.stdout


def shortened(text: str, folder: Path) -> str:
    text = text.replace(f"{folder}/", "").replace(f"{ROOT}/", "").replace(str(Path.home()), "~")
    lines = [line.rstrip() for line in text.rstrip().splitlines()]
    if len(lines) > MOST_LINES:
        lines[MOST_LINES // 2 : -MOST_LINES // 2] = ["…"]
    return "\n".join(lines)


def main() -> None:
    with tempfile.TemporaryDirectory() as work:
        folder = Path(work).resolve()
        page = STORY
        for command in commands():
            print("$", command, flush=True)
            output = shortened(printed(command, folder), folder)
            shown = command.replace("{examples}/", "examples/").replace("{port}", "8765")
            page = page.replace(f"    $ {command}", f"```text\n$ {shown}\n{output}\n```", 1)
    PAGE.write_text(page, encoding="utf-8")


if __name__ == "__main__":
    main()
