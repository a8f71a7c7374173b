"""The catalogue as it is read: what exists, and what matches a question.

Every look-up says for which revisions of the facilities it is true. Look-ups of one answer are made one by one, as
they are needed; when the catalogue has moved on between two of them, the later one is answered as of the revisions of
the first, so that count, facets and pages of one answer always belong together.
"""

from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from functools import partial
from typing import Any

import msgspec

from metadata_db.alerts import AlertStore
from metadata_db.availability import (
    MAX_EXACT,
    Availability,
    coverage_by_day,
    coverage_by_file,
    make_availabilities,
)
from metadata_db.canonical import canonical_sha256
from metadata_db.database import Database
from metadata_db.differences import (
    VERSIONS,
    DifferenceKind,
    DifferenceTotals,
    Pair,
    Sides,
    decode_place,
    encode_place,
    listed,
    moved_between,
    pairs_statement,
    read_totals,
    totals_statement,
)
from metadata_db.distribution import (
    Distribution,
    SkyDistribution,
    TimeDistribution,
    sky_ahead,
    spread_found,
    spread_sampled,
)
from metadata_db.errors import BadInputError, NotFoundError, QueryIdCollisionError
from metadata_db.filters import NAMED, build_filters
from metadata_db.forwarding import Forwarding
from metadata_db.found import (
    FILE_FIELDS,
    FoundFile,
    PageColumns,
    make_found_files,
    make_page,
    make_page_files,
    table_columns,
)
from metadata_db.leading import MAX_WALKED, Lead
from metadata_db.lookup import LookUps, View
from metadata_db.members import Member, read_members
from metadata_db.moments import Moment, read_moment, read_revision, read_time
from metadata_db.paging import ids_statement, page_statement
from metadata_db.planning import suited
from metadata_db.query import Coincidence, SearchQuery, check_positions
from metadata_db.search import FacetField, Order, Paging, Revisions
from metadata_db.sky import SkyMap, make_sky_map
from metadata_db.tallies import MEMORY_BYTES, Tallies, Tally
from metadata_db.timeline import DAYS, MAX_BINS, SECONDS, Binning, Histogram, WantedBins, make_histogram
from metadata_db.vocabulary import Vocabulary, VocabularyStore


class Summary(msgspec.Struct, frozen=True, kw_only=True):
    """A whole set of files in three numbers."""

    count: int
    bytes: int
    checksum: str | None
    """Equal sets have equal checksums, whatever the order and wherever they are computed; None of an estimate."""
    is_estimate: bool = False
    """Whether the numbers are those of a sample, because counting would have meant to look at too many files."""


class Page(msgspec.Struct, frozen=True, kw_only=True):
    """Some files of an answer, in order."""

    files: list[FoundFile]
    has_more: bool
    """Whether files follow, or precede when the page is read backward."""


class Difference(msgspec.Struct, frozen=True, kw_only=True):
    """A file of which one of two answers has another version than the other, or none."""

    cursor: str
    kind: DifferenceKind
    file: FoundFile | None
    """As of the later answer; None when it is not in it."""
    previous: FoundFile | None
    """As of the earlier answer; None when it is not in it."""


class DifferencePage(msgspec.Struct, frozen=True, kw_only=True):
    """Some differences of two answers, in the order of the bytes of path and storage."""

    differences: list[Difference]
    has_next: bool


class FacetValue(msgspec.Struct, frozen=True, kw_only=True):
    """How many files, and bytes, have one value."""

    value: str
    count: int
    bytes: int


