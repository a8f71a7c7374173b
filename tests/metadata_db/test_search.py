"""Postgres finds what plain Python finds, in the same order, now and as of any earlier revision."""

import base64
import itertools
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from dataclasses import replace as replace_query
from datetime import UTC, datetime, timedelta
from typing import Any, TypeAlias

import msgspec
import numpy as np
import orjson
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from msgspec.structs import replace
from sqlalchemy import select, text

from metadata_db.alerts import AlertStore, alert_list_id
from metadata_db.catalogue import Catalogue
from metadata_db.database import Database
from metadata_db.errors import BadCursorError
from metadata_db.ingest import Ingest, IngestReport, RemovalReport
from metadata_db.query import (
    Alert,
    AttributeFilter,
    Coincidence,
    EnergyRange,
    Interval,
    Scalar,
    SearchQuery,
    order_alerts,
    parse_attributes,
    parse_coincidence,
    parse_cone,
    parse_globs,
    parse_runs,
    parse_words,
)
from metadata_db.records import Attribute, Channel, Cluster, Facility, FileRecord, KnownFile, Relation, Removal
from metadata_db.search import FacetField, Order, OrderField, Paging, decode_cursor, encode_cursor
from metadata_db.tables import file_version as file
from metadata_db.tables import storage
from metadata_db.timeline import TimeBin, parse_bins
from metadata_db.vocabulary import VocabularyStore
from tests.support.evaluation import (
    History,
    evaluate_availability,
    evaluate_facet,
    evaluate_order,
    evaluate_sky,
    evaluate_summary,
    evaluate_timeline,
    separation_deg,
)
from tests.support.records import chunked, file_record, load, register

CASCADE = Facility(
    name="cascade",
    clusters=[Cluster(name="north"), Cluster(name="west")],
    channels=[Channel(name="gamma")],
    attributes=[Attribute(name="zenith_deg", type="text"), Attribute(name="tags", type="list")],
)
"""A facility whose parts bear the names of another's, and whose attributes have other types."""

FACILITIES = ("aurora", "borealis", "cascade")

Batch: TypeAlias = Sequence[FileRecord] | Sequence[Removal]

# --- catalogues -----------------------------------------------------------------------------------------------------

NOON = datetime(2019, 11, 2, 12, tzinfo=UTC)
MOMENTS = [NOON + timedelta(hours=hour, microseconds=us) for hour in range(4) for us in (0, 1)]
# Begins of days, months and weeks, and the last moments before them.
MOMENTS += [
    datetime(*day, tzinfo=UTC) - timedelta(microseconds=us)
    for day in ((2019, 11, 3), (2019, 11, 4), (2019, 9, 1), (2020, 1, 1), (2001, 1, 1))
    for us in (0, 1)
]
LENGTHS = [timedelta(0), timedelta(microseconds=1), timedelta(hours=1), timedelta(hours=2), timedelta(days=9000)]
POSITIONS = [(0.0, 0.0), (359.9999, 0.5), (0.0001, -0.5), (83.6, 22.0), (180.0, 30.0), (7.0, 89.9), (187.0, 89.9)]
POLES = [(0.0, 90.0), (123.0, 90.0), (0.0, -90.0), (300.0, -90.0)]
RADII = [0.0007, 0.31, 1.17, 45.3, 89.93, 90.13, 179.3, 180.0]
ENERGIES = [0.0, 1e9, 1e11, 1.5e13]
PATHS = ["a.fits", "A.fits", "2019/run_1.fits", "2019/run_12.h5", "2019/11/run_1.fits", "b c/[1]+(x).h5", "ü/^$.fits"]
ATTRIBUTES: Mapping[str, Mapping[str, st.SearchStrategy[Any]]] = {
    "aurora": {
        "zenith_deg": st.sampled_from([0, 12.5, 30, 60.0, -1]),
        "n_telescopes": st.sampled_from([1, 2, 4, 2**53 + 1]),
        "trigger": st.sampled_from(["1", "major", 'a"b\\', "ü"]),
        "calibrated": st.booleans(),
        "tags": st.lists(st.sampled_from([True, 1, 4, 12.5, "1", "major"]), max_size=3),
    },
    "borealis": {},
    "cascade": {
        "zenith_deg": st.sampled_from(["0", "12.5", "major"]),
        "tags": st.lists(st.sampled_from([False, 30, "ü"]), max_size=2),
    },
}
PARTS: Mapping[str, Mapping[str, Sequence[str]]] = {
    "aurora": {"cluster": ["north", "south"], "detector": ["iact-north", "iact-south"], "channel": ["gamma", "muon"]},
    "borealis": {"cluster": ["north"], "channel": ["air-showers"]},
    "cascade": {"cluster": ["north", "west"], "channel": ["gamma"]},
}
GLOBS = ["*", "**", "**/*.fits", "2019/*", "[aA].fits", "**/run_?.*", "**/[!2]*.h5", "ü/^$.f*", "*/**", "**/[[]1*"]
WORDS: Mapping[str, Sequence[str]] = {
    "level": ["DL3", "dl3", "raw"],
    "kind": ["events", "index"],
    "format": ["fits", "fits+gzip"],
    "obs_id": ["1", "01"],
    "object": ["Crab Nebula", "Mrk 421", "a'b%_\\"],
    "processing": ["standard", "fast"],
    "quality": ["good", "bad"],
    "conditions": ["clear", "cloudy"],
}


def seldom(values: Sequence[Any]) -> st.SearchStrategy[Any]:
    """One of `values`, or nothing."""
    return st.sampled_from([None, *values])


