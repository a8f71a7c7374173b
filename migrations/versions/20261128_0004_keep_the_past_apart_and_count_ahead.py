"""Keep ended versions apart; count files ahead, by stratum, day and month; index the sky, long files and a sample.

Revision: 0004
Follows: 0003

Made for catalogues of ten million files that go on being read: rows are changed in short transactions, indexes are
built concurrently, and what needs the whole table for itself waits at most seconds for it and holds it for less.
Writers wait while the totals are counted, some half a minute. It may be killed at any point and run again.
"""

from typing import Any, TypeAlias

import psycopg
from alembic import op
from psycopg.rows import tuple_row

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

Driver: TypeAlias = "psycopg.Connection[tuple[Any, ...]]"

BATCH_ROWS = 20_000
"""Rows changed in one transaction."""

LOCK_TIMEOUT_S, LOCK_TRIES = 3, 100
"""How long one try waits for the table, with all others queueing behind it, and how often that is tried."""

COMMON = (
    "facility_id", "storage_id", "path", "size_bytes", "sha256", "md5", "modified_at", "format", "kind", "level",
    "cluster_id", "detector_id", "channel_id", "time_begin", "time_end", "obs_id", "run", "ra_deg", "dec_deg",
    "position_basis", "energy_min_ev", "energy_max_ev", "energy_basis", "object", "n_events", "is_simulation",
    "processing", "quality", "conditions", "licence", "attributes", "provenance", "warnings", "description",
    "relations", "digest", "reading", "checked_at", "fingerprint_high", "fingerprint_low", "added_in",
)  # fmt: skip
NEW = ("time_over", "hpx", "stratum_id")
STRATUM = (
    "facility_id", "storage_id", "cluster_id", "detector_id", "channel_id", "level", "kind", "format", "object",
    "processing", "quality", "conditions", "is_simulation",
)  # fmt: skip
FACETS = [f"('{name.removesuffix('_id')}', {name}::text)" for name in STRATUM[1:]]

STRATUM_KEY = """
    create or replace function stratum_key(
        facility smallint, storage smallint, cluster integer, detector integer, channel integer, level text, kind text,
        format text, object text, processing text, quality text, conditions text, is_simulation boolean
    ) returns text language sql immutable parallel safe as $$
        select md5(
            facility::text || ',' || storage::text || ',' || coalesce(cluster::text, '') || ','
            || coalesce(detector::text, '') || ',' || coalesce(channel::text, '') || ',' || quote_nullable(level) || ','
            || quote_nullable(kind) || ',' || quote_nullable(format) || ',' || quote_nullable(object) || ','
            || quote_nullable(processing) || ',' || quote_nullable(quality) || ',' || quote_nullable(conditions) || ','
            || coalesce(is_simulation::text, '')
        )
    $$
"""

OVER = "case when time_end > time_begin then time_end else time_begin + interval '1 microsecond' end"

INDEXES = {
    "file_storage_id_path_key": "create unique index concurrently {} on file (storage_id, path)",
    "file_facility_id_time_begin_id_idx": (
        "create index concurrently {} on file (facility_id, time_begin, id) include (time_over, stratum_id, size_bytes,"
        " fingerprint_high, fingerprint_low, energy_min_ev, energy_max_ev)"
    ),
    "file_long_idx": (
        "create index concurrently {} on file using gist (tstzrange(time_begin, time_over))"
        " where time_over - time_begin > interval '1 day'"
    ),
    "file_object_time_begin_id_idx": (
        "create index concurrently {} on file (object, time_begin, id) where object is not null"
    ),
    "file_hpx_idx": "create index concurrently {} on file (hpx) where hpx is not null",
    "file_sha256_idx": "create index concurrently {} on file using hash (sha256) where sha256 is not null",
    "file_facility_id_added_in_idx": "create index concurrently {} on file (facility_id, added_in)",
    "file_sample_idx": (
        "create index concurrently {} on file (facility_id, (fingerprint_low >> 8 & 15), time_begin)"
        " where fingerprint_low & 255 = 0"
    ),
}
REPLACED = ("file_storage_id_path_key", "file_facility_id_time_begin_id_idx", "file_sha256_idx")
"""Indexes that are there already, but otherwise."""

