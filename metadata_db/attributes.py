"""Attributes as operators see them: which are asked for, which have an index of their own, and making one.

An index on one attribute serves equalities and ranges on it, and costs each ingest of a file that has it. Which ones
are worth that is a matter of the installation, so it is no migration's; migrations leave these indexes alone.
"""

import hashlib
import json
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from psycopg import sql

from metadata_db.database import Driver, connected
from metadata_db.errors import BadInputError
from metadata_db.filters import has_short_attribute
from metadata_db.settings import CatalogueSettings


@dataclass(frozen=True, kw_only=True, slots=True)
class AttributeUse:
    """A declared attribute of a facility, and what there is to know before one makes an index on it."""

    name: str
    facility: str
    type: str
    asked: int
    """Registered questions that filter by an attribute of this name."""
    index_bytes: int | None
    """Size of its index, None when there is none that can be used."""


@dataclass(frozen=True, kw_only=True, slots=True)
class BuiltIndex:
    """An index that was made."""

    name: str
    seconds: float
    size_bytes: int


def index_name(attribute: str) -> str:
    """Return the name of the index on an attribute; by digest, for names of indexes are shorter than those."""
    return f"file_attribute_{hashlib.md5(attribute.encode(), usedforsecurity=False).hexdigest()[:12]}_idx"


def list_attributes(settings: CatalogueSettings) -> list[AttributeUse]:
    """Return every declared attribute of every facility, the most asked first."""
    with connected(settings) as driver:
        driver.execute("set transaction isolation level repeatable read, read only")
        declared = driver.execute(
            "select attribute.name, facility.name, type from attribute join facility on facility.id = facility_id"
        ).fetchall()
        sizes = {str(name): int(size) for name, size in driver.execute(_SIZES).fetchall()}
        asked = _count_asked(driver)
    found = [
        AttributeUse(
            name=name, facility=facility, type=kind, asked=asked[name], index_bytes=sizes.get(index_name(name))
        )
        for name, facility, kind in declared
    ]
    return sorted(found, key=lambda use: (-use.asked, use.name, use.facility))


_SIZES = """
    select relname, pg_relation_size(indexrelid) from pg_index join pg_class on pg_class.oid = indexrelid
    where indrelid = 'file'::regclass and indisvalid
"""


def _count_asked(driver: Driver) -> Counter[str]:
    """Count in how many questions each attribute is asked for; questions are read one by one, there may be many."""
    asked: Counter[str] = Counter()
    with driver.cursor(name="questions") as cursor:
        cursor.execute("select canonical from query where canonical like '%%\"attributes\"%%'", {})
        for (canonical,) in cursor:
            asked.update(set(_iter_asked(json.loads(canonical))))
    return asked


def _iter_asked(question: Mapping[str, Any]) -> Iterator[str]:
    yield from (item["name"] for item in question.get("attributes", ()))
    others = question.get("coincidence", {}).get("files")
    if others:
        yield from _iter_asked(others)


def build_index(settings: CatalogueSettings, attribute: str) -> BuiltIndex:
    """Make the index on an attribute, beside the reading and writing that go on.

    Raises
    ------
    BadInputError
        The attribute is not declared, a facility declares it as a list, or it has an index.
    UnavailableError
        The database gave up; nothing is left that cannot be made again.
    """
    name = index_name(attribute)
    with connected(settings, autocommit=True) as driver:
        _require_indexable(driver, attribute)
        found = driver.execute("select indisvalid from pg_index where indexrelid = to_regclass(%s)", [name]).fetchone()
        if found == (True,):
            raise BadInputError("name", attribute, "an attribute without an index; it has one")
        began = time.monotonic()
        _drop(driver, name)  # left by a build that was ended
        driver.execute(
            sql.SQL("create index concurrently {} on file ((attributes -> {}), time_begin, id) where {}").format(
                sql.Identifier(name), sql.Literal(attribute), sql.SQL(has_short_attribute(attribute))
            )
        )
        # The planner learns how often each value is there.
        driver.execute("analyze file")
        seconds = time.monotonic() - began
        row = driver.execute("select pg_relation_size(%s::regclass)", [name]).fetchone()
    return BuiltIndex(name=name, seconds=seconds, size_bytes=row[0] if row else 0)


def drop_index(settings: CatalogueSettings, attribute: str) -> None:
    """Drop the index on an attribute, whole or left by a build that was ended.

    Raises
    ------
    BadInputError
        There is none.
    """
    name = index_name(attribute)
    with connected(settings, autocommit=True) as driver:
        if driver.execute("select to_regclass(%s) is null", [name]).fetchone() == (True,):
            raise BadInputError("name", attribute, "an attribute that has an index, see 'catchment attribute list'")
        _drop(driver, name)


def _drop(driver: Driver, name: str) -> None:
    driver.execute(sql.SQL("drop index concurrently if exists {}").format(sql.Identifier(name)))


def _require_indexable(driver: Driver, attribute: str) -> None:
    types = [row[0] for row in driver.execute("select type from attribute where name = %s", [attribute]).fetchall()]
    if not types:
        raise BadInputError("name", attribute, "a declared attribute, see 'catchment attribute list'")
    if "list" in types:
        raise BadInputError(
            "name", attribute, "an attribute that no facility declares as a list: all lists are indexed together"
        )
