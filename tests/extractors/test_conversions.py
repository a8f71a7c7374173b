"""Units and time systems, against values from outside this code."""

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from extractors import conversions
from extractors.errors import ConversionError
from extractors.timescales import TimeScale
from metadata_db.records import Attribute

MILLISECOND = timedelta(milliseconds=1)


def number(unit: str | None = None) -> Attribute:
    return Attribute(name="x", type="number", unit=unit)


def elapsed(seconds: float, mjd: float, scale: TimeScale, *, leap_seconds: bool = True) -> datetime:
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


def test_two_parts_of_a_time_keep_the_digits_that_one_number_has_no_room_for() -> None:
    assert conversions.unix_to_utc(1397670247, 0.123457) == datetime(2014, 4, 16, 17, 44, 7, 123457, tzinfo=UTC)
    assert conversions.gps_to_utc(1126259462, 0.391001) == datetime(2015, 9, 14, 9, 50, 45, 391001, tzinfo=UTC)
    assert conversions.mjd_to_utc(58849, 1e-6 / 86400, scale="UTC") == datetime(2020, 1, 1, 0, 0, 0, 1, tzinfo=UTC)
    assert elapsed(1e9, 51910, "UTC") - conversions.elapsed_to_utc(
        1e9, -1e-6, reference_mjd=51910, reference_fraction_d=0.0, scale="UTC", leap_seconds=True
    ) == timedelta(microseconds=1)


def test_a_julian_date_in_two_parts_is_exact() -> None:
    assert conversions.jd_to_utc(2458849.5, scale="UTC") == datetime(2020, 1, 1, tzinfo=UTC)
    assert conversions.jd_to_utc(2458850, -0.5, scale="UTC") == datetime(2020, 1, 1, tzinfo=UTC)
    in_tai = conversions.jd_to_utc(2458849.5, 37.000001 / 86400, scale="TAI")
    assert in_tai == datetime(2020, 1, 1, 0, 0, 0, 1, tzinfo=UTC)


def test_a_gps_date_that_was_called_unix_time_is_ahead_by_the_leap_seconds() -> None:
    # A GPS clock was 15 s ahead of UTC in 2012, and 17 s in 2016.
    for moment, ahead_s in ((datetime(2012, 1, 1, tzinfo=UTC), 15), (datetime(2016, 1, 1, tzinfo=UTC), 17)):
        assert conversions.gps_as_unix_to_utc(moment.timestamp() + ahead_s) == moment


@pytest.mark.parametrize(
    ("text", "text_format", "zone", "expected"),
    [
        ("20191102 18:04", "%Y%m%d %H:%M", "UTC", "2019-11-02T18:04:00"),
        ("02.11.2019 18:04:05", "%d.%m.%Y %H:%M:%S", "+08:00", "2019-11-02T10:04:05"),
        ("2019-11-02T18:04:05", None, "-03:30", "2019-11-02T21:34:05"),
        ("2019-07-02T18:04:05", None, "Asia/Irkutsk", "2019-07-02T10:04:05"),
        ("2019-07-02T18:04:05", None, "Europe/Berlin", "2019-07-02T16:04:05"),
        ("2019-01-02T18:04:05", None, "Europe/Berlin", "2019-01-02T17:04:05"),
        ("2019-07-02T18:04:05+01:00", None, "Asia/Irkutsk", "2019-07-02T17:04:05"),
        (" 2019-07-02 18:04:05Z ", None, "UTC", "2019-07-02T18:04:05"),
        ("2019-07-02", None, "UTC", "2019-07-02T00:00:00"),
    ],
)
def test_texts_are_read_by_their_format_and_where_the_clock_hung(
    text: str, text_format: str | None, zone: str, expected: str
) -> None:
    found = conversions.text_to_utc(text, text_format=text_format, zone=zone)
    assert found == datetime.fromisoformat(f"{expected}Z")


