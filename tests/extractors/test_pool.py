"""Extraction in other processes, with files that hang, swell and kill."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import psutil
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from extractors.extract import Extractor, Outcome
from extractors.loading import find_description
from extractors.pool import CHUNK_FILES, CHUNKS_AHEAD, ExtractionPool, FileLimits
from extractors.storages.local_tree import LocalTree
from tests.support.hazards import SEGMENT_BYTES, HazardousExtractor, UnreadableExtractor

ROOT = Path(__file__).parents[2]
LIMITS = FileLimits(seconds=1.0, memory_bytes=150_000_000)
TOO_LONG = "reading took longer than 1 s and was ended"
TOO_LARGE = "reading needed more than 150 MB"
DIED = "reading the file ended the process that read it"


def extract(paths: list[str], *, processes: int = 1, **settings: bool | Path) -> list[Outcome]:
    with ExtractionPool(HazardousExtractor(**settings), processes=processes, limits=LIMITS) as pool:
        return list(pool.extract(paths))


def process_of(outcome: Outcome) -> int:
    assert outcome.record is not None
    assert outcome.record.run is not None
    return outcome.record.run


def assert_only_is_bad(outcomes: list[Outcome], paths: list[str], bad: str, failure: str) -> None:
    """All outcomes are there, in order and whole, but for one that says what the storage knows, and why."""
    assert [outcome.path for outcome in outcomes] == paths
    for outcome in outcomes:
        assert outcome.record is not None
        if outcome.path == bad:
            assert (outcome.failure, outcome.is_matched) == (f"content: {failure}", True)
            assert (outcome.record.size_bytes, outcome.record.kind) == (3, None)
            assert outcome.record.warnings == [outcome.failure]
        else:
            assert (outcome.failure, outcome.record.kind, outcome.record.warnings) == (None, "events", [])


# ---------------------------------------------------------------------------------------------------- one bad file


@pytest.mark.parametrize("hang", ["nap 60", "hang 60"])
def test_a_file_that_takes_too_long_is_ended_and_the_others_are_whole(hang: str) -> None:
    paths = [f"live {number}" for number in range(20)] + [hang] + [f"live {number}" for number in range(20, 60)]
    before = time.monotonic()
    assert_only_is_bad(extract(paths, processes=2), paths, hang, TOO_LONG)
    assert 1 < time.monotonic() - before < 10


@pytest.mark.parametrize(
    ("bad", "how"),
    [
        ("segfault", "SIGSEGV"),
        ("abort", "SIGABRT"),
        ("exit 0", "exit code 0"),
        ("exit 3", "exit code 3"),
        ("kill", "SIGKILL, as the system does when memory is short"),
    ],
)
def test_a_file_that_kills_its_process_is_named_and_the_others_are_whole(bad: str, how: str) -> None:
    paths = [f"live {number}" for number in range(7)] + [bad] + [f"live {number}" for number in range(7, 40)]
    assert_only_is_bad(extract(paths), paths, bad, f"{DIED}: {how}")


def test_a_file_that_needs_too_much_memory_fails_alone_and_its_process_goes_on() -> None:
    paths = ["live 0", "swell", "live 1"]
    outcomes = extract(paths)
    assert_only_is_bad(outcomes, paths, "swell", TOO_LARGE)
    assert len({process_of(outcome) for outcome in outcomes}) == 1


def test_a_file_that_needs_less_than_the_limit_is_read() -> None:
    assert LIMITS.memory_bytes > 2 * SEGMENT_BYTES
    assert [outcome.failure for outcome in extract(["leak", "live"])] == [None, None]


@pytest.mark.parametrize(
    ("bad", "failure"), [("nap 60", TOO_LONG), ("exit 3", f"{DIED}: exit code 3"), ("swell", TOO_LARGE)]
)
def test_a_file_that_is_bad_without_its_content_too_fails_without_a_record(bad: str, failure: str) -> None:
    outcomes = extract(["live 0", bad, "live 1"], is_plain_safe=False)
    assert [outcome.failure for outcome in outcomes] == [None, failure, None]
    assert outcomes[1] == Outcome(path=bad, failure=failure)


def test_an_extractor_that_raises_fails_for_that_file_only() -> None:
    outcomes = extract(["live 0", "raise", "live 1"])
    assert [outcome.failure for outcome in outcomes] == [None, "IndexError: list index out of range", None]


def test_a_process_that_keeps_too_much_memory_is_replaced_without_loss() -> None:
    paths = ["leak 0", "live", "leak 1", "leak 2", "leak 3", *["live"] * CHUNK_FILES, "leak 4", "live"]
    outcomes = extract(paths)
    assert [outcome.path for outcome in outcomes if outcome.failure is None] == paths
    assert len({process_of(outcome) for outcome in outcomes}) == 3


@given(
    hazards=st.lists(
        st.sampled_from(["live", "live", "live", "live", "live", "exit 1", "raise", "nap 0.01"]), max_size=80
    ),
    processes=st.integers(1, 3),
)
@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_whatever_files_do_each_has_its_own_outcome_in_its_place(hazards: list[str], processes: int) -> None:
    expected = {"exit 1": f"content: {DIED}: exit code 1", "raise": "IndexError: list index out of range"}
    outcomes = extract(hazards, processes=processes)
    assert [(outcome.path, outcome.failure) for outcome in outcomes] == [(path, expected.get(path)) for path in hazards]


# ---------------------------------------------------------------------------------------------------- whose fault


def test_what_was_sent_before_a_death_is_not_read_again(tmp_path: Path) -> None:
    log = tmp_path / "log"
    paths = ["nap 0.15 a", "nap 0.15 b", "nap 0.15 c", "segfault", "live"]
    extract(paths, log=log)
    assert log.read_text().split("\n") == [*paths[:3], "segfault", "segfault", "live", ""]


def test_the_time_is_that_of_one_file_not_of_its_chunk() -> None:
    paths = [f"nap 0.4 {number}" for number in range(5)]
    assert [outcome.failure for outcome in extract(paths)] == [None] * 5


def test_a_slow_consumer_is_not_held_against_the_files() -> None:
    with ExtractionPool(HazardousExtractor(), processes=1, limits=FileLimits(seconds=0.5)) as pool:
        failures = []
        for outcome in pool.extract(f"live {number}" for number in range(CHUNK_FILES * 4)):
            failures.append(outcome.failure)
            if len(failures) % (CHUNK_FILES * 2) == 1:
                time.sleep(0.8)
    assert failures == [None] * (CHUNK_FILES * 4)


def test_a_process_killed_between_files_costs_no_file() -> None:
    with ExtractionPool(HazardousExtractor(), processes=1) as pool:
        [first] = pool.extract(["live 0"])
        os.kill(process_of(first), signal.SIGKILL)
        [second] = pool.extract(["live 1"])
    assert second.failure is None
    assert process_of(second) != process_of(first)


def test_processes_that_cannot_start_are_an_error_and_not_the_fault_of_a_file() -> None:
    with (
        ExtractionPool(UnreadableExtractor(), processes=1) as pool,
        pytest.raises(ChildProcessError, match="3 processes ended before they read a file: exit code 7"),
    ):
        list(pool.extract(["a", "b"]))


@pytest.mark.parametrize("name", ["seconds", "memory_bytes"])
def test_limits_that_allow_nothing_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match=f"{name} is 0, expected more than 0"):
        FileLimits(**{name: 0})


# ---------------------------------------------------------------------------------------------------- the stream


def test_paths_are_read_only_a_little_ahead() -> None:
    taken = 0

    def paths() -> Iterator[str]:
        nonlocal taken
        for _ in range(1000):
            taken += 1
            yield "live"

    with ExtractionPool(HazardousExtractor(), processes=1) as pool:
        outcomes = pool.extract(paths())
        next(outcomes)
        assert taken <= CHUNK_FILES * (CHUNKS_AHEAD + 1)
        assert sum(1 for _ in outcomes) == 999


def test_a_file_is_told_before_the_slow_one_behind_it_is_done() -> None:
    before = time.monotonic()
    with ExtractionPool(HazardousExtractor(), processes=1) as pool:
        assert next(pool.extract(["nap 0.2", "nap 60"])).path == "nap 0.2"
    assert time.monotonic() - before < 10


def test_a_pool_can_be_used_again_after_an_iteration_was_left() -> None:
    with ExtractionPool(HazardousExtractor(), processes=2) as pool:
        other = pool.extract([f"live {number}" for number in range(1000)])
        assert next(other).path == "live 0"
        left = pool.extract(["nap 0.2", *["nap 60"] * 100])
        assert next(left).path == "nap 0.2"
        left.close()
        assert [outcome.path for outcome in other] == [f"live {number}" for number in range(1, 1000)]
        assert [outcome.path for outcome in pool.extract(["live a", "live b"])] == ["live a", "live b"]


def test_a_closed_pool_refuses_work() -> None:
    with ExtractionPool(HazardousExtractor(), processes=1) as pool:
        pass
    with pytest.raises(ValueError, match="the pool is closed"):
        list(pool.extract(["live"]))


def test_what_a_library_prints_stays_out_of_the_output(capfd: pytest.CaptureFixture[str]) -> None:
    program = "from tests.extractors.test_pool import *\nextract(['print'])\n"
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("", "from a library\n")


def test_a_pool_says_the_same_as_its_extractor(night: Path) -> None:
    extractor = Extractor(tree=LocalTree(night), facility="aurora", storage="s", description=find_description("aurora"))
    paths = [str(path.relative_to(night)) for path in sorted(night.rglob("*")) if path.is_file()] + ["gone"]
    with ExtractionPool(replace(extractor, header_only=True), processes=2) as pool:
        assert list(pool.extract(paths)) == replace(extractor, header_only=True).extract_all(paths)


# ---------------------------------------------------------------------------------------------------- the end


def test_leaving_the_pool_ends_a_hanging_process_at_once() -> None:
    with ExtractionPool(HazardousExtractor(), processes=1) as pool:
        outcomes = pool.extract(["nap 0.2", "hang 60"])
        process = psutil.Process(process_of(next(outcomes)))
        before = time.monotonic()
    assert time.monotonic() - before < 2
    assert not is_running(process)


def test_a_process_leaves_ctrl_c_to_its_parent() -> None:
    with ExtractionPool(HazardousExtractor(), processes=1) as pool:
        [first] = pool.extract(["live 0"])
        os.kill(process_of(first), signal.SIGINT)
        [second] = pool.extract(["live 1"])
    assert process_of(first) == process_of(second)


HANGING = """
from tests.support.hazards import HazardousExtractor
from extractors.pool import ExtractionPool
with ExtractionPool(HazardousExtractor(), processes=2, preload=["extractors.extract"]) as pool:
    outcomes = pool.extract(["nap 0.2"] * 16 + ["hang 60"] * 100)
    print("reading", flush=True)
    for outcome in outcomes:
        pass
