"""A batch on its way in: a stream of bytes → lines → checked records → rows for COPY, and a rejection of each bad line.

Two kinds of batches come: records of files, and removals of them.

Everything here is values in, values out; nothing touches the database.
"""

import hashlib
import re
from collections.abc import AsyncIterator, Callable, Collection, Iterable, Mapping
from typing import Any, TypeAlias, TypeVar

import msgspec
from msgspec.structs import replace

from metadata_db.canonical import fingerprint
from metadata_db.errors import BadInputError
from metadata_db.query import parse_globs
from metadata_db.records import FIELD_EXPECTATIONS, AttributeType, FileRecord, Removal
from metadata_db.vocabulary import Vocabulary

MAX_LINE_BYTES = 1_000_000
"""Longest line; a record is some 600 bytes, one with hundreds of attributes some 50,000."""

BLOCK_LINES = 1000
"""Lines decoded in one go off the event loop, some ten milliseconds' work."""

TEXT, BIGINT, DOUBLE, TIME, BYTES, INT, BOOL = "text", "int8", "float8", "timestamptz", "bytea", "int4", "bool"

COLUMNS: Mapping[str, str] = {
    "facility_id": INT,
    "storage_id": INT,
    "path": TEXT,
    "size_bytes": BIGINT,
    "sha256": BYTES,
    "md5": BYTES,
    "modified_at": TIME,
    "format": TEXT,
    "kind": TEXT,
    "level": TEXT,
    "cluster_id": INT,
    "detector_id": INT,
    "channel_id": INT,
    "time_begin": TIME,
    "time_end": TIME,
    "obs_id": TEXT,
    "run": BIGINT,
    "ra_deg": DOUBLE,
    "dec_deg": DOUBLE,
    "position_basis": TEXT,
    "energy_min_ev": DOUBLE,
    "energy_max_ev": DOUBLE,
    "energy_basis": TEXT,
    "object": TEXT,
    "n_events": BIGINT,
    "is_simulation": BOOL,
    "processing": TEXT,
    "quality": TEXT,
    "conditions": TEXT,
    "licence": TEXT,
    "attributes": TEXT,
    "provenance": TEXT,
    "warnings": TEXT,
    "description": TEXT,
    "relations": TEXT,
    "digest": BYTES,
    "reading": BYTES,
    "fingerprint_high": BIGINT,
    "fingerprint_low": BIGINT,
}
"""Columns of a loaded row and their types, in the order of COPY; JSON travels as text."""

LOADED: Mapping[str, str] = {**COLUMNS, "replicas": TEXT, "line": BIGINT}
"""Columns of the loading table: those of a file, its replicas as [[number of the storage, path], …], the line."""

JSON_COLUMNS = ("attributes", "provenance", "warnings", "relations")

REMOVED: Mapping[str, str] = {
    "facility_id": INT,
    "storage_id": INT,
    "path": TEXT,
    "size_bytes": BIGINT,
    "modified_at": TIME,
    "line": BIGINT,
}
"""Columns of the loading table of removals."""

Line: TypeAlias = tuple[int, bytes]
"""A line and its number, from 1."""

Row: TypeAlias = tuple[Any, ...]


class Rejection(msgspec.Struct, frozen=True, kw_only=True):
    """One line that was not accepted."""

    line: int
    """Number of the line, from 1."""
    field: str
    reason: str


class RecordError(ValueError):
    """A record that cannot be catalogued: the field at fault and why."""

    def __init__(self, field: str, reason: str) -> None:
        self.field = field
        super().__init__(reason)


T = TypeVar("T", bound=msgspec.Struct)

_FILES = msgspec.json.Decoder(FileRecord)
_REMOVALS = msgspec.json.Decoder(Removal)
_ENCODER = msgspec.json.Encoder(order="deterministic")
_AT = re.compile(r" - at `\$\.?([^`]*)`$")
_UNKNOWN_FIELD = re.compile(r"unknown field `(.*)`$")
_MISSING_FIELD = re.compile(r"missing required field `(.*)`")

_ATTRIBUTE_TYPES: Mapping[AttributeType, tuple[type, ...]] = {
    "boolean": (bool,),
    "integer": (int,),
    "number": (int, float),
    "text": (str,),
    "time": (str,),
    "list": (list,),
}


def decode_line(line: bytes) -> FileRecord:
    """Return the record of one line of NDJSON; see `decode_as`."""
    return decode_as(_FILES, line)


