"""A whole storage into a catalogue: the real one, and a stand-in where the wire is to fail."""

import os
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest

from extractors.client import Client
from extractors.courier import IngestReport
from extractors.errors import CatalogueAwayError, RefusedError
from extractors.extract import Extractor
from extractors.ingest import ScanOptions, TooManyVanishedError, register, replay, scan
from extractors.loading import find_description, load_description
from extractors.storages.local_tree import LocalTree
from extractors.storages.trees import RejectedFile, ScannedFile
from metadata_db.records import DeadLetter, KnownFile, Storage
from tests.support.privileges import bound_by_modes

Api = Any
Catalogue = Any
Make = dict[str, Callable[..., None]]

NIGHT = "north/2020/01/20200101"
BUILT_IN = Path(__file__).parents[2] / "extractors" / "descriptions" / "aurora.toml"


def aurora(root: Path, *, description: Path = BUILT_IN, storage: str = "s") -> Extractor:
    return Extractor(
        tree=LocalTree(root), facility="aurora", storage=storage, description=load_description(description)
    )


def plain(root: Path) -> Extractor:
    return Extractor(tree=LocalTree(root), facility="aurora", storage="s")


def run(client: Client, extractor: Extractor, **options: Any) -> IngestReport:
    return scan(extractor, client, options=ScanOptions(processes=1, **options))


def known(client: Client, storage: str = "s") -> dict[str, KnownFile]:
    return {file.path: file for file in client.iter_files(storage)}


def letters(client: Client) -> dict[str | None, DeadLetter]:
    return {letter.path: letter for letter in client.iter_failures(storage="s")}


@pytest.fixture
def client(real: Api, night: Path) -> Iterator[Client]:
    """Return a client of the real service, where the night's storage is registered."""
    with Client(real.url, real.token) as client:
        place = Storage(name="s", root=str(night), facility="aurora")
        register(client, description=find_description("aurora"), facility="aurora", storage=place)
        yield client


def write_many(root: Path, names: list[str]) -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(name)
    return root


# ----------------------------------------------------------------------------- new, same, changed, vanished


