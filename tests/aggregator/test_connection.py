"""A connection whose request does not begin is closed; one that asks again and again is not."""

import socket
from collections.abc import Callable, Iterator
from contextlib import closing

import httpx
import pytest

from aggregator import connection
from aggregator.connection import MAX_HEAD_BYTES
from aggregator.settings import Settings
from tests.support.server import serving

HANG_S = 20.0
GET = b"GET /healthz HTTP/1.1\r\nHost: x\r\n"


@pytest.fixture
def service_url(service_settings: Settings, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    monkeypatch.setattr(connection, "HEAD_TIMEOUT_S", 0.5)
    with serving(service_settings) as url:
        yield url


@pytest.fixture
def connect(service_url: str) -> Iterator[Callable[[], socket.socket]]:
    address, opened = httpx.URL(service_url), []

    def open_one() -> socket.socket:
        opened.append(socket.create_connection((address.host, address.port), HANG_S))
        return opened[-1]

    yield open_one
    for line in opened:
        line.close()


def rest(line: socket.socket) -> bytes:
    """Return what comes until the other side closes."""
    return b"".join(iter(lambda: line.recv(65536), b""))


def test_who_asks_nothing_is_told_nothing(connect: Callable[[], socket.socket]) -> None:
    assert rest(connect()) == b""


def test_the_head_of_a_request_must_come_in_time(connect: Callable[[], socket.socket]) -> None:
    for piece in (b"G", GET, GET + b"X: y"):
        line = connect()
        line.sendall(piece)
        told = rest(line)
        assert told.startswith(b"HTTP/1.1 408 ")
        assert b"within 0.5 s" in told


def test_a_later_request_on_a_connection_must_come_in_time(connect: Callable[[], socket.socket]) -> None:
    line = connect()
    for _ in range(3):
        line.sendall(GET + b"\r\n")
        assert line.recv(65536).startswith(b"HTTP/1.1 200 ")
    line.sendall(GET)
    assert rest(line).startswith(b"HTTP/1.1 408 ")


@pytest.mark.parametrize(
    "begin", [b"GET /", GET + b"X: ", GET + b"A: b\r\n" * 1000], ids=["address", "value", "fields"]
)
def test_a_head_is_not_read_to_any_length(connect: Callable[[], socket.socket], begin: bytes) -> None:
    line = connect()
    line.sendall(begin)
    try:
        for _ in range(1000):
            line.sendall(b"a" * 65536)
    except ConnectionError:
        return  # closed before all that was sent was read
    told = rest(line)
    assert told.startswith(b"HTTP/1.1 431 ")
    assert str(MAX_HEAD_BYTES).encode() in told


def test_what_comes_in_pieces_is_answered(connect: Callable[[], socket.socket]) -> None:
    body = b'{"query":"{ __typename }"}'
    head = b"POST /graphql HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(
        body
    )
    line = connect()
    with closing(line):
        for at in range(len(head + body)):
            line.sendall((head + body)[at : at + 1])
        assert line.recv(65536).startswith(b"HTTP/1.1 200 ")


def test_a_head_and_a_long_body_may_come_at_once(connect: Callable[[], socket.socket]) -> None:
    body = b'{"query":"{ __typename } #' + b" " * 150_000 + b'"}'
    head = b"POST /graphql HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(
        body
    )
    line = connect()
    line.sendall(head + body)
    assert line.recv(65536).startswith(b"HTTP/1.1 200 ")
