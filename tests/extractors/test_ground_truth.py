"""Every core field of the real files of all facilities against what they really say, read independently."""

import csv
import math
import tomllib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from extractors.extract import Extractor
from extractors.loading import find_description
from extractors.storages.local_tree import LocalTree
from metadata_db.records import FileRecord

CHECKOUT = Path(__file__).parents[2]
DATA = CHECKOUT.parent / "shared" / "data"
FACILITIES = (
    "fact",
    "hess",
    "magic",
    "fermi-lat",
    "veritas",
    "ligo",
    "km3net",
    "icecube",
    "hisparc",
    "kascade",
    "cta",
    "lst",
)
EV_PER_TEV = 1e12

pytestmark = pytest.mark.skipif(
    not (DATA / "ground_truth.csv").is_file(), reason="needs the real files in ../shared/data"
)


def same_text(ours: Any, truth: str) -> bool:
    return str(ours) == truth


def same_time(ours: datetime, truth: str) -> bool:
    return abs(ours - datetime.fromisoformat(truth)) <= timedelta(milliseconds=1)


def same_angle(ours: float, truth: str) -> bool:
    return abs(ours - float(truth)) <= 1e-6


def same_energy(ours: float, truth: str) -> bool:
    return math.isclose(ours, float(truth) * EV_PER_TEV, rel_tol=1e-6)


FIELDS: Mapping[str, tuple[str, Callable[[Any, str], bool]]] = {
    "size_bytes": ("size_bytes", same_text),
    "md5": ("md5", same_text),
    "sha256": ("sha256", same_text),
    "format": ("format", same_text),
    "kind": ("kind", same_text),
    "obs_id": ("obs_id", same_text),
    "time_begin": ("start_utc", same_time),
    "time_end": ("stop_utc", same_time),
    "ra_deg": ("ra_deg", same_angle),
    "dec_deg": ("dec_deg", same_angle),
    "position_basis": ("pos_basis", same_text),
    "energy_min_ev": ("energy_min_tev", same_energy),
    "energy_max_ev": ("energy_max_tev", same_energy),
    "object": ("object", same_text),
    "n_events": ("n_events", same_text),
}


def agrees(record: FileRecord, field: str, row: Mapping[str, str]) -> bool:
    column, same = FIELDS[field]
    ours, truth = getattr(record, field), row[column]
    return ours is None if truth == "" else ours is not None and same(ours, truth)


@pytest.fixture(scope="module")
def truth() -> list[dict[str, str]]:
    with (DATA / "ground_truth.csv").open(newline="") as stream:
        return [row for row in csv.DictReader(stream) if row["facility"] in FACILITIES]


@pytest.fixture(scope="module")
def records(truth: list[dict[str, str]]) -> dict[str, FileRecord]:
    """One record per path of the truth, all extracted; none may fail."""
    extractors = {
        name: Extractor(
            tree=LocalTree(DATA / "storages" / name), facility=name, storage=name, description=find_description(name)
        )
        for name in FACILITIES
    }
    found = {}
    for row in truth:
        outcome = extractors[row["facility"]].extract(row["path"].split("/", 1)[1])
        assert outcome.failure is None, f"{row['path']}: {outcome.failure}"
        assert outcome.record is not None
        found[row["path"]] = outcome.record
    return found


class Arguments:
    """The disagreements that are argued, and which of the arguments were needed."""

    def __init__(self) -> None:
        text = (CHECKOUT / "tests" / "data" / "ground_truth_disagreements.toml").read_text()
        self._entries = tomllib.loads(text)
        self.needed: set[int] = set()

    def allow(self, record: FileRecord, field: str, row: Mapping[str, str]) -> bool:
        for entry in self._iter_entries():
            is_rule = row["format"] in entry.get("formats", ()) and field in entry.get("fields", ())
            is_file = (entry.get("path"), entry.get("field")) == (row["path"], field)
            if is_rule or (is_file and entry["ours"] == getattr(record, field)):
                self.needed.add(id(entry))
                return True
        return False

    def unneeded(self) -> list[str]:
        return [entry["why"].strip() for entry in self._iter_entries() if id(entry) not in self.needed]

    def _iter_entries(self) -> Iterator[dict[str, Any]]:
        yield from self._entries.get("rule", ())
        yield from self._entries.get("file", ())


