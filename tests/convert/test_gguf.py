"""GGUF files hold what the model holds: tensors, hyperparameters, tokenizer, template. Loading them is tested in
test_gguf_llama_cpp.py."""

from __future__ import annotations

import importlib.util
import shutil
from pathlib import Path
from typing import get_args

import gguf
import numpy as np
import pytest
from safetensors.torch import load_file, save_file

from tests.families.conftest import published  # noqa: F401 (a fixture)
from xtune.convert.gguf import convert_gguf
from xtune.convert.gguf_tokenizer import CONTROL, NORMAL, for_llama_cpp
from xtune.convert.gguf_weights import Type
from xtune.errors import UsageError
from xtune.families.embedded import GGUF, PACKAGE, _halves
from xtune.families.tokenizer import load_tokenizer
from xtune.model.load import load_model
from xtune.templates.render import render
from xtune.templates.template import find_template


def facts_of(file: Path) -> dict:
    """What a file says, by name."""
    return {name: field.contents() for name, field in gguf.GGUFReader(file).fields.items()}


def tensors_of(file: Path) -> dict[str, np.ndarray]:
    """The tensors of a file, in float32."""
    return {
        tensor.name: gguf.dequantize(tensor.data, tensor.tensor_type).reshape(tensor.shape[::-1].tolist())
        for tensor in gguf.GGUFReader(file).tensors
    }


@pytest.fixture(scope="module")
def files(published, tmp_path_factory) -> dict[str, Path]:  # noqa: F811
    """A tiny InternLM2, in its publisher's layout, as a file of each type."""
    folder = tmp_path_factory.mktemp("gguf")
    model = published("internlm2")
    return {type: convert_gguf(model, folder / f"{type}.gguf", type).path for type in get_args(Type)}


@pytest.fixture(scope="module")
def embedded() -> Path:
    """The GGUF file that SmolLM2 came in."""
    return Path(importlib.util.find_spec(PACKAGE).origin).parent / GGUF


@pytest.mark.parametrize("type", get_args(Type))
def test_tensors_are_those_of_the_model_as_far_as_the_type_holds_them(files, published, type):  # noqa: F811
    tensors = tensors_of(files[type])
    model = load_model(published("internlm2"), dtype="float32")
    assert len(tensors) == model.config.num_hidden_layers * 9 + 3
    heads = {"q_proj": model.config.num_attention_heads, "k_proj": model.config.num_key_value_heads}
    for name, original in {
        "token_embd.weight": "model.embed_tokens.weight",
        "output.weight": "lm_head.weight",
        "output_norm.weight": "model.norm.weight",
        "blk.1.attn_q.weight": "model.layers.1.self_attn.q_proj.weight",
        "blk.1.attn_k.weight": "model.layers.1.self_attn.k_proj.weight",
        "blk.1.attn_v.weight": "model.layers.1.self_attn.v_proj.weight",
        "blk.0.ffn_down.weight": "model.layers.0.mlp.down_proj.weight",
    }.items():
        found, expected = tensors[name], model.get_parameter(original).detach().numpy()
        if (layer := original.split(".")[-2]) in heads:
            found = _halves(found, heads[layer])
        exact = type == "f32" or expected.ndim == 1
        relative = 0 if exact else {"f16": 2**-10, "bf16": 2**-8, "q8_0": 0}[type]
        absolute = np.abs(expected).max() / 127 if type == "q8_0" and not exact else 0 if exact else 1e-6
        np.testing.assert_allclose(found, expected, rtol=relative, atol=absolute, err_msg=name)


def test_byte_level_tokenizers(published, tmp_path):  # noqa: F811
    directory = published("glm4")
    facts = facts_of(convert_gguf(directory, tmp_path / "out.gguf", "f32").path)
    tokenizer = load_tokenizer(directory)
    assert (facts["tokenizer.ggml.model"], facts["tokenizer.ggml.pre"]) == ("gpt2", "llama-bpe")
    names = facts["tokenizer.ggml.tokens"]
    assert [names[i] for i in range(len(tokenizer))] == tokenizer.convert_ids_to_tokens(range(len(tokenizer)))
    assert len(names) == len(set(names)) == facts["chatglm.vocab_size"]
    merged = {"".join(merge.split(" ")) for merge in facts["tokenizer.ggml.merges"]}
    assert merged <= set(names)
    assert facts["tokenizer.ggml.add_bos_token"] is False  # [gMASK]<sop> is the template's


