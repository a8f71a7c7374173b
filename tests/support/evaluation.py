"""The catalogue in plain Python: what a search must find, said without SQL.

Written from what `metadata_db.query`, `metadata_db.search` and `metadata_db.ingest` say about themselves, not from
their statements, so that tests compare two independent readings of the same words.
"""

import math
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Any, TypeAlias

import msgspec
from msgspec import structs

from metadata_db.canonical import fingerprint, set_checksum
from metadata_db.query import Alert, AttributeFilter, Coincidence, Cone, EnergyRange, Interval, SearchQuery
from metadata_db.records import FileRecord, Removal
from metadata_db.sky import find_cells
from metadata_db.tables import HPX_ORDER

# --- the catalogue's life -------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Version:
    """One version of a file: the record, and the revisions of its facility in which it lives, half-open."""

    record: FileRecord
    added_in: int
    removed_in: int | None = None
    number: int = 0
    """Number of the row in the real catalogue, which breaks ties; the plain catalogue cannot know it by itself."""

    @property
    def key(self) -> tuple[str, str, int]:
        """Storage, path and revision: no two versions have the same."""
        return self.record.storage, self.record.path, self.added_in


@dataclass
class History:
    """All versions of all files, moved forward batch by batch."""

    versions: list[Version] = field(default_factory=list)
    revisions: dict[str, int] = field(default_factory=dict)
    alert_lists: Mapping[str, Sequence[Alert]] = field(default_factory=dict)
    """Id of an uploaded list of alerts → its alerts."""

    def ingest(self, batch: Iterable[FileRecord]) -> dict[str, int]:
        """Take a batch and count its fates: the last line of a path counts.

        Equal records change nothing; what says the same but was read otherwise changes in place, as if it had always
        been so; all others supersede.
        """
        latest = {(record.storage, record.path): record for record in batch}
        counts = {"added": 0, "changed": 0, "reread": 0}
        for facility in {record.facility for record in latest.values()}:
            revision = self.revisions.get(facility, 0) + 1
            for key, record in latest.items():
                if record.facility == facility and (fate := self._take(key, record, revision)):
                    counts[fate] += 1
                    self.revisions[facility] = revision
        return counts

    def _take(self, key: tuple[str, str], record: FileRecord, revision: int) -> str | None:
        at = self._find_living(key)
        if at is None:
            self.versions.append(Version(record=record, added_in=revision))
            return "added"
        living = self.versions[at]
        if _said(living.record) != _said(record):
            self.versions[at] = replace(living, removed_in=revision)
            self.versions.append(Version(record=record, added_in=revision))
            return "changed"
        if _text(living.record) != _text(record):
            self.versions[at] = replace(living, record=record)
            return "reread"
        return None

    def remove(self, batch: Iterable[Removal]) -> dict[str, int]:
        """Take removals and count their fates: a version ends if it is the one that was missed, or any was."""
        latest = {(removal.storage, removal.path): removal for removal in batch}
        counts = {"removed": 0, "kept": 0}
        for facility in {removal.facility for removal in latest.values()}:
            revision = self.revisions.get(facility, 0) + 1
            for key, removal in latest.items():
                at = self._find_living(key)
                if removal.facility != facility or at is None:
                    continue
                record = self.versions[at].record
                seen = (removal.size_bytes, removal.modified_at)
                if removal.size_bytes is not None and seen != (record.size_bytes, record.modified_at):
                    counts["kept"] += 1
                    continue
                self.versions[at] = replace(self.versions[at], removed_in=revision)
                counts["removed"] += 1
                self.revisions[facility] = revision
        return counts

    def _find_living(self, key: tuple[str, str]) -> int | None:
        places = [
            at for at, version in enumerate(self.versions) if version.removed_in is None and version.key[:2] == key
        ]
        return places[0] if places else None

    def list_files(self, storage: str, facilities: Collection[str]) -> list[Version]:
        """Return the living files of some facilities on a storage, in the order of the bytes of their paths."""
        found = [
            version
            for version in self.versions
            if version.removed_in is None
            and version.record.storage == storage
            and version.record.facility in facilities
        ]
        return sorted(found, key=lambda version: version.record.path.encode())

    def numbered(self, numbers: Mapping[tuple[str, str, int], int]) -> "History":
        """Return the same history with the numbers of the rows."""
        return replace(self, versions=[replace(version, number=numbers[version.key]) for version in self.versions])

    def as_of(self, revisions: Mapping[str, int]) -> list[Version]:
        """Return the files that lived at `revisions`; a facility that is not named had none."""
        return [
            version
            for version in self.versions
            if version.record.facility in revisions
            and version.added_in <= revisions[version.record.facility]
            and (version.removed_in is None or version.removed_in > revisions[version.record.facility])
        ]

    def back(self, steps: Mapping[str, int]) -> dict[str, int]:
        """Return the revisions that facilities had so many steps ago; those that are not named are left out."""
        return {name: max(0, self.revisions[name] - step) for name, step in steps.items()}

    def find(self, asked: SearchQuery, revisions: Mapping[str, int], *, without: str | None = None) -> list[Version]:
        """Return the files of an answer; the filter `without` does not count."""
        living = self.as_of(revisions)
        found = [version for version in living if is_match(asked, version.record, without=without)]
        wanted = asked.coincidence
        if wanted is None or without == "coincidence":
            return found
        if wanted.files is not None:
            files = [version for version in living if is_match(wanted.files, version.record)]
            return [one for one in found if any(one is not other and coincides(wanted, one, other) for other in files)]
        alerts = wanted.alerts if wanted.alert_list is None else self.alert_lists[wanted.alert_list]
        return [one for one in found if any(coincides(wanted, one, alert) for alert in alerts)]


