"""What a reader of one file format must offer, and how the installed ones are found.

A reader is a plug-in of the entry point group ``catchment.readers``: a subclass of `Reader`. It never sees a path, only
an open, unpacked stream, so it cannot write, follow a link or open a second file.
"""

from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any, BinaryIO, ClassVar, TypeAlias

import msgspec
from msgspec import Struct

from extractors.errors import ReaderNotFoundError
from extractors.readers.address import Address

ENTRY_POINT_GROUP = "catchment.readers"
"""Where packages announce their readers."""

DEFAULT_MAX_UNPACKED_BYTES = 4 * 1024**3
"""Most bytes one packed file may unpack to; far above real event files, far below what a bomb holds."""

Plain: TypeAlias = bool | int | float | str


class RawValue(Struct, frozen=True, kw_only=True):
    """A value as the file states it, with the unit if the file states one.

    A tuple is a list of values, or the parts of one value that several columns hold together.
    """

    value: Plain | tuple[Plain, ...]
    unit: str | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Content:
    """What a reader found, by the text of the address.

    What is neither in `values` nor in `oddities` is not in the file. `oddities` says of an address why there is
    something but no value.
    """

    values: Mapping[str, RawValue] = field(default_factory=dict)
    oddities: Mapping[str, str] = field(default_factory=dict)

    def joined_with(self, other: "Content") -> "Content":
        """Return both together; `other` counts where both say something."""
        return Content(values={**self.values, **other.values}, oddities={**self.oddities, **other.oddities})


@dataclass(frozen=True, kw_only=True, slots=True)
class ReadLimits:
    """How far a reader may go: `header_only` forbids to read columns, `max_unpacked_bytes` bounds the rest."""

    header_only: bool = False
    max_unpacked_bytes: int = DEFAULT_MAX_UNPACKED_BYTES


class NoOptions(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The options of a reader that has none."""


class Reader(ABC):
    """Reads raw values from one file format; must be picklable, because it is sent to other processes."""

    Options: ClassVar[type[Struct]] = NoOptions
    """What a Description may set beside the reader's name."""

    random_access: ClassVar[bool] = False
    """Whether the reader jumps to and fro: then a packed file is unpacked to a temporary file first."""

    def __init__(self, options: Any = None, folder: Path | None = None) -> None:
        self.options: Any = self.Options() if options is None else options
        self.folder = folder
        """Where the Description is, for readers that need a file of the experiment beside it."""

    @property
    def companions(self) -> Sequence[Path]:
        """Files beside the Description that belong to its meaning, and so to its digest."""
        return ()

    @abstractmethod
    def check(self, address: Address) -> None:
        """Raise `AddressError` unless `address` is one that this reader understands."""

    @abstractmethod
    def read(self, stream: BinaryIO, addresses: Collection[Address], *, limits: ReadLimits) -> Content:
        """Return what the file says at `addresses`.

        Reductions over columns are left out when only headers may be read. An address that cannot be read is an
        oddity, and no reason to lose the others.

        Raises
        ------
        ContentError
            The file is not of this format, is damaged or breaks `limits`.
        """


@cache
def find_reader_class(name: str) -> type[Reader]:
    """Return the installed reader called `name`; looked up once, because that searches all installed packages.

    Raises
    ------
    ReaderNotFoundError
        None is.
    """
    installed = {point.name: point for point in entry_points(group=ENTRY_POINT_GROUP)}
    if name not in installed:
        raise ReaderNotFoundError(name, tuple(sorted(installed)))
    found: type[Reader] = installed[name].load()
    return found


def load_reader(name: str, options: Mapping[str, Any] | None = None, folder: Path | None = None) -> Reader:
    """Return the reader called `name`, set up by a Description that stands in `folder`.

    Raises
    ------
    ReaderNotFoundError
        No installed reader has this name.
    msgspec.ValidationError
        It has no such option, or not with such a value.
    ValueError
        The options contradict each other, or a file that they name is not there or is no good.
    """
    reader_class = find_reader_class(name)
    return reader_class(msgspec.convert(options or {}, reader_class.Options), folder)