@st.composite
def file_records(draw: st.DrawFn) -> FileRecord:
    facility = draw(st.sampled_from(FACILITIES))
    path = draw(st.sampled_from(PATHS))
    shared = facility == "cascade" or draw(st.booleans())
    begin = draw(seldom(MOMENTS))
    length = None if begin is None else draw(seldom(LENGTHS))
    ra_deg, dec_deg = draw(st.sampled_from([(None, None), *POSITIONS, *POLES]))
    low, high = sorted(draw(st.tuples(st.sampled_from(ENERGIES), st.sampled_from(ENERGIES))))
    stated_low, stated_high = draw(st.sampled_from([(True, True), (True, False), (False, True), (False, False)]))
    values: dict[str, Any] = {
        "size_bytes": draw(st.sampled_from([0, 1, 1000, 2**62])),
        "sha256": draw(seldom(["ab" * 32, "cd" * 32])),
        "time_begin": begin,
        "time_end": None if begin is None or length is None else begin + length,
        "run": draw(seldom([-1, 0, 5, 6, 2**40])),
        "ra_deg": ra_deg,
        "dec_deg": dec_deg,
        "energy_min_ev": low if stated_low else None,
        "energy_max_ev": high if stated_high else None,
        "is_simulation": draw(seldom([True, False])),
        "attributes": draw(st.fixed_dictionaries({}, optional=dict(ATTRIBUTES[facility]))),
        "description": draw(seldom(["mine@1", "mine@2"])),
        "provenance": draw(st.sampled_from([{}, {"run": "name"}, {"run": "content RUN"}])),
        "warnings": draw(st.sampled_from([[], ["odd"]])),
        "relations": draw(st.sampled_from([[], [Relation(kind="index_of", path="**/*.fits")]])),
    }
    values |= {name: draw(seldom(choices)) for name, choices in {**WORDS, **PARTS[facility]}.items()}
    return FileRecord(
        facility=facility,
        storage="shared-disk" if shared else f"{facility}-disk",
        path=f"{facility}/{path}" if shared else path,
        **values,
    )


@st.composite
def read_again(draw: st.DrawFn, records: Sequence[FileRecord]) -> FileRecord:
    """A record that says the same as one of `records`, read with another Description."""
    return replace(draw(st.sampled_from(records)), description="mine@3")


@st.composite
def removals(draw: st.DrawFn, records: Sequence[FileRecord]) -> Removal:
    """A removal of one of `records`, of whichever version or of one that may have been replaced."""
    record = draw(st.sampled_from(records))
    size = draw(seldom([record.size_bytes]))
    return Removal(facility=record.facility, storage=record.storage, path=record.path, size_bytes=size)


@st.composite
def lives(draw: st.DrawFn) -> list[Batch]:
    """Batches of records, and now and then one that reads or removes files of an earlier one again."""
    found: list[Batch] = [draw(st.lists(file_records(), min_size=1, max_size=12))]
    for kind in draw(st.lists(st.sampled_from(["records", "records", "read again", "removals"]), max_size=4)):
        earlier = [record for batch in found for record in batch if isinstance(record, FileRecord)]
        if kind == "removals":
            found.append(draw(st.lists(removals(earlier), min_size=1, max_size=12)))
        else:
            one = file_records() if kind == "records" else read_again(earlier)
            found.append(draw(st.lists(one, min_size=1, max_size=12)))
    return found


batches = lives()

# --- questions ------------------------------------------------------------------------------------------------------


def some(name: str, values: Sequence[str]) -> st.SearchStrategy[tuple[str, ...]]:
    return st.lists(st.sampled_from(values), min_size=1, max_size=2).map(lambda found: parse_words(name, found))


intervals = (
    st.tuples(seldom(MOMENTS), seldom(MOMENTS))
    .filter(any)
    .filter(lambda ends: None in ends or ends[0] < ends[1])
    .map(lambda ends: Interval(begin=ends[0], end=ends[1]))
)
energies = (
    st.tuples(seldom([*ENERGIES, 5e11]), seldom([*ENERGIES, 5e11]))
    .filter(lambda ends: ends != (None, None) and (None in ends or ends[0] <= ends[1]))
    .map(lambda ends: EnergyRange(min_ev=ends[0], max_ev=ends[1]))
)
cones = st.builds(
    lambda position, radius: parse_cone("cone", ra_deg=position[0], dec_deg=position[1], radius_deg=radius),
    st.sampled_from([*POSITIONS, *POLES, (0.0, -30.0)]),
    st.sampled_from(RADII),
).filter(
    # Where a file lies on the edge to within a thousandth of an arc second, rounding decides.
    lambda cone: all(
        abs(separation_deg(cone.ra_deg, cone.dec_deg, *position) - cone.radius_deg) > 1e-6 or cone.radius_deg == 180
        for position in [*POSITIONS, *POLES]
    )
)
attribute_filters = st.lists(
    st.one_of(
        st.builds(
            AttributeFilter,
            name=st.sampled_from([*ATTRIBUTES["aurora"]]),
            values=st.lists(
                st.sampled_from([True, False, 0, 1, 4, 12.5, 2**53 + 1, "1", "major", 'a"b\\', "ü", "0"]),
                min_size=1,
                max_size=3,
            ).map(tuple),
        ),
        st.builds(
            AttributeFilter,
            name=st.sampled_from([*ATTRIBUTES["aurora"]]),
            minimum=st.sampled_from([-1.0, 1.0, 12.5]),
            maximum=seldom([12.5, 30.0, 1e300]),
        ),
    ),
    min_size=1,
    max_size=2,
).map(lambda found: parse_attributes("attributes", found))

