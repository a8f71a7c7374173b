"""The commands that print: check and show; and what importing costs."""

import subprocess
import sys
from pathlib import Path

import msgspec
import pytest
from click.testing import CliRunner

from extractors.__main__ import main
from metadata_db.records import FileRecord

DESCRIPTIONS = Path(__file__).parents[2] / "extractors" / "descriptions"


@pytest.fixture
def runner() -> CliRunner:
    return CliRunner()


def test_check_approves_of_every_built_in_description(runner: CliRunner) -> None:
    done = runner.invoke(main, ["check", *map(str, sorted(DESCRIPTIONS.glob("*.toml")))])
    assert done.exit_code == 0
    assert "hess.toml: good: hess@1, products events, index, terms" in done.stdout


def test_check_tells_the_line_of_each_mistake_and_goes_on(runner: CliRunner, tmp_path: Path) -> None:
    (tmp_path / "bad.toml").write_text('format = 1\nname = "x"\nversion = 3\n')
    done = runner.invoke(main, ["check", str(tmp_path / "bad.toml"), "gone.toml", str(DESCRIPTIONS / "hess.toml")])
    assert done.exit_code == 1
    assert f"{tmp_path / 'bad.toml'}:3: version: " in done.stderr
    assert "gone.toml" in done.stderr
    assert "hess.toml: good" in done.stdout


def test_show_prints_every_value_with_its_source(runner: CliRunner, night: Path) -> None:
    path = str(night / "north/2020/01/20200101/aurora_000041_dl3.fits")
    done = runner.invoke(main, ["show", "--root", str(night), "aurora", path], env={"COLUMNS": "160"})
    assert done.exit_code == 0, done.output
    for words in ("Crab Nebula", "content EVENTS.OBJECT", "attributes.livetime_s", "name (cluster)", "storage"):
        assert words in done.stdout


def test_show_prints_the_record_as_it_would_be_sent(runner: CliRunner, night: Path) -> None:
    path = night / "north/2020/01/20200101/aurora_000041_dl3.fits"
    done = runner.invoke(main, ["show", "--json", "--root", str(night), "--description", "aurora", str(path)])
    (line,) = done.stdout.splitlines()
    record = msgspec.json.decode(line, type=FileRecord)
    assert (record.path, record.run) == ("north/2020/01/20200101/aurora_000041_dl3.fits", 41)


def test_show_tells_what_cannot_be_read_and_shows_the_rest(runner: CliRunner, night: Path) -> None:
    names = [str(night / "north/2020/01/20200101/aurora_000099_dl3.fits"), "/etc/passwd", str(night / "notes.txt")]
    done = runner.invoke(main, ["show", "--root", str(night), "aurora", *names])
    assert done.exit_code == 1
    assert "ends within a header" in done.stderr
    assert "/etc/passwd: is not below the storage's root" in done.stderr
    assert "no product of the Description matches" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["show", "aurora"], "at least one data file"),
        (["show", "nobody", "x"], "expected a Description's file or one of aurora"),
        (["send", "--url", "http://x", "--token", "t", "--storage", "s", "--root", "."], "name the facility"),
        (
            ["send", "--url", "http://x", "--token", "t", "--storage", "s", "--root", ".",
             "--description", "hess", "--facility", "x"],
            "expected the Description's 'hess'",
        ),
        (["send", "--url", "x", "--token", "t", "--storage", "s", "--root", ".", "--facility", "x"], "must begin with"),
    ],
    ids=range(5),
)  # fmt: skip
def test_mistakes_in_the_call_say_what_was_expected(arguments: list[str], message: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "extractors", *arguments],
        capture_output=True, text=True, stdin=subprocess.DEVNULL, cwd=DESCRIPTIONS.parents[1], timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode != 0
    assert message in " ".join(done.stderr.split())
    assert "Traceback" not in done.stderr


def test_importing_the_extractors_brings_nothing_heavy() -> None:
    program = (
        "import sys, extractors.__main__, extractors.ingest, extractors.readers.fits, extractors.readers.hdf5;"
        "print(*{name.split('.')[0] for name in sys.modules})"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        cwd=DESCRIPTIONS.parents[1],
        timeout=60,
        check=True,
    )
    heavy = {"sqlalchemy", "redis", "strawberry", "astropy", "h5py", "numpy", "aggregator", "psycopg", "starlette"}
    assert heavy.isdisjoint(done.stdout.split())
    assert "extractors" in done.stdout.split()
