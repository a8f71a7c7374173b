"""A first load in bulk makes the catalogue that the ordinary ingest makes, or none at all."""

import asyncio
import gzip
import multiprocessing
import os
import random
import resource
import signal
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import psutil
import psycopg
import pytest
import zstandard

from aggregator.embedded import EmbeddedServers
from metadata_db import bulk
from metadata_db.bulk import BulkReport, NotEmptyError
from metadata_db.database import Database, connected
from metadata_db.errors import BadInputError, UnavailableError
from metadata_db.ingest import Ingest
from metadata_db.records import FileRecord, Replica
from metadata_db.rows import MAX_LINE_BYTES
from metadata_db.settings import CatalogueSettings
from metadata_db.vocabulary import VocabularyStore
from tests.conftest import run_sql, upgrade, with_database
from tests.support.records import chunked, file_record, load, ndjson, register

pytestmark = pytest.mark.anyio

BEGIN = datetime(2019, 10, 30, 20, tzinfo=UTC)

INDEXES = "select indexrelid::regclass::text, pg_get_indexdef(indexrelid), indisvalid from pg_index order by 1"

TOLD: Mapping[str, str] = {
    "file": "select * from file order by path",
    "stratum": "select * from stratum",
    "stratum_day": "select * from stratum_day",
    # When a month changed last depends on in how many steps it was filled.
    "facet_month": "select *, 0 as revision from facet_month",
    "sky_day": "select * from sky_day",
    "facility": "select * from facility order by id",
    "change": "select * from change order by id",
    "replica": "select * from replica order by path",
    "dead_letter": "select * from dead_letter order by key",
}

UNEQUAL = ("id", "at", "checked_at", "stratum_id", "first_at", "last_at")
"""Columns that differ from load to load; strata are compared by their values."""


def many_records() -> Iterator[FileRecord]:
    """Files of two facilities with and without times, positions, attributes and content."""
    for number in range(600):
        values: dict[str, Any] = {"run": number, "attributes": {"zenith_deg": number / 7, "trigger": "größer\\"}}
        if number % 5:
            begin = BEGIN + number * timedelta(hours=1)
            values |= {"time_begin": begin, "time_end": begin + timedelta(minutes=number)}
        if number % 3:
            values |= {"ra_deg": number / 2, "dec_deg": number / 10 - 30, "object": f"source {number % 4}"}
        if number % 2:
            values |= {"sha256": f"{number:064x}", "detector": "iact-north", "description": "aurora@1 0123abcd"}
        yield file_record(f"2019/run_{number}.fits", level=f"DL{number % 3}", warnings=["odd"], **values)
    for number in range(50):
        yield file_record(f"{number}", facility="borealis", storage="borealis-disk", size_bytes=number)


def write(folder: Path, *records: FileRecord, name: str = "files.ndjson", more: bytes = b"") -> Path:
    path = folder / name
    path.write_bytes(ndjson(records) + more)
    return path


@pytest.fixture
def other_url(servers: EmbeddedServers, template: str) -> Iterator[str]:
    """Address of another empty catalogue."""
    run_sql(servers.database_url, f"create database other template {template}")
    yield with_database(servers.database_url, "other")
    run_sql(servers.database_url, "drop database other with (force)")


async def load_in_bulk(url: str, *files: Path, processes: int = 1, **options: Any) -> BulkReport:
    """Register the vocabulary in an empty catalogue, and load files as the command does."""
    settings = CatalogueSettings(database_url=url)
    database = Database(settings)
    try:
        vocabulary = VocabularyStore(database)
        await register(vocabulary)
        words = await vocabulary.get()
        report = await asyncio.to_thread(bulk.load, files, settings, words, processes=processes, **options)
        try:
            await Ingest(database, vocabulary).load(report.iter_left(), allowed=None)
        finally:
            report.close()
        return report
    finally:
        await database.close()


def all_of(url: str) -> dict[str, list[dict[str, Any]]]:
    """Return what a catalogue holds, but for numbers and moments that no two catalogues share."""
    with connected(CatalogueSettings(database_url=url), autocommit=True) as driver:
        keys = dict(driver.execute("select id, key from stratum").fetchall())
        found = {}
        for name, statement in TOLD.items():
            cursor = driver.cursor(row_factory=psycopg.rows.dict_row).execute(statement)
            rows = [
                {key: value for key, value in row.items() if key not in UNEQUAL}
                | ({"stratum": keys[row["stratum_id"]]} if "stratum_id" in row else {})
                for row in cursor.fetchall()
            ]
            found[name] = rows if "order by" in statement else sorted(rows, key=repr)
        return found


