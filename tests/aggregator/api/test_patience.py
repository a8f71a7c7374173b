"""Nobody waits for ever: not for a body, not for an answer; and nothing works for somebody who went away."""

import asyncio
import socket
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, closing, contextmanager
from dataclasses import replace
from typing import Any

import httpx
import psycopg
import pytest

from aggregator.settings import Settings
from metadata_db.ingest import Ingest
from metadata_db.vocabulary import VocabularyStore
from tests.support.records import file_record, load, register
from tests.support.server import serving

pytestmark = pytest.mark.anyio


def search_above(tev: int) -> dict[str, str]:
    """Return a question whose answer needs the files themselves."""
    energy = f"{{ min: {tev}, unit: TEV }}"
    return {"query": f"{{ search(filter: {{ energy: {energy} }}, prepare: NEVER) {{ totalCount {{ value }} }} }}"}


SEARCH = search_above(1)
PATIENCE_S = 20.0


@pytest.fixture
async def filled(ingest: Ingest, vocabulary: VocabularyStore) -> None:
    await register(vocabulary)
    await load(ingest, *(file_record(name, energy_min_ev=5e12, energy_max_ev=6e12) for name in "ab"))


async def learn(client: httpx.AsyncClient) -> None:
    """Let the service learn what it needs to know before it can ask about files."""
    await client.post("/graphql", json=search_above(2))


@pytest.fixture
async def other(service_settings: Settings) -> AsyncIterator[psycopg.AsyncConnection[Any]]:
    """A connection to the database besides the service's."""
    async with await psycopg.AsyncConnection.connect(service_settings.catalogue.libpq_url, autocommit=True) as found:
        yield found


@asynccontextmanager
async def locked(settings: Settings, table: str = "file") -> AsyncIterator[None]:
    """Let every statement about a table wait."""
    async with await psycopg.AsyncConnection.connect(settings.catalogue.libpq_url) as connection:
        await connection.execute(f"lock table {table} in access exclusive mode")
        yield
        await connection.rollback()


async def count_waiting(other: psycopg.AsyncConnection[Any]) -> int:
    cursor = await other.execute(
        "select count(*) from pg_stat_activity where datname = current_database() and state = 'active'"
        " and wait_event_type = 'Lock'"
    )
    ((count,),) = await cursor.fetchall()
    return int(count)


async def until_waiting(other: psycopg.AsyncConnection[Any], count: int) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while await count_waiting(other) != count:
        assert time.monotonic() < deadline, f"never were {count} statements waiting"
        await asyncio.sleep(0.02)


async def ask_all_connections(client: httpx.AsyncClient, pool_size: int) -> None:
    """Ask more different questions at once than there are connections: each of them must be clean."""
    found = await asyncio.gather(
        *(
            client.post("/graphql", json={"query": f'{{ search(filter: {{kind: ["k{at}"]}}) {{ totalBytes }} }}'})
            for at in range(2 * pool_size)
        )
    )
    assert [told.json() for told in found] == [{"data": {"search": {"totalBytes": 0}}}] * (2 * pool_size)


@pytest.mark.usefixtures("filled")
@pytest.mark.parametrize("table", ["file", "query"])  # of either pool of connections
async def test_the_statement_of_a_client_that_goes_away_is_cancelled(
    table: str, service_settings: Settings, service_url: str, other: psycopg.AsyncConnection[Any]
) -> None:
    async with httpx.AsyncClient(base_url=service_url, timeout=PATIENCE_S) as client:
        await learn(client)
        async with locked(service_settings, table):
            for _ in range(service_settings.pool_size + 2):
                asked = asyncio.create_task(client.post("/graphql", json=SEARCH))
                await until_waiting(other, 1)
                asked.cancel()
                await until_waiting(other, 0)
        await ask_all_connections(client, service_settings.pool_size)


@pytest.mark.usefixtures("filled")
async def test_of_two_who_ask_the_same_one_may_go_away(
    service_settings: Settings, service_url: str, other: psycopg.AsyncConnection[Any]
) -> None:
    async with httpx.AsyncClient(base_url=service_url, timeout=PATIENCE_S) as client:
        await learn(client)
        async with locked(service_settings):
            first = asyncio.create_task(client.post("/graphql", json=SEARCH))
            await until_waiting(other, 1)
            second = asyncio.create_task(client.get("/graphql", params=SEARCH))
            await asyncio.sleep(0.1)
            first.cancel()
            await asyncio.sleep(0.1)
            assert await count_waiting(other) == 1
        assert (await second).json() == {"data": {"search": {"totalCount": {"value": 2}}}}


@pytest.fixture
def hasty_settings(service_settings: Settings) -> Settings:
    return replace(service_settings, request_timeout_s=0.5)


@pytest.fixture
def hasty_url(hasty_settings: Settings) -> Iterator[str]:
    with serving(hasty_settings) as url:
        yield url


@pytest.mark.usefixtures("filled")
async def test_an_answer_that_takes_too_long_is_given_up(
    hasty_settings: Settings, hasty_url: str, other: psycopg.AsyncConnection[Any]
) -> None:
    async with httpx.AsyncClient(base_url=hasty_url, timeout=PATIENCE_S) as client:
        await learn(client)
        async with locked(hasty_settings):
            for method in ("GET", "POST"):
                body = {"params": SEARCH} if method == "GET" else {"json": SEARCH}
                told = await client.request(method, "/graphql", **body)
                assert (told.status_code, told.headers["retry-after"]) == (503, "5")
                assert told.json()["errors"][0]["extensions"]["code"] == "TIMEOUT"
                assert "within 0.5 s" in told.json()["errors"][0]["message"]
                assert told.headers["cache-control"] == "no-store"
                await until_waiting(other, 0)
            assert (await client.post("/graphql", json={"query": "{ __typename }"})).status_code == 200
        assert (await client.post("/graphql", json=SEARCH)).json()["data"]["search"]["totalCount"]["value"] == 2


@contextmanager
def connected(url: str) -> Iterator[socket.socket]:
    address = httpx.URL(url)
    with closing(socket.create_connection((address.host, address.port), PATIENCE_S)) as found:
        yield found


def test_a_body_that_does_not_come_is_not_waited_for(hasty_url: str) -> None:
    head = "POST /graphql HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 100\r\n\r\n"
    with connected(hasty_url) as line:
        line.sendall(head.encode() + b'{"query":')
        told = b"".join(iter(lambda: line.recv(65536), b""))
    assert told.startswith(b"HTTP/1.1 408 ")
    assert b"REQUEST_TIMEOUT" in told
    assert b"connection: close" in told


def test_who_goes_away_within_a_body_is_nobodys_error(hasty_url: str, caplog: pytest.LogCaptureFixture) -> None:
    head = "POST /graphql HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 100\r\n\r\n{"
    for _ in range(20):
        with connected(hasty_url) as line:
            line.sendall(head.encode())
    assert httpx.get(f"{hasty_url}/graphql", params={"query": "{ __typename }"}).status_code == 200
    assert [record for record in caplog.records if record.levelname in ("WARNING", "ERROR")] == []
