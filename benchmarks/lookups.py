"""How long the catalogue takes for each kind of question: count, bytes, checksum, a page of 50 files, six facets.

Asked of the catalogue itself, without GraphQL, so that it is the database and our statements that are measured. Where a
kind has so many, every question is another one; nothing is cached but what Postgres caches, and the sums that a process
keeps. Beside it, what these look-ups are to be compared with: counts that scan, and the same page by hand-written SQL
through psycopg.
"""

import asyncio
import random
import shutil
import time
from collections.abc import AsyncIterator, Awaitable, Sequence
from datetime import timedelta
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeVar

import psutil  # type: ignore[import-untyped]
import psycopg
import strawberry

from aggregator.api.inputs import SearchFilter, to_query
from aggregator.api.scalars import CONFIG
from aggregator.commands.migrate import migrate_database
from benchmarks.catalogue import (
    Batch,
    Edition,
    GeneratedFacility,
    make_facilities,
    make_storages,
    write_batches,
    written_batches,
)
from benchmarks.measuring import Sample, Table, gather, percentile
from benchmarks.questions import KINDS, Filter
from benchmarks.service import BenchmarkError, Servers
from metadata_db import bulk
from metadata_db.catalogue import Catalogue
from metadata_db.database import Database
from metadata_db.ingest import Ingest
from metadata_db.making import Workshop
from metadata_db.paging import PAGE_COLUMNS
from metadata_db.query import SearchQuery
from metadata_db.search import FacetField, Paging, Revisions
from metadata_db.settings import CatalogueSettings
from metadata_db.vocabulary import Vocabulary, VocabularyStore

PAGE_FILES = 50
FACETS = (
    FacetField.FACILITY,
    FacetField.DETECTOR,
    FacetField.LEVEL,
    FacetField.KIND,
    FacetField.OBJECT,
    FacetField.QUALITY,
)
BATCH_LINES = 50_000
COUNTED_AHEAD = ("facility and month", "season, all facilities", "everything")
"""Kinds whose counts are compared with counts that scan."""

T = TypeVar("T")


def run(
    servers: Servers, *, n_files: int, repeats: int, questions: int, wanted: Sequence[str] = tuple(KINDS)
) -> list[Table]:
    """Measure look-ups among `n_files` files: `questions` of each of the `wanted` kinds a repeat.

    Other ways are measured only beside all kinds.
    """
    facilities = make_facilities(n_files)
    settings = servers.settings_of(f"lookups_{n_files}")
    name = settings.data_dir.name
    if not servers.has_database(name):
        servers.make_empty(name)
        migrate_database(settings)
        fill(servers.data_dir, settings.catalogue, facilities)
    with servers.connect(name) as connection, asyncio.Runner() as runner:
        measuring = _Measuring(Database(settings.catalogue), facilities, connection, questions)
        kinds: dict[str, list[Sample]] = {kind: [] for kind in wanted}
        compared: dict[str, list[Sample]] = {}
        ahead = runner.run(measuring.fetch_ahead())
        for repeat in range(repeats):
            for kind, samples in kinds.items():
                samples.append(runner.run(measuring.look_up(kind, f"{kind} {repeat}")))
            if len(wanted) < len(KINDS):
                continue
            for kind in COUNTED_AHEAD:
                label = f"{kind}: count"
                compared.setdefault(label, []).append(runner.run(measuring.against_scan(kind, f"scan {repeat}")))
            label = "facility and month: page"
            compared.setdefault(label, []).append(runner.run(measuring.against_hand(f"hand {repeat}")))
        runner.run(measuring.close())
    tables = [
        Table(
            title=f"Fetching ahead among {n_files:,} files",
            rows=(gather("sums of strata and days", [ahead]),),
            notes=("what the service does in the background when it starts; all below was asked afterwards",),
        ),
        Table(
            title=f"Look-ups among {n_files:,} files",
            rows=tuple(gather(kind, samples) for kind, samples in kinds.items()),
            notes=(
                "all: count, bytes and checksum, then a page of 50, then six facets, one after another",
                "files: median number that matched; estimates: answers of which the count was one",
            ),
        ),
        Table(
            title=f"Look-ups among {n_files:,} files against other ways",
            rows=tuple(gather(label, samples) for label, samples in compared.items()),
            notes=("ratio: time of the other way ÷ time of ours for counts, ours ÷ the other's for the page",),
        ),
    ]
    return [table for table in tables if table.rows]


