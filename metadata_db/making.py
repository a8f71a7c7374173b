"""Processes that make rows of lines, so that whoever serves searches at the same time is not kept from it.

To decode, check and pack a line takes Python longer than anything else in an ingest, and while it does nobody else's
Python runs. Large batches are therefore handed out in blocks, and come back as the bytes of COPY. The processes start
with the first large batch, and end with the process that started them, however that ends.
"""

import asyncio
import gc
import logging
import multiprocessing
import os
import pickle
import signal
import threading
from collections.abc import Collection, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from multiprocessing.connection import wait
from typing import Any

import psycopg

from metadata_db.errors import UnavailableError
from metadata_db.names import Vocabulary
from metadata_db.packing import Packed, pack_drafts, pack_sketches
from metadata_db.rows import Block, Line, Rejection, Words, make_drafts, make_sketches
from metadata_db.settings import CatalogueSettings
from metadata_db.strata import Strata, Stratum

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True)
class Sketched:
    """What may be known of a block of lines."""

    n_lines: int
    rows: bytes
    """In the order of `SKETCHED`, as COPY takes them."""
    facilities: Collection[int]
    """Numbers of the facilities that the rows name."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Made:
    """What was made of a block of lines."""

    n_lines: int
    """Lines there were, without those that were known."""
    packed: Mapping[int, Packed]
    """Rows by the number of their facility."""
    rejections: Sequence[Rejection]
    rejected: Sequence[Line]


def sketch(block: Block, vocabulary: Vocabulary, allowed: Collection[str] | None) -> Sketched:
    """Return what may be known of a block of lines."""
    lines = list(block)
    sketches = make_sketches(lines, vocabulary, allowed)
    return Sketched(n_lines=len(lines), rows=pack_sketches(sketches), facilities=frozenset(row[0] for row in sketches))


class Drafts:
    """What the lines of a block say, but for those that are known.

    Parameters
    ----------
    leave_replicated
        Whether lines with replicas count among the rejected ones, without a rejection.
    """

    def __init__(
        self,
        block: Block,
        known: Collection[int],
        words: Words,
        allowed: Collection[str] | None,
        *,
        leave_replicated: bool = False,
    ) -> None:
        lines = [line for line in block if line[0] not in known] if known else list(block)
        self._n_lines = len(lines)
        self._drafts, self._rejections = make_drafts(lines, words, allowed)
        others = {rejection.line for rejection in self._rejections}
        if leave_replicated:
            others.update(draft.number for draft in self._drafts if draft.replicas is not None)
            self._drafts = [draft for draft in self._drafts if draft.replicas is None]
        self._rejected = [line for line in lines if line[0] in others] if others else []

    def unknown(self, numbers: Mapping[Stratum, int]) -> set[Stratum]:
        """Return the strata whose numbers have to be asked for before `finish`."""
        return {draft.alike.stratum for draft in self._drafts if not draft.alike.packed} - numbers.keys()

    def finish(self, numbers: Mapping[Stratum, int]) -> Made:
        """Return the rows, given the number of each stratum."""
        return Made(
            n_lines=self._n_lines,
            packed=pack_drafts(self._drafts, numbers),
            rejections=self._rejections,
            rejected=self._rejected,
        )


class Workshop:
    """The processes of one process; made when they are first wanted."""

    def __init__(self, settings: CatalogueSettings) -> None:
        self._settings = settings
        self._pool: ProcessPoolExecutor | None = None
        self._pickled: tuple[Vocabulary, bytes] | None = None

    async def sketch(self, block: Block, vocabulary: Vocabulary, allowed: Collection[str] | None) -> Sketched:
        """Return what may be known of a block of lines."""
        sketched: Sketched = await self._run(_sketch, vocabulary, block, allowed)
        return sketched

    async def make(
        self, block: Block, known: Collection[int], vocabulary: Vocabulary, allowed: Collection[str] | None
    ) -> Made:
        """Return the rows of a block of lines, but for those that are known, and why some are not good."""
        made: Made = await self._run(_make, vocabulary, block, known, allowed)
        return made

    async def _run(self, function: Any, vocabulary: Vocabulary, *arguments: Any) -> Any:
        if self._pickled is None or self._pickled[0] is not vocabulary:
            self._pickled = (vocabulary, pickle.dumps(vocabulary))
        loop = asyncio.get_running_loop()
        try:
            return await loop.run_in_executor(self._get_pool(), function, self._pickled[1], *arguments)
        except psycopg.OperationalError as error:
            raise UnavailableError("the catalogue's database does not answer, try again in a moment") from error
        except BrokenProcessPool as error:
            self._pool = None  # the next batch starts others
            raise UnavailableError("a process that reads lines has died, send the batch again") from error

    def _get_pool(self) -> ProcessPoolExecutor:
        if self._pool is None:
            self._pool = ProcessPoolExecutor(
                self._settings.ingest_processes,
                mp_context=multiprocessing.get_context("spawn"),
                initializer=_start,
                initargs=(self._settings,),
            )
        return self._pool

    def close(self) -> None:
        """End the processes."""
        if self._pool is not None:
            self._pool.shutdown(wait=False, cancel_futures=True)
            self._pool = None


# --- in a process of its own ------------------------------------------------------------------------------------------


class Maker:
    """Makes rows of lines; has a connection of its own to give new strata their numbers."""

    def __init__(self, settings: CatalogueSettings) -> None:
        self._settings = settings
        self._runner = asyncio.Runner()
        self._driver: psycopg.AsyncConnection[Any] | None = None
        self._words: tuple[bytes, Words] | None = None
        self._strata = Strata()

    def read_words(self, pickled: bytes) -> Words:
        """Return the words of a vocabulary, which is nearly always the one of the call before."""
        if self._words is None or self._words[0] != pickled:
            self._words = (pickled, Words(pickle.loads(pickled)))  # noqa: S301  # from our own parent
        return self._words[1]

    def make(self, drafts: Drafts) -> Made:
        """Return the rows of drafts."""
        while unknown := drafts.unknown(self._strata.numbers):
            self._runner.run(self._learn(unknown))
        return drafts.finish(self._strata.numbers)

    async def _learn(self, strata: Collection[Stratum]) -> None:
        if self._driver is None or self._driver.closed:
            self._driver = await psycopg.AsyncConnection.connect(self._settings.libpq_url, autocommit=True)
        await self._strata.learn(self._driver, strata)


def prepare_process() -> None:
    """Make a process of a pool ours: it ends with its parent, not by Ctrl-C, and seldom looks for garbage."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    gc.set_threshold(500_000)  # rows hold no cycles, and the collector would look at each of them again and again


def _end_with_parent() -> None:
    """End this process when its parent is gone, however it went: nobody else would tell it."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        wait([parent.sentinel])
        os._exit(1)


_maker: Maker


def _start(settings: CatalogueSettings) -> None:
    global _maker  # one for each process of the pool
    prepare_process()
    _maker = Maker(settings)


def _make(pickled: bytes, block: Block, known: Collection[int], allowed: Collection[str] | None) -> Made:
    return _maker.make(Drafts(block, known, _maker.read_words(pickled), allowed))


def _sketch(pickled: bytes, block: Block, allowed: Collection[str] | None) -> Sketched:
    return sketch(block, _maker.read_words(pickled).vocabulary, allowed)
