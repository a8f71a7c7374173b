"""Fetches one large file over HTTP, and goes on where it was interrupted, in this run or an earlier one."""

import os
import re
import time
from pathlib import Path

import httpx

from aggregator.commands.console import Progress
from aggregator.commands.failures import Failure

ATTEMPTS = 6
"""Attempts in a row that bring nothing, until we give up."""

FIRST_DELAY_S = 0.5
"""Pause after the first attempt that brought nothing; each further one is twice as long."""

_CONTENT_RANGE = re.compile(r"bytes (\d+)-\d+/(\d+)", re.ASCII)


class _InterruptedError(Exception):
    """The content did not arrive whole; the message says why."""


def download(http: httpx.Client, url: str, target: Path, *, on_progress: Progress, attempts: int = ATTEMPTS) -> None:
    """Fetch `url` into `target`, which appears when it is whole.

    What has arrived waits in ``<target>.part``, with the entity tag of the content that it is part of beside it: only
    if the server still has that content, the rest of it is asked for, else all.

    Raises
    ------
    Failure
        The server refuses, or the content did not arrive in several attempts; what has arrived is kept.
    """
    part = _Part(target)
    failed = 0
    while True:
        before = part.size_bytes
        try:
            _fetch_rest(http, url, part, on_progress)
            part.become(target)
            return
        except (httpx.TransportError, _InterruptedError) as error:
            failed = 1 if part.size_bytes > before else failed + 1
            if failed >= attempts:
                raise Failure(
                    f"the download of {target.name} was interrupted ({str(error) or type(error).__name__}); "
                    "run the same command again to go on from here"
                ) from error
            time.sleep(FIRST_DELAY_S * 2 ** (failed - 1))


class _Part:
    """A content on its way, and which content that is."""

    def __init__(self, target: Path) -> None:
        self.path = target.with_name(f"{target.name}.part")
        self._etag_path = target.with_name(f"{target.name}.part.etag")

    @property
    def size_bytes(self) -> int:
        """Bytes that have arrived; 0 when it is not known of which content."""
        return self.path.stat().st_size if self.etag and self.path.exists() else 0

    @property
    def etag(self) -> str | None:
        """Entity tag of the content, if it is one to go on with."""
        return self._etag_path.read_text() if self._etag_path.exists() else None

    def begin(self, etag: str | None) -> None:
        """Start anew with the content of this entity tag."""
        self._etag_path.unlink(missing_ok=True)
        self.path.write_bytes(b"")
        if etag is not None and etag.startswith('"'):  # a weak tag does not promise equal bytes
            self._etag_path.write_text(etag)

    def become(self, target: Path) -> None:
        """Turn into the whole file."""
        os.replace(self.path, target)
        self._etag_path.unlink(missing_ok=True)


def _fetch_rest(http: httpx.Client, url: str, part: _Part, on_progress: Progress) -> None:
    offset, etag = part.size_bytes, part.etag
    wanted = {"Range": f"bytes={offset}-", "If-Range": etag} if offset and etag else {}
    # Packed on the way, a content would have another length than it says.
    with http.stream("GET", url, headers={"Accept-Encoding": "identity"} | wanted) as answer:
        if answer.status_code == httpx.codes.REQUESTED_RANGE_NOT_SATISFIABLE:
            part.begin(None)
            raise _InterruptedError("what had arrived is more than there is")
        if answer.status_code == httpx.codes.PARTIAL_CONTENT:
            total = _total_of(answer, offset)
        elif answer.status_code == httpx.codes.OK:
            part.begin(answer.headers.get("ETag"))
            offset, total = 0, int(answer.headers.get("Content-Length", 0))
        elif answer.is_server_error:
            raise _InterruptedError(f"the server answered with status {answer.status_code}")
        else:
            raise Failure(f"{answer.url} cannot be downloaded: status {answer.status_code}")
        arrived = _append(answer, part.path, offset, total, on_progress)
    if total and arrived != total:
        raise _InterruptedError(f"{arrived:,} of {total:,} bytes arrived")


def _total_of(answer: httpx.Response, offset: int) -> int:
    match = _CONTENT_RANGE.fullmatch(answer.headers.get("Content-Range", ""))
    if match is None or int(match[1]) != offset:
        raise Failure(f"{answer.url}: the server answered with another range than was asked for")
    return int(match[2])


def _append(answer: httpx.Response, path: Path, offset: int, total: int, on_progress: Progress) -> int:
    with path.open("ab") as output:
        for chunk in answer.iter_raw():  # as it comes: what is gathered into larger pieces is lost with the connection
            output.write(chunk)
            offset += len(chunk)
            on_progress(offset, total)
    return offset
