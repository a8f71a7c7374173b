"""What requests ask for and how answers are told: any bytes are an operation, or an error of the asker."""

import hashlib
import json
from contextlib import suppress
from typing import Any
from urllib.parse import urlencode

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aggregator.api.context import Footprint
from aggregator.api.execution import Execution
from aggregator.api.protocol import (
    MAX_BODY_BYTES,
    MAX_JSON_DEPTH,
    MAX_URL_BYTES,
    Asked,
    MediaType,
    RequestError,
    check_body_headers,
    choose_media_type,
    parse_address,
    parse_body,
    parse_document_id,
    refuse,
    tell,
    tell_cacheable,
    unknown_document,
)

JSON, GRAPHQL = MediaType.JSON, MediaType.GRAPHQL
TEXT = "{ __typename }"
DIGEST = hashlib.sha256(TEXT.encode()).hexdigest()


def executed(*, has_errors: bool = False, is_refused: bool = False, is_passing: bool = False) -> Execution:
    return Execution(
        body=b'{"data":{}}',
        is_refused=is_refused,
        has_errors=has_errors or is_refused,
        footprint=Footprint(is_passing=is_passing),
    )


# --- which form is wanted ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("accept", "expected"),
    [
        (None, JSON),
        ("", JSON),
        ("*/*", JSON),
        ("application/*", JSON),
        ("application/json", JSON),
        ("APPLICATION/JSON; charset=UTF-8", JSON),
        ("application/graphql-response+json", GRAPHQL),
        ("application/graphql-response+json; charset=utf-8, application/json; charset=utf-8", GRAPHQL),
        ("application/graphql-response+json,application/json;q=0.9", GRAPHQL),
        ("application/json, application/graphql-response+json", JSON),
        ("application/json;q=0.9, application/graphql-response+json", GRAPHQL),
        ("application/graphql-response+json;q=0.3, application/json;q=0.4", JSON),
        ("application/graphql-response+json, application/graphql+json, application/json, text/event-stream", GRAPHQL),
        ("multipart/mixed;deferSpec=20220824, application/json", JSON),
        ("text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8", JSON),
        ("*/*, application/json;q=0", GRAPHQL),
        ("*/*;q=0.9, application/json;q=0.1", GRAPHQL),
        ("application/*;q=0, application/graphql-response+json;q=0.001", GRAPHQL),
        ("application/json;q=nonsense, application/graphql-response+json;q=0.1", GRAPHQL),
        ("application/json;charset=latin-1, */*;q=0.1", JSON),
    ],
)
def test_of_what_is_accepted_the_heaviest_is_sent_and_the_first_of_equals(accept: str, expected: MediaType) -> None:
    assert choose_media_type(accept) is expected


@pytest.mark.parametrize(
    "accept", ["text/html", "text/event-stream", "application/json;q=0", "*/*;q=0", "nonsense", "application/json;q=2"]
)
def test_who_accepts_none_of_ours_is_told_what_there_is(accept: str) -> None:
    with pytest.raises(RequestError, match="application/json or application/graphql-response") as caught:
        choose_media_type(accept)
    assert (caught.value.status, caught.value.code) == (406, "NOT_ACCEPTABLE")


# --- what is asked for ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content_type", "encoding", "length", "status"),
    [
        ("application/json", None, "2", None),
        ("application/json", "identity", None, None),
        ("Application/JSON ; charset=\"UTF-8\"", None, str(MAX_BODY_BYTES), None),
        (None, None, None, 415),
        ("text/plain;charset=UTF-8", None, None, 415),
        ("application/x-www-form-urlencoded", None, None, 415),
        ("multipart/form-data; boundary=x", None, None, 415),
        ("application/graphql", None, None, 415),
        ("application/json; charset=utf-16", None, None, 415),
        ("application/json", "gzip", None, 415),
        ("application/json", "br, gzip", None, 415),
        ("application/json", None, str(MAX_BODY_BYTES + 1), 413),
        ("application/json", None, "9" * 5000, 413),
    ],
)  # fmt: skip
def test_a_body_is_refused_by_its_headers(
    content_type: str | None, encoding: str | None, length: str | None, status: int | None
) -> None:
    if status is None:
        check_body_headers(content_type, encoding, length)
        return
    with pytest.raises(RequestError) as caught:
        check_body_headers(content_type, encoding, length)
    assert caught.value.status == status
    assert str(MAX_BODY_BYTES) in str(caught.value) or status == 415


def test_everything_a_body_names_is_asked() -> None:
    body = {"query": TEXT, "variables": {"a": [1]}, "operationName": "b", "extensions": {"c": 1}, "unknown": 2}
    assert parse_body(orjson.dumps(body)) == Asked(document=TEXT, variables={"a": [1]}, name="b")
    body = {"query": TEXT, "variables": None, "operationName": "", "extensions": None}
    assert parse_body(orjson.dumps(body)) == Asked(document=TEXT)


