"""The first load of a catalogue: copy everything, then build the indexes and count, all in one transaction.

An empty catalogue of millions of files is filled several times faster this way than batch by batch, because each index
is sorted once instead of searched for each row, and nothing is compared with what is there. Processes of their own
decode and check the lines and hand on the bytes of COPY; one connection takes them. Until it commits nothing can be
seen, and searches wait; if it ends before that, the catalogue is as empty as it was.

Lines that this way cannot take, those with replicas and those that are not good, are left to the ordinary ingest, which
comes after it and keeps them as dead letters if it must.
"""

import gzip
import io
import logging
import multiprocessing
import re
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import SpooledTemporaryFile
from typing import BinaryIO, TypeAlias, cast

import psycopg
import zstandard
from psycopg import sql
from psycopg.types.json import Jsonb

from metadata_db import rollups
from metadata_db.database import Driver, connected
from metadata_db.errors import BadInputError, CatalogueError, UnavailableError
from metadata_db.loading import CHANGE_LOCK, MOVE_ON
from metadata_db.making import Drafts, Maker, prepare_process
from metadata_db.names import Vocabulary
from metadata_db.packing import COLUMNS, HEADER, TRAILER, set_revision
from metadata_db.rows import MAX_LINE_BYTES, Block, Words
from metadata_db.settings import CatalogueSettings
from metadata_db.tables import ALL_MONTHS

logger = logging.getLogger(__name__)

OnProgress: TypeAlias = Callable[[str, int], None]

BLOCK_BYTES = 2_000_000
"""Bytes of lines that a process is given at a time."""

LEFT_IN_MEMORY_BYTES = 4_000_000
"""Left lines that are kept in memory, some thousands; more of them go to a temporary file."""

MEMORY = "1GB"
"""What the database may use to sort one index."""

COUNT_MEMORY = "256MB"
"""What it may use to sort or to group once, while it counts: groups of millions of files stay in memory."""

FIRST_REVISION = 1


class NotEmptyError(CatalogueError):
    """The catalogue holds files already, or did: a bulk load is the first one."""

    code = "BAD_INPUT"


