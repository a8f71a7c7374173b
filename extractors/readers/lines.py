"""Lines of text, one by one and never longer than a bound, whatever the bytes are.

Bytes that are no text in the stated encoding are carried along as lone surrogates, so that one bad name does not hide
the numbers around it; `check_text` keeps them from leaving a reader.
"""

import codecs
import re
from collections.abc import Iterator
from typing import BinaryIO

from msgspec import Struct

from extractors.errors import AddressError, ContentError

MAX_TEXT_BYTES = 64 * 1024
"""Largest single text that leaves a reader: a description of a file, not its data."""

HEADER_BYTES = 1024 * 1024
"""How far a text is read when only headers may be."""

CHUNK_BYTES = 64 * 1024
"""Bytes taken from a file at a time; not every stream reads lines fast by itself."""


class TextOptions(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How the bytes of a text are meant."""

    encoding: str = "utf-8"
    fallback: str | None = None
    """Encoding of the lines that are not in the first, such as ``latin-1``; without one their words are no values."""

    def __post_init__(self) -> None:
        for name in filter(None, [self.encoding, self.fallback]):
            _check_encoding(name)


def _check_encoding(name: str) -> None:
    try:
        is_plain = "#\n".encode(name) == b"#\n"
    except (LookupError, UnicodeError):
        is_plain = False
    if not is_plain:
        raise ValueError(f"found encoding {name!r}, expected one that keeps ASCII as it is, such as utf-8 or latin-1")


def iter_lines(
    stream: BinaryIO, options: TextOptions, *, max_line_bytes: int, max_bytes: int | None = None
) -> Iterator[str | None]:
    """Return each line without its end; None stands for one that is too long.

    Parameters
    ----------
    max_bytes
        No line is begun after this many bytes; None reads to the end.
    """
    n_bytes = 0
    for number, raw in enumerate(_iter_raw(stream, max_line_bytes)):
        if max_bytes is not None and n_bytes >= max_bytes:
            return
        n_bytes += max_line_bytes if raw is None else len(raw) + 1
        if raw is None:
            yield None
        else:
            yield _decode(raw if number else raw.removeprefix(codecs.BOM_UTF8), options)


def _iter_raw(stream: BinaryIO, max_line_bytes: int) -> Iterator[bytes | None]:
    """Return the bytes of each line; None stands for one that is too long, which is never held whole."""
    begun, is_skipped = b"", False
    while chunk := stream.read(CHUNK_BYTES):
        *complete, begun = (begun + chunk).split(b"\n")
        for line in complete:
            stripped = line.rstrip(b"\r")
            yield None if is_skipped or len(stripped) > max_line_bytes else stripped
            is_skipped = False
        if is_skipped or len(begun) > max_line_bytes + 1:
            begun, is_skipped = b"", True
    if begun or is_skipped:
        stripped = begun.rstrip(b"\r")
        yield None if is_skipped or len(stripped) > max_line_bytes else stripped


def _decode(raw: bytes, options: TextOptions) -> str:
    try:
        return raw.decode(options.encoding)
    except UnicodeDecodeError:
        if options.fallback is not None:
            return raw.decode(options.fallback, "surrogateescape")
        return raw.decode(options.encoding, "surrogateescape")


def check_text(text: str) -> str:
    """Return `text` when it may leave a reader.

    Raises
    ------
    ContentError
        It is too long, or holds bytes that are no text.
    """
    try:
        size_bytes = len(text.encode())
    except UnicodeEncodeError as error:
        raise ContentError("holds bytes that are no text in the stated encoding") from error
    if size_bytes > MAX_TEXT_BYTES:
        raise ContentError(f"holds a text of {size_bytes} bytes, at most {MAX_TEXT_BYTES} are read")
    return text


# ----------------------------------------------------------------------------------------- regular expressions


def parse_pattern(place: str) -> re.Pattern[str] | None:
    """Return the expression of a place ``/expression/``, or None when `place` is of another kind.

    Raises
    ------
    AddressError
        It is no regular expression.
    """
    if not place.startswith("/"):
        return None
    if len(place) < 3 or not place.endswith("/"):
        raise AddressError(place, "a regular expression between slashes, such as /^run: (\\d+)/")
    try:
        return re.compile(place[1:-1], re.MULTILINE)
    except re.error as error:
        raise AddressError(place, f"a regular expression between slashes ({error})") from error


def matched_text(match: re.Match[str]) -> str | None:
    """Return what the first group found, or the whole when there are no groups; None when the group took no part."""
    found: str | None = match[1] if match.re.groups else match[0]
    return found
