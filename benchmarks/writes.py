"""What writing costs: ingest beside bare COPY, the same lines again, the first load, and searches while ingest runs.

Bare COPY is the most that the database can take: the very rows that the service catalogued, in the binary form in which
the database gave them out, into the same table with all its indexes. Nothing is decoded, checked, compared or counted,
no revision moves. What the service does beyond that is in the ratio.
"""

import asyncio
import os
import shutil
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import chain, islice, takewhile
from pathlib import Path
from typing import Any, TypeAlias

import psycopg
from psycopg import sql

from benchmarks.catalogue import Batch, Edition, GeneratedFacility, make_facilities, write_batches
from benchmarks.ingest import (
    ANSWER_LIMIT_S,
    BATCH_LINES,
    LANES,
    PIECE_BYTES,
    register,
    send_lanes,
    share_out,
)
from benchmarks.load import Load, ask
from benchmarks.measuring import Sample, Table, gather, percentile
from benchmarks.questions import MIXTURE, iter_bodies
from benchmarks.search import WARM_UP, count_files
from benchmarks.service import BenchmarkError, Servers, Service, running_service
from metadata_db import bulk
from metadata_db.database import Database
from metadata_db.settings import CatalogueSettings
from metadata_db.vocabulary import Vocabulary, VocabularyStore

Connection: TypeAlias = "psycopg.Connection[tuple[Any, ...]]"
Lanes: TypeAlias = Sequence[Sequence[Batch]]

SENT_PER_SECOND = 30_000
"""Changed lines that are written for each second of searches: more than is expected to be taken."""

MAX_VERSIONS = 20
"""Versions of each file that are written at most; where there are few files, the searches end with the lines."""

BULK_PROCESSES = min(8, os.cpu_count() or 1)
"""As many as `catchment ingest bulk` takes unless told otherwise."""

_EMPTY = {f"{LANES} at a time": False, "one stream": True}
"""Ways to send into an empty catalogue, and whether all lines are one request."""

_ON_TOP = f"{LANES} at a time, on top"


@dataclass(frozen=True, kw_only=True, slots=True)
class _Lines:
    """All that is sent."""

    batches: Sequence[Batch]
    """All files as they were first."""
    changes: Lanes
    """Later versions of the files, in the order of the versions."""


@dataclass(frozen=True, kw_only=True, slots=True)
class _Way:
    """How lines come into the catalogue."""

    lanes: Lanes
    held: Lanes = ()
    """What is there before."""
    join: bool = False
    """Whether the batches of a lane are one request."""
    is_sent_again: bool = False
    """Whether the same lines are sent once more."""


def run(servers: Servers, *, n_files: int, repeats: int, limit_s: float, batch_lines: int = BATCH_LINES) -> list[Table]:
    """Measure how `n_files` generated records are written, and searches of about `limit_s` seconds meanwhile."""
    facilities = make_facilities(n_files)
    copies: dict[str, list[Sample]] = {}
    again: dict[str, list[Sample]] = {}
    loads: dict[str, list[Sample]] = {}
    searches: dict[str, list[Sample]] = {}
    with _written(facilities, servers.data_dir / "writes-lines", batch_lines=batch_lines, limit_s=limit_s) as lines:
        ways = _make_ways(lines.batches)
        for repeat in range(repeats):
            for label, way in ways.items():
                measured = _measure_ingest(servers, facilities, way)
                copies.setdefault(label, []).append(measured.beside_copy)
                if measured.again is not None:
                    again.setdefault(label, []).append(measured.again)
            with running_service(servers, "writes") as service:
                yardstick = copies[f"{LANES} at a time"][-1]
                first = _measure_first_load(servers, service, facilities, lines.batches, yardstick)
                for label, sample in first.items():
                    loads.setdefault(label, []).append(sample)
                searching = _Searching(servers, service, facilities, limit_s, f"writes {repeat}")
                for label, sample in searching.measure(lines.changes).items():
                    searches.setdefault(label, []).append(sample)
    return [
        Table(
            title=f"Ingest of {n_files:,} records over HTTP and bare COPY",
            rows=tuple(gather(label, samples) for label, samples in copies.items()),
            notes=(
                f"ratio: records per second of ingest ÷ those of COPY by as many connections ({LANES}, or one)",
                "COPY: the rows that were catalogued, in binary, into the same table with all indexes, and commit",
                "into the empty catalogue by a service that was just started, and starts the processes that read "
                "lines; 'on top' has them running",
                f"'on top': {sum(batch.n_lines for batch in chain(*ways[_ON_TOP].lanes)):,} of the records when the "
                "others are there already",
            ),
        ),
        Table(
            title=f"The same {n_files:,} records again",
            rows=tuple(gather(label, samples) for label, samples in again.items()),
            notes=("ratio to new: records per second ÷ those of the same lines into the empty catalogue",),
        ),
        Table(
            title=f"First load of {n_files:,} records",
            rows=tuple(gather(label, samples) for label, samples in loads.items()),
            notes=(
                f"as by 'catchment ingest bulk'; {BULK_PROCESSES} processes read lines, 'copy' includes their start",
                f"ratios: to ingest over HTTP and to bare COPY of the same repeat, both {LANES} at a time",
            ),
        ),
        Table(
            title=f"Search among {n_files:,} files while ingest runs",
            rows=tuple(gather(label, samples) for label, samples in searches.items()),
            notes=(
                "the mixture of 'search' over one connection, uncached; of fewer than 100 questions, p99 is the "
                "slowest; ratios: to without ingest",
                f"ingest: later versions of the files, {LANES} requests of at most {batch_lines:,} lines at a time",
                "time: until the last of them was answered",
            ),
        ),
    ]


