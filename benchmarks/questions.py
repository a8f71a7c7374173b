"""Questions of the kinds that people ask, about the generated catalogue: each filter alone, and with others.

A kind is made of parts, each of which sets filters by chance. Most kinds have more different questions than are ever
asked, because their intervals of time begin at odd moments. Of the others, which are made of a few words, it is known
that they are `few`.
"""

import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import islice
from typing import Any, TypeAlias

import msgspec

from benchmarks.catalogue import (
    CONDITIONS,
    FILES_PER_RUN,
    FIRST_YEAR,
    FORMATS,
    LEVELS,
    NIGHTS_PER_SEASON,
    PROCESSINGS,
    QUALITIES,
    SEASONS,
    TARGETS,
    TRIGGERS,
    GeneratedFacility,
    make_facilities,
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
    facets(by: [FACILITY, DETECTOR, LEVEL, KIND, OBJECT, QUALITY]) {{ field values {{ value count }} }}
  }}
}}"""

Filter: TypeAlias = dict[str, Any]
Part: TypeAlias = Callable[[random.Random, GeneratedFacility], Filter]
"""Sets some filters by chance, about a facility; large facilities come more often, as people ask more about them."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Kind:
    """A kind of question."""

    parts: tuple[Part, ...]
    is_few: bool = False
    """Whether there are fewer different questions than are asked when it is measured."""

    def make_filter(self, rng: random.Random, facility: GeneratedFacility) -> Filter:
        """Return one filter of this kind."""
        return {name: value for part in self.parts for name, value in part(rng, facility).items()}


def kind(*parts: Part) -> Kind:
    """Return a kind of which no two questions are the same."""
    return Kind(parts=parts)


def few(*parts: Part) -> Kind:
    """Return a kind of which there are few different questions."""
    return Kind(parts=parts, is_few=True)


# --- parts ------------------------------------------------------------------------------------------------------------


def one_of(name: str, words: Sequence[str | None]) -> Part:
    """Return a part that asks for one word of some; None is none of them."""
    known = sorted({word for word in words if word is not None})
    return lambda rng, _facility: {name: [rng.choice(known)]}


