"""The manifest: what an export holds, file by file, and what it could not have.

One JSON document, written and read as a stream: the header's fields, then ``files`` and ``missing`` with one entry to
a line, so that a million entries take no more memory than one. Its bytes depend on the question, the revisions, the
contents and what the catalogue said of the facilities, never on when, where or in which order files were staged; its
SHA-256 names the bundle, and everything that goes into an archive is said here.
"""

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from typing import Annotated, Any, BinaryIO

import msgspec

from aggregator.citation import Citation

FORMAT = "catchment-manifest-2"
"""Name and version of the format; a change that old readers cannot read gets a new number."""

READABLE = (FORMAT, "catchment-manifest-1")
"""Formats that are read: the first had no citation, no sources and no names."""

_MAX_LINE_BYTES = 1024**2
_MAX_HEADER_BYTES = 64 * 1024**2
_BETWEEN = b'\n],\n"missing":[\n'
_END = b"\n]}\n"


class ManifestError(ValueError):
    """A text is not a manifest of the known format; the message says where."""


class Source(msgspec.Struct, frozen=True, kw_only=True):
    """A facility, and what its data authority asks for, as the catalogue said when the export was complete."""

    name: str
    title: str
    url: str | None = None
    authority: str | None = None
    """Title of the data authority."""
    contact: str | None = None
    licence: str | None = None
    terms: str | None = None
    """Address or text of the terms of use."""


class Header(msgspec.Struct, frozen=True, kw_only=True):
    """What an export is the answer to."""

    format: str = FORMAT
    query_id: str
    query: msgspec.Raw
    """The question in its canonical form, a JSON object."""
    revisions: dict[str, int]
    """Facility → revision of the catalogue that the question was answered from."""
    answer_checksum: str
    files_count: int
    files_bytes: int
    missing_count: int
    citation: Citation | None = None
    sources: tuple[Source, ...] = ()
    """The facilities whose files the answer can hold, by name."""


class Entry(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One file of an export."""

    path: str
    """Below the export's folder of files: storage, ``/``, path in the storage."""
    size_bytes: Annotated[int, msgspec.Meta(ge=0)]
    crc32: Annotated[str, msgspec.Meta(pattern=r"^[0-9a-f]{8}\Z")]
    md5: Annotated[str, msgspec.Meta(pattern=r"^[0-9a-f]{32}\Z")]
    sha256: Annotated[str, msgspec.Meta(pattern=r"^[0-9a-f]{64}\Z")]
    facility: str
    storage: str
    source: str
    """Path in the storage."""
    licence: str | None
    name: str | None = None
    """Path below the archive's ``data/``, where it cannot be `path`; see `naming.py`."""

    @property
    def member(self) -> str:
        """Path below the archive's ``data/``."""
        return self.path if self.name is None else self.name


class Missing(msgspec.Struct, frozen=True, kw_only=True):
    """One file that belongs to an export but could not be had."""

    path: str
    size_bytes: int
    reason: str


class ManifestEncoder:
    """Turns header, entries and missing files, given in this order, into the bytes of a manifest."""

    def __init__(self) -> None:
        self._sha256 = hashlib.sha256()
        self._separator = b""

    @property
    def sha256(self) -> str:
        """SHA-256 of all bytes so far, in hexadecimal."""
        return self._sha256.hexdigest()

    def begin(self, header: Header) -> bytes:
        """Return the bytes of the header."""
        # Sorted, because revisions come from a mapping that remembers how it was made.
        ordered = msgspec.structs.replace(header, revisions=dict(sorted(header.revisions.items())))
        return self._counted(msgspec.json.encode(ordered)[:-1] + b',\n"files":[\n')

    def entries(self, entries: Sequence[Entry] | Sequence[Missing]) -> bytes:
        """Return the bytes of some entries of the present section."""
        if not entries:
            return b""
        lines = self._separator + b",\n".join(map(msgspec.json.encode, entries))
        self._separator = b",\n"
        return self._counted(lines)

    def begin_missing(self) -> bytes:
        """Return the bytes between the files and the missing files."""
        self._separator = b""
        return self._counted(_BETWEEN)

    def end(self) -> bytes:
        """Return the last bytes."""
        return self._counted(_END)

    def _counted(self, part: bytes) -> bytes:
        self._sha256.update(part)
        return part


def encode_manifest(header: Header, files: Iterable[Entry], missing: Iterable[Missing] = ()) -> bytes:
    """Return a whole manifest, for sets that fit into memory."""
    encoder = ManifestEncoder()
    return b"".join(
        [
            encoder.begin(header),
            encoder.entries(sorted(files, key=lambda entry: entry.path.encode())),
            encoder.begin_missing(),
            encoder.entries(sorted(missing, key=lambda entry: entry.path.encode())),
            encoder.end(),
        ]
    )


def decode_header(line: bytes) -> Header:
    """Return the header from the first line of a manifest.

    Raises
    ------
    ManifestError
        It is not one.
    """
    try:
        header = msgspec.json.decode(line.rstrip().removesuffix(b",") + b"}", type=Header)
    except msgspec.MsgspecError as error:
        raise ManifestError(f"line 1 of the manifest is not its header: {error}") from error
    if header.format not in READABLE:
        raise ManifestError(f"the manifest's format is {header.format!r}, expected {FORMAT!r}")
    return header


def read_header(stream: BinaryIO) -> Header:
    """Return the header of a manifest, and leave `stream` before its first entry."""
    header = decode_header(stream.readline(_MAX_HEADER_BYTES))
    if stream.readline(_MAX_LINE_BYTES) != b'"files":[\n':
        raise ManifestError('line 2 of the manifest is not "files"')
    return header


def iter_entries(stream: BinaryIO) -> Iterator[Entry]:
    """Yield the files of a manifest; `stream` stands before the first, and after the section at the end."""
    decoder = msgspec.json.Decoder(Entry)
    for line in _iter_section(stream, _BETWEEN.splitlines(keepends=True)[1]):
        yield _decode(decoder, line)
    if stream.readline(_MAX_LINE_BYTES) != b'"missing":[\n':
        raise ManifestError('the manifest has no section "missing"')


def iter_missing(stream: BinaryIO) -> Iterator[Missing]:
    """Yield the missing files of a manifest; `stream` stands before the first."""
    decoder = msgspec.json.Decoder(Missing)
    for line in _iter_section(stream, _END.splitlines(keepends=True)[1]):
        yield _decode(decoder, line)


def _iter_section(stream: BinaryIO, last: bytes) -> Iterator[bytes]:
    while (line := stream.readline(_MAX_LINE_BYTES)) != last:
        if not line.endswith(b"\n"):
            raise ManifestError("the manifest ends in the middle")
        if line != b"\n":  # of a section without entries
            yield line


def _decode(decoder: msgspec.json.Decoder[Any], line: bytes) -> Any:
    try:
        return decoder.decode(line.rstrip().removesuffix(b","))
    except msgspec.MsgspecError as error:
        raise ManifestError(f"a line of the manifest is not an entry: {error}") from error
