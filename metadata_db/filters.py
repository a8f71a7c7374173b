"""From the filters of a question to conditions in SQL: text with named parameters, and their values.

The conditions fall into three classes, because three kinds of statements need them. Some are on what files are counted
by: they hold for a stratum as for a file. Time has a class of its own. All others, the particular ones, can only be
decided by looking at files.
"""

import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, TypeAlias

from metadata_db.coincidence import NearAlerts, NearFiles, renamed, separated
from metadata_db.query import (
    Alert,
    AttributeFilter,
    Cone,
    EnergyRange,
    Interval,
    RunRange,
    Scalar,
    SearchQuery,
    glob_to_regex,
)
from metadata_db.sky import cone_ranges
from metadata_db.vocabulary import Vocabulary

Values: TypeAlias = dict[str, Any]

NAMED = ("facility", "cluster", "detector", "channel", "storage")
"""Filters and facets whose values are names of the vocabulary."""

COUNTED_WORDS = ("level", "kind", "format", "object", "processing", "quality", "conditions")
"""Filters and facets whose values stand in strata as they are."""

COUNTED = ("cluster", "detector", "channel", "storage", *COUNTED_WORDS)
"""Filters on what files are counted by, but for the facility and `is_simulation`."""


LIVED_OR_ENDED = (
    "{t}.added_in <= (%(at)s::int8[])[{t}.facility_id]"
    " and ({t}.removed_in is null or {t}.removed_in > (%(at)s::int8[])[{t}.facility_id])"
)
"""Versions that lived at the moment; ``at`` has the revision of each facility at its number."""


@dataclass(frozen=True, kw_only=True)
class Way:
    """A way to files by an index of their own: what stands between FROM and WHERE, and what narrows it."""

    source: str
    """FROM clause in which ``f`` is the files; ``{file}`` stands for the table."""
    condition: str
    is_few: bool = False
    """Whether it surely leads to few files, so that nobody need count them first."""


@dataclass(frozen=True, kw_only=True)
class Filters:
    """The conditions of one question; ``{t}`` in a condition stands for the alias of the table it is on."""

    facilities: Sequence[int]
    """Numbers of the facilities whose files can match."""
    has_all_facilities: bool
    touched: Sequence[int]
    """Numbers of the facilities whose files can matter to whether a file matches."""
    touches_all: bool
    interval: Interval | None
    lookback: timedelta
    """How far before an interval a file may begin that is not longer than a day."""
    counted: Mapping[str, str]
    """Filter → condition on a stratum, or on a file."""
    particular: Mapping[str, str]
    """Filter → condition on a file."""
    ways: Mapping[str, Way]
    """Filter → way to the files that match it."""
    values: Values = field(default_factory=dict)

    def on_files(self, alias: str = "f") -> list[str]:
        """Return all conditions on a file but for facility and time."""
        return [text.format(t=alias) for text in (*self.counted.values(), *self.particular.values())]


