"""The endpoint ``/graphql``: reads requests within limits, has them carried out, and sends what came of them.

It is a plain ASGI application; what requests and replies mean is in `protocol.py`. It has no page of its own, because
the known ones load scripts from elsewhere.
"""

import asyncio
import logging
import secrets
from typing import Any

from graphql import OperationType
from starlette.types import Receive, Scope, Send

from aggregator.api.context import Context
from aggregator.api.documents import PersistedDocuments
from aggregator.api.execution import Execution, Executor, Operation
from aggregator.api.protocol import (
    MAX_BODY_BYTES,
    RETRY_AFTER_S,
    Asked,
    MediaType,
    Reply,
    RequestError,
    body_too_large,
    check_body_headers,
    choose_media_type,
    parse_address,
    parse_body,
    parse_document_id,
    refuse,
    tell,
    tell_cacheable,
    unknown_document,
)

logger = logging.getLogger(__name__)

BODY_TIMEOUT_S = 10.0
"""How long a client may take to send the body of a request: 200 kB in ten seconds are a very slow line."""

CLOSE = (b"connection", b"close")


class ClientGoneError(Exception):
    """The client went away: nobody is left to be answered."""


class GraphQLEndpoint:
    """Answers operations, at ``/graphql`` and, those of known documents, at ``/graphql/<sha256>``."""

    def __init__(
        self,
        executor: Executor,
        context: Context,
        documents: PersistedDocuments,
        *,
        request_timeout_s: float,
    ) -> None:
        self._executor = executor
        self._context = context
        self._documents = documents
        self._request_timeout_s = request_timeout_s
        self._body_timeout_s = min(BODY_TIMEOUT_S, request_timeout_s)
        self._ending: set[asyncio.Task[Any]] = set()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        media_type = MediaType.JSON
        try:
            _check_method(scope)
            media_type = choose_media_type(find_header(scope, b"accept"))
            reply = await self._answer(scope, receive, media_type)
        except RequestError as error:
            reply = refuse(error, media_type)
        except ClientGoneError:
            return
        except Exception as error:  # noqa: BLE001  # the top of a request
            reply = refuse(mask(error), media_type)
        await send_reply(reply, send)

    async def _answer(self, scope: Scope, receive: Receive, media_type: MediaType) -> Reply:
        if scope["method"] == "POST":
            asked = parse_body(await read_checked_body(scope, receive, self._body_timeout_s))
            return tell(await self._carry_out(await self._operation(asked), receive), media_type)
        document_id = scope.get("path_params", {}).get("document")
        sha256 = None if document_id is None else parse_document_id(document_id)
        operation = await self._operation(parse_address(scope["query_string"], sha256))
        execution = await self._carry_out(operation, receive, only_queries=True)
        return tell_cacheable(
            execution,
            media_type,
            if_none_match=find_header(scope, b"if-none-match"),
            is_personal=find_header(scope, b"authorization") is not None,
        )

    # --- reading -------------------------------------------------------------------------------------------------

    async def _operation(self, asked: Asked) -> Operation:
        document = asked.document
        if document is None and asked.sha256 is not None:
            document = await self._documents.find(asked.sha256)
        if document is None:
            raise unknown_document(asked)
        return asked.with_document(document)

    # --- carrying out --------------------------------------------------------------------------------------------

    async def _carry_out(self, operation: Operation, receive: Receive, *, only_queries: bool = False) -> Execution:
        kind = self._executor.kind_of(operation)
        if kind is OperationType.MUTATION and only_queries:
            headers = [(b"allow", b"POST")]
            message = "method: got GET, expected POST: by GET only queries are answered"
            raise RequestError(405, "METHOD_NOT_ALLOWED", message, headers=headers, field="method", expected="POST")
        if kind is OperationType.SUBSCRIPTION:
            message = (
                "operation: got a subscription, expected a query or a mutation: subscriptions are answered over "
                "WebSockets, or as events at /graphql/stream"
            )
            raise RequestError(400, "BAD_REQUEST", message, field="operation", expected="a query or a mutation")
        execution = await self._within_limits(operation, receive)
        if not execution.is_refused:
            await self._documents.keep(operation.document)
        return execution

    async def _within_limits(self, operation: Operation, receive: Receive) -> Execution:
        """Carry out an operation unless that takes too long, and as long as somebody waits for it."""
        work = asyncio.ensure_future(self._executor.execute(operation, self._context.for_operation()))
        gone = asyncio.ensure_future(wait_until_gone(receive))
        try:
            await asyncio.wait((work, gone), timeout=self._request_timeout_s, return_when=asyncio.FIRST_COMPLETED)
        finally:
            self._end(gone)
            self._end(work)
        if work.done():
            return work.result()
        if gone.done():
            raise ClientGoneError
        raise _too_long(self._request_timeout_s)

    def _end(self, task: asyncio.Task[Any]) -> None:
        """Let a task end by itself: what it undoes, such as a statement of the database, is not waited for."""
        if task.done():
            return
        self._ending.add(task)
        task.add_done_callback(self._ended)
        task.cancel()

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self._ending.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            logger.info("cancelled work failed: %s", type(error).__name__, extra={"action": "graphql"})


