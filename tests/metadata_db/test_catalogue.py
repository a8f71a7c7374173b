"""The catalogue checks names, keeps questions for ever, and gives answers whose parts belong together."""

import asyncio
from datetime import UTC, datetime

import pytest
from sqlalchemy import select, update

from metadata_db.canonical import canonical_sha256
from metadata_db.catalogue import Catalogue
from metadata_db.database import Database
from metadata_db.errors import BadInputError, QueryIdCollisionError, UnavailableError
from metadata_db.ingest import Ingest
from metadata_db.query import AttributeFilter, Interval, SearchQuery, parse_attributes
from metadata_db.records import Replica, Storage
from metadata_db.search import FacetField, Paging
from metadata_db.settings import CatalogueSettings
from metadata_db.tables import query
from metadata_db.vocabulary import VocabularyStore
from tests.support.records import file_record, load, register

pytestmark = pytest.mark.anyio

NOON = datetime(2019, 11, 2, 12, tzinfo=UTC)


# --- questions ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["facility", "cluster", "detector", "channel", "storage"])
async def test_an_unknown_name_in_a_question_is_refused_with_the_known_ones(
    catalogue: Catalogue, vocabulary: VocabularyStore, kind: str
) -> None:
    await register(vocabulary)
    known = sorted(getattr(await vocabulary.get(), kind).ids)
    await catalogue.check(SearchQuery.from_mapping({kind: known}))
    with pytest.raises(BadInputError) as caught:
        await catalogue.check(SearchQuery.from_mapping({kind: [known[0], "nowhere"]}))
    assert (caught.value.field, caught.value.value) == (f"filter.{kind}", "'nowhere'")
    assert caught.value.expected == f"one of the known names: {', '.join(known)}"


async def test_an_attribute_that_nobody_declared_is_refused(catalogue: Catalogue, vocabulary: VocabularyStore) -> None:
    await register(vocabulary)
    filters = parse_attributes("a", [AttributeFilter(name=name, minimum=1) for name in ("colour", "zenith_deg")])
    with pytest.raises(BadInputError) as caught:
        await catalogue.check(SearchQuery(attributes=filters))
    assert (caught.value.field, caught.value.value) == ("filter.attributes[0].name", "'colour'")
    assert "n_telescopes, tags, trigger, zenith_deg" in caught.value.expected
    await catalogue.check(SearchQuery(attributes=filters[1:]))


async def test_a_question_is_found_again_by_its_id_however_often_it_was_registered(catalogue: Catalogue) -> None:
    asked = SearchQuery(facility=("aurora",), time=Interval(begin=NOON), is_simulation=False)
    assert await catalogue.find_query(asked.query_id) is None
    await asyncio.gather(*(catalogue.register_query(asked) for _ in range(5)))
    assert await catalogue.find_query(asked.query_id) == asked
    assert await catalogue.find_query("0" * 32) is None


async def test_a_forged_twin_of_a_question_is_refused(catalogue: Catalogue, database: Database) -> None:
    asked = SearchQuery(facility=("aurora",))
    await catalogue.register_query(asked)
    async with database.transaction() as connection:
        await connection.execute(update(query).values(canonical="{}", canonical_sha256=canonical_sha256("{}")))
    with pytest.raises(QueryIdCollisionError) as caught:
        await catalogue.register_query(asked)
    assert (caught.value.query_id, caught.value.code) == (asked.query_id, "QUERY_ID_COLLISION")
    async with database.snapshot() as connection:
        assert (await connection.execute(select(query.c.canonical))).scalars().all() == ["{}"]


# --- answers --------------------------------------------------------------------------------------------------------


async def test_revisions_are_those_of_the_named_facilities(
    catalogue: Catalogue, vocabulary: VocabularyStore, ingest: Ingest
) -> None:
    await register(vocabulary)
    await load(ingest, file_record("a"))
    assert await catalogue.revisions() == {"aurora": 1, "borealis": 0}
    assert await catalogue.revisions(["borealis"]) == {"borealis": 0}
    assert await catalogue.revisions(["nowhere"]) == {}


async def test_the_parts_of_an_answer_stay_together_when_the_catalogue_moves_on(
    catalogue: Catalogue, vocabulary: VocabularyStore, ingest: Ingest
) -> None:
    await register(vocabulary)
    await load(ingest, file_record("a", level="DL3"), file_record("b", level="DL3"))
    revisions = await catalogue.revisions()
    before = await catalogue.summary(SearchQuery(), revisions)
    await load(ingest, file_record("a", level="DL1", size_bytes=5), file_record("c", level="DL3"))
    await load(ingest, file_record("x", facility="borealis", storage="borealis-disk", level="DL3"))
    assert await catalogue.summary(SearchQuery(), revisions) == before
    page = await catalogue.page(SearchQuery(), revisions, Paging(n=5))
    assert [(found.path, found.level, found.size_bytes) for found in page.files] == [
        ("a", "DL3", 1000),
        ("b", "DL3", 1000),
    ]
    [facet] = (await catalogue.facets(SearchQuery(), revisions, [FacetField.LEVEL], limit=5))[FacetField.LEVEL]
    assert (facet.value, facet.count, facet.bytes) == ("DL3", before.count, before.bytes)


