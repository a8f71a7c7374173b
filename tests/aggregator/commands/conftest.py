"""A service that runs as users run it, and the command line in this process."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import psutil
import pytest
from click.testing import CliRunner, Result

from aggregator.__main__ import main
from aggregator.commands.web import LISTENING
from aggregator.samples import generate_samples

ROOT = Path(__file__).parents[3]

Catchment = Callable[..., Result]


def environ(**settings: str) -> dict[str, str]:
    """The environment without settings of the developer's own."""
    others = {name: value for name, value in os.environ.items() if not name.startswith("CATCHMENT_")}
    return others | {"PYTHONPATH": os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))} | settings


@pytest.fixture
def catchment(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> Catchment:
    """Run a command in this process; tells of it with output, standard error and exit code."""
    for name in os.environ:
        if name.startswith("CATCHMENT_"):
            monkeypatch.delenv(name)
    # Reports are written there, and not into the developer's home.
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path_factory.mktemp("config")))

    def run(*arguments: str | Path, exit_code: int | None = 0) -> Result:
        result = CliRunner().invoke(main, [str(argument) for argument in arguments], prog_name="catchment")
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        assert exit_code is None or result.exit_code == exit_code, result.output
        return result

    return run


def wait_for(condition: Callable[[], bool], limit_s: float = 60) -> None:
    deadline = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.05)


@dataclass(frozen=True, kw_only=True)
class Service:
    process: subprocess.Popen[str]
    url: str
    data_dir: Path

    def parts(self) -> dict[str, str]:
        """What /readyz says of each part."""
        states: dict[str, str] = httpx.get(f"{self.url}/readyz", trust_env=False).json()["parts"]
        return states

    def workers(self) -> list[psutil.Process]:
        return [child for child in psutil.Process(self.process.pid).children() if _is_worker(child)]

    def stop(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(60)


def _is_worker(process: psutil.Process) -> bool:
    try:
        return process.cmdline()[-3:] == ["-m", "aggregator", "worker"]
    except psutil.Error:  # it has just ended
        return False


@contextmanager
def serving(data_dir: Path, *arguments: str, **settings: str) -> Iterator[Service]:
    """`catchment serve` as a process of its own."""
    command = [sys.executable, "-m", "aggregator", "serve", "--port", "0", "--data-dir", str(data_dir), *arguments]
    with (
        (data_dir.parent / f"{data_dir.name}.log").open("w+") as log,
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, env=environ(**settings), text=True) as process,
    ):
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            log.seek(0)
            assert line.startswith(LISTENING), log.read()
            yield Service(process=process, url=line.removeprefix(LISTENING).strip(), data_dir=data_dir)
        finally:
            process.terminate()
            process.wait(60)


@pytest.fixture(scope="session")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    with serving(tmp_path_factory.mktemp("service") / "data") as running:
        wait_for(lambda: set(running.parts().values()) == {"ok"})
        yield running


@pytest.fixture(scope="session")
def _tokens() -> dict[str, str]:
    return {}


@pytest.fixture
def admin(service: Service, catchment: Catchment, _tokens: dict[str, str]) -> str:
    """A token that may do everything."""
    if "admin" not in _tokens:
        made = catchment("token", "create", "--admin", "--note", "tests", "--data-dir", service.data_dir)
        _tokens["admin"] = made.stdout.strip()
    return _tokens["admin"]


@pytest.fixture(scope="session")
def samples(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with one storage for each of three facilities."""
    folder = tmp_path_factory.mktemp("samples")
    generate_samples(folder, scale=0.03)
    return folder
