"""From raw values to records: the pure part without files, and the edge on real ones."""

import gzip
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from extractors.building import FileIdentity, build_record
from extractors.description import Description
from extractors.extract import Extractor, Outcome
from extractors.loading import find_description, load_description
from extractors.readers.reader import RawValue
from extractors.rules import Material
from extractors.storages.fingerprint import Fingerprint
from extractors.storages.local_tree import LocalTree
from metadata_db.records import FileRecord

Make = dict[str, Callable[..., None]]

TEXT = """\
format = 1
name = "t"
version = "1"

[facility]
name = "t"
detectors = [{ name = "T1" }]
attributes = [
    { name = "livetime_s", type = "number", unit = "s" },
    { name = "telescopes", type = "list" },
]

[clock.unix]
kind = "unix"

[[product]]
name = "all"
match = '(?P<run>\\d+)?'
reader = "fits"

[product.fields]
time_begin = { content = "A.BEGIN", clock = "unix", required = true }
time_end = { content = "A.END", unit = "ms", clock = "unix" }
run = [{ content = "A.RUN" }, { name = "run" }]
ra_deg = { content = "A.RA", unit = "deg" }
dec_deg = { content = "A.DEC", unit = "deg" }
position_basis = "pointing"
energy_min_ev = { content = "min(A.E)", unit = { content = "A.EUNIT" } }
energy_max_ev = { content = "max(A.E)", unit = { content = "A.EUNIT" } }
energy_basis = "A.E"
object = { content = "A.OBJECT" }
n_events = { content = "rows(A)" }
detector = { content = "A.TEL", words = { one = "T1" } }

[product.attributes]
livetime_s = { content = "A.LIVE", unit = "min" }
telescopes = { content = "A.TELS" }
"""
FINGERPRINT = Fingerprint(size_bytes=1, modified_at=datetime(2020, 1, 1, tzinfo=UTC), format="fits")


@pytest.fixture(scope="module")
def description(tmp_path_factory: pytest.TempPathFactory) -> Description:
    path = tmp_path_factory.mktemp("description") / "t.toml"
    path.write_text(TEXT)
    return load_description(path)


def build(description: Description, name: str = "", /, **values: Any) -> FileRecord:
    """Build a record from raw values: A.X is given as X, columns as min, max and rows; a pair states its unit."""
    content = {}
    for key, said in values.items():
        value, unit = said if isinstance(said, tuple) and key in ("min", "max") else (said, None)
        address = {"min": "min(A.E)", "max": "max(A.E)", "rows": "rows(A)"}.get(key, f"A.{key}")
        content[address] = RawValue(value=value, unit=unit)
    return build_record(
        FileIdentity(facility="t", storage="s", path="f"),
        FINGERPRINT,
        description=description,
        product=description.products[0],
        material=Material(groups={"run": name} if name else {}, content=content),
    )


def test_without_a_description_a_record_has_what_the_storage_knows() -> None:
    record = build_record(FileIdentity(facility="t", storage="s", path="a/b"), FINGERPRINT)
    assert record == FileRecord(
        facility="t", storage="s", path="a/b", size_bytes=1, modified_at=FINGERPRINT.modified_at, format="fits"
    )


def test_absent_is_not_zero(description: Description) -> None:
    record = build(description)
    values = {name: getattr(record, name) for name in ("time_end", "run", "n_events", "object", "ra_deg")}
    assert set(values.values()) == {None}
    assert record.attributes == {}
    assert build(description, rows=0).n_events == 0


def test_what_is_required_and_not_found_is_a_warning(description: Description) -> None:
    assert build(description).warnings == ["time_begin: nothing found, though the Description requires it"]
    assert build(description, BEGIN=0).warnings == []


def test_the_unit_beside_a_value_goes_before_the_stated_one(description: Description) -> None:
    record = build(description, BEGIN=0, min=(1.0, "TeV"), max=(2.0, "TeV"), EUNIT="MeV")
    assert (record.energy_min_ev, record.energy_max_ev) == (1e12, 2e12)
    assert record.provenance["energy_min_ev"] == "content min(A.E) [TeV]"
    record = build(description, BEGIN=0, min=1.0, max=2.0, EUNIT="MeV")
    assert (record.energy_min_ev, record.energy_max_ev) == (1e6, 2e6)


