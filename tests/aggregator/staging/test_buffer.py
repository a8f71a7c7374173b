"""The local file buffer: what it keeps, what it clears, and what it refuses to be."""

import fcntl
import hashlib
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from aggregator.errors import BufferFullError, StagingError
from aggregator.staging.buffer import BufferUnusableError, LocalFileBuffer

EXPORT = "0" * 32


@pytest.fixture
def buffer(tmp_path: Path) -> LocalFileBuffer:
    made = LocalFileBuffer(tmp_path / "buffer")
    made.prepare()
    return made


def store(buffer: LocalFileBuffer, content: bytes) -> str:
    digest = hashlib.sha256(content).hexdigest()
    with buffer.receive() as target:
        target.write(content)
        buffer.store(target, digest)
    return digest


def test_an_export_holds_the_stored_content_itself(buffer: LocalFileBuffer) -> None:
    digest = store(buffer, b"content")
    for export_id in (EXPORT, "1" * 32):
        buffer.link(export_id, "disk/a", digest)
    with buffer.open_file(EXPORT, "disk/a") as found:
        assert found.read() == b"content"
    assert buffer.object_path(digest).stat().st_nlink == 3


def test_storing_and_linking_again_changes_nothing(buffer: LocalFileBuffer) -> None:
    digest = store(buffer, b"content")
    buffer.link(EXPORT, "disk/a", digest)
    before = buffer.object_path(digest).stat()
    assert store(buffer, b"content") == digest
    buffer.link(EXPORT, "disk/a", digest)
    assert buffer.object_path(digest).stat() == before


def test_a_content_cut_short_by_a_crash_is_replaced(buffer: LocalFileBuffer) -> None:
    digest = store(buffer, b"content")
    buffer.discard(digest)
    buffer.object_path(digest).write_bytes(b"con")
    store(buffer, b"content")
    assert buffer.object_path(digest).read_bytes() == b"content"


def test_a_link_to_an_older_content_is_replaced_whole(buffer: LocalFileBuffer) -> None:
    buffer.link(EXPORT, "disk/a", store(buffer, b"old"))
    buffer.link(EXPORT, "disk/a", store(buffer, b"new"))
    assert (buffer.export_path(EXPORT) / "files/disk/a").read_bytes() == b"new"


def test_a_file_where_another_needs_a_folder_is_refused(buffer: LocalFileBuffer) -> None:
    digest = store(buffer, b"content")
    buffer.link(EXPORT, "disk/a", digest)
    buffer.link(EXPORT, "disk/b/c", digest)
    for path in ("disk/a/deeper", "disk/b"):
        with pytest.raises(StagingError, match="a path in its way"):
            buffer.link(EXPORT, path, digest)


@pytest.mark.long
def test_more_links_than_the_file_system_allows_are_made_all_the_same(buffer: LocalFileBuffer) -> None:
    digest = store(buffer, b"")
    for number in range(65_100):
        buffer.link(EXPORT, f"disk/{number}", digest)
    assert sum(1 for _ in (buffer.export_path(EXPORT) / "files/disk").iterdir()) == 65_100


HOLD = """
import sys, time
from pathlib import Path
from aggregator.staging.buffer import LocalFileBuffer
with LocalFileBuffer(Path(sys.argv[1])).receive() as target:
    target.write(b"half")
    print("ready", flush=True)
    time.sleep(60)
"""


def test_what_a_dead_writer_left_is_cleared_and_what_a_living_one_writes_stays(buffer: LocalFileBuffer) -> None:
    incoming = buffer.root / "objects" / ".incoming"
    command = [sys.executable, "-c", HOLD, buffer.root]
    with subprocess.Popen(command, stdout=subprocess.PIPE, cwd=Path(__file__).parents[3]) as writer:
        assert writer.stdout is not None
        writer.stdout.readline()
        [half] = incoming.iterdir()
        long_ago = time.time() - 3600
        os.utime(half, (long_ago, long_ago))
        assert buffer.remove_stale() == 0
        writer.kill()
        writer.wait()
    assert buffer.remove_stale() == 1
    assert list(incoming.iterdir()) == []


def test_a_content_that_has_just_begun_is_left_alone(buffer: LocalFileBuffer) -> None:
    (buffer.root / "objects" / ".incoming" / "new").write_bytes(b"")
    assert buffer.remove_stale() == 0


def test_writers_lock_what_they_write(buffer: LocalFileBuffer) -> None:
    with buffer.receive() as target, Path(target.name).open("rb") as other, pytest.raises(BlockingIOError):
        fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)


def test_room_is_checked_with_the_numbers_told(buffer: LocalFileBuffer) -> None:
    buffer.check_room(1)
    with pytest.raises(BufferFullError, match=r"has room for [\d,]+ bytes, 1,152,921,504,606,846,976 are needed"):
        buffer.check_room(2**60)


def test_folders_on_two_file_systems_are_no_buffer(tmp_path: Path) -> None:
    shm = Path("/dev/shm")  # the other file system that every Linux has
    if not shm.is_dir() or shm.stat().st_dev == tmp_path.stat().st_dev:
        pytest.skip("there is only one file system here")
    (tmp_path / "buffer").mkdir()
    elsewhere = shm / f"catchment-test-{os.getpid()}"
    elsewhere.mkdir()
    try:
        (tmp_path / "buffer" / "exports").symlink_to(elsewhere)
        with pytest.raises(BufferUnusableError, match="on one file system"):
            LocalFileBuffer(tmp_path / "buffer").prepare()
    finally:
        elsewhere.rmdir()


def test_a_file_in_place_of_the_folder_is_no_buffer(tmp_path: Path) -> None:
    (tmp_path / "buffer").write_bytes(b"")
    with pytest.raises(BufferUnusableError, match="cannot be used as buffer"):
        LocalFileBuffer(tmp_path / "buffer").prepare()
