"""The catalogue as it is written: batches of file records, and of removals, one transaction per facility.

A batch of any length is read as a stream. Lines are decoded and checked in blocks, loaded with COPY into a table of
the connection's own, and merged when all are there: new files are added, changed ones get a new version, equal ones
cost a look-up. The facility's revision moves by one with each merge that changed something, in the same transaction.
Lines that are rejected are kept as dead letters.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Generic, TypeAlias, TypeVar

import msgspec

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
from metadata_db.rollups import add_up
from metadata_db.rows import (
    COLUMNS,
    JSON_COLUMNS,
    LOADED,
    REMOVED,
    Line,
    Rejection,
    finish_rows,
    iter_blocks,
    make_drafts,
    make_removal_rows,
    make_sketches,
)
from metadata_db.strata import Strata
from metadata_db.tables import file_history
from metadata_db.vocabulary import Vocabulary, VocabularyStore

logger = logging.getLogger(__name__)

MAX_BATCHES = 4
"""Batches that one process loads at a time. Each holds a connection; more would only wait for each other's locks."""

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

    def __init__(self, database: Database, vocabulary: VocabularyStore) -> None:
        self._database = database
        self._vocabulary = vocabulary
        self._strata = Strata()
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
        kind = _Kind(columns=LOADED, reading=_Records, merge=_merge_records, keeps_rejected=True)
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
            reading = kind.reading(tables, self._strata, allowed)
            async for block in iter_blocks(chunks):
                vocabulary = await self._vocabulary.get()
                rejections = await reading.take(block, vocabulary)
                report.received += len(block)
                report.reject(rejections)
                if rejections and kind.keeps_rejected:
                    await keep(connection, make_letters(block, rejections, vocabulary, allowed))
            vocabulary = await self._vocabulary.get()
            for table in tables:
                await table.analyze()
                await reading.settle(table)
                foreign = await table.take_foreign(vocabulary)
                report.reject(line.rejection for line in foreign)
                if foreign and kind.keeps_rejected:
                    await keep(connection, make_foreign_letters(foreign, table.facility_id, vocabulary))
                name = vocabulary.facility.names[table.facility_id]
                report.revisions[name] = await kind.merge(table, name, report)
                on_change({name: report.revisions[name]})
            for name, revision in await reading.revisions_of_others():
                report.revisions.setdefault(name, revision)


class _Removals:
    """Reads the lines of a batch of removals into the loading tables."""

    def __init__(self, tables: LoadingTables, _strata: Strata, allowed: Collection[str] | None) -> None:
        self._tables = tables
        self._allowed = allowed

    async def take(self, block: Sequence[Line], vocabulary: Vocabulary) -> Sequence[Rejection]:
        """Load the good lines of a block; return why the others are not."""
        rows, rejections = await asyncio.to_thread(make_removal_rows, block, vocabulary, self._allowed)
        await self._tables.copy(rows)
        return rejections

    async def settle(self, table: LoadingTable) -> None:
        """Do what is left before a table is merged: nothing."""

    async def revisions_of_others(self) -> list[tuple[str, int]]:
        """Return the revisions of facilities that were named, but of which nothing was loaded: none."""
        return []


class _Records(_Removals):
    """Reads the lines of a batch of records into the loading tables, but for those that the catalogue holds already.

    Attributes
    ----------
    probe_again_in
        Blocks that are loaded whole before it is tried again whether the catalogue holds the lines: sketching lines
        that are all new would be for nothing.
    """

    def __init__(self, tables: LoadingTables, strata: Strata, allowed: Collection[str] | None) -> None:
        super().__init__(tables, strata, allowed)
        self._strata = strata
        self._probe_again_in = 0
        self._has_asked = False

    async def take(self, block: Sequence[Line], vocabulary: Vocabulary) -> Sequence[Rejection]:
        """Load the lines of a block that say something new; return why some are not good."""
        if self._probe_again_in:
            self._probe_again_in -= 1
        else:
            kept = len(block)
            block = await self._without_known(block, vocabulary)
            self._probe_again_in = 0 if len(block) < PROBE_SHARE * kept else PROBE_EVERY
        if not block:
            return []
        drafts, rejections = await asyncio.to_thread(make_drafts, block, vocabulary, self._allowed)
        if unknown := {draft.stratum for _, draft in drafts} - self._strata.numbers.keys():
            await self._strata.learn(self._tables.driver, unknown)
        await self._tables.copy(await asyncio.to_thread(finish_rows, drafts, self._strata.numbers))
        return rejections

    async def _without_known(self, block: Sequence[Line], vocabulary: Vocabulary) -> Sequence[Line]:
        rows = await asyncio.to_thread(make_sketches, block, vocabulary, self._allowed)
        self._has_asked = True
        known = await (await self._tables.sketches()).find_known(rows)
        return [line for line in block if line[0] not in known] if known else block

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
    reading: Callable[[LoadingTables, Strata, Collection[str] | None], _Removals]
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
        await table.execute(_DECIDE)
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
        await table.execute(_INSERT, values)
        await table.execute(_LENGTHEN, values)
    if fates.reread:
        await table.execute(_REREAD)
    if fates.checked:
        await table.execute(_CHECK)
    if fates.replicated:
        await table.execute(_REPLICATE)


_DECIDE = """
    create temporary table fate on commit drop as
    select distinct on (incoming.storage_id, incoming.path)
        incoming.line, file.id as living_id, file.digest = incoming.digest as is_same,
        file.reading is distinct from incoming.reading as is_read_otherwise,
        incoming.sha256 is not null and file.checked_at < now() - interval '1 hour' as is_check,
        incoming.replicas is not null as is_replicated
    from {incoming} as incoming left join file on file.storage_id = incoming.storage_id
        and file.path = incoming.path
    order by incoming.storage_id, incoming.path, incoming.line desc
"""
"""What becomes of each path, looked up once, in narrow rows because they are sorted. One that stands twice in a batch
counts as it stands last."""

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

_INSERT = f"""
    insert into file ({", ".join(COLUMNS)}, added_in)
    select {", ".join(f"{name}::jsonb" if name in JSON_COLUMNS else name for name in COLUMNS)}, %(revision)s
    from {{incoming}} join fate using (line) where fate.is_same is not true
"""

_LENGTHEN = """
    update facility set longest = found.longest
    from (
        select max(time_over - time_begin) as longest from {incoming}
        where time_over - time_begin <= interval '1 day'
    ) as found
    where facility.id = %(facility_id)s and facility.longest < found.longest
"""

_REREAD = """
    update file set description = incoming.description, provenance = incoming.provenance::jsonb,
        warnings = incoming.warnings::jsonb, reading = incoming.reading, line_digest = incoming.line_digest
    from {incoming} as incoming join fate using (line)
    where file.id = fate.living_id and fate.is_same and fate.is_read_otherwise
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
    from {incoming} as incoming join file on file.storage_id = incoming.storage_id
        and file.path = incoming.path and file.facility_id = %(facility_id)s
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
