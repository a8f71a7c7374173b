"""The connection to Postgres: one engine per process, one connection per unit of work, errors of ours."""

import asyncio
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from typing import Any, TypeAlias

import numpy as np
import orjson
import psycopg
from numpy.typing import NDArray
from psycopg import sql
from psycopg.abc import Buffer
from psycopg.adapt import Loader
from psycopg.pq import Format
from psycopg.types.json import set_json_loads
from psycopg_pool import AsyncConnectionPool, PoolTimeout
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine

from metadata_db.errors import UnavailableError
from metadata_db.settings import CatalogueSettings

POOL_TIMEOUT_S = 10.0
"""Longest wait for a connection of the pool."""

Driver: TypeAlias = "psycopg.Connection[tuple[Any, ...]]"
"""A plain connection."""


class Database:
    """Owns the engine; hands out connections."""

    def __init__(self, settings: CatalogueSettings) -> None:
        self._statement_timeout_ms = int(settings.statement_timeout_s * 1000)
        # The catalogue is UTC throughout; the planner's JIT costs more than it saves on our short statements. Plans
        # are made for the values at hand: a plan for any interval is a bad one for most. Where it is not, it is kept.
        options = f"-c timezone=UTC -c jit=off -c work_mem=32MB -c statement_timeout={self._statement_timeout_ms}"
        self._reading = _Pool(
            settings,
            options=f"{options} -c plan_cache_mode=force_custom_plan",
            size=settings.pool_size,
        )
        # Planning takes longer than such a statement itself. Its plan may be older than the files, of which there were
        # few when it was made: it must never be to look at all of them, or at more than the first in order.
        self._stable = _Pool(
            settings,
            options=f"{options} -c plan_cache_mode=force_generic_plan -c enable_seqscan=off -c enable_bitmapscan=off",
            size=max(1, settings.pool_size // 2),
            prepare_threshold=1,
        )
        self._opening = asyncio.Lock()
        self._engine: AsyncEngine = create_async_engine(
            settings.sqlalchemy_url,
            pool_size=settings.pool_size,
            max_overflow=settings.pool_size,
            pool_timeout=POOL_TIMEOUT_S,
            pool_pre_ping=True,
            # The catalogue is UTC throughout; the planner's JIT costs more than it saves on our short statements.
            connect_args={"options": "-c timezone=UTC -c jit=off", "application_name": "catchment"},
        )

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[AsyncConnection]:
        """Give a connection in a transaction that commits at the end, or rolls back on any error."""
        async with _translated(), self._engine.begin() as connection:
            yield connection

    @asynccontextmanager
    async def snapshot(self) -> AsyncIterator[AsyncConnection]:
        """Give a read-only connection on which every statement sees the same state of the catalogue."""
        async with _translated(), self._engine.connect() as connection:
            connection = await connection.execution_options(isolation_level="REPEATABLE READ", postgresql_readonly=True)
            async with connection.begin():
                await connection.execute(text(f"set local statement_timeout = {self._statement_timeout_ms}"))
                yield connection

    @asynccontextmanager
    async def session(self) -> AsyncIterator[AsyncConnection]:
        """Give a connection without a transaction, for work that makes several of its own."""
        async with _translated(), self._engine.connect() as connection:
            yield await connection.execution_options(isolation_level="AUTOCOMMIT")

    async def read(
        self, statement: str, values: Mapping[str, Any], *, is_stable: bool = False
    ) -> list[tuple[Any, ...]]:
        """Return the rows of one statement, which is a snapshot by itself: one exchange with the server, no more.

        Arrays of whole numbers become arrays of numpy; there are no nulls in them.
        A connection that broke while it was idle, because the server was restarted, is replaced once.

        Parameters
        ----------
        is_stable
            Whether one plan is good for all values, and may be kept.
        """
        async with _translated():
            pool = await self._open(self._stable if is_stable else self._reading)
            try:
                return await self._read(pool, statement, values)
            except psycopg.OperationalError as error:
                if isinstance(error, psycopg.errors.QueryCanceled):
                    raise
                await pool.check()
                return await self._read(pool, statement, values)

    async def write(self, statement: str, values: Mapping[str, Any]) -> list[tuple[Any, ...]]:
        """Return the rows of one statement that is a transaction by itself, and may be made twice without harm."""
        return await self.read(statement, values, is_stable=True)

    async def _read(
        self, pool: "AsyncConnectionPool[Any]", statement: str, values: Mapping[str, Any]
    ) -> list[tuple[Any, ...]]:
        async with pool.connection() as connection, connection.cursor(binary=True) as cursor:
            await cursor.execute(sql.SQL(statement), values)
            rows: list[tuple[Any, ...]] = await cursor.fetchall()
            return rows

    async def _open(self, pool: "_Pool") -> "AsyncConnectionPool[Any]":
        async with self._opening:
            if pool.opened is None:
                pool.opened = pool.make()
                await pool.opened.open()
            return pool.opened

    async def ping(self) -> None:
        """Return when the database answers.

        Raises
        ------
        UnavailableError
            It does not.
        """
        async with self.transaction() as connection:
            await connection.execute(text("select 1"))

    async def close(self) -> None:
        """Close all connections."""
        for pool in (self._reading, self._stable):
            if pool.opened is not None:
                await pool.opened.close()
                pool.opened = None
        await self._engine.dispose()


class _Pool:
    """Connections of one kind, opened when the first one is needed."""

    def __init__(self, settings: CatalogueSettings, *, options: str, size: int, prepare_threshold: int = 5) -> None:
        self._url = settings.libpq_url
        self._size = size
        self._kwargs = {
            "autocommit": True,
            "options": options,
            "application_name": "catchment",
            "prepare_threshold": prepare_threshold,
        }
        self.opened: AsyncConnectionPool[Any] | None = None

    def make(self) -> "AsyncConnectionPool[Any]":
        """Return the connections, not opened yet."""
        return AsyncConnectionPool(
            self._url,
            kwargs=self._kwargs,
            min_size=1,
            max_size=self._size,
            timeout=POOL_TIMEOUT_S,
            configure=_configure,
            open=False,
        )


def _make_loader(dtype: str) -> type[Loader]:
    # Before the elements stand the number of dimensions, flags, a type, a length and a bound; before each, its length.
    element = np.dtype([("length", ">i4"), ("value", dtype)])

    class ArrayLoader(Loader):
        format = Format.BINARY

        def load(self, data: Buffer) -> NDArray[Any]:
            is_empty = len(data) < 20
            found = np.frombuffer(data, element, offset=0 if is_empty else 20, count=0 if is_empty else -1)["value"]
            return found.astype(found.dtype.newbyteorder("="))

    return ArrayLoader


_LOADERS = {f"{name}[]": _make_loader(dtype) for name, dtype in (("int2", ">i2"), ("int4", ">i4"), ("int8", ">i8"))}


async def _configure(connection: "psycopg.AsyncConnection[Any]") -> None:
    """Let arrays be read as they come, without an object for each number, and JSON quickly.

    Numbers in JSON that need more than 64 bits become floats: as such they can be written again.
    """
    for name, loader in _LOADERS.items():
        connection.adapters.register_loader(connection.adapters.types.get_oid(name), loader)
    set_json_loads(orjson.loads, connection)


_TOO_LONG = (
    "the question took the catalogue's database too long and was given up: ask for less, such as a shorter time, or in"
    " a quieter moment"
)


@asynccontextmanager
async def _translated() -> AsyncIterator[None]:
    """Turn the driver's "cannot now" into `UnavailableError`; everything else is a defect and passes through."""
    try:
        yield
    except (OperationalError, InterfaceError, PoolTimeoutError, PoolTimeout, psycopg.OperationalError) as error:
        if isinstance(getattr(error, "orig", error), psycopg.errors.QueryCanceled):
            raise UnavailableError(_TOO_LONG) from error
        raise UnavailableError("the catalogue's database does not answer, try again in a moment") from error
    except DBAPIError as error:
        if error.connection_invalidated:
            raise UnavailableError("the connection to the catalogue's database was lost, try again") from error
        raise


@contextmanager
def connected(settings: CatalogueSettings, *, autocommit: bool = False) -> Iterator[Driver]:
    """Give a plain connection for work on the whole catalogue, which may take hours.

    Unless `autocommit`, all is one transaction that commits at the end, or rolls back on any error. When this process
    dies the server notices within a second, also while it builds an index.
    """
    options = "-c timezone=UTC -c jit=off -c statement_timeout=0 -c client_connection_check_interval=1000"
    try:
        with psycopg.connect(
            settings.libpq_url,
            autocommit=autocommit,
            connect_timeout=int(POOL_TIMEOUT_S),
            options=options,
            application_name="catchment",
        ) as driver:
            yield driver
    except psycopg.OperationalError as error:
        raise UnavailableError(f"the catalogue's database does not answer: {error}") from error
