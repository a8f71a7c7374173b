"""Inputs of the schema, and how they become a `SearchQuery`.

Types say what GraphQL can check; what it cannot, the parsers of `metadata_db.query` check, and name the field, the
value and what was expected.
"""

from collections.abc import Callable, Iterable
from datetime import datetime
from typing import Any

import strawberry

import aggregator.api.enums  # noqa: F401  # marks the enumerations that are used below
from aggregator.api.scalars import AttributeValue, BigInt, Time
from metadata_db.errors import BadInputError
from metadata_db.query import (
    Alert,
    AttributeFilter,
    Coincidence,
    EnergyUnit,
    Interval,
    SearchQuery,
    parse_alerts,
    parse_attributes,
    parse_coincidence,
    parse_cone,
    parse_energy,
    parse_globs,
    parse_interval,
    parse_month,
    parse_night,
    parse_runs,
    parse_season,
    parse_time,
    parse_week,
    parse_words,
)
from metadata_db.search import Order, OrderField, Paging

MAX_PAGE = 1000
"""Most files of one page."""

USUAL_PAGE = 50
"""Files of a page when nothing is said."""


def _field(description: str, default: Any = None) -> Any:
    return strawberry.field(default=default, description=description)


@strawberry.input(description="An interval of time, or one preset. Files match that share a moment with it.")
class TimeFilter:
    """Interval or preset."""

    begin: Time | None = _field("From this moment on, included.")
    end: Time | None = _field("Up to this moment, excluded.")
    season: str | None = _field("Season of observation, September to May: `2019/20`.")
    month: str | None = _field("Calendar month in UTC: `2019-11`.")
    week: str | None = _field("ISO week in UTC: `2019-W45`.")
    night: str | None = _field("Night from noon to noon UTC, by the date of its evening: `2019-11-02`.")


@strawberry.input(description="Run numbers from `first` to `last`, both included.")
class RunRangeInput:
    """Range of runs."""

    first: BigInt = strawberry.field(description="First run.")
    last: BigInt | None = _field("Last run; the first when left out.")


@strawberry.input(description="A range of energy. Files match whose own range overlaps it.")
class EnergyFilter:
    """Range of energy."""

    min: float | None = _field("Least energy, in `unit`.")
    max: float | None = _field("Largest energy, in `unit`.")
    unit: EnergyUnit = strawberry.field(description="Unit of both.")


@strawberry.input(description="A circle on the sky, ICRS. Files match whose position lies in it.")
class ConeFilter:
    """Circle on the sky."""

    ra_deg: float = strawberry.field(description="Right ascension of the centre, degrees.")
    dec_deg: float = strawberry.field(description="Declination of the centre, degrees.")
    radius_deg: float = strawberry.field(description="Radius, degrees.")


@strawberry.input(
    description="A condition on an attribute that a facility declared: `equals`, `in`, or `min` and `max`."
)
class AttributeFilterInput:
    """Condition on an attribute."""

    name: str = strawberry.field(description="Name of the attribute, see `attributes`.")
    equals: AttributeValue | None = _field("The one value wanted.")
    in_: list[AttributeValue] | None = strawberry.field(name="in", default=None, description="The values wanted.")
    min: float | None = _field("Least value, included; numbers only.")
    max: float | None = _field("Largest value, included; numbers only.")


@strawberry.input(description="A moment of interest, perhaps with a direction.")
class AlertInput:
    """Alert."""

    time: Time = strawberry.field(description="When it was.")
    ra_deg: float | None = _field("Right ascension, ICRS degrees; needed with `withinDeg`.")
    dec_deg: float | None = _field("Declination, ICRS degrees; needed with `withinDeg`.")


@strawberry.input(
    description="What files must coincide with: other files, alerts, or an uploaded list of alerts; exactly one of "
    "them. A file coincides that is close enough in time, and on the sky if that is asked, to the same file or alert; "
    "no file coincides with itself."
)
class CoincidenceFilter:
    """Coincidence."""

    files: "SearchFilter | None" = _field("Which files may be the others; at least one filter, but no `coincidence`.")
    alerts: list[AlertInput] | None = _field("Up to 1000 alerts.")
    alert_list: strawberry.ID | None = _field("Id of a list that was sent to `/api/v1/alerts`.")
    within_s: float = strawberry.field(
        description="Largest time between both, seconds; 0 asks for a shared moment, 2678400 (31 days) is the most."
    )
    within_deg: float | None = _field(
        "Largest angle between both, degrees. When left out, positions do not matter; else both need one."
    )


