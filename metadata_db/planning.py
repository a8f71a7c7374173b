"""How a look-up is done: counted ahead, by an index of its own, by looking at all files of a time, or by a sample.

The choice is made from counts that are certain or bounded, not from the database's guess: it knows nothing of how
JSON, positions and times go together, and guesses wrong by factors of thousands.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from metadata_db.counting import (
    SAMPLE_SHARE,
    SAMPLE_SLOTS,
    STRATA,
    Shape,
    Span,
    Statement,
    edges,
    found_by,
    found_in_sample,
    found_in_time,
    since,
    strata,
    went_since,
    with_blocks,
)
from metadata_db.filters import Filters, Way
from metadata_db.paging import LIVED
from metadata_db.tables import ALL_MONTHS, IN_SAMPLE, SAMPLE_SLOT

MAX_LOOKED_AT = 50_000
"""Files that are looked at one by one to count exactly, some 20 to 50 ms of work; of more, a sample is looked at."""

SAMPLED = 5_000
"""Files of a sample that are looked at: what half of them have is known to 1.4 per cent."""

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

    @property
    def is_short(self) -> bool:
        """Whether all files that it leads to may be looked at."""
        return self.bound <= MAX_LOOKED_AT


def probe(filters: Filters) -> tuple[Statement, Sequence[str]]:
    """Return a statement that tells how many files each way leads to, and the names of its columns.

    The first is the number in the interval; each other one is counted no further than need be. The index on all
    attributes is not asked: it can count nothing without counting all.
    """
    names = [name for name in filters.ways if name != "attributes"]
    columns = [f"({_count_in_time(filters)})::int8"]
    for name in names:
        way = filters.ways[name]
        source = way.source.format(file="file")
        columns.append(f"(select count(*) from (select from {source} where {way.condition} limit %(most)s) as found)")
    values = filters.values | _time_values(filters) | {"most": MAX_LOOKED_AT + 1}
    return Statement(text=f"select {', '.join(columns)}", values=values), names


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


def probe_rarity(filters: Filters) -> Statement:
    """Return a statement that tells how many files a question on strata matches at most, and how many there are.

    Both are those of the months around its interval.
    """
    months = f"month = {ALL_MONTHS}"
    if filters.interval is not None:
        months = "month >= %(around_first_month)s and month <= %(around_last_month)s"
    whole = f"from facet_month where {months} and facility_id = any(%(facilities)s)"
    counts = []
    for name in filters.counted:
        chosen = f"%({name})s"
        is_one = f"value = {chosen}::text" if name == "is_simulation" else f"value = any({chosen}::text[])"
        counts.append(f"(select coalesce(sum(files), 0) {whole} and field = '{name}' and {is_one})")
    everything = f"(select coalesce(sum(files), 0) {whole} and field = '')"
    values = filters.values | _time_values(filters)
    return Statement(text=f"select least({', '.join(counts)})::int8, {everything}::int8", values=values)


RARE = 200
"""One file in so many is rare: a walk would look at thousands of files for a page."""

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
    }


def probe_attributes(filters: Filters, n_files: int) -> tuple[Statement, float]:
    """Return a statement that counts those with the attributes in a sample, and how many files one stands for."""
    slots = _slots(n_files, PROBED)
    in_sample = f"{IN_SAMPLE.replace('fingerprint', 'f.fingerprint')} and ({_slot()}) = any(%(slots)s::int8[])"
    condition = filters.ways["attributes"].condition
    text = f"select count(*) from file f where {in_sample} and ({condition})"
    return Statement(text=text, values=filters.values | {"slots": slots}), SAMPLE_SHARE * SAMPLE_SLOTS / len(slots)


def _slot() -> str:
    return SAMPLE_SLOT.replace("fingerprint", "f.fingerprint")


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
    text = strata([found_in_sample(filters, slots)])
    return Statement(text=text, values=filters.values | {"slots": slots}), weight


def sample(choice: Choice) -> tuple[list[int], float]:
    """Return the slots of a sample large enough, and how many files each of it stands for."""
    slots = _slots(choice.in_time, SAMPLED)
    return slots, SAMPLE_SHARE * SAMPLE_SLOTS / len(slots)
