"""Progress of long work: on a real terminal, and nowhere else."""

import re
import subprocess
import sys

import pexpect
import pytest

WORK = """
import time
from xtune.terminal import messages, progress
with progress("reading [data]", 3, "records") as advance:
    for n in range(3):
        with progress("hashing", 2_000_000, "bytes") as inner:
            time.sleep(0.3)
            inner(1_500_000)
            time.sleep(0.3)
        advance(1, f"figure {n}")
        messages().print(f"said {n}")
    if FAILING:
        raise ValueError("stopped")
with progress("counting", None, "things") as advance:
    advance(5)
    time.sleep(0.3)
print("result")
"""


def on_terminal(program: str) -> str:
    child = pexpect.spawn(sys.executable, ["-c", program], dimensions=(24, 100), encoding="utf-8", timeout=60)
    child.expect(pexpect.EOF)
    return child.before


@pytest.mark.parametrize("failing", [False, True])
def test_a_terminal_shows_it_and_is_left_in_order(failing):
    said = on_terminal(WORK.replace("FAILING", str(failing)))
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", said)
    assert "reading [data]" in text
    assert re.search(r"1/3 records · figure 0 +(0:|-)", text)
    assert "1.5 MB/2.0 MB" in text
    assert ("5 things" in text) != failing
    assert re.findall(r"said \d", text) == ["said 0", "said 1", "said 2"]
    assert said.count("\x1b[?25l") == said.count("\x1b[?25h")  # the cursor is back
    last = re.split(r"\x1b\[2K|\r\n", said)
    assert "records" not in last[-2] + last[-1]  # and the bar is gone


def test_a_pipe_gets_what_is_said_and_nothing_else():
    done = subprocess.run(
        [sys.executable, "-c", WORK.replace("FAILING", "False")], capture_output=True, text=True
    )
    assert done.stdout == "result\n"
    assert done.stderr == "said 0\nsaid 1\nsaid 2\n"
