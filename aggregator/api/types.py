"""Output types of the schema. Fields carry their description and unit once, here."""

from collections.abc import Awaitable, Callable
from datetime import datetime
from typing import Annotated, Any, Self, TypeAlias

import strawberry

from aggregator.api.context import Info
from aggregator.api.inputs import FileOrder, to_paging
from aggregator.api.scalars import BigInt, Histogram, JsonObject, SkyMap
from aggregator.citation import cite, cite_url
from aggregator.controller import Answer, Comparison, CoreController, QuickResponse
from aggregator.staging.ledger import Export, ExportState
from metadata_db import records
from metadata_db.availability import MAX_GAPS, Availability
from metadata_db.catalogue import Difference
from metadata_db.differences import DifferenceKind, DifferenceSum
from metadata_db.errors import BadInputError
from metadata_db.found import FoundFile
from metadata_db.search import FacetField
from metadata_db.sky import MAX_MAP_ORDER
from metadata_db.tables import SKY_ORDER
from metadata_db.timeline import TimeBin, parse_bins
from metadata_db.vocabulary import Vocabulary


def _field(description: str, name: str | None = None) -> Any:
    return strawberry.field(description=description, name=name)


# --- vocabulary -------------------------------------------------------------------------------------------------------


@strawberry.type(description="Who decides about access to a facility's data, their licence and terms.")
class DataAuthority:
    """Data authority."""

    name: str = _field("Key.")
    title: str | None = _field("Full name.")
    contact: str | None = _field("Whom to ask.")
    licence: str | None = _field("Licence of the data, unless a file says otherwise.")
    terms: str | None = _field("Terms of use: address or text.")

    @classmethod
    def of(cls, record: records.Authority) -> Self:
        """Return the type of a record."""
        return cls(
            name=record.name, title=record.title, contact=record.contact, licence=record.licence, terms=record.terms
        )


@strawberry.type(description="A station or group of detectors of a facility.")
class Cluster:
    """Cluster."""

    facility: str = _field("Name of the facility.")
    name: str = _field("Key within the facility.")
    title: str | None = _field("Full name.")
    latitude_deg: float | None = _field("Latitude, degrees north.")
    longitude_deg: float | None = _field("Longitude, degrees east.")
    altitude_m: float | None = _field("Height above sea level, metres.")


@strawberry.type(description="One instrument of a facility, such as a telescope.")
class Detector:
    """Detector."""

    facility: str = _field("Name of the facility.")
    cluster: str | None = _field("Name of its cluster.")
    name: str = _field("Key within the facility.")
    title: str | None = _field("Full name.")
    kind: str | None = _field("Type of instrument.")


@strawberry.type(description="A stream of files that a detector or facility writes.")
class DataChannel:
    """Data channel."""

    facility: str = _field("Name of the facility.")
    detector: str | None = _field("Name of its detector.")
    name: str = _field("Key within the facility.")
    title: str | None = _field("Full name.")


@strawberry.type(description="A value that a facility declares beyond the common ones.")
class Attribute:
    """Declared attribute."""

    facility: str = _field("Name of the facility.")
    name: str = _field("Key within the facility.")
    type: str = _field("One of boolean, integer, number, text, time and list.")
    unit: str | None = _field("Unit of its numbers.")
    meaning: str | None = _field("What it says.")


@strawberry.type(description="A read-only place where files are kept.")
class Storage:
    """Storage, without where it is mounted."""

    name: str = _field("Key.")
    title: str | None = _field("Full name.")
    kind: str = _field("How it is reached.")
    facility: str | None = _field("The only facility whose files are there; null when several share it.")
    enabled: bool = _field("Whether files are taken from it at present.")

    @classmethod
    def of(cls, record: records.Storage) -> Self:
        """Return the type of a record."""
        return cls(
            name=record.name, title=record.title, kind=record.kind, facility=record.facility, enabled=record.enabled
        )


