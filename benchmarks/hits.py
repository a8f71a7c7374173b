"""How fast answers are told again: beside the least that Python and the server take, and beside executing them.

One question, whose answer is a page of 50 files with 12 fields, some 15 kB. All web processes have the same server
with the same settings, one after the other in each repeat, and the same client asks them.
"""

import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import httpx
import msgspec
import psutil  # type: ignore[import-untyped]

from aggregator.commands.serve import tied_command
from aggregator.commands.settings import environ_of
from aggregator.commands.web import LISTENING
from aggregator.settings import Settings
from benchmarks.catalogue import make_facilities, make_storages, written_batches
from benchmarks.ingest import BATCH_LINES, register, send_lanes, share_out
from benchmarks.measuring import Sample, Table, gather, percentile
from benchmarks.repeating import repeat
from benchmarks.service import BenchmarkError, Servers, Service, peak_rss_mb, running_service

N_FILES = 20_000
"""Files of the catalogue: what is told again does not depend on how long it took to find."""

CONNECTIONS = 16

DOCUMENT = """query Page($filter: SearchFilter!) {
  search(filter: $filter, prepare: NEVER) {
    files(first: 50) {
      nodes { facility path sizeBytes kind level timeBegin timeEnd obsId run object energyMinEv quality }
    }
  }
}"""
BODY = msgspec.json.encode({"query": DOCUMENT, "variables": {"filter": {}}})

BARE, OUR_SERVER = "pure ASGI, the same bytes", "the same, with the server's limits on heads"
EXECUTED = "Strawberry's execution, documents and look-ups kept"
MEMORY, REDIS = "hit in memory", "hit in Redis"
RIVALS = {
    BARE: "constant",
    OUR_SERVER: "guarded",
    "pure ASGI, Redis by redis-py": "redis-py",
    "pure ASGI, Redis by our client": "resp",
    EXECUTED: "strawberry",
}

AT_ONCE = 200
"""Equal searches at once on an empty cache."""

NEW_LINES = 5_000
"""Lines of one batch of new files."""

PROCESSES = 4
"""Web processes that share them."""


def run(servers: Servers, *, repeats: int, limit_s: float, requests: int) -> list[Table]:
    """Measure hits; `requests` are asked of one process to see how its memory grows."""
    with running_service(servers, "hits", keep=True) as service:
        _fill(servers, service)
        answer, file = _keep_answer(servers, service)
    samples: dict[str, list[Sample]] = {}
    ratios: list[Sample] = []
    for _ in range(repeats):
        rates = {}
        for label, which in RIVALS.items():
            with _running_rival(servers.settings_of("hits"), which, file) as (url, process):
                rates[label] = _measure(url, [process], limit_s)
        for label, memory_bytes in ((MEMORY, 64_000_000), (REDIS, 0)):
            with running_service(servers, "hits", keep=True, answer_memory_bytes=memory_bytes) as service:
                rates[label] = _measure(service.url, [service.web], limit_s)
        for label, sample in rates.items():
            samples.setdefault(label, []).append(sample)
        ratios.append(_ratios(rates))
    tables = [
        Table(
            title=f"An answer of {len(answer) / 1e3:.1f} kB told again, {CONNECTIONS} connections, one web process",
            rows=tuple(gather(label, repeated) for label, repeated in samples.items()),
            notes=(
                "client: share of one core that the asking client needed; service: that of the web process",
                "all on the same cores: the client takes part of what the web process could have",
            ),
        ),
        Table(title="Ratios of answers per second, each of one repeat", rows=(gather("ratio", ratios),)),
        _measure_cold(servers, repeats=repeats),
        _measure_workers(servers, repeats=repeats, limit_s=limit_s),
        _measure_under_ingest(servers, repeats=repeats, limit_s=limit_s),
        _measure_memory(servers, requests=requests),
    ]
    servers.drop("hits")
    return tables


def _fill(servers: Servers, service: Service) -> None:
    facilities = make_facilities(N_FILES)
    register(service, facilities)
    with written_batches(facilities, servers.data_dir / "lines", batch_lines=BATCH_LINES) as batches:
        send_lanes(service, share_out(batches))
    with servers.connect("hits") as connection:
        connection.execute("vacuum analyze")


def _keep_answer(servers: Servers, service: Service) -> tuple[bytes, Path]:
    """Return the body of a hit, and a file with its headers and body for the rivals."""
    for _ in range(2):
        answer = httpx.post(f"{service.url}/graphql", content=BODY, headers={"content-type": "application/json"})
    headers = [(name, value) for name, value in answer.headers.items() if name != "date"]
    file = servers.data_dir / "answer.json"
    file.write_bytes(msgspec.json.encode({"headers": headers, "body": answer.text}))
    return answer.content, file