@pytest.mark.parametrize("unit", [None, "ergons", "s"])
def test_an_energy_without_a_known_unit_is_no_value_and_a_warning(description: Description, unit: str | None) -> None:
    record = build(description, BEGIN=0, min=1.0, max=2.0, EUNIT=unit)
    assert (record.energy_min_ev, record.energy_max_ev, record.energy_basis) == (None, None, None)
    assert len(record.warnings) == 2
    assert record.warnings[0].startswith("energy_min_ev: found ")


def test_a_bad_value_falls_back_to_the_next_rule_with_a_warning(description: Description) -> None:
    record = build(description, "12", BEGIN=0, RUN=12.5)
    assert (record.run, record.provenance["run"]) == (12, "name (run)")
    assert record.warnings == ["run: found 12.5, expected a whole number of at most 63 bits"]
    assert build(description, "12", BEGIN=0, RUN=11).run == 11


def test_units_of_attributes_and_times_are_converted(description: Description) -> None:
    record = build(description, BEGIN=0, END=1500, LIVE=2)
    assert record.attributes == {"livetime_s": 120.0}
    assert record.time_end == datetime(1970, 1, 1, 0, 0, 1, 500000, tzinfo=UTC)
    assert record.provenance["attributes.livetime_s"] == "content A.LIVE [min]"


def test_lists_stay_lists(description: Description) -> None:
    assert build(description, BEGIN=0, TELS=(1, 2)).attributes == {"telescopes": [1, 2]}


def test_a_list_with_a_number_that_is_none_is_no_value(description: Description) -> None:
    record = build(description, BEGIN=0, TELS=(1.0, float("nan")))
    assert record.attributes == {}
    assert "finite" in record.warnings[0]


def test_unknown_words_are_no_value(description: Description) -> None:
    assert build(description, BEGIN=0, TEL="one").detector == "T1"
    record = build(description, BEGIN=0, TEL="two")
    assert record.detector is None
    assert record.warnings == ["detector: found 'two', expected one of the known words one"]


@pytest.mark.parametrize(
    ("values", "gone"),
    [
        ({"BEGIN": 10, "END": 1000}, {"time_begin", "time_end"}),
        ({"END": 1000}, {"time_end"}),
        ({"BEGIN": 0, "RA": 10.0}, {"ra_deg", "position_basis"}),
        ({"BEGIN": 0, "RA": 10.0, "DEC": 91.0}, {"ra_deg", "dec_deg", "position_basis"}),
        ({"BEGIN": 0, "min": (2.0, "eV"), "max": (1.0, "eV")}, {"energy_min_ev", "energy_max_ev", "energy_basis"}),
        ({"BEGIN": 0, "min": (-1.0, "eV")}, {"energy_min_ev", "energy_basis"}),
        ({"BEGIN": 0, "OBJECT": "x" * 300}, {"object"}),
    ],
    ids=["end before begin", "end alone", "ra alone", "no such dec", "energies swapped", "negative", "too long"],
)
def test_what_contradicts_itself_is_taken_back_with_a_warning(
    description: Description, values: dict[str, Any], gone: set[str]
) -> None:
    record = build(description, **values)
    assert {name for name in gone if getattr(record, name) is not None} == set()
    assert gone.isdisjoint(record.provenance)
    assert record.warnings


def test_empty_text_is_absent(description: Description) -> None:
    record = build(description, BEGIN=0, OBJECT="   ")
    assert (record.object, record.warnings) == (None, [])


# Also halves of surrogate pairs, which JSON can spell.
text = st.text(st.characters(), max_size=300)
raw = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), text, st.tuples(st.floats(), text))


KEYS = ("BEGIN", "END", "RUN", "RA", "DEC", "min", "max", "EUNIT", "OBJECT", "rows", "TEL", "LIVE", "TELS")


@given(st.dictionaries(st.sampled_from(KEYS), raw))
@settings(deadline=None)  # the first example imports astropy
def test_whatever_a_file_says_the_record_is_one_that_the_catalogue_accepts(
    description: Description, values: dict[str, Any]
) -> None:
    record = build(description, **{key: value for key, value in values.items() if value is not None})
    line = msgspec.json.encode(record)
    assert msgspec.json.decode(line, type=FileRecord) == record
    assert b"\\u0000" not in line


