"""Reads free text: what a regular expression finds, and lines by their number."""

import re
from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any, BinaryIO

from extractors.errors import AddressError, ContentError
from extractors.readers.address import Address
from extractors.readers.cells import ColumnMaker
from extractors.readers.lines import (
    HEADER_BYTES,
    TextOptions,
    check_text,
    iter_lines,
    matched_text,
    parse_pattern,
)
from extractors.readers.reader import Content, RawValue, Reader, ReadLimits
from extractors.readers.reductions import reduce_columns

if TYPE_CHECKING:
    from numpy.typing import NDArray

MAX_LINE_BYTES = 64 * 1024
"""Longest line that is searched: regular expressions can take a time that grows faster than the line."""

PIECE_LINES = 20_000
"""Lines after which what was found goes on to the reductions."""

_LINE = re.compile(r"line\[(?P<number>[1-9]\d{0,8})\]")
_EXPECTED = "/regular expression/, line[3], count(/expression/) or another reduction of one, or rows(lines)"
_TOO_LONG = f"has more than {MAX_LINE_BYTES} bytes and was not read"


class TextReader(Reader):
    r"""Reads text: ``/^run: (\d+)/`` is what the group finds first, ``line[3]`` the third line.

    The expression is tried on each line alone. ``count(/^event:/)``, ``min(/E=(\S+)/)`` and the other reductions take
    everything it finds, which are numbers if all of it is; ``rows(lines)`` is the number of lines.
    """

    Options = TextOptions

    def check(self, address: Address) -> None:
        """Raise `AddressError` unless `address` has one of the shapes above."""
        _parse(address)

    def read(self, stream: BinaryIO, addresses: Collection[Address], *, limits: ReadLimits) -> Content:
        """Return what is found at `addresses`, all of it text but for reductions.

        With headers only, no more than the first mebibyte is searched.
        """
        asked = [address for address in addresses if not (limits.header_only and address.reduction)]
        search = _Search(asked)
        max_bytes = HEADER_BYTES if limits.header_only else None
        lines = iter_lines(stream, self.options, max_line_bytes=MAX_LINE_BYTES, max_bytes=max_bytes)
        reductions = [address for address in asked if address.reduction not in (None, "rows")]
        reduced = reduce_columns(reductions, search.iter_pieces(lines), units={})
        places = {address.text: address.places for address in reductions}
        return search.columns.correct(reduced, places).joined_with(search.result())


@lru_cache(maxsize=4096)
def _parse(address: Address) -> re.Pattern[str] | int:
    """Return the expression of `address`, or the number of its line; 0 are all lines."""
    if address.reduction == "rows":
        if address.places != ("lines",):
            raise AddressError(address.text, _EXPECTED)
        return 0
    if len(address.places) != 1:
        raise AddressError(address.text, _EXPECTED)
    pattern = parse_pattern(address.place)
    if pattern is not None:
        return pattern
    line = _LINE.fullmatch(address.place)
    if line is None or address.reduction is not None:
        raise AddressError(address.text, _EXPECTED)
    return int(line["number"])


class _Search:
    """One way through the lines of a text, which finds single values and columns alike."""

    def __init__(self, addresses: Sequence[Address]) -> None:
        parsed = [(address, _parse(address)) for address in addresses]
        singles = [(address, target) for address, target in parsed if address.reduction is None]
        self._wanted_lines: dict[int, list[str]] = defaultdict(list)
        for address, target in singles:
            if isinstance(target, int):
                self._wanted_lines[target].append(address.text)
        self._first = {address.text: target for address, target in singles if isinstance(target, re.Pattern)}
        self._every = {
            address.place: target
            for address, target in parsed
            if address.reduction is not None and isinstance(target, re.Pattern)
        }
        self._counts = [address.text for address in addresses if address.reduction == "rows"]
        self._reads_all = bool(self._every or self._counts)
        self._n_lines = 0
        self._unread: int | None = None
        self._values: dict[str, RawValue] = {}
        self._oddities: dict[str, str] = {}
        self.columns = ColumnMaker({})

    def iter_pieces(self, lines: Iterator[str | None]) -> Iterator[Mapping[str, "NDArray[Any]"]]:
        """Return what every expression finds, piece by piece, and see to the single values on the way."""
        found: dict[str, list[str]] = {place: [] for place in self._every}
        for line in lines:
            self._n_lines += 1
            self._take_line(line)
            if line is not None:
                self._find_first(line)
                for place, pattern in self._every.items():
                    found[place] += [matched_text(match) or "" for match in pattern.finditer(line)]
            if self._n_lines % PIECE_LINES == 0:
                yield self._piece(found)
            if not (self._reads_all or self._first or self._wanted_lines):
                break
        yield self._piece(found)

    def _piece(self, found: dict[str, list[str]]) -> dict[str, "NDArray[Any]"]:
        piece = {place: self.columns.make(place, cells) for place, cells in found.items()}
        for cells in found.values():
            cells.clear()
        return piece

    def _take_line(self, line: str | None) -> None:
        if line is None and self._unread is None:
            self._unread = self._n_lines
            for place in self._every:
                self.columns.oddities[place] = f"line {self._n_lines} {_TOO_LONG}"
        for text in self._wanted_lines.pop(self._n_lines, ()):
            if line is None:
                self._oddities[text] = f"the line {_TOO_LONG}"
            else:
                self._keep(text, line)

    def _find_first(self, line: str) -> None:
        for text, pattern in list(self._first.items()):
            match = pattern.search(line)
            value = None if match is None else matched_text(match)
            if value is not None:
                self._keep(text, value)
                del self._first[text]

    def _keep(self, text: str, value: str) -> None:
        try:
            self._values[text] = RawValue(value=check_text(value))
        except ContentError as error:
            self._oddities[text] = str(error)

    def result(self) -> Content:
        """Return the single values, once all lines have passed."""
        values = {**self._values, **{text: RawValue(value=self._n_lines) for text in self._counts}}
        if self._unread is not None:
            self._oddities.update(dict.fromkeys(self._first, f"not found, but line {self._unread} {_TOO_LONG}"))
        return Content(values=values, oddities=self._oddities)
