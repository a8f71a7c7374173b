"""Stands in a pipeline: passes paths on at once and unchanged, and catalogues the files beside that.

Two threads share a backlog. The first copies bytes from input to output and does nothing else that could fail or wait;
the second extracts and sends at its own pace. Whatever happens to the metadata, the paths have gone on.
"""

import logging
import os
import struct
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from extractors.client import Client, encode_lines
from extractors.errors import CatalogueAwayError, FileRejectedError, RefusedError, SendError
from extractors.extract import Extractor
from extractors.ingest import BATCH_RECORDS, Tally, send_batch
from extractors.pool import ExtractionPool
from extractors.scan import path_below, printable
from extractors.spool import Spool
from metadata_db.records import FileRecord

logger = logging.getLogger(__name__)

READ_BYTES = 65536
"""Most bytes taken from the input at once."""

ROUND_PATHS = 256
"""Most paths extracted between two looks at the backlog."""

MAX_BATCH_AGE_S = 2.0
"""Longest time that a record waits for others to share its batch."""

AWAY_S = 30.0
"""How long records go straight to the spool after the catalogue was found away."""

_LENGTH = struct.Struct("=I")


class PathBacklog:
    """Paths that are passed on but not yet catalogued; use it in a ``with`` statement.

    They are kept in an unnamed file, so that memory stays flat however far the cataloguing lags behind.
    """

    def __init__(self) -> None:
        self._file = tempfile.TemporaryFile()  # noqa: SIM115 - closed with the backlog
        self._changed = threading.Condition()
        self._read_at = 0
        self._write_at = 0
        self._is_closed = False

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

    def put(self, path: bytes) -> None:
        """Append one path.

        Raises
        ------
        OSError
            The disk of temporary files is full.
        """
        with self._changed:
            entry = _LENGTH.pack(len(path)) + path
            self._file.seek(self._write_at)
            self._file.write(entry)
            self._file.flush()
            self._write_at += len(entry)
            self._changed.notify()

    def take(self, most: int) -> list[bytes]:
        """Return up to `most` paths, waiting for at least one; none at all only when the backlog is closed."""
        with self._changed:
            self._changed.wait_for(lambda: self._is_closed or not self._is_empty())
            taken: list[bytes] = []
            while len(taken) < most and not self._is_empty():
                taken.append(self._take_one())
            if self._is_empty():
                self._read_at = self._write_at = 0
                self._file.truncate(0)
            return taken

    def is_empty(self) -> bool:
        """Return whether nothing waits."""
        with self._changed:
            return self._is_empty()

    def close(self, *, abandon: bool = False) -> None:
        """Say that no more paths will come; with `abandon`, also forget those that wait."""
        with self._changed:
            self._is_closed = True
            if abandon:
                self._read_at = self._write_at
            self._changed.notify()

    def _is_empty(self) -> bool:
        return self._read_at == self._write_at

    def _take_one(self) -> bytes:
        self._file.seek(self._read_at)
        (length,) = _LENGTH.unpack(self._file.read(_LENGTH.size))
        path = self._file.read(length)
        self._read_at += _LENGTH.size + length
        return path


def pass_on(source: int, target: int, backlog: PathBacklog, *, separator: bytes) -> bool:
    """Copy everything from one file descriptor to the other as it comes, and put the paths in it into `backlog`.

    Returns
    -------
    bool
        Whether all could be passed on; False when the reader at the other end went away.
    """
    unfinished = b""
    while chunk := os.read(source, READ_BYTES):
        is_written = write_all(target, chunk)
        *paths, unfinished = (unfinished + chunk).split(separator)
        put_all(backlog, paths)
        if not is_written:
            return False
    put_all(backlog, [unfinished])
    return True


def write_all(target: int, data: bytes) -> bool:
    """Write all of `data` and return True, or return False when nobody reads any more."""
    try:
        while data:
            data = data[os.write(target, data) :]
    except BrokenPipeError:
        return False
    return True


