"""What holds for every format, on the example rows of all."""

import copy
import json
import re
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.data.mappers.examples import EXAMPLES
from xtune.data.findings import Findings, Reject
from xtune.data.mappers import MAPPERS
from xtune.data.mappers.mapper import never
from xtune.messages import Prompt, Sample

BY_NAME = {mapper.name: mapper for mapper in MAPPERS}
CASES = [pytest.param(BY_NAME[name], row, id=name) for name, rows in EXAMPLES.items() for row in rows]
XTUNER_NAMES = """default_map_fn alpaca_map_fn alpaca_zh_map_fn oasst1_map_fn openai_map_fn wizardlm_map_fn
    openorca_map_fn code_alpaca_map_fn tiny_codes_map_fn colors_map_fn sql_map_fn arxiv_map_fn medical_map_fn
    crime_kg_assitant_map_fn law_reference_map_fn stack_exchange_map_fn pretrain_map_fn msagent_react_map_fn"""


def mapped(mapper, row, found=None):
    """The row's samples, as a list."""
    got = mapper.map(row, found or Findings())
    return [got] if isinstance(got, mapper.kind) else list(got)


def test_every_format_has_examples():
    assert EXAMPLES.keys() == BY_NAME.keys()


def test_names_and_aliases_stand_for_one_format_each():
    names = [name for mapper in MAPPERS for name in (mapper.name, *mapper.aliases)]
    assert len(names) == len(set(names))
    assert set(XTUNER_NAMES.split()) <= set(names)


@pytest.mark.parametrize(("mapper", "row"), CASES)
def test_each_row_is_found_by_its_format_alone(mapper, row):
    fitting = [other for other in MAPPERS if other.kind is mapper.kind and other.fits(row)]
    if mapper.fits is never:  # the columns of another, which takes the row where none is named
        assert len(fitting) == 1
    else:
        assert fitting == [mapper]


@pytest.mark.parametrize(("mapper", "row"), CASES)
def test_words_survive(mapper, row):
    """The words of each sentence in a row, but for names before a colon: of speakers, of columns in inner JSON."""
    before = copy.deepcopy(row)
    samples = mapped(mapper, row)
    assert samples
    assert all(isinstance(sample, mapper.kind) for sample in samples)
    assert row == before
    told = str(samples)
    for sentence in leaves(row):
        if " " in sentence or not sentence.isascii():
            spoken = re.sub(r"<\|?[\w ]+\|?>", " ", sentence)  # without tokens such as <eoh>
            for word in re.findall(r"\b\w+\b(?![\"']?[:：])", spoken):
                assert word in told


def leaves(value):
    """The texts somewhere in a value."""
    if isinstance(value, str):
        return [value]
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return [text for part in inner for text in leaves(part)]


KEYS = sorted(
    {key for rows in EXAMPLES.values() for row in rows for key in re.findall(r'"(\w+)":', json.dumps(row))}
)
WORDS = st.text(max_size=5) | st.sampled_from(
    ["{}", "[]", "[{", "user", "assistant", "tool", "true", "Human: q"]
)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | WORDS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(KEYS), inner, max_size=4),
    max_leaves=8,
)


@st.composite
def damaged(draw):
    """An example row in which something, at any depth, was left out, replaced, wrapped or copied to another key."""
    row = copy.deepcopy(draw(st.sampled_from([row for rows in EXAMPLES.values() for row in rows])))
    for _ in range(draw(st.integers(1, 3))):
        holder = row
        while isinstance(holder, dict | list) and holder:
            key = draw(st.sampled_from(sorted(holder) if isinstance(holder, dict) else range(len(holder))))
            if not isinstance(holder[key], dict | list) or not holder[key] or draw(st.booleans()):
                break
            holder = holder[key]
        if not isinstance(holder, dict | list) or not holder:
            continue
        match draw(st.integers(0, 4)):
            case 0:
                del holder[key]
            case 1:
                holder[key] = draw(VALUES)
            case 2:
                holder[key] = [copy.deepcopy(holder[key])]
            case 3:
                holder[key] = json.dumps(holder[key])
            case 4 if isinstance(holder, dict):
                holder[draw(st.sampled_from(KEYS))] = copy.deepcopy(holder[key])
    return row


@given(damaged() | VALUES)
def test_whatever_a_row_holds_it_is_mapped_or_rejected(row):
    for mapper in MAPPERS:
        assert mapper.fits(row) in (True, False)
        with suppress(Reject):
            assert all(isinstance(sample, mapper.kind) for sample in mapped(mapper, row))


@pytest.mark.parametrize(
    "more", [{"label": True}, {"kto_tag": "false"}, {"chosen": "x"}, {"rejected_response": "x"}]
)
def test_preferences_are_not_taken_for_conversations(more):
    for mapper, row in (case.values for case in CASES):
        if isinstance(row, dict) and mapper.kind in (Sample, Prompt) and mapper.fits is not never:
            assert mapper.fits({**row, "label": "medicine"})
            assert not mapper.fits({**row, **more})
