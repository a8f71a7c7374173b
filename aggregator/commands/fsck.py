"""`catchment fsck`: the catalogue checked against itself."""

from collections.abc import Iterable
from pathlib import Path

import click

from aggregator.commands.console import examples, format_count, print_some
from aggregator.commands.failures import EXIT_FAILURE
from aggregator.commands.migrate import require_newest
from aggregator.commands.servers import running_servers
from aggregator.commands.settings import data_dir_option, load_settings
from metadata_db.checking import SHOWN, Checker, Outcome


@click.command(epilog=examples("catchment fsck", "catchment fsck --facility hess --repair"))
@click.option("--repair", is_flag=True, help="Mend what can be derived from the rest, and check once more.")
@click.option("--facility", metavar="NAME", help="Look only at the files of this facility.")
@click.option("--sample", is_flag=True, help="Look at derived columns in one file of 256 only, whichever it is.")
@data_dir_option
def command(repair: bool, facility: str | None, sample: bool, data_dir: Path | None) -> None:
    """Check the catalogue against itself: counts, derived values, revisions, versions, indexes.

    Nothing is changed without --repair, and ingests may go on: each check looks at one state of the catalogue. It reads
    every file several times, some minutes for ten million; searches are as quick as the disks let them be.

    --repair counts anew, derives columns, moves revisions and rebuilds indexes. Ingests wait for each step, searches
    do not. What cannot be derived is only told.

    One line for each check, with what was compared, and the first findings. Exit code 1 if there are any; notes are
    none.
    """
    with running_servers(load_settings(data_dir=data_dir)) as settings:
        require_newest(settings)
        checker = Checker(settings.catalogue, facility=facility, is_sampled=sample)
        found = _print(checker.check())
        if found and repair:
            for done in checker.mend(found):
                click.echo(f"repair   {done}")
            click.echo("once more:")
            found = _print(checker.check())
    if found:
        raise SystemExit(EXIT_FAILURE)


def _print(outcomes: Iterable[Outcome]) -> list[Outcome]:
    """Print outcomes as they come; return those that say that something is wrong."""
    wrong = []
    for outcome in outcomes:
        if outcome.is_note and not outcome.count:
            continue
        verdict = "ok" if not outcome.count else "note" if outcome.is_note else "DAMAGED"
        count = f": {format_count(outcome.count, 'finding')}" if verdict == "DAMAGED" else ""
        click.echo(f"{verdict:<8} {outcome.name + ':':<13} {outcome.compares}{count}")
        print_some([f"         {text}" for text in outcome.findings], outcome.count, limit=SHOWN)
        if verdict == "DAMAGED":
            wrong.append(outcome)
    return wrong
