"""Finished answers are told again byte for byte, and never when what they rest on has changed."""

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import UTC, datetime
from typing import Any

import httpx
import orjson
import pytest
import redis
from sqlalchemy import text

from aggregator.answers import AnswersInFront, Grounds, Kept
from aggregator.api.context import Footprint
from aggregator.api.resolvers import Query
from aggregator.settings import Settings
from metadata_db.database import Database
from metadata_db.ingest import Ingest
from metadata_db.records import Facility, FileRecord
from metadata_db.tokens import Role, TokenStore
from metadata_db.vocabulary import VocabularyStore
from tests.support.records import file_record, load, ndjson, register
from tests.support.server import serving

pytestmark = pytest.mark.anyio

HIT = "catchment; hit"
NAMES = '{ search(filter: { facility: ["aurora"] }, prepare: NEVER) { totalCount { value } files { nodes { path } } } }'


class Site:
    """A running service, as a client sees it."""

    def __init__(self, client: httpx.AsyncClient, token: str) -> None:
        self.client = client
        self.token = token

    async def ask(self, document: str, headers: dict[str, str] | None = None, **more: Any) -> httpx.Response:
        body = orjson.dumps({"query": document, **more})
        headers = {"content-type": "application/json", **(headers or {})}
        return await self.client.post("/graphql", content=body, headers=headers)

    async def data(self, document: str, **more: Any) -> Any:
        answer = (await self.ask(document, **more)).json()
        assert "errors" not in answer, answer
        return answer["data"]

    async def is_hit(self, document: str, **more: Any) -> bool:
        return is_hit(await self.ask(document, **more))

    async def ingest(self, *records: FileRecord) -> None:
        headers = {"authorization": f"Bearer {self.token}"}
        sent = await self.client.post("/api/v1/files", content=ndjson(records), headers=headers)
        assert sent.status_code == 200, sent.text
        assert sent.json()["rejected"] == 0, sent.text


def is_hit(answer: httpx.Response) -> bool:
    assert answer.status_code == 200
    return answer.headers.get("cache-status") == HIT


@pytest.fixture
async def filled(ingest: Ingest, vocabulary: VocabularyStore) -> None:
    await register(vocabulary)
    await load(
        ingest,
        *(file_record(f"run_{number}.fits", kind="events", level="DL3", size_bytes=number) for number in range(1, 6)),
        file_record("x.h5", facility="borealis", storage="borealis-disk", kind="table"),
    )


@pytest.fixture
async def site(service_url: str, database: Database, filled: None) -> AsyncIterator[Site]:
    token = await TokenStore(database).create(Role.ADMIN)
    async with httpx.AsyncClient(base_url=service_url, timeout=30) as client:
        yield Site(client, token)


@pytest.fixture
async def other_site(service_settings: Settings, site: Site) -> AsyncIterator[Site]:
    """Another process's part: the same catalogue and Redis, and nothing else in common."""
    with serving(service_settings) as url:
        async with httpx.AsyncClient(base_url=url, timeout=30) as client:
            yield Site(client, site.token)


# --- equal requests, equal operations ---------------------------------------------------------------------------------


async def test_an_equal_request_gets_equal_bytes_and_headers(site: Site) -> None:
    first, second, third = [await site.ask(NAMES) for _ in range(3)]
    assert [is_hit(answer) for answer in (first, second, third)] == [False, True, True]
    assert first.content == second.content == third.content
    passing = {"date", "cache-status"}
    told = [{name: value for name, value in answer.headers.items() if name not in passing} for answer in (first, third)]
    assert told[0] == told[1]
    assert "content-security-policy" in told[0]


async def test_an_operation_that_is_written_differently_shares_the_answer(site: Site, redis_url: str) -> None:
    document = "query Ask($filter: SearchFilter!) { search(filter: $filter, prepare: NEVER) { totalBytes checksum } }"
    variables = {"filter": {"facility": ["aurora"], "kind": ["events"]}}
    turned = {"filter": {"kind": ["events"], "facility": ["aurora"]}}
    spaced = document.replace(" ", "  ").replace("{", "{ # a remark\n")
    answers = [
        await site.ask(document, variables=variables),
        await site.ask(spaced, variables=variables),
        await site.ask(document, variables=turned, operationName="Ask"),
    ]
    assert answers[0].content == answers[1].content == answers[2].content
    with redis.Redis.from_url(redis_url) as client:
        # An operation by its name is another one: the document might hold several.
        assert len(list(client.scan_iter("bytes:*"))) == 2