@strawberry.input(
    description="A question. Values of one filter are alternatives; all filters that are set must hold. "
    "A file whose value is not known never matches a filter on it."
)
class SearchFilter:
    """All filters."""

    facility: list[str] | None = _field("Names of facilities, see `facilities`.")
    cluster: list[str] | None = _field("Names of clusters, stations or groups of detectors, see `clusters`.")
    detector: list[str] | None = _field("Names of detectors, see `detectors`.")
    channel: list[str] | None = _field("Names of data channels, see `dataChannels`.")
    storage: list[str] | None = _field("Names of storages, see `storages`.")
    level: list[str] | None = _field("Data levels, in the facilities' words.")
    kind: list[str] | None = _field("Kinds of content: `events`, `irf`, `strain` …")
    format: list[str] | None = _field("Formats of the stored bytes: `fits`, `fits+gzip`, `hdf5` …")
    obs_id: list[str] | None = _field("Observation ids, verbatim.")
    object: list[str] | None = _field("Names of observed objects, verbatim.")
    processing: list[str] | None = _field("Names of processings.")
    quality: list[str] | None = _field("Qualities, in the facilities' words.")
    conditions: list[str] | None = _field("Observing conditions, such as the weather, in the facilities' words.")
    is_simulation: bool | None = _field("Simulations only, or measurements only.")
    time: TimeFilter | None = _field("Interval of time, UTC.")
    run: list[RunRangeInput] | None = _field("Ranges of run numbers.")
    energy: EnergyFilter | None = _field("Range of energy.")
    cone: ConeFilter | None = _field("Circle on the sky.")
    attributes: list[AttributeFilterInput] | None = _field("Conditions on declared attributes; all must hold.")
    path: list[str] | None = _field(
        "Patterns of the path below the storage's root: `*` and `?` stay within a folder, `**` crosses folders."
    )
    coincidence: CoincidenceFilter | None = _field("Closeness in time, and on the sky, to other files or to alerts.")


@strawberry.input(description="Order of the files; files without the value come last in ascending order.")
class FileOrder:
    """Order."""

    field: OrderField = _field("What to order by.", default=OrderField.TIME_BEGIN)
    descending: bool = _field("Largest first.", default=False)


@strawberry.input(
    description="An earlier moment of the catalogue: a revision of it, or a time; exactly one of them. "
    "An answer as of a revision is the same for ever."
)
class AsOf:
    """Earlier moment."""

    revision: BigInt | None = _field("Revision of the catalogue, see `SearchResult.revision`; 0 is the empty one.")
    moment: Time | None = _field("A time that is over: the last revision that was made up to it.")


_WORDS = ("facility", "cluster", "detector", "channel", "storage", "level", "kind", "format", "object", "processing",
          "quality", "conditions")  # fmt: skip


def to_query(given: SearchFilter, *, name: str = "filter") -> SearchQuery:
    """Return the question that a filter asks; `name` is what errors call the filter.

    Raises
    ------
    BadInputError
        A filter is empty, contradicts itself or cannot be read.
    """
    values: dict[str, Any] = {word: _set(f"{name}.{word}", getattr(given, word), parse_words) for word in _WORDS}
    return SearchQuery(
        **values,
        obs_id=_set(f"{name}.obsId", given.obs_id, parse_words),
        path=_set(f"{name}.path", given.path, parse_globs),
        is_simulation=given.is_simulation,
        time=None if given.time is None else _to_interval(f"{name}.time", given.time),
        run=_set(f"{name}.run", given.run, _to_runs),
        energy=None if given.energy is None else _to_energy(f"{name}.energy", given.energy),
        cone=None if given.cone is None else _to_cone(f"{name}.cone", given.cone),
        attributes=_set(f"{name}.attributes", given.attributes, _to_attributes),
        coincidence=None if given.coincidence is None else _to_coincidence(f"{name}.coincidence", given.coincidence),
    )


def to_as_of(given: AsOf | None) -> int | datetime | None:
    """Return the revision or the time that was asked for; None is now.

    Raises
    ------
    BadInputError
        Both are given, or none, or the time cannot be read.
    """
    if given is None:
        return None
    if (given.revision is None) == (given.moment is None):
        chosen = [name for name in ("revision", "moment") if getattr(given, name) is not None]
        raise BadInputError("asOf", chosen, "exactly one of revision and moment")
    return given.revision if given.moment is None else parse_time("asOf.moment", given.moment)


