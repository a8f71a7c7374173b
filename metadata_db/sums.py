"""Sums of files by stratum, as arrays: what statements tell, what is kept, and what facets are made of.

Sums are exact. Bytes may need more than 64 bits, so they are kept in two parts; of fingerprints only the lowest 64
bits count, so that sums of them may run over.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias, TypeVar

import numpy as np
from numpy.typing import NDArray

from metadata_db.canonical import set_checksum

T = TypeVar("T", bound=np.signedinteger[Any])

Ints: TypeAlias = NDArray[np.int32]
Numbers: TypeAlias = NDArray[np.int64]

Chosen: TypeAlias = "slice | NDArray[np.bool_] | NDArray[np.intp]"
"""Some of the columns of `Sums`."""

FILES, BYTES_HIGH, BYTES_LOW, PRINT_HIGH, PRINT_LOW = range(5)
"""Rows of the numbers of `Sums`: bytes are ``BYTES_HIGH * 2**32 + BYTES_LOW``."""

N_NUMBERS = 5


@dataclass(frozen=True, kw_only=True, slots=True)
class Sums:
    """Numbers of files by stratum; nobody changes the arrays."""

    places: Ints
    """Places of the strata in `metadata_db.columns.Columns`."""
    numbers: Numbers
    """A row for each of `FILES` and so on, a column for each of the places."""

    def __len__(self) -> int:
        return len(self.places)

    @property
    def nbytes(self) -> int:
        """Memory that the arrays take."""
        return self.places.nbytes + self.numbers.nbytes

    def where(self, chosen: Chosen) -> "Sums":
        """Return the sums of some of the strata."""
        return Sums(places=self.places[chosen], numbers=some_of(self.numbers, chosen))

    def total(self) -> "Total":
        """Return what all of them have together."""
        files, high, low, print_high, print_low = (int(number) for number in self.numbers.sum(axis=1))
        return Total(files=files, bytes=(high << 32) + low, checksum=set_checksum(print_high, print_low))


@dataclass(frozen=True, kw_only=True, slots=True)
class Total:
    """Number of files, their bytes, and the checksum of their set."""

    files: int
    bytes: int
    checksum: str


NOTHING = Sums(places=np.empty(0, np.int32), numbers=np.empty((N_NUMBERS, 0), np.int64))


def some_of(numbers: Numbers, chosen: Chosen) -> Numbers:
    """Return some columns of numbers."""
    if isinstance(chosen, slice):
        return numbers[:, chosen]
    # Several times as quick as an index.
    return numbers.take(np.flatnonzero(chosen) if chosen.dtype == np.bool_ else chosen, axis=1)


def joined(parts: Sequence[Sums]) -> Sums:
    """Return sums one after another; a stratum may be there several times."""
    if len(parts) == 1:
        return parts[0]
    if not parts:
        return NOTHING
    return Sums(
        places=np.concatenate([part.places for part in parts]),
        numbers=np.concatenate([part.numbers for part in parts], axis=1),
    )


def add_up(parts: Sequence[Sums]) -> Sums:
    """Return the sums of each stratum, once."""
    whole = joined(parts)
    if not len(whole):
        return NOTHING
    places, at = numbered(whole.places)
    numbers = summed(whole.numbers, at, len(places))
    is_left: NDArray[np.bool_] = np.logical_or.reduce(numbers != 0)
    return Sums(places=places, numbers=numbers).where(is_left)


def summed(numbers: Numbers, at: "NDArray[np.integer[Any]]", n: int) -> Numbers:
    """Return rows of `n` sums, to which each column of numbers is added at its place."""
    found = np.zeros((len(numbers), n), np.int64)
    for into, row in zip(found, numbers, strict=True):
        np.add.at(into, at, row)
    return found


def whole_bytes(numbers: Numbers) -> list[int]:
    """Return the bytes of columns of numbers."""
    return [(high << 32) + low for high, low in numbers[[BYTES_HIGH, BYTES_LOW]].T.tolist()]


def numbered(keys: "NDArray[T]") -> "tuple[NDArray[T], NDArray[np.intp]]":
    """Return the different ones of some whole numbers from 0 on, in order, and at which of them each one is.

    By counting, which is quicker than sorting: they must not be far apart.
    """
    is_there = np.zeros(int(keys.max(initial=0)) + 1, np.bool_)
    is_there[keys] = True
    different = np.flatnonzero(is_there)
    numbers = np.empty(len(is_there), np.intp)
    numbers[different] = np.arange(len(different))
    return different.astype(keys.dtype), numbers[keys]


# --- what statements tell ---------------------------------------------------------------------------------------------

TOLD = ("stratum_id", "files", *(f"{name}_{part}" for name in ("bytes", "high", "low") for part in ("over", "rest")))
"""Columns in which statements tell sums: each number of 64 bits or more as how often 2**32 is in it, and the rest."""


def told_by_files(alias: str = "f") -> tuple[str, ...]:
    """Return what is summed over files, beside their number, to tell their sums."""
    columns = (f"{alias}.{name}" for name in ("size_bytes", "fingerprint_high", "fingerprint_low"))
    return tuple(text for name in columns for text in (f"{name} >> 32", f"{name} & 4294967295"))


def told_by_sums() -> tuple[str, ...]:
    """Return the same of a row of a roll-up."""
    columns = ("bytes", "fingerprint_high", "fingerprint_low")
    return tuple(text for name in columns for text in (f"div({name}, 4294967296)", f"mod({name}, 4294967296)"))


def gathered(columns: Sequence[str]) -> str:
    """Return the columns of one row that holds all rows of a source as arrays: strata, and the numbers `TOLD`."""
    ids, *numbers = columns
    return ", ".join([f"array_agg({ids})", *(f"array_agg(({number})::int8)" for number in numbers)])


def read_sums(places: Ints, told: Sequence[Numbers]) -> Sums:
    """Return the sums of the arrays of numbers that `gathered` told, at the places of their strata.

    A stratum that does not exist, whose place is -1, is left out: its files can be counted by nothing.
    """
    files, bytes_over, bytes_rest, high_over, high_rest, low_over, low_rest = told
    high, low = (high_over << 32) + high_rest, (low_over << 32) + low_rest
    found = Sums(places=places, numbers=np.stack([files, bytes_over, bytes_rest, high, low]))
    return found.where(places >= 0) if (places < 0).any() else found