@pytest.mark.parametrize("text", ["2019-10-27T02:30:00", "2019-03-31T02:30:00"])
def test_a_local_time_that_happened_twice_or_never_is_no_value(text: str) -> None:
    with pytest.raises(ConversionError, match="happened once in Europe/Berlin"):
        conversions.text_to_utc(text, zone="Europe/Berlin")


@pytest.mark.parametrize("zone", ["Mars/Olympus", "+99:00", "../../etc/passwd", "+x"])
def test_an_unknown_zone_is_no_value(zone: str) -> None:
    with pytest.raises(ConversionError, match="a time zone"):
        conversions.text_to_utc("2019-07-02T18:04:05", zone=zone)


@pytest.mark.parametrize("text", ["0001-01-01T00:00:00+10:00", "9999-12-31T23:00:00-10:00"])
def test_an_offset_that_leads_out_of_all_years_is_no_value(text: str) -> None:
    with pytest.raises(ConversionError, match="date and time"):
        conversions.text_to_utc(text)
    with pytest.raises(ConversionError, match="1 and 9999"):
        conversions.text_to_utc(text[:19], zone=text[19:])


@pytest.mark.parametrize(
    ("seconds", "zone", "day_begins", "expected"),
    [
        (3600.25, "UTC", "00:00", "2019-11-02T01:00:00.25"),
        (3600, "UTC", "04:00", "2019-11-03T01:00:00"),
        (4 * 3600, "UTC", "04:00", "2019-11-02T04:00:00"),
        (80_000, "UTC", "12:00", "2019-11-02T22:13:20"),
        (3600, "+08:00", "12:00", "2019-11-02T17:00:00"),
        (3600, "Asia/Irkutsk", "12:00", "2019-11-02T17:00:00"),
    ],
)
def test_a_time_of_day_is_of_the_next_date_before_the_night_began(
    seconds: float, zone: str, day_begins: str, expected: str
) -> None:
    found = conversions.day_time_to_utc(seconds, date="021119", date_format="%d%m%y", zone=zone, day_begins=day_begins)
    assert found == datetime.fromisoformat(f"{expected}Z")


@pytest.mark.parametrize(
    ("seconds", "date", "problem"),
    [
        (-1, "20191102", "seconds of the day"),
        (86400, "20191102", "seconds of the day"),
        (float("nan"), "20191102", "seconds of the day"),
        (5, "2019-11-02", "a date as %Y%m%d"),
        (5, "99991231", "before the year 9999"),
    ],
)
def test_what_is_no_time_of_day_is_no_value(seconds: float, date: str, problem: str) -> None:
    with pytest.raises(ConversionError, match=problem):
        conversions.day_time_to_utc(seconds, date=date, date_format="%Y%m%d", zone="UTC", day_begins="12:00")


@pytest.mark.parametrize(
    ("text", "expected"),
    [("06h16m51s", 94.2125), ("22.5d", 22.5), ("+22d30m", 22.5), ("-1d30m", -1.5), ("22.5 deg", 22.5)],
)
def test_angles_may_state_their_own_unit(text: str, expected: float) -> None:
    assert conversions.angle_from_text(text, "deg") == pytest.approx(expected, abs=1e-9)
    assert conversions.convert(text, "rad", number("deg")) == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("text", ["north", "22.5", "", "22.5s m", "1h2h"])
def test_what_is_no_angle_with_a_unit_is_no_value(text: str) -> None:
    with pytest.raises(ConversionError, match="an angle such as"):
        conversions.angle_from_text(text, "deg")


def test_words_of_a_list_are_a_list() -> None:
    declaration = Attribute(name="x", type="list")
    assert conversions.convert(("a", 2, 3.5), None, declaration) == ["a", 2, 3.5]
    assert conversions.convert("a", None, declaration) == ["a"]
    with pytest.raises(ConversionError, match="finite numbers"):
        conversions.convert((1.0, float("nan")), None, declaration)


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
