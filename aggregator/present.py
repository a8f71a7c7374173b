"""What a process knows of the present: the revisions of all facilities and the state of some exports, a second old.

Freshness is by revision, not by clock. The process that took an ingest is told before the publisher is; what other
processes did is read anew once a second. While questions keep coming it is read before the second is over, so that
nobody waits for it.
"""

import asyncio
import time
from collections import OrderedDict
from collections.abc import Mapping
from typing import Protocol

from aggregator.staging.ledger import Export
from metadata_db.errors import CatalogueError
from metadata_db.moments import Moment

PRESENT_S = 1.0
"""Longest time a process answers by what another process may have changed."""

AHEAD_S = 0.5
"""Age from which on it is read anew while questions are answered by it."""

MAX_EXPORTS = 10_000
"""Exports of which the state is remembered."""

ALIVE = "alive"
"""Mark of an export of which is told only that it is there: under way or complete."""


def mark_of(export: Export | None) -> str:
    """Return what changes whenever an export does, but for how far it is."""
    if export is None:
        return ""
    return f"{export.state}:{export.created_at}:{export.started_at}:{export.completed_at}:{export.manifest_sha256}"


class MomentReader(Protocol):
    """What is needed of the catalogue."""

    async def moment(self) -> Moment:
        """Return what the facilities are at."""
        ...


class ExportReader(Protocol):
    """What is needed of the ledger of exports."""

    async def find(self, export_id: str) -> Export | None:
        """Return an export."""
        ...


class Present:
    """The present as this process knows it."""

    def __init__(self, catalogue: MomentReader, exports: ExportReader) -> None:
        self._catalogue = catalogue
        self._exports = exports
        self._moment = Moment(revisions={}, changes={})
        self._read_at = -PRESENT_S
        self._noted: dict[str, int] = {}
        self._reading: asyncio.Task[None] | None = None
        self._failed_at = -PRESENT_S
        self._failure: CatalogueError | None = None
        self._marks: OrderedDict[str, tuple[float, str, bool]] = OrderedDict()
        self.generation = 0
        """Grows with everything that changes what is known: what was right before need not be looked at again."""

    def note(self, revisions: Mapping[str, int]) -> None:
        """Take notice of new revisions: from now on nothing older is the present.

        They are not put together with what is known of other facilities: two of them read apart may be a state that
        the catalogue never was in, and that no revision of it could name.
        """
        for name, revision in revisions.items():
            self._noted[name] = max(revision, self._noted.get(name, 0))
        self.generation += 1

    # --- revisions -----------------------------------------------------------------------------------------------

    async def moment(self) -> Moment:
        """Return what the facilities are at: one moment at most `PRESENT_S` ago, and not before what was noted.

        Raises
        ------
        UnavailableError
            The database is away, or was so a moment ago: not everybody has to find out anew.
        """
        # A look-up that was under way already may have begun before what was noted since.
        for _ in range(2):
            if self._is_fresh():
                break
            if self._failure is not None and time.monotonic() - self._failed_at < PRESENT_S:
                raise self._failure
            await asyncio.shield(self._read())
        return self._moment

    def peek(self) -> Moment | None:
        """Return what the facilities are at if that is known without waiting."""
        if time.monotonic() - self._read_at > AHEAD_S:
            if not self._is_fresh():
                return None
            # Nobody waits for it, and whoever finds that it failed asks again.
            self._read().add_done_callback(_ignore)
        return self._moment

    def _is_fresh(self) -> bool:
        known = self._moment.revisions
        is_new = time.monotonic() - self._read_at < PRESENT_S
        return is_new and all(known.get(name, 0) >= revision for name, revision in self._noted.items())

    def _read(self) -> "asyncio.Task[None]":
        if self._reading is None:
            self._reading = asyncio.create_task(self._read_moment())
            self._reading.add_done_callback(self._forget_reading)
        return self._reading

    def _forget_reading(self, _done: object) -> None:
        self._reading = None

    async def _read_moment(self) -> None:
        asked_at = time.monotonic()
        try:
            found = await self._catalogue.moment()
        except CatalogueError as error:
            self._failed_at, self._failure = time.monotonic(), error
            raise
        self._failure = None
        if found.revisions != self._moment.revisions:
            self.generation += 1
        self._moment, self._read_at = found, asked_at

    # --- exports -------------------------------------------------------------------------------------------------

    async def is_export_as(self, export_id: str, mark: str) -> bool:
        """Tell whether an export is as it was when it had this mark; nobody has changed it for a second, or here."""
        known = self._marks.get(export_id)
        if known is None or time.monotonic() - known[0] >= PRESENT_S:
            generation, asked_at = self.generation, time.monotonic()
            found = await self._exports.find(export_id)
            known = (asked_at, mark_of(found), found is not None and found.is_alive)
            if generation == self.generation:
                self._remember(export_id, known)
        return known[2] if mark == ALIVE else known[1] == mark

    def note_export(self, export: Export) -> None:
        """Take notice of the state of an export, which this process may just have changed."""
        known, mark = self._marks.get(export.id), mark_of(export)
        self._remember(export.id, (time.monotonic(), mark, export.is_alive))
        if known is None or known[1] != mark:
            self.generation += 1

    def _remember(self, export_id: str, known: tuple[float, str, bool]) -> None:
        self._marks[export_id] = known
        self._marks.move_to_end(export_id)
        if len(self._marks) > MAX_EXPORTS:
            self._marks.popitem(last=False)


def _ignore(done: "asyncio.Task[None]") -> None:
    if not done.cancelled():
        done.exception()
