"""Builders of records for tests."""

from collections.abc import AsyncIterator, Iterable
from typing import Any

import msgspec

from metadata_db.ingest import Ingest, IngestReport
from metadata_db.records import Attribute, Authority, Channel, Cluster, Detector, Facility, FileRecord, Storage
from metadata_db.vocabulary import VocabularyStore

AURORA = Facility(
    name="aurora",
    title="Aurora Observatory",
    authority="polar-council",
    clusters=[Cluster(name="north"), Cluster(name="south")],
    detectors=[Detector(name="iact-north", cluster="north"), Detector(name="iact-south", cluster="south")],
    channels=[Channel(name="gamma"), Channel(name="muon")],
    attributes=[
        Attribute(name="zenith_deg", type="number", unit="deg", meaning="Zenith angle of the pointing"),
        Attribute(name="n_telescopes", type="integer", meaning="Telescopes in use"),
        Attribute(name="trigger", type="text", meaning="Name of the trigger"),
        Attribute(name="calibrated", type="boolean", meaning="Whether calibrated"),
        Attribute(name="tags", type="list", meaning="Free words"),
    ],
)
BOREALIS = Facility(name="borealis", clusters=[Cluster(name="north")], channels=[Channel(name="air-showers")])


def file_record(path: str = "2019/run_1.fits", **values: Any) -> FileRecord:
    """Return a record of the facility aurora with sensible values where none are given."""
    usual: dict[str, Any] = {"facility": "aurora", "storage": "aurora-disk", "path": path, "size_bytes": 1000}
    return FileRecord(**usual | values)


async def register(vocabulary: VocabularyStore, root: str = "/data") -> None:
    """Register two facilities with a storage each, and a storage that both share."""
    await vocabulary.put_authority(Authority(name="polar-council", licence="CC-BY-4.0"))
    await vocabulary.put_facility(AURORA)
    await vocabulary.put_facility(BOREALIS)
    await vocabulary.put_storage(Storage(name="aurora-disk", root=f"{root}/aurora", facility="aurora"))
    await vocabulary.put_storage(Storage(name="borealis-disk", root=f"{root}/borealis", facility="borealis"))
    await vocabulary.put_storage(Storage(name="shared-disk", root=f"{root}/shared"))


async def chunked(data: bytes, size: int = 1 << 16) -> AsyncIterator[bytes]:
    """Yield `data` in pieces, as a request body arrives."""
    for at in range(0, len(data), size):
        yield data[at : at + size]


def ndjson(records: Iterable[FileRecord]) -> bytes:
    """Return records as a batch."""
    return b"".join(msgspec.json.encode(record) + b"\n" for record in records)


async def load(ingest: Ingest, *records: FileRecord) -> IngestReport:
    """Catalogue records and demand that none was rejected."""
    report = await ingest.load(chunked(ndjson(records)), allowed=None)
    assert report.rejections == []
    return report