def build_filters(
    asked: SearchQuery,
    vocabulary: Vocabulary,
    *,
    facilities: Collection[str] | None = None,
    indexed: Collection[str] = (),
    alerts: Sequence[Alert] = (),
    is_past: bool = False,
) -> Filters:
    """Return the conditions of a question.

    Parameters
    ----------
    alerts
        Those of the question's coincidence, wherever they are kept.
    is_past
        Whether the other files of a coincidence are those of the moment ``at``, see `metadata_db.paging`.
    facilities
        Those that had files at the moment in question; None means all that are known.
    indexed
        Attributes that have an index of their own.
    """
    known = set(vocabulary.facility.ids) if facilities is None else set(facilities) & set(vocabulary.facility.ids)
    wanted = known & set(asked.facility) if asked.facility else known
    numbers = sorted(vocabulary.facility.ids[name][0] for name in wanted)
    building = _Building(vocabulary, indexed)
    for name in COUNTED:
        if values := getattr(asked, name):
            building.count_by(name, values)
    if asked.is_simulation is not None:
        building.counted["is_simulation"] = "{t}.is_simulation = %(is_simulation)s"
        building.values["is_simulation"] = asked.is_simulation
    if asked.object:
        building.ways["object"] = Way(source="{file} f", condition="f.object = any(%(object)s)")
    if asked.obs_id:
        building.add("obs_id", "{t}.obs_id = any(%(obs_id)s)", obs_id=list(asked.obs_id))
        building.ways["obs_id"] = Way(source="{file} f", condition="f.obs_id = any(%(obs_id)s)", is_few=True)
    if asked.run:
        building.add_runs(asked.run)
    if asked.energy is not None:
        building.add_energy(asked.energy)
    if asked.cone is not None:
        building.add_cone(asked.cone)
    if asked.attributes:
        building.add_attributes(asked.attributes)
    if asked.path:
        building.add_paths(asked.path)
    touched = sorted(vocabulary.facility.ids[name][0] for name in known & set(asked.touched or known))
    if asked.coincidence is not None:
        building.add_coincidence(asked, alerts, set(numbers), facilities=facilities, indexed=indexed, is_past=is_past)
    interval = asked.time
    if interval is not None:
        building.values |= {"time_begin": interval.begin, "time_end": interval.end}
    lookback = max((vocabulary.longest[number] for number in touched), default=timedelta())
    return Filters(
        facilities=numbers,
        has_all_facilities=len(numbers) == len(vocabulary.facility.names),
        touched=touched,
        touches_all=len(touched) == len(vocabulary.facility.names),
        interval=interval,
        lookback=lookback,
        counted=building.counted,
        particular=building.particular,
        ways=building.ways,
        values=building.values | {"facilities": numbers, "lookback": lookback},
    )


