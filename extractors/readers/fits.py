"""Reads headers and column ranges of FITS files, plain or packed with gzip.

The walk from HDU to HDU is done here, block by block, so that memory stays flat and a header without an end is
refused; what a card or a column format means is left to astropy.
"""

import gzip
import io
import math
import re
import zlib
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, BinaryIO

from extractors.errors import AddressError, ContentError, ExtractionError, TooLargeError
from extractors.readers.reader import Content, Plain, RawValue, ReadLimits

if TYPE_CHECKING:
    from astropy.io.fits import Header

BLOCK_BYTES = 2880
"""FITS standard 4.0, section 3.1: everything comes in blocks of this size."""

MAX_HEADER_BLOCKS = 2000
"""Longest header read: 72,000 cards, some hundred times the longest of real event files."""

MAX_HDUS = 1000
"""Most HDUs walked through in search of one."""

COLUMN_BYTES = 4 * 1024**2
"""Table rows are read in pieces of about this size."""

UNPACK_BYTES = 8 * BLOCK_BYTES
"""Packed files are unpacked in pieces of this size: most headers are in the first."""

_ADDRESS = re.compile(
    r"(?P<what>min|max)\((?P<table>[^()]+)\.(?P<column>[^.()]+)\)"
    r"|rows\((?P<counted>[^()]+)\)"
    r"|(?P<hdu>[^()]+)\.(?P<key>[^.()\s][^.()]*)"
)
_EXPECTED = "HDU.KEYWORD, min(HDU.COLUMN), max(HDU.COLUMN) or rows(HDU), with an HDU's name or number"


@dataclass(frozen=True, kw_only=True, slots=True)
class _Hdu:
    """Header of one HDU, and where its data begin."""

    number: int
    name: str
    header: "Header"
    data_offset: int

    def is_called(self, name: str) -> bool:
        return name == str(self.number) or name.upper() == self.name


class FitsReader:
    """Reads FITS: ``EVENTS.OBS_ID`` is a keyword, ``max(EVENTS.ENERGY)`` a column's range, ``rows(EVENTS)`` a count.

    HDUs go by name (the first of several with one name) or by number; ``PRIMARY`` is number 0.
    """

    def check(self, address: str) -> None:
        """Raise `AddressError` unless `address` has one of the shapes above."""
        _parse(address)

    def read(self, stream: BinaryIO, addresses: Collection[str], *, limits: ReadLimits) -> Content:
        """Return the values at `addresses`; column ranges are left out when only headers may be read.

        Raises
        ------
        ContentError
            This is no FITS file, or it is damaged.
        TooLargeError
            A packed file would unpack to more than `limits` allow.
        """
        try:
            return _read(_unpacked(stream, limits.max_unpacked_bytes), addresses, header_only=limits.header_only)
        except (EOFError, gzip.BadGzipFile, zlib.error) as error:
            raise ContentError(f"the gzip packing is damaged: {error}") from error
        except ExtractionError:
            raise
        except Exception as error:
            # astropy raises whatever a damaged card makes it stumble over.
            raise ContentError(f"damaged: {type(error).__name__}: {error}") from error


def _read(stream: BinaryIO, addresses: Collection[str], *, header_only: bool) -> Content:
    parsed = {address: _parse(address) for address in addresses}
    wanted = {_hdu_name(match) for match in parsed.values()}
    hdus = _find_hdus(stream, wanted)
    values: dict[str, RawValue] = {}
    oddities: dict[str, str] = {}
    # In the order of the file: going back in a packed one means unpacking it from the beginning.
    for name, hdu in sorted(hdus.items(), key=lambda item: item[1].number):
        here = {address: match for address, match in parsed.items() if _hdu_name(match) == name}
        columns = {match["column"].upper() for match in here.values() if match["column"]}
        ranges = {} if header_only or not columns else _column_ranges(stream, hdu, columns)
        for address, match in here.items():
            found = _value(hdu, match, ranges)
            if isinstance(found, RawValue):
                values[address] = found
            elif found is not None:
                oddities[address] = found
    return Content(values=values, oddities=oddities)


def _parse(address: str) -> re.Match[str]:
    match = _ADDRESS.fullmatch(address)
    if match is None:
        raise AddressError(address, _EXPECTED)
    return match


