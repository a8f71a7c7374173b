"""Sends records and vocabulary to the catalogue's ingest API.

Every call is safe to repeat: the API answers the same batch sent twice with "unchanged". So whatever may not have
arrived is simply sent again.
"""

import random
import time
from collections.abc import Iterator, Mapping, Sequence
from types import TracebackType
from typing import Any, Self, TypeVar
from urllib.parse import quote

import httpx
import msgspec
import zstandard
from msgspec import Struct
from msgspec.structs import replace

from extractors.errors import CatalogueAwayError, RefusedError, SendError
from metadata_db.records import (
    Authority,
    DeadLetter,
    Facility,
    Failure,
    FileRecord,
    KnownFile,
    Removal,
    Storage,
)

CONNECT_TIMEOUT_S = 10.0
"""How long to wait for a connection."""

ANSWER_TIMEOUT_S = 120.0
"""How long to wait for each piece of an answer; a batch is one transaction, which may queue behind others."""

MAX_DELAY_S = 30.0
"""Longest pause before another attempt, whatever the catalogue asks for: then the records go to the spool."""


FILES_PAGE = 10_000
"""Known files asked for at a time, some two megabytes."""

FAILURES_PAGE = 200
"""Failures asked for at a time; each may hold a record of 64 kB."""

MAX_REASON = 1000
"""Most characters of the reason of a failure that are sent; a library's error may show a whole file."""

MAX_FAILED_PATH = 4096
"""Most characters of the path of a failure: what the catalogue takes."""

T = TypeVar("T")


class Rejection(Struct, frozen=True, kw_only=True):
    """One record that the catalogue did not take; `line` counts from 1 within its batch."""

    line: int
    field: str | None = None
    reason: str


class SendResult(Struct, frozen=True, kw_only=True):
    """What the catalogue did with one batch."""

    received: int
    added: int
    changed: int
    unchanged: int
    rejected: int
    reread: int = 0
    """Those of the unchanged that were read in another way."""
    rejections: list[Rejection] = []
    rejections_omitted: int = 0
    revisions: dict[str, int] = {}
    """Revision of each facility after the batch."""


class RemovalResult(Struct, frozen=True, kw_only=True):
    """What the catalogue did with one batch of removals."""

    received: int
    removed: int
    kept: int
    """Files of which the catalogue has another version than the one that was missed."""
    unknown: int
    """Files that the catalogue did not have."""
    rejected: int
    rejections: list[Rejection] = []
    rejections_omitted: int = 0
    revisions: dict[str, int] = {}
    """Revision of each facility after the batch."""


class _FailuresTaken(Struct, frozen=True, kw_only=True):
    rejected: int
    rejections: list[Rejection]


class _ErrorBody(Struct, frozen=True, kw_only=True):
    code: str = "UNKNOWN"
    message: str = ""


class _ErrorAnswer(Struct, frozen=True, kw_only=True):
    error: _ErrorBody


def encode_lines(records: Sequence[Struct]) -> bytes:
    """Return `records` as they travel: JSON, one record per line."""
    encoder = msgspec.json.Encoder()
    return b"".join(encoder.encode(record) + b"\n" for record in records)


