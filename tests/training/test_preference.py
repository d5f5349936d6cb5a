"""Preference objectives: the losses and rewards of TRL on the same batch, the same however a step is laid out, and
models that come to prefer what they are shown."""

from __future__ import annotations

import json
import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from xtune.data.batches.plan import SamplePlan
from xtune.data.dataset import load_dataset
from xtune.errors import UsageError
from xtune.model.attention import use_packed_attention
from xtune.model.load import load_model
from xtune.recipe.objective_schema import Dpo
from xtune.recipe.schema import Data, Recipe
from xtune.templates.template import find_template
from xtune.training.layout import Layout
from xtune.training.preference import Preference
from xtune.training.reference import MeasureReference, Reference
from xtune.training.train import resume, train

QUESTIONS = [
    "Name a color.",
    "Say hello to me, please.",
    "2 + 2?",
    "Which city is it?",
    "Why?",
    "What is next?",
]
LOSSES = ["sigmoid", "hinge", "ipo", "robust", "sppo", "nca", "exo", "bco", "apo_zero", "apo_down"]
IN_TRL = {"sppo": "sppo_hard", "nca": "nca_pair", "exo": "exo_pair", "bco": "bco_pair"}


@pytest.fixture
def pairs(tmp_path):
    """Pairs in which the better answer is the one that says blue."""
    file = tmp_path / "pairs.jsonl"
    rows = [
        {"prompt": question, "chosen": f"It is blue{' and more' * n}.", "rejected": f"No{' red' * (4 - n)}!"}
        for n, question in enumerate(QUESTIONS[:4])
    ]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(file)


@pytest.fixture
def labelled(tmp_path):
    file = tmp_path / "labelled.jsonl"
    rows = [
        {"prompt": question, "completion": answer, "label": answer == "It is blue."}
        for question in QUESTIONS
        for answer in ("It is blue.", "No red!")
    ]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(file)


def recipe(base, file, objective, method="lora", **train) -> Recipe:
    return Recipe.model_validate(
        {
            "model": {"path": str(base), "dtype": "float32", "template": "smollm2"},
            "method": {"kind": method},
            "data": {"sources": [{"path": file}], "packing": train.pop("packing", True), "max_length": 128},
            "train": {"objective": objective, "steps": 4, "batch_size": 4, "lr": 1e-2, **train},
        }
    )


def models(tiny_model) -> tuple[torch.nn.Module, torch.nn.Module]:
    """A model, and what it was before it was trained."""
    before, after = (load_model(tiny_model, dtype="float32") for _ in range(2))
    torch.manual_seed(1)
    with torch.no_grad():
        for weight in after.parameters():
            weight += 0.02 * torch.randn_like(weight)
    return after, before


def with_reference(objective, texts, model, layout) -> None:
    dataset = objective.dataset
    plan = SamplePlan(dataset.lengths, draw=None, total=1, batch_size=2, micro_batch_size=2)
    measure = MeasureReference(objective.reference, texts, layout, range(len(dataset)), plan, base=False)
    state = SimpleNamespace(global_step=0, is_world_process_zero=True)
    measure.on_train_begin(SimpleNamespace(process_index=0, world_size=1), state, None, model=model)