@pytest.mark.parametrize(
    ("body", "code", "message"),
    [
        (b"", "NOT_JSON", "no JSON"),
        (b'{ "not a JSON', "NOT_JSON", "no JSON"),
        (b"\xff", "NOT_JSON", "UTF-8"),
        (b"\xef\xbb\xbf{}", "NOT_JSON", "BOM"),
        (b'{"query":"\xed\xa0\x80"}', "NOT_JSON", "UTF-8"),
        (rb'{"query":"\ud800"}', "NOT_JSON", "surrogate"),
        (rb'{"query":"\u0000"}', "BAD_REQUEST", r"\u0000"),
        (rb'{"query":"{ a(b: \"\\u0000\") }"}', "BAD_REQUEST", r"\u0000"),
        (rb'{"query":"{ a(b: \"\\u{00}\") }"}', "BAD_REQUEST", r"\u0000"),
        (b'{"query":"{a}","variables":{"a":NaN}}', "NOT_JSON", "JSON"),
        (b'{"query":"{a}","variables":{"a":-Infinity}}', "NOT_JSON", "JSON"),
        (b'{"query":"{a}","variables":{"a":1e400}}', "NOT_JSON", "infinity"),
        (b'{"query":"{a}","variables":{"a":' + b"9" * 100_000 + b"}}", "NOT_JSON", "infinity"),
        (b'{"query":"{a}","query":"{b}"}', "BAD_REQUEST", "'query' twice"),
        (b'{"query":"{a}","variables":{"a":[{"b":1,"b":1}]}}', "BAD_REQUEST", "'b' twice"),
        (b'{"query":"{a}","variables":{"a":[' + b"[]," * 60_000 + b"[]]}}", "BAD_REQUEST", "60001 commas"),
        (b"[]", "BATCH_REFUSED", "one request"),
        (b'[{"query":"{a}"}]', "BATCH_REFUSED", "one request"),
        (b"null", "BAD_REQUEST", "got None, expected a JSON object"),
        (b"true", "BAD_REQUEST", "a JSON object"),
        (b"1", "BAD_REQUEST", "a JSON object"),
        (b'"x"', "BAD_REQUEST", "a JSON object"),
        (b"{}", "BAD_REQUEST", "query: got nothing"),
        (b'{"query":null}', "BAD_REQUEST", "query: got nothing"),
        (b'{"query":1}', "BAD_REQUEST", "query: got 1, expected a text"),
        (b'{"query":"{a}","variables":[7]}', "BAD_REQUEST", "variables: got [7], expected an object"),
        (b'{"query":"{a}","operationName":{}}', "BAD_REQUEST", "operationName: got {}, expected a text"),
        (b'{"query":"{a}","extensions":"x"}', "BAD_REQUEST", "extensions: got 'x', expected an object"),
        (b'{"query":"{a}","extensions":{"persistedQuery":1}}', "BAD_REQUEST", "expected an object"),
        (b'{"extensions":{"persistedQuery":{"version":2}}}', "BAD_REQUEST", "expected 1"),
        (b'{"extensions":{"persistedQuery":{"version":1,"sha256Hash":"X"}}}', "BAD_REQUEST", "64 lower-case"),
    ],
)  # fmt: skip
def test_a_malformed_body_is_refused_with_what_came_and_what_was_expected(body: bytes, code: str, message: str) -> None:
    with pytest.raises(RequestError) as caught:
        parse_body(body)
    assert (caught.value.status, caught.value.code) == (400, code)
    assert message in str(caught.value)
    assert len(str(caught.value)) < 400


def nested(levels: int) -> bytes:
    lists = levels - 2
    return b'{"query":"{a}","variables":{"a":' + b"[" * lists + b"]" * lists + b"}}"


def test_json_may_be_nested_so_deep_and_no_deeper() -> None:
    assert parse_body(nested(MAX_JSON_DEPTH)).document == "{a}"
    with pytest.raises(RequestError, match=f"{MAX_JSON_DEPTH + 1} levels, expected at most {MAX_JSON_DEPTH}"):
        parse_body(nested(MAX_JSON_DEPTH + 1))
    with pytest.raises(RequestError) as caught:
        parse_body(nested(90_000))
    assert caught.value.status == 400


def test_an_address_asks_the_same_as_a_body() -> None:
    query = urlencode({"query": TEXT, "variables": '{"a":"é"}', "operationName": "b", "extensions": "{}", "c": "d"})
    assert parse_address(query.encode()) == Asked(document=TEXT, variables={"a": "é"}, name="b")
    assert parse_address(b"query=%7Ba%7D&variables=&operationName=&extensions=") == Asked(document="{a}")
    assert parse_address(b"query={a+b}").document == "{a b}"
    assert parse_address(b"query=query+null{a}&operationName=null").name == "null"


