"""Time lines, sky maps and availability come over GraphQL as their descriptions say."""

import base64
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pytest

from aggregator.api.context import Context
from aggregator.api.schema import create_schema
from aggregator.controller import CoreController
from aggregator.staging.ledger import ExportLedger
from metadata_db.ingest import Ingest
from metadata_db.vocabulary import VocabularyStore
from tests.support.records import file_record, load, register

pytestmark = pytest.mark.anyio

NOON = datetime(2019, 11, 2, 12, tzinfo=UTC)
DETECTOR = "iact-north"


@pytest.fixture
async def context(
    controller: CoreController, ledger: ExportLedger, vocabulary: VocabularyStore, ingest: Ingest
) -> Context:
    await register(vocabulary)
    crab = {"ra_deg": 83.633, "dec_deg": 22.014, "detector": DETECTOR, "channel": "gamma"}
    hours = [
        file_record(f"run_{at}", time_begin=NOON + timedelta(hours=at), time_end=NOON + timedelta(hours=at + 1), **crab)
        for at in (0, 1, 5, 40)
    ]
    await load(ingest, *hours, file_record("no time"))
    return Context(controller=controller, vocabulary=vocabulary, ledger=ledger)


async def ask(context: Context, question: str) -> Any:
    told = await create_schema().execute(question, context_value=context)
    assert told.errors is None
    return told.data


def numbers(text: str, kind: str) -> list[float]:
    found: list[float] = np.frombuffer(base64.b64decode(text), kind).tolist()
    return found


async def test_a_time_line_is_one_object(context: Context) -> None:
    question = "{ search(filter: {}, prepare: NEVER) { days: timeline(bin: DAY) hours: timeline(binS: 7200) } }"
    for _ in range(2):  # looked up, and from the cache
        found = (await ask(context, question))["search"]
        assert {name: found["days"][name] for name in ("begin", "binS", "bin", "n", "isEstimate", "noTime")} == {
            "begin": "2019-11-02T00:00:00Z",
            "binS": None,
            "bin": "DAY",
            "n": 3,
            "isEstimate": False,
            "noTime": 1,
        }
        assert numbers(found["days"]["counts"], "<u4") == [3, 0, 1]
        assert numbers(found["days"]["bytes"], "<f8") == [3000.0, 0.0, 1000.0]
        assert (found["hours"]["begin"], found["hours"]["binS"], found["hours"]["bin"]) == (
            "2019-11-02T12:00:00Z",
            7200.0,
            None,
        )
        assert numbers(found["hours"]["counts"], "<u4")[:3] == [2, 0, 1]


async def test_a_sky_map_is_one_object(context: Context) -> None:
    question = "{ search(filter: {}, prepare: NEVER) { sky fine: sky(order: 10) } }"
    for _ in range(2):
        found = (await ask(context, question))["search"]
        for name, order in (("sky", 6), ("fine", 10)):
            cells = numbers(found[name].pop("cells"), "<u4")
            assert len(cells) == 1
            assert 0 <= cells[0] < 12 * 4**order
            assert numbers(found[name].pop("counts"), "<u4") == [4]
            assert found[name] == {
                "order": order,
                "scheme": "nested",
                "frame": "ICRS",
                "isEstimate": False,
                "noPosition": 1,
            }


async def test_availability_tells_what_is_covered_and_what_is_not(context: Context) -> None:
    fields = "facility detector channel files totalBytes timeBegin timeEnd liveS isEstimate resolutionS"
    gaps = "gaps { begin end lengthS } long: gaps(atLeastS: 18000) { lengthS } one: gaps(longest: 1) { lengthS }"
    for _ in range(2):
        empty, found = (await ask(context, f"{{ availability {{ {fields} {gaps} }} }}"))["availability"]
        assert (empty["detector"], empty["files"], empty["timeBegin"], empty["liveS"], empty["gaps"]) == (
            None,
            1,
            None,
            0.0,
            [],
        )
        assert found["timeBegin"] == NOON.isoformat()
        assert (found["files"], found["liveS"], found["isEstimate"]) == (4, 14_400.0, False)
        assert [gap["lengthS"] for gap in found["gaps"]] == [34 * 3600.0, 3 * 3600.0]
        assert found["gaps"][1]["begin"] == (NOON + timedelta(hours=2)).isoformat()
        assert len(found["long"]) == len(found["one"]) == 1


