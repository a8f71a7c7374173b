"""Sending over real HTTP, to a catalogue that is away, busy, wrong or well."""

import asyncio
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import httpx
import pytest

import extractors.client
from extractors.client import Client
from extractors.errors import CatalogueAwayError, RefusedError, SendError
from metadata_db.database import Database
from metadata_db.records import Authority, Facility, Failure, FileRecord, Removal, Storage
from metadata_db.settings import CatalogueSettings
from metadata_db.tokens import Role, TokenStore

Catalogue = Any

NOON = datetime(2019, 11, 2, 12, 0, 0, 1, tzinfo=UTC)


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


# --- what the catalogue knows: asked of the real one ------------------------------------------------------------------


@pytest.fixture
def admin_token(database_url: str) -> str:
    async def create() -> str:
        database = Database(CatalogueSettings(database_url=database_url))
        try:
            return await TokenStore(database).create(Role.ADMIN)
        finally:
            await database.close()

    return asyncio.run(create())


@pytest.fixture
def real(service_url: str, admin_token: str) -> Iterator[Client]:
    """A client of a running service that knows two facilities and a storage of the first."""
    with Client(service_url, admin_token, attempts=2, first_delay_s=0.01) as client:
        client.put_facility(Facility(name="aurora"))
        client.put_facility(Facility(name="borealis"))
        client.put_storage(Storage(name="s", root="/data", facility="aurora"))
        yield client


def test_a_storage_is_told_as_it_was_registered(real: Client) -> None:
    assert real.get_storage("s") == Storage(name="s", root="/data", facility="aurora")
    with pytest.raises(RefusedError, match="404 NOT_FOUND: no storage 'x y'"):
        real.get_storage("x y")


def test_the_files_of_a_storage_are_told_over_all_pages(real: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(extractors.client, "FILES_PAGE", 3)
    assert list(real.iter_files("s")) == []
    paths = ["a&b", "a+b", "a/b #%", "c", "ü", "😀"]
    for number in range(len(paths) + 1):
        real.send([record(path, sha256="ab" * 32, modified_at=NOON) for path in paths[:number]])
        told = list(real.iter_files("s"))
        assert [known.path for known in told] == paths[:number]
        assert {(known.size_bytes, known.modified_at) for known in told} <= {(1, NOON)}


def test_a_file_is_removed_as_the_listing_told_it_and_only_so(real: Client) -> None:
    real.send([record("a", modified_at=NOON), record("b")])
    missed = [
        Removal(
            facility=known.facility,
            storage="s",
            path=known.path,
            size_bytes=known.size_bytes,
            modified_at=known.modified_at,
        )
        for known in real.iter_files("s")
    ]
    real.send([record("b", modified_at=NOON)])
    result = real.remove(missed)
    assert (result.received, result.removed, result.kept, result.unknown) == (2, 1, 1, 0)
    assert [known.path for known in real.iter_files("s")] == ["b"]
    assert real.remove(missed[:1]).unknown == 1


def test_a_record_that_was_read_otherwise_is_counted(real: Client) -> None:
    real.send([record("a", description="d@1")])
    result = real.send([record("a", description="d@2")])
    assert (result.unchanged, result.changed, result.reread) == (1, 0, 1)


def test_failures_are_kept_told_over_all_pages_and_dismissed(real: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(extractors.client, "FAILURES_PAGE", 2)
    failures = [
        Failure(facility="aurora", storage="s", path=f"{number}", reason="content: ends early") for number in range(5)
    ]
    real.report_failures(failures)
    real.send([record("bad", object="x", cluster="nowhere")])
    told = list(real.iter_failures(storage="s", facility="aurora"))
    assert [letter.path for letter in told] == [*"01234", "bad"]
    assert [letter.stage for letter in told] == ["extraction"] * 5 + ["ingest"]
    assert list(real.iter_failures(facility="borealis")) == []
    real.dismiss(told[0].id)
    assert [letter.path for letter in real.iter_failures()] == [*"1234", "bad"]
    with pytest.raises(RefusedError, match="404 NOT_FOUND"):
        real.dismiss(told[0].id)


def test_a_failure_that_is_too_long_is_kept_as_far_as_it_goes(real: Client) -> None:
    real.report_failures([Failure(facility="aurora", storage="s", path="p" * 9000, reason="r" * 100_000)])
    (letter,) = real.iter_failures()
    assert (letter.path, letter.reason) == ("p" * 4096, "r" * 1000)


def test_a_failure_that_the_catalogue_does_not_take_is_an_error(real: Client) -> None:
    failures = [Failure(facility="aurora", storage=storage, path="a", reason="x") for storage in ("s", "nowhere")]
    with pytest.raises(RefusedError, match="1 of 2 failures, the first for storage: 'nowhere' is not registered"):
        real.report_failures(failures)
    assert [letter.storage for letter in real.iter_failures()] == ["s"]


class Busy(httpx.HTTPTransport):
    """A way to the catalogue on which every other request is turned back."""

    requests = 0

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        self.requests += 1
        return httpx.Response(503) if self.requests % 2 else super().handle_request(request)


def test_every_question_is_asked_again_of_a_busy_catalogue(real: Client, service_url: str, admin_token: str) -> None:
    real.send([record("a")])
    failure = Failure(facility="aurora", storage="s", path="b", reason="x")
    missed = Removal(facility="aurora", storage="s", path="a")
    with Client(service_url, admin_token, attempts=2, first_delay_s=0.01, transport=Busy()) as busy:
        assert busy.get_storage("s").root == "/data"
        assert [known.path for known in busy.iter_files("s")] == ["a"]
        assert busy.remove([missed]).removed == 1
        busy.report_failures([failure])
        for letter in busy.iter_failures():
            busy.dismiss(letter.id)
        assert list(busy.iter_failures()) == []
    with (
        Client(service_url, admin_token, attempts=1, transport=Busy()) as impatient,
        pytest.raises(CatalogueAwayError, match="status 503"),
    ):
        list(impatient.iter_files("s"))
