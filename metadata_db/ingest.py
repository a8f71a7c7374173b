"""The catalogue as it is written: batches of file records in, one transaction per facility.

A batch of any length is read as a stream. Lines are decoded and checked in blocks, loaded with COPY into a table of
the connection's own, and merged when all are there: new files are added, changed ones get a new version, equal ones
cost a look-up. The facility's revision moves by one with each merge that changed something, in the same transaction.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Collection, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import msgspec
import psycopg
from psycopg import sql
from psycopg.types.json import Jsonb
from sqlalchemy.ext.asyncio import AsyncConnection

from metadata_db.database import Database
from metadata_db.rows import COLUMNS, JSON_COLUMNS, LOADED, Rejection, iter_blocks, make_rows
from metadata_db.vocabulary import Vocabulary, VocabularyStore

logger = logging.getLogger(__name__)

MAX_BATCHES = 4
"""Batches that one process loads at a time. Each holds a connection; more would only wait for each other's locks."""

MAX_REJECTIONS = 10_000
"""Rejections told in detail; beyond that they are counted."""


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
        self._places = asyncio.Semaphore(MAX_BATCHES)

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
        async with self._places, self._database.session() as connection, _loading(connection) as shares:
            async for block in iter_blocks(chunks):
                vocabulary = await self._vocabulary.get()
                rows, rejections = await asyncio.to_thread(make_rows, block, vocabulary, allowed)
                report.received += len(block)
                for rejection in rejections:
                    report.reject(rejection)
                await shares.copy(rows)
            vocabulary = await self._vocabulary.get()
            for share in shares:
                await _merge_share(share, vocabulary, report, on_change)
        report.unchanged = report.received - report.added - report.changed - report.rejected
        return report


async def _merge_share(
    share: "_Share", vocabulary: Vocabulary, report: IngestReport, on_change: Callable[[Mapping[str, int]], None]
) -> None:
    name = vocabulary.facility.names[share.facility_id]
    for rejection in await share.reject_foreign(vocabulary):
        report.reject(rejection)
    merged = await share.merge(name)
    report.added += merged.added
    report.changed += merged.changed
    report.revisions[name] = merged.revision
    on_change({name: merged.revision})
    logger.info(
        "catalogued files",
        extra={"action": "ingest", "facility": name, "added": merged.added, "changed": merged.changed},
    )


# --- what is loaded: one table of the connection's own per facility of the batch --------------------------------------


class _Shares:
    """The facilities' shares of one batch, each in a loading table that is made when its first row comes."""

    def __init__(self, driver: psycopg.AsyncConnection[Any]) -> None:
        self._driver = driver
        self._shares: dict[int, _Share] = {}

    def __iter__(self) -> Iterator["_Share"]:
        return iter([self._shares[facility_id] for facility_id in sorted(self._shares)])

    async def copy(self, rows: Sequence[tuple[Any, ...]]) -> None:
        """Load rows of any facilities, as `make_rows` made them."""
        for facility_id, group in groupby(sorted(rows, key=_facility_of), key=_facility_of):
            if facility_id not in self._shares:
                self._shares[facility_id] = _Share(self._driver, facility_id)
                await self._shares[facility_id].create()
            await self._shares[facility_id].copy(list(group))


def _facility_of(row: tuple[Any, ...]) -> int:
    facility_id: int = row[0]
    return facility_id


@asynccontextmanager
async def _loading(connection: AsyncConnection) -> AsyncIterator[_Shares]:
    driver: Any = (await connection.get_raw_connection()).driver_connection
    shares = _Shares(driver)
    try:
        yield shares
    except BaseException:
        # Whatever state COPY or a cancelled task left it in: the tables go with the connection.
        await connection.invalidate()
        raise
    for share in shares:
        await share.drop()


