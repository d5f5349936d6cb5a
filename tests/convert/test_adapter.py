"""Adapters of publishers' code and of transformers' classes do the same, and come back as they were.

What a publisher's code would make of an adapter is asked of PEFT itself, on a skeleton of the publisher's model: its
layers, by its names, without the code between them.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from peft import (
    LoraConfig,
    get_peft_model,
    get_peft_model_state_dict,
    inject_adapter_in_model,
    set_peft_model_state_dict,
)
from safetensors.torch import load_file, save_file

from tests.families.conftest import PARITY, options_of
from xtune.cli.main import main
from xtune.convert.adapter import convert_adapter
from xtune.convert.adapter_config import for_old_peft
from xtune.convert.layout import original_tensors
from xtune.convert.weights import read_tensors
from xtune.errors import UsageError
from xtune.families import read_layout
from xtune.model.adapters import load_adapter
from xtune.model.load import load_model

# What the publishers' own scripts train, and all there is.
TARGETS = {
    "internlm2": ["w1", "w2", "w3", "wo", "wqkv"],
    "baichuan2_7b": ["W_pack", "down_proj", "gate_proj", "o_proj", "up_proj"],
    "chatglm3": ["dense", "dense_4h_to_h", "dense_h_to_4h", "query_key_value"],
    "chatglm2": ["query_key_value"],
    "chatglm_6b": ["query_key_value"],
    "qwen_v1": ["c_attn", "c_proj", "w1", "w2"],
}
FUSED = {"internlm2": "wqkv", "baichuan2_7b": "W_pack", "qwen_v1": "c_attn"}
EMBEDDINGS = {"internlm2": ["output", "tok_embeddings"], "chatglm3": ["output_layer", "word_embeddings"]}


@pytest.fixture(autouse=True, scope="module")
def _one_thread():
    torch.set_num_threads(1)


def base_of(name: str) -> Path:
    return PARITY / name / "checkpoint"


def native(base: Path, name: str):
    return load_model(base, dtype="float32", device="cpu", options=options_of(name))


def weights(name: str) -> dict[str, torch.Tensor]:
    return {key: tensor.float() for key, tensor in read_tensors(base_of(name), lambda key: bool(key))}


def skeleton(name: str) -> torch.nn.Module:
    """The layers of a publisher's model, by its names."""
    tensors = weights(name)
    root = torch.nn.Module()
    for tensor, weight in tensors.items():
        path, kind = tensor.rpartition(".")[::2]
        if kind != "weight":
            continue
        *inner, last = path.split(".")
        parent = root
        for step in inner:
            if not hasattr(parent, step):
                parent.add_module(step, torch.nn.Module())
            parent = getattr(parent, step)
        if "embed" in path or "wte" in path:
            layer = torch.nn.Embedding(*weight.shape)
        elif weight.ndim == 2:
            layer = torch.nn.Linear(*reversed(weight.shape), bias=f"{path}.bias" in tensors)
        else:
            layer = torch.nn.LayerNorm(weight.shape, bias=f"{path}.bias" in tensors)
        parent.add_module(last, layer)
        for name_, parameter in layer.named_parameters():
            parameter.data = tensors[f"{path}.{name_}"]
    return root


def randomise(model: torch.nn.Module) -> None:
    random = torch.Generator().manual_seed(0)
    for name, weight in model.named_parameters():
        if "lora_magnitude" in name:
            weight.data *= 1 + 0.1 * torch.rand(weight.shape, generator=random)
        elif "lora_" in name or "modules_to_save" in name:
            weight.data += 0.1 * torch.randn(weight.shape, generator=random)


def save(directory: Path, config: LoraConfig, tensors: dict, base: Path) -> Path:
    """As PEFT's save_pretrained does."""
    directory.mkdir(parents=True)
    content = {**config.to_dict(), "base_model_name_or_path": str(base), "inference_mode": True}
    for key, value in content.items():
        content[key] = sorted(value) if isinstance(value, set) else value
    (directory / "adapter_config.json").write_text(json.dumps(content, default=str))
    save_file(
        {f"base_model.model.{name}": tensor.clone() for name, tensor in tensors.items()},
        directory / "adapter_model.safetensors",
    )
    return directory


