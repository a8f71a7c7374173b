"""Units and time systems: pure functions whose names say what goes in; what comes out is the catalogue's unit.

Every rule about leap seconds and time scales is astropy's; nothing here adds a leap second by hand.
"""

import math
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from extractors.errors import ConversionError
from metadata_db.records import Attribute

if TYPE_CHECKING:
    from astropy.time import Time

TimeScale: TypeAlias = Literal["UTC", "TT", "TAI", "GPS", "TDB"]
"""Names of time scales as TIMESYS has them (FITS standard 4.0, section 9.2.1)."""

GPS_BEHIND_TAI_S = 19
"""GPS time equals TAI minus this many seconds, by its definition (IS-GPS-200)."""

MAX_INTEGER = 2**63 - 1
"""Largest whole number that catalogue and wire format hold."""

_SCALES: dict[str, TimeScale] = {
    "UTC": "UTC",
    "TT": "TT",
    "TDT": "TT",
    "ET": "TT",
    "TAI": "TAI",
    "IAT": "TAI",
    "GPS": "GPS",
    "TDB": "TDB",
}
_TRUTHS = {"t": True, "true": True, "f": False, "false": False}


def finite_number(value: Any) -> float:
    """Return `value` as a float; text that spells a number counts as one, true and false do not.

    Raises
    ------
    ConversionError
        It is no number, not finite, or too large for a float.
    """
    try:
        number = math.nan if isinstance(value, bool | tuple) else float(value)
    except (ValueError, TypeError, OverflowError) as error:
        raise ConversionError(value, "a finite number") from error
    if not math.isfinite(number):
        raise ConversionError(value, "a finite number")
    return number


# --------------------------------------------------------------------------------------------------- units


@lru_cache(maxsize=1024)
def unit_factor(unit: str, target: str) -> float:
    """Return by what a value in `unit` is multiplied to be one in `target`.

    Raises
    ------
    ConversionError
        One of the units is unknown, or they measure different things.
    """
    from astropy import units

    if unit == target:
        return 1.0
    try:
        return float(units.Unit(unit).to(units.Unit(target)))
    except (ValueError, TypeError, units.UnitConversionError) as error:
        raise ConversionError(unit, f"a unit that can be converted to {target}") from error


def degrees_of_right_ascension(angle_deg: float) -> float:
    """Return the same angle from 0 to below 360 degrees; maps like to write it from -180 to 180."""
    if not -180.0 <= angle_deg <= 360.0:
        return angle_deg
    turned = angle_deg % 360.0
    # The remainder of a tiny negative angle is rounded up to 360.
    return turned if turned < 360.0 else 0.0


# -------------------------------------------------------------------------------------------------- scales


def time_scale(name: str) -> TimeScale:
    """Return the time scale that a file calls `name`, in upper or lower case.

    Raises
    ------
    ConversionError
        It is none that is known.
    """
    scale = _SCALES.get(name.strip().upper())
    if scale is None:
        raise ConversionError(name, f"one of the time scales {', '.join(_SCALES)}")
    return scale


