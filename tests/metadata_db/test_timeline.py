"""Bins of time are numbered alike in Python and in SQL, and are as many as were asked for."""

from datetime import UTC, datetime, timedelta

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from metadata_db.database import Database
from metadata_db.errors import BadInputError
from metadata_db.query import Interval
from metadata_db.timeline import (
    DAYS,
    MAX_BINS,
    SECONDS,
    Binning,
    TimeBin,
    WantedBins,
    make_histogram,
    parse_bins,
)

moments = st.datetimes(datetime(2, 1, 1), datetime(9998, 1, 1), timezones=st.just(UTC))
widths = st.timedeltas(timedelta(seconds=1), timedelta(days=1_000_000))
binnings = st.one_of(
    st.sampled_from(TimeBin).map(Binning.of),
    st.builds(Binning.wide, widths, origin=moments),
    st.sampled_from([SECONDS, DAYS]),
)


@given(binnings, moments)
def test_a_bin_holds_the_moments_from_its_begin_to_the_next(bins: Binning, moment: datetime) -> None:
    number = bins.number(moment)
    assert number >= 0
    assert bins.begin(number) <= moment
    if number and bins.begin(number) > datetime.min.replace(tzinfo=UTC):
        assert bins.number(bins.begin(number)) == number
        assert bins.number(bins.begin(number) - timedelta(microseconds=1)) == number - 1


@pytest.mark.anyio
async def test_postgres_numbers_bins_as_python_does(database: Database) -> None:
    moments = [
        datetime(1969, 12, 31, 23, 59, 59, 999_999, tzinfo=UTC),
        datetime(1970, 1, 1, tzinfo=UTC),
        datetime(2, 2, 3, tzinfo=UTC),
        datetime(2019, 11, 4, 0, 0, 0, 1, tzinfo=UTC),
        datetime(9999, 12, 31, 23, 59, 59, 999_999, tzinfo=UTC),
    ]
    binnings = [Binning.of(bin) for bin in TimeBin]
    binnings += [Binning.wide(timedelta(seconds=1.5), origin=moments[3]), Binning.wide(timedelta(days=10))]
    for bins in binnings:
        rows = await database.read(
            f"select {bins.number_of('at')} from unnest(%(moments)s::timestamptz[]) as at", {"moments": moments}
        )
        assert [number for (number,) in rows] == [bins.number(moment) for moment in moments]
        if bins.has_whole_days:
            days = np.array([(moment - datetime(1970, 1, 1, tzinfo=UTC)).days for moment in moments], np.int32)
            assert bins.numbers_of_days(days).tolist() == [bins.number(moment) for moment in moments]


@given(moments, moments, st.integers(1, 2000), st.booleans())
def test_so_many_bins_are_enough_and_no_more_than_asked(
    one: datetime, other: datetime, number: int, has_begin: bool
) -> None:
    first, last = min(one, other), max(one, other)
    interval = Interval(begin=first, end=last + timedelta(1)) if has_begin else None
    bins = WantedBins(bins=number).fitting(first, last, interval)
    assert bins.number(last) - bins.number(first) < number


@pytest.mark.parametrize(
    ("hours", "number", "bin", "width_s"),
    [
        (1, 100, None, 60.0),
        (24, 24, "HOUR", None),
        (24 * 7, 7, "DAY", None),
        (24 * 365, 366, "DAY", None),
        (24 * 365, 100, "WEEK", None),
        (24 * 365, 12, "MONTH", None),
        (24 * 3652, 100, None, 60 * 86_400.0),
        (24 * 3652, 10, "YEAR", None),
    ],
)
def test_the_bins_of_a_number_are_nice(hours: int, number: int, bin: str | None, width_s: float | None) -> None:
    begin = datetime(2018, 1, 1, tzinfo=UTC)
    interval = Interval(begin=begin, end=begin + timedelta(hours=hours))
    bins = WantedBins(bins=number).fixed(interval)
    assert bins is not None
    told = make_histogram(bins, range(bins.number(begin), bins.number(begin) + 1), [])
    assert (told.bin, told.bin_s, told.begin) == (bin, width_s, begin)


def test_too_many_bins_are_refused_with_what_would_do() -> None:
    interval = Interval(begin=datetime(2018, 1, 1, tzinfo=UTC), end=datetime(2019, 1, 1, tzinfo=UTC))
    wanted = parse_bins(None, 60, None)
    bins = wanted.fixed(interval)
    assert bins is not None
    with pytest.raises(BadInputError, match=r"timeline.binS: got 60, expected a binS of 3154 or more") as caught:
        wanted.range(bins, interval, None, None)
    assert f"{MAX_BINS} are the most" in str(caught.value)
    better = parse_bins(None, 3154, None)
    bins = better.fixed(interval)
    assert bins is not None
    assert len(better.range(bins, interval, None, None)) == 9999


@pytest.mark.parametrize(
    ("bin", "bin_s", "bins", "field"),
    [
        (TimeBin.DAY, 60.0, None, "timeline"),
        (None, 60.0, 5, "timeline"),
        (None, 0.5, None, "timeline.binS"),
        (None, float("nan"), None, "timeline.binS"),
        (None, float("inf"), None, "timeline.binS"),
        (None, None, 0, "timeline.bins"),
        (None, None, 2001, "timeline.bins"),
    ],
)
def test_bins_that_cannot_be_are_refused(
    bin: TimeBin | None, bin_s: float | None, bins: int | None, field: str
) -> None:
    with pytest.raises(BadInputError) as caught:
        parse_bins(bin, bin_s, bins)
    assert caught.value.field == field


def test_a_histogram_of_a_sample_is_weighted() -> None:
    bins = Binning.of(TimeBin.MONTH)
    told = make_histogram(bins, range(24_000, 24_003), [(None, 2, 8.0), (24_001, 3, 5.0)], weight=10, is_estimate=True)
    assert np.frombuffer(told.counts, "<u4").tolist() == [0, 30, 0]
    assert np.frombuffer(told.sizes, "<f8").tolist() == [0.0, 50.0, 0.0]
    assert (told.no_time, told.is_estimate, told.begin) == (20, True, datetime(2000, 1, 1, tzinfo=UTC))
