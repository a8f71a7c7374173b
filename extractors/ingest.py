"""Catalogues a whole storage: walk, extract, send."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

from extractors.client import Client, Rejection, SendResult
from extractors.description import Description
from extractors.errors import RefusedError, SendError
from extractors.extract import Extractor, Outcome
from extractors.pool import ExtractionPool
from extractors.scan import RejectedFile, count_files, walk
from metadata_db.records import Facility, FileRecord, Storage

BATCH_RECORDS = 1000
"""Records per request: about a megabyte, and one transaction of a fraction of a second."""

MAX_FAILURES_KEPT = 1000
"""Failures told one by one; of further ones only the number is kept."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Failure:
    """One file that could not be catalogued, or not with its content, and why."""

    path: str
    reason: str


@dataclass(frozen=True, kw_only=True, slots=True)
class IngestReport:
    """What came of one run over a storage."""

    seen: int
    """Everything in the tree that is no folder."""
    extracted: int
    """Files that a Description matched and whose content could be read."""
    unmatched: int
    """Files registered with what the storage knows, because no product matches."""
    failed: int
    """Files that could not be catalogued, or only with what the storage knows."""
    failures: list[Failure]
    failures_omitted: int
    warnings: int
    """Warnings in all records together."""
    added: int
    changed: int
    unchanged: int
    rejected: int
    rejections: list[Failure]
    rejections_omitted: int
    revisions: dict[str, int]


def register(client: Client, *, description: Description | None, facility: str, storage: Storage) -> None:
    """Register the facility (with all its Description says of it), its authority and the storage.

    Raises
    ------
    ValueError
        The Description is about another facility.
    SendError
        The catalogue cannot be reached, or refuses.
    """
    if description is not None and description.facility.name != facility:
        raise ValueError(
            f"facility: got {facility!r}, expected {description.facility.name!r}, "
            f"which is what the Description {description.name} is about"
        )
    if description is not None and description.authority is not None:
        client.put_authority(description.authority)
    client.put_facility(Facility(name=facility) if description is None else description.facility)
    client.put_storage(storage)


def ingest_tree(
    root: Path,
    *,
    storage: str,
    facility: str,
    description: Description | None,
    client: Client,
    processes: int = 2,
    header_only: bool = False,
    on_progress: Callable[[int, int], None] | None = None,
) -> IngestReport:
    """Catalogue every file below `root`, and return what came of it.

    Parameters
    ----------
    processes
        How many files are read at once, each in a process of its own.
    on_progress
        Called with the files done and the files in all; the tree is listed once more for it, beforehand.

    Raises
    ------
    SendError
        The catalogue cannot be reached, or refuses a whole batch for who sends it; running again goes on from there,
        since records that arrived are unchanged.
    OSError
        The root cannot be listed.
    """
    extractor = Extractor(
        root=root, facility=facility, storage=storage, description=description, header_only=header_only
    )
    total = count_files(root) if on_progress is not None else 0
    tally = Tally()
    with ExtractionPool(extractor, processes=processes) as pool:
        outcomes = pool.extract(_iter_accepted(root, tally))
        for batch in _iter_batches(_iter_counted(outcomes, tally, total, on_progress)):
            send_batch(client, batch, tally)
    return tally.report()


@dataclass(kw_only=True, slots=True)
class Tally:
    """Counts what happens to files while a run goes on; memory stays bounded."""

    seen: int = 0
    extracted: int = 0
    unmatched: int = 0
    failed: int = 0
    failures: list[Failure] = field(default_factory=list)
    warnings: int = 0
    added: int = 0
    changed: int = 0
    unchanged: int = 0
    rejected: int = 0
    rejections: list[Failure] = field(default_factory=list)
    revisions: dict[str, int] = field(default_factory=dict)

    def count_failure(self, path: str, reason: str) -> None:
        """Count one file that failed."""
        self.failed += 1
        if len(self.failures) < MAX_FAILURES_KEPT:
            self.failures.append(Failure(path=path, reason=reason))

    def count_outcome(self, outcome: Outcome) -> None:
        """Count one file that was tried."""
        self.seen += 1
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
        self.revisions.update(result.revisions)

    def count_rejection(self, path: str, rejection: Rejection) -> None:
        """Keep why the catalogue did not take one record."""
        if len(self.rejections) < MAX_FAILURES_KEPT:
            reason = f"{rejection.field}: {rejection.reason}" if rejection.field else rejection.reason
            self.rejections.append(Failure(path=path, reason=reason))

    def report(self) -> IngestReport:
        """Return the counts so far."""
        return IngestReport(
            seen=self.seen,
            extracted=self.extracted,
            unmatched=self.unmatched,
            failed=self.failed,
            failures=list(self.failures),
            failures_omitted=self.failed - len(self.failures),
            warnings=self.warnings,
            added=self.added,
            changed=self.changed,
            unchanged=self.unchanged,
            rejected=self.rejected,
            rejections=list(self.rejections),
            rejections_omitted=self.rejected - len(self.rejections),
            revisions=dict(self.revisions),
        )


def send_batch(client: Client, batch: list[FileRecord], tally: Tally) -> None:
    """Send one batch and count what became of it; a batch refused for its content counts as rejected.

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
        tally.rejected += len(batch)
        for record in batch:
            tally.count_rejection(record.path, Rejection(line=0, reason=str(error)))
        return
    if result.received != len(batch):
        raise SendError(f"sent {len(batch)} records, but the catalogue counted {result.received}")
    tally.count_result(result)
    for rejection in result.rejections:
        tally.count_rejection(batch[rejection.line - 1].path, rejection)


def _iter_accepted(root: Path, tally: Tally) -> Iterator[str]:
    for found in walk(root):
        if isinstance(found, RejectedFile):
            tally.seen += 1
            tally.count_failure(found.path, found.reason)
        else:
            yield found.path


def _iter_counted(
    outcomes: Iterable[Outcome], tally: Tally, total: int, on_progress: Callable[[int, int], None] | None
) -> Iterator[FileRecord]:
    """Count every outcome, and yield the records of those that have one."""
    for outcome in outcomes:
        tally.count_outcome(outcome)
        if on_progress is not None:
            on_progress(tally.seen, max(total, tally.seen))
        if outcome.record is not None:
            yield outcome.record


def _iter_batches(records: Iterator[FileRecord]) -> Iterator[list[FileRecord]]:
    while batch := list(islice(records, BATCH_RECORDS)):
        yield batch
