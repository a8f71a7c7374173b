"""The migrations make the tables that the code knows, and the database keeps the life cycle of exports."""

import asyncio
import hashlib
from collections.abc import Iterator
from pathlib import Path

import msgspec
import psycopg
import pytest
from alembic import command
from alembic.config import Config
from psycopg import errors

import migrations
from aggregator.embedded import EmbeddedServers
from metadata_db.database import Database
from metadata_db.ingest import Ingest, IngestReport
from metadata_db.records import FileRecord, KnownFile
from metadata_db.settings import CatalogueSettings
from metadata_db.vocabulary import VocabularyStore
from tests.conftest import run_sql, with_database
from tests.support.records import file_record, load

STATES = ("INITIALIZED", "WRITING", "COMPLETED", "EXPIRED", "DELETED", "ERROR", "CANCELLED")

ALLOWED = {
    ("INITIALIZED", "WRITING"),
    ("INITIALIZED", "CANCELLED"),
    ("INITIALIZED", "ERROR"),
    ("WRITING", "COMPLETED"),
    ("WRITING", "CANCELLED"),
    ("WRITING", "ERROR"),
    ("COMPLETED", "EXPIRED"),
    ("EXPIRED", "DELETED"),
    ("EXPIRED", "INITIALIZED"),
    ("DELETED", "INITIALIZED"),
    ("CANCELLED", "INITIALIZED"),
    ("ERROR", "INITIALIZED"),
}
"""The life cycle as the architecture has it, and the ways back to its beginning."""

WAYS = {
    "INITIALIZED": (),
    "WRITING": ("WRITING",),
    "COMPLETED": ("WRITING", "COMPLETED"),
    "EXPIRED": ("WRITING", "COMPLETED", "EXPIRED"),
    "DELETED": ("WRITING", "COMPLETED", "EXPIRED", "DELETED"),
    "ERROR": ("ERROR",),
    "CANCELLED": ("CANCELLED",),
}
"""How an export comes into each state."""


@pytest.fixture
def bare_url(servers: EmbeddedServers) -> Iterator[str]:
    """Address of a database without any table."""
    run_sql(servers.database_url, "create database bare")
    yield with_database(servers.database_url, "bare")
    run_sql(servers.database_url, "drop database bare with (force)")


@pytest.fixture
def connection(database_url: str) -> Iterator[psycopg.Connection]:
    """A connection to an empty catalogue with one query in it."""
    with psycopg.connect(CatalogueSettings(database_url=database_url).libpq_url, autocommit=True) as connection:
        connection.execute("insert into query (id, canonical, canonical_sha256) values ('q', '{}', '')")
        yield connection


def configuration(database_url: str) -> Config:
    config = Config()
    config.set_main_option("script_location", str(Path(migrations.__file__).parent))
    config.attributes["database_url"] = database_url
    return config


def schema_of(database_url: str) -> list[tuple[str, ...]]:
    """Return every column, index, constraint and trigger of our schema, as Postgres tells them."""
    statement = """
        select 'column', table_name, column_name, data_type, is_nullable, coalesce(column_default, '')
        from information_schema.columns where table_schema = 'public'
        union all select 'index', tablename, indexname, indexdef, '', '' from pg_indexes where schemaname = 'public'
        union all select 'constraint', conrelid::regclass::text, conname, pg_get_constraintdef(oid), '', ''
        from pg_constraint where connamespace = 'public'::regnamespace
        union all select 'trigger', tgrelid::regclass::text, tgname, pg_get_triggerdef(oid), '', '' from pg_trigger
        where not tgisinternal
        union all select 'function', proname, '', prosrc, '', '' from pg_proc
        where pronamespace = 'public'::regnamespace
        union all select 'transition', from_state, to_state, '', '', '' from export_transition
        order by 1, 2, 3
    """
    with psycopg.connect(CatalogueSettings(database_url=database_url).libpq_url) as connection:
        return connection.execute(statement).fetchall()


def test_the_newest_revision_has_the_tables_of_the_code(bare_url: str) -> None:
    command.upgrade(configuration(bare_url), "head")
    command.check(configuration(bare_url))


def test_a_queue_beside_the_catalogue_does_not_disturb_the_check(database_url: str) -> None:
    command.check(configuration(database_url))


def test_down_to_nothing_and_up_again_gives_the_same_schema(bare_url: str) -> None:
    config = configuration(bare_url)
    command.upgrade(config, "head")
    before = schema_of(bare_url)
    command.downgrade(config, "base")
    with psycopg.connect(CatalogueSettings(database_url=bare_url).libpq_url) as connection:
        left = connection.execute(
            "select relname from pg_class where relnamespace = 'public'::regnamespace and relkind in ('r', 'S')"
        ).fetchall()
        functions = connection.execute(
            "select proname from pg_proc where pronamespace = 'public'::regnamespace"
        ).fetchall()
    assert (left, functions) == ([("alembic_version",)], [])
    command.upgrade(config, "head")
    assert schema_of(bare_url) == before
    assert {row[0] for row in before} == {"column", "index", "constraint", "trigger", "function", "transition"}


def test_migrating_what_is_migrated_changes_nothing(database_url: str) -> None:
    before = schema_of(database_url)
    command.upgrade(configuration(database_url), "head")
    assert schema_of(database_url) == before


