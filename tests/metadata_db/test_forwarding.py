"""An answer that is called untouched is the same as one that is looked up anew, facets and all."""

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from metadata_db.catalogue import Catalogue
from metadata_db.ingest import Ingest
from metadata_db.query import Interval, SearchQuery
from metadata_db.search import FacetField
from metadata_db.vocabulary import VocabularyStore
from tests.metadata_db.test_search import Batch, World, batches, examples, moments, questions
from tests.metadata_db.test_search import world as world
from tests.support.evaluation import History
from tests.support.records import file_record, load, register

JANUARY = Interval(begin=datetime(2019, 1, 1, tzinfo=UTC), end=datetime(2019, 2, 1, tzinfo=UTC))
DAYS = st.datetimes(datetime(2018, 12, 1), datetime(2020, 3, 1), timezones=st.just(UTC))


def numbers(history: History, asked: SearchQuery, revisions: Mapping[str, int], without: str) -> set[int]:
    return {version.number for version in history.find(asked, revisions, without=without)}


@examples(25)
@given(batches, questions(), moments(), st.lists(st.tuples(DAYS, st.integers(0, 60)), min_size=4, max_size=4))
@pytest.mark.anyio
async def test_what_is_untouched_is_the_same(
    world: World,
    batches: list[Batch],
    questions: list[SearchQuery],
    back: Mapping[str, int],
    intervals: list[tuple[datetime, int]],
) -> None:
    history = await world.fill(batches)
    since = history.back(back)
    until = {name: history.revisions[name] for name in since}
    timed = [SearchQuery(time=Interval(begin=begin, end=begin + timedelta(days=days))) for begin, days in intervals]
    for asked in (*questions, *timed):
        if await world.catalogue.is_untouched(asked, since, until):
            for without in ("", *(field.value for field in FacetField if field is not FacetField.FACILITY)):
                assert numbers(history, asked, since, without) == numbers(history, asked, until, without)


@pytest.fixture
async def since(ingest: Ingest, vocabulary: VocabularyStore, catalogue: Catalogue) -> Mapping[str, int]:
    await register(vocabulary)
    await load(ingest, file_record("january", time_begin=datetime(2019, 1, 5, tzinfo=UTC), object="Crab"))
    return await catalogue.revisions(["aurora"])


async def is_untouched(catalogue: Catalogue, since: Mapping[str, int], interval: Interval | None = JANUARY) -> bool:
    until = await catalogue.revisions(["aurora"])
    return await catalogue.is_untouched(SearchQuery(time=interval), since, until)


@pytest.mark.anyio
async def test_files_of_another_time_leave_an_answer_as_it_is(
    ingest: Ingest, catalogue: Catalogue, since: Mapping[str, int]
) -> None:
    for month in (11, 3, 6):
        begin = datetime(2018 if month == 11 else 2019, month, 10, tzinfo=UTC)
        await load(ingest, file_record(f"{month}", time_begin=begin, time_end=begin + timedelta(hours=1)))
        assert await is_untouched(catalogue, since)
    await load(ingest, file_record("no time"))
    assert await is_untouched(catalogue, since)
    assert not await is_untouched(catalogue, since, None)
    assert not await is_untouched(catalogue, since, Interval(begin=datetime(2019, 6, 1, tzinfo=UTC)))


@pytest.mark.anyio
@pytest.mark.parametrize(
    "change",
    [
        {"path": "new", "time_begin": datetime(2019, 1, 31, 23, tzinfo=UTC)},
        {"path": "january", "time_begin": datetime(2019, 1, 5, tzinfo=UTC), "object": "Vela"},
        {"path": "january", "time_begin": datetime(2019, 7, 5, tzinfo=UTC), "object": "Crab"},
        {
            "path": "over new year",
            "time_begin": datetime(2018, 12, 31, 23, tzinfo=UTC),
            "time_end": datetime(2019, 1, 1, 1, tzinfo=UTC),
        },
        {
            "path": "of two years",
            "time_begin": datetime(2017, 5, 1, tzinfo=UTC),
            "time_end": datetime(2019, 1, 1, 1, tzinfo=UTC),
        },
    ],
    ids=["new", "other values", "other time", "from the month before", "long"],
)
async def test_a_file_of_the_time_touches_it(
    ingest: Ingest, catalogue: Catalogue, since: Mapping[str, int], change: dict[str, object]
) -> None:
    assert await is_untouched(catalogue, since)
    await load(ingest, file_record(**change))  # type: ignore[arg-type]  # whatever it is
    assert not await is_untouched(catalogue, since)


@pytest.mark.anyio
async def test_a_long_file_that_went_touches_it(ingest: Ingest, catalogue: Catalogue, since: Mapping[str, int]) -> None:
    long = {"time_begin": datetime(2017, 5, 1, tzinfo=UTC), "time_end": datetime(2019, 1, 1, 1, tzinfo=UTC)}
    await load(ingest, file_record("long", **long))
    since = await catalogue.revisions(["aurora"])
    await load(ingest, file_record("long", time_begin=long["time_begin"], time_end=long["time_begin"]))
    assert not await is_untouched(catalogue, since)
