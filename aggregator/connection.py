"""Limits on the heads of requests: uvicorn waits for ever for one, and takes one of any length.

A connection that sends nothing, or a byte a minute, or an address of many megabytes would hold memory for nothing.
"""

import asyncio
from http import HTTPStatus
from typing import Any

import orjson
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

MAX_HEAD_BYTES = 65_536
"""Longest head of a request that comes in pieces; one that comes at once is at most what is read at once."""

HEAD_TIMEOUT_S = 10.0
"""Longest time from the begin of a connection, or of a later request on it, until the head of the request is there."""


class GuardedProtocol(HttpToolsProtocol):
    """uvicorn's protocol, with limits on the heads of requests."""

    _head_bytes = 0
    _head_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn has it
        """Wait for the first request."""
        super().connection_made(transport)
        self._await_head()

    def connection_lost(self, exc: Exception | None) -> None:
        """Wait for nothing any more."""
        self._head_is_there()
        super().connection_lost(exc)

    def on_message_begin(self) -> None:
        """Wait for the head of the request that begins."""
        super().on_message_begin()
        self._await_head()

    def on_headers_complete(self) -> None:
        """Note that the head is there."""
        self._head_is_there()
        super().on_headers_complete()

    def data_received(self, data: bytes) -> None:
        """Read on, unless the head has become too long."""
        super().data_received(data)
        if self._head_timer is not None:
            self._head_bytes += len(data)
            if self._head_bytes > MAX_HEAD_BYTES:
                expected = f"at most {MAX_HEAD_BYTES}"
                self._refuse(
                    HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE,
                    "HEAD_TOO_LARGE",
                    f"head: got {self._head_bytes} bytes and more, expected {expected}",
                )

    def _await_head(self) -> None:
        self._head_is_there()
        self._head_timer = self.loop.call_later(HEAD_TIMEOUT_S, self._head_took_too_long)

    def _head_is_there(self) -> None:
        self._head_bytes = 0
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _head_took_too_long(self) -> None:
        if self._is_answering():  # the next request waits behind it, and is not read meanwhile
            self._await_head()
        elif self._head_bytes:
            message = f"head: not all of it came within {HEAD_TIMEOUT_S:g} s"
            self._refuse(HTTPStatus.REQUEST_TIMEOUT, "REQUEST_TIMEOUT", message)
        else:  # nobody asked anything: browsers open connections in advance
            self._head_is_there()
            self.transport.close()

    def _is_answering(self) -> bool:
        cycle: Any = self.cycle  # None before the first request, other than uvicorn says
        return cycle is not None and not cycle.response_complete

    def _refuse(self, status: HTTPStatus, code: str, message: str) -> None:
        """Tell what is wrong unless something else is being told, and close the connection."""
        self._head_is_there()
        if not self._is_answering():
            body = orjson.dumps({"errors": [{"message": message, "extensions": {"code": code}}]})
            head = (
                f"HTTP/1.1 {status.value} {status.phrase}\r\ncontent-type: application/json; charset=utf-8\r\n"
                f"content-length: {len(body)}\r\ncache-control: no-store\r\nconnection: close\r\n\r\n"
            )
            self.transport.write(head.encode() + body)
        self.transport.close()
