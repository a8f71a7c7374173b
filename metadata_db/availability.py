"""Who has data when: how much of a time the files of each facility, detector and channel cover, and the longest gaps.

What the files cover is the union of their intervals, which one pass over them in the order of their begin tells: how
far the earlier ones reach is known at each. Of very many files only the days on which they begin are looked at, which
the roll-ups know, and the whole length of those that are longer than a day.
"""

from collections.abc import Sequence
from datetime import datetime
from typing import Any

import msgspec

from metadata_db.counting import Shape, Span, Statement, edges, since
from metadata_db.filters import Filters, in_interval, together
from metadata_db.paging import ENDED, LIVED
from metadata_db.planning import Choice, found
from metadata_db.tables import IS_LONG, NO_DAY
from metadata_db.vocabulary import Vocabulary

MAX_EXACT = 300_000
"""Files whose intervals are looked at, some half a second of work; of more, it is looked at days."""

MAX_GAPS = 200
"""Gaps kept for each of the rows, the longest."""

EXACT_S, DAY_S = 1e-6, 86_400.0


class Gap(msgspec.Struct, frozen=True, kw_only=True):
    """A time without files."""

    begin: datetime
    end: datetime

    @property
    def length_s(self) -> float:
        """Return its length, seconds."""
        return (self.end - self.begin).total_seconds()


class Availability(msgspec.Struct, frozen=True, kw_only=True):
    """The files of one facility, detector and channel, and what they cover."""

    facility: str
    detector: str | None
    channel: str | None
    files: int
    bytes: int
    time_begin: datetime | None
    time_end: datetime | None
    live_s: float
    gaps: list[Gap]
    """The longest first, those of equal length in order; at most `MAX_GAPS`."""
    is_estimate: bool
    resolution_s: float


# --- statements -------------------------------------------------------------------------------------------------------

_GROUP = "facility_id, detector_id, channel_id"
_LONG = IS_LONG.replace("time_", "f.time_")


def coverage_by_file(filters: Filters, choice: Choice, *, is_past: bool) -> Statement:
    """Return the coverage by the intervals of the files that `choice` finds."""
    shape = Shape(keys=("f.stratum_id", "f.time_begin", "f.time_over"), sums=("f.size_bytes",))
    sources = found(filters, choice, is_past=is_past, shape=shape)
    return Statement(text=_coverage(filters, sources), values=filters.values | {"most_gaps": MAX_GAPS})


def coverage_by_day(filters: Filters, *, is_past: bool) -> Statement:
    """Return the coverage by days of a question that strata and time alone decide."""
    span = Span.of(filters.interval)
    has_begin = filters.interval is not None and filters.interval.begin is not None
    moment = "greatest(f.time_begin, %(time_begin)s)" if has_begin else "f.time_begin"
    day = f"coalesce(floor(extract(epoch from {moment}) / 86400)::int4, {NO_DAY})"
    shape = Shape(keys=("f.stratum_id", day), sums=("f.size_bytes",))
    parts = [*edges(filters, span, shape=shape), *(since(filters, shape=shape) if is_past else [])]
    if span.has_days:
        is_asked = "true" if filters.interval is None else "day >= %(first_day)s and day < %(over_day)s"
        parts.append(f"select stratum_id, day, files, bytes from stratum_day where files <> 0 and {is_asked}")
    days = (
        f"select stratum_id, case when day <> {NO_DAY} then date '1970-01-01' + day end::timestamptz,"
        f" case when day <> {NO_DAY} then date '1970-01-01' + day + 1 end::timestamptz, sum(files), sum(bytes)"
        f" from ({' union all '.join(parts)}) as each (stratum_id, day, files, bytes)"
        " group by stratum_id, day having sum(files) <> 0"
    )
    ours = ["f.facility_id = any(%(facilities)s)", _LONG, *in_interval(filters)]
    sources = [days, _long_days("file f", [*ours, *([LIVED] if is_past else [])])]
    if is_past:
        sources.append(_long_days(ENDED, ours))
    values = filters.values | span.values() | {"most_gaps": MAX_GAPS}
    return Statement(text=_coverage(filters, sources), values=values)