@pytest.mark.parametrize(
    ("query", "message"),
    [
        (b"", "query: got nothing"),
        (b"query=a&query=b", "query: got it twice"),
        (b"query=%ff", "UTF-8"),
        (b"query=\xff", "UTF-8"),
        (b"query=%ED%A0%80", "UTF-8"),
        (b"query=%00", r"\u0000"),
        (b"query={a(b:%22%5Cu0000%22)}", r"\u0000"),
        (b"query={a}&variables={", "variables: got no JSON"),
        (b'query={a}&variables={"a":1,"a":2}', "variables: got the key 'a' twice"),
        (b"query={a}&variables=null&extensions=1", "extensions: got 1, expected an object"),
        (b"query={a}&variables=%22a%22", "variables: got 'a', expected an object"),
        (b"query={a}&" + b"&".join(b"a%d=1" % number for number in range(50)), "parameters"),
    ],
)
def test_a_malformed_address_is_refused(query: bytes, message: str) -> None:
    with pytest.raises(RequestError) as caught:
        parse_address(query)
    assert caught.value.status == 400
    assert message in str(caught.value)


def test_a_long_address_is_refused_as_such() -> None:
    with pytest.raises(RequestError, match=f"expected at most {MAX_URL_BYTES}") as caught:
        parse_address(b"query=" + b"a" * MAX_URL_BYTES)
    assert (caught.value.status, caught.value.code) == (414, "ADDRESS_TOO_LONG")


TEXTS = st.text(st.sampled_from('a{}[]"\\\x00\x1fé\u2028\U0001f3c3\ud800'), max_size=4)
ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | TEXTS,
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(TEXTS, inner, max_size=2),
    max_leaves=3,
)
NAMES = [
    "query",
    "documentId",
    "variables",
    "operationName",
    "extensions",
    "persistedQuery",
    "version",
    "sha256Hash",
    "x",
]
REQUESTS = st.dictionaries(st.sampled_from(NAMES), ANYTHING | st.dictionaries(st.sampled_from(NAMES), ANYTHING))


def check_asked_or_refused(asked: Asked | RequestError) -> None:
    if isinstance(asked, RequestError):
        assert 400 <= asked.status < 500
        assert orjson.loads(refuse(asked, GRAPHQL).body)["errors"][0]["extensions"]["code"] == asked.code
    else:
        assert isinstance(asked.document or asked.sha256, str)
        assert isinstance(asked.variables, dict | None)
        assert isinstance(asked.name, str | None)
        (asked.document or "").encode()


@given(st.binary(max_size=300) | REQUESTS.map(lambda value: json.dumps(value).encode()))
def test_any_body_is_an_operation_or_an_error_of_the_asker(body: bytes) -> None:
    try:
        found: Asked | RequestError = parse_body(body)
    except RequestError as error:
        found = error
    check_asked_or_refused(found)


def as_query(value: dict[str, Any]) -> bytes:
    parts = {name: json.dumps(item) if name in ("variables", "extensions") else item for name, item in value.items()}
    return urlencode(parts, errors="surrogatepass").encode()


@given(st.binary(max_size=300) | REQUESTS.map(as_query))
def test_any_address_is_an_operation_or_an_error_of_the_asker(query: bytes) -> None:
    try:
        found: Asked | RequestError = parse_address(query)
    except RequestError as error:
        found = error
    check_asked_or_refused(found)


@given(REQUESTS)
def test_a_request_without_odd_values_means_what_json_means(value: dict[str, Any]) -> None:
    body = json.dumps(value | {"query": TEXT}).encode()
    try:
        asked = parse_body(body)
    except RequestError:
        return
    assert asked.document == TEXT
    assert asked.variables == (None if value.get("variables") is None else orjson.loads(body)["variables"])


@given(st.text(max_size=60) | st.sampled_from(["*/*", "a/b;q=", ";q=0", ",,"]))
def test_any_accept_is_understood_or_refused(accept: str) -> None:
    with suppress(RequestError):
        assert choose_media_type(accept) in MediaType


# --- documents by their digest ----------------------------------------------------------------------------------------


