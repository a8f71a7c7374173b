"""Time scales: what is remembered of astropy's answers must be what astropy answers when it is asked itself."""

import subprocess
import sys
import warnings
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from fractions import Fraction
from typing import Any

import pytest
from astropy.time import Time, TimeDelta
from astropy.utils.iers import LeapSeconds
from hypothesis import example, given, settings
from hypothesis import strategies as st

from extractors import conversions, timescales
from extractors.errors import ConversionError
from extractors.timescales import SPAN_DAYS, TimeScale, reading_us, recall_ahead_us, recall_utc

MICROSECOND = timedelta(microseconds=1)
LEAP_DAYS = [(date(row["year"], row["month"], 1) - date(1858, 11, 17)).days for row in LeapSeconds.from_erfa()]
"""Modified Julian dates on which the difference to TAI became another one."""

SCALES = st.sampled_from(["UTC", "TT", "TAI", "GPS", "TDB"])
DAYS_AROUND = st.tuples(st.sampled_from(LEAP_DAYS), st.integers(-2, 1)).map(sum)
DAYS = st.one_of(DAYS_AROUND, st.integers(min_value=36934, max_value=80000), st.integers(-400_000, 2_000_000))
SECONDS = st.one_of(
    st.floats(0, 86400),
    st.integers(0, 86400 * 8).map(lambda eighths: eighths / 8),
    st.integers(-100, 100).map(lambda s: 86400 + s / 2),
)


