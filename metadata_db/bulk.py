"""The first load of a catalogue: copy everything, then build the indexes and count, all in one transaction.

An empty catalogue of millions of files is filled several times faster this way than batch by batch, because each index
is sorted once instead of searched for each row, and what is new need not be written to the log as well. Processes of
their own decode and check the lines and hand on the bytes of COPY; one connection takes them. Until it commits nothing
can be seen, and searches wait; if it ends before that, the catalogue is as empty as it was.

Lines that this way cannot take, those with replicas and those that are not good, are left to the ordinary ingest, which
comes after it and keeps them as dead letters if it must.
"""

import asyncio
import gzip
import io
import logging
import multiprocessing
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

import psycopg
import zstandard
from psycopg import sql
from psycopg.copy import AsyncCopy, AsyncWriter
from psycopg.types.json import Jsonb

from metadata_db import rollups
from metadata_db.errors import BadInputError, CatalogueError
from metadata_db.loading import CHANGE_LOCK
from metadata_db.rows import COLUMNS, JSON_COLUMNS, Row, finish_rows, make_drafts
from metadata_db.settings import CatalogueSettings
from metadata_db.strata import Strata
from metadata_db.tables import ALL_MONTHS
from metadata_db.vocabulary import Vocabulary

logger = logging.getLogger(__name__)

Driver: TypeAlias = "psycopg.Connection[tuple[Any, ...]]"
OnProgress: TypeAlias = Callable[[str, int], None]

BLOCK_BYTES = 2_000_000
"""Bytes of lines that a process is given at a time."""

MEMORY = "1GB"
"""What the database may use to sort one index."""

FIRST_REVISION = 1

_OWN_TYPES = {"facility_id": "int2", "storage_id": "int2"}

_HEADER, _TRAILER = b"PGCOPY\n\xff\r\n\0" + bytes(8), b"\xff\xff"


class NotEmptyError(CatalogueError):
    """The catalogue holds files already: a bulk load is the first one."""

    code = "BAD_INPUT"


@dataclass(kw_only=True)
class BulkReport:
    """What became of the lines of a bulk load; `seconds` says how long each step took."""

    received: int = 0
    added: int = 0
    left: list[bytes] = field(default_factory=list)
    """Lines that are for the ordinary ingest."""
    seconds: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True, slots=True)
class _Taken:
    """What a process made of a block of lines."""

    rows: bytes
    """Rows in the binary format of COPY, without header and trailer."""
    n_lines: int
    n_rows: int
    left: list[bytes]


def load(
    files: Sequence[Path],
    settings: CatalogueSettings,
    vocabulary: Vocabulary,
    *,
    processes: int,
    on_progress: OnProgress = lambda step, done: None,
) -> BulkReport:
    """Load NDJSON files, plain, gzip or zstd, into an empty catalogue.

    Parameters
    ----------
    on_progress
        Told the step and how many lines it has done.

    Raises
    ------
    NotEmptyError
        There are files in the catalogue already.
    BadInputError
        A path of a storage stands in two lines.
    """
    report = BulkReport()
    with psycopg.connect(settings.libpq_url) as driver:
        clock = _Clock(report.seconds)
        try:
            indexes = _prepare(driver)
            with clock.step("copy"):
                _copy(driver, files, settings, vocabulary, processes, report, on_progress)
            for name, statement in indexes:
                on_progress(f"index {name}", report.received)
                with clock.step(f"index {name}"):
                    driver.execute(sql.SQL(statement))
            on_progress("count", report.received)
            with clock.step("count"):
                for statement in rollups.REBUILD:
                    driver.execute(sql.SQL(statement))
            _move_facilities_on(driver)
        except psycopg.errors.UniqueViolation as error:
            expected = "each path of a storage in one line only; the ordinary ingest takes the last of several"
            raise BadInputError("path", error.diag.message_detail or "a path twice", expected) from error
        with clock.step("commit"):
            driver.commit()
    with psycopg.connect(settings.libpq_url, autocommit=True) as driver, clock.step("vacuum"):
        on_progress("vacuum", report.received)
        # Counts from indexes alone need to know which pages are visible to all.
        driver.execute("vacuum (analyze) file, stratum, stratum_day, facet_month, sky_day")
    logger.info("loaded in bulk", extra={"action": "bulk", "added": report.added, "left": len(report.left)})
    return report


