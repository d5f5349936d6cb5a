"""Python's literals in a cell: read as what JSON has, or rejected; never evaluated."""

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from xtune.data.findings import Reject
from xtune.data.mappers.literals import inner_value, read_literal

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


@given(VALUES)
def test_what_python_writes_is_read_back(value):
    assert read_literal(repr(value), "a cell") == value


def test_a_tuple_is_a_list():
    assert read_literal("('a', (1,))", "a cell") == ["a", [1]]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[1",
        "f()",
        "[x]",
        "1 + 1",
        "{1, 2}",
        "b'x'",
        "f'{1}'",
        "{'a': 1, 'a': 2}",
        "{(1,): 2}",
        "1e999",
        r"'\ud800'",
        r"'\N{no such name}'",
        "[" * 60 + "]" * 60,
        "'''a' '''" + "[" * 60 + "]" * 60,
        "[" * 100_000,
        "-" * 100_000 + "1",
        "1" + "-1" * 99_000,
        "''" + "()" * 100_000,
        "''" + "[0]" * 99_000,
        "[" + "1," * 100_001 + "]",
        "1" * 100_000,
        "['" + "x" * 2_000_000 + "']",
    ],
    ids=range(23),
)
def test_anything_else_is_rejected(text):
    with pytest.raises(Reject) as caught:
        read_literal(text, "a cell")
    assert (caught.value.defect, caught.value.reason) == ("broken_json", "a cell is no Python literal")
    assert len(caught.value.detail) <= 120


def test_json_comes_first_and_its_error_is_the_one_told():
    assert inner_value("[true, null]", "a cell") == [True, None]
    with pytest.raises(Reject, match="a cell is not JSON"):
        inner_value("[true, None", "a cell")


@given(st.text(alphabet="[]{}()'\"\\,:1aTrue \n-", max_size=40))
def test_whatever_the_text_nothing_but_reject_is_raised(text):
    with suppress(Reject):
        inner_value(text, "a cell")
