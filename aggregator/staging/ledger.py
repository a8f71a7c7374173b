"""The durable record of exports: what was asked for, how far it is, which files it holds and which it could not have.

Every method is one transaction, and may be repeated: transitions name the state they start from (and the database
refuses all others), files are inserted once, and counters are counted, never added to.
"""

from collections.abc import AsyncGenerator, AsyncIterator, Iterable, Mapping, Sequence
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any

from sqlalchemy import ColumnElement, RowMapping, Select, delete, func, or_, select, text, tuple_, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncConnection

from aggregator.staging.buffer import StoredObject
from aggregator.staging.manifest import Entry, Missing
from aggregator.staging.queue import STAGE_EXPORT, TaskQueue
from metadata_db.canonical import export_id as make_export_id
from metadata_db.database import Database
from metadata_db.errors import NotFoundError
from metadata_db.tables import export, export_file, facility, storage, stored_object
from metadata_db.tables import file_version as file

PAGE_ROWS = 1000
"""Rows taken from a server-side cursor at a time."""


class ExportState(StrEnum):
    """Where an export is in its life; the database's table of transitions says what may follow what."""

    INITIALIZED = "INITIALIZED"
    WRITING = "WRITING"
    COMPLETED = "COMPLETED"
    EXPIRED = "EXPIRED"
    DELETED = "DELETED"
    ERROR = "ERROR"
    CANCELLED = "CANCELLED"


_UNDER_WAY = (ExportState.INITIALIZED, ExportState.WRITING)
_ENDED = (ExportState.ERROR, ExportState.CANCELLED, ExportState.EXPIRED, ExportState.DELETED)
_WITHOUT_FILES = (ExportState.EXPIRED, ExportState.DELETED)


@dataclass(frozen=True, kw_only=True, slots=True)
class Export:
    """One export as the ledger knows it."""

    id: str
    query_id: str
    revisions: dict[str, int]
    """Facility → revision: with the question, this says for ever which files belong to the export."""
    answer_checksum: str
    state: ExportState
    files_total: int
    bytes_total: int
    files_done: int
    bytes_done: int
    files_failed: int
    manifest_sha256: str | None
    """Names the content of the bundle; set when the export is complete."""
    error: str | None
    created_at: datetime
    started_at: datetime | None
    completed_at: datetime | None
    last_used_at: datetime | None

    @property
    def is_under_way(self) -> bool:
        """Whether it changes by itself."""
        return self.state in _UNDER_WAY

    @property
    def is_alive(self) -> bool:
        """Whether it is under way or complete, so that asking for it again starts nothing."""
        return self.state not in _ENDED


@dataclass(frozen=True, kw_only=True, slots=True)
class StagedFile:
    """What became of one file of an export: a stored content, or the reason why there is none."""

    file_id: int
    path: str
    """Path in the export: storage, ``/``, path in the storage."""
    size_bytes: int
    stored: StoredObject | None
    reason: str | None


@dataclass(frozen=True, kw_only=True, slots=True)
class ExportFile:
    """One file of an export that staging has dealt with."""

    file_id: int
    path: str
    size_bytes: int
    sha256: str | None
    reason: str | None


