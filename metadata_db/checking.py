"""The catalogue checked against itself, and mended where what is wrong can be derived from the rest.

Each check is one look at one state of the catalogue, so ingests that go on meanwhile make no findings. What is mended
is mended in steps, each a transaction with a row in `change`. Steps that change what answers say move the revisions of
their facilities, so that caches forget.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from enum import Enum
from typing import Any, TypeAlias

import psycopg
from psycopg import sql
from psycopg.types.json import Jsonb

from metadata_db.database import Driver, connected
from metadata_db.errors import NotFoundError
from metadata_db.loading import CHANGE_LOCK, MOVE_ON
from metadata_db.rollups import (
    REBUILD,
    count_days,
    count_facets,
    count_sky,
    count_strata,
    last_changes,
)
from metadata_db.settings import CatalogueSettings
from metadata_db.sky import find_cells
from metadata_db.tables import IN_SAMPLE, STRATUM_COLUMNS

SHOWN = 5
"""Findings of one check that are told one by one."""

BATCH_ROWS = 20_000
"""Positions whose cells are computed in one go."""

MANY_ROWS = 10_000
"""Tables of fewer rows need no vacuum to be quick."""


class Mend(Enum):
    """What mends the findings of a check."""

    FACILITY = "facility"
    """Derives columns of files and of the facility anew, facility by facility; their ingests wait."""
    ROLLUPS = "roll-ups"
    """Counts everything anew, while no ingest can."""
    INDEXES = "indexes"
    NONE = "none"
    """Nothing: what is right cannot be derived."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Outcome:
    """What a check has found."""

    name: str
    compares: str
    mend: Mend
    count: int
    """Number of findings."""
    findings: Sequence[str]
    """The first few of them."""
    is_note: bool = False
    """Whether it is only worth knowing, and nothing is wrong."""


Finding: TypeAlias = tuple[int, Sequence[str]]
"""Number of findings, and the first few."""


@dataclass(frozen=True, kw_only=True, slots=True)
class _Check:
    name: str
    compares: str
    mend: Mend
    find: "str | Callable[[Driver, Mapping[str, Any], bool], Finding]"
    """Statement that gives a text for each finding, or a function that finds them."""
    is_note: bool = False

    @property
    def can_sample(self) -> bool:
        """Whether it looks at each file by itself, so that a sample says something."""
        return callable(self.find) or _SAMPLE in self.find


class Checker:
    """Checks a catalogue against itself, and mends it.

    Parameters
    ----------
    facility
        The only facility whose files are looked at; None looks at all.
    is_sampled
        Whether derived columns are looked at in one file of 256, whichever it is, instead of in all.

    Raises
    ------
    NotFoundError
        There is no such facility; raised by `check` and `mend`.
    """

    def __init__(self, settings: CatalogueSettings, *, facility: str | None = None, is_sampled: bool = False) -> None:
        self._settings = settings
        self._facility = facility
        self._is_sampled = is_sampled

    def check(self) -> Iterator[Outcome]:
        """Yield the outcome of each check; nothing is changed."""
        with connected(self._settings, autocommit=True) as driver:
            values = {"facility": self._find_facility(driver)}
            for check in _CHECKS:
                with driver.transaction():
                    driver.execute("set transaction isolation level repeatable read, read only")
                    driver.execute("set local work_mem = '256MB'")
                    count, findings = self._find(driver, check, values)
                yield Outcome(
                    name=check.name,
                    compares=check.compares + (", in one file of 256" if self._is_sampled and check.can_sample else ""),
                    mend=check.mend,
                    count=count,
                    findings=findings,
                    is_note=check.is_note,
                )

    def _find(self, driver: Driver, check: _Check, values: Mapping[str, Any]) -> Finding:
        if callable(check.find):
            return check.find(driver, values, self._is_sampled)
        statement = check.find.replace(_SAMPLE, IN_SAMPLE if self._is_sampled else "true")
        return _collect(driver, f"select * from ({statement}) as found (told) order by told", values)

    def _find_facility(self, driver: Driver) -> int | None:
        if self._facility is None:
            return None
        found = driver.execute("select id from facility where name = %s", [self._facility]).fetchone()
        if found is None:
            raise NotFoundError("facility", self._facility)
        return int(found[0])

    def mend(self, outcomes: Sequence[Outcome]) -> Iterator[str]:
        """Mend what `check` has found, and yield what was done and what cannot be."""
        found = {outcome.mend for outcome in outcomes if outcome.count and not outcome.is_note}
        with connected(self._settings, autocommit=True) as driver:
            number = self._find_facility(driver)
            if Mend.INDEXES in found:
                yield from _mend_indexes(driver)
            are_sums_wrong = Mend.ROLLUPS in found
            if Mend.FACILITY in found:
                for name, mended in _mend_facilities(driver, number):
                    are_sums_wrong |= bool(mended["stratum_id"] or mended["hpx"])
                    yield f"{name}: mended {', '.join(f'{what} of {n:,}' for what, n in mended.items() if n)}"
            if are_sums_wrong:
                yield _rebuild(driver)
        for outcome in outcomes:
            if outcome.count and outcome.mend is Mend.NONE and not outcome.is_note:
                yield f"{outcome.name}: cannot be mended, for what is right cannot be derived"


