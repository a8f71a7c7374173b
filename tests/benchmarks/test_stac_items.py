"""The generated catalogue and its questions in STAC's words, as far as they can be checked without pgstac."""

import json
from datetime import datetime, timedelta
from itertools import islice
from pathlib import Path

import pytest

from benchmarks.catalogue import GeneratedFacility, make_facilities
from benchmarks.questions import iter_bodies
from benchmarks.stac_items import (
    COMPARED,
    NO_POSITION,
    NO_TIME,
    QUERYABLES,
    RETURNED,
    Json,
    to_collection,
    to_item,
    to_longitude,
    to_search,
    write_items,
)
from metadata_db.records import FileRecord

RECORD = FileRecord(
    facility="aurora",
    storage="aurora-disk",
    path="DL3/2020/01/02/aurora_00000007_000.fits",
    size_bytes=1234,
    sha256="ab" * 32,
    md5="cd" * 16,
    modified_at=datetime.fromisoformat("2020-01-02T05:00:00Z"),
    time_begin=datetime.fromisoformat("2020-01-02T03:00:00Z"),
    time_end=datetime.fromisoformat("2020-01-02T03:20:00Z"),
    format="fits",
    kind="events",
    level="DL3",
    run=7,
    ra_deg=266.417,
    dec_deg=-29.008,
    attributes={"block": "AUR-00000", "n_telescopes": 4},
)


@pytest.fixture
def facilities() -> list[GeneratedFacility]:
    return make_facilities(600)


def test_a_record_becomes_an_item_with_a_range_a_point_and_one_asset() -> None:
    assert to_item(RECORD) == {
        "type": "Feature",
        "stac_version": "1.0.0",
        "id": "DL3/2020/01/02/aurora_00000007_000.fits",
        "collection": "aurora",
        "geometry": {"type": "Point", "coordinates": [-93.583, -29.008]},
        "bbox": [-93.583, -29.008, -93.583, -29.008],
        "properties": {
            "datetime": None,
            "start_datetime": "2020-01-02T03:00:00Z",
            "end_datetime": "2020-01-02T03:20:00Z",
            "updated": "2020-01-02T05:00:00Z",
            "storage": "aurora-disk",
            "size_bytes": 1234,
            "format": "fits",
            "kind": "events",
            "level": "DL3",
            "run": 7,
            "ra_deg": 266.417,
            "dec_deg": -29.008,
            "block": "AUR-00000",
            "n_telescopes": 4,
        },
        "links": [],
        "assets": {
            "file": {
                "href": "aurora-disk/DL3/2020/01/02/aurora_00000007_000.fits",
                "roles": ["data"],
                "file:size": 1234,
                "file:checksum": "1220" + "ab" * 32,
                "md5": "cd" * 16,
            }
        },
    }


def test_a_file_without_times_and_position_gets_fixed_ones() -> None:
    item = to_item(FileRecord(facility="aurora", storage="aurora-disk", path="a.fits", size_bytes=1, format="fits"))
    assert item["properties"]["start_datetime"] == item["properties"]["end_datetime"] == NO_TIME
    assert item["geometry"]["coordinates"] == NO_POSITION


def test_every_item_has_a_collection_a_range_and_a_position(
    facilities: list[GeneratedFacility], tmp_path: Path
) -> None:
    write_items(facilities, tmp_path / "items.ndjson")
    items = [json.loads(line) for line in (tmp_path / "items.ndjson").read_bytes().splitlines()]
    assert len({(item["collection"], item["id"]) for item in items}) == len(items) == 600
    assert {item["collection"] for item in items} == {to_collection(facility)["id"] for facility in facilities}
    for item in items:
        properties = item["properties"]
        assert properties["start_datetime"] <= properties["end_datetime"]
        assert (item["geometry"]["coordinates"] == NO_POSITION) == ("ra_deg" not in properties)
    assert any(QUERYABLES["properties"].keys() <= item["properties"].keys() for item in items)


def test_every_field_that_is_returned_is_in_some_item(facilities: list[GeneratedFacility]) -> None:
    items = [to_item(record) for facility in facilities for record in facility.iter_records()]
    for path in RETURNED:
        assert any(has(item, path.split(".")) for item in items), path


def has(item: Json, path: list[str]) -> bool:
    """Tell whether there is a value below keys of keys."""
    inner = item.get(path[0])
    return inner is not None and (len(path) == 1 or has(inner, path[1:]))


@pytest.mark.parametrize(("ra_deg", "longitude"), [(0, 0), (83.633, 83.633), (180, -180), (266.417, -93.583)])
def test_right_ascensions_become_longitudes(ra_deg: float, longitude: float) -> None:
    assert to_longitude(ra_deg) == longitude


def test_a_filter_becomes_a_search_with_the_same_conditions() -> None:
    begin = datetime.fromisoformat("2016-01-01T00:00:00Z")
    end = begin + timedelta(days=7)
    search = to_search(
        {
            "facility": ["aurora"],
            "time": {"begin": begin.isoformat(), "end": end.isoformat()},
            "run": [{"first": 7}],
            "attributes": [{"name": "block", "equals": "AUR-00000"}],
        }
    )
    assert search["collections"] == ["aurora"]
    assert search["datetime"] == "2016-01-01T00:00:00+00:00/2016-01-08T00:00:00+00:00"
    assert search["filter"] == {
        "op": "and",
        "args": [
            {"op": "=", "args": [{"property": "run"}, 7]},
            {"op": "=", "args": [{"property": "block"}, "AUR-00000"]},
        ],
    }


def test_a_cone_becomes_a_polygon_closely_around_it() -> None:
    search = to_search({"cone": {"raDeg": 270.0, "decDeg": 60.0, "radiusDeg": 0.5}})
    (ring,) = search["intersects"]["coordinates"]
    assert ring[0] == ring[-1]
    longitudes, latitudes = zip(*ring, strict=True)
    assert (min(latitudes), max(latitudes)) == pytest.approx((59.5, 60.5), abs=0.005)
    # Half a degree of sky is a whole one of longitude at this declination.
    assert (min(longitudes), max(longitudes)) == pytest.approx((-91.0, -89.0), abs=0.02)
    assert max(latitudes) > 60.5
    assert min(latitudes) < 59.5


@pytest.mark.parametrize("kind", COMPARED)
def test_questions_that_differ_become_searches_that_differ(kind: str) -> None:
    bodies = list(islice(iter_bodies([kind], make_facilities(1_000_000), seed="test"), 50))
    filters = [json.loads(body)["variables"]["filter"] for body in bodies]
    searches = [to_search(asked) for asked in filters]
    for n, search in enumerate(searches):
        assert (search in searches[:n]) == (filters[n] in filters[:n])


def test_what_cannot_be_asked_of_pgstac_is_refused() -> None:
    with pytest.raises(ValueError, match="energy"):
        to_search({"energy": {"min": 1, "max": 10, "unit": "TEV"}})
