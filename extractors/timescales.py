"""Time scales: what a clock shows in one of them, brought to UTC by astropy, whose answers are remembered.

What a clock shows is its *reading*: microseconds since the modified Julian date 0, in days of 86,400 s of its own
scale. Between two leap seconds the readings of two clocks differ by the same amount; so astropy is asked how much that
is once for many days, and else only where the amount changes, or is not the same from one moment to the next.
"""

import math
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from extractors.errors import ConversionError

if TYPE_CHECKING:
    from astropy.time import Time

TimeScale: TypeAlias = Literal["UTC", "TT", "TAI", "GPS", "TDB"]
"""Names of time scales as TIMESYS has them (FITS standard 4.0, section 9.2.1)."""

GPS_BEHIND_TAI_S = 19
"""GPS time equals TAI minus this many seconds, by its definition (IS-GPS-200)."""

MJD_EPOCH = datetime(1858, 11, 17, tzinfo=UTC)
"""Modified Julian date 0."""

SPAN_DAYS = 16
"""Days for which astropy is asked at once. Leap seconds come at the ends of months: so at most one in such a span."""

_DAY_US = 86_400_000_000
_SPAN_US = SPAN_DAYS * _DAY_US
_FIRST_US, _LAST_US = (
    (year - MJD_EPOCH) // timedelta(microseconds=1)
    for year in (datetime(1973, 1, 1, tzinfo=UTC), datetime(2100, 1, 1, tzinfo=UTC))
)
_YEARS = "a time between the years 1 and 9999 that is not within a leap second"


def reading_us(*, days: tuple[float, ...] = (), seconds: tuple[float, ...] = ()) -> int:
    """Return the sum of `days` and `seconds` in microseconds, of which none is lost however large the numbers are."""
    whole, part = 0, 0.0
    for day in days:
        floor = math.floor(day)
        whole += floor * 86400
        part += (day - floor) * 86400.0
    for second in seconds:
        floor = math.floor(second)
        whole += floor
        part += second - floor
    return whole * 1_000_000 + round(part * 1e6)


def plain_to_utc(reading: int) -> datetime:
    """Return the time of a reading of a clock that shows UTC and ignores leap seconds, as Unix time does.

    Raises
    ------
    ConversionError
        It is not in the years 1 to 9999.
    """
    try:
        return MJD_EPOCH + timedelta(microseconds=reading)
    except OverflowError as error:
        raise ConversionError(reading / 1e6, f"seconds since 1858-11-17 that make {_YEARS}") from error


def recall_utc(reading: int, scale: TimeScale) -> datetime | None:
    """Return the time of a reading in `scale` from what astropy said before; None when it must be asked itself."""
    if scale == "UTC":
        # On a day with a leap second a part of the day is not what it is on other days.
        return None if recall_ahead_us(reading) is None else plain_to_utc(reading)
    if scale == "TDB" or not _FIRST_US <= reading < _LAST_US:
        return None
    ahead = _ask_ahead_us(scale, "UTC", reading // _SPAN_US)
    return None if ahead is None else plain_to_utc(reading - ahead)


def recall_ahead_us(reading: int) -> int | None:
    """Return by how much TAI is ahead of UTC when that is `reading`; None when that is no plain question."""
    if not _FIRST_US <= reading < _LAST_US:
        return None
    ahead = _ask_ahead_us("UTC", "TAI", reading // _SPAN_US)
    return None if ahead is None else -ahead


@lru_cache(maxsize=4096)
def _ask_ahead_us(scale: TimeScale, other: Literal["UTC", "TAI"], span: int) -> int | None:
    """Return by how many microseconds `scale` is ahead of `other` in a span of days; None when that changes in it."""
    begin, end = (_show(day, scale, other) for day in (span * SPAN_DAYS, (span + 1) * SPAN_DAYS))
    return begin if begin == end else None


def _show(day: int, scale: TimeScale, other: Literal["UTC", "TAI"]) -> int | None:
    """Return by how many microseconds `scale` is ahead of `other` when it shows the beginning of `day`."""
    try:
        with without_warnings():
            time = ask_astropy(float(day), 0.0, "mjd", scale)
            shown = to_datetime(time, other)
    except ConversionError:
        return None
    return (MJD_EPOCH + timedelta(days=day) - shown) // timedelta(microseconds=1)


# ------------------------------------------------------------------------------------------------- astropy


@contextmanager
def without_warnings() -> Iterator[None]:
    """Silence astropy on dates far from today: `to_datetime` refuses what cannot be, with a reason."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def ask_astropy(value: Any, rest: float | None, time_format: str, scale: TimeScale) -> "Time":
    """Return a time in `scale` as astropy understands it.

    Raises
    ------
    ConversionError
        It is none.
    """
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


def to_datetime(time: "Time", scale: Literal["UTC", "TAI"] = "UTC") -> datetime:
    """Return what a clock in `scale` shows at `time`.

    Raises
    ------
    ConversionError
        No `datetime` can show it.
    """
    try:
        shown: datetime = (time.tai if scale == "TAI" else time.utc).to_datetime()
    except (ValueError, OverflowError) as error:
        raise ConversionError(time.value, _YEARS) from error
    return shown.replace(tzinfo=UTC)
