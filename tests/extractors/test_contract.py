"""What the extractors expect of an ingest API holds for the real one and for the stand-in of the other tests."""

import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anyio
import pytest
import uvicorn

from aggregator.app import create_app
from aggregator.settings import Settings
from extractors.client import Client
from extractors.description import find_description
from extractors.errors import RefusedError
from extractors.ingest import ingest_tree, register
from metadata_db.database import Database
from metadata_db.records import Facility, FileRecord, Storage
from metadata_db.settings import CatalogueSettings
from metadata_db.tokens import Role, TokenStore


@dataclass(frozen=True, kw_only=True)
class Api:
    """An ingest API to talk to, and a token that it takes."""

    url: str
    token: str


async def make_token(database_url: str) -> str:
    database = Database(CatalogueSettings(database_url=database_url))
    try:
        return await TokenStore(database).create(Role.ADMIN)
    finally:
        await database.close()


@pytest.fixture
def real(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Api]:
    """Return the ingest API of a service that runs here."""
    database_url = request.getfixturevalue("database_url")
    settings = Settings.from_environ(
        {
            "CATCHMENT_DATABASE_URL": database_url,
            "CATCHMENT_REDIS_URL": request.getfixturevalue("redis_url"),
            "CATCHMENT_DATA_DIR": str(tmp_path / "data"),
        }
    )
    server = uvicorn.Server(uvicorn.Config(create_app(settings), host="127.0.0.1", port=0, log_level="warning"))
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started and thread.is_alive():
        time.sleep(0.02)
    port = server.servers[0].sockets[0].getsockname()[1]
    yield Api(url=f"http://127.0.0.1:{port}", token=anyio.run(make_token, database_url))
    server.should_exit = True
    thread.join()


@pytest.fixture(params=["real", "stand-in"])
def api(request: pytest.FixtureRequest) -> Api:
    if request.param == "real":
        found: Api = request.getfixturevalue("real")
        return found
    stand_in: Any = request.getfixturevalue("catalogue")
    return Api(url=stand_in.url, token=stand_in.token)


def test_the_same_batch_is_added_once_and_then_unchanged_until_it_changes(api: Api) -> None:
    def record(path: str, **values: Any) -> FileRecord:
        return FileRecord(facility="f", storage="s", path=path, size_bytes=1, **values)

    with Client(api.url, api.token) as client:
        client.put_facility(Facility(name="f"))
        client.put_storage(Storage(name="s", root="/data", facility="f"))
        first = client.send([record("a"), record("b")])
        assert (first.received, first.added, first.changed, first.unchanged, first.rejected) == (2, 2, 0, 0, 0)
        again = client.send([record("a"), record("b", kind="events")])
        assert (again.added, again.changed, again.unchanged) == (0, 1, 1)
        assert again.revisions.keys() <= {"f", "aurora"}


def test_a_wrong_token_is_a_refusal_of_the_sender(api: Api) -> None:
    with Client(api.url, "wrong") as client, pytest.raises(RefusedError) as caught:
        client.send([FileRecord(facility="f", storage="s", path="a", size_bytes=1)])
    assert caught.value.is_about_sender
    assert caught.value.code == "PERMISSION_DENIED"


def test_a_storage_is_registered_and_catalogued_twice_without_a_change(api: Api, night: Path) -> None:
    description = find_description("aurora")
    with Client(api.url, api.token) as client:
        register(
            client,
            description=description,
            facility="aurora",
            storage=Storage(name="s", root=str(night), facility="aurora"),
        )
        first, again = (
            ingest_tree(night, storage="s", facility="aurora", description=description, client=client) for _ in range(2)
        )
    assert (first.added, first.rejected, first.extracted, first.failed) == (5, 0, 3, 1)
    assert (again.added, again.changed, again.unchanged, again.rejected) == (0, 0, 5, 0)
