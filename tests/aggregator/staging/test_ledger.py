"""The durable record of exports, asked by many at once and told the same thing twice."""

import asyncio

import pytest

from aggregator.staging.buffer import StoredObject
from aggregator.staging.ledger import Export, ExportState, StagedFile
from metadata_db.canonical import export_id
from metadata_db.errors import NotFoundError
from tests.aggregator.staging.world import EVERYTHING, STORAGE, World

pytestmark = pytest.mark.anyio


async def begin(world: World) -> Export:
    begun = await world.ledger.begin((await world.request()).id)
    assert begun is not None
    return begun


def staged(number: int, *, reason: str | None = None) -> StagedFile:
    stored = StoredObject(sha256=f"{number:064x}", size_bytes=10, crc32=number, md5=f"{number:032x}")
    return StagedFile(
        file_id=number,
        path=f"{STORAGE}/{number}",
        size_bytes=10,
        stored=None if reason else stored,
        reason=reason,
    )


async def file_ids(world: World) -> list[int]:
    ids: list[int] = await world.scalar("select array_agg(id order by path) from file")
    return ids


async def test_two_hundred_equal_requests_at_once_make_one_export_and_one_job(world: World) -> None:
    await world.add({"a": b"a"})
    await world.catalogue.register_query(EVERYTHING)
    found = await asyncio.gather(
        *(
            world.ledger.request(
                EVERYTHING.query_id, revisions={"aurora": 1}, answer_checksum="f" * 32, files_total=1, bytes_total=1
            )
            for _ in range(200)
        )
    )
    assert len({export.id for export in found}) == 1
    assert await world.scalar("select count(*) from export") == 1
    assert await world.scalar("select count(*) from procrastinate_jobs") == 1


async def test_asking_again_for_an_export_under_way_writes_nothing(world: World) -> None:
    first = await world.request()
    assert [await world.request() for _ in range(3)] == [first] * 3
    assert await world.scalar("select count(*) from change where kind = 'export'") == 1


async def test_an_ended_export_asked_for_by_many_is_begun_once_again(world: World) -> None:
    begun = await begin(world)
    await world.ledger.fail(begun, "no room")
    await world.scalar("with gone as (delete from procrastinate_jobs) select 1")
    found = await asyncio.gather(*(world.request() for _ in range(20)))
    assert {(export.id, export.state, export.error) for export in found} == {(begun.id, ExportState.INITIALIZED, None)}
    assert await world.scalar("select count(*) from procrastinate_jobs") == 1


async def test_an_unknown_question_has_no_export(world: World) -> None:
    with pytest.raises(NotFoundError, match="no query"):
        await world.ledger.request("0" * 32, revisions={}, answer_checksum="", files_total=0, bytes_total=0)
    assert await world.queue.queued() == 0


async def test_an_export_is_found_by_its_id_and_by_its_answer(world: World) -> None:
    asked = await world.request()
    assert asked.id == export_id(EVERYTHING.query_id, asked.answer_checksum)
    assert await world.ledger.find(asked.id) == asked
    assert await world.ledger.find_for_answer(asked.query_id, asked.answer_checksum) == asked
    assert await world.ledger.list(10) == [asked]
    assert await world.ledger.find("0" * 32) is None


async def test_a_batch_that_comes_twice_counts_once(world: World) -> None:
    await world.add({str(number): b"0123456789" for number in range(4)})
    begun, ids = await begin(world), await file_ids(world)
    batch = [staged(ids[0]), staged(ids[1]), staged(ids[2], reason="not found")]
    for _ in range(2):
        export = await world.ledger.record(begun, batch)
        assert export is not None
        assert (export.files_done, export.bytes_done, export.files_failed) == (2, 20, 1)
    export = await world.ledger.record(begun, [staged(ids[2]), staged(ids[3])])
    assert export is not None
    assert (export.files_done, export.files_failed) == (3, 1), "what was recorded first stays"


async def test_workers_that_record_equal_contents_at_once_do_not_block_each_other(world: World) -> None:
    await world.add({str(number): b"0123456789" for number in range(100)})
    begun, ids = await begin(world), await file_ids(world)
    batch = [staged(number) for number in ids]
    await asyncio.gather(*(world.ledger.record(begun, batch[::step]) for step in (1, -1, 1, -1)))
    assert (await world.get(begun.id)).files_done == 100


async def test_failures_are_forgotten_when_an_ended_export_is_asked_for_again(world: World) -> None:
    await world.add({"a": b"a", "b": b"b"})
    begun, ids = await begin(world), await file_ids(world)
    await world.ledger.record(begun, [staged(ids[0]), staged(ids[1], reason="not found")])
    await world.ledger.fail(begun, "storage away")
    again = await world.request()
    assert (again.files_done, again.files_failed) == (1, 0)
    assert await world.ledger.find_dealt_with(begun.id, ids) == {ids[0]}


async def test_nothing_is_taken_for_granted_when_an_expired_export_comes_back(world: World) -> None:
    await world.add({"a": b"a"})
    asked = await world.stage((await world.request()).id)
    await world.scalar("update export set state = 'EXPIRED' returning id")
    again = await world.request()
    assert (again.id, again.state, again.files_done) == (asked.id, ExportState.INITIALIZED, 0)


async def test_a_cancelled_export_has_no_job_and_cannot_be_begun(world: World) -> None:
    asked = await world.request()
    assert (await world.ledger.cancel(asked.id)).state is ExportState.CANCELLED
    assert await world.queue.queued() == 0
    assert await world.ledger.begin(asked.id) is None
    with pytest.raises(NotFoundError):
        await world.ledger.cancel("0" * 32)


async def test_a_complete_export_cannot_be_cancelled(world: World) -> None:
    export = await world.stage((await world.request()).id)
    assert (await world.ledger.cancel(export.id)).state is ExportState.COMPLETED


async def test_what_is_done_together_with_completing_is_undone_with_it(world: World) -> None:
    begun = await begin(world)

    async def complete_on_a_full_disk() -> None:
        async with world.ledger.completing(begun, "f" * 64) as is_alive:
            assert is_alive
            raise OSError("disk")

    with pytest.raises(OSError, match="disk"):
        await complete_on_a_full_disk()
    assert (await world.get(begun.id)).state is ExportState.WRITING


async def test_a_running_export_is_no_orphan_and_one_without_a_job_is(world: World) -> None:
    asked = await world.request()
    assert await world.ledger.requeue_orphans() == []
    await world.scalar("with gone as (delete from procrastinate_jobs) select 1")
    assert await world.ledger.requeue_orphans() == [asked.id]
    assert await world.ledger.requeue_orphans() == []
