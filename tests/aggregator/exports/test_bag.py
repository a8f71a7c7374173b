"""The bag: valid for other people's validators, made of the manifest alone, and made again when it is lost."""

import csv
import hashlib
import json
import logging
import shutil
import tempfile
import zipfile
from collections.abc import Mapping
from pathlib import Path

import bagit
import msgspec
import pytest
from hypothesis import given, settings

from aggregator.exports import bag as bags
from aggregator.exports.archive import ArchiveError, ZipArchive
from aggregator.exports.bag import Bag, BagError, bag_folder, is_read, open_bag
from aggregator.exports.describing import MAX_DESCRIBED
from aggregator.exports.verification import verify_zip
from aggregator.staging.manifest import Missing, encode_manifest
from tests.aggregator.exports.bundles import (
    AURORA,
    QUERY_ID,
    lay_out,
    make_bag,
    make_entry,
    make_header,
    open_manifest,
    write,
)
from tests.aggregator.staging.test_naming import TREES

CONTENTS = {"disk/a.fits": b"first", "disk/sub/ü 漢.h5": b"second", "other/empty": b""}
HOSTILE = {
    "disk/A.fits": b"1",
    "disk/a.fits": b"2",
    "disk/..\\..\\evil": b"3",
    "disk/e\u0301": b"4",
    "disk/\u00e9": b"5",
    "disk/con.txt": b"6",
    "disk/50%0A": b"7",
    "disk/blank ": b"8",
    "disk/line\u2028end": b"9",
    "disk/=cmd|' /C calc'!A0": b"10",
    "bagit.txt/manifest-sha256.txt": b"11",
}
GONE = Missing(path="disk/gone, for ever", size_bytes=3, reason='said "not found"')


def unpack(bag: Bag, target: Path) -> Path:
    """Unpack the ZIP of a bag, and return the bag's folder."""
    with zipfile.ZipFile(write(ZipArchive(bag), target.with_suffix(".zip"))) as archive:
        archive.extractall(target)
    assert [path.name for path in target.iterdir()] == [QUERY_ID]
    return target / QUERY_ID


def validate(folder: Path) -> bagit.Bag:
    logging.getLogger("bagit").setLevel(logging.ERROR)
    found = bagit.Bag(str(folder))
    found.validate()
    return found


@pytest.mark.parametrize("contents", [CONTENTS, HOSTILE, {}], ids=["plain", "hostile", "empty"])
@pytest.mark.parametrize("missing", [(), (GONE,)], ids=["whole", "with gaps"])
def test_the_library_of_congress_finds_a_valid_bag(
    tmp_path: Path, contents: Mapping[str, bytes], missing: tuple[Missing, ...]
) -> None:
    made = make_bag(tmp_path, contents, missing)
    found = validate(unpack(made, tmp_path / "out"))
    assert found.info["Payload-Oxum"] == f"{sum(map(len, contents.values()))}.{len(contents)}"
    assert found.info["External-Identifier"] == f"/q/{QUERY_ID}@17"
    assert verify_zip(tmp_path / "out.zip").problems == ()


