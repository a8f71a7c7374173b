"""`catchment attribute`: which attributes are asked for, and an index on those that are worth one."""

from pathlib import Path

import click

from aggregator.commands.console import examples, format_bytes, print_table
from aggregator.commands.migrate import migrated_database
from aggregator.commands.settings import data_dir_option
from metadata_db.attributes import build_index, drop_index, list_attributes


@click.group()
def command() -> None:
    """List attributes and how often they are asked for; make or drop an index on one.

    An index makes questions about one attribute quick, and costs a little of each ingest of a file that has it. These
    commands talk to the database of CATCHMENT_DATABASE_URL, or to the embedded one in the data directory.
    """


@command.command("list", epilog=examples("catchment attribute list"))
@data_dir_option
def list_(data_dir: Path | None) -> None:
    """List every declared attribute, the most asked first.

    ASKED is the number of registered questions that filter by an attribute of this name, of whichever facility.
    """
    with migrated_database(data_dir) as settings:
        found = list_attributes(settings.catalogue)
    print_table(
        ("name", "facility", "type", "asked", "indexed", "size"),
        [
            (
                *(use.name, use.facility, use.type, use.asked),
                *(("no", None) if use.index_bytes is None else ("yes", format_bytes(use.index_bytes))),
            )
            for use in found
        ],
    )


@command.command(epilog=examples("catchment attribute index zenith_deg"))
@click.argument("name")
@data_dir_option
def index(name: str, data_dir: Path | None) -> None:
    """Make an index on an attribute, of all facilities that declare it.

    Reading and writing go on meanwhile. A build that was ended is begun anew. Lists have an index together, and values
    above 2000 bytes are not in it.
    """
    with migrated_database(data_dir) as settings:
        built = build_index(settings.catalogue, name)
    click.echo(f"{name}: {built.name}, made in {built.seconds:.1f} s, {format_bytes(built.size_bytes)}")


@command.command(epilog=examples("catchment attribute unindex zenith_deg"))
@click.argument("name")
@data_dir_option
def unindex(name: str, data_dir: Path | None) -> None:
    """Drop the index on an attribute; questions about it are answered as before it was made."""
    with migrated_database(data_dir) as settings:
        drop_index(settings.catalogue, name)
    click.echo(f"{name}: has no index of its own now")
