"""The root fields: unpack, call, pack."""

from collections.abc import Callable
from typing import Annotated, TypeVar

import strawberry

from aggregator.api.context import Info
from aggregator.api.inputs import MAX_PAGE, AsOf, SearchFilter, to_as_of, to_query
from aggregator.api.scalars import BigInt
from aggregator.api.types import (
    Attribute,
    AvailabilityType,
    Cluster,
    DataAuthority,
    DataChannel,
    Detector,
    Diff,
    ExportType,
    Facility,
    SearchResult,
    Storage,
    attributes_of,
    channels_of,
    clusters_of,
    detectors_of,
)
from aggregator.controller import Prepare, QuickResponse
from metadata_db import records
from metadata_db.errors import BadInputError, NotFoundError
from metadata_db.query import SearchQuery
from metadata_db.vocabulary import Vocabulary

T = TypeVar("T")

Facilities = Annotated[list[str] | None, strawberry.argument(description="Names of facilities; all when left out.")]

Moment = Annotated[AsOf | None, strawberry.argument(description="As of which moment; now when left out.")]


async def _vocabulary(info: Info) -> Vocabulary:
    known = await info.context.vocabulary.get()
    info.context.footprint.tell_vocabulary(known.digest)
    return known


def _found(info: Info, response: QuickResponse, prepare: Prepare = Prepare.NEVER) -> SearchResult:
    """Return the type of an answer, after noting on what rests that there is one."""
    footprint = info.context.footprint
    footprint.rest_on(response.answer)
    if prepare is Prepare.AUTO and response.export is not None:
        # Whoever asks the same later relies on it too; when it has ended, asking begins it again.
        footprint.rest_on_export(response.export.id, response.export, is_told=False)
    return SearchResult.of(response)


async def _parts(info: Info, wanted: list[str] | None, parts: Callable[[records.Facility], list[T]]) -> list[T]:
    known = await _vocabulary(info)
    if wanted is not None:
        known.require("facility", "facility", wanted)
    return [part for item in known.facilities if wanted is None or item.name in wanted for part in parts(item)]