def test_every_file_is_catalogued_and_every_failure_told(client: Client, night: Path, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("x")
    (night / "link").symlink_to(tmp_path / "secret")
    os.mkfifo(night / "fifo")
    calls: list[tuple[int, int]] = []
    report = scan(aurora(night), client, options=ScanOptions(processes=2), on_progress=lambda *call: calls.append(call))
    assert (report.seen, report.new, report.extracted, report.unmatched, report.failed) == (7, 7 - 2, 3, 1, 3)
    assert (report.added, report.changed, report.rejected, report.warnings) == (5, 0, 0, 1)
    assert calls[-1] == (7, 7)
    assert calls == sorted(calls)
    runs = {f"{NIGHT}/aurora_0000{run}_dl3.fits" for run in (41, 42, 43, 99)}
    assert known(client).keys() == runs | {"notes.txt"}
    reasons = {path: letter.reason for path, letter in letters(client).items()}
    assert "ends within a header" in reasons.pop(f"{NIGHT}/aurora_000099_dl3.fits")
    assert reasons == {"link": "leads out of the storage by a symbolic link", "fifo": "is a FIFO"}


def test_a_second_run_reads_nothing_and_changes_nothing(client: Client, night: Path) -> None:
    run(client, aurora(night))
    path = night / "notes.txt"
    status = path.stat()
    path.write_text("clear SKY\n")
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    report = run(client, aurora(night))
    assert (report.seen, report.same, report.extracted, report.unmatched, report.failed) == (5, 5, 0, 0, 0)
    assert (report.added, report.changed, report.unchanged, report.removed) == (0, 0, 0, 0)


def test_progress_is_told_to_the_end_when_nothing_is_to_be_read(client: Client, night: Path) -> None:
    run(client, aurora(night))
    calls: list[tuple[int, int]] = []
    scan(aurora(night), client, on_progress=lambda *call: calls.append(call))
    assert calls == [(5, 5)]


@pytest.mark.parametrize("what", ["size", "time"])
def test_a_file_of_another_size_or_time_gets_a_new_version(client: Client, night: Path, what: str) -> None:
    run(client, aurora(night))
    path = night / "notes.txt"
    before = known(client)["notes.txt"]
    if what == "size":
        path.write_text("clouds\n")
    else:
        os.utime(path, (0, 1_500_000_000))
    report = run(client, aurora(night))
    assert (report.same, report.changed_since, report.changed, report.added) == (4, 1, 1, 0)
    after = known(client)["notes.txt"]
    assert (after.size_bytes, after.modified_at) != (before.size_bytes, before.modified_at)
    assert after.modified_at == datetime.fromtimestamp(path.stat().st_mtime_ns // 1000 / 1e6, UTC)


def test_vanished_files_leave_the_catalogue_and_come_back(client: Client, night: Path) -> None:
    run(client, aurora(night))
    (night / "notes.txt").rename(night / "notes-2.txt")
    report = run(client, aurora(night))
    assert (report.new, report.added, report.vanished, report.removed) == (1, 1, 1, 1)
    assert "notes.txt" not in known(client)
    (night / "notes-2.txt").rename(night / "notes.txt")
    report = run(client, aurora(night))
    assert (report.new, report.vanished, report.removed) == (1, 1, 1)
    assert "notes.txt" in known(client)


def test_names_of_all_kinds_are_the_same_files_the_next_time(client: Client, tmp_path: Path) -> None:
    accents = ["\u00e9", "e\u0301"]
    names = ["a/b", "a!", "a-b", "a.b", "a0", *accents, "z", "Z", "\U0001f600", "\uffff", "a b", "%2e", "~", "_", "'\""]
    root = write_many(tmp_path / "odd", [*names, "folder/" + "x" * 200])
    assert run(client, plain(root)).added == len(names) + 1
    report = run(client, plain(root))
    assert (report.same, report.new, report.vanished) == (len(names) + 1, 0, 0)


# ---------------------------------------------------------------------------- when the storage is not to be believed


@pytest.mark.parametrize("n_files", [4, 30])
def test_an_empty_root_takes_nothing_out_unless_told_so(client: Client, tmp_path: Path, n_files: int) -> None:
    root = write_many(tmp_path / "mounted", [f"{number}.txt" for number in range(n_files)])
    run(client, plain(root))
    (tmp_path / "unmounted").mkdir()
    with pytest.raises(TooManyVanishedError, match=f"{n_files} of the {n_files} files known on s") as caught:
        run(client, plain(tmp_path / "unmounted"))
    assert (caught.value.report.vanished, caught.value.report.removed) == (n_files, 0)
    assert len(known(client)) == n_files
    assert run(client, plain(tmp_path / "unmounted"), vanished="none").removed == 0
    assert run(client, plain(tmp_path / "unmounted"), vanished="all").removed == n_files
    assert known(client) == {}


def test_only_a_tenth_of_the_files_may_vanish_at_once(client: Client, tmp_path: Path) -> None:
    names = [f"{number:03}.txt" for number in range(130)]
    root = write_many(tmp_path / "root", names)
    run(client, plain(root))
    for name in names[:13]:
        (root / name).unlink()
    assert run(client, plain(root)).removed == 13
    for name in names[13:26]:
        (root / name).unlink()
    (root / "new.txt").write_text("x")
    with pytest.raises(TooManyVanishedError) as caught:
        run(client, plain(root))
    assert caught.value.report.added == 1
    assert len(known(client)) == 118


def test_a_folder_that_cannot_be_listed_keeps_its_files(client: Client, night: Path) -> None:
    run(client, aurora(night))
    (night / "north" / "2020").chmod(0)
    try:
        with bound_by_modes():
            report = run(client, aurora(night))
    finally:
        (night / "north" / "2020").chmod(0o755)
    assert (report.seen, report.same, report.unseen, report.vanished, report.removed) == (2, 1, 4, 0, 0)
    assert len(known(client)) == 5
    assert "cannot be listed" in letters(client)["north/2020"].reason


class BlindTree(LocalTree):
    """A folder in which one file appeared after it was listed."""

    def walk(self) -> Iterator[ScannedFile | RejectedFile]:
        return (found for found in super().walk() if found.path != "notes.txt")


def test_a_file_that_another_process_catalogued_behind_the_walk_is_not_removed(client: Client, night: Path) -> None:
    run(client, aurora(night))
    report = run(client, Extractor(tree=BlindTree(night), facility="aurora", storage="s"))
    assert (report.vanished, report.removed) == (1, 0)
    assert "notes.txt" in known(client)


def test_a_dry_run_tells_the_catalogue_nothing(client: Client, night: Path, tmp_path: Path) -> None:
    before = run(client, aurora(night)) and known(client)
    there = letters(client)
    (night / "notes.txt").unlink()
    (night / "more.txt").write_text("x")
    (night / f"{NIGHT}/aurora_000041_dl3.fits").write_bytes(b"damaged")
    report = run(client, aurora(night), is_dry=True)
    assert (report.new, report.changed_since, report.vanished, report.failed) == (1, 1, 1, 1)
    assert (report.added, report.changed, report.removed) == (0, 0, 0)
    assert known(client) == before
    assert letters(client) == there


def test_a_dry_run_may_be_about_a_storage_that_is_not_registered(client: Client, night: Path) -> None:
    assert run(client, aurora(night, storage="unheard-of"), is_dry=True).new == 5
    with pytest.raises(RefusedError, match="unheard-of"):
        run(client, aurora(night, storage="unheard-of"))


def test_on_a_shared_storage_nobody_takes_out_the_files_of_others(client: Client, tmp_path: Path, make: Make) -> None:
    root = tmp_path / "shared"
    place = Storage(name="shared", root=str(root))
    for name in ("aurora", "borealis"):
        register(client, description=find_description(name), facility=name, storage=place)
    make["aurora"](root / f"{NIGHT}/aurora_000041_dl3.fits")
    assert run(client, aurora(root, storage="shared")).added == 1
    make["borealis"](root / "s03/2021/borealis_s03_20210317.h5")
    theirs = Extractor(
        tree=LocalTree(root), facility="borealis", storage="shared", description=find_description("borealis")
    )
    report = run(client, theirs)
    assert (report.added, report.rejected, report.vanished) == (1, 1, 0)
    assert "aurora" in report.rejections[0].reason
    report = run(client, replace(theirs, only_matched=True))
    assert (report.same, report.unmatched, report.rejected) == (1, 1, 0)
    (root / f"{NIGHT}/aurora_000041_dl3.fits").unlink()
    assert run(client, theirs).vanished == 0
    assert {file.facility for file in known(client, "shared").values()} == {"aurora", "borealis"}


# ------------------------------------------------------------------------------------------ reading once more


def described_anew(tmp_path: Path, old: str, new: str) -> Path:
    """Return the Description of aurora as its next version."""
    text = BUILT_IN.read_text()
    assert old in text
    path = tmp_path / "aurora.toml"
    path.write_text(text.replace('version = "1"', 'version = "2"').replace(old, new))
    return path


def test_another_description_changes_only_records_whose_values_change_and_is_not_applied_twice(
    client: Client, night: Path, tmp_path: Path, make: Make
) -> None:
    make["aurora"](night / f"{NIGHT}/aurora_000044_dl3.fits", run=44, WEATHER="clear")
    run(client, aurora(night))
    old = 'conditions = { content = "EVENTS.WEATHER" }'
    new = 'conditions = { content = "EVENTS.WEATHER", words = { clear = "good", "thin cloud" = "thin cloud" } }'
    description = described_anew(tmp_path, old, new)
    extractor = aurora(night, description=description)
    assert run(client, extractor).same == 6
    report = run(client, extractor, again=True)
    # The damaged file was read by no Description.
    assert (report.same, report.reread, report.changed, report.unchanged) == (0, 6, 1, 5)
    labels = {file.description for file in known(client).values()}
    assert labels == {load_description(description).label, None}
    report = run(client, extractor, again=True)
    assert (report.same, report.reread, report.changed) == (5, 1, 0)


def test_bytes_that_changed_in_secret_are_found_when_checksums_are_due(client: Client, night: Path) -> None:
    run(client, aurora(night))
    path = night / "notes.txt"
    status = path.stat()
    path.write_text("clear SKY\n")
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    long_ago = datetime.now(UTC) - timedelta(days=1)
    assert run(client, aurora(night), checked_before=long_ago).same == 5
    report = run(client, aurora(night), checked_before=datetime.now(UTC) + timedelta(hours=2))
    assert (report.same, report.reread, report.changed, report.unchanged) == (0, 5, 1, 4)


# -------------------------------------------------------------------------------------------------- interruptions


class BrokenLine(httpx.HTTPTransport):
    """Delivers some batches of records, and then no more."""

    def __init__(self, batches: int) -> None:
        super().__init__()
        self._batches = batches

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        if request.method == "POST":
            self._batches -= 1
            if self._batches < 0:
                raise httpx.ConnectError("the line is broken")
        return super().handle_request(request)


def test_a_run_that_was_interrupted_goes_on_where_it_ended(
    client: Client, real: Api, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("extractors.courier.BATCH_RECORDS", 10)
    root = write_many(tmp_path / "root", [f"{number:03}.txt" for number in range(50)])
    with (
        Client(real.url, real.token, attempts=1, transport=BrokenLine(batches=2)) as broken,
        pytest.raises(CatalogueAwayError),
    ):
        run(broken, plain(root))
    assert len(known(client)) == 20
    report = run(client, plain(root))
    assert (report.same, report.new, report.added, report.vanished) == (20, 30, 30, 0)
    assert run(client, plain(root)).same == 50


# --------------------------------------------------------------------------------------------------- dead letters


def test_a_mended_file_is_replayed_and_its_letter_goes(client: Client, night: Path, make: Make) -> None:
    run(client, aurora(night))
    path = f"{NIGHT}/aurora_000099_dl3.fits"
    assert letters(client)[path].tries == 1
    report = replay(aurora(night), client, options=ScanOptions(processes=1))
    assert (report.seen, report.failed) == (1, 1)
    assert letters(client)[path].tries == 2
    (night / path).unlink()
    make["aurora"](night / path, run=99)
    report = replay(aurora(night), client, options=ScanOptions(processes=1))
    assert (report.seen, report.failed, report.changed) == (1, 0, 1)
    assert letters(client) == {}


def test_letters_go_with_their_files_and_stay_with_what_may_not_be_catalogued(
    client: Client, night: Path, tmp_path: Path
) -> None:
    (night / "bad\nname").write_text("x")
    Path(os.fsdecode(os.fsencode(night) + b"/\xff")).write_text("x")
    os.mkfifo(night / "fifo")
    os.mkfifo(night / "fifo-2")
    run(client, aurora(night))
    names = {"bad\\nname", r"\xff", "fifo", "fifo-2", f"{NIGHT}/aurora_000099_dl3.fits"}
    assert letters(client).keys() == names
    (tmp_path / "unmounted").mkdir()
    replay(aurora(tmp_path / "unmounted"), client)
    assert letters(client).keys() == names
    (night / "fifo").unlink()
    (night / f"{NIGHT}/aurora_000099_dl3.fits").unlink()
    report = replay(aurora(night), client)
    assert report.failed == 3
    assert letters(client).keys() == {"bad\\nname", r"\xff", "fifo-2"}


def test_a_file_that_came_to_match_nothing_has_no_letter_any_more(client: Client, night: Path, tmp_path: Path) -> None:
    run(client, aurora(night))
    description = described_anew(tmp_path, "aurora_(?P<run>", "telescope_(?P<run>")
    report = replay(aurora(night, description=description), client)
    assert (report.unmatched, report.failed) == (1, 0)
    assert letters(client) == {}


def test_a_rejected_record_is_kept_and_goes_through_once_the_vocabulary_is_mended(
    client: Client, night: Path, tmp_path: Path
) -> None:
    declared = '    { name = "night", type = "text", meaning = "Date on which the night began, YYYYMMDD" },\n'
    more = described_anew(tmp_path, declared, f'{declared}    {{ name = "shift", type = "text" }},\n')
    text = more.read_text().replace("[product.attributes]", '[product.attributes]\nshift = "late"')
    more.write_text(text)
    extractor = aurora(night, description=more)
    report = run(client, extractor)
    assert report.rejected == 3
    path = f"{NIGHT}/aurora_000041_dl3.fits"
    letter = letters(client)[path]
    assert (letter.stage, letter.field) == ("ingest", "attributes.shift")
    assert letter.line is not None
    assert '"shift":"late"' in letter.line
    assert replay(extractor, client).rejected == 3
    client.put_facility(load_description(more).facility)
    report = replay(extractor, client)
    assert (report.added, report.rejected) == (3, 0)
    assert letters(client).keys() == {f"{NIGHT}/aurora_000099_dl3.fits"}


# ------------------------------------------------------------------------------------- a wire that fails (stand-in)


def ingest(night: Path, catalogue: Catalogue, *, token: str | None = None) -> IngestReport:
    with Client(catalogue.url, token or catalogue.token, attempts=2, first_delay_s=0.01) as client:
        return run(client, aurora(night))


def test_batches_are_bounded(night: Path, catalogue: Catalogue, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("extractors.courier.BATCH_RECORDS", 2)
    assert ingest(night, catalogue).added == 5
    assert catalogue.batches == [2, 2, 1]


def test_rejections_name_the_file(night: Path, catalogue: Catalogue) -> None:
    catalogue.reject = lambda record: "not wanted" if record.path == "notes.txt" else None
    report = ingest(night, catalogue)
    assert report.rejected == 1
    assert [(rejection.path, rejection.reason) for rejection in report.rejections] == [
        ("notes.txt", "path: not wanted")
    ]


def test_a_batch_refused_for_its_content_does_not_end_the_run_and_is_not_forgotten(
    night: Path, catalogue: Catalogue
) -> None:
    catalogue.failures = [(413, {})]
    report = ingest(night, catalogue)
    assert (report.rejected, report.added, len(report.rejections)) == (5, 0, 5)
    assert "413" in report.rejections[0].reason
    assert sum("413" in reason for reason in catalogue.told.values()) == 4


def test_a_catalogue_that_is_away_ends_the_run_and_the_next_goes_on(night: Path, catalogue: Catalogue) -> None:
    catalogue.failures = [(503, {})] * 2
    with pytest.raises(CatalogueAwayError):
        ingest(night, catalogue)
    assert ingest(night, catalogue).added == 5


def test_a_wrong_token_ends_the_run(night: Path, catalogue: Catalogue) -> None:
    with pytest.raises(RefusedError, match="401"):
        ingest(night, catalogue, token="wrong")


def test_registering_puts_authority_facility_and_storage_in_this_order(catalogue: Catalogue) -> None:
    storage = Storage(name="s", root="/data", facility="aurora")
    with Client(catalogue.url, catalogue.token) as client:
        register(client, description=find_description("aurora"), facility="aurora", storage=storage)
        register(client, description=None, facility="plain", storage=storage)
    paths = [path for _, path, _ in catalogue.requests]
    assert paths == [
        "/api/v1/authorities/aurora-consortium", "/api/v1/facilities/aurora", "/api/v1/storages/s",
        "/api/v1/facilities/plain", "/api/v1/storages/s",
    ]  # fmt: skip
    assert [entry["name"] for entry in catalogue.requests[1][2]["clusters"]] == ["north", "south"]


def test_a_description_of_another_facility_is_not_registered(catalogue: Catalogue) -> None:
    with Client(catalogue.url, catalogue.token) as client, pytest.raises(ValueError, match="expected 'aurora'"):
        register(client, description=find_description("aurora"), facility="x", storage=Storage(name="s", root="/data"))
    assert catalogue.requests == []