class Catalogue:
    """Reads the catalogue.

    Parameters
    ----------
    memory_bytes
        How much the process may keep of what has been counted.
    """

    def __init__(self, database: Database, vocabulary: VocabularyStore, *, memory_bytes: int = MEMORY_BYTES) -> None:
        self._database = database
        self.vocabulary = vocabulary
        self._alerts = AlertStore(database)
        self._look_ups = LookUps(database, vocabulary, self._alerts)
        self._forwarding = Forwarding(database)
        self._tallies = Tallies(database, self._look_ups, memory_bytes=memory_bytes)

    async def warm_up(self) -> None:
        """Fetch what the first questions would else have to wait for: of 10 million files some seconds' work."""
        await self._tallies.warm_up()

    # --- questions -----------------------------------------------------------------------------------------------

    async def check(self, asked: SearchQuery) -> None:
        """Check the names that a question uses against the vocabulary.

        Raises
        ------
        BadInputError
            A facility, cluster, detector, channel, storage or attribute is not known.
        """
        _check_names("filter", asked, await self.vocabulary.get())
        if asked.coincidence is not None:
            await self._check_coincidence("filter.coincidence", asked.coincidence)

    async def _check_coincidence(self, name: str, wanted: Coincidence) -> None:
        if wanted.files is not None:
            _check_names(f"{name}.files", wanted.files, await self.vocabulary.get())
        elif wanted.alert_list is not None:
            try:
                alerts = await self._alerts.get(wanted.alert_list)
            except NotFoundError as error:
                expected = "the id of a list that was uploaded to /api/v1/alerts"
                raise BadInputError(f"{name}.alertList", wanted.alert_list, expected) from error
            if wanted.within_deg is not None:
                check_positions(f"{name}.alertList", alerts)

    async def register_query(self, asked: SearchQuery) -> None:
        """Keep a question for ever under its id.

        Raises
        ------
        QueryIdCollisionError
            Another question has this id.
        """
        values = registration(asked)
        kept = await self._database.write(REGISTER, values)
        if not kept:
            # Somebody else registered it at this moment, later than this statement can see.
            kept = await self._database.read(_REGISTERED, values)
        if kept[0][0] != values["sha256"]:
            raise QueryIdCollisionError(asked.query_id)

    async def find_query(self, query_id: str) -> SearchQuery | None:
        """Return the question that was registered under an id."""
        found = await self._database.read("select canonical from query where id = %(id)s", {"id": query_id})
        return SearchQuery.from_canonical(found[0][0]) if found else None

    # --- moments -------------------------------------------------------------------------------------------------

    async def revisions(self, names: Sequence[str] = ()) -> Revisions:
        """Return the present revision of the named facilities, of all when none is named."""
        rows = await self._database.read(
            "select name, revision from facility where %(all)s or name = any(%(names)s)",
            {"all": not names, "names": list(names)},
        )
        return dict(rows)

    async def moment(self, as_of: int | datetime | None = None, *, name: str = "asOf") -> Moment:
        """Return what the facilities are at, or were at as of a revision of the catalogue or a time.

        Raises
        ------
        BadInputError
            The catalogue has not come so far; `name` is what it calls `as_of`.
        """
        return await read_moment(self._database, as_of, name=name)

    async def revision_of(self, revisions: Revisions) -> int:
        """Return the revision of the catalogue that an answer as of `revisions` is cited by."""
        return await read_revision(self._database, revisions)

    async def time_of(self, revision: int) -> datetime | None:
        """Return when a revision of the catalogue was made; None of the one before all changes."""
        return await read_time(self._database, revision)

    # --- answers -------------------------------------------------------------------------------------------------

    async def is_untouched(self, asked: SearchQuery, since: Revisions, until: Revisions) -> bool:
        """Tell whether the answers as of two moments are surely the same; False may mean not known."""
        return await self._forwarding.is_untouched(asked, since, until)

    async def summary(self, asked: SearchQuery, revisions: Revisions, *, exact: bool = True) -> Summary:
        """Count the files of a question, their bytes, and their checksum, as of `revisions`.

        Parameters
        ----------
        exact
            Whether to look at every file, however many there are; otherwise a sample may stand for many.
        """

        async def look_up(view: View) -> Summary:
            tally = await self._tallies.get(view, exact=exact)
            total = tally.total()
            if tally.weight is None:
                return Summary(count=total.files, bytes=total.bytes, checksum=total.checksum)
            return Summary(
                count=round(total.files * tally.weight),
                bytes=int(total.bytes * tally.weight),
                checksum=None,
                is_estimate=True,
            )

        return await self._look_ups.as_of(asked, revisions, look_up)

    async def page(self, asked: SearchQuery, revisions: Revisions, paging: Paging) -> Page:
        """Return some files of a question, as of `revisions`."""
        found = await self.columns(asked, revisions, paging, FILE_FIELDS)
        return Page(files=make_page_files(found), has_more=found.has_more)

    async def columns(
        self, asked: SearchQuery, revisions: Revisions, paging: Paging, fields: Sequence[str]
    ) -> PageColumns:
        """Return some files of a question, as of `revisions`: of each of them `fields` of `FoundFile`."""
        place = paging.find_place(asked.query_id)
        names = table_columns(fields, paging.order)

        async def look_up(view: View) -> PageColumns:
            rows = await self._find_files(view, paging.direction, paging.n, place, names)
            return make_page(rows, fields, paging, query_id=asked.query_id, vocabulary=view.vocabulary)

        return await self._look_ups.as_of(asked, revisions, look_up)

    async def has_beyond(self, asked: SearchQuery, revisions: Revisions, paging: Paging) -> bool:
        """Tell whether there are files on the other side of a page's cursor, as of `revisions`."""
        place = paging.find_place_beyond(asked.query_id)
        if place is None:
            return False
        order = paging.direction.reverse

        async def look_up(view: View) -> bool:
            return bool(await self._find_files(view, order, 0, place, table_columns((), order)))

        return await self._look_ups.as_of(asked, revisions, look_up)

    async def _find_files(
        self, view: View, order: Order, n: int, place: tuple[Any, int] | None, columns: Sequence[str]
    ) -> list[tuple[Any, ...]]:
        """Return rows of the first `n` files behind a place, and of one more if there is."""
        choice = await self._look_ups.choose(view)
        way = choice.way if choice.is_short else None
        lead = None if way is not None else await self._look_ups.find_lead(view, order, place)
        if lead is not None and lead.is_rare:
            lead = await self._lead_by_days(view, lead)
        make = partial(page_statement, order=order, first=n, after=place, columns=columns, is_past=view.is_past)
        filters = suited(view.filters, choice, MAX_WALKED)
        rows = await self._look_ups.read(view, make(filters, way=way, lead=lead))
        if lead is not None and lead.is_cut and len(rows) <= n:
            lead = replace(lead, most=None)
            if not filters.particular:
                lead = await self._lead_by_days(view, lead)
            elif filters.scan is not None and choice.is_nearly_all:
                way = filters.scan
            is_known_empty = lead.is_rare and not lead.strata
            rows = [] if is_known_empty else await self._look_ups.read(view, make(view.filters, way=way, lead=lead))
        return rows

    async def _lead_by_days(self, view: View, lead: Lead) -> Lead:
        """Return how a walk is led by the days on which there are files of the strata that match."""
        return replace(lead, is_rare=True, strata=(await self._tallies.get(view, exact=True)).strata())

    async def facets(
        self,
        asked: SearchQuery,
        revisions: Revisions,
        fields: Sequence[FacetField],
        *,
        limit: int,
        exact: bool = True,
    ) -> dict[FacetField, list[FacetValue]]:
        """Count the files per value of each of `fields`; the question's own choice in a field is left out of its facet.

        The `limit` most frequent values are told, those of equal counts by name.
        """
        found = {}
        rest = list(fields)
        if asked.facility and FacetField.FACILITY in rest:
            # Without its own choice a question touches the files of all facilities.
            rest.remove(FacetField.FACILITY)
            everywhere = replace(asked, facility=())
            found = await self._count(everywhere, revisions, [FacetField.FACILITY], limit=limit, exact=exact)
        if rest:
            found |= await self._count(asked, revisions, rest, limit=limit, exact=exact)
        return {field: found[field] for field in fields}

    async def _count(
        self, asked: SearchQuery, revisions: Revisions, fields: Sequence[FacetField], *, limit: int, exact: bool
    ) -> dict[FacetField, list[FacetValue]]:
        async def look_up(view: View) -> dict[FacetField, list[FacetValue]]:
            tallies = dict.fromkeys(fields, await self._tallies.get(view, exact=exact))
            if asked.object and FacetField.OBJECT in fields:
                tallies[FacetField.OBJECT] = await self._tallies.get(view, exact=exact, is_narrow=False)
            return {field: _facet_values(field, tally, view.vocabulary, limit) for field, tally in tallies.items()}

        return await self._look_ups.as_of(asked, revisions, look_up)

    # --- distributions -------------------------------------------------------------------------------------------

    async def timeline(
        self, asked: SearchQuery, revisions: Revisions, wanted: WantedBins, *, exact: bool = True
    ) -> Histogram:
        """Count the files of a question, and their bytes, by bins of their begin, as of `revisions`.

        Without an asked begin the first bin is the first that has files; so is the last one without an asked end.

        Raises
        ------
        BadInputError
            There would be too many bins.
        """

        async def look_up(view: View) -> Histogram:
            bins = wanted.fixed(asked.time) or await self._fit_bins(view, wanted, exact=exact)
            if asked.time is not None and None not in (asked.time.begin, asked.time.end):
                wanted.range(bins, asked.time, None, None)
            rows, weight = await self._bin(view, TimeDistribution(binning=bins, limit=MAX_BINS + 2), exact=exact)
            first, last = rows[0][3:] if rows else (None, None)
            numbers = wanted.range(bins, asked.time, first, last)
            return make_histogram(bins, numbers, rows, weight=weight or 1, is_estimate=weight is not None)

        return await self._look_ups.as_of(asked, revisions, look_up)

    async def _fit_bins(self, view: View, wanted: WantedBins, *, exact: bool) -> Binning:
        """Return the bins for an interval with an open end, which depend on where the files are."""
        is_small = (await self._look_ups.choose(view, looks_at_files=True)).is_short
        coarse = SECONDS if view.filters.particular or is_small else DAYS
        rows, _ = await self._bin(view, TimeDistribution(binning=coarse, limit=1), exact=exact)
        first, last = rows[0][3:] if rows else (None, None)
        interval = view.filters.interval
        if first is None or last is None:
            return DAYS
        begin, end = coarse.begin(first), coarse.begin(last + 1) - datetime.resolution
        if interval is not None:
            begin, end = interval.begin or begin, end if interval.end is None else interval.end - datetime.resolution
        return wanted.fitting(begin, end, interval)

    async def _bin(
        self, view: View, kind: TimeDistribution, *, exact: bool
    ) -> tuple[list[tuple[Any, ...]], float | None]:
        if kind.binning.has_whole_days and not view.filters.particular:
            return await self._tallies.bins(view, kind), None
        return await self._spread(view, kind, exact=exact)

    async def sky(self, asked: SearchQuery, revisions: Revisions, order: int, *, exact: bool = True) -> SkyMap:
        """Count the files of a question by HEALPix cells of an order, nested, as of `revisions`."""

        async def look_up(view: View) -> SkyMap:
            kind = SkyDistribution(order=order)
            if kind.is_ahead and not view.filters.particular:
                rows, weight = (
                    await self._look_ups.read(view, sky_ahead(kind, view.filters, is_past=view.is_past)),
                    None,
                )
            else:
                rows, weight = await self._spread(view, kind, exact=exact)
            return make_sky_map(order, *rows[0], weight=weight or 1, is_estimate=weight is not None)

        return await self._look_ups.as_of(asked, revisions, look_up)

    async def availability(
        self, asked: SearchQuery, revisions: Revisions, *, exact_up_to: int = MAX_EXACT
    ) -> list[Availability]:
        """Tell when there are files of a question, for each facility, detector and channel, as of `revisions`.

        Parameters
        ----------
        exact_up_to
            Of more files only days are looked at, unless a filter can only be decided by looking at them.
        """

        async def look_up(view: View) -> list[Availability]:
            choice = await self._look_ups.choose(view, looks_at_files=True)
            is_estimate = not view.filters.particular and choice.bound > exact_up_to
            if is_estimate:
                statement = coverage_by_day(view.filters, is_past=view.is_past)
            else:
                statement = coverage_by_file(view.filters, choice, is_past=view.is_past)
            return make_availabilities(
                await self._look_ups.read(view, statement), view.vocabulary, is_estimate=is_estimate
            )

        return await self._look_ups.as_of(asked, revisions, look_up)

    async def _spread(
        self, view: View, kind: Distribution, *, exact: bool
    ) -> tuple[list[tuple[Any, ...]], float | None]:
        """Return the rows of a distribution; of a sample, also how many files each file stands for."""
        choice = await self._look_ups.choose(view, looks_at_files=True)
        if exact or choice.is_short:
            return await self._look_ups.read(view, spread_found(kind, view.filters, choice, is_past=view.is_past)), None
        statement, weight = spread_sampled(kind, view.filters, choice)
        return await self._look_ups.read(view, statement, is_sample=True), weight

    # --- differences of answers ----------------------------------------------------------------------------------

    async def difference_totals(self, asked: SearchQuery, since: Revisions, until: Revisions) -> DifferenceTotals:
        """Count the files by which the answers as of `since` and of the later `until` differ."""
        statement = totals_statement(await self._find_sides(asked, since, until))
        ((*row,),) = await self._database.read(statement.text, statement.values)
        return read_totals(row)

    async def differences(
        self, asked: SearchQuery, since: Revisions, until: Revisions, *, first: int, after: str | None
    ) -> DifferencePage:
        """Return `first` files, behind the cursor `after`, by which the answers as of `since` and `until` differ."""
        behind = None if after is None else decode_place(after, query_id=asked.query_id)
        statement = pairs_statement(await self._find_sides(asked, since, until), first, behind)
        rows = await self._database.read(statement.text, statement.values)
        pairs = [Pair(number=row[0], previous=row[1], path=row[2], storage=row[3]) for row in rows]
        versions = await self._read_versions(pairs[:first])
        return DifferencePage(
            differences=[
                Difference(
                    cursor=encode_place(pair.path, pair.storage, query_id=asked.query_id),
                    kind=pair.kind,
                    file=None if pair.number is None else versions[pair.number],
                    previous=None if pair.previous is None else versions[pair.previous],
                )
                for pair in pairs[:first]
            ],
            has_next=len(pairs) > first,
        )

    async def _find_sides(self, asked: SearchQuery, since: Revisions, until: Revisions) -> Sides:
        if asked.coincidence is not None:
            return listed(await self._find_numbers(asked, since), await self._find_numbers(asked, until))
        vocabulary = await self.vocabulary.get()
        if not until.keys() <= vocabulary.facility.ids.keys():
            vocabulary = await self.vocabulary.renew()
        filters = build_filters(asked, vocabulary, facilities=until.keys(), indexed=vocabulary.indexed)
        names = [vocabulary.facility.names[number] for number in filters.facilities]
        return moved_between(filters, [since.get(name, 0) for name in names], [until[name] for name in names])

    async def _read_versions(self, pairs: Sequence[Pair]) -> dict[int, FoundFile]:
        numbers = [number for pair in pairs for number in (pair.number, pair.previous) if number is not None]
        rows = await self._database.read(VERSIONS, {"numbers": numbers})
        try:
            found = make_found_files(rows, await self.vocabulary.get())
        except KeyError:
            found = make_found_files(rows, await self.vocabulary.renew())
        return {version.id: version for version in found}

    # --- members of an export ------------------------------------------------------------------------------------

    async def iter_members(
        self, asked: SearchQuery, revisions: Revisions, *, after_id: int = 0, batch: int = 500
    ) -> AsyncIterator[list[Member]]:
        """Yield all files of a question as of `revisions`, in batches, in the order of their numbers.

        No connection is held between batches: a version is never changed, nor does its number.
        """
        numbers = [number for number in await self._find_numbers(asked, revisions) if number > after_id]
        for at in range(0, len(numbers), batch):
            yield await read_members(self._database, self.vocabulary, numbers[at : at + batch])

    async def _find_numbers(self, asked: SearchQuery, revisions: Revisions) -> list[int]:
        """Return the numbers of all files of a question as of `revisions`, in order."""

        async def look_up(view: View) -> list[int]:
            choice = await self._look_ups.choose(view)
            way = choice.way if choice.is_short else None
            statement = ids_statement(view.filters, way=way, is_past=view.is_past)
            return [number for (number,) in await self._look_ups.read(view, statement)]

        return await self._look_ups.as_of(asked, revisions, look_up)


