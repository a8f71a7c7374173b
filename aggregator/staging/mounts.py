"""The global mount point: (storage, path) -> an open file, and never anything outside the storage.

A storage is somebody else's: a link in it may point anywhere, and may change between a check and its use. So a path
is resolved once, must stay below the storage's root, and is then opened folder by folder without following any link.
"""

import errno
import os
import stat
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

from aggregator.errors import AggregatorError, StagingError
from metadata_db.members import Place

LEAVES = "leaves the storage through a symbolic link"

_REASONS = {
    errno.ENOENT: "not found",
    errno.ENOTDIR: "not found",
    errno.EACCES: "permission denied",
    errno.EPERM: "permission denied",
    errno.ELOOP: LEAVES,
}
_MOUNT_ERRORS = frozenset(
    {errno.ENOTCONN, errno.ESTALE, errno.ENODEV, errno.ENXIO, errno.EHOSTDOWN, errno.EHOSTUNREACH, errno.ETIMEDOUT}
)


class StorageDownError(AggregatorError):
    """A storage as a whole is away, which says nothing about its files: worth another try."""

    code = "STORAGE_DOWN"

    def __init__(self, storage: str, reason: str) -> None:
        self.storage = storage
        self.reason = reason
        super().__init__(f"storage {storage}: {reason}")


class GlobalMountPoint:
    """Opens files of all storages, for reading only."""

    def open(self, place: Place) -> BinaryIO:
        """Return the regular file at `place`, open for unbuffered reading.

        Raises
        ------
        StagingError
            This file cannot be had; the reason is in plain words.
        StorageDownError
            The whole storage is away.
        """
        if place.kind != "local":
            raise StagingError(place.path, f"storages of kind {place.kind!r} cannot be read")
        if not place.enabled:
            raise StagingError(place.path, "the storage is switched off")
        try:
            return open_below(Path(place.root), place.path)
        except OSError as error:
            self.check_alive(place, error)
            raise StagingError(place.path, reason_of(error)) from error

    def check_alive(self, place: Place, error: OSError) -> None:
        """Return if the storage of `place` is there, so that `error` is about the file alone.

        Raises
        ------
        StorageDownError
            It is not: a file that is not found there may well exist.
        """
        if error.errno in _MOUNT_ERRORS:
            raise StorageDownError(place.storage, f"does not answer ({_name_of(error)})") from error
        try:
            with os.scandir(place.root) as entries:
                empty = next(entries, None) is None
        except PermissionError:
            return  # it is there: that its files cannot be read is said file by file
        except OSError as root_error:
            reason = "storage root is not there" if root_error.errno == errno.ENOENT else _name_of(root_error)
            raise StorageDownError(place.storage, reason) from error
        # What is left of a file system that was unmounted: its mount point, without a single file.
        if empty:
            raise StorageDownError(place.storage, "storage root is empty, as if it were not mounted") from error


def open_below(root: Path, path: str) -> BinaryIO:
    """Return the regular file `path` below `root`, open for unbuffered reading; links that stay below are followed.

    Raises
    ------
    OSError
        Not there, not readable, not a regular file, or not below `root`; `reason_of` puts it into words.
    """
    real_root = os.path.realpath(root, strict=True)
    real = os.path.realpath(os.path.join(real_root, path), strict=True)
    relative = os.path.relpath(real, real_root)
    if relative == os.curdir or relative.split(os.sep, 1)[0] == os.pardir:
        raise OSError(errno.ELOOP, LEAVES, path)
    return _open_without_links(real_root, relative.split(os.sep))


def _open_without_links(folder: str, parts: list[str]) -> BinaryIO:
    """Walk down folder by folder: a link that was put in the way since the check is an error, not a detour."""
    parent = os.open(folder, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        for part in parts[:-1]:
            child = os.open(part, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=parent)
            os.close(parent)
            parent = child
        # Looked at before it is opened: opening alone can wake a device or wait for a pipe's other end.
        _require_regular(os.stat(parts[-1], dir_fd=parent, follow_symlinks=False))
        opened = os.open(parts[-1], os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=parent)
    finally:
        os.close(parent)
    try:
        _require_regular(os.fstat(opened))
        return open(opened, "rb", buffering=0)
    except OSError:
        with suppress(OSError):
            os.close(opened)
        raise


def _require_regular(status: os.stat_result) -> None:
    if stat.S_ISLNK(status.st_mode):
        raise OSError(errno.ELOOP, LEAVES)
    if not stat.S_ISREG(status.st_mode):
        raise OSError(errno.EINVAL, "is not a regular file")


def reason_of(error: OSError) -> str:
    """Return in plain words why a file could not be opened or read."""
    if error.errno == errno.EINVAL:
        return error.strerror or "is not a regular file"
    return _REASONS.get(error.errno or 0) or f"cannot be read: {_name_of(error)}"


def _name_of(error: OSError) -> str:
    number = error.errno or 0
    return f"{os.strerror(number)} ({errno.errorcode.get(number, number)})"
