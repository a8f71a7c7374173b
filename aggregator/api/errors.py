"""How errors are told to users of GraphQL."""

import logging
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from graphql import GraphQLError

from aggregator.errors import PUBLIC_ERRORS, AggregatorError
from metadata_db.errors import BadInputError

logger = logging.getLogger(__name__)

MAX_MESSAGE = 1000
"""Longest message of an error, in characters."""

MAX_ERRORS = 20
"""Most errors of one answer."""

MASKED = "INTERNAL"
"""Code of what is wrong on our side: its text is for the log alone."""


@dataclass(frozen=True, slots=True)
class Code:
    """What a code means, and the HTTP status of an answer that consists of such an error, where there is one."""

    meaning: str
    status: int | None


CODES: Mapping[str, Code] = {
    "BAD_INPUT": Code("a value cannot be understood: `field`, `value` and `expected` say which and why", 422),
    "BAD_CURSOR": Code("a cursor that is not of this question and order; begin again with the first page", 422),
    "GRAPHQL_INVALID": Code("the document is no GraphQL, does not fit the schema, or its variables do not", None),
    "LIMIT_EXCEEDED": Code("the request is too large: `limit`, `value` and `allowed` say in what", None),
    "NOT_FOUND": Code("there is no such question, export, facility …", 404),
    "PERMISSION_DENIED": Code("the token is missing, unknown, or does not allow this", 403),
    "QUERY_ID_COLLISION": Code("another question has the same id; this one cannot be answered", 409),
    "NOT_JSON": Code("the body, or a parameter, is no JSON in UTF-8; lone surrogates and NaN are none", 400),
    "BAD_REQUEST": Code("a part of the request is of the wrong kind, missing, too deep or given twice", 400),
    "BATCH_REFUSED": Code("several requests in one; ask one after the other, or with aliases", 400),
    "PERSISTED_QUERY_HASH_MISMATCH": Code("the document has another digest than the request says", 400),
    "PERSISTED_QUERY_NOT_FOUND": Code("no document with this digest is known: send its text once", 404),
    "PERSISTED_DOCUMENT_NOT_FOUND": Code("the same, asked by address", 404),
    "ORIGIN_REFUSED": Code("pages of this site may not open connections here", 403),
    "METHOD_NOT_ALLOWED": Code("this is not asked by this method; `Allow` names those that are", 405),
    "NOT_ACCEPTABLE": Code("the header Accept allows nothing that can be answered", 406),
    "REQUEST_TIMEOUT": Code("the body did not arrive in time", 408),
    "BODY_TOO_LARGE": Code("the body is too long", 413),
    "HEAD_TOO_LARGE": Code("the address and the headers are too long", 431),
    "ADDRESS_TOO_LONG": Code("the address is too long; longer questions go by POST", 414),
    "UNSUPPORTED_MEDIA_TYPE": Code("the body is of another type than application/json, or packed", 415),
    "BUSY": Code("more is asked than can be answered; ask again after `Retry-After`", 503),
    "TIMEOUT": Code("the answer was not ready in time; ask for less, or again in a moment", 503),
    "TOO_MANY_CONNECTIONS": Code("too many connections stay open; try again later", 503),
    "UNAVAILABLE": Code("the database does not answer or gave up; try again in a moment", 503),
    "BUFFER_FULL": Code("no room for the files of an export; try again when others have expired", 507),
    MASKED: Code("something went wrong here; the operators find it in their log by `reference`", 500),
}
"""Every `extensions.code`; the table in `docs/graphql.md` is compared with it by a test."""


class LimitExceededError(AggregatorError):
    """A request holds more of something than is allowed.

    Parameters
    ----------
    limit
        Name of the limit, as `aggregator.api.limits.Limits` has it, in camel case.
    value
        How much there is; None when that was not counted to its end.
    allowed
        The most there may be.
    """

    code = "LIMIT_EXCEEDED"

    def __init__(self, limit: str, value: int | None, allowed: int) -> None:
        self.limit = limit
        self.value = value
        self.allowed = allowed
        counted = f"more than {allowed}" if value is None else str(min(value, 10**18))
        super().__init__(f"{limit}: got {counted}, expected at most {allowed}")

    @property
    def facts(self) -> dict[str, Any]:
        """The limit, how much there is, and what is allowed."""
        # Fragments multiply to numbers that JSON readers cannot hold.
        return {"limit": self.limit, "value": min(self.value or self.allowed + 1, 2**53 - 1), "allowed": self.allowed}


class TookTooLongError(AggregatorError):
    """An answer was not ready in time."""

    code = "TIMEOUT"

    def __init__(self, limit_s: float) -> None:
        super().__init__(f"the answer was not ready within {limit_s:g} s; ask for less, or again in a moment")


def as_graphql(error: AggregatorError) -> GraphQLError:
    """Return an error of ours as one of GraphQL's, of the whole request."""
    return GraphQLError(str(error), original_error=error)


def format_errors(errors: Sequence[GraphQLError]) -> list[dict[str, Any]]:
    """Return errors as users see them: at most `MAX_ERRORS`, of which the last one tells of those left out."""
    if len(errors) <= MAX_ERRORS:
        return [format_error(error) for error in errors]
    left_out = as_graphql(LimitExceededError("errors", len(errors), MAX_ERRORS))
    return [format_error(error) for error in (*errors[: MAX_ERRORS - 1], left_out)]


def format_error(error: GraphQLError) -> dict[str, Any]:
    """Return an error as users see it: ours with code and facts, GraphQL's own as it is, all others masked."""
    formatted: dict[str, Any] = dict(error.formatted)
    formatted["message"] = formatted["message"][:MAX_MESSAGE]  # GraphQL's own errors repeat what was sent
    cause = error.original_error
    while isinstance(cause, GraphQLError) and cause.original_error is not None:
        cause = cause.original_error
    if isinstance(cause, PUBLIC_ERRORS) and cause.code in CODES and cause.code != MASKED:
        formatted["message"] = str(cause)
        formatted["extensions"] = {"code": cause.code, **_facts(cause)}
    elif cause is None or (isinstance(cause, GraphQLError | ValueError) and error.path is None):
        formatted["extensions"] = {"code": "GRAPHQL_INVALID"}
    else:
        reference = secrets.token_hex(4)
        logger.error("a resolver failed", exc_info=cause, extra={"action": "graphql", "reference": reference})
        formatted["message"] = f"something went wrong here; the operators find it in their log as {reference}"
        formatted["extensions"] = {"code": MASKED, "reference": reference}
    return formatted


def _facts(error: Exception) -> dict[str, Any]:
    if isinstance(error, BadInputError):
        return {"field": error.field, "value": error.value, "expected": error.expected}
    return error.facts if isinstance(error, LimitExceededError) else {}
