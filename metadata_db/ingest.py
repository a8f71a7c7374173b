"""The catalogue as it is written: batches of file records, and of removals, one transaction per facility.

A batch of any length is read as a stream. Lines are decoded and checked in blocks, and packed into the rows that COPY
takes; these are kept, and only what tells what becomes of each goes into a table of the connection's own. They are
merged when all are there: new files are added, changed ones get a new version, equal ones cost a look-up. The
facility's revision moves by one with each merge that changed something, in the same transaction.
Lines that are rejected are kept as dead letters.
"""

import asyncio
import logging
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Generic, TypeAlias, TypeVar

import msgspec
import psycopg
from sqlalchemy.ext.asyncio import AsyncConnection

from metadata_db.database import Database
from metadata_db.letters import (
    DeadLetters,
    keep,
    make_foreign_letters,
    make_letters,
    settle_catalogued,
    settle_removed,
)
from metadata_db.listing import Listing
from metadata_db.loading import LoadingTable, LoadingTables, loading
from metadata_db.making import Drafts, Made, Workshop, sketch
from metadata_db.packing import COLUMNS, KEYS
from metadata_db.rollups import add_up
from metadata_db.rows import REMOVED, Block, Line, Rejection, Words, iter_blocks, make_removal_rows
from metadata_db.strata import Strata
from metadata_db.tables import file_history
from metadata_db.vocabulary import Vocabulary, VocabularyStore

logger = logging.getLogger(__name__)

MAX_BATCHES = 4
"""Batches that one process loads at a time. Each holds a connection; more would only wait for each other's locks."""

BLOCKS_AT_HOME = 2
"""Blocks of a batch that the serving process reads itself before it hands them to others."""

BLOCKS_AHEAD = 4
"""Blocks of a batch that are read by others at a time, so that neither they nor the database wait for each other."""

PROBE_SHARE, PROBE_EVERY = 0.8, 16
"""When at least this share of a block is new, so many blocks are loaded without asking first."""

MAX_REJECTIONS = 10_000
"""Rejections told in detail; beyond that they are counted."""

OnChange: TypeAlias = Callable[[Mapping[str, int]], None]


class _Report(msgspec.Struct, kw_only=True):
    """What became of a batch, as far as all kinds of batches tell it."""

    received: int = 0
    rejected: int = 0
    rejections: list[Rejection] = msgspec.field(default_factory=list)
    rejections_omitted: int = 0
    """Rejections beyond those told in detail."""
    revisions: dict[str, int] = msgspec.field(default_factory=dict)
    """Revision of each facility named in the batch, after it."""

    def reject(self, rejections: Iterable[Rejection]) -> None:
        """Count rejected lines."""
        for rejection in rejections:
            self.rejected += 1
            if len(self.rejections) < MAX_REJECTIONS:
                self.rejections.append(rejection)
            else:
                self.rejections_omitted += 1


class IngestReport(_Report, kw_only=True):
    """What became of a batch of records; received = added + changed + unchanged + rejected."""

    added: int = 0
    changed: int = 0
    unchanged: int = 0
    reread: int = 0
    """Those of the unchanged whose values were read in another way: with another Description, source or warning."""


class RemovalReport(_Report, kw_only=True):
    """What became of a batch of removals; received = removed + kept + unknown + rejected."""

    removed: int = 0
    kept: int = 0
    """Files of which another version lives than the one that was missed."""
    unknown: int = 0
    """Files that were not in the catalogue, or no longer; also lines that name a file once more."""


R = TypeVar("R", bound=_Report)


