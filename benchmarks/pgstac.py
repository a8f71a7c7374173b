"""The peer pgstac as it is run elsewhere: a Postgres with PostGIS of its own, `pypgstac`, and `stac-fastapi-pgstac`.

Postgres and PostGIS are Debian's packages; the Python programs live in an environment of their own in the folder of
the benchmark, and are no dependencies of ours. Everything is started by us, ends with us, and listens on a socket in a
private folder, but for the API, which is asked over HTTP on the loopback.

Found with pgstac 0.10 and stac-fastapi-pgstac 7.2:

- stac-fastapi-pgstac takes a folder of sockets for a host only when its slashes are quoted.
- Every item of an answer gets four links, more bytes than twelve fields, unless a request excludes "links".
- Half to three quarters of the time of a search go into "hydrating" items in the database. The API does it faster,
  when it is told to (`USE_API_HYDRATE`).
- pgstac does not count what matches unless its setting `context` says so.
- Every search is registered in a table, as ours are. Without that (`readonly`), and without serialising by FastAPI
  (`ENABLE_DIRECT_RESPONSE`), it is as fast as with it.
- `pypgstac load` and Postgres wait for each other; two at once, for different collections, take down to half the
  time. Its chunks and methods matter little beside that.
- Collections in partitions by year (`partition_trunc`) are searched faster, above all for a piece of sky.
"""

import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import msgspec
import psutil  # type: ignore[import-untyped]
import psycopg

from aggregator.child import Account, ServerProcess, choose_account
from aggregator.commands.serve import tied_command
from benchmarks.service import END_LIMIT_S, LOG_TAIL_LINES, START_LIMIT_S, BenchmarkError
from benchmarks.stac_items import QUERYABLES

PACKAGES = (
    "pypgstac[psycopg]==0.10.0",
    "stac-fastapi-pgstac==7.2.0",
    "uvicorn==0.54.0",
    "uvloop==0.23.0",
    "httptools==0.9.0",
)
"""What is installed into the environment of the peer."""

SHOWN = ("pypgstac", "stac-fastapi-pgstac", "fastapi", "asyncpg", "psycopg", "uvicorn")
"""Packages whose versions are told with the figures."""

LEAST_POSTGRES = 15

DATABASE = "pgstac"

INSTALL_LIMIT_S = 600.0
"""Longest installation of the peer's packages."""

