"""Sending over real HTTP, to a catalogue that is away, busy, wrong or well."""

import time
from collections.abc import Iterator
from typing import Any

import pytest

from extractors.client import Client
from extractors.errors import CatalogueAwayError, RefusedError, SendError
from metadata_db.records import Authority, Facility, FileRecord, Storage

Catalogue = Any


def record(path: str, **fields: Any) -> FileRecord:
    return FileRecord(facility="aurora", storage="s", path=path, size_bytes=1, **fields)


@pytest.fixture
def client(catalogue: Catalogue) -> Iterator[Client]:
    with Client(catalogue.url, catalogue.token, attempts=3, first_delay_s=0.01) as client:
        yield client


def test_a_batch_arrives_and_its_report_comes_back(client: Client, catalogue: Catalogue) -> None:
    result = client.send([record("a"), record("b", object="Größe")])
    assert (result.received, result.added, result.rejected, result.revisions) == (2, 2, 0, {"aurora": 1})
    assert catalogue.records["s", "b"].object == "Größe"


def test_the_same_batch_again_is_unchanged(client: Client) -> None:
    client.send([record("a")])
    assert client.send([record("a")]).unchanged == 1
    assert client.send([record("a", object="x")]).changed == 1


def test_rejections_say_line_field_and_reason(client: Client, catalogue: Catalogue) -> None:
    catalogue.reject = lambda found: "no such thing" if found.path == "b" else None
    (rejection,) = client.send([record("a"), record("b")]).rejections
    assert (rejection.line, rejection.field, rejection.reason) == (2, "path", "no such thing")


@pytest.mark.parametrize("status", [429, 500, 503])
def test_a_catalogue_that_is_busy_is_asked_again(client: Client, catalogue: Catalogue, status: int) -> None:
    catalogue.failures = [(status, {}), (status, {})]
    assert client.send([record("a")]).added == 1


def test_the_pause_that_the_catalogue_asks_for_is_kept(client: Client, catalogue: Catalogue) -> None:
    catalogue.failures = [(503, {"Retry-After": "1"})]
    begin = time.monotonic()
    client.send([record("a")])
    assert time.monotonic() - begin >= 1


def test_a_catalogue_that_stays_busy_counts_as_away(client: Client, catalogue: Catalogue) -> None:
    catalogue.failures = [(503, {})] * 10
    with pytest.raises(CatalogueAwayError, match="in 3 attempts, at last status 503"):
        client.send([record("a")])
    assert len(catalogue.failures) == 7


def test_a_catalogue_that_is_not_there_counts_as_away() -> None:
    with (
        Client("http://127.0.0.1:9", "t0ken", attempts=2, first_delay_s=0.01) as client,
        pytest.raises(CatalogueAwayError, match=r"no answer from http://127\.0\.0\.1:9 in 2 attempts"),
    ):
        client.send([record("a")])


@pytest.mark.parametrize(("status", "is_about_sender"), [(400, False), (403, True), (413, False), (422, False)])
def test_a_refusal_is_not_tried_again(client: Client, catalogue: Catalogue, status: int, is_about_sender: bool) -> None:
    catalogue.failures = [(status, {}), (status, {})]
    with pytest.raises(RefusedError, match=f"{status} UNAVAILABLE: as told") as caught:
        client.send([record("a")])
    assert caught.value.is_about_sender is is_about_sender
    assert len(catalogue.failures) == 1


def test_a_wrong_token_is_a_refusal_that_does_not_show_it(catalogue: Catalogue) -> None:
    with Client(catalogue.url, "very-secret") as client, pytest.raises(RefusedError, match="401") as caught:
        client.send([record("a")])
    assert "very-secret" not in str(caught.value) + repr(client) + repr(vars(client))


def test_an_answer_that_is_no_report_is_no_acknowledgment(client: Client, catalogue: Catalogue) -> None:
    catalogue.take = lambda body: {"welcome": "to the hotel network"}
    with pytest.raises(CatalogueAwayError, match="no ingest report"):
        client.send([record("a")])


@pytest.mark.parametrize("url", ["", "catchment.example.org", "ftp://x", "http://"])
def test_an_address_that_is_none_says_so_at_once(url: str) -> None:
    with pytest.raises(SendError, match="address"):
        Client(url, "t")


def test_a_token_that_is_no_header_says_so_without_showing_it() -> None:
    with pytest.raises(SendError, match="characters it cannot have") as caught:
        Client("http://127.0.0.1:9", "tökèn-secret").send([record("a")])
    assert "secret" not in str(caught.value)


def test_vocabulary_goes_to_its_addresses(client: Client, catalogue: Catalogue) -> None:
    client.put_authority(Authority(name="board"))
    client.put_facility(Facility(name="aurora", authority="board"))
    client.put_storage(Storage(name="a+b", root="/data"))
    assert catalogue.requests == [
        ("PUT", "/api/v1/authorities/board", {"name": "board"}),
        ("PUT", "/api/v1/facilities/aurora", {"name": "aurora", "authority": "board"}),
        ("PUT", "/api/v1/storages/a%2Bb", {"name": "a+b", "root": "/data"}),
    ]