def theirs(name: str, directory: Path, **options) -> tuple[Path, torch.nn.Module]:
    """An adapter that PEFT made on a publisher's model, and that model."""
    config = LoraConfig(**{"r": 4, "lora_alpha": 12, "target_modules": TARGETS[name], **options})
    config.task_type = "CAUSAL_LM"
    model = inject_adapter_in_model(config, skeleton(name))
    randomise(model)
    return save(directory, config, get_peft_model_state_dict(model), base_of(name)), model


def merged(model: torch.nn.Module, name: str, directory: Path) -> Path:
    """The checkpoint with what PEFT would add to each of its layers."""
    tensors = weights(name)
    directory.mkdir()
    shutil.copyfile(base_of(name) / "config.json", directory / "config.json")
    for path, layer in model.named_modules():
        if hasattr(layer, "merge"):
            layer.merge()
            tensors[f"{path}.weight"] = layer.get_base_layer().weight.data
        elif hasattr(layer, "modules_to_save"):
            tensors[f"{path}.weight"] = layer.modules_to_save["default"].weight.data
    save_file({key: tensor.contiguous() for key, tensor in tensors.items()}, directory / "model.safetensors")
    return directory


def by_hand(adapter: Path, name: str, directory: Path, scale: float) -> Path:
    """The checkpoint with (alpha / r) B A added to its layers."""
    tensors = weights(name)
    factors = load_file(adapter / "adapter_model.safetensors")
    for key, b in factors.items():
        if key.endswith("lora_B.weight"):
            a = factors[key.replace("lora_B", "lora_A")]
            layer = key.removeprefix("base_model.model.").replace("lora_B.", "")
            tensors[layer] = tensors[layer] + scale * b @ a
    directory.mkdir()
    shutil.copyfile(base_of(name) / "config.json", directory / "config.json")
    save_file(tensors, directory / "model.safetensors")
    return directory


def logits(model) -> torch.Tensor:
    ids = torch.cat([torch.arange(20, 60), torch.tensor([701, 704])])[None]  # ends as ChatGLM-6B needs it
    with torch.inference_mode():
        return model(input_ids=ids).logits


def config_of(adapter: Path) -> dict:
    return json.loads((adapter / "adapter_config.json").read_text())


def as_published(adapter: Path, name: str) -> torch.nn.Module:
    """The publisher's model with an adapter, through PEFT, which must find a place for every tensor."""
    config = LoraConfig(**config_of(adapter))
    tensors = load_file(adapter / "adapter_model.safetensors")
    model = inject_adapter_in_model(config, skeleton(name))
    found = set_peft_model_state_dict(
        model, {key.removeprefix("base_model.model."): tensor for key, tensor in tensors.items()}
    )
    assert not found.unexpected_keys
    assert not [key for key in found.missing_keys if ".default" in key]
    return model


