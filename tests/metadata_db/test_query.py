"""Equal questions have one id however they are spelled; different ones have different ids."""

import re
from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from metadata_db.errors import BadInputError
from metadata_db.query import (
    Alert,
    AttributeFilter,
    Coincidence,
    EnergyUnit,
    Interval,
    SearchQuery,
    check_positions,
    glob_to_regex,
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

words = st.lists(
    st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), min_size=1, max_size=20),
    min_size=1,
    max_size=6,
)
moments = st.datetimes(min_value=datetime(1900, 1, 1), max_value=datetime(2200, 1, 1), timezones=st.just(UTC))
runs = st.lists(
    st.tuples(st.integers(0, 500), st.integers(0, 30)).map(lambda r: (r[0], r[0] + r[1])), min_size=1, max_size=8
)
numbers = st.floats(allow_nan=False, allow_infinity=False, width=32)
attributes = st.lists(
    st.one_of(
        st.builds(
            AttributeFilter,
            name=st.sampled_from("abc"),
            values=st.lists(
                st.one_of(st.booleans(), st.integers(-9, 9), st.text("xyz", max_size=2)), min_size=1, max_size=4
            ).map(tuple),
        ),
        st.builds(AttributeFilter, name=st.sampled_from("abc"), minimum=numbers),
    ),
    min_size=1,
    max_size=4,
)

alerts = st.lists(
    st.tuples(moments.map(datetime.isoformat), st.floats(0, 360), st.floats(-90, 90)), min_size=1, max_size=4
)


@st.composite
def coincidences(draw: st.DrawFn) -> Coincidence:
    partner = draw(st.sampled_from(["files", "alerts", "alert_list"]))
    values: dict[str, Any] = {
        "files": lambda: draw(questions(nested=True).filter(lambda found: found != SearchQuery())),
        "alerts": lambda: parse_alerts("alerts", draw(alerts)),
        "alert_list": lambda: draw(st.text("0123456789abcdef", min_size=64, max_size=64)),
    }
    within_deg = draw(st.none() | st.floats(0, 180, exclude_min=True))
    within_s = draw(st.floats(0, 31 * 86_400))
    return parse_coincidence("c", within_s=within_s, within_deg=within_deg, **{partner: values[partner]()})


@st.composite
def questions(draw: st.DrawFn, *, nested: bool = False) -> SearchQuery:
    parts: dict[str, Any] = {}
    for name in ("facility", "cluster", "obs_id", "object", "quality"):
        if draw(st.booleans()):
            parts[name] = parse_words(name, draw(words))
    if draw(st.booleans()):
        begin = draw(moments)
        parts["time"] = Interval(begin=begin, end=begin + timedelta(seconds=draw(st.integers(1, 10**7))))
    if draw(st.booleans()):
        parts["run"] = parse_runs("run", draw(runs))
    if draw(st.booleans()):
        parts["energy"] = parse_energy("energy", minimum=draw(st.floats(0, 1e6)), maximum=None, unit=EnergyUnit.GEV)
    if draw(st.booleans()):
        parts["cone"] = parse_cone(
            "cone",
            ra_deg=draw(st.floats(0, 360)),
            dec_deg=draw(st.floats(-90, 90)),
            radius_deg=draw(st.floats(0.01, 180)),
        )
    if draw(st.booleans()):
        parts["attributes"] = parse_attributes("attributes", draw(attributes))
    if draw(st.booleans()):
        parts["is_simulation"] = draw(st.booleans())
    if not nested and draw(st.booleans()):
        parts["coincidence"] = draw(coincidences())
    return SearchQuery(**parts)


@given(words, st.randoms())
def test_order_and_repetition_of_words_do_not_change_the_id(values: list[str], random: Any) -> None:
    shuffled = values + values[:2]
    random.shuffle(shuffled)
    first, second = (SearchQuery(facility=parse_words("facility", found)) for found in (values, shuffled))
    assert first.query_id == second.query_id


@given(moments, st.integers(-14 * 60, 14 * 60))
def test_the_offset_a_time_is_written_in_does_not_change_the_id(moment: datetime, offset_min: int) -> None:
    elsewhere = moment.astimezone(timezone(timedelta(minutes=offset_min)))
    spelled = [
        moment.isoformat(),
        elsewhere.isoformat(),
        moment.replace(tzinfo=None).isoformat(),
        f" {moment:%Y-%m-%dT%H:%M:%S.%fZ}",
    ]
    ids = {SearchQuery(time=parse_interval("time", begin=text)).query_id for text in spelled}
    assert len(ids) == 1


