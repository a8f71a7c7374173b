"""A batch is catalogued whole per facility, once however often it is sent, and every bad line is named."""

import asyncio
import gzip
from collections.abc import AsyncIterator, Collection, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import pytest
from msgspec.structs import replace
from sqlalchemy import select, text

from metadata_db import loading
from metadata_db.catalogue import Catalogue
from metadata_db.database import Database
from metadata_db.errors import BadInputError
from metadata_db.ingest import Ingest, RemovalReport
from metadata_db.query import SearchQuery
from metadata_db.records import Relation, Removal, Replica
from metadata_db.rows import MAX_LINE_BYTES, iter_blocks
from metadata_db.search import Paging
from metadata_db.tables import change, facility, file, replica
from metadata_db.tables import file_version as version
from metadata_db.vocabulary import VocabularyStore
from tests.support.records import chunked, file_record, load, ndjson, register

pytestmark = pytest.mark.anyio

FULL = file_record(
    path="2019/run_7.fits",
    sha256="ab" * 32,
    md5="cd" * 16,
    modified_at=datetime(2020, 1, 2, 3, 4, 5, 678901, tzinfo=UTC),
    format="fits",
    kind="events",
    level="DL3",
    cluster="north",
    detector="iact-north",
    channel="gamma",
    time_begin=datetime(2019, 11, 2, 18, tzinfo=UTC),
    time_end=datetime(2019, 11, 2, 18, 20, 0, 1, tzinfo=UTC),
    obs_id="20191102007",
    run=7,
    ra_deg=83.633,
    dec_deg=22.014,
    position_basis="pointing",
    energy_min_ev=1e11,
    energy_max_ev=1.5e13,
    energy_basis="EVENTS.ENERGY",
    object="Crab Nebula",
    n_events=0,
    is_simulation=False,
    processing="standard",
    quality="good",
    conditions="clear",
    licence="CC-BY-4.0",
    attributes={"zenith_deg": 12.5, "n_telescopes": 4, "trigger": "major", "calibrated": True, "tags": ["a", 1]},
    provenance={"run": "name"},
    warnings=["odd"],
    description="aurora@1 0123abcd",
    relations=[
        Relation(kind="sidecar_of", path="2019/run_7.fits.md5"),
        Relation(kind="irf_for", path="**/run_[0-9]*.fits", obs_id="20191102007", storage="shared-disk"),
    ],
)


async def test_every_field_of_a_record_is_found_again(
    ingest: Ingest, catalogue: Catalogue, vocabulary: VocabularyStore
) -> None:
    await register(vocabulary)
    report = await load(ingest, FULL)
    assert (report.added, report.revisions) == (1, {"aurora": 1})
    page = await catalogue.page(SearchQuery(), {"aurora": 1, "borealis": 0}, Paging(n=1))
    found = page.files[0]
    expected = {name: getattr(FULL, name) for name in FULL.__struct_fields__ if name != "replicas"}
    assert {name: getattr(found, name) for name in expected} == expected


async def test_the_same_batch_again_changes_nothing(
    ingest: Ingest, database: Database, vocabulary: VocabularyStore
) -> None:
    await register(vocabulary)
    records = [file_record(f"run_{number}.fits") for number in range(2500)]
    first, second = await load(ingest, *records), await load(ingest, *records)
    assert (first.added, first.unchanged, first.revisions) == (2500, 0, {"aurora": 1})
    assert (second.added, second.changed, second.unchanged, second.revisions) == (0, 0, 2500, {"aurora": 1})
    async with database.snapshot() as connection:
        changes = (await connection.execute(select(change.c.kind, change.c.subject, change.c.detail))).all()
    assert changes == [("ingest", "aurora", {"revision": 1, "added": 2500, "changed": 0, "reread": 0})]


async def test_a_changed_record_is_a_new_version_and_the_old_one_stays(
    ingest: Ingest, catalogue: Catalogue, database: Database, vocabulary: VocabularyStore
) -> None:
    await register(vocabulary)
    await load(ingest, file_record("a", size_bytes=1), file_record("b", size_bytes=10))
    report = await load(ingest, file_record("a", size_bytes=2), file_record("b", size_bytes=10))
    assert (report.added, report.changed, report.unchanged, report.revisions) == (0, 1, 1, {"aurora": 2})
    before = await catalogue.summary(SearchQuery(), {"aurora": 1, "borealis": 0})
    now = await catalogue.summary(SearchQuery(), {"aurora": 2, "borealis": 0})
    assert (before.bytes, now.bytes) == (11, 12)
    assert before.checksum != now.checksum
    async with database.snapshot() as connection:
        lives = (await connection.execute(select(version.c.path, version.c.added_in, version.c.removed_in))).all()
    assert sorted(lives, key=str) == [("a", 1, 2), ("a", 2, None), ("b", 1, None)]


