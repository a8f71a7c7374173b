"""Names of files in an archive: paths of storages, but such that every system can unpack them side by side.

A path of a storage is any text. In an archive it must not lead out of the folder on any system, must not be a name
that a system keeps for itself, and must not be equal to another one where capitals or the ways to write an accent are
not told apart. Nearly every path is its own name; the others are renamed here, and the manifest says so.
"""

import hashlib
import re
import unicodedata
from array import array
from collections import defaultdict
from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import BinaryIO

import msgspec
import numpy as np
import numpy.typing as npt

from aggregator.staging.manifest import Entry, ManifestEncoder, iter_entries, iter_missing, read_header
from metadata_db.records import MAX_COMPONENT_BYTES

Hashes = npt.NDArray[np.int64]

BATCH_ENTRIES = 1000
"""Entries written at a time."""

_UNSAFE = re.compile(
    r'[<>:"\\|?*'  # Windows: reserved, and the backslash is a separator
    "%"  # BagIt escapes it, and not every validator knows
    "\x00-\x1f\x7f-\x9f\u2028\u2029"  # ends a line somewhere
    "\u202a-\u202e\u2066-\u2069"  # turns the text around: a name that is shown is not the one that is meant
    "\ufffe\uffff]"  # no characters, and not allowed in XML
)
_DEVICES = r"(?:con|prn|aux|nul|com[0-9\xb9\xb2\xb3]|lpt[0-9\xb9\xb2\xb3])"
_DEVICE = re.compile(rf"({_DEVICES})(?=\s*(?:\.|\Z))", re.IGNORECASE)
_TAIL = re.compile(r"[\s.]+\Z")  # Windows drops dots and blanks at the end, readers of lists of names do too
_PLAIN_PART = rf"(?!{_DEVICES}[./]|{_DEVICES}\Z)[a-z0-9_+-](?:[a-z0-9_.+-]{{0,200}}[a-z0-9_+-])?"
_PLAIN = re.compile(rf"{_PLAIN_PART}(?:/{_PLAIN_PART})*", re.IGNORECASE | re.ASCII)
_FIRST_DIGITS = 8
_LONGEST_ENDING = 40


def safe_path(path: str) -> str:
    """Return `path` with everything in it changed that some system cannot hold, each part by itself."""
    if _PLAIN.fullmatch(path):
        return path  # nearly all of them
    return "/".join(map(_safe_part, path.split("/")))


def _safe_part(part: str) -> str:
    part = _UNSAFE.sub("_", unicodedata.normalize("NFC", part))  # some unpack names as NFC, whatever they were
    part = _TAIL.sub(lambda tail: "_" * len(tail[0]), part)
    part = _DEVICE.sub(r"\1_", part, count=1) if _DEVICE.match(part) else part
    return _cut(part, MAX_COMPONENT_BYTES)


def find_names(paths: Callable[[], Iterator[str]]) -> dict[str, str]:
    """Return names for those of the `paths` that cannot be their own; all others are.

    Equal are two names when they are after NFC and folding of capitals. Of several that would be equal, one that can
    keep its path keeps it, the first in order; the others get a part of the path's SHA-256 before the ending. A file
    gives way to a folder.

    Parameters
    ----------
    paths
        Gives all paths, each once, in the order of the manifest; called several times.

    Notes
    -----
    Of every path 8 bytes are kept; whole only those that may be in each other's way.
    """
    files, folders = _hash_all(paths())
    counted, counts = np.unique(files, return_counts=True)
    suspects = frozenset(np.union1d(counted[counts > 1], np.intersect1d(counted, folders)).tolist())
    renamed = {path: safe for path in paths() if (safe := safe_path(path)) != path}
    if not suspects:
        return renamed
    taken = _Hashes(np.union1d(counted, folders))
    for group, is_folder in _iter_groups(paths(), suspects):
        # Those that keep their path come first; one of them may have it, unless a folder does.
        ordered = sorted(group, key=lambda path: (path in renamed, path.encode()))
        for path in ordered if is_folder else ordered[1:]:
            renamed[path] = _mark(path, renamed.get(path, path), taken)
    return renamed


def fold(name: str) -> str:
    """Return what two safe names have in common that one system or another does not tell apart."""
    return unicodedata.normalize("NFC", name.casefold())


