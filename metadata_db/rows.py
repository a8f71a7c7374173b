"""A batch on its way in: a stream of bytes → lines → checked records → rows for COPY, and a rejection of each bad line.

Two kinds of batches come: records of files, and removals of them.

Everything here is values in, values out; nothing touches the database.
"""

import hashlib
import re
from collections.abc import AsyncIterator, Callable, Collection, Iterable, Mapping
from datetime import datetime, timedelta
from types import UnionType
from typing import Annotated, Any, NamedTuple, TypeAlias, TypeVar, Union, get_args, get_origin, get_type_hints

import msgspec
from msgspec.structs import replace

from metadata_db.canonical import fingerprint
from metadata_db.errors import BadInputError
from metadata_db.query import parse_globs
from metadata_db.records import (
    FIELD_EXPECTATIONS,
    MAX_PATH_CHARACTERS,
    PLAIN_PATH,
    AttributeType,
    FileRecord,
    Removal,
)
from metadata_db.sky import find_cells
from metadata_db.strata import Stratum
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
    "time_over": TIME,
    "hpx": BIGINT,
    "stratum_id": INT,
    "line_digest": BYTES,
}
"""Columns of a loaded row and their types, in the order of COPY; JSON travels as text."""

LOADED: Mapping[str, str] = {**COLUMNS, "replicas": TEXT, "line": BIGINT}
"""Columns of the loading table: those of a file, its replicas as [[number of the storage, path], …], the line."""

JSON_COLUMNS = ("attributes", "provenance", "warnings", "relations")

SKETCHED: Mapping[str, str] = {
    "facility_id": INT,
    "storage_id": INT,
    "path": TEXT,
    "line_digest": BYTES,
    "line": BIGINT,
}
"""Columns of the table of sketches: what of a line tells whether the catalogue holds it already."""

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

MICROSECOND = timedelta(microseconds=1)

SHA256, MD5 = re.compile("[0-9a-f]{64}"), re.compile("[0-9a-f]{32}")


def _unchecked(kind: Any) -> Any:
    """Return a type without the patterns of its texts, each of which costs a call of a regular expression a line."""
    if get_origin(kind) is Annotated:
        base, *metas = get_args(kind)
        metas = [meta for meta in metas if getattr(meta, "pattern", None) is None]
        return Annotated[(base, *metas)] if metas else base
    if get_origin(kind) in (Union, UnionType):
        return Union[tuple(map(_unchecked, get_args(kind)))]  # noqa: UP007  # made from a list
    return kind


def _unchecked_field(field: msgspec.structs.FieldInfo) -> tuple[Any, ...]:
    default: Any = field.default
    if default is msgspec.NODEFAULT and field.default_factory is not msgspec.NODEFAULT:
        default = msgspec.field(default_factory=field.default_factory)
    kind = _unchecked(get_type_hints(FileRecord, include_extras=True)[field.name])
    return (field.name, kind) if default is msgspec.NODEFAULT else (field.name, kind, default)


_Draft = msgspec.defstruct(
    "_Draft",
    [_unchecked_field(field) for field in msgspec.structs.fields(FileRecord)],
    kw_only=True,
    frozen=True,
    omit_defaults=True,
    forbid_unknown_fields=True,
)
"""A `FileRecord` of which only the types were checked; `_is_sound` checks the rest, several times faster."""


class _Sketch(msgspec.Struct, frozen=True):
    """The key of a file, and whether the line says more than a row of `file` holds."""

    facility: str
    storage: str
    path: str
    replicas: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET


_FILES = msgspec.json.Decoder(FileRecord)
_DRAFTS: msgspec.json.Decoder[Any] = msgspec.json.Decoder(_Draft)
_SKETCHES = msgspec.json.Decoder(_Sketch)
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
    """Return the record of one line of NDJSON; see `decode_as`.

    Nearly all lines are good, and are known to be so without the slower checks that name what is wrong with one.
    """
    if b"\\u0000" not in line:
        try:
            draft: FileRecord = _DRAFTS.decode(line)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            pass
        else:
            if _is_sound(draft):
                return draft
    return decode_as(_FILES, line)


def _is_sound(draft: FileRecord) -> bool:
    """Tell whether a draft is surely a good record. Its names are looked up in the vocabulary later."""
    begin, end = draft.time_begin, draft.time_end
    low, high = draft.energy_min_ev, draft.energy_max_ev
    return (
        len(draft.path) <= MAX_PATH_CHARACTERS
        and PLAIN_PATH.fullmatch(draft.path) is not None
        and (draft.sha256 is None or SHA256.fullmatch(draft.sha256) is not None)
        and (draft.md5 is None or MD5.fullmatch(draft.md5) is not None)
        and (begin is None or 1 < begin.year < 9999)
        and (end is None or (begin is not None and begin <= end and end.year < 9999))
        and (draft.modified_at is None or 1 < draft.modified_at.year < 9999)
        and (draft.ra_deg is None) == (draft.dec_deg is None)
        and (low is None or high is None or low <= high)
        and not (draft.replicas and draft.sha256 is None)
    )


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


