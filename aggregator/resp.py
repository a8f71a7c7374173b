"""A small client of Redis for the hot path: one connection, all commands of one turn of the loop in one write.

The usual client takes longer for one GET than the whole of HTTP does (`python -m benchmarks hits` shows it), because
each command waits for a connection of its own. Here all share one: answers come in the order of the commands. It
speaks the protocol by the parser that redis-py uses, knows the same addresses, and nothing else: no cluster, no
subscriptions, no repetition. What fails, fails at once, and the next command connects anew.
"""

import asyncio
import ssl
from collections import deque
from typing import Any

import hiredis
from redis.asyncio.connection import SSLConnection, UnixDomainSocketConnection, parse_url
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import ResponseError
from redis.exceptions import TimeoutError as RedisTimeoutError

MAX_PENDING = 10_000
"""Commands without an answer: more would mean that Redis does not keep up."""


class RespClient:
    """Sends commands and gives their answers.

    Parameters
    ----------
    url
        As redis-py has it: ``redis://``, ``rediss://`` or ``unix://``, with user, password and number of the database.
    timeout_s
        Longest wait for a connection, and for an answer.
    """

    def __init__(self, url: str, *, timeout_s: float) -> None:
        # Any: redis-py calls it a ConnectKwargs, which has less in it than it returns.
        self._address: dict[str, Any] = dict(parse_url(url))
        self._timeout_s = timeout_s
        self._connection: _Connection | None = None
        self._connecting: asyncio.Task[_Connection] | None = None

    async def call(self, *command: bytes | str | int) -> Any:
        """Send a command and return its answer.

        Raises
        ------
        redis.exceptions.ConnectionError, redis.exceptions.TimeoutError
            There is no connection, or it broke; the command may have been carried out.
        redis.exceptions.ResponseError
            Redis refuses the command.
        """
        connection = self._connection
        if connection is None or connection.is_lost:
            connection = await self._connect()
        answer = await connection.send(command)
        if isinstance(answer, hiredis.ReplyError):
            raise ResponseError(str(answer))
        return answer

    def ask(self, *command: bytes | str | int) -> "asyncio.Future[Any] | None":
        """Send a command and return what will be its answer, without waiting; None when there is no connection."""
        connection = self._connection
        return None if connection is None or connection.is_lost else connection.send(command)

    def tell(self, *command: bytes | str | int) -> None:
        """Send a command behind all that were sent, and wait for nothing; without a connection nothing is sent."""
        if self._connection is not None and not self._connection.is_lost:
            self._connection.send(command).add_done_callback(_ignore)

    def close(self) -> None:
        """Close the connection; commands under way fail."""
        if self._connecting is not None:
            self._connecting.cancel()
        if self._connection is not None:
            self._connection.lose(RedisConnectionError("closed"))
            self._connection = None

    async def _connect(self) -> "_Connection":
        """Connect once for all who wait for it."""
        if self._connecting is None:
            self._connecting = asyncio.create_task(self._open())
            self._connecting.add_done_callback(self._forget_connecting)
        return await asyncio.shield(self._connecting)

    def _forget_connecting(self, done: "asyncio.Task[_Connection]") -> None:
        self._connecting = None
        if not done.cancelled():
            done.exception()  # told to all who wait, if there still are any

    async def _open(self) -> "_Connection":
        try:
            async with asyncio.timeout(self._timeout_s):
                connection = await self._dial()
                for command in self._greetings():
                    answer = await connection.send(command)
                    if isinstance(answer, hiredis.ReplyError):
                        connection.lose(RedisConnectionError(str(answer)))
                        raise ResponseError(str(answer))
        except TimeoutError as error:
            raise RedisTimeoutError(f"no connection within {self._timeout_s:g} s") from error
        except OSError as error:
            raise RedisConnectionError(error.strerror or type(error).__name__) from error
        self._connection = connection
        return connection

    async def _dial(self) -> "_Connection":
        loop, address = asyncio.get_running_loop(), self._address

        def make() -> _Connection:
            return _Connection(self._timeout_s)

        kind = address.get("connection_class")
        if kind is UnixDomainSocketConnection:
            return (await loop.create_unix_connection(make, address["path"]))[1]
        context = _tls_context(address) if kind is SSLConnection else None
        host, port = address.get("host", "localhost"), address.get("port", 6379)
        return (await loop.create_connection(make, host, port, ssl=context))[1]

    def _greetings(self) -> list[tuple[bytes | str | int, ...]]:
        user, password, number = (self._address.get(name) for name in ("username", "password", "db"))
        greetings: list[tuple[bytes | str | int, ...]] = []
        if password is not None:
            greetings.append(("AUTH", password) if user is None else ("AUTH", user, password))
        if number:
            greetings.append(("SELECT", number))
        return greetings


