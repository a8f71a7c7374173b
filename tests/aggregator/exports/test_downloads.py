"""The routes below /exports/, over real HTTP."""

import asyncio
import hashlib
import socket
import zipfile
from collections.abc import AsyncIterator
from io import BytesIO
from pathlib import Path

import httpx
import pytest
import uvicorn
from starlette.applications import Starlette

from aggregator.exports.downloads import routes
from aggregator.exports.ranges import parse_ranges
from aggregator.exports.verification import verify_zip
from aggregator.staging.ledger import Export
from tests.aggregator.staging.world import STORAGE, World

pytestmark = pytest.mark.anyio

CONTENTS = {"night/a.fits": b"0123456789" * 100_000, "ü b.h5": b"second", "empty": b""}


@pytest.fixture
async def client(world: World) -> AsyncIterator[httpx.AsyncClient]:
    server = uvicorn.Server(
        uvicorn.Config(Starlette(routes=routes(world.ledger, world.buffer)), log_level="warning", lifespan="off")
    )
    with socket.create_server(("127.0.0.1", 0)) as listening:
        serving = asyncio.create_task(server.serve(sockets=[listening]))
        url = f"http://127.0.0.1:{listening.getsockname()[1]}"
        async with httpx.AsyncClient(base_url=url, trust_env=False) as opened:
            yield opened
        server.should_exit = True
        await serving


@pytest.fixture
async def export(world: World) -> Export:
    await world.add(CONTENTS)
    return await world.stage((await world.request()).id)


async def test_the_archive_is_whole_named_and_safe_to_open(
    client: httpx.AsyncClient, export: Export, tmp_path: Path
) -> None:
    answer = await client.get(f"/exports/{export.id}.zip")
    assert answer.status_code == 200
    assert answer.headers["content-length"] == str(len(answer.content))
    assert answer.headers["etag"].startswith(f'"{export.manifest_sha256}-zip')
    assert answer.headers["accept-ranges"] == "bytes"
    assert answer.headers["content-type"] == "application/zip"
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["content-disposition"] == f'attachment; filename="{export.query_id}.zip"'
    (tmp_path / "all.zip").write_bytes(answer.content)
    found = verify_zip(tmp_path / "all.zip")
    assert (found.is_good, found.files) == (True, 3)


async def test_head_tells_the_same_without_the_bytes(client: httpx.AsyncClient, export: Export) -> None:
    for path in (f"/exports/{export.id}.zip", f"/exports/{export.id}/files/{STORAGE}/night/a.fits"):
        head, get = await client.head(path), await client.get(path)
        assert (head.status_code, head.content) == (200, b"")
        same = ("content-length", "etag", "content-type", "content-disposition")
        assert [head.headers[name] for name in same] == [get.headers[name] for name in same]
        assert (await client.head(path, headers={"Range": "bytes=0-1"})).status_code == 200


@pytest.mark.parametrize(
    "spec", ["0-0", "0-99", "5-", "-7", "100000-1300000", "-99999999", "1000-99999999", "bytes = 3-4"]
)
async def test_a_range_is_the_slice_of_the_whole(client: httpx.AsyncClient, export: Export, spec: str) -> None:
    path = f"/exports/{export.id}.zip"
    whole = (await client.get(path)).content
    header = spec if "=" in spec else f"bytes={spec}"
    answer = await client.get(path, headers={"Range": header})
    asked = parse_ranges(header, len(whole))
    if not asked:
        assert (answer.status_code, answer.content) == (200, whole)
        return
    start, stop = asked[0].start, asked[0].stop
    assert answer.status_code == 206
    assert answer.content == whole[start:stop]
    assert answer.headers["content-range"] == f"bytes {start}-{stop - 1}/{len(whole)}"
    assert answer.headers["content-length"] == str(stop - start)