OLD_INDEXES = {
    "file_storage_id_path_key": "create unique index {} on file (storage_id, path) where removed_in is null",
    "file_facility_id_time_begin_id_idx": "create index {} on file (facility_id, time_begin, id)",
    "file_sha256_idx": "create index {} on file (sha256) where sha256 is not null",
    "file_object_idx": "create index {} on file (object) where object is not null",
    "file_dec_deg_ra_deg_idx": "create index {} on file (dec_deg, ra_deg) where dec_deg is not null",
}

DAY = "coalesce(floor(extract(epoch from time_begin) / 86400)::int, -2147483648)"
SUMS = "sum(size_bytes), sum(fingerprint_high), sum(fingerprint_low)"

TOTALS = (
    f"insert into stratum_day select facility_id, {DAY}, stratum_id, count(*), {SUMS} from file"
    " group by 1, 2, 3 order by 1, 2",
    """
    update stratum set files = found.files, bytes = found.bytes, fingerprint_high = found.high,
        fingerprint_low = found.low
    from (
        select stratum_id, sum(files) as files, sum(bytes) as bytes, sum(fingerprint_high) as high,
            sum(fingerprint_low) as low
        from stratum_day group by 1
    ) as found where stratum.id = found.stratum_id
    """,
    f"""
    insert into facet_month
    select each.field, span.month, stratum.facility_id, each.value, sum(day.files), sum(day.bytes),
        sum(day.fingerprint_high), sum(day.fingerprint_low)
    from (
        select stratum_id, case when day = -2147483648 then -2 else (
            extract(year from date '1970-01-01' + day) * 12 + extract(month from date '1970-01-01' + day) - 1
        )::int end as month, files, bytes, fingerprint_high, fingerprint_low from stratum_day
    ) as day join stratum on stratum.id = day.stratum_id
    cross join lateral (values ('', ''), {", ".join(FACETS)}) as each (field, value)
    cross join lateral (values (day.month), (-1)) as span (month)
    where each.value is not null group by 1, 2, 3, 4
    """,
    f"""
    insert into facet_pair
    select one.field, other.field, stratum.facility_id, one.value, other.value, sum(files), sum(bytes) from stratum
    cross join lateral (values {", ".join(FACETS)}) as one (field, value)
    cross join lateral (values {", ".join(FACETS)}) as other (field, value)
    where files <> 0 and one.value is not null and other.value is not null and one.field <> other.field
    group by 1, 2, 3, 4, 5
    """,
    f"""
    insert into sky_day select span.day, stratum_id, (hpx >> 46)::int, count(*), sum(size_bytes)
    from file cross join lateral (values ({DAY}), (-2147483647)) as span (day)
    where hpx is not null group by 1, 2, 3 order by 1
    """,
)

SUM_COLUMNS = "files bigint not null, bytes numeric not null"
PRINTS = "fingerprint_high numeric not null, fingerprint_low numeric not null"

TABLES = (
    f"""
    create table if not exists stratum (
        id integer generated by default as identity constraint stratum_pkey primary key,
        key text generated always as (stratum_key({", ".join(STRATUM)})) stored
            constraint stratum_key_key unique,
        facility_id smallint not null, storage_id smallint not null, cluster_id integer, detector_id integer,
        channel_id integer, level text, kind text, format text, object text, processing text, quality text,
        conditions text, is_simulation boolean, {SUM_COLUMNS}, {PRINTS}
    )
    """,
    "create index if not exists stratum_facility_id_idx on stratum (facility_id)",
    f"""
    create table if not exists stratum_day (
        facility_id smallint not null, day integer not null, stratum_id integer not null, {SUM_COLUMNS}, {PRINTS},
        constraint stratum_day_pkey primary key (facility_id, day, stratum_id)
    )
    """,
    "create index if not exists stratum_day_stratum_id_day_idx on stratum_day (stratum_id, day)",
    f"""
    create table if not exists facet_month (
        field text not null, month integer not null, facility_id smallint not null, value text not null,
        {SUM_COLUMNS}, {PRINTS}, constraint facet_month_pkey primary key (field, month, facility_id, value)
    )
    """,
    f"""
    create table if not exists facet_pair (
        field text not null, other_field text not null, facility_id smallint not null, value text not null,
        other_value text not null, {SUM_COLUMNS},
        constraint facet_pair_pkey primary key (field, other_field, facility_id, value, other_value)
    )
    """,
    f"""
    create table if not exists sky_day (
        day integer not null, stratum_id integer not null, cell integer not null, {SUM_COLUMNS},
        constraint sky_day_pkey primary key (day, stratum_id, cell)
    )
    """,
)

