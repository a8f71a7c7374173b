"""One server as a child process: whom it runs as, where its words go, and how it ends.

A child ends with us whatever happens to us, and never runs as root; `aggregator.launcher` does the part of this that
must happen inside the child.
"""

import contextlib
import logging
import os
import pwd
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self, TypeAlias

from aggregator import launcher
from aggregator.errors import AggregatorError

logger = logging.getLogger(__name__)

START_LIMIT_S = 120.0
"""Longest start: after a crash Postgres first replays up to `max_wal_size` of its log."""

POLL_S = 0.02
"""How often a server is asked whether it is there."""

MAX_LOG_BYTES = 16 * 1024 * 1024
"""A log of this size is set aside at the next start; one generation is kept."""

LOG_TAIL_LINES = 12
"""As many last lines of a server's log are shown with its failure."""

Stops: TypeAlias = tuple[tuple[signal.Signals, float], ...]
"""Signals that end a server, politest first, each with the seconds until the next is tried."""

_CAP_CHOWN, _CAP_DAC_OVERRIDE, _CAP_DAC_READ_SEARCH, _CAP_SETGID, _CAP_SETUID = 0, 1, 2, 6, 7
_OWN_SERVERS = "set CATCHMENT_DATABASE_URL and CATCHMENT_REDIS_URL to servers of your own"


class EmbeddedServerError(AggregatorError):
    """An embedded server cannot run; the message says what to do next.

    Parameters
    ----------
    message
        What happened and what to do.
    log_tail
        Last lines of the server's log since this start, empty when it said nothing.
    """

    def __init__(self, message: str, *, log_tail: str = "") -> None:
        self.log_tail = log_tail
        super().__init__(f"{message}\n{log_tail}" if log_tail else message)


@dataclass(frozen=True, kw_only=True, slots=True)
class Account:
    """Whom a server runs as: whoever we are (all zero), or an ordinary user who keeps one capability."""

    uid: int = 0
    gid: int = 0
    capability: int = 0

    def give(self, folder: Path) -> None:
        """Make the servers the only ones, besides root, that get into one of our folders."""
        folder.mkdir(mode=0o700, exist_ok=True)
        folder.chmod(0o700)
        if self.uid:
            os.chown(folder, self.uid, self.gid)


def choose_account() -> Account:
    """Stay who we are, unless that is root, as whom Postgres refuses to run.

    The unprivileged user keeps one capability, because our folders, and often the programs, lie below a home that
    only root may enter: reading everywhere if we have that, otherwise (as in usual containers) passing all checks.
    """
    if os.geteuid() != 0:
        _check_named(os.geteuid())
        return Account()
    held = _held_capabilities()
    passes = [bit for bit in (_CAP_DAC_READ_SEARCH, _CAP_DAC_OVERRIDE) if bit in held]
    if not passes or not {_CAP_CHOWN, _CAP_SETUID, _CAP_SETGID} <= held:
        raise EmbeddedServerError(
            "Postgres does not run as root, and this root lacks the capabilities to start it as another user "
            f"(CHOWN, SETUID, SETGID and DAC_READ_SEARCH or DAC_OVERRIDE): run as an ordinary user, or {_OWN_SERVERS}"
        )
    try:
        nobody = pwd.getpwnam("nobody")
    except KeyError as error:
        raise EmbeddedServerError(
            "Postgres does not run as root, and this system has no user 'nobody' to run it as: "
            f"run as an ordinary user, or {_OWN_SERVERS}"
        ) from error
    return Account(uid=nobody.pw_uid, gid=nobody.pw_gid, capability=passes[0])


def _check_named(uid: int) -> None:
    try:
        pwd.getpwuid(uid)
    except KeyError as error:
        raise EmbeddedServerError(
            f"Postgres wants its user to have a name, and user {uid} has none on this system: "
            f"add it to /etc/passwd, or {_OWN_SERVERS}"
        ) from error


def _held_capabilities() -> set[int]:
    line = re.search(r"^CapEff:\s*([0-9a-f]+)$", Path("/proc/self/status").read_text(), re.MULTILINE)
    mask = int(line[1], 16) if line else 0
    return {bit for bit in range(mask.bit_length()) if mask >> bit & 1}


class ServerProcess:
    """A running child with its log; `launch` makes one."""

    def __init__(self, name: str, process: subprocess.Popen[bytes], *, log: Path, log_begin: int, stops: Stops) -> None:
        self._name = name
        self._process = process
        self._log = log
        self._log_begin = log_begin
        self._stops = stops

    @classmethod
    def launch(cls, name: str, command: Sequence[str | Path], account: Account, log: Path, *, stops: Stops) -> Self:
        """Start a program as `account`; the kernel sends it the first of `stops` when our thread ends."""
        _set_aside_if_large(log)
        with open(log, "ab", opener=_open_private) as output:
            log_begin = output.tell()
            process = subprocess.Popen(
                [
                    *(sys.executable, "-I", "-S", launcher.__file__),
                    *(str(os.getpid()), str(stops[0][0].value)),
                    *(str(account.uid), str(account.gid), str(account.capability)),
                    *(str(part) for part in command),
                ],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                cwd="/",
                env={"LC_ALL": "C", "PATH": "/usr/bin:/bin"},
                start_new_session=True,  # Ctrl-C in the terminal is for us, and we end the servers in order
            )
        return cls(name, process, log=log, log_begin=log_begin, stops=stops)

    @property
    def pid(self) -> int:
        """Process id of the server."""
        return self._process.pid

    def wait_until(self, is_ready: Callable[[], bool]) -> None:
        """Wait for a server to answer.

        Raises
        ------
        EmbeddedServerError
            It ended, or needs too long.
        """
        deadline = time.monotonic() + START_LIMIT_S
        while not is_ready():
            if self._process.poll() is not None:
                raise self._error(f"did not start (exit code {self._process.returncode})")
            if time.monotonic() > deadline:
                raise self._error(f"did not answer for {START_LIMIT_S:.0f} s")
            time.sleep(POLL_S)

    def finish(self) -> None:
        """Wait for a program that ends by itself, with success."""
        try:
            code = self._process.wait(START_LIMIT_S)
        except subprocess.TimeoutExpired as error:
            raise self._error(f"did not end within {START_LIMIT_S:.0f} s") from error
        if code != 0:
            raise self._error(f"failed (exit code {code})")

    def stop(self) -> None:
        """End the process if it runs, politely first."""
        for signal_number, limit_s in self._stops:
            if self._process.poll() is not None:
                return
            self._process.send_signal(signal_number)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(limit_s)
                return
            logger.warning("%s did not end within %s s of %s", self._name, limit_s, signal_number.name)

    def _error(self, what: str) -> EmbeddedServerError:
        with self._log.open("rb") as log:
            log.seek(self._log_begin)
            lines = log.read().decode(errors="replace").splitlines()
        message = f"the embedded {self._name} {what}; its log is {self._log}"
        return EmbeddedServerError(message, log_tail="\n".join(lines[-LOG_TAIL_LINES:]))


def _open_private(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NOFOLLOW, 0o600)


def _set_aside_if_large(log: Path) -> None:
    if log.exists() and log.stat().st_size > MAX_LOG_BYTES:
        log.rename(log.with_name(f"{log.name}.1"))
