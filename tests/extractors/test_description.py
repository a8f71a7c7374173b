"""Descriptions: what is accepted, and what the errors say."""

import shutil
from pathlib import Path

import pytest

import extractors
from extractors.errors import DescriptionError
from extractors.extract import Extractor
from extractors.loading import builtin_names, find_description, find_line, load_description
from extractors.readers.fits import FitsReader
from extractors.storages.local_tree import LocalTree

GOOD = """\
format = 1
name = "telescope"
version = "7"

[facility]
name = "telescope"
detectors = [{ name = "T1" }]
attributes = [
    { name = "livetime_s", type = "number", unit = "s" },
]

[clock.met]
kind = "elapsed"
reference_mjd = { content = "EVENTS.MJDREFI" }
scale = "TT"

[[product]]
name = "events"
match = '(?P<run>\\d+)_events\\.fits$'
reader = "fits"

[product.fields]
kind = "events"
detector = "T1"
time_begin = { content = "EVENTS.TSTART", unit = "s", clock = "met" }
run = [{ name = "run" }, { content = "EVENTS.RUN" }]
energy_max_ev = { content = "max(EVENTS.ENERGY)", unit = "TeV" }

[product.attributes]
livetime_s = { content = "EVENTS.LIVETIME", unit = "s" }

[[product]]
name = "notes"
match = 'notes'

[product.fields]
kind = "notes"
"""


def load(tmp_path: Path, text: str) -> DescriptionError:
    path = tmp_path / "x.toml"
    path.write_text(text)
    with pytest.raises(DescriptionError) as caught:
        load_description(path)
    return caught.value


def line_of(text: str, part: str) -> int:
    return next(number for number, line in enumerate(text.splitlines(), start=1) if part in line)


def test_a_good_description_is_ready_to_be_applied(tmp_path: Path) -> None:
    (tmp_path / "x.toml").write_text(GOOD)
    description = load_description(tmp_path / "x.toml")
    events, notes = description.products
    assert [address.text for address in events.addresses] == [
        "EVENTS.TSTART", "EVENTS.MJDREFI", "EVENTS.RUN", "max(EVENTS.ENERGY)", "EVENTS.LIVETIME"
    ]  # fmt: skip
    assert isinstance(events.reader, FitsReader)
    assert notes.reader is None
    assert description.label.startswith("telescope@7 sha256:")
    assert len(description.label) <= 256


def test_another_text_is_another_label(tmp_path: Path) -> None:
    for number, text in enumerate((GOOD, GOOD + "# a remark\n")):
        (tmp_path / f"{number}.toml").write_text(text)
    assert load_description(tmp_path / "0.toml").label != load_description(tmp_path / "1.toml").label


def test_products_are_tried_in_their_order(tmp_path: Path) -> None:
    (tmp_path / "x.toml").write_text(GOOD)
    description = load_description(tmp_path / "x.toml")
    found = description.iter_candidates("notes/12_events.fits", b"")
    assert [(product.name, groups) for product, groups in found] == [("events", {"run": "12"}), ("notes", {})]
    assert list(description.iter_candidates("readme.txt", b"")) == []


def candidates(tmp_path: Path, product: str, path: str, head: bytes) -> list[str]:
    text = GOOD + f'\n[[product]]\nname = "added"\n{product}\n\n[[product]]\nname = "last"\n'
    (tmp_path / "x.toml").write_text(text)
    found = load_description(tmp_path / "x.toml").iter_candidates(path, head)
    return [product.name for product, _ in found]


@pytest.mark.parametrize(
    ("magic", "head", "is_one"),
    [
        ('magic = "SIMPLE"', b"SIMPLE  =", True),
        ('magic = "SIMPLE"', b" SIMPLE  =", False),
        ('magic = "SIMPLE"', b"", False),
        ('magic = { hex = "89484446" }', b"\x89HDF\r\n", True),
        ('magic = { text = "HDF", at = 1 }', b"\x89HDF", True),
        ('magic = { text = "HDF", at = 2 }', b"\x89HDF", False),
        ("magic = '\xe9'", b"\xe9", True),
    ],
)
def test_a_product_may_be_known_by_its_first_bytes(tmp_path: Path, magic: str, head: bytes, is_one: bool) -> None:
    assert candidates(tmp_path, magic, "x.dat", head) == (["added", "last"] if is_one else ["last"])


