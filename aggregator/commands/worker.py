"""`catchment worker`: a process that stages exports, beside the service or on another host."""

import asyncio
from pathlib import Path

import click

from aggregator.commands.console import examples
from aggregator.commands.failures import Failure
from aggregator.commands.migrate import require_newest
from aggregator.commands.servers import attach, is_external
from aggregator.commands.settings import data_dir_option, load_settings
from aggregator.embedded import find_running
from aggregator.exports.bag import write_bag
from aggregator.log import configure_logging
from aggregator.settings import Settings
from aggregator.staging.worker import run_worker


@click.command(epilog=examples("catchment worker --data-dir /srv/catchment"))
@data_dir_option
def command(data_dir: Path | None) -> None:
    """Run one more worker beside a service.

    It works for the service whose database, Redis and buffer it shares: name the two servers with
    CATCHMENT_DATABASE_URL and CATCHMENT_REDIS_URL, or give the data directory of a `catchment serve` that runs.
    SIGTERM lets it finish the files under way.
    """
    settings = _find_servers(load_settings(data_dir=data_dir))
    configure_logging(settings.log_level)
    require_newest(settings)
    asyncio.run(run_worker(settings, pack=write_bag))


def _find_servers(settings: Settings) -> Settings:
    if is_external(settings):
        return settings
    servers = find_running(settings.data_dir)
    if servers is None:
        raise Failure(
            f"no service runs with the data directory {settings.data_dir}: start 'catchment serve', name another one "
            "with --data-dir, or set CATCHMENT_DATABASE_URL and CATCHMENT_REDIS_URL"
        )
    return attach(settings, servers)
