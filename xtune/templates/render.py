"""The one renderer: messages to text, with the spans that carry loss and those that are control tokens.

Training, chat and export all come through here, so a model never sees two formats. Three things happen that
a plain Jinja rendering does not do, all with invisible markers that are taken out again at the end:

    what people say    "hi <|im_end|> there"   ->  a marker inside breaks the token, so only the
                                                   template's own <|im_end|> are found afterwards
    {% generation %}   "Hello!<|im_end|>"      ->  a marker before and after gives the span with loss
    {{ cut }}          "\n" | "Hello!"         ->  a marker where the publisher's code encodes afresh
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import lru_cache
from typing import Any

import jinja2
from jinja2.ext import Extension, loopcontrols
from jinja2.sandbox import ImmutableSandboxedEnvironment

from xtune.errors import DataError, UsageError
from xtune.messages import Message
from xtune.templates.template import Template, find_template, with_variables
from xtune.templates.tool_calls import keywords

# Noncharacters: Unicode keeps these 32 for use inside a program, so no text has a reason to hold one.
_MARKERS = [chr(code) for code in range(0xFDD0, 0xFDF0)]


@dataclass(frozen=True)
class Rendered:
    """What the model reads.

    text           the whole conversation
    loss_spans     (start, end) character offsets of what the model must learn to write, in order
    control_spans  (start, end) of the control tokens that the template, not a person, wrote
    cuts           offsets at which the publisher's code starts to encode afresh (`{{ cut }}` in a template)
    """

    text: str
    loss_spans: list[tuple[int, int]]
    control_spans: list[tuple[int, int]]
    cuts: list[int] = field(default_factory=list)


def render(
    messages: Sequence[Message | Mapping[str, Any]],
    *,
    template: str | Template,
    tools: Sequence[Mapping[str, Any]] | None = None,
    add_generation_prompt: bool = False,
    **variables: Any,
) -> Rendered:
    """Messages (Message or OpenAI-style dicts) as the text a model reads, in the given chat format.

    `variables` reach the template by name, such as enable_thinking or date_string. Raises UsageError for an
    unknown or faulty template or a variable that it does not have, DataError where the format cannot express
    the conversation.
    """
    if isinstance(template, str):
        template = find_template(template)
    if variables:
        template = with_variables(template, variables)
    dicts = [_as_dict(message) for message in messages]
    if "<think>" in template.guarded_tokens:
        dicts = [_with_reasoning_apart(message) for message in dicts]
    written = json.dumps([dicts, list(tools or [])], ensure_ascii=False)
    breaker, start, end, cut = _unused_markers(written)
    if template.guarded_tokens and _pattern(template.guarded_tokens).search(written):
        defuse = _defuser(template.guarded_tokens, breaker)
        dicts, tools = defuse(dicts), defuse(list(tools or []))
    compiled = _compile(template.source)
    try:
        marked = compiled.render(
            messages=dicts,
            tools=list(tools) if tools else None,
            add_generation_prompt=add_generation_prompt,
            generation_markers=(start, end),
            cut=cut,
            **template.variables,
        )
    except jinja2.TemplateError as error:
        raise DataError(
            f"The chat template {template.name} cannot render this conversation: {error}",
            fix="Change the conversation, or set model.template.",
        ) from None
    text, loss_spans, breaks, cuts = _take_out(marked, breaker, start, end, cut)
    control_spans = _control_spans(text, template.guarded_tokens, breaks)
    answers = [message for message in dicts if message["role"] == "assistant"]
    unwanted = [not message.get("loss", True) for message in answers]
    if any(unwanted):
        if len(loss_spans) != len(answers):
            raise DataError(
                f"The chat template {template.name} cannot leave single turns without loss: it writes "
                f"{len(loss_spans)} generation blocks for {len(answers)} assistant turns.",
                fix="Remove `loss: false` from the data, or use another template.",
            )
        loss_spans = [span for span, skip in zip(loss_spans, unwanted, strict=True) if not skip]
    return Rendered(text, loss_spans, control_spans, cuts)


def _as_dict(message: Message | Mapping[str, Any]) -> dict[str, Any]:
    """A message as published templates expect it."""
    if not isinstance(message, Message):
        given = {key: value for key, value in message.items() if value is not None}
        if "tool_calls" in given:
            given["tool_calls"] = [_as_call(call) for call in given["tool_calls"]]
        return {"content": "", **given}
    fields: dict[str, Any] = {"role": message.role, "content": message.content}
    if message.reasoning is not None:
        fields["reasoning_content"] = message.reasoning
    if message.tool_calls:
        fields["tool_calls"] = [{"type": "function", "function": dict(call)} for call in message.tool_calls]
    if message.name is not None:
        fields["name"] = message.name
    if not message.loss:
        fields["loss"] = False
    return fields


def _as_call(call: Mapping[str, Any]) -> dict[str, Any]:
    """A call with its arguments as an object, which OpenAI's own form has as JSON text."""
    function = dict(call.get("function", call))
    if isinstance(function.get("arguments"), str):
        try:
            function["arguments"] = json.loads(function["arguments"] or "{}")
        except ValueError as error:
            raise DataError(
                f"The arguments of a call of {function.get('name')} are no JSON: {error}"
            ) from None
    return {"type": "function", "function": function}


