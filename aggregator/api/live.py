"""Things that change by themselves, looked at once for all who follow them.

An export is read once in `LIVE_S` however many follow it, and each follower is handed the newest state when it is ready
for one: who reads slowly misses what was in between, and nothing is kept for him.
"""

import asyncio
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Hashable
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from aggregator.api.errors import LimitExceededError
from metadata_db.errors import UnavailableError

T = TypeVar("T")

LIVE_S = 0.5
"""How often things are looked at that somebody follows."""

PATIENCE_S = 60.0
"""How long followers wait for a database that is away."""

MAX_WATCHES = 200
"""Things that one process looks at, at a time: each costs a few statements a second."""


class EndingError(Exception):
    """The service ends; what is followed goes on, and can be followed at another process or after the restart."""


@dataclass(kw_only=True, eq=False)
class Watch(Generic[T]):
    """One thing that is followed."""

    followers: int = 0
    value: T | None = None
    number: int = 0
    """How often the value changed; 0 before the first one."""
    error: Exception | None = None
    changed: asyncio.Event = field(default_factory=asyncio.Event)
    task: "asyncio.Task[None] | None" = None

    def tell(self, value: T) -> None:
        """Hand a value to the followers, if it is a new one."""
        if self.number == 0 or value != self.value:
            self.value = value
            self.number += 1
            self.wake()

    def fail(self, error: Exception) -> None:
        """End the following by an error."""
        self.error = error
        self.wake()

    def wake(self) -> None:
        """Let the followers look."""
        self.changed.set()
        self.changed = asyncio.Event()


class Live:
    """Follows what changes, for everybody in one process."""

    def __init__(self, *, every_s: float = LIVE_S, patience_s: float = PATIENCE_S) -> None:
        self._every_s = every_s
        self._patience_s = patience_s
        self._watches: dict[Hashable, Watch[Any]] = {}
        self._is_ending = False

    def end(self) -> None:
        """End all following: the service stops."""
        self._is_ending = True
        for watch in self._watches.values():
            watch.wake()

    async def follow(self, key: Hashable, look: Callable[[], Awaitable[T]]) -> AsyncGenerator[T]:
        """Yield what `look` finds, at once and then whenever that is something else.

        Parameters
        ----------
        key
            What is followed: of all who follow it at the same time, the first one's `look` serves everybody.

        Raises
        ------
        LimitExceededError
            Too many things are followed already.
        EndingError
            The service ends.
        """
        watch = self._watch(key, look)
        watch.followers += 1
        try:
            async with aclosing(self._read(watch)) as values:
                async for value in values:
                    yield value
        finally:
            watch.followers -= 1
            if watch.followers == 0:
                self._drop(key, watch)

    def _watch(self, key: Hashable, look: Callable[[], Awaitable[T]]) -> Watch[T]:
        watch = self._watches.get(key)
        if watch is None or watch.error is not None:
            if len(self._watches) >= MAX_WATCHES:
                raise LimitExceededError("watches", len(self._watches) + 1, MAX_WATCHES)
            watch = self._watches[key] = Watch()
            watch.task = asyncio.create_task(self._look_again_and_again(watch, look))
        return watch

    def _drop(self, key: Hashable, watch: Watch[Any]) -> None:
        if self._watches.get(key) is watch:
            del self._watches[key]
        if watch.task is not None:
            watch.task.cancel()

    async def _read(self, watch: Watch[T]) -> AsyncGenerator[T]:
        seen = 0
        while True:
            changed = watch.changed
            if self._is_ending:
                raise EndingError
            if watch.number > seen:
                seen = watch.number
                yield watch.value  # type: ignore[misc]  # it is set, as it has a number
            elif watch.error is not None:
                raise watch.error
            else:
                await changed.wait()

    async def _look_again_and_again(self, watch: Watch[T], look: Callable[[], Awaitable[T]]) -> None:
        answered_at = time.monotonic()
        while True:
            try:
                watch.tell(await look())
                answered_at = time.monotonic()
            except UnavailableError as error:
                if time.monotonic() - answered_at > self._patience_s:
                    watch.fail(error)
                    return
            except Exception as error:  # noqa: BLE001  # told to the followers, who tell it as what it is
                watch.fail(error)
                return
            await asyncio.sleep(self._every_s)
