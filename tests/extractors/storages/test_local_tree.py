"""Folders as trees: nothing outside, nothing special, nothing written; in byte order."""

import io
import os
import pickle
import socket
import stat
import threading
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from extractors.errors import FileRejectedError, StorageError
from extractors.storages.local_tree import LocalTree
from extractors.storages.trees import RejectedFile, ScannedFile
from tests.support.trees import NAMES, files_of, read, rejections_of

MODIFIED_AT = datetime(2020, 2, 3, 4, 5, 6, tzinfo=UTC)


@pytest.fixture
def storage(tmp_path: Path) -> Path:
    """Return a storage with two good files, a link to one of them, and everything that must be rejected."""
    root = tmp_path / "storage"
    (root / "b").mkdir(parents=True)
    (root / "b" / "two").write_text("2")
    (root / "one").write_text("1")
    (tmp_path / "secret").write_text("secret")
    (tmp_path / "storage-other").mkdir()
    (tmp_path / "storage-other" / "secret").write_text("secret")
    (root / "inside").symlink_to("b/two")
    (root / "outside").symlink_to(tmp_path / "secret")
    (root / "neighbour").symlink_to("../storage-other/secret")
    (root / "nowhere").symlink_to("gone")
    (root / "ring").symlink_to("ring")
    (root / "folder-link").symlink_to("b")
    (root / "upwards").symlink_to("..")
    (root / "device").symlink_to("/dev/null")
    os.mkfifo(root / "fifo")
    (root / "bad\nname").write_text("x")
    Path(os.fsdecode(os.fsencode(root) + b"/\xff\xfe")).write_text("x")
    return root


def test_good_files_are_found_in_byte_order_of_the_whole_path(storage: Path) -> None:
    (storage / "b.x").write_text("between b and b/")
    (storage / "b0").write_text("after b/")
    assert files_of(LocalTree(storage)) == ["b.x", "b/two", "b0", "inside", "one"]


def test_size_and_time_are_those_of_the_file_also_behind_a_link(storage: Path) -> None:
    os.utime(storage / "b" / "two", (0, MODIFIED_AT.timestamp()))
    found = {one.path: one for one in LocalTree(storage).walk() if isinstance(one, ScannedFile)}
    for path in ("b/two", "inside"):
        assert found[path] == ScannedFile(path=path, size_bytes=1, modified_at=MODIFIED_AT)


def test_a_time_that_no_record_can_hold_is_unknown(tmp_path: Path) -> None:
    (tmp_path / "f").write_text("x")
    os.utime(tmp_path / "f", (0, -62135596800))  # year 1, as far as the file system goes along
    (found,) = LocalTree(tmp_path).walk()
    assert isinstance(found, ScannedFile)
    assert found.modified_at is None or found.modified_at.year > 1


def test_everything_else_is_rejected_with_its_reason(storage: Path) -> None:
    rejected = rejections_of(LocalTree(storage))
    assert not any(found.is_folder for found in rejected)
    reasons = {found.path: found.reason for found in rejected}
    assert reasons.pop("nowhere").startswith("leads nowhere")
    assert reasons.pop("ring").startswith("leads nowhere")
    assert reasons.pop("folder-link").startswith("is a folder or a link to one")
    assert reasons == {
        "outside": "leads out of the storage by a symbolic link",
        "neighbour": "leads out of the storage by a symbolic link",
        "upwards": "leads out of the storage by a symbolic link",
        "device": "leads out of the storage by a symbolic link",
        "fifo": "is a FIFO",
        "bad\nname": "path holds a control character",
        r"\xff\xfe": "the name is not UTF-8",
    }


def test_the_count_is_that_of_the_walk(storage: Path) -> None:
    assert LocalTree(storage).count() == len(list(LocalTree(storage).walk()))


