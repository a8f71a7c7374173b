"""What a question costs that nobody asked before: a page of 50 files with 12 fields, beside the SQL that it takes.

The floor is the same statements on one connection, their rows fetched and not looked at. Above it are what Python adds:
HTTP, GraphQL, the cache, JSON. The same question beside a field that has no plan is executed by graphql-core and
Strawberry. The peer is PostGraphile on the same table and indexes.
"""

import asyncio
import random
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import islice
from typing import Any

import httpx
import msgspec
import psycopg
from psycopg import sql

from benchmarks import postgraphile
from benchmarks.catalogue import GeneratedFacility, make_facilities
from benchmarks.load import Load, ask
from benchmarks.lookups import to_search_query
from benchmarks.measuring import Sample, Table, gather, percentile
from benchmarks.postgraphile import LOOK_BACK, Postgraphile, running_postgraphile
from benchmarks.questions import KINDS, PAGE_FILES, Filter
from benchmarks.search import fill
from benchmarks.service import BenchmarkError, Servers, Service, running_service
from metadata_db.catalogue import REGISTER, Catalogue, registration
from metadata_db.database import Database
from metadata_db.search import Paging
from metadata_db.settings import CatalogueSettings
from metadata_db.vocabulary import VocabularyStore

ASKED = ("facility and month", "one week, all facilities", "one run")
"""Kinds of questions, each of which has one way to its files."""

FIELDS = "facility path sizeBytes kind level timeBegin timeEnd obsId run object energyMinEv quality"
"""What is selected of a file."""

READ = ("facility", "path", "size_bytes", "kind", "level", "time_begin", "time_end", "obs_id", "run", "object",
        "energy_min_ev", "quality")  # fmt: skip
"""The same, as the catalogue calls it."""

COUNT = "totalCount { value }"

NO_PLAN = "__schema { __typename }"
"""Beside it a question is executed by graphql-core and Strawberry."""

QUESTIONS = 200
"""Questions of one measurement of latency, if there is time for so many."""

WARM_UP = 50
"""Questions before anything is measured."""

COMPARED = 5
"""Questions of each kind of which both answers are compared before the peer is measured."""

CONNECTIONS = 16
"""Connections of the measurements of throughput."""


def document(*, count: bool = False, beside: str = "") -> str:
    """Return the question."""
    return (
        "query Page($filter: SearchFilter!) { search(filter: $filter, prepare: NEVER) { "
        f"{COUNT if count else ''} files(first: {PAGE_FILES}) {{ nodes {{ {FIELDS} }} "
        f"pageInfo {{ hasNextPage endCursor }} }} }} {beside} }}"
    )


def filters(kind: str, facilities: Sequence[GeneratedFacility], *, seed: str) -> Iterator[Filter]:
    """Yield filters of a kind without end, none twice; another `seed` gives others."""
    rng = random.Random(f"misses {kind} {seed}")
    sizes = [facility.n_files for facility in facilities]
    while True:
        yield KINDS[kind].make_filter(rng, rng.choices(facilities, sizes)[0])


def run(servers: Servers, *, n_files: int, repeats: int, limit_s: float) -> Iterator[Table]:
    """Measure misses in a catalogue of `n_files` generated records; each load takes at most `limit_s` seconds."""
    facilities = make_facilities(n_files)
    missing = postgraphile.describe_missing()
    with running_service(servers, f"search_{n_files}", keep=True) as service:
        fill(servers, service, facilities)
        measuring = _Measuring(servers=servers, service=service, facilities=facilities, limit_s=limit_s)
        measuring.warm_up()
        ours: dict[str, list[Sample]] = {}
        for repeat in range(repeats):
            for kind in ASKED:
                for count in (False, True):
                    label = f"{kind}{', counted' if count else ''}"
                    ours.setdefault(label, []).append(measuring.beside_sql(kind, seed=f"{repeat}", count=count))
        yield Table(
            title=f"Misses among {n_files:,} files beside their SQL",
            rows=tuple(gather(label, samples) for label, samples in ours.items()),
            notes=(
                "SQL: the statements of as many questions on one connection of the measuring process, rows fetched and "
                "dropped: the page, the count if there is one, and the registration, which is on the disk then; "
                "page: the first alone",
                "miss: from the first byte of a question nobody asked before to the last one of its answer",
                "ordinary: the same, executed by graphql-core and Strawberry",
            ),
        )
        if missing is None:
            try:
                postgraphile.install(servers)
            except BenchmarkError as error:
                missing = str(error)
        if missing is not None:
            yield Table(title="Misses beside PostGraphile", rows=(), notes=(f"not measured: {missing}",))
            return
        with running_postgraphile(servers, f"search_{n_files}") as peer:
            measuring.compare(peer)
            yield measuring.beside_peer(peer, repeats=repeats)


