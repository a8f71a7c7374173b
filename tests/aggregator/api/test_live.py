"""What changes is looked at once for all who follow it, and everybody gets the newest state."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Any

import pytest

from aggregator.api import live
from aggregator.api.errors import LimitExceededError
from aggregator.api.live import EndingError, Live
from metadata_db.errors import UnavailableError

pytestmark = pytest.mark.anyio


class Clock:
    """Something that changes when it is told to, and counts how often it was looked at."""

    def __init__(self) -> None:
        self.value: Any = 0
        self.looks = 0

    async def look(self) -> Any:
        self.looks += 1
        if isinstance(self.value, Exception):
            raise self.value
        return self.value

    async def looked_again(self) -> None:
        """Wait until it was looked at, from now on, to the end."""
        seen = self.looks
        while self.looks < seen + 2:
            await asyncio.sleep(0)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
async def followed() -> AsyncIterator[Live]:
    found = Live(every_s=0, patience_s=0.05)
    yield found
    assert not found._watches, "something is looked at though nobody follows it"


async def test_the_first_state_comes_at_once_and_later_only_what_is_new(followed: Live, clock: Clock) -> None:
    async with aclosing(followed.follow("x", clock.look)) as values:
        assert await anext(values) == 0
        coming = asyncio.ensure_future(anext(values))
        await clock.looked_again()
        assert not coming.done()
        clock.value = 1
        assert await coming == 1


async def test_however_many_follow_it_is_looked_at_once(clock: Clock) -> None:
    followed = Live(every_s=3600)
    streams = [followed.follow("x", clock.look) for _ in range(1000)]
    assert await asyncio.gather(*(anext(values) for values in streams)) == [0] * 1000
    assert clock.looks == 1
    for values in streams:
        await values.aclose()


async def test_who_reads_slowly_gets_the_newest_state_and_nothing_is_kept_for_him(followed: Live, clock: Clock) -> None:
    async with aclosing(followed.follow("x", clock.look)) as values:
        await anext(values)
        for number in range(1, 100):
            clock.value = number
            await clock.looked_again()
        assert await anext(values) == 99


async def test_when_nobody_follows_any_more_nobody_looks(followed: Live, clock: Clock) -> None:
    first, second = (followed.follow("x", clock.look) for _ in range(2))
    assert [await anext(first), await anext(second)] == [0, 0]
    await first.aclose()
    await clock.looked_again()
    await second.aclose()
    looks = clock.looks
    for _ in range(10):
        await asyncio.sleep(0)
    assert clock.looks == looks


async def test_an_error_ends_the_following_for_all_and_who_comes_later_begins_anew(
    followed: Live, clock: Clock
) -> None:
    streams = [followed.follow("x", clock.look) for _ in range(2)]
    for values in streams:
        await anext(values)
    clock.value = KeyError("gone")
    for values in streams:
        with pytest.raises(KeyError):
            await anext(values)
    clock.value = 5
    async with aclosing(followed.follow("x", clock.look)) as values:
        assert await anext(values) == 5


async def test_a_database_that_is_away_is_waited_for_but_not_for_ever(followed: Live, clock: Clock) -> None:
    patient = Live(every_s=0, patience_s=3600)
    async with aclosing(patient.follow("x", clock.look)) as values:
        await anext(values)
        clock.value = UnavailableError("away")
        await clock.looked_again()
        clock.value = 1
        assert await anext(values) == 1
    clock.value = UnavailableError("away")
    async with aclosing(followed.follow("x", clock.look)) as values:
        with pytest.raises(UnavailableError):
            await anext(values)


async def test_the_end_of_the_service_ends_it(followed: Live, clock: Clock) -> None:
    async with aclosing(followed.follow("x", clock.look)) as values:
        await anext(values)
        coming = asyncio.ensure_future(anext(values))
        await clock.looked_again()
        followed.end()
        with pytest.raises(EndingError):
            await coming
    async with aclosing(followed.follow("y", clock.look)) as later:
        with pytest.raises(EndingError):
            await anext(later)


async def test_no_more_is_looked_at_than_the_database_can_bear(
    followed: Live, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(live, "MAX_WATCHES", 1)
    async with (
        aclosing(followed.follow("x", clock.look)) as first,
        aclosing(followed.follow("x", clock.look)) as second,
    ):
        assert [await anext(first), await anext(second)] == [0, 0]
        with pytest.raises(LimitExceededError):
            await anext(followed.follow("y", clock.look))
