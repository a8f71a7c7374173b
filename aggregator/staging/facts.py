"""What a manifest says of an export as a whole: the question, how it is cited, and whose files they are.

Titles and terms of facilities may be mended in the catalogue. In a manifest they are as they were when the export was
complete, and an export that is staged anew says what it said before.
"""

from pathlib import Path

import msgspec

from aggregator.citation import cited_facilities, make_citation
from aggregator.staging.ledger import Export
from aggregator.staging.manifest import Header, ManifestError, Source, read_header
from metadata_db.catalogue import Catalogue
from metadata_db.query import SearchQuery
from metadata_db.vocabulary import Vocabulary


async def make_header(catalogue: Catalogue, export: Export, asked: SearchQuery, before: Header | None) -> Header:
    """Return the header of an export's manifest.

    Parameters
    ----------
    export
        With all of its files dealt with.
    before
        Header of the manifest that the export had in an earlier life.
    """
    header = Header(
        query_id=export.query_id,
        query=msgspec.Raw(asked.canonical.encode()),
        revisions=export.revisions,
        answer_checksum=export.answer_checksum,
        files_count=export.files_done,
        files_bytes=export.bytes_done,
        missing_count=export.files_failed,
    )
    if before is not None and before.citation is not None and _of_one_answer(before, header):
        return msgspec.structs.replace(header, citation=before.citation, sources=before.sources)
    vocabulary = await catalogue.vocabulary.get()
    revision = await catalogue.revision_of(export.revisions)
    citation = make_citation(
        asked,
        export.revisions,
        vocabulary,
        files=export.files_total,
        bytes=export.bytes_total,
        checksum=export.answer_checksum,
        revision=revision,
        at=await catalogue.time_of(revision),
    )
    return msgspec.structs.replace(
        header,
        citation=citation,
        sources=tuple(_source(vocabulary, name) for name in cited_facilities(asked, export.revisions)),
    )


def find_header(manifest: Path) -> Header | None:
    """Return the header of a manifest; None if there is none that can be read."""
    try:
        with manifest.open("rb") as stream:
            return read_header(stream)
    except (FileNotFoundError, ManifestError):
        return None


def _of_one_answer(one: Header, other: Header) -> bool:
    return (one.query_id, one.revisions, one.answer_checksum) == (
        other.query_id,
        other.revisions,
        other.answer_checksum,
    )


def _source(vocabulary: Vocabulary, name: str) -> Source:
    facility = next((one for one in vocabulary.facilities if one.name == name), None)
    if facility is None:
        return Source(name=name, title=name)
    authority = next((one for one in vocabulary.authorities if one.name == facility.authority), None)
    source = Source(name=name, title=facility.title or name, url=facility.url)
    if authority is None:
        return source
    return msgspec.structs.replace(
        source,
        authority=authority.title or authority.name,
        contact=authority.contact,
        licence=authority.licence,
        terms=authority.terms,
    )
