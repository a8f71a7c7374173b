"""What a client finds when its download is not what it should be."""

import zipfile
from pathlib import Path

import pytest

from aggregator.exports.verification import MAX_PROBLEMS, verify_zip
from tests.aggregator.exports.bundles import QUERY_ID, make_zip, write

CONTENTS = {"disk/a": b"first" * 1000, "disk/b": b"second"}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return write(make_zip(tmp_path, CONTENTS), tmp_path / "all.zip")


def rewrite(path: Path, members: dict[str, bytes | None], method: int = zipfile.ZIP_STORED) -> Path:
    """Write the ZIP again with other members: None leaves one out."""
    with zipfile.ZipFile(path) as old:
        contents: dict[str, bytes | None] = {name: old.read(name) for name in old.namelist()}
    target = path.with_name("other.zip")
    with zipfile.ZipFile(target, "w", method) as new:
        for name, content in (contents | members).items():
            if content is not None:
                new.writestr(name, content)
    return target


def test_an_untouched_download_is_good(path: Path) -> None:
    found = verify_zip(path)
    assert (found.is_good, found.query_id, found.files, found.bytes) == (True, QUERY_ID, 2, 5006)


@pytest.mark.parametrize("at", [100, 5_000, -30])
def test_a_cut_download_is_found_out(path: Path, at: int) -> None:
    path.write_bytes(path.read_bytes()[:at])
    assert not verify_zip(path).is_good


def test_a_flipped_bit_is_found_out_and_the_file_named(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[data.index(b"firstfirst") + 3] ^= 1
    path.write_bytes(data)
    found = verify_zip(path)
    assert (found.files, len(found.problems)) == (1, 1)
    assert "disk/a" in found.problems[0]


def test_a_file_with_right_crc_in_the_directory_but_other_bytes_is_found_out(path: Path) -> None:
    other = rewrite(path, {f"{QUERY_ID}/data/disk/b": b"other!"})
    assert "CRC-32" in verify_zip(other).problems[0]


def test_a_missing_and_an_extra_member_are_named(path: Path) -> None:
    other = rewrite(path, {f"{QUERY_ID}/data/disk/b": None, f"{QUERY_ID}/data/disk/c": b"extra"})
    assert set(verify_zip(other).problems) == {
        f"{QUERY_ID}/data/disk/b: is in the manifest but not in the archive",
        f"{QUERY_ID}/data/disk/c: is in the archive but not in the manifest",
    }


def test_a_packed_member_is_not_unpacked(path: Path) -> None:
    assert "compressed" in verify_zip(rewrite(path, {}, zipfile.ZIP_DEFLATED)).problems[0]


def test_something_else_is_no_archive(tmp_path: Path) -> None:
    (tmp_path / "page.html").write_bytes(b"<html>Bad gateway</html>")
    assert not verify_zip(tmp_path / "page.html").is_good
    with zipfile.ZipFile(tmp_path / "without.zip", "w") as other:
        other.writestr("a", b"a")
    assert "expected one manifest.json" in verify_zip(tmp_path / "without.zip").problems[0]


def test_thousands_of_problems_are_counted_not_told(path: Path) -> None:
    other = rewrite(path, {f"{QUERY_ID}/data/x{number}": b"" for number in range(500)})
    problems = verify_zip(other).problems
    assert len(problems) == MAX_PROBLEMS
    assert problems[-1] == f"and {500 - MAX_PROBLEMS + 1} further problems"
