"""`xtune inspect` on whole and on damaged models; and that a damaged one is refused in words when it is loaded."""

import json
import shutil
import struct

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.families.conftest import NAMES, options_of, published  # noqa: F401 (a fixture)
from xtune.cli.main import main
from xtune.errors import UsageError
from xtune.families import read_layout
from xtune.model.load import load_model
from xtune.run.inspect import inspect
from xtune.run.target import write_note
from xtune.templates.template import find_template

LFS = "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 1234\n"


@pytest.fixture
def copy(published, tmp_path):  # noqa: F811
    """copy(name) is a directory of a published model to damage."""
    return lambda name="internlm2": shutil.copytree(published(name), tmp_path / name)


@pytest.fixture
def cli(capsys):
    """cli("inspect", …) -> (exit code, stdout, stderr), without a traceback in either."""

    def run(*args) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as ended:
            main([*map(str, args)])
        printed = capsys.readouterr()
        assert "Traceback" not in printed.out + printed.err
        return ended.value.code, printed.out, printed.err

    return run


@pytest.fixture
def refused(cli):
    """refused(directory) -> what inspect and chat say of a damaged model, each with exit code 2."""

    def run(directory) -> tuple[str, str]:
        (seen, _, inspected), (chatted, _, said) = (
            cli("inspect", directory),
            cli("chat", directory, "--prompt", "x"),
        )
        assert (seen, chatted) == (2, 2), inspected + said
        assert "fix: " in inspected
        assert "fix: " in said
        return inspected, said

    return run


@pytest.mark.parametrize("name", NAMES)
def test_every_published_model_is_whole_and_its_parameters_are_those_loaded(copy, name):
    directory = copy(name)
    if options := options_of(name).chosen():
        (directory / "xtune.json").write_text(json.dumps({"template": "chatml", "model_options": options}))
    seen = inspect(str(directory))
    assert not seen.problems
    model = load_model(directory, dtype="float32", options=options_of(name))
    assert seen.parameters == sum(weight.numel() for weight in model.parameters())
    assert (
        seen.recognised_by["model_type"] == json.loads((directory / "config.json").read_text())["model_type"]
    )
    layout = read_layout(directory, options_of(name))
    assert seen.conversion["class"] == layout.model_class.__name__
    assert seen.conversion["stock"] == layout.stock
    assert seen.tokenizer["vocabulary"] > 100
    for option, value in options.items():
        assert seen.options[option] == {"value": value, "by": "set"}


def test_what_is_printed(copy, cli):
    code, printed, _ = cli("inspect", copy())
    assert code == 0
    for line in (
        "internlm2 (InternLM2, InternLM2.5)",
        "by model_type = 'internlm2'",
        "model.layers.0.attention.wqkv.weight -> q_proj, k_proj, v_proj",
        "14 renamed, 2 split",
        "180.5 K parameters (180,544)",
        "100% bfloat16",
        "361.1 KB in bfloat16",
        "whole",
    ):
        assert line in printed
    code, printed, _ = cli("inspect", copy("chatglm2_32k"), "--json")
    assert code == 0
    seen = json.loads(printed)
    assert seen["options"] == {"rope": {"value": "linear", "by": "rule"}}
    assert seen["template"]["why"] == "the family's (chatglm)"
    assert seen["problems"] == []


def test_a_native_model_and_an_adapter_on_it(tiny_model, tmp_path, cli):
    code, printed, _ = cli("inspect", tiny_model)
    assert code == 0
    assert "transformers' own: LlamaForCausalLM" in printed
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    settings = {"r": 8, "lora_alpha": 16, "target_modules": ["v_proj", "q_proj"]}
    (adapter / "adapter_config.json").write_text(json.dumps(settings))
    write_note(adapter, base=str(tiny_model), template=find_template("smollm2"))
    seen = inspect(str(adapter))
    assert (seen.adapter["rank"], seen.adapter["template"]) == (8, "smollm2")
    assert (seen.directory, seen.parameters) == (str(tiny_model), inspect(str(tiny_model)).parameters)
    assert "rank 8, alpha 16, on q_proj, v_proj" in cli("inspect", adapter)[1]


def test_tensors_that_do_not_fit(copy, refused):
    directory = copy()
    file = directory / "model.safetensors"
    tensors = load_file(file)
    del tensors["model.layers.1.attention.wqkv.weight"], tensors["model.layers.0.ffn_norm.weight"]
    tensors["model.layers.0.attention.wqkv.weight"] = torch.zeros(7, 64)
    tensors["output.weight"] = torch.zeros(3, 64)
    tensors["v_head.weight"] = torch.zeros(1, 64)
    save_file(tensors, file, metadata={"format": "pt"})
    for told in refused(directory):
        assert (
            "Missing tensors (2): model.layers.0.ffn_norm.weight, model.layers.1.attention.wqkv.weight"
            in told
        )
        assert "model.layers.0.attention.wqkv.weight [7, 64] instead of [96, 64]" in told
        assert "output.weight [3, 64] instead of [912, 64]" in told
        assert "without a place in the model (1): v_head.weight" in told
    assert {problem.tensors for problem in inspect(str(directory)).problems} >= {("v_head.weight",)}


