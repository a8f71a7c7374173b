"""Errors are told by a closed list of codes, with facts and without secrets."""

import ast
from collections.abc import Iterator
from pathlib import Path

import orjson
import pytest
from graphql import GraphQLError

from aggregator import api, app  # noqa: F401  # brings all modules, and with them all classes of errors
from aggregator.api.errors import CODES, MAX_ERRORS, LimitExceededError, as_graphql, format_error, format_errors
from aggregator.api.execution import Executor, Operation
from aggregator.api.schema import create_schema
from aggregator.errors import HTTP_STATUS, AggregatorError, StagingError, http_status
from metadata_db.errors import CatalogueError, NotFoundError

PAGE = Path(__file__).parents[3] / "docs" / "graphql.md"

NEVER_TOLD = {"STAGING_FAILED", "STORAGE_DOWN", "BUFFER_UNUSABLE", "INCOMPLETE"}
"""Codes of errors within workers and commands. A resolver that raised one would be at fault, and is masked."""


def wrap(cause: Exception) -> GraphQLError:
    return GraphQLError("wrapped", original_error=cause, path=["search"])


def kinds_of_errors() -> Iterator[type[CatalogueError] | type[AggregatorError]]:
    waiting: list[type[CatalogueError] | type[AggregatorError]] = [CatalogueError, AggregatorError]
    while waiting:
        kind = waiting.pop()
        yield kind
        waiting += kind.__subclasses__()


def codes_of_requests() -> Iterator[tuple[int | None, str]]:
    """Yield status and code of every `RequestError` that the code makes."""
    for module in sorted(Path(api.__path__[0]).rglob("*.py")):
        for node in ast.walk(ast.parse(module.read_text())):
            if isinstance(node, ast.Call):
                texts = [one.value for one in node.args[:2] if isinstance(one, ast.Constant)]
                if isinstance(node.func, ast.Name) and node.func.id == "RequestError" and len(texts) == 2:
                    yield texts[0], texts[1]
                named = [one.value for one in node.keywords if one.arg == "code"]
                yield from ((None, one.value) for one in named if isinstance(one, ast.Constant))


def test_every_code_of_an_error_is_in_the_table() -> None:
    codes = {kind.code for kind in kinds_of_errors()}
    assert {"BAD_CURSOR", "LIMIT_EXCEEDED", "STORAGE_DOWN"} <= codes, "not all errors were found"
    assert codes - NEVER_TOLD <= CODES.keys()
    of_requests = {code for _, code in codes_of_requests()}
    assert {"NOT_JSON", "TIMEOUT"} <= of_requests, "not all codes were found"
    assert of_requests <= CODES.keys()
    # What `aggregator.connection` says before there is a request.
    assert CODES.keys() - codes - of_requests == {"GRAPHQL_INVALID", "HEAD_TOO_LARGE"}


def test_the_table_has_the_statuses_of_requests() -> None:
    for status, code in codes_of_requests():
        assert status in (None, CODES[code].status), code


def test_the_table_has_the_statuses_of_rest() -> None:
    for kind in HTTP_STATUS:
        code = kind.code  # type: ignore[attr-defined]
        assert CODES[code].status == http_status(kind.__new__(kind)), code


@pytest.mark.parametrize(
    "cause", [StagingError("/srv/secret", "gone"), AggregatorError("/srv/secret"), CatalogueError("/srv/secret")]
)
def test_what_is_meant_for_the_operators_is_masked(cause: Exception) -> None:
    told = format_error(wrap(cause))
    assert told["extensions"]["code"] == "INTERNAL"
    assert "secret" not in str(told)


def test_a_limit_is_told_with_its_numbers() -> None:
    told = format_error(as_graphql(LimitExceededError("depth", 14, 12)))
    assert told["message"] == "depth: got 14, expected at most 12"
    assert told["extensions"] == {"code": "LIMIT_EXCEEDED", "limit": "depth", "value": 14, "allowed": 12}
    uncounted = format_error(as_graphql(LimitExceededError("tokens", None, 1000)))
    assert uncounted["message"] == "tokens: got more than 1000, expected at most 1000"
    assert uncounted["extensions"]["value"] == 1001


def test_of_many_errors_the_last_one_told_says_how_many_there_are() -> None:
    errors = [wrap(NotFoundError("export", str(number))) for number in range(MAX_ERRORS)]
    assert [one["extensions"]["code"] for one in format_errors(errors)] == ["NOT_FOUND"] * MAX_ERRORS
    told = format_errors(errors * 3)
    assert len(told) == MAX_ERRORS
    assert told[-1]["extensions"] == {"code": "LIMIT_EXCEEDED", "limit": "errors", "value": 60, "allowed": MAX_ERRORS}


@pytest.mark.parametrize(
    "document",
    [
        "{ storages { " + " ".join(f"nothing{number}" for number in range(80)) + " } }",
        "query (" + ", ".join(f"$a{number}: Int!" for number in range(40)) + ") { __typename }",
    ],
)
def test_a_flood_of_errors_is_cut(document: str) -> None:
    errors = format_errors(Executor(create_schema()).find_refusals(Operation(document=document)))
    assert 1 < len(errors) <= MAX_ERRORS
    assert "Too many validation errors" in errors[-1]["message"]
    assert len(orjson.dumps(errors)) < 10_000


@pytest.mark.parametrize(
    "document",
    [
        "{ facilitie { name } }",
        "{ search(filtr: {}) { cached } }",
        "{ search(filter: {facilty: []}) { cached } }",
        "{ search(filter: {}, prepare: NEVR) { cached } }",
        "{ ... on Qery { __typename } }",
    ],
)
def test_errors_suggest_names_only_if_that_is_set(document: str) -> None:
    schema = create_schema()
    (silent,) = Executor(schema).find_refusals(Operation(document=document))[:1]
    (helpful,) = Executor(schema, suggests=True).find_refusals(Operation(document=document))[:1]
    assert "Did you mean" not in silent.message
    assert "Did you mean" in helpful.message


def test_the_table_of_codes_in_the_documentation_is_that_of_the_code() -> None:
    rows = [f"| `{name}` | {code.status or ''} | {code.meaning} |" for name, code in CODES.items()]
    table = "\n".join(["| code | status | meaning |", "|---|---|---|", *rows])
    told = PAGE.read_text().split("<!-- codes -->")
    assert told[1].strip() == table, f"in docs/graphql.md belongs\n\n{table}\n"
