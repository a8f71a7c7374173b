"""The index of a bag: where everything begins in its archives, on the disk, so that nothing is computed anew.

One file: the length of the header, the header in JSON, and four lists of numbers, which are looked at where they lie
(memory mapping) and never read as a whole. An archive of any number of files is opened at once, at any place.
"""

import mmap
import os
import struct
from array import array
from collections.abc import Iterable, Sequence
from pathlib import Path

import msgspec

from aggregator.exports import tar_format, zip_format

_LENGTH = struct.Struct("=Q")


class BagIndexError(ValueError):
    """A file is no index, or not a whole one."""


class TagFile(msgspec.Struct, frozen=True, kw_only=True):
    """A file of a bag that is not one of the export's own; digests in hexadecimal."""

    name: str
    """Path in the bag."""
    size_bytes: int
    crc32: int
    md5: str
    sha256: str


class IndexHeader(msgspec.Struct, frozen=True, kw_only=True):
    """What is known of a bag as a whole."""

    folder: str
    """Name of the folder that everything in an archive is in."""
    tags: tuple[TagFile, ...]
    files: int
    """Number of the export's own files."""
    zip_bytes: int
    tar_bytes: int


class BagIndex:
    """An index that was written, opened; the four lists end with where what follows begins.

    Raises
    ------
    BagIndexError
        `path` is no index.
    OSError
        It cannot be read.
    """

    header: IndexHeader
    lines: Sequence[int]
    """Where the line of each of the export's files begins in the manifest."""
    zip_members: Sequence[int]
    """Where each member begins in the ZIP: first the tag files, then the export's files."""
    zip_entries: Sequence[int]
    """Where the entry of each member begins in the ZIP's directory, from the beginning of the ZIP."""
    tar_members: Sequence[int]
    """Where each member begins in the TAR."""

    def __init__(self, path: Path) -> None:
        with path.open("rb") as stream:
            length = stream.read(_LENGTH.size)
            header_bytes = _LENGTH.unpack(length)[0] if len(length) == _LENGTH.size else 0
            if not 0 < header_bytes < os.fstat(stream.fileno()).st_size:
                raise BagIndexError(f"{path.name} is cut short")
            try:
                self.header = msgspec.json.decode(stream.read(header_bytes), type=IndexHeader)
            except msgspec.MsgspecError as error:
                raise BagIndexError(f"{path.name} is no index: {error}") from error
            numbers = memoryview(mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ))[_LENGTH.size + header_bytes :]
        files, members = self.header.files, self.header.files + len(self.header.tags)
        if len(numbers) != _LENGTH.size * (files + 3 * (members + 1)):
            raise BagIndexError(f"{path.name} is cut short")
        every = numbers.cast("Q")
        self.lines = every[:files]
        self.zip_members = every[files : files + members + 1]
        self.zip_entries = every[files + members + 1 : files + 2 * (members + 1)]
        self.tar_members = every[files + 2 * (members + 1) :]


def write_index(
    path: Path, *, folder: str, tags: Sequence[TagFile], files: Iterable[tuple[int, str, int, int]]
) -> IndexHeader:
    """Lay the archives of a bag out, and write where everything begins.

    Parameters
    ----------
    files
        Line in the manifest, path in the bag, size and CRC-32 of each of the export's files.
    """
    lines, members, entries, tar = array("Q"), array("Q"), array("Q"), array("Q")
    at = directory = tar_at = 0

    def put(name: str, size_bytes: int, crc32: int) -> None:
        nonlocal at, directory, tar_at
        encoded = f"{folder}/{name}".encode()
        members.append(at)
        entries.append(directory)
        tar.append(tar_at)
        directory += len(zip_format.directory_entry(encoded, size_bytes, crc32, at))
        at += len(zip_format.member_header(encoded, size_bytes, crc32)) + size_bytes
        tar_at += len(tar_format.member_header(encoded, size_bytes)) + size_bytes + -size_bytes % tar_format.BLOCK

    for tag in tags:
        put(tag.name, tag.size_bytes, tag.crc32)
    for line, name, size_bytes, crc32 in files:
        lines.append(line)
        put(name, size_bytes, crc32)
    count = len(members)
    for numbers, end in ((members, at), (entries, directory), (tar, tar_at)):
        numbers.append(end)
    entries = array("Q", (at + behind for behind in entries))
    end_bytes = len(zip_format.end_of_directory(count, at, directory))
    header = IndexHeader(
        folder=folder,
        tags=tuple(tags),
        files=len(lines),
        zip_bytes=at + directory + end_bytes,
        tar_bytes=tar_at + len(tar_format.END),
    )
    with path.open("xb") as stream:
        encoded = msgspec.json.encode(header)
        encoded += b" " * (-len(encoded) % _LENGTH.size)  # numbers lie where a processor likes them
        stream.write(_LENGTH.pack(len(encoded)) + encoded)
        for numbers in (lines, members, entries, tar):
            numbers.tofile(stream)
    return header