_SETTINGS = {
    "listen_addresses": "",
    "max_connections": "50",
    # More memory than our embedded server has, as pgstac's documentation advises.
    "shared_buffers": "1GB",
    "effective_cache_size": "8GB",
    "work_mem": "32MB",
    "maintenance_work_mem": "256MB",
    "random_page_cost": "1.1",
    "jit": "off",
    # The same durability and log as ours: what is committed is on the disk.
    "wal_level": "minimal",
    "max_wal_senders": "0",
    "max_wal_size": "4GB",
    "checkpoint_completion_target": "0.9",
    "timezone": "UTC",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Programs:
    """The programs of one Postgres that has PostGIS."""

    initdb: Path
    postgres: Path


def find_programs(usr: Path = Path("/usr")) -> Programs | None:
    """Find the newest Postgres of Debian's packages that has PostGIS."""
    found: dict[int, Programs] = {}
    for postgres in usr.glob("lib/postgresql/*/bin/postgres"):
        version = postgres.parent.parent.name
        has_postgis = (usr / f"share/postgresql/{version}/extension/postgis.control").exists()
        if version.isdecimal() and int(version) >= LEAST_POSTGRES and has_postgis:
            found[int(version)] = Programs(initdb=postgres.with_name("initdb"), postgres=postgres)
    return found[max(found)] if found else None


def describe_missing(usr: Path = Path("/usr")) -> str | None:
    """Tell what must be installed before the peer can be run, None if nothing."""
    if find_programs(usr) is not None:
        return None
    return (
        f"the peer pgstac needs Debian's Postgres ({LEAST_POSTGRES} or newer) with PostGIS: run 'apt-get update' and "
        "'apt-get install postgresql-15 postgresql-15-postgis-3' as root (in another release than Debian 12 with "
        "its number instead of 15)"
    )


@dataclass(frozen=True, kw_only=True)
class Pgstac:
    """The running Postgres of the peer, and its programs."""

    folder: Path
    socket_dir: Path

    @property
    def dsn(self) -> str:
        """How libpq connects to the database of the peer."""
        return self._dsn(DATABASE)

    def make_empty(self) -> None:
        """Make a database with pgstac and nothing in it, in place of what was there."""
        with psycopg.connect(self._dsn("postgres"), autocommit=True) as connection:
            connection.execute(f"drop database if exists {DATABASE} with (force)")
            connection.execute(f"create database {DATABASE}")
        self._run("migrate")

    def divide_by_year(self) -> None:
        """Let all collections, still without items, have one partition for each year."""
        with self.connect() as connection:
            connection.execute("update pgstac.collections set partition_trunc = 'year'")

    def load(self, table: str, paths: Sequence[Path], *options: str) -> None:
        """Run `pypgstac load` for each of the files, all at once, to their end."""
        for process in [self._start("load", table, str(path), *options) for path in paths]:
            self._finish(process)

    def make_indexes(self) -> None:
        """Make the indexes of what is asked about, and let Postgres vacuum and analyse as it does by itself later."""
        path = self.folder / "queryables.json"
        path.write_bytes(msgspec.json.encode(QUERYABLES))
        names = ",".join(QUERYABLES["properties"])
        self._run("load_queryables", str(path), f"--index_fields=[{names}]")
        with self.connect() as connection:
            connection.execute("vacuum analyze")
            connection.execute("checkpoint")

    def count_items(self) -> int:
        """Return how many items there are."""
        with self.connect() as connection:
            row = connection.execute("select count(*) from pgstac.items").fetchone()
        return 0 if row is None else int(row[0])

    def versions(self) -> str:
        """Return names and versions of everything whose speed is in the figures."""
        program = (
            f"from importlib.metadata import version; print(*(f'{{n}} {{version(n)}}' for n in {SHOWN}), sep=', ')"
        )
        said = subprocess.run([self._python, "-c", program], check=True, stdout=subprocess.PIPE, text=True).stdout
        with self.connect() as connection:
            postgis = connection.execute("select public.postgis_lib_version()").fetchone()
            number = connection.info.server_version
        return (
            f"Postgres {number // 10_000}.{number % 10_000}, PostGIS {postgis[0] if postgis else '?'}, {said.strip()}"
        )

    @contextmanager
    def connect(self) -> Iterator["psycopg.Connection[tuple[Any, ...]]"]:
        """Give a connection to the peer's database, on which each statement is a transaction."""
        with psycopg.connect(self.dsn, autocommit=True) as connection:
            yield connection

    @contextmanager
    def running_api(self, *, hydrates: bool) -> Iterator["Api"]:
        """Run `stac-fastapi-pgstac` as one process, as our web process is one.

        Parameters
        ----------
        hydrates
            Whether the API makes items out of rows, which the database does by default, at several times the cost.
        """
        log = self.folder / f"api-{'hydrates' if hydrates else 'plain'}.log"
        command = ["-m", "uvicorn", "--factory", "stac_fastapi.pgstac.app:create_app"]
        command += ["--host=127.0.0.1", "--port=0", "--loop=uvloop", "--http=httptools", "--no-access-log"]
        environ = {
            "PATH": "/usr/bin:/bin",
            "PGHOST": quote(str(self.socket_dir), safe=""),
            "PGPORT": "5432",
            "PGUSER": "postgres",
            "PGPASSWORD": "",
            "PGDATABASE": DATABASE,
            "ENABLE_RESPONSE_MODELS": "false",
            "USE_API_HYDRATE": str(hydrates).lower(),
        }
        with (
            log.open("w") as output,
            subprocess.Popen(
                tied_command([str(self._python), *command]),
                cwd=self.folder,
                env=environ,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
            ) as process,
        ):
            try:
                yield Api(url=_wait_for_address(process, log), process=psutil.Process(process.pid))
            finally:
                process.terminate()
                try:
                    process.wait(END_LIMIT_S)
                except subprocess.TimeoutExpired:
                    process.kill()

    @property
    def _python(self) -> Path:
        return _environment(self.folder) / "bin" / "python"

    def _dsn(self, database: str) -> str:
        return f"host={self.socket_dir} port=5432 user=postgres dbname={database}"

    def _run(self, *arguments: str) -> None:
        self._finish(self._start(*arguments))

    def _start(self, *arguments: str) -> subprocess.Popen[str]:
        command = [self._python, "-m", "pypgstac.pypgstac", *arguments, f"--dsn={self.dsn}"]
        return subprocess.Popen(
            tied_command([str(part) for part in command]),
            cwd=self.folder,
            env={"PATH": "/usr/bin:/bin"},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def _finish(self, process: subprocess.Popen[str]) -> None:
        said, _ = process.communicate()
        if process.returncode != 0:
            raise BenchmarkError(f"pypgstac failed with {process.returncode}:\n{_tail(said)}")


@dataclass(frozen=True, kw_only=True, slots=True)
class Api:
    """The running web process of the peer."""

    url: str
    process: psutil.Process


@contextmanager
def running_pgstac(folder: Path) -> Iterator[Pgstac]:
    """Start an empty Postgres of the peer's own in `folder`, with its programs beside it.

    Notes
    -----
    Call it from the main thread, with which the server ends.
    """
    programs = find_programs()
    if programs is None:
        raise BenchmarkError(str(describe_missing()))
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    _install(folder)
    account = choose_account()
    # Not below `folder`, whose path may be too long for a socket.
    with tempfile.TemporaryDirectory(prefix="pgstac-") as sockets:
        account.give(Path(sockets))
        with _running_postgres(programs, account, folder, Path(sockets)):
            yield Pgstac(folder=folder, socket_dir=Path(sockets))
    shutil.rmtree(folder / "postgres")  # after a failure it stays


@contextmanager
def _running_postgres(programs: Programs, account: Account, folder: Path, socket_dir: Path) -> Iterator[None]:
    data, log = folder / "postgres", folder / "postgres.log"
    shutil.rmtree(data, ignore_errors=True)
    account.give(data)
    options = [f"--pgdata={data}", "--username=postgres", "--auth=trust", "--encoding=UTF8", "--locale=C.UTF-8"]
    initdb = ServerProcess.launch("initdb", [programs.initdb, *options], account, log, stops=((signal.SIGKILL, 5.0),))
    try:
        initdb.finish()
    finally:
        initdb.stop()
    settings = [f"--{name}={value}" for name, value in _SETTINGS.items()]
    command = [str(programs.postgres), f"--unix_socket_directories={socket_dir}", *settings, "-D", str(data)]
    stops = ((signal.SIGINT, 30.0), (signal.SIGQUIT, 5.0), (signal.SIGKILL, 5.0))
    server = ServerProcess.launch("postgres of pgstac", command, account, log, stops=stops)
    try:
        server.wait_until(lambda: _answers(socket_dir))
        yield
    finally:
        server.stop()


def _answers(socket_dir: Path) -> bool:
    try:
        psycopg.connect(f"host={socket_dir} port=5432 user=postgres dbname=postgres").close()
    except psycopg.OperationalError:
        return False
    return True


def _environment(folder: Path) -> Path:
    return folder / "environment"


def _install(folder: Path) -> None:
    """Make the environment with the peer's packages, unless an earlier run did."""
    environment = _environment(folder)
    done = environment / "installed.txt"
    wanted = "\n".join(PACKAGES)
    if done.exists() and done.read_text() == wanted:
        return
    shutil.rmtree(environment, ignore_errors=True)
    for command in (
        [sys.executable, "-m", "venv", str(environment)],
        [str(environment / "bin" / "python"), "-m", "pip", "install", "--quiet", *PACKAGES],
    ):
        result = subprocess.run(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=INSTALL_LIMIT_S
        )
        if result.returncode != 0:
            raise BenchmarkError(f"the environment of the peer could not be made:\n{_tail(result.stdout)}")
    done.write_text(wanted)


def _wait_for_address(process: "subprocess.Popen[bytes]", log: Path) -> str:
    deadline = time.monotonic() + START_LIMIT_S
    while process.poll() is None and time.monotonic() < deadline:
        if found := re.search(r"running on (http://[\d.]+:\d+)", log.read_text()):
            return found[1]
        time.sleep(0.1)
    raise BenchmarkError(f"the API of the peer did not start:\n{_tail(log.read_text())}")


def _tail(text: str) -> str:
    return "\n".join(text.splitlines()[-LOG_TAIL_LINES:])
