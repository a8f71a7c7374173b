"""Follows a storage: catalogues files as they are closed or moved in, and scans when something may have been missed.

A scan is the answer to everything that can go wrong (a start, an overflow of the kernel's queue, a catalogue that was
away), because it finds whatever differs. So nothing has to be remembered here.
"""

import logging
import os
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Self

from extractors.client import Client
from extractors.courier import BATCH_RECORDS, Courier, IngestReport
from extractors.errors import SendError, StorageError
from extractors.extract import Extractor
from extractors.ingest import ScanOptions, TooManyVanishedError, scan
from extractors.pool import ExtractionPool
from extractors.storages.watching import Appeared, Closed, Lost, Quiet, Report, Vanished, Watcher

logger = logging.getLogger(__name__)

QUIET_S = 1.0
"""After so long without news, what has collected is catalogued."""

MAX_WAIT_S = 2.0
"""Longest time that a closed file waits for others, however much happens."""

SETTLE_S = 10.0
"""A file that may be being written is taken for complete when it was not written to for so long."""

AWAY_S = 15.0
"""Pause before the catalogue is tried again after it was away."""

SCAN_EVERY_S = 6 * 3600.0
"""A scan is due anyhow after this time, for what inotify cannot know: changes by other hosts."""

LOST_SCAN_EVERY_S = 300.0
"""The same for a storage parts of which cannot be watched."""


class Follower:
    """Keeps the catalogue in line with a local storage until its watcher stops; use it in a ``with`` statement.

    Parameters
    ----------
    settle_s
        A file of which nobody can tell whether it is complete is read when it was not written to for so long.
    on_batch
        Told the counts of each batch and scan.
    """

    def __init__(
        self,
        extractor: Extractor,
        client: Client,
        *,
        options: ScanOptions | None = None,
        scan_every_s: float = SCAN_EVERY_S,
        settle_s: float = SETTLE_S,
        on_batch: Callable[[IngestReport], None] = lambda report: None,
    ) -> None:
        self._extractor = extractor
        self._client = client
        self._options = options or ScanOptions()
        self._scan_every_s = scan_every_s
        self._settle_s = settle_s
        self._on_batch = on_batch
        self._pool = ExtractionPool(extractor, processes=self._options.processes, limits=self._options.limits)
        # Path → whether it was there when last heard of; in the order of the news.
        self._pending: dict[str, bool] = {}
        # Files of which nobody can tell whether they are complete, until they are closed or settle.
        self._doubtful: set[str] = set()
        self._folders: list[str] = []
        self._pending_since = 0.0
        self._scan_at = 0.0
        self._retry_at = 0.0

    def __enter__(self) -> Self:
        self._pool.__enter__()
        return self

    def __exit__(self, *exception: object) -> None:
        self._pool.__exit__(None, None, None)

    def run(self, watcher: Watcher) -> None:
        """Scan, and then catalogue what `watcher` reports until it stops; a catalogue that is away is waited for."""
        self._scan_if_due()
        for report in watcher:
            self._note(report)
            if self._is_time_to_work(report):
                self._work()
        self._work()

    def _note(self, report: Report) -> None:
        match report:
            case Closed(path=path):
                self._remember(path, is_there=True)
            case Appeared(path=path):
                self._doubtful.add(path)
            case Vanished(path=path, is_folder=is_folder):
                self._remember(path, is_there=False)
                if is_folder:
                    self._folders.append(path)
            case Lost(path=path, reason=reason, is_lasting=is_lasting):
                logger.warning("%s: %s; it is scanned", path or self._extractor.tree.root, reason)
                if is_lasting:
                    self._scan_every_s = min(self._scan_every_s, LOST_SCAN_EVERY_S)
                self._scan_at = 0.0
            case Quiet():
                pass

    def _remember(self, path: str, *, is_there: bool) -> None:
        self._doubtful.discard(path)
        self._pending.pop(path, None)
        self._pending[path] = is_there
        self._pending_since = self._pending_since or time.monotonic()

    def _is_time_to_work(self, report: Report) -> bool:
        if isinstance(report, Quiet) or len(self._pending) >= BATCH_RECORDS:
            return True
        return bool(self._pending_since) and time.monotonic() - self._pending_since > MAX_WAIT_S

    def _work(self) -> None:
        """Catalogue what has collected; when the catalogue is away a later scan will find it."""
        if time.monotonic() < self._retry_at:
            return
        self._take_settled()
        pending, folders = self._pending, self._folders
        self._pending, self._folders, self._pending_since = {}, [], 0.0
        if pending or folders:
            self._with_care(lambda: self._deliver(pending, folders))
        self._scan_if_due()

    def _take_settled(self) -> None:
        """Take doubtful files for complete that were not written to for a while."""
        for path in list(self._doubtful):
            try:
                written_at = os.lstat(os.path.join(self._extractor.tree.root, path)).st_mtime
            except OSError:
                self._doubtful.discard(path)
                continue
            if time.time() - written_at >= self._settle_s:
                self._remember(path, is_there=True)

    def _deliver(self, pending: dict[str, bool], folders: list[str]) -> IngestReport:
        report = IngestReport()
        extractor = self._extractor
        courier = Courier(self._client, report, facility=extractor.facility, storage=extractor.storage)
        # What was deleted may be there again by now, and the other way round: the storage has the last word.
        there = [path for path in pending if pending[path] or self._is_there(path)]
        report.seen = len(there)
        for outcome in self._pool.extract(there):
            if outcome.record is not None or self._is_there(outcome.path):
                courier.take(outcome)
            else:
                courier.remove_path(outcome.path)
        for path in pending.keys() - set(there):
            courier.remove_path(path)
        for folder in folders:
            self._remove_below(folder, courier)
        courier.flush()
        return report

    def _is_there(self, path: str) -> bool:
        """Tell whether there is anything at `path`, also what may not be catalogued: that has to be told."""
        return os.path.lexists(os.path.join(self._extractor.tree.root, path))

    def _remove_below(self, folder: str, courier: Courier) -> None:
        prefix = f"{folder}/"
        for known in self._client.iter_files(self._extractor.storage, after=prefix):
            if not known.path.startswith(prefix):
                return
            if known.facility == self._extractor.facility and not self._extractor.tree.exists(known.path):
                courier.remove(known)

    def _scan_if_due(self) -> None:
        now = time.monotonic()
        if (self._scan_at and now < self._scan_at) or now < self._retry_at:
            return
        self._scan_at = now + self._scan_every_s
        options = replace(self._options, again=False, min_age_s=self._settle_s)
        self._with_care(lambda: self._note_young(scan(self._extractor, self._client, options=options)))

    def _note_young(self, report: IngestReport) -> IngestReport:
        """Scan again soon when files were too young: they may have been closed before anybody watched."""
        if report.young:
            self._scan_at = time.monotonic() + self._settle_s
        return report

    def _with_care(self, work: Callable[[], IngestReport]) -> None:
        try:
            self._on_batch(work())
        except TooManyVanishedError as error:
            logger.error("%s", error)
            self._on_batch(error.report)
        except (SendError, StorageError) as error:
            logger.warning("%s; trying again with a scan in %.0f s", error, AWAY_S)
            self._scan_at = 0.0
            self._retry_at = time.monotonic() + AWAY_S
