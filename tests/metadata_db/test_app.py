"""The ingest API over real HTTP: what it takes, what it refuses, and what its errors say."""

import gzip
import json
import re
import socket
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime
from typing import Any
from urllib.parse import urlsplit

import httpx
import msgspec
import pytest
import zstandard

from aggregator.embedded import EmbeddedServers
from metadata_db.database import Database
from metadata_db.openapi import openapi_document
from metadata_db.records import Authority, Failure, FileRecord, Relation, Removal, Storage
from metadata_db.tokens import Role, TokenStore
from tests.conftest import run_sql
from tests.support.records import AURORA, BOREALIS, file_record, ndjson

pytestmark = pytest.mark.anyio

Headers = dict[str, str]


@pytest.fixture
async def client(service_url: str) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(base_url=service_url, timeout=60, trust_env=False) as client:
        yield client


@pytest.fixture
def tokens(database: Database) -> TokenStore:
    return TokenStore(database)


@pytest.fixture
async def admin(tokens: TokenStore) -> Headers:
    return {"authorization": f"Bearer {await tokens.create(Role.ADMIN)}"}


@pytest.fixture
async def publisher(tokens: TokenStore) -> Headers:
    """May write for aurora only."""
    return {"authorization": f"Bearer {await tokens.create(Role.PUBLISHER, ['aurora'])}"}


@pytest.fixture
async def registered(client: httpx.AsyncClient, admin: Headers) -> None:
    """Two facilities and their storages, registered as their data managers would."""
    for kind, record in (
        ("authorities", Authority(name="polar-council")),
        ("facilities", AURORA),
        ("facilities", BOREALIS),
        ("storages", Storage(name="aurora-disk", root="/data/aurora", facility="aurora")),
        ("storages", Storage(name="borealis-disk", root="/data/borealis", facility="borealis")),
    ):
        answer = await put(client, f"/api/v1/{kind}/{record.name}", record, admin)
        assert answer.status_code == 200, answer.text


async def put(client: httpx.AsyncClient, path: str, body: Any, headers: Headers) -> httpx.Response:
    return await client.put(
        path, content=body if isinstance(body, bytes) else msgspec.json.encode(body), headers=headers
    )


async def post_files(
    client: httpx.AsyncClient, body: bytes | AsyncIterator[bytes], headers: Headers, encoding: str | None = None
) -> httpx.Response:
    packed = {} if encoding is None else {"content-encoding": encoding}
    return await client.post("/api/v1/files", content=body, headers=headers | packed)


def batch(prefix: str, number: int = 3) -> bytes:
    return ndjson(file_record(f"{prefix}/run_{at}.fits") for at in range(number))


def error_of(answer: httpx.Response, status: int) -> dict[str, str]:
    """Return the error of an answer, which must be the one JSON form of errors."""
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/json"
    body = answer.json()
    assert set(body) == {"error"}
    error: dict[str, str] = body["error"]
    assert all(isinstance(value, str) for value in error.values())
    assert {"code", "message"} <= set(error) <= {"code", "message", "field", "value", "expected"}
    return error


# --- files ----------------------------------------------------------------------------------------------------------


def zstd_frames(body: bytes) -> bytes:
    return zstandard.compress(body[:100]) + zstandard.compress(body[100:])


def zstd_of_unknown_size(body: bytes) -> bytes:
    packer = zstandard.ZstdCompressor(level=19).compressobj()
    return packer.compress(body) + packer.flush()


@pytest.mark.usefixtures("registered")
async def test_a_batch_is_taken_plain_and_packed(client: httpx.AsyncClient, publisher: Headers) -> None:
    bodies = [
        (None, batch("plain")),
        ("identity", batch("identity")),
        ("gzip", gzip.compress(batch("gzip"))),
        ("GZip", gzip.compress(batch("gzip in capitals"))),
        ("x-gzip", gzip.compress(batch("gzip by its old name"))),
        ("gzip", b"".join(gzip.compress(line + b"\n") for line in batch("members").splitlines())),
        ("zstd", zstandard.compress(batch("zstd"))),
        ("zstd", zstd_frames(batch("frames"))),
        ("zstd", zstd_of_unknown_size(batch("unknown size"))),
    ]
    for revision, (encoding, body) in enumerate(bodies, 1):
        answer = await post_files(client, body, publisher, encoding)
        assert answer.status_code == 200, (encoding, answer.text)
        report = answer.json()
        assert (report["received"], report["added"], report["revisions"]) == (3, 3, {"aurora": revision})
    again = (await post_files(client, bodies[0][1], publisher)).json()
    assert (again["added"], again["changed"], again["unchanged"], again["revisions"]) == (0, 0, 3, {"aurora": 9})


