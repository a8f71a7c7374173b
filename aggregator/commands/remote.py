"""The service as the commands see it, over HTTP; every GraphQL operation that they send is here."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeAlias, TypeVar

import click
import httpx
import msgspec
from msgspec import Struct

from aggregator.commands.failures import Failure, Misuse
from aggregator.commands.settings import F
from metadata_db.records import AlertListReport, Storage

DEFAULT_URL = "http://127.0.0.1:8000"
"""Where `catchment serve` listens unless told otherwise."""

CONNECT_TIMEOUT_S = 10.0
"""Longest wait for a connection."""

ANSWER_TIMEOUT_S = 120.0
"""Longest wait for each piece of an answer."""

_EXPORT_FIELDS = """
fragment ExportFields on Export {
  id queryId state filesTotal bytesTotal manifestSha256 error createdAt completedAt archiveUrl
  progress { filesDone bytesDone filesFailed }
}"""

_ANSWER_FIELDS = """
fragment AnswerFields on SearchResult {
  queryId revision canonical cached checksum totalCount { value isEstimate } totalBytes
  files(first: $first, after: $after) {
    nodes { facility storage path sizeBytes kind level timeBegin timeEnd obsId run object }
    pageInfo { hasNextPage endCursor }
  }
  facets(by: [FACILITY]) { values { value count totalBytes } }
  export { ...ExportFields }
}"""

_SEARCH = f"""query Search($filter: SearchFilter!, $first: Int!, $after: String, $asOf: AsOf) {{
  search(filter: $filter, prepare: NEVER, asOf: $asOf) {{ ...AnswerFields }}
}}{_ANSWER_FIELDS}{_EXPORT_FIELDS}"""

_QUERY = f"""query Reopen($id: ID!, $first: Int!, $after: String, $asOf: AsOf) {{
  query(id: $id, asOf: $asOf) {{ ...AnswerFields }}
}}{_ANSWER_FIELDS}{_EXPORT_FIELDS}"""

_PREPARE = f"""mutation Prepare($id: ID!, $asOf: AsOf) {{
  prepare(queryId: $id, asOf: $asOf) {{ ...ExportFields }}
}}{_EXPORT_FIELDS}"""
_CANCEL = f"mutation Cancel($id: ID!) {{ cancel(exportId: $id) {{ ...ExportFields }} }}{_EXPORT_FIELDS}"
_EXPORT = f"query FindExport($id: ID!) {{ export(id: $id) {{ ...ExportFields }} }}{_EXPORT_FIELDS}"

_BAD_INPUT_CODES = frozenset({"BAD_INPUT", "BAD_CURSOR", "GRAPHQL_INVALID"})


T = TypeVar("T")

AsOf: TypeAlias = Mapping[str, Any] | None
"""An earlier moment, as the service wants it: its revision or its time; None is now."""


class _Reply(Struct, frozen=True, kw_only=True, rename="camel"):
    """Part of an answer; what the service adds later is ignored."""


class ExportProgress(_Reply, frozen=True, kw_only=True):
    """How far an export is."""

    files_done: int
    bytes_done: int
    files_failed: int


class ExportStatus(_Reply, frozen=True, kw_only=True):
    """An export at one moment."""

    id: str
    query_id: str
    state: str
    files_total: int
    bytes_total: int
    progress: ExportProgress
    created_at: str
    completed_at: str | None = None
    manifest_sha256: str | None = None
    error: str | None = None
    archive_url: str | None = None


class FoundFile(_Reply, frozen=True, kw_only=True):
    """One file of an answer, as far as the commands show it."""

    facility: str
    storage: str
    path: str
    size_bytes: int
    kind: str | None = None
    level: str | None = None
    time_begin: str | None = None
    time_end: str | None = None
    obs_id: str | None = None
    run: int | None = None
    object: str | None = None


class PageInfo(_Reply, frozen=True, kw_only=True):
    """What follows a page."""

    has_next_page: bool
    end_cursor: str | None = None


class FilePage(_Reply, frozen=True, kw_only=True):
    """Some files of an answer."""

    nodes: list[FoundFile]
    page_info: PageInfo


class FacetValue(_Reply, frozen=True, kw_only=True):
    """How many files have one value."""

    value: str
    count: int
    total_bytes: int


class Facet(_Reply, frozen=True, kw_only=True):
    """Files counted by one field."""

    values: list[FacetValue]


class Count(_Reply, frozen=True, kw_only=True):
    """A number of files."""

    value: int
    is_estimate: bool


class Answer(_Reply, frozen=True, kw_only=True):
    """The quick response."""

    query_id: str
    revision: int
    """What to ask `as_of` to get the same answer for ever."""
    canonical: dict[str, Any]
    cached: bool
    checksum: str
    total_count: Count
    total_bytes: int
    files: FilePage
    facets: list[Facet]
    export: ExportStatus | None = None

    @property
    def by_facility(self) -> Sequence[FacetValue]:
        """Files and bytes of each facility."""
        return self.facets[0].values


class _GraphqlError(_Reply, frozen=True, kw_only=True):
    message: str
    extensions: dict[str, Any] = {}


class _GraphqlAnswer(_Reply, frozen=True, kw_only=True):
    data: dict[str, Any] | None = None
    errors: list[_GraphqlError] = []


class _RestError(_Reply, frozen=True, kw_only=True):
    message: str = ""
    code: str = ""


class _RestErrorAnswer(_Reply, frozen=True, kw_only=True):
    error: _RestError


class Remote:
    """A connection to one service; use it in a ``with`` statement.

    All methods raise `Failure` when the service cannot be reached or refuses, and `Misuse` when it cannot make sense
    of what was asked.
    """

    def __init__(self, url: str, token: str | None = None) -> None:
        if not url.startswith(("http://", "https://")):
            raise Misuse(f"--url: got {url!r}, expected an address such as {DEFAULT_URL}")
        self.url = url.rstrip("/")
        self.http = httpx.Client(
            base_url=self.url,
            headers={"Authorization": f"Bearer {token}"} if token else {},
            timeout=httpx.Timeout(ANSWER_TIMEOUT_S, connect=CONNECT_TIMEOUT_S),
            trust_env=not _is_here(self.url),  # a proxy of the environment does not know this host's services
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.http.close()

    def search(
        self, filter_: Mapping[str, Any], *, first: int = 1, after: str | None = None, as_of: AsOf = None
    ) -> Answer:
        """Ask a question, without preparing an export."""
        variables = {"filter": dict(filter_), "first": first, "after": after, "asOf": as_of}
        return self._convert(self._ask(_SEARCH, variables)["search"], Answer)

    def reopen(self, query_id: str, *, first: int = 1, after: str | None = None, as_of: AsOf = None) -> Answer:
        """Ask a question again by its id."""
        found = self._ask(_QUERY, {"id": query_id, "first": first, "after": after, "asOf": as_of})["query"]
        if found is None:
            raise Failure(f"{self.url} knows no question {query_id!r}")
        return self._convert(found, Answer)

    def prepare(self, query_id: str, *, as_of: AsOf = None) -> ExportStatus:
        """Start the full response of a question, or find the one there is."""
        return self._convert(self._ask(_PREPARE, {"id": query_id, "asOf": as_of})["prepare"], ExportStatus)

    def get_export(self, export_id: str) -> ExportStatus:
        """Return an export as it is at this moment."""
        found = self._ask(_EXPORT, {"id": export_id})["export"]
        if found is None:
            raise Failure(f"{self.url} knows no export {export_id!r}")
        return self._convert(found, ExportStatus)

    def cancel(self, export_id: str) -> ExportStatus:
        """Stop an export that is not complete."""
        return self._convert(self._ask(_CANCEL, {"id": export_id})["cancel"], ExportStatus)

    def put_alerts(self, path: Path) -> str:
        """Send a list of alerts, and return the id that questions name it by."""
        try:
            answer = self.http.post("/api/v1/alerts", content=path.read_bytes())
        except httpx.HTTPError as error:
            raise self.away(error) from error
        if answer.status_code == httpx.codes.UNPROCESSABLE_ENTITY:
            raise Misuse(f"{path}: {self._refusal(answer).message.removeprefix(f'{self.url}: ')}")
        if not answer.is_success:
            raise self._refusal(answer)
        try:
            return msgspec.json.decode(answer.content, type=AlertListReport).id
        except msgspec.MsgspecError as error:
            raise self._not_ours() from error

    def storages(self) -> list[Storage]:
        """Return all storages with their roots; needs an admin's token."""
        try:
            return msgspec.json.decode(self._get("/api/v1/storages").content, type=list[Storage])
        except msgspec.MsgspecError as error:
            raise self._not_ours() from error

    def _get(self, path: str) -> httpx.Response:
        try:
            answer = self.http.get(path)
        except httpx.HTTPError as error:
            raise self.away(error) from error
        if not answer.is_success:
            raise self._refusal(answer)
        return answer

    def _ask(self, document: str, variables: Mapping[str, Any]) -> dict[str, Any]:
        try:
            answer = self.http.post("/graphql", json={"query": document, "variables": variables})
        except httpx.HTTPError as error:
            raise self.away(error) from error
        try:
            body = msgspec.json.decode(answer.content, type=_GraphqlAnswer)
        except msgspec.MsgspecError:
            raise self._refusal(answer) from None
        if body.errors:
            first = body.errors[0]
            is_misuse = first.extensions.get("code") in _BAD_INPUT_CODES
            raise Misuse(first.message) if is_misuse else Failure(first.message)
        if body.data is None:
            raise self._refusal(answer)
        return body.data

    def _convert(self, value: Any, kind: type[T]) -> T:
        try:
            return msgspec.convert(value, type=kind)
        except msgspec.ValidationError as error:
            raise Failure(f"{self.url} is of another version than this program: {error}") from error

    def away(self, error: httpx.HTTPError) -> Failure:
        """Return the error of a service that cannot be reached."""
        reason = str(error) or type(error).__name__
        return Failure(f"no answer from {self.url} ({reason}): is the service running there? --url names another one")

    def _refusal(self, answer: httpx.Response) -> Failure:
        try:
            said = msgspec.json.decode(answer.content, type=_RestErrorAnswer).error
        except msgspec.MsgspecError:
            return self._not_ours(f"status {answer.status_code}")
        if answer.status_code in (httpx.codes.NOT_FOUND, httpx.codes.METHOD_NOT_ALLOWED):
            return self._not_ours(f"status {answer.status_code}")  # every address that we ask for is there
        return Failure(f"{self.url}: {said.message or said.code}")

    def _not_ours(self, what: str = "something else") -> Failure:
        return Failure(f"{self.url} answered with {what}, expected a Catchment service: is --url right?")


def _is_here(url: str) -> bool:
    return httpx.URL(url).host in ("localhost", "127.0.0.1", "::1")


def url_option(function: F) -> F:
    """Add ``--url``."""
    return click.option(
        "--url",
        envvar="CATCHMENT_URL",
        default=DEFAULT_URL,
        show_default=True,
        help="Address of the service.  [CATCHMENT_URL]",
    )(function)


def token_option(function: F) -> F:
    """Add ``--token``, which is required."""
    return click.option(
        "--token",
        envvar="CATCHMENT_TOKEN",
        required=True,
        help="Token made by 'catchment token create'; better given as variable.  [CATCHMENT_TOKEN]",
    )(function)
