"""Conditions for files that coincide with other files, or with alerts.

What a file may coincide with is first of all a set of intervals: each of the others, made wider by the time that is
allowed. Without a direction that is all, and one range operator decides for a file. With one, and where a file might
coincide with itself alone, the others are looked at one by one, but only for files that pass the intervals.
"""

import re
from collections.abc import Sequence
from datetime import timedelta
from typing import Any

from metadata_db.query import Alert, Coincidence, Interval

MICROSECOND = timedelta(microseconds=1)
"""How long a moment lasts."""

DAY = timedelta(days=1)

_IS_LONG = "{t}.time_over - {t}.time_begin > interval '1 day'"

_HAS_TIME = "{t}.time_begin is not null"

_SPAN = "tstzrange({t}.time_begin, {t}.time_over)"
"""Of a file that has a time: to a range, absent ends are open."""


def separated(one: str, ra: str, dec: str, within: str) -> str:
    """Return the condition that a file is at most so many degrees from a direction.

    The haversine is exact for small angles, where the cosine of the distance is not. Opposite the centre rounding
    takes it above 1, where no circle would hold it; a file without a position has none.
    """
    return (
        f"{one}.dec_deg is not null and least(power(sind(({one}.dec_deg - {dec}) / 2), 2) + cosd({one}.dec_deg)"
        f" * cosd({dec}) * power(sind(({one}.ra_deg - {ra}) / 2), 2), 1.0) <= power(sind({within} / 2), 2)"
    )


class NearAlerts:
    """Files near one of some alerts.

    Attributes
    ----------
    condition
        On a file, whose alias is ``{t}``.
    source
        Intervals and directions as rows of (begins, overs, ra, dec), for a way to the files by an index.
    """

    def __init__(self, wanted: Coincidence, alerts: Sequence[Alert]) -> None:
        margin = timedelta(seconds=wanted.within_s)
        spans = [(alert.time - margin, alert.time + MICROSECOND + margin) for alert in alerts]
        if wanted.within_deg is None:
            joined = _join(spans)
            self.values: dict[str, Any] = {
                "alert_begins": [begin for begin, _ in joined],
                "alert_overs": [over for _, over in joined],
                "alert_spans": _multirange(joined),
            }
            self.source = "unnest(%(alert_begins)s::timestamptz[], %(alert_overs)s::timestamptz[])"
            self.columns = "(begins, overs)"
            self.angle = ""
            self.condition = f"{_HAS_TIME} and {_SPAN} && %(alert_spans)s::tstzmultirange"
            return
        self.values = {
            "alert_begins": [begin for begin, _ in spans],
            "alert_overs": [over for _, over in spans],
            "alert_ra": [alert.ra_deg for alert in alerts],
            "alert_dec": [alert.dec_deg for alert in alerts],
            "alert_spans": _multirange(_join(spans)),
            "alert_within": wanted.within_deg,
        }
        self.source = (
            "unnest(%(alert_begins)s::timestamptz[], %(alert_overs)s::timestamptz[], %(alert_ra)s::float8[],"
            " %(alert_dec)s::float8[])"
        )
        self.columns = "(begins, overs, ra, dec)"
        self.angle = separated("{t}", "alert.ra", "alert.dec", "%(alert_within)s")
        self.condition = (
            f"{_HAS_TIME} and {_SPAN} && %(alert_spans)s::tstzmultirange"
            f" and exists (select from {self.source} as alert {self.columns}"
            f" where {{t}}.time_begin < alert.overs and {{t}}.time_over > alert.begins and {self.angle})"
        )

    @property
    def way(self) -> str:
        """Condition of a way to the files: by their numbers, found by an index for each alert."""
        begun = "found.time_begin < alert.overs and found.time_over > alert.begins"
        angle = f" and {self.angle.format(t='found')}" if self.angle else ""
        return f"""
            f.id = any(array(
                select found.id from {self.source} as alert {self.columns} cross join lateral (
                    (select found.id from file as found where found.facility_id = any(%(facilities)s) and {begun}
                        and found.time_begin > alert.begins - %(lookback)s{angle} offset 0)
                    union all
                    (select found.id from file as found where found.time_over - found.time_begin > interval '1 day'
                        and tstzrange(found.time_begin, found.time_over) @> alert.begins
                        and found.time_begin <= alert.begins - %(lookback)s{angle} offset 0)
                ) as found
            ))
        """


