"""Conversations whose format shows earlier turns otherwise than they were written: one sample for each turn.

Qwen3 leaves out the thinking of earlier turns, even an empty one; ChatGLM reads all but the last answer from both
sides. A turn that was trained in the middle would be another text than the model writes, so each is trained as the
last:

    user 1, answer 1, user 2, answer 2   ->   user 1, *answer 1*
                                              user 1, answer 1, user 2, *answer 2*      (* with loss)
"""

from __future__ import annotations

from dataclasses import replace

from xtune.messages import Message, Sample
from xtune.templates.template import Template


def split_turns(sample: Sample, template: Template) -> list[Sample]:
    """The sample, or as many samples as it has turns with loss, where the template asks for it."""
    ends = _turn_ends(sample.messages)
    if not template.one_turn or len(ends) < 2:
        return [sample]
    parts = []
    for start, end in zip([0, *ends], ends, strict=False):
        before = tuple(replace(message, loss=False) for message in sample.messages[:start])
        turn = sample.messages[start:end]
        if any(message.role == "assistant" and message.loss for message in turn):
            parts.append(replace(sample, messages=(*before, *turn)))
    return parts


def _turn_ends(messages: tuple[Message, ...]) -> list[int]:
    """Where each turn ends that begins with what the user says; tool calls and results stay within it."""
    starts = [index for index, message in enumerate(messages) if message.role == "user"]
    return [*starts[1:], len(messages)]
