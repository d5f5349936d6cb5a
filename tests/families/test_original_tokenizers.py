"""Tokenizers of checkpoints in their publishers' layout: the ids that the publishers' own code gave.

tests/fixtures/parity/*/tokenizer_expected.json and tests/fixtures/tokenizers/*.json were measured with it.
"""

from __future__ import annotations

import json
import shutil
from functools import cache
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from xtune.data.encoding.plain_tokenizer import plain_tokenizer
from xtune.errors import UsageError
from xtune.families import tokenizers_original as original

FIXTURES = Path(__file__).parents[1] / "fixtures"
MEASURED = FIXTURES / "tokenizers"
LOADERS = {
    "internlm": original.internlm_tokenizer,
    "internlm2": original.internlm2_tokenizer,
    "internlm3": original.internlm2_tokenizer,
    "qwen": original.qwen_tokenizer,
    "qwen_v1": original.qwen_tokenizer,
    "baichuan_13b": original.baichuan_tokenizer,
    "baichuan2_7b": original.baichuan_tokenizer,
    "chatglm3": original.chatglm2_tokenizer,
    "glm4": original.glm4_tokenizer,
    "chatglm_6b": original.chatglm_6b_tokenizer,
}
FAMILIES = [name for name in LOADERS if name != "qwen_v1"]
NAMED = {
    "internlm": {"<s>": 1, "</s>": 2, "<eoh>": 900, "<eoa>": 901},
    "internlm2": {"<|plugin|>": 901, "<|interpreter|>": 902, "<|action_end|>": 903, "<|im_start|>": 906},
    "internlm3": {"<|plugin|>": 907, "<|im_end|>": 911, "<|im_start|>": 912},
    "qwen": {"<|im_start|>": 701, "<|im_end|>": 702, "<|extra_204|>": 907},
    "baichuan_13b": {"<s>": 1, "<reserved_102>": 195, "<reserved_103>": 196},
    "baichuan2_7b": {"</s>": 2, "<reserved_106>": 9, "<reserved_107>": 10},
    "chatglm3": {"[gMASK]": 901, "sop": 903, "<|system|>": 905, "<|observation|>": 908, "</s>": 2},
    "glm4": {"[gMASK]": 702, "<sop>": 704, "<|user|>": 707, "<|end_of_video|>": 713},
    "chatglm_6b": {"[MASK]": 700, "[gMASK]": 701, "<sop>": 704, "<eop>": 705, "<s>": 1, "</s>": 2},
}
PARITY = sorted(
    folder.name
    for folder in (FIXTURES / "parity").iterdir()
    if (folder / "tokenizer_expected.json").is_file()
)


def read(file: Path) -> dict:
    return json.loads(file.read_text(encoding="utf-8"))


@cache
def measured(family: str) -> dict:
    """What the publisher's code gave; `times` repeats a text, to keep the file small."""
    content = read(MEASURED / f"{family}.json")
    for entry in content["texts"]:
        entry["text"] *= entry.get("times", 1)
    return content


@cache
def load(family: str):
    return LOADERS[family](FIXTURES / measured(family)["checkpoint"])


def control_ids(family: str) -> set[int]:
    return {*load(family).added_tokens_decoder, *load(family).all_special_ids, *NAMED[family].values()}


def plain_ids(family: str, text: str) -> list[int]:
    return plain_tokenizer(load(family)).encode(text, add_special_tokens=False).ids


@pytest.mark.parametrize("family", PARITY)
def test_ids_equal_the_publishers_on_the_parity_texts(family):
    folder = FIXTURES / "parity" / family
    loader = LOADERS.get(family) or LOADERS[family.rsplit("_", 1)[0]]
    tokenizer, expected = loader(folder / "checkpoint"), read(folder / "tokenizer_expected.json")
    for entry in expected["encode"]:
        assert tokenizer(entry["text"]).input_ids == entry["ids"]
        without = tokenizer(entry["text"], add_special_tokens=False).input_ids
        assert without == entry.get("ids_no_special", entry["ids"])
    chat = expected.get("chat") or {}
    if "text" in chat:
        assert tokenizer(chat["text"], add_special_tokens=False).input_ids == chat["ids"]