@given(st.decimals(min_value=Decimal("0.001"), max_value=1000, places=3), st.sampled_from(list(EnergyUnit)[1:]))
def test_the_unit_of_an_energy_does_not_change_the_id(value: Decimal, unit: EnergyUnit) -> None:
    smaller = list(EnergyUnit)[list(EnergyUnit).index(unit) - 1]
    first = parse_energy("energy", minimum=float(value), maximum=None, unit=unit)
    second = parse_energy("energy", minimum=float(value * 1000), maximum=None, unit=smaller)
    assert SearchQuery(energy=first).query_id == SearchQuery(energy=second).query_id


@given(runs, st.randoms())
def test_ranges_of_runs_that_mean_the_same_runs_have_one_id(ranges: list[tuple[int, int]], random: Any) -> None:
    single = [(run, run) for first, last in ranges for run in range(first, last + 1)]
    random.shuffle(single)
    first, second = SearchQuery(run=parse_runs("run", ranges)), SearchQuery(run=parse_runs("run", single))
    assert first.query_id == second.query_id
    wanted = {run for run, _ in single}
    assert {run for part in first.run for run in range(part.first, part.last + 1)} == wanted


@given(st.integers(0, 359), st.floats(-89, 89))
def test_full_turns_of_right_ascension_do_not_change_the_id(ra_deg: int, dec_deg: float) -> None:
    first, second = (
        SearchQuery(cone=parse_cone("cone", ra_deg=ra, dec_deg=dec_deg, radius_deg=1)) for ra in (ra_deg, ra_deg - 360)
    )
    assert first.query_id == second.query_id


@pytest.mark.parametrize(
    ("one", "other"), [(5, 5.0), (2**63, float(2**63)), (10**300, 1e300), (-(2**64), -1.8446744073709552e19)]
)
def test_a_number_means_the_same_however_it_is_spelled(one: float, other: float) -> None:
    first, second = (parse_attributes("a", [AttributeFilter(name="n", values=(value,))]) for value in (one, other))
    assert SearchQuery(attributes=first).canonical == SearchQuery(attributes=second).canonical


@given(attributes, st.randoms())
def test_order_and_repetition_of_attributes_do_not_change_the_id(
    given_filters: list[AttributeFilter], random: Any
) -> None:
    shuffled = given_filters + given_filters[:1]
    random.shuffle(shuffled)
    first, second = (SearchQuery(attributes=parse_attributes("a", found)) for found in (given_filters, shuffled))
    assert first.query_id == second.query_id


@pytest.mark.parametrize(
    ("preset", "begin", "end"),
    [
        (parse_season("t", "2019/20"), "2019-09-01", "2020-06-01"),
        (parse_season("t", "2019/2020"), "2019-09-01", "2020-06-01"),
        (parse_season("t", "1999/00"), "1999-09-01", "2000-06-01"),
        (parse_month("t", "2020-02"), "2020-02-01", "2020-03-01"),
        (parse_month("t", "2019-12"), "2019-12-01", "2020-01-01"),
        (parse_week("t", "2019-W45"), "2019-11-04", "2019-11-11"),
        (parse_week("t", "2020-W53"), "2020-12-28", "2021-01-04"),
        (parse_night("t", "2019-11-02"), "2019-11-02T12:00", "2019-11-03T12:00"),
    ],
)
def test_a_preset_has_the_id_of_what_it_means(preset: Interval, begin: str, end: str) -> None:
    meant = parse_interval("t", begin=begin, end=end)
    assert SearchQuery(time=preset).query_id == SearchQuery(time=meant).query_id


@given(questions(), questions())
def test_different_filters_have_different_ids(first: SearchQuery, second: SearchQuery) -> None:
    assume(first != second)
    assert first.query_id != second.query_id


@given(questions())
def test_the_canonical_form_gives_the_question_back(question: SearchQuery) -> None:
    assert SearchQuery.from_canonical(question.canonical) == question


def test_an_empty_question_has_the_id_of_an_empty_object() -> None:
    assert SearchQuery().canonical == "{}"
    assert SearchQuery().query_id == "99914b932bd37a50b983c5e7c90ae93b"


def test_the_id_of_a_question_stays_what_it_was() -> None:
    """Users keep ids; this one was made before there were coincidences."""
    question = SearchQuery(
        facility=("aurora", "borealis"),
        obs_id=("1",),
        is_simulation=False,
        time=parse_season("t", "2019/20"),
        run=parse_runs("r", [(4, 9)]),
        energy=parse_energy("e", minimum=1.5, maximum=None, unit=EnergyUnit.TEV),
        cone=parse_cone("c", ra_deg=-10, dec_deg=22, radius_deg=2),
        attributes=parse_attributes("a", [AttributeFilter(name="n", values=(4,))]),
        path=("2019/**",),
    )
    assert question.query_id == "95eb4a06846d66ba1bd7bcde69e87123"


