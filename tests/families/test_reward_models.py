"""Every architecture as a reward model: packed, padded and alone it gives the same scores, and so does its result."""

from __future__ import annotations

import json
import shutil

import pytest
import torch

from tests.families.conftest import NAMES, options_of
from tests.families.test_native_life_cycle import ARCHITECTURES, SMALL
from xtune.chat.reward import load_reward_model, ready
from xtune.convert.export import export
from xtune.convert.reward import write_reward_model, write_trained
from xtune.convert.weights import read_tensors
from xtune.data.batches.collate import collate
from xtune.data.encoding.encode import encode
from xtune.errors import UsageError
from xtune.families.choose_template import choose_template
from xtune.families.family import Options
from xtune.families.tokenizer import load_tokenizer
from xtune.messages import Message
from xtune.model.adapters import attach_adapter, save_adapter
from xtune.model.attention import use_packed_attention
from xtune.model.load import load_model
from xtune.model.reward import add_head, score_texts, scores
from xtune.recipe.schema import Lora
from xtune.run.inspect import inspect
from xtune.run.target import Target, write_note

CONVERSATIONS = [
    [Message("user", question), Message("assistant", answer)]
    for question, answer in (("Hi", "Hello!"), ("What is 2 + 2?", "4"), ("你好", "OK, and now?"))
]


@pytest.fixture(params=[*NAMES, "llama3_2", "qwen3", "glm"])
def base(request, published, tokenizer, tmp_path):
    """A base model as a Target."""
    name = request.param
    if name in NAMES:
        directory, options, template = published(name), options_of(name), "auto"
    else:
        from transformers import AutoConfig, AutoModelForCausalLM

        directory, options, template = tmp_path / "base", Options(), "chatml"
        model_type, different = ARCHITECTURES[name]
        config = AutoConfig.for_model(model_type, **(SMALL | different))
        AutoModelForCausalLM.from_config(config).save_pretrained(directory)
        tokenizer.save_pretrained(directory)
    chosen = choose_template(template, directory, family=options.family).template
    return Target(str(directory), None, chosen, options, reward=True)


def texts_of(target, tokenizer):
    return [encode(messages, tokenizer=tokenizer, template=target.template) for messages in CONVERSATIONS]


def reward_model(target):
    torch.set_num_threads(1)
    model = load_model(target.base, dtype="float32", options=target.options)
    add_head(model, seed=0)
    return model, load_tokenizer(target.base, family=target.options.family)


