"""Following a storage: the catalogue becomes what the storage is, whatever is done to it meanwhile."""

import os
import shutil
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, Self
from urllib.parse import urlsplit

import pytest

from extractors.client import Client
from extractors.courier import IngestReport
from extractors.extract import Extractor
from extractors.following import Follower
from extractors.ingest import ScanOptions, register
from extractors.loading import find_description
from extractors.storages.local_tree import LocalTree
from extractors.storages.watching import Closed, Lost, Quiet, Report, Vanished, Watcher
from metadata_db.records import KnownFile, Storage

Api = Any
Make = dict[str, Callable[..., None]]


class Gate:
    """Forwards connections to a server as long as it is open."""

    def __init__(self, url: str) -> None:
        self._target = (urlsplit(url).hostname, urlsplit(url).port)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._connections: list[socket.socket] = []
        self.is_open = True
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.shut()

    def shut(self) -> None:
        """Refuse connections, and break those that there are."""
        self.is_open = False
        for connection in self._connections:
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
            connection.close()
        self._connections.clear()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                inner, _ = self._listener.accept()
                if not self.is_open:
                    inner.close()
                    continue
                outer = socket.create_connection(self._target)
                self._connections += [inner, outer]
                for source, target in ((inner, outer), (outer, inner)):
                    threading.Thread(target=_forward, args=(source, target), daemon=True).start()


def _forward(source: socket.socket, target: socket.socket) -> None:
    with suppress(OSError):
        while data := source.recv(65536):
            target.sendall(data)
        target.shutdown(socket.SHUT_WR)


class Following:
    """A follower at work, and what the catalogue knows meanwhile."""

    def __init__(self, root: Path, client: Client) -> None:
        self.root = root
        self.client = client
        self.sizes: dict[str, set[int]] = {}
        """Every size with which a path was ever catalogued, as far as it was looked at."""

    def known(self) -> dict[str, KnownFile]:
        found = {file.path: file for file in self.client.iter_files("s")}
        for file in found.values():
            self.sizes.setdefault(file.path, set()).add(file.size_bytes)
        return found

    def letters(self) -> dict[str | None, str]:
        return {letter.path: letter.reason for letter in self.client.iter_failures(storage="s")}

    def wait_for(self, condition: Callable[[], bool], limit_s: float = 30) -> None:
        deadline = time.monotonic() + limit_s
        while not condition():
            assert time.monotonic() < deadline, (self.known().keys(), self.letters())
            time.sleep(0.05)

    def wait_for_paths(self, *paths: str) -> None:
        self.wait_for(lambda: self.known().keys() == set(paths))


@pytest.fixture
def gate(real: Api) -> Iterator[Gate]:
    with Gate(real.url) as gate:
        yield gate


@pytest.fixture
def root(tmp_path: Path) -> Path:
    root = tmp_path / "watched"
    (root / "old").mkdir(parents=True)
    (root / "old" / "one.txt").write_text("1")
    return root


def make_extractor(root: Path) -> Extractor:
    return Extractor(tree=LocalTree(root), facility="aurora", storage="s", description=find_description("aurora"))


@pytest.fixture
def client(real: Api, root: Path) -> Iterator[Client]:
    with Client(real.url, real.token) as client:
        place = Storage(name="s", root=str(root), facility="aurora")
        register(client, description=find_description("aurora"), facility="aurora", storage=place)
        yield client


@pytest.fixture
def following(
    real: Api, gate: Gate, root: Path, client: Client, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Following]:
    """Return a follower that has scanned the storage and goes on."""
    monkeypatch.setattr("extractors.following.AWAY_S", 0.3)
    monkeypatch.setattr("extractors.following.MAX_WAIT_S", 0.3)
    options = ScanOptions(processes=1)
    with (
        Client(gate.url, real.token, attempts=1) as mine,
        Watcher(root, quiet_s=0.1) as watcher,
        Follower(make_extractor(root), mine, options=options, settle_s=1.0) as follower,
    ):
        thread = threading.Thread(target=follower.run, args=(watcher,))
        thread.start()
        following = Following(root, client)
        following.wait_for_paths("old/one.txt")
        yield following
        watcher.stop()
        thread.join(30)
        assert not thread.is_alive()


def test_files_and_folders_come_move_and_go(following: Following, tmp_path: Path) -> None:
    root = following.root
    (root / "two.txt").write_text("2")
    (root / "deep" / "er").mkdir(parents=True)
    (root / "deep" / "er" / "three.txt").write_text("3")
    (tmp_path / "beside.txt").write_text("4")
    (tmp_path / "beside.txt").rename(root / "four.txt")
    following.wait_for_paths("old/one.txt", "two.txt", "deep/er/three.txt", "four.txt")
    (root / "two.txt").rename(root / "zwei.txt")
    (root / "four.txt").unlink()
    following.wait_for_paths("old/one.txt", "zwei.txt", "deep/er/three.txt")
    (root / "deep").rename(tmp_path / "outside")
    following.wait_for_paths("old/one.txt", "zwei.txt")
    (tmp_path / "outside").rename(root / "back")
    following.wait_for_paths("old/one.txt", "zwei.txt", "back/er/three.txt")
    shutil.rmtree(root / "back")
    following.wait_for_paths("old/one.txt", "zwei.txt")


