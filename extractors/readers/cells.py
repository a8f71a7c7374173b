"""Columns of text become columns of numbers where every cell is one.

A column keeps one type over all its pieces, because reductions compare what came early with what comes late.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from extractors.errors import ContentError
from extractors.readers.lines import check_text
from extractors.readers.reader import Content, Plain

if TYPE_CHECKING:
    from numpy.typing import NDArray

CellKind: TypeAlias = Literal["text", "number", "boolean", "array"]
"""``array``: a JSON array in each cell, as ECSV has them; its elements are the values."""

EXACT_FLOAT_LIMIT = 2**53
"""From here on not every whole number is a float."""

_INT64 = (-(2**63), 2**63 - 1)
_UINT64 = (0, 2**64 - 1)
_BOOLEANS = {"true": True, "false": False}


class ColumnMaker:
    """Makes arrays of cells, piece by piece.

    Parameters
    ----------
    kinds
        What the cells of a place are, where the file or the Description says so; elsewhere the first cells tell.
    decimal
        What stands between whole and fraction.
    """

    def __init__(self, kinds: Mapping[str, CellKind], *, decimal: str = ".") -> None:
        self._kinds: dict[str, CellKind] = dict(kinds)
        self._decimal = decimal
        self.oddities: dict[str, str] = {}
        """Place → why its column cannot be told."""

    def make(self, place: str, cells: Sequence[str]) -> "NDArray[Any]":
        """Return some cells of the column at `place`; those without a value are NaN, or empty in a column of texts."""
        try:
            return self._make(place, [cell.strip() for cell in cells])
        except ContentError as error:
            self.oddities.setdefault(place, str(error))
            return column_of_values([None] * len(cells))

    def _make(self, place: str, cells: list[str]) -> "NDArray[Any]":
        kind = self._kinds.get(place)
        if kind == "array":
            return column_of_values(value for cell in cells for value in _elements(cell))
        if kind == "boolean":
            return column_of_values([_boolean(cell) for cell in cells])
        if kind == "text":
            return _texts(cells)
        numbers = _numbers(cells, self._decimal)
        if numbers is None and kind is None:
            self._kinds[place] = "text"
            return _texts(cells)
        if numbers is None:
            odd = next(cell for cell in cells if _numbers([cell], self._decimal) is None)
            raise ContentError(f"{place} holds {odd[:40]!r} in a column of numbers")
        if any(cells):
            self._kinds[place] = "number"
        return numbers

    def correct(self, content: Content, places: Mapping[str, Sequence[str]]) -> Content:
        """Return `content` without the values of columns that turned out odd; `places` has those of each address."""
        odd = {
            text: self.oddities[place]
            for text, of_address in places.items()
            for place in of_address
            if place in self.oddities
        }
        values = {text: value for text, value in content.values.items() if text not in odd}
        return Content(values=values, oddities={**content.oddities, **odd})


def column_of_values(values: Iterable[Plain | None]) -> "NDArray[Any]":
    """Return a column of numbers, of truths or, when there is any text among the values, of texts; None is no value."""
    import numpy as np

    listed = list(values)
    kinds = {type(value) for value in listed if value is not None}
    if kinds == {bool} and None not in listed:
        return np.array(listed, dtype=bool)
    if kinds <= {int, float}:
        numbers = _number_column([value for value in listed if not isinstance(value, str)])
        if numbers is not None:
            return numbers
    return _texts(["" if value is None else _spell(value) for value in listed])


def _spell(value: Plain) -> str:
    return str(value).lower() if isinstance(value, bool) else check_text(str(value))


def _texts(cells: Sequence[str]) -> "NDArray[Any]":
    import numpy as np

    column = np.empty(len(cells), dtype=object)
    for row, cell in enumerate(cells):
        column[row] = check_text(cell)
    return column


def _numbers(cells: Sequence[str], decimal: str) -> "NDArray[Any] | None":
    """Return the numbers that `cells` spell, or None when one of them spells none."""
    if decimal != ".":
        cells = [cell.replace(decimal, ".") for cell in cells]
    if any("_" in cell for cell in cells):  # Python reads 1_000 as a number, no file means it so
        return None
    try:
        return _number_column([int(cell) if cell else None for cell in cells])
    except ValueError:
        pass
    try:
        return _number_column([float(cell) if cell else None for cell in cells])
    except ValueError:
        return None


def _number_column(values: Sequence[int | float | None]) -> "NDArray[Any] | None":
    """Return the values as integers or floats, or None when that would round a whole number."""
    import numpy as np

    whole = [value for value in values if isinstance(value, int)]
    if whole and len(whole) == len(values):
        low, high = min(whole), max(whole)
        for dtype, (least, largest) in ((np.int64, _INT64), (np.uint64, _UINT64)):
            if least <= low and high <= largest:
                return np.array(whole, dtype=dtype)
        return None
    if any(abs(value) > EXACT_FLOAT_LIMIT for value in whole):
        return None
    return np.array([np.nan if value is None else value for value in values], dtype=np.float64)


def _boolean(cell: str) -> bool | None:
    if not cell:
        return None
    if cell.lower() not in _BOOLEANS:
        raise ContentError(f"holds {cell[:40]!r}, expected true or false")
    return _BOOLEANS[cell.lower()]


def _elements(cell: str) -> list[Plain | None]:
    if not cell:
        return []
    try:
        rest = [json.loads(cell)]
    except (ValueError, RecursionError) as error:
        raise ContentError(f"holds {cell[:40]!r}, expected a JSON array") from error
    found: list[Plain | None] = []
    while rest:
        value = rest.pop()
        if isinstance(value, list):
            rest += reversed(value)
        elif value is None or isinstance(value, Plain):
            found.append(value)
        else:
            raise ContentError(f"holds {cell[:40]!r}, expected an array of plain values")
    return found