@pytest.mark.usefixtures("registered")
async def test_rejected_lines_are_named_and_the_others_kept(client: httpx.AsyncClient, publisher: Headers) -> None:
    bad = [b"nonsense", msgspec.json.encode(file_record("b", facility="borealis", storage="borealis-disk"))]
    report = (await post_files(client, b"\n".join([*bad, batch("good")]), publisher)).json()
    assert (report["received"], report["added"], report["rejected"]) == (5, 3, 2)
    assert [(item["line"], item["field"]) for item in report["rejections"]] == [(1, ""), (2, "facility")]
    assert "may not write for borealis" in report["rejections"][1]["reason"]


@pytest.mark.usefixtures("registered")
async def test_relations_are_shown_to_users_with_the_storage_they_mean(
    client: httpx.AsyncClient, publisher: Headers
) -> None:
    relations = [
        Relation(kind="sidecar_of", path="a.fits"),
        Relation(kind="irf_for", obs_id="7", path="**/*.fits", storage="borealis-disk"),
    ]
    await post_files(client, ndjson([file_record("a.md5", relations=relations), file_record("a.fits")]), publisher)
    question = "{search(filter: {}) {files(orderBy: {field: PATH}) {nodes {path relations {kind storage path obsId}}}}}"
    answer = (await client.post("/graphql", json={"query": question})).json()
    assert answer["data"]["search"]["files"]["nodes"] == [
        {"path": "a.fits", "relations": []},
        {
            "path": "a.md5",
            "relations": [
                {"kind": "sidecar_of", "storage": "aurora-disk", "path": "a.fits", "obsId": None},
                {"kind": "irf_for", "storage": "borealis-disk", "path": "**/*.fits", "obsId": "7"},
            ],
        },
    ]


@pytest.mark.usefixtures("registered")
async def test_a_broken_body_is_refused_and_leaves_nothing(client: httpx.AsyncClient, publisher: Headers) -> None:
    packed_gzip, packed_zstd = gzip.compress(batch("a", 500)), zstandard.compress(batch("a", 500))
    flipped = bytes([*packed_gzip[:200], packed_gzip[200] ^ 0xFF, *packed_gzip[201:]])
    for encoding, body, reason in (
        ("gzip", packed_gzip[:-9], "ends early"),
        ("gzip", packed_gzip[:40], "ends early"),
        ("gzip", b"", "ends early"),
        ("gzip", batch("a"), "broken gzip"),
        ("gzip", flipped, "broken gzip"),
        ("gzip", packed_gzip + b"rest", "broken gzip"),
        ("zstd", packed_zstd[:-3], "ends early"),
        ("zstd", batch("a"), "broken zstd"),
        ("zstd", packed_zstd + b"rest", "broken zstd"),
        ("br", b"", "br"),
        ("gzip, gzip", gzip.compress(packed_gzip), "gzip, gzip"),
    ):
        error = error_of(await post_files(client, body, publisher, encoding), 422)
        assert error["code"] == "BAD_INPUT"
        assert error["field"] == ("body" if encoding in ("gzip", "zstd") else "Content-Encoding")
        assert reason in error["value"], (encoding, error)
        assert error["expected"]
    report = (await post_files(client, batch("a", 1), publisher)).json()
    assert (report["added"], report["revisions"]) == (1, {"aurora": 1})


