"""The command of the experiments: ``python -m extractors check | show | pass | schema | compile``.

Messages go to standard error. Standard output carries what was asked for: records, or the paths that are passed on.
"""

import hashlib
import logging
import os
import signal
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn
from urllib.parse import quote

import click
import msgspec

from extractors.backlog import PathBacklog, adopt
from extractors.client import Client
from extractors.description import Description
from extractors.errors import DescriptionError, FileRejectedError, SendError, StorageError
from extractors.extract import Extractor, Outcome
from extractors.loading import builtin_names, find_description, load_description
from extractors.pipeline import AWAY_S, Forwarder, pass_on, put_all, write_all
from extractors.schema import format_schema
from extractors.spool import Spool
from extractors.storages.local_tree import LocalTree
from extractors.storages.opening import open_tree
from extractors.storages.trees import Tree
from metadata_db.records import FileRecord

logger = logging.getLogger(__name__)

_STORAGE_FIELDS = ("path", "size_bytes", "format", "modified_at", "md5", "sha256")
_UNSHOWN_FIELDS = ("facility", "storage", "attributes", "provenance", "warnings", "replicas", "relations")


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
    help="Root of the storage, a folder or a URL; patterns see the paths below it. [default: current folder]",
)
@click.option("--processing", metavar="NAME", help="Name of the reprocessing that made the files.")
@click.option("--header-only", is_flag=True, help="Read no columns and make no checksums.")
@click.option("--json", "as_json", is_flag=True, help="Print the records as they would be sent, one per line.")
def show(
    arguments: tuple[str, ...],
    named: str | None,
    root: str,
    processing: str | None,
    header_only: bool,
    as_json: bool,
) -> None:
    """Show the record of each data file as it would be sent, each value with its source."""
    if named is None:
        named, *rest = arguments
        arguments = tuple(rest)
    if not arguments:
        raise click.UsageError("name at least one data file after the Description")
    description = _load(named)
    extractor = Extractor(
        tree=_open(root),
        facility=description.facility.name,
        storage="shown",
        description=description,
        header_only=header_only,
        processing=processing,
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


@main.command("schema")
def print_schema() -> None:
    """Print the JSON Schema of Descriptions, for editors that check TOML while it is typed."""
    click.echo(format_schema(), nl=False)


@main.command("compile")
@click.argument("files", nargs=-1, required=True, type=click.Path(exists=True, path_type=Path), metavar="KSY...")
@click.option(
    "--npm",
    "npm_folder",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Folder where 'npm install kaitai-struct-compiler' was run. [default: the compiler on the PATH]",
)
def compile_layouts(files: tuple[Path, ...], npm_folder: Path | None) -> None:
    """Compile Kaitai Struct layouts of raw binary files with the official compiler, when a Description is made."""
    from extractors.readers.kaitai import compile_ksy

    for path in files:
        try:
            click.echo(f"{path}: compiled to {compile_ksy(path, npm_folder=npm_folder)}")
        except (OSError, ValueError) as error:
            raise click.ClickException(str(error)) from error


@main.command("pass")
@click.argument("paths", nargs=-1, type=click.Path(path_type=bytes), metavar="[PATHS]...")
@click.option("--url", envvar="CATCHMENT_URL", required=True, help="Base address of the catalogue. [CATCHMENT_URL]")
@click.option("--token", envvar="CATCHMENT_TOKEN", required=True, help="Publisher's token. [CATCHMENT_TOKEN]")
@click.option("--storage", help="Name of the storage in the catalogue. [default: the facility's name]")
@click.option("--root", help="Where the storage is here: a folder or a URL. [default: where it is registered]")
@click.option("--description", "named", metavar="NAME_OR_FILE", help="Description of the files.")
@click.option("--facility", help="Name of the facility. [default: the Description's]")
@click.option("--processing", metavar="NAME", help="Name of the reprocessing that made the files.")
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
def pass_paths(
    paths: tuple[bytes, ...],
    url: str,
    token: str,
    storage: str | None,
    root: str | None,
    named: str | None,
    facility: str | None,
    processing: str | None,
    header_only: bool,
    spool_folder: Path | None,
    attempts: int,
    is_null: bool,
    strict: bool,
) -> None:
    """Pass paths on, from the command line or standard input, and catalogue the files beside that.

    The paths go to standard output unchanged and at once, whatever happens to the metadata. Records that cannot be
    sent wait in the spool and are sent by a later run, which also takes up the paths of one that was killed. The exit
    code is 0 when the paths were passed on.
    """
    output = _take_output()
    description = None if named is None else _load(named)
    facility = _name_facility(facility, description)
    storage = storage or facility
    spool = Spool(spool_folder or _default_spool(url))
    place = _Place(storage=storage, root=root, spool=spool)
    try:
        client = Client(url, token, attempts=attempts)
    except SendError as error:
        raise click.ClickException(str(error)) from error

    def make_forwarder(tree: Tree) -> Forwarder:
        extractor = Extractor(
            tree=tree,
            facility=facility,
            storage=storage,
            description=description,
            header_only=header_only,
            processing=processing,
        )
        return Forwarder(extractor=extractor, client=client, spool=spool)

    # A reprocessing has a journal of its own: its paths, taken up by another run, would lose what made them.
    made_by = "" if processing is None else f"@{quote(processing, safe='')}"
    journals = spool.folder / f"paths-{storage}{made_by}"
    work = _Work(find_tree=lambda: place.find(client), make_forwarder=make_forwarder, journals=journals)
    with client, PathBacklog(journals) as backlog:
        source = _Source(paths=paths, separator=b"\0" if is_null else b"\n", folder=place.folder_of_relative_paths())
        is_passed_on = _run(work, backlog, source, output)
    _summarise(work.forwarder)
    is_clean = work.forwarder is not None and work.forwarder.is_clean
    raise SystemExit(0 if is_passed_on and (is_clean or not strict) else 1)


main.add_command(pass_paths, "send")


class _Place:
    """Where the storage is: as the caller says, or the catalogue, or what the catalogue said last time."""

    def __init__(self, *, storage: str, root: str | None, spool: Spool) -> None:
        self._storage = storage
        self._spool = spool
        self._remembered = spool.folder / f"{storage}.root"
        self._tree = None if root is None else _open(root)

    def find(self, client: Client) -> Tree | None:
        """Return the tree, or None when only the catalogue knows where it is, and does not say."""
        return self._tree or self._ask(client) or self._remember()

    def folder_of_relative_paths(self) -> bytes | None:
        """Return the current folder, unless the storage is known to be elsewhere than on this host."""
        tree = self._tree or self._remember()
        return os.getcwdb() if tree is None or isinstance(tree, LocalTree) else None

    def _ask(self, client: Client) -> Tree | None:
        try:
            root = client.get_storage(self._storage).root
            tree = open_tree(root)
        except (SendError, StorageError) as error:
            logger.warning("%s; --root says where the storage is", error)
            return None
        try:
            self._spool.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            self._remembered.write_text(root)
        except OSError as error:
            logger.warning("where the storage is cannot be remembered: %s", error)
        return tree

    def _remember(self) -> Tree | None:
        try:
            return open_tree(self._remembered.read_text())
        except (OSError, UnicodeDecodeError, StorageError):
            return None


@dataclass(kw_only=True, slots=True)
class _Work:
    """What is done beside the passing on: the paths of a backlog are catalogued once the storage is found."""

    find_tree: Callable[[], Tree | None]
    make_forwarder: Callable[[Tree], Forwarder]
    journals: Path
    forwarder: Forwarder | None = None

    def run(self, backlog: PathBacklog) -> None:
        """Work until `backlog` is closed and empty."""
        tree = self.find_tree()
        while tree is None:
            if backlog.wait_until_closed(AWAY_S):
                click.echo("where the storage is could not be found out: the paths are kept for a later run", err=True)
                return
            tree = self.find_tree()
        self.forwarder = self.make_forwarder(tree)
        _adopt(self.journals, backlog)
        self.forwarder.run(backlog)


def _open(root: str) -> Tree:
    try:
        return open_tree(root)
    except (StorageError, ValueError) as error:
        raise click.ClickException(f"--root: {error}") from error


def _adopt(journals: Path, backlog: PathBacklog) -> None:
    try:
        n_paths = adopt(journals, backlog)
    except OSError as error:
        logger.warning("the paths of an earlier run cannot be taken up: %s", error)
        return
    if n_paths:
        click.echo(f"{n_paths} paths of an earlier run that was ended are catalogued too", err=True)


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


@dataclass(frozen=True, kw_only=True, slots=True)
class _Source:
    """The paths: those that are named, or else those of standard input."""

    paths: tuple[bytes, ...]
    separator: bytes
    folder: bytes | None

    def pass_on(self, output: int, backlog: PathBacklog) -> bool:
        """Return whether all could be passed on."""
        if not self.paths:
            return pass_on(0, output, backlog, separator=self.separator, folder=self.folder)
        put_all(backlog, self.paths, folder=self.folder)
        return write_all(output, b"".join(path + self.separator for path in self.paths))


def _run(work: _Work, backlog: PathBacklog, source: _Source, output: int) -> bool:
    """Pass all paths on while they are catalogued beside it, and return whether all could be passed on."""
    worker = threading.Thread(target=work.run, args=(backlog,), name="forwarder")
    worker.start()
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        is_passed_on = source.pass_on(output, backlog)
        os.close(output)
        backlog.close()
        worker.join()
    except KeyboardInterrupt:
        click.echo("interrupted: files that were read are sent or spooled, the others wait for the next run", err=True)
        backlog.close(abandon=True)
        worker.join()
        raise SystemExit(130) from None
    return is_passed_on


def _interrupt(signum: int, frame: Any) -> NoReturn:
    raise KeyboardInterrupt


def _summarise(forwarder: Forwarder | None) -> None:
    if forwarder is None:
        return
    report, deliveries = forwarder.report, forwarder.deliveries
    click.echo(
        f"{report.seen} files: {report.added} added, {report.changed} changed, {report.unchanged} unchanged, "
        f"{report.rejected} rejected, {deliveries.spooled} spooled, {deliveries.lost} lost; "
        f"{report.failed} failed, {report.unmatched} matched no product, {report.warnings} warnings; "
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
        return extractor.extract(extractor.tree.path_below(path))
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
    for relation in record.relations:
        target = ", ".join(
            filter(None, [relation.storage, relation.path, relation.obs_id and f"obs_id {relation.obs_id}"])
        )
        table.add_row(relation.kind.replace("_", " "), escape(target), "")
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