def fill(folder: Path, catalogue: CatalogueSettings, facilities: Sequence[GeneratedFacility]) -> None:
    """Load the files of all facilities into an empty catalogue."""
    vocabulary = asyncio.run(_register(Database(catalogue), facilities))
    with written_batches(facilities, folder / "lines", batch_lines=BATCH_LINES) as batches:
        report = bulk.load([batch.path for batch in batches], catalogue, vocabulary, processes=2)
    if report.added != sum(facility.n_files for facility in facilities):
        raise BenchmarkError(f"{report.left} lines were not loaded")
    report.close()


def run_history(servers: Servers, *, n_files: int, questions: int) -> Table:
    """Measure look-ups before and after every one of `n_files` files got two more versions."""
    facilities = make_facilities(n_files)
    settings = servers.settings_of(f"history_{n_files}")
    name = settings.data_dir.name
    servers.make_empty(name)
    migrate_database(settings)
    fill(servers.data_dir, settings.catalogue, facilities)
    samples: dict[str, list[Sample]] = {kind: [] for kind in HISTORY_KINDS}
    with servers.connect(name) as connection, asyncio.Runner() as runner:
        before = {
            kind: runner.run(_look_up_once(settings.catalogue, facilities, connection, questions, kind))
            for kind in samples
        }
        for version in (1, 2):
            folder = servers.data_dir / "lines"
            batches = write_batches(facilities, folder, batch_lines=BATCH_LINES, edition=Edition(version=version))
            runner.run(_ingest(settings.catalogue, batches))
            shutil.rmtree(folder)
        connection.execute("vacuum analyze")
        row = connection.execute("select (select count(*) from file), (select count(*) from file_history)").fetchone()
        if row != (n_files, 2 * n_files):
            raise BenchmarkError(f"expected {n_files} files with two earlier versions each, there are {row}")
        for kind, found in samples.items():
            after = runner.run(_look_up_once(settings.catalogue, facilities, connection, questions, kind))
            ratio = after["p50"][0] / before[kind]["p50"][0]
            found.append({"one version": before[kind]["p50"], "three versions": after["p50"], "ratio": (ratio, "")})
    servers.drop(name)
    return Table(
        title=f"Look-ups among {n_files:,} files with one version and with three: p50",
        rows=tuple(gather(kind, found) for kind, found in samples.items()),
        notes=("all later versions came by the ordinary ingest; Postgres vacuumed and analysed before both",),
    )


HISTORY_KINDS = (
    "facility and month",
    "one week, all facilities",
    "season, all facilities",
    "one run",
    "energy overlap and month",
    "cone and year",
    "rare attribute",
    "level alone",
    "everything",
)


async def _look_up_once(
    settings: CatalogueSettings,
    facilities: Sequence[GeneratedFacility],
    connection: "psycopg.Connection[tuple[Any, ...]]",
    questions: int,
    kind: str,
) -> Sample:
    measuring = _Measuring(Database(settings), facilities, connection, questions)
    try:
        await measuring.look_up(kind, "warm-up")
        return await measuring.look_up(kind, "history")
    finally:
        await measuring.close()


async def _ingest(settings: CatalogueSettings, batches: Sequence[Batch]) -> None:
    database = Database(settings)
    workshop = Workshop(settings)
    ingest = Ingest(database, VocabularyStore(database), workshop)
    try:
        for batch in batches:
            report = await ingest.load(_pieces(batch.path), allowed=None)
            if report.changed != batch.n_lines:
                raise BenchmarkError(f"{batch.path.name}: {report.changed} of {batch.n_lines} files were changed")
    finally:
        workshop.close()
        await database.close()