class Ingest:
    """Writes the catalogue's files.

    Attributes
    ----------
    letters
        What could not be read or was rejected.
    listing
        What the catalogue knows of a storage, for scans that look for what changed.
    """

    def __init__(self, database: Database, vocabulary: VocabularyStore, workshop: Workshop | None = None) -> None:
        self._database = database
        self._vocabulary = vocabulary
        self._readers = _Readers(strata=Strata(), workshop=workshop)
        self._places = asyncio.Semaphore(MAX_BATCHES)
        self.letters = DeadLetters(database, vocabulary)
        self.listing = Listing(database, vocabulary)

    async def load(
        self,
        chunks: AsyncIterator[bytes],
        *,
        allowed: Collection[str] | None,
        on_change: OnChange = lambda revisions: None,
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
        kind = _Kind(columns=KEYS, reading=_Records, merge=_merge_records, keeps_rejected=True)
        await self._take(chunks, kind, report, allowed=allowed, on_change=on_change)
        report.unchanged = report.received - report.added - report.changed - report.rejected
        return report

    async def remove(
        self,
        chunks: AsyncIterator[bytes],
        *,
        allowed: Collection[str] | None,
        on_change: OnChange = lambda revisions: None,
    ) -> RemovalReport:
        """Remove the files that a stream of NDJSON names; parameters and errors are those of `load`."""
        report = RemovalReport()
        kind = _Kind(columns=REMOVED, reading=_Removals, merge=_merge_removals, keeps_rejected=False)
        await self._take(chunks, kind, report, allowed=allowed, on_change=on_change)
        report.unknown = report.received - report.removed - report.kept - report.rejected
        return report

    async def _take(
        self,
        chunks: AsyncIterator[bytes],
        kind: "_Kind[R]",
        report: R,
        *,
        allowed: Collection[str] | None,
        on_change: OnChange,
    ) -> None:
        async with self._places, self._database.session() as connection, loading(connection, kind.columns) as tables:
            reading = kind.reading(tables, self._readers, allowed)

            async def tell(found: Iterable[Read]) -> None:
                for read in found:
                    report.received += read.n_lines
                    report.reject(read.rejections)
                    if read.rejected:
                        await keep(connection, make_letters(read.rejected, read.rejections, vocabulary, allowed))

            try:
                async for block in iter_blocks(chunks):
                    vocabulary = await self._vocabulary.get()
                    await tell(await reading.take(block, vocabulary))
                vocabulary = await self._vocabulary.get()
                await tell(await reading.finish())
            finally:
                await reading.close()
            for table in tables:
                await reading.settle(table)
                name = vocabulary.facility.names[table.facility_id]
                report.revisions[name] = await self._merge(kind, table, report, connection, vocabulary)
                on_change({name: report.revisions[name]})
            for name, revision in await reading.revisions_of_others():
                report.revisions.setdefault(name, revision)

    async def _merge(
        self, kind: "_Kind[R]", table: LoadingTable, report: R, connection: AsyncConnection, vocabulary: Vocabulary
    ) -> int:
        """Merge a table, but for files of others; return the facility's revision."""
        violation = None
        while True:
            foreign = await table.take_foreign(vocabulary)
            if violation is not None and not foreign:
                raise violation
            report.reject(line.rejection for line in foreign)
            if foreign and kind.keeps_rejected:
                await keep(connection, make_foreign_letters(foreign, table.facility_id, vocabulary))
            try:
                return await kind.merge(table, vocabulary.facility.names[table.facility_id], report)
            except psycopg.errors.UniqueViolation as error:
                # Meanwhile another facility has catalogued one of the paths, on a storage that both share.
                violation = error


@dataclass(frozen=True, kw_only=True)
class _Readers:
    """What reads lines, shared by all batches of a process."""

    strata: Strata
    workshop: Workshop | None


class _Removals:
    """Reads the lines of a batch of removals into the loading tables."""

    def __init__(self, tables: LoadingTables, readers: _Readers, allowed: Collection[str] | None) -> None:
        self._tables = tables
        self._allowed = allowed

    async def take(self, block: Block, vocabulary: Vocabulary) -> "list[Read]":
        """Load the good lines of a block; return what has been loaded."""
        lines = list(block)
        rows, rejections = await asyncio.to_thread(make_removal_rows, lines, vocabulary, self._allowed)
        await self._tables.copy(rows)
        return [Read(n_lines=len(lines), rejections=rejections)]

    async def finish(self) -> "list[Read]":
        """Load what is under way: nothing."""
        return []

    async def close(self) -> None:
        """Wait for what is still under way after a failure: nothing."""

    async def settle(self, table: LoadingTable) -> None:
        """Do what is left before a table is merged: nothing."""

    async def revisions_of_others(self) -> list[tuple[str, int]]:
        """Return the revisions of facilities that were named, but of which nothing was loaded: none."""
        return []


@dataclass(frozen=True, kw_only=True, slots=True)
class Read:
    """Lines that were read: how many, and which of them are not good and why."""

    n_lines: int
    rejections: Sequence[Rejection] = ()
    rejected: Sequence[Line] = ()


class _Records(_Removals):
    """Reads the lines of a batch of records into the loading tables, but for those that the catalogue holds already.

    Attributes
    ----------
    probe_again_in
        Blocks that are loaded whole before it is tried again whether the catalogue holds the lines: sketching lines
        that are all new would be for nothing.
    """

    def __init__(self, tables: LoadingTables, readers: _Readers, allowed: Collection[str] | None) -> None:
        super().__init__(tables, readers, allowed)
        self._strata = readers.strata
        self._workshop = readers.workshop
        self._blocks = 0
        self._probe_again_in = 0
        self._has_asked = False
        self._making: deque[asyncio.Task[Made]] = deque()

    async def take(self, block: Block, vocabulary: Vocabulary) -> list[Read]:
        """Load the lines of a block that say something new, or see to it; return what has been loaded by now."""
        # Small batches are not worth the start of processes, nor the way there and back.
        workshop = self._workshop if self._blocks >= BLOCKS_AT_HOME else None
        self._blocks += 1
        found, known = [], frozenset[int]()
        if self._probe_again_in:
            self._probe_again_in -= 1
        else:
            n_lines, known = await self._find_known(block, vocabulary, workshop)
            self._probe_again_in = PROBE_EVERY if len(known) <= (1 - PROBE_SHARE) * n_lines else 0
            found.append(Read(n_lines=len(known)))
            if len(known) == n_lines:
                return found
        if workshop is None:
            return [*found, await self._load(await self._make(block, known, vocabulary))]
        self._making.append(asyncio.create_task(workshop.make(block, known, vocabulary, self._allowed)))
        while len(self._making) >= BLOCKS_AHEAD:
            found.append(await self._load(await self._making.popleft()))
        return found

    async def finish(self) -> list[Read]:
        """Load what is under way."""
        return [await self._load(await self._making.popleft()) for _ in range(len(self._making))]

    async def close(self) -> None:
        """Wait for what is still under way after a failure, a few blocks.

        It is not cancelled: the thread of a pool does not bear that while one of its processes dies.
        """
        await asyncio.gather(*self._making, return_exceptions=True)

    async def _make(self, block: Block, known: Collection[int], vocabulary: Vocabulary) -> Made:
        drafts = await asyncio.to_thread(Drafts, block, known, Words(vocabulary), self._allowed)
        while unknown := drafts.unknown(self._strata.numbers):
            await self._strata.learn(self._tables.driver, unknown)
        return await asyncio.to_thread(drafts.finish, self._strata.numbers)

    async def _load(self, made: Made) -> Read:
        await self._tables.add(made.packed)
        return Read(n_lines=made.n_lines, rejections=made.rejections, rejected=made.rejected)

    async def _find_known(
        self, block: Block, vocabulary: Vocabulary, workshop: Workshop | None
    ) -> tuple[int, frozenset[int]]:
        """Return how many lines there are, and those that are known."""
        self._has_asked = True
        if workshop is None:
            sketched = await asyncio.to_thread(sketch, block, vocabulary, self._allowed)
        else:
            sketched = await workshop.sketch(block, vocabulary, self._allowed)
        sketches = await self._tables.sketches()
        return sketched.n_lines, frozenset(await sketches.find_known(sketched.rows, sketched.facilities))

    async def settle(self, table: LoadingTable) -> None:
        """Forget rows of which a later line of the batch says what the catalogue says: the last line counts."""
        if self._has_asked:
            await (await self._tables.sketches()).overrule(table)

    async def revisions_of_others(self) -> list[tuple[str, int]]:
        """Return the revisions of facilities whose lines were all known."""
        return await (await self._tables.sketches()).revisions() if self._has_asked else []


@dataclass(frozen=True, kw_only=True, slots=True)
class _Kind(Generic[R]):
    """A kind of batches: what is loaded of their lines, and how it is merged."""

    columns: Mapping[str, str]
    reading: Callable[[LoadingTables, _Readers, Collection[str] | None], _Removals]
    merge: Callable[[LoadingTable, str, R], Awaitable[int]]
    """Merges the rows of a facility, all of them or none; returns the revision in which that can be seen."""
    keeps_rejected: bool
    """Whether rejected lines become dead letters."""


# --- records ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True, slots=True)
class _Fates:
    """How many paths of a batch have which fate."""

    new: int
    changed: int
    reread: int
    checked: int
    replicated: int


async def _merge_records(table: LoadingTable, facility: str, report: IngestReport) -> int:
    async with table.transaction():
        await table.execute("set local work_mem = '128MB'")
        revision = await table.lock_facility()
        await table.execute(_DECIDE, {"facility_id": table.facility_id})
        fates = _Fates(**await table.fetch_one(_COUNT))
        await _carry_out(table, fates, revision + 1)
        await settle_catalogued(table)
        if fates.new or fates.changed or fates.reread:
            revision += 1
            if fates.new or fates.changed:
                await add_up(table.execute, facility_id=table.facility_id, revision=revision)
            detail = {"added": fates.new, "changed": fates.changed, "reread": fates.reread}
            await table.move_on("ingest", facility, {"revision": revision, **detail})
    report.added += fates.new
    report.changed += fates.changed
    report.reread += fates.reread
    logger.info(
        "catalogued files",
        extra={"action": "ingest", "facility": facility, "added": fates.new, "changed": fates.changed},
    )
    return revision


async def _carry_out(table: LoadingTable, fates: _Fates, revision: int) -> None:
    """Do what was decided; what has to be done to no row costs no statement."""
    values = {"facility_id": table.facility_id, "revision": revision}
    if fates.changed:
        await table.execute(_SUPERSEDE, values)
    if fates.new or fates.changed:
        is_all = fates.new + fates.changed == table.pile.n_rows
        lines = None if is_all else await table.fetch_lines("is_same is not true")
        await table.copy_rows("file", revision=revision, lines=lines)
        await table.execute(_LENGTHEN, values | {"longest": table.pile.longest})
    if fates.reread:
        await table.execute(_REREAD_TABLE)
        lines = await table.fetch_lines("is_same and is_read_otherwise")
        await table.copy_rows("reread", revision=revision, lines=lines)
        await table.execute(_REREAD)
    if fates.checked:
        await table.execute(_CHECK)
    if fates.replicated:
        await table.execute(_REPLICATE)


_DECIDE = """
    create temporary table fate on commit drop as
    select incoming.line, file.id as living_id, file.digest = incoming.digest as is_same,
        file.reading is distinct from incoming.reading as is_read_otherwise,
        incoming.sha256 is not null and file.checked_at < now() - interval '1 hour' as is_check,
        incoming.replicas is not null as is_replicated
    from (
        select distinct on (storage_id, path) * from {incoming} order by storage_id, path, line desc
    ) as incoming left join lateral (
        select id, digest, reading, checked_at from file
        where storage_id = incoming.storage_id and path = incoming.path and facility_id = %(facility_id)s offset 0
    ) as file on true
"""
"""What becomes of each path, looked up once, in the order of the index. One that stands twice in a batch counts as it
stands last. The file of another facility is none of ours: the unique index refuses what would take its place."""

_COUNT = """
    select count(*) filter (where living_id is null) as new, count(*) filter (where not is_same) as changed,
        count(*) filter (where is_same and is_read_otherwise) as reread,
        count(*) filter (where is_same and is_check) as checked, count(*) filter (where is_replicated) as replicated
    from fate
"""

_PAST = ", ".join(column.name for column in file_history.c if column.name != "removed_in")

_SUPERSEDE = f"""
    with ended as (delete from file using fate where file.id = fate.living_id and not fate.is_same returning file.*)
    insert into file_history ({_PAST}, removed_in) select {_PAST}, %(revision)s from ended
"""

_LENGTHEN = """
    update facility set longest = %(longest)s where id = %(facility_id)s and longest < %(longest)s
"""

_REREAD_TABLE = f"create temporary table reread on commit drop as select {', '.join(COLUMNS)} from file with no data"

_REREAD = """
    update file set description = reread.description, provenance = reread.provenance, warnings = reread.warnings,
        reading = reread.reading, line_digest = reread.line_digest
    from reread where file.storage_id = reread.storage_id and file.path = reread.path
"""
"""In place: the values are the same, so no version of the file is another."""

_CHECK = """
    update file set checked_at = now() from fate where file.id = fate.living_id and fate.is_same and fate.is_check
"""

_REPLICATE = """
    insert into replica (sha256, storage_id, path)
    select distinct on (place->>0, place->>1) incoming.sha256, (place->>0)::int, place->>1
    from {incoming} as incoming join fate using (line), jsonb_array_elements(incoming.replicas::jsonb) as place
    where fate.is_replicated
    order by place->>0, place->>1, incoming.line desc
    on conflict (storage_id, path) do update set sha256 = excluded.sha256
"""


# --- removals ---------------------------------------------------------------------------------------------------------


async def _merge_removals(table: LoadingTable, facility: str, report: RemovalReport) -> int:
    values = {"facility_id": table.facility_id}
    async with table.transaction():
        revision = await table.lock_facility()
        await table.execute(_MISS, values)
        removed = (await table.execute(_REMOVE, values | {"revision": revision + 1})).rowcount
        kept = (await table.fetch_one("select count(*) as kept from fate where not is_missed"))["kept"]
        if kept:
            await table.execute(_FORGET_KEPT)
        await settle_removed(table)
        if removed:
            revision += 1
            await add_up(table.execute, facility_id=table.facility_id, revision=revision)
            await table.move_on("removal", facility, {"revision": revision, "removed": removed})
    report.removed += removed
    report.kept += kept
    logger.info("removed files", extra={"action": "removal", "facility": facility, "removed": removed})
    return revision


_MISS = """
    create temporary table fate on commit drop as
    select distinct on (incoming.storage_id, incoming.path)
        incoming.storage_id, incoming.path, file.id as living_id,
        incoming.size_bytes is null or (file.size_bytes = incoming.size_bytes
            and file.modified_at is not distinct from incoming.modified_at) as is_missed
    from {incoming} as incoming cross join lateral (
        select id, size_bytes, modified_at from file
        where storage_id = incoming.storage_id and path = incoming.path and facility_id = %(facility_id)s offset 0
    ) as file
    order by incoming.storage_id, incoming.path, incoming.line desc
"""

_REMOVE = f"""
    with ended as (delete from file using fate where file.id = fate.living_id and fate.is_missed returning file.*)
    insert into file_history ({_PAST}, removed_in) select {_PAST}, %(revision)s from ended
"""

_FORGET_KEPT = """
    delete from {incoming} as incoming using fate
    where incoming.storage_id = fate.storage_id and incoming.path = fate.path and not fate.is_missed
"""
"""What stays in the catalogue keeps its letters too."""
