"""A filter as users write it becomes the question it means, or an error that names what is wrong."""

from typing import Any

import pytest
import strawberry

from aggregator.api.inputs import (
    AlertInput,
    AttributeFilterInput,
    CoincidenceFilter,
    ConeFilter,
    EnergyFilter,
    RunRangeInput,
    SearchFilter,
    TimeFilter,
    to_query,
)
from aggregator.api.scalars import AttributeValue, BigInt, Time
from metadata_db.errors import BadInputError
from metadata_db.query import EnergyUnit, SearchQuery


def attribute(value: Any) -> AttributeValue:
    return AttributeValue(value)


def near(files: SearchFilter) -> SearchFilter:
    return SearchFilter(coincidence=CoincidenceFilter(files=files, within_s=1))


def test_a_filter_with_everything_becomes_one_canonical_question() -> None:
    given = SearchFilter(
        facility=["borealis", "aurora", "aurora"],
        obs_id=["1"],
        time=TimeFilter(season="2019/20"),
        run=[RunRangeInput(first=BigInt(4), last=BigInt(9)), RunRangeInput(first=BigInt(3))],
        energy=EnergyFilter(min=1.5, unit=EnergyUnit.TEV),
        cone=ConeFilter(ra_deg=-10, dec_deg=22, radius_deg=2),
        attributes=[
            AttributeFilterInput(name="zenith_deg", max=30),
            AttributeFilterInput(name="n", equals=attribute(4)),
        ],
        path=["2019/**"],
        is_simulation=False,
    )
    assert to_query(given).as_mapping() == {
        "facility": ["aurora", "borealis"],
        "obs_id": ["1"],
        "time": {"begin": "2019-09-01T00:00:00.000000Z", "end": "2020-06-01T00:00:00.000000Z"},
        "run": [{"first": 3, "last": 9}],
        "energy": {"min_ev": 1.5e12},
        "cone": {"ra_deg": 350.0, "dec_deg": 22.0, "radius_deg": 2.0},
        "attributes": [{"maximum": 30.0, "name": "zenith_deg"}, {"name": "n", "values": [4]}],
        "path": ["2019/**"],
        "is_simulation": False,
    }


def test_a_coincidence_holds_another_filter_alerts_or_the_id_of_a_list() -> None:
    files = SearchFilter(facility=["borealis"], time=TimeFilter(night="2019-11-02"), is_simulation=False)
    alerts = [AlertInput(time=Time("2019-11-02T12:00"), ra_deg=-10, dec_deg=22), AlertInput(time=Time("2019-11-02"))]
    for given, mapping in (
        (
            CoincidenceFilter(files=files, within_s=60, within_deg=1.5),
            {
                "within_s": 60.0,
                "within_deg": 1.5,
                "files": {
                    "facility": ["borealis"],
                    "is_simulation": False,
                    "time": {"begin": "2019-11-02T12:00:00.000000Z", "end": "2019-11-03T12:00:00.000000Z"},
                },
            },
        ),
        (
            CoincidenceFilter(alerts=alerts, within_s=0),
            {
                "within_s": 0.0,
                "alerts": [{"time": "2019-11-02T00:00:00.000000Z"}, {"time": "2019-11-02T12:00:00.000000Z"}],
            },
        ),
        (
            CoincidenceFilter(alert_list=strawberry.ID("AB" * 32), within_s=1e-3),
            {"within_s": 0.001, "alert_list": "ab" * 32},
        ),
    ):
        asked = to_query(SearchFilter(level=["DL3"], coincidence=given))
        assert asked.as_mapping() == {"level": ["DL3"], "coincidence": mapping}


def test_an_empty_filter_asks_for_everything() -> None:
    assert to_query(SearchFilter()) == SearchQuery()


@pytest.mark.parametrize(
    ("given", "field", "expected"),
    [
        (SearchFilter(facility=[]), "filter.facility", "at least one value"),
        (SearchFilter(run=[]), "filter.run", "at least one value"),
        (SearchFilter(time=TimeFilter()), "filter.time", "exactly one preset"),
        (SearchFilter(time=TimeFilter(season="2019/20", month="2019-11")), "filter.time", "exactly one preset"),
        (SearchFilter(time=TimeFilter(begin=Time("2019"), week="2019-W01")), "filter.time", "exactly one preset"),
        (SearchFilter(time=TimeFilter(begin=Time("soon"))), "filter.time.begin", "ISO 8601"),
        (SearchFilter(energy=EnergyFilter(unit=EnergyUnit.EV)), "filter.energy", "min, max or both"),
        (SearchFilter(attributes=[AttributeFilterInput(name="a")]), "filter.attributes[0]", "either equals"),
        (
            SearchFilter(attributes=[AttributeFilterInput(name="a", equals=attribute(1), in_=[attribute(1)])]),
            "filter.attributes[0]",
            "not both",
        ),
        (SearchFilter(path=["a[b"]), "filter.path", "closing"),
        (SearchFilter(coincidence=CoincidenceFilter(within_s=1)), "filter.coincidence", "exactly one of files, alerts"),
        (SearchFilter(coincidence=CoincidenceFilter(within_s=1, alerts=[])), "filter.coincidence.alerts", "one alert"),
        (near(SearchFilter()), "filter.coincidence.files", "at least one filter"),
        (near(SearchFilter(kind=[])), "filter.coincidence.files.kind", "at least one value"),
        (near(SearchFilter(time=TimeFilter())), "filter.coincidence.files.time", "exactly one preset"),
        (near(SearchFilter(energy=EnergyFilter(unit=EnergyUnit.EV))), "filter.coincidence.files.energy", "min, max"),
        (
            near(SearchFilter(cone=ConeFilter(ra_deg=0, dec_deg=91, radius_deg=1))),
            "filter.coincidence.files.cone.decDeg",
            "-90 to 90",
        ),
        (near(near(SearchFilter(kind=["events"]))), "filter.coincidence.files.coincidence", "none within another"),
        (
            SearchFilter(coincidence=CoincidenceFilter(within_s=1, alerts=[AlertInput(time=Time("soon"))])),
            "filter.coincidence.alerts[0].time",
            "ISO 8601",
        ),
    ],
)
def test_a_filter_that_cannot_be_read_is_named(given: SearchFilter, field: str, expected: str) -> None:
    with pytest.raises(BadInputError) as caught:
        to_query(given)
    assert caught.value.field == field
    assert expected in caught.value.expected