def decode_as(decoder: msgspec.json.Decoder[T], line: bytes) -> T:
    """Return what one line of NDJSON says.

    Raises
    ------
    RecordError
        Naming the field and what is wrong with it.
    """
    if b"\\u0000" in line:
        raise RecordError("", "holds a NUL character, which no value may have")
    try:
        return decoder.decode(line)
    except msgspec.ValidationError as error:
        raise _record_error(str(error), decoder.type.__struct_fields__) from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise RecordError("", f"is not a JSON object: {error}") from None


def _record_error(message: str, fields: Iterable[str]) -> RecordError:
    """Read the field out of a message of msgspec's, and add what was expected where the type does not say it."""
    at = _AT.search(message)
    reason = message[: at.start()] if at else message
    for pattern in (_UNKNOWN_FIELD, _MISSING_FIELD):
        if found := pattern.search(reason):
            return RecordError(found[1], reason)
    field = at[1] if at else next((name for name in fields if reason.startswith(name)), "")
    expected = FIELD_EXPECTATIONS.get(field)
    return RecordError(field, f"{reason}; expected {expected}" if at and expected else reason)


def make_row(record: FileRecord, vocabulary: Vocabulary, allowed: Collection[str] | None) -> Row:
    """Return the values of a record in the order of `LOADED` without the line, names turned into numbers.

    Raises
    ------
    RecordError
        The facility is not one of `allowed` (None: all are), or a name or attribute is not registered.
    """
    facility_id, storage_id = find_home(record.facility, record.storage, vocabulary, allowed)
    if record.attributes:
        _check_attributes(record, vocabulary.attributes[facility_id])
    high, low = fingerprint(record.storage, record.path, record.size_bytes, record.sha256)
    return (
        facility_id,
        storage_id,
        record.path,
        record.size_bytes,
        None if record.sha256 is None else bytes.fromhex(record.sha256),
        None if record.md5 is None else bytes.fromhex(record.md5),
        record.modified_at,
        record.format,
        record.kind,
        record.level,
        _part("cluster", record, facility_id, vocabulary),
        _part("detector", record, facility_id, vocabulary),
        _part("channel", record, facility_id, vocabulary),
        record.time_begin,
        record.time_end,
        record.obs_id,
        record.run,
        record.ra_deg,
        record.dec_deg,
        record.position_basis,
        record.energy_min_ev,
        record.energy_max_ev,
        record.energy_basis,
        record.object,
        record.n_events,
        record.is_simulation,
        record.processing,
        record.quality,
        record.conditions,
        record.licence,
        _ENCODER.encode(record.attributes).decode(),
        _ENCODER.encode(record.provenance).decode(),
        _ENCODER.encode(record.warnings).decode(),
        record.description,
        _relations(record, vocabulary) if record.relations else None,
        *_digests(record),
        high,
        low,
        _replicas(record, vocabulary) if record.replicas else None,
    )


def find_home(facility: str, storage: str, vocabulary: Vocabulary, allowed: Collection[str] | None) -> tuple[int, int]:
    """Return the numbers of a facility and of the storage that its file is on.

    Raises
    ------
    RecordError
        One of them is not registered, the facility is not one of `allowed`, or the storage is another facility's.
    """
    facility_id = _find(vocabulary.facility.ids, facility, "facility")[0]
    if allowed is not None and facility not in allowed:
        raise RecordError("facility", f"this token may not write for {facility}")
    storage_id = _find(vocabulary.storage.ids, storage, "storage")[0]
    owner = vocabulary.storages[storage_id].facility
    if owner is not None and owner != facility:
        raise RecordError("storage", f"{storage} holds files of {owner} only")
    return facility_id, storage_id


def _digests(record: FileRecord) -> tuple[bytes, bytes | None]:
    """Return the digest of what a record says, and that of how it was read.

    Defaults are not part of them: a field that records gain later leaves them as they are.
    """
    reading = (record.description, record.provenance, record.warnings)
    if not any(reading):
        return _digest(record), None
    return _digest(replace(record, description=None, provenance={}, warnings=[])), _digest(reading)


def _digest(value: Any) -> bytes:
    return hashlib.blake2b(_ENCODER.encode(value), digest_size=16).digest()


