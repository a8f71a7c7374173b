"""What many want at the same time is made once: in a process, among processes, and when its maker dies."""

import asyncio
from collections.abc import AsyncIterator, Awaitable

import pytest

from aggregator.cache import LEASE_MS, CacheManager, Lease
from aggregator.flights import Flights

pytestmark = pytest.mark.anyio


@pytest.fixture
async def processes(redis_url: str) -> AsyncIterator[list[Flights]]:
    """Four that share nothing but Redis."""
    caches = [CacheManager(redis_url, answer_ttl_s=60) for _ in range(4)]
    yield [Flights(cache) for cache in caches]
    for cache in caches:
        await cache.close()


class Work:
    """Makes something slowly, and counts how often."""

    def __init__(self, *, is_kept: bool = True) -> None:
        self.made = 0
        self.at_once = 0
        self._under_way = 0
        self.kept: str | None = None
        self._is_kept = is_kept

    async def find(self) -> str | None:
        return self.kept

    async def make(self) -> tuple[str, bool]:
        self.made += 1
        self._under_way += 1
        self.at_once = max(self.at_once, self._under_way)
        await asyncio.sleep(0.5)
        self._under_way -= 1
        if self._is_kept:
            self.kept = "made"
        return "made", self._is_kept

    def wanted_by(self, flights: Flights, name: str = "work") -> Awaitable[str]:
        return flights.here(name, lambda: flights.everywhere(name, find=self.find, make=self.make))


async def test_many_in_many_processes_make_it_once(processes: list[Flights]) -> None:
    work = Work()
    wanted = [work.wanted_by(flights) for flights in processes for _ in range(50)]
    assert await asyncio.gather(*wanted) == ["made"] * 200
    assert work.made == 1


async def test_what_is_not_kept_is_made_by_each_process_without_waiting_in_turn(processes: list[Flights]) -> None:
    work = Work(is_kept=False)
    await asyncio.gather(*(work.wanted_by(flights) for flights in processes for _ in range(50)))
    assert work.made == 4
    assert work.at_once == 3  # the first one alone finds out that it is not kept


async def test_a_failed_maker_is_followed_by_the_next_one(processes: list[Flights]) -> None:
    work = Work()
    failed = asyncio.Event()

    async def fail() -> tuple[str, bool]:
        await asyncio.sleep(0.05)
        failed.set()
        raise OSError("the network is down")

    first = asyncio.create_task(processes[0].everywhere("work", find=work.find, make=fail))
    await asyncio.sleep(0.01)
    others = asyncio.gather(*(work.wanted_by(flights) for flights in processes[1:]))
    with pytest.raises(OSError, match="network"):
        await first
    assert await others == ["made"] * 3
    assert work.made == 1


async def test_the_work_of_a_maker_that_died_is_taken_over(processes: list[Flights], cache: CacheManager) -> None:
    assert await cache.take_lease("work", "a process that was killed since") is Lease.TAKEN
    work = Work()
    assert await asyncio.gather(*(work.wanted_by(flights) for flights in processes)) == ["made"] * 4
    assert work.made == 1


async def test_a_slow_maker_that_lives_is_waited_for(processes: list[Flights]) -> None:
    work = Work()

    async def make_slowly() -> tuple[str, bool]:
        await asyncio.sleep(LEASE_MS / 1000 * 1.5)
        return await work.make()

    first = asyncio.create_task(processes[0].everywhere("work", find=work.find, make=make_slowly))
    await asyncio.sleep(0.05)
    assert await work.wanted_by(processes[1]) == "made"
    await first
    assert work.made == 1


@pytest.mark.parametrize("n_leave", [1, 3])
async def test_it_ends_only_when_the_last_one_that_waits_goes_away(processes: list[Flights], n_leave: int) -> None:
    work = Work()
    waiting = [asyncio.ensure_future(work.wanted_by(processes[0])) for _ in range(3)]
    await asyncio.sleep(0.05)
    for one in waiting[:n_leave]:
        one.cancel()
    await asyncio.gather(*waiting, return_exceptions=True)
    assert work.kept == (None if n_leave == 3 else "made")
    assert await work.wanted_by(processes[1]) == "made"  # and the lease is free


async def test_without_redis_each_process_makes_it_once() -> None:
    caches = [CacheManager("unix:///nowhere/redis.sock", answer_ttl_s=60) for _ in range(2)]
    work = Work(is_kept=False)
    await asyncio.gather(*(work.wanted_by(Flights(cache)) for cache in caches for _ in range(1)))
    assert work.made == 2
    for cache in caches:
        await cache.close()