"""


@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGINT])
def test_a_parent_that_is_ended_takes_its_processes_along_even_if_they_hang(end: signal.Signals) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", HANGING], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    ) as parent:
        assert parent.stdout is not None
        assert parent.stdout.readline() == b"reading\n"
        wait_until(lambda: len(psutil.Process(parent.pid).children(recursive=True)) == 4)
        processes = psutil.Process(parent.pid).children(recursive=True)
        time.sleep(0.5)
        parent.send_signal(end)
        parent.wait(5)
    wait_until(lambda: not any(is_running(process) for process in processes))


UNDYING = """
import os, signal, sys
import psutil
from tests.support.hazards import HazardousExtractor
from extractors.pool import ExtractionPool
with ExtractionPool(HazardousExtractor(), processes=1, preload=["extractors.extract"]) as pool:
    [outcome] = pool.extract(["live"])
    server = psutil.Process(outcome.record.run).parent()
    os.kill(server.pid, signal.SIGSTOP)
print(server.pid, flush=True)
"""


def test_a_process_that_never_ends_delays_neither_the_pool_nor_the_program() -> None:
    # A process in an uninterruptible wait cannot be had for a test. With the server stopped nobody tells the pool of
    # the end of its process, which looks the same from there.
    before = time.monotonic()
    with subprocess.Popen(
        [sys.executable, "-c", UNDYING], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as program:
        assert program.stdout is not None
        assert program.stderr is not None
        server = int(program.stdout.readline())
        assert program.wait(10) == 0
        assert time.monotonic() - before < 15
        os.kill(server, signal.SIGCONT)
        assert b"cannot be ended" in program.stderr.read()


def is_running(process: psutil.Process) -> bool:
    return process.is_running() and process.status() != psutil.STATUS_ZOMBIE


def wait_until(is_so: Callable[[], bool]) -> None:
    until = time.monotonic() + 10
    while not is_so():
        assert time.monotonic() < until
        time.sleep(0.05)
