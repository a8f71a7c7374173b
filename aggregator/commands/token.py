"""`catchment token`: who may write what."""

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TypeVar

import click

from aggregator.commands.console import examples, print_table
from aggregator.commands.migrate import migrated_database
from aggregator.commands.settings import data_dir_option
from aggregator.settings import Settings
from metadata_db.database import Database
from metadata_db.tokens import Role, TokenStore

T = TypeVar("T")


@click.group()
def command() -> None:
    """Make, list and revoke API tokens.

    Tokens are kept in the database of the installation, so these commands run where it can be reached.
    """


@command.command(
    epilog=examples(
        "catchment token create --facility hess --note 'extractor at the site'",
        "export CATCHMENT_TOKEN=$(catchment token create --admin)",
    )
)
@click.option("--admin", is_flag=True, help="May write everything, storages above all.")
@click.option("--facility", multiple=True, metavar="NAME", help="May write this facility and its files; repeatable.")
@click.option("--note", help="Whose it is, or what for.")
@data_dir_option
def create(admin: bool, facility: tuple[str, ...], note: str | None, data_dir: Path | None) -> None:
    """Make a token and print it; it cannot be shown again."""
    if admin == bool(facility):
        raise click.UsageError("give --admin, or at least one --facility")
    role = Role.ADMIN if admin else Role.PUBLISHER
    with migrated_database(data_dir) as settings:
        click.echo(asyncio.run(with_tokens(settings, lambda tokens: tokens.create(role, facility, note=note))))


@command.command("list", epilog=examples("catchment token list"))
@data_dir_option
def list_(data_dir: Path | None) -> None:
    """List all tokens, without their secrets."""
    with migrated_database(data_dir) as settings:
        rows = asyncio.run(with_tokens(settings, TokenStore.list_all))
    print_table(
        ("id", "role", "facilities", "made", "revoked", "note"),
        [
            (
                *(row["id"], row["role"], ", ".join(row["facilities"]) or None, f"{row['created_at']:%Y-%m-%d %H:%M}"),
                *(None if row["revoked_at"] is None else f"{row['revoked_at']:%Y-%m-%d %H:%M}", row["note"]),
            )
            for row in rows
        ],
    )


@command.command(epilog=examples("catchment token revoke 5f2d61a09c3e"))
@click.argument("token_id", metavar="ID")
@data_dir_option
def revoke(token_id: str, data_dir: Path | None) -> None:
    """End a token.

    ID is what stands between the first and the second '_' of a token, and in `catchment token list`.
    """
    with migrated_database(data_dir) as settings:
        asyncio.run(with_tokens(settings, lambda tokens: tokens.revoke(token_id)))
    click.echo(f"token {token_id} is revoked")


async def with_tokens(settings: Settings, action: Callable[[TokenStore], Awaitable[T]]) -> T:
    """Do something with the tokens of an installation."""
    database = Database(settings.catalogue)
    try:
        return await action(TokenStore(database))
    finally:
        await database.close()
