"""Documents are found by their digest in this process and in others, and by nothing else."""

import pytest
import redis

from aggregator.api import documents
from aggregator.api.documents import MAX_CHARACTERS, PersistedDocuments
from aggregator.api.protocol import sha256_of
from aggregator.cache import DOCUMENT_TTL_S, CacheManager

pytestmark = pytest.mark.anyio

TEXT = "{ __typename }"
DIGEST = sha256_of(TEXT)
LONG_S = 10 * DOCUMENT_TTL_S


async def test_a_document_of_one_process_is_known_to_all(cache: CacheManager) -> None:
    one, other = PersistedDocuments(cache), PersistedDocuments(cache)
    assert await one.find(DIGEST) is None
    await one.keep(TEXT)
    assert await one.find(DIGEST) == await other.find(DIGEST) == TEXT


async def test_a_document_that_is_asked_for_stays(redis_url: str) -> None:
    cache = CacheManager(redis_url, answer_ttl_s=LONG_S)
    await PersistedDocuments(cache).keep(TEXT)
    with redis.Redis.from_url(redis_url) as client:
        assert 0 < client.ttl(f"document:{DIGEST}") <= DOCUMENT_TTL_S
        assert await PersistedDocuments(cache).find(DIGEST) == TEXT
        assert DOCUMENT_TTL_S < client.ttl(f"document:{DIGEST}") <= LONG_S
    await cache.close()


async def test_a_document_at_hand_outlives_a_flush_and_goes_back(
    cache: CacheManager, redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = PersistedDocuments(cache)
    await here.keep(TEXT)
    with redis.Redis.from_url(redis_url) as client:
        client.flushall()
    assert await here.find(DIGEST) == TEXT
    assert await PersistedDocuments(cache).find(DIGEST) is None
    monkeypatch.setattr(documents, "RENEW_S", 0.0)
    assert await here.find(DIGEST) == TEXT
    assert await PersistedDocuments(cache).find(DIGEST) == TEXT


async def test_without_the_shared_store_documents_at_hand_are_found() -> None:
    cache = CacheManager("redis://127.0.0.1:1/0", answer_ttl_s=60)
    here = PersistedDocuments(cache)
    assert await here.find(DIGEST) is None
    await here.keep(TEXT)
    assert await here.find(DIGEST) == TEXT
    await cache.close()


async def test_what_lies_under_a_wrong_digest_is_not_the_document(cache: CacheManager, redis_url: str) -> None:
    with redis.Redis.from_url(redis_url) as client:
        client.set(f"document:{DIGEST}", b"{ other }")
        assert await PersistedDocuments(cache).find(DIGEST) is None
        client.set(f"document:{DIGEST}", b"\xff\x00")
        assert await PersistedDocuments(cache).find(DIGEST) is None
        client.delete(f"document:{DIGEST}")
        client.rpush(f"document:{DIGEST}", b"of another kind")
        assert await PersistedDocuments(cache).find(DIGEST) is None


async def test_long_documents_are_not_kept_and_the_oldest_make_room(
    cache: CacheManager, redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(documents, "MAX_DOCUMENTS", 2)
    here = PersistedDocuments(cache)
    long = "#" * (MAX_CHARACTERS + 1)
    texts = [f"{{ a{number}: __typename }}" for number in range(3)]
    for text in (long, *texts):
        await here.keep(text)
    assert await here.find(sha256_of(long)) is None
    with redis.Redis.from_url(redis_url) as client:
        client.flushall()
    assert [await here.find(sha256_of(text)) for text in texts] == [None, *texts[1:]]
