"""The schema is what its snapshot says, speaks for itself, and tells errors without telling secrets."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from graphql import (
    GraphQLArgument,
    GraphQLEnumType,
    GraphQLEnumValue,
    GraphQLError,
    GraphQLField,
    GraphQLInputField,
    GraphQLInputObjectType,
    GraphQLNamedType,
    GraphQLObjectType,
    GraphQLScalarType,
    get_named_type,
)

import aggregator.api
from aggregator.api.errors import format_error
from aggregator.api.schema import create_schema
from metadata_db.errors import BadInputError, UnavailableError

SNAPSHOT = Path(aggregator.api.__path__[0]) / "schema.graphql"


def test_the_snapshot_is_the_schema() -> None:
    made = create_schema().as_str() + "\n"
    assert made == SNAPSHOT.read_text(), (
        "the schema changed: review it, then write it down with "
        "`python -m aggregator.api.print_schema > aggregator/api/schema.graphql`"
    )


SCHEMA = create_schema()._schema
OWN = [
    kind
    for name, kind in SCHEMA.type_map.items()
    if not name.startswith("__") and name not in ("Int", "Float", "Boolean", "String", "ID")
]


def members() -> Iterator[tuple[str, Any]]:
    """Yield every type, field, argument, input field and value of the schema with where it stands."""
    for kind in OWN:
        yield kind.name, kind
        if isinstance(kind, GraphQLEnumType):
            yield from ((f"{kind.name}.{name}", value) for name, value in kind.values.items())
        elif isinstance(kind, GraphQLObjectType | GraphQLInputObjectType):
            for name, field in kind.fields.items():
                yield f"{kind.name}.{name}", field
                for argument_name, argument in getattr(field, "args", {}).items():
                    yield f"{kind.name}.{name}({argument_name})", argument
        else:
            assert isinstance(kind, GraphQLScalarType)


def test_everything_in_the_schema_is_described_in_sentences() -> None:
    silent = [where for where, one in members() if not one.description]
    assert silent == []
    small = [where for where, one in members() if not re.match(r"[A-Z0-9`]", one.description)]
    assert small == [], "descriptions begin with a capital letter"
    open_ended = [where for where, one in members() if one.description[-1] not in ".)…"]
    assert open_ended == [], "descriptions end with a full stop"


def test_names_are_spelled_as_everywhere_in_graphql() -> None:
    spellings: list[tuple[type, str]] = [
        (GraphQLEnumValue, r"[A-Z][A-Z0-9]*(_[A-Z0-9]+)*"),
        (GraphQLField, "[a-z][a-zA-Z0-9]*"),
        (GraphQLInputField, "[a-z][a-zA-Z0-9]*"),
        (GraphQLArgument, "[a-z][a-zA-Z0-9]*"),
        (GraphQLNamedType, "[A-Z][a-zA-Z0-9]*"),
    ]
    for where, one in members():
        (spelling,) = [spelling for kind, spelling in spellings if isinstance(one, kind)]
        assert re.fullmatch(spelling, re.split(r"[.(]", where.rstrip(")"))[-1]), where


def test_what_is_deprecated_says_what_to_use_instead() -> None:
    reasons = [getattr(one, "deprecation_reason", None) for _, one in members()]
    assert all(reason is None or len(reason) > 20 for reason in reasons)


UNITS = {"Deg": "degrees", "M": "metres", "S": "seconds", "Bytes": "bytes", "Ev": "eV"}
WITH_A_UNIT_BESIDE = {"EnergyFilter.min", "EnergyFilter.max", "AttributeFilterInput.min", "AttributeFilterInput.max"}


def test_numbers_say_their_unit_in_name_and_description() -> None:
    for where, one in members():
        kind = get_named_type(one.type).name if hasattr(one, "type") else None
        unit = next((unit for unit in UNITS if re.search(rf"[a-z]{unit}\)?$", where)), None)
        if kind == "Float":
            assert unit is not None or where in WITH_A_UNIT_BESIDE, where
        if kind in ("Float", "Int", "BigInt") and unit is not None:
            assert UNITS[unit] in one.description, where


def test_connections_are_what_relay_expects() -> None:
    connections = [kind for kind in OWN if kind.name.endswith("Connection")]
    assert [kind.name for kind in connections] == ["FileConnection"]
    for kind in connections:
        assert isinstance(kind, GraphQLObjectType)
        assert str(kind.fields["pageInfo"].type) == "PageInfo!"
        edge = get_named_type(kind.fields["edges"].type)
        assert isinstance(edge, GraphQLObjectType)
        assert str(edge.fields["cursor"].type) == "String!"
        assert isinstance(get_named_type(edge.fields["node"].type), GraphQLObjectType)
    info = SCHEMA.type_map["PageInfo"]
    assert isinstance(info, GraphQLObjectType)
    assert {name: str(field.type) for name, field in info.fields.items()} == {
        "hasNextPage": "Boolean!",
        "hasPreviousPage": "Boolean!",
        "startCursor": "String",
        "endCursor": "String",
    }
    for where, one in members():
        if isinstance(one, GraphQLField) and get_named_type(one.type) in connections:
            assert {name: str(one.args[name].type).rstrip("!") for name in ("first", "after")} == {
                "first": "Int",
                "after": "String",
            }, where


def wrap(cause: Exception) -> GraphQLError:
    return GraphQLError("wrapped", original_error=cause, path=["search"])


def test_our_errors_are_told_with_their_facts() -> None:
    told = format_error(wrap(BadInputError("filter.time", "x", "a time")))
    assert told["message"] == "filter.time: got 'x', expected a time"
    assert told["extensions"] == {"code": "BAD_INPUT", "field": "filter.time", "value": "'x'", "expected": "a time"}
    assert format_error(wrap(UnavailableError("away")))["extensions"] == {"code": "UNAVAILABLE"}


def test_all_other_errors_are_masked_and_logged(caplog: pytest.LogCaptureFixture) -> None:
    told = format_error(wrap(KeyError("secret table at /srv/db")))
    assert "secret" not in str(told)
    assert told["extensions"]["code"] == "INTERNAL"
    assert told["extensions"]["reference"] in told["message"]
    assert "secret table" in caplog.text


def test_errors_in_the_document_are_told_as_they_are() -> None:
    told = format_error(GraphQLError("Cannot query field 'x'"))
    assert (told["message"], told["extensions"]["code"]) == ("Cannot query field 'x'", "GRAPHQL_INVALID")
