"""The report's sums hold whatever is recorded, at whichever stage, over however many files."""

import json

from hypothesis import given
from hypothesis import strategies as st

from xtune.data.report import PLACES, DataReport, FileFormat

# For each record: how often it is repaired when read, and the stage at which it is rejected, if any.
FATES = st.lists(st.tuples(st.integers(0, 2), st.sampled_from([None, "read", "encode"])))


def account(fates, path):
    report = DataReport(formats=[FileFormat(path, "alpaca", "as named")])
    for line, (repairs, rejected) in enumerate(fates, start=1):
        report.read += 1
        if rejected == "read":
            report.reject("broken", f"{path}:{line}", "column 3")
            continue
        for number in range(repairs):
            report.repair(f"repair {number}", f"{path}:{line}")
    for line, (_, rejected) in enumerate(fates, start=1):
        if rejected == "encode":
            report.reject("longer than max_length", f"{path}:{line}")
    return report


@given(FATES, FATES)
def test_sums(first, second):
    reports = [account(first, "a.json"), account(second, "b.json")]
    for report, fates in (
        *zip(reports, (first, second), strict=True),
        (sum(reports, DataReport()), first + second),
    ):
        assert report.read == len(fates) == report.kept + report.rejected
        assert report.rejected == sum(tally.count for tally in report.rejections.values())
        assert report.repaired == sum(repairs > 0 and not rejected for repairs, rejected in fates)
        assert report.repaired <= report.kept
        written = json.loads(json.dumps(report.to_dict()))
        assert [written[name] for name in ("read", "kept", "rejected")] == [
            report.read,
            report.kept,
            report.rejected,
        ]


def test_first_places_are_named_and_adding_changes_neither_part():
    one, two = account([(1, None)] * 7, "a"), account([(1, "read"), (1, "encode")], "b")
    before = json.dumps([one.to_dict(), two.to_dict()])
    total = one + two
    assert total.repairs["repair 0"].count == 8
    assert total.repairs["repair 0"].places == [f"a:{line}" for line in range(1, PLACES + 1)]
    assert total.rejections["broken"].places == ["b:1 (column 3)"]
    total.repair("repair 0", "c:1")
    total.reject("broken", "c:2")
    assert json.dumps([one.to_dict(), two.to_dict()]) == before


def test_as_text():
    text = str(account([(1, None)] * 7 + [(0, "read")], "a.json"))
    assert "8 records read, 7 kept (7 of them repaired), 1 rejected" in text
    assert "a.json: alpaca (as named)" in text
    assert "broken" in text
    assert "a.json:8 (column 3)" in text
    assert "a.json:5, ..." in text
