"""`catchment ingest`: a storage into the catalogue, what failed of it, and that once more."""

import os
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import click
import msgspec

from aggregator.commands.console import examples, format_count, print_some, print_table, showing_progress
from aggregator.commands.extraction import Reading, reading_options
from aggregator.commands.failures import Failure
from aggregator.commands.remote import token_option, url_option
from aggregator.commands.settings import data_dir_option
from extractors.client import Client
from extractors.courier import IngestReport
from extractors.errors import StorageError
from extractors.ingest import ScanOptions, TooManyVanishedError, replay, scan

COUNTS = ("seen", "same", "extracted", "unmatched", "failed", "added", "changed", "unchanged", "removed", "rejected")
"""Columns of the summary, from the files of the storage to the rows of the catalogue."""

SHOWN = 10
"""Failures and rejections that are shown one by one."""


class DefaultGroup(click.Group):
    """A group whose first command is meant when none is named: ``ingest NAME`` is ``ingest scan NAME``.

    ``ingest --bulk FILE`` is another spelling of ``ingest bulk FILE``.
    """

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Put the default command in front, unless another one or help is asked for."""
        if args and args[0] not in (*self.commands, *ctx.help_option_names):
            if "--bulk" in args:
                args = ["bulk", *(word for word in args if word != "--bulk")]
            else:
                args = [next(iter(self.commands)), *args]
        return super().parse_args(ctx, args)


@click.group(
    cls=DefaultGroup,
    epilog=examples(
        "catchment ingest hess-dl3 --root /data/hess/dl3 --description hess",
        "catchment ingest hess-dl3 --description hess --again",
        "catchment ingest failed hess-dl3",
        "catchment ingest replay hess-dl3 --description hess",
        "catchment ingest bulk records.ndjson.zst",
    ),
)
def command() -> None:
    """Catalogue a storage: compare, extract, send; see what failed, and replay it.

    'catchment ingest STORAGE' means 'catchment ingest scan STORAGE', and 'catchment ingest --bulk FILE' means
    'catchment ingest bulk FILE'.
    """


@command.command("scan", epilog=examples("catchment ingest scan hess-dl3 --root /data/hess/dl3 --description hess"))
@reading_options
@click.option("--again", is_flag=True, help="Read also files that were read by another state of the Description.")
@click.option("--checksums", is_flag=True, help="Read all files again and verify their checksums.")
@click.option(
    "--checksums-after",
    type=click.FloatRange(0),
    metavar="DAYS",
    help="Verify those whose checksum was last seen right so many days ago.",
)
@click.option(
    "--vanished",
    type=click.Choice(["some", "all", "none"]),
    default="some",
    show_default=True,
    help="Take vanished files out of the catalogue: unless they are more than a tenth, all, or none.",
)
@click.option(
    "--min-age",
    type=click.FloatRange(0),
    default=0.0,
    metavar="SECONDS",
    help="Leave new and changed files alone that were written less than so long ago.",
)
@click.option("--dry-run", is_flag=True, help="Do everything, but tell the catalogue nothing.")
@click.option("--report", "report_file", type=click.Path(dir_okay=False, path_type=Path), help="Where to write it.")
def scan_command(
    reading: Reading,
    *,
    again: bool,
    checksums: bool,
    checksums_after: float | None,
    vanished: Any,
    min_age: float,
    dry_run: bool,
    report_file: Path | None,
) -> None:
    """Bring the catalogue in line with a storage: new, changed and vanished files.

    Nothing is ever written into the storage. Files whose size and time are as the catalogue knows them are not read,
    so running it again goes on where an interrupted run ended. With an admin's token and --root, facility and storage
    are registered too; a publisher's token needs them registered.

    Exit code 1 when the catalogue has rejected files, or when so many have vanished that the storage is rather away.
    Files whose content cannot be read are catalogued with what the storage knows of them; see 'ingest failed'.
    """
    options = ScanOptions(
        processes=reading.processes,
        limits=reading.limits,
        again=again,
        checked_before=_checked_before(checksums, checksums_after),
        vanished=vanished,
        min_age_s=min_age,
        is_dry=dry_run,
    )
    too_many: TooManyVanishedError | None = None
    with Client(reading.url, reading.token) as client:
        extractor = reading.make_extractor(client, is_dry=dry_run)
        with showing_progress(f"ingest {reading.storage}") as progress:
            try:
                report = scan(extractor, client, options=options, on_progress=progress)
            except TooManyVanishedError as error:
                too_many, report = error, error.report
            except StorageError as error:
                raise Failure(f"{reading.storage}: {error}") from error
    print_reports({reading.storage: report})
    if dry_run:
        click.echo(f"a dry run: {_say_what_would_be(report)}")
    _write_report(report, report_file or _default_report(reading.storage))
    if too_many is not None:
        raise Failure(str(too_many))
    if report.rejected:
        raise Failure(f"the catalogue rejected {format_count(report.rejected, 'file')}")


@command.command(epilog=examples("catchment ingest failed", "catchment ingest failed hess-dl3 --json"))
@click.argument("storage", required=False)
@click.option("--facility", help="Only of this facility.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object per line, with the record that was rejected.")
@url_option
@token_option
def failed(storage: str | None, facility: str | None, as_json: bool, url: str, token: str) -> None:
    """Show every file or record that failed, and why; they are kept until they succeed.

    Exit code 1 when there are any.
    """
    with Client(url, token) as client:
        letters = list(client.iter_failures(storage=storage, facility=facility))
    if as_json:
        for letter in letters:
            click.echo(msgspec.json.encode(letter))
    elif letters:
        rows = [
            (item.storage, item.path, item.stage, item.tries, f"{item.last_at:%Y-%m-%d %H:%M}", _why(item))
            for item in letters
        ]
        print_table(("storage", "path", "stage", "tries", "last", "reason"), rows)
    else:
        click.echo("nothing failed")
    raise SystemExit(1 if letters else 0)


@command.command("replay", epilog=examples("catchment ingest replay hess-dl3 --description hess"))
@reading_options
def replay_command(reading: Reading) -> None:
    """Try everything again that failed: files are read anew, records of files that are elsewhere are sent again.

    Exit code 1 when something still fails.
    """
    options = ScanOptions(processes=reading.processes, limits=reading.limits)
    with Client(reading.url, reading.token) as client:
        report = replay(reading.make_extractor(client), client, options=options)
    print_reports({reading.storage: report})
    if report.failed or report.rejected:
        raise Failure(f"{format_count(report.failed + report.rejected, 'file')} failed again")


@command.command(
    "bulk", epilog=examples("catchment ingest bulk records.ndjson.zst", "catchment ingest --bulk 20*.ndjson.gz")
)
@click.argument("files", nargs=-1, required=True, type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option(
    "--processes",
    type=click.IntRange(1, 256),
    default=min(8, os.cpu_count() or 1),
    show_default="one for each processor, at most 8",
    help="Processes that decode and check lines.",
)
@data_dir_option
def bulk_command(files: tuple[Path, ...], processes: int, data_dir: Path | None) -> None:
    """Fill an empty catalogue with records, several times faster than batch by batch.

    FILES are NDJSON with one record in each line, plain, gzip (.gz) or zstd (.zst). Facilities and storages are
    registered before. It talks to the database of CATCHMENT_DATABASE_URL, or to the embedded one in the data directory,
    and needs no service. All or nothing is loaded, and searches wait meanwhile. Lines that have replicas or are not
    good are then given to the ordinary ingest; what that rejects is kept, see 'ingest failed'.

    Exit code 1 when there are files in the catalogue already, or when the catalogue has rejected lines; 2 when a path
    of a storage stands in two lines.
    """
    # Loads the database's side, which commands that talk to a service do without.
    from aggregator.commands.bulk import load_files

    load_files(files, data_dir=data_dir, processes=processes)


def print_reports(reports: dict[str, IngestReport]) -> None:
    """Print what came of some storages: a table, and the first failures with their reasons."""
    print_table(
        ("storage", *COUNTS),
        [(storage, *(getattr(report, name) for name in COUNTS)) for storage, report in reports.items()],
    )
    for storage, report in reports.items():
        for what, failures, count in (
            ("failed", report.failures, report.failed),
            ("rejected", report.rejections, report.rejected),
        ):
            lines = [f"{what}: {storage}/{failure.path}: {failure.reason}" for failure in failures]
            print_some(lines, count, limit=SHOWN)
        if report.warnings:
            click.echo(f"{storage}: {format_count(report.warnings, 'warning')} in the records")


def _checked_before(all_files: bool, after_days: float | None) -> datetime | None:
    if all_files:
        return datetime.max.replace(tzinfo=UTC)
    return None if after_days is None else datetime.now(UTC) - timedelta(days=after_days)


def _say_what_would_be(report: IngestReport) -> str:
    return (
        f"{report.new:,} new, {report.changed_since:,} changed, {report.reread:,} read again, "
        f"{report.vanished:,} vanished; the catalogue was told nothing"
    )


def _why(letter: Any) -> str:
    return f"{letter.field}: {letter.reason}" if letter.field else str(letter.reason)


def _default_report(storage: str) -> Path:
    now = datetime.now(UTC)
    return Path(click.get_app_dir("catchment")) / "reports" / f"{storage}-{now:%Y%m%dT%H%M%SZ}.json"


def _write_report(report: IngestReport, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(msgspec.json.format(msgspec.json.encode(report), indent=2) + b"\n")
    click.echo(f"report: {path}")
