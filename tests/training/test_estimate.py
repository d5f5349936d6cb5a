"""What is told of a recipe before it runs: what can be exact is, and memory is near what is counted and measured."""

from __future__ import annotations

import io
import json
from contextlib import redirect_stderr, redirect_stdout

import numpy as np
import pytest
import torch

from benchmarks.estimate_error import RECIPES, measure, write_data
from tests.conftest import QUICKSTART
from tests.families.conftest import NAMES, PARITY, options_of
from tests.training.test_methods import recipe
from xtune.cli.main import main
from xtune.data.batches.collate import collate
from xtune.data.encoding.encode import Encoded
from xtune.families.family import Options
from xtune.model.adapters import attach_adapter
from xtune.model.attention import use_packed_attention
from xtune.model.fused import fuse
from xtune.model.load import load_model
from xtune.recipe.overrides import parse_overrides
from xtune.recipe.schema import Recipe
from xtune.training.estimate import data as estimate_data
from xtune.training.estimate import estimate as estimating
from xtune.training.estimate.activations import Computing, kept
from xtune.training.estimate.architecture import read_architecture
from xtune.training.estimate.estimate import a_gpu, estimate, this_device
from xtune.training.estimate.trained import roles, weights
from xtune.training.memory import kept_for_backward
from xtune.training.train import train

FULL = {"kind": "full"}
KERNELS = ["loss", "lora", "mlp", "norm", "attention"]


def said(*arguments) -> tuple[int, str, str]:
    """Exit code, stdout and stderr of a command."""
    out, err = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(err), pytest.raises(SystemExit) as ended:
        main([*map(str, arguments)])
    return ended.value.code, out.getvalue(), err.getvalue()


def counted_and_told(path, options: Options, made: Recipe, kernels, packing: bool, attention: str = "auto"):
    """(bytes kept, weights trained) of the model itself, and as estimated."""
    method = made.method
    model = load_model(
        path, dtype="float32", attention=attention, options=options, bits=getattr(method, "bits", None)
    )
    if packing:
        use_packed_attention(model, attention, 1, "attention" in kernels)
    if method.kind != "full":
        model = attach_adapter(model, method)
    fuse(model, kernels)
    random = np.random.default_rng(0)
    texts = [Encoded(*(random.integers(200, 700, length).astype(np.int32),) * 2) for length in (167, 331)]
    if PARITY / "chatglm_6b" in path.parents:
        for text in texts:
            text.input_ids[1:3] = model.config.gmask_token_id, model.config.bos_token_id
    batch = collate(texts, packing=packing, pad_id=2)
    counted = sum(kept_for_backward(model, batch, batch, half=False)[:2])
    trained = sum(weight.numel() for weight in model.parameters() if weight.requires_grad)

    of = read_architecture(path, options)
    by_role = roles(made, of)
    how = Computing(frozenset(kernels), 4, 4, on_gpu=False, in_c=True, packing=packing, attention=attention)
    told = kept(method, of, by_role, how, padded=not packing)
    rows, tokens = batch["input_ids"].shape
    pairs = sum(len(text) ** 2 for text in texts) if packing else rows * tokens**2
    columns = rows * len(batch["logits_to_keep"])
    total = told.token * rows * tokens + told.pair * pairs + told.column * columns
    return (counted, trained), (total, weights(made, of, by_role).trained)


SLOW = pytest.mark.slow


@pytest.mark.parametrize(
    ("method", "packing"),
    [
        ({}, True),
        *(
            pytest.param(method, packing, marks=SLOW)
            for method, packing in ((FULL, True), ({}, False), (FULL, False))
        ),
    ],
)
@pytest.mark.parametrize("name", NAMES)
def test_every_family(name, method, packing):
    path = PARITY / name / "checkpoint"
    counted, told = counted_and_told(path, options_of(name), recipe(path, method), KERNELS, packing)
    assert told[0] == pytest.approx(counted[0], rel=0.05)
    assert told[1] == counted[1]


@pytest.mark.parametrize(
    ("attention", "kernels"),
    [
        ("packed", KERNELS),
        *(
            pytest.param(attention, kernels, marks=SLOW)
            for attention in ("packed", "auto", "eager")
            for kernels in (KERNELS, [], ["mlp"])
        ),
    ],
)
@pytest.mark.parametrize(
    "method",
    [
        {},
        {"kind": "full"},
        {"targets": "attention"},
        {"targets": ["down_proj", "q_proj"], "layers": [1]},
        {"dora": True},
        {"dropout": 0.1},
        {"kind": "qlora"},
        {"kind": "qlora", "bits": 8},
    ],
)
def test_every_method(tiny_model, method, kernels, attention):
    packing, attention = attention == "packed", "auto" if attention == "packed" else attention
    made = recipe(tiny_model, method)
    counted, told = counted_and_told(tiny_model, Options(), made, kernels, packing, attention)
    assert told[0] == pytest.approx(counted[0], rel=0.1 if method.get("dropout") else 0.05)
    assert told[1] == counted[1]


