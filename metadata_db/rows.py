"""A batch on its way in: a stream of bytes → lines → checked records, and a rejection of each bad line.

Two kinds of batches come: records of files, and removals of them.

Everything here is values in, values out; nothing touches the database.
"""

import hashlib
import re
from collections.abc import AsyncIterator, Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import timedelta
from operator import attrgetter
from types import UnionType
from typing import Annotated, Any, NamedTuple, TypeAlias, TypeVar, Union, get_args, get_origin, get_type_hints

import msgspec

from metadata_db.errors import BadInputError
from metadata_db.names import Names, Vocabulary
from metadata_db.query import parse_globs
from metadata_db.records import (
    FIELD_EXPECTATIONS,
    MAX_PATH_CHARACTERS,
    PLAIN_PATH,
    Attribute,
    AttributeType,
    FileRecord,
    Removal,
)
from metadata_db.strata import MAX_REMEMBERED, STRATUM_COLUMNS, Stratum

MAX_LINE_BYTES = 1_000_000
"""Longest line; a record is some 600 bytes, one with hundreds of attributes some 50,000."""

BLOCK_LINES = 1000
"""Lines decoded in one go off the event loop, some ten milliseconds' work."""

MAX_SHORT = timedelta(days=1)
"""Files up to this length are found by looking back from a moment; longer ones have an index of their own."""

TEXT, BIGINT, SMALLINT, TIME = "text", "int8", "int2", "timestamptz"

REMOVED: Mapping[str, str] = {
    "facility_id": SMALLINT,
    "storage_id": SMALLINT,
    "path": TEXT,
    "size_bytes": BIGINT,
    "modified_at": TIME,
    "line": BIGINT,
}
"""Columns of the loading table of removals, of the types that they have in that of records: both tables have one name,
and statements that a connection has prepared for one of them serve the other."""

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
    gc=False,  # holds no cycles, and the collector need not look at each of a million
)
"""A `FileRecord` of which only the types were checked; `_is_sound` checks the rest, several times faster."""


class _Sketch(msgspec.Struct, frozen=True, gc=False):
    """The key of a file, and whether the line says more than a row of `file` holds."""

    facility: str
    storage: str
    path: str
    replicas: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET


_FILES = msgspec.json.Decoder(FileRecord)
_DRAFTS: msgspec.json.Decoder[Any] = msgspec.json.Decoder(_Draft)
_SKETCHES = msgspec.json.Decoder(_Sketch)
_REMOVALS = msgspec.json.Decoder(Removal)
ENCODER = msgspec.json.Encoder(order="deterministic")
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


class Alike:
    """Files that are alike in all that they can be counted by, as their lines say it.

    Attributes
    ----------
    declared
        Attributes of their facility, by name.
    packed
        How their rows begin; empty until the number of the stratum is known.
    """

    __slots__ = ("declared", "facility_id", "packed", "storage_id", "stratum")

    def __init__(self, stratum: Stratum, declared: Mapping[str, Attribute]) -> None:
        self.stratum = stratum
        self.facility_id: int = stratum[0]
        self.storage_id: int = stratum[1]
        self.declared = declared
        self.packed = b""


class Draft(NamedTuple):
    """A good line, and what its words mean."""

    number: int
    line: bytes
    record: FileRecord
    alike: Alike
    replicas: str | None
    """Its replicas as [[number of the storage, path], …] in JSON."""

    @property
    def position(self) -> tuple[float, float] | None:
        """Right ascension and declination, degrees."""
        record = self.record
        return None if record.ra_deg is None or record.dec_deg is None else (record.ra_deg, record.dec_deg)