@pytest.mark.parametrize("family", FAMILIES)
def test_ids_equal_the_publishers_on_texts_chosen_to_break_them(family):
    tokenizer = load(family)
    for entry in measured(family)["texts"]:
        assert tokenizer(entry["text"]).input_ids == entry["ids"], entry["text"]
        assert tokenizer(entry["text"], add_special_tokens=False).input_ids == entry["ids_no_special"]


@pytest.mark.parametrize("family", FAMILIES)
def test_without_added_tokens_ordinary_text_keeps_the_publishers_ids(family):
    for entry in measured(family)["texts"]:
        if not entry["controls"]:
            assert plain_ids(family, entry["text"]) == entry["ids_no_special"], entry["text"]


@pytest.mark.parametrize("family", FAMILIES)
def test_decoding_gives_the_text_back_where_the_publishers_does(family):
    tokenizer = load(family)
    for entry in measured(family)["texts"]:
        if entry.get("round_trip") and "\ufffd" not in entry["text"]:
            assert tokenizer.decode(entry["ids_no_special"]) == entry["text"]


@pytest.mark.parametrize("family", FAMILIES)
def test_a_typed_control_token_stays_text(family):
    tokenizer = load(family)
    controls = control_ids(family)
    names = [tokenizer.convert_ids_to_tokens(token) for token in controls]
    for name in names:
        for text in (name, f"a{name}b", f" {name} ", name * 2, f"{name}\n"):
            assert not controls & set(plain_ids(family, text)), text


PARTS = st.sampled_from(
    [
        "<s>",
        "</s>",
        "<|im_end|>",
        "<eoa>",
        "[gMASK]",
        "sop",
        "<sop>",
        "<reserved_106>",
        "<0x0A>",
        "<",
        "[",
        "▁",
        " ",
        "\n",
    ]
)


@settings(max_examples=150, deadline=None, derandomize=True)
@given(st.lists(PARTS | st.text(max_size=6), max_size=8).map("".join))
def test_no_typed_text_becomes_a_control_token(text):
    for family in FAMILIES:
        assert not control_ids(family) & set(plain_ids(family, text)), family


# Without a dummy prefix nothing is lost but what NFC composes; the others may drop a blank at the start.
@settings(max_examples=200, deadline=None, derandomize=True)
@given(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="▁"), max_size=20))
def test_text_survives_encoding_and_decoding(text):
    for family in ("internlm", "internlm2", "internlm3", "baichuan2_7b", "baichuan_13b", "chatglm3", "glm4"):
        assert load(family).decode(plain_ids(family, text)) == text, family


@pytest.mark.parametrize(
    ("family", "tokens"),
    [
        ("internlm", {"bos": 1, "eos": 2, "pad": 2, "unk": 0}),
        ("internlm2", {"bos": 1, "eos": 2, "pad": 2, "unk": 0}),
        ("internlm3", {"bos": 1, "eos": 2, "pad": 2, "unk": 0}),
        ("qwen", {"bos": None, "eos": 700, "pad": 700, "unk": None}),
        ("baichuan_13b", {"bos": 1, "eos": 2, "pad": 0, "unk": 0}),
        ("baichuan2_7b", {"bos": 1, "eos": 2, "pad": 0, "unk": 0}),
        ("chatglm3", {"bos": 1, "eos": 2, "pad": 0, "unk": 0}),
        ("glm4", {"bos": None, "eos": 700, "pad": 700, "unk": None}),
        ("chatglm_6b", {"bos": 704, "eos": 705, "pad": 3, "unk": 0}),
    ],
)
def test_special_tokens_are_the_publishers(family, tokens):
    tokenizer = load(family)
    assert {name: getattr(tokenizer, f"{name}_token_id") for name in tokens} == tokens


