"""Servers as trees: in byte order, read anywhere, and not believed."""

import os
import pickle
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import ClassVar
from urllib.parse import parse_qs, unquote, urlsplit
from xml.sax.saxutils import escape
from zipfile import ZipFile

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from extractors.errors import FileRejectedError, StorageError
from extractors.storages.opening import open_tree
from extractors.storages.remote_tree import MAX_REMOTE_DEPTH
from extractors.storages.trees import RejectedFile, ScannedFile
from tests.support.sftp import PASSWORD, USER, SftpServer, serving_sftp
from tests.support.trees import NAMES, files_of, read, rejections_of

MODIFIED_AT = datetime(2020, 2, 3, 4, 5, 6, tzinfo=UTC)


# ------------------------------------------------------------------------------------------ memory


@pytest.fixture
def memory() -> Iterator[tuple[str, Callable[[str, bytes], None]]]:
    """Return the address of an empty folder in memory, and what puts a file into it."""
    from fsspec import filesystem

    files = filesystem("memory")
    yield "memory://store", lambda path, data: files.pipe(f"/store/{path}", data)
    files.rm("/store", recursive=True)


def test_a_remote_tree_is_walked_in_byte_order(memory: tuple[str, Callable[[str, bytes], None]]) -> None:
    url, put = memory
    names = ["b/two", "b.x", "b0", "a/b/c", "é/x", "a b", "a\nb"]
    for name in names:
        put(name, name.encode())
    tree = open_tree(url)
    assert files_of(tree) == sorted({*names} - {"a\nb"}, key=str.encode)
    assert [(found.path, found.reason) for found in rejections_of(tree)] == [("a\nb", "path holds a control character")]
    assert tree.count() is None
    assert next(found for found in tree.walk() if found.path == "b/two") == ScannedFile(path="b/two", size_bytes=5)


@given(st.lists(st.lists(NAMES.filter(lambda name: name.strip(" .")), min_size=1, max_size=3), min_size=1, max_size=8))
@settings(deadline=None, max_examples=40)
def test_a_remote_walk_is_in_the_order_of_the_bytes_of_the_paths(paths: list[list[str]]) -> None:
    with TemporaryDirectory() as name:
        made = {"/".join(parts): None for parts in paths}
        whole = [path for path in made if not any(other.startswith(f"{path}/") for other in made)]
        with ZipFile(f"{name}/a.zip", "w") as archive:
            for path in whole:
                archive.writestr(path, "x")
        assert files_of(open_tree(f"zip://::{name}/a.zip")) == sorted(whole, key=str.encode)


def test_remote_files_are_read_anywhere(memory: tuple[str, Callable[[str, bytes], None]]) -> None:
    url, put = memory
    data = bytes(range(256)) * 5000
    put("a b/f", data)
    tree = open_tree(url)
    assert tree.exists("a b/f")
    assert not tree.exists("a b/g")
    assert not tree.exists("a b")
    assert not tree.exists("../store/a b/f")
    with tree.open("a b/f") as stream:
        assert stream.status().size_bytes == len(data)
        assert stream.read(10) == data[:10]
        assert stream.seek(-5, os.SEEK_END) == len(data) - 5
        assert stream.read() == data[-5:]
        stream.seek(1000)
        assert stream.read(300_000) == data[1000:301_000]


@pytest.mark.parametrize("path", ["gone", "../x", "a", "", "/store/a/f"])
def test_only_remote_files_below_the_root_are_opened(
    memory: tuple[str, Callable[[str, bytes], None]], path: str
) -> None:
    url, put = memory
    put("a/f", b"x")
    with pytest.raises(FileRejectedError):
        open_tree(url).open(path)


def test_a_remote_tree_can_be_sent_to_another_process(memory: tuple[str, Callable[[str, bytes], None]]) -> None:
    url, put = memory
    put("f", b"x")
    tree = open_tree(url)
    assert files_of(tree) == ["f"]
    assert files_of(pickle.loads(pickle.dumps(tree))) == ["f"]


