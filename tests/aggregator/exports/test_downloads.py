"""The routes below /exports/, over real HTTP, for our own client and for those that people have."""

import asyncio
import hashlib
import shutil
import socket
import tarfile
import xml.etree.ElementTree as ElementTree
import zipfile
from base64 import b64decode
from collections.abc import AsyncIterator, Sequence
from datetime import timedelta
from email.message import Message
from email.parser import BytesParser
from email.utils import format_datetime
from io import BytesIO
from pathlib import Path

import bagit
import httpx
import psutil
import pytest
import uvicorn
from starlette.applications import Starlette

from aggregator.exports.bag import is_read
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


KINDS = (".zip", ".tar", ".meta4", ".curl", ".aria2", ".sha256", ".md5", "/manifest.json")
PATHS = (
    *(".zip", ".tar", ".meta4", "/manifest.json"),
    f"/files/{STORAGE}/night/a.fits",
    f"/bag/data/{STORAGE}/ü b.h5",
    "/bag/README.txt",
)


async def test_everything_that_leaves_goes_by_the_same_rules(client: httpx.AsyncClient, export: Export) -> None:
    for path in PATHS:
        await check_rules(client, export, path)


async def check_rules(client: httpx.AsyncClient, export: Export, path: str) -> None:
    url = f"/exports/{export.id}{path}"
    get = await client.get(url)
    assert (get.status_code, get.headers["content-length"]) == (200, str(len(get.content)))
    assert get.headers["accept-ranges"] == "bytes"
    etag, modified = get.headers["etag"], get.headers["last-modified"]
    assert etag.startswith('"')
    if "repr-digest" in get.headers:
        assert b64decode(get.headers["repr-digest"][9:-1]) == hashlib.sha256(get.content).digest()
    else:
        assert path in (".zip", ".tar")
    # HEAD
    head = await client.head(url, headers={"Range": "bytes=0-1"})
    assert (head.status_code, head.content) == (200, b"")
    changing = {"date", "server"}
    assert {k: v for k, v in head.headers.items() if k not in changing} == {
        k: v for k, v in get.headers.items() if k not in changing
    }
    # parts
    size = len(get.content)
    part = await client.get(url, headers={"Range": f"bytes=1-{size - 2}"})
    assert (part.status_code, part.content) == (206, get.content[1:-1])
    assert part.headers["content-range"] == f"bytes 1-{size - 2}/{size}"
    beyond = await client.get(url, headers={"Range": f"bytes={size}-"})
    assert (beyond.status_code, beyond.headers["content-range"], beyond.content) == (416, f"bytes */{size}", b"")
    for ignored in ("lines=0-1", "bytes=2-1", "bytes=x"):
        assert (await client.get(url, headers={"Range": ignored})).status_code == 200
    # conditions
    later = format_datetime((export.completed_at or pytest.fail("no time")) + timedelta(days=1), usegmt=False)
    later = later.replace("+0000", "GMT")
    earlier = "Sun, 06 Nov 1994 08:49:37 GMT"
    for headers, status in (
        ({"If-None-Match": etag}, 304),
        ({"If-None-Match": "*"}, 304),
        ({"If-None-Match": f'"x", W/{etag}'}, 304),
        ({"If-Modified-Since": modified}, 304),
        ({"If-Modified-Since": later}, 304),
        ({"If-Modified-Since": earlier}, 200),
        ({"If-Modified-Since": later, "If-None-Match": '"x"'}, 200),
        ({"If-Match": '"x"'}, 412),
        ({"If-Match": f"W/{etag}"}, 412),
        ({"If-Match": etag, "If-Unmodified-Since": earlier}, 200),
        ({"If-Unmodified-Since": earlier}, 412),
        ({"If-Unmodified-Since": modified}, 200),
        ({"Range": "bytes=0-0", "If-Range": etag}, 206),
        ({"Range": "bytes=0-0", "If-Range": modified}, 206),
        ({"Range": "bytes=0-0", "If-Range": f"W/{etag}"}, 200),
        ({"Range": "bytes=0-0", "If-Range": earlier}, 200),
        ({"Range": f"bytes={size}-", "If-None-Match": etag}, 304),
        ({"Range": f"bytes={size}-", "If-Match": '"x"'}, 412),
    ):
        for method in ("GET", "HEAD"):
            answer = await client.request(method, url, headers=headers)
            assert answer.status_code == (200 if method == "HEAD" and status == 206 else status), headers
            assert answer.headers["etag"] == etag
            assert answer.content == b"" or answer.status_code in (200, 206)
    assert (await client.post(url)).status_code == 405


