"""Carries what extraction gave to the catalogue: records in batches, failures, and files that have vanished."""

import logging
import re
from collections.abc import Sequence
from dataclasses import dataclass, field

from extractors.client import MAX_FAILED_PATH, MAX_REASON, Client, Rejection, SendResult
from extractors.errors import RefusedError, SendError
from extractors.extract import Outcome
from metadata_db.records import Failure, FileRecord, KnownFile, PathError, Removal, check_path

logger = logging.getLogger(__name__)

BATCH_RECORDS = 1000
"""Records per request: about a megabyte, and one transaction of a fraction of a second."""

MAX_FAILURES_KEPT = 1000
"""Failures told one by one; of further ones only the number is kept."""

_UNPRINTABLE = re.compile("[\x00-\x1f\x7f\ud800-\udfff]")


@dataclass(frozen=True, kw_only=True, slots=True)
class ToldFailure:
    """One file that could not be catalogued, or not with its content, and why."""

    path: str
    reason: str


@dataclass(kw_only=True, slots=True)
class IngestReport:
    """What came of one run over a storage; counts while it goes on, in bounded memory."""

    seen: int = 0
    """Everything in the tree that is no folder."""
    new: int = 0
    changed_since: int = 0
    """Files whose size or time differ from what the catalogue knew."""
    same: int = 0
    """Files that were not read, because they are as the catalogue knows them."""
    reread: int = 0
    """Files that seem unchanged and were read again, for another Description or to verify the checksum."""
    young: int = 0
    """Files that were left alone, because they were written so lately that somebody may not be done with them."""
    unseen: int = 0
    """Files that the catalogue knows and that could not be looked at."""
    vanished: int = 0
    """Files that the catalogue knows and the storage has no more."""
    extracted: int = 0
    """Files that a Description matched and whose content could be read."""
    unmatched: int = 0
    """Files that match no product: registered with what the storage knows, or passed over on a shared storage."""
    failed: int = 0
    """Files that could not be catalogued, or only with what the storage knows."""
    failures: list[ToldFailure] = field(default_factory=list)
    failures_omitted: int = 0
    warnings: int = 0
    """Warnings in all records together."""
    added: int = 0
    changed: int = 0
    unchanged: int = 0
    removed: int = 0
    rejected: int = 0
    rejections: list[ToldFailure] = field(default_factory=list)
    rejections_omitted: int = 0
    revisions: dict[str, int] = field(default_factory=dict)

    def count_failure(self, path: str, reason: str) -> None:
        """Count one file that failed."""
        self.failed += 1
        if len(self.failures) < MAX_FAILURES_KEPT:
            self.failures.append(ToldFailure(path=path, reason=reason))
        else:
            self.failures_omitted += 1

    def count_outcome(self, outcome: Outcome) -> None:
        """Count one file that was tried."""
        if outcome.record is not None:
            self.warnings += len(outcome.record.warnings)
        if outcome.failure is not None:
            self.count_failure(outcome.path, outcome.failure)
        elif outcome.is_matched:
            self.extracted += 1
        else:
            self.unmatched += 1

    def count_result(self, result: SendResult) -> None:
        """Count what the catalogue did with one batch."""
        self.added += result.added
        self.changed += result.changed
        self.unchanged += result.unchanged
        self.rejected += result.rejected
        self.rejections_omitted += result.rejections_omitted
        self.revisions.update(result.revisions)

    def count_rejection(self, path: str, rejection: Rejection) -> None:
        """Keep why the catalogue did not take one record."""
        if len(self.rejections) < MAX_FAILURES_KEPT:
            reason = f"{rejection.field}: {rejection.reason}" if rejection.field else rejection.reason
            self.rejections.append(ToldFailure(path=path, reason=reason))
        else:
            self.rejections_omitted += 1