def test_a_document_is_named_by_its_digest() -> None:
    persisted = {"persistedQuery": {"version": 1, "sha256Hash": DIGEST}}
    assert parse_body(orjson.dumps({"extensions": persisted})) == Asked(sha256=DIGEST, is_automatic=True)
    with_text = parse_body(orjson.dumps({"query": TEXT, "extensions": persisted}))
    assert with_text == Asked(document=TEXT, sha256=DIGEST, is_automatic=True)
    assert parse_body(orjson.dumps({"documentId": f"sha256:{DIGEST}"})) == Asked(sha256=DIGEST)
    assert parse_address(f"documentId=sha256:{DIGEST}".encode()) == Asked(sha256=DIGEST)
    assert parse_address(b"", DIGEST) == Asked(sha256=DIGEST)
    assert parse_document_id(DIGEST) == parse_document_id(f"sha256:{DIGEST}") == DIGEST


@pytest.mark.parametrize(
    ("query", "path_sha256"),
    [("query={a}", DIGEST), (f"query={{a}}&documentId={DIGEST}", None), (f"documentId={DIGEST}", "0" * 64)],
)
def test_a_digest_of_another_document_is_refused(query: str, path_sha256: str | None) -> None:
    with pytest.raises(RequestError, match=DIGEST) as caught:
        parse_address(query.encode(), path_sha256)
    assert (caught.value.status, caught.value.code) == (400, "PERSISTED_QUERY_HASH_MISMATCH")


@pytest.mark.parametrize("name", ["x", DIGEST.upper(), DIGEST[1:], f"md5:{DIGEST}", "0" * 5000])
def test_what_is_no_digest_leads_nowhere(name: str) -> None:
    with pytest.raises(RequestError, match="64 lower-case") as caught:
        parse_document_id(name)
    assert (caught.value.status, caught.value.code) == (404, "PERSISTED_DOCUMENT_NOT_FOUND")


# --- what is told -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("execution", "media_type", "status"),
    [
        (executed(), JSON, 200),
        (executed(), GRAPHQL, 200),
        (executed(has_errors=True), JSON, 200),
        (executed(has_errors=True), GRAPHQL, 294),
        (executed(is_refused=True), JSON, 200),
        (executed(is_refused=True), GRAPHQL, 400),
    ],
)
def test_the_status_tells_what_came_of_an_operation(execution: Execution, media_type: MediaType, status: int) -> None:
    told = tell(execution, media_type)
    headers = dict(told.headers)
    assert (told.status, told.body) == (status, execution.body)
    assert headers[b"content-type"] == f"{media_type.value}; charset=utf-8".encode()
    assert (headers[b"content-length"], headers[b"cache-control"]) == (b"11", b"no-store")
    cacheable = tell_cacheable(execution, media_type)
    assert (cacheable.status, cacheable.body) == (status, execution.body)
    assert (b"etag" in dict(cacheable.headers)) == (not execution.has_errors)


def test_an_answer_got_again_is_not_sent_again() -> None:
    first = tell_cacheable(executed(), JSON)
    tag = dict(first.headers)[b"etag"].decode()
    assert dict(first.headers)[b"cache-control"] == b"public, max-age=1, must-revalidate"
    assert dict(first.headers)[b"vary"] == b"Accept, Authorization"
    for known in (tag, f"W/{tag}", f'"other", {tag}', "*"):
        again = tell_cacheable(executed(), JSON, if_none_match=known)
        assert (again.status, again.body) == (304, b"")
        assert b"content-type" not in dict(again.headers)
        assert dict(again.headers)[b"etag"].decode() == tag
        assert {b"vary", b"cache-control"} <= set(dict(again.headers))
    assert tell_cacheable(executed(), JSON, if_none_match='"other"').status == 200
    assert tell_cacheable(executed(), GRAPHQL, if_none_match=tag).status == 200  # the same text as something else
    assert tell_cacheable(executed(has_errors=True), JSON, if_none_match="*").status == 200


def test_an_answer_for_the_moment_or_for_one_person_is_kept_by_nobody_else() -> None:
    assert dict(tell_cacheable(executed(is_passing=True), JSON).headers)[b"cache-control"] == b"public, no-cache"
    personal = tell_cacheable(executed(), JSON, is_personal=True)
    assert dict(personal.headers)[b"cache-control"] == b"private, max-age=1, must-revalidate"
    assert dict(tell_cacheable(executed(has_errors=True), JSON).headers)[b"cache-control"] == b"no-store"


def test_an_unknown_document_is_a_question_back_to_those_who_may_know_it() -> None:
    assert refuse(unknown_document(Asked(sha256=DIGEST)), JSON).status == 404
    automatic = unknown_document(Asked(sha256=DIGEST, is_automatic=True))
    told = refuse(automatic, JSON)
    error = orjson.loads(told.body)["errors"][0]
    assert (told.status, error["message"]) == (200, "PersistedQueryNotFound")
    assert error["extensions"]["code"] == "PERSISTED_QUERY_NOT_FOUND"
    assert refuse(automatic, GRAPHQL).status == 404
