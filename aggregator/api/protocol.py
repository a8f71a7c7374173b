"""GraphQL over HTTP as pure functions: what a request asks for, and how what came of it is told.

Nothing here waits or knows the service: bytes of a request in, an `Asked` or a `RequestError` out; an `Execution` in, a
`Reply` out. `endpoint.py` moves the bytes.

Notes
-----
GraphQL over HTTP, first edition (September 2026). Where it wants other statuses than the published audits of servers,
the audits win, because the clients at large were written for them; the README of the package lists these places.
"""

import hashlib
import json
import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any
from urllib.parse import parse_qsl

import orjson

from aggregator.api.execution import Execution, Operation
from aggregator.errors import AggregatorError
from metadata_db.errors import shorten

MAX_BODY_BYTES = 200_000
"""Longest body of a request; the longest of the web page has some 3 kB."""

MAX_URL_BYTES = 8192
"""Longest address: RFC 9110 recommends to support 8000, and many servers on the way end at 8192."""

MAX_JSON_DEPTH = 64
"""Deepest nesting of a request's JSON; a filter needs some ten levels."""

MAX_JSON_COMMAS = 20_000
"""Most commas of a request's JSON. A request of nothing but tiny values takes a tenth of a second to read otherwise."""

MAX_PARAMETERS = 20
"""Most parameters of an address; four have a meaning."""

FRESH_S = 1
"""How long a shared cache may tell an answer without asking: as long as any process of the service may."""

RETRY_AFTER_S = 5
"""What a client is told to wait when an answer took too long."""

Header = tuple[bytes, bytes]


class MediaType(Enum):
    """What answers are written in: both are the same JSON, but their statuses differ."""

    JSON = "application/json"
    GRAPHQL = "application/graphql-response+json"

    @property
    def content_type(self) -> bytes:
        """The header."""
        return f"{self.value}; charset=utf-8".encode()


class RequestError(AggregatorError):
    """A request that is answered without being carried out.

    Parameters
    ----------
    status
        Of HTTP.
    code
        Stable word for programs.
    message
        For people: what came, and what would have been right.
    headers
        That belong to the status.
    facts
        The same as the message, for programs.
    """

    def __init__(
        self, status: int, code: str, message: str, *, headers: Iterable[Header] = (), **facts: str | int | float
    ) -> None:
        self.status = status
        self.code = code
        self.headers = tuple(headers)
        self.facts = facts
        super().__init__(message)


@dataclass(frozen=True, kw_only=True, slots=True)
class Asked:
    """A well-formed request: a document, by its text or its digest or both, and what belongs to it."""

    document: str | None = None
    sha256: str | None = None
    """Digest of the document in lower-case hex, when the request names it."""
    is_automatic: bool = False
    """Whether it is named as Apollo's clients do, who send the text when they are told one certain error."""
    variables: Mapping[str, Any] | None = None
    name: str | None = None

    def with_document(self, text: str) -> Operation:
        """Return the operation, whose document is `text`."""
        return Operation(document=text, variables=self.variables, name=self.name)


@dataclass(frozen=True, kw_only=True, slots=True)
class Reply:
    """What is sent back."""

    status: int
    headers: tuple[Header, ...]
    body: bytes


# --- which form is wanted ---------------------------------------------------------------------------------------------


def choose_media_type(accept: str | None) -> MediaType:
    """Return the media type that a header Accept likes best; of equals, the one that it names first.

    Raises
    ------
    RequestError
        It likes none of ours: 406.

    Notes
    -----
    RFC 9110, section 12.5.1: of the ranges that a type falls in, the most specific one tells its weight.
    """
    if accept is None or not accept.strip() or accept == "*/*":
        return MediaType.JSON
    ranges = [found for found in map(_media_range, accept.split(",")) if found is not None]
    weights = {offer: _weight(offer.value, ranges) for offer in MediaType}
    best = max(MediaType, key=lambda offer: weights[offer])
    if weights[best][0] > 0:
        return best
    expected = " or ".join(offer.value for offer in MediaType)
    raise RequestError(
        406,
        "NOT_ACCEPTABLE",
        f"Accept: got {shorten(accept)}, expected {expected}",
        field="Accept",
        value=shorten(accept),
        expected=expected,
    )


def accepts(accept: str | None, media_type: str) -> bool:
    """Tell whether a header Accept allows a media type."""
    ranges = [found for found in map(_media_range, (accept or "*/*").split(",")) if found is not None]
    return _weight(media_type, ranges)[0] > 0


