"""Reads EventIO, the file format of H.E.S.S. and CTA simulations: nested objects, each with its type and length.

Only the headers of objects are read, and the data of those that hold a block of CORSIKA; the rest is passed over.

Notes
-----
The format is that of the eventio part of hessio (K. Bernlöhr, "The eventio data format"): a top-level object begins
with a sync word that also tells the byte order, then come type, identifier and length, the objects inside lack the sync
word. Objects 1200, 1202, 1209 and 1210 of the IACT extension are CORSIKA's blocks RUNH, EVTH, EVTE and RUNE.
"""

import math
import re
import struct
from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, BinaryIO, TypeAlias

from extractors.errors import AddressError, ContentError
from extractors.readers.address import Address
from extractors.readers.corsika import BLOCK_WORDS, WORD_BYTES, Word, find_word, read_up_to
from extractors.readers.reader import Content, RawValue, Reader, ReadLimits
from extractors.readers.reductions import reduce_columns

if TYPE_CHECKING:
    from numpy.typing import NDArray

SYNC = {b"\x37\x8a\x1f\xd4": "<", b"\xd4\x1f\x8a\x37": ">"}
"""What every top-level object begins with, and the byte order that it tells."""

BLOCK_TYPES: Mapping[str, int] = {"RUNH": 1200, "EVTH": 1202, "EVTE": 1209, "RUNE": 1210}
"""In which type of object a block of CORSIKA is."""

MAX_DEPTH = 16
"""Deepest nesting; real files have three levels."""

MAX_HEADER_OBJECTS = 100
"""As many top-level objects are looked at where only headers may be read: run headers and cameras come first."""

ROWS_AT_ONCE = 4096
"""Columns are reduced in pieces of so many objects."""

_HEADER = re.compile(r"(?P<type>\d{1,5})\.(?P<what>id|version)")
_EXPECTED = "TYPE.id or TYPE.version of a type of object, RUNH.NAME or RUNH[NUMBER] or the like of EVTH, EVTE and RUNE"

_IS_EXTENDED = 1 << 17
_HAS_ONLY_OBJECTS = 1 << 30


@dataclass(frozen=True, kw_only=True, slots=True)
class Header:
    """What stands before the data of one object."""

    type: int
    version: int
    id: int
    begin: int
    """Byte of the file at which its data begin."""
    size_bytes: int
    has_only_objects: bool

    @property
    def end(self) -> int:
        """Byte of the file after its data."""
        return self.begin + self.size_bytes


@dataclass(frozen=True, kw_only=True, slots=True)
class HeaderPart:
    """A number that the header of an object states: its identifier or version."""

    name: str

    def read(self, found: Any) -> RawValue | None:
        """Return the number."""
        return RawValue(value=getattr(found, self.name))

    @property
    def unit(self) -> None:
        """None; these have no unit."""
        return None


Block: TypeAlias = tuple[float, ...]
"""The numbers of a block of CORSIKA."""

Place: TypeAlias = tuple[int, Word | HeaderPart]
"""Type of object, and what of it."""


def _find_place(place: str) -> Place | None:
    """Return what a place names, or None when it is no place; raises `AddressError` for a word that is not there."""
    if match := _HEADER.fullmatch(place):
        return int(match["type"]), HeaderPart(name=match["what"])
    found = find_word(place)
    return None if found is None else (BLOCK_TYPES[found[0]], found[1])