class Courier:
    """Collects outcomes and delivers them in batches; in a dry run they are counted and go nowhere.

    All methods raise `SendError` when the catalogue cannot be reached or refuses the sender. What was not delivered is
    kept, and goes first when it is tried again.
    """

    def __init__(
        self, client: Client, report: IngestReport, *, facility: str, storage: str, is_dry: bool = False
    ) -> None:
        self.report = report
        self._client = client
        self._facility = facility
        self._storage = storage
        self._is_dry = is_dry
        self._records: list[FileRecord] = []
        self._failures: list[Failure] = []
        self._removals: list[Removal] = []

    def take(self, outcome: Outcome) -> None:
        """Count one outcome, and send what has collected when it is enough."""
        self.report.count_outcome(outcome)
        if outcome.record is not None:
            self._records.append(outcome.record)
        if outcome.failure is not None:
            self._fail(outcome.path, outcome.failure)
        self._send_if(BATCH_RECORDS)

    def fail(self, path: str, reason: str) -> None:
        """Count and report a file that could not even be tried."""
        self.report.count_failure(path, reason)
        self._fail(path, reason)
        self._send_if(BATCH_RECORDS)

    def remove(self, known: KnownFile) -> None:
        """Take a file out of the catalogue: the version that was seen there."""
        self._removals.append(
            Removal(
                facility=self._facility,
                storage=self._storage,
                path=known.path,
                size_bytes=known.size_bytes,
                modified_at=known.modified_at,
            )
        )
        self._send_if(BATCH_RECORDS)

    def remove_path(self, path: str) -> None:
        """Take a file out of the catalogue, whichever version of it is there."""
        if not _is_path(path):
            return  # no catalogue holds it
        self._removals.append(Removal(facility=self._facility, storage=self._storage, path=path))
        self._send_if(BATCH_RECORDS)

    def flush(self) -> None:
        """Send everything that is left."""
        self._send_if(1)

    @property
    def is_empty(self) -> bool:
        """Whether nothing waits to be delivered."""
        return not (self._records or self._failures or self._removals)

    def _fail(self, path: str, reason: str) -> None:
        self._failures.append(told_failure(self._facility, self._storage, path, reason))

    def _send_if(self, most: int) -> None:
        if self._is_dry:
            self._records, self._failures, self._removals = [], [], []
            return
        if len(self._records) >= most:
            send_batch(self._client, self._records, self.report)
            self._records = []
        if len(self._failures) >= most:
            report_failures(self._client, self._failures)
            self._failures = []
        if len(self._removals) >= most:
            result = self._client.remove(self._removals)
            self.report.removed += result.removed
            self.report.revisions.update(result.revisions)
            self._removals = []


def _is_path(text: str) -> bool:
    try:
        return check_path(text) == spell(text)
    except PathError:
        return False


def told_failure(facility: str, storage: str, path: str, reason: str) -> Failure:
    """Return a failure as the catalogue keeps it, cut to what it takes."""
    return Failure(
        facility=facility,
        storage=storage,
        path=spell(path)[:MAX_FAILED_PATH] or "(no name)",
        reason=spell(reason)[:MAX_REASON] or "(no reason)",
    )


def spell(text: str) -> str:
    """Return `text` with what no catalogue takes as escapes: control characters, and bytes that are not UTF-8."""
    return _UNPRINTABLE.sub(_escape, text)


def _escape(found: re.Match[str]) -> str:
    code = ord(found[0])
    # As `printable` of the trees has it, so that the same name is told in the same way.
    return f"\\x{code - 0xDC00:02x}" if 0xDC80 <= code <= 0xDCFF else found[0].encode("unicode_escape").decode()


def report_failures(client: Client, failures: Sequence[Failure]) -> None:
    """Have the catalogue keep failures; those that it does not take are told in the log, and end no run.

    Raises
    ------
    SendError
        The catalogue cannot be reached, or this sender is not allowed to.
    """
    try:
        client.report_failures(failures)
    except RefusedError as error:
        if error.is_about_sender:
            raise
        logger.warning("not every failure could be kept: %s", error)


def send_batch(client: Client, batch: list[FileRecord], report: IngestReport) -> None:
    """Send one batch and count what became of it; a batch refused for its content counts as rejected, file by file.

    Raises
    ------
    SendError
        The catalogue cannot be reached, or this sender is not allowed to.
    """
    try:
        result = client.send(batch)
    except RefusedError as error:
        if error.is_about_sender:
            raise
        report.rejected += len(batch)
        for record in batch:
            report.count_rejection(record.path, Rejection(line=0, reason=str(error)))
        told = [told_failure(record.facility, record.storage, record.path, str(error)) for record in batch]
        report_failures(client, told)
        return
    if result.received != len(batch):
        raise SendError(f"sent {len(batch)} records, but the catalogue counted {result.received}")
    report.count_result(result)
    for rejection in result.rejections:
        report.count_rejection(batch[rejection.line - 1].path, rejection)
