"""`catchment ingest`: a whole storage into the catalogue."""

import os
from pathlib import Path

import click

from aggregator.commands.console import examples, format_count, print_some, print_table, showing_progress
from aggregator.commands.failures import Failure, Misuse
from aggregator.commands.remote import Remote, token_option, url_option
from extractors.client import Client
from extractors.description import Description, builtin_names, find_description, load_description
from extractors.errors import DescriptionError
from extractors.ingest import IngestReport, ingest_tree, register
from metadata_db.records import Storage

COUNTS = ("seen", "extracted", "unmatched", "failed", "added", "changed", "unchanged", "rejected")
"""Columns of the summary, from the files of the storage to the rows of the catalogue."""

SHOWN = 10
"""Failures and rejections that are shown one by one."""


@click.command(epilog=examples("catchment ingest hess-dl3 --root /data/hess/dl3 --description hess"))
@click.argument("storage")
@click.option(
    "--root",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Where the storage is on this host.  [default: where it is registered]",
)
@click.option("--facility", help="Whose files they are.  [default: the Description's]")
@click.option("--description", "named", metavar="NAME|FILE", help="Description by which the files are read.")
@url_option
@token_option
@click.option("--header-only", is_flag=True, help="Read headers only: faster, without checksums and column values.")
@click.option(
    "--processes",
    type=click.IntRange(1),
    default=min(4, os.cpu_count() or 1),
    show_default="up to 4",
    help="Files read at once.",
)
def command(
    storage: str,
    root: Path | None,
    facility: str | None,
    named: str | None,
    url: str,
    token: str,
    header_only: bool,
    processes: int,
) -> None:
    """Catalogue a storage: walk, extract, send.

    Nothing is ever written into the storage. Running it again sends what has changed. With an admin's token and
    --root, facility and storage are registered too; a publisher's token needs them registered.

    Exit code 1 when the catalogue has rejected files; files whose content cannot be read are catalogued with what
    the storage knows of them.
    """
    description = None if named is None else find(named)
    facility = name_facility(facility, description)
    where = root.absolute() if root is not None else _registered_root(storage, url, token)
    with Client(url, token) as client:
        if root is not None:
            register(
                client,
                description=description,
                facility=facility,
                storage=Storage(name=storage, root=str(where), facility=facility),
            )
        with showing_progress(f"ingest {storage}") as progress:
            report = ingest_tree(
                where,
                storage=storage,
                facility=facility,
                description=description,
                client=client,
                processes=processes,
                header_only=header_only,
                on_progress=progress,
            )
    print_reports({storage: report})
    if report.rejected:
        raise Failure(f"the catalogue rejected {format_count(report.rejected, 'file')}")


def find(named: str) -> Description:
    """Return a built-in Description by its name, or the one in a file.

    Raises
    ------
    Misuse
        There is none, or it cannot be used.
    """
    try:
        built_in = find_description(named) if "/" not in named else None
        return built_in or load_description(Path(named))
    except FileNotFoundError as error:
        known = ", ".join(builtin_names())
        raise Misuse(f"--description: got {named!r}, expected a Description's file or one of {known}") from error
    except DescriptionError as error:
        raise Misuse(str(error)) from error


def name_facility(facility: str | None, description: Description | None) -> str:
    """Return the facility's name, which an option or the Description says; when both do, alike.

    Raises
    ------
    Misuse
        Neither says it, or they differ.
    """
    described = None if description is None else description.facility.name
    if facility is not None and described is not None and facility != described:
        raise Misuse(f"--facility: got {facility!r}, expected the Description's {described!r}")
    name = facility or described
    if name is None:
        raise Misuse("name the facility with --facility, or a --description that does")
    return name


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


def _registered_root(storage: str, url: str, token: str) -> Path:
    with Remote(url, token) as remote:
        for item in remote.storages():
            if item.name == storage:
                return Path(item.root)
    raise Failure(f"no storage {storage!r} is registered at {url}: say where it is with --root")
