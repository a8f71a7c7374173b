"""Stands in a pipeline: passes paths on at once and unchanged, and catalogues the files beside that.

Two threads share a backlog. The first copies bytes from input to output and does nothing else that could fail or wait;
the second extracts and sends at its own pace. Whatever happens to the metadata, the paths have gone on.
"""

import logging
import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import msgspec

from extractors.backlog import PathBacklog
from extractors.client import Client, SendResult, encode_lines
from extractors.courier import BATCH_RECORDS, IngestReport, report_failures, send_batch, told_failure
from extractors.errors import CatalogueAwayError, FileRejectedError, RefusedError, SendError
from extractors.extract import Extractor
from extractors.pool import ExtractionPool, FileLimits
from extractors.spool import Kind, Spool
from extractors.storages.trees import printable
from metadata_db.records import Failure, FileRecord

logger = logging.getLogger(__name__)

READ_BYTES = 65536
"""Most bytes taken from the input at once."""

ROUND_PATHS = 256
"""Most paths extracted between two looks at the backlog."""

MAX_BATCH_AGE_S = 2.0
"""Longest time that a record waits for others to share its batch."""

AWAY_S = 30.0
"""How long records go straight to the spool after the catalogue was found away."""


def pass_on(source: int, target: int, backlog: PathBacklog, *, separator: bytes, folder: bytes | None = None) -> bool:
    """Copy everything from one file descriptor to the other as it comes, and put the paths in it into `backlog`.

    Parameters
    ----------
    folder
        What relative paths are relative to; see `put_all`.

    Returns
    -------
    bool
        Whether all could be passed on; False when the reader at the other end went away.
    """
    unfinished = b""
    while chunk := os.read(source, READ_BYTES):
        *paths, unfinished = (unfinished + chunk).split(separator)
        # First into the journal, which takes microseconds: a path that has gone on must not be forgotten.
        put_all(backlog, paths, folder=folder)
        if not write_all(target, chunk):
            return False
    put_all(backlog, [unfinished], folder=folder)
    return True


def write_all(target: int, data: bytes) -> bool:
    """Write all of `data` and return True, or return False when nobody reads any more."""
    try:
        while data:
            data = data[os.write(target, data) :]
    except BrokenPipeError:
        return False
    return True


def put_all(backlog: PathBacklog, paths: Sequence[bytes], *, folder: bytes | None = None) -> None:
    """Put `paths` into `backlog`, but for empty ones; a full disk costs their metadata, never their passing on.

    Relative paths are taken to be in `folder`, so that they mean the same to a later run that is somewhere else.
    """
    for path in paths:
        if path:
            try:
                backlog.put(path if folder is None else os.path.join(folder, path))
            except OSError as error:
                logger.warning("%s: not catalogued: %s", printable(os.fsdecode(path)), error)


@dataclass(kw_only=True, slots=True)
class Deliveries:
    """What became of records that were to be sent."""

    spooled: int = 0
    lost: int = 0
    from_spool: int = 0
    """Batches of earlier runs that were sent now."""


