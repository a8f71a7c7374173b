"""What can be asked: the search query, its filters, their limits, and its canonical form.

A filter is parsed once, here, into a value that cannot be wrong; everything behind this module trusts it. Two
questions that mean the same have equal canonical forms, however their times, units, orders and repetitions were
spelled. A new kind of filter appears in the canonical form only when it is set, so it never changes an old id.
"""

import json
import math
import re
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from enum import Enum
from functools import cached_property
from typing import Any, TypeAlias

from metadata_db.canonical import canonical_json, query_id
from metadata_db.errors import BadInputError

MAX_VALUES = 1000
"""Most values of one filter."""

MAX_TEXT = 1024
"""Longest text of one filter value, in characters."""

MAX_WITHIN_S = 31 * 86_400.0
"""Longest time between coinciding files, in seconds: a month."""

Scalar: TypeAlias = bool | int | float | str


class EnergyUnit(Enum):
    """Units of energy that a question may use; the value is the power of ten in electronvolt."""

    EV = 0
    KEV = 3
    MEV = 6
    GEV = 9
    TEV = 12
    PEV = 15
    EEV = 18


@dataclass(frozen=True, kw_only=True, slots=True)
class Interval:
    """Half-open interval of time in UTC; an end that is None is open."""

    begin: datetime | None = None
    end: datetime | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class RunRange:
    """Run numbers from `first` to `last`, both included."""

    first: int
    last: int


@dataclass(frozen=True, kw_only=True, slots=True)
class EnergyRange:
    """Energies in eV; a file matches when its own range overlaps. An end that is None is open."""

    min_ev: float | None = None
    max_ev: float | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Cone:
    """Circle on the sky: ICRS degrees, ``0 <= ra_deg < 360``."""

    ra_deg: float
    dec_deg: float
    radius_deg: float


@dataclass(frozen=True, kw_only=True, slots=True)
class AttributeFilter:
    """Condition on one declared attribute: one of `values`, or within ``[minimum, maximum]``."""

    name: str
    values: tuple[Scalar, ...] = ()
    minimum: float | None = None
    maximum: float | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Alert:
    """A moment in UTC, in the years 2 to 9998, and perhaps a direction: ICRS degrees, ``0 <= ra_deg < 360``."""

    time: datetime
    ra_deg: float | None = None
    dec_deg: float | None = None

    def as_mapping(self) -> dict[str, Any]:
        """Return what is known as plain JSON values; `from_mapping` reads them back."""
        plain: dict[str, Any] = _plain(self)
        return plain

    @classmethod
    def from_mapping(cls, mapping: Mapping[str, Any]) -> "Alert":
        """Return the alert of plain canonical values; the counterpart of `as_mapping`."""
        return cls(**{**mapping, "time": datetime.fromisoformat(mapping["time"])})


@dataclass(frozen=True, kw_only=True, slots=True)
class Coincidence:
    """What a file must coincide with: exactly one of `files`, `alerts` and `alert_list` is set.

    A file coincides when it is at most `within_s` away in time from another file, never from itself, or from an
    alert, and at most `within_deg` from the same one on the sky. Intervals of time are half-open; a file without an
    end, or of no length, and an alert are moments, which last a microsecond here.
    """

    within_s: float
    """Whole microseconds, in seconds; 0 asks for a shared moment."""
    within_deg: float | None = None
    """None asks for no position; else what has none does not coincide."""
    files: "SearchQuery | None" = None
    """Which files may be the others; has no coincidence of its own."""
    alerts: tuple[Alert, ...] = ()
    """In order and without repeats; with positions only if they matter."""
    alert_list: str | None = None
    """Id of a list that was uploaded."""


