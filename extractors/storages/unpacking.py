"""Unpacks files while they are read: gzip, zstd, bzip2 and xz, in little memory and within limits.

Every packing is read here in the same way, whatever its library makes of members, padding, bombs and truncation.
"""

import io
import os
import tempfile
import zlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, BinaryIO

from extractors.errors import ContentError, SpaceError, TooLargeError

DEFAULT_MAX_RATIO = 1000
"""Most unpacked bytes per packed byte; real data have less than 100, gzip can reach 1030, others any number."""

RATIO_FREE_BYTES = 16 * 1024**2
"""Unpacked so far before the ratio is judged: small files full of zeros are honest."""

MAX_LEVELS = 2
"""Packings that are taken off, one within the other; more are left as they are."""

MAX_WINDOW_BYTES = 128 * 1024**2
"""Most memory that a packed file may ask for: what ``zstd --long`` and ``xz -9`` need."""

BUFFER_BYTES = 16 * 1024
"""Unpacked at once for small requests, enough for most headers."""

COPY_BYTES = 1024**2
"""Copied at once to a temporary file, and skipped at once."""

HEAD_BYTES = 16
"""As much of a file as tells its packing."""


def open_unpacked(
    stream: BinaryIO, *, max_bytes: int, max_ratio: int = DEFAULT_MAX_RATIO
) -> tuple[BinaryIO, str | None]:
    """Return the unpacked bytes of `stream` from its beginning, and the packing's word; `stream` itself if it has none.

    A file that is packed twice is unpacked twice, and its word names the inner one first: ``gzip+xz``. The result is
    read-only. Reading on is streaming, seeking on skips, seeking back unpacks again from the beginning. Closing it
    leaves `stream` open. Reading, not opening, raises `TooLargeError` beyond the limits, and `ContentError` where the
    packing is damaged, cut off or followed by something else.

    Parameters
    ----------
    max_bytes
        Most unpacked bytes.
    max_ratio
        Most unpacked bytes per packed byte; judged from 16 MiB on.
    """
    words: list[str] = []
    unpacked = stream
    while len(words) < MAX_LEVELS:
        packing = _find_packing(_try_head(unpacked))
        if packing is None:
            break
        words.insert(0, packing.word)
        limits = _Limits(max_bytes=max_bytes, max_ratio=max_ratio)
        unpacked = io.BufferedReader(_Unpacked(unpacked, packing, limits), BUFFER_BYTES)
    return unpacked, "+".join(words) or None


def unpack_to_file(stream: BinaryIO) -> BinaryIO:
    """Return an unnamed temporary file with all bytes of `stream`, for readers that go to and fro.

    Raises
    ------
    ContentError
        What `stream` raises of its limits and damages.
    SpaceError
        The disk of temporary files is full, or cannot be written.
    """
    file = _open_temporary()
    try:
        stream.seek(0)
        while piece := stream.read(COPY_BYTES):
            _write(file, piece)
        file.seek(0)
    except BaseException:
        file.close()
        raise
    return io.BufferedReader(file)


def _open_temporary() -> io.FileIO:
    try:
        # Unbuffered: what cannot be written is told at once, and not when the file is closed.
        return tempfile.TemporaryFile(buffering=0)
    except OSError as error:
        raise SpaceError(error) from error


def _write(file: io.FileIO, piece: bytes) -> None:
    rest = memoryview(piece)
    try:
        while rest:
            rest = rest[file.write(rest) :]
    except OSError as error:
        raise SpaceError(error) from error


def peek_head(stream: BinaryIO, n: int) -> bytes:
    """Return the first `n` bytes of `stream`, or all if it has fewer, and leave it at its beginning."""
    stream.seek(0)
    head = stream.read(n)
    stream.seek(0)
    return head


def _try_head(stream: BinaryIO) -> bytes:
    try:
        return peek_head(stream, HEAD_BYTES)
    except ContentError:
        stream.seek(0)
        return b""  # whoever reads on is told what is wrong


# ------------------------------------------------------------------------------------------------- packings


class _Decoder(ABC):
    """Unpacks one member of a packed file: one gzip member, one zstd frame, one bzip2 or xz stream."""

    @abstractmethod
    def decode(self, packed: bytes, max_bytes: int) -> bytes:
        """Return up to `max_bytes` more; `packed` is empty unless all before was used up."""

    @property
    @abstractmethod
    def is_hungry(self) -> bool:
        """Whether nothing more comes without more packed bytes."""

    @property
    @abstractmethod
    def is_complete(self) -> bool:
        """Whether the member ended, and all of it was returned."""

    @property
    @abstractmethod
    def rest(self) -> bytes:
        """The packed bytes after a complete member."""


