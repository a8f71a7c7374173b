"""The schema is what its snapshot says, speaks for itself, and tells errors without telling secrets."""

from pathlib import Path

import pytest
from graphql import GraphQLEnumType, GraphQLError, GraphQLInputObjectType, GraphQLObjectType, GraphQLScalarType

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


def test_every_type_field_and_argument_is_described() -> None:
    schema = create_schema()._schema
    silent = []
    for name, kind in schema.type_map.items():
        if name.startswith("__") or (
            isinstance(kind, GraphQLScalarType) and name in ("Int", "Float", "Boolean", "String", "ID")
        ):
            continue
        if not kind.description:
            silent.append(name)
        if isinstance(kind, GraphQLObjectType | GraphQLInputObjectType):
            for field_name, field in kind.fields.items():
                if not field.description:
                    silent.append(f"{name}.{field_name}")
                for argument_name, argument in getattr(field, "args", {}).items():
                    if not argument.description:
                        silent.append(f"{name}.{field_name}({argument_name})")
        else:
            assert isinstance(kind, GraphQLEnumType | GraphQLScalarType)
    assert silent == []


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