async def test_a_range_behind_the_end_is_refused_with_the_length(client: httpx.AsyncClient, export: Export) -> None:
    path = f"/exports/{export.id}/files/{STORAGE}/ü b.h5"
    for spec in ("bytes=6-", "bytes=-0", "bytes=99-100"):
        answer = await client.get(path, headers={"Range": spec})
        assert (answer.status_code, answer.headers["content-range"]) == (416, "bytes */6")


async def test_an_interrupted_download_goes_on_only_while_nothing_changed(
    client: httpx.AsyncClient, export: Export
) -> None:
    path = f"/exports/{export.id}.zip"
    whole = await client.get(path)
    part = {"Range": "bytes=1000-"}
    same = await client.get(path, headers=part | {"If-Range": whole.headers["etag"]})
    assert (same.status_code, same.content) == (206, whole.content[1000:])
    for other in ('"other"', "W/" + whole.headers["etag"], "Wed, 21 Oct 2015 07:28:00 GMT"):
        changed = await client.get(path, headers=part | {"If-Range": other})
        assert (changed.status_code, len(changed.content)) == (200, len(whole.content))


async def test_conditions_are_kept(client: httpx.AsyncClient, export: Export) -> None:
    path = f"/exports/{export.id}/manifest.json"
    etag = (await client.get(path)).headers["etag"]
    assert (await client.get(path, headers={"If-None-Match": f'"x", W/{etag}'})).status_code == 304
    assert (await client.get(path, headers={"If-None-Match": '"x"'})).status_code == 200
    assert (await client.get(path, headers={"If-Match": '"x"'})).status_code == 412
    assert (await client.get(path, headers={"If-Match": f"W/{etag}"})).status_code == 412
    assert (await client.get(path, headers={"If-Match": etag})).status_code == 200


async def test_every_file_can_be_had_by_its_path(client: httpx.AsyncClient, export: Export) -> None:
    for path, content in CONTENTS.items():
        answer = await client.get(f"/exports/{export.id}/files/{STORAGE}/{path}")
        assert (answer.status_code, answer.content) == (200, content)
        assert answer.headers["etag"] == f'"{hashlib.sha256(content).hexdigest()}"'
        assert answer.headers["content-disposition"].startswith("attachment;")


async def test_manifest_state_and_list_tell_the_same(client: httpx.AsyncClient, export: Export, world: World) -> None:
    manifest = await client.get(f"/exports/{export.id}/manifest.json")
    assert manifest.content == world.buffer.manifest_path(export.id).read_bytes()
    assert [entry["source"] for entry in manifest.json()["files"]] == ["empty", "night/a.fits", "ü b.h5"]
    state = (await client.get(f"/exports/{export.id}")).json()
    assert (state["state"], state["files_done"], state["query_id"]) == ("COMPLETED", 3, export.query_id)
    lines = (await client.get(f"/exports/{export.id}/")).text.splitlines()
    assert len(lines) == 3


async def test_nothing_outside_the_export_can_be_had(client: httpx.AsyncClient, export: Export, world: World) -> None:
    (world.buffer.export_path(export.id) / "secret").write_bytes(b"secret")
    (world.buffer.export_path(export.id) / "files" / STORAGE / "link").symlink_to(world.folder)
    for path in (
        "../secret",
        "%2e%2e/secret",
        "..%2f..%2f..%2fdata",
        f"{STORAGE}/../../secret",
        "/etc/passwd",
        "%2fetc%2fpasswd",
        f"{STORAGE}/night",
        f"{STORAGE}/link/storage/empty",
        f"{STORAGE}/%00",
        "",
    ):
        request = client.build_request("GET", "/")
        request.url = httpx.URL(str(client.base_url) + f"/exports/{export.id}/files/{path}")
        assert (await client.send(request)).status_code == 404, path


async def test_a_link_put_into_the_export_is_not_followed(
    client: httpx.AsyncClient, export: Export, world: World
) -> None:
    target = world.buffer.export_path(export.id) / "files" / STORAGE / "ü b.h5"
    target.unlink()
    (world.folder / "secret").write_bytes(b"secret")
    target.symlink_to(world.folder / "secret")
    assert (await client.get(f"/exports/{export.id}/files/{STORAGE}/ü b.h5")).status_code == 410


