"""`catchment serve`: a web process, and beside it further ones, and the servers and the worker that they need.

The worker is a process of its own, because hashing and copying must not share the event loop of the web process. Web
processes share the address; what one of them has answered or taken in, the others know from Redis and Postgres. All
end with us: in order when we are told to stop, by a signal of the kernel when we are killed.
"""

import asyncio
import logging
import os
import signal
import socket
import sys
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path
from typing import Any, NoReturn

import click
import uvloop

from aggregator import launcher
from aggregator.commands.console import examples
from aggregator.commands.failures import Failure
from aggregator.commands.migrate import migrate_database
from aggregator.commands.servers import running_servers
from aggregator.commands.settings import data_dir_option, environ_of, load_settings
from aggregator.commands.web import make_server, serve_web
from aggregator.log import configure_logging
from aggregator.settings import Settings
from aggregator.staging.buffer import LocalFileBuffer

logger = logging.getLogger(__name__)

FIRST_DELAY_S = 0.5
"""Pause before a process that died is started again; each further one is twice as long."""

LONGEST_DELAY_S = 60.0
"""No pause is longer."""

LONG_LIFE_S = 120.0
"""A process that lived so long is started again after the first delay."""

GRACE_S = 5.0
"""How much longer than `Settings.drain_s` a process may need to end before it is killed."""

MAX_PROCESSES = 64
"""Most web processes."""


@click.command(epilog=examples("catchment serve --port 8080 --data-dir /srv/catchment"))
@click.option("--host", help="Address to listen on.  [default: CATCHMENT_HOST, or 127.0.0.1]")
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    help="Port to listen on; 0 takes a free one.  [default: CATCHMENT_PORT, or 8000]",
)
@data_dir_option
@click.option(
    "--processes",
    "--workers",
    "processes",
    type=click.IntRange(1, MAX_PROCESSES),
    default=1,
    show_default=True,
    help="Web processes that share the address: one per core.",
)
@click.option("--no-worker", is_flag=True, help="Start no worker; 'catchment worker' does, here or on other hosts.")
def command(host: str | None, port: int | None, data_dir: Path | None, processes: int, no_worker: bool) -> None:
    """Run the service: web page, APIs and one worker.

    Without CATCHMENT_DATABASE_URL and CATCHMENT_REDIS_URL it starts servers of its own in the data directory. The
    database is migrated first. SIGTERM and Ctrl-C drain: requests and copies under way are finished.
    """
    settings = load_settings(host=host, port=port, data_dir=data_dir)
    configure_logging(settings.log_level)
    signal.signal(signal.SIGTERM, _stop_early)
    with (
        bound_socket(settings.host, settings.port) as listener,
        private_folder(settings.data_dir),
        running_servers(settings) as running,
    ):
        migrate_database(running)
        LocalFileBuffer(running.buffer_dir).prepare()
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(_serve(running, listener, n_others=processes - 1, with_worker=not no_worker))
    logger.info("stopped", extra={"action": "serve"})


def _stop_early(_signal_number: int, _frame: Any) -> NoReturn:
    """End in order while the servers are started; as soon as requests are served, signals drain."""
    raise SystemExit(0)


@contextmanager
def bound_socket(host: str, port: int) -> Iterator[socket.socket]:
    """Give a socket that holds the address but does not listen yet: who connects now is refused, and asks again.

    Raises
    ------
    Failure
        The address cannot be had.
    """
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((host, port))
        except OSError as error:
            reason = error.strerror or str(error)
            raise Failure(
                f"cannot listen on {host} port {port}: {reason}; choose others with --host and --port"
            ) from error
        yield listener


@contextmanager
def private_folder(path: Path) -> Iterator[Path]:
    """Make a folder that nobody else may enter, unless it is there."""
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    yield path


async def _serve(settings: Settings, listener: socket.socket, *, n_others: int, with_worker: bool) -> None:
    stopping = asyncio.Event()
    server = make_server(settings, stopping)
    web = [
        _Child(f"web process {number + 2}", _web_command(listener), settings, listener) for number in range(n_others)
    ]
    worker = [_Child("worker", _WORKER, settings)] if with_worker else []
    async with _kept_running([*web, *worker], stopping):
        # Whoever reads the address may use all of them.
        await asyncio.gather(*(child.ready.wait() for child in web))
        await serve_web(server, listener)


