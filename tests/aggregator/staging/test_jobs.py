"""Staging one export, in this process: what comes out for files that are right, wrong, or away."""

import hashlib
import os
from pathlib import Path

import pytest
import redis
from sqlalchemy.exc import IntegrityError

from aggregator.cache import Progress
from aggregator.citation import cite
from aggregator.controller import Answer, QuickResponse
from aggregator.errors import BufferFullError
from aggregator.exports.bag import bag_folder, write_bag
from aggregator.staging.facts import find_header
from aggregator.staging.jobs import IncompleteError
from aggregator.staging.ledger import ExportState
from aggregator.staging.manifest import Entry, Missing, Source, iter_entries, iter_missing, read_header
from aggregator.staging.mounts import StorageDownError
from metadata_db.catalogue import Summary
from metadata_db.records import Authority, Facility, FileRecord, Replica
from tests.aggregator.staging.world import EVERYTHING, FACILITY, STORAGE, World

pytestmark = pytest.mark.anyio

THREE = {"night/a.fits": b"first", "night/b.fits": b"second" * 300_000, "c ü.h5": b""}


def read_manifest(world: World, export_id: str) -> tuple[list[Entry], list[Missing]]:
    with world.buffer.manifest_path(export_id).open("rb") as stream:
        read_header(stream)
        return list(iter_entries(stream)), list(iter_missing(stream))


async def test_an_export_holds_every_file_of_its_answer(world: World) -> None:
    await world.add(THREE)
    export = await world.stage((await world.request()).id)
    assert (export.state, export.error) == (ExportState.COMPLETED, None)
    assert (export.files_done, export.files_failed) == (3, 0)
    assert export.bytes_done == sum(map(len, THREE.values()))
    assert world.files(export.id) == {f"{STORAGE}/{path}": content for path, content in THREE.items()}


async def test_the_manifest_says_what_is_there_and_names_the_bundle(world: World) -> None:
    await world.add(THREE)
    export = await world.stage((await world.request()).id)
    entries, missing = read_manifest(world, export.id)
    assert [entry.path for entry in entries] == sorted((f"{STORAGE}/{path}" for path in THREE), key=str.encode)
    assert missing == []
    for entry in entries:
        content = THREE[entry.source]
        assert entry.sha256 == hashlib.sha256(content).hexdigest()
        assert entry.md5 == hashlib.md5(content).hexdigest()
        assert (entry.size_bytes, entry.facility, entry.storage) == (len(content), FACILITY, STORAGE)
    assert export.manifest_sha256 == hashlib.sha256(world.buffer.manifest_path(export.id).read_bytes()).hexdigest()


async def test_staging_anew_into_an_empty_buffer_gives_the_same_manifest(world: World) -> None:
    await world.add(THREE)
    first = await world.stage((await world.request()).id)
    for state in ("EXPIRED", "INITIALIZED"):
        await world.scalar("update export set state = :state returning id", state=state)
    await world.scalar("with gone as (delete from export_file) select 1")
    await world.scalar("with gone as (delete from stored_object) select 1")
    world.settings.buffer_dir.rename(world.folder / "old")
    world.buffer.prepare()
    second = await world.stage(first.id)
    assert second.state is ExportState.COMPLETED
    assert second.manifest_sha256 == first.manifest_sha256


async def test_the_manifest_says_how_it_is_cited_and_what_the_authorities_ask_for(world: World) -> None:
    await world.vocabulary.put_authority(
        Authority(name="board", title="The board", licence="CC-BY-4.0", terms="Cite us.")
    )
    await world.vocabulary.put_facility(Facility(name=FACILITY, title="Aurora Array", authority="board"))
    await world.add(THREE)
    export = await world.stage((await world.request()).id)
    header = find_header(world.buffer.manifest_path(export.id))
    assert header is not None
    assert header.citation is not None
    assert header.sources == (
        Source(name=FACILITY, title="Aurora Array", authority="The board", licence="CC-BY-4.0", terms="Cite us."),
    )
    moment = await world.catalogue.moment()
    response = QuickResponse(
        answer=Answer.at(EVERYTHING, moment),
        summary=Summary(count=3, bytes=export.bytes_total, checksum=export.answer_checksum, is_estimate=False),
        cached=False,
        export=export,
    )
    at = await world.catalogue.time_of(moment.revision)
    assert header.citation.text == cite(response, await world.vocabulary.get(), at)


