"""HTTP routes by which an export leaves: its state, its files one by one, its manifest, and all of it in one.

Everything that has bytes goes the same way out (`contents.py`). The validators are strong: the bytes of a manifest are
named by its SHA-256, those of an archive or list by that and how they are made of it, those of a file by its own.
"""

import asyncio
import hashlib
import re
from collections import OrderedDict
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from dataclasses import asdict, replace
from datetime import UTC, datetime, timedelta
from functools import partial
from http import HTTPStatus
from typing import TypeVar
from weakref import WeakValueDictionary

import orjson
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

from aggregator.errors import PUBLIC_ERRORS, http_status
from aggregator.exports.archive import BLOCK_BYTES, Archive, TarArchive, ZipArchive, iter_file
from aggregator.exports.bag import MANIFEST_NAME, Bag, BagError, Member, open_bag
from aggregator.exports.contents import SAFE_HEADERS, Content, answer
from aggregator.exports.describing import DATA_FOLDER
from aggregator.exports.views import VIEWS, iter_view
from aggregator.staging.buffer import LocalFileBuffer
from aggregator.staging.ledger import Export, ExportLedger, ExportState
from aggregator.staging.manifest import ManifestError
from metadata_db.errors import NotFoundError
from metadata_db.records import PathError, check_path

KEPT_BAGS = 64
"""Bags that are kept open: one download is often many range requests."""

KEPT_LENGTHS = 1024
"""Lists whose length and digest are kept: to know them, one has to be written."""

RETRY_AFTER_S = 2
"""What a client that comes too early is told to wait."""

_NOTED_EVERY = timedelta(minutes=1)
_UNDER_WAY = frozenset({ExportState.INITIALIZED, ExportState.WRITING})
_GONE = frozenset({ExportState.EXPIRED, ExportState.DELETED})
_EXPORT_ID = re.compile(r"[0-9a-f]{32}\Z")
_ARCHIVES: tuple[type[Archive], ...] = (ZipArchive, TarArchive)

Handler = Callable[[Request], Awaitable[Response]]

K = TypeVar("K")
V = TypeVar("V")


class DownloadError(Exception):
    """A request that cannot be served; becomes a JSON answer."""

    def __init__(
        self, status: HTTPStatus, code: str, message: str, *, headers: Mapping[str, str] | None = None, **facts: object
    ) -> None:
        self.status = status
        self.code = code
        self.headers = headers
        self.facts = facts
        super().__init__(message)


def routes(ledger: ExportLedger, buffer: LocalFileBuffer) -> list[Route]:
    """Return the routes below ``/exports/``; all answer GET and HEAD, and tell errors as JSON."""
    downloads = _Downloads(ledger, buffer)
    table: list[tuple[str, Handler]] = [
        *((f"/exports/{{id}}.{kind.ending}", downloads.archive(kind)) for kind in _ARCHIVES),
        *((f"/exports/{{id}}.{ending}", downloads.view(ending)) for ending in VIEWS),
        ("/exports/{id}", downloads.state),
        ("/exports/{id}/", downloads.listing),
        ("/exports/{id}/manifest.json", downloads.manifest),
        ("/exports/{id}/files/{path:path}", downloads.file),
        ("/exports/{id}/bag/{path:path}", downloads.member),
    ]
    return [Route(path, _telling_errors(handler), methods=["GET"]) for path, handler in table]


