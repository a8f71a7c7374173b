"""Gives out anything that has a length and can be had in parts, by the rules of HTTP: one mechanism for all of it.

Notes
-----
RFC 9110: conditions (13), ranges (14) with several parts (14.6), HEAD without a body and without ranges. RFC 9530: the
digest of the whole, where it is known before the first byte leaves.
"""

import logging
import re
import secrets
from base64 import b64encode
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from http import HTTPStatus
from urllib.parse import quote

from starlette.concurrency import iterate_in_threadpool
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from aggregator.exports.archive import ArchiveError
from aggregator.exports.conditions import Validators, Verdict, allows_range, evaluate
from aggregator.exports.ranges import RangeNotSatisfiableError, Span, parse_ranges

logger = logging.getLogger(__name__)

SAFE_HEADERS = {"X-Content-Type-Options": "nosniff", "Content-Security-Policy": "sandbox; default-src 'none'"}
"""What is downloaded is never run by the browser that shows it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Content:
    """Something that can be had in parts."""

    size_bytes: int
    tag: str
    """Names the bytes: equal tag, equal bytes."""
    file_name: str
    media_type: str
    iter_blocks: Callable[[int, int], Iterator[bytes]]
    """Gives the bytes from a start to before a stop."""
    sha256: str | None = None
    """Of the whole, in hexadecimal, where it is known."""
    modified_at: datetime | None = None

    @property
    def validators(self) -> Validators:
        """By what it is told from an earlier one."""
        modified_at = None if self.modified_at is None else self.modified_at.replace(microsecond=0)
        return Validators(etag=f'"{self.tag}"', modified_at=modified_at)


class _Stream(StreamingResponse):
    """An answer that ends with its client, and is broken off when its content turns out not to be whole.

    What is broken off is shorter than it was announced to be: nobody takes it for complete.
    """

    def __init__(self, blocks: Iterator[bytes], status: HTTPStatus, headers: dict[str, str], media_type: str) -> None:
        super().__init__(iterate_in_threadpool(blocks), status_code=status, headers=headers, media_type=media_type)
        self._blocks = blocks

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send everything, and let go of files and locks at once, however it ends."""
        try:
            await super().__call__(scope, receive, send)
        finally:
            # Left to the collector of cycles, files of transfers that were given up would stay open for long.
            if isinstance(self._blocks, Generator):
                self._blocks.close()

    async def stream_response(self, send: Send) -> None:
        """Send everything, or an answer that is visibly too short."""
        try:
            await super().stream_response(send)
        except ArchiveError as error:
            logger.warning("a download is broken off: %s", error, extra={"action": "download"})


def answer(request: Request, content: Content) -> Response:
    """Return the answer to a GET or HEAD for a content."""
    current = content.validators
    headers = SAFE_HEADERS | {
        "ETag": current.etag,
        "Accept-Ranges": "bytes",
        "Cache-Control": "private, no-cache",
        "Content-Disposition": _attachment(content.file_name),
    }
    if current.last_modified is not None:
        headers["Last-Modified"] = current.last_modified
    asked = _join_headers(request)
    match evaluate(asked, current):
        case Verdict.FAILED:
            return Response(status_code=HTTPStatus.PRECONDITION_FAILED, headers=headers)
        case Verdict.NOT_MODIFIED:
            return Response(status_code=HTTPStatus.NOT_MODIFIED, headers=headers)
        case Verdict.SEND:
            pass
    if content.sha256 is not None:
        headers["Repr-Digest"] = f"sha-256=:{b64encode(bytes.fromhex(content.sha256)).decode()}:"
    try:
        spans = _spans_of(request.method, asked, current, content.size_bytes)
    except RangeNotSatisfiableError:
        headers |= {"Content-Range": f"bytes */{content.size_bytes}"}
        return Response(status_code=HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE, headers=headers)
    if len(spans) > 1:
        return _send_parts(content, spans, headers)
    return _send(content, spans[0] if spans else None, headers, is_head=request.method == "HEAD")


def _join_headers(request: Request) -> Mapping[str, str]:
    names = {name for name in request.headers if name.startswith("if-") or name == "range"}
    return {name: ", ".join(request.headers.getlist(name)) for name in names}


def _spans_of(method: str, asked: Mapping[str, str], current: Validators, size_bytes: int) -> Sequence[Span]:
    """Return the parts to send; none means the whole."""
    if method != "GET" or "range" not in asked or not allows_range(asked.get("if-range"), current):
        return ()
    return parse_ranges(asked["range"], size_bytes)


def _send(content: Content, span: Span | None, headers: dict[str, str], *, is_head: bool) -> Response:
    start, stop = (0, content.size_bytes) if span is None else (span.start, span.stop)
    headers["Content-Length"] = str(stop - start)
    if span is not None:
        headers["Content-Range"] = _content_range(span, content.size_bytes)
    status = HTTPStatus.OK if span is None else HTTPStatus.PARTIAL_CONTENT
    if is_head:
        return Response(status_code=status, headers=headers, media_type=content.media_type)
    return _Stream(content.iter_blocks(start, stop), status, headers, content.media_type)


def _send_parts(content: Content, spans: Sequence[Span], headers: dict[str, str]) -> Response:
    boundary = secrets.token_hex(16)
    heads = [
        f"\r\n--{boundary}\r\nContent-Type: {content.media_type}\r\n"
        f"Content-Range: {_content_range(span, content.size_bytes)}\r\n\r\n".encode()
        for span in spans
    ]
    end = f"\r\n--{boundary}--\r\n".encode()

    def iter_blocks() -> Iterator[bytes]:
        for head, span in zip(heads, spans, strict=True):
            yield head
            yield from content.iter_blocks(span.start, span.stop)
        yield end

    headers["Content-Length"] = str(sum(map(len, heads)) + sum(span.size_bytes for span in spans) + len(end))
    return _Stream(iter_blocks(), HTTPStatus.PARTIAL_CONTENT, headers, f"multipart/byteranges; boundary={boundary}")


def _content_range(span: Span, size_bytes: int) -> str:
    return f"bytes {span.start}-{span.stop - 1}/{size_bytes}"


def _attachment(name: str) -> str:
    plain = re.sub(r"[^A-Za-z0-9._+-]", "_", name)
    extended = f"; filename*=UTF-8''{quote(name, safe='')}" if plain != name else ""
    return f'attachment; filename="{plain}"{extended}'
