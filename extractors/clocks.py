"""The clocks of a Description: by which of the many ways of counting time a file means its numbers.

A clock is one class here and one entry in `Clock`; its ``kind`` is the word a Description uses.
"""

from collections.abc import Mapping
from datetime import datetime
from typing import Literal, TypeAlias

from msgspec import Struct

from extractors import conversions
from extractors.conversions import TimeScale
from extractors.errors import ConversionError
from extractors.readers.reader import RawValue


class FromContent(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A setting that each file states itself, at an address."""

    content: str


Setting: TypeAlias = float | FromContent
ScaleSetting: TypeAlias = TimeScale | FromContent


class _ClockBase(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="kind"):
    """What all clocks share."""

    def addresses(self) -> tuple[str, ...]:
        """Return where the clock's own settings are in a file."""
        settings = (getattr(self, name) for name in self.__struct_fields__)
        return tuple(setting.content for setting in settings if isinstance(setting, FromContent))


class ElapsedClock(_ClockBase, frozen=True, kw_only=True, tag="elapsed"):
    """Seconds since a reference: TSTART with MJDREFI, MJDREFF and TIMESYS (FITS standard 4.0, section 9.2)."""

    reference_mjd: Setting
    reference_fraction: Setting = 0.0
    scale: ScaleSetting
    leap_seconds: bool = True
    """Whether leap seconds since the reference were counted, should the scale be UTC."""

    def to_utc(self, value: float, content: Mapping[str, RawValue]) -> tuple[datetime, str]:
        """Return the time, and how it was understood."""
        reference = _setting(self.reference_mjd, content)
        # Keyword MJDREFF may be missing beside MJDREFI, and is zero then (FITS standard 4.0, section 9.2.2).
        fraction = _setting(self.reference_fraction, content, default=0.0)
        scale = _scale(self.scale, content)
        time = conversions.elapsed_to_utc(
            value,
            reference_mjd=reference,
            reference_fraction_d=fraction,
            scale=scale,
            leap_seconds=self.leap_seconds,
        )
        ignored = ", leap seconds ignored" if scale == "UTC" and not self.leap_seconds else ""
        return time, f"+ MJDREF {reference + fraction:.12g}, TIMESYS={scale}{ignored}"


class GpsClock(_ClockBase, frozen=True, kw_only=True, tag="gps"):
    """GPS seconds since 1980-01-06."""

    def to_utc(self, value: float, content: Mapping[str, RawValue]) -> tuple[datetime, str]:
        """Return the time, and how it was understood."""
        return conversions.gps_to_utc(value), "GPS seconds"


class UnixClock(_ClockBase, frozen=True, kw_only=True, tag="unix"):
    """Unix time; the rule's unit may be ``ms``."""

    def to_utc(self, value: float, content: Mapping[str, RawValue]) -> tuple[datetime, str]:
        """Return the time, and how it was understood."""
        return conversions.unix_to_utc(value), "Unix time"


class MjdClock(_ClockBase, frozen=True, kw_only=True, tag="mjd"):
    """Modified Julian date."""

    scale: ScaleSetting

    def to_utc(self, value: float, content: Mapping[str, RawValue]) -> tuple[datetime, str]:
        """Return the time, and how it was understood."""
        scale = _scale(self.scale, content)
        return conversions.mjd_to_utc(value / 86400.0, scale=scale), f"MJD, {scale}"


class TextClock(_ClockBase, frozen=True, kw_only=True, tag="text"):
    """Date and time as text, such as ``2013-11-04T01:59:14``."""

    scale: ScaleSetting

    def to_utc(self, value: str, content: Mapping[str, RawValue]) -> tuple[datetime, str]:
        """Return the time, and how it was understood."""
        scale = _scale(self.scale, content)
        return conversions.text_to_utc(value, scale=scale), f"date text, {scale}"


Clock: TypeAlias = ElapsedClock | GpsClock | UnixClock | MjdClock | TextClock


def read_clock(clock: Clock, value: object, unit: str | None, content: Mapping[str, RawValue]) -> tuple[datetime, str]:
    """Return the UTC time that `value` means by `clock`, and how it was understood.

    Raises
    ------
    ConversionError
        The value is no time, or the file does not state what the clock needs.
    """
    if isinstance(clock, TextClock):
        if not isinstance(value, str) or not value.strip():
            raise ConversionError(value, "a date and time as text")
        return clock.to_utc(value, content)
    number = conversions.finite_number(value)
    default: Literal["d", "s"] = "d" if isinstance(clock, MjdClock) else "s"
    return clock.to_utc(number * conversions.unit_factor(unit or default, "s"), content)


def _setting(setting: Setting, content: Mapping[str, RawValue], *, default: float | None = None) -> float:
    if not isinstance(setting, FromContent):
        return setting
    raw = content.get(setting.content)
    if raw is None and default is not None:
        return default
    if raw is None:
        raise ConversionError(None, f"a number at {setting.content}")
    return conversions.finite_number(raw.value)


def _scale(setting: ScaleSetting, content: Mapping[str, RawValue]) -> TimeScale:
    if not isinstance(setting, FromContent):
        return setting
    raw = content.get(setting.content)
    if raw is None or not isinstance(raw.value, str):
        raise ConversionError(None if raw is None else raw.value, f"the name of a time scale at {setting.content}")
    return conversions.time_scale(raw.value)
