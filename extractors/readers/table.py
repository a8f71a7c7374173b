"""Reads tables that are written as text: delimited or of fixed width, with or without names, and ECSV."""

import csv
import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Annotated, Any, BinaryIO, Literal

import msgspec
from msgspec import Meta

from extractors.errors import AddressError, ContentError
from extractors.readers.address import Address
from extractors.readers.cells import CellKind
from extractors.readers.lines import (
    HEADER_BYTES,
    TextOptions,
    check_text,
    iter_lines,
    matched_text,
    parse_pattern,
)
from extractors.readers.pointers import find_single, parse_pointer
from extractors.readers.reader import Content, RawValue, Reader, ReadLimits
from extractors.readers.tabular import Heading, TableScan, column_number, parse_cell
from extractors.readers.yaml_loading import load_yaml

MAX_LINE_BYTES = 4 * 1024**2
"""Longest line of a table; some are transposed, with all values of a quantity in one line."""

MAX_TRANSPOSED_CELLS = 2_000_000
"""Most cells of a transposed table, which has to be held whole until its names are known."""

MAX_HEADER_LINES = 10_000
"""Longest header of an ECSV file, which is YAML and held whole."""

_EXPECTED = "NAME[row], #number[row], /regular expression/, a reduction of NAME or #number, or rows(table)"
_EXPECTED_IN_ECSV = "meta/KEY, NAME[row], #number[row], a reduction of NAME or #number, or rows(table)"