class Words:
    """What the words of records mean in a vocabulary, looked up once for all records with the same words."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        self.vocabulary = vocabulary
        self._known: dict[tuple[Any, ...], Alike] = {}

    def find(self, record: FileRecord) -> Alike:
        """Return what a record is alike to.

        Raises
        ------
        RecordError
            A name is not registered.
        """
        words = _WORDS(record)
        found = self._known.get(words)
        if found is None:
            if len(self._known) >= MAX_REMEMBERED:
                self._known.clear()
            found = self._known[words] = self._look_up(record)
        return found

    def _look_up(self, record: FileRecord) -> Alike:
        facility_id, storage_id = find_home(record.facility, record.storage, self.vocabulary, None)
        parts = [
            None if name is None else _part(kind, name, record.facility, facility_id, getattr(self.vocabulary, kind))
            for kind, name in (
                ("cluster", record.cluster),
                ("detector", record.detector),
                ("channel", record.channel),
            )
        ]
        stratum = (facility_id, storage_id, *parts, *_WORDS(record)[5:])
        return Alike(stratum, self.vocabulary.attributes[facility_id])


_WORDS = attrgetter(*(name.removesuffix("_id") for name in STRATUM_COLUMNS))


def make_draft(number: int, line: bytes, words: Words, allowed: Collection[str] | None) -> Draft:
    """Return what one line says.

    Raises
    ------
    RecordError
        The line is no record, its facility is not one of `allowed` (None: all are), or a name or attribute is not
        registered.
    """
    record = decode_line(line)
    if allowed is not None:
        find_home(record.facility, record.storage, words.vocabulary, allowed)
    alike = words.find(record)
    if record.attributes:
        _check_attributes(record, alike.declared)
    if record.relations:
        _check_relations(record, words.vocabulary)
    replicas = _replicas(record, words.vocabulary) if record.replicas else None
    return Draft(number, line, record, alike, replicas)


def digest_line(line: bytes) -> bytes:
    """Return the digest by which a line is known again."""
    return hashlib.sha256(line).digest()[:16]


def find_home(facility: str, storage: str, vocabulary: Vocabulary, allowed: Collection[str] | None) -> tuple[int, int]:
    """Return the numbers of a facility and of the storage that its file is on.

    Raises
    ------
    RecordError
        One of them is not registered, the facility is not one of `allowed`, or the storage is another facility's.
    """
    if allowed is not None and facility not in allowed and facility in vocabulary.facility.ids:
        raise RecordError("facility", f"this token may not write for {facility}")
    if (home := vocabulary.homes.get((facility, storage))) is not None:
        return home
    facility_id = _find(vocabulary.facility.ids, facility, "facility")[0]
    storage_id = _find(vocabulary.storage.ids, storage, "storage")[0]
    owner = vocabulary.storages[storage_id].facility
    if owner is not None and owner != facility:
        raise RecordError("storage", f"{storage} holds files of {owner} only")
    return facility_id, storage_id


def _check_relations(record: FileRecord, vocabulary: Vocabulary) -> None:
    for relation in record.relations:
        if relation.storage is not None:
            _find(vocabulary.storage.ids, relation.storage, "relations")
        if relation.path is not None:
            try:
                parse_globs("relations", [relation.path])
            except BadInputError as error:
                raise RecordError("relations", f"path: got {error.value}, expected {error.expected}") from None


def _replicas(record: FileRecord, vocabulary: Vocabulary) -> str:
    places = [(_find(vocabulary.storage.ids, item.storage, "replicas")[0], item.path) for item in record.replicas]
    return ENCODER.encode(places).decode()


def _find(ids: Mapping[str, tuple[int, ...]], name: str, field: str) -> tuple[int, ...]:
    try:
        return ids[name]
    except KeyError:
        raise RecordError(field, f"{name!r} is not registered") from None


def _part(kind: str, name: str, facility: str, facility_id: int, names: Names) -> int:
    number = names.in_facility.get((facility_id, name))
    if number is None:
        raise RecordError(kind, f"{name!r} is not registered for {facility}")
    return number


def _check_attributes(record: FileRecord, declared: Mapping[str, Any]) -> None:
    for name, value in record.attributes.items():
        attribute = declared.get(name)
        if attribute is None:
            raise RecordError(f"attributes.{name}", f"is not declared by {record.facility}")
        # By the very type: bool is an int to Python, not to physicists.
        if type(value) not in _ATTRIBUTE_TYPES[attribute.type]:
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
    lines: Iterable[Line], words: Words, allowed: Collection[str] | None
) -> tuple[list[Draft], list[Rejection]]:
    """Return the draft of each good line of file records, and a rejection of each other one."""
    drafts, rejections = [], []
    for number, line in lines:
        try:
            drafts.append(make_draft(number, line, words, allowed))
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


@dataclass(frozen=True, slots=True)
class Block:
    """Whole lines of a stream, as they came; iterating gives them with their numbers, but for empty ones."""

    first: int
    """Number of the first line, from 1."""
    data: bytes

    def __iter__(self) -> Iterator[Line]:
        return ((number, line) for number, line in enumerate(self.data.split(b"\n"), self.first) if line.strip())


async def iter_blocks(chunks: AsyncIterator[bytes]) -> AsyncIterator[Block]:
    """Cut a stream of bytes into blocks of whole lines, `BLOCK_LINES` of them or a little more.

    Raises
    ------
    BadInputError
        A line is longer than `MAX_LINE_BYTES`: where the next one begins is no longer worth reading for.
    """
    pieces: list[bytes] = []
    rest, first, n_lines = b"", 1, 0
    async for chunk in chunks:
        whole, newline, rest = (rest + chunk).rpartition(b"\n")
        if len(rest) > MAX_LINE_BYTES or (len(whole) > MAX_LINE_BYTES and _is_any_too_long(whole)):
            where = f"line {first + n_lines} or later"
            raise BadInputError(where, "a longer line", f"at most {MAX_LINE_BYTES} bytes")
        if newline:
            pieces.append(whole)
            n_lines += whole.count(b"\n") + 1
        if n_lines >= BLOCK_LINES:
            yield Block(first, b"\n".join(pieces))
            pieces, first, n_lines = [], first + n_lines, 0
    if (data := b"\n".join((*pieces, rest))).strip():
        yield Block(first, data)


def _is_any_too_long(lines: bytes) -> bool:
    return any(len(line) > MAX_LINE_BYTES for line in lines.split(b"\n"))
