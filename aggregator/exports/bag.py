"""An export as a BagIt bag with RO-Crate metadata: the export's files, and those that tell what they are.

The files that tell are written once, when the export is complete, with an index of where everything begins in the
archives; the export's own files are never copied. All of it is made of the manifest alone, so what is lost is made
again, and is the same again. All functions block.

==========================================  ==================================================================
below the folder of an export               what
==========================================  ==================================================================
``manifest.json``                           the manifest, which is in the bag as well
``bag-<layout>-<digits of its SHA-256>/``   the other tag files, and ``index``; appears whole, by rename
==========================================  ==================================================================

Notes
-----
RFC 8493 (BagIt 1.0): the export's files are the payload below ``data/``, everything else are tag files. RO-Crate 1.1:
the bag's folder is the crate's root.
"""

import csv
import fcntl
import hashlib
import os
import secrets
import shutil
import zlib
from bisect import bisect_left
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from io import BytesIO, StringIO
from pathlib import Path
from typing import BinaryIO

from aggregator.exports import describing
from aggregator.exports.describing import DATA_FOLDER, Contents
from aggregator.exports.index import BagIndex, BagIndexError, TagFile, write_index
from aggregator.exports.question import graphql_question, json_question
from aggregator.staging.manifest import Entry, iter_entries, iter_missing, read_header

LAYOUT = 1
"""Number of the way in which bags are laid out: a manifest and this say every byte of an archive."""

MANIFEST_NAME = "manifest.json"
PAYLOAD_MANIFEST = "manifest-sha256.txt"
TAG_MANIFEST = "tagmanifest-sha256.txt"
DECLARATION = "bagit.txt"
RENAMED = "RENAMED.csv"
MISSING = "MISSING.csv"

_BLOCK_BYTES = 1024**2
_EMPTY_PAYLOAD = f"{DATA_FOLDER}/"  # the one folder that is named for itself: a bag has to have it
_BAGIT = "BagIt-Version: 1.0\nTag-File-Character-Encoding: UTF-8\n"


class BagError(Exception):
    """A bag cannot be made: the manifest is not the one that names the bundle."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Member:
    """One file of a bag."""

    name: str
    """Path in the bag."""
    size_bytes: int
    crc32: int
    md5: str
    sha256: str
    find_content: Callable[[str], Path]
    """SHA-256 → where its bytes are; asked only when they are wanted."""

    @property
    def content(self) -> Path:
        """Where its bytes are."""
        return self.find_content(self.sha256)

    @property
    def is_folder(self) -> bool:
        """Whether it is no file: the payload's folder, where there is no file in it."""
        return self.name.endswith("/")

    def open(self) -> BinaryIO:
        """Return its bytes, open for reading."""
        return self.content.open("rb", buffering=0)


