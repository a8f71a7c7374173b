"""Roll-ups: numbers of whole catalogues, kept by the transactions that change files, so that counts need not scan.

For each stratum and day of begin, for each value of a field and month, and for each stratum, month and cell of the
sky: how many living files, how many bytes, and the sums of their fingerprints. All of them are sums, so a change of
files adds what came and subtracts what went.
"""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, TypeAlias

from metadata_db.tables import ALL_DAYS, ALL_MONTHS, HPX_ORDER, NO_DAY, NO_MONTH, SKY_ORDER, STRATUM_COLUMNS

Execute: TypeAlias = Callable[[str, Mapping[str, Any]], Awaitable[Any]]

CELL_SHIFT = 2 * (HPX_ORDER - SKY_ORDER)
"""Bits by which a cell of `sky_day` is coarser than `file.hpx`."""

DAY = f"coalesce(floor(extract(epoch from time_begin) / 86400)::int, {NO_DAY})"
MONTH = f"coalesce((extract(year from time_begin) * 12 + extract(month from time_begin) - 1)::int, {NO_MONTH})"

# The facility itself is a column of `facet_month`; the sums of all its files stand under the field ''.
_VALUES = ", ".join(
    ["('', '')", *(f"('{name.removesuffix('_id')}', stratum.{name}::text)" for name in STRATUM_COLUMNS[1:])]
)

_UPSERT = "files = {0}.files + excluded.files, bytes = {0}.bytes + excluded.bytes"
_UPSERT_ALL = (
    f"{_UPSERT}, fingerprint_high = {{0}}.fingerprint_high + excluded.fingerprint_high,"
    " fingerprint_low = {0}.fingerprint_low + excluded.fingerprint_low"
)
_SUMS = "sum(files), sum(bytes), sum(fingerprint_high), sum(fingerprint_low)"
_ALL_SUMS = "sum({0}files) as files, sum({0}bytes) as bytes" + "".join(
    f", sum({{0}}{name}) as {name}" for name in ("fingerprint_high", "fingerprint_low")
)


def _moved(source: str, sign: str) -> str:
    return (
        f"select stratum_id, time_begin, hpx, {sign}1 as sign, {sign}size_bytes as bytes,"
        f" {sign}fingerprint_high::numeric as high, {sign}fingerprint_low::numeric as low from {source}"
        " where facility_id = %(facility_id)s and "
    )


_DELTA = f"""
    create temporary table delta on commit drop as
    select stratum_id, {DAY} as day, {MONTH} as month, (hpx >> {CELL_SHIFT})::int as cell,
        sum(sign) as files, sum(bytes) as bytes, sum(high) as fingerprint_high, sum(low) as fingerprint_low
    from (
        {_moved("file", "")} added_in = %(revision)s union all
        {_moved("file_history", "-")} removed_in = %(revision)s
    ) as moved group by 1, 2, 3, 4
"""
"""What a revision changed: files that came count for it, files that went against it."""

_DAYS = f"""
    insert into stratum_day select %(facility_id)s, day, stratum_id, {_SUMS} from delta group by 2, 3
    on conflict (facility_id, day, stratum_id) do update set {_UPSERT_ALL.format("stratum_day")}
"""

_STRATA = """
    update stratum set files = stratum.files + found.files, bytes = stratum.bytes + found.bytes,
        fingerprint_high = stratum.fingerprint_high + found.high, fingerprint_low = stratum.fingerprint_low + found.low
    from (
        select stratum_id, sum(files) as files, sum(bytes) as bytes, sum(fingerprint_high) as high,
            sum(fingerprint_low) as low
        from delta group by 1
    ) as found where stratum.id = found.stratum_id
"""


def _facet_sums(source: str) -> str:
    """Return the rows of `facet_month` of a source of sums by stratum and month."""
    return f"""
        select each.field, span.month, stratum.facility_id, each.value, {_ALL_SUMS.format("delta.")}
        from ({source}) as delta join stratum on stratum.id = delta.stratum_id
        cross join lateral (values {_VALUES}) as each (field, value)
        cross join lateral (values (delta.month), ({ALL_MONTHS})) as span (month)
        where each.value is not null group by 1, 2, 3, 4
    """


_FACETS = f"""
    insert into facet_month select found.*, %(revision)s from (
        {_facet_sums(f"select stratum_id, month, {_ALL_SUMS.format('')} from delta group by 1, 2")}
    ) as found
    on conflict (field, month, facility_id, value) do update set {_UPSERT_ALL.format("facet_month")},
        revision = excluded.revision
"""


