"""What fsspec reaches as a tree: object stores, web and SSH servers, archives; their listings are not believed."""

import io
import os
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from html import unescape
from typing import Any, BinaryIO, Self
from urllib.parse import quote, unquote, urlsplit

from extractors.errors import FileRejectedError, StorageError
from extractors.storages.trees import (
    BUFFER_BYTES,
    FileStatus,
    OpenedFile,
    RejectedFile,
    ScannedFile,
    check_plain,
    decode_path,
    moment_of,
    printable,
)

READ_AHEAD_BYTES = 256 * 1024
"""Fetched of a remote file beyond what was asked for: most headers in one request."""

MAX_REMOTE_DEPTH = 64
"""Deepest folder that is entered at a server; one that lists itself would otherwise never end."""

MAX_FOLDER_ENTRIES = 1_000_000
"""Longest listing of one folder that is believed of a server."""

_PAGE_TYPES = ("text/html", "application/xhtml+xml")
_PAGE_BEGINNINGS = (b"<!doctype html", b"<html")
_PAGE_SUFFIXES = (".html", ".htm", ".xhtml")
_ENTITY = re.compile(r"&(?:#\d+|#x[0-9a-f]+|\w+);", re.IGNORECASE)
_TIME_KEYS = ("LastModified", "Last-Modified", "mtime", "modified", "updated", "last_modified")
_VERSION_KEYS = ("ETag", "etag", "VersionId", "versionId", "Content-MD5", "md5Hash", "checksum", "CRC", *_TIME_KEYS)


