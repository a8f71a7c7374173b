"""Watching real folders: what is told when files are written, moved, linked and deleted, and when notices were lost."""

import os
import shutil
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from extractors.errors import StorageError
from extractors.storages.watching import Appeared, Closed, Lost, Quiet, Report, Vanished, Watcher

QUIET_S = 0.15


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Return a storage with one file in one folder."""
    (tmp_path / "storage" / "old").mkdir(parents=True)
    (tmp_path / "storage" / "old" / "file").write_text("old")
    return tmp_path / "storage"


@pytest.fixture
def watcher(root: Path) -> Iterator[Watcher]:
    """Return a watcher of the storage that says when nothing happens."""
    with Watcher(root, quiet_s=QUIET_S) as watching:
        yield watching


def reports_of(watcher: Watcher) -> list[Report]:
    """Return what is reported until nothing happens."""
    reports: list[Report] = []
    for report in watcher:
        if isinstance(report, Quiet):
            break
        reports.append(report)
    return reports


def test_what_was_there_before_is_not_reported(watcher: Watcher) -> None:
    assert reports_of(watcher) == []
    assert watcher.folders == 2


def test_a_file_is_reported_when_it_is_closed_and_not_before(root: Path, watcher: Watcher) -> None:
    with (root / "old" / "run").open("w") as stream:
        assert reports_of(watcher) == []
        for _ in range(3):
            stream.write("piece")
            stream.flush()
            assert reports_of(watcher) == []
    assert reports_of(watcher) == [Closed(path="old/run")]


def test_a_file_whose_writer_was_faster_than_we_is_closed_only_once_it_is(root: Path, watcher: Watcher) -> None:
    with (root / "old" / "run").open("w") as stream:
        stream.write("piece")
        stream.flush()
        assert reports_of(watcher) == [Appeared(path="old/run")]
    assert reports_of(watcher) == [Closed(path="old/run")]


def test_a_file_is_reported_again_when_it_was_appended_to(root: Path, watcher: Watcher) -> None:
    with (root / "old" / "file").open("a") as stream:
        stream.write("more")
    assert reports_of(watcher) == [Closed(path="old/file")]


def test_reading_and_listing_are_not_reported(root: Path, watcher: Watcher) -> None:
    assert (root / "old" / "file").read_text() == "old"
    assert os.listdir(root) == ["old"]
    assert reports_of(watcher) == []


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda root: os.rename(root.parent / "new", root / "in"), [Closed(path="in")]),
        (lambda root: os.rename(root / "old/file", root.parent / "out"), [Vanished(path="old/file")]),
        (lambda root: os.rename(root / "old/file", root / "f"), [Vanished(path="old/file"), Closed(path="f")]),
        (lambda root: os.rename(root.parent / "new", root / "old/file"), [Closed(path="old/file")]),
        (lambda root: os.unlink(root / "old/file"), [Vanished(path="old/file")]),
        (lambda root: os.link(root / "old/file", root / "link"), [Closed(path="link")]),
        (lambda root: os.symlink("old/file", root / "link"), [Closed(path="link")]),
        (lambda root: os.mkfifo(root / "fifo"), [Closed(path="fifo")]),
        (lambda root: os.mkdir(root / "empty"), []),
        (lambda root: os.rename(root / "old", root.parent / "out"), [Vanished(path="old", is_folder=True)]),
        (
            lambda root: os.rename(root / "old", root / "young"),
            [Vanished(path="old", is_folder=True), Appeared(path="young/file")],
        ),
        (
            lambda root: shutil.rmtree(root / "old"),
            [Vanished(path="old/file"), Vanished(path="old", is_folder=True)],
        ),
        (lambda root: (root / "a\nb").write_text("x"), [Closed(path="a\nb")]),
        (
            lambda root: Path(os.fsdecode(os.fsencode(root) + b"/\xff")).write_text("x"),
            [Closed(path="\udcff")],
        ),
    ],
    ids=["in", "out", "within", "over", "unlink", "link", "symlink", "fifo", "mkdir", "folder out", "folder within",
         "rmtree", "newline", "bytes"],
)  # fmt: skip
def test_each_change_is_reported_as_what_it_is(
    root: Path, watcher: Watcher, change: Callable[[Path], object], expected: list[Report]
) -> None:
    (root.parent / "new").write_text("new")
    change(root)
    assert reports_of(watcher) == expected


def test_a_file_that_gets_its_name_when_it_is_complete_is_reported(root: Path, watcher: Watcher) -> None:
    unnamed = os.open(root, os.O_TMPFILE | os.O_WRONLY, 0o644)
    os.write(unnamed, b"content")
    own_files = os.open("/proc/self/fd", os.O_RDONLY)
    os.link(str(unnamed), root / "named", src_dir_fd=own_files, follow_symlinks=True)
    os.close(own_files)
    os.close(unnamed)
    assert Appeared(path="named") in reports_of(watcher)


def test_files_in_folders_made_in_one_go_are_all_reported(root: Path, watcher: Watcher) -> None:
    expected = set()
    for i in range(30):
        folder = root / f"season{i % 3}" / f"night{i}" / "a" / "b" / "c"
        folder.mkdir(parents=True)
        for depth in (folder, folder.parent, folder.parent.parent):
            (depth / "f").write_text("x")
            expected.add(str((depth / "f").relative_to(root)))
    assert {report.path for report in reports_of(watcher) if isinstance(report, Closed | Appeared)} == expected


def test_files_in_folders_made_while_watching_are_all_reported(root: Path, watcher: Watcher) -> None:
    expected = {f"d{i}/e/f{j}" for i in range(100) for j in range(3)}

    def write() -> None:
        for i in range(100):
            (root / f"d{i}" / "e").mkdir(parents=True)
            for j in range(3):
                (root / f"d{i}" / "e" / f"f{j}").write_text("x")

    writer = threading.Thread(target=write)
    writer.start()
    found = {report.path for report in reports_of(watcher) if isinstance(report, Closed | Appeared)}
    writer.join()
    found |= {report.path for report in reports_of(watcher) if isinstance(report, Closed | Appeared)}
    assert found == expected


def test_a_folder_that_left_and_came_back_is_followed(root: Path, watcher: Watcher) -> None:
    (root / "old" / "deep").mkdir()
    (root / "old").rename(root.parent / "away")
    (root.parent / "away" / "unseen").write_text("x")
    assert reports_of(watcher) == [Vanished(path="old", is_folder=True)]
    (root.parent / "away").rename(root / "back")
    told = {report.path for report in reports_of(watcher) if isinstance(report, Closed | Appeared)}
    assert told == {"back/unseen", "back/file"}
    (root / "back" / "deep" / "f").write_text("x")
    assert reports_of(watcher) == [Closed(path="back/deep/f")]


def test_a_folder_that_is_renamed_twice_at_once_is_followed_under_its_last_name(root: Path, watcher: Watcher) -> None:
    (root / "old").rename(root / "second")
    (root / "second").rename(root / "third")
    (root / "third" / "f").write_text("x")
    told = reports_of(watcher)
    assert {report.path for report in told if isinstance(report, Closed | Appeared)} == {"third/file", "third/f"}
    assert Vanished(path="old", is_folder=True) in told
    (root / "third" / "g").write_text("x")
    assert reports_of(watcher) == [Closed(path="third/g")]


def test_a_new_folder_of_an_old_name_is_followed(root: Path, watcher: Watcher) -> None:
    shutil.rmtree(root / "old")
    (root / "old").mkdir()
    (root / "old" / "f").write_text("x")
    assert Appeared(path="old/f") in reports_of(watcher)
    (root / "old" / "g").write_text("x")
    assert reports_of(watcher) == [Closed(path="old/g")]


def test_links_to_folders_are_reported_and_not_followed(root: Path, tmp_path: Path, watcher: Watcher) -> None:
    (tmp_path / "outside").mkdir()
    (root / "link").symlink_to(tmp_path / "outside")
    assert reports_of(watcher) == [Closed(path="link")]
    (tmp_path / "outside" / "secret").write_text("x")
    assert reports_of(watcher) == []


def test_many_writes_to_one_file_are_one_report(root: Path, watcher: Watcher) -> None:
    for i in range(100):
        (root / "status").write_text(str(i))
    assert reports_of(watcher) == [Closed(path="status")]


def test_a_file_that_came_and_went_is_only_reported_as_gone(root: Path, watcher: Watcher) -> None:
    (root / "short").write_text("x")
    (root / "short").unlink()
    assert reports_of(watcher) == [Vanished(path="short")]


def test_a_file_that_makes_room_for_a_folder_is_reported_as_gone(root: Path, watcher: Watcher) -> None:
    (root / "folder").mkdir()
    (root / "old" / "file").unlink()
    (root / "folder").rename(root / "old" / "file")
    assert Vanished(path="old/file") in reports_of(watcher)


def test_a_file_that_left_is_reported_while_another_of_its_name_is_written(root: Path, watcher: Watcher) -> None:
    (root / "old" / "file").rename(root.parent / "archived")
    with (root / "old" / "file").open("w"):
        assert reports_of(watcher) == [Vanished(path="old/file")]
    assert reports_of(watcher) == [Closed(path="old/file")]


def test_an_overflow_is_told_and_watching_goes_on(root: Path, watcher: Watcher) -> None:
    limit = int(Path("/proc/sys/fs/inotify/max_queued_events").read_text())
    if limit > 50_000:
        pytest.skip("the kernel's queue is too long to be filled in a test")
    (root / "unseen").mkdir()
    names = [str(root / "old" / name) for name in ("x", "y")]
    for _ in range(limit // 3 + 10):
        for name in names:
            os.close(os.open(name, os.O_CREAT | os.O_WRONLY))
            os.unlink(name)
    (root / "late").mkdir()
    told = reports_of(watcher)
    assert [report for report in told if isinstance(report, Lost)] == [
        Lost(path="", reason="more happened than the kernel could keep")
    ]
    (root / "late" / "f").write_text("x")
    assert reports_of(watcher) == [Closed(path="late/f")]


def test_a_root_that_is_not_there_cannot_be_watched(tmp_path: Path) -> None:
    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(StorageError, match="No such file"):
        Watcher(tmp_path / "gone")
    assert len(os.listdir("/proc/self/fd")) == before


@pytest.mark.parametrize("leave", [shutil.rmtree, lambda root: root.rename(root.parent / "moved")], ids=["rm", "mv"])
def test_a_root_that_goes_away_ends_the_watching(root: Path, watcher: Watcher, leave: Callable[[Path], object]) -> None:
    leave(root)
    *_, last = watcher
    assert last == Lost(path="", reason="the root was deleted, moved or unmounted", is_lasting=True)


def test_folders_that_cannot_be_watched_are_told_together(root: Path, watcher: Watcher) -> None:
    above = os.open(root, os.O_RDONLY)
    for _ in range(20):
        os.mkdir("d" * 250, dir_fd=above)
        below = os.open("d" * 250, os.O_RDONLY, dir_fd=above)
        os.close(above)
        above = below
    os.close(above)
    (told,) = reports_of(watcher)
    assert isinstance(told, Lost)
    assert told.is_lasting
    assert "File name too long" in told.reason
    shutil.rmtree(root / ("d" * 250))


def test_stop_ends_the_iteration_at_once_from_another_thread(root: Path) -> None:
    with Watcher(root) as watcher:
        timer = threading.Timer(0.1, watcher.stop)
        began = time.monotonic()
        timer.start()
        assert list(watcher) == []
        assert 0.05 < time.monotonic() - began < 2
        timer.join()


def test_stop_ends_the_iteration_from_a_signal_handler(root: Path) -> None:
    with Watcher(root) as watcher:
        before = signal.signal(signal.SIGALRM, lambda *_: watcher.stop())
        try:
            signal.setitimer(signal.ITIMER_REAL, 0.1)
            assert list(watcher) == []
        finally:
            signal.signal(signal.SIGALRM, before)


def test_stop_leaves_what_is_not_reported_yet(root: Path, watcher: Watcher) -> None:
    for i in range(10):
        (root / f"f{i}").write_text("x")
    seen = []
    for report in watcher:
        seen.append(report)
        watcher.stop()
    assert seen == [Closed(path="f0")]


def test_closing_gives_all_descriptors_back(root: Path) -> None:
    before = len(os.listdir("/proc/self/fd"))
    with Watcher(root) as watcher:
        watcher.stop()
    watcher.stop()
    assert len(os.listdir("/proc/self/fd")) == before