EDGES = {separation_deg(*one, *other) for one, other in itertools.product([*POSITIONS, *POLES], repeat=2)}
"""Angles between the places of files and of alerts: where one of them is asked for, rounding decides."""

WITHIN_DEG = [angle for angle in RADII if angle == 180 or all(abs(edge - angle) > 1e-6 for edge in EDGES)]
WITHIN_S = [0.0, 1e-6, 3599.999999, 3600.0, 7200.0, 31 * 86_400.0]
ALERTS = [
    Alert(time=moment, ra_deg=ra_deg, dec_deg=dec_deg)
    for moment in [*MOMENTS[:4], NOON - timedelta(hours=2)]
    for ra_deg, dec_deg in [*POSITIONS, POLES[0], (0.0, -90.0)]
]
ALERT_LISTS: Mapping[str, Sequence[Alert]] = {
    alert_list_id(alerts): order_alerts(alerts)
    for alerts in (ALERTS[:1], ALERTS[::5], [Alert(time=NOON), Alert(time=NOON + timedelta(hours=1))])
}
"""Uploaded lists by their ids; the last one has no positions."""


@st.composite
def coincidences(draw: st.DrawFn) -> Coincidence:
    """Files of another filter, a few alerts, or one of `ALERT_LISTS`."""
    partner = draw(st.sampled_from(["files", "files", "alerts", "alert_list"]))
    found: Any
    if partner == "files":
        # Mostly a filter that many files pass, else there is seldom a pair.
        plain = sorted({*FILTERS} - {"coincidence"})
        name = draw(st.sampled_from(["facility", "path", "energy", "is_simulation"]) | st.sampled_from(plain))
        found = SearchQuery(**{name: draw(FILTERS[name])})
        placed = True
    elif partner == "alerts":
        found = draw(st.lists(st.sampled_from(ALERTS), min_size=1, max_size=4))
        placed = True
    else:
        found = draw(st.sampled_from([*ALERT_LISTS]))
        placed = all(alert.ra_deg is not None for alert in ALERT_LISTS[found])
    within_deg = draw(seldom(WITHIN_DEG)) if placed else None
    return parse_coincidence("c", within_s=draw(st.sampled_from(WITHIN_S)), within_deg=within_deg, **{partner: found})


FILTERS: Mapping[str, st.SearchStrategy[Any]] = {
    "facility": some("facility", FACILITIES),
    "storage": some("storage", ["aurora-disk", "borealis-disk", "shared-disk"]),
    "cluster": some("cluster", ["north", "south", "west"]),
    "detector": some("detector", ["iact-north", "iact-south"]),
    "channel": some("channel", ["gamma", "muon", "air-showers"]),
    **{name: some(name, [*choices, "nothing has this"]) for name, choices in WORDS.items()},
    "is_simulation": st.booleans(),
    "time": intervals,
    "run": st.lists(st.sampled_from([(-1, 0), (0, 0), (5, 6), (1, 2**62)]), min_size=1, max_size=2).map(
        lambda found: parse_runs("run", found)
    ),
    "energy": energies,
    "cone": cones,
    "attributes": attribute_filters,
    "coincidence": coincidences(),
    "path": st.lists(st.sampled_from(GLOBS), min_size=1, max_size=2).map(lambda found: parse_globs("path", found)),
}


def test_every_filter_there_is_is_asked() -> None:
    assert set(FILTERS) == set(SearchQuery.__dataclass_fields__)


@st.composite
def questions(draw: st.DrawFn) -> list[SearchQuery]:
    """Nothing, each filter alone, and some of them together."""
    values = {name: draw(values) for name, values in FILTERS.items()}
    together = draw(st.lists(st.sets(st.sampled_from([*FILTERS]), min_size=2, max_size=4), min_size=2, max_size=2))
    alone = [{name} for name in FILTERS]
    return [SearchQuery(**{name: values[name] for name in names}) for names in [set[str](), *alone, *together]]


@st.composite
def moments(draw: st.DrawFn) -> Mapping[str, int]:
    """How many revisions to go back per facility: none more often than not; some facilities may be left out."""
    if draw(st.booleans()):
        return dict.fromkeys(FACILITIES, 0)
    return draw(st.dictionaries(st.sampled_from(FACILITIES), st.integers(0, 3), min_size=1))


# --- the real catalogue, filled with examples -----------------------------------------------------------------------


