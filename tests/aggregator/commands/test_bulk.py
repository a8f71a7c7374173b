"""`catchment ingest bulk`, as operators run it."""

import asyncio
from pathlib import Path

import pytest

from metadata_db.database import Database
from metadata_db.settings import CatalogueSettings
from metadata_db.vocabulary import VocabularyStore
from tests.aggregator.commands.conftest import Catchment
from tests.support.records import file_record, ndjson, register

GOOD = ndjson(file_record(f"{number}") for number in range(300))


def register_names(url: str) -> None:
    """Register facilities and storages in a catalogue, past the service."""

    async def put() -> None:
        database = Database(CatalogueSettings(database_url=url))
        await register(VocabularyStore(database))
        await database.close()

    asyncio.run(put())


@pytest.fixture
def files(
    database_url: str, redis_url: str, monkeypatch: pytest.MonkeyPatch, catchment: Catchment, tmp_path: Path
) -> Path:
    """A file of records for a catalogue that knows its names."""
    monkeypatch.setenv("CATCHMENT_DATABASE_URL", database_url)
    monkeypatch.setenv("CATCHMENT_REDIS_URL", redis_url)
    register_names(database_url)
    path = tmp_path / "files.ndjson"
    path.write_bytes(GOOD)
    return path


def test_it_says_what_was_loaded_and_how_long_each_step_took(catchment: Catchment, files: Path) -> None:
    done = catchment("ingest", "bulk", files, "--processes", "1")
    assert done.stdout.splitlines()[0].split() == ["step", "seconds"]
    assert "index file_storage_id_path_key" in done.stdout
    assert done.stdout.splitlines()[-1].startswith("300 lines, 300 added in ")
    assert "ingest bulk: copy: 300" in done.stderr
    again = catchment("ingest", "--bulk", files, "--processes", "1", exit_code=1)
    assert "only the first load can be one in bulk" in again.stderr


def test_lines_that_are_left_are_loaded_after_it_and_rejections_told(catchment: Catchment, files: Path) -> None:
    files.write_bytes(GOOD + b'{"facility": "aurora"}\n')
    done = catchment("ingest", "--processes", "1", "--bulk", files, exit_code=1)
    assert "301 lines, 300 added" in done.stdout
    assert "1 line by the ordinary ingest: 0 added, 0 changed, 0 unchanged, 1 rejected" in done.stdout
    assert "rejected: storage: Object missing required field" in done.stdout
    assert "the catalogue rejected 1 line, see 'catchment ingest failed'" in done.stderr


def test_a_path_that_stands_twice_is_a_misuse(catchment: Catchment, files: Path) -> None:
    files.write_bytes(GOOD + GOOD[:200].splitlines(keepends=True)[0])
    done = catchment("ingest", "bulk", files, "--processes", "1", exit_code=2)
    assert "path: got '0 of aurora-disk in two lines', expected each path of a storage in one line only" in done.stderr
