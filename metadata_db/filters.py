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

from metadata_db.coincidence import (
    ALONG_ALERTS,
    AROUND_ALERTS,
    AROUND_DIRECTED_ALERTS,
    AROUND_SOME_ALERTS,
    LONG_AROUND_ALERTS,
    NearAlerts,
    NearFiles,
    renamed,
    separated,
)
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
from metadata_db.sky import cone_ranges, cut_at_cells
from metadata_db.tables import CONE_CELL, IN_SAMPLE, IS_LONG, SAMPLE_SHARE
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
    sample: str | None = None
    """FROM clause in which ``f`` is the files of the sample on this way; ``{chosen}`` narrows the sample ``found``."""
    part: str | None = None
    """FROM clause of a part of the way, by which its length is told, if counting all of it takes long."""
    part_of: int = 1
    """How many parts of that length the way has."""
    in_order: tuple[str, str] | None = None
    """FROM clauses of most files of the way in the order of their begin, ``{direction}``, and of the others in none."""
    decides: str | None = None
    """Filter that all files of the way match."""
    is_covered: bool = False
    """Whether the way goes by the index that has most of what is asked of files, see `Filters.is_covered`."""


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
    one_by_one: Mapping[str, str] = field(default_factory=dict)
    """Filter → the same condition as in `particular`, which suits few files: it prepares nothing."""
    others: tuple[Sequence[int], Interval | None] | None = None
    """Facilities and interval of the other files of a coincidence."""
    scan: Way | None = None
    """A way through all files that is shorter than reading their rows, for what a walk does not find."""
    is_covered: bool = False
    """Whether the index on facility and begin has all that decides whether a file matches, and that is summed up."""
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
        building.add_cone(asked.cone, asked.time)
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
        one_by_one=building.one_by_one,
        others=building.others,
        scan=building.scan,
        is_covered=building.particular.keys() <= building.covered,
        values=building.values | {"facilities": numbers, "lookback": lookback},
    )


