"""Exports and revisions are followed to their end, from the ledger and the catalogue as they are."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

import orjson
import pytest

from aggregator.api.context import Context
from aggregator.api.execution import Execution, Executor, Operation
from aggregator.api.live import EndingError, Live
from aggregator.api.schema import create_schema
from aggregator.api.subscriptions import FINAL
from aggregator.cache import CacheManager, Progress
from aggregator.controller import CoreController
from aggregator.staging.ledger import Export, ExportLedger, ExportState
from metadata_db.ingest import Ingest
from metadata_db.vocabulary import VocabularyStore
from tests.support.records import file_record, load

pytestmark = pytest.mark.anyio

PROGRESS = """subscription ($id: ID!) {
  exportProgress(id: $id) { state filesTotal bytesTotal progress { filesDone bytesDone filesFailed } }
}"""


@pytest.fixture
def context(controller: CoreController, ledger: ExportLedger, vocabulary: VocabularyStore) -> Context:
    return Context(controller=controller, vocabulary=vocabulary, ledger=ledger, live=Live(every_s=0.01))


@pytest.fixture(scope="module")
def executor() -> Executor:
    return Executor(create_schema())


def subscribe(
    executor: Executor, context: Context, document: str = PROGRESS, **variables: Any
) -> AsyncGenerator[Execution]:
    return executor.stream(Operation(document=document, variables=variables), context.for_operation())


async def event(executions: AsyncGenerator[Execution]) -> Any:
    async with asyncio.timeout(20):
        return orjson.loads((await anext(executions)).body)


async def state(executions: AsyncGenerator[Execution]) -> Any:
    told = (await event(executions))["data"]["exportProgress"]
    return told["state"], told["progress"]["filesDone"], told["progress"]["bytesDone"]


async def test_an_export_is_told_at_once_at_each_change_and_to_its_end(
    executor: Executor, context: Context, ledger: ExportLedger, cache: CacheManager, export: Export
) -> None:
    async with aclosing(subscribe(executor, context, id=export.id)) as executions:
        assert await state(executions) == ("INITIALIZED", 0, 0)
        await ledger.begin(export.id)
        assert await state(executions) == ("WRITING", 0, 0)
        await cache.put_progress(export.id, Progress(files_done=1, bytes_done=7, files_failed=0))
        assert await state(executions) == ("WRITING", 1, 7)
        await ledger.cancel(export.id)
        assert (await state(executions))[0] == "CANCELLED"
        with pytest.raises(StopAsyncIteration):
            await event(executions)


async def test_an_export_that_has_ended_is_told_once(
    executor: Executor, context: Context, ledger: ExportLedger, export: Export
) -> None:
    await ledger.cancel(export.id)
    found = [orjson.loads(one.body) async for one in subscribe(executor, context, id=export.id)]
    assert [one["data"]["exportProgress"]["state"] for one in found] == ["CANCELLED"]
    assert ExportState.COMPLETED in FINAL
    assert ExportState.WRITING not in FINAL


async def test_an_export_that_is_not_there_is_an_error_with_its_code(executor: Executor, context: Context) -> None:
    (only,) = [one async for one in subscribe(executor, context, id="nothing")]
    assert only.is_refused
    (error,) = orjson.loads(only.body)["errors"]
    assert (error["extensions"]["code"], error["message"]) == ("NOT_FOUND", "no export 'nothing'")


async def test_what_goes_wrong_inside_is_masked(
    executor: Executor, context: Context, export: Export, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def broken(_id: str) -> None:
        raise ValueError("secret at /srv/db")

    monkeypatch.setattr(context.ledger, "find", broken)
    (only,) = [one async for one in subscribe(executor, context, id=export.id)]
    assert b"secret" not in only.body
    assert orjson.loads(only.body)["errors"][0]["extensions"]["code"] == "INTERNAL"


@pytest.mark.usefixtures("export")
async def test_revisions_are_told_as_files_come(executor: Executor, context: Context, ingest: Ingest) -> None:
    document = "subscription { revisions { facility revision } }"
    async with aclosing(subscribe(executor, context, document)) as executions:
        before = {one["facility"]: one["revision"] for one in (await event(executions))["data"]["revisions"]}
        await load(ingest, file_record("c"))
        after = {one["facility"]: one["revision"] for one in (await event(executions))["data"]["revisions"]}
    assert after.keys() == before.keys()
    assert {name for name in after if after[name] > before[name]} == {"aurora"}


@pytest.mark.usefixtures("export")
async def test_revisions_of_some_facilities_are_told_of_these_alone(executor: Executor, context: Context) -> None:
    document = "subscription ($names: [String!]) { revisions(facility: $names) { facility } }"
    async with aclosing(subscribe(executor, context, document, names=["borealis"])) as executions:
        assert await event(executions) == {"data": {"revisions": [{"facility": "borealis"}]}}
    async with aclosing(subscribe(executor, context, document, names=["nowhere"])) as executions:
        assert (await event(executions))["errors"][0]["extensions"]["field"] == "facility"


async def test_all_followers_of_an_export_cost_one_look(
    executor: Executor, context: Context, export: Export, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks = []
    find = context.ledger.find

    async def counted(export_id: str) -> Any:
        looks.append(export_id)
        return await find(export_id)

    monkeypatch.setattr(context.ledger, "find", counted)
    monkeypatch.setattr(context.live, "_every_s", 3600)
    streams = [subscribe(executor, context, id=export.id) for _ in range(100)]
    assert {await state(one) for one in streams} == {("INITIALIZED", 0, 0)}
    assert looks == [export.id]
    for one in streams:
        await one.aclose()


async def test_the_end_of_the_service_is_not_told_as_the_end_of_the_export(
    executor: Executor, context: Context, export: Export
) -> None:
    async with aclosing(subscribe(executor, context, id=export.id)) as executions:
        await event(executions)
        context.live.end()
        with pytest.raises(EndingError):
            await event(executions)


@pytest.mark.parametrize(
    ("document", "code"),
    [
        ("subscription { nothing }", "GRAPHQL_INVALID"),
        ("subscription { a: revisions { facility } b: revisions { facility } }", "GRAPHQL_INVALID"),
        ("subscription ($id: ID!) { exportProgress(id: $id) { id } }", "GRAPHQL_INVALID"),
        ("subscription { " + " ".join(f"a{n}: revisions" for n in range(50)) + " }", "LIMIT_EXCEEDED"),
    ],
)
async def test_what_cannot_be_subscribed_to_is_refused(
    executor: Executor, context: Context, document: str, code: str
) -> None:
    (only,) = [one async for one in subscribe(executor, context, document)]
    assert only.is_refused
    assert orjson.loads(only.body)["errors"][0]["extensions"]["code"] == code


@pytest.mark.usefixtures("export")
async def test_questions_are_a_stream_of_one_answer(executor: Executor, context: Context) -> None:
    (only,) = [one async for one in subscribe(executor, context, "{ storages { kind } }")]
    assert not only.is_refused
    assert orjson.loads(only.body)["data"]["storages"]


async def test_a_question_that_takes_too_long_is_given_up(
    executor: Executor, context: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(context.ledger, "find", lambda _id: asyncio.Event().wait())
    operation = Operation(document='{ export(id: "x") { id } }')
    (only,) = [one async for one in executor.stream(operation, context.for_operation(), timeout_s=0.05)]
    assert only.is_refused
    assert orjson.loads(only.body)["errors"][0]["extensions"] == {"code": "TIMEOUT"}
