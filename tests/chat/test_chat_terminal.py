"""xtune chat as a person sees it: in a real terminal, whose screen an emulator keeps."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import stat
import sys
from pathlib import Path

import pexpect
import pyte
import pytest

from xtune.chat.terminal import HISTORY_LENGTH, read_message
from xtune.home import home as xtune_home

PASTE = "\x1b[200~{}\x1b[201~"


class Terminal:
    """A command in a terminal of 24 lines."""

    def __init__(self, *command: str, columns: int = 80, **environment: str):
        inherited = {name: value for name, value in os.environ.items() if name not in ("COLUMNS", "LINES")}
        environment = {**inherited, "TERM": "xterm-256color", **environment}
        self.child = pexpect.spawn(
            sys.executable,
            list(command),
            encoding="utf-8",
            timeout=90,
            dimensions=(24, columns),
            env=environment,
            preexec_fn=lambda: signal.signal(
                signal.SIGINT, signal.SIG_DFL
            ),  # tests may run where it is ignored
        )
        self.screen = pyte.HistoryScreen(columns, 24, history=10_000)
        self.stream = pyte.Stream(self.screen)

    def until(self, text) -> str:
        """Let it go on until it writes a text; gives what it wrote before."""
        self.child.expect_exact(text)
        if isinstance(self.child.after, str):
            self.stream.feed(self.child.before + self.child.after)
        else:
            self.stream.feed(self.child.before)
        return self.child.before

    def say(self, text: str) -> str:
        """Type a line, and give what the screen shows of its answer."""
        before = len(self.lines())
        self.child.send(text + "\r")
        self.until("you> ")
        return "\n".join(self.lines()[before:-1])

    def lines(self) -> list[str]:
        """All that can be read, with what has scrolled away."""
        above = [
            "".join(line[column].data for column in range(self.screen.columns))
            for line in self.screen.history.top
        ]
        return [line.rstrip() for line in "\n".join([*above, *self.screen.display]).rstrip().split("\n")]

    def ended(self) -> int:
        self.until(pexpect.EOF)
        self.child.close()
        return self.child.exitstatus


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Path:
    """A home without history; what was measured of this machine is in it."""
    folder = tmp_path_factory.mktemp("home")
    measured = xtune_home() / "devices"
    if measured.is_dir():
        shutil.copytree(measured, folder / "devices")
    return folder


@pytest.fixture(scope="module")
def chat(tiny_model, home):
    terminal = Terminal("-m", "xtune", "chat", str(tiny_model), "--max-new-tokens", "8", XTUNE_HOME=str(home))
    terminal.until("you> ")
    yield terminal
    terminal.child.close(force=True)


def test_every_command(chat, tmp_path, home):
    assert "template smollm2" in "\n".join(chat.lines())
    assert "8 tokens" in chat.say("Hello")
    assert "/regenerate" in chat.say("/help")
    assert "max_new_tokens 8" in chat.say("/set")
    assert "did you mean temperature?" in chat.say("/set temprature 1")
    assert "temperature 0.5" in chat.say("/set temperature 0.5")
    assert "did you mean /reset?" in chat.say("/rest")
    assert "8 tokens" in chat.say(PASTE.format("pasted\nlines"))
    assert "8 tokens" in chat.say("//slash")
    assert "8 tokens" in chat.say("/reg\t")
    assert "is set" in chat.say("/system Be brief.")
    file = tmp_path / "talk.jsonl"
    assert "Saved" in chat.say(f"/save {file}").replace("\n", "")
    saved = json.loads(file.read_text())["messages"]
    assert [turn["content"] for turn in saved if turn["role"] != "assistant"] == [
        *("Be brief.", "Hello", "pasted\nlines", "/slash")
    ]
    assert "exists already" in chat.say(f"/save {file}")
    assert "Taken back: /slash" in chat.say("/undo")
    assert "forgotten" in chat.say("/reset")
    assert "Nothing was asked" in chat.say("/undo")
    assert chat.say("   ") == ""
    chat.child.send('"""\rin three\r')
    chat.until("...> ")
    assert "8 tokens" in chat.say('lines"""')
    chat.child.send("half a line")
    chat.until("half a line")  # one that comes while readline takes a key is only seen at the next
    chat.child.sendintr()
    assert "Ctrl-C again" in chat.until("you> ")
    chat.child.send("/quit\r")
    assert chat.ended() == 0
    history = home / "chat_history"
    assert "/set temperature 0.5" in history.read_text()
    assert stat.S_IMODE(history.stat().st_mode) == 0o600


def test_messages_of_several_lines():
    def typed(*lines: str) -> str:
        given = iter(lines)
        message = read_message(lambda _: next(given))
        assert next(given, None) is None
        return message

    assert typed("one") == "one"
    assert typed("one\\", "two\\", "three") == "one\ntwo\nthree"
    assert typed('"""', "one\\", "", "two", '"""') == "one\\\n\ntwo"
    assert typed('"""one', 'two"""') == "one\ntwo"
    assert typed('"""one"""') == "one"
    assert typed('""""""') == ""


DRAW = """
import sys, time
from rich.console import Console
from xtune.chat.partial import so_far, whole
from xtune.chat.show import Rendered
from xtune.templates.template import find_template

show, template = Rendered(Console()), find_template("qwen3")
text = open(sys.argv[1]).read()
for end in range(0, len(text), 7):
    show.answer(so_far(text[:end], template))
    time.sleep(0.001)
show.answer(whole(text, template))
show.end()
print("DONE")
"""
ANSWER = f"""<think>
First this.

{chr(10).join(f"thought {number}." for number in range(40))}
</think>

# Title

Some `vector<int>` and <b>html</b>,
a new line, **bold** and a [link](http://x.y).

{chr(10).join(f"{number}. item {number}." for number in range(1, 60))}

```python
{chr(10).join(f"x = {number};" for number in range(50))}
```

| a | b |
|---|---|
| 1 | 2 |

[name]: http://a.b

Last words."""