@dataclass(kw_only=True)
class World:
    """The real catalogue and what it is filled with."""

    catalogue: Catalogue
    database: Database
    ingest: Ingest

    async def fill(self, batches: Sequence[Batch]) -> History:
        """Empty the catalogue, take the batches one after another, and return the same life in plain Python."""
        async with self.database.transaction() as connection:
            await connection.execute(text("truncate file, file_history, replica, change, export_file"))
            await connection.execute(text("truncate stratum_day, facet_month, sky_day"))
            await connection.execute(
                text("update stratum set files = 0, bytes = 0, fingerprint_high = 0, fingerprint_low = 0")
            )
            await connection.execute(text("update facility set revision = 0"))
        # No catalogue ever goes back to an earlier revision: this is another one.
        self.catalogue = Catalogue(self.database, self.catalogue.vocabulary)
        for alerts in ALERT_LISTS.values():
            await AlertStore(self.database).put(alerts)
        history = History(revisions=dict.fromkeys(FACILITIES, 0), alert_lists=ALERT_LISTS)
        for batch in batches:
            await self.take(batch, history)
        assert await self.catalogue.revisions() == history.revisions
        return await self._numbered(history)

    async def take(self, batch: Batch, history: History) -> None:
        """Take one more batch, here and in plain Python."""
        body = chunked(b"".join(msgspec.json.encode(item) + b"\n" for item in batch))
        records = [item for item in batch if isinstance(item, FileRecord)]
        told: IngestReport | RemovalReport
        if records:
            told, counts = await self.ingest.load(body, allowed=None), history.ingest(records)
        else:
            told = await self.ingest.remove(body, allowed=None)
            counts = history.remove([item for item in batch if isinstance(item, Removal)])
        assert {name: getattr(told, name) for name in counts} == counts
        assert (told.received, told.rejected) == (len(batch), 0)

    async def _numbered(self, history: History) -> History:
        columns = (
            storage.c.name,
            file.c.path,
            file.c.added_in,
            file.c.removed_in,
            file.c.id,
            file.c.description,
            file.c.provenance,
            file.c.warnings,
        )
        async with self.database.snapshot() as connection:
            rows = (await connection.execute(select(*columns).where(file.c.storage_id == storage.c.id))).all()
        assert sorted((*row[:3], row[3] or 0) for row in rows) == sorted(
            (*version.key, version.removed_in or 0) for version in history.versions
        )
        readings = {tuple(row[:3]): tuple(row[5:]) for row in rows}
        for version in history.versions:
            record = version.record
            assert readings[version.key] == (record.description, record.provenance, record.warnings)
        return history.numbered({tuple(row[:3]): row[4] for row in rows})

    async def walk(self, asked: SearchQuery, revisions: Mapping[str, int], order: Order, first: int) -> list[int]:
        """Return the numbers of all files of an answer, page by page."""
        numbers: list[int] = []
        after = None
        while True:
            page = await self.catalogue.page(asked, revisions, Paging(order=order, n=first, cursor=after))
            assert len(page.files) == first or not page.has_more
            numbers += [found.id for found in page.files]
            if not page.has_more:
                return numbers
            after = page.files[-1].cursor

    async def walk_back(self, asked: SearchQuery, revisions: Mapping[str, int], order: Order, last: int) -> list[int]:
        """Return the numbers of all files of an answer, page by page from the last one, and try what lies around."""
        numbers: list[int] = []
        before = None
        while True:
            paging = Paging(order=order, n=last, cursor=before, is_backward=True)
            page = await self.catalogue.page(asked, revisions, paging)
            assert len(page.files) == last or not page.has_more
            assert await self.catalogue.has_beyond(asked, revisions, paging) == (before is not None)
            for found in page.files[:1]:
                behind = Paging(order=order, n=last, cursor=found.cursor)
                assert await self.catalogue.has_beyond(asked, revisions, behind)
            numbers = [found.id for found in page.files] + numbers
            if not page.has_more:
                return numbers
            before = page.files[0].cursor

    async def walk_listing(self, name: str, facilities: Collection[str], limit: int) -> list[KnownFile]:
        """Return all living files of a storage, page by page."""
        found: list[KnownFile] = []
        while True:
            after = found[-1].path if found else ""
            page = await self.ingest.listing.page(name, facilities=facilities, after=after, limit=limit)
            found += page
            if len(page) < limit:
                return found


@pytest.fixture
async def world(catalogue: Catalogue, database: Database, ingest: Ingest, vocabulary: VocabularyStore) -> World:
    await register(vocabulary)
    await vocabulary.put_facility(CASCADE)
    return World(catalogue=catalogue, database=database, ingest=ingest)


def examples(number: int) -> settings:
    """One database serves all examples, because each empties it; shrinking would take minutes of look-ups."""
    return settings(
        max_examples=number,
        deadline=None,
        phases=[Phase.explicit, Phase.reuse, Phase.generate],
        suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.data_too_large],
    )


NUMBER_OF_TIME = 1 + [*FILTERS].index("time")
"""Place of the question about a time alone among `questions`."""

ORDERS = [Order(field=field, descending=descending) for field in OrderField for descending in (False, True)]


@examples(20)
@given(batches, questions(), st.lists(moments(), min_size=3, max_size=3))
@pytest.mark.anyio
async def test_every_filter_finds_what_plain_python_finds(
    world: World,
    batches: list[Batch],
    questions: list[SearchQuery],
    moments: list[Mapping[str, int]],
) -> None:
    history = await world.fill(batches)
    for asked, back in zip(questions, itertools.cycle(moments), strict=False):
        revisions = history.back(back)
        found = history.find(asked, revisions)
        summary = await world.catalogue.summary(asked, revisions)
        assert (summary.count, summary.bytes, summary.checksum) == evaluate_summary(found), asked.canonical
        numbers = await world.walk(asked, revisions, Order(field=OrderField.CATALOGUED), 100)
        assert numbers == sorted(version.number for version in found)


@examples(8)
@given(batches, questions(), moments())
@pytest.mark.anyio
async def test_every_facet_counts_what_plain_python_counts(
    world: World, batches: list[Batch], questions: list[SearchQuery], back: Mapping[str, int]
) -> None:
    history = await world.fill(batches)
    revisions = history.back(back)
    for asked in [questions[0], *questions[-2:]]:
        for field in FacetField:
            expected = evaluate_facet(history.find(asked, revisions, without=field.value), field.value)
            for limit in (100, 1):
                facets = await world.catalogue.facets(asked, revisions, [field], limit=limit)
                told = [(facet.value, facet.count, facet.bytes) for facet in facets[field]]
                assert told == expected[:limit], (field, asked.canonical)