async def _pieces(path: Path) -> AsyncIterator[bytes]:
    with path.open("rb") as lines:  # nobody else is served here
        while piece := lines.read(1 << 18):
            yield piece


async def _register(database: Database, facilities: Sequence[GeneratedFacility]) -> Vocabulary:
    store = VocabularyStore(database)
    for generated in facilities:
        await store.put_facility(generated.facility())
        for storage in make_storages(generated):
            await store.put_storage(storage)
    try:
        return await store.get()
    finally:
        await database.close()


async def _timed(look_up: Awaitable[T]) -> tuple[float, T]:
    began = time.perf_counter()
    found = await look_up
    return time.perf_counter() - began, found


class _Measuring:
    def __init__(
        self,
        database: Database,
        facilities: Sequence[GeneratedFacility],
        connection: "psycopg.Connection[tuple[Any, ...]]",
        questions: int,
    ) -> None:
        self._database = database
        self._catalogue = Catalogue(database, VocabularyStore(database))
        self._facilities = facilities
        self._connection = connection
        self._questions = questions

    async def fetch_ahead(self) -> Sample:
        """Return how long it takes to fetch the sums that look-ups use, and how much memory they take."""
        process = psutil.Process()
        before = process.memory_info().rss
        seconds, _ = await _timed(self._catalogue.warm_up())
        return {"time": (seconds, "s"), "memory": ((process.memory_info().rss - before) / 1e6, "MB")}

    async def close(self) -> None:
        """Close the connections."""
        await self._database.close()

    async def look_up(self, kind: str, seed: str) -> Sample:
        """Return percentiles of one kind of question."""
        revisions = await self._catalogue.revisions()
        times: dict[str, list[float]] = {name: [] for name in ("all", "summary", "page", "facets")}
        counts, estimates = [], 0
        for asked in await self._ask(kind, seed):
            touched = {name: revisions[name] for name in asked.touched or revisions}
            summary_s, summary = await _timed(self._catalogue.summary(asked, touched, exact=False))
            page_s, _ = await _timed(self._page(asked, touched))
            facets_s, _ = await _timed(self._catalogue.facets(asked, revisions, FACETS, limit=1000, exact=False))
            spent = (summary_s + page_s + facets_s, summary_s, page_s, facets_s)
            for name, seconds in zip(times, spent, strict=True):
                times[name].append(seconds)
            counts.append(summary.count)
            estimates += summary.is_estimate
        return {
            "p50": (1e3 * percentile(times["all"], 0.5), "ms"),
            "p95": (1e3 * percentile(times["all"], 0.95), "ms"),
            **{f"{name} p50": (1e3 * percentile(times[name], 0.5), "ms") for name in ("summary", "page", "facets")},
            "files": (sorted(counts)[len(counts) // 2], ""),
            "estimates": (100 * estimates / len(counts), "%"),
        }

    async def against_scan(self, kind: str, seed: str) -> Sample:
        """Return the times of a count from the roll-ups, of its facets, and of a count that looks at every file."""
        revisions = await self._catalogue.revisions()
        ours, facets, scans = [], [], []
        self._connection.execute("set enable_indexscan = off")
        self._connection.execute("set enable_indexonlyscan = off")
        self._connection.execute("set enable_bitmapscan = off")
        for at, asked in enumerate(await self._ask(kind, seed)):
            touched = {name: revisions[name] for name in asked.touched or revisions}
            seconds, summary = await _timed(self._catalogue.summary(asked, touched))
            ours.append(seconds)
            facets.append((await _timed(self._catalogue.facets(asked, revisions, [FacetField.LEVEL], limit=9)))[0])
            if at < _SCANS:
                began = time.perf_counter()
                count = self._scan(asked)
                scans.append(time.perf_counter() - began)
                if count != summary.count:
                    raise BenchmarkError(f"{asked.canonical}: counted {summary.count}, a scan finds {count}")
        self._connection.execute("reset all")
        ours_s, scan_s = percentile(ours, 0.5), percentile(scans, 0.5)
        return {
            "ours": (1e3 * ours_s, "ms"),
            "one facet": (1e3 * percentile(facets, 0.5), "ms"),
            "other way": (1e3 * scan_s, "ms"),
            "ratio": (scan_s / ours_s, ""),
        }

    def _scan(self, asked: SearchQuery) -> int:
        conditions, values = ["true"], dict[str, Any]()
        if asked.facility:
            conditions.append("facility_id = (select id from facility where name = any(%(facility)s))")
            values["facility"] = list(asked.facility)
        if asked.time is not None:
            conditions.append("time_begin < %(end)s and time_over > %(begin)s")
            values |= {"begin": asked.time.begin, "end": asked.time.end}
        statement = f"select count(*), sum(size_bytes) from file where {' and '.join(conditions)}"
        row = self._connection.execute(statement, values).fetchone()
        return 0 if row is None else int(row[0])

    async def against_hand(self, seed: str) -> Sample:
        """Return the times of our first page, and of the same rows by SQL that was written for this question alone."""
        revisions = await self._catalogue.revisions()
        ours, hand = [], []
        columns = ", ".join(PAGE_COLUMNS)
        statement = f"""
            select {columns} from file where facility_id = %s and time_begin < %s and time_begin > %s and time_over > %s
            order by time_begin, id limit {PAGE_FILES + 1}
        """
        connection = await psycopg.AsyncConnection.connect(self._connection.info.dsn, autocommit=True)
        async with connection, connection.cursor(binary=True) as cursor:
            for asked in await self._ask("facility and month", seed):
                touched = {name: revisions[name] for name in asked.touched}
                seconds, _ = await _timed(self._page(asked, touched))
                ours.append(seconds)
                number = (await self._catalogue.vocabulary.get()).facility.ids[asked.facility[0]][0]
                time_ = asked.time
                if time_ is None or time_.begin is None:
                    raise BenchmarkError("a month has a begin")
                began = time.perf_counter()
                values = (number, time_.end, time_.begin - _LOOK_BACK, time_.begin)
                await cursor.execute(statement, values)
                await cursor.fetchall()
                hand.append(time.perf_counter() - began)
        ours_s, hand_s = percentile(ours, 0.5), percentile(hand, 0.5)
        return {"ours": (1e3 * ours_s, "ms"), "other way": (1e3 * hand_s, "ms"), "ratio": (ours_s / hand_s, "")}

    async def _page(self, asked: SearchQuery, revisions: Revisions) -> Any:
        return await self._catalogue.page(asked, revisions, Paging(n=PAGE_FILES))

    async def _ask(self, kind: str, seed: str) -> list[SearchQuery]:
        rng = random.Random(seed)
        sizes = [facility.n_files for facility in self._facilities]
        chosen = [rng.choices(self._facilities, sizes)[0] for _ in range(self._questions)]
        return [await to_search_query(KINDS[kind].make_filter(rng, facility)) for facility in chosen]


_SCANS = 3
"""Counts that scan; they take seconds."""

_LOOK_BACK = timedelta(hours=6)


async def to_search_query(given: Filter) -> SearchQuery:
    """Return the question of a filter as GraphQL would read it."""
    result = await _reader().execute("query ($f: SearchFilter!) { ask(filter: $f) }", variable_values={"f": given})
    if result.errors:
        raise BenchmarkError(str(result.errors))
    return SearchQuery.from_canonical(result.data["ask"]) if result.data else SearchQuery()


@lru_cache(maxsize=1)
def _reader() -> strawberry.Schema:
    @strawberry.type
    class Query:
        @strawberry.field
        def ask(self, filter: SearchFilter) -> str:
            return to_query(filter).canonical

    return strawberry.Schema(query=Query, config=CONFIG)
