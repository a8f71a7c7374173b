"""However the bytes of requests come in, each is answered once, in order, as it would be without the short way."""

import dataclasses
import re
import socket
from collections.abc import AsyncIterator, Iterator

import httpx
import orjson
import pytest

from aggregator.settings import Settings
from metadata_db.ingest import Ingest
from metadata_db.vocabulary import VocabularyStore
from tests.support.records import file_record, load, register
from tests.support.server import serving

pytestmark = pytest.mark.anyio

HANG_S = 20.0


def request(document: str, *headers: str, version: str = "1.1") -> bytes:
    body = orjson.dumps({"query": document})
    head = (f"POST /graphql HTTP/{version}", "Host: x", "Content-Type: application/json", *headers)
    return "\r\n".join((*head, f"Content-Length: {len(body)}", "", "")).encode() + body


def kind(word: str) -> str:
    return f'{{ search(filter: {{ kind: ["{word}"] }}, prepare: NEVER) {{ totalCount {{ value }} }} }}'


EVENTS, TABLE = request(kind("events")), request(kind("table"))


@pytest.fixture(params=[64_000_000, 0], ids=["in memory", "in Redis"])
async def url(
    request: pytest.FixtureRequest, service_settings: Settings, ingest: Ingest, vocabulary: VocabularyStore
) -> AsyncIterator[str]:
    await register(vocabulary)
    await load(ingest, *(file_record(f"{n}", kind="events") for n in range(3)), file_record("t", kind="table"))
    with serving(dataclasses.replace(service_settings, answer_memory_bytes=request.param)) as found:
        yield found


@pytest.fixture
def line(url: str) -> Iterator[socket.socket]:
    with connect(url) as found:
        yield found


def connect(url: str) -> socket.socket:
    address = httpx.URL(url)
    return socket.create_connection((address.host, address.port), HANG_S)


class Reader:
    """Reads answers from a connection, one after another."""

    def __init__(self, line: socket.socket) -> None:
        self._line = line
        self._rest = b""

    def read(self) -> tuple[bytes, int]:
        """Return the head of the next answer, and the number that it tells."""
        while b"\r\n\r\n" not in self._rest:
            self._more()
        head, _, self._rest = self._rest.partition(b"\r\n\r\n")
        found = re.search(rb"content-length: (\d+)", head)
        assert found is not None, head
        while len(self._rest) < int(found[1]):
            self._more()
        body, self._rest = self._rest[: int(found[1])], self._rest[int(found[1]) :]
        return head, orjson.loads(body)["data"]["search"]["totalCount"]["value"]

    def _more(self) -> None:
        came = self._line.recv(65536)
        assert came, f"closed after {self._rest!r}"
        self._rest += came


def make_known(line: socket.socket, reader: Reader) -> None:
    for _ in range(3):
        for asked in (EVENTS, TABLE):
            line.sendall(asked)
            reader.read()


async def test_a_known_answer_has_all_that_one_that_is_made_has(line: socket.socket) -> None:
    reader = Reader(line)
    heads = []
    for _ in range(5):
        line.sendall(EVENTS)
        head, number = reader.read()
        assert number == 3
        heads.append(sorted(re.sub(rb"date: [^\r]*", b"date", head).split(b"\r\n")))
    assert heads[0] == [name for name in heads[-1] if not name.startswith(b"cache-status")]
    assert b"cache-status: catchment; hit" in heads[-1]


async def test_requests_behind_each_other_are_answered_in_order(line: socket.socket) -> None:
    reader = Reader(line)
    make_known(line, reader)
    line.sendall(EVENTS + TABLE + EVENTS)
    assert [reader.read()[1] for _ in range(3)] == [3, 1, 3]
    for asked in (TABLE, EVENTS, request(kind("none")), TABLE, EVENTS, EVENTS):
        line.sendall(asked)  # without waiting for answers
    assert [reader.read()[1] for _ in range(6)] == [1, 3, 0, 1, 3, 3]


async def test_a_request_in_any_two_pieces_is_one_request(line: socket.socket) -> None:
    line.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    reader = Reader(line)
    make_known(line, reader)
    for cut in range(1, len(EVENTS), 17):
        line.sendall(EVENTS[:cut])
        line.sendall(EVENTS[cut:] + TABLE)
        assert [reader.read()[1] for _ in range(2)] == [3, 1]


@pytest.mark.parametrize(
    "asked",
    [request(kind("events"), "Connection: close"), request(kind("events"), version="1.0")],
    ids=["close", "HTTP/1.0"],
)
async def test_who_wants_the_connection_closed_has_it_closed(url: str, asked: bytes) -> None:
    for _ in range(4):
        with connect(url) as line:
            line.sendall(asked)
            assert Reader(line).read()[1] == 3
            assert line.recv(100) == b""


async def test_a_client_that_goes_away_at_once_harms_nobody(url: str, line: socket.socket) -> None:
    reader = Reader(line)
    make_known(line, reader)
    for _ in range(20):
        with connect(url) as gone:
            gone.sendall(EVENTS * 3)
    line.sendall(EVENTS)
    assert reader.read()[1] == 3
