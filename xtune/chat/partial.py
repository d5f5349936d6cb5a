"""An answer while it is written: what of it can be shown already, and what it is when it is whole."""

from __future__ import annotations

from dataclasses import replace

from xtune.chat.generate import begun
from xtune.templates.template import Template
from xtune.templates.tool_calls import ParsedAnswer, parse_tool_calls

_CALL_BEGINS = {
    "internlm2": ("<|action_start|>",),
    "hermes": ("<tool_call>",),
    "chatglm3": ("<|assistant|>",),
    "glm4": ("<|assistant|>",),
}
_OPEN, _CLOSE = "<think>", "</think>"


def shown(text: str, template: Template, tools: bool = False) -> str:
    """What of an answer, as far as it is written, is for people: without calls, and what may be one.

    Of a longer part of the same answer it is the same and more.
    """
    if template.tool_calls in ("chatglm3", "glm4"):
        if tools and (not text or not text[0].isspace()):  # the first line may be the name of a tool
            return ""
        text = text.lstrip()  # GLM begins with a line break, which is no part of its answer
    if not tools:
        return text
    if template.tool_calls == "llama3_1" and text.lstrip()[:1] in ("", "{", "<"):
        return ""
    if template.tool_calls == "react":
        return "" if "\nFinal Answer:" not in text else text.partition("\nFinal Answer:")[2].lstrip()
    marks = _CALL_BEGINS.get(template.tool_calls, ())
    places = [place for mark in marks if (place := text.find(mark)) >= 0]
    return text[: min(places)].rstrip() if places else text[: len(text) - begun(text, marks)].rstrip()


def whole(text: str, answer: ParsedAnswer, template: Template, tools: bool = False) -> str:
    """What `shown` comes to when the answer is whole, and read."""
    if not tools:
        return shown(text, template)
    if template.tool_calls not in ("hermes", "internlm2"):
        return answer.content
    return shown(text, template, tools) if answer.calls else text


def thinking_apart(text: str, template: Template) -> tuple[str, str]:
    """(thinking, answer) of what is shown, where the format has thinking; it may not be closed yet."""
    if "<think>" not in template.guarded_tokens or not text.startswith(_OPEN[: len(text)]):
        return "", text
    if len(text) < len(_OPEN):
        return "", ""
    inside, _, rest = text.removeprefix(_OPEN).partition(_CLOSE)
    return inside.strip("\n"), rest.lstrip("\n")


def read_answer(text: str, template: Template, tools: bool = False) -> ParsedAnswer:
    """A whole answer in its parts. Raises DataError for a call that cannot be read."""
    if "<think>" in template.guarded_tokens and text.startswith(_OPEN) and _CLOSE not in text:
        return ParsedAnswer("", thinking_apart(text, template)[0])  # cut short
    if tools:
        return parse_tool_calls(text, template)
    return parse_tool_calls(shown(text, template), replace(template, tool_calls=None))
