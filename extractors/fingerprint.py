"""What a storage knows of a file without understanding it: size, age, checksums and format."""

import gzip
import hashlib
import os
import re
import zlib
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import PurePosixPath
from typing import BinaryIO

BLOCK_BYTES = 1024**2
"""Checksums are made in one pass over blocks of this size."""

HEAD_BYTES = 512
"""As much of a file, unpacked, as is looked at to know its format."""

_UNIX_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_PACKINGS = {b"\x1f\x8b": "gzip"}
_MAGIC = {
    b"SIMPLE  =": "fits",
    b"\x89HDF\r\n\x1a\n": "hdf5",
    b"root": "root",
    b"\x28\xb5\x2f\xfd": "zstd",
    b"\x37\x8a\x1f\xd4": "eventio",
}
_CORSIKA_RUN_HEADER = b"RUNH"
_SUFFIX = re.compile(r"[a-z][a-z0-9]{0,15}")


@dataclass(frozen=True, kw_only=True, slots=True)
class Fingerprint:
    """The facts about the stored bytes; checksums are None when they were not asked for."""

    size_bytes: int
    modified_at: datetime
    format: str | None
    md5: str | None = None
    sha256: str | None = None


def take_fingerprint(stream: BinaryIO, name: str, *, checksums: bool) -> Fingerprint:
    """Return what can be known of the open file called `name`; reads it whole only for `checksums`."""
    status = os.fstat(stream.fileno())
    md5, sha256 = _checksums(stream) if checksums else (None, None)
    return Fingerprint(
        size_bytes=status.st_size,
        modified_at=_UNIX_EPOCH + timedelta(microseconds=status.st_mtime_ns // 1000),
        format=find_format(name, _read_head(stream)),
        md5=md5,
        sha256=sha256,
    )


def find_format(name: str, head: bytes) -> str | None:
    """Return the format of a file by its first bytes, or else by the ending of its name; None when neither tells.

    A packed file is named after both: ``fits+gzip``.
    """
    packing = next((word for magic, word in _PACKINGS.items() if head.startswith(magic)), None)
    suffixes = [suffix[1:].lower() for suffix in PurePosixPath(name).suffixes]
    if packing == "gzip":
        head = _unpack_head(head)
        if suffixes and suffixes[-1] == "gz":
            suffixes = suffixes[:-1]
    inner = _inner_format(head, suffixes[-1] if suffixes else "")
    if packing is None:
        return inner
    return f"{inner}+{packing}" if inner else packing


def _inner_format(head: bytes, suffix: str) -> str | None:
    for magic, word in _MAGIC.items():
        if head.startswith(magic):
            return word
    if head[4:8] == _CORSIKA_RUN_HEADER:
        return "corsika"
    if b"\0" in head:
        return "binary"
    return suffix if _SUFFIX.fullmatch(suffix) else "text" if head else None


def _unpack_head(head: bytes) -> bytes:
    try:
        return zlib.decompressobj(wbits=zlib.MAX_WBITS | 16).decompress(head, HEAD_BYTES)
    except (zlib.error, gzip.BadGzipFile):
        return b""


def _read_head(stream: BinaryIO) -> bytes:
    stream.seek(0)
    return stream.read(HEAD_BYTES)


def _checksums(stream: BinaryIO) -> tuple[str, str]:
    md5 = hashlib.md5(usedforsecurity=False)
    sha256 = hashlib.sha256()
    stream.seek(0)
    while block := stream.read(BLOCK_BYTES):
        md5.update(block)
        sha256.update(block)
    return md5.hexdigest(), sha256.hexdigest()
