"""How a look-up is done: counted ahead, by an index of its own, by looking at all files of a time, or by a sample.

The choice is made from counts that are certain or bounded, not from the database's guess: it knows nothing of how
JSON, positions and times go together, and guesses wrong by factors of thousands.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from metadata_db.counting import (
    STRATA,
    Shape,
    Span,
    Statement,
    edges,
    found_by,
    found_in_sample,
    found_in_time,
    in_sample,
    since,
    strata,
    went_since,
    with_blocks,
)
from metadata_db.filters import Filters, Way, together
from metadata_db.paging import LIVED
from metadata_db.tables import ALL_MONTHS, SAMPLE_SHARE, SAMPLE_SLOTS

MAX_LOOKED_AT = 100_000
"""Files that are looked at one by one in an index to count exactly, some 30 ms of work; of more, a sample is."""

ROW_EFFORT = 5
"""How many times as long as in an index it takes to look at a file in its row."""

SAMPLED = 3_000
"""Files of a sample that are looked at: what half of them have is known to 1.8 per cent."""

PROBED = 2_000
"""Files of a sample that are looked at to tell whether a value is rare."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Choice:
    """How the files of a question are found."""

    way: Way | None
    """The index to find them by; None looks at all of the facilities in the interval."""
    bound: int
    """How many files that way leads to, at most; those beyond `MAX_LOOKED_AT` may not have been counted."""
    in_time: int
    """How many files of the facilities there are in the interval."""
    in_all: int = 0
    """How many files there are of all facilities, at all times."""
    others: int = 0
    """How many files of the other side of a coincidence may be near."""
    effort: int = 0
    """What it takes to look at them, in files that are looked at in an index."""
    sampled: Way | None = None
    """The way to the files of a sample; None looks at those of the facilities in the interval."""
    represented: int | None = None
    """How many files the sample stands for, if it is not those in the interval."""

    @property
    def is_nearly_all(self) -> bool:
        """Whether there are so many files in the interval that their rows take longer than an index of all files."""
        return 10 * self.in_time > self.in_all

    @property
    def is_short(self) -> bool:
        """Whether all files that it leads to may be looked at."""
        return self.effort <= MAX_LOOKED_AT


def probe(filters: Filters) -> Statement:
    """Return a statement that counts files: in the interval, in all, on the other side of a coincidence, on each way.

    Ways are those of `probed`, in their order; files are counted no further than need be, or on a part of the way. The
    index on all attributes is not asked: it can count nothing without counting all.
    """
    everything = f"select coalesce(sum(files), 0) from facet_month where field = '' and month = {ALL_MONTHS}"
    columns = [f"({_count_in_time(filters)})::int8", f"({everything})::int8", f"({_count_others(filters)})::int8"]
    for way in probed(filters):
        source = way.source.format(file="file") if way.part is None else way.part
        limit = "" if way.sample is not None else f" limit {MAX_LOOKED_AT // _effort(filters, way) + 1}"
        counted = f"(select count(*) from (select from {source} where {way.condition}{limit}) as found)"
        columns.append(f"{way.part_of} * {counted}")
    values = filters.values | _time_values(filters)
    return Statement(text=f"select {', '.join(columns)}", values=values)


def probed(filters: Filters) -> list[Way]:
    """Return the ways to files that are counted before one of them is gone."""
    return [way for name, way in filters.ways.items() if name != "attributes"]


def choose(filters: Filters, told: Sequence[int]) -> Choice:
    """Return the shortest way, by what a `probe` told; and the way to the smallest of the samples."""
    in_time, in_all, others, *counts = told
    best = Choice(
        way=None,
        bound=in_time,
        in_time=in_time,
        in_all=in_all,
        others=others,
        effort=_effort(filters, None) * in_time,
    )
    for way, count in zip(probed(filters), counts, strict=True):
        effort = _effort(filters, way) * count
        if effort < best.effort:
            best = replace(best, way=way, bound=count, effort=effort)
        if way.sample is not None and count < (best.represented or in_time):
            best = replace(best, sampled=way, represented=count)
    return best


def without_way(filters: Filters, choice: Choice) -> Choice:
    """Return the choice to look at all files of the interval."""
    return replace(choice, way=None, bound=choice.in_time, effort=_effort(filters, None) * choice.in_time)


def suited(filters: Filters, choice: Choice, n_tested: int) -> Filters:
    """Return the filters with the conditions that suit so many files."""
    if choice.others < _OTHERS_EFFORT * n_tested:
        return filters
    return replace(filters, particular={**filters.particular, **filters.one_by_one})


_OTHERS_EFFORT = 30
"""Others that are looked up together in the time in which those near one file are found."""


def _effort(filters: Filters, way: Way | None) -> int:
    is_covered = filters.is_covered and (way is None or way.is_covered)
    return 1 if is_covered else ROW_EFFORT


