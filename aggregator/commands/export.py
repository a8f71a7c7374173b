"""`catchment export`: the exports of an installation, and single ones."""

import asyncio
from collections.abc import Sequence
from pathlib import Path

import click

from aggregator.commands.console import examples, format_bytes, print_table
from aggregator.commands.migrate import require_newest
from aggregator.commands.remote import ExportStatus, Remote, url_option
from aggregator.commands.servers import running_servers
from aggregator.commands.settings import data_dir_option, load_settings
from aggregator.settings import Settings
from aggregator.staging.ledger import Export, ExportLedger
from aggregator.staging.queue import TaskQueue
from metadata_db.database import Database


@click.group()
def command() -> None:
    """Look at exports, or cancel one."""


@command.command("list", epilog=examples("catchment export list --limit 10"))
@click.option("--limit", type=click.IntRange(1, 10_000), default=50, show_default=True, help="Newest exports to list.")
@data_dir_option
def list_(limit: int, data_dir: Path | None) -> None:
    """List the newest exports of this installation.

    It reads the database itself: what others have asked for is the operator's business alone.
    """
    with running_servers(load_settings(data_dir=data_dir)) as settings:
        require_newest(settings)
        exports = asyncio.run(_list(settings, limit))
    print_table(
        ("id", "query id", "state", "files", "failed", "size", "asked for"),
        [
            (
                *(export.id, export.query_id, export.state.value, export.files_total, export.files_failed),
                *(format_bytes(export.bytes_total), f"{export.created_at:%Y-%m-%d %H:%M}"),
            )
            for export in exports
        ],
    )


@command.command(epilog=examples("catchment export show 0cc175b9c0f1b6a831c399e269772661"))
@click.argument("export_id", metavar="ID")
@url_option
def show(export_id: str, url: str) -> None:
    """Show one export."""
    with Remote(url) as remote:
        _print(remote.get_export(export_id), remote.url)


@command.command(epilog=examples("catchment export cancel 0cc175b9c0f1b6a831c399e269772661"))
@click.argument("export_id", metavar="ID")
@url_option
def cancel(export_id: str, url: str) -> None:
    """Stop an export that is not complete yet."""
    with Remote(url) as remote:
        _print(remote.cancel(export_id), remote.url)


async def _list(settings: Settings, limit: int) -> Sequence[Export]:
    database = Database(settings.catalogue)
    try:
        return await ExportLedger(database, TaskQueue(settings.catalogue)).list(limit)
    finally:
        await database.close()


def _print(export: ExportStatus, url: str) -> None:
    progress = export.progress
    lines = {
        "export": export.id,
        "query id": export.query_id,
        "state": export.state,
        "files": f"{progress.files_done:,} of {export.files_total:,}, {progress.files_failed:,} could not be had",
        "size": f"{format_bytes(progress.bytes_done)} of {format_bytes(export.bytes_total)}",
        "asked for": export.created_at,
        "complete": export.completed_at,
        "error": export.error,
        "archive": None if export.archive_url is None else f"{url}{export.archive_url}",
    }
    for name, value in lines.items():
        if value is not None:
            click.echo(f"{name + ':':<11}{value}")
