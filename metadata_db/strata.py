"""Strata: which combinations of countable values there are among the files, and the number of each.

A combination gets its number once and keeps it for ever, so a process remembers the numbers it has seen. There are some
thousands, because what files can be counted by varies from run to run, not from file to file.
"""

from collections.abc import Collection, Mapping
from typing import Any, TypeAlias

import msgspec
from psycopg import AsyncConnection, sql

STRATUM_COLUMNS = (
    "facility_id",
    "storage_id",
    "cluster_id",
    "detector_id",
    "channel_id",
    "level",
    "kind",
    "format",
    "object",
    "processing",
    "quality",
    "conditions",
    "is_simulation",
)
"""What files can be counted by."""

Stratum: TypeAlias = tuple[Any, ...]
"""The values of a file in the order of `STRATUM_COLUMNS`; None where one is absent."""

MAX_REMEMBERED = 200_000
"""Numbers that one process remembers, some 100 MB at worst; beyond it forgets all and asks again."""

_TYPES = ("int2", "int2", "int4", "int4", "int4", "text", "text", "text", "text", "text", "text", "text", "bool")

_GIVEN = (
    f"jsonb_to_recordset(%(strata)s::jsonb) as given("
    f"{', '.join(f'{name} {kind}' for name, kind in zip(STRATUM_COLUMNS, _TYPES, strict=True))}, at int4)"
)

_ADD = sql.SQL(
    f"insert into stratum ({', '.join(STRATUM_COLUMNS)}, files, bytes, fingerprint_high, fingerprint_low)"
    f" select {', '.join(STRATUM_COLUMNS)}, 0, 0, 0, 0 from {_GIVEN} order by at on conflict (key) do nothing"
)

_FIND = sql.SQL(
    f"select given.at, stratum.id from {_GIVEN} join stratum"
    f" on stratum.key = stratum_key({', '.join(f'given.{name}' for name in STRATUM_COLUMNS)})"
    f" where {' and '.join(f'stratum.{name} is not distinct from given.{name}' for name in STRATUM_COLUMNS)}"
)


class Strata:
    """The numbers of strata, as far as this process has seen them."""

    def __init__(self) -> None:
        self._numbers: dict[Stratum, int] = {}

    @property
    def numbers(self) -> Mapping[Stratum, int]:
        """Stratum → number, of those that are remembered."""
        return self._numbers

    async def learn(self, driver: AsyncConnection[Any], strata: Collection[Stratum]) -> None:
        """Remember the numbers of `strata`; those that are new are added, outside of any transaction of the caller.

        Raises
        ------
        ValueError
            Two strata have one key; only a deliberate attack makes such a pair.
        """
        if len(self._numbers) + len(strata) > MAX_REMEMBERED:
            self._numbers = {}
        # In one order, so that two batches that add the same do not wait for each other in a circle.
        asked = sorted(strata, key=repr)
        named = [dict(zip((*STRATUM_COLUMNS, "at"), (*stratum, at), strict=True)) for at, stratum in enumerate(asked)]
        values = {"strata": msgspec.json.encode(named).decode()}
        found = dict(await (await driver.execute(_FIND, values)).fetchall())
        if len(found) < len(asked):
            await driver.execute(_ADD, values)
            found = dict(await (await driver.execute(_FIND, values)).fetchall())
        if len(found) < len(asked):
            raise ValueError("two different strata have one key")
        self._numbers.update({stratum: found[at] for at, stratum in enumerate(asked)})
