"""What a reader of one file format must offer, and how the installed ones are found.

A reader is a plug-in of the entry point group ``catchment.readers``: a class without arguments. It never sees a path,
only an open stream, so it cannot write, follow a link or open a second file.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib.metadata import entry_points
from typing import BinaryIO, Protocol, TypeAlias

from extractors.errors import ReaderNotFoundError

ENTRY_POINT_GROUP = "catchment.readers"
"""Where packages announce their readers."""

DEFAULT_MAX_UNPACKED_BYTES = 4 * 1024**3
"""Most bytes one packed file may unpack to; far above real event files, far below what a bomb holds."""

Plain: TypeAlias = bool | int | float | str


@dataclass(frozen=True, kw_only=True, slots=True)
class RawValue:
    """A value as the file states it, with the unit if the file states one."""

    value: Plain | tuple[Plain, ...]
    unit: str | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Content:
    """What a reader found, by address; what is neither in `values` nor in `oddities` is not in the file.

    `oddities` says of an address why there is something but no value.
    """

    values: Mapping[str, RawValue] = field(default_factory=dict)
    oddities: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True, slots=True)
class ReadLimits:
    """How far a reader may go: `header_only` forbids to read columns, `max_unpacked_bytes` bounds the rest."""

    header_only: bool = False
    max_unpacked_bytes: int = DEFAULT_MAX_UNPACKED_BYTES


class Reader(Protocol):
    """Reads raw values from one file format."""

    def check(self, address: str) -> None:
        """Raise `AddressError` unless `address` is one that this reader understands."""

    def read(self, stream: BinaryIO, addresses: Collection[str], *, limits: ReadLimits) -> Content:
        """Return what the file says at `addresses`.

        Raises
        ------
        ContentError
            The file is not of this format, is damaged or breaks `limits`.
        """


@cache
def load_reader(name: str) -> Reader:
    """Return the installed reader called `name`; looked up once, because that searches all installed packages.

    Raises
    ------
    ReaderNotFoundError
        None is.
    """
    installed = {point.name: point for point in entry_points(group=ENTRY_POINT_GROUP)}
    if name not in installed:
        raise ReaderNotFoundError(name, tuple(sorted(installed)))
    reader: Reader = installed[name].load()()
    return reader
