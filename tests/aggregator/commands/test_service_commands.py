"""The commands that talk to a service, against one that runs as users run it."""

import json
import shutil
import zipfile
from pathlib import Path

import pytest

from aggregator.commands.remote import Remote
from tests.aggregator.commands.conftest import Catchment, Service


@pytest.fixture
def aurora(service: Service, samples: Path, catchment: Catchment, admin: str) -> Path:
    """Root of a storage that is in the catalogue."""
    root = samples / "aurora"
    catchment(
        *("ingest", "aurora", "--root", root, "--description", "aurora"),
        *("--url", service.url, "--token", admin, "--processes", "1"),
    )
    return root


def count_files(root: Path) -> int:
    return sum(path.is_file() for path in root.rglob("*"))


def test_a_token_is_made_listed_and_revoked(service: Service, catchment: Catchment) -> None:
    here = ("--data-dir", service.data_dir)
    token = catchment("token", "create", "--facility", "hess", "--facility", "magic", "--note", "site", *here).stdout
    token_id = token.split("_")[1]
    row = next(line for line in catchment("token", "list", *here).stdout.splitlines() if token_id in line)
    assert "publisher" in row
    assert "hess, magic" in row
    assert token.strip().split("_", 2)[2] not in row
    assert catchment("token", "revoke", token_id, *here).stdout == f"token {token_id} is revoked\n"
    refused = catchment("storage", "list", "--url", service.url, "--token", token.strip(), exit_code=1)
    assert "a valid token is needed" in refused.stderr


def test_a_token_needs_a_purpose_and_an_unknown_one_cannot_be_revoked(service: Service, catchment: Catchment) -> None:
    assert "give --admin, or at least one --facility" in catchment("token", "create", exit_code=2).stderr
    missing = catchment("token", "revoke", "0" * 12, "--data-dir", service.data_dir, exit_code=1)
    assert missing.stderr == "Error: no token '000000000000'\n"


def test_storages_are_registered_listed_and_tested(
    service: Service, catchment: Catchment, admin: str, tmp_path: Path
) -> None:
    (tmp_path / "a.fits").touch()
    there = ("--url", service.url, "--token", admin)
    catchment("storage", "add", "attic", "--root", tmp_path, "--title", "Attic", *there)
    listed = [line.split() for line in catchment("storage", "list", *there).stdout.splitlines()]
    assert ["attic", str(tmp_path), "-", "yes", "Attic"] in listed
    assert catchment("storage", "test", "attic", *there).stdout == f"{tmp_path}: can be read, 1 file\n"
    (tmp_path / "a.fits").unlink()
    assert "is it mounted here?" in catchment("storage", "test", "--root", tmp_path).stdout
    said = catchment("storage", "test", "--root", tmp_path / "gone", exit_code=1).stderr
    assert "is not there: is it mounted on this host" in said
    assert "no storage 'cellar'" in catchment("storage", "test", "cellar", *there, exit_code=1).stderr


def test_ingest_counts_what_it_did_and_doing_it_again_changes_nothing(
    service: Service, samples: Path, catchment: Catchment, admin: str
) -> None:
    root = samples / "borealis"
    here = ("ingest", "borealis", "--root", root, "--description", "borealis", "--processes", "1")
    there = ("--url", service.url, "--token", admin)
    n = count_files(root)
    first = dict(zip(*map(str.split, catchment(*here, *there).stdout.splitlines()[0:3:2]), strict=True))
    assert first == dict.fromkeys(first, "0") | {"storage": "borealis"} | dict.fromkeys(
        ("seen", "extracted", "added"), str(n)
    )
    said = catchment("ingest", "borealis", "--description", "borealis", *there).stdout
    again = dict(zip(*map(str.split, said.splitlines()[0:3:2]), strict=True))
    assert again == dict.fromkeys(again, "0") | {"storage": "borealis", "seen": str(n), "same": str(n)}


def test_ingest_tells_mistakes_of_its_caller(
    service: Service, catchment: Catchment, admin: str, tmp_path: Path
) -> None:
    here = ("--url", service.url, "--token", admin)
    assert "name the facility" in catchment("ingest", "x", "--root", tmp_path, *here, exit_code=2).stderr
    said = catchment("ingest", "x", "--facility", "x", *here, exit_code=2).stderr
    assert "no storage 'x' is registered" in said
    assert "say where it is with --root" in said
    there = ("--url", service.url, "--token", "catchment_no")
    said = catchment("ingest", "x", "--root", tmp_path, "--description", "nobodys", *there, exit_code=2).stderr
    assert "--description: got 'nobodys', expected a Description's file or one of aurora, borealis" in said
    said = catchment("ingest", "x", "--root", tmp_path, "--facility", "x", *there, exit_code=1).stderr
    assert "a valid token is needed" in said


