"""Checkpoints in their publishers' layout against what the publishers' own code gave for them, in float32.

The fixtures are described in tests/fixtures/parity/README.md.
"""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import load_file

from tests.families.conftest import NAMES, PARITY, options_of
from xtune.families.layout import join_rows
from xtune.model.load import load_model


@pytest.fixture(scope="module", params=NAMES)
def pair(request):
    """A model, what is expected of it, and its name."""
    torch.set_num_threads(1)
    name = request.param
    model = load_model(PARITY / name / "checkpoint", dtype="float32", options=options_of(name))
    return model, load_file(PARITY / name / "expected.safetensors"), name


def cases(expected: dict, ending: str) -> list[str]:
    return sorted({key.split(".")[0] for key in expected if key.split(".")[1].startswith(ending)})


def test_logits(pair):
    """At once, padded, and past the trained length."""
    model, expected, name = pair
    assert {"short", "padded"} <= set(cases(expected, "logits"))
    for case in cases(expected, "logits"):
        ids, mask = expected[f"{case}.input_ids"], expected.get(f"{case}.attention_mask")
        inputs = {} if mask is None else {"attention_mask": mask}
        if mask is not None and name not in ("qwen_v1", "chatglm_6b"):  # as the publisher's code was called
            inputs["position_ids"] = (mask.cumsum(1) - 1).clamp(min=0)
        with torch.no_grad():
            logits = model(input_ids=ids, **inputs).logits
        (key,) = (key for key in expected if key.startswith(f"{case}.logits"))
        step = int(key.partition("stride")[2] or 1)
        difference = (logits[:, ::step] - expected[key]).abs()
        if mask is not None:
            difference = difference[mask[:, ::step] == 1]
        assert difference.max() < 1e-5, case


def test_greedy_answers_and_the_logits_behind_them(pair):
    """With a cache, also where the answer crosses the trained length."""
    model, expected, _ = pair
    for case in cases(expected, "output_ids"):
        ids, wanted = expected[f"{case}.input_ids"], expected[f"{case}.output_ids"]
        output = model.generate(
            input_ids=ids,
            attention_mask=expected.get(f"{case}.attention_mask", torch.ones_like(ids)),
            max_new_tokens=wanted.shape[1] - ids.shape[1],
            do_sample=False,
            eos_token_id=-1,
            pad_token_id=0,
            output_logits=True,
            return_dict_in_generate=True,
        )
        assert output.sequences.tolist() == wanted.tolist(), case
        if f"{case}.step_logits" in expected:
            steps = torch.stack(output.logits, dim=1)
            assert (steps - expected[f"{case}.step_logits"]).abs().max() < 1e-5, case


def test_loss_and_gradients_in_training(pair):
    model, expected, name = pair
    ids = expected["train.input_ids"]
    labels = expected.get("train.labels", ids)
    model.train().requires_grad_(True).zero_grad()
    try:
        loss = model(input_ids=ids, labels=labels).loss
        loss.backward()
    finally:
        model.eval()
    assert abs(loss.item() - expected["train.loss"].item()) < 1e-5
    attention = model.model.layers[0].self_attn
    if "train.grad_first_qkv" in expected:
        parts = tuple(layer.weight.grad for layer in (attention.q_proj, attention.k_proj, attention.v_proj))
        rows = "groups" if name in ("chatglm2", "chatglm_6b") or name.startswith("internlm2") else "blocks"
        gradient = join_rows(parts, rows, model.config)
        assert (gradient - expected["train.grad_first_qkv"]).abs().max() < 1e-6
    if "train.grad_first_q" in expected:
        assert (attention.q_proj.weight.grad - expected["train.grad_first_q"]).abs().max() < 1e-6
    if "train.grad_lm_head" in expected:
        assert (model.lm_head.weight.grad - expected["train.grad_lm_head"]).abs().max() < 1e-6
