"""Rows of `file`, and what a merge must know of them, as COPY takes them in binary.

They are written by hand, because a writer for rows of any kind, which looks for the dumper of each of 45 values, takes
as long as all the rest of reading a line. What is the same in all files of a stratum, a third of the columns, is
written once.
"""

import hashlib
import struct
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from msgspec.structs import replace

from metadata_db.canonical import fingerprint_bytes
from metadata_db.records import FileRecord
from metadata_db.rows import ENCODER, MAX_SHORT, Draft, Row, digest_line
from metadata_db.sky import find_cells
from metadata_db.strata import STRATUM_COLUMNS, Stratum

HEADER, TRAILER = b"PGCOPY\n\xff\r\n\0" + bytes(8), b"\xff\xff"
"""What stands around the rows in the binary format of COPY."""

COLUMNS: Sequence[str] = (
    *STRATUM_COLUMNS,
    "stratum_id",
    "path",
    "size_bytes",
    "obs_id",
    "run",
    "n_events",
    "licence",
    "position_basis",
    "energy_basis",
    "description",
    "sha256",
    "md5",
    "modified_at",
    "time_begin",
    "time_end",
    "time_over",
    "ra_deg",
    "dec_deg",
    "hpx",
    "energy_min_ev",
    "energy_max_ev",
    "attributes",
    "provenance",
    "warnings",
    "relations",
    "digest",
    "reading",
    "fingerprint_high",
    "fingerprint_low",
    "line_digest",
    "added_in",
)
"""Columns of `file` in the order of packed rows. The last one is filled in when it is known, see `set_revision`."""

KEYS: Mapping[str, str] = {
    "storage_id": "int2",
    "path": "text",
    "line": "int8",
    "digest": "bytea",
    "reading": "bytea",
    "sha256": "bytea",
    "is_read": "bool",
    "replicas": "text",
}
"""What tells what becomes of a row, and types.

`is_read` is whether the content of the file was read; `replicas` are [[number of the storage, path], …] in JSON.
"""

SKETCHED: Mapping[str, str] = {
    "facility_id": "int2",
    "storage_id": "int2",
    "path": "text",
    "line_digest": "bytea",
    "line": "int8",
}
"""What of a line tells whether the catalogue holds it already, and types."""

Numbers: TypeAlias = np.ndarray[tuple[int], np.dtype[np.int64]]
Flags: TypeAlias = np.ndarray[tuple[int], np.dtype[np.bool_]]


class Packed(NamedTuple):
    """Rows of one facility, in the order of their lines."""

    rows: bytes
    """In the order of `COLUMNS`, without header and trailer."""
    lengths: Numbers
    """Bytes of each row."""
    lines: Numbers
    """Number of the line of each row."""
    keys: bytes
    """In the order of `KEYS`, without header and trailer."""
    longest: timedelta
    """Length of the longest file, of those that are `MAX_SHORT` or less."""


def pack_drafts(drafts: Sequence[Draft], numbers: Mapping[Stratum, int]) -> dict[int, Packed]:
    """Return the rows of drafts by the number of their facility, given the number of each stratum."""
    by_facility: dict[int, list[tuple[Draft, int | None]]] = {}
    for drafted in zip(drafts, find_cells([draft.position for draft in drafts]), strict=True):
        alike = drafted[0].alike
        if not alike.packed:
            alike.packed = _pack_stratum(alike.stratum, numbers[alike.stratum])
        by_facility.setdefault(alike.facility_id, []).append(drafted)
    return {facility_id: _pack(own) for facility_id, own in by_facility.items()}


def _pack(drafted: Iterable[tuple[Draft, int | None]]) -> Packed:
    rows, keys, lines, longest = [], [], [], 0
    for draft, cell in drafted:
        row, key, length = _pack_draft(draft, cell)
        rows.append(row)
        keys.append(key)
        lines.append(draft.number)
        if longest < length <= _MAX_SHORT_US:
            longest = length
    return Packed(
        rows=b"".join(rows),
        lengths=np.fromiter(map(len, rows), np.int64, len(rows)),
        lines=np.array(lines, np.int64),
        keys=b"".join(keys),
        longest=timedelta(microseconds=longest),
    )


