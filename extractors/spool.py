"""Keeps records on disk while the catalogue is away: nothing lost, and removed only once acknowledged.

Each file is one batch of NDJSON lines. It appears whole, by rename, after its bytes are on disk. Its name begins with
the time, so that the oldest is sent first. A file left half-written by a crash ends in ``.part`` and is never sent.
"""

import os
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

from extractors.client import SendResult
from extractors.errors import RefusedError


class Spool:
    """A folder of batches that wait to be sent; several processes may share it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def add(self, lines: bytes) -> Path:
        """Keep one batch, and return its file once it would survive a power cut.

        Raises
        ------
        OSError
            The folder cannot be made or written, or the disk is full.
        """
        self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        target = self.folder / f"{time.time_ns():020d}-{uuid.uuid4().hex[:8]}.ndjson"
        part = target.with_suffix(".part")
        try:
            with part.open("xb") as stream:
                stream.write(lines)
                stream.flush()
                os.fsync(stream.fileno())
            part.rename(target)
        except OSError:
            part.unlink(missing_ok=True)
            raise
        self._sync()
        return target

    def pending(self) -> list[Path]:
        """Return the batches that wait, oldest first."""
        return sorted(self.folder.glob("*.ndjson"))

    def flush(self, send: Callable[[bytes], SendResult]) -> Iterator[SendResult | RefusedError]:
        """Send the waiting batches, oldest first, and yield what became of each.

        A batch goes when it is acknowledged. One that the catalogue refuses for its content is kept beside the others,
        ending in ``.refused``, so that it neither blocks them nor is lost.

        Raises
        ------
        CatalogueAwayError
            From `send`; this batch and those after it stay.
        RefusedError
            From `send`, when the sender is not allowed to; all stay, for one who is.
        """
        for path in self.pending():
            try:
                lines = path.read_bytes()
            except FileNotFoundError:  # another process was faster
                continue
            try:
                result: SendResult | RefusedError = send(lines)
                path.unlink(missing_ok=True)
            except RefusedError as error:
                if error.is_about_sender:
                    raise
                self.set_aside(path)
                result = error
            self._sync()
            yield result

    def set_aside(self, path: Path) -> Path:
        """Take a batch out of the queue without losing it, and return where it is kept."""
        return path.rename(path.with_suffix(".refused"))

    def _sync(self) -> None:
        """Make renames and removals durable."""
        descriptor = os.open(self.folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
