"""Rows on their way into the catalogue: COPY into tables of the connection's own, one for each facility of a batch."""

import asyncio
import os
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from itertools import groupby
from tempfile import SpooledTemporaryFile
from typing import Any, Self

import numpy as np
import psycopg
from psycopg import sql
from psycopg.rows import dict_row
from psycopg.types.json import Jsonb
from sqlalchemy.ext.asyncio import AsyncConnection

from metadata_db.errors import UnavailableError
from metadata_db.packing import (
    COLUMNS,
    HEADER,
    SKETCHED,
    TRAILER,
    Flags,
    Numbers,
    Packed,
    select_rows,
    set_revision,
)
from metadata_db.rows import TEXT, Rejection, Row
from metadata_db.vocabulary import Vocabulary


class LoadingTable:
    """One facility's rows of one batch; `columns` are names and types, path, storage_id and line among them."""

    def __init__(self, driver: psycopg.AsyncConnection[Any], facility_id: int, columns: Mapping[str, str]) -> None:
        self._driver = driver
        self.facility_id = facility_id
        self._columns = columns
        self._name = f"incoming_{facility_id}"
        self.pile = Pile()

    async def create(self) -> None:
        """Make the table. Its texts compare by their bytes, as the catalogue's paths do."""
        columns = ", ".join(
            f'{name} {kind} collate "C"' if kind == TEXT else f"{name} {kind}" for name, kind in self._columns.items()
        )
        await self.execute(f"create temporary table {{incoming}} ({columns})")

    async def drop(self) -> None:
        """Drop the table."""
        await self.execute("drop table {incoming}")

    async def copy(self, rows: Sequence[Row]) -> None:
        """Load rows."""
        statement = f"copy {self._name} ({', '.join(self._columns)}) from stdin (format binary)"
        async with self._driver.cursor() as cursor, cursor.copy(sql.SQL(statement)) as copy:
            copy.set_types([*self._columns.values()])
            for row in rows:
                await copy.write_row(row)

    async def add(self, packed: Packed) -> None:
        """Load what tells what becomes of rows, and keep the rows themselves."""
        await asyncio.to_thread(self.pile.add, packed)
        await _copy_packed(self._driver, self._name, self._columns, [packed.keys])

    async def copy_rows(self, target: str, *, revision: int, lines: Numbers | None = None) -> None:
        """Copy rows of these lines, None for all, into a table with the columns of `file`, as added in a revision."""
        async with _copying(self._driver, target, COLUMNS) as copy:
            for number in range(len(self.pile)):
                await copy.write(await asyncio.to_thread(self.pile.read, number, revision=revision, lines=lines))

    async def fetch_lines(self, condition: str) -> Numbers:
        """Return the lines of the rows of ``fate`` that meet a condition; they may be millions."""
        async with self._driver.cursor() as cursor:
            statement = f"copy (select line from fate where {condition} order by line) to stdout (format binary)"
            async with cursor.copy(sql.SQL(statement)) as copy:
                found = b"".join([bytes(piece) async for piece in copy])
        rows = found.removeprefix(HEADER).removesuffix(TRAILER)
        return np.frombuffer(rows, [("size", "S6"), ("line", ">i8")])["line"].astype(np.int64)

    async def execute(self, statement: str, values: Mapping[str, Any] | None = None) -> psycopg.AsyncCursor[Any]:
        """Run a statement in which ``{incoming}`` stands for this table."""
        return await self._driver.execute(sql.SQL(statement.format(incoming=self._name)), values)

    async def fetch_one(self, statement: str, values: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """Run a statement that gives one row, and return its values by name."""
        async with self._driver.cursor(row_factory=dict_row) as cursor:
            await cursor.execute(sql.SQL(statement.format(incoming=self._name)), values)
            return await cursor.fetchone() or {}

    def transaction(self) -> AbstractAsyncContextManager[Any]:
        """Return a transaction on the connection that this table belongs to."""
        return self._driver.transaction()

    async def take_foreign(self, vocabulary: Vocabulary) -> list["ForeignLine"]:
        """Take out, and return, lines whose path on a shared storage is catalogued for another facility."""
        shared = [number for number, storage in vocabulary.storages.items() if storage.facility is None]
        if not shared:
            return []
        rows = await (await self.execute(_FOREIGN, {"facility_id": self.facility_id, "shared": shared})).fetchall()
        if rows:
            await self.execute(
                "delete from {incoming} where line = any(%(lines)s)", {"lines": [row[0] for row in rows]}
            )
        return [
            ForeignLine(line=line, owner=vocabulary.facility.names[owner], storage_id=storage_id, path=path)
            for line, owner, storage_id, path in sorted(rows)
        ]

    async def lock_facility(self) -> int:
        """Return the facility's revision; until the transaction ends nobody else moves it.

        The lock puts the merges of one facility in a row, and so its revisions in order.
        """
        row = await self.fetch_one("select revision from facility where id = %(id)s for update", self._id)
        revision: int = row["revision"]
        return revision

    async def move_on(self, kind: str, name: str, detail: Mapping[str, int]) -> None:
        """Move the facility's revision to that of `detail`, and write the change; the last that a transaction does.

        The lock, which is held until the commit, makes the numbers and times of changes grow in the order in which
        they can be seen.
        """
        values = self._id | {"revision": detail["revision"], "kind": kind, "name": name, "detail": Jsonb(dict(detail))}
        await self.execute("select pg_advisory_xact_lock(%(key)s)", {"key": CHANGE_LOCK})
        await self.execute(MOVE_ON, values)

    @property
    def _id(self) -> dict[str, Any]:
        return {"id": self.facility_id}


@dataclass(frozen=True, kw_only=True, slots=True)
class ForeignLine:
    """A line about a file that is catalogued for another facility, its `owner`."""

    line: int
    owner: str
    storage_id: int
    path: str

    @property
    def rejection(self) -> Rejection:
        """Why the line is not accepted."""
        return Rejection(line=self.line, field="path", reason=f"is catalogued for {self.owner} already")


CHANGE_LOCK = 0x6368616E6765
"""Key of the advisory lock under which changes get their numbers: the bytes of "change"."""

MOVE_ON = """
    with made as (
        insert into change (at, kind, subject, detail, facility_id, revision)
        select greatest(clock_timestamp(), (
            select at + interval '1 microsecond' from change where facility_id is not null order by at desc limit 1
        )), %(kind)s, %(name)s, %(detail)s, %(id)s, %(revision)s
        returning id
    )
    update facility set revision = %(revision)s, change_id = made.id from made where facility.id = %(id)s
"""
"""Moves a facility, under the lock on changes, and writes the change. The times of changes grow as their numbers do,
also when a clock was put back: a time names one state for ever."""

_FOREIGN = """
    select incoming.line, file.facility_id, incoming.storage_id, incoming.path
    from {incoming} as incoming cross join lateral (
        select facility_id from file where storage_id = incoming.storage_id and path = incoming.path offset 0
    ) as file
    where incoming.storage_id = any(%(shared)s) and file.facility_id <> %(facility_id)s
"""
"""Like all that looks paths up it goes by the index, one path after the other: the planner, which knows nothing of a
table that has just been made, at times reads the whole catalogue instead."""


class Pile:
    """Packed rows of one facility, kept until it is known what becomes of each."""

    def __init__(self) -> None:
        self._rows: SpooledTemporaryFile[bytes] = SpooledTemporaryFile(PILE_IN_MEMORY_BYTES)  # noqa: SIM115  # `close`
        self._blocks: list[_PiledBlock] = []
        self.n_rows = 0
        self.longest = timedelta(0)
        """Length of the longest file, of those of which a facility knows it."""

    def __len__(self) -> int:
        return len(self._blocks)

    def add(self, packed: Packed) -> None:
        """Put a block of rows on the pile."""
        at = self._rows.seek(0, os.SEEK_END)
        try:
            self._rows.write(packed.rows)
        except OSError as error:
            raise UnavailableError(f"the rows of a large batch cannot be kept: {error.strerror}") from error
        self._blocks.append(_PiledBlock(at=at, lengths=packed.lengths, lines=packed.lines))
        self.n_rows += len(packed.lines)
        self.longest = max(self.longest, packed.longest)

    def read(self, number: int, *, revision: int, lines: Numbers | None) -> bytearray:
        """Return the rows of a block that are of these lines, None for all, as added in a revision."""
        block = self._blocks[number]
        self._rows.seek(block.at)
        rows = set_revision(self._rows.read(int(block.lengths.sum())), block.lengths, revision)
        return rows if lines is None else select_rows(rows, block.lengths, _is_among(block.lines, lines))

    def close(self) -> None:
        """Forget the rows."""
        self._rows.close()


def _is_among(lines: Numbers, wanted: Numbers) -> Flags:
    """Tell which lines are among those that are wanted, which are in order."""
    if not len(wanted):
        return np.zeros(len(lines), np.bool_)
    at = np.minimum(np.searchsorted(wanted, lines), len(wanted) - 1)
    return np.equal(wanted[at], lines)


PILE_IN_MEMORY_BYTES = 4_000_000
"""Rows of one facility of a batch that are kept in memory, some 7,000; more of them go to a temporary file."""


@dataclass(frozen=True, kw_only=True, slots=True)
class _PiledBlock:
    at: int
    lengths: Numbers
    lines: Numbers


class LoadingTables:
    """The tables of one batch, each made when the first row of its facility comes."""

    def __init__(self, driver: psycopg.AsyncConnection[Any], columns: Mapping[str, str]) -> None:
        self._driver = driver
        self._columns = columns
        self._tables: dict[int, LoadingTable] = {}
        self._sketches: Sketches | None = None

    async def sketches(self) -> "Sketches":
        """Return the tables of what is known already, made when they are first wanted."""
        if self._sketches is None:
            self._sketches = await Sketches.create(self._driver)
        return self._sketches

    def close(self) -> None:
        """Forget all rows that are kept here."""
        for table in self:
            table.pile.close()

    async def drop(self) -> None:
        """Drop all tables."""
        for table in self:
            await table.drop()
        if self._sketches is not None:
            await self._sketches.drop()

    @property
    def driver(self) -> psycopg.AsyncConnection[Any]:
        """The connection that the tables belong to."""
        return self._driver

    def __iter__(self) -> Iterator[LoadingTable]:
        return iter([self._tables[facility_id] for facility_id in sorted(self._tables)])

    async def copy(self, rows: Sequence[Row]) -> None:
        """Load rows of any facilities, whose first value is the number of the facility."""
        for facility_id, group in groupby(sorted(rows, key=_facility_of), key=_facility_of):
            await (await self._get(facility_id)).copy(list(group))

    async def add(self, packed: Mapping[int, Packed]) -> None:
        """Take packed rows, by the number of their facility."""
        for facility_id, own in packed.items():
            await (await self._get(facility_id)).add(own)

    async def _get(self, facility_id: int) -> LoadingTable:
        if facility_id not in self._tables:
            self._tables[facility_id] = LoadingTable(self._driver, facility_id, self._columns)
            await self._tables[facility_id].create()
        return self._tables[facility_id]


class Sketches:
    """The lines of one batch that the catalogue holds already, byte for byte as they were sent before."""

    def __init__(self, driver: psycopg.AsyncConnection[Any]) -> None:
        self._driver = driver
        self._facilities: set[int] = set()
        self._is_any_known = False

    @classmethod
    async def create(cls, driver: psycopg.AsyncConnection[Any]) -> Self:
        """Make the tables."""
        columns = ", ".join(f"{name} {kind}" for name, kind in SKETCHED.items())
        for name in ("sketch", "known"):
            await driver.execute(sql.SQL(f"create temporary table {name} ({columns.replace('text', _BYTEWISE)})"))
        return cls(driver)

    async def drop(self) -> None:
        """Drop the tables."""
        await self._driver.execute("drop table sketch, known")

    async def find_known(self, rows: bytes, facilities: Iterable[int]) -> set[int]:
        """Return the lines among packed sketches that say nothing new, and nothing about a failure either."""
        self._facilities.update(facilities)
        await _copy_packed(self._driver, "sketch", SKETCHED, [rows])
        found = await (await self._driver.execute(_KNOWN)).fetchall()
        await self._driver.execute("truncate sketch")
        if any(is_check for _, is_check in found):
            await self._driver.execute(_CHECKED)
        self._is_any_known |= bool(found)
        return {line for line, _ in found}

    async def overrule(self, table: LoadingTable) -> None:
        """Take out rows of a loading table whose path a later line of the batch says to be as it is."""
        if self._is_any_known:
            await table.execute(_OVERRULE)

    async def revisions(self) -> list[tuple[str, int]]:
        """Return name and revision of each facility that was named."""
        found = await self._driver.execute(
            "select name, revision from facility where id = any(%s)", [sorted(self._facilities)]
        )
        return await found.fetchall()


async def _copy_packed(
    driver: psycopg.AsyncConnection[Any], table: str, columns: Iterable[str], rows: Iterable[bytes]
) -> None:
    async with _copying(driver, table, columns) as copy:
        for piece in rows:
            await copy.write(piece)


@asynccontextmanager
async def _copying(
    driver: psycopg.AsyncConnection[Any], table: str, columns: Iterable[str]
) -> AsyncIterator[psycopg.AsyncCopy]:
    """Give a COPY that takes packed rows."""
    statement = f"copy {table} ({', '.join(columns)}) from stdin (format binary)"
    async with driver.cursor() as cursor, cursor.copy(sql.SQL(statement)) as copy:
        await copy.write(HEADER)
        yield copy
        await copy.write(TRAILER)


_BYTEWISE = 'text collate "C"'

_KNOWN = """
    with found as (
        select sketch.*, file.sha256 is not null and file.checked_at < now() - interval '1 hour' as is_check
        from sketch cross join lateral (
            select sha256, checked_at, line_digest, facility_id from file
            where storage_id = sketch.storage_id and path = sketch.path offset 0
        ) as file
        where file.line_digest = sketch.line_digest and file.facility_id = sketch.facility_id
            and sketch.path not in (select path from dead_letter where path is not null)
    ), kept as (
        insert into known select facility_id, storage_id, path, line_digest, line from found
    )
    select line, is_check from found
"""

_CHECKED = """
    update file set checked_at = now() from known
    where file.storage_id = known.storage_id and file.path = known.path
        and file.sha256 is not null and file.checked_at < now() - interval '1 hour'
"""

_OVERRULE = """
    delete from {incoming} as incoming using known
    where known.storage_id = incoming.storage_id and known.path = incoming.path and known.line > incoming.line
"""


def _facility_of(row: Row) -> int:
    facility_id: int = row[0]
    return facility_id


@asynccontextmanager
async def loading(connection: AsyncConnection, columns: Mapping[str, str]) -> AsyncIterator[LoadingTables]:
    """Give the loading tables of a batch on a connection without a transaction; in the end they are gone."""
    driver: Any = (await connection.get_raw_connection()).driver_connection
    tables = LoadingTables(driver, columns)
    try:
        yield tables
    except BaseException:
        # Whatever state COPY or a cancelled task left it in: the tables go with the connection.
        await connection.invalidate()
        raise
    else:
        await tables.drop()
    finally:
        tables.close()
