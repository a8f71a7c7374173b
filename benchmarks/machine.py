"""Where figures were measured: without it they say nothing."""

import os
import platform
import re
import subprocess
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import psycopg
import redis

from benchmarks.service import Servers
from metadata_db.settings import CatalogueSettings

LIBRARIES = ("psycopg", "sqlalchemy", "starlette", "uvicorn", "strawberry-graphql", "msgspec", "astropy", "h5py")
"""Those whose speed is in the figures."""


def describe_machine(servers: Servers) -> dict[str, str]:
    """Return name → value of all that the figures depend on."""
    return {
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "processor": _processor(),
        "cores": str(len(os.sched_getaffinity(0))),
        "memory": f"{os.sysconf('SC_PHYS_PAGES') * os.sysconf('SC_PAGE_SIZE') / 1e9:.1f} GB",
        "kernel": f"{platform.system()} {platform.release()}",
        "file system": _file_system(servers.data_dir),
        "load before": f"{os.getloadavg()[0]:.2f}",
        "Python": platform.python_version(),
        "Postgres": _postgres_version(servers),
        "Redis": _redis_version(servers),
        "libraries": ", ".join(f"{name} {version(name)}" for name in LIBRARIES),
    }


def _processor() -> str:
    found = re.search(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    return found[1] if found else platform.machine()


def _file_system(path: Path) -> str:
    command = ["stat", "--file-system", "--format=%T", str(path)]
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout.strip()


def _postgres_version(servers: Servers) -> str:
    url = CatalogueSettings(database_url=servers.database_url).libpq_url
    with psycopg.connect(url) as connection:
        number = connection.info.server_version
    return f"{number // 10_000}.{number % 10_000}"


def _redis_version(servers: Servers) -> str:
    with redis.Redis.from_url(servers.redis_url) as client:
        return str(client.info("server")["redis_version"])