def to_order(given: FileOrder | None) -> Order:
    """Return the order that was asked for, by default the begin of the files' time."""
    return Order() if given is None else Order(field=given.field, descending=given.descending)


def to_paging(
    first: int | None, after: str | None, last: int | None, before: str | None, order: FileOrder | None
) -> Paging:
    """Return the page that was asked for: the first files behind a cursor, or the last ones before one.

    Raises
    ------
    BadInputError
        Both are asked for, or the number of files is out of its range.
    """
    is_backward = last is not None or (before is not None and first is None)
    if is_backward and first is not None:
        raise BadInputError("files.last", last, "first or last, not both")
    if is_backward and after is not None:
        raise BadInputError("files.after", after, "before as the cursor where last is asked for")
    if not is_backward and before is not None:
        raise BadInputError("files.before", before, "after as the cursor where first is asked for")
    name, n = ("last", last) if is_backward else ("first", first)
    n = USUAL_PAGE if n is None else n
    if not 1 <= n <= MAX_PAGE:
        raise BadInputError(f"files.{name}", n, f"a number from 1 to {MAX_PAGE}")
    return Paging(order=to_order(order), n=n, cursor=before if is_backward else after, is_backward=is_backward)


def _set(
    name: str, values: list[Any] | None, parse: Callable[[str, Iterable[Any]], tuple[Any, ...]]
) -> tuple[Any, ...]:
    if values is None:
        return ()
    if not values:
        raise BadInputError(name, [], "at least one value, or no such filter")
    return parse(name, values)


_PRESETS = {"season": parse_season, "month": parse_month, "week": parse_week, "night": parse_night}


def _to_interval(name: str, given: TimeFilter) -> Interval:
    presets = [preset for preset in _PRESETS if getattr(given, preset) is not None]
    bounded = given.begin is not None or given.end is not None
    if len(presets) + bounded != 1:
        chosen = [*presets, *(["begin/end"] if bounded else [])]
        raise BadInputError(name, chosen, "begin, end or both, or exactly one preset")
    if presets:
        return _PRESETS[presets[0]](f"{name}.{presets[0]}", getattr(given, presets[0]))
    return parse_interval(name, begin=given.begin, end=given.end)


def _to_runs(name: str, given: Iterable[RunRangeInput]) -> tuple[Any, ...]:
    return parse_runs(name, ((item.first, item.first if item.last is None else item.last) for item in given))


def _to_energy(name: str, given: EnergyFilter) -> Any:
    return parse_energy(name, minimum=given.min, maximum=given.max, unit=given.unit)


def _to_cone(name: str, given: ConeFilter) -> Any:
    return parse_cone(name, ra_deg=given.ra_deg, dec_deg=given.dec_deg, radius_deg=given.radius_deg)


def _to_coincidence(name: str, given: CoincidenceFilter) -> Coincidence:
    nested = given.files is not None and given.files.coincidence is not None
    if nested:  # before it is read, as deep as it may be
        raise BadInputError(f"{name}.files.coincidence", "a coincidence", "none within another")
    return parse_coincidence(
        name,
        within_s=given.within_s,
        within_deg=given.within_deg,
        files=None if given.files is None else to_query(given.files, name=f"{name}.files"),
        alerts=None if given.alerts is None else _to_alerts(f"{name}.alerts", given.alerts),
        alert_list=given.alert_list,
    )


def _to_alerts(name: str, given: Iterable[AlertInput]) -> tuple[Alert, ...]:
    return parse_alerts(name, ((alert.time, alert.ra_deg, alert.dec_deg) for alert in given))


def _to_attributes(name: str, given: Iterable[AttributeFilterInput]) -> tuple[AttributeFilter, ...]:
    return parse_attributes(name, (_to_attribute(f"{name}[{at}]", item) for at, item in enumerate(given)))


def _to_attribute(name: str, given: AttributeFilterInput) -> AttributeFilter:
    if given.equals is not None and given.in_ is not None:
        raise BadInputError(name, given.name, "equals or in, not both")
    values: Any = [given.equals] if given.equals is not None else given.in_ or []
    return AttributeFilter(name=given.name, values=tuple(values), minimum=given.min, maximum=given.max)
