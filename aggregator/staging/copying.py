"""Copies that are known to be right: one pass over the bytes, every digest, and the catalogue's word against ours."""

import hashlib
import os
import threading
import zlib
from typing import BinaryIO

from aggregator.errors import StagingError
from aggregator.staging.buffer import LocalFileBuffer, StoredObject
from aggregator.staging.mounts import GlobalMountPoint, StorageDownError, reason_of
from metadata_db.members import Member, Place

BLOCK_BYTES = 1024**2
"""Read at a time: large enough that hashing, which lets other threads run meanwhile, dominates."""


class CopyStoppedError(Exception):
    """The copy was told to stop before its end; nothing of it is left."""


class Copier:
    """Brings contents into the buffer's object store. All methods block: they belong in worker threads."""

    def __init__(self, mounts: GlobalMountPoint, buffer: LocalFileBuffer) -> None:
        self._mounts = mounts
        self._buffer = buffer

    def fetch(self, member: Member, known: StoredObject | None, stop: threading.Event) -> StoredObject:
        """Return the stored content of `member`, copied only if the store does not have it.

        Parameters
        ----------
        known
            What was recorded about this content when it was stored, if it was.

        Raises
        ------
        StagingError
            No place delivers the catalogued bytes; the reason names each place that was tried.
        StorageDownError
            A storage that might have them is away.
        BufferFullError
            There is no room for them.
        CopyStoppedError
            `stop` was set meanwhile.
        """
        if known is not None and self._buffer.has_object(known):
            return known
        if member.sha256 is not None:
            found = self._adopt(member.sha256, stop)
            if found is not None:
                return found
        return self._fetch_from_any(member, stop)

    def _adopt(self, sha256: str, stop: threading.Event) -> StoredObject | None:
        """Return a content that is in the store unrecorded, because its worker died before it could say so."""
        try:
            with self._buffer.object_path(sha256).open("rb", buffering=0) as content:
                found = digest(content, None, stop)
        except FileNotFoundError:
            return None
        if found.sha256 == sha256:
            return found
        self._buffer.discard(sha256)
        return None

    def _fetch_from_any(self, member: Member, stop: threading.Event) -> StoredObject:
        failures: list[tuple[Place, str]] = []
        away: StorageDownError | None = None
        for place in member.places:
            try:
                return self._fetch_from(place, member, stop)
            except StagingError as error:
                failures.append((place, error.reason))
            except StorageDownError as error:
                away = away or error
        if away is not None:
            raise away
        raise StagingError(member.path, _one_reason(failures))

    def _fetch_from(self, place: Place, member: Member, stop: threading.Event) -> StoredObject:
        with self._mounts.open(place) as source, self._buffer.receive() as target:
            before = os.fstat(source.fileno())
            _require_size(member, before.st_size)
            try:
                found = digest(source, target, stop, at_most=member.size_bytes)
                after = os.fstat(source.fileno())
            except _ReadError as error:
                self._mounts.check_alive(place, error.error)
                raise StagingError(member.path, reason_of(error.error)) from error.error
            _require_stillness(member, before, after, found.size_bytes)
            _require_digests(member, found)
            self._buffer.store(target, found.sha256)
        return found


class _ReadError(Exception):
    """Reading failed, as opposed to writing."""

    def __init__(self, error: OSError) -> None:
        self.error = error
        super().__init__(str(error))


def digest(
    source: BinaryIO, target: BinaryIO | None, stop: threading.Event, *, at_most: int | None = None
) -> StoredObject:
    """Read `source` to its end once, writing it to `target` on the way, and return what it is.

    Reading ends early, one block behind `at_most` bytes, when a source grows without end.
    """
    sha256, md5 = hashlib.sha256(), hashlib.md5(usedforsecurity=False)
    crc32 = size = 0
    block = memoryview(bytearray(BLOCK_BYTES))
    while at_most is None or size <= at_most:
        if stop.is_set():
            raise CopyStoppedError
        count = _read_into(source, block)
        if not count:
            break
        part = block[:count]
        sha256.update(part)
        md5.update(part)
        crc32 = zlib.crc32(part, crc32)
        size += count
        if target is not None:
            _write_all(target, part)
    return StoredObject(sha256=sha256.hexdigest(), size_bytes=size, crc32=crc32, md5=md5.hexdigest())


def _read_into(source: BinaryIO, block: memoryview) -> int:
    try:
        return source.readinto(block) or 0  # type: ignore[attr-defined]  # typeshed's BinaryIO lacks it
    except OSError as error:
        raise _ReadError(error) from error


def _write_all(target: BinaryIO, part: memoryview) -> None:
    while part:
        part = part[target.write(part) :]


def _require_size(member: Member, size_bytes: int) -> None:
    if size_bytes != member.size_bytes:
        raise StagingError(member.path, f"size is {size_bytes}, catalogued as {member.size_bytes}")


def _require_stillness(member: Member, before: os.stat_result, after: os.stat_result, copied_bytes: int) -> None:
    still = (before.st_size, before.st_mtime_ns) == (after.st_size, after.st_mtime_ns)
    if not still or copied_bytes != before.st_size:
        raise StagingError(member.path, "changed while it was copied")


def _require_digests(member: Member, found: StoredObject) -> None:
    for name, ours, theirs in (("sha256", found.sha256, member.sha256), ("md5", found.md5, member.md5)):
        if theirs is not None and ours != theirs:
            raise StagingError(member.path, f"{name} differs from the catalogue: changed since it was catalogued")


def _one_reason(failures: list[tuple[Place, str]]) -> str:
    if len(failures) == 1:
        return failures[0][1]
    return "; ".join(f"{place.storage}/{place.path}: {reason}" for place, reason in failures)
