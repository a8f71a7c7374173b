"""`catchment storage`: the read-only places where files are."""

import errno
import os
from itertools import islice
from pathlib import Path

import click

from aggregator.commands.console import examples, format_count, print_table
from aggregator.commands.failures import Failure
from aggregator.commands.remote import Remote, token_option, url_option
from extractors.client import Client
from extractors.storages.local_tree import LocalTree
from metadata_db.records import Storage

GLANCE_FILES = 1000
"""Files that `test` counts before it says "at least"."""


@click.group()
def command() -> None:
    """Register storages, list and test them.

    A storage is a folder, local or mounted (CernVM-FS, NFS, EOS), that the workers read and nobody writes.
    """


@command.command(epilog=examples("catchment storage add hess-dl3 --root /cvmfs/hess.example.org/dl3 --facility hess"))
@click.argument("name")
@click.option("--root", required=True, type=click.Path(path_type=Path), help="Folder on the hosts of the workers.")
@click.option("--facility", help="The only facility whose files are there.")
@click.option("--title", help="Full name.")
@url_option
@token_option
def add(name: str, root: Path, facility: str | None, title: str | None, url: str, token: str) -> None:
    """Register a storage, or mend it."""
    with Client(url, token) as client:
        client.put_storage(Storage(name=name, root=str(root.absolute()), title=title, facility=facility))
    click.echo(f"storage {name}: {root.absolute()}")


@command.command("list", epilog=examples("catchment storage list"))
@url_option
@token_option
def list_(url: str, token: str) -> None:
    """List the storages with their roots."""
    with Remote(url, token) as remote:
        storages = remote.storages()
    print_table(
        ("name", "root", "facility", "enabled", "title"),
        [(item.name, item.root, item.facility, "yes" if item.enabled else "no", item.title) for item in storages],
    )


@command.command(
    epilog=examples("catchment storage test hess-dl3", "catchment storage test --root /cvmfs/hess.example.org/dl3")
)
@click.argument("name", required=False)
@click.option("--root", type=click.Path(path_type=Path), help="Test this folder, registered or not.")
@url_option
@click.option("--token", envvar="CATCHMENT_TOKEN", help="Admin's token, to look up NAME.  [CATCHMENT_TOKEN]")
def test(name: str | None, root: Path | None, url: str, token: str | None) -> None:
    """Say whether a storage can be read here, and how many files there are at a glance.

    Run it on a worker's host, as the user that the worker runs as.
    """
    if (name is None) == (root is None):
        raise click.UsageError("give the NAME of a registered storage, or a folder with --root")
    folder = _find_root(name, url, token) if root is None and name is not None else root
    if folder is not None:
        click.echo(f"{folder}: {look_at(folder)}")


def look_at(root: Path) -> str:
    """Return what can be said of a storage's root that can be read.

    Raises
    ------
    Failure
        It cannot be read; the message says why.
    """
    try:
        names = os.listdir(root)
    except OSError as error:
        raise Failure(f"{root}: {_explain(error)}") from error
    if not names:
        return "can be read, but is empty: is it mounted here?"
    count = sum(1 for _ in islice(LocalTree(root).walk(), GLANCE_FILES))
    return f"can be read, {'at least ' if count == GLANCE_FILES else ''}{format_count(count, 'file')}"


def _find_root(name: str, url: str, token: str | None) -> Path:
    if token is None:
        raise click.UsageError("where a storage is, is told to admins only: give --token, or the folder with --root")
    with Remote(url, token) as remote:
        for storage in remote.storages():
            if storage.name == name:
                return Path(storage.root)
    raise Failure(f"no storage {name!r} is registered at {url}")


def _explain(error: OSError) -> str:
    reasons = {
        errno.ENOENT: "is not there: is it mounted on this host, and is the path right?",
        errno.ENOTDIR: "is no folder",
        errno.EACCES: f"may not be read by user {os.geteuid()}",
        errno.ESTALE: "was mounted, but its server does not know it any more: mount it again",
        errno.ENOTCONN: "is mounted, but its file system has died: mount it again",
    }
    return reasons.get(error.errno or 0, error.strerror or str(error))
