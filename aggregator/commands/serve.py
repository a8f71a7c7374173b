"""`catchment serve`: the web process, and beside it the servers and the worker that it needs.

The worker is a process of its own, because hashing and copying must not share the event loop of the web process. It
ends with us: in order when we are told to stop, by a signal of the kernel when we are killed.
"""

import asyncio
import logging
import os
import signal
import socket
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path
from typing import Any, NoReturn

import click
import uvicorn
import uvloop

from aggregator import launcher
from aggregator.api.live import Live
from aggregator.api.sockets import SERVER_OPTIONS
from aggregator.app import create_app
from aggregator.commands.console import examples
from aggregator.commands.failures import Failure
from aggregator.commands.migrate import migrate_database
from aggregator.commands.servers import running_servers
from aggregator.commands.settings import data_dir_option, environ_of, load_settings
from aggregator.connection import GuardedProtocol
from aggregator.log import configure_logging
from aggregator.settings import Settings
from aggregator.staging.buffer import LocalFileBuffer

logger = logging.getLogger(__name__)

LISTENING = "listening on "
"""What stands before the address in the one line on standard output."""

FIRST_DELAY_S = 0.5
"""Pause before a worker that died is started again; each further one is twice as long."""

LONGEST_DELAY_S = 60.0
"""No pause is longer."""

LONG_LIFE_S = 120.0
"""A worker that lived so long is started again after the first delay."""

GRACE_S = 5.0
"""How much longer than `Settings.drain_s` a worker may need to end before it is killed."""


@click.command(epilog=examples("catchment serve --port 8080 --data-dir /srv/catchment"))
@click.option("--host", help="Address to listen on.  [default: CATCHMENT_HOST, or 127.0.0.1]")
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    help="Port to listen on; 0 takes a free one.  [default: CATCHMENT_PORT, or 8000]",
)
@data_dir_option
@click.option("--no-worker", is_flag=True, help="Start no worker; 'catchment worker' does, here or on other hosts.")
def command(host: str | None, port: int | None, data_dir: Path | None, no_worker: bool) -> None:
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
            runner.run(_serve(running, listener, with_worker=not no_worker))
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


async def _serve(settings: Settings, listener: socket.socket, *, with_worker: bool) -> None:
    live = Live()
    server = _Server(_uvicorn_config(settings, live), live)
    stopping = asyncio.Event()

    def stop() -> None:
        server.force_exit = stopping.is_set()  # the second time nobody wants to wait
        server.should_exit = True
        stopping.set()

    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop)
    async with _worker_kept_running(settings, stopping) if with_worker else _nothing():
        try:
            await server.serve(sockets=[listener])
        except SystemExit as error:
            raise Failure("the service could not start; the log says why") from error


class _Server(uvicorn.Server):
    """Leaves signals to us, tells the address when it can be used, and ends what would not end by itself."""

    def __init__(self, config: uvicorn.Config, live: Live) -> None:
        super().__init__(config)
        self._live = live

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Capture none."""
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Begin to accept requests."""
        await super().startup(sockets)
        if self.started and sockets:
            url = address_of(sockets[0])
            click.echo(f"{LISTENING}{url}")
            logger.info("ready", extra={"action": "serve", "url": url})

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Let requests finish and connections close."""
        self._live.end()
        await super().shutdown(sockets)


def address_of(listener: socket.socket) -> str:
    """Return the web address of a bound socket."""
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def _uvicorn_config(settings: Settings, live: Live) -> uvicorn.Config:
    logging.getLogger("uvicorn.error").setLevel(logging.WARNING)  # what it says at INFO is said better by us
    return uvicorn.Config(
        create_app(settings, live),
        http=GuardedProtocol,
        lifespan="on",
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=max(1, round(settings.drain_s)),
        **SERVER_OPTIONS,
    )


# The worker


@asynccontextmanager
async def _nothing() -> AsyncIterator[None]:
    yield


@asynccontextmanager
async def _worker_kept_running(settings: Settings, stopping: asyncio.Event) -> AsyncIterator[None]:
    """Keep one worker running until `stopping` is set or the body ends, and wait for its end."""
    keeper = asyncio.create_task(_keep_worker(settings, stopping))
    try:
        yield
    finally:
        stopping.set()
        await keeper


async def _keep_worker(settings: Settings, stopping: asyncio.Event) -> None:
    delay_s = FIRST_DELAY_S
    while not stopping.is_set():
        began = time.monotonic()
        worker = await _start_worker(settings)
        await _wait_for_either(worker, stopping)
        if stopping.is_set():
            await _end_worker(worker, limit_s=settings.drain_s + GRACE_S)
            return
        if time.monotonic() - began > LONG_LIFE_S:
            delay_s = FIRST_DELAY_S
        logger.warning(
            "the worker ended with %s and is started again in %s s",
            *(worker.returncode, delay_s),
            extra={"action": "keep_worker"},
        )
        with suppress(TimeoutError):
            await asyncio.wait_for(stopping.wait(), delay_s)
        delay_s = min(2 * delay_s, LONGEST_DELAY_S)


async def _start_worker(settings: Settings) -> asyncio.subprocess.Process:
    """Start a worker that the kernel ends when our (main) thread ends."""
    return await asyncio.create_subprocess_exec(
        *tied_command([sys.executable, "-m", "aggregator", "worker"]),
        stdin=asyncio.subprocess.DEVNULL,
        env=environ_of(settings),
        start_new_session=True,  # Ctrl-C in the terminal is for us, and we end the worker in order
    )


def tied_command(command: list[str]) -> list[str]:
    """Return a command that runs `command` and gets SIGTERM when the thread that starts it ends."""
    same_user = ("0", "0", "0")
    signal_number = str(signal.SIGTERM.value)
    return [sys.executable, "-I", "-S", launcher.__file__, str(os.getpid()), signal_number, *same_user, *command]


async def _wait_for_either(worker: asyncio.subprocess.Process, stopping: asyncio.Event) -> None:
    waits = [asyncio.create_task(worker.wait()), asyncio.create_task(stopping.wait())]
    await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
    for wait in waits:
        wait.cancel()


async def _end_worker(worker: asyncio.subprocess.Process, *, limit_s: float) -> None:
    """Let a worker finish the files under way; kill it when it takes too long."""
    with suppress(ProcessLookupError):
        worker.send_signal(signal.SIGTERM)
    try:
        await asyncio.wait_for(worker.wait(), limit_s)
    except TimeoutError:
        logger.warning("the worker did not end within %s s and is killed", limit_s, extra={"action": "keep_worker"})
        worker.kill()
        await worker.wait()
