"""Values about a file that stand in other files, and paths of other files."""

import json
from collections.abc import Callable, Collection
from hashlib import md5
from pathlib import Path
from typing import Any, BinaryIO

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from extractors.errors import ConversionError, DescriptionError
from extractors.extract import Extractor
from extractors.joins import MAX_TABLES, Join, Joiner, expand
from extractors.loading import load_description
from extractors.readers.address import Address
from extractors.readers.reader import Content, Reader, ReadLimits
from extractors.readers.table import TableReader
from extractors.readers.text import TextReader
from extractors.rules import Material, NameRule
from extractors.storages.local_tree import LocalTree
from metadata_db.records import FileRecord, PathError, Relation, check_path
from tests.extractors.test_rules import HEAD, describe

Read = Callable[..., FileRecord]

INDEX = '[[join]]\nname = "index"\npath = "{folder}/index.csv"\nreader = { name = "table", delimiter = "," }\n'
KEY = 'key = "id"\nby = { content = "/id" }\n\n'
SUM = '[[join]]\nname = "sum"\npath = "{path}.md5"\nreader = "text"\n\n'


@pytest.fixture
def root(tmp_path: Path) -> Path:
    root = tmp_path / "root"
    (root / "a" / "b").mkdir(parents=True)
    (root / "a" / "b" / "run.json").write_text(json.dumps({"id": 41}))
    return root


def make_extractor(root: Path, joins: str, product: str, **settings: Any) -> Extractor:
    path = describe(root.parent, f'match = "(?P<run>[0-9]+)?"\n{product}', head=HEAD + joins)
    description = load_description(path)
    return Extractor(tree=LocalTree(root), facility="t", storage="s", description=description, **settings)


def record(extractor: Extractor, path: str = "a/b/run.json") -> FileRecord:
    outcome = extractor.extract(path)
    assert outcome.record is not None, outcome
    return outcome.record


# ---------------------------------------------------------------------------------------------- index tables


PRODUCT = """reader = "json"
[product.fields]
object = { join = "index", at = "target" }
quality = [{ join = "index", at = "quality", missing = ["-"] }, { constant = "unknown" }]
"""


def test_the_row_of_an_index_table_describes_a_file(root: Path) -> None:
    (root / "a" / "b" / "index.csv").write_text("id,target,quality\n40,Mrk 421,bad\n 41 ,Crab Nebula,-\n")
    found = record(make_extractor(root, INDEX + KEY, PRODUCT))
    assert (found.object, found.quality, found.warnings) == ("Crab Nebula", "unknown", [])
    assert found.provenance["object"] == "join index, target"


@pytest.mark.parametrize("index", [None, "id,target,quality\n40,Mrk 421,bad\n", "id,target,quality\n"])
def test_without_table_or_row_there_is_no_value_and_nothing_odd(root: Path, index: str | None) -> None:
    if index is not None:
        (root / "a" / "b" / "index.csv").write_text(index)
    found = record(make_extractor(root, INDEX + KEY, PRODUCT))
    assert (found.object, found.quality, found.warnings) == (None, "unknown", [])


def test_a_table_that_changes_is_read_again(root: Path) -> None:
    table = root / "a" / "b" / "index.csv"
    table.write_text("id,target,quality\n41,Crab,-\n")
    extractor = make_extractor(root, INDEX + KEY, PRODUCT)
    assert record(extractor).object == "Crab"
    table.write_text("id,target,quality\n41,Crab Nebula,-\n")
    assert record(extractor).object == "Crab Nebula"


def test_a_table_that_cannot_be_read_is_told_and_costs_only_its_values(root: Path) -> None:
    (root / "a" / "b" / "index.csv").write_bytes(bytes(range(256)) * 3)
    joins = (INDEX + KEY).replace('"table", delimiter = ","', '"fits"').replace('"id"', '"1.id"')
    product = PRODUCT.replace('at = "', 'at = "1.')
    found = record(make_extractor(root, joins, product))
    assert (found.object, found.quality, found.size_bytes > 0) == (None, "unknown", True)
    assert found.warnings[0].startswith("join index: ")


class _Failing(Reader):
    """A reader of another package that stumbles over a damaged file."""

    reads = 0

    def check(self, address: Address) -> None:
        pass

    def read(self, stream: BinaryIO, addresses: Collection[Address], *, limits: ReadLimits) -> Content:
        self.reads += 1
        raise RuntimeError("stumbled")


def test_a_table_over_which_its_reader_stumbles_is_read_once_and_told_with_each_file(root: Path) -> None:
    (root / "index").write_text("damaged")
    reader = _Failing()
    join = Join(name="index", path="index", reader=reader, key="id", by=NameRule(name="run"), wanted=("target",))
    joiner = Joiner(LocalTree(root), ReadLimits())
    for run in ("40", "41", "42"):
        joined, odd = joiner.find([join], f"run{run}", Material(groups={"run": run}))
        assert (joined, odd) == ({}, ["join index: RuntimeError: stumbled"])
    assert reader.reads == 1


