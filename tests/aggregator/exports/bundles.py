"""Complete exports on disk, without a catalogue: contents, and the manifest that names them."""

import hashlib
import zlib
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path

import msgspec

from aggregator.citation import Citation
from aggregator.exports.archive import Archive, ZipArchive
from aggregator.exports.bag import Bag, open_bag
from aggregator.staging.manifest import Entry, Header, Missing, Source, encode_manifest
from aggregator.staging.naming import put_names

QUERY_ID = "0123456789abcdef0123456789abcdef"


CITATION = Citation(
    query_id=QUERY_ID,
    authors=("Aurora {north} & south",),
    title='Files with facility aurora; object "Crab" 100%',
    files=3,
    bytes=7,
    checksum="0" * 32,
    revision=17,
    at=datetime(2026, 3, 1, 12, tzinfo=UTC),
)
AURORA = Source(
    name="aurora",
    title="Aurora",
    url="https://aurora.example",
    authority="Aurora collaboration",
    contact="data@aurora.example",
    licence="CC-BY-4.0",
    terms="Say thank you. \u00fc",
)


def make_entry(path: str, content: bytes, *, facility: str = "aurora", licence: str | None = None) -> Entry:
    return Entry(
        path=path,
        size_bytes=len(content),
        crc32=f"{zlib.crc32(content):08x}",
        md5=hashlib.md5(content).hexdigest(),
        sha256=hashlib.sha256(content).hexdigest(),
        facility=facility,
        storage=path.split("/")[0],
        source=path.partition("/")[2],
        licence=licence,
    )


def make_header(entries: Sequence[Entry], missing: int = 0) -> Header:
    return Header(
        query_id=QUERY_ID,
        query=msgspec.Raw(b'{"facility":["aurora"]}'),
        revisions={"aurora": 1},
        answer_checksum="0" * 32,
        files_count=len(entries),
        files_bytes=sum(entry.size_bytes for entry in entries),
        missing_count=missing,
        citation=CITATION,
        sources=(AURORA,),
    )


def make_bag(folder: Path, contents: Mapping[str, bytes], missing: Sequence[Missing] = ()) -> Bag:
    """Write contents and manifest below `folder`, and make their bag."""
    for content in contents.values():
        (folder / hashlib.sha256(content).hexdigest()).write_bytes(content)
    return lay_out(folder, [make_entry(path, content) for path, content in contents.items()], missing)


def lay_out(folder: Path, entries: Sequence[Entry], missing: Sequence[Missing] = ()) -> Bag:
    manifest = folder / "manifest.json"
    manifest.write_bytes(encode_manifest(make_header(entries, len(missing)), entries, missing))
    put_names(manifest)
    return open_manifest(manifest)


def open_manifest(manifest: Path) -> Bag:
    sha256 = hashlib.sha256(manifest.read_bytes()).hexdigest()
    return open_bag(manifest, sha256, lambda content: manifest.parent / content)


def make_zip(folder: Path, contents: Mapping[str, bytes], missing: Sequence[Missing] = ()) -> ZipArchive:
    return ZipArchive(make_bag(folder, contents, missing))


def write(archive: Archive, target: Path) -> Path:
    with target.open("wb") as stream:
        stream.writelines(archive.iter_blocks())
    return target
