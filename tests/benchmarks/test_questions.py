"""The questions about the generated catalogue."""

import json
from dataclasses import fields
from itertools import islice
from typing import Any

import graphql
import pytest

from aggregator.api.schema import create_schema
from benchmarks.catalogue import GeneratedFacility, make_facilities
from benchmarks.questions import DOCUMENT, KINDS, MIXTURE, iter_bodies
from metadata_db.query import (
    AttributeFilter,
    EnergyUnit,
    RunRange,
    SearchQuery,
    parse_attributes,
    parse_cone,
    parse_energy,
    parse_interval,
)
from metadata_db.records import FileRecord
from tests.support.evaluation import is_match

SPELLED = {"obsId": "obs_id", "isSimulation": "is_simulation"}


@pytest.fixture(scope="module")
def facilities() -> list[GeneratedFacility]:
    return make_facilities(1_000_000)


def filters(kind: str, facilities: list[GeneratedFacility], count: int) -> list[dict[str, Any]]:
    bodies = islice(iter_bodies([kind], facilities, seed="test"), count)
    return [json.loads(body)["variables"]["filter"] for body in bodies]


def as_query(asked: dict[str, Any]) -> SearchQuery:
    """Return the question of a filter as the service reads it."""
    values: dict[str, Any] = {SPELLED.get(name, name): value for name, value in asked.items()}
    if "time" in asked:
        values["time"] = parse_interval("time", **asked["time"])
    if "run" in asked:
        values["run"] = tuple(RunRange(first=one["first"], last=one.get("last", one["first"])) for one in asked["run"])
    if energy := asked.get("energy"):
        unit = EnergyUnit[energy["unit"]]
        values["energy"] = parse_energy("energy", minimum=energy["min"], maximum=energy["max"], unit=unit)
    if cone := asked.get("cone"):
        values["cone"] = parse_cone("cone", ra_deg=cone["raDeg"], dec_deg=cone["decDeg"], radius_deg=cone["radiusDeg"])
    if "attributes" in asked:
        values["attributes"] = parse_attributes("attributes", map(as_attribute, asked["attributes"]))
    return SearchQuery(**values)


def as_attribute(asked: dict[str, Any]) -> AttributeFilter:
    values = (asked["equals"],) if "equals" in asked else ()
    return AttributeFilter(name=asked["name"], values=values, minimum=asked.get("min"), maximum=asked.get("max"))


def asked(kind: str, facilities: list[GeneratedFacility]) -> set[str]:
    """Return the names of the filters that a kind sets, as the catalogue spells them."""
    return {SPELLED.get(name, name) for name in filters(kind, facilities, 1)[0]}


@pytest.fixture(scope="module")
def small() -> list[GeneratedFacility]:
    return make_facilities(2000)


@pytest.fixture(scope="module")
def records(small: list[GeneratedFacility]) -> list[FileRecord]:
    return [record for facility in small for record in facility.iter_records()]


@pytest.fixture(scope="module")
def schema() -> graphql.GraphQLSchema:
    return create_schema()._schema


@pytest.mark.parametrize("kind", KINDS)
def test_questions_are_ones_that_the_service_takes_and_that_find_files(
    kind: str, small: list[GeneratedFacility], records: list[FileRecord], schema: graphql.GraphQLSchema
) -> None:
    found = filters(kind, small, 100)
    input_type = schema.type_map["SearchFilter"]
    assert isinstance(input_type, graphql.GraphQLInputObjectType)
    graphql.coerce_input_value(found[0], input_type)
    assert any(is_match(as_query(asked), record) for asked in found for record in records)


def test_the_document_is_one_that_the_service_takes(schema: graphql.GraphQLSchema) -> None:
    assert graphql.validate(schema, graphql.parse(DOCUMENT)) == []


def test_every_filter_is_asked_for_alone_and_with_others(facilities: list[GeneratedFacility]) -> None:
    kinds = [asked(kind, facilities) for kind in KINDS]
    names = {field.name for field in fields(SearchQuery)}
    assert {name for found in kinds if len(found) == 1 for name in found} == names
    assert {name for found in kinds if len(found) > 1 for name in found} == names - {"obs_id"}
    assert set() in kinds
    assert max(map(len, kinds)) == 7


@pytest.mark.parametrize("kind", MIXTURE)
def test_hardly_a_question_comes_twice_in_a_large_catalogue(kind: str, facilities: list[GeneratedFacility]) -> None:
    assert len(set(map(json.dumps, filters(kind, facilities, 200)))) >= 185  # runs and blocks are drawn from thousands


@pytest.mark.parametrize("kind", sorted(KINDS.keys() - set(MIXTURE)))
def test_kinds_that_are_said_to_have_few_questions_have(kind: str, facilities: list[GeneratedFacility]) -> None:
    assert len(set(map(json.dumps, filters(kind, facilities, 200)))) < 150


def test_kinds_are_asked_in_turn(facilities: list[GeneratedFacility]) -> None:
    kinds = ["everything", "one run"]
    filters = [json.loads(body)["variables"]["filter"] for body in islice(iter_bodies(kinds, facilities, seed="a"), 4)]
    assert [bool(asked) for asked in filters] == [False, True, False, True]


def test_another_seed_asks_other_questions(facilities: list[GeneratedFacility]) -> None:
    one, other = (set(islice(iter_bodies(MIXTURE, facilities, seed=seed), 50)) for seed in ("one", "other"))
    assert not one & other
