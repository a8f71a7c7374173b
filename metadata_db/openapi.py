"""The OpenAPI description of the ingest API, made from the records that the API decodes."""

from typing import Any

import msgspec

from metadata_db.ingest import IngestReport
from metadata_db.records import Authority, Facility, FileRecord, Storage

_DOCUMENTS = {
    "facilities": ("facility", Facility),
    "authorities": ("authority", Authority),
    "storages": ("storage", Storage),
}


def openapi_document() -> dict[str, Any]:
    """Return the description as plain JSON values (OpenAPI 3.1)."""
    kinds = [FileRecord, Facility, Authority, Storage, IngestReport]
    schemas, components = msgspec.json.schema_components(kinds, ref_template="#/components/schemas/{name}")
    references = dict(zip((kind.__name__ for kind in kinds), schemas, strict=True))
    components["Error"] = _error_schema()
    paths = {"/api/v1/files": {"post": _post_files(references)}}
    for plural, (singular, kind) in _DOCUMENTS.items():
        paths[f"/api/v1/{plural}"] = {"get": _list(plural, references[kind.__name__])}
        paths[f"/api/v1/{plural}/{{name}}"] = {"put": _put(singular, references[kind.__name__])}
    paths["/api/v1/facilities/{name}"]["get"] = _get("facility", references["Facility"])
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Catchment ingest API",
            "version": "1",
            "description": "How extractors and data managers write the catalogue.",
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "paths": paths,
        "components": {
            "schemas": components,
            "securitySchemes": {
                "token": {"type": "http", "scheme": "bearer", "description": "made by 'catchment token'"}
            },
        },
    }


def _error_schema() -> dict[str, Any]:
    text = {"type": "string"}
    properties = {"code": text, "message": text, "field": text, "value": text, "expected": text}
    error = {"type": "object", "properties": properties, "required": ["code", "message"]}
    return {"type": "object", "properties": {"error": error}, "required": ["error"]}


def _json_content(schema: Any) -> dict[str, Any]:
    return {"application/json": {"schema": schema}}


def _responses(schema: Any, *codes: tuple[str, str]) -> dict[str, Any]:
    failures = {
        code: {"description": text, "content": _json_content({"$ref": "#/components/schemas/Error"})}
        for code, text in codes
    }
    return {"200": {"description": "Done", "content": _json_content(schema)}, **failures}


_DENIED = ("403", "The token is missing, unknown, or does not allow this")
_BAD = ("422", "Something sent cannot be understood; the error names field, value and what was expected")
_AWAY = ("503", "The database is away; try again after the time in Retry-After")


def _post_files(references: dict[str, Any]) -> dict[str, Any]:
    encoding = {
        "name": "Content-Encoding",
        "in": "header",
        "schema": {"type": "string", "enum": ["gzip", "zstd"]},
        "description": "How the body is packed, if it is",
    }
    return {
        "operationId": "postFiles",
        "summary": "Catalogue a batch of files",
        "description": "One FileRecord a line, as many as wanted: the body is read as a stream. All accepted "
        "lines of a facility are merged in one transaction. Sending a batch again changes nothing.",
        "security": [{"token": []}],
        "parameters": [encoding],
        "requestBody": {
            "required": True,
            "content": {"application/x-ndjson": {"schema": references["FileRecord"]}},
        },
        "responses": _responses(references["IngestReport"], _DENIED, _BAD, _AWAY),
    }


def _name_parameter(kind: str) -> dict[str, Any]:
    return {
        "name": "name",
        "in": "path",
        "required": True,
        "schema": {"type": "string"},
        "description": f"Name of the {kind}",
    }


def _put(kind: str, reference: Any) -> dict[str, Any]:
    return {
        "operationId": f"put{kind.capitalize()}",
        "summary": f"Register or mend a {kind}",
        "security": [{"token": []}],
        "parameters": [_name_parameter(kind)],
        "requestBody": {"required": True, "content": _json_content(reference)},
        "responses": _responses(reference, _DENIED, _BAD, _AWAY),
    }


def _get(kind: str, reference: Any) -> dict[str, Any]:
    return {
        "operationId": f"get{kind.capitalize()}",
        "summary": f"Show a {kind}",
        "security": [],
        "parameters": [_name_parameter(kind)],
        "responses": _responses(reference, ("404", f"No {kind} of this name"), _AWAY),
    }


def _list(plural: str, reference: Any) -> dict[str, Any]:
    return {
        "operationId": f"list{plural.capitalize()}",
        "summary": f"List the {plural}",
        "security": [{"token": []}] if plural == "storages" else [],
        "responses": _responses(
            {"type": "array", "items": reference}, *((_DENIED,) if plural == "storages" else ()), _AWAY
        ),
    }
