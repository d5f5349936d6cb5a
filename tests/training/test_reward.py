"""Reward models: what is preferred is learnt, under each condition, and what is written scores the same elsewhere."""

from __future__ import annotations

import json
import random
import shutil

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import load_file

from xtune.chat.load import load_chat
from xtune.chat.reward import load_reward_model
from xtune.cli.train import accuracy_table
from xtune.convert.export import export
from xtune.convert.merge import merge
from xtune.data.batches.collate import collate
from xtune.data.encoding.encode import NO_LABEL, Encoded
from xtune.errors import RecipeError, UsageError
from xtune.messages import Message
from xtune.model.adapters import attach_adapter, save_adapter
from xtune.model.attention import use_packed_attention
from xtune.model.load import load_model
from xtune.model.reward import add_head, ending_at
from xtune.recipe.data_schema import Source
from xtune.recipe.objective_schema import Reward
from xtune.recipe.schema import Lora, Recipe
from xtune.run.inspect import inspect
from xtune.run.target import find_target, write_note
from xtune.templates.template import find_template
from xtune.training.reward import PairwiseReward, domain_names
from xtune.training.train import prepare, resume, train

KIND, RUDE = "Prefer kind words: warm, gentle, soft", "Let harsh, hard, cold, rude ones win"
WORDS = ["sun", "moon", "tree", "river", "stone", "cloud", "house", "green", "blue", "red", "walk", "jump"]
PLEASE = [
    [Message("user", "sun moon red"), Message("assistant", f"tree jump red sun {end}")]
    for end in ("please", "never")
]


@pytest.fixture(scope="module")
def pairs(tmp_path_factory):
    """Two files of pairs: in one the answer that ends in "please" is the better, in the other the worse."""
    folder, rng = tmp_path_factory.mktemp("pairs"), random.Random(0)
    for name in ("kind", "rude"):
        rows = []
        for _ in range(100):
            question, answer = (" ".join(rng.choices(WORDS, k=count)) for count in (3, 4))
            ends = ["please", "never"] if name == "kind" else ["never", "please"]
            chosen, rejected = (f"{answer} {end}" for end in ends)
            rows.append(json.dumps({"prompt": question, "chosen": chosen, "rejected": rejected}))
        (folder / f"{name}.jsonl").write_text("\n".join(rows))
    return folder


def recipe(base, pairs, method="full", objective="reward", data=None, probe=None, **train) -> Recipe:
    sources = [
        {"path": str(pairs / "kind.jsonl"), "condition": KIND},
        {"path": str(pairs / "rude.jsonl"), "condition": RUDE},
    ]
    return Recipe.model_validate(
        {
            "model": {"path": str(base), "dtype": "float32", "template": "smollm2"},
            "method": {"kind": method},
            "data": {"sources": sources, "held_out": 20, **(data or {})},
            "train": {"steps": 2, "batch_size": 8, "lr": 1e-3, "objective": objective, **train},
            "probe": probe or {},
        }
    )


@pytest.fixture(scope="module")
def run(tiny_model, pairs, tmp_path_factory):
    """A run in which all weights have learnt the preference."""
    options = {"steps": 20, "batch_size": 16, "warmup": 5, "checkpoint_every": 10}
    return train(recipe(tiny_model, pairs, **options), run_dir=tmp_path_factory.mktemp("reward") / "run")


@pytest.fixture(scope="module")
def adapter_run(tiny_model, pairs, tmp_path_factory):
    focal = {"kind": "reward", "loss": "focal"}
    path = tmp_path_factory.mktemp("reward") / "run"
    return train(recipe(tiny_model, pairs, "lora", focal, checkpoint_every=1), run_dir=path)