class _Recording(Database):
    """Notes the statements that look-ups make."""

    def __init__(self, settings: CatalogueSettings) -> None:
        super().__init__(settings)
        self._noted: list[tuple[str, Mapping[str, Any]]] = []

    async def read(
        self, statement: str, values: Mapping[str, Any], *, is_stable: bool = False
    ) -> list[tuple[Any, ...]]:
        self._noted.append((statement, values))
        return await super().read(statement, values, is_stable=is_stable)

    def take(self) -> list[tuple[str, Mapping[str, Any]]]:
        """Return what was noted, and forget it."""
        noted, self._noted = self._noted, []
        return noted


@dataclass(kw_only=True)
class _Measuring:
    """Asks one service, its database, and a peer."""

    servers: Servers
    service: Service
    facilities: Sequence[GeneratedFacility]
    limit_s: float

    def warm_up(self) -> None:
        """Let connections be opened and code be loaded."""
        for kind in ASKED:
            for text in (document(), document(count=True), document(beside=NO_PLAN)):
                self._ask(kind, text, seed=f"warm-up {len(text)}", limit=WARM_UP)

    def beside_sql(self, kind: str, *, seed: str, count: bool) -> Sample:
        """Return the latencies of a kind of question, and those of its SQL alone."""
        everything, page = asyncio.run(self._time_sql(kind, seed=f"sql {seed} {count}", count=count))
        miss = self._p50(self._ask(kind, document(count=count), seed=f"miss {seed} {count}", limit=QUESTIONS))
        ordinary = document(count=count, beside=NO_PLAN)
        slow = self._p50(self._ask(kind, ordinary, seed=f"ordinary {seed} {count}", limit=QUESTIONS))
        return {
            "SQL p50": (1e3 * everything, "ms"),
            "page p50": (1e3 * page, "ms"),
            "miss p50": (1e3 * miss, "ms"),
            "ratio to SQL": (miss / everything, ""),
            "ratio to page": (miss / page, ""),
            "ordinary p50": (1e3 * slow, "ms"),
            "ordinary to miss": (slow / miss, ""),
        }

    def compare(self, peer: Postgraphile) -> None:
        """Ask both the same.

        Raises
        ------
        BenchmarkError
            They do not find the same files in the same order.
        """
        numbers = self._numbers()
        for kind in ASKED[:2]:
            for given in islice(filters(kind, self.facilities, seed="compared"), COMPARED):
                body = msgspec.json.encode({"query": document(count=True), "variables": {"filter": given}})
                found = _post(self.service.url, body)["search"]
                theirs = _post(peer.url, peer.body(given, numbers, count=True))["allFiles"]
                begin = datetime.fromisoformat(given["time"]["begin"]) - LOOK_BACK
                ours = [
                    (node["facility"], node["path"])
                    for node in found["files"]["nodes"]
                    if datetime.fromisoformat(node["timeBegin"]) > begin
                ]
                same = [(node["facility"]["name"], node["path"]) for node in theirs["nodes"]]
                if ours != same[: len(ours)] or found["totalCount"]["value"] < theirs["totalCount"]:
                    raise BenchmarkError(f"{given}: PostGraphile finds {theirs['totalCount']} files, others than ours")

    def beside_peer(self, peer: Postgraphile, *, repeats: int) -> Table:
        """Return how many misses a second ours and the peer answer."""
        samples: dict[str, list[Sample]] = {}
        numbers = self._numbers()
        for repeat in range(repeats):
            for kind in ASKED[:2]:
                for count in (False, True):
                    label = f"{kind}{', counted' if count else ''}"
                    seed = f"rate {repeat} {count}"
                    ours = self._ask(kind, document(count=count), seed=seed, connections=CONNECTIONS)
                    alone = self._ask(kind, document(count=count), seed=f"{seed} alone", limit=QUESTIONS)
                    asked = [
                        peer.body(given, numbers, count=count)
                        for given in islice(filters(kind, self.facilities, seed=f"{seed} peer"), 20_000)
                    ]
                    theirs = peer.ask(iter(asked), connections=CONNECTIONS, limit_s=self.limit_s)
                    their_alone = peer.ask(iter(asked[::-1]), connections=1, limit_s=self.limit_s, limit=QUESTIONS)
                    samples.setdefault(label, []).append(
                        {
                            "miss p50": (1e3 * self._p50(alone), "ms"),
                            "peer p50": (1e3 * self._p50(their_alone), "ms"),
                            f"misses per second, {CONNECTIONS} at a time": (ours.per_second, ""),
                            "peer": (theirs.per_second, ""),
                            "ratio": (ours.per_second / theirs.per_second, ""),
                        }
                    )
        return Table(
            title="Misses beside PostGraphile, on the same table and indexes",
            rows=tuple(gather(label, rows) for label, rows in samples.items()),
            notes=(
                f"peer: {peer.versions()}; one process, as ours is one; facilities are asked for by their numbers and "
                "their names are joined",
                "the peer leaves out files that are longer than six hours: it has no way to them",
                "ours are registered under their ids, durably; the peer registers nothing",
            ),
        )

    def _ask(self, kind: str, text: str, *, seed: str, connections: int = 1, limit: int = 1_000_000) -> Load:
        bodies = (
            msgspec.json.encode({"query": text, "variables": {"filter": given}})
            for given in filters(kind, self.facilities, seed=seed)
        )
        return ask(
            self.service.url,
            bodies,
            connections=connections,
            limit=limit,
            limit_s=self.limit_s,
            service=self.service.web,
        )

    def _p50(self, load: Load) -> float:
        return percentile(load.latencies_s, 0.5)

    def _numbers(self) -> dict[str, int]:
        with self.servers.connect(self.service.settings.data_dir.name) as connection:
            return dict(connection.execute("select name, id from facility").fetchall())

    async def _time_sql(self, kind: str, *, seed: str, count: bool) -> tuple[float, float]:
        """Return the p50 of all statements of a question, and of that of its page, in seconds."""
        settings = self.service.settings.catalogue
        database = _Recording(settings)
        catalogue = Catalogue(database, VocabularyStore(database))
        whole, pages = [], []
        connection = await psycopg.AsyncConnection.connect(
            settings.libpq_url, autocommit=True, options=_OPTIONS, prepare_threshold=1
        )
        try:
            for given in islice(filters(kind, self.facilities, seed=seed), QUESTIONS):
                asked = await to_search_query(given)
                revisions = (await catalogue.moment()).of(asked.touched).revisions
                database.take()
                await catalogue.columns(asked, revisions, Paging(n=PAGE_FILES), READ)
                page = database.take()
                if count:
                    await catalogue.summary(asked, revisions, exact=False)
                times = [await _time(connection, *noted) for noted in [*page, *database.take()]]
                whole.append(sum(times) + await _time(connection, REGISTER, registration(asked)))
                pages.append(sum(times[: len(page)]))
        finally:
            await connection.close()
            await database.close()
        return percentile(whole, 0.5), percentile(pages, 0.5)


_OPTIONS = (
    "-c timezone=UTC -c jit=off -c plan_cache_mode=force_generic_plan -c enable_seqscan=off -c enable_bitmapscan=off"
)
"""Those of the connections over which the service reads pages: plans are kept."""


def _post(url: str, body: bytes) -> Any:
    answer = httpx.post(f"{url}/graphql", content=body, headers={"Content-Type": "application/json"}, timeout=60)
    if answer.status_code != httpx.codes.OK:
        raise BenchmarkError(f"{url}: {answer.status_code}: {answer.text[:2000]}")
    return answer.json()["data"]


async def _time(connection: "psycopg.AsyncConnection[Any]", statement: str, values: Mapping[str, Any]) -> float:
    async with connection.cursor(binary=True) as cursor:
        began = time.perf_counter()
        await cursor.execute(sql.SQL(statement), values)
        await cursor.fetchall()
        return time.perf_counter() - began
