"""Tokens that a recipe adds: one id in any text, rows that begin as the mean and learn, in all that is written."""

from __future__ import annotations

import json
import pickle
import re
import shutil

import pytest
import torch
from safetensors.torch import load_file

from tests.families.conftest import options_of, published  # noqa: F401 (a fixture)
from xtune.chat.generate import stop_ids
from xtune.chat.load import load_chat
from xtune.convert.export import export
from xtune.convert.merge import merge
from xtune.data.cache_key import cache_key
from xtune.data.encoding.encode import Encoder, encode
from xtune.errors import RecipeError, UsageError
from xtune.families.choose_template import choose_template
from xtune.families.tokenizer import declared_tokens, load_tokenizer
from xtune.messages import Document, Message
from xtune.model.adapters import attach_adapter
from xtune.model.added_tokens import add_tokens, grow_embeddings
from xtune.model.load import load_model
from xtune.recipe.load import load_recipe
from xtune.recipe.schema import Data, Lora, Model
from xtune.run.target import find_target
from xtune.templates.template import find_template
from xtune.training.train import prepare, resume, train

TOKENS = ["<tool>", "</tool>", "一 个"]
QUESTION = [Message("user", "say 一 个 <tool>")]
TEXTS = ["<tool>", "a<tool>b", "  <tool> </tool>\n 一 个一 个", "x 一 个 y", "一 一 个"]


def recipe_of(base, folder, method="dict(kind='lora', rank=4)", tokens=TOKENS, **model):
    rows = [
        [{"role": "user", "content": f"{i}?"}, {"role": "assistant", "content": f"<tool>{i}</tool>"}]
        for i in range(4)
    ]
    (folder / "data.jsonl").write_text("\n".join(json.dumps({"messages": row}) for row in rows))
    (folder / "recipe.py").write_text(f"""
model = dict(path={str(base)!r}, added_tokens={tokens!r}, **{model!r})
method = {method}
data = dict(sources=[dict(path="data.jsonl")], max_length=256)
train = dict(steps=2, batch_size=4, lr=1e-2, checkpoint_every=1)
""")
    return load_recipe(folder / "recipe.py")


def logits(model, ids):
    with torch.inference_mode():
        return model(input_ids=torch.tensor([ids.tolist()])).logits.float()


@pytest.fixture(scope="module")
def grown(tiny_model):
    """SmolLM2's tokenizer with the tokens."""
    return load_tokenizer(tiny_model, added_tokens=TOKENS)


@pytest.fixture(scope="module")
def run(tiny_model, tmp_path_factory):
    """A LoRA run on a model whose embeddings are tied and that has no spare rows."""
    folder = tmp_path_factory.mktemp("added")
    return train(recipe_of(tiny_model, folder), run_dir=folder / "run")


@pytest.mark.parametrize("text", TEXTS)
def test_one_id_in_any_text(tokenizer, grown, text):
    encoder = pickle.loads(pickle.dumps(Encoder.of(grown, find_template("chatml"))))  # as for a worker
    (ids,) = encoder.encode_pieces(encoder.pieces(Document(text)))
    expected = []
    for part in re.split(f"({'|'.join(TOKENS)})", text):
        known = part in TOKENS
        expected += [49152 + TOKENS.index(part)] if known else tokenizer(part).input_ids
    assert ids.input_ids.tolist() == [*expected, tokenizer.eos_token_id]
    assert grown.decode(expected) == text
    assert [text[slice(*span)] for span in encoder.words.spans(text)].count("<tool>") == text.count("<tool>")


def test_no_first_space_after_one(published):  # noqa: F811
    """What follows goes on from other text, as after the template's own tokens."""
    plain = load_tokenizer(published("baichuan_7b"))
    tokens = load_tokenizer(published("baichuan_7b"), added_tokens=TOKENS)
    without, ids = (
        encode([Message("user", text)], tokenizer=each, template="baichuan").input_ids.tolist()
        for each, text in ((plain, "good day"), (tokens, "<tool>good day"))
    )
    blank = plain.convert_tokens_to_ids("▁")
    assert ids == [without[0], declared_tokens(tokens)["<tool>"], *without[1 + (without[1] == blank) :]]