def _media_range(text: str) -> tuple[str, float] | None:
    """Return name and weight of a range; None for one that is malformed or wants another charset than ours."""
    name, *rest = (part.strip().lower() for part in text.split(";"))
    parameters = {key.strip(): value.strip().strip('"') for key, _, value in (item.partition("=") for item in rest)}
    weight = parameters.get("q", "1")
    if not re.fullmatch(r"0(\.[0-9]{0,3})?|1(\.0{0,3})?", weight, re.ASCII):
        return None
    return (name, float(weight)) if parameters.get("charset", "utf-8") in ("utf-8", "utf8") else None


def _weight(offer: str, ranges: list[tuple[str, float]]) -> tuple[float, int]:
    """Return the weight of a media type, and minus the place of the range that says so."""
    for name in (offer, f"{offer.partition('/')[0]}/*", "*/*"):
        found = [(weight, -place) for place, (range_name, weight) in enumerate(ranges) if range_name == name]
        if found:
            return max(found)
    return 0.0, 0


# --- what is asked for ------------------------------------------------------------------------------------------------


def check_body_headers(content_type: str | None, content_encoding: str | None, content_length: str | None) -> None:
    """Check what a request says of its body, before any of it is read.

    Forms and plain text are refused because a page of somebody else's can send them without asking first; a packed
    body because a small one may unpack to any size.

    Raises
    ------
    RequestError
        415 or 413.
    """
    if content_encoding is not None and content_encoding.strip().lower() not in ("", "identity"):
        headers = [(b"accept-encoding", b"identity")]
        raise _unsupported("Content-Encoding", content_encoding, "a body that is not packed", headers)
    if not _is_json(content_type or ""):
        expected = "application/json, in UTF-8"
        raise _unsupported("Content-Type", content_type, expected, [(b"accept-post", b"application/json")])
    if content_length is not None and content_length.isdecimal() and _is_more(content_length, MAX_BODY_BYTES):
        raise body_too_large(content_length)


def _is_json(content_type: str) -> bool:
    name, *rest = (part.strip().lower() for part in content_type.split(";"))
    charset = [
        item.partition("=")[2].strip().strip('"') for item in rest if item.partition("=")[0].strip() == "charset"
    ]
    return name == MediaType.JSON.value and all(item in ("utf-8", "utf8") for item in charset)


def _is_more(digits: str, limit: int) -> bool:
    return len(digits.lstrip("0")) > len(str(limit)) or int(digits) > limit


def _unsupported(field: str, value: str | None, expected: str, headers: list[Header]) -> RequestError:
    told = "nothing" if value is None else shorten(value)
    message = f"{field}: got {told}, expected {expected}"
    return RequestError(
        415, "UNSUPPORTED_MEDIA_TYPE", message, headers=headers, field=field, value=told, expected=expected
    )


def body_too_large(size: str) -> RequestError:
    """Return the error of a body of a size: a number of bytes, or at least so many."""
    told, expected = f"{size[:30]} bytes", f"at most {MAX_BODY_BYTES}"
    message = f"body: got {told}, expected {expected}"
    return RequestError(413, "BODY_TOO_LARGE", message, field="body", value=told, expected=expected)


def parse_body(body: bytes) -> Asked:
    """Return what the body of a POST asks for.

    Raises
    ------
    RequestError
        It is not well-formed: 400.
    """
    found = read_json("body", body)
    if isinstance(found, list):
        raise _bad("body", "a list", "one request: several at once are not answered", code="BATCH_REFUSED")
    if not isinstance(found, dict):
        raise _bad("body", shorten(found), "a JSON object")
    return read_asked(found)


def parse_address(query: bytes, path_sha256: str | None = None) -> Asked:
    """Return what the address of a GET asks for; `path_sha256` is the document that its path names.

    Raises
    ------
    RequestError
        It is not well-formed: 400; it is too long: 414.
    """
    if len(query) > MAX_URL_BYTES:
        raise RequestError(
            414,
            "ADDRESS_TOO_LONG",
            f"address: got {len(query)} bytes of parameters, expected at most {MAX_URL_BYTES}; longer ones go by POST",
            field="address",
            value=len(query),
            expected=f"at most {MAX_URL_BYTES} bytes",
        )
    found: dict[str, Any] = {}
    for name, value in _parameters(query):
        if name in found:
            raise _bad(name[:40], "it twice", "every parameter once")
        found[name] = value
    if "query" in found and _NUL.search(found["query"].encode()):
        raise _nul("query")
    for name in ("variables", "extensions"):
        if name in found:
            found[name] = read_json(name, found[name].encode()) if found[name] else None
    return read_asked(found, path_sha256)


