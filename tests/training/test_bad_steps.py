"""Steps whose loss or gradients are not finite change nothing and are told; too many, or zeros, end the run."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.conftest import QUICKSTART
from tests.training.test_sft import largest_difference, weights
from xtune.errors import TrainingError
from xtune.recipe.objective_schema import Dpo, Sft
from xtune.recipe.online_schema import Grpo
from xtune.recipe.schema import Recipe
from xtune.run.directory import Run
from xtune.training.bad_steps import IN_A_ROW, BadSteps
from xtune.training.sft import NextToken
from xtune.training.train import resume, train

SNOWMAN = "☃"
"""What the spoilt model turns into NaN."""
SEED = 7
"""That draws it neither first nor last."""
EMBEDDING = "model.embed_tokens.weight"


@pytest.fixture(scope="module")
def spoil(tiny_model, tmp_path_factory, tokenizer):
    """spoil({name: function}) is the tiny model with an output layer of its own, some weights put through functions."""

    def make(changes) -> str:
        from transformers import AutoModelForCausalLM

        model = AutoModelForCausalLM.from_pretrained(tiny_model)
        directory = tmp_path_factory.mktemp("spoilt")
        model.save_pretrained(directory)
        config = json.loads((directory / "config.json").read_text()) | {"tie_word_embeddings": False}
        (directory / "config.json").write_text(json.dumps(config))
        tensors = load_file(directory / "model.safetensors")
        tensors["lm_head.weight"] = tensors[EMBEDDING].clone()
        for name, change in changes.items():
            tensors[name] = change(tensors[name])
        save_file(tensors, directory / "model.safetensors", metadata={"format": "pt"})
        tokenizer.save_pretrained(directory)
        return str(directory)

    return make


@pytest.fixture(scope="module")
def model(spoil, tokenizer) -> str:
    """NaN wherever it reads a snowman."""
    ids = tokenizer(SNOWMAN, add_special_tokens=False).input_ids

    def no_snowmen(weight):
        weight[ids[-1]] = torch.nan
        return weight

    return spoil({EMBEDDING: no_snowmen})


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> str:
    """Forty samples; the one on line 18 has a snowman."""
    lines = (QUICKSTART / "identity.jsonl").read_text(encoding="utf-8").splitlines()[:40]
    row = json.loads(lines[17])
    row["messages"][0]["content"] += SNOWMAN
    lines[17] = json.dumps(row, ensure_ascii=False)
    file = tmp_path_factory.mktemp("data") / "rows.jsonl"
    file.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return str(file)


def recipe(model: str, data: str, method="lora", packing=True, **options) -> Recipe:
    return Recipe.model_validate(
        {
            "model": {"path": model, "dtype": "float32", "template": "smollm2"},
            "method": {"kind": method},
            "data": {"sources": [{"path": data}], "packing": packing},
            "train": {"epochs": 1, "batch_size": 8, "lr": 1e-3, "seed": SEED, **options},
        }
    )


def lines_of(run: Run) -> list[dict]:
    """metrics.jsonl, in which there must be nothing but JSON."""

    def refuse(name):
        raise AssertionError(name)

    text = (run.path / "metrics.jsonl").read_text()
    return [json.loads(line, parse_constant=refuse) for line in text.splitlines()]


def skipped(run: Run) -> list[int]:
    return [line["step"] for line in lines_of(run) if "skipped" in line]


def state(run: Run, step: int) -> tuple[dict, dict]:
    """Weights and optimizer of a checkpoint."""
    folder = run.checkpoints / f"checkpoint-{step}"
    (file,) = folder.glob("*model.safetensors")
    return load_file(file), torch.load(folder / "optimizer.pt", weights_only=True)["state"]


@pytest.fixture(scope="module")
def rates(tiny_model, data, tmp_path_factory) -> list[float]:
    """Learning rates of a run without bad steps."""
    run = train(recipe(str(tiny_model), data), run_dir=tmp_path_factory.mktemp("clean") / "run")
    assert not skipped(run)
    return [line["lr"] for line in run.metrics()]


@pytest.mark.parametrize(
    ("method", "packing", "optimizer"),
    [
        ("lora", True, "adamw"),
        ("full", False, "adamw"),
        ("lora", True, "adamw_8bit"),
        pytest.param("full", True, "adafactor", marks=pytest.mark.slow),
    ],
)
def test_a_step_with_nan_changes_nothing_but_the_schedule(
    model, data, rates, tmp_path, capsys, method, packing, optimizer
):
    options = {"micro_batch_size": 4, "checkpoint_every": 1, "keep_checkpoints": 9, "optimizer": optimizer}
    run = train(recipe(model, data, method, packing, **options), run_dir=tmp_path / "run")
    (bad,) = skipped(run)
    lines = lines_of(run)
    assert 1 < bad < len(lines)
    before, after = state(run, bad - 1), state(run, bad)
    torch.testing.assert_close(after, before, rtol=0, atol=0, equal_nan=True)
    assert [line["lr"] for line in lines] == rates
    told = lines[bad - 1]
    assert (told["loss"], told["grad_norm"], told["skipped"]) == (None, None, "loss nan")
    assert all(line["loss"] > 0 for line in lines if line is not told)
    assert f"step {bad} is skipped: loss nan" in capsys.readouterr().err
    aside = json.loads((run.path / "bad_steps" / f"step-{bad}.json").read_text())
    bad_passes = [one for one in aside["passes"] if one["loss"] == "nan"]
    assert len(aside["passes"]) == 2
    assert len(bad_passes) == 1
    assert f"{data}:18" in [sample["source"] for sample in bad_passes[0]["samples"]]
    assert sum(len(one["samples"]) for one in aside["passes"]) == 8
    (text,) = bad_passes[0]["samples"][0]["texts"]
    assert len(text["ids"]) == len(text["labels"]) > 0
    assert (run.path / "loss.png").is_file()


def test_a_run_with_a_bad_step_resumes_to_the_same(model, data, tmp_path):
    run = train(recipe(model, data, checkpoint_every=1, keep_checkpoints=9), run_dir=tmp_path / "run")
    whole, lines = weights(run), lines_of(run)
    for checkpoint in run.checkpoints.iterdir():
        if int(checkpoint.name.rpartition("-")[2]) >= skipped(run)[0]:
            shutil.rmtree(checkpoint)
    shutil.rmtree(run.result)
    assert largest_difference(weights(resume(run.path)), whole) == 0
    assert [(line["loss"], line["lr"]) for line in lines_of(run)] == [
        (line["loss"], line["lr"]) for line in lines
    ]


@pytest.mark.parametrize(
    "spread",
    [[], ["train.deepspeed=zero2"], ["train.deepspeed=zero3"], ["train.fsdp=True"]],
)
@pytest.mark.slow
def test_all_processes_skip_the_step_that_is_bad_in_one(model, data, tmp_path, xtune, spread):
    method = "full" if spread else "lora"
    one = train(recipe(model, data, method, micro_batch_size=4), run_dir=tmp_path / "one")
    (tmp_path / "recipe.py").write_text(one.recipe_file.read_text())
    options = [part for override in spread for part in ("--set", override)]
    done = xtune("train", "recipe.py", "--run-dir", "two", "--nproc", 2, *options, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    two = Run(tmp_path / "two")
    assert done.stderr.count("is skipped: loss nan") == 1
    assert skipped(two) == skipped(one) != []
    for ours, theirs in zip(lines_of(two), lines_of(one), strict=True):
        assert (ours["lr"], ours["loss"]) == (theirs["lr"], pytest.approx(theirs["loss"], abs=1e-5))
    differences = [
        (tensor - weights(one)[name]).nan_to_num().abs().max() for name, tensor in weights(two).items()
    ]
    assert max(differences) < 1e-5
    aside = json.loads(next((two.path / "bad_steps").iterdir()).read_text())
    (bad,) = [one for one in aside["passes"] if one["loss"] == "nan"]
    assert f"{data}:18" in [sample["source"] for sample in bad["samples"]]


@pytest.mark.parametrize("method", ["lora", "full"])
def test_three_in_a_row_stop_the_run_and_name_the_first_wrong_layer(spoil, data, tmp_path, method):
    layer = "model.layers.1.mlp.down_proj"
    model = spoil({f"{layer}.weight": lambda weight: weight * torch.inf})
    with pytest.raises(TrainingError, match=f"{IN_A_ROW} steps in a row.* not finite is {layer}\\.") as error:
        train(recipe(model, data, method), run_dir=tmp_path / "run")
    assert skipped(Run(tmp_path / "run")) == [1, 2, 3]
    assert len(list((tmp_path / "run" / "bad_steps").iterdir())) == 3
    assert "--resume" in error.value.fix
    assert not (tmp_path / "run" / "adapter").exists()


@pytest.mark.slow
@pytest.mark.parametrize("spread", [(), ("--set", "train.deepspeed=zero3")])
def test_in_several_processes_one_tells_which_layer_it_was(spoil, data, tmp_path, xtune, spread):
    layer = "model.layers.0.self_attn.o_proj"
    model = spoil({f"{layer}.weight": lambda weight: weight * torch.nan})
    (tmp_path / "recipe.py").write_text(
        f"model = dict(path={model!r}, template='smollm2')\nmethod = dict(kind='lora')\n"
        f"data = dict(sources=[dict(path={data!r})])\ntrain = dict(epochs=1, batch_size=8)\n"
    )
    done = xtune("train", "recipe.py", "--run-dir", "run", "--nproc", 2, *spread, cwd=tmp_path)
    assert done.returncode == 5
    assert done.stderr.count(f"not finite is {layer}.") == 1
    assert "Traceback" not in done.stderr


class _Infinite(torch.autograd.Function):
    """Itself, with gradients that overflow."""

    @staticmethod
    def forward(_, loss):
        return loss.clone()

    @staticmethod
    def backward(_, gradient):
        return gradient * torch.inf


@pytest.mark.parametrize(
    ("change", "reason", "named"),
    [
        (_Infinite.apply, "gradient norm", "comes back to the output of lm_head"),
        (lambda loss: loss + torch.inf, "loss inf", "but not the loss"),  # whose gradients would be finite
    ],
)
def test_bad_gradients_and_bad_losses_alone(tiny_model, data, tmp_path, monkeypatch, change, reason, named):
    plain = NextToken.loss

    def loss(self, model, batch):
        one = plain(self, model, batch)
        return type(one)(change(one.total))

    monkeypatch.setattr(NextToken, "loss", loss)
    with pytest.raises(TrainingError, match=named):
        train(recipe(str(tiny_model), data, "full", checkpoint_every=1), run_dir=tmp_path / "run")
    run = Run(tmp_path / "run")
    assert {line["skipped"][: len(reason)] for line in lines_of(run)} == {reason}
    before = load_file(tiny_model / "model.safetensors")
    after = state(run, 2)[0]
    assert all(torch.equal(after[name], weight) for name, weight in before.items())


def test_no_gradient_at_all_stops_the_run(spoil, data, tmp_path):
    model = spoil({"lm_head.weight": torch.zeros_like})
    with pytest.raises(TrainingError, match="gradient norm is exactly 0 in 3 steps") as error:
        train(recipe(model, data), run_dir=tmp_path / "run")
    assert "method.targets" in error.value.fix
    assert len(lines_of(Run(tmp_path / "run"))) == 3


ZERO_LOSS = {"loss": 0.0, "grad_norm": 0.0}
SAME_REWARDS = {"loss": 0.0, "grad_norm": 0.0, "reward": 1.0, "reward_std": 0.0, "truncated": 0.0}


@pytest.mark.parametrize(
    ("objective", "logs", "has_learnt", "stops"),
    [
        (Sft(), ZERO_LOSS, True, True),
        (Dpo(kind="dpo"), ZERO_LOSS, False, True),
        (Dpo(kind="dpo", loss="hinge"), ZERO_LOSS, True, False),  # all pairs are told apart
        (Grpo(kind="grpo", rewards=["answer"]), SAME_REWARDS, False, False),  # all answers are right
        (Grpo(kind="grpo", rewards=["answer"]), SAME_REWARDS | {"grad_norm": 1.0}, False, False),
        (Grpo(kind="grpo", rewards=["answer"]), SAME_REWARDS | {"reward_std": 0.5}, False, True),
    ],
)
def test_zeros_stop_only_where_there_was_something_to_learn(tmp_path, objective, logs, has_learnt, stops):
    steps = BadSteps(Run(tmp_path), objective, None, None, has_learnt=has_learnt)
    for step in range(1, IN_A_ROW):
        steps.stop_if_many(step, logs, None)
    if stops:
        with pytest.raises(TrainingError, match="exactly 0"):
            steps.stop_if_many(IN_A_ROW, logs, None)
    else:
        steps.stop_if_many(IN_A_ROW, logs, None)


def test_zeros_apart_from_each_other_are_nothing(tmp_path):
    steps = BadSteps(Run(tmp_path), Sft(), None, None, has_learnt=False)
    for step in range(9):
        steps.stop_if_many(step, ZERO_LOSS if step % 3 else {"loss": 1.0, "grad_norm": 1.0}, None)
