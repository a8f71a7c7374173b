"""GraphQL over HTTP on the wire: what the published audits of servers demand, and documents by their digest."""

import hashlib
from collections.abc import AsyncIterator, Iterator
from typing import Any

import anyio
import httpx
import orjson
import pytest

from metadata_db.ingest import Ingest
from metadata_db.vocabulary import VocabularyStore
from tests.support.records import file_record, load, register

JSON, GRAPHQL = "application/json", "application/graphql-response+json"
BOTH = pytest.mark.parametrize("accept", [JSON, GRAPHQL])

TYPENAME = "{ __typename }"
NAMED = "query Query { __typename }"
TYPE = "query Type($name: String!) { __type(name: $name) { name } }"
COERCE = "query Coerce($id: ID!) { __typename }"
UNKNOWN_FIELD = "{ no_such_field }"
CANCEL = 'mutation { cancel(exportId: "none") { id } }'


@pytest.fixture(scope="module")
def client(shared_url: str) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=shared_url) as found:
        found.headers.pop("accept")
        yield found


def post(client: httpx.Client, body: Any, **headers: str) -> httpx.Response:
    return client.post("/graphql", content=orjson.dumps(body), headers={"content-type": JSON} | headers)


# --- the audits -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("headers", "content_type"),
    [({}, JSON), ({"accept": "*/*"}, JSON), ({"accept": JSON}, JSON), ({"accept": GRAPHQL}, GRAPHQL)],
    ids=["none", "anything", "application/json", "application/graphql-response+json"],
)
def test_an_answer_is_of_the_type_that_is_accepted(
    client: httpx.Client, headers: dict[str, str], content_type: str
) -> None:
    told = post(client, {"query": TYPENAME}, **headers)
    assert (told.status_code, told.headers["content-type"]) == (200, f"{content_type}; charset=utf-8")
    assert told.json() == {"data": {"__typename": "Query"}}


def test_requests_are_in_utf_8_whether_they_say_so_or_not(client: httpx.Client) -> None:
    for content_type in (JSON, f"{JSON}; charset=utf-8"):
        told = post(client, {"query": '{ __type(name: "Run🏃Swim🏊") { name } }'}, **{"content-type": content_type})
        assert (told.status_code, told.json()) == (200, {"data": {"__type": None}})


def test_a_body_of_no_known_type_is_refused(client: httpx.Client) -> None:
    body = orjson.dumps({"query": TYPENAME})
    assert client.post("/graphql", content=body).status_code == 415
    assert (
        client.post("/graphql", content=body, headers={"content-type": "text/plain;charset=UTF-8"}).status_code == 415
    )
    assert client.post("/graphql", headers={"content-type": JSON}).status_code == 400


@BOTH
def test_a_question_can_be_asked_by_get(client: httpx.Client, accept: str) -> None:
    headers = {"accept": accept}
    assert client.get("/graphql", params={"query": TYPENAME}, headers=headers).json() == {
        "data": {"__typename": "Query"}
    }
    told = client.get("/graphql", params={"query": TYPE, "variables": '{"name":"sometype"}'}, headers=headers)
    assert (told.status_code, told.json()) == (200, {"data": {"__type": None}})
    assert told.headers["content-type"].startswith(accept)


@BOTH
@pytest.mark.parametrize(
    "params",
    [{"query": CANCEL}, {"query": f"query a {{ __typename }} {CANCEL.replace('{', 'b {', 1)}", "operationName": "b"}],
    ids=["alone", "by name"],
)
def test_by_get_nothing_is_changed(client: httpx.Client, accept: str, params: dict[str, str]) -> None:
    told = client.get("/graphql", params=params, headers={"accept": accept})
    assert (told.status_code, told.headers["allow"]) == (405, "POST")
    assert told.json()["errors"][0]["extensions"]["code"] == "METHOD_NOT_ALLOWED"


@BOTH
@pytest.mark.parametrize(
    "body",
    [
        {"query": TYPENAME},
        {"query": NAMED, "operationName": "Query"},
        {"query": TYPENAME, "variables": None},
        {"query": TYPENAME, "operationName": None},
        {"query": TYPENAME, "extensions": None},
        {"query": TYPENAME, "extensions": {"some": "value"}},
        {"query": TYPENAME, "a property": "reserved for later"},
        {"query": TYPE, "variables": {"name": "sometype"}},
    ],
    ids=orjson.dumps,
)
def test_what_is_well_formed_is_answered(client: httpx.Client, accept: str, body: dict[str, Any]) -> None:
    told = post(client, body, accept=accept)
    assert told.status_code == 200
    assert "errors" not in told.json()


