"""The values of strata in the process: what files can be counted by, as columns of numbers.

A stratum's values never change and its row is never deleted, so what a process has learned stays true. It learns the
strata that it meets.
"""

import asyncio
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from metadata_db.database import Database
from metadata_db.sums import Ints
from metadata_db.tables import STRATUM_COLUMNS

LEARNED_AT_ONCE = 5_000
"""Strata that are read in one go, some 20 milliseconds; others are served between two of them."""

FIELDS = tuple(name.removesuffix("_id") for name in STRATUM_COLUMNS)


class _Words:
    """Values of a field and their codes, which only become more; the code 0 is that of no value."""

    def __init__(self) -> None:
        self.values: list[Any] = [None]
        self.codes: dict[Any, int] = {None: 0}

    def encode(self, values: Sequence[Any]) -> Ints:
        for value in values:
            if value not in self.codes:
                self.codes[value] = len(self.values)
                self.values.append(value)
        return np.fromiter(map(self.codes.__getitem__, values), np.int32, len(values))


@dataclass(frozen=True)
class Columns:
    """The strata that the process knows, each at its place; nobody changes the arrays."""

    ids: Ints
    """Numbers of the strata in the catalogue, in the order in which they were learned."""
    ordered: NDArray[np.intp]
    """Places in the order of the numbers."""
    codes: Mapping[str, Ints]
    """Field → code of the value of each stratum."""
    words: Mapping[str, _Words]

    def find(self, ids: Ints) -> Ints:
        """Return the places of strata; -1 is that of an unknown one."""
        if not len(self.ids):
            return np.full(len(ids), -1, np.int32)
        found = self.ordered[np.searchsorted(self.ids, ids, sorter=self.ordered) % len(self.ids)]
        return np.where(self.ids[found] == ids, found, -1).astype(np.int32)

    def values(self, field: str) -> Sequence[Any]:
        """Return the values of a field by their codes."""
        return self.words[field].values

    def matching(self, field: str, wanted: Collection[Any]) -> NDArray[np.bool_]:
        """Return for each stratum whether its value of a field is among those that are wanted."""
        words = self.words[field]
        is_wanted = np.zeros(len(words.values), np.bool_)
        is_wanted[[words.codes[value] for value in wanted if value in words.codes]] = True
        return is_wanted[self.codes[field]]


class ColumnStore:
    """Learns strata as they are met."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._lock = asyncio.Lock()
        nothing = np.empty(0, np.int32)
        self.columns = Columns(
            ids=nothing,
            ordered=np.empty(0, np.intp),
            codes=dict.fromkeys(FIELDS, nothing),
            words={field: _Words() for field in FIELDS},
        )

    async def find(self, ids: Ints) -> Ints:
        """Return the places of strata in `columns`, which grow if need be; -1 is that of one that does not exist."""
        places = self.columns.find(ids)
        if (places < 0).any():
            async with self._lock:
                unknown = np.unique(ids[self.columns.find(ids) < 0])
                await self._learn(unknown)
            places = self.columns.find(ids)
        return places

    async def _learn(self, ids: Ints) -> None:
        learned = [self.columns.ids]
        codes = {field: [each] for field, each in self.columns.codes.items()}
        for at in range(0, len(ids), LEARNED_AT_ONCE):
            rows = await self._database.read(_READ, {"ids": ids[at : at + LEARNED_AT_ONCE].tolist()})
            learned.append(np.array([row[0] for row in rows], np.int32))
            for place, field in enumerate(FIELDS, 1):
                codes[field].append(self.columns.words[field].encode([row[place] for row in rows]))
        known = np.concatenate(learned)
        self.columns = Columns(
            ids=known,
            ordered=np.argsort(known),
            codes={field: np.concatenate(parts) for field, parts in codes.items()},
            words=self.columns.words,
        )


_READ = f"select id, {', '.join(STRATUM_COLUMNS)} from stratum where id = any(%(ids)s)"
