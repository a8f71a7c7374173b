"""Postgres and Redis for a command: those that the settings name, otherwise the embedded ones."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

from starlette.datastructures import Secret

from aggregator.embedded import EmbeddedServers
from aggregator.settings import Settings


def is_external(settings: Settings) -> bool:
    """Tell whether the settings name both servers."""
    return settings.database_url is not None and settings.redis_url is not None


@contextmanager
def running_servers(settings: Settings) -> Iterator[Settings]:
    """Give settings that name running servers; embedded ones are started, or shared with who has started them.

    Notes
    -----
    Call it from the main thread, with which the embedded servers end.
    """
    if is_external(settings):
        yield settings
        return
    with EmbeddedServers.start(settings.data_dir) as servers:
        yield attach(settings, servers)


def attach(settings: Settings, servers: EmbeddedServers) -> Settings:
    """Return settings in which the embedded servers take the place of those that are not named."""
    return replace(
        settings,
        database_url=settings.database_url or Secret(servers.database_url),
        redis_url=settings.redis_url or Secret(servers.redis_url),
    )