HISTORY_INDEXES = {
    "file_history_storage_id_path_idx": "storage_id, path",
    "file_history_facility_id_time_begin_id_idx": "facility_id, time_begin, id",
    "file_history_facility_id_added_in_idx": "facility_id, added_in",
    "file_history_facility_id_removed_in_idx": "facility_id, removed_in",
}

VIEW = f"""
    create view file_version as
    select id, {", ".join((*COMMON, *NEW))}, null::bigint as removed_in from file union all
    select id, {", ".join((*COMMON, *NEW))}, removed_in from file_history
"""

CHANGES = (
    """
    update change set facility_id = facility.id, revision = (detail->>'revision')::bigint from facility
    where change.kind in ('ingest', 'removal') and change.subject = facility.name and change.facility_id is null
    """,
    """
    update facility set change_id = last.id
    from (select facility_id, max(id) as id from change where facility_id is not null group by 1) as last
    where facility.id = last.facility_id
    """,
    """
    update facility set longest = coalesce((
        select max(time_over - time_begin) from file
        where file.facility_id = facility.id and time_over - time_begin <= interval '1 day'
    ), '0') where longest > interval '1 day'
    """,
)

SETTINGS = (
    # Insert-only tables are vacuumed after 2 % of new rows instead of 20 %: index-only counts need the visibility map.
    "alter table file set (autovacuum_vacuum_insert_scale_factor = 0.02, autovacuum_vacuum_scale_factor = 0.05,"
    " autovacuum_analyze_scale_factor = 0.02)",
    # Rows that are added to all the time: room for their next state on the same page, and old states soon cleared.
    *(
        f"alter table {name} set (fillfactor = 70, autovacuum_vacuum_scale_factor = 0.05,"
        " autovacuum_vacuum_threshold = 500)"
        for name in ("stratum", "stratum_day", "facet_month", "facet_pair", "sky_day", "facility")
    ),
)


def upgrade() -> None:
    with op.get_context().autocommit_block():
        driver = _driver()
        driver.execute("set timezone = 'UTC'")
        _add_columns(driver)
        for statement in (STRATUM_KEY, *TABLES):
            driver.execute(statement)
        _make_history(driver)
        for statement in SETTINGS:
            _briefly(driver, statement)
        _move_the_ended(driver)
        _fill_in(driver)
        for name, statement in INDEXES.items():
            _build(driver, name, statement)
        _refuse_writers_and_count(driver)
        _finish(driver)


def _driver() -> Driver:
    driver: Driver = op.get_bind().connection.driver_connection  # type: ignore[assignment]
    driver.row_factory = tuple_row
    return driver


def _briefly(driver: Driver, *statements: str) -> None:
    """Run statements that need a table for themselves, for a moment, without making others wait for long."""
    for tries_left in reversed(range(LOCK_TRIES)):
        try:
            with driver.transaction():
                driver.execute(f"set local lock_timeout = '{LOCK_TIMEOUT_S}s'")
                for statement in statements:
                    driver.execute(statement)
            return
        except psycopg.errors.LockNotAvailable:
            if not tries_left:
                raise


def _fetch(driver: Driver, statement: str, values: Any = None) -> list[tuple[Any, ...]]:
    return driver.execute(statement, values).fetchall()


def _add_columns(driver: Driver) -> None:
    _briefly(
        driver,
        "alter table file add column if not exists time_over timestamptz, add column if not exists hpx bigint,"
        " add column if not exists stratum_id integer, add column if not exists line_digest bytea",
        "alter table export_file drop constraint if exists export_file_file_id_fkey",
        "alter table facility add column if not exists change_id bigint not null default 0",
        "alter table change add column if not exists facility_id smallint, add column if not exists revision bigint",
    )
    driver.execute(
        "create index concurrently if not exists change_facility_id_id_idx on change (facility_id, id)"
        " where facility_id is not null"
    )
    driver.execute("create index concurrently if not exists change_at_idx on change (at) where facility_id is not null")


