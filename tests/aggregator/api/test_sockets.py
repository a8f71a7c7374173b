"""GraphQL over real WebSockets: the protocol, its limits, and what happens when either side goes away."""

import asyncio
import json
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from typing import Any

import pytest
from websockets import ClientConnection, ConnectionClosed, InvalidStatus, Subprotocol, connect

from aggregator.api import connections, sockets
from aggregator.api.connections import Places, is_allowed_origin
from aggregator.api.sockets import MAX_MESSAGE_BYTES, MAX_OPERATIONS, PROTOCOL
from aggregator.settings import Settings
from aggregator.staging.ledger import Export, ExportLedger
from tests.support.server import serving

pytestmark = pytest.mark.anyio

PROGRESS = "subscription ($id: ID!) { exportProgress(id: $id) { state } }"
REVISIONS = {"query": "subscription { revisions { facility revision } }"}


class Talk:
    """A client's end of a connection."""

    def __init__(self, connection: ClientConnection) -> None:
        self.connection = connection

    async def say(self, kind: str, **more: Any) -> None:
        await self.connection.send(json.dumps({"type": kind, **more}))

    async def hear(self) -> dict[str, Any]:
        async with asyncio.timeout(20):
            found: dict[str, Any] = json.loads(await self.connection.recv())
        return found

    async def code(self) -> int:
        """Wait for the end, and return its code."""
        async with asyncio.timeout(20):
            with suppress(ConnectionClosed):
                async for _ in self.connection:
                    pass
            await self.connection.wait_closed()
        assert self.connection.close_code is not None
        return self.connection.close_code


@asynccontextmanager
async def talking(url: str, *, protocol: str | None = PROTOCOL, **options: Any) -> AsyncIterator[Talk]:
    """Connect, and say nothing yet."""
    address = f"{url.replace('http', 'ws')}/graphql"
    subprotocols = None if protocol is None else [Subprotocol(protocol)]
    async with connect(address, subprotocols=subprotocols, proxy=None, **options) as connection:
        yield Talk(connection)


@asynccontextmanager
async def acknowledged(url: str) -> AsyncIterator[Talk]:
    async with talking(url) as talk:
        await talk.say("connection_init")
        assert await talk.hear() == {"type": "connection_ack"}
        yield talk


# --- the protocol ---------------------------------------------------------------------------------------------------


async def test_an_export_is_followed_to_its_end(service_url: str, export: Export, ledger: ExportLedger) -> None:
    async with acknowledged(service_url) as talk:
        await talk.say("subscribe", id="1", payload={"query": PROGRESS, "variables": {"id": export.id}})
        first = await talk.hear()
        assert first == {"id": "1", "type": "next", "payload": {"data": {"exportProgress": {"state": "INITIALIZED"}}}}
        await ledger.cancel(export.id)
        assert (await talk.hear())["payload"]["data"]["exportProgress"]["state"] == "CANCELLED"
        assert await talk.hear() == {"id": "1", "type": "complete"}
        await talk.say("subscribe", id="1", payload={"query": "{ __typename }"})  # the id is free again
        assert (await talk.hear())["payload"] == {"data": {"__typename": "Query"}}
        assert await talk.hear() == {"id": "1", "type": "complete"}


async def test_operations_run_beside_each_other_until_the_client_completes_them(shared_url: str) -> None:
    async with acknowledged(shared_url) as talk:
        for number in ("a", "b"):
            await talk.say("subscribe", id=number, payload=REVISIONS)
            assert (await talk.hear())["id"] == number
        await talk.say("complete", id="a")
        await talk.say("complete", id="never there")
        await talk.say("subscribe", id="a", payload={"query": "{ __typename }"})
        assert [(await talk.hear())["type"] for _ in range(2)] == ["next", "complete"]
        await talk.say("ping", payload={"a": 1})
        assert await talk.hear() == {"type": "pong"}
        await talk.say("pong")