def set_revision(rows: bytes, lengths: Numbers, revision: int) -> bytearray:
    """Return packed rows as those that were added in a revision."""
    found = bytearray(rows)
    ends = np.cumsum(lengths)
    np.frombuffer(found, np.uint8)[ends[:, None] + np.arange(-8, 0)] = np.frombuffer(_INT8(8, revision), np.uint8)[4:]
    return found


def select_rows(rows: bytearray, lengths: Numbers, wanted: Flags) -> bytearray:
    """Return those of packed rows that are wanted."""
    if wanted.all():
        return rows
    ends = np.cumsum(lengths)
    view = memoryview(rows)
    spans = zip((ends - lengths)[wanted].tolist(), ends[wanted].tolist(), strict=True)
    return bytearray().join(view[begin:end] for begin, end in spans)


def pack_sketches(sketches: Iterable[Row]) -> bytes:
    """Return the rows of sketches in the order of `SKETCHED`, without header and trailer."""
    count = _COUNT(len(SKETCHED))
    return b"".join(
        b"".join((count, _INT2(2, facility_id), _INT2(2, storage_id), _text(path), _DIGEST, digest, _INT8(8, number)))
        for facility_id, storage_id, path, digest, number in sketches
    )


# --- digests ----------------------------------------------------------------------------------------------------------


def _digests(record: FileRecord) -> tuple[bytes, bytes | None]:
    """Return the digest of what a record says, and that of how it was read.

    Defaults are not part of them: a field that records gain later leaves them as they are.
    """
    reading = (record.description, record.provenance, record.warnings)
    if not any(reading):
        return _digest(record), None
    return _digest(replace(record, description=None, provenance={}, warnings=[])), _digest(reading)


def _digest(value: Any) -> bytes:
    return hashlib.blake2b(ENCODER.encode(value), digest_size=16).digest()


# --- bytes ------------------------------------------------------------------------------------------------------------

# Each value is its length in bytes and itself; Postgres wants the types of the columns to the bit.
_COUNT = struct.Struct(">h").pack
_LENGTH = struct.Struct(">i").pack
_INT2, _INT4, _INT8 = struct.Struct(">ih").pack, struct.Struct(">ii").pack, struct.Struct(">iq").pack
_DOUBLE = struct.Struct(">id").pack
_INTERVAL, _POSITION, _RANGE = struct.Struct(">iqiqiq").pack, struct.Struct(">ididiq").pack, struct.Struct(">idid").pack

_NULL, _DIGEST, _HALF = _LENGTH(-1), _LENGTH(16), _LENGTH(8)
_TRUE, _FALSE = _LENGTH(1) + b"\1", _LENGTH(1) + b"\0"

_EPOCH = datetime(2000, 1, 1, tzinfo=UTC)
"""Moments are microseconds since then."""

_MICROSECOND = timedelta(microseconds=1)
_MAX_SHORT_US = MAX_SHORT // _MICROSECOND


def _text(value: str) -> bytes:
    encoded = value.encode()
    return _LENGTH(len(encoded)) + encoded


@lru_cache(maxsize=1024)
def _word(value: str | None) -> bytes:
    """Return a text that many files have."""
    return _NULL if value is None else _text(value)


def _hex(value: str | None) -> bytes:
    if value is None:
        return _NULL
    decoded = bytes.fromhex(value)
    return _LENGTH(len(decoded)) + decoded


def _int8(value: int | None) -> bytes:
    return _NULL if value is None else _INT8(8, value)


def _double(value: float | None) -> bytes:
    return _NULL if value is None else _DOUBLE(8, value)