@contextmanager
def _running_rival(settings: Settings, which: str, file: Path) -> Iterator[tuple[str, psutil.Process]]:
    settings_file = file.with_name("settings.json")
    settings_file.write_bytes(msgspec.json.encode(environ_of(settings)))
    command = tied_command([sys.executable, "-m", "benchmarks.rivals", which, str(file), str(settings_file)])
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            line = process.stdout.readline() if process.stdout is not None else ""
            if not line.startswith(LISTENING):
                raise BenchmarkError(f"{which} did not start")
            yield line.removeprefix(LISTENING).strip(), psutil.Process(process.pid)
        finally:
            process.terminate()


def _measure(url: str, processes: list[psutil.Process], limit_s: float) -> Sample:
    repeat(url, [BODY], connections=CONNECTIONS, limit=1_000, limit_s=limit_s, service=processes)
    load = repeat(url, [BODY], connections=CONNECTIONS, limit=10**9, limit_s=limit_s, service=processes)
    return {
        "answers per second": (load.per_second, ""),
        "p50": (1e3 * percentile(load.latencies_s, 0.5), "ms"),
        "p99": (1e3 * percentile(load.latencies_s, 0.99), "ms"),
        "client": (100 * load.client_cpu_s / load.duration_s, "% of a core"),
        "service": (100 * load.service_cpu_s / load.duration_s, "% of a core"),
        "service, each": (1e6 * load.service_cpu_s / len(load.latencies_s), "µs"),
    }


def _ratios(rates: dict[str, Sample]) -> Sample:
    def of(label: str, column: str = "answers per second") -> float:
        return rates[label][column][0]

    return {
        f"{MEMORY} to bare": (of(MEMORY) / of(BARE), ""),
        f"p99, {MEMORY} to bare": (of(MEMORY, "p99") / of(BARE, "p99"), ""),
        f"{REDIS} to bare": (of(REDIS) / of(BARE), ""),
        f"{MEMORY} to execution": (of(MEMORY) / of(EXECUTED), ""),
        f"{REDIS} to execution": (of(REDIS) / of(EXECUTED), ""),
    }


# --- many at once, many processes, many requests ----------------------------------------------------------------------


def _measure_cold(servers: Servers, *, repeats: int) -> Table:
    """Ask the same of several processes at once, with nothing kept."""
    samples: list[Sample] = []
    options = ["--workers", str(PROCESSES)]
    for number in range(repeats):
        with running_service(servers, "hits", keep=True, options=options) as service:
            samples.append(_ask_at_once(servers, service, f"cold {number} {time.time()}"))
    return Table(
        title=f"{AT_ONCE} equal searches at once, nothing kept, {PROCESSES} web processes",
        rows=(gather("searches", samples),),
        notes=(
            "over a connection each, by a client that takes longer than the service; a test sees to it that they are "
            "looked up once",
        ),
    )


def _ask_at_once(servers: Servers, service: Service, mark: str) -> Sample:
    body = {"query": DOCUMENT, "variables": {"filter": {"path": [f"*{mark}*"]}}}
    with ThreadPoolExecutor(AT_ONCE) as pool:

        def ask(_number: int) -> float:
            begin = time.perf_counter()
            answer = httpx.post(f"{service.url}/graphql", json=body, timeout=60)
            if answer.status_code != 200 or "errors" in answer.json():
                raise BenchmarkError(f"a search was answered with {answer.text[:500]}")
            return time.perf_counter() - begin

        latencies = list(pool.map(ask, range(AT_ONCE)))
    return {"slowest": (1e3 * max(latencies), "ms"), "p50": (1e3 * percentile(latencies, 0.5), "ms")}


def _measure_under_ingest(servers: Servers, *, repeats: int, limit_s: float) -> Table:
    """Ask about past seasons while files of a new one keep coming."""
    alone, meanwhile = "alone", "while files of another season come"
    samples: dict[str, list[Sample]] = {alone: [], meanwhile: []}
    bodies = [_about_season(year) for year in range(2010, 2010 + CONNECTIONS)]
    for number in range(repeats):
        with running_service(servers, "hits", keep=True) as service:
            samples[alone].append(_measure_seasons(service, bodies, limit_s))
            is_over = threading.Event()
            with ThreadPoolExecutor(1) as pool:
                sending = pool.submit(_send_new_season, service, number, is_over)
                measured = _measure_seasons(service, bodies, limit_s)
                is_over.set()
                ingested, duration_s = sending.result()
            samples[meanwhile].append({**measured, "records per second": (ingested / duration_s, "")})
    return Table(
        title=f"Questions about {CONNECTIONS} past seasons, one connection each",
        rows=tuple(gather(label, repeated) for label, repeated in samples.items()),
        notes=("hits: share of the answers that were told again, of one in 64 that were looked at",),
    )


