"""The question of a bag, read back by the schema that it is meant for."""

import json

import msgspec
import pytest
import strawberry
from graphql import parse, validate

from aggregator.api.inputs import SearchFilter, to_query
from aggregator.api.scalars import CONFIG
from aggregator.api.schema import create_schema
from aggregator.exports.question import graphql_filter, graphql_question, json_question
from metadata_db.query import SearchQuery
from tests.aggregator.exports.bundles import QUERY_ID, make_header
from tests.aggregator.test_citation import CASES

QUESTIONS = [SearchQuery(**filters) for filters, _ in CASES]


def document(asked: SearchQuery) -> str:
    header = msgspec.structs.replace(make_header([]), query=msgspec.Raw(asked.canonical.encode()))
    return graphql_question(header)


@pytest.mark.parametrize("asked", QUESTIONS, ids=[words for _, words in CASES])
def test_every_question_is_valid_against_the_schema(asked: SearchQuery) -> None:
    schema = create_schema()._schema
    assert validate(schema, parse(document(asked))) == []


@pytest.mark.parametrize("asked", QUESTIONS, ids=[words for _, words in CASES])
def test_what_is_written_in_graphql_is_the_question(asked: SearchQuery) -> None:
    asked_of: list[SearchQuery] = []

    @strawberry.type
    class Query:
        @strawberry.field
        def search(self, filter: SearchFilter) -> bool:
            asked_of.append(to_query(filter))
            return True

    schema = strawberry.Schema(query=Query, config=CONFIG)
    done = schema.execute_sync(f"{{ search(filter: {graphql_filter(asked.as_mapping())}) }}")
    assert done.errors is None
    assert [one.canonical for one in asked_of] == [asked.canonical]


def test_the_canonical_form_is_told_with_what_it_was_answered_from() -> None:
    told = json.loads(json_question(make_header([])))
    assert told == {
        "queryId": QUERY_ID,
        "canonical": {"facility": ["aurora"]},
        "revision": 17,
        "revisions": {"aurora": 1},
        "checksum": "0" * 32,
    }
