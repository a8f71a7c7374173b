"""Names in archives: nothing that some system cannot hold, no two alike, and as few changes as that takes."""

import hashlib
import json
import unicodedata
from io import BytesIO
from pathlib import Path, PureWindowsPath

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from aggregator.staging.manifest import Entry, Header, Missing, encode_manifest, iter_entries, iter_missing, read_header
from aggregator.staging.naming import find_names, fold, put_names, safe_path
from metadata_db.records import PathError, check_path


def is_path(path: str) -> bool:
    try:
        check_path(path)
    except PathError:
        return False
    return True


ODD = st.sampled_from(
    [
        *(
            "con",
            "NUL.fits",
            "com1",
            "a.",
            "a ",
            "a\u3000",
            "a\\b",
            "..\\..\\evil",
            "C:",
            "x:y",
            "50%",
            "%0A",
            "a?b",
            "a*b",
        ),
        *("e\u0301", "\u00e9", "E\u0301", "ß", "SS", "ss", "\ufb01", "FI", "i", "\u0130", "I", "\u0131", "K", "\u212a"),
        *("a\u2028b", "\u202egnp.exe", "A", "a", "data", "bagit.txt", "~", ".hidden", "-rf", "\ufffe", "a\x85b", " a"),
        *("...a", "a b", "n" * 255, "é" * 127),
    ]
)
PARTS = ODD | st.text(st.characters(exclude_characters="/", exclude_categories=("Cs", "Cc")), min_size=1, max_size=8)
PATHS = st.lists(PARTS, min_size=1, max_size=3).map("/".join).filter(is_path)


def without_files_that_are_folders(paths: list[str]) -> list[str]:
    """What can be staged: a folder cannot be where a file is."""
    return sorted(set(paths) - parents_of(paths), key=str.encode)


def parents_of(paths: list[str]) -> set[str]:
    return {path[:at] for path in paths for at, letter in enumerate(path) if letter == "/"}


TREES = st.lists(PATHS, max_size=12).map(without_files_that_are_folders)


@given(TREES)
def test_no_two_names_are_alike_anywhere_and_none_is_a_folder(paths: list[str]) -> None:
    renamed = find_names(lambda: iter(paths))
    names = [renamed.get(path, path) for path in paths]
    keys = [fold(name) for name in names]
    assert len(set(keys)) == len(keys)
    assert parents_of(keys).isdisjoint(keys)


@given(PATHS)
@example("con.txt")
@example("a/CON/b")
def test_every_name_can_be_held_by_every_system(path: str) -> None:
    name = safe_path(path)
    assert is_path(name)
    assert name == unicodedata.normalize("NFC", name) == safe_path(name)
    for part in name.split("/"):
        assert part == part.rstrip().rstrip(".")
        assert not set('<>:"\\|?*%\u2028\u2029\u202e\ufffe\x85') & set(part)
        assert part.partition(".")[0].strip().lower() not in ("con", "prn", "aux", "nul", "com1", "lpt9")
        assert len(part.encode()) <= 255
    windows = PureWindowsPath(f"D:/target/{name}")
    assert windows.parts[:2] == ("D:\\", "target")
    assert len(windows.parts) == 3 + name.count("/")
    assert ".." not in windows.parts


@given(TREES)
def test_what_is_fine_keeps_its_name_and_nothing_depends_on_chance(paths: list[str]) -> None:
    renamed = find_names(lambda: iter(paths))
    assert find_names(lambda: iter(paths)) == renamed
    for path in paths:
        alike = [other for other in paths if fold(safe_path(other)) == fold(safe_path(path))]
        parents = parents_of([fold(safe_path(other)) for other in paths])
        if alike == [path] and fold(safe_path(path)) not in parents:
            assert renamed.get(path, path) == safe_path(path)