def clusters_of(facility: records.Facility) -> list[Cluster]:
    """Return the clusters of a facility."""
    return [
        Cluster(
            facility=facility.name,
            name=part.name,
            title=part.title,
            latitude_deg=part.latitude_deg,
            longitude_deg=part.longitude_deg,
            altitude_m=part.altitude_m,
        )
        for part in facility.clusters
    ]


def detectors_of(facility: records.Facility) -> list[Detector]:
    """Return the detectors of a facility."""
    return [
        Detector(facility=facility.name, cluster=part.cluster, name=part.name, title=part.title, kind=part.kind)
        for part in facility.detectors
    ]


def channels_of(facility: records.Facility) -> list[DataChannel]:
    """Return the data channels of a facility."""
    return [
        DataChannel(facility=facility.name, detector=part.detector, name=part.name, title=part.title)
        for part in facility.channels
    ]


def attributes_of(facility: records.Facility) -> list[Attribute]:
    """Return the attributes that a facility declares."""
    return [
        Attribute(facility=facility.name, name=part.name, type=part.type, unit=part.unit, meaning=part.meaning)
        for part in facility.attributes
    ]


@strawberry.type(description="An experiment or observatory.")
class Facility:
    """Facility."""

    name: str = _field("Key.")
    title: str | None = _field("Full name.")
    place: str | None = _field("Where it is.")
    latitude_deg: float | None = _field("Latitude, degrees north.")
    longitude_deg: float | None = _field("Longitude, degrees east.")
    altitude_m: float | None = _field("Height above sea level, metres.")
    url: str | None = _field("Its home page.")
    authority: DataAuthority | None = _field("Who decides about its data.")
    clusters: list[Cluster] = _field("Its stations or groups of detectors.")
    detectors: list[Detector] = _field("Its instruments.")
    data_channels: list[DataChannel] = _field("Streams of files it writes.")
    attributes: list[Attribute] = _field("Values it declares beyond the common ones.")

    @strawberry.field(description="Number of the last change of its files.")
    async def revision(self, info: Info) -> BigInt:
        """Return the number of the last change, which is newer than the vocabulary."""
        number = await info.context.controller.revision_of(self.name)
        info.context.footprint.touch({self.name: number})
        return BigInt(number)

    @classmethod
    def of(cls, record: records.Facility, vocabulary: Vocabulary) -> Self:
        """Return the type of a record."""
        authority = next((item for item in vocabulary.authorities if item.name == record.authority), None)
        return cls(
            name=record.name,
            title=record.title,
            place=record.place,
            latitude_deg=record.latitude_deg,
            longitude_deg=record.longitude_deg,
            altitude_m=record.altitude_m,
            url=record.url,
            authority=None if authority is None else DataAuthority.of(authority),
            clusters=clusters_of(record),
            detectors=detectors_of(record),
            data_channels=channels_of(record),
            attributes=attributes_of(record),
        )


# --- files ------------------------------------------------------------------------------------------------------------


@strawberry.type(description="What a file is to others. They are named, not looked up: they may not be catalogued.")
class Relation:
    """Relation of a file."""

    kind: str = _field("One of sidecar_of, index_of, irf_for and reprocessing_of.")
    storage: str = _field("Where the other files are kept.")
    path: str | None = _field("Path of the other files, or a pattern of paths; null when the id alone says it.")
    obs_id: str | None = _field("Observation id of the other files; with a path too, both must hold.")

    @classmethod
    def of(cls, record: records.Relation, storage: str) -> Self:
        """Return the type of a relation of a file that is kept on `storage`."""
        return cls(kind=record.kind, storage=record.storage or storage, path=record.path, obs_id=record.obs_id)


