"""The queue in Postgres: its schema, jobs that live and die with a transaction, and when they are tried again."""

import asyncio
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import psycopg
import pytest
from procrastinate.jobs import Job
from procrastinate.schema import SchemaManager

from aggregator.staging.queue import (
    LONGEST_DELAY_S,
    STAGE_EXPORT,
    TRIES,
    GrowingDelay,
    HandedBackError,
    QueueSchemaError,
    TaskQueue,
    apply_queue_schema,
)
from metadata_db.errors import UnavailableError
from metadata_db.settings import CatalogueSettings
from tests.aggregator.staging.world import World

pytestmark = pytest.mark.anyio


@pytest.fixture
def connection(database_url: str) -> Iterator[psycopg.Connection]:
    with psycopg.connect(CatalogueSettings(database_url=database_url).libpq_url, autocommit=True) as opened:
        yield opened


TABLES = "select count(*) from pg_tables where tablename like 'procrastinate%'"


def drop_queue(connection: psycopg.Connection) -> None:
    for (name,) in connection.execute(
        "select tablename from pg_tables where tablename like 'procrastinate%'"
    ).fetchall():
        connection.execute(f'drop table "{name}" cascade')
    types = "select typname from pg_type where typname like 'procrastinate%' and typtype in ('e', 'c')"
    for (name,) in connection.execute(types).fetchall():
        connection.execute(f'drop type if exists "{name}" cascade')
    functions = "select oid::regprocedure::text from pg_proc where proname like 'procrastinate%'"
    for (name,) in connection.execute(functions).fetchall():
        connection.execute(f"drop function if exists {name} cascade")


async def test_the_schema_is_made_once_however_many_make_it(connection: psycopg.Connection, database_url: str) -> None:
    drop_queue(connection)
    await asyncio.gather(*(asyncio.to_thread(apply_queue_schema, database_url) for _ in range(4)))
    assert connection.execute(TABLES).fetchone() == (5,)
    assert connection.execute("select count(*) from procrastinate_applied").fetchone() == (1,)


def test_newer_migrations_are_applied_and_older_are_not(connection: psycopg.Connection, database_url: str) -> None:
    older, newest = sorted(path.name for path in Path(SchemaManager.get_migrations_path()).glob("*.sql"))[-2:]
    # As an older version left it: without the trigger that the newest migration makes.
    trigger = "procrastinate_trigger_status_events_update_v1"
    connection.execute(f"drop trigger {trigger} on procrastinate_jobs")
    connection.execute("update procrastinate_applied set name = %s", [older])
    for _ in range(2):
        apply_queue_schema(database_url)
    applied = connection.execute('select name from procrastinate_applied order by name collate "C"').fetchall()
    assert applied == [(older,), (newest,)]
    assert connection.execute("select 1 from pg_trigger where tgname = %s", [trigger]).fetchone() == (1,)


def test_tables_of_unknown_age_are_not_guessed_about(connection: psycopg.Connection, database_url: str) -> None:
    connection.execute("truncate procrastinate_applied")
    with pytest.raises(QueueSchemaError, match="did not make"):
        apply_queue_schema(database_url)


async def test_a_job_comes_and_goes_with_its_transaction(world: World) -> None:
    async def defer_and_fail() -> None:
        async with world.database.transaction() as connection:
            await world.queue.defer(STAGE_EXPORT, connection=connection, lock="x", export_id="x")
            raise OSError("no")

    with pytest.raises(OSError, match="no"):
        await defer_and_fail()
    assert await world.queue.queued() == 0
    async with world.database.transaction() as connection:
        await world.queue.defer(STAGE_EXPORT, connection=connection, lock="x", export_id="x")
    assert await world.queue.queued() == 1


async def test_one_waiting_job_under_a_queueing_lock_is_enough_and_the_transaction_goes_on(world: World) -> None:
    for _ in range(2):
        async with world.database.transaction() as connection:
            for _ in range(2):
                await world.queue.defer(STAGE_EXPORT, connection=connection, lock="x", queueing_lock="x", export_id="x")
    assert await world.queue.queued() == 1


async def test_workers_count_as_alive_by_their_heartbeat(world: World) -> None:
    assert await world.queue.workers_alive(within_s=10) == 0
    await world.scalar("with made as (insert into procrastinate_workers default values returning 1) select 1")
    assert await world.queue.workers_alive(within_s=10) == 1
    await world.scalar("update procrastinate_workers set last_heartbeat = now() - interval '11 s' returning 1")
    assert await world.queue.workers_alive(within_s=10) == 0


async def test_a_database_that_is_away_is_told_soon(tmp_path: Path) -> None:
    settings = CatalogueSettings(database_url=f"postgresql://nobody@/nowhere?host={tmp_path}")
    queue = TaskQueue(settings, connect_s=0.2)
    with pytest.raises(UnavailableError, match="does not answer"):
        await queue.open()


def job(attempts: int) -> Job:
    return Job(id=1, queue="staging", lock=None, queueing_lock=None, task_name=STAGE_EXPORT, attempts=attempts)


def test_tries_are_further_and_further_apart_and_end() -> None:
    delays = []
    for attempts in range(TRIES - 1):
        decision = GrowingDelay().get_retry_decision(exception=OSError(), job=job(attempts))
        assert decision is not None
        assert decision.retry_at is not None
        # To a tenth of a second: the clock goes on between the decision and us.
        delays.append(round((decision.retry_at - datetime.now(UTC)).total_seconds(), 1))
    assert delays == sorted(delays)
    assert delays[0] == pytest.approx(2, abs=0.5)
    assert delays[-1] == pytest.approx(LONGEST_DELAY_S, abs=0.5)
    assert GrowingDelay().get_retry_decision(exception=OSError(), job=job(TRIES - 1)) is None


@pytest.mark.parametrize("error", [HandedBackError(), asyncio.CancelledError()])
def test_a_job_whose_worker_stops_is_taken_up_at_once_however_often(error: BaseException) -> None:
    decision = GrowingDelay().get_retry_decision(exception=error, job=job(5000))
    assert decision is not None
    assert decision.retry_at is not None
    assert decision.retry_at <= datetime.now(UTC)