def _run(driver: Driver, statement: str, values: Mapping[str, Any] | None = None) -> "psycopg.Cursor[tuple[Any, ...]]":
    return driver.execute(sql.SQL(statement), values)  # put together from constants


def _collect(driver: Driver, statement: str, values: Mapping[str, Any]) -> Finding:
    """Return the number of rows of a statement and its first few texts, however many there are."""
    shown = f"select told, count(*) over () from ({statement}) as found limit {SHOWN}"
    rows = _run(driver, shown, values).fetchall()
    return (rows[0][1] if rows else 0), [row[0] for row in rows]


# --- checks -----------------------------------------------------------------------------------------------------------

_SAMPLE = "{sample}"
"""Stands in a statement for the condition on the sample."""

_OURS = "(%(facility)s::int2 is null or facility_id = %(facility)s)"

_OF_OUR_STRATA = (
    "(%(facility)s::int2 is null or stratum_id in (select id from stratum where facility_id = %(facility)s))"
)

_LABEL = (
    "concat('file ', coalesce((select name from storage where storage.id = f.storage_id), f.storage_id::text),"
    " '/', f.path, case when f.removed_in is not null then concat(', until revision ', f.removed_in) end)"
)

_OVER = "case when time_end > time_begin then time_end else time_begin + interval '1 microsecond' end"

_STRATUM = ", ".join(f"f.{name}" for name in STRATUM_COLUMNS)
_STRATUM_DIFFERS = f"({_STRATUM}) is distinct from ({', '.join(f'stratum.{name}' for name in STRATUM_COLUMNS)})"

_VERSIONS = f"(select * from file_version where {_OURS} and {_SAMPLE}) as f"


def _compare_sums(table: str, kept: str, counted: str, keys: Sequence[str], *, has_checksum: bool = True) -> str:
    """Return a statement that compares kept sums with counted ones; where there are none the sums are 0."""
    sums = ["files", "bytes", *(["fingerprint_high", "fingerprint_low"] if has_checksum else [])]
    kept_sums, counted_sums = ([f"coalesce({alias}.{name}, 0)" for name in sums] for alias in ("kept", "counted"))
    says, is_ = (f"{files}, ' files, ', {size}, ' bytes'" for files, size, *_ in (kept_sums, counted_sums))
    place = ", ' ', ".join(keys)
    return f"""
        select concat('{table} ', {place}, ': says ', {says}, '; counted ', {is_},
            case when {_together(kept_sums[:2])} = {_together(counted_sums[:2])} then ', another checksum' end)
        from ({kept}) as kept full join ({counted}) as counted using ({", ".join(keys)})
        where {_together(kept_sums)} is distinct from {_together(counted_sums)}
    """


