"""A question becomes an answer in five steps: once for all who ask, fresh by revision, whatever Redis does."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
import redis
from sqlalchemy import func, select, text

from aggregator.cache import CacheManager
from aggregator.controller import CoreController, Prepare
from aggregator.staging.ledger import ExportState
from metadata_db import tables
from metadata_db.catalogue import Catalogue, Summary
from metadata_db.database import Database
from metadata_db.errors import BadCursorError, BadInputError, NotFoundError, QueryIdCollisionError
from metadata_db.ingest import Ingest
from metadata_db.query import SearchQuery
from metadata_db.search import FacetField, Paging, Revisions
from metadata_db.timeline import TimeBin, WantedBins
from metadata_db.vocabulary import VocabularyStore
from tests.support.records import file_record, load, register

pytestmark = pytest.mark.anyio

EVERYTHING = SearchQuery()
AURORA = SearchQuery(facility=("aurora",))


class CountingCatalogue(Catalogue):
    """The real catalogue, which counts its look-ups and can be made slow."""

    summaries = 0
    before_summary: Callable[[], Awaitable[None]] | None = None

    async def summary(self, asked: SearchQuery, revisions: Revisions, *, exact: bool = True) -> Summary:
        self.summaries += 1
        if self.before_summary is not None:
            await self.before_summary()
        return await super().summary(asked, revisions, exact=exact)


@pytest.fixture
def catalogue(database: Database, vocabulary: VocabularyStore) -> CountingCatalogue:
    return CountingCatalogue(database, vocabulary)


@pytest.fixture
async def filled(ingest: Ingest, vocabulary: VocabularyStore) -> None:
    await register(vocabulary)
    await load(
        ingest,
        *(file_record(f"run_{number}.fits", kind="events", size_bytes=number) for number in range(1, 6)),
        file_record("x.h5", facility="borealis", storage="borealis-disk", kind="table"),
    )


async def count(database: Database, table: str) -> int:
    async with database.snapshot() as connection:
        found = await connection.execute(select(func.count()).select_from(text(table)))
        return int(found.scalar_one())


@pytest.mark.usefixtures("filled")
async def test_the_second_asker_is_answered_from_the_cache(
    controller: CoreController, catalogue: CountingCatalogue
) -> None:
    first = await controller.search(AURORA, prepare=Prepare.NEVER)
    second = await controller.search(AURORA, prepare=Prepare.NEVER)
    assert (first.cached, second.cached, catalogue.summaries) == (False, True, 1)
    assert first.summary == second.summary
    assert (first.summary.count, first.summary.bytes) == (5, 15)


@pytest.mark.usefixtures("filled")
async def test_a_question_is_registered_in_postgres_and_as_a_hash_in_redis(
    controller: CoreController, database: Database, redis_url: str
) -> None:
    response = await controller.search(AURORA, prepare=Prepare.NEVER)
    query_id = response.answer.query.query_id
    with redis.Redis.from_url(redis_url) as client:
        kept = client.hgetall(f"query:{query_id}")
    assert kept[b"filter.facility"] == b'["aurora"]'
    async with database.snapshot() as connection:
        row = (await connection.execute(select(tables.query).where(tables.query.c.id == query_id))).mappings().one()
    assert row["canonical"] == AURORA.canonical


@pytest.mark.usefixtures("filled")
async def test_two_hundred_equal_searches_at_once_make_one_look_up_and_one_export(
    controller: CoreController, catalogue: CountingCatalogue, database: Database
) -> None:
    answers = await asyncio.gather(*(controller.search(AURORA, prepare=Prepare.AUTO) for _ in range(200)))
    assert catalogue.summaries == 1
    exports = {answer.export.id for answer in answers if answer.export is not None}
    assert len(exports) == 1
    assert (await count(database, "export"), await count(database, "procrastinate_jobs")) == (1, 1)


@pytest.mark.usefixtures("filled")
async def test_a_caller_that_goes_away_does_not_end_the_look_up_for_the_others(
    controller: CoreController, catalogue: CountingCatalogue
) -> None:
    under_way, go_on = asyncio.Event(), asyncio.Event()

    async def wait() -> None:
        under_way.set()
        await go_on.wait()

    catalogue.before_summary = wait
    leader = asyncio.create_task(controller.search(AURORA, prepare=Prepare.NEVER))
    await under_way.wait()
    follower = asyncio.create_task(controller.search(AURORA, prepare=Prepare.NEVER))
    await asyncio.sleep(0.05)
    leader.cancel()
    go_on.set()
    assert (await follower).summary.count == 5
    assert catalogue.summaries == 1


@pytest.mark.usefixtures("filled")
async def test_a_look_up_that_nobody_waits_for_any_more_is_given_up(
    controller: CoreController, catalogue: CountingCatalogue
) -> None:
    under_way, given_up = asyncio.Event(), asyncio.Event()

    async def wait() -> None:
        under_way.set()
        try:
            await asyncio.Event().wait()
        finally:
            given_up.set()

    catalogue.before_summary = wait
    callers = [asyncio.create_task(controller.search(AURORA, prepare=Prepare.NEVER)) for _ in range(2)]
    await under_way.wait()
    await asyncio.sleep(0.05)
    callers[0].cancel()
    await asyncio.sleep(0.05)
    assert not given_up.is_set()
    callers[1].cancel()
    catalogue.before_summary = None
    assert (await controller.search(AURORA, prepare=Prepare.NEVER)).summary.count == 5
    await given_up.wait()
    assert catalogue.summaries == 2


@pytest.mark.usefixtures("filled")
async def test_a_failed_look_up_is_not_kept(controller: CoreController, catalogue: CountingCatalogue) -> None:
    async def fail() -> None:
        raise OSError("the network is down")

    catalogue.before_summary = fail
    with pytest.raises(OSError, match="network"):
        await controller.search(AURORA, prepare=Prepare.NEVER)
    catalogue.before_summary = None
    assert (await controller.search(AURORA, prepare=Prepare.NEVER)).summary.count == 5


@pytest.mark.usefixtures("filled")
async def test_once_an_ingest_has_returned_nothing_older_is_answered(
    controller: CoreController, ingest: Ingest
) -> None:
    before = await controller.search(AURORA, prepare=Prepare.NEVER)
    report = await load(ingest, file_record("new.fits"))
    controller.note_revisions(report.revisions)
    now = await controller.search(AURORA, prepare=Prepare.NEVER)
    assert (before.summary.count, now.summary.count, now.cached) == (5, 6, False)


@pytest.mark.usefixtures("filled")
async def test_another_process_notices_an_ingest_within_a_second(controller: CoreController, ingest: Ingest) -> None:
    await controller.search(AURORA, prepare=Prepare.NEVER)
    await load(ingest, file_record("new.fits"))  # this controller is not told
    await asyncio.sleep(1.05)
    assert (await controller.search(AURORA, prepare=Prepare.NEVER)).summary.count == 6


@pytest.mark.usefixtures("filled")
async def test_an_ingest_of_one_facility_leaves_answers_about_others_cached(
    controller: CoreController, ingest: Ingest
) -> None:
    await controller.search(AURORA, prepare=Prepare.NEVER)
    report = await load(ingest, file_record("y.h5", facility="borealis", storage="borealis-disk"))
    controller.note_revisions(report.revisions)
    assert (await controller.search(AURORA, prepare=Prepare.NEVER)).cached
    assert (await controller.search(EVERYTHING, prepare=Prepare.NEVER)).summary.count == 7


@pytest.mark.usefixtures("filled")
async def test_all_parts_of_an_answer_belong_to_one_revision(controller: CoreController, ingest: Ingest) -> None:
    response = await controller.search(EVERYTHING, prepare=Prepare.NEVER)
    report = await load(ingest, file_record("run_1.fits", size_bytes=77), file_record("new.fits", kind="irf"))
    controller.note_revisions(report.revisions)
    page = await controller.page(response.answer, Paging(n=100))
    kinds = await controller.facets(response.answer, [FacetField.KIND])
    line = await controller.timeline(response.answer, WantedBins(bin=TimeBin.DAY))
    sky = await controller.sky(response.answer, 6)
    assert len(page.files) == response.summary.count == line.no_time == sky.no_position == 6
    assert sum(found.size_bytes for found in page.files) == response.summary.bytes
    assert {facet.value: facet.count for facet in kinds[FacetField.KIND]} == {"events": 5, "table": 1}


@pytest.mark.usefixtures("filled")
async def test_the_facility_facet_counts_beyond_the_question_s_own_facility(
    controller: CoreController, ingest: Ingest
) -> None:
    response = await controller.search(AURORA, prepare=Prepare.NEVER)
    before = await controller.facets(response.answer, [FacetField.FACILITY])
    report = await load(ingest, file_record("y.h5", facility="borealis", storage="borealis-disk"))
    controller.note_revisions(report.revisions)
    now = await controller.facets(response.answer, [FacetField.FACILITY])
    assert [(facet.value, facet.count) for facet in before[FacetField.FACILITY]] == [("aurora", 5), ("borealis", 1)]
    assert [(facet.value, facet.count) for facet in now[FacetField.FACILITY]] == [("aurora", 5), ("borealis", 2)]


async def _nothing(_redis_url: str) -> None:
    """Leave Redis as it is."""


async def _flush(redis_url: str) -> None:
    with redis.Redis.from_url(redis_url) as client:
        client.flushall()


@pytest.mark.usefixtures("filled")
async def test_redis_flushed_between_any_two_steps_changes_no_answer(
    controller: CoreController, database: Database, redis_url: str
) -> None:
    async def ask(between: Callable[[str], Awaitable[None]]) -> list[Any]:
        told = []
        for prepare in (Prepare.NEVER, Prepare.AUTO, Prepare.AUTO):
            response = await controller.search(AURORA, prepare=prepare)
            await between(redis_url)
            page = await controller.page(response.answer, Paging(n=2))
            await between(redis_url)
            more = await controller.page(response.answer, Paging(n=9, cursor=page.files[-1].cursor))
            await between(redis_url)
            facets = await controller.facets(response.answer, [FacetField.KIND])
            await between(redis_url)
            again = await controller.reopen(response.answer.query.query_id)
            told.append((response.summary, page, more, facets, again.summary, again.answer))
        return told

    assert await ask(_flush) == await ask(_nothing)
    assert (await count(database, "query"), await count(database, "export")) == (1, 1)


@pytest.mark.usefixtures("filled")
async def test_with_redis_away_everything_is_answered_from_postgres(
    catalogue: CountingCatalogue, controller: CoreController
) -> None:
    cache = CacheManager("unix:///nowhere/redis.sock", answer_ttl_s=60)
    alone = CoreController(catalogue=catalogue, cache=cache, exports=controller.exports, limits=controller.limits)
    first = await alone.search(AURORA, prepare=Prepare.AUTO)
    second = await alone.search(AURORA, prepare=Prepare.AUTO)
    assert (first.summary, first.cached, second.cached) == (second.summary, False, False)
    assert first.export == second.export
    assert not await cache.ping()


@pytest.mark.usefixtures("filled")
async def test_a_search_prepares_by_itself_only_within_the_limits(controller: CoreController, ingest: Ingest) -> None:
    small = await controller.search(AURORA, prepare=Prepare.AUTO)
    assert small.export is not None
    assert small.export.state is ExportState.INITIALIZED
    assert (small.export.files_total, small.export.bytes_total) == (5, 15)
    report = await load(ingest, file_record("huge", size_bytes=10**7))
    controller.note_revisions(report.revisions)
    large = await controller.search(AURORA, prepare=Prepare.AUTO)
    assert large.export is None
    asked_for = await controller.prepare(large)
    assert asked_for.files_total == 6
    assert (await controller.search(AURORA, prepare=Prepare.NEVER)).export == asked_for


@pytest.mark.usefixtures("filled")
async def test_a_question_that_matches_nothing_prepares_nothing(controller: CoreController) -> None:
    response = await controller.search(SearchQuery(object=("nothing",)), prepare=Prepare.AUTO)
    assert (response.summary.count, response.export) == (0, None)


@pytest.mark.usefixtures("filled")
async def test_a_forged_twin_of_a_query_id_is_refused(
    controller: CoreController, cache: CacheManager, database: Database
) -> None:
    async with database.transaction() as connection:
        forged = {"id": AURORA.query_id, "canonical": "{}", "canonical_sha256": b"0" * 32}
        await connection.execute(tables.query.insert().values(forged))
    with pytest.raises(QueryIdCollisionError):
        await controller.search(AURORA, prepare=Prepare.NEVER)
    await cache.put_query(EVERYTHING.query_id, {}, sha256=b"1" * 32)
    with pytest.raises(QueryIdCollisionError):
        await controller.search(EVERYTHING, prepare=Prepare.NEVER)


@pytest.mark.usefixtures("filled")
async def test_unknown_names_and_ids_are_refused(controller: CoreController, database: Database) -> None:
    with pytest.raises(BadInputError, match=r"filter.facility: got 'nowhere', expected .*aurora, borealis"):
        await controller.search(SearchQuery(facility=("nowhere",)), prepare=Prepare.NEVER)
    assert await count(database, "query") == 0
    with pytest.raises(NotFoundError):
        await controller.reopen("0" * 32)
    response = await controller.search(AURORA, prepare=Prepare.NEVER)
    with pytest.raises(BadCursorError):
        await controller.page(response.answer, Paging(n=1, cursor="b3RoZXI"))