def test_control_tokens_that_are_words_get_a_name_that_no_text_holds(published, tmp_path):  # noqa: F811
    """llama.cpp looks for control tokens anywhere in a prompt: in "philosophy" it would find ChatGLM3's `sop`."""
    directory = published("chatglm3")
    facts = facts_of(convert_gguf(directory, tmp_path / "out.gguf", "f32").path)
    tokenizer = load_tokenizer(directory)
    tokens, types = facts["tokenizer.ggml.tokens"], facts["tokenizer.ggml.token_type"]
    start = tokenizer.convert_tokens_to_ids("sop")
    assert (tokens[start], types[start]) == ("<|sop|>", CONTROL)
    assert not [
        token for token, kind in zip(tokens, types, strict=True) if kind == CONTROL and token.isalpha()
    ]
    assert types[tokenizer.convert_tokens_to_ids("▁th")] == NORMAL
    template = for_llama_cpp(find_template("chatglm3"), tokenizer)
    assert facts["tokenizer.chat_template"] == template.source
    asked = render([{"role": "user", "content": "sop"}], template=template, add_generation_prompt=True).text
    assert asked == "[gMASK]<|sop|><|user|>\n sop<|assistant|>"
    ends = [facts[f"tokenizer.ggml.{name}_token_id"] for name in ("eos", "eot", "eom")]
    assert tokenizer.convert_ids_to_tokens(ends) == ["</s>", "<|user|>", "<|observation|>"]


def test_scores_of_sentencepiece_order_pieces_as_its_model_does(published, tmp_path):  # noqa: F811
    from xtune.families.sentencepiece import NORMAL as PIECE
    from xtune.families.sentencepiece import read_model

    directory = published("internlm2")
    facts = facts_of(convert_gguf(directory, tmp_path / "out.gguf", "f32").path)
    assert facts["tokenizer.ggml.model"] == "llama"
    assert facts["tokenizer.ggml.add_bos_token"] is True
    scores = facts["tokenizer.ggml.scores"]
    pieces = read_model(directory / "tokenizer.model").pieces
    merged = [i for i, piece in enumerate(pieces) if piece.kind == PIECE and len(piece.text) > 1]
    by_file = sorted(merged, key=lambda i: -pieces[i].score)
    assert sorted(merged, key=lambda i: -scores[i]) == by_file


@pytest.mark.parametrize("name", ["baichuan_13b", "chatglm_6b"])
def test_models_that_llama_cpp_cannot_have_are_refused(published, tmp_path, name):  # noqa: F811
    with pytest.raises(UsageError, match="No class of transformers"):
        convert_gguf(published(name), tmp_path / "out.gguf")
    assert list(tmp_path.iterdir()) == []


def test_weights_too_large_for_f16_leave_nothing_behind(tiny_model, tmp_path):
    shutil.copytree(tiny_model, tmp_path / "model")
    weights = load_file(tmp_path / "model" / "model.safetensors")
    weights["model.layers.1.mlp.up_proj.weight"][0, 0] = 1e6
    save_file(weights, tmp_path / "model" / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(UsageError, match=r"up_proj\.weight are too large for f16") as raised:
        convert_gguf(tmp_path / "model", tmp_path / "out.gguf")
    assert "bf16" in raised.value.fix
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_a_file_that_is_there_is_kept(tiny_model, tmp_path):
    (tmp_path / "out.gguf").write_text("mine")
    with pytest.raises(UsageError, match="exists already"):
        convert_gguf(tiny_model, tmp_path / "out.gguf")
    assert (tmp_path / "out.gguf").read_text() == "mine"


def test_a_way_to_cut_words_without_a_name_is_refused(tiny_model, tmp_path):
    from tokenizers import Tokenizer, pre_tokenizers

    shutil.copytree(tiny_model, tmp_path / "model")
    file = str(tmp_path / "model" / "tokenizer.json")
    backend = Tokenizer.from_file(file)
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Punctuation(), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    backend.save(file)
    with pytest.raises(UsageError, match="cuts text into words in a way"):
        convert_gguf(tmp_path / "model", tmp_path / "out.gguf")


@pytest.mark.slow
def test_smollm2_comes_back_as_the_file_it_came_in(embedded, tmp_path):
    file = convert_gguf("smollm2", tmp_path / "out.gguf", "f32").path
    facts, expected = facts_of(file), facts_of(embedded)
    same = {name for name in facts.keys() & expected.keys() if name.startswith(("llama.", "tokenizer.ggml."))}
    assert len(same) > 18
    assert {name: facts[name] for name in same} == {name: expected[name] for name in same}
    tensors, original = tensors_of(file), tensors_of(embedded)
    assert tensors.keys() == original.keys()
    for name, tensor in original.items():
        np.testing.assert_array_equal(tensors[name], tensor, err_msg=name)