def deltas(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {
        name: layer.get_delta_weight("default").detach()
        for name, layer in model.named_modules()
        if hasattr(layer, "get_delta_weight")
    }


@pytest.mark.parametrize("name", TARGETS)
def test_imported_adapter_does_what_its_factors_do_in_the_fused_weights(name, tmp_path):
    adapter, _ = theirs(name, tmp_path / "theirs")
    done = convert_adapter(adapter, tmp_path / "ours", layout="native")
    ours = logits(load_adapter(native(base_of(name), name), done.path))
    expected = logits(native(by_hand(adapter, name, tmp_path / "merged", scale=3), name))
    assert (ours - expected).abs().max() < 1e-5 * expected.abs().max()  # float32, on either side
    assert (expected - logits(native(base_of(name), name))).abs().max() > 1e-3
    assert done.rank == 4
    assert done.modules == len(deltas(load_adapter(native(base_of(name), name), done.path)))


@pytest.mark.parametrize("name", TARGETS)
def test_back_again_is_the_same_to_the_bit(name, tmp_path):
    adapter, _ = theirs(name, tmp_path / "theirs", use_rslora=name == "chatglm3", lora_dropout=0.1)
    convert_adapter(adapter, tmp_path / "ours", layout="native")
    convert_adapter(tmp_path / "ours", tmp_path / "back", layout="original")
    assert config_of(tmp_path / "back") == for_old_peft(config_of(adapter))
    before, after = (load_file(path / "adapter_model.safetensors") for path in (adapter, tmp_path / "back"))
    assert before.keys() == after.keys()
    assert all(torch.equal(before[key], after[key]) for key in before)


OPTIONS = {
    "DoRA": {"use_dora": True},
    "rsLoRA": {"use_rslora": True, "lora_alpha": 6},
    "regex": {"target_modules": r".*layers\.1\.attention\.(wqkv|wo)"},
    "one layer": {"layers_to_transform": [1], "layers_pattern": "layers"},
    "patterns": {
        "rank_pattern": {"wqkv": 2, r"model.layers.0.feed_forward.w1": 3},
        "alpha_pattern": {"wqkv": 5, r"^model.layers.1.attention.wo": 7},
    },
    "embedding": {"target_modules": ["wqkv", "tok_embeddings"]},
    "whole layers": {"modules_to_save": EMBEDDINGS["internlm2"]},
    "whole norm": {"modules_to_save": ["model.norm", "1.attention_norm"]},
    "whole fused layer": {"target_modules": ["wo"], "modules_to_save": ["0.attention.wqkv"]},
}


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_every_kind_of_lora_does_the_same_in_both_layouts(options, tmp_path):
    name = "internlm2"
    adapter, model = theirs(name, tmp_path / "theirs", **options)
    convert_adapter(adapter, tmp_path / "ours", layout="native")
    convert_adapter(tmp_path / "ours", tmp_path / "back", layout="original")
    ours = logits(load_adapter(native(base_of(name), name), tmp_path / "ours"))
    back = as_published(tmp_path / "back", name)
    expected = logits(native(merged(model, name, tmp_path / "merged"), name))
    assert (ours - expected).abs().max() < 1e-5 * expected.abs().max()  # float32, on either side
    assert (expected - logits(native(base_of(name), name))).abs().max() > 1e-3
    again = logits(native(merged(back, name, tmp_path / "merged-again"), name))
    assert (again - expected).abs().max() < 1e-6
    before, after = (load_file(path / "adapter_model.safetensors") for path in (adapter, tmp_path / "back"))
    assert before.keys() == after.keys()
    assert all(torch.equal(before[key], after[key]) for key in before)


def trained_here(name: str, directory: Path, **options) -> tuple[Path, dict[str, torch.Tensor]]:
    """An adapter with A's of their own for q, k and v, and what it adds to each tensor of the publisher's."""
    base = native(base_of(name), name)
    state = {key: torch.zeros_like(weight) for key, weight in base.named_parameters()}
    model = get_peft_model(
        base, LoraConfig(**{"r": 4, "lora_alpha": 12, "task_type": "CAUSAL_LM", **options})
    )
    randomise(model)
    model.save_pretrained(directory)
    for layer, delta in deltas(model.base_model.model).items():
        state[f"{layer}.weight"] = delta
    layout = read_layout(base_of(name), options_of(name))
    return directory, dict(original_tensors(state, layout, layout.native_config))


@pytest.mark.parametrize("name", TARGETS)
def test_exported_adapter_adds_the_same_to_the_fused_weights(name, tmp_path):
    adapter, expected = trained_here(name, tmp_path / "ours", target_modules="all-linear")
    done = convert_adapter(adapter, tmp_path / "theirs", layout="original")
    assert done.rank == 12
    published = deltas(as_published(done.path, name))
    assert done.modules == len(published) > 2
    for tensor, delta in expected.items():
        found = published.get(tensor.removesuffix(".weight"), torch.zeros(()))
        assert (found - delta).abs().max() < 1e-6, tensor
    assert config_of(done.path)["target_modules"] != config_of(adapter)["target_modules"]


PARTIAL = {
    "query and value": {"target_modules": ["q_proj", "v_proj"]},
    "value": {"target_modules": ["v_proj", "o_proj"]},
    "rsLoRA": {"target_modules": "all-linear", "use_rslora": True},
    "ranks": {
        "target_modules": ["q_proj", "k_proj", "v_proj", "down_proj"],
        "rank_pattern": {"k_proj": 2, r"layers\.0\.mlp\.down_proj": 3},
        "alpha_pattern": {"v_proj": 5, "layers.1.self_attn.q_proj": 7},
    },
    "ranks and rsLoRA": {
        "target_modules": ["q_proj", "v_proj"],
        "rank_pattern": {"v_proj": 2},
        "use_rslora": True,
    },
    "first layer": {"target_modules": ["q_proj"], "layers_to_transform": [0]},
    "bias": {"target_modules": ["q_proj", "v_proj"], "lora_bias": True},
}


@pytest.mark.parametrize("options", PARTIAL.values(), ids=PARTIAL)
@pytest.mark.parametrize("name", ["internlm2", "qwen_v1"])
def test_export_of_some_parts_with_ranks_and_alphas_of_their_own(name, options, tmp_path):
    adapter, expected = trained_here(name, tmp_path / "ours", **options)
    convert_adapter(adapter, tmp_path / "theirs", layout="original")
    published = as_published(tmp_path / "theirs", name)
    for tensor, delta in expected.items():
        found = deltas(published).get(tensor.removesuffix(".weight"), torch.zeros(()))
        assert (found - delta).abs().max() < 1e-6, tensor
    convert_adapter(tmp_path / "theirs", tmp_path / "again", layout="native")
    ours = logits(load_adapter(native(base_of(name), name), adapter).double())
    again = logits(load_adapter(native(base_of(name), name), tmp_path / "again").double())
    assert (
        ours - again
    ).abs().max() < 1e-5  # in float64: only the factors can differ, where they are rounded


def test_dora_trained_here(tmp_path):
    options = {"target_modules": "all-linear", "use_dora": True}
    adapter, _ = trained_here("internlm2", tmp_path / "ours", **options)
    convert_adapter(adapter, tmp_path / "theirs", layout="original")
    published = merged(as_published(tmp_path / "theirs", "internlm2"), "internlm2", tmp_path / "merged")
    ours = logits(load_adapter(native(base_of("internlm2"), "internlm2"), adapter))
    assert (ours - logits(native(published, "internlm2"))).abs().max() < 1e-5


@pytest.mark.parametrize("name", ["chatglm3", "qwen_v1"])
@pytest.mark.parametrize("bias", ["all", "lora_only"])
def test_biases_go_along(name, bias, tmp_path):
    """They take the place of the base's."""
    adapter, _ = theirs(name, tmp_path / "theirs", bias=bias)
    file = adapter / "adapter_model.safetensors"
    tensors = load_file(file)
    for key in tensors:
        if key.endswith("bias"):
            tensors[key] += 0.5
    save_file(tensors, file)
    assert any(key.endswith("base_layer.bias") for key in tensors)
    convert_adapter(adapter, tmp_path / "ours", layout="native")
    model = as_published(adapter, name)
    expected = {key.replace("base_layer.", ""): value for key, value in model.state_dict().items()}
    checkpoint = merged(model, name, tmp_path / "merged")
    tensors = load_file(checkpoint / "model.safetensors")
    save_file(
        {key: expected[key] if key.endswith("bias") else tensor for key, tensor in tensors.items()},
        checkpoint / "model.safetensors",
    )
    ours = logits(load_adapter(native(base_of(name), name), tmp_path / "ours"))
    assert (ours - logits(native(checkpoint, name))).abs().max() < 3e-5
    convert_adapter(tmp_path / "ours", tmp_path / "back", layout="original")
    before, after = (load_file(path / "adapter_model.safetensors") for path in (adapter, tmp_path / "back"))
    assert before.keys() == after.keys()
    assert all(torch.equal(before[key], after[key]) for key in before)


def run(capsys, *args) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as done:
        main([str(arg) for arg in args])
    return done.value.code, *capsys.readouterr()


@pytest.mark.parametrize("name", FUSED)
def test_error_of_loading_is_the_command_that_helps(name, tmp_path, capsys):
    """Also of Baichuan, where PEFT loads those layers without a word that have the same name in both."""
    adapter, _ = theirs(name, tmp_path / "theirs")
    with pytest.raises(UsageError, match="publisher's code") as raised:
        load_adapter(native(base_of(name), name), adapter)
    command = raised.value.fix.replace("OUT", str(tmp_path / "out")).split()
    assert command[:3] == ["xtune", "convert", "adapter"]
    code, out, err = run(capsys, *command[1:])
    assert (code, err) == (0, "")
    assert out.startswith(f"converted {tmp_path / 'out'} (native layout, ")
    load_adapter(native(base_of(name), name), tmp_path / "out")


def test_pickled_adapters_and_files_beside(tmp_path):
    adapter, _ = theirs("internlm2", tmp_path / "theirs")
    safe = convert_adapter(adapter, tmp_path / "one", layout="native").path
    tensors = load_file(adapter / "adapter_model.safetensors")
    torch.save(tensors, adapter / "adapter_model.bin")
    (adapter / "adapter_model.safetensors").unlink()
    beside = ("tokenizer_config.json", "tokenizer.model", "special_tokens_map.json", "xtune.json")
    for name in beside:
        (adapter / name).write_text('{"template": "internlm2"}')
    out = convert_adapter(adapter, tmp_path / "two", layout="native").path
    assert (out / "adapter_model.safetensors").read_bytes() == (
        safe / "adapter_model.safetensors"
    ).read_bytes()
    assert {path.name for path in out.iterdir()} == {
        "adapter_config.json",
        "adapter_model.safetensors",
        *beside,
    }


def test_adapter_of_a_run(tmp_path, capsys):
    trained_here("internlm2", tmp_path / "run" / "adapter", target_modules=["q_proj", "down_proj"])
    for name in ("recipe.py", "environment.json"):
        (tmp_path / "run" / name).touch()
    code, out, err = run(
        capsys, "convert", "adapter", tmp_path / "run", tmp_path / "out", "--layout", "original"
    )
    assert (code, err) == (0, "")
    assert out == f"converted {tmp_path / 'out'} (original layout, 4 layers, rank 4)\n"
    assert config_of(tmp_path / "out")["target_modules"] == ["w2", "wqkv"]


def test_adapter_must_fit_to_the_last_tensor(tmp_path):
    """PEFT passes over what it does not know, and begins anew what it does not find."""
    adapter, _ = trained_here("internlm2", tmp_path / "ours", target_modules=["q_proj"])
    file = adapter / "adapter_model.safetensors"
    whole = load_file(file)
    name = "base_model.model.model.layers.1.self_attn.q_proj.lora_B.weight"
    save_file({key: tensor for key, tensor in whole.items() if key != name}, file)
    with pytest.raises(UsageError, match=r"it lacks: .*layers\.1\.self_attn\.q_proj\.lora_B\.weight \(1\)"):
        load_adapter(native(base_of("internlm2"), "internlm2"), adapter)
    save_file({**whole, name.replace("q_proj", "k_proj"): whole[name].clone()}, file)
    with pytest.raises(UsageError, match=r"has what the model has not: .*k_proj\.lora_B\.weight"):
        load_adapter(native(base_of("internlm2"), "internlm2"), adapter)
    save_file({**whole, name: whole[name][1:]}, file)
    with pytest.raises(UsageError, match="does not fit this model"):
        load_adapter(native(base_of("internlm2"), "internlm2"), adapter)
    file.write_bytes(b"half")
    with pytest.raises(UsageError, match="cannot be read"):
        load_adapter(native(base_of("internlm2"), "internlm2"), adapter)
    file.unlink()
    with pytest.raises(UsageError, match="it has no adapter_model"):
        load_adapter(native(base_of("internlm2"), "internlm2"), adapter)


WQKV = "base_model.model.model.layers.0.attention.wqkv.lora_B.weight"


@pytest.mark.parametrize(
    ("config", "tensors", "message"),
    [
        ({"peft_type": "IA3"}, {}, "Only LoRA adapters can be converted, and this is IA3"),
        ({"init_lora_weights": "pissa"}, {}, "'pissa', which changes the base's weights"),
        ({"layer_replication": [[0, 2]]}, {}, "layer_replication"),
        ({"modules_to_save": ["score"]}, {}, "modules_to_save names what is no layer with weights: score"),
        ({"target_modules": ["wo"]}, {}, r"target_modules does not name: model.layers.0.attention.wqkv"),
        ({"r": 5}, {}, r"wqkv.lora_A.weight is \[4, 64\], not \[5, 64\]"),
        ({}, {WQKV: torch.zeros(7, 4)}, r"layers.0.attention.wqkv.lora_B.weight is \[7, 4\], not \[96, 4\]"),
        ({}, {WQKV: None}, "layers.0.attention.wqkv.lora_B.weight is missing"),
        ({}, {WQKV: None, WQKV.replace("B", "A"): None}, "lacks tensors of layers .*0.attention.wqkv"),
        ({}, {"base_model.model.score.weight": torch.zeros(1)}, "no layers for .*: base_model.model.score"),
        ({}, {WQKV.replace("lora_B.weight", "bias"): torch.zeros(96)}, "and there is no bias"),
        ({"base_model_name_or_path": None}, {}, "names no base model"),
        ({"base_model_name_or_path": "./gone"}, {}, "is not at ./gone"),
        ({"base_model_name_or_path": str(base_of("internlm"))}, {}, "nothing to convert"),
        ({"base_model_name_or_path": str(base_of("qwen_v1"))}, {}, "no layers for these tensors"),
        ({"base_model_name_or_path": str(base_of("internlm2_linear"))}, {}, "does not fit the config.json"),
    ],
)
def test_what_cannot_be_converted(config, tensors, message, tmp_path, capsys):
    adapter, _ = theirs("internlm2", tmp_path / "theirs", target_modules=["wqkv"])
    (adapter / "adapter_config.json").write_text(json.dumps({**config_of(adapter), **config}))
    file = adapter / "adapter_model.safetensors"
    changed = {key: tensor for key, tensor in {**load_file(file), **tensors}.items() if tensor is not None}
    save_file(changed, file)
    with pytest.raises(UsageError, match=message) as raised:
        convert_adapter(adapter, tmp_path / "out", layout="native")
    assert raised.value.fix
    code, _, err = run(capsys, "convert", "adapter", adapter, tmp_path / "out", "--layout", "native")
    assert code == 2
    assert str(raised.value) in err
    assert [path.name for path in tmp_path.iterdir()] == ["theirs"]


def test_layout_that_it_has_already_and_out_that_exists(tmp_path):
    adapter, _ = theirs("internlm2", tmp_path / "theirs")
    with pytest.raises(UsageError, match="in that layout already"):
        convert_adapter(adapter, tmp_path / "out", layout="original")
    with pytest.raises(UsageError, match="exists already"):
        convert_adapter(adapter, tmp_path / "theirs", layout="native")
    with pytest.raises(UsageError, match="No adapter at"):
        convert_adapter(tmp_path, tmp_path / "out", layout="native")


def test_parts_of_a_fused_layer_that_no_zeros_can_stand_for(tmp_path):
    """DoRA's magnitudes of k and v would be the norms of the base's weights."""
    options = {"target_modules": ["q_proj"], "use_dora": True}
    adapter, _ = trained_here("internlm2", tmp_path / "ours", **options)
    with pytest.raises(
        UsageError, match=r"lora_magnitude_vector of only some of it, not of .*k_proj"
    ) as raised:
        convert_adapter(adapter, tmp_path / "out", layout="original")
    assert raised.value.fix.startswith("Make a merged model instead: xtune convert merge")