@pytest.mark.parametrize("columns", [80, 30])
def test_answers_taller_than_the_terminal_stand_there_once(tmp_path, columns):
    (tmp_path / "draw.py").write_text(DRAW)
    (tmp_path / "answer.md").write_text(ANSWER)
    terminal = Terminal(str(tmp_path / "draw.py"), str(tmp_path / "answer.md"), columns=columns)
    terminal.until("DONE")
    text = "\n".join(terminal.lines())
    once = [
        *(
            "First this.",
            "Title",
            "vector<int>",
            "<b>html",
            "bold",
            "http://x.y",
            "[name]: http://a.b",
            "Last words.",
        ),
        *(f"thought {number}." for number in range(40)),
        *(f" {number} item {number}." for number in range(1, 60)),
        *(f"x = {number};" for number in range(50)),
    ]
    places = [text.find(each) for each in once[8:]]
    assert [each for each in once if text.count(each) != 1] == []
    assert places == sorted(places)
    assert "\n\n\n\n" not in text


@pytest.mark.slow
def test_an_answer_streams_and_is_stopped():
    chat = Terminal("-m", "xtune", "chat", "smollm2", "--max-new-tokens", "2000")
    chat.until("you> ")
    chat.child.send("Write a long story about a dragon.\r")
    chat.until("dragon.\r\n")
    chat.child.expect(r"\w+ \w+ \w+ \w+\W+\w+ \w+ \w+")
    chat.stream.feed(chat.child.before + chat.child.after)
    chat.child.sendintr()
    chat.until("you> ")
    *_, last = [line for line in chat.lines() if line and not line.startswith("you>")]
    assert re.fullmatch(r"\d+ tokens, [\d.]+ tokens/s \(stopped\)", last)
    assert "capital of France is Paris" in chat.say("What is the capital of France?")
    chat.child.sendintr()
    chat.until("you> ")
    chat.child.sendintr()
    assert chat.ended() == 130


@pytest.mark.slow
def test_history_is_there_the_next_time(tiny_model, home):
    for typed, expected in (("first words", "first words"), ("\x1b[A", "first words")):
        chat = Terminal("-m", "xtune", "chat", str(tiny_model), "--max-new-tokens", "2", XTUNE_HOME=str(home))
        chat.until("you> ")
        chat.say(typed)
        assert f"you> {expected}" in chat.lines()
        chat.child.sendeof()
        assert chat.ended() == 0
    file = home / "chat_history"
    file.write_text("line\n" * 3 * HISTORY_LENGTH)
    chat = Terminal("-m", "xtune", "chat", str(tiny_model), XTUNE_HOME=str(home))
    chat.until("you> ")
    chat.child.send("/quit\r")
    assert chat.ended() == 0
    assert len(file.read_text().splitlines()) == HISTORY_LENGTH


@pytest.mark.slow
def test_a_dumb_terminal_gets_plain_text(tiny_model, home):
    chat = Terminal(
        *("-m", "xtune", "chat", str(tiny_model), "--max-new-tokens", "8"),
        TERM="dumb",
        XTUNE_HOME=str(home),
    )
    chat.until("you> ")
    chat.child.send("not remembered\r")
    assert "\x1b" not in chat.until("you> ")
    chat.child.sendeof()
    assert chat.ended() == 0
    assert "not remembered" not in (home / "chat_history").read_text()


@pytest.mark.slow
@pytest.mark.parametrize("columns", [120, 60])
def test_base_and_adapter_side_by_side(adapter, columns):
    chat = Terminal(
        *("-m", "xtune", "chat", str(adapter), "--compare", "--max-new-tokens", "12"), columns=columns
    )
    chat.until("you> ")
    said = chat.say("What is the capital of France?")
    paris = next(line for line in said.splitlines() if "Paris" in line)
    assert (len(paris.split("  ")) > 1) == (columns == 120)
    assert said.count("12 tokens") + said.count("tokens/s") >= 2
    chat.child.sendeof()
    assert chat.ended() == 0


ASK = """
from tests.chat.test_tools import CALL, HERMES, Scripted
from xtune.chat.answer import Chat
from xtune.chat.conversation import Conversation
from xtune.chat.tools import load_tools
from xtune.chat.turn import Session, take_turn
from xtune.families.tokenizer import load_tokenizer

tokenizer = load_tokenizer("smollm2")
call = CALL.format("python", '"code": "print(6 * 7)"')
model = Scripted(tokenizer, HERMES, [f"I compute.\\n{call}", "It is **done**."])
tools = load_tools("python", HERMES)
talk = Conversation(tools=tuple(tool.schema for tool in tools))
take_turn(Session([Chat(model, tokenizer, HERMES)], tools), [talk], "How much?")
print("DONE")
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("typed", "result"), [("y\r", "42"), ("\r", "does not allow"), ("\x04", "does not allow")]
)
def test_python_is_shown_and_asked_for(typed, result):
    terminal = Terminal("-c", ASK)
    terminal.until("Run python? [y/N] ")
    before = "\n".join(terminal.lines())
    assert "I compute." in before
    assert "print(6 * 7)" in before
    assert "tool_call" not in before
    terminal.child.send(typed)
    terminal.until("DONE")
    assert re.search(rf"{result}.*It is done\..*tokens/s", "\n".join(terminal.lines()), re.S)
