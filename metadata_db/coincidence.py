"""Conditions for files that coincide with other files, or with alerts.

What a file may coincide with is first of all a set of intervals: each of the others, made wider by the time that is
allowed. Without a direction that is all, and one range operator decides for a file: one that is among the others itself
must meet what at least two of them cover, as its own interval is one. With a direction the others are looked at one by
one, but only for files that pass the intervals.
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
    """

    def __init__(self, wanted: Coincidence, alerts: Sequence[Alert]) -> None:
        margin = timedelta(seconds=wanted.within_s)
        spans = [(alert.time - margin, alert.time + MICROSECOND + margin) for alert in alerts]
        if wanted.within_deg is None:
            joined = _join(spans)
            self.values: dict[str, Any] = {
                "alert_spans": _multirange(joined),
                "alert_step": max(1, len(joined) // _THINNED),
            }
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
        self.condition = (
            f"{_HAS_TIME} and {_SPAN} && %(alert_spans)s::tstzmultirange and exists (select from {_DIRECTED_ALERTS}"
            f" where {{t}}.time_begin < alert.overs and {{t}}.time_over > alert.begins and {_ANGLE})"
        )


_THINNED = 50
"""Alerts around which files are counted to know how many there are around all."""

_ANGLE = separated("{t}", "alert.ra", "alert.dec", "%(alert_within)s")

_DIRECTED_ALERTS = (
    "unnest(%(alert_begins)s::timestamptz[], %(alert_overs)s::timestamptz[], %(alert_ra)s::float8[],"
    " %(alert_dec)s::float8[]) as alert (begins, overs, ra, dec)"
)

AROUND_DIRECTED_ALERTS = f"""
    f.id = any(array(
        select found.id from {_DIRECTED_ALERTS} cross join lateral (
            (select found.id from file as found where found.facility_id = any(%(facilities)s)
                and found.time_begin < alert.overs and found.time_over > alert.begins
                and found.time_begin > alert.begins - %(lookback)s and {_ANGLE.format(t="found")} offset 0)
            union all
            (select found.id from (
                select * from file as found where {_IS_LONG.format(t="found")}
                    and {_SPAN.format(t="found")} @> alert.begins offset 0
            ) as found where found.time_begin <= alert.begins - %(lookback)s and {_ANGLE.format(t="found")})
        ) as found
    ))
"""
"""Condition on files ``f`` around alerts that have a direction: their numbers, found by an index for each alert."""

_ALERTS = """
    (
        select lower(span) as begins, upper(span) as overs, row_number() over in_order as at,
            coalesce(lag(upper(span)) over in_order, lower(span) - interval '2 days') as after
        from unnest(%(alert_spans)s::tstzmultirange) as each (span) window in_order as (order by span) offset 0
    ) as alert
"""
"""What alerts are near, in pieces that do not touch; and when the piece before is over. One text tells all of it."""

_IS_ANY_AROUND = """
    (cardinality(%(facilities)s::int2[]) = 1 or exists (
        select from file where time_begin < alert.overs and time_begin > alert.begins - %(lookback)s
    ))
"""
"""Most moments are in the day, or in summer: one look tells that no facility has files then."""

_AROUND = f"""
    select * from file as found where found.facility_id = any(%(facilities)s)
        and found.time_begin < alert.overs and found.time_over > alert.begins
        and found.time_begin > alert.begins - %(lookback)s and found.time_begin >= alert.after
        and not {_IS_LONG.format(t="found")}
"""
"""Files of at most a day around an alert that are not around an earlier one: one that is began before that is over."""

LONG_AROUND_ALERTS = f"""
    (select * from file as found where {_IS_LONG.format(t="found")}
        and {_SPAN.format(t="found")} && %(alert_spans)s::tstzmultirange offset 0) as f
"""
"""Files of more than a day around any alert."""

AROUND_ALERTS = f"""
    (
        select f.* from (select * from {_ALERTS} where {_IS_ANY_AROUND} offset 0) as alert
        cross join lateral ({_AROUND} offset 0) as f
        union all select f.* from {LONG_AROUND_ALERTS}
    ) as f
"""
"""Files around alerts that have no direction, each once; by the indexes on begins."""

AROUND_SOME_ALERTS = f"""
    (
        select f.* from (select * from {_ALERTS} where mod(alert.at, %(alert_step)s::int8) = 0 offset 0) as alert
        cross join lateral ({_AROUND} offset 0) as f
    ) as f
"""
"""Files around one alert in ``alert_step``, without long ones."""

ALONG_ALERTS = f"""
    (select * from {_ALERTS} order by alert.begins{{direction}} offset 0) as alert cross join lateral (
        {_AROUND} order by found.time_begin{{direction}}, found.id{{direction}} offset 0
    ) as f
"""
"""Files of at most a day around alerts that have no direction, in the order of their begin."""


class NearFiles:
    """Files near one of some other files.

    Attributes
    ----------
    condition
        On a file, whose alias is ``{t}``: looks all others up once, whatever number of files is tested.
    one_by_one
        The same, which looks the others up that are near a file, for each file.

    Parameters
    ----------
    table
        Where the others are.
    conditions
        On a file, whose alias is ``{t}``, to be one of the others.
    life
        Conditions on the others alone, that they lived at the moment in question.
    interval
        Interval that the files themselves are asked for.
    is_apart
        Whether the others are surely not among the files themselves.
    """

    def __init__(
        self,
        wanted: Coincidence,
        *,
        table: str,
        conditions: Sequence[str],
        life: Sequence[str] = (),
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
        among = " and ".join((_HAS_TIME, *conditions))
        own = " and ".join((among, *life)).format(t="o")
        exists = self._exists(table, own, is_angled=wanted.within_deg is not None)
        is_long = _IS_LONG.format(t="{t}")
        spans = self._spans(table, own, interval, margin)
        meets = f"{_SPAN} && {_covered(spans, by=1)}"
        if wanted.within_deg is None and not is_apart:
            meets = f"case when {among} then {_SPAN} && {_covered(spans, by=2)} else {meets} end"
        if wanted.within_deg is not None:
            near = f"({is_long} or {meets}) and {exists}"
        else:
            # Long files reach out of what is looked at around the interval.
            near = meets if interval is None else f"case when {is_long} then {exists} else {meets} end"
        self.condition = f"{_HAS_TIME} and {near}"
        self.one_by_one = f"{_HAS_TIME} and {exists}"

    def _spans(self, table: str, own: str, interval: Interval | None, margin: timedelta) -> str:
        """Return a source of intervals near others: of all, or of those near which a file of the interval can be.

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
            going_on = _long_others(table, f"{_SPAN.format(t='o')} @> %(near_begin)s")
            long = [f"select {span} from {going_on} where {own} and o.time_begin <= %(near_begin)s - %(near_lookback)s"]
        parts = [f"select {span} from {table} as o where {own}{until}{recent}", *long]
        return " union all ".join(parts)

    def _exists(self, table: str, own: str, *, is_angled: bool) -> str:
        """Return the condition that there is another file near: one found by looking back, or a long one."""
        angle = separated("{t}", "o.ra_deg", "o.dec_deg", "%(near_within)s")
        near = (
            f"{own} and o.id <> {{t}}.id and o.time_begin < {{t}}.time_over + %(near_margin)s"
            f" and o.time_over > {{t}}.time_begin - %(near_margin)s"
            f"{f' and o.dec_deg is not null and {angle}' if is_angled else ''}"
        )
        recent = (
            f"(select * from {table} as o where o.facility_id = any(%(other_facilities)s)"
            " and o.time_begin < {t}.time_over + %(near_margin)s"
            " and o.time_begin > {t}.time_begin - %(near_lookback)s offset 0) as o"
        )
        around = "tstzrange({t}.time_begin - %(near_margin)s, {t}.time_over + %(near_margin)s)"
        long = _long_others(table, f"{_SPAN.format(t='o')} && {around}")
        return f"(exists (select from {recent} where {near}) or exists (select from {long} where {near}))"


def _long_others(table: str, condition: str) -> str:
    """Return the FROM clause of the files of more than a day, by the index that they have of their own."""
    return f"(select * from {table} as o where {_IS_LONG.format(t='o')} and {condition} offset 0) as o"


def _covered(spans: str, *, by: int) -> str:
    """Return what at least one, or at least two, of some intervals cover, as a multirange.

    Of the intervals that hold a moment one begins last, and another one, which began before, reaches beyond the moment.
    """
    if by == 1:
        return f"(select range_agg(span) from ({spans}) as near)"
    reached = "max(upper(span)) over (order by lower(span) rows between unbounded preceding and 1 preceding)"
    return (
        f"(select range_agg(span * tstzrange(lower(span), greatest(lower(span), reached)))"
        f" from (select span, {reached} as reached from ({spans}) as each) as near where reached is not null)"
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
