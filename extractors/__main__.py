"""The command of the experiments: ``python -m extractors check | show | send``.

Messages go to standard error. Standard output carries what was asked for: records, or the paths that are passed on.
"""

import hashlib
import logging
import os
import signal
import sys
import threading
from pathlib import Path
from typing import Any, NoReturn

import click
import msgspec

from extractors.client import Client
from extractors.description import Description, builtin_names, find_description, load_description
from extractors.errors import DescriptionError, FileRejectedError, SendError
from extractors.extract import Extractor, Outcome
from extractors.pipeline import Forwarder, PathBacklog, pass_on, put_all, write_all
from extractors.scan import path_below
from extractors.spool import Spool
from metadata_db.records import FileRecord

_STORAGE_FIELDS = ("path", "size_bytes", "format", "modified_at", "md5", "sha256")
_UNSHOWN_FIELDS = ("facility", "storage", "attributes", "provenance", "warnings", "replicas")


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def main() -> None:
    """Describe the files of an experiment to a Catchment catalogue, without ever writing where they are."""
    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stderr)


@main.command()
@click.argument("files", nargs=-1, required=True, type=click.Path(path_type=Path), metavar="FILE...")
def check(files: tuple[Path, ...]) -> None:
    """Check Descriptions, and say line, key, what was found and what was expected of each mistake."""
    is_good = True
    for path in files:
        try:
            description = load_description(path)
        except (DescriptionError, OSError) as error:
            click.echo(str(error), err=True)
            is_good = False
            continue
        products = ", ".join(product.name for product in description.products)
        click.echo(f"{path}: good: {description.name}@{description.version}, products {products}")
    raise SystemExit(0 if is_good else 1)


@main.command()
@click.argument("arguments", nargs=-1, required=True, metavar="[DESCRIPTION] DATA...")
@click.option("--description", "named", metavar="NAME_OR_FILE", help="Instead of the first argument.")
@click.option(
    "--root",
    default=".",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Root of the storage; the Description's patterns see the paths below it. [default: current folder]",
)
@click.option("--header-only", is_flag=True, help="Read no columns and make no checksums.")
@click.option("--json", "as_json", is_flag=True, help="Print the records as they would be sent, one per line.")
def show(arguments: tuple[str, ...], named: str | None, root: Path, header_only: bool, as_json: bool) -> None:
    """Show the record of each data file as it would be sent, each value with its source."""
    if named is None:
        named, *rest = arguments
        arguments = tuple(rest)
    if not arguments:
        raise click.UsageError("name at least one data file after the Description")
    description = _load(named)
    extractor = Extractor(
        root=root, facility=description.facility.name, storage="shown", description=description, header_only=header_only
    )
    outcomes = [_extract_shown(extractor, os.fsencode(argument)) for argument in arguments]
    for outcome in outcomes:
        if outcome.failure is not None:
            click.echo(f"{outcome.path}: {outcome.failure}", err=True)
        if outcome.record is not None and as_json:
            click.echo(msgspec.json.encode(outcome.record))
        elif outcome.record is not None:
            _print_record(outcome.record, is_matched=outcome.is_matched)
    raise SystemExit(1 if any(outcome.failure is not None for outcome in outcomes) else 0)


@main.command()
@click.argument("paths", nargs=-1, type=click.Path(path_type=bytes), metavar="[PATHS]...")
@click.option("--url", envvar="CATCHMENT_URL", required=True, help="Base address of the catalogue. [CATCHMENT_URL]")
@click.option("--token", envvar="CATCHMENT_TOKEN", required=True, help="Publisher's token. [CATCHMENT_TOKEN]")
@click.option("--storage", required=True, help="Name of the storage in the catalogue.")
@click.option(
    "--root",
    required=True,
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Where the storage is here.",
)
@click.option("--description", "named", metavar="NAME_OR_FILE", help="Description of the files.")
@click.option("--facility", help="Name of the facility. [default: the Description's]")
@click.option("--header-only", is_flag=True, help="Read no columns and make no checksums.")
@click.option("--spool", "spool_folder", type=click.Path(path_type=Path), help="Where records wait for the catalogue.")
@click.option(
    "--attempts",
    default=4,
    show_default=True,
    type=click.IntRange(min=1),
    help="How often a request is tried before the catalogue counts as away and records go to the spool.",
)
@click.option("-0", "--null", "is_null", is_flag=True, help="Paths are separated by NUL instead of line ends.")
@click.option("--strict", is_flag=True, help="Exit with 1 unless every file is in the catalogue with its content.")
def send(
    paths: tuple[bytes, ...],
    url: str,
    token: str,
    storage: str,
    root: Path,
    named: str | None,
    facility: str | None,
    header_only: bool,
    spool_folder: Path | None,
    attempts: int,
    is_null: bool,
    strict: bool,
) -> None:
    """Catalogue the files at PATHS, or at the paths that come on standard input, and pass the paths on.

    The paths go to standard output unchanged and at once, whatever happens to the metadata. Records that cannot be
    sent wait in the spool and are sent by a later run. The exit code is 0 when the paths were passed on.
    """
    output = _take_output()
    description = None if named is None else _load(named)
    extractor = Extractor(
        root=root,
        facility=_name_facility(facility, description),
        storage=storage,
        description=description,
        header_only=header_only,
    )
    try:
        client = Client(url, token, attempts=attempts)
    except SendError as error:
        raise click.ClickException(str(error)) from error
    spool = Spool(spool_folder or _default_spool(url))
    with client:
        forwarder = Forwarder(extractor=extractor, client=client, spool=spool)
        is_passed_on = _run(forwarder, paths, output, separator=b"\0" if is_null else b"\n")
    _summarise(forwarder)
    raise SystemExit(0 if is_passed_on and (forwarder.is_clean or not strict) else 1)


