"""The real service under measurement: embedded servers, and `catchment serve` and `catchment worker` as processes.

Nothing is measured inside the process of the benchmark: what it sends goes over HTTP, and memory and processor time
are those that the kernel counts for the processes of the service.
"""

import asyncio
import re
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import httpx
import psutil  # type: ignore[import-untyped]
import psycopg
import redis
from starlette.datastructures import Secret

from aggregator.commands.serve import tied_command
from aggregator.commands.settings import environ_of
from aggregator.commands.web import LISTENING
from aggregator.embedded import DATABASE, EmbeddedServers
from aggregator.settings import Settings
from metadata_db.database import Database
from metadata_db.settings import CatalogueSettings
from metadata_db.tokens import Role, TokenStore

START_LIMIT_S = 60.0
"""A worker that is not seen by the service so long after its start counts as failed."""

END_LIMIT_S = 30.0
"""A process of the service that has not ended so long after SIGTERM is killed."""

SAMPLE_S = 0.25
"""How often the memory of Postgres is looked at: it is spread over processes, whose peaks do not coincide."""

LOG_TAIL_LINES = 15
"""As many last lines of the log are shown when the service does not start."""


class BenchmarkError(RuntimeError):
    """A benchmark cannot be run, or the service did not do what was asked: a figure would mean nothing."""


@dataclass(frozen=True, kw_only=True)
class Servers:
    """Postgres and Redis, and where everything of this run is kept."""

    data_dir: Path
    embedded: EmbeddedServers

    @property
    def database_url(self) -> str:
        """Address of a database that no benchmark uses."""
        return self.embedded.database_url

    @property
    def redis_url(self) -> str:
        """Address of Redis, which all benchmarks share, one after the other."""
        return self.embedded.redis_url

    def with_database(self, name: str) -> str:
        """Return the address of the database `name`."""
        return self.database_url.replace(f"/{DATABASE}?", f"/{name}?")

    def settings_of(self, name: str) -> Settings:
        """Return the settings of a service on the database `name`."""
        return Settings(
            database_url=Secret(self.with_database(name)),
            redis_url=Secret(self.redis_url),
            data_dir=self.data_dir / name,
            port=0,
            log_level="WARNING",
        )

    def make_empty(self, name: str) -> None:
        """Make a database without anything in it, in place of what was there, and empty Redis."""
        with self.connect() as connection:
            connection.execute(f"drop database if exists {name} with (force)")
            connection.execute(f"create database {name}")
        self.flush_redis()

    def has_database(self, name: str) -> bool:
        """Tell whether there is a database `name`."""
        with self.connect() as connection:
            return connection.execute("select from pg_database where datname = %s", [name]).fetchone() is not None

    def drop(self, name: str) -> None:
        """Remove a database."""
        with self.connect() as connection:
            connection.execute(f"drop database {name} with (force)")

    def flush_redis(self) -> None:
        """Forget all answers."""
        with redis.Redis.from_url(self.redis_url) as client:
            client.flushall()

    def find_postgres(self) -> list[psutil.Process]:
        """Return the processes of Postgres."""
        return [child for child in psutil.Process().children(recursive=True) if _name(child) == "postgres"]

    def postgres_cpu_s(self) -> float:
        """Return the processor time that Postgres has used, with that of processes that have ended."""
        return sum(_cpu_s(process) for process in self.find_postgres())

    @contextmanager
    def connect(self, name: str = DATABASE) -> Iterator["psycopg.Connection[tuple[Any, ...]]"]:
        """Give a connection to the database `name`, on which each statement is a transaction."""
        url = CatalogueSettings(database_url=self.with_database(name)).libpq_url
        with psycopg.connect(url, autocommit=True) as connection:
            yield connection


@contextmanager
def running_servers(data_dir: Path) -> Iterator[Servers]:
    """Start Postgres and Redis as `catchment serve` does: what is committed is on the disk.

    Notes
    -----
    Call it from the main thread, with which the servers end.
    """
    with EmbeddedServers.start(data_dir / "servers") as embedded:
        if not embedded.is_owner:
            raise BenchmarkError(f"{data_dir} is in use by another process: choose another --data-dir")
        yield Servers(data_dir=data_dir, embedded=embedded)


@dataclass(frozen=True, kw_only=True)
class Service:
    """A running service on a database of its own."""

    url: str
    token: str
    """Of an admin."""
    web: psutil.Process
    worker: psutil.Process | None
    settings: Settings

    def require_worker(self) -> psutil.Process:
        """Return the worker; the service must have been started with one."""
        if self.worker is None:
            raise ValueError("this service was started without a worker")
        return self.worker