class NearFiles:
    """Files near one of some other files.

    Parameters
    ----------
    others
        FROM clause and conditions of the others, whose alias is ``o``.
    interval
        Interval that the files themselves are asked for.
    is_apart
        Whether the others are surely not among the files themselves.
    """

    def __init__(
        self,
        wanted: Coincidence,
        *,
        source: str,
        conditions: Sequence[str],
        lookback: timedelta,
        interval: Interval | None,
        is_apart: bool,
    ) -> None:
        margin = timedelta(seconds=wanted.within_s)
        self.values: dict[str, Any] = {
            "near_margin": margin,
            "near_lookback": lookback + margin,
            "near_within": wanted.within_deg,
        }
        own = " and ".join(("o.time_begin is not null", *conditions))
        spans = self._spans(source, own, interval, margin)
        exists = self._exists(source, own, is_angled=wanted.within_deg is not None)
        is_long = _IS_LONG.format(t="{t}")
        if is_apart and wanted.within_deg is None:
            # Long files reach out of what is looked at around the interval.
            quick = f"{_SPAN} && {spans}"
            near = quick if interval is None else f"case when {is_long} then {exists} else {quick} end"
        else:
            near = f"({is_long} or {_SPAN} && {spans}) and {exists}"
        self.condition = f"{_HAS_TIME} and {near}"

    def _spans(self, source: str, own: str, interval: Interval | None, margin: timedelta) -> str:
        """Return the intervals near others: of all of them, or of those near which a file of the interval can be.

        A file of at most a day in the interval ends at most a day after it, and begins at most a day before it.
        """
        span = "tstzrange(o.time_begin - %(near_margin)s, o.time_over + %(near_margin)s) as span"
        until, recent, long = "", "", []
        if interval is not None and interval.end is not None:
            self.values["near_end"] = _shift(interval.end, DAY + margin)
            until = " and o.time_begin < %(near_end)s"
        if interval is not None and interval.begin is not None:
            self.values["near_begin"] = _shift(interval.begin, -(DAY + margin))
            recent = " and o.time_begin > %(near_begin)s - %(near_lookback)s and o.time_over > %(near_begin)s"
            earlier = "o.time_begin <= %(near_begin)s - %(near_lookback)s and o.time_over > %(near_begin)s"
            long = [f"select {span} from {source} where {own}{until} and {_IS_LONG.format(t='o')} and {earlier}"]
        parts = [f"select {span} from {source} where {own}{until}{recent}", *long]
        return f"(select range_agg(span) from ({' union all '.join(parts)}) as near)"

    def _exists(self, source: str, own: str, *, is_angled: bool) -> str:
        """Return the condition that there is another file near: one found by looking back, or a long one."""
        angle = separated("{t}", "o.ra_deg", "o.dec_deg", "%(near_within)s")
        near = (
            f"{own} and o.id <> {{t}}.id and o.time_begin < {{t}}.time_over + %(near_margin)s"
            f" and o.time_over > {{t}}.time_begin - %(near_margin)s"
            f"{f' and o.dec_deg is not null and {angle}' if is_angled else ''}"
        )
        recent = "o.time_begin > {t}.time_begin - %(near_lookback)s"
        around = "tstzrange({t}.time_begin - %(near_margin)s, {t}.time_over + %(near_margin)s)"
        long = f"{_IS_LONG.format(t='o')} and tstzrange(o.time_begin, o.time_over) && {around}"
        return (
            f"(exists (select from {source} where {near} and {recent})"
            f" or exists (select from {source} where {near} and {long}))"
        )


def renamed(text: str, prefix: str) -> str:
    """Return a condition whose parameters have other names."""
    return re.sub(r"%\((\w+)\)s", rf"%({prefix}\1)s", text)


def _join(spans: Sequence[tuple[Any, Any]]) -> list[tuple[Any, Any]]:
    joined: list[tuple[Any, Any]] = []
    for begin, over in sorted(spans):
        if joined and begin <= joined[-1][1]:
            joined[-1] = (joined[-1][0], max(over, joined[-1][1]))
        else:
            joined.append((begin, over))
    return joined


def _multirange(spans: Sequence[tuple[Any, Any]]) -> str:
    return "{" + ",".join(f"[{begin.isoformat()},{over.isoformat()})" for begin, over in spans) + "}"


def _shift(moment: Any, by: timedelta) -> Any:
    """Return a moment moved, or as it is where the calendar ends: nothing is there."""
    try:
        return moment + by
    except OverflowError:
        return moment
