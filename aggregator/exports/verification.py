"""Checks a downloaded ZIP against the manifest inside it, and as a BagIt bag; needs nothing but the file."""

import hashlib
import re
import zipfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, cast

from aggregator.exports.bag import DECLARATION, MANIFEST_NAME, PAYLOAD_MANIFEST, TAG_MANIFEST
from aggregator.exports.describing import DATA_FOLDER
from aggregator.staging.manifest import Entry, ManifestError, iter_entries, iter_missing, read_header

MAX_PROBLEMS = 100
"""Problems that are told in detail: a broken download has as many as files."""

_BLOCK_BYTES = 1024**2
_MAX_TAG_LINE_BYTES = 4096
_TAG_LINE = re.compile(rb"([0-9a-f]{64})  (.+)\n")
_FIRST_FOLDER = "files"  # where the files were before archives were bags


@dataclass(frozen=True, kw_only=True, slots=True)
class Verification:
    """What a check of a downloaded ZIP found."""

    query_id: str | None
    """None when there is no readable manifest."""
    files: int
    """Files that are there and right."""
    bytes: int
    missing: int
    """Files that the manifest itself says could not be had."""
    problems: tuple[str, ...]
    """What is wrong, at most `MAX_PROBLEMS`; empty when everything is right."""

    @property
    def is_good(self) -> bool:
        """Whether the archive is exactly what its manifest says."""
        return not self.problems