@dataclass(kw_only=True)
class BulkReport:
    """What became of the lines of a bulk load; received = added + left."""

    received: int = 0
    added: int = 0
    left: int = 0
    """Lines that are for the ordinary ingest; `iter_left` gives them."""
    seconds: dict[str, float] = field(default_factory=dict)
    """Step → how long it took."""
    _spool: "SpooledTemporaryFile[bytes]" = field(
        default_factory=lambda: SpooledTemporaryFile(LEFT_IN_MEMORY_BYTES),  # noqa: SIM115  # closed by `close`
        repr=False,
    )

    def leave(self, lines: Sequence[bytes]) -> None:
        """Keep lines for the ordinary ingest."""
        self.left += len(lines)
        self._spool.writelines(line + b"\n" for line in lines)

    async def iter_left(self) -> AsyncIterator[bytes]:
        """Yield the left lines in pieces, in their order."""
        self._spool.seek(0)
        while piece := self._spool.read(1 << 16):
            yield piece

    def close(self) -> None:
        """Forget the left lines."""
        self._spool.close()


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
        There are files in the catalogue, or have been.
    BadInputError
        A path of a storage stands in two lines, or a line is too long.
    UnavailableError
        The database gave up, or has no space left. Whatever is raised, nothing has been catalogued.
    """
    report = BulkReport()

    @contextmanager
    def step(name: str) -> Iterator[None]:
        on_progress(name, report.received)
        began = time.monotonic()
        yield
        report.seconds[name] = time.monotonic() - began

    try:
        with connected(settings) as driver, _faults_told():
            indexes = _prepare(driver)
            with step("copy"):
                _copy(driver, files, settings, vocabulary, processes, report, on_progress)
            for name, statement in indexes.items():
                with step(f"index {name}"), _duplicates_told(vocabulary):
                    _run(driver, statement)
            with step("count"):
                for statement in rollups.REBUILD:
                    _run(driver, statement)
                _move_facilities_on(driver)
            with step("commit"):
                driver.commit()
        with connected(settings, autocommit=True) as driver, step("vacuum"):
            # Counts from indexes alone need to know which pages are visible to all.
            driver.execute("vacuum (analyze) file, stratum, stratum_day, facet_month, sky_day, facility")
    except BaseException:
        report.close()
        raise
    logger.info("loaded in bulk", extra={"action": "bulk", "added": report.added, "left": report.left})
    return report


def _run(driver: Driver, statement: str) -> None:
    driver.execute(sql.SQL(statement))  # our own, or as Postgres wrote it down


def _prepare(driver: Driver) -> Mapping[str, str]:
    """Take the table's indexes away; return the statements that build them again, the unique ones first."""
    driver.execute(f"set local maintenance_work_mem = '{MEMORY}'")
    driver.execute(f"set local work_mem = '{COUNT_MEMORY}'")
    driver.execute("select from facility order by id for update")
    driver.execute("lock table file in access exclusive mode")
    held = driver.execute(
        "select exists (select from file) or exists (select from file_history)"
        " or exists (select from facility where revision <> 0)"
    ).fetchone()
    if held != (False,):
        raise NotEmptyError("the catalogue holds files already, or did: only the first load can be one in bulk")
    # What is copied into a table by the transaction that truncated it needs no log where wal_level is minimal.
    driver.execute("truncate file")
    found = driver.execute(
        "select relname, conname is not null, case when conname is null then pg_get_indexdef(indexrelid) else"
        "   format('alter table file add constraint %I %s', conname, pg_get_constraintdef(pg_constraint.oid))"
        " end from pg_index join pg_class on pg_class.oid = indexrelid"
        " left join pg_constraint on conindid = indexrelid and contype in ('p', 'u')"
        " where indrelid = 'file'::regclass order by not indisunique, indisprimary, indexrelid"
    ).fetchall()
    for name, is_constraint, _ in found:
        drop = "alter table file drop constraint {}" if is_constraint else "drop index {}"
        driver.execute(sql.SQL(drop).format(sql.Identifier(name)))
    return {name: statement for name, _, statement in found}


def _copy(
    driver: Driver,
    files: Sequence[Path],
    settings: CatalogueSettings,
    vocabulary: Vocabulary,
    processes: int,
    report: BulkReport,
    on_progress: OnProgress,
) -> None:
    # Rows of a table that this transaction has truncated can be written as the vacuum would leave them.
    statement = f"copy file ({', '.join(COLUMNS)}) from stdin (format binary, freeze)"
    pool = ProcessPoolExecutor(
        processes,
        mp_context=multiprocessing.get_context("spawn"),
        initializer=_start,
        initargs=(settings, vocabulary),
    )
    with pool, driver.cursor() as cursor, cursor.copy(sql.SQL(statement)) as copy:
        copy.write(HEADER)
        for taken in _in_parallel(pool, _iter_blocks(files), limit=3 * processes):
            if taken.is_too_long:
                raise _too_long_error(f"after line {report.received}")
            copy.write(taken.rows)
            report.received += taken.n_rows + len(taken.left)
            report.added += taken.n_rows
            report.leave(taken.left)
            on_progress("copy", report.received)
        copy.write(TRAILER)


def _in_parallel(pool: ProcessPoolExecutor, blocks: Iterator[bytes], *, limit: int) -> "Iterator[_Taken]":
    """Yield what processes make of blocks, in their order; never more than `limit` are under way."""
    waiting: deque[Future[_Taken]] = deque()
    try:
        for block in blocks:
            waiting.append(pool.submit(_take, block))
            if len(waiting) >= limit:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        for future in waiting:
            future.cancel()


