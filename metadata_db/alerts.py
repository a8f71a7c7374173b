"""Lists of alerts: how an uploaded one is read, and where it is kept.

A list is a CSV table, VOEvents or JSON, whichever its makers have; what remains of it are times and directions. Its
id is made of these alone, so the same alerts have one id whatever they were written in, and sending them again
changes nothing.
"""

import codecs
import csv
import hashlib
import io
import math
import re
import threading
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal, InvalidOperation
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import msgspec
from sqlalchemy import select
from sqlalchemy.dialects.postgresql import insert

from metadata_db.canonical import canonical_json
from metadata_db.database import Database
from metadata_db.errors import BadInputError, NotFoundError, shorten
from metadata_db.query import Alert, make_alert, order_alerts, parse_alert_time
from metadata_db.tables import alert_list

if TYPE_CHECKING:
    from xml.etree.ElementTree import Element

MAX_LIST_BYTES = 1_000_000
"""Longest list that is read, in bytes: it is held whole."""

MAX_LIST_ALERTS = 10_000
"""Most alerts of a list."""

MAX_XML_DEPTH = 100
"""Deepest nesting of elements; a VOEvent has a dozen levels."""

TIME_COLUMNS = ("time", "t", "trigger_time", "isot")
"""Columns of ISO 8601 times in UTC; the first of them that there is counts, and `MJD_COLUMN` only without any."""

MJD_COLUMN = "mjd"
"""Column of modified Julian dates in UTC."""

RA_COLUMNS = ("ra_deg", "ra")
DEC_COLUMNS = ("dec_deg", "dec")
"""Columns of ICRS degrees; the first of each that there is counts."""

ListFormat: TypeAlias = Literal["csv", "xml", "json"]


def alert_list_id(alerts: Iterable[Alert]) -> str:
    """Return the id of a list: the SHA-256 of its canonical JSON, whatever its order and repetitions."""
    content = [alert.as_mapping() for alert in order_alerts(alerts)]
    return hashlib.sha256(canonical_json(content).encode()).hexdigest()


