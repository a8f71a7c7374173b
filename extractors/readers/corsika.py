"""Reads run and event headers of CORSIKA files: air showers as the simulation itself writes them.

The file is a row of sub-blocks of 273 numbers in single precision (312 with thinning), the first of which spells what
the block is: ``RUNH``, ``EVTH``, ``EVTE``, ``RUNE``, ``LONG``, or else particles. Fortran puts 21 of them into a record
and its length, 4 bytes, before and after it; other writers leave these lengths out.

Notes
-----
Words are counted from 1 and have the meaning of the tables "Structure of RUNH sub-block" and following of the CORSIKA
user's guide (D. Heck and T. Pierog, KIT).
"""

import re
import struct
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, BinaryIO

from extractors.errors import AddressError, ContentError
from extractors.readers.address import Address
from extractors.readers.reader import Content, RawValue, Reader, ReadLimits
from extractors.readers.reductions import reduce_columns

if TYPE_CHECKING:
    from numpy.typing import NDArray

BLOCK_WORDS = (273, 312)
"""Numbers in a sub-block: standard, and with thinning."""

BLOCKS_PER_RECORD = 21
"""What CORSIKA fills up before it writes, with or without the lengths of Fortran."""

WORD_BYTES = 4
"""All numbers are in single precision."""

MAX_WHOLE = 2**24
"""Up to here single precision has every whole number; what is beyond counts nothing."""

MAX_RECORD_BYTES = 1024**2
"""Longest record; CORSIKA's own have 26 kB at most, and a lying length must not be read into memory."""

PIECE_BYTES = 1024**2
"""A file is walked in pieces of about this size, so that memory does not depend on its length."""

_PLACE = re.compile(r"(?P<block>RUNH|EVTH|EVTE|RUNE)(?:\.(?P<name>[a-z_]+)|\[(?P<number>[1-9]\d{0,2})\])")


@dataclass(frozen=True, kw_only=True, slots=True)
class Word:
    """One number of a sub-block: which one, its unit, and whether it counts or numbers something."""

    number: int
    unit: str | None = None
    is_whole: bool = False

    @property
    def index(self) -> int:
        """Position in the block, from 0."""
        return self.number - 1

    def read(self, block: Sequence[float]) -> RawValue | None:
        """Return the word of a `block`, or None when the block is too short to have it."""
        if self.index >= len(block):
            return None
        value = shortest(block[self.index])
        is_whole = self.is_whole and value.is_integer() and abs(value) <= MAX_WHOLE
        return RawValue(value=int(value) if is_whole else value, unit=self.unit)


WORDS: Mapping[str, Mapping[str, Word]] = {
    "RUNH": {
        "run": Word(number=2, is_whole=True),
        "date": Word(number=3, is_whole=True),
        "version": Word(number=4),
        "n_levels": Word(number=5, is_whole=True),
        "spectral_index": Word(number=16),
        "energy_min": Word(number=17, unit="GeV"),
        "energy_max": Word(number=18, unit="GeV"),
    },
    "EVTH": {
        "event": Word(number=2, is_whole=True),
        "particle": Word(number=3, is_whole=True),
        "energy": Word(number=4, unit="GeV"),
        "start_depth": Word(number=5, unit="g/cm2"),
        "first_interaction": Word(number=7, unit="cm"),
        "zenith": Word(number=11, unit="rad"),
        "azimuth": Word(number=12, unit="rad"),
        "run": Word(number=44, is_whole=True),
        "date": Word(number=45, is_whole=True),
        "version": Word(number=46),
        "n_levels": Word(number=47, is_whole=True),
        "spectral_index": Word(number=58),
        "energy_min": Word(number=59, unit="GeV"),
        "energy_max": Word(number=60, unit="GeV"),
        "zenith_min": Word(number=81, unit="deg"),
        "zenith_max": Word(number=82, unit="deg"),
        "azimuth_min": Word(number=83, unit="deg"),
        "azimuth_max": Word(number=84, unit="deg"),
        "n_uses": Word(number=98, is_whole=True),
    },
    "EVTE": {"event": Word(number=2, is_whole=True)},
    "RUNE": {"run": Word(number=2, is_whole=True), "n_events": Word(number=3, is_whole=True)},
}
"""The words that have a name here, by block; all others have a number."""