def test_search_shows_count_bytes_id_and_files(service: Service, aurora: Path, catchment: Catchment) -> None:
    said = catchment("search", "--facility", "aurora", "--url", service.url).stdout
    assert said.startswith(f"{count_files(aurora)} files, ")
    assert "_dl3.fits" in said
    page = catchment("search", "--facility", "aurora", "--first", "1", "--url", service.url).stdout
    cursor = page.partition("more: --after ")[2].strip()
    following = catchment(
        "search", "--facility", "aurora", "--first", "1", "--after", cursor, "--url", service.url
    ).stdout
    assert following.splitlines()[5:] != page.splitlines()[5:]


def test_search_answers_as_of_an_earlier_moment(service: Service, aurora: Path, catchment: Catchment) -> None:
    here = ("search", "--facility", "aurora", "--url", service.url)
    said = catchment(*here).stdout
    revision = said.partition("revision ")[2].split()[0]
    assert catchment(*here, "--as-of", revision).stdout == said
    assert catchment(*here, "--as-of", "0").stdout.startswith("0 files, ")
    assert catchment(*here, "--as-of", "2001-01-01").stdout.startswith("0 files, ")
    assert "asOf.moment" in catchment(*here, "--as-of", "2999-01-01", exit_code=2).stderr
    assert "asOf.revision" in catchment(*here, "--as-of", "999999", exit_code=2).stderr
    get = ("get", *here[1:], "--output", aurora.parent, "--as-of", "0")
    assert "no file matches" in catchment(*get, exit_code=1).stderr


def test_search_sends_a_list_of_alerts_and_asks_by_its_id(
    service: Service, catchment: Catchment, tmp_path: Path
) -> None:
    path = tmp_path / "bursts.csv"
    path.write_text("mjd,ra,dec\n58789.5,83.6,22\n")
    near = ("--near", path, "--within-s", "600", "--within-deg", "5", "--url", service.url)
    asked = json.loads(catchment("search", *near, "--json").stdout)["canonical"]["coincidence"]
    assert (asked["within_s"], asked["within_deg"]) == (600, 5)
    with Remote(service.url) as remote:
        assert asked["alert_list"] == remote.put_alerts(path)
        kept = remote.http.get(f"/api/v1/alerts/{asked['alert_list']}").json()
    assert kept == [{"time": "2019-11-02T12:00:00.000000Z", "ra_deg": 83.6, "dec_deg": 22.0}]
    path.write_text("mjd,ra,dec\nsoon,83.6,22\n")
    said = catchment("search", *near, exit_code=2).stderr
    assert f"{path}: line 2, mjd: got 'soon', expected a modified Julian date" in said


def test_search_as_json_is_one_document(service: Service, aurora: Path, catchment: Catchment) -> None:
    said = catchment("search", "--facility", "aurora", "--simulated", "--json", "--url", service.url).stdout
    answer = json.loads(said)
    assert answer["canonical"] == {"facility": ["aurora"], "is_simulation": True}
    assert answer["totalCount"]["value"] == len(list((aurora / "sim").iterdir())) == len(answer["files"]["nodes"])


def test_every_filter_is_one_that_the_service_knows(service: Service, aurora: Path, catchment: Catchment) -> None:
    catchment(
        "search",
        *("--facility", "aurora", "--cluster", "north", "--storage", "aurora", "--level", "DL3", "--kind", "events"),
        *("--format", "fits", "--obs-id", "10001", "--object", "Crab Nebula", "--processing", "x", "--quality", "good"),
        *("--conditions", "clear", "--path", "**/*.fits", "--begin", "2018-01-01", "--end", "2020-01-01"),
        *("--run", "10001..10002", "--energy", "1..10 TeV", "--cone", "83.6,22,2", "--measured", "--url", service.url),
    )
    for preset in (("--season", "2018/19"), ("--month", "2018-11"), ("--week", "2018-W45"), ("--night", "2018-11-02")):
        catchment("search", *preset, "--url", service.url)


def test_a_filter_that_makes_no_sense_is_a_misuse(service: Service, catchment: Catchment) -> None:
    said = catchment("search", "--season", "2018/21", "--url", service.url, exit_code=2).stderr
    assert said.startswith("Error: filter.time.season: got '2018/21', expected a season such as 2019/20")
    assert "filter.facility" in catchment("search", "--facility", "nobody", "--url", service.url, exit_code=2).stderr


