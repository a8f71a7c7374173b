"""Reads headers and columns of FITS files.

The walk from HDU to HDU is done here, so that memory stays flat, no more is read or unpacked than needed, and a header
without an end is refused.
"""

import math
import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any, BinaryIO

from extractors.errors import AddressError, ContentError, ExtractionError
from extractors.readers.address import Address
from extractors.readers.fits_header import CARD_BYTES, FitsHeader
from extractors.readers.fits_table import FitsColumn, find_columns
from extractors.readers.reader import Content, RawValue, Reader, ReadLimits
from extractors.readers.reductions import reduce_columns

if TYPE_CHECKING:
    from numpy.typing import NDArray

BLOCK_BYTES = 2880
"""FITS standard 4.0, section 3.1: everything comes in blocks of this size."""

READ_BYTES = 4 * BLOCK_BYTES
"""Read at once: the first two headers of most files."""

GROWTH_BYTES = 2 * BLOCK_BYTES
"""A header that goes on is read so much further at least."""

MAX_HEADER_BYTES = 2000 * BLOCK_BYTES
"""Longest header read: 72,000 cards, some hundred times the longest of real event files."""

MAX_HDUS = 1000
"""Most HDUs walked through in search of one."""

MAX_FILE_BYTES = 2**43
"""A header that claims a larger file is damaged: 8 TiB is half of what common file systems hold, and they stumble."""

COLUMN_BYTES = 4 * 1024**2
"""Table rows are read in pieces of about this size."""

MAX_ROW_BYTES = 64 * 1024**2
"""Longest row of a table whose columns are read; responses keep a whole grid in one row, but in a smaller one."""

ALL_HDUS = "HDUS"
"""The place of the names of all HDUs, as if they were a column."""

_PRIMARY = "PRIMARY"
_NO_HDU = ""
_TABLES = ("BINTABLE", "TABLE")
_END = b"END".ljust(CARD_BYTES)
_HDU_AND_NAME = re.compile(r"[^()]+\.[^.()*?\s][^.()*?]*")
_EXPECTED = (
    "HDU.KEYWORD, rows(HDU), a reduction of columns of one HDU such as max(HDU.COLUMN), or of HDUS, "
    "with an HDU's name or number"
)


class FitsReader(Reader):
    """Reads FITS: ``EVENTS.OBS_ID`` is a keyword, ``max(EVENTS.ENERGY)`` a column's range, ``rows(EVENTS)`` a count.

    HDUs go by name (the first of several with one name) or by number; number 0 is also called ``PRIMARY``. The names
    of all are a column called ``HDUS``, such as ``distinct(HDUS)``. Keywords COMMENT and HISTORY are all their lines.
    """

    def check(self, address: Address) -> None:
        """Raise `AddressError` unless `address` has one of the shapes above."""
        if address.reduction == "rows":
            is_good = len(address.places) == 1 and not set("()") & set(address.place)
        elif address.reduction is not None and address.places == (ALL_HDUS,):
            is_good = True
        else:
            is_good = all(_HDU_AND_NAME.fullmatch(place) for place in address.places)
            is_good = is_good and len({_split(place)[0] for place in address.places}) == 1
        if not is_good:
            raise AddressError(address.text, _EXPECTED)

    def read(self, stream: BinaryIO, addresses: Collection[Address], *, limits: ReadLimits) -> Content:
        """Return the values at `addresses`; columns are left out when only headers may be read, but HDUS is not.

        Raises
        ------
        ContentError
            This is no FITS file, or it is damaged.
        """
        try:
            return _read(_Source(stream), addresses, header_only=limits.header_only)
        except (ExtractionError, MemoryError):
            raise
        except Exception as error:
            # Whatever a damaged card makes a library stumble over.
            raise ContentError(f"damaged: {type(error).__name__}: {error}") from error


def _read(source: "_Source", addresses: Collection[Address], *, header_only: bool) -> Content:
    values: dict[str, RawValue] = {}
    oddities: dict[str, str] = {}
    asked = _by_hdu(addresses)
    about_names = asked.pop(_NO_HDU, [])
    names: list[str] = []
    for hdu in _iter_hdus(source):
        names.append(hdu.name)
        for name in [name for name in asked if hdu.is_called(name)]:
            # Columns are read on the way: going back in a packed file means unpacking it from the beginning.
            found = _read_hdu(source, hdu, asked.pop(name), header_only=header_only)
            values.update(found.values)
            oddities.update(found.oddities)
        if not asked and not about_names:
            break
    if len(names) == MAX_HDUS:
        missed = [address for group in asked.values() for address, _ in group]
        oddities.update({address.text: f"not in the first {MAX_HDUS} HDUs" for address in missed})
    content = Content(values=values, oddities=oddities)
    return content.joined_with(_read_names([address for address, _ in about_names], names)) if about_names else content


