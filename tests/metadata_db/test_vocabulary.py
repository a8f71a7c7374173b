"""The vocabulary grows and is mended, never loses anything, and every process soon knows it."""

import asyncio
from datetime import UTC, datetime, timedelta

import anyio
import msgspec
import pytest

from metadata_db.catalogue import Catalogue
from metadata_db.database import Database
from metadata_db.errors import BadInputError, NotFoundError
from metadata_db.ingest import Ingest
from metadata_db.query import Interval, SearchQuery
from metadata_db.records import Attribute, Authority, Channel, Cluster, Detector, Facility, Storage
from metadata_db.search import Paging
from metadata_db.settings import CatalogueSettings
from metadata_db.vocabulary import SNAPSHOT_S, VocabularyStore
from tests.support.records import AURORA, BOREALIS, file_record, load, register

pytestmark = pytest.mark.anyio

NOON, HOUR = datetime(2019, 11, 2, 12, tzinfo=UTC), timedelta(hours=1)

AURORA_AS_READ = msgspec.structs.replace(AURORA, attributes=sorted(AURORA.attributes, key=lambda item: item.name))
"""All that belongs to a facility is told in the order of names."""


@pytest.fixture
def elsewhere(database: Database) -> VocabularyStore:
    """The vocabulary as another process sees it."""
    return VocabularyStore(database)


async def test_a_facility_is_found_as_it_was_registered(vocabulary: VocabularyStore) -> None:
    await register(vocabulary)
    assert await vocabulary.get_facility("aurora") == AURORA_AS_READ
    known = await vocabulary.get()
    assert [facility.name for facility in known.facilities] == ["aurora", "borealis"]
    assert known.authorities == [Authority(name="polar-council", licence="CC-BY-4.0")]
    assert sorted(storage.name for storage in known.storages.values()) == [
        "aurora-disk",
        "borealis-disk",
        "shared-disk",
    ]
    assert known.revisions == {"aurora": 0, "borealis": 0}


async def test_registering_the_same_again_keeps_every_number(vocabulary: VocabularyStore) -> None:
    await register(vocabulary)
    before = await vocabulary.get()
    await register(vocabulary)
    after = await vocabulary.get()
    assert after is not before
    assert after == before


async def test_what_a_facility_no_longer_names_stays_and_what_it_names_is_mended(vocabulary: VocabularyStore) -> None:
    await register(vocabulary)
    before = await vocabulary.get()
    await vocabulary.put_facility(
        Facility(name="aurora", clusters=[Cluster(name="north", title="The north"), Cluster(name="east")])
    )
    mended = await vocabulary.get_facility("aurora")
    assert [(cluster.name, cluster.title) for cluster in mended.clusters] == [
        ("east", None),
        ("north", "The north"),
        ("south", None),
    ]
    assert (mended.title, mended.authority) == (None, None)
    assert (mended.detectors, mended.channels, mended.attributes) == (
        AURORA.detectors,
        AURORA.channels,
        AURORA_AS_READ.attributes,
    )
    after = await vocabulary.get()
    assert before.cluster.names.items() <= after.cluster.names.items()


async def test_a_storage_can_be_moved_and_switched_off(vocabulary: VocabularyStore) -> None:
    await register(vocabulary)
    moved = Storage(name="aurora-disk", root="/elsewhere", title="Moved", enabled=False)
    await vocabulary.put_storage(moved)
    known = await vocabulary.get()
    assert known.storages[known.storage.ids["aurora-disk"][0]] == moved


async def test_one_name_may_belong_to_several_facilities(vocabulary: VocabularyStore) -> None:
    await register(vocabulary)
    known = await vocabulary.get()
    assert len(known.cluster.ids["north"]) == 2
    numbers = [known.cluster.in_facility[known.facility.ids[name][0], "north"] for name in ("aurora", "borealis")]
    assert sorted(numbers) == sorted(known.cluster.ids["north"])


@pytest.mark.parametrize(
    ("record", "field", "value", "expected"),
    [
        (Facility(name="new", authority="nobody"), "authority", "'nobody'", "a registered authority"),
        (
            Facility(name="new", detectors=[Detector(name="d"), Detector(name="e", cluster="north")]),
            "detectors[1].cluster",
            "'north'",
            "a cluster of this facility",
        ),
        (
            Facility(name="new", channels=[Channel(name="c", detector="iact-north")]),
            "channels[0].detector",
            "'iact-north'",
            "a detector of this facility",
        ),
        (
            Facility(name="aurora", title="Changed", attributes=[Attribute(name="zenith_deg", type="list")]),
            "attributes[0].type",
            "'list'",
            "number, as zenith_deg was declared before",
        ),
        (
            Facility(name="new", attributes=[Attribute(name="a", type="list"), Attribute(name="a", type="text")]),
            "attributes[1].type",
            "'text'",
            "list, as a was declared before",
        ),
    ],
)
async def test_a_facility_with_a_wrong_reference_is_refused_whole(
    vocabulary: VocabularyStore, record: Facility, field: str, value: str, expected: str
) -> None:
    await register(vocabulary)
    with pytest.raises(BadInputError) as caught:
        await vocabulary.put_facility(record)
    assert (caught.value.field, caught.value.value) == (field, value)
    assert expected in caught.value.expected
    assert (await vocabulary.get()).facilities == [AURORA_AS_READ, BOREALIS]


