"""Units and time systems, against values from outside this code."""

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from extractors import conversions
from extractors.errors import ConversionError
from metadata_db.records import Attribute

MILLISECOND = timedelta(milliseconds=1)


def number(unit: str | None = None) -> Attribute:
    return Attribute(name="x", type="number", unit=unit)


def elapsed(seconds: float, mjd: float, scale: conversions.TimeScale, *, leap_seconds: bool = True) -> datetime:
    return conversions.elapsed_to_utc(
        seconds, reference_mjd=mjd, reference_fraction_d=0.0, scale=scale, leap_seconds=leap_seconds
    )


def test_gps_seconds_of_gw150914_are_the_published_utc() -> None:
    assert conversions.gps_to_utc(1126259462) == datetime(2015, 9, 14, 9, 50, 45, tzinfo=UTC)


def test_terrestrial_time_is_ahead_of_utc_by_69_184_s_in_2020() -> None:
    expected = datetime(2020, 1, 1, tzinfo=UTC) - timedelta(seconds=69.184)
    assert abs(elapsed(0.0, 58849, "TT") - expected) < MILLISECOND


def test_atomic_time_is_ahead_of_utc_by_37_s_in_2020() -> None:
    assert elapsed(37.0, 58849, "TAI") == datetime(2020, 1, 1, tzinfo=UTC)


def test_gps_as_a_time_scale_is_ahead_of_utc_by_18_s_in_2020() -> None:
    assert elapsed(18.0, 58849, "GPS") == datetime(2020, 1, 1, tzinfo=UTC)


def test_utc_seconds_count_the_leap_second_of_2016_unless_it_is_ignored() -> None:
    day_s = 86400.0
    assert elapsed(day_s - 1, 57753, "UTC") == datetime(2016, 12, 31, 23, 59, 59, tzinfo=UTC)
    assert elapsed(day_s + 1, 57753, "UTC") == datetime(2017, 1, 1, tzinfo=UTC)
    assert elapsed(day_s, 57753, "UTC", leap_seconds=False) == datetime(2017, 1, 1, tzinfo=UTC)


def test_a_time_within_a_leap_second_is_no_value() -> None:
    with pytest.raises(ConversionError, match="leap second"):
        elapsed(86400.5, 57753, "UTC")


def test_unix_time_ignores_leap_seconds() -> None:
    assert conversions.unix_to_utc(1397670247.566) == datetime(2014, 4, 16, 17, 44, 7, 566000, tzinfo=UTC)


def test_a_date_text_counts_in_its_scale_unless_it_states_an_offset() -> None:
    stated = "2020-01-01T00:00:37"
    assert conversions.text_to_utc(stated, scale="TAI") == datetime(2020, 1, 1, tzinfo=UTC)
    assert conversions.text_to_utc(f"{stated}+01:00", scale="TAI") == datetime(2019, 12, 31, 23, 0, 37, tzinfo=UTC)


@pytest.mark.parametrize("text", ["yesterday", "", "2020-13-01T00:00:00"])
def test_what_is_no_date_is_no_value(text: str) -> None:
    with pytest.raises(ConversionError, match="date and time"):
        conversions.text_to_utc(text, scale="UTC")


@given(st.floats(min_value=0, max_value=2e9))
@settings(deadline=None)
def test_gps_seconds_and_the_same_seconds_since_the_gps_epoch_agree(seconds: float) -> None:
    assert abs(conversions.gps_to_utc(seconds) - elapsed(seconds, 44244, "GPS")) < MILLISECOND


@given(st.floats(allow_nan=False, allow_infinity=False))
@settings(deadline=None)
def test_no_number_of_seconds_does_more_than_be_refused(seconds: float) -> None:
    try:
        found = elapsed(seconds, 51910, "TT")
    except ConversionError:
        return
    assert found.tzinfo is UTC


@pytest.mark.parametrize(
    ("name", "scale"), [("utc", "UTC"), (" TT ", "TT"), ("TDT", "TT"), ("IAT", "TAI"), ("gps", "GPS")]
)
def test_time_scales_go_by_their_old_and_lower_case_names_too(name: str, scale: str) -> None:
    assert conversions.time_scale(name) == scale


def test_an_unknown_time_scale_names_the_known_ones() -> None:
    with pytest.raises(ConversionError, match="found 'LOCAL', expected one of the time scales UTC"):
        conversions.time_scale("LOCAL")


@pytest.mark.parametrize(
    ("value", "unit", "target", "expected"),
    [
        (2.5, "TeV", "eV", 2.5e12),
        (10.0, "EeV", "eV", 1e19),
        (5.57, "hourangle", "deg", 83.55),
        (90, "arcmin", "deg", 1.5),
    ],
)
def test_numbers_are_brought_to_the_declared_unit(value: float, unit: str, target: str, expected: float) -> None:
    assert conversions.convert(value, unit, number(target)) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("unit", ["furlong/fortnight/x", "s", "", None])
def test_an_unknown_or_foreign_or_missing_unit_is_never_guessed(unit: str | None) -> None:
    with pytest.raises(ConversionError, match="a unit that can be converted to eV"):
        conversions.convert(1.0, unit, number("eV"))


@pytest.mark.parametrize("value", [float("nan"), float("inf"), "many", True, (1, 2)])
def test_what_is_no_finite_number_is_no_value(value: object) -> None:
    with pytest.raises(ConversionError, match="number"):
        conversions.convert(value, "eV", number("eV"))


def test_identifiers_keep_every_digit() -> None:
    text = Attribute(name="x", type="text")
    assert conversions.convert(20131103103, None, text) == "20131103103"
    assert conversions.convert(" 00042 ", None, text) == "00042"


@pytest.mark.parametrize(("value", "expected"), [("093", 93), (7, 7), (7.0, 7)])
def test_whole_numbers_may_be_written_as_text_or_float(value: object, expected: int) -> None:
    assert conversions.convert(value, None, Attribute(name="x", type="integer")) == expected


@pytest.mark.parametrize("value", [7.5, "eight", True, 2**70, float("inf")])
def test_other_numbers_are_not_taken_for_whole_ones(value: object) -> None:
    with pytest.raises(ConversionError, match="a whole number"):
        conversions.convert(value, None, Attribute(name="x", type="integer"))


@pytest.mark.parametrize(("value", "expected"), [(True, True), ("F", False), ("true", True), (0, False)])
def test_truth_has_few_spellings(value: object, expected: bool) -> None:
    assert conversions.convert(value, None, Attribute(name="x", type="boolean")) is expected


@given(st.floats(min_value=-180, max_value=360))
@settings(deadline=None)
def test_right_ascension_is_the_same_angle_below_360(angle: float) -> None:
    found = conversions.degrees_of_right_ascension(angle)
    assert 0 <= found < 360
    assert abs((found - angle) % 360) < 1e-9 or abs((found - angle) % 360 - 360) < 1e-9
