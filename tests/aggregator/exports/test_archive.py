"""Archives that are never written: read back by other people's readers, cut anywhere, and large in every direction."""

import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from pathlib import Path

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aggregator.exports import zip_format
from aggregator.exports.archive import BLOCK_BYTES, Archive, ArchiveError, TarArchive, ZipArchive
from aggregator.exports.verification import verify_zip
from aggregator.staging.manifest import Missing
from tests.aggregator.exports.bundles import QUERY_ID, lay_out, make_bag, make_entry, make_zip, write

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


@pytest.fixture(params=[ZipArchive, TarArchive])
def kind(request: pytest.FixtureRequest) -> type[Archive]:
    found: type[Archive] = request.param
    return found


def test_python_reads_every_member_of_a_zip_with_its_name_bytes_time_and_mode(tmp_path: Path) -> None:
    archive = make_zip(tmp_path, CONTENTS)
    with zipfile.ZipFile(write(archive, tmp_path / "all.zip")) as found:
        assert found.testzip() is None
        assert found.namelist()[:2] == [f"{QUERY_ID}/bagit.txt", f"{QUERY_ID}/README.txt"]
        assert {name: found.read(f"{QUERY_ID}/data/{name}") for name in CONTENTS} == CONTENTS
        assert found.read(f"{QUERY_ID}/manifest.json") == (tmp_path / "manifest.json").read_bytes()
        for item in found.infolist():
            assert item.date_time == (1980, 1, 1, 0, 0, 0)
            assert (item.external_attr >> 16, item.compress_type) == (0o100644, zipfile.ZIP_STORED)
            assert not item.flag_bits & 0x08, "a data descriptor"
            assert item.flag_bits & 0x800, "a name in UTF-8"
            assert item.extra == b"", "ZIP64 where it is not needed"


def test_python_reads_every_member_of_a_tar_with_its_name_bytes_time_and_mode(tmp_path: Path) -> None:
    bag = make_bag(tmp_path, CONTENTS)
    with tarfile.open(write(TarArchive(bag), tmp_path / "all.tar")) as found:
        members = found.getmembers()
        assert {
            item.name.removeprefix(f"{QUERY_ID}/data/"): read_member(found, item) for item in members[-3:]
        } == CONTENTS
        for item in members:
            assert (item.type, item.mtime, item.mode) == (tarfile.REGTYPE, 315_532_800, 0o644)
            assert (item.uid, item.gid, item.uname, item.gname) == (0, 0, "", "")
        with_headers = [item.name for item in members if item.pax_headers]
    assert with_headers == [f"{QUERY_ID}/data/disk/sub/ü 漢.h5"], "extended headers where they are not needed"


def read_member(found: tarfile.TarFile, item: tarfile.TarInfo) -> bytes:
    stream = found.extractfile(item)
    assert stream is not None
    return stream.read()


def test_zip_and_tar_hold_the_same_tree(tmp_path: Path) -> None:
    bag = make_bag(tmp_path, CONTENTS)
    with (
        zipfile.ZipFile(write(ZipArchive(bag), tmp_path / "all.zip")) as zipped,
        tarfile.open(write(TarArchive(bag), tmp_path / "all.tar")) as tarred,
    ):
        assert [item.name for item in tarred] == zipped.namelist()
        assert all(read_member(tarred, item) == zipped.read(item.name) for item in tarred)


LONG_NAMES = {
    "disk/" + "/".join(["folder-of-some-length"] * 12) + "/run.fits": b"deep",
    f"disk/{'n' * 200}.fits": b"long",
    f"disk/{'é' * 120}": b"accents",
    f"disk/{'d' * 99}/{'f' * 100}": b"just too long for ustar",
}