@contextmanager
def _written(
    facilities: Sequence[GeneratedFacility], folder: Path, *, batch_lines: int, limit_s: float
) -> Iterator[_Lines]:
    """Give all lines in files below `folder`, which is gone afterwards."""
    shutil.rmtree(folder, ignore_errors=True)  # of a run that was killed
    wanted = SENT_PER_SECOND * limit_s / sum(facility.n_files for facility in facilities)
    editions = [
        Edition(version=1 + number, share=min(1.0, wanted))
        for number in range(min(MAX_VERSIONS, max(1, round(wanted + 0.5))))
    ]
    batches = write_batches(facilities, folder / "first", batch_lines=batch_lines)
    changes = [
        batch
        for edition in editions
        for batch in write_batches(
            facilities, folder / f"version-{edition.version:02d}", batch_lines=batch_lines, edition=edition
        )
    ]
    # All versions of a file go the same way, one after the other.
    lanes = [sorted(lane, key=lambda batch: batch.path) for lane in share_out(changes)]
    yield _Lines(batches=batches, changes=lanes)
    shutil.rmtree(folder)


def _make_ways(batches: Sequence[Batch]) -> dict[str, _Way]:
    ways = {
        label: _Way(lanes=[batches] if join else share_out(batches), join=join, is_sent_again=True)
        for label, join in _EMPTY.items()
    }
    return ways | {_ON_TOP: _Way(held=share_out(batches[::2]), lanes=share_out(batches[1::2]))}


# --- ingest and COPY --------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True, slots=True)
class _Measured:
    """What one way came to in one repeat."""

    beside_copy: Sample
    again: Sample | None


def _measure_ingest(servers: Servers, facilities: Sequence[GeneratedFacility], way: _Way) -> _Measured:
    n_held, n_lines = _count_lines(way.held), _count_lines(way.lanes)
    with running_service(servers, "writes") as service, servers.connect("writes") as connection:
        register(service, facilities)
        if way.held:
            _send(service, way.held, "added")
            connection.execute("vacuum analyze")
        _check_count(connection, n_held)
        last_id = _fetch_number(connection, "select coalesce(max(id), 0) from file")
        new_s = _time_sending(connection, service, way, "added")
        _check_count(connection, n_held + n_lines)
        again = None
        if way.is_sent_again:
            again_s = _time_sending(connection, service, way, "unchanged")
            _check_count(connection, n_held + n_lines)
            again = {"records per second": (n_lines / again_s, ""), "ratio to new": (new_s / again_s, "")}
        copy_s = _time_copy(servers, connection, way, last_id)
        _check_count(connection, n_held + n_lines)
    sample = {
        "ingest, records per second": (n_lines / new_s, ""),
        "COPY, records per second": (n_lines / copy_s, ""),
        "ratio": (copy_s / new_s, ""),
    }
    return _Measured(beside_copy=sample, again=again)


def _time_sending(connection: Connection, service: Service, way: _Way, expected: str) -> float:
    begin = _begin(connection)
    _send(service, way.lanes, expected, join=way.join)
    return time.perf_counter() - begin


def _send(service: Service, lanes: Lanes, expected: str, *, join: bool = False) -> None:
    sent = send_lanes(service, lanes, join=join)
    counted = sum(getattr(one.result, expected) for one in sent)
    if counted != (n_lines := _count_lines(lanes)):
        raise BenchmarkError(f"{counted} of {n_lines} records were {expected}")


