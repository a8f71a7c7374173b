"""How the files of an answer are spread over bins of time or over the sky: one statement for each way of counting.

A distribution has a key for each file: the number of a bin, or a cell. What can be told without looking at files comes
from the roll-ups; the days that an interval cuts, and what came and went since an earlier moment, from the files. Where
a filter looks at more than strata, or a key is finer than the roll-ups, all comes from the files, or from a sample.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, Protocol

import numpy as np

from metadata_db.counting import LAST_DAY, Shape, Span, Statement, edges, since, strata, with_blocks
from metadata_db.filters import Filters, together
from metadata_db.planning import Choice, found, sample, sampled
from metadata_db.sums import FILES, Ints, Numbers, numbered, some_of, summed, told_by_files, whole_bytes
from metadata_db.tables import ALL_DAYS, HPX_ORDER, NO_DAY, SKY_ORDER
from metadata_db.timeline import NO_BIN, Binning


class Distribution(Protocol):
    """What a file is counted under, and how the sums are told."""

    def key(self, filters: Filters) -> str:
        """Return the key of a file ``f``; null is the key of those that have none."""

    def finish(self, spread: str) -> str:
        """Return the statement that tells the sums ``key, files, bytes``."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TimeDistribution:
    """Files by the number of the bin in which they begin: number, files, bytes; least and largest number of all."""

    binning: Binning
    limit: int
    """Most rows told; the one of files without time comes first."""

    def key(self, filters: Filters) -> str:
        """Return the bin of a file; what began before the interval counts as if it began with it."""
        has_begin = filters.interval is not None and filters.interval.begin is not None
        moment = "greatest(f.time_begin, %(time_begin)s)" if has_begin else "f.time_begin"
        return self.binning.number_of(moment)

    def of_days(self, days: Ints, numbers: Numbers) -> tuple[Numbers, Numbers]:
        """Return bins and their sums, from sums of days; a bin may be there several times."""
        has_day = days != NO_DAY
        before = int(days[has_day].min(initial=LAST_DAY)) - 1
        different, at = numbered(np.where(has_day, days - before, 0))
        bins = np.where(different == 0, NO_BIN, self.binning.numbers_of_days(different + before))
        return bins, summed(numbers, at, len(different))

    def rows(self, keys: Numbers, numbers: Numbers) -> list[tuple[Any, ...]]:
        """Return what the statement would, from bins and sums of files and bytes; a bin may be there several times."""
        has_bin = keys != NO_BIN
        no_bin = some_of(numbers, ~has_bin).sum(axis=1, keepdims=True)
        keys, numbers = keys[has_bin], some_of(numbers, has_bin)
        if len(keys):
            base = keys.min()
            keys, at = numbered(keys - base)
            keys, numbers = keys + base, summed(numbers, at, len(keys))
            is_left = numbers[FILES] != 0
            keys, numbers = keys[is_left], numbers[:, is_left]
        first, last = (int(keys[0]), int(keys[-1])) if len(keys) else (None, None)
        counts = zip(keys.tolist(), numbers[FILES].tolist(), whole_bytes(numbers), strict=True)
        rows = [(key, files, float(size), first, last) for key, files, size in islice(counts, self.limit)]
        without = int(no_bin[FILES, 0])
        return [*([(None, without, float(*whole_bytes(no_bin)), first, last)] if without else []), *rows]

    def finish(self, spread: str) -> str:
        """Return the bins in order, which tell the range of their numbers even when there are too many of them."""
        return (
            "select key, files::int8, bytes::float8, min(key) over (), max(key) over ()"
            f" from ({spread}) as spread order by key nulls first limit {self.limit}"
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class SkyDistribution:
    """Files by the cell of their position: cells and counts, each as 32 bits, big-endian; files without a position."""

    order: int

    @property
    def is_ahead(self) -> bool:
        """Whether the cells are not finer than the kept ones."""
        return self.order <= SKY_ORDER

    def key(self, filters: Filters) -> str:
        """Return the cell of a file."""
        return f"(f.hpx >> {2 * (HPX_ORDER - self.order)})::int4"

    def ready(self, filters: Filters, span: Span) -> list[str]:
        """Return sources of key, files and bytes from the roll-ups, with all conditions applied.

        The kept cells, and all files less those that have one: they have no position.
        """
        if not span.has_days:
            return []
        has_all_life = filters.interval is None
        days = "t.day >= %(first_day)s and t.day < %(over_day)s"
        chosen = _of_strata(filters)
        cells = f"from sky_day as t {chosen} and {f't.day = {ALL_DAYS}' if has_all_life else days}"
        lives = "(select id as stratum_id, files, bytes from stratum)"
        everything = f"from {lives} as t {chosen}" if has_all_life else f"from stratum_day as t {chosen} and {days}"
        return [
            f"select t.cell >> {2 * (SKY_ORDER - self.order)}, sum(t.files), sum(t.bytes) {cells} group by 1",
            f"select null::int4, -sum(t.files), -sum(t.bytes) {cells}",
            f"select null::int4, sum(t.files), sum(t.bytes) {everything}",
        ]

    def finish(self, spread: str) -> str:
        """Return one row: two texts of bytes are told faster than thousands of rows."""
        return (
            "select string_agg(int4send(key), ''::bytea) filter (where key is not null),"
            " string_agg(int4send(files::int4), ''::bytea) filter (where key is not null),"
            " coalesce(sum(files) filter (where key is null), 0)::int8"
            f" from (select * from ({spread}) as spread order by key) as spread"
        )


def _of_strata(filters: Filters) -> str:
    """Return the join and condition that keep of a roll-up ``t`` what strata decide; nothing when all is wanted."""
    if filters.has_all_facilities and not filters.counted:
        return "where t.files <> 0"
    return f"join stratum as s on s.id = t.stratum_id where t.files <> 0 and {_stratum_conditions(filters)}"


def _stratum_conditions(filters: Filters) -> str:
    counted = [text.format(t="s") for text in filters.counted.values()]
    return together(["s.facility_id = any(%(facilities)s)", *counted])


def _spread(filters: Filters, sources: Sequence[str], ready: Sequence[str] = ()) -> str:
    parts = list(ready)
    if sources and filters.counted:
        parts.append(
            "select t.key, t.files, t.bytes from (select stratum_id, key, sum(files) as files, sum(bytes) as bytes"
            f" from ({' union all '.join(sources)}) as source (stratum_id, key, files, bytes) group by 1, 2) as t"
            f" join stratum as s on s.id = t.stratum_id where {_stratum_conditions(filters)}"
        )
    else:
        parts += sources
    if not parts:
        parts = ["select null::int4, 0, 0"]
    return (
        "select key, sum(files) as files, sum(bytes) as bytes"
        f" from ({' union all '.join(f'({part})' for part in parts)}) as part (key, files, bytes)"
        " group by 1 having sum(files) <> 0"
    )


def _shape(kind: Distribution, filters: Filters) -> Shape:
    """Return what sources of files tell; the stratum only where a condition on it is still to be applied."""
    keys = ("f.stratum_id", kind.key(filters)) if filters.counted else (kind.key(filters),)
    return Shape(keys=keys, sums=("f.size_bytes",))


def sky_ahead(kind: SkyDistribution, filters: Filters, *, is_past: bool) -> Statement:
    """Return the distribution over the sky of a question that strata and time alone decide."""
    span, shape = Span.of(filters.interval), _shape(kind, filters)
    sources = [*edges(filters, span, shape=shape), *(since(filters, shape=shape) if is_past else [])]
    text = kind.finish(_spread(filters, sources, kind.ready(filters, span)))
    return Statement(text=text, values=filters.values | span.values())


def bins_ahead(kind: TimeDistribution, filters: Filters, *, is_past: bool) -> Statement:
    """Return, of a question that strata and time alone decide, the bins that no block has, and which blocks there are.

    One row of arrays: facilities, months and revisions of the blocks; strata, bins and numbers of files and bytes.
    """
    key = f"coalesce({kind.key(filters)}, {NO_BIN})"
    shape = Shape(keys=("f.stratum_id", key), sums=told_by_files()[:2])
    sources = [*edges(filters, Span.of(filters.interval), shape=shape)]
    if is_past:
        sources += since(filters, shape=shape)
    names = ("stratum_id", "bin", "files", "bytes_over", "bytes_rest")
    return with_blocks(strata(sources, names), filters, by_day=True)


def spread_found(kind: Distribution, filters: Filters, choice: Choice, *, is_past: bool) -> Statement:
    """Return the distribution of the files that `choice` finds."""
    sources = found(filters, choice, is_past=is_past, shape=_shape(kind, filters))
    return Statement(text=kind.finish(_spread(filters, sources)), values=filters.values)


def spread_sampled(kind: Distribution, filters: Filters, choice: Choice) -> tuple[Statement, float]:
    """Return the distribution of a sample, and how many files each of it stands for."""
    slots, weight = sample(choice)
    sources = sampled(filters, choice, shape=_shape(kind, filters))
    text = kind.finish(_spread(filters, sources))
    return Statement(text=text, values=filters.values | {"slots": slots}), weight
