"""Counts of answers, and of their facets, from one look at the files.

What a question finds before its conditions on strata are applied is a sum for each stratum. These sums are kept for a
while: they serve the summary and all facets, and other questions that differ in such conditions only. They are those
of an answer as of certain revisions, so they never become wrong.
"""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeAlias
from weakref import WeakValueDictionary

import numpy as np
from numpy.typing import NDArray

from metadata_db.blocks import Blocks, Memory, Version
from metadata_db.columns import Columns, ColumnStore
from metadata_db.counting import Span
from metadata_db.database import Database
from metadata_db.filters import COUNTED, Filters
from metadata_db.lookup import LookUps, View
from metadata_db.planning import MAX_LOOKED_AT, Choice, strata_ahead, strata_found, strata_sampled
from metadata_db.sums import (
    BYTES_HIGH,
    BYTES_LOW,
    FILES,
    NOTHING,
    Chosen,
    Ints,
    Numbers,
    Sums,
    Total,
    add_up,
    read_sums,
)

MAX_BYTES = 64_000_000
"""Memory for sums of questions: a hundred whose files are of ten thousand strata, as those of a season are."""

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

    def values(self, field: str) -> list[tuple[Any, int, int]]:
        """Return each value of a field with files and bytes, whatever is chosen in this field itself."""
        is_chosen = self._but_for(field)
        codes = self.columns.codes[field][self.sums.places[is_chosen]]
        numbers = np.zeros((3, len(self.columns.values(field))), np.int64)
        for into, row in zip(numbers, (FILES, BYTES_HIGH, BYTES_LOW), strict=True):
            np.add.at(into, codes, self.sums.numbers[row, is_chosen])
        there = np.flatnonzero(numbers[0])
        values = self.columns.values(field)
        return [
            (values[code], files, (high << 32) + low)
            for code, files, high, low in zip(there.tolist(), *numbers[:, there].tolist(), strict=True)
            if code
        ]

    def _but_for(self, field: str) -> Chosen:
        others = [chosen for name, chosen in self.chosen.items() if name != field]
        return np.logical_and.reduce(others) if others else slice(None)


Key: TypeAlias = tuple[Any, ...]


class Tallies:
    """Looks questions up, and keeps what was found for a while."""

    def __init__(self, database: Database, look_ups: LookUps) -> None:
        self._look_ups = look_ups
        self._columns = ColumnStore(database)
        self._blocks = Blocks(database, self._columns)
        self._looked: Memory[Key, _Looked] = Memory(MAX_BYTES)
        self._locks: WeakValueDictionary[Key, asyncio.Lock] = WeakValueDictionary()

    async def get(self, view: View, *, exact: bool, but_for: str = "") -> Tally:
        """Return the tally of a question.

        Parameters
        ----------
        exact
            Whether to look at every file, however many there are; otherwise a sample may stand for many.
        but_for
            The field whose values will be asked for: what is looked at is not narrowed by the choice in it.
        """
        choice = await self._look_ups.choose(view)
        by_object = view.filters.ways.get("object")
        is_narrowed = choice.way is not None and choice.way == by_object
        if is_narrowed and but_for == "object":
            choice, is_narrowed = replace(choice, way=None, bound=choice.in_time), False
        key = _key(view, is_narrowed=is_narrowed)
        # Summary and facets are asked for at once: who comes second waits for what the first one finds.
        async with self._locks.setdefault(key, asyncio.Lock()):
            looked = self._looked.get(key)
            if looked is None or (exact and looked.weight is not None):
                looked = await self._look(view, choice, exact=exact)
                self._looked.put(key, looked)
        return self._choose(looked, view.filters)

    def _choose(self, looked: _Looked, filters: Filters) -> Tally:
        columns = self._columns.columns
        chosen = {}
        for field in filters.counted:
            wanted = filters.values[field]
            allowed = columns.allowed(field, wanted if isinstance(wanted, Sequence) else [wanted])
            chosen[field] = allowed[columns.codes[field][looked.sums.places]]
        return Tally(sums=looked.sums, weight=looked.weight, columns=columns, chosen=chosen)

    async def _look(self, view: View, choice: Choice, *, exact: bool) -> _Looked:
        if not view.filters.particular:
            return _Looked(sums=await self._look_ahead(view), weight=None)
        if exact or choice.bound <= MAX_LOOKED_AT:
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
            versions = map(Version, facilities.tolist(), months.tolist(), revisions.tolist())
            found += await self._blocks.sums(versions, Span.of(view.filters.interval))
        return add_up(found)

    async def _read(self, ids: "Ints | None", told: Sequence[Numbers]) -> Sums:
        return NOTHING if ids is None else read_sums(await self._columns.find(ids), told)


def _key(view: View, *, is_narrowed: bool) -> Key:
    """Return what the sums of a question depend on."""
    asked = view.asked
    uncounted = replace(asked, **{**_UNCOUNTED, "object": asked.object if is_narrowed else ()})
    names = view.vocabulary.facility.names
    facilities = view.filters.facilities
    revisions = tuple(view.revisions.get(names[number]) for number in (*facilities, *view.filters.touched))
    return (uncounted.query_id, tuple(facilities), revisions)