# Processes beside ours

_WORKER = [sys.executable, "-m", "aggregator", "worker"]


def _web_command(listener: socket.socket) -> list[str]:
    return [sys.executable, "-m", "aggregator.commands.web", str(listener.fileno())]


class _Child:
    """A process of the service that is started again when it ends."""

    def __init__(
        self, name: str, command: list[str], settings: Settings, listener: socket.socket | None = None
    ) -> None:
        self._name = name
        self._command = command
        self._settings = settings
        self._listener = listener
        self.ready = asyncio.Event()
        """Set when it can be used, if it is one that listens."""

    async def keep_running(self, stopping: asyncio.Event) -> None:
        """Start it, and start it again, until `stopping` is set; then let it end."""
        try:
            await self._keep_running(stopping)
        finally:
            self.ready.set()  # nobody need wait for it any more

    async def _keep_running(self, stopping: asyncio.Event) -> None:
        delay_s = FIRST_DELAY_S
        while not stopping.is_set():
            began = time.monotonic()
            process = await self._start()
            await self._wait_for_either(process, stopping)
            if stopping.is_set():
                await self._end(process)
                return
            if time.monotonic() - began > LONG_LIFE_S:
                delay_s = FIRST_DELAY_S
            logger.warning(
                "the %s ended with %s and is started again in %s s",
                *(self._name, process.returncode, delay_s),
                extra={"action": "keep_running"},
            )
            with suppress(TimeoutError):
                await asyncio.wait_for(stopping.wait(), delay_s)
            delay_s = min(2 * delay_s, LONGEST_DELAY_S)

    async def _start(self) -> asyncio.subprocess.Process:
        """Start a process that the kernel ends when our (main) thread ends."""
        listens = self._listener is not None
        return await asyncio.create_subprocess_exec(
            *tied_command(self._command),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE if listens else None,
            env=environ_of(self._settings),
            pass_fds=() if self._listener is None else (self._listener.fileno(),),
            start_new_session=True,  # Ctrl-C in the terminal is for us, and we end it in order
        )

    async def _wait_for_either(self, process: asyncio.subprocess.Process, stopping: asyncio.Event) -> None:
        waits = [asyncio.create_task(self._watch(process)), asyncio.create_task(stopping.wait())]
        await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        for wait in waits:
            wait.cancel()

    async def _watch(self, process: asyncio.subprocess.Process) -> None:
        if process.stdout is not None:
            await process.stdout.readline()
            self.ready.set()  # or it has ended, and the others do without it
        await process.wait()

    async def _end(self, process: asyncio.subprocess.Process) -> None:
        """Let it finish what is under way; kill it when it takes too long."""
        limit_s = self._settings.drain_s + GRACE_S
        with suppress(ProcessLookupError):
            process.send_signal(signal.SIGTERM)
        try:
            await asyncio.wait_for(process.wait(), limit_s)
        except TimeoutError:
            logger.warning(
                "the %s did not end within %s s and is killed", self._name, limit_s, extra={"action": "keep_running"}
            )
            process.kill()
            await process.wait()


@asynccontextmanager
async def _kept_running(children: Sequence[_Child], stopping: asyncio.Event) -> AsyncIterator[None]:
    """Keep processes running until `stopping` is set or the body ends, and wait for their end."""
    keepers = [asyncio.create_task(child.keep_running(stopping)) for child in children]
    try:
        yield
    finally:
        stopping.set()
        await asyncio.gather(*keepers)


def tied_command(command: list[str]) -> list[str]:
    """Return a command that runs `command` and gets SIGTERM when the thread that starts it ends."""
    same_user = ("0", "0", "0")
    signal_number = str(signal.SIGTERM.value)
    return [sys.executable, "-I", "-S", launcher.__file__, str(os.getpid()), signal_number, *same_user, *command]
