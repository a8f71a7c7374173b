"""The meaning of a coincidence, case by case: what the plain catalogue finds, any other must find."""

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from metadata_db.query import Alert, SearchQuery, parse_coincidence
from metadata_db.records import FileRecord
from tests.support.evaluation import History
from tests.support.records import file_record

NOON = datetime(2019, 11, 2, 12, tzinfo=UTC)


def at(second: float) -> datetime:
    return NOON + timedelta(seconds=second)


def recorded(path: str, begin: float | None = None, end: float | None = None, **values: Any) -> FileRecord:
    """Return a file of some seconds after noon; of another facility if its path begins with ``b``."""
    other = {"facility": "borealis", "storage": "borealis-disk"} if path.startswith("b") else {}
    times = {"time_begin": None if begin is None else at(begin), "time_end": None if end is None else at(end)}
    return file_record(path, **times, **other, **values)


def find(history: History, revisions: Mapping[str, int] | None = None, **coincidence: Any) -> list[str]:
    """Return the paths of aurora's files that coincide."""
    asked = SearchQuery(facility=("aurora",), coincidence=parse_coincidence("c", **coincidence))
    return [version.record.path for version in history.find(asked, revisions or history.revisions)]


def filled(*records: FileRecord) -> History:
    history = History()
    history.ingest(records)
    return history


BOREALIS = SearchQuery(facility=("borealis",))
EVERYTHING = SearchQuery(facility=("aurora", "borealis"))
US = 1e-6


@pytest.mark.parametrize(
    ("own", "other", "within_s", "expected"),
    [
        ((0, 10), (5, 15), 0, True),
        ((0, 10), (2, 3), 0, True),
        ((0, 10), (10, 20), 0, False),  # half-open: they only touch
        ((10, 20), (0, 10), 0, False),
        ((0, 10), (10, 20), US, True),
        ((10, 20), (0, 10), US, True),
        ((0, 10), (15, 20), 5, False),
        ((0, 10), (15, 20), 5 + US, True),
        ((0, None), (0, None), 0, True),  # moments
        ((0, None), (US, None), 0, False),
        ((0, None), (US, None), US, True),
        ((0, 0), (5, None), 5 - US, False),
        ((0, 0), (5, None), 5, True),
        ((5, None), (0, 0), 5, True),
        ((0, 10), (10, None), 0, False),
        ((0, 10), (10 - US, None), 0, True),
        ((0, 10), (0, 0), 0, True),
        ((None, None), (0, 10), 100, False),  # not known
        ((0, 10), (None, None), 100, False),
    ],
)
def test_a_file_coincides_with_another_that_is_close_enough_in_time(
    own: tuple[float | None, float | None], other: tuple[float | None, float | None], within_s: float, expected: bool
) -> None:
    history = filled(recorded("a", *own), recorded("b", *other))
    assert find(history, files=BOREALIS, within_s=within_s) == ["a"] * expected


@pytest.mark.parametrize(
    ("own", "second", "within_s", "expected"),
    [
        ((0, 10), 10 - US, 0, True),
        ((0, 10), 10, 0, False),
        ((0, 10), 10, US, True),
        ((0, 10), -5, 5 - US, False),
        ((0, 10), -5, 5, True),
        ((0, None), 0, 0, True),
        ((0, None), 5, 5, True),
        ((0, None), 5 + US, 5, False),
        ((None, None), 0, 5, False),
    ],
)
def test_a_file_coincides_with_an_alert_that_is_close_enough_in_time(
    own: tuple[float | None, float | None], second: float, within_s: float, expected: bool
) -> None:
    history = filled(recorded("a", *own))
    alerts = (Alert(time=at(second)), Alert(time=NOON - timedelta(days=9)))
    assert find(history, alerts=alerts, within_s=within_s) == ["a"] * expected
    history.alert_lists = {"0" * 64: alerts}
    assert find(history, alert_list="0" * 64, within_s=within_s) == ["a"] * expected


def test_no_file_coincides_with_itself_but_with_another_of_the_same_time() -> None:
    assert find(filled(recorded("a", 0, 10)), files=EVERYTHING, within_s=60) == []
    both = filled(recorded("a", 0, 10), recorded("a2", 0, 10), recorded("a3", 99, 100))
    assert find(both, files=EVERYTHING, within_s=60) == ["a", "a2"]


def test_only_the_versions_of_one_moment_coincide() -> None:
    history = filled(recorded("a", 0, 10), recorded("b", 0, 10))
    history.ingest([recorded("a", 5, 10), recorded("b", 100, 110)])
    assert history.revisions == {"aurora": 2, "borealis": 2}
    for aurora, borealis, expected in ((1, 1, ["a"]), (2, 1, ["a"]), (1, 2, []), (2, 2, [])):
        revisions = {"aurora": aurora, "borealis": borealis}
        assert find(history, revisions, files=BOREALIS, within_s=0) == expected
    assert find(history, {"aurora": 2, "borealis": 0}, files=BOREALIS, within_s=60) == []
    assert find(history, files=EVERYTHING, within_s=60) == [], "an older version of a file is no other file"


def test_the_same_other_must_be_close_in_time_and_on_the_sky() -> None:
    history = filled(
        recorded("a", 0, 10, ra_deg=359.9, dec_deg=0.0),
        recorded("a without position", 0, 10),
        recorded("b near on the sky", 500, 510, ra_deg=0.1, dec_deg=0.0),
        recorded("b near in time", 0, 10, ra_deg=90.0, dec_deg=0.0),
        recorded("b anywhere", 0, 10),
    )
    assert find(history, files=BOREALIS, within_s=0) == ["a", "a without position"]
    assert find(history, files=BOREALIS, within_s=0, within_deg=0.3) == []
    assert find(history, files=BOREALIS, within_s=500, within_deg=0.19) == []
    assert find(history, files=BOREALIS, within_s=500, within_deg=0.21) == ["a"]
    assert find(history, files=BOREALIS, within_s=0, within_deg=180) == ["a"]
    alerts = [Alert(time=at(5), ra_deg=90.0, dec_deg=0.0), Alert(time=at(500), ra_deg=0.1, dec_deg=0.0)]
    assert find(history, alerts=alerts, within_s=60, within_deg=1) == []
    assert find(history, alerts=alerts, within_s=500, within_deg=1) == ["a"]


def test_a_coincidence_can_be_left_out_and_facets_leave_the_other_filters_out() -> None:
    history = filled(recorded("a", 0, 10), recorded("a2", 99, 100), recorded("b", 0, 10))
    asked = SearchQuery(
        facility=("aurora",), coincidence=parse_coincidence("c", within_s=0, files=SearchQuery(facility=("borealis",)))
    )
    for without, expected in ((None, ["a"]), ("coincidence", ["a", "a2"]), ("facility", ["a"])):
        found = history.find(asked, history.revisions, without=without)
        assert [version.record.path for version in found] == expected
