"""An uploaded list is read whatever its format, or refused by row, field, value and expectation."""

import codecs
import hashlib
import json
from collections.abc import Sequence
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from metadata_db.alerts import MAX_LIST_ALERTS, MAX_LIST_BYTES, AlertStore, parse_alert_list
from metadata_db.database import Database
from metadata_db.errors import BadInputError, NotFoundError
from metadata_db.query import Alert, order_alerts

NOON = datetime(2019, 11, 2, 12, tzinfo=UTC)
CRAB = Alert(time=NOON, ra_deg=83.6, dec_deg=22.0)

moments = st.datetimes(min_value=datetime(2, 1, 1), max_value=datetime(9998, 12, 31), timezones=st.just(UTC))
alerts = st.one_of(
    st.builds(Alert, time=moments),
    st.builds(Alert, time=moments, ra_deg=st.floats(0, 359.99), dec_deg=st.floats(-89.99, 89.99).map(lambda d: d + 0)),
)
lists = st.lists(alerts, min_size=1, max_size=8)


def voevent(
    time: str | None = "2019-11-02T12:00:00",
    *,
    system: str | None = "UTC-FK5-GEO",
    ra: str | None = "83.6",
    dec: str | None = "22.0",
    unit: str = "deg",
    instant: str = "",
    frame: str = "",
    version: str = "2.0",
    ivorn: str = "ivo://example/stream#1",
) -> str:
    """Return a VOEvent as the brokers send them; what is None is left out."""
    coords = "".join(f"<{name}>{value}</{name}>" for name, value in (("C1", ra), ("C2", dec)) if value is not None)
    position = f'<Position2D unit="{unit}"><Name1>RA</Name1><Name2>Dec</Name2><Value2>{coords}</Value2></Position2D>'
    told = "" if time is None else f"<ISOTime>{time}</ISOTime>"
    named, linked = ("", "") if system is None else (f' id="{system}"', f' coord_system_id="{system}"')
    return f"""<voe:VOEvent xmlns:voe="http://www.ivoa.net/xml/VOEvent/v{version}" version="{version}"
        role="observation" ivorn="{ivorn}">
      <Who><Date>2001-01-01T00:00:00</Date></Who>
      <WhereWhen><ObsDataLocation>
        <ObservatoryLocation id="KPNO"><AstroCoordSystem id="UTC-GEOD-TOPO"/><AstroCoords><Position2D unit="deg">
          <Value2><C1>248.4</C1><C2>31.9</C2></Value2></Position2D></AstroCoords></ObservatoryLocation>
        <ObservationLocation>
          <AstroCoordSystem{named}>{frame}</AstroCoordSystem>
          <AstroCoords{linked}>
            <Time unit="s"><TimeInstant>{told}{instant}</TimeInstant></Time>
            {position if coords else ""}
          </AstroCoords>
        </ObservationLocation>
      </ObsDataLocation></WhereWhen>
    </voe:VOEvent>"""


# --- formats --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "body",
    [
        "time,ra_deg,dec_deg\n2019-11-02T12:00:00Z,83.6,22.0\n",
        "time;ra;dec\r\n2019-11-02 12:00;83.6;22\r\n",
        "TIME\tRA\tDec\n2019-11-02T14:00+02:00\t83.6\t22\n",
        "\ufefftrigger_time, dec, ra, name\n2019-11-02T12:00, 22, 83.6, GRB\n",
        '# a, "comment\n\n isot ,"ra","dec"\n   # another\n"2019-11-02T12:00","83.6",22.0\n,,\n',
        "t,ra,dec\n2019-11-02T12:00,-276.4,22\n2019-11-02T12:00,83.6,22\n",
        "mjd,ra,dec\n58789.5,83.6,22\n",
        "mjd,time,ra,dec\n0,2019-11-02T12:00,83.6,22\n",
        "time,ra,dec,ra_deg,dec_deg\n2019-11-02T12:00,05:34:24,+22:00:00,83.6,22\n",
        "time,ra,dec\r2019-11-02T12:00,83.6,22",
        '[{"time": "2019-11-02T12:00:00Z", "ra_deg": 83.6, "dec_deg": 22}]',
        ' [{"mjd": 58789.5, "ra": "83.6", "dec": "22", "name": "GRB"}]',
        f'<?xml version="1.0" encoding="UTF-8"?>\n{voevent()}',
        f"<list>{voevent()}<more>{voevent(version='2.1')}</more></list>",
    ],
)
def test_the_same_alert_is_read_from_every_format(body: str) -> None:
    assert parse_alert_list(body.encode()) == (CRAB,)


