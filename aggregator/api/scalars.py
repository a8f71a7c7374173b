"""Scalars of the schema that GraphQL does not bring along."""

import math
from typing import Any, NewType

import msgspec
import strawberry
from strawberry.schema.config import StrawberryConfig
from strawberry.types.scalar import ScalarDefinition

BigInt = NewType("BigInt", int)
"""Whole number of up to 64 bits: GraphQL's Int ends at 2 GB."""

Time = NewType("Time", str)
"""A moment as users write it; parsed, with the name of its field, where the filters are."""

AttributeValue = NewType("AttributeValue", object)
"""A boolean, number or text, as a facility declared its attribute."""

JsonObject = NewType("JsonObject", dict)  # type: ignore[type-arg]  # NewType takes no subscripted class
"""A JSON object whose keys are data, such as the names of attributes."""

Histogram = NewType("Histogram", object)
"""A `metadata_db.timeline.Histogram`."""

SkyMap = NewType("SkyMap", object)
"""A `metadata_db.sky.SkyMap`."""


def _parse_big_int(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int | str) or (isinstance(value, str) and not _is_whole(value)):
        raise ValueError(f"got {value!r:.80}, expected a whole number")
    if abs(int(value)) >= 2**63:
        raise ValueError("expected a whole number of at most 64 bits")
    return int(value)


def _is_whole(text: str) -> bool:
    return len(text) <= 20 and text.removeprefix("-").isascii() and text.removeprefix("-").isdigit()


def _parse_time(value: Any) -> str:
    if not isinstance(value, str) or len(value) > 64:
        raise ValueError(f"got {value!r:.80}, expected a text such as 2019-11-02T18:00:00Z")
    return value


def _parse_attribute_value(value: Any) -> Any:
    if not isinstance(value, bool | int | float | str) or (isinstance(value, float) and not math.isfinite(value)):
        raise ValueError(f"got {value!r:.80}, expected a boolean, number or text")
    return value


SCALARS: dict[object, ScalarDefinition] = {
    BigInt: strawberry.scalar(
        name="BigInt",
        description="Whole number of up to 64 bits, written as a number; also read from a text of digits.",
        serialize=int,
        parse_value=_parse_big_int,
    ),
    Time: strawberry.scalar(
        name="Time",
        description="A moment in ISO 8601: `2019-11-02T18:00:00Z`, or a date for its midnight; UTC without an offset.",
        serialize=str,
        parse_value=_parse_time,
    ),
    AttributeValue: strawberry.scalar(
        name="AttributeValue",
        description="Boolean, number or text, as the facility declared its attribute.",
        parse_value=_parse_attribute_value,
    ),
    Histogram: strawberry.scalar(
        name="Histogram",
        description=(
            "Files and bytes by bins of time, as a JSON object: `begin`, begin of the first bin in ISO 8601, UTC, null "
            "when there is no bin; `binS`, width of a bin in seconds, null for bins of the calendar; `bin`, name of "
            "the `TimeBin`, null for others; `n`, number of bins; `counts`, files per bin as base64 of little-endian "
            "uint32; `bytes`, their size in bytes as base64 of little-endian float64; `isEstimate`, whether the "
            "numbers are those of a sample; `noTime`, number of files without a time, which are in no bin."
        ),
        serialize=msgspec.to_builtins,
    ),
    SkyMap: strawberry.scalar(
        name="SkyMap",
        description=(
            "Files by cells of the sky, as a JSON object: `order`, HEALPix order of the cells; `scheme`, always "
            "`nested`; `frame`, always `ICRS`; `cells`, numbers of the cells that have files, ascending, as base64 of "
            "little-endian uint32; `counts`, files in each of them as base64 of little-endian uint32; `isEstimate`, "
            "whether the numbers are those of a sample; `noPosition`, number of files without a position, which are "
            "in no cell."
        ),
        serialize=msgspec.to_builtins,
    ),
    JsonObject: strawberry.scalar(name="JSONObject", description="JSON object whose keys are data."),
}

CONFIG = StrawberryConfig(scalar_map=SCALARS)
"""How the schema is built: the scalars above, names in camel case."""
