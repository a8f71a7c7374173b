"""Staging: the job that brings the files of one export together.

A job may be killed at any moment, run twice, or run beside a copy of itself that was taken for dead: everything it
does is either content-addressed, inserted once, or a guarded transition, so doing it again changes nothing.
"""

import asyncio
import logging
import threading
import time
from collections.abc import AsyncGenerator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing, suppress
from pathlib import Path
from typing import TypeVar
from weakref import WeakValueDictionary

import aiofiles

from aggregator.cache import CacheManager, Progress
from aggregator.errors import PUBLIC_ERRORS, AggregatorError, StagingError
from aggregator.staging.buffer import LocalFileBuffer, StoredObject
from aggregator.staging.copying import Copier
from aggregator.staging.facts import find_header, make_header
from aggregator.staging.ledger import Export, ExportLedger, StagedFile
from aggregator.staging.manifest import Entry, ManifestEncoder
from aggregator.staging.mounts import GlobalMountPoint, StorageDownError
from aggregator.staging.naming import put_names
from aggregator.staging.queue import HandedBackError
from metadata_db.catalogue import Catalogue
from metadata_db.members import Member
from metadata_db.query import SearchQuery

logger = logging.getLogger(__name__)

T = TypeVar("T")

RECORD_EVERY_S = 1.0
"""What is staged is recorded, and progress told, at least so often: a killed worker loses no more than this."""

RECORD_FILES = 500
"""Files recorded in one transaction at most, and members asked of the catalogue at a time."""


Pack = Callable[[Path, str], object]
"""Makes, beside a finished manifest, what is needed to give the export out; called with it and its SHA-256."""


def leave_unpacked(_manifest: Path, _sha256: str) -> None:
    """Leave that to whoever gives the export out first."""


class IncompleteError(AggregatorError):
    """An export is not what its record says; staging goes over it again."""

    code = "INCOMPLETE"


class _NoLongerOursError(Exception):
    """The export was cancelled, or another life of it has begun: nothing more is to be done."""


class ExportStager:
    """Stages exports, several at a time, with one bounded set of copying threads for all of them."""

    def __init__(
        self,
        *,
        catalogue: Catalogue,
        ledger: ExportLedger,
        buffer: LocalFileBuffer,
        cache: CacheManager,
        copies: int,
        pack: Pack = leave_unpacked,
    ) -> None:
        self.catalogue = catalogue
        self.ledger = ledger
        self.buffer = buffer
        self.cache = cache
        self.copies = copies
        self.pack = pack
        self.copier = Copier(GlobalMountPoint(), buffer)
        self.is_draining = False
        self._threads = ThreadPoolExecutor(copies, thread_name_prefix="copy")

    async def stage(self, export_id: str, *, is_last_try: bool) -> None:
        """Bring an export to COMPLETED, or to ERROR if this is the last try; else raise, to be tried again.

        An export that is not under way (cancelled, or complete already) is left as it is.

        Raises
        ------
        HandedBackError
            The worker is stopping; what was staged is recorded.
        """
        begun = await self.ledger.begin(export_id)
        if begun is None:
            return
        extra = {"action": "stage", "export_id": export_id, "query_id": begun.query_id}
        started = time.monotonic()
        try:
            staged = await _Staging(self, begun).run()
        except _NoLongerOursError:
            logger.info("export is no longer under way", extra=extra)
        except HandedBackError:
            raise
        except Exception as error:  # the top of the job: whatever it was, the export must not hang
            if not is_last_try:
                raise
            logger.exception("export cannot be completed", extra=extra)
            public = isinstance(error, PUBLIC_ERRORS)
            await self.ledger.fail(begun, str(error) if public else "internal error, see the log of the worker")
        else:
            logger.info(
                "export is complete: %d files, %d bytes, %d missing, %.1f s",
                *(staged.files_done, staged.bytes_done, staged.files_failed, time.monotonic() - started),
                extra=extra,
            )

    async def in_thread(self, work: Callable[..., T], *args: object) -> T:
        """Run blocking work in one of the copying threads."""
        return await asyncio.get_running_loop().run_in_executor(self._threads, work, *args)

    def drain(self) -> None:
        """Finish the files under way, and give every export back to the queue."""
        self.is_draining = True

    def close(self) -> None:
        """End the copying threads."""
        self._threads.shutdown(wait=True, cancel_futures=True)