def _hdu_name(match: re.Match[str]) -> str:
    return match["table"] or match["counted"] or match["hdu"]


def _value(hdu: _Hdu, match: re.Match[str], ranges: dict[str, "_Range | str"]) -> RawValue | str | None:
    """Return the value that `match` asks for, or why there is none, or None when the HDU does not have it."""
    if match["what"]:
        found = ranges.get(match["column"].upper())
        if not isinstance(found, _Range):
            return found
        return RawValue(value=found.low if match["what"] == "min" else found.high, unit=found.unit)
    if match["counted"]:
        if hdu.header.get("XTENSION", "").strip() not in ("BINTABLE", "TABLE"):
            return f"HDU {hdu.name} is no table"
        return RawValue(value=int(hdu.header["NAXIS2"]))
    return _card_value(hdu, match["key"])


def _card_value(hdu: _Hdu, keyword: str) -> RawValue | str | None:
    try:
        value = hdu.header.get(keyword)
    except Exception as error:  # noqa: BLE001 - one damaged card is no reason to lose the others
        return f"the card cannot be read: {error}"
    return RawValue(value=value) if isinstance(value, Plain) else None


# ---------------------------------------------------------------------------------------------------- HDUs


def _find_hdus(stream: BinaryIO, wanted: Collection[str]) -> dict[str, _Hdu]:
    """Return the `wanted` HDUs by the name they were asked for; reads on only while one is missing."""
    found: dict[str, _Hdu] = {}
    for hdu in _iter_hdus(stream):
        found.update({name: hdu for name in wanted if name not in found and hdu.is_called(name)})
        if len(found) == len(wanted):
            break
    return found


def _iter_hdus(stream: BinaryIO) -> Iterator[_Hdu]:
    offset = 0
    for number in range(MAX_HDUS):
        stream.seek(offset)
        raw = _read_header(stream, is_first=number == 0)
        if raw is None:
            return
        header = _parse_header(raw)
        name = "PRIMARY" if number == 0 else str(header.get("EXTNAME", "")).strip().upper()
        data_offset = offset + len(raw)
        yield _Hdu(number=number, name=name, header=header, data_offset=data_offset)
        offset = data_offset + math.ceil(_data_bytes(header) / BLOCK_BYTES) * BLOCK_BYTES


def _read_header(stream: BinaryIO, *, is_first: bool) -> bytes | None:
    """Return the blocks of one header, or None where the file ends or only padding follows."""
    blocks: list[bytes] = []
    begin = b"SIMPLE  =" if is_first else b"XTENSION="
    for _ in range(MAX_HEADER_BLOCKS):
        block = stream.read(BLOCK_BYTES)
        if not blocks and not block.startswith(begin):
            if is_first:
                raise ContentError("this is no FITS file: it does not begin with SIMPLE")
            return None
        if len(block) < BLOCK_BYTES:
            raise ContentError("the file ends within a header")
        blocks.append(block)
        if _has_end(block):
            return b"".join(blocks)
    raise ContentError(f"a header has more than {MAX_HEADER_BLOCKS} blocks")


def _has_end(block: bytes) -> bool:
    return any(block[at : at + 80].rstrip() == b"END" for at in range(0, BLOCK_BYTES, 80))


def _parse_header(raw: bytes) -> "Header":
    from astropy.io.fits import Header

    return Header.fromstring(raw)


def _data_bytes(header: "Header") -> int:
    """Return how many bytes follow the header, by the FITS standard 4.0, sections 4.4.1.1 and 7.1.1."""
    axes = [int(header[f"NAXIS{axis}"]) for axis in range(1, int(header["NAXIS"]) + 1)]
    if axes and axes[0] == 0 and header.get("GROUPS") is True:
        axes = axes[1:]
    elements = math.prod(axes) if axes else 0
    size = abs(int(header["BITPIX"])) // 8
    total = size * int(header.get("GCOUNT", 1)) * (int(header.get("PCOUNT", 0)) + elements)
    if total < 0 or min(axes, default=0) < 0:
        raise ContentError("a header claims a negative size")
    return total


# ------------------------------------------------------------------------------------------------- columns


@dataclass(frozen=True, kw_only=True, slots=True)
class _Range:
    """Smallest and largest finite value of a column."""

    low: float
    high: float
    unit: str | None