@pytest.mark.parametrize("family", FAMILIES)
def test_control_tokens_are_found_by_name(family):
    vocabulary = load(family).get_vocab()
    assert {name: vocabulary.get(name) for name in NAMED[family]} == NAMED[family]


def test_internlm2_without_names_for_its_chat_tokens_still_has_them(tmp_path):
    source = FIXTURES / "parity" / "internlm2" / "checkpoint"
    shutil.copy(source / "tokenizer.model", tmp_path)
    tokenizer = original.internlm2_tokenizer(tmp_path)
    assert tokenizer.convert_tokens_to_ids(["<|plugin|>", "<|im_end|>", "<|im_start|>"]) == [901, 905, 906]
    assert tokenizer("<|im_start|>user\n").input_ids == load("internlm2")("<|im_start|>user\n").input_ids


def test_chatglm_6b_of_the_first_generation_numbers_text_after_the_image_tokens(tmp_path):
    shutil.copy(MEASURED / "chatglm_6b" / "ice_text.model", tmp_path)
    shifted = original.chatglm_6b_tokenizer(tmp_path)
    for text in ("", "你好\n  <s>😀", "hi<eop>"):
        assert shifted(text).input_ids == [token + 20000 for token in load("chatglm_6b")(text).input_ids]
    assert shifted.eos_token_id == 20705


def test_glm4_whose_settings_name_no_added_tokens_leaves_typed_ones_as_text(tmp_path):
    shutil.copy(MEASURED / "glm4" / "tokenizer.model", tmp_path)
    tokenizer = original.glm4_tokenizer(tmp_path)
    ids = tokenizer("<|user|>").input_ids
    assert ids[:2] == [702, 704]
    assert max(ids[2:]) < 700


FILES = {
    "internlm": "tokenizer.model",
    "internlm2": "tokenizer.model",
    "internlm3": "tokenizer.model",
    "qwen": "qwen.tiktoken",
    "baichuan2_7b": "tokenizer.model",
    "chatglm3": "tokenizer.model",
    "glm4": "tokenizer.model",
    "chatglm_6b": "ice_text.model",
}


@pytest.mark.parametrize("family", FILES)
def test_a_missing_or_damaged_file_is_named(family, tmp_path, capfd):
    name, source = FILES[family], FIXTURES / measured(family)["checkpoint"]
    content = (source / name).read_bytes()
    pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n"
    for damaged in (
        None,
        b"",
        content[: len(content) // 2 - 3],
        b"\x00\xff" * 500,
        b"<html>404</html>",
        pointer,
    ):
        if damaged is not None:
            (tmp_path / name).write_bytes(damaged)
        with pytest.raises(UsageError, match=name) as error:
            LOADERS[family](tmp_path)
        assert str(tmp_path) in error.value.where
        assert error.value.fix
    assert capfd.readouterr() == ("", "")


def test_a_rank_file_cut_at_the_end_of_a_line_is_noticed(tmp_path):
    shutil.copy(FIXTURES / "parity" / "qwen_v1" / "checkpoint" / "qwen.tiktoken", tmp_path)
    (tmp_path / "config.json").write_text('{"vocab_size": 151936}')
    with pytest.raises(UsageError, match="151936"):
        original.qwen_tokenizer(tmp_path)


def test_settings_that_belong_to_another_vocabulary_are_refused(tmp_path):
    shutil.copytree(MEASURED / "glm4", tmp_path, dirs_exist_ok=True)
    lines = (tmp_path / "tokenizer.model").read_text().splitlines(keepends=True)
    (tmp_path / "tokenizer.model").write_text("".join(lines[:650]))
    with pytest.raises(UsageError, match="disagree"):
        original.glm4_tokenizer(tmp_path)


def test_settings_that_are_not_json_are_named(tmp_path):
    shutil.copytree(MEASURED / "glm4", tmp_path, dirs_exist_ok=True)
    (tmp_path / "tokenizer_config.json").write_text("{")
    with pytest.raises(UsageError, match=r"tokenizer_config\.json"):
        original.glm4_tokenizer(tmp_path)
