"""One address of an answer: a page for people, JSON for programs, the same for ever with a revision."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from aggregator.landing import HTML, JSON, preferred
from metadata_db.ingest import Ingest
from metadata_db.vocabulary import VocabularyStore
from tests.support.records import file_record, load, register

OFFERS = (HTML, JSON)


@pytest.mark.parametrize(
    ("accept", "expected"),
    [
        ("", HTML),
        ("*/*", HTML),
        ("text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8", HTML),
        ("application/json", JSON),
        ("Application/JSON ; Q=0.5", JSON),
        ("application/*", JSON),
        ("application/json, text/html", HTML),
        ("application/json;q=0.8, text/html;q=0.9", HTML),
        ("application/json;q=0.9, text/html;q=0.8", JSON),
        ("text/html;q=0, */*", JSON),
        ("text/*;q=0.2, application/json;q=0.3", JSON),
        ("*/*;q=0.9, text/html;q=0.1", JSON),
        ("application/json;charset=utf-8;q=0.9", JSON),
        ("application/json;q=nonsense, text/html;q=0.1", HTML),
        ("text/turtle", HTML),
    ],
)
def test_the_heaviest_range_wins_and_the_page_among_equals(accept: str, expected: str) -> None:
    assert preferred(accept, OFFERS) == expected


@pytest.fixture
async def client(service_url: str) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(base_url=service_url) as found:
        yield found


async def ask(client: httpx.AsyncClient, **arguments: Any) -> Any:
    document = "query ($asOf: AsOf) { search(filter: {}, prepare: NEVER, asOf: $asOf) { queryId revision checksum } }"
    body = {"query": document, "variables": arguments}
    return (await client.post("/graphql", json=body)).raise_for_status().json()["data"]["search"]


@pytest.mark.anyio
async def test_an_address_opens_as_page_and_as_json(
    ingest: Ingest, vocabulary: VocabularyStore, client: httpx.AsyncClient
) -> None:
    await register(vocabulary)
    await load(ingest, file_record("a", size_bytes=3), file_record("b", size_bytes=4))
    cited = await ask(client)
    address = f"/q/{cited['queryId']}"
    page = await client.get(f"{address}@{cited['revision']}", headers={"accept": HTML})
    assert page.headers["content-type"].startswith(HTML)
    assert (page.headers["vary"], page.headers["cache-control"]) == ("Accept", "no-cache")
    assert page.headers["link"].startswith(f'</q/{cited["queryId"]}@{cited["revision"]}.json>; rel="alternate"')
    now = await client.get(address, headers={"accept": JSON})
    assert (now.status_code, now.headers["content-type"], now.headers["vary"]) == (200, JSON, "Accept")
    body = now.json()
    assert list(body) == [
        "queryId", "canonical", "revision", "revisions", "at", "count", "bytes", "checksum", "citation", "links",
    ]  # fmt: skip
    assert (body["queryId"], body["canonical"], body["revisions"]) == (cited["queryId"], {}, {"aurora": 1})
    assert (body["revision"], body["checksum"]) == (cited["revision"], cited["checksum"])
    assert (body["count"], body["bytes"]) == (2, 7)
    assert body["links"]["cite"] in body["citation"]
    assert f'<{body["links"]["cite"]}>; rel="cite-as"' in now.headers["link"]

    await load(ingest, file_record("b", size_bytes=5), file_record("c", size_bytes=6))
    await asyncio.sleep(1.05)  # the service was not told
    assert (await client.get(f"{address}.json")).json()["count"] == 3
    assert (await client.get(body["links"]["cite"], headers={"accept": JSON})).content == now.content
    assert (await client.get(body["links"]["json"])).content == now.content
    assert (await client.get(f"{body['links']['now']}.json")).json()["count"] == 3


@pytest.mark.anyio
async def test_what_is_not_there_is_told_as_json(
    ingest: Ingest, vocabulary: VocabularyStore, client: httpx.AsyncClient
) -> None:
    await register(vocabulary)
    await load(ingest, file_record("a"))
    query_id = (await ask(client))["queryId"]
    for address, message in (
        (f"/q/{'0' * 32}.json", f"no query '{'0' * 32}'"),
        (f"/q/{'0' * 32}@0.json", f"no query '{'0' * 32}'"),
        (f"/q/{query_id}@999.json", "no revision of the catalogue '999'"),
        (f"/q/{query_id}@{10**18}.json", f"no revision of the catalogue '{10**18}'"),
        (f"/q/{query_id}@{10**19 - 1}.json", f"no revision of the catalogue '{10**19 - 1}'"),
        (f"/q/{query_id}@x.json", f"no query '{query_id}@x.json'"),
        (f"/q/{query_id}@-1.json", f"no query '{query_id}@-1.json'"),
    ):
        answer = await client.get(address)
        assert answer.headers["vary"] == "Accept"
        assert (answer.status_code, answer.json()) == (404, {"error": {"code": "NOT_FOUND", "message": message}})
    empty = (await client.get(f"/q/{query_id}@0.json")).json()
    assert (empty["revision"], empty["revisions"], empty["count"], empty["at"]) == (0, {}, 0, None)
