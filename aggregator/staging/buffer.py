"""The local file buffer: verified contents, each once, and the exports that hold them as hard links.

=======================================  ==========================================================================
below the buffer's root                  what
=======================================  ==========================================================================
``objects/<aa>/<sha256>``                one verified content, read-only; its link count is its reference count
``objects/.incoming/<random>``           contents on their way; locked by their writer, so that dead ones are known
``exports/<id>/files/<storage>/<path>``  hard links to objects
``exports/<id>/manifest.json``           appears last, by rename
=======================================  ==========================================================================

Nothing appears under its name before it is whole and on the disk. Everything here may be done again, by any worker.
"""

import errno
import fcntl
import logging
import os
import secrets
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from aggregator.errors import AggregatorError, BufferFullError, StagingError
from aggregator.staging.mounts import open_below

logger = logging.getLogger(__name__)

RESERVE_BYTES = 256 * 1024**2
"""Room that stays free, for manifests and for whatever else lives on the file system."""

INCOMING_GRACE_S = 60.0
"""A content on its way is left alone for so long, so that its writer has time to lock it."""

_FULL = frozenset({errno.ENOSPC, errno.EDQUOT})
_IN_THE_WAY = frozenset({errno.ENOTDIR, errno.EISDIR, errno.ENOTEMPTY})


class BufferUnusableError(AggregatorError):
    """The buffer's folder cannot serve as one; the message says why and what to do."""

    code = "BUFFER_UNUSABLE"


@dataclass(frozen=True, kw_only=True, slots=True)
class StoredObject:
    """One verified content of the object store; digests in hexadecimal."""

    sha256: str
    size_bytes: int
    crc32: int
    md5: str


