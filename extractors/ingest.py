"""Brings a whole storage into the catalogue: compare, extract, send, and take out what has vanished.

A run that was interrupted needs no memory of its own: files that arrived are the same in the next one, and are not read
again.
"""

import tempfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from types import TracebackType
from typing import Literal, Self, TypeAlias

import msgspec

from extractors.client import Client
from extractors.comparing import Finding, Rereading, Same, ToRead, Unseen, Vanished, Young, compare
from extractors.courier import Courier, IngestReport, spell
from extractors.description import Description
from extractors.errors import RefusedError
from extractors.extract import Extractor
from extractors.pool import ExtractionPool, FileLimits
from extractors.storages.trees import RejectedFile, Tree
from metadata_db.records import DeadLetter, Facility, KnownFile, Storage

VanishedPolicy: TypeAlias = Literal["some", "all", "none"]
"""Which files that are no longer there leave the catalogue: all, none, or all provided that they are only some. A
storage that is not mounted looks like one that is empty."""

MAX_VANISHED_SHARE = 0.1
"""With more of its files gone than this, a storage is taken for broken, and not for cleaned up."""

MIN_VANISHED = 10
"""So few files may always vanish, however small the storage, as long as anything is left."""

_NOT_FOUND = 404

Progress: TypeAlias = Callable[[int, int], None]


@dataclass(frozen=True, kw_only=True, slots=True)
class ScanOptions:
    """How a storage is scanned."""

    processes: int = 2
    """How many files are read at once, each in a process of its own."""
    limits: FileLimits = field(default_factory=FileLimits)
    again: bool = False
    """Read also files that another Description has read, or an earlier state of the same."""
    checked_before: datetime | None = None
    """Read also files whose checksum was last verified before this."""
    vanished: VanishedPolicy = "some"
    min_age_s: float = 0.0
    """Leave new and changed files alone that were written less than so long ago: they may not be complete."""
    is_dry: bool = False
    """Do everything but tell the catalogue."""


class TooManyVanishedError(Exception):
    """So many files are gone that the storage is rather away than cleaned up; nothing was taken out."""

    def __init__(self, storage: str, vanished: int, known: int, report: IngestReport) -> None:
        self.vanished = vanished
        self.known = known
        self.report = report
        super().__init__(
            f"{vanished} of the {known} files known on {storage} are not there any more, which is more than a tenth: "
            "is it mounted? They stay in the catalogue; if they are really gone, say --vanished all"
        )


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


def scan(
    extractor: Extractor,
    client: Client,
    *,
    options: ScanOptions | None = None,
    on_progress: Progress | None = None,
) -> IngestReport:
    """Bring the catalogue in line with the extractor's storage, and return what came of it.

    Parameters
    ----------
    on_progress
        Called with the files done and the files in all, for which a local tree is listed once more beforehand; 0 in
        all is not known.

    Raises
    ------
    SendError
        The catalogue cannot be reached, or refuses the sender; running again goes on from there.
    TooManyVanishedError
        Everything else was done, but the vanished files are too many to be believed.
    StorageError
        The root cannot be listed.
    """
    options = options or ScanOptions()
    report = IngestReport()
    courier = Courier(client, report, facility=extractor.facility, storage=extractor.storage, is_dry=options.is_dry)
    total = (extractor.tree.count() or 0) if on_progress is not None else 0
    with _Missing() as missing, ExtractionPool(extractor, processes=options.processes, limits=options.limits) as pool:
        known = _iter_own(client, extractor, is_dry=options.is_dry)
        rereading = _rereading(extractor, options)
        findings = compare(
            extractor.tree.walk(), missing.counting(known), rereading=rereading, settled_before=_settled_before(options)
        )
        for outcome in pool.extract(_iter_to_read(findings, courier, missing)):
            courier.take(outcome)
            if on_progress is not None:
                on_progress(report.seen, total and max(total, report.seen))
        courier.flush()
        if on_progress is not None:
            on_progress(report.seen, total and max(total, report.seen))
        missing.remove_by(courier, options.vanished, extractor)
    return report


def _iter_own(client: Client, extractor: Extractor, *, is_dry: bool) -> Iterator[KnownFile]:
    """Yield what the catalogue knows of this facility's files; a storage may be shared."""
    try:
        for known in client.iter_files(extractor.storage):
            if known.facility == extractor.facility:
                yield known
    except RefusedError as error:
        # A dry run registers nothing, so the storage may be unknown as yet.
        if not (is_dry and error.status == _NOT_FOUND):
            raise


def _rereading(extractor: Extractor, options: ScanOptions) -> Rereading:
    is_again = options.again and extractor.description is not None
    label = extractor.description.label if is_again and extractor.description is not None else None
    return Rereading(label=label, checked_before=options.checked_before)


def _settled_before(options: ScanOptions) -> datetime | None:
    return datetime.now(UTC) - timedelta(seconds=options.min_age_s) if options.min_age_s else None


