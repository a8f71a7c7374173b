"""The core controller: how a question becomes an answer, in five steps.

register → cache look-up → catalogue look-up → quick response → full response

`CoreController.search` reads like this list. The quick response is the answer's summary, with pages and facets to be
had on demand; the full response is an export, gathered by the workers while the user reads.
"""

import asyncio
import logging
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from enum import Enum
from functools import cached_property
from typing import Protocol, TypeAlias, TypeVar

import msgspec

from aggregator.cache import CacheManager, Progress
from aggregator.flights import Flights
from aggregator.present import Present
from aggregator.staging.ledger import Export
from metadata_db.availability import Availability
from metadata_db.canonical import canonical_json, canonical_sha256
from metadata_db.canonical import export_id as make_export_id
from metadata_db.catalogue import DifferencePage, FacetValue, Page, Summary
from metadata_db.differences import DifferenceTotals
from metadata_db.errors import BadInputError, NotFoundError, QueryIdCollisionError
from metadata_db.found import PageColumns
from metadata_db.moments import Moment
from metadata_db.query import SearchQuery
from metadata_db.search import FacetField, Paging, Revisions
from metadata_db.sky import SkyMap
from metadata_db.timeline import Histogram, WantedBins

logger = logging.getLogger(__name__)

T = TypeVar("T")
K = TypeVar("K")

AsOf: TypeAlias = int | datetime | None
"""What an answer is asked as of: a revision of the catalogue, a time, or the present."""

MAX_FACET_VALUES = 1000
"""Most values of one facet."""

MAX_FORWARDED = 10_000
"""Answers of which it is remembered that they were brought forward, or cannot be."""

PUBLIC = "public"
"""The rights set of everybody. It is part of every answer's key, so that sets can be told apart later."""


class CatalogueReader(Protocol):
    """What the controller needs of the catalogue, so that a remote one can take its place."""

    async def check(self, asked: SearchQuery) -> None: ...

    async def register_query(self, asked: SearchQuery) -> None: ...

    async def find_query(self, query_id: str) -> SearchQuery | None: ...

    async def moment(self, as_of: int | datetime | None = ..., *, name: str = ...) -> Moment: ...

    async def time_of(self, revision: int) -> datetime | None: ...

    async def is_untouched(self, asked: SearchQuery, since: Revisions, until: Revisions) -> bool: ...

    async def summary(self, asked: SearchQuery, revisions: Revisions, *, exact: bool = ...) -> Summary: ...

    async def page(self, asked: SearchQuery, revisions: Revisions, paging: Paging) -> Page: ...

    async def columns(
        self, asked: SearchQuery, revisions: Revisions, paging: Paging, fields: Sequence[str]
    ) -> PageColumns: ...

    async def has_beyond(self, asked: SearchQuery, revisions: Revisions, paging: Paging) -> bool: ...

    async def facets(
        self, asked: SearchQuery, revisions: Revisions, fields: Sequence[FacetField], *, limit: int, exact: bool = ...
    ) -> dict[FacetField, list[FacetValue]]: ...

    async def timeline(
        self, asked: SearchQuery, revisions: Revisions, wanted: WantedBins, *, exact: bool = ...
    ) -> Histogram: ...

    async def sky(self, asked: SearchQuery, revisions: Revisions, order: int, *, exact: bool = ...) -> SkyMap: ...

    async def availability(self, asked: SearchQuery, revisions: Revisions) -> list[Availability]: ...
    async def difference_totals(self, asked: SearchQuery, since: Revisions, until: Revisions) -> DifferenceTotals: ...

    async def differences(
        self, asked: SearchQuery, since: Revisions, until: Revisions, *, first: int, after: str | None
    ) -> DifferencePage: ...


class ExportDesk(Protocol):
    """What the controller needs of the ledger of exports."""

    async def request(
        self, query_id: str, *, revisions: Mapping[str, int], answer_checksum: str, files_total: int, bytes_total: int
    ) -> Export: ...

    async def find(self, export_id: str) -> Export | None: ...

    async def find_for_answer(self, query_id: str, answer_checksum: str) -> Export | None: ...

    async def cancel(self, export_id: str) -> Export: ...


