"""A chat format in the template language of Go, as Ollama's Modelfile wants it.

It is found out from what the renderer writes, for any Jinja: where the text between two messages depends on nothing
but who spoke before and who speaks, those texts are all that there is to a format, and Go can write them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from xtune.errors import DataError
from xtune.messages import Message
from xtune.templates.render import render
from xtune.templates.template import Template

_ROLES = {"s": "system", "u": "user", "a": "assistant"}
_DIALOGUES = ("u", "su", "uau", "suau", "uauau", "suauau", "uauauau", "uasu")


@dataclass(frozen=True)
class Frame:
    """A chat format as the texts around what is said.

    before   for each role that the format has, by who spoke before ("" for nobody): the text in between
    after    what follows the last question, where the answer begins
    """

    before: Mapping[str, Mapping[str, str]]
    after: str


def find_frame(template: Template) -> Frame | None:
    """The frame of a format; None where there is more to it, such as numbered rounds."""
    before: dict[str, dict[str, str]] = {}
    ends = set()
    for dialogue in _DIALOGUES:
        messages = [Message(_ROLES[role], f"What{place}Is{place}Said") for place, role in enumerate(dialogue)]
        try:
            text = render(messages, template=template, add_generation_prompt=True).text
        except DataError:  # the format has no system message, or one turn only
            continue
        last = ""
        for message in messages:
            between, found, text = text.partition(message.content)
            if not found or before.setdefault(message.role, {}).setdefault(last, between) != between:
                return None
            last = message.role
        ends.add(text)
    return Frame(before, ends.pop()) if "user" in before and len(ends) == 1 else None


def write_go(frame: Frame, *, without: str = "") -> str:
    """The frame in Go's template language, with Ollama's variables. A turn that the format has not at its place (a
    second question, where there is but one) is written as a first one.

    without   the token that begins a text, if the program that reads it puts that there itself
    """
    roles = []
    for role, before in frame.before.items():
        texts = {last: text if last else text.removeprefix(without) for last, text in before.items()}
        usual = texts.get("assistant", texts.get("", next(iter(texts.values()))))
        others = {f'eq $last "{last}"': _text(text) for last, text in texts.items() if text != usual}
        roles.append((f'eq .Role "{role}"', _choice(others, _text(usual)) + "{{ .Content }}"))
    return (
        '{{ $last := "" }}{{ range .Messages }}'
        + _choice(dict(roles))
        + "{{ $last = .Role }}{{ end }}"
        + _choice({'eq $last "user"': _text(frame.after)} if frame.after else {})
    )


def _choice(cases: Mapping[str, str], otherwise: str = "") -> str:
    """By condition, what to write."""
    if not cases:
        return otherwise
    written = " else ".join(f"if {condition} }}}}{text}{{{{" for condition, text in cases.items())
    return "{{ " + written + (f" else }}}}{otherwise}{{{{" if otherwise else "") + " end }}"


def _text(text: str) -> str:
    """Text as it is, in which nothing is taken for Go's."""
    return text.replace("{{", '{{ "{{" }}')
