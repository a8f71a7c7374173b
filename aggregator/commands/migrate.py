"""`catchment migrate`: the catalogue's and the queue's tables, brought to what this version needs."""

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import Any

import alembic.command
import click
import psycopg
from alembic.config import Config
from alembic.script import ScriptDirectory
from alembic.util.exc import CommandError

import migrations
from aggregator.commands.console import examples
from aggregator.commands.failures import Failure
from aggregator.commands.servers import is_external, running_servers
from aggregator.commands.settings import data_dir_option, load_settings
from aggregator.settings import Settings
from aggregator.staging.queue import apply_queue_schema
from metadata_db.settings import CatalogueSettings

logger = logging.getLogger(__name__)

_POLL_S = 0.2

_MIGRATION_LOCK = 0x636174636861
"""Key of the advisory lock under which the catalogue is migrated: the bytes of "catcha"."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Migration:
    """From which revision to which a database was brought; None is an empty database."""

    before: str | None
    after: str | None


@click.command(epilog=examples("CATCHMENT_DATABASE_URL=postgresql://db.example.org/catchment catchment migrate"))
@data_dir_option
@click.option("--check", is_flag=True, help="Change nothing; exit with 1 unless database and code agree.")
def command(data_dir: Path | None, check: bool) -> None:
    """Bring the database to the newest revision.

    The database is the one of CATCHMENT_DATABASE_URL, or the embedded one in the data directory. `catchment serve`
    does the same when it starts; running it twice, or twice at once, does no harm.
    """
    with running_servers(load_settings(data_dir=data_dir)) as settings:
        if check:
            check_database(settings)
            click.echo(f"the database is at {newest_revision()}, and agrees with the code")
            return
        done = migrate_database(settings)
    click.echo(f"revision {done.before or 'none'} -> {done.after or 'none'}")


def migrate_database(settings: Settings) -> Migration:
    """Bring the database to the newest revision; of several who try at once, one does it and the others wait.

    Raises
    ------
    Failure
        The database cannot be reached, or is of a newer version than this program.
    """
    with _locked_database(settings.catalogue) as connection:
        before = _revision(connection)
        try:
            alembic.command.upgrade(_config(settings.catalogue), "head")
        except CommandError as error:
            raise Failure(_explain(before, error)) from error
        apply_queue_schema(settings.catalogue.database_url)
        after = _revision(connection)
    logger.info("the database is migrated", extra={"action": "migrate", "before": before, "after": after})
    return Migration(before=before, after=after)


def check_database(settings: Settings) -> None:
    """Return when the database has the newest revision and the tables that the code describes.

    Raises
    ------
    Failure
        It does not, or cannot be reached.
    """
    require_newest(settings)
    try:
        alembic.command.check(_config(settings.catalogue))
    except CommandError as error:
        raise Failure(f"the database is not what the code describes: {error}") from error


def require_newest(settings: Settings) -> None:
    """Return when the database has the newest revision.

    Raises
    ------
    Failure
        It does not, or cannot be reached.
    """
    with _open_database(settings.catalogue) as connection:
        revision = _revision(connection)
    if revision != newest_revision():
        raise Failure(
            f"the database is at revision {revision or 'none'}, this program needs {newest_revision()}: "
            "run 'catchment migrate'"
        )


@contextmanager
def migrated_database(data_dir: Path | None) -> Iterator[Settings]:
    """Give the settings of an installation whose database has the newest revision.

    An embedded one is migrated, because commands come before it serves.

    Raises
    ------
    Failure
        A database that the settings name has another revision, or cannot be reached.
    """
    asked = load_settings(data_dir=data_dir)
    with running_servers(asked) as settings:
        if is_external(asked):
            require_newest(settings)
        else:
            migrate_database(settings)
        yield settings


def newest_revision() -> str | None:
    """Return the revision that this version of the program needs."""
    return ScriptDirectory(str(script_folder())).get_current_head()


def _config(catalogue: CatalogueSettings) -> Config:
    # What alembic would say on standard output is said by us.
    config = Config(stdout=StringIO(), attributes={"database_url": catalogue.database_url})
    config.set_main_option("script_location", str(script_folder()).replace("%", "%%"))
    return config


def script_folder() -> Path:
    """Return where the migrations are."""
    return Path(migrations.__file__).parent


def _explain(before: str | None, error: CommandError) -> str:
    if "locate revision" in str(error):
        return f"the database is at revision {before}, which only a newer version of catchment knows: update this one"
    return f"the database cannot be migrated: {error}"


@contextmanager
def _open_database(catalogue: CatalogueSettings) -> Iterator["psycopg.Connection[tuple[Any, ...]]"]:
    try:
        connection = psycopg.connect(catalogue.libpq_url, autocommit=True, connect_timeout=10)
    except psycopg.OperationalError as error:
        raise Failure(f"the database cannot be reached: {error}") from error
    with connection:
        yield connection


@contextmanager
def _locked_database(catalogue: CatalogueSettings) -> Iterator["psycopg.Connection[tuple[Any, ...]]"]:
    with _open_database(catalogue) as connection:
        # Tried again and again, not waited for: a statement that waits holds a snapshot, and an index that another
        # process builds concurrently waits until no snapshot is older. The lock ends with the connection.
        while connection.execute("select pg_try_advisory_lock(%s)", [_MIGRATION_LOCK]).fetchone() != (True,):
            time.sleep(_POLL_S)
        yield connection


def _revision(connection: "psycopg.Connection[tuple[Any, ...]]") -> str | None:
    try:
        row = connection.execute("select version_num from alembic_version").fetchone()
    except psycopg.errors.UndefinedTable:
        return None
    return None if row is None else str(row[0])