def _time_copy(servers: Servers, connection: Connection, way: _Way, last_id: int) -> float:
    """Put what was catalogued into the emptied table again; return how long that took after what was held before."""
    with _exported(servers, connection, way, last_id) as (held, parts):
        # In a transaction of its own: what is copied into a table by the one that emptied it may go without a log.
        connection.execute("truncate file")
        if way.held:
            _copy(connection, held)
            connection.execute("vacuum analyze file")
        with ExitStack() as stack:
            connections = [stack.enter_context(servers.connect("writes")) for _ in parts]
            pool = stack.enter_context(ThreadPoolExecutor(len(parts)))
            begin = _begin(connection)
            list(pool.map(_copy, connections, parts))
            return time.perf_counter() - begin


@contextmanager
def _exported(
    servers: Servers, connection: Connection, way: _Way, last_id: int
) -> Iterator[tuple[Path, Sequence[Path]]]:
    """Give files with the rows as COPY gives them out: those that were held, and those of each lane."""
    folder = servers.data_dir / "writes-rows"
    shutil.rmtree(folder, ignore_errors=True)  # of a run that was killed
    folder.mkdir()
    # As they lie in the table.
    connection.execute("set enable_indexscan = off; set synchronize_seqscans = off")
    held, parts = folder / "held", [folder / f"lane-{number}" for number in range(len(way.lanes))]
    numbers = {str(name): int(number) for number, name in connection.execute("select id, name from facility")}
    n_held = _export(connection, held, f"id <= {last_id}")
    counts = []
    for lane, path in zip(way.lanes, parts, strict=True):
        own = ", ".join(str(numbers[name]) for name in sorted({batch.facility for batch in lane}))
        counts.append(_export(connection, path, f"id > {last_id} and facility_id in ({own})"))
    expected = (_count_lines(way.held), [_count_lines([lane]) for lane in way.lanes])
    if (n_held, counts) != expected:
        raise BenchmarkError(f"COPY gave out {n_held} and {counts} rows, expected {expected}")
    yield held, parts
    shutil.rmtree(folder)


def _export(connection: Connection, path: Path, condition: str) -> int:
    statement = f"copy (select * from file where {condition}) to stdout (format binary)"
    with path.open("wb") as out, connection.cursor() as cursor:
        with cursor.copy(sql.SQL(statement)) as copy:
            for piece in copy:
                out.write(piece)
        return cursor.rowcount


def _copy(connection: Connection, path: Path) -> None:
    """Put rows into the table; each statement of the connection is a transaction, so they are committed."""
    with (
        path.open("rb") as rows,
        connection.cursor() as cursor,
        cursor.copy("copy file from stdin (format binary)") as copy,
    ):
        while piece := rows.read(PIECE_BYTES):
            copy.write(piece)


def _begin(connection: Connection) -> float:
    """Start the clock when all that was written before is on the disk."""
    connection.execute("checkpoint")
    os.sync()
    return time.perf_counter()


# --- the first load ---------------------------------------------------------------------------------------------------


def _measure_first_load(
    servers: Servers,
    service: Service,
    facilities: Sequence[GeneratedFacility],
    batches: Sequence[Batch],
    yardstick: Sample,
) -> dict[str, Sample]:
    register(service, facilities)
    settings = service.settings.catalogue
    vocabulary = asyncio.run(_read_vocabulary(settings))
    n_lines = _count_lines([batches])
    with servers.connect("writes") as connection:
        begin = _begin(connection)
        report = bulk.load([batch.path for batch in batches], settings, vocabulary, processes=BULK_PROCESSES)
        duration_s = time.perf_counter() - begin
        report.close()
        if report.added != n_lines:
            raise BenchmarkError(f"{report.added} of {n_lines} records were added")
        _check_count(connection, n_lines)
    rate = n_lines / duration_s
    steps = {"copy": 0.0, "indexes": 0.0, "count": 0.0, "commit": 0.0, "vacuum": 0.0}
    for name, seconds in report.seconds.items():
        steps["indexes" if name.startswith("index ") else name] += seconds
    return {
        "in all": {
            "time": (duration_s, "s"),
            "records per second": (rate, ""),
            "ratio to ingest": (rate / yardstick["ingest, records per second"][0], ""),
            "ratio to COPY": (rate / yardstick["COPY, records per second"][0], ""),
        },
        **{name: {"time": (seconds, "s")} for name, seconds in steps.items()},
    }


async def _read_vocabulary(settings: CatalogueSettings) -> Vocabulary:
    database = Database(settings)
    try:
        return await VocabularyStore(database).get()
    finally:
        await database.close()


# --- search while ingest runs -----------------------------------------------------------------------------------------