def verify_zip(path: Path) -> Verification:
    """Compare every member of the ZIP at `path` with the manifest in it: presence, size, CRC, MD5, SHA-256.

    Memory does not depend on the size of the files.

    Raises
    ------
    OSError
        `path` cannot be read.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            return _verify(archive)
    except (zipfile.BadZipFile, ManifestError, NotImplementedError) as error:
        return Verification(query_id=None, files=0, bytes=0, missing=0, problems=(f"{path.name}: {error}",))


def _verify(archive: zipfile.ZipFile) -> Verification:
    names = Counter(archive.namelist())
    manifest, good = _find_manifest(archive), 0
    problems = _Problems()
    top = manifest.filename.partition("/")[0]
    is_bag = f"{top}/{DECLARATION}" in names
    payload = hashlib.sha256()
    with archive.open(manifest) as opened:
        stream = cast(BinaryIO, opened)
        header = read_header(stream)
        good_bytes = 0
        for entry in iter_entries(stream):
            name = f"{top}/{DATA_FOLDER}/{entry.member}" if is_bag else f"{top}/{_FIRST_FOLDER}/{entry.path}"
            problem = _problem_of(archive, name, entry)
            problems.add(problem)
            good += problem is None
            good_bytes += entry.size_bytes if problem is None else 0
            names[name] -= 1
            payload.update(f"{entry.sha256}  {DATA_FOLDER}/{entry.member}\n".encode())
        missing = sum(1 for _ in iter_missing(stream))
    names[manifest.filename] -= 1
    if is_bag:
        _verify_tags(archive, top, payload.hexdigest(), names, problems)
    for name, surplus in names.items():
        problems.add(f"{name}: is in the archive but not in the manifest" if surplus > 0 else None)
    if top != header.query_id:
        problems.add(f"the manifest of query {header.query_id} is at {manifest.filename}")
    return Verification(
        query_id=header.query_id, files=good, bytes=good_bytes, missing=missing, problems=problems.told()
    )


def _verify_tags(
    archive: zipfile.ZipFile, top: str, payload_sha256: str, names: "Counter[str]", problems: "_Problems"
) -> None:
    """Check the files that tell what a bag is by the list of their checksums, and the list of the files by ours."""
    names[f"{top}/{TAG_MANIFEST}"] -= 1
    names[f"{top}/{DATA_FOLDER}/"] -= 1
    for name, expected in _read_tag_manifest(archive, f"{top}/{TAG_MANIFEST}", problems):
        if name != MANIFEST_NAME:
            names[f"{top}/{name}"] -= 1
        found = _sha256_of(archive, f"{top}/{name}", problems)
        if found is not None and found != expected:
            problems.add(f"{top}/{name}: SHA-256 is {found}, expected {expected}")
        elif found is not None and name == PAYLOAD_MANIFEST and found != payload_sha256:
            problems.add(f"{top}/{name}: does not name the files of {MANIFEST_NAME}")


def _read_tag_manifest(archive: zipfile.ZipFile, name: str, problems: "_Problems") -> Iterator[tuple[str, str]]:
    """Yield name and SHA-256 of the files that are named there."""
    try:
        with archive.open(_require_stored(archive.getinfo(name))) as stream:
            while line := stream.readline(_MAX_TAG_LINE_BYTES):
                match = _TAG_LINE.fullmatch(line)
                if match is None:
                    raise ManifestError(f"{name}: has a line that is no checksum and name")
                yield match[2].decode(), match[1].decode()
    except KeyError:
        problems.add(f"{name}: is not in the archive")
    except (zipfile.BadZipFile, EOFError, UnicodeDecodeError) as error:
        problems.add(f"{name}: {error}")


def _sha256_of(archive: zipfile.ZipFile, name: str, problems: "_Problems") -> str | None:
    digest = hashlib.sha256()
    try:
        with archive.open(_require_stored(archive.getinfo(name))) as stream:
            while block := stream.read(_BLOCK_BYTES):
                digest.update(block)
    except KeyError:
        problems.add(f"{name}: is named in {TAG_MANIFEST} but not in the archive")
        return None
    except (zipfile.BadZipFile, EOFError) as error:
        problems.add(f"{name}: {error}")
        return None
    return digest.hexdigest()


def _require_stored(item: zipfile.ZipInfo) -> zipfile.ZipInfo:
    # Looked at before it is read: what is packed may unpack to any size.
    if item.compress_type != zipfile.ZIP_STORED:
        raise zipfile.BadZipFile("is compressed, expected a stored member")
    return item


class _Problems:
    """Collects problems, the first `MAX_PROBLEMS` of them in detail."""

    def __init__(self) -> None:
        self._found: list[str] = []
        self._count = 0

    def add(self, problem: str | None) -> None:
        if problem is None:
            return
        self._count += 1
        if self._count < MAX_PROBLEMS:
            self._found.append(problem)

    def told(self) -> tuple[str, ...]:
        further = self._count - len(self._found)
        return (*self._found, f"and {further} further problems") if further else tuple(self._found)


def _find_manifest(archive: zipfile.ZipFile) -> zipfile.ZipInfo:
    found = [item for item in archive.infolist() if item.filename.partition("/")[2] == MANIFEST_NAME]
    if len(found) != 1:
        raise ManifestError(f"expected one {MANIFEST_NAME} in the archive's top folder, found {len(found)}")
    if found[0].compress_type != zipfile.ZIP_STORED:
        raise ManifestError("the manifest is compressed, expected a stored one")
    return found[0]


def _problem_of(archive: zipfile.ZipFile, name: str, entry: Entry) -> str | None:
    try:
        item = archive.getinfo(name)
    except KeyError:
        return f"{name}: is in the manifest but not in the archive"
    if item.compress_type != zipfile.ZIP_STORED:
        return f"{name}: is compressed, expected a stored member"
    if item.file_size != entry.size_bytes:
        return f"{name}: size is {item.file_size}, expected {entry.size_bytes}"
    if int(entry.crc32, 16) != item.CRC:
        return f"{name}: CRC-32 is {item.CRC:08x}, expected {entry.crc32}"
    return _content_problem(archive, item, entry)


def _content_problem(archive: zipfile.ZipFile, item: zipfile.ZipInfo, entry: Entry) -> str | None:
    md5, sha256 = hashlib.md5(usedforsecurity=False), hashlib.sha256()
    try:
        with archive.open(item) as content:
            while block := content.read(_BLOCK_BYTES):
                md5.update(block)
                sha256.update(block)
    except (zipfile.BadZipFile, EOFError) as error:
        return f"{item.filename}: {error}"
    if md5.hexdigest() != entry.md5:
        return f"{item.filename}: MD5 is {md5.hexdigest()}, expected {entry.md5}"
    if sha256.hexdigest() != entry.sha256:
        return f"{item.filename}: SHA-256 is {sha256.hexdigest()}, expected {entry.sha256}"
    return None
