"""From a question to SQL: pure functions, never a connection.

A condition is built for each filter that was set. Facets leave out one filter each, so conditions are kept by the
name of their filter until a statement is made of them.
"""

import base64
import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import Enum
from typing import Any, TypeAlias

import orjson
from sqlalchemy import ColumnElement, DateTime, Select, and_, cast, false, func, literal, or_, select, true
from sqlalchemy import Interval as IntervalType
from sqlalchemy.dialects.postgresql import JSONPATH

from metadata_db.errors import BadCursorError
from metadata_db.query import AttributeFilter, Cone, EnergyRange, Interval, RunRange, Scalar, SearchQuery, glob_to_regex
from metadata_db.tables import file
from metadata_db.vocabulary import Vocabulary

Revisions: TypeAlias = Mapping[str, int]
"""Facility name → revision: a moment in the life of the catalogue."""

NAMED = ("facility", "cluster", "detector", "channel", "storage")
"""Filters and facets whose values are names of the vocabulary."""

WORDS = ("level", "kind", "format", "obs_id", "object", "processing", "quality", "conditions")
"""Filters whose values are kept in the file's row as they are."""


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


Condition: TypeAlias = ColumnElement[bool]
Conditions: TypeAlias = Mapping[str, Condition]
"""Name of a filter → its condition."""


def build_conditions(query: SearchQuery, vocabulary: Vocabulary) -> dict[str, Condition]:
    """Return the condition of each filter that is set."""
    found: dict[str, Condition] = {}
    for name in NAMED:
        if values := getattr(query, name):
            ids = getattr(vocabulary, name).ids
            numbers = sorted(number for value in values for number in ids.get(value, ()))
            found[name] = file.c[f"{name}_id"].in_(numbers) if numbers else false()
    for name in WORDS:
        if values := getattr(query, name):
            found[name] = file.c[name].in_(values)
    if query.is_simulation is not None:
        found["is_simulation"] = file.c.is_simulation.is_(query.is_simulation)
    if query.time is not None:
        asked = [number for name in query.facility for number in vocabulary.facility.ids.get(name, ())]
        longest = max((vocabulary.longest[number] for number in asked or vocabulary.longest), default=timedelta())
        found["time"] = _overlaps_time(query.time, longest)
    if query.run:
        found["run"] = or_(*map(_in_runs, query.run))
    if query.energy is not None:
        found["energy"] = _overlaps_energy(query.energy)
    if query.cone is not None:
        found["cone"] = _in_cone(query.cone)
    if query.attributes:
        found["attributes"] = and_(*(_has_attribute(item) for item in query.attributes))
    if query.path:
        found["path"] = or_(*(file.c.path.regexp_match(glob_to_regex(glob)) for glob in query.path))
    return found


def _overlaps_time(interval: Interval, longest: timedelta) -> Condition:
    """Files that share a moment with the half-open interval; a file without an end, or of no length, is a moment.

    Without more, an index could only tell which files begin before the interval's end: nearly all. No file of the
    facilities in question is longer than `longest`, so one that began earlier than that before the interval is over.
    """
    begin, end = file.c.time_begin, file.c.time_end
    conditions: list[Condition] = [begin.is_not(None)]
    if interval.end is not None:
        conditions.append(begin < interval.end)
    if interval.begin is not None:
        conditions.append(or_(end > interval.begin, begin >= interval.begin))
        # Subtracted by Postgres, whose years go further back than Python's.
        conditions.append(begin >= literal(interval.begin, DateTime(timezone=True)) - literal(longest, IntervalType()))
    return and_(*conditions)


def _in_runs(runs: RunRange) -> Condition:
    return file.c.run == runs.first if runs.first == runs.last else file.c.run.between(runs.first, runs.last)


def _overlaps_energy(energy: EnergyRange) -> Condition:
    """Files whose range shares an energy with the asked one; a file that states one end only is that one energy."""
    lowest = func.coalesce(file.c.energy_min_ev, file.c.energy_max_ev)
    highest = func.coalesce(file.c.energy_max_ev, file.c.energy_min_ev)
    conditions: list[Condition] = []
    if energy.min_ev is not None:
        conditions.append(highest >= energy.min_ev)
    if energy.max_ev is not None:
        conditions.append(lowest <= energy.max_ev)
    return and_(*conditions)


def _in_cone(cone: Cone) -> Condition:
    """Files whose position is within the cone: a band of declination for the index, then the exact angle.

    The haversine is exact for small angles, where the cosine of the distance is not.
    """
    ra, dec = file.c.ra_deg, file.c.dec_deg
    band = dec.between(cone.dec_deg - cone.radius_deg, cone.dec_deg + cone.radius_deg)
    haversine = func.power(func.sind((dec - cone.dec_deg) / 2), 2) + func.cosd(dec) * func.cosd(
        literal(cone.dec_deg)
    ) * func.power(func.sind((ra - cone.ra_deg) / 2), 2)
    # Opposite the centre rounding takes it above 1, where no cone would hold it.
    return and_(band, func.least(haversine, 1.0) <= func.power(func.sind(literal(cone.radius_deg) / 2), 2))


