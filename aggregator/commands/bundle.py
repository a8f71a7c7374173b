"""The full response as its asker sees it: wait until it is complete, download it, verify it."""

import hashlib
import time
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, cast

from aggregator.commands.console import Progress
from aggregator.commands.download import download
from aggregator.commands.failures import Failure
from aggregator.commands.remote import ExportStatus, Remote
from aggregator.exports.bag import MANIFEST_NAME
from aggregator.exports.verification import Verification, verify_zip
from aggregator.staging.manifest import Missing, iter_entries, iter_missing, read_header

FIRST_POLL_S = 0.1
"""Pause before the state of an export is asked for again; it grows, because most are short and some are not."""

LONGEST_POLL_S = 2.0
"""No pause is longer."""

MAX_MISSING_KEPT = 1000
"""Missing files that are told one by one; of all, the number is known."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Bundle:
    """A downloaded archive and what its check found."""

    path: Path
    verification: Verification
    missing: tuple[Missing, ...]
    """Files that could not be had, with reasons; at most `MAX_MISSING_KEPT`."""


def wait_for_export(remote: Remote, export: ExportStatus, *, on_progress: Progress) -> ExportStatus:
    """Return the export when it is complete; progress is in bytes.

    Raises
    ------
    Failure
        It ended otherwise.
    """
    pause_s = FIRST_POLL_S
    while export.state in ("INITIALIZED", "WRITING"):
        on_progress(export.progress.bytes_done, export.bytes_total)
        time.sleep(pause_s)
        pause_s = min(1.3 * pause_s, LONGEST_POLL_S)
        export = remote.get_export(export.id)
    if export.state != "COMPLETED":
        raise Failure(f"the export {export.id} is {export.state}: {export.error or 'no reason is given'}")
    on_progress(export.progress.bytes_done, export.bytes_total)
    return export


def fetch_bundle(remote: Remote, export: ExportStatus, folder: Path, *, on_progress: Progress) -> Path:
    """Return where the archive of a complete export is in `folder`, downloaded unless it is there.

    Raises
    ------
    Failure
        It cannot be downloaded.
    """
    if export.archive_url is None:
        raise Failure(f"the export {export.id} has no archive")
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{export.query_id}.zip"
    if not _holds(path, export.manifest_sha256):
        download(remote.http, export.archive_url, path, on_progress=on_progress)
    return path


def verify_bundle(path: Path, export: ExportStatus) -> Bundle:
    """Compare an archive with the manifest in it, and that with the one which the service has named."""
    verification = verify_zip(path)
    if not verification.is_good:
        return Bundle(path=path, verification=verification, missing=())
    if not _holds(path, export.manifest_sha256):
        raise Failure(f"{path} is right in itself, but it is not the export {export.id}: download it again")
    with _open_manifest(path) as manifest:
        read_header(manifest)
        for _ in iter_entries(manifest):
            pass
        missing = [missed for missed, _ in zip(iter_missing(manifest), range(MAX_MISSING_KEPT), strict=False)]
    return Bundle(path=path, verification=verification, missing=tuple(missing))


def _holds(path: Path, manifest_sha256: str | None) -> bool:
    """Tell whether the archive at `path` has the manifest of this digest; nothing else in it is looked at."""
    try:
        with _open_manifest(path) as manifest:
            digest = hashlib.sha256()
            while block := manifest.read(1 << 20):
                digest.update(block)
            return digest.hexdigest() == manifest_sha256
    except (FileNotFoundError, StopIteration, zipfile.BadZipFile):
        return False


@contextmanager
def _open_manifest(path: Path) -> Iterator[BinaryIO]:
    with zipfile.ZipFile(path) as archive:
        names = (name for name in archive.namelist() if name.partition("/")[2] == MANIFEST_NAME)
        with archive.open(next(names)) as manifest:
            yield cast(BinaryIO, manifest)