COMMON = 'format = 1\nname = "t"\nversion = "1"\n[facility]\nname = "t"\n'
TWO_KINDS = (
    COMMON
    + """
[[product]]
name = "damaged"
match = '\\.json$'
reader = "fits"
where = [{ content = "0.TELESCOP" }]

[[product]]
name = "muons"
match = '\\.json$'
reader = "json"
where = [{ content = "/type", words = { muon = "muon" } }, { content = "/energy", valid = [1.0, inf] }]
fields.kind = "muons"

[[product]]
name = "other"
match = '\\.json$'
reader = "json"
where = [{ content = "/type" }]
fields.kind = { content = "/type" }
"""
)


@pytest.mark.parametrize(
    ("content", "kind"),
    [
        ('{"type": "muon", "energy": 2}', "muons"),
        ('{"type": "muon", "energy": 0.5}', "muon"),
        ('{"type": "muon"}', "muon"),
        ('{"type": "gamma", "energy": 2}', "gamma"),
        ('{"energy": 2}', None),
    ],
)
def test_what_a_file_holds_decides_which_product_it_is_and_the_first_that_fits_counts(
    tmp_path: Path, content: str, kind: str | None
) -> None:
    (tmp_path / "x.toml").write_text(TWO_KINDS)
    (tmp_path / "a.json").write_text(content)
    description = load_description(tmp_path / "x.toml")
    extractor = Extractor(tree=LocalTree(tmp_path), facility="t", storage="s", description=description)
    outcome = extractor.extract("a.json")
    assert outcome.record is not None
    assert outcome.record.kind == kind
    # Where nothing fits, it matters that one that might have fitted could not be read.
    assert (outcome.failure or "").startswith("" if kind else "content, as damaged: ")
    assert (outcome.record.description is None) == (kind is None)


def test_the_digest_covers_the_files_that_readers_need(tmp_path: Path) -> None:
    taiga = Path(extractors.__file__).parent / "descriptions" / "taiga"
    shutil.copytree(taiga, tmp_path / "taiga", ignore=shutil.ignore_patterns("__pycache__"))
    first = load_description(tmp_path / "taiga" / "taiga.toml")
    assert first.label == load_description(taiga / "taiga.toml").label
    companions = {path for product in first.products if product.reader for path in product.reader.companions}
    assert companions
    for path in companions:
        path.write_bytes(path.read_bytes() + b"\n")
        if path.suffix == ".py":
            assert load_description(tmp_path / "taiga" / "taiga.toml").digest != first.digest
        else:
            with pytest.raises(DescriptionError, match="compile it again"):
                load_description(tmp_path / "taiga" / "taiga.toml")
        path.write_bytes(path.read_bytes()[:-1])
    assert load_description(tmp_path / "taiga" / "taiga.toml").digest == first.digest


