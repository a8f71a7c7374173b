"""`catchment doctor`: what is wrong with the set-up, in plain words.

Every check tries the thing itself where that is harmless: it starts the embedded servers, links files in the buffer,
binds the port.
"""

import asyncio
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import click
import httpx
import psycopg
import redis

from aggregator.commands.console import examples, format_bytes
from aggregator.commands.failures import EXIT_FAILURE, Failure
from aggregator.commands.migrate import require_newest
from aggregator.commands.serve import bound_socket
from aggregator.commands.servers import attach, is_external
from aggregator.commands.settings import data_dir_option, load_settings
from aggregator.embedded import EmbeddedServers, find_running
from aggregator.errors import AggregatorError
from aggregator.settings import Settings
from aggregator.staging.buffer import LocalFileBuffer
from aggregator.staging.queue import TaskQueue

LEAST_PYTHON = (3, 11)
LEAST_POSTGRES = 15
LEAST_REDIS = (6, 2)

LEAST_FREE_BYTES = 5_000_000_000
"""Below this a buffer is full after a few exports."""

EARLIEST = datetime(2026, 1, 1, tzinfo=UTC)
"""A clock that shows an earlier time is wrong: this program is newer."""

MOST_APART = timedelta(seconds=5)
"""Clocks of this host and of the database's may differ by so much: leases and heartbeats are counted in seconds."""


class Problem(Exception):  # noqa: N818  # not an error of the program: what a check has found
    """What is wrong, and what to do."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Servers:
    """The servers that the checks talk to."""

    settings: Settings
    are_in_use: bool
    """Whether a service may be working with them; otherwise they were started for the checks alone."""
    are_fresh: bool = False
    """Whether they were started in an empty folder, so that there is nothing to be found in them."""


@click.command(epilog=examples("catchment doctor", "catchment doctor --data-dir /srv/catchment"))
@data_dir_option
def command(data_dir: Path | None) -> None:
    """Say what is wrong with the set-up, in plain words.

    One line for each check: "ok", or "PROBLEM" and what to do. Exit code 1 if there is a problem. Run it with the
    settings, and as the user, of the service.
    """
    settings = load_settings(data_dir=data_dir)
    report = Report()
    report.check("Python", check_python)
    if report.check("data directory", lambda: check_data_dir(settings.data_dir)):
        report.check("buffer", lambda: check_buffer(settings))
    report.check("port", lambda: check_port(settings))
    with ExitStack() as opened:
        servers = report.check_servers(settings, opened)
        if servers is not None:
            report.check("Redis", lambda: check_redis(servers))
            if report.check("database", lambda: check_database(servers)):
                report.check("clock", lambda: check_clock(servers))
                report.check("worker", lambda: check_worker(servers))
    if report.problems:
        raise SystemExit(EXIT_FAILURE)


class Report:
    """Prints one line for each check, and counts problems."""

    def __init__(self) -> None:
        self.problems = 0

    def check(self, name: str, check: Callable[[], str]) -> bool:
        """Print what a check says, and return whether all is well."""
        try:
            self._print("ok", name, check())
        except (Problem, Failure, AggregatorError) as problem:
            self._found(name, str(problem))
            return False
        return True

    def check_servers(self, settings: Settings, opened: ExitStack) -> Servers | None:
        """Find or start the servers for the other checks; they run until `opened` closes."""
        try:
            servers = opened.enter_context(_servers(settings))
        except (AggregatorError, OSError) as error:
            self._found("embedded servers", str(error))
            return None
        if not is_external(settings):
            self._print("ok", "embedded servers", "running" if servers.are_in_use else "Postgres and Redis can start")
        return servers

    def _found(self, name: str, text: str) -> None:
        self.problems += 1
        self._print("PROBLEM", name, text)

    def _print(self, verdict: str, name: str, text: str) -> None:
        click.echo(f"{verdict:<8} {name + ':':<18} {' '.join(text.split())}")


def check_python() -> str:
    """Check the version of the interpreter."""
    found = ".".join(map(str, sys.version_info[:3]))
    if sys.version_info[:2] < LEAST_PYTHON:
        raise Problem(f"{found}; install {'.'.join(map(str, LEAST_PYTHON))} or newer")
    return found


def check_data_dir(data_dir: Path) -> str:
    """Check that the data directory can be written, and has room."""
    folder = _existing(data_dir)
    try:
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise Problem(
            f"{folder} cannot be written ({error.strerror}): choose another one with --data-dir or CATCHMENT_DATA_DIR"
        ) from error
    free = shutil.disk_usage(folder).free
    if free < LEAST_FREE_BYTES:
        raise Problem(
            f"{data_dir} has {format_bytes(free)} left: free some, or choose a larger file system with --data-dir"
        )
    return f"{data_dir}, {format_bytes(free)} free{'' if folder == data_dir else ', made at the first start'}"


def check_buffer(settings: Settings) -> str:
    """Check that the buffer's folders share one file system that has hard links."""
    if settings.buffer_dir.exists():
        LocalFileBuffer(settings.buffer_dir).prepare()
    else:
        with tempfile.TemporaryDirectory(dir=_existing(settings.data_dir)) as folder:
            LocalFileBuffer(Path(folder) / "buffer").prepare()
    return "one file system, with hard links"


