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
        async with self._places, self._database.session() as connection, _loading_table(connection) as driver:
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
            [name, Jsonb(detail)],
        )
    return _Merged(added=inserted - changed, changed=changed, revision=present + 1)