@pytest.mark.parametrize(
    ("media_type", "body"),
    [
        ("text/csv; charset=utf-8", b"time\n2019-11-02T12:00"),
        ("text/tab-separated-values", b"time\n2019-11-02T12:00"),
        ("TEXT/XML", voevent(ra=None, dec=None).encode("utf-16")),
        ("application/voevent+xml", voevent(ra=None, dec=None).encode()),
        ("application/json", b'[{"time": "2019-11-02T12:00"}]'),
        ("application/x-www-form-urlencoded", b"time\n2019-11-02T12:00"),
        ("text/plain", b'[{"time": "2019-11-02T12:00", "ra_deg": null, "dec_deg": null}]'),
        ("application/octet-stream", codecs.BOM_UTF8 + voevent(ra=None, dec=None).encode()),
        ("", codecs.BOM_UTF8 + b'[{"time": "2019-11-02T12:00"}]'),
    ],
)
def test_the_header_or_else_the_first_byte_names_the_format(media_type: str, body: bytes) -> None:
    assert parse_alert_list(body, media_type) == (Alert(time=NOON),)


def test_the_header_is_believed_before_the_first_byte() -> None:
    with pytest.raises(BadInputError, match="malformed XML"):
        parse_alert_list(b"time\n2019-11-02", "application/xml")


def test_alerts_come_in_order_and_each_once_with_or_without_positions() -> None:
    table = "time,ra,dec\n2020-01-02,1,-2\n2020-01-01,,\n2020-01-02,,\n2020-01-02,1,-2\n2020-01-02,0.5,3"
    first, second = datetime(2020, 1, 1, tzinfo=UTC), datetime(2020, 1, 2, tzinfo=UTC)
    assert parse_alert_list(table.encode()) == (
        Alert(time=first),
        Alert(time=second),
        Alert(time=second, ra_deg=0.5, dec_deg=3.0),
        Alert(time=second, ra_deg=1.0, dec_deg=-2.0),
    )


@given(lists)
def test_what_is_shown_as_json_is_read_back(given_alerts: list[Alert]) -> None:
    shown = [alert.as_mapping() for alert in given_alerts]
    assert parse_alert_list(json.dumps(shown).encode()) == order_alerts(given_alerts)


@given(lists, st.sampled_from(",;\t"))
def test_a_table_gives_its_alerts_back(given_alerts: list[Alert], delimiter: str) -> None:
    rows: list[Sequence[object]] = [("time", "ra_deg", "dec_deg")]
    for alert in given_alerts:
        direction = ("", "") if alert.ra_deg is None else (alert.ra_deg, alert.dec_deg)
        rows.append((alert.time.isoformat(), *direction))
    body = "\n".join(delimiter.join(map(str, row)) for row in rows)
    assert parse_alert_list(body.encode()) == order_alerts(given_alerts)


# --- times ----------------------------------------------------------------------------------------------------------


@settings(deadline=None)  # the first example loads astropy
@given(st.integers(-600_000, 2_900_000), st.integers(0, 86_400_000_000 - 1))
def test_a_modified_julian_date_is_exact_to_the_microsecond(day: int, microseconds: int) -> None:
    fraction = f"{microseconds / 86_400_000_000:.14f}".removeprefix("0")
    expected = datetime(1858, 11, 17, tzinfo=UTC) + timedelta(days=day, microseconds=microseconds)
    if fraction == "1.00000000000000" or day < 0:  # written as a negative number the fraction counts backwards
        day, fraction = day, ".0"
        expected = datetime(1858, 11, 17, tzinfo=UTC) + timedelta(days=day)
    [alert] = parse_alert_list(f"mjd\n{day}{fraction}".encode())
    assert alert.time == expected


