"""What differs between two answers is what plain Python finds, in the same order, page by page."""

from collections.abc import Mapping, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import text

from metadata_db.catalogue import Catalogue, Difference
from metadata_db.database import Database
from metadata_db.differences import DifferenceKind, DifferenceTotals, decode_place, encode_place
from metadata_db.errors import BadCursorError
from metadata_db.ingest import Ingest
from metadata_db.query import SearchQuery, parse_coincidence
from metadata_db.vocabulary import VocabularyStore
from tests.metadata_db.test_search import CASCADE, NOON, Batch, World, batches, examples, questions
from tests.support.evaluation import Version, evaluate_differences
from tests.support.records import chunked, file_record, load, ndjson, register

pytestmark = pytest.mark.anyio


@pytest.fixture
async def world(catalogue: Catalogue, database: Database, ingest: Ingest, vocabulary: VocabularyStore) -> World:
    await register(vocabulary)
    await vocabulary.put_facility(CASCADE)
    return World(catalogue=catalogue, database=database, ingest=ingest)


async def read_changes(database: Database) -> list[tuple[int, str, int]]:
    """Return all changes of files: number, facility and revision."""
    statement = (
        "select change.id, facility.name, change.revision from change join facility on facility.id = facility_id"
        " order by change.id"
    )
    async with database.snapshot() as connection:
        return [(row[0], row[1], row[2]) for row in await connection.execute(text(statement))]


def revisions_at(changes: Sequence[tuple[int, str, int]], number: int) -> dict[str, int]:
    """Return what the facilities were at when a change was the last: the plain meaning of a revision."""
    return {name: revision for change, name, revision in changes if change <= number}


async def walk(
    catalogue: Catalogue, asked: SearchQuery, since: Mapping[str, int], until: Mapping[str, int], first: int
) -> list[Difference]:
    """Return all differences, page by page."""
    found: list[Difference] = []
    after = None
    while True:
        page = await catalogue.differences(asked, since, until, first=first, after=after)
        assert len(page.differences) == first or not page.has_next
        found += page.differences
        if not page.has_next:
            return found
        after = page.differences[-1].cursor


def spell(found: Difference) -> tuple[str, int | None, int | None]:
    return (
        found.kind.value,
        None if found.file is None else found.file.id,
        None if found.previous is None else found.previous.id,
    )


def number_of(version: Version | None) -> int | None:
    return None if version is None else version.number


def size_of(versions: Sequence[Version | None]) -> int:
    return sum(version.record.size_bytes for version in versions if version is not None)


@examples(15)
@given(batches, questions(), st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), min_size=4, max_size=4))
async def test_every_question_differs_between_two_revisions_as_plain_python_says(
    world: World, batches: list[Batch], questions: list[SearchQuery], spans: list[tuple[int, int]]
) -> None:
    history = await world.fill(batches)
    changes = await read_changes(world.database)
    numbers = [0, *(number for number, _, _ in changes)]
    for at, asked in enumerate(questions):
        low, high = sorted(numbers[place % len(numbers)] for place in spans[at % len(spans)])
        since, until = revisions_at(changes, low), revisions_at(changes, high)
        moment = await world.catalogue.moment(low)
        assert (moment.revisions, moment.revision) == (since, low)
        expected = evaluate_differences(history.find(asked, since), history.find(asked, until))
        found = await walk(world.catalogue, asked, since, until, first=1 + at % 4)
        assert [spell(one) for one in found] == [(kind, number_of(new), number_of(old)) for kind, new, old in expected]
        totals = await world.catalogue.difference_totals(asked, since, until)
        check_totals(totals, expected)


def check_totals(totals: DifferenceTotals, expected: list[tuple[str, Version | None, Version | None]]) -> None:
    for kind in DifferenceKind:
        news = [new for name, new, _ in expected if name == kind.value]
        olds = [old for name, _, old in expected if name == kind.value]
        told = getattr(totals, kind.value)
        assert told.count == len(news)
        assert told.bytes == size_of(olds if kind is DifferenceKind.REMOVED else news)
        assert told.previous_bytes == (size_of(olds) if kind is DifferenceKind.REPLACED else 0)
    assert totals.count == len(expected)


