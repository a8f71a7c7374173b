"""An export as one ZIP file that is never written: laid out from its manifest, streamed from the stored contents.

Sizes and CRCs are known before the first byte leaves, so the length is exact, any range can be had, and the bytes
depend on the manifest alone: an archive that is made again is the same archive. All methods block.

Notes
-----
APPNOTE.TXT 6.3.10: members are stored (method 0) without data descriptors, names are UTF-8 (flag bit 11), the time
is 1980-01-01, and the ZIP64 fields of section 4.5.3 appear only where a number does not fit the old ones.
"""

import hashlib
import os
import struct
import zlib
from array import array
from bisect import bisect_right
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from aggregator.staging.manifest import Entry, iter_entries, read_header

BLOCK_BYTES = 1024**2
"""Size of the blocks an archive is given out in; only the last of a range is smaller."""

MANIFEST_NAME = "manifest.json"
FILES_FOLDER = "files"

_LIMIT_32 = 0xFFFF_FFFF
_LIMIT_16 = 0xFFFF
_UTF8_NAMES = 1 << 11
_EARLIEST_DATE = 0x21  # 1980-01-01, the first day of DOS
_UNIX_45 = 3 << 8 | 45  # made on Unix, by version 4.5 of the specification
_REGULAR_0644 = 0o100644 << 16

_LOCAL = struct.Struct("<4s5H3L2H")
_CENTRAL = struct.Struct("<4s6H3L5H2L")
_END_64 = struct.Struct("<4sQ2H2L4Q")
_LOCATOR_64 = struct.Struct("<4sLQL")
_END = struct.Struct("<4s4H2LH")


class ArchiveError(Exception):
    """An archive cannot be given out whole: a stored content is not there, or not what the manifest says."""


@dataclass(frozen=True, kw_only=True, slots=True)
class _ZipMember:
    """What the headers of one member say."""

    name: bytes
    size_bytes: int
    crc32: int
    content: Path

    @property
    def is_large(self) -> bool:
        return self.size_bytes >= _LIMIT_32

    def local_header(self) -> bytes:
        size = _LIMIT_32 if self.is_large else self.size_bytes
        extra = struct.pack("<2H2Q", 1, 16, self.size_bytes, self.size_bytes) if self.is_large else b""
        version = 45 if extra else 20
        fixed = (b"PK\3\4", version, _UTF8_NAMES, 0, 0, _EARLIEST_DATE, self.crc32, size, size)
        return _LOCAL.pack(*fixed, len(self.name), len(extra)) + self.name + extra

    def central_header(self, offset: int) -> bytes:
        numbers = [self.size_bytes, self.size_bytes] if self.is_large else []
        if offset >= _LIMIT_32:
            numbers.append(offset)
        extra = struct.pack(f"<2H{len(numbers)}Q", 1, 8 * len(numbers), *numbers) if numbers else b""
        size = min(self.size_bytes, _LIMIT_32)
        version = 45 if extra else 20
        fixed = (b"PK\1\2", _UNIX_45, version, _UTF8_NAMES, 0, 0, _EARLIEST_DATE, self.crc32, size, size)
        rest = (len(self.name), len(extra), 0, 0, 0, _REGULAR_0644, min(offset, _LIMIT_32))
        return _CENTRAL.pack(*fixed, *rest) + self.name + extra


def _end_records(count: int, directory_offset: int, directory_bytes: int) -> bytes:
    old = (min(count, _LIMIT_16), min(count, _LIMIT_16), min(directory_bytes, _LIMIT_32))
    end = _END.pack(b"PK\5\6", 0, 0, *old, min(directory_offset, _LIMIT_32), 0)
    if count < _LIMIT_16 and directory_bytes < _LIMIT_32 and directory_offset < _LIMIT_32:
        return end
    at = directory_offset + directory_bytes
    new = (0, 0, count, count, directory_bytes, directory_offset)
    end_64 = _END_64.pack(b"PK\6\6", _END_64.size - 12, _UNIX_45, 45, *new)
    return end_64 + _LOCATOR_64.pack(b"PK\6\7", 0, at, 1) + end


