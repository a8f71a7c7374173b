"""A small installation for the tests of staging and exports: a real catalogue, real storages, a real buffer."""

import asyncio
import hashlib
import os
import sys
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from pathlib import Path
from subprocess import Popen
from typing import Any

import msgspec
from sqlalchemy import text

from aggregator.cache import CacheManager
from aggregator.settings import Settings
from aggregator.staging.buffer import LocalFileBuffer
from aggregator.staging.jobs import ExportStager, Pack, leave_unpacked
from aggregator.staging.ledger import Export, ExportLedger, ExportState
from aggregator.staging.queue import TaskQueue
from metadata_db.catalogue import Catalogue
from metadata_db.database import Database
from metadata_db.ingest import Ingest
from metadata_db.query import SearchQuery
from metadata_db.records import Facility, FileRecord, Storage
from metadata_db.vocabulary import VocabularyStore

CHECKOUT = Path(__file__).parents[3]

FACILITY = "aurora"
STORAGE = "aurora-disk"
EVERYTHING = SearchQuery(facility=(FACILITY,))

WORKER = """
import asyncio, os
from aggregator.settings import Settings
from aggregator.staging.worker import run_worker
asyncio.run(run_worker(Settings.from_environ(os.environ)))
"""


class World:
    """Everything that staging needs, with short ways to fill it and to look at it."""

    def __init__(self, settings: Settings, folder: Path) -> None:
        self.settings = settings
        self.folder = folder
        self.storage = folder / "storage"
        self.database = Database(settings.catalogue)
        self.queue = TaskQueue(settings.catalogue)
        self.ledger = ExportLedger(self.database, self.queue)
        self.vocabulary = VocabularyStore(self.database)
        self.catalogue = Catalogue(self.database, self.vocabulary)
        self.cache = CacheManager(str(settings.redis_url), answer_ttl_s=60)
        self.buffer = LocalFileBuffer(settings.buffer_dir)

    async def put_storage(self, name: str, root: Path, *, enabled: bool = True) -> None:
        make_folder(root)
        await self.vocabulary.put_storage(Storage(name=name, root=str(root), enabled=enabled))

    async def add(self, contents: Mapping[str, bytes], *, storage: str = STORAGE, with_sha256: bool = True) -> None:
        """Write files into a storage and catalogue them."""
        records = []
        for path, content in contents.items():
            target = self.folder / ("storage" if storage == STORAGE else storage) / path
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(content)
            digest = hashlib.sha256(content).hexdigest() if with_sha256 else None
            records.append(
                FileRecord(facility=FACILITY, storage=storage, path=path, size_bytes=len(content), sha256=digest)
            )
        await self.catalogue_records(records)

    async def catalogue_records(self, records: list[FileRecord]) -> None:
        async def lines() -> AsyncIterator[bytes]:
            yield b"".join(msgspec.json.encode(record) + b"\n" for record in records)

        report = await Ingest(self.database, self.vocabulary).load(lines(), allowed=None)
        assert report.rejected == 0, report.rejections

    async def request(self, query: SearchQuery = EVERYTHING) -> Export:
        """Ask for the export of everything, as the service does."""
        await self.catalogue.register_query(query)
        revisions = await self.catalogue.revisions(query.facility)
        summary = await self.catalogue.summary(query, revisions)
        return await self.ledger.request(
            query.query_id,
            revisions=revisions,
            answer_checksum=summary.checksum,
            files_total=summary.count,
            bytes_total=summary.bytes,
        )

    async def stage(self, export_id: str, *, is_last_try: bool = True) -> Export:
        """Run the job in this process, once."""
        stager = self.stager()
        try:
            await stager.stage(export_id, is_last_try=is_last_try)
        finally:
            stager.close()
        return await self.get(export_id)

    def stager(self, *, pack: Pack = leave_unpacked) -> ExportStager:
        return ExportStager(
            catalogue=self.catalogue, ledger=self.ledger, buffer=self.buffer, cache=self.cache, copies=2, pack=pack
        )

    async def get(self, export_id: str) -> Export:
        found = await self.ledger.find(export_id)
        assert found is not None
        return found

    async def wait_for(self, export_id: str, *states: ExportState, within_s: float = 60) -> Export:
        async with asyncio.timeout(within_s):
            while (found := await self.get(export_id)).state not in states:  # another process does it
                await asyncio.sleep(0.05)
        return found

    async def scalar(self, statement: str, **values: Any) -> Any:
        async with self.database.transaction() as connection:
            return (await connection.execute(text(statement), values)).scalar()

    def files(self, export_id: str) -> dict[str, bytes]:
        """Return what is visible in an export now: path → content."""
        root = self.buffer.export_path(export_id) / "files"
        return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}

    @contextmanager
    def worker(self, **environ: str) -> Iterator[Popen[bytes]]:
        """Run a worker in a process of its own, and kill it at the end if it still runs."""
        with Popen([sys.executable, "-c", WORKER], env=self.environ() | environ, cwd=CHECKOUT) as process:
            try:
                yield process
            finally:
                process.kill()

    def environ(self) -> dict[str, str]:
        return dict(os.environ) | {  # handed on to a process
            "CATCHMENT_DATABASE_URL": str(self.settings.database_url),
            "CATCHMENT_REDIS_URL": str(self.settings.redis_url),
            "CATCHMENT_DATA_DIR": str(self.settings.data_dir),
            "CATCHMENT_WORKER_HEARTBEAT_S": str(self.settings.worker_heartbeat_s),
            "CATCHMENT_WORKER_COPIES": str(self.settings.worker_copies),
            "CATCHMENT_DRAIN_S": str(self.settings.drain_s),
        }


def make_folder(path: Path) -> None:
    path.mkdir(exist_ok=True)


@asynccontextmanager
async def open_world(database_url: str, redis_url: str, folder: Path) -> AsyncIterator[World]:
    """Give a world with one facility and one empty storage."""
    settings = Settings.from_environ(
        {
            "CATCHMENT_DATABASE_URL": database_url,
            "CATCHMENT_REDIS_URL": redis_url,
            "CATCHMENT_DATA_DIR": str(folder / "data"),
            "CATCHMENT_POOL_SIZE": "4",
            "CATCHMENT_WORKER_COPIES": "2",
            "CATCHMENT_WORKER_HEARTBEAT_S": "0.3",
            "CATCHMENT_DRAIN_S": "5",
        }
    )
    async with AsyncExitStack() as opened:
        world = World(settings, folder)
        opened.push_async_callback(world.database.close)
        opened.push_async_callback(world.cache.close)
        await world.queue.open()
        opened.push_async_callback(world.queue.close)
        world.buffer.prepare()
        await world.vocabulary.put_facility(Facility(name=FACILITY))
        await world.put_storage(STORAGE, world.storage)
        yield world