@pytest.mark.usefixtures("registered")
async def test_a_small_body_that_unpacks_to_a_huge_line_is_refused(
    client: httpx.AsyncClient, publisher: Headers
) -> None:
    for encoding, body in (
        ("gzip", gzip.compress(bytes(100_000_000))),
        ("zstd", zstandard.compress(bytes(100_000_000))),
    ):
        error = error_of(await post_files(client, body, publisher, encoding), 422)
        assert (error["value"], error["expected"]) == ("'a longer line'", "at most 1000000 bytes")


@pytest.mark.usefixtures("registered")
async def test_a_connection_that_breaks_in_the_body_leaves_nothing(
    client: httpx.AsyncClient, publisher: Headers
) -> None:
    address = urlsplit(str(client.base_url))
    head = (
        "POST /api/v1/files HTTP/1.1\r\nHost: test\r\nContent-Length: 1000000\r\nAuthorization: {authorization}\r\n\r\n"
    )
    for _ in range(3):
        with socket.create_connection((address.hostname, address.port)) as connection:
            connection.sendall(head.format(**publisher).encode() + batch("broken", 100))
    report = (await post_files(client, batch("whole"), publisher)).json()
    assert (report["added"], report["revisions"]) == (3, {"aurora": 1})


@pytest.mark.usefixtures("registered")
async def test_a_body_of_20_megabytes_is_taken_as_a_stream(client: httpx.AsyncClient, publisher: Headers) -> None:
    lines = [msgspec.json.encode(file_record(f"{at}.fits", warnings=["w" * 4000] * 100)) + b"\n" for at in range(50)]
    sent = 0

    async def body() -> AsyncIterator[bytes]:
        nonlocal sent
        for line in lines:
            sent += len(line)
            yield line

    report = (await post_files(client, body(), publisher)).json()
    assert sent > 20_000_000
    assert (report["received"], report["added"], report["rejected"]) == (50, 50, 0)


# --- what a scan asks and says --------------------------------------------------------------------------------------


def lines_of(answer: httpx.Response) -> list[dict[str, Any]]:
    """Return the lines of an answer, which must be NDJSON."""
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"] == "application/x-ndjson"
    return [json.loads(line) for line in answer.content.splitlines()]


@pytest.mark.usefixtures("registered")
async def test_a_publisher_is_told_where_its_storages_are(
    client: httpx.AsyncClient, admin: Headers, publisher: Headers
) -> None:
    await put(client, "/api/v1/storages/shared", Storage(name="shared", root="/data/shared"), admin)
    for name, headers in (("aurora-disk", publisher), ("shared", publisher), ("borealis-disk", admin)):
        answer = await client.get(f"/api/v1/storages/{name}", headers=headers)
        assert (answer.json()["name"], answer.json()["root"][:6]) == (name, "/data/")
    error = error_of(await client.get("/api/v1/storages/nowhere", headers=publisher), 404)
    assert error["message"] == "no storage 'nowhere'"


@pytest.mark.usefixtures("registered")
async def test_the_files_of_a_storage_are_listed_in_pages_without_nulls(
    client: httpx.AsyncClient, publisher: Headers
) -> None:
    names = ["a-b", "a/b", "a0", "é", "b", "B"]
    full = file_record("full", sha256="ab" * 32, modified_at=datetime(2020, 1, 2, tzinfo=UTC), description="d@1")
    await post_files(client, ndjson([full, *map(file_record, names)]), publisher)
    address = "/api/v1/storages/aurora-disk/files"
    told = lines_of(await client.get(address, headers=publisher))
    assert [line["path"] for line in told] == sorted(["full", *names], key=str.encode)
    by_path = {line.pop("path"): line for line in told}
    assert by_path["é"] == {"size_bytes": 1000, "facility": "aurora"}
    checked_at = datetime.fromisoformat(by_path["full"].pop("checked_at"))
    assert abs((datetime.now(UTC) - checked_at).total_seconds()) < 60
    assert by_path["full"] == {
        "size_bytes": 1000,
        "facility": "aurora",
        "modified_at": "2020-01-02T00:00:00Z",
        "sha256": "ab" * 32,
        "description": "d@1",
    }
    page = lines_of(await client.get(address, params={"after": "a/b", "limit": 2}, headers=publisher))
    assert [line["path"] for line in page] == ["a0", "b"]
    assert lines_of(await client.get(address, params={"after": "é"}, headers=publisher)) == []