@pytest.fixture
async def filled(ingest: Ingest, vocabulary: VocabularyStore) -> None:
    await register(vocabulary)
    await load(ingest, *(file_record(name, kind="events") for name in ("a", "b", "c", "d")))


@pytest.mark.usefixtures("filled")
async def test_what_came_and_went_in_between_does_not_appear(catalogue: Catalogue, ingest: Ingest) -> None:
    since = await catalogue.moment()
    await load(ingest, file_record("a", size_bytes=1), file_record("x"))
    removal = b'{"facility": "aurora", "storage": "aurora-disk", "path": "x"}\n'
    await ingest.remove(chunked(removal), allowed=None)
    await load(ingest, file_record("a", kind="events"))
    until = await catalogue.moment()
    found = await walk(catalogue, SearchQuery(), since.revisions, until.revisions, first=9)
    assert [(one.kind, one.file and one.file.path) for one in found] == [(DifferenceKind.REPLACED, "a")]
    assert found[0].file != found[0].previous, "it is another version, which says the same"


@pytest.mark.usefixtures("filled")
async def test_a_file_that_no_longer_matches_leaves_the_answer(catalogue: Catalogue, ingest: Ingest) -> None:
    since = await catalogue.moment()
    await load(ingest, file_record("a", kind="irf"), file_record("b", kind="events", size_bytes=5))
    until = await catalogue.moment()

    async def ask(kind: str) -> list[tuple[str, bool, bool]]:
        asked = SearchQuery(kind=(kind,))
        found = await walk(catalogue, asked, since.revisions, until.revisions, first=1)
        return [(one.kind.value, one.file is not None, one.previous is not None) for one in found]

    assert await ask("events") == [("removed", False, True), ("replaced", True, True)]
    assert await ask("irf") == [("added", True, False)]


@pytest.mark.usefixtures("filled")
async def test_a_file_that_was_only_read_otherwise_is_no_difference(catalogue: Catalogue, ingest: Ingest) -> None:
    since = await catalogue.moment()
    await load(ingest, file_record("a", kind="events", description="mine@2"))
    until = await catalogue.moment()
    assert until.revision > since.revision
    assert await walk(catalogue, SearchQuery(), since.revisions, until.revisions, first=9) == []


async def test_paths_come_in_the_order_of_their_bytes(
    catalogue: Catalogue, ingest: Ingest, vocabulary: VocabularyStore
) -> None:
    await register(vocabulary)
    names = ["Z", "a", "b/c", "b c", "\ufffd", "\U0001f600", "ü"]
    body = ndjson(file_record(name, storage=storage) for name in names for storage in ("shared-disk", "aurora-disk"))
    await ingest.load(chunked(body), allowed=None)
    found = await walk(catalogue, SearchQuery(), {}, (await catalogue.moment()).revisions, first=3)
    told = [(one.file.path, one.file.storage) for one in found if one.file is not None]
    assert told == sorted(
        ((name, storage) for name in names for storage in ("shared-disk", "aurora-disk")),
        key=lambda place: (place[0].encode(), place[1].encode()),
    )


@pytest.mark.usefixtures("filled")
async def test_a_coincidence_is_compared_as_a_whole(catalogue: Catalogue, ingest: Ingest) -> None:
    # Whether a file coincides may change though the file itself does not.
    await load(ingest, file_record("shower", kind="showers", time_begin=NOON))
    since = await catalogue.moment()
    await load(ingest, file_record("a", kind="events", time_begin=NOON))
    until = await catalogue.moment()
    asked = SearchQuery(
        kind=("showers",), coincidence=parse_coincidence("c", within_s=1.0, files=SearchQuery(kind=("events",)))
    )
    found = await walk(catalogue, asked, since.revisions, until.revisions, first=9)
    assert [one.file and one.file.path for one in found] == ["shower"]


def test_a_cursor_of_another_question_is_refused() -> None:
    cursor = encode_place("a\u0301/b", "disk", query_id="1" * 32)
    assert decode_place(cursor, query_id="1" * 32) == ("a\u0301/b", "disk")
    for bad in (cursor, "", "x", "ü", "bnVsbA", "WzEsMiwzXQ"):
        with pytest.raises(BadCursorError, match="after"):
            decode_place(bad, query_id="2" * 32)