class Forwarder:
    """Extracts the files of a backlog and sends their records, or spools them while the catalogue is away."""

    def __init__(
        self,
        *,
        extractor: Extractor,
        client: Client,
        spool: Spool,
        processes: int = 1,
        limits: FileLimits | None = None,
    ) -> None:
        self.report = IngestReport()
        self.deliveries = Deliveries()
        self._extractor = extractor
        self._client = client
        self._spool = spool
        self._processes = processes
        self._limits = limits or FileLimits()
        self._away_until = 0.0

    @property
    def is_clean(self) -> bool:
        """Whether every file so far is in the catalogue with its content."""
        return not (self.report.failed or self.report.rejected or self.deliveries.spooled or self.deliveries.lost)

    def run(self, backlog: PathBacklog) -> None:
        """Work until `backlog` is closed and empty; never raises."""
        batch = _Batch()
        try:
            with ExtractionPool(self._extractor, processes=self._processes, limits=self._limits) as pool:
                self._flush_spool()
                self._work(backlog, pool, batch)
                self._deliver(batch)
                backlog.done()
                self._flush_spool()
        except Exception:
            # The top of the job: without this the thread would die silently, and its batch with it.
            logger.exception("cataloguing stopped; the paths were passed on")
            self.report.count_failure("(all further paths)", "cataloguing stopped by an error")
            self._keep(batch)

    def _work(self, backlog: PathBacklog, pool: ExtractionPool, batch: "_Batch") -> None:
        since = time.monotonic()
        while paths := backlog.take(ROUND_PATHS):
            for outcome in pool.extract(self._iter_accepted(paths, batch)):
                self.report.seen += 1
                self.report.count_outcome(outcome)
                if outcome.failure is not None:
                    self._note_failure(outcome.path, outcome.failure, batch)
                if outcome.record is not None:
                    batch.records.append(outcome.record)
            if len(batch.records) >= BATCH_RECORDS or backlog.is_empty() or time.monotonic() - since > MAX_BATCH_AGE_S:
                self._deliver(batch)
                backlog.done()
                since = time.monotonic()

    def _iter_accepted(self, paths: Sequence[bytes], batch: "_Batch") -> Iterator[str]:
        for path in paths:
            try:
                yield self._extractor.tree.path_below(path)
            except FileRejectedError as error:
                self.report.seen += 1
                self.report.count_failure(error.path, error.reason)
                self._note_failure(error.path, error.reason, batch)

    def _note_failure(self, path: str, reason: str, batch: "_Batch") -> None:
        logger.warning("%s: %s", path, reason)
        failure = told_failure(self._extractor.facility, self._extractor.storage, path, reason)
        batch.failures.append(failure)

    def _deliver(self, batch: "_Batch") -> None:
        """Send `batch`, or keep it in the spool; it is empty afterwards."""
        if batch.is_empty:
            return
        # What waits goes first: an older record of the same file must not arrive after a newer one.
        self._flush_spool()
        if self._is_away():
            self._keep(batch)
            return
        rejected_before = len(self.report.rejections)
        try:
            if batch.records:
                send_batch(self._client, batch.records, self.report)
                batch.records.clear()
            if batch.failures:
                report_failures(self._client, batch.failures)
                batch.failures.clear()
        except SendError as error:
            self._note_away(error)
            self._keep(batch)
        for rejection in self.report.rejections[rejected_before:]:
            logger.warning("%s: rejected by the catalogue: %s", rejection.path, rejection.reason)

    def _keep(self, batch: "_Batch") -> None:
        try:
            if batch.records:
                self._spool.add(encode_lines(batch.records))
                self.deliveries.spooled += len(batch.records)
            if batch.failures:
                self._spool.add(encode_lines(batch.failures), "failures")
        except OSError as error:
            self.deliveries.lost += len(batch.records)
            logger.error("%d records are lost, the spool cannot be written: %s", len(batch.records), error)
        batch.records.clear()
        batch.failures.clear()

    def _flush_spool(self) -> None:
        if self._is_away():
            return
        try:
            for result in self._spool.flush(self._send_spooled):
                if isinstance(result, RefusedError):
                    logger.warning("a spooled batch was set aside: %s", result)
                elif result is not None:
                    self.deliveries.from_spool += 1
                    for rejection in result.rejections:
                        logger.warning("spooled record, line %d: rejected: %s", rejection.line, rejection.reason)
        except SendError as error:
            self._note_away(error)
        except OSError as error:
            logger.warning("the spool cannot be read: %s", error)

    def _send_spooled(self, kind: Kind, lines: bytes) -> SendResult | None:
        if kind == "files":
            return self._client.send_lines(lines)
        self._client.report_failures(msgspec.json.Decoder(Failure).decode_lines(lines))
        return None

    def _is_away(self) -> bool:
        return time.monotonic() < self._away_until

    def _note_away(self, error: SendError) -> None:
        # A sender without the right will not get it during this run; a catalogue may come back.
        self._away_until = time.monotonic() + AWAY_S if isinstance(error, CatalogueAwayError) else float("inf")
        logger.warning("%s; records are kept in %s", error, self._spool.folder)


@dataclass(kw_only=True, slots=True)
class _Batch:
    """What waits to be delivered."""

    records: list[FileRecord] = field(default_factory=list)
    failures: list[Failure] = field(default_factory=list)

    @property
    def is_empty(self) -> bool:
        return not (self.records or self.failures)
