"""A whole storage into a catalogue."""

import os
from pathlib import Path
from typing import Any

import pytest

from extractors.client import Client
from extractors.description import find_description
from extractors.errors import CatalogueAwayError, RefusedError
from extractors.ingest import IngestReport, ingest_tree, register
from metadata_db.records import Storage

Catalogue = Any


def ingest(night: Path, catalogue: Catalogue, **settings: Any) -> IngestReport:
    with Client(catalogue.url, settings.pop("token", catalogue.token), attempts=2, first_delay_s=0.01) as client:
        return ingest_tree(
            night, storage="s", facility="aurora", description=find_description("aurora"), client=client, **settings
        )


def test_every_file_is_catalogued_and_every_failure_told(night: Path, catalogue: Catalogue, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("x")
    (night / "link").symlink_to(tmp_path / "secret")
    os.mkfifo(night / "fifo")
    calls: list[tuple[int, int]] = []
    report = ingest(night, catalogue, on_progress=lambda done, total: calls.append((done, total)))
    assert (report.seen, report.extracted, report.unmatched, report.failed) == (7, 3, 1, 3)
    reasons = {failure.path.rsplit("/", 1)[-1]: failure.reason for failure in report.failures}
    assert reasons["link"] == "leads out of the storage by a symbolic link"
    assert reasons["fifo"] == "is a FIFO"
    assert "ends within a header" in reasons["aurora_000099_dl3.fits"]
    assert (report.added, report.changed, report.rejected, report.warnings) == (5, 0, 0, 1)
    assert {path for _, path in catalogue.records} == {
        "notes.txt", *(f"north/2020/01/20200101/aurora_0000{run}_dl3.fits" for run in (41, 42, 43, 99))
    }  # fmt: skip
    assert calls[-1] == (7, 7)
    assert calls == sorted(calls)
    assert report.revisions == {"aurora": 1}


def test_a_second_run_changes_nothing(night: Path, catalogue: Catalogue) -> None:
    ingest(night, catalogue)
    report = ingest(night, catalogue, processes=1)
    assert (report.added, report.changed, report.unchanged) == (0, 0, 5)


def test_batches_are_bounded(night: Path, catalogue: Catalogue, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("extractors.ingest.BATCH_RECORDS", 2)
    assert ingest(night, catalogue).added == 5
    assert catalogue.batches == [2, 2, 1]


def test_rejections_name_the_file(night: Path, catalogue: Catalogue) -> None:
    catalogue.reject = lambda record: "not wanted" if record.path == "notes.txt" else None
    report = ingest(night, catalogue)
    assert report.rejected == 1
    assert [(rejection.path, rejection.reason) for rejection in report.rejections] == [
        ("notes.txt", "path: not wanted")
    ]


def test_a_batch_refused_for_its_content_does_not_end_the_run(night: Path, catalogue: Catalogue) -> None:
    catalogue.failures = [(413, {})]
    report = ingest(night, catalogue)
    assert (report.rejected, report.added, len(report.rejections)) == (5, 0, 5)
    assert "413" in report.rejections[0].reason


def test_a_catalogue_that_is_away_ends_the_run_and_the_next_goes_on(night: Path, catalogue: Catalogue) -> None:
    catalogue.failures = [(503, {})] * 2
    with pytest.raises(CatalogueAwayError):
        ingest(night, catalogue)
    assert ingest(night, catalogue).added == 5


def test_a_wrong_token_ends_the_run(night: Path, catalogue: Catalogue) -> None:
    with pytest.raises(RefusedError, match="401"):
        ingest(night, catalogue, token="wrong")


def test_registering_puts_authority_facility_and_storage_in_this_order(catalogue: Catalogue) -> None:
    storage = Storage(name="s", root="/data", facility="aurora")
    with Client(catalogue.url, catalogue.token) as client:
        register(client, description=find_description("aurora"), facility="aurora", storage=storage)
        register(client, description=None, facility="plain", storage=storage)
    paths = [path for _, path, _ in catalogue.requests]
    assert paths == [
        "/api/v1/authorities/aurora-consortium", "/api/v1/facilities/aurora", "/api/v1/storages/s",
        "/api/v1/facilities/plain", "/api/v1/storages/s",
    ]  # fmt: skip
    assert [entry["name"] for entry in catalogue.requests[1][2]["clusters"]] == ["north", "south"]


def test_a_description_of_another_facility_is_not_registered(catalogue: Catalogue) -> None:
    with Client(catalogue.url, catalogue.token) as client, pytest.raises(ValueError, match="expected 'aurora'"):
        register(client, description=find_description("aurora"), facility="x", storage=Storage(name="s", root="/data"))
    assert catalogue.requests == []
