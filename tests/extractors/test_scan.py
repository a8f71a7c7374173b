"""Walking and opening: nothing outside the storage, nothing special, nothing written."""

import os
import socket
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from extractors.errors import FileRejectedError
from extractors.scan import RejectedFile, ScannedFile, count_files, open_file, path_below, walk


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
    os.mkfifo(root / "fifo")
    (root / "bad\nname").write_text("x")
    Path(os.fsdecode(os.fsencode(root) + b"/\xff\xfe")).write_text("x")
    return root


def test_good_files_are_found_in_order(storage: Path) -> None:
    assert [found.path for found in walk(storage) if isinstance(found, ScannedFile)] == ["inside", "one", "b/two"]


def test_everything_else_is_rejected_with_its_reason(storage: Path) -> None:
    reasons = {found.path: found.reason for found in walk(storage) if isinstance(found, RejectedFile)}
    assert reasons.pop("nowhere").startswith("leads nowhere")
    assert reasons.pop("ring").startswith("leads nowhere")
    assert reasons.pop("folder-link").startswith("is a folder or a link to one")
    assert reasons == {
        "outside": "leads out of the storage by a symbolic link",
        "neighbour": "leads out of the storage by a symbolic link",
        "upwards": "leads out of the storage by a symbolic link",
        "fifo": "is a FIFO",
        "bad\nname": "path holds a control character",
        r"\xff\xfe": "the name is not UTF-8",
    }


def test_the_count_is_that_of_the_walk(storage: Path) -> None:
    assert count_files(storage) == len(list(walk(storage)))


def test_a_root_that_is_a_link_is_walked(storage: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(storage)
    assert ScannedFile(path="b/two") in list(walk(tmp_path / "link"))
    with open_file(tmp_path / "link", "b/two") as stream:
        assert stream.read() == b"2"


def test_a_root_that_is_not_there_ends_the_walk(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        list(walk(tmp_path / "gone"))


def test_a_path_that_is_too_long_is_rejected(tmp_path: Path) -> None:
    folder = tmp_path
    for _ in range(6):
        folder = folder / ("d" * 200)
        folder.mkdir()
    (folder / "f").write_text("x")
    (found,) = walk(tmp_path)
    assert isinstance(found, RejectedFile)
    assert "1024 are allowed" in found.reason


@pytest.mark.parametrize(
    "path", ["outside", "neighbour", "upwards", "../secret", "/etc/passwd", "b", "fifo", "gone", "", "b/../one", "a\0"]
)
def test_only_regular_files_below_the_root_are_opened(storage: Path, path: str) -> None:
    with pytest.raises(FileRejectedError):
        open_file(storage, path)


def test_a_socket_is_not_opened(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "s"))
        with pytest.raises(FileRejectedError):
            open_file(tmp_path, "s")


def test_an_opened_file_cannot_be_written(storage: Path) -> None:
    with open_file(storage, "one") as stream:
        assert not stream.writable()
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.write(stream.fileno(), b"x")


@given(
    st.lists(st.sampled_from(["..", ".", "b", "two", "one", "upwards", "outside", "", "storage", "secret"]), max_size=6)
)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
def test_no_path_opens_a_file_outside(storage: Path, parts: list[str]) -> None:
    try:
        with open_file(storage, "/".join(parts)) as stream:
            assert stream.read() in (b"1", b"2")
    except FileRejectedError:
        pass


def test_paths_are_understood_absolute_and_from_the_current_folder(
    storage: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(storage / "b")
    assert path_below(storage, os.fsencode(storage / "one")) == "one"
    assert path_below(storage, b"two") == "b/two"
    assert path_below(Path(".."), b"../one") == "one"


@pytest.mark.parametrize(
    ("path", "reason"),
    [(b"/etc/passwd", "is not below"), (b"\xff", "not UTF-8"), (b"", "empty"), (b"a\0b", "NUL")],
    ids=["elsewhere", "bytes", "empty", "nul"],
)
def test_other_paths_are_rejected(storage: Path, path: bytes, reason: str) -> None:
    with pytest.raises(FileRejectedError, match=reason):
        path_below(storage, path)