def test_get_brings_a_verified_archive_and_knows_it_again(
    service: Service, aurora: Path, catchment: Catchment, tmp_path: Path
) -> None:
    wanted = ("get", "--facility", "aurora", "--simulated", "--output", tmp_path, "--url", service.url)
    first = catchment(*wanted)
    (path,) = tmp_path.iterdir()
    names = [name for name in zipfile.ZipFile(path).namelist() if "/data/" in name]
    assert len(names) == len(list((aurora / "sim").iterdir()))
    assert "agree with the manifest" in first.stdout
    assert "download: " in first.stderr
    modified = path.stat().st_mtime_ns
    again = catchment("get", "--query", path.stem, "--output", tmp_path, "--url", service.url)
    assert "download: " not in again.stderr
    assert path.stat().st_mtime_ns == modified


def test_get_finds_an_archive_that_was_damaged_on_this_disk(
    service: Service, aurora: Path, catchment: Catchment, tmp_path: Path
) -> None:
    wanted = ("get", "--facility", "aurora", "--simulated", "--output", tmp_path, "--url", service.url)
    catchment(*wanted)
    (path,) = tmp_path.iterdir()
    content = bytearray(path.read_bytes())
    content[len(content) * 3 // 4] ^= 1
    path.write_bytes(content)
    result = catchment(*wanted, exit_code=1)
    assert "wrong: " in result.stdout
    assert "remove it, and get it again" in result.stderr


def test_get_names_what_could_not_be_had_and_exits_with_3(
    service: Service, samples: Path, catchment: Catchment, admin: str, tmp_path: Path
) -> None:
    root = tmp_path / "cascade"
    shutil.copytree(samples / "cascade", root)
    catchment(
        *("ingest", "cascade", "--root", root, "--description", "cascade"),
        *("--url", service.url, "--token", admin, "--processes", "1"),
    )
    gone, changed = sorted(root.rglob("*.fits"))[:2]
    gone.unlink()
    changed.write_bytes(changed.read_bytes()[:-1] + b"!")
    result = catchment(
        *("get", "--facility", "cascade", "--output", tmp_path / "out", "--url", service.url), exit_code=3
    )
    told = [line for line in result.stdout.splitlines() if line.startswith("missing: ")]
    assert len(told) == 2
    assert any(str(gone.relative_to(root)) in line and "not found" in line for line in told), told
    assert any(str(changed.relative_to(root)) in line and "changed since" in line for line in told), told
    assert f"{count_files(root) - 1} file" in result.stdout


def test_get_of_nothing_is_a_failure(service: Service, aurora: Path, catchment: Catchment, tmp_path: Path) -> None:
    there = ("--output", tmp_path, "--url", service.url)
    assert "no file matches" in catchment("get", "--obs-id", "nobody knows", *there, exit_code=1).stderr
    assert "knows no question" in catchment("get", "--query", "0" * 32, *there, exit_code=1).stderr
    assert "give filters, or" in catchment("get", *there, exit_code=2).stderr
    assert "give filters, or" in catchment("get", "--query", "0" * 32, "--run", "1", *there, exit_code=2).stderr


def test_exports_are_listed_and_shown(service: Service, aurora: Path, catchment: Catchment, tmp_path: Path) -> None:
    catchment("get", "--facility", "aurora", "--simulated", "--output", tmp_path, "--url", service.url)
    query_id = next(tmp_path.iterdir()).stem
    listed = catchment("export", "list", "--data-dir", service.data_dir).stdout
    row = next(line for line in listed.splitlines() if query_id in line)
    assert "COMPLETED" in row
    shown = catchment("export", "show", row.split()[0], "--url", service.url).stdout
    assert "state:     COMPLETED" in shown
    assert f"archive:   {service.url}/exports/" in shown
    assert "knows no export" in catchment("export", "show", "0" * 32, "--url", service.url, exit_code=1).stderr


def test_cancelling_what_is_complete_leaves_it(
    service: Service, aurora: Path, catchment: Catchment, tmp_path: Path
) -> None:
    catchment("get", "--facility", "aurora", "--simulated", "--output", tmp_path, "--url", service.url)
    with Remote(service.url) as remote:
        export = remote.prepare(next(tmp_path.iterdir()).stem)
        catchment("export", "cancel", export.id, "--url", service.url, exit_code=None)
        assert remote.get_export(export.id).state == "COMPLETED"


def test_something_else_than_a_service_is_told_in_plain_words(service: Service, catchment: Catchment) -> None:
    said = catchment("search", "--url", f"{service.url}/web", exit_code=1).stderr
    assert "is --url right?" in said
    assert "expected an address such as" in catchment("search", "--url", "localhost:8000", exit_code=2).stderr