async def test_a_record_that_was_only_read_otherwise_is_mended_in_place(
    ingest: Ingest, catalogue: Catalogue, database: Database, vocabulary: VocabularyStore
) -> None:
    await register(vocabulary)
    await load(ingest, FULL)
    before = await catalogue.summary(SearchQuery(), {"aurora": 1, "borealis": 0})
    readings: list[dict[str, Any]] = [
        {"description": "aurora@2 4567cdef"},
        {"provenance": {}},
        {"warnings": ["odd", "odder"]},
    ]
    for revision, values in enumerate(readings, 2):
        record = replace(FULL, **values)
        report = await load(ingest, record)
        assert (report.changed, report.unchanged, report.reread) == (0, 1, 1)
        assert report.revisions == {"aurora": revision}
        now = {"aurora": revision, "borealis": 0}
        page = await catalogue.page(SearchQuery(), now, Paging(n=9))
        assert [getattr(found, name) for found in page.files for name in values] == [*values.values()]
        assert await catalogue.summary(SearchQuery(), now) == before
        again = await load(ingest, record)
        assert (again.unchanged, again.reread, again.revisions) == (1, 0, {"aurora": revision})
    async with database.snapshot() as connection:
        assert (await connection.execute(select(version.c.added_in, version.c.removed_in))).all() == [(1, None)]
        details = (await connection.execute(select(change.c.detail).order_by(change.c.id))).scalars().all()
    assert details[1:] == [{"revision": revision, "added": 0, "changed": 0, "reread": 1} for revision in (2, 3, 4)]


async def test_a_record_with_a_checksum_says_that_the_file_was_checked_at_most_once_an_hour(
    ingest: Ingest, database: Database, vocabulary: VocabularyStore
) -> None:
    await register(vocabulary)
    records = [file_record("with", sha256="ab" * 32), file_record("without")]
    await load(ingest, *records)
    for minutes, is_moved in ((59, False), (61, True)):
        async with database.transaction() as connection:
            await connection.execute(text(f"update file set checked_at = now() - interval '{minutes} minutes'"))
        before = await checked(database)
        report = await load(ingest, *records)
        assert (report.unchanged, report.reread, report.revisions) == (2, 0, {"aurora": 1})
        after = await checked(database)
        assert after["without"] == before["without"]
        assert (after["with"] > before["with"]) is is_moved


async def checked(database: Database) -> dict[str, datetime]:
    """Return when each file was last checked, by path."""
    async with database.snapshot() as connection:
        return dict((await connection.execute(select(file.c.path, file.c.checked_at))).all())


async def test_an_equal_record_writes_no_row(ingest: Ingest, database: Database, vocabulary: VocabularyStore) -> None:
    await register(vocabulary)
    await load(ingest, FULL, file_record("a", sha256="ab" * 32))

    async def places() -> list[tuple[str, str, str]]:
        """Where the rows lie and who wrote them last: any update moves both."""
        async with database.snapshot() as connection:
            statement = "select ctid::text, xmin::text, path from file union all select ctid::text, xmin::text, name"
            return sorted((await connection.execute(text(f"{statement} from facility"))).all())

    before = await places()
    await load(ingest, FULL, file_record("a", sha256="ab" * 32))
    assert await places() == before


async def test_a_path_that_stands_twice_in_a_batch_counts_as_it_stands_last(
    ingest: Ingest, catalogue: Catalogue, vocabulary: VocabularyStore
) -> None:
    await register(vocabulary)
    report = await load(ingest, file_record("a", size_bytes=1), file_record("a", size_bytes=2))
    assert (report.received, report.added, report.unchanged) == (2, 1, 1)
    assert (await catalogue.summary(SearchQuery(), report.revisions | {"borealis": 0})).bytes == 2


async def test_each_facility_of_a_batch_moves_its_own_revision(ingest: Ingest, vocabulary: VocabularyStore) -> None:
    await register(vocabulary)
    await load(ingest, file_record("a"))
    report = await load(
        ingest, file_record("b"), file_record("x", facility="borealis", storage="borealis-disk"), file_record("c")
    )
    assert report.revisions == {"aurora": 2, "borealis": 1}


