"""The same questions before and after: what training changed, in the model's own words."""

from __future__ import annotations

from queue import Queue
from typing import TYPE_CHECKING

from xtune.chat.generate import room_for_answer, stop_ids
from xtune.data.encoding.encode import encode
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
    """The greedy answer to each prompt, all of them written together."""
    from xtune.serve.engine import ROWS, Engine, Job
    from xtune.serve.sampling import Sampling

    model.eval()
    if not probe.prompts:
        return []
    system = [Message("system", probe.system)] if probe.system else []
    stops = frozenset(stop_ids(tokenizer, template))
    adapter = model.active_adapter if hasattr(model, "peft_config") else None
    ended: Queue[str | Exception] = Queue()
    jobs = []
    for question in probe.prompts:
        messages = [*system, Message("user", question)]
        prompt = encode(
            messages, tokenizer=tokenizer, template=template, add_generation_prompt=True
        ).input_ids
        most = min(probe.max_new_tokens, room_for_answer(model, len(prompt)))
        jobs.append(
            Job(prompt, Sampling(most, temperature=0), stops, lambda _: False, ended.put, adapter=adapter)
        )
    engine = Engine(model)
    try:
        for start in range(0, len(jobs), ROWS):
            together = jobs[start : start + ROWS]
            engine.submit(*together)
            for _ in together:
                if isinstance(end := ended.get(), Exception):
                    raise end
    finally:
        engine.stop()
    texts = [
        tokenizer.decode([token for token in job.tokens if token not in stops], skip_special_tokens=True)
        for job in jobs
    ]
    return [text.rstrip("\ufffd").strip() for text in texts]


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
