"""Copies against the catalogue's word, while the source holds still and while it does not."""

import hashlib
import threading
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest

from aggregator.errors import BufferFullError, StagingError
from aggregator.staging.buffer import LocalFileBuffer
from aggregator.staging.copying import Copier, CopyStoppedError
from aggregator.staging.mounts import GlobalMountPoint, StorageDownError
from metadata_db.members import Member, Place

LARGE = 96 * 1024**2


@pytest.fixture
def buffer(tmp_path: Path) -> LocalFileBuffer:
    made = LocalFileBuffer(tmp_path / "buffer")
    made.prepare()
    return made


@pytest.fixture
def copier(buffer: LocalFileBuffer) -> Copier:
    return Copier(GlobalMountPoint(), buffer)


def member(*paths: Path, size: int, sha256: str | None = None, md5: str | None = None) -> Member:
    places = tuple(
        Place(storage=path.parent.name, root=str(path.parent), path=path.name, kind="local", enabled=True)
        for path in paths
    )
    return Member(
        file_id=1,
        facility="aurora",
        storage=places[0].storage,
        path=places[0].path,
        size_bytes=size,
        sha256=sha256,
        md5=md5,
        licence=None,
        places=places,
    )


def put(tmp_path: Path, name: str, content: bytes) -> Path:
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(content)
    return path


def incoming(buffer: LocalFileBuffer) -> list[Path]:
    return list((buffer.root / "objects" / ".incoming").iterdir())


def test_one_pass_gives_size_and_all_digests(tmp_path: Path, copier: Copier, buffer: LocalFileBuffer) -> None:
    content = bytes(range(256)) * 10_000
    stored = copier.fetch(member(put(tmp_path, "disk/a", content), size=len(content)), None, threading.Event())
    assert stored.size_bytes == len(content)
    assert stored.sha256 == hashlib.sha256(content).hexdigest()
    assert stored.md5 == hashlib.md5(content).hexdigest()
    assert stored.crc32 == zlib.crc32(content)
    path = buffer.object_path(stored.sha256)
    assert path.read_bytes() == content
    assert path.stat().st_mode & 0o777 == 0o444
    assert incoming(buffer) == []


@pytest.mark.parametrize(
    ("wrong", "expected"),
    [
        ({"size": 4}, "size is 5, catalogued as 4"),
        ({"size": 5, "sha256": "0" * 64}, "sha256 differs from the catalogue: changed since it was catalogued"),
        ({"size": 5, "md5": "0" * 32}, "md5 differs from the catalogue: changed since it was catalogued"),
    ],
)
def test_what_differs_from_the_catalogue_is_not_kept(
    tmp_path: Path, copier: Copier, buffer: LocalFileBuffer, wrong: dict[str, object], expected: str
) -> None:
    asked = member(put(tmp_path, "disk/a", b"bytes"), **wrong)  # type: ignore[arg-type]
    with pytest.raises(StagingError) as caught:
        copier.fetch(asked, None, threading.Event())
    assert caught.value.reason == expected
    assert incoming(buffer) == []
    assert not buffer.object_path(hashlib.sha256(b"bytes").hexdigest()).exists()


def test_every_place_is_tried_and_every_reason_told(tmp_path: Path, copier: Copier) -> None:
    first, second = put(tmp_path, "disk/a", b"wrong size"), tmp_path / "mirror" / "b"
    put(tmp_path, "mirror/other", b"")
    with pytest.raises(StagingError) as caught:
        copier.fetch(member(first, second, size=4), None, threading.Event())
    assert caught.value.reason == "disk/a: size is 10, catalogued as 4; mirror/b: not found"


def test_a_place_that_is_down_is_worth_another_try_unless_another_delivers(tmp_path: Path, copier: Copier) -> None:
    good, away, wrong = put(tmp_path, "disk/a", b"good"), tmp_path / "away" / "a", put(tmp_path, "bad/a", b"bad")
    assert copier.fetch(member(away, good, size=4), None, threading.Event()).size_bytes == 4
    with pytest.raises(StorageDownError, match="storage away"):
        copier.fetch(member(away, wrong, size=4), None, threading.Event())


def test_what_the_store_has_is_not_read_again(tmp_path: Path, copier: Copier, buffer: LocalFileBuffer) -> None:
    source = put(tmp_path, "disk/a", b"content")
    asked = member(source, size=7, sha256=hashlib.sha256(b"content").hexdigest())
    stored = copier.fetch(asked, None, threading.Event())
    before = buffer.object_path(stored.sha256).stat()
    source.unlink()
    assert copier.fetch(asked, stored, threading.Event()) == stored
    assert copier.fetch(asked, None, threading.Event()) == stored, "unrecorded, so it is read in the store"
    assert buffer.object_path(stored.sha256).stat() == before


def test_an_unrecorded_content_that_is_damaged_is_fetched_again(
    tmp_path: Path, copier: Copier, buffer: LocalFileBuffer
) -> None:
    digest = hashlib.sha256(b"content").hexdigest()
    put(tmp_path, "disk/a", b"content")
    buffer.object_path(digest).parent.mkdir()
    buffer.object_path(digest).write_bytes(b"c0ntent")
    copier.fetch(member(tmp_path / "disk" / "a", size=7, sha256=digest), None, threading.Event())
    assert buffer.object_path(digest).read_bytes() == b"content"


def append(path: Path) -> None:
    with path.open("ab") as stream:
        stream.write(b"more")


def rewrite(path: Path) -> None:
    with path.open("r+b") as stream:
        stream.write(b"other")


def cut(path: Path) -> None:
    with path.open("r+b") as stream:
        stream.truncate(LARGE // 2)


@pytest.mark.parametrize("change", [append, rewrite, cut])
def test_a_file_that_changes_while_it_is_copied_is_refused(
    tmp_path: Path, copier: Copier, buffer: LocalFileBuffer, change: Callable[[Path], None]
) -> None:
    source = put(tmp_path, "disk/a", b"")
    with source.open("r+b") as stream:
        stream.truncate(LARGE)

    def change_when_under_way() -> None:
        while not any(path.stat().st_size for path in incoming(buffer)):
            pass
        change(source)

    changing = threading.Thread(target=change_when_under_way)
    changing.start()
    with pytest.raises(StagingError, match="changed while it was copied"):
        copier.fetch(member(source, size=LARGE), None, threading.Event())
    changing.join()
    assert incoming(buffer) == []


def test_a_copy_stops_when_told(tmp_path: Path, copier: Copier, buffer: LocalFileBuffer) -> None:
    stop = threading.Event()
    stop.set()
    with pytest.raises(CopyStoppedError):
        copier.fetch(member(put(tmp_path, "disk/a", b"content"), size=7), None, stop)
    assert incoming(buffer) == []


def test_a_full_disk_is_told_as_such(tmp_path: Path, buffer: LocalFileBuffer) -> None:
    with pytest.raises(BufferFullError, match="full"), buffer.receive(), Path("/dev/full").open("wb", 0) as full:
        full.write(b"x")
    assert incoming(buffer) == []