BAD_LINES = [
    (b"nonsense", "", "not a JSON object"),
    (b"[1,2]", "", "Expected `object`"),
    (b'"text"', "", "Expected `object`"),
    (b'{"facility":"aurora"', "", "not a JSON object"),
    (b"\xff\xfe", "", "not a JSON object"),
    (b'{"path":"a","size_bytes":1,"storage":"aurora-disk"}', "facility", "missing required field"),
    (b'{"facility":"nowhere","path":"a","size_bytes":1,"storage":"aurora-disk"}', "facility", "'nowhere' is not reg"),
    (b'{"facility":"aurora","path":"a","size_bytes":1,"storage":"nowhere"}', "storage", "'nowhere' is not registered"),
    (b'{"facility":"aurora","path":"a","size_bytes":1,"storage":"borealis-disk"}', "storage", "files of borealis only"),
    (b'{"facility":"aurora","path":"a","size_bytes":-1,"storage":"aurora-disk"}', "size_bytes", ">= 0"),
    (b'{"facility":"aurora","path":"a","size_bytes":1e99,"storage":"aurora-disk"}', "size_bytes", "Expected `int`"),
    (b'{"facility":"aurora","path":"a","size_bytes":1,"storage":"aurora-disk","colour":1}', "colour", "unknown field"),
    (b'{"facility":"aurora","path":"a","size_bytes":1,"storage":"aurora-disk","ra_deg":1}', "ra_deg", "together"),
    (
        b'{"facility":"aurora","path":"a","size_bytes":1,"storage":"aurora-disk","ra_deg":360,"dec_deg":0}',
        "ra_deg",
        "<",
    ),
    (b'{"facility":"aurora","path":"a","size_bytes":1,"storage":"aurora-disk","ra_deg":NaN,"dec_deg":0}', "", "JSON"),
    (
        b'{"facility":"aurora","path":"a","size_bytes":1,"storage":"aurora-disk","time_begin":"2019-11-02T00:00:00"}',
        "time_begin",
        "expected a time with offset",
    ),
    (
        b'{"facility":"aurora","path":"a","size_bytes":1,"storage":"aurora-disk","time_begin":"0001-01-01T00:00:00+14:00"}',
        "time_begin",
        "years 2 to 9998",
    ),
    (b'{"facility":"aurora","path":"a","size_bytes":1,"storage":"aurora-disk","cluster":"west"}', "cluster", "'west'"),
    (
        b'{"facility":"aurora","path":"a","size_bytes":1,"storage":"aurora-disk","attributes":{"colour":1}}',
        "attributes.colour",
        "not declared",
    ),
    (
        b'{"facility":"aurora","path":"a","size_bytes":1,"storage":"aurora-disk","attributes":{"zenith_deg":true}}',
        "attributes.zenith_deg",
        "type number",
    ),
    (b'{"facility":"aurora","path":"a","size_bytes":1,"storage":"aurora-disk","object":"a\\u0000"}', "", "NUL"),
    (b'{"facility":"aurora","path":"","size_bytes":1,"storage":"aurora-disk"}', "path", "empty"),
    (b'{"facility":"aurora","path":"/etc/passwd","size_bytes":1,"storage":"aurora-disk"}', "path", "absolute"),
    (b'{"facility":"aurora","path":"a/../../b","size_bytes":1,"storage":"aurora-disk"}', "path", "'..'"),
    (b'{"facility":"aurora","path":"a//b","size_bytes":1,"storage":"aurora-disk"}', "path", "''"),
    (b'{"facility":"aurora","path":"a\\nb","size_bytes":1,"storage":"aurora-disk"}', "path", "control character"),
    (b'{"facility":"aurora","path":"a\\u0000b","size_bytes":1,"storage":"aurora-disk"}', "", "NUL"),
    (
        b'{"facility":"aurora","path":"' + b"a/" * 2000 + b'b","size_bytes":1,"storage":"aurora-disk"}',
        "path",
        "4001 characters",
    ),
]