@pytest.mark.usefixtures("registered")
async def test_a_page_that_cannot_be_is_refused(client: httpx.AsyncClient, publisher: Headers) -> None:
    for path, field, value in (
        ("storages/aurora-disk/files?limit=0", "limit", "0"),
        ("storages/aurora-disk/files?limit=10001", "limit", "10001"),
        ("storages/aurora-disk/files?limit=many", "limit", "'many'"),
        ("storages/aurora-disk/files?limit=%D9%A1", "limit", "'\u0661'"),
        ("storages/aurora-disk/files?after=a%00", "after", "'a\\x00'"),
        ("failures?limit=501", "limit", "501"),
        ("failures?after=-1", "after", "'-1'"),
        ("failures?storage=%00", "storage", "'\\x00'"),
    ):
        error = error_of(await client.get(f"/api/v1/{path}", headers=publisher), 422)
        assert (error["field"], error["value"]) == (field, value)
        assert error["expected"]
    error = error_of(await client.delete("/api/v1/failures/all", headers=publisher), 422)
    assert (error["field"], error["value"]) == ("id", "'all'")


@pytest.mark.usefixtures("registered")
async def test_removals_are_reported_and_can_be_sent_again(client: httpx.AsyncClient, publisher: Headers) -> None:
    await post_files(client, batch("a"), publisher)
    removals = [
        Removal(facility="aurora", storage="aurora-disk", path="a/run_0.fits"),
        Removal(facility="aurora", storage="aurora-disk", path="a/run_1.fits", size_bytes=1),
        Removal(facility="borealis", storage="borealis-disk", path="a"),
    ]
    body = zstandard.compress(b"\n".join(map(msgspec.json.encode, removals)))
    headers = publisher | {"content-encoding": "zstd"}
    told = [(await client.post("/api/v1/removals", content=body, headers=headers)).json() for _ in range(2)]
    names = ("received", "removed", "kept", "unknown", "rejected", "revisions")
    assert [[report[name] for name in names] for report in told] == [
        [3, 1, 1, 0, 1, {"aurora": 2}],
        [3, 0, 1, 1, 1, {"aurora": 2}],
    ]
    assert told[0]["rejections"][0]["field"] == "facility"


@pytest.mark.usefixtures("registered")
async def test_failures_are_kept_told_and_dismissed(
    client: httpx.AsyncClient, admin: Headers, publisher: Headers
) -> None:
    failure = Failure(facility="aurora", storage="aurora-disk", path="a", reason="content: ends early")
    answer = await client.post("/api/v1/failures", content=msgspec.json.encode(failure), headers=publisher)
    assert answer.json() == {"received": 1, "kept": 1, "rejected": 0, "rejections": []}
    other = file_record("b", facility="borealis", storage="borealis-disk", cluster="nowhere")
    await post_files(client, ndjson([other]), admin)
    [mine] = lines_of(await client.get("/api/v1/failures", headers=publisher))
    assert (mine["stage"], mine["path"], mine["reason"], "line" in mine) == ("extraction", "a", failure.reason, False)
    [its] = lines_of(await client.get("/api/v1/failures?facility=borealis", headers=admin))
    assert (its["stage"], its["field"], json.loads(its["line"])["cluster"]) == ("ingest", "cluster", "nowhere")
    assert len(lines_of(await client.get("/api/v1/failures", headers=admin))) == 2
    assert lines_of(await client.get("/api/v1/failures", params={"after": its["id"]}, headers=admin)) == []
    assert lines_of(await client.get("/api/v1/failures?storage=borealis-disk", headers=publisher)) == []
    assert error_of(await client.delete(f"/api/v1/failures/{its['id']}", headers=publisher), 404)
    answer = await client.delete(f"/api/v1/failures/{mine['id']}", headers=publisher)
    assert (answer.status_code, answer.content) == (204, b"")
    assert error_of(await client.delete(f"/api/v1/failures/{mine['id']}", headers=publisher), 404)


# --- lists of alerts ------------------------------------------------------------------------------------------------

