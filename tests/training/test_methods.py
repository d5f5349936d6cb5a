"""Every way to train an adapter: what is saved says the same beside the original base; optimizers and schedules."""

from __future__ import annotations

import itertools
import json
import shutil

import pytest
import torch
from safetensors.torch import load_file
from transformers import TrainingArguments

from tests.conftest import QUICKSTART
from xtune.errors import ResourceError, UsageError
from xtune.families.tokenizer import load_tokenizer
from xtune.model.adapters import attach_adapter, load_adapter, save_adapter
from xtune.model.load import load_model
from xtune.recipe.schema import Lora, Qlora, Recipe
from xtune.run.directory import Run
from xtune.training.optimizers import OPTIM, loraplus_optimizer
from xtune.training.start import trainable_model
from xtune.training.train import prepare, resume, train

TOKENS = torch.arange(100, 148)[None]


def recipe(path, method=None, **options) -> Recipe:
    return Recipe.model_validate(
        {
            "model": {"path": str(path), "dtype": "float32", "template": "smollm2"},
            "method": {"kind": "lora", **(method or {})},
            "data": {"sources": [{"path": str(QUICKSTART / "identity.jsonl"), "limit": 16}]},
            "train": {"steps": 4, "batch_size": 4, "lr": 1e-3, **options},
        }
    )


def adapter_of(run: Run) -> dict[str, torch.Tensor]:
    return load_file(run.result / "adapter_model.safetensors")


def logits(model) -> torch.Tensor:
    with torch.inference_mode():
        return model(input_ids=TOKENS).logits