@given(st.lists(st.lists(NAMES, min_size=1, max_size=4), max_size=12))
@settings(deadline=None, max_examples=60)
def test_the_walk_is_in_the_order_of_the_bytes_of_the_paths(paths: list[list[str]]) -> None:
    with TemporaryDirectory() as name:
        made = set()
        for parts in paths:
            place = Path(name, *parts)
            try:
                place.parent.mkdir(parents=True, exist_ok=True)
                place.write_text("x")
            except OSError:
                continue  # a file is where a folder should be, or the other way round
            made.add("/".join(parts))
        assert files_of(LocalTree(Path(name))) == sorted(made, key=str.encode)
        assert LocalTree(Path(name)).count() == len(made)


def test_a_root_that_is_a_link_is_walked(storage: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(storage)
    tree = LocalTree(tmp_path / "link")
    assert "b/two" in files_of(tree)
    assert read(tree, "b/two") == b"2"


def test_a_root_that_is_a_link_may_move_on(tmp_path: Path) -> None:
    for release in ("first", "second"):
        (tmp_path / release).mkdir()
        (tmp_path / release / "f").write_text(release)
    (tmp_path / "latest").symlink_to("first")
    tree = LocalTree(tmp_path / "latest")
    assert read(tree, "f") == b"first"
    (tmp_path / "latest").unlink()
    (tmp_path / "latest").symlink_to("second")
    assert files_of(tree) == ["f"]


def test_a_root_that_is_not_there_ends_the_walk(tmp_path: Path) -> None:
    tree = LocalTree(tmp_path / "gone")
    with pytest.raises(StorageError, match="No such file"):
        list(tree.walk())
    with pytest.raises(StorageError, match="No such file"):
        tree.count()


def test_a_path_that_is_too_long_is_rejected_as_a_folder(tmp_path: Path) -> None:
    folder = tmp_path
    for _ in range(6):
        folder = folder / ("d" * 200)
        folder.mkdir()
    (folder / "f").write_text("x")
    (found,) = LocalTree(tmp_path).walk()
    assert isinstance(found, RejectedFile)
    assert found.is_folder
    assert "1024 are allowed" in found.reason


@pytest.mark.parametrize("name", [b"\xff", b"a\nb"], ids=["bytes", "newline"])
def test_a_folder_of_unspeakable_name_is_one_rejection(tmp_path: Path, name: bytes) -> None:
    folder = Path(os.fsdecode(os.fsencode(tmp_path) + b"/" + name))
    folder.mkdir()
    (folder / "f").write_text("x")
    (found,) = LocalTree(tmp_path).walk()
    assert isinstance(found, RejectedFile)
    assert found.is_folder


def test_a_folder_that_is_swapped_for_a_link_during_the_walk_is_not_entered(tmp_path: Path) -> None:
    (tmp_path / "outside" / "b").mkdir(parents=True)
    (tmp_path / "outside" / "b" / "secret").write_text("x")
    (tmp_path / "storage" / "b").mkdir(parents=True)
    (tmp_path / "storage" / "a").write_text("x")
    walk = LocalTree(tmp_path / "storage").walk()
    assert isinstance(next(walk), ScannedFile)
    (tmp_path / "storage" / "b").rmdir()
    (tmp_path / "storage" / "b").symlink_to(tmp_path / "outside" / "b")
    (found,) = walk
    assert isinstance(found, RejectedFile)
    assert found.is_folder
    assert found.path == "b"


def test_a_walk_that_is_given_up_leaves_nothing_open(storage: Path) -> None:
    before = len(os.listdir("/proc/self/fd"))
    walk = LocalTree(storage).walk()
    next(walk)
    assert len(os.listdir("/proc/self/fd")) > before
    walk.close()  # type: ignore[attr-defined]
    assert len(os.listdir("/proc/self/fd")) == before


@pytest.mark.parametrize(
    "path",
    ["outside", "neighbour", "upwards", "upwards/secret", "device", "../secret", "/etc/passwd", "b", "folder-link",
     "fifo", "gone", "one/x", "", "b/../one", "a\0", "\udcff\udcfe"],
)  # fmt: skip
def test_only_regular_files_below_the_root_are_opened(storage: Path, path: str) -> None:
    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(FileRejectedError):
        LocalTree(storage).open(path)
    assert not LocalTree(storage).exists(path)
    assert len(os.listdir("/proc/self/fd")) == before


def test_files_behind_links_that_stay_inside_are_opened(storage: Path) -> None:
    tree = LocalTree(storage)
    assert read(tree, "inside") == b"2"
    assert read(tree, "folder-link/two") == b"2"
    assert tree.exists("folder-link/two")


def test_a_folder_that_is_swapped_for_a_link_out_is_noticed_at_once(storage: Path, tmp_path: Path) -> None:
    tree = LocalTree(storage)
    assert read(tree, "b/two") == b"2"
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "two").write_text("outside")
    (storage / "b").rename(storage / "c")
    (storage / "b").symlink_to(tmp_path / "b")
    with pytest.raises(FileRejectedError, match="leads out of the storage"):
        tree.open("b/two")


