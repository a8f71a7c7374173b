"""What is asked of a table of text, and the one way through its rows that finds it."""

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from extractors.errors import ContentError
from extractors.readers.address import Address
from extractors.readers.cells import CellKind, ColumnMaker
from extractors.readers.lines import check_text
from extractors.readers.reader import Content, RawValue
from extractors.readers.reductions import reduce_columns

if TYPE_CHECKING:
    from numpy.typing import NDArray

PIECE_ROWS = 20_000
"""Rows after which columns go on to the reductions."""

_CELL = re.compile(r"(?P<column>.+)\[(?P<row>[1-9]\d{0,8})\]", re.DOTALL)
_NUMBER = re.compile(r"#(?P<number>[1-9]\d{0,5})")


@dataclass(frozen=True, kw_only=True, slots=True)
class Cell:
    """One cell: a column by name or number, and a row from 1."""

    column: str
    row: int


@lru_cache(maxsize=4096)
def parse_cell(place: str) -> Cell | None:
    """Return the cell that ``NAME[1]`` or ``#3[1]`` means, or None when `place` is none."""
    match = _CELL.fullmatch(place)
    return None if match is None else Cell(column=match["column"].strip(), row=int(match["row"]))


def column_number(column: str) -> int | None:
    """Return the number, from 1, that ``#3`` means, or None when `column` is a name."""
    match = _NUMBER.fullmatch(column)
    return None if match is None else int(match["number"])


@dataclass(frozen=True, kw_only=True, slots=True)
class Heading:
    """What is known of the columns before the first row."""

    names: Sequence[str] = ()
    """In the order of the columns; empty when they have none."""
    units: Mapping[str, str | None] = field(default_factory=dict)
    """By the name or number of a column."""
    kinds: Mapping[str, CellKind] = field(default_factory=dict)

    def find(self, column: str) -> int | None:
        """Return the index of a column, or None when there is none of this name.

        Raises
        ------
        ContentError
            There are several.
        """
        number = column_number(column)
        if number is not None:
            return number - 1
        if Counter(self.names)[column] > 1:
            raise ContentError(f"there are several columns {column!r}; ask for one by its number")
        return self.names.index(column) if column in self.names else None

    def unit(self, column: str) -> str | None:
        """Return the unit of a column, told by its name or by its number."""
        for key in self._keys(column):
            if self.units.get(key):
                return self.units[key]
        return None

    def kind(self, column: str) -> CellKind | None:
        """Return what the cells of a column are, if that is known."""
        return next((self.kinds[key] for key in self._keys(column) if key in self.kinds), None)

    def _keys(self, column: str) -> tuple[str, ...]:
        number = column_number(column)
        if number is not None:
            return (column, self.names[number - 1]) if number <= len(self.names) else (column,)
        return (column, f"#{self.names.index(column) + 1}") if column in self.names else (column,)


class TableScan:
    """One way through a table, which finds cells and reductions alike.

    Parameters
    ----------
    addresses
        Cells, reductions of columns, and ``rows(table)``.
    decimal
        What stands between whole and fraction.
    """

    def __init__(self, addresses: Sequence[Address], heading: Heading, *, decimal: str = ".") -> None:
        self._heading = heading
        self._oddities: dict[str, str] = {}
        self._values: dict[str, RawValue] = {}
        self._counts = [address.text for address in addresses if address.reduction == "rows"]
        self._cells: dict[int, list[tuple[str, str, int]]] = defaultdict(list)
        self._reductions: list[Address] = []
        self._columns: dict[str, int] = {}
        self._n_rows = 0
        for address in addresses:
            try:
                self._ask(address)
            except ContentError as error:
                self._oddities[address.text] = str(error)
        kinds = {place: heading.kind(place) for place in self._columns}
        known = {place: kind for place, kind in kinds.items() if kind is not None}
        self._maker = ColumnMaker(known, decimal=decimal)

    def _ask(self, address: Address) -> None:
        if address.reduction is None:
            cell = parse_cell(address.place)
            index = None if cell is None else self._heading.find(cell.column)
            if cell is not None and index is not None:
                self._cells[cell.row].append((address.text, cell.column, index))
        elif address.reduction != "rows":
            indices = {place: self._heading.find(place) for place in address.places}
            arrays = [place for place in address.places if self._heading.kind(place) == "array"]
            if arrays and len(indices) > 1:
                raise ContentError(f"{arrays[0]} has several values in a row, and cannot be compared row by row")
            self._reductions.append(address)
            self._columns.update({place: index for place, index in indices.items() if index is not None})

    def read(self, rows: Iterable[Sequence[str]], *, is_done: Callable[[], bool] = lambda: True) -> Content:
        """Return what the rows say.

        Parameters
        ----------
        is_done
            Whether nobody else waits for something further down.
        """
        return self._finish(self._iter_pieces(iter(rows), is_done))

    def read_transposed(self, lines: Iterable[tuple[str, Sequence[str]]]) -> Content:
        """Return what a table says that has its columns written as lines, each with its name."""
        return self._finish(iter([self._turn(lines)]))

    def _finish(self, pieces: Iterator[Mapping[str, "NDArray[Any]"]]) -> Content:
        units = {place: self._heading.unit(place) for place in self._columns}
        reduced = reduce_columns(self._reductions, pieces, units=units)
        corrected = self._maker.correct(reduced, {address.text: address.places for address in self._reductions})
        counts = {text: RawValue(value=self._n_rows) for text in self._counts}
        own = Content(values={**self._values, **counts}, oddities=self._oddities)
        return corrected.joined_with(own)

    def _iter_pieces(
        self, rows: Iterator[Sequence[str]], is_done: Callable[[], bool]
    ) -> Iterator[Mapping[str, "NDArray[Any]"]]:
        columns: dict[str, list[str]] = {place: [] for place in self._columns}
        for row in rows:
            self._n_rows += 1
            for text, column, index in self._cells.pop(self._n_rows, ()):
                self._keep(text, column, row[index] if index < len(row) else "")
            for place, index in self._columns.items():
                columns[place].append(row[index] if index < len(row) else "")
            if self._n_rows % PIECE_ROWS == 0:
                yield self._piece(columns)
                columns = {place: [] for place in self._columns}
            if not (self._columns or self._counts or self._cells) and is_done():
                break
        yield self._piece(columns)

    def _turn(self, lines: Iterable[tuple[str, Sequence[str]]]) -> Mapping[str, "NDArray[Any]"]:
        columns: dict[str, Sequence[str]] = {}
        for index, (_, cells) in enumerate(lines):
            self._n_rows = max(self._n_rows, len(cells))
            columns.update({place: cells for place, wanted in self._columns.items() if wanted == index})
            for row, asked in self._cells.items():
                for text, column, wanted in asked:
                    if wanted == index and row <= len(cells):
                        self._keep(text, column, cells[row - 1])
        longest = max(map(len, columns.values()), default=0)
        return self._piece({place: [*cells, *[""] * (longest - len(cells))] for place, cells in columns.items()})

    def _piece(self, columns: Mapping[str, Sequence[str]]) -> dict[str, "NDArray[Any]"]:
        return {place: self._maker.make(place, cells) for place, cells in columns.items()}

    def _keep(self, text: str, column: str, cell: str) -> None:
        if not cell.strip():
            return
        try:
            self._values[text] = RawValue(value=check_text(cell.strip()), unit=self._heading.unit(column))
        except ContentError as error:
            self._oddities[text] = str(error)