@pytest.mark.parametrize(
    ("query", "code"),
    [
        ("{ nothing }", "GRAPHQL_INVALID"),
        ("{ facilities", "GRAPHQL_INVALID"),
        ("{ " + "a: __typename " * 200 + "}", "LIMIT_EXCEEDED"),
        ('subscription { exportProgress(id: "x") { id } }', "NOT_FOUND"),
    ],
)
async def test_an_operation_that_is_refused_ends_alone(shared_url: str, query: str, code: str) -> None:
    async with acknowledged(shared_url) as talk:
        await talk.say("subscribe", id="1", payload={"query": query})
        told = await talk.hear()
        assert (told["id"], told["type"]) == ("1", "error")
        assert told["payload"][0]["extensions"]["code"] == code
        await talk.say("ping")
        assert await talk.hear() == {"type": "pong"}


BREACHES: list[tuple[list[str | bytes], int]] = [
    (['{"type": "subscribe", "id": "1", "payload": {"query": "{ __typename }"}}'], 4401),
    (['{"type": "connection_init"}'] * 2, 4429),
    (['{"type": "connection_init", "payload": 1}'], 4400),
    (["no JSON"], 4400),
    (["[]"], 4400),
    (["{}"], 4400),
    (["[" * 100_000], 4400),
    (['{"type": "start"}'], 4400),
    (['{"type": "connection_init"}', '{"type": "subscribe", "id": 1, "payload": {"query": "{ a }"}}'], 4400),
    (['{"type": "connection_init"}', '{"type": "subscribe", "id": "1"}'], 4400),
    (['{"type": "connection_init"}', '{"type": "subscribe", "id": "1", "payload": {"query": 1}}'], 4400),
    (['{"type": "connection_init"}', '{"type": "complete"}'], 4400),
    ([b"bytes"], 4400),
    (["x" * (MAX_MESSAGE_BYTES + 1)], 1009),
]


async def test_whoever_breaks_the_protocol_is_told_by_its_code(shared_url: str) -> None:
    told = []
    for messages, _ in BREACHES:
        async with talking(shared_url) as talk:
            for message in messages:
                await talk.connection.send(message)
            told.append(await talk.code())
    assert told == [code for _, code in BREACHES]


async def test_an_id_that_is_in_use_ends_the_connection(shared_url: str) -> None:
    async with acknowledged(shared_url) as talk:
        for _ in range(2):
            await talk.say("subscribe", id="é" * 128, payload=REVISIONS)
        assert await talk.code() == 4409


async def test_another_protocol_is_not_spoken(shared_url: str) -> None:
    for protocol in ("graphql-ws", None):
        async with talking(shared_url, protocol=protocol) as talk:
            assert await talk.code() == 4406


# --- limits ---------------------------------------------------------------------------------------------------------


async def test_ten_thousand_subscriptions_on_one_connection_are_a_few_and_many_errors(shared_url: str) -> None:
    async with acknowledged(shared_url) as talk:

        async def ask() -> None:
            for number in range(10_000):
                await talk.say("subscribe", id=str(number), payload=REVISIONS)

        asking = asyncio.create_task(ask())
        refused = [told for told in [await talk.hear() for _ in range(10_000)] if told["type"] == "error"]
        await asking
        assert len(refused) == 10_000 - MAX_OPERATIONS
        (error,) = refused[-1]["payload"]
        assert error["extensions"]["limit"] == "subscriptions"


@pytest.fixture
def impatient(service_settings: Settings, monkeypatch: pytest.MonkeyPatch) -> Callable[[], Any]:
    """Serve with a short patience for the first message."""
    monkeypatch.setitem(sockets.GraphQLSockets.__init__.__kwdefaults__, "init_s", 0.2)
    return lambda: serving(service_settings)


async def test_connections_that_never_say_anything_are_closed(impatient: Callable[[], Any]) -> None:
    with impatient() as url:
        async with talking(url) as talk:
            await talk.say("ping")  # which is no beginning
            assert await talk.code() == 4408


