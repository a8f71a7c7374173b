"""Operations are parsed and checked once, refused or executed, and their answers are bytes."""

import orjson
import pytest
from graphql import OperationType

from aggregator.api.context import Context
from aggregator.api.execution import MAX_DOCUMENTS, Execution, Executor, Operation
from aggregator.api.schema import create_schema
from aggregator.controller import CoreController
from aggregator.staging.ledger import ExportLedger
from metadata_db.vocabulary import VocabularyStore

pytestmark = pytest.mark.anyio


@pytest.fixture
def context(controller: CoreController, ledger: ExportLedger, vocabulary: VocabularyStore) -> Context:
    return Context(controller=controller, vocabulary=vocabulary, ledger=ledger)


@pytest.fixture(scope="module")
def executor() -> Executor:
    return Executor(create_schema())


async def carry_out(executor: Executor, context: Context, document: str, name: str | None = None) -> Execution:
    return await executor.execute(Operation(document=document, name=name), context.for_operation())


async def test_an_answer_is_its_json(executor: Executor, context: Context) -> None:
    done = await carry_out(executor, context, "{ kind: __typename facilities { name } }")
    assert (done.is_refused, done.has_errors) == (False, False)
    assert orjson.loads(done.body) == {"data": {"kind": "Query", "facilities": []}}


@pytest.mark.parametrize(
    ("document", "name", "message"),
    [
        ("{ facilities", None, "Syntax Error"),
        ("{ nothing }", None, "Cannot query field"),
        ("query a { __typename } query b { __typename }", None, "operationName is needed"),
        ("query a { __typename }", "c", "'c'"),
        ("query a($id: ID!) { query(id: $id) { revision } }", None, "$id"),
    ],
)
async def test_what_cannot_be_executed_is_refused(
    executor: Executor, context: Context, document: str, name: str | None, message: str
) -> None:
    done = await carry_out(executor, context, document, name)
    told = orjson.loads(done.body)
    assert done.is_refused
    assert "data" not in told
    assert message in told["errors"][0]["message"]
    assert told["errors"][0]["extensions"]["code"] == "GRAPHQL_INVALID"


async def test_an_error_while_executing_is_told_where_it_is(executor: Executor, context: Context) -> None:
    done = await carry_out(executor, context, 'mutation { cancel(exportId: "none") { id } }')
    told = orjson.loads(done.body)
    assert (done.is_refused, done.has_errors, told["data"]) == (False, True, None)
    assert (told["errors"][0]["path"], told["errors"][0]["extensions"]["code"]) == (["cancel"], "NOT_FOUND")


def test_a_document_is_checked_once(executor: Executor) -> None:
    first = executor.check("{ __typename }")
    assert executor.check("{ __typename }") is first
    for number in range(MAX_DOCUMENTS):
        executor.check(f"{{ a{number}: __typename }}")
    assert executor.check("{ __typename }") is not first


def test_the_kind_of_an_operation_is_known_before_it_is_executed(executor: Executor) -> None:
    document = 'query a { __typename } mutation b { cancel(exportId: "x") { id } }'
    assert executor.kind_of(Operation(document=document, name="a")) is OperationType.QUERY
    assert executor.kind_of(Operation(document=document, name="b")) is OperationType.MUTATION
    assert executor.kind_of(Operation(document=document)) is None
