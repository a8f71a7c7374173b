"""What a storage knows of a file."""

import csv
import gzip
import hashlib
from datetime import UTC, datetime
from pathlib import Path

import pytest

from extractors.fingerprint import HEAD_BYTES, find_format, take_fingerprint

DATA = Path(__file__).parents[3] / "shared" / "data"


def test_size_time_and_checksums_are_those_of_the_bytes(tmp_path: Path) -> None:
    data = bytes(range(256)) * 10_000
    (tmp_path / "x.bin").write_bytes(data)
    with (tmp_path / "x.bin").open("rb") as stream:
        found = take_fingerprint(stream, "x.bin", checksums=True)
    assert (found.size_bytes, found.format) == (len(data), "binary")
    assert found.sha256 == hashlib.sha256(data).hexdigest()
    assert found.md5 == hashlib.md5(data).hexdigest()
    assert abs(found.modified_at - datetime.now(UTC)).total_seconds() < 60


@pytest.mark.parametrize(
    ("name", "head", "expected"),
    [
        ("a.fits", b"SIMPLE  =", "fits"),
        ("a.dat", b"SIMPLE  =", "fits"),
        ("a.fits.gz", gzip.compress(b"SIMPLE  ="), "fits+gzip"),
        ("a.json.gz", gzip.compress(b"{}"), "json+gzip"),
        ("a.gz", gzip.compress(b""), "gzip"),
        ("a.fits.gz", b"\x1f\x8bdamaged", "fits+gzip"),
        ("a.h5", b"\x89HDF\r\n\x1a\n", "hdf5"),
        ("a.JSON", b"{}", "json"),
        ("a.data", b"", "data"),
        ("README", b"text", "text"),
        ("README", b"", None),
        ("a.txt", b"a\0b", "binary"),
        ("zen_10.00", b"text", "text"),
    ],
    ids=range(13),
)
def test_formats_go_by_first_bytes_and_else_by_ending(name: str, head: bytes, expected: str | None) -> None:
    assert find_format(name, head) == expected


@pytest.mark.skipif(not DATA.is_dir(), reason="needs the real files in ../shared/data")
def test_formats_of_all_real_files_are_the_true_ones() -> None:
    wrong = []
    with (DATA / "ground_truth.csv").open(newline="") as stream:
        for row in csv.DictReader(stream):
            with (DATA / "storages" / row["path"]).open("rb") as file:
                found = find_format(row["path"], file.read(HEAD_BYTES))
            if found != row["format"]:
                wrong.append((row["path"], found, row["format"]))
    assert wrong == []