async def test_what_an_export_says_of_itself_stays_when_it_is_staged_anew(world: World) -> None:
    await world.add(THREE)
    first = await world.stage((await world.request()).id)
    await world.vocabulary.put_facility(Facility(name=FACILITY, title="A new name"))
    await world.scalar("update export set state = 'EXPIRED' returning id")
    await world.request()
    second = await world.stage(first.id)
    assert second.manifest_sha256 == first.manifest_sha256


async def test_files_that_some_system_could_not_tell_apart_get_names(world: World) -> None:
    await world.add({"Run": b"1", "run": b"2", "con.fits": b"3"})
    export = await world.stage((await world.request()).id)
    entries, _ = read_manifest(world, export.id)
    names = {entry.source: entry.name for entry in entries}
    assert (names["Run"], names["con.fits"]) == (None, f"{STORAGE}/con_.fits")
    assert (names["run"] or "").startswith(f"{STORAGE}/run~")
    assert export.manifest_sha256 == hashlib.sha256(world.buffer.manifest_path(export.id).read_bytes()).hexdigest()


async def test_the_bag_is_there_when_the_export_is_complete(world: World) -> None:
    await world.add(THREE)
    asked = await world.request()
    stager = world.stager(pack=write_bag)
    await stager.stage(asked.id, is_last_try=True)
    stager.close()
    export = await world.get(asked.id)
    folder = bag_folder(world.buffer.manifest_path(export.id), export.manifest_sha256 or "")
    assert (folder / "index").exists()


async def test_an_export_whose_bag_cannot_be_made_is_not_complete(world: World) -> None:
    def fail(_manifest: Path, _sha256: str) -> None:
        raise OSError("no room")

    await world.add(THREE)
    asked = await world.request()
    stager = world.stager(pack=fail)
    with pytest.raises(OSError, match="no room"):
        await stager.stage(asked.id, is_last_try=False)
    stager.close()
    assert (await world.get(asked.id)).state is ExportState.WRITING
    assert not world.buffer.manifest_path(asked.id).exists()


async def test_files_without_a_catalogued_checksum_get_one(world: World) -> None:
    await world.add({"a": b"content"}, with_sha256=False)
    export = await world.stage((await world.request()).id)
    entries, _ = read_manifest(world, export.id)
    assert entries[0].sha256 == hashlib.sha256(b"content").hexdigest()


async def test_vanished_truncated_and_changed_files_are_named_and_the_rest_is_complete(world: World) -> None:
    await world.add({name: name.encode() * 1000 for name in ("good", "vanished", "truncated", "changed")})
    (world.storage / "vanished").unlink()
    os.truncate(world.storage / "truncated", 17)
    (world.storage / "changed").write_bytes(b"changes" * 1000)
    export = await world.stage((await world.request()).id)
    assert (export.state, export.files_done, export.files_failed) == (ExportState.COMPLETED, 1, 3)
    _, missing = read_manifest(world, export.id)
    assert {one.path.split("/")[1]: one.reason for one in missing} == {
        "vanished": "not found",
        "truncated": "size is 17, catalogued as 9000",
        "changed": "sha256 differs from the catalogue: changed since it was catalogued",
    }
    assert list(world.files(export.id)) == [f"{STORAGE}/good"]


async def test_links_out_of_the_storage_pipes_and_folders_are_refused_with_the_reason(world: World) -> None:
    await world.add({name: name.encode() for name in ("good", "link", "folder", "pipe", "loop", "deep/link")})
    secret = world.folder / "secret"
    secret.write_bytes(b"link")  # what the catalogue expects: only the link is wrong
    for name in ("link", "folder", "pipe", "loop", "deep/link"):
        (world.storage / name).unlink()
    (world.storage / "link").symlink_to(secret)
    (world.storage / "folder").mkdir()
    os.mkfifo(world.storage / "pipe")
    (world.storage / "loop").symlink_to("loop")
    (world.storage / "deep").rmdir()
    (world.folder / "outside").mkdir()
    (world.folder / "outside" / "link").write_bytes(b"deep/link")
    (world.storage / "deep").symlink_to(world.folder / "outside")
    export = await world.stage((await world.request()).id)
    _, missing = read_manifest(world, export.id)
    assert {one.path.split("/", 1)[1]: one.reason for one in missing} == {
        "link": "leaves the storage through a symbolic link",
        "deep/link": "leaves the storage through a symbolic link",
        "loop": "leaves the storage through a symbolic link",
        "folder": "is not a regular file",
        "pipe": "is not a regular file",
    }
    assert world.files(export.id) == {f"{STORAGE}/good": b"good"}


