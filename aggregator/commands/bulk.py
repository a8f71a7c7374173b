"""What `catchment ingest bulk` does: a first load past the service, and what is left of it by the ordinary ingest."""

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import TypeVar

import click

from aggregator.commands.console import Progress, format_count, print_some, print_table, showing_progress
from aggregator.commands.failures import Failure
from aggregator.commands.migrate import migrated_database
from metadata_db.bulk import BulkReport, OnProgress, load
from metadata_db.database import Database
from metadata_db.ingest import Ingest
from metadata_db.settings import CatalogueSettings
from metadata_db.vocabulary import VocabularyStore

SHOWN = 10
"""Rejections that are shown one by one."""

T = TypeVar("T")


def load_files(files: Sequence[Path], *, data_dir: Path | None, processes: int) -> None:
    """Load files in bulk, then what is left of them, and print what came of it."""
    with migrated_database(data_dir) as settings:
        catalogue = settings.catalogue
        vocabulary = asyncio.run(_with_catalogue(catalogue, lambda vocabulary, _: vocabulary.get()))
        with _showing_steps() as on_progress:
            report = load(files, catalogue, vocabulary, processes=processes, on_progress=on_progress)
        with closing(report):
            _print(report)
            if report.left:
                _load_left(report, catalogue)


@contextmanager
def _showing_steps() -> Iterator[OnProgress]:
    """Show each step with its own progress."""
    with ExitStack() as shown:
        steps: dict[str, Progress] = {}

        def tell(step: str, done: int) -> None:
            if step not in steps:
                shown.close()
                steps[step] = shown.enter_context(showing_progress(f"ingest bulk: {step}"))
            steps[step](done, 0)

        yield tell


def _print(report: BulkReport) -> None:
    print_table(("step", "seconds"), [(step, f"{seconds:.1f}") for step, seconds in report.seconds.items()])
    seconds = sum(report.seconds.values())
    click.echo(
        f"{format_count(report.received, 'line')}, {report.added:,} added in {seconds:.1f} s,"
        f" {report.added / max(seconds, 1e-3):,.0f} a second"
    )


def _load_left(report: BulkReport, settings: CatalogueSettings) -> None:
    done = asyncio.run(
        _with_catalogue(
            settings, lambda vocabulary, database: Ingest(database, vocabulary).load(report.iter_left(), allowed=None)
        )
    )
    click.echo(
        f"{format_count(report.left, 'line')} by the ordinary ingest: {done.added:,} added, {done.changed:,} changed,"
        f" {done.unchanged:,} unchanged, {done.rejected:,} rejected"
    )
    if done.rejected:
        lines = [f"rejected: {item.field or 'line'}: {item.reason}" for item in done.rejections]
        print_some(lines, done.rejected, limit=SHOWN)
        raise Failure(f"the catalogue rejected {format_count(done.rejected, 'line')}, see 'catchment ingest failed'")


async def _with_catalogue(
    settings: CatalogueSettings, action: Callable[[VocabularyStore, Database], Awaitable[T]]
) -> T:
    database = Database(settings)
    try:
        return await action(VocabularyStore(database), database)
    finally:
        await database.close()
