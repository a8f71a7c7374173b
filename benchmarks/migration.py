"""How long a catalogue takes to migrate from its older schema, and how long those who read it meanwhile have to wait.

The catalogue is loaded, taken back to the schema before ended versions lay apart and numbers were counted ahead, and
brought forward again, while one reader asks for single files without a pause. What it waited longest is the figure: a
migration that locks the table keeps it waiting.
"""

import threading
import time
from dataclasses import dataclass, field

import psycopg
from alembic import command
from alembic.config import Config

from aggregator.commands.migrate import migrate_database, script_folder
from aggregator.settings import Settings
from benchmarks.catalogue import make_facilities
from benchmarks.lookups import fill
from benchmarks.measuring import Table, gather, percentile
from benchmarks.service import BenchmarkError, Servers

OLD_REVISION = "0003"


@dataclass
class _Reader:
    """Reads single files of a catalogue until it is told to end."""

    url: str
    waits_s: list[float] = field(default_factory=list)
    _ended: threading.Event = field(default_factory=threading.Event)

    def __enter__(self) -> "_Reader":
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_error: object) -> None:
        self._ended.set()
        self._thread.join()

    def _read(self) -> None:
        with psycopg.connect(self.url, autocommit=True) as connection:
            number = 0
            while not self._ended.is_set():
                number = number * 1103515245 + 12345 & 0x7FFFFFFF
                began = time.perf_counter()
                connection.execute("select path, size_bytes from file where id = %s", [number % 1_000_000]).fetchall()
                self.waits_s.append(time.perf_counter() - began)


def run(servers: Servers, *, n_files: int) -> Table:
    """Migrate a catalogue of `n_files` files once."""
    facilities = make_facilities(n_files)
    settings = servers.settings_of(f"migration_{n_files}")
    name = settings.data_dir.name
    servers.make_empty(name)
    migrate_database(settings)
    fill(servers.data_dir, settings.catalogue, facilities)
    command.downgrade(_config(settings), OLD_REVISION)
    with servers.connect(name) as connection:
        connection.execute("vacuum analyze file")
    with _Reader(settings.catalogue.libpq_url) as reader:
        began = time.perf_counter()
        migrate_database(settings)
        duration_s = time.perf_counter() - began
    with servers.connect(name) as connection:
        counted = connection.execute("select sum(files) from stratum").fetchone()
    if counted is None or counted[0] != n_files:
        raise BenchmarkError(f"after the migration {counted} files are counted")
    servers.drop(name)
    sample = {
        "time": (duration_s, "s"),
        "files per second": (n_files / duration_s, ""),
        "reader, p50": (1e3 * percentile(reader.waits_s, 0.5), "ms"),
        "reader, longest": (1e3 * max(reader.waits_s), "ms"),
    }
    return Table(
        title=f"Migration of {n_files:,} files from schema {OLD_REVISION}",
        rows=(gather("migrate", [sample]),),
        notes=("reader: one connection that asks for single files by their number, without a pause",),
    )


def _config(settings: Settings) -> Config:
    config = Config(attributes={"database_url": settings.catalogue.database_url})
    config.set_main_option("script_location", str(script_folder()))
    return config
