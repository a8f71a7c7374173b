"""How alembic reaches the catalogue: the URL comes from `CATCHMENT_DATABASE_URL` or from the caller's config."""

from alembic import context
from sqlalchemy import create_engine, pool

from metadata_db.settings import CatalogueSettings
from metadata_db.tables import metadata
from migrations.settings import database_url_from_environ


def is_ours(name: str | None, kind: str, _parents: object) -> bool:
    """Leave the tables of the work queue alone: procrastinate keeps its own schema."""
    return not (kind == "table" and name is not None and name.startswith("procrastinate_"))


def run_online() -> None:
    """Run the migrations, each in a transaction of its own, so that one may leave it for work without long locks."""
    url = context.config.attributes.get("database_url") or database_url_from_environ()
    engine = create_engine(CatalogueSettings(database_url=url).sqlalchemy_url, poolclass=pool.NullPool)
    with engine.connect() as connection:
        context.configure(
            connection=connection, target_metadata=metadata, include_name=is_ours, transaction_per_migration=True
        )
        with context.begin_transaction():
            context.run_migrations()
    engine.dispose()


if context.is_offline_mode():
    raise SystemExit("offline migrations are not supported: the catalogue's migrations look at the database")
run_online()
