"""An answer as of a revision is the same for ever: over the controller, in the cache, as an export, in a diff."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

import metadata_db.planning
from aggregator.api.context import Context
from aggregator.api.schema import create_schema
from aggregator.controller import Answer, CoreController, Prepare
from aggregator.staging.ledger import ExportLedger
from metadata_db.catalogue import Catalogue
from metadata_db.errors import BadInputError
from metadata_db.ingest import Ingest
from metadata_db.query import SearchQuery
from metadata_db.records import Facility
from metadata_db.search import FacetField, Paging
from metadata_db.vocabulary import VocabularyStore
from tests.support.records import chunked, file_record, load, register

pytestmark = pytest.mark.anyio

EVERYTHING = SearchQuery()
AURORA = SearchQuery(facility=("aurora",))


@pytest.fixture
async def filled(ingest: Ingest, vocabulary: VocabularyStore) -> None:
    await register(vocabulary)
    await load(ingest, file_record("x", facility="borealis", storage="borealis-disk", kind="table", size_bytes=100))
    await load(ingest, *(file_record(f"run_{number}", kind="events", size_bytes=number) for number in range(1, 6)))


async def change_aurora(ingest: Ingest, controller: CoreController) -> None:
    """Replace a file, add one, and remove one."""
    report = await load(ingest, file_record("run_1", kind="events", size_bytes=50), file_record("new", kind="irf"))
    controller.note_revisions(report.revisions)
    removal = b'{"facility": "aurora", "storage": "aurora-disk", "path": "run_2"}\n'
    controller.note_revisions((await ingest.remove(chunked(removal), allowed=None)).revisions)


async def ask(controller: CoreController, answer: Answer) -> list[Any]:
    """Return all parts of an answer."""
    page = await controller.page(answer, Paging(n=100))
    facets = await controller.facets(answer, [FacetField.KIND, FacetField.FACILITY])
    return [page, facets]


@pytest.mark.usefixtures("filled")
async def test_a_cited_answer_is_had_again_whatever_has_changed(
    controller: CoreController, ingest: Ingest, vocabulary: VocabularyStore
) -> None:
    cited = await controller.search(AURORA, prepare=Prepare.NEVER)
    parts = await ask(controller, cited.answer)
    await change_aurora(ingest, controller)
    await vocabulary.put_facility(Facility(name="later"))
    now = await controller.search(AURORA, prepare=Prepare.NEVER)
    again = await controller.search(AURORA, prepare=Prepare.NEVER, as_of=cited.answer.revision)
    assert now.summary != cited.summary
    assert (again.summary, again.answer.revisions, again.answer.revision) == (
        cited.summary,
        cited.answer.revisions,
        cited.answer.revision,
    )
    assert again.cached, "it is the same answer, by whatever way it was asked"
    assert await ask(controller, again.answer) == parts


@pytest.mark.usefixtures("filled")
async def test_an_answer_looked_up_for_the_first_time_as_of_the_past_is_cached_as_any(
    controller: CoreController, ingest: Ingest
) -> None:
    revision = (await controller.search(EVERYTHING, prepare=Prepare.NEVER)).answer.revision
    await change_aurora(ingest, controller)
    first = await controller.search(SearchQuery(kind=("events",)), prepare=Prepare.NEVER, as_of=revision)
    second = await controller.search(SearchQuery(kind=("events",)), prepare=Prepare.NEVER, as_of=revision)
    assert (first.cached, second.cached, first.summary) == (False, True, second.summary)
    assert (first.summary.count, first.summary.bytes) == (5, 15)
    facets = await controller.facets(first.answer, [FacetField.KIND])
    assert {facet.value: facet.count for facet in facets[FacetField.KIND]} == {"events": 5, "table": 1}


@pytest.mark.usefixtures("filled")
async def test_the_number_to_cite_stays_while_other_facilities_move(controller: CoreController, ingest: Ingest) -> None:
    cited = await controller.search(AURORA, prepare=Prepare.NEVER)
    report = await load(ingest, file_record("y", facility="borealis", storage="borealis-disk"))
    controller.note_revisions(report.revisions)
    assert (await controller.search(AURORA, prepare=Prepare.NEVER)).answer.revision == cited.answer.revision
    everything = await controller.search(EVERYTHING, prepare=Prepare.NEVER)
    assert everything.answer.revision > cited.answer.revision
    later = await controller.search(AURORA, prepare=Prepare.NEVER, as_of=everything.answer.revision)
    assert later.answer.revision == cited.answer.revision


@pytest.mark.usefixtures("filled")
async def test_present_revisions_are_those_of_one_moment(
    controller: CoreController, catalogue: Catalogue, ingest: Ingest
) -> None:
    await controller.search(EVERYTHING, prepare=Prepare.NEVER)
    await load(ingest, file_record("y", facility="borealis", storage="borealis-disk"))  # nobody tells this process
    report = await load(ingest, file_record("later"))
    controller.note_revisions(report.revisions)
    answer = (await controller.search(EVERYTHING, prepare=Prepare.NEVER)).answer
    assert answer.revisions == (await catalogue.moment(answer.revision)).revisions


@pytest.mark.usefixtures("filled")
async def test_an_export_is_prepared_as_of_an_earlier_moment(
    controller: CoreController, ingest: Ingest, catalogue: Catalogue
) -> None:
    revision = (await controller.search(AURORA, prepare=Prepare.NEVER)).answer.revision
    await change_aurora(ingest, controller)
    past = await controller.search(AURORA, prepare=Prepare.AUTO, as_of=revision)
    now = await controller.search(AURORA, prepare=Prepare.AUTO)
    assert past.export is not None
    assert now.export is not None
    assert (past.export.files_total, past.export.bytes_total, past.export.revisions) == (5, 15, {"aurora": 1})
    assert past.export.id != now.export.id
    members = [member async for batch in catalogue.iter_members(AURORA, past.export.revisions) for member in batch]
    assert sorted((member.path, member.size_bytes) for member in members) == [(f"run_{n}", n) for n in range(1, 6)]


@pytest.mark.usefixtures("filled")
async def test_an_answer_of_the_past_is_no_estimate(
    controller: CoreController, monkeypatch: pytest.MonkeyPatch
) -> None:
    # As if five files were too many to look at: a path is nothing that files are counted by.
    monkeypatch.setattr(metadata_db.planning, "MAX_LOOKED_AT", 0)
    asked = SearchQuery(path=("**",))
    present = await controller.search(asked, prepare=Prepare.NEVER)
    assert present.summary.is_estimate
    past = await controller.search(asked, prepare=Prepare.NEVER, as_of=present.answer.revision)
    assert (past.summary.count, past.summary.is_estimate) == (6, False)
    facets = await controller.facets(past.answer, [FacetField.KIND])
    assert {facet.value: facet.count for facet in facets[FacetField.KIND]} == {"events": 5, "table": 1}


# --- over GraphQL -----------------------------------------------------------------------------------------------------


@pytest.fixture
def context(controller: CoreController, vocabulary: VocabularyStore, ledger: ExportLedger) -> Context:
    return Context(controller=controller, vocabulary=vocabulary, ledger=ledger)


async def execute(context: Context, document: str, **variables: Any) -> Any:
    result = await create_schema().execute(document, variable_values=variables, context_value=context)
    if result.errors:
        raise result.errors[0].original_error or result.errors[0]
    return result.data


SEARCH = """
    query ($filter: SearchFilter!, $asOf: AsOf) {
        search(filter: $filter, prepare: NEVER, asOf: $asOf) {
            queryId revision asOf citeUrl citation checksum totalCount { value } revisions { facility revision }
        }
    }