def _make_history(driver: Driver) -> None:
    if _fetch(driver, "select to_regclass('file_history') is not null") == [(True,)]:
        return
    with driver.transaction():
        driver.execute("create table file_history (like file)")
        driver.execute("alter table file_history drop column line_digest")
        driver.execute(
            "alter table file_history add constraint file_history_pkey primary key (id),"
            " alter column removed_in set not null, alter column stratum_id set not null,"
            " alter column checked_at set default now(),"
            " add constraint file_history_size_check check (size_bytes >= 0),"
            " add constraint file_history_time_check check (time_end >= time_begin),"
            " add constraint file_history_over_check check ((time_over is null) = (time_begin is null)),"
            " add constraint file_history_life_check check (removed_in > added_in)"
        )
        for name, columns in HISTORY_INDEXES.items():
            driver.execute(f"create index {name} on file_history ({columns})")


def _move_the_ended(driver: Driver) -> None:
    while True:
        with driver.transaction():
            driver.execute(
                "create temporary table batch on commit drop as"
                f" select * from file where removed_in is not null limit {BATCH_ROWS}"
            )
            _add_strata(driver, "batch")
            _put_cells(driver, "batch")
            found = driver.execute(
                f"insert into file_history (id, removed_in, {', '.join(COMMON)}, time_over, hpx, stratum_id)"
                f" select batch.id, batch.removed_in, {', '.join(f'batch.{name}' for name in COMMON)}, {OVER},"
                f" cell.hpx, stratum.id from batch left join cell on cell.id = batch.id"
                f" join stratum on stratum.key = {_key('batch')}"
            )
            driver.execute("delete from file using batch where file.id = batch.id")
        if not found.rowcount:
            return


def _fill_in(driver: Driver) -> None:
    """Fill the new columns of living rows; what is added meanwhile is done when writers wait."""
    ((first, last),) = _fetch(driver, "select min(id), max(id) from file where stratum_id is null")
    if first is None:
        return
    for begin in range(first, last + 1, BATCH_ROWS):
        with driver.transaction():
            driver.execute(
                "create temporary table batch on commit drop as select * from file"
                f" where id between {begin} and {begin + BATCH_ROWS - 1} and stratum_id is null"
            )
            _add_strata(driver, "batch")
            _put_cells(driver, "batch")
            driver.execute(
                f"update file set time_over = {OVER.replace('time_', 'file.time_')}, hpx = found.hpx,"
                " stratum_id = found.stratum_id from ("
                "   select batch.id, cell.hpx, stratum.id as stratum_id from batch"
                f"  left join cell on cell.id = batch.id join stratum on stratum.key = {_key('batch')}"
                " ) as found where file.id = found.id"
            )


def _key(table: str) -> str:
    return f"stratum_key({', '.join(f'{table}.{name}' for name in STRATUM)})"


def _add_strata(driver: Driver, table: str) -> None:
    driver.execute(
        f"insert into stratum ({', '.join(STRATUM)}, files, bytes, fingerprint_high, fingerprint_low)"
        f" select distinct {', '.join(STRATUM)}, 0, 0, 0, 0 from {table} on conflict (key) do nothing"
    )


def _put_cells(driver: Driver, table: str) -> None:
    """Make a table of the cells of a batch: numbers of rows and HEALPix cells of order 29."""
    driver.execute("create temporary table cell (id bigint, hpx bigint) on commit drop")
    rows = _fetch(driver, f"select id, ra_deg, dec_deg from {table} where ra_deg is not null")
    if not rows:
        return
    # Half a second to load: only for catalogues that have positions.
    from astropy.coordinates import Latitude, Longitude
    from cdshealpix.nested import lonlat_to_healpix

    numbers, ra_deg, dec_deg = zip(*rows, strict=True)
    cells = lonlat_to_healpix(Longitude([*ra_deg], unit="deg"), Latitude([*dec_deg], unit="deg"), 29)
    driver.execute(
        "insert into cell select * from unnest(%s::bigint[], %s::bigint[])", [list(numbers), [int(c) for c in cells]]
    )


