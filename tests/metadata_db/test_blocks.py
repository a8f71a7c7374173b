"""Blocks are remembered up to a bound, fetched when they changed, and never taken for what they are no more."""

import asyncio
from collections import OrderedDict
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from metadata_db.blocks import Memory
from metadata_db.catalogue import Catalogue
from metadata_db.database import Database
from metadata_db.ingest import Ingest
from metadata_db.query import Interval, SearchQuery
from metadata_db.search import FacetField
from metadata_db.settings import CatalogueSettings
from metadata_db.timeline import TimeBin, parse_bins
from metadata_db.vocabulary import VocabularyStore
from tests.support.records import file_record, load, register

NOON = datetime(2019, 11, 2, 12, tzinfo=UTC)
LONG_AGO = NOON - timedelta(days=5000)
SINCE = SearchQuery(time=Interval(begin=LONG_AGO - timedelta(days=1)))


# --- the memory -------------------------------------------------------------------------------------------------------


@dataclass
class Thing:
    nbytes: int


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 7), st.integers(0, 4_000)), max_size=60))
def test_what_was_used_last_is_kept_up_to_a_bound(steps: list[tuple[bool, int, int]]) -> None:
    """Each thing takes a thousand bytes more than its own."""
    memory: Memory[int, Thing] = Memory(10_000)
    expected: OrderedDict[int, Thing] = OrderedDict()
    for is_put, key, nbytes in steps:
        if is_put:
            thing = Thing(nbytes)
            memory.put(key, thing)
            expected.pop(key, None)
            expected[key] = thing
            while sum(each.nbytes + 1000 for each in expected.values()) > 10_000:
                expected.popitem(last=False)
        else:
            found = memory.get(key)
            assert found is expected.get(key)
            if found is not None:
                expected.move_to_end(key)
        assert memory.nbytes == sum(each.nbytes + 1000 for each in expected.values()) <= 10_000


# --- blocks of a catalogue --------------------------------------------------------------------------------------------


