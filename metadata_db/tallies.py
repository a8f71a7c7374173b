"""Counts of answers, and of their facets, from one look at the files.

What a question finds before its conditions on strata are applied is a sum for each stratum. These sums are kept for a
while: they serve the summary and all facets, and other questions that differ in such conditions only. They are those
of an answer as of certain revisions, so they never become wrong.
"""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, TypeAlias
from weakref import WeakValueDictionary

import numpy as np
from numpy.typing import NDArray

from metadata_db.blocks import Blocks, Memory, Version
from metadata_db.columns import Columns, ColumnStore
from metadata_db.counting import Span
from metadata_db.database import Database
from metadata_db.distribution import TimeDistribution, bins_ahead
from metadata_db.filters import COUNTED, Filters
from metadata_db.lookup import LookUps, View
from metadata_db.planning import Choice, strata_ahead, strata_found, strata_sampled, without_way
from metadata_db.sums import (
    NOTHING,
    PRINT_HIGH,
    Chosen,
    Ints,
    Numbers,
    Sums,
    Total,
    add_up,
    joined,
    read_sums,
    some_of,
    summed,
    whole_bytes,
)

MEMORY_BYTES = 160_000_000
"""Memory for sums. Those by stratum and day of 10 million generated files are 1.5 million and take 75 MB; those of a
question about a season 1 MB."""

_UNCOUNTED: Mapping[str, Any] = {**dict.fromkeys(("facility", *COUNTED), ()), "is_simulation": None}


@dataclass(frozen=True, kw_only=True, slots=True)
class _Looked:
    """Sums of all that was looked at for a question."""

    sums: Sums
    weight: float | None
    """Of a sample: how many files each of its files stands for."""

    @property
    def nbytes(self) -> int:
        return self.sums.nbytes


@dataclass(frozen=True, kw_only=True)
class Tally:
    """The sums of a question by stratum, and which of the strata it chooses."""

    sums: Sums
    weight: float | None
    """Of a sample: how many files each of its files stands for."""
    columns: Columns
    chosen: Mapping[str, NDArray[np.bool_]]
    """Filter on strata → for each stratum of the sums, whether it matches."""

    def total(self) -> Total:
        """Return what all chosen strata have together."""
        return self.sums.where(self._but_for("")).total() if self.chosen else self.sums.total()

    def strata(self) -> list[int]:
        """Return the numbers of the chosen strata."""
        found: list[int] = self.columns.ids[self.sums.places[self._but_for("")]].tolist()
        return found

    def values(self, field: str) -> list[tuple[Any, int, int]]:
        """Return each value of a field with files and bytes, whatever is chosen in this field itself."""
        is_chosen = self._but_for(field)
        codes = self.columns.codes[field][self.sums.places[is_chosen]]
        values = self.columns.values(field)
        files, *sizes = summed(some_of(self._counts, is_chosen), codes, len(values))
        there = np.flatnonzero(files)
        told = sizes[0][there].tolist() if len(sizes) == 1 else whole_bytes(np.stack([files, *sizes])[:, there])
        counts = zip(there.tolist(), files[there].tolist(), told, strict=True)
        return [(values[code], count, size) for code, count, size in counts if code]

    @cached_property
    def _counts(self) -> Numbers:
        """Files and bytes; bytes in two parts only if they would not fit into one."""
        files, high, low = self.sums.numbers[:PRINT_HIGH]
        if np.abs(high).sum() >= 2**30:
            return self.sums.numbers[:PRINT_HIGH]
        return np.stack([files, (high << 32) + low])

    def _but_for(self, field: str) -> Chosen:
        others = [chosen for name, chosen in self.chosen.items() if name != field]
        return np.logical_and.reduce(others) if others else slice(None)


Key: TypeAlias = tuple[Any, ...]


