"""The report's sums hold whatever is recorded, at whichever stage, over however many files."""

import json

from hypothesis import given
from hypothesis import strategies as st

from xtune.data.findings import Findings, Reject
from xtune.data.report import PLACES, DataReport, FileFormat

# For each record: how often it is repaired, whether something is noted in it, and whether it is rejected.
FATES = st.lists(st.tuples(st.integers(0, 2), st.booleans(), st.booleans()))


def account(fates, path):
    report = DataReport(formats=[FileFormat(path, "alpaca", "as named")])
    for line, (repairs, noted, rejected) in enumerate(fates, start=1):
        place = f"{path}:{line}"
        if rejected:
            report.reject(place, Reject("broken_record", "broken", "column 3"))
            continue
        found = Findings()
        for number in range(repairs):
            found.repair("not_text", f"repair {number}")
        if noted:
            found.note("odd_space", "odd space")
        report.keep(place, found)
    return report


def total(*reports):
    whole = DataReport()
    for report in reports:
        whole += report
    return whole


@given(FATES, FATES)
def test_sums(first, second):
    reports = [account(first, "a.json"), account(second, "b.json")]
    for report, fates in (
        *zip(reports, (first, second), strict=True),
        (total(*reports), first + second),
    ):
        kept = [(repairs, noted) for repairs, noted, rejected in fates if not rejected]
        assert report.read == len(fates) == report.kept + report.rejected
        assert report.kept == len(kept)
        assert report.rejected == sum(tally.count for tally in report.rejections.values())
        assert report.repaired == sum(repairs > 0 for repairs, _ in kept)
        assert sum(tally.count for tally in report.repairs.values()) == sum(repairs for repairs, _ in kept)
        assert sum(tally.count for tally in report.notes.values()) == sum(noted for _, noted in kept)
        written = json.loads(json.dumps(report.to_dict()))
        assert [written[name] for name in ("read", "kept", "repaired", "rejected")] == [
            report.read,
            report.kept,
            report.repaired,
            report.rejected,
        ]


def test_first_places_are_named_and_adding_leaves_what_was_added_alone():
    one, two = account([(1, True, False)] * 7, "a"), account([(1, False, True), (1, False, False)], "b")
    before = json.dumps([one.to_dict(), two.to_dict()])
    whole = total(one, two)
    assert whole.repairs["repair 0"].count == 8
    assert whole.repairs["repair 0"].places == [f"a:{line}" for line in range(1, PLACES + 1)]
    assert whole.notes["odd space"].count == 7
    assert whole.rejections["broken"].places == ["b:1 (column 3)"]
    assert [file.path for file in whole.formats] == ["a", "b"]
    found = Findings()
    found.repair("not_text", "repair 0")
    whole.keep("c:1", found)
    whole.note("c:1", "odd space")
    whole.reject("c:2", Reject("broken_record", "broken"))
    assert whole.rejections["broken"].places == ["b:1 (column 3)", "c:2"]
    assert json.dumps([one.to_dict(), two.to_dict()]) == before


def test_as_text():
    text = str(account([(1, True, False)] * 7 + [(0, False, True)], "a.json"))
    assert "8 records read, 7 kept (7 of them repaired), 1 rejected" in text
    assert "a.json: alpaca (as named)" in text
    parts = text[text.index("rejected:") :].splitlines()
    assert parts == [
        "rejected:",
        "       1  broken",
        "          a.json:8 (column 3)",
        "repaired:",
        "       7  repair 0",
        "          a.json:1, a.json:2, a.json:3, a.json:4, a.json:5, ...",
        "kept as it is:",
        "       7  odd space",
        "          a.json:1, a.json:2, a.json:3, a.json:4, a.json:5, ...",
    ]