def test_addresses_below_a_remote_root_are_understood() -> None:
    tree = open_tree("https://host/data/")
    assert tree.path_below(b"https://host/data/a%20b/c") == "a b/c"
    assert tree.path_below(b"a/c") == "a/c"
    for path in (b"https://host/database/x", b"https://evil/data/x", b"https://host/data/%2e%2e/x", b"/etc/passwd"):
        with pytest.raises(FileRejectedError):
            tree.path_below(path)


def test_hostile_names_in_an_archive_are_rejected(tmp_path: Path) -> None:
    with ZipFile(tmp_path / "a.zip", "w") as archive:
        for name in ("good", "../evil", "d/../../evil", "/abs", "d//e"):
            archive.writestr(name, "x")
    tree = open_tree(f"zip://::{tmp_path}/a.zip")
    found = list(tree.walk())
    assert all(".." not in one.path.split("/") for one in found if isinstance(one, ScannedFile))
    assert ScannedFile(path="good", size_bytes=1) in found
    assert read(tree, "good") == b"x"


# -------------------------------------------------------------------------------------------- http


class Server(BaseHTTPRequestHandler):
    """Serves `pages` (listings) and `files`; ranges only if it is told to."""

    pages: dict[str, str]
    files: dict[str, bytes]
    requests: list[str]
    has_ranges: bool
    protocol_version = "HTTP/1.1"
    wbufsize = 65536  # an answer in one piece, or the two ends wait for each other's acknowledgement

    def do_HEAD(self) -> None:
        self._answer(has_body=False)

    def do_GET(self) -> None:
        self._answer(has_body=True)

    def _answer(self, *, has_body: bool) -> None:
        path = unquote(self.path)
        type(self).requests.append(f"{self.command} {self.path} {self.headers.get('Range', '')}".strip())
        status, body, kind = 200, b"", "application/octet-stream"
        if path in self.pages:
            body, kind = self.pages[path].encode(), "text/html"
        elif path in self.files:
            body = self.files[path]
        else:
            status = 404
        wanted = self.headers.get("Range")
        content_range = None
        if wanted and status == 200 and self.has_ranges:
            first, _, last = wanted.removeprefix("bytes=").partition("-")
            whole = len(body)
            body = body[int(first) : int(last) + 1]
            status, content_range = 206, f"bytes {first}-{int(first) + len(body) - 1}/{whole}"
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Last-Modified", "Mon, 03 Feb 2020 04:05:06 GMT")
        if content_range:
            self.send_header("Content-Range", content_range)
        self.end_headers()
        if has_body:
            try:
                self.wfile.write(body)
            except OSError:
                self.close_connection = True  # the reader has seen enough

    def log_message(self, *args: object) -> None:
        pass


def links(*names: str) -> str:
    return "".join(f'<a href="{name}">{name}</a>\n' for name in names)


