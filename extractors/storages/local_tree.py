"""A folder of this computer as a tree: whatever it links to, nothing outside is reached and nothing special opened."""

import io
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from extractors.errors import FileRejectedError, StorageError
from extractors.storages.trees import (
    BUFFER_BYTES,
    FileStatus,
    OpenedFile,
    RejectedFile,
    ScannedFile,
    check_plain,
    decode_path,
    moment_of,
    printable,
)

_FOLDER_FLAGS = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


class LocalTree:
    """A folder of this computer, mounted or not.

    Links are followed as long as they end in the storage, folders behind links are not walked. Where a file really is,
    is asked of the kernel after it was reached and before it is opened: no link that appears in between can lead out,
    and nothing but regular files is ever opened, since even opening a device or FIFO may have an effect.
    """

    def __init__(self, root: Path) -> None:
        self.root = str(root)
        self._real_prefix: str | None = None

    def __repr__(self) -> str:
        return f"LocalTree({self.root!r})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, LocalTree) and other.root == self.root

    def __hash__(self) -> int:
        return hash(self.root)

    def walk(self) -> Iterator[ScannedFile | RejectedFile]:
        """Yield what is in the tree; see `Tree.walk`."""
        for found in self._iter_entries():
            yield found if isinstance(found, RejectedFile) else self._judge(*found)

    def count(self) -> int:
        """Return how much `walk` will yield, by listing folders only."""
        return sum(1 for _ in self._iter_entries())

    def open(self, path: str) -> OpenedFile:
        """Open a file; see `Tree.open`."""
        place = self._reach(path)
        try:
            # Through the handle, so that it is the very file that was judged.
            descriptor = os.open(_handle_path(place), os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError as error:
            raise FileRejectedError(printable(path), f"cannot be opened: {error.strerror}") from error
        finally:
            os.close(place)
        return OpenedFile(io.FileIO(descriptor), lambda: _status_of(os.fstat(descriptor)), BUFFER_BYTES)

    def exists(self, path: str) -> bool:
        """Return whether there is a regular file at `path` that may be opened."""
        try:
            os.close(self._reach(path))
        except FileRejectedError:
            return False
        return True

    def path_below(self, path: bytes) -> str:
        """Return where `path`, absolute or from the current folder, lies below the root; links on the way are kept."""
        text = decode_path(path)
        absolute = os.path.abspath(text)
        for base in (os.path.abspath(self.root), os.path.realpath(self.root)):
            prefix = base.rstrip("/") + "/"
            if absolute.startswith(prefix):
                return absolute[len(prefix) :]
        raise FileRejectedError(printable(text), f"is not below the storage's root {self.root}")

    def _iter_entries(self) -> Iterator[tuple[str, os.DirEntry[str]] | RejectedFile]:
        """Yield the paths and entries of everything that is no folder, and the folders that were not entered."""
        # Every folder is opened from within the one above it and stays open while it is walked: so a folder that is
        # swapped for a link, or moved, is noticed, and cannot lead elsewhere.
        folders: list[_Folder] = []
        try:
            folders.append(self._open_root())
            while folders:
                found = next(folders[-1].entries, None)
                if found is None:
                    folders.pop().close()
                elif not found.is_folder:
                    yield folders[-1].prefix + found.entry.name, found.entry
                else:
                    entered = _enter(folders[-1], found.entry.name)
                    if isinstance(entered, RejectedFile):
                        yield entered
                    else:
                        folders.append(entered)
        finally:
            for folder in folders:
                folder.close()

    def _open_root(self) -> "_Folder":
        try:
            return _Folder.opened(os.path.realpath(self.root, strict=True), prefix="", above=None)
        except OSError as error:
            raise StorageError(self.root, f"cannot be listed: {error.strerror}") from error

    def _judge(self, path: str, entry: os.DirEntry[str]) -> ScannedFile | RejectedFile:
        try:
            if entry.is_symlink():
                place = self._reach(path)
                try:
                    status = os.fstat(place)
                finally:
                    os.close(place)
            else:
                check_plain(path)
                status = entry.stat(follow_symlinks=False)
                if not stat.S_ISREG(status.st_mode):
                    raise FileRejectedError(printable(path), _what_it_is(status.st_mode))
        except FileRejectedError as error:
            return RejectedFile(path=printable(path), reason=error.reason)
        except OSError as error:
            return RejectedFile(path=printable(path), reason=f"cannot be looked at: {error.strerror}")
        return ScannedFile(path=path, size_bytes=status.st_size, modified_at=moment_of(status.st_mtime_ns))

    def _reach(self, path: str) -> int:
        """Return a handle of the regular file at `path`, which reads nothing and has no effect on what it is of."""
        check_plain(path)
        try:
            place = os.open(self._prefix() + path, os.O_PATH | os.O_CLOEXEC)
        except OSError as error:
            raise FileRejectedError(printable(path), f"leads nowhere: {error.strerror}") from error
        try:
            self._check_place(path, place)
        except BaseException:
            os.close(place)
            raise
        return place

    def _check_place(self, path: str, place: int) -> None:
        try:
            real_path = os.readlink(_handle_path(place))
            mode = os.fstat(place).st_mode
        except OSError as error:
            raise FileRejectedError(printable(path), f"cannot be located, /proc is needed: {error.strerror}") from error
        if not real_path.startswith(self._prefix()) and not real_path.startswith(self._prefix(is_fresh=True)):
            raise FileRejectedError(printable(path), "leads out of the storage by a symbolic link")
        if not stat.S_ISREG(mode):
            raise FileRejectedError(printable(path), _what_it_is(mode))

    def _prefix(self, *, is_fresh: bool = False) -> str:
        """Return how all real paths in the storage begin; looked up anew when the root is a link that has moved on."""
        if self._real_prefix is None or is_fresh:
            self._real_prefix = os.path.realpath(self.root).rstrip("/") + "/"
        return self._real_prefix


@dataclass(frozen=True, kw_only=True, slots=True)
class _Entry:
    """One name in a local folder."""

    entry: os.DirEntry[str]
    is_folder: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class _Folder:
    """An open folder and what of it is still to be walked; `prefix` is how the paths in it begin."""

    descriptor: int
    prefix: str
    entries: Iterator[_Entry]

    @classmethod
    def opened(cls, name: str, *, prefix: str, above: int | None) -> Self:
        descriptor = os.open(name, _FOLDER_FLAGS, dir_fd=above)
        try:
            with os.scandir(descriptor) as listing:
                entries = [_Entry(entry=entry, is_folder=_is_folder(entry)) for entry in listing]
        except BaseException:
            os.close(descriptor)
            raise
        entries.sort(key=lambda found: os.fsencode(found.entry.name) + (b"/" if found.is_folder else b""))
        return cls(descriptor=descriptor, prefix=prefix, entries=iter(entries))

    def close(self) -> None:
        os.close(self.descriptor)


def _enter(above: _Folder, name: str) -> _Folder | RejectedFile:
    path = above.prefix + name
    try:
        check_plain(path)
        return _Folder.opened(name, prefix=f"{path}/", above=above.descriptor)
    except FileRejectedError as error:
        reason = error.reason
    except OSError as error:
        reason = f"the folder cannot be listed: {error.strerror}"
    return RejectedFile(path=printable(path), reason=reason, is_folder=True)


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir(follow_symlinks=False)
    except OSError:
        return False  # then it cannot be looked at either, which is told of it as of a file


def _handle_path(descriptor: int) -> str:
    return f"/proc/self/fd/{descriptor}"


def _status_of(status: os.stat_result) -> FileStatus:
    return FileStatus(
        size_bytes=status.st_size,
        modified_at=moment_of(status.st_mtime_ns),
        version=f"{status.st_ino}-{status.st_mtime_ns}-{status.st_size}",
    )


def _what_it_is(mode: int) -> str:
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
