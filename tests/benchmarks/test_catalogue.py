"""The generated catalogue, and how it is shared out to requests."""

from collections import defaultdict
from collections.abc import Iterable
from datetime import timedelta
from itertools import islice, pairwise
from pathlib import Path

import msgspec
import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.catalogue import (
    FILES_PER_RUN,
    FIRST_YEAR,
    MONITORING_FILES,
    NIGHTS_PER_SEASON,
    SEASONS,
    SHARED_STORAGE,
    Edition,
    GeneratedFacility,
    main,
    make_facilities,
    make_storages,
    write_batches,
)
from benchmarks.ingest import share_out
from metadata_db.records import FileRecord, Removal
from metadata_db.rows import decode_as


@pytest.fixture(scope="module")
def facilities() -> list[GeneratedFacility]:
    return make_facilities(3000)


@pytest.fixture(scope="module")
def large() -> GeneratedFacility:
    """Give a facility with a few files of each sort."""
    return GeneratedFacility(name="capella", number=2, n_files=30_000)


@pytest.fixture(scope="module")
def records(large: GeneratedFacility) -> list[FileRecord]:
    return list(large.iter_records())


def runs_of(records: Iterable[FileRecord]) -> list[list[FileRecord]]:
    runs: dict[str, list[FileRecord]] = defaultdict(list)
    for record in records:
        if record.obs_id is not None:
            runs[record.obs_id].append(record)
    return list(runs.values())


# --- the whole --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n_files", [12, 13, 100, 3000, 10_000_000])
def test_the_facilities_have_the_wanted_number_of_files_together(n_files: int) -> None:
    facilities = make_facilities(n_files)
    assert len(facilities) == 12
    assert sum(facility.n_files for facility in facilities) == n_files
    assert min(facility.n_files for facility in facilities) >= 1


def decode(line: bytes) -> FileRecord:
    return decode_as(msgspec.json.Decoder(FileRecord), line)


def test_facilities_are_of_unequal_size(facilities: list[GeneratedFacility]) -> None:
    sizes = [facility.n_files for facility in facilities]
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[0] > 40 * sizes[-1]


def test_fewer_files_than_facilities_are_refused() -> None:
    with pytest.raises(ValueError, match="at least 12"):
        make_facilities(11)


@pytest.mark.parametrize("n_files", [12, 13, 40, 3000])
def test_every_line_is_one_that_the_ingest_accepts_and_no_file_comes_twice(n_files: int, tmp_path: Path) -> None:
    facilities = {facility.name: facility for facility in make_facilities(n_files)}
    records = {name: facility.iter_records() for name, facility in facilities.items()}
    keys = set()
    for batch in write_batches(list(facilities.values()), tmp_path, batch_lines=400):
        lines = batch.path.read_bytes().splitlines()
        assert (len(lines), batch.path.stat().st_size) == (batch.n_lines, batch.n_bytes)
        assert len(lines) <= 400
        for record in map(decode, lines):
            assert record == next(records[batch.facility])
            assert record.facility == batch.facility
            keys.add((record.storage, record.path))
    assert len(keys) == n_files


def test_what_is_written_does_not_depend_on_the_number_of_processes(
    facilities: list[GeneratedFacility], tmp_path: Path
) -> None:
    alone, shared = (
        write_batches(facilities, tmp_path / str(processes), batch_lines=400, processes=processes)
        for processes in (1, 2)
    )
    assert [batch.path.name for batch in alone] == [batch.path.name for batch in shared]
    assert [batch.path.read_bytes() for batch in alone] == [batch.path.read_bytes() for batch in shared]


@given(
    cuts=st.sets(st.integers(0, 500), max_size=5), edition=st.sampled_from([Edition(), Edition(version=2, share=0.4)])
)
def test_any_part_of_a_facility_can_be_had_without_the_rest(cuts: set[int], edition: Edition) -> None:
    generated = GeneratedFacility(name="deneb", number=3, n_files=500)
    ends = [0, *sorted(cuts), 500]
    parts = [line for first, last in pairwise(ends) for line in generated.iter_lines(first, last, edition)]
    assert parts == list(generated.iter_lines(edition=edition))


def test_the_command_writes_what_is_asked_for(tmp_path: Path) -> None:
    arguments = ["--files=2000", f"--out={tmp_path}", "--batch-lines=300", "--version=1", "--share=0.5"]
    result = CliRunner().invoke(main, arguments, catch_exceptions=False)
    lines = [line for file in sorted(tmp_path.iterdir()) for line in file.read_bytes().splitlines()]
    edition = Edition(version=1, share=0.5)
    assert lines == [
        line.strip() for facility in make_facilities(2000) for line in facility.iter_lines(edition=edition)
    ]
    assert 0 < len(lines) < 2000
    assert f"{len(lines):,} lines" in result.output