@examples(15)
@given(batches, questions(), moments())
@pytest.mark.anyio
async def test_what_a_process_remembers_is_never_told_of_another_moment(
    world: World, batches: list[Batch], questions: list[SearchQuery], back: Mapping[str, int]
) -> None:
    """The same questions again and again, between batches that change what they find."""
    history = await world.fill([])
    chosen = questions[-1]
    asked_again = [questions[0], questions[NUMBER_OF_TIME], *questions[-2:], replace_query(chosen, level=("DL3",))]
    for batch in batches:
        await world.take(batch, history)
        for asked, revisions in itertools.product(asked_again, (history.revisions, history.back(back))):
            found = history.find(asked, revisions)
            summary = await world.catalogue.summary(asked, revisions)
            assert (summary.count, summary.bytes, summary.checksum) == evaluate_summary(found), asked.canonical
            for field in (FacetField.FACILITY, FacetField.OBJECT, FacetField.LEVEL):
                facets = await world.catalogue.facets(asked, revisions, [field], limit=100)
                told = [(facet.value, facet.count, facet.bytes) for facet in facets[field]]
                assert told == evaluate_facet(history.find(asked, revisions, without=field.value), field.value)
            bins = await world.catalogue.timeline(asked, revisions, parse_bins(TimeBin.MONTH, None, None))
            counts = np.frombuffer(bins.counts, "<u4")
            assert counts.sum() + bins.no_time == len(found)


BINS_BEGIN: Mapping[str, Callable[[datetime], datetime]] = {
    "YEAR": lambda at: datetime(at.year, 1, 1, tzinfo=UTC),
    "MONTH": lambda at: datetime(at.year, at.month, 1, tzinfo=UTC),
    "WEEK": lambda at: datetime(at.year, at.month, at.day, tzinfo=UTC) - timedelta(days=at.weekday()),
    "DAY": lambda at: datetime(at.year, at.month, at.day, tzinfo=UTC),
    "HOUR": lambda at: datetime(at.year, at.month, at.day, at.hour, tzinfo=UTC),
}
WIDTHS_S = [86_400.0, 864_000.0, 700_000.5, 1e9]


@examples(12)
@given(batches, questions(), moments(), st.sampled_from(WIDTHS_S), st.integers(1, 2000))
@pytest.mark.anyio
async def test_every_time_line_counts_what_plain_python_counts(
    world: World,
    batches: list[Batch],
    questions: list[SearchQuery],
    back: Mapping[str, int],
    width_s: float,
    number: int,
) -> None:
    history = await world.fill(batches)
    revisions = history.back(back)
    for asked in [questions[0], *questions[::5], *questions[-2:]]:
        found = history.find(asked, revisions)
        times = [version.record.time_begin for version in found if version.record.time_begin is not None]
        interval = asked.time
        begin, end = (None, None) if interval is None else (interval.begin, interval.end)
        for wanted in [
            *(parse_bins(bin, None, None) for bin in TimeBin if bin is not TimeBin.HOUR),
            parse_bins(None, width_s, None),
            parse_bins(None, None, number),
        ]:
            told = await world.catalogue.timeline(asked, revisions, wanted)
            if told.bin is None:
                width = timedelta(seconds=told.bin_s or 0)
                origin = (begin if wanted.bins is None else None) or told.begin or NOON
                expected, no_time = evaluate_timeline(found, interval, lambda at: at - (at - origin) % width)  # noqa: B023
            else:
                expected, no_time = evaluate_timeline(found, interval, BINS_BEGIN[told.bin])
            first = BINS_BEGIN[told.bin](begin) if told.bin and begin else begin or min(expected, default=None)
            counts = np.frombuffer(told.counts, "<u4")
            sizes = np.frombuffer(told.sizes, "<f8")
            assert len(counts) == len(sizes) == told.n
            assert (told.no_time, told.is_estimate) == (no_time, False)
            assert (counts.sum(), told.n == 0) == (len(times), not times and None in (begin, end)), asked.canonical
            if not told.n:
                continue
            if wanted.bins is None or told.bin is not None:
                assert told.begin == first
            else:
                assert told.begin is not None
                assert first is not None
                first, at_latest = told.begin, first
                assert first <= at_latest < first + width
            assert wanted.bins is None or told.n <= number
            at, bins = first, []
            for _ in range(told.n):
                assert at is not None
                bins.append(at)
                at = at + width if told.bin is None else BINS_BEGIN[told.bin](at + NEXT[told.bin])
            assert expected.keys() <= set(bins)
            assert counts.tolist() == [expected.get(at, (0, 0))[0] for at in bins]
            assert sizes.tolist() == [float(expected.get(at, (0, 0))[1]) for at in bins]
            # The last bin is the last with files, or the one that holds the end.
            last = max(expected) if end is None else end - timedelta(microseconds=1)
            assert bins[-1] <= last < (at or last)


NEXT = {
    "YEAR": timedelta(366),
    "MONTH": timedelta(31),
    "WEEK": timedelta(7),
    "DAY": timedelta(1),
    "HOUR": timedelta(hours=1),
}
"""More than a bin is long, and less than two."""


@examples(8)
@given(batches, questions(), moments(), st.sampled_from([0, 3, 6, 7, 10]))
@pytest.mark.anyio
async def test_every_sky_map_counts_what_plain_python_counts(
    world: World, batches: list[Batch], questions: list[SearchQuery], back: Mapping[str, int], order: int
) -> None:
    history = await world.fill(batches)
    revisions = history.back(back)
    for asked in questions:
        told = await world.catalogue.sky(asked, revisions, order)
        cells, counts = (np.frombuffer(text, "<u4").tolist() for text in (told.cells, told.counts))
        assert cells == sorted(cells)
        expected = evaluate_sky(history.find(asked, revisions), order)
        assert (dict(zip(cells, counts, strict=True)), told.no_position) == expected, asked.canonical
        assert (told.order, told.is_estimate) == (order, False)