async def test_what_is_not_complete_says_so(client: httpx.AsyncClient, world: World) -> None:
    await world.add(CONTENTS)
    asked = await world.request()
    for path in (f"/exports/{asked.id}.zip", f"/exports/{asked.id}/manifest.json"):
        answer = await client.get(path)
        assert (answer.status_code, answer.headers["retry-after"]) == (409, "2")
        error = answer.json()["error"]
        assert (error["code"], error["state"]) == ("NOT_READY", "INITIALIZED")


async def test_a_staged_file_can_be_had_before_the_export_is_complete(client: httpx.AsyncClient, world: World) -> None:
    await world.put_storage("mirror", world.folder / "mirror")
    await world.add({"early": b"early"})
    await world.add({"late": b"late"}, storage="mirror")
    (world.folder / "mirror").rename(world.folder / "unplugged")
    asked = await world.request()
    with pytest.raises(Exception, match="mirror"):
        await world.stage(asked.id, is_last_try=False)
    assert (await client.get(f"/exports/{asked.id}/files/{STORAGE}/early")).content == b"early"
    assert (await client.get(f"/exports/{asked.id}/files/mirror/late")).status_code == 409


async def test_a_file_that_could_not_be_had_says_why(client: httpx.AsyncClient, world: World) -> None:
    await world.add({"a": b"a", "b": b"b"})
    (world.storage / "b").unlink()
    export = await world.stage((await world.request()).id)
    answer = await client.get(f"/exports/{export.id}/files/{STORAGE}/b")
    assert answer.status_code == 404
    assert answer.json()["error"] == {
        "code": "FILE_MISSING",
        "message": "the file could not be had: not found",
        "path": f"{STORAGE}/b",
    }


async def test_unknown_and_expired_exports_are_told_apart(
    client: httpx.AsyncClient, export: Export, world: World
) -> None:
    for unknown in ("0" * 32, "..", "x", "0" * 33):
        for path in (f"/exports/{unknown}.zip", f"/exports/{unknown}/manifest.json"):
            assert (await client.get(path)).status_code == 404
    await world.scalar("update export set state = 'EXPIRED' returning id")
    answer = await client.get(f"/exports/{export.id}.zip")
    assert (answer.status_code, answer.json()["error"]["code"]) == (410, "EXPIRED")


async def test_use_is_noted(client: httpx.AsyncClient, export: Export, world: World) -> None:
    await world.scalar("update export set last_used_at = now() - interval '1 day' returning id")
    await client.get(f"/exports/{export.id}.zip")
    assert await world.scalar("select last_used_at > now() - interval '1 minute' from export")


async def test_an_export_that_was_staged_anew_is_served_anew(
    client: httpx.AsyncClient, export: Export, world: World
) -> None:
    before = (await client.get(f"/exports/{export.id}.zip")).content
    await world.scalar("update export set state = 'EXPIRED' returning id")
    world.buffer.manifest_path(export.id).unlink()
    await world.request()
    await world.stage(export.id)
    after = await client.get(f"/exports/{export.id}.zip")
    assert (after.status_code, after.content) == (200, before)
    assert zipfile.ZipFile(BytesIO(before)).testzip() is None


async def test_many_clients_at_once_get_their_own_parts(client: httpx.AsyncClient, export: Export) -> None:
    path = f"/exports/{export.id}.zip"
    size = int((await client.head(path)).headers["content-length"])
    step = size // 16 + 1
    spans = [(at, min(at + step, size) - 1) for at in range(0, size, step)]
    answers = await asyncio.gather(
        *(client.get(path, headers={"Range": f"bytes={first}-{last}"}) for first, last in spans)
    )
    assert b"".join(answer.content for answer in answers) == (await client.get(path)).content
