"""What every tree has in common, and which one an address names."""

from pathlib import Path

import pytest

from extractors.errors import ReadLimitError, StorageError
from extractors.storages.local_tree import LocalTree
from extractors.storages.opening import open_tree
from extractors.storages.remote_tree import RemoteTree
from extractors.storages.trees import LimitedStream, printable


def test_the_root_says_which_tree_it_is(tmp_path: Path) -> None:
    assert open_tree(str(tmp_path)) == LocalTree(tmp_path)
    assert open_tree(f"file://{tmp_path}") == LocalTree(tmp_path)
    assert open_tree("memory://a") == RemoteTree("memory://a")


@pytest.mark.parametrize(
    "url",
    ["s3://key:hunter2@bucket/x", "https://u:hunter2@host/", "zip::https://u:hunter2@host/a.zip",
     "https://host/?token=hunter2", "https://[hunter2/"],
)  # fmt: skip
def test_an_address_with_a_secret_is_refused_without_repeating_it(url: str) -> None:
    with pytest.raises(StorageError) as caught:
        open_tree(url)
    assert "hunter2" not in str(caught.value)
    assert caught.value.__cause__ is None


def test_a_file_address_of_another_host_is_refused() -> None:
    with pytest.raises(StorageError, match="no folder of this computer"):
        open_tree("file://host/data")


def test_an_unknown_kind_of_address_is_told_when_it_is_used() -> None:
    with pytest.raises(StorageError, match="not installed"):
        list(open_tree("nosuchprotocol://x/y").walk())


# --------------------------------------------------------------------------------------- limited streams


def test_a_limited_stream_delivers_as_much_as_allowed_and_no_more(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(bytes(100_000))
    tree = LocalTree(tmp_path)
    with tree.open("f") as stream:
        limited = LimitedStream(stream, 50_000)
        assert limited.status() == stream.status()
        assert len(limited.read(50_000)) == 50_000
        with pytest.raises(ReadLimitError, match="more than the allowed 50000 bytes"):
            limited.read(1)
    with tree.open("f") as stream:
        assert len(LimitedStream(stream, 100_000).read()) == 100_000
    with tree.open("f") as stream:
        limited = LimitedStream(stream, 20_000)
        limited.seek(90_000)
        assert len(limited.read(10)) == 10


def test_reading_again_counts_again(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(bytes(100_000))
    with LocalTree(tmp_path).open("f") as stream:
        limited = LimitedStream(stream, 150_000)
        limited.read()
        limited.seek(0)
        with pytest.raises(ReadLimitError):
            limited.read()


def test_closing_a_limited_stream_leaves_the_stream_open(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"abc")
    with LocalTree(tmp_path).open("f") as stream:
        LimitedStream(stream, 10).close()
        assert stream.read() == b"abc"


# ------------------------------------------------------------------------------------------------- names


def test_names_are_shown_with_bytes_that_are_not_utf8() -> None:
    assert printable("é\udcff") == r"é\xff"