def test_a_missing_expert(tmp_path, tokenizer, refused):
    from transformers import Qwen3MoeConfig, Qwen3MoeForCausalLM

    config = Qwen3MoeConfig(
        vocab_size=49152,
        hidden_size=16,
        moe_intermediate_size=8,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=8,
        num_experts=2,
        num_experts_per_tok=1,
    )
    Qwen3MoeForCausalLM(config).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    assert not inspect(str(tmp_path)).problems
    tensors = load_file(tmp_path / "model.safetensors")
    del tensors["model.layers.0.mlp.experts.1.up_proj.weight"]
    save_file(tensors, tmp_path / "model.safetensors", metadata={"format": "pt"})
    for told in refused(tmp_path):
        assert "experts" in told


def test_a_missing_shard(copy, refused):
    directory = copy("baichuan2_7b")
    (directory / "pytorch_model-00002-of-00002.bin").unlink()
    for told in refused(directory):
        assert "1 of 2 weight files are missing: pytorch_model-00002-of-00002.bin" in told
    assert "Missing tensors" not in refused(directory)[0]  # because of it
    (directory / "pytorch_model.bin.index.json").unlink()
    for told in refused(directory):
        assert "index of the weight files is missing" in told


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (LFS.encode(), "Git LFS pointer"),
        (b"<!DOCTYPE html><html>", "web page"),
        (b"", "is empty"),
        (struct.pack("<Q", 10**12) + b"{", "not a safetensors file"),
    ],
)
@pytest.mark.parametrize("name", ["internlm2", "baichuan_7b"])
def test_what_is_no_weight_file(copy, refused, name, content, reason):
    directory = copy(name)
    file = next(
        file for file in directory.iterdir() if file.name in ("model.safetensors", "pytorch_model.bin")
    )
    file.write_bytes(content)
    if name == "baichuan_7b" and "safetensors" in reason:
        reason = "no zip archive"
    for told in refused(directory):
        assert reason in told
        assert file.name in told


@pytest.mark.parametrize("name", ["internlm2", "baichuan_7b"])
def test_a_file_cut_short(copy, refused, name):
    directory = copy(name)
    file = next(
        file for file in directory.iterdir() if file.name in ("model.safetensors", "pytorch_model.bin")
    )
    file.write_bytes(file.read_bytes()[:-1000])
    for told in refused(directory):
        assert f"{file.name} is cut short" in told


class Malicious:
    """On unpickling it writes a file."""

    def __init__(self, file):
        self.file = str(file)

    def __reduce__(self):
        return exec, (f"open({self.file!r}, 'w').close()",)


@pytest.mark.parametrize("zipped", [True, False])
def test_a_pickle_runs_nothing(copy, refused, cli, tmp_path, zipped):
    directory, trace = copy("baichuan_7b"), tmp_path / "trace"
    file = directory / "pytorch_model.bin"
    tensors = torch.load(file, weights_only=True)
    torch.save({**tensors, "more": Malicious(trace)}, file, _use_new_zipfile_serialization=zipped)
    for told in refused(directory):
        assert "exec" in told if zipped else "no zip archive" in told
    with pytest.raises(UsageError):
        load_model(directory)
    assert not trace.exists()
    torch.load(file, weights_only=False)
    assert trace.exists()  # the pickle does what it is said to


def test_safetensors_go_before_bin(copy):
    directory = copy()
    (directory / "pytorch_model.bin").write_bytes(b"never read")
    seen = inspect(str(directory))
    assert not seen.problems
    assert "the safetensors are used" in seen.notes[0]


def test_tokenizer_and_template_that_are_damaged_are_problems(copy, tiny_model, tmp_path, cli):
    directory = copy()
    (directory / "tokenizer.model").write_text(LFS)
    code, printed, told = cli("inspect", directory)
    assert (code, "parameters" in printed, "tokenizer.model" in told) == (2, True, True)
    directory = shutil.copytree(tiny_model, tmp_path / "native")
    (directory / "tokenizer.json").write_text(LFS)
    (directory / "tokenizer_config.json").write_text("{")
    code, _, told = cli("inspect", directory)
    assert code == 2
    assert "The tokenizer cannot be loaded" in told
    assert "The chat template cannot be read" in told


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        (None, "no config.json"),
        ("{", "not JSON"),
        ("[]", "not a table"),
        (LFS, "Git LFS pointer"),
        ('{"model_type": "mamba9", "auto_map": {}}', "Known families: internlm, internlm2"),
        ('{"model_type": "qwen", "visual": {}}', "it is a visual model"),
        ('{"model_type": "baichuan", "vocab_size": 9}', "without which a baichuan model cannot be built"),
        ('{"model_type": "vit"}', "No causal language model can be built"),
    ],
)
def test_what_is_no_model(copy, cli, config, reason):
    directory = copy()
    (directory / "config.json").unlink()
    if config:
        (directory / "config.json").write_text(config)
    code, _, told = cli("inspect", directory)
    assert code == 2
    assert reason in told


@pytest.mark.parametrize(
    "kind", ["llama", "qwen2"]
)  # of which the latter gets an empty one from transformers
def test_a_tokenizer_that_is_not_there(tiny_model, tmp_path, kind):
    config = json.loads((tiny_model / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "model_type": kind}))
    told = [problem.what for problem in inspect(str(tmp_path)).problems]
    assert "The tokenizer is missing." in told or "The tokenizer cannot be loaded" in " ".join(told)
