"""GRPO and RLOO on a tiny model: what is rewarded, what is learnt of it, and that runs repeat."""

import json
import math
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file

from xtune.errors import RecipeError, UsageError
from xtune.messages import Message
from xtune.recipe.load import load_recipe
from xtune.recipe.online_schema import RewardTerm
from xtune.run.directory import Run
from xtune.training.batches import MicroBatches
from xtune.training.layout import Layout
from xtune.training.policy_gradient import group_advantages, leave_one_out
from xtune.training.rewards import Question, load_judges, same
from xtune.training.train import prepare, resume, train

REWARDS = """
def short(answer, row):
    return -float(len(answer))

def vowels(answer, row):
    assert row["kind"] == "sum" and row["messages"][0]["role"] == "user"
    return sum(answer.count(vowel) for vowel in "aeiou")
"""


@pytest.fixture
def write(tmp_path, tiny_model):
    """write(rewards, code, **overrides) writes a recipe, its data and rewards.py, and loads it."""

    def make(rewards="['rewards.py:short']", code=REWARDS, **overrides):
        rows = [{"prompt": f"What is {n} + {n}?", "answer": 2 * n, "kind": "sum"} for n in range(6)]
        (tmp_path / "prompts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        (tmp_path / "rewards.py").write_text(code)
        (tmp_path / "recipe.py").write_text(
            f"model = dict(path={str(tiny_model)!r}, template='smollm2', dtype='float32')\n"
            "method = dict(kind='lora')\n"
            "data = dict(sources=[dict(path='prompts.jsonl')])\n"
            "train = dict(steps=4, batch_size=3, lr=1e-2, checkpoint_every=2, objective=dict(\n"
            f"    kind='grpo', completions=4, max_new_tokens=6, rewards={rewards}))\n"
        )
        return load_recipe(tmp_path / "recipe.py", overrides)

    return make


def weights(run) -> dict[str, torch.Tensor]:
    return load_file(run.result / "adapter_model.safetensors")


def difference(one, other) -> float:
    one, other = weights(one), weights(other)
    return max((one[name] - other[name]).abs().max().item() for name in one)


def completions(run) -> list[dict]:
    return [json.loads(line) for line in (run.path / "completions.jsonl").read_text().splitlines()]


def test_advantages_compare_answers_to_one_prompt():
    rewards = torch.randn(5, 8, generator=torch.Generator().manual_seed(0))
    advantages = group_advantages(rewards)
    torch.testing.assert_close(advantages.mean(1), torch.zeros(5))
    torch.testing.assert_close(advantages.std(1), torch.ones(5), rtol=1e-3, atol=0)
    torch.testing.assert_close(group_advantages(3 * rewards + 7), advantages, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(group_advantages(torch.ones(2, 4)), torch.zeros(2, 4))
    torch.testing.assert_close(group_advantages(rewards, False), rewards - rewards.mean(1)[:, None])
    others = [[rewards[p, [j for j in range(8) if j != i]].mean() for i in range(8)] for p in range(5)]
    torch.testing.assert_close(leave_one_out(rewards), rewards - torch.tensor(others))


def test_a_run_stopped_by_a_reward_goes_on_to_the_same_weights(write, tmp_path):
    whole = train(write(), run_dir=tmp_path / "whole")
    broken = REWARDS.replace("return -float", "count.append(0)\n    return 1 / (len(count) <= 36) * -float")
    recipe = write(code="count = []\n" + broken)
    with pytest.raises(UsageError) as error:
        train(recipe, run_dir=tmp_path / "run")
    assert "The reward short raised ZeroDivisionError in line 5" in str(error.value)
    assert "prompts.jsonl:" in error.value.where
    assert "xtune train --resume" in error.value.fix
    (tmp_path / "rewards.py").write_text(REWARDS)
    run = resume(tmp_path / "run")
    assert difference(run, whole) == 0
    assert completions(run) == completions(whole)
    assert [line["reward"] for line in run.metrics()] == [line["reward"] for line in whole.metrics()]


def test_forward_passes_of_a_step_change_nothing(write, tmp_path):
    """Also whether rows are packed; and each answer is drawn alike with others beside it or without."""
    runs = [
        train(write(**options, **{"train.steps": 2}), run_dir=tmp_path / str(number))
        for number, options in enumerate(
            [
                {},
                {"train.micro_batch_size": 3, "train.objective.generation_batch": 5},
                {"data.packing": False},
            ]
        )
    ]
    for other in runs[1:]:
        assert completions(other) == completions(runs[0])
        assert [line["grad_norm"] for line in other.metrics()] == pytest.approx(
            [line["grad_norm"] for line in runs[0].metrics()], rel=1e-4
        )


def test_rewards_are_weighted_and_told_one_by_one(write, tmp_path):
    rewards = "[dict(function='rewards.py:short', weight=0.5), 'rewards.py:vowels', 'answer']"
    recipe = write(rewards, **{"data.held_out": 2, "train.objective.kl": 0.1})
    run = train(recipe, run_dir=tmp_path / "run")
    for line in run.metrics():
        parts = 0.5 * line["rewards/short"] + line["rewards/vowels"] + line["rewards/answer"]
        assert line["reward"] == pytest.approx(parts, rel=1e-5)
        assert line["truncated"] == 1
        assert line["completion_length"] == 6
    assert run.metrics()[0]["kl"] == pytest.approx(0, abs=1e-6)
    assert run.metrics()[-1]["kl"] > 1e-4
    for line in completions(run):
        assert line["reward"] == pytest.approx(
            0.5 * line["rewards"]["short"] + line["rewards"]["vowels"] + line["rewards"]["answer"]
        )
    held_out = [json.loads(line) for line in (run.path / "held_out.jsonl").read_text().splitlines()]
    assert [line["step"] for line in held_out] == [0, 2, 4]
    assert all(math.isfinite(line["reward"]) for line in held_out)


QUESTION = Question((Message("user", "2 + 2?"),), 4, {"answer": 4}, "on sums", "sums.jsonl:7")


@pytest.mark.parametrize(
    ("body", "told"),
    [
        ("return row['no such']", "raised KeyError in line 2: 'no such'"),
        ("return float('nan')", "gave nan, not a number"),
        ("pass", "gave None, not a number"),
        ("return 'good'", "gave 'good', not a number"),
    ],
)
def test_a_reward_without_a_number_is_told_with_its_row(tmp_path, body, told):
    (tmp_path / "r.py").write_text(f"def mine(answer, row):\n    {body}\n")
    (judge,) = load_judges([RewardTerm(function=f"{tmp_path / 'r.py'}:mine")])
    with pytest.raises(UsageError) as error:
        judge.score([QUESTION], ["five"])
    assert error.value.what == f"The reward mine {told}"
    assert error.value.where == "sums.jsonl:7, for the answer 'five'"


@pytest.mark.parametrize(
    ("answer", "expected", "equal"),
    [
        ("2 + 2 is 4.", "4", True),
        ("First 3, then 4", "#### 4", True),
        ("It is 1,000.50", "1000.5", True),
        ("so \\boxed{\\frac{1}{2}}, of 7", "\\boxed{\\frac{1}{2}}", True),
        ("a half: 1/2", "0.5", True),
        ("-3", "3", False),
        ("between 1-3", "3", True),
        ("Paris.", "paris", True),
        ("", "4", False),
        ("so \\boxed{1/0}", "4", False),
        ("\\boxed{1e3000000}", "4", False),
        ("16", "1e+16", False),
        ("2e3", "2000", True),
        ("0.5", ".5", True),
        ("5", ".5", False),
        ("-1/2", "-.5", True),
    ],
)
def test_an_answer_is_compared_by_what_it_comes_to(answer, expected, equal):
    assert same(answer, expected) is equal


def test_a_row_without_answer_is_told_before_training(write, tmp_path):
    recipe = write(rewards="['answer']")
    with open(tmp_path / "prompts.jsonl", "a") as file:
        file.write('{"prompt": "Why?", "kind": "sum"}\n')
    with pytest.raises(UsageError, match="which has none") as told:
        train(recipe, run_dir=tmp_path / "run")
    assert told.value.where.endswith("prompts.jsonl:7")
    assert not (tmp_path / "run" / "completions.jsonl").exists()


def test_a_prompt_that_comes_twice_in_a_step_is_answered_anew_in_any_process(write):
    preparation = prepare(write(**{"train.batch_size": 16, "train.micro_batch_size": 2}))

    def drawn(processes: int) -> list[tuple[int, int]]:
        batches = SimpleNamespace(
            of=lambda samples: {"samples": samples},
            layout=Layout(True, 0),
            objective=SimpleNamespace(weight=len),
        )
        dealt = MicroBatches(batches, preparation.plan, processes)
        first = [dealt[process] for process in range(processes)]
        return sorted(
            moment
            for batch in first
            for samples, seen in zip(batch["share"], batch["seen"], strict=True)
            for moment in zip(samples, seen, strict=True)
        )

    alone = drawn(1)
    assert len(set(alone)) == 16
    assert max(seen for _, seen in alone) == 2
    assert drawn(2) == drawn(3) == alone


def test_a_reward_model_scores_under_its_condition_or_the_sources(monkeypatch):
    class Model:
        def score(self, conversations, condition=None):
            return [
                len(conversation[-1].content) + 100 * (condition == "kind") for conversation in conversations
            ]

    monkeypatch.setattr("xtune.chat.reward.load_reward_model", lambda _: Model())
    terms = [RewardTerm(model="runs/rm"), RewardTerm(model="runs/rm", condition="kind")]
    own, given = load_judges(terms)
    assert (own.name, given.name) == ("rm", "rm#2")
    kind = Question(QUESTION.messages, 4, {}, "kind", "x:1")
    assert own.score([QUESTION, kind, QUESTION], ["four", "4", ""]) == [4, 101, 0]
    assert given.score([QUESTION, kind], ["four", "4"]) == [104, 101]


def test_functions_of_a_recipe_are_rewards(tmp_path):
    (tmp_path / "own.py").write_text(
        "def mine(answer, row):\n    return 1\n\n"
        "model = dict(path='smollm2')\nmethod = dict(kind='lora')\ndata = dict(sources=[dict(path='x')])\n"
        "train = dict(objective=dict(kind='rloo', rewards=[mine, dict(function=mine, weight=2)]))\n"
    )
    rewards = load_recipe(tmp_path / "own.py").train.objective.rewards
    assert [reward.function for reward in rewards] == [f"{tmp_path / 'own.py'}:mine"] * 2
    assert [judge.name for judge in load_judges(rewards)] == ["mine", "mine#2"]


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"method": {"kind": "full"}, "train.objective.kl": 0.1}, "needs the model before training"),
        ({"method.init": "pissa", "train.objective.kl": 0.1}, "needs an adapter that begins as nothing"),
        ({"train.objective.rewards": [{"weight": 1}]}, "give function or model"),
        ({"train.objective.completions": 1}, "at least 2"),
        ({"train.batch_tokens": 64}, "give batch_size"),
    ],
)
def test_what_makes_no_sense_is_refused(write, changes, told):
    with pytest.raises(RecipeError, match=told):
        write(**changes)


