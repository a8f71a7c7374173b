"""Documents by their digest: a client that knows the service knows a document asks by 64 digits instead of its text.

Every document that was carried out is kept. Those that were asked lately are at hand in this process; all processes
share the rest. Nothing is lost when the shared store is: whoever is told that a document is unknown sends its text.
"""

import time
from collections import OrderedDict
from typing import Protocol

from aggregator.api.protocol import sha256_of

MAX_DOCUMENTS = 1000
"""Documents at hand in one process."""

MAX_CHARACTERS = 20_000
"""Longest document that is kept; the longest of the web page has some 1,000 characters."""

RENEW_S = 600.0
"""How often one process tells the shared store that a document is still asked for."""


class SharedDocuments(Protocol):
    """Where all processes keep documents."""

    async def find_document(self, sha256: str) -> str | None:
        """Return a document, and keep it for longer."""

    async def put_document(self, sha256: str, text: str) -> None:
        """Keep a document."""


class PersistedDocuments:
    """The documents that can be asked by their digest."""

    def __init__(self, shared: SharedDocuments) -> None:
        self._shared = shared
        self._at_hand: OrderedDict[str, tuple[str, float]] = OrderedDict()

    async def find(self, sha256: str) -> str | None:
        """Return the document of a digest; None when it is not known."""
        text, renewed_at = self._at_hand.get(sha256, (None, 0.0))
        if text is not None and time.monotonic() - renewed_at < RENEW_S:
            self._at_hand.move_to_end(sha256)
            return text
        shared = await self._shared.find_document(sha256)
        if shared is not None and sha256_of(shared) == sha256:
            self._remember(sha256, shared)
            return shared
        if text is not None:
            await self._put(sha256, text)
        return text

    async def keep(self, text: str) -> None:
        """Keep a document that was carried out."""
        if len(text) > MAX_CHARACTERS:
            return
        sha256 = sha256_of(text)
        known = self._at_hand.get(sha256)
        if known is None or time.monotonic() - known[1] >= RENEW_S:
            await self._put(sha256, text)

    async def _put(self, sha256: str, text: str) -> None:
        self._remember(sha256, text)
        await self._shared.put_document(sha256, text)

    def _remember(self, sha256: str, text: str) -> None:
        self._at_hand[sha256] = (text, time.monotonic())
        self._at_hand.move_to_end(sha256)
        if len(self._at_hand) > MAX_DOCUMENTS:
            self._at_hand.popitem(last=False)