class _Building:
    def __init__(self, vocabulary: Vocabulary, indexed: Collection[str]) -> None:
        self._vocabulary = vocabulary
        self._indexed = indexed
        self.counted: dict[str, str] = {}
        self.particular: dict[str, str] = {}
        self.ways: dict[str, Way] = {}
        self.values: Values = {}

    def add(self, name: str, condition: str, **values: Any) -> None:
        self.particular[name] = condition
        self.values |= values

    def count_by(self, name: str, wanted: Sequence[str]) -> None:
        if name in NAMED:
            ids = getattr(self._vocabulary, name).ids
            self.counted[name] = f"{{t}}.{name}_id = any(%({name})s)"
            self.values[name] = sorted(number for value in wanted for number in ids.get(value, ()))
        else:
            self.counted[name] = f"{{t}}.{name} = any(%({name})s)"
            self.values[name] = list(wanted)

    def add_runs(self, ranges: Sequence[RunRange]) -> None:
        singles = [item.first for item in ranges if item.first == item.last]
        spans = [item for item in ranges if item.first != item.last]
        parts = [f"{{t}}.run between %(run_first_{at})s and %(run_last_{at})s" for at in range(len(spans))]
        for at, span in enumerate(spans):
            self.values |= {f"run_first_{at}": span.first, f"run_last_{at}": span.last}
        if singles:
            parts.append("{t}.run = any(%(runs)s::int8[])")
            self.values["runs"] = singles
        condition = _either(parts)
        self.particular["run"] = condition
        self.ways["run"] = Way(
            source="{file} f",
            condition=f"f.facility_id = any(%(facilities)s) and {condition.format(t='f')}",
            is_few=sum(item.last - item.first + 1 for item in ranges) <= _FEW_RUNS,
        )

    def add_energy(self, energy: EnergyRange) -> None:
        """Files whose range shares an energy with the asked one; one that states one end only is that energy."""
        parts = []
        if energy.min_ev is not None:
            parts.append("coalesce({t}.energy_max_ev, {t}.energy_min_ev) >= %(energy_min_ev)s")
        if energy.max_ev is not None:
            parts.append("coalesce({t}.energy_min_ev, {t}.energy_max_ev) <= %(energy_max_ev)s")
        self.add("energy", " and ".join(parts), energy_min_ev=energy.min_ev, energy_max_ev=energy.max_ev)

    def add_cone(self, cone: Cone) -> None:
        """Files within the cone: those in its cells, and then by the exact angle."""
        self.add(
            "cone",
            separated("{t}", "%(cone_ra)s", "%(cone_dec)s", "%(cone_radius)s"),
            cone_ra=cone.ra_deg,
            cone_dec=cone.dec_deg,
            cone_radius=cone.radius_deg,
        )
        if cone.radius_deg > _WIDEST_DEG:
            return
        ranges = cone_ranges(cone)
        self.values |= {"cone_begins": [begin for begin, _ in ranges], "cone_ends": [end for _, end in ranges]}
        self.ways["cone"] = Way(
            source="unnest(%(cone_begins)s::int8[], %(cone_ends)s::int8[]) as cell (first, over) cross join lateral"
            " (select * from {file} as found where found.hpx >= cell.first and found.hpx < cell.over offset 0) as f",
            # Facilities are tested later: to count what a cone holds at most, its index alone is enough.
            condition="true",
        )

    def add_attributes(self, filters: Sequence[AttributeFilter]) -> None:
        conditions = []
        for at, item in enumerate(filters):
            condition, values, is_plain = self._attribute(f"attribute_{at}", item)
            conditions.append(condition)
            self.values |= values
            is_short = all(len(str(value).encode()) <= MAX_INDEXED_BYTES for value in item.values)
            if is_plain and is_short and item.name in self._indexed:
                has_it = has_short_attribute(item.name, alias="f")
                self.ways[f"attribute {item.name}"] = Way(
                    source="{file} f", condition=f"{has_it} and {condition.format(t='f')}"
                )
        paths = [self._json_paths(f"path_{at}", item, alias="f") for at, item in enumerate(filters)]
        self.ways["attributes"] = Way(source="{file} f", condition=" and ".join(paths))
        self.particular["attributes"] = " and ".join(conditions)

    def _attribute(self, name: str, wanted: AttributeFilter) -> tuple[str, Values, bool]:
        """Condition on an attribute that can be compared as it is, unless it is declared as a list by anybody.

        Postgres orders JSON by type first, so a number is never taken for a text.
        """
        declared = [mine[wanted.name] for mine in self._vocabulary.attributes.values() if wanted.name in mine]
        if any(item.type == "list" for item in declared) or not declared:
            return self._json_paths(name, wanted, alias="{t}"), {}, False
        value = f"({{t}}.attributes -> '{wanted.name}')"  # a declared name has letters, digits and _ only
        if wanted.values:
            spellings = [text for item in wanted.values for text in _literals(item)]
            return f"{value} = any(%({name})s::jsonb[])", {name: spellings}, True
        low = "-1e1000" if wanted.minimum is None else repr(wanted.minimum)
        high = "1e1000" if wanted.maximum is None else repr(wanted.maximum)
        condition = f"{value} >= %({name}_min)s::jsonb and {value} <= %({name}_max)s::jsonb"
        return condition, {f"{name}_min": low, f"{name}_max": high}, True

    def _json_paths(self, name: str, wanted: AttributeFilter, *, alias: str) -> str:
        """Condition as jsonpaths, which the index on all attributes understands and which look into lists as well."""
        member = f"$.{json.dumps(wanted.name)}"
        if wanted.values:
            paths = [f"{member} ? (@ == {text})" for value in wanted.values for text in _literals(value)]
        else:
            ends = [(">=", wanted.minimum), ("<=", wanted.maximum)]
            paths = [f"{member} ? ({' && '.join(f'@ {sign} {end!r}' for sign, end in ends if end is not None)})"]
        self.values |= {f"{name}_json_{at}": path for at, path in enumerate(paths)}
        return _either([f"{alias}.attributes @? %({name}_json_{at})s::jsonpath" for at in range(len(paths))])

    def add_coincidence(
        self,
        asked: SearchQuery,
        alerts: Sequence[Alert],
        ours: set[int],
        *,
        is_past: bool,
        **how: Any,
    ) -> None:
        wanted = asked.coincidence
        if wanted is None:
            return
        near: NearAlerts | NearFiles
        if wanted.files is None:
            near = NearAlerts(wanted, alerts)
            self.ways["coincidence"] = Way(source="{file} f", condition=near.way)
        else:
            others = build_filters(wanted.files, self._vocabulary, is_past=is_past, **how)
            conditions = [
                "o.facility_id = any(%(facilities)s)",
                *in_interval(others, alias="o"),
                *others.on_files("o"),
            ]
            near = NearFiles(
                wanted,
                source="file_version as o" if is_past else "file as o",
                conditions=[
                    *(renamed(text, "other_") for text in conditions),
                    *([LIVED_OR_ENDED.format(t="o")] if is_past else []),
                ],
                lookback=others.lookback,
                interval=asked.time,
                is_apart=not ours & set(others.facilities),
            )
            self.values |= {f"other_{name}": value for name, value in others.values.items()}
        self.particular["coincidence"] = near.condition
        self.values |= near.values

    def add_paths(self, globs: Sequence[str]) -> None:
        self.add(
            "path",
            _either([f"{{t}}.path ~ %(glob_{at})s" for at in range(len(globs))]),
            **{f"glob_{at}": glob_to_regex(glob) for at, glob in enumerate(globs)},
        )
        beginnings = [_beginning(glob) for glob in globs]
        if not all(beginnings):
            return
        parts = []
        for at, beginning in enumerate(beginnings):
            parts.append(f"(f.path >= %(beginning_{at})s and f.path < %(beyond_{at})s)")
            self.values |= {f"beginning_{at}": beginning, f"beyond_{at}": _next_text(beginning)}
        self.values["storages"] = sorted(self._vocabulary.storage.names)
        # One range of the unique index for each storage.
        self.ways["path"] = Way(
            source="unnest(%(storages)s::int2[]) as place (id) cross join lateral"
            f" (select * from {{file}} as f where f.storage_id = place.id and {_either(parts)} offset 0) as f",
            condition="f.facility_id = any(%(facilities)s)",
        )


