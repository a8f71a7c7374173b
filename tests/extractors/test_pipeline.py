"""The command in a pipeline, as a process of its own: paths go on whatever happens to the metadata."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from extractors.backlog import PathBacklog
from extractors.client import Client
from extractors.extract import Extractor
from extractors.pipeline import Forwarder, pass_on
from extractors.spool import Spool
from extractors.storages.local_tree import LocalTree
from metadata_db.records import Relation

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
    return [sys.executable, "-m", "extractors", "pass", *options]


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


@contextmanager
def running(command: list[str], cwd: Path = CHECKOUT) -> Iterator[subprocess.Popen[bytes]]:
    environ = os.environ | {"PYTHONPATH": str(CHECKOUT)}
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, cwd=cwd, env=environ, bufsize=0) as process:
        try:
            yield process
        finally:
            process.kill()


def pass_one(process: subprocess.Popen[bytes], line: bytes) -> bytes:
    """Write to the process, and return what comes out of it."""
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(line)
    return os.read(process.stdout.fileno(), 65536)


def wait_until(condition: Callable[[], bool], limit_s: float = 30) -> None:
    deadline = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.02)


@pytest.fixture
def silent() -> Iterator[str]:
    """Return the address of a catalogue that takes connections and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"


def without_root(command: list[str]) -> list[str]:
    at = command.index("--root")
    return command[:at] + command[at + 2 :]


RUNS = {f"aurora_0000{run}_dl3.fits" for run in (41, 42, 43, 99)}