@dataclass(frozen=True, kw_only=True, repr=False)
class SearchQuery:
    """One question: values of one filter are alternatives, different filters must all hold.

    Sets are sorted tuples without repeats; an empty tuple or None means that the filter was not set.
    """

    facility: tuple[str, ...] = ()
    cluster: tuple[str, ...] = ()
    detector: tuple[str, ...] = ()
    channel: tuple[str, ...] = ()
    storage: tuple[str, ...] = ()
    level: tuple[str, ...] = ()
    kind: tuple[str, ...] = ()
    format: tuple[str, ...] = ()
    obs_id: tuple[str, ...] = ()
    object: tuple[str, ...] = ()
    processing: tuple[str, ...] = ()
    quality: tuple[str, ...] = ()
    conditions: tuple[str, ...] = ()
    is_simulation: bool | None = None
    time: Interval | None = None
    run: tuple[RunRange, ...] = ()
    energy: EnergyRange | None = None
    cone: Cone | None = None
    attributes: tuple[AttributeFilter, ...] = ()
    path: tuple[str, ...] = ()
    coincidence: Coincidence | None = None

    @property
    def touched(self) -> tuple[str, ...]:
        """Facilities whose files the answer can depend on; empty means all of them."""
        others = None if self.coincidence is None else self.coincidence.files
        if others is None or not self.facility:
            return self.facility
        return tuple(sorted({*self.facility, *others.facility})) if others.facility else ()

    @cached_property
    def canonical(self) -> str:
        """Canonical JSON text: only the filters that were set, in one spelling."""
        return canonical_json(self.as_mapping())

    @cached_property
    def query_id(self) -> str:
        """MD5 of the canonical form, 32 hexadecimal digits."""
        return query_id(self.canonical)

    def without(self, name: str) -> "SearchQuery":
        """Return the question without its filter `name`, one of those that take names or words."""
        return SearchQuery.from_mapping({key: value for key, value in self.as_mapping().items() if key != name})

    def as_mapping(self) -> dict[str, Any]:
        """Return the filters that were set as plain JSON values; `from_mapping` reads them back."""
        found = {f.name: _plain(getattr(self, f.name)) for f in fields(self)}
        return {name: value for name, value in found.items() if value not in (None, [])}

    def __repr__(self) -> str:
        return f"SearchQuery.from_canonical({self.canonical!r})"

    @classmethod
    def from_canonical(cls, canonical: str) -> "SearchQuery":
        """Return the query whose canonical form this is."""
        return cls.from_mapping(json.loads(canonical))

    @classmethod
    def from_mapping(cls, mapping: Mapping[str, Any]) -> "SearchQuery":
        """Return the query of plain canonical values; the counterpart of `as_mapping`."""
        return cls(**{name: _READERS.get(name, tuple)(value) for name, value in mapping.items()})


def _plain(value: Any) -> Any:
    if isinstance(value, tuple):
        return [_plain(item) for item in value]
    if isinstance(value, datetime):
        return f"{value.astimezone(UTC).replace(tzinfo=None).isoformat(timespec='microseconds')}Z"
    if hasattr(value, "__dataclass_fields__"):
        found = {name: _plain(getattr(value, name)) for name in value.__dataclass_fields__}
        return {name: item for name, item in found.items() if item not in (None, [])}
    return value


def _read_coincidence(value: Mapping[str, Any]) -> Coincidence:
    partners: dict[str, Any] = {"alerts": tuple(map(Alert.from_mapping, value.get("alerts", ())))}
    if "files" in value:
        partners["files"] = SearchQuery.from_mapping(value["files"])
    return Coincidence(**{**value, **partners})


_READERS: Mapping[str, Callable[[Any], Any]] = {
    "is_simulation": bool,
    "time": lambda value: Interval(**{name: datetime.fromisoformat(at) for name, at in value.items()}),
    "run": lambda value: tuple(RunRange(**item) for item in value),
    "energy": lambda value: EnergyRange(**value),
    "cone": lambda value: Cone(**value),
    "attributes": lambda value: tuple(AttributeFilter(**{**i, "values": tuple(i.get("values", ()))}) for i in value),
    "coincidence": _read_coincidence,
}

# --- parsing: what users write -> values that cannot be wrong --------------------------------------------------------


