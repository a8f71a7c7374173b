"""A real SFTP server in this process, over one folder, read-only, which counts the bytes that it delivers."""

import os
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import paramiko  # type: ignore[import-untyped]

USER, PASSWORD = "reader", "for-tests"


@dataclass
class SftpServer:
    """Where the server is, and what it delivered so far."""

    port: int
    delivered_bytes: int = 0


class _Door(paramiko.ServerInterface):  # type: ignore[misc]
    def check_auth_password(self, username: str, password: str) -> int:
        is_known = (username, password) == (USER, PASSWORD)
        answer: int = paramiko.AUTH_SUCCESSFUL if is_known else paramiko.AUTH_FAILED
        return answer

    def check_channel_request(self, kind: str, chanid: int) -> int:
        answer: int = paramiko.OPEN_SUCCEEDED
        return answer


class _Handle(paramiko.SFTPHandle):  # type: ignore[misc]
    def __init__(self, path: str, tally: SftpServer) -> None:
        super().__init__()
        self.readfile = open(path, "rb")  # noqa: SIM115 - closed by the base class
        self._tally = tally

    def read(self, offset: int, length: int) -> bytes:
        piece: bytes = super().read(offset, length)
        self._tally.delivered_bytes += len(piece)
        return piece


class _Folder(paramiko.SFTPServerInterface):  # type: ignore[misc]
    def __init__(self, door: paramiko.ServerInterface, *, root: str, tally: SftpServer) -> None:
        super().__init__(door)
        self._root = root
        self._tally = tally

    def list_folder(self, path: str) -> Any:
        place = self._root + self.canonicalize(path)
        try:
            names = os.listdir(place)
        except OSError as error:
            return paramiko.SFTPServer.convert_errno(error.errno or 0)
        return [paramiko.SFTPAttributes.from_stat(os.lstat(os.path.join(place, name)), name) for name in names]

    def stat(self, path: str) -> Any:
        try:
            return paramiko.SFTPAttributes.from_stat(os.stat(self._root + self.canonicalize(path)))
        except OSError as error:
            return paramiko.SFTPServer.convert_errno(error.errno or 0)

    def lstat(self, path: str) -> Any:
        return self.stat(path)

    def open(self, path: str, flags: int, attr: Any) -> Any:
        try:
            return _Handle(self._root + self.canonicalize(path), self._tally)
        except OSError as error:
            return paramiko.SFTPServer.convert_errno(error.errno or 0)


@contextmanager
def serving_sftp(root: Path) -> Iterator[SftpServer]:
    """Yield a server of `root` for `USER` with `PASSWORD`; its paths begin at `root` with ``/``."""
    listener = socket.create_server(("127.0.0.1", 0))
    server = SftpServer(port=listener.getsockname()[1])
    transports: list[paramiko.Transport] = []
    thread = threading.Thread(target=partial(_accept, listener, root, server, transports))
    thread.start()
    try:
        yield server
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        thread.join()
        listener.close()
        for transport in transports:
            transport.close()


def _accept(listener: socket.socket, root: Path, server: SftpServer, transports: list[paramiko.Transport]) -> None:
    key = paramiko.ECDSAKey.generate()
    while True:
        try:
            connection, _ = listener.accept()
        except OSError:
            return  # no longer listening
        transport = paramiko.Transport(connection)
        transports.append(transport)
        transport.add_server_key(key)
        transport.set_subsystem_handler("sftp", paramiko.SFTPServer, _Folder, root=str(root), tally=server)
        transport.start_server(server=_Door(), event=threading.Event())