# --- what it is like --------------------------------------------------------------------------------------------------


def test_files_use_the_vocabulary_of_their_facility_and_all_of_it() -> None:
    for generated in make_facilities(10_000)[:10]:
        vocabulary = generated.facility()
        records = list(generated.iter_records())
        assert {record.storage for record in records} == {storage.name for storage in make_storages(generated)}
        assert {record.channel for record in records} - {None} == {channel.name for channel in vocabulary.channels}
        clusters = {detector.name: detector.cluster for detector in vocabulary.detectors}
        for record in records:
            assert record.detector is None or record.cluster == clusters[record.detector]
        declared = {attribute.name for attribute in vocabulary.attributes}
        assert 3 <= len(declared) <= 6
        assert all(record.attributes.keys() == declared for record in records if record.obs_id)
        assert not any(record.attributes for record in records if not record.obs_id)


def test_most_facilities_have_a_storage_of_their_own_and_some_share_one(facilities: list[GeneratedFacility]) -> None:
    owners = defaultdict(list)
    for generated in facilities:
        for storage in make_storages(generated):
            owners[storage.name].append(storage.facility)
    assert owners.pop(SHARED_STORAGE) == [None, None]
    assert {len(found) for found in owners.values()} == {1}
    assert {facility for found in owners.values() for facility in found} == {
        generated.name for generated in facilities if generated.storages != (SHARED_STORAGE,)
    }
    assert len(owners) > 10


def test_files_come_in_runs_in_the_nights_of_all_seasons(large: GeneratedFacility, records: list[FileRecord]) -> None:
    runs = runs_of(records)
    assert len(runs) == large.n_runs
    assert {len(run) for run in runs[:-1]} == {FILES_PER_RUN}
    seasons = set()
    for run in runs:
        for record in run:
            assert record.time_begin is not None
            assert record.time_begin.month not in (6, 7, 8)
            assert record.time_begin.hour > 14 or record.time_begin.hour < 9
            seasons.add((record.time_begin - timedelta(days=243)).year)
    assert seasons == set(range(FIRST_YEAR, FIRST_YEAR + SEASONS))