def _iter_to_read(findings: Iterable[Finding], courier: Courier, missing: "_Missing") -> Iterator[str]:
    """Yield the paths that are to be read, and deal with all other findings."""
    report = courier.report
    for finding in findings:
        match finding:
            case ToRead(path=path, reason=reason):
                report.seen += 1
                report.new += reason == "new"
                report.changed_since += reason == "changed"
                report.reread += reason in ("outdated", "due")
                yield path
            case Same():
                report.seen += 1
                report.same += 1
            case RejectedFile(path=path, reason=reason):
                report.seen += 1
                courier.fail(path, reason)
            case Young():
                report.seen += 1
                report.young += 1
            case Unseen():
                report.unseen += 1
            case Vanished(known=known):
                report.vanished += 1
                missing.add(known)


class _Missing:
    """The files that were not seen, kept in an unnamed file: whether to believe it is known only at the end."""

    def __init__(self) -> None:
        self._file = tempfile.TemporaryFile()  # noqa: SIM115 - closed with the object
        self._encoder = msgspec.json.Encoder()
        self._n_known = 0
        self._n_missing = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

    def counting(self, known: Iterable[KnownFile]) -> Iterator[KnownFile]:
        """Yield all of `known`, and count them."""
        for file in known:
            self._n_known += 1
            yield file

    def add(self, known: KnownFile) -> None:
        """Remember one that was not seen."""
        self._n_missing += 1
        self._file.write(self._encoder.encode(known) + b"\n")

    def remove_by(self, courier: Courier, policy: VanishedPolicy, extractor: Extractor) -> None:
        """Have them taken out of the catalogue, as far as the policy goes."""
        if policy == "none" or not self._n_missing:
            return
        most = max(MIN_VANISHED, self._n_known * MAX_VANISHED_SHARE)
        if policy == "some" and (self._n_missing > most or courier.report.seen == 0):
            raise TooManyVanishedError(extractor.storage, self._n_missing, self._n_known, courier.report)
        self._file.seek(0)
        decoder = msgspec.json.Decoder(KnownFile)
        for line in self._file:
            known = decoder.decode(line)
            # A file that came, and was catalogued by another process, behind the walk's back is not gone.
            if not extractor.tree.exists(known.path):
                courier.remove(known)
        courier.flush()


def replay(extractor: Extractor, client: Client, *, options: ScanOptions | None = None) -> IngestReport:
    """Try every file of the storage again that failed, and return what came of it.

    Failures of files that are gone are dismissed. A record that was rejected, and whose file is gone here, is sent once
    more as it was. What is there and may not be catalogued fails as before.

    Raises
    ------
    SendError
        The catalogue cannot be reached, or refuses the sender.
    StorageError
        The root cannot be listed.
    """
    options = options or ScanOptions()
    report = IngestReport()
    courier = Courier(client, report, facility=extractor.facility, storage=extractor.storage, is_dry=options.is_dry)
    letters = list(client.iter_failures(storage=extractor.storage, facility=extractor.facility))
    paths = {letter.path for letter in letters if letter.path is not None}
    present = {path for path in paths if extractor.tree.exists(path)}
    gone = _find_gone(extractor.tree, paths - present)
    report.seen = len(present)
    succeeded = set[str]()
    with ExtractionPool(extractor, processes=options.processes, limits=options.limits) as pool:
        for outcome in pool.extract(sorted(present)):
            courier.take(outcome)
            if outcome.failure is None:
                succeeded.add(outcome.path)
        courier.flush()
    if not options.is_dry:
        _settle(client, extractor, succeeded)
    for letter in letters:
        if letter.path not in present:
            _retry_without_file(letter, client, report, is_gone=letter.path in gone, is_dry=options.is_dry)
    return report


def _find_gone(tree: Tree, paths: set[str]) -> set[str]:
    """Return which of `paths` are gone: not there, and not in a folder that cannot be looked into.

    From a root with nothing in it, which is perhaps not mounted, nothing is gone.
    """
    if not paths:
        return set()
    gone, is_empty = set(paths), True
    for found in tree.walk():
        is_empty = False
        gone.discard(spell(found.path))
        if isinstance(found, RejectedFile) and found.is_folder:
            hidden = f"{spell(found.path)}/"
            gone = {path for path in gone if not path.startswith(hidden)}
    return set() if is_empty else gone


def _settle(client: Client, extractor: Extractor, succeeded: set[str]) -> None:
    """Dismiss failures of files that could be read by now, though no product of the Description matches them."""
    if not succeeded:
        return
    for letter in client.iter_failures(storage=extractor.storage, facility=extractor.facility):
        if letter.stage == "extraction" and letter.path in succeeded:
            client.dismiss(letter.id)


def _retry_without_file(
    letter: DeadLetter, client: Client, report: IngestReport, *, is_gone: bool, is_dry: bool
) -> None:
    report.seen += 1
    if letter.line is not None and (is_gone or letter.path is None):
        if not is_dry:
            result = client.send_lines(letter.line.encode() + b"\n")
            report.count_result(result)
            for rejection in result.rejections:
                report.count_rejection(letter.path or "(no path)", rejection)
    elif not is_gone:
        report.count_failure(letter.path or "(no path)", letter.reason)
    elif not is_dry:
        client.dismiss(letter.id)