class Tallies:
    """Looks questions up, and keeps what was found for a while."""

    def __init__(self, database: Database, look_ups: LookUps, *, memory_bytes: int) -> None:
        self._look_ups = look_ups
        self._columns = ColumnStore(database)
        self._blocks = Blocks(database, self._columns, max_bytes=memory_bytes * 4 // 5)
        self._looked: Memory[Key, _Looked] = Memory(memory_bytes // 5)
        self._locks: WeakValueDictionary[Key, asyncio.Lock] = WeakValueDictionary()

    async def warm_up(self) -> None:
        """Fetch what questions will need."""
        await self._blocks.warm_up()

    async def get(self, view: View, *, exact: bool, is_narrow: bool = True) -> Tally:
        """Return the tally of a question.

        Parameters
        ----------
        exact
            Whether to look at every file, however many there are; otherwise a sample may stand for many.
        is_narrow
            Whether the chosen objects may lead to the files. Their own facet wants the files of others, too.
        """
        choice = await self._look_ups.choose(view)
        by_object = view.filters.ways.get("object")
        is_narrowed = choice.way is not None and choice.way == by_object
        if is_narrowed and not is_narrow:
            choice, is_narrowed = without_way(view.filters, choice), False
        key = _key(view, is_narrowed=is_narrowed)
        # Summary and facets are asked for at once: who comes second waits for what the first one finds.
        async with self._locks.setdefault(key, asyncio.Lock()):
            looked = self._looked.get(key)
            if looked is None or (exact and looked.weight is not None):
                looked = await self._look(view, choice, exact=exact)
                self._looked.put(key, looked)
        matching = self._matching(view.filters)
        return Tally(
            sums=looked.sums,
            weight=looked.weight,
            columns=self._columns.columns,
            chosen={field: chosen[looked.sums.places] for field, chosen in matching.items()},
        )

    async def bins(self, view: View, kind: TimeDistribution) -> list[tuple[Any, ...]]:
        """Return what the statement of a distribution would: of bins of whole days, if strata and time alone decide."""
        filters = view.filters
        ((facilities, months, revisions, ids, bins, *told),) = await self._look_ups.read(
            view, bins_ahead(kind, filters, is_past=view.is_past)
        )
        places = None if ids is None else await self._columns.find(ids)
        blocks = []
        if facilities is not None:
            versions, span = _versions(facilities, months, revisions), Span.of(filters.interval)
            blocks = await self._blocks.by_day(versions, span, by_stratum=bool(filters.counted))
        is_chosen = np.logical_and.reduce([*self._matching(filters).values()])
        parts = []
        if places is not None:
            here = places >= 0 if not filters.counted else (places >= 0) & is_chosen[places]
            parts.append((bins[here], some_of(np.stack(told), here)))
        if blocks:
            days, sums = np.concatenate([days for days, _ in blocks]), joined([sums for _, sums in blocks])
            if filters.counted:
                here = is_chosen[sums.places]
                days, sums = days[here], sums.where(here)
            parts.append(kind.of_days(days, sums.numbers[:PRINT_HIGH]))
        if not parts:
            return []
        return kind.rows(
            np.concatenate([bins for bins, _ in parts]), np.concatenate([numbers for _, numbers in parts], axis=1)
        )

    def _matching(self, filters: Filters) -> dict[str, NDArray[np.bool_]]:
        """Return for each filter on strata which of all strata match."""
        found = {}
        for field in filters.counted:
            wanted = filters.values[field]
            found[field] = self._columns.columns.matching(field, wanted if isinstance(wanted, list) else [wanted])
        return found

    async def _look(self, view: View, choice: Choice, *, exact: bool) -> _Looked:
        if not view.filters.particular:
            return _Looked(sums=await self._look_ahead(view), weight=None)
        if exact or choice.is_short:
            statement, weight = strata_found(view.filters, choice, is_past=view.is_past), None
        else:
            statement, weight = strata_sampled(view.filters, choice)
        ((ids, *told),) = await self._look_ups.read(view, statement, is_sample=weight is not None)
        return _Looked(sums=add_up([await self._read(ids, told)]), weight=weight)

    async def _look_ahead(self, view: View) -> Sums:
        ((facilities, months, revisions, ids, *told),) = await self._look_ups.read(
            view, strata_ahead(view.filters, is_past=view.is_past)
        )
        found = [await self._read(ids, told)]
        if facilities is not None:
            found += await self._blocks.sums(_versions(facilities, months, revisions), Span.of(view.filters.interval))
        return add_up(found)

    async def _read(self, ids: "Ints | None", told: Sequence[Numbers]) -> Sums:
        return NOTHING if ids is None else read_sums(await self._columns.find(ids), told)


def _versions(*columns: Numbers) -> list[Version]:
    return [Version(*row) for row in zip(*(column.tolist() for column in columns), strict=True)]


def _key(view: View, *, is_narrowed: bool) -> Key:
    """Return what the sums of a question depend on."""
    asked = view.asked
    without = {**_UNCOUNTED, "object": asked.object if is_narrowed else ()}
    # Ten thousand alerts take long to be written down once more.
    is_other = any(getattr(asked, name) != value for name, value in without.items())
    uncounted = replace(asked, **without) if is_other else asked
    names = view.vocabulary.facility.names
    facilities = view.filters.facilities
    revisions = tuple(view.revisions.get(names[number]) for number in (*facilities, *view.filters.touched))
    return (uncounted.query_id, tuple(facilities), revisions)