EXPECTED = "RUNH.NAME, RUNH[NUMBER] or the like of EVTH, EVTE and RUNE, a reduction of such, or rows(EVTH)"


def find_word(place: str) -> tuple[str, Word] | None:
    """Return block and word that a place such as ``RUNH.run`` or ``EVTH[4]`` names, or None when it is no such place.

    Raises
    ------
    AddressError
        The block has no word of that name or number.
    """
    match = _PLACE.fullmatch(place)
    if match is None:
        return None
    block = match["block"]
    known = WORDS[block]
    if match["name"]:
        if match["name"] not in known:
            raise AddressError(place, f"one of {', '.join(f'{block}.{name}' for name in known)}, or {block}[NUMBER]")
        return block, known[match["name"]]
    number = int(match["number"])
    if not 2 <= number <= max(BLOCK_WORDS):
        raise AddressError(place, f"a word from {block}[2] to {block}[{max(BLOCK_WORDS)}]")
    return block, next((word for word in known.values() if word.number == number), Word(number=number))


def shortest(number: Any) -> float:
    """Return a number of single precision with the digits that tell it from its neighbours: 0.2, not 0.200000003.

    These are the digits that stood in the input card of the simulation.
    """
    import numpy as np

    return float(str(np.float32(number)))


class CorsikaReader(Reader):
    """Reads CORSIKA: ``RUNH.run`` and ``RUNH[17]`` are words of the run header, ``EVTH.energy`` of the first event's.

    ``min(EVTH.energy)`` goes over all events, ``rows(EVTH)`` counts them. Likewise ``EVTE`` and ``RUNE``, where events
    and run end.
    """

    def check(self, address: Address) -> None:
        """Raise `AddressError` unless `address` is a word of a block, a reduction of one, or rows of a block."""
        if address.reduction == "rows":
            if address.place not in WORDS:
                raise AddressError(address.text, f"rows of one of {', '.join(WORDS)}")
            return
        found = [find_word(place) for place in address.places]
        if None in found:
            raise AddressError(address.text, EXPECTED)
        if len({pair[0] for pair in found if pair is not None}) > 1:
            raise AddressError(address.text, "words of one block")

    def read(self, stream: BinaryIO, addresses: Collection[Address], *, limits: ReadLimits) -> Content:
        """Return the values at `addresses`; when only headers may be read, from the first record alone.

        Raises
        ------
        ContentError
            This is no CORSIKA file, or its run header is not whole.
        """
        walk = _Walk(stream, header_only=limits.header_only)
        singles = {address.text: address for address in addresses if address.reduction is None}
        rows = [address for address in addresses if address.reduction == "rows"]
        columns = [address for address in addresses if address.reduction not in (None, "rows")]
        if limits.header_only:
            rows, columns = [], []
        tally = _Tally(singles, columns, needs_all=bool(rows or columns))
        reduced = reduce_columns(columns, tally.iter_columns(walk), units=tally.units)
        values = {**reduced.values, **tally.values}
        values |= {address.text: RawValue(value=tally.counts.get(address.place, 0)) for address in rows}
        oddities = dict(reduced.oddities)
        if walk.damage is not None:
            oddities["records"] = walk.damage
        return Content(values=values, oddities=oddities)