class EventioReader(Reader):
    """Reads EventIO: ``RUNH.run`` and ``EVTH[4]`` as in CORSIKA, ``2000.id`` is the identifier of an object 2000.

    A single value is that of the first object. ``rows(2010)`` counts the objects of a type on all levels,
    ``max(2010.id)`` goes over them. Where only headers may be read, single values are looked for in the first
    top-level objects.
    """

    def check(self, address: Address) -> None:
        """Raise `AddressError` unless `address` has one of the shapes above."""
        if address.reduction == "rows":
            if not address.place.isascii() or not address.place.isdecimal() or len(address.place) > 5:
                raise AddressError(address.text, "rows(TYPE) with the number of a type of object, such as rows(2010)")
            return
        found = [_find_place(place) for place in address.places]
        if None in found:
            raise AddressError(address.text, _EXPECTED)
        if len({(pair[0], type(pair[1])) for pair in found if pair is not None}) > 1:
            raise AddressError(address.text, "places of one type of object")

    def read(self, stream: BinaryIO, addresses: Collection[Address], *, limits: ReadLimits) -> Content:
        """Return the values at `addresses`.

        Raises
        ------
        ContentError
            This is no EventIO file.
        """
        kept = [address for address in addresses if address.reduction is None or not limits.header_only]
        columns = [address for address in kept if address.reduction not in (None, "rows")]
        walk = _Walk(stream, is_flat=limits.header_only)
        tally = _Tally(kept, max_objects=MAX_HEADER_OBJECTS if limits.header_only else None)
        reduced = reduce_columns(columns, tally.iter_columns(walk), units=tally.units)
        rows = [address for address in kept if address.reduction == "rows"]
        values = {**reduced.values, **tally.values}
        values |= {address.text: RawValue(value=tally.counts[int(address.place)]) for address in rows}
        oddities = dict(reduced.oddities)
        if walk.damage is not None:
            oddities["objects"] = walk.damage
        return Content(values=values, oddities=oddities)


class _Tally:
    """What is gathered on the way: first values, numbers of objects, and columns."""

    def __init__(self, addresses: Collection[Address], *, max_objects: int | None) -> None:
        self.values: dict[str, RawValue] = {}
        self.counts: Counter[int] = Counter()
        self._max_objects = max_objects
        found = {place: pair for a in addresses for place in a.places if (pair := _find_place(place))}
        columns = {place for a in addresses if a.reduction not in (None, "rows") for place in a.places}
        self._singles = {a.text: found[a.place] for a in addresses if a.reduction is None and a.place in found}
        self._columns = {place: found[place] for place in columns if place in found}
        self._needs_all = any(address.reduction is not None for address in addresses)
        self._open_types = {number for number, _ in self._singles.values()}
        self._block_types = {number for number, what in found.values() if isinstance(what, Word)}
        self._pending: dict[tuple[int, type], list[list[Any]]] = {}

    @property
    def units(self) -> dict[str, str | None]:
        """The unit of each place of a column."""
        return {place: what.unit for place, (_, what) in self._columns.items()}

    def iter_columns(self, walk: "_Walk") -> Iterator[dict[str, "NDArray[Any]"]]:
        """Yield the columns that were asked for, piece by piece, and end when nothing is left to be found."""
        for number, (header, block) in enumerate(walk.iter_objects(self._block_types), start=1):
            self.counts[header.type] += 1
            self._take_first(header, block)
            yield from self._collect(header, block)
            if not (self._needs_all or self._open_types) or number == self._max_objects:
                return
        for key in list(self._pending):
            yield self._flush(key)

    def _take_first(self, header: Header, block: Block | None) -> None:
        if header.type not in self._open_types:
            return
        self._open_types.remove(header.type)
        for text, (number, what) in self._singles.items():
            if number == header.type and (value := _read(what, header, block)) is not None:
                self.values[text] = value

    def _collect(self, header: Header, block: Block | None) -> Iterator[dict[str, "NDArray[Any]"]]:
        for kind in (Word, HeaderPart):
            wanted = self._places(header.type, kind)
            if not wanted:
                continue
            raws = [_read(what, header, block) for what in wanted.values()]
            rows = self._pending.setdefault((header.type, kind), [])
            if any(raw is not None for raw in raws):
                rows.append([math.nan if raw is None else raw.value for raw in raws])
            if len(rows) >= ROWS_AT_ONCE:
                yield self._flush((header.type, kind))

    def _places(self, number: int, kind: type) -> dict[str, Word | HeaderPart]:
        return {
            place: what
            for place, (type_number, what) in self._columns.items()
            if type_number == number and isinstance(what, kind)
        }

    def _flush(self, key: tuple[int, type]) -> dict[str, "NDArray[Any]"]:
        import numpy as np

        rows = self._pending.pop(key)
        return {place: np.array([row[column] for row in rows]) for column, place in enumerate(self._places(*key))}


