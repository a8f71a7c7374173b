"""Asks the same again and again, as fast as one core can: for answers that take less time than most clients.

A connection knows how long the answer is and counts bytes; that it begins with success, and is the expected one where
it is looked at (one in `LOOKED_AT`), is checked.
"""

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass
from urllib.parse import urlsplit

import psutil  # type: ignore[import-untyped]
import uvloop

from benchmarks.load import Load
from benchmarks.service import BenchmarkError, cpu_s

LEARNED = 3
"""So many first answers of a connection are read as a whole: headers differ until an answer is known."""

LOOKED_AT = 64
"""One answer in so many is compared with the first one."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Repeated(Load):
    """What came of one load of the same questions."""

    hits: float
    """Share of answers that say that they were told again, of those that were looked at."""


def repeat(
    url: str,
    bodies: Sequence[bytes],
    *,
    connections: int,
    limit: int,
    limit_s: float,
    service: Sequence[psutil.Process],
) -> Repeated:
    """Post one body per connection, again and again, until `limit` are answered or `limit_s` seconds are over.

    Raises
    ------
    BenchmarkError
        An answer was no success, or not the one that came first.
    """
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(_repeat(url, bodies, connections, limit, limit_s, service))


async def _repeat(
    url: str,
    bodies: Sequence[bytes],
    connections: int,
    limit: int,
    limit_s: float,
    service: Sequence[psutil.Process],
) -> Repeated:
    address, loop = urlsplit(url), asyncio.get_running_loop()
    counter = _Counter(limit)
    repeaters = []
    for number in range(connections):
        head = (
            f"POST /graphql HTTP/1.1\r\nHost: {address.netloc}\r\nContent-Type: application/json\r\n"
            f"Accept: application/json\r\nContent-Length: {len(bodies[number % len(bodies)])}\r\n\r\n"
        )
        message = head.encode() + bodies[number % len(bodies)]
        _, repeater = await loop.create_connection(
            lambda message=message: _Repeater(message, counter),  # type: ignore[misc]  # a lambda of no arguments
            address.hostname or "",
            address.port or 80,
        )
        repeaters.append(repeater)
    service_cpu_s, client_cpu_s = sum(map(cpu_s, service)), time.process_time()
    begin = time.perf_counter()
    counter.ends_at = begin + limit_s
    for repeater in repeaters:
        repeater.ask()
    await asyncio.gather(*(repeater.done for repeater in repeaters))
    duration_s = time.perf_counter() - begin
    for repeater in repeaters:
        repeater.transport.abort()
    return Repeated(
        hits=counter.hits / max(counter.looked_at, 1),
        latencies_s=tuple(counter.latencies_s),
        duration_s=duration_s,
        client_cpu_s=time.process_time() - client_cpu_s,
        service_cpu_s=sum(map(cpu_s, service)) - service_cpu_s,
    )


class _Counter:
    """How many are still to be asked, and how long the answers took."""

    def __init__(self, limit: int) -> None:
        self.left = limit
        self.ends_at = 0.0
        self.latencies_s: list[float] = []
        self.looked_at = 0
        self.hits = 0


class _Repeater(asyncio.Protocol):
    """One connection."""

    transport: asyncio.Transport

    def __init__(self, message: bytes, counter: _Counter) -> None:
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._message = message
        self._counter = counter
        self._expected = b""
        self._length = 0
        self._left = 0
        self._n_answers = 0
        self._looked_at: bytearray | None = None
        self._asked_at = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport  # type: ignore[assignment]  # of a stream

    def ask(self) -> None:
        """Ask once more; what follows comes by itself."""
        is_learning = self._n_answers < LEARNED
        self._length = 0 if is_learning else self._length
        self._left = self._length
        self._looked_at = bytearray() if is_learning or self._n_answers % LOOKED_AT == 0 else None
        self._asked_at = time.perf_counter()
        self.transport.write(self._message)

    def data_received(self, data: bytes) -> None:
        if self._looked_at is not None:
            self._looked_at += data
            if self._left == 0 and (length := _find_length(self._looked_at)) is not None:
                self._length, self._left = length, length - len(self._looked_at) + len(data)
        self._left -= len(data)
        if self._left <= 0 and self._length:
            self._answered()

    def _answered(self) -> None:
        now, counter = time.perf_counter(), self._counter
        counter.latencies_s.append(now - self._asked_at)
        self._n_answers += 1
        counter.left -= 1
        if self._looked_at is not None and not self._is_as_expected(bytes(self._looked_at)):
            self._fail(f"an answer is not the expected one: {bytes(self._looked_at[:500])!r}")
        elif counter.left <= 0 or now > counter.ends_at:
            if not self.done.done():
                self.done.set_result(None)
        else:
            self.ask()

    def _is_as_expected(self, answer: bytes) -> bool:
        head, _, body = answer.partition(b"\r\n\r\n")
        self._expected = self._expected or body
        self._counter.looked_at += 1
        self._counter.hits += b"cache-status: catchment; hit" in head
        return answer.startswith(b"HTTP/1.1 200 ") and b'"errors":' not in body and body == self._expected

    def connection_lost(self, exc: Exception | None) -> None:
        self._fail("the service closed the connection")

    def _fail(self, message: str) -> None:
        if not self.done.done():
            self.done.set_exception(BenchmarkError(message))


def _find_length(answer: bytearray) -> int | None:
    """Return how long an answer is, when its head has come."""
    end = answer.find(b"\r\n\r\n")
    if end < 0:
        return None
    for line in bytes(answer[:end]).lower().split(b"\r\n"):
        name, _, value = line.partition(b":")
        if name == b"content-length":
            return end + 4 + int(value)
    raise BenchmarkError(f"an answer has no Content-Length: {bytes(answer[:end])!r}")