class _Share:
    """One facility's rows of one batch."""

    def __init__(self, driver: psycopg.AsyncConnection[Any], facility_id: int) -> None:
        self._driver = driver
        self.facility_id = facility_id
        self._table = f"incoming_{facility_id}"
        self._has_replicas = False

    async def create(self) -> None:
        """Make the loading table."""
        columns = ", ".join(f"{name} {kind}" for name, kind in LOADED.items())
        await self._execute("create temporary table {incoming} ({columns})", columns=columns)

    async def drop(self) -> None:
        """Drop the loading table."""
        await self._execute("drop table {incoming}")

    async def copy(self, rows: Sequence[tuple[Any, ...]]) -> None:
        """Load rows."""
        self._has_replicas |= any(row[_REPLICAS] is not None for row in rows)
        statement = _COPY.format(incoming=self._table)
        async with self._driver.cursor() as cursor, cursor.copy(sql.SQL(statement)) as copy:
            copy.set_types([*LOADED.values()])
            for row in rows:
                await copy.write_row(row)

    async def reject_foreign(self, vocabulary: Vocabulary) -> list[Rejection]:
        """Take out lines whose path on a shared storage is catalogued for another facility."""
        shared = [number for number, storage in vocabulary.storages.items() if storage.facility is None]
        if not shared:
            return []
        found = await self._execute(_FOREIGN, values={"facility_id": self.facility_id, "shared": shared})
        return [
            Rejection(line=line, field="path", reason=f"is catalogued for {vocabulary.facility.names[owner]} already")
            for line, owner in sorted(await found.fetchall())
        ]

    async def merge(self, name: str) -> _Merged:
        """Merge the rows into the catalogue: all of them, with the revision and the change, or nothing."""
        await self._execute("analyze {incoming} (storage_id, path, line)")
        async with self._driver.transaction():
            await self._execute("set local work_mem = '128MB'")
            # The lock puts the merges of one facility in a row, and so its revisions in order.
            locked = await self._execute(
                "select revision from facility where id = %(id)s for update", values={"id": self.facility_id}
            )
            present = (await locked.fetchone() or (0,))[0]
            values = {"facility_id": self.facility_id, "revision": present + 1}
            await self._execute(_DECIDE)
            changed = (await self._execute(_SUPERSEDE, values=values)).rowcount
            inserted = (await self._execute(_INSERT, values=values)).rowcount
            if self._has_replicas:
                await self._execute(_REPLICATE)
            if inserted == 0:
                return _Merged(added=0, changed=0, revision=present)
            await self._execute(_MOVE_ON, values=values)
            detail = {"revision": present + 1, "added": inserted - changed, "changed": changed}
            await self._execute(
                "insert into change (kind, subject, detail) values ('ingest', %(name)s, %(detail)s)",
                values={"name": name, "detail": Jsonb(detail)},
            )
        return _Merged(added=inserted - changed, changed=changed, revision=present + 1)

    async def _execute(
        self, statement: str, *, values: Mapping[str, Any] | None = None, **parts: str
    ) -> psycopg.AsyncCursor[Any]:
        return await self._driver.execute(sql.SQL(statement.format(incoming=self._table, **parts)), values)


_REPLICAS = list(LOADED).index("replicas")

_COPY = f"copy {{incoming}} ({', '.join(LOADED)}) from stdin (format binary)"

_FOREIGN = """
    delete from {incoming} as incoming using file
    where incoming.storage_id = any(%(shared)s)
      and file.storage_id = incoming.storage_id and file.path = incoming.path
      and file.removed_in is null and file.facility_id <> %(facility_id)s
    returning incoming.line, file.facility_id
"""

_DECIDE = """
    create temporary table fate on commit drop as
    select distinct on (incoming.storage_id, incoming.path)
        incoming.line, file.id as living_id, file.digest = incoming.digest as is_same
    from {incoming} as incoming left join file on file.storage_id = incoming.storage_id
        and file.path = incoming.path and file.removed_in is null
    order by incoming.storage_id, incoming.path, incoming.line desc
"""
"""What becomes of each path, looked up once, in narrow rows because they are sorted. One that stands twice in a batch
counts as it stands last."""

_SUPERSEDE = """
    update file set removed_in = %(revision)s from fate where file.id = fate.living_id and not fate.is_same
"""

_INSERT = f"""
    insert into file ({", ".join(COLUMNS)}, added_in)
    select {", ".join(f"{name}::jsonb" if name in JSON_COLUMNS else name for name in COLUMNS)}, %(revision)s
    from {{incoming}} join fate using (line) where fate.is_same is not true
"""

_MOVE_ON = """
    update facility set revision = %(revision)s,
        longest = greatest(longest, (select max(time_end - time_begin) from {incoming}))
    where id = %(facility_id)s
"""

_REPLICATE = """
    insert into replica (sha256, storage_id, path)
    select distinct on (place->>0, place->>1) incoming.sha256, (place->>0)::int, place->>1
    from {incoming} as incoming, jsonb_array_elements(incoming.replicas::jsonb) as place
    where incoming.replicas is not null
    order by place->>0, place->>1, incoming.line desc
    on conflict (storage_id, path) do update set sha256 = excluded.sha256
"""