"""

DIFF = """
    query ($id: ID!, $from: BigInt!, $to: BigInt, $first: Int!, $after: String) {
        diff(queryId: $id, from: $from, to: $to, first: $first, after: $after) {
            from to
            added { count bytes } removed { count bytes } replaced { count bytes previousBytes }
            nodes { kind file { path sizeBytes } previous { path sizeBytes } }
            edges { cursor }
            pageInfo { hasNextPage hasPreviousPage endCursor }
        }
    }
"""


@pytest.mark.usefixtures("filled")
async def test_an_answer_tells_how_to_cite_it(context: Context, ingest: Ingest) -> None:
    found = (await execute(context, SEARCH, filter={"facility": ["aurora"], "kind": ["events"]}))["search"]
    assert found["citeUrl"] == f"/q/{found['queryId']}@{found['revision']}"
    at = datetime.fromisoformat(found["asOf"])
    assert found["citation"] == (
        f"Aurora Observatory ({at.year}). Files with facility aurora; kind events (5 files, 15 bytes). Catchment,"
        f" catalogue revision {found['revision']} of {at.replace(tzinfo=None).isoformat(timespec='microseconds')}Z."
        f" Checksum {found['checksum']}. {found['citeUrl']} (accessed [date])"
    )
    await change_aurora(ingest, context.controller)
    variables = {"filter": {"facility": ["aurora"], "kind": ["events"]}}
    assert (await execute(context, SEARCH, **variables, asOf={"revision": found["revision"]}))["search"] == found
    assert (await execute(context, SEARCH, **variables, asOf={"moment": found["asOf"]}))["search"] == found
    earlier = (at - timedelta(microseconds=1)).isoformat()
    before = (await execute(context, SEARCH, **variables, asOf={"moment": earlier}))["search"]
    assert (before["revision"], before["asOf"], before["revisions"], before["totalCount"]["value"]) == (0, None, [], 0)


@pytest.mark.usefixtures("filled")
async def test_a_moment_that_cannot_be_is_refused(context: Context) -> None:
    for moment, field in (
        ({}, "asOf"),
        ({"revision": 1, "moment": "2020-01-01"}, "asOf"),
        ({"revision": 999}, "asOf.revision"),
        ({"revision": -1}, "asOf.revision"),
        ({"moment": "yesterday"}, "asOf.moment"),
        ({"moment": (datetime.now(UTC) + timedelta(hours=1)).isoformat()}, "asOf.moment"),
    ):
        with pytest.raises(BadInputError) as caught:
            await execute(context, SEARCH, filter={}, asOf=moment)
        assert caught.value.field == field


@pytest.mark.usefixtures("filled")
async def test_a_diff_is_told_page_by_page(context: Context, ingest: Ingest) -> None:
    asked = (await execute(context, SEARCH, filter={"facility": ["aurora"]}))["search"]
    await change_aurora(ingest, context.controller)
    now = (await execute(context, SEARCH, filter={"facility": ["aurora"]}))["search"]
    variables = {"id": asked["queryId"], "from": asked["revision"]}
    whole = (await execute(context, DIFF, **variables, first=50))["diff"]
    assert (whole["from"], whole["to"]) == (asked["revision"], now["revision"])
    assert (whole["added"], whole["removed"]) == ({"count": 1, "bytes": 1000}, {"count": 1, "bytes": 2})
    assert whole["replaced"] == {"count": 1, "bytes": 50, "previousBytes": 1}
    assert whole["nodes"] == [
        {"kind": "ADDED", "file": {"path": "new", "sizeBytes": 1000}, "previous": None},
        {
            "kind": "REPLACED",
            "file": {"path": "run_1", "sizeBytes": 50},
            "previous": {"path": "run_1", "sizeBytes": 1},
        },
        {"kind": "REMOVED", "file": None, "previous": {"path": "run_2", "sizeBytes": 2}},
    ]
    nodes, after = [], None
    for _ in range(3):
        page = (await execute(context, DIFF, **variables, to=now["revision"], first=1, after=after))["diff"]
        assert page["pageInfo"]["hasPreviousPage"] is (after is not None)
        nodes, after = nodes + page["nodes"], page["pageInfo"]["endCursor"]
    assert (nodes, page["pageInfo"]["hasNextPage"]) == (whole["nodes"], False)
    same = (await execute(context, DIFF, **variables, to=asked["revision"], first=50))["diff"]
    assert (same["nodes"], same["added"]["count"], same["pageInfo"]["endCursor"]) == ([], 0, None)


@pytest.mark.usefixtures("filled")
async def test_a_diff_of_what_cannot_be_is_refused(context: Context) -> None:
    found = (await execute(context, SEARCH, filter={}))["search"]
    for variables, field in (
        ({"from": found["revision"], "to": 1, "first": 1}, "to"),
        ({"from": 999, "first": 1}, "from"),
        ({"from": 1, "to": 999, "first": 1}, "to"),
        ({"from": 1, "first": 0}, "diff.first"),
        ({"from": 1, "first": 1, "after": "nonsense"}, "after"),
    ):
        with pytest.raises(BadInputError) as caught:
            await execute(context, DIFF, id=found["queryId"], **variables)
        assert caught.value.field == field
