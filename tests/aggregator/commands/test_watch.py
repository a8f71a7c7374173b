"""`catchment watch` as a process of its own."""

import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from extractors.client import Client
from tests.aggregator.commands.conftest import Catchment, Service, environ, wait_for

STORAGE = "watched"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    root = tmp_path / "root"
    root.mkdir()
    (root / "one.txt").write_text("1")
    return root


@contextmanager
def watching(service: Service, token: str, root: Path, storage: str) -> Iterator[subprocess.Popen[str]]:
    here = [storage, "--root", str(root), "--facility", "watchers", "--processes", "1"]
    command = [sys.executable, "-m", "aggregator", "watch", *here, "--url", service.url, "--token", token]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True, env=environ()) as process:
        try:
            yield process
        finally:
            process.kill()


def known(service: Service, token: str, storage: str) -> set[str]:
    with Client(service.url, token) as client:
        return {file.path for file in client.iter_files(storage)}


def test_files_are_catalogued_as_they_come_until_it_is_told_to_end(
    service: Service, admin: str, root: Path, catchment: Catchment
) -> None:
    catchment("ingest", STORAGE, "--root", root, "--facility", "watchers", "--url", service.url, "--token", admin)
    with watching(service, admin, root, STORAGE) as process:
        assert process.stderr is not None
        assert process.stderr.readline() == f"watching {root}\n"
        (root / "two.txt").write_text("2")
        wait_for(lambda: known(service, admin, STORAGE) == {"one.txt", "two.txt"})
        (root / "one.txt").unlink()
        wait_for(lambda: known(service, admin, STORAGE) == {"two.txt"})
        process.send_signal(signal.SIGTERM)
        out, err = process.communicate(timeout=30)
        assert (process.returncode, err) == (0, "")
        assert sorted(out.splitlines()) == ["1 added", "1 removed"]


def test_a_storage_that_goes_away_ends_it_with_a_word(service: Service, admin: str, root: Path) -> None:
    with watching(service, admin, root, "short-lived") as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "1 added\n"
        root.rename(root.with_name("elsewhere"))
        _, err = process.communicate(timeout=60)
        assert process.returncode == 1
        assert "cannot be watched any more" in err
        assert "Traceback" not in err
    assert known(service, admin, "short-lived") == {"one.txt"}


def test_only_a_folder_of_this_host_can_be_watched(
    service: Service, admin: str, catchment: Catchment, tmp_path: Path
) -> None:
    there = ("--facility", "watchers", "--url", service.url, "--token", admin)
    said = catchment("watch", "far", "--root", "memory://far", *there, exit_code=2).stderr
    assert "only a folder of this host can be watched; scan memory://far" in said
    said = catchment("watch", "gone", "--root", tmp_path / "gone", *there, exit_code=1).stderr
    assert "cannot be watched" in said