def parse_words(name: str, values: Iterable[str]) -> tuple[str, ...]:
    """Return the alternatives of a text filter, sorted and without repeats."""
    words = sorted(set(_bounded(name, values)))
    for word in words:
        if not word or not _is_text(word):
            raise BadInputError(name, word, f"1 to {MAX_TEXT} characters without NUL")
    return tuple(words)


def _is_text(word: str) -> bool:
    """Tell whether Postgres can hold a text: no NUL, no half of a surrogate pair."""
    return len(word) <= MAX_TEXT and not re.search("[\0\ud800-\udfff]", word)


def parse_time(name: str, text: str) -> datetime:
    """Return the moment that an ISO 8601 text names; without an offset it is UTC, a date alone is midnight."""
    try:
        moment = datetime.fromisoformat(text.strip())
        return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
    except (ValueError, OverflowError) as error:
        raise BadInputError(name, text, "an ISO 8601 time such as 2019-11-02T18:00:00Z, or a date") from error


def parse_interval(name: str, *, begin: str | None = None, end: str | None = None) -> Interval:
    """Return the half-open interval between two texts, of which one may be absent."""
    interval = Interval(
        begin=None if begin is None else parse_time(f"{name}.begin", begin),
        end=None if end is None else parse_time(f"{name}.end", end),
    )
    if interval.begin is None and interval.end is None:
        raise BadInputError(name, {}, "begin, end or one preset (season, month, week, night)")
    if interval.begin is not None and interval.end is not None and interval.end <= interval.begin:
        raise BadInputError(f"{name}.end", end, f"a time after begin, {begin}")
    return interval


def parse_season(name: str, text: str) -> Interval:
    """Return a season of observation, September to May: ``2019/20`` is 1 Sep 2019 to 1 Jun 2020 (excluded)."""
    expected = "a season such as 2019/20"
    match = re.fullmatch(r"(\d{4})/(\d{2}|\d{4})", text.strip(), re.ASCII)
    if match is None:
        raise BadInputError(name, text, expected)
    year, following = int(match[1]), match[2]
    if not 1 <= year <= 9998 or int(following) != (year + 1) % 10 ** len(following):
        raise BadInputError(name, text, f"{expected}, the second year following the first")
    return Interval(begin=datetime(year, 9, 1, tzinfo=UTC), end=datetime(year + 1, 6, 1, tzinfo=UTC))


def parse_month(name: str, text: str) -> Interval:
    """Return a calendar month in UTC: ``2019-11``."""
    begin = _parse_date(name, text, r"\d{4}-\d{2}", "{}-01", "a month such as 2019-11")
    return Interval(begin=begin, end=(begin + timedelta(days=31)).replace(day=1))


def parse_week(name: str, text: str) -> Interval:
    """Return an ISO 8601 week, Monday to Monday in UTC: ``2019-W45``."""
    begin = _parse_date(name, text, r"\d{4}-W\d{2}", "{}-1", "an ISO week such as 2019-W45")
    return Interval(begin=begin, end=begin + timedelta(days=7))


def parse_night(name: str, text: str) -> Interval:
    """Return an observing night, noon to noon in UTC, by the date of its evening: ``2019-11-02``."""
    day = _parse_date(name, text, r"\d{4}-\d{2}-\d{2}", "{}", "the date of an evening such as 2019-11-02")
    return Interval(begin=day + timedelta(hours=12), end=day + timedelta(hours=36))


def _parse_date(name: str, text: str, pattern: str, template: str, expected: str) -> datetime:
    try:
        if re.fullmatch(pattern, text.strip(), re.ASCII) is None:
            raise ValueError(text)
        day = datetime.fromisoformat(template.format(text.strip())).replace(tzinfo=UTC)
    except ValueError as error:
        raise BadInputError(name, text, expected) from error
    if day.year == 9999:  # the last moment of it cannot be written
        raise BadInputError(name, text, expected)
    return day


