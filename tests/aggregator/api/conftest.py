"""One running service for all tests that ask it and change nothing."""

from collections.abc import Iterator

import pytest

from aggregator.embedded import EmbeddedServers
from aggregator.settings import Settings
from tests.conftest import run_sql, with_database
from tests.support.server import serving


@pytest.fixture(scope="session")
def shared_url(servers: EmbeddedServers, template: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Address of a service on an empty catalogue that all tests share."""
    run_sql(servers.database_url, f"create database shared_catalogue template {template}")
    environ = {
        "CATCHMENT_DATABASE_URL": with_database(servers.database_url, "shared_catalogue"),
        "CATCHMENT_REDIS_URL": servers.redis_url,
        "CATCHMENT_DATA_DIR": str(tmp_path_factory.mktemp("shared")),
    }
    with serving(Settings.from_environ(environ)) as url:
        yield url
    run_sql(servers.database_url, "drop database shared_catalogue with (force)")
