"""What is kept in Redis is found again, expires, and is never missed when it is gone."""

from collections.abc import Awaitable, Callable
from typing import Any

import pytest
import redis

from aggregator.cache import CacheManager, Progress

pytestmark = pytest.mark.anyio

PROGRESS = Progress(files_done=3, bytes_done=10**13, files_failed=1)


async def test_what_is_kept_is_found_again(cache: CacheManager) -> None:
    await cache.put_query("a", {"facility": ["x"]}, sha256=b"\x01" * 32)
    await cache.put_part("key", "summary", b"{}")
    await cache.put_progress("e", PROGRESS)
    assert await cache.find_query_sha256("a") == b"\x01" * 32
    assert await cache.find_part("key", "summary") == b"{}"
    assert await cache.find_progress("e") == PROGRESS
    assert await cache.ping()


async def test_everything_expires_after_the_active_period(cache: CacheManager, redis_url: str) -> None:
    await cache.put_query("a", {}, sha256=b"\x01" * 32)
    await cache.put_part("key", "summary", b"{}")
    await cache.put_progress("e", PROGRESS)
    assert await cache.ping()  # whatever was sent before is carried out
    with redis.Redis.from_url(redis_url) as client:
        left = {key: client.ttl(key) for key in client.scan_iter()}
    assert set(left) == {b"query:a", b"answer:key", b"progress:e"}
    assert all(0 < seconds <= 3600 for seconds in left.values())


async def test_what_is_not_there_is_none(cache: CacheManager) -> None:
    assert await cache.find_query_sha256("a") is None
    assert await cache.find_part("key", "summary") is None
    assert await cache.find_progress("e") is None


@pytest.mark.parametrize(
    "use",
    [
        lambda cache: cache.find_query_sha256("a"),
        lambda cache: cache.find_part("key", "summary"),
        lambda cache: cache.find_progress("e"),
        lambda cache: cache.put_query("a", {}, sha256=b"1"),
        lambda cache: cache.put_part("key", "summary", b"{}"),
        lambda cache: cache.put_progress("e", PROGRESS),
    ],
    ids=["find query", "find part", "find progress", "put query", "put part", "put progress"],
)
async def test_a_cache_that_is_away_is_an_empty_cache(use: Callable[[CacheManager], Awaitable[Any]]) -> None:
    cache = CacheManager("redis://127.0.0.1:1/0", answer_ttl_s=60)
    assert await use(cache) is None
    assert not await cache.ping()
    await cache.close()
