"""Units and time systems: pure functions whose names say what goes in; what comes out is the catalogue's unit.

Every rule about leap seconds and time scales is astropy's; nothing here adds a leap second by hand.
"""

import math
import re
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Any
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from extractors.errors import ConversionError
from extractors.timescales import (
    MJD_EPOCH,
    TimeScale,
    ask_astropy,
    plain_to_utc,
    reading_us,
    recall_ahead_us,
    recall_utc,
    to_datetime,
    without_warnings,
)
from metadata_db.records import Attribute

MJD_EPOCH_JD = 2400000.5
"""Julian date of 1858-11-17, where modified Julian dates begin."""

UNIX_EPOCH_MJD = 40587
"""Modified Julian date of 1970-01-01."""

GPS_EPOCH_MJD = 44244
"""Modified Julian date of 1980-01-06."""

GPS_EPOCH_UNIX_S = 315964800
"""Unix time of 1980-01-06, where GPS time begins."""

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
_NO_NUMBERS = (bool, tuple)
_ANGLES = ("deg", "rad", "arcmin", "arcsec")
_STATES_ITS_UNIT = re.compile(r"\d\s*(?:[hd°]|deg)")
_TRUTHS = {"t": True, "true": True, "f": False, "false": False}


def finite_number(value: Any) -> float:
    """Return `value` as a float; text that spells a number counts as one, true and false do not.

    Raises
    ------
    ConversionError
        It is no number, not finite, or too large for a float.
    """
    try:
        number = math.nan if isinstance(value, _NO_NUMBERS) else float(value)
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
        return _tidy(float(units.Unit(unit).to(units.Unit(target))))
    except (ValueError, TypeError, units.UnitConversionError) as error:
        raise ConversionError(unit, f"a unit that can be converted to {target}") from error


def check_unit(unit: str) -> None:
    """Raise `ConversionError` unless `unit` is one."""
    from astropy import units

    try:
        units.Unit(unit)
    except (ValueError, TypeError) as error:
        raise ConversionError(unit, "a unit such as d, TeV or cm-2 s-1") from error


def _tidy(factor: float) -> float:
    """Return the round number that a factor missed by rounding: 1e9, not 999999999.9999999."""
    round_factor = float(f"{factor:.12g}")
    return round_factor if abs(round_factor - factor) <= 4 * math.ulp(factor) else factor


def angle_from_text(text: str, target: str) -> float:
    """Return an angle that states its own unit, such as ``06h16m51s`` or ``22.5d``, in the unit `target`.

    Raises
    ------
    ConversionError
        It is no angle, or states no unit.
    """
    from astropy.coordinates import Angle
    from astropy.units import UnitsError

    try:
        return float(Angle(text).to_value(target))
    except (ValueError, TypeError, UnitsError) as error:
        raise ConversionError(text, "an angle such as 06h16m51s or 22.5d") from error


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


def elapsed_to_utc(
    elapsed_s: float,
    rest_s: float = 0.0,
    *,
    reference_mjd: float,
    reference_fraction_d: float,
    scale: TimeScale,
    leap_seconds: bool,
) -> datetime:
    """Return the time `elapsed_s` plus `rest_s` after a reference, all in `scale`.

    Parameters
    ----------
    reference_mjd, reference_fraction_d
        Modified Julian date in two parts, so that no digit is lost.
    leap_seconds
        Only for UTC: whether leap seconds between reference and time were counted (a clock that never stopped) or
        ignored (days of 86,400 s). In other scales there are none.
    """
    reading = reading_us(days=(reference_mjd, reference_fraction_d), seconds=(elapsed_s, rest_s))
    if scale == "UTC" and not leap_seconds:
        return plain_to_utc(reading)
    if scale == "UTC":
        # A clock that never stopped shows TAI from then on, but for the amount by which it was set to UTC.
        ahead = recall_ahead_us(reading_us(days=(reference_mjd, reference_fraction_d)))
        recalled = None if ahead is None else recall_utc(reading + ahead, "TAI")
    else:
        recalled = recall_utc(reading, scale)
    return recalled or _elapsed_by_astropy(elapsed_s, rest_s, reference_mjd, reference_fraction_d, scale)


@without_warnings()
def _elapsed_by_astropy(
    elapsed_s: float, rest_s: float, reference_mjd: float, reference_fraction_d: float, scale: TimeScale
) -> datetime:
    from astropy.time import TimeDelta

    start = ask_astropy(reference_mjd, reference_fraction_d, "mjd", scale)
    return to_datetime(start + TimeDelta(elapsed_s, rest_s, format="sec"))


def gps_to_utc(gps_s: float, rest_s: float = 0.0) -> datetime:
    """Return the time `gps_s` plus `rest_s` seconds after 1980-01-06 on a GPS clock, which knows no leap seconds."""
    recalled = recall_utc(reading_us(days=(GPS_EPOCH_MJD,), seconds=(gps_s, rest_s)), "GPS")
    return recalled or _by_astropy(math.floor(gps_s), gps_s % 1 + rest_s, "gps", "TAI")