REGISTER = """
    with added as (
        insert into query (id, canonical, canonical_sha256) values (%(id)s, %(canonical)s, %(sha256)s)
        on conflict (id) do nothing returning canonical_sha256
    )
    select canonical_sha256 from added union all select canonical_sha256 from query where id = %(id)s
"""
"""Keeps a question, and tells the SHA-256 that is kept under its id."""

_REGISTERED = "select canonical_sha256 from query where id = %(id)s"


def registration(asked: SearchQuery) -> dict[str, Any]:
    """Return the values of the parameters of `REGISTER`."""
    return {"id": asked.query_id, "canonical": asked.canonical, "sha256": canonical_sha256(asked.canonical)}


def _check_names(name: str, asked: SearchQuery, known: Vocabulary) -> None:
    for kind in NAMED:
        known.require(kind, f"{name}.{kind}", getattr(asked, kind))
    declared = {attribute for attributes in known.attributes.values() for attribute in attributes}
    for at, item in enumerate(asked.attributes):
        if item.name not in declared:
            expected = f"a declared attribute: {', '.join(sorted(declared)[:30]) or 'there are none yet'}"
            raise BadInputError(f"{name}.attributes[{at}].name", item.name, expected)


def _facet_values(field: FacetField, tally: Tally, vocabulary: Vocabulary, limit: int) -> list[FacetValue]:
    """Return the values of one facet, the most frequent first; one name may have several numbers."""
    names: Mapping[int, str] | None = getattr(vocabulary, field.value).names if field.value in NAMED else None
    weight = 1 if tally.weight is None else tally.weight
    merged: dict[str, tuple[int, int]] = {}
    for value, count, size in tally.values(field.value):
        shown = value if names is None else names[value]
        files, total = merged.get(shown, (0, 0))
        merged[shown] = (files + round(count * weight), total + int(size * weight))
    values = sorted(merged.items(), key=lambda item: (-item[1][0], item[0]))[:limit]
    return [FacetValue(value=value, count=files, bytes=size) for value, (files, size) in values]
