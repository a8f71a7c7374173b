"""`catchment search`: the quick response on the command line."""

from typing import Any

import click
import msgspec

from aggregator.commands.console import examples, format_bytes, format_count, print_table
from aggregator.commands.filters import as_of_option, filter_options, take_filter
from aggregator.commands.remote import Answer, FoundFile, Remote, url_option


@click.command(
    epilog=examples(
        "catchment search --object 'Crab Nebula' --season 2019/20",
        "catchment search --cone 83.6,22.0,2 --energy '1..10 TeV' --json",
        "catchment search --facility hess --season 2019/20 --as-of 812",
        "catchment search --near bursts.csv --within-s 600 --within-deg 5",
    )
)
@filter_options
@click.option("--first", type=click.IntRange(1, 1000), default=20, show_default=True, help="Files to show.")
@click.option("--after", metavar="CURSOR", help="Go on behind a page: the cursor that it ended with.")
@as_of_option
@url_option
@click.option("--json", "as_json", is_flag=True, help="Print the answer as one JSON document.")
def command(
    first: int, after: str | None, as_of: dict[str, str] | None, url: str, as_json: bool, **options: Any
) -> None:
    """Ask which files there are.

    Values of one filter are alternatives; all filters that are given must hold. The query id that is printed stands
    for the question: `catchment get --query ID` fetches the files. The revision stands for the state of the catalogue:
    --as-of with it gives the same answer for ever.
    """
    with Remote(url) as remote:
        answer = remote.search(take_filter(options, upload=remote.put_alerts), first=first, after=after, as_of=as_of)
    if as_json:
        click.echo(msgspec.json.format(msgspec.json.encode(answer), indent=2))
    else:
        print_answer(answer)


def print_answer(answer: Answer) -> None:
    """Print an answer for people."""
    print_summary(answer)
    if answer.files.nodes:
        click.echo()
        print_table(
            ("facility", "storage", "path", "size", "begin", "object"), [_row(file) for file in answer.files.nodes]
        )
    if answer.files.page_info.has_next_page:
        click.echo(f"\nmore: --after {answer.files.page_info.end_cursor}")


def print_summary(answer: Answer) -> None:
    """Print what is known of an answer without its files."""
    about = "about " if answer.total_count.is_estimate else ""
    click.echo(f"{about}{format_count(answer.total_count.value, 'file')}, {format_bytes(answer.total_bytes)}")
    click.echo(f"query id {answer.query_id}")
    click.echo(f"revision {answer.revision}")


def _row(file: FoundFile) -> tuple[object, ...]:
    return (
        file.facility,
        file.storage,
        file.path,
        format_bytes(file.size_bytes),
        None if file.time_begin is None else file.time_begin[:19],
        file.object,
    )
