"""Who may work when more is asked than can be done: a few at once, some who wait, and the rest is refused at once.

Refusing early is what keeps a service answering: work that nobody waits for any more is not done, and what is done is
done in time. Those who wait are served in turn by client, so that one that asks for a thousand things at once waits
for itself, and others do not.
"""

import asyncio
from collections import OrderedDict, deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

MAX_WAITING = 500
"""Operations that wait for their turn: at a few milliseconds each, a second's work."""

MAX_WAIT_S = 5.0
"""Longest wait for a turn; who comes again later is served sooner."""


class BusyError(Exception):
    """There is no room for one more, or its turn did not come in time."""


class Admission:
    """Lets operations work.

    Parameters
    ----------
    at_once
        How many may work at a time.
    """

    def __init__(self, at_once: int, *, waiting: int | None = None, wait_s: float = MAX_WAIT_S) -> None:
        self._free = at_once
        self._max_waiting = MAX_WAITING if waiting is None else waiting
        self._wait_s = wait_s
        self._waiting: OrderedDict[str, deque[asyncio.Future[None]]] = OrderedDict()
        self.n_waiting = 0

    @asynccontextmanager
    async def turn(self, client: str) -> AsyncIterator[None]:
        """Give a turn to work.

        Raises
        ------
        BusyError
            There is none.
        """
        if self._free > 0:
            self._free -= 1
        else:
            await self._wait(client)
        try:
            yield
        finally:
            self._pass_on()

    async def _wait(self, client: str) -> None:
        if self.n_waiting >= self._max_waiting:
            self._make_room(client)
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(client, deque()).append(turn)
        self.n_waiting += 1
        try:
            async with asyncio.timeout(self._wait_s):
                await turn
        except BaseException as error:
            if turn.done() and not turn.cancelled() and turn.exception() is None:
                self._pass_on()  # it came too late
            else:
                self._leave(client, turn)
            if isinstance(error, TimeoutError):
                raise BusyError from error
            raise

    def _make_room(self, client: str) -> None:
        """Refuse one of those of the client that has most waiting; the newcomer, if that is its own."""
        longest = max(self._waiting, key=lambda name: len(self._waiting[name]))
        if len(self._waiting[longest]) <= len(self._waiting.get(client, ())) + 1:
            raise BusyError
        refused = self._waiting[longest][-1]
        self._leave(longest, refused)
        if not refused.done():
            refused.set_exception(BusyError())

    def _leave(self, client: str, turn: "asyncio.Future[None]") -> None:
        queue = self._waiting.get(client)
        if queue is not None and turn in queue:
            queue.remove(turn)
            self.n_waiting -= 1
            if not queue:
                del self._waiting[client]

    def _pass_on(self) -> None:
        """Give a turn that is over to the next one who waits."""
        while self._waiting:
            client, queue = next(iter(self._waiting.items()))
            turn = queue.popleft()
            self.n_waiting -= 1
            if queue:
                self._waiting.move_to_end(client)
            else:
                del self._waiting[client]
            if not turn.done():
                turn.set_result(None)
                return
        self._free += 1