LARGE = (".zip", ".tar", f"/files/{STORAGE}/night/a.fits")


async def test_several_ranges_are_parts_of_one_answer(client: httpx.AsyncClient, export: Export) -> None:
    for path in LARGE:
        await check_several_ranges(client, f"/exports/{export.id}{path}")


async def check_several_ranges(client: httpx.AsyncClient, url: str) -> None:
    whole = await client.get(url)
    size = len(whole.content)
    spans = [(5000, 5999), (0, 9), (size - 10, size - 1)]
    asked = ",".join(f"{first}-{last}" for first, last in spans)
    answer = await client.get(url, headers={"Range": f"bytes={asked},{size}-"})
    assert (answer.status_code, answer.headers["content-length"]) == (206, str(len(answer.content)))
    assert "content-range" not in answer.headers
    parts = read_parts(answer)
    assert [part["content-range"] for part in parts] == [f"bytes {first}-{last}/{size}" for first, last in spans]
    assert [part.get_payload(decode=True) for part in parts] == [whole.content[a : b + 1] for a, b in spans]
    assert {part["content-type"] for part in parts} == {whole.headers["content-type"]}
    joined = await client.get(url, headers={"Range": "bytes=20-29,0-9,10-25"})
    assert (joined.status_code, joined.content) == (206, whole.content[:30])
    assert joined.headers["content-range"] == f"bytes 0-29/{size}"
    refused = await client.get(url, headers={"Range": "bytes=0-,0-,0-"})
    assert (refused.status_code, refused.headers["content-range"]) == (416, f"bytes */{size}")


def read_parts(answer: httpx.Response) -> list[Message]:
    head = f"Content-Type: {answer.headers['content-type']}\r\nContent-Transfer-Encoding: binary\r\n\r\n".encode()
    parts = BytesParser().parsebytes(head + answer.content).get_payload()
    assert isinstance(parts, list)
    return [part for part in parts if isinstance(part, Message)]


async def test_the_tar_holds_what_the_zip_holds(client: httpx.AsyncClient, export: Export) -> None:
    zipped = zipfile.ZipFile(BytesIO((await client.get(f"/exports/{export.id}.zip")).content))
    answer = await client.get(f"/exports/{export.id}.tar")
    assert answer.headers["content-type"] == "application/x-tar"
    with tarfile.open(fileobj=BytesIO(answer.content)) as tarred:
        streams = {name: tarred.extractfile(name) for name in tarred.getnames()}
        contents = {name: stream.read() for name, stream in streams.items() if stream is not None}
    assert contents == {name: zipped.read(name) for name in zipped.namelist()}
    for name, content in contents.items():
        assert (await client.get(f"/exports/{export.id}/bag/{name.partition('/')[2]}")).content == content


async def test_the_state_tells_where_everything_is(client: httpx.AsyncClient, export: Export) -> None:
    links = (await client.get(f"/exports/{export.id}")).json()["links"]
    assert set(links) == {"manifest", "zip", "tar", "meta4", "curl", "aria2", "sha256", "md5"}
    for address in links.values():
        assert (await client.head(address)).status_code == 200


# --- programs that people have ----------------------------------------------------------------------------------------


async def run(*command: str | Path, folder: Path, codes: Sequence[int] = (0,)) -> str:
    """Run a program while this process serves it."""
    program = shutil.which(command[0])
    if program is None:
        pytest.skip(f"{command[0]} is not installed")
    process = await asyncio.create_subprocess_exec(
        program, *command[1:], cwd=folder, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
    )
    output, _ = await asyncio.wait_for(process.communicate(), 60)
    assert process.returncode in codes, output.decode()
    return output.decode()


