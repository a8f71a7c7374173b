"""Server-sent events over real HTTP: the bytes on the wire, what is refused, and what happens when either side goes."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest

from aggregator.api import connections, events
from aggregator.settings import Settings
from aggregator.staging.ledger import Export, ExportLedger
from tests.support.server import serving

pytestmark = pytest.mark.anyio

PROGRESS = "subscription ($id: ID!) { exportProgress(id: $id) { state } }"
REVISIONS = {"query": "subscription { revisions { facility revision } }"}
ACCEPT = {"accept": "text/event-stream"}


class Stream:
    """A client's end of a stream."""

    def __init__(self, response: httpx.Response) -> None:
        self.response = response
        self._bytes = response.aiter_raw()
        self._rest = b""

    async def message(self) -> bytes:
        """Return what comes next, up to an empty line."""
        async with asyncio.timeout(20):
            while b"\n\n" not in self._rest:
                self._rest += await anext(self._bytes)
        message, _, self._rest = self._rest.partition(b"\n\n")
        return message

    async def event(self) -> tuple[str, Any]:
        """Return the next event, passing over heartbeats."""
        while (message := await self.message()) == b":":
            pass
        name, _, data = message.decode().partition("\n")
        text = data.removeprefix("data:")
        return name.removeprefix("event: "), json.loads(text) if text else None


@asynccontextmanager
async def streaming(
    url: str, body: Any, *, method: str = "POST", headers: dict[str, str] | None = None
) -> AsyncIterator[Stream]:
    options: dict[str, Any] = {"params": body} if method == "GET" else {"json": body}
    async with (
        httpx.AsyncClient(timeout=20) as client,
        client.stream(method, f"{url}/graphql/stream", headers=ACCEPT | (headers or {}), **options) as response,
    ):
        yield Stream(response)


async def test_an_export_is_followed_to_its_end(service_url: str, export: Export, ledger: ExportLedger) -> None:
    async with streaming(service_url, {"query": PROGRESS, "variables": {"id": export.id}}) as stream:
        assert stream.response.status_code == 200
        assert stream.response.headers["content-type"] == "text/event-stream; charset=utf-8"
        assert stream.response.headers["cache-control"] == "no-store"
        assert await stream.message() == b":"
        assert await stream.message() == b'event: next\ndata: {"data":{"exportProgress":{"state":"INITIALIZED"}}}'
        await ledger.cancel(export.id)
        assert await stream.message() == b'event: next\ndata: {"data":{"exportProgress":{"state":"CANCELLED"}}}'
        assert await stream.message() == b"event: complete\ndata:"
        assert [chunk async for chunk in stream._bytes] == []


async def test_a_question_is_one_event(shared_url: str) -> None:
    for method in ("GET", "POST"):
        async with streaming(shared_url, {"query": "{ __typename }"}, method=method) as stream:
            assert await stream.event() == ("next", {"data": {"__typename": "Query"}})
            assert await stream.event() == ("complete", None)


@pytest.mark.parametrize(
    ("query", "code"),
    [
        ("{ facilities", "GRAPHQL_INVALID"),
        ("subscription { nothing }", "GRAPHQL_INVALID"),
        ("{ " + "a: __typename " * 200 + "}", "LIMIT_EXCEEDED"),
        ('subscription { exportProgress(id: "x") { id } }', "NOT_FOUND"),
    ],
)
async def test_errors_of_the_operation_are_events(shared_url: str, query: str, code: str) -> None:
    async with streaming(shared_url, {"query": query}) as stream:
        name, told = await stream.event()
        assert (name, told["errors"][0]["extensions"]["code"]) == ("next", code)
        assert await stream.event() == ("complete", None)