async def test_availability_of_an_interval_has_gaps_up_to_its_ends(context: Context) -> None:
    asked = '{ facility: ["aurora"], time: { begin: "2019-11-02", end: "2019-11-03" } }'
    (found,) = (await ask(context, f"{{ availability(filter: {asked}) {{ liveS gaps {{ lengthS }} }} }}"))[
        "availability"
    ]
    assert (found["liveS"], [gap["lengthS"] / 3600 for gap in found["gaps"]]) == (10_800.0, [12.0, 6.0, 3.0])


@pytest.mark.parametrize(
    ("asked", "field"),
    [
        ("search(filter: {}, prepare: NEVER) { timeline(bin: DAY, bins: 5) }", "timeline"),
        ("search(filter: {}, prepare: NEVER) { timeline(binS: 1) }", "timeline.binS"),
        ("search(filter: {}, prepare: NEVER) { sky(order: 11) }", "sky.order"),
        ("availability { gaps(longest: 0) { begin } }", "gaps.longest"),
        ('availability(filter: { facility: ["nowhere"] }) { files }', "filter.facility"),
    ],
)
async def test_what_cannot_be_told_is_refused_by_its_field(context: Context, asked: str, field: str) -> None:
    told = await create_schema().execute(f"{{ {asked} }}", context_value=context)
    assert told.errors is not None
    assert getattr(told.errors[0].original_error, "field", None) == field


async def walk(context: Context, question: str, path: list[str]) -> list[Any]:
    """Return the pages of two of a question from its beginning to its end; `question` has a place for `after`."""
    pages: list[Any] = []
    after = "null"
    while not pages or pages[-1]["pageInfo"]["hasNextPage"]:
        assert len(pages) < 10
        told = await ask(context, question.replace("AFTER", after))
        for name in path:
            told = told[name]
        pages.append(told)
        after = f'"{told["pageInfo"]["endCursor"]}"'
    return pages


PAGE = "edges { cursor node { NODE } } nodes { NODE } pageInfo { hasNextPage hasPreviousPage startCursor endCursor }"


def check_pages(pages: list[Any], sizes: list[int]) -> None:
    """Check that pages tell of themselves what is so."""
    assert [len(page["edges"]) for page in pages] == sizes
    for number, page in enumerate(pages):
        assert page["nodes"] == [edge["node"] for edge in page["edges"]]
        assert page["pageInfo"] == {
            "hasNextPage": number < len(pages) - 1,
            "hasPreviousPage": number > 0,
            "startCursor": page["edges"][0]["cursor"],
            "endCursor": page["edges"][-1]["cursor"],
        }
    cursors = [edge["cursor"] for page in pages for edge in page["edges"]]
    assert len(set(cursors)) == len(cursors)


async def test_pages_of_files_follow_each_other_to_the_end(context: Context) -> None:
    question = f"{{ search(filter: {{}}, prepare: NEVER) {{ files(first: 2, after: AFTER) {{ {PAGE} }} }} }}"
    pages = await walk(context, question.replace("NODE", "path"), ["search", "files"])
    check_pages(pages, [2, 2, 1])
    paths = [node["path"] for page in pages for node in page["nodes"]]
    assert paths == ["run_0", "run_1", "run_5", "run_40", "no time"]


async def test_pages_of_differences_follow_each_other_to_the_end(context: Context) -> None:
    found = (await ask(context, "{ search(filter: {}, prepare: NEVER) { queryId } }"))["search"]
    question = f'{{ diff(queryId: "{found["queryId"]}", from: 0, first: 2, after: AFTER) {{ {PAGE} }} }}'
    pages = await walk(context, question.replace("NODE", "kind file { path }"), ["diff"])
    check_pages(pages, [2, 2, 1])
    assert {node["kind"] for page in pages for node in page["nodes"]} == {"ADDED"}


async def test_a_page_of_nothing_has_no_cursors(context: Context) -> None:
    question = f'{{ search(filter: {{ level: ["none"] }}, prepare: NEVER) {{ files {{ {PAGE} }} }} }}'
    (page,) = await walk(context, question.replace("NODE", "path"), ["search", "files"])
    info = {"hasNextPage": False, "hasPreviousPage": False, "startCursor": None, "endCursor": None}
    assert page == {"edges": [], "nodes": [], "pageInfo": info}
