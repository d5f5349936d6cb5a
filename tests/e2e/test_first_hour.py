"""docs/first_hour.md: what docs/first_hour.py writes, of commands that all run."""

import runpy

import pytest

from tests.conftest import ROOT

SCRIPT = runpy.run_path(str(ROOT / "docs/first_hour.py"))
PAGE = (ROOT / "docs/first_hour.md").read_text(encoding="utf-8")


def test_the_page_has_every_command_and_what_it_printed():
    for command in SCRIPT["commands"]():
        shown = SCRIPT["ready"](command).replace(f"{ROOT}/", "")
        printed = PAGE.partition(f"$ {shown}\n")[2].partition("```")[0]
        assert printed.strip(), command


@pytest.mark.slow
def test_every_command_runs(tmp_path):
    printed = {command: SCRIPT["printed"](command, tmp_path) for command in SCRIPT["commands"]()}
    answer = next(text for command, text in printed.items() if "curl" in command)
    assert '"role": "assistant"' in answer
    assert (tmp_path / "merged.gguf").stat().st_size > 1e8