@strawberry.type(description="Questions.")
class Query:
    """Root of questions."""

    @strawberry.field(description="Experiments and observatories, by name.")
    async def facilities(self, info: Info) -> list[Facility]:
        """Return all facilities."""
        known = await _vocabulary(info)
        return [Facility.of(record, known) for record in known.facilities]

    @strawberry.field(description="Stations or groups of detectors.")
    async def clusters(self, info: Info, facility: Facilities = None) -> list[Cluster]:
        """Return the clusters of some facilities."""
        return await _parts(info, facility, clusters_of)

    @strawberry.field(description="Instruments.")
    async def detectors(self, info: Info, facility: Facilities = None) -> list[Detector]:
        """Return the detectors of some facilities."""
        return await _parts(info, facility, detectors_of)

    @strawberry.field(description="Streams of files.")
    async def data_channels(self, info: Info, facility: Facilities = None) -> list[DataChannel]:
        """Return the data channels of some facilities."""
        return await _parts(info, facility, channels_of)

    @strawberry.field(description="Values that facilities declare beyond the common ones.")
    async def attributes(self, info: Info, facility: Facilities = None) -> list[Attribute]:
        """Return the declared attributes of some facilities."""
        return await _parts(info, facility, attributes_of)

    @strawberry.field(description="Who decides about the data.")
    async def data_authorities(self, info: Info) -> list[DataAuthority]:
        """Return all data authorities."""
        return [DataAuthority.of(record) for record in (await _vocabulary(info)).authorities]

    @strawberry.field(description="Places where files are kept.")
    async def storages(self, info: Info) -> list[Storage]:
        """Return all storages."""
        known = await _vocabulary(info)
        return [Storage.of(record) for record in known.storages.values()]

    @strawberry.field(
        description="Who has data when: for each facility, detector and data channel, in the order of their names."
    )
    async def availability(
        self,
        info: Info,
        filter: Annotated[
            SearchFilter | None, strawberry.argument(description="Which files; all when left out.")
        ] = None,
    ) -> list[AvailabilityType]:
        """Return what the files of a question cover."""
        asked = SearchQuery() if filter is None else to_query(filter)
        answer, found = await info.context.controller.availability(asked)
        info.context.footprint.rest_on(answer)
        return [AvailabilityType.of(one) for one in found]

    @strawberry.field(description="Ask a question.")
    async def search(
        self,
        info: Info,
        filter: Annotated[SearchFilter, strawberry.argument(description="What to look for.")],
        prepare: Annotated[
            Prepare, strawberry.argument(description="Whether to start the full response.")
        ] = Prepare.AUTO,
        as_of: Moment = None,
    ) -> SearchResult:
        """Answer a question."""
        moment = to_as_of(as_of)
        response = await info.context.controller.search(to_query(filter), prepare=prepare, as_of=moment)
        return _found(info, response, prepare)

    @strawberry.field(description="Ask a question again, by its id; null when no question has it.")
    async def query(
        self,
        info: Info,
        id: Annotated[strawberry.ID, strawberry.argument(description="Id of the question.")],
        as_of: Moment = None,
    ) -> SearchResult | None:
        """Reopen a question."""
        try:
            return _found(info, await info.context.controller.reopen(id, as_of=to_as_of(as_of)))
        except NotFoundError:
            info.context.footprint.pass_by()
            return None

    @strawberry.field(description="How the answers to a question as of two revisions of the catalogue differ.")
    async def diff(
        self,
        info: Info,
        query_id: Annotated[strawberry.ID, strawberry.argument(description="Id of the question.")],
        since: Annotated[BigInt, strawberry.argument(name="from", description="The earlier revision.")],
        until: Annotated[
            BigInt | None, strawberry.argument(name="to", description="The later revision; now when left out.")
        ] = None,
        first: Annotated[int, strawberry.argument(description="Differences of this page, 1 to 1000.")] = 50,
        after: Annotated[str | None, strawberry.argument(description="`endCursor` of the page before.")] = None,
    ) -> Diff:
        """Compare two answers."""
        if not 1 <= first <= MAX_PAGE:
            raise BadInputError("diff.first", first, f"a number from 1 to {MAX_PAGE}")
        compared = await info.context.controller.compare(query_id, since, until)
        for answer in (compared.since, compared.until):
            info.context.footprint.rest_on(answer)
        # It tells of two moments: a later one makes another difference, though no file of it is another.
        info.context.footprint.tell_revision()
        return Diff(compared=compared, first=first, after=after)

    @strawberry.field(description="One export; null when there is none with this id.")
    async def export(
        self, info: Info, id: Annotated[strawberry.ID, strawberry.argument(description="Id of the export.")]
    ) -> ExportType | None:
        """Return one export."""
        found = await info.context.ledger.find(id)
        info.context.footprint.rest_on_export(id, found)
        return None if found is None else ExportType.of(found)


@strawberry.type(description="Requests for work.")
class Mutation:
    """Root of requests for work."""

    @strawberry.mutation(description="Start the full response of a question, or find the one there is.")
    async def prepare(
        self,
        info: Info,
        query_id: Annotated[strawberry.ID, strawberry.argument(description="Id of the question.")],
        as_of: Moment = None,
    ) -> ExportType:
        """Prepare the export of a question as it is now, or as of an earlier moment."""
        response = await info.context.controller.reopen(query_id, as_of=to_as_of(as_of))
        info.context.footprint.pass_by()
        return ExportType.of(await info.context.controller.prepare(response))

    @strawberry.mutation(description="Stop an export that is not complete yet.")
    async def cancel(
        self,
        info: Info,
        export_id: Annotated[strawberry.ID, strawberry.argument(description="Id of the export.")],
    ) -> ExportType:
        """Cancel an export."""
        info.context.footprint.pass_by()
        return ExportType.of(await info.context.controller.cancel(export_id))
