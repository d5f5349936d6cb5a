"""Merging tensor by tensor: what is written in which files, several adapters, NF4, and the check layer by layer."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from xtune.convert import check
from xtune.convert.check import LayersCheck
from xtune.convert.merge import merge
from xtune.convert.weights import read_tensors
from xtune.errors import UsageError
from xtune.model.load import load_model


@pytest.fixture(scope="module")
def adapters(make_adapter, tiny_model, tmp_path_factory):
    """Two adapters of other layers and ranks on one base."""
    folder = tmp_path_factory.mktemp("adapters")
    return [
        make_adapter(tiny_model, folder / "one", scale=0.2),
        make_adapter(tiny_model, folder / "two", scale=0.3, targets=["q_proj", "down_proj"], dora=True),
    ]


@pytest.fixture
def no_memory(monkeypatch):
    """No model fits into memory."""
    monkeypatch.setattr(check, "free_memory", lambda _: 0)


@pytest.fixture(scope="module")
def sharded(tiny_model, tmp_path_factory):
    """The tiny model in bfloat16, in several files."""
    from transformers import AutoModelForCausalLM

    folder = tmp_path_factory.mktemp("sharded") / "base"
    shutil.copytree(tiny_model, folder, ignore=shutil.ignore_patterns("*.safetensors"))
    model = AutoModelForCausalLM.from_pretrained(tiny_model, dtype="bfloat16")
    model.save_pretrained(folder, max_shard_size="100KB")
    return folder


def tensors_of(directory):
    return dict(read_tensors(directory, bool))


def adapter_on(base, adapter, folder):
    """The same adapter on a copy of its base with other files."""
    shutil.copytree(adapter, folder)
    note = json.loads((folder / "xtune.json").read_text())
    del note["base_fingerprint"]
    (folder / "xtune.json").write_text(json.dumps({**note, "base": str(base)}))
    return folder


@pytest.mark.usefixtures("no_memory")
def test_the_files_are_the_bases_and_the_sum_is_pefts_to_the_bit(sharded, adapters, tmp_path, capsys):
    from peft import PeftModel

    adapter = adapter_on(sharded, adapters[0], tmp_path / "adapter")
    done = merge(adapter, tmp_path / "out")
    assert "shapes are checked" in capsys.readouterr().err
    assert isinstance(done.check, LayersCheck)
    assert "layer by layer" in str(done.check)
    assert done.check.layers == 14
    assert done.check.largest_difference < 0.01 < done.check.adapter_effect
    names = sorted(file.name for file in sharded.glob("*.safetensors"))
    assert len(names) == 3
    assert names == sorted(file.name for file in done.path.glob("*.safetensors"))
    for name in names:
        with safe_open(sharded / name, "pt") as before, safe_open(done.path / name, "pt") as after:
            assert (list(before.keys()), before.metadata()) == (list(after.keys()), after.metadata())
    assert (done.path / "config.json").read_bytes() == (sharded / "config.json").read_bytes()
    whole = PeftModel.from_pretrained(load_model(sharded, dtype="float32"), adapter).merge_and_unload()
    expected, found, before = whole.state_dict(), tensors_of(done.path), tensors_of(sharded)
    assert all(torch.equal(found[name], expected[name].bfloat16()) for name in found)
    assert {name for name in found if not torch.equal(found[name], before[name])} == {
        name for name in found if "_proj" in name
    }


@pytest.mark.usefixtures("no_memory")
def test_pickled_weights_become_safetensors(tiny_model, adapters, tmp_path):
    base = shutil.copytree(tiny_model, tmp_path / "base", ignore=shutil.ignore_patterns("*.safetensors"))
    torch.save(load_file(tiny_model / "model.safetensors"), base / "pytorch_model.bin")
    done = merge(adapter_on(base, adapters[0], tmp_path / "adapter"), tmp_path / "out")
    merge(adapters[0], tmp_path / "other")
    assert [file.name for file in done.path.glob("*model*")] == ["model.safetensors"]
    ours, theirs = tensors_of(done.path), tensors_of(tmp_path / "other")
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_several_adapters_are_the_weighted_sum_of_their_changes(adapters, tiny_model, tmp_path):
    before, weights = tensors_of(tiny_model), (-0.5, 2.0)
    alone = []
    for number, adapter in enumerate(adapters):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(check, "free_memory", lambda _: 0)  # which is sooner checked
            merge(adapter, tmp_path / f"alone-{number}")
        alone.append(tensors_of(tmp_path / f"alone-{number}"))
    done = merge(adapters, tmp_path / "out", weights=weights)
    after = tensors_of(done.path)
    for name, weight in before.items():
        changes = [one[name].double() - weight.double() for one in alone]
        expected = weight.double() + weights[0] * changes[0] + weights[1] * changes[1]
        torch.testing.assert_close(after[name].double(), expected, atol=1e-6, rtol=1e-6)
    assert done.check.adapter_effect > 100 * done.check.largest_difference
    made_of = json.loads((done.path / "xtune.json").read_text())["merged"]
    assert [each["weight"] for each in made_of["adapters"]] == list(weights)


def test_weights_that_do_not_fit(adapters, tmp_path):
    with pytest.raises(UsageError, match="2 adapters and 1 weights"):
        merge(adapters, tmp_path / "out", weights=[1.0])
    assert not (tmp_path / "out").exists()


def test_nf4_is_what_the_adapter_saw(tiny_model, make_adapter, tmp_path):
    adapter = make_adapter(tiny_model, tmp_path / "adapter", scale=0.2, bits=4)
    note = json.loads((adapter / "xtune.json").read_text())
    (adapter / "xtune.json").write_text(json.dumps({**note, "bits": 4}))
    original = merge(adapter, tmp_path / "original")
    seen = merge(adapter, tmp_path / "nf4", base_weights="nf4")
    assert original.check.from_training > 100 * original.check.largest_difference
    assert "trained  beside 4-bit weights" in str(original.check)
    assert seen.check.from_training is None
    quantised = load_model(tiny_model, bits=4, dtype="float32").model.layers[0].mlp.up_proj
    from bitsandbytes.functional import dequantize_4bit

    factors = load_file(adapter / "adapter_model.safetensors")
    name = "model.layers.0.mlp.up_proj"
    a, b = (factors[f"base_model.model.{name}.lora_{letter}.weight"] for letter in "AB")
    weight = dequantize_4bit(quantised.weight.data, quantised.weight.quant_state).float()
    ours = tensors_of(seen.path)[f"{name}.weight"]
    torch.testing.assert_close(ours, weight + 2 * b @ a, atol=2e-3, rtol=1e-2)
    (adapter / "xtune.json").write_text(json.dumps({**note, "bits": 8}))
    with pytest.raises(UsageError, match="8-bit weights"):
        merge(adapter, tmp_path / "eight", base_weights="nf4")


@pytest.mark.usefixtures("no_memory")
def test_layers_that_are_off_are_not_kept(tiny_model, adapters, tmp_path, monkeypatch):
    from xtune.convert.shards import Merging

    value = Merging.value
    monkeypatch.setattr(Merging, "value", lambda self, entry: value(self, entry) * 1.01)
    with pytest.raises(UsageError, match="do not give what base and adapter give"):
        merge(adapters[0], tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("no_memory")
@pytest.mark.parametrize("targets", [["lm_head"], ["embed_tokens", "q_proj"]])
@pytest.mark.filterwarnings("ignore::UserWarning")  # PEFT's, of adapters on tied layers
def test_tied_embeddings_come_apart_layer_by_layer(tiny_model, make_adapter, tmp_path, targets):
    done = merge(make_adapter(tiny_model, tmp_path / "a", scale=0.2, targets=targets), tmp_path / "out")
    assert done.check.largest_difference < 1e-4 < done.check.adapter_effect
    assert not json.loads((done.path / "config.json").read_text())["tie_word_embeddings"]


_PEAK = """
import re, sys
from pathlib import Path
import bitsandbytes, peft, torch, transformers
from transformers import AutoModelForCausalLM, LlamaForCausalLM
from peft import PeftModel
import xtune.convert.check as check
from xtune.convert.merge import merge