def test_modified_julian_dates_are_utc_on_days_with_a_leap_second_too() -> None:
    """Such a day is 86,401 s long, so its half is half a second past noon; the next one begins at midnight."""
    [half, after] = parse_alert_list(b"mjd\n57753.5\n57754.0")
    assert half.time == datetime(2016, 12, 31, 12, 0, 0, 500_000, tzinfo=UTC)
    assert after.time == datetime(2017, 1, 1, tzinfo=UTC)


@pytest.mark.parametrize(
    ("event", "seconds_before_noon"),
    [
        (voevent(), 0),
        (voevent(system=None), 0),
        (voevent("2019-11-02T12:00:00Z"), 0),
        (voevent("2019-11-02T14:00:00+02:00", system="UTC-ICRS-TOPO"), 0),
        (voevent(system="TT-ICRS-TOPO"), 69.184),
        (voevent(system="GPS-FK5-GEO"), 18),
        (voevent(system="TAI-ICRS-GEO"), 37),
        (voevent(instant="<TimeScale>TT</TimeScale>"), 69.184),
        (voevent(frame="<TimeFrame><TimeScale>tt</TimeScale></TimeFrame>"), 69.184),
        (voevent(system="TT-ICRS-TOPO", instant="<TimeScale>UTC</TimeScale>"), 0),
    ],
)
def test_the_time_scale_of_an_event_is_brought_to_utc(event: str, seconds_before_noon: float) -> None:
    [alert] = parse_alert_list(event.encode())
    assert alert.time == NOON - timedelta(seconds=seconds_before_noon)


# --- what is refused ------------------------------------------------------------------------------------------------

