"""The work queue: procrastinate in the catalogue's own Postgres.

A job is deferred inside the transaction that writes the rows it is about, so there is never one without the other.
Everything that touches procrastinate's tables is here.
"""

import asyncio
import logging
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import psycopg
from procrastinate import App, BaseRetryStrategy, PsycopgConnector, RetryDecision, utils
from procrastinate.exceptions import AlreadyEnqueued, ConnectorException
from procrastinate.jobs import Job
from procrastinate.schema import SchemaManager
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from metadata_db.errors import UnavailableError
from metadata_db.settings import CatalogueSettings

logger = logging.getLogger(__name__)

QUEUE = "staging"
"""Name of the one queue."""

STAGE_EXPORT = "stage_export"
"""Name of the task that stages one export; its only argument is `export_id`."""

TRIES = 8
"""How often a job is tried. With the growing delay a storage or database may be away for some four minutes."""

LONGEST_DELAY_S = 60.0
"""No try waits longer than this for the one before it."""

CONNECT_S = 5.0
"""How long the queue waits for its database when it is opened."""

_MIGRATIONS = Path(SchemaManager.get_migrations_path())
_SCHEMA_LOCK = 0x63617463686D
"""Key of the advisory lock under which the queue's schema is changed: the bytes of "catchm"."""


class QueueSchemaError(RuntimeError):
    """The queue's tables are there, but nobody knows from which version."""


class HandedBackError(Exception):
    """A worker that is stopping gives its job back: to be taken up at once by another."""


class GrowingDelay(BaseRetryStrategy):
    """Try again after `first_s`, then twice as long, and so on, `TRIES` times in all.

    A job that was handed back or interrupted by its worker's end is taken up again at once, however often.
    """

    def __init__(self, *, first_s: float = 2.0) -> None:
        self.first_s = first_s

    def get_retry_decision(self, *, exception: BaseException, job: Job) -> RetryDecision | None:
        """Return when `job` is tried again, None if it was its last try."""
        if isinstance(exception, HandedBackError | asyncio.CancelledError):
            return RetryDecision(retry_at=utils.utcnow())
        if is_last_try(job):
            return None
        # Bounded before the power is taken: a job that was handed back often has a large number of attempts.
        delay_s = min(self.first_s * 2.0 ** min(job.attempts, 20), LONGEST_DELAY_S)
        return RetryDecision(retry_at=utils.utcnow() + timedelta(seconds=delay_s))


def is_last_try(job: Job) -> bool:
    """Tell whether `job` is not tried again when it fails now."""
    return job.attempts + 1 >= TRIES


