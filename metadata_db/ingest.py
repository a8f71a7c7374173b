"""The catalogue as it is written: batches of file records in, one transaction per facility.

A batch of any length is read as a stream. Lines are decoded and checked in blocks, loaded with COPY into a table of
the connection's own, and merged when all are there: new files are added, changed ones get a new version, equal ones
cost a look-up. The facility's revision moves by one with each merge that changed something, in the same transaction.
"""

import asyncio
import hashlib
import logging
import re
from collections.abc import AsyncIterator, Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import msgspec
import psycopg
from psycopg import sql
from sqlalchemy.ext.asyncio import AsyncConnection

from metadata_db.canonical import fingerprint
from metadata_db.database import Database
from metadata_db.errors import BadInputError
from metadata_db.records import FIELD_EXPECTATIONS, AttributeType, FileRecord
from metadata_db.vocabulary import Vocabulary, VocabularyStore

logger = logging.getLogger(__name__)

MAX_LINE_BYTES = 1_000_000
"""Longest line; a record is some 600 bytes, one with hundreds of attributes some 50,000."""

BLOCK_LINES = 1000
"""Lines decoded in one go off the event loop, some ten milliseconds' work."""

MAX_REJECTIONS = 10_000
"""Rejections told in detail; beyond that they are counted."""

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
    "digest": BYTES,
    "fingerprint_high": BIGINT,
    "fingerprint_low": BIGINT,
}
"""Columns of a loaded row and their types, in the order of COPY; JSON travels as text."""

LOADED: Mapping[str, str] = {**COLUMNS, "replicas": TEXT, "line": BIGINT}
"""Columns of the loading table: those of a file, its replicas as [[number of the storage, path], …], the line."""

JSON_COLUMNS = ("attributes", "provenance", "warnings")


class Rejection(msgspec.Struct, frozen=True, kw_only=True):
    """One line that was not accepted."""

    line: int
    """Number of the line, from 1."""
    field: str
    reason: str


class IngestReport(msgspec.Struct, kw_only=True):
    """What became of a batch; received = added + changed + unchanged + rejected."""

    received: int = 0
    added: int = 0
    changed: int = 0
    unchanged: int = 0
    rejected: int = 0
    rejections: list[Rejection] = msgspec.field(default_factory=list)
    rejections_omitted: int = 0
    """Rejections beyond those told in detail."""
    revisions: dict[str, int] = msgspec.field(default_factory=dict)
    """Revision of each facility named in the batch, after it."""

    def reject(self, rejection: Rejection) -> None:
        """Count one rejected line."""
        self.rejected += 1
        if len(self.rejections) < MAX_REJECTIONS:
            self.rejections.append(rejection)
        else:
            self.rejections_omitted += 1


class RecordError(ValueError):
    """A record that cannot be catalogued: the field at fault and why."""

    def __init__(self, field: str, reason: str) -> None:
        self.field = field
        super().__init__(reason)


# --- lines -> rows ----------------------------------------------------------------------------------------------------

_DECODER = msgspec.json.Decoder(FileRecord)
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
    """Return the record of one line of NDJSON.

    Raises
    ------
    RecordError
        Naming the field and what is wrong with it.
    """
    if b"\\u0000" in line:
        raise RecordError("", "holds a NUL character, which no value may have")
    try:
        return _DECODER.decode(line)
    except msgspec.ValidationError as error:
        raise _record_error(str(error)) from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise RecordError("", f"is not a JSON object: {error}") from None


def _record_error(message: str) -> RecordError:
    """Read the field out of a message of msgspec's, and add what was expected where the type does not say it."""
    at = _AT.search(message)
    reason = message[: at.start()] if at else message
    for pattern in (_UNKNOWN_FIELD, _MISSING_FIELD):
        if found := pattern.search(reason):
            return RecordError(found[1], reason)
    field = at[1] if at else next((name for name in FileRecord.__struct_fields__ if reason.startswith(name)), "")
    expected = FIELD_EXPECTATIONS.get(field)
    return RecordError(field, f"{reason}; expected {expected}" if at and expected else reason)


