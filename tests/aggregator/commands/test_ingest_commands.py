"""A storage into the catalogue by command: what users see, and what is left when it is killed."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

import extractors
from extractors.client import Client
from tests.aggregator.commands.conftest import Catchment, Service, environ, wait_for
from tests.extractors.conftest import make_aurora

Ingest = Callable[..., str]
RUN = "north/2020/01/20200101/aurora_0000{}_dl3.fits"


@pytest.fixture
def description(tmp_path: Path) -> Path:
    """A Description of a facility of this test's own, which is otherwise aurora."""
    text = (Path(extractors.__file__).parent / "descriptions" / "aurora.toml").read_text()
    path = tmp_path / "dusk.toml"
    path.write_text(text.replace('name = "aurora"', f'name = "dusk-{os.getpid()}-{tmp_path.name[-1]}"'))
    return path


@pytest.fixture
def storage(tmp_path: Path) -> str:
    return f"dusk-{os.getpid()}-{tmp_path.name}"[:64]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    root = tmp_path / "root"
    for run in (41, 42):
        make_aurora(root / RUN.format(run), run=run)
    (root / RUN.format(99)).write_bytes((root / RUN.format(41)).read_bytes()[:3000])
    return root


@pytest.fixture
def there(service: Service, admin: str) -> tuple[str, ...]:
    return ("--url", service.url, "--token", admin)


def counts(said: str) -> dict[str, str]:
    heading, _, row = said.splitlines()[:3]
    return dict(zip(heading.split(), row.split(), strict=True))


def test_what_failed_is_shown_replayed_after_a_mend_and_gone(
    catchment: Catchment, there: tuple[str, ...], storage: str, root: Path, description: Path
) -> None:
    here = (storage, "--root", root, "--description", description, "--processes", "1", *there)
    said = catchment("ingest", *here).stdout
    assert (counts(said)["added"], counts(said)["failed"]) == ("3", "1")
    assert f"failed: {storage}/{RUN.format(99)}: content: " in said
    shown = catchment("ingest", "failed", storage, *there, exit_code=1).stdout
    heading, _, row = shown.splitlines()
    assert heading.split() == ["storage", "path", "stage", "tries", "last", "reason"]
    assert row.split()[:4] == [storage, RUN.format(99), "extraction", "1"]
    assert "ends within a header" in row
    (letter,) = map(
        json.loads, catchment("ingest", "failed", storage, "--json", *there, exit_code=1).stdout.splitlines()
    )
    assert (letter["path"], letter["stage"], letter["tries"]) == (RUN.format(99), "extraction", 1)
    again = catchment("ingest", "replay", *here, exit_code=1)
    assert "1 file failed again" in again.stderr
    (root / RUN.format(99)).unlink()
    make_aurora(root / RUN.format(99), run=99)
    assert counts(catchment("ingest", "replay", *here).stdout)["changed"] == "1"
    assert catchment("ingest", "failed", storage, *there).stdout == "nothing failed\n"


def test_a_rejected_record_is_shown_with_its_line_and_goes_through_once_it_is_declared(
    catchment: Catchment, there: tuple[str, ...], storage: str, root: Path, description: Path
) -> None:
    here = (storage, "--root", root, "--processes", "1", *there)
    catchment("ingest", *here, "--description", description)
    more = description.with_name("more.toml")
    text = description.read_text().replace("attributes = [", 'attributes = [\n    { name = "shift", type = "text" },')
    more.write_text(text.replace("[product.attributes]", '[product.attributes]\nshift = "late"'))
    # Without --root the facility is not registered anew.
    scanned = catchment("ingest", storage, "--description", more, "--again", *there, exit_code=1)
    assert "the catalogue rejected 2 files" in scanned.stderr
    lines = catchment("ingest", "failed", storage, "--json", *there, exit_code=1).stdout.splitlines()
    rejected = [letter for letter in map(json.loads, lines) if letter["stage"] == "ingest"]
    assert {letter["field"] for letter in rejected} == {"attributes.shift"}
    assert all(json.loads(letter["line"])["attributes"]["shift"] == "late" for letter in rejected)
    said = catchment("ingest", "replay", *here, "--description", more, exit_code=1).stdout
    assert (counts(said)["changed"], counts(said)["rejected"], counts(said)["failed"]) == ("2", "0", "1")
    assert RUN.format(41) not in catchment("ingest", "failed", storage, *there, exit_code=1).stdout


def test_a_report_tells_all_counts_and_failures(
    catchment: Catchment, there: tuple[str, ...], storage: str, root: Path, description: Path, tmp_path: Path
) -> None:
    here = (storage, "--root", root, "--description", description, "--processes", "1", *there)
    said = catchment("ingest", *here, "--report", tmp_path / "deep" / "report.json").stdout
    report = json.loads((tmp_path / "deep" / "report.json").read_text())
    assert (report["seen"], report["new"], report["extracted"], report["failed"]) == (3, 3, 2, 1)
    assert [failure["path"] for failure in report["failures"]] == [RUN.format(99)]
    assert f"report: {tmp_path / 'deep' / 'report.json'}" in said
    unnamed = catchment("ingest", *here).stdout.rpartition("report: ")[2].strip()
    assert json.loads(Path(unnamed).read_text())["same"] == 3