class RemoteTree:
    """A folder of any file system that fsspec reaches.

    Credentials are none of ours: they come from fsspec's configuration or from that of the library behind it. What a
    server lists is not trusted: a name counts only if it lies directly in the folder that was asked for. What links at
    the server lead to is up to the server.
    """

    def __init__(self, url: str) -> None:
        _check_url(url)
        self.root = url
        self._is_http = url.startswith(("http://", "https://"))
        self._is_ssh = url.startswith(("sftp://", "ssh://"))
        self._connected: tuple[Any, str] | None = None

    def __repr__(self) -> str:
        return f"RemoteTree({self.root!r})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, RemoteTree) and other.root == self.root

    def __hash__(self) -> int:
        return hash(self.root)

    def __reduce__(self) -> tuple[type[Self], tuple[str]]:
        return type(self), (self.root,)  # a connection stays where it was made

    def walk(self) -> Iterator[ScannedFile | RejectedFile]:
        """Yield what is in the tree; see `Tree.walk`."""
        try:
            folders = [iter(self._list(""))]
        except Exception as error:
            raise StorageError(self.root, f"cannot be listed: {_tell(error)}") from error
        while folders:
            found = next(folders[-1], None)
            if found is None:
                folders.pop()
            elif isinstance(found, RejectedFile):
                yield found
            elif not found.is_folder:
                yield ScannedFile(path=found.path, size_bytes=found.size_bytes, modified_at=found.modified_at)
            elif len(folders) > MAX_REMOTE_DEPTH:
                reason = f"lies more than {MAX_REMOTE_DEPTH} folders deep, does the server list a folder in itself?"
                yield RejectedFile(path=found.path, reason=reason, is_folder=True)
            else:
                try:
                    folders.append(iter(self._list(f"{found.path}/")))
                except Exception as error:  # noqa: BLE001 - libraries raise what they like, and the walk goes on
                    reason = f"the folder cannot be listed: {_tell(error)}"
                    yield RejectedFile(path=found.path, reason=reason, is_folder=True)

    def count(self) -> None:
        """Return None: to count, a server would have to list everything once more."""

    def open(self, path: str) -> OpenedFile:
        """Open a file; see `Tree.open`. Its bytes are fetched as they are read."""
        check_plain(path)
        try:
            size_bytes = self._status(path).size_bytes
            raw = _RemoteRaw(lambda ahead: self._open_remote(path, size_bytes, ahead), size_bytes)
            stream = OpenedFile(raw, lambda: self._status(path), BUFFER_BYTES)
            if self._is_http:
                _check_is_no_page(path, head=stream.peek(1))
        except FileRejectedError:
            raise
        except Exception as error:
            raise FileRejectedError(path, f"cannot be opened: {_tell(error)}") from error
        return stream

    def exists(self, path: str) -> bool:
        """Return whether there is a file at `path`."""
        try:
            check_plain(path)
            self._status(path)
        except (FileRejectedError, FileNotFoundError, NotADirectoryError, PermissionError):
            return False
        return True

    def path_below(self, path: bytes) -> str:
        """Return where `path`, a whole address or already one below the root, lies below the root."""
        text = decode_path(path)
        prefix = self.root.rstrip("/") + "/"
        if text.startswith(prefix):
            text = text[len(prefix) :]
            text = unquote(text) if self._is_http else text
        elif "://" in text:
            raise FileRejectedError(printable(text), f"is not below the storage's root {self.root}")
        check_plain(text)
        return text

    def _connect(self) -> tuple[Any, str]:
        """Return the file system, and where in it the root is."""
        if self._connected is None:
            from fsspec.core import url_to_fs

            try:
                filesystem, root = url_to_fs(self.root)
            except (ImportError, ValueError) as error:
                raise StorageError(self.root, f"needs a package that is not installed: {_tell(error)}") from error
            # Where paths are absolute, an empty one would be the folder of whoever logs in.
            root = root or ("/" if self._is_ssh else "")
            self._connected = filesystem, root if root == "/" else root.rstrip("/")
        return self._connected

    def _place(self, path: str) -> str:
        """Return what the file system calls `path`."""
        _, root = self._connect()
        name = quote(path) if self._is_http else path
        return f"{root.rstrip('/')}/{name}" if root else name

    def _list(self, prefix: str) -> "list[_Remote | RejectedFile]":
        """Return what is directly in a folder, in byte order."""
        filesystem, root = self._connect()
        place = self._place(prefix.rstrip("/")) if prefix else root
        listing = filesystem.ls(f"{place}/" if self._is_http else place, detail=True)
        # What it remembers of all folders would grow with the storage, and grow old.
        filesystem.invalidate_cache()
        if len(listing) > MAX_FOLDER_ENTRIES:
            raise OSError(None, f"it has {len(listing)} entries, at most {MAX_FOLDER_ENTRIES} are believed")
        found: dict[bytes, _Remote | RejectedFile] = {}
        for entry in listing:
            name = self._name_in(place, str(entry["name"]))
            if name:
                judged = _judge_remote(prefix, name, entry)
                key = name.encode("utf-8", "surrogatepass") + (b"/" if judged.is_folder else b"")
                found.setdefault(key, judged)
        return [found[key] for key in sorted(found)]

    def _name_in(self, place: str, listed: str) -> str | None:
        """Return the listed name below the folder at `place`; None for the folder itself and for links about it."""
        if self._is_http:
            listed = _ENTITY.sub(lambda found: unescape(found[0]), listed)
            if "?" in listed or "#" in listed:
                return None  # such as a page's own links to other orders of itself
        name = listed.strip("/")
        place = place.strip("/")
        if name == place:
            return None
        if place:
            if not name.startswith(f"{place}/"):
                return f"../{name}"
            name = name[len(place) + 1 :].removeprefix("./")
        if self._is_http and set(name.split("/")) <= {".", ".."}:
            return None  # the way up, of which fsspec knows only one step
        return unquote(name) if self._is_http else name

    def _status(self, path: str) -> FileStatus:
        filesystem, _ = self._connect()
        info = filesystem.info(self._place(path))
        if (kind := _kind_of(info)) != "file":
            raise FileRejectedError(path, f"is no file: the storage calls it a {kind}")
        if self._is_http:
            _check_is_no_page(path, kind=info.get("mimetype"))
        if not isinstance(info.get("size"), int):
            raise FileRejectedError(path, "the server does not tell its size")
        told = [str(info[key]) for key in _VERSION_KEYS if info.get(key) is not None]
        return FileStatus(
            size_bytes=info["size"], modified_at=_time_of(info), version="-".join([*told, str(info["size"])])
        )

    def _open_remote(self, path: str, size_bytes: int, read_ahead_bytes: int) -> BinaryIO:
        filesystem, _ = self._connect()
        options = {"size": size_bytes} if self._is_http else {}
        stream: BinaryIO = filesystem.open(
            self._place(path), "rb", block_size=read_ahead_bytes, cache_type="readahead", **options
        )
        return stream


@dataclass(frozen=True, kw_only=True, slots=True)
class _Remote:
    """One believable entry of a server's listing."""

    path: str
    is_folder: bool
    size_bytes: int | None
    modified_at: datetime | None