def _text(record: FileRecord) -> bytes:
    return msgspec.json.encode(record, order="deterministic")


def _said(record: FileRecord) -> bytes:
    return _text(structs.replace(record, description=None, provenance={}, warnings=[]))


# --- filters --------------------------------------------------------------------------------------------------------


def is_match(asked: SearchQuery, record: FileRecord, *, without: str | None = None) -> bool:
    """Tell whether all filters that are set, but for `without`, hold for a record.

    A coincidence is not asked for here: it is about other files as well, see `History.find`.
    """
    return all(
        _holds(name, getattr(asked, name), record)
        for name in asked.__dataclass_fields__
        if name not in (without, "coincidence") and getattr(asked, name) not in (None, ())
    )


def _holds(name: str, wanted: Any, record: FileRecord) -> bool:
    special: Mapping[str, Callable[[], bool]] = {
        "is_simulation": lambda: record.is_simulation is wanted,
        "time": lambda: shares_a_moment(wanted, record),
        "run": lambda: record.run is not None and any(part.first <= record.run <= part.last for part in wanted),
        "energy": lambda: shares_an_energy(wanted, record),
        "cone": lambda: is_within(wanted, record),
        "attributes": lambda: all(has_attribute(item, record) for item in wanted),
        "path": lambda: any(matches_glob(glob, record.path) for glob in wanted),
    }
    return special[name]() if name in special else getattr(record, name) in wanted


def shares_a_moment(asked: Interval, record: FileRecord) -> bool:
    """Tell whether a file has a moment in the half-open interval; one without end or length is a single moment."""
    if record.time_begin is None:
        return False
    begins_in_time = asked.end is None or record.time_begin < asked.end
    if record.time_end is None or record.time_end == record.time_begin:
        return begins_in_time and (asked.begin is None or record.time_begin >= asked.begin)
    return begins_in_time and (asked.begin is None or record.time_end > asked.begin)


def shares_an_energy(asked: EnergyRange, record: FileRecord) -> bool:
    """Tell whether two closed ranges overlap; a file that states one end only is that one energy."""
    ends = [end for end in (record.energy_min_ev, record.energy_max_ev) if end is not None]
    if not ends:
        return False
    return (asked.min_ev is None or max(ends) >= asked.min_ev) and (asked.max_ev is None or min(ends) <= asked.max_ev)


def is_within(cone: Cone, record: FileRecord) -> bool:
    """Tell whether the file's position lies within the cone."""
    if record.ra_deg is None or record.dec_deg is None:
        return False
    return separation_deg(cone.ra_deg, cone.dec_deg, record.ra_deg, record.dec_deg) <= cone.radius_deg


def separation_deg(ra_deg: float, dec_deg: float, other_ra_deg: float, other_dec_deg: float) -> float:
    """Return the angle between two directions, by their vectors: exact at 0 and at 180 degrees alike."""
    one, other = _direction(ra_deg, dec_deg), _direction(other_ra_deg, other_dec_deg)
    cross = [one[i - 2] * other[i - 1] - one[i - 1] * other[i - 2] for i in range(3)]
    return math.degrees(math.atan2(math.hypot(*cross), sum(a * b for a, b in zip(one, other, strict=True))))


def _direction(ra_deg: float, dec_deg: float) -> tuple[float, float, float]:
    ra, dec = math.radians(ra_deg), math.radians(dec_deg)
    return math.cos(dec) * math.cos(ra), math.cos(dec) * math.sin(ra), math.sin(dec)