def test_the_templates_control_tokens_stay_control_tokens(tiny_model, tokenizer):
    """Also where they are declared: what people type stays text."""
    declared = load_tokenizer(tiny_model, added_tokens=["<|im_end|>", "<repo_name>"])
    assert len(declared) == len(tokenizer)
    texts = ("a <|im_end|> b", "a <repo_name> b")
    typed, spare = (
        [
            encode([Message("user", text)], tokenizer=each, template="chatml").input_ids
            for each in (tokenizer, declared)
        ]
        for text in texts
    )
    assert typed[0].tolist() == typed[1].tolist()
    assert declared_tokens(declared)["<repo_name>"] in set(spare[1]) - set(spare[0])


def test_a_template_of_ones_own_may_write_them(tiny_model, tmp_path):
    file = tmp_path / "own.jinja"
    file.write_text(
        "{% for m in messages %}<tool>{{ m.role }}\n{% if m.role == 'assistant' %}{% generation %}{{ m.content }}"
        "</tool>{% endgeneration %}{% else %}{{ m.content }}</tool>{% endif %}{% endfor %}"
    )
    tokenizer = load_tokenizer(tiny_model, added_tokens=TOKENS)
    template = choose_template(str(file), tiny_model, added_tokens=TOKENS).template
    messages = [Message("user", "</tool> 一 个"), Message("assistant", "yes")]
    encoded = encode(messages, tokenizer=tokenizer, template=template)
    begin, end, other = declared_tokens(tokenizer).values()
    assert [encoded.input_ids.tolist().count(index) for index in (begin, end, other)] == [2, 2, 1]
    assert encoded.labels[-1] == end in stop_ids(tokenizer, template)
    assert begin not in stop_ids(tokenizer, template)


def test_the_cache_depends_on_them(tiny_model, tokenizer):
    template = find_template("chatml")
    data = Data(sources=[{"path": "nowhere.jsonl"}])
    tokenizers = [tokenizer] + [
        load_tokenizer(tiny_model, added_tokens=tokens) for tokens in (["<a>"], ["<b>"], ["<repo_name>"])
    ]
    assert len({cache_key(data, each, template, "sft") for each in tokenizers}) == 4


@pytest.mark.parametrize(
    ("tokens", "reason"),
    [(["a", " "], "' ' is no token"), ([""], "'' is no token"), (["<a>", "<a>"], "twice")],
)
def test_faults(tiny_model, tmp_path, tokens, reason):
    with pytest.raises(RecipeError, match=rf"recipe.py:2: model.added_tokens: .*{reason}"):
        recipe_of(tiny_model, tmp_path, tokens=tokens)


@pytest.mark.parametrize("token", ["Ġthe", "<é>"])
def test_what_the_tokenizer_would_write_otherwise_is_refused(tiny_model, token):
    with pytest.raises(RecipeError, match="cannot be added"):
        load_tokenizer(tiny_model, added_tokens=[token])


@pytest.mark.parametrize("token", ["the", "a", "user"])
def test_ordinary_pieces_are_refused(tiny_model, token):
    with pytest.raises(RecipeError, match=f"'{token}' cannot be added: it is an ordinary piece"):
        load_tokenizer(tiny_model, added_tokens=["<tool>", token])