class _RemoteRaw(io.RawIOBase):
    """The bytes of a remote file, also from a server that delivers only from the beginning.

    From such a one, reading ahead skips, and reading back begins again.
    """

    def __init__(self, reopen: Callable[[int], BinaryIO], size_bytes: int) -> None:
        self._reopen = reopen
        self._size_bytes = size_bytes
        self._stream = reopen(READ_AHEAD_BYTES)
        self._is_seekable = self._stream.seekable()
        self._wanted_at = 0
        self._stream_at = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._wanted_at

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        if whence == os.SEEK_CUR:
            offset += self._wanted_at
        elif whence == os.SEEK_END:
            offset += self._size_bytes  # not what the library says: some cannot, some say nothing
        if offset < 0:
            raise ValueError(f"cannot seek to {offset}, expected an offset of 0 or more")
        self._wanted_at = offset
        return offset

    def readinto(self, buffer: Any) -> int:
        try:
            piece = self._read(len(buffer))
        except Exception as error:
            # Libraries raise what they like; addresses in their words may be signed ones.
            raise OSError(None, f"the storage does not deliver: {_tell(error)}") from error
        if not piece and self._wanted_at < self._size_bytes:
            raise OSError(None, f"the storage told of {self._size_bytes} bytes and delivers {self._wanted_at}")
        buffer[: len(piece)] = piece
        self._wanted_at += len(piece)
        return len(piece)

    def close(self) -> None:
        if not self.closed:
            self._stream.close()
        super().close()

    def _read(self, size: int) -> bytes:
        if self._is_seekable:
            try:
                return self._read_at(size)
            except ValueError:
                # How fsspec says that an HTTP server ignored the range that it was asked for.
                self._restart()
                self._is_seekable = False
        if self._wanted_at < self._stream_at:
            self._restart()
        while self._stream_at < self._wanted_at and self._read_on(self._wanted_at - self._stream_at):
            pass
        return self._read_on(size) if self._stream_at == self._wanted_at else b""

    def _read_at(self, size: int) -> bytes:
        # A library may forget what it read ahead at each seek, even at one that goes nowhere.
        if self._stream_at != self._wanted_at:
            self._stream.seek(self._wanted_at)
        piece = self._stream.read(size)
        self._stream_at = self._wanted_at + len(piece)
        return piece

    def _read_on(self, size: int) -> bytes:
        piece = self._stream.read(min(size, READ_AHEAD_BYTES))
        self._stream_at += len(piece)
        return piece

    def _restart(self) -> None:
        self._stream.close()
        self._stream = self._reopen(0)
        self._stream_at = 0


def _judge_remote(prefix: str, name: str, entry: Mapping[str, Any]) -> _Remote | RejectedFile:
    path = prefix + name
    kind = _kind_of(entry)
    is_folder = kind == "directory"
    try:
        if "/" in name:
            raise FileRejectedError(printable(path), "is listed in a folder in which it does not lie")
        check_plain(path)
        if kind not in ("file", "directory"):
            raise FileRejectedError(path, f"is no file: the storage calls it a {kind}")
    except FileRejectedError as error:
        return RejectedFile(path=printable(path), reason=error.reason, is_folder=is_folder)
    size = entry.get("size")
    return _Remote(
        path=path,
        is_folder=is_folder,
        size_bytes=size if isinstance(size, int) else None,
        modified_at=_time_of(entry),
    )


def _check_is_no_page(path: str, *, kind: str | None = None, head: bytes = b"") -> None:
    """Raise `FileRejectedError` where a web server answers with a page: a folder's listing, a log-in, an excuse."""
    if path.lower().endswith(_PAGE_SUFFIXES):
        return
    if kind in _PAGE_TYPES or head.lstrip().lower().startswith(_PAGE_BEGINNINGS):
        raise FileRejectedError(path, "the server answers with a web page, such as the listing of a folder or a log-in")


def _kind_of(info: Mapping[str, Any]) -> str:
    """Return ``file``, ``directory`` or another word; WebDAV servers may say nothing of what is no folder."""
    return str(info["type"] or "file")


def _time_of(info: Mapping[str, Any]) -> datetime | None:
    """Return when a file was last written; None if the storage does not say so in a way that leaves no doubt."""
    told = next((info[key] for key in _TIME_KEYS if info.get(key) is not None), None)
    if isinstance(told, int | float):
        return moment_of(int(told * 1e9))
    if isinstance(told, str):
        try:
            told = parsedate_to_datetime(told)
        except ValueError:
            return None
    if not isinstance(told, datetime) or told.tzinfo is None or not 1 < told.year < 9999:
        return None
    return told.astimezone(UTC)


def _tell(error: BaseException) -> str:
    """Say what kind of error it was, without the words of the library: they may hold signed addresses or worse."""
    if isinstance(error, StorageError):
        return error.reason
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    status = getattr(error, "status", None)
    return f"{type(error).__name__} {status}" if isinstance(status, int) else type(error).__name__


def _check_url(url: str) -> None:
    for part in url.split("::"):
        try:
            split = urlsplit(part)
            has_secret = split.password is not None
        except ValueError:
            raise StorageError("(not shown)", "is no address that can be understood") from None
        if has_secret:
            reason = "the address holds a password; give it in the configuration of fsspec or of the library behind it"
            raise StorageError("(not shown)", reason)
        if split.query or split.fragment:
            raise StorageError("(not shown)", "the address holds a query, which may be secret; expected a folder")
