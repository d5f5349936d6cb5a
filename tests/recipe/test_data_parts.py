"""The parts of shipped recipes that name data sets."""

import ast

import pytest

from tests.conftest import ROOT
from xtune.data.findings import Findings
from xtune.data.read import read_data
from xtune.data.recognise import KINDS_OF, find_mapper
from xtune.messages import Labelled, Message, Pair
from xtune.recipe.catalog import configs_directory
from xtune.recipe.load import load_recipe

PARTS = {file.stem: file for file in sorted((configs_directory() / "_base_" / "data").glob("*.py"))}
OBJECTIVES = {"brief": "dpo", "kto_mix": "kto", "orpo_dpo_mix": "orpo", "ultrafeedback": "reward"}

EARLIER = Message("user", "Hello."), Message("assistant", "Hello to you.")
Q, GOOD, BAD = Message("user", "Why?"), Message("assistant", "Because."), Message("assistant", "No.")


def turns(*messages):
    return [{"content": message.content, "role": message.role} for message in messages]


PUBLISHED = {  # a row with the columns that the data set has, and what it is
    "kto_mix": (
        {"prompt": turns(*EARLIER, Q), "completion": turns(GOOD), "label": True},
        Labelled((*EARLIER, Q, GOOD), good=True),
    ),
    "orpo_dpo_mix": (
        {
            "source": "Airoboros",
            "chosen": turns(*EARLIER, Q, GOOD),
            "rejected": turns(*EARLIER, Q, BAD),
            "prompt": "Why?",
            "question": "Why?",
        },
        Pair((*EARLIER, Q), (GOOD,), (BAD,)),
    ),
    "ultrafeedback": (
        {
            "source": "sharegpt",
            "prompt": "Why?",
            "chosen": turns(Q, GOOD),
            "chosen-rating": 4.75,
            "chosen-model": "gpt-4",
            "rejected": turns(Q, BAD),
            "rejected-rating": 2.0,
            "rejected-model": "bard",
        },
        Pair((Q,), (GOOD,), (BAD,)),
    ),
}


def load_part(name, tmp_path):
    objective = OBJECTIVES.get(name, "sft")
    rest = (
        f'model = dict(path="smollm2")\nmethod = dict(kind="lora")\ntrain = dict(objective="{objective}")\n'
    )
    file = tmp_path / "recipe.py"
    file.write_text(f"{PARTS[name].read_text(encoding='utf-8')}\n{rest}", encoding="utf-8")
    return load_recipe(file)


@pytest.mark.parametrize("name", PARTS)
def test_part_is_valid_and_asks_as_it_trains(name, tmp_path):
    assert ast.get_docstring(ast.parse(PARTS[name].read_text(encoding="utf-8")))
    recipe = load_part(name, tmp_path)
    objective = recipe.train.objective.kind
    mappers = [find_mapper(source.format) for source in recipe.data.sources if source.format != "auto"]
    assert {mapper.system for mapper in mappers} <= {recipe.probe.system or ""}
    assert {mapper.kind for mapper in mappers} <= set(KINDS_OF[objective])
    assert bool(recipe.probe.prompts) is (objective != "reward")


@pytest.mark.parametrize("name", PUBLISHED)
def test_rows_as_published_are_read(name, tmp_path):
    row, sample = PUBLISHED[name]
    mapper = find_mapper(load_part(name, tmp_path).data.sources[0].format)
    assert mapper.fits(row)
    assert mapper.map(row, Findings()) == sample


def test_pairs_that_come_along_prefer_the_shorter_answer():
    pairs, report = read_data(ROOT / "examples/preferences/brief.jsonl", "pairs")
    assert (len(pairs), report.rejected) == (36, 0)
    assert all(len(pair.chosen[0].content) < len(pair.rejected[0].content) for pair in pairs)
