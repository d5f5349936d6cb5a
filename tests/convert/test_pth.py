"""Checkpoints of XTuner 0.1 become adapters and models that compute what the trained model did."""

from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys
from collections import OrderedDict
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from tests.convert.old_checkpoints import adapted, besides, write_config, write_pth
from tests.families.conftest import options_of, published  # noqa: F401 (a fixture)
from xtune.cli.main import main
from xtune.convert.pth import convert_pth
from xtune.errors import UsageError
from xtune.model.adapters import load_adapter
from xtune.model.load import load_model
from xtune.run.target import find_target

IDS = torch.arange(3, 40)[None]
CLOSE = {"atol": 2e-5, "rtol": 1e-5}


@pytest.fixture
def config(tmp_path, tiny_model) -> Path:
    return write_config(tmp_path / "old.py", tiny_model)


def logits(model) -> torch.Tensor:
    with torch.no_grad():
        return model.eval()(IDS).logits.float()


def loaded(result: Path, base: Path) -> torch.nn.Module:
    return load_adapter(load_model(str(base), dtype="float32", device="cpu"), result)


@pytest.mark.parametrize("dora", [False, True])
def test_an_adapter_computes_what_the_trained_model_did(tmp_path, tiny_model, config, dora):
    trained = adapted(
        tiny_model, rank_pattern={"layers.1.mlp.down_proj": 6}, modules_to_save=["norm"], use_dora=dora
    )
    with torch.no_grad():
        trained.base_model.model.model.norm.modules_to_save["default"].weight.mul_(1.5)
    done = convert_pth(write_pth(tmp_path / "iter_3.pth", trained, config), tmp_path / "out")
    assert (done.kind, done.rank, done.left_out) == ("adapter", 6, {})
    torch.testing.assert_close(logits(loaded(done.path, tiny_model)), logits(trained), **CLOSE)
    target = find_target(str(done.path))
    assert (target.base, target.template.name) == (str(tiny_model), "llama2")
    assert json.loads((done.path / "adapter_config.json").read_text())["lora_alpha"] == 12


def test_layers_of_a_publishers_code_get_their_names_in_transformers(tmp_path, published):  # noqa: F811
    """Of InternLM2: against its own weights with the factors' product added, under its own names."""
    base = published("internlm2")
    random = torch.Generator().manual_seed(2)
    weights = {name: tensor.float() for name, tensor in load_file(base / "model.safetensors").items()}
    tensors, merged = OrderedDict(), dict(weights)
    for name, weight in weights.items():
        if name.split(".")[-2] in ("wqkv", "wo", "w2"):
            a = torch.randn(4, weight.shape[1], generator=random) * 0.1
            b = torch.randn(weight.shape[0], 4, generator=random) * 0.1
            for kind, factor in (("A", a), ("B", b)):
                layer = name.removesuffix(".weight")
                tensors[f"llm.base_model.model.{layer}.lora_{kind}.default.weight"] = factor
            merged[name] = weight + 12 / 4 * b @ a
    config = write_config(tmp_path / "old.py", base, template="internlm2_chat")
    torch.save({**besides(config), "state_dict": tensors}, tmp_path / "iter_3.pth")
    done = convert_pth(tmp_path / "iter_3.pth", tmp_path / "out")

    whole = tmp_path / "merged"
    whole.mkdir()
    (whole / "config.json").write_bytes((base / "config.json").read_bytes())
    save_file(merged, whole / "model.safetensors", metadata={"format": "pt"})
    options = options_of("internlm2")
    expected = load_model(str(whole), dtype="float32", device="cpu", options=options)
    plain = load_model(str(base), dtype="float32", device="cpu", options=options)
    moved = (logits(plain) - logits(expected)).abs().max()
    assert moved > 0.01
    torch.testing.assert_close(logits(load_adapter(plain, done.path)), logits(expected), **CLOSE)


def full(tmp_path: Path, base: Path, template: str = "llama2_chat") -> tuple[torch.nn.Module, Path]:
    """A fully trained model and its config."""
    model = AutoModelForCausalLM.from_pretrained(base)
    random = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(0.05 * torch.randn(weight.shape, generator=random))
    return model, write_config(tmp_path / "full.py", base, lora="", template=template)