@settings(max_examples=30, deadline=None)
@given(TREES)
def test_any_tree_of_a_storage_is_a_valid_bag_on_every_file_system(paths: list[str]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        made = make_bag(Path(folder), {f"disk/{path}": path.encode() for path in paths})
        found = unpack(made, Path(folder) / "out")
        validate(found)
        contents = sorted(path.read_bytes() for path in (found / "data").rglob("*") if path.is_file())
        assert contents == sorted(path.encode() for path in paths)


def test_what_was_renamed_and_what_is_missing_is_listed(tmp_path: Path) -> None:
    folder = unpack(make_bag(tmp_path, HOSTILE, [GONE]), tmp_path / "out")
    with (folder / "RENAMED.csv").open(encoding="utf-8", newline="") as stream:
        renamed = dict(csv.reader(stream))
    assert renamed.pop("path") == "name"
    assert set(renamed) == set(HOSTILE) - {"disk/A.fits", "disk/\u00e9", "bagit.txt/manifest-sha256.txt"}
    for path, name in renamed.items():
        assert (folder / name).read_bytes() == HOSTILE[path]
    with (folder / "MISSING.csv").open(encoding="utf-8", newline="") as stream:
        assert list(csv.reader(stream))[1:] == [[GONE.path, "3", GONE.reason]]


def test_lists_of_nothing_are_left_out(tmp_path: Path) -> None:
    names = {tag.name for tag in make_bag(tmp_path, CONTENTS).tags}
    assert names == {
        *("bagit.txt", "bag-info.txt", "manifest-sha256.txt", "tagmanifest-sha256.txt", "manifest.json", "README.txt"),
        *("ro-crate-metadata.json", "query.json", "query.graphql", "CITATION.cff", "CITATION.bib"),
        "LICENCES/aurora.txt",
    }


def test_terms_of_every_facility_with_files_are_there_as_its_authority_says_them(tmp_path: Path) -> None:
    entries = [
        make_entry("disk/a", b"a", licence="CC0-1.0"),
        make_entry("disk/b", b"b", licence=None),
        make_entry("disk/c", b"c", facility="borealis", licence="ask us"),
    ]
    for entry, content in zip(entries, b"abc", strict=True):
        (tmp_path / entry.sha256).write_bytes(bytes([content]))
    folder = unpack(lay_out(tmp_path, entries), tmp_path / "out")
    aurora = (folder / "LICENCES/aurora.txt").read_text(encoding="utf-8")
    for told in (AURORA.title, AURORA.authority, AURORA.contact, AURORA.terms, "Licence of 1 file: not stated"):
        assert told is not None
        assert told in aurora
    assert "Licence of 1 file: CC0-1.0 (https://spdx.org/licenses/CC0-1.0)" in aurora
    assert "Licence of 1 file: ask us\n" in (folder / "LICENCES/borealis.txt").read_text(encoding="utf-8")


def test_the_crate_describes_everything_that_is_there(tmp_path: Path) -> None:
    folder = unpack(make_bag(tmp_path, HOSTILE | CONTENTS, [GONE]), tmp_path / "out")
    graph = {one["@id"]: one for one in json.loads((folder / "ro-crate-metadata.json").read_bytes())["@graph"]}
    root = graph["./"]
    assert root["datePublished"] == "2026-03-01"
    assert {"name", "description", "license", "author", "publisher"} <= set(root)
    parts = [graph[part["@id"]] for part in root["hasPart"]]
    data = [part for part in parts if part["@id"].startswith("data/")]
    assert len(data) == len(HOSTILE | CONTENTS)
    assert {part["sha256"] for part in data} == {
        hashlib.sha256(content).hexdigest() for content in (HOSTILE | CONTENTS).values()
    }
    own = {"bagit.txt", "manifest-sha256.txt", "tagmanifest-sha256.txt", "ro-crate-metadata.json"}
    files = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    assert len(parts) == len(files - own)


def test_a_crate_of_too_many_files_describes_their_folders(tmp_path: Path) -> None:
    entries = [make_entry(f"disk-{number % 2}/{number:06}", b"") for number in range(MAX_DESCRIBED + 1)]
    made = lay_out(tmp_path, entries)
    crate = made.find_tag("ro-crate-metadata.json")
    assert crate is not None
    graph = {one["@id"]: one for one in json.loads(crate.content.read_bytes())["@graph"]}
    assert "5,001 files, 0 bytes" in graph["data/disk-0/"]["description"]
    assert len(graph) < 30


def test_a_manifest_of_the_first_format_is_a_bag_too(tmp_path: Path) -> None:
    entries = [make_entry("disk/a", b"a")]
    (tmp_path / entries[0].sha256).write_bytes(b"a")
    header = msgspec.structs.replace(make_header(entries), format="catchment-manifest-1")
    text = encode_manifest(header, entries)
    first, rest = text.split(b",\n", maxsplit=1)
    known = {key: value for key, value in json.loads(first + b"}").items() if key not in ("citation", "sources")}
    (tmp_path / "manifest.json").write_bytes(json.dumps(known).encode()[:-1] + b",\n" + rest)
    folder = unpack(open_manifest(tmp_path / "manifest.json"), tmp_path / "out")
    validate(folder)
    assert verify_zip(tmp_path / "out.zip").problems == ()
    assert not (folder / "CITATION.cff").exists()


# --- kept beside the manifest -----------------------------------------------------------------------------------------


def kept(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_what_is_lost_or_cut_is_made_again_and_is_the_same(tmp_path: Path) -> None:
    made = make_bag(tmp_path, CONTENTS)
    folder = bag_folder(tmp_path / "manifest.json", made.manifest_sha256)
    before = kept(folder)
    shutil.rmtree(folder)
    open_manifest(tmp_path / "manifest.json")
    assert kept(folder) == before
    for damaged in (b"", b"x", before["index"][:-8], before["index"] + bytes(8), b"\xff" * 100):
        (folder / "index").unlink()
        (folder / "index").write_bytes(damaged)
        assert len(open_manifest(tmp_path / "manifest.json")) == len(made)
        assert kept(folder) == before

    for name in set(before) - {"index"}:
        (folder / name).write_bytes(before[name][1:])
        open_manifest(tmp_path / "manifest.json")
        assert kept(folder) == before
        (folder / name).unlink()
        open_manifest(tmp_path / "manifest.json")
        assert kept(folder) == before


def test_a_bag_that_is_there_is_opened_as_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = make_bag(tmp_path, CONTENTS)
    monkeypatch.delattr(bags, "write_bag")
    again = open_bag(tmp_path / "manifest.json", made.manifest_sha256, lambda content: tmp_path / content)
    assert again.index.header == made.index.header


def test_two_that_make_a_bag_at_once_do_not_disturb_each_other(tmp_path: Path) -> None:
    made = make_bag(tmp_path, CONTENTS)
    bags.write_bag(tmp_path / "manifest.json", made.manifest_sha256)
    assert not list(tmp_path.glob(".bag-*"))


def test_a_manifest_that_is_not_the_one_that_was_staged_is_refused(tmp_path: Path) -> None:
    made = make_bag(tmp_path, CONTENTS)
    with pytest.raises(BagError, match="expected 0000"):
        open_bag(tmp_path / "manifest.json", "0" * 64, lambda content: tmp_path / content)
    assert not list(tmp_path.glob(".bag-*"))
    (tmp_path / "manifest.json").write_bytes(b"{}")
    with pytest.raises(ArchiveError, match="staged anew"):
        list(ZipArchive(made).iter_blocks())


def test_whoever_clears_away_can_tell_that_somebody_reads(tmp_path: Path) -> None:
    made = make_bag(tmp_path, {"disk/a": bytes(3_000_000)})
    asked = tmp_path / "manifest.json", made.manifest_sha256
    assert not is_read(*asked)
    blocks = ZipArchive(made).iter_blocks()
    next(blocks)
    assert is_read(*asked)
    blocks.close()
    assert not is_read(*asked)
    assert not is_read(tmp_path / "elsewhere.json", made.manifest_sha256)


def test_a_file_is_found_by_its_name_in_the_bag(tmp_path: Path) -> None:
    made = make_bag(tmp_path, HOSTILE | CONTENTS)
    with made.reading() as manifest:
        members = [member for _, member in made.iter_from(manifest)]
    payload = [member for member in members if member.name.startswith("data/")]
    assert len(payload) == len(HOSTILE | CONTENTS)
    for member in payload:
        assert made.find_payload(member.name) == member
    for name in ("data/disk/none", "data/", "data", "", "data/~", "data/disk/con.txt", "disk/A.fits", "README.txt"):
        assert made.find_payload(name) is None