def parse_runs(name: str, ranges: Iterable[tuple[int, int]]) -> tuple[RunRange, ...]:
    """Return inclusive ranges of runs in order, joined where they touch or overlap."""
    merged: list[RunRange] = []
    for first, last in sorted(_bounded(name, ranges)):
        if last < first:
            raise BadInputError(name, f"{first} to {last}", "a last run that is not below the first")
        if max(abs(first), abs(last)) >= 2**63:
            raise BadInputError(name, f"{first} to {last}", "run numbers of at most 64 bits")
        if merged and first <= merged[-1].last + 1:
            merged[-1] = RunRange(first=merged[-1].first, last=max(last, merged[-1].last))
        else:
            merged.append(RunRange(first=first, last=last))
    return tuple(merged)


def parse_energy(name: str, *, minimum: float | None, maximum: float | None, unit: EnergyUnit) -> EnergyRange:
    """Return an energy range in eV, converted in decimal so that 1 TeV and 1000 GeV are the same number."""

    def in_ev(end: str, value: float | None) -> float | None:
        if value is None:
            return None
        if not math.isfinite(value) or value < 0:
            raise BadInputError(f"{name}.{end}", value, "a finite energy that is not negative")
        value_ev = float(Decimal(repr(float(value))).scaleb(unit.value)) + 0.0
        if not math.isfinite(value_ev):
            raise BadInputError(f"{name}.{end}", value, "an energy of at most 1e308 eV")
        return value_ev

    energy = EnergyRange(min_ev=in_ev("min", minimum), max_ev=in_ev("max", maximum))
    if energy.min_ev is None and energy.max_ev is None:
        raise BadInputError(name, {}, "min, max or both")
    if energy.min_ev is not None and energy.max_ev is not None and energy.max_ev < energy.min_ev:
        raise BadInputError(f"{name}.max", maximum, f"an energy that is not below min, {minimum}")
    return energy


def parse_cone(name: str, *, ra_deg: float, dec_deg: float, radius_deg: float) -> Cone:
    """Return a circle on the sky; right ascension is taken modulo 360 degrees, and is 0 at the poles."""
    ra, dec = parse_direction(f"{name}.raDeg", ra_deg, f"{name}.decDeg", dec_deg)
    if not 0 < radius_deg <= 180:
        raise BadInputError(f"{name}.radiusDeg", radius_deg, "a radius above 0 and up to 180 degrees")
    return Cone(ra_deg=ra, dec_deg=dec, radius_deg=float(radius_deg))


def parse_direction(ra_name: str, ra_deg: float, dec_name: str, dec_deg: float) -> tuple[float, float]:
    """Return right ascension and declination; the former is taken modulo 360 degrees, and is 0 at the poles."""
    if not -360 <= ra_deg <= 360:
        raise BadInputError(ra_name, ra_deg, "a right ascension from 0 to 360 degrees")
    if not -90 <= dec_deg <= 90:
        raise BadInputError(dec_name, dec_deg, "a declination from -90 to 90 degrees")
    turns = Decimal(repr(float(ra_deg))) % 360
    ra = 0.0 if abs(dec_deg) == 90 else float(turns + 360 if turns < 0 else turns)
    return ra + 0.0, float(dec_deg) + 0.0


def parse_attributes(name: str, filters: Iterable[AttributeFilter]) -> tuple[AttributeFilter, ...]:
    """Return conditions on attributes in order, each with its values sorted and without repeats."""
    parsed = {_parse_attribute(f"{name}[{at}]", item) for at, item in enumerate(_bounded(name, filters))}
    return tuple(sorted(parsed, key=lambda item: canonical_json(_plain(item))))


