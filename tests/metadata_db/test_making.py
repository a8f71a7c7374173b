"""Large batches are read by other processes, to the same effect; what they die of harms nothing."""

import asyncio
import contextlib
import os
import signal

import psutil
import pytest
from sqlalchemy import select

from metadata_db.database import Database
from metadata_db.errors import UnavailableError
from metadata_db.ingest import BLOCKS_AT_HOME, Ingest
from metadata_db.making import Workshop
from metadata_db.rows import BLOCK_LINES
from metadata_db.tables import file, stratum
from metadata_db.vocabulary import VocabularyStore
from tests.support.records import chunked, file_record, load, ndjson, register

pytestmark = pytest.mark.anyio

N = (BLOCKS_AT_HOME + 3) * BLOCK_LINES
RECORDS = [
    file_record(
        f"{at}.fits", run=at, kind=("events", "index")[at % 2], ra_deg=at % 360, dec_deg=at % 90, sha256="ab" * 32
    )
    for at in range(N)
]


@pytest.fixture
def large(database: Database, vocabulary: VocabularyStore, workshop: Workshop) -> Ingest:
    """Ingest that hands large batches out."""
    return Ingest(database, vocabulary, workshop)


def children() -> list[psutil.Process]:
    return [child for child in psutil.Process().children() if reads_lines(child)]


def reads_lines(process: psutil.Process) -> bool:
    try:
        return "spawn_main" in " ".join(process.cmdline())
    except psutil.Error:  # it has just ended
        return False


async def rows_of(database: Database) -> list[object]:
    columns = [column for column in file.c if column.name not in ("id", "checked_at", "added_in", "stratum_id")]
    async with database.snapshot() as connection:
        return list((await connection.execute(select(*columns).order_by(file.c.path))).all())


async def test_a_large_batch_is_the_same_whoever_read_it(
    large: Ingest, ingest: Ingest, database: Database, vocabulary: VocabularyStore
) -> None:
    await register(vocabulary)
    report = await load(large, *RECORDS)
    assert (report.added, report.unchanged) == (N, 0)
    assert children() != []
    rows = await rows_of(database)
    changed = [file_record(f"{at}.fits", size_bytes=5) for at in range(N)]
    assert (await load(ingest, *changed)).changed == N
    assert (await load(ingest, *RECORDS)).changed == N
    assert await rows_of(database) == rows
    again = await load(large, *RECORDS)
    assert (again.added, again.changed, again.unchanged, again.revisions) == (0, 0, N, {"aurora": 3})
    async with database.snapshot() as connection:
        counts = (await connection.execute(select(stratum.c.kind, stratum.c.files))).all()
    assert sorted(counts, key=str) == [("events", N // 2), ("index", N // 2), (None, 0)]


async def test_bad_lines_of_a_large_batch_are_named_by_their_numbers(
    large: Ingest, vocabulary: VocabularyStore
) -> None:
    await register(vocabulary)
    lines = ndjson(RECORDS).splitlines(keepends=True)
    lines[N - 7] = b'{"facility": "aurora", "storage": "aurora-disk", "path": "../x", "size_bytes": 1}\n'
    report = await large.load(chunked(b"".join(lines)), allowed=["aurora"])
    assert [(one.line, one.reason) for one in report.rejections] == [(N - 6, "path has a part '..'")]
    assert report.added == N - 1


async def test_a_process_that_is_killed_costs_one_batch_and_nothing_of_it_is_seen(
    large: Ingest, database: Database, vocabulary: VocabularyStore
) -> None:
    await register(vocabulary)

    async def kill_whoever_reads() -> None:
        while True:
            for child in children():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(child.pid, signal.SIGKILL)
            await asyncio.sleep(0.01)

    killing = asyncio.create_task(kill_whoever_reads())
    with pytest.raises(UnavailableError, match="send the batch again"):
        await load(large, *RECORDS)
    assert not killing.done()
    killing.cancel()
    assert await rows_of(database) == []
    assert (await load(large, *RECORDS)).added == N