def table(agreeing: Counter[tuple[str, str]], argued: Counter[tuple[str, str]], files: Counter[str]) -> str:
    """Lay out per field and facility the share of files that agree, and how many disagreements are argued."""
    lines = ["", f"{'agree with the truth':<20}" + "".join(f"{name:>13}" for name in FACILITIES)]
    lines.append(f"{'files':<20}" + "".join(f"{files[name]:>13}" for name in FACILITIES))
    for field in FIELDS:
        cells = []
        for name in FACILITIES:
            share = f"{100 * agreeing[field, name] / files[name]:.0f} %"
            cells.append(f"{share}{f' ({argued[field, name]})' if argued[field, name] else ''}")
        lines.append(f"{field:<20}" + "".join(f"{cell:>13}" for cell in cells))
    lines.append("(n): disagreements that tests/data/ground_truth_disagreements.toml argues")
    return "\n".join(lines)


def test_every_core_field_says_what_the_file_says(
    truth: list[dict[str, str]], records: dict[str, FileRecord], tell: Callable[[str], None]
) -> None:
    arguments = Arguments()
    agreeing: Counter[tuple[str, str]] = Counter()
    argued: Counter[tuple[str, str]] = Counter()
    wrong = []
    for row in truth:
        record = records[row["path"]]
        for field, (column, _) in FIELDS.items():
            if agrees(record, field, row):
                agreeing[field, row["facility"]] += 1
            elif arguments.allow(record, field, row):
                argued[field, row["facility"]] += 1
            else:
                wrong.append(f"{row['path']}: {field}: ours {getattr(record, field)!r}, truth {row[column]!r}")
    tell(table(agreeing, argued, Counter(row["facility"] for row in truth)))
    assert not wrong, "\n".join(wrong[:50])
    assert not arguments.unneeded(), "these arguments are not needed any more"


def test_the_truth_covers_every_file_of_all_facilities(truth: list[dict[str, str]]) -> None:
    stored = {
        str(path.relative_to(DATA / "storages"))
        for name in FACILITIES
        for path in (DATA / "storages" / name).rglob("*")
        if path.is_file()
    }
    assert stored == {row["path"] for row in truth}


def test_no_fits_or_hdf5_disagreement_is_argued_by_rule() -> None:
    text = (CHECKOUT / "tests" / "data" / "ground_truth_disagreements.toml").read_text()
    formats = {word for rule in tomllib.loads(text)["rule"] for word in rule["formats"]}
    assert not {word for word in formats if word.startswith(("fits", "hdf5"))}


def test_every_file_matches_a_product(records: dict[str, FileRecord]) -> None:
    assert [path for path, record in records.items() if not record.provenance] == []


def test_values_say_where_they_come_from(records: dict[str, FileRecord]) -> None:
    record = records["fermi-lat/events.fits.gz"]
    assert record.provenance["time_begin"] == "content EVENTS.TSTART [s] + MJDREF 51910.0007429, TIMESYS=TT"
    assert record.provenance["energy_max_ev"] == "content max(EVENTS.ENERGY) [MeV]"
    for path, record in records.items():
        values = {name for name in FIELDS if getattr(record, name) is not None}
        values -= {"size_bytes", "md5", "sha256", "format"}
        assert values <= record.provenance.keys(), path


def test_real_files_give_no_warnings(records: dict[str, FileRecord]) -> None:
    assert {path: record.warnings for path, record in records.items() if record.warnings} == {}


def test_two_processings_of_one_run_stay_apart_by_their_processing(records: dict[str, FileRecord]) -> None:
    same_run = [record for path, record in records.items() if path.startswith("magic/") and record.run == 5029748]
    assert {record.processing for record in same_run} == {"rad_max", "joint-crab"}
