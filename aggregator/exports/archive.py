"""An export as one ZIP or TAR that is never written: laid out by the bag's index, streamed from the stored contents.

The length is exact, any range can be had, and the bytes depend on the manifest alone: an archive that is made again
is the same archive. All methods block.
"""

import os
from bisect import bisect_right
from collections.abc import Callable, Iterator
from typing import BinaryIO, ClassVar

from aggregator.exports import tar_format, zip_format
from aggregator.exports.bag import LAYOUT, Bag, BagError, Member
from aggregator.staging.manifest import ManifestError

BLOCK_BYTES = 1024**2
"""Size of the largest block that an archive is given out in."""

_SMALL_BYTES = 256 * 1024
"""Pieces below this are gathered into one block; copying a larger one costs more than sending it by itself."""


class ArchiveError(Exception):
    """An archive cannot be given out whole: a stored content is not there, or not what the manifest says."""


class Archive:
    """One archive of a bag; see its two kinds."""

    ending: ClassVar[str]
    media_type: ClassVar[str]
    size_bytes: int

    def __init__(self, bag: Bag) -> None:
        self.bag = bag

    @property
    def name(self) -> str:
        """What names the archive's bytes: the manifest, the kind, and how bags are laid out."""
        return f"{self.bag.manifest_sha256}-{self.ending}{LAYOUT}"

    def iter_blocks(self, start: int = 0, stop: int | None = None) -> Iterator[bytes]:
        """Yield the bytes from `start` to before `stop`, in blocks of at most `BLOCK_BYTES`.

        Raises
        ------
        ArchiveError
            A content is gone or is not whole; what was given out so far is right.
        """
        stop = self.size_bytes if stop is None else min(stop, self.size_bytes)
        pending = bytearray()
        for piece in self._iter_opened(start, stop):
            if len(piece) >= _SMALL_BYTES or len(pending) + len(piece) > BLOCK_BYTES:
                if pending:
                    yield bytes(pending)
                    pending.clear()
                if len(piece) >= _SMALL_BYTES:
                    yield piece
                    continue
            pending += piece
        if pending:
            yield bytes(pending)

    def _iter_opened(self, start: int, stop: int) -> Iterator[bytes]:
        try:
            with self.bag.reading() as manifest:
                yield from self._iter_pieces(manifest, start, stop)
        except OSError as error:
            raise ArchiveError(f"the export is not in the buffer any more: {error.strerror}") from error
        except (BagError, ManifestError) as error:
            raise ArchiveError(str(error)) from error

    def _iter_pieces(self, manifest: BinaryIO, start: int, stop: int) -> Iterator[bytes]:
        """Yield the bytes from `start` to before `stop`; each format lays them out in its own way."""
        raise NotImplementedError


class ZipArchive(Archive):
    """The ZIP of a bag."""

    ending = "zip"
    media_type = "application/zip"

    def __init__(self, bag: Bag) -> None:
        super().__init__(bag)
        self._members = bag.index.zip_members
        self._entries = bag.index.zip_entries
        self.size_bytes = bag.index.header.zip_bytes

    def _iter_pieces(self, manifest: BinaryIO, start: int, stop: int) -> Iterator[bytes]:
        yield from self._iter_members(manifest, start, stop)
        yield from self._iter_directory(manifest, start, stop)
        directory_at, end_at = self._entries[0], self._entries[-1]
        end = zip_format.end_of_directory(len(self.bag), directory_at, end_at - directory_at)
        yield _cut(end, end_at, start, stop)

    def _iter_members(self, manifest: BinaryIO, start: int, stop: int) -> Iterator[bytes]:
        if start >= self._members[-1]:
            return
        for number, member in self.bag.iter_from(manifest, bisect_right(self._members, start) - 1):
            at = self._members[number]
            if at >= stop:
                return
            header = zip_format.member_header(_name_in(self.bag, member), member.size_bytes, member.crc32)
            yield _cut(header, at, start, stop)
            at += len(header)
            yield from _iter_content(member, max(start - at, 0), min(stop - at, member.size_bytes))

    def _iter_directory(self, manifest: BinaryIO, start: int, stop: int) -> Iterator[bytes]:
        if stop <= self._entries[0] or start >= self._entries[-1]:
            return
        for number, member in self.bag.iter_from(manifest, max(bisect_right(self._entries, start) - 1, 0)):
            at = self._entries[number]
            if at >= stop:
                return
            name = _name_in(self.bag, member)
            entry = zip_format.directory_entry(name, member.size_bytes, member.crc32, self._members[number])
            yield _cut(entry, at, start, stop)


class TarArchive(Archive):
    """The TAR of a bag."""

    ending = "tar"
    media_type = "application/x-tar"

    def __init__(self, bag: Bag) -> None:
        super().__init__(bag)
        self._members = bag.index.tar_members
        self.size_bytes = bag.index.header.tar_bytes

    def _iter_pieces(self, manifest: BinaryIO, start: int, stop: int) -> Iterator[bytes]:
        end_at = self._members[-1]
        if start < end_at:
            for number, member in self.bag.iter_from(manifest, bisect_right(self._members, start) - 1):
                at = self._members[number]
                if at >= stop:
                    return
                header = tar_format.member_header(_name_in(self.bag, member), member.size_bytes)
                yield _cut(header, at, start, stop)
                at += len(header)
                yield from _iter_content(member, max(start - at, 0), min(stop - at, member.size_bytes))
                yield _cut(tar_format.padding(member.size_bytes), at + member.size_bytes, start, stop)
        yield _cut(tar_format.END, end_at, start, stop)


def _name_in(bag: Bag, member: Member) -> bytes:
    return f"{bag.name}/{member.name}".encode()


def _cut(piece: bytes, at: int, start: int, stop: int) -> bytes:
    """Return the part of `piece`, which begins at offset `at`, that lies between `start` and `stop`."""
    return piece[max(start - at, 0) : max(stop - at, 0)]


def _iter_content(member: Member, low: int, high: int) -> Iterator[bytes]:
    return iter_file(member.open, member.name, member.size_bytes, low, high)


def iter_file(open_file: Callable[[], BinaryIO], name: str, size_bytes: int, low: int, high: int) -> Iterator[bytes]:
    """Yield the bytes of one stored content from `low` to before `high`.

    Raises
    ------
    ArchiveError
        It is gone or is not whole; `name` is what it is called.
    """
    if low >= high:
        return
    try:
        with open_file() as content:
            if os.fstat(content.fileno()).st_size != size_bytes:
                raise ArchiveError(f"{name} is not whole in the buffer")
            content.seek(low)
            while low < high:
                block = content.read(min(BLOCK_BYTES, high - low))
                if not block:
                    raise ArchiveError(f"{name} ends early in the buffer")
                low += len(block)
                yield block
    except OSError as error:
        raise ArchiveError(f"{name} cannot be read from the buffer: {error.strerror}") from error