def _name_facility(facility: str | None, description: Description | None) -> str:
    """Return the facility's name, which an option or the Description says; when both do, alike."""
    described = None if description is None else description.facility.name
    if facility is None and described is None:
        raise click.UsageError("name the facility with --facility or with a --description")
    if facility is not None and described is not None and facility != described:
        raise click.UsageError(f"--facility: found {facility!r}, expected the Description's {described!r}")
    return facility or described or ""


def _take_output() -> int:
    """Return a descriptor of standard output that no library and no process of ours can write to by accident."""
    output = os.dup(1)
    os.dup2(2, 1)
    return output


def _run(forwarder: Forwarder, paths: tuple[bytes, ...], output: int, *, separator: bytes) -> bool:
    """Pass all paths on while they are catalogued beside it, and return whether all could be passed on."""
    with PathBacklog() as backlog:
        worker = threading.Thread(target=forwarder.run, args=(backlog,), name="forwarder")
        worker.start()
        signal.signal(signal.SIGTERM, _interrupt)
        try:
            if paths:
                is_passed_on = write_all(output, b"".join(path + separator for path in paths))
                put_all(backlog, paths)
            else:
                is_passed_on = pass_on(0, output, backlog, separator=separator)
            os.close(output)
            backlog.close()
            worker.join()
        except KeyboardInterrupt:
            click.echo("interrupted: files that were read are sent or spooled, the others are left", err=True)
            backlog.close(abandon=True)
            worker.join()
            raise SystemExit(130) from None
    return is_passed_on


def _interrupt(signum: int, frame: Any) -> NoReturn:
    raise KeyboardInterrupt


def _summarise(forwarder: Forwarder) -> None:
    tally, deliveries = forwarder.tally, forwarder.deliveries
    click.echo(
        f"{tally.seen} files: {tally.added} added, {tally.changed} changed, {tally.unchanged} unchanged, "
        f"{tally.rejected} rejected, {deliveries.spooled} spooled, {deliveries.lost} lost; "
        f"{tally.failed} failed, {tally.unmatched} matched no product, {tally.warnings} warnings; "
        f"{deliveries.from_spool} earlier batches sent",
        err=True,
    )


def _default_spool(url: str) -> Path:
    # One folder per catalogue: records for one must not be sent to another.
    return Path(click.get_app_dir("catchment")) / "spool" / hashlib.sha256(url.encode()).hexdigest()[:16]


def _load(named: str) -> Description:
    """Return a built-in Description by name, or the one in a file."""
    try:
        description = find_description(named) if "/" not in named else None
        return description or load_description(Path(named))
    except FileNotFoundError as error:
        known = ", ".join(builtin_names())
        raise click.ClickException(f"found {named!r}, expected a Description's file or one of {known}") from error
    except (DescriptionError, OSError) as error:
        raise click.ClickException(str(error)) from error


def _extract_shown(extractor: Extractor, path: bytes) -> Outcome:
    try:
        return extractor.extract(path_below(extractor.root, path))
    except FileRejectedError as error:
        return Outcome(path=error.path, failure=f"{error.reason}; name it with --root")


def _print_record(record: FileRecord, *, is_matched: bool) -> None:
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    table = Table(title=escape(record.path), title_justify="left")
    for heading in ("field", "value", "source"):
        table.add_column(heading, overflow="fold")
    for name in record.__struct_fields__:
        value = getattr(record, name)
        if name not in _UNSHOWN_FIELDS and value is not None:
            source = "storage" if name in _STORAGE_FIELDS else record.provenance.get(name, "")
            table.add_row(name, escape(_spell(value)), escape(source))
    for name, value in record.attributes.items():
        source = record.provenance.get(f"attributes.{name}", "")
        table.add_row(f"attributes.{name}", escape(_spell(value)), escape(source))
    console = Console()
    console.print(table)
    if not is_matched:
        console.print("no product of the Description matches: only what the storage knows")
    for warning in record.warnings:
        console.print(f"warning: {escape(warning)}", style="yellow")


def _spell(value: Any) -> str:
    return value if isinstance(value, str) else msgspec.json.encode(value).decode().strip('"')


if __name__ == "__main__":
    main()