def _together(values: Sequence[str]) -> str:
    return f"({', '.join(values)})"


_LIVES = f"""
    with version as (
        select facility_id, storage_id, path, added_in, removed_in from file_history where {_OURS} union all
        select facility_id, storage_id, path, added_in, null from file where {_OURS}
        and (storage_id, path) in (select storage_id, path from file_history)
    ), f as (
        select *, lead(added_in) over (
            partition by facility_id, storage_id, path order by added_in, removed_in nulls last
        ) as next_in from version
    )
    select concat({_LABEL}, ': lives beside one of revision ', next_in) from f
    where next_in < removed_in or (next_in is not null and removed_in is null)
    union all
    select concat({_LABEL}, ': lives ', n, ' times') from (
        select storage_id, path, count(*) as n, null as removed_in from file where {_OURS} group by 1, 2
        having count(*) > 1
    ) as f
"""

_ORPHANS = f"""
    select concat({_LABEL}, ': there is no', each.missing)
    from {_VERSIONS.replace(_SAMPLE, "true")}
    left join facility on facility.id = f.facility_id left join storage on storage.id = f.storage_id
    left join stratum on stratum.id = f.stratum_id
    {
    " ".join(
        f"left join {kind} on {kind}.id = f.{kind}_id and {kind}.facility_id = f.facility_id"
        for kind in ("cluster", "detector", "channel")
    )
}
    cross join lateral (select concat_ws(',', {
    ", ".join(
        f"case when f.{kind}_id is not null and {kind}.id is null then concat(' {kind} ', f.{kind}_id) end"
        for kind in ("facility", "storage", "cluster", "detector", "channel", "stratum")
    )
}) as missing) as each
    where each.missing <> ''
    union all
    select concat('export_file ', export_id, ' ', path, ': there is no version ', file_id) from export_file
    where not exists (select from file where file.id = file_id)
      and not exists (select from file_history where file_history.id = file_id)
    union all
    select concat('replica ', path, ': there is no storage ', storage_id) from replica
    where not exists (select from storage where storage.id = storage_id)
"""

_REACHED = """
    select facility.id, facility.name, facility.revision, facility.change_id,
        (select max(change.revision) from change where change.facility_id = facility.id) as told,
        (select max(change.id) from change where change.facility_id = facility.id) as told_in,
        (select max(added_in) from file where file.facility_id = facility.id) as added_in,
        (select max(added_in) from file_history as f where f.facility_id = facility.id) as added_before,
        (select max(removed_in) from file_history as f where f.facility_id = facility.id) as removed_in
    from facility where %(facility)s::int2 is null or facility.id = %(facility)s
"""
"""How far each facility is by its own word, by that of the changes, and by its files."""

_REVISIONS = f"""
    select concat('facility ', name, ': is at revision ', revision, ' by change ', change_id, problem)
    from ({_REACHED}) as reached cross join lateral (values
        (told is distinct from nullif(revision, 0), concat(', the changes say ', coalesce(told, 0))),
        (told_in is distinct from nullif(change_id, 0), concat(', its last change is ', coalesce(told_in, 0))),
        (greatest(added_in, added_before) > revision, concat(', files came in ', greatest(added_in, added_before))),
        (removed_in > revision, concat(', files went in ', removed_in))
    ) as each (is_wrong, problem) where is_wrong
"""

_CHANGED_LATER = f"""
    select concat('facet_month ', facility_id, ' ', month, ': says it changed in revision ', kept.revision,
        '; files came in ', changed.revision)
    from facet_month as kept join ({last_changes(_OURS)}) as changed using (facility_id, month)
    where kept.field = '' and kept.revision < changed.revision
"""
"""Months whose files changed later than they say: what processes keep of them is taken for true."""

_LONGEST = f"""
    select facility_id, max(time_over - time_begin) as longest from file
    where time_over - time_begin <= interval '1 day' and {_OURS} group by 1
"""

