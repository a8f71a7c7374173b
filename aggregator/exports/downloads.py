"""HTTP routes by which an export leaves: its state, its files one by one, its manifest, and all of it as one ZIP.

Notes
-----
Ranges and conditions follow RFC 9110, sections 13 and 14: one closed, open or suffix range; several ranges, or units
other than bytes, are answered with the whole. The validators are strong: the bytes of a manifest or archive are named
by the manifest's SHA-256, those of a file by its own.
"""

import asyncio
import re
from collections import OrderedDict
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from http import HTTPStatus
from typing import BinaryIO
from urllib.parse import quote

import orjson
from starlette.concurrency import iterate_in_threadpool, run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

from aggregator.errors import PUBLIC_ERRORS, http_status
from aggregator.exports.archive import BLOCK_BYTES, Archive
from aggregator.staging.buffer import LocalFileBuffer
from aggregator.staging.ledger import Export, ExportLedger, ExportState
from metadata_db.errors import NotFoundError
from metadata_db.records import PathError, check_path

KEPT_LAYOUTS = 16
"""Archives whose layout is kept at hand (24 bytes a file): one download is often many range requests."""

RETRY_AFTER_S = 2
"""What a client that comes too early is told to wait."""

_NOTED_EVERY = timedelta(minutes=1)
_UNDER_WAY = frozenset({ExportState.INITIALIZED, ExportState.WRITING})
_GONE = frozenset({ExportState.EXPIRED, ExportState.DELETED})
_EXPORT_ID = re.compile(r"[0-9a-f]{32}\Z")
_RANGE = re.compile(r"bytes=[ \t]*(\d{0,19})-(\d{0,19})[ \t]*\Z", re.ASCII | re.IGNORECASE)
_ETAG = re.compile(r'(?:W/)?("[^"]*")')
_SAFE_HEADERS = {"X-Content-Type-Options": "nosniff", "Content-Security-Policy": "sandbox; default-src 'none'"}

Handler = Callable[[Request], Awaitable[Response]]


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


class RangeNotSatisfiableError(ValueError):
    """A range begins behind the end of what there is."""


@dataclass(frozen=True, kw_only=True, slots=True)
class _Content:
    """Something that can be had in parts."""

    size_bytes: int
    digest: str
    file_name: str
    media_type: str
    iter_blocks: Callable[[int, int], Iterator[bytes]]

    @property
    def etag(self) -> str:
        return f'"{self.digest}"'


def routes(ledger: ExportLedger, buffer: LocalFileBuffer) -> list[Route]:
    """Return the routes below ``/exports/``; all answer GET and HEAD, and tell errors as JSON."""
    downloads = _Downloads(ledger, buffer)
    table: list[tuple[str, Handler]] = [
        ("/exports/{id}.zip", downloads.archive),
        ("/exports/{id}", downloads.state),
        ("/exports/{id}/", downloads.listing),
        ("/exports/{id}/manifest.json", downloads.manifest),
        ("/exports/{id}/files/{path:path}", downloads.file),
    ]
    return [Route(path, _telling_errors(handler), methods=["GET"]) for path, handler in table]


class _Downloads:
    """The handlers, with what they share."""

    def __init__(self, ledger: ExportLedger, buffer: LocalFileBuffer) -> None:
        self._ledger = ledger
        self._buffer = buffer
        self._layouts: OrderedDict[str, Archive] = OrderedDict()
        self._laying_out = asyncio.Lock()

    async def state(self, request: Request) -> Response:
        """Say how far an export is."""
        return _json(asdict(await self._get(request)))

    async def listing(self, request: Request) -> Response:
        """List the files that staging has dealt with so far, as NDJSON."""
        found = await self._get(request)

        async def lines() -> AsyncIterator[bytes]:
            async for page in self._ledger.iter_files(found.id):
                rows = (asdict(one) for one in page)
                yield b"".join(orjson.dumps(row, option=orjson.OPT_APPEND_NEWLINE) for row in rows)

        return StreamingResponse(lines(), media_type="application/x-ndjson", headers=_SAFE_HEADERS)

    async def manifest(self, request: Request) -> Response:
        """Give the manifest of a complete export."""
        found = await self._get_complete(request)
        path = self._buffer.manifest_path(found.id)
        content = _Content(
            size_bytes=(await run_in_threadpool(path.stat)).st_size,
            digest=found.manifest_sha256 or "",
            file_name=f"{found.query_id}.json",
            media_type="application/json",
            iter_blocks=lambda start, stop: _iter_blocks(lambda: path.open("rb", buffering=0), start, stop),
        )
        return _answer(request, content)

    async def archive(self, request: Request) -> Response:
        """Give a complete export as one ZIP."""
        found = await self._get_complete(request)
        archive = await self._lay_out(found)
        content = _Content(
            size_bytes=archive.size_bytes,
            digest=archive.manifest_sha256,
            file_name=f"{found.query_id}.zip",
            media_type="application/zip",
            iter_blocks=archive.iter_blocks,
        )
        return _answer(request, content)

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
        content = _Content(
            size_bytes=recorded.size_bytes,
            digest=recorded.sha256,
            file_name=path.rpartition("/")[2],
            media_type="application/octet-stream",
            iter_blocks=lambda start, stop: _iter_blocks(lambda: self._buffer.open_file(found.id, path), start, stop),
        )
        return _answer(request, content)

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

    async def _lay_out(self, found: Export) -> Archive:
        key = found.manifest_sha256 or ""
        async with self._laying_out:
            if key not in self._layouts or not await run_in_threadpool(self._layouts[key].is_current):
                path = self._buffer.manifest_path(found.id)
                archive = await run_in_threadpool(Archive, path, self._buffer.object_path)
                if archive.manifest_sha256 != key:
                    raise DownloadError(
                        HTTPStatus.INTERNAL_SERVER_ERROR, "MANIFEST_DAMAGED", "the manifest is not what was staged"
                    )
                self._layouts[key] = archive
            self._layouts.move_to_end(key)
            while len(self._layouts) > KEPT_LAYOUTS:
                self._layouts.popitem(last=False)
            return self._layouts[key]


