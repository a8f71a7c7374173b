"""GraphQL as server-sent events at ``/graphql/stream``: one operation for each request, its results as they come.

It has an address of its own because some clients list ``text/event-stream`` for every request, and take no events for
an answer to a question. Lines end in LF alone, which all of them read.

Notes
-----
The "distinct connections mode" of GraphQL over Server-Sent Events. Errors in the operation are events as well, because
a status other than 200 makes browsers end the stream without showing why.
"""

import asyncio
from collections.abc import AsyncGenerator, Collection
from contextlib import aclosing

from graphql import OperationType
from starlette.types import Receive, Scope, Send

from aggregator.api.connections import FullError, Places, is_allowed_origin
from aggregator.api.context import Context
from aggregator.api.endpoint import (
    BODY_TIMEOUT_S,
    ClientGoneError,
    find_header,
    mask,
    read_checked_body,
    send_reply,
    wait_until_gone,
)
from aggregator.api.execution import Execution, Executor, Operation
from aggregator.api.live import EndingError
from aggregator.api.protocol import (
    MediaType,
    Reply,
    RequestError,
    accepts,
    parse_address,
    parse_body,
    refuse,
    unknown_document,
)

HEARTBEAT_S = 12.0
"""Longest silence: many proxies end a connection on which nothing comes for 15 to 60 seconds."""

EVENTS = "text/event-stream"

HEADERS = (
    (b"content-type", f"{EVENTS}; charset=utf-8".encode()),
    (b"cache-control", b"no-store"),
    # Else nginx gathers events until they fill a page.
    (b"x-accel-buffering", b"no"),
)

HEARTBEAT = b":\n\n"
COMPLETE = b"event: complete\ndata:\n\n"


class GraphQLEvents:
    """Answers operations with streams of events."""

    def __init__(
        self,
        executor: Executor,
        context: Context,
        places: Places,
        *,
        request_timeout_s: float,
        allowed_origins: Collection[str] = (),
        heartbeat_s: float = HEARTBEAT_S,
    ) -> None:
        self._executor = executor
        self._context = context
        self._places = places
        self._request_timeout_s = request_timeout_s
        self._allowed_origins = allowed_origins
        self._heartbeat_s = heartbeat_s

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        try:
            self._check(scope)
            operation = await self._read(scope, receive)
            with self._places.take():
                await self._stream(operation, receive, send)
        except ClientGoneError:
            return
        except FullError:
            await send_reply(_full(), send)
        except RequestError as error:
            await send_reply(refuse(error, MediaType.JSON), send)

    # --- reading -------------------------------------------------------------------------------------------------

    def _check(self, scope: Scope) -> None:
        origin, host = find_header(scope, b"origin"), find_header(scope, b"host")
        if not is_allowed_origin(origin, host=host, allowed=self._allowed_origins):
            message = "Origin: got another site, expected this one, or one that the settings name"
            raise RequestError(403, "ORIGIN_REFUSED", message, field="Origin", expected="this site")
        if scope["method"] not in ("GET", "POST"):
            headers = [(b"allow", b"GET, POST")]
            message = f"method: got {scope['method'][:20]!r}, expected GET or POST"
            raise RequestError(
                405, "METHOD_NOT_ALLOWED", message, headers=headers, field="method", expected="GET, POST"
            )
        if not accepts(find_header(scope, b"accept"), EVENTS):
            message = f"Accept: expected {EVENTS}"
            raise RequestError(406, "NOT_ACCEPTABLE", message, field="Accept", expected=EVENTS)

    async def _read(self, scope: Scope, receive: Receive) -> Operation:
        if scope["method"] == "POST":
            asked = parse_body(await read_checked_body(scope, receive, BODY_TIMEOUT_S))
        else:
            asked = parse_address(scope["query_string"])
        if asked.document is None:
            raise unknown_document(asked)
        operation = asked.with_document(asked.document)
        if scope["method"] == "GET" and self._executor.kind_of(operation) is OperationType.MUTATION:
            headers = [(b"allow", b"POST")]
            message = "method: got GET, expected POST: by GET nothing is changed"
            raise RequestError(405, "METHOD_NOT_ALLOWED", message, headers=headers, field="method", expected="POST")
        return operation

    # --- answering -----------------------------------------------------------------------------------------------

    async def _stream(self, operation: Operation, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": list(HEADERS)})
        gone = asyncio.ensure_future(wait_until_gone(receive))
        try:
            async with aclosing(self._events(operation, gone)) as events:
                async for event in events:
                    await send({"type": "http.response.body", "body": event, "more_body": True})
            await send({"type": "http.response.body", "body": b""})
        finally:
            gone.cancel()

    async def _events(self, operation: Operation, gone: asyncio.Future[None]) -> AsyncGenerator[bytes]:
        yield HEARTBEAT  # so that the client knows at once that it was heard
        context = self._context.for_operation()
        async with aclosing(self._executor.stream(operation, context, timeout_s=self._request_timeout_s)) as executions:
            coming = _next_of(executions)
            try:
                while not gone.done():
                    await asyncio.wait((coming, gone), timeout=self._heartbeat_s, return_when=asyncio.FIRST_COMPLETED)
                    if not coming.done():
                        yield HEARTBEAT
                        continue
                    execution = coming.result()
                    if execution is None:
                        yield COMPLETE
                        return
                    yield b"event: next\ndata: " + execution.body + b"\n\n"
                    coming = _next_of(executions)
            except EndingError:
                # Without the last event the client knows that there is more, and comes again.
                return
            except Exception as error:  # noqa: BLE001  # the top of a request whose status is sent
                yield b"event: next\ndata: " + refuse(mask(error), MediaType.JSON).body + b"\n\n" + COMPLETE
            finally:
                await _end(coming)


def _next_of(executions: AsyncGenerator[Execution]) -> "asyncio.Task[Execution | None]":
    async def read() -> Execution | None:
        return await anext(executions, None)

    return asyncio.create_task(read())


async def _end(task: "asyncio.Task[Execution | None]") -> None:
    """Cancel a task, and wait until it has let go of what it read."""
    task.cancel()
    await asyncio.wait((task,))
    if not task.cancelled():
        task.exception()  # which was told, or comes too late to be told


def _full() -> Reply:
    message = "too many connections stay open here; try again later"
    return refuse(RequestError(503, "TOO_MANY_CONNECTIONS", message, headers=[(b"retry-after", b"30")]), MediaType.JSON)