_WIDEST_DEG = 30.0
"""Radius of the widest cone that an index helps to find: a fifteenth of the sky."""

_FEW_RUNS = 1000
"""Runs that are surely few files."""


MAX_INDEXED_BYTES = 2000
"""Longest value in the index on an attribute, longer than any number that a range may hold. Postgres refuses rows whose
index entry is above some 2,700 bytes: one long text would keep the batches of its facility out of the catalogue."""


def has_short_attribute(name: str, *, alias: str = "file") -> str:
    """Return the condition on files that are in the index on an attribute, whose declared name needs no escaping."""
    return f"{alias}.attributes ? '{name}' and octet_length({alias}.attributes ->> '{name}') <= {MAX_INDEXED_BYTES}"


def _either(parts: Sequence[str]) -> str:
    return parts[0] if len(parts) == 1 else f"({' or '.join(parts)})"


def _literals(value: Scalar) -> list[str]:
    """Spellings of a value: a large number is stored exactly or, from floating point, in its shortest decimal form."""
    is_large = isinstance(value, int) and 2**53 < abs(value) < 2**1023
    return [json.dumps(value), repr(float(value))] if is_large else [json.dumps(value)]


def _beginning(glob: str) -> str:
    """Return the text with which all paths of a pattern begin."""
    ends = [at for at in (glob.find(sign) for sign in "*?[") if at >= 0]
    return glob[: min(ends)] if ends else glob


def _next_text(text: str) -> str:
    """Return the least text that is larger, in the order of bytes, than all that begin with `text`."""
    last = ord(text[-1])
    # The order of UTF-8 is that of code points; surrogates are none.
    return text[:-1] + chr(0xE000 if last + 1 == 0xD800 else last + 1) if last < 0x10FFFF else text + chr(0x10FFFF)


def in_interval(
    filters: Filters, *, alias: str = "f", begin: str = "%(time_begin)s", end: str = "%(time_end)s"
) -> list[str]:
    """Return the conditions for sharing a moment with the interval, without what makes it quick."""
    interval = filters.interval
    if interval is None:
        return []
    found = [f"{alias}.time_begin is not null"]
    if interval.end is not None:
        found.append(f"{alias}.time_begin < {end}")
    if interval.begin is not None:
        found.append(f"{alias}.time_over > {begin}")
    return found


def together(conditions: Iterable[str]) -> str:
    """Return conditions in one."""
    return " and ".join(conditions) or "true"