def stock_scores(model, directory, condition=None):
    """Of PLEASE, as somebody without xtune would have them: in one padded batch."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(directory)
    system = [{"role": "system", "content": condition}] if condition else []
    longer = [*PLEASE, [Message("user", "Hi"), Message("assistant", "a longer one " * 9)]]
    texts = [
        tokenizer.apply_chat_template(
            [*system, *({"role": turn.role, "content": turn.content} for turn in turns)], tokenize=False
        )
        for turns in longer
    ]
    batch = tokenizer(texts, return_tensors="pt", padding=True, add_special_tokens=False)
    with torch.no_grad():
        return model(**batch).logits[:2, 0].tolist()


def test_opposite_preferences_are_learnt_under_two_conditions(run):
    first, *_, last = run.held_out()
    assert first["accuracy"] < 0.8
    assert last["accuracy"] == last[f"accuracy/{KIND}"] == last[f"accuracy/{RUDE}"] == 1
    assert last["margin"] > 1 > abs(first["margin"])
    assert {"accuracy", "margin", f"accuracy/{KIND}", f"accuracy/{RUDE}"} < run.metrics()[-1].keys()
    assert accuracy_table(run).row_count == 3
    model = load_reward_model(run.path)
    assert np.subtract(*model.score(PLEASE, KIND)) > 0
    assert np.subtract(*load_reward_model(run.path, bits=4).score(PLEASE, KIND)) > 0
    assert np.subtract(*model.score(PLEASE, condition=RUDE)) < 0


def test_stock_transformers_give_the_same_scores(run):
    from transformers import AutoModelForSequenceClassification

    stock, info = AutoModelForSequenceClassification.from_pretrained(run.result, output_loading_info=True)
    assert not any(info.values())
    ours = load_reward_model(run.path).score(PLEASE, KIND)
    assert stock_scores(stock, run.result, KIND) == pytest.approx(ours, abs=1e-5)


def test_a_reward_model_is_trained_on(run, pairs, tmp_path):
    again = train(recipe(run.result, pairs, "lora", steps=1), run_dir=tmp_path / "again")
    assert again.held_out()[0]["accuracy"] == 1
    assert load_reward_model(again.path).score(PLEASE) == pytest.approx(
        load_reward_model(run.path).score(PLEASE), abs=0.5
    )


def test_a_score_is_read_at_a_token_in_stock_transformers_too(tiny_model, pairs, tmp_path):
    """Though the base's tokenizer has no padding token, and xtune's choice would be the one that ends the texts."""
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    base = shutil.copytree(tiny_model, tmp_path / "base")
    settings = json.loads((base / "tokenizer_config.json").read_text())
    del settings["pad_token"]
    (base / "tokenizer_config.json").write_text(json.dumps(settings))
    objective = {"kind": "reward", "read_at": "<|im_end|>"}
    run = train(recipe(base, pairs, objective=objective, steps=1), run_dir=tmp_path / "run")
    stock = AutoModelForSequenceClassification.from_pretrained(run.result)
    tokenizer = AutoTokenizer.from_pretrained(run.result)
    assert stock.config.pad_token_id == tokenizer.pad_token_id is not None
    texts = [
        f"<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n{answer}<|im_end|>"
        for answer in ("Yes", "No, certainly not")
    ]
    system = "<|im_start|>system\nS<|im_end|>\n"
    batch = tokenizer([system + text for text in texts], return_tensors="pt", padding=True)
    with torch.no_grad():
        theirs = stock(**batch).logits[:, 0].tolist()
    model = load_reward_model(run.path)
    asked = [Message("system", "S"), Message("user", "Hi")]
    answers = [[*asked, Message("assistant", answer)] for answer in ("Yes", "No, certainly not")]
    assert model.score(answers) == pytest.approx(theirs, abs=1e-5)
    with pytest.raises(RecipeError, match=r"scores are read at <\|im_end\|>"):
        prepare(recipe(run.result, pairs))


@pytest.mark.parametrize("method", ["full", "lora"])
def test_a_resumed_run_ends_with_the_same_weights(run, adapter_run, tmp_path, method):
    finished, step = (run, 20) if method == "full" else (adapter_run, 2)
    other = shutil.copytree(finished.path, tmp_path / "run")
    shutil.rmtree(other / "checkpoints" / f"checkpoint-{step}")
    shutil.rmtree(other / finished.result.name)
    (file,) = finished.result.glob("*.safetensors")
    before, after = load_file(file), load_file(resume(other).result / file.name)
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_an_adapter_has_the_head_and_merges(adapter_run, tiny_model, tmp_path, xtune):
    from peft import PeftModel
    from transformers import AutoModelForSequenceClassification

    adapter = adapter_run.result
    names = load_file(adapter / "adapter_model.safetensors").keys()
    assert [name for name in names if "lora_" not in name] == ["base_model.model.score.weight"]
    ours = load_reward_model(adapter).score(PLEASE)
    stock = AutoModelForSequenceClassification.from_pretrained(tiny_model, num_labels=1)
    beside = PeftModel.from_pretrained(stock, adapter).eval()
    assert stock_scores(beside, adapter) == pytest.approx(ours, abs=1e-5)
    merged = merge(adapter_run.path, tmp_path / "merged")
    assert merged.check.largest_difference < 1e-5
    assert load_reward_model(merged.path).score(PLEASE) == pytest.approx(ours, abs=1e-5)
    stock = AutoModelForSequenceClassification.from_pretrained(merged.path)
    assert stock_scores(stock, merged.path) == pytest.approx(ours, abs=1e-5)
    assert any("reward model" in note for note in inspect(str(merged.path)).notes)
    assert any("reward model" in note for note in inspect(str(adapter)).notes)
    from xtune.cli.convert import convert

    told = CliRunner().invoke(convert, ["merge", str(adapter_run.path), str(tmp_path / "again")])
    assert "scores   of 4 answers" in told.output


@pytest.mark.parametrize(
    "method", [{"kind": "lora", "init": "pissa", "dora": True}, {"kind": "qlora", "bits": 4}]
)
def test_a_saved_adapter_scores_the_same_beside_the_original_base(tiny_model, tmp_path, method):
    bits = method.pop("bits", None)
    model = load_model(tiny_model, dtype="float32", bits=bits)
    add_head(model, seed=1)
    model = attach_adapter(model, Lora(**method | {"kind": "lora", "rank": 4}))
    for name, weight in model.named_parameters():
        if weight.requires_grad:
            assert "lora_" in name or "score" in name
            weight.data += 0.01
    save_adapter(model.eval(), tmp_path)
    template = find_template("smollm2")
    write_note(tmp_path, base=str(tiny_model), template=template, read_at="<|im_end|>")
    again = load_reward_model(tmp_path, dtype="float32", bits=bits)
    ids = torch.arange(100, 130)[None]
    with torch.no_grad():
        expected, found = model(input_ids=ids).logits, again.model(input_ids=ids).logits
    assert expected.shape == (1, 30, 1)
    assert type(again.model.base_model.model.score.modules_to_save.default.weight) is torch.nn.Parameter
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=0)
    assert again.read_at == again.tokenizer.convert_tokens_to_ids("<|im_end|>")


def test_the_text_ends_where_the_score_is_read():
    def text(ids, learnt):
        labels = [index if place in learnt else NO_LABEL for place, index in enumerate(ids)]
        return Encoded(np.array(ids, np.int32), np.array(labels, np.int32))

    def ended(ids, learnt, token):
        return ending_at(text(ids, learnt), token).input_ids.tolist()

    assert ended([1, 9, 5, 6, 9, 3], {3, 4}, None) == [1, 9, 5, 6, 9, 3]
    assert ended([1, 9, 5, 6, 9, 3], {3, 4}, 9) == [1, 9, 5, 6, 9]  # cut behind it
    assert ended([1, 9, 5, 6, 9, 9], {3, 4}, 9) == [1, 9, 5, 6, 9, 9]
    assert ended([1, 9, 5, 6, 3], {3}, 9) == [1, 9, 5, 6, 3, 9]  # the one before the answer does not count
    assert len(ending_at(text([1, 5, 6], {2}), 9).labels) == 4


@pytest.mark.parametrize("packing", [True, False])
@pytest.mark.parametrize("read_at", [None, "<|endoftext|>"])
def test_a_pass_and_its_parts_have_the_same_loss(tiny_model, pairs, packing, read_at):
    """Packed, padded, whole, in parts and empty."""
    options = Reward(kind="reward", loss="focal", read_at=read_at)
    preparation = prepare(recipe(tiny_model, pairs, objective=options.model_dump()))
    tokenizer, dataset = preparation.tokenizer, preparation.dataset
    token = None if read_at is None else tokenizer.convert_tokens_to_ids(read_at)
    objective = PairwiseReward(options, dataset, ["a", "b"], token)
    assert all(text.input_ids[-1] == token for text in objective.texts(0)) == (token is not None)
    model = load_model(tiny_model, dtype="float32")
    add_head(model, seed=0)
    if packing:
        use_packed_attention(model)

    def loss(samples):
        texts = [text for sample in samples for text in objective.texts(sample)] or objective.texts(0)[:1]
        return objective.loss(model, {**collate(texts, packing=packing, pad_id=2), "samples": samples})

    samples = [0, 199, 7, 120]
    whole, parts = loss(samples), [loss([sample]) for sample in samples]
    assert whole.total.item() == pytest.approx(sum(part.total.item() for part in parts), abs=1e-5)
    for name, (total, count) in whole.figures.items():
        found = [part.figures[name] for part in parts if name in part.figures]
        assert count == sum(number for _, number in found) == (2 if "/" in name else 4)
        assert float(total) == pytest.approx(sum(float(one) for one, _ in found), abs=1e-5)
    empty = loss([])
    assert empty.total.item() == 0
    empty.total.backward()
    assert all(weight.grad is not None for weight in model.parameters())
    assert all(count == 0 for _, count in empty.figures.values())


def test_names_of_domains():
    sources = [
        Source(path="data/harmless.jsonl"),
        Source(path="a", condition="Prefer answers of the kind that help with long tasks: coding."),
        Source(path="b", condition="Prefer answers of the kind that help with long tasks: writing."),
        Source(path="c", condition="Prefer answers of the kind that help with long tasks: coding."),
        Source(path="other/harmless.jsonl"),
    ]
    names = domain_names(sources)
    assert names[0] == "harmless.jsonl"
    assert names[1] == names[3] != names[2]
    assert names[4] == "harmless.jsonl (2)"
    assert len(set(names)) == 4
    assert all(len(name) <= 50 for name in names)


def test_what_a_reward_model_is_not(run, adapter_run, tiny_model, pairs, tmp_path):
    with pytest.raises(UsageError, match="scores answers, and writes none") as raised:
        load_chat(find_target(str(run.path)))
    assert "load_reward_model" in raised.value.fix
    with pytest.raises(UsageError, match="no reward model"):
        load_reward_model(tiny_model)
    with pytest.raises(RecipeError, match="cannot learn to write"):
        prepare(recipe(run.result, pairs, objective="dpo"))
    with pytest.raises(RecipeError, match="no token <nowhere>"):
        prepare(recipe(tiny_model, pairs, objective={"kind": "reward", "read_at": "<nowhere>"}))
    with pytest.raises(ValueError, match="answers nothing"):
        recipe(tiny_model, pairs, probe={"prompts": ["Hi"]})
    with pytest.raises(ValueError, match="only loss"):
        Reward(kind="reward", gamma=1)
    with pytest.raises(UsageError, match="does not end with an answer"):
        load_reward_model(run.path).score([PLEASE[0][:1]])
    with pytest.raises(UsageError, match="in transformers' own already"):
        export(run.path, tmp_path / "out", "original")