class ExportLedger:
    """Reads and writes the record of exports."""

    def __init__(self, database: Database, queue: TaskQueue) -> None:
        self._database = database
        self._queue = queue

    # --- asking --------------------------------------------------------------------------------------------------

    async def request(
        self,
        query_id: str,
        *,
        revisions: Mapping[str, int],
        answer_checksum: str,
        files_total: int,
        bytes_total: int,
    ) -> Export:
        """Return the export of an answer, begun if it is new, begun again if it had ended without files to give.

        However many ask at once, there is one export and one job.

        Raises
        ------
        NotFoundError
            The query was never registered.
        """
        export_id = make_export_id(query_id, answer_checksum)
        values = {
            "id": export_id,
            "query_id": query_id,
            "revisions": dict(revisions),
            "answer_checksum": answer_checksum,
            "files_total": files_total,
            "bytes_total": bytes_total,
        }
        async with self._database.transaction() as connection:
            found = await _find(connection, _is(export_id))
            if found is not None and found.state not in _ENDED:
                return found
            if await _insert_export(connection, values) or await _begin_again(connection, export_id):
                await self._defer(connection, export_id)
            return await _get(connection, export_id)

    async def cancel(self, export_id: str) -> Export:
        """End an export that is under way; one that has ended stays as it is.

        Raises
        ------
        NotFoundError
            There is no such export.
        """
        async with self._database.transaction() as connection:
            await connection.execute(
                update(export).where(_is(export_id), export.c.state.in_(_UNDER_WAY)).values(state=ExportState.CANCELLED)
            )
            found = await _get(connection, export_id)
            if found.state == ExportState.CANCELLED:
                await self._queue.drop(export_id, connection=connection)
        return found

    async def find(self, export_id: str) -> Export | None:
        """Return an export."""
        async with self._database.transaction() as connection:
            return await _find(connection, _is(export_id))

    async def find_for_answer(self, query_id: str, answer_checksum: str) -> Export | None:
        """Return the export of an answer, if it was ever asked for."""
        return await self.find(make_export_id(query_id, answer_checksum))

    async def touch(self, export_id: str) -> None:
        """Note that an export was used, once a minute at most: expiry counts in hours."""
        moment = func.now() - text("interval '1 minute'")
        stale = or_(export.c.last_used_at.is_(None), export.c.last_used_at < moment)
        async with self._database.transaction() as connection:
            await connection.execute(update(export).where(_is(export_id), stale).values(last_used_at=func.now()))

    # --- the life of an export under way -------------------------------------------------------------------------

    async def begin(self, export_id: str) -> Export | None:
        """Return an export that is to be staged now, in WRITING; None when it is not under way (any more).

        `started_at` is set when an export begins and stays while it is resumed: it tells this life from a later one.
        """
        async with self._database.transaction() as connection:
            await connection.execute(
                update(export)
                .where(_is(export_id), export.c.state == ExportState.INITIALIZED)
                .values(state=ExportState.WRITING, started_at=func.now())
            )
            return await _find(connection, _is(export_id), export.c.state == ExportState.WRITING)

    async def is_alive(self, begun: Export) -> bool:
        """Tell whether `begun` is still being written, in the same life."""
        async with self._database.transaction() as connection:
            return await _find(connection, *_same_life(begun)) is not None

    async def record(self, begun: Export, staged: Sequence[StagedFile]) -> Export | None:
        """Keep what became of some files, and return the export with its counters; None when it is not alive.

        A file that was recorded before stays as it was, so that a batch may come twice.
        """
        stored = {one.stored.sha256: one.stored for one in staged if one.stored is not None}
        async with self._database.transaction() as connection:
            if await _find(connection, *_same_life(begun), lock=True) is None:
                return None
            # In one order everywhere, or two workers that store the same contents could wait for each other.
            await _insert_missing(connection, stored_object, [_object_row(stored[key]) for key in sorted(stored)])
            await _insert_missing(connection, export_file, [_file_row(begun.id, one) for one in staged])
            return await _count_again(connection, begun.id)

    async def forget(self, begun: Export, paths: Sequence[str]) -> None:
        """Take back that some files are there, so that they are staged again."""
        lost = (export_file.c.export_id == begun.id) & export_file.c.path.in_(paths)
        async with self._database.transaction() as connection:
            await connection.execute(delete(export_file).where(lost))
            await _count_again(connection, begun.id)

    @asynccontextmanager
    async def completing(self, begun: Export, manifest_sha256: str) -> AsyncIterator[bool]:
        """Complete an export together with what the body does; gives False, and does nothing, if it is not alive.

        The row is locked meanwhile: a worker that was taken for dead and wakes up finds that it comes too late,
        before it has replaced a manifest that is no longer its own.
        """
        async with self._database.transaction() as connection:
            alive = await _find(connection, *_same_life(begun), lock=True) is not None
            yield alive
            if alive:
                await connection.execute(
                    update(export)
                    .where(_is(begun.id))
                    .values(
                        state=ExportState.COMPLETED,
                        manifest_sha256=manifest_sha256,
                        completed_at=func.now(),
                        last_used_at=func.now(),
                    )
                )

    async def fail(self, begun: Export, error: str) -> None:
        """End an export that cannot be completed, with the reason in plain words."""
        async with self._database.transaction() as connection:
            await connection.execute(
                update(export).where(*_same_life(begun)).values(state=ExportState.ERROR, error=error)
            )

    async def requeue_orphans(self) -> list[str]:
        """Queue again every export that is under way without a job; return their ids."""
        async with self._database.transaction() as connection:
            under_way = await connection.execute(select(export.c.id).where(export.c.state.in_(_UNDER_WAY)))
            orphans = await self._queue.locks_without_job(under_way.scalars().all(), connection=connection)
            for export_id in orphans:
                await self._defer(connection, export_id)
        return orphans

    async def _defer(self, connection: AsyncConnection, export_id: str) -> None:
        await self._queue.defer(
            STAGE_EXPORT, connection=connection, lock=export_id, queueing_lock=export_id, export_id=export_id
        )

    # --- files ---------------------------------------------------------------------------------------------------

    async def find_dealt_with(self, export_id: str, file_ids: Sequence[int]) -> set[int]:
        """Return those of `file_ids` that are recorded already, as had or as missing."""
        statement = select(export_file.c.file_id).where(
            export_file.c.export_id == export_id, export_file.c.file_id.in_(file_ids)
        )
        async with self._database.transaction() as connection:
            return set((await connection.execute(statement)).scalars())

    async def find_objects(self, digests: Iterable[str]) -> dict[str, StoredObject]:
        """Return what is recorded about stored contents, by their SHA-256 in hexadecimal."""
        keys = [bytes.fromhex(digest) for digest in digests]
        async with self._database.transaction() as connection:
            rows = await connection.execute(select(stored_object).where(stored_object.c.sha256.in_(keys)))
            return {row["sha256"].hex(): _stored_object(row) for row in rows.mappings()}

    async def find_file(self, export_id: str, path: str) -> ExportFile | None:
        """Return one file of an export by its path in it, if staging has dealt with it."""
        statement = _files_of(export_id).where(export_file.c.path == path)
        async with self._database.transaction() as connection:
            row = (await connection.execute(statement)).mappings().first()
        return None if row is None else _export_file(row)

    async def iter_files(self, export_id: str) -> AsyncIterator[list[ExportFile]]:
        """Yield the files that staging has dealt with, in the order of their numbers; holds no connection between."""
        after_id = -1
        while True:
            statement = _files_of(export_id).where(export_file.c.file_id > after_id)
            statement = statement.order_by(export_file.c.file_id).limit(PAGE_ROWS)
            async with self._database.transaction() as connection:
                rows = (await connection.execute(statement)).mappings().all()
            if not rows:
                return
            yield [_export_file(row) for row in rows]
            after_id = rows[-1]["file_id"]

    async def iter_entries(self, export_id: str) -> AsyncGenerator[list[Entry]]:
        """Yield the files that are there as entries of the manifest, in the order of their paths' bytes."""
        columns = (stored_object.c.crc32, stored_object.c.md5, facility.c.name.label("facility"))
        statement = (
            _in_path_order(export_id, *columns)
            .join(facility, facility.c.id == file.c.facility_id)
            .join(stored_object, stored_object.c.sha256 == export_file.c.sha256)
            .where(export_file.c.reason.is_(None))
        )
        async with aclosing(self._stream(statement)) as pages:
            async for rows in pages:
                yield [_entry(row) for row in rows]

    async def iter_missing(self, export_id: str) -> AsyncGenerator[list[Missing]]:
        """Yield the files that could not be had as entries of the manifest, in the order of their paths' bytes."""
        statement = _in_path_order(export_id).where(export_file.c.reason.is_not(None))
        async with aclosing(self._stream(statement)) as pages:
            async for rows in pages:
                yield [Missing(path=row["path"], size_bytes=row["size_bytes"], reason=row["reason"]) for row in rows]

    async def _stream(self, statement: Select[Any]) -> AsyncGenerator[Sequence[RowMapping]]:
        options = {"yield_per": PAGE_ROWS}  # which makes it a cursor of the server
        async with self._database.snapshot() as connection:
            streamed = await connection.stream(statement, execution_options=options)
            try:
                async for rows in streamed.mappings().partitions():
                    yield rows
            finally:
                await streamed.close()

    # Last, because behind it `list` means this method in annotations.
    async def list(self, limit: int) -> "Sequence[Export]":
        """Return the exports that were asked for last, newest first."""
        statement = select(export).order_by(export.c.created_at.desc(), export.c.id).limit(limit)
        async with self._database.transaction() as connection:
            return [_export(row) for row in (await connection.execute(statement)).mappings()]