def lasting(days: int) -> Part:
    """Return a part that asks for an interval with an odd begin, which lies in one season if it is not longer."""

    def during(rng: random.Random, _facility: GeneratedFacility) -> Filter:
        season = rng.randrange(max(1, SEASONS - days // 365))
        latest = max(1, NIGHTS_PER_SEASON - days)
        begin = datetime(FIRST_YEAR + season, 9, 1, tzinfo=UTC) + timedelta(days=rng.uniform(0, latest))
        return {"time": {"begin": begin.isoformat(), "end": (begin + timedelta(days=days)).isoformat()}}

    return during


def always(rng: random.Random, _facility: GeneratedFacility) -> Filter:
    """Ask for all the time in which anything was observed."""
    begin = datetime(FIRST_YEAR, 1, 1, tzinfo=UTC) + timedelta(days=rng.uniform(0, 200))
    return {
        "time": {"begin": begin.isoformat(), "end": datetime(FIRST_YEAR + SEASONS + 4, 1, 1, tzinfo=UTC).isoformat()}
    }


def own_facility(_rng: random.Random, facility: GeneratedFacility) -> Filter:
    """Ask for the facility itself."""
    return {"facility": [facility.name]}


def detector(rng: random.Random, facility: GeneratedFacility) -> Filter:
    """Ask for a detector; other facilities have one of this name too."""
    return {"detector": [rng.choice([one.name for one in facility.facility().detectors])]}


def storage(rng: random.Random, facility: GeneratedFacility) -> Filter:
    """Ask for a storage."""
    return {"storage": [rng.choice(facility.storages)]}


def any_object(rng: random.Random, facility: GeneratedFacility) -> Filter:
    """Ask for a target of the facility, favourite or not."""
    return one_of("object", [name for name, *_ in facility.targets])(rng, facility)


def rare_object(rng: random.Random, facility: GeneratedFacility) -> Filter:
    """Ask for a target that only this facility has."""
    return one_of("object", [name for name, *_ in facility.targets[len(TARGETS) :]])(rng, facility)


def is_simulation(rng: random.Random, _facility: GeneratedFacility) -> Filter:
    """Ask for simulations, or for measurements."""
    return {"isSimulation": rng.random() < 0.5}


def any_run(rng: random.Random, facility: GeneratedFacility) -> int:
    """Return the number of a run of the facility."""
    return facility.first_run + rng.randrange(facility.n_runs)


def run(rng: random.Random, facility: GeneratedFacility) -> Filter:
    """Ask for a run; several facilities may have one of this number."""
    return {"run": [{"first": any_run(rng, facility)}]}


def runs(rng: random.Random, facility: GeneratedFacility) -> Filter:
    """Ask for some runs in a row."""
    first = any_run(rng, facility)
    return {"run": [{"first": first, "last": first + rng.randrange(10, 200)}]}


def obs_id(rng: random.Random, facility: GeneratedFacility) -> Filter:
    """Ask for an observation id."""
    return {"obsId": [facility.obs_id(any_run(rng, facility))]}


def energy(rng: random.Random, _facility: GeneratedFacility) -> Filter:
    """Ask for an octave of energy."""
    low_tev = round(rng.uniform(0.05, 20), 3)
    return {"energy": {"min": low_tev, "max": 2 * low_tev, "unit": "TEV"}}


def cone(rng: random.Random, _facility: GeneratedFacility) -> Filter:
    """Ask for a piece of sky at a favourite target."""
    _, ra_deg, dec_deg = rng.choice(TARGETS)
    centre = {"raDeg": ra_deg + rng.uniform(-1, 1), "decDeg": dec_deg + rng.uniform(-1, 1)}
    return {"cone": centre | {"radiusDeg": 0.5}}


def rare_attribute(rng: random.Random, facility: GeneratedFacility) -> Filter:
    """Ask for an observation block, of which there are thousands."""
    return {"attributes": [{"name": "block", "equals": facility.block(any_run(rng, facility))}]}


def frequent_attribute(rng: random.Random, _facility: GeneratedFacility) -> Filter:
    """Ask for a trigger, of which there are few; all facilities have them."""
    return {"attributes": [{"name": "trigger", "equals": rng.choice(TRIGGERS)}]}


def attribute_range(rng: random.Random, _facility: GeneratedFacility) -> Filter:
    """Ask for a range of zenith angles."""
    low_deg = round(rng.uniform(5, 50), 4)
    return {"attributes": [{"name": "zenith_deg", "min": low_deg, "max": low_deg + 5}]}


def path_beginning(rng: random.Random, _facility: GeneratedFacility) -> Filter:
    """Ask for the files of a night by a folder with which the path begins."""
    night = datetime(FIRST_YEAR + rng.randrange(SEASONS), 9, 1, tzinfo=UTC) + timedelta(days=rng.randrange(270))
    return {"path": [f"{rng.choice(LEVELS)}/{night:%Y/%m/%d}/**"]}


def path_pattern(rng: random.Random, _facility: GeneratedFacility) -> Filter:
    """Ask for a part of all runs by a pattern of the path."""
    return {"path": [f"DL3/**/*_{rng.randrange(FILES_PER_RUN):03d}.*"]}


def selection(_rng: random.Random, _facility: GeneratedFacility) -> Filter:
    """Ask for what goes into an analysis."""
    return {
        "kind": ["events"],
        "level": ["DL3"],
        "quality": ["good", "fair"],
        "energy": {"min": 1, "max": 10, "unit": "TEV"},
        "attributes": [{"name": "zenith_deg", "max": 45}],
    }


week, month, season, year = lasting(7), lasting(30), lasting(273), lasting(365)

# --- kinds ------------------------------------------------------------------------------------------------------------

_WORDS: Mapping[str, Part] = {
    "facility": own_facility,
    "cluster": one_of("cluster", ("north", "south")),
    "detector": detector,
    "channel": one_of("channel", ("gamma", "calibration", "monitor")),
    "storage": storage,
    "level": one_of("level", (*LEVELS, "raw", "aux", "DL4")),
    "kind": one_of("kind", ("events", "calibration", "monitoring", "irf", "summary", "catalogue")),
    "format": one_of("format", [name for name, _ in FORMATS]),
    "object": any_object,
    "processing": one_of("processing", PROCESSINGS),
    "quality": one_of("quality", QUALITIES),
    "conditions": one_of("conditions", CONDITIONS),
    "is simulation": is_simulation,
}
"""Filters of which there are few values, and parts that set them alone."""


def near_alerts(rng: random.Random, _facility: GeneratedFacility) -> Filter:
    """Ask for what was taken within a minute of a thousand alerts."""
    first = datetime(FIRST_YEAR, 9, 1, tzinfo=UTC)
    alerts = [first + timedelta(seconds=rng.uniform(0, SEASONS * 365 * 86400)) for _ in range(1000)]
    return {"coincidence": {"alerts": [{"time": alert.isoformat()} for alert in alerts], "withinS": 60}}


def near_another(rng: random.Random, facility: GeneratedFacility) -> Filter:
    """Ask for what was taken together with files of another facility."""
    others = [other.name for other in make_facilities(1000) if other.name != facility.name]
    return {"coincidence": {"files": {"facility": [rng.choice(others)]}, "withinS": 0}}


KINDS: Mapping[str, Kind] = {
    "facility and month": kind(own_facility, month),
    "one week, all facilities": kind(week),
    "one month, all facilities": kind(month),
    "season, all facilities": kind(season),
    "all times": kind(always),
    **{f"{name} alone": few(part) for name, part in _WORDS.items()},
    **{f"{name} and season": kind(part, season) for name, part in _WORDS.items()},
    "rare object": few(rare_object),
    "one observation id": kind(obs_id),
    "run alone": kind(run),
    "one run": kind(own_facility, run),
    "runs in a row": kind(own_facility, runs),
    "energy overlap alone": kind(energy),
    "energy overlap and month": kind(energy, month),
    "cone alone": kind(cone),
    "cone and year": kind(cone, year),
    "rare attribute": kind(rare_attribute),
    "rare attribute and year": kind(rare_attribute, year),
    "frequent attribute": few(frequent_attribute),
    "frequent attribute, facility and season": kind(own_facility, frequent_attribute, season),
    "attribute range": kind(attribute_range),
    "beginning of a path": kind(path_beginning),
    "path pattern and month": kind(path_pattern, month),
    "near 1,000 alerts": kind(near_alerts),
    "with another facility, month": kind(own_facility, near_another, month),
    "seven filters": kind(own_facility, lasting(120), selection),
    "everything": few(),
}
"""Name → kind."""

MIXTURE = tuple(name for name, one in KINDS.items() if not one.is_few)
"""Kinds that are asked in turn when the mixture is measured."""


def iter_bodies(kinds: Sequence[str], facilities: Sequence[GeneratedFacility], *, seed: str) -> Iterator[bytes]:
    """Yield bodies of GraphQL requests without end, of the kinds in turn, none twice where the kind allows it.

    Another `seed` gives other questions.
    """
    rng = random.Random(seed)
    sizes = [facility.n_files for facility in facilities]
    while True:
        for name in kinds:
            facility = rng.choices(facilities, sizes)[0]
            variables = {"filter": KINDS[name].make_filter(rng, facility)}
            yield msgspec.json.encode({"query": DOCUMENT, "variables": variables})


def take_bodies(name: str, facilities: Sequence[GeneratedFacility], *, seed: str, count: int) -> list[bytes]:
    """Return `count` bodies of one kind."""
    return list(islice(iter_bodies([name], facilities, seed=seed), count))