def test_a_full_fine_tune_becomes_a_model(tmp_path, tiny_model):
    trained, config = full(tmp_path, tiny_model)
    done = convert_pth(write_pth(tmp_path / "iter_3.pth", trained, config), tmp_path / "out")
    assert done.kind == "model"
    torch.testing.assert_close(logits(load_model(str(done.path), dtype="float32")), logits(trained), **CLOSE)
    stock = AutoModelForCausalLM.from_pretrained(done.path)
    torch.testing.assert_close(logits(stock), logits(trained), **CLOSE)
    assert find_target(str(done.path)).template.name == "llama2"


def test_a_full_fine_tune_keeps_its_publishers_layout(tmp_path, published):  # noqa: F811
    base = published("internlm2")
    trained = {name: tensor * 1.1 for name, tensor in load_file(base / "model.safetensors").items()}
    config = write_config(tmp_path / "full.py", base, lora="", template="internlm2_chat")
    state = {f"llm.{name}": tensor for name, tensor in trained.items()}
    torch.save({**besides(config), "state_dict": state}, tmp_path / "iter_3.pth")
    done = convert_pth(tmp_path / "iter_3.pth", tmp_path / "out")
    written = load_file(done.path / "model.safetensors")
    assert written.keys() == trained.keys()
    assert all(torch.equal(written[name], trained[name]) for name in trained)
    assert (done.path / "modeling_of_publisher.py").is_file()
    assert torch.isfinite(logits(load_model(str(done.path), options=options_of("internlm2")))).all()


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda state: state.pop("llm.model.norm.weight"), "lacks tensors of the base: model.norm.weight"),
        (
            lambda state: state.update({"llm.model.extra.weight": torch.zeros(2)}),
            "the base has not: model.extra",
        ),
        (lambda state: state.update({"llm.model.norm.weight": torch.zeros(2)}), "other shapes than the base"),
    ],
)
def test_a_model_that_is_not_the_bases_is_refused(tmp_path, tiny_model, change, told):
    trained, config = full(tmp_path, tiny_model)
    file = write_pth(tmp_path / "iter_3.pth", trained, config)
    held = torch.load(file, weights_only=False)
    change(held["state_dict"])
    torch.save(held, file)
    with pytest.raises(UsageError, match=told):
        convert_pth(file, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_what_is_no_language_model_is_named(tmp_path, tiny_model, config, capsys):
    text = config.read_text().replace("type=SupervisedFinetune", "type='xtuner.model.LLaVAModel'")
    config.write_text(text.replace("lora=dict(", "llm_lora=dict("))
    file = write_pth(
        tmp_path / "iter_3.pth", adapted(tiny_model), config, **{"projector.model.0.weight": torch.zeros(2)}
    )
    with pytest.raises(SystemExit) as ended:
        main(["convert", "pth", str(file), str(tmp_path / "out")])
    assert ended.value.code == 0
    captured = capsys.readouterr()
    assert "rank 4" in captured.out
    assert "left out projector (1 tensors)" in captured.err


@pytest.mark.parametrize(
    ("state", "told"),
    [
        ({"projector.model.0.weight": torch.zeros(2)}, "no language model, only projector"),
        ({"llm.layers.0.weight": torch.zeros(2), "v_head.weight": torch.zeros(2)}, "reward model"),
        ({}, "holds no weights"),
        ({"llm.a.lora_A.weight": torch.zeros(2, 2), "llm.a.bias": torch.zeros(2)}, "Biases were trained"),
        ({"llm.base_model.model.no.lora_A.weight": torch.zeros(2, 2)}, "no layers for these tensors: no"),
    ],
)
def test_other_weights_are_refused(tmp_path, config, state, told):
    torch.save({**besides(config), "state_dict": state}, tmp_path / "a.pth")
    with pytest.raises(UsageError, match=told):
        convert_pth(tmp_path / "a.pth", tmp_path / "out")


def test_what_only_the_config_tells_is_asked_for(tmp_path, tiny_model, config):
    held = torch.load(write_pth(tmp_path / "a.pth", adapted(tiny_model), config), weights_only=False)
    del held["meta"]
    torch.save(held, tmp_path / "a.pth")
    with pytest.raises(UsageError, match="names the base"):
        convert_pth(tmp_path / "a.pth", tmp_path / "out")
    with pytest.raises(UsageError, match="alpha"):
        convert_pth(tmp_path / "a.pth", tmp_path / "out", base=tiny_model, template="llama2")
    said = convert_pth(tmp_path / "a.pth", tmp_path / "said", base=tiny_model, alpha=12, template="llama2")
    read = convert_pth(tmp_path / "a.pth", tmp_path / "read", config=config)
    name = "adapter_model.safetensors"
    assert (said.path / name).read_bytes() == (read.path / name).read_bytes()


class Program:
    """Runs when it is unpickled."""

    def __init__(self, file: Path):
        self.file = file

    def __reduce__(self):
        return os.mkdir, (str(self.file),)


def test_a_checkpoint_that_could_run_a_program_is_not_opened(tmp_path, tiny_model, config):
    held = {**besides(config), "state_dict": {"llm.a": torch.zeros(1)}, "extra": Program(tmp_path / "ran")}
    torch.save(held, tmp_path / "a.pth")
    (tmp_path / "b.pth").write_bytes(pickle.dumps(Program(tmp_path / "ran")))
    for name in ("a.pth", "b.pth"):
        with pytest.raises(UsageError, match=r"mkdir|cannot be read"):
            convert_pth(tmp_path / name, tmp_path / "out", base=tiny_model)
    assert not (tmp_path / "ran").exists()


def test_files_that_are_no_checkpoint_say_what_they_are(tmp_path, tiny_model, config):
    whole = write_pth(tmp_path / "iter_3.pth", adapted(tiny_model), config).read_bytes()
    (tmp_path / "half.pth").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "empty.pth").touch()
    (tmp_path / "nothing").mkdir()
    for path, told in (
        (tmp_path / "half.pth", "cannot be read"),
        (tmp_path / "empty.pth", "cannot be read"),
        (tmp_path / "nothing", "is no checkpoint of XTuner 0.1"),
        (tmp_path / "none.pth", "There is nothing at"),
        (tmp_path, "holds some"),
        (tiny_model, "is a model directory already"),
    ):
        with pytest.raises(UsageError, match=told):
            convert_pth(path, tmp_path / "out", base=tiny_model)