# --- statements -----------------------------------------------------------------------------------------------------


def _is(export_id: str) -> ColumnElement[bool]:
    return export.c.id == export_id


def _same_life(begun: Export) -> tuple[ColumnElement[bool], ...]:
    return _is(begun.id), export.c.state == ExportState.WRITING, export.c.started_at == begun.started_at


async def _find(connection: AsyncConnection, *conditions: ColumnElement[bool], lock: bool = False) -> Export | None:
    statement = select(export).where(*conditions)
    row = (await connection.execute(statement.with_for_update() if lock else statement)).mappings().first()
    return None if row is None else _export(row)


async def _get(connection: AsyncConnection, export_id: str) -> Export:
    found = await _find(connection, _is(export_id))
    if found is None:
        raise NotFoundError("export", export_id)
    return found


async def _insert_export(connection: AsyncConnection, values: Mapping[str, Any]) -> bool:
    """Tell whether this transaction made the row; two at once wait for each other here, and one makes it."""
    try:
        made = await connection.execute(insert(export).values(values).on_conflict_do_nothing().returning(export.c.id))
    except IntegrityError as error:
        raise NotFoundError("query", values["query_id"]) from error
    return made.first() is not None


async def _begin_again(connection: AsyncConnection, export_id: str) -> bool:
    """Tell whether this transaction took an ended export up again: what failed is forgotten, what is there stays."""
    statement = select(export.c.state).where(_is(export_id), export.c.state.in_(_ENDED)).with_for_update()
    state = (await connection.execute(statement)).scalar()
    if state is None:
        return False
    forgotten = export_file.c.export_id == export_id
    if state not in _WITHOUT_FILES:
        forgotten &= export_file.c.reason.is_not(None)
    await connection.execute(delete(export_file).where(forgotten))
    await connection.execute(
        update(export)
        .where(_is(export_id))
        .values(state=ExportState.INITIALIZED, error=None, started_at=None, completed_at=None, manifest_sha256=None)
    )
    await _count_again(connection, export_id)
    return True