@pytest.mark.parametrize(
    ("name", "spare"),
    [
        ("internlm", "<TOKENS_UNUSED_2>"),
        ("internlm2", "[UNUSED_TOKEN_140]"),
        ("baichuan2_7b", "<reserved_100>"),
        ("chatglm3", "<|user|>"),
        ("glm4", "<|user|>"),
        ("qwen_v1", "<|extra_0|>"),
    ],
)
def test_the_publishers_spare_and_control_tokens_are_not(published, name, spare):  # noqa: F811
    known = load_tokenizer(published(name)).get_vocab()
    assert declared_tokens(load_tokenizer(published(name), added_tokens=[spare])) == {spare: known[spare]}
    with pytest.raises(RecipeError, match="'a' cannot be added: it is an ordinary piece"):
        load_tokenizer(published(name), added_tokens=["a"])


@pytest.mark.parametrize("tied", [True, False])
def test_new_rows_begin_as_the_mean_and_spare_ones_come_first(tiny_model, tied):
    model = load_model(tiny_model)
    if not tied:
        model.lm_head.weight = torch.nn.Parameter(model.lm_head.weight.detach() * 2)
    before = model.lm_head.weight.detach().clone()
    grow_embeddings(model, [7, 49152, 49153], new=[49152, 49153])
    others = torch.cat([before[:7], before[8:]])
    for _ in range(2):
        embedding, output = model.get_input_embeddings(), model.get_output_embeddings()
        assert (output.weight is embedding.weight) == tied
        assert embedding.num_embeddings == output.out_features == model.config.vocab_size == 49280
        assert torch.equal(output.weight[:49152], before)
        torch.testing.assert_close(output.weight[49152:], others.mean(0).expand(128, -1))
        embedding.weight.data[49154:] = 9.0  # to see that they do not count
        output.weight.data[49154:] = 9.0
        grow_embeddings(model, [7, 49152, 49153, 49154], new=[49154])
        output.weight.data[49155:] = output.weight.data[49154]


def test_those_that_the_base_has_keep_their_rows(tiny_model):
    model = load_model(tiny_model)
    before = model.lm_head.weight.detach().clone()
    assert add_tokens(model, Model(path=str(tiny_model), added_tokens=["<repo_name>"])) == [3]
    assert torch.equal(model.lm_head.weight, before)


def test_they_learn_and_resume(run, tmp_path):
    tensors = load_file(run.path / "adapter" / "adapter_model.safetensors")
    (name,) = (name for name in tensors if "lora_" not in name)
    assert tensors[name].shape == (3, 64)
    assert not torch.equal(tensors[name][0], tensors[name][1])
    other = shutil.copytree(run.path, tmp_path / "run")
    shutil.rmtree(other / "checkpoints" / "checkpoint-2")
    shutil.rmtree(other / "adapter")
    resume(other)
    again = load_file(other / "adapter" / "adapter_model.safetensors")
    assert all(torch.equal(tensors[name], again[name]) for name in tensors)


def test_chat_peft_and_a_merged_model_agree(run, tmp_path):
    from peft import AutoPeftModelForCausalLM
    from transformers import AutoModelForCausalLM, AutoTokenizer

    target = find_target(str(run.path))
    model, tokenizer = load_chat(target)
    merged = merge(run.path, tmp_path / "merged")
    assert merged.check.same_answers == merged.check.prompts
    ids = encode(QUESTION, tokenizer=tokenizer, template=target.template).input_ids
    assert {49152, 49154} <= {*ids.tolist()}
    ours = logits(model, ids)
    stock, info = AutoModelForCausalLM.from_pretrained(tmp_path / "merged", output_loading_info=True)
    assert not any(info.values())
    assert stock.get_output_embeddings().weight is stock.get_input_embeddings().weight
    torch.testing.assert_close(logits(stock, ids), ours, atol=1e-4, rtol=1e-4)
    # PEFT grows a base by as many rows as the tokenizer has tokens.
    alone = AutoPeftModelForCausalLM.from_pretrained(run.path / "adapter").eval()
    torch.testing.assert_close(logits(alone, ids), ours[..., :49155], atol=1e-4, rtol=1e-4)
    again = find_target(str(tmp_path / "merged"))
    for tokens in (AutoTokenizer.from_pretrained(tmp_path / "merged"), load_chat(again)[1]):
        assert tokens("<tool>").input_ids == [49152]
    assert encode(QUESTION, tokenizer=tokens, template=again.template).input_ids.tolist() == ids.tolist()


