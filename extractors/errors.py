"""What can go wrong at an experiment.

ExtractionError
├── DescriptionError        a Description that cannot be used: names file, line, key, what was found and expected
├── AddressError            an address that its reader does not understand
├── ReaderNotFoundError     no installed reader has this name
├── StorageError            a storage that cannot be used: no such place, no right, no library for it
├── FileRejectedError       a file that may not be catalogued: outside the storage, special, unspeakable name
├── ContentError            the content of a file cannot be read
│   ├── TooLargeError       it would unpack to more bytes than allowed
│   └── ReadLimitError      more of it would have to be read than allowed
├── SpaceError              no room here for a file that has to be unpacked: says nothing about the file
├── ConversionError         a value that has no honest meaning in the catalogue's units
└── SendError               records did not reach the catalogue
    ├── CatalogueAwayError  nobody answered, or asked us to come later: keep the records and send them again
    └── RefusedError        the catalogue answered that it does not want this: sending again would not help
"""

from pathlib import Path
from typing import Any


class ExtractionError(Exception):
    """Base of all errors of the extractors."""


class DescriptionError(ExtractionError):
    """A Description that cannot be used.

    Parameters
    ----------
    path
        File of the Description.
    line
        Line, from 1, of the key that is wrong.
    key
        Path of the key, such as ``product[2].fields.obs_id``; empty when the text is no TOML.
    problem
        What was found and what was expected.
    """

    def __init__(self, path: Path, line: int, key: str, problem: str) -> None:
        self.path = path
        self.line = line
        self.key = key
        self.problem = problem
        super().__init__(f"{path}:{line}: {key + ': ' if key else ''}{problem}")


class AddressError(ExtractionError):
    """An address that its reader does not understand."""

    def __init__(self, address: str, expected: str) -> None:
        self.address = address
        self.expected = expected
        super().__init__(f"found address {address!r}, expected {expected}")


class ReaderNotFoundError(ExtractionError):
    """No installed reader has this name."""

    def __init__(self, name: str, installed: tuple[str, ...]) -> None:
        self.name = name
        self.installed = installed
        known = ", ".join(installed) or "none; is the package itself installed?"
        super().__init__(f"found reader {name!r}, expected one of the installed ones: {known}")


class StorageError(ExtractionError):
    """A storage that cannot be used; `root` is its folder or address, without anything secret."""

    def __init__(self, root: str, reason: str) -> None:
        self.root = root
        self.reason = reason
        super().__init__(f"storage {root}: {reason}")


class FileRejectedError(ExtractionError):
    """A file that may not be catalogued; `reason` says why, `path` is below the storage's root."""

    def __init__(self, path: str, reason: str) -> None:
        self.path = path
        self.reason = reason
        super().__init__(f"{path}: {reason}")


class ContentError(ExtractionError):
    """The content of a file cannot be read."""


class TooLargeError(ContentError):
    """A file that would unpack to more bytes than allowed, or to more per packed byte: a mistake, or a bomb."""

    def __init__(self, what: str, limit_bytes: int, *, max_ratio: int | None = None) -> None:
        self.limit_bytes = limit_bytes
        self.max_ratio = max_ratio
        allowed = f"{limit_bytes} bytes" if max_ratio is None else f"ratio of {max_ratio} bytes per packed byte"
        super().__init__(f"{what} unpacks to more than the allowed {allowed}")


class ReadLimitError(ContentError):
    """A file of which more would have to be read than allowed, such as over a network."""

    def __init__(self, limit_bytes: int) -> None:
        self.limit_bytes = limit_bytes
        super().__init__(f"reading needed more than the allowed {limit_bytes} bytes of the file")


class SpaceError(ExtractionError):
    """No room here for a file that has to be unpacked on the way: says nothing about the file."""

    def __init__(self, error: OSError) -> None:
        super().__init__(f"cannot be unpacked, for no temporary file can be written here: {error.strerror}")


class ConversionError(ExtractionError):
    """A value that has no honest meaning in the catalogue's units."""

    def __init__(self, value: Any, expected: str) -> None:
        self.expected = expected
        super().__init__(f"found {shorten(value)}, expected {expected}")


class SendError(ExtractionError):
    """Records did not reach the catalogue."""


class CatalogueAwayError(SendError):
    """Nobody answered, or asked us to come later: keep the records and send them again."""


class RefusedError(SendError):
    """The catalogue answered that it does not want this: sending again would not help.

    Parameters
    ----------
    status
        HTTP status of the answer.
    code
        The catalogue's own word for the error, such as ``PERMISSION_DENIED``.
    """

    def __init__(self, status: int, code: str, message: str) -> None:
        self.status = status
        self.code = code
        super().__init__(f"the catalogue refused with {status} {code}: {message}")

    @property
    def is_about_sender(self) -> bool:
        """Whether the same records would be welcome from a sender with other rights."""
        return self.status in (401, 403)


def shorten(value: Any, limit: int = 120) -> str:
    """Show `value` as in source code, at most `limit` characters: a file must not flood the report."""
    text = repr(value)
    return text if len(text) <= limit else f"{text[: limit - 1]}…"
