"""A connection whose request does not begin is closed; one that asks again and again is not."""

import socket
import time
from collections.abc import Callable, Iterator

import httpx
import pytest
from starlette.types import Receive, Scope, Send

from aggregator import connection
from aggregator.connection import MAX_HEAD_BYTES
from tests.support.server import serving_app

HANG_S = 20.0
GET = b"GET /healthz HTTP/1.1\r\nHost: x\r\n"


async def tell_length(scope: Scope, receive: Receive, send: Send) -> None:
    """Answer with the length of the body."""
    length, message = 0, await receive()
    while message.get("more_body", False):
        length, message = length + len(message["body"]), await receive()
    body = str(length + len(message["body"])).encode()
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"%d" % len(body))]})
    await send({"type": "http.response.body", "body": body})


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with pytest.MonkeyPatch.context() as patched, serving_app(tell_length) as found:
        patched.setattr(connection, "HEAD_TIMEOUT_S", 0.5)
        yield found


@pytest.fixture
def connect(url: str) -> Iterator[Callable[[], socket.socket]]:
    address, opened = httpx.URL(url), []

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


@pytest.mark.parametrize("step", [1, 200_000], ids=["byte by byte", "at once"])
def test_head_and_body_may_come_in_any_pieces(connect: Callable[[], socket.socket], step: int) -> None:
    body = b"x" * min(100 * step, 150_000)
    request = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body)
    line = connect()
    for at in range(0, len(request), step):
        line.sendall(request[at : at + step])
    told = line.recv(65536)
    assert told.startswith(b"HTTP/1.1 200 ")
    assert told.endswith(b"\r\n\r\n%d" % len(body))


def test_a_request_behind_another_waits_for_it(connect: Callable[[], socket.socket]) -> None:
    line = connect()
    line.sendall(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\n\r\n")
    time.sleep(0.7)  # longer than a head may take: it is there already
    line.sendall(b"a" + GET)
    assert line.recv(65536).endswith(b"\r\n\r\n1")
    assert rest(line).startswith(b"HTTP/1.1 408 ")
