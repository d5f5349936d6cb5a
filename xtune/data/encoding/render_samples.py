"""Any kind of sample as the texts that a model reads."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import accumulate
from typing import TYPE_CHECKING

from xtune.data.encoding.turns import split_turns
from xtune.messages import AnySample, Document, Labelled, Message, Pair, Prompt
from xtune.templates.render import Rendered, render
from xtune.templates.template import Template

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast


def renderings(sample: AnySample, template: Template, ends: tuple[str, str]) -> list[Rendered]:
    """The texts of a sample.

        Sample     the conversation; or one for each turn, where the template shows earlier turns otherwise
        Pair       with the chosen answer, and with the rejected one; loss on the answer only
        Labelled   the conversation, with loss on its last answer
        Prompt     the conversation up to where the model goes on; no loss
        Document   its text between `ends`, all of it learnt

    ends    tokens before and after a document, "" for none (document_ends)

    Raises DataError where the template cannot express the sample.
    """
    if isinstance(sample, Document):
        return [_document(sample.text, ends)]
    if isinstance(sample, Pair):
        prompt = _without_loss(sample.prompt)
        return [
            render((*prompt, *answer), template=template, tools=sample.tools)
            for answer in (sample.chosen, sample.rejected)
        ]
    if isinstance(sample, Labelled):
        last = max(index for index, turn in enumerate(sample.messages) if turn.role == "user")
        messages = (*_without_loss(sample.messages[:last]), *sample.messages[last:])
        return [render(messages, template=template, tools=sample.tools)]
    if isinstance(sample, Prompt):
        return [render(sample.messages, template=template, tools=sample.tools, add_generation_prompt=True)]
    return [
        render(part.messages, template=template, tools=part.tools) for part in split_turns(sample, template)
    ]


def document_ends(tokenizer: PreTrainedTokenizerFast) -> tuple[str, str]:
    """The tokens around a document: what the tokenizer itself puts in front, and its end token."""
    first = tokenizer("")["input_ids"]
    begins = first and first[0] == tokenizer.bos_token_id
    return (tokenizer.bos_token if begins else ""), tokenizer.eos_token or ""


def _without_loss(messages: Sequence[Message]) -> tuple[Message, ...]:
    return tuple(replace(turn, loss=False) if turn.role == "assistant" else turn for turn in messages)


def _document(text: str, ends: tuple[str, str]) -> Rendered:
    begin, end = ends
    first, second, third = accumulate(map(len, (begin, text, end)))
    controls = [span for span in ((0, first), (second, third)) if span[0] < span[1]]
    return Rendered(begin + text + end, [(first, third)], controls)
