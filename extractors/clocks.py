"""The clocks of a Description: by which of the many ways of counting time a file means its numbers.

A clock is one class here and one entry in `Clock`; its ``kind`` is the word a Description uses. Numbers arrive in two
parts, which together are exact, where a file keeps them so (seconds and nanoseconds, a Julian date split in two).
"""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Annotated, ClassVar, Literal, TypeAlias

from msgspec import Meta, Struct

from extractors import conversions
from extractors.errors import ConversionError
from extractors.readers.reader import Plain, RawValue
from extractors.timescales import TimeScale


class FromContent(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A setting that each file states itself, at an address."""

    content: str


class FromFile(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A setting that each file states in its content, or its path as a named group of the product's pattern."""

    content: str | None = None
    name: str | None = None

    def __post_init__(self) -> None:
        if (self.content is None) == (self.name is None):
            raise ValueError("found none or both of content and name, expected one of them")


Setting: TypeAlias = float | FromContent
ScaleSetting: TypeAlias = TimeScale | FromContent
Zone: TypeAlias = Annotated[
    str,
    Meta(pattern=r"^([+-]\d\d:\d\d|[A-Za-z]+(/[A-Za-z_+-]+)*)\Z", description="an offset such as +08:00, or a zone"),
]


class _ClockBase(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="kind"):
    """What all clocks share."""

    unit: ClassVar[Literal["s", "d"]] = "s"
    """The unit in which the clock counts, unless a rule says another."""

    def addresses(self) -> tuple[str, ...]:
        """Return where the clock's own settings are in a file."""
        settings = (getattr(self, name) for name in self.__struct_fields__)
        found = (setting.content for setting in settings if isinstance(setting, FromContent | FromFile))
        return tuple(address for address in found if address is not None)

    def groups(self) -> tuple[str, ...]:
        """Return which named groups of the path the clock needs."""
        settings = (getattr(self, name) for name in self.__struct_fields__)
        return tuple(setting.name for setting in settings if isinstance(setting, FromFile) and setting.name)


class ElapsedClock(_ClockBase, frozen=True, kw_only=True, tag="elapsed"):
    """Seconds since a reference: TSTART with MJDREFI, MJDREFF and TIMESYS (FITS standard 4.0, section 9.2)."""

    reference_mjd: Setting
    reference_fraction: Setting = 0.0
    scale: ScaleSetting
    leap_seconds: bool = True
    """Whether leap seconds since the reference were counted, should the scale be UTC."""

    def to_utc(self, first: float, second: float, stated: "Stated") -> tuple[datetime, str]:
        """Return the time, and how it was understood."""
        reference = stated.number(self.reference_mjd)
        # Keyword MJDREFF may be missing beside MJDREFI, and is zero then (FITS standard 4.0, section 9.2.2).
        fraction = stated.number(self.reference_fraction, default=0.0)
        scale = stated.scale(self.scale)
        time = conversions.elapsed_to_utc(
            first,
            second,
            reference_mjd=reference,
            reference_fraction_d=fraction,
            scale=scale,
            leap_seconds=self.leap_seconds,
        )
        ignored = ", leap seconds ignored" if scale == "UTC" and not self.leap_seconds else ""
        return time, f"+ MJDREF {reference + fraction:.12g}, TIMESYS={scale}{ignored}"


class GpsClock(_ClockBase, frozen=True, kw_only=True, tag="gps"):
    """GPS seconds since 1980-01-06."""

    def to_utc(self, first: float, second: float, stated: "Stated") -> tuple[datetime, str]:
        """Return the time, and how it was understood."""
        return conversions.gps_to_utc(first, second), "GPS seconds"


class GpsAsUnixClock(_ClockBase, frozen=True, kw_only=True, tag="gps-as-unix"):
    """The date of a GPS clock, written down as if it were UTC: a "Unix time" that is ahead by the leap seconds."""

    def to_utc(self, first: float, second: float, stated: "Stated") -> tuple[datetime, str]:
        """Return the time, and how it was understood."""
        return conversions.gps_as_unix_to_utc(first, second), "GPS date labelled as Unix time"


class UnixClock(_ClockBase, frozen=True, kw_only=True, tag="unix"):
    """Unix time; the rule's unit may be ``ms``."""

    def to_utc(self, first: float, second: float, stated: "Stated") -> tuple[datetime, str]:
        """Return the time, and how it was understood."""
        return conversions.unix_to_utc(first, second), "Unix time"


class MjdClock(_ClockBase, frozen=True, kw_only=True, tag="mjd"):
    """Modified Julian date."""

    unit = "d"
    scale: ScaleSetting

    def to_utc(self, first: float, second: float, stated: "Stated") -> tuple[datetime, str]:
        """Return the time, and how it was understood."""
        scale = stated.scale(self.scale)
        return conversions.mjd_to_utc(first, second, scale=scale), f"MJD, {scale}"


class JdClock(_ClockBase, frozen=True, kw_only=True, tag="jd"):
    """Julian date, often in two parts."""

    unit = "d"
    scale: ScaleSetting

    def to_utc(self, first: float, second: float, stated: "Stated") -> tuple[datetime, str]:
        """Return the time, and how it was understood."""
        scale = stated.scale(self.scale)
        return conversions.jd_to_utc(first, second, scale=scale), f"JD, {scale}"


class DayClock(_ClockBase, frozen=True, kw_only=True, tag="day"):
    """Time of day, for files that keep no date: it comes from elsewhere, mostly from the path."""

    date: FromFile
    date_format: str = "%Y%m%d"
    """As `datetime.strptime` has it."""
    zone: Zone = "UTC"
    day_begins: Annotated[str, Meta(pattern=r"^([01]\d|2[0-3]):[0-5]\d\Z")] = "00:00"
    """When the date begins to count: earlier times of a night that is named after its evening are of the next day."""

    def to_utc(self, first: float, second: float, stated: "Stated") -> tuple[datetime, str]:
        """Return the time, and how it was understood."""
        date = stated.text(self.date)
        time = conversions.day_time_to_utc(
            first + second, date=date, date_format=self.date_format, zone=self.zone, day_begins=self.day_begins
        )
        return time, f"time of day, {self.zone}, on {date} from {self.day_begins}"


class TextClock(_ClockBase, frozen=True, kw_only=True, tag="text"):
    """Date and time as text, such as ``2013-11-04T01:59:14``."""

    scale: ScaleSetting = "UTC"
    format: str | None = None
    """As `datetime.strptime` has it; ISO 8601 unless given."""
    zone: Zone = "UTC"
    """Where the clock on the wall hung, for local times that do not say it themselves; only with the scale UTC."""

    def to_utc(self, value: str, stated: "Stated") -> tuple[datetime, str]:
        """Return the time, and how it was understood."""
        scale = stated.scale(self.scale)
        time = conversions.text_to_utc(value, scale=scale, text_format=self.format, zone=self.zone)
        return time, f"date text, {scale if self.zone == 'UTC' else self.zone}"


Clock: TypeAlias = ElapsedClock | GpsClock | GpsAsUnixClock | UnixClock | MjdClock | JdClock | DayClock | TextClock


class Stated:
    """What one file states about its own clock."""

    def __init__(self, content: Mapping[str, RawValue], groups: Mapping[str, str]) -> None:
        self._content = content
        self._groups = groups

    def number(self, setting: Setting, *, default: float | None = None) -> float:
        """Return a number that the Description or the file sets."""
        if not isinstance(setting, FromContent):
            return setting
        raw = self._content.get(setting.content)
        if raw is None and default is not None:
            return default
        if raw is None:
            raise ConversionError(None, f"a number at {setting.content}")
        return conversions.finite_number(raw.value)

    def scale(self, setting: ScaleSetting) -> TimeScale:
        """Return a time scale that the Description or the file names."""
        if not isinstance(setting, FromContent):
            return setting
        raw = self._content.get(setting.content)
        if raw is None or not isinstance(raw.value, str):
            raise ConversionError(None if raw is None else raw.value, f"the name of a time scale at {setting.content}")
        return conversions.time_scale(raw.value)

    def text(self, setting: FromFile) -> str:
        """Return a word of the file or of its path."""
        if setting.name is not None:
            word = self._groups.get(setting.name)
        else:
            raw = self._content.get(setting.content or "")
            word = None if raw is None else str(raw.value)
        if not word:
            raise ConversionError(None, f"a date at {setting.name or setting.content}")
        return word.strip()


def read_clock(
    clock: Clock, value: Plain | tuple[Plain, ...], units: Sequence[str | None], stated: Stated
) -> tuple[datetime, str]:
    """Return the UTC time that `value` means by `clock`, and how it was understood.

    Parameters
    ----------
    value
        A number, text, or two numbers whose sum is meant, each in its unit.
    units
        One for each part; None is the clock's own.

    Raises
    ------
    ConversionError
        The value is no time, or the file does not state what the clock needs.
    """
    if isinstance(clock, TextClock):
        if not isinstance(value, str) or not value.strip():
            raise ConversionError(value, "a date and time as text")
        return clock.to_utc(value, stated)
    parts = value if isinstance(value, tuple) else (value,)
    if len(parts) > 2:
        raise ConversionError(value, "a number, or two whose sum is the time")
    numbers = [0.0, 0.0]
    for index, part in enumerate(parts):
        unit = units[index] if index < len(units) else None
        factor = conversions.unit_factor(unit or clock.unit, clock.unit)
        numbers[index] = conversions.finite_number(part) * factor
    return clock.to_utc(numbers[0], numbers[1], stated)


def check_window(time: datetime, begin: datetime | None, end: datetime | None) -> datetime:
    """Return `time` when it lies in the window in which a facility can have measured.

    Raises
    ------
    ConversionError
        It does not: a clock that was never set, or a number that is no time.
    """
    if (begin is not None and time < begin) or (end is not None and time >= end):
        first, last = (moment.astimezone(UTC).strftime("%Y-%m-%d") if moment else "…" for moment in (begin, end))
        raise ConversionError(time.isoformat(), f"a time within the facility's validity, {first} to {last}")
    return time