def _parameters(query: bytes) -> list[tuple[str, str]]:
    try:
        return parse_qsl(query.decode(), keep_blank_values=True, errors="strict", max_num_fields=MAX_PARAMETERS)
    except UnicodeDecodeError as error:
        raise _bad("address", "bytes that are not UTF-8", "percent-encoded UTF-8") from error
    except ValueError as error:
        raise _bad("address", f"more than {MAX_PARAMETERS} parameters", f"at most {MAX_PARAMETERS}") from error


_NUL = re.compile(rb"\x00|\\u(?:0000|\{0+\})")
"""A NUL, as JSON and GraphQL write it: no text in the database can hold one."""


def read_json(field: str, text: bytes) -> Any:
    """Return the value of a JSON text that nobody can read in two ways, and that is not too deep.

    The fast parser is strict about UTF-8, surrogates, numbers and constants, but takes the last of two equal keys: the
    standard library's tells of these.

    Raises
    ------
    RequestError
        It is none such: 400.
    """
    commas = text.count(b",")
    if commas > MAX_JSON_COMMAS:
        raise _bad(field, f"{commas} commas", f"at most {MAX_JSON_COMMAS}")
    try:
        found = orjson.loads(text)
    except orjson.JSONDecodeError as error:
        raise _bad(field, f"no JSON ({error})", "JSON in UTF-8", code="NOT_JSON") from error
    depth = _depth(found)
    if depth > MAX_JSON_DEPTH:
        raise _bad(field, f"JSON of {depth} levels", f"at most {MAX_JSON_DEPTH}")
    if _NUL.search(text):
        raise _nul(field)
    try:
        _EVERY_KEY_ONCE.decode(text.decode())
    except _RepeatedKeyError as error:
        raise _bad(field, f"the key {error} twice", "every key once") from error
    return found


def _nul(field: str) -> RequestError:
    return _bad(field, r"the character \u0000", "texts without it")


def _depth(value: Any) -> int:
    depth, level = 0, [value]
    while level:
        nested = [item for item in level if isinstance(item, dict | list)]
        level = [child for item in nested for child in (item.values() if isinstance(item, dict) else item)]
        depth += bool(nested)
    return depth


class _RepeatedKeyError(Exception):
    """An object of JSON has a key twice."""


def _check_keys(pairs: list[tuple[str, Any]]) -> None:
    seen = set()
    for key, _ in pairs:
        if key in seen:
            raise _RepeatedKeyError(shorten(key))
        seen.add(key)


_EVERY_KEY_ONCE = json.JSONDecoder(object_pairs_hook=_check_keys)


def read_asked(found: Mapping[str, Any], path_sha256: str | None = None) -> Asked:
    """Return what the parameters of a request ask for.

    Raises
    ------
    RequestError
        They are not well-formed: 400.
    """
    document, name = _optional(found, "query", str), _optional(found, "operationName", str)
    variables, extensions = _optional(found, "variables", dict), _optional(found, "extensions", dict)
    automatic = _persisted_sha256(extensions or {})
    document_id = _optional(found, "documentId", str)
    by_id = None if document_id is None else parse_document_id(document_id)
    named = {path_sha256, by_id, automatic} - {None}
    if document is None and not named:
        raise _bad("query", "nothing", "a text, the document")
    if document is not None and named:
        named.add(sha256_of(document))
    if len(named) > 1:
        raise _different_documents(named)
    return Asked(
        document=document,
        sha256=next(iter(named), None),
        is_automatic=automatic is not None,
        variables=variables,
        name=name or None,
    )


_KINDS: Mapping[type, str] = {str: "a text", dict: "an object"}


def _optional(found: Mapping[str, Any], name: str, kind: type) -> Any:
    value = found.get(name)
    if value is not None and not isinstance(value, kind):
        raise _bad(name, shorten(value), _KINDS[kind])
    return value


def _bad(field: str, got: str, expected: str, *, code: str = "BAD_REQUEST") -> RequestError:
    return RequestError(
        400, code, f"{field}: got {got}, expected {expected}", field=field, value=got, expected=expected
    )


# --- documents by their digest ----------------------------------------------------------------------------------------

_SHA256 = re.compile(r"[0-9a-f]{64}", re.ASCII)


def parse_document_id(text: str) -> str:
    """Return the digest that the last part of an address names, with or without ``sha256:`` before it.

    Raises
    ------
    RequestError
        It names none: 404.
    """
    digest = text.removeprefix("sha256:")
    if not _SHA256.fullmatch(digest):
        expected = "the SHA-256 of a document, 64 lower-case hexadecimal digits"
        raise RequestError(
            404,
            "PERSISTED_DOCUMENT_NOT_FOUND",
            f"document: got {shorten(text)}, expected {expected}",
            field="document",
            value=shorten(text),
            expected=expected,
        )
    return digest


