"""An answer while it is written: what of it is certain already, and what it is when it is whole."""

from __future__ import annotations

import re
from dataclasses import replace

from xtune.chat.generate import begun
from xtune.templates.template import Template
from xtune.templates.tool_calls import ParsedAnswer, parse_tool_calls

_CALL_BEGINS = {
    "internlm2": r"<\|action_start\|>",
    "hermes": r"<tool_call>",
    "chatglm3": r"<\|assistant\|>|\A[^\S\n]*\S",  # an answer begins with an empty line, a call with a name
    "glm4": r"<\|assistant\|>|\A[^\S\n]*\S",
    "llama3_1": r"\A\s*(?:\{|<\|python_tag\|>)",
}
"""Where a call may begin, by Template.tool_calls: from there on nothing is certain before the end."""
_OPEN, _CLOSE = "<think>", "</think>"


def so_far(text: str, template: Template, tools: bool = False) -> ParsedAnswer:
    """What is certain of an answer, as far as it is written: of a longer part of it that is the same and more.

    tools   whether the model was shown any; then `text` has its control tokens
    """
    if _thinks(template) and _OPEN.startswith(text):
        return ParsedAnswer("")
    reasoning, content = _thinking_apart(text, template)
    if tools and template.tool_calls:
        return ParsedAnswer(_before_a_call(content, template).strip(), reasoning)
    return ParsedAnswer(_words(content, template), reasoning)


def whole(text: str, template: Template, tools: bool = False) -> ParsedAnswer:
    """A whole answer in its parts. Raises DataError for a call that cannot be read."""
    cut_short = _thinks(template) and text.startswith(_OPEN) and _CLOSE not in text
    if not tools or not template.tool_calls or cut_short:
        return as_words(text, template)
    parsed = parse_tool_calls(text, template)
    return replace(parsed, content=parsed.content.strip())


def as_words(text: str, template: Template) -> ParsedAnswer:
    """A whole answer in which no calls are looked for."""
    reasoning, content = _thinking_apart(text, template, ended=True)
    return ParsedAnswer(_words(content, template), reasoning)


def _thinks(template: Template) -> bool:
    return _OPEN in template.guarded_tokens


def _thinking_apart(text: str, template: Template, ended: bool = False) -> tuple[str | None, str]:
    """Thinking before the answer, and the answer."""
    if not _thinks(template) or not text.startswith(_OPEN):
        return None, text
    inside, closed, content = text.removeprefix(_OPEN).partition(_CLOSE)
    if not closed and not ended:
        inside = inside[: len(inside) - begun(inside, [_CLOSE])]
    return inside.strip("\n") or None, content.lstrip("\n")


def _before_a_call(content: str, template: Template) -> str:
    """What comes before anything that may be a call."""
    if template.tool_calls == "react":
        if content[:1] not in ("", " ") and not content.startswith("Thought:"[: len(content)]):
            return content  # the model keeps to no form
        thought, ended, answer = content.partition("\nFinal Answer:")
        return answer if ended and "\nAction:" not in thought else ""
    call = re.search(_CALL_BEGINS[template.tool_calls], content)
    # control tokens may come in pieces
    return content[
        : call.start() if call else len(content) - begun(content, ("<tool_call>", *template.guarded_tokens))
    ]


def _words(content: str, template: Template) -> str:
    """Without white space before it that may be the format's own: GLM begins an answer with a line break."""
    return content.lstrip() if template.tool_calls else content