@BOTH
@pytest.mark.parametrize(
    "body",
    [{"notquery": TYPENAME}, {"qeury": TYPENAME}]
    + [{"query": wrong} for wrong in ({"obj": "ect"}, 0, False, ["array"])]
    + [{"query": TYPENAME, "operationName": wrong} for wrong in ({"obj": "ect"}, 0, False, ["array"])]
    + [{"query": TYPENAME, "variables": wrong} for wrong in ("string", 0, False, ["array"])]
    + [{"query": TYPENAME, "extensions": wrong} for wrong in ("string", 0, False, ["array"])],
    ids=orjson.dumps,
)
def test_what_is_not_well_formed_is_refused(client: httpx.Client, accept: str, body: dict[str, Any]) -> None:
    told = post(client, body, accept=accept)
    assert told.status_code == 400
    assert "data" not in told.json()


@BOTH
def test_what_is_no_json_is_refused(client: httpx.Client, accept: str) -> None:
    told = client.post("/graphql", content=b'{ "not a JSON', headers={"content-type": JSON, "accept": accept})
    assert told.status_code == 400


@pytest.mark.parametrize(("accept", "status"), [(JSON, 200), (GRAPHQL, 400)])
@pytest.mark.parametrize(
    "body",
    [
        {"query": "{"},
        {"query": UNKNOWN_FIELD},
        {"query": COERCE, "variables": {"id": None}},
        {"query": NAMED, "operationName": "Other"},
    ],
    ids=["syntax", "validation", "variables", "operation name"],
)
def test_a_document_that_cannot_be_executed_has_errors_and_no_data(
    client: httpx.Client, accept: str, status: int, body: dict[str, Any]
) -> None:
    told = post(client, body, accept=accept)
    assert (told.status_code, told.headers["content-type"]) == (status, f"{accept}; charset=utf-8")
    assert set(told.json()) == {"errors"}


# --- what the text of the protocol demands beyond them ----------------------------------------------------------------


@pytest.mark.parametrize(("accept", "status"), [(JSON, 200), (GRAPHQL, 294)])
def test_an_answer_with_errors_is_a_partial_success(client: httpx.Client, accept: str, status: int) -> None:
    told = post(client, {"query": CANCEL}, accept=accept)
    assert (told.status_code, told.json()["data"]) == (status, None)
    assert told.json()["errors"][0]["extensions"]["code"] == "NOT_FOUND"


def test_who_accepts_nothing_of_ours_gets_nothing(client: httpx.Client) -> None:
    told = post(client, {"query": TYPENAME}, accept="text/event-stream")
    assert (told.status_code, told.json()["errors"][0]["extensions"]["code"]) == (406, "NOT_ACCEPTABLE")


@pytest.mark.parametrize("method", ["PUT", "DELETE", "PATCH", "OPTIONS"])
def test_other_methods_are_told_which_there_are(client: httpx.Client, method: str) -> None:
    told = client.request(method, "/graphql")
    assert (told.status_code, told.headers["allow"]) == (405, "GET, HEAD, POST")
    told = client.request(method, f"/graphql/{'0' * 64}")
    assert (told.status_code, told.headers["allow"]) == (405, "GET, HEAD")
    assert client.post(f"/graphql/{'0' * 64}").status_code == 405


def test_head_tells_what_get_would(client: httpx.Client) -> None:
    asked, headed = (client.request(method, "/graphql", params={"query": TYPENAME}) for method in ("GET", "HEAD"))
    assert (headed.status_code, headed.content) == (200, b"")
    for name in ("content-type", "content-length", "etag", "cache-control", "vary"):
        assert headed.headers[name] == asked.headers[name]


def test_what_came_already_is_not_sent_again(client: httpx.Client) -> None:
    first = client.get("/graphql", params={"query": TYPENAME})
    assert first.headers["cache-control"] == "public, max-age=1, must-revalidate"
    again = client.get("/graphql", params={"query": TYPENAME}, headers={"if-none-match": first.headers["etag"]})
    assert (again.status_code, again.content, again.headers["etag"]) == (304, b"", first.headers["etag"])
    assert again.headers["cache-control"] == first.headers["cache-control"]