@strawberry.type(description="One catalogued file. What is not known is null; null is never zero.")
class File:
    """File."""

    id: strawberry.ID = _field("Number of this version of the file in the catalogue.")
    facility: str = _field("Who measured.")
    storage: str = _field("Where it is kept.")
    path: str = _field("Path below the storage's root.")
    size_bytes: BigInt = _field("Size, bytes.")
    sha256: str | None = _field("SHA-256 of the stored bytes, hexadecimal.")
    md5: str | None = _field("MD5 of the stored bytes, hexadecimal.")
    modified_at: datetime | None = _field("When the storage says it was last written, UTC.")
    format: str | None = _field("Format of the stored bytes.")
    kind: str | None = _field("What it holds.")
    level: str | None = _field("Data level, in the facility's words.")
    cluster: str | None = _field("Station or group of detectors.")
    detector: str | None = _field("Instrument.")
    channel: str | None = _field("Data channel.")
    time_begin: datetime | None = _field("Begin of the measurement, UTC.")
    time_end: datetime | None = _field("End of the measurement, UTC, excluded.")
    obs_id: str | None = _field("Observation id, verbatim.")
    run: BigInt | None = _field("Run number.")
    ra_deg: float | None = _field("Right ascension, ICRS degrees.")
    dec_deg: float | None = _field("Declination, ICRS degrees.")
    position_basis: str | None = _field("What the position is of.")
    energy_min_ev: float | None = _field("Least energy, eV.", "energyMinEv")
    energy_max_ev: float | None = _field("Largest energy, eV.", "energyMaxEv")
    energy_basis: str | None = _field("What the range of energy is of.")
    object: str | None = _field("Name of the observed object, verbatim.")
    n_events: BigInt | None = _field("Number of events.")
    is_simulation: bool | None = _field("Whether it was simulated.")
    processing: str | None = _field("Name of the processing that made it.")
    quality: str | None = _field("Quality, in the facility's words.")
    conditions: str | None = _field("Observing conditions, in the facility's words.")
    licence: str | None = _field("Licence of this file.")
    attributes: JsonObject = _field("Values the facility declares, by name.")
    provenance: JsonObject = _field("Where each value came from, by field.")
    warnings: list[str] = _field("What was odd about the values.")
    description: str | None = _field("Name, version and digest of the Description that read it.")
    relations: list[Relation] = _field("What it is to other files.")

    @classmethod
    def of(cls, found: FoundFile) -> Self:
        """Return the type of a catalogued file."""
        values = {name: getattr(found, name) for name in found.__struct_fields__ if name != "cursor"}
        values["relations"] = [Relation.of(relation, found.storage) for relation in found.relations]
        return cls(**values)


@strawberry.type(description="A file and its place in the order.")
class FileEdge:
    """Edge of a page."""

    cursor: str = _field("Stands behind this file; give it as `after`.")
    node: File = _field("The file.")


Fact: TypeAlias = Callable[[], Awaitable[bool]]
"""Tells something that may have to be looked up first."""


def known(fact: bool) -> Fact:
    """Return how to tell what is known already."""

    async def tell() -> bool:
        return fact

    return tell


@strawberry.type(description="What lies around a page.")
class PageInfo:
    """Page information, as Relay wants it."""

    has_next: strawberry.Private[Fact]
    has_previous: strawberry.Private[Fact]

    start_cursor: str | None = _field("Cursor of the first file.")
    end_cursor: str | None = _field("Cursor of the last file.")

    @strawberry.field(description="Whether files follow.")
    async def has_next_page(self) -> bool:
        """Tell whether there are files behind the page."""
        return await self.has_next()

    @strawberry.field(description="Whether files precede.")
    async def has_previous_page(self) -> bool:
        """Tell whether there are files before the page."""
        return await self.has_previous()

    @classmethod
    def around(cls, ends: tuple[str | None, str | None], *, is_backward: bool, further: Fact, beyond: Fact) -> Self:
        """Return what lies around a page.

        Parameters
        ----------
        ends
            Cursors of its first and last file.
        further, beyond
            Tell whether there are files on from where its reading ended, and on the other side of its cursor.
        """
        start, end = ends
        return cls(
            has_next=beyond if is_backward else further,
            has_previous=further if is_backward else beyond,
            start_cursor=start,
            end_cursor=end,
        )