async def test_a_replica_is_taken_when_the_first_place_fails(world: World) -> None:
    content = b"precious" * 1000
    await world.put_storage("mirror", world.folder / "mirror")
    (world.folder / "mirror" / "copy").write_bytes(content)
    replica = Replica(storage="mirror", path="copy")
    record = FileRecord(
        facility=FACILITY,
        storage=STORAGE,
        path="original",
        size_bytes=len(content),
        sha256=hashlib.sha256(content).hexdigest(),
        replicas=[replica],
    )
    await world.catalogue_records([record])
    (world.storage / "original").write_bytes(content[:-1] + b"!")
    export = await world.stage((await world.request()).id)
    assert world.files(export.id) == {f"{STORAGE}/original": content}


async def test_equal_contents_are_stored_once(world: World) -> None:
    await world.add({f"twin-{number}": b"same" for number in range(50)})
    export = await world.stage((await world.request()).id)
    inodes = {path.stat().st_ino for path in (world.buffer.export_path(export.id) / "files").rglob("twin-*")}
    assert (len(world.files(export.id)), len(inodes)) == (50, 1)


async def test_an_absent_storage_is_no_missing_file_and_staging_goes_on_when_it_is_back(world: World) -> None:
    await world.put_storage("mirror", world.folder / "mirror")
    await world.add({"here": b"here"})
    await world.add({"there": b"there"}, storage="mirror")
    (world.folder / "mirror").rename(world.folder / "unplugged")
    asked = await world.request()
    with pytest.raises(StorageDownError, match="storage mirror: storage root is not there"):
        await world.stage(asked.id, is_last_try=False)
    waiting = await world.get(asked.id)
    assert (waiting.state, waiting.files_done, waiting.files_failed) == (ExportState.WRITING, 1, 0)
    (world.folder / "unplugged").rename(world.folder / "mirror")
    export = await world.stage(asked.id)
    assert (export.state, export.files_done) == (ExportState.COMPLETED, 2)


async def test_an_unmounted_storage_is_down_not_empty(world: World) -> None:
    await world.add({"a": b"a"})
    (world.storage / "a").unlink()
    with pytest.raises(StorageDownError, match="as if it were not mounted"):
        await world.stage((await world.request()).id, is_last_try=False)


async def test_after_the_last_try_the_export_says_why_and_can_be_asked_for_again(world: World) -> None:
    await world.add({"a": b"a"})
    world.storage.rename(world.folder / "unplugged")
    failed = await world.stage((await world.request()).id)
    assert (failed.state, failed.error) == (ExportState.ERROR, f"storage {STORAGE}: storage root is not there")
    (world.folder / "unplugged").rename(world.storage)
    again = await world.request()
    assert (again.id, again.state, again.error) == (failed.id, ExportState.INITIALIZED, None)
    assert (await world.stage(again.id)).state is ExportState.COMPLETED


async def test_failures_are_tried_again_when_an_ended_export_is_asked_for(world: World) -> None:
    await world.add({"a": b"a", "b": b"b"})
    (world.storage / "b").rename(world.folder / "hidden")
    asked = await world.request()
    stager = world.stager()
    stager.drain()
    with pytest.raises(Exception, match="goes back to the queue"):
        await stager.stage(asked.id, is_last_try=False)
    stager.close()
    await world.ledger.cancel(asked.id)
    (world.folder / "hidden").rename(world.storage / "b")
    await world.request()
    assert (await world.stage(asked.id)).files_done == 2