class LocalFileBuffer:
    """Keeps contents and exports below one folder that all workers and the service share."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._objects = root / "objects"
        self._incoming = self._objects / ".incoming"
        self._exports = root / "exports"

    def prepare(self) -> None:
        """Make the folders, and check that the file system can do what is asked of it.

        Raises
        ------
        BufferUnusableError
            The folder cannot be written, or `objects` and `exports` cannot share files by hard link.
        """
        try:
            self._incoming.mkdir(parents=True, exist_ok=True)
            self._exports.mkdir(exist_ok=True)
            with self.receive() as target:
                probe = self._exports / f".probe-{secrets.token_hex(8)}"
                os.link(target.name, probe)
                probe.unlink()
        except OSError as error:
            raise BufferUnusableError(
                f"{self.root} cannot be used as buffer: {error.strerror}. It must be writable, and its folders "
                "objects and exports must be on one file system with hard links"
            ) from error

    def remove_stale(self) -> int:
        """Remove contents on their way whose writers are dead; return how many."""
        removed = 0
        for path in self._incoming.iterdir():
            with suppress(OSError), path.open("rb") as found:
                if time.time() - os.fstat(found.fileno()).st_mtime < INCOMING_GRACE_S:
                    continue
                fcntl.flock(found, fcntl.LOCK_EX | fcntl.LOCK_NB)  # refused while its writer lives
                path.unlink()
                removed += 1
        return removed

    def check_room(self, wanted_bytes: int) -> None:
        """Return when `wanted_bytes` fit.

        Raises
        ------
        BufferFullError
            They do not.
        """
        status = os.statvfs(self._objects)
        free = status.f_bavail * status.f_frsize - RESERVE_BYTES
        if wanted_bytes > free:
            raise BufferFullError(
                f"the buffer has room for {max(free, 0):,} bytes, {wanted_bytes:,} are needed; "
                "free some, or give it a larger file system"
            )

    # --- objects -------------------------------------------------------------------------------------------------

    @contextmanager
    def receive(self) -> Iterator[BinaryIO]:
        """Give a new file for a content on its way; unless it was stored, it is gone afterwards.

        Raises
        ------
        BufferFullError
            There is no room.
        """
        path = self._incoming / secrets.token_hex(16)
        with _full_is_full(), path.open("xb", buffering=0) as target:
            try:
                fcntl.flock(target, fcntl.LOCK_EX)
                yield target
            finally:
                path.unlink(missing_ok=True)

    def store(self, received: BinaryIO, sha256: str) -> None:
        """Give a verified content its name, durably. One that is there already, and whole, stays."""
        os.fchmod(received.fileno(), 0o444)
        os.fdatasync(received.fileno())
        target = self.object_path(sha256)
        target.parent.mkdir(exist_ok=True)
        with suppress(FileExistsError):
            os.link(received.name, target)
            return
        if os.stat(target).st_size != os.fstat(received.fileno()).st_size:
            logger.warning("object %s was not whole and is replaced", sha256, extra={"action": "store"})
            os.replace(received.name, target)

    def object_path(self, sha256: str) -> Path:
        """Return where the content `sha256` is kept, whether it is there or not."""
        return self._objects / sha256[:2] / sha256

    def has_object(self, stored: StoredObject) -> bool:
        """Tell whether a content is there in its full size."""
        try:
            return self.object_path(stored.sha256).stat().st_size == stored.size_bytes
        except FileNotFoundError:
            return False

    def discard(self, sha256: str) -> None:
        """Remove a content that is not what its name says."""
        self.object_path(sha256).unlink(missing_ok=True)

    # --- exports -------------------------------------------------------------------------------------------------

    def export_path(self, export_id: str) -> Path:
        """Return the folder of an export."""
        return self._exports / export_id

    def manifest_path(self, export_id: str) -> Path:
        """Return where the manifest of an export appears when it is complete."""
        return self.export_path(export_id) / "manifest.json"

    def link(self, export_id: str, path: str, sha256: str) -> None:
        """Make the content `sha256` appear in an export as `path`, at once and whole.

        Raises
        ------
        StagingError
            Another file of the export is where this one needs a folder, or the other way round.
        """
        target = self.export_path(export_id) / "files" / path
        try:
            with _full_is_full():
                target.parent.mkdir(parents=True, exist_ok=True)
                self._link_whole(self.object_path(sha256), target)
        except OSError as error:
            if error.errno in _IN_THE_WAY or isinstance(error, FileExistsError):
                raise StagingError(path, "another file of this export has a path in its way") from error
            raise

    def _link_whole(self, source: Path, target: Path) -> None:
        try:
            os.link(source, target)
        except FileExistsError:
            if not os.path.samefile(source, target):
                self._relink(source, target)
        except OSError as error:
            if error.errno != errno.EMLINK:
                raise
            self._renew(source)
            os.link(source, target)

    def _relink(self, source: Path, target: Path) -> None:
        """Replace a link to an older content: the file had changed between two tries."""
        passing = self._incoming / secrets.token_hex(16)
        os.link(source, passing)
        try:
            os.replace(passing, target)
        finally:
            passing.unlink(missing_ok=True)

    def _renew(self, source: Path) -> None:
        """Give an object a new inode: file systems allow some 65,000 links to one, which empty files do reach."""
        with self.receive() as target, source.open("rb", buffering=0) as content:
            while os.sendfile(target.fileno(), content.fileno(), None, 1 << 30):
                pass
            os.fchmod(target.fileno(), 0o444)
            os.fdatasync(target.fileno())
            os.replace(target.name, source)

    def has_file(self, export_id: str, path: str, size_bytes: int) -> bool:
        """Tell whether an export holds `path`, as a file of its own and in its full size."""
        try:
            status = (self.export_path(export_id) / "files" / path).lstat()
        except (FileNotFoundError, NotADirectoryError):
            return False
        return stat.S_ISREG(status.st_mode) and status.st_size == size_bytes

    def open_file(self, export_id: str, path: str) -> BinaryIO:
        """Return one file of an export, open for reading; never one outside it.

        Raises
        ------
        OSError
            It is not there.
        """
        return open_below(self.export_path(export_id) / "files", path)

    def drafted_manifest(self, export_id: str) -> Path:
        """Return a new path beside the manifest, to be written and then published."""
        self.export_path(export_id).mkdir(parents=True, exist_ok=True)
        return self.export_path(export_id) / f".manifest-{secrets.token_hex(8)}"

    def publish_manifest(self, export_id: str, draft: Path) -> None:
        """Let a manifest appear under its name, durably.

        Syncing the folder also makes every link of the export durable that was made before it: the journals of
        Linux' file systems keep that order.
        """
        os.replace(draft, self.manifest_path(export_id))
        folder = os.open(self.export_path(export_id), os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


@contextmanager
def _full_is_full() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno in _FULL:
            raise BufferFullError("the buffer's file system is full") from error
        raise
