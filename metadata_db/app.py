"""The ingest API: how extractors and data managers write the catalogue. REST, described by OpenAPI."""

import asyncio
import re
import zlib
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, TypeVar
from urllib.parse import urlsplit

import msgspec
import zstandard
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route

from metadata_db.alerts import MAX_LIST_BYTES, AlertStore, parse_alert_list
from metadata_db.errors import BadInputError
from metadata_db.ingest import Ingest
from metadata_db.letters import MAX_LETTERS
from metadata_db.listing import MAX_FILES
from metadata_db.openapi import openapi_document
from metadata_db.records import AlertListReport, Authority, Facility, Storage
from metadata_db.tokens import Grant, TokenStore
from metadata_db.vocabulary import VocabularyStore

MAX_DOCUMENT_BYTES = 1_000_000
"""Longest vocabulary document."""

MAX_CHUNK_BYTES = 1 << 20
"""Most bytes unpacked at a time: a small packed body may unpack to any size, but never in one piece."""

R = TypeVar("R", bound=msgspec.Struct)


@dataclass(frozen=True, kw_only=True)
class IngestApi:
    """The routes of the ingest API and what they need."""

    ingest: Ingest
    vocabulary: VocabularyStore
    tokens: TokenStore
    alerts: AlertStore
    on_change: Callable[[Mapping[str, int]], None]
    """Told the new revisions of facilities before the publisher is."""

    def routes(self) -> Sequence[Route]:
        """Return the routes, to be mounted at the root."""
        return [
            Route("/api/v1/files", self.post_files, methods=["POST"]),
            Route("/api/v1/removals", self.post_removals, methods=["POST"]),
            Route("/api/v1/failures", self.get_failures),
            Route("/api/v1/failures", self.post_failures, methods=["POST"]),
            Route("/api/v1/failures/{id}", self.delete_failure, methods=["DELETE"]),
            Route("/api/v1/facilities", self.get_facilities),
            Route("/api/v1/facilities/{name}", self.get_facility),
            Route("/api/v1/facilities/{name}", self.put_facility, methods=["PUT"]),
            Route("/api/v1/authorities", self.get_authorities),
            Route("/api/v1/authorities/{name}", self.put_authority, methods=["PUT"]),
            Route("/api/v1/storages", self.get_storages),
            Route("/api/v1/storages/{name}", self.get_storage),
            Route("/api/v1/storages/{name}/files", self.get_known_files),
            Route("/api/v1/storages/{name}", self.put_storage, methods=["PUT"]),
            Route("/api/v1/alerts", self.post_alerts, methods=["POST"]),
            Route("/api/v1/alerts/{id}", self.get_alerts),
            Route("/api/v1/openapi.json", self.get_openapi),
        ]

    # --- files ---------------------------------------------------------------------------------------------------

    async def post_files(self, request: Request) -> Response:
        """Catalogue a stream of NDJSON."""
        grant = await self._grant(request)
        return _json(await self.ingest.load(_lines(request), allowed=grant.writable, on_change=self.on_change))

    async def post_removals(self, request: Request) -> Response:
        """Take the files that a stream of NDJSON names out of the catalogue."""
        grant = await self._grant(request)
        return _json(await self.ingest.remove(_lines(request), allowed=grant.writable, on_change=self.on_change))

    async def get_known_files(self, request: Request) -> Response:
        """List the living files of a storage in the order of their paths, as NDJSON."""
        grant = await self._grant(request)
        found = await self.ingest.listing.page(
            request.path_params["name"],
            facilities=grant.writable,
            after=request.query_params.get("after", ""),
            limit=_whole_number(request, "limit", MAX_FILES),
        )
        return await _ndjson(found)

    # --- failures ------------------------------------------------------------------------------------------------

    async def post_failures(self, request: Request) -> Response:
        """Keep the failures of a stream of NDJSON."""
        grant = await self._grant(request)
        return _json(await self.ingest.letters.load(_lines(request), allowed=grant.writable))

    async def get_failures(self, request: Request) -> Response:
        """List failures in the order of their numbers, as NDJSON; an admin is told those of nobody too."""
        grant = await self._grant(request)
        facility = request.query_params.get("facility")
        if facility is not None:
            grant.require_facility(facility)
        found = await self.ingest.letters.page(
            facilities=grant.writable if facility is None else (facility,),
            storage=request.query_params.get("storage"),
            after=_whole_number(request, "after", 0),
            limit=_whole_number(request, "limit", MAX_LETTERS),
        )
        return await _ndjson(found)

    async def delete_failure(self, request: Request) -> Response:
        """Dismiss a failure."""
        grant = await self._grant(request)
        number = _parse_whole_number("id", request.path_params["id"])
        await self.ingest.letters.dismiss(number, facilities=grant.writable)
        return Response(status_code=HTTPStatus.NO_CONTENT)

    # --- alerts --------------------------------------------------------------------------------------------------

    async def post_alerts(self, request: Request) -> Response:
        """Keep a list of alerts, for questions to name; everybody may, as everybody may ask."""
        body = await _read_whole(_lines(request), MAX_LIST_BYTES, "a shorter list")
        # Ten thousand alerts take longer to read than others should wait.
        alerts = await asyncio.to_thread(parse_alert_list, body, request.headers.get("content-type", ""))
        return _json(AlertListReport(id=await self.alerts.put(alerts), alerts=len(alerts)))

    async def get_alerts(self, request: Request) -> Response:
        """Show a list of alerts."""
        found = await self.alerts.get(request.path_params["id"])
        return _json([alert.as_mapping() for alert in found])

    # --- vocabulary ----------------------------------------------------------------------------------------------

    async def put_facility(self, request: Request) -> Response:
        """Register or mend a facility with its clusters, detectors, channels and attributes."""

        def permit(grant: Grant, record: Facility) -> None:
            grant.require_facility(record.name)

        return await self._put(request, Facility, permit, self.vocabulary.put_facility)

    async def put_authority(self, request: Request) -> Response:
        """Register or mend a data authority."""

        def permit(grant: Grant, _record: Authority) -> None:
            grant.require_admin("registering a data authority")

        return await self._put(request, Authority, permit, self.vocabulary.put_authority)

    async def put_storage(self, request: Request) -> Response:
        """Register or mend a storage."""

        def permit(grant: Grant, record: Storage) -> None:
            grant.require_admin("registering a storage")
            _check_root(record)

        return await self._put(request, Storage, permit, self.vocabulary.put_storage)

    async def get_facilities(self, _request: Request) -> Response:
        """List the facilities."""
        return _json((await self.vocabulary.get()).facilities)

    async def get_facility(self, request: Request) -> Response:
        """Show one facility."""
        return _json(await self.vocabulary.get_facility(request.path_params["name"]))

    async def get_authorities(self, _request: Request) -> Response:
        """List the data authorities."""
        return _json((await self.vocabulary.get()).authorities)

    async def get_storages(self, request: Request) -> Response:
        """List the storages; where they are mounted is for admins."""
        (await self._grant(request)).require_admin("listing the roots of storages")
        return _json(list((await self.vocabulary.get()).storages.values()))

    async def get_storage(self, request: Request) -> Response:
        """Show a storage and where it is mounted, to those who may write files that are on it."""
        grant = await self._grant(request)
        return _json(await self.ingest.listing.get_storage(request.path_params["name"], facilities=grant.writable))

    async def get_openapi(self, _request: Request) -> Response:
        """Describe this API."""
        return _json(openapi_document())

    async def _grant(self, request: Request) -> Grant:
        scheme, _, text = request.headers.get("authorization", "").partition(" ")
        return await self.tokens.check(text.strip() if scheme.lower() == "bearer" else None)

    async def _put(
        self,
        request: Request,
        kind: type[R],
        permit: Callable[[Grant, R], None],
        put: Callable[[R], Awaitable[None]],
    ) -> Response:
        grant = await self._grant(request)
        record = await _read_document(request, kind)
        name = getattr(record, "name", None)
        if name != request.path_params["name"]:
            raise BadInputError("name", name, f"the name in the address, {request.path_params['name']}")
        permit(grant, record)
        await put(record)
        return _json(record)