@strawberry.type(description="A page of files.")
class FileConnection:
    """Page of files."""

    edges: list[FileEdge] = _field("The files with their cursors.")
    page_info: PageInfo = _field("What lies around this page.")

    @strawberry.field(description="The files alone.")
    def nodes(self) -> list[File]:
        """Return the files without their cursors."""
        return [edge.node for edge in self.edges]


@strawberry.type(description="How many.")
class Count:
    """Count."""

    value: BigInt = _field("The number.")
    is_estimate: bool = _field("Whether it is that of a sample, of too many files to look at each; false means exact.")


@strawberry.type(description="How many files have one value.")
class FacetValue:
    """Value of a facet."""

    value: str = _field("The value.")
    count: BigInt = _field("Number of files that have it.")
    total_bytes: BigInt = _field("Their size, bytes.")


@strawberry.type(
    description="The files of an answer counted by one field; the question's own choice there is left out."
)
class Facet:
    """Facet."""

    field: FacetField = _field("What was counted by.")
    values: list[FacetValue] = _field("The values, most frequent first, at most 1000.")


@strawberry.type(description="A revision of a facility.")
class FacilityRevision:
    """Revision of a facility."""

    facility: str = _field("Name of the facility.")
    revision: BigInt = _field("Its revision.")


# --- availability -----------------------------------------------------------------------------------------------------


@strawberry.type(description="A time without files.")
class Gap:
    """Gap."""

    begin: datetime = _field("Its begin, UTC.")
    end: datetime = _field("Its end, UTC, excluded.")
    length_s: float = _field("Its length, seconds.")


@strawberry.type(
    name="Availability",
    description="The files of one facility, detector and channel, and the time they cover. A file without an end, or "
    "without a length, covers a microsecond; one without a time counts in `files` and `totalBytes` only.",
)
class AvailabilityType:
    """Availability."""

    found: strawberry.Private[Availability]

    facility: str = _field("Name of the facility.")
    detector: str | None = _field("Name of the detector; null for files without one.")
    channel: str | None = _field("Name of the data channel; null for files without one.")
    files: BigInt = _field("Number of files.")
    total_bytes: BigInt = _field("Their size, bytes.")
    time_begin: datetime | None = _field("Begin of the first file, UTC.")
    time_end: datetime | None = _field("End of the last file, UTC, excluded.")
    live_s: float = _field("Time that the files cover within the asked interval, seconds; what overlaps counts once.")
    is_estimate: bool = _field("Whether days were looked at instead of files, because those are many.")
    resolution_s: float = _field(
        "How finely times are told, seconds: 0.000001, or 86400 of an estimate, where a file covers the whole day on "
        "which it begins."
    )

    @classmethod
    def of(cls, found: Availability) -> Self:
        """Return the type of what the catalogue found."""
        return cls(
            found=found,
            facility=found.facility,
            detector=found.detector,
            channel=found.channel,
            files=BigInt(found.files),
            total_bytes=BigInt(found.bytes),
            time_begin=found.time_begin,
            time_end=found.time_end,
            live_s=found.live_s,
            is_estimate=found.is_estimate,
            resolution_s=found.resolution_s,
        )

    @strawberry.field(
        description="Times that no file covers, the longest first: between files, and from or up to the asked begin "
        "and end."
    )
    def gaps(
        self,
        longest: Annotated[int, strawberry.argument(description=f"At most so many, 1 to {MAX_GAPS}.")] = 20,
        at_least_s: Annotated[float, strawberry.argument(description="Least length, seconds.")] = 3600.0,
    ) -> list[Gap]:
        """Return the longest gaps."""
        if not 1 <= longest <= MAX_GAPS:
            raise BadInputError("gaps.longest", longest, f"a number from 1 to {MAX_GAPS}")
        found = [gap for gap in self.found.gaps[:longest] if gap.length_s >= at_least_s]
        return [Gap(begin=gap.begin, end=gap.end, length_s=gap.length_s) for gap in found]