class _Clock:
    def __init__(self, seconds: dict[str, float]) -> None:
        self._seconds = seconds
        self._name = ""
        self._began = 0.0

    def step(self, name: str) -> "_Clock":
        self._name = name
        return self

    def __enter__(self) -> None:
        self._began = time.monotonic()

    def __exit__(self, *_error: object) -> None:
        self._seconds[self._name] = time.monotonic() - self._began


def _prepare(driver: Driver) -> list[tuple[str, str]]:
    """Take the table's indexes away; return their names and the statements that build them again."""
    driver.execute(f"set local maintenance_work_mem = '{MEMORY}'")
    driver.execute("set local timezone = 'UTC'")
    driver.execute("select from facility order by id for update")
    driver.execute("lock table file in access exclusive mode")
    held = driver.execute("select exists (select from file), exists (select from file_history)").fetchone()
    if held != (False, False):
        raise NotEmptyError("the catalogue holds files already: a bulk load is the first one, use 'catchment ingest'")
    # In the transaction that truncates a table, what is copied into it needs no log.
    driver.execute("truncate file, stratum_day, facet_month, sky_day")
    driver.execute("update stratum set files = 0, bytes = 0, fingerprint_high = 0, fingerprint_low = 0")
    constraints = driver.execute(
        "select conname, 'alter table file add constraint ' || quote_ident(conname) || ' ' || pg_get_constraintdef(oid)"
        " from pg_constraint where conrelid = 'file'::regclass and contype = 'p'"
    ).fetchall()
    indexes = driver.execute(
        "select indexrelid::regclass::text, pg_get_indexdef(indexrelid) from pg_index"
        " where indrelid = 'file'::regclass and not indisprimary order by indexrelid"
    ).fetchall()
    for name, _ in constraints:
        driver.execute(sql.SQL("alter table file drop constraint {}").format(sql.Identifier(name)))
    for name, _ in indexes:
        driver.execute(sql.SQL("drop index {}").format(sql.Identifier(name)))
    return [*constraints, *indexes]


def _copy(
    driver: Driver,
    files: Sequence[Path],
    settings: CatalogueSettings,
    vocabulary: Vocabulary,
    processes: int,
    report: BulkReport,
    on_progress: OnProgress,
) -> None:
    names = ", ".join((*COLUMNS, "added_in"))
    context = multiprocessing.get_context("spawn")
    start = (settings, vocabulary)
    with (
        ProcessPoolExecutor(processes, mp_context=context, initializer=_start, initargs=start) as pool,
        driver.cursor() as cursor,
        cursor.copy(sql.SQL(f"copy file ({names}) from stdin (format binary)")) as copy,
    ):
        copy.write(_HEADER)
        for taken in _in_parallel(pool, _iter_blocks(files), limit=3 * processes):
            copy.write(taken.rows)
            report.received += taken.n_lines
            report.added += taken.n_rows
            report.left += taken.left
            on_progress("copy", report.received)
        copy.write(_TRAILER)


def _in_parallel(pool: ProcessPoolExecutor, blocks: Iterator[bytes], *, limit: int) -> Iterator[_Taken]:
    """Yield what processes make of blocks, as they are done; never more than `limit` are under way."""
    waiting: set[Future[_Taken]] = set()
    for block in blocks:
        waiting.add(pool.submit(_take, block))
        if len(waiting) >= limit:
            done, waiting = wait(waiting, return_when=FIRST_COMPLETED)
            yield from (future.result() for future in done)
    while waiting:
        done, waiting = wait(waiting, return_when=FIRST_COMPLETED)
        yield from (future.result() for future in done)


def _iter_blocks(files: Sequence[Path]) -> Iterator[bytes]:
    """Yield whole lines, some `BLOCK_BYTES` at a time."""
    for path in files:
        with _open(path) as stream:
            while block := stream.read(BLOCK_BYTES):
                yield block + stream.readline()