def _with_reasoning_apart(message: dict[str, Any]) -> dict[str, Any]:
    """An answer that holds its own thinking, split as Qwen3's and DeepSeek-R1's published templates do it.

    Only where nothing would be lost: no words before the thinking, and one block of it.
    """
    head, closed, content = message["content"].partition("</think>")
    before, _, inside = head.rpartition("<think>")
    lossy = before.strip() or "<think>" in content or "</think>" in content
    if message["role"] != "assistant" or "reasoning_content" in message or not closed or lossy:
        return message
    return {**message, "reasoning_content": inside.strip("\n"), "content": content.lstrip("\n")}


def _unused_markers(written: str) -> list[str]:
    unused = [marker for marker in _MARKERS if marker not in written][:4]
    if len(unused) < 4:
        raise DataError(
            "The text holds nearly all 32 Unicode noncharacters U+FDD0 to U+FDEF.", fix="Remove them."
        )
    return unused


@lru_cache(maxsize=64)
def _pattern(tokens: tuple[str, ...]) -> re.Pattern[str]:
    return re.compile("|".join(re.escape(token) for token in sorted(tokens, key=len, reverse=True)))


def _defuser(control_tokens: tuple[str, ...], breaker: str) -> Callable[[Any], Any]:
    pattern = _pattern(control_tokens)

    def defuse(value: Any) -> Any:
        if isinstance(value, str):
            return pattern.sub(lambda match: match[0][0] + breaker + match[0][1:], value)
        if isinstance(value, Mapping):
            return {defuse(key): item if key == "role" else defuse(item) for key, item in value.items()}
        if isinstance(value, (list, tuple)):
            return [defuse(item) for item in value]
        return value

    return defuse


def _take_out(
    marked: str, breaker: str, start: str, end: str, cut: str
) -> tuple[str, list[tuple[int, int]], set[int], list[int]]:
    """Text without markers, spans between start and end, places where a token was broken, and cuts."""
    parts, spans, breaks, cuts, begin, length = [], [], set(), [], 0, 0
    for part in re.split(f"([{breaker}{start}{end}{cut}])", marked):
        if part == breaker:
            breaks.add(length)
        elif part == cut:
            cuts.append(length)
        elif part == start:
            begin = length
        elif part == end:
            spans.append((begin, length))
        else:
            parts.append(part)
            length += len(part)
    return "".join(parts), spans, breaks, cuts


def _control_spans(text: str, control_tokens: tuple[str, ...], breaks: set[int]) -> list[tuple[int, int]]:
    if not control_tokens:
        return []
    spans = (match.span() for match in _pattern(control_tokens).finditer(text))
    # `breaks` holds the offset just behind the first character of every token that a person typed
    return [span for span in spans if span[0] + 1 not in breaks]


class _Generation(Extension):
    """`{% generation %}…{% endgeneration %}`: puts the caller's two markers around what it renders to."""

    tags = {"generation"}  # noqa: RUF012 (jinja2's own way to declare it)

    def parse(self, parser):
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        markers = jinja2.nodes.Name("generation_markers", "load")
        call = self.call_method("_mark", [markers])
        return jinja2.nodes.CallBlock(call, [], [], body).set_lineno(line)

    @staticmethod
    def _mark(markers, caller) -> str:
        return markers[0] + caller() + markers[1]


@lru_cache(maxsize=64)
def _compile(source: str) -> jinja2.Template:
    """The environment of transformers' apply_chat_template: same sandbox, same white space, same filters."""
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, loopcontrols]
    )
    environment.filters["tojson"] = _tojson
    environment.globals["keywords"] = keywords
    environment.globals["raise_exception"] = _raise_exception
    environment.globals["strftime_now"] = lambda form: datetime.now().strftime(form)
    try:
        return environment.from_string(source)
    except jinja2.TemplateSyntaxError as error:
        raise UsageError(f"The chat template is not Jinja: {error.message} (line {error.lineno}).") from None


def _tojson(value, ensure_ascii=False, indent=None, separators=None, sort_keys=False) -> str:
    """Plain JSON: Jinja's own filter escapes HTML, which a model was never shown."""
    return json.dumps(
        value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys
    )


def _raise_exception(message: str):
    raise jinja2.TemplateError(message)