def test_a_time_long_ago_is_written_with_four_digits_of_its_year() -> None:
    question = SearchQuery(time=parse_interval("time", begin="0005-01-01"))
    assert question.canonical == '{"time":{"begin":"0005-01-01T00:00:00.000000Z"}}'
    assert SearchQuery.from_canonical(question.canonical) == question


# --- coincidences ---------------------------------------------------------------------------------------------------


def coincidence(**values: Any) -> Coincidence:
    return parse_coincidence("c", **{"within_s": 60, **values})


def test_a_coincidence_has_a_canonical_form_that_holds_the_other_question() -> None:
    files = SearchQuery(facility=("borealis",), is_simulation=False, run=parse_runs("r", [(1, 2)]))
    asked = SearchQuery(facility=("aurora",), coincidence=coincidence(files=files, within_deg=2))
    assert asked.as_mapping() == {
        "facility": ["aurora"],
        "coincidence": {
            "within_s": 60.0,
            "within_deg": 2.0,
            "files": {"facility": ["borealis"], "is_simulation": False, "run": [{"first": 1, "last": 2}]},
        },
    }
    moments = parse_alerts("a", [("2019-11-02T12:00:00.5", -10, 22), ("2019-11-01", 1, 2)])
    asked = SearchQuery(coincidence=coincidence(alerts=moments, within_s=0, within_deg=1))
    assert asked.as_mapping() == {
        "coincidence": {
            "within_s": 0.0,
            "within_deg": 1.0,
            "alerts": [
                {"time": "2019-11-01T00:00:00.000000Z", "ra_deg": 1.0, "dec_deg": 2.0},
                {"time": "2019-11-02T12:00:00.500000Z", "ra_deg": 350.0, "dec_deg": 22.0},
            ],
        }
    }
    asked = SearchQuery(coincidence=coincidence(alert_list="AB" * 32))
    assert asked.as_mapping() == {"coincidence": {"within_s": 60.0, "alert_list": "ab" * 32}}


@given(alerts, st.randoms())
def test_order_repetition_and_spelling_of_alerts_do_not_change_the_id(
    given_alerts: list[tuple[str, float, float]], random: Any
) -> None:
    spelled = [(f" {time.replace('+00:00', 'Z')}", ra, dec) for time, ra, dec in [*given_alerts, given_alerts[0]]]
    random.shuffle(spelled)
    first, second = (
        SearchQuery(coincidence=coincidence(alerts=parse_alerts("a", found), within_deg=1))
        for found in (given_alerts, spelled)
    )
    assert first.query_id == second.query_id


def test_positions_and_parts_of_a_microsecond_that_mean_nothing_do_not_change_the_id() -> None:
    placed, bare = (
        SearchQuery(coincidence=coincidence(alerts=parse_alerts("a", [("2019-11-02", *place)]), within_s=within_s))
        for place, within_s in (((1, 2), 0.1000001), ((None, None), 0.1))
    )
    assert placed.query_id == bare.query_id


@pytest.mark.parametrize(
    ("own", "others", "touched"),
    [
        ((), None, ()),
        (("b", "c"), None, ("b", "c")),
        (("b", "c"), ("a", "b"), ("a", "b", "c")),
        ((), ("a",), ()),
        (("b",), (), ()),
    ],
)
def test_a_question_touches_its_own_facilities_and_those_of_the_other_files(
    own: tuple[str, ...], others: tuple[str, ...] | None, touched: tuple[str, ...]
) -> None:
    asked = SearchQuery(facility=own)
    assert asked.touched == own
    files = None if others is None else SearchQuery(facility=others, kind=("events",))
    wanted = coincidence(alert_list="0" * 64) if files is None else coincidence(files=files)
    assert SearchQuery(facility=own, coincidence=wanted).touched == touched


def test_an_angle_needs_a_position_of_every_alert_and_names_the_first_without() -> None:
    found = parse_alerts("a", [("2019-11-02T12:00", None, None), ("2019-11-01", 1, 2), ("2019-11-03", None, None)])
    assert coincidence(alerts=found).alerts == tuple(Alert(time=alert.time) for alert in found)
    for check in (lambda: coincidence(alerts=found, within_deg=1), lambda: check_positions("c.alerts", found)):
        with pytest.raises(BadInputError) as caught:
            check()
        assert caught.value.field == "c.alerts"
        assert "2019-11-02T12:00" in caught.value.value