def _check_root(storage: Storage) -> None:
    """Check that a root can be what the storage's kind says, and holds nothing secret: publishers are shown it.

    Raises
    ------
    BadInputError
        It is not; a secret is not repeated.
    """
    if storage.kind == "local":
        if not storage.root.startswith("/"):
            raise BadInputError("root", storage.root, "an absolute path on the hosts of the workers")
        return
    # Addresses can be joined: that of an archive, '::', and that of the place where the archive is.
    if any(_has_secret(part) for part in storage.root.split("::")):
        raise BadInputError("root", "an address that is not shown", "one without user, password, query or fragment")
    if not all(map(_ADDRESS.fullmatch, storage.root.split("::"))) or "://" not in storage.root:
        raise BadInputError("root", storage.root, "an address such as s3://bucket/folder")


def _has_secret(address: str) -> bool:
    try:
        found = urlsplit(address)
    except ValueError:  # it cannot be told, so it may
        return True
    return "@" in found.netloc or bool(found.query) or bool(found.fragment)


_ADDRESS = re.compile(r"[a-z][a-z0-9+.-]*(://[^\x00-\x20\x7f]+)?")


def _json(value: Any) -> Response:
    return Response(msgspec.json.encode(value), media_type="application/json")


async def _ndjson(values: Sequence[msgspec.Struct]) -> Response:
    """Return one value a line. A full page takes longer to encode than others should wait."""
    body = await asyncio.to_thread(msgspec.json.Encoder().encode_lines, values)
    return Response(body, media_type="application/x-ndjson")


