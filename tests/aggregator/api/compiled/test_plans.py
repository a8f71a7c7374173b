"""Plans are made once per document, operation and outcome of its conditions; what has none is executed as ever."""

import asyncio
import logging
from collections.abc import Sequence
from typing import Any

import orjson
import pytest

from aggregator.api.compiled.plans import MAX_PLANS
from aggregator.api.context import Context
from aggregator.api.execution import Executor, Operation
from aggregator.api.schema import create_schema
from aggregator.controller import CoreController
from aggregator.staging.ledger import ExportLedger
from metadata_db.catalogue import Catalogue
from metadata_db.found import PageColumns
from metadata_db.ingest import Ingest
from metadata_db.query import SearchQuery
from metadata_db.search import Paging, Revisions
from metadata_db.vocabulary import VocabularyStore
from tests.support.records import file_record, load, register

pytestmark = pytest.mark.anyio


class WatchedCatalogue(Catalogue):
    """Notes which fields of files are read, fails when told to, and lets counting wait until a page was read."""

    fields: Sequence[str] = ()
    failure: Exception | None = None
    counted = 0
    page_was_read: asyncio.Event | None = None

    async def columns(
        self, asked: SearchQuery, revisions: Revisions, paging: Paging, fields: Sequence[str]
    ) -> PageColumns:
        self.fields = fields
        if self.failure is not None:
            self.failure, failure = None, self.failure
            raise failure
        found = await super().columns(asked, revisions, paging, fields)
        if self.page_was_read is not None:
            self.page_was_read.set()
        return found

    async def summary(self, asked: SearchQuery, revisions: Revisions, *, exact: bool = True) -> Any:
        self.counted += 1
        if self.page_was_read is not None:
            await asyncio.wait_for(self.page_was_read.wait(), 10)
        return await super().summary(asked, revisions, exact=exact)


@pytest.fixture
def catalogue(catalogue: Catalogue, vocabulary: VocabularyStore) -> WatchedCatalogue:
    return WatchedCatalogue(catalogue._database, vocabulary)


@pytest.fixture
async def context(
    controller: CoreController, ledger: ExportLedger, vocabulary: VocabularyStore, ingest: Ingest
) -> Context:
    await register(vocabulary)
    await load(ingest, *(file_record(f"run_{at}") for at in range(3)))
    return Context(controller=controller, vocabulary=vocabulary, ledger=ledger)


@pytest.fixture
def executor() -> Executor:
    return Executor(create_schema())


async def ask(executor: Executor, context: Context, document: str, **variables: Any) -> Any:
    asked = Operation(document=document, variables=variables)
    told = await executor.execute(asked, context.for_operation())
    return orjson.loads(told.body)


async def test_only_what_is_selected_is_read(executor: Executor, context: Context, catalogue: WatchedCatalogue) -> None:
    document = "{ search(filter: {}, prepare: NEVER) { files { nodes { p: path facility } pageInfo { endCursor } } } }"
    told = await ask(executor, context, document)
    assert len(told["data"]["search"]["files"]["nodes"]) == 3
    assert (catalogue.fields, catalogue.counted) == (("facility", "path"), 0)


async def test_pages_are_read_while_files_are_counted(
    executor: Executor, context: Context, catalogue: WatchedCatalogue
) -> None:
    catalogue.page_was_read = asyncio.Event()
    document = "{ search(filter: {}, prepare: NEVER) { totalCount { value } files { nodes { id } } } }"
    told = await ask(executor, context, document)
    assert told["data"]["search"]["totalCount"] == {"value": 3}
    assert catalogue.counted == 1


async def test_conditions_make_plans_of_their_own(executor: Executor, context: Context) -> None:
    document = """query($a: Boolean!, $b: Int = 1) {
        storages @include(if: $a) { name } facilities { name @skip(if: $a) title }
        availability { gaps(longest: $b) { lengthS } } }"""
    with_storages = await ask(executor, context, document, a=True)
    without = await ask(executor, context, document, a=False, b=2)
    assert set(with_storages["data"]) == {"storages", "facilities", "availability"}
    assert set(without["data"]) == {"facilities", "availability"}
    assert (set(with_storages["data"]["facilities"][0]), set(without["data"]["facilities"][0])) == (
        {"title"},
        {"name", "title"},
    )
    plans = executor.check(document).plans
    assert plans is not None
    assert len(plans.known) == 2
    await ask(executor, context, document, a=True, b=3)
    assert len(plans.known) == 2


async def test_a_document_has_so_many_plans_at_most(executor: Executor, context: Context) -> None:
    n = MAX_PLANS.bit_length()
    names = [f"v{at}" for at in range(n)]
    document = f"query({' '.join(f'${name}: Boolean!' for name in names)}) {{ __typename "
    document += " ".join(f"{name}: __typename @skip(if: ${name})" for name in names) + " }"
    for number in range(2**n):
        values = {name: bool(number >> at & 1) for at, name in enumerate(names)}
        told = await ask(executor, context, document, **values)
        assert set(told["data"]) == {"__typename", *(name for name, is_left_out in values.items() if not is_left_out)}
    plans = executor.check(document).plans
    assert plans is not None
    assert len(plans.known) <= MAX_PLANS


@pytest.mark.parametrize(
    "document", ["{ __schema { queryType { name } } }", '{ __typename __type(name: "File") { name } }']
)
async def test_what_is_not_compiled_is_executed_as_a_whole(
    executor: Executor, context: Context, caplog: pytest.LogCaptureFixture, document: str
) -> None:
    caplog.set_level(logging.DEBUG, "aggregator.api.compiled")
    assert "errors" not in await ask(executor, context, document)
    assert (executor.planner.counts["not compiled"], executor.planner.counts["answered"]) == (1, 0)
    assert "not compiled" in caplog.text


async def test_a_failure_is_logged_and_the_question_executed_as_ever(
    executor: Executor, context: Context, catalogue: WatchedCatalogue, caplog: pytest.LogCaptureFixture
) -> None:
    catalogue.failure = ZeroDivisionError("told to fail")
    document = "{ search(filter: {}, prepare: NEVER) { totalCount { value } files { nodes { id } } } }"
    told = await ask(executor, context, document)
    assert len(told["data"]["search"]["files"]["nodes"]) == 3
    assert executor.planner.counts["failed"] == 1
    (record,) = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert record.exc_info is not None


async def test_the_page_of_a_plan_is_as_of_the_answer(
    executor: Executor, context: Context, catalogue: WatchedCatalogue, ingest: Ingest
) -> None:
    """Files come between two pages: the second one goes on as of the revision that the first was of."""
    document = """query($at: AsOf, $after: String) { search(filter: {}, prepare: NEVER, asOf: $at) { revision
        files(first: 2, after: $after, orderBy: { field: PATH }) {
            nodes { path } pageInfo { endCursor hasNextPage } } } }"""
    first = (await ask(executor, context, document))["data"]["search"]
    await load(ingest, file_record("run_00"), file_record("run_11"), file_record("run_2", size_bytes=1))
    second = await ask(
        executor,
        context,
        document,
        at={"revision": first["revision"]},
        after=first["files"]["pageInfo"]["endCursor"],
    )
    assert [node["path"] for node in first["files"]["nodes"]] == ["run_0", "run_1"]
    assert second["data"]["search"]["files"]["nodes"] == [{"path": "run_2"}]
    assert second["data"]["search"]["files"]["pageInfo"]["hasNextPage"] is False