@pytest.fixture
def crowded(service_settings: Settings, monkeypatch: pytest.MonkeyPatch) -> Callable[[], Any]:
    """Serve with three places."""
    monkeypatch.setattr(connections.Places.__init__, "__defaults__", (3,))
    return lambda: serving(service_settings)


async def test_when_all_places_are_taken_others_are_told_to_come_again(crowded: Callable[[], Any]) -> None:
    with crowded() as url:
        async with acknowledged(url), acknowledged(url), acknowledged(url):
            with pytest.raises(InvalidStatus) as refused:
                await hold(acknowledged(url))
            assert refused.value.response.status_code == 503
            assert refused.value.response.headers["retry-after"] == "30"
        await eventually(lambda: hold(acknowledged(url)))


async def hold(talk: AbstractAsyncContextManager[Talk]) -> None:
    async with talk:
        pass


async def eventually(attempt: Callable[[], Any]) -> None:
    async with asyncio.timeout(20):
        while True:
            try:
                await attempt()
            except InvalidStatus:
                await asyncio.sleep(0.01)
            else:
                return


def test_a_place_is_given_back_whatever_happens() -> None:
    places = Places(1)
    with suppress(KeyError), places.take():
        assert places.free == 0
        raise KeyError
    assert places.free == 1


# --- who may connect ------------------------------------------------------------------------------------------------


async def test_a_page_of_another_site_is_refused_before_anything_is_said(shared_url: str) -> None:
    for origin in ("https://evil.example", "null", f"{shared_url}.evil.example"):
        with pytest.raises(InvalidStatus) as refused:
            await hold(talking(shared_url, origin=origin))
        assert refused.value.response.status_code == 403
    await hold(talking(shared_url, origin=shared_url))


@pytest.mark.parametrize(
    ("origin", "allowed"),
    [
        (None, True),
        ("https://data.example.org", True),
        ("http://data.example.org", True),
        ("https://portal.example.org", True),
        ("http://portal.example.org", False),
        ("https://data.example.org:8443", False),
        ("https://data.example.org.evil.example", False),
        ("https://evil.example/data.example.org", False),
        ("null", False),
        ("", False),
    ],
)
def test_pages_of_this_host_and_of_the_settings_may_connect(origin: str | None, allowed: bool) -> None:
    named = frozenset({"https://portal.example.org"})
    assert is_allowed_origin(origin, host="data.example.org", allowed=named) is allowed


# --- going away -----------------------------------------------------------------------------------------------------


async def test_connections_that_vanish_without_a_word_free_their_place(crowded: Callable[[], Any]) -> None:
    with crowded() as url:
        for _ in range(3):
            async with acknowledged(url) as talk:
                await talk.say("subscribe", id="1", payload=REVISIONS)
                await talk.hear()
                transport = talk.connection.transport
                raw = transport.get_extra_info("socket")
                raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0")
                transport.abort()
        await eventually(lambda: hold(acknowledged(url)))


async def test_whoever_does_not_answer_pings_is_taken_for_gone(
    service_settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    quick = {**sockets.SERVER_OPTIONS, "ws_ping_interval": 0.1, "ws_ping_timeout": 0.1}
    monkeypatch.setattr("tests.support.server.SERVER_OPTIONS", quick)
    with serving(service_settings) as url:
        async with acknowledged(url) as talk:
            # Half-open: what arrives is not read any more.
            talk.connection.transport.pause_reading()
            await asyncio.sleep(0.5)
            talk.connection.transport.resume_reading()
            assert await talk.code() == 1011


async def test_a_service_that_stops_closes_connections_so_that_clients_come_again(service_settings: Settings) -> None:
    stopping = serving(service_settings)
    url = await asyncio.to_thread(stopping.__enter__)
    async with acknowledged(url) as talk:
        await talk.say("subscribe", id="1", payload=REVISIONS)
        assert (await talk.hear())["type"] == "next"
        stopped = asyncio.create_task(asyncio.to_thread(stopping.__exit__, None, None, None))
        with pytest.raises(ConnectionClosed):
            await talk.hear()
        assert talk.connection.close_code == 1012  # service restart
    await stopped
