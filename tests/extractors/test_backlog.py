"""The journal of paths: nothing that was put is forgotten, whoever dies, and nobody takes another's."""

import resource
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from extractors.backlog import PathBacklog, adopt

CHECKOUT = Path(__file__).parents[2]
paths = st.lists(st.binary(min_size=1, max_size=20), max_size=12)


def take_all(backlog: PathBacklog, most: int = 3) -> list[bytes]:
    taken = []
    while some := backlog.take(most):
        assert len(some) <= most
        taken += some
    return taken


def left_in(folder: Path) -> list[bytes]:
    with PathBacklog() as backlog:
        adopt(folder, backlog)
        backlog.close()
        return take_all(backlog)


@given(st.lists(st.one_of(st.binary(min_size=1, max_size=20), st.integers(1, 4), st.just("done")), max_size=30))
@settings(deadline=None)
def test_what_was_not_done_is_left_for_the_next_run(
    tmp_path_factory: pytest.TempPathFactory, steps: list[bytes | int | str]
) -> None:
    folder = tmp_path_factory.mktemp("journals")
    put: list[bytes] = []
    n_taken = n_done = 0
    with PathBacklog(folder) as backlog:
        for step in steps:
            if isinstance(step, bytes):
                backlog.put(step)
                put.append(step)
            elif isinstance(step, int) and n_taken < len(put):
                taken = backlog.take(step)
                assert taken == put[n_taken : n_taken + step]
                n_taken += len(taken)
            elif step == "done":
                backlog.done()
                n_done = n_taken
    assert left_in(folder) == put[n_done:]
    assert list(folder.iterdir()) == []


def test_a_backlog_that_is_worked_off_takes_no_space(tmp_path: Path) -> None:
    with PathBacklog(tmp_path) as backlog:
        (journal,) = tmp_path.iterdir()
        for _ in range(3):
            backlog.put(b"x" * 1000)
            assert backlog.take(10) == [b"x" * 1000]
            backlog.done()
            assert journal.stat().st_size < 100
        assert backlog.is_empty()
    assert list(tmp_path.iterdir()) == []


def test_an_abandoned_backlog_gives_nothing_more_and_keeps_what_waits(tmp_path: Path) -> None:
    with PathBacklog(tmp_path) as backlog:
        backlog.put(b"a")
        backlog.close(abandon=True)
        assert backlog.take(10) == []
        backlog.done()
    assert left_in(tmp_path) == [b"a"]


def test_who_waits_for_paths_is_woken_by_one_and_by_the_end() -> None:
    taken: list[list[bytes]] = []
    with PathBacklog() as backlog:
        worker = threading.Thread(target=lambda: taken.extend([backlog.take(9), backlog.take(9)]))
        worker.start()
        backlog.put(b"a")
        while not taken and worker.is_alive():
            assert not backlog.wait_until_closed(0.01)
            if backlog.is_empty():
                break
        backlog.close()
        worker.join(10)
        assert backlog.wait_until_closed(0)
    assert taken == [[b"a"], []]


def test_a_journal_of_a_process_that_lives_is_not_taken(tmp_path: Path) -> None:
    with PathBacklog(tmp_path) as alive:
        alive.put(b"mine")
        assert left_in(tmp_path) == []
        alive.put(b"mine too")
        assert alive.take(9) == [b"mine", b"mine too"]
        alive.done()


def test_a_process_does_not_adopt_its_own_journal(tmp_path: Path) -> None:
    with PathBacklog(tmp_path) as backlog:
        backlog.put(b"a")
        assert adopt(tmp_path, backlog) == 0
        assert backlog.take(9) == [b"a"]
        backlog.done()


@given(paths, st.integers(0, 200))
@settings(deadline=None)
def test_a_journal_that_was_cut_off_gives_what_is_whole(
    tmp_path_factory: pytest.TempPathFactory, put: list[bytes], cut: int
) -> None:
    folder = tmp_path_factory.mktemp("journals")
    with PathBacklog(folder) as backlog:
        for path in put:
            backlog.put(path)
        if not put:
            return
        (journal,) = folder.iterdir()
        copy = journal.read_bytes()[:cut]
        backlog.take(len(put))
        backlog.done()
    (folder / "1.paths").write_bytes(copy)
    left = left_in(folder)
    assert left == put[: len(left)]
    whole = 8 + sum(4 + len(path) for path in put)
    assert cut < whole or left == put


def test_a_folder_that_cannot_be_written_is_told_and_the_paths_are_kept_for_this_run(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_text("in the way")
    with PathBacklog(tmp_path / "file" / "journals") as backlog:
        backlog.put(b"a")
        assert backlog.take(9) == [b"a"]
    assert "not kept on disk" in caplog.text


FILL_DISK = """
import pathlib, signal, sys
from extractors.backlog import PathBacklog

with PathBacklog(pathlib.Path(sys.argv[1])) as backlog:
    for length in (32, 200, 20, 300, 12):
        try:
            backlog.put(b"\\1\\0\\0\\0" * (length // 4))  # what is left of it would be read as paths
        except OSError as error:
            print(length, error.strerror)
    backlog.take(1)
    backlog.done()
"""


def test_a_full_disk_costs_only_the_paths_that_it_did_not_take(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", FILL_DISK, tmp_path / "journals"],
        capture_output=True,
        text=True,
        cwd=CHECKOUT,
        check=False,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (128, 128)),
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert [line.split()[0] for line in done.stdout.splitlines()] == ["200", "300"]
    assert left_in(tmp_path / "journals") == [b"\1\0\0\0" * 5, b"\1\0\0\0" * 3]


KILL = """
import os, pathlib, signal, sys
from extractors.backlog import PathBacklog

backlog = PathBacklog(pathlib.Path(sys.argv[1]))
for number in range(10):
    backlog.put(b"%d" % number)
    os.write(1, b"%d\\n" % number)
    if number == 6:
        backlog.take(4)
        backlog.done()
        backlog.take(2)
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_killed_process_leaves_everything_that_was_not_done(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", KILL, tmp_path], stdout=subprocess.PIPE, cwd=CHECKOUT, timeout=60, check=False
    )
    assert done.returncode == -signal.SIGKILL
    assert left_in(tmp_path) == [b"%d" % number for number in range(4, 10)]


def test_of_many_that_adopt_at_once_nothing_is_lost(tmp_path: Path) -> None:
    for number in range(30):
        with PathBacklog(tmp_path) as backlog:
            backlog.put(b"%d" % number)
    barrier = threading.Barrier(4)
    found: list[bytes] = []

    def work() -> None:
        with PathBacklog() as mine:
            barrier.wait()
            adopt(tmp_path, mine)
            mine.close()
            found.extend(take_all(mine))

    workers: list[threading.Thread] = [threading.Thread(target=work) for _ in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert set(found) == {b"%d" % number for number in range(30)}
    assert list(tmp_path.iterdir()) == []