def _build(driver: Driver, name: str, statement: str) -> None:
    """Build an index beside the work that goes on; one of the same name that is otherwise goes when it is done."""
    new = f"{name}_0004" if name in REPLACED else name
    ((is_valid,),) = _fetch(
        driver, "select coalesce((select indisvalid from pg_index where indexrelid = to_regclass(%s)), false)", [new]
    )
    if not is_valid:
        driver.execute(f"drop index concurrently if exists {new}")  # left by a build that was ended
        driver.execute(statement.format(new))


def _refuse_writers_and_count(driver: Driver) -> None:
    """Let writers of the older version wait, then fail; finish what they left, and count everything."""
    with driver.transaction():
        driver.execute("lock table file in share row exclusive mode")
        driver.execute(
            "create or replace function file_refuse() returns trigger language plpgsql as $$ begin"
            " raise exception 'the catalogue is being migrated: update this program'; end $$"
        )
        driver.execute("drop trigger if exists file_is_migrated on file")
        _move_the_ended(driver)
        _fill_in(driver)
        for table in ("stratum_day", "facet_month", "facet_pair", "sky_day"):
            driver.execute(f"truncate {table}")
        driver.execute("update stratum set files = 0, bytes = 0, fingerprint_high = 0, fingerprint_low = 0")
        for statement in TOTALS:
            driver.execute(statement)
        for statement in CHANGES:
            driver.execute(statement)
        driver.execute(
            "create trigger file_is_migrated before insert or update or delete on file"
            " for each statement execute function file_refuse()"
        )


def _finish(driver: Driver) -> None:
    checks = {
        "file_stratum_check": "stratum_id is not null",
        "file_over_check": "(time_over is null) = (time_begin is null)",
    }
    for name, condition in checks.items():
        _briefly(
            driver,
            f"alter table file drop constraint if exists {name}",
            f"alter table file add constraint {name} check ({condition}) not valid",
        )
        driver.execute(f"alter table file validate constraint {name}")
    _briefly(
        driver,
        "alter table file alter column stratum_id set not null, drop constraint file_stratum_check",
        "alter table file drop column removed_in cascade",
        "drop index if exists file_object_idx, file_dec_deg_ra_deg_idx",
        *(
            step
            for name in REPLACED
            for step in (f"drop index if exists {name}", f"alter index {name}_0004 rename to {name}")
        ),
        VIEW,
        "drop trigger file_is_migrated on file",
        "drop function file_refuse()",
    )
    for table in ("file", "file_history", "stratum", "stratum_day", "facet_month", "facet_pair", "sky_day"):
        driver.execute(f"analyze {table}")


def downgrade() -> None:
    op.execute("drop view file_version")
    op.execute("alter table file add column removed_in bigint")
    common = ", ".join(COMMON)
    op.execute(
        f"insert into file (id, removed_in, time_over, hpx, stratum_id, {common}) overriding system value"
        f" select id, removed_in, time_over, hpx, stratum_id, {common} from file_history"
    )
    for name in INDEXES:
        op.execute(f"drop index {name}")
    for name, statement in OLD_INDEXES.items():
        op.execute(statement.format(name))
    op.execute("alter table file drop constraint file_over_check")
    op.execute("alter table file add constraint file_life_check check (removed_in > added_in)")
    for name in (*NEW, "line_digest"):
        op.execute(f"alter table file drop column {name}")
    for table in ("sky_day", "facet_pair", "facet_month", "stratum_day", "stratum", "file_history"):
        op.execute(f"drop table {table}")
    op.execute("drop function stratum_key")
    op.execute("alter table facility drop column change_id")
    op.execute("alter table change drop column facility_id, drop column revision")
    op.execute(
        "alter table export_file add constraint export_file_file_id_fkey foreign key (file_id) references file (id)"
    )
    op.execute(
        "alter table file reset (autovacuum_vacuum_insert_scale_factor, autovacuum_vacuum_scale_factor,"
        " autovacuum_analyze_scale_factor)"
    )
    op.execute("alter table facility reset (fillfactor, autovacuum_vacuum_scale_factor, autovacuum_vacuum_threshold)")