async def test_what_differs_in_meaning_never_shares_an_answer(site: Site) -> None:
    document = "query ($kind: [String!]) { search(filter: { kind: $kind }, prepare: NEVER) { totalCount { value } } }"
    asked = [
        await site.data(document, variables={"kind": kind}) for kind in (["events"], ["table"], ["events", "table"])
    ]
    assert [found["search"]["totalCount"]["value"] for found in asked] == [5, 1, 6]
    alias = "{ a: search(filter: {}, prepare: NEVER) { totalBytes } }"
    assert set(await site.data(alias)) == {"a"}
    assert set(await site.data(alias.replace("a:", "b:"))) == {"b"}


async def test_another_process_tells_the_answer_again(site: Site, other_site: Site, redis_url: str) -> None:
    first = await site.ask(NAMES)
    with redis.Redis.from_url(redis_url) as client:
        for key in client.scan_iter("answer:*"):
            client.delete(key)
        again = await other_site.ask(NAMES)
        assert again.content == first.content
        assert list(client.scan_iter("answer:*")) == []  # it looked nothing up
    assert await other_site.is_hit(NAMES)


async def test_who_says_who_they_are_is_not_answered_from_what_is_everybody_s(site: Site) -> None:
    await site.ask(NAMES)
    assert not is_hit(await site.ask(NAMES, headers={"authorization": f"Bearer {site.token}"}))
    assert not is_hit(await site.ask(NAMES, headers={"cookie": "session=1"}))
    assert await site.is_hit(NAMES)


async def test_a_request_in_pieces_is_answered(site: Site) -> None:
    async def pieces() -> AsyncIterator[bytes]:
        body = orjson.dumps({"query": NAMES})
        yield body[:10]
        await asyncio.sleep(0.05)
        yield body[10:]

    await site.ask(NAMES)
    answer = await site.client.post("/graphql", content=pieces(), headers={"content-type": "application/json"})
    assert answer.json() == (await site.ask(NAMES)).json()


# --- freshness --------------------------------------------------------------------------------------------------------


async def test_once_an_ingest_has_returned_nothing_older_is_told(site: Site) -> None:
    for number in range(10):
        counts = [(await site.data(NAMES))["search"]["totalCount"]["value"] for _ in range(3)]
        assert counts == [5 + number] * 3
        await site.ingest(file_record(f"new_{number}.fits"))


async def test_another_process_tells_nothing_older_for_longer_than_a_second(site: Site, other_site: Site) -> None:
    await other_site.ask(NAMES)
    await site.ingest(file_record("new.fits"))
    ingested_at = time.monotonic()
    while (await other_site.data(NAMES))["search"]["totalCount"]["value"] == 5:
        asked_at = time.monotonic()
        assert asked_at - ingested_at < 1.0 + 0.5  # the second, and what an answer takes on a busy machine
    assert (await other_site.data(NAMES))["search"]["totalCount"]["value"] == 6


async def test_answers_while_files_keep_coming_are_never_older_than_an_ingest_that_has_returned(site: Site) -> None:
    ingested = 5
    told: list[tuple[int, int]] = []

    async def ask() -> None:
        while ingested < 15:
            before = ingested
            told.append((before, (await site.data(NAMES))["search"]["totalCount"]["value"]))

    askers = [asyncio.create_task(ask()) for _ in range(4)]
    for number in range(10):
        await site.ingest(file_record(f"new_{number}.fits"))
        ingested += 1
        await asyncio.sleep(0.02)
    await asyncio.gather(*askers)
    assert all(count >= before for before, count in told)