def make_row(record: FileRecord, vocabulary: Vocabulary, allowed: Collection[str] | None) -> tuple[Any, ...]:
    """Return the values of a record in the order of `LOADED` without the line, names turned into numbers.

    Raises
    ------
    RecordError
        The facility is not one of `allowed` (None: all are), or a name or attribute is not registered.
    """
    facility_id = _find(vocabulary.facility.ids, record.facility, "facility")[0]
    if allowed is not None and record.facility not in allowed:
        raise RecordError("facility", f"this token may not write for {record.facility}")
    storage_id = _find(vocabulary.storage.ids, record.storage, "storage")[0]
    owner = vocabulary.storages[storage_id].facility
    if owner is not None and owner != record.facility:
        raise RecordError("storage", f"{record.storage} holds files of {owner} only")
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
        hashlib.blake2b(_ENCODER.encode(record), digest_size=16).digest(),
        high,
        low,
        _replicas(record, vocabulary) if record.replicas else None,
    )


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


def make_rows(
    lines: Iterable[tuple[int, bytes]], vocabulary: Vocabulary, allowed: Collection[str] | None
) -> tuple[list[tuple[Any, ...]], list[Rejection]]:
    """Return the row of `LOADED` of each good line, and a rejection of each other one."""
    rows, rejections = [], []
    for number, line in lines:
        try:
            rows.append((*make_row(decode_line(line), vocabulary, allowed), number))
        except RecordError as error:
            rejections.append(Rejection(line=number, field=error.field, reason=str(error)))
    return rows, rejections


async def iter_blocks(chunks: AsyncIterator[bytes]) -> AsyncIterator[list[tuple[int, bytes]]]:
    """Cut a stream of bytes into lines with their numbers, in blocks; empty lines are passed over.

    Raises
    ------
    BadInputError
        A line is longer than `MAX_LINE_BYTES`: where the next one begins is no longer worth reading for.
    """
    block: list[tuple[int, bytes]] = []
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


# --- rows -> catalogue ------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True, slots=True)
class _Merged:
    added: int
    changed: int
    revision: int


class Ingest:
    """Writes file records into the catalogue."""

    def __init__(self, database: Database, vocabulary: VocabularyStore) -> None:
        self._database = database
        self._vocabulary = vocabulary

    async def load(
        self,
        chunks: AsyncIterator[bytes],
        *,
        allowed: Collection[str] | None,
        on_change: Callable[[Mapping[str, int]], None] = lambda revisions: None,
    ) -> IngestReport:
        """Catalogue a stream of NDJSON.

        Parameters
        ----------
        chunks
            The bytes as they arrive, unpacked, cut anywhere.
        allowed
            Facilities the sender may write for; None means all.
        on_change
            Called after the commit of each facility with its new revision, before anybody is answered.

        Raises
        ------
        BadInputError
            The stream cannot be cut into lines. Nothing of it has been catalogued.
        UnavailableError
            The database gave up. Facilities merged so far are whole; sending the batch again is safe.
        """
        report = IngestReport()
        async with self._database.session() as connection, _loading_table(connection) as driver:
            async for block in iter_blocks(chunks):
                vocabulary = await self._vocabulary.get()
                rows, rejections = await asyncio.to_thread(make_rows, block, vocabulary, allowed)
                report.received += len(block)
                for rejection in rejections:
                    report.reject(rejection)
                if rows:
                    await _copy(driver, rows)
            await self._merge_all(driver, report, on_change)
        return report

    async def _merge_all(
        self, driver: psycopg.AsyncConnection[Any], report: IngestReport, on_change: Callable[[Mapping[str, int]], None]
    ) -> None:
        await driver.execute("analyze incoming")
        vocabulary = await self._vocabulary.get()
        found = await (await driver.execute("select distinct facility_id from incoming")).fetchall()
        for facility_id in sorted(row[0] for row in found):
            name = vocabulary.facility.names[facility_id]
            for rejection in await _reject_foreign(driver, facility_id, vocabulary):
                report.reject(rejection)
            merged = await _merge(driver, facility_id, name)
            report.added += merged.added
            report.changed += merged.changed
            report.revisions[name] = merged.revision
            on_change({name: merged.revision})
            logger.info(
                "catalogued files",
                extra={"action": "ingest", "facility": name, "added": merged.added, "changed": merged.changed},
            )
        report.unchanged = report.received - report.added - report.changed - report.rejected