def test_scores(base, tmp_path):
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    model, tokenizer = reward_model(base)
    texts = texts_of(base, tokenizer)
    alone = [score_texts(model, [text], 0)[0] for text in texts]
    assert len({round(score, 4) for score in alone}) == len(texts)
    assert score_texts(model, texts, tokenizer.pad_token_id) == pytest.approx(alone, abs=1e-5)
    use_packed_attention(model)
    with torch.no_grad():  # as in training, where Qwen does nothing special to long rows
        packed = scores(model.train(), collate(texts, packing=True, pad_id=0))
    assert packed.tolist() == pytest.approx(alone, abs=1e-5)

    has_class = base.options.position != "alibi" and "ChatGlm6B" not in type(model).__name__
    (tmp_path / "out").mkdir()
    if has_class:
        write_reward_model(model, base, tokenizer, tmp_path / "out")
        stock, info = AutoModelForSequenceClassification.from_pretrained(
            tmp_path / "out", output_loading_info=True, dtype="float32"
        )
        assert not any(info.values())
        assert stock.num_labels == 1
        pad = AutoTokenizer.from_pretrained(tmp_path / "out").pad_token_id
        assert stock.config.pad_token_id == pad
        batch = collate(texts, packing=False, pad_id=pad)
        with torch.no_grad():
            theirs = stock(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits
        assert theirs[:, 0].tolist() == pytest.approx(alone, abs=1e-5)
    else:
        with pytest.raises(UsageError, match="no class for sequence classification"):
            write_reward_model(model, base, tokenizer, tmp_path / "out")
        write_trained(model, base, tokenizer, tmp_path / "out")
    again = load_reward_model(tmp_path / "out", dtype="float32")
    assert again.score(CONVERSATIONS) == pytest.approx(alone, abs=1e-5)
    assert not inspect(str(tmp_path / "out")).problems


def test_an_adapter_is_exported_to_either_layout(published, tmp_path):
    from transformers import AutoModelForSequenceClassification

    base = published("internlm2")
    target = Target(str(base), None, choose_template("auto", base).template, reward=True)
    model, tokenizer = reward_model(target)
    adapted = attach_adapter(model, Lora(kind="lora", rank=4))
    for weight in adapted.parameters():
        if weight.requires_grad:
            weight.data += 0.01
    adapter = tmp_path / "adapter"
    save_adapter(adapted, adapter)
    tokenizer.save_pretrained(adapter)
    write_note(adapter, base=str(base), template=target.template, read_at="[UNUSED_TOKEN_140]")
    before = load_reward_model(adapter, dtype="float32").score(CONVERSATIONS)
    for layout in ("original", "native"):
        export(adapter, tmp_path / layout, layout)
        after = load_reward_model(tmp_path / layout, dtype="float32").score(CONVERSATIONS)
        assert after == pytest.approx(before, abs=0.05)  # bfloat16 on disk
    AutoModelForSequenceClassification.from_pretrained(tmp_path / "native")
    export(tmp_path / "native", tmp_path / "back", "original", base=base)
    there, back = (dict(read_tensors(tmp_path / name, bool)) for name in ("original", "back"))
    assert "v_head.weight" in there
    assert there.keys() == back.keys()
    assert all(torch.equal(there[name], back[name]) for name in there)


@pytest.mark.parametrize("code", [True, False])
def test_internlm2s_own_layout(published, tmp_path, code):
    """Weights and config as the publisher's reward models have them; read back without a note of ours."""
    name = "[UNUSED_TOKEN_140]"
    base = shutil.copytree(published("internlm2"), tmp_path / "base")
    body = "class InternLM2ForRewardModel(InternLM2PreTrainedModel):\n" if code else ""
    (base / "modeling_internlm2.py").write_text(body)
    template = choose_template("auto", base).template
    target = Target(str(base), None, template, reward=True, read_at=name)
    model, tokenizer = reward_model(target)
    token = tokenizer.convert_tokens_to_ids(name)
    before = ready(model, target, tokenizer).score(CONVERSATIONS)
    (tmp_path / "out").mkdir()
    write_reward_model(model, target, tokenizer, tmp_path / "out", original=True)
    from safetensors.torch import load_file

    theirs, ours = (load_file(place / "model.safetensors") for place in (base, tmp_path / "out"))
    assert {*ours} - {*theirs} == {"v_head.weight"}
    assert {*theirs} - {*ours} == {"output.weight"}
    assert ours["v_head.weight"].shape == (1, 64)
    assert all(torch.equal(ours[key], theirs[key].float()) for key in theirs if key in ours)
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config["architectures"] == ["InternLM2ForRewardModel"]
    assert config["reward_token_id"] == token
    assert config["auto_map"].get("AutoModel") == (
        "modeling_internlm2.InternLM2ForRewardModel" if code else None
    )
    (tmp_path / "out" / "xtune.json").unlink()
    again = load_reward_model(tmp_path / "out", dtype="float32")
    assert again.read_at == token
    assert again.score(CONVERSATIONS) == pytest.approx(before, abs=1e-6)


@pytest.mark.parametrize(
    ("name", "read_at"), [("internlm2", None), ("internlm2", "</s>"), ("chatglm3", None)]
)
def test_original_layouts_that_there_are_not(published, name, read_at):
    template = choose_template("auto", published(name)).template
    target = Target(str(published(name)), None, template, reward=True, read_at=read_at)
    if read_at:
        target = Target(target.base, None, template, reward=True, read_at=template.stop_tokens[0])
    model, tokenizer = reward_model(target)
    with pytest.raises(UsageError) as raised:
        write_reward_model(model, target, tokenizer, published(name), original=True)
    assert raised.value.where == "--layout original"