class Watched(Database):
    """Tells what was read, and lets something happen before."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.fetched: list[tuple[int, int]] = []
        self.n_reads = 0
        self.before_fetch: Any = None

    async def read(
        self, statement: str, values: Mapping[str, Any], *, is_stable: bool = False
    ) -> list[tuple[Any, ...]]:
        self.n_reads += 1
        if "as wanted" in statement:
            if self.before_fetch is not None:
                happens, self.before_fetch = self.before_fetch, None
                await happens
            self.fetched += zip(values["facilities"], values["months"], strict=True)
        return await super().read(statement, values, is_stable=is_stable)


@pytest.fixture
async def watched(database_url: str) -> AsyncIterator[Watched]:
    database = Watched(CatalogueSettings(database_url=database_url))
    yield database
    await database.close()


@pytest.fixture
async def seen(watched: Watched, vocabulary: VocabularyStore, ingest: Ingest) -> Catalogue:
    """A catalogue with a file of long ago and one of now, whose reading is watched."""
    await register(vocabulary)
    await load(ingest, file_record("old", time_begin=LONG_AGO), file_record("new", time_begin=NOON, level="DL3"))
    await load(ingest, file_record("b", facility="borealis", storage="borealis-disk", time_begin=NOON, level="DL3"))
    return Catalogue(watched, VocabularyStore(watched))


async def count(catalogue: Catalogue, asked: SearchQuery) -> int:
    return (await catalogue.summary(asked, await catalogue.revisions())).count


@pytest.mark.anyio
async def test_one_look_serves_summary_and_facets_and_questions_that_differ_in_a_choice(
    seen: Catalogue, watched: Watched
) -> None:
    revisions = await seen.revisions()
    assert (await seen.summary(SINCE, revisions)).count == 3
    n_reads = watched.n_reads
    facets = await seen.facets(SINCE, revisions, [*FacetField], limit=9)
    assert [(value.value, value.count) for value in facets[FacetField.LEVEL]] == [("DL3", 2)]
    chosen = SearchQuery(time=SINCE.time, level=("DL3",))
    assert (await seen.summary(chosen, revisions)).count == 2
    assert watched.n_reads == n_reads


@pytest.mark.anyio
async def test_an_ingest_costs_the_blocks_of_its_own_months_alone(
    seen: Catalogue, watched: Watched, ingest: Ingest
) -> None:
    assert await count(seen, SINCE) == 3
    assert len(watched.fetched) == 3
    watched.fetched.clear()
    await load(ingest, file_record("newer", time_begin=NOON + timedelta(days=1), level="DL9"))
    assert await count(seen, SINCE) == 4
    assert watched.fetched == [(1, 2019 * 12 + 10)]
    assert await count(seen, SearchQuery()) == 4
    watched.fetched.clear()
    assert await count(seen, SearchQuery(level=("DL9",))) == 1
    assert watched.fetched == []


@pytest.mark.anyio
async def test_what_changes_between_two_statements_is_looked_up_again(
    seen: Catalogue, watched: Watched, ingest: Ingest
) -> None:
    revisions = await seen.revisions()
    for number, asked in enumerate([SINCE, SearchQuery()]):
        watched.before_fetch = load(ingest, file_record(f"more {number}", time_begin=NOON, size_bytes=7))
        summary = await seen.summary(asked, revisions)
        assert (summary.count, summary.bytes) == (3, 3000), "as of the revisions that were asked for"
        now = await seen.revisions()
        assert (await seen.summary(asked, now)).count == 4 + number
    watched.before_fetch = load(ingest, file_record("old", time_begin=LONG_AGO + timedelta(days=1), size_bytes=7))
    told = await seen.timeline(SINCE, revisions, parse_bins(TimeBin.YEAR, None, None))
    assert np.frombuffer(told.counts, "<u4").tolist() == [1, *[0] * (told.n - 2), 2]
    told = await seen.timeline(SearchQuery(), await seen.revisions(), parse_bins(TimeBin.YEAR, None, None))
    assert np.frombuffer(told.sizes, "<f8").tolist() == [7, *[0] * (told.n - 2), 2014]


@pytest.mark.anyio
async def test_answers_are_those_of_their_revisions_while_files_arrive(seen: Catalogue, ingest: Ingest) -> None:
    """Every count of files since a day is the number of revisions of one facility and three."""
    is_over = False

    async def ask() -> int:
        n = 0
        while not is_over:
            revisions = await seen.revisions()
            level = SearchQuery(time=SINCE.time, level=("DL3",))
            one, other, facets = await asyncio.gather(
                seen.summary(SINCE, revisions),
                seen.summary(level, revisions),
                seen.facets(level, revisions, [FacetField.FACILITY, FacetField.LEVEL], limit=9),
            )
            assert one.count == other.count + 1 == 2 + revisions["aurora"]
            assert [value.count for value in facets[FacetField.LEVEL]] == [other.count]
            assert sum(value.count for value in facets[FacetField.FACILITY]) == other.count
            n += 1
        return n

    async with asyncio.TaskGroup() as group:
        asking = [group.create_task(ask()) for _ in range(4)]
        for number in range(20):
            begin = NOON + timedelta(days=number % 3 * 40)
            await load(ingest, file_record(f"more {number}", time_begin=begin, level="DL3"))
        is_over = True
    assert all(task.result() > 1 for task in asking)


@pytest.mark.anyio
async def test_nothing_need_be_fetched_after_warming_up(seen: Catalogue, watched: Watched) -> None:
    await seen.warm_up()
    assert len(watched.fetched) == len({*watched.fetched}) == 5
    watched.fetched.clear()
    assert await count(seen, SINCE) == await count(seen, SearchQuery()) == 3
    assert watched.fetched == []


@pytest.mark.anyio
async def test_answers_are_right_where_there_is_no_room_for_blocks(seen: Catalogue, watched: Watched) -> None:
    small = Catalogue(watched, seen.vocabulary, memory_bytes=10)
    await small.warm_up()
    for asked in (SINCE, SearchQuery()):
        assert await count(small, asked) == 3
        told = await small.timeline(asked, await small.revisions(), parse_bins(TimeBin.DAY, None, None))
        assert np.frombuffer(told.counts, "<u4").sum() == 3
