import os
import signal
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest
import redis
import sqlalchemy

from aggregator.child import EmbeddedServerError
from aggregator.embedded import EmbeddedServers, find_running

CHECKOUT = Path(__file__).parents[2]

OWNER = """
import sys, time
from pathlib import Path
from aggregator.embedded import EmbeddedServers

servers = EmbeddedServers.start(Path(sys.argv[1]))
print("owner" if servers.is_owner else "guest", flush=True)
sys.stdin.read()
servers.close()
"""

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root gives up its power")


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedServers]:
    with EmbeddedServers.start(tmp_path_factory.mktemp("data"), durable=False) as running:
        yield running


@contextmanager
def _owner(data_dir: Path) -> Iterator["subprocess.Popen[str]"]:
    """Another process that starts the servers and holds them until its standard input ends."""
    with subprocess.Popen(
        [sys.executable, "-c", OWNER, str(data_dir)],
        cwd=CHECKOUT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        yield process


def _first_line(process: "subprocess.Popen[str]") -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def _execute(servers: EmbeddedServers, statement: str) -> list[tuple[object, ...]]:
    engine = sqlalchemy.create_engine(servers.database_url, poolclass=sqlalchemy.NullPool)
    with engine.begin() as connection:
        result = connection.execute(sqlalchemy.text(statement))
        return [tuple(row) for row in result] if result.returns_rows else []


def _server_processes(data_dir: Path) -> list[psutil.Process]:
    """The two servers of a data directory, known by their arguments."""
    return [
        process
        for process in psutil.process_iter(["name", "cmdline"])
        if process.info["name"] in ("postgres", "redis-server")
        and (str(data_dir) in " ".join(process.info["cmdline"] or []))
    ]


def _eventually(condition: Callable[[], bool], limit_s: float = 10) -> bool:
    deadline = time.monotonic() + limit_s
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True


def test_both_servers_answer_at_their_addresses(servers: EmbeddedServers) -> None:
    assert servers.is_owner
    assert servers.is_running()
    assert _execute(servers, "SELECT current_database()") == [("catchment",)]
    with redis.Redis.from_url(servers.redis_url) as client:
        assert client.set("question", "answer")
        assert client.get("question") == b"answer"


def test_the_database_speaks_utc_and_utf8_on_every_machine(servers: EmbeddedServers) -> None:
    assert _execute(servers, "SHOW timezone") == [("UTC",)]
    locale = "SELECT datlocprovider::text, datlocale, pg_encoding_to_char(encoding) FROM pg_database"
    assert _execute(servers, f"{locale} WHERE datname = 'catchment'") == [("b", "C.UTF-8", "UTF8")]


def test_redis_keeps_nothing_on_disk_and_forgets_the_least_used(servers: EmbeddedServers) -> None:
    with redis.Redis.from_url(servers.redis_url, decode_responses=True) as client:
        settings = client.config_get("*")
    assert (settings["save"], settings["appendonly"]) == ("", "no")
    assert (settings["maxmemory"], settings["maxmemory-policy"]) == (str(256 * 1024**2), "allkeys-lru")


def test_nothing_listens_on_the_network(servers: EmbeddedServers) -> None:
    processes = _server_processes(servers.data_dir)
    assert {process.name() for process in processes} == {"postgres", "redis-server"}
    for process in processes:
        assert process.net_connections("inet") == []


def test_other_users_get_into_no_folder_of_ours(servers: EmbeddedServers) -> None:
    for folder in (servers.data_dir, *(path for path in servers.data_dir.iterdir() if path.is_dir())):
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700


def test_a_second_start_attaches_and_its_close_leaves_the_servers_alone(servers: EmbeddedServers) -> None:
    with EmbeddedServers.start(servers.data_dir, durable=False) as second:
        assert not second.is_owner
        assert (second.database_url, second.redis_url) == (servers.database_url, servers.redis_url)
    assert servers.is_running()


def test_running_servers_are_found(servers: EmbeddedServers) -> None:
    found = find_running(servers.data_dir)
    assert found is not None
    assert found.is_running()
    assert not found.is_owner


def test_nothing_is_found_where_nothing_runs(tmp_path: Path) -> None:
    assert find_running(tmp_path / "absent") is None


def test_servers_are_refused_to_other_threads_because_they_would_end_with_them(tmp_path: Path) -> None:
    caught: list[BaseException] = []

    def start() -> None:
        try:
            EmbeddedServers.start(tmp_path / "data")
        except RuntimeError as error:
            caught.append(error)

    thread = threading.Thread(target=start)
    thread.start()
    thread.join()
    assert "main thread" in str(caught[0])


def test_data_survive_a_stop_and_the_cache_does_not(tmp_path: Path) -> None:
    with EmbeddedServers.start(tmp_path / "data", durable=False) as servers:
        _execute(servers, "CREATE TABLE kept AS SELECT 42 AS number")
        with redis.Redis.from_url(servers.redis_url) as client:
            client.set("forgotten", 1)
    assert find_running(tmp_path / "data") is None
    assert not servers.is_running()
    assert _server_processes(tmp_path / "data") == []
    with EmbeddedServers.start(tmp_path / "data", durable=False) as servers:
        assert _execute(servers, "SELECT number FROM kept") == [(42,)]
        with redis.Redis.from_url(servers.redis_url) as client:
            assert client.get("forgotten") is None
    servers.close()  # a second close does nothing


def test_servers_end_with_a_killed_owner_and_the_next_start_keeps_the_data(tmp_path: Path) -> None:
    data_dir = tmp_path / "data"
    with _owner(data_dir) as owner:
        assert _first_line(owner) == "owner"
        found = find_running(data_dir)
        assert found is not None
        _execute(found, "CREATE TABLE kept AS SELECT 42 AS number")
        assert len(_server_processes(data_dir)) == 2
        owner.kill()
    assert _eventually(lambda: not _server_processes(data_dir))
    with EmbeddedServers.start(data_dir, durable=False) as servers:
        assert servers.is_owner
        assert _execute(servers, "SELECT number FROM kept") == [(42,)]


def test_a_start_right_after_the_kill_waits_for_the_old_servers_to_go(tmp_path: Path) -> None:
    data_dir = tmp_path / "data"
    with _owner(data_dir) as owner:
        assert _first_line(owner) == "owner"
        owner.kill()
    with EmbeddedServers.start(data_dir, durable=False) as servers:
        assert servers.is_owner
        assert servers.is_running()
        assert len(_server_processes(data_dir)) == 2


def test_a_start_after_everything_was_killed_recovers(tmp_path: Path) -> None:
    data_dir = tmp_path / "data"
    with _owner(data_dir) as owner:
        assert _first_line(owner) == "owner"
        found = find_running(data_dir)
        assert found is not None
        _execute(found, "CREATE TABLE kept AS SELECT 42 AS number")
        owner.send_signal(signal.SIGSTOP)
        for process in _server_processes(data_dir):
            process.kill()
        owner.kill()
    assert (data_dir / "postgres" / "postmaster.pid").exists()
    with EmbeddedServers.start(data_dir, durable=False) as servers:
        assert _execute(servers, "SELECT number FROM kept") == [(42,)]


def test_a_stale_lock_file_with_the_pid_of_a_stranger_does_not_hinder(tmp_path: Path) -> None:
    data_dir = tmp_path / "data"
    with EmbeddedServers.start(data_dir, durable=False):
        lock_file = data_dir / "postgres" / "postmaster.pid"
        lines = lock_file.read_text().splitlines()
        owner_of_files = lock_file.stat()
    with subprocess.Popen(["sleep", "60"], user=owner_of_files.st_uid) as stranger:
        lock_file.write_text("\n".join([str(stranger.pid), *lines[1:]]))
        os.chown(lock_file, owner_of_files.st_uid, owner_of_files.st_gid)
        with EmbeddedServers.start(data_dir, durable=False) as servers:
            assert servers.is_running()
        assert stranger.poll() is None
        stranger.kill()


def test_of_two_simultaneous_starts_one_owns_and_one_attaches(tmp_path: Path) -> None:
    with _owner(tmp_path / "data") as first, _owner(tmp_path / "data") as second:
        assert sorted([_first_line(first), _first_line(second)]) == ["guest", "owner"]
        assert len(_server_processes(tmp_path / "data")) == 2


def test_a_data_directory_too_deep_for_a_socket_works(tmp_path: Path) -> None:
    data_dir = tmp_path / ("deep" * 30) / "a 'folder', with \"odd\" characters"
    with EmbeddedServers.start(data_dir, durable=False) as servers:
        assert _execute(servers, "SELECT 1") == [(1,)]
        found = find_running(data_dir)
        assert found is not None
        assert found.is_running()
        socket_dir = Path(servers.redis_url.removeprefix("unix://")).parent
        assert not socket_dir.is_relative_to(tmp_path)
    assert not socket_dir.parent.exists()


def test_a_first_start_that_was_broken_off_is_begun_anew(tmp_path: Path) -> None:
    unfinished = tmp_path / "data" / "postgres.new"
    unfinished.mkdir(parents=True)
    (unfinished / "PG_VERSION").write_text("18\n")
    with EmbeddedServers.start(tmp_path / "data", durable=False) as servers:
        assert servers.is_running()
    assert not unfinished.exists()


def test_a_failing_server_is_told_with_the_end_of_its_log(tmp_path: Path) -> None:
    data_dir = tmp_path / "data"
    with EmbeddedServers.start(data_dir, durable=False):
        pass
    (data_dir / "postgres" / "postgresql.conf").write_text("no_such_setting = 1\n")
    with pytest.raises(EmbeddedServerError, match=r"postgres did not start .*\n.*no_such_setting"):
        EmbeddedServers.start(data_dir, durable=False)
    assert _eventually(lambda: not _server_processes(data_dir))


def test_a_folder_that_others_can_write_is_refused_and_left_as_it_is(tmp_path: Path) -> None:
    shared = tmp_path / "shared"
    shared.mkdir()
    shared.chmod(0o777)
    (shared / "something").touch()
    with pytest.raises(EmbeddedServerError, match="choose a folder of its own"):
        EmbeddedServers.start(shared)
    assert stat.S_IMODE(shared.stat().st_mode) == 0o777


def test_a_file_in_place_of_the_data_directory_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(EmbeddedServerError, match=r"cannot use .* as data directory"):
        EmbeddedServers.start(tmp_path / "file")


@needs_root
def test_a_data_directory_of_another_user_is_refused(tmp_path: Path) -> None:
    os.chown(tmp_path, 65534, 65534)
    with pytest.raises(EmbeddedServerError, match="belongs to user 65534"):
        EmbeddedServers.start(tmp_path)


@needs_root
def test_root_starts_servers_without_its_power_inside_a_closed_home(tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir(mode=0o700)
    folders = [home, *home.parents]
    permissions = [(folder.stat().st_mode, folder.stat().st_uid) for folder in folders]
    with EmbeddedServers.start(home / "data", durable=False):
        for process in _server_processes(home / "data"):
            assert 0 not in process.uids()
            held = [line.split()[1] for line in Path(f"/proc/{process.pid}/status").read_text().splitlines()
                    if line.startswith(("CapPrm", "CapEff", "CapAmb"))]  # fmt: skip
            assert len({int(mask, 16) for mask in held}) == 1
            assert int(held[0], 16).bit_count() == 1
    assert [(folder.stat().st_mode, folder.stat().st_uid) for folder in folders] == permissions