def gps_as_unix_to_utc(labelled_s: float, rest_s: float = 0.0) -> datetime:
    """Return the time of a GPS calendar date that was written down as if it were a Unix time."""
    return gps_to_utc(labelled_s - GPS_EPOCH_UNIX_S, rest_s)


def unix_to_utc(unix_s: float, rest_s: float = 0.0) -> datetime:
    """Return the time of a Unix clock: seconds since 1970-01-01, leap seconds ignored."""
    return plain_to_utc(reading_us(days=(UNIX_EPOCH_MJD,), seconds=(unix_s, rest_s)))


def mjd_to_utc(mjd: float, rest_d: float = 0.0, *, scale: TimeScale) -> datetime:
    """Return the time of a modified Julian date in `scale`, which may come in two parts."""
    return recall_utc(reading_us(days=(mjd, rest_d)), scale) or _by_astropy(mjd, rest_d, "mjd", scale)


def jd_to_utc(jd: float, rest_d: float = 0.0, *, scale: TimeScale) -> datetime:
    """Return the time of a Julian date in `scale`, which may come in two parts."""
    return recall_utc(reading_us(days=(-MJD_EPOCH_JD, jd, rest_d)), scale) or _by_astropy(jd, rest_d, "jd", scale)


@without_warnings()
def _by_astropy(value: float | str, rest: float | None, time_format: str, scale: TimeScale) -> datetime:
    return to_datetime(ask_astropy(value, rest, time_format, scale))


def text_to_utc(text: str, *, scale: TimeScale = "UTC", text_format: str | None = None, zone: str = "UTC") -> datetime:
    """Return the time that a text says in `scale`; an offset in the text goes before `scale` and `zone`.

    Parameters
    ----------
    text_format
        As `datetime.strptime` has it; ISO 8601 unless given.
    zone
        An offset such as ``+08:00`` or a zone such as ``Asia/Irkutsk``, for local times.
    """
    try:
        stated = datetime.strptime(text.strip(), text_format) if text_format else datetime.fromisoformat(text.strip())  # noqa: DTZ007 - the zone is added below
        if stated.tzinfo is not None:
            return stated.astimezone(UTC)
    except (ValueError, OverflowError) as error:
        raise ConversionError(text, f"a date and time such as {text_format or '2013-11-04T01:59:14'}") from error
    if zone != "UTC":
        return _local_to_utc(stated, zone)
    shown = stated.replace(tzinfo=UTC)
    if scale == "UTC":
        return shown
    recalled = recall_utc((shown - MJD_EPOCH) // timedelta(microseconds=1), scale)
    return recalled or _by_astropy(stated.isoformat(), None, "isot", scale)


def day_time_to_utc(seconds_of_day: float, *, date: str, date_format: str, zone: str, day_begins: str) -> datetime:
    """Return the time of day on a `date`; times before ``HH:MM`` in `day_begins` are of the next date.

    Raises
    ------
    ConversionError
        The date is not of that format, or the day has no such time.
    """
    if not 0 <= seconds_of_day < 86400:
        raise ConversionError(seconds_of_day, "seconds of the day, from 0 to below 86400")
    try:
        day = datetime.strptime(date, date_format)  # noqa: DTZ007 - the zone is added below
    except ValueError as error:
        raise ConversionError(date, f"a date as {date_format}") from error
    hours, _, minutes = day_begins.partition(":")
    is_next = seconds_of_day < int(hours) * 3600 + int(minutes) * 60
    try:
        moment = day + timedelta(seconds=seconds_of_day, days=int(is_next))
    except OverflowError as error:
        raise ConversionError(date, "a date before the year 9999") from error
    return moment.replace(tzinfo=UTC) if zone == "UTC" else _local_to_utc(moment, zone)


def _local_to_utc(local: datetime, zone: str) -> datetime:
    try:
        if zone[0] in "+-":
            return datetime.fromisoformat(f"{local.isoformat()}{zone}").astimezone(UTC)
        there = ZoneInfo(zone)
        first, second = (local.replace(tzinfo=there, fold=fold).astimezone(UTC) for fold in (0, 1))
    except (ZoneInfoNotFoundError, ValueError) as error:
        raise ConversionError(zone, "a time zone such as Asia/Irkutsk, or an offset such as +08:00") from error
    except OverflowError as error:
        raise ConversionError(local.isoformat(), "a time between the years 1 and 9999") from error
    # When clocks are put back an hour happens twice, when they are put forward one does not happen at all.
    if first != second:
        raise ConversionError(local.isoformat(), f"a time that happened once in {zone}, where clocks were changed")
    return first


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
    if isinstance(value, _NO_NUMBERS):
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
    if isinstance(value, _NO_NUMBERS) or (isinstance(value, float) and not value.is_integer()):
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
    if target in _ANGLES and isinstance(value, str) and _STATES_ITS_UNIT.search(value):
        return angle_from_text(value, target)
    number = finite_number(value)
    if target is None:
        return number
    if unit is None:
        raise ConversionError(value, f"a unit that can be converted to {target}, but none is stated")
    converted = number * unit_factor(unit, target)
    if not math.isfinite(converted):
        raise ConversionError(value, f"a number that is finite in {target}")
    return converted