async def test_every_bad_line_is_named_and_the_good_ones_are_kept(
    ingest: Ingest, catalogue: Catalogue, vocabulary: VocabularyStore
) -> None:
    await register(vocabulary)
    good = msgspec.json.encode(file_record("good.fits"))
    body = b"\n".join([good, *(line for line, _, _ in BAD_LINES), b"", msgspec.json.encode(file_record("last.fits"))])
    report = await ingest.load(chunked(body, 100), allowed=None)
    assert (report.received, report.added, report.rejected) == (len(BAD_LINES) + 2, 2, len(BAD_LINES))
    for at, (rejection, (_, field, reason)) in enumerate(zip(report.rejections, BAD_LINES, strict=True)):
        assert (rejection.line, rejection.field) == (at + 2, field), rejection
        assert reason in rejection.reason
    assert (await catalogue.summary(SearchQuery(), {"aurora": 1, "borealis": 0})).count == 2


async def test_a_token_writes_only_for_the_facilities_it_names(ingest: Ingest, vocabulary: VocabularyStore) -> None:
    await register(vocabulary)
    other = file_record("x", facility="borealis", storage="borealis-disk")
    report = await ingest.load(chunked(ndjson([file_record("a"), other])), allowed=["aurora"])
    assert (report.added, report.rejected) == (1, 1)
    assert report.rejections[0].field == "facility"
    assert "may not write for borealis" in report.rejections[0].reason


async def test_a_path_on_a_shared_storage_belongs_to_one_facility(ingest: Ingest, vocabulary: VocabularyStore) -> None:
    await register(vocabulary)
    await load(ingest, file_record("a", storage="shared-disk"))
    mine = file_record("a", facility="borealis", storage="shared-disk")
    report = await ingest.load(chunked(ndjson([mine])), allowed=None)
    assert (report.added, report.changed, report.rejected) == (0, 0, 1)
    assert report.rejections[0].reason == "is catalogued for aurora already"


async def test_a_path_that_another_facility_takes_meanwhile_costs_its_line_only(
    ingest: Ingest, database: Database, vocabulary: VocabularyStore
) -> None:
    await register(vocabulary)
    usual: dict[str, Any] = {"facility": "borealis", "storage": "shared-disk"}
    mine = [file_record("mine", **usual), file_record("taken", **usual)]
    async with database.transaction() as other:
        # The batch has looked for files of others, and waits for its turn.
        await other.execute(text("select from facility where name = 'borealis' for update"))
        waiting = asyncio.create_task(ingest.load(chunked(ndjson(mine)), allowed=None))
        while not await is_anybody_waiting(database):
            await asyncio.sleep(0.01)
        await load(ingest, file_record("taken", storage="shared-disk"))
    report = await waiting
    assert (report.added, report.rejected, report.revisions) == (1, 1, {"borealis": 1})
    assert (report.rejections[0].line, report.rejections[0].reason) == (2, "is catalogued for aurora already")
    async with database.snapshot() as connection:
        rows = (await connection.execute(select(file.c.path, facility.c.name).join_from(file, facility, IS_OWN))).all()
    assert sorted(rows) == [("mine", "borealis"), ("taken", "aurora")]


IS_OWN = file.c.facility_id == facility.c.id


async def is_anybody_waiting(database: Database) -> bool:
    async with database.snapshot() as connection:
        waits = "select from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock'"
        return bool((await connection.execute(text(f"select exists ({waits})"))).scalar_one())