@examples(8)
@given(batches, questions(), moments())
@pytest.mark.anyio
async def test_every_availability_is_what_plain_python_says(
    world: World, batches: list[Batch], questions: list[SearchQuery], back: Mapping[str, int]
) -> None:
    history = await world.fill(batches)
    revisions = history.back(back)
    for asked in questions:
        found = history.find(asked, revisions)
        for exact_up_to in (100, -1):
            rows = await world.catalogue.availability(asked, revisions, exact_up_to=exact_up_to)
            is_estimate = bool(rows) and rows[0].is_estimate
            told = {
                (row.facility, row.detector, row.channel): (
                    row.files,
                    row.bytes,
                    row.time_begin,
                    row.time_end,
                    pytest.approx(row.live_s, abs=1e-3),
                    [(gap.begin, gap.end) for gap in row.gaps],
                )
                for row in rows
            }
            assert told == evaluate_availability(found, asked.time, by_day=is_estimate), asked.canonical
            assert len(told) == len(rows)
            assert is_estimate in (False, exact_up_to < 0)


@examples(8)
@given(batches, questions(), moments(), st.integers(1, 4))
@pytest.mark.anyio
async def test_a_walk_meets_every_file_once_and_in_order(
    world: World,
    batches: list[Batch],
    questions: list[SearchQuery],
    back: Mapping[str, int],
    first: int,
) -> None:
    history = await world.fill(batches)
    revisions = history.back(back)
    for asked in (questions[0], questions[-1]):
        found = history.find(asked, revisions)
        for order in ORDERS:
            numbers = await world.walk(asked, revisions, order, first + len(found) // 6)
            assert numbers == evaluate_order(found, order.field.value, descending=order.descending), str(order)
            assert await world.walk_back(asked, revisions, order, first + len(found) // 6) == numbers, str(order)


@examples(8)
@given(batches, questions(), st.integers(1, 4))
@pytest.mark.anyio
async def test_a_walk_led_by_the_days_of_rare_files_meets_the_same(
    world: World, monkeypatch: pytest.MonkeyPatch, batches: list[Batch], questions: list[SearchQuery], first: int
) -> None:
    """In catalogues as small as these nothing is rare."""
    monkeypatch.setattr("metadata_db.lookup.RARE", 0)
    history = await world.fill(batches)
    on_strata = [
        asked for asked in questions if set(asked.as_mapping()) <= {*WORDS, *PARTS["aurora"], "facility", "time"}
    ]
    together = [replace_query(asked, time=questions[NUMBER_OF_TIME].time) for asked in on_strata]
    for asked in [*on_strata, *together]:
        found = history.find(asked, history.revisions)
        for descending in (False, True):
            order = Order(descending=descending)
            numbers = await world.walk(asked, history.revisions, order, first)
            assert numbers == evaluate_order(found, "time_begin", descending=descending), asked.canonical


@examples(6)
@given(batches, questions(), st.integers(1, 4))
@pytest.mark.parametrize("longest_walk", [0, 2])
@pytest.mark.anyio
async def test_a_walk_that_is_given_up_is_done_otherwise_and_meets_the_same(
    world: World,
    monkeypatch: pytest.MonkeyPatch,
    longest_walk: int,
    batches: list[Batch],
    questions: list[SearchQuery],
    first: int,
) -> None:
    monkeypatch.setattr("metadata_db.leading.MAX_WALKED", longest_walk)
    monkeypatch.setattr("metadata_db.planning.MAX_LOOKED_AT", 0)
    # As if the other sides of coincidences were too many to be looked up together.
    monkeypatch.setattr("metadata_db.planning._OTHERS_EFFORT", longest_walk)
    history = await world.fill(batches)
    together = [replace_query(asked, time=questions[NUMBER_OF_TIME].time) for asked in questions]
    for asked in [*questions, *together]:
        found = history.find(asked, history.revisions)
        for descending in (False, True):
            order = Order(descending=descending)
            numbers = await world.walk(asked, history.revisions, order, first)
            assert numbers == evaluate_order(found, "time_begin", descending=descending), asked.canonical


@examples(8)
@given(batches, questions(), moments(), st.integers(1, 5))
@pytest.mark.anyio
async def test_the_members_of_an_export_are_the_files_of_its_answer(
    world: World,
    batches: list[Batch],
    questions: list[SearchQuery],
    back: Mapping[str, int],
    size: int,
) -> None:
    history = await world.fill(batches)
    revisions = history.back(back)
    living = [version.record for version in history.as_of(history.revisions)]
    for asked in questions[::7]:
        expected = {version.number: version.record for version in history.find(asked, revisions)}
        told = [batch async for batch in world.catalogue.iter_members(asked, revisions, batch=size)]
        assert [len(batch) for batch in told[:-1]] == [size] * (len(told) - 1)
        members = [member for batch in told for member in batch]
        assert [member.file_id for member in members] == sorted(expected)
        for member in members:
            record = expected[member.file_id]
            same = ("facility", "storage", "path", "size_bytes", "sha256", "md5", "licence")
            assert [getattr(member, name) for name in same] == [getattr(record, name) for name in same]
            home, *others = ((place.storage, place.path) for place in member.places)
            twins = {(item.storage, item.path) for item in living if item.sha256 == record.sha256 is not None}
            assert home == (record.storage, record.path)
            assert others == sorted(twins - {home})


@examples(8)
@given(batches, st.lists(st.sampled_from(FACILITIES), min_size=1, unique=True), st.integers(1, 5))
@pytest.mark.anyio
async def test_a_listing_tells_the_living_files_of_a_storage_in_the_order_of_their_bytes(
    world: World, batches: list[Batch], facilities: list[str], limit: int
) -> None:
    history = await world.fill(batches)
    for name in ("shared-disk", "aurora-disk"):
        told = await world.walk_listing(name, {"aurora", *facilities}, limit)
        records = [version.record for version in history.list_files(name, {"aurora", *facilities})]
        same = ("path", "size_bytes", "facility", "modified_at", "sha256", "description")
        assert [[getattr(one, field) for field in same] for one in told] == [
            [getattr(record, field) for field in same] for record in records
        ]
        assert [one.checked_at is None for one in told] == [record.sha256 is None for record in records]


# --- single cases that the small worlds above may miss --------------------------------------------------------------


@pytest.mark.anyio
async def test_a_cone_of_half_a_turn_holds_the_opposite_point(world: World) -> None:
    """There the haversine is 1, and rounding takes it above."""
    opposite = [(180.0 + at / 7, 3.3 * at % 90) for at in range(60)]
    records = [file_record(str(at), ra_deg=ra, dec_deg=dec) for at, (ra, dec) in enumerate(opposite)]
    revisions = (await world.fill([records])).revisions
    for ra, dec in opposite:
        asked = SearchQuery(cone=parse_cone("cone", ra_deg=ra - 180, dec_deg=-dec, radius_deg=180))
        assert (await world.catalogue.summary(asked, revisions)).count == len(opposite), (ra, dec)


@pytest.mark.anyio
async def test_a_cone_of_an_arc_second_finds_its_own_centre(world: World) -> None:
    await world.fill([[file_record("crab", ra_deg=83.633212, dec_deg=22.01446)]])
    for shift, count in ((0, 1), (0.9 / 3600, 1), (1.1 / 3600, 0)):
        cone = parse_cone("cone", ra_deg=83.633212, dec_deg=22.01446 + shift, radius_deg=1 / 3600)
        summary = await world.catalogue.summary(SearchQuery(cone=cone), await world.catalogue.revisions())
        assert summary.count == count


@pytest.mark.anyio
async def test_any_value_of_an_attribute_can_be_asked_for(world: World) -> None:
    values: list[Scalar] = [1e300, -1e300, 1e-300, 2**64, 'quote " and \\ and \u2028', "$.x ? (@ > 0)", "", "😀"]
    records = [file_record(str(at), attributes={"tags": [value]}) for at, value in enumerate(values)]
    revisions = (await world.fill([records])).revisions
    for at, value in enumerate(values):
        wanted = parse_attributes("attributes", [AttributeFilter(name="tags", values=(value,))])
        page = await world.catalogue.page(SearchQuery(attributes=wanted), revisions, Paging(n=9))
        assert [found.path for found in page.files] == [str(at)], value


@pytest.mark.anyio
async def test_an_undeclared_attribute_is_no_way_into_the_statement(world: World) -> None:
    revisions = (await world.fill([[file_record("a", attributes={"trigger": "x"})]])).revisions
    for name in ("$.trigger", 'trigger" ? (1 == 1) || $."a', "ü", "a b", "*"):
        asked = SearchQuery(attributes=(AttributeFilter(name=name, values=("x",)),))
        assert (await world.catalogue.summary(asked, revisions)).count == 0, name


@pytest.mark.anyio
async def test_longer_files_of_a_coincidence_s_other_facility_are_no_hindrance(world: World) -> None:
    other = file_record("b", facility="borealis", storage="borealis-disk", time_begin=NOON)
    long = file_record("a", time_begin=NOON, time_end=NOON + timedelta(hours=3))
    revisions = (await world.fill([[long, other]])).revisions
    coincidence = parse_coincidence("c", within_s=0, files=SearchQuery(facility=("aurora",)))
    asked = SearchQuery(facility=("borealis",), coincidence=coincidence)
    assert (await world.catalogue.summary(asked, revisions)).count == 1


@pytest.mark.anyio
async def test_the_facet_of_objects_counts_the_others_beside_a_particular_filter(world: World) -> None:
    """The index of objects, which finds those that are asked for, is no way to the others."""
    names = ("Crab", "Crab", "Mrk 421")
    records = [file_record(str(at), object=name, energy_min_ev=5.0) for at, name in enumerate(names)]
    revisions = (await world.fill([[*records, file_record("nothing")]])).revisions
    asked = SearchQuery(object=("Mrk 421",), energy=EnergyRange(min_ev=1.0))
    facets = await world.catalogue.facets(asked, revisions, [FacetField.OBJECT], limit=9)
    assert [(facet.value, facet.count) for facet in facets[FacetField.OBJECT]] == [("Crab", 2), ("Mrk 421", 1)]


ASKED = SearchQuery().query_id

# --- cursors --------------------------------------------------------------------------------------------------------


@given(
    st.one_of(
        st.tuples(
            st.just(OrderField.TIME_BEGIN),
            st.none() | st.datetimes(min_value=datetime(1, 1, 1), timezones=st.just(UTC)),
        ),
        st.tuples(st.just(OrderField.PATH), st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]))),
        st.tuples(st.just(OrderField.SIZE_BYTES), st.integers(0, 2**63 - 1)),
        st.tuples(st.just(OrderField.RUN), st.none() | st.integers(-(2**63) + 1, 2**63 - 1)),
        st.tuples(st.just(OrderField.CATALOGUED), st.integers(1, 2**63 - 1)),
    ),
    st.booleans(),
    st.integers(1, 2**63 - 1),
)
def test_a_cursor_gives_its_row_back(kept: tuple[OrderField, Any], descending: bool, number: int) -> None:
    order = Order(field=kept[0], descending=descending)
    assert decode_cursor(order, encode_cursor(order, kept[1], number, query_id=ASKED), query_id=ASKED) == (
        kept[1],
        number,
    )


