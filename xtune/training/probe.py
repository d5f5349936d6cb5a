"""The same questions before and after: what training changed, in the model's own words."""

from __future__ import annotations

from typing import TYPE_CHECKING

from xtune.chat.generate import generate
from xtune.messages import Message
from xtune.ranks import rank
from xtune.recipe.schema import Probe
from xtune.run.directory import Run
from xtune.templates.template import Template

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerFast

FILE = "probe.json"


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


def probe_before(
    probe: Probe, run: Run, model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, template: Template
) -> list[str]:
    """The untrained answers, written into the run; a resumed one has them already."""
    rows = run.read_json(FILE) or []
    if [row["prompt"] for row in rows] == probe.prompts:
        return [row["before"] for row in rows]
    if rank() > 0:
        return []
    before = answer_probes(probe, model, tokenizer, template)
    run.write_json(FILE, probe_rows(probe, before, [None] * len(before)))
    return before


def probe_rows(probe: Probe, before: list[str], after: list) -> list[dict]:
    """What probe.json holds."""
    rows = zip(probe.prompts, before, after, strict=True)
    return [{"prompt": prompt, "before": old, "after": new} for prompt, old, new in rows]