BAD_LISTS: Sequence[tuple[str | bytes, str, str, str]] = [
    ("", "line 1", "''", "one of the names time, t, trigger_time, isot and mjd"),
    ("# only a comment", "line 1", "''", "one of the names"),
    ("time\n", "body", "no alert", "at least one"),
    ("[]", "body", "no alert", "at least one"),
    ("\n# c\nwhen,ra,dec\n", "line 3", "when, ra, dec", "one of the names"),
    ("time,ra\n", "line 1", "time, ra", "or neither"),
    ("time,ra,dec,ra\n", "line 1", "ra, dec, ra", "one column ra"),
    ("time\n2020-01-01\nsoon\n", "line 3, time", "'soon'", "ISO 8601"),
    ("time,ra,dec\n,1,2\n", "line 2, time", "''", "ISO 8601"),
    ("time\n9999-01-01\n", "line 2, time", "'9999-01-01'", "years 2 to 9998"),
    ("time\n2016-12-31T23:59:60\n", "line 2, time", "23:59:60", "ISO 8601"),
    ("time,ra,dec\n2020-01-01,400,0\n", "line 2, ra", "400", "0 to 360"),
    ("time,ra_deg,dec_deg\n2020-01-01,nan,0\n", "line 2, ra_deg", "nan", "0 to 360"),
    ("time,ra,dec\n2020-01-01,0,-91\n", "line 2, dec", "-91", "-90 to 90"),
    ("time,ra,dec\n2020-01-01,05:34:31,22\n", "line 2, ra", "'05:34:31'", "a number of degrees"),
    ("time;ra;dec\n2020-01-01;83,6;22\n", "line 2, ra", "'83,6'", "a number of degrees"),
    ("time,ra,dec\n2020-01-01,,22\n", "line 2, ra", "nothing", "other coordinate is given, 22"),
    ("time,ra,dec\n2020-01-01,22,\n", "line 2, dec", "nothing", "other coordinate is given, 22"),
    ("time,ra,dec\n2020-01-01,1\n", "line 2", "2 values", "3, one for each name"),
    ("time,ra,dec\n2020-01-01,1,2,3\n", "line 2", "4 values", "3, one for each name"),
    ('time,name\n2020-01-01,"a\nb\n', "line 3", "unexpected end", "values with"),
    (b"time\n2020-01-01\n\xff\n", "line 3", "not UTF-8", "UTF-8"),
    ("mjd\nmany\n", "line 2, mjd", "'many'", "modified Julian date"),
    ("mjd\nnan\n", "line 2, mjd", "'nan'", "modified Julian date"),
    ("mjd\n1e999999999\n", "line 2, mjd", "'1e999999999'", "years 2 to 9998"),
    ("mjd\n2458789.5\n2973484\n", "line 3, mjd", "'2973484'", "years 2 to 9998"),
    ("mjd\n58789.5\n57753.9999999\n", "line 3, mjd", "'57753.9999999'", "leap second"),
    ("time\n" + "2020-01-01\n" * (MAX_LIST_ALERTS + 1), "line 10002", "one alert more", "at most 10000"),
    ("x" * (MAX_LIST_BYTES + 1), "body", "more than 1000000 bytes", "shorter"),
    ("{}", "body", "a JSON dict", "a list of alerts"),
    ("[", "body", "malformed JSON", "a list of alerts"),
    ("[" * 100_000, "body", "malformed JSON", "a list of alerts"),
    (b'["\xff"]', "body", "malformed JSON", "a list of alerts"),
    ("[1]", "[0]", "1", "an object with time"),
    ('[{"time": "2020-01-01"}, {"ra_deg": 1}]', "[1]", "ra_deg", "one of the names"),
    ('[{"time": 5}]', "[0].time", "'5'", "ISO 8601"),
    ('[{"time": null}]', "[0].time", "'None'", "ISO 8601"),
    ('[{"time": "2020-01-01", "ra_deg": true, "dec_deg": 1}]', "[0].ra_deg", "True", "a number of degrees"),
    ('[{"time": "2020-01-01", "ra_deg": [1], "dec_deg": 1}]', "[0].ra_deg", "[1]", "a number of degrees"),
    ('[{"time": "2020-01-01", "ra_deg": 1, "dec_deg": 91}]', "[0].dec_deg", "91", "-90 to 90"),
    ('[{"mjd": [1]}]', "[0].mjd", "[1]", "modified Julian date"),
    (f"[{','.join(['{}'] * (MAX_LIST_ALERTS + 1))}]", "body", "10001 alerts", "at most 10000"),
    ("<a", "body", "malformed XML", "VOEvents"),
    ("<a/>", "body", "a document <a>", "VOEvent"),
    ('<?xml version="1.0" encoding="nonsense"?><a/>', "body", "malformed XML", "VOEvents"),
    ("<a>" * 200_000, "body", "more than 100 levels", "VOEvents"),
    ('<!DOCTYPE a [<!ENTITY b "c">]><a>&b;</a>', "body", "declares a DTD or entities", "without them"),
    (voevent(None), "event 1 (ivo://example/stream#1), ISOTime", "nothing", "a time, in WhereWhen"),
    ("<VOEvent/>", "event 1, ISOTime", "nothing", "a time, in WhereWhen"),
    (f"<l>{voevent()}{voevent('soon', ivorn='x')}</l>", "event 2 (x), ISOTime", "'soon'", "ISO 8601"),
    (voevent(ra="400"), "event 1 (ivo://example/stream#1), C1", "400", "0 to 360"),
    (voevent(ra="east"), "event 1 (ivo://example/stream#1), C1", "'east'", "a number of degrees"),
    (voevent(dec=None), "event 1 (ivo://example/stream#1), C2", "nothing", "other coordinate is given"),
    (voevent(unit="rad"), "event 1 (ivo://example/stream#1), C1, unit", "'rad'", "deg"),
    (
        voevent(system="UTC-GAL-GEO"),
        "event 1 (ivo://example/stream#1), coord_system_id",
        "'UTC-GAL-GEO'",
        "ICRS or FK5",
    ),
    (voevent(system="TDB-ICRS-BARY"), "event 1 (ivo://example/stream#1), coord_system_id", "BARY'", "at the Earth"),
    (voevent(system="mine"), "event 1 (ivo://example/stream#1), coord_system_id", "'mine'", "UTC-ICRS-TOPO"),
    (voevent(system="UT1-ICRS-GEO"), "event 1 (ivo://example/stream#1), ISOTime", "a time in UT1", "UTC, TT, TAI"),
    (
        voevent("2019-11-02T12:00Z", system="TT-ICRS-GEO"),
        "event 1 (ivo://example/stream#1), ISOTime",
        "Z'",
        "no offset",
    ),
    (
        voevent("2017-01-01T00:00:36.5", system="TAI-ICRS-GEO"),
        "event 1 (ivo://example/stream#1), ISOTime",
        "36.5",
        "leap",
    ),
    (
        voevent(instant="<TimeOffset>5</TimeOffset>"),
        "event 1 (ivo://example/stream#1), TimeOffset",
        "'5'",
        "in ISOTime",
    ),
]


