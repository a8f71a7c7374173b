from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.aggregator.staging.world import World, open_world


@pytest.fixture
async def world(anyio_backend: str, database_url: str, redis_url: str, tmp_path: Path) -> AsyncIterator[World]:
    async with open_world(database_url, redis_url, tmp_path) as opened:
        yield opened
