import socket
from pathlib import Path

import pytest

from tests.aggregator.commands.conftest import Catchment, Service


def verdicts(output: str) -> dict[str, str]:
    """Check → ok or PROBLEM."""
    lines = (line.split(None, 1) for line in output.splitlines())
    return {text.partition(":")[0]: verdict for verdict, text in lines}


def test_a_fresh_machine_is_well_and_stays_untouched(
    catchment: Catchment, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CATCHMENT_PORT", "0")
    found = verdicts(catchment("doctor", "--data-dir", tmp_path / "data").stdout)
    assert set(found.values()) == {"ok"}
    assert len(found) == 9
    assert list(tmp_path.iterdir()) == []


def test_a_running_service_is_looked_at_without_disturbing_it(
    service: Service, catchment: Catchment, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CATCHMENT_PORT", service.url.rpartition(":")[2])
    said = catchment("doctor", "--data-dir", service.data_dir).stdout
    assert "is used by a running service" in said
    assert "1 alive" in said
    assert service.process.poll() is None


def test_each_problem_is_told_with_what_to_do(
    catchment: Catchment, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("CATCHMENT_DATABASE_URL", "postgresql://user:hush@127.0.0.1:1/x")
    monkeypatch.setenv("CATCHMENT_REDIS_URL", "redis://127.0.0.1:1")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        monkeypatch.setenv("CATCHMENT_PORT", str(taken.getsockname()[1]))
        result = catchment("doctor", "--data-dir", tmp_path / "file" / "data", exit_code=1)
    found = verdicts(result.stdout)
    assert {name for name, verdict in found.items() if verdict == "PROBLEM"} == {
        *("data directory", "port", "database", "Redis")
    }
    assert found["Python"] == "ok"
    for advice in ("choose another one with --data-dir", "--port", "CATCHMENT_DATABASE_URL", "CATCHMENT_REDIS_URL"):
        assert advice in result.stdout
    assert "hush" not in result.output


def test_a_database_that_is_not_migrated_is_a_problem(
    catchment: Catchment, tmp_path: Path, servers_urls: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CATCHMENT_DATABASE_URL", servers_urls[0])
    monkeypatch.setenv("CATCHMENT_REDIS_URL", servers_urls[1])
    monkeypatch.setenv("CATCHMENT_PORT", "0")
    said = catchment("doctor", "--data-dir", tmp_path, exit_code=1).stdout
    assert "run 'catchment migrate'" in said


@pytest.fixture
def servers_urls(request: pytest.FixtureRequest) -> tuple[str, str]:
    """Addresses of a Postgres whose first database nobody has migrated, and of a Redis."""
    servers = request.getfixturevalue("servers")
    return servers.database_url, servers.redis_url


def test_no_worker_is_a_problem_where_a_service_may_run(
    catchment: Catchment, tmp_path: Path, database_url: str, redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CATCHMENT_DATABASE_URL", database_url)
    monkeypatch.setenv("CATCHMENT_REDIS_URL", redis_url)
    monkeypatch.setenv("CATCHMENT_PORT", "0")
    said = catchment("doctor", "--data-dir", tmp_path, exit_code=1).stdout
    assert "PROBLEM  worker:            none is alive, exports wait" in said
    assert list(verdicts(said).values()).count("PROBLEM") == 1