def test_nights_are_longer_in_winter_and_some_are_without_runs() -> None:
    generated = GeneratedFacility(name="mirach", number=11, n_files=300_000)
    nights: dict[str, list[FileRecord]] = defaultdict(list)
    for record in map(decode, generated.iter_lines(0, generated.n_files // SEASONS)):
        if record.time_begin is not None and record.obs_id is not None:
            nights[f"{record.time_begin - timedelta(hours=12):%Y-%m-%d}"].append(record)
    lengths: dict[str, list[timedelta]] = defaultdict(list)
    for night, records in nights.items():
        begins = [record.time_begin for record in records if record.time_begin is not None]
        lengths[night[5:7]].append(max(begins) - min(begins))
    assert timedelta(hours=11) < max(lengths["12"]) < timedelta(hours=14)
    assert max(lengths["05"]) < timedelta(hours=10)
    assert 0.7 < len(nights) / NIGHTS_PER_SEASON < 0.9


def test_monitoring_overlaps_the_data_of_its_run(records: list[FileRecord]) -> None:
    for run in runs_of(records)[:-1]:
        monitoring = [record for record in run if record.channel == "monitor"]
        assert len(monitoring) == MONITORING_FILES
        for record in monitoring:
            assert record.time_begin is not None
            assert record.time_end is not None
            overlapping = [
                other
                for other in run
                if other.time_end
                and other.time_begin
                and other.time_begin < record.time_end
                and other.time_end > record.time_begin
            ]
            assert len(overlapping) > 10 or all(other.time_end is None for other in run if other not in monitoring)


def test_what_is_of_the_run_is_the_same_in_its_files_and_what_is_of_the_file_differs(records: list[FileRecord]) -> None:
    for run in runs_of(records)[:50]:
        for name in ("detector", "storage", "quality", "conditions", "is_simulation", "attributes", "run"):
            assert all(getattr(record, name) == getattr(run[0], name) for record in run)
        data = [record for record in run if record.channel != "monitor"]
        for name in ("level", "object", "processing", "kind"):
            assert all(getattr(record, name) == getattr(data[0], name) for record in data)
        for name in ("ra_deg", "energy_min_ev", "size_bytes", "n_events"):
            values = {getattr(record, name) for record in data}
            assert values == {None} or len(values) > len(data) / 2


def test_a_few_files_last_for_weeks_months_and_years_and_a_few_have_no_time(records: list[FileRecord]) -> None:
    lengths_days = sorted(
        (record.time_end - record.time_begin).days
        for record in records
        if record.time_end and record.time_begin and record.obs_id is None
    )
    assert len(lengths_days) == 6
    assert lengths_days[:4] == [7, 7, 30, 30]
    assert min(lengths_days[4:]) >= 365
    timeless = [record for record in records if record.time_begin is None]
    assert len(timeless) == 60
    assert {record.kind for record in timeless} == {"catalogue", "irf"}


def test_every_facility_has_a_long_file(facilities: list[GeneratedFacility]) -> None:
    for generated in facilities:
        assert any(
            record.time_begin and record.time_end and record.time_end - record.time_begin >= timedelta(days=7)
            for record in generated.iter_records()
        )


@pytest.mark.parametrize(
    ("name", "least", "most"),
    [
        ("quality", 0.1, 0.2),
        ("conditions", 0.3, 0.5),
        ("object", 0.2, 0.4),
        ("ra_deg", 0.15, 0.3),
        ("energy_min_ev", 0.15, 0.3),
        ("time_begin", 0.001, 0.003),
        ("time_end", 0.01, 0.05),
        ("run", 0.01, 0.05),
        ("sha256", 0.002, 0.02),
        ("md5", 0.02, 0.1),
        ("processing", 0.2, 0.5),
    ],
)
def test_some_values_are_absent(records: list[FileRecord], name: str, least: float, most: float) -> None:
    absent = sum(getattr(record, name) is None for record in records)
    assert least < absent / len(records) < most


def test_favourite_targets_are_frequent_and_each_facility_has_rare_ones_of_its_own() -> None:
    one, other = (
        [record.object for record in GeneratedFacility(name=name, number=1, n_files=50_000).iter_records()]
        for name in ("bellatrix", "lesath")
    )
    common = set(one) & set(other) - {None}
    assert len(common) == 7
    assert len(set(one) - common) == len(set(other) - common) == 20 + 1  # and None
    assert one.count("Crab Nebula") > 5000
    assert min(map(one.count, set(one))) < 1000


# --- versions and removals --------------------------------------------------------------------------------------------


def test_a_later_version_of_a_file_differs_in_content_and_processing_only(large: GeneratedFacility) -> None:
    versions = [large.iter_records(Edition(version=version)) for version in range(3)]
    may_differ = {"sha256", "md5", "modified_at", "processing"}
    for first, *later in islice(zip(*versions, strict=True), 5000):
        for record in later:
            changed = {name for name in FileRecord.__struct_fields__ if getattr(record, name) != getattr(first, name)}
            assert {"size_bytes", "modified_at", "processing"} <= changed <= may_differ | {"size_bytes"}
            assert first.sha256 is None or record.sha256 != first.sha256
        assert len({record.size_bytes for record in (first, *later)}) == 3


def test_a_share_of_the_files_is_the_same_each_time_and_another_one_for_each_version(large: GeneratedFacility) -> None:
    def paths(version: int) -> set[str]:
        return {record.path for record in large.iter_records(Edition(version=version, share=0.3))}

    one, two = paths(1), paths(2)
    assert paths(1) == one
    assert len(one) == pytest.approx(0.3 * large.n_files, rel=0.1)
    assert len(one & two) == pytest.approx(0.09 * large.n_files, rel=0.25)


def test_removals_name_a_share_of_the_files(large: GeneratedFacility, records: list[FileRecord]) -> None:
    decoder = msgspec.json.Decoder(Removal)
    removals = [decoder.decode(line) for line in large.iter_lines(edition=Edition(is_removal=True, share=0.1))]
    files = {(record.facility, record.storage, record.path) for record in records}
    assert {(removal.facility, removal.storage, removal.path) for removal in removals} <= files
    assert len(removals) == pytest.approx(0.1 * large.n_files, rel=0.2)


# --- requests ---------------------------------------------------------------------------------------------------------


def test_batches_are_shared_out_evenly_and_a_facility_stays_in_one_lane(
    facilities: list[GeneratedFacility], tmp_path: Path
) -> None:
    lanes = share_out(write_batches(facilities, tmp_path, batch_lines=100))
    assert [sum(batch.n_lines for batch in lane) for lane in lanes] == pytest.approx([1500, 1500], abs=100)
    first, second = ({batch.facility for batch in lane} for lane in lanes)
    assert not first & second