async def test_a_new_facility_is_in_the_answer_about_all(site: Site, vocabulary: VocabularyStore) -> None:
    everything = "{ search(filter: {}, prepare: NEVER) { totalCount { value } } }"
    assert (await site.data(everything))["search"]["totalCount"]["value"] == 6
    assert await site.is_hit(everything)
    await vocabulary.put_facility(Facility(name="corona"))
    await asyncio.sleep(1.1)
    await site.ingest(file_record("first", facility="corona", storage="shared-disk"))
    assert (await site.data(everything))["search"]["totalCount"]["value"] == 7


async def test_the_facet_of_a_chosen_field_is_as_new_as_the_files_beyond_the_choice(site: Site) -> None:
    def facet(field: str, chosen: str) -> str:
        facets = f"facets(by: [{field}]) {{ values {{ value count }} }}"
        return f"{{ search(filter: {{ {chosen} }}, prepare: NEVER) {{ {facets} }} }}"

    for document in (facet("FACILITY", 'facility: ["aurora"]'), facet("LEVEL", 'level: ["DL3"]')):
        before = await site.data(document)
        assert await site.is_hit(document)
        name = f"y_{len(document)}.h5"
        await site.ingest(file_record(name, facility="borealis", storage="borealis-disk", level="DL0"))
        assert await site.data(document) != before


async def test_vocabulary_is_told_anew_when_it_has_changed(site: Site, vocabulary: VocabularyStore) -> None:
    titles = "{ facilities { name title } }"
    await site.ask(titles)
    assert await site.is_hit(titles)
    headers = {"authorization": f"Bearer {site.token}"}
    put = await site.client.put(
        "/api/v1/facilities/borealis", json={"name": "borealis", "title": "New here"}, headers=headers
    )
    assert put.status_code < 300, put.text
    assert {"name": "borealis", "title": "New here"} in (await site.data(titles))["facilities"]
    await vocabulary.put_facility(Facility(name="borealis", title="New elsewhere"))
    await asyncio.sleep(1.1)
    assert {"name": "borealis", "title": "New elsewhere"} in (await site.data(titles))["facilities"]


async def test_a_facility_s_revision_is_told_anew_and_its_title_is_kept(site: Site) -> None:
    titles, revisions = "{ facilities { title } }", "{ facilities { revision } }"
    before = await site.data(revisions)
    await site.ask(titles)
    await site.ingest(file_record("new.fits"))
    assert await site.is_hit(titles)
    assert await site.data(revisions) != before


