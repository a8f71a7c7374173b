"""Servers and fixtures for all tests: real, private to the run, one migrated template copied for each test."""

import itertools
import os
import signal
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import psycopg
import pytest
import redis
from alembic import command
from alembic.config import Config

import migrations
from aggregator.embedded import EmbeddedServers
from aggregator.settings import Settings
from aggregator.staging.queue import apply_queue_schema
from metadata_db.catalogue import Catalogue
from metadata_db.database import Database
from metadata_db.ingest import Ingest
from metadata_db.making import Workshop
from metadata_db.settings import CatalogueSettings
from metadata_db.vocabulary import VocabularyStore
from tests.support.server import serving


def pytest_configure() -> None:
    """Let processes that tests start hear Ctrl-C, also where the tests run in the background and ignore it."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


TEMPLATE = "template_catchment"
SHARED_DATA = Path(__file__).parents[2] / "shared" / "data"
_numbers = itertools.count()


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="session")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedServers]:
    """Postgres and Redis of this run's own."""
    with EmbeddedServers.start(tmp_path_factory.mktemp("servers"), durable=False) as running:
        yield running


def with_database(url: str, name: str) -> str:
    """Return the same server's URL with another database."""
    return url.replace("/catchment?", f"/{name}?")


def run_sql(url: str, statement: str) -> None:
    with psycopg.connect(CatalogueSettings(database_url=url).libpq_url, autocommit=True) as connection:
        connection.execute(statement)


def upgrade(database_url: str) -> None:
    """Migrate a database to the newest revision, with the queue's schema."""
    config = Config()
    config.set_main_option("script_location", str(Path(migrations.__file__).parent))
    config.attributes["database_url"] = database_url
    command.upgrade(config, "head")
    apply_queue_schema(database_url)


@pytest.fixture(scope="session")
def template(servers: EmbeddedServers) -> str:
    """A migrated database that each test gets a copy of."""
    run_sql(servers.database_url, f"create database {TEMPLATE}")
    upgrade(with_database(servers.database_url, TEMPLATE))
    return TEMPLATE


@pytest.fixture
def database_url(servers: EmbeddedServers, template: str) -> Iterator[str]:
    """Address of an empty catalogue."""
    name = f"test_{next(_numbers)}"
    run_sql(servers.database_url, f"create database {name} template {template}")
    yield with_database(servers.database_url, name)
    run_sql(servers.database_url, f"drop database {name} with (force)")


@pytest.fixture
def redis_url(servers: EmbeddedServers) -> str:
    """Address of an empty Redis."""
    client = redis.Redis.from_url(servers.redis_url)
    client.flushall()
    client.close()
    return servers.redis_url


@pytest.fixture
async def database(database_url: str) -> AsyncIterator[Database]:
    found = Database(CatalogueSettings(database_url=database_url))
    yield found
    await found.close()


@pytest.fixture
def vocabulary(database: Database) -> VocabularyStore:
    return VocabularyStore(database)


@pytest.fixture
def catalogue(database: Database, vocabulary: VocabularyStore) -> Catalogue:
    return Catalogue(database, vocabulary)


@pytest.fixture
def workshop(database_url: str) -> Iterator[Workshop]:
    """Processes that read the lines of large batches."""
    found = Workshop(CatalogueSettings(database_url=database_url, ingest_processes=1))
    yield found
    found.close()


@pytest.fixture
def ingest(database: Database, vocabulary: VocabularyStore) -> Ingest:
    return Ingest(database, vocabulary)


@pytest.fixture
def service_settings(database_url: str, redis_url: str, tmp_path: Path) -> Settings:
    """Settings of a service on an empty catalogue, with a buffer of its own."""
    return Settings.from_environ(
        {"CATCHMENT_DATABASE_URL": database_url, "CATCHMENT_REDIS_URL": redis_url, "CATCHMENT_DATA_DIR": str(tmp_path)}
    )


@pytest.fixture
def service_url(service_settings: Settings) -> Iterator[str]:
    """Address of a running service on an empty catalogue."""
    with serving(service_settings) as url:
        yield url


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Real files of twelve facilities, which are not part of the project."""
    if not SHARED_DATA.is_dir():
        pytest.skip("needs the real files in ../shared/data")
    return SHARED_DATA


# --- what a test has to tell, whichever process it ran in -------------------------------------------------------------


@pytest.fixture
def tell(request: pytest.FixtureRequest) -> Callable[[str], None]:
    """Show a text at the end of the run: what was measured or compared, not only that it is well."""
    return lambda text: request.node.user_properties.append(("told", text))


# --- in CI nothing that could run may be skipped ---------------------------------------------------------------------


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Show what tests tell, and name those that were skipped for something CI must have."""
    for report in terminalreporter.stats.get("passed", []) + terminalreporter.stats.get("failed", []):
        for name, text in report.user_properties:
            if name == "told" and report.when == "call":
                terminalreporter.write_line(f"\n{text}")
    for report in _forbidden_skips(terminalreporter):
        terminalreporter.write_line(f"skipped in CI: {report.nodeid}: {report.longrepr}", red=True)


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Let a run in CI fail when a test was skipped for anything but the absence of the real files."""
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    if reporter is not None and session.exitstatus == pytest.ExitCode.OK and _forbidden_skips(reporter):
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def _forbidden_skips(reporter: pytest.TerminalReporter) -> list[pytest.TestReport]:
    if os.environ.get("CI") != "true":
        return []
    return [report for report in reporter.stats.get("skipped", []) if "../shared" not in str(report.longrepr)]
