"""The worker: a process that takes staging jobs from the queue until it is told to stop.

Whatever fails outside a job (the database restarts, the worker slept too long and was taken for dead), the worker
starts over by itself. Beside the jobs it sweeps: jobs of dead workers, and exports without a job, are queued again.
"""

import asyncio
import logging
import signal
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress

from procrastinate import JobContext
from procrastinate.exceptions import ConnectorException

from aggregator.cache import CacheManager
from aggregator.settings import Settings
from aggregator.staging.buffer import LocalFileBuffer
from aggregator.staging.jobs import ExportStager, Pack, leave_unpacked
from aggregator.staging.ledger import ExportLedger
from aggregator.staging.queue import QUEUE, STAGE_EXPORT, GrowingDelay, TaskQueue, is_last_try
from metadata_db.catalogue import Catalogue
from metadata_db.database import Database
from metadata_db.errors import UnavailableError
from metadata_db.vocabulary import VocabularyStore

logger = logging.getLogger(__name__)

EXPORTS_AT_A_TIME = 4
"""Exports staged beside each other, so that a small one need not wait for a large one; copies are bounded apart."""

SILENT_HEARTBEATS = 3
"""A worker that missed so many heartbeats is taken for dead."""

RESTART_S = 1.0
"""Pause before a worker starts over."""

_AWAY = (UnavailableError, ConnectorException)


async def run_worker(settings: Settings, *, pack: Pack = leave_unpacked, stop: asyncio.Event | None = None) -> None:
    """Work until `stop` is set, or, without it, until SIGTERM or SIGINT.

    Files under way are finished and recorded, for `settings.drain_s` at most; exports go back to the queue.

    Parameters
    ----------
    pack
        Makes a complete export ready to be given out.

    Raises
    ------
    BufferUnusableError
        The buffer's folder cannot serve as one.
    """
    buffer = LocalFileBuffer(settings.buffer_dir)
    await asyncio.to_thread(buffer.prepare)
    async with _stop_by_signal(stop) as stopping:
        while not stopping.is_set():
            try:
                await _work(settings, buffer, pack, stopping)
            except _AWAY as error:
                logger.warning("the worker starts over: %s", error, extra={"action": "work"})
            except Exception:  # the top of the process: it must not need a hand to come back
                logger.exception("the worker starts over", extra={"action": "work"})
            if not stopping.is_set():
                with suppress(TimeoutError):
                    await asyncio.wait_for(stopping.wait(), RESTART_S)


async def _work(settings: Settings, buffer: LocalFileBuffer, pack: Pack, stopping: asyncio.Event) -> None:
    """Open everything, and work until `stopping` is set or something fails."""
    async with AsyncExitStack() as opened:
        database = Database(settings.catalogue)
        opened.push_async_callback(database.close)
        cache = CacheManager(str(settings.redis_url), answer_ttl_s=settings.answer_ttl_s)
        opened.push_async_callback(cache.close)
        queue = TaskQueue(settings.catalogue)
        await queue.open()
        opened.push_async_callback(queue.close)
        ledger = ExportLedger(database, queue)
        stager = ExportStager(
            catalogue=Catalogue(database, VocabularyStore(database)),
            ledger=ledger,
            buffer=buffer,
            cache=cache,
            copies=settings.worker_copies,
            pack=pack,
        )
        opened.callback(stager.close)
        register_tasks(queue, stager)
        await asyncio.to_thread(buffer.remove_stale)
        sweeping = asyncio.create_task(_sweep(queue, ledger, settings.worker_heartbeat_s))
        opened.push_async_callback(_end, sweeping)
        await _run_jobs(queue, stager, settings, stopping)


def register_tasks(queue: TaskQueue, stager: ExportStager) -> None:
    """Let the workers of `queue` know how to do its jobs."""

    @queue.app.task(name=STAGE_EXPORT, queue=QUEUE, retry=GrowingDelay(), pass_context=True)
    async def stage_export(context: JobContext, export_id: str) -> None:
        await stager.stage(export_id, is_last_try=is_last_try(context.job))


async def _run_jobs(queue: TaskQueue, stager: ExportStager, settings: Settings, stopping: asyncio.Event) -> None:
    """Run jobs until `stopping` is set, or until the queue's worker gives up, which it does without its database."""
    heartbeat_s = settings.worker_heartbeat_s
    working = asyncio.create_task(
        queue.app.run_worker_async(
            queues=[QUEUE],
            concurrency=EXPORTS_AT_A_TIME,
            delete_jobs="successful",
            install_signal_handlers=False,
            shutdown_graceful_timeout=settings.drain_s,
            update_heartbeat_interval=heartbeat_s,
            stalled_worker_timeout=SILENT_HEARTBEATS * heartbeat_s,
            fetch_job_polling_interval=min(heartbeat_s, 5.0),
        )
    )
    told = asyncio.create_task(stopping.wait())
    logger.info("the worker is ready", extra={"action": "work"})
    try:
        await asyncio.wait({working, told}, return_when=asyncio.FIRST_COMPLETED)
        if working.done():
            await working
            logger.warning("the queue's worker gave up, the database may be away", extra={"action": "work"})
    finally:
        stager.drain()
        await _end(told)
        await _end(working)  # cancelling it is how it is asked to finish its jobs


async def _sweep(queue: TaskQueue, ledger: ExportLedger, heartbeat_s: float) -> None:
    """With every heartbeat queue again what nobody works on."""
    while True:
        try:
            revived = await queue.revive_stalled(silent_s=SILENT_HEARTBEATS * heartbeat_s)
            orphans = await ledger.requeue_orphans()
            if revived or orphans:
                logger.warning(
                    "taken over: %d jobs of dead workers, %d exports without a job",
                    *(revived, len(orphans)),
                    extra={"action": "sweep"},
                )
        except _AWAY as error:
            logger.warning("sweeping failed: %s", error, extra={"action": "sweep"})
        except Exception:  # the next heartbeat tries again
            logger.exception("sweeping failed", extra={"action": "sweep"})
        await asyncio.sleep(heartbeat_s)


async def _end(task: "asyncio.Task[object]") -> None:
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task


@asynccontextmanager
async def _stop_by_signal(stop: asyncio.Event | None) -> AsyncIterator[asyncio.Event]:
    """Give `stop`, or an event that SIGTERM and SIGINT set."""
    if stop is not None:
        yield stop
        return
    stop, loop = asyncio.Event(), asyncio.get_running_loop()
    signals = (signal.SIGTERM, signal.SIGINT)
    for number in signals:
        loop.add_signal_handler(number, stop.set)
    try:
        yield stop
    finally:
        for number in signals:
            loop.remove_signal_handler(number)
