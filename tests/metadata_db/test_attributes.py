"""An index on an attribute is made and dropped beside everything else, and questions use it."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import psycopg
import pytest
from alembic import command
from alembic.config import Config

import migrations
from metadata_db.attributes import build_index, drop_index, index_name, list_attributes
from metadata_db.catalogue import Catalogue
from metadata_db.database import connected
from metadata_db.errors import BadInputError
from metadata_db.filters import build_filters
from metadata_db.ingest import Ingest
from metadata_db.paging import page_statement
from metadata_db.planning import Choice, strata_found
from metadata_db.query import AttributeFilter, Coincidence, SearchQuery
from metadata_db.records import Attribute, Facility, FileRecord
from metadata_db.search import Order
from metadata_db.settings import CatalogueSettings
from metadata_db.vocabulary import VocabularyStore
from tests.conftest import run_sql
from tests.support.records import file_record, load, register

pytestmark = pytest.mark.anyio


@pytest.fixture
def settings(database_url: str) -> CatalogueSettings:
    return CatalogueSettings(database_url=database_url)


def asking(name: str, *values: Any, **ends: float) -> SearchQuery:
    return SearchQuery(attributes=(AttributeFilter(name=name, values=values, **ends),))


def many_records() -> Iterator[FileRecord]:
    for number in range(5000):
        values = {"zenith_deg": number / 100, "trigger": f"t{number % 1000}"} if number % 2 else {"calibrated": True}
        yield file_record(f"{number}", attributes=values)


def plan_of(settings: CatalogueSettings, text: str, values: Any) -> str:
    with connected(settings) as driver:
        rows = driver.execute(psycopg.sql.SQL(f"explain {text}"), values).fetchall()
    return "\n".join(line for (line,) in rows)


def indexed(settings: CatalogueSettings) -> list[str]:
    return [use.name for use in list_attributes(settings) if use.index_bytes is not None]


@pytest.mark.parametrize(
    "asked",
    [asking("trigger", "t7"), asking("trigger", "t7", "t9"), asking("zenith_deg", minimum=20.005, maximum=20.1)],
    ids=["equality", "two values", "range"],
)
async def test_the_index_is_used_by_pages_and_counts(
    settings: CatalogueSettings, ingest: Ingest, vocabulary: VocabularyStore, catalogue: Catalogue, asked: SearchQuery
) -> None:
    await register(vocabulary)
    await load(ingest, *many_records())
    revisions = await catalogue.revisions()
    before = await catalogue.summary(asked, revisions)
    name = asked.attributes[0].name
    built = build_index(settings, name)
    assert built.name == index_name(name)
    assert built.size_bytes > 8192
    words = await vocabulary.renew()
    assert words.indexed == {name}
    filters = build_filters(asked, words, indexed=words.indexed)
    way = filters.ways[f"attribute {name}"]
    choice = Choice(way=way, bound=10, in_time=5000)
    values = {"at": [1, 1]}
    for statement in (
        page_statement(filters, Order(), 10, None, way=way, is_past=False),
        strata_found(filters, choice, is_past=False),
    ):
        assert built.name in plan_of(settings, statement.text, statement.values | values)
    assert await Catalogue(catalogue._database, vocabulary).summary(asked, revisions) == before
    assert 0 < before.count < 20


async def test_values_too_long_for_an_index_are_catalogued_and_found(
    settings: CatalogueSettings, ingest: Ingest, vocabulary: VocabularyStore, catalogue: Catalogue
) -> None:
    await register(vocabulary)
    build_index(settings, "trigger")
    long = "".join(chr(0x4E00 + number * 7919 % 20000) for number in range(4000))
    short = long[:600]
    await load(
        ingest, *(file_record(text[:9] + str(len(text)), attributes={"trigger": text}) for text in (long, short))
    )
    revisions = await catalogue.revisions()
    for values, count in (((long,), 1), ((short,), 1), ((long, short), 2)):
        assert (await catalogue.summary(asking("trigger", *values), revisions)).count == count


async def test_it_is_made_once_and_dropped_once(settings: CatalogueSettings, vocabulary: VocabularyStore) -> None:
    await register(vocabulary)
    build_index(settings, "zenith_deg")
    assert indexed(settings) == ["zenith_deg"]
    with pytest.raises(BadInputError, match="an attribute without an index; it has one"):
        build_index(settings, "zenith_deg")
    drop_index(settings, "zenith_deg")
    assert indexed(settings) == []
    with pytest.raises(BadInputError, match="an attribute that has an index"):
        drop_index(settings, "zenith_deg")


async def test_what_a_build_that_was_ended_left_is_made_anew(
    settings: CatalogueSettings, vocabulary: VocabularyStore
) -> None:
    await register(vocabulary)
    built = build_index(settings, "trigger")
    run_sql(
        settings.database_url, f"update pg_index set indisvalid = false where indexrelid = '{built.name}'::regclass"
    )
    assert indexed(settings) == []
    assert (await vocabulary.renew()).indexed == set()
    build_index(settings, "trigger")
    assert indexed(settings) == ["trigger"]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("colour", "a declared attribute"),
        ("tags", "no facility declares as a list"),
        ("x'); --", "a declared attribute"),
    ],
)
async def test_others_than_declared_single_values_are_refused(
    settings: CatalogueSettings, vocabulary: VocabularyStore, name: str, expected: str
) -> None:
    await register(vocabulary)
    with pytest.raises(BadInputError, match=expected):
        build_index(settings, name)


async def test_a_name_that_another_facility_has_for_a_list_is_refused(
    settings: CatalogueSettings, vocabulary: VocabularyStore
) -> None:
    await register(vocabulary)
    await vocabulary.put_facility(Facility(name="borealis", attributes=[Attribute(name="trigger", type="list")]))
    with pytest.raises(BadInputError, match="no facility declares as a list"):
        build_index(settings, "trigger")


async def test_the_list_begins_with_what_is_asked_most(
    settings: CatalogueSettings, vocabulary: VocabularyStore, catalogue: Catalogue
) -> None:
    await register(vocabulary)
    zenith, trigger = asking("zenith_deg", minimum=1.0), asking("trigger", "attributes")
    questions: Sequence[SearchQuery] = [
        zenith,
        replace(zenith, attributes=(*zenith.attributes, *asking("zenith_deg", maximum=2.0).attributes)),
        replace(zenith, coincidence=Coincidence(within_s=1.0, files=trigger)),
        SearchQuery(coincidence=Coincidence(within_s=1.0, files=zenith)),
        SearchQuery(object=('"attributes"',)),
    ]
    for question in questions:
        await catalogue.register_query(question)
    found = [(use.name, use.facility, use.type, use.asked) for use in list_attributes(settings)]
    assert found[:3] == [
        ("zenith_deg", "aurora", "number", 4),
        ("trigger", "aurora", "text", 1),
        ("calibrated", "aurora", "boolean", 0),
    ]
    assert len(found) == 5


async def test_migrations_leave_the_indexes_of_operators_alone(
    settings: CatalogueSettings, vocabulary: VocabularyStore
) -> None:
    await register(vocabulary)
    build_index(settings, "trigger")
    config = Config()
    config.set_main_option("script_location", str(Path(migrations.__file__).parent))
    config.attributes["database_url"] = settings.database_url
    command.check(config)
    assert indexed(settings) == ["trigger"]
