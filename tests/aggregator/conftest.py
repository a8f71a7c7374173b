"""The service's parts, wired as `aggregator.app` wires them, on a catalogue of the test's own."""

from collections.abc import AsyncIterator

import pytest

from aggregator.cache import CacheManager
from aggregator.controller import AutoPrepareLimits, CoreController
from aggregator.staging.ledger import ExportLedger
from aggregator.staging.queue import TaskQueue
from metadata_db.catalogue import Catalogue
from metadata_db.database import Database
from metadata_db.settings import CatalogueSettings


@pytest.fixture
async def cache(redis_url: str) -> AsyncIterator[CacheManager]:
    found = CacheManager(redis_url, answer_ttl_s=60)
    yield found
    await found.close()


@pytest.fixture
async def queue(database_url: str) -> AsyncIterator[TaskQueue]:
    found = TaskQueue(CatalogueSettings(database_url=database_url))
    await found.open()
    yield found
    await found.close()


@pytest.fixture
def ledger(database: Database, queue: TaskQueue) -> ExportLedger:
    return ExportLedger(database, queue)


@pytest.fixture
def controller(catalogue: Catalogue, cache: CacheManager, ledger: ExportLedger) -> CoreController:
    return CoreController(
        catalogue=catalogue, cache=cache, exports=ledger, limits=AutoPrepareLimits(files=100, bytes=1_000_000)
    )