def _whole_number(request: Request, name: str, default: int) -> int:
    text = request.query_params.get(name)
    return default if text is None else _parse_whole_number(name, text)


def _parse_whole_number(name: str, text: str) -> int:
    """Return the number of a parameter.

    Raises
    ------
    BadInputError
        It is not made of 1 to 18 decimal digits.
    """
    if re.fullmatch(r"[0-9]{1,18}", text) is None:
        raise BadInputError(name, text, "a whole number of at most 18 digits")
    return int(text)


def _lines(request: Request) -> AsyncIterator[bytes]:
    return _unpack(_stream(request), request.headers.get("content-encoding", "identity"))


async def _read_whole(chunks: AsyncIterator[bytes], limit: int, expected: str) -> bytes:
    """Return a whole body, and read no further than its limit."""
    body = bytearray()
    async for chunk in chunks:
        body += chunk
        if len(body) > limit:
            raise BadInputError("body", f"more than {limit} bytes", expected)
    return bytes(body)


async def _read_document(request: Request, kind: type[R]) -> R:
    body = await _read_whole(_stream(request), MAX_DOCUMENT_BYTES, "a shorter document")
    try:
        document = msgspec.json.decode(body)
        return msgspec.convert(document, kind)
    except msgspec.ValidationError as error:
        raise _bad_document(document, str(error)) from error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise BadInputError("body", f"malformed JSON ({error})", "one JSON object") from error


def _bad_document(document: Any, message: str) -> BadInputError:
    """Read the field out of a message of msgspec's, and the value at fault out of the document."""
    found = _AT.search(message)
    reason, at = (message[: found.start()], found[1]) if found else (message, "")
    if named := _NAMED_FIELD.search(reason):
        at = f"{at}.{named[1]}".removeprefix(".")
    value = document
    for step in _STEP.findall(at):
        value = value[int(step)] if isinstance(value, list) else value.get(step, "nothing")
    return BadInputError(at or "body", value, reason)


_AT = re.compile(r" - at `\$\.?([^`]*)`$")
_NAMED_FIELD = re.compile(r"(?:unknown|missing required) field `(.*)`$")
_STEP = re.compile(r"[^.\[\]]+")


async def _stream(request: Request) -> AsyncIterator[bytes]:
    try:
        async for chunk in request.stream():
            yield chunk
    except ClientDisconnect as error:
        raise BadInputError("body", "a broken connection", "the whole body") from error


async def _unpack(chunks: AsyncIterator[bytes], encoding: str) -> AsyncIterator[bytes]:
    """Yield the bytes of a body as they are after `encoding`, piece by piece.

    Raises
    ------
    BadInputError
        The encoding is not known, or the body is broken or ends early.
    """
    encoding = encoding.strip().lower()
    if encoding == "identity":
        async for chunk in chunks:
            yield chunk
    elif encoding in ("gzip", "x-gzip"):
        async for piece in _gunzip(chunks):
            yield piece
    elif encoding == "zstd":
        async for piece in _unzstd(chunks):
            yield piece
    else:
        raise BadInputError("Content-Encoding", encoding, "gzip, zstd or none")


async def _gunzip(chunks: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    unpacker = zlib.decompressobj(wbits=31)
    try:
        async for chunk in chunks:
            rest = chunk
            while rest:
                if unpacker.eof:  # gzip files may be joined
                    unpacker = zlib.decompressobj(wbits=31)
                yield unpacker.decompress(rest, MAX_CHUNK_BYTES)
                rest = unpacker.unused_data if unpacker.eof else unpacker.unconsumed_tail
    except zlib.error as error:
        raise BadInputError("body", f"broken gzip ({error})", "a gzip body") from error
    if not unpacker.eof:
        raise BadInputError("body", "a gzip body that ends early", "a whole one")


async def _unzstd(chunks: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    # The window bounds memory: 8 MiB is what every zstd level up to 19 needs.
    context = zstandard.ZstdDecompressor(max_window_size=1 << 23)
    unpacker = context.decompressobj()
    begun = False
    try:
        async for chunk in chunks:
            # Slices bound how much one call can unpack: zstd expands by at most some thousand times.
            for at in range(0, len(chunk), 1024):
                rest = chunk[at : at + 1024]
                while rest:
                    if unpacker.eof:
                        unpacker = context.decompressobj()
                    begun = True
                    yield unpacker.decompress(rest)
                    rest = unpacker.unused_data if unpacker.eof else b""
    except zstandard.ZstdError as error:
        raise BadInputError("body", f"broken zstd ({error})", "a zstd body") from error
    if begun and not unpacker.eof:
        raise BadInputError("body", "a zstd body that ends early", "a whole one")
