"""Which bytes a request asks for: the header Range, as a pure function.

Notes
-----
RFC 9110, sections 14.1 and 14.2. What is no list of byte ranges is ignored, as is one with an impossible range in it.
Against requests that cost more than they bring, section 14.2 advises: the number of ranges is bounded, and ranges that
overlap in threes are refused. Neighbours, and those with a gap smaller than what is between two parts, become one.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

MAX_RANGES = 64
"""Most ranges of one request; a program that looks for a few members of a large archive needs no more."""

MERGED_GAP_BYTES = 128
"""Ranges with a smaller gap are sent as one: what is written between two parts is no less."""

MAX_EMPTY = 16
"""Most empty elements of the list; the standard asks to pass over some."""

_HEADER = re.compile(r"bytes=(.*)", re.IGNORECASE | re.DOTALL)
_SPEC = re.compile(r"(?:(\d{1,30})-(\d{0,30})|-(\d{1,30}))", re.ASCII)


class RangeNotSatisfiableError(ValueError):
    """No range begins before the end, or there are too many of them."""


@dataclass(frozen=True, slots=True)
class Span:
    """Bytes from `start` to before `stop`."""

    start: int
    stop: int

    @property
    def size_bytes(self) -> int:
        """How many bytes it is."""
        return self.stop - self.start


def parse_ranges(header: str, size_bytes: int) -> tuple[Span, ...]:
    """Return the parts that a header asks for, in the order in which they are to be sent; none means the whole.

    Raises
    ------
    RangeNotSatisfiableError
        No range begins before the end, or they are too many.
    """
    match = _HEADER.fullmatch(header)
    specs = [] if match is None else [spec.strip(" \t") for spec in match[1].split(",")]
    wanted = [spec for spec in specs if spec]
    if not wanted or len(specs) - len(wanted) > MAX_EMPTY:
        return ()
    matches = [_SPEC.fullmatch(spec) for spec in wanted[: MAX_RANGES + 1]]
    if not all(match is not None and _is_possible(match) for match in matches):
        return ()
    if len(wanted) > MAX_RANGES:
        raise RangeNotSatisfiableError(f"{len(wanted)} ranges, at most {MAX_RANGES} are served at once")
    if not size_bytes and any(match is not None and int(match[3] or 0) for match in matches):
        return ()  # the last bytes of nothing are there, but no Content-Range can say so
    spans = [span for match in matches if match is not None and (span := _span(match, size_bytes)) is not None]
    if not spans:
        raise RangeNotSatisfiableError(header)
    return _merge(spans)


def _is_possible(match: re.Match[str]) -> bool:
    return not match[2] or int(match[1]) <= int(match[2])


def _span(match: re.Match[str], size_bytes: int) -> Span | None:
    """Return the part of a range that exists."""
    if match[3]:
        start, stop = max(size_bytes - int(match[3]), 0), size_bytes
    else:
        start, stop = int(match[1]), min(int(match[2]) + 1, size_bytes) if match[2] else size_bytes
    return Span(start, stop) if start < stop else None


def _merge(spans: Sequence[Span]) -> tuple[Span, ...]:
    """Return the ranges with neighbours joined; a joined one stands where the first of its ranges stood."""
    merged: list[tuple[int, Span]] = []
    overlapping = 0
    for order, span in sorted(enumerate(spans), key=lambda item: (item[1].start, item[1].stop)):
        if not merged or span.start > merged[-1][1].stop + MERGED_GAP_BYTES:
            merged.append((order, span))
            overlapping = 0
            continue
        first, before = merged[-1]
        overlapping += span.start < before.stop
        if overlapping > 1:
            raise RangeNotSatisfiableError("more than two ranges overlap")
        merged[-1] = min(first, order), Span(before.start, max(before.stop, span.stop))
    return tuple(span for _, span in sorted(merged, key=lambda item: item[0]))
