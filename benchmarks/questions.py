"""Questions of the kinds that people ask, each different from the others, about the generated catalogue."""

import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from itertools import islice
from typing import Any, TypeAlias

import msgspec

from benchmarks.catalogue import (
    FIRST_YEAR,
    NIGHTS_PER_SEASON,
    SEASONS,
    TRIGGERS,
    GeneratedFacility,
)

PAGE_FILES = 50
"""Files on the page that comes with each answer."""

DOCUMENT = f"""query Search($filter: SearchFilter!) {{
  search(filter: $filter, prepare: NEVER) {{
    queryId
    totalCount {{ value }}
    totalBytes
    files(first: {PAGE_FILES}) {{
      nodes {{ facility path sizeBytes kind level timeBegin timeEnd obsId run object energyMinEv quality }}
      pageInfo {{ hasNextPage endCursor }}
    }}
  }}
}}"""

Filter: TypeAlias = dict[str, Any]
Make: TypeAlias = Callable[[random.Random, GeneratedFacility], Filter]
"""Makes a filter from chance and a facility; large facilities come more often, as people ask more about them."""


def _interval(rng: random.Random, days: int) -> Filter:
    """Return an interval that lies mostly in one season; its odd begin makes it unlike all others."""
    season, latest = rng.randrange(SEASONS), max(1, NIGHTS_PER_SEASON - days)
    first = datetime(FIRST_YEAR + season, 9, 1, tzinfo=UTC)
    begin = first + timedelta(days=rng.uniform(0, latest))
    return {"begin": begin.isoformat(), "end": (begin + timedelta(days=days)).isoformat()}


def _facility_and_month(rng: random.Random, facility: GeneratedFacility) -> Filter:
    return {"facility": [facility.name], "time": _interval(rng, 30)}


def _week(rng: random.Random, _facility: GeneratedFacility) -> Filter:
    return {"time": _interval(rng, 7)}


def _season(rng: random.Random, _facility: GeneratedFacility) -> Filter:
    return {"time": _interval(rng, 273)}


def _run(rng: random.Random, facility: GeneratedFacility) -> Filter:
    return {"facility": [facility.name], "run": [{"first": facility.first_run + rng.randrange(facility.n_runs)}]}


def _energy_and_month(rng: random.Random, _facility: GeneratedFacility) -> Filter:
    low_tev = round(rng.uniform(0.05, 20), 3)
    return {"energy": {"min": low_tev, "max": 2 * low_tev, "unit": "TEV"}, "time": _interval(rng, 30)}


def _cone_and_year(rng: random.Random, _facility: GeneratedFacility) -> Filter:
    ra_deg, dec_deg = rng.choice(((83.633, 22.014), (166.114, 38.209), (266.417, -29.008)))
    cone = {"raDeg": ra_deg + rng.uniform(-1, 1), "decDeg": dec_deg + rng.uniform(-1, 1), "radiusDeg": 0.5}
    return {"cone": cone, "time": _interval(rng, 365)}


def _rare_attribute(rng: random.Random, facility: GeneratedFacility) -> Filter:
    run = facility.first_run + rng.randrange(facility.n_runs)
    return {"attributes": [{"name": "block", "equals": facility.block(run)}], "time": _interval(rng, 2000)}


def _frequent_attribute(rng: random.Random, facility: GeneratedFacility) -> Filter:
    attributes = [{"name": "trigger", "equals": rng.choice(TRIGGERS)}]
    return {"facility": [facility.name], "attributes": attributes, "time": _interval(rng, 273)}


def _path_and_month(rng: random.Random, _facility: GeneratedFacility) -> Filter:
    return {"path": [f"DL3/**/*_{rng.randrange(24):03d}.*"], "time": _interval(rng, 30)}


def _seven_filters(rng: random.Random, facility: GeneratedFacility) -> Filter:
    return {
        "facility": [facility.name],
        "time": _interval(rng, 120),
        "kind": ["events"],
        "level": ["DL3"],
        "quality": ["good", "fair"],
        "energy": {"min": 1, "max": 10, "unit": "TEV"},
        "attributes": [{"name": "zenith_deg", "max": 45}],
    }


def _everything(_rng: random.Random, _facility: GeneratedFacility) -> Filter:
    return {}


KINDS: Mapping[str, Make] = {
    "facility and month": _facility_and_month,
    "one week, all facilities": _week,
    "season, all facilities": _season,
    "one run": _run,
    "energy overlap and month": _energy_and_month,
    "cone and year": _cone_and_year,
    "rare attribute": _rare_attribute,
    "frequent attribute, facility and season": _frequent_attribute,
    "path pattern and month": _path_and_month,
    "seven filters": _seven_filters,
    "everything": _everything,
}
"""Name → maker of filters. All but "everything" can make more different questions than are ever asked."""

MIXTURE = tuple(name for name in KINDS if name != "everything")
"""Kinds that are asked in turn when the mixture is measured."""


def iter_bodies(kinds: Sequence[str], facilities: Sequence[GeneratedFacility], *, seed: str) -> Iterator[bytes]:
    """Yield bodies of GraphQL requests without end, of the kinds in turn, none twice where the kind allows it.

    Another `seed` gives other questions.
    """
    rng = random.Random(seed)
    sizes = [facility.n_files for facility in facilities]
    while True:
        for kind in kinds:
            facility = rng.choices(facilities, sizes)[0]
            variables = {"filter": KINDS[kind](rng, facility)}
            yield msgspec.json.encode({"query": DOCUMENT, "variables": variables})


def take_bodies(kind: str, facilities: Sequence[GeneratedFacility], *, seed: str, count: int) -> list[bytes]:
    """Return `count` bodies of one kind."""
    return list(islice(iter_bodies([kind], facilities, seed=seed), count))
