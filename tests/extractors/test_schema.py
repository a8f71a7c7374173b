"""The JSON Schema of Descriptions: what ships passes it, and what the loader refuses for its shape, it refuses."""

import json
import re
import tomllib
from datetime import date
from pathlib import Path
from typing import Any

import pytest

import extractors
from extractors.rules import RULES
from extractors.schema import description_schema, format_schema

DESCRIPTIONS = sorted((Path(extractors.__file__).parent / "descriptions").rglob("*.toml"))
TYPES: dict[str, Any] = {
    "object": dict, "array": list, "string": str, "integer": int, "number": (int, float), "boolean": bool,
}  # fmt: skip
ANNOTATIONS = {"$schema", "$defs", "title", "description", "default", "format", "discriminator"}


class Checker:
    """As much of JSON Schema as ours uses; a keyword that it does not know fails the test."""

    def __init__(self, schema: dict[str, Any]) -> None:
        self._schema = schema

    def accepts(self, value: Any) -> bool:
        return self._fits(value, self._schema)

    def _fits(self, value: Any, schema: dict[str, Any]) -> bool:
        return all(self._holds(value, keyword, said, schema) for keyword, said in schema.items())

    def _holds(self, value: Any, keyword: str, said: Any, schema: dict[str, Any]) -> bool:
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        match keyword:
            case "$ref":
                return self._fits(value, self._schema["$defs"][said.removeprefix("#/$defs/")])
            case "anyOf":
                return any(self._fits(value, one) for one in said)
            case "allOf":
                return all(self._fits(value, one) for one in said)
            case "type" if said == "null":
                return value is None
            case "type":
                is_one = isinstance(value, TYPES[said]) and (said == "boolean" or not isinstance(value, bool))
                return is_one or (said == "string" and isinstance(value, date))
            case "enum":
                return value in said
            case "const":
                return bool(value == said)
            case "pattern":
                return not isinstance(value, str) or re.search(said, value) is not None
            case "minLength":
                return not isinstance(value, str) or len(value) >= said
            case "maxLength":
                return not isinstance(value, str) or len(value) <= said
            case "minimum":
                return not is_number or value >= said
            case "maximum":
                return not is_number or value <= said
            case "exclusiveMaximum":
                return not is_number or value < said
            case "maxItems":
                return not isinstance(value, list) or len(value) <= said
            case "items":
                return not isinstance(value, list) or all(self._fits(item, said) for item in value)
            case "required":
                return not isinstance(value, dict) or set(said) <= value.keys()
            case "properties":
                shared = said.keys() & value.keys() if isinstance(value, dict) else set()
                return all(self._fits(value[name], said[name]) for name in shared)
            case "additionalProperties":
                rest = value.keys() - schema.get("properties", {}).keys() if isinstance(value, dict) else set()
                return not rest if said is False else all(self._fits(value[name], said) for name in rest)
            case _ if keyword in ANNOTATIONS:
                return True
        raise AssertionError(f"{keyword} is no keyword that this test knows")


@pytest.fixture(scope="module")
def checker() -> Checker:
    return Checker(description_schema())


@pytest.mark.parametrize("path", DESCRIPTIONS, ids=lambda path: path.stem)
def test_every_description_that_ships_passes(checker: Checker, path: Path) -> None:
    assert checker.accepts(tomllib.loads(path.read_text()))


GOOD = """\
format = 1
name = "t"
version = "1"
validity = { begin = 2000-01-01 }
facility = { name = "t" }
clock.unix = { kind = "unix" }
join = [{ name = "j", path = "{path}.md5", reader = "text" }]

[[product]]
name = "p"
magic = { hex = "00ff" }
where = [{ content = "/type" }]
reader = { name = "json" }
fields.kind = "events"
fields.run = [{ content = "/run", missing = [-1] }, { name = "run" }]
attributes.x = { sum = ["/a", "/b"], unit = { content = "/u" } }
relation = [{ kind = "sidecar_of", path = "x" }]
"""


def test_the_example_is_good(checker: Checker) -> None:
    assert checker.accepts(tomllib.loads(GOOD))


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("format = 1", "format = 2"),
        ('name = "t"\nversion', "version"),
        ('version = "1"', "version = 1"),
        ('facility = { name = "t" }', 'facility = { name = "a b" }'),
        ('facility = { name = "t" }', 'facility = { nmae = "t" }'),
        ('kind = "unix"', 'kind = "sundial"'),
        ('{ kind = "unix" }', '{ kind = "unix", zone = "UTC" }'),
        ('reader = "text"', "reader = 3"),
        ('hex = "00ff"', 'hex = "0"'),
        ("fields.kind", "fields.knid"),
        ('"events"', "{}"),
        ('"events"', '{ content = "/a", word = 1 }'),
        ('"events"', "[[]]"),
        ('{ content = "/type" }', '"/type"'),
        ("missing = [-1]", "missing = -1"),
        ('sum = ["/a", "/b"]', 'sum = "/a"'),
        ('kind = "sidecar_of"', 'kind = "part_of"'),
        ("[[product]]", "[[prodcut]]"),
    ],
    ids=range(18),
)  # fmt: skip
def test_what_is_misspelt_is_refused(checker: Checker, before: str, after: str) -> None:
    assert GOOD.count(before) >= 1
    assert not checker.accepts(tomllib.loads(GOOD.replace(before, after, 1)))


def test_every_kind_of_rule_is_in_the_schema(checker: Checker) -> None:
    rules = description_schema()["$defs"]["OneRule"]["anyOf"]
    assert [rule["required"] for rule in rules] == [[kind] for kind in RULES]


def test_the_schema_is_printed_as_json() -> None:
    assert json.loads(format_schema()) == description_schema()
