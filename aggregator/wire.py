"""Requests whose bytes are known are answered before anybody reads them as HTTP.

A client that asks the same again sends the same bytes, head and body, mostly in one piece. What was answered to such a
piece is told again as soon as it comes in, if it still holds: no request is parsed, no task is started. Everything
else goes the usual way, and so does everything on a connection that is in the middle of something.
"""

import asyncio
from functools import partial
from typing import Any, Protocol, cast

from aggregator.connection import GuardedProtocol

WHOLE = "catchment.whole"
"""Where the scope has the bytes of a request, if they came in one piece with nothing before or behind them."""

MAX_WHOLE_BYTES = 16_000
"""Longest piece that is looked at."""

REARM_S = 1.0
"""How often the clock that closes idle connections is set anew."""


class Teller(Protocol):
    """Who knows answers; they begin with their first header."""

    def tell(self, whole: bytes) -> bytes | None:
        """Return the answer to the bytes of a request; None when it is not at hand."""
        ...

    def ask(self, whole: bytes) -> "asyncio.Future[Any] | None":
        """Ask for the answer; None when that is of no use."""
        ...

    def take(self, whole: bytes, asked: "asyncio.Future[Any]") -> bytes | None:
        """Return the answer that was asked for; None when it is not to be had."""
        ...


class WireProtocol(GuardedProtocol):
    """The server's protocol with a short way to known answers."""

    def __init__(self, *arguments: Any, teller: Teller, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self._teller = teller
        self._is_between = True
        """Whether the last request has been read to its end."""
        self._n_begun = 0
        self._armed_at = 0.0
        self._held: list[bytes] | None = None
        """What came while an answer is asked for; None when none is."""
        self._is_ending = False

    def data_received(self, data: bytes) -> None:
        """Answer what is known, and read everything else."""
        if self._held is not None:
            self._held.append(data)
            self.flow.pause_reading()
        elif not (self._is_between and len(data) <= MAX_WHOLE_BYTES) or self._is_answering() or self.flow.write_paused:
            self._read(data)
        elif (answer := self._teller.tell(data)) is not None:
            self._answer_at_once(answer)
        elif (asked := self._teller.ask(data)) is not None:
            self._unset_keepalive_if_required()
            self._head_is_there()
            self._held = []
            asked.add_done_callback(partial(self._take, data))
        else:
            self._read(data)

    def _read(self, data: bytes) -> None:
        was_between = self._is_between
        self._n_begun = 0
        super().data_received(data)
        if was_between and self._is_between and self._n_begun == 1:
            cast("dict[str, Any]", self.scope)[WHOLE] = data

    def _take(self, data: bytes, asked: "asyncio.Future[Any]") -> None:
        """Answer with what was asked for, or read the request after all; then go on with what came meanwhile."""
        held, self._held = self._held or [], None
        if self.transport.is_closing():
            return
        answer = self._teller.take(data, asked)
        if answer is None:
            self._read(data)
        else:
            self._answer_at_once(answer)
        if held:
            self.flow.resume_reading()
        for piece in held:
            self.data_received(piece)
        if self._is_ending:
            super().shutdown()

    def shutdown(self) -> None:
        """Close the connection, or have it closed when what is under way is done."""
        if self._held is None:
            super().shutdown()
        else:
            self._is_ending = True

    def on_message_begin(self) -> None:
        """Note that a request is being read."""
        self._is_between = False
        self._n_begun += 1
        super().on_message_begin()

    def on_message_complete(self) -> None:
        """Note that a request has been read."""
        self._is_between = True
        super().on_message_complete()

    def _answer_at_once(self, answer: bytes) -> None:
        self._head_is_there()
        now = self.loop.time()
        if self.timeout_keep_alive_task is None or now - self._armed_at > REARM_S:
            self._unset_keepalive_if_required()
            self._armed_at = now
            self.timeout_keep_alive_task = self.loop.call_later(
                self.timeout_keep_alive, self.timeout_keep_alive_handler
            )
        self.server_state.total_requests += 1
        head = [b"HTTP/1.1 200 OK\r\n"]
        for name, value in self.server_state.default_headers:
            head += (name, b": ", value, b"\r\n")
        self.transport.write(b"".join((*head, answer)))