def _column_ranges(stream: BinaryIO, hdu: _Hdu, wanted: Collection[str]) -> dict[str, _Range | str]:
    """Return the range of each `wanted` column (upper case) that the table has, or why it has none."""
    from astropy.io.fits import BinTableHDU

    if hdu.header.get("XTENSION", "").strip() != "BINTABLE":
        return dict.fromkeys(wanted, f"HDU {hdu.name} is no binary table")
    table = BinTableHDU.fromstring(hdu.header.tostring().encode("ascii"))
    columns = {column.name.upper(): column for column in table.columns if column.name.upper() in wanted}
    row_type = table.columns.dtype.newbyteorder(">")
    if row_type.itemsize != hdu.header["NAXIS1"]:
        raise ContentError(f"the columns of HDU {hdu.name} do not add up to its NAXIS1")
    return _ranges_of(stream, hdu, columns, row_type)


def _ranges_of(stream: BinaryIO, hdu: _Hdu, columns: dict[str, Any], row_type: Any) -> dict[str, _Range | str]:
    import numpy as np

    results: dict[str, _Range | str] = {}
    lows: dict[str, list[float]] = {name: [] for name in columns}
    highs: dict[str, list[float]] = {name: [] for name in columns}
    for rows in _iter_rows(stream, hdu, row_type):
        for name, column in columns.items():
            if rows[column.name].dtype.kind not in "iuf":
                results[name] = f"column {column.name} of HDU {hdu.name} is not numeric"
                continue
            values = _physical(rows[column.name], column)
            finite = values[np.isfinite(values)]
            if finite.size:
                lows[name].append(float(finite.min()))
                highs[name].append(float(finite.max()))
    for name, column in columns.items():
        if lows[name]:
            results[name] = _Range(low=min(lows[name]), high=max(highs[name]), unit=(column.unit or "").strip() or None)
    return results


def _physical(stored: Any, column: Any) -> Any:
    """Apply TNULL, TSCAL and TZERO to `stored` values."""
    import numpy as np

    values = stored.astype(np.float64)
    if column.null not in (None, "") and stored.dtype.kind in "iu":
        values[stored == column.null] = np.nan
    scale, zero = column.bscale, column.bzero
    return values * (1.0 if scale in (None, "") else scale) + (0.0 if zero in (None, "") else zero)


def _iter_rows(stream: BinaryIO, hdu: _Hdu, row_type: Any) -> Iterator[Any]:
    import numpy as np

    n_rows, row_bytes = int(hdu.header["NAXIS2"]), row_type.itemsize
    if not row_bytes:
        return
    step = max(1, COLUMN_BYTES // row_bytes)
    stream.seek(hdu.data_offset)
    for first in range(0, n_rows, step):
        size = min(step, n_rows - first) * row_bytes
        piece = stream.read(size)
        if len(piece) < size:
            raise ContentError(f"the file ends within the table of HDU {hdu.name}")
        yield np.frombuffer(piece, dtype=row_type)


# ------------------------------------------------------------------------------------------------- packing


def _unpacked(stream: BinaryIO, max_bytes: int) -> BinaryIO:
    stream.seek(0)
    is_packed = stream.read(2) == b"\x1f\x8b"
    stream.seek(0)
    return io.BufferedReader(_Unpacked(stream, max_bytes), UNPACK_BYTES) if is_packed else stream


class _Unpacked(io.RawIOBase):
    """A gzip stream that ends with an error, not with a full memory or disk."""

    def __init__(self, packed: BinaryIO, max_bytes: int) -> None:
        self._stream = gzip.GzipFile(fileobj=packed, mode="rb")
        self._max_bytes = max_bytes

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        piece = self._stream.read(len(buffer))
        if self._stream.tell() > self._max_bytes:
            raise TooLargeError("the file", self._max_bytes)
        buffer[: len(piece)] = piece
        return len(piece)

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        if whence != io.SEEK_SET:
            raise io.UnsupportedOperation("a packed stream is only positioned from its beginning")
        if offset > self._max_bytes:
            raise TooLargeError("the file", self._max_bytes)
        return self._stream.seek(offset)

    def tell(self) -> int:
        return self._stream.tell()
