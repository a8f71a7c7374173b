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
from itertools import groupby
from multiprocessing.connection import wait
from typing import Any

import psycopg
from psycopg.adapt import Buffer, Dumper
from psycopg.copy import AsyncCopy, AsyncWriter
from psycopg.pq import Format

from metadata_db.errors import UnavailableError
from metadata_db.loading import HEADER, TRAILER
from metadata_db.rows import LOADED, SKETCHED, Line, Rejection, Row, finish_rows, make_drafts, make_sketches
from metadata_db.settings import CatalogueSettings
from metadata_db.strata import Strata
from metadata_db.vocabulary import Vocabulary

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True)
class Made:
    """What was made of a block of lines: rows as COPY takes them, by the number of their facility."""

    rows: Mapping[int, bytes]
    rejections: Sequence[Rejection]


class Workshop:
    """The processes of one process; made when they are first wanted."""

    def __init__(self, settings: CatalogueSettings) -> None:
        self._settings = settings
        self._pool: ProcessPoolExecutor | None = None
        self._pickled: tuple[Vocabulary, bytes] | None = None

    async def sketch(
        self, lines: Sequence[Line], vocabulary: Vocabulary, allowed: Collection[str] | None
    ) -> Mapping[int, bytes]:
        """Return the rows of `SKETCHED` of lines, see `make_sketches`."""
        sketched: Mapping[int, bytes] = await self._run(_sketch, lines, vocabulary, allowed)
        return sketched

    async def make(self, lines: Sequence[Line], vocabulary: Vocabulary, allowed: Collection[str] | None) -> Made:
        """Return the rows of `LOADED` of lines, and a rejection of each that is not good."""
        made: Made = await self._run(_make, lines, vocabulary, allowed)
        return made

    async def _run(
        self, function: Any, lines: Sequence[Line], vocabulary: Vocabulary, allowed: Collection[str] | None
    ) -> Any:
        if self._pickled is None or self._pickled[0] is not vocabulary:
            self._pickled = (vocabulary, pickle.dumps(vocabulary))
        loop = asyncio.get_running_loop()
        try:
            return await loop.run_in_executor(
                self._get_pool(), function, lines, self._pickled[1], None if allowed is None else frozenset(allowed)
            )
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


class _Pieces(AsyncWriter):
    """Keeps what COPY would send."""

    def __init__(self) -> None:
        self.all: list[bytes] = []

    async def write(self, data: Buffer) -> None:
        self.all.append(bytes(data))


class _JsonText(Dumper):
    """Sends JSON that is text already; psycopg's own would make a JSON string of it."""

    format = Format.BINARY
    oid = psycopg.adapters.types["jsonb"].oid

    def dump(self, obj: str) -> bytes:
        return b"\1" + obj.encode()


class Maker:
    """Makes rows of lines; has a connection of its own to give new strata their numbers."""

    def __init__(self, settings: CatalogueSettings) -> None:
        self._settings = settings
        self._runner = asyncio.Runner()
        self._strata = Strata()
        self._driver = self._connect()
        self._vocabulary: tuple[bytes, Vocabulary] | None = None

    def read_vocabulary(self, pickled: bytes) -> Vocabulary:
        """Return a vocabulary, which is nearly always the one of the call before."""
        if self._vocabulary is None or self._vocabulary[0] != pickled:
            self._vocabulary = (pickled, pickle.loads(pickled))  # noqa: S301  # from our own parent
        return self._vocabulary[1]

    def make(
        self, lines: Sequence[Line], vocabulary: Vocabulary, allowed: Collection[str] | None
    ) -> tuple[list[Row], list[Rejection]]:
        """Return the rows of `LOADED` of lines, and a rejection of each that is not good."""
        drafts, rejections = make_drafts(lines, vocabulary, allowed)
        if unknown := {draft.stratum for _, draft in drafts} - self._strata.numbers.keys():
            if self._driver.closed:
                self._driver = self._connect()
            self._runner.run(self._strata.learn(self._driver, unknown))
        return finish_rows(drafts, self._strata.numbers), rejections

    def pack(self, rows: Sequence[Row], types: Sequence[str]) -> bytes:
        """Return rows in the binary format of COPY, without header and trailer."""
        return self._runner.run(self._pack(rows, types))

    async def _pack(self, rows: Sequence[Row], types: Sequence[str]) -> bytes:
        pieces = _Pieces()
        async with self._driver.cursor() as cursor, AsyncCopy(cursor, binary=True, writer=pieces) as copy:
            copy.set_types(types)
            for row in rows:
                await copy.write_row(row)
        return b"".join(pieces.all).removeprefix(HEADER).removesuffix(TRAILER)

    def _connect(self) -> "psycopg.AsyncConnection[Any]":
        driver = self._runner.run(psycopg.AsyncConnection.connect(self._settings.libpq_url, autocommit=True))
        driver.adapters.register_dumper(None, _JsonText)
        return driver


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


def _make(lines: Sequence[Line], pickled: bytes, allowed: Collection[str] | None) -> Made:
    rows, rejections = _maker.make(lines, _maker.read_vocabulary(pickled), allowed)
    return Made(rows=_pack_each(rows, [*LOADED.values()]), rejections=rejections)


def _sketch(lines: Sequence[Line], pickled: bytes, allowed: Collection[str] | None) -> Mapping[int, bytes]:
    return _pack_each(make_sketches(lines, _maker.read_vocabulary(pickled), allowed), [*SKETCHED.values()])


def _pack_each(rows: Sequence[Row], types: Sequence[str]) -> dict[int, bytes]:
    groups = groupby(sorted(rows, key=_facility_of), key=_facility_of)
    return {facility_id: _maker.pack(list(group), types) for facility_id, group in groups}


def _facility_of(row: Row) -> int:
    facility_id: int = row[0]
    return facility_id
