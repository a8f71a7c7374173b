"""GraphQL over WebSockets, by the protocol `graphql-transport-ws`: any number of operations over one connection.

Messages are handled one after the other, and whoever does not read what we send is not read from either; so a client
can make us keep no more than its operations, of which there are few.
"""

import asyncio
import logging
from collections.abc import Collection, Mapping
from contextlib import aclosing, suppress
from typing import Any

import orjson
from graphql import GraphQLError
from starlette.responses import Response
from starlette.websockets import WebSocket, WebSocketDisconnect

from aggregator.api.connections import FullError, Places, is_allowed_origin
from aggregator.api.context import Context
from aggregator.api.errors import LimitExceededError, as_graphql, format_errors
from aggregator.api.execution import Execution, Executor, Operation
from aggregator.api.live import EndingError
from aggregator.api.protocol import RequestError, read_asked, read_json

logger = logging.getLogger(__name__)

PROTOCOL = "graphql-transport-ws"

INIT_S = 10.0
"""How long a client may take for its first message."""

MAX_MESSAGE_BYTES = 256_000
"""Longest message of a client."""

MAX_OPERATIONS = 20
"""Operations that one connection carries at a time."""

MAX_ID = 128
"""Longest id that a client may give an operation, in characters."""

MAX_REASON_BYTES = 123
"""Room for words in the frame that closes a connection (RFC 6455, section 5.5)."""

SERVER_OPTIONS: Mapping[str, Any] = {
    "ws": "websockets-sansio",
    "ws_max_size": MAX_MESSAGE_BYTES,
    # A client that is gone without a word is noticed by the pong it does not send.
    "ws_ping_interval": 20.0,
    "ws_ping_timeout": 20.0,
    # What is packed small can be unpacked large.
    "ws_per_message_deflate": False,
}
"""How uvicorn has to carry WebSockets."""


class CloseError(Exception):
    """The connection ends, with a code of the protocol."""

    def __init__(self, code: int, reason: str) -> None:
        self.code = code
        self.reason = reason.encode()[:MAX_REASON_BYTES].decode(errors="ignore")
        super().__init__(reason)


class GraphQLSockets:
    """Accepts connections at ``/graphql``."""

    def __init__(
        self,
        executor: Executor,
        context: Context,
        places: Places,
        *,
        request_timeout_s: float,
        allowed_origins: Collection[str] = (),
        init_s: float = INIT_S,
    ) -> None:
        self._executor = executor
        self._context = context
        self._places = places
        self._request_timeout_s = request_timeout_s
        self._allowed_origins = allowed_origins
        self._init_s = init_s

    async def serve(self, websocket: WebSocket) -> None:
        """Serve one connection to its end."""
        headers = websocket.headers
        if not is_allowed_origin(headers.get("origin"), host=headers.get("host"), allowed=self._allowed_origins):
            await websocket.send_denial_response(Response("this page may not open connections here\n", 403))
            return
        try:
            with self._places.take():
                await self._talk(websocket)
        except FullError:
            full = Response("there are too many connections, try again later\n", 503, {"retry-after": "30"})
            await websocket.send_denial_response(full)

    async def _talk(self, websocket: WebSocket) -> None:
        if PROTOCOL not in websocket.scope["subprotocols"]:
            await websocket.accept()
            await websocket.close(4406, f"expected the subprotocol {PROTOCOL}")
            return
        await websocket.accept(PROTOCOL)
        conversation = Conversation(websocket, self._executor, self._context, self._request_timeout_s)
        try:
            await conversation.hold(self._init_s)
        except WebSocketDisconnect:
            pass
        except CloseError as error:
            # What runs must not send any more when the connection is closed.
            await conversation.end()
            await websocket.close(error.code, error.reason)
        finally:
            await conversation.end()