class Bag:
    """A bag whose tag files and index are there; opening one takes as long for a million files as for one.

    Raises
    ------
    BagIndexError
        Something of it is not whole.
    FileNotFoundError
        It is not there.
    """

    def __init__(self, manifest: Path, sha256: str, find_content: Callable[[str], Path]) -> None:
        self.manifest_sha256 = sha256
        self._manifest = manifest
        self._folder = bag_folder(manifest, sha256)
        self._find_content = find_content
        self.index = BagIndex(self._folder / "index")
        self.tags = tuple(map(self._tag_member, self.index.header.tags))
        self._tag_members = {member.name: member for member in self.tags}
        for member in self.tags:
            if not member.is_folder and member.content.stat().st_size != member.size_bytes:
                raise BagIndexError(f"{member.name} is not whole")

    def is_there(self) -> bool:
        """Tell whether it is still on the disk."""
        return (self._folder / "index").exists()

    @property
    def name(self) -> str:
        """Name of the folder that everything in an archive is in."""
        return self.index.header.folder

    def __len__(self) -> int:
        """How many members there are."""
        return len(self.tags) + self.index.header.files

    def find_tag(self, name: str) -> Member | None:
        """Return a tag file."""
        found = self._tag_members.get(name)
        return None if found is None or found.is_folder else found

    def find_payload(self, name: str) -> Member | None:
        """Return one of the export's files by its path in the bag.

        Raises
        ------
        OSError
            The bag is gone.
        """
        path = self._find_renamed(name) or name.removeprefix(f"{DATA_FOLDER}/")
        with self.reading() as manifest:
            # The manifest is in the order of paths, but numbers of lines are all that the index has.
            number = bisect_left(
                range(self.index.header.files), path.encode(), key=lambda at: self._read(manifest, at).path.encode()
            )
            entry = self._read(manifest, number) if number < self.index.header.files else None
        if entry is None or f"{DATA_FOLDER}/{entry.member}" != name:
            return None
        return self._payload_member(entry)

    def _read(self, manifest: BinaryIO, number: int) -> Entry:
        manifest.seek(self.index.lines[number])
        return next(iter_entries(manifest))

    def _find_renamed(self, name: str) -> str | None:
        """Return the path of a file that has another name in the bag."""
        renamed = self.find_tag(RENAMED)
        if renamed is None:
            return None
        with renamed.content.open(encoding="utf-8", newline="") as stream:
            return next((path for path, other in csv.reader(stream) if other == name), None)

    @contextmanager
    def reading(self) -> Iterator[BinaryIO]:
        """Give the manifest, open, and tell whoever clears away that somebody reads, by a shared lock on the index.

        Raises
        ------
        OSError
            The bag is gone.
        BagError
            The manifest is another one than was laid out.
        """
        with (self._folder / "index").open("rb") as index, self._manifest.open("rb") as manifest:
            fcntl.flock(index, fcntl.LOCK_SH)
            if os.fstat(manifest.fileno()).st_size != self._tag_members[MANIFEST_NAME].size_bytes:
                raise BagError("the export was staged anew; begin again")
            yield manifest

    def iter_from(self, manifest: BinaryIO, first: int = 0) -> Iterator[tuple[int, Member]]:
        """Yield the members from number `first` on, with their numbers: tag files, then the export's files."""
        yield from enumerate(self.tags[first:], first)
        at = max(first - len(self.tags), 0)
        if at < self.index.header.files:
            manifest.seek(self.index.lines[at])
            for number, entry in enumerate(iter_entries(manifest), len(self.tags) + at):
                yield number, self._payload_member(entry)

    def _tag_member(self, tag: TagFile) -> Member:
        content = self._manifest if tag.name == MANIFEST_NAME else self._folder / tag.name
        return Member(
            name=tag.name,
            size_bytes=tag.size_bytes,
            crc32=tag.crc32,
            md5=tag.md5,
            sha256=tag.sha256,
            find_content=lambda _sha256: content,
        )

    def _payload_member(self, entry: Entry) -> Member:
        return Member(
            name=f"{DATA_FOLDER}/{entry.member}",
            size_bytes=entry.size_bytes,
            crc32=int(entry.crc32, 16),
            md5=entry.md5,
            sha256=entry.sha256,
            find_content=self._find_content,
        )


def bag_folder(manifest: Path, sha256: str) -> Path:
    """Return where the bag of a manifest is kept, beside it: another manifest, or another layout, is another bag."""
    return manifest.parent / f"bag-{LAYOUT}-{sha256[:16]}"


def open_bag(manifest: Path, sha256: str, find_content: Callable[[str], Path]) -> Bag:
    """Return the bag of a manifest; it is made if it is not there, or not whole.

    Raises
    ------
    BagError
        `manifest` is not the one of this SHA-256.
    ManifestError
        It is not a manifest.
    FileNotFoundError
        There is none.
    """
    with suppress(FileNotFoundError, BagIndexError):
        return Bag(manifest, sha256, find_content)
    shutil.rmtree(bag_folder(manifest, sha256), ignore_errors=True)
    write_bag(manifest, sha256)
    return Bag(manifest, sha256, find_content)


