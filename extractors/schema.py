"""The JSON Schema of Descriptions, made from the classes that check them."""

import json
from typing import Any

import msgspec

from extractors.checking import FILLABLE, DescriptionText
from extractors.clocks import Clock
from extractors.readers.reader import Plain
from extractors.rules import RULES

SCHEMA_ID = "https://json-schema.org/draft/2020-12/schema"


def format_schema() -> str:
    """Return the schema as text, with a line end."""
    return json.dumps(description_schema(), indent=2) + "\n"


def description_schema() -> dict[str, Any]:
    """Return the schema of a Description of format 1."""
    kinds = tuple(RULES.values())
    types = (DescriptionText, Clock, *kinds)
    schemas, components = msgspec.json.schema_components(types, ref_template="#/$defs/{name}")
    rules = [_requiring(schema, key) for key, schema in zip(RULES, schemas[2:], strict=True)]
    definitions: dict[str, Any] = dict(components)
    one_rule = {"$ref": "#/$defs/OneRule"}
    definitions["Rule"] = {
        "description": "Where a value is looked for: a constant, one rule, or several that are tried in order.",
        "anyOf": [_plain_schema(), one_rule, {"type": "array", "items": one_rule}],
    }
    definitions["OneRule"] = {"anyOf": rules}
    product = definitions["ProductText"]["properties"]
    product["fields"] = {
        "type": "object",
        "properties": {name: {"$ref": "#/$defs/Rule"} for name in FILLABLE},
        "additionalProperties": False,
    }
    product["attributes"] = {"type": "object", "additionalProperties": {"$ref": "#/$defs/Rule"}}
    product["where"] = {"type": "array", "items": {"$ref": "#/$defs/OneRule"}}
    definitions["DescriptionText"]["properties"]["clock"] = {"type": "object", "additionalProperties": schemas[1]}
    title = "Catchment metadata description, format 1"
    return {"$schema": SCHEMA_ID, "title": title, **schemas[0], "$defs": definitions}


def _requiring(schema: dict[str, Any], key: str) -> dict[str, Any]:
    return {"allOf": [schema], "required": [key]}


def _plain_schema() -> dict[str, Any]:
    (schema,), _ = msgspec.json.schema_components([Plain])
    return schema