def _json(encoded: bytes) -> bytes:
    return _LENGTH(len(encoded) + 1) + b"\1" + encoded


_NOTHING, _NONE = _json(b"{}"), _json(b"[]")


def _moment(value: datetime | None) -> bytes:
    return _NULL if value is None else _INT8(8, (value - _EPOCH) // _MICROSECOND)


_SMALL = ("facility_id", "storage_id")
_KEY = _COUNT(len(KEYS))
_NO_REVISION = _INT8(8, 0)


def _pack_stratum(stratum: Stratum, number: int) -> bytes:
    """Return how rows begin: with the number of their columns, and what the files of a stratum have in common."""
    parts = [_COUNT(len(COLUMNS))]
    for name, value in zip(STRATUM_COLUMNS, stratum, strict=True):
        if value is None:
            parts.append(_NULL)
        elif isinstance(value, bool):
            parts.append(_TRUE if value else _FALSE)
        elif isinstance(value, str):
            parts.append(_text(value))
        else:
            parts.append(_INT2(2, value) if name in _SMALL else _INT4(4, value))
    return b"".join((*parts, _INT4(4, number)))


def _pack_draft(draft: Draft, cell: int | None) -> tuple[bytes, bytes, int]:
    """Return the row of a file, its key, and how many microseconds the file lasts."""
    record = draft.record
    path, sha256 = _text(record.path), _hex(record.sha256)
    digest, reading = _digests(record)
    packed_reading = _NULL if reading is None else _DIGEST + reading
    marks = fingerprint_bytes(record.storage, record.path, record.size_bytes, record.sha256)
    interval, length = _pack_interval(record)
    row = (
        draft.alike.packed,
        path,
        _INT8(8, record.size_bytes),
        _NULL if record.obs_id is None else _text(record.obs_id),
        _int8(record.run),
        _int8(record.n_events),
        _word(record.licence),
        _word(record.position_basis),
        _word(record.energy_basis),
        _word(record.description),
        sha256,
        _hex(record.md5),
        _moment(record.modified_at),
        interval,
        3 * _NULL if cell is None else _POSITION(8, record.ra_deg, 8, record.dec_deg, 8, cell),
        _pack_range(record.energy_min_ev, record.energy_max_ev),
        _json(ENCODER.encode(record.attributes)) if record.attributes else _NOTHING,
        _json(ENCODER.encode(record.provenance)) if record.provenance else _NOTHING,
        _json(ENCODER.encode(record.warnings)) if record.warnings else _NONE,
        _json(ENCODER.encode(record.relations)) if record.relations else _NULL,
        _DIGEST,
        digest,
        packed_reading,
        _HALF,
        marks[:8],
        _HALF,
        marks[8:],
        _DIGEST,
        digest_line(draft.line),
        _NO_REVISION,
    )
    key = (
        _KEY,
        _INT2(2, draft.alike.storage_id),
        path,
        _INT8(8, draft.number),
        _DIGEST,
        digest,
        packed_reading,
        sha256,
        _FALSE if record.description is None else _TRUE,
        _NULL if draft.replicas is None else _text(draft.replicas),
    )
    return b"".join(row), b"".join(key), length


def _pack_interval(record: FileRecord) -> tuple[bytes, int]:
    """Return begin, end and first moment after a file, and how many microseconds it lasts.

    One of no length takes a microsecond, the shortest time there is.
    """
    if record.time_begin is None:
        return 3 * _NULL, 0
    begin = (record.time_begin - _EPOCH) // _MICROSECOND
    if record.time_end is None:
        return _INT8(8, begin) + _NULL + _INT8(8, begin + 1), 1
    end = (record.time_end - _EPOCH) // _MICROSECOND
    length = end - begin or 1
    return _INTERVAL(8, begin, 8, end, 8, begin + length), length


def _pack_range(low: float | None, high: float | None) -> bytes:
    if low is None or high is None:
        return _double(low) + _double(high)
    return _RANGE(8, low, 8, high)
