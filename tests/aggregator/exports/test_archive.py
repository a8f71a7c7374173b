"""The ZIP that is never written: read back by other people's readers, cut anywhere, and large in every direction."""

import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aggregator.exports.archive import Archive, ArchiveError
from aggregator.exports.verification import verify_zip
from aggregator.staging.manifest import Missing
from tests.aggregator.exports.bundles import QUERY_ID, lay_out, make_archive, make_entry, write

CHECKOUT = Path(__file__).parents[3]

CONTENTS = {"disk/a.fits": b"first", "disk/sub/ü 漢.h5": b"second" * 500_000, "other/empty": b""}

PATHS = st.lists(
    st.text(st.characters(blacklist_characters="/\0", blacklist_categories=("Cs", "Cc")), min_size=1, max_size=20)
    .filter(lambda name: name not in (".", ".."))
    .map(lambda name: f"disk/{name}"),
    unique=True,
    max_size=6,
)


def read_all(archive: Archive) -> bytes:
    return b"".join(archive.iter_blocks())


def test_python_reads_every_member_with_its_name_bytes_time_and_mode(tmp_path: Path) -> None:
    archive = make_archive(tmp_path, CONTENTS)
    with zipfile.ZipFile(write(archive, tmp_path / "all.zip")) as found:
        assert found.testzip() is None
        assert found.namelist()[0] == f"{QUERY_ID}/manifest.json"
        members = {item.filename.removeprefix(f"{QUERY_ID}/files/"): item for item in found.infolist()[1:]}
        assert {name: found.read(item) for name, item in members.items()} == CONTENTS
        assert found.read(f"{QUERY_ID}/manifest.json") == (tmp_path / "manifest.json").read_bytes()
        for item in found.infolist():
            assert item.date_time == (1980, 1, 1, 0, 0, 0)
            assert (item.external_attr >> 16, item.compress_type) == (0o100644, zipfile.ZIP_STORED)
            assert not item.flag_bits & 0x08, "a data descriptor"
            assert item.flag_bits & 0x800, "a name in UTF-8"
            assert item.extra == b"", "ZIP64 where it is not needed"


