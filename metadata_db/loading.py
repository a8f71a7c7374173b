"""Rows on their way into the catalogue: COPY into tables of the connection's own, one for each facility of a batch."""

from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import psycopg
from psycopg import sql
from psycopg.rows import dict_row
from psycopg.types.json import Jsonb
from sqlalchemy.ext.asyncio import AsyncConnection

from metadata_db.rows import TEXT, Rejection, Row
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
        """Move the facility's revision to that of `detail`, and write the change."""
        values = self._id | {"revision": detail["revision"], "kind": kind, "name": name, "detail": Jsonb(dict(detail))}
        await self.execute("update facility set revision = %(revision)s where id = %(id)s", values)
        await self.execute("insert into change (kind, subject, detail) values (%(kind)s, %(name)s, %(detail)s)", values)

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


_FOREIGN = """
    delete from {incoming} as incoming using file
    where incoming.storage_id = any(%(shared)s)
      and file.storage_id = incoming.storage_id and file.path = incoming.path
      and file.removed_in is null and file.facility_id <> %(facility_id)s
    returning incoming.line, file.facility_id, incoming.storage_id, incoming.path
"""


class LoadingTables:
    """The tables of one batch, each made when the first row of its facility comes."""

    def __init__(self, driver: psycopg.AsyncConnection[Any], columns: Mapping[str, str]) -> None:
        self._driver = driver
        self._columns = columns
        self._tables: dict[int, LoadingTable] = {}

    def __iter__(self) -> Iterator[LoadingTable]:
        return iter([self._tables[facility_id] for facility_id in sorted(self._tables)])

    async def copy(self, rows: Sequence[Row]) -> None:
        """Load rows of any facilities, whose first value is the number of the facility."""
        for facility_id, group in groupby(sorted(rows, key=_facility_of), key=_facility_of):
            if facility_id not in self._tables:
                self._tables[facility_id] = LoadingTable(self._driver, facility_id, self._columns)
                await self._tables[facility_id].create()
            await self._tables[facility_id].copy(list(group))


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
    for table in tables:
        await table.drop()