class _Searching:
    """Asks a service with a full catalogue, alone and while lines are sent."""

    def __init__(
        self, servers: Servers, service: Service, facilities: Sequence[GeneratedFacility], limit_s: float, seed: str
    ) -> None:
        self._servers = servers
        self._service = service
        self._facilities = facilities
        self._limit_s = limit_s
        self._seed = seed

    def measure(self, lanes: Lanes) -> dict[str, Sample]:
        """Return what searches took without ingest, and with it."""
        n_files = sum(facility.n_files for facility in self._facilities)
        with self._servers.connect("writes") as connection:
            # Its processes start with the first request, and stay.
            first = [lane[:1] for lane in lanes]
            _send(self._service, first, "changed")
            self._ask(islice(self._bodies("warm-up"), WARM_UP), limit_s=self._limit_s)
            connection.execute("vacuum analyze")
            _begin(connection)
            alone = self._ask(self._bodies("alone"), limit_s=self._limit_s)
            meanwhile, sent = self._ask_meanwhile([lane[1:] for lane in lanes])
            _check_count(connection, n_files)
            n_changed = _count_lines(first) + sum(one.n_lines for one in sent)
            if (ended := _fetch_number(connection, "select count(*) from file_history")) != n_changed:
                raise BenchmarkError(f"{ended} versions have ended, expected {n_changed}")
        return {
            "without ingest": _latencies(alone),
            "while ingest runs": {
                **_latencies(meanwhile),
                "ratio of p50": (percentile(meanwhile.latencies_s, 0.5) / percentile(alone.latencies_s, 0.5), ""),
                "ratio of p99": (percentile(meanwhile.latencies_s, 0.99) / percentile(alone.latencies_s, 0.99), ""),
                "ingest, records per second": (sum(one.n_lines / one.duration_s for one in sent), ""),
                "time": (max(one.duration_s for one in sent), "s"),
            },
        }

    def _ask_meanwhile(self, lanes: Lanes) -> "tuple[Load, list[_SentLane]]":
        """Ask as long as all lanes are sending."""
        ended = threading.Event()
        ends_at = time.perf_counter() + self._limit_s

        def send(lane: Sequence[Batch]) -> _SentLane:
            try:
                return _send_until(self._service, lane, ended, ends_at)
            finally:
                ended.set()

        with ThreadPoolExecutor(len(lanes)) as pool:
            sending = [pool.submit(send, lane) for lane in lanes]
            try:
                bodies = takewhile(lambda _: not ended.is_set(), self._bodies("meanwhile"))
                load = self._ask(bodies, limit_s=ANSWER_LIMIT_S)
            finally:
                ended.set()
            return load, [future.result() for future in sending]

    def _ask(self, bodies: Iterator[bytes], *, limit_s: float) -> Load:
        url, web = self._service.url, self._service.web
        return ask(url, bodies, connections=1, limit=1_000_000, limit_s=limit_s, service=web)

    def _bodies(self, seed: str) -> Iterator[bytes]:
        return iter_bodies(MIXTURE, self._facilities, seed=f"{self._seed} {seed}")


@dataclass(frozen=True, kw_only=True, slots=True)
class _SentLane:
    """How much of a lane was sent."""

    n_lines: int
    duration_s: float


def _send_until(service: Service, lane: Sequence[Batch], ended: threading.Event, ends_at: float) -> _SentLane:
    """Send batches until there are no more, another lane has ended, or time is over; a request is always whole."""
    n_lines, begin = 0, time.perf_counter()
    for batch in lane:
        if ended.is_set() or time.perf_counter() > ends_at:
            break
        _send(service, [[batch]], "changed")
        n_lines += batch.n_lines
    return _SentLane(n_lines=n_lines, duration_s=time.perf_counter() - begin)


def _latencies(load: Load) -> Sample:
    return {
        "p50": (1e3 * percentile(load.latencies_s, 0.5), "ms"),
        "p99": (1e3 * percentile(load.latencies_s, 0.99), "ms"),
        "questions": (len(load.latencies_s), ""),
    }


# --- counting ---------------------------------------------------------------------------------------------------------


def _count_lines(lanes: Lanes) -> int:
    return sum(batch.n_lines for lane in lanes for batch in lane)


def _check_count(connection: Connection, expected: int) -> None:
    if (found := count_files(connection)) != expected:
        raise BenchmarkError(f"there are {found} files in the catalogue, expected {expected}")


def _fetch_number(connection: Connection, statement: str) -> int:
    row = connection.execute(sql.SQL(statement)).fetchone()
    return 0 if row is None else int(row[0])