def _count_others(filters: Filters) -> str:
    if filters.others is None:
        return "0"
    months = f"month = {ALL_MONTHS}"
    if filters.others[1] is not None:
        months = "month between %(others_first_month)s and %(others_last_month)s"
    return (
        f"select coalesce(sum(files), 0) from facet_month where field = '' and {months}"
        " and facility_id = any(%(other_facilities)s)"
    )


def _count_in_time(filters: Filters) -> str:
    if filters.interval is None:
        return (
            f"select coalesce(sum(files), 0) from facet_month where field = '' and month = {ALL_MONTHS}"
            " and facility_id = any(%(facilities)s)"
        )
    span = Span.of(filters.interval)
    if span.over_day - span.first_day > _MANY_DAYS:
        return (
            "select coalesce(sum(files), 0) from facet_month where field = ''"
            " and month >= %(around_first_month)s and month <= %(around_last_month)s"
            " and facility_id = any(%(facilities)s)"
        )
    return (
        "select coalesce(sum(files), 0) from stratum_day where facility_id = any(%(facilities)s)"
        " and day >= %(first_day)s - 2 and day <= %(over_day)s"
    )


_MANY_DAYS = 60
"""Days from which on counting by months is near enough."""


def _time_values(filters: Filters) -> dict[str, Any]:
    span = Span.of(filters.interval)
    first, over = span.months()
    return {
        "first_day": span.first_day,
        "over_day": span.over_day,
        "around_first_month": max(first - 1, 0),
        "around_last_month": over,
        **_months_of_others(filters),
    }


def _months_of_others(filters: Filters) -> dict[str, Any]:
    if filters.others is None:
        return {}
    first, over = Span.of(filters.others[1]).months()
    return {"others_first_month": max(first - 1, 0), "others_last_month": over}


def probe_attributes(filters: Filters, n_files: int) -> tuple[Statement, float]:
    """Return a statement that counts those with the attributes in a sample, and how many files one stands for.

    Of all facilities and times, of which there are `n_files`: their index knows of neither.
    """
    slots = _slots(n_files, PROBED)
    conditions = ["f.facility_id = any(array(select id from facility))", *in_sample("f")]
    text = f"select count(*) from file f where {together([*conditions, filters.ways['attributes'].condition])}"
    return Statement(text=text, values=filters.values | {"slots": slots}), SAMPLE_SHARE * SAMPLE_SLOTS / len(slots)


def _slots(n_files: int, wanted: int) -> list[int]:
    """Return so many slots of the sample that about `wanted` of `n_files` are in them."""
    number = -(-wanted * SAMPLE_SHARE * SAMPLE_SLOTS // max(n_files, 1))
    return list(range(max(1, min(SAMPLE_SLOTS, number))))


# --- sums of strata ---------------------------------------------------------------------------------------------------


def strata_ahead(filters: Filters, *, is_past: bool) -> Statement:
    """Return, of a question that strata and time alone decide, the sums that no block has, and which blocks there are.

    One row of arrays: facilities, months and revisions of the blocks; strata and their numbers.
    """
    sources = [*edges(filters, Span.of(filters.interval)), *(since(filters) if is_past else [])]
    return with_blocks(strata(sources), filters)


def strata_found(filters: Filters, choice: Choice, *, is_past: bool) -> Statement:
    """Return one row of arrays, strata and their numbers: of the files that `choice` finds."""
    return Statement(text=strata(found(filters, choice, is_past=is_past)), values=filters.values)


def found(filters: Filters, choice: Choice, *, is_past: bool, shape: Shape = STRATA) -> list[str]:
    """Return sources of the files that `choice` finds; the conditions on strata are still to be applied."""
    filters = suited(filters, choice, choice.bound)
    life = [LIVED] if is_past else []
    if choice.way is None:
        sources = found_in_time(filters, life=life, shape=shape)
    else:
        sources = [found_by(choice.way, filters, life=life, shape=shape)]
    if is_past:
        particular = [text.format(t="f") for text in filters.particular.values()]
        sources.append(went_since(filters, particular, shape=shape))
    return sources


def strata_sampled(filters: Filters, choice: Choice) -> tuple[Statement, float]:
    """Return the same of a sample, and how many files each of it stands for."""
    slots, weight = sample(choice)
    text = strata(sampled(filters, choice))
    return Statement(text=text, values=filters.values | {"slots": slots}), weight


def sampled(filters: Filters, choice: Choice, *, shape: Shape = STRATA) -> list[str]:
    """Return sources of the files of the sample that `choice` finds."""
    return found_in_sample(suited(filters, choice, SAMPLED), way=choice.sampled, shape=shape)


def sample(choice: Choice) -> tuple[list[int], float]:
    """Return the slots of a sample large enough, and how many files each of it stands for."""
    slots = _slots(choice.in_time if choice.represented is None else choice.represented, SAMPLED)
    return slots, SAMPLE_SHARE * SAMPLE_SLOTS / len(slots)
