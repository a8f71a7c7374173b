"""`python -m benchmarks.rivals WHICH ANSWER SETTINGS`: what hits are compared with, each a web process of its own.

All answer with the headers and the body in ANSWER, or with what becomes of the same operation, under the same server
with the same settings as the service.
"""

import asyncio
import socket
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from hashlib import blake2b
from pathlib import Path
from typing import Any

import orjson
import uvicorn
import uvloop
from redis.asyncio import Redis
from starlette.types import ASGIApp, Receive, Scope, Send
from strawberry import Schema
from strawberry.extensions import ParserCache, ValidationCache

from aggregator.api.context import Context
from aggregator.api.live import Live
from aggregator.api.resolvers import Mutation, Query
from aggregator.api.scalars import CONFIG
from aggregator.api.sockets import SERVER_OPTIONS
from aggregator.app import Service
from aggregator.commands.web import LISTENING, address_of
from aggregator.connection import GuardedProtocol
from aggregator.controller import CoreController
from aggregator.resp import RespClient
from aggregator.settings import Settings

KEY = "benchmark"
"""Where the bytes are kept in Redis."""

Headers = Sequence[tuple[bytes, bytes]]

Answer = Callable[[bytes], Awaitable[bytes]]
"""Body of a request → body of its answer."""


def answering(answer: Answer, headers: Headers) -> ASGIApp:
    """Return the smallest application that answers so."""
    # Made once: whoever knows the answer knows its headers.
    start = {"type": "http.response.start", "status": 200, "headers": list(headers)}

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await _lifespan(receive, send)
            return
        message = await receive()
        body = await answer(message["body"])
        await send(start)
        await send({"type": "http.response.body", "body": body})

    return app


async def _lifespan(receive: Receive, send: Send) -> None:
    while (message := await receive())["type"] != "lifespan.shutdown":
        await send({"type": f"{message['type']}.complete"})
    await send({"type": "lifespan.shutdown.complete"})


# --- the rivals -------------------------------------------------------------------------------------------------------


@asynccontextmanager
async def constant(_settings: Settings, content: bytes) -> AsyncIterator[Answer]:
    """Give the bytes: what Python and the server take, and nothing else."""

    async def answer(_body: bytes) -> bytes:
        return content

    yield answer


@asynccontextmanager
async def from_redis_py(settings: Settings, content: bytes) -> AsyncIterator[Answer]:
    """Give the bytes from Redis by redis-py, whose parser is hiredis."""
    client: Any = Redis.from_url(str(settings.redis_url))
    await client.set(KEY, content)

    async def answer(body: bytes) -> bytes:
        blake2b(body).digest()
        found: bytes = await client.get(KEY)
        return found

    yield answer
    await client.aclose()


@asynccontextmanager
async def from_resp(settings: Settings, content: bytes) -> AsyncIterator[Answer]:
    """Give the bytes from Redis by the client of the service."""
    client = RespClient(str(settings.redis_url), timeout_s=1.0)
    await client.call("SET", KEY, content)

    async def answer(body: bytes) -> bytes:
        blake2b(body).digest()
        found: bytes = await client.call("GET", KEY)
        return found

    yield answer
    client.close()


class _RememberingController(CoreController):
    """Never looks anything up twice, so that only the execution is measured."""

    async def search(self, *given: Any, **named: Any) -> Any:
        return await self._remember("search", super().search, given, named)

    async def page(self, *given: Any, **named: Any) -> Any:
        return await self._remember("page", super().page, given, named)

    async def _remember(self, name: str, ask: Callable[..., Awaitable[Any]], given: Any, named: Any) -> Any:
        memory: dict[str, Any] = self.__dict__.setdefault("memory", {})
        key = f"{name} {named}"
        if key not in memory:
            memory[key] = await ask(*given, **named)
        return memory[key]


@asynccontextmanager
async def executed(settings: Settings, _content: bytes) -> AsyncIterator[Answer]:
    """Give the answer of Strawberry's own execution, with documents parsed and checked once and all looked up once."""
    service = Service.build(settings, Live())
    parser, validation = ParserCache(), ValidationCache()
    schema = Schema(query=Query, mutation=Mutation, config=CONFIG, extensions=[lambda: parser, lambda: validation])
    known = service.controller
    controller = _RememberingController(
        catalogue=known.catalogue, cache=known.cache, exports=known.exports, limits=known.limits
    )
    context = Context(controller=controller, vocabulary=service.vocabulary, ledger=service.ledger)

    async def answer(body: bytes) -> bytes:
        asked = orjson.loads(body)
        told = await schema.execute(
            asked["query"], variable_values=asked.get("variables"), context_value=context.for_operation()
        )
        return orjson.dumps({"data": told.data})

    async with service.running():
        yield answer


RIVALS = {
    "constant": constant,
    "guarded": constant,
    "redis-py": from_redis_py,
    "resp": from_resp,
    "strawberry": executed,
}


async def _serve(which: str, told: dict[str, Any], settings: Settings) -> None:
    headers = [(name.encode(), value.encode()) for name, value in told["headers"]]
    async with RIVALS[which](settings, told["body"].encode()) as answer:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            app = answering(answer, headers)
            protocol = "httptools" if which == "constant" else GuardedProtocol
            config = uvicorn.Config(
                app, http=protocol, log_config=None, access_log=False, server_header=False, **SERVER_OPTIONS
            )
            sys.stdout.write(f"{LISTENING}{address_of(listener)}\n")
            sys.stdout.flush()
            await uvicorn.Server(config).serve(sockets=[listener])


def main(which: str, answer_file: str, settings_file: str) -> None:
    """Serve until the end."""
    told = orjson.loads(Path(answer_file).read_bytes())
    settings = Settings.from_environ(orjson.loads(Path(settings_file).read_bytes()))
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_serve(which, told, settings))


if __name__ == "__main__":
    main(*sys.argv[1:])