# --- exports ----------------------------------------------------------------------------------------------------------


@strawberry.type(
    name="Export", description="The full response: the files of one answer, gathered, verified, to be had."
)
class ExportType:
    """Export."""

    export: strawberry.Private[Export]
    known: strawberry.Private["ExportProgress | None"] = None
    """How far it is, if that was looked up already."""

    id: strawberry.ID = _field("Id of the export.")
    query_id: strawberry.ID = _field("Id of the question.")
    state: ExportState = _field("Where it is in its life.")
    files_total: BigInt = _field("Number of files that belong to it.")
    bytes_total: BigInt = _field("Their size, bytes.")
    manifest_sha256: str | None = _field("SHA-256 of the manifest: the name of the bundle's content.")
    error: str | None = _field("Why it failed.")
    created_at: datetime = _field("When it was asked for, UTC.")
    started_at: datetime | None = _field("When work began, UTC.")
    completed_at: datetime | None = _field("When it was complete, UTC.")

    @classmethod
    def of(cls, export: Export, known: "ExportProgress | None" = None) -> Self:
        """Return the type of an export."""
        return cls(
            export=export,
            known=known,
            id=strawberry.ID(export.id),
            query_id=strawberry.ID(export.query_id),
            state=export.state,
            files_total=BigInt(export.files_total),
            bytes_total=BigInt(export.bytes_total),
            manifest_sha256=export.manifest_sha256,
            error=export.error,
            created_at=export.created_at,
            started_at=export.started_at,
            completed_at=export.completed_at,
        )

    @strawberry.field(description="How far it is.")
    async def progress(self, info: Info) -> "ExportProgress":
        """Return how far the export is."""
        return self.known or await ExportProgress.find(info.context.controller, self.export)

    @strawberry.field(description="Address of the whole as one ZIP, relative to this site; null until it is complete.")
    def archive_url(self) -> str | None:
        """Return where the archive is."""
        return f"/exports/{self.id}.zip" if self.export.state is ExportState.COMPLETED else None

    @strawberry.field(description="Address of the whole as one TAR, relative to this site; null until it is complete.")
    def tar_url(self) -> str | None:
        """Return where the TAR is."""
        return f"/exports/{self.id}.tar" if self.export.state is ExportState.COMPLETED else None

    @strawberry.field(description="Address of the manifest, relative to this site; null until it is complete.")
    def manifest_url(self) -> str | None:
        """Return where the manifest is."""
        return f"/exports/{self.id}/manifest.json" if self.export.state is ExportState.COMPLETED else None


@strawberry.type(description="How far an export is.")
class ExportProgress:
    """Progress of an export."""

    files_done: BigInt = _field("Number of files that are in place.")
    bytes_done: BigInt = _field("Their size, bytes.")
    files_failed: BigInt = _field("Number of files that could not be had; the manifest names them with reasons.")

    @classmethod
    async def find(cls, controller: CoreController, export: Export) -> Self:
        """Return how far an export is."""
        found = await controller.progress(export)
        return cls(
            files_done=BigInt(found.files_done),
            bytes_done=BigInt(found.bytes_done),
            files_failed=BigInt(found.files_failed),
        )


# --- answers ----------------------------------------------------------------------------------------------------------