class Conversation:
    """What is said over one connection."""

    def __init__(self, websocket: WebSocket, executor: Executor, context: Context, request_timeout_s: float) -> None:
        self._websocket = websocket
        self._executor = executor
        self._context = context
        self._request_timeout_s = request_timeout_s
        self._is_acknowledged = False
        self._running: dict[str, asyncio.Task[None]] = {}

    async def hold(self, init_s: float) -> None:
        """Handle the client's messages until it goes.

        Raises
        ------
        CloseError
            It broke the protocol.
        WebSocketDisconnect
            It is gone.
        """
        try:
            async with asyncio.timeout(init_s):
                while not self._is_acknowledged:
                    await self._handle(await self._receive())
        except TimeoutError as error:
            raise CloseError(4408, "Connection initialisation timeout") from error
        while True:
            await self._handle(await self._receive())

    async def end(self) -> None:
        """Stop all operations."""
        running = list(self._running.values())
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)

    # --- messages of the client ----------------------------------------------------------------------------------

    async def _receive(self) -> dict[str, Any]:
        message = await self._websocket.receive()
        if message["type"] == "websocket.disconnect":
            raise WebSocketDisconnect(message.get("code", 1005))
        text = message.get("text")
        if text is None:
            raise CloseError(4400, "expected text")
        return parse_message(text)

    async def _handle(self, message: Mapping[str, Any]) -> None:
        match message["type"]:
            case "connection_init":
                await self._acknowledge(message)
            case "ping":
                await self._send({"type": "pong"})
            case "pong":
                pass
            case "subscribe":
                await self._subscribe(message)
            case "complete":
                task = self._running.pop(_id_of(message), None)
                if task is not None:
                    task.cancel()
            case _:
                raise CloseError(4400, "unknown type of message")

    async def _acknowledge(self, message: Mapping[str, Any]) -> None:
        if self._is_acknowledged:
            raise CloseError(4429, "Too many initialisation requests")
        if not isinstance(message.get("payload"), dict | None):
            raise CloseError(4400, "payload: expected an object")
        self._is_acknowledged = True
        await self._send({"type": "connection_ack"})

    async def _subscribe(self, message: Mapping[str, Any]) -> None:
        if not self._is_acknowledged:
            raise CloseError(4401, "Unauthorized")
        number, operation = _id_of(message), parse_operation(message.get("payload"))
        if number in self._running:
            raise CloseError(4409, f"Subscriber for {number} already exists")
        if len(self._running) >= MAX_OPERATIONS:
            excess = LimitExceededError("subscriptions", len(self._running) + 1, MAX_OPERATIONS)
            await self._send({"id": number, "type": "error", "payload": format_errors([as_graphql(excess)])})
            return
        self._running[number] = asyncio.create_task(self._carry_out(number, operation))

    # --- operations ----------------------------------------------------------------------------------------------

    async def _carry_out(self, number: str, operation: Operation) -> None:
        try:
            last = await self._send_executions(number, operation)
        except (EndingError, WebSocketDisconnect):
            # The client is told by the end of the connection, and subscribes again elsewhere or later.
            self._forget(number)
            return
        except Exception as error:  # noqa: BLE001  # the top of an operation
            masked = GraphQLError("an operation failed", original_error=error, path=["operation"])
            last = {"id": number, "type": "error", "payload": format_errors([masked])}
        # Before it is said: from then on the client may use the id for something else.
        self._forget(number)
        with suppress(WebSocketDisconnect, RuntimeError):  # it may be gone, or have been closed, in between
            await self._send(last)

    async def _send_executions(self, number: str, operation: Operation) -> dict[str, Any]:
        """Send what comes of an operation, but for the last message, which is returned."""
        context = self._context.for_operation()
        async with aclosing(self._executor.stream(operation, context, timeout_s=self._request_timeout_s)) as executions:
            async for execution in executions:
                if execution.is_refused:
                    return {"id": number, "type": "error", "payload": _errors_of(execution)}
                await self._send({"id": number, "type": "next", "payload": orjson.Fragment(execution.body)})
        return {"id": number, "type": "complete"}

    def _forget(self, number: str) -> None:
        if self._running.get(number) is asyncio.current_task():
            del self._running[number]

    async def _send(self, message: Mapping[str, Any]) -> None:
        await self._websocket.send_text(orjson.dumps(message).decode())


def parse_message(text: str) -> dict[str, Any]:
    """Return a message of the protocol.

    Raises
    ------
    CloseError
        It is none.
    """
    try:
        message = read_json("message", text.encode())
    except RequestError as error:
        raise CloseError(4400, str(error)) from error
    if not isinstance(message, dict) or not isinstance(message.get("type"), str):
        raise CloseError(4400, "expected an object with a type")
    return message


def parse_operation(payload: Any) -> Operation:
    """Return what the payload of a message asks for.

    Raises
    ------
    CloseError
        It asks for nothing.
    """
    if not isinstance(payload, dict):
        raise CloseError(4400, "payload: expected an object")
    try:
        asked = read_asked(payload)
    except RequestError as error:
        raise CloseError(4400, f"payload.{error}") from error
    if asked.document is None:
        raise CloseError(4400, "payload.query: expected a text")
    return asked.with_document(asked.document)


def _id_of(message: Mapping[str, Any]) -> str:
    number = message.get("id")
    if not isinstance(number, str) or not 0 < len(number) <= MAX_ID:
        raise CloseError(4400, f"id: expected a text of up to {MAX_ID} characters")
    return number


def _errors_of(execution: Execution) -> Any:
    return orjson.loads(execution.body)["errors"]