def coincides(wanted: Coincidence, one: Version, other: Version | Alert) -> bool:
    """Tell whether a file is close enough in time to another file or an alert, and on the sky if that is asked."""
    span, other_span = _span(one), _span(other)
    if span is None or other_span is None:
        return False
    margin = timedelta(seconds=wanted.within_s)
    if not (span[0] < other_span[1] + margin and span[1] > other_span[0] - margin):
        return False
    if wanted.within_deg is None:
        return True
    place, other_place = _place(one), _place(other)
    if place is None or other_place is None:
        return False
    return separation_deg(*place, *other_place) <= wanted.within_deg


def _span(one: Version | Alert) -> tuple[datetime, datetime] | None:
    """Return the half-open interval of a file or an alert; a moment lasts a microsecond."""
    begin = one.time if isinstance(one, Alert) else one.record.time_begin
    end = None if isinstance(one, Alert) else one.record.time_end
    if begin is None:
        return None
    return begin, end if end is not None and end > begin else begin + timedelta(microseconds=1)


def _place(one: Version | Alert) -> tuple[float, float] | None:
    place = one if isinstance(one, Alert) else one.record
    return None if place.ra_deg is None or place.dec_deg is None else (place.ra_deg, place.dec_deg)


def has_attribute(wanted: AttributeFilter, record: FileRecord) -> bool:
    """Tell whether an attribute, or one element of a list, is one of the values or lies in the range."""
    value = record.attributes.get(wanted.name)
    elements: Sequence[Any] = value if isinstance(value, list) else [value]
    if wanted.values:
        return any(
            _kind(element) is _kind(asked) and element == asked for element in elements for asked in wanted.values
        )
    low = -math.inf if wanted.minimum is None else wanted.minimum
    high = math.inf if wanted.maximum is None else wanted.maximum
    return any(_kind(element) is float and low <= element <= high for element in elements)


def _is_same(value: Any, other: Any) -> bool:
    return _kind(value) is _kind(other) and bool(value == other)


def _kind(value: Any) -> type[Any]:
    """Numbers are numbers, whole or not; a truth value is none."""
    return float if isinstance(value, int | float) and not isinstance(value, bool) else type(value)


def matches_glob(glob: str, path: str) -> bool:
    """Tell whether a path has the form of a pattern; see `glob_to_regex` for the grammar."""
    if not glob:
        return not path
    if glob.startswith("**/"):
        return matches_glob(glob[3:], path) or any(
            path[at] == "/" and matches_glob(glob[3:], path[at + 1 :]) for at in range(len(path))
        )
    if glob.startswith("**"):
        return any(matches_glob(glob[2:], path[at:]) for at in range(len(path) + 1))
    if glob[0] == "*":
        name = path.split("/")[0]
        return any(matches_glob(glob[1:], path[at:]) for at in range(len(name) + 1))
    if not path:
        return False
    if glob[0] == "[":
        close = glob.index("]", 2)
        inside, rest = glob[1:close], glob[close + 1 :]
        is_in = path[0] != "/" and path[0] not in inside[1:] if inside[0] == "!" else path[0] in inside
        return is_in and matches_glob(rest, path[1:])
    return (path[0] == glob[0] or (glob[0] == "?" and path[0] != "/")) and matches_glob(glob[1:], path[1:])


# --- answers --------------------------------------------------------------------------------------------------------


def evaluate_summary(found: Sequence[Version]) -> tuple[int, int, str]:
    """Return count, bytes and checksum of a set of files."""
    records = [version.record for version in found]
    prints = [fingerprint(item.storage, item.path, item.size_bytes, item.sha256) for item in records]
    checksum = set_checksum(sum(high for high, _ in prints), sum(low for _, low in prints))
    return len(records), sum(record.size_bytes for record in records), checksum


def evaluate_facet(found: Iterable[Version], name: str) -> list[tuple[str, int, int]]:
    """Return (value, count, bytes) of each value of a field, the most frequent first, then by value."""
    totals: dict[str, tuple[int, int]] = {}
    for version in found:
        value = getattr(version.record, name)
        if value is not None:
            count, size_bytes = totals.get(value, (0, 0))
            totals[value] = (count + 1, size_bytes + version.record.size_bytes)
    return sorted(((value, *total) for value, total in totals.items()), key=lambda item: (-item[1], item[0]))


def evaluate_order(found: Iterable[Version], name: str, *, descending: bool) -> list[int]:
    """Return the numbers of the files in order; an absent value counts as the largest, ties go by number."""

    def place(version: Version) -> tuple[bool, Any, int]:
        value = version.number if name == "id" else getattr(version.record, name)
        return value is None, 0 if value is None else value, version.number

    return [version.number for version in sorted(found, key=place, reverse=descending)]


