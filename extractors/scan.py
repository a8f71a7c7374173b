"""Walks a storage and opens its files without ever leaving it, waiting on it or writing to it."""

import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from extractors.errors import FileRejectedError
from metadata_db.records import PathError, check_path


@dataclass(frozen=True, kw_only=True, slots=True)
class ScannedFile:
    """A regular file that may be catalogued; `path` is below the root, with ``/`` between the parts."""

    path: str


@dataclass(frozen=True, kw_only=True, slots=True)
class RejectedFile:
    """Something below the root that may not be catalogued, and why; `path` is printable, not necessarily exact."""

    path: str
    reason: str


def walk(root: Path) -> Iterator[ScannedFile | RejectedFile]:
    """Yield everything below `root` that is no folder, folder by folder, sorted by name in each.

    Folders are entered, links to folders are not. Memory is that of the largest folder.

    Raises
    ------
    OSError
        The root itself cannot be listed.
    """
    real_root = os.path.realpath(root, strict=True)
    for found in _iter_entries(real_root):
        yield found if isinstance(found, RejectedFile) else _judge(real_root, found)


def count_files(root: Path) -> int:
    """Return how many things `walk` will yield, by listing folders only."""
    return sum(1 for _ in _iter_entries(os.path.realpath(root, strict=True)))


def open_file(root: Path, path: str) -> BinaryIO:
    """Open the regular file at `path` below `root`, read-only.

    Raises
    ------
    FileRejectedError
        The path is not a plain one, leads out of the root, or ends at anything but a regular file.
    """
    real_path = _resolve(os.path.realpath(root), path)
    # Not blocking, because opening a FIFO would otherwise wait for a writer; not following, because the path is
    # resolved already and a link that appears now is somebody's trick.
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    try:
        descriptor = os.open(real_path, flags)
    except OSError as error:
        raise FileRejectedError(path, f"cannot be opened: {error.strerror}") from error
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise FileRejectedError(path, _what_it_is(real_path))
    return open(descriptor, "rb")


def path_below(root: Path, path: bytes) -> str:
    """Return where `path`, absolute or from the current folder, lies below `root`; links on the way are kept.

    Raises
    ------
    FileRejectedError
        It lies elsewhere, or its name is not UTF-8.
    """
    try:
        text = path.decode()
    except UnicodeDecodeError as error:
        raise FileRejectedError(printable(os.fsdecode(path)), "the name is not UTF-8") from error
    if not text or "\0" in text:
        raise FileRejectedError(printable(text), "the path is empty or holds NUL")
    absolute = os.path.abspath(text)
    for base in (os.path.abspath(root), os.path.realpath(root)):
        if absolute.startswith(base.rstrip("/") + "/"):
            return absolute[len(base.rstrip("/")) + 1 :]
    raise FileRejectedError(printable(text), f"is not below the storage's root {root}")


def printable(path: str) -> str:
    r"""Return `path` with bytes that are not UTF-8 shown as ``\xNN``."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")


def _iter_entries(real_root: str) -> Iterator[str | RejectedFile]:
    """Yield the paths of everything that is no folder, and the folders that cannot be listed."""
    pending = [""]
    while pending:
        folder = pending.pop()
        try:
            with os.scandir(os.path.join(real_root, folder)) as listing:
                entries = sorted(listing, key=lambda entry: os.fsencode(entry.name))
        except OSError as error:
            if not folder:
                raise
            yield RejectedFile(path=printable(folder), reason=f"the folder cannot be listed: {error.strerror}")
            continue
        folders: list[str] = []
        for entry in entries:
            path = f"{folder}/{entry.name}" if folder else entry.name
            if entry.is_dir(follow_symlinks=False):
                folders.append(path)
            else:
                yield path
        pending.extend(reversed(folders))


def _judge(real_root: str, path: str) -> ScannedFile | RejectedFile:
    try:
        real_path = _resolve(real_root, path)
        if not stat.S_ISREG(os.stat(real_path, follow_symlinks=False).st_mode):
            raise FileRejectedError(path, _what_it_is(real_path))
    except FileRejectedError as error:
        return RejectedFile(path=printable(path), reason=error.reason)
    except OSError as error:
        return RejectedFile(path=printable(path), reason=f"cannot be looked at: {error.strerror}")
    return ScannedFile(path=path)


def _resolve(real_root: str, path: str) -> str:
    """Return the real place of `path`, which is below the root."""
    try:
        path.encode()
    except UnicodeEncodeError as error:
        raise FileRejectedError(path, "the name is not UTF-8") from error
    try:
        check_path(path)
        real_path = os.path.realpath(os.path.join(real_root, path), strict=True)
    except PathError as error:
        raise FileRejectedError(path, str(error)) from error
    except OSError as error:
        raise FileRejectedError(path, f"leads nowhere: {error.strerror}") from error
    if not real_path.startswith(real_root.rstrip("/") + "/"):
        raise FileRejectedError(path, "leads out of the storage by a symbolic link")
    return real_path


def _what_it_is(real_path: str) -> str:
    mode = os.stat(real_path, follow_symlinks=False).st_mode
    for is_kind, words in (
        (stat.S_ISDIR, "is a folder or a link to one; files are catalogued below the folder's own path"),
        (stat.S_ISFIFO, "is a FIFO"),
        (stat.S_ISSOCK, "is a socket"),
        (stat.S_ISBLK, "is a block device"),
        (stat.S_ISCHR, "is a character device"),
    ):
        if is_kind(mode):
            return words
    return "is no regular file"
