"""What a search can count by and order by, and the cursors of its pages."""

import base64
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from enum import Enum
from typing import Any, TypeAlias

import orjson

from metadata_db.errors import BadCursorError

Revisions: TypeAlias = Mapping[str, int]
"""Facility name → revision: a moment in the life of the catalogue."""


class FacetField(Enum):
    """What files can be counted by."""

    FACILITY = "facility"
    CLUSTER = "cluster"
    DETECTOR = "detector"
    CHANNEL = "channel"
    STORAGE = "storage"
    LEVEL = "level"
    KIND = "kind"
    FORMAT = "format"
    OBJECT = "object"
    PROCESSING = "processing"
    QUALITY = "quality"
    CONDITIONS = "conditions"


class OrderField(Enum):
    """What files can be ordered by; files without the value come last in ascending order."""

    TIME_BEGIN = "time_begin"
    PATH = "path"
    SIZE_BYTES = "size_bytes"
    RUN = "run"
    CATALOGUED = "id"


@dataclass(frozen=True, kw_only=True, slots=True)
class Order:
    """Order of a page; ties are broken by the number of the row, so every file has one place."""

    field: OrderField = OrderField.TIME_BEGIN
    descending: bool = False

    def __str__(self) -> str:
        return f"{self.field.value}{'-' if self.descending else '+'}"

    @property
    def reverse(self) -> "Order":
        """The same places from the last to the first."""
        return replace(self, descending=not self.descending)


@dataclass(frozen=True, kw_only=True, slots=True)
class Paging:
    """Which page of a question is wanted: so many files in an order behind a cursor, or the last ones before it."""

    order: Order = Order()
    n: int = 50
    """Most files of the page."""
    cursor: str | None = None
    """Where the page begins, or ends when it is read backward; None is the end of the order from which it is read."""
    is_backward: bool = False

    def __str__(self) -> str:
        return f"{self.order}:{'-' if self.is_backward else ''}{self.n}:{self.cursor or ''}"

    @property
    def direction(self) -> Order:
        """The order in which the files of the page are found, from the cursor on."""
        return self.order.reverse if self.is_backward else self.order

    def find_place(self, query_id: str) -> tuple[Any, int] | None:
        """Return (value, number) of the row of the cursor; None without one.

        Raises
        ------
        BadCursorError
            It is no cursor of this question and order.
        """
        if self.cursor is None:
            return None
        name = "before" if self.is_backward else "after"
        return decode_cursor(self.order, self.cursor, query_id=query_id, name=name)

    def find_place_beyond(self, query_id: str) -> tuple[Any, int] | None:
        """Return the place behind which, against `direction`, the row of the cursor is the first one that can be."""
        place = self.find_place(query_id)
        return None if place is None else (place[0], place[1] + (-1 if self.direction.descending else 1))


# --- cursors --------------------------------------------------------------------------------------------------------


def encode_cursor(order: Order, value: Any, number: int, *, query_id: str) -> str:
    """Return the cursor that stands behind one row of a page of a question."""
    content = [_kind(order, query_id), value.isoformat() if isinstance(value, datetime) else value, number]
    return base64.urlsafe_b64encode(orjson.dumps(content)).decode().rstrip("=")


def _kind(order: Order, query_id: str) -> str:
    return f"{order}{query_id[:8]}"


def decode_cursor(order: Order, cursor: str, *, query_id: str, name: str = "after") -> tuple[Any, int]:
    """Return (value, number) of the row that a cursor stands behind; `name` is what errors call it.

    Raises
    ------
    BadCursorError
        It is none of ours, or one of another order or question.
    """
    expected = f"a cursor of a page of this question in the order {order}"
    try:
        padded = cursor.encode("ascii") + b"=" * (-len(cursor) % 4)
        made_for, value, number = orjson.loads(base64.b64decode(padded, altchars=b"-_", validate=True))
        if made_for != _kind(order, query_id):
            raise ValueError(made_for)
        return _cursor_value(order.field, value), _bigint(number)
    except (ValueError, TypeError, UnicodeEncodeError) as error:
        raise BadCursorError(name, cursor, expected) from error


def _cursor_value(field: OrderField, value: Any) -> Any:
    if value is None and field in (OrderField.TIME_BEGIN, OrderField.RUN):
        return None
    if field is OrderField.TIME_BEGIN:
        moment = datetime.fromisoformat(value)
        if moment.tzinfo is None:
            raise ValueError(value)
        return moment
    if field is OrderField.PATH:
        if not isinstance(value, str) or "\0" in value:
            raise ValueError(value)
        return value
    return _bigint(value)


def _bigint(value: Any) -> int:
    # True is an int to Python, and an error to SQLAlchemy.
    if type(value) is not int or abs(value) >= 2**63:
        raise ValueError(value)
    return value