class _Downloads:
    """The handlers, with what they share."""

    def __init__(self, ledger: ExportLedger, buffer: LocalFileBuffer) -> None:
        self._ledger = ledger
        self._buffer = buffer
        self._bags: OrderedDict[str, Bag] = OrderedDict()
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        self._lengths: OrderedDict[tuple[str, ...], tuple[int, str]] = OrderedDict()

    async def state(self, request: Request) -> Response:
        """Say how far an export is, and where it can be had."""
        found = await self._get(request)
        return _json(asdict(found) | {"links": _links(found)})

    async def listing(self, request: Request) -> Response:
        """List the files that staging has dealt with so far, as NDJSON."""
        found = await self._get(request)

        async def lines() -> AsyncIterator[bytes]:
            async for page in self._ledger.iter_files(found.id):
                rows = (asdict(one) for one in page)
                yield b"".join(orjson.dumps(row, option=orjson.OPT_APPEND_NEWLINE) for row in rows)

        return StreamingResponse(lines(), media_type="application/x-ndjson", headers=SAFE_HEADERS)

    async def manifest(self, request: Request) -> Response:
        """Give the manifest of a complete export."""
        found = await self._get_complete(request)
        manifest = (await self._open_bag(found)).find_tag(MANIFEST_NAME)
        if manifest is None or not await run_in_threadpool(_is_whole, manifest):
            raise _gone(found)
        content = replace(_content_of(manifest, found), file_name=f"{found.query_id}.json")
        return answer(request, content)

    def archive(self, kind: type[Archive]) -> Handler:
        """Return what gives a complete export as one archive."""

        async def give(request: Request) -> Response:
            found = await self._get_complete(request)
            archive = kind(await self._open_bag(found))
            content = Content(
                size_bytes=archive.size_bytes,
                tag=archive.name,
                file_name=f"{found.query_id}.{archive.ending}",
                media_type=archive.media_type,
                iter_blocks=archive.iter_blocks,
                modified_at=found.completed_at,
            )
            return answer(request, content)

        return give

    def view(self, ending: str) -> Handler:
        """Return what gives the list of a complete export's files in one format."""

        async def give(request: Request) -> Response:
            found = await self._get_complete(request)
            bag = await self._open_bag(found)
            address = f"{str(request.base_url).rstrip('/')}/exports/{found.id}"

            def iter_lines() -> Iterator[bytes]:
                return iter_view(VIEWS[ending], bag, address)

            size_bytes, digest = await self._measure((ending, bag.manifest_sha256, address), iter_lines)
            content = Content(
                size_bytes=size_bytes,
                tag=digest,
                sha256=digest,
                file_name=f"{found.query_id}.{ending}",
                media_type=VIEWS[ending].media_type,
                iter_blocks=lambda start, stop: _iter_part(iter_lines(), start, stop),
                modified_at=found.completed_at,
            )
            return answer(request, content)

        return give

    async def member(self, request: Request) -> Response:
        """Give one file of a complete export by its name in the archives."""
        found = await self._get_complete(request)
        bag = await self._open_bag(found)
        name = request.path_params["path"]
        member = bag.find_tag(name) or await run_in_threadpool(bag.find_payload, name)
        if member is None:
            raise NotFoundError("file", name)
        if not await run_in_threadpool(_is_whole, member):
            raise _gone(found)
        return answer(request, _content_of(member, found))

    async def file(self, request: Request) -> Response:
        """Give one file, as soon as it is staged."""
        found = await self._get(request)
        path = request.path_params["path"]
        try:
            recorded = await self._ledger.find_file(found.id, check_path(path))
        except PathError as error:
            raise NotFoundError("file", path) from error
        if recorded is None and found.state in _UNDER_WAY:
            raise _not_ready(found, "the file is not staged yet, or does not belong to this export")
        if recorded is None:
            raise NotFoundError("file", path)
        if recorded.sha256 is None:
            raise DownloadError(
                HTTPStatus.NOT_FOUND, "FILE_MISSING", f"the file could not be had: {recorded.reason}", path=path
            )
        if not await run_in_threadpool(self._buffer.has_file, found.id, path, recorded.size_bytes):
            raise _gone(found)
        await self._note_use(found)
        content = Content(
            size_bytes=recorded.size_bytes,
            tag=recorded.sha256,
            sha256=recorded.sha256,
            file_name=path.rpartition("/")[2],
            media_type="application/octet-stream",
            iter_blocks=partial(iter_file, lambda: self._buffer.open_file(found.id, path), path, recorded.size_bytes),
            modified_at=found.completed_at,
        )
        return answer(request, content)

    async def _get(self, request: Request) -> Export:
        export_id = request.path_params["id"]
        found = await self._ledger.find(export_id) if _EXPORT_ID.match(export_id) else None
        if found is None:
            raise NotFoundError("export", export_id)
        return found

    async def _get_complete(self, request: Request) -> Export:
        found = await self._get(request)
        if found.state in _GONE:
            raise _gone(found)
        if found.state is not ExportState.COMPLETED:
            raise _not_ready(found, "the export is not complete")
        await self._note_use(found)
        return found

    async def _note_use(self, found: Export) -> None:
        if found.last_used_at is None or datetime.now(UTC) - found.last_used_at > _NOTED_EVERY:
            await self._ledger.touch(found.id)

    async def _open_bag(self, found: Export) -> Bag:
        """Return the bag of a complete export; of several that come first, one makes it if it is not there."""
        key = found.manifest_sha256 or ""
        # One lock for each: to make the bag of a million files takes a while, and nobody else is to wait for it.
        async with self._locks.setdefault(key, asyncio.Lock()):
            if key not in self._bags or not await run_in_threadpool(self._bags[key].is_there):
                self._bags[key] = await self._make_bag(found, key)
            return _keep(self._bags, key, KEPT_BAGS)

    async def _make_bag(self, found: Export, sha256: str) -> Bag:
        path = self._buffer.manifest_path(found.id)
        try:
            return await run_in_threadpool(open_bag, path, sha256, self._buffer.object_path)
        except FileNotFoundError as error:
            raise _gone(found) from error
        except (BagError, ManifestError) as error:
            message = f"the manifest is damaged: {error}"
            raise DownloadError(HTTPStatus.INTERNAL_SERVER_ERROR, "MANIFEST_DAMAGED", message) from error

    async def _measure(self, key: tuple[str, ...], iter_lines: Callable[[], Iterator[bytes]]) -> tuple[int, str]:
        """Return length and SHA-256 of a list."""
        if key not in self._lengths:
            self._lengths[key] = await run_in_threadpool(_length_and_sha256, iter_lines())
        return _keep(self._lengths, key, KEPT_LENGTHS)