@pytest.mark.slow
@pytest.mark.parametrize("stage", [2, 3])
@pytest.mark.parametrize("kind", ["lora", "full"])
def test_weights_spread_by_deepspeed_are_put_together(tmp_path, tiny_model, stage, kind):
    config = write_config(tmp_path / "old.py", tiny_model, **({} if kind == "lora" else {"lora": ""}))
    worker = [Path(__file__).with_name("old_checkpoints.py"), tmp_path, stage, tiny_model, config, kind]
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", "--standalone", *worker]
    environment = os.environ | {"DS_ACCELERATOR": "cpu", "OMP_NUM_THREADS": "1"}
    subprocess.run([*map(str, command)], check=True, env=environment, timeout=200)
    done = convert_pth(tmp_path / "iter_3.pth", tmp_path / "out")
    assert done.kind == ("adapter" if kind == "lora" else "model")

    expected = adapted(tiny_model) if kind == "lora" else AutoModelForCausalLM.from_pretrained(tiny_model)
    before = logits(expected)
    state = torch.load(tmp_path / "expected.pt", weights_only=True)
    assert set(state) <= {name for name, _ in expected.named_parameters()}
    expected.load_state_dict(state, strict=False)
    result = loaded(done.path, tiny_model) if kind == "lora" else load_model(str(done.path), dtype="float32")
    assert (logits(expected) - before).abs().max() > 1e-3
    torch.testing.assert_close(logits(result), logits(expected), **CLOSE)