class _Building:
    def __init__(self, vocabulary: Vocabulary, indexed: Collection[str]) -> None:
        self._vocabulary = vocabulary
        self._indexed = indexed
        self.counted: dict[str, str] = {}
        self.particular: dict[str, str] = {}
        self.ways: dict[str, Way] = {}
        self.one_by_one: dict[str, str] = {}
        self.others: tuple[Sequence[int], Interval | None] | None = None
        self.scan: Way | None = None
        self.covered: set[str] = set()
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
        self.covered.add("energy")

    def add_cone(self, cone: Cone, interval: Interval | None) -> None:
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
        pieces = None if interval is None else cut_at_cells(ranges, at_most=_MANY_CELLS)
        if pieces is not None:
            names = ("cone_cells", "cone_piece_begins", "cone_piece_ends")
            self.values |= dict(zip(names, map(list, zip(*pieces, strict=True)), strict=True))
        self.ways["cone"] = Way(
            source=_IN_CELLS if pieces is None or interval is None else _in_cells_and_time(interval),
            # Facilities are tested later: an index need not know them.
            condition="true",
            sample=(sample := _in_cone_of_sample(interval)),
            part=sample.format(chosen="true"),
            part_of=SAMPLE_SHARE,
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
            if wanted.within_deg is None:
                self.ways["coincidence"] = Way(
                    source=AROUND_ALERTS,
                    condition="true",
                    part=AROUND_SOME_ALERTS,
                    part_of=near.values["alert_step"],
                    in_order=(ALONG_ALERTS, LONG_AROUND_ALERTS),
                    decides="coincidence",
                    is_covered=True,
                )
                self.covered.add("coincidence")
            else:
                self.ways["coincidence"] = Way(source="{file} f", condition=AROUND_DIRECTED_ALERTS)
        else:
            others = build_filters(wanted.files, self._vocabulary, is_past=is_past, **how)
            conditions = [
                "{t}.facility_id = any(%(facilities)s)",
                *in_interval(others, alias="{t}"),
                *others.on_files("{t}"),
            ]
            near = NearFiles(
                wanted,
                table="file_version" if is_past else "file",
                conditions=[renamed(text, "other_") for text in conditions],
                life=[LIVED_OR_ENDED] if is_past else [],
                lookback=others.lookback,
                interval=asked.time,
                is_apart=not ours & set(others.facilities),
            )
            self.one_by_one["coincidence"] = near.one_by_one
            self.others = (others.facilities, wanted.files.time or asked.time)
            self.values |= {f"other_{name}": value for name, value in others.values.items()}
            if wanted.within_deg is None and others.is_covered and not others.counted:
                self.covered.add("coincidence")
        self.particular["coincidence"] = near.condition
        self.values |= near.values

    def add_paths(self, globs: Sequence[str]) -> None:
        # What LIKE rules out, which is nearly all, costs a twentieth of the regular expression.
        parts = [f"({{t}}.path like %(like_{at})s and {{t}}.path ~ %(glob_{at})s)" for at in range(len(globs))]
        self.add(
            "path",
            _either(parts),
            **{f"like_{at}": like_of(glob) for at, glob in enumerate(globs)},
            **{f"glob_{at}": glob_to_regex(glob) for at, glob in enumerate(globs)},
        )
        likes = _either([f"key.path like %(like_{at})s" for at in range(len(globs))])
        self.scan = Way(
            source=f"(select storage_id, path from file as key where {likes} offset 0) as key cross join lateral ("
            "select * from {file} as found where found.storage_id = key.storage_id and found.path = key.path offset 0"
            ") as f",
            condition="true",
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
            condition="true",
        )


_WIDEST_DEG = 30.0
"""Radius of the widest cone that an index helps to find: a fifteenth of the sky."""

_MANY_CELLS = 2000
"""Cells of a cone from which on time is of no help to find its files."""

_CELL = CONE_CELL.replace("hpx", "found.hpx")

_IN_CELLS = f"""
    unnest(%(cone_begins)s::int8[], %(cone_ends)s::int8[]) as cell (begins, over) cross join lateral (
        select * from {{file}} as found where {_CELL} >= {CONE_CELL.replace("hpx", "cell.begins")}
            and {_CELL} <= {CONE_CELL.replace("hpx", "(cell.over - 1)")}
            and found.hpx >= cell.begins and found.hpx < cell.over offset 0
    ) as f
"""


def _in_cells_and_time(interval: Interval) -> str:
    """Return the FROM clause of the files of a cone that may share a moment with an interval."""
    recent = f"""
        select f.* from unnest(
            %(cone_cells)s::int4[], %(cone_piece_begins)s::int8[], %(cone_piece_ends)s::int8[]
        ) as cell (id, begins, over) cross join lateral (
            select * from {{file}} as found where {together([f"{_CELL} = cell.id", *_begun(interval)])}
                and found.hpx >= cell.begins and found.hpx < cell.over offset 0
        ) as f
    """
    return f"({recent} union all select f.* from {LONG_FILES}) as f" if interval.begin else f"({recent}) as f"


def _in_cone_of_sample(interval: Interval | None) -> str:
    """Return the FROM clause of the files of the sample in a cone that may share a moment with an interval."""
    wanted = [IN_SAMPLE.replace("fingerprint_low", "found.fingerprint_low"), "{chosen}"]
    recent = f"""
        select f.* from unnest(%(cone_begins)s::int8[], %(cone_ends)s::int8[]) as cell (begins, over)
        cross join lateral (
            select * from file as found where found.hpx >= cell.begins and found.hpx < cell.over
                and {together([*wanted, *_begun(interval)])} offset 0
        ) as f
    """
    if interval is None or interval.begin is None:
        return f"({recent}) as f"
    long = f"select found.* from {LONG_FILES.rstrip().removesuffix('f')} found where {together(wanted)}"
    return f"({recent} union all {long}) as f"


def _begun(interval: Interval | None) -> list[str]:
    """Return the conditions that an index on begins decides: a file of up to a day may share a moment."""
    found = []
    if interval is not None and interval.end is not None:
        found.append("found.time_begin < %(time_end)s")
    if interval is not None and interval.begin is not None:
        found.append("found.time_begin > %(time_begin)s - %(lookback)s")
    return found


LONG_FILES = f"""
    (select * from (
        select found.* from file as found where {IS_LONG.replace("time_", "found.time_")}
            and tstzrange(found.time_begin, found.time_over) @> %(time_begin)s offset 0
    ) as found where found.time_begin <= %(time_begin)s - %(lookback)s offset 0) as f
"""
"""Files that began before an interval, too early to be found by looking back, and are not over yet; by an index.

Their begin is compared apart, lest an index on begins be joined in, which would be read from its very first entry on.
"""

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
    if isinstance(value, str | bool) or abs(value) <= 2**53:
        return [json.dumps(value)]
    spellings = {repr(float(value))} | ({str(int(value))} if float(value).is_integer() else set())
    return sorted(spellings)


def like_of(glob: str) -> str:
    """Return a pattern of LIKE that matches all that a path pattern does, and more."""
    found, at = [], 0
    while at < len(glob):
        if glob[at] == "[":
            found.append("_")
            at = glob.find("]", at + 2)
        elif glob.startswith("**/", at):
            found.append("%")
            at += 2
        else:
            found.append({"*": "%", "?": "_"}.get(glob[at]) or _LIKE_ESCAPES.get(glob[at], glob[at]))
        at += 1
    return "".join(found)


_LIKE_ESCAPES = {sign: f"\\{sign}" for sign in "%_\\"}


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