class TableOptions(TextOptions, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How a table is written."""

    delimiter: Annotated[str, Meta(min_length=1, max_length=1)] | None = None
    """What stands between cells; any white space unless given."""
    header: bool | Literal["comment"] | None = None
    """Whether the first line has the names, or the last comment before the rows; true unless `columns` are given."""
    columns: tuple[str, ...] = ()
    """Names of the columns where the file has none."""
    widths: tuple[Annotated[int, Meta(ge=1)], ...] = ()
    """How many characters wide the columns are, for text of fixed width."""
    comment: str = "#"
    """How comments begin; nothing for a table without any."""
    skip: Annotated[int, Meta(ge=0)] = 0
    """Lines before the table."""
    quote: Annotated[str, Meta(max_length=1)] = '"'
    """What encloses cells that hold delimiters; nothing for a table without any."""
    decimal: Literal[".", ","] = "."
    transposed: bool = False
    """Whether each line is a column."""
    units: dict[str, str] | Literal["row"] = msgspec.field(default_factory=dict)
    """Units of columns by name or number, or that they stand in the line after the names."""
    text: tuple[str, ...] = ()
    """Columns that are text though they look like numbers, such as identifiers with leading zeros."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.columns and self.header:
            raise ValueError("found columns and a header, expected one of them")
        if self.widths and self.delimiter is not None:
            raise ValueError("found widths and a delimiter, expected one of them")
        if self.transposed and self.units == "row":
            raise ValueError("found units in a row of a transposed table, expected them by the names of columns")

    @property
    def heads(self) -> bool | Literal["comment"]:
        """Where the names are in the file."""
        return not self.columns if self.header is None else self.header

    @property
    def known_units(self) -> Mapping[str, str]:
        """The units that do not have to be read."""
        return self.units if isinstance(self.units, dict) else {}


class TableReader(Reader):
    """Reads tables: ``min(energy)`` is a column by its name, ``min(#3)`` by its number, ``energy[1]`` a single cell.

    ``rows(table)`` is the number of rows, without header, comments and blank lines. ``/Station: (.*)/`` searches the
    comments and the lines that `skip` passes over.
    """

    Options = TableOptions

    def __init__(self, options: Any = None, folder: Path | None = None) -> None:
        super().__init__(options, folder)
        self._options: TableOptions = self.options

    def check(self, address: Address) -> None:
        """Raise `AddressError` unless `address` has one of the shapes above and no column that cannot be there."""
        if address.reduction is None and parse_pattern(address.place) is not None:
            return
        columns = _columns_of(address, _EXPECTED)
        if self._options.heads is not False:
            return
        for column in columns:
            if column_number(column) is None and column not in self._options.columns:
                known = ", ".join(self._options.columns) or "none has a name"
                raise AddressError(address.text, f"a column by its number, such as #1, or by a known name ({known})")

    def read(self, stream: BinaryIO, addresses: Collection[Address], *, limits: ReadLimits) -> Content:
        """Return what the table says at `addresses`; cells are text, columns numbers where all their cells are."""
        asked = [address for address in addresses if not (limits.header_only and address.reduction)]
        if not asked:
            return Content()
        patterns = {address.text: parse_pattern(address.place) for address in asked if address.reduction is None}
        expressions = {text: pattern for text, pattern in patterns.items() if pattern is not None}
        options = self._options
        max_bytes = HEADER_BYTES if limits.header_only else None
        raw_lines = iter_lines(stream, options, max_line_bytes=MAX_LINE_BYTES, max_bytes=max_bytes)
        lines = _TableLines(raw_lines, options, expressions)
        others = [address for address in asked if address.text not in expressions]
        try:
            rows = _split(lines, delimiter=options.delimiter, quote=options.quote, widths=options.widths)
            content = self._read_rows(rows, lines, others)
        except csv.Error as error:
            raise ContentError(f"this is no table as described: {error}") from error
        return content.joined_with(lines.result())

    def _read_rows(self, rows: Iterator[list[str]], lines: "_TableLines", addresses: Sequence[Address]) -> Content:
        options = self._options
        if options.transposed:
            named = _name_lines(rows, lines, options)
            heading = _heading([name for name, _ in named], options, options.known_units)
            return TableScan(addresses, heading, decimal=options.decimal).read_transposed(named)
        names, rows = _take_names(rows, lines, options)
        units = options.known_units
        if options.units == "row":
            units = dict(zip(names, (cell.strip().strip("[]()") for cell in next(rows, [])), strict=False))
        heading = _heading(names, options, units)
        return TableScan(addresses, heading, decimal=options.decimal).read(rows, is_done=lines.is_done)


def _columns_of(address: Address, expected: str) -> tuple[str, ...]:
    """Return the columns that an address needs, or raise `AddressError` when it is of another kind."""
    if address.reduction is None:
        cell = parse_cell(address.place)
        if cell is None:
            raise AddressError(address.text, expected)
        return (cell.column,)
    is_odd = address.places != ("table",) if address.reduction == "rows" else address.place.startswith(("/", "meta/"))
    if is_odd:
        raise AddressError(address.text, expected)
    return () if address.reduction == "rows" else address.places


def _heading(names: Sequence[str], options: TableOptions, units: Mapping[str, str]) -> Heading:
    kinds: dict[str, CellKind] = dict.fromkeys(options.text, "text")
    return Heading(names=names, units=units, kinds=kinds)


def _take_names(
    rows: Iterator[list[str]], lines: "_TableLines", options: TableOptions
) -> tuple[Sequence[str], Iterator[list[str]]]:
    """Return the names of the columns, and the rows without the header."""
    if options.heads is False:
        return options.columns, rows
    first = next(rows, None)
    if options.heads == "comment":
        return _names_in_comment(lines, options), chain([] if first is None else [first], rows)
    if first is None:
        raise ContentError("the table has no line with the names of its columns")
    return [name.strip() for name in first], rows


def _names_in_comment(lines: "_TableLines", options: TableOptions) -> list[str]:
    comment = lines.last_comment.removeprefix(options.comment).strip()
    delimiter = options.delimiter if options.delimiter and options.delimiter in comment else None
    return [name.strip() for name in comment.split(delimiter)]


def _name_lines(rows: Iterator[list[str]], lines: "_TableLines", options: TableOptions) -> list[tuple[str, list[str]]]:
    """Return the columns of a transposed table, each with its name, which is empty if it has none."""
    first = next(rows, None)
    if first is None:
        return []
    names = _names_in_comment(lines, options) if options.heads == "comment" else options.columns
    named: list[tuple[str, list[str]]] = []
    n_cells = 0
    for index, row in enumerate(chain([first], rows)):
        name = names[index] if index < len(names) else ""
        named.append((row[0].strip(), row[1:]) if options.heads is True else (name, row))
        n_cells += len(row)
        if n_cells > MAX_TRANSPOSED_CELLS:
            raise ContentError(f"this transposed table has more than {MAX_TRANSPOSED_CELLS} cells")
    return named


class _TableLines:
    """The lines of a table without its comments and preamble, which are searched in passing."""

    def __init__(
        self, lines: Iterator[str | None], options: TableOptions, expressions: Mapping[str, re.Pattern[str]]
    ) -> None:
        self._lines = lines
        self._options = options
        self._expressions = dict(expressions)
        self._found: dict[str, str] = {}
        self.last_comment = ""

    def __iter__(self) -> Iterator[str]:
        comment, skip = self._options.comment, self._options.skip
        for number, line in enumerate(self._lines, start=1):
            if line is None:
                raise ContentError(f"line {number} has more than {MAX_LINE_BYTES} bytes")
            if number <= skip:
                self._search(line)
            elif comment and line.lstrip().startswith(comment):
                self._search(line)
                self.last_comment = line.strip() if line.strip() != comment else self.last_comment
            elif line.strip():
                yield line

    def _search(self, line: str) -> None:
        for text, pattern in list(self._expressions.items()):
            match = pattern.search(line)
            value = None if match is None else matched_text(match)
            if value is not None:
                self._found[text] = value
                del self._expressions[text]

    def is_done(self) -> bool:
        """Return whether everything that was searched for has been found."""
        return not self._expressions

    def result(self) -> Content:
        """Return what was found so far."""
        values, oddities = {}, {}
        for text, value in self._found.items():
            try:
                values[text] = RawValue(value=check_text(value))
            except ContentError as error:
                oddities[text] = str(error)
        return Content(values=values, oddities=oddities)


def _split(
    lines: Iterable[str], *, delimiter: str | None, quote: str, widths: Sequence[int] = ()
) -> Iterator[list[str]]:
    """Return the cells of each row."""
    if widths:
        return (_cut(line, widths) for line in lines)
    if delimiter is None:
        return (_split_at_blanks(line, quote) for line in lines)
    ended = (f"{line}\n" for line in lines)  # for cells that hold line ends
    return _csv_rows(ended, delimiter, quote)


def _csv_rows(lines: Iterable[str], delimiter: str, quote: str) -> Iterator[list[str]]:
    # Strict, because a lone quote would otherwise swallow the rows that follow.
    quoting: Literal[0, 3] = csv.QUOTE_MINIMAL if quote else csv.QUOTE_NONE
    is_blank = delimiter == " "
    return csv.reader(
        lines, delimiter=delimiter, quotechar=quote or None, quoting=quoting, skipinitialspace=is_blank, strict=True
    )


def _split_at_blanks(line: str, quote: str) -> list[str]:
    if not quote or quote not in line:
        return line.split()
    return next(_csv_rows([line.strip().replace("\t", " ")], " ", quote))


def _cut(line: str, widths: Sequence[int]) -> list[str]:
    cells, begin = [], 0
    for width in widths:
        cells.append(line[begin : begin + width])
        begin += width
    return cells


# ------------------------------------------------------------------------------------------------------- ECSV


class EcsvOptions(TextOptions, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a Description knows better than the header."""

    units: dict[str, str] = msgspec.field(default_factory=dict)
    """Units of columns by name or number; they count before those of the header."""


class EcsvReader(Reader):
    """Reads ECSV: ``min(e_ref)`` is a column with the unit of the header, ``meta/telescope`` a value of its meta data.

    Addresses are otherwise as in other tables. Of a column that holds arrays every element is a value.

    Notes
    -----
    ECSV is Astropy Proposal for Enhancement 6 (APE6).
    """

    Options = EcsvOptions

    def check(self, address: Address) -> None:
        """Raise `AddressError` unless `address` has one of the shapes above."""
        if address.reduction is None and address.place.startswith("meta/"):
            parse_pointer(address.place.removeprefix("meta"))
        else:
            _columns_of(address, _EXPECTED_IN_ECSV)

    def read(self, stream: BinaryIO, addresses: Collection[Address], *, limits: ReadLimits) -> Content:
        """Return what header and table say at `addresses`."""
        asked = [address for address in addresses if not (limits.header_only and address.reduction)]
        max_bytes = HEADER_BYTES if limits.header_only else None
        raw_lines = iter_lines(stream, self.options, max_line_bytes=MAX_LINE_BYTES, max_bytes=max_bytes)
        lines = _plain_lines(raw_lines)
        header, lines = _take_ecsv_header(lines)
        in_meta = [item for item in asked if item.reduction is None and item.place.startswith("meta/")]
        others = [item for item in asked if item not in in_meta]
        content = _read_meta(header.get("meta"), in_meta)
        if not others:
            return content
        try:
            rows = _csv_rows((f"{line.strip()}\n" for line in lines), _ecsv_delimiter(header), '"')
            heading = _ecsv_heading(header, next(rows, []), self.options.units)
            return TableScan(others, heading).read(rows).joined_with(content)
        except csv.Error as error:
            raise ContentError(f"the rows of this ECSV file are damaged: {error}") from error


def _plain_lines(lines: Iterator[str | None]) -> Iterator[str]:
    for number, line in enumerate(lines, start=1):
        if line is None:
            raise ContentError(f"line {number} has more than {MAX_LINE_BYTES} bytes")
        if line.strip():
            yield line


def _take_ecsv_header(lines: Iterator[str]) -> tuple[Mapping[str, Any], Iterator[str]]:
    """Return what the YAML in the comments says, and the lines after it."""
    if not re.match(r"# %ECSV [01]\.", next(lines, "")):
        raise ContentError("this is no ECSV file, expected a first line such as '# %ECSV 1.0'")
    written: list[str] = []
    for line in lines:
        if not line.startswith("#"):
            return _parse_ecsv_header(written), chain([line], lines)
        written.append(line[2:] if line.startswith("# ") else line[1:])
        if len(written) > MAX_HEADER_LINES:
            raise ContentError(f"the header has more than {MAX_HEADER_LINES} lines")
    return _parse_ecsv_header(written), iter(())


def _parse_ecsv_header(lines: Sequence[str]) -> Mapping[str, Any]:
    try:
        written = "\n".join(lines).encode()
    except UnicodeEncodeError as error:
        raise ContentError("the header of this ECSV file is not in the stated encoding") from error
    documents = load_yaml(written)
    header = documents[0] if documents else None
    if not isinstance(header, dict) or not isinstance(header.get("datatype"), list):
        raise ContentError("the header of this ECSV file does not list its columns under datatype")
    return header


def _ecsv_delimiter(header: Mapping[str, Any]) -> str:
    delimiter = header.get("delimiter", " ")
    if delimiter not in (" ", ","):
        raise ContentError(f"found delimiter {str(delimiter)[:40]!r}, expected a blank or a comma")
    return str(delimiter)


def _ecsv_heading(header: Mapping[str, Any], names: Sequence[str], units: Mapping[str, str]) -> Heading:
    columns = [column for column in header["datatype"] if isinstance(column, dict) and "name" in column]
    if [str(column["name"]) for column in columns] != [name for name in names if name]:
        raise ContentError(f"the line of names {', '.join(names)[:200]!r} does not agree with the header's datatype")
    stated = {str(column["name"]): column.get("unit") for column in columns}
    kinds = {str(column["name"]): _ecsv_kind(column) for column in columns}
    known = {
        name: units.get(name) or units.get(f"#{number}") or (unit if isinstance(unit, str) else None)
        for number, (name, unit) in enumerate(stated.items(), start=1)
    }
    return Heading(names=list(stated), units=known, kinds=kinds)


def _ecsv_kind(column: Mapping[str, Any]) -> CellKind:
    datatype, subtype = column.get("datatype"), column.get("subtype")
    if datatype == "string" and isinstance(subtype, str):
        return "array" if "[" in subtype else "text"
    if datatype == "bool":
        return "boolean"
    is_number = isinstance(datatype, str) and re.match(r"u?int\d|float\d", datatype)
    return "number" if is_number else "text"


def _read_meta(meta: Any, addresses: Iterable[Address]) -> Content:
    values, oddities = {}, {}
    for address in addresses:
        try:
            found = find_single([meta], parse_pointer(address.place.removeprefix("meta")))
        except ContentError as error:
            oddities[address.text] = str(error)
            continue
        if found is not None:
            values[address.text] = RawValue(value=found)
    return Content(values=values, oddities=oddities)