def _relations(record: FileRecord, vocabulary: Vocabulary) -> str:
    for relation in record.relations:
        if relation.storage is not None:
            _find(vocabulary.storage.ids, relation.storage, "relations")
        if relation.path is not None:
            try:
                parse_globs("relations", [relation.path])
            except BadInputError as error:
                raise RecordError("relations", f"path: got {error.value}, expected {error.expected}") from None
    return _ENCODER.encode(record.relations).decode()


def _replicas(record: FileRecord, vocabulary: Vocabulary) -> str:
    places = [(_find(vocabulary.storage.ids, item.storage, "replicas")[0], item.path) for item in record.replicas]
    return _ENCODER.encode(places).decode()


def _find(ids: Mapping[str, tuple[int, ...]], name: str, field: str) -> tuple[int, ...]:
    try:
        return ids[name]
    except KeyError:
        raise RecordError(field, f"{name!r} is not registered") from None


def _part(kind: str, record: FileRecord, facility_id: int, vocabulary: Vocabulary) -> int | None:
    name = getattr(record, kind)
    if name is None:
        return None
    number: int | None = getattr(vocabulary, kind).in_facility.get((facility_id, name))
    if number is None:
        raise RecordError(kind, f"{name!r} is not registered for {record.facility}")
    return number


def _check_attributes(record: FileRecord, declared: Mapping[str, Any]) -> None:
    for name, value in record.attributes.items():
        attribute = declared.get(name)
        if attribute is None:
            raise RecordError(f"attributes.{name}", f"is not declared by {record.facility}")
        # bool is an int to Python, not to physicists.
        if not isinstance(value, _ATTRIBUTE_TYPES[attribute.type]) or (
            isinstance(value, bool) and attribute.type != "boolean"
        ):
            raise RecordError(f"attributes.{name}", f"got {value!r}, expected a value of type {attribute.type}")


def make_removal_row(removal: Removal, vocabulary: Vocabulary, allowed: Collection[str] | None) -> Row:
    """Return the values of a removal in the order of `REMOVED` without the line.

    Raises
    ------
    RecordError
        The facility is not one of `allowed` (None: all are), or a name is not registered.
    """
    home = find_home(removal.facility, removal.storage, vocabulary, allowed)
    return (*home, removal.path, removal.size_bytes, removal.modified_at)


def make_rows(
    lines: Iterable[Line], vocabulary: Vocabulary, allowed: Collection[str] | None
) -> tuple[list[Row], list[Rejection]]:
    """Return the row of `LOADED` of each good line of file records, and a rejection of each other one."""
    return sift(lines, lambda line: make_row(decode_line(line), vocabulary, allowed))


def make_removal_rows(
    lines: Iterable[Line], vocabulary: Vocabulary, allowed: Collection[str] | None
) -> tuple[list[Row], list[Rejection]]:
    """Return the row of `REMOVED` of each good line of removals, and a rejection of each other one."""
    return sift(lines, lambda line: make_removal_row(decode_as(_REMOVALS, line), vocabulary, allowed))


def sift(lines: Iterable[Line], make: Callable[[bytes], Row]) -> tuple[list[Row], list[Rejection]]:
    """Return what `make` makes of each line, with the line's number, and a rejection where it raised `RecordError`."""
    rows, rejections = [], []
    for number, line in lines:
        try:
            rows.append((*make(line), number))
        except RecordError as error:
            rejections.append(Rejection(line=number, field=error.field, reason=str(error)))
    return rows, rejections


async def iter_blocks(chunks: AsyncIterator[bytes]) -> AsyncIterator[list[Line]]:
    """Cut a stream of bytes into lines with their numbers, in blocks; empty lines are passed over.

    Raises
    ------
    BadInputError
        A line is longer than `MAX_LINE_BYTES`: where the next one begins is no longer worth reading for.
    """
    block: list[Line] = []
    rest, number = b"", 0
    async for chunk in chunks:
        *lines, rest = (rest + chunk).split(b"\n")
        if len(rest) > MAX_LINE_BYTES or any(len(line) > MAX_LINE_BYTES for line in lines):
            raise BadInputError(f"line {number + 1} or later", "a longer line", f"at most {MAX_LINE_BYTES} bytes")
        for line in lines:
            number += 1
            if line.strip():
                block.append((number, line))
        if len(block) >= BLOCK_LINES:
            yield block
            block = []
    if rest.strip():
        block.append((number + 1, rest))
    if block:
        yield block
