"""What the extractors expect of an ingest API holds for the real one and for the stand-in of the other tests."""

from pathlib import Path
from typing import Any

import pytest

from extractors.client import Client
from extractors.errors import RefusedError
from extractors.extract import Extractor
from extractors.ingest import ScanOptions, register, scan
from extractors.loading import find_description
from extractors.storages.local_tree import LocalTree
from metadata_db.records import Facility, Failure, FileRecord, Removal, Storage
from tests.extractors.conftest import Api


@pytest.fixture(params=["real", "stand-in"])
def api(request: pytest.FixtureRequest) -> Api:
    if request.param == "real":
        found: Api = request.getfixturevalue("real")
        return found
    stand_in: Any = request.getfixturevalue("catalogue")
    return Api(url=stand_in.url, token=stand_in.token)


def test_the_same_batch_is_added_once_and_then_unchanged_until_it_changes(api: Api) -> None:
    def record(path: str, **values: Any) -> FileRecord:
        return FileRecord(facility="f", storage="s", path=path, size_bytes=1, **values)

    with Client(api.url, api.token) as client:
        client.put_facility(Facility(name="f"))
        client.put_storage(Storage(name="s", root="/data", facility="f"))
        first = client.send([record("a"), record("b")])
        assert (first.received, first.added, first.changed, first.unchanged, first.rejected) == (2, 2, 0, 0, 0)
        again = client.send([record("a"), record("b", kind="events")])
        assert (again.added, again.changed, again.unchanged) == (0, 1, 1)
        assert again.revisions.keys() <= {"f", "aurora"}


def test_a_wrong_token_is_a_refusal_of_the_sender(api: Api) -> None:
    with Client(api.url, "wrong") as client, pytest.raises(RefusedError) as caught:
        client.send([FileRecord(facility="f", storage="s", path="a", size_bytes=1)])
    assert caught.value.is_about_sender
    assert caught.value.code == "PERMISSION_DENIED"


def test_a_storage_is_registered_and_catalogued_twice_without_a_change(api: Api, night: Path) -> None:
    description = find_description("aurora")
    extractor = Extractor(tree=LocalTree(night), facility="aurora", storage="s", description=description)
    with Client(api.url, api.token) as client:
        storage = Storage(name="s", root=str(night), facility="aurora")
        register(client, description=description, facility="aurora", storage=storage)
        first, again = (scan(extractor, client, options=ScanOptions(processes=1)) for _ in range(2))
    assert (first.added, first.rejected, first.extracted, first.failed) == (5, 0, 3, 1)
    assert (again.added, again.changed, again.same, again.rejected) == (0, 0, 5, 0)


def test_what_is_known_is_listed_in_byte_order_and_what_is_removed_is_not(api: Api) -> None:
    with Client(api.url, api.token) as client:
        client.put_facility(Facility(name="f"))
        client.put_storage(Storage(name="s", root="/data", facility="f"))
        paths = ["b", "a/b", "a!", "\u00e9", "Z"]
        client.send([FileRecord(facility="f", storage="s", path=path, size_bytes=1) for path in paths])
        assert [file.path for file in client.iter_files("s")] == sorted(paths, key=str.encode)
        assert [file.path for file in client.iter_files("s", after="a/b")] == ["b", "\u00e9"]
        gone = [Removal(facility="f", storage="s", path=path) for path in ("b", "never")]
        result = client.remove(gone)
        assert (result.received, result.removed, result.unknown) == (2, 1, 1)
        assert "b" not in [file.path for file in client.iter_files("s")]


def test_failures_are_taken(api: Api) -> None:
    with Client(api.url, api.token) as client:
        client.put_facility(Facility(name="f"))
        client.put_storage(Storage(name="s", root="/data", facility="f"))
        client.report_failures([Failure(facility="f", storage="s", path="a", reason="damaged")])