class Client:
    """A connection to one ingest API; use it in a ``with`` statement.

    Parameters
    ----------
    url
        Base address of the service, such as ``https://catchment.example.org``.
    token
        Publisher's token; it is in no message and no representation of this object.
    attempts
        How often a call is tried in all before the catalogue counts as away.
    first_delay_s
        Pause after the first failed attempt; each further one is twice as long.
    """

    def __init__(
        self,
        url: str,
        token: str,
        *,
        attempts: int = 4,
        first_delay_s: float = 0.5,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        try:
            base = httpx.URL(url)
            if base.scheme not in ("http", "https") or not base.host:
                raise SendError("the catalogue's address must begin with http:// or https:// and name a host")
            self._http = httpx.Client(
                base_url=base,
                headers={"Authorization": f"Bearer {token}"},
                timeout=httpx.Timeout(ANSWER_TIMEOUT_S, connect=CONNECT_TIMEOUT_S),
                transport=transport,
                # A proxy of the environment cannot reach this machine's own loopback.
                trust_env=base.host not in ("localhost", "127.0.0.1", "::1"),
            )
        except (httpx.InvalidURL, UnicodeEncodeError) as error:
            raise SendError("the catalogue's address or the token holds characters it cannot have") from error
        self._place = f"{base.scheme}://{base.netloc.decode()}"
        self._attempts = attempts
        self._first_delay_s = first_delay_s

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection."""
        self._http.close()

    def send(self, records: Sequence[FileRecord]) -> SendResult:
        """Send one batch of records and return what became of it; see `send_lines`."""
        return self.send_lines(encode_lines(records))

    def send_lines(self, lines: bytes) -> SendResult:
        """Send one batch of encoded records and return what became of it.

        Raises
        ------
        CatalogueAwayError
            No acknowledgment after several attempts: send the same lines again later.
        RefusedError
            The catalogue does not want the whole batch.
        """
        return self._post_lines("files", lines, SendResult)

    def remove(self, removals: Sequence[Removal]) -> RemovalResult:
        """Take files out of the catalogue and return what became of each; errors are those of `send_lines`."""
        return self._post_lines("removals", encode_lines(removals), RemovalResult)

    def _post_lines(self, collection: str, lines: bytes, kind: type[T]) -> T:
        headers = {"Content-Type": "application/x-ndjson", "Content-Encoding": "zstd"}
        body = zstandard.ZstdCompressor(level=3).compress(lines)
        answer = self._call("POST", f"/api/v1/{collection}", content=body, headers=headers)
        # Without a report there is no acknowledgment.
        return self._decode(msgspec.json.Decoder(kind), answer.content, "ingest report")

    def _decode(self, decoder: msgspec.json.Decoder[T], content: bytes, expected: str) -> T:
        try:
            return decoder.decode(content)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            # A proxy's page, perhaps.
            raise CatalogueAwayError(f"{self._place} answered with something that is no {expected}") from error

    # --- what the catalogue knows -----------------------------------------------------------------------------------

    def get_storage(self, name: str) -> Storage:
        """Return a storage that this token may write files of.

        Raises
        ------
        CatalogueAwayError
            No answer after several attempts.
        RefusedError
            There is none of this name, or it is another facility's.
        """
        answer = self._call("GET", f"/api/v1/storages/{quote(name, safe='')}")
        return self._decode(msgspec.json.Decoder(Storage), answer.content, "storage")

    def iter_files(self, storage: str, *, after: str = "") -> Iterator[KnownFile]:
        """Yield the catalogue's living files of a storage in the order of the bytes of their paths, as they are asked.

        Of a shared storage only files of the token's facilities are told. Only paths beyond `after` are. Errors are
        those of `get_storage`.
        """
        address = f"/api/v1/storages/{quote(storage, safe='')}/files"
        decoder = msgspec.json.Decoder(KnownFile)
        while True:
            page = self._get_lines(address, {"after": after, "limit": FILES_PAGE}, decoder)
            yield from page
            if len(page) < FILES_PAGE:
                return
            after = page[-1].path

    # --- failures ---------------------------------------------------------------------------------------------------

    def report_failures(self, failures: Sequence[Failure]) -> None:
        """Have the catalogue keep files that could not be read; errors are those of `send_lines`.

        Raises
        ------
        RefusedError
            Also when the catalogue does not take one of them; the others are kept.
        """
        cut = [replace(item, path=item.path[:MAX_FAILED_PATH], reason=item.reason[:MAX_REASON]) for item in failures]
        result = self._post_lines("failures", encode_lines(cut), _FailuresTaken)
        if result.rejected:
            first = result.rejections[0]
            reason = f"{result.rejected} of {len(failures)} failures, the first for {first.field}: {first.reason}"
            raise RefusedError(httpx.codes.UNPROCESSABLE_ENTITY, "BAD_INPUT", reason)

    def iter_failures(self, *, storage: str | None = None, facility: str | None = None) -> Iterator[DeadLetter]:
        """Yield what failed and has not succeeded since, oldest first; errors are those of `get_storage`."""
        asked = {name: value for name, value in (("storage", storage), ("facility", facility)) if value is not None}
        decoder = msgspec.json.Decoder(DeadLetter)
        after = 0
        while True:
            page = self._get_lines("/api/v1/failures", {**asked, "after": after, "limit": FAILURES_PAGE}, decoder)
            yield from page
            if len(page) < FAILURES_PAGE:
                return
            after = page[-1].id

    def dismiss(self, number: int) -> None:
        """Throw one failure away; errors are those of `get_storage`."""
        self._call("DELETE", f"/api/v1/failures/{number}")

    def _get_lines(
        self, address: str, parameters: Mapping[str, str | int], decoder: msgspec.json.Decoder[T]
    ) -> list[T]:
        answer = self._call("GET", address, parameters=parameters)
        return [self._decode(decoder, line, "list") for line in answer.content.splitlines()]

    # --- vocabulary -------------------------------------------------------------------------------------------------

    def put_facility(self, facility: Facility) -> None:
        """Register or renew a facility with all its vocabulary."""
        self._put("facilities", facility.name, facility)

    def put_authority(self, authority: Authority) -> None:
        """Register or renew a data authority."""
        self._put("authorities", authority.name, authority)

    def put_storage(self, storage: Storage) -> None:
        """Register or renew a storage."""
        self._put("storages", storage.name, storage)

    def _put(self, collection: str, name: str, record: Facility | Authority | Storage) -> None:
        headers = {"Content-Type": "application/json"}
        body = msgspec.json.encode(record)
        self._call("PUT", f"/api/v1/{collection}/{quote(name, safe='')}", content=body, headers=headers)

    def _call(
        self,
        method: str,
        path: str,
        *,
        content: bytes = b"",
        headers: Mapping[str, str] | None = None,
        parameters: Mapping[str, str | int] | None = None,
    ) -> httpx.Response:
        """Return the first answer that is not "later", or raise."""
        delay_s = 0.0
        problem = ""
        for attempt in range(self._attempts):
            if attempt:
                time.sleep(delay_s)
            delay_s = self._first_delay_s * 2**attempt * random.uniform(0.75, 1.25)  # noqa: S311 - no secret
            try:
                answer = self._http.request(method, path, content=content, headers=headers, params=parameters)
            except httpx.TransportError as error:
                problem = f"{type(error).__name__}: {error}"
                continue
            if answer.is_success:
                return answer
            if answer.status_code != httpx.codes.TOO_MANY_REQUESTS and not answer.is_server_error:
                raise _refusal(answer)
            problem = f"status {answer.status_code}"
            delay_s = min(MAX_DELAY_S, max(delay_s, _asked_delay_s(answer)))
        raise CatalogueAwayError(f"no answer from {self._place} in {self._attempts} attempts, at last {problem}")


def _asked_delay_s(answer: httpx.Response) -> float:
    asked = answer.headers.get("Retry-After", "")
    return float(asked) if asked.isdecimal() else 0.0


def _refusal(answer: httpx.Response) -> RefusedError:
    try:
        body: Any = msgspec.json.decode(answer.content, type=_ErrorAnswer).error
    except msgspec.DecodeError:
        body = _ErrorBody(message=f"no reason that can be read; is {answer.request.url.path} the right address?")
    return RefusedError(answer.status_code, body.code, body.message)