_INVALID = """
    select relname as name from pg_index join pg_class on pg_class.oid = indexrelid
    where relnamespace = current_schema()::regnamespace and not (indisvalid and indisready)
      and not exists (select from pg_stat_progress_create_index as building where building.index_relid = indexrelid)
"""
"""Indexes that are of no use; one that is being built is not complete yet, and no finding."""


def _find_wrong_cells(driver: Driver, values: Mapping[str, Any], is_sampled: bool) -> Finding:
    count = 0
    findings: list[str] = []
    storages = dict(_run(driver, "select id, name from storage").fetchall())
    condition = f"{_OURS} and {IN_SAMPLE if is_sampled else 'true'}"
    for table in ("file", "file_history"):
        for _, storage_id, path, told, cell in _iter_wrong_cells(driver, table, condition, values):
            count += 1
            if len(findings) < SHOWN:
                place = f"{storages.get(storage_id, storage_id)}/{path}"
                findings.append(f"{table} {place}: says cell {told}; its position is in {cell}")
    return count, findings


def _iter_wrong_cells(
    driver: Driver, table: str, condition: str, values: Mapping[str, Any]
) -> Iterator[tuple[int, int, str, int | None, int | None]]:
    """Yield number, storage, path, stated and true cell of each file whose cell is not that of its position."""
    with driver.cursor(name=f"positions_{table}") as cursor:
        statement = (
            f"select id, storage_id, path, hpx, ra_deg, dec_deg from {table}"
            f" where (hpx is not null or ra_deg is not null) and {condition}"
        )
        cursor.execute(sql.SQL(statement), values)
        while rows := cursor.fetchmany(BATCH_ROWS):
            cells = find_cells([_position(ra, dec) for *_, ra, dec in rows])
            for (number, storage_id, path, told, *_), cell in zip(rows, cells, strict=True):
                if told != cell:
                    yield number, storage_id, path, told, cell


def _position(ra_deg: float | None, dec_deg: float | None) -> tuple[float, float] | None:
    """Return a position, None where there is none that can be."""
    if ra_deg is None or dec_deg is None or not (0 <= ra_deg < 360 and -90 <= dec_deg <= 90):
        return None
    return ra_deg, dec_deg


