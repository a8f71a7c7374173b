import subprocess
import sys
from collections.abc import Iterator

import pytest

from aggregator.commands.migrate import newest_revision
from aggregator.embedded import EmbeddedServers
from tests.aggregator.commands.conftest import Catchment, environ
from tests.conftest import run_sql, with_database


@pytest.fixture
def empty_database_url(servers: EmbeddedServers) -> Iterator[str]:
    run_sql(servers.database_url, "create database empty")
    yield with_database(servers.database_url, "empty")
    run_sql(servers.database_url, "drop database empty with (force)")


@pytest.fixture
def configured(empty_database_url: str, redis_url: str, catchment: Catchment, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("CATCHMENT_DATABASE_URL", empty_database_url)
    monkeypatch.setenv("CATCHMENT_REDIS_URL", redis_url)
    return empty_database_url


def test_it_says_from_where_to_where(catchment: Catchment, configured: str) -> None:
    assert catchment("migrate").stdout == f"revision none -> {newest_revision()}\n"
    assert catchment("migrate").stdout == f"revision {newest_revision()} -> {newest_revision()}\n"


def test_the_check_wants_the_newest_revision_and_changes_nothing(catchment: Catchment, configured: str) -> None:
    for _ in range(2):
        said = catchment("migrate", "--check", exit_code=1).stderr
        assert f"is at revision none, this program needs {newest_revision()}: run 'catchment migrate'" in said
    catchment("migrate")
    assert "agrees with the code" in catchment("migrate", "--check").stdout


def test_the_check_finds_tables_that_the_code_does_not_describe(catchment: Catchment, configured: str) -> None:
    catchment("migrate")
    run_sql(configured, "alter table file add column colour text")
    said = catchment("migrate", "--check", exit_code=1).stderr
    assert "is not what the code describes" in said
    assert "colour" in said


def test_a_database_of_a_newer_version_is_left_alone(catchment: Catchment, configured: str) -> None:
    catchment("migrate")
    run_sql(configured, "update alembic_version set version_num = 'f00d'")
    assert "revision f00d, which only a newer version of catchment knows" in catchment("migrate", exit_code=1).stderr


def test_two_at_once_do_it_once(configured: str, redis_url: str) -> None:
    settings = environ(CATCHMENT_DATABASE_URL=configured, CATCHMENT_REDIS_URL=redis_url)
    command = [sys.executable, "-m", "aggregator", "migrate"]
    both = [
        subprocess.Popen(command, env=settings, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    said = sorted(process.communicate(timeout=60) for process in both)
    newest = newest_revision()
    assert [out for out, _ in said] == [f"revision {newest} -> {newest}\n", f"revision none -> {newest}\n"], said


def test_a_database_that_is_away_is_told_in_plain_words(
    catchment: Catchment, redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CATCHMENT_DATABASE_URL", "postgresql://user:hush@127.0.0.1:1/x")
    monkeypatch.setenv("CATCHMENT_REDIS_URL", redis_url)
    said = catchment("migrate", exit_code=1).stderr
    assert said.startswith("Error: the database cannot be reached: ")
    assert "hush" not in said