class Prepare(Enum):
    """Whether a search starts the full response."""

    AUTO = "auto"
    """Start it when the files are within the installation's limits."""
    NEVER = "never"
    """Only answer; `prepare` can be asked for later."""


@dataclass(frozen=True, kw_only=True, slots=True)
class AutoPrepareLimits:
    """Up to how many files and bytes a search starts the full response by itself."""

    files: int
    bytes: int


def _facet_part(field: FacetField, answer: "Answer") -> str:
    return f"{'exact ' if answer.is_past else ''}facet:{field.value}"


@dataclass(frozen=True, kw_only=True)
class Answer:
    """A question at given revisions of the facilities it can touch, for one set of rights."""

    query: SearchQuery
    revisions: Revisions
    revision: int = 0
    """Revision of the catalogue: the last change of these facilities; the number to cite."""
    is_past: bool = False
    """Whether it was asked as of an earlier moment."""
    rights: str = PUBLIC

    @classmethod
    def at(cls, asked: SearchQuery, moment: Moment, *, is_past: bool = False) -> "Answer":
        """Return the answer as of a moment, of which only the facilities count that the question can touch."""
        touched = moment.of(asked.touched)
        return cls(query=asked, revisions=touched.revisions, revision=touched.revision, is_past=is_past)

    @cached_property
    def key(self) -> str:
        """Key of the answer: another revision or another set of rights is another answer."""
        moment = canonical_sha256(canonical_json(dict(self.revisions))).hex()[:16]
        return f"{self.query.query_id}:{self.rights}:{moment}"


class _Latest(msgspec.Struct, frozen=True, kw_only=True):
    """Which parts of a question's answers were kept last."""

    key: str
    revisions: dict[str, int]


def _read_latest(kept: bytes) -> _Latest | None:
    try:
        return msgspec.json.decode(kept, type=_Latest)
    except msgspec.DecodeError:
        return None


def _log_look_up(answer: Answer, part: str) -> None:
    logger.debug("looking up %s", part, extra={"action": "look_up", "query_id": answer.query.query_id})


@dataclass(frozen=True, kw_only=True)
class QuickResponse:
    """What is known of an answer at once."""

    answer: Answer
    summary: Summary
    cached: bool
    """Whether the summary came from the cache."""
    export: Export | None

    @property
    def export_id(self) -> str | None:
        """Id that the export has, or would have; None as long as it is not known which files belong to it."""
        checksum = self.summary.checksum
        return None if checksum is None else make_export_id(self.answer.query.query_id, checksum)


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Two answers to one question."""

    since: Answer
    until: Answer
    """Not earlier than the other."""

    @property
    def part(self) -> str:
        """Part of the later answer's key: what is kept of the difference."""
        return f"since:{self.since.key}"