async def test_an_answer_of_no_facility_is_empty(
    catalogue: Catalogue, vocabulary: VocabularyStore, ingest: Ingest
) -> None:
    await register(vocabulary)
    await load(ingest, file_record("a"))
    assert (await catalogue.summary(SearchQuery(), {})).count == 0
    page = await catalogue.page(SearchQuery(), {}, Paging(n=5))
    assert (page.files, page.has_more) == ([], False)


async def test_a_facet_cut_short_keeps_the_most_frequent_values_whole(
    catalogue: Catalogue, vocabulary: VocabularyStore, ingest: Ingest
) -> None:
    """Both facilities have a cluster called north; together it is the largest, alone neither is."""
    await register(vocabulary)
    await load(
        ingest,
        *(file_record(f"n{at}", cluster="north") for at in range(2)),
        *(file_record(f"s{at}", cluster="south") for at in range(3)),
        *(file_record(f"b{at}", facility="borealis", storage="borealis-disk", cluster="north") for at in range(2)),
    )
    revisions = await catalogue.revisions()
    told = await catalogue.facets(SearchQuery(), revisions, [FacetField.CLUSTER], limit=1)
    assert [(facet.value, facet.count) for facet in told[FacetField.CLUSTER]] == [("north", 4)]


async def test_equal_sets_found_by_different_questions_have_one_checksum(
    catalogue: Catalogue, vocabulary: VocabularyStore, ingest: Ingest
) -> None:
    await register(vocabulary)
    await load(ingest, file_record("a", level="DL3", run=1), file_record("b", level="DL3", run=2), file_record("c"))
    revisions = await catalogue.revisions()
    one = await catalogue.summary(SearchQuery(level=("DL3",)), revisions)
    other = await catalogue.summary(SearchQuery(path=("[ab]",)), revisions)
    everything = await catalogue.summary(SearchQuery(), revisions)
    assert one == other
    assert everything.checksum != one.checksum


# --- members --------------------------------------------------------------------------------------------------------


async def test_members_can_be_taken_up_where_they_were_left(
    catalogue: Catalogue, vocabulary: VocabularyStore, ingest: Ingest
) -> None:
    await register(vocabulary)
    await load(ingest, *(file_record(f"run_{at}") for at in range(7)))
    revisions = await catalogue.revisions()
    first = await anext(catalogue.iter_members(SearchQuery(), revisions, batch=3))
    await load(ingest, *(file_record(f"run_{at}", size_bytes=1) for at in range(7)), file_record("new"))
    rest = [
        member
        async for batch in catalogue.iter_members(SearchQuery(), revisions, after_id=first[-1].file_id, batch=3)
        for member in batch
    ]
    assert sorted(member.path for member in [*first, *rest]) == [f"run_{at}" for at in range(7)]
    assert {member.size_bytes for member in rest} == {1000}


async def test_a_member_names_its_catalogued_place_first_and_then_all_others(
    catalogue: Catalogue, vocabulary: VocabularyStore, ingest: Ingest
) -> None:
    await register(vocabulary, root="/data")
    await vocabulary.put_storage(Storage(name="attic", root="/attic", enabled=False))
    same = {"sha256": "ab" * 32}
    replicas = [Replica(storage="attic", path="old/a"), Replica(storage="shared-disk", path="z")]
    await load(
        ingest,
        file_record("a", **same, replicas=replicas),
        file_record("twin", storage="shared-disk", **same),
        file_record("without a checksum"),
    )
    [members] = [batch async for batch in catalogue.iter_members(SearchQuery(), await catalogue.revisions())]
    by_path = {member.path: member for member in members}
    places = [(place.storage, place.root, place.path, place.enabled) for place in by_path["a"].places]
    assert places == [
        ("aurora-disk", "/data/aurora", "a", True),
        ("attic", "/attic", "old/a", False),
        ("shared-disk", "/data/shared", "twin", True),
        ("shared-disk", "/data/shared", "z", True),
    ]
    assert [(place.storage, place.path) for place in by_path["twin"].places] == [
        ("shared-disk", "twin"),
        ("attic", "old/a"),
        ("aurora-disk", "a"),
        ("shared-disk", "z"),
    ]
    assert len(by_path["without a checksum"].places) == 1


# --- faults ---------------------------------------------------------------------------------------------------------


async def test_a_database_that_is_away_is_told_without_its_address() -> None:
    url = "postgresql://someone:swordfish@127.0.0.1:1/catchment"
    database = Database(CatalogueSettings(database_url=url))
    catalogue = Catalogue(database, VocabularyStore(database))
    with pytest.raises(UnavailableError) as caught:
        await catalogue.summary(SearchQuery(), {})
    assert str(caught.value) == "the catalogue's database does not answer, try again in a moment"
    await database.close()


async def test_a_look_up_that_takes_too_long_is_given_up(
    database_url: str, vocabulary: VocabularyStore, ingest: Ingest
) -> None:
    await register(vocabulary)
    await load(ingest, *(file_record(f"{'a' * 240}{at}") for at in range(300)))
    database = Database(CatalogueSettings(database_url=database_url, statement_timeout_s=0.05))
    catalogue = Catalogue(database, VocabularyStore(database))
    slow = SearchQuery(path=tuple(f"{'*a' * 40}{at}x" for at in range(200)))
    with pytest.raises(UnavailableError, match="took the catalogue's database too long and was given up: ask for less"):
        await catalogue.summary(slow, {"aurora": 1, "borealis": 0})
    assert (await catalogue.summary(SearchQuery(), {"aurora": 1, "borealis": 0})).count == 300
    await database.close()
