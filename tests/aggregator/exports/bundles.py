"""Complete exports on disk, without a catalogue: contents, and the manifest that names them."""

import hashlib
import zlib
from collections.abc import Mapping
from pathlib import Path

import msgspec

from aggregator.exports.archive import Archive
from aggregator.staging.manifest import Entry, Header, Missing, encode_manifest

QUERY_ID = "0123456789abcdef0123456789abcdef"


def make_entry(path: str, content: bytes) -> Entry:
    return Entry(
        path=path,
        size_bytes=len(content),
        crc32=f"{zlib.crc32(content):08x}",
        md5=hashlib.md5(content).hexdigest(),
        sha256=hashlib.sha256(content).hexdigest(),
        facility="aurora",
        storage=path.split("/")[0],
        source=path.partition("/")[2],
        licence=None,
    )


def make_header(entries: list[Entry], missing: int = 0) -> Header:
    return Header(
        query_id=QUERY_ID,
        query=msgspec.Raw(b'{"facility":["aurora"]}'),
        revisions={"aurora": 1},
        answer_checksum="0" * 32,
        files_count=len(entries),
        files_bytes=sum(entry.size_bytes for entry in entries),
        missing_count=missing,
    )


def make_archive(folder: Path, contents: Mapping[str, bytes], missing: tuple[Missing, ...] = ()) -> Archive:
    """Write contents and manifest below `folder`, and lay the archive out."""
    for content in contents.values():
        (folder / hashlib.sha256(content).hexdigest()).write_bytes(content)
    return lay_out(folder, [make_entry(path, content) for path, content in contents.items()], missing)


def lay_out(folder: Path, entries: list[Entry], missing: tuple[Missing, ...] = ()) -> Archive:
    manifest = folder / "manifest.json"
    manifest.write_bytes(encode_manifest(make_header(entries, len(missing)), entries, missing))
    return Archive(manifest, lambda sha256: folder / sha256)


def write(archive: Archive, target: Path) -> Path:
    with target.open("wb") as stream:
        stream.writelines(archive.iter_blocks())
    return target
