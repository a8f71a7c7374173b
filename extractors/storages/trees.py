"""What a storage is to the extractors: a tree of files that can be walked and opened, and in no way written or left.

A folder is one (`local_tree`), and so is anything that fsspec reaches (`remote_tree`); `opening` tells which by the
address. All walk in byte order of the whole path, which is the order of the catalogue's listing, so that the two can be
merged without holding either.
"""

import io
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, BinaryIO, Protocol

from extractors.errors import FileRejectedError, ReadLimitError
from metadata_db.records import PathError, check_path

BUFFER_BYTES = 8192
"""Read at once of a file for small requests; larger ones go past the buffer."""

_UNIX_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, kw_only=True, slots=True)
class FileStatus:
    """What a storage knows of an open file; `version` differs when the bytes do."""

    size_bytes: int
    modified_at: datetime | None
    version: str


@dataclass(frozen=True, kw_only=True, slots=True)
class ScannedFile:
    """A regular file that may be catalogued; `path` is below the root, with ``/`` between the parts.

    Some servers list no sizes or times; then those are None.
    """

    path: str
    size_bytes: int | None = None
    modified_at: datetime | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class RejectedFile:
    """Something below the root that may not be catalogued, and why; `path` is printable, not necessarily exact.

    With `is_folder` it is a folder that was not entered: files below it were not seen, which does not say that they
    are gone.
    """

    path: str
    reason: str
    is_folder: bool = False


class OpenedFile(io.BufferedReader):
    """A file of a storage, open for reading; `status` asks the storage anew each time."""

    def __init__(self, raw: io.RawIOBase, take_status: Callable[[], FileStatus], buffer_bytes: int) -> None:
        super().__init__(raw, buffer_bytes)
        self.status = take_status


class Tree(Protocol):
    """A read-only view on a storage; may be sent to another process."""

    @property
    def root(self) -> str:
        """The folder or address, for messages; holds no secret."""

    def walk(self) -> Iterator[ScannedFile | RejectedFile]:
        """Yield everything that is no folder, and the folders that were not entered, in byte order of the whole path.

        A folder sorts as its path and a ``/``. Memory is that of the largest folder.

        Raises
        ------
        StorageError
            The root itself cannot be listed.
        """

    def count(self) -> int | None:
        """Return how much `walk` will yield, or None when only a whole walk would tell.

        Raises
        ------
        StorageError
            The root itself cannot be listed.
        """

    def open(self, path: str) -> OpenedFile:
        """Open the regular file at `path`, which is below the root.

        Raises
        ------
        FileRejectedError
            The path is not a plain one, leads out of the storage, or ends at anything but a regular file.
        """

    def exists(self, path: str) -> bool:
        """Return whether there is a regular file at `path` that may be opened."""

    def path_below(self, path: bytes) -> str:
        """Return where `path`, as a user or program names it, lies below the root.

        Raises
        ------
        FileRejectedError
            It lies elsewhere, or its name is not UTF-8.
        """


class LimitedStream(io.BufferedReader):
    """Any stream, of which at most `max_bytes` are read; what is read twice counts twice.

    Reading on raises `ReadLimitError`. Closing it leaves the stream open.
    """

    def __init__(self, stream: OpenedFile, max_bytes: int) -> None:
        super().__init__(_CountedRaw(stream, max_bytes), BUFFER_BYTES)
        self.status = stream.status


class _CountedRaw(io.RawIOBase):
    def __init__(self, stream: BinaryIO, max_bytes: int) -> None:
        self._stream = stream
        self._max_bytes = max_bytes
        self._left_bytes = max_bytes

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._stream.tell()

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        return self._stream.seek(offset, whence)

    def readinto(self, buffer: Any) -> int:
        if not self._left_bytes and self._stream.read(1):
            raise ReadLimitError(self._max_bytes)
        piece = self._stream.read(min(len(buffer), self._left_bytes))
        buffer[: len(piece)] = piece
        self._left_bytes -= len(piece)
        return len(piece)


# --------------------------------------------------------------------------------------- names and times


def printable(path: str) -> str:
    r"""Return `path` with bytes that are not UTF-8 shown as ``\xNN``."""
    return path if path.isascii() else path.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def check_plain(path: str) -> None:
    """Raise `FileRejectedError` unless `path` is a plain relative one."""
    try:
        if not path.isascii():
            path.encode()
        check_path(path)
    except UnicodeEncodeError as error:
        raise FileRejectedError(printable(path), "the name is not UTF-8") from error
    except PathError as error:
        raise FileRejectedError(printable(path), str(error)) from error


def decode_path(path: bytes) -> str:
    """Return `path` as text; raise `FileRejectedError` unless it is UTF-8 and names something."""
    try:
        text = path.decode()
    except UnicodeDecodeError as error:
        raise FileRejectedError(printable(os.fsdecode(path)), "the name is not UTF-8") from error
    if not text or "\0" in text:
        raise FileRejectedError(text, "the path is empty or holds NUL")
    return text


def moment_of(unix_ns: int) -> datetime | None:
    """Return a file's time; None when it lies in no year that a record can hold."""
    try:
        moment = _UNIX_EPOCH + timedelta(microseconds=unix_ns // 1000)
    except OverflowError:
        return None
    return moment if 1 < moment.year < 9999 else None