_CHECKS: Sequence[_Check] = (
    _Check(
        name="indexes",
        compares="every index against whether it can be used",
        mend=Mend.INDEXES,
        find=f"select concat('index ', name, ': is not valid') from ({_INVALID}) as invalid",
    ),
    _Check(
        name="time_over",
        compares="the first moment after each file against its begin and end",
        mend=Mend.FACILITY,
        find=f"""
            select concat({_LABEL}, ': says ', time_over, '; it is ', {_OVER}) from {_VERSIONS}
            where time_over is distinct from {_OVER}
        """,
    ),
    _Check(
        name="stratum_id",
        compares="the stratum of each file against the file's own values",
        mend=Mend.FACILITY,
        find=f"""
            select concat({_LABEL}, ': stratum ', stratum_id, ' is of other values')
            from {_VERSIONS} left join stratum on stratum.id = f.stratum_id where {_STRATUM_DIFFERS}
        """,
    ),
    _Check(
        name="hpx",
        compares="the cell of each file against its position",
        mend=Mend.FACILITY,
        find=_find_wrong_cells,
    ),
    _Check(
        name="longest",
        compares="the longest file of each facility, of those up to a day, against its files",
        mend=Mend.FACILITY,
        find=f"""
            select concat('facility ', name, ': says ', facility.longest, '; there is one of ', found.longest)
            from facility join ({_LONGEST}) as found on found.facility_id = facility.id
            where facility.longest < found.longest
        """,
    ),
    _Check(
        name="revision",
        compares="revision and change of each facility against the changes and its files",
        mend=Mend.FACILITY,
        find=_REVISIONS,
    ),
    _Check(
        name="stratum",
        compares="sums of each stratum against the files",
        mend=Mend.ROLLUPS,
        find=_compare_sums("stratum", f"select * from stratum where {_OURS}", count_strata(_OURS), ["id"]),
    ),
    _Check(
        name="stratum_day",
        compares="sums of each day and stratum against the files",
        mend=Mend.ROLLUPS,
        find=_compare_sums(
            "stratum_day",
            f"select * from stratum_day where {_OURS}",
            count_days(_OURS),
            ["facility_id", "day", "stratum_id"],
        ),
    ),
    _Check(
        name="facet_month",
        compares="sums of each value and month, and when they changed, against the files",
        mend=Mend.ROLLUPS,
        find=_compare_sums(
            "facet_month",
            f"select * from facet_month where {_OURS}",
            count_facets(_OURS),
            ["field", "month", "facility_id", "value"],
        )
        + f" union all {_CHANGED_LATER}",
    ),
    _Check(
        name="sky_day",
        compares="sums of each day, stratum and cell of the sky against the files",
        mend=Mend.ROLLUPS,
        find=_compare_sums(
            "sky_day",
            f"select * from sky_day where {_OF_OUR_STRATA}",
            count_sky(_OURS),
            ["day", "stratum_id", "cell"],
            has_checksum=False,
        ),
    ),
    _Check(
        name="lives",
        compares="the versions of each path against each other: no two live at once",
        mend=Mend.NONE,
        find=_LIVES,
    ),
    _Check(
        name="ended",
        compares="the end of each ended version against its beginning",
        mend=Mend.NONE,
        find=f"""
            select concat({_LABEL}, ': came in revision ', added_in) from file_history as f
            where removed_in <= added_in and {_OURS}
        """,
    ),
    _Check(
        name="orphans",
        compares="numbers in files, members of exports and replicas against what bears them",
        mend=Mend.NONE,
        find=_ORPHANS,
    ),
    _Check(
        name="vacuum",
        compares="tables against when they were vacuumed, and how much of them is dead",
        mend=Mend.NONE,
        find=f"""
            select concat('table ', relname, ': ', problem) from pg_stat_user_tables cross join lateral (values
                (coalesce(last_vacuum, last_autovacuum) is null, 'was never vacuumed'),
                (n_dead_tup > n_live_tup / 4, concat('holds ', n_dead_tup, ' dead rows beside ', n_live_tup))
            ) as each (is_so, problem)
            where schemaname = current_schema() and n_live_tup + n_dead_tup > {MANY_ROWS} and is_so
        """,
        is_note=True,
    ),
)


# --- mending ----------------------------------------------------------------------------------------------------------


def _mend_indexes(driver: Driver) -> Iterator[str]:
    for (name,) in _run(driver, _INVALID).fetchall():
        # What a rebuilding that was ended has left is of no use to anybody.
        is_leftover = name.rstrip("0123456789").endswith(("_ccnew", "_ccold"))
        order = "drop index concurrently {}" if is_leftover else "reindex index concurrently {}"
        try:
            driver.execute(sql.SQL(order).format(sql.Identifier(name)))
        except psycopg.errors.UniqueViolation as error:
            yield f"indexes: {name} cannot be built: {error.diag.message_detail}"
            continue
        done = "dropped" if is_leftover else "rebuilt"
        driver.execute(
            "insert into change (at, kind, subject, detail) values (clock_timestamp(), 'repair', %s, %s)",
            [name, Jsonb({"index": done})],
        )
        yield f"indexes: {name} is {done}"


def _mend_facilities(driver: Driver, only: int | None) -> Iterator[tuple[str, Mapping[str, int]]]:
    """Derive what can be, facility by facility; yield the name of each, and how many of what were mended."""
    facilities = _run(
        driver,
        "select id, name from facility where %(facility)s::int2 is null or id = %(facility)s order by id",
        {"facility": only},
    ).fetchall()
    for number, name in facilities:
        values = {"facility": number}
        with _moving_on(driver):
            _run(driver, "select from facility where id = %(facility)s for update", values)
            mended = {
                "time_over": _derive(driver, _SET_OVER, values),
                "stratum_id": _derive_strata(driver, values),
                "hpx": sum(_derive_cells(driver, table, values) for table in ("file", "file_history")),
                "longest": _run(driver, _SET_LONGEST, values).rowcount,
                "revision": _run(driver, f"select from ({_REVISIONS}) as wrong limit 1", values).rowcount,
            }
            if not any(mended.values()):
                continue
            _move_on(driver, name, number, mended)
        yield name, mended