async def test_a_storage_of_an_unknown_facility_is_refused(vocabulary: VocabularyStore) -> None:
    with pytest.raises(BadInputError, match=r"facility: got 'nowhere', expected the name of a registered facility"):
        await vocabulary.put_storage(Storage(name="s", root="/", facility="nowhere"))
    assert (await vocabulary.get()).storages == {}


async def test_an_unknown_facility_is_not_found(vocabulary: VocabularyStore) -> None:
    with pytest.raises(NotFoundError, match="no facility 'nowhere'"):
        await vocabulary.get_facility("nowhere")


async def test_an_unknown_name_is_refused_with_those_that_are_known(vocabulary: VocabularyStore) -> None:
    known = await vocabulary.get()
    with pytest.raises(BadInputError, match="one of the known names: none yet"):
        known.require("facility", "filter.facility", ["aurora"])
    await register(vocabulary)
    known = await vocabulary.get()
    known.require("cluster", "filter.cluster", ["north", "south"])
    with pytest.raises(BadInputError) as caught:
        known.require("cluster", "filter.cluster", ["north", "west"])
    assert (caught.value.field, caught.value.value) == ("filter.cluster", "'west'")
    assert caught.value.expected == "one of the known names: north, south"


async def test_another_process_knows_a_new_name_within_a_second(
    vocabulary: VocabularyStore, elsewhere: VocabularyStore
) -> None:
    assert (await elsewhere.get()).facilities == []
    await register(vocabulary)
    await anyio.sleep(SNAPSHOT_S + 0.05)
    assert [facility.name for facility in (await elsewhere.get()).facilities] == ["aurora", "borealis"]


async def test_files_of_a_new_detector_bring_its_name_to_another_process_at_once(
    vocabulary: VocabularyStore, elsewhere: VocabularyStore, ingest: Ingest, database: Database
) -> None:
    await register(vocabulary)
    await elsewhere.get()
    await vocabulary.put_facility(Facility(name="aurora", detectors=[Detector(name="iact-new")]))
    report = await load(ingest, file_record("a", detector="iact-new", time_begin=NOON, time_end=NOON + HOUR))
    catalogue = Catalogue(database, elsewhere)
    revisions = {"borealis": 0, **report.revisions}
    page = await catalogue.page(SearchQuery(), revisions, Paging(n=1))
    assert [found.detector for found in page.files] == ["iact-new"]


async def test_a_file_longer_than_any_before_is_found_by_another_process_at_once(
    vocabulary: VocabularyStore, elsewhere: VocabularyStore, ingest: Ingest, database: Database
) -> None:
    """How far a search looks back comes with the vocabulary, which may be a second old."""
    await register(vocabulary)
    await elsewhere.get()
    report = await load(ingest, file_record("a", time_begin=NOON, time_end=NOON + 9 * HOUR))
    asked = SearchQuery(time=Interval(begin=NOON + 8 * HOUR, end=NOON + 10 * HOUR))
    summary = await Catalogue(database, elsewhere).summary(asked, {"borealis": 0, **report.revisions})
    assert summary.count == 1


async def test_a_vocabulary_that_was_being_read_when_it_changed_is_not_kept(
    vocabulary: VocabularyStore, database: Database
) -> None:
    """Whoever registered something finds it in the very next look-up, whatever was under way."""
    for at in range(20):
        readers = [asyncio.create_task(vocabulary.get()) for _ in range(3)]
        await vocabulary.put_authority(Authority(name=f"authority-{at}"))
        assert f"authority-{at}" in [authority.name for authority in (await vocabulary.get()).authorities]
        await asyncio.gather(*readers)
        assert f"authority-{at}" in [authority.name for authority in (await vocabulary.get()).authorities]


async def test_look_ups_that_hold_all_connections_do_not_wait_for_one_more(database_url: str) -> None:
    database = Database(CatalogueSettings(database_url=database_url, pool_size=1))
    vocabulary = VocabularyStore(database)
    catalogue = Catalogue(database, vocabulary)
    await register(vocabulary)
    with anyio.fail_after(5):
        await asyncio.gather(*(catalogue.summary(SearchQuery(), {"aurora": 0, "borealis": 0}) for _ in range(12)))
    await database.close()