def _long_days(source: str, conditions: Sequence[str]) -> str:
    """Source of the days of long files, which are counted where they begin."""
    last = "date_trunc('day', f.time_over - interval '1 microsecond')"
    return (
        f"select f.stratum_id, date_trunc('day', f.time_begin), {last} + interval '1 day', 0, 0"
        f" from {source} where {together(conditions)}"
    )


def _coverage(filters: Filters, sources: Sequence[str]) -> str:
    """Return what sources of stratum, begin, end, files and bytes cover: one row per group, and one per gap."""
    begin, over = "t.begins", "t.over"
    interval = filters.interval
    has_begin = interval is not None and interval.begin is not None
    has_end = interval is not None and interval.end is not None
    if has_begin:
        begin = f"greatest({begin}, %(time_begin)s)"
    if has_end:
        over = f"least({over}, %(time_end)s)"
    # Before the first file the asked begin is as far as anything reaches.
    reach = "coalesce(reach, %(time_begin)s)" if has_begin else "reach"
    counted = [text.format(t="s") for text in filters.counted.values()]
    gaps = [f"select {_GROUP}, {reach} as begins, begins as over from ordered where begins > {reach}"]
    if has_end:
        gaps.append(
            f"select {_GROUP}, max(over), %(time_end)s::timestamptz from ordered group by {_GROUP}"
            " having max(over) < %(time_end)s"
        )
    return f"""
        with ordered as materialized (
            select *, max(over) over (
                partition by {_GROUP} order by begins, over rows between unbounded preceding and 1 preceding
            ) as reach
            from (
                select s.facility_id, s.detector_id, s.channel_id, t.files, t.bytes, t.begins as first, t.over as last,
                    case when t.begins is not null then {begin} end as begins,
                    case when t.begins is not null then {over} end as over
                from ({" union all ".join(f"({source})" for source in sources)})
                    as t (stratum_id, begins, over, files, bytes) join stratum as s on s.id = t.stratum_id
                where {together(["s.facility_id = any(%(facilities)s)", *counted])}
            ) as clipped
        )
        select {_GROUP}, sum(files)::int8, sum(bytes), min(first), max(last), coalesce(sum(extract(
            epoch from greatest(over - greatest(begins, reach), interval '0')
        )), 0)::float8 from ordered group by {_GROUP} having sum(files) > 0
        union all
        select {_GROUP}, null, null, begins, over, null from (
            select *, row_number() over (partition by {_GROUP} order by over - begins desc, begins) as place
            from ({" union all ".join(gaps)}) as gap
        ) as gap where place <= %(most_gaps)s
    """


# --- what is told -----------------------------------------------------------------------------------------------------


def make_availabilities(
    rows: Sequence[tuple[Any, ...]], vocabulary: Vocabulary, *, is_estimate: bool
) -> list[Availability]:
    """Return what the rows of a statement say, by names."""
    gaps: dict[tuple[Any, ...], list[Gap]] = {}
    for *group, files, _, begin, end, _ in rows:
        if files is None:
            gaps.setdefault(tuple(group), []).append(Gap(begin=begin, end=end))
    said = [
        Availability(
            facility=vocabulary.facility.names[facility],
            detector=None if detector is None else vocabulary.detector.names[detector],
            channel=None if channel is None else vocabulary.channel.names[channel],
            files=files,
            bytes=int(size),
            time_begin=begin,
            time_end=end,
            live_s=live_s,
            gaps=sorted(gaps.get((facility, detector, channel), ()), key=lambda gap: (gap.begin - gap.end, gap.begin)),
            is_estimate=is_estimate,
            resolution_s=DAY_S if is_estimate else EXACT_S,
        )
        for facility, detector, channel, files, size, begin, end, live_s in rows
        if files is not None
    ]
    return sorted(said, key=lambda one: (one.facility, one.detector or "", one.channel or ""))