@pytest.mark.anyio
async def test_an_answer_that_changed_is_sent_whole(
    ingest: Ingest, vocabulary: VocabularyStore, service_url: str
) -> None:
    await register(vocabulary)
    await load(ingest, file_record("a"))
    async with httpx.AsyncClient(base_url=service_url) as client:
        asked = {"query": "{ search(filter: {}, prepare: NEVER) { totalCount { value } } }"}
        first = await client.get("/graphql", params=asked)
        known = {"if-none-match": first.headers["etag"]}
        assert (await client.get("/graphql", params=asked, headers=known)).status_code == 304
        await load(ingest, file_record("b"))
        async for changed in polled(client, asked, known):
            if changed.status_code == 200:
                break
        assert changed.json()["data"]["search"]["totalCount"]["value"] == 2
        assert changed.headers["etag"] != first.headers["etag"]


async def polled(client: httpx.AsyncClient, asked: Any, headers: Any) -> AsyncIterator[httpx.Response]:
    for _ in range(200):  # another process than the one that was told of the change may be behind for a second
        yield await client.get("/graphql", params=asked, headers=headers)
        await anyio.sleep(0.02)


# --- documents by their digest ----------------------------------------------------------------------------------------


def digest_of(document: str) -> str:
    return hashlib.sha256(document.encode()).hexdigest()


def by_digest(document: str) -> dict[str, Any]:
    return {"extensions": {"persistedQuery": {"version": 1, "sha256Hash": digest_of(document)}}}


def test_a_document_that_was_carried_out_can_be_asked_by_its_digest(client: httpx.Client) -> None:
    document = "query first($name: String!) { __type(name: $name) { name } }"
    address, variables = f"/graphql/{digest_of(document)}", {"variables": '{"name":"File"}'}
    unknown = client.get(address, params=variables)
    error = unknown.json()["errors"][0]
    assert (unknown.status_code, error["extensions"]["code"]) == (404, "PERSISTED_DOCUMENT_NOT_FOUND")
    assert unknown.headers["cache-control"] == "no-store"
    assert post(client, {"query": document, "variables": {"name": "a"}}).status_code == 200
    known = client.get(address, params=variables)
    assert (known.status_code, known.json()) == (200, {"data": {"__type": {"name": "File"}}})
    for name in (digest_of(document), f"sha256:{digest_of(document)}"):
        assert client.get(f"/graphql/{name}", params=variables).json() == known.json()
        assert client.get("/graphql", params={"documentId": name, **variables}).json() == known.json()
        assert post(client, {"documentId": name, "variables": {"name": "File"}}).json() == known.json()
    tag = {"if-none-match": known.headers["etag"]}
    assert client.get(address, params=variables, headers=tag).status_code == 304


@pytest.mark.parametrize(("accept", "status"), [(JSON, 200), (GRAPHQL, 404)])
def test_a_client_that_is_told_so_sends_the_text_once(client: httpx.Client, accept: str, status: int) -> None:
    document = f"query second {{ __typename }} # for {accept}"
    unknown = post(client, by_digest(document), accept=accept)
    assert unknown.status_code == status
    assert unknown.json()["errors"][0]["message"] == "PersistedQueryNotFound"
    assert unknown.json()["errors"][0]["extensions"]["code"] == "PERSISTED_QUERY_NOT_FOUND"
    expected = {"data": {"__typename": "Query"}}
    assert post(client, {"query": document} | by_digest(document), accept=accept).json() == expected
    assert post(client, by_digest(document), accept=accept).json() == expected
    extensions = {"extensions": orjson.dumps(by_digest(document)["extensions"]).decode()}
    assert client.get("/graphql", params=extensions).json() == expected


def test_a_digest_of_another_document_is_refused(client: httpx.Client) -> None:
    told = post(client, {"query": TYPENAME} | by_digest(NAMED))
    assert told.status_code == 400
    assert told.json()["errors"][0]["extensions"]["code"] == "PERSISTED_QUERY_HASH_MISMATCH"


def test_a_document_that_cannot_be_executed_is_not_kept(client: httpx.Client) -> None:
    assert "errors" in post(client, {"query": UNKNOWN_FIELD} | by_digest(UNKNOWN_FIELD)).json()
    assert client.get(f"/graphql/{digest_of(UNKNOWN_FIELD)}").status_code == 404


def test_a_mutation_is_not_asked_by_an_address(client: httpx.Client) -> None:
    assert post(client, {"query": CANCEL}).status_code == 200
    told = client.get(f"/graphql/{digest_of(CANCEL)}")
    assert (told.status_code, told.headers["allow"]) == (405, "POST")