def _by_hdu(addresses: Iterable[Address]) -> dict[str, list[tuple[Address, str]]]:
    """Return HDU → what is asked of it, with the first keyword or column; the names of all HDUs are asked of none."""
    asked: dict[str, list[tuple[Address, str]]] = {}
    for address in addresses:
        place = address.places[0]
        if address.reduction == "rows":
            hdu, name = place.upper(), ""
        elif address.reduction is not None and place == ALL_HDUS:
            hdu, name = _NO_HDU, ""
        else:
            hdu, name = _split(place)
        asked.setdefault(hdu, []).append((address, name))
    return asked


@lru_cache(maxsize=4096)
def _split(place: str) -> tuple[str, str]:
    """Return the HDU, and the keyword or column, both in upper case."""
    hdu, _, name = place.upper().rpartition(".")
    return hdu.strip(), name.strip()


def _read_names(addresses: list[Address], names: list[str]) -> Content:
    import numpy as np

    return reduce_columns(addresses, [{ALL_HDUS: np.array(names, dtype=object)}], units={})


def _read_hdu(source: "_Source", hdu: "_Hdu", asked: list[tuple[Address, str]], *, header_only: bool) -> Content:
    values: dict[str, RawValue] = {}
    oddities: dict[str, str] = {}
    reductions = []
    for address, name in asked:
        if address.reduction is not None and address.reduction != "rows":
            reductions.append(address)
            continue
        try:
            value = hdu.n_rows if address.reduction else hdu.header.get(name)
        except ContentError as error:
            oddities[address.text] = str(error)
            continue
        if value is not None:
            values[address.text] = RawValue(value=value)
    content = Content(values=values, oddities=oddities)
    if header_only or not reductions:
        return content
    return content.joined_with(_read_columns(source, hdu, reductions))


# ---------------------------------------------------------------------------------------------------- HDUs


@dataclass(frozen=True, kw_only=True)
class _Hdu:
    """Header of one HDU, and where its data begin."""

    number: int
    name: str
    """As it is written; empty when it has none."""
    header: FitsHeader
    data_offset: int

    @property
    def n_rows(self) -> int:
        """Rows of a table."""
        if self.header.get_text("XTENSION") not in _TABLES:
            raise ContentError(f"HDU {self.name or self.number} is no table")
        n_rows = self.header.get_whole("NAXIS2")
        if n_rows < 0:
            raise ContentError(f"HDU {self.name or self.number} has NAXIS2 = {n_rows}, expected a number of rows")
        return n_rows

    @property
    def data_bytes(self) -> int:
        """How many bytes follow the header, without padding, by the FITS standard 4.0, sections 4.4.1.1 and 7.1.1."""
        header = self.header
        n_axes = header.get_whole("NAXIS")
        if n_axes == 0:
            return 0
        if not 0 < n_axes <= 999:
            raise ContentError(f"HDU {self.number} has NAXIS = {n_axes}, expected 0 to 999")
        axes = [header.get_whole(f"NAXIS{axis}") for axis in range(1, n_axes + 1)]
        if axes and axes[0] == 0 and header.get("GROUPS") is True:
            axes = axes[1:]
        elements = math.prod(axes)
        n_groups, n_parameters = header.get_whole("GCOUNT", 1), header.get_whole("PCOUNT", 0)
        total = abs(header.get_whole("BITPIX")) // 8 * n_groups * (n_parameters + elements)
        if min(total, *axes, 0) < 0 or self.data_offset + total > MAX_FILE_BYTES:
            raise ContentError(f"the header of HDU {self.number} claims {total} bytes of data, which cannot be")
        return total

    def is_called(self, name: str) -> bool:
        """Tell whether `name`, in upper case, means this HDU."""
        return name in (str(self.number), self.name.upper()) or (self.number == 0 and name == _PRIMARY)


def _iter_hdus(source: "_Source") -> Iterator[_Hdu]:
    offset = 0
    for number in range(MAX_HDUS):
        cards = _read_cards(source, offset, b"XTENSION=" if number else b"SIMPLE  =")
        if cards is None and number == 0:
            raise ContentError("this is no FITS file: it does not begin with SIMPLE")
        if cards is None:
            return
        header = FitsHeader(cards)
        data_offset = _next_block(offset + len(cards) + CARD_BYTES)
        hdu = _Hdu(number=number, name=_find_name(header, number), header=header, data_offset=data_offset)
        yield hdu
        offset = hdu.data_offset
        if size := hdu.data_bytes:
            offset = _next_block(hdu.data_offset + size)
            if not source.read(hdu.data_offset + size - 1, 1):
                raise ContentError(f"the file ends within the data of HDU {hdu.name or number}")


def _find_name(header: FitsHeader, number: int) -> str:
    try:
        stated = header.get_text("EXTNAME")
    except ContentError:
        stated = ""  # a name that cannot be read calls nobody, and is no reason to stop here
    return stated or ("" if number else _PRIMARY)


