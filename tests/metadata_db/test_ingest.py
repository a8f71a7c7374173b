"""A batch is catalogued whole per facility, once however often it is sent, and every bad line is named."""

import gzip
from collections.abc import AsyncIterator
from datetime import UTC, datetime

import msgspec
import pytest
from sqlalchemy import select, text

from metadata_db.catalogue import Catalogue
from metadata_db.database import Database
from metadata_db.errors import BadInputError
from metadata_db.ingest import Ingest
from metadata_db.query import SearchQuery
from metadata_db.records import Replica
from metadata_db.rows import MAX_LINE_BYTES, iter_blocks
from metadata_db.search import Order
from metadata_db.tables import change, file, replica
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
)


async def test_every_field_of_a_record_is_found_again(
    ingest: Ingest, catalogue: Catalogue, vocabulary: VocabularyStore
) -> None:
    await register(vocabulary)
    report = await load(ingest, FULL)
    assert (report.added, report.revisions) == (1, {"aurora": 1})
    page = await catalogue.page(SearchQuery(), {"aurora": 1, "borealis": 0}, order=Order(), first=1, after=None)
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
    assert changes == [("ingest", "aurora", {"revision": 1, "added": 2500, "changed": 0})]


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
        lives = (await connection.execute(select(file.c.path, file.c.added_in, file.c.removed_in))).all()
    assert sorted(lives, key=str) == [("a", 1, 2), ("a", 2, None), ("b", 1, None)]


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
        left = await connection.execute(text("select count(*) from pg_class where relname = 'incoming'"))
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