@pytest.mark.parametrize("order", ORDERS, ids=str)
def test_a_cursor_of_another_order_is_refused(order: Order) -> None:
    value = {OrderField.TIME_BEGIN: NOON, OrderField.PATH: "a"}.get(order.field, 1)
    cursor = encode_cursor(order, value, 1, query_id=ASKED)
    for other in ORDERS:
        if other != order:
            with pytest.raises(BadCursorError) as caught:
                decode_cursor(other, cursor, query_id=ASKED)
            assert (caught.value.field, str(other) in caught.value.expected) == ("after", True)


def test_a_cursor_of_another_question_is_refused() -> None:
    cursor = encode_cursor(Order(), NOON, 1, query_id=ASKED)
    with pytest.raises(BadCursorError, match="of this question"):
        decode_cursor(Order(), cursor, query_id=SearchQuery(kind=("events",)).query_id)


def forged(kind: str, *content: Any) -> str:
    content = (f"{kind}{ASKED[:8]}", *content)
    return base64.urlsafe_b64encode(orjson.dumps(content)).decode().rstrip("=")


@pytest.mark.parametrize(
    ("field", "cursor"),
    [
        (OrderField.TIME_BEGIN, ""),
        (OrderField.TIME_BEGIN, "nonsense"),
        (OrderField.TIME_BEGIN, "ünicode"),
        (OrderField.TIME_BEGIN, "a" * 5),
        (OrderField.TIME_BEGIN, "////"),
        (OrderField.TIME_BEGIN, base64.urlsafe_b64encode(b"{}").decode()),
        (OrderField.TIME_BEGIN, base64.urlsafe_b64encode(b"1").decode()),
        (OrderField.TIME_BEGIN, base64.urlsafe_b64encode(b"[" * 2000).decode()),
        (OrderField.TIME_BEGIN, forged("time_begin+")),
        (OrderField.TIME_BEGIN, forged("time_begin+", "2019", 1, 1)),
        (OrderField.TIME_BEGIN, forged("time_begin+", "yesterday", 1)),
        (OrderField.TIME_BEGIN, forged("time_begin+", "2019-11-02T12:00:00", 1)),
        (OrderField.TIME_BEGIN, forged("time_begin+", 5, 1)),
        (OrderField.TIME_BEGIN, forged("time_begin+", None, "1")),
        (OrderField.TIME_BEGIN, forged("time_begin+", None, True)),
        (OrderField.TIME_BEGIN, forged("time_begin+", None, 1.5)),
        (OrderField.TIME_BEGIN, forged("time_begin+", None, 2**63)),
        (OrderField.PATH, forged("path+", None, 1)),
        (OrderField.PATH, forged("path+", "a\0b", 1)),
        (OrderField.PATH, forged("path+", ["a"], 1)),
        (OrderField.SIZE_BYTES, forged("size_bytes+", None, 1)),
        (OrderField.SIZE_BYTES, forged("size_bytes+", "1", 1)),
        (OrderField.SIZE_BYTES, forged("size_bytes+", True, 1)),
        (OrderField.SIZE_BYTES, forged("size_bytes+", 2**63, 1)),
        (OrderField.RUN, forged("run+", 1.0, 1)),
        (OrderField.CATALOGUED, forged("id+", None, 1)),
    ],
)
def test_a_foreign_or_altered_cursor_is_refused(field: OrderField, cursor: str) -> None:
    with pytest.raises(BadCursorError) as caught:
        decode_cursor(Order(field=field), cursor, query_id=ASKED)
    assert caught.value.field == "after"
    assert f"the order {field.value}+" in caught.value.expected


