"""docs/chat.md: its commands are valid, its tool runs, and what it says of commands, options and limits is so."""

import re
import shlex

import pytest

from tests.conftest import ROOT
from tests.e2e.test_readme import blocks, commands
from xtune.chat import answer, python_tool, terminal
from xtune.chat.commands import COMMANDS, run_command
from xtune.chat.conversation import Conversation
from xtune.chat.tools import load_tools, run_call
from xtune.cli.chat import chat
from xtune.errors import UsageError
from xtune.messages import Message
from xtune.templates.catalog import TEMPLATES
from xtune.templates.template import find_template

FILE = "docs/chat.md"
PAGE = (ROOT / FILE).read_text(encoding="utf-8")


@pytest.mark.parametrize("command", commands(FILE))
def test_commands_are_valid(command):
    program, name, *arguments = shlex.split(command.partition(" < ")[0])
    assert (program, name) == ("xtune", "chat")
    chat.make_context("chat", arguments)


def test_every_option_and_command_is_told():
    told = set(re.findall(r"--[a-z-]+", PAGE))
    # of an adapter by itself, TARGET names it
    assert {option for each in chat.params for option in each.opts if option[0] == "-"} - {
        "--adapter",
        "--help",
    } <= told
    assert all(re.search(rf"^\| `/{name}\b", PAGE, re.M) for name in COMMANDS)


def test_the_transcript_says_what_the_commands_say():
    """Of commands alone: answers are the model's."""
    talk = Conversation().answered("Who are you?", [Message("assistant", "Tuna")])
    lines = blocks("text", FILE)[0].splitlines()
    typed = [line.removeprefix("you> ") for line in lines if line.startswith("you> /")]
    assert typed
    for line in typed:
        if line.startswith("/save"):
            continue
        try:
            step = run_command(line, talk)
        except UsageError as error:
            said = f"error: {error}"
        else:
            talk, said = step.conversation, step.say
            if step.ask:
                talk = talk.answered(step.ask, [Message("assistant", "Tuna")])
        place = lines.index(f"you> {line}") + 1
        assert lines[place : place + len(said.splitlines())] == said.splitlines()


def test_the_tool_runs(tmp_path):
    file = tmp_path / "my_tools.py"
    file.write_text(blocks("python", FILE)[0])
    tools = load_tools(str(file), find_template("qwen2_5"))
    call = {"name": "weather", "arguments": {"city": "Beijing", "days": 2}}
    assert run_call(call, tools, lambda _: False) == '{"city": "Beijing", "forecast": ["sunny", "sunny"]}'


def test_formats_and_limits():
    formats = re.search(r"chat format has tools \((.*?)\)", PAGE, re.S)[1]
    assert set(re.findall(r"`(\w+)`", formats)) == {
        name for name, facts in TEMPLATES.items() if facts.get("tool_calls")
    }
    assert f"{python_tool.SECONDS} seconds, {python_tool.MEMORY >> 30} GiB of memory" in PAGE
    assert f"{python_tool.FILES >> 20} MB of output and files" in PAGE
    assert f"after {answer.ROUNDS} rounds" in PAGE
    assert f"the last {terminal.HISTORY_LENGTH:,} lines" in PAGE


def test_links_lead_somewhere():
    for target in re.findall(r"\]\((?!https?:)([^)#]+)", PAGE):
        assert (ROOT / "docs" / target).exists(), target