def _read(what: Word | HeaderPart, header: Header, block: Block | None) -> RawValue | None:
    if isinstance(what, HeaderPart):
        return what.read(header)
    return None if block is None else what.read(block)


# ------------------------------------------------------------------------------------------------- objects


class _Walk:
    """Goes through the objects of one stream, inner before outer, to the end or the first damage."""

    def __init__(self, stream: BinaryIO, *, is_flat: bool) -> None:
        self._stream = stream
        self._is_flat = is_flat
        self._position = 0
        self._order = "<"
        self.damage: str | None = None

    def iter_objects(self, block_types: Collection[int]) -> Iterator[tuple[Header, Block | None]]:
        """Yield the header of each whole object, and its numbers if it is of one of `block_types` and has such.

        Raises
        ------
        ContentError
            The stream does not begin with an object.
        """
        try:
            header = self._next_top_level()
        except _DamageError as error:
            raise ContentError(f"this is no EventIO file, or it is damaged: {error}") from error
        try:
            while header is not None:
                yield from self._iter_within(header, block_types, depth=1)
                header = self._next_top_level()
        except _DamageError as error:
            self.damage = str(error)

    def _iter_within(
        self, header: Header, block_types: Collection[int], *, depth: int
    ) -> Iterator[tuple[Header, Block | None]]:
        block = None
        if header.has_only_objects and not self._is_flat:
            if depth >= MAX_DEPTH:
                raise _DamageError(f"the object at byte {header.begin} is nested more than {MAX_DEPTH} deep")
            while self._position < header.end:
                yield from self._iter_within(self._next_inner(header), block_types, depth=depth + 1)
        elif header.type in block_types:
            block = self._take_block(header)
        self._skip_to(header.end)
        yield header, block

    def _take_block(self, header: Header) -> Block | None:
        """Return the numbers of a block of CORSIKA, or None when there are none, or not as many as it states."""
        count = struct.unpack(f"{self._order}i", self._take(4))[0] if header.size_bytes >= 4 else 0
        if not 0 < count <= max(BLOCK_WORDS) or 4 + count * WORD_BYTES > header.size_bytes:
            found = f"{header.size_bytes} bytes that state {count} numbers"
            self.damage = self.damage or f"the block of CORSIKA at byte {header.begin} has {found}, and is not read"
            return None
        block: Block = struct.unpack(f"{self._order}{count}f", self._take(count * WORD_BYTES))
        return block

    def _next_top_level(self) -> Header | None:
        start = self._position
        sync = read_up_to(self._stream, 4)
        if not sync and start:
            return None
        if sync not in SYNC:
            raise _DamageError(f"found {sync.hex() or 'nothing'} at byte {start}, expected the sync word of an object")
        self._position += 4
        self._order = SYNC[sync]
        return self._read_header()

    def _next_inner(self, outer: Header) -> Header:
        start = self._position
        header = self._read_header()
        if header.end > outer.end:
            raise _DamageError(f"the object at byte {start} ends at byte {header.end}, after the one around it")
        return header

    def _read_header(self) -> Header:
        kind, identifier, length = struct.unpack(f"{self._order}IiI", self._take(12))
        size_bytes = length & 0x3FFFFFFF
        if kind & _IS_EXTENDED:
            (extension,) = struct.unpack(f"{self._order}I", self._take(4))
            size_bytes |= (extension & 0xFFF) << 30
        return Header(
            type=kind & 0xFFFF,
            version=kind >> 20,
            id=identifier,
            begin=self._position,
            size_bytes=size_bytes,
            has_only_objects=bool(length & _HAS_ONLY_OBJECTS),
        )

    def _take(self, size: int) -> bytes:
        data = read_up_to(self._stream, size)
        if len(data) < size:
            raise _DamageError(f"the file ends at byte {self._position + len(data)}, within an object")
        self._position += size
        return data

    def _skip_to(self, end: int) -> None:
        if end <= self._position:
            return
        # A file can be positioned behind its end; only a byte that is there proves that it is so long.
        self._stream.seek(end - 1 - self._position, 1)
        self._position = end - 1
        self._take(1)


class _DamageError(Exception):
    """The stream does not go on as an object should."""