def asked(ask: Callable[[], Any]) -> datetime | None:
    """Return the UTC time that astropy says, None when it has none."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return ask().utc.to_datetime(timezone=UTC)  # type: ignore[no-any-return]
        except (ValueError, OverflowError):
            return None


def of_scale(value: float | str, rest: float | None, time_format: str, scale: TimeScale) -> Any:
    if scale != "GPS":
        return Time(value, rest, format=time_format, scale=scale.lower())
    return Time(value, rest, format=time_format, scale="tai") + TimeDelta(19, format="sec")


def converted(convert: Callable[[], datetime]) -> datetime | None:
    try:
        return convert()
    except ConversionError:
        return None


def assert_same(found: datetime | None, expected: datetime | None) -> None:
    if found is None or expected is None:
        # To round to a leap second or away from it, or beyond the last year, is both right.
        other = found or expected
        assert other is None or other.year in (1, 9999) or abs((other.second + 30) % 60 - 30) < 1
    else:
        assert abs(found - expected) <= MICROSECOND


@given(day=DAYS, seconds=SECONDS, scale=SCALES)
@settings(deadline=None, max_examples=500)
def test_modified_julian_dates_are_what_astropy_says(day: int, seconds: float, scale: TimeScale) -> None:
    rest = seconds / 86400
    found = converted(lambda: conversions.mjd_to_utc(day, rest, scale=scale))
    assert_same(found, asked(lambda: of_scale(day, rest, "mjd", scale)))


@given(day=DAYS, seconds=SECONDS, scale=SCALES)
@settings(deadline=None, max_examples=200)
def test_julian_dates_are_what_astropy_says(day: int, seconds: float, scale: TimeScale) -> None:
    jd, rest = day + 2400000.5, seconds / 86400
    found = converted(lambda: conversions.jd_to_utc(jd, rest, scale=scale))
    assert_same(found, asked(lambda: of_scale(jd, rest, "jd", scale)))


@given(
    reference=st.one_of(DAYS_AROUND, st.sampled_from([51910, 52706, 55835, 58849])),
    fraction=st.sampled_from([0.0, 0.000742870370, 0.5, 0.9999]),
    day=DAYS,
    seconds=SECONDS,
    scale=SCALES,
)
@example(reference=57753, fraction=0.0, day=57754, seconds=0.5, scale="UTC")
@example(reference=57753, fraction=0.5, day=57753, seconds=100.0, scale="UTC")
@settings(deadline=None, max_examples=500)
def test_seconds_since_a_reference_are_what_astropy_says(
    reference: int, fraction: float, day: int, seconds: float, scale: TimeScale
) -> None:
    elapsed = (day - reference) * 86400.0
    found = converted(
        lambda: conversions.elapsed_to_utc(
            elapsed, seconds, reference_mjd=reference, reference_fraction_d=fraction, scale=scale, leap_seconds=True
        )
    )
    later = TimeDelta(elapsed, seconds, format="sec")
    assert_same(found, asked(lambda: of_scale(reference, fraction, "mjd", scale) + later))


@given(day=DAYS, seconds=SECONDS)
@settings(deadline=None, max_examples=200)
def test_gps_seconds_are_what_astropy_says(day: int, seconds: float) -> None:
    gps_s = (day - 44244) * 86400.0
    found = converted(lambda: conversions.gps_to_utc(gps_s, seconds))
    assert_same(found, asked(lambda: Time(gps_s, seconds, format="gps")))


@given(
    moment=st.datetimes(min_value=datetime(1960, 1, 1), max_value=datetime(2150, 1, 1)),
    scale=SCALES,
)
@settings(deadline=None, max_examples=200)
def test_texts_are_what_astropy_says(moment: datetime, scale: TimeScale) -> None:
    found = converted(lambda: conversions.text_to_utc(moment.isoformat(), scale=scale))
    assert_same(found, asked(lambda: of_scale(moment.isoformat(), None, "isot", scale)))


@given(day=st.integers(36934, 80000), seconds=st.floats(0, 86399))
@settings(deadline=None, max_examples=200)
def test_unix_time_is_what_astropy_says_on_days_without_a_leap_second(day: int, seconds: float) -> None:
    if day + 1 not in LEAP_DAYS:
        unix_s = (day - 40587) * 86400.0
        assert_same(conversions.unix_to_utc(unix_s, seconds), asked(lambda: Time(unix_s, seconds, format="unix")))


def test_unix_time_has_its_noon_at_noon_on_a_day_with_a_leap_second() -> None:
    assert conversions.unix_to_utc(1483185600) == datetime(2016, 12, 31, 12, tzinfo=UTC)


@given(
    days=st.lists(st.floats(-1e6, 1e6), max_size=3).map(tuple),
    seconds=st.lists(st.floats(-1e11, 1e11), max_size=3).map(tuple),
)
def test_no_microsecond_of_a_sum_is_lost(days: tuple[float, ...], seconds: tuple[float, ...]) -> None:
    exact = sum(map(Fraction, days)) * 86_400_000_000 + sum(map(Fraction, seconds)) * 1_000_000
    assert abs(float(reading_us(days=days, seconds=seconds) - exact)) <= 0.501


def test_astropy_is_asked_once_for_many_days(monkeypatch: pytest.MonkeyPatch) -> None:
    timescales._ask_ahead_us.cache_clear()
    questions = []
    ask = timescales.ask_astropy

    def count(*question: Any) -> Time:
        questions.append(question)
        return ask(*question)

    monkeypatch.setattr(timescales, "ask_astropy", count)
    first = 58849 // SPAN_DAYS * SPAN_DAYS
    for day in range(first, first + SPAN_DAYS):
        assert recall_utc(reading_us(days=(day, 0.5)), "TT") is not None
    assert len(questions) == 2


@pytest.mark.parametrize("scale", ["UTC", "TT", "TAI", "GPS"])
def test_nothing_is_remembered_of_days_around_a_leap_second(scale: TimeScale) -> None:
    assert recall_utc(reading_us(days=(57753, 0.99999)), scale) is None


def test_nothing_is_remembered_of_barycentric_time_and_of_times_long_ago_or_to_come() -> None:
    assert recall_utc(reading_us(days=(58849,)), "TDB") is None
    for day in (-1e9, 40000, 90000, 1e300):
        assert recall_utc(reading_us(days=(day,)), "TAI") is None
        assert recall_ahead_us(reading_us(days=(day,))) is None


def test_atomic_time_is_ahead_of_utc_by_37_s_in_2020() -> None:
    assert recall_ahead_us(reading_us(days=(58849,))) == 37_000_000


def test_times_in_utc_do_without_astropy() -> None:
    code = """
import sys
from extractors.conversions import text_to_utc, unix_to_utc
assert text_to_utc("2020-01-01T00:00:01").second == unix_to_utc(1577836801).second == 1
assert "astropy" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", code], check=True)