def test_swapping_links_under_the_reader_never_opens_anything_outside(storage: Path, tmp_path: Path) -> None:
    tree = LocalTree(storage)
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "two").write_text("outside")
    (storage / "in").symlink_to("b")
    (storage / "out").symlink_to(tmp_path / "b")
    is_over = threading.Event()

    def swap() -> None:
        while not is_over.is_set():
            for target in ("in", "out"):
                (storage / "next").symlink_to(os.readlink(storage / target))
                (storage / "next").rename(storage / "swapped")

    swapper = threading.Thread(target=swap)
    swapper.start()
    seen = set()
    try:
        for _ in range(2000):
            try:
                seen.add(read(tree, "swapped/two"))
            except FileRejectedError:
                seen.add(b"rejected")
    finally:
        is_over.set()
        swapper.join()
    assert seen == {b"2", b"rejected"}


def test_a_socket_is_not_opened(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "s"))
        with pytest.raises(FileRejectedError, match="is a socket"):
            LocalTree(tmp_path).open("s")


def test_an_opened_file_cannot_be_written(storage: Path) -> None:
    with LocalTree(storage).open("one") as stream:
        assert not stream.writable()
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.write(stream.fileno(), b"x")


def test_the_status_tells_when_the_bytes_changed(storage: Path) -> None:
    with LocalTree(storage).open("one") as stream:
        before = stream.status()
        assert before.size_bytes == 1
        assert stream.status() == before
        assert hash(stream.status()) == hash(before)
        os.utime(storage / "one", ns=(0, 1))
        assert stream.status() != before


@given(
    st.lists(st.sampled_from(["..", ".", "b", "two", "one", "upwards", "outside", "", "storage", "secret"]), max_size=6)
)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
def test_no_path_opens_a_file_outside(storage: Path, parts: list[str]) -> None:
    with suppress(FileRejectedError):
        assert read(LocalTree(storage), "/".join(parts)) in (b"1", b"2")


def test_paths_are_understood_absolute_and_from_the_current_folder(
    storage: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(storage / "b")
    assert LocalTree(storage).path_below(os.fsencode(storage / "one")) == "one"
    assert LocalTree(storage).path_below(b"two") == "b/two"
    assert LocalTree(Path("..")).path_below(b"../one") == "one"


@pytest.mark.parametrize(
    ("path", "reason"),
    [(b"/etc/passwd", "is not below"), (b"\xff", "not UTF-8"), (b"", "empty"), (b"a\0b", "NUL")],
    ids=["elsewhere", "bytes", "empty", "nul"],
)
def test_other_paths_are_rejected(storage: Path, path: bytes, reason: str) -> None:
    with pytest.raises(FileRejectedError, match=reason):
        LocalTree(storage).path_below(path)


def test_a_tree_can_be_sent_to_another_process(storage: Path) -> None:
    tree = LocalTree(storage)
    read(tree, "one")
    assert pickle.loads(pickle.dumps(tree)) == tree
    assert read(pickle.loads(pickle.dumps(tree)), "one") == b"1"


def test_opened_files_are_buffered_readers(storage: Path) -> None:
    with LocalTree(storage).open("one") as stream:
        assert isinstance(stream, io.BufferedReader)
        assert stat.S_ISREG(os.fstat(stream.fileno()).st_mode)