def put_all(backlog: PathBacklog, paths: Sequence[bytes]) -> None:
    """Put `paths` into `backlog`, but for empty ones; a full disk costs their metadata, never their passing on."""
    for path in paths:
        if path:
            try:
                backlog.put(path)
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

    def __init__(self, *, extractor: Extractor, client: Client, spool: Spool, processes: int = 1) -> None:
        self.tally = Tally()
        self.deliveries = Deliveries()
        self._extractor = extractor
        self._client = client
        self._spool = spool
        self._processes = processes
        self._away_until = 0.0

    @property
    def is_clean(self) -> bool:
        """Whether every file so far is in the catalogue with its content."""
        return not (self.tally.failed or self.tally.rejected or self.deliveries.spooled or self.deliveries.lost)

    def run(self, backlog: PathBacklog) -> None:
        """Work until `backlog` is closed and empty; never raises."""
        batch: list[FileRecord] = []
        try:
            with ExtractionPool(self._extractor, processes=self._processes) as pool:
                self._flush_spool()
                self._work(backlog, pool, batch)
                self._deliver(batch)
                self._flush_spool()
        except Exception:
            # The top of the job: without this the thread would die silently, and its batch with it.
            logger.exception("cataloguing stopped; the paths were passed on")
            self.tally.count_failure("(all further paths)", "cataloguing stopped by an error")
            self._keep(batch)

    def _work(self, backlog: PathBacklog, pool: ExtractionPool, batch: list[FileRecord]) -> None:
        since = time.monotonic()
        while paths := backlog.take(ROUND_PATHS):
            for outcome in pool.extract(self._iter_accepted(paths)):
                self.tally.count_outcome(outcome)
                if outcome.failure is not None:
                    logger.warning("%s: %s", outcome.path, outcome.failure)
                if outcome.record is not None:
                    batch.append(outcome.record)
            if len(batch) >= BATCH_RECORDS or backlog.is_empty() or time.monotonic() - since > MAX_BATCH_AGE_S:
                self._deliver(batch)
                since = time.monotonic()

    def _iter_accepted(self, paths: Sequence[bytes]) -> Iterator[str]:
        for path in paths:
            try:
                yield path_below(self._extractor.root, path)
            except FileRejectedError as error:
                logger.warning("%s", error)
                self.tally.seen += 1
                self.tally.count_failure(error.path, error.reason)

    def _deliver(self, batch: list[FileRecord]) -> None:
        """Send `batch`, or keep it in the spool; it is empty afterwards."""
        if not batch:
            return
        # What waits goes first: an older record of the same file must not arrive after a newer one.
        self._flush_spool()
        if self._is_away():
            self._keep(batch)
            return
        rejected_before = len(self.tally.rejections)
        try:
            send_batch(self._client, batch, self.tally)
            batch.clear()
        except SendError as error:
            self._note_away(error)
            self._keep(batch)
        for rejection in self.tally.rejections[rejected_before:]:
            logger.warning("%s: rejected by the catalogue: %s", rejection.path, rejection.reason)

    def _keep(self, batch: list[FileRecord]) -> None:
        if not batch:
            return
        try:
            self._spool.add(encode_lines(batch))
            self.deliveries.spooled += len(batch)
        except OSError as error:
            self.deliveries.lost += len(batch)
            logger.error("%d records are lost, the spool cannot be written: %s", len(batch), error)
        batch.clear()

    def _flush_spool(self) -> None:
        if self._is_away():
            return
        try:
            for result in self._spool.flush(self._client.send_lines):
                if isinstance(result, RefusedError):
                    logger.warning("a spooled batch was set aside: %s", result)
                    continue
                self.deliveries.from_spool += 1
                for rejection in result.rejections:
                    logger.warning("spooled record, line %d: rejected: %s", rejection.line, rejection.reason)
        except SendError as error:
            self._note_away(error)
        except OSError as error:
            logger.warning("the spool cannot be read: %s", error)

    def _is_away(self) -> bool:
        return time.monotonic() < self._away_until

    def _note_away(self, error: SendError) -> None:
        # A sender without the right will not get it during this run; a catalogue may come back.
        self._away_until = time.monotonic() + AWAY_S if isinstance(error, CatalogueAwayError) else float("inf")
        logger.warning("%s; records are kept in %s", error, self._spool.folder)
