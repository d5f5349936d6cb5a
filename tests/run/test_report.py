"""report.html: what a run leaves for a browser, whatever is in it."""

import json
import math
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.run.conftest import rewrite
from xtune.run.directory import Run
from xtune.run.report import duration, figures, write_report
from xtune.run.report_charts import Chart, Curve, lay_out, number, thinned, ticks
from xtune.run.summary import read_facts, summarise

HOSTILE = "<script>alert(1)</script><img src=x onerror=alert(2)></td></table>{{ 7*7 }} \"' &amp; \ud83d"


class Page(HTMLParser):
    """The elements of a page, with their attributes, and its text."""

    def __init__(self, file: Path):
        super().__init__()
        self.elements: list[tuple[str, dict]] = []
        self.text = ""
        self.feed(file.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.text += data


def test_it_shows_what_the_run_has(runs):
    page = Page(write_report(Run(runs / "first")))
    facts = read_facts(runs / "first")
    for name, value in figures(summarise(facts)):
        assert name in page.text
        assert value in page.text
    for row in facts.probes:
        assert row["before"] in page.text
        assert row["after"] in page.text
    assert 'kind="lora"' in page.text
    assert facts.environment["versions"]["torch"] in page.text
    drawn = [attributes["aria-label"] for tag, attributes in page.elements if tag == "svg"]
    assert [label.partition(":")[0] for label in drawn] == [
        "loss",
        "gradient norm",
        "learning rate",
        "tokens/s",
        "peak memory, GiB",
    ]


def test_what_comes_from_a_run_is_text_and_nothing_is_fetched(runs):
    run = Run(runs / "first")
    before = Page(write_report(run))
    rewrite(
        run.path / "probe.json", lambda rows: [{"prompt": HOSTILE, "before": HOSTILE, "after": None}, *rows]
    )
    reason = {HOSTILE: {"count": 2, "places": [HOSTILE]}}
    rewrite(run.path / "data_report.json", lambda report: {**report, "rejected": 2, "rejections": reason})
    rewrite(run.path / "state.json", lambda state: {**state, "state": "failed", "why": HOSTILE})
    rewrite(run.path / "environment.json", lambda found: {**found, "device": HOSTILE})
    page = Page(write_report(run))
    kinds = {tag for tag, _ in page.elements}
    assert kinds <= {tag for tag, _ in before.elements} | {"div", "small", "span"}
    assert sum(tag == "script" for tag, _ in page.elements) == 1
    assert page.text.count("{{ 7*7 }}") >= 6
    names = {name for _, attributes in page.elements for name in attributes}
    assert not {name for name in names if name.startswith("on") or name in ("src", "href")}
    policy = next(a["content"] for _, a in page.elements if a.get("http-equiv") == "Content-Security-Policy")
    assert "default-src 'none'" in policy
    assert "script-src 'sha256-" in policy


@pytest.mark.parametrize(
    "left", ["", "metrics.jsonl", "probe.json", "state.json", "data_report.json", "held_out.jsonl"]
)
def test_a_part_of_a_run_has_a_report(runs, left):
    """Of a run that failed early, or one of an earlier version."""
    run = Run(runs / "first")
    for file in run.path.iterdir():
        if file.name not in ("recipe.py", "environment.json", left):
            file.unlink()
    assert "quickstart" in Page(write_report(run)).text


def test_damaged_files_are_named(runs):
    run = Run(runs / "first")
    (run.path / "probe.json").write_text('{"not": "a list"}')
    (run.path / "state.json").write_bytes(b"\xff\xfe")
    page = Page(write_report(run))
    assert "does not hold what it should" in page.text
    assert number(summarise(read_facts(run.path)).last) in page.text


def test_skipped_steps_are_told_with_their_reason(runs):
    run = Run(runs / "first")
    *lines, last = run.metrics()
    last |= {"loss": None, "grad_norm": None, "skipped": "loss nan"}
    (run.path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in [*lines, last]))
    page = Page(write_report(run))
    assert "loss nan" in page.text
    assert f"bad_steps/step-{last['step']}.json" in page.text


values = st.floats(-1e6, 1e6, allow_subnormal=False)


@given(values, values)
def test_ticks_are_even_and_around_what_they_are_for(one, other):
    low, high = sorted((one, other))
    marks = ticks(low, high)
    gaps = [after - before for before, after in pairwise(marks)]
    assert 2 <= len(marks) <= 7
    tolerance = 1e-6 * max(abs(low), abs(high), 1e-9)
    assert marks[0] <= low + tolerance
    assert marks[-1] >= high - tolerance
    assert max(gaps) - min(gaps) <= tolerance + 1e-9 * max(gaps)


@given(st.lists(values, min_size=1, max_size=3000))
def test_long_curves_keep_their_extremes_and_their_ends(figures_):
    curve = list(enumerate(figures_))
    drawn = thinned(curve)
    assert len(drawn) <= 700
    assert set(drawn) <= set(curve)
    assert drawn == sorted(drawn)
    kept = [value for _, value in drawn]
    assert (min(kept), max(kept)) == (min(figures_), max(figures_))
    assert drawn[-1] == curve[-1]


@given(st.lists(st.tuples(st.integers(0, 10**6), values), min_size=1, max_size=50), st.booleans())
def test_curves_stay_within_their_chart(points, from_zero):
    points = [(step, abs(value) if from_zero else value) for step, value in sorted(dict(points).items())]
    chart = lay_out(Chart("loss", [Curve("loss", points)]), from_zero)
    for _, path in chart.paths:
        for x, y in (pair.split() for pair in path.removeprefix("M").split("L")):
            assert 0 <= float(x) <= 460
            assert 0 <= float(y) <= 230
    json.loads(chart.data)


@given(st.floats(allow_nan=False, allow_infinity=False, min_value=-1e12, max_value=1e12))
def test_numbers_keep_three_digits(value):
    shown = float(number(value).replace(",", ""))
    assert math.isclose(shown, value, rel_tol=6e-3, abs_tol=1e-300)


def test_durations():
    assert [duration(seconds) for seconds in (0.4, 59.7, 200, 18180)] == [
        "0 s",
        "1 min 0 s",
        "3 min 20 s",
        "5 h 3 min",
    ]