@strawberry.type(description="An answer. All its parts belong to the same revisions.")
class SearchResult:
    """Answer to a question."""

    answer: strawberry.Private[Answer]
    told: strawberry.Private[QuickResponse | None] = None
    """What is known of it at once; fields that need the answer alone do without it."""

    @classmethod
    def of(cls, response: QuickResponse) -> Self:
        """Return the type of a quick response."""
        return cls(answer=response.answer, told=response)

    @property
    def response(self) -> QuickResponse:
        """What is known of the answer at once."""
        if self.told is None:
            raise RuntimeError("this field needs the quick response, which was not looked up")
        return self.told

    @strawberry.field(description="Id of the question: MD5 of its canonical form.")
    def query_id(self) -> strawberry.ID:
        """Return the id of the question."""
        return strawberry.ID(self.answer.query.query_id)

    @strawberry.field(description="Canonical form of the question.")
    def canonical(self) -> JsonObject:
        """Return the canonical form."""
        return JsonObject(self.answer.query.as_mapping())

    @strawberry.field(description="Whether the summary came from the cache.")
    def cached(self, info: Info) -> bool:
        """Tell where the summary came from."""
        info.context.footprint.rest_on(self.answer)
        if not self.response.cached:
            # The next one who asks finds it there.
            info.context.footprint.pass_by()
        return self.response.cached

    @strawberry.field(description="Revisions of the facilities that the question can touch.")
    def revisions(self, info: Info) -> list[FacilityRevision]:
        """Return the revisions of the answer."""
        info.context.footprint.tell_revision()
        return [
            FacilityRevision(facility=name, revision=BigInt(number)) for name, number in self.answer.revisions.items()
        ]

    @strawberry.field(
        description="Revision of the catalogue: the last change of the facilities that the question can touch. "
        "As of it the answer is the same for ever."
    )
    def revision(self, info: Info) -> BigInt:
        """Return the number to cite."""
        info.context.footprint.tell_revision()
        return BigInt(self.answer.revision)

    @strawberry.field(description="When the revision was made, UTC; null before the first change.")
    async def as_of(self, info: Info) -> datetime | None:
        """Return the time of the answer's revision."""
        info.context.footprint.tell_revision()
        return await info.context.controller.time_of(self.answer)

    @strawberry.field(description="Address of this answer as of its revision, relative to this site.")
    def cite_url(self, info: Info) -> str:
        """Return the address to cite."""
        info.context.footprint.tell_revision()
        return cite_url(self.answer.query.query_id, self.answer.revision)

    @strawberry.field(
        description="Text for a list of references, with exact numbers; the date of access is left to the reader."
    )
    async def citation(self, info: Info) -> str:
        """Return the text to cite."""
        controller, footprint = info.context.controller, info.context.footprint
        response = await controller.count_exactly(self.response)
        known = await info.context.vocabulary.get()
        footprint.rest_on(response.answer)
        footprint.tell_revision()
        footprint.tell_vocabulary(known.digest)
        return cite(response, known, await controller.time_of(response.answer))

    @strawberry.field(
        description="Order-free checksum of the set of files: equal sets, equal checksums. Where the count is an "
        "estimate, asking for it looks at every file."
    )
    async def checksum(self, info: Info) -> str:
        """Return the checksum."""
        return (await info.context.controller.count_exactly(self.response)).summary.checksum or ""

    @strawberry.field(description="How many files match.")
    async def total_count(
        self,
        info: Info,
        exact: Annotated[
            bool, strawberry.argument(description="Look at every file, however many; never an estimate.")
        ] = False,
    ) -> Count:
        """Return the number of files."""
        response = await info.context.controller.count_exactly(self.response) if exact else self.response
        return Count(value=BigInt(response.summary.count), is_estimate=response.summary.is_estimate)

    @strawberry.field(description="Size of all files that match, bytes; an estimate where the count is one.")
    def total_bytes(self) -> BigInt:
        """Return the size of the files."""
        return BigInt(self.response.summary.bytes)

    @strawberry.field(description="A page of the files.")
    async def files(
        self,
        info: Info,
        first: Annotated[
            int | None, strawberry.argument(description="The first files, 1 to 1000; 50 when nothing is said.")
        ] = None,
        after: Annotated[
            str | None, strawberry.argument(description="With `first`: `endCursor` of the page before.")
        ] = None,
        last: Annotated[int | None, strawberry.argument(description="The last files instead, 1 to 1000.")] = None,
        before: Annotated[
            str | None, strawberry.argument(description="With `last`: `startCursor` of the page behind.")
        ] = None,
        order_by: Annotated[FileOrder | None, strawberry.argument(description="Order; by begin of time.")] = None,
    ) -> FileConnection:
        """Return a page."""
        controller, answer = info.context.controller, self.answer
        paging = to_paging(first, after, last, before, order_by)
        page = await controller.page(answer, paging)
        edges = [FileEdge(cursor=found.cursor, node=File.of(found)) for found in page.files]
        return FileConnection(
            edges=edges,
            page_info=PageInfo.around(
                (edges[0].cursor, edges[-1].cursor) if edges else (None, None),
                is_backward=paging.is_backward,
                further=known(page.has_more),
                beyond=lambda: controller.has_beyond(answer, paging),
            ),
        )

    @strawberry.field(description="The files counted by some fields.")
    async def facets(
        self,
        info: Info,
        by: Annotated[list[FacetField], strawberry.argument(description="Fields to count by.")],
    ) -> list[Facet]:
        """Return the facets."""
        fields = list(dict.fromkeys(by))
        answer = self.answer
        for counted in [answer, *await info.context.controller.counted_for(answer, fields)]:
            info.context.footprint.rest_on(counted)
        found = await info.context.controller.facets(answer, fields)
        return [
            Facet(
                field=field,
                values=[
                    FacetValue(value=item.value, count=BigInt(item.count), total_bytes=BigInt(item.bytes))
                    for item in found[field]
                ],
            )
            for field in fields
        ]

    @strawberry.field(
        description="Files, and their bytes, by when they begin; what began before the asked interval counts in the "
        "first bin. Bins of the calendar, of a width, or so many as wanted: one of the three, else 100. At most 10000. "
        "Bins of whole days are exact if time and words alone decide; others are of a sample when files are many."
    )
    async def timeline(
        self,
        info: Info,
        bin: Annotated[TimeBin | None, strawberry.argument(description="Bins of the calendar.")] = None,
        bin_s: Annotated[
            float | None,
            strawberry.argument(
                description="Width of a bin, seconds, at least 1; bins begin at the asked begin, else at 1970-01-01."
            ),
        ] = None,
        bins: Annotated[
            int | None,
            strawberry.argument(description="At most so many bins, 1 to 2000, of the finest usual width that fits."),
        ] = None,
    ) -> Histogram:
        """Return the time line."""
        wanted = parse_bins(bin, bin_s, bins)
        return Histogram(await info.context.controller.timeline(self.answer, wanted))

    @strawberry.field(
        description="Files by the HEALPix cell of their position. Beyond order 6, or with filters on more than time "
        "and words, it is of a sample when files are many."
    )
    async def sky(
        self,
        info: Info,
        order: Annotated[
            int, strawberry.argument(description="HEALPix order of the cells, 0 (12 cells) to 10 (3.4 arcminutes).")
        ] = SKY_ORDER,
    ) -> SkyMap:
        """Return the sky map."""
        if not 0 <= order <= MAX_MAP_ORDER:
            raise BadInputError("sky.order", order, f"a number from 0 to {MAX_MAP_ORDER}")
        return SkyMap(await info.context.controller.sky(self.answer, order))

    @strawberry.field(description="The full response, when it was asked for or started by itself.")
    def export(self, info: Info) -> ExportType | None:
        """Return the export of this answer."""
        footprint, export_id = info.context.footprint, self.response.export_id
        footprint.rest_on(self.answer)
        if export_id is None:
            # Once somebody has had the files counted it may turn out that there is one.
            footprint.pass_by()
        else:
            footprint.rest_on_export(export_id, self.response.export)
        return None if self.response.export is None else ExportType.of(self.response.export)