def peak():  # of this program alone; getrusage also counts what started it
    return int(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1])

check.free_memory = lambda device: 0
before = peak()
merge(sys.argv[1], sys.argv[2])
print(peak() - before)
"""


@pytest.mark.slow
def test_memory_is_that_of_a_few_tensors(sharded, adapters, tmp_path):
    """Of a model of 1.1 GB in 8 files; loading it in its own type would take all of that."""
    config = json.loads((sharded / "config.json").read_text())
    size = {"hidden_size": 2048, "intermediate_size": 6144, "num_hidden_layers": 8, "num_key_value_heads": 4}
    base = tmp_path / "base"
    shutil.copytree(sharded, base, ignore=shutil.ignore_patterns("*safetensors*"))
    (base / "config.json").write_text(json.dumps({**config, **size, "head_dim": 512}))
    layer = {
        "input_layernorm": (2048,),
        "post_attention_layernorm": (2048,),
        **dict.fromkeys([f"self_attn.{kind}_proj" for kind in "qkvo"], (2048, 2048)),
        "mlp.gate_proj": (6144, 2048),
        "mlp.up_proj": (6144, 2048),
        "mlp.down_proj": (2048, 6144),
    }
    shapes = [{f"model.layers.{n}.{name}.weight": shape for name, shape in layer.items()} for n in range(8)]
    shapes[0] |= {"model.embed_tokens.weight": (49152, 2048), "model.norm.weight": (2048,)}
    random = torch.Generator().manual_seed(0)
    index, factors = {}, {}
    for number, held in enumerate(shapes, start=1):
        file = f"model-{number:05}-of-00008.safetensors"
        index |= dict.fromkeys(held, file)
        shard = {
            name: (0.02 * torch.randn(shape, generator=random)).bfloat16() for name, shape in held.items()
        }
        save_file(shard, base / file, metadata={"format": "pt"})
        for name, shape in held.items():
            if "_proj" in name:
                key = f"base_model.model.{name.removesuffix('.weight')}"
                factors[f"{key}.lora_A.weight"] = 0.02 * torch.randn(8, shape[1], generator=random)
                factors[f"{key}.lora_B.weight"] = 0.02 * torch.randn(shape[0], 8, generator=random)
    (base / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": index}))
    adapter = adapter_on(base, adapters[0], tmp_path / "adapter")
    save_file(factors, adapter / "adapter_model.safetensors")
    settings = json.loads((adapter / "adapter_config.json").read_text())
    named = sorted({name.rpartition(".")[2] for name in layer if "_proj" in name})
    (adapter / "adapter_config.json").write_text(json.dumps({**settings, "target_modules": named}))
    command = [sys.executable, "-c", _PEAK, adapter, tmp_path / "out"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert 100_000 < int(done.stdout) < 700_000  # kilobytes: the embedding twice, 400 MB, and a few tensors