def _read_cards(source: "_Source", offset: int, begin: bytes) -> bytes | None:
    """Return the cards before ``END`` of the header at `offset`, or None where no header begins."""
    size = max(BLOCK_BYTES, source.at_hand(offset))
    while True:
        raw = source.read(offset, size)
        if not raw.startswith(begin):
            return None
        end = _find_end(raw)
        if end >= 0 and _next_block(end + CARD_BYTES) <= len(raw):
            return raw[:end]
        if len(raw) < size:
            raise ContentError("the file ends within a header")
        if size >= MAX_HEADER_BYTES:
            raise ContentError(f"a header has more than {MAX_HEADER_BYTES // BLOCK_BYTES} blocks")
        size = _next_block(size + max(GROWTH_BYTES, size // 4))


def _find_end(raw: bytes) -> int:
    """Return where the card ``END`` begins, or -1."""
    at = raw.find(_END)
    while at % CARD_BYTES and at >= 0:
        at = raw.find(_END, at + 1)
    return at


def _next_block(offset: int) -> int:
    return -(-offset // BLOCK_BYTES) * BLOCK_BYTES


class _Source:
    """A stream that is read in large pieces and, as long as nobody asks for what was passed, only forward."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self._start = -1
        self._data = b""

    def at_hand(self, offset: int) -> int:
        """Return how many bytes from `offset` on have been read already."""
        return max(0, self._start + len(self._data) - offset) if offset >= self._start else 0

    def read(self, offset: int, size: int) -> bytes:
        """Return `size` bytes from `offset` on, fewer only where the file ends."""
        inside = offset - self._start
        if 0 <= inside <= len(self._data):
            rest = self._data[inside:]
            if len(rest) >= size:
                return rest[:size]
        else:
            self._stream.seek(offset)
            rest = b""
        self._start, self._data = offset, rest + self._read_on(max(READ_BYTES, size) - len(rest))
        return self._data[:size]

    def _read_on(self, size: int) -> bytes:
        pieces = []
        while size > 0 and (piece := self._stream.read(size)):
            pieces.append(piece)
            size -= len(piece)
        return b"".join(pieces)


# ------------------------------------------------------------------------------------------------- columns


def _read_columns(source: _Source, hdu: _Hdu, addresses: list[Address]) -> Content:
    """Return the `addresses`, all of them reductions, of the columns that the table has."""
    oddities: dict[str, str] = {}
    reductions: list[Address] = []
    try:
        columns = _find_columns(hdu, {_split(place)[1] for address in addresses for place in address.places})
    except ContentError as error:
        return Content(oddities={address.text: str(error) for address in addresses})
    for address in addresses:
        own = [column for place in address.places if (column := columns.get(_split(place)[1])) is not None]
        problems = [column.problem for column in own if column.problem is not None]
        if problems:
            oddities[address.text] = problems[0]
        elif len(own) == len(address.places):
            reductions.append(address)
    if not reductions:
        return Content(oddities=oddities)
    places = {place: columns[_split(place)[1]] for address in reductions for place in address.places}
    pieces = _iter_pieces(source, hdu, places)
    units = {place: column.unit for place, column in places.items()}
    return Content(oddities=oddities).joined_with(reduce_columns(reductions, pieces, units=units))


def _find_columns(hdu: _Hdu, wanted: Collection[str]) -> dict[str, FitsColumn]:
    if hdu.header.get_text("XTENSION") != "BINTABLE":
        raise ContentError(f"HDU {hdu.name or hdu.number} is no binary table")
    row_bytes, _ = hdu.header.get_whole("NAXIS1"), hdu.n_rows
    if row_bytes > MAX_ROW_BYTES:
        raise ContentError(f"a row of HDU {hdu.name or hdu.number} has {row_bytes} bytes, more than {MAX_ROW_BYTES}")
    return find_columns(hdu.header, wanted)


def _iter_pieces(source: _Source, hdu: _Hdu, places: Mapping[str, FitsColumn]) -> "Iterator[dict[str, NDArray[Any]]]":
    """Yield place → physical values, some rows at a time; at least once, because an empty table has columns too."""
    import numpy as np

    columns = {column.name: column for column in places.values()}
    row_bytes, n_rows = hdu.header.get_whole("NAXIS1"), hdu.n_rows
    row_type = np.dtype(
        {
            "names": list(columns),
            "formats": [column.stored_type for column in columns.values()],
            "offsets": [column.start for column in columns.values()],
            "itemsize": row_bytes,
        }
    )
    step = max(1, COLUMN_BYTES // row_bytes)
    for first in range(0, max(1, n_rows), step):
        size = min(step, n_rows - first) * row_bytes
        piece = source.read(hdu.data_offset + first * row_bytes, size)
        if len(piece) < size:
            raise ContentError(f"the file ends within the table of HDU {hdu.name or hdu.number}")
        rows = np.frombuffer(piece, dtype=row_type)
        physical = {name: column.to_physical(rows[name]) for name, column in columns.items()}
        yield {place: physical[column.name] for place, column in places.items()}
