"""Rows on their way into the catalogue: COPY into tables of the connection's own, one for each facility of a batch."""

from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from itertools import groupby
from typing import Any, Self

import psycopg
from psycopg import sql
from psycopg.rows import dict_row
from psycopg.types.json import Jsonb
from sqlalchemy.ext.asyncio import AsyncConnection

from metadata_db.rows import SKETCHED, TEXT, Rejection, Row
from metadata_db.vocabulary import Vocabulary


class LoadingTable:
    """One facility's rows of one batch; `columns` are names and types, path, storage_id and line among them."""

    def __init__(self, driver: psycopg.AsyncConnection[Any], facility_id: int, columns: Mapping[str, str]) -> None:
        self._driver = driver
        self.facility_id = facility_id
        self._columns = columns
        self._name = f"incoming_{facility_id}"

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

    async def analyze(self) -> None:
        """Let the planner know what was loaded."""
        await self.execute("analyze {incoming} (storage_id, path, line)")

    async def take_foreign(self, vocabulary: Vocabulary) -> list["ForeignLine"]:
        """Take out, and return, lines whose path on a shared storage is catalogued for another facility."""
        shared = [number for number, storage in vocabulary.storages.items() if storage.facility is None]
        if not shared:
            return []
        found = await self.execute(_FOREIGN, {"facility_id": self.facility_id, "shared": shared})
        return [
            ForeignLine(line=line, owner=vocabulary.facility.names[owner], storage_id=storage_id, path=path)
            for line, owner, storage_id, path in sorted(await found.fetchall())
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
        await self.execute(_MOVE_ON, values)

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

_MOVE_ON = """
    with made as (
        insert into change (at, kind, subject, detail, facility_id, revision)
        values (clock_timestamp(), %(kind)s, %(name)s, %(detail)s, %(id)s, %(revision)s) returning id
    )
    update facility set revision = %(revision)s, change_id = made.id from made where facility.id = %(id)s
"""

_FOREIGN = """
    delete from {incoming} as incoming using file
    where incoming.storage_id = any(%(shared)s)
      and file.storage_id = incoming.storage_id and file.path = incoming.path
      and file.facility_id <> %(facility_id)s
    returning incoming.line, file.facility_id, incoming.storage_id, incoming.path
"""


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
            if facility_id not in self._tables:
                self._tables[facility_id] = LoadingTable(self._driver, facility_id, self._columns)
                await self._tables[facility_id].create()
            await self._tables[facility_id].copy(list(group))


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

    async def find_known(self, rows: Sequence[Row]) -> set[int]:
        """Return the lines among `rows` of `SKETCHED` that say nothing new, and nothing about a failure either."""
        self._facilities.update(row[0] for row in rows)
        statement = f"copy sketch ({', '.join(SKETCHED)}) from stdin (format binary)"
        async with self._driver.cursor() as cursor, cursor.copy(sql.SQL(statement)) as copy:
            copy.set_types([*SKETCHED.values()])
            for row in rows:
                await copy.write_row(row)
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


_BYTEWISE = 'text collate "C"'

_KNOWN = """
    with found as (
        select sketch.*, file.sha256 is not null and file.checked_at < now() - interval '1 hour' as is_check
        from sketch join file on file.storage_id = sketch.storage_id and file.path = sketch.path
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
    await tables.drop()