def _parse_attribute(name: str, given: AttributeFilter) -> AttributeFilter:
    ranged = given.minimum is not None or given.maximum is not None
    if ranged == bool(given.values):
        raise BadInputError(name, given.name, "either equals, in, or min and max")
    for end in (given.minimum, given.maximum):
        if end is not None and not math.isfinite(end):
            raise BadInputError(name, end, "a finite number")
    if given.minimum is not None and given.maximum is not None and given.maximum < given.minimum:
        raise BadInputError(name, given.maximum, f"a max that is not below min, {given.minimum}")
    for value in given.values:
        if isinstance(value, str) and not _is_text(value):
            raise BadInputError(name, value, f"at most {MAX_TEXT} characters without NUL")
        if isinstance(value, int) and abs(value) > sys.float_info.max:
            raise BadInputError(name, "a longer number", "numbers of at most 308 digits")
    distinct = {canonical_json(value): value for value in map(_plain_number, _bounded(name, given.values))}
    return AttributeFilter(
        name=given.name,
        values=tuple(distinct[key] for key in sorted(distinct)),
        minimum=None if given.minimum is None else float(given.minimum) + 0.0,
        maximum=None if given.maximum is None else float(given.maximum) + 0.0,
    )


def _plain_number(value: Scalar) -> Scalar:
    """Give 5 and 5.0 one spelling; JSON does not tell them apart either. Beyond 64 bits there are only floats."""
    if isinstance(value, str):
        return value
    if abs(value) >= 2**63:
        return float(value)
    return int(value) if isinstance(value, float) and value.is_integer() else value


def parse_coincidence(
    name: str,
    *,
    within_s: float,
    within_deg: float | None = None,
    files: SearchQuery | None = None,
    alerts: Sequence[Alert] | None = None,
    alert_list: str | None = None,
) -> Coincidence:
    """Return a coincidence with one of three: files, alerts, or an uploaded list of alerts.

    `alerts` are parsed ones. Their positions are left out where no angle is asked for, as they mean nothing then.
    """
    partners = {"files": files, "alerts": alerts, "alertList": alert_list}
    chosen = [key for key, value in partners.items() if value is not None]
    if len(chosen) != 1:
        raise BadInputError(name, chosen, "exactly one of files, alerts and alertList")
    if not 0 <= within_s <= MAX_WITHIN_S:
        raise BadInputError(f"{name}.withinS", within_s, f"0 to {MAX_WITHIN_S:.0f} seconds, which are 31 days")
    if within_deg is not None and not 0 < within_deg <= 180:
        raise BadInputError(f"{name}.withinDeg", within_deg, "an angle above 0 and up to 180 degrees")
    if files is not None:
        _check_partners(f"{name}.files", files)
    if alert_list is not None and re.fullmatch("[0-9a-fA-F]{64}", alert_list) is None:
        raise BadInputError(f"{name}.alertList", alert_list, "the id of an uploaded list, 64 hexadecimal digits")
    return Coincidence(
        within_s=timedelta(seconds=within_s).total_seconds(),
        within_deg=None if within_deg is None else float(within_deg),
        files=files,
        alerts=() if alerts is None else _parse_partners(f"{name}.alerts", alerts, placed=within_deg is not None),
        alert_list=None if alert_list is None else alert_list.lower(),
    )


def _check_partners(name: str, files: SearchQuery) -> None:
    if files.coincidence is not None:
        raise BadInputError(f"{name}.coincidence", "a coincidence", "none within another")
    if files == SearchQuery():
        raise BadInputError(name, {}, "at least one filter")


def _parse_partners(name: str, alerts: Sequence[Alert], *, placed: bool) -> tuple[Alert, ...]:
    found = _bounded(name, alerts)
    if not found:
        raise BadInputError(name, [], "at least one alert")
    if not placed:
        return order_alerts(Alert(time=alert.time) for alert in found)
    check_positions(name, found)
    return order_alerts(found)


def check_positions(name: str, alerts: Iterable[Alert]) -> None:
    """Check that every alert has a position, as an angle needs.

    Raises
    ------
    BadInputError
        Naming the first alert without one by its time.
    """
    for alert in alerts:
        if alert.ra_deg is None:
            raise BadInputError(
                name, f"no position at {alert.time.isoformat()}", "a position of every alert, as withinDeg needs"
            )