def check_port(settings: Settings) -> str:
    """Check that the port can be had, unless a service of ours has it."""
    try:
        with bound_socket(settings.host, settings.port):
            return f"{settings.host}:{settings.port} is free"
    except Failure as error:
        if _is_ours(f"http://{settings.host}:{settings.port}"):
            return f"{settings.host}:{settings.port} is used by a running service"
        raise Problem(f"{error}, CATCHMENT_HOST or CATCHMENT_PORT") from error


def check_database(servers: Servers) -> str:
    """Check that the database can be reached, is new enough and migrated."""
    with _connected(servers) as connection:
        version = connection.info.server_version // 10_000
    if version < LEAST_POSTGRES:
        raise Problem(f"Postgres {version}; {LEAST_POSTGRES} or newer is needed")
    if servers.are_fresh:
        return f"Postgres {version}, to be made at the first start"
    require_newest(servers.settings)
    return f"Postgres {version}, migrated"


def check_redis(servers: Servers) -> str:
    """Check that Redis can be reached and is new enough."""
    try:
        with redis.Redis.from_url(str(servers.settings.redis_url), socket_timeout=10) as client:
            version = str(client.info("server")["redis_version"])
    except (redis.RedisError, ValueError) as error:
        raise Problem(f"cannot be reached ({error}): is CATCHMENT_REDIS_URL right, and does the server run?") from error
    if tuple(map(int, version.split(".")[:2])) < LEAST_REDIS:
        raise Problem(f"{version}; {'.'.join(map(str, LEAST_REDIS))} or newer is needed")
    return version


def check_clock(servers: Servers) -> str:
    """Check this host's clock by the age of the program and by the database's clock."""
    now = datetime.now(UTC)
    if now < EARLIEST:
        raise Problem(f"it is {now:%Y-%m-%d} by this host's clock, which is in the past: set it, best by NTP")
    with _connected(servers) as connection:
        row = connection.execute("select clock_timestamp()").fetchone()
    apart = abs(datetime.now(UTC) - row[0]) if row else timedelta()
    if apart > MOST_APART:
        raise Problem(f"{apart.total_seconds():.0f} s apart from the database's: set both by NTP")
    return f"{now:%Y-%m-%d %H:%M:%S} UTC, as the database's"


def check_worker(servers: Servers) -> str:
    """Check that a worker gives signs of life, if there can be one."""
    if not servers.are_in_use:
        return "none, as no service runs here; 'catchment serve' starts one"
    alive = asyncio.run(_count_workers(servers.settings))
    if alive == 0:
        raise Problem("none is alive, exports wait: start 'catchment serve' or 'catchment worker'")
    return f"{alive} alive"


async def _count_workers(settings: Settings) -> int:
    queue = TaskQueue(settings.catalogue)
    await queue.open()
    try:
        return await queue.workers_alive(3 * settings.worker_heartbeat_s)
    finally:
        await queue.close()


@contextmanager
def _servers(settings: Settings) -> Iterator[Servers]:
    """Give the servers of the settings; embedded ones that do not run are started for the moment."""
    if is_external(settings):
        yield Servers(settings=settings, are_in_use=True)
        return
    running = find_running(settings.data_dir)
    if running is not None:
        yield Servers(settings=attach(settings, running), are_in_use=True)
    elif (settings.data_dir / "postgres").exists():
        with EmbeddedServers.start(settings.data_dir) as servers:
            yield Servers(settings=attach(settings, servers), are_in_use=False)
    else:
        with (
            tempfile.TemporaryDirectory(prefix="catchment-doctor-") as folder,
            EmbeddedServers.start(Path(folder), durable=False) as servers,
        ):
            yield Servers(settings=attach(settings, servers), are_in_use=False, are_fresh=True)


@contextmanager
def _connected(servers: Servers) -> Iterator["psycopg.Connection[tuple[datetime]]"]:
    try:
        connection = psycopg.connect(servers.settings.catalogue.libpq_url, connect_timeout=10, autocommit=True)
    except psycopg.OperationalError as error:
        raise Problem(
            f"cannot be reached ({error}): is CATCHMENT_DATABASE_URL right, and does the server run?"
        ) from error
    with connection:
        yield connection


def _existing(folder: Path) -> Path:
    """Return the folder, or the nearest one above it that is there."""
    return next(path for path in (folder, *folder.parents) if path.exists())


def _is_ours(url: str) -> bool:
    try:
        answer = httpx.get(f"{url}/healthz", timeout=5, trust_env=False)
    except httpx.HTTPError:
        return False
    return answer.text == '{"status":"ok"}'
