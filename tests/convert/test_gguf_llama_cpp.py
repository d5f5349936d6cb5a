"""llama.cpp computes what transformers computes, from the files that are written for it.

Its binding is compiled on installing, for many minutes, so it is not in requirements/dev.txt:
CMAKE_ARGS=-DGGML_NATIVE=OFF pip install --no-deps llama-cpp-python diskcache
"""

from __future__ import annotations

import contextlib

import numpy as np
import pytest

from tests.families.conftest import NAMES, options_of, published  # noqa: F401 (a fixture)
from xtune.convert.gguf import convert_gguf
from xtune.convert.gguf_tokenizer import for_llama_cpp
from xtune.data.encoding.encode import encode
from xtune.families.choose_template import choose_template
from xtune.families.tokenizer import load_tokenizer
from xtune.messages import Message
from xtune.model.load import load_model
from xtune.run.target import find_target, write_note
from xtune.templates.render import render

llama_cpp = pytest.importorskip(
    "llama_cpp", reason="llama-cpp-python is not installed; it takes minutes to compile"
)
pytestmark = pytest.mark.slow

TEXTS = [
    *(
        "Hello world",
        "  two  spaces ",
        "12345 and 1.5",
        "你好，世界",
        "naïve café",
        "a\n\nb\tc",
        "it's IT'S we'll",
    ),
    *(
        "🙂👍🏽 ok",
        "Привет, мир",
        "こんにちは",
        "1 2 3  ",
        "x=y+z;",
        "ﬁ ligature",
        "１２３",
        "안녕하세요",
        "العربية ٣",
    ),
    *("हिन्दी", "ไทย", "end ", "\n", "don't", "philosopher", "½ €", "def f(x):\n    return x\n", "a" * 40),
]
CHAT = [
    Message("system", "You are brief."),
    Message("user", "Hello, 你好"),
    Message("assistant", "Hi there."),
    Message("user", "Why a philosopher?\n\n- 1\n- 2"),
]
# Without ALiBi and two-sided prompts, which llama.cpp is not given.
FAMILIES = [name for name in NAMES if name not in ("baichuan_13b", "baichuan2_13b", "chatglm_6b")]


@contextlib.contextmanager
def loaded(file):
    """The file in llama.cpp, which keeps keys and values in 16 bits unless told otherwise."""
    model = llama_cpp.Llama(
        str(file), n_ctx=512, n_threads=1, logits_all=True, type_k=0, type_v=0, verbose=False
    )
    try:
        yield model
    finally:
        model.close()


def logits(model, ids: list[int]) -> np.ndarray:
    model.reset()
    model.eval(ids)
    return np.array(model.scores[: len(ids)])


def relative(found: np.ndarray, expected: np.ndarray) -> float:
    return np.sqrt(np.square(found - expected).mean() / np.square(expected).mean()).item()


def difference(file, directory, options=None) -> float:
    """Between both programs' logits of 50 random tokens: its root mean square as a share of theirs."""
    import torch

    own = load_model(directory, dtype="float32", **({"options": options} if options else {}))
    ids = np.random.default_rng(0).integers(10, 200, 50).tolist()
    with torch.inference_mode():
        expected = own(input_ids=torch.tensor([ids])).logits[0].float().numpy()
    with loaded(file) as model:
        return relative(logits(model, ids), expected)


@pytest.mark.parametrize("name", FAMILIES)
def test_families_in_their_publishers_layout(published, tmp_path, name):  # noqa: F811
    import shutil

    directory = tmp_path / name
    shutil.copytree(published(name), directory)
    template = choose_template("auto", directory).template
    write_note(directory, base=None, template=template, options=options_of(name))
    file = convert_gguf(directory, tmp_path / "out.gguf", "f32").path
    # Baichuan2's output layer is normalised, and rounded to 16 bits, before.
    most = 0.005 if name == "baichuan2_7b" else 1e-5
    assert difference(file, directory, options_of(name)) < most
    tokenizer = load_tokenizer(directory)
    with loaded(file) as model:
        for text in TEXTS:
            expected = tokenizer.encode(text, add_special_tokens=False)
            assert model.tokenize(text.encode(), add_bos=False, special=False) == expected, text
        chat = CHAT if name not in ("chatglm2", "chatglm2_32k", "internlm", "internlm_dynamic") else CHAT[1:]
        for_it = render(chat, template=for_llama_cpp(template, tokenizer), add_generation_prompt=True)
        expected = encode(chat, tokenizer=tokenizer, template=template, add_generation_prompt=True).input_ids
        assert model.tokenize(for_it.text.encode(), add_bos=False, special=True) == expected.tolist()


LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32}
SHAPES = {
    "llama": {},
    "biases": {"attention_bias": True, "mlp_bias": True},
    "head_size": {"head_dim": 32},
    "tied": {"tie_word_embeddings": True},
    "llama3_rope": {"rope_parameters": {**LLAMA3, "rope_theta": 5e5}},
    "yarn": {"rope_parameters": {**YARN, "rope_theta": 1e4}},
    "linear": {"rope_parameters": {"rope_type": "linear", "factor": 4.0, "rope_theta": 1e4}},
    "qwen2": {"model_type": "qwen2"},
    "qwen2_yarn": {"model_type": "qwen2", "rope_parameters": {**YARN, "rope_theta": 1e6}},
    "qwen3": {"model_type": "qwen3", "head_dim": 32},
}


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("type", ["f32", "f16", "bf16", "q8_0"])
def test_native_models_of_every_shape(tmp_path, tokenizer, shape, type):
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    settings = {
        "model_type": "llama",
        "vocab_size": 49152,
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 128,
        "rope_parameters": {"rope_type": "default", "rope_theta": 1e4},
        "bos_token_id": 1,
        "eos_token_id": 2,
        **SHAPES[shape],
    }
    torch.manual_seed(0)
    config = AutoConfig.for_model(**settings)
    model = AutoModelForCausalLM.from_config(config)
    for parameter in model.parameters():  # biases begin as zeros, and norms as ones
        parameter.data.normal_(1.0 if parameter.dim() == 1 else 0.0, 0.2)
    directory = tmp_path / "model"
    model.save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    write_note(directory, base=None, template=find_target("smollm2").template)
    file = convert_gguf(directory, tmp_path / "out.gguf", type).path
    # llama.cpp rounds what it multiplies with weights to their type too, and random weights spread what is lost: a
    # wrong order of dimensions still differs by much more.
    most = {"f32": 1e-5, "f16": 0.01, "bf16": 0.05, "q8_0": 0.15}[type]
    assert difference(file, directory) < most


@pytest.mark.parametrize("type", ["f16", "bf16", "q8_0"])
def test_smollm2_says_the_same(tmp_path, tokenizer, type):
    """Tokens of texts, and greedy answers through the template in the file."""
    import torch

    file = convert_gguf("smollm2", tmp_path / "out.gguf", type).path
    own = load_model("smollm2", dtype="float32")
    with loaded(file) as model:
        for text in TEXTS:
            expected = tokenizer.encode(text, add_special_tokens=False)
            assert model.tokenize(text.encode(), add_bos=False, special=False) == expected, text
        for prompt in ("What is the capital of France?", "Name three colours.", "你好"):
            ids = encode(
                [Message("user", prompt)], tokenizer=tokenizer, template="smollm2", add_generation_prompt=True
            ).input_ids.tolist()
            with torch.inference_mode():
                answer = own.generate(
                    input_ids=torch.tensor([ids]), max_new_tokens=24, do_sample=False, eos_token_id=2
                )[0, len(ids) :]
                expected = own(input_ids=torch.tensor([ids])).logits[0].numpy()
            found = logits(model, ids)
            most = {"f16": 0.01, "bf16": 0.05, "q8_0": 0.1}[type]
            assert relative(found, expected) < most
            said = model.create_chat_completion(
                [{"role": "user", "content": prompt}], temperature=0, max_tokens=24
            )
            if type == "f16":
                text = tokenizer.decode(answer, skip_special_tokens=True)
                assert said["choices"][0]["message"]["content"] == text