def parse_alerts(name: str, given: Iterable[tuple[str, float | None, float | None]]) -> tuple[Alert, ...]:
    """Return alerts from their time, right ascension and declination, in order and without repeats."""
    return order_alerts(_parse_alert(f"{name}[{at}]", *item) for at, item in enumerate(_bounded(name, given)))


def _parse_alert(name: str, time: str, ra_deg: float | None, dec_deg: float | None) -> Alert:
    moment = parse_alert_time(f"{name}.time", time)
    return make_alert(f"{name}.raDeg", f"{name}.decDeg", time=moment, ra_deg=ra_deg, dec_deg=dec_deg)


def make_alert(ra_name: str, dec_name: str, *, time: datetime, ra_deg: float | None, dec_deg: float | None) -> Alert:
    """Return an alert at a time that was parsed, with a position, or without one where both coordinates are absent."""
    if ra_deg is None and dec_deg is None:
        return Alert(time=time)
    if ra_deg is None or dec_deg is None:
        missing, other = (ra_name, dec_deg) if ra_deg is None else (dec_name, ra_deg)
        raise BadInputError(missing, "nothing", f"a value, as the other coordinate is given, {other}")
    ra, dec = parse_direction(ra_name, ra_deg, dec_name, dec_deg)
    return Alert(time=time, ra_deg=ra, dec_deg=dec)


def parse_alert_time(name: str, text: str) -> datetime:
    """Return the moment that an ISO 8601 text names, in the years that files may have."""
    moment = parse_time(name, text)
    if not 1 < moment.year < 9999:
        raise BadInputError(name, text, "a time in the years 2 to 9998")
    return moment


def order_alerts(alerts: Iterable[Alert]) -> tuple[Alert, ...]:
    """Return alerts by time, those of one time by their position, without repeats."""

    def place(alert: Alert) -> tuple[datetime, bool, float, float]:
        return alert.time, alert.ra_deg is not None, alert.ra_deg or 0.0, alert.dec_deg or 0.0

    return tuple(sorted(set(alerts), key=place))


def parse_globs(name: str, patterns: Iterable[str]) -> tuple[str, ...]:
    """Return path patterns, sorted and without repeats; see `glob_to_regex` for their grammar."""
    globs = parse_words(name, patterns)
    for glob in globs:
        try:
            re.compile(glob_to_regex(glob, name=name))
        except re.error as error:
            raise BadInputError(name, glob, f"a path pattern ({error.msg})") from error
    return globs


def glob_to_regex(glob: str, *, name: str = "path") -> str:
    """Return the regular expression of a path pattern, anchored at both ends.

    ``*`` and ``?`` stay within one folder, ``**`` crosses folders, ``[abc]`` and ``[!abc]`` name single characters.
    The result uses only what Python and PostgreSQL understand alike.
    """
    found, at = [], 0
    while at < len(glob):
        if glob.startswith("**/", at):
            found.append("(.*/)?")
            at += 3
        elif glob.startswith("**", at):
            found.append(".*")
            at += 2
        elif glob[at] == "[":
            close = glob.find("]", at + 2)
            if close < 0:
                raise BadInputError(name, glob, "a closing ']' for every '['")
            found.append(_character_class(glob[at + 1 : close]))
            at = close + 1
        else:
            found.append({"*": "[^/]*", "?": "[^/]"}.get(glob[at]) or _literal(glob[at]))
            at += 1
    return f"^{''.join(found)}$"


def _literal(character: str) -> str:
    return f"\\{character}" if character in r".^$*+?{}[]\|()" else character


def _character_class(inside: str) -> str:
    negated = inside[:1] == "!"
    characters = (inside[1:] if negated else inside).replace("\\", "\\\\").replace("[", "\\[").replace("]", "\\]")
    return f"[^/{characters}]" if negated else f"[{characters.replace('^', chr(92) + '^')}]"


def _bounded(name: str, values: Iterable[Any]) -> Sequence[Any]:
    found = list(values)
    if len(found) > MAX_VALUES:
        raise BadInputError(name, f"{len(found)} values", f"at most {MAX_VALUES}")
    return found
