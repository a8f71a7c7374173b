"""The generated catalogue and its questions in STAC's words, as pgstac wants them.

A facility is a collection, a file an item with one asset. A file's path is its item's id: the `fields` extension always
returns id and collection, so that an answer holds every field once, as ours does. For the same reason the size is a
property too: taken from the asset it would come with the names that it is nested in.
"""

import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import msgspec

from benchmarks.catalogue import FIRST_YEAR, SEASONS, GeneratedFacility
from benchmarks.questions import PAGE_FILES, Filter
from metadata_db.records import FileRecord

Json: TypeAlias = dict[str, Any]

COMPARED = ("facility and month", "one week, all facilities", "one run", "rare attribute", "cone and year")
"""Kinds of `benchmarks.questions` that both are asked."""

STAC_VERSION = "1.0.0"

NO_POSITION = [0.0, -90.0]
"""Longitude and latitude of files without a position, which pgstac does not allow; far from all that is asked about."""

CORNERS = 32
"""Corners of the polygon that stands for a cone; its area is 0.3 % larger."""

NO_TIME = "1900-01-01T00:00:00Z"
"""Time of files without one, which pgstac does not allow either."""

QUERYABLES: Json = {
    "$schema": "https://json-schema.org/draft/2019-09/schema",
    "$id": "https://example.org/queryables",
    "type": "object",
    "title": "What is asked about",
    "properties": {"run": {"type": "integer"}, "block": {"type": "string"}},
}
"""Properties that are asked about; each gets an index."""

RETURNED = (
    "id",
    "collection",
    "properties.size_bytes",
    "properties.kind",
    "properties.level",
    "properties.start_datetime",
    "properties.end_datetime",
    "properties.obs_id",
    "properties.run",
    "properties.object",
    "properties.energy_min_ev",
    "properties.quality",
)
"""The twelve fields of `benchmarks.questions.DOCUMENT`."""

WITH_COUNT: Json = {"conf": {"context": "on"}}
"""Added to a search it makes pgstac count what matches, which it does not do by itself."""

_ELSEWHERE = {"facility", "path", "sha256", "md5", "modified_at", "time_begin", "time_end", "attributes"}
"""Fields of a record that do not become properties of the same name."""


def to_collection(generated: GeneratedFacility) -> Json:
    """Return a facility as a collection."""
    facility = generated.facility()
    interval = [f"{FIRST_YEAR}-09-01T00:00:00Z", f"{FIRST_YEAR + SEASONS}-09-01T00:00:00Z"]
    return {
        "type": "Collection",
        "stac_version": STAC_VERSION,
        "id": facility.name,
        "title": facility.title,
        "description": facility.title,
        "license": "proprietary",
        "extent": {"spatial": {"bbox": [[-180, -90, 180, 90]]}, "temporal": {"interval": [interval]}},
        "links": [],
    }


def to_item(record: FileRecord) -> Json:
    """Return a file as an item: its times as a range, its position as a point, the rest as properties and asset."""
    fields: Json = msgspec.to_builtins(record)
    asset = {
        "href": f"{record.storage}/{record.path}",
        "roles": ["data"],
        "file:size": record.size_bytes,
        "file:checksum": f"1220{record.sha256}",  # a multihash: SHA-256, 32 bytes
        "md5": record.md5,
    }
    position = NO_POSITION
    if record.ra_deg is not None and record.dec_deg is not None:
        position = [to_longitude(record.ra_deg), record.dec_deg]
    begin = fields.get("time_begin", NO_TIME)
    properties = {name: value for name, value in fields.items() if name not in _ELSEWHERE}
    properties |= {
        "datetime": None,
        "start_datetime": begin,
        "end_datetime": fields.get("time_end", begin),
        "updated": fields.get("modified_at"),
        **record.attributes,
    }
    return {
        "type": "Feature",
        "stac_version": STAC_VERSION,
        "id": record.path,
        "collection": record.facility,
        "geometry": {"type": "Point", "coordinates": position},
        "bbox": position * 2,
        "properties": properties,
        "links": [],
        "assets": {"file": asset},
    }


def to_longitude(ra_deg: float) -> float:
    """Return a right ascension as a longitude, at least -180 and below 180."""
    return ra_deg if ra_deg < 180 else round(ra_deg - 360, 9)


def to_search(asked: Filter) -> Json:
    """Return the body of a STAC search for what a filter of `benchmarks.questions` asks.

    A cone becomes a polygon around it, which holds a little more sky.

    Raises
    ------
    ValueError
        The filter asks for something that is not translated.
    """
    if unknown := asked.keys() - {"facility", "time", "run", "attributes", "cone"}:
        raise ValueError(f"not translated to STAC: {sorted(unknown)}")
    search: Json = {"limit": PAGE_FILES, "fields": {"include": RETURNED, "exclude": ["links"]}}
    if "facility" in asked:
        search["collections"] = asked["facility"]
    if "time" in asked:
        search["datetime"] = f"{asked['time']['begin']}/{asked['time']['end']}"
    if "cone" in asked:
        search["intersects"] = _polygon(**asked["cone"])
    equal = [("run", runs["first"]) for runs in asked.get("run", ())]
    equal += [(attribute["name"], attribute["equals"]) for attribute in asked.get("attributes", ())]
    if equal:
        terms = [{"op": "=", "args": [{"property": name}, value]} for name, value in equal]
        search["filter-lang"] = "cql2-json"
        search["filter"] = terms[0] if len(terms) == 1 else {"op": "and", "args": terms}
    return search


def _polygon(*, raDeg: float, decDeg: float, radiusDeg: float) -> Json:  # noqa: N803 - as in the filter
    """Return a polygon whose sides touch a circle that is small and far from the poles, and from 180 degrees."""
    distance = math.radians(radiusDeg) / math.cos(math.pi / CORNERS)
    dec, longitude = math.radians(decDeg), to_longitude(raDeg)
    corners = []
    for number in range(CORNERS):
        bearing = -2 * math.pi * number / CORNERS
        sin_dec = math.sin(dec) * math.cos(distance) + math.cos(dec) * math.sin(distance) * math.cos(bearing)
        across = math.sin(bearing) * math.sin(distance) * math.cos(dec)
        turn = math.atan2(across, math.cos(distance) - math.sin(dec) * sin_dec)
        corners.append([longitude + math.degrees(turn), math.degrees(math.asin(sin_dec))])
    return {"type": "Polygon", "coordinates": [[*corners, corners[0]]]}


def write_collections(facilities: Iterable[GeneratedFacility], path: Path) -> None:
    """Write the collections of all facilities, one a line."""
    path.write_bytes(b"".join(msgspec.json.encode(to_collection(facility)) + b"\n" for facility in facilities))


def write_items(facilities: Sequence[GeneratedFacility], path: Path) -> None:
    """Write the items of all facilities, one a line."""
    with path.open("wb", buffering=1 << 20) as lines:
        for facility in facilities:
            for record in facility.iter_records():
                lines.write(msgspec.json.encode(to_item(record)))
                lines.write(b"\n")