def test_the_first_of_those_alike_keeps_its_path() -> None:
    assert find_names(lambda: iter(["disk/A.fits", "disk/a.fits.gz", "disk/a.fits"])) == {
        "disk/a.fits": f"disk/a~{hashlib.sha256(b'disk/a.fits').hexdigest()[:8]}.fits"
    }


def test_who_needs_another_name_anyway_gives_way() -> None:
    renamed = find_names(lambda: iter(["disk/a?b", "disk/a_b"]))
    assert list(renamed) == ["disk/a?b"]
    assert renamed["disk/a?b"].startswith("disk/a_b~")


def test_a_file_gives_way_to_a_folder() -> None:
    renamed = find_names(lambda: iter(["disk/RUN", "disk/run/a"]))
    assert list(renamed) == ["disk/RUN"]


def test_a_mark_that_somebody_has_already_grows() -> None:
    digest = hashlib.sha256(b"d/a").hexdigest()
    paths = ["d/A", "d/a", f"d/a~{digest[:8]}"]
    assert find_names(lambda: iter(paths)) == {"d/a": f"d/a~{digest[:9]}"}


def test_long_names_stay_short_enough() -> None:
    paths = [
        "d/" + "N" * 255,
        "d/" + "n" * 255,
        "d/x." + "E" * 253,
        "d/x." + "e" * 253,
        "d/" + "é" * 127,
        "d/" + "É" * 127,
    ]
    paths = sorted(paths, key=str.encode)
    renamed = find_names(lambda: iter(paths))
    assert len(renamed) == 3
    assert all(len(part.encode()) <= 255 for name in renamed.values() for part in name.split("/"))


_FIELDS = {
    "size_bytes": 0,
    "crc32": "0" * 8,
    "md5": "0" * 32,
    "sha256": "0" * 64,
    "facility": "f",
    "storage": "s",
    "licence": None,
}


def make_manifest(paths: list[str], missing: int) -> bytes:
    entries = [msgspec.convert(_FIELDS | {"path": path, "source": path}, Entry) for path in paths]
    header = Header(
        query_id="q", query=msgspec.Raw(b"{}"), revisions={}, answer_checksum="", files_count=len(paths), files_bytes=0,
        missing_count=missing,
    )  # fmt: skip
    absent = [Missing(path=f"m{number}", size_bytes=1, reason="r") for number in range(missing)]
    return encode_manifest(header, entries, absent)


def test_names_are_written_into_the_manifest_and_nothing_else_changes(tmp_path: Path) -> None:
    paths = [f"disk/{number:05}" for number in range(2500)] + ["disk/A", "disk/a"]
    draft = tmp_path / "draft"
    before = make_manifest(paths, 3)
    draft.write_bytes(before)
    sha256 = put_names(draft)
    after = draft.read_bytes()
    assert sha256 == hashlib.sha256(after).hexdigest()
    assert list(tmp_path.iterdir()) == [draft]
    stream = BytesIO(after)
    read_header(stream)
    entries = list(iter_entries(stream))
    assert [entry.path for entry in entries] == sorted(paths)
    assert [entry.path for entry in entries if entry.name is not None] == ["disk/a"]
    assert len(list(iter_missing(stream))) == 3
    plain = json.loads(after)
    plain["files"] = [{key: value for key, value in entry.items() if key != "name"} for entry in plain["files"]]
    assert plain == json.loads(before)


def test_a_manifest_whose_paths_are_fine_is_left_as_it_is(tmp_path: Path) -> None:
    draft = tmp_path / "draft"
    draft.write_bytes(make_manifest(["disk/a", "disk/b"], 0))
    before = draft.stat()
    assert put_names(draft) is None
    assert (draft.stat().st_ino, draft.stat().st_mtime_ns) == (before.st_ino, before.st_mtime_ns)


@pytest.mark.parametrize("path", ["disk/a.fits", "d-1/2019/run_0001.fits.gz", "x/.hidden", "x/console.log", "x/a b.h5"])
def test_plain_paths_are_their_own_names(path: str) -> None:
    assert safe_path(path) == path
