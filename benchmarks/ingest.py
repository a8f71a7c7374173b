"""How fast files are catalogued: generated records over HTTP, into an empty catalogue and once more into the full one.

The lines are generated and written to files before the clock starts; while it runs, the client only passes bytes of
files on. "Sending" is the time until the last byte of a request is taken: the service reads, checks and copies the
lines into a loading table as fast as it takes them. "Merging" is what remains until the answer: one transaction.
"""

import http.client
import time
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import msgspec

from benchmarks.catalogue import Batch, GeneratedFacility, make_facilities, make_storages, written_batches
from benchmarks.measuring import Sample, Table, gather
from benchmarks.service import (
    BenchmarkError,
    PostgresWatch,
    Servers,
    Service,
    cpu_s,
    peak_rss_mb,
    running_service,
)
from extractors.client import Client, SendResult

BATCH_LINES = 50_000
"""Lines of one request when several extractors send at once."""

LANES = 2
"""Requests under way at once, each for another facility."""

PIECE_BYTES = 1 << 18
"""Bytes of a file that are passed on at a time."""

ANSWER_LIMIT_S = 3600.0
"""Longest wait for one answer: a request may hold a whole catalogue."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Sent:
    """What came of one request."""

    result: SendResult
    sending_s: float
    merging_s: float


def run(servers: Servers, *, n_files: int, repeats: int, batch_lines: int = BATCH_LINES) -> Table:
    """Measure the ingest of `n_files` generated records."""
    facilities = make_facilities(n_files)
    samples: dict[str, list[Sample]] = {}
    with written_batches(facilities, servers.data_dir / "lines", batch_lines=batch_lines) as batches:
        n_bytes = sum(batch.n_bytes for batch in batches)
        ways = {f"{LANES} at a time": (share_out(batches), False), "one stream": ([batches], True)}
        for _ in range(repeats):
            for way, (lanes, join) in ways.items():
                with running_service(servers, "ingest") as service:
                    register(service, facilities)
                    for state, expected in (("new", "added"), ("unchanged", "unchanged")):
                        sample = _measure(servers, service, lanes, join=join, expected=expected)
                        samples.setdefault(f"{way}, {state}", []).append(sample)
    return Table(
        title=f"Ingest of {n_files:,} records over HTTP",
        rows=tuple(gather(label, repeated) for label, repeated in samples.items()),
        notes=(
            f"{len(facilities)} facilities, {n_bytes / n_files:.0f} bytes a line, generated before the clock starts; "
            f"'{LANES} at a time': requests of {batch_lines:,} lines for different facilities; 'one stream': a single "
            "request with all lines",
            "web: largest resident memory since the start of the process, so that of 'unchanged' is never below that "
            "of 'new'; Postgres: largest sum over its processes, shared pages once, shared buffers included",
        ),
    )


def register(service: Service, facilities: Iterable[GeneratedFacility]) -> None:
    """Register the vocabulary and the storages."""
    with Client(service.url, service.token) as client:
        for generated in facilities:
            client.put_facility(generated.facility())
            for storage in make_storages(generated):
                client.put_storage(storage)


def share_out(batches: Sequence[Batch]) -> list[list[Batch]]:
    """Share the batches out to `LANES` lanes of about equal length, all of one facility to the same lane."""
    by_facility: dict[str, list[Batch]] = {}
    for batch in batches:
        by_facility.setdefault(batch.facility, []).append(batch)
    lanes: list[list[Batch]] = [[] for _ in range(LANES)]
    for own in sorted(by_facility.values(), key=lambda own: -sum(batch.n_lines for batch in own)):
        min(lanes, key=lambda lane: sum(batch.n_lines for batch in lane)).extend(own)
    return lanes


def _measure(
    servers: Servers, service: Service, lanes: Sequence[Sequence[Batch]], *, join: bool, expected: str
) -> Sample:
    n_lines = sum(batch.n_lines for lane in lanes for batch in lane)
    web_cpu_s, postgres_cpu_s = cpu_s(service.web), servers.postgres_cpu_s()
    with PostgresWatch(servers=servers) as postgres:
        begin = time.perf_counter()
        sent = send_lanes(service, lanes, join=join)
        duration_s = time.perf_counter() - begin
    counted = sum(getattr(one.result, expected) for one in sent)
    if counted != n_lines:
        raise BenchmarkError(f"{counted} of {n_lines} records were {expected}")
    sending_s, merging_s = sum(one.sending_s for one in sent), sum(one.merging_s for one in sent)
    return {
        "records per second": (n_lines / duration_s, ""),
        "web": (peak_rss_mb(service.web), "MB"),
        "Postgres": (postgres.peak_mb, "MB"),
        "merging": (100 * merging_s / (sending_s + merging_s), "% of the time"),
        "processor, web": (cpu_s(service.web) - web_cpu_s, "s"),
        "processor, Postgres": (servers.postgres_cpu_s() - postgres_cpu_s, "s"),
    }


def send_lanes(service: Service, lanes: Sequence[Sequence[Batch]], *, join: bool = False) -> list[Sent]:
    """Send all lanes side by side, each batch as a request of its own, or all batches of a lane joined in one."""
    with ThreadPoolExecutor(max_workers=len(lanes)) as pool:
        requests = [[lane] if join else [[batch] for batch in lane] for lane in lanes]
        done = pool.map(lambda lane: [_send(service, request) for request in lane], requests)
        return [sent for lane in done for sent in lane]


def _send(service: Service, batches: Sequence[Batch]) -> Sent:
    """Send the lines of `batches` as one request; `http.client`, because it tells when the body is on its way."""
    connection = http.client.HTTPConnection(urlsplit(service.url).netloc, timeout=ANSWER_LIMIT_S)
    headers = {
        "Authorization": f"Bearer {service.token}",
        "Content-Type": "application/x-ndjson",
        "Content-Length": str(sum(batch.n_bytes for batch in batches)),
    }
    begin = time.perf_counter()
    try:
        connection.request("POST", "/api/v1/files", _iter_pieces(batch.path for batch in batches), headers)
        sent_at = time.perf_counter()
        answer = connection.getresponse()
        body = answer.read()
    finally:
        connection.close()
    answered_at = time.perf_counter()
    if answer.status != http.client.OK:
        raise BenchmarkError(f"a request was answered with {answer.status}: {body[:2000]!r}")
    result = msgspec.json.decode(body, type=SendResult)
    return Sent(result=result, sending_s=sent_at - begin, merging_s=answered_at - sent_at)


def _iter_pieces(paths: Iterable[Path]) -> Iterator[bytes]:
    for path in paths:
        with path.open("rb") as lines:
            while piece := lines.read(PIECE_BYTES):
                yield piece
