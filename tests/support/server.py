"""A real HTTP server for tests: uvicorn on a free port, in a thread of the test run."""

import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from threading import Thread
from typing import Any, Literal

import uvicorn
from starlette.types import ASGIApp

from aggregator.api.live import Live
from aggregator.api.sockets import SERVER_OPTIONS
from aggregator.app import create_app
from aggregator.connection import GuardedProtocol
from aggregator.settings import Settings
from aggregator.wire import WireProtocol

START_S = 20
"""Longest time the service may take to answer, on a busy machine."""


@contextmanager
def serving(settings: Settings) -> Iterator[str]:
    """Serve the application on 127.0.0.1 and give its address; its servers must run already."""
    settings.buffer_dir.mkdir(parents=True, exist_ok=True)
    live = Live()
    app = create_app(settings, live)
    with serving_app(app, live, lifespan="on", protocol=partial(WireProtocol, teller=app)) as url:
        yield url


@contextmanager
def serving_app(
    app: ASGIApp, live: Live | None = None, *, lifespan: Literal["on", "off"] = "off", protocol: Any = GuardedProtocol
) -> Iterator[str]:
    """Serve any application on 127.0.0.1 and give its address."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        config = uvicorn.Config(
            app,
            http=protocol,
            lifespan=lifespan,
            log_config=None,
            timeout_graceful_shutdown=5,
            **SERVER_OPTIONS,
        )
        server = _Server(config, live or Live())
        thread = Thread(target=server.run, kwargs={"sockets": [listener]}, name="service")
        thread.start()
        try:
            _wait_for(server, thread)
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join(START_S)
    assert not thread.is_alive(), "the service did not stop"


class _Server(uvicorn.Server):
    """Ends what would not end by itself, as `catchment serve` does."""

    def __init__(self, config: uvicorn.Config, live: Live) -> None:
        super().__init__(config)
        self._live = live

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self._live.end()
        await super().shutdown(sockets)


def _wait_for(server: uvicorn.Server, thread: Thread) -> None:
    deadline = time.monotonic() + START_S
    while not server.started:
        assert thread.is_alive(), "the service did not start"
        assert time.monotonic() < deadline, "the service took too long to start"
        time.sleep(0.01)