def _persisted_sha256(extensions: Mapping[str, Any]) -> str | None:
    """Return the digest that ``extensions.persistedQuery`` names, as Apollo's clients write it."""
    persisted = extensions.get("persistedQuery")
    if persisted is None:
        return None
    if not isinstance(persisted, dict):
        raise _bad("extensions.persistedQuery", shorten(persisted), "an object")
    if persisted.get("version") != 1:
        raise _bad("extensions.persistedQuery.version", shorten(persisted.get("version")), "1")
    digest = persisted.get("sha256Hash")
    if not isinstance(digest, str) or not _SHA256.fullmatch(digest):
        raise _bad("extensions.persistedQuery.sha256Hash", shorten(digest), "64 lower-case hexadecimal digits")
    return digest


def sha256_of(document: str) -> str:
    """Return the digest that names a document."""
    return hashlib.sha256(document.encode()).hexdigest()


def _different_documents(named: Collection[str | None]) -> RequestError:
    told = ", ".join(sorted(filter(None, named)))
    message = f"document: got text and digests of several, {told}, expected one"
    return RequestError(
        400, "PERSISTED_QUERY_HASH_MISMATCH", message, field="document", value=told, expected="one document"
    )


def unknown_document(asked: Asked) -> RequestError:
    """Return the error of a document that is not known here; clients send its text then."""
    digest = asked.sha256 or ""
    if asked.is_automatic:
        return RequestError(404, "PERSISTED_QUERY_NOT_FOUND", "PersistedQueryNotFound", value=digest)
    message = f"no document {digest} is known here: it was not asked lately; send its text once by POST"
    return RequestError(404, "PERSISTED_DOCUMENT_NOT_FOUND", message, field="document", value=digest)


def too_busy() -> RequestError:
    """Return the error of a request for which there is no room."""
    return RequestError(
        503,
        "BUSY",
        "more is asked than can be answered now; ask again in a moment",
        headers=[(b"retry-after", str(RETRY_AFTER_S).encode())],
    )


# --- what is told -----------------------------------------------------------------------------------------------------


def tell(execution: Execution, media_type: MediaType) -> Reply:
    """Return the reply to a POST."""
    return Reply(
        status=_status(execution, media_type),
        headers=(*_describe(execution.body, media_type), (b"cache-control", b"no-store")),
        body=execution.body,
    )


def tell_cacheable(
    execution: Execution, media_type: MediaType, *, if_none_match: str | None = None, is_personal: bool = False
) -> Reply:
    """Return the reply to a GET: with a tag, and empty when the asker has the same body already.

    `is_personal` says that the request carried credentials, so that nobody else may be told the same.
    """
    headers = [*_describe(execution.body, media_type), (b"vary", b"Accept, Authorization")]
    if execution.has_errors:
        headers.append((b"cache-control", b"no-store"))
        return Reply(status=_status(execution, media_type), headers=tuple(headers), body=execution.body)
    tag = f'"{hashlib.sha256(media_type.content_type + execution.body).hexdigest()[:32]}"'
    fresh = "no-cache" if execution.footprint.is_passing else f"max-age={FRESH_S}, must-revalidate"
    reach = "private" if is_personal else "public"
    caching = [(b"etag", tag.encode()), (b"cache-control", f"{reach}, {fresh}".encode())]
    if if_none_match is not None and _matches(if_none_match, tag):
        return Reply(status=304, headers=(*headers[2:], *caching), body=b"")
    return Reply(status=200, headers=(*headers, *caching), body=execution.body)


def _matches(if_none_match: str, tag: str) -> bool:
    """Tell whether a header If-None-Match names a tag; a weak one of the same name does as well."""
    return if_none_match.strip() == "*" or tag in re.findall(r'"[^"]*"', if_none_match)


def _status(execution: Execution, media_type: MediaType) -> int:
    if media_type is MediaType.JSON or not execution.has_errors:
        return 200
    return 400 if execution.is_refused else 294


def refuse(error: RequestError, media_type: MediaType) -> Reply:
    """Return the reply to a request that is not carried out."""
    body = orjson.dumps({"errors": [{"message": str(error), "extensions": {"code": error.code, **error.facts}}]})
    # Programs that know application/json alone take every other status for a failure on the way.
    is_question_back = error.code == "PERSISTED_QUERY_NOT_FOUND" and media_type is MediaType.JSON
    return Reply(
        status=200 if is_question_back else error.status,
        headers=(*_describe(body, media_type), (b"cache-control", b"no-store"), *error.headers),
        body=body,
    )


def _describe(body: bytes, media_type: MediaType) -> tuple[Header, Header]:
    return (b"content-type", media_type.content_type), (b"content-length", str(len(body)).encode())