@dataclass(kw_only=True)
class CoreController:
    """Answers questions; holds no state that is not rebuilt by asking."""

    catalogue: CatalogueReader
    cache: CacheManager
    exports: ExportDesk
    limits: AutoPrepareLimits
    present: Present = field(init=False)
    flights: Flights = field(init=False)
    _forwarded: OrderedDict[str, None] = field(default_factory=OrderedDict)

    def __post_init__(self) -> None:
        self.present = Present(self.catalogue, self.exports)
        self.flights = Flights(self.cache)

    async def search(self, asked: SearchQuery, *, prepare: Prepare, as_of: AsOf = None) -> QuickResponse:
        """Answer a question, as of now or of an earlier moment.

        Raises
        ------
        BadInputError
            It names something that is not in the catalogue, or the moment is still to come.
        QueryIdCollisionError
            Its id is another question's.
        UnavailableError
            It is not in the cache, and the database is away.
        """
        return await self.respond(await self.open(asked, as_of=as_of), prepare=prepare)

    async def open(self, asked: SearchQuery, *, as_of: AsOf = None) -> Answer:
        """Register a question, and return its answer, of which nothing is looked up yet; see `search` for errors."""
        await self._register(asked)
        return await self.find_answer(asked, as_of)

    async def respond(self, answer: Answer, *, prepare: Prepare, looks_for_export: bool = True) -> QuickResponse:
        """Tell what is known of an answer at once, and start the full response if that is wanted.

        Parameters
        ----------
        looks_for_export
            Whether an export is looked for that is not to be started.
        """
        asked = answer.query
        summary = await self._find_in_cache(answer, "summary", Summary)
        cached = summary is not None
        if summary is None:
            summary = await self._look_up(
                answer,
                "summary",
                Summary,
                lambda: self.catalogue.summary(asked, answer.revisions, exact=answer.is_past),
            )
        if summary.is_estimate:
            summary = await self._find_in_cache(answer, "exact summary", Summary) or summary
        response = QuickResponse(answer=answer, summary=summary, cached=cached, export=None)
        if answer.is_past:
            # An estimate comes from a sample of the present.
            response = await self.count_exactly(response)
        if prepare is Prepare.NEVER and not looks_for_export:
            return response
        return await self._start_full_response(response, prepare)

    # --- step 1: register ----------------------------------------------------------------------------------------

    async def _register(self, asked: SearchQuery) -> None:
        if not await self.is_registered(asked):
            await self.register(asked)

    async def is_registered(self, asked: SearchQuery) -> bool:
        """Tell whether a question is known by its id; the names in one that is not are checked."""
        known = await self.cache.find_query_sha256(asked.query_id)
        if known is None:
            await self.catalogue.check(asked)
            return False
        if known != canonical_sha256(asked.canonical):
            raise QueryIdCollisionError(asked.query_id)
        return True

    async def register(self, asked: SearchQuery) -> None:
        """Keep a checked question under its id, in Postgres for ever and in Redis for the next time."""
        await self.catalogue.register_query(asked)
        await self.cache.put_query(asked.query_id, asked.as_mapping(), sha256=canonical_sha256(asked.canonical))

    # --- step 2: cache look-up -----------------------------------------------------------------------------------

    async def _find_in_cache(self, answer: Answer, part: str, kind: type[T]) -> T | None:
        found = await self.cache.find_part(answer.key, part)
        if found is None and await self._bring_forward(answer):
            found = await self.cache.find_part(answer.key, part)
        try:
            return None if found is None else msgspec.json.decode(found, type=kind)
        except msgspec.DecodeError:
            # Kept by another version of the service: as good as not kept.
            return None

    async def _bring_forward(self, answer: Answer) -> bool:
        """Take over what was kept of an earlier moment, if no file of the answer came or went since; once, if ever.

        Tells whether there may be something now that was not there before.
        """
        if answer.is_past or answer.key in self._forwarded:
            return False
        return await self.flights.here(("forward", answer.key), lambda: self._forward_once(answer))

    async def _forward_once(self, answer: Answer) -> bool:
        found = await self._forward(answer)
        # Not before: parts that are wanted at the same time wait for it as well.
        self._forwarded[answer.key] = None
        if len(self._forwarded) > MAX_FORWARDED:
            self._forwarded.popitem(last=False)
        return found

    async def _forward(self, answer: Answer) -> bool:
        name = f"{answer.query.query_id}:{answer.rights}:{len(answer.revisions)}"
        kept = await self.cache.find_latest(name)
        latest = None if kept is None else _read_latest(kept)
        if latest is not None and latest.key == answer.key:
            return False
        until = dict(answer.revisions)
        is_older = latest is not None and all(until.get(one, -1) >= at for one, at in latest.revisions.items())
        if latest is not None and not is_older:
            return False
        is_same = latest is not None and await self.catalogue.is_untouched(answer.query, latest.revisions, until)
        if latest is not None and is_same:
            await self.cache.move_parts(latest.key, answer.key)
        await self.cache.put_latest(name, msgspec.json.encode(_Latest(key=answer.key, revisions=until)))
        return is_same

    # --- step 3: catalogue look-up -------------------------------------------------------------------------------

    async def _look_up(self, answer: Answer, part: str, kind: type[T], look_up: Callable[[], Awaitable[T]]) -> T:
        """Ask the catalogue, once for all who want the same part at the same time, and keep what it says."""

        async def make() -> tuple[T, bool]:
            _log_look_up(answer, part)
            value = await look_up()
            await self.cache.put_part(answer.key, part, msgspec.json.encode(value))
            return value, True

        async def fly() -> T:
            name = f"{answer.key}:{part}"
            return await self.flights.everywhere(name, find=lambda: self._find_in_cache(answer, part, kind), make=make)

        return await self.flights.here((answer.key, part), fly)

    async def _find_all_in_cache(self, answer: Answer, parts: Sequence[str], kind: type[T]) -> list[T | None]:
        return list(await asyncio.gather(*(self._find_in_cache(answer, part, kind) for part in parts)))

    async def _look_up_all(
        self, answer: Answer, parts: Mapping[K, str], kind: type[T], look_up: Callable[[], Awaitable[Mapping[K, T]]]
    ) -> dict[K, T]:
        """Ask the catalogue for several parts at once, and keep each of them."""

        async def find() -> dict[K, T] | None:
            kept = await self._find_all_in_cache(answer, list(parts.values()), kind)
            found = {key: value for key, value in zip(parts, kept, strict=True) if value is not None}
            return found if len(found) == len(parts) else None

        async def make() -> tuple[dict[K, T], bool]:
            _log_look_up(answer, ", ".join(parts.values()))
            found = await look_up()
            for key, part in parts.items():
                await self.cache.put_part(answer.key, part, msgspec.json.encode(found[key]))
            return {key: found[key] for key in parts}, True

        key = (answer.key, tuple(parts.values()))
        name = f"{answer.key}:{'+'.join(sorted(parts.values()))}"
        return await self.flights.here(key, lambda: self.flights.everywhere(name, find=find, make=make))

    # --- step 4: quick response, more of it on demand ------------------------------------------------------------

    async def page(self, answer: Answer, paging: Paging) -> Page:
        """Return some files of an answer.

        Raises
        ------
        BadCursorError
            The page's cursor is not one of this order.
        """
        return await self.catalogue.page(answer.query, answer.revisions, paging)

    async def columns(self, answer: Answer, paging: Paging, fields: Sequence[str]) -> PageColumns:
        """Return some fields of some files of an answer.

        Pages are not kept by themselves: reading one costs about as much as finding it in the cache.

        Raises
        ------
        BadCursorError
            The page's cursor is not one of this order.
        """
        return await self.flights.here(
            (answer.key, "columns", paging, tuple(fields)),
            lambda: self.catalogue.columns(answer.query, answer.revisions, paging, fields),
        )

    async def has_beyond(self, answer: Answer, paging: Paging) -> bool:
        """Tell whether there are files of an answer on the other side of a page's cursor."""
        return await self.catalogue.has_beyond(answer.query, answer.revisions, paging)

    async def facets(self, answer: Answer, fields: Sequence[FacetField]) -> dict[FacetField, list[FacetValue]]:
        """Count the files of an answer by the values of some fields, each without the answer's own choice in it."""
        if FacetField.FACILITY in fields and answer.query.facility:
            found = await self._facets(await self._everywhere(answer), [FacetField.FACILITY])
            return found | await self._facets(answer, [field for field in fields if field is not FacetField.FACILITY])
        return await self._facets(answer, fields)

    async def counted_for(self, answer: Answer, fields: Sequence[FacetField]) -> list[Answer]:
        """Return the answers whose files are counted in the facets: those without the choice in each field."""
        found = []
        for counted in fields:
            if not getattr(answer.query, counted.value):
                continue
            wide = await self._everywhere(answer) if counted is FacetField.FACILITY else answer
            found.append(replace(wide, query=answer.query.without(counted.value)))
        return found

    async def _everywhere(self, answer: Answer) -> Answer:
        """Return an answer that touches the other facilities too, as it does without its own choice among them."""
        everywhere = await self.find_answer(SearchQuery(), answer.revision if answer.is_past else None)
        return replace(answer, revisions={**everywhere.revisions, **answer.revisions})

    async def _facets(self, answer: Answer, fields: Sequence[FacetField]) -> dict[FacetField, list[FacetValue]]:
        kept = await self._find_all_in_cache(answer, [_facet_part(field, answer) for field in fields], list[FacetValue])
        found = {field: values for field, values in zip(fields, kept, strict=True) if values is not None}
        if missing := [field for field in fields if field not in found]:
            found |= await self._look_up_all(
                answer,
                {field: _facet_part(field, answer) for field in missing},
                list[FacetValue],
                # A sample is one of the present.
                lambda: self.catalogue.facets(
                    answer.query, answer.revisions, missing, limit=MAX_FACET_VALUES, exact=answer.is_past
                ),
            )
        return found

    async def timeline(self, answer: Answer, wanted: WantedBins) -> Histogram:
        """Count the files of an answer by bins of time.

        Raises
        ------
        BadInputError
            There would be too many bins.
        """
        return await self._find_or_look_up(
            answer,
            f"timeline:{wanted}",
            Histogram,
            lambda: self.catalogue.timeline(answer.query, answer.revisions, wanted, exact=False),
        )

    async def sky(self, answer: Answer, order: int) -> SkyMap:
        """Count the files of an answer by cells of the sky."""
        return await self._find_or_look_up(
            answer,
            f"sky:{order}",
            SkyMap,
            lambda: self.catalogue.sky(answer.query, answer.revisions, order, exact=False),
        )

    async def availability(self, asked: SearchQuery) -> tuple[Answer, list[Availability]]:
        """Tell when there are files of a question, for each facility, detector and channel, and of which answer.

        Raises
        ------
        BadInputError
            It names something that is not in the catalogue.
        """
        await self._register(asked)
        answer = Answer.at(asked, await self.present.moment())
        found = await self._find_or_look_up(
            answer,
            "availability",
            list[Availability],
            lambda: self.catalogue.availability(asked, answer.revisions),
        )
        return answer, found

    async def _find_or_look_up(
        self, answer: Answer, part: str, kind: type[T], look_up: Callable[[], Awaitable[T]]
    ) -> T:
        found = await self._find_in_cache(answer, part, kind)
        return await self._look_up(answer, part, kind, look_up) if found is None else found

    # --- step 5: full response -----------------------------------------------------------------------------------

    async def _start_full_response(self, response: QuickResponse, prepare: Prepare) -> QuickResponse:
        """Add the export: started if that is wanted and the set is small enough, else the one there is, if any."""
        is_wanted = prepare is Prepare.AUTO and response.summary.count > 0
        if is_wanted and self._is_within_limits(response.summary):
            response = await self.count_exactly(response)
            is_wanted = self._is_within_limits(response.summary)
        if is_wanted and self._is_within_limits(response.summary):
            return replace(response, export=await self.prepare(response))
        if response.summary.checksum is None:
            # Which files they are has not been looked at, and so not whether they are prepared.
            return response
        query_id = response.answer.query.query_id
        found = await self.exports.find_for_answer(query_id, response.summary.checksum)
        if found is not None:
            self.present.note_export(found)
        return replace(response, export=found)

    def _is_within_limits(self, summary: Summary) -> bool:
        return summary.count <= self.limits.files and summary.bytes <= self.limits.bytes

    async def count_exactly(self, response: QuickResponse) -> QuickResponse:
        """Return the response with a summary that is no estimate, however many files have to be looked at."""
        if not response.summary.is_estimate:
            return response
        answer = response.answer
        summary = await self._look_up(
            answer, "exact summary", Summary, lambda: self.catalogue.summary(answer.query, answer.revisions, exact=True)
        )
        return replace(response, summary=summary)

    async def prepare(self, response: QuickResponse) -> Export:
        """Start the full response of an answer, or find the one that is under way or ready."""
        response = await self.count_exactly(response)
        answer, summary = response.answer, response.summary

        async def request() -> Export:
            found = await self.exports.request(
                answer.query.query_id,
                revisions=answer.revisions,
                answer_checksum=summary.checksum or "",
                files_total=summary.count,
                bytes_total=summary.bytes,
            )
            self.present.note_export(found)
            return found

        return await self.flights.here(("prepare", answer.key), request)

    async def cancel(self, export_id: str) -> Export:
        """End an export that is under way; one that has ended stays as it is.

        Raises
        ------
        NotFoundError
            There is no such export.
        """
        found = await self.exports.cancel(export_id)
        self.present.note_export(found)
        return found

    async def reopen(self, query_id: str, *, prepare: Prepare = Prepare.NEVER, as_of: AsOf = None) -> QuickResponse:
        """Answer a question again, by its id.

        Raises
        ------
        NotFoundError
            No question has this id.
        BadInputError
            The moment is still to come.
        """
        return await self.search(await self.get_query(query_id), prepare=prepare, as_of=as_of)

    async def get_query(self, query_id: str) -> SearchQuery:
        """Return the question that was registered under an id.

        Raises
        ------
        NotFoundError
            No question has this id.
        """
        asked = await self.catalogue.find_query(query_id)
        if asked is None:
            raise NotFoundError("query", query_id)
        return asked

    async def progress(self, export: Export) -> Progress:
        """Return how far an export is: by the last word of the worker, or else by the ledger."""
        said = await self.cache.find_progress(export.id)
        kept = Progress(files_done=export.files_done, bytes_done=export.bytes_done, files_failed=export.files_failed)
        return kept if said is None or said.files_done < kept.files_done else said

    # --- what changed between two moments ------------------------------------------------------------------------

    async def compare(self, query_id: str, since: int, until: int | None) -> Comparison:
        """Return the answers to a question as of two revisions of the catalogue; `until` None is now.

        Raises
        ------
        NotFoundError
            No question has this id.
        BadInputError
            A revision is still to come, or `until` comes before `since`.
        """
        asked = await self.get_query(query_id)
        if until is not None and until < since:
            raise BadInputError("to", until, f"a revision that is not before from, {since}")
        earlier = await self.catalogue.moment(since, name="from")
        # Not what was read a moment ago: `since` may be newer than that.
        later = await self.catalogue.moment(until, name="to")
        return Comparison(
            since=Answer.at(asked, earlier, is_past=True), until=Answer.at(asked, later, is_past=until is not None)
        )

    async def difference_totals(self, compared: Comparison) -> DifferenceTotals:
        """Count the files by which two answers differ."""
        since, until, part = compared.since, compared.until, compared.part
        found = await self._find_in_cache(until, part, DifferenceTotals)
        if found is not None:
            return found
        return await self._look_up(
            until,
            part,
            DifferenceTotals,
            lambda: self.catalogue.difference_totals(until.query, since.revisions, until.revisions),
        )

    async def differences(self, compared: Comparison, *, first: int, after: str | None) -> DifferencePage:
        """Return some files by which two answers differ.

        Raises
        ------
        BadCursorError
            `after` is not a cursor of differences of this question.
        """
        since, until, part = compared.since, compared.until, f"{compared.part}:{first}:{after or ''}"
        found = await self._find_in_cache(until, part, DifferencePage)
        if found is not None:
            return found
        return await self._look_up(
            until,
            part,
            DifferencePage,
            lambda: self.catalogue.differences(until.query, since.revisions, until.revisions, first=first, after=after),
        )

    # --- moments and freshness -----------------------------------------------------------------------------------

    async def find_answer(self, asked: SearchQuery, as_of: AsOf = None) -> Answer:
        """Return the answer that is asked for, of which nothing is looked up yet."""
        if as_of is None:
            return Answer.at(asked, await self.present.moment())
        name = "asOf.revision" if isinstance(as_of, int) else "asOf.moment"
        return Answer.at(asked, await self.catalogue.moment(as_of, name=name), is_past=True)

    async def time_of(self, answer: Answer) -> datetime | None:
        """Return when the revision of an answer was made; None before the first change."""
        return await self.catalogue.time_of(answer.revision) if answer.revision else None

    async def revision_of(self, facility: str) -> int:
        """Return the present revision of a facility; 0 before its first files came."""
        return (await self.present.moment()).revisions.get(facility, 0)

    def note_revisions(self, revisions: Mapping[str, int]) -> None:
        """Take notice of new revisions: from now on nothing older is answered by this process."""
        self.present.note(revisions)
