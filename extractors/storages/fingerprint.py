"""What a storage knows of a file without understanding it: size, age, checksums and format."""

import hashlib
import re
from dataclasses import dataclass
from datetime import datetime
from typing import BinaryIO

from extractors.errors import ContentError, FileRejectedError
from extractors.storages.trees import LimitedStream, OpenedFile
from extractors.storages.unpacking import PACKINGS, open_unpacked, peek_head

BLOCK_BYTES = 1024**2
"""Checksums are made in one pass over blocks of this size."""

HEAD_BYTES = 512
"""As much of a file, unpacked, as is looked at to know its format."""

MAX_HEAD_UNPACKED_BYTES = 64 * 1024**2
"""Never reached by a head; it only bounds what a damaged packing may do on the way to it."""

_MAGIC = {
    b"SIMPLE  =": "fits",
    b"\x89HDF\r\n\x1a\n": "hdf5",
    b"root": "root",
    b"\x37\x8a\x1f\xd4": "eventio",
}
_CORSIKA_RUN_HEADER = b"RUNH"
_SUFFIX = re.compile(r"[a-z][a-z0-9]{0,15}")


@dataclass(frozen=True, kw_only=True, slots=True)
class Fingerprint:
    """The facts about the stored bytes; checksums are None when they were not asked for."""

    size_bytes: int
    modified_at: datetime | None
    format: str | None
    md5: str | None = None
    sha256: str | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class UnpackedFile:
    """The content of a file, unpacked as far as it is read."""

    stream: BinaryIO
    packing: str | None
    """How it is packed, such as ``gzip`` or ``gzip+xz``; None when it is not."""
    head: bytes
    """Its first bytes; empty when it cannot be unpacked."""
    problem: ContentError | None = None
    """Why it cannot be unpacked."""


def take_fingerprint(
    stream: OpenedFile | LimitedStream, name: str, *, checksums: bool, max_unpacked_bytes: int = MAX_HEAD_UNPACKED_BYTES
) -> tuple[Fingerprint, UnpackedFile]:
    """Return what can be known of the open file called `name`, and its content; read whole only for `checksums`.

    Raises
    ------
    FileRejectedError
        The storage delivers more or fewer bytes than it says that the file has.
    """
    status = stream.status()
    md5, sha256 = _checksums(stream, name, status.size_bytes) if checksums else (None, None)
    content = _open_content(stream, max_unpacked_bytes)
    fingerprint = Fingerprint(
        size_bytes=status.size_bytes,
        modified_at=status.modified_at,
        format=find_format(name, content.head, content.packing),
        md5=md5,
        sha256=sha256,
    )
    return fingerprint, content


def find_format(name: str, head: bytes, packing: str | None = None) -> str | None:
    """Return the format of a file by its first bytes, or else by the ending of its name; None when neither tells.

    Parameters
    ----------
    head
        The first bytes of the unpacked content; empty when it cannot be unpacked.
    packing
        How it is packed, such as ``gzip`` or ``gzip+xz``; the format is then named after both: ``fits+gzip``.
    """
    suffixes = name.rpartition("/")[2].lstrip(".").lower().split(".")[1:]
    for word in reversed(packing.split("+") if packing else []):
        if suffixes and suffixes[-1] in PACKINGS[word].suffixes:
            suffixes.pop()
    inner = _inner_format(head, suffixes[-1] if suffixes else "")
    return "+".join(word for word in (inner, packing) if word) or None


def _open_content(stream: BinaryIO, max_bytes: int) -> UnpackedFile:
    unpacked, packing = open_unpacked(stream, max_bytes=max_bytes)
    try:
        return UnpackedFile(stream=unpacked, packing=packing, head=peek_head(unpacked, HEAD_BYTES))
    except ContentError as error:
        return UnpackedFile(stream=unpacked, packing=packing, head=b"", problem=error)


def _inner_format(head: bytes, suffix: str) -> str | None:
    for magic, word in _MAGIC.items():
        if head.startswith(magic):
            return word
    if head[4:8] == _CORSIKA_RUN_HEADER:
        return "corsika"
    if b"\0" in head:
        return "binary"
    return suffix if _SUFFIX.fullmatch(suffix) else "text" if head else None


def _checksums(stream: BinaryIO, name: str, size_bytes: int) -> tuple[str, str]:
    md5 = hashlib.md5(usedforsecurity=False)
    sha256 = hashlib.sha256()
    n_bytes = 0
    stream.seek(0)
    while block := stream.read(BLOCK_BYTES):
        md5.update(block)
        sha256.update(block)
        n_bytes += len(block)
    if n_bytes != size_bytes:
        raise FileRejectedError(name, f"the storage delivered {n_bytes} bytes of {size_bytes}; extract it again")
    return md5.hexdigest(), sha256.hexdigest()