# --- differences of answers -------------------------------------------------------------------------------------------


@strawberry.type(description="How many files differ in one way.")
class DiffCount:
    """Count of a difference."""

    count: BigInt = _field("Number of files.")
    bytes: BigInt = _field("Their size, bytes; of replaced ones as of `to`.")
    previous_bytes: BigInt = _field("Size of replaced files as of `from`, bytes; else 0.")

    @classmethod
    def of(cls, found: DifferenceSum) -> Self:
        """Return the type of a sum."""
        return cls(count=BigInt(found.count), bytes=BigInt(found.bytes), previous_bytes=BigInt(found.previous_bytes))


@strawberry.type(description="A file that differs between two answers.")
class FileDiff:
    """Difference."""

    kind: DifferenceKind = _field("What became of it.")
    file: File | None = _field("The file as of `to`; null when it is not in that answer.")
    previous: File | None = _field("The file as of `from`; null when it is not in that answer.")

    @classmethod
    def of(cls, found: Difference) -> Self:
        """Return the type of a difference."""
        return cls(
            kind=found.kind,
            file=None if found.file is None else File.of(found.file),
            previous=None if found.previous is None else File.of(found.previous),
        )


@strawberry.type(description="A difference and its place in the order.")
class DiffEdge:
    """Edge of a page of differences."""

    cursor: str = _field("Stands behind this difference; give it as `after`.")
    node: FileDiff = _field("The difference.")