# ---------------------------------------------------------------------------------------------------- edge


def extract(root: Path, name: str, path: str, **settings: Any) -> Outcome:
    description = find_description(name)
    extractor = Extractor(tree=LocalTree(root), facility=name, storage="s", description=description, **settings)
    return extractor.extract(path)


def test_every_field_of_an_aurora_run(tmp_path: Path, make: Make) -> None:
    path = "south/2020/01/20191231/aurora_000041_dl3.fits"
    make["aurora"](tmp_path / path)
    record = extract(tmp_path, "aurora", path).record
    assert record is not None
    assert record.time_begin is not None
    expected = datetime(2020, 1, 1, 1, 0, tzinfo=UTC) - timedelta(seconds=69.184)
    assert abs(record.time_begin - expected) < timedelta(milliseconds=1)
    assert record.time_end == record.time_begin + timedelta(seconds=1800.5)
    assert (record.kind, record.level, record.cluster, record.detector, record.channel) == (
        "events", "DL3", "south", "iact-south", "gamma"
    )  # fmt: skip
    assert (record.obs_id, record.run, record.object, record.n_events) == ("41", 41, "Crab Nebula", 3)
    assert (record.ra_deg, record.dec_deg, record.position_basis) == (83.63, 22.01, "pointing")
    assert (record.energy_min_ev, record.energy_max_ev) == (5e11, 3e13)
    assert (record.is_simulation, record.quality, record.conditions) == (False, "good", "thin cloud")
    assert record.attributes == {
        "night": "20191231", "livetime_s": 1700.0, "ontime_s": 1800.5, "livetime_fraction": 0.944, "n_telescopes": 4
    }  # fmt: skip
    assert (record.format, record.warnings) == ("fits", [])


def test_an_aurora_simulation_has_no_time_and_says_that_it_is_one(tmp_path: Path, make: Make) -> None:
    path = "sim/aurora_sim_000007.fits"
    make["aurora"](tmp_path / path, run=7, SIMULATE=True, TSTART=None, TSTOP=None, TIMESYS=None)
    record = extract(tmp_path, "aurora", path).record
    assert record is not None
    assert (record.kind, record.is_simulation, record.time_begin, record.run) == ("simulation", True, None, 7)
    assert record.warnings == []


def test_every_field_of_borealis_showers(tmp_path: Path, make: Make) -> None:
    path = "s03/2021/borealis_s03_20210317.h5"
    make["borealis"](tmp_path / path)
    record = extract(tmp_path, "borealis", path).record
    assert record is not None
    assert record.time_begin == datetime(2021, 3, 17, 7, 6, 22, tzinfo=UTC)
    assert record.time_end == datetime(2021, 3, 18, 7, 6, 22, tzinfo=UTC)
    assert (record.kind, record.level, record.cluster, record.detector, record.channel) == (
        "events", "reconstructed", "s03", "s03", "air-showers"
    )  # fmt: skip
    assert (record.run, record.obs_id, record.n_events, record.format) == (77, "77", 4, "hdf5")
    assert record.energy_min_ev == pytest.approx(4e17)
    assert record.energy_max_ev == pytest.approx(1.25e19)
    assert record.attributes == {"gps_start": 1_300_000_000.0, "zenith_max_deg": 45.0}
    assert record.warnings == []


@pytest.mark.parametrize(("unit", "factor"), [("keV", 1e3), ("MeV", 1e6)])
def test_every_field_of_a_cascade_map(tmp_path: Path, make: Make, unit: str, factor: float) -> None:
    path = "week_2021-W09/cascade_soft_0012.fits"
    make["cascade"](tmp_path / path, unit=unit)
    record = extract(tmp_path, "cascade", path).record
    assert record is not None
    assert record.time_begin == datetime(2021, 3, 1, tzinfo=UTC)
    assert record.time_end == datetime(2021, 3, 8, tzinfo=UTC)
    assert (record.kind, record.level, record.channel, record.object) == ("skymap", "DL4", "soft", "field 12")
    assert (record.ra_deg, record.dec_deg, record.position_basis) == (120.5, -45.25, "map centre")
    assert (record.energy_min_ev, record.energy_max_ev) == (0.5 * factor, 2.0 * factor)
    assert record.attributes == {"week": "2021-W09", "field": 12}
    assert record.warnings == []


