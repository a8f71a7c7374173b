"""What is carried to the catalogue, counted, and kept when it does not arrive."""

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from extractors.client import Client
from extractors.courier import MAX_FAILURES_KEPT, Courier, IngestReport, spell, told_failure
from extractors.errors import CatalogueAwayError, RefusedError
from extractors.extract import Outcome
from extractors.storages.trees import printable
from metadata_db.records import Facility, Failure, FileRecord, KnownFile, Storage

Api = Any
Catalogue = Any


def record(path: str) -> FileRecord:
    return FileRecord(facility="f", storage="s", path=path, size_bytes=1)


def courier(client: Client, **settings: Any) -> Courier:
    return Courier(client, IngestReport(), facility="f", storage="s", **settings)


def connect(catalogue: Catalogue, token: str | None = None) -> Client:
    return Client(catalogue.url, token or catalogue.token, attempts=1)


def test_what_was_not_delivered_is_kept_and_goes_when_it_is_tried_again(catalogue: Catalogue) -> None:
    catalogue.failures = [(503, {})]
    with connect(catalogue) as client:
        mine = courier(client)
        mine.take(Outcome(path="a", record=record("a")))
        mine.fail("b", "damaged")
        with pytest.raises(CatalogueAwayError):
            mine.flush()
        assert not mine.is_empty
        assert catalogue.told == {}
        mine.flush()
        assert mine.is_empty
    assert catalogue.records.keys() == {("s", "a")}
    assert catalogue.told == {("s", "b"): "damaged"}
    assert (mine.report.added, mine.report.failed) == (1, 1)


def test_in_a_dry_run_everything_is_counted_and_nothing_told(catalogue: Catalogue) -> None:
    with connect(catalogue, token="wrong") as client:
        mine = courier(client, is_dry=True)
        mine.take(Outcome(path="a", record=record("a"), is_matched=True))
        mine.take(Outcome(path="b", failure="is a FIFO"))
        mine.remove(KnownFile(path="c", size_bytes=1, facility="f"))
        mine.flush()
    report = mine.report
    assert (report.extracted, report.failed, report.added, report.removed) == (1, 1, 0, 0)


def test_a_path_that_no_catalogue_holds_needs_no_removal(catalogue: Catalogue) -> None:
    with connect(catalogue, token="wrong") as client:
        mine = courier(client)
        for path in ("bad\nname", "\udcff", "", "../a", "x" * 2000):
            mine.remove_path(path)
        mine.flush()
        mine.remove_path("a")
        with pytest.raises(RefusedError):
            mine.flush()


def test_so_many_failures_are_told_one_by_one_and_the_others_by_number() -> None:
    report = IngestReport()
    for number in range(MAX_FAILURES_KEPT + 5):
        report.count_failure(str(number), "damaged")
    assert (report.failed, len(report.failures), report.failures_omitted) == (1005, 1000, 5)


def test_failures_that_the_catalogue_does_not_take_end_nothing(real: Api, caplog: pytest.LogCaptureFixture) -> None:
    with Client(real.url, real.token) as client:
        client.put_facility(Facility(name="f"))
        client.put_storage(Storage(name="s", root="/data", facility="f"))
        mine = Courier(client, IngestReport(), facility="f", storage="unheard-of")
        mine.fail("a", "damaged")
        mine.flush()
    assert "not every failure could be kept" in caplog.text


@given(st.text(st.characters(), max_size=20), st.text(st.characters(), max_size=3000))
def test_a_failure_can_be_told_whatever_the_name_and_the_reason(path: str, reason: str) -> None:
    failure = told_failure("f", "s", path, reason)
    for text in (failure.path, failure.reason):
        assert text
        text.encode()
        assert text.replace(" ", "x").isprintable() or not text.isascii()
    assert len(failure.reason) <= 1000
    assert isinstance(failure, Failure)


@given(st.binary(min_size=1, max_size=20).filter(lambda name: not any(byte < 32 or byte == 127 for byte in name)))
def test_names_are_told_as_trees_tell_them(name: bytes) -> None:
    path = Path(name.decode("utf-8", "surrogateescape")).as_posix()
    assert spell(path) == printable(path) == spell(printable(path))
