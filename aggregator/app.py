"""The service as one ASGI application: makes, wires and closes every long-lived object; lists the routes."""

import asyncio
import logging
import os
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson
from starlette.applications import Starlette
from starlette.datastructures import MutableHeaders
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import FileResponse, Response
from starlette.routing import BaseRoute, Mount, Route, WebSocketRoute
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from aggregator.admission import Admission
from aggregator.answers import AnswersInFront, Ground, KeptAnswers
from aggregator.api.connections import Places
from aggregator.api.context import Context
from aggregator.api.documents import PersistedDocuments
from aggregator.api.endpoint import GraphQLEndpoint
from aggregator.api.events import GraphQLEvents
from aggregator.api.live import Live
from aggregator.api.schema import create_schema
from aggregator.api.sockets import GraphQLSockets
from aggregator.cache import CacheManager
from aggregator.controller import AutoPrepareLimits, CoreController
from aggregator.errors import AggregatorError, http_status
from aggregator.exports.downloads import routes as download_routes
from aggregator.landing import routes as landing_routes
from aggregator.settings import Settings
from aggregator.staging.buffer import LocalFileBuffer
from aggregator.staging.ledger import ExportLedger
from aggregator.staging.queue import TaskQueue
from metadata_db.alerts import AlertStore
from metadata_db.app import IngestApi
from metadata_db.catalogue import Catalogue
from metadata_db.database import Database
from metadata_db.errors import BadInputError, CatalogueError, UnavailableError
from metadata_db.ingest import Ingest
from metadata_db.making import Workshop
from metadata_db.tokens import TokenStore
from metadata_db.vocabulary import VocabularyStore

logger = logging.getLogger(__name__)

WEB = Path(__file__).resolve().parent.parent / "web"
"""The pages: they lie beside the packages, in a checkout and in an installation alike."""

RETRY_AFTER_S = 5
"""What a client is told to wait when the database is away."""


