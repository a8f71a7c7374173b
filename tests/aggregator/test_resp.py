"""The small client of Redis: answers in order, errors at once, and a new connection after each loss."""

import asyncio
import signal
import socket
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import ResponseError
from redis.exceptions import TimeoutError as RedisTimeoutError

from aggregator.embedded import EmbeddedServers
from aggregator.resp import RespClient
from tests.support.redis_server import RedisServer, running_redis

pytestmark = pytest.mark.anyio


@pytest.fixture
def server(tmp_path: Path) -> Iterator[RedisServer]:
    with running_redis(tmp_path) as found:
        yield found


@pytest.fixture
async def client(server: RedisServer) -> AsyncIterator[RespClient]:
    found = RespClient(server.url, timeout_s=0.3)
    yield found
    found.close()


async def test_answers_come_in_the_order_of_the_commands(client: RespClient) -> None:
    await asyncio.gather(*(client.call("SET", f"k{number}", number) for number in range(1000)))
    found = await asyncio.gather(*(client.call("GET", f"k{number}") for number in range(1000)))
    assert found == [b"%d" % number for number in range(1000)]
    assert await client.call("GET", "nothing") is None


@given(st.binary(max_size=2000), st.text(max_size=50))
def test_any_bytes_come_back_as_they_were(servers: EmbeddedServers, value: bytes, field: str) -> None:
    async def put_and_get() -> object:
        client = RespClient(servers.redis_url, timeout_s=5)
        try:
            await client.call("HSET", "resp", field, value)
            return await client.call("HGET", "resp", field)
        finally:
            client.close()

    assert asyncio.run(put_and_get()) == value


async def test_a_refused_command_is_an_error_of_its_own(client: RespClient) -> None:
    refused, found = await asyncio.gather(client.call("NOTHING"), client.call("PING"), return_exceptions=True)
    assert isinstance(refused, ResponseError)
    assert found == b"PONG"


async def test_a_caller_that_goes_away_leaves_the_others_their_answers(client: RespClient) -> None:
    await client.call("SET", "a", "1")
    gone = asyncio.create_task(client.call("GET", "a"))
    stays = asyncio.create_task(client.call("STRLEN", "a"))
    await asyncio.sleep(0)
    gone.cancel()
    assert await stays == 1


async def test_all_that_wait_fail_when_the_server_is_killed_and_it_is_found_again(
    client: RespClient, server: RedisServer
) -> None:
    await client.call("PING")
    waiting = [asyncio.create_task(client.call("BLPOP", "empty", 10)) for _ in range(3)]
    await asyncio.sleep(0.1)
    server.kill()
    assert all(isinstance(one, RedisConnectionError) for one in await asyncio.gather(*waiting, return_exceptions=True))
    with pytest.raises(RedisConnectionError):
        await client.call("PING")
    server.start()
    assert await client.call("PING") == b"PONG"


async def test_a_server_that_stands_still_is_not_waited_for_longer_than_allowed(
    client: RespClient, server: RedisServer
) -> None:
    await client.call("PING")
    server.send_signal(signal.SIGSTOP)
    loop = asyncio.get_running_loop()
    began = loop.time()
    with pytest.raises(RedisTimeoutError):
        await client.call("PING")
    assert loop.time() - began < 5  # not for ever
    server.send_signal(signal.SIGCONT)
    assert await client.call("PING") == b"PONG"


async def test_it_logs_in_and_chooses_its_database(tmp_path: Path) -> None:
    with running_redis(tmp_path, "--requirepass", "secret") as server:
        wrong = RespClient(server.url.replace("//", "//:wrong@"), timeout_s=1)
        with pytest.raises(ResponseError):
            await wrong.call("PING")
        address = server.url.replace("//", "//default:secret@")
        first, second = RespClient(f"{address}/1", timeout_s=1), RespClient(f"{address}/2", timeout_s=1)
        await first.call("SET", "a", "1")
        assert (await first.call("GET", "a"), await second.call("GET", "a")) == (b"1", None)
        for client in (wrong, first, second):
            client.close()


async def test_what_does_not_speak_the_protocol_is_not_listened_to() -> None:
    async def babble(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        await writer.drain()
        writer.close()

    async with await asyncio.start_server(babble, "127.0.0.1", 0) as babbler:
        port = babbler.sockets[0].getsockname()[1]
        client = RespClient(f"redis://127.0.0.1:{port}", timeout_s=1)
        with pytest.raises(RedisConnectionError):
            await client.call("PING")
        client.close()


async def test_a_port_that_nobody_listens_on_is_an_error_at_once() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    client = RespClient(f"redis://127.0.0.1:{port}", timeout_s=5)
    with pytest.raises(RedisConnectionError):
        await client.call("PING")