ALERTS = [
    {"time": "2019-11-02T12:00:00.000000Z", "ra_deg": 83.6, "dec_deg": 22.0},
    {"time": "2019-11-03T00:00:00.000000Z"},
]
TABLE = b"time,ra,dec,name\n2019-11-03,,,second\n2019-11-02T12:00,83.6,22,first\n"


async def post_alerts(client: httpx.AsyncClient, body: bytes | AsyncIterator[bytes], **headers: str) -> httpx.Response:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return await client.post("/api/v1/alerts", content=body, headers=named)


async def test_anybody_keeps_a_list_of_alerts_which_has_one_id_in_every_format(client: httpx.AsyncClient) -> None:
    answers = [
        await post_alerts(client, TABLE),
        await post_alerts(client, TABLE.replace(b",", b";"), content_type="text/csv"),
        await post_alerts(client, gzip.compress(TABLE), content_encoding="gzip"),
        await post_alerts(client, zstandard.compress(TABLE), content_encoding="zstd", content_type="text/csv"),
        await post_alerts(client, json.dumps(ALERTS).encode(), content_type="application/json"),
        await post_alerts(client, json.dumps(ALERTS[::-1] * 2).encode()),
    ]
    assert [answer.status_code for answer in answers] == [200] * len(answers)
    told = [answer.json() for answer in answers]
    assert told == [{"id": told[0]["id"], "alerts": 2}] * len(answers)
    shown = await client.get(f"/api/v1/alerts/{told[0]['id']}")
    assert (shown.status_code, shown.json()) == (200, ALERTS)
    assert (await post_alerts(client, shown.content)).json() == told[0]


async def test_a_bad_list_of_alerts_is_refused_by_line_field_value_and_expectation(client: httpx.AsyncClient) -> None:
    for answer, field, value, expected in (
        (await post_alerts(client, b"time,ra,dec\n2019-11-02,400,0\n"), "line 2, ra", "400.0", "0 to 360"),
        (await post_alerts(client, TABLE, content_type="text/xml"), "body", "malformed XML", "VOEvents"),
        (await post_alerts(client, b""), "line 1", "''", "trigger_time"),
        (await post_alerts(client, TABLE, content_encoding="br"), "Content-Encoding", "'br'", "gzip, zstd"),
    ):
        error = error_of(answer, 422)
        assert (error["code"], error["field"]) == ("BAD_INPUT", field)
        assert value in error["value"]
        assert expected in error["expected"]


async def test_a_list_that_is_too_long_is_refused_before_it_is_there(client: httpx.AsyncClient) -> None:
    sent = 0

    async def endless() -> AsyncIterator[bytes]:
        nonlocal sent
        while sent < 100_000_000:
            sent += 65536
            yield b"x" * 65536

    bomb = gzip.compress(bytes(100_000_000))
    for answer in (await post_alerts(client, bomb, content_encoding="gzip"), await post_alerts(client, endless())):
        error = error_of(answer, 422)
        assert (error["field"], error["value"]) == ("body", "'more than 1000000 bytes'")


async def test_a_list_of_alerts_that_nobody_sent_is_not_found(client: httpx.AsyncClient) -> None:
    for name in ("0" * 64, "nonsense", "%00", "%ff"):
        error = error_of(await client.get(f"/api/v1/alerts/{name}"), 404)
        assert (error["code"], error["message"][:13]) == ("NOT_FOUND", "no alert list")


