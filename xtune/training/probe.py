"""The same questions before and after: what training changed, in the model's own words."""

from __future__ import annotations

from typing import TYPE_CHECKING

from xtune.chat.generate import generate
from xtune.messages import Message
from xtune.recipe.schema import Probe
from xtune.templates.template import Template

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerFast


def answer_probes(
    probe: Probe, model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, template: Template
) -> list[str]:
    """The greedy answer to each prompt."""
    model.eval()
    system = [Message("system", probe.system)] if probe.system else []
    return [
        "".join(
            generate(
                model,
                tokenizer,
                template,
                [*system, Message("user", prompt)],
                max_new_tokens=probe.max_new_tokens,
            )
        ).strip()
        for prompt in probe.prompts
    ]