@pytest.mark.parametrize("method", ["lora", pytest.param("full", marks=SLOW)])
def test_what_a_run_does_and_leaves(tiny_model, tmp_path, method):
    made = recipe(tiny_model, {"kind": method}, epochs=1, steps=None)
    told = estimate(made, this_device(made))
    run = train(made, run_dir=tmp_path / "run")
    lines = run.metrics()
    assert told.steps == len(lines)
    assert told.step_tokens * told.steps == pytest.approx(
        sum(line["tokens"] for line in lines), abs=told.steps
    )
    assert told.step_labels * told.steps == pytest.approx(
        sum(line["loss_tokens"] for line in lines), abs=told.steps
    )
    checkpoints = sorted(run.checkpoints.glob("checkpoint-*"))
    assert told.checkpoints == len(checkpoints)
    optimizer = torch.load(checkpoints[-1] / "optimizer.pt", weights_only=True)["state"].values()
    moments = sum(value.nbytes for state in optimizer for value in state.values() if value.dim())
    assert told.memory.optimizer == moments
    assert told.weights.trained * 8 == moments
    held = sum(file.stat().st_size for file in run.result.glob("*.safetensors"))
    assert told.result == pytest.approx(held, rel=0.05)


def test_settings_help_as_much_as_they_are_said_to(tiny_model, monkeypatch):
    monkeypatch.setattr(estimating, "_WORTH", 0)
    made = recipe(tiny_model, batch_size=8, micro_batch_size=8)
    told = estimate(made, a_gpu(made, 0.5))
    assert not told.fits
    assert [less for _, less in told.helps] == sorted((less for _, less in told.helps), reverse=True)
    tried = 0
    for setting, less in told.helps:
        if setting.startswith("train."):
            section, values = next(iter(parse_overrides([setting.replace(" ", "")]).items()))
            changed = recipe(
                tiny_model, **{"batch_size": 8, "micro_batch_size": 8, section.removeprefix("train."): values}
            )
            assert told.memory.total - estimate(changed, a_gpu(changed, 0.5)).memory.total == less, setting
            tried += 1
    assert tried == 2  # checkpointing is on by itself where memory is this short


def test_each_process_keeps_its_share(tiny_model):
    """On GPUs: ZeRO-1 parts the optimizer's state, ZeRO-2 gradients too, FSDP all."""
    sizes = {}
    for name, options in {"alone": {}, "fsdp": {"fsdp": True}}.items():
        made = recipe(tiny_model, {"kind": "full"}, **options)
        sizes[name] = estimate(made, a_gpu(made, 24), 2 if options else 1).memory
    for part in ("weights", "gradients", "optimizer"):
        assert getattr(sizes["fsdp"], part) == getattr(sizes["alone"], part) // 2


def test_of_a_large_file_the_first_records_are_read(tiny_model, tmp_path, monkeypatch):
    rows = (QUICKSTART / "identity.jsonl").read_text(encoding="utf-8") * 4
    file = tmp_path / "rows.jsonl"
    file.write_text(rows, encoding="utf-8")

    def told(**limits):
        for name, value in limits.items():
            monkeypatch.setattr(estimate_data, name, value)
        made = recipe(tiny_model, epochs=2, steps=None)
        source = made.data.sources[0].model_copy(update={"path": str(file), "limit": None})
        made = made.model_copy(update={"data": made.data.model_copy(update={"sources": [source]})})
        return estimate(made, a_gpu(made, 24))

    some = told(_LARGE=1000, _RECORDS=80)
    every = told(_LARGE=10**9)
    assert some.sampled
    assert not every.sampled
    assert some.samples == pytest.approx(every.samples, rel=0.1)
    assert some.steps == pytest.approx(every.steps, rel=0.1)
    assert told(_LARGE=1000).sampled is False  # it is encoded by now


def test_the_command(tiny_model, tmp_path):
    file = tmp_path / "recipe.py"
    file.write_text(
        f"model = dict(path={str(tiny_model)!r}, template='smollm2')\nmethod = dict(kind='lora')\n"
        f"data = dict(sources=[dict(path={str(QUICKSTART / 'identity.jsonl')!r})])\ntrain = dict(steps=3)\n"
    )
    code, out, _ = said("estimate", file)
    assert code == 0
    assert "at the peak" in out
    assert "it fits" in out
    code, out, _ = said("estimate", file, "--gpu", "24GB", "--json", "--set", "train.steps=7")
    assert code == 0
    found = json.loads(out)
    assert found["steps"] == 7
    assert found["seconds"] is None  # of a device that is not here
    assert sum(found["memory"][part] for part in ("weights", "adapters")) < found["memory"]["total"]
    for wrong in ("much", "0", "-3GB", "24TB"):
        code, _, err = said("estimate", file, "--gpu", wrong)
        assert code == 2
        assert "24GB" in err
    for overrides, wanted, named in (
        (["data.sources.0.path=none.jsonl"], 3, "none.jsonl"),
        (["model.path=/nowhere"], 2, "/nowhere"),
        (["train.lr=fast"], 2, "train.lr"),
    ):
        code, _, err = said("estimate", file, *(part for each in overrides for part in ("--set", each)))
        assert (code, named in err) == (wanted, True), err


@SLOW
@pytest.mark.skipif(torch.cuda.is_available(), reason="the benchmark measures a process on a CPU")
@pytest.mark.parametrize("name", RECIPES)
def test_within_ten_percent_of_the_measured_peak(name, tmp_path):
    write_data(tmp_path)
    assert abs(measure(tmp_path, RECIPES[name])["error"]) < 0.1