async def test_an_empty_answer_is_a_complete_export(world: World) -> None:
    export = await world.stage((await world.request()).id)
    assert (export.state, export.files_done) == (ExportState.COMPLETED, 0)
    assert read_manifest(world, export.id) == ([], [])


async def test_a_cancelled_export_is_left_alone(world: World) -> None:
    await world.add({"a": b"a"})
    asked = await world.request()
    await world.ledger.cancel(asked.id)
    assert (await world.stage(asked.id)).state is ExportState.CANCELLED
    assert not world.buffer.manifest_path(asked.id).exists()


async def test_a_flushed_cache_changes_nothing(world: World) -> None:
    await world.add(THREE)
    asked = await world.request()
    client = redis.Redis.from_url(str(world.settings.redis_url))
    client.flushdb()
    export = await world.stage(asked.id)
    assert await world.cache.find_progress(asked.id) == Progress(
        files_done=3, bytes_done=export.bytes_done, files_failed=0
    )
    client.flushdb()
    assert (await world.request()).state is ExportState.COMPLETED
    assert await world.stage(asked.id) == await world.get(asked.id)
    client.close()


async def test_a_buffer_without_room_refuses_before_it_begins(world: World) -> None:
    size = 2**60
    await world.catalogue_records([FileRecord(facility=FACILITY, storage=STORAGE, path="huge", size_bytes=size)])
    with pytest.raises(BufferFullError, match=f"{size:,} are needed"):
        await world.stage((await world.request()).id, is_last_try=False)


async def test_a_buffer_that_somebody_tidied_up_is_filled_again(world: World) -> None:
    await world.add(THREE)
    asked = await world.request()
    world.storage.joinpath("night/a.fits").rename(world.folder / "later")
    await world.put_storage("mirror", world.folder / "mirror")
    await world.add({"x": b"x"}, storage="mirror")
    asked = await world.request()
    (world.folder / "mirror").rename(world.folder / "unplugged")
    with pytest.raises(StorageDownError):
        await world.stage(asked.id, is_last_try=False)
    (world.buffer.export_path(asked.id) / "files" / STORAGE / "c ü.h5").unlink()
    (world.folder / "unplugged").rename(world.folder / "mirror")
    with pytest.raises(IncompleteError, match="1 staged files are gone"):
        await world.stage(asked.id, is_last_try=False)
    assert not world.buffer.manifest_path(asked.id).exists()
    export = await world.stage(asked.id)
    assert (export.state, export.files_done, export.files_failed) == (ExportState.COMPLETED, 3, 1)
    assert f"{STORAGE}/c ü.h5" in world.files(export.id)


async def test_a_file_and_a_folder_of_one_name_do_not_spoil_the_export(world: World) -> None:
    await world.add({"a/b": b"inner"})
    await world.catalogue_records([FileRecord(facility=FACILITY, storage=STORAGE, path="a", size_bytes=1)])
    export = await world.stage((await world.request()).id)
    assert (export.state, export.files_failed) == (ExportState.COMPLETED, 1)


async def test_no_export_leaves_its_life_cycle(world: World) -> None:
    await world.add({"a": b"a"})
    asked = await world.request()
    with pytest.raises(IntegrityError, match="cannot go from INITIALIZED to COMPLETED"):
        await world.scalar("update export set state = 'COMPLETED' returning id")
    await world.stage(asked.id)
    with pytest.raises(IntegrityError, match="cannot go from COMPLETED to WRITING"):
        await world.scalar("update export set state = 'WRITING' returning id")
    changes = await world.scalar("select array_agg(detail ->> 'to' order by id) from change where kind = 'export'")
    assert changes == ["INITIALIZED", "WRITING", "COMPLETED"]


async def test_a_late_worker_cannot_end_the_next_life_of_an_export(world: World) -> None:
    await world.add({"a": b"a"})
    asked = await world.request()
    late = await world.ledger.begin(asked.id)
    assert late is not None
    await world.ledger.cancel(asked.id)
    await world.request()
    assert await world.ledger.begin(asked.id) is not None
    await world.ledger.fail(late, "I was asleep")
    async with world.ledger.completing(late, "0" * 64) as is_alive:
        assert not is_alive
    assert await world.ledger.record(late, []) is None
    assert (await world.get(asked.id)).state is ExportState.WRITING
