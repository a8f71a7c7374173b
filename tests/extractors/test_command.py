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
    paths = sorted(DESCRIPTIONS.rglob("*.toml"))
    done = runner.invoke(main, ["check", *map(str, paths)])
    assert (done.exit_code, done.stderr) == (0, "")
    assert len(done.stdout.splitlines()) == len(paths) >= 12
    assert "aurora.toml: good: aurora@1, products simulation, events\n" in done.stdout


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


def test_show_of_headers_alone_makes_no_checksums_and_of_a_reprocessing_says_so(runner: CliRunner, night: Path) -> None:
    path = str(night / "north/2020/01/20200101/aurora_000041_dl3.fits")
    options = ["--header-only", "--processing", "pass2", "--json", "--root", str(night)]
    done = runner.invoke(main, ["show", *options, "aurora", path])
    record = msgspec.json.decode(done.stdout, type=FileRecord)
    assert (record.sha256, record.n_events, record.processing) == (None, 3, "pass2")
    assert [relation.kind for relation in record.relations] == ["reprocessing_of"]


def test_show_takes_a_description_of_the_user_s_own_and_tells_its_warnings(
    runner: CliRunner, night: Path, tmp_path: Path
) -> None:
    before, after = '"EVENTS.OBJECT" }', '"EVENTS.OBJ", required = true }'
    (tmp_path / "mine.toml").write_text((DESCRIPTIONS / "aurora.toml").read_text().replace(before, after))
    path = str(night / "north/2020/01/20200101/aurora_000041_dl3.fits")
    done = runner.invoke(
        main, ["show", "--root", str(night), str(tmp_path / "mine.toml"), path], env={"COLUMNS": "160"}
    )
    assert done.exit_code == 0
    assert "warning: object: nothing found, though the Description requires it" in done.stdout
    assert "Crab Nebula" not in done.stdout


def test_the_schema_is_printed_as_json(runner: CliRunner) -> None:
    done = runner.invoke(main, ["schema"])
    assert done.exit_code == 0
    assert msgspec.json.decode(done.stdout)["title"].startswith("Catchment metadata description")


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
        (["pass", "--url", "http://x", "--token", "t", "--root", "s3://me:secret@x/y", "--facility", "x"], "--root: "),
        (["show", "--root", "s3://me:secret@x/y", "aurora", "x"], "--root: "),
    ],
    ids=range(7),
)  # fmt: skip
def test_mistakes_in_the_call_say_what_was_expected(arguments: list[str], message: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "extractors", *arguments],
        capture_output=True, text=True, stdin=subprocess.DEVNULL, cwd=DESCRIPTIONS.parents[1], timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode != 0
    assert message in " ".join(done.stderr.split())
    assert "Traceback" not in done.stderr
    assert "secret" not in done.stderr


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