class _Tally:
    """What is gathered on the way through the blocks: first ones, numbers of them, and columns."""

    def __init__(self, singles: Mapping[str, Address], columns: Sequence[Address], *, needs_all: bool) -> None:
        self.values: dict[str, RawValue] = {}
        self.counts: dict[str, int] = {}
        self._needs_all = needs_all
        self._singles = {text: found for text, address in singles.items() if (found := find_word(address.place))}
        self._open_blocks = {block for block, _ in self._singles.values()}
        places = {place for address in columns for place in address.places}
        self._columns = {place: found for place in places if (found := find_word(place))}

    @property
    def units(self) -> dict[str, str | None]:
        """The unit of each place of a column."""
        return {place: word.unit for place, (_, word) in self._columns.items()}

    def iter_columns(self, walk: "_Walk") -> Iterator[dict[str, "NDArray[Any]"]]:
        """Yield the columns that were asked for, piece by piece, and end when nothing is left to be found."""
        for blocks in walk.iter_blocks():
            for name in WORDS:
                chosen = blocks[blocks[:, 0] == _tag(name)]
                if not len(chosen):
                    continue
                self.counts[name] = self.counts.get(name, 0) + len(chosen)
                numbers = chosen.view("<f4")
                self._take_first(name, numbers[0])
                wanted = {place: word for place, (block, word) in self._columns.items() if block == name}
                if wanted:
                    yield {place: _column(numbers, word) for place, word in wanted.items()}
            if not (self._needs_all or self._open_blocks):
                return

    def _take_first(self, name: str, block: Sequence[float]) -> None:
        if name not in self._open_blocks:
            return
        self._open_blocks.remove(name)
        for text, (owner, word) in self._singles.items():
            if owner == name and (value := word.read(block)) is not None:
                self.values[text] = value


def _column(blocks: "NDArray[Any]", word: Word) -> "NDArray[Any]":
    """Return one word of each block; numbers that no block of this length has are missing, like NaN."""
    import numpy as np

    if word.index >= blocks.shape[1]:
        return np.full(len(blocks), np.nan)
    numbers = np.array([shortest(number) for number in blocks[:, word.index]])
    is_whole = word.is_whole and bool(((abs(numbers) <= MAX_WHOLE) & (numbers == np.floor(numbers))).all())
    return numbers.astype(np.int64) if is_whole else numbers


def _tag(name: str) -> int:
    return int.from_bytes(name.encode(), "little")


# ------------------------------------------------------------------------------------------------- records


@dataclass(frozen=True, kw_only=True, slots=True)
class _Layout:
    """How long a sub-block is, and the record around several; `margin_bytes` is what Fortran writes on either side."""

    block_bytes: int
    record_bytes: int
    margin_bytes: int

    @property
    def whole_bytes(self) -> int:
        """A record with its lengths."""
        return self.record_bytes + 2 * self.margin_bytes