@pytest.mark.parametrize(("body", "field", "value", "expected"), BAD_LISTS, ids=range(len(BAD_LISTS)))
def test_a_bad_list_is_refused_by_row_field_value_and_expectation(
    body: str | bytes, field: str, value: str, expected: str
) -> None:
    with pytest.raises(BadInputError) as caught:
        parse_alert_list(body if isinstance(body, bytes) else body.encode())
    assert caught.value.field == field
    assert value in caught.value.value
    assert expected in caught.value.expected
    assert len(str(caught.value)) < 500


@settings(deadline=None)
@given(st.binary(max_size=60), st.sampled_from(["", "text/csv", "text/xml", "application/json"]))
def test_any_bytes_are_a_list_or_bad_input(body: bytes, media_type: str) -> None:
    with suppress(BadInputError):
        assert parse_alert_list(body, media_type)


cells = st.sampled_from(
    ["", "2020-01-01", "58789.5", "1", "nan", "-1e999", '"', "'", "#", ",", "\0", "\u2028", "é", "\r"]
)


@settings(deadline=None)
@given(st.lists(st.lists(cells, min_size=1, max_size=4), max_size=4), st.sampled_from(["time", "mjd", "mjd,ra,dec"]))
def test_any_table_is_a_list_or_bad_input(rows: list[list[str]], header: str) -> None:
    body = "\n".join([header, *(",".join(row) for row in rows)])
    with suppress(BadInputError):
        assert parse_alert_list(body.encode())


def test_a_list_may_be_as_long_as_the_limit() -> None:
    days = [f"{50_000 + at / 10}" for at in range(MAX_LIST_ALERTS)]
    assert len(parse_alert_list("\n".join(["mjd", *days]).encode())) == MAX_LIST_ALERTS


# --- the store ------------------------------------------------------------------------------------------------------


@pytest.fixture
def store(database: Database) -> AlertStore:
    return AlertStore(database)


@pytest.mark.anyio
async def test_a_list_is_given_back_whatever_its_values(store: AlertStore) -> None:
    kept: list[Any] = [
        CRAB,
        Alert(time=datetime(2, 1, 1, 0, 0, 0, 1, tzinfo=UTC)),
        Alert(time=NOON, ra_deg=1e-7, dec_deg=-5e-324),
        Alert(time=NOON, ra_deg=359.99999999999994, dec_deg=90.0),
    ]
    assert await store.get(await store.put(kept)) == order_alerts(kept)


@pytest.mark.anyio
async def test_equal_lists_have_one_id_and_other_lists_another(store: AlertStore) -> None:
    other = Alert(time=NOON)
    names = [await store.put(found) for found in ([CRAB, other], [other, CRAB, CRAB], [CRAB])]
    assert names[0] == names[1] != names[2]
    assert [len(name) for name in names] == [64, 64, 64]
    # The SHA-256 of the canonical JSON: a change of it would lose every list that questions name.
    canonical = b'[{"dec_deg":22.0,"ra_deg":83.6,"time":"2019-11-02T12:00:00.000000Z"}]'
    assert names[2] == hashlib.sha256(canonical).hexdigest()


@pytest.mark.anyio
async def test_a_list_that_is_not_there_is_not_found(store: AlertStore) -> None:
    for name in ("0" * 64, "", "nonsense", "A" * 64, "\0" * 64, "\ud800"):
        with pytest.raises(NotFoundError) as caught:
            await store.get(name)
        assert (caught.value.kind, caught.value.name) == ("alert list", name)
