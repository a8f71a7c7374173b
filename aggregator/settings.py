"""The settings of the service: one frozen object, built once from the environment and handed down.

The README's table of settings is compared with this class by a test.
"""

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from starlette.datastructures import Secret

from metadata_db.settings import CatalogueSettings

PREFIX = "CATCHMENT_"


class SettingsError(ValueError):
    """One or more settings cannot be used; the message lists all of them."""


def _setting(parse: Callable[[str], Any], meaning: str, **default: Any) -> Any:
    return field(metadata={"parse": parse, "meaning": meaning}, **default)


def _positive(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 < value < math.inf:
        raise ValueError("a number above 0")
    return value


def _count(text: str) -> int:
    if not text.strip().isdecimal() or int(text) == 0:
        raise ValueError("a whole number above 0")
    return int(text)


def _number(text: str) -> int:
    if not text.strip().isdecimal():
        raise ValueError("a whole number")
    return int(text)


def _switch(text: str) -> bool:
    # "true" and "false" are how one process of ours hands its settings to another.
    known = {"yes": True, "true": True, "no": False, "false": False}
    if text.strip().lower() not in known:
        raise ValueError("yes or no")
    return known[text.strip().lower()]


def _origins(text: str) -> frozenset[str]:
    origins = frozenset(origin.strip().lower() for origin in text.split(",") if origin.strip())
    if not all(re.fullmatch(r"https?://[^/?#@\s]+", origin) for origin in origins):
        raise ValueError("origins with a scheme and no path, separated by commas: https://portal.example.org")
    return origins


def _path(text: str) -> Path:
    return Path(text).expanduser().absolute()


def _port(text: str) -> int:
    if not text.strip().isdecimal() or int(text) > 65535:
        raise ValueError("a port from 0 to 65535")
    return int(text)


def _level(text: str) -> str:
    if text.upper() not in ("DEBUG", "INFO", "WARNING", "ERROR"):
        raise ValueError("DEBUG, INFO, WARNING or ERROR")
    return text.upper()


def _url(text: str) -> Secret:
    if "://" not in text:
        raise ValueError("an address with a scheme, such as postgresql:// or redis://")
    return Secret(text)


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Everything an operator can decide; each field is the environment variable ``CATCHMENT_<NAME>``."""

    database_url: Secret | None = _setting(
        _url, "PostgreSQL 15 to 18; without it an embedded server is started in the data directory", default=None
    )
    redis_url: Secret | None = _setting(
        _url, "Redis 6.2 or newer; without it an embedded server is started in the data directory", default=None
    )
    data_dir: Path = _setting(
        _path,
        "where the buffer and the embedded servers keep their files",
        default=Path("~/.local/share/catchment").expanduser(),
    )
    host: str = _setting(str, "address to listen on", default="127.0.0.1")
    port: int = _setting(_port, "port to listen on; 0 takes a free one", default=8000)
    pool_size: int = _setting(_count, "database connections kept open by one process", default=8)
    statement_timeout_s: float = _setting(_positive, "longest time of one search statement", default=30.0)
    request_timeout_s: float = _setting(_positive, "longest time of one GraphQL request", default=30.0)
    ingest_processes: int = _setting(
        _number, "processes that read the lines of large batches; 0 reads them in the web process", default=2
    )
    counting_mb: int = _setting(
        _count, "memory, in MB, for sums that one process keeps: 10 million files want some 100", default=160
    )
    answer_ttl_s: int = _setting(_count, "active period: how long an unused answer is kept in Redis", default=86_400)
    answer_memory_bytes: int = _setting(
        _number, "how much of finished answers one web process holds, beside Redis; 0: none", default=64_000_000
    )
    auto_prepare_files: int = _setting(
        _count, "a search prepares its export by itself up to this many files", default=10_000
    )
    auto_prepare_bytes: int = _setting(
        _count, "a search prepares its export by itself up to this many bytes", default=100_000_000_000
    )
    allowed_origins: frozenset[str] = _setting(
        _origins,
        "origins, separated by commas, of other sites whose pages may open live connections here",
        default=frozenset(),
    )
    graphql_suggestions: bool = _setting(
        _switch, "whether errors about unknown names in GraphQL tell similar ones: yes or no", default=False
    )
    worker_copies: int = _setting(_count, "files one worker copies at a time", default=4)
    worker_heartbeat_s: float = _setting(
        _positive, "a worker silent for three of these is taken for dead, and its work over", default=5.0
    )
    drain_s: float = _setting(
        _positive, "how long a stopping process waits for requests and copies under way", default=20.0
    )
    log_level: str = _setting(_level, "least level that is logged: DEBUG, INFO, WARNING, ERROR", default="INFO")

    @classmethod
    def from_environ(cls, environ: Mapping[str, str], **overrides: Any) -> "Settings":
        """Build the settings from environment variables; `overrides` that are not None win.

        Raises
        ------
        SettingsError
            Listing every variable that cannot be used.
        """
        values, problems = {}, []
        for item in fields(cls):
            text = environ.get(PREFIX + item.name.upper())
            if text is None:
                continue
            try:
                values[item.name] = item.metadata["parse"](text)
            except ValueError as error:
                shown = "(not shown)" if item.metadata["parse"] is _url else repr(text)
                problems.append(f"{PREFIX}{item.name.upper()}: got {shown}, expected {error}")
        if problems:
            raise SettingsError("\n".join(problems))
        return cls(**values | {name: value for name, value in overrides.items() if value is not None})

    @property
    def catalogue(self) -> CatalogueSettings:
        """The catalogue's part of the settings; needs `database_url`."""
        if self.database_url is None:
            raise SettingsError(f"{PREFIX}DATABASE_URL is not set")
        return CatalogueSettings(
            database_url=str(self.database_url),
            pool_size=self.pool_size,
            statement_timeout_s=self.statement_timeout_s,
            ingest_processes=self.ingest_processes,
        )

    @property
    def buffer_dir(self) -> Path:
        """Where staged files and exports are kept; all workers and the service share it."""
        return self.data_dir / "buffer"
