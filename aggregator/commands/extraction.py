"""What the commands that read storages share: their options, and the extractor made of them."""

import functools
import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
from msgspec.structs import replace

from aggregator.commands.failures import Misuse
from aggregator.commands.remote import token_option, url_option
from aggregator.commands.settings import F
from extractors.client import Client
from extractors.description import Description
from extractors.errors import DescriptionError, RefusedError, StorageError
from extractors.extract import Extractor
from extractors.ingest import register
from extractors.loading import builtin_names, find_description, load_description
from extractors.pool import FileLimits
from extractors.storages.opening import open_tree
from extractors.storages.trees import Tree
from metadata_db.records import Storage

_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([kMGT]?)B?")
_POWERS = {"": 1, "k": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}


class SizeType(click.ParamType[int]):
    """A number of bytes such as ``512MB``; powers of 1000."""

    name = "size"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Return the number of bytes."""
        if isinstance(value, int):
            return value
        match = _SIZE.fullmatch(str(value).strip())
        if match is None:
            self.fail(f"got {value!r}, expected a size such as 512MB", param, ctx)
        return int(float(match[1]) * _POWERS[match[2]])


@dataclass(frozen=True, kw_only=True, slots=True)
class Reading:
    """The options by which the files of a storage are read."""

    storage: str
    root: str | None
    facility: str | None
    description: Description | None
    url: str
    token: str
    header_only: bool
    header_only_above: int | None
    max_read: int | None
    processing: str | None
    processes: int
    file_seconds: float
    file_memory: int

    @property
    def limits(self) -> FileLimits:
        """What one file may take."""
        return FileLimits(seconds=self.file_seconds, memory_bytes=self.file_memory)

    def make_extractor(self, client: Client, *, is_dry: bool = False) -> Extractor:
        """Return the extractor, after the storage was found, or registered if its root was given.

        Parameters
        ----------
        is_dry
            Register nothing.

        Raises
        ------
        Misuse
            The options do not fit together, or the storage is not registered.
        SendError
            The catalogue cannot be reached, or refuses.
        """
        registered = self._find_registered(client)
        facility = name_facility(self.facility or (registered.facility if registered else None), self.description)
        if self.root is not None:
            root = self.root if "://" in self.root else str(Path(self.root).absolute())
            tree = _open(root)
            # A publisher may read where an admin has registered; who may register, does.
            if not is_dry and (registered is None or registered.root != root or self.description is not None):
                self._register(client, root, facility, registered)
        elif registered is not None:
            tree = _open(registered.root)
        else:
            raise Misuse(f"no storage {self.storage!r} is registered at {self.url}: say where it is with --root")
        return Extractor(
            tree=tree,
            facility=facility,
            storage=self.storage,
            description=self.description,
            header_only=self.header_only,
            header_only_above=self.header_only_above,
            max_read_bytes=self.max_read,
            processing=self.processing,
            only_matched=registered is not None and registered.facility is None,
        )

    def _find_registered(self, client: Client) -> Storage | None:
        try:
            return client.get_storage(self.storage)
        except RefusedError as error:
            if error.is_about_sender:
                raise
            return None

    def _register(self, client: Client, root: str, facility: str, registered: Storage | None) -> None:
        kind: Any = "remote" if "://" in root else "local"
        # What is registered keeps its title, whether it is in use, and who else may have files there.
        known = registered or Storage(name=self.storage, root=root, facility=facility)
        storage = replace(known, root=root, kind=kind)
        try:
            register(client, description=self.description, facility=facility, storage=storage)
        except RefusedError as error:
            # A publisher may say where a registered storage is on his host; registering is for admins.
            if not (error.is_about_sender and registered is not None):
                raise


def reading_options(function: F) -> F:
    """Add the options of `Reading`, which the command gets as its first argument."""

    @functools.wraps(function)
    def command(*, named: str | None, **options: Any) -> Any:
        own = {name: options.pop(name) for name in list(options) if name in Reading.__slots__}
        reading = Reading(description=None if named is None else find(named), **own)
        return function(reading, **options)

    decorated: Any = command
    for add in reversed(_OPTIONS):
        decorated = add(decorated)
    result: F = decorated
    return result


_OPTIONS: tuple[Callable[[Any], Any], ...] = (
    click.argument("storage"),
    click.option("--root", help="The storage as seen from here, a folder or a URL.  [default: as registered]"),
    click.option("--facility", help="Whose files they are.  [default: the Description's, or the storage's]"),
    click.option("--description", "named", metavar="NAME|FILE", help="Description by which the files are read."),
    url_option,
    token_option,
    click.option("--header-only", is_flag=True, help="Read headers only: faster, without checksums and columns."),
    click.option("--header-only-above", type=SizeType(), metavar="SIZE", help="The same for files larger than SIZE."),
    click.option("--max-read", type=SizeType(), metavar="SIZE", help="Most bytes of one file taken from the storage."),
    click.option("--processing", metavar="NAME", help="Name of the reprocessing that made the files."),
    click.option(
        "--processes",
        type=click.IntRange(1),
        default=min(4, os.cpu_count() or 1),
        show_default="up to 4",
        help="Files read at once.",
    ),
    click.option("--file-seconds", type=click.FloatRange(0.1), default=120.0, show_default=True, help="Time per file."),
    click.option(
        "--file-memory", type=SizeType(), default="2GB", show_default=True, metavar="SIZE", help="Memory per file."
    ),
)


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


def _open(root: str) -> Tree:
    try:
        return open_tree(root)
    except (StorageError, ValueError) as error:
        raise Misuse(f"--root: {error}") from error