class _Walk:
    """Goes through the sub-blocks of one stream, up to ``RUNE`` or to the first damage, which it remembers."""

    def __init__(self, stream: BinaryIO, *, header_only: bool) -> None:
        self._stream = stream
        self._header_only = header_only
        self._head = read_up_to(stream, 2 * max(BLOCK_WORDS) * WORD_BYTES + WORD_BYTES)
        self._layout = _find_layout(self._head)
        self.damage: str | None = None

    def iter_blocks(self) -> Iterator["NDArray[Any]"]:
        """Yield some sub-blocks at a time, one a row, as unsigned integers."""
        whole_bytes = self._layout.whole_bytes
        size = whole_bytes if self._header_only else max(1, PIECE_BYTES // whole_bytes) * whole_bytes
        offset = 0
        has_ended = False
        while not has_ended:
            piece = self._head + read_up_to(self._stream, size - len(self._head))
            self._head = b""
            blocks = self._take_records(piece, offset)
            ends = (blocks[:, 0] == _tag("RUNE")).nonzero()[0]
            if len(ends):
                self._check_rest(piece, offset, int(ends[0]))
                # The rest of its record is filled up with whatever was in memory.
                blocks = blocks[: ends[0] + 1]
            elif len(piece) < size and self.damage is None:
                self.damage = f"the file ends at byte {offset + len(piece)} without RUNE: the run is not complete"
            has_ended = self._header_only or bool(len(ends)) or self.damage is not None
            offset += len(piece)
            yield blocks

    def _check_rest(self, piece: bytes, offset: int, last: int) -> None:
        """Remember it as damage when the record with the block `last`, which ends the run, is not the last one."""
        layout = self._layout
        end = (last * layout.block_bytes // layout.record_bytes + 1) * layout.whole_bytes
        if self.damage is None and (len(piece) > end or self._stream.read(1)):
            self.damage = f"there is more after the record with RUNE, from byte {offset + end} on, which was not read"

    def _take_records(self, piece: bytes, offset: int) -> "NDArray[Any]":
        """Return the blocks of the whole records of a `piece`, and of a last one that is cut off."""
        import numpy as np

        layout = self._layout
        n_records, n_rest = divmod(len(piece), layout.whole_bytes)
        records = np.frombuffer(piece, dtype="<u4", count=n_records * layout.whole_bytes // WORD_BYTES)
        records = records.reshape(n_records, layout.whole_bytes // WORD_BYTES)
        margin = layout.margin_bytes // WORD_BYTES
        if margin:
            is_good = (records[:, 0] == layout.record_bytes) & (records[:, -1] == layout.record_bytes)
            if not is_good.all():
                n_good = int(is_good.argmin())
                start = offset + n_good * layout.whole_bytes
                self.damage = f"the record at byte {start} does not begin and end with its length {layout.record_bytes}"
                records, n_rest = records[:n_good], 0
            records = records[:, margin:-margin]
        blocks = records.reshape(-1, layout.block_bytes // WORD_BYTES)
        return np.concatenate([blocks, self._take_cut_off(piece[len(piece) - n_rest :])]) if n_rest else blocks

    def _take_cut_off(self, rest: bytes) -> "NDArray[Any]":
        import numpy as np

        words = self._layout.block_bytes // WORD_BYTES
        body = rest[self._layout.margin_bytes :]
        n_blocks = len(body) // self._layout.block_bytes
        return np.frombuffer(body, dtype="<u4", count=n_blocks * words).reshape(n_blocks, words)


def _find_layout(head: bytes) -> _Layout:
    """Return how the file is laid out, from its first bytes.

    Raises
    ------
    ContentError
        There is no whole RUNH block at its beginning, with or without the length of a record before it.
    """
    margin = next((at for at in (0, WORD_BYTES) if head[at : at + 4] == b"RUNH"), None)
    if margin is None:
        raise ContentError("found no RUNH at byte 0 or 4, expected a CORSIKA file")
    sizes = [words * WORD_BYTES for words in BLOCK_WORDS]
    record_bytes = struct.unpack_from("<I", head)[0] if margin else 0
    if margin and record_bytes not in range(1, MAX_RECORD_BYTES):
        raise ContentError(f"found a record of {record_bytes} bytes, expected at most {MAX_RECORD_BYTES}")
    # Nothing else states the size of a block but the record's length and where the block after the run header is.
    block_bytes = next(
        (
            size
            for size in sizes
            if record_bytes == BLOCKS_PER_RECORD * size or head[margin + size :][:4] in (b"EVTH", b"RUNE")
        ),
        sizes[0],
    )
    record_bytes = record_bytes or BLOCKS_PER_RECORD * block_bytes
    if record_bytes % block_bytes:
        raise ContentError(f"found a record of {record_bytes} bytes, expected one of whole blocks of {block_bytes}")
    if len(head) < margin + block_bytes:
        raise ContentError(f"the file ends after {len(head)} bytes, within its run header")
    return _Layout(block_bytes=block_bytes, record_bytes=record_bytes, margin_bytes=margin)


def read_up_to(stream: BinaryIO, size: int) -> bytes:
    """Return the next `size` bytes; fewer only where the stream ends, however short its single reads are."""
    pieces = []
    while size > 0 and (piece := stream.read(size)):
        pieces.append(piece)
        size -= len(piece)
    return b"".join(pieces)
