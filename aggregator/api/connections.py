"""What holds for all connections that stay open: how many there may be, and from which pages."""

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from urllib.parse import urlsplit

MAX_CONNECTIONS = 500
"""Connections of one process that stay open, WebSockets and streams of events together."""


class FullError(Exception):
    """All places are taken."""


class Places:
    """The places for connections that stay open, of which there are not endlessly many."""

    def __init__(self, number: int = MAX_CONNECTIONS) -> None:
        self.free = number

    @contextmanager
    def take(self) -> Iterator[None]:
        """Hold one place.

        Raises
        ------
        FullError
            There is none.
        """
        if self.free == 0:
            raise FullError
        self.free -= 1
        try:
            yield
        finally:
            self.free += 1


def is_allowed_origin(origin: str | None, *, host: str | None, allowed: Collection[str]) -> bool:
    """Tell whether a page may open a connection: ours, those named in the settings, and what is no page.

    Browsers open WebSockets for any page to any host, and send along whatever identifies the reader; they only say for
    which page, in `Origin`.
    """
    return origin is None or origin in allowed or (host is not None and urlsplit(origin).netloc == host)