# --- tokens ---------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("registered")
async def test_without_a_good_token_nothing_is_written(client: httpx.AsyncClient, tokens: TokenStore) -> None:
    revoked = await tokens.create(Role.ADMIN)
    await tokens.revoke(revoked.split("_")[1])
    good = await tokens.create(Role.ADMIN)
    wrong: list[Headers] = [
        {},
        {"authorization": ""},
        {"authorization": "Bearer"},
        {"authorization": good},
        {"authorization": f"Basic {good}"},
        {"authorization": f"Bearer {good[:-1]}"},
        {"authorization": f"Bearer catchment_{'0' * 12}_{'A' * 43}"},
        {"authorization": f"Bearer {revoked}"},
    ]
    storage = Storage(name="new", root="/new")
    for headers in wrong:
        for answer in (
            await post_files(client, batch("a"), headers),
            await put(client, "/api/v1/facilities/aurora", AURORA, headers),
            await put(client, "/api/v1/authorities/a", Authority(name="a"), headers),
            await put(client, "/api/v1/storages/new", storage, headers),
            await client.get("/api/v1/storages", headers=headers),
            await client.get("/api/v1/storages/aurora-disk", headers=headers),
            await client.get("/api/v1/storages/aurora-disk/files", headers=headers),
            await client.post("/api/v1/removals", content=b"", headers=headers),
            await client.get("/api/v1/failures", headers=headers),
            await client.post("/api/v1/failures", content=b"", headers=headers),
            await client.delete("/api/v1/failures/1", headers=headers),
        ):
            error = error_of(answer, 403)
            assert error["code"] == "PERMISSION_DENIED"
            assert good not in answer.text
            assert revoked not in answer.text
    lower = {"authorization": f"bearer  {good}"}
    assert (await post_files(client, batch("a"), lower)).json()["revisions"] == {"aurora": 1}


@pytest.mark.usefixtures("registered")
async def test_a_publisher_writes_its_own_facility_only(client: httpx.AsyncClient, publisher: Headers) -> None:
    assert (await put(client, "/api/v1/facilities/aurora", AURORA, publisher)).status_code == 200
    for answer, reason in (
        (await put(client, "/api/v1/facilities/borealis", BOREALIS, publisher), "facility borealis"),
        (await put(client, "/api/v1/storages/s", Storage(name="s", root="/"), publisher), "storage needs an admin"),
        (await put(client, "/api/v1/authorities/a", Authority(name="a"), publisher), "authority needs an admin"),
        (await client.get("/api/v1/storages", headers=publisher), "storages needs an admin"),
        (await client.get("/api/v1/storages/borealis-disk", headers=publisher), "may not write for borealis"),
        (await client.get("/api/v1/storages/borealis-disk/files", headers=publisher), "may not write for borealis"),
        (await client.get("/api/v1/failures?facility=borealis", headers=publisher), "facility borealis"),
    ):
        assert reason in error_of(answer, 403)["message"]
    other = ndjson([file_record("x", facility="borealis", storage="borealis-disk")])
    report = (await post_files(client, other, publisher)).json()
    assert (report["added"], report["rejected"], report["revisions"]) == (0, 1, {})


# --- vocabulary -----------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("registered")
async def test_registering_again_changes_nothing_and_is_shown_as_sent(
    client: httpx.AsyncClient, admin: Headers
) -> None:
    before = (await client.get("/api/v1/facilities/aurora")).content
    for _ in range(2):
        answer = await put(client, "/api/v1/facilities/aurora", AURORA, admin)
        assert msgspec.json.decode(answer.content, type=type(AURORA)) == AURORA
    assert (await client.get("/api/v1/facilities/aurora")).content == before
    names = [item["name"] for item in (await client.get("/api/v1/facilities")).json()]
    assert names == ["aurora", "borealis"]
    assert [item["name"] for item in (await client.get("/api/v1/authorities")).json()] == ["polar-council"]
    storages = (await client.get("/api/v1/storages", headers=admin)).json()
    assert [(item["name"], item["root"]) for item in storages] == [
        ("aurora-disk", "/data/aurora"),
        ("borealis-disk", "/data/borealis"),
    ]