@pytest.mark.skipif(shutil.which("unzip") is None, reason="unzip is not installed")
def test_unzip_finds_no_errors(tmp_path: Path) -> None:
    path = write(make_archive(tmp_path, CONTENTS), tmp_path / "all.zip")
    done = subprocess.run(["unzip", "-t", path], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert "No errors detected" in done.stdout


def test_the_length_is_known_before_the_first_byte(tmp_path: Path) -> None:
    archive = make_archive(tmp_path, CONTENTS)
    assert archive.size_bytes == len(read_all(archive))


def test_the_bytes_depend_on_the_manifest_alone(tmp_path: Path) -> None:
    (tmp_path / "one").mkdir()
    (tmp_path / "two").mkdir()
    first = make_archive(tmp_path / "one", CONTENTS)
    second = make_archive(tmp_path / "two", dict(reversed(CONTENTS.items())))
    assert first.manifest_sha256 == second.manifest_sha256
    assert read_all(first) == read_all(second)


def test_the_archive_tells_what_is_missing(tmp_path: Path) -> None:
    gone = Missing(path="disk/gone", size_bytes=7, reason="not found")
    path = write(make_archive(tmp_path, CONTENTS, (gone,)), tmp_path / "all.zip")
    assert b'"not found"' in zipfile.ZipFile(path).read(f"{QUERY_ID}/manifest.json")
    assert verify_zip(path).missing == 1


def test_an_export_without_files_is_an_archive_with_its_manifest(tmp_path: Path) -> None:
    path = write(make_archive(tmp_path, {}), tmp_path / "all.zip")
    assert zipfile.ZipFile(path).namelist() == [f"{QUERY_ID}/manifest.json"]


@settings(max_examples=60, deadline=None)
@given(paths=PATHS, data=st.data())
def test_any_range_is_the_slice_of_the_whole(paths: list[str], data: st.DataObject) -> None:
    contents = {path: data.draw(st.binary(max_size=200)) for path in paths}
    with tempfile.TemporaryDirectory() as folder:
        archive = make_archive(Path(folder), contents)
        whole = read_all(archive)
        assert len(whole) == archive.size_bytes
        with zipfile.ZipFile(write(archive, Path(folder) / "all.zip")) as found:
            assert {name: found.read(f"{QUERY_ID}/files/{name}") for name in contents} == contents
        for _ in range(5):
            start = data.draw(st.integers(0, len(whole)))
            stop = data.draw(st.integers(start, len(whole) + 5))
            assert b"".join(archive.iter_blocks(start, stop)) == whole[start:stop]


def test_parts_of_any_size_join_to_the_whole(tmp_path: Path) -> None:
    archive = make_archive(tmp_path, CONTENTS)
    for step in (997, 65_536, 1_000_003):
        parts = (archive.iter_blocks(at, at + step) for at in range(0, archive.size_bytes, step))
        assert b"".join(block for part in parts for block in part) == read_all(archive)


def test_a_content_that_is_gone_or_cut_ends_the_stream_with_an_error(tmp_path: Path) -> None:
    archive = make_archive(tmp_path, {"disk/a": b"content"})
    content = tmp_path / make_entry("disk/a", b"content").sha256
    content.write_bytes(b"cont")
    with pytest.raises(ArchiveError, match="is not whole"):
        read_all(archive)
    content.unlink()
    with pytest.raises(ArchiveError, match="cannot be read"):
        read_all(archive)


def test_an_export_that_was_staged_anew_is_not_mixed_with_the_old_one(tmp_path: Path) -> None:
    archive = make_archive(tmp_path, CONTENTS)
    (tmp_path / "manifest.json").unlink()
    assert not archive.is_current()
    make_archive(tmp_path, {"disk/a": b"other"})
    with pytest.raises(ArchiveError, match="staged anew"):
        read_all(archive)


def test_more_than_65535_members_need_zip64_and_get_it(tmp_path: Path) -> None:
    last = make_entry("disk/last", b"x")
    (tmp_path / last.sha256).write_bytes(b"x")
    empty = [make_entry(f"disk/{number:06}", b"") for number in range(65_535)]
    for count, is_large in ((65_532, False), (65_535, True)):
        path = write(lay_out(tmp_path, [*empty[:count], last]), tmp_path / "all.zip")
        assert (b"PK\6\6" in path.read_bytes()[-200:]) is is_large
        with zipfile.ZipFile(path) as found:
            assert len(found.namelist()) == count + 2
            assert found.read(f"{QUERY_ID}/files/disk/last") == b"x"


@pytest.mark.long
def test_a_file_of_more_than_4_gib_and_what_follows_it(tmp_path: Path) -> None:
    size = 2**32 + 5
    huge = make_entry("disk/huge", b"")
    huge = type(huge)(**{name: getattr(huge, name) for name in huge.__struct_fields__} | {"size_bytes": size})
    with (tmp_path / huge.sha256).open("wb") as sparse:
        sparse.truncate(size)
    small = make_entry("disk/small", b"behind 4 GiB")
    (tmp_path / small.sha256).write_bytes(b"behind 4 GiB")
    edge = [make_entry(f"disk/edge-{number}", b"") for number in range(2)]
    archive = lay_out(tmp_path, [huge, small, *edge])
    # Only headers, directory and the small file are taken; the four gigabytes between stay a hole.
    target = tmp_path / "all.zip"
    hole = range(1_000_000, size - 1_000_000)
    with target.open("wb") as stream:
        stream.writelines(archive.iter_blocks(0, hole.start))
        stream.seek(hole.stop)
        stream.writelines(archive.iter_blocks(hole.stop))
    assert target.stat().st_size == archive.size_bytes
    with zipfile.ZipFile(target) as found:
        assert found.getinfo(f"{QUERY_ID}/files/disk/huge").file_size == size
        assert found.read(f"{QUERY_ID}/files/disk/small") == b"behind 4 GiB"
        assert found.getinfo(f"{QUERY_ID}/files/disk/small").header_offset > 2**32


MEASURE = """
import resource, sys
from pathlib import Path
from aggregator.exports.archive import Archive
from tests.aggregator.exports.bundles import lay_out
folder = Path(sys.argv[1])
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
archive = Archive(folder / "manifest.json", lambda sha256: folder / sha256)
assert archive.size_bytes == sum(map(len, archive.iter_blocks()))
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


def test_a_hundred_thousand_members_take_a_few_megabytes(tmp_path: Path) -> None:
    lay_out(tmp_path, [make_entry(f"disk/{number:06}", b"") for number in range(100_000)])
    done = subprocess.run(
        [sys.executable, "-c", MEASURE, tmp_path], cwd=CHECKOUT, check=True, capture_output=True, text=True
    )
    assert int(done.stdout) < 24 * 1024, "kilobytes"