@strawberry.type(
    description="How the answers to a question as of two revisions differ, in the order of the bytes of path and "
    "storage. What came and went again in between does not appear."
)
class Diff:
    """Differences of two answers."""

    compared: strawberry.Private[Comparison]
    first: strawberry.Private[int]
    after: strawberry.Private[str | None]

    @strawberry.field(description="Revision of the earlier answer, see `SearchResult.revision`.", name="from")
    def since(self) -> BigInt:
        """Return the earlier revision."""
        return BigInt(self.compared.since.revision)

    @strawberry.field(description="Revision of the later answer, see `SearchResult.revision`.", name="to")
    def until(self) -> BigInt:
        """Return the later revision."""
        return BigInt(self.compared.until.revision)

    @strawberry.field(description="Files that are in the later answer only.")
    async def added(self, info: Info) -> DiffCount:
        """Count what was added."""
        return DiffCount.of((await info.context.controller.difference_totals(self.compared)).added)

    @strawberry.field(description="Files that are in the earlier answer only.")
    async def removed(self, info: Info) -> DiffCount:
        """Count what was removed."""
        return DiffCount.of((await info.context.controller.difference_totals(self.compared)).removed)

    @strawberry.field(description="Files that are in both answers, as two versions.")
    async def replaced(self, info: Info) -> DiffCount:
        """Count what was replaced."""
        return DiffCount.of((await info.context.controller.difference_totals(self.compared)).replaced)

    @strawberry.field(description="The differences of this page with their cursors.")
    async def edges(self, info: Info) -> list[DiffEdge]:
        """Return the page."""
        return (await self._read(info))[0]

    @strawberry.field(description="The differences alone.")
    async def nodes(self, info: Info) -> list[FileDiff]:
        """Return the page without its cursors."""
        return [edge.node for edge in (await self._read(info))[0]]

    @strawberry.field(description="What lies around this page.")
    async def page_info(self, info: Info) -> PageInfo:
        """Return what lies around the page."""
        edges, has_next = await self._read(info)
        return PageInfo(
            has_next=known(has_next),
            has_previous=known(self.after is not None),
            start_cursor=edges[0].cursor if edges else None,
            end_cursor=edges[-1].cursor if edges else None,
        )

    async def _read(self, info: Info) -> tuple[list[DiffEdge], bool]:
        """Read the page: fields of one request that ask for it at once share one look-up."""
        page = await info.context.controller.differences(self.compared, first=self.first, after=self.after)
        return [DiffEdge(cursor=found.cursor, node=FileDiff.of(found)) for found in page.differences], page.has_next