def _ignore(answer: "asyncio.Future[Any]") -> None:
    if not answer.cancelled():
        answer.exception()


def _tls_context(address: dict[str, Any]) -> ssl.SSLContext:
    """Return what redis-py makes of the same address."""
    context = ssl.create_default_context(cafile=address.get("ssl_ca_certs"))
    if (certificate := address.get("ssl_certfile")) is not None:
        context.load_cert_chain(certificate, address.get("ssl_keyfile"))
    requirement = address.get("ssl_cert_reqs", "required")
    if str(address.get("ssl_check_hostname", True)).lower() in ("false", "0", "no") or requirement == "none":
        context.check_hostname = False
    if requirement == "none":
        context.verify_mode = ssl.CERT_NONE
    return context


class _Connection(asyncio.Protocol):
    """One connection, on which answers come in the order of the commands."""

    def __init__(self, timeout_s: float) -> None:
        self.is_lost = False
        self._timeout_s = timeout_s
        self._loop = asyncio.get_running_loop()
        self._reader = hiredis.Reader()
        self._unsent: list[bytes] = []
        self._pending: deque[asyncio.Future[Any]] = deque()
        self._n_answers = 0
        self._watch: asyncio.TimerHandle | None = None
        self._transport: asyncio.Transport

    def send(self, command: tuple[bytes | str | int, ...]) -> "asyncio.Future[Any]":
        """Send a command before the loop waits again, and return what will be its answer."""
        answer = self._loop.create_future()
        if self.is_lost or len(self._pending) >= MAX_PENDING:
            answer.set_exception(RedisConnectionError("lost" if self.is_lost else "too many commands under way"))
            return answer
        if not self._unsent:
            self._loop.call_soon(self._flush)
        self._unsent.append(hiredis.pack_command(command))  # type: ignore[arg-type]  # it means one of any length
        self._pending.append(answer)
        if self._watch is None:
            self._watch = self._loop.call_later(self._timeout_s, self._look, self._n_answers)
        return answer

    def _flush(self) -> None:
        if not self.is_lost:
            self._transport.write(b"".join(self._unsent))
            self._unsent.clear()

    def _look(self, n_answers: int) -> None:
        """Give up when no answer came for as long as one may take; else look again."""
        self._watch = None
        if not self._pending:
            return
        if n_answers == self._n_answers:
            self.lose(RedisTimeoutError(f"no answer within {self._timeout_s:g} s"))
            return
        self._watch = self._loop.call_later(self._timeout_s, self._look, self._n_answers)

    def lose(self, error: Exception) -> None:
        """Close the connection, and let all commands under way fail."""
        if self.is_lost:
            return
        self.is_lost = True
        self._transport.abort()
        if self._watch is not None:
            self._watch.cancel()
        while self._pending:
            answer = self._pending.popleft()
            if not answer.done():
                answer.set_exception(error)

    # --- called by the loop --------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport  # type: ignore[assignment]  # of a stream

    def data_received(self, data: bytes) -> None:
        self._reader.feed(data)
        try:
            while (found := self._reader.gets()) is not False:
                self._n_answers += 1
                answer = self._pending.popleft()
                if not answer.done():  # who asked may have gone away
                    answer.set_result(found)
        except (hiredis.ProtocolError, IndexError):
            self.lose(RedisConnectionError("what was sent is not the protocol of Redis"))

    def connection_lost(self, exc: Exception | None) -> None:
        self.lose(RedisConnectionError("the connection was closed"))