class _Gzip(_Decoder):
    def __init__(self) -> None:
        self._decoder = zlib.decompressobj(wbits=zlib.MAX_WBITS | 16)
        self._has_more = False

    def decode(self, packed: bytes, max_bytes: int) -> bytes:
        piece = self._decoder.decompress(packed or self._decoder.unconsumed_tail, max_bytes)
        # A full piece may be all there is of the input, and still not all there is of the output.
        self._has_more = len(piece) == max_bytes or bool(self._decoder.unconsumed_tail)
        return piece

    @property
    def is_hungry(self) -> bool:
        return not self._has_more

    @property
    def is_complete(self) -> bool:
        return self._decoder.eof

    @property
    def rest(self) -> bytes:
        return self._decoder.unused_data


class _Standard(_Decoder):
    """What the decompressors of bz2 and lzma have in common."""

    def __init__(self, decoder: Any) -> None:
        self._decoder = decoder

    def decode(self, packed: bytes, max_bytes: int) -> bytes:
        piece: bytes = self._decoder.decompress(packed, max_bytes)
        return piece

    @property
    def is_hungry(self) -> bool:
        return bool(self._decoder.needs_input)

    @property
    def is_complete(self) -> bool:
        return bool(self._decoder.eof)

    @property
    def rest(self) -> bytes:
        unused: bytes = self._decoder.unused_data
        return unused


class _Zstd(_Decoder):
    """The library returns all that its input unpacks to, so it is fed by a few hundred bytes.

    A block of three bytes can stand for 128 KiB, hence at most some 20 MiB come at once.
    """

    STEP_BYTES = 512

    def __init__(self) -> None:
        import zstandard

        self._decoder = zstandard.ZstdDecompressor(max_window_size=MAX_WINDOW_BYTES).decompressobj()
        self._packed = memoryview(b"")
        self._piece = memoryview(b"")

    def decode(self, packed: bytes, max_bytes: int) -> bytes:
        if packed:
            self._packed = memoryview(packed)
        while not self._piece and self._packed and not self._decoder.eof:
            step, self._packed = self._packed[: self.STEP_BYTES], self._packed[self.STEP_BYTES :]
            self._piece = memoryview(self._decoder.decompress(step))
        piece, self._piece = self._piece[:max_bytes], self._piece[max_bytes:]
        return bytes(piece)

    @property
    def is_hungry(self) -> bool:
        return not self._piece and not self._packed

    @property
    def is_complete(self) -> bool:
        return self._decoder.eof and not self._piece

    @property
    def rest(self) -> bytes:
        return self._decoder.unused_data + bytes(self._packed)


def _open_bzip2() -> _Decoder:
    import bz2

    return _Standard(bz2.BZ2Decompressor())


def _open_xz() -> _Decoder:
    import lzma

    return _Standard(lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=MAX_WINDOW_BYTES))


@dataclass(frozen=True, kw_only=True, slots=True)
class Packing:
    """One way of packing; `suffixes` are the endings that it adds to names."""

    word: str
    suffixes: tuple[str, ...]
    open_decoder: Callable[[], _Decoder]
    has_padding: bool = False
    """Whether zeros may follow a member."""


PACKINGS: Mapping[str, Packing] = {
    packing.word: packing
    for packing in (
        Packing(word="gzip", suffixes=("gz", "gzip"), open_decoder=_Gzip, has_padding=True),
        Packing(word="zstd", suffixes=("zst", "zstd"), open_decoder=_Zstd),
        Packing(word="bzip2", suffixes=("bz2",), open_decoder=_open_bzip2),
        Packing(word="xz", suffixes=("xz",), open_decoder=_open_xz, has_padding=True),
    )
}
"""The packings that are understood, by their words."""

_BZIP2_BEGINNINGS = (bytes.fromhex("314159265359"), bytes.fromhex("177245385090"))
_ZSTD_SKIPPABLE = bytes.fromhex("2a4d18")


def _find_packing(head: bytes) -> Packing | None:
    """Return the packing of a file, or of a further member, that begins with `head`."""
    if head.startswith(b"\x1f\x8b\x08"):
        return PACKINGS["gzip"]
    if head.startswith(b"\x28\xb5\x2f\xfd"):
        return PACKINGS["zstd"]
    if head.startswith(b"\xfd7zXZ\x00"):
        return PACKINGS["xz"]
    # Two letters and a digit would be too little to tell bzip2 from a text.
    if head.startswith(b"BZh") and head[3:4] in b"123456789" and head[4:10] in _BZIP2_BEGINNINGS:
        return PACKINGS["bzip2"]
    return None


