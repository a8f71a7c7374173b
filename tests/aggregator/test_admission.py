"""A few work at once, clients take turns, and who cannot be served in time is refused at once."""

import asyncio
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aggregator.admission import Admission, BusyError

pytestmark = pytest.mark.anyio


async def work(admission: Admission, client: str, done: list[str], go_on: asyncio.Event | None = None) -> None:
    async with admission.turn(client):
        await (asyncio.sleep(0) if go_on is None else go_on.wait())
        done.append(client)


async def test_no_more_than_allowed_work_at_once() -> None:
    admission, at_work, most = Admission(3), 0, 0

    async def count() -> None:
        nonlocal at_work, most
        async with admission.turn("a"):
            at_work += 1
            most = max(most, at_work)
            await asyncio.sleep(0.001)
            at_work -= 1

    await asyncio.gather(*(count() for _ in range(50)))
    assert (most, at_work, admission.n_waiting) == (3, 0, 0)


async def test_a_client_that_asks_for_much_does_not_delay_the_others() -> None:
    admission, go_on = Admission(1), asyncio.Event()
    done: list[str] = []
    tasks = [asyncio.create_task(work(admission, "first", done, go_on))]
    await asyncio.sleep(0)
    tasks += [asyncio.create_task(work(admission, "greedy", done)) for _ in range(100)]
    await asyncio.sleep(0)
    tasks += [asyncio.create_task(work(admission, name, done)) for name in ("b", "c")]
    await asyncio.sleep(0)
    go_on.set()
    await asyncio.gather(*tasks)
    assert set(done[:4]) == {"first", "greedy", "b", "c"}


async def test_when_no_more_can_wait_the_greediest_is_refused() -> None:
    admission, go_on = Admission(1, waiting=10), asyncio.Event()
    done: list[str] = []
    tasks = [asyncio.create_task(work(admission, "first", done, go_on))]
    await asyncio.sleep(0)
    tasks += [asyncio.create_task(work(admission, "greedy", done)) for _ in range(20)]
    await asyncio.sleep(0)
    tasks += [asyncio.create_task(work(admission, "modest", done)) for _ in range(2)]
    await asyncio.sleep(0)
    go_on.set()
    refused = [one for one in await asyncio.gather(*tasks, return_exceptions=True) if one is not None]
    assert all(isinstance(one, BusyError) for one in refused)
    assert Counter(done) == {"first": 1, "greedy": 8, "modest": 2}


async def test_who_waits_too_long_is_refused_and_the_next_one_works() -> None:
    admission, go_on = Admission(1, wait_s=0.05), asyncio.Event()
    done: list[str] = []
    first = asyncio.create_task(work(admission, "first", done, go_on))
    await asyncio.sleep(0)
    with pytest.raises(BusyError):
        await work(admission, "late", done)
    go_on.set()
    await first
    await work(admission, "next", done)
    assert done == ["first", "next"]


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 5), st.booleans()), max_size=60), st.integers(1, 4))
def test_no_turn_is_ever_lost(askers: list[tuple[str, int, bool]], at_once: int) -> None:
    async def run() -> None:
        admission = Admission(at_once, waiting=10, wait_s=0.005)

        async def ask(client: str, steps: int, fails: bool) -> None:
            async with admission.turn(client):
                await asyncio.sleep(steps / 1000)
                if fails:
                    raise OSError

        tasks = [asyncio.create_task(ask(*asker)) for asker in askers]
        await asyncio.sleep(0.002)
        for task in tasks[::3]:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        assert (admission._free, admission.n_waiting, len(admission._waiting)) == (at_once, 0, 0)

    asyncio.run(run())