def test_files_of_an_older_catalogue_are_kept_and_known_again(bare_url: str) -> None:
    config = configuration(bare_url)
    command.upgrade(config, "0002")
    record = file_record("a", sha256="ab" * 32, run=7)
    with psycopg.connect(CatalogueSettings(database_url=bare_url).libpq_url, autocommit=True) as connection:
        connection.execute("insert into facility (name, revision) values ('aurora', 1)")
        connection.execute("insert into storage (name, kind, root) values ('aurora-disk', 'local', '/')")
        for path in ("a", "é", "Z"):
            connection.execute(
                "insert into file (facility_id, storage_id, path, size_bytes, sha256, run, attributes, provenance,"
                " warnings, digest, fingerprint_high, fingerprint_low, added_in)"
                " values (1, 1, %s, 1000, %s, 7, '{}', '{}', '[]', %s, 0, 0, 1)",
                [path, bytes.fromhex("ab" * 32), hashlib.blake2b(encode(record), digest_size=16).digest()],
            )
        connection.execute("insert into replica (sha256, storage_id, path) values (%s, 1, 'copy')", [b"ab"])
    command.upgrade(config, "head")
    run_sql(bare_url, "insert into storage (name, kind, root) values ('far', 'remote', 's3://bucket')")
    told = asyncio.run(load_and_list(bare_url, record))
    assert (told[0].unchanged, told[0].reread, told[0].revisions) == (1, 0, {"aurora": 1})
    assert [known.path for known in told[1]] == ["Z", "a", "é"]
    assert all(known.checked_at is not None for known in told[1])
    command.downgrade(config, "0002")
    with psycopg.connect(CatalogueSettings(database_url=bare_url).libpq_url) as connection:
        assert connection.execute("select count(*) from file").fetchone() == (3,)


def encode(record: FileRecord) -> bytes:
    """Return a record as its digest was made of before revision 0003."""
    return msgspec.json.encode(record, order="deterministic")


async def load_and_list(database_url: str, record: FileRecord) -> tuple[IngestReport, list[KnownFile]]:
    database = Database(CatalogueSettings(database_url=database_url))
    ingest = Ingest(database, VocabularyStore(database))
    try:
        return await load(ingest, record), await ingest.listing.page(record.storage, facilities=None)
    finally:
        await database.close()


# --- the life cycle of exports --------------------------------------------------------------------------------------


def begin(connection: psycopg.Connection, export_id: str, *, state: str = "INITIALIZED") -> None:
    connection.execute(
        "insert into export (id, query_id, revisions, answer_checksum, state, files_total, bytes_total)"
        " values (%s, 'q', '{}', %s, %s, 0, 0)",
        [export_id, export_id, state],
    )


def move(connection: psycopg.Connection, export_id: str, state: str) -> None:
    connection.execute("update export set state = %s where id = %s", [state, export_id])


def changes(connection: psycopg.Connection, export_id: str) -> list[dict[str, str]]:
    """Return what the change log says about an export, oldest first."""
    rows = connection.execute(
        "select detail from change where kind = 'export' and subject = %s order by id", [export_id]
    ).fetchall()
    return [detail for (detail,) in rows]


def test_every_step_of_the_life_cycle_is_taken_or_refused_and_leaves_one_change(
    connection: psycopg.Connection,
) -> None:
    for at, (old, new) in enumerate((old, new) for old in STATES for new in STATES if old != new):
        name = f"export_{at}"
        begin(connection, name)
        for state in WAYS[old]:
            move(connection, name, state)
        told = len(changes(connection, name))
        assert told == 1 + len(WAYS[old])
        if (old, new) in ALLOWED:
            move(connection, name, new)
            assert changes(connection, name)[told:] == [{"query_id": "q", "from": old, "to": new}]
        else:
            with pytest.raises(errors.CheckViolation, match=f"cannot go from {old} to {new}"):
                move(connection, name, new)
            assert len(changes(connection, name)) == told
            assert connection.execute("select state from export where id = %s", [name]).fetchone() == (old,)


def test_an_export_begins_initialized_and_the_change_log_says_so(connection: psycopg.Connection) -> None:
    for state in STATES[1:]:
        with pytest.raises(errors.CheckViolation, match=f"begins INITIALIZED, not {state}"):
            begin(connection, "export", state=state)
    begin(connection, "export")
    assert changes(connection, "export") == [{"query_id": "q", "to": "INITIALIZED"}]


def test_a_state_that_nobody_knows_is_refused(connection: psycopg.Connection) -> None:
    begin(connection, "export")
    with pytest.raises(errors.CheckViolation, match="cannot go from INITIALIZED to FINISHED"):
        move(connection, "export", "FINISHED")


def test_progress_and_a_repeated_state_are_no_changes(connection: psycopg.Connection) -> None:
    begin(connection, "export")
    move(connection, "export", "INITIALIZED")
    connection.execute("update export set files_done = 5 where id = 'export'")
    assert len(changes(connection, "export")) == 1


def test_a_step_that_is_rolled_back_leaves_no_change(connection: psycopg.Connection) -> None:
    begin(connection, "export")
    with connection.transaction(force_rollback=True):
        move(connection, "export", "WRITING")
        assert len(changes(connection, "export")) == 2
    assert len(changes(connection, "export")) == 1