@contextmanager
def serving(
    pages: dict[str, str], files: dict[str, bytes], *, has_ranges: bool = True, server: type[Server] = Server
) -> Iterator[tuple[str, list[str]]]:
    """Yield the address of a server, and the requests that it gets."""
    seen: list[str] = []
    told = {"pages": pages, "files": files, "has_ranges": has_ranges, "requests": seen}
    handler = type("Handler", (server,), told)
    listener = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    listener.daemon_threads = True
    thread = threading.Thread(target=listener.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield f"http://127.0.0.1:{listener.server_port}", seen
    finally:
        listener.shutdown()
        listener.server_close()
        thread.join()


def test_listings_of_a_web_server_are_walked(tmp_path: Path) -> None:
    pages = {
        "/data/": links("?C=N;O=D", "../", "/", "b/", "a%20b.fits", "z%25.txt", "b.x"),
        "/data/b/": links("/data/", "two", "deep/"),
        "/data/b/deep/": links("../", "f"),
    }
    files = {"/data/a b.fits": b"spaces", "/data/b/two": b"2", "/data/z%.txt": b"percent"}
    with serving(pages, files) as (url, _):
        tree = open_tree(f"{url}/data/")
        assert list(tree.walk()) == [
            ScannedFile(path=path) for path in ("a b.fits", "b.x", "b/deep/f", "b/two", "z%.txt")
        ]
        assert read(tree, "a b.fits") == b"spaces"
        assert read(tree, "z%.txt") == b"percent"
        with tree.open("b/two") as stream:
            assert stream.status().modified_at == MODIFIED_AT
        assert not tree.exists("b/gone")


@pytest.mark.parametrize("has_ranges", [True, False], ids=["ranges", "no ranges"])
def test_files_of_a_web_server_are_read_anywhere(has_ranges: bool) -> None:
    data = os.urandom(2_000_000)
    with serving({}, {"/d/f": data}, has_ranges=has_ranges) as (url, seen), open_tree(f"{url}/d").open("f") as stream:
        assert stream.read(100) == data[:100]
        stream.seek(1_500_000)
        assert stream.read(1000) == data[1_500_000:1_501_000]
        stream.seek(700_000)
        assert stream.read(1000) == data[700_000:701_000]
        assert stream.seek(0, os.SEEK_END) == len(data)
        stream.seek(0)
        assert stream.read() == data
    assert any("bytes=1500000-" in request or "bytes=1499" in request for request in seen)


def test_a_header_is_all_that_is_fetched_of_a_large_file() -> None:
    with serving({}, {"/d/f": bytes(5_000_000)}) as (url, seen), open_tree(f"{url}/d").open("f") as stream:
        stream.read(5760)
    ranges = [request.rpartition("bytes=")[2].split("-") for request in seen if "bytes=" in request]
    assert sum(int(last) - int(first) + 1 for first, last in ranges) < 600_000


def test_what_a_hostile_server_lists_outside_the_folder_is_not_believed() -> None:
    pages = {"/d/": links("good", "%2e%2e%2fetc", "..%2fx/", "a/b", "%00", "%0a", "//evil.example/x", "e%2ff")}
    with serving(pages, {}) as (url, _):
        pages["/d/"] += links(f"{url}/other/x", "http://evil.example/d/x")
        tree = open_tree(f"{url}/d/")
        assert files_of(tree) == ["good"]
        assert {found.path for found in rejections_of(tree)} >= {"../etc", "a/b", "e/f", "\n", "\0"}


def test_a_server_that_lists_a_folder_in_itself_is_left_at_a_depth() -> None:
    class Endless(dict[str, str]):
        def __contains__(self, path: object) -> bool:
            return str(path).endswith("/")

        def __missing__(self, path: str) -> str:
            return links("again/", "f")

    with serving(Endless(), {}) as (url, _):
        tree = open_tree(f"{url}/d/")
        assert len(files_of(tree)) == MAX_REMOTE_DEPTH + 1
        (rejected,) = rejections_of(tree)
        assert rejected.is_folder
        assert "folders deep" in rejected.reason


def test_a_remote_folder_that_cannot_be_listed_is_told_and_the_walk_goes_on() -> None:
    with serving({"/d/": links("a/", "b")}, {}) as (url, _):
        rejected, good = open_tree(f"{url}/d/").walk()
        assert isinstance(rejected, RejectedFile)
        assert (rejected.path, rejected.is_folder) == ("a", True)
        assert good == ScannedFile(path="b")


def test_a_server_that_is_not_there_ends_the_walk() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        tree = open_tree(f"http://127.0.0.1:{free.getsockname()[1]}/d/")
        with pytest.raises(StorageError, match="cannot be listed"):
            list(tree.walk())


def test_a_server_that_breaks_off_is_an_error_and_not_the_end_of_the_file() -> None:
    files = {"/d/f": bytes(3_000_000)}
    with serving({}, files) as (url, _), open_tree(f"{url}/d").open("f") as stream:
        stream.read(10)
        del files["/d/f"]
        stream.seek(2_000_000)
        with pytest.raises(OSError, match="does not deliver"):
            stream.read(10)


def test_links_of_a_listing_that_lead_up_are_passed_over_and_entities_are_understood() -> None:
    pages = {
        "/d/": links("..", "./..", "../..", "./a/", "./"),
        "/d/a/": links("..", "../..", "../../..", "./x&amp;y", "x&#38;z", "x&notes"),
    }
    with serving(pages, {"/d/a/x&y": b"and"}) as (url, _):
        tree = open_tree(f"{url}/d")
        assert list(tree.walk()) == [ScannedFile(path=path) for path in ("a/x&notes", "a/x&y", "a/x&z")]
        assert read(tree, "a/x&y") == b"and"


def test_an_empty_file_of_a_web_server_is_empty() -> None:
    with serving({}, {"/d/f": b""}) as (url, _), open_tree(f"{url}/d").open("f") as stream:
        assert stream.status().size_bytes == 0
        assert stream.seek(0, os.SEEK_END) == 0
        assert stream.read() == b""
        assert stream.seek(5) == 5
        assert stream.read() == b""


def test_a_web_page_in_the_place_of_a_file_is_rejected() -> None:
    pages = {"/d/listed": links("x"), "/d/page.html": links("x")}
    files = {"/d/unnamed": b"\n<!DOCTYPE HTML PUBLIC><title>Listing of: /d</title>"}
    with serving(pages, files) as (url, _):
        tree = open_tree(f"{url}/d")
        for path in ("listed", "unnamed"):
            with pytest.raises(FileRejectedError, match="answers with a web page"):
                tree.open(path)
        assert not tree.exists("listed")
        assert read(tree, "page.html") == links("x").encode()


def test_a_server_that_ends_early_is_an_error_and_not_the_end_of_the_file() -> None:
    data = os.urandom(3_000_000)
    files = {"/d/f": data}
    with serving({}, files) as (url, _), open_tree(f"{url}/d").open("f") as stream:
        assert stream.read(10) == data[:10]
        files["/d/f"] = data[:1_000_000]
        with pytest.raises(OSError, match="storage"):
            stream.read()


# ---------------------------------------------------------------------------------------------- s3


class ObjectStore(Server):
    """Answers as an S3 service does, for one bucket called ``bucket``."""

    def _answer(self, *, has_body: bool) -> None:
        split = urlsplit(self.path)
        asked = parse_qs(split.query)
        if "list-type" in asked:
            listing = self._list(asked.get("prefix", [""])[0])
            self.pages[unquote(self.path)] = listing
        super()._answer(has_body=has_body)

    def _list(self, prefix: str) -> str:
        keys = [path.removeprefix("/bucket/") for path in self.files]
        below = [key[len(prefix) :] for key in keys if key.startswith(prefix)]
        folders = sorted({name.split("/")[0] for name in below if "/" in name})
        contents = "".join(
            f"<Contents><Key>{escape(prefix + name)}</Key><Size>{len(self.files[f'/bucket/{prefix}{name}'])}</Size>"
            "<LastModified>2020-02-03T04:05:06.000Z</LastModified><ETag>&quot;e&quot;</ETag></Contents>"
            for name in below
            if "/" not in name
        )
        common = "".join(
            f"<CommonPrefixes><Prefix>{escape(prefix + name)}/</Prefix></CommonPrefixes>" for name in folders
        )
        return (
            '<ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/"><Name>bucket</Name>'
            f"<Prefix>{escape(prefix)}</Prefix><IsTruncated>false</IsTruncated>{contents}{common}</ListBucketResult>"
        )


def test_an_object_store_is_walked_and_read_with_what_fsspec_is_configured_with(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from fsspec.config import conf

    data = os.urandom(1_000_000)
    names = ["run.x", "run/b", "run/a b", "run0", "run/deep/f", "run"]
    files = {f"/bucket/data/{name}": data for name in names} | {"/bucket/other/secret": b"x"}
    with serving({}, files, server=ObjectStore) as (url, _):
        monkeypatch.setitem(conf, "s3", {"endpoint_url": url, "anon": True})
        tree = open_tree("s3://bucket/data")
        found = list(tree.walk())
        assert found == [
            ScannedFile(path=path, size_bytes=len(data), modified_at=MODIFIED_AT)
            for path in sorted(names, key=str.encode)
        ]
        with tree.open("run/a b") as stream:
            before = stream.status()
            assert (before.size_bytes, before.modified_at) == (len(data), MODIFIED_AT)
            stream.seek(800_000)
            assert stream.read(100) == data[800_000:800_100]
            assert stream.status() == before
            files["/bucket/data/run/a b"] = data[:-1]
            assert stream.status() != before
        with pytest.raises(FileRejectedError):
            tree.open("../other/secret")


# --------------------------------------------------------------------------------------------------- sftp


@pytest.fixture
def sftp(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[SftpServer]:
    """Return a server of `tmp_path`, into which fsspec's configuration lets us."""
    from fsspec.config import conf
    from fsspec.implementations.sftp import SFTPFileSystem

    options = {"username": USER, "password": PASSWORD, "allow_agent": False, "look_for_keys": False}
    monkeypatch.setitem(conf, "sftp", options)
    with serving_sftp(tmp_path) as server:
        yield server
    SFTPFileSystem.clear_instance_cache()


def test_a_server_reached_by_ssh_is_walked_and_read(sftp: SftpServer, tmp_path: Path) -> None:
    data = os.urandom(300_000)
    for name in ("b/two", "b.x", "a b", "é"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(data)
    (tmp_path / "empty").touch()
    (tmp_path / "link").symlink_to("empty")
    for root in ("", "/"):
        tree = open_tree(f"sftp://127.0.0.1:{sftp.port}{root}")
        assert files_of(tree) == ["a b", "b.x", "b/two", "empty", "é"]
        assert [(found.path, found.reason) for found in rejections_of(tree)] == [
            ("link", "is no file: the storage calls it a link")
        ]
    folder = open_tree(f"sftp://127.0.0.1:{sftp.port}/b")
    assert [(found.path, found.size_bytes) for found in folder.walk() if isinstance(found, ScannedFile)] == [
        ("two", 300_000)
    ]
    assert read(folder, "two") == data
    assert read(tree, "empty") == b""
    with tree.open("é") as stream:
        assert stream.seek(-10, os.SEEK_END) == 299_990
        assert stream.read() == data[-10:]
    with pytest.raises(FileRejectedError, match="No such file"):
        tree.open("gone")


def test_bytes_that_come_by_ssh_come_once(sftp: SftpServer, tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(bytes(2_000_000))
    with open_tree(f"sftp://127.0.0.1:{sftp.port}/").open("f") as stream:
        while stream.read(1000):
            pass
    assert sftp.delivered_bytes < 2_300_000


# ------------------------------------------------------------------------------------------------- webdav


def test_what_a_storage_gives_no_kind_is_a_file() -> None:
    import fsspec
    from fsspec.implementations.memory import MemoryFileSystem

    class Untyped(MemoryFileSystem):  # type: ignore[misc]
        """Tells nothing of what is no folder, as WebDAV servers may."""

        protocol = "untyped"
        store: ClassVar[dict[str, object]] = {}

        @classmethod
        def _strip_protocol(cls, path: str) -> str:
            stripped: str = MemoryFileSystem._strip_protocol(path.removeprefix("untyped:/"))
            return stripped

        def ls(self, path: str, detail: bool = True, **options: object) -> list[dict[str, object]]:
            return [self._forget(entry) for entry in super().ls(path, detail=True, **options)]

        def info(self, path: str, **options: object) -> dict[str, object]:
            return self._forget(super().info(path, **options))

        @staticmethod
        def _forget(entry: dict[str, object]) -> dict[str, object]:
            return entry if entry["type"] == "directory" else {**entry, "type": None}

    fsspec.register_implementation("untyped", Untyped, clobber=True)
    Untyped().pipe("/d/e/f", b"data")
    tree = open_tree("untyped://d")
    assert files_of(tree) == ["e/f"]
    assert read(tree, "e/f") == b"data"
