"""Moments in the life of the catalogue: which revision each facility had when it was at one of its own.

Changes of files get number and time under a lock that is held until they can be seen (`loading.py`). So the number of
a change is a revision of the whole catalogue: it says for ever which changes came before it. Only numbers of changes of
files count; exports write changes too, without the lock.
"""

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import text

from metadata_db.database import Database
from metadata_db.errors import BadInputError
from metadata_db.loading import CHANGE_LOCK
from metadata_db.search import Revisions


@dataclass(frozen=True, kw_only=True, slots=True)
class Moment:
    """What the facilities were at; one whose files had never changed is not there."""

    revisions: Revisions
    changes: Revisions
    """Facility name → number of the change that made its revision."""

    @property
    def revision(self) -> int:
        """Revision of the catalogue: the last change of one of these facilities; 0 before the first."""
        return max(self.changes.values(), default=0)

    def of(self, names: Collection[str]) -> "Moment":
        """Return the same moment of the named facilities alone; of all when none is named.

        Its revision is theirs: the same number, however the others move.
        """
        if not names:
            return self
        return Moment(
            revisions={name: number for name, number in self.revisions.items() if name in names},
            changes={name: number for name, number in self.changes.items() if name in names},
        )


_PRESENT = "select name, revision, change_id from facility where revision > 0 order by name"

_AS_OF_REVISION = """
    select last.id, facility.name, facility.revision, facility.id
    from (select coalesce(max(change_id), 0) as id from facility where revision > 0) as last
    left join lateral (
        select facility.name, found.revision, found.id from facility cross join lateral (
            select change.id, change.revision from change
            where change.facility_id = facility.id and change.id <= %(revision)s order by change.id desc limit 1
        ) as found
    ) as facility on true order by facility.name
"""
"""The last change of each facility; each row begins with the last change of all, and there is one at least."""

_LAST_CHANGE = """
    select coalesce(max(found.id), 0)
    from unnest(cast(%(names)s as text[]), cast(%(numbers)s as bigint[])) as wanted (name, revision)
    join facility on facility.name = wanted.name
    cross join lateral (
        select change.id from change
        where change.facility_id = facility.id and change.revision <= wanted.revision order by change.id desc limit 1
    ) as found
"""
"""Backwards from the newest change of each facility: revisions that are asked about are seldom old."""

_AS_OF_TIME = """
    select clock_timestamp(), coalesce((
        select id from change where facility_id is not null and at <= :time order by at desc, id desc limit 1
    ), 0)
"""


async def read_moment(database: Database, as_of: int | datetime | None, *, name: str) -> Moment:
    """Return what the facilities are at, or were at as of a revision of the catalogue or a time.

    Parameters
    ----------
    name
        What errors call the revision or the time.

    Raises
    ------
    BadInputError
        The catalogue has not come so far.
    """
    if as_of is None:
        return _moment(await database.read(_PRESENT, {}))
    revision = as_of if isinstance(as_of, int) else await _find_revision(database, as_of, name)
    if not 0 <= revision < 2**63:
        raise BadInputError(name, revision, "a revision of the catalogue")
    rows = await database.read(_AS_OF_REVISION, {"revision": revision})
    if revision > rows[0][0]:
        raise BadInputError(name, revision, f"a revision that there is already, at most {rows[0][0]}")
    return _moment([row[1:] for row in rows if row[1] is not None])


async def _find_revision(database: Database, time: datetime, name: str) -> int:
    """Return the revision of the catalogue at a time that is over.

    Whoever moves the catalogue at this moment is waited for: its time may be earlier, though it cannot be seen yet.
    """
    async with database.transaction() as connection:
        await connection.execute(text("select pg_advisory_xact_lock_shared(:key)"), {"key": CHANGE_LOCK})
        now, revision = (await connection.execute(text(_AS_OF_TIME), {"time": time})).one()
    if time > now:
        raise BadInputError(name, time.isoformat(), f"a time that is over; it is {now.isoformat()}")
    return int(revision)


async def read_revision(database: Database, revisions: Revisions) -> int:
    """Return the revision of the catalogue at which facilities were at `revisions`; 0 before the first change."""
    parameters = {"names": list(revisions), "numbers": list(revisions.values())}
    return int((await database.read(_LAST_CHANGE, parameters))[0][0])


async def read_time(database: Database, revision: int) -> datetime | None:
    """Return when a revision of the catalogue was made; None of 0, and of a number that no change of files has."""
    rows = await database.read("select at from change where id = %(id)s and facility_id is not null", {"id": revision})
    return rows[0][0] if rows else None


def _moment(rows: list[tuple[Any, ...]]) -> Moment:
    return Moment(
        revisions={name: revision for name, revision, _ in rows}, changes={name: change for name, _, change in rows}
    )
