"""The Descriptions of the invented facilities fit the files that the demonstration generates."""

import pytest

from aggregator.samples import generate_samples
from extractors.extract import Extractor, Outcome
from extractors.loading import find_description
from extractors.storages.local_tree import LocalTree
from metadata_db.records import FileRecord


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[Outcome]]:
    """Return what came of a small choice of generated files, by facility."""
    found = {}
    for storage in generate_samples(tmp_path_factory.mktemp("samples"), scale=0.03):
        description = find_description(storage.facility)
        extractor = Extractor(
            tree=LocalTree(storage.root), facility=storage.facility, storage=storage.name, description=description
        )
        paths = [path for path in sorted(storage.root.rglob("*")) if path.is_file()]
        found[storage.facility] = extractor.extract_all(str(path.relative_to(storage.root)) for path in paths)
    return found


def records(outcomes: list[Outcome]) -> list[FileRecord]:
    return [outcome.record for outcome in outcomes if outcome.record is not None]


def test_every_generated_file_matches_a_product_and_reads_without_warnings(outcomes: dict[str, list[Outcome]]) -> None:
    assert set(outcomes) == {"aurora", "borealis", "cascade"}
    for facility, found in outcomes.items():
        assert found, facility
        assert [outcome for outcome in found if outcome.failure or not outcome.is_matched] == []
        assert [warning for record in records(found) for warning in record.warnings] == []


def test_clusters_detectors_channels_and_attributes_are_those_that_the_facility_declares(
    outcomes: dict[str, list[Outcome]],
) -> None:
    for name, found in outcomes.items():
        description = find_description(name)
        assert description is not None
        facility = description.facility
        for record in records(found):
            assert record.cluster in {None, *(cluster.name for cluster in facility.clusters)}
            assert record.detector in {None, *(detector.name for detector in facility.detectors)}
            assert record.channel in {channel.name for channel in facility.channels}
            assert record.attributes.keys() <= {attribute.name for attribute in facility.attributes}


def test_observed_files_have_times_and_simulations_have_none(outcomes: dict[str, list[Outcome]]) -> None:
    for found in outcomes.values():
        for record in records(found):
            assert (record.time_begin is None, record.time_end is None) == (record.is_simulation, record.is_simulation)
