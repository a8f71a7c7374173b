"""The cache manager: every Redis key, hash field and expiry; nothing else in the service knows them.

Redis may be flushed, restarted or away at any moment. Nothing here is the only copy of anything: a look-up that
fails is a miss, a write that fails is logged, and the service answers from Postgres. Once it has not answered in time
nobody waits for it any more, until it answers again.

=============================  =================================================================================
key                            what
=============================  =================================================================================
``query:<id>``                 hash, one field per filter that was set, and the SHA-256 of the canonical form
``answer:<id>:<revs>``         hash, one field per part of the answer (summary, facet, time line …), as JSON
``latest:<id>:…``             for which revisions there are parts of the answer: key and revisions, as JSON
``bytes:<digest>``             the finished answer to an operation, behind what it rests on, see `aggregator.answers`
``lease:<name>``               who makes what is to be made once, as long as that one lives, see `aggregator.flights`
``progress:<export id>``       hash: files and bytes done, files failed
``document:<sha256>``          text of a GraphQL document
``ready``                      nothing: whether it can be written tells whether Redis takes writes
=============================  =================================================================================
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import asdict, dataclass
from enum import Enum
from typing import Any, TypeVar

import orjson
from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisError, ResponseError

from aggregator.resp import RespClient

logger = logging.getLogger(__name__)

T = TypeVar("T")

PROGRESS_TTL_S = 3600
"""Progress is written every second while a worker lives; an hour after the last write it tells nothing."""

DOCUMENT_TTL_S = 3600
"""How long a document is kept that nobody asked for by its digest: anybody may send any number of documents."""

REDIS_TIMEOUT_S = 0.5
"""A cache that takes longer than this is slower than the database it spares."""

FIRST_PROBE_S, LONGEST_PROBE_S = 0.1, 1.0
"""Pauses between two looks whether a Redis that was away is back: the first, and the longest of those after it."""

LEASE_MS = 2000
"""How long after the last sign of life the maker of something is taken for dead."""

UNKEPT_MS = 1000
"""How long it is remembered that what was made could not be kept, so that nobody waits for it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Progress:
    """How far an export is: files and bytes that are in place, files that could not be had."""

    files_done: int
    bytes_done: int
    files_failed: int


class Lease(Enum):
    """What came of asking for the right to make something."""

    TAKEN = "taken"
    """Nobody else makes it."""
    HELD = "held"
    """Somebody makes it, and will keep it."""
    NONE = "none"
    """It is not kept, or Redis is away: everybody makes it."""


class CacheState(Enum):
    """How Redis is."""

    OK = "ok"
    READ_ONLY = "refuses to be written to: new answers are not kept"
    AWAY = "away: answers come from the database, slower"


_UNKEPT = b"-"

_RENEW = "if redis.call('get', KEYS[1]) == ARGV[1] then redis.call('pexpire', KEYS[1], ARGV[2]) end"
_RELEASE = "if redis.call('get', KEYS[1]) == ARGV[1] then redis.call('del', KEYS[1]) end"
_GIVE_UP = "if redis.call('get', KEYS[1]) == ARGV[1] then redis.call('set', KEYS[1], '-', 'px', ARGV[2]) end"
"""A lease that has run out may be somebody else's by now."""

_MOVE = """
    if redis.call('exists', KEYS[1]) == 1 and redis.call('renamenx', KEYS[1], KEYS[2]) == 1 then
        redis.call('expire', KEYS[2], ARGV[1])
    end
"""
"""Only Redis can tell, without others in between, whether the one is still there and the other not yet."""