BAD_DOCUMENTS = [
    ("facilities/new", b'{"name":"new","authority":"nobody"}', "authority", "'nobody'", "registered authority"),
    (
        "facilities/new",
        b'{"name":"new","detectors":[{"name":"d","cluster":"c"}]}',
        "detectors[0].cluster",
        "'c'",
        "a cluster of this facility",
    ),
    (
        "facilities/new",
        b'{"name":"new","channels":[{"name":"a"},{"name":"b","detector":"d"}]}',
        "channels[1].detector",
        "'d'",
        "a detector of this facility",
    ),
    (
        "facilities/aurora",
        b'{"name":"aurora","attributes":[{"name":"zenith_deg","type":"text"}]}',
        "attributes[0].type",
        "'text'",
        "number, as zenith_deg was declared before",
    ),
    ("facilities/new", b'{"name":"other"}', "name", "'other'", "the name in the address, new"),
    ("facilities/new", b'{"name":"new","latitude_deg":91}', "latitude_deg", "91", "<= 90"),
    (
        "facilities/new",
        b'{"name":"new","clusters":[{"name":"c"},{"name":"d","altitude_m":"high"}]}',
        "clusters[1].altitude_m",
        "'high'",
        "float",
    ),
    ("facilities/new", b'{"name":"new","colour":"red"}', "colour", "'red'", "unknown field"),
    (
        "facilities/new",
        b'{"name":"new","clusters":[{"name":"c","colour":"red"}]}',
        "clusters[0].colour",
        "'red'",
        "unknown field",
    ),
    ("facilities/new", b'{"title":"new"}', "name", "'nothing'", "missing required field"),
    ("facilities/new", b"[1]", "body", "[1]", "Expected `object`"),
    ("facilities/new", b"{", "body", "malformed JSON", "one JSON object"),
    ("facilities/new", b"\xff", "body", "malformed JSON", "one JSON object"),
    ("facilities/new", b"", "body", "malformed JSON", "one JSON object"),
    ("facilities/new", b'"' + b"x" * 1_000_001 + b'"', "body", "more than 1000000 bytes", "a shorter document"),
    ("facilities/new", b"[" * 100_000, "body", "malformed JSON", "one JSON object"),
    ("storages/new", b'{"name":"new","root":"data"}', "root", "'data'", "an absolute path"),
    (
        "storages/new",
        b'{"name":"new","root":"/d","facility":"nowhere"}',
        "facility",
        "'nowhere'",
        "registered facility",
    ),
    ("storages/new", b'{"name":"new","root":"/d","kind":"s3"}', "kind", "'s3'", "enum"),
    ("storages/new", b'{"name":"new"}', "root", "'nothing'", "missing required field"),
]


@pytest.mark.usefixtures("registered")
async def test_a_bad_document_is_refused_by_field_value_and_expectation(
    client: httpx.AsyncClient, admin: Headers
) -> None:
    before = (await client.get("/api/v1/facilities")).content
    for path, body, field, value, expected in BAD_DOCUMENTS:
        error = error_of(await put(client, f"/api/v1/{path}", body, admin), 422)
        assert (error["code"], error["field"]) == ("BAD_INPUT", field), error
        assert value in error["value"], error
        assert expected.lower() in error["expected"].lower(), error
        assert len(error["message"]) < 1000
    assert (await client.get("/api/v1/facilities")).content == before


@pytest.mark.usefixtures("registered")
async def test_a_remote_storage_has_an_address_and_never_a_secret(
    client: httpx.AsyncClient, admin: Headers, publisher: Headers
) -> None:
    for root in ("s3://bucket/a%20b", "https://example.org/dir/", "zip://a::s3://bucket/a.zip"):
        record = Storage(name="far", kind="remote", root=root, facility="aurora")
        answer = await put(client, "/api/v1/storages/far", record, admin)
        assert answer.status_code == 200, answer.text
        told = (await client.get("/api/v1/storages/far", headers=publisher)).json()
        assert (told["kind"], told["root"]) == ("remote", root)
    for root in (
        "s3://key:hunter2@bucket/",
        "sftp://hunter2@host/dir",
        "https://example.org/dir?token=hunter2",
        "https://example.org/dir#hunter2",
        "zip://a::https://me:hunter2@example.org/a.zip",
        "https://[hunter2",
    ):
        answer = await put(client, "/api/v1/storages/far", Storage(name="far", kind="remote", root=root), admin)
        error = error_of(answer, 422)
        assert (error["field"], "without user, password" in error["expected"]) == ("root", True)
        assert "hunter2" not in answer.text
    for root in ("/data", "bucket", "s3://", "s3:bucket", "s3://a b", "://bucket", "zip::bucket", "zip::/x::s3://b"):
        answer = await put(client, "/api/v1/storages/far", Storage(name="far", kind="remote", root=root), admin)
        error = error_of(answer, 422)
        assert (error["field"], error["value"], "s3://" in error["expected"]) == ("root", repr(root), True)
    answer = await put(client, "/api/v1/storages/near", Storage(name="near", root="s3://bucket"), admin)
    assert "absolute path" in error_of(answer, 422)["expected"]


