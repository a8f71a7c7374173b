"""The command in a pipeline, as a process of its own: paths go on whatever happens to the metadata."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from extractors.client import Client
from extractors.extract import Extractor
from extractors.pipeline import Forwarder, PathBacklog, pass_on
from extractors.spool import Spool

Catalogue = Any
Run = Callable[..., subprocess.CompletedProcess[bytes]]
CHECKOUT = Path(__file__).parents[2]
NIGHT = "north/2020/01/20200101"


@pytest.fixture
def command(night: Path, catalogue: Catalogue, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    monkeypatch.setenv("CATCHMENT_TOKEN", catalogue.token)
    monkeypatch.setenv("CATCHMENT_URL", catalogue.url)
    spool = str(tmp_path / "spool")
    options = ["--storage", "s", "--root", str(night), "--facility", "aurora", "--spool", spool, "--attempts", "1"]
    return [sys.executable, "-m", "extractors", "send", *options]


@pytest.fixture
def send(command: list[str]) -> Run:
    def run(*arguments: str, stdin: bytes = b"") -> subprocess.CompletedProcess[bytes]:
        return subprocess.run(
            [*command, *arguments], input=stdin, capture_output=True, cwd=CHECKOUT, timeout=60, check=False
        )

    return run


@pytest.fixture
def paths(night: Path) -> bytes:
    """Return a list of paths as find would print it, with one elsewhere, one missing, one of odd bytes, no last end."""
    good = "\n".join(str(night / NIGHT / f"aurora_0000{run}_dl3.fits") for run in (41, 42, 43, 99))
    return good.encode() + b"\n\n/etc/passwd\n" + os.fsencode(night) + b"/gone\n" + os.fsencode(night) + b"/\xff"


def stored(catalogue: Catalogue) -> set[str]:
    return {path.rsplit("/", 1)[-1] for _, path in catalogue.records}


RUNS = {f"aurora_0000{run}_dl3.fits" for run in (41, 42, 43, 99)}


def test_paths_go_on_byte_for_byte_and_their_files_are_catalogued(
    send: Run, catalogue: Catalogue, paths: bytes
) -> None:
    done = send("--description", "aurora", stdin=paths)
    assert (done.returncode, done.stdout) == (0, paths)
    assert stored(catalogue) == RUNS
    messages = done.stderr.decode()
    assert "/etc/passwd: is not below the storage's root" in messages
    assert r"/\xff: the name is not UTF-8" in messages
    assert "gone: leads nowhere" in messages
    assert "7 files: 4 added" in messages
    assert "4 failed" in messages
    assert catalogue.token not in messages


def test_strict_says_that_not_all_went_well(send: Run, paths: bytes, night: Path) -> None:
    assert send("--strict", stdin=paths).returncode == 1
    assert send("--strict", stdin=os.fsencode(night / "notes.txt")).returncode == 0


def test_paths_come_as_arguments_too(send: Run, catalogue: Catalogue, night: Path) -> None:
    names = [str(night / "notes.txt"), str(night / NIGHT / "aurora_000041_dl3.fits")]
    assert send(*names).stdout == "".join(f"{name}\n" for name in names).encode()
    assert stored(catalogue) == {"notes.txt", "aurora_000041_dl3.fits"}


def test_paths_may_be_separated_by_nul(send: Run, catalogue: Catalogue, night: Path) -> None:
    (night / "two\nlines").write_text("x")
    given = os.fsencode(night / "notes.txt") + b"\0" + os.fsencode(night / "two\nlines") + b"\0"
    done = send("-0", stdin=given)
    assert done.stdout == given
    assert stored(catalogue) == {"notes.txt"}
    assert b"control character" in done.stderr


def test_a_catalogue_that_is_away_costs_nothing_and_a_later_run_sends_all(
    send: Run, catalogue: Catalogue, paths: bytes, tmp_path: Path, night: Path
) -> None:
    done = send("--url", "http://127.0.0.1:9", stdin=paths)
    assert (done.returncode, done.stdout) == (0, paths)
    assert b"4 spooled, 0 lost" in done.stderr
    (spooled,) = (tmp_path / "spool").iterdir()
    assert spooled.suffix == ".ndjson"
    later = send(stdin=os.fsencode(night / "notes.txt"))
    assert b"1 earlier batches sent" in later.stderr
    assert stored(catalogue) == RUNS | {"notes.txt"}
    assert list((tmp_path / "spool").iterdir()) == []
    assert catalogue.batches == [4, 1]


def test_a_wrong_token_keeps_the_records_for_a_right_one(send: Run, catalogue: Catalogue, paths: bytes) -> None:
    assert b"4 spooled" in send("--token", "wrong", stdin=paths).stderr
    assert stored(catalogue) == set()
    send(stdin=b"")
    assert stored(catalogue) == RUNS


def test_rejections_are_told_and_paths_go_on(send: Run, catalogue: Catalogue, paths: bytes) -> None:
    catalogue.reject = lambda record: "not wanted" if record.path.endswith("42_dl3.fits") else None
    done = send(stdin=paths)
    assert (done.returncode, done.stdout) == (0, paths)
    assert b"aurora_000042_dl3.fits: rejected by the catalogue: path: not wanted" in done.stderr


def test_a_path_goes_on_before_its_file_is_catalogued_and_before_the_input_ends(
    command: list[str], catalogue: Catalogue, night: Path
) -> None:
    process = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=CHECKOUT
    )
    assert process.stdin is not None
    assert process.stdout is not None
    for name in (b"notes.txt\n", b"gone\n"):
        line = os.fsencode(night) + b"/" + name
        process.stdin.write(line)
        process.stdin.flush()
        assert os.read(process.stdout.fileno(), 4096) == line
    deadline = time.monotonic() + 20
    while stored(catalogue) != {"notes.txt"} and time.monotonic() < deadline:
        time.sleep(0.05)
    assert stored(catalogue) == {"notes.txt"}
    process.communicate(timeout=20)
    assert process.returncode == 0


def test_being_told_to_end_loses_no_extracted_record(command: list[str], catalogue: Catalogue, night: Path) -> None:
    process = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=CHECKOUT
    )
    assert process.stdin is not None
    process.stdin.write(os.fsencode(night / "notes.txt") + b"\n")
    process.stdin.flush()
    deadline = time.monotonic() + 20
    while not stored(catalogue) and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    _, messages = process.communicate(timeout=20)
    assert process.returncode == 130
    assert b"1 files" in messages or b"interrupted" in messages
    assert stored(catalogue) == {"notes.txt"}


def test_a_reader_that_goes_away_is_told_in_the_exit_code(command: list[str], paths: bytes) -> None:
    source, target = os.pipe()
    os.close(source)
    done = subprocess.run(
        command, input=paths, stdout=target, stderr=subprocess.PIPE, cwd=CHECKOUT, timeout=60, check=False
    )
    os.close(target)
    assert done.returncode == 1
    assert b"Traceback" not in done.stderr


def test_a_spool_that_cannot_be_written_is_told_and_paths_go_on(send: Run, paths: bytes, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    done = send("--url", "http://127.0.0.1:9", "--spool", str(tmp_path / "file" / "spool"), stdin=paths)
    assert (done.returncode, done.stdout) == (0, paths)
    assert b"4 records are lost" in done.stderr
    assert b"Traceback" not in done.stderr


# ----------------------------------------------------------------------------------------------- its parts


def test_records_that_waited_arrive_before_newer_ones(
    night: Path, catalogue: Catalogue, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for setting, value in {"AWAY_S": 0.0, "ROUND_PATHS": 1, "MAX_BATCH_AGE_S": -1.0}.items():
        monkeypatch.setattr(f"extractors.pipeline.{setting}", value)
    catalogue.failures = [(503, {})]
    (night / "later.txt").write_text("x")
    extractor = Extractor(root=night, facility="aurora", storage="s")
    with Client(catalogue.url, catalogue.token, attempts=1) as client, PathBacklog() as backlog:
        forwarder = Forwarder(extractor=extractor, client=client, spool=Spool(tmp_path / "spool"))
        for name in ("notes.txt", "later.txt"):
            backlog.put(os.fsencode(night / name))
        backlog.close()
        forwarder.run(backlog)
    assert [path for _, path in catalogue.records] == ["notes.txt", "later.txt"]
    assert (forwarder.deliveries.spooled, forwarder.deliveries.from_spool, forwarder.deliveries.lost) == (1, 1, 0)


@pytest.fixture
def backlog() -> Iterator[PathBacklog]:
    with PathBacklog() as backlog:
        yield backlog


def take_all(backlog: PathBacklog, most: int) -> list[bytes]:
    taken = []
    while some := backlog.take(most):
        assert len(some) <= most
        taken += some
    return taken


@given(text=st.binary(max_size=400), separator=st.sampled_from([b"\n", b"\0"]), size=st.integers(1, 50))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
def test_any_bytes_go_on_unchanged_and_every_path_in_them_is_kept(
    tmp_path_factory: pytest.TempPathFactory, text: bytes, separator: bytes, size: int
) -> None:
    folder = tmp_path_factory.mktemp("io")
    (folder / "in").write_bytes(text)
    with (
        pytest.MonkeyPatch.context() as patch,
        (folder / "in").open("rb") as source,
        (folder / "out").open("wb") as target,
        PathBacklog() as backlog,
    ):
        patch.setattr("extractors.pipeline.READ_BYTES", size)
        assert pass_on(source.fileno(), target.fileno(), backlog, separator=separator)
        backlog.close()
        assert take_all(backlog, 3) == [path for path in text.split(separator) if path]
    assert (folder / "out").read_bytes() == text


def test_an_abandoned_backlog_is_empty(backlog: PathBacklog) -> None:
    backlog.put(b"a")
    backlog.close(abandon=True)
    assert backlog.take(10) == []


def test_a_backlog_that_is_worked_off_takes_no_space(backlog: PathBacklog) -> None:
    for _ in range(3):
        backlog.put(b"x" * 1000)
        assert backlog.take(10) == [b"x" * 1000]
    assert backlog.is_empty()