_SET_OVER = f"update {{table}} as f set time_over = {_OVER} where {_OURS} and time_over is distinct from {_OVER}"

_ADD_STRATA = f"""
    insert into stratum ({", ".join(STRATUM_COLUMNS)}, files, bytes, fingerprint_high, fingerprint_low)
    select distinct {_STRATUM}, 0, 0, 0, 0 from (select * from {{table}} where {_OURS}) as f
    left join stratum on stratum.id = f.stratum_id where {_STRATUM_DIFFERS}
    on conflict (key) do nothing
"""

_SET_STRATUM = f"""
    update {{table}} as changed set stratum_id = right_one.id
    from (
        select f.id, stratum_key({_STRATUM}) as key from (select * from {{table}} where {_OURS}) as f
        left join stratum on stratum.id = f.stratum_id where {_STRATUM_DIFFERS}
    ) as wrong join stratum as right_one on right_one.key = wrong.key
    where changed.id = wrong.id
"""

_SET_LONGEST = f"""
    update facility set longest = found.longest from ({_LONGEST}) as found
    where facility.id = found.facility_id and facility.longest < found.longest
"""


def _derive(driver: Driver, statement: str, values: Mapping[str, Any]) -> int:
    """Run a statement on living and ended versions; return how many rows it changed."""
    return sum(_run(driver, statement.replace("{table}", table), values).rowcount for table in ("file", "file_history"))


def _derive_strata(driver: Driver, values: Mapping[str, Any]) -> int:
    _derive(driver, _ADD_STRATA, values)
    return _derive(driver, _SET_STRATUM, values)


def _derive_cells(driver: Driver, table: str, values: Mapping[str, Any]) -> int:
    count = 0
    with driver.cursor() as cursor:
        wrong = ((cell, number) for number, *_, cell in _iter_wrong_cells(driver, table, _OURS, values))
        while batch := [each for _, each in zip(range(BATCH_ROWS), wrong, strict=False)]:
            cursor.executemany(sql.SQL(f"update {table} set hpx = %s where id = %s"), batch)
            count += len(batch)
    return count


@contextmanager
def _moving_on(driver: Driver) -> Iterator[None]:
    """Give a transaction in which facilities are moved on."""
    with driver.transaction():
        driver.execute("set local work_mem = '256MB'")
        yield


def _move_on(driver: Driver, name: str, number: int, detail: Mapping[str, int]) -> None:
    """Move a facility beyond all revisions that anything knows of, with a change."""
    driver.execute("select pg_advisory_xact_lock(%s)", [CHANGE_LOCK])
    row = _run(driver, f"select {_BEYOND} from ({_REACHED}) as reached", {"facility": number}).fetchone()
    revision = int(row[0]) if row else 1
    told = Jsonb({"revision": revision, **detail})
    _run(driver, MOVE_ON, {"id": number, "name": name, "revision": revision, "kind": "repair", "detail": told})


_BEYOND = "greatest(revision, told, added_in, added_before, removed_in) + 1"


def _rebuild(driver: Driver) -> str:
    """Count everything anew, while no facility can be moved."""
    with _moving_on(driver):
        # Ingests lock their facility's row before they touch anything, and wait for this; so do new facilities.
        driver.execute("lock table facility in exclusive mode")
        driver.execute("select from facility order by id for update")
        for statement in REBUILD:
            _run(driver, statement)
        facilities = driver.execute("select id, name from facility where revision > 0 order by id").fetchall()
        for number, name in facilities:
            _move_on(driver, name, number, {"rollups": 1})
    driver.execute("vacuum (analyze) stratum, stratum_day, facet_month, sky_day")
    return f"roll-ups: counted anew, for all {len(facilities)} facilities that have files"
