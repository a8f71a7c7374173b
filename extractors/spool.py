"""Keeps records on disk while the catalogue is away: nothing lost, and removed only once acknowledged.

Each file is one batch of NDJSON lines, of records or of failures. It appears whole, by rename, after its bytes are on
disk. Its name begins with the time, so that the oldest is sent first. A file left half-written by a crash ends in
``.part`` and is never sent.
"""

import os
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Literal, TypeAlias

from extractors.client import SendResult
from extractors.errors import RefusedError

Kind: TypeAlias = Literal["files", "failures"]
"""What the lines of a batch are."""

Send: TypeAlias = Callable[[Kind, bytes], SendResult | None]
"""Delivers the lines of one batch; failures are acknowledged without a result."""


class Spool:
    """A folder of batches that wait to be sent; several processes may share it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def add(self, lines: bytes, kind: Kind = "files") -> Path:
        """Keep one batch, and return its file once it would survive a power cut.

        Raises
        ------
        OSError
            The folder cannot be made or written, or the disk is full.
        """
        self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        target = self.folder / f"{time.time_ns():020d}-{uuid.uuid4().hex[:8]}.{kind}.ndjson"
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

    def flush(self, send: Send) -> Iterator[SendResult | RefusedError | None]:
        """Send the waiting batches, oldest first, and yield what became of each.

        A batch goes when it is acknowledged. One that the catalogue refuses for its content is kept beside the others,
        ending in ``.refused`` and with the reason in a file of its own, so that it neither blocks them nor is lost.

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
                result: SendResult | RefusedError | None = send(_kind(path), lines)
                path.unlink(missing_ok=True)
            except RefusedError as error:
                if error.is_about_sender:
                    raise
                self.set_aside(path, str(error))
                result = error
            self._sync()
            yield result

    def set_aside(self, path: Path, reason: str) -> Path:
        """Take a batch out of the queue without losing it, and return where it is kept, beside the reason."""
        path.with_suffix(".reason").write_text(f"{reason}\n")
        return path.rename(path.with_suffix(".refused"))

    def _sync(self) -> None:
        """Make renames and removals durable."""
        descriptor = os.open(self.folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _kind(path: Path) -> Kind:
    return "failures" if path.stem.endswith(".failures") else "files"