class Draft(NamedTuple):
    """A row in the making: what of it is the line's own, and what is found for many lines at once."""

    values: Row
    """Values of `LOADED` up to the fingerprint and `time_over`, names turned into numbers."""
    stratum: Stratum
    position: tuple[float, float] | None
    """Right ascension and declination, degrees."""
    line_digest: bytes
    replicas: str | None


def make_draft(line: bytes, vocabulary: Vocabulary, allowed: Collection[str] | None) -> Draft:
    """Return the row of one line, as far as it can be made without looking anything up.

    Raises
    ------
    RecordError
        The line is no record, its facility is not one of `allowed` (None: all are), or a name or attribute is not
        registered.
    """
    record = decode_line(line)
    facility_id, storage_id = find_home(record.facility, record.storage, vocabulary, allowed)
    if record.attributes:
        _check_attributes(record, vocabulary.attributes[facility_id])
    cluster_id, detector_id, channel_id = (
        None if getattr(record, kind) is None else _part(kind, record, facility_id, vocabulary) for kind in _PARTS
    )
    values = (
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
        cluster_id,
        detector_id,
        channel_id,
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
        _ENCODER.encode(record.attributes).decode() if record.attributes else "{}",
        _ENCODER.encode(record.provenance).decode() if record.provenance else "{}",
        _ENCODER.encode(record.warnings).decode() if record.warnings else "[]",
        record.description,
        _relations(record, vocabulary) if record.relations else None,
        *_digests(record),
        *fingerprint(record.storage, record.path, record.size_bytes, record.sha256),
        _over(record),
    )
    stratum = (
        facility_id,
        storage_id,
        cluster_id,
        detector_id,
        channel_id,
        record.level,
        record.kind,
        record.format,
        record.object,
        record.processing,
        record.quality,
        record.conditions,
        record.is_simulation,
    )
    return Draft(
        values=values,
        stratum=stratum,
        position=None if record.ra_deg is None or record.dec_deg is None else (record.ra_deg, record.dec_deg),
        line_digest=digest_line(line),
        replicas=_replicas(record, vocabulary) if record.replicas else None,
    )


def _over(record: FileRecord) -> datetime | None:
    """Return the first moment after a file; one of no length takes a microsecond, the shortest time there is."""
    if record.time_begin is None:
        return None
    if record.time_end is not None and record.time_end > record.time_begin:
        return record.time_end
    return record.time_begin + MICROSECOND


def digest_line(line: bytes) -> bytes:
    """Return the digest by which a line is known again."""
    return hashlib.sha256(line).digest()[:16]


def finish_rows(drafts: Iterable[tuple[int, Draft]], numbers: Mapping[Stratum, int]) -> list[Row]:
    """Return the rows of `LOADED` of drafts and the numbers of their lines, given the number of each stratum."""
    drafts = list(drafts)
    cells = find_cells([draft.position for _, draft in drafts])
    return [
        (*draft.values, cell, numbers[draft.stratum], draft.line_digest, draft.replicas, line)
        for (line, draft), cell in zip(drafts, cells, strict=True)
    ]


_PARTS = ("cluster", "detector", "channel")


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


def _part(kind: str, record: FileRecord, facility_id: int, vocabulary: Vocabulary) -> int:
    name = getattr(record, kind)
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


def make_drafts(
    lines: Iterable[Line], vocabulary: Vocabulary, allowed: Collection[str] | None
) -> tuple[list[tuple[int, Draft]], list[Rejection]]:
    """Return the draft of each good line of file records with the line's number, and a rejection of each other one."""
    drafts, rejections = [], []
    for number, line in lines:
        try:
            drafts.append((number, make_draft(line, vocabulary, allowed)))
        except RecordError as error:
            rejections.append(Rejection(line=number, field=error.field, reason=str(error)))
    return drafts, rejections


def make_sketches(lines: Iterable[Line], vocabulary: Vocabulary, allowed: Collection[str] | None) -> list[Row]:
    """Return the row of `SKETCHED` of each line that the catalogue may hold as it is."""
    sketches: list[Row] = []
    for number, line in lines:
        try:
            sketch = _SKETCHES.decode(line)
            home = find_home(sketch.facility, sketch.storage, vocabulary, allowed)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError, RecordError):
            continue
        if sketch.replicas is msgspec.UNSET and _is_text(sketch.path):
            sketches.append((*home, sketch.path, digest_line(line), number))
    return sketches


def _is_text(path: str) -> bool:
    """Tell whether Postgres can take a path, which has not been checked yet."""
    return PLAIN_PATH.fullmatch(path) is not None


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