@pytest.mark.parametrize(
    ("before", "after", "key", "words"),
    [
        ('name = "T1"', 'nmae = "T1"', "facility.detectors[0]", ["unknown field `nmae`"]),
        ("format = 1", "format = 2", "format", ["found 2"]),
        ('version = "7"', "version = 7", "version", ["Expected `str`, got `int`", "found 7"]),
        ('kind = "elapsed"', 'kind = "sundial"', "clock.met.kind", ["'sundial'"]),
        ('scale = "TT"', 'scale = "XX"', "clock.met.scale", ["'XX'"]),
        ("(?P<run>", "(?P<run", "product[0].match", ["expected a regular expression"]),
        ('reader = "fits"', 'reader = "fitz"', "product[0].reader", ["found reader 'fitz'", "fits, hdf5"]),
        ('kind = "events"', 'kind = ["events"]', "product[0].fields.kind", ["found 'events'", "expected a table"]),
        ('kind = "events"', 'knid = "events"', "product[0].fields.knid", ["found 'knid'", "core fields: kind"]),
        ('kind = "events"', "kind = {}", "product[0].fields.kind", ["exactly one of constant, name, content"]),
        ('kind = "events"', "kind = []", "product[0].fields.kind", ["an empty list"]),
        ('detector = "T1"', 'detector = "T2"', "product[0].fields.detector", ["found 'T2'", "detectors: T1"]),
        ('clock = "met"', 'clock = "sun"', "product[0].fields.time_begin", ["found clock 'sun'", "clocks: met"]),
        (', clock = "met"', "", "product[0].fields.time_begin", ["found clock None"]),
        ('unit = "TeV"', 'unit = "TeX"', "product[0].fields.energy_max_ev", ["found 'TeX'", "converted to eV"]),
        ('unit = "TeV"', 'unit = "m"', "product[0].fields.energy_max_ev", ["found 'm'", "converted to eV"]),
        ('unit = "TeV"', 'clock = "met"', "product[0].fields.energy_max_ev", ["is no time"]),
        ("max(EVENTS", "mean(EVENTS", "product[0].fields.energy_max_ev", ["'mean(EVENTS.ENERGY)'", "max(HDU.COLUMN)"]),
        ('name = "run" }', 'name = "rnu" }', "product[0].fields.run", ["found group 'rnu'", "in match: run"]),
        ("livetime_s = {", "lifetime_s = {", "product[0].attributes.lifetime_s", ["that the facility declares"]),
        ('kind = "notes"', 'run = "many"', "product[1].fields.run", ["found 'many'", "a whole number"]),
        ('kind = "notes"', 'kind = { content = "A.B" }', "product[1].fields.kind", ["expected a reader"]),
    ],
    ids=range(22),
)
def test_mistakes_are_told_with_line_key_found_and_expected(
    tmp_path: Path, before: str, after: str, key: str, words: list[str]
) -> None:
    assert GOOD.count(before) >= 1
    text = GOOD.replace(before, after, 1)
    error = load(tmp_path, text)
    assert error.key == key
    line = text.splitlines()[error.line - 1]
    assert after in line or key.split(".")[-1].split("[")[0] in line
    for word in words:
        assert word in str(error)
    assert str(error).startswith(f"{tmp_path / 'x.toml'}:{error.line}: {key}: ")


def test_a_syntax_error_has_its_line(tmp_path: Path) -> None:
    assert load(tmp_path, GOOD.replace('version = "7"', "version = seven")).line == 3


def test_bytes_that_are_no_text_have_their_line(tmp_path: Path) -> None:
    (tmp_path / "x.toml").write_bytes(b"format = 1\nname = '\xff'\n")
    with pytest.raises(DescriptionError, match="no UTF-8") as caught:
        load_description(tmp_path / "x.toml")
    assert caught.value.line == 2


def test_a_missing_part_is_told(tmp_path: Path) -> None:
    assert "missing required field `facility`" in str(load(tmp_path, 'format = 1\nname = "x"\nversion = "1"\n'))


def test_an_authority_must_be_the_facility_s(tmp_path: Path) -> None:
    error = load(tmp_path, GOOD.replace("[facility]", '[authority]\nname = "board"\n\n[facility]'))
    assert "'board'" in str(error)


def test_lines_are_found_in_the_right_one_of_several_tables() -> None:
    second_kind = [number for number, line in enumerate(GOOD.splitlines(), start=1) if line.startswith("kind")][-1]
    assert find_line(GOOD, ("product", 1, "fields", "kind")) == second_kind
    assert find_line(GOOD, ("facility", "detectors", 0, "name")) == line_of(GOOD, "detectors")
    assert find_line(GOOD, ("gone",)) == 1


def test_every_built_in_description_is_good() -> None:
    assert set(builtin_names()) >= {"aurora", "borealis", "cascade", "fact", "fermi-lat", "hess", "ligo", "magic"}
    for name in builtin_names():
        description = find_description(name)
        assert description is not None
        assert description.name == description.facility.name == name


@pytest.mark.parametrize("name", ["nobody", "../errors", "", "/etc/passwd"])
def test_an_unknown_name_finds_nothing(name: str) -> None:
    assert find_description(name) is None
