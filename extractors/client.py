"""Sends records and vocabulary to the catalogue's ingest API.

Every call is safe to repeat: the API answers the same batch sent twice with "unchanged". So whatever may not have
arrived is simply sent again.
"""

import random
import time
from collections.abc import Sequence
from types import TracebackType
from typing import Any, Self
from urllib.parse import quote

import httpx
import msgspec
import zstandard
from msgspec import Struct

from extractors.errors import CatalogueAwayError, RefusedError, SendError
from metadata_db.records import Authority, Facility, FileRecord, Storage

CONNECT_TIMEOUT_S = 10.0
"""How long to wait for a connection."""

ANSWER_TIMEOUT_S = 120.0
"""How long to wait for each piece of an answer; a batch is one transaction, which may queue behind others."""

MAX_DELAY_S = 30.0
"""Longest pause before another attempt, whatever the catalogue asks for: then the records go to the spool."""


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
    rejections: list[Rejection] = []
    rejections_omitted: int = 0
    revisions: dict[str, int] = {}
    """Revision of each facility after the batch."""


class _ErrorBody(Struct, frozen=True, kw_only=True):
    code: str = "UNKNOWN"
    message: str = ""


class _ErrorAnswer(Struct, frozen=True, kw_only=True):
    error: _ErrorBody


def encode_lines(records: Sequence[FileRecord]) -> bytes:
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
        headers = {"Content-Type": "application/x-ndjson", "Content-Encoding": "zstd"}
        body = zstandard.ZstdCompressor(level=3).compress(lines)
        answer = self._call("POST", "/api/v1/files", content=body, headers=headers)
        try:
            return msgspec.json.decode(answer.content, type=SendResult)
        except msgspec.DecodeError as error:
            # A proxy's page, perhaps. Without a report there is no acknowledgment.
            raise CatalogueAwayError(f"{self._place} answered with something that is no ingest report") from error

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

    def _call(self, method: str, path: str, *, content: bytes, headers: dict[str, str]) -> httpx.Response:
        """Return the first answer that is not "later", or raise."""
        delay_s = 0.0
        problem = ""
        for attempt in range(self._attempts):
            if attempt:
                time.sleep(delay_s)
            delay_s = self._first_delay_s * 2**attempt * random.uniform(0.75, 1.25)  # noqa: S311 - no secret
            try:
                answer = self._http.request(method, path, content=content, headers=headers)
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
