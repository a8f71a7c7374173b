"""A filter as users write it becomes the question it means, or an error that names what is wrong."""

from typing import Any

import pytest

from aggregator.api.inputs import (
    AttributeFilterInput,
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
    ],
)
def test_a_filter_that_cannot_be_read_is_named(given: SearchFilter, field: str, expected: str) -> None:
    with pytest.raises(BadInputError) as caught:
        to_query(given)
    assert caught.value.field == field
    assert expected in caught.value.expected