@pytest.mark.parametrize("bytes_in_memory", [100, 100_000_000])
async def test_each_line_of_a_mixed_batch_meets_its_own_fate(
    ingest: Ingest,
    database: Database,
    vocabulary: VocabularyStore,
    bytes_in_memory: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(loading, "PILE_IN_MEMORY_BYTES", bytes_in_memory)
    await register(vocabulary)
    paths = [f"{at:04}" for at in range(2400)]
    # A note on how it was read makes the lines differ from those of the second batch.
    await load(ingest, *(file_record(path, warnings=["first"]) for path in paths[:1800]))
    fates = {"equal": paths[0:1800:3], "reread": paths[1:1800:3], "changed": paths[2:1800:3], "new": paths[1800:]}
    values: Mapping[str, Any] = {
        "equal": {"warnings": ["first"]},
        "reread": {"warnings": ["second"]},
        "changed": {"size_bytes": 7},
        "new": {},
    }
    second = {path: file_record(path, **values[fate]) for fate, own in fates.items() for path in own}
    # Those of one fate stand between those of others, and some paths stand twice.
    report = await load(ingest, *(file_record(path, size_bytes=9) for path in paths[5::100]), *map(second.get, paths))
    assert (report.received, report.added, report.changed, report.reread) == (2424, 600, 600, 600)
    async with database.snapshot() as connection:
        living = (
            await connection.execute(select(file.c.path, file.c.size_bytes, file.c.warnings, file.c.added_in))
        ).all()
        ended = (await connection.execute(text("select path, size_bytes, removed_in from file_history"))).all()
    expected = [
        (path, record.size_bytes, record.warnings, 2 if path in {*fates["changed"], *fates["new"]} else 1)
        for path, record in second.items()
    ]
    assert sorted(living) == sorted(expected)
    assert sorted(ended) == [(path, 1000, 2) for path in fates["changed"]]


async def test_a_relation_that_cannot_be_followed_is_refused(ingest: Ingest, vocabulary: VocabularyStore) -> None:
    await register(vocabulary)
    for relation, reason in (
        (Relation(kind="index_of", path="a/[b"), "a closing ']'"),
        (Relation(kind="index_of", path="a", storage="nowhere"), "'nowhere' is not registered"),
    ):
        report = await ingest.load(chunked(ndjson([file_record("a", relations=[relation])])), allowed=None)
        assert (report.added, report.rejections[0].field) == (0, "relations")
        assert reason in report.rejections[0].reason


async def test_replicas_become_further_places_of_a_file(
    ingest: Ingest, catalogue: Catalogue, database: Database, vocabulary: VocabularyStore
) -> None:
    await register(vocabulary)
    record = file_record("a", sha256="ab" * 32, replicas=[Replica(storage="shared-disk", path="copy/a")])
    await load(ingest, record)
    await load(ingest, record)
    async with database.snapshot() as connection:
        assert len((await connection.execute(select(replica))).all()) == 1
    [[member]] = [batch async for batch in catalogue.iter_members(SearchQuery(), {"aurora": 1})]
    assert [(place.storage, place.path) for place in member.places] == [("aurora-disk", "a"), ("shared-disk", "copy/a")]


# --- removals -------------------------------------------------------------------------------------------------------


async def remove(ingest: Ingest, *removals: Removal, allowed: Collection[str] | None = None) -> RemovalReport:
    return await ingest.remove(chunked(lines_of(*removals)), allowed=allowed)


def lines_of(*removals: Removal) -> bytes:
    return b"\n".join(map(msgspec.json.encode, removals))


def removal(path: str = "a", **values: Any) -> Removal:
    usual: dict[str, Any] = {"facility": "aurora", "storage": "aurora-disk", "path": path}
    return Removal(**usual | values)


async def test_a_removed_file_is_gone_now_and_there_as_of_before(
    ingest: Ingest, catalogue: Catalogue, database: Database, vocabulary: VocabularyStore
) -> None:
    await register(vocabulary)
    await load(ingest, *(file_record(path) for path in "abc"))
    told: list[Mapping[str, int]] = []
    body = lines_of(removal("a"), removal("c"), removal("never there"))
    report = await ingest.remove(chunked(body), allowed=None, on_change=told.append)
    assert (report.received, report.removed, report.unknown, report.kept, report.rejected) == (3, 2, 1, 0, 0)
    assert report.revisions == {"aurora": 2}
    assert told == [{"aurora": 2}]
    assert (await catalogue.summary(SearchQuery(), {"aurora": 2, "borealis": 0})).count == 1
    assert (await catalogue.summary(SearchQuery(), {"aurora": 1, "borealis": 0})).count == 3
    again = await remove(ingest, removal("a"), removal("c"))
    assert (again.removed, again.unknown, again.revisions) == (0, 2, {"aurora": 2})
    async with database.snapshot() as connection:
        changes = (await connection.execute(select(change.c.kind, change.c.subject, change.c.detail))).all()
    assert changes[1:] == [("removal", "aurora", {"revision": 2, "removed": 2})]


async def test_a_file_that_came_back_is_a_new_version(
    ingest: Ingest, catalogue: Catalogue, vocabulary: VocabularyStore
) -> None:
    await register(vocabulary)
    await load(ingest, FULL)
    await remove(ingest, removal(FULL.path))
    report = await load(ingest, FULL)
    assert (report.added, report.changed, report.revisions) == (1, 0, {"aurora": 3})
    counts = [(await catalogue.summary(SearchQuery(), {"aurora": at, "borealis": 0})).count for at in range(4)]
    assert counts == [0, 1, 0, 1]


async def test_only_the_version_that_was_missed_is_removed(
    ingest: Ingest, catalogue: Catalogue, vocabulary: VocabularyStore
) -> None:
    await register(vocabulary)
    noon = datetime(2019, 11, 2, 12, 0, 0, 123456, tzinfo=UTC)
    await load(ingest, file_record("a", size_bytes=7, modified_at=noon), file_record("b", size_bytes=7))
    others = [
        removal("a", size_bytes=8, modified_at=noon),
        removal("a", size_bytes=7, modified_at=noon + timedelta(microseconds=1)),
        removal("a", size_bytes=7),
        removal("b", size_bytes=7, modified_at=noon),
    ]
    for other in others:
        report = await remove(ingest, other)
        assert (report.removed, report.kept, report.unknown, report.revisions) == (0, 1, 0, {"aurora": 1}), other
    report = await remove(ingest, removal("a", size_bytes=7, modified_at=noon), removal("b", size_bytes=7))
    assert (report.removed, report.kept) == (2, 0)


async def test_what_the_listing_tells_of_a_file_removes_it(ingest: Ingest, vocabulary: VocabularyStore) -> None:
    await register(vocabulary)
    await load(ingest, FULL, file_record("plain"))
    known = await ingest.listing.page("aurora-disk", facilities=None)
    report = await remove(
        ingest, *(removal(one.path, size_bytes=one.size_bytes, modified_at=one.modified_at) for one in known)
    )
    assert (len(known), report.removed) == (2, 2)


async def test_a_removal_is_refused_by_line_field_and_reason(ingest: Ingest, vocabulary: VocabularyStore) -> None:
    await register(vocabulary)
    await load(ingest, file_record("a"), file_record("a", storage="shared-disk"))
    lines = [
        (b"nonsense", "", "not a JSON object"),
        (b'{"facility":"aurora","storage":"aurora-disk"}', "path", "missing required field"),
        (b'{"facility":"aurora","storage":"aurora-disk","path":"../a"}', "path", "'..'"),
        (b'{"facility":"aurora","storage":"aurora-disk","path":"a","size_bytes":-1}', "size_bytes", ">= 0"),
        (
            b'{"facility":"aurora","storage":"aurora-disk","path":"a","modified_at":"2019-11-02T00:00:00Z"}',
            "modified_at",
            "without size_bytes",
        ),
        (b'{"facility":"borealis","storage":"borealis-disk","path":"a"}', "facility", "may not write for borealis"),
        (b'{"facility":"aurora","storage":"borealis-disk","path":"a"}', "storage", "files of borealis only"),
    ]
    body = b"\n".join(line for line, _, _ in lines)
    report = await ingest.remove(chunked(body), allowed=["aurora"])
    assert (report.received, report.removed, report.rejected) == (len(lines), 0, len(lines))
    for rejection, (_, field, reason) in zip(report.rejections, lines, strict=True):
        assert (rejection.field, reason in rejection.reason) == (field, True), rejection
    foreign = await remove(ingest, removal("a", facility="borealis", storage="shared-disk"))
    assert (foreign.removed, foreign.rejections[0].reason) == (0, "is catalogued for aurora already")


# --- streams ----------------------------------------------------------------------------------------------------------


async def test_a_broken_stream_leaves_nothing_behind(
    ingest: Ingest, catalogue: Catalogue, database: Database, vocabulary: VocabularyStore
) -> None:
    await register(vocabulary)

    async def broken() -> AsyncIterator[bytes]:
        yield ndjson([file_record(f"run_{number}") for number in range(3000)])
        raise BadInputError("body", "a broken connection", "the whole body")

    for _ in range(12):  # more often than the pool has connections
        with pytest.raises(BadInputError, match="broken connection"):
            await ingest.load(broken(), allowed=None)
    assert (await catalogue.summary(SearchQuery(), {"aurora": 0, "borealis": 0})).count == 0
    await load(ingest, file_record("a"))
    async with database.snapshot() as connection:
        left = await connection.execute(text("select count(*) from pg_class where relname like 'incoming%'"))
        assert left.scalar_one() == 0


async def test_a_line_without_end_is_refused_with_bounded_memory(ingest: Ingest, vocabulary: VocabularyStore) -> None:
    await register(vocabulary)
    with pytest.raises(BadInputError, match="longer line"):
        await ingest.load(chunked(b"x" * (MAX_LINE_BYTES + 100_000)), allowed=None)


async def test_lines_are_cut_wherever_the_pieces_end() -> None:
    body = gzip.decompress(gzip.compress(b"one\n\ntwo\r\nthree"))
    for size in range(1, len(body) + 1):
        blocks = [block async for block in iter_blocks(chunked(body, size))]
        assert [line for block in blocks for line in block] == [(1, b"one"), (3, b"two\r"), (4, b"three")]