@pytest.mark.parametrize("packing", [True, False])
def test_dpo_is_trls(pairs, tiny_model, tokenizer, tmp_path, packing):
    from datasets import Dataset as Table
    from trl import DPOConfig, DPOTrainer

    data = Data(sources=[{"path": pairs}])
    dataset = load_dataset(data, tokenizer, find_template("smollm2"), "dpo")
    policy, before = models(tiny_model)
    rows = []
    for sample in range(len(dataset)):
        chosen, rejected = dataset.texts(sample)
        start = int(chosen.loss_mask.argmax())
        assert np.array_equal(chosen.input_ids[:start], rejected.input_ids[:start])
        end = [int(np.flatnonzero(text.loss_mask)[-1]) + 1 for text in (chosen, rejected)]
        rows.append(
            {
                "prompt_ids": chosen.input_ids[:start].tolist(),
                "chosen_ids": chosen.input_ids[start : end[0]].tolist(),
                "rejected_ids": rejected.input_ids[start : end[1]].tolist(),
            }
        )
    layout = Layout(packing, tokenizer.pad_token_id)
    samples = list(range(len(dataset)))
    if packing:
        use_packed_attention(policy)
    ours = {}
    for loss in LOSSES:
        smoothing = 0.1 if loss in ("robust", "exo") else 0.0
        options = Dpo(kind="dpo", loss=loss, beta=0.3, label_smoothing=smoothing)
        objective = Preference(options, dataset, Reference(tmp_path / "reference.npz", len(dataset)))
        with_reference(objective, objective.texts, before, Layout(False, tokenizer.pad_token_id))
        texts = [text for sample in samples for text in objective.texts(sample)]
        with torch.no_grad():
            ours[loss] = objective.loss(policy, {**layout.collate(texts), "samples": samples})
    policy.set_attn_implementation("sdpa")
    arguments = DPOConfig(
        output_dir=str(tmp_path), beta=0.3, label_smoothing=0.1, report_to=[], use_cpu=True, bf16=False
    )
    table = Table.from_list(
        [{"prompt": "a", "chosen": "b", "rejected": "c"}]
    )  # it wants one; the batch is ours
    trls = DPOTrainer(policy, before, arguments, train_dataset=table, processing_class=tokenizer)
    policy.eval()
    inputs = trls.data_collator(rows)
    for loss, result in ours.items():
        trls.loss_types, trls.loss_weights = [IN_TRL.get(loss, loss)], [1.0]
        trls._metrics["eval"].clear()
        expected = trls._compute_loss(policy, inputs, False)
        assert float(result.total) / len(samples) == pytest.approx(float(expected), rel=1e-5, abs=1e-5), loss
        for name, key in (("chosen", "chosen"), ("rejected", "rejected"), ("margin", "margins")):
            total, count = result.figures[f"rewards/{name}"]
            (value,) = trls._metrics["eval"][f"rewards/{key}"]
            assert float(total) / count == pytest.approx(value, rel=1e-5, abs=1e-5)


@pytest.mark.parametrize("method", [pytest.param("full", marks=pytest.mark.slow), "lora"])
@pytest.mark.parametrize("objective", ["dpo", "orpo", "simpo", "cpo"])
def test_what_is_chosen_becomes_likelier(pairs, tiny_model, tmp_path, objective, method):
    lr = 1e-3 if method == "full" else 1e-2
    run = train(recipe(tiny_model, pairs, objective, method, lr=lr), run_dir=tmp_path / "run")
    first, *_, last = run.metrics()
    assert last["loss"] < first["loss"]
    assert last["rewards/margin"] > first["rewards/margin"]
    assert (run.path / "reference.npz").is_file() == (objective == "dpo")
    if objective == "dpo":
        assert first["rewards/margin"] == pytest.approx(0, abs=1e-5)  # the model is its own reference
        assert first["loss"] == pytest.approx(np.log(2), abs=1e-5)


def test_kto_parts_good_from_bad(labelled, tiny_model, tmp_path):
    options = {"kind": "kto", "beta": 0.5}
    run = train(recipe(tiny_model, labelled, options, batch_size=12), run_dir=tmp_path / "run")
    first, *_, last = run.metrics()
    assert first["loss"] == pytest.approx(0.5, abs=1e-4)  # no ratio differs from 1
    assert last["loss"] < first["loss"] - 0.05
    assert last["rewards/good"] > last["rewards/bad"]
    assert last["kl"] >= 0


@pytest.mark.parametrize("kind", ["dpo", pytest.param("kto", marks=pytest.mark.slow)])
def test_how_a_step_is_split_changes_nothing(pairs, labelled, tiny_model, tmp_path, kind):
    file = pairs if kind == "dpo" else labelled
    results = []
    for number, (packing, micro) in enumerate([(True, 4), (True, 1), (False, 2)]):
        options = {"micro_batch_size": micro, "packing": packing, "steps": 3, "lr": 1e-3}
        run = train(recipe(tiny_model, file, kind, **options), run_dir=tmp_path / str(number))
        results.append([line["loss"] for line in run.metrics()])
    assert results[1] == pytest.approx(results[0], abs=2e-5)
    assert results[2] == pytest.approx(results[0], abs=2e-5)