def _hash_all(paths: Iterable[str]) -> tuple[Hashes, Hashes]:
    files, folders = array("q"), array("q")
    before: Sequence[str] = ()
    for path in paths:
        key = fold(safe_path(path))
        files.append(hash(key))
        parents = list(_iter_parents(key))
        # Neighbours have most folders in common; what is seen again later does no harm.
        folders.extend(hash(parent) for parent in parents if parent not in before)
        before = parents
    return np.frombuffer(files, np.int64), np.unique(np.frombuffer(folders, np.int64))


def _iter_parents(key: str) -> Iterator[str]:
    at = key.find("/")
    while at >= 0:
        yield key[:at]
        at = key.find("/", at + 1)


def _iter_groups(paths: Iterable[str], suspects: Container[int]) -> Iterator[tuple[list[str], bool]]:
    """Yield all paths of one folded name, and whether it is that of a folder too."""
    found: defaultdict[str, list[str]] = defaultdict(list)
    folders: set[str] = set()
    for path in paths:
        key = fold(safe_path(path))
        if hash(key) in suspects:
            found[key].append(path)
        folders.update(parent for parent in _iter_parents(key) if hash(parent) in suspects)
    for key, group in found.items():
        if len(group) > 1 or key in folders:
            yield group, key in folders


class _Hashes:
    """The hashes of all names that are taken."""

    def __init__(self, known: Hashes) -> None:
        self._known = known
        self._new: set[int] = set()

    def take(self, name: str) -> bool:
        """Tell whether nobody had a name, and take it."""
        value = hash(fold(name))
        at = int(np.searchsorted(self._known, value))
        if value in self._new or (at < len(self._known) and int(self._known[at]) == value):
            return False
        self._new.add(value)
        return True


def _mark(path: str, name: str, taken: _Hashes) -> str:
    """Return `name` with so many digits of the path's SHA-256 that nobody else has it."""
    digest = hashlib.sha256(path.encode()).hexdigest()
    folder, slash, last = name.rpartition("/")
    stem, dot, ending = last.partition(".")
    if len(ending.encode()) > _LONGEST_ENDING:
        stem, dot, ending = last, "", ""
    for digits in range(_FIRST_DIGITS, len(digest) + 1):
        mark = f"~{digest[:digits]}{dot}{ending}"
        marked = f"{folder}{slash}{_cut(stem, MAX_COMPONENT_BYTES - len(mark.encode()))}{mark}"
        if taken.take(marked):
            return marked
    raise AssertionError(f"two paths with one SHA-256: {path}")


def _cut(stem: str, most_bytes: int) -> str:
    return stem.encode()[: max(most_bytes, 0)].decode(errors="ignore")


# --- names into a manifest --------------------------------------------------------------------------------------------


def put_names(draft: Path) -> str | None:
    """Write names into a finished manifest where files need other ones than their paths.

    Returns
    -------
    SHA-256 of the manifest; None when nothing needed a name, and it is what it was.

    Raises
    ------
    ManifestError
        `draft` is not one.
    """
    names = find_names(lambda: _iter_paths(draft))
    if not names:
        return None
    named = draft.with_name(f"{draft.name}-named")
    try:
        with draft.open("rb") as source, named.open("xb") as target:
            sha256 = _rewrite(source, target, names)
        named.replace(draft)
    finally:
        named.unlink(missing_ok=True)
    return sha256


def _iter_paths(manifest: Path) -> Iterator[str]:
    with manifest.open("rb") as stream:
        read_header(stream)
        for entry in iter_entries(stream):
            yield entry.path


def _rewrite(source: BinaryIO, target: BinaryIO, names: Mapping[str, str]) -> str:
    encoder = ManifestEncoder()
    target.write(encoder.begin(read_header(source)))
    batch: list[Entry] = []
    for entry in iter_entries(source):
        batch.append(msgspec.structs.replace(entry, name=names.get(entry.path)))
        if len(batch) == BATCH_ENTRIES:
            target.write(encoder.entries(batch))
            batch.clear()
    target.write(encoder.entries(batch))
    target.write(encoder.begin_missing())
    for missing in iter_missing(source):
        target.write(encoder.entries([missing]))
    target.write(encoder.end())
    return encoder.sha256