async def test_what_there_is_not_is_not_found(client: httpx.AsyncClient) -> None:
    error = error_of(await client.get("/api/v1/facilities/nowhere"), 404)
    assert (error["code"], error["message"]) == ("NOT_FOUND", "no facility 'nowhere'")
    assert error_of(await client.get("/api/v1/nonsense"), 404)["code"] == "HTTP_404"
    assert error_of(await client.delete("/api/v1/files"), 405)["code"] == "HTTP_405"


# --- errors tell no secrets -----------------------------------------------------------------------------------------


@pytest.mark.usefixtures("registered")
async def test_without_its_database_the_service_says_try_again_and_nothing_else(
    client: httpx.AsyncClient, publisher: Headers, servers: EmbeddedServers, database_url: str
) -> None:
    name = re.search(r"/(test_\d+)\?", database_url)
    assert name is not None
    run_sql(servers.database_url, f"alter database {name[1]} allow_connections false")
    run_sql(servers.database_url, f"select pg_terminate_backend(pid) from pg_stat_activity where datname = '{name[1]}'")
    for answer in (
        await post_files(client, batch("a"), publisher),
        await put(client, "/api/v1/facilities/aurora", AURORA, publisher),
    ):
        error = error_of(answer, 503)
        assert error["code"] == "UNAVAILABLE"
        assert int(answer.headers["retry-after"]) > 0
        for secret in (database_url, name[1], "postgres", "psycopg", "sqlalchemy", publisher["authorization"][7:]):
            assert secret not in answer.text


# --- the description ------------------------------------------------------------------------------------------------


def references(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        yield from (item for key, item in value.items() if key == "$ref")
        for item in value.values():
            yield from references(item)
    elif isinstance(value, list):
        for item in value:
            yield from references(item)


def operations(document: dict[str, Any]) -> dict[tuple[str, str], dict[str, Any]]:
    return {(path, method): item for path, found in document["paths"].items() for method, item in found.items()}


async def test_the_description_is_served_and_holds_together(client: httpx.AsyncClient) -> None:
    document = (await client.get("/api/v1/openapi.json")).json()
    assert document == json.loads(json.dumps(openapi_document()))
    assert document["openapi"].startswith("3.1.")
    found = set(references(document))
    assert {"#/components/schemas/FileRecord", "#/components/schemas/Replica"} <= found
    for reference in found:
        target = document
        assert reference.startswith("#/")
        for step in reference[2:].split("/"):
            target = target[step]
    for (path, _), operation in operations(document).items():
        assert operation["summary"]
        assert all(response["description"] for response in operation["responses"].values())
        named = {item["name"] for item in operation.get("parameters", []) if item["in"] == "path"}
        assert named == set(re.findall(r"{(\w+)}", path))
        assert all(
            scheme in document["components"]["securitySchemes"] for item in operation["security"] for scheme in item
        )
    names = [operation["operationId"] for operation in operations(document).values()]
    assert len(names) == len(set(names)) == 16


async def test_the_description_names_every_field_of_a_record() -> None:
    schema = openapi_document()["components"]["schemas"]["FileRecord"]
    assert set(schema["properties"]) == set(FileRecord.__struct_fields__)
    assert set(schema["required"]) == {"facility", "storage", "path", "size_bytes"}


@pytest.mark.usefixtures("registered")
async def test_every_described_operation_exists_and_asks_for_a_token_as_described(client: httpx.AsyncClient) -> None:
    for (path, method), operation in operations(openapi_document()).items():
        answer = await client.request(method, path.replace("{name}", "aurora"))
        if operation["security"]:
            assert answer.status_code == 403
            assert "403" in operation["responses"]
        else:
            assert str(answer.status_code) in operation["responses"]
            assert answer.status_code not in (403, 405)