@pytest.mark.parametrize(("program", "kind"), [("tar", TarArchive), ("bsdtar", TarArchive), ("bsdtar", ZipArchive)])
def test_other_programs_unpack_what_was_packed(tmp_path: Path, program: str, kind: type[Archive]) -> None:
    if shutil.which(program) is None:
        pytest.skip(f"{program} is not installed")
    contents = CONTENTS | LONG_NAMES
    archive = write(kind(make_bag(tmp_path, contents)), tmp_path / "all")
    (tmp_path / "out").mkdir()
    # The locale of the program decides what its file system's names are.
    environ = os.environ | {"LC_ALL": "C.UTF-8"}
    done = subprocess.run(
        [program, "-xf", archive], cwd=tmp_path / "out", env=environ, capture_output=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, b"")
    root = tmp_path / "out" / QUERY_ID / "data"
    assert {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()} == contents


@pytest.mark.skipif(shutil.which("unzip") is None, reason="unzip is not installed")
def test_unzip_finds_no_errors(tmp_path: Path) -> None:
    path = write(make_zip(tmp_path, CONTENTS), tmp_path / "all.zip")
    done = subprocess.run(["unzip", "-t", path], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert "No errors detected" in done.stdout


def test_the_length_is_known_before_the_first_byte(tmp_path: Path, kind: type[Archive]) -> None:
    archive = kind(make_bag(tmp_path, CONTENTS))
    assert archive.size_bytes == len(read_all(archive))


def test_the_bytes_depend_on_the_manifest_alone(tmp_path: Path, kind: type[Archive]) -> None:
    (tmp_path / "one").mkdir()
    (tmp_path / "two").mkdir()
    first = kind(make_bag(tmp_path / "one", CONTENTS))
    second = kind(make_bag(tmp_path / "two", dict(reversed(CONTENTS.items()))))
    assert first.name == second.name
    assert read_all(first) == read_all(second)


def test_an_archive_has_another_name_than_its_manifest_and_than_other_kinds(tmp_path: Path) -> None:
    bag = make_bag(tmp_path, CONTENTS)
    assert len({bag.manifest_sha256, ZipArchive(bag).name, TarArchive(bag).name}) == 3


def test_the_archive_tells_what_is_missing(tmp_path: Path) -> None:
    gone = Missing(path="disk/gone", size_bytes=7, reason="not found")
    path = write(make_zip(tmp_path, CONTENTS, [gone]), tmp_path / "all.zip")
    assert b'"not found"' in zipfile.ZipFile(path).read(f"{QUERY_ID}/manifest.json")
    assert zipfile.ZipFile(path).read(f"{QUERY_ID}/MISSING.csv") == b"path,size_bytes,reason\ndisk/gone,7,not found\n"
    assert verify_zip(path).missing == 1


def test_an_export_without_files_is_an_archive_that_says_so(tmp_path: Path, kind: type[Archive]) -> None:
    archive = kind(make_bag(tmp_path, {}))
    assert b"0 files, 0 bytes" in read_all(archive)
    if kind is ZipArchive:
        assert verify_zip(write(archive, tmp_path / "all.zip")).is_good


@settings(max_examples=30, deadline=None)
@given(paths=PATHS, data=st.data())
def test_any_range_is_the_slice_of_the_whole(paths: list[str], data: st.DataObject) -> None:
    contents = {path: data.draw(st.binary(max_size=200)) for path in paths}
    with tempfile.TemporaryDirectory() as folder:
        bag = make_bag(Path(folder), contents)
        for archive in (ZipArchive(bag), TarArchive(bag)):
            whole = read_all(archive)
            assert len(whole) == archive.size_bytes
            for _ in range(5):
                start = data.draw(st.integers(0, len(whole)))
                stop = data.draw(st.integers(start, len(whole) + 5))
                assert b"".join(archive.iter_blocks(start, stop)) == whole[start:stop]
        with zipfile.ZipFile(write(ZipArchive(bag), Path(folder) / "all.zip")) as found:
            payload = [name for name in found.namelist() if name.startswith(f"{QUERY_ID}/data/") and name[-1] != "/"]
            assert sorted(map(found.read, payload)) == sorted(contents.values())


def test_parts_of_any_size_join_to_the_whole(tmp_path: Path, kind: type[Archive]) -> None:
    archive = kind(make_bag(tmp_path, CONTENTS))
    whole = read_all(archive)
    for step in (997, 65_536, 1_000_003):
        parts = (archive.iter_blocks(at, at + step) for at in range(0, archive.size_bytes, step))
        assert b"".join(block for part in parts for block in part) == whole
    assert all(len(block) <= BLOCK_BYTES for block in archive.iter_blocks())


def test_a_content_that_is_gone_or_cut_ends_the_stream_with_an_error(tmp_path: Path, kind: type[Archive]) -> None:
    archive = kind(make_bag(tmp_path, {"disk/a": b"content"}))
    content = tmp_path / make_entry("disk/a", b"content").sha256
    content.write_bytes(b"cont")
    with pytest.raises(ArchiveError, match="is not whole"):
        read_all(archive)
    content.unlink()
    with pytest.raises(ArchiveError, match="cannot be read"):
        read_all(archive)


def test_an_export_that_was_staged_anew_is_not_mixed_with_the_old_one(tmp_path: Path, kind: type[Archive]) -> None:
    archive = kind(make_bag(tmp_path, CONTENTS))
    (tmp_path / "manifest.json").unlink()
    with pytest.raises(ArchiveError, match="not in the buffer any more"):
        read_all(archive)
    make_bag(tmp_path, {"disk/a": b"other"})
    with pytest.raises(ArchiveError, match="staged anew"):
        read_all(archive)


def test_a_transfer_that_began_goes_on_though_the_manifest_is_cleared_away(tmp_path: Path, kind: type[Archive]) -> None:
    archive = kind(make_bag(tmp_path, CONTENTS))
    whole = read_all(archive)
    blocks = archive.iter_blocks()
    begun = next(blocks)
    (tmp_path / "manifest.json").rename(tmp_path / "manifest.old")
    (tmp_path / "manifest.json").write_bytes((tmp_path / "manifest.old").read_bytes())
    assert begun + b"".join(blocks) == whole


@pytest.mark.parametrize(
    ("numbers", "is_large"),
    [
        ((65_534, 1000, 2000), False),
        ((65_535, 1000, 2000), True),
        ((10, 2**32 - 2, 2000), False),
        ((10, 2**32 - 1, 2000), True),
        ((10, 1000, 2**32 - 1), True),
    ],
)
def test_a_large_directory_needs_zip64_and_only_a_large_one_gets_it(
    numbers: tuple[int, int, int], is_large: bool
) -> None:
    assert (b"PK\6\6" in zip_format.end_of_directory(*numbers)) is is_large


@pytest.mark.long
def test_more_than_65535_members_are_read_back(tmp_path: Path) -> None:
    last = make_entry("disk/last", b"x")
    (tmp_path / last.sha256).write_bytes(b"x")
    empty = [make_entry(f"disk/{number:06}", b"") for number in range(65_535)]
    bag = lay_out(tmp_path, [*empty, last])
    with zipfile.ZipFile(write(ZipArchive(bag), tmp_path / "all.zip")) as found:
        assert len(found.namelist()) == len(bag)
        assert found.read(f"{QUERY_ID}/data/disk/last") == b"x"


@pytest.mark.long
def test_a_file_of_more_than_4_gib_and_what_follows_it(tmp_path: Path) -> None:
    size = 2**32 + 5
    huge = make_entry("disk/huge", b"")
    huge = msgspec.structs.replace(huge, size_bytes=size)
    with (tmp_path / huge.sha256).open("wb") as sparse:
        sparse.truncate(size)
    small = make_entry("disk/small", b"behind 4 GiB")
    (tmp_path / small.sha256).write_bytes(b"behind 4 GiB")
    edge = [make_entry(f"disk/edge-{number}", b"") for number in range(2)]
    bag = lay_out(tmp_path, [huge, small, *edge])
    archive = ZipArchive(bag)
    # Only headers, directory and the small file are taken; the four gigabytes between stay a hole.
    target = tmp_path / "all.zip"
    hole = range(1_000_000, size - 1_000_000)
    with target.open("wb") as stream:
        stream.writelines(archive.iter_blocks(0, hole.start))
        stream.seek(hole.stop)
        stream.writelines(archive.iter_blocks(hole.stop))
    assert target.stat().st_size == archive.size_bytes
    with zipfile.ZipFile(target) as found:
        assert found.getinfo(f"{QUERY_ID}/data/disk/huge").file_size == size
        assert found.read(f"{QUERY_ID}/data/disk/small") == b"behind 4 GiB"
        assert found.getinfo(f"{QUERY_ID}/data/disk/small").header_offset > 2**32


@pytest.mark.long
def test_a_file_of_more_than_8_gib_in_a_tar_and_what_follows_it(tmp_path: Path) -> None:
    size = 2**33 + 5
    huge = msgspec.structs.replace(make_entry("disk/huge", b""), size_bytes=size)
    with (tmp_path / huge.sha256).open("wb") as sparse:
        sparse.truncate(size)
    small = make_entry("disk/small", b"behind 8 GiB")
    (tmp_path / small.sha256).write_bytes(b"behind 8 GiB")
    archive = TarArchive(lay_out(tmp_path, [huge, small]))
    target = tmp_path / "all.tar"
    hole = range(1_000_000, size - 1_000_000)
    with target.open("wb") as stream:
        stream.writelines(archive.iter_blocks(0, hole.start))
        stream.seek(hole.stop)
        stream.writelines(archive.iter_blocks(hole.stop))
    assert target.stat().st_size == archive.size_bytes
    with tarfile.open(target) as found:
        assert found.getmember(f"{QUERY_ID}/data/disk/huge").size == size
        assert read_member(found, found.getmember(f"{QUERY_ID}/data/disk/small")) == b"behind 8 GiB"
    listed = subprocess.run(["tar", "-tvf", target], check=True, capture_output=True, text=True).stdout
    assert str(size) in listed


MEASURE = """
import resource, sys
from pathlib import Path
from aggregator.exports.archive import TarArchive, ZipArchive
from tests.aggregator.exports.bundles import open_manifest
folder = Path(sys.argv[1])
bag = open_manifest(folder / "manifest.json")
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
for archive in (ZipArchive(bag), TarArchive(bag)):
    assert archive.size_bytes == sum(map(len, archive.iter_blocks()))
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


def test_tens_of_thousands_of_members_take_a_few_megabytes(tmp_path: Path) -> None:
    lay_out(tmp_path, [make_entry(f"disk/{number:06}", b"") for number in range(30_000)])
    done = subprocess.run(
        [sys.executable, "-c", MEASURE, tmp_path], cwd=CHECKOUT, check=True, capture_output=True, text=True
    )
    # Blocks, and the index, which is looked at in place; one object for each member would be 10 MB and more.
    assert int(done.stdout) < 6 * 1024, "kilobytes"


def test_the_end_of_a_large_archive_is_found_without_reading_the_rest(tmp_path: Path, kind: type[Archive]) -> None:
    content = b"x" * 1000
    entries = [make_entry(f"disk/{number:06}", content) for number in range(5_000)]
    (tmp_path / entries[0].sha256).write_bytes(content)
    archive = kind(lay_out(tmp_path, entries))
    manifest = (tmp_path / "manifest.json").stat().st_size
    # Everything of the manifest but its last lines is made a hole: who reads it there finds no entries.
    with (tmp_path / "manifest.json").open("r+b") as stream:
        stream.write(bytes(manifest - 10_000))
    part = b"".join(archive.iter_blocks(archive.size_bytes - 2000))
    assert len(part) == 2000
    with pytest.raises(ArchiveError):
        read_all(archive)
