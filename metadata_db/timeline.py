"""Time lines: which bins there are, and how the numbers of files and bytes in them are told compactly."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import Enum
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from metadata_db.errors import BadInputError
from metadata_db.query import Interval

MAX_BINS = 10_000
"""Most bins of one time line."""

MAX_WANTED_BINS = 2_000
"""Most bins that can be asked for by their number."""

USUAL_BINS = 100
"""Bins when nothing is said about them."""

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MONDAY = datetime(1970, 1, 5, tzinfo=UTC)
_MOMENT = timedelta(microseconds=1)
_SECOND_US, _DAY_US = 1_000_000, 86_400_000_000
_MOST_S = 1e11
"""Widest bin, some 3000 years."""


NO_BIN = -(2**62)
"""Number of the bin of files without a time, where numbers cannot be null."""


class TimeBin(Enum):
    """Bins of the calendar, in UTC."""

    YEAR = "year"
    MONTH = "month"
    WEEK = "week"
    DAY = "day"
    HOUR = "hour"


class Histogram(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """How many files, and bytes, begin in each of `n` bins."""

    begin: datetime | None
    """Begin of the first bin; None when there is none."""
    bin_s: float | None
    """Width, seconds; None of bins of the calendar."""
    bin: str | None
    """Name of the `TimeBin`."""
    n: int
    counts: bytes
    """Little-endian uint32."""
    sizes: bytes = msgspec.field(name="bytes")
    """Little-endian float64."""
    is_estimate: bool
    no_time: int
    """Files of the answer that have no time."""


# --- bins -------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True, slots=True)
class Binning:
    """Bins without end, numbered from 0 on for the one that holds the begin of the year 1."""

    bin: TimeBin | None = None
    months: int = 0
    """Months of a bin; 0 when it has a width."""
    width_us: int = 0
    base_us: int = 0
    """Begin of bin 0, microseconds since 1970; for months it is year 0."""

    @classmethod
    def of(cls, bin: TimeBin) -> "Binning":
        """Return bins of the calendar."""
        if bin in (TimeBin.YEAR, TimeBin.MONTH):
            return cls(bin=bin, months=12 if bin is TimeBin.YEAR else 1)
        width = {TimeBin.WEEK: timedelta(days=7), TimeBin.DAY: timedelta(days=1), TimeBin.HOUR: timedelta(hours=1)}
        return cls.wide(width[bin], origin=_MONDAY if bin is TimeBin.WEEK else _EPOCH, bin=bin)

    @classmethod
    def wide(cls, width: timedelta, *, origin: datetime = _EPOCH, bin: TimeBin | None = None) -> "Binning":
        """Return bins of a width of which one begins at `origin`."""
        width_us, origin_us = width // _MOMENT, _us(origin)
        least = _us(datetime.min.replace(tzinfo=UTC))
        return cls(bin=bin, width_us=width_us, base_us=origin_us - -((least - origin_us) // width_us) * width_us)

    @property
    def has_whole_days(self) -> bool:
        """Whether every bin is a union of days."""
        return bool(self.months) or (self.width_us % _DAY_US == 0 and self.base_us % _DAY_US == 0)

    def number(self, moment: datetime) -> int:
        """Return the number of the bin that holds a moment."""
        if self.months:
            return (moment.year * 12 + moment.month - 1) // self.months
        return (_us(moment) - self.base_us) // self.width_us

    def begin(self, number: int) -> datetime:
        """Return the begin of a bin; what would be before the year 1 is its begin."""
        if self.months:
            year, month = divmod(number * self.months, 12)
            return datetime(year, month + 1, 1, tzinfo=UTC)
        return _EPOCH + max(self.base_us + number * self.width_us, _us(datetime.min.replace(tzinfo=UTC))) * _MOMENT

    def numbers_of_days(self, days: NDArray[np.int32]) -> NDArray[np.int64]:
        """Return the numbers of the bins of days since 1970; only where bins are unions of days."""
        if self.months:
            months = days.astype("datetime64[D]").astype("datetime64[M]").astype(np.int64) + _EPOCH.year * 12
            return months // self.months
        return (days.astype(np.int64) * _DAY_US - self.base_us) // self.width_us

    # The same numbers, as SQL.

    def number_of(self, moment: str) -> str:
        """Return the number of the bin of a time stamp, null of null."""
        if self.months:
            months = f"extract(year from {moment}) * 12 + extract(month from {moment}) - 1"
            return self.number_of_month(f"({months})::int8")
        return f"((extract(epoch from {moment}) * {_SECOND_US})::int8 - ({self.base_us})) / {self.width_us}"

    def number_of_month(self, month: str) -> str:
        """Return the number of the bin of a month since year 0; only where bins are unions of months."""
        return f"{month}::int8 / {self.months}"


def _us(moment: datetime) -> int:
    return (moment - _EPOCH) // _MOMENT


SECONDS = Binning.wide(timedelta(seconds=1))
DAYS = Binning.of(TimeBin.DAY)


@dataclass(frozen=True, kw_only=True, slots=True)
class WantedBins:
    """Bins as they are asked for: of the calendar, of a width, or about so many. See `parse_bins`."""

    bin: TimeBin | None = None
    bin_s: float | None = None
    bins: int | None = None

    def __str__(self) -> str:
        return f"{self.bin.value if self.bin else ''}:{self.bin_s or ''}:{self.bins or ''}"

    def fixed(self, interval: Interval | None) -> Binning | None:
        """Return the bins for an interval; None when they depend on what is found."""
        if self.bin is not None:
            return Binning.of(self.bin)
        if self.bin_s is not None:
            return Binning.wide(timedelta(seconds=self.bin_s), origin=_origin(interval))
        if interval is not None and interval.begin is not None and interval.end is not None:
            return self.fitting(interval.begin, interval.end - _MOMENT, interval)
        return None

    def fitting(self, first: datetime, last: datetime, interval: Interval | None) -> Binning:
        """Return the finest bins of which at most as many as wanted hold all moments from `first` to `last`."""
        wanted = self.bins or USUAL_BINS
        for bins in _ladder(_origin(interval)):
            if bins.number(last) - bins.number(first) < wanted:
                return bins
        # Only a few bins for many years: such that begin where the files begin.
        begin = DAYS.begin(DAYS.number(first))
        days = -((begin - last - _MOMENT) // timedelta(days=wanted))
        return Binning.wide(timedelta(days=days), origin=begin)

    def range(self, bins: Binning, interval: Interval | None, first: int | None, last: int | None) -> range:
        """Return the numbers of the bins to tell, given the first and last one that holds files.

        Raises
        ------
        BadInputError
            There are more than `MAX_BINS`.
        """
        if interval is not None and interval.begin is not None:
            first = bins.number(interval.begin)
        if interval is not None and interval.end is not None:
            last = bins.number(interval.end - _MOMENT)
        if first is None or last is None:
            return range(0)
        n = last - first + 1
        if n > MAX_BINS:
            span_s = (bins.begin(last) - bins.begin(first)).total_seconds()
            expected = f"a binS of {math.ceil(span_s / (MAX_BINS - 1))} or more, or bins: this would make {n} bins,"
            raise BadInputError(
                "timeline.bin" if self.bin else "timeline.binS",
                self.bin.name if self.bin else self.bin_s,
                f"{expected} and {MAX_BINS} are the most",
            )
        return range(first, last + 1)


def parse_bins(bin: TimeBin | None, bin_s: float | None, bins: int | None) -> WantedBins:
    """Return the bins that are asked for: `USUAL_BINS` when nothing is said.

    Raises
    ------
    BadInputError
        More than one of them is given, or it is out of its range.
    """
    if sum(value is not None for value in (bin, bin_s, bins)) > 1:
        raise BadInputError("timeline", {"bin": bin and bin.name, "binS": bin_s, "bins": bins}, "one of them")
    if bin_s is not None and not 1 <= bin_s <= _MOST_S:
        raise BadInputError("timeline.binS", bin_s, f"seconds from 1 to {_MOST_S:.0f}")
    if bins is not None and not 1 <= bins <= MAX_WANTED_BINS:
        raise BadInputError("timeline.bins", bins, f"a number from 1 to {MAX_WANTED_BINS}")
    return WantedBins(bin=bin, bin_s=bin_s, bins=bins)


def _origin(interval: Interval | None) -> datetime:
    return _EPOCH if interval is None or interval.begin is None else interval.begin


_NICE_S = (1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800)
_NICE_HOURS = (2, 3, 4, 6, 12)
_NICE_DAYS = (14, 60, 90, 180, 730, 1825, 3650, 7300, 18_250, 36_500, 73_000, 182_500, 365_000)


def _ladder(origin: datetime) -> Iterator[Binning]:
    """Yield widths that people read easily, the finest first; those of the calendar where there is one."""

    def wide(days: int = 0, **width: float) -> Binning:
        # Whole days from midnight on, whatever the interval: those are counted ahead.
        begin = DAYS.begin(DAYS.number(origin)) if days else origin
        return Binning.wide(timedelta(days=days, **width), origin=begin)

    yield from (wide(seconds=seconds) for seconds in _NICE_S)
    yield Binning.of(TimeBin.HOUR)
    yield from (wide(hours=hours) for hours in _NICE_HOURS)
    yield Binning.of(TimeBin.DAY)
    yield wide(days=2)
    yield Binning.of(TimeBin.WEEK)
    for days in _NICE_DAYS:
        yield wide(days=days)
        if days == 14:
            yield Binning.of(TimeBin.MONTH)
        elif days == 180:
            yield Binning.of(TimeBin.YEAR)


# --- what is told -----------------------------------------------------------------------------------------------------


def make_histogram(
    bins: Binning, numbers: range, rows: Sequence[tuple[Any, ...]], *, weight: float = 1, is_estimate: bool = False
) -> Histogram:
    """Return the bins `numbers` with what rows of number, files, bytes say; the number None is of files without time.

    Parameters
    ----------
    weight
        How many files each file of the rows stands for.
    """
    counts, sizes = np.zeros(len(numbers), "<u4"), np.zeros(len(numbers), "<f8")
    no_time = 0
    for number, files, size, *_ in rows:
        if number is None:
            no_time = round(files * weight)
        else:
            counts[number - numbers.start] = round(files * weight)
            sizes[number - numbers.start] = size * weight
    return Histogram(
        begin=bins.begin(numbers.start) if numbers else None,
        bin_s=None if bins.bin else bins.width_us / _SECOND_US,
        bin=bins.bin.name if bins.bin else None,
        n=len(numbers),
        counts=counts.tobytes(),
        sizes=sizes.tobytes(),
        is_estimate=is_estimate,
        no_time=no_time,
    )