@dataclass(frozen=True, kw_only=True)
class Service:
    """Everything long-lived of one web process."""

    settings: Settings
    database: Database
    cache: CacheManager
    queue: TaskQueue
    buffer: LocalFileBuffer
    vocabulary: VocabularyStore
    workshop: Workshop | None
    catalogue: Catalogue
    ledger: ExportLedger
    controller: CoreController
    live: Live

    @classmethod
    def build(cls, settings: Settings, live: Live) -> "Service":
        """Make and wire the parts; nothing is connected yet."""
        database = Database(settings.catalogue)
        cache = CacheManager(str(settings.redis_url), answer_ttl_s=settings.answer_ttl_s)
        queue = TaskQueue(settings.catalogue)
        vocabulary = VocabularyStore(database)
        catalogue = Catalogue(database, vocabulary, memory_bytes=settings.counting_mb * 1_000_000)
        ledger = ExportLedger(database, queue)
        return cls(
            settings=settings,
            database=database,
            cache=cache,
            queue=queue,
            buffer=LocalFileBuffer(settings.buffer_dir),
            vocabulary=vocabulary,
            workshop=Workshop(settings.catalogue) if settings.ingest_processes else None,
            catalogue=catalogue,
            ledger=ledger,
            live=live,
            controller=CoreController(
                catalogue=catalogue,
                cache=cache,
                exports=ledger,
                limits=AutoPrepareLimits(files=settings.auto_prepare_files, bytes=settings.auto_prepare_bytes),
            ),
        )

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Connect, and close everything in the end."""
        async with AsyncExitStack() as stack:
            stack.push_async_callback(self.database.close)
            stack.push_async_callback(self.cache.close)
            if self.workshop is not None:
                stack.callback(self.workshop.close)
            await self.queue.open()
            stack.push_async_callback(self.queue.close)
            tasks = await stack.enter_async_context(asyncio.TaskGroup())
            stack.callback(tasks.create_task(self._warm_up()).cancel)
            yield

    async def _warm_up(self) -> None:
        try:
            await self.catalogue.warm_up()
        except Exception:  # whatever it is, nothing waits for it
            # Nothing is lost: the first questions fetch what they need.
            logger.warning("sums could not be fetched ahead", extra={"action": "warm up"}, exc_info=True)

    def routes(self) -> list[BaseRoute]:
        """Return all routes of the service."""
        executor = self._executor()
        context = Context(controller=self.controller, vocabulary=self.vocabulary, ledger=self.ledger, live=self.live)
        graphql = GraphQLEndpoint(
            executor,
            context,
            PersistedDocuments(self.cache),
            request_timeout_s=self.settings.request_timeout_s,
        )
        places = Places()
        origins, timeout_s = self.settings.allowed_origins, self.settings.request_timeout_s
        sockets = GraphQLSockets(executor, context, places, request_timeout_s=timeout_s, allowed_origins=origins)
        events = GraphQLEvents(executor, context, places, request_timeout_s=timeout_s, allowed_origins=origins)
        ingest = IngestApi(
            ingest=Ingest(self.database, self.vocabulary, self.workshop),
            vocabulary=self.vocabulary,
            tokens=TokenStore(self.database),
            alerts=AlertStore(self.database),
            on_change=self.controller.note_revisions,
        )
        return [
            Route("/", _index),
            *landing_routes(controller=self.controller, vocabulary=self.vocabulary, page=WEB / "index.html"),
            Route("/healthz", _healthz),
            Route("/readyz", self.readyz),
            WebSocketRoute("/graphql", sockets.serve),
            Route("/graphql", graphql),
            Route("/graphql/stream", events),
            Route("/graphql/{document}", graphql),
            *ingest.routes(),
            *download_routes(ledger=self.ledger, buffer=self.buffer),
            Mount("/web", StaticFiles(directory=WEB)),
        ]

    def _executor(self) -> KeptAnswers:
        # How much is prepared unasked is told in answers.
        version = f"{self.settings.auto_prepare_files} {self.settings.auto_prepare_bytes}"
        return KeptAnswers(
            create_schema(),
            cache=self.cache,
            flights=self.controller.flights,
            ground=self.ground,
            # Twice as many as there are connections: while some wait for the database others write answers.
            admission=Admission(2 * self.settings.pool_size),
            version=version,
            suggests=self.settings.graphql_suggestions,
        )

    @property
    def ground(self) -> Ground:
        """What tells whether finished answers still hold."""
        return Ground(self.controller.present, self.vocabulary, self.catalogue)

    async def readyz(self, _request: Request) -> Response:
        """Tell whether the service can do its work, part by part."""
        parts = {
            "database": await self._database_state(),
            "cache": (await self.cache.state()).value,
            "worker": await self._worker_state(),
            "buffer": self._buffer_state(),
        }
        broken = parts["database"] != "ok" or parts["buffer"] != "ok"
        healthy = all(state == "ok" for state in parts.values())
        body = {"status": "ok" if healthy else "broken" if broken else "degraded", "parts": parts}
        return _json(body, status=503 if broken else 200)

    async def _database_state(self) -> str:
        try:
            await self.database.ping()
        except UnavailableError:
            return "away: nothing that is not in the cache can be answered"
        return "ok"

    async def _worker_state(self) -> str:
        try:
            alive = await self.queue.workers_alive(3 * self.settings.worker_heartbeat_s)
        except Exception:  # noqa: BLE001  # whatever keeps the queue from answering, it is the database's state
            return "unknown: the database is away"
        return "ok" if alive else "none: exports wait until one is started ('catchment worker')"

    def _buffer_state(self) -> str:
        folder = self.settings.buffer_dir
        return "ok" if os.access(folder, os.W_OK | os.X_OK) else f"{folder.name} cannot be written"


def create_app(settings: Settings, live: Live | None = None) -> AnswersInFront:
    """Return the application; `settings` name the database and the cache.

    Whoever stops it ends `live` first, or connections that stay open would hold it up.
    """
    service = Service.build(settings, Live() if live is None else live)

    @asynccontextmanager
    async def lifespan(_app: Starlette) -> AsyncIterator[None]:
        async with service.running():
            yield

    handlers: dict[Any, Any] = {
        CatalogueError: _tell_error,
        AggregatorError: _tell_error,
        HTTPException: _tell_http_error,
        Exception: _mask_error,
    }
    starlette = Starlette(routes=service.routes(), lifespan=lifespan, exception_handlers=handlers)
    return AnswersInFront(
        SecurityHeaders(starlette), cache=service.cache, ground=service.ground, lru_bytes=settings.answer_memory_bytes
    )


class SecurityHeaders:
    """Adds to every answer what keeps a browser from running or embedding what is not ours."""

    HEADERS = (
        ("content-security-policy", "default-src 'self'; frame-ancestors 'none'; base-uri 'none'; form-action 'self'"),
        ("x-content-type-options", "nosniff"),
        ("referrer-policy", "same-origin"),
    )

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Hand the request on, and add the headers to its answer."""

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in self.HEADERS:
                    headers.setdefault(name, value)
            await send(message)

        await self._app(scope, receive, send_with_headers if scope["type"] == "http" else send)


async def _index(_request: Request) -> Response:
    return FileResponse(WEB / "index.html", headers={"cache-control": "no-cache"})


async def _healthz(_request: Request) -> Response:
    return _json({"status": "ok"})


def _json(body: Any, *, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    return Response(orjson.dumps(body), status_code=status, media_type="application/json", headers=headers)


async def _tell_error(_request: Request, error: CatalogueError | AggregatorError) -> Response:
    body = {"code": error.code, "message": str(error)}
    if isinstance(error, BadInputError):
        body |= {"field": error.field, "value": error.value, "expected": error.expected}
    headers = {"retry-after": str(RETRY_AFTER_S)} if isinstance(error, UnavailableError) else None
    return _json({"error": body}, status=http_status(error), headers=headers)


async def _tell_http_error(_request: Request, error: HTTPException) -> Response:
    body = {"code": f"HTTP_{error.status_code}", "message": error.detail}
    return _json({"error": body}, status=error.status_code, headers=dict(error.headers or {}))


async def _mask_error(request: Request, _error: Exception) -> Response:
    # The server logs the error itself, with its traceback.
    message = "something went wrong here; the operators find it in their log"
    return _json(
        {"error": {"code": "INTERNAL", "message": f"{message} ({request.method} {request.url.path})"}}, status=500
    )