@contextmanager
def running_service(
    servers: Servers,
    name: str,
    *,
    with_worker: bool = False,
    keep: bool = False,
    options: Sequence[str] = (),
    **changes: Any,
) -> Iterator[Service]:
    """Run the service's processes on an empty catalogue and an empty buffer, both called `name`, gone afterwards.

    Parameters
    ----------
    keep
        Use the catalogue that is there, if it is, and leave it in the end.
    options, changes
        Of the command `serve`, and to its settings.
    """
    settings = replace(servers.settings_of(name), **changes)
    if not (keep and servers.has_database(name)):
        shutil.rmtree(settings.data_dir, ignore_errors=True)
        servers.make_empty(name)
    settings.data_dir.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        web = stack.enter_context(_running(settings, "serve", "--no-worker", *options))
        url = _read_address(web, settings)
        worker = stack.enter_context(_running(settings, "worker")) if with_worker else None
        if with_worker:
            _wait_for_worker(url, settings)
        yield Service(
            url=url,
            token=asyncio.run(_make_token(settings)),
            web=psutil.Process(web.pid),
            worker=None if worker is None else psutil.Process(worker.pid),
            settings=settings,
        )
    if not keep:  # after a failure all stays, so that the log can be read
        servers.drop(name)
        shutil.rmtree(settings.data_dir)


@contextmanager
def _running(settings: Settings, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    """Run one command of ours, which ends with us, and end it."""
    with (
        _log_file(settings).open("a") as log,
        subprocess.Popen(
            tied_command([sys.executable, "-m", "aggregator", *arguments]),
            env=environ_of(settings),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
        ) as process,
    ):
        try:
            yield process
        finally:
            process.terminate()
            try:
                process.wait(END_LIMIT_S)
            except subprocess.TimeoutExpired:
                process.kill()


def _log_file(settings: Settings) -> Path:
    return settings.data_dir / "service.log"


def _read_address(web: subprocess.Popen[str], settings: Settings) -> str:
    for line in web.stdout or ():
        if line.startswith(LISTENING):
            return line.removeprefix(LISTENING).strip()
    raise BenchmarkError(f"the service did not start:\n{_log_tail(settings)}")


def _wait_for_worker(url: str, settings: Settings) -> None:
    """Return when the service sees a worker: before that, the worker's start would be measured too."""
    deadline = time.monotonic() + START_LIMIT_S
    while httpx.get(f"{url}/readyz").json()["parts"]["worker"] != "ok":
        if time.monotonic() > deadline:
            raise BenchmarkError(f"the worker did not start in {START_LIMIT_S:.0f} s:\n{_log_tail(settings)}")
        time.sleep(0.1)


def _log_tail(settings: Settings) -> str:
    return "\n".join(_log_file(settings).read_text().splitlines()[-LOG_TAIL_LINES:])


async def _make_token(settings: Settings) -> str:
    database = Database(settings.catalogue)
    try:
        return await TokenStore(database).create(Role.ADMIN, note="benchmarks")
    finally:
        await database.close()


# --- what the kernel counts -------------------------------------------------------------------------------------------


def peak_rss_mb(process: psutil.Process) -> float:
    """Return the largest resident memory that a process has had since its start, in MB (10^6 bytes)."""
    status = Path(f"/proc/{process.pid}/status").read_text()
    found = re.search(r"^VmHWM:\s*(\d+) kB$", status, re.MULTILINE)
    if found is None:
        raise BenchmarkError(f"process {process.pid} has ended")
    return int(found[1]) * 1024 / 1e6


def cpu_s(process: psutil.Process) -> float:
    """Return the processor time that a running process has used, in seconds."""
    times = process.cpu_times()
    return float(times.user + times.system)


def _cpu_s(process: psutil.Process) -> float:
    try:
        times = process.cpu_times()
    except psutil.NoSuchProcess:
        return 0.0
    return float(times.user + times.system + times.children_user + times.children_system)


def _name(process: psutil.Process) -> str:
    try:
        return str(process.name())
    except psutil.NoSuchProcess:
        return ""


@dataclass(kw_only=True)
class PostgresWatch:
    """Looks at the memory of Postgres until the end of a ``with`` statement; `peak_mb` is the largest sum seen.

    Pages that several processes share count once in the sum (PSS); the shared buffers are among them.
    """

    servers: Servers
    peak_mb: float = 0.0
    _ended: threading.Event = field(default_factory=threading.Event)
    _thread: threading.Thread | None = None

    def __enter__(self) -> Self:
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()
        if self._thread is not None:
            self._thread.join()

    def _watch(self) -> None:
        while True:
            sizes = [_proportional_mb(process) for process in self.servers.find_postgres()]
            self.peak_mb = max(self.peak_mb, sum(sizes))
            if self._ended.wait(SAMPLE_S):
                return


def _proportional_mb(process: psutil.Process) -> float:
    try:
        return float(process.memory_full_info().pss) / 1e6
    except psutil.NoSuchProcess:
        return 0.0
