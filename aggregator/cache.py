"""The cache manager: every Redis key, hash field and expiry; nothing else in the service knows them.

Redis may be flushed, restarted or away at any moment. Nothing here is the only copy of anything: a look-up that
fails is a miss, a write that fails is logged, and the service answers from Postgres.

=============================  =================================================================================
key                            what
=============================  =================================================================================
``query:<id>``                 hash, one field per filter that was set, and the SHA-256 of the canonical form
``answer:<id>:<revs>``         hash, one field per part of the answer (summary, page, time line …), as JSON
``progress:<export id>``       hash: files and bytes done, files failed
``document:<sha256>``          text of a GraphQL document
=============================  =================================================================================
"""

import logging
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, TypeVar

import orjson
from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

logger = logging.getLogger(__name__)

T = TypeVar("T")

PROGRESS_TTL_S = 3600
"""Progress is written every second while a worker lives; an hour after the last write it tells nothing."""

DOCUMENT_TTL_S = 3600
"""How long a document is kept that nobody asked for by its digest: anybody may send any number of documents."""

REDIS_TIMEOUT_S = 1.0
"""A cache that takes longer than this is slower than the database it spares."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Progress:
    """How far an export is: files and bytes that are in place, files that could not be had."""

    files_done: int
    bytes_done: int
    files_failed: int


class CacheManager:
    """What the service keeps in Redis."""

    def __init__(self, redis_url: str, *, answer_ttl_s: int) -> None:
        # Any: redis-py annotates one class for its blocking and its asynchronous use, which fits neither.
        self._redis: Any = Redis.from_url(
            redis_url,
            socket_timeout=REDIS_TIMEOUT_S,
            socket_connect_timeout=REDIS_TIMEOUT_S,
            retry=Retry(NoBackoff(), 1),
        )
        self._answer_ttl_s = answer_ttl_s

    async def close(self) -> None:
        """Close the connections."""
        await self._redis.aclose()

    async def ping(self) -> bool:
        """Tell whether Redis answers."""
        return bool(await self._try("ping", self._redis.ping, default=False))

    # --- the registry of queries ---------------------------------------------------------------------------------

    async def find_query_sha256(self, query_id: str) -> bytes | None:
        """Return the SHA-256 of the canonical form that is registered under `query_id`, None if unknown here."""
        found = await self._try("hget", lambda: self._redis.hget(f"query:{query_id}", "sha256"), default=None)
        return None if found is None else bytes.fromhex(found.decode())

    async def put_query(self, query_id: str, filters: Mapping[str, object], *, sha256: bytes) -> None:
        """Register a query: one field per filter."""
        fields = {f"filter.{name}": orjson.dumps(value) for name, value in filters.items()}
        await self._write_hash(f"query:{query_id}", {**fields, "sha256": sha256.hex()}, self._answer_ttl_s)

    # --- answers -------------------------------------------------------------------------------------------------

    async def find_part(self, key: str, part: str) -> bytes | None:
        """Return one part of the answer that is kept under `key`, None if it is not there."""
        found: bytes | None = await self._try("hget", lambda: self._redis.hget(f"answer:{key}", part), default=None)
        return found

    async def put_part(self, key: str, part: str, value: bytes) -> None:
        """Keep one part of an answer for the active period."""
        await self._write_hash(f"answer:{key}", {part: value}, self._answer_ttl_s)

    # --- progress of exports -------------------------------------------------------------------------------------

    async def find_progress(self, export_id: str) -> Progress | None:
        """Return how far an export is, None if nobody said so lately."""
        found: dict[bytes, bytes] = await self._try(
            "hgetall", lambda: self._redis.hgetall(f"progress:{export_id}"), default={}
        )
        if len(found) < 3:
            return None
        return Progress(**{name.decode(): int(value) for name, value in found.items()})

    async def put_progress(self, export_id: str, progress: Progress) -> None:
        """Say how far an export is."""
        await self._write_hash(f"progress:{export_id}", asdict(progress), PROGRESS_TTL_S)

    # --- documents -----------------------------------------------------------------------------------------------

    async def find_document(self, sha256: str) -> str | None:
        """Return a GraphQL document by its digest, and keep it for the active period; None when it is not there."""
        key = f"document:{sha256}"
        found: bytes | None = await self._try(
            "getex", lambda: self._redis.getex(key, ex=self._answer_ttl_s), default=None
        )
        return None if found is None else found.decode(errors="replace")

    async def put_document(self, sha256: str, text: str) -> None:
        """Keep a GraphQL document."""
        ttl_s = min(DOCUMENT_TTL_S, self._answer_ttl_s)
        await self._try("set", lambda: self._redis.set(f"document:{sha256}", text, ex=ttl_s), default=None)

    async def _write_hash(self, key: str, fields: Mapping[str, object], ttl_s: int) -> None:
        async def write() -> None:
            async with self._redis.pipeline() as pipe:
                pipe.hset(key, mapping=fields)
                pipe.expire(key, ttl_s)
                await pipe.execute()

        await self._try("write", write, default=None)

    async def _try(self, action: str, do: Callable[[], Awaitable[T]], *, default: T) -> T:
        """Run one exchange with Redis; a cache that is away is an empty cache."""
        try:
            return await do()
        except (RedisError, OSError, TimeoutError) as error:
            logger.warning("the cache does not answer: %s", type(error).__name__, extra={"action": action})
            return default
