"""A revision of the catalogue, or a time, says for ever what each facility was at."""

import asyncio
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import text

from metadata_db.catalogue import Catalogue
from metadata_db.database import Database
from metadata_db.errors import BadInputError
from metadata_db.ingest import Ingest
from metadata_db.loading import CHANGE_LOCK
from metadata_db.query import SearchQuery
from metadata_db.vocabulary import VocabularyStore
from tests.support.records import file_record, load, register

pytestmark = pytest.mark.anyio


async def read_changes(database: Database) -> list[tuple[int, datetime]]:
    async with database.snapshot() as connection:
        found = await connection.execute(text("select id, at from change where facility_id is not null order by id"))
        return [(row.id, row.at) for row in found]


async def write_other_change(database: Database) -> None:
    """Write a change that is none of files, as exports do."""
    async with database.transaction() as connection:
        await connection.execute(text("insert into change (kind, subject, detail) values ('export', 'x', '{}')"))


@pytest.fixture
async def changes(ingest: Ingest, vocabulary: VocabularyStore, database: Database) -> list[tuple[int, datetime]]:
    """Three changes: of aurora, of borealis, of aurora; between them others, which take numbers too."""
    await register(vocabulary)
    await load(ingest, file_record("a"))
    await write_other_change(database)
    await load(ingest, file_record("b", facility="borealis", storage="borealis-disk"))
    await load(ingest, file_record("a", size_bytes=7))
    await write_other_change(database)
    return await read_changes(database)


async def test_a_revision_of_the_catalogue_is_one_of_each_facility(
    catalogue: Catalogue, changes: list[tuple[int, datetime]]
) -> None:
    first, second, third = (number for number, _ in changes)
    assert dict((await catalogue.moment(0)).revisions) == {}
    assert dict((await catalogue.moment(first)).revisions) == {"aurora": 1}
    assert dict((await catalogue.moment(second)).revisions) == {"aurora": 1, "borealis": 1}
    assert dict((await catalogue.moment(third)).revisions) == {"aurora": 2, "borealis": 1}
    assert await catalogue.moment(second - 1) == await catalogue.moment(first), "a number of no change of files"
    assert await catalogue.moment() == await catalogue.moment(third)


async def test_the_revision_of_some_facilities_is_the_same_however_others_move(
    catalogue: Catalogue, changes: list[tuple[int, datetime]]
) -> None:
    first, second, third = (number for number, _ in changes)
    assert [(await catalogue.moment(at)).of(["borealis"]).revision for at in (first, second, third)] == [
        0,
        second,
        second,
    ]
    assert [(await catalogue.moment(at)).of(["aurora"]).revision for at in (first, second, third)] == [
        first,
        first,
        third,
    ]
    assert [(await catalogue.moment(at)).of([]).revision for at in (0, first, second, third)] == [
        0,
        first,
        second,
        third,
    ]


async def test_a_time_is_the_last_revision_before_it(catalogue: Catalogue, changes: list[tuple[int, datetime]]) -> None:
    tick = timedelta(microseconds=1)
    (first, first_at), (second, second_at), (third, third_at) = changes
    expected = {first_at - tick: 0, first_at: first, second_at - tick: first, second_at: second, third_at: third}
    assert {time: (await catalogue.moment(time)).revision for time in expected} == expected
    assert [await catalogue.time_of(number) for number, _ in changes] == [at for _, at in changes]
    assert await catalogue.time_of(0) is None


async def test_what_is_not_yet_cannot_be_asked_for(
    catalogue: Catalogue, changes: list[tuple[int, datetime]], database: Database
) -> None:
    last = changes[-1][0]
    with pytest.raises(BadInputError, match=rf"asOf.revision: got {last + 1}, .*at most {last}"):
        await catalogue.moment(last + 1, name="asOf.revision")  # the number of an export's change
    with pytest.raises(BadInputError, match="asOf"):
        await catalogue.moment(-1)
    with pytest.raises(BadInputError, match="asOf"):
        await catalogue.moment(2**63)
    with pytest.raises(BadInputError, match="a time that is over"):
        await catalogue.moment(datetime.now(UTC) + timedelta(minutes=1))
    assert (await catalogue.moment(datetime.now(UTC) - timedelta(days=365))).revision == 0


async def test_a_time_waits_for_a_change_that_cannot_be_seen_yet(
    catalogue: Catalogue, changes: list[tuple[int, datetime]], database: Database
) -> None:
    async with database.transaction() as connection:
        await connection.execute(text("select pg_advisory_xact_lock(:key)"), {"key": CHANGE_LOCK})
        made = await connection.execute(
            text(
                "insert into change (at, kind, subject, detail, facility_id, revision)"
                " select clock_timestamp(), 'ingest', 'aurora', '{}', id, 3 from facility where name = 'aurora'"
                " returning id, at"
            )
        )
        number, at = made.one()
        await connection.execute(
            text("update facility set revision = 3, change_id = :id where name = 'aurora'"), {"id": number}
        )
        asked = asyncio.create_task(catalogue.moment(at))
        await asyncio.sleep(0.1)
        assert not asked.done()
    assert (await asked).revision == number


async def test_times_of_changes_grow_though_a_clock_was_put_back(
    ingest: Ingest, database: Database, changes: list[tuple[int, datetime]]
) -> None:
    ahead = datetime.now(UTC) + timedelta(hours=1)
    async with database.transaction() as connection:
        await connection.execute(text("update change set at = :at where id = :id"), {"at": ahead, "id": changes[-1][0]})
    await load(ingest, file_record("later"))
    assert (await read_changes(database))[-1][1] == ahead + timedelta(microseconds=1)


async def test_an_answer_as_of_a_moment_before_all_files_is_empty(
    catalogue: Catalogue, changes: list[tuple[int, datetime]]
) -> None:
    asked = SearchQuery(kind=("events",))
    for query in (SearchQuery(), asked, SearchQuery(facility=("borealis",)), SearchQuery(obs_id=("1",))):
        moment = (await catalogue.moment(0)).of(query.facility)
        assert (await catalogue.summary(query, moment.revisions)).count == 0
