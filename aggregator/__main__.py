"""The command `catchment`: a group of commands, each loaded only when it is wanted."""

import importlib
from collections.abc import Mapping
from typing import Any

import click

from aggregator.commands.failures import explain
from aggregator.log import configure_logging

COMMANDS: Mapping[str, str] = {
    "demo": "Show the whole way once, on files made for it or on your own.",
    "serve": "Run the service: web page, APIs and one worker.",
    "worker": "Run one more worker beside a service.",
    "migrate": "Bring the database to the newest revision.",
    "ingest": "Catalogue a storage: compare, extract, send; see what failed, and replay it.",
    "watch": "Follow a storage: catalogue files as they are closed or moved in.",
    "search": "Ask which files there are.",
    "get": "Ask, wait, download and verify.",
    "export": "Look at exports, or cancel one.",
    "storage": "Register storages, list and test them.",
    "attribute": "List attributes and how often they are asked for; make or drop an index on one.",
    "token": "Make, list and revoke API tokens.",
    "fsck": "Check the catalogue against itself: counts, derived values, revisions, versions, indexes.",
    "doctor": "Say what is wrong with the set-up, in plain words.",
}
"""Every command with its first sentence: `catchment --help` imports none of their modules."""


class LazyGroup(click.Group):
    """Finds a command in the module of its name, and tells users' mistakes without a traceback."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names in the order of `COMMANDS`."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import the command."""
        if cmd_name not in COMMANDS:
            return None
        command: click.Command = importlib.import_module(f"aggregator.commands.{cmd_name}").command
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List the commands without importing them."""
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command; errors that are not defects become a message and an exit code."""
        try:
            return super().invoke(ctx)
        except Exception as error:
            told = explain(error)
            if told is None:
                raise
            raise told from error


@click.group(
    cls=LazyGroup,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="\b\nTry it on files made for it:  catchment demo\nRun a service of your own:    catchment serve",
)
@click.version_option(package_name="catchment")
def main() -> None:
    """Ask one question of the data of many experiments, and get the files, verified."""
    configure_logging("WARNING")


if __name__ == "__main__":
    main(prog_name="catchment")