class _Staging:
    """One run of staging one export."""

    def __init__(self, stager: ExportStager, begun: Export) -> None:
        self._stager = stager
        self._ledger = stager.ledger
        self._buffer = stager.buffer
        self._begun = begun
        self._latest = begun
        self._stop = threading.Event()
        self._staged: list[StagedFile] = []
        self._recorded_at = time.monotonic()
        self._away: dict[str, StorageDownError] = {}
        # Of equal contents one is copied, and the others find it in the store.
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    async def run(self) -> Export:
        """Return the export when it is complete."""
        query = await self._stager.catalogue.find_query(self._begun.query_id)
        if query is None:
            raise IncompleteError(f"query {self._begun.query_id} is not registered")
        self._buffer.check_room(self._begun.bytes_total - self._begun.bytes_done)
        await self._stage_members(query)
        await self._record()
        if self._away:
            raise next(iter(self._away.values()))
        await self._finish(query)
        return self._latest

    # --- files ---------------------------------------------------------------------------------------------------

    async def _stage_members(self, query: SearchQuery) -> None:
        under_way: set[asyncio.Task[StagedFile | None]] = set()
        # Twice as many as threads: these always find a next file, also while a batch is recorded.
        most = 2 * self._stager.copies
        try:
            async with aclosing(self._iter_left(query)) as members:
                async for member, known in members:
                    while len(under_way) >= most:
                        under_way = await self._collect(under_way)
                    if self._stager.is_draining:
                        break
                    under_way.add(asyncio.create_task(self._stage(member, known)))
            while under_way:
                under_way = await self._collect(under_way)
        finally:
            self._stop.set()
            await asyncio.gather(*under_way, return_exceptions=True)
        if self._stager.is_draining:
            await self._record()
            raise HandedBackError(f"export {self._begun.id} goes back to the queue")

    async def _iter_left(self, query: SearchQuery) -> AsyncGenerator[tuple[Member, StoredObject | None]]:
        """Yield the members that are still to do, with what the store knows about their contents."""
        pages = self._stager.catalogue.iter_members(query, self._begun.revisions, batch=RECORD_FILES)
        async for page in pages:
            dealt_with = await self._ledger.find_dealt_with(self._begun.id, [member.file_id for member in page])
            left = [member for member in page if member.file_id not in dealt_with]
            known = await self._ledger.find_objects({member.sha256 for member in left if member.sha256 is not None})
            for member in left:
                yield member, known.get(member.sha256 or "")

    async def _stage(self, member: Member, known: StoredObject | None) -> StagedFile | None:
        """Return what became of one file; None when its storage is away, so that nothing can be said yet."""
        path = f"{member.storage}/{member.path}"
        lock = self._locks.setdefault(member.sha256 or path, asyncio.Lock())
        try:
            async with lock:
                stored = await self._stager.in_thread(self._fetch_and_link, member, known, path)
        except StagingError as error:
            return StagedFile(
                file_id=member.file_id, path=path, size_bytes=member.size_bytes, stored=None, reason=error.reason
            )
        except StorageDownError as error:
            self._away.setdefault(error.storage, error)
            return None
        return StagedFile(file_id=member.file_id, path=path, size_bytes=stored.size_bytes, stored=stored, reason=None)

    def _fetch_and_link(self, member: Member, known: StoredObject | None, path: str) -> StoredObject:
        stored = self._stager.copier.fetch(member, known, self._stop)
        self._buffer.link(self._begun.id, path, stored.sha256)
        return stored

    async def _collect(self, under_way: set[asyncio.Task[StagedFile | None]]) -> set[asyncio.Task[StagedFile | None]]:
        """Wait until a file is done, or for a moment; record what is due; return the tasks that still run."""
        done, left = await asyncio.wait(under_way, timeout=RECORD_EVERY_S, return_when=asyncio.FIRST_COMPLETED)
        self._staged.extend(staged for task in done if (staged := task.result()) is not None)
        if len(self._staged) >= RECORD_FILES or time.monotonic() - self._recorded_at >= RECORD_EVERY_S:
            await self._record()
        return left

    async def _record(self) -> None:
        """Write down what is staged, tell how far the export is, and notice when it is no longer ours."""
        staged, self._staged = self._staged, []
        if staged:
            latest = await self._ledger.record(self._begun, staged)
        else:
            latest = self._latest if await self._ledger.is_alive(self._begun) else None
        if latest is None:
            raise _NoLongerOursError
        self._latest = latest
        self._recorded_at = time.monotonic()
        progress = Progress(
            files_done=latest.files_done, bytes_done=latest.bytes_done, files_failed=latest.files_failed
        )
        await self._stager.cache.put_progress(self._begun.id, progress)

    # --- manifest ------------------------------------------------------------------------------------------------

    async def _finish(self, query: SearchQuery) -> None:
        found = self._latest.files_done + self._latest.files_failed
        if found != self._begun.files_total:
            raise IncompleteError(f"the catalogue has {found} files for this answer of {self._begun.files_total}")
        draft = self._buffer.drafted_manifest(self._begun.id)
        try:
            sha256 = await self._write_manifest(draft, query)
            await self._stager.in_thread(self._stager.pack, draft, sha256)
            async with self._ledger.completing(self._begun, sha256) as is_alive:
                if not is_alive:
                    raise _NoLongerOursError
                await self._stager.in_thread(self._buffer.publish_manifest, self._begun.id, draft)
        finally:
            with suppress(FileNotFoundError):
                draft.unlink()

    async def _write_manifest(self, draft: Path, query: SearchQuery) -> str:
        encoder = ManifestEncoder()
        before = await self._stager.in_thread(find_header, self._buffer.manifest_path(self._begun.id))
        header = await make_header(self._stager.catalogue, self._latest, query, before)
        async with aiofiles.open(draft, "xb") as target:
            await target.write(encoder.begin(header))
            async with aclosing(self._ledger.iter_entries(self._begun.id)) as pages:
                async for entries in pages:
                    await self._require_files(entries)
                    await target.write(encoder.entries(entries))
            await target.write(encoder.begin_missing())
            async with aclosing(self._ledger.iter_missing(self._begun.id)) as absent:
                async for missing in absent:
                    await target.write(encoder.entries(missing))
            await target.write(encoder.end())
        return await self._stager.in_thread(put_names, draft) or encoder.sha256

    async def _require_files(self, entries: list[Entry]) -> None:
        """Look once more that every file is there: somebody may have tidied up the buffer since it was staged."""
        lost = await self._stager.in_thread(self._find_lost, entries)
        if lost:
            await self._ledger.forget(self._begun, lost)
            raise IncompleteError(f"{len(lost)} staged files are gone from the buffer, such as {lost[0]}")

    def _find_lost(self, entries: list[Entry]) -> list[str]:
        return [
            entry.path for entry in entries if not self._buffer.has_file(self._begun.id, entry.path, entry.size_bytes)
        ]