def test_an_index_in_use_is_not_driven_out_by_sidecars(root: Path) -> None:
    (root / "index").write_text("id,target\n1,Crab\n")
    reader = _Counting(msgspec.convert({"delimiter": ","}, TableReader.Options))
    index = Join(name="index", path="index", reader=reader, key="id", by=NameRule(name="run"), wanted=("target",))
    sum_ = Join(name="sum", path="{path}.sum", reader=TextReader(), key=None, by=None, wanted=("line[1]",))
    joiner = Joiner(LocalTree(root), ReadLimits())
    for number in range(2 * MAX_TABLES):
        (root / f"{number}.sum").write_text(f"{number}")
        joined, odd = joiner.find([index, sum_], f"{number}", Material(groups={"run": "1"}))
        assert (joined["index"]["target"].value, joined["sum"]["line[1]"].value, odd) == ("Crab", f"{number}", [])
    assert reader.reads == 1


class _Counting(TableReader):
    reads = 0

    def read(self, stream: BinaryIO, addresses: Collection[Address], *, limits: ReadLimits) -> Content:
        self.reads += 1
        return super().read(stream, addresses, limits=limits)


def test_an_index_needs_both_key_and_by(root: Path) -> None:
    with pytest.raises(DescriptionError, match="found only one of key and by"):
        make_extractor(root, INDEX + 'key = "id"\n\n', PRODUCT)


# -------------------------------------------------------------------------------------------------- sidecars


CHECKED = """reader = "json"
[product.fields]
md5 = { join = "sum", at = "/^([0-9a-f]{32})/" }
"""


@pytest.mark.parametrize("is_header_only", [False, True])
def test_a_stated_checksum_that_agrees_says_nothing_and_one_that_does_not_is_told(
    root: Path, is_header_only: bool
) -> None:
    path = root / "a" / "b" / "run.json"
    right = md5(path.read_bytes(), usedforsecurity=False).hexdigest()
    extractor = make_extractor(root, SUM, CHECKED, header_only=is_header_only)
    (root / "a" / "b" / "run.json.md5").write_text(f"{right}  run.json\n")
    found = record(extractor)
    assert (found.md5, found.warnings) == (right, [])
    # What was computed counts; what is only stated is taken when nothing was computed.
    wrong = "0" * 32
    (root / "a" / "b" / "run.json.md5").write_text(f"{wrong}  run.json\n")
    found = record(extractor)
    if is_header_only:
        assert (found.md5, found.provenance["md5"]) == (wrong, "join sum, /^([0-9a-f]{32})/")
    else:
        assert found.md5 == right
        assert found.warnings == [f"md5: stated is {wrong}, but the bytes have {right}"]


def test_a_join_never_leads_out_of_the_storage(root: Path) -> None:
    (root.parent / "secret.md5").write_text("0" * 32)
    for path in ("../secret.md5", "{folder}/../../../secret.md5", "/etc/passwd"):
        found = record(make_extractor(root, SUM.replace("{path}.md5", path), CHECKED, header_only=True))
        assert found.md5 is None
        assert "a path below the storage's root" in found.warnings[0]
    (root / "a" / "b" / "run.json.md5").symlink_to(root.parent / "secret.md5")
    assert record(make_extractor(root, SUM, CHECKED, header_only=True)).md5 is None


# ------------------------------------------------------------------------------------------ relations, templates


@pytest.mark.parametrize(
    ("template", "expected"),
    [
        ("{folder}/*.fits", "a/b/*.fits"),
        ("{folder}/../{stem}.fits", "a/run.fits"),
        ("{name}.md5", "run.json.md5"),
        ("{path}.md5", "a/b/run.json.md5"),
        ("cal/{run}.h5", None),
    ],
)
def test_relations_name_other_files_by_templates(root: Path, template: str, expected: str | None) -> None:
    product = f'[[product.relation]]\nkind = "sidecar_of"\npath = "{template}"\nstorage = "other"'
    relations = record(make_extractor(root, "", product)).relations
    assert relations == ([] if expected is None else [Relation(kind="sidecar_of", path=expected, storage="other")])


def test_a_relation_may_be_by_observation(root: Path) -> None:
    product = 'reader = "json"\n[[product.relation]]\nkind = "irf_for"\nobs_id = { content = "/id" }'
    assert record(make_extractor(root, "", product)).relations == [Relation(kind="irf_for", obs_id="41")]


@pytest.mark.parametrize("template", ["../x", "{folder}/../../../x", "/x", "{folder}/../.."])
def test_a_relation_that_climbs_out_is_none_and_a_warning(root: Path, template: str) -> None:
    found = record(make_extractor(root, "", f'[[product.relation]]\nkind = "index_of"\npath = "{template}"'))
    assert found.relations == []
    assert found.warnings[0].startswith("relation index_of: found ")


parts = st.text(st.sampled_from("ab./{}*"), min_size=1, max_size=6)


@given(st.lists(st.sampled_from(["{folder}", "{path}", "{run}", "..", ".", "x", "*", ""]), max_size=5), parts)
def test_whatever_a_template_comes_to_lies_below_the_root(pieces: list[str], run: str) -> None:
    try:
        expanded = expand("/".join(pieces), "a/b/run.json", {"run": run})
    except ConversionError:
        return
    assert expanded is not None
    try:
        check_path(expanded)
    except PathError:
        pytest.fail(expanded)


def test_a_reprocessed_file_keeps_the_relation_that_its_description_says(root: Path) -> None:
    product = '[[product.relation]]\nkind = "reprocessing_of"\npath = "raw/{name}"'
    found = record(make_extractor(root, "", product, processing="pass2"))
    assert found.relations == [Relation(kind="reprocessing_of", path="raw/run.json")]
    assert found.processing == "pass2"