_SKY = f"""
    insert into sky_day select span.day, stratum_id, cell, sum(files), sum(bytes)
    from delta cross join lateral (values (delta.day), ({ALL_DAYS})) as span (day)
    where cell is not null group by 1, 2, 3
    on conflict (day, stratum_id, cell) do update set {_UPSERT.format("sky_day")}
"""

_STEPS: Sequence[str] = (_DELTA, _DAYS, _STRATA, _FACETS, _SKY)


async def add_up(execute: Execute, *, facility_id: int, revision: int) -> None:
    """Bring all roll-ups of a facility to `revision`, in the transaction that has just made it.

    Parameters
    ----------
    execute
        Runs a statement in that transaction, which holds the lock on the facility.
    """
    for step in _STEPS:
        await execute(step, {"facility_id": facility_id, "revision": revision})


# --- from nothing -----------------------------------------------------------------------------------------------------

_FILE_SUMS = (
    "count(*) as files, sum(size_bytes) as bytes, sum(fingerprint_high) as fingerprint_high,"
    " sum(fingerprint_low) as fingerprint_low"
)


def count_strata(within: str = "true") -> str:
    """Return what `stratum` has to say, counted from the files of a condition."""
    return f"select stratum_id as id, {_FILE_SUMS} from file where {within} group by 1"


def count_days(within: str = "true") -> str:
    """Return what `stratum_day` has to say, counted from the files of a condition."""
    return f"select facility_id, {DAY} as day, stratum_id, {_FILE_SUMS} from file where {within} group by 1, 2, 3"


def count_facets(within: str = "true") -> str:
    """Return what `facet_month` has to say, counted from the files of a condition."""
    return _facet_sums(f"select stratum_id, {MONTH} as month, {_FILE_SUMS} from file where {within} group by 1, 2")


def last_changes(within: str = "true") -> str:
    """Return the last revision in which a file of each month, and of the whole life, came: of those of a condition."""
    return f"""
        select facility_id, span.month, max(added_in) as revision from file
        cross join lateral (values ({MONTH}), ({ALL_MONTHS})) as span (month) where {within} group by 1, 2
    """


def count_sky(within: str = "true") -> str:
    """Return what `sky_day` has to say, counted from the files of a condition."""
    return f"""
        select span.day, stratum_id, cell, sum(files)::int8 as files, sum(bytes) as bytes
        from (
            select {DAY} as day, stratum_id, (hpx >> {CELL_SHIFT})::int as cell, count(*) as files,
                sum(size_bytes) as bytes
            from file where hpx is not null and {within} group by 1, 2, 3
        ) as counted cross join lateral (values (day), ({ALL_DAYS})) as span (day)
        group by 1, 2, 3
    """


_DAY_MONTH = f"""
    case when day = {NO_DAY} then {NO_MONTH} else (
        extract(year from date '1970-01-01' + day) * 12 + extract(month from date '1970-01-01' + day) - 1
    )::int end
"""

_MONTHS_OF_DAYS = f"select stratum_id, {_DAY_MONTH} as month, {_ALL_SUMS.format('')} from stratum_day group by 1, 2"

REBUILD: Sequence[str] = (
    "delete from stratum_day",
    "delete from facet_month",
    "delete from sky_day",
    # In the order of days, in which they are read.
    f"insert into stratum_day {count_days()} order by 1, 2",
    "update stratum set files = 0, bytes = 0, fingerprint_high = 0, fingerprint_low = 0"
    " where (files, bytes, fingerprint_high, fingerprint_low) <> (0, 0, 0, 0)",
    _STRATA.replace("from delta", "from stratum_day"),
    # Of tables that have just been filled the planner knows nothing, and takes twice as long for what comes now.
    "analyze stratum, stratum_day",
    # What is counted anew may be what somebody keeps otherwise: it is of the revision that will say so.
    f"insert into facet_month select found.*, facility.revision + 1 from ({_facet_sums(_MONTHS_OF_DAYS)}) as found"
    " join facility on facility.id = found.facility_id",
    f"insert into sky_day {count_sky()} order by 1",
)
"""Counts everything anew; the writers of all facilities must be locked out. Searches go on meanwhile and see what was:
rows are deleted, for a truncated table is empty to those who began before it was, too."""
