"""Settings of the catalogue: where the database is, and how much one request may ask of it."""

from dataclasses import dataclass, field

DRIVER = "postgresql+psycopg"
"""The one driver: it serves alembic, the service and the queue alike."""


@dataclass(frozen=True, kw_only=True, slots=True)
class CatalogueSettings:
    """What the catalogue needs to know; the service's settings hold one of these."""

    database_url: str = field(repr=False)
    """SQLAlchemy URL; plain ``postgresql://`` is read as ``postgresql+psycopg://``. May hold a password: never log."""
    pool_size: int = 8
    """Connections kept open by one process."""
    statement_timeout_s: float = 30.0
    """Longest time one search statement may run."""
    ingest_processes: int = 2
    """Processes that read the lines of large batches; 0 reads them in the process that serves."""

    @property
    def sqlalchemy_url(self) -> str:
        """URL for SQLAlchemy, with the driver named."""
        scheme, separator, rest = self.database_url.partition("://")
        return f"{DRIVER if scheme in ('postgres', 'postgresql') else scheme}{separator}{rest}"

    @property
    def libpq_url(self) -> str:
        """URL for libpq, without the driver's name."""
        return self.sqlalchemy_url.replace(f"{DRIVER}://", "postgresql://", 1)
