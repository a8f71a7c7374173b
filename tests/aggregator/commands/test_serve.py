import json
import os
import signal
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import psutil
import pytest
from websockets import ConnectionClosed, Subprotocol
from websockets.sync.client import connect

from tests.aggregator.commands.conftest import Catchment, Service, serving, wait_for


def processes_of(data_dir: Path) -> list[psutil.Process]:
    """Processes whose environment or command line names the folder."""
    found = []
    for process in psutil.process_iter():
        try:
            told = " ".join(process.cmdline()) + " ".join(process.environ().values())
        except psutil.Error:
            continue
        if str(data_dir) in told and process.pid != os.getpid():
            found.append(process)
    return found


def test_one_command_runs_all_of_it_and_sigterm_ends_all_of_it(tmp_path: Path) -> None:
    with serving(tmp_path / "data") as service:
        wait_for(lambda: set(service.parts().values()) == {"ok"})
        assert (tmp_path / "data").stat().st_mode & 0o777 == 0o700
        assert httpx.get(f"{service.url}/", trust_env=False).status_code == 200
        assert len(processes_of(tmp_path / "data")) >= 4
        assert service.stop() == 0
    assert processes_of(tmp_path / "data") == []


def test_a_worker_that_was_killed_is_started_again(service: Service) -> None:
    (killed,) = service.workers()
    killed.kill()
    wait_for(lambda: [worker.pid for worker in service.workers()] not in ([], [killed.pid]))


def test_after_kill_9_nothing_is_left_and_the_next_start_works(tmp_path: Path) -> None:
    with serving(tmp_path / "data") as service:
        wait_for(lambda: len(service.workers()) == 1)
        service.process.send_signal(signal.SIGKILL)
        service.process.wait(10)
        wait_for(lambda: processes_of(tmp_path / "data") == [])
    with serving(tmp_path / "data", "--no-worker") as service:
        assert service.parts()["database"] == "ok"


def test_a_port_that_is_taken_is_told_before_anything_is_started(tmp_path: Path, catchment: Catchment) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        said = catchment("serve", "--port", port, "--data-dir", tmp_path / "data", exit_code=1).stderr
    assert f"cannot listen on 127.0.0.1 port {port}: Address already in use; choose others with --host" in said
    assert not (tmp_path / "data").exists()


def test_requests_under_way_are_finished_when_it_is_told_to_stop(tmp_path: Path) -> None:
    with serving(tmp_path / "data", "--no-worker") as service:
        host, port = service.url.removeprefix("http://").split(":")
        with socket.create_connection((host, int(port))) as connection:
            body = b'{"query": "{ facilities { name } }"}'
            head = f"POST /graphql HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: {len(body)}"
            connection.sendall(head.encode() + b"\r\n\r\n" + body[:10])
            time.sleep(0.3)
            service.process.send_signal(signal.SIGTERM)
            time.sleep(0.5)
            connection.sendall(body[10:])
            answer = connection.recv(65536)
        assert answer.startswith(b"HTTP/1.1 200")
        assert service.process.wait(30) == 0


def test_connections_that_stay_open_do_not_hold_up_its_end(tmp_path: Path) -> None:
    question = {"query": "subscription { revisions { facility } }"}
    with serving(tmp_path / "data", "--no-worker", CATCHMENT_DRAIN_S="600") as service:
        stream = httpx.stream("GET", f"{service.url}/graphql/stream", params=question, trust_env=False)
        address = service.url.replace("http", "ws")
        socket = connect(f"{address}/graphql", subprotocols=[Subprotocol("graphql-transport-ws")], proxy=None)
        with stream as events, socket as connection:
            connection.send('{"type": "connection_init"}')
            connection.send(f'{{"type": "subscribe", "id": "1", "payload": {json.dumps(question)}}}')
            assert [json.loads(connection.recv())["type"] for _ in range(2)] == ["connection_ack", "next"]
            lines = events.iter_lines()
            while not next(lines).startswith("data:"):
                pass
            service.process.send_signal(signal.SIGTERM)
            assert list(lines) == [""]
            with pytest.raises(ConnectionClosed) as closed:
                connection.recv(30)
            assert closed.value.rcvd is not None
            assert closed.value.rcvd.code == 1012
        assert service.process.wait(30) == 0


def test_a_worker_without_a_service_says_what_is_missing(tmp_path: Path, catchment: Catchment) -> None:
    said = catchment("worker", "--data-dir", tmp_path / "data", exit_code=1).stderr
    assert f"no service runs with the data directory {tmp_path / 'data'}" in said


def test_it_serves_without_a_worker_and_tells_its_address_as_a_browser_wants_it(tmp_path: Path) -> None:
    host = "::1" if Path("/proc/net/if_inet6").exists() else "127.0.0.1"
    with serving(tmp_path / "data", "--no-worker", "--host", host) as service:
        assert service.url.startswith("http://[::1]:" if host == "::1" else "http://127.0.0.1:")
        assert service.workers() == []
        assert service.parts()["worker"].startswith("none")


def web_processes(service: Service) -> list[psutil.Process]:
    """The web processes beside the first one."""
    return [child for child in psutil.Process(service.process.pid).children() if _is_web(child)]


def _is_web(process: psutil.Process) -> bool:
    try:
        return "aggregator.commands.web" in process.cmdline()
    except psutil.Error:  # it has just ended
        return False


def test_several_web_processes_share_the_address_and_end_together(tmp_path: Path) -> None:
    with serving(tmp_path / "data", "--no-worker", "--processes", "3") as service:
        assert len(web_processes(service)) == 2
        with ThreadPoolExecutor(20) as pool:
            asked = pool.map(lambda _: httpx.get(f"{service.url}/healthz", trust_env=False).status_code, range(200))
            assert set(asked) == {200}
        (killed, _) = web_processes(service)
        killed.kill()
        wait_for(lambda: killed.pid not in [one.pid for one in web_processes(service)])
        assert httpx.get(f"{service.url}/healthz", trust_env=False).status_code == 200
        wait_for(lambda: len(web_processes(service)) == 2)
        assert service.stop() == 0
    assert processes_of(tmp_path / "data") == []