def indexes_of(url: str) -> list[tuple[Any, ...]]:
    with connected(CatalogueSettings(database_url=url)) as driver:
        return driver.execute(INDEXES).fetchall()


def count(url: str, what: str) -> int:
    with connected(CatalogueSettings(database_url=url)) as driver:
        (number,) = driver.execute(f"select count(*) from {what}").fetchone() or (0,)
    return int(number)


async def test_it_makes_the_catalogue_that_the_ordinary_ingest_makes(
    ingest: Ingest, vocabulary: VocabularyStore, database_url: str, other_url: str, tmp_path: Path
) -> None:
    await register(vocabulary)
    await load(ingest, *many_records())
    before = indexes_of(other_url)
    report = await load_in_bulk(other_url, write(tmp_path, *many_records()), processes=2)
    assert (report.received, report.added, report.left) == (650, 650, 0)
    assert {"copy", "index file_pkey", "count", "commit", "vacuum"} <= report.seconds.keys()
    expected, found = all_of(database_url), all_of(other_url)
    for name, rows in expected.items():
        assert found[name] == rows, name
    assert len(expected["facet_month"]) > 30
    assert indexes_of(other_url) == before


async def test_what_it_leaves_comes_after_it(
    ingest: Ingest, vocabulary: VocabularyStore, database_url: str, other_url: str, tmp_path: Path
) -> None:
    copied = file_record("copied", sha256="ab" * 32, replicas=[Replica(storage="shared-disk", path="copy")])
    bad = b'{"facility":"nobody","storage":"aurora-disk","path":"x","size_bytes":1}\n\n  \nno JSON\n'
    records = [file_record("a"), copied, file_record("z")]
    await register(vocabulary)
    await ingest.load(chunked(ndjson(records) + bad), allowed=None)
    report = await load_in_bulk(other_url, write(tmp_path, *records, more=bad))
    assert (report.received, report.added, report.left) == (5, 2, 3)
    expected, found = all_of(database_url), all_of(other_url)
    for name in ("stratum", "stratum_day", "facet_month", "replica", "dead_letter"):
        assert found[name] == expected[name], name
    assert [row["path"] for row in found["file"]] == ["a", "copied", "z"]
    assert [row["revision"] for row in found["facility"]] == [2, 0]