def _keep(kept: OrderedDict[K, V], key: K, most: int) -> V:
    """Return the value of `key`, and let go of those that were not asked for longest."""
    kept.move_to_end(key)
    while len(kept) > most:
        kept.popitem(last=False)
    return kept[key]


# --- contents -------------------------------------------------------------------------------------------------------


def _links(found: Export) -> dict[str, str]:
    """Return what there is of an export → its address, relative to this site."""
    address = f"/exports/{found.id}"
    if found.state is not ExportState.COMPLETED:
        return {}
    endings = [*(kind.ending for kind in _ARCHIVES), *VIEWS]
    return {"manifest": f"{address}/{MANIFEST_NAME}", **{ending: f"{address}.{ending}" for ending in endings}}


def _is_whole(member: Member) -> bool:
    try:
        return member.content.stat().st_size == member.size_bytes
    except FileNotFoundError:
        return False


def _content_of(member: Member, found: Export) -> Content:
    return Content(
        size_bytes=member.size_bytes,
        tag=member.sha256,
        sha256=member.sha256,
        file_name=member.name.rpartition("/")[2],
        media_type=_media_type(member.name),
        iter_blocks=partial(iter_file, member.open, member.name, member.size_bytes),
        modified_at=found.completed_at,
    )


def _media_type(name: str) -> str:
    if name.startswith(f"{DATA_FOLDER}/"):
        return "application/octet-stream"
    return "application/json" if name.endswith(".json") else "text/plain; charset=utf-8"


def _iter_part(lines: Iterator[bytes], start: int, stop: int) -> Iterator[bytes]:
    """Yield what of some lines lies between `start` and `stop`, in blocks."""
    at, pending = 0, bytearray()
    for line in lines:
        pending += line[max(start - at, 0) : max(stop - at, 0)]
        at += len(line)
        if len(pending) >= BLOCK_BYTES or at >= stop:
            yield bytes(pending)
            pending.clear()
        if at >= stop:
            return


def _length_and_sha256(lines: Iterator[bytes]) -> tuple[int, str]:
    length, digest = 0, hashlib.sha256()
    for line in lines:
        length += len(line)
        digest.update(line)
    return length, digest.hexdigest()


def _json(value: object, status: int = HTTPStatus.OK, headers: Mapping[str, str] | None = None) -> Response:
    body = orjson.dumps(value)
    return Response(
        body, status_code=status, media_type="application/json", headers={**SAFE_HEADERS, **(headers or {})}
    )


def _not_ready(found: Export, message: str) -> DownloadError:
    headers = {"Retry-After": str(RETRY_AFTER_S)} if found.state in _UNDER_WAY else None
    return DownloadError(
        HTTPStatus.CONFLICT, "NOT_READY", message, headers=headers, state=found.state, reason=found.error
    )


def _gone(found: Export) -> DownloadError:
    message = "the files of this export were cleared away; ask the same question again to have them back"
    return DownloadError(HTTPStatus.GONE, "EXPIRED", message, state=found.state, query_id=found.query_id)


def _telling_errors(handler: Handler) -> Handler:
    async def handle(request: Request) -> Response:
        try:
            return await handler(request)
        except DownloadError as error:
            told = {"code": error.code, "message": str(error), **error.facts}
            return _json({"error": told}, error.status, error.headers)
        except PUBLIC_ERRORS as error:
            return _json({"error": {"code": error.code, "message": str(error)}}, http_status(error))

    return handle