def is_read(manifest: Path, sha256: str) -> bool:
    """Tell whether somebody reads the bag of a manifest at this moment: then its files are not to be cleared away."""
    with suppress(FileNotFoundError), (bag_folder(manifest, sha256) / "index").open("rb") as index:
        try:
            fcntl.flock(index, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


# --- writing ----------------------------------------------------------------------------------------------------------


def write_bag(manifest: Path, sha256: str) -> None:
    """Write tag files and index of the bag of a manifest; when two do so at once, one of them is taken.

    Raises
    ------
    BagError
        `manifest` is not the one of this SHA-256.
    ManifestError
        It is not a manifest.
    """
    target = bag_folder(manifest, sha256)
    draft = target.with_name(f".{target.name}-{secrets.token_hex(8)}")
    draft.mkdir()
    try:
        with manifest.open("rb") as stream:
            _BagWriter(draft, stream).write(sha256)
        _make_durable(draft)
        try:
            draft.rename(target)
        except OSError:
            if not target.exists():  # else somebody else was faster, with the same
                raise
    finally:
        shutil.rmtree(draft, ignore_errors=True)


class _BagWriter:
    """Writes one bag: reads the manifest once for the tag files, and once for the index."""

    def __init__(self, folder: Path, manifest: BinaryIO) -> None:
        self._folder = folder
        self._manifest = manifest
        self._tags: dict[str, TagFile] = {}

    def write(self, sha256: str) -> None:
        manifest = _tag_of(MANIFEST_NAME, self._manifest)
        if manifest.sha256 != sha256:
            raise BagError(f"the manifest has the SHA-256 {manifest.sha256}, expected {sha256}")
        self._manifest.seek(0)
        contents = Contents(header=read_header(self._manifest))
        self._put(DECLARATION, _BAGIT)
        self._write_lists(contents)
        self._tags[MANIFEST_NAME] = manifest
        for name, text in _texts(contents).items():
            self._put(name, text)
        self._put("README.txt", describing.describe_bag(contents))
        told = [name for name in sorted(self._tags) if name not in (DECLARATION, PAYLOAD_MANIFEST)]
        self._put("ro-crate-metadata.json", describing.crate(contents, told))
        self._put(TAG_MANIFEST, "".join(f"{tag.sha256}  {name}\n" for name, tag in sorted(self._tags.items())))
        self._write_index(contents.header.query_id, contents.header.files_count)

    def _write_lists(self, contents: Contents) -> None:
        """Write what has a line for each file, and count the files."""
        with (
            self._writing(PAYLOAD_MANIFEST) as payload,
            self._writing(RENAMED) as renamed,
            self._writing(MISSING) as missing,
        ):
            renamed.write(_row("path", "name"))
            for entry in iter_entries(self._manifest):
                contents.add(entry)
                payload.write(f"{entry.sha256}  {DATA_FOLDER}/{entry.member}\n".encode())
                if entry.name is not None:
                    renamed.write(_row(entry.path, f"{DATA_FOLDER}/{entry.name}"))
            missing.write(_row("path", "size_bytes", "reason"))
            for absent in iter_missing(self._manifest):
                missing.write(_row(absent.path, absent.size_bytes, absent.reason))
        for name, count in ((RENAMED, contents.renamed), (MISSING, contents.header.missing_count)):
            if not count:
                (self._folder / name).unlink()
                del self._tags[name]

    def _put(self, name: str, text: str | bytes) -> None:
        with self._writing(name) as stream:
            stream.write(text.encode() if isinstance(text, str) else text)

    @contextmanager
    def _writing(self, name: str) -> Iterator[BinaryIO]:
        path = self._folder / name
        path.parent.mkdir(exist_ok=True)
        with path.open("xb+") as stream:
            yield stream
            stream.seek(0)
            self._tags[name] = _tag_of(name, stream)

    def _write_index(self, folder: str, files: int) -> None:
        self._manifest.seek(0)
        read_header(self._manifest)
        first = [DECLARATION, "README.txt"]
        names = [*first, *(name for name in sorted(self._tags) if name not in first)]
        tags = [self._tags[name] for name in names]
        if not files:
            tags.append(_tag_of(_EMPTY_PAYLOAD, BytesIO()))
        write_index(self._folder / "index", folder=folder, tags=tags, files=self._iter_files())

    def _iter_files(self) -> Iterator[tuple[int, str, int, int]]:
        line = self._manifest.tell()
        for entry in iter_entries(self._manifest):
            yield line, f"{DATA_FOLDER}/{entry.member}", entry.size_bytes, int(entry.crc32, 16)
            line = self._manifest.tell()


def _texts(contents: Contents) -> dict[str, str | bytes]:
    """Return the tag files that do not grow with the number of files, but for those that tell of these."""
    header = contents.header
    texts: dict[str, str | bytes] = {
        "bag-info.txt": describing.bag_info(contents),
        "query.json": json_question(header),
        "query.graphql": graphql_question(header),
    }
    if header.citation is not None:
        texts["CITATION.cff"] = header.citation.as_cff()
        texts["CITATION.bib"] = header.citation.as_bibtex()
    for source in contents.sources:
        texts[describing.licence_path(source.name)] = describing.describe_terms(contents, source)
    return texts


def _tag_of(name: str, stream: BinaryIO) -> TagFile:
    sha256, md5, crc32, size_bytes = hashlib.sha256(), hashlib.md5(usedforsecurity=False), 0, 0
    while block := stream.read(_BLOCK_BYTES):
        sha256.update(block)
        md5.update(block)
        crc32 = zlib.crc32(block, crc32)
        size_bytes += len(block)
    return TagFile(name=name, size_bytes=size_bytes, crc32=crc32, md5=md5.hexdigest(), sha256=sha256.hexdigest())


def _row(*values: object) -> bytes:
    text = StringIO()
    csv.writer(text, lineterminator="\n").writerow(values)
    return text.getvalue().encode()


def _make_durable(folder: Path) -> None:
    for path in (*folder.rglob("*"), folder):
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