class TaskQueue:
    """Defers jobs, and says how the workers are."""

    def __init__(self, settings: CatalogueSettings, *, connect_s: float = CONNECT_S) -> None:
        self._connect_s = connect_s
        self.app = App(
            connector=PsycopgConnector(conninfo=settings.libpq_url, min_size=1, max_size=4, name="catchment-queue")
        )

    async def open(self) -> None:
        """Connect to the database.

        Raises
        ------
        UnavailableError
            It does not answer.
        """
        try:
            async with asyncio.timeout(self._connect_s):
                await self.app.connector.open_async()
        except TimeoutError as error:
            await self.close()
            raise UnavailableError("the database of the work queue does not answer, try again in a moment") from error

    async def close(self) -> None:
        """Close the connections."""
        await self.app.connector.close_async()

    async def defer(
        self, task: str, *, connection: AsyncConnection, lock: str, queueing_lock: str | None = None, **args: Any
    ) -> None:
        """Queue a job inside the caller's transaction; a job that waits under the same `queueing_lock` is enough.

        Parameters
        ----------
        lock
            Of the jobs with one lock, one runs at a time.
        """
        driver = (await connection.get_raw_connection()).driver_connection
        try:
            async with connection.begin_nested():  # or the refusal would spoil the caller's transaction
                await self.app.configure_task(
                    task, queue=QUEUE, lock=lock, queueing_lock=queueing_lock, connection=driver
                ).defer_async(**args)
        except AlreadyEnqueued:
            logger.debug("a job of %s is waiting already", lock, extra={"action": "defer", "task": task})

    async def drop(self, lock: str, *, connection: AsyncConnection) -> None:
        """Take the waiting jobs of `lock` from the queue, inside the caller's transaction."""
        statement = text("delete from procrastinate_jobs where lock = :lock and status = 'todo'")
        await connection.execute(statement, {"lock": lock})

    async def locks_without_job(self, locks: Sequence[str], *, connection: AsyncConnection) -> list[str]:
        """Return those of `locks` for which no job waits or runs."""
        live = text("select distinct lock from procrastinate_jobs where lock = any(:locks) and status in "
                    "('todo', 'doing')")  # fmt: skip
        found = set((await connection.execute(live, {"locks": list(locks)})).scalars())
        return [lock for lock in locks if lock not in found]

    async def revive_stalled(self, *, silent_s: float) -> int:
        """Queue the jobs of workers that were silent for `silent_s` again; return how many."""
        stalled = list(await self.app.job_manager.get_stalled_jobs(queue=QUEUE, seconds_since_heartbeat=silent_s))
        revived = 0
        for job in stalled:
            try:
                await self.app.job_manager.retry_job(job)
                revived += 1
            except ConnectorException as error:
                # Another worker was quicker, or the job waits already under its queueing lock: both are fine.
                logger.info("job %s is not revived: %s", job.id, error.__cause__ or error, extra={"action": "revive"})
        return revived

    async def workers_alive(self, within_s: float) -> int:
        """Return how many workers gave a sign of life in the last `within_s` seconds."""
        return await self._count(
            "select count(*) from procrastinate_workers where last_heartbeat > now() - %(within_s)s * interval '1 s'",
            within_s=within_s,
        )

    async def queued(self) -> int:
        """Return how many jobs wait for a worker."""
        return await self._count("select count(*) from procrastinate_jobs where status = 'todo'")

    async def _count(self, statement: str, **arguments: Any) -> int:
        row = await self.app.connector.execute_query_one_async(statement, **arguments)
        return int(row["count"])


def apply_queue_schema(database_url: str) -> None:
    """Create the queue's tables, or bring them to the version of the installed procrastinate.

    Safe to run again, and from several processes at once.

    Raises
    ------
    QueueSchemaError
        There are tables of procrastinate that this function did not make.
    """
    with psycopg.connect(CatalogueSettings(database_url=database_url).libpq_url, autocommit=True) as connection:
        connection.execute("select pg_advisory_lock(%s)", [_SCHEMA_LOCK])  # ends with the connection
        connection.execute(
            "create table if not exists procrastinate_applied "
            "(name text primary key, applied_at timestamptz not null default now())"
        )
        applied = connection.execute('select max(name collate "C") from procrastinate_applied').fetchone()
        newest: str | None = applied[0] if applied else None
        if newest is not None:
            for name in _migration_names():
                if name > newest:
                    _apply(connection, (_MIGRATIONS / name).read_text(encoding="utf-8"), name)
            return
        if connection.execute("select from pg_tables where tablename = 'procrastinate_jobs'").rowcount:
            raise QueueSchemaError(
                "the database holds tables of procrastinate that catchment did not make: "
                "drop them, or give catchment a database of its own"
            )
        _apply(connection, SchemaManager.get_schema(), _migration_names()[-1])


def _migration_names() -> list[str]:
    """Return the names of procrastinate's migrations; they begin with the version and so sort by age."""
    return sorted(item.name for item in _MIGRATIONS.iterdir() if item.name.endswith(".sql"))


def _apply(connection: psycopg.Connection[Any], statements: str, name: str) -> None:
    with connection.transaction():
        connection.execute(statements.encode())
        connection.execute("insert into procrastinate_applied (name) values (%s)", [name])
    logger.info("the queue's schema is at %s", name, extra={"action": "migrate"})