class CacheManager:
    """What the service keeps in Redis."""

    def __init__(self, redis_url: str, *, answer_ttl_s: int) -> None:
        # Any: redis-py annotates one class for its blocking and its asynchronous use, which fits neither.
        self._redis: Any = Redis.from_url(
            redis_url,
            socket_timeout=REDIS_TIMEOUT_S,
            socket_connect_timeout=REDIS_TIMEOUT_S,
            # A connection that broke while it was idle is replaced; what timed out is not waited for twice.
            retry=Retry(NoBackoff(), 1, supported_errors=(RedisConnectionError,)),
        )
        self._client = RespClient(redis_url, timeout_s=REDIS_TIMEOUT_S)
        self._answer_ttl_s = answer_ttl_s
        self._probing: asyncio.Task[None] | None = None

    async def close(self) -> None:
        """Close the connections."""
        if self._probing is not None:
            self._probing.cancel()
        self._client.close()
        await self._redis.aclose()

    async def ping(self) -> bool:
        """Tell whether Redis answers."""
        return bool(await self._try("ping", lambda: self._client.call("PING"), default=False))

    async def state(self) -> CacheState:
        """Tell how Redis is."""
        if not await self.ping():
            return CacheState.AWAY
        is_written = await self._try("write", lambda: self._client.call("SET", "ready", "", "PX", 1), default=None)
        return CacheState.READ_ONLY if is_written is None else CacheState.OK

    # --- the registry of queries ---------------------------------------------------------------------------------

    async def find_query_sha256(self, query_id: str) -> bytes | None:
        """Return the SHA-256 of the canonical form that is registered under `query_id`, None if unknown here."""
        found: bytes | None = await self._try(
            "hget", lambda: self._client.call("HGET", f"query:{query_id}", "sha256"), default=None
        )
        return None if found is None else bytes.fromhex(found.decode())

    async def put_query(self, query_id: str, filters: Mapping[str, object], *, sha256: bytes) -> None:
        """Register a query: one field per filter."""
        key = f"query:{query_id}"
        fields = [part for name, value in filters.items() for part in (f"filter.{name}", orjson.dumps(value))]
        await self._write("HSET", key, *fields, "sha256", sha256.hex())
        await self._write("EXPIRE", key, self._answer_ttl_s)

    # --- answers -------------------------------------------------------------------------------------------------

    async def find_part(self, key: str, part: str) -> bytes | None:
        """Return one part of the answer that is kept under `key`, None if it is not there."""
        found: bytes | None = await self._try(
            "hget", lambda: self._client.call("HGET", f"answer:{key}", part), default=None
        )
        return found

    async def put_part(self, key: str, part: str, value: bytes) -> None:
        """Keep one part of an answer for the active period."""
        name = f"answer:{key}"
        await self._write("HSET", name, part, value)
        await self._write("EXPIRE", name, self._answer_ttl_s)

    async def find_latest(self, name: str) -> bytes | None:
        """Return which parts were kept last of an answer, whatever it was as of."""
        found: bytes | None = await self._try("get", lambda: self._client.call("GET", f"latest:{name}"), default=None)
        return found

    async def put_latest(self, name: str, value: bytes) -> None:
        """Keep which parts were kept last."""
        await self._write("SET", f"latest:{name}", value, "EX", self._answer_ttl_s)

    async def move_parts(self, old_key: str, new_key: str) -> None:
        """Keep the parts of an answer as those of another one, in its place, unless that has some already."""

        async def move() -> None:
            keys = (f"answer:{old_key}", f"answer:{new_key}")
            await self._client.call("EVAL", _MOVE, 2, *keys, self._answer_ttl_s)

        await self._try("rename", move, default=None)

    async def find_bytes(self, key: str) -> bytes | None:
        """Return what is kept of a finished answer, None if it is not there."""
        if self._probing is not None:
            return None
        try:  # not by `_try`, because this is what a hit does
            found: bytes | None = await self._client.call("GET", f"bytes:{key}")
        except (RedisError, OSError, TimeoutError) as error:
            self._note("get", error)
            return None
        return found

    def ask_bytes(self, key: str) -> "asyncio.Future[Any] | None":
        """Return what will be what `find_bytes` finds, or an error; None when that cannot be asked at once."""
        return self._ask("GET", f"bytes:{key}")

    async def _write(self, *command: str | bytes | int) -> None:
        """Write something, and wait only for a connection: commands are carried out in their order."""
        if self._ask(*command) is None:
            await self._try(str(command[0]).lower(), lambda: self._client.call(*command), default=None)

    def _ask(self, *command: str | bytes | int) -> "asyncio.Future[Any] | None":
        asked = None if self._probing is not None else self._client.ask(*command)
        if asked is not None:
            asked.add_done_callback(self._note_failure)
        return asked

    def _note_failure(self, asked: "asyncio.Future[Any]") -> None:
        if not asked.cancelled() and (error := asked.exception()) is not None and isinstance(error, Exception):
            self._note("get", error)

    async def put_bytes(self, key: str, value: bytes) -> None:
        """Keep a finished answer for the active period."""
        await self._write("SET", f"bytes:{key}", value, "EX", self._answer_ttl_s)

    # --- who makes what is to be made once -----------------------------------------------------------------------

    async def take_lease(self, name: str, token: str) -> Lease:
        """Ask for the right to make something; `token` tells whose it is."""
        key = f"lease:{name}"

        async def take() -> Lease:
            taken = self._client.call("SET", key, token, "NX", "PX", LEASE_MS)
            is_taken, held_by = await asyncio.gather(taken, self._client.call("GET", key))
            if is_taken is not None:
                return Lease.TAKEN
            return Lease.NONE if held_by == _UNKEPT else Lease.HELD

        return await self._try("lease", take, default=Lease.NONE)

    def renew_lease(self, name: str, token: str) -> None:
        """Say that who makes it still lives."""
        self._client.tell("EVAL", _RENEW, 1, f"lease:{name}", token, LEASE_MS)

    def release_lease(self, name: str, token: str, *, is_kept: bool) -> None:
        """Say that it is made; if it could not be kept, others need not wait for it either."""
        if is_kept:
            self._client.tell("EVAL", _RELEASE, 1, f"lease:{name}", token)
        else:
            self._client.tell("EVAL", _GIVE_UP, 1, f"lease:{name}", token, UNKEPT_MS)

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
        """Run one exchange with Redis; a cache that is away is an empty cache, and nobody waits for it."""
        if self._probing is not None:
            return default
        try:
            return await do()
        except (RedisError, OSError, TimeoutError) as error:
            self._note(action, error)
            return default

    def _note(self, action: str, error: Exception) -> None:
        """Take notice that an exchange failed; unless Redis only refused it, nobody waits until it answers again."""
        if isinstance(error, ResponseError):
            logger.warning("the cache refuses: %s", error, extra={"action": action})
        elif self._probing is None:
            logger.warning("the cache does not answer: %s", type(error).__name__, extra={"action": action})
            self._probing = asyncio.create_task(self._probe())

    async def _probe(self) -> None:
        """Return, and let Redis be used again, when it answers."""
        pause_s = FIRST_PROBE_S
        while True:
            await asyncio.sleep(pause_s)
            try:
                await self._client.call("PING")
                break
            except (RedisError, OSError, TimeoutError):
                pause_s = min(2 * pause_s, LONGEST_PROBE_S)
        self._probing = None
        logger.info("the cache answers again", extra={"action": "probe"})