def test_an_unknown_unit_in_a_file_costs_that_value_only(tmp_path: Path, make: Make) -> None:
    path = "week_2021-W09/cascade_soft_0012.fits"
    make["cascade"](tmp_path / path, unit="lightyears")
    record = extract(tmp_path, "cascade", path).record
    assert record is not None
    assert (record.energy_min_ev, record.object) == (None, "field 12")
    assert len(record.warnings) == 2


def test_a_damaged_file_is_registered_with_what_the_storage_knows(night: Path) -> None:
    outcome = extract(night, "aurora", "north/2020/01/20200101/aurora_000099_dl3.fits")
    assert outcome.failure is not None
    assert "ends within a header" in outcome.failure
    assert outcome.record is not None
    assert (outcome.record.size_bytes, outcome.record.format, outcome.record.obs_id) == (3000, "fits", None)
    assert outcome.record.sha256 is not None
    assert any("ends within a header" in warning for warning in outcome.record.warnings)


def test_a_file_that_matches_nothing_is_registered_too(night: Path) -> None:
    outcome = extract(night, "aurora", "notes.txt")
    assert (outcome.failure, outcome.is_matched) == (None, False)
    assert outcome.record is not None
    assert (outcome.record.format, outcome.record.kind) == ("txt", None)
    assert str(outcome.record.description).startswith("aurora@1 ")


@pytest.mark.parametrize("content", ["plain text", "SIMPLE  ="])
def test_what_matches_nothing_on_a_shared_storage_is_passed_over(night: Path, content: str) -> None:
    (night / "notes.txt").write_text(content)
    outcome = extract(night, "aurora", "notes.txt", only_matched=True)
    assert outcome == Outcome(path="notes.txt")


def test_headers_alone_cost_checksums_and_ranges_but_no_more(night: Path) -> None:
    outcome = extract(night, "aurora", "north/2020/01/20200101/aurora_000041_dl3.fits", header_only=True)
    record = outcome.record
    assert record is not None
    assert (record.sha256, record.md5, record.energy_min_ev, record.energy_basis) == (None, None, None, None)
    assert (record.n_events, record.obs_id, record.size_bytes > 0) == (3, "41", True)


def test_of_a_file_that_may_not_be_read_whole_the_headers_are(night: Path) -> None:
    path = "north/2020/01/20200101/aurora_000041_dl3.fits"
    size = (night / path).stat().st_size
    outcome = extract(night, "aurora", path, max_read_bytes=2 * size - 1)
    assert (outcome.failure, outcome.is_matched) == (None, True)
    assert outcome.record is not None
    assert (outcome.record.obs_id, outcome.record.sha256, outcome.record.energy_min_ev) == ("41", None, None)
    outcome = extract(night, "aurora", path, max_read_bytes=3000)
    assert outcome.failure == "content: reading needed more than the allowed 3000 bytes of the file"
    assert outcome.record is not None
    assert outcome.record.size_bytes == size
    whole = extract(night, "aurora", path, max_read_bytes=2 * size).record
    assert whole is not None
    assert whole.sha256 is not None


def test_a_packed_bomb_is_one_failure(night: Path) -> None:
    path = night / "north/2020/01/20200101/aurora_000050_dl3.fits"
    good = (night / "north/2020/01/20200101/aurora_000041_dl3.fits").read_bytes()
    path.write_bytes(gzip.compress(good + bytes(3_000_000)))
    outcome = extract(night, "aurora", str(path.relative_to(night)), max_unpacked_bytes=10_000)
    assert outcome.failure is not None
    assert "unpacks to more than the allowed 10000 bytes" in outcome.failure
    assert outcome.record is not None


def test_extraction_leaves_the_storage_as_it_was(night: Path) -> None:
    def state() -> dict[str, tuple[int, int, bytes]]:
        paths = [path for path in night.rglob("*") if path.is_file()]
        return {str(path): (path.stat().st_mtime_ns, path.stat().st_mode, path.read_bytes()) for path in paths}

    before = state()
    for path in before:
        extract(night, "aurora", str(Path(path).relative_to(night)))
    assert state() == before
