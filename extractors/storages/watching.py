"""Follows a local tree through inotify, and says so whenever it may have missed something.

inotify is called directly: `watchfiles` tells neither that a file was closed after writing nor that the kernel's queue
overflowed. Watching opens no file and takes no lease, so a writer never notices. Changes that other hosts make to a
network file system are unknown to inotify; such a storage has to be scanned.
"""

import ctypes
import errno
import os
import select
import stat
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self, TypeAlias

from extractors.errors import StorageError

READ_BYTES = 256 * 1024
"""Most bytes of notices taken from the kernel at once."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Closed:
    """A file has its content: it was closed after writing, moved in, or linked.

    `path` is below the root, and may hold bytes that are not UTF-8 as surrogates; the tree rejects it then.
    """

    path: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Appeared:
    """A file is there, and nobody can tell whether somebody still writes it: if so, it is told as closed later.

    It was in a folder before that was watched, or got its name with content in it.
    """

    path: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Vanished:
    """A file was deleted or moved out; with `is_folder`, a folder with everything in it."""

    path: str
    is_folder: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class Lost:
    """Changes may have been missed below `path` (empty: anywhere), so that it must be scanned.

    Watching goes on; what changes after this is told. With `is_lasting` that is not so: changes below `path` will not
    be told, and it has to be scanned again and again.
    """

    path: str
    reason: str
    is_lasting: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class Quiet:
    """Nothing happened for a while; a moment to send what has been collected."""


Report: TypeAlias = Closed | Appeared | Vanished | Lost | Quiet


class Watcher:
    """Reports what happens below `root`; use it in a ``with`` statement, and iterate over it.

    Changes are collected by the kernel from the moment that the watcher is made. So make it, scan, and iterate: nothing
    in between is missed. Iterating ends after `stop`, and after a lasting `Lost` of the root itself.

    Parameters
    ----------
    quiet_s
        Report `Quiet` whenever nothing happened for so many seconds; None never does.

    Raises
    ------
    StorageError
        The root cannot be watched.
    """

    def __init__(self, root: Path, *, quiet_s: float | None = None) -> None:
        self._root = os.path.realpath(root)
        self._quiet_ms = None if quiet_s is None else max(1, round(quiet_s * 1000))
        self._is_stopped = False
        self._unwatched = _Unwatched()
        self._watch_root()
        self._wake = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __iter__(self) -> Iterator[Report]:
        """Yield reports as things happen, in their order; to be iterated over once."""
        for report in self._iter_reports():
            if self._is_stopped:
                return
            yield report

    def stop(self) -> None:
        """End the iteration at once; may be called from any thread and from a signal handler."""
        self._is_stopped = True
        if self._wake >= 0:
            os.eventfd_write(self._wake, 1)

    def close(self) -> None:
        """Give the kernel back what it collects with."""
        self._kernel.close()
        if self._wake >= 0:
            os.close(self._wake)
            self._wake = -1

    @property
    def folders(self) -> int:
        """How many folders are watched."""
        return len(self._folders)

    def _iter_reports(self) -> Iterator[Report]:
        yield from self._unwatched.take()
        while not self._is_stopped:
            if not self._wait():
                yield Quiet()
                continue
            for notice in _without_repeats(self._kernel.read()):
                if notice.mask & _Mask.Q_OVERFLOW:
                    yield from self._start_again("more happened than the kernel could keep")
                    break
                yield from self._interpret(notice)
                if not self._folders:
                    yield Lost(path="", reason="the root was deleted, moved or unmounted", is_lasting=True)
                    return
                yield from self._unwatched.take()

    def _wait(self) -> bool:
        """Return False when nothing happened for the quiet time."""
        poll = select.poll()
        poll.register(self._kernel.descriptor, select.POLLIN)
        poll.register(self._wake, select.POLLIN)
        return bool(poll.poll(self._quiet_ms))

    def _interpret(self, notice: "_Notice") -> Iterator[Report]:
        folder = self._folders.path_of(notice.watch)
        if folder is None:
            return  # of a folder that was moved away or deleted; what it had is told already
        if notice.mask & _Mask.UNMOUNT and folder:
            yield Lost(path=folder, reason="the file system of this folder was unmounted", is_lasting=True)
        if notice.mask & (_Mask.IGNORED | _Mask.UNMOUNT | _Mask.MOVE_SELF):
            if folder:
                self._folders.forget(notice.watch)
            else:
                self._folders.forget_below("")
            return
        path = f"{folder}/{notice.name}" if folder else notice.name
        if notice.mask & _Mask.ISDIR:
            yield from self._interpret_folder(notice, path)
        elif notice.mask & (_Mask.DELETE | _Mask.MOVED_FROM):
            yield Vanished(path=path)
        elif notice.mask & (_Mask.CLOSE_WRITE | _Mask.MOVED_TO):
            yield Closed(path=path)
        else:
            yield from self._interpret_name(path)

    def _interpret_folder(self, notice: "_Notice", path: str) -> Iterator[Report]:
        if notice.mask & _Mask.MOVED_FROM:
            for watch in self._folders.forget_below(path):
                self._kernel.forget(watch)
        if notice.mask & (_Mask.MOVED_FROM | _Mask.DELETE):
            yield Vanished(path=path, is_folder=True)
        elif notice.mask & (_Mask.CREATE | _Mask.MOVED_TO):
            yield from self._watch_below(path)

    def _interpret_name(self, path: str) -> Iterator[Report]:
        """Yield what a name that has just appeared means.

        A further name of a file, a link, or anything else that is not written will never be closed. A file with
        content may have got its name when it was complete, or its writer was faster than we.
        """
        try:
            status = os.lstat(os.path.join(self._root, path))
        except OSError:
            return
        if not stat.S_ISREG(status.st_mode) or status.st_nlink > 1:
            yield Closed(path=path)
        elif status.st_size > 0:
            yield Appeared(path=path)

    def _start_again(self, reason: str) -> Iterator[Report]:
        self._kernel.close()
        try:
            self._watch_root()
        except StorageError as error:
            yield Lost(path="", reason=f"{reason}, and then: {error.reason}", is_lasting=True)
            self._is_stopped = True
            return
        yield Lost(path="", reason=reason)
        yield from self._unwatched.take()

    def _watch_root(self) -> None:
        self._folders = _Folders()
        try:
            self._kernel = _Inotify()
            try:
                self._folders.remember(self._kernel.watch(self._root, _ROOT_MASK), "")
            except OSError:
                self._kernel.close()
                raise
        except OSError as error:
            raise StorageError(self._root, f"cannot be watched: {_explain(error)}") from error
        for _ in self._watch_below("", is_first=True):
            pass  # what was there before belongs to the scan

    def _watch_below(self, path: str, *, is_first: bool = False) -> Iterator[Report]:
        """Watch a folder and those in it, and report the files that they hold."""
        pending = [path]
        while pending and not self._is_stopped:
            folder = pending.pop()
            if (folder or not is_first) and not self._watch_one(folder):
                continue
            # Listed only now: what came before the watch is in the listing, what comes after it in the queue.
            try:
                with os.scandir(os.path.join(self._root, folder)) as listing:
                    entries = [(one.name, one.is_dir(follow_symlinks=False)) for one in listing]
            except FileNotFoundError:
                continue  # gone again, which the queue tells
            except OSError as error:
                self._unwatched.add(folder, f"cannot be listed: {error.strerror}")
                continue
            for name, is_folder in entries:
                inner = f"{folder}/{name}" if folder else name
                if is_folder:
                    pending.append(inner)
                elif not is_first:
                    yield Appeared(path=inner)

    def _watch_one(self, folder: str) -> bool:
        """Watch one folder; return False when it is gone, cannot be watched, or was watched and listed before."""
        try:
            watch = self._kernel.watch(os.path.join(self._root, folder), _MASK)
        except OSError as error:
            if error.errno not in (errno.ENOENT, errno.ENOTDIR):
                self._unwatched.add(folder, f"cannot be watched: {_explain(error)}")
            return False
        return self._folders.remember(watch, folder)


class _Folders:
    """Which watch is of which folder."""

    def __init__(self) -> None:
        self._paths: dict[int, str] = {}

    def __len__(self) -> int:
        return len(self._paths)

    def path_of(self, watch: int) -> str | None:
        return self._paths.get(watch)

    def remember(self, watch: int, path: str) -> bool:
        """Return False when this was known."""
        is_new = self._paths.get(watch) != path
        self._paths[watch] = path
        return is_new

    def forget(self, watch: int) -> None:
        self._paths.pop(watch, None)

    def forget_below(self, path: str) -> list[int]:
        """Forget a folder and those in it, and return their watches."""
        below = [watch for watch, one in self._paths.items() if not path or one == path or one.startswith(f"{path}/")]
        for watch in below:
            del self._paths[watch]
        return below


class _Unwatched:
    """Folders that cannot be watched, until they are told: the first by name, the others by number."""

    def __init__(self) -> None:
        self._first: Lost | None = None
        self._others = 0

    def add(self, path: str, reason: str) -> None:
        if self._first is None:
            self._first = Lost(path=path, reason=f"the folder {reason}", is_lasting=True)
        else:
            self._others += 1

    def take(self) -> Iterator[Lost]:
        first, others = self._first, self._others
        self._first, self._others = None, 0
        if first is not None and others:
            reason = f"{first.path!r}: {first.reason}; and {others} more"
            yield Lost(path="", reason=reason, is_lasting=True)
        elif first is not None:
            yield first


# ------------------------------------------------------------------------------------------------- inotify


class _Mask:
    """The bits of <sys/inotify.h> that are used here."""

    CLOSE_WRITE = 0x8
    MOVED_FROM = 0x40
    MOVED_TO = 0x80
    CREATE = 0x100
    DELETE = 0x200
    MOVE_SELF = 0x800
    UNMOUNT = 0x2000
    Q_OVERFLOW = 0x4000
    IGNORED = 0x8000
    ONLYDIR = 0x1000000
    DONT_FOLLOW = 0x2000000
    EXCL_UNLINK = 0x4000000
    ISDIR = 0x40000000


_MASK = (
    _Mask.CLOSE_WRITE | _Mask.MOVED_FROM | _Mask.MOVED_TO | _Mask.CREATE | _Mask.DELETE
    | _Mask.ONLYDIR | _Mask.DONT_FOLLOW | _Mask.EXCL_UNLINK
)  # fmt: skip
_ROOT_MASK = _MASK | _Mask.MOVE_SELF
_NOTICE = struct.Struct("iIII")


@dataclass(frozen=True, kw_only=True, slots=True)
class _Notice:
    """One notice of the kernel: to which watch, what, and the name in the folder, if it is about one."""

    watch: int
    mask: int
    name: str


class _Inotify:
    """The three calls of inotify, and reading from it."""

    def __init__(self) -> None:
        self._library = ctypes.CDLL(None, use_errno=True)
        self.descriptor = self._call("inotify_init1", os.O_NONBLOCK | os.O_CLOEXEC)

    def watch(self, path: str, mask: int) -> int:
        """Watch the folder at `path`, and return the number of its watch, which is the same if it has one already."""
        return self._call("inotify_add_watch", self.descriptor, os.fsencode(path), ctypes.c_uint32(mask))

    def forget(self, watch: int) -> None:
        """End a watch; one that has ended by itself is fine."""
        try:
            self._call("inotify_rm_watch", self.descriptor, watch)
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise

    def read(self) -> list[_Notice]:
        """Return the notices that are there."""
        try:
            data = os.read(self.descriptor, READ_BYTES)
        except BlockingIOError:
            return []
        notices = []
        at = 0
        while at < len(data):
            watch, mask, _, length = _NOTICE.unpack_from(data, at)
            at += _NOTICE.size
            name = os.fsdecode(data[at : at + length].rstrip(b"\0"))
            notices.append(_Notice(watch=watch, mask=mask, name=name))
            at += length
        return notices

    def close(self) -> None:
        """End all watches."""
        if self.descriptor >= 0:
            os.close(self.descriptor)
            self.descriptor = -1

    def _call(self, name: str, *arguments: object) -> int:
        result: int = getattr(self._library, name)(*arguments)
        if result < 0:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number))
        return result


def _without_repeats(notices: list[_Notice]) -> list[_Notice]:
    """Keep of several notices of one file the last that says how it is; that it was created says too little."""
    kept: list[_Notice] = []
    settled: set[tuple[int, str]] = set()
    for notice in reversed(notices):
        if notice.mask & _Mask.ISDIR or not notice.name:
            kept.append(notice)
        elif (notice.watch, notice.name) not in settled:
            kept.append(notice)
            if not notice.mask & _Mask.CREATE:
                settled.add((notice.watch, notice.name))
    kept.reverse()
    return kept


def _explain(error: OSError) -> str:
    """Say which limit of the kernel it is, where the bare words would mislead."""
    if error.errno == errno.ENOSPC:
        return "the kernel watches no more folders for this user, raise fs.inotify.max_user_watches"
    if error.errno == errno.EMFILE:
        return "the kernel has no more watchers for this user, raise fs.inotify.max_user_instances"
    return error.strerror or str(error)