class AlertStore:
    """Keeps lists of alerts for ever, because questions refer to them."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def put(self, alerts: Iterable[Alert]) -> str:
        """Keep a list, unless it is there, and return its id."""
        ordered = order_alerts(alerts)
        name = alert_list_id(ordered)
        content = [alert.as_mapping() for alert in ordered]
        async with self._database.transaction() as connection:
            await connection.execute(insert(alert_list).values(id=name, alerts=content).on_conflict_do_nothing())
        return name

    async def get(self, name: str) -> tuple[Alert, ...]:
        """Return a list by its id, in order and without repeats.

        Raises
        ------
        NotFoundError
            There is none of this id.
        """
        found = None
        if re.fullmatch("[0-9a-f]{64}", name):  # not all texts can be asked for
            statement = select(alert_list.c.alerts).where(alert_list.c.id == name)
            async with self._database.snapshot() as connection:
                found = (await connection.execute(statement)).scalar()
        if found is None:
            raise NotFoundError("alert list", name)
        return tuple(map(Alert.from_mapping, found))


def parse_alert_list(body: bytes, media_type: str = "") -> tuple[Alert, ...]:
    """Return the alerts of an uploaded list, in order and without repeats.

    Parameters
    ----------
    media_type
        ``Content-Type`` of the upload; where it names none of the formats, the first byte tells.

    Raises
    ------
    BadInputError
        The list cannot be read: names the row, the field, the value and what was expected.
    """
    if len(body) > MAX_LIST_BYTES:
        raise BadInputError("body", f"more than {MAX_LIST_BYTES} bytes", "a shorter list")
    readers = {"csv": _read_csv, "xml": _read_voevents, "json": _read_json}
    found = readers[_find_format(body, media_type)](body)
    if not found:
        raise BadInputError("body", "no alert", "at least one")
    return order_alerts(found)


def _find_format(body: bytes, media_type: str) -> ListFormat:
    kind = media_type.partition(";")[0].strip().lower()
    if kind.endswith(("/xml", "+xml")):
        return "xml"
    if kind.endswith(("/json", "+json")):
        return "json"
    if kind.endswith(("/csv", "/tab-separated-values")):
        return "csv"
    first = body.removeprefix(codecs.BOM_UTF8).lstrip()[:1]
    return "xml" if first == b"<" else "json" if first in (b"[", b"{") else "csv"


# --- rows of tables and of JSON -------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Cell:
    """One value of a list, and how its place is told."""

    field: str
    value: Any


_Row: TypeAlias = Mapping[str, _Cell]
"""``time`` or ``mjd``, and perhaps ``ra`` and ``dec`` → its cell."""


def _find_columns(field: str, names: Sequence[str]) -> dict[str, str]:
    """Return which of the names means what."""

    def first(wanted: Sequence[str]) -> str | None:
        return next((name for name in wanted if name in names), None)

    time, mjd = first(TIME_COLUMNS), first([MJD_COLUMN])
    ra, dec = first(RA_COLUMNS), first(DEC_COLUMNS)
    shown = ", ".join(names)
    if time is None and mjd is None:
        raise BadInputError(field, shown, f"one of the names {', '.join(TIME_COLUMNS)} and {MJD_COLUMN}")
    if (ra is None) != (dec is None):
        raise BadInputError(field, shown, "ra_deg and dec_deg, or ra and dec, or neither")
    found = {"time": time, "mjd": mjd if time is None else None, "ra": ra, "dec": dec}
    return {kind: name for kind, name in found.items() if name is not None}


def _to_alerts(rows: Sequence[_Row]) -> list[Alert]:
    moments = iter(_mjds_to_utc([row["mjd"] for row in rows if "mjd" in row]))
    return [_to_alert(row, next(moments) if "mjd" in row else _to_time(row["time"])) for row in rows]


def _to_alert(row: _Row, time: datetime) -> Alert:
    if "ra" not in row:
        return Alert(time=time)
    ra, dec = row["ra"], row["dec"]
    return make_alert(ra.field, dec.field, time=time, ra_deg=_to_number(ra), dec_deg=_to_number(dec))


def _to_time(cell: _Cell) -> datetime:
    # What is no text is shown as it is, and is no time.
    return parse_alert_time(cell.field, cell.value if isinstance(cell.value, str) else str(cell.value))


def _to_number(cell: _Cell) -> float | None:
    """Return a number of degrees, None for nothing."""
    if cell.value is None or cell.value == "":
        return None
    try:
        if isinstance(cell.value, bool):
            raise TypeError(cell.value)
        return float(cell.value)
    except (TypeError, ValueError, OverflowError) as error:
        raise BadInputError(cell.field, cell.value, "a number of degrees") from error


def _read_csv(body: bytes) -> list[Alert]:
    lines = _iter_lines(body)
    header_line, header = next(lines, (1, []))
    names = [name.lower() for name in header]
    columns = _find_columns(f"line {header_line}", names)
    if doubled := [name for name in columns.values() if names.count(name) > 1]:
        raise BadInputError(f"line {header_line}", ", ".join(names), f"one column {doubled[0]}")
    rows: list[_Row] = []
    for line, cells in lines:
        if len(cells) != len(names):
            raise BadInputError(
                f"line {line}", f"{len(cells)} values", f"{len(names)}, one for each name of the header"
            )
        if len(rows) == MAX_LIST_ALERTS:
            raise BadInputError(f"line {line}", "one alert more", f"at most {MAX_LIST_ALERTS}")
        values = dict(zip(names, cells, strict=True))
        rows.append({kind: _Cell(f"line {line}, {name}", values[name]) for kind, name in columns.items()})
    return _to_alerts(rows)


def _iter_lines(body: bytes) -> Iterator[tuple[int, list[str]]]:
    """Yield the rows of a table that hold anything, each with the number of its line."""
    try:
        text = body.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = body.count(b"\n", 0, error.start) + 1
        raise BadInputError(f"line {line}", "bytes that are not UTF-8", "a table as UTF-8 text") from error
    # An empty line for a comment keeps the numbers of the lines, and a quote in a comment opens no value.
    lines = ["\n" if line.lstrip().startswith("#") else line for line in io.StringIO(text, newline=None)]
    header = next((line for line in lines if line.strip()), "")
    reader = csv.reader(lines, delimiter=max(",;\t", key=header.count), strict=True, skipinitialspace=True)
    try:
        for cells in reader:
            if any(cell.strip() for cell in cells):
                yield reader.line_num, [cell.strip() for cell in cells]
    except csv.Error as error:
        raise BadInputError(f"line {reader.line_num}", str(error), "values with , ; or tab between them") from error


def _read_json(body: bytes) -> list[Alert]:
    try:
        content = msgspec.json.decode(body.removeprefix(codecs.BOM_UTF8))
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise BadInputError("body", f"malformed JSON ({error})", "a list of alerts") from error
    if not isinstance(content, list):
        raise BadInputError("body", f"a JSON {type(content).__name__}", "a list of alerts")
    if len(content) > MAX_LIST_ALERTS:
        raise BadInputError("body", f"{len(content)} alerts", f"at most {MAX_LIST_ALERTS}")
    rows: list[_Row] = []
    for at, item in enumerate(content):
        if not isinstance(item, dict):
            raise BadInputError(f"[{at}]", item, "an object with time, and perhaps ra_deg and dec_deg")
        columns = _find_columns(f"[{at}]", list(item))
        rows.append({kind: _Cell(f"[{at}].{name}", item[name]) for kind, name in columns.items()})
    return _to_alerts(rows)


# --- VOEvents -------------------------------------------------------------------------------------------------------


def _read_voevents(body: bytes) -> list[Alert]:
    root = _load_xml(body)
    events = [element for element in root.iter() if _name(element) == "VOEvent"]
    if not events:
        raise BadInputError("body", f"a document <{_name(root)}>", "one VOEvent, or several under any root")
    if len(events) > MAX_LIST_ALERTS:
        raise BadInputError("body", f"{len(events)} alerts", f"at most {MAX_LIST_ALERTS}")
    return [_read_voevent(_name_event(at, event), event) for at, event in enumerate(events, 1)]


def _load_xml(body: bytes) -> "Element":
    """Return the root of a document without declarations of its own: no DTD, no entity, nothing from elsewhere."""
    from xml.etree.ElementTree import ParseError

    from defusedxml import DefusedXmlException
    from defusedxml.ElementTree import iterparse

    depth = 0
    root: Element | None = None
    try:
        for event, element in iterparse(io.BytesIO(body), events=("start", "end"), forbid_dtd=True):
            root = element if root is None else root
            depth += 1 if event == "start" else -1
            if depth > MAX_XML_DEPTH:
                raise BadInputError("body", f"XML of more than {MAX_XML_DEPTH} levels", "VOEvents")
    except DefusedXmlException as error:
        raise BadInputError("body", "XML that declares a DTD or entities", "VOEvents without them") from error
    except (ParseError, ValueError, LookupError) as error:
        raise BadInputError("body", f"malformed XML ({error})", "VOEvents") from error
    if root is None:
        raise BadInputError("body", "XML without any element", "VOEvents")
    return root


def _name_event(number: int, event: "Element") -> str:
    identifier = event.get("ivorn")
    return f"event {number}" if identifier is None else f"event {number} ({shorten(identifier)[1:-1]})"


def _read_voevent(where: str, event: "Element") -> Alert:
    """Return the alert of the place that the standard names (VOEvent 2.1, section 3.4.3).

    FK5 is taken for ICRS, which is 0.01 arc seconds away, and the centre of the Earth for any place on it, which is
    at most 25 ms away.
    """
    location = _find(event, "WhereWhen", "ObsDataLocation", "ObservationLocation")
    coords = _find(location, "AstroCoords")
    frame = _find(location, "AstroCoordSystem")
    instant = _find(coords, "Time", "TimeInstant")
    text = _text(_find(instant, "ISOTime"))
    if text is None:
        raise BadInputError(f"{where}, ISOTime", "nothing", "a time, in WhereWhen")
    if (offset := _text(_find(instant, "TimeOffset"))) is not None:
        raise BadInputError(f"{where}, TimeOffset", offset, "the whole time in ISOTime")
    given = (None if coords is None else coords.get("coord_system_id")) or (None if frame is None else frame.get("id"))
    scale, space = _parse_system(f"{where}, coord_system_id", given or "UTC-ICRS-TOPO")
    stated = _text(_find(instant, "TimeScale")) or _text(_find(frame, "TimeFrame", "TimeScale"))
    time = _scale_to_utc(f"{where}, ISOTime", text, scale if stated is None else stated.upper())
    position = _find(coords, "Position2D")
    if position is None:
        return Alert(time=time)
    if space not in ("ICRS", "FK5"):
        raise BadInputError(f"{where}, coord_system_id", given, "positions in ICRS or FK5")
    ra, dec = (_to_degrees(f"{where}, {name}", position, name) for name in ("C1", "C2"))
    return make_alert(f"{where}, C1", f"{where}, C2", time=time, ra_deg=ra, dec_deg=dec)


def _parse_system(field: str, text: str) -> tuple[str, str]:
    """Return time scale and frame of a coordinate system such as ``UTC-FK5-GEO``."""
    parts = text.strip().upper().split("-")
    if len(parts) != 3 or parts[2] not in ("TOPO", "GEO"):
        # Times at the Sun or at the barycentre are up to 8 minutes away from when the Earth saw the event.
        raise BadInputError(field, text, "a time scale, a frame, and GEO or TOPO for times at the Earth: UTC-ICRS-TOPO")
    return parts[0], parts[1]


def _to_degrees(field: str, position: "Element", name: str) -> float | None:
    element = _find(position, "Value2", name)
    unit = position.get("unit", "deg") if element is None else element.get("pos_unit", position.get("unit", "deg"))
    if unit.replace("-", " ").split() not in (["deg"], ["deg", "deg"]):
        raise BadInputError(f"{field}, unit", unit, "deg")
    return _to_number(_Cell(field, _text(element)))


def _find(element: "Element | None", *path: str) -> "Element | None":
    """Return the first element at a path, whatever the name spaces: few name them as the standard does."""
    for name in path:
        children = () if element is None else element
        element = next((child for child in children if _name(child) == name), None)
    return element


def _name(element: "Element") -> str:
    return str(element.tag).rpartition("}")[2]


def _text(element: "Element | None") -> str | None:
    return None if element is None else (element.text or "").strip() or None


# --- time scales ----------------------------------------------------------------------------------------------------

MJD_EPOCH = datetime(1858, 11, 17, tzinfo=UTC)
"""Modified Julian date 0."""

GPS_BEHIND_TAI_S = 19
"""GPS time equals TAI minus this many seconds, by its definition (IS-GPS-200)."""

_FIRST_MJD, _END_MJD = ((datetime(year, 1, 1, tzinfo=UTC) - MJD_EPOCH).days for year in (2, 9999))


def _mjds_to_utc(cells: Sequence[_Cell]) -> list[datetime]:
    """Return the times of modified Julian dates in UTC, to the microsecond."""
    days = [_split_mjd(cell) for cell in cells]
    if not days:
        return []
    try:
        return _ask_astropy(*zip(*days, strict=True))
    except ValueError:
        return [_mjd_to_utc(cell, *day) for cell, day in zip(cells, days, strict=True)]


def _split_mjd(cell: _Cell) -> tuple[int, float]:
    """Return day and part of the day, which together are exact."""
    try:
        date = Decimal(str(cell.value))
        if not (date.is_finite() and _FIRST_MJD <= date < _END_MJD):
            raise ValueError(cell.value)
    except (InvalidOperation, ValueError) as error:
        raise BadInputError(cell.field, cell.value, "a modified Julian date in the years 2 to 9998") from error
    whole = math.floor(date)
    return whole, float(date - whole)


def _mjd_to_utc(cell: _Cell, whole: int, part: float) -> datetime:
    try:
        return _ask_astropy([whole], [part])[0]
    except ValueError as error:
        raise BadInputError(cell.field, cell.value, "a time that is not within a leap second") from error


def _ask_astropy(whole: Sequence[int], part: Sequence[float]) -> list[datetime]:
    from astropy.time import Time

    with _quiet_astropy():
        times = Time([float(day) for day in whole], list(part), format="mjd", scale="utc").to_datetime()
    return [time.replace(tzinfo=UTC) for time in times]


def _scale_to_utc(field: str, text: str, scale: str) -> datetime:
    """Return the moment of an ISO 8601 text that is read off a clock of a time scale."""
    shown = parse_alert_time(field, text)
    if scale == "UTC":
        return shown
    if scale not in ("TT", "TAI", "TDB", "GPS"):
        raise BadInputError(field, f"a time in {scale}", "one in UTC, TT, TAI, TDB or GPS")
    if datetime.fromisoformat(text).tzinfo is not None:
        raise BadInputError(field, text, f"no offset from UTC, as the time is in {scale}")
    from astropy.time import Time, TimeDelta

    with _quiet_astropy():
        time = Time(shown.replace(tzinfo=None), scale="tai" if scale == "GPS" else scale.lower())
        if scale == "GPS":
            time += TimeDelta(GPS_BEHIND_TAI_S, format="sec")
        try:
            moment: datetime = time.utc.to_datetime().replace(tzinfo=UTC)
        except ValueError as error:
            raise BadInputError(field, text, "a time that is not within a leap second") from error
    return moment


_ASTROPY = threading.Lock()
"""Held while astropy is silenced, because that is done for the whole process."""


@contextmanager
def _quiet_astropy() -> Iterator[None]:
    """Silence astropy on dates far from today, and keep it from fetching a newer table of leap seconds."""
    from astropy.utils.iers import conf

    conf.iers_leap_second_auto_url = ""
    conf.ietf_leap_second_auto_url = ""
    with _ASTROPY, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
