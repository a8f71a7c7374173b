"""What can go wrong in the catalogue.

CatalogueError
├── BadInputError            what the asker or publisher sent cannot be understood: names field, value, expectation
│   └── BadCursorError       a page cursor that is not ours
├── NotFoundError            no such facility, storage, query …
├── PermissionDeniedError    the token does not allow this
├── QueryIdCollisionError    two canonical forms with one MD5: refused, never served
└── UnavailableError         the database cannot be reached or gave up; safe to try again
"""

from typing import Any


class CatalogueError(Exception):
    """Base of all errors of the catalogue; `code` is the stable word that users see."""

    code = "INTERNAL"


class BadInputError(CatalogueError):
    """Something that was sent cannot be understood.

    Parameters
    ----------
    field
        Path of the offending field as its sender spelled it, such as ``filter.time.begin``.
    value
        What was sent; shown shortened.
    expected
        What would have been right, as a noun phrase: ``a UTC time such as 2019-11-02T18:00:00Z``.
    """

    code = "BAD_INPUT"

    def __init__(self, field: str, value: Any, expected: str) -> None:
        self.field = field
        self.value = shorten(value)
        self.expected = expected
        super().__init__(f"{field}: got {self.value}, expected {expected}")


class BadCursorError(BadInputError):
    """A page cursor that this service did not make, or that belongs to another order."""

    code = "BAD_CURSOR"


class NotFoundError(CatalogueError):
    """No such thing: `kind` is the vocabulary word, `name` what was asked for."""

    code = "NOT_FOUND"

    def __init__(self, kind: str, name: str) -> None:
        self.kind = kind
        self.name = name
        super().__init__(f"no {kind} {shorten(name)}")


class PermissionDeniedError(CatalogueError):
    """The token is missing, unknown or does not allow what was asked."""

    code = "PERMISSION_DENIED"


class QueryIdCollisionError(CatalogueError):
    """Two different canonical forms have one MD5; only a deliberate attack makes such a pair."""

    code = "QUERY_ID_COLLISION"

    def __init__(self, query_id: str) -> None:
        self.query_id = query_id
        super().__init__(f"another question is already known as {query_id}; this one cannot be answered")


class UnavailableError(CatalogueError):
    """The database cannot be reached, is shutting down or cancelled the statement; safe to try again."""

    code = "UNAVAILABLE"


def shorten(value: Any, limit: int = 120) -> str:
    """Show `value` as in source code, at most `limit` characters: errors must not echo megabytes."""
    text = repr(value) if isinstance(value, str) else str(value)
    return text if len(text) <= limit else f"{text[: limit - 1]}…"