# --------------------------------------------------------------------------------------------------- stream


@dataclass(frozen=True, kw_only=True, slots=True)
class _Limits:
    max_bytes: int
    max_ratio: int


class _Unpacked(io.RawIOBase):
    """The unpacked bytes of a stream that holds one member after the other."""

    def __init__(self, packed: BinaryIO, packing: Packing, limits: _Limits) -> None:
        self._packed = packed
        self._packing = packing
        self._limits = limits
        self._restart()

    def _restart(self) -> None:
        self._packed.seek(0)
        self._decoder: _Decoder | None = self._packing.open_decoder()
        self._ahead = b""
        self._packed_bytes = 0
        self._position = 0
        self._failure: ContentError | None = None

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        if whence == os.SEEK_END:
            self._skip(None)
        if whence != os.SEEK_SET:
            offset += self._position
        if offset < 0:
            raise ValueError(f"cannot seek to {offset}, expected an offset of 0 or more")
        if offset < self._position:
            self._restart()
        self._skip(offset - self._position)
        return self._position

    def readinto(self, buffer: Any) -> int:
        piece = self._read(len(buffer))
        buffer[: len(piece)] = piece
        return len(piece)

    def _skip(self, n: int | None) -> None:
        """Go on by `n` bytes, or to the end."""
        while n is None or n > 0:
            piece = self._read(COPY_BYTES if n is None else min(n, COPY_BYTES))
            if not piece:
                return
            n = None if n is None else n - len(piece)

    def _read(self, most: int) -> bytes:
        """Return up to `most` bytes; none only at the end."""
        if self._failure is not None:
            raise self._failure
        try:
            piece = self._read_piece(most)
            self._position += len(piece)
            self._check_limits()
        except ContentError as error:
            self._failure = error
            raise
        return piece

    def _read_piece(self, most: int) -> bytes:
        piece = b""
        while self._decoder is not None and not piece and most:
            packed = self._read_packed() if self._decoder.is_hungry else b""
            piece = self._decode(self._decoder, packed, most)
            if self._decoder.is_complete:
                try:
                    self._decoder = self._next_decoder(self._decoder.rest)
                except ContentError as error:
                    if not piece:
                        raise
                    self._failure = error  # for the next time: this piece is good
        return piece

    def _decode(self, decoder: _Decoder, packed: bytes, most: int) -> bytes:
        try:
            return decoder.decode(packed, most)
        except MemoryError:
            raise
        except Exception as error:
            # Each library has errors of its own, and bzip2's are OSErrors like those of a disk.
            raise self._damaged(str(error)) from error

    def _read_packed(self) -> bytes:
        if self._ahead:
            packed, self._ahead = self._ahead, b""
            return packed
        packed = self._packed.read(BUFFER_BYTES)
        self._packed_bytes += len(packed)
        if not packed:
            raise self._damaged("it ends in the middle")
        return packed

    def _next_decoder(self, rest: bytes) -> _Decoder | None:
        """Return the decoder of the member that follows, or None at the end of the file."""
        while True:
            rest = rest.lstrip(b"\0") if self._packing.has_padding else rest
            if len(rest) >= HEAD_BYTES:
                break
            more = self._packed.read(BUFFER_BYTES)
            self._packed_bytes += len(more)
            if not more:
                break
            rest += more
        if not rest:
            return None
        if _find_packing(rest) is not self._packing and not self._is_skippable(rest):
            raise self._damaged("something else follows it")
        self._ahead = rest
        return self._packing.open_decoder()

    def _is_skippable(self, rest: bytes) -> bool:
        return self._packing.word == "zstd" and rest[1:4] == _ZSTD_SKIPPABLE and rest[0] & 0xF0 == 0x50

    def _check_limits(self) -> None:
        if self._position > self._limits.max_bytes:
            raise TooLargeError("the file", self._limits.max_bytes)
        if self._position > RATIO_FREE_BYTES and self._position > self._limits.max_ratio * self._packed_bytes:
            raise TooLargeError("the file", self._limits.max_bytes, max_ratio=self._limits.max_ratio)

    def _damaged(self, reason: str) -> ContentError:
        return ContentError(f"the {self._packing.word} packing is damaged: {reason}")