def trained_and_reloaded(base, method, bits, directory) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Logits of the base, of an adapter after two steps, and of the same read from disk beside the base."""
    model = load_model(base, dtype="float32", bits=bits)
    plain = logits(model)
    model = attach_adapter(model, method)
    trainable = [weight for weight in model.parameters() if weight.requires_grad]
    optimizer = torch.optim.AdamW(trainable, lr=1e-2)
    for _ in range(2):
        model(input_ids=TOKENS, labels=TOKENS).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    save_adapter(model, directory)
    after = logits(model)
    again = load_adapter(load_model(base, dtype="float32", bits=bits), directory)
    return plain, after, logits(again)


@pytest.mark.parametrize(
    ("init", "dora", "rslora"),
    [*itertools.product(["default", "gaussian", "pissa", "olora"], [False, True], [False, True])],
)
def test_a_saved_adapter_says_the_same_beside_the_original_base(tiny_model, tmp_path, init, dora, rslora):
    method = Lora(kind="lora", rank=8, alpha=16, init=init, dora=dora, rslora=rslora)
    plain, after, again = trained_and_reloaded(tiny_model, method, None, tmp_path)
    torch.testing.assert_close(again, after, atol=1e-4, rtol=0)
    assert (after - plain).abs().max() > 0.01
    saved = json.loads((tmp_path / "adapter_config.json").read_text())
    assert saved["init_lora_weights"] in (True, "gaussian")  # PEFT anywhere leaves the base as it is


@pytest.mark.parametrize(
    ("bits", "dora", "rslora"), [(4, False, False), (4, True, True), (8, False, False), (8, False, True)]
)
def test_the_same_beside_quantised_weights(tiny_model, tmp_path, bits, dora, rslora):
    method = Qlora(kind="qlora", rank=8, alpha=16, bits=bits, dora=dora, rslora=rslora)
    plain, after, again = trained_and_reloaded(tiny_model, method, bits, tmp_path)
    torch.testing.assert_close(again, after, atol=1e-4, rtol=0)
    assert (after - plain).abs().max() > 0.01


@pytest.mark.parametrize("rslora", [False, True])
def test_loftq_makes_good_what_quantisation_loses(tiny_model, tmp_path, rslora):
    method = Qlora(kind="qlora", rank=24, alpha=16, init="loftq", rslora=rslora)
    base = load_model(tiny_model, dtype="float32")
    plain = logits(base)
    model = load_model(tiny_model, dtype="float32", bits=4)
    lost = (logits(model) - plain).norm()
    model = attach_adapter(model, method, whole=base)
    assert (logits(model) - plain).norm() < 0.6 * lost
    # What was not trained changes nothing; what was is beside the original base nearly what it was in training.
    save_adapter(model, tmp_path / "untrained")
    beside = load_adapter(load_model(tiny_model, dtype="float32"), tmp_path / "untrained")
    torch.testing.assert_close(logits(beside), plain, atol=1e-5, rtol=0)
    for name, weight in model.named_parameters():
        if "lora_B" in name:
            weight.data += 0.02
    trained = logits(model)
    save_adapter(model, tmp_path / "trained")
    beside = load_adapter(load_model(tiny_model, dtype="float32"), tmp_path / "trained")
    assert (logits(beside) - trained).norm() < 0.6 * lost < (trained - plain).norm()


def test_a_combined_method_resumes_to_the_same_weights(tiny_model, tmp_path):
    method = {"init": "pissa", "dora": True, "rslora": True, "lora_plus": 4.0, "layers": [1], "rank": 4}
    run = train(recipe(tiny_model, method, checkpoint_every=2), run_dir=tmp_path / "run")
    whole = adapter_of(run)
    assert all(".layers.1." in name for name in whole)
    assert {len(tensor) for name, tensor in whole.items() if "lora_A" in name} == {8}  # A and A₀
    shutil.rmtree(run.result)
    shutil.rmtree(run.checkpoints / "checkpoint-4")
    resumed = adapter_of(resume(run.path))
    assert resumed.keys() == whole.keys()
    assert all(torch.equal(resumed[name], whole[name]) for name in whole)


def test_eight_bits_are_nearer_to_the_base_than_four(tiny_model, tmp_path):
    methods = {"lora": {}, "8": {"kind": "qlora", "bits": 8}, "4": {"kind": "qlora", "bits": 4}}
    losses = {
        name: train(recipe(tiny_model, method, steps=1), run_dir=tmp_path / name).metrics()[0]["loss"]
        for name, method in methods.items()
    }
    assert 0 < abs(losses["8"] - losses["lora"]) < abs(losses["4"] - losses["lora"])


def test_lora_plus_is_the_learning_rate_of_b(tiny_model, tmp_path):
    asked = recipe(tiny_model, {"lora_plus": 16.0}, steps=1, warmup=0, schedule="constant", max_grad_norm=1e6)
    weights = adapter_of(train(asked, run_dir=tmp_path / "run"))
    # Adam's first step is lr wherever there is a gradient; A has none as long as B is 0.
    moved = torch.cat([tensor.abs().flatten() for name, tensor in weights.items() if "lora_B" in name])
    assert moved.max().item() == pytest.approx(16e-3, rel=1e-3)


@pytest.mark.parametrize("name", ["adamw", "adamw_8bit", "adafactor"])
def test_lora_plus_is_of_no_other_weight_than_b(tiny_model, tmp_path, name):
    method = Lora(kind="lora", rank=4, dora=True, targets=["q_proj", "embed_tokens"])
    model = attach_adapter(load_model(tiny_model), method)
    arguments = TrainingArguments(
        output_dir=str(tmp_path), optim=OPTIM[name], learning_rate=1e-3, weight_decay=0.1, report_to=[]
    )
    groups = loraplus_optimizer(model, arguments, 8).param_groups
    rates = {weight: (group["lr"], group["weight_decay"]) for group in groups for weight in group["params"]}
    trained = {name: weight for name, weight in model.named_parameters() if weight.requires_grad}
    assert len(rates) == len(trained) == sum(len(group["params"]) for group in groups)
    faster = {name for name, weight in trained.items() if rates[weight] == (8e-3, 0.1)}
    assert faster == {name for name in trained if "lora_B" in name or "lora_embedding_B" in name}
    assert {rates[weight] for name, weight in trained.items() if name not in faster} == {(1e-3, 0.1)}
    assert any("lora_magnitude_vector" in name for name in trained)


@pytest.mark.parametrize("dtype", ["auto", "bfloat16"])
def test_all_weights_are_trained_in_float32(tiny_model, dtype):
    asked = recipe(tiny_model, {"kind": "full"})
    asked = asked.model_copy(update={"model": asked.model.model_copy(update={"dtype": dtype})})
    assert {weight.dtype for weight in trainable_model(asked).parameters()} == {torch.float32}


def test_a_run_or_an_adapter_in_the_place_of_a_model(tmp_path, make_adapter, tiny_model):
    adapter = make_adapter(tiny_model, tmp_path / "lora" / "adapter")
    load_tokenizer(tiny_model).save_pretrained(adapter)
    full = shutil.copytree(tiny_model, tmp_path / "full" / "model")
    for place, fix in (
        (adapter, f"convert merge {adapter} OUT"),
        (adapter.parent, f"convert merge {adapter.parent} OUT"),
        (full.parent, f"the model that the run trained: {full}"),
    ):
        for method in ({}, {"kind": "full"}):
            with pytest.raises(UsageError, match="No model at") as raised:
                prepare(recipe(place, method))
            assert fix in raised.value.fix


@pytest.mark.parametrize("optimizer", ["adamw_8bit", "adafactor", "lion", "lion_8bit"])
def test_optimizers_learn(tiny_model, tmp_path, optimizer):
    lr = 1e-3 if "lion" in optimizer else 1e-2
    run = train(
        recipe(tiny_model, optimizer=optimizer, lr=lr, steps=12, weight_decay=0.1), run_dir=tmp_path / "run"
    )
    (group, *_) = torch.load(run.checkpoints / "checkpoint-12" / "optimizer.pt")["param_groups"]
    assert group.get("betas", (0.9, 0.999)) == (0.9, 0.99 if "lion" in optimizer else 0.999)
    assert group["weight_decay"] == 0.1
    first, *_, last = run.metrics()
    assert last["loss"] < first["loss"] - 0.02


@pytest.mark.skipif(torch.cuda.is_available(), reason="pages go to a GPU")
def test_paging_without_a_gpu_is_refused_before_the_model_is_loaded(tiny_model):
    with pytest.raises(ResourceError, match="no GPU"):
        prepare(recipe(tiny_model, optimizer="paged_adamw_8bit"))


def test_warm_up_stable_decay(tiny_model, tmp_path):
    asked = recipe(tiny_model, steps=10, schedule="wsd", warmup=2, decay=0.4)
    rates = [line["lr"] / 1e-3 for line in train(asked, run_dir=tmp_path / "run").metrics()]
    assert rates[:7] == pytest.approx([0, 0.5, 1, 1, 1, 1, 1])
    assert rates[7:] == pytest.approx([1 - (part / 4) ** 0.5 for part in (1, 2, 3)])
