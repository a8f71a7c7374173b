"""Scalars of the schema that GraphQL does not bring along."""

import math
from typing import Any, NewType

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
    JsonObject: strawberry.scalar(name="JSONObject", description="JSON object whose keys are data."),
}

CONFIG = StrawberryConfig(scalar_map=SCALARS)
"""How the schema is built: the scalars above, names in camel case."""