FILES = SearchQuery(facility=("aurora",))
MANY = [(f"2019-11-02T12:00:00.{at:06}", None, None) for at in range(1001)]


@pytest.mark.parametrize(
    ("parse", "field", "shown", "expected"),
    [
        (lambda: coincidence(), "c", "[]", "exactly one of files"),
        (lambda: coincidence(files=FILES, alert_list="0" * 64), "c", "['files', 'alertList']", "exactly one of"),
        (lambda: coincidence(files=FILES, alerts=()), "c", "['files', 'alerts']", "exactly one of"),
        (lambda: coincidence(files=FILES, within_s=-1), "c.withinS", "-1", "0 to 2678400 seconds"),
        (lambda: coincidence(files=FILES, within_s=2678401), "c.withinS", "2678401", "31 days"),
        (lambda: coincidence(files=FILES, within_s=float("nan")), "c.withinS", "nan", "0 to 2678400"),
        (lambda: coincidence(files=FILES, within_s=float("inf")), "c.withinS", "inf", "0 to 2678400"),
        (lambda: coincidence(files=FILES, within_deg=0), "c.withinDeg", "0", "above 0"),
        (lambda: coincidence(files=FILES, within_deg=180.1), "c.withinDeg", "180.1", "up to 180"),
        (lambda: coincidence(files=FILES, within_deg=float("nan")), "c.withinDeg", "nan", "above 0"),
        (lambda: coincidence(files=SearchQuery()), "c.files", "{}", "at least one filter"),
        (
            lambda: coincidence(files=SearchQuery(coincidence=coincidence(files=FILES))),
            "c.files.coincidence",
            "a coincidence",
            "none within another",
        ),
        (lambda: coincidence(alerts=()), "c.alerts", "[]", "at least one alert"),
        (lambda: coincidence(alert_list="0" * 63), "c.alertList", "'000", "64 hexadecimal digits"),
        (lambda: coincidence(alert_list="g" * 64), "c.alertList", "'ggg", "64 hexadecimal digits"),
        (lambda: coincidence(alert_list="é" * 64), "c.alertList", "'", "64 hexadecimal digits"),
        (lambda: parse_alerts("a", [("soon", None, None)]), "a[0].time", "'soon'", "ISO 8601"),
        (lambda: parse_alerts("a", [("0001-12-31", None, None)]), "a[0].time", "'0001", "years 2 to 9998"),
        (lambda: parse_alerts("a", [("9999-01-01", None, None)]), "a[0].time", "'9999", "years 2 to 9998"),
        (lambda: parse_alerts("a", [MANY[0], ("2019", 1, None)]), "a[1].time", "'2019'", "ISO 8601"),
        (lambda: parse_alerts("a", [("2019-11-02", 1, None)]), "a[0].decDeg", "nothing", "is given, 1"),
        (lambda: parse_alerts("a", [("2019-11-02", None, 2)]), "a[0].raDeg", "nothing", "is given, 2"),
        (lambda: parse_alerts("a", [("2019-11-02", 361, 2)]), "a[0].raDeg", "361", "0 to 360"),
        (lambda: parse_alerts("a", [("2019-11-02", 1, -91)]), "a[0].decDeg", "-91", "-90 to 90"),
        (lambda: parse_alerts("a", MANY), "a", "1001 values", "at most 1000"),
    ],
)
def test_a_wrong_coincidence_names_field_value_and_expectation(
    parse: Any, field: str, shown: str, expected: str
) -> None:
    with pytest.raises(BadInputError) as caught:
        parse()
    assert caught.value.field == field
    assert shown in caught.value.value
    assert expected in caught.value.expected


