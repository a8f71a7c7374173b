"""Whatever happens to Redis, and whenever: all is answered, nobody waits for it twice, and it is found again."""

import asyncio
import dataclasses
import logging
import signal
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from starlette.datastructures import Secret

from aggregator.settings import Settings
from metadata_db.ingest import Ingest
from metadata_db.vocabulary import VocabularyStore
from tests.support.records import file_record, load, register
from tests.support.redis_server import RedisServer, running_redis
from tests.support.server import serving

pytestmark = pytest.mark.anyio

PARTS = "totalCount { value } checksum files { nodes { path } } facets(by: [KIND]) { values { count } }"
KEPT = f'{{ search(filter: {{ facility: ["aurora"] }}, prepare: NEVER) {{ {PARTS} }} }}'


@pytest.fixture
def server(tmp_path: Path) -> Iterator[RedisServer]:
    with running_redis(tmp_path) as found:
        yield found


@pytest.fixture
async def client(
    service_settings: Settings, server: RedisServer, ingest: Ingest, vocabulary: VocabularyStore
) -> AsyncIterator[httpx.AsyncClient]:
    await register(vocabulary)
    await load(ingest, *(file_record(f"run_{number}.fits", kind="events") for number in range(3)))
    with serving(dataclasses.replace(service_settings, redis_url=Secret(server.url))) as url:
        async with httpx.AsyncClient(base_url=url, timeout=60) as found:
            yield found


async def ask(client: httpx.AsyncClient, document: str) -> Any:
    answer = await client.post("/graphql", json={"query": document})
    assert answer.status_code == 200, answer.text
    assert "errors" not in answer.json(), answer.text
    return answer.json()["data"]


def new_question(number: int) -> str:
    return KEPT.replace("{ facility", f'{{ path: ["*{number}*"], facility', 1)


async def cache_state(client: httpx.AsyncClient) -> str:
    answer = await client.get("/readyz")
    assert answer.status_code == 200
    return str(answer.json()["parts"]["cache"])


async def wait_for(client: httpx.AsyncClient, state: str) -> None:
    async with asyncio.timeout(30):
        while not (await cache_state(client)).startswith(state):
            await asyncio.sleep(0.1)


async def kill(server: RedisServer) -> None:
    server.kill()


async def stop(server: RedisServer) -> None:
    server.send_signal(signal.SIGSTOP)


async def flush(server: RedisServer) -> None:
    server.tell("FLUSHALL")


async def refuse_writes(server: RedisServer) -> None:
    server.tell("REPLICAOF", "127.0.0.1", "1")


async def fill(server: RedisServer) -> None:
    server.tell("CONFIG", "SET", "maxmemory", "1")


async def let_be(server: RedisServer) -> None:
    """Bring it back."""
    if server.is_running:
        server.send_signal(signal.SIGCONT)
        server.tell("REPLICAOF", "NO", "ONE")
        server.tell("CONFIG", "SET", "maxmemory", "0")
    else:
        server.start()


@pytest.mark.parametrize(
    ("harm", "told"),
    [(kill, "away"), (stop, "away"), (flush, "ok"), (refuse_writes, "refuses"), (fill, "refuses")],
    ids=["killed", "standing still", "flushed", "read only", "full"],
)
async def test_all_is_answered_and_readyz_says_how_redis_is(
    client: httpx.AsyncClient, server: RedisServer, harm: Callable[[RedisServer], Awaitable[None]], told: str
) -> None:
    before = await ask(client, KEPT)
    await harm(server)
    answers = await asyncio.gather(*(ask(client, KEPT) for _ in range(20)))
    assert answers == [before] * 20
    for number in range(3):
        assert (await ask(client, new_question(number)))["search"]["totalCount"]["value"] == 1
    assert (await cache_state(client)).startswith(told)
    await let_be(server)
    await wait_for(client, "ok")
    assert await ask(client, KEPT) == before
    await ask(client, new_question(7))
    assert server.tell("DBSIZE") != 0


async def test_a_redis_that_stands_still_is_waited_for_once_and_not_by_each_question(
    client: httpx.AsyncClient, server: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    await ask(client, KEPT)
    with caplog.at_level(logging.WARNING, logger="aggregator.cache"):
        server.send_signal(signal.SIGSTOP)
        for number in range(10):
            await ask(client, new_question(number))
    waited = [record for record in caplog.records if "does not answer" in record.getMessage()]
    assert len(waited) == 1
    server.send_signal(signal.SIGCONT)
    await wait_for(client, "ok")


async def test_redis_comes_and_goes_while_questions_are_asked(client: httpx.AsyncClient, server: RedisServer) -> None:
    expected = await ask(client, KEPT)
    is_over = asyncio.Event()

    async def keep_asking(asker: int) -> int:
        asked = 0
        while not is_over.is_set():
            assert await ask(client, KEPT) == expected
            found = await ask(client, new_question(asked % 3) + f" # {asker}")
            assert found["search"]["totalCount"]["value"] == 1
            asked += 1
        return asked

    askers = [asyncio.create_task(keep_asking(asker)) for asker in range(4)]
    for harm in (flush, kill, refuse_writes, stop, fill):
        await harm(server)
        await asyncio.sleep(0.3)
        await let_be(server)
        await asyncio.sleep(0.3)
    is_over.set()
    assert min(await asyncio.gather(*askers)) > 0