def test_rewards_and_room_are_checked_before_the_first_step(write, tmp_path):
    for changes, told in [
        ({"train.objective.rewards": ["correct"]}, 'no reward "correct"'),
        ({"train.objective.rewards": [{"model": str(tmp_path)}]}, "neither a run, an adapter nor a model"),
        ({"train.objective.max_new_tokens": 500}, "longer than the 512 tokens that the model reads"),
    ]:
        with pytest.raises(UsageError, match=told):
            train(write(**changes), run_dir=tmp_path / "run")


@pytest.mark.slow
@pytest.mark.parametrize("spread", ["train.fsdp=False", "train.deepspeed=zero3", "train.fsdp=True"])
def test_two_processes_learn_as_one(write, tmp_path, xtune, spread):
    """The second has fewer prompts than the first, and none in the last step."""
    write()
    changes = ["train.objective.kl=0.1", "train.lr=1e-4", "train.steps=None", "train.epochs=0.7"]
    options = [part for change in changes for part in ("--set", change)]
    for name, more in (("one", ()), ("two", ("--nproc", 2, "--set", spread))):
        done = xtune("train", "recipe.py", "--run-dir", name, *options, *more, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
    one, two = (Run(tmp_path / name) for name in ("one", "two"))
    for name in ("reward", "grad_norm", "kl"):
        assert [line[name] for line in two.metrics()] == pytest.approx(
            [line[name] for line in one.metrics()], rel=1e-4, abs=1e-6
        )
    assert difference(one, two) < 1e-5