def evaluate_timeline(
    found: Sequence[Version], asked: Interval | None, begin_of: Callable[[datetime], datetime]
) -> tuple[dict[datetime, tuple[int, int]], int]:
    """Return begin of bin → (files, bytes), and how many files have no time.

    Parameters
    ----------
    begin_of
        Begin of the bin that holds a moment.
    """
    bins: dict[datetime, tuple[int, int]] = {}
    for version in found:
        begin = version.record.time_begin
        if begin is None:
            continue
        if asked is not None and asked.begin is not None:
            begin = max(begin, asked.begin)
        files, size = bins.get(begin_of(begin), (0, 0))
        bins[begin_of(begin)] = (files + 1, size + version.record.size_bytes)
    return bins, sum(version.record.time_begin is None for version in found)


def evaluate_sky(found: Sequence[Version], order: int) -> tuple[dict[int, int], int]:
    """Return cell → files, and how many files have no position."""
    cells = find_cells([_place(version) for version in found])
    known = Counter(cell >> 2 * (HPX_ORDER - order) for cell in cells if cell is not None)
    return dict(known), cells.count(None)


Coverage: TypeAlias = tuple[int, int, datetime | None, datetime | None, float, list[tuple[datetime, datetime]]]


def evaluate_availability(
    found: Iterable[Version], asked: Interval | None, *, by_day: bool = False
) -> dict[tuple[str, str | None, str | None], Coverage]:
    """Return (facility, detector, channel) → files, bytes, first begin, last end, seconds covered, gaps by length.

    Parameters
    ----------
    by_day
        Whether a file covers the days on which it begins, and those that it lasts if it is longer than one.
    """
    groups: dict[tuple[str, str | None, str | None], list[Version]] = {}
    for version in found:
        record = version.record
        groups.setdefault((record.facility, record.detector, record.channel), []).append(version)
    return {group: _coverage(versions, asked or Interval(), by_day=by_day) for group, versions in groups.items()}


def _coverage(versions: Sequence[Version], asked: Interval, *, by_day: bool) -> Coverage:
    spans = [span for span in map(_span, versions) if span is not None]
    if by_day:
        spans = [_days(span, asked) for span in spans]
    least, most = datetime.min.replace(tzinfo=UTC), datetime.max.replace(tzinfo=UTC)
    # From one edge to the next, all is either covered or not.
    clipped = [(max(begin, asked.begin or least), min(end, asked.end or most)) for begin, end in spans]
    edges = sorted(
        {edge for span in clipped for edge in span} | ({asked.begin, asked.end} - {None} if spans else set())
    )
    live_s, gaps = 0.0, list[tuple[datetime, datetime]]()
    for begin, end in pairwise(edges):
        if any(one <= begin and other >= end for one, other in clipped):
            live_s += (end - begin).total_seconds()
        elif gaps and gaps[-1][1] == begin:
            gaps[-1] = (gaps[-1][0], end)
        else:
            gaps.append((begin, end))
    return (
        len(versions),
        sum(version.record.size_bytes for version in versions),
        min((begin for begin, _ in spans), default=None),
        max((end for _, end in spans), default=None),
        live_s,
        sorted(gaps, key=lambda gap: (gap[0] - gap[1], gap[0])),
    )


def _days(span: tuple[datetime, datetime], asked: Interval) -> tuple[datetime, datetime]:
    begin, end = span
    is_long = end - begin > timedelta(days=1)
    if asked.begin is not None and not is_long:
        begin = max(begin, asked.begin)
    first = begin.replace(hour=0, minute=0, second=0, microsecond=0)
    last = (end - timedelta(microseconds=1) if is_long else begin).replace(hour=0, minute=0, second=0, microsecond=0)
    return first, last + timedelta(days=1)


def evaluate_differences(
    earlier: Iterable[Version], later: Iterable[Version]
) -> list[tuple[str, Version | None, Version | None]]:
    """Return what became of each file that differs between two answers, and its later and earlier version, by path."""
    before = {version.key[:2]: version for version in earlier}
    after = {version.key[:2]: version for version in later}
    found: list[tuple[str, Version | None, Version | None]] = []
    for key in sorted({*before, *after}, key=lambda key: (key[1].encode(), key[0].encode())):
        one, other = after.get(key), before.get(key)
        if one is None or other is None or one.number != other.number:
            found.append(("added" if other is None else "removed" if one is None else "replaced", one, other))
    return found
