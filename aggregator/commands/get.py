"""`catchment get`: from the question to a verified archive on this disk."""

from pathlib import Path
from typing import Any

import click

from aggregator.commands.bundle import Bundle, fetch_bundle, verify_bundle, wait_for_export
from aggregator.commands.console import examples, format_bytes, format_count, print_some, showing_progress
from aggregator.commands.failures import EXIT_GAPS, Failure
from aggregator.commands.filters import as_of_option, filter_options, take_filter
from aggregator.commands.remote import Answer, AsOf, Remote, url_option
from aggregator.commands.search import print_summary

SHOWN = 20
"""Missing files or problems that are shown one by one."""


@click.command(epilog=examples("catchment get --facility hess --object 'Crab Nebula' --output downloads"))
@filter_options
@click.option("--query", "query_id", metavar="ID", help="Id of a question that was asked before, instead of filters.")
@click.option(
    "--output",
    type=click.Path(file_okay=False, path_type=Path),
    default=".",
    show_default=True,
    help="Folder for the archive.",
)
@as_of_option
@url_option
def command(query_id: str | None, output: Path, as_of: dict[str, str] | None, url: str, **options: Any) -> None:
    """Ask, wait, download and verify.

    The files come as one ZIP, <query id>.zip: a BagIt bag with a manifest that names every file and its checksums, and
    every file that could not be had with the reason; with the question, its citation and the terms of the facilities.
    A download that was interrupted is continued by the same command.

    Exit code 0: everything is there and right; 3: some files could not be had, the others are right; 1: failure.
    """
    with Remote(url) as remote:
        answer = _ask(remote, query_id, take_filter(options, upload=remote.put_alerts), as_of)
        bundle = get_bundle(remote, answer, output, as_of=as_of)
    print_bundle(bundle)
    if not bundle.verification.is_good:
        raise Failure(f"{bundle.path} is not what its manifest says: remove it, and get it again")
    if bundle.verification.missing:
        raise SystemExit(EXIT_GAPS)


def get_bundle(remote: Remote, answer: Answer, folder: Path, *, as_of: AsOf = None) -> Bundle:
    """Let the export of an answer be prepared, download it, and check it.

    Raises
    ------
    Failure
        It cannot be had.
    """
    export = remote.prepare(answer.query_id, as_of=as_of)
    with showing_progress("prepare", in_bytes=True) as progress:
        export = wait_for_export(remote, export, on_progress=progress)
    with showing_progress("download", in_bytes=True) as progress:
        path = fetch_bundle(remote, export, folder, on_progress=progress)
    return verify_bundle(path, export)


def print_bundle(bundle: Bundle) -> None:
    """Print what was downloaded, what is missing and what is wrong."""
    found = bundle.verification
    right = f"{format_count(found.files, 'file')}, {format_bytes(found.bytes)}, agree with the manifest"
    click.echo(f"{bundle.path}: {right}")
    missing = [f"missing: {missed.path}: {missed.reason}" for missed in bundle.missing]
    print_some(missing, found.missing, limit=SHOWN)
    print_some([f"wrong: {problem}" for problem in found.problems], len(found.problems), limit=SHOWN)


def _ask(remote: Remote, query_id: str | None, filter_: dict[str, Any], as_of: AsOf) -> Answer:
    if (query_id is None) != bool(filter_):
        raise click.UsageError("give filters, or the id of a question with --query")
    answer = remote.search(filter_, as_of=as_of) if query_id is None else remote.reopen(query_id, as_of=as_of)
    print_summary(answer)
    if answer.total_count.value == 0:
        raise Failure("no file matches this question")
    return answer
