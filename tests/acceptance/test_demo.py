"""`catchment demo` as a user starts it, on real servers, over real HTTP."""

import signal
import socket
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from aggregator.samples import generate_samples
from tests.aggregator.commands.conftest import environ


def demo(data_dir: Path, *arguments: str | Path, limit_s: float = 240) -> subprocess.CompletedProcess[str]:
    """Run the demo to its end."""
    command = [sys.executable, "-m", "aggregator", "demo", "--data-dir", str(data_dir), "--once", "--port", "0"]
    return subprocess.run(
        [*command, *map(str, arguments)], capture_output=True, text=True, env=environ(), timeout=limit_s, check=False
    )


@contextmanager
def demo_that_serves(data_dir: Path, *arguments: str | Path) -> Iterator[tuple["subprocess.Popen[str]", str]]:
    """Run the demo until it serves; give its process and the address."""
    command = [sys.executable, "-m", "aggregator", "demo", "--data-dir", str(data_dir), "--port", "0"]
    with subprocess.Popen(
        [*command, *map(str, arguments)], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environ()
    ) as process:
        try:
            assert process.stdout is not None
            said = []
            for line in process.stdout:
                said.append(line)
                if line.startswith("Serving until"):
                    break
            web = next((line for line in said if "web page" in line), None)
            assert web is not None, "".join(said)
            yield process, web.split()[-1]
        finally:
            process.kill()


@pytest.fixture
def one_storage(tmp_path: Path) -> Path:
    """A folder with one storage, of which nobody knows anything."""
    folder = tmp_path / "storages"
    (folder / "unheard-of").mkdir(parents=True)
    (folder / "unheard-of" / "notes.txt").write_text("nothing that an extractor reads\n")
    return folder


@pytest.fixture
def storages(one_storage: Path) -> Path:
    """Three more beside it, with a few files of each kind that the demo makes."""
    generate_samples(one_storage, scale=0.02)
    return one_storage


def test_own_folders_go_the_whole_way_and_are_only_read(storages: Path, tmp_path: Path) -> None:
    files = {path: path.stat().st_mtime_ns for path in storages.rglob("*") if path.is_file()}
    done = demo(tmp_path / "data", "--storages", storages)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "VERIFIED: every file arrived as it was catalogued" in done.stdout
    rows = {row[0]: row for line in done.stdout.splitlines() if len(row := line.split()) == 11}
    seen, unmatched = int(rows["aurora"][1]), int(rows["aurora"][4])
    assert (seen, unmatched) == (sum(path.is_file() for path in (storages / "aurora").rglob("*")), 0)
    assert rows["unheard-of"][1:7] == ["1", "0", "0", "1", "0", "1"]
    (archive,) = (tmp_path / "data" / "downloads").glob("*.zip")
    assert sum("/data/" in name for name in zipfile.ZipFile(archive).namelist()) == len(files)
    assert {path: path.stat().st_mtime_ns for path in storages.rglob("*") if path.is_file()} == files


def test_it_serves_until_ctrl_c_survives_kill_9_and_runs_twice(one_storage: Path, tmp_path: Path) -> None:
    with demo_that_serves(tmp_path / "data", "--storages", one_storage) as (process, url):
        answer = httpx.post(f"{url}graphql", json={"query": "{ facilities { name } }"}, trust_env=False).json()
        assert answer == {"data": {"facilities": [{"name": "unheard-of"}]}}
        second = demo(tmp_path / "data", "--storages", one_storage)
        assert second.returncode == 1
        assert "another demo runs in" in second.stderr
        process.send_signal(signal.SIGKILL)
    with demo_that_serves(tmp_path / "data", "--storages", one_storage) as (process, _url):
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 0


def test_a_port_that_was_asked_for_is_not_exchanged_for_another(one_storage: Path, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = demo(tmp_path / "data", "--storages", one_storage, "--port", str(port))
    assert done.returncode == 1
    assert f"cannot listen on 127.0.0.1 port {port}" in done.stderr


def test_a_folder_without_storages_is_told_before_anything_is_started(tmp_path: Path) -> None:
    (tmp_path / "none").mkdir()
    done = demo(tmp_path / "data", "--storages", tmp_path / "none")
    assert done.returncode == 2
    assert "holds no folders, expected one for each storage" in done.stderr
    assert not (tmp_path / "data" / "postgres").exists()


@pytest.mark.long
def test_made_storages_go_the_whole_way_twice(tmp_path: Path) -> None:
    for _ in range(2):
        done = demo(tmp_path / "data")
        assert done.returncode == 0, done.stdout + done.stderr
        assert "VERIFIED" in done.stdout


@pytest.mark.long
def test_the_real_files_of_twelve_facilities_go_the_whole_way(shared_data: Path, tmp_path: Path) -> None:
    done = demo(tmp_path / "data", "--storages", shared_data / "storages")
    assert done.returncode == 0, done.stdout + done.stderr
    n_files = sum(path.is_file() for path in (shared_data / "storages").rglob("*"))
    assert f"{n_files:,} files, " in done.stdout