@contextmanager
def _without_warnings() -> Iterator[None]:
    """Silence astropy on dates far from today: `_to_utc` refuses what cannot be, with a reason."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


@_without_warnings()
def elapsed_to_utc(
    elapsed_s: float, *, reference_mjd: float, reference_fraction_d: float, scale: TimeScale, leap_seconds: bool
) -> datetime:
    """Return the time `elapsed_s` after a reference, both in `scale`.

    Parameters
    ----------
    reference_mjd, reference_fraction_d
        Modified Julian date in two parts, so that no digit is lost.
    leap_seconds
        Only for UTC: whether leap seconds between reference and time were counted (a clock that never stopped) or
        ignored (days of 86,400 s). In other scales there are none.
    """
    from astropy.time import TimeDelta

    if scale == "UTC" and not leap_seconds:
        return _to_utc(_time(reference_mjd, reference_fraction_d + elapsed_s / 86400.0, "mjd", scale))
    start = _time(reference_mjd, reference_fraction_d, "mjd", scale)
    return _to_utc(start + TimeDelta(elapsed_s, format="sec"))


@_without_warnings()
def gps_to_utc(gps_s: float) -> datetime:
    """Return the time `gps_s` seconds after 1980-01-06 on a GPS clock, which knows no leap seconds."""
    return _to_utc(_time(math.floor(gps_s), gps_s % 1, "gps", "TAI"))


@_without_warnings()
def unix_to_utc(unix_s: float) -> datetime:
    """Return the time of a Unix clock: seconds since 1970-01-01, leap seconds ignored."""
    return _to_utc(_time(math.floor(unix_s), unix_s % 1, "unix", "UTC"))


@_without_warnings()
def mjd_to_utc(mjd: float, *, scale: TimeScale) -> datetime:
    """Return the time of a modified Julian date in `scale`."""
    return _to_utc(_time(mjd, 0.0, "mjd", scale))


@_without_warnings()
def text_to_utc(text: str, *, scale: TimeScale) -> datetime:
    """Return the time that an ISO 8601 or FITS date says in `scale`; an offset in the text goes before `scale`."""
    try:
        stated = datetime.fromisoformat(text.strip())
    except ValueError as error:
        raise ConversionError(text, "a date and time such as 2013-11-04T01:59:14") from error
    if stated.tzinfo is not None:
        return stated.astimezone(UTC)
    return _to_utc(_time(stated.isoformat(), None, "isot", scale))


def _time(value: Any, rest: float | None, time_format: str, scale: TimeScale) -> "Time":
    from astropy.time import Time, TimeDelta

    _forbid_downloads()
    try:
        if scale == "GPS":
            start = Time(value, rest, format=time_format, scale="tai")
            return start + TimeDelta(GPS_BEHIND_TAI_S, format="sec")
        return Time(value, rest, format=time_format, scale=scale.lower())
    except (ValueError, OverflowError) as error:
        raise ConversionError(value, f"a time as {time_format}") from error


@lru_cache(maxsize=1)
def _forbid_downloads() -> None:
    """Keep astropy from fetching a newer leap second table: an extractor talks to nobody but its catalogue."""
    from astropy.utils.iers import conf

    conf.iers_leap_second_auto_url = ""
    conf.ietf_leap_second_auto_url = ""


def _to_utc(time: "Time") -> datetime:
    try:
        result: datetime = time.utc.to_datetime(timezone=UTC)
    except (ValueError, OverflowError) as error:
        expected = "a time between the years 1 and 9999 that is not within a leap second"
        raise ConversionError(time.value, expected) from error
    return result


# ------------------------------------------------------------------------------------------- declared types


def convert(value: Any, unit: str | None, declaration: Attribute) -> Any:
    """Return `value` as `declaration` has it: its type, and its unit.

    Raises
    ------
    ConversionError
        It is not of that type, or there is no way from its unit, or its unit is not known where one is needed.
    """
    if isinstance(value, str):
        value = value.strip()
    match declaration.type:
        case "text":
            return _to_text(value)
        case "boolean":
            return _to_boolean(value)
        case "integer":
            return _to_integer(value)
        case "number":
            return _to_number(value, unit, declaration.unit)
        case "list":
            return _to_list(value)
        case "time":
            raise ConversionError(value, "a clock in the rule, which says how the time counts")


def _to_text(value: Any) -> str:
    if isinstance(value, bool | tuple):
        raise ConversionError(value, "text")
    return str(value)


def _to_boolean(value: Any) -> bool:
    if isinstance(value, bool):
        return value
    if isinstance(value, str) and value.lower() in _TRUTHS:
        return _TRUTHS[value.lower()]
    if isinstance(value, int) and value in (0, 1):
        return bool(value)
    raise ConversionError(value, "true or false")


def _to_integer(value: Any) -> int:
    expected = "a whole number of at most 63 bits"
    if isinstance(value, bool | tuple) or (isinstance(value, float) and not value.is_integer()):
        raise ConversionError(value, expected)
    try:
        number = int(value)
    except ValueError as error:
        raise ConversionError(value, expected) from error
    if not -MAX_INTEGER <= number <= MAX_INTEGER:
        raise ConversionError(value, expected)
    return number


def _to_list(value: Any) -> list[Any]:
    items = list(value) if isinstance(value, tuple) else [value]
    if any(isinstance(item, float) and not math.isfinite(item) for item in items):
        raise ConversionError(value, "a list of text and finite numbers")
    return items


def _to_number(value: Any, unit: str | None, target: str | None) -> float:
    number = finite_number(value)
    if target is None:
        return number
    if unit is None:
        raise ConversionError(value, f"a unit that can be converted to {target}, but none is stated")
    converted = number * unit_factor(unit, target)
    if not math.isfinite(converted):
        raise ConversionError(value, f"a number that is finite in {target}")
    return converted
