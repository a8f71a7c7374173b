"""One web process: a server on a socket that others may serve too.

`python -m aggregator.commands.web FD` is how `catchment serve` starts those beside its own: they get its settings in
the environment and its socket as an open file, and tell it when they can be used.
"""

import asyncio
import logging
import signal
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

import click
import uvicorn
import uvloop

from aggregator.api.live import Live
from aggregator.api.sockets import SERVER_OPTIONS
from aggregator.app import create_app
from aggregator.commands.failures import Failure
from aggregator.commands.settings import load_settings
from aggregator.log import configure_logging
from aggregator.settings import Settings
from aggregator.wire import WireProtocol

logger = logging.getLogger(__name__)

LISTENING = "listening on "
"""What stands before the address in the one line on standard output."""


def make_server(settings: Settings, stopping: asyncio.Event) -> uvicorn.Server:
    """Return a server that a signal stops, once it has finished what is under way; the signal sets `stopping`."""
    live = Live()
    server = _Server(_uvicorn_config(settings, live), live)

    def stop() -> None:
        server.force_exit = stopping.is_set()  # the second time nobody wants to wait
        server.should_exit = True
        stopping.set()

    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop)
    return server


async def serve_web(server: uvicorn.Server, listener: socket.socket) -> None:
    """Serve until the server is stopped.

    Raises
    ------
    Failure
        It could not start.
    """
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
    app = create_app(settings, live)
    return uvicorn.Config(
        app,
        http=partial(WireProtocol, teller=app),  # type: ignore[arg-type]  # it makes what uvicorn wants
        lifespan="on",
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=max(1, round(settings.drain_s)),
        **SERVER_OPTIONS,
    )


async def _serve(settings: Settings, listener: socket.socket) -> None:
    await serve_web(make_server(settings, asyncio.Event()), listener)


def main(descriptor: str) -> None:
    """Serve on the socket that we were started with."""
    settings = load_settings()
    configure_logging(settings.log_level)
    with (
        socket.socket(fileno=int(descriptor)) as listener,
        asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner,
    ):
        runner.run(_serve(settings, listener))
    logger.info("stopped", extra={"action": "serve"})


if __name__ == "__main__":
    main(sys.argv[1])