def test_full_training(tiny_model, tmp_path):
    run = train(recipe_of(tiny_model, tmp_path, "dict(kind='full')"), run_dir=tmp_path / "run")
    model, tokenizer = load_chat(find_target(str(run.path)))
    assert model.config.vocab_size == 49280
    assert declared_tokens(tokenizer) == {token: 49152 + index for index, token in enumerate(TOKENS)}
    rows = model.get_input_embeddings().weight
    assert rows is model.get_output_embeddings().weight
    assert not torch.equal(rows[49152], rows[49153])


@pytest.mark.parametrize(
    ("name", "method"),
    [
        ("internlm2", "dict(kind='lora', rank=4, init='pissa', dora=True)"),
        ("chatglm3", "dict(kind='qlora', rank=4)"),
        ("baichuan2_7b", "dict(kind='lora', rank=4)"),  # whose output layer is none of PEFT's
    ],
)
def test_publishers_layouts(published, name, method, tmp_path):  # noqa: F811
    base, tokens = published(name), [*TOKENS, *(f"<{i}>" for i in range(60))]
    options = options_of(name).chosen()
    run = train(recipe_of(base, tmp_path, method, tokens, **options), run_dir=tmp_path / "run")
    target = find_target(str(run.path))
    model, tokenizer = load_chat(target)
    ids = encode(QUESTION, tokenizer=tokenizer, template=target.template).input_ids
    assert declared_tokens(tokenizer)["<tool>"] in ids
    merged = merge(run.path, tmp_path / "merged")
    assert merged.check.largest_difference < 0.15 * max(1, merged.check.adapter_effect)
    config = json.loads((merged.path / "config.json").read_text())
    assert config.get("padded_vocab_size", config.get("vocab_size")) == model.config.vocab_size == 1024
    file = merged.path / "tokenizer.model"
    assert file.read_bytes() == (base / "tokenizer.model").read_bytes()
    settings = json.loads((merged.path / "tokenizer_config.json").read_text())
    assert settings["added_tokens_decoder"][str(len(tokenizer) - 1)]["content"] == "<59>"
    export(run.path, tmp_path / "native", "native")
    export(tmp_path / "native", tmp_path / "back", "original", base=base)
    for place in ("merged", "native", "back"):
        again = load_tokenizer(tmp_path / place, family=target.options.family)
        assert again.get_vocab() == tokenizer.get_vocab()
        assert declared_tokens(again) == declared_tokens(tokenizer)


def test_a_tokenizer_that_takes_none(published, tmp_path):  # noqa: F811
    base = published("qwen_v1")
    with pytest.raises(UsageError, match="takes no new tokens, such as <tool>") as raised:
        prepare(recipe_of(base, tmp_path, "dict(kind='full')"))
    assert "<|extra_0|>" in raised.value.fix
    prepare(recipe_of(base, tmp_path, "dict(kind='full')", ["<|extra_0|>"]))
    run = train(recipe_of(base, tmp_path), run_dir=tmp_path / "run")
    with pytest.raises(UsageError, match="takes no new tokens"):
        merge(run.path, tmp_path / "merged")
    export(run.path, tmp_path / "native", "native")
    assert "<tool>" in load_tokenizer(tmp_path / "native").get_vocab()


@pytest.mark.parametrize("target", ["embed_tokens", "lm_head"])
@pytest.mark.filterwarnings("ignore::UserWarning")  # PEFT's, of adapters on tied layers
def test_no_adapter_where_rows_are_trained(tiny_model, target):
    with pytest.raises(RecipeError, match=f"{target} cannot get an adapter"):
        attach_adapter(load_model(tiny_model), Lora(kind="lora", targets=[target, "q_proj"]), token_ids=[5])