@pytest.fixture
def log(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    """What the service says of its work; it runs in this process."""
    caplog.set_level(logging.DEBUG, logger="aggregator")
    return caplog


def count_said(log: pytest.LogCaptureFixture, start: str) -> int:
    found = sum(record.getMessage().startswith(start) for record in log.records)
    log.clear()
    return found


IN_JANUARY = 'filter: { facility: ["aurora"], time: { begin: "2019-01-01", end: "2019-02-01" } }, prepare: NEVER'


def at(month: int, name: str = "new") -> FileRecord:
    return file_record(f"{name}_{month}.fits", kind="events", time_begin=datetime(2019, month, 10, tzinfo=UTC))


async def test_an_ingest_of_another_time_leaves_finished_answers_as_they_are(
    site: Site, other_site: Site, log: pytest.LogCaptureFixture
) -> None:
    document = (
        f"{{ search({IN_JANUARY}) {{ totalBytes files {{ nodes {{ path }} }} facets(by: [KIND]) {{ field }} }} }}"
    )
    await site.ingest(at(1))
    before = await site.ask(document)
    assert count_said(log, "executing") == 1
    for month in (6, 7, 8):
        await site.ingest(at(month))
        assert (await site.ask(document)).content == before.content
        assert await site.is_hit(document)
    await asyncio.sleep(1.1)
    assert (await other_site.ask(document)).content == before.content
    assert count_said(log, "executing") == 0
    await site.ingest(at(1, "another"))
    after = await site.data(document)
    assert len(after["search"]["files"]["nodes"]) == 2
    assert count_said(log, "executing") == 1


async def test_an_answer_that_tells_its_revision_is_made_again_of_parts_that_are_kept(
    site: Site, log: pytest.LogCaptureFixture
) -> None:
    parts = "revision totalBytes facets(by: [KIND, LEVEL]) { field } timeline(bin: DAY)"
    document = f"{{ search({IN_JANUARY}) {{ {parts} }} }}"
    await site.ingest(at(1))
    before = await site.data(document)
    assert count_said(log, "looking up") == 3
    await site.ingest(at(6))
    after = await site.data(document)
    assert count_said(log, "looking up") == 0
    assert after["search"].pop("revision") > before["search"].pop("revision")
    assert after == before
    await site.ingest(at(1, "another"))
    await site.data(document)
    assert count_said(log, "looking up") == 3


# --- what is not kept -------------------------------------------------------------------------------------------------


async def test_the_word_cached_is_true_in_every_answer_that_is_told_again(site: Site) -> None:
    document = "{ search(filter: {}, prepare: NEVER) { cached totalBytes } }"
    answers = [await site.ask(document) for _ in range(4)]
    assert [answer.json()["data"]["search"]["cached"] for answer in answers] == [False, True, True, True]
    assert [is_hit(answer) for answer in answers] == [False, False, True, True]


@pytest.mark.parametrize(
    "document",
    [
        '{ search(filter: { facility: ["nowhere"] }) { totalBytes } }',
        "{ search(filter: {}) { nothing } }",
        '{ search(filter: {}, prepare: NEVER) { totalBytes files(after: "x") { nodes { path } } } }',
        '{ query(id: "00000000000000000000000000000000") { totalBytes } }',
        'mutation { cancel(exportId: "00000000000000000000000000000000") { state } }',
        "{ __typename }",
    ],
    ids=["bad input", "not in the schema", "in part", "not known yet", "mutation", "rests on nothing"],
)
async def test_what_may_be_another_one_next_time_is_not_kept(site: Site, document: str, redis_url: str) -> None:
    answers = [await site.ask(document) for _ in range(3)]
    assert all("cache-status" not in answer.headers for answer in answers)
    with redis.Redis.from_url(redis_url) as client:
        assert list(client.scan_iter("bytes:*")) == []


async def set_state(database: Database, state: str) -> None:
    async with database.transaction() as connection:
        await connection.execute(text(f"update export set state = '{state}'"))


async def test_an_export_is_told_again_only_while_nothing_moves_it(site: Site, database: Database) -> None:
    document = '{ search(filter: { facility: ["aurora"] }, prepare: NEVER) { queryId export { state } } }'
    none = await site.data(document)
    assert none["search"]["export"] is None
    assert await site.is_hit(document)
    await site.data(f'mutation {{ prepare(queryId: "{none["search"]["queryId"]}") {{ id }} }}')
    assert (await site.data(document))["search"]["export"] == {"state": "INITIALIZED"}
    assert not await site.is_hit(document)
    for state in ("WRITING", "COMPLETED"):
        await set_state(database, state)
    assert (await site.data(document))["search"]["export"] == {"state": "COMPLETED"}
    assert await site.is_hit(document)
    await set_state(database, "EXPIRED")
    await asyncio.sleep(1.1)
    assert (await site.data(document))["search"]["export"] == {"state": "EXPIRED"}


async def test_a_hit_never_skips_the_start_of_an_export(site: Site, database: Database) -> None:
    document = '{ search(filter: { facility: ["aurora"] }) { totalBytes } }'

    async def states() -> list[str]:
        async with database.snapshot() as connection:
            return list((await connection.execute(text("select state from export"))).scalars())

    await site.ask(document)
    assert await states() == ["INITIALIZED"]
    assert await site.is_hit(document)  # it is under way: asking again does nothing
    for state in ("WRITING", "COMPLETED", "EXPIRED"):
        await set_state(database, state)
    await asyncio.sleep(1.1)
    await site.ask(document)
    assert await states() == ["INITIALIZED"]


async def test_what_was_is_told_for_ever(site: Site) -> None:
    revision = (await site.data("{ search(filter: {}, prepare: NEVER) { revision } }"))["search"]["revision"]
    document = f"{{ search(filter: {{}}, prepare: NEVER, asOf: {{ revision: {revision} }}) {{ revision totalBytes }} }}"
    first = await site.ask(document)
    await site.ingest(file_record("new.fits"))
    again = await site.ask(document)
    assert is_hit(again)
    assert again.content == first.content


def test_of_every_root_field_somebody_has_said_what_it_rests_on() -> None:
    # A new one: say in its resolver what its answer rests on, test that it is told anew, and add it here.
    known = {"facilities", "clusters", "detectors", "data_channels", "attributes", "data_authorities", "storages"}
    known |= {"availability", "search", "query", "diff", "export"}
    fields = {field.python_name for field in Query.__strawberry_definition__.fields}  # type: ignore[attr-defined]
    assert fields == known


# --- more than can be done ---


@pytest.fixture
def few_may_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("aggregator.admission.MAX_WAITING", 5)


async def test_when_too_much_is_asked_some_are_told_to_come_again_and_hits_are_not(
    few_may_wait: None, site: Site, database: Database
) -> None:
    kept = await site.ask(NAMES)

    def new(number: int) -> str:
        return f'{{ search(filter: {{ path: ["*{number}*"] }}, prepare: NEVER) {{ totalCount {{ value }} }} }}'

    async with database.transaction() as connection:
        await connection.execute(text("lock table file in access exclusive mode"))
        asking = [asyncio.create_task(site.ask(new(number))) for number in range(1000, 1060)]
        refused, _ = await asyncio.wait(asking, return_when=asyncio.FIRST_COMPLETED)
        assert (await site.ask(NAMES)).content == kept.content
        (first,) = [*refused][:1]
        assert first.result().status_code == 503
        assert int(first.result().headers["retry-after"]) > 0
        assert first.result().json()["errors"][0]["extensions"]["code"] == "BUSY"
    answers = await asyncio.gather(*asking)
    assert {answer.status_code for answer in answers} == {200, 503}
    assert (await site.data(new(1)))["search"]["totalCount"]["value"] == 1


# --- faults -----------------------------------------------------------------------------------------------------------


async def _flush(client: "redis.Redis[bytes]") -> None:
    client.flushall()


async def _spoil(client: "redis.Redis[bytes]") -> None:
    for key in client.scan_iter("bytes:*"):
        client.set(key, b"\xff\xff\xff\xff nonsense")


@pytest.mark.parametrize("harm", [_flush, _spoil], ids=["flushed", "of another version"])
async def test_what_is_lost_in_redis_is_made_again(
    site: Site, other_site: Site, redis_url: str, harm: Callable[[Any], Awaitable[None]]
) -> None:
    first = await site.ask(NAMES)
    with redis.Redis.from_url(redis_url) as client:
        await harm(client)
    assert (await site.ask(NAMES)).content == first.content
    assert (await other_site.ask(NAMES)).content == first.content


# --- pure parts -------------------------------------------------------------------------------------------------------


def test_a_kept_answer_is_read_as_it_was_written() -> None:
    footprint = Footprint(revisions={"aurora": 3}, vocabulary="v", exports={"e": "COMPLETED"})
    kept = Kept.of(Grounds.of(b"body", footprint, facilities=2), b"body")
    assert Kept.read(kept.raw) == kept
    assert Kept.read(b"") is None
    assert Kept.read(kept.raw[:7]) is None


def test_two_moments_in_one_answer_make_it_as_old_as_the_older_one() -> None:
    footprint = Footprint()
    footprint.touch({"aurora": 4, "borealis": 1})
    footprint.touch({"aurora": 3, "borealis": 2})
    assert footprint.revisions == {"aurora": 3, "borealis": 1}


async def test_memory_stays_within_its_bound() -> None:
    front = AnswersInFront(None, cache=None, ground=None, lru_bytes=1_000_000)  # type: ignore[arg-type]
    kept = Kept.of(Grounds.of(b"x" * 10_000, Footprint(), facilities=1), b"x" * 10_000)
    start = {"type": "http.response.start", "status": 200, "headers": []}
    for number in range(5_000):
        front._remember(b"%d" % number, "key", kept, start, {"type": "http.response.body", "body": kept.body})
    assert front.n_bytes <= 16_000_000
    assert front.n_bytes == sum(entry.n_bytes for entry in front._entries.values())