@pytest.mark.parametrize(
    ("method", "headers", "options", "status", "code"),
    [
        ("POST", {"origin": "https://evil.example"}, {"json": REVISIONS}, 403, "ORIGIN_REFUSED"),
        ("PUT", {}, {"json": REVISIONS}, 405, "METHOD_NOT_ALLOWED"),
        ("POST", {"accept": "application/json"}, {"json": REVISIONS}, 406, "NOT_ACCEPTABLE"),
        ("POST", {"accept": "text/event-stream;q=0, */*"}, {"json": REVISIONS}, 406, "NOT_ACCEPTABLE"),
        ("POST", {"content-type": "text/plain"}, {"content": json.dumps(REVISIONS)}, 415, "UNSUPPORTED_MEDIA_TYPE"),
        ("POST", {"content-type": "application/json"}, {"content": "null"}, 400, "BAD_REQUEST"),
        ("POST", {}, {"json": {"query": "x" * 300_000}}, 413, "BODY_TOO_LARGE"),
        ("POST", {}, {"json": {"variables": {}}}, 400, "BAD_REQUEST"),
        ("GET", {}, {"params": {"query": 'mutation { cancel(exportId: "x") { id } }'}}, 405, "METHOD_NOT_ALLOWED"),
        ("GET", {}, {"params": {"extensions": json.dumps({"persistedQuery": {"version": 1, "sha256Hash": "0" * 64}})}},
         200, "PERSISTED_QUERY_NOT_FOUND"),
    ],
)  # fmt: skip
async def test_what_is_no_request_for_events_is_refused(
    shared_url: str, method: str, headers: dict[str, str], options: dict[str, Any], status: int, code: str
) -> None:
    async with httpx.AsyncClient() as client:
        told = await client.request(method, f"{shared_url}/graphql/stream", headers=ACCEPT | headers, **options)
    assert (told.status_code, told.json()["errors"][0]["extensions"]["code"]) == (status, code)


async def test_subscriptions_at_the_usual_address_are_sent_here(shared_url: str) -> None:
    async with httpx.AsyncClient() as client:
        told = await client.post(f"{shared_url}/graphql", json=REVISIONS, headers={"accept": "*/*, text/event-stream"})
    assert "/graphql/stream" in told.json()["errors"][0]["message"]


# --- open connections -------------------------------------------------------------------------------------------------


@pytest.fixture
def crowded(service_settings: Settings, monkeypatch: pytest.MonkeyPatch) -> Callable[[], Any]:
    """Serve with one place, and a quick heart."""
    monkeypatch.setattr(connections.Places.__init__, "__defaults__", (1,))
    monkeypatch.setitem(events.GraphQLEvents.__init__.__kwdefaults__, "heartbeat_s", 0.05)
    return lambda: serving(service_settings)


async def test_while_nothing_happens_the_heart_beats(crowded: Callable[[], Any]) -> None:
    with crowded() as url:
        async with streaming(url, REVISIONS) as stream:
            assert (await stream.event())[0] == "next"
            assert [await stream.message() for _ in range(3)] == [b":"] * 3


async def test_a_client_that_goes_frees_its_place(crowded: Callable[[], Any]) -> None:
    with crowded() as url:
        async with streaming(url, REVISIONS) as stream:
            await stream.event()
            async with streaming(url, REVISIONS) as refused:
                assert refused.response.status_code == 503
                assert refused.response.headers["retry-after"] == "30"
        async with asyncio.timeout(20):
            while True:
                async with streaming(url, REVISIONS) as again:
                    if again.response.status_code == 200:
                        break


async def test_a_service_that_stops_ends_streams_without_saying_that_they_are_complete(
    service_settings: Settings,
) -> None:
    stopping = serving(service_settings)
    url = await asyncio.to_thread(stopping.__enter__)
    async with streaming(url, REVISIONS) as stream:
        await stream.event()
        stopped = asyncio.create_task(asyncio.to_thread(stopping.__exit__, None, None, None))
        async with asyncio.timeout(20):
            assert [chunk async for chunk in stream._bytes] == []
    await stopped