async def _count_again(connection: AsyncConnection, export_id: str) -> Export:
    had = export_file.c.reason.is_(None)
    counts = (
        select(
            func.count().filter(had),
            func.coalesce(func.sum(export_file.c.size_bytes).filter(had), 0),
            func.count().filter(~had),
        )
        .where(export_file.c.export_id == export_id)
        .scalar_subquery()
    )
    counters = tuple_(export.c.files_done, export.c.bytes_done, export.c.files_failed)
    statement = update(export).where(_is(export_id)).values({counters: counts}).returning(export)
    return _export((await connection.execute(statement)).mappings().one())


async def _insert_missing(connection: AsyncConnection, table: Any, rows: Sequence[Mapping[str, Any]]) -> None:
    if rows:
        await connection.execute(insert(table).on_conflict_do_nothing(), rows)


def _files_of(export_id: str) -> Select[Any]:
    columns = (export_file.c.file_id, export_file.c.path, export_file.c.size_bytes, export_file.c.sha256)
    return select(*columns, export_file.c.reason).where(export_file.c.export_id == export_id)


def _in_path_order(export_id: str, *columns: ColumnElement[Any]) -> Select[Any]:
    return (
        select(
            export_file.c.path,
            export_file.c.size_bytes,
            export_file.c.sha256,
            export_file.c.reason,
            file.c.path.label("source"),
            file.c.licence,
            storage.c.name.label("storage"),
            *columns,
        )
        .select_from(export_file)
        .join(file, file.c.id == export_file.c.file_id)
        .join(storage, storage.c.id == file.c.storage_id)
        .where(export_file.c.export_id == export_id)
        .order_by(export_file.c.path, export_file.c.file_id)
    )


# --- rows <-> records -----------------------------------------------------------------------------------------------


def _export(row: RowMapping) -> Export:
    return Export(**{**row, "state": ExportState(row["state"])})


def _stored_object(row: RowMapping) -> StoredObject:
    return StoredObject(
        sha256=row["sha256"].hex(), size_bytes=row["size_bytes"], crc32=row["crc32"], md5=row["md5"].hex()
    )


def _object_row(stored: StoredObject) -> dict[str, Any]:
    return {
        "sha256": bytes.fromhex(stored.sha256),
        "size_bytes": stored.size_bytes,
        "crc32": stored.crc32,
        "md5": bytes.fromhex(stored.md5),
    }


def _file_row(export_id: str, staged: StagedFile) -> dict[str, Any]:
    return {
        "export_id": export_id,
        "file_id": staged.file_id,
        "path": staged.path,
        "size_bytes": staged.size_bytes,
        "sha256": None if staged.stored is None else bytes.fromhex(staged.stored.sha256),
        "reason": staged.reason,
    }


def _export_file(row: RowMapping) -> ExportFile:
    digest = row["sha256"]
    return ExportFile(**{**row, "sha256": None if digest is None else digest.hex()})


def _entry(row: RowMapping) -> Entry:
    return Entry(
        path=row["path"],
        size_bytes=row["size_bytes"],
        crc32=f"{row['crc32']:08x}",
        md5=row["md5"].hex(),
        sha256=row["sha256"].hex(),
        facility=row["facility"],
        storage=row["storage"],
        source=row["source"],
        licence=row["licence"],
    )