def test_paths_go_on_byte_for_byte_and_their_files_are_catalogued(
    send: Run, catalogue: Catalogue, paths: bytes, night: Path, tmp_path: Path
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
    reasons = {path: reason.split(":")[0] for (_, path), reason in catalogue.told.items()}
    assert reasons.pop("/etc/passwd").startswith("is not below the storage's root")
    assert reasons == {
        "gone": "leads nowhere", f"{night}/\\xff": "the name is not UTF-8", f"{NIGHT}/aurora_000099_dl3.fits": "content"
    }  # fmt: skip
    assert list((tmp_path / "spool" / "paths-s").iterdir()) == []


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
    assert sorted(path.suffixes for path in (tmp_path / "spool").glob("*.ndjson")) == [
        [".failures", ".ndjson"],
        [".files", ".ndjson"],
    ]
    later = send(stdin=os.fsencode(night / "notes.txt"))
    assert b"1 earlier batches sent" in later.stderr
    assert stored(catalogue) == RUNS | {"notes.txt"}
    assert list((tmp_path / "spool").glob("*.ndjson")) == []
    assert catalogue.batches == [4, 1]
    assert len(catalogue.told) == 3


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
    with running(command) as process:
        for name in (b"notes.txt\n", b"gone\n"):
            line = os.fsencode(night) + b"/" + name
            assert pass_one(process, line) == line
        wait_until(lambda: stored(catalogue) == {"notes.txt"})
        process.communicate(timeout=20)
        assert process.returncode == 0


def test_being_told_to_end_loses_no_extracted_record(command: list[str], catalogue: Catalogue, night: Path) -> None:
    with running(command) as process:
        pass_one(process, os.fsencode(night / "notes.txt") + b"\n")
        wait_until(lambda: bool(stored(catalogue)))
        process.send_signal(signal.SIGTERM)
        _, messages = process.communicate(timeout=20)
        assert process.returncode == 130
    assert b"interrupted" in messages
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


# -------------------------------------------------------------------------------------------- killed at any moment


@pytest.mark.parametrize("n_passed", [1, 40, 300])
def test_every_path_that_came_out_before_a_kill_is_catalogued_by_the_next_run(
    command: list[str], send: Run, catalogue: Catalogue, night: Path, n_passed: int
) -> None:
    names = [f"{number:03}.txt" for number in range(300)]
    for name in names:
        (night / name).write_text(name)
    with running(command) as process:
        out = b"".join(pass_one(process, os.fsencode(night / name) + b"\n") for name in names[:n_passed])
        process.kill()
        out += process.communicate()[0]
    came_out = {line.rsplit("/", 1)[-1] for line in out.decode().splitlines()}
    assert came_out == set(names[:n_passed])
    done = send(stdin=b"")
    assert (done.returncode, done.stdout) == (0, b"")
    assert stored(catalogue) >= came_out


def test_a_kill_while_records_are_sent_costs_nothing(
    command: list[str], send: Run, catalogue: Catalogue, silent: str, night: Path
) -> None:
    with running([*command, "--url", silent]) as process:
        pass_one(process, os.fsencode(night / "notes.txt") + b"\n")
        time.sleep(2.0)
        process.kill()
    assert stored(catalogue) == set()
    assert b"1 paths of an earlier run" in send(stdin=b"").stderr
    assert stored(catalogue) == {"notes.txt"}


def test_two_at_once_do_not_take_each_other_s_paths(
    command: list[str], send: Run, catalogue: Catalogue, silent: str, night: Path
) -> None:
    with running([*command, "--url", silent]) as one:
        pass_one(one, os.fsencode(night / "notes.txt") + b"\n")
        other = send(stdin=os.fsencode(night / NIGHT / "aurora_000041_dl3.fits"))
        assert b"earlier run" not in other.stderr
        assert stored(catalogue) == {"aurora_000041_dl3.fits"}
        one.kill()
    send(stdin=b"")
    assert stored(catalogue) == {"aurora_000041_dl3.fits", "notes.txt"}


def test_relative_paths_mean_the_same_to_a_run_that_is_elsewhere(
    command: list[str], send: Run, catalogue: Catalogue, silent: str, night: Path
) -> None:
    with running([*command, "--url", silent], cwd=night / "north") as process:
        assert pass_one(process, b"../notes.txt\n") == b"../notes.txt\n"
        process.kill()
    send(stdin=b"")
    assert stored(catalogue) == {"notes.txt"}


# ------------------------------------------------------------------------------- where the storage is, and what made it


def test_paths_go_on_at_once_while_the_catalogue_is_asked_where_the_storage_is(
    command: list[str], catalogue: Catalogue, silent: str, night: Path
) -> None:
    line = os.fsencode(night / "notes.txt") + b"\n"
    with running([*without_root(command), "--url", silent]) as process:
        assert pass_one(process, line) == line


def test_without_a_catalogue_to_ask_paths_are_kept_until_it_says_where_the_storage_is(
    command: list[str], catalogue: Catalogue, night: Path, paths: bytes
) -> None:
    def run(*arguments: str, stdin: bytes) -> subprocess.CompletedProcess[bytes]:
        return subprocess.run(
            [*without_root(command), *arguments],
            input=stdin,
            capture_output=True,
            cwd=CHECKOUT,
            timeout=60,
            check=False,
        )

    away = run("--url", "http://127.0.0.1:9", stdin=paths)
    assert (away.returncode, away.stdout) == (0, paths)
    assert b"the paths are kept for a later run" in away.stderr
    assert run("--url", "http://127.0.0.1:9", "--strict", stdin=paths).returncode == 1
    # The storage is not registered as yet, either.
    assert run(stdin=b"").returncode == 0
    assert stored(catalogue) == set()
    catalogue.root = str(night)
    assert b"14 paths of an earlier run" in run(stdin=b"").stderr
    assert stored(catalogue) == RUNS
    # From now on it is remembered.
    later = run("--url", "http://127.0.0.1:9", stdin=os.fsencode(night / "notes.txt"))
    assert b"1 spooled" in later.stderr


def test_what_a_reprocessing_made_is_recorded_as_such_and_related_to_the_originals(
    send: Run, catalogue: Catalogue, night: Path
) -> None:
    (night / "odd[1].txt").write_text("x")
    names = [f"{NIGHT}/aurora_000041_dl3.fits", "odd[1].txt"]
    stdin = "\n".join(str(night / name) for name in names).encode()
    send("--description", "aurora", "--processing", "pass 2/b", stdin=stdin)
    by_name = {path: record for (_, path), record in catalogue.records.items()}
    assert {record.processing for record in by_name.values()} == {"pass 2/b"}
    assert by_name[names[0]].relations == [Relation(kind="reprocessing_of", obs_id="41")]
    assert by_name[names[1]].relations == [Relation(kind="reprocessing_of", path="**/odd[[]1].txt")]
    assert by_name[names[0]].provenance["processing"] == "named by the caller"


def test_paths_of_a_killed_reprocessing_are_left_to_the_next_one(
    command: list[str], send: Run, catalogue: Catalogue, silent: str, night: Path
) -> None:
    with running([*command, "--url", silent, "--processing", "pass2"]) as process:
        pass_one(process, os.fsencode(night / "notes.txt") + b"\n")
        process.kill()
    send(stdin=b"")
    assert stored(catalogue) == set()
    send("--processing", "pass2", stdin=b"")
    assert [record.processing for record in catalogue.records.values()] == ["pass2"]


# ----------------------------------------------------------------------------------------------- its parts


def test_records_that_waited_arrive_before_newer_ones(
    night: Path, catalogue: Catalogue, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for setting, value in {"AWAY_S": 0.0, "ROUND_PATHS": 1, "MAX_BATCH_AGE_S": -1.0}.items():
        monkeypatch.setattr(f"extractors.pipeline.{setting}", value)
    catalogue.failures = [(503, {})]
    (night / "later.txt").write_text("x")
    extractor = Extractor(tree=LocalTree(night), facility="aurora", storage="s")
    with Client(catalogue.url, catalogue.token, attempts=1) as client, PathBacklog() as backlog:
        forwarder = Forwarder(extractor=extractor, client=client, spool=Spool(tmp_path / "spool"))
        for name in ("notes.txt", "later.txt"):
            backlog.put(os.fsencode(night / name))
        backlog.close()
        forwarder.run(backlog)
    assert [path for _, path in catalogue.records] == ["notes.txt", "later.txt"]
    assert (forwarder.deliveries.spooled, forwarder.deliveries.from_spool, forwarder.deliveries.lost) == (1, 1, 0)


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