def test_a_stopped_run_goes_on_beside_the_same_reference(pairs, tiny_model, tmp_path):
    whole = train(recipe(tiny_model, pairs, "dpo", checkpoint_every=2), run_dir=tmp_path / "whole")
    stopped = train(
        recipe(tiny_model, pairs, "dpo", steps=4, checkpoint_every=2), run_dir=tmp_path / "stopped"
    )
    for path in (stopped.checkpoints / "checkpoint-4", stopped.result):
        for file in path.iterdir():
            file.unlink()
        path.rmdir()
    again = resume(stopped.path)
    assert again.metrics()[-1]["loss"] == whole.metrics()[-1]["loss"]
    one, other = (load_file(run.result / "adapter_model.safetensors") for run in (whole, again))
    assert all(torch.equal(one[name], other[name]) for name in one)


def reference_of(run) -> dict[int, list[float]]:
    with np.load(run.path / "reference.npz") as kept:
        return dict(zip(kept["keys"].tolist(), kept["values"].tolist(), strict=True))


@pytest.mark.parametrize("kind", ["dpo", pytest.param("kto", marks=pytest.mark.slow)])
def test_more_steps_and_other_data_are_measured_by_the_same_model(
    pairs, labelled, tiny_model, tmp_path, kind
):
    file = pairs if kind == "dpo" else labelled
    whole = train(recipe(tiny_model, file, kind, batch_size=2, steps=2), run_dir=tmp_path / "whole")
    short = train(recipe(tiny_model, file, kind, batch_size=2, steps=1), run_dir=tmp_path / "short")
    assert len(reference_of(short)) < len(reference_of(whole))
    resume(short.path, {"train.steps": 2})
    one, other = reference_of(whole), reference_of(short)
    assert one.keys() == other.keys()
    assert all(other[key] == pytest.approx(one[key], abs=1e-4) for key in one)
    assert not any(math.isnan(line["loss"]) for line in short.metrics())
    # samples have other numbers without the first row
    with open(file) as lines:
        rest = lines.readlines()[1:]
    with open(file, "w") as lines:
        lines.writelines(rest)
    more = resume(short.path, {"train.steps": 4, "data.sources.0.path": str(file)})
    known = reference_of(more)
    assert all(known[key] == pytest.approx(one[key], abs=1e-4) for key in known.keys() & one.keys())


def test_what_a_fully_trained_model_cannot_be_measured_by_any_more_is_refused(pairs, tiny_model, tmp_path):
    options = {"batch_size": 2, "steps": 1, "lr": 1e-3}
    run = train(recipe(tiny_model, pairs, "dpo", "full", **options), run_dir=tmp_path / "run")
    with pytest.raises(UsageError, match="2 samples were not in the run before"):
        resume(run.path, {"train.steps": 2})


def test_a_pair_is_whole_or_left_out(tmp_path, tokenizer):
    file = tmp_path / "pairs.jsonl"
    rows = [
        {"prompt": "a", "chosen": "b", "rejected": "c " * 100},
        {"prompt": "d", "chosen": "e", "rejected": "f"},
        {"prompt": "d", "chosen": "e", "rejected": "f"},
    ]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    data = Data(sources=[{"path": str(file)}], max_length=64, defects={"duplicate": "drop"})
    dataset = load_dataset(data, tokenizer, find_template("smollm2"), "dpo")
    assert len(dataset) == 1
    chosen, rejected = (tokenizer.decode(text.input_ids[text.loss_mask]) for text in dataset.texts(0))
    assert (chosen, rejected) == ("e<|im_end|>", "f<|im_end|>")
    assert sorted(tally["count"] for tally in dataset.report["rejections"].values()) == [1, 1]
    assert dataset.lengths.tolist() == [sum(map(len, dataset.texts(0)))]
