"""Where a checkpoint's own chat template writes something else than one of ours."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from xtune.errors import UserError
from xtune.messages import Message
from xtune.templates.render import render
from xtune.templates.template import Template

_SYSTEM = Message("system", "You are brief.")
_QUESTION, _ANSWER = Message("user", "Hello!"), Message("assistant", "Hi.")
_CHINESE = (Message("user", " 你好\n"), Message("assistant", "\n你好！\n\n- 一\n- 二 "))
_PROBES: dict[str, tuple[Message, ...]] = {
    "a question": (_QUESTION,),
    "a system message and a question": (_SYSTEM, _QUESTION),
    "one turn": (_QUESTION, _ANSWER),
    "a system message and one turn": (_SYSTEM, _QUESTION, _ANSWER),
    "two turns, Chinese, white space around": (_QUESTION, _ANSWER, *_CHINESE),
    "a system message, two turns and a question": (_SYSTEM, _QUESTION, _ANSWER, *_CHINESE, _QUESTION),
}


@dataclass(frozen=True)
class Difference:
    """A dialogue that two templates write differently; where one refuses it, its text is the reason."""

    dialogue: str
    own_text: str
    our_text: str

    def __str__(self) -> str:
        """Both texts from shortly before where they part."""
        pairs = enumerate(zip(self.own_text, self.our_text, strict=False))
        parting = next((i for i, (a, b) in pairs if a != b), min(len(self.own_text), len(self.our_text)))
        start = max(0, parting - 20)
        own, ours = (
            ("…" if start else "")
            + repr(text[start : start + 60])[1:-1]
            + ("…" if text[start + 60 :] else "")
            for text in (self.own_text, self.our_text)
        )
        return f"{self.dialogue}\n  its own: {own}\n  ours:    {ours}"


def differences(own: Template, ours: Template) -> list[Difference]:
    """The probe dialogues that the two write differently; not those that only the own template refuses, as
    Mistral's first one does system messages, unless it works for nothing."""
    works = not _text(_PROBES["one turn"], own, False)[1]
    found = []
    for name, messages in _PROBES.items():
        prompt = messages[-1].role == "user"  # what the model sees before it answers
        own_text, own_refuses = _text(messages, own, prompt)
        our_text, _ = _text(messages, ours, prompt)
        if own_text != our_text and not (own_refuses and works):
            found.append(Difference(name, own_text, our_text))
    return found


def _text(messages: Sequence[Message], template: Template, prompt: bool) -> tuple[str, bool]:
    """What the template writes, or why it does not, and whether that is so."""
    try:
        return render(messages, template=template, add_generation_prompt=prompt).text, False
    except UserError as error:
        return f"({error.what})", True
