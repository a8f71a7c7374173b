"""The connection to Postgres: one engine per process, one connection per unit of work, errors of ours."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import psycopg
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine

from metadata_db.errors import UnavailableError
from metadata_db.settings import CatalogueSettings


class Database:
    """Owns the engine; hands out connections."""

    def __init__(self, settings: CatalogueSettings) -> None:
        self._statement_timeout_ms = int(settings.statement_timeout_s * 1000)
        self._engine: AsyncEngine = create_async_engine(
            settings.sqlalchemy_url,
            pool_size=settings.pool_size,
            max_overflow=settings.pool_size,
            pool_timeout=10,
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
        await self._engine.dispose()


@asynccontextmanager
async def _translated() -> AsyncIterator[None]:
    """Turn the driver's "cannot now" into `UnavailableError`; everything else is a defect and passes through."""
    try:
        yield
    except (OperationalError, InterfaceError, PoolTimeoutError, psycopg.OperationalError) as error:
        raise UnavailableError("the catalogue's database does not answer, try again in a moment") from error
    except DBAPIError as error:
        if error.connection_invalidated:
            raise UnavailableError("the connection to the catalogue's database was lost, try again") from error
        raise