def _about_season(year: int) -> bytes:
    interval = {"begin": f"{year}-09-01", "end": f"{year + 1}-06-01"}
    return msgspec.json.encode({"query": DOCUMENT, "variables": {"filter": {"time": interval}}})


def _measure_seasons(service: Service, bodies: list[bytes], limit_s: float) -> dict[str, tuple[float, str]]:
    url, processes = service.url, [service.web]
    repeat(url, bodies, connections=CONNECTIONS, limit=500, limit_s=limit_s, service=processes)
    load = repeat(url, bodies, connections=CONNECTIONS, limit=10**9, limit_s=limit_s, service=processes)
    return {
        "answers per second": (load.per_second, ""),
        "p50": (1e3 * percentile(load.latencies_s, 0.5), "ms"),
        "p99": (1e3 * percentile(load.latencies_s, 0.99), "ms"),
        "hits": (100 * load.hits, "%"),
    }


def _send_new_season(service: Service, number: int, is_over: threading.Event) -> tuple[int, float]:
    """Send batches of new files of 2031 until it is over; return how many were taken, and in which time."""
    facility = make_facilities(N_FILES)[0].facility()
    storage = make_storages(make_facilities(N_FILES)[0])[0]
    sent, begin = 0, time.perf_counter()
    with httpx.Client(
        base_url=service.url, timeout=120, headers={"authorization": f"Bearer {service.token}"}
    ) as client:
        while not is_over.is_set():
            lines = [
                msgspec.json.encode(
                    {
                        "facility": facility.name,
                        "storage": storage.name,
                        "path": f"2031/{number}/{sent + at}.fits",
                        "size_bytes": 1000 + at,
                        "time_begin": f"2031-10-{1 + at % 28:02}T20:00:00Z",
                    }
                )
                for at in range(NEW_LINES)
            ]
            answer = client.post("/api/v1/files", content=b"\n".join(lines) + b"\n")
            if answer.status_code != 200 or answer.json()["added"] != NEW_LINES:
                raise BenchmarkError(f"new files were not taken: {answer.text[:500]}")
            sent += NEW_LINES
    return sent, time.perf_counter() - begin


def _measure_workers(servers: Servers, *, repeats: int, limit_s: float) -> Table:
    samples: dict[str, list[Sample]] = {}
    for _ in range(repeats):
        for workers in (1, 2):
            options = ["--workers", str(workers)]
            with running_service(servers, "hits", keep=True, options=options) as service:
                processes = [service.web, *service.web.children(recursive=True)]
                samples.setdefault(f"{workers}", []).append(_measure(service.url, processes, limit_s))
    return Table(
        title="Hits in memory by web processes",
        rows=tuple(gather(label, repeated) for label, repeated in samples.items()),
        notes=("the client needs a core of its own: on two cores two processes cannot be twice as fast",),
    )


def _measure_memory(servers: Servers, *, requests: int) -> Table:
    """Ask for different answers again and again, more than are held, and see what the process takes."""
    bodies = [
        msgspec.json.encode({"query": DOCUMENT, "variables": {"filter": {"time": {"begin": f"20{year}-01-{day:02}"}}}})
        for year in range(10, 26)
        for day in range(1, 32)
    ]
    with running_service(servers, "hits", keep=True) as service:
        before = peak_rss_mb(service.web)
        asked = 0
        samples: Sample = {}
        while asked < requests:
            for at in range(0, len(bodies), CONNECTIONS):
                some = bodies[at : at + CONNECTIONS]
                n_asked = min(requests - asked, max(CONNECTIONS, requests // (4 * len(bodies) // CONNECTIONS)))
                repeat(service.url, some, connections=len(some), limit=n_asked, limit_s=60, service=[service.web])
                asked += n_asked
                if asked >= requests:
                    break
            if not samples:
                samples = {"before": (before, "MB"), "after a first part": (peak_rss_mb(service.web), "MB")}
        samples = {**samples, "in the end": (peak_rss_mb(service.web), "MB")}
    return Table(title=f"Memory of one web process after {requests:,} requests", rows=(gather("resident", [samples]),))