RESUMING = {
    "curl": ("curl", "--silent", "--show-error", "--noproxy", "*", "--continue-at", "-", "--output"),
    "wget": ("wget", "--quiet", "--no-proxy", "--continue", "--output-document"),
    "aria2": ("aria2c", "--quiet", "--no-conf", "--continue", "--split=8", "-k1M", "--allow-overwrite", "--out"),
}


@pytest.mark.parametrize("program", RESUMING)
async def test_a_download_that_was_broken_off_is_continued(
    client: httpx.AsyncClient, export: Export, tmp_path: Path, program: str
) -> None:
    for path in LARGE:
        url = f"/exports/{export.id}{path}"
        whole = (await client.get(url)).content
        (tmp_path / "part").write_bytes(whole[: len(whole) // 3])
        await run(*RESUMING[program], "part", f"{client.base_url}{url}", folder=tmp_path)
        assert (tmp_path / "part").read_bytes() == whole


FETCHING = {
    "curl": ("curl", "--silent", "--show-error", "--noproxy", "*", "--config"),
    "aria2": ("aria2c", "--quiet", "--no-conf", "--check-integrity", "--input-file"),
    "meta4": ("aria2c", "--quiet", "--no-conf", "--check-integrity", "--metalink-file"),
}
ODD = {
    "a b/#1 [2] {3}.fits": b"1",
    'it\'s "quoted" & <odd>': b"2",
    "-rf": b"3",
    "ü\\n.h5": b"4",
    "50%/$HOME": b"5",
    "Ü": b"6",
    "ü": b"7",
}


@pytest.mark.parametrize("program", FETCHING)
async def test_a_list_fetches_the_whole_bag(
    client: httpx.AsyncClient, world: World, tmp_path: Path, program: str
) -> None:
    # aria2 reads the escape of an ampersand in a Metalink as five letters; its own list has none.
    contents = {path: content for path, content in ODD.items() if program != "meta4" or "&" not in path}
    await world.add(contents)
    export = await world.stage((await world.request()).id)
    for ending in {program, "sha256", "md5"}:
        (tmp_path / f"list.{ending}").write_bytes((await client.get(f"/exports/{export.id}.{ending}")).content)
    target = tmp_path / "target"
    target.mkdir()
    await run(*FETCHING[program], tmp_path / f"list.{program}", folder=target)
    bagit.Bag(str(target / export.query_id)).validate()
    fetched = sorted(path.read_bytes() for path in target.glob(f"*/data/{STORAGE}/**/*") if path.is_file())
    assert fetched == sorted(contents.values())
    for check in ("sha256", "md5"):
        checked = await run(f"{check}sum", "--check", "--strict", tmp_path / f"list.{check}", folder=target)
        assert checked.count(": OK") == len([path for path in target.rglob("*") if path.is_file()])


async def test_a_metalink_is_what_its_standard_says(client: httpx.AsyncClient, world: World) -> None:
    await world.add(ODD)
    export = await world.stage((await world.request()).id)
    answer = await client.get(f"/exports/{export.id}.meta4")
    assert answer.headers["content-type"] == "application/metalink4+xml"
    space = "{urn:ietf:params:xml:ns:metalink}"
    root = ElementTree.fromstring(answer.content)
    assert root.tag == f"{space}metalink"
    files = root.findall(f"{space}file")
    assert len(files) > len(ODD)
    for file in files:
        content = (await client.get(file.findtext(f"{space}url") or "")).content
        assert len(content) == int(file.findtext(f"{space}size") or -1)
        hashes = {one.get("type"): one.text for one in file.findall(f"{space}hash")}
        assert hashes["sha-256"] == hashlib.sha256(content).hexdigest()
        assert hashes["md5"] == hashlib.md5(content).hexdigest()
        assert (file.get("name") or "").startswith(f"{export.query_id}/")


# --- ranges -----------------------------------------------------------------------------------------------------------


async def test_a_range_is_the_slice_of_the_whole(client: httpx.AsyncClient, export: Export) -> None:
    path = f"/exports/{export.id}.zip"
    whole = (await client.get(path)).content
    for spec in ("0-0", "0-99", "5-", "-7", "100000-1000000", "-99999999", "1000-99999999"):
        answer = await client.get(path, headers={"Range": f"bytes={spec}"})
        (asked,) = parse_ranges(f"bytes={spec}", len(whole))
        assert (answer.status_code, answer.content) == (206, whole[asked.start : asked.stop])
        assert answer.headers["content-range"] == f"bytes {asked.start}-{asked.stop - 1}/{len(whole)}"
        assert answer.headers["content-length"] == str(asked.size_bytes)


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


async def test_an_export_that_expired_and_is_staged_anew_comes_back_byte_for_byte(
    client: httpx.AsyncClient, export: Export, world: World
) -> None:
    before = {kind: (await client.get(f"/exports/{export.id}{kind}")) for kind in KINDS}
    await world.scalar("update export set state = 'EXPIRED' returning id")
    await world.scalar("with gone as (delete from stored_object) select 1")
    shutil.rmtree(world.buffer.root)
    world.buffer.prepare()
    assert (await client.get(f"/exports/{export.id}.tar")).status_code == 410
    await world.request()
    await world.stage(export.id)
    for kind in KINDS:
        after = await client.get(f"/exports/{export.id}{kind}")
        assert (after.status_code, after.content) == (200, before[kind].content)
        assert after.headers["etag"] == before[kind].headers["etag"]


async def test_a_transfer_under_way_when_the_export_expires_finishes_while_the_files_are_there(
    client: httpx.AsyncClient, export: Export, world: World
) -> None:
    path = f"/exports/{export.id}.tar"
    whole = (await client.get(path)).content
    async with client.stream("GET", path) as answer:
        blocks = answer.aiter_raw()
        arrived = await anext(blocks)
        await world.scalar("update export set state = 'EXPIRED' returning id")
        assert (await client.get(path)).status_code == 410
        arrived += await read_all(blocks)
    assert arrived == whole


async def test_a_transfer_whose_files_are_cleared_away_breaks_off_and_is_never_taken_for_whole(
    client: httpx.AsyncClient, world: World
) -> None:
    size = 8_000_000
    await world.add({f"{number}": bytes([number]) * size for number in range(4)})
    export = await world.stage((await world.request()).id)
    async with client.stream("GET", f"/exports/{export.id}.tar") as answer:
        blocks = answer.aiter_raw()
        await anext(blocks)
        shutil.rmtree(world.buffer.root / "objects")
        with pytest.raises(httpx.RemoteProtocolError, match="closed"):
            await read_all(blocks)


async def test_a_download_that_is_given_up_lets_go_of_everything(client: httpx.AsyncClient, world: World) -> None:
    await world.add({"large": bytes(20_000_000)})
    export = await world.stage((await world.request()).id)
    manifest = world.buffer.manifest_path(export.id)
    for kind in (".zip", ".tar", f"/files/{STORAGE}/large"):
        for _ in range(10):
            async with client.stream("GET", f"/exports/{export.id}{kind}") as answer:
                await anext(answer.aiter_raw())
    async with asyncio.timeout(10):
        while open_contents(world) or is_read(manifest, export.manifest_sha256 or ""):
            await asyncio.sleep(0.01)  # the server learns of it when it sends the next block


def open_contents(world: World) -> list[str]:
    paths = [one.path for one in psutil.Process().open_files() if one.path.startswith(str(world.buffer.root))]
    return [path for path in paths if not path.endswith("/index")]  # which is kept open, mapped


async def read_all(blocks: AsyncIterator[bytes]) -> bytes:
    return b"".join([block async for block in blocks])


async def test_many_clients_at_once_get_their_own_parts(client: httpx.AsyncClient, export: Export) -> None:
    path = f"/exports/{export.id}.zip"
    size = int((await client.head(path)).headers["content-length"])
    step = size // 16 + 1
    spans = [(at, min(at + step, size) - 1) for at in range(0, size, step)]
    answers = await asyncio.gather(
        *(client.get(path, headers={"Range": f"bytes={first}-{last}"}) for first, last in spans)
    )
    assert b"".join(answer.content for answer in answers) == (await client.get(path)).content