@pytest.mark.anyio
async def test_a_cursor_survives_ingest_between_pages(world: World) -> None:
    """Files of both pages change and move behind; the walk goes on as of where it began."""
    began = [file_record(f"run_{at}", size_bytes=at, run=at, time_begin=NOON + timedelta(hours=at)) for at in range(6)]
    moved = {"size_bytes": 100, "run": 99, "time_begin": NOON + timedelta(days=9)}
    for field in OrderField:
        revisions = (await world.fill([began])).revisions
        order = Order(field=field)
        first = await world.catalogue.page(SearchQuery(), revisions, Paging(order=order, n=3))
        await load(world.ingest, *(file_record(f"run_{at}", **moved) for at in range(5)), file_record("a new one"))
        after = first.files[-1].cursor
        second = await world.catalogue.page(SearchQuery(), revisions, Paging(order=order, n=3, cursor=after))
        assert [found.size_bytes for found in first.files + second.files] == [0, 1, 2, 3, 4, 5], field
        assert (first.has_more, second.has_more) == (True, False)
        back = Paging(order=order, n=3, cursor=second.files[0].cursor, is_backward=True)
        again = await world.catalogue.page(SearchQuery(), revisions, back)
        assert (again.files, again.has_more) == (first.files, False)
        assert await world.catalogue.has_beyond(SearchQuery(), revisions, back)