@pytest.mark.parametrize(
    ("name", "pack"),
    [
        ("files.ndjson", bytes),
        ("files.ndjson.gz", lambda data: gzip.compress(data[:1000]) + gzip.compress(data[1000:])),
        ("files.ndjson.zst", lambda data: zstandard.compress(data[:1000]) + zstandard.compress(data[1000:])),
    ],
)
async def test_plain_and_packed_files_are_taken(
    database_url: str, tmp_path: Path, name: str, pack: Callable[[bytes], bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bulk, "BLOCK_BYTES", 5000)  # many blocks, in order
    records = [file_record(f"{number:03}") for number in range(200)]
    (tmp_path / name).write_bytes(pack(ndjson(records[:150])))
    report = await load_in_bulk(database_url, tmp_path / name, write(tmp_path, *records[150:], name="more.ndjson"))
    assert report.added == 200
    with connected(CatalogueSettings(database_url=database_url)) as driver:
        paths = driver.execute("select path from file order by id").fetchall()
    assert paths == [(f"{number:03}",) for number in range(200)]


async def test_many_left_lines_are_not_kept_in_memory(
    database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bulk, "LEFT_IN_MEMORY_BYTES", 100)
    left = b'{"path":"without anything else"}\n' * 50
    report = await load_in_bulk(database_url, write(tmp_path, file_record("a"), more=left))
    assert (report.added, report.left) == (1, 50)
    assert report._spool._rolled
    assert count(database_url, "dead_letter") == 1


async def test_it_is_refused_where_files_are_or_were(
    ingest: Ingest, vocabulary: VocabularyStore, database_url: str, tmp_path: Path
) -> None:
    await register(vocabulary)
    await load(ingest, file_record("a"))
    for statement in ("select 1", "truncate file", "truncate file_history"):
        run_sql(database_url, statement)
        with pytest.raises(NotEmptyError, match="only the first load can be one in bulk"):
            await load_in_bulk(database_url, write(tmp_path, file_record("b")))
    assert count(database_url, "file where path = 'b'") == 0


async def test_a_path_in_two_lines_is_named_and_nothing_is_left_behind(database_url: str, tmp_path: Path) -> None:
    before = indexes_of(database_url)
    records = [*many_records(), file_record("2019/run_7.fits", run=8), file_record("odd) =(name, of a file")]
    with pytest.raises(BadInputError, match=r"2019/run_7\.fits of aurora-disk in two lines"):
        await load_in_bulk(database_url, write(tmp_path, *records))
    with pytest.raises(BadInputError, match=r"odd\) =\(name, of a file of aurora-disk in two lines"):
        await load_in_bulk(database_url, write(tmp_path, records[-1], records[-1]))
    assert count(database_url, "file") == count(database_url, "change") == count(database_url, "stratum_day") == 0
    assert indexes_of(database_url) == before
    assert (await load_in_bulk(database_url, write(tmp_path, *records[:-2]))).added == 650


@pytest.mark.parametrize("length", [MAX_LINE_BYTES + 1, 4 * MAX_LINE_BYTES])
async def test_a_line_that_is_too_long_ends_it(database_url: str, tmp_path: Path, length: int) -> None:
    with pytest.raises(BadInputError, match="got 'a longer line', expected at most 1000000 bytes"):
        await load_in_bulk(database_url, write(tmp_path, file_record("a"), more=b" " * length + b"{}"))
    assert count(database_url, "file") == 0


def write_large(folder: Path) -> Path:
    """Write records that take more of the disk than `SPACE_BYTES`, each in the table itself."""
    texts = random.Random(1)
    return write(
        folder, *(file_record(f"{at}", attributes={"trigger": texts.randbytes(850).hex()}) for at in range(10_000))
    )


SPACE_BYTES = 1 << 24
"""What a file may grow to on the full disk: as large as those of the log, which must not fail."""


@contextmanager
def full_disk() -> Iterator[None]:
    """Let the kernel refuse to write more into a file to what is started meanwhile, as it does on a full disk.

    Only a limit of this kind can be set by everybody, in a container too.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (SPACE_BYTES, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


async def test_a_full_disk_leaves_an_empty_catalogue_and_the_load_can_be_repeated(tmp_path: Path) -> None:
    path = write_large(tmp_path)
    with full_disk():
        servers = EmbeddedServers.start(tmp_path / "data", durable=False)
    with servers:
        url = servers.database_url
        await asyncio.to_thread(upgrade, url)
        before = indexes_of(url)
        with pytest.raises(UnavailableError, match=r"cannot write.* nothing has been catalogued"):
            await load_in_bulk(url, path)
        assert indexes_of(url) == before
        for table in ("file", "change", "stratum where files <> 0", "stratum_day", "facet_month", "sky_day"):
            assert count(url, table) == 0, table
    with EmbeddedServers.start(tmp_path / "data", durable=False):
        assert (await load_in_bulk(url, path)).added == 10_000
        assert indexes_of(url) == before


def _load_and_hang(url: str, path: Path) -> None:
    def hang(step: str, _done: int) -> None:
        if step.startswith("index file_time"):
            path.with_suffix(".hangs").touch()
            time.sleep(600)

    asyncio.run(load_in_bulk(url, path, processes=2, on_progress=hang))


@pytest.mark.long
async def test_killed_in_the_middle_it_leaves_an_empty_catalogue_that_works(
    database_url: str, ingest: Ingest, tmp_path: Path
) -> None:
    before = indexes_of(database_url)
    path = write(tmp_path, *many_records())
    process = multiprocessing.get_context("spawn").Process(target=_load_and_hang, args=(database_url, path))
    process.start()
    deadline = time.monotonic() + 60
    while not path.with_suffix(".hangs").exists():
        assert time.monotonic() < deadline
        assert process.is_alive()
        await asyncio.sleep(0.05)
    assert process.pid is not None
    children = psutil.Process(process.pid).children(recursive=True)
    os.kill(process.pid, signal.SIGKILL)
    process.join(30)
    assert psutil.wait_procs(children, timeout=30)[1] == []
    assert indexes_of(database_url) == before
    assert count(database_url, "file") == 0
    assert count(database_url, "stratum where files <> 0") == 0
    assert (await load(ingest, file_record("a"))).added == 1
