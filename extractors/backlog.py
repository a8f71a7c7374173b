"""Paths that were passed on and whose files are not yet catalogued: a journal on disk, which outlives its process."""

import fcntl
import logging
import os
import struct
import tempfile
import threading
import time
from collections.abc import Iterator
from io import FileIO
from pathlib import Path
from types import TracebackType
from typing import IO, Self

logger = logging.getLogger(__name__)

_LENGTH = struct.Struct("=I")
_DONE = struct.Struct("=Q")


class PathBacklog:
    """A queue of paths; use it in a ``with`` statement.

    The paths are kept in a file, so that memory stays flat however far the cataloguing lags behind, and so that the
    next run can take them up when this process is killed. What is `done` is said only after it was delivered: a path
    may be catalogued twice, which changes nothing, and is never forgotten.

    Parameters
    ----------
    folder
        Where the journal is kept. Several processes may share it. Without one, or when it cannot be written, the paths
        are kept in an unnamed file and end with the process.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self._changed = threading.Condition()
        self._is_closed = False
        self._is_abandoned = False
        self._path, self._file = _open_journal(folder)
        self._read_at = self._write_at = self._done_at = _DONE.size

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._path is not None and self._done_at == self._write_at:
            self._path.unlink(missing_ok=True)
        self._file.close()

    def put(self, path: bytes) -> None:
        """Append one path.

        Raises
        ------
        OSError
            The disk is full.
        """
        with self._changed:
            entry = _LENGTH.pack(len(path)) + path
            self._file.seek(self._write_at)
            try:
                _write_all(self._file, entry)
            except OSError:
                # A half would be read as a path by whoever adopts this journal.
                self._file.truncate(self._write_at)
                raise
            self._write_at += len(entry)
            self._changed.notify()

    def take(self, most: int) -> list[bytes]:
        """Return up to `most` paths, waiting for at least one; none at all only when the backlog is closed."""
        with self._changed:
            self._changed.wait_for(lambda: self._is_closed or not self._is_empty())
            taken: list[bytes] = []
            while len(taken) < most and not self._is_empty():
                taken.append(self._take_one())
            return taken

    def done(self) -> None:
        """Say that everything taken so far has been delivered."""
        with self._changed:
            self._done_at = self._read_at
            if self._read_at == self._write_at:
                self._file.truncate(_DONE.size)
                self._read_at = self._write_at = self._done_at = _DONE.size
            self._file.seek(0)
            _write_all(self._file, _DONE.pack(self._done_at))

    def is_empty(self) -> bool:
        """Whether nothing waits."""
        with self._changed:
            return self._is_empty()

    def wait_until_closed(self, seconds: float) -> bool:
        """Return whether the backlog was closed, waiting for it no longer than so many seconds."""
        with self._changed:
            return self._changed.wait_for(lambda: self._is_closed, timeout=seconds)

    def close(self, *, abandon: bool = False) -> None:
        """Say that no more paths will come; with `abandon`, also take no more of those that wait in this run."""
        with self._changed:
            self._is_closed = True
            self._is_abandoned |= abandon
            self._changed.notify()

    def _is_empty(self) -> bool:
        return self._is_abandoned or self._read_at == self._write_at

    def _take_one(self) -> bytes:
        self._file.seek(self._read_at)
        (length,) = _LENGTH.unpack(self._file.read(_LENGTH.size))
        path = self._file.read(length)
        self._read_at += _LENGTH.size + length
        return path


def adopt(folder: Path, into: PathBacklog) -> int:
    """Move what ended processes have left behind into a backlog, and return how many paths that were.

    Raises
    ------
    OSError
        The disk is full; what could not be moved stays where it is.
    """
    n_paths = 0
    for journal in sorted(folder.glob("*.paths")):
        try:
            file = journal.open("rb")
        except FileNotFoundError:  # its process has just ended, with everything done
            continue
        with file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:  # its process is alive
                continue
            for path in _iter_left(file):
                into.put(path)
                n_paths += 1
            journal.unlink(missing_ok=True)
    return n_paths


def _iter_left(file: IO[bytes]) -> Iterator[bytes]:
    """Yield the paths that were not done; a last one that was cut off in writing was never passed on whole."""
    head = file.read(_DONE.size)
    if len(head) < _DONE.size:
        return
    file.seek(_DONE.unpack(head)[0])
    while len(prefix := file.read(_LENGTH.size)) == _LENGTH.size:
        (length,) = _LENGTH.unpack(prefix)
        path = file.read(length)
        if len(path) < length:
            return
        yield path


def _open_journal(folder: Path | None) -> tuple[Path | None, FileIO]:
    if folder is not None:
        path = folder / f"{time.time_ns():020d}-{os.getpid()}.paths"
        part = path.with_suffix(".part")
        try:
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            file = FileIO(part, "x+")
            try:
                # It appears locked, or another process would take it for one that was left behind.
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                _write_all(file, _DONE.pack(_DONE.size))
                part.rename(path)
            except OSError:
                file.close()
                part.unlink(missing_ok=True)
                raise
        except OSError as error:
            logger.warning("paths are not kept on disk while they are catalogued: %s", error)
        else:
            return path, file
    descriptor, name = tempfile.mkstemp()
    os.unlink(name)
    unnamed = FileIO(descriptor, "r+")
    _write_all(unnamed, _DONE.pack(_DONE.size))
    return None, unnamed


def _write_all(file: FileIO, data: bytes) -> None:
    """Write `data` where `file` is: unbuffered, so that nothing is left to be written once more after a failure."""
    while data:
        data = data[file.write(data) :]
