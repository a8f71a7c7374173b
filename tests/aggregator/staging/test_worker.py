"""The worker as a process of its own: killed, frozen, stopped, and left without its servers."""

import asyncio
import os
import signal
from pathlib import Path
from subprocess import Popen

import pytest

from aggregator.staging.ledger import ExportState
from tests.aggregator.staging.world import STORAGE, World

pytestmark = pytest.mark.anyio


def make_files(count: int, size: int) -> dict[str, bytes]:
    return {f"night/{number:04}.fits": number.to_bytes(4) * (size // 4) for number in range(count)}


def identities(folder: Path) -> dict[str, tuple[int, int]]:
    """Return inode and time of writing of every finished content."""
    return {
        path.name: (path.stat().st_ino, path.stat().st_mtime_ns) for path in folder.glob("objects/[0-9a-f][0-9a-f]/*")
    }


async def wait_for_objects(world: World, count: int) -> dict[str, tuple[int, int]]:
    async with asyncio.timeout(20):
        while len(found := identities(world.settings.buffer_dir)) < count:
            await asyncio.sleep(0.005)
    return found


def require_no_half_file(world: World, export_id: str, contents: dict[str, bytes]) -> None:
    for path, content in world.files(export_id).items():
        assert content == contents[path.removeprefix(f"{STORAGE}/")], path


async def test_a_worker_stages_what_is_queued_and_stops_when_told(world: World) -> None:
    contents = make_files(1000, 1000)
    await world.add(contents)
    asked = await world.request()
    with world.worker() as process:
        await world.wait_for(asked.id, ExportState.COMPLETED)
        assert resident_bytes(process) < 200_000_000
        assert await world.queue.workers_alive(within_s=5) == 1
        process.terminate()
        assert await asyncio.to_thread(process.wait, 10) == 0
    assert await world.queue.workers_alive(within_s=5) == 0
    assert await world.queue.queued() == 0
    assert len(world.files(asked.id)) == 1000


async def test_a_killed_worker_is_taken_over_and_copies_nothing_twice(world: World) -> None:
    contents = make_files(120, 1_000_000)
    await world.add(contents)
    asked = await world.request()
    with world.worker() as first:
        before = await wait_for_objects(world, 30)
        first.kill()
        await asyncio.to_thread(first.wait)
    before = identities(world.settings.buffer_dir)
    assert len(before) < len(contents), "the worker was too quick to be killed in the middle"
    assert (await world.get(asked.id)).state is ExportState.WRITING
    require_no_half_file(world, asked.id, contents)
    with world.worker():
        async with asyncio.timeout(30):
            while (await world.get(asked.id)).state is ExportState.WRITING:
                require_no_half_file(world, asked.id, contents)
                assert not world.buffer.manifest_path(asked.id).exists() or await is_complete(world, asked.id)
                await asyncio.sleep(0.05)
    export = await world.get(asked.id)
    assert (export.state, export.files_done, export.files_failed) == (ExportState.COMPLETED, 120, 0)
    after = identities(world.settings.buffer_dir)
    assert {name: after[name] for name in before} == before
    assert len(after) == len(contents)
    assert {path.removeprefix(f"{STORAGE}/"): data for path, data in world.files(asked.id).items()} == contents


async def is_complete(world: World, export_id: str) -> bool:
    """Tell whether an export is complete within the moment between its manifest's rename and its commit."""
    return (await world.wait_for(export_id, ExportState.COMPLETED, within_s=5)).state is ExportState.COMPLETED


async def test_a_worker_killed_again_and_again_still_gets_there(world: World) -> None:
    contents = make_files(150, 400_000)
    await world.add(contents)
    asked = await world.request()
    for kills in range(1, 20):
        with world.worker() as process:
            # Killed by what it has done, not by the clock: each one gets some files further than the one before.
            await wait_for_objects(world, min(50 * kills, len(contents)))
            process.kill()
            await asyncio.to_thread(process.wait)
        require_no_half_file(world, asked.id, contents)
        if 50 * kills >= len(contents):
            break
    with world.worker():
        await world.wait_for(asked.id, ExportState.COMPLETED)
    export = await world.get(asked.id)
    assert (export.state, export.files_done) == (ExportState.COMPLETED, 150)
    assert kills == 3


async def test_a_frozen_worker_that_wakes_up_changes_nothing(world: World) -> None:
    contents = make_files(120, 1_000_000)
    await world.add(contents)
    asked = await world.request()
    with world.worker() as frozen:
        await wait_for_objects(world, 20)
        frozen.send_signal(signal.SIGSTOP)
        with world.worker():
            export = await world.wait_for(asked.id, ExportState.COMPLETED)
            manifest = world.buffer.manifest_path(asked.id).stat()
            before = identities(world.settings.buffer_dir)
            frozen.send_signal(signal.SIGCONT)
            await asyncio.sleep(2)
            assert frozen.poll() is None, "a worker that was taken for dead must come back by itself"
            assert await world.get(asked.id) == export
            assert world.buffer.manifest_path(asked.id).stat() == manifest
            assert identities(world.settings.buffer_dir) == before
            assert await world.queue.queued() == 0
    assert len(world.files(asked.id)) == 120


async def test_a_stopping_worker_hands_its_export_to_the_next(world: World) -> None:
    contents = make_files(200, 1_000_000)
    await world.add(contents)
    asked = await world.request()
    with world.worker() as first:
        await wait_for_objects(world, 20)
        first.terminate()
        assert await asyncio.to_thread(first.wait, 10) == 0
    halfway = await world.get(asked.id)
    assert halfway.state is ExportState.WRITING
    assert halfway.files_done == len(world.files(asked.id)) < 200
    with world.worker():
        assert (await world.wait_for(asked.id, ExportState.COMPLETED)).files_done == 200


async def test_cancelling_is_noticed_between_files(world: World) -> None:
    await world.add(make_files(400, 1_000_000))
    asked = await world.request()
    with world.worker():
        await wait_for_objects(world, 10)
        await world.ledger.cancel(asked.id)
        await asyncio.sleep(1.5)
        stopped_at = len(identities(world.settings.buffer_dir))
        await asyncio.sleep(0.5)
        assert len(identities(world.settings.buffer_dir)) == stopped_at < 400
        assert (await world.get(asked.id)).state is ExportState.CANCELLED
        assert not world.buffer.manifest_path(asked.id).exists()


async def test_an_export_without_a_job_is_found_and_queued_again(world: World) -> None:
    await world.add(make_files(3, 100))
    asked = await world.request()
    await world.scalar("with gone as (delete from procrastinate_jobs) select 1")
    with world.worker():
        await world.wait_for(asked.id, ExportState.COMPLETED)


async def test_a_worker_survives_the_loss_of_its_connections(world: World) -> None:
    contents = make_files(150, 1_000_000)
    await world.add(contents)
    asked = await world.request()
    with world.worker() as process:
        await wait_for_objects(world, 20)
        others = "select count(pg_terminate_backend(pid)) from pg_stat_activity where pid <> pg_backend_pid() and "
        assert await world.scalar(others + "datname = current_database() and backend_type = 'client backend'") > 1
        export = await world.wait_for(asked.id, ExportState.COMPLETED)
        assert process.poll() is None
    assert export.files_done == 150


def resident_bytes(process: Popen[bytes]) -> int:
    pages = int(Path(f"/proc/{process.pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")
