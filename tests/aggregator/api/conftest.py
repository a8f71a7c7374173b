"""One running service for all tests that ask it and change nothing; an export under way for those who follow it."""

import asyncio
from collections.abc import Iterator

import pytest

from aggregator.controller import CoreController, Prepare
from aggregator.embedded import EmbeddedServers
from aggregator.settings import Settings
from aggregator.staging.ledger import Export
from metadata_db.database import Database
from metadata_db.ingest import Ingest
from metadata_db.query import SearchQuery
from metadata_db.settings import CatalogueSettings
from metadata_db.vocabulary import VocabularyStore
from tests.conftest import run_sql, with_database
from tests.support.records import file_record, load, register
from tests.support.server import serving


@pytest.fixture(scope="session")
def shared_database_url(servers: EmbeddedServers, template: str) -> Iterator[str]:
    """Address of a small catalogue that all tests share."""
    run_sql(servers.database_url, f"create database shared_catalogue template {template}")
    url = with_database(servers.database_url, "shared_catalogue")
    asyncio.run(_fill(url))
    yield url
    run_sql(servers.database_url, "drop database shared_catalogue with (force)")


async def _fill(database_url: str) -> None:
    database = Database(CatalogueSettings(database_url=database_url))
    vocabulary = VocabularyStore(database)
    await register(vocabulary)
    await load(Ingest(database, vocabulary), *(file_record(name, attributes={"zenith_deg": 20.0}) for name in "abc"))
    await database.close()


@pytest.fixture(scope="session")
def shared_url(
    shared_database_url: str, servers: EmbeddedServers, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[str]:
    """Address of a service on the shared catalogue."""
    environ = {
        "CATCHMENT_DATABASE_URL": shared_database_url,
        "CATCHMENT_REDIS_URL": servers.redis_url,
        "CATCHMENT_DATA_DIR": str(tmp_path_factory.mktemp("shared")),
    }
    with serving(Settings.from_environ(environ)) as url:
        yield url


@pytest.fixture
async def export(controller: CoreController, vocabulary: VocabularyStore, ingest: Ingest) -> Export:
    """Return an export that no worker works on."""
    await register(vocabulary)
    await load(ingest, file_record("a"), file_record("b"))
    response = await controller.search(SearchQuery(), prepare=Prepare.AUTO)
    assert response.export is not None
    return response.export