# --- answers --------------------------------------------------------------------------------------------------------


def parse_range(header: str, size_bytes: int) -> tuple[int, int] | None:
    """Return the half-open interval that a ``Range`` header asks for; None means the whole.

    Raises
    ------
    RangeNotSatisfiableError
        It begins behind the end.
    """
    match = _RANGE.match(header)
    if match is None or (not match[1] and not match[2]):
        return None
    if not match[1]:
        last = int(match[2])
        if not last:
            raise RangeNotSatisfiableError(header)
        return (max(size_bytes - last, 0), size_bytes) if size_bytes else None
    first, last = int(match[1]), int(match[2] or size_bytes)
    if match[2] and last < first:
        return None
    if first >= size_bytes:
        raise RangeNotSatisfiableError(header)
    return first, min(last + 1, size_bytes)


def _answer(request: Request, content: _Content) -> Response:
    headers = _SAFE_HEADERS | {
        "ETag": content.etag,
        "Accept-Ranges": "bytes",
        "Cache-Control": "private, no-cache",
        "Content-Disposition": _attachment(content.file_name),
    }
    if not _allows(request.headers.get("if-match"), content.etag, absent=True, weak=False):
        return Response(status_code=HTTPStatus.PRECONDITION_FAILED, headers=headers)
    if _allows(request.headers.get("if-none-match"), content.etag, absent=False, weak=True):
        return Response(status_code=HTTPStatus.NOT_MODIFIED, headers=headers)
    try:
        asked = _range_of(request, content)
    except RangeNotSatisfiableError:
        headers["Content-Range"] = f"bytes */{content.size_bytes}"
        return Response(status_code=HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE, headers=headers)
    start, stop = asked or (0, content.size_bytes)
    headers["Content-Length"] = str(stop - start)
    if asked:
        headers["Content-Range"] = f"bytes {start}-{stop - 1}/{content.size_bytes}"
    status = HTTPStatus.PARTIAL_CONTENT if asked else HTTPStatus.OK
    if request.method == "HEAD":
        return Response(status_code=status, headers=headers, media_type=content.media_type)
    blocks = iterate_in_threadpool(content.iter_blocks(start, stop))
    return StreamingResponse(blocks, status_code=status, headers=headers, media_type=content.media_type)


def _range_of(request: Request, content: _Content) -> tuple[int, int] | None:
    """Return the range to send, None for the whole: a part only fits a beginning that is still the same."""
    header = request.headers.get("range")
    if header is None or request.method != "GET":
        return None
    if request.headers.get("if-range", content.etag).strip() != content.etag:
        return None
    return parse_range(header, content.size_bytes)


def _allows(header: str | None, etag: str, *, absent: bool, weak: bool) -> bool:
    """Tell whether a list of entity tags holds `etag`, by weak or strong comparison."""
    if header is None:
        return absent
    if header.strip() == "*":
        return True
    return any(match[1] == etag and (weak or match[0] == etag) for match in _ETAG.finditer(header))


def _iter_blocks(open_content: Callable[[], BinaryIO], start: int, stop: int) -> Iterator[bytes]:
    with open_content() as content:
        content.seek(start)
        while start < stop and (block := content.read(min(BLOCK_BYTES, stop - start))):
            start += len(block)
            yield block


def _attachment(name: str) -> str:
    plain = re.sub(r"[^A-Za-z0-9._+-]", "_", name)
    extended = f"; filename*=UTF-8''{quote(name, safe='')}" if plain != name else ""
    return f'attachment; filename="{plain}"{extended}'


def _json(value: object, status: int = HTTPStatus.OK, headers: Mapping[str, str] | None = None) -> Response:
    body = orjson.dumps(value)
    return Response(
        body, status_code=status, media_type="application/json", headers={**_SAFE_HEADERS, **(headers or {})}
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