def _iter_blocks(files: Sequence[Path]) -> Iterator[bytes]:
    """Yield whole lines, some `BLOCK_BYTES` at a time."""
    for path in files:
        with _opened(path) as stream:
            while block := stream.read(BLOCK_BYTES):
                rest = stream.readline(MAX_LINE_BYTES + 1)
                if len(rest) > MAX_LINE_BYTES:
                    raise _too_long_error(str(path))
                yield block + rest


@contextmanager
def _opened(path: Path) -> Iterator[BinaryIO]:
    with path.open("rb") as packed:
        if path.suffix == ".gz":
            yield cast(BinaryIO, gzip.GzipFile(fileobj=packed))
        elif path.suffix == ".zst":
            reader = zstandard.ZstdDecompressor().stream_reader(packed, read_across_frames=True)
            yield io.BufferedReader(cast(io.RawIOBase, reader), BLOCK_BYTES)
        else:
            yield packed


def _too_long_error(where: str) -> BadInputError:
    return BadInputError(where, "a longer line", f"at most {MAX_LINE_BYTES} bytes")


_DUPLICATE = re.compile(r"=\((\d+), (.*)\)", re.DOTALL)
"""What Postgres says of storage and path, in whatever language."""


@contextmanager
def _faults_told() -> Iterator[None]:
    """Say what a full disk, or a broken one, means for the load: the server only tells which file it could not write.

    Raises
    ------
    UnavailableError
        The server could not write or read.
    """
    try:
        yield
    except (psycopg.errors.DiskFull, psycopg.errors.IoError, psycopg.errors.InternalError_) as error:
        reason = error.diag.message_primary
        raise UnavailableError(f"the database cannot write: {reason}; nothing has been catalogued") from error


@contextmanager
def _duplicates_told(vocabulary: Vocabulary) -> Iterator[None]:
    try:
        yield
    except psycopg.errors.UniqueViolation as error:
        found = _DUPLICATE.search(error.diag.message_detail or "")
        what = "a path" if found is None else f"{found[2]} of {vocabulary.storage.names[int(found[1])]}"
        expected = "each path of a storage in one line only; the ordinary ingest takes the last of several"
        raise BadInputError("path", f"{what} in two lines", expected) from error


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
        "select id, name, files from facility join facet_month on facility_id = facility.id"
        f" where field = '' and month = {ALL_MONTHS} order by id"
    ).fetchall()
    for number, name, count in rows:
        detail = {"revision": FIRST_REVISION, "added": count, "changed": 0, "reread": 0}
        values = {"id": number, "name": name, "revision": FIRST_REVISION, "kind": "ingest", "detail": Jsonb(detail)}
        driver.execute(sql.SQL(MOVE_ON), values)


# --- in a process of its own ------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True, slots=True)
class _Taken:
    """What a process made of a block of lines."""

    rows: bytes = b""
    """Rows in the binary format of COPY, without header and trailer."""
    n_rows: int = 0
    left: Sequence[bytes] = ()
    is_too_long: bool = False
    """Whether there is a line that is too long, and nothing has been made of the block."""


_maker: Maker
_words: Words


def _start(settings: CatalogueSettings, vocabulary: Vocabulary) -> None:
    global _maker, _words  # one for each process of the pool
    prepare_process()
    _maker, _words = Maker(settings), Words(vocabulary)


def _take(data: bytes) -> _Taken:
    """Return the rows of a block of lines, but for those with replicas."""
    block = Block(1, data)
    if any(len(line) > MAX_LINE_BYTES for _, line in block):
        return _Taken(is_too_long=True)
    made = _maker.make(Drafts(block, (), _words, None, leave_replicated=True))
    left = made.rejected
    rows = [set_revision(own.rows, own.lengths, FIRST_REVISION) for own in made.packed.values()]
    return _Taken(rows=b"".join(rows), n_rows=made.n_lines - len(left), left=[line for _, line in left])
