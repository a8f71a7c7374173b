"""How fast questions are answered: count, bytes, a page of 50 files and six facets, over GraphQL, uncached and cached.

Uncached: every question is asked for the first time, so it is parsed, registered, looked up in the database and kept.
Cached: the same bodies again. Of some kinds there are few questions: before each uncached one Redis is emptied.
"""

from collections.abc import Iterator, Sequence
from itertools import cycle, islice
from typing import Any

import psycopg

from benchmarks.catalogue import GeneratedFacility, make_facilities, written_batches
from benchmarks.ingest import BATCH_LINES, register, send_lanes, share_out
from benchmarks.load import Load, ask
from benchmarks.measuring import Sample, Table, gather, percentile
from benchmarks.questions import KINDS, MIXTURE, iter_bodies, take_bodies
from benchmarks.service import BenchmarkError, Servers, Service, peak_rss_mb, running_service

CACHED_BODIES = 50
"""Different questions that are asked again and again when cached answers are measured."""

CONNECTIONS = (1, 16)
"""Connections of the measurements of throughput."""

WARM_UP = 20
"""Questions asked before anything is measured."""


def run(servers: Servers, *, n_files: int, repeats: int, limit_s: float) -> list[Table]:
    """Measure searches in a catalogue of `n_files` generated records; each load takes at most `limit_s` seconds."""
    facilities = make_facilities(n_files)
    with running_service(servers, f"search_{n_files}", keep=True) as service:
        fill(servers, service, facilities)
        measuring = _Measuring(servers, service, facilities, limit_s)
        measuring.warm_up()
        latencies: dict[str, list[Sample]] = {kind: [] for kind in KINDS}
        rates: dict[str, list[Sample]] = {"facility and month": [], "mixture": []}
        for repeat in range(repeats):
            for kind, samples in latencies.items():
                samples.append(measuring.latencies(kind, seed=f"latencies {repeat}"))
            rates["facility and month"].append(measuring.rates(["facility and month"], seed=f"rates {repeat}"))
            rates["mixture"].append(measuring.rates(MIXTURE, seed=f"rates {repeat}"))
        web_mb = peak_rss_mb(service.web)
    return [
        Table(
            title=f"Search among {n_files:,} files: latency of one connection",
            rows=tuple(gather(kind, samples) for kind, samples in latencies.items()),
            notes=(
                "processor: time that the web process used for one answer; the database's is not in it",
                "questions: how many were asked uncached in one repeat; of fewer than 100, p99 is the slowest",
                f"web: at most {web_mb:.0f} MB resident after all questions of both tables",
            ),
        ),
        Table(
            title=f"Search among {n_files:,} files: answers per second",
            rows=tuple(gather(label, samples) for label, samples in rates.items()),
            notes=(
                "mixture: the kinds of the table above in turn, without those of which there are few questions; "
                f"cached: {CACHED_BODIES} bodies",
                "client: largest share of one core that the asking client needed; near 100 % it was the limit",
            ),
        ),
    ]


def fill(servers: Servers, service: Service, facilities: Sequence[GeneratedFacility]) -> None:
    """Load the catalogue unless an earlier run did, and let Postgres vacuum and analyse as it does by itself later."""
    n_files = sum(facility.n_files for facility in facilities)
    name = service.settings.data_dir.name
    with servers.connect(name) as connection:
        if count_files(connection) == n_files:
            connection.execute("truncate query cascade")  # the same questions are asked in every run
            return
        register(service, facilities)
        with written_batches(facilities, servers.data_dir / "lines", batch_lines=BATCH_LINES) as batches:
            send_lanes(service, share_out(batches))
        if count_files(connection) != n_files:
            raise BenchmarkError(f"database {name}: there are not {n_files} files; remove the folder of --data-dir")
        connection.execute("vacuum analyze")


def count_files(connection: "psycopg.Connection[tuple[Any, ...]]") -> int:
    """Return how many files are in the catalogue."""
    row = connection.execute("select count(*) from file").fetchone()
    return 0 if row is None else int(row[0])


def _latencies(state: str, load: Load) -> Sample:
    return {
        f"{state} p50": (1e3 * percentile(load.latencies_s, 0.5), "ms"),
        f"{state} p99": (1e3 * percentile(load.latencies_s, 0.99), "ms"),
        f"{state}, processor": (1e3 * load.service_cpu_s / len(load.latencies_s), "ms"),
    }


class _Measuring:
    """Asks one service."""

    def __init__(
        self, servers: Servers, service: Service, facilities: Sequence[GeneratedFacility], limit_s: float
    ) -> None:
        self._servers = servers
        self._service = service
        self._facilities = facilities
        self._limit_s = limit_s

    def warm_up(self) -> None:
        """Let connections be opened and code be loaded."""
        self._ask(islice(iter_bodies(list(KINDS), self._facilities, seed="warm-up"), WARM_UP))

    def latencies(self, kind: str, *, seed: str) -> Sample:
        """Return percentiles of one kind of question."""
        bodies: Iterator[bytes] = iter_bodies([kind], self._facilities, seed=f"{kind} {seed}")
        uncached = self._ask(self._forgetting(bodies) if KINDS[kind].is_few else bodies, limit=200)
        again = take_bodies(kind, self._facilities, seed=f"{kind} {seed}", count=CACHED_BODIES)
        cached = self._ask_again(again, limit=1000)
        return {
            **_latencies("uncached", uncached),
            **_latencies("cached", cached),
            "questions": (len(uncached.latencies_s), ""),
        }

    def rates(self, kinds: Sequence[str], *, seed: str) -> Sample:
        """Return answers per second for questions of the kinds in turn."""
        found: dict[str, tuple[float, str]] = {}
        busiest = 0.0
        again = list(islice(iter_bodies(kinds, self._facilities, seed=f"again {kinds} {seed}"), CACHED_BODIES))
        for connections in CONNECTIONS:
            new = iter_bodies(kinds, self._facilities, seed=f"new {kinds} {seed} {connections}")
            uncached = self._ask(new, connections=connections)
            cached = self._ask_again(again, connections=connections)
            found[f"uncached, {connections} at a time"] = (uncached.per_second, "")
            found[f"cached, {connections} at a time"] = (cached.per_second, "")
            busiest = max(busiest, *(load.client_cpu_s / load.duration_s for load in (uncached, cached)))
        return found | {"client": (100 * busiest, "% of a core")}

    def _ask_again(self, bodies: Sequence[bytes], *, connections: int = 1, limit: int = 1_000_000) -> Load:
        """Ask `bodies` once, as many as there is time for, and then measure how these are answered again and again."""
        n_answered = len(self._ask(iter(bodies)).latencies_s)
        return self._ask(cycle(bodies[:n_answered]), connections=connections, limit=limit)

    def _ask(self, bodies: Iterator[bytes], *, connections: int = 1, limit: int = 1_000_000) -> Load:
        url, web = self._service.url, self._service.web
        return ask(url, bodies, connections=connections, limit=limit, limit_s=self._limit_s, service=web)

    def _forgetting(self, bodies: Iterator[bytes]) -> Iterator[bytes]:
        """Empty Redis before each question; the clock starts after it."""
        for body in bodies:
            self._servers.flush_redis()
            yield body