BODY_HEADERS = (b"content-type", b"content-encoding", b"content-length")


def find_header(scope: Scope, name: bytes) -> str | None:
    """Return a header, the values of several joined; None when it is not there."""
    found = [value for key, value in scope["headers"] if key == name]
    return b", ".join(found).decode("latin-1") if found else None


async def read_checked_body(scope: Scope, receive: Receive, timeout_s: float) -> bytes:
    """Return the body of a request whose headers say that it is one of ours.

    Raises
    ------
    RequestError
        It is another kind of body, too long, or too slow.
    ClientGoneError
        The client went away before all of it came.
    """
    check_body_headers(*(find_header(scope, name) for name in BODY_HEADERS))
    try:
        async with asyncio.timeout(timeout_s):
            return await read_body(receive)
    except TimeoutError as error:
        message = f"body: not all of it came within {timeout_s:g} s"
        expected = f"all of it within {timeout_s:g} s"
        raise RequestError(408, "REQUEST_TIMEOUT", message, headers=[CLOSE], field="body", expected=expected) from error


async def read_body(receive: Receive) -> bytes:
    """Return the body of a request.

    Raises
    ------
    RequestError
        It is longer than `MAX_BODY_BYTES`: 413; of the rest nothing is kept.
    ClientGoneError
        The client went away before all of it came.
    """
    chunks: list[bytes] = []
    size = 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientGoneError
        chunk = message.get("body", b"")
        size += len(chunk)
        if size > MAX_BODY_BYTES:
            raise body_too_large(f"at least {size}")
        chunks.append(chunk)
        if not message.get("more_body", False):
            return b"".join(chunks)


async def send_reply(reply: Reply, send: Send) -> None:
    """Send a reply."""
    await send({"type": "http.response.start", "status": reply.status, "headers": list(reply.headers)})
    await send({"type": "http.response.body", "body": reply.body})


def _check_method(scope: Scope) -> None:
    allowed = ("GET", "HEAD") if "document" in scope.get("path_params", {}) else ("GET", "HEAD", "POST")
    if scope["method"] not in allowed:
        told = ", ".join(allowed)
        message = f"method: got {scope['method'][:20]!r}, expected {told}"
        headers = [(b"allow", told.encode())]
        raise RequestError(405, "METHOD_NOT_ALLOWED", message, headers=headers, field="method", expected=told)


async def wait_until_gone(receive: Receive) -> None:
    """Wait for the client to go away."""
    while (await receive())["type"] != "http.disconnect":
        pass


def _too_long(limit_s: float) -> RequestError:
    return RequestError(
        503,
        "TIMEOUT",
        f"the answer was not ready within {limit_s:g} s; ask for less, or again in a moment",
        headers=[(b"retry-after", str(RETRY_AFTER_S).encode())],
        expected=f"an answer within {limit_s:g} s",
    )


def mask(error: Exception) -> RequestError:
    """Return what is told of an error that nobody but the operators may know."""
    reference = secrets.token_hex(4)
    logger.error("a request failed", exc_info=error, extra={"action": "graphql", "reference": reference})
    message = f"something went wrong here; the operators find it in their log as {reference}"
    return RequestError(500, "INTERNAL", message, reference=reference)
