"""Asks over a few connections, each question as soon as the one before it is answered, and keeps every latency.

A client of raw sockets: the usual Python clients take longer for a request than the service for a cached answer. What
it costs itself is in the result, so that a client that was the limit is not taken for a slow service.
"""

import asyncio
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from urllib.parse import urlsplit

import psutil  # type: ignore[import-untyped]
import uvloop

from benchmarks.service import BenchmarkError, cpu_s


@dataclass(frozen=True, kw_only=True, slots=True)
class Load:
    """What came of one load."""

    latencies_s: tuple[float, ...]
    """From the first byte of the question to the last of the answer, in the order of the answers."""
    duration_s: float
    client_cpu_s: float
    """Processor time of the process that asked."""
    service_cpu_s: float
    """Processor time of the process that answered."""

    @property
    def per_second(self) -> float:
        """Answers per second, over all connections."""
        return len(self.latencies_s) / self.duration_s


def ask(
    url: str,
    bodies: Iterator[bytes],
    *,
    connections: int,
    limit: int,
    limit_s: float,
    service: psutil.Process,
    path: str = "/graphql",
) -> Load:
    """Post `bodies` until there are no more, or `limit` are answered, or `limit_s` seconds are over.

    Parameters
    ----------
    service
        The process that answers, whose processor time is counted.
    path
        Where they are posted to.

    Raises
    ------
    BenchmarkError
        An answer was no success, or tells errors.
    """
    supply = _Supply(bodies=bodies, limit=limit)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        service_cpu_s = cpu_s(service)
        duration_s, client_cpu_s = runner.run(_ask(url, path, supply, connections=connections, limit_s=limit_s))
    if not supply.latencies_s:
        raise BenchmarkError("no question was asked")
    return Load(
        latencies_s=tuple(supply.latencies_s),
        duration_s=duration_s,
        client_cpu_s=client_cpu_s,
        service_cpu_s=cpu_s(service) - service_cpu_s,
    )


async def _ask(url: str, path: str, supply: "_Supply", *, connections: int, limit_s: float) -> tuple[float, float]:
    """Ask everything and return how long that took, and the processor time it needed here."""
    address = urlsplit(url)
    loop = asyncio.get_running_loop()
    asking = []
    for _ in range(connections):
        transport, connection = await loop.create_connection(
            lambda: _Connection(address.netloc, path, supply), host=address.hostname or "", port=address.port or 80
        )
        asking.append((transport, connection))
    begin, cpu_begin = time.perf_counter(), time.process_time()
    supply.ends_at = begin + limit_s
    for transport, connection in asking:
        connection.begin(transport)
    try:
        await asyncio.gather(*(connection.done for _, connection in asking))
        return time.perf_counter() - begin, time.process_time() - cpu_begin
    finally:
        # One failed question ends all; no connection outlives the loop.
        for transport, _ in asking:
            transport.abort()
        await asyncio.wait([connection.lost for _, connection in asking])


@dataclass(kw_only=True, slots=True)
class _Supply:
    """The questions that are left, and the latencies of those that were answered."""

    bodies: Iterator[bytes]
    limit: int
    latencies_s: list[float] = field(default_factory=list)
    ends_at: float = 0.0

    def take(self) -> bytes | None:
        if self.limit == 0 or time.perf_counter() > self.ends_at:
            return None
        self.limit -= 1
        return next(self.bodies, None)


class _Connection(asyncio.Protocol):
    """One connection, with one question under way."""

    def __init__(self, host: str, path: str, supply: _Supply) -> None:
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.lost: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._head = f"POST {path} HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/json\r\nContent-Length: "
        self._supply = supply
        self._answer = bytearray()
        self._answer_bytes = 0
        self._asked_at = 0.0
        self._transport: asyncio.Transport

    def begin(self, transport: asyncio.Transport) -> None:
        """Send the first question; the others follow by themselves."""
        self._transport = transport
        self._ask_next()

    def _ask_next(self) -> None:
        """Send the next question, or close when there is none."""
        body = self._supply.take()
        if body is None:
            self.done.set_result(None)
            self._transport.close()
            return
        self._answer.clear()
        self._answer_bytes = 0
        message = f"{self._head}{len(body)}\r\n\r\n".encode() + body
        self._asked_at = time.perf_counter()
        self._transport.write(message)

    def data_received(self, data: bytes) -> None:
        self._answer += data
        if self._answer_bytes == 0 and (head_end := self._answer.find(b"\r\n\r\n")) >= 0:
            self._answer_bytes = head_end + 4 + _content_length(bytes(self._answer[:head_end]))
        if self._answer_bytes and len(self._answer) >= self._answer_bytes:
            self._supply.latencies_s.append(time.perf_counter() - self._asked_at)
            if self._answer.startswith(b"HTTP/1.1 200 ") and b'"errors":' not in self._answer:
                self._ask_next()
            else:
                self._fail(f"a question was answered with {bytes(self._answer[:2000])!r}")

    def connection_lost(self, exc: Exception | None) -> None:
        self._fail("the service closed the connection")
        self.lost.set_result(None)

    def _fail(self, message: str) -> None:
        if not self.done.done():
            self.done.set_exception(BenchmarkError(message))
            self._transport.close()


def _content_length(head: bytes) -> int:
    for line in head.lower().split(b"\r\n"):
        name, _, value = line.partition(b":")
        if name == b"content-length":
            return int(value)
    raise BenchmarkError(f"an answer has no Content-Length: {head!r}")
