"""Many who want the same at the same time, and one who makes it: in this process, and among all processes.

Among processes it is a lease in Redis that runs out when its holder dies; those who wait for it then take over. Without
Redis each process makes it once.
"""

import asyncio
import os
import secrets
import time
from collections.abc import Awaitable, Callable, Hashable
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

from aggregator.cache import LEASE_MS, Lease

T = TypeVar("T")

FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.005, 0.05
"""Pauses between two looks whether somebody else's work is done: the first, and the longest of those after it."""

MAX_WAIT_S = 30.0
"""Longest wait for somebody else's work: no statement takes longer unless the installation allows it."""


class Leases(Protocol):
    """What is needed of the cache."""

    async def take_lease(self, name: str, token: str) -> Lease:
        """Ask for the right to make something."""
        ...

    def renew_lease(self, name: str, token: str) -> None:
        """Say that who makes it still lives."""
        ...

    def release_lease(self, name: str, token: str, *, is_kept: bool) -> None:
        """Say that it is made."""
        ...


@dataclass(kw_only=True, slots=True)
class _Flight:
    task: "asyncio.Task[Any]"
    n_waiting: int = 0


class Flights:
    """What is being made."""

    def __init__(self, leases: Leases) -> None:
        self._leases = leases
        self._flights: dict[Hashable, _Flight] = {}

    async def here(self, key: Hashable, fly: Callable[[], Awaitable[T]]) -> T:
        """Run `fly` once for all callers in this process with this key.

        A caller that goes away does not end it for the others; when the last one goes, it ends.
        """
        flight = self._flights.get(key)
        if flight is None:
            flight = self._flights[key] = _Flight(task=asyncio.ensure_future(fly()))
            flight.task.add_done_callback(lambda _done: self._forget(key, flight))
        flight.n_waiting += 1
        try:
            found: T = await asyncio.shield(flight.task)
        finally:
            flight.n_waiting -= 1
            if flight.n_waiting == 0 and not flight.task.done():
                self._forget(key, flight)  # whoever asks now begins anew
                flight.task.cancel()
        return found

    def _forget(self, key: Hashable, flight: _Flight) -> None:
        if self._flights.get(key) is flight:
            del self._flights[key]

    async def everywhere(
        self,
        name: str,
        *,
        find: Callable[[], Awaitable[T | None]],
        make: Callable[[], Awaitable[tuple[T, bool]]],
    ) -> T:
        """Run `make` once for all processes that want what `name` stands for.

        Parameters
        ----------
        find
            Looks whether somebody has made it meanwhile.
        make
            Makes it, and tells whether it was kept where `find` finds it.
        """
        give_up_at, pause_s = time.monotonic() + MAX_WAIT_S, FIRST_PAUSE_S
        while True:
            token = f"{os.getpid()} {secrets.token_hex(8)}"  # who looks into Redis sees who it is
            lease, found = await asyncio.gather(self._leases.take_lease(name, token), find())
            if found is not None:
                if lease is Lease.TAKEN:
                    self._leases.release_lease(name, token, is_kept=True)
                return found
            if lease is Lease.TAKEN:
                return await self._lead(name, token, make)
            if lease is Lease.NONE or time.monotonic() > give_up_at:
                return (await make())[0]
            await asyncio.sleep(pause_s)
            pause_s = min(1.5 * pause_s, LONGEST_PAUSE_S)

    async def _lead(self, name: str, token: str, make: Callable[[], Awaitable[tuple[T, bool]]]) -> T:
        renewing = asyncio.create_task(self._keep_renewing(name, token))
        is_kept = True  # after an error the next one tries
        try:
            made, is_kept = await make()
            return made
        finally:
            renewing.cancel()
            self._leases.release_lease(name, token, is_kept=is_kept)

    async def _keep_renewing(self, name: str, token: str) -> None:
        while True:
            await asyncio.sleep(LEASE_MS / 3000)
            self._leases.renew_lease(name, token)
