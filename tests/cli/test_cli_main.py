"""The command line as a user meets it: real processes, their output and exit codes."""

import re
import subprocess
import sys
import time

import pytest

from xtune.cli import main as cli


def xtune(*args, cwd=None):
    return subprocess.run([sys.executable, "-m", "xtune", *args], capture_output=True, text=True, cwd=cwd)


def test_help_names_every_command_and_imports_none():
    code = (
        "import sys, xtune.cli.main as m\n"
        "try: m.main(['--help'])\n"
        "except SystemExit as e: print(e.code, *sorted(n for n in sys.modules if n.startswith('xtune.')))\n"
        "assert not {'torch', 'pydantic', 'mmengine'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    *text, last = done.stdout.strip().split("\n")
    assert last == "0 xtune.cli xtune.cli.command xtune.cli.main xtune.errors"
    assert all(any(line.strip().startswith(name) for line in text) for name in cli.COMMANDS)


@pytest.mark.parametrize(
    "command", [["estimate", "smollm2_lora", "--gpu", "8GB"], ["data", "check", "smollm2_lora"]]
)
def test_what_needs_no_torch_does_not_import_it(command, base_directory):
    code = (
        "import sys, xtune.cli.main as m\n"
        f"try: m.main({command})\n"
        "except SystemExit as e: print(e.code)\n"
        "assert 'transformers' in sys.modules\n"
        "assert 'torch' not in sys.modules  # which takes seconds"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip().endswith("0")


def test_version():
    assert re.fullmatch(r"xtune \d+\.\d+\.\d+\n", xtune("--version").stdout)


@pytest.mark.parametrize(
    ("args", "suggestion"),
    [
        (["trian"], "Did you mean 'train'?"),
        (["recipes", "shw"], "Did you mean 'show'?"),
        (["--debgu"], "Did you mean"),
    ],
)
def test_unknown_command_or_option(args, suggestion):
    done = xtune(*args)
    assert done.returncode == 2
    assert suggestion in done.stderr
    assert done.stdout == ""


def test_five_mistakes_are_all_listed_fast(tmp_path):
    (tmp_path / "r.py").write_text(
        'model = dict(path="smollm2", familly="auto")\n'
        'method = dict(kind="lora", rank=0)\n'
        "data = dict(sources=[])\n"
        "train = dict(lrr=1, steps=1, epochs=1)\n"
    )
    begin = time.perf_counter()
    done = xtune("recipes", "show", "r.py", cwd=tmp_path)
    seconds = time.perf_counter() - begin
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr == (
        "error: r.py has 5 faults:\n"
        "  r.py:1: model.familly: unknown option; did you mean family?\n"
        "  r.py:2: method.rank: 0 is not allowed; give a whole number at least 1\n"
        "  r.py:3: data.sources: [] is not allowed; give a list of dict(path=...) not empty\n"
        "  r.py:4: train.lrr: unknown option; did you mean lr?\n"
        "  r.py:4: train.steps: give steps or epochs, not both\n"
        "  more:  xtune docs recipes\n"
    )
    assert seconds < 3  # on a busy machine; on a quiet one it is a fifth of that


def test_recipes_lists_shows_and_copies(tmp_path):
    listed = xtune("recipes").stdout.splitlines()
    folder, *ours = listed[-5:]
    assert folder == "smollm2:"
    assert [line.split()[0] for line in ours] == [
        "smollm2_full",
        "smollm2_lora",
        "smollm2_lora_dpo",
        "smollm2_qlora",
    ]
    assert all(len(line.split()) > 4 for line in listed if line.startswith(" "))
    copied = xtune("recipes", "copy", "smollm2_lora", "my dir", cwd=tmp_path)
    assert copied.returncode == 0
    assert copied.stdout.splitlines()[-1] == "next: xtune train 'my dir/smollm2_lora.py'"
    shown = xtune("recipes", "show", "my dir/smollm2_lora.py", cwd=tmp_path)
    assert shown.returncode == 0
    (tmp_path / "shown.py").write_text(shown.stdout, encoding="utf-8")
    assert xtune("recipes", "show", "shown.py", cwd=tmp_path).stdout == shown.stdout
    again = xtune("recipes", "copy", "smollm2_lora", "my dir", cwd=tmp_path)
    assert again.returncode == 2
    assert "already there" in again.stderr
    assert "fix:" in again.stderr


def test_recipes_are_found_by_words_of_their_names():
    assert xtune("recipes", "list").stdout == xtune("recipes").stdout
    folder, *found = xtune("recipes", "list", "Qwen", "qlora").stdout.splitlines()
    assert folder == "qwen:"
    assert found
    assert all("qwen" in line.split()[0] and "qlora" in line.split()[0] for line in found)
    none = xtune("recipes", "list", "qwen", "gpt")
    assert none.returncode == 2
    assert "No shipped recipe has qwen and gpt in its name." in none.stderr


BROKEN = """
import click, sys, types
import xtune.cli.main as m
module = types.ModuleType("broken")
@click.command()
def command():
    {body}
module.command = command
sys.modules["broken"] = module
m.cli.commands["broken"] = m.LazyCommand("broken", "broken:command", "")
m.main()
"""


def broken(body: str, *args):
    """A process of xtune whose command `broken` does `body`."""
    code = BROKEN.format(body=body)
    return subprocess.run([sys.executable, "-c", code, "broken", *args], capture_output=True, text=True)


def test_a_bug_is_a_short_message_and_a_traceback_on_request():
    done = broken("1 / 0")
    assert done.returncode == 1
    assert done.stderr.startswith("internal error: ZeroDivisionError: division by zero\n")
    assert "--debug" in done.stderr
    assert "Traceback" not in done.stderr
    debugged = broken("1 / 0", "--debug")
    assert debugged.returncode == 1
    assert "Traceback" in debugged.stderr


@pytest.mark.parametrize(
    ("kind", "code", "page"),
    [
        ("UsageError", 2, ""),
        ("DataError", 3, "data"),
        ("ResourceError", 4, "errors"),
        ("TrainingError", 5, "errors"),
    ],
)
def test_user_errors_have_their_exit_codes_and_pages(kind, code, page):
    body = f"import xtune; raise xtune.{kind}('No rows.', where='a.jsonl:3', fix='add some')"
    done = broken(body)
    assert (done.returncode, done.stderr) == (
        code,
        "error: No rows.\n  where: a.jsonl:3\n  fix:   add some\n"
        + f"  more:  xtune docs {page}\n" * bool(page),
    )
    assert broken(body, "--debug").returncode == code


def test_interrupt():
    done = broken("raise KeyboardInterrupt")
    assert done.returncode == 130
    assert "Traceback" not in done.stderr


def test_closed_pipe_is_quiet():
    command = f"{sys.executable} -m xtune recipes show smollm2_lora | true"
    done = subprocess.run(command, shell=True, capture_output=True, text=True)
    assert done.stderr == ""
