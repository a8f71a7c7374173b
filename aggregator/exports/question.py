"""The question that a bag answers, for programs: in its canonical form, and in GraphQL."""

import re
from collections.abc import Mapping
from typing import Any

import orjson

from aggregator.staging.manifest import Header

_FIELDS = "canonical checksum totalCount { value } totalBytes"
_FILES = "files(first: 50) { nodes { storage path sizeBytes sha256 } pageInfo { hasNextPage endCursor } }"
_RENAMED: Mapping[str, Mapping[str, str]] = {
    "energy": {"min_ev": "min", "max_ev": "max"},
    "attributes": {"values": "in", "minimum": "min", "maximum": "max"},
}
"""Filter → its fields that the schema calls otherwise; see `aggregator/api/inputs.py`."""


def json_question(header: Header) -> bytes:
    """Return the question in its canonical form, with what it was answered from."""
    told = {
        "queryId": header.query_id,
        "canonical": orjson.loads(bytes(header.query)),
        "revision": None if header.citation is None else header.citation.revision,
        "revisions": dict(sorted(header.revisions.items())),
        "checksum": header.answer_checksum,
    }
    return orjson.dumps(told, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE)


def graphql_question(header: Header) -> str:
    """Return the question in GraphQL: as its own service answers it again, and as any service can be asked it."""
    moment = "" if header.citation is None else f", asOf: {{ revision: {header.citation.revision} }}"
    asked = graphql_filter(orjson.loads(bytes(header.query)))
    return (
        "# The same answer again, from the service that gave it.\n"
        f'query SameAnswer {{\n  query(id: "{header.query_id}"{moment}) {{\n    {_FIELDS}\n    {_FILES}\n  }}\n}}\n\n'
        "# The same question, for any service.\n"
        f"query SameQuestion {{\n  search(filter: {asked}, prepare: NEVER) {{\n    {_FIELDS}\n    {_FILES}\n  }}\n}}\n"
    )


def graphql_filter(canonical: Mapping[str, Any]) -> str:
    """Return a question in its canonical form as the value of a `SearchFilter`."""
    return _write(_as_input(canonical))


def _as_input(filters: Mapping[str, Any]) -> dict[str, Any]:
    found = {name: _rename(value, _RENAMED.get(name, {})) for name, value in filters.items()}
    if "energy" in found:
        found["energy"]["unit"] = _Word("EV")
    if "files" in found.get("coincidence", {}):
        found["coincidence"]["files"] = _as_input(filters["coincidence"]["files"])
    return found


def _rename(value: Any, names: Mapping[str, str]) -> Any:
    if isinstance(value, list):
        return [_rename(item, names) for item in value]
    if isinstance(value, dict):
        return {names.get(name, name): item for name, item in value.items()}
    return value


class _Word(str):
    """A value of an enumeration, which has no quotes."""


def _write(value: Any) -> str:
    """Return a value as GraphQL writes it: JSON, but that names of fields have no quotes."""
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{_camel(name)}: {_write(item)}" for name, item in value.items()) + " }"
    if isinstance(value, list):
        return "[" + ", ".join(map(_write, value)) + "]"
    return str(value) if isinstance(value, _Word) else orjson.dumps(value).decode()


def _camel(name: str) -> str:
    return re.sub(r"_(\w)", lambda found: found[1].upper(), name)