def test_a_file_is_catalogued_when_it_is_closed_and_never_by_half(
    following: Following, make: Make, tmp_path: Path
) -> None:
    make["aurora"](tmp_path / "whole.fits")
    content = (tmp_path / "whole.fits").read_bytes()
    path = "north/2020/01/20200101/aurora_000041_dl3.fits"
    (following.root / path).parent.mkdir(parents=True)
    time.sleep(0.5)
    with (following.root / path).open("wb", buffering=0) as file:
        for at in range(0, len(content), 4000):
            file.write(content[at : at + 4000])
            time.sleep(0.2)
            following.known()
        assert path not in following.known()
    following.wait_for_paths("old/one.txt", path)
    assert following.sizes[path] == {len(content)}
    assert following.known()[path].description is not None
    assert following.letters() == {}


def test_a_file_that_is_written_again_gets_a_new_version(following: Following) -> None:
    with (following.root / "old" / "one.txt").open("a") as file:
        file.write("more")
    following.wait_for(lambda: following.known()["old/one.txt"].size_bytes == 5)


def test_what_happened_while_the_catalogue_was_away_is_caught_up(following: Following, gate: Gate) -> None:
    gate.shut()
    (following.root / "old" / "one.txt").unlink()
    (following.root / "two.txt").write_text("2")
    time.sleep(1.0)
    (following.root / "three.txt").write_text("3")
    assert following.known().keys() == {"old/one.txt"}
    gate.is_open = True
    # An emptied storage would be taken for one that is away, but two files are there.
    following.wait_for_paths("two.txt", "three.txt")


def test_what_may_not_be_catalogued_is_told_and_ends_nothing(following: Following, tmp_path: Path) -> None:
    root = following.root
    os.mkfifo(root / "fifo")
    (root / "link").symlink_to("/etc/passwd")
    odd = [root / "bad\nname", Path(os.fsdecode(os.fsencode(root) + b"/\xff"))]
    for path in odd:
        path.write_text("x")
    damaged = "north/2020/01/20200101/aurora_000099_dl3.fits"
    (root / damaged).parent.mkdir(parents=True)
    (root / damaged).write_bytes(b"damaged")
    following.wait_for(lambda: len(following.letters()) == 5)
    letters = following.letters()
    assert damaged in letters
    assert letters["fifo"] == "is a FIFO"
    assert "leads out of the storage" in letters["link"]
    assert "control character" in letters["bad\\nname"]
    assert letters[r"\xff"] == "the name is not UTF-8"
    for path in odd:
        path.unlink()
    (root / "link").unlink()
    (root / "last.txt").write_text("still there")
    following.wait_for(lambda: "last.txt" in following.known())


def test_a_file_that_fails_and_is_mended_has_no_letter_any_more(
    following: Following, make: Make, tmp_path: Path
) -> None:
    path = following.root / "north" / "2020" / "01" / "20200101" / "aurora_000041_dl3.fits"
    path.parent.mkdir(parents=True)
    path.write_bytes(b"SIMPLE  = damaged")
    following.wait_for(lambda: len(following.letters()) == 1)
    make["aurora"](tmp_path / "whole.fits")
    (tmp_path / "whole.fits").rename(path)
    following.wait_for(lambda: following.letters() == {})


# ------------------------------------------------------------------------------------------ told what to hear


def follow(root: Path, client: Client, reports: list[Report], scan_every_s: float = 3600.0) -> list[IngestReport]:
    """Follow made-up news, and return what came of each batch and scan."""
    told: list[IngestReport] = []
    with Follower(
        make_extractor(root),
        client,
        options=ScanOptions(processes=1),
        scan_every_s=scan_every_s,
        settle_s=0.0,
        on_batch=told.append,
    ) as follower:
        follower.run(reports)  # type: ignore[arg-type]
    return told


def test_lost_news_are_made_good_by_a_scan(root: Path, client: Client) -> None:
    def reports() -> Iterator[Report]:
        (root / "unheard.txt").write_text("x")
        yield Lost(path="", reason="more happened than the kernel could keep")
        yield Quiet()

    first, second = follow(root, client, reports())
    assert (first.added, second.added, second.same) == (1, 1, 1)


def test_the_storage_has_the_last_word_about_what_is_there(root: Path, client: Client) -> None:
    (root / "back.txt").write_text("x")
    _, report = follow(root, client, [Closed(path="gone.txt"), Vanished(path="back.txt"), Quiet()])
    assert (report.seen, report.unchanged, report.removed, report.failed) == (2, 1, 0, 0)


def test_news_of_a_folder_that_went_and_came_back_removes_nothing(root: Path, client: Client) -> None:
    _, report = follow(root, client, [Vanished(path="old", is_folder=True), Quiet()])
    assert report.removed == 0
    assert [file.path for file in client.iter_files("s")] == ["old/one.txt"]
