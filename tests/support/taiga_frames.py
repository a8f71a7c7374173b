"""Generators of valid TAIGA raw frames, written from the table of their layouts and independent of the readers."""

import struct
from collections.abc import Iterable, Sequence

IACT_BYTES = 156
"""Size of every frame of a telescope's cluster."""

END_MARK = b"\xff\xff\xff\xff"


def pack_time(hour: int, minute: int, second: int, nanosecond: int = 0) -> bytes:
    """Return a time stamp; `nanosecond` is that of the second, in steps of 10. Impossible ones are packed as well."""
    milliseconds, rest = divmod(nanosecond, 1_000_000)
    microseconds, nanoseconds = divmod(rest, 1_000)
    packed = 0
    for value, position in (
        (nanoseconds // 10, 0), (microseconds, 7), (milliseconds, 17), (second, 27), (minute, 33), (hour, 39),
    ):  # fmt: skip
        packed |= value << position
    return struct.pack("<Q", packed)


def pack_seconds(seconds_of_day: float) -> bytes:
    """Return the time stamp of a moment of the day, to 10 ns."""
    seconds, nanosecond = divmod(round(seconds_of_day * 1e8) * 10, 1_000_000_000)
    return pack_time(seconds // 3600, seconds // 60 % 60, seconds % 60, nanosecond)


def make_iact_frame(event: int, time: bytes, *, maroc: int = 5, stop_position: int = 0) -> bytes:
    """Return what a cluster of a telescope writes for one event."""
    amplitudes = [number for channel in range(32) for number in (100 + channel, channel)]
    body = struct.pack("<64H", *amplitudes) + END_MARK
    return b"\xd8\x0b" + struct.pack("<HII", len(body), event, stop_position) + time + struct.pack("<I", maroc) + body


def make_hiscore_frame(event: int, time: bytes, *, station: int = 12, lengths: Sequence[int] = (4,) * 9) -> bytes:
    """Return what a station writes for one event; `lengths` are those of its nine traces."""
    traces = (struct.pack(f"<HH{length}H", 0, length, *range(length)) for length in lengths)
    body = b"".join(traces) + END_MARK
    head = struct.pack("<HII", len(body), event, 0) + time + struct.pack("<HH", 100 + station, station)
    return b"\xc0\x0b" + head + body


def make_grande_frame(event: int, time: bytes, *, link: int = 1, errors: int = 0, n_samples: int = 1024) -> bytes:
    """Return what a link writes for one event; with 1024 samples it has the size of the public sample's."""
    samples = struct.pack(f"<{n_samples}H", *range(n_samples))
    boards = (struct.pack("<IHH", 0x1000 + board, n_samples, 0xFFFF) + samples for board in range(8))
    body = b"".join(boards) + END_MARK
    return struct.pack("<HHII", 3031 + link, len(body), event, errors) + time + b"info" + body


def make_iact_file(seconds_of_day: Iterable[float], *, first_event: int = 1) -> bytes:
    """Return a file of frames at these times, with event numbers that count up."""
    return b"".join(
        make_iact_frame(event, pack_seconds(seconds)) for event, seconds in enumerate(seconds_of_day, start=first_event)
    )