def _has_attribute(wanted: AttributeFilter) -> Condition:
    """Condition as a jsonpath, which the GIN index understands and which looks into lists as well."""
    member = f"$.{json.dumps(wanted.name)}"
    if wanted.values:
        paths = [f"{member} ? (@ == {text})" for value in wanted.values for text in _literals(value)]
    else:
        ends = [(">=", wanted.minimum), ("<=", wanted.maximum)]
        paths = [f"{member} ? ({' && '.join(f'@ {sign} {end!r}' for sign, end in ends if end is not None)})"]
    return or_(*(file.c.attributes.op("@?", is_comparison=True)(cast(path, JSONPATH)) for path in paths))


def _literals(value: Scalar) -> list[str]:
    """Spellings of a value: a large number is stored exactly or, from floating point, in its shortest decimal form."""
    is_large = isinstance(value, int) and 2**53 < abs(value) < 2**1023
    return [json.dumps(value), repr(float(value))] if is_large else [json.dumps(value)]


# --- moments of the catalogue ---------------------------------------------------------------------------------------


def living() -> Condition:
    """Files as they are now."""
    return file.c.removed_in.is_(None)


def as_of(revisions: Revisions, vocabulary: Vocabulary) -> Condition:
    """Files as they were at a revision of each facility; a facility that is not named has none."""
    lives = [
        and_(
            file.c.facility_id == vocabulary.facility.ids[name][0],
            file.c.added_in <= revision,
            or_(file.c.removed_in.is_(None), file.c.removed_in > revision),
        )
        for name, revision in sorted(revisions.items())
    ]
    return or_(*lives) if lives else false()


# --- statements -----------------------------------------------------------------------------------------------------


def where(conditions: Conditions, life: Condition, *, without: str | None = None) -> Condition:
    """Return all conditions in one, but for the filter `without`."""
    return and_(life, true(), *(condition for name, condition in conditions.items() if name != without))


def summary_statement(wanted: Condition) -> Select[Any]:
    """One row: count, bytes, and the sums of the fingerprints."""
    return select(
        func.count().label("count"),
        func.coalesce(func.sum(file.c.size_bytes), 0).label("bytes"),
        func.coalesce(func.sum(file.c.fingerprint_high), 0).label("high"),
        func.coalesce(func.sum(file.c.fingerprint_low), 0).label("low"),
    ).where(wanted)


def facet_statement(field: FacetField, wanted: Condition) -> Select[Any]:
    """One row per value: value (number for names of the vocabulary), count, bytes; the most frequent first."""
    column = file.c[f"{field.value}_id"] if field.value in NAMED else file.c[field.value]
    count = func.count().label("count")
    return (
        select(column.label("value"), count, func.sum(file.c.size_bytes).label("bytes"))
        .where(wanted, column.is_not(None))
        .group_by(column)
        .order_by(count.desc(), column)
    )


PAGE_COLUMNS = [
    column
    for column in file.c
    if column.name
    not in ("digest", "reading", "checked_at", "fingerprint_high", "fingerprint_low", "added_in", "removed_in")
]
"""What a page needs of a file: all that users can see."""


def page_statement(wanted: Condition, order: Order, first: int, after: str | None) -> Select[Any]:
    """One row per file in `order`, one more than `first` to tell whether there is a next page.

    Raises
    ------
    BadCursorError
        `after` is not a cursor of this order.
    """
    key = file.c[order.field.value]
    statement = select(*PAGE_COLUMNS).where(wanted).limit(first + 1)
    if after is not None:
        statement = statement.where(_is_after(order, *decode_cursor(order, after)))
    if order.field is OrderField.CATALOGUED:
        return statement.order_by(key.desc() if order.descending else key)
    if order.descending:
        return statement.order_by(key.desc().nulls_first(), file.c.id.desc())
    return statement.order_by(key, file.c.id)


def _is_after(order: Order, value: Any, number: int) -> Condition:
    """Condition for the rows behind (value, number), where absent values count as larger than all others."""
    key = file.c[order.field.value]
    if order.field is OrderField.CATALOGUED:
        return key < number if order.descending else key > number
    if order.descending:
        if value is None:
            return or_(and_(key.is_(None), file.c.id < number), key.is_not(None))
        return or_(key < value, and_(key == value, file.c.id < number))
    if value is None:
        return and_(key.is_(None), file.c.id > number)
    return or_(key > value, and_(key == value, file.c.id > number), key.is_(None))


def members_statement(wanted: Condition, after_id: int, limit: int) -> Select[Any]:
    """Rows of the files of an export in order of their number."""
    return select(*PAGE_COLUMNS).where(wanted, file.c.id > after_id).order_by(file.c.id).limit(limit)


# --- cursors --------------------------------------------------------------------------------------------------------


def encode_cursor(order: Order, value: Any, number: int) -> str:
    """Return the cursor that stands behind one row of a page."""
    content = [str(order), value.isoformat() if isinstance(value, datetime) else value, number]
    return base64.urlsafe_b64encode(orjson.dumps(content)).decode().rstrip("=")


def decode_cursor(order: Order, cursor: str) -> tuple[Any, int]:
    """Return (value, number) of the row that a cursor stands behind.

    Raises
    ------
    BadCursorError
        It is none of ours, or one of another order.
    """
    expected = f"an endCursor of a page in the order {order}"
    try:
        padded = cursor.encode("ascii") + b"=" * (-len(cursor) % 4)
        made_for, value, number = orjson.loads(base64.b64decode(padded, altchars=b"-_", validate=True))
        if made_for != str(order):
            raise ValueError(made_for)
        return _cursor_value(order.field, value), _bigint(number)
    except (ValueError, TypeError, UnicodeEncodeError) as error:
        raise BadCursorError("after", cursor, expected) from error


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
