"""Several web processes are one service: what one of them answers or takes in, all know."""

import asyncio
import os
import re
import signal
from collections.abc import Iterator
from pathlib import Path

import httpx
import msgspec
import psycopg
import pytest
import redis

from aggregator.embedded import find_running
from metadata_db.settings import CatalogueSettings
from tests.aggregator.commands.conftest import Catchment, Service, serving, wait_for
from tests.aggregator.commands.conftest import catchment as catchment
from tests.support.records import AURORA, file_record, ndjson

pytestmark = pytest.mark.anyio

AT_ONCE = 200
DIGITS = "8123456"
"""What the names of eleven files each begin with."""
DOCUMENT = """query ($path: String!) {
  search(filter: { path: [$path] }, prepare: NEVER) { totalCount { value } checksum files { nodes { path } } }
}"""


@pytest.fixture
def site(tmp_path: Path, catchment: Catchment) -> Iterator[Service]:
    """Four web processes on one address, and a few files."""
    arguments = ("--no-worker", "--processes", "4")
    with serving(tmp_path / "data", *arguments, CATCHMENT_LOG_LEVEL="DEBUG") as service:
        token = catchment("token", "create", "--admin", "--data-dir", service.data_dir).stdout.strip()
        with httpx.Client(base_url=service.url, trust_env=False, timeout=60) as client:
            client.headers["authorization"] = f"Bearer {token}"
            (service.data_dir / "token").write_text(token)
            put(client, "authorities/polar-council", {"name": "polar-council"})
            put(client, "facilities/aurora", msgspec.to_builtins(AURORA))
            put(client, "storages/aurora-disk", {"name": "aurora-disk", "root": "/data", "facility": "aurora"})
            records = ndjson(file_record(f"run_{number}.fits") for number in range(100))
            assert client.post("/api/v1/files", content=records).json()["added"] == 100
        yield service


def put(client: httpx.Client, path: str, content: object) -> None:
    answer = client.put(f"/api/v1/{path}", json=content)
    assert answer.status_code < 300, answer.text


async def ask(service: Service, path: str) -> httpx.Response | httpx.TransportError:
    """Ask over a connection of its own, which any of the processes may take."""
    try:
        async with httpx.AsyncClient(trust_env=False, timeout=60) as client:
            body = {"query": DOCUMENT, "variables": {"path": path}}
            return await client.post(f"{service.url}/graphql", json=body)
    except httpx.TransportError as error:
        return error


def log_of(service: Service) -> str:
    return (service.data_dir.parent / f"{service.data_dir.name}.log").read_text()


async def test_many_equal_searches_of_many_processes_are_looked_up_once(site: Service) -> None:
    answers = await asyncio.gather(*(ask(site, "*_7*") for _ in range(AT_ONCE)))
    (content,) = {answer.content for answer in answers if isinstance(answer, httpx.Response)}
    assert len(answers) == AT_ONCE
    assert msgspec.json.decode(content)["data"]["search"]["totalCount"]["value"] == 11
    assert log_of(site).count("executing an operation") == 1
    assert len(re.findall("looking up summary", log_of(site))) == 1


async def test_when_the_process_that_looks_up_is_killed_another_one_does_it(site: Service) -> None:
    running = find_running(site.data_dir)
    assert running is not None
    with (
        redis.Redis.from_url(running.redis_url) as cache,
        psycopg.connect(CatalogueSettings(database_url=running.database_url).libpq_url) as connection,
    ):

        def leaders() -> set[int]:
            values = [cache.get(key) for key in cache.scan_iter("lease:*")]
            return {int(value.split()[0]) for value in values if value and value != b"-"}

        for digit in DIGITS:
            connection.execute("lock table file in access exclusive mode")
            asking = [asyncio.create_task(ask(site, f"*_{digit}*")) for _ in range(40)]
            await asyncio.to_thread(wait_for, lambda: len(leaders()) == 1)
            (leader,) = leaders()
            if leader != site.process.pid:
                break
            # With the first process all would end: another question is led by another one, sooner or later.
            connection.rollback()
            await asyncio.gather(*asking)
            await asyncio.to_thread(wait_for, lambda: not leaders())
        assert leader != site.process.pid
        await asyncio.sleep(0.5)  # the others have come to wait
        os.kill(leader, signal.SIGKILL)
        connection.rollback()
        answers = await asyncio.gather(*asking)
    told = [answer for answer in answers if isinstance(answer, httpx.Response)]
    assert len({answer.content for answer in told}) == 1
    assert all(answer.status_code == 200 and b'"value":11' in answer.content for answer in told)
    assert 0 < len(told) < 40  # those of the killed process have lost their connection
    assert log_of(site).count("executing an operation") == DIGITS.index(digit) + 2


async def test_what_one_process_has_taken_in_all_tell_within_a_second(site: Service) -> None:
    await asyncio.gather(*(ask(site, "*_9*") for _ in range(40)))
    async with httpx.AsyncClient(trust_env=False, timeout=60) as client:
        headers = {"authorization": f"Bearer {(site.data_dir / 'token').read_text()}"}
        content = ndjson([file_record("new_9.fits")])
        assert (await client.post(f"{site.url}/api/v1/files", content=content, headers=headers)).status_code == 200
    await asyncio.sleep(1.0)
    answers = await asyncio.gather(*(ask(site, "*_9*") for _ in range(40)))
    assert all(isinstance(answer, httpx.Response) and b'"value":12' in answer.content for answer in answers)
