"""`catchment watch`: keeps the catalogue in line with a local storage."""

import signal
from pathlib import Path
from threading import Event
from typing import Any

import click

from aggregator.commands.console import examples
from aggregator.commands.extraction import Reading, reading_options
from aggregator.commands.failures import Failure, Misuse
from extractors.client import Client
from extractors.courier import IngestReport
from extractors.errors import StorageError
from extractors.following import QUIET_S, SCAN_EVERY_S, SETTLE_S, Follower
from extractors.ingest import ScanOptions
from extractors.storages.local_tree import LocalTree
from extractors.storages.watching import Watcher


@click.command(epilog=examples("catchment watch hess-dl3 --description hess"))
@reading_options
@click.option(
    "--scan-every",
    "scan_every_h",
    type=click.FloatRange(0.001),
    default=SCAN_EVERY_S / 3600,
    show_default=True,
    metavar="HOURS",
    help="Scan at least so often, for changes made by other hosts.",
)
@click.option(
    "--settle",
    "settle_s",
    type=click.FloatRange(0),
    default=SETTLE_S,
    show_default=True,
    metavar="SECONDS",
    help="Files that may be being written while nobody watched are read when they were left alone for so long.",
)
def command(reading: Reading, *, scan_every_h: float, settle_s: float) -> None:
    """Follow a storage: catalogue files as they are closed or moved in.

    It goes on until Ctrl-C. It begins with a scan, and scans again when the kernel could not keep up or the catalogue
    was away. Nothing is written into the storage, and no file in it is locked. Exit code 1 when the storage goes away.
    """
    options = ScanOptions(processes=reading.processes, limits=reading.limits)
    with Client(reading.url, reading.token) as client:
        extractor = reading.make_extractor(client)
        if not isinstance(extractor.tree, LocalTree):
            raise Misuse(f"{reading.storage}: only a folder of this host can be watched; scan {extractor.tree.root}")
        try:
            watcher = Watcher(Path(extractor.tree.root), quiet_s=QUIET_S)
        except StorageError as error:
            raise Failure(f"{reading.storage}: {error}") from error
        with (
            watcher,
            Follower(
                extractor, client, options=options, scan_every_s=scan_every_h * 3600, settle_s=settle_s, on_batch=_tell
            ) as follower,
        ):
            asked = Event()

            def stop(*_: object) -> None:
                asked.set()
                watcher.stop()

            for number in (signal.SIGINT, signal.SIGTERM):
                signal.signal(number, stop)
            click.echo(f"watching {extractor.tree.root}", err=True)
            follower.run(watcher)
    if not asked.is_set():
        raise Failure(f"{reading.storage}: {extractor.tree.root} cannot be watched any more")


def _tell(report: IngestReport) -> None:
    counts: dict[str, Any] = {
        "added": report.added,
        "changed": report.changed,
        "removed": report.removed,
        "failed": report.failed,
        "rejected": report.rejected,
    }
    told = ", ".join(f"{count:,} {name}" for name, count in counts.items() if count)
    if told:
        click.echo(told)
    for failure in (*report.failures, *report.rejections):
        click.echo(f"{failure.path}: {failure.reason}", err=True)
