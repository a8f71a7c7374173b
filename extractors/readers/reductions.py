"""Reductions of columns: pieces of columns in, one value per address out.

Every reader of tables hands its columns on in pieces, so that memory stays flat however long the table is. What counts
as a value is decided here, alike for all formats: finite, not a missing-value mark, within the valid range, not empty.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from extractors.errors import ContentError
from extractors.readers.address import Address
from extractors.readers.reader import Content, Plain, RawValue

if TYPE_CHECKING:
    from numpy.typing import NDArray

MAX_DISTINCT = 1000
"""Most different values that are told one by one: a description of a file, not its data."""

MAX_COUNTED = 5_000_000
"""Most different values that are counted, for they have to be remembered."""

MAX_LISTED = 2_000_000
"""Most values of a whole column, as an index table has them."""


def reduce_columns(
    addresses: Sequence[Address],
    pieces: Iterable[Mapping[str, "NDArray[Any]"]],
    *,
    units: Mapping[str, str | None],
) -> Content:
    """Return the values of reductions over one table.

    Parameters
    ----------
    addresses
        Reductions, but not ``rows``.
    pieces
        The table, piece by piece: place → values of some rows, one-dimensional, of one length for all places. A place
        that the table does not have is missing in all pieces; its addresses get no value.
    units
        Place → unit that the file states.
    """
    running = {address.text: _REDUCTIONS[address.reduction or ""](address) for address in addresses}
    oddities: dict[str, str] = {}
    for piece in pieces:
        for text, reduction in list(running.items()):
            places = reduction.address.places
            if any(place not in piece for place in places):
                continue
            try:
                columns = [piece[place] for place in places]
                reduction.feed(columns if reduction.takes_all else _clean(columns, reduction.address))
            except ContentError as error:
                oddities[text] = str(error)
                del running[text]
    values = {}
    for text, reduction in running.items():
        value = reduction.result()
        if value is not None:
            values[text] = RawValue(value=value, unit=_unit(reduction, units))
    return Content(values=values, oddities=oddities)


def _unit(reduction: "_Reduction", units: Mapping[str, str | None]) -> str | None:
    is_in_unit = reduction.has_unit and len(reduction.address.places) == 1
    return units.get(reduction.address.place) if is_in_unit else None


# ------------------------------------------------------------------------------------------------ what counts


def _clean(columns: Sequence["NDArray[Any]"], address: Address) -> list["NDArray[Any]"]:
    """Return the rows in which every column has a value; what a masked array masks is none."""
    import numpy as np

    columns = [_texts(column) if column.dtype.kind in "OSU" else column for column in columns]
    keep = _is_value(columns[0], address)
    for column in columns[1:]:
        keep = keep & _is_value(column, address, is_first=False)
    return [np.ma.getdata(column)[keep] for column in columns]


def _is_value(column: "NDArray[Any]", address: Address, *, is_first: bool = True) -> "NDArray[Any]":
    import numpy as np

    if column.ndim != 1:
        raise ContentError(f"{address.place} holds lists, not single values")
    if column.dtype.kind == "O":
        words = {str(mark) for mark in address.missing} | {""}
        return np.fromiter((text not in words for text in column), dtype=bool, count=len(column))
    keep = ~np.ma.getmaskarray(column)
    column = np.ma.getdata(column)
    if column.dtype.kind in "fc":
        keep &= np.isfinite(column)
    for mark in address.missing:
        if not isinstance(mark, str):
            keep &= column != mark
    low, high = address.valid
    if is_first and low is not None:
        keep &= column >= low
    if is_first and high is not None:
        keep &= column <= high
    return keep


def _texts(column: "NDArray[Any]") -> "NDArray[Any]":
    import numpy as np

    texts = np.empty(len(column), dtype=object)
    for row, value in enumerate(column):
        texts[row] = _text(value)
    return texts


def _text(value: Any) -> str:
    if isinstance(value, bytes):
        return value.rstrip(b"\0").decode("utf-8", "replace").strip()
    return str(value).strip()


def _row(columns: Sequence["NDArray[Any]"], index: int) -> Plain | tuple[Plain, ...]:
    parts = tuple(_plain(column[index]) for column in columns)
    return parts[0] if len(parts) == 1 else parts


def _plain(value: Any) -> Plain:
    plain = value.item() if hasattr(value, "item") else value
    if isinstance(plain, Plain):
        return plain
    raise ContentError(f"a value of type {type(plain).__name__} is neither text nor a number")


# ------------------------------------------------------------------------------------------------- reductions


class _Reduction(ABC):
    """One reduction on its way through a table."""

    has_unit = True
    """Whether the result is in the unit of the column."""

    takes_all = False
    """Whether also rows without a value are to be fed."""

    def __init__(self, address: Address) -> None:
        self.address = address

    @abstractmethod
    def feed(self, columns: Sequence["NDArray[Any]"]) -> None:
        """Take the next rows; all of them have values."""

    @abstractmethod
    def result(self) -> Plain | tuple[Plain, ...] | None:
        """Return the value, or None when there was none."""


class _Count(_Reduction):
    has_unit = False

    def __init__(self, address: Address) -> None:
        super().__init__(address)
        self._n: int | None = None

    def feed(self, columns: Sequence["NDArray[Any]"]) -> None:
        self._n = (self._n or 0) + len(columns[0])

    def result(self) -> int | None:
        return self._n


class _Extreme(_Reduction):
    """The least or largest row; columns after the first decide between equal ones."""

    def __init__(self, address: Address) -> None:
        super().__init__(address)
        self._choose: Callable[..., Any] = min if address.reduction == "min" else max
        self._best: Any = None

    def feed(self, columns: Sequence["NDArray[Any]"]) -> None:
        if not len(columns[0]):
            return
        for place, column in zip(self.address.places, columns, strict=True):
            if column.dtype.kind not in "iufb":
                raise ContentError(f"{place} is no column of numbers")
        rest = list(columns)
        for level in range(len(rest)):
            extreme = rest[level].min() if self._choose is min else rest[level].max()
            keep = rest[level] == extreme
            rest = [part[keep] for part in rest]
        row = _row(rest, 0)
        self._best = row if self._best is None else self._choose(self._best, row)

    def result(self) -> Plain | tuple[Plain, ...] | None:
        best: Plain | tuple[Plain, ...] | None = self._best
        return best


class _Sum(_Reduction):
    def __init__(self, address: Address) -> None:
        super().__init__(address)
        self._total: int | float | None = None

    def feed(self, columns: Sequence["NDArray[Any]"]) -> None:
        column = columns[0]
        if column.dtype.kind not in "iufb":
            raise ContentError(f"{self.address.place} is no column of numbers")
        if len(column):
            # Whole numbers are summed without a limit, for 64 bits overflow silently.
            part = sum(column.tolist()) if column.dtype.kind in "iub" else float(column.sum())
            self._total = part if self._total is None else self._total + part

    def result(self) -> int | float | None:
        return self._total


class _End(_Reduction):
    """The first or the last row."""

    def __init__(self, address: Address) -> None:
        super().__init__(address)
        self._row: Plain | tuple[Plain, ...] | None = None

    def feed(self, columns: Sequence["NDArray[Any]"]) -> None:
        if not len(columns[0]):
            return
        if self.address.reduction == "last":
            self._row = _row(columns, -1)
        elif self._row is None:
            self._row = _row(columns, 0)

    def result(self) -> Plain | tuple[Plain, ...] | None:
        return self._row


class _Different(_Reduction):
    """The different rows: themselves, how many they are, or the only one."""

    _most = MAX_DISTINCT

    def __init__(self, address: Address) -> None:
        super().__init__(address)
        self._rows: set[Any] = set()

    def feed(self, columns: Sequence["NDArray[Any]"]) -> None:
        if len(columns) > 1 and self.address.reduction == "distinct":
            raise ContentError(f"{self.address.text} lists several columns, expected one")
        lists = [column.tolist() for column in columns]
        self._rows.update(lists[0] if len(lists) == 1 else zip(*lists, strict=True))
        if len(self._rows) > self._most:
            raise ContentError(f"{self.address.text} has more than {self._most} different values")

    def result(self) -> Plain | tuple[Plain, ...] | None:
        # Text sorts after numbers; a column of both is odd, but no reason to fail.
        return tuple(sorted(self._rows, key=lambda row: (isinstance(row, str), row))) if self._rows else None


class _HowManyDifferent(_Different):
    has_unit = False
    _most = MAX_COUNTED

    def __init__(self, address: Address) -> None:
        super().__init__(address)
        self._has_fed = False

    def feed(self, columns: Sequence["NDArray[Any]"]) -> None:
        self._has_fed = True
        super().feed(columns)

    def result(self) -> int | None:
        return len(self._rows) if self._has_fed else None


class _Only(_Different):
    """The value of a column that has but one; nothing when there are several, which is nothing odd."""

    def feed(self, columns: Sequence["NDArray[Any]"]) -> None:
        if len(self._rows) < 2:
            super().feed([column[:1] for column in columns])
            if any((column != column[0]).any() for column in columns if len(column)):
                self._rows.add(None)

    def result(self) -> Plain | tuple[Plain, ...] | None:
        value: Plain | tuple[Plain, ...] | None = next(iter(self._rows)) if len(self._rows) == 1 else None
        return value


class _All(_Reduction):
    """Every row, also those without a value, so that columns stay side by side."""

    takes_all = True

    def __init__(self, address: Address) -> None:
        super().__init__(address)
        self._values: list[Plain] = []

    def feed(self, columns: Sequence["NDArray[Any]"]) -> None:
        self._values += _listed(columns[0])
        if len(self._values) > MAX_LISTED:
            raise ContentError(f"{self.address.text} has more than {MAX_LISTED} values")

    def result(self) -> tuple[Plain, ...] | None:
        return tuple(self._values) if self._values else None


def _listed(column: "NDArray[Any]") -> list[Plain]:
    import numpy as np

    if column.dtype.kind in "OSU":
        return list(_texts(column))
    values: list[Plain] = np.ma.getdata(column).tolist()
    for row in np.ma.getmaskarray(column).nonzero()[0].tolist():
        values[row] = math.nan
    return values


_REDUCTIONS: Mapping[str, type[_Reduction]] = {
    "count": _Count,
    "min": _Extreme,
    "max": _Extreme,
    "sum": _Sum,
    "first": _End,
    "last": _End,
    "only": _Only,
    "distinct": _Different,
    "n_distinct": _HowManyDifferent,
    "all": _All,
}