@asynccontextmanager
async def _loading_table(connection: AsyncConnection) -> AsyncIterator[psycopg.AsyncConnection[Any]]:
    """Give the driver's connection with an empty table `incoming` of its own."""
    driver: Any = (await connection.get_raw_connection()).driver_connection
    columns = ", ".join(f"{name} {kind}" for name, kind in LOADED.items())
    await driver.execute(f"create temporary table incoming ({columns})")
    try:
        yield driver
    except BaseException:
        # Whatever state COPY or a cancelled task left it in: the table goes with the connection.
        await connection.invalidate()
        raise
    await driver.execute("drop table incoming")


async def _copy(driver: psycopg.AsyncConnection[Any], rows: Sequence[tuple[Any, ...]]) -> None:
    async with driver.cursor() as cursor, cursor.copy(_COPY) as copy:
        copy.set_types([*LOADED.values()])
        for row in rows:
            await copy.write_row(row)


_COPY = sql.SQL("copy incoming ({}) from stdin (format binary)").format(sql.SQL(", ").join(map(sql.Identifier, LOADED)))

_LATEST = """
    select distinct on (storage_id, path) * from incoming
    where facility_id = %(facility_id)s order by storage_id, path, line desc
"""
"""A path that stands twice in a batch counts once, as it stands last."""

_FOREIGN = """
    delete from incoming using file
    where incoming.facility_id = %(facility_id)s and incoming.storage_id = any(%(shared)s)
      and file.storage_id = incoming.storage_id and file.path = incoming.path
      and file.removed_in is null and file.facility_id <> incoming.facility_id
    returning incoming.line, incoming.path, file.facility_id
"""

_SUPERSEDE = f"""
    update file set removed_in = %(revision)s from ({_LATEST}) as latest
    where file.storage_id = latest.storage_id and file.path = latest.path
      and file.removed_in is null and file.digest <> latest.digest
"""

_INSERT = """
    insert into file ({columns}, added_in)
    select {values}, %(revision)s from ({latest}) as latest
    where not exists (
        select from file where file.storage_id = latest.storage_id and file.path = latest.path
           and file.removed_in is null
    )
""".format(
    columns=", ".join(COLUMNS),
    values=", ".join(f"{name}::jsonb" if name in JSON_COLUMNS else name for name in COLUMNS),
    latest=_LATEST,
)

_REPLICATE = """
    insert into replica (sha256, storage_id, path)
    select distinct on (place->>0, place->>1) incoming.sha256, (place->>0)::int, place->>1
    from incoming, jsonb_array_elements(incoming.replicas::jsonb) as place
    where incoming.facility_id = %(facility_id)s and incoming.replicas is not null
    order by place->>0, place->>1, incoming.line desc
    on conflict (storage_id, path) do update set sha256 = excluded.sha256
"""


async def _reject_foreign(
    driver: psycopg.AsyncConnection[Any], facility_id: int, vocabulary: Vocabulary
) -> Iterator[Rejection]:
    """Take out lines whose path on a shared storage is catalogued for another facility."""
    shared = [number for number, storage in vocabulary.storages.items() if storage.facility is None]
    rows = await (await driver.execute(_FOREIGN, {"facility_id": facility_id, "shared": shared})).fetchall()
    return (
        Rejection(line=line, field="path", reason=f"is catalogued for {vocabulary.facility.names[owner]} already")
        for line, _, owner in sorted(rows)
    )


async def _merge(driver: psycopg.AsyncConnection[Any], facility_id: int, name: str) -> _Merged:
    """Merge the loaded rows of one facility: all of them, with the revision and the change, or nothing."""
    async with driver.transaction():
        await driver.execute("set local work_mem = '128MB'")
        # The lock puts the merges of one facility in a row, and so its revisions in order.
        locked = await driver.execute("select revision from facility where id = %s for update", [facility_id])
        present = (await locked.fetchone() or (0,))[0]
        values = {"facility_id": facility_id, "revision": present + 1}
        changed = (await driver.execute(_SUPERSEDE, values)).rowcount
        inserted = (await driver.execute(_INSERT, values)).rowcount
        await driver.execute(_REPLICATE, values)
        if inserted == 0:
            return _Merged(added=0, changed=0, revision=present)
        await driver.execute("update facility set revision = %(revision)s where id = %(facility_id)s", values)
        detail = {"revision": present + 1, "added": inserted - changed, "changed": changed}
        await driver.execute(
            "insert into change (kind, subject, detail) values ('ingest', %s, %s)",
            [name, psycopg.types.json.Jsonb(detail)],
        )
    return _Merged(added=inserted - changed, changed=changed, revision=present + 1)
