"""`python -m benchmarks`: prints figures, with the machine they belong to. It never judges them."""

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import click
import orjson
from rich.console import Console

from benchmarks import (
    archives,
    extraction,
    hits,
    ingest,
    lookups,
    migration,
    misses,
    pgstac,
    search,
    stac,
    staging,
    writes,
)
from benchmarks.machine import describe_machine
from benchmarks.measuring import Table, as_mapping, print_table
from benchmarks.questions import KINDS
from benchmarks.service import running_servers

TABLE_WIDTH = 240
"""Columns of a table in a pipe; cut tables are of no use."""


@click.command()
@click.argument(
    "which",
    type=click.Choice(
        [
            "ingest",
            "lookups",
            "history",
            "migration",
            "writes",
            "search",
            "hits",
            "misses",
            "staging",
            "archives",
            "extraction",
            "stac",
            "all",
        ]
    ),
    default="all",
)
@click.option("--files", type=click.IntRange(12), default=1_000_000, show_default=True, help="Catalogued files.")
@click.option("--staged", type=click.IntRange(1), default=2_000, show_default=True, help="Staged files of 1 MB.")
@click.option("--tiny", type=click.IntRange(1), default=20_000, show_default=True, help="Staged tiny files.")
@click.option(
    "--samples", type=click.FloatRange(0, 1, min_open=True), default=1.0, show_default=True, help="Share of samples."
)
@click.option("--repeats", type=click.IntRange(1), default=3, show_default=True, help="How often all is measured.")
@click.option("--questions", type=click.IntRange(1), default=20, show_default=True, help="Look-ups of each kind.")
@click.option(
    "--kind",
    "kinds",
    multiple=True,
    type=click.Choice(list(KINDS)),
    help="Kind of look-up; may be repeated.  [default: all]",
)
@click.option(
    "--requests",
    type=click.IntRange(1),
    default=100_000,
    show_default=True,
    help="Requests that show how memory grows.",
)
@click.option(
    "--limit-s", type=click.FloatRange(0.1), default=10.0, show_default=True, help="Longest load of searches."
)
@click.option(
    "--data-dir",
    type=click.Path(file_okay=False, path_type=Path),
    help="Where everything is kept; search uses its catalogue again.  [default: a temporary folder]",
)
@click.option("--json", "json_file", type=click.Path(dir_okay=False, path_type=Path), help="Write all values here.")
def main(
    which: str,
    files: int,
    staged: int,
    tiny: int,
    samples: float,
    repeats: int,
    questions: int,
    kinds: Sequence[str],
    requests: int,
    limit_s: float,
    data_dir: Path | None,
    json_file: Path | None,
) -> None:
    """Measure the service on this machine: ingest, writes, search, hits, staging, archives, extraction.

    'stac' compares it with pgstac; it needs Debian packages and is not among 'all'.

    \b
    Example:
      python -m benchmarks search --files 100000 --json search.json
    """
    if which == "stac" and (missing := pgstac.describe_missing()):
        raise click.ClickException(missing)
    console = Console()
    if not console.is_terminal:
        console.width = TABLE_WIDTH
    tables: list[Table] = []

    def show(*measured: Table) -> None:
        for table in measured:
            print_table(table, console)
        tables.extend(measured)

    with _open_folder(data_dir) as folder, running_servers(folder) as servers:
        machine = describe_machine(servers)
        for name, value in machine.items():
            console.print(f"- {name}: {value}", markup=False, highlight=False)
        console.print()
        if which in ("extraction", "all"):
            show(*extraction.run(folder, scale=samples, repeats=repeats))
        if which in ("ingest", "all"):
            show(ingest.run(servers, n_files=files, repeats=repeats))
        if which in ("lookups", "all"):
            wanted = kinds or list(KINDS)
            show(*lookups.run(servers, n_files=files, repeats=repeats, questions=questions, wanted=wanted))
        if which in ("writes", "all"):
            show(*writes.run(servers, n_files=files, repeats=repeats, limit_s=limit_s))
        if which in ("history", "all"):
            show(lookups.run_history(servers, n_files=files, questions=questions))
        if which in ("migration", "all"):
            show(migration.run(servers, n_files=files))
        if which in ("search", "all"):
            show(*search.run(servers, n_files=files, repeats=repeats, limit_s=limit_s))
        if which in ("hits", "all"):
            show(*hits.run(servers, repeats=repeats, limit_s=limit_s, requests=requests))
        if which in ("staging", "all"):
            show(staging.run(servers, n_files=staged, n_tiny=tiny, repeats=repeats))
        if which in ("archives", "all"):
            show(*archives.run(servers, n_files=staged, n_tiny=tiny, repeats=repeats))
        if which in ("misses", "all"):
            for table in misses.run(servers, n_files=files, repeats=repeats, limit_s=limit_s):
                show(table)
        if which == "stac":
            for table in stac.run(servers, n_files=files, repeats=repeats, limit_s=limit_s):
                show(table)
    if json_file is not None:
        content = {"machine": machine, "tables": [as_mapping(table) for table in tables]}
        json_file.write_bytes(orjson.dumps(content, option=orjson.OPT_INDENT_2))


@contextmanager
def _open_folder(data_dir: Path | None) -> Iterator[Path]:
    if data_dir is not None:
        data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        yield data_dir.resolve()
        return
    with tempfile.TemporaryDirectory(prefix="catchment-benchmarks-") as folder:
        yield Path(folder)


if __name__ == "__main__":
    main()