def test_a_dry_run_registers_and_sends_nothing(
    catchment: Catchment, there: tuple[str, ...], storage: str, root: Path, description: Path
) -> None:
    here = (storage, "--root", root, "--description", description, "--processes", "1", *there)
    said = catchment("ingest", *here, "--dry-run").stdout
    assert "a dry run: 3 new, 0 changed, 0 read again, 0 vanished; the catalogue was told nothing" in said
    assert storage not in catchment("storage", "list", *there).stdout
    assert catchment("ingest", "failed", storage, *there).stdout == "nothing failed\n"


def test_an_unmounted_storage_is_said_to_be_one(
    catchment: Catchment, there: tuple[str, ...], storage: str, root: Path, description: Path, tmp_path: Path
) -> None:
    here = ("--description", description, "--processes", "1", *there)
    catchment("ingest", storage, "--root", root, *here)
    root.rename(tmp_path / "elsewhere")
    assert "cannot be listed" in catchment("ingest", storage, *here, exit_code=1).stderr
    root.mkdir()
    result = catchment("ingest", storage, *here, exit_code=1)
    assert "is it mounted?" in result.stderr
    assert counts(result.stdout)["removed"] == "0"
    assert counts(catchment("ingest", storage, "--vanished", "all", *here).stdout)["removed"] == "3"


def test_registering_again_keeps_what_else_is_known_of_a_storage(
    service: Service,
    catchment: Catchment,
    there: tuple[str, ...],
    storage: str,
    root: Path,
    description: Path,
    tmp_path: Path,
) -> None:
    catchment("storage", "add", storage, "--root", tmp_path / "old", "--title", "Old disks", *there)
    catchment("ingest", storage, "--root", root, "--description", description, "--processes", "1", *there)
    with Client(service.url, there[-1]) as client:
        kept = client.get_storage(storage)
    assert (kept.root, kept.title, kept.facility) == (str(root), "Old disks", None)


def test_a_publisher_may_ingest_what_an_admin_has_registered(
    service: Service, catchment: Catchment, there: tuple[str, ...], storage: str, root: Path, description: Path
) -> None:
    facility = description.read_text().partition('name = "')[2].partition('"')[0]
    here = (storage, "--root", root, "--description", description, "--processes", "1")
    catchment("ingest", *here, *there)
    made = catchment("token", "create", "--facility", facility, "--data-dir", service.data_dir)
    mine = ("--url", service.url, "--token", made.stdout.strip())
    assert counts(catchment("ingest", *here, *mine).stdout)["same"] == "3"
    assert counts(catchment("ingest", storage, "--description", description, *mine).stdout)["same"] == "3"
    (root / RUN.format(42)).unlink()
    assert counts(catchment("ingest", *here, *mine).stdout)["removed"] == "1"
    refused = catchment("ingest", f"{storage}-2"[-64:], *here[1:], *mine, exit_code=1).stderr
    assert "403 PERMISSION_DENIED" in refused


def count_at_rest(client: Client, storage: str) -> int:
    """Count the files of a storage when the service has done what was sent to it before the sender died."""
    counts = [-1, sum(1 for _ in client.iter_files(storage))]
    while counts[-1] != counts[-2]:
        time.sleep(1)
        counts.append(sum(1 for _ in client.iter_files(storage)))
    return counts[-1]


def test_a_run_that_was_killed_goes_on_where_it_ended(
    service: Service, catchment: Catchment, there: tuple[str, ...], storage: str, tmp_path: Path
) -> None:
    n = 4000
    (tmp_path / "many").mkdir()
    for number in range(n):
        (tmp_path / "many" / f"{number:04}.txt").write_text("x")
    # A hole that takes a minute to read: the run cannot be over before it is killed, however fast the machine.
    os.truncate(tmp_path / "many" / "2500.txt", 50 * 10**9)
    here = ("ingest", storage, "--root", str(tmp_path / "many"), "--facility", f"{storage}-f"[-64:], *there)
    process = subprocess.Popen(
        [sys.executable, "-m", "aggregator", *here, "--processes", "1"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        env=environ(),
        start_new_session=True,
    )
    with Client(service.url, there[-1]) as client, process:

        def has_begun() -> bool:
            assert process.poll() is None, process.communicate()
            return storage in catchment("storage", "list", *there).stdout and any(client.iter_files(storage))

        wait_for(has_begun)
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        os.truncate(tmp_path / "many" / "2500.txt", 1)
        n_before = count_at_rest(client, storage)
        assert 1000 <= n_before < n
        said = counts(catchment(*here).stdout.replace(",", ""))
        assert (said["seen"], said["same"], said["added"]) == (str(n), str(n_before), str(n - n_before))
        assert [file.path for file in client.iter_files(storage)] == [f"{number:04}.txt" for number in range(n)]