def _open(path: Path) -> Any:
    if path.suffix == ".gz":
        return gzip.open(path)
    if path.suffix == ".zst":
        return io.BufferedReader(zstandard.open(path))
    return path.open("rb", buffering=1 << 20)


def _move_facilities_on(driver: Driver) -> None:
    """Give each facility that has files its first revision, and write the changes."""
    driver.execute(
        "update facility set longest = found.longest from ("
        "   select facility_id, max(time_over - time_begin) as longest from file"
        "   where time_over - time_begin <= interval '1 day' group by 1"
        ") as found where facility.id = found.facility_id and facility.longest < found.longest"
    )
    driver.execute("select pg_advisory_xact_lock(%s)", [CHANGE_LOCK])
    rows = driver.execute(
        "select id, name, sum(files)::int8 from facility join facet_month on facility_id = facility.id"
        f" where field = '' and month = {ALL_MONTHS} group by 1, 2 order by 1"
    ).fetchall()
    for number, name, count in rows:
        detail = {"revision": FIRST_REVISION, "added": count, "changed": 0, "reread": 0}
        driver.execute(
            "with made as ("
            "   insert into change (at, kind, subject, detail, facility_id, revision)"
            "   values (clock_timestamp(), 'ingest', %(name)s, %(detail)s, %(id)s, %(revision)s) returning id"
            ") update facility set revision = %(revision)s, change_id = made.id from made where facility.id = %(id)s",
            {"id": number, "name": name, "detail": Jsonb(detail), "revision": FIRST_REVISION},
        )


# --- in a process of its own ------------------------------------------------------------------------------------------


class _Buffer(AsyncWriter):
    """Keeps what COPY would send."""

    def __init__(self) -> None:
        self.pieces: list[bytes] = []

    async def write(self, data: Any) -> None:
        self.pieces.append(bytes(data))


class _Maker:
    """Makes rows of lines; has a connection of its own to give new strata their numbers."""

    def __init__(self, settings: CatalogueSettings, vocabulary: Vocabulary) -> None:
        self._runner = asyncio.Runner()
        self._vocabulary = vocabulary
        self._strata = Strata()
        self._driver = self._runner.run(psycopg.AsyncConnection.connect(settings.libpq_url, autocommit=True))

    def take(self, block: bytes) -> _Taken:
        """Return the rows of a block of lines."""
        lines = [(number, line) for number, line in enumerate(block.split(b"\n")) if line.strip()]
        drafts, rejections = make_drafts(lines, self._vocabulary, None)
        others = {rejection.line for rejection in rejections}
        others.update(number for number, draft in drafts if draft.replicas is not None)
        drafts = [(number, draft) for number, draft in drafts if number not in others]
        if unknown := {draft.stratum for _, draft in drafts} - self._strata.numbers.keys():
            self._runner.run(self._strata.learn(self._driver, unknown))
        rows = finish_rows(drafts, self._strata.numbers)
        return _Taken(
            rows=self._runner.run(self._pack(rows)),
            n_lines=len(lines),
            n_rows=len(rows),
            left=[line for number, line in lines if number in others],
        )

    async def _pack(self, rows: Sequence[Row]) -> bytes:
        buffer = _Buffer()
        async with self._driver.cursor() as cursor, AsyncCopy(cursor, binary=True, writer=buffer) as copy:
            copy.set_types([*_TYPES, "int8"])
            for row in rows:
                await copy.write_row((*row[: len(COLUMNS)], FIRST_REVISION))
        return b"".join(buffer.pieces).removeprefix(_HEADER).removesuffix(_TRAILER)


_TYPES = [_OWN_TYPES.get(name, "jsonb" if name in JSON_COLUMNS else kind) for name, kind in COLUMNS.items()]
"""Types of the columns of `file`, which COPY in binary wants to the bit."""

_maker: _Maker


def _start(settings: CatalogueSettings, vocabulary: Vocabulary) -> None:
    global _maker  # one for each process of the pool
    _maker = _Maker(settings, vocabulary)


def _take(block: bytes) -> _Taken:
    return _maker.take(block)