# --- what is refused ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("parse", "field", "shown", "expected"),
    [
        (lambda: parse_time("time.begin", "yesterday"), "time.begin", "'yesterday'", "ISO 8601"),
        (lambda: parse_time("time.begin", "0001-01-01T00:00+14:00"), "time.begin", "'0001", "ISO 8601"),
        (
            lambda: parse_interval("time", begin="2020-01-02", end="2020-01-01"),
            "time.end",
            "'2020-01-01'",
            "after begin",
        ),
        (lambda: parse_interval("time"), "time", "{}", "begin, end or one preset"),
        (lambda: parse_season("time.season", "2019/21"), "time.season", "'2019/21'", "second year following"),
        (lambda: parse_season("time.season", "9999/00"), "time.season", "'9999/00'", "2019/20"),
        (lambda: parse_month("time.month", "2019-13"), "time.month", "'2019-13'", "2019-11"),
        (lambda: parse_month("time.month", "9999-12"), "time.month", "'9999-12'", "2019-11"),
        (lambda: parse_week("time.week", "2019-W60"), "time.week", "'2019-W60'", "2019-W45"),
        (lambda: parse_night("time.night", "2019-02-30"), "time.night", "'2019-02-30'", "evening"),
        (lambda: parse_runs("run", [(5, 4)]), "run", "5 to 4", "not below"),
        (lambda: parse_runs("run", [(5, 2**63)]), "run", "5 to", "64 bits"),
        (
            lambda: parse_energy("energy", minimum=-1, maximum=None, unit=EnergyUnit.EV),
            "energy.min",
            "-1",
            "not negative",
        ),
        (
            lambda: parse_energy("energy", minimum=float("nan"), maximum=None, unit=EnergyUnit.EV),
            "energy.min",
            "nan",
            "finite",
        ),
        (
            lambda: parse_energy("energy", minimum=1e300, maximum=None, unit=EnergyUnit.PEV),
            "energy.min",
            "1e+300",
            "at most 1e308 eV",
        ),
        (lambda: parse_energy("energy", minimum=2, maximum=1, unit=EnergyUnit.EV), "energy.max", "1", "not below min"),
        (lambda: parse_energy("energy", minimum=None, maximum=None, unit=EnergyUnit.EV), "energy", "{}", "min, max"),
        (lambda: parse_cone("cone", ra_deg=400, dec_deg=0, radius_deg=1), "cone.raDeg", "400", "0 to 360"),
        (lambda: parse_cone("cone", ra_deg=0, dec_deg=91, radius_deg=1), "cone.decDeg", "91", "-90 to 90"),
        (lambda: parse_cone("cone", ra_deg=0, dec_deg=0, radius_deg=0), "cone.radiusDeg", "0", "above 0"),
        (lambda: parse_cone("cone", ra_deg=float("nan"), dec_deg=0, radius_deg=1), "cone.raDeg", "nan", "0 to 360"),
        (lambda: parse_words("facility", [""]), "facility", "''", "1 to 1024"),
        (lambda: parse_words("facility", ["a\0b"]), "facility", "'a", "without NUL"),
        (lambda: parse_words("facility", map(str, range(2000))), "facility", "2000 values", "at most 1000"),
        (lambda: parse_words("facility", ["a\ud800"]), "facility", r"'a\ud800'", "without NUL"),
        (lambda: parse_globs("path", ["a[b"]), "path", "'a[b'", "closing"),
        (lambda: parse_globs("path", ["[z-a]"]), "path", "'[z-a]'", "bad character range"),
        (
            lambda: parse_attributes("attributes", [AttributeFilter(name="a", values=("\0",))]),
            "attributes[0]",
            "'\\x00'",
            "without NUL",
        ),
        (
            lambda: parse_attributes("attributes", [AttributeFilter(name="a", values=(10**309,))]),
            "attributes[0]",
            "a longer number",
            "at most 308 digits",
        ),
        (lambda: parse_attributes("attributes", [AttributeFilter(name="a")]), "attributes[0]", "'a'", "either equals"),
        (
            lambda: parse_attributes("attributes", [AttributeFilter(name="a", minimum=2, maximum=1)]),
            "attributes[0]",
            "1",
            "not below min",
        ),
    ],
)
def test_wrong_input_names_field_value_and_expectation(parse: Any, field: str, shown: str, expected: str) -> None:
    with pytest.raises(BadInputError) as caught:
        parse()
    assert caught.value.field == field
    assert shown in caught.value.value
    assert expected in caught.value.expected


@pytest.mark.parametrize(
    ("glob", "matching", "other"),
    [
        ("*.fits", ["a.fits"], ["a/b.fits", "a.fits.gz"]),
        ("**/*.fits", ["a.fits", "a/b/c.fits"], ["a.fit"]),
        ("2019/**", ["2019/a", "2019/a/b"], ["2018/a"]),
        ("run_?.h5", ["run_1.h5"], ["run_12.h5", "run_/.h5"]),
        ("run_[12].h5", ["run_1.h5"], ["run_3.h5"]),
        ("run_[!12].h5", ["run_3.h5"], ["run_1.h5", "run_/.h5"]),
        ("a+(b).{x}", ["a+(b).{x}"], ["aab.x"]),
    ],
)
def test_a_path_pattern_matches_as_a_shell_would(glob: str, matching: list[str], other: list[str]) -> None:
    found = re.compile(glob_to_regex(glob))
    assert [path for path in matching + other if found.search(path)] == matching