class Archive:
    """The ZIP of one complete export.

    Parameters
    ----------
    manifest
        The export's manifest on disk.
    find_content
        SHA-256 in hexadecimal → path of the stored content.

    Raises
    ------
    ManifestError
        `manifest` is not one.

    Notes
    -----
    Of each member only three numbers are kept (where it, its entry in the directory and its line of the manifest
    begin), 24 bytes; everything else is read from the manifest again when it is needed.
    """

    def __init__(self, manifest: Path, find_content: Callable[[str], Path]) -> None:
        self._path = manifest
        self._find_content = find_content
        self._members = array("Q")
        self._directory = array("Q")
        self._lines = array("Q")
        with manifest.open("rb") as stream:
            self._identity = _identity_of(os.fstat(stream.fileno()))
            self.manifest_sha256, crc32 = _digests_of(stream)
            stream.seek(0)
            self.query_id = read_header(stream).query_id
            self._manifest = _ZipMember(
                name=f"{self.query_id}/{MANIFEST_NAME}".encode(),
                size_bytes=os.fstat(stream.fileno()).st_size,
                crc32=crc32,
                content=manifest,
            )
            self._lay_out(stream)

    def _lay_out(self, stream: BinaryIO) -> None:
        """Note where everything begins; both lists end with the beginning of what follows."""
        offset = directory_bytes = 0
        for member in self._iter_laid_out(stream):
            self._members.append(offset)
            self._directory.append(directory_bytes)
            directory_bytes += len(member.central_header(offset))
            offset += len(member.local_header()) + member.size_bytes
        self._members.append(offset)
        self._directory.append(directory_bytes)
        for index, behind in enumerate(self._directory):
            self._directory[index] = offset + behind
        self._end = _end_records(len(self._members) - 1, offset, directory_bytes)
        self.size_bytes = offset + directory_bytes + len(self._end)

    def _iter_laid_out(self, stream: BinaryIO) -> Iterator[_ZipMember]:
        self._lines.append(0)
        yield self._manifest
        entries = iter_entries(stream)
        while True:
            line = stream.tell()
            entry = next(entries, None)
            if entry is None:
                return
            self._lines.append(line)
            yield self._member(entry)

    def _member(self, entry: Entry) -> _ZipMember:
        return _ZipMember(
            name=f"{self.query_id}/{FILES_FOLDER}/{entry.path}".encode(),
            size_bytes=entry.size_bytes,
            crc32=int(entry.crc32, 16),
            content=self._find_content(entry.sha256),
        )

    def is_current(self) -> bool:
        """Tell whether the manifest on disk is still the one that was laid out: an export may be staged anew."""
        try:
            return _identity_of(self._path.stat()) == self._identity
        except FileNotFoundError:
            return False

    # --- giving out ----------------------------------------------------------------------------------------------

    def iter_blocks(self, start: int = 0, stop: int | None = None) -> Iterator[bytes]:
        """Yield the bytes from `start` to before `stop`, in blocks of `BLOCK_BYTES`.

        Raises
        ------
        ArchiveError
            A content is gone or is not whole; what was given out so far is right.
        """
        pending = bytearray()
        for piece in self._iter_pieces(start, self.size_bytes if stop is None else min(stop, self.size_bytes)):
            pending += piece
            while len(pending) >= BLOCK_BYTES:
                yield bytes(pending[:BLOCK_BYTES])
                del pending[:BLOCK_BYTES]
        if pending:
            yield bytes(pending)

    def _iter_pieces(self, start: int, stop: int) -> Iterator[bytes]:
        with self._path.open("rb") as manifest:
            if _identity_of(os.fstat(manifest.fileno())) != self._identity:
                raise ArchiveError("the export was staged anew; begin again")
            yield from self._iter_members(manifest, start, stop)
            yield from self._iter_directory(manifest, start, stop)
        yield _cut(self._end, self.size_bytes - len(self._end), start, stop)

    def _iter_members(self, manifest: BinaryIO, start: int, stop: int) -> Iterator[bytes]:
        first = max(bisect_right(self._members, start) - 1, 0)
        for index, member in self._iter_from(manifest, first):
            at = self._members[index]
            if at >= stop:
                return
            header = member.local_header()
            yield _cut(header, at, start, stop)
            at += len(header)
            yield from _iter_content(member, max(start - at, 0), min(stop - at, member.size_bytes))

    def _iter_directory(self, manifest: BinaryIO, start: int, stop: int) -> Iterator[bytes]:
        if stop <= self._directory[0]:
            return
        first = max(bisect_right(self._directory, start) - 1, 0)
        for index, member in self._iter_from(manifest, first):
            at = self._directory[index]
            if at >= stop:
                return
            yield _cut(member.central_header(self._members[index]), at, start, stop)

    def _iter_from(self, manifest: BinaryIO, first: int) -> Iterator[tuple[int, _ZipMember]]:
        """Yield the members from number `first` on, with their numbers; number 0 is the manifest."""
        if first == 0:
            yield 0, self._manifest
            first = 1
        if first < len(self._lines):
            manifest.seek(self._lines[first])
            for index, entry in enumerate(iter_entries(manifest), first):
                yield index, self._member(entry)


def _cut(piece: bytes, at: int, start: int, stop: int) -> bytes:
    """Return the part of `piece`, which begins at offset `at`, that lies between `start` and `stop`."""
    return piece[max(start - at, 0) : max(stop - at, 0)]


def _iter_content(member: _ZipMember, low: int, high: int) -> Iterator[bytes]:
    if low >= high:
        return
    try:
        with member.content.open("rb", buffering=0) as content:
            if os.fstat(content.fileno()).st_size != member.size_bytes:
                raise ArchiveError(f"{member.name.decode()} is not whole in the buffer")
            content.seek(low)
            while low < high:
                block = content.read(min(BLOCK_BYTES, high - low))
                if not block:
                    raise ArchiveError(f"{member.name.decode()} ends early in the buffer")
                low += len(block)
                yield block
    except OSError as error:
        raise ArchiveError(f"{member.name.decode()} cannot be read from the buffer: {error.strerror}") from error


def _identity_of(status: os.stat_result) -> tuple[int, int, int]:
    return status.st_dev, status.st_ino, status.st_mtime_ns


def _digests_of(stream: BinaryIO) -> tuple[str, int]:
    sha256, crc32 = hashlib.sha256(), 0
    while block := stream.read(BLOCK_BYTES):
        sha256.update(block)
        crc32 = zlib.crc32(block, crc32)
    return sha256.hexdigest(), crc32
