"""Compares a storage with what the catalogue knows of it: what is new, changed, vanished, or to be read again.

Both come in the byte order of the paths and are merged like two sorted lists, so memory stays flat.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Literal, TypeAlias

from extractors.storages.trees import RejectedFile, ScannedFile
from metadata_db.records import KnownFile

Reason: TypeAlias = Literal["new", "changed", "outdated", "due"]
"""Why a file is read: the catalogue does not have it; size or time differ; another Description read it, or the same one
before it was changed; its checksum is to be verified."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ToRead:
    """A file that is to be read, and why."""

    path: str
    reason: Reason


@dataclass(frozen=True, kw_only=True, slots=True)
class Same:
    """A file that is as the catalogue knows it."""

    path: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Young:
    """A file that is to be read, but was written so lately that somebody may not be done with it."""

    path: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Vanished:
    """A file that the catalogue knows and the storage does not have any more."""

    known: KnownFile


@dataclass(frozen=True, kw_only=True, slots=True)
class Unseen:
    """A file that the catalogue knows and that cannot be looked at: it may still be there."""

    known: KnownFile


Finding: TypeAlias = ToRead | Same | Young | Vanished | Unseen | RejectedFile


@dataclass(frozen=True, kw_only=True, slots=True)
class Rereading:
    """Which of the files that seem unchanged are read nevertheless."""

    label: str | None = None
    """Files that were not read by the Description of this label."""
    checked_before: datetime | None = None
    """Files whose checksum was last verified before this."""

    def reason(self, known: KnownFile) -> Reason | None:
        """Return why an unchanged file is to be read, or None."""
        if self.label is not None and known.description != self.label:
            return "outdated"
        if self.checked_before is not None and (known.checked_at is None or known.checked_at < self.checked_before):
            return "due"
        return None


def compare(
    walked: Iterable[ScannedFile | RejectedFile],
    known: Iterable[KnownFile],
    *,
    rereading: Rereading,
    settled_before: datetime | None = None,
) -> Iterator[Finding]:
    """Yield what came of each path of either side.

    Parameters
    ----------
    walked, known
        Both in the byte order of their paths.
    settled_before
        New and changed files written later than this are told as young.
    """
    merge = _Merge(iter(known), rereading)
    for found in walked:
        if isinstance(found, RejectedFile):
            yield found
            merge.hide(found)
            continue
        yield from merge.before(found.path.encode())
        finding = merge.match(found)
        yield Young(path=found.path) if _is_young(found, finding, settled_before) else finding
    yield from merge.before(None)


class _Merge:
    """The known files, taken one by one as the walk passes them."""

    def __init__(self, known: Iterator[KnownFile], rereading: Rereading) -> None:
        self._known = known
        self._rereading = rereading
        self._next = next(known, None)
        self._hidden_folders: list[str] = []
        self._hidden: set[str] = set()

    def hide(self, rejected: RejectedFile) -> None:
        """Remember what cannot be looked at: nobody can say that it is gone."""
        if rejected.is_folder:
            self._hidden_folders.append(f"{rejected.path}/")
        else:
            self._hidden.add(rejected.path)

    def before(self, path: bytes | None) -> Iterator[Finding]:
        """Yield the known files that the walk has passed without seeing them; all that are left when `path` is None."""
        while self._next is not None and (path is None or self._next.path.encode() < path):
            known, self._next = self._next, next(self._known, None)
            is_hidden = known.path in self._hidden or known.path.startswith(tuple(self._hidden_folders))
            yield Unseen(known=known) if is_hidden else Vanished(known=known)

    def match(self, found: ScannedFile) -> Finding:
        """Return what came of a file that is there."""
        if self._next is None or self._next.path != found.path:
            return ToRead(path=found.path, reason="new")
        known, self._next = self._next, next(self._known, None)
        if _differs(found, known):
            return ToRead(path=found.path, reason="changed")
        reason = self._rereading.reason(known)
        return Same(path=found.path) if reason is None else ToRead(path=found.path, reason=reason)


def _is_young(found: ScannedFile, finding: Finding, settled_before: datetime | None) -> bool:
    if settled_before is None or found.modified_at is None or not isinstance(finding, ToRead):
        return False
    return finding.reason in ("new", "changed") and found.modified_at > settled_before


def _differs(found: ScannedFile, known: KnownFile) -> bool:
    """Tell whether size or time differ; what a storage does not say is no difference."""
    has_other_size = found.size_bytes is not None and found.size_bytes != known.size_bytes
    has_other_time = found.modified_at is not None and found.modified_at != known.modified_at
    return has_other_size or has_other_time
