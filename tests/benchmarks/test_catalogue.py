"""The generated catalogue, the questions about it, and how it is shared out to requests."""

import json
from itertools import islice
from pathlib import Path

import pytest

from benchmarks.catalogue import FILES_PER_RUN, GeneratedFacility, make_facilities, write_batches
from benchmarks.ingest import share_out
from benchmarks.questions import KINDS, MIXTURE, iter_bodies
from metadata_db.rows import decode_line


@pytest.fixture
def facilities() -> list[GeneratedFacility]:
    return make_facilities(3000)


def test_the_facilities_have_the_wanted_number_of_files_together(facilities: list[GeneratedFacility]) -> None:
    assert len(facilities) == 12
    assert sum(facility.n_files for facility in facilities) == 3000
    assert max(facility.n_files for facility in facilities) > 40 * min(facility.n_files for facility in facilities)


def test_fewer_files_than_facilities_are_refused() -> None:
    with pytest.raises(ValueError, match="at least 12"):
        make_facilities(11)


def test_the_lines_of_a_catalogue_are_the_same_each_time(facilities: list[GeneratedFacility], tmp_path: Path) -> None:
    once, again = (write_batches(facilities, tmp_path / name, batch_lines=400) for name in ("once", "again"))
    assert [batch.path.read_bytes() for batch in once] == [batch.path.read_bytes() for batch in again]


def test_every_line_is_one_that_the_ingest_accepts_and_no_file_comes_twice(
    facilities: list[GeneratedFacility], tmp_path: Path
) -> None:
    batches = write_batches(facilities, tmp_path, batch_lines=400)
    keys = set()
    for batch in batches:
        lines = batch.path.read_bytes().splitlines()
        assert (len(lines), batch.path.stat().st_size) == (batch.n_lines, batch.n_bytes)
        assert len(lines) <= 400
        for record in map(decode_line, lines):
            assert record.facility == batch.facility
            keys.add((record.storage, record.path))
    assert len(keys) == 3000


def test_files_come_in_runs_of_nights_in_a_season(facilities: list[GeneratedFacility]) -> None:
    runs: dict[int, list[int]] = {}
    for record in facilities[0].iter_records():
        assert record.run is not None
        assert record.time_begin is not None
        assert record.time_begin.month in (9, 10, 11, 12, 1, 2, 3, 4, 5)
        runs.setdefault(record.run, []).append(record.time_begin.year)
    assert len(runs) == facilities[0].n_runs
    assert {len(files) for files in runs.values()} <= {FILES_PER_RUN, facilities[0].n_files % FILES_PER_RUN}
    assert {year for years in runs.values() for year in years} == {2015, 2016, 2017, 2018, 2019, 2020}


def test_attributes_are_those_that_the_facility_declares(facilities: list[GeneratedFacility]) -> None:
    for generated in facilities:
        declared = {attribute.name for attribute in generated.facility().attributes}
        assert 3 <= len(declared) <= 6
        assert all(record.attributes.keys() == declared for record in generated.iter_records())


def test_some_values_are_absent(facilities: list[GeneratedFacility]) -> None:
    records = list(facilities[0].iter_records())
    for name in ("ra_deg", "energy_min_ev", "object", "quality", "conditions"):
        absent = sum(getattr(record, name) is None for record in records)
        assert 0 < absent < len(records)


def test_batches_are_shared_out_evenly_and_a_facility_stays_in_one_lane(
    facilities: list[GeneratedFacility], tmp_path: Path
) -> None:
    lanes = share_out(write_batches(facilities, tmp_path, batch_lines=100))
    assert [sum(batch.n_lines for batch in lane) for lane in lanes] == pytest.approx([1500, 1500], abs=100)
    first, second = ({batch.facility for batch in lane} for lane in lanes)
    assert not first & second


@pytest.mark.parametrize("kind", MIXTURE)
def test_no_question_of_a_kind_comes_twice_in_a_large_catalogue(kind: str) -> None:
    bodies = list(islice(iter_bodies([kind], make_facilities(1_000_000), seed="test"), 200))
    assert len(set(bodies)) >= (195 if kind == "one run" else 200)  # runs are drawn from some 42,000


def test_kinds_are_asked_in_turn(facilities: list[GeneratedFacility]) -> None:
    kinds = ["everything", "one run"]
    filters = [json.loads(body)["variables"]["filter"] for body in islice(iter_bodies(kinds, facilities, seed="a"), 4)]
    assert [bool(asked) for asked in filters] == [False, True, False, True]


def test_another_seed_asks_other_questions(facilities: list[GeneratedFacility]) -> None:
    one, other = (set(islice(iter_bodies(list(KINDS), facilities, seed=seed), 50)) for seed in ("one", "other"))
    assert len(one & other) <= 1  # "everything" is always the same
