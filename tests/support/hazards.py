"""Extractors that do what the name of the file says: sleep, swell, die. They can be pickled by name."""

import ctypes
import os
import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from extractors.extract import Outcome
from metadata_db.records import FileRecord

SEGMENT_BYTES = 60_000_000


@dataclass(frozen=True, kw_only=True)
class HazardousExtractor:
    """Does to itself what the path's first word says; the record's `run` is the process that made it."""

    log: Path | None = None
    """Each path that is begun is noted here."""
    is_plain: bool = False
    is_plain_safe: bool = True
    """Whether files are harmless when their content is not read."""

    def extract(self, path: str) -> Outcome:
        if self.log is not None:
            with self.log.open("a") as log:
                log.write(f"{path}\n")
        if not (self.is_plain and self.is_plain_safe):
            word, *arguments = path.split()
            HAZARDS[word](*arguments)
        kind = None if self.is_plain else "events"
        record = FileRecord(facility="f", storage="s", path=path, size_bytes=3, kind=kind, run=os.getpid())
        return Outcome(path=path, record=record, is_matched=not self.is_plain)

    def without_description(self) -> "HazardousExtractor":
        return replace(self, is_plain=True)


@dataclass(frozen=True, kw_only=True)
class UnreadableExtractor:
    """Cannot be unpickled in the process it is sent to."""

    home: int = field(default_factory=os.getpid)

    def extract(self, path: str) -> Outcome:
        return Outcome(path=path)

    def without_description(self) -> "UnreadableExtractor":
        return self

    def __setstate__(self, state: dict[str, Any]) -> None:
        if state["home"] != os.getpid():
            os._exit(7)


def _hang_with_lock(seconds: str) -> None:
    """Sleep without letting other threads of the process run, as a library in an endless loop does."""
    ctypes.PyDLL(None).sleep(int(seconds))


def _swell() -> None:
    """Take memory, a piece at a time, until there is none or it is enough to see that there is no limit."""
    segments = []
    for _ in range(50):
        segments.append(b"\1" * SEGMENT_BYTES)


_leaked: list[bytes] = []

HAZARDS = {
    "live": lambda *_: None,
    "nap": lambda seconds, *_: time.sleep(float(seconds)),
    "hang": _hang_with_lock,
    "swell": lambda *_: _swell(),
    "leak": lambda *_: _leaked.append(b"\1" * SEGMENT_BYTES),
    "segfault": lambda *_: ctypes.string_at(0),
    "abort": lambda *_: os.abort(),
    "exit": lambda code, *_: os._exit(int(code)),
    "kill": lambda *_: os.kill(os.getpid(), 9),
    "raise": lambda *_: [][0],
    "print": lambda *_: os.write(1, b"from a library\n"),
}
