"""The OpenAPI description of the ingest API, made from the records that the API decodes."""

from typing import Any

import msgspec

from metadata_db.ingest import IngestReport, RemovalReport
from metadata_db.letters import MAX_LETTERS, FailureReport
from metadata_db.listing import MAX_FILES
from metadata_db.query import Alert
from metadata_db.records import (
    AlertListReport,
    Authority,
    DeadLetter,
    Facility,
    Failure,
    FileRecord,
    KnownFile,
    Removal,
    Storage,
)

_DOCUMENTS = {
    "facilities": ("facility", Facility),
    "authorities": ("authority", Authority),
    "storages": ("storage", Storage),
}

_RECORDS = (FileRecord, Facility, Authority, Storage, KnownFile, Removal, Failure, DeadLetter)


def openapi_document() -> dict[str, Any]:
    """Return the description as plain JSON values (OpenAPI 3.1)."""
    kinds = [*_RECORDS, IngestReport, RemovalReport, FailureReport, Alert, AlertListReport]
    schemas, components = msgspec.json.schema_components(kinds, ref_template="#/components/schemas/{name}")
    references = dict(zip((kind.__name__ for kind in kinds), schemas, strict=True))
    components["Error"] = _error_schema()
    paths = _file_paths(references) | _failure_paths(references) | _alert_paths(references)
    for plural, (singular, kind) in _DOCUMENTS.items():
        paths[f"/api/v1/{plural}"] = {"get": _list(plural, references[kind.__name__])}
        paths[f"/api/v1/{plural}/{{name}}"] = {"put": _put(singular, references[kind.__name__])}
    paths["/api/v1/facilities/{name}"]["get"] = _get("facility", references["Facility"])
    paths["/api/v1/storages/{name}"]["get"] = _get("storage", references["Storage"], needs_token=True)
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


def _lines_content(schema: Any) -> dict[str, Any]:
    return {"application/x-ndjson": {"schema": schema}}


def _failures(*codes: tuple[str, str]) -> dict[str, Any]:
    content = _json_content({"$ref": "#/components/schemas/Error"})
    return {code: {"description": text, "content": content} for code, text in codes}


def _responses(schema: Any, *codes: tuple[str, str]) -> dict[str, Any]:
    return {"200": {"description": "Done", "content": _json_content(schema)}, **_failures(*codes)}


_DENIED = ("403", "The token is missing, unknown, or does not allow this")
_BAD = ("422", "Something sent cannot be understood; the error names field, value and what was expected")
_AWAY = ("503", "The database is away; try again after the time in Retry-After")


_GONE = ("404", "There is none of this name or number")


def _file_paths(references: dict[str, Any]) -> dict[str, Any]:
    return {
        "/api/v1/files": {
            "post": _post_lines(
                "postFiles",
                "Catalogue a batch of files",
                "One FileRecord a line, as many as wanted: the body is read as a stream. All accepted lines of a "
                "facility are merged in one transaction; rejected ones are kept as failures. Sending a batch again "
                "changes nothing.",
                references["FileRecord"],
                references["IngestReport"],
            )
        },
        "/api/v1/removals": {
            "post": _post_lines(
                "postRemovals",
                "Take a batch of files out of the catalogue",
                "One Removal a line. A file of which another version lives than the one named is kept. Answers as of "
                "earlier revisions still have the files. Sending a batch again changes nothing.",
                references["Removal"],
                references["RemovalReport"],
            )
        },
        "/api/v1/storages/{name}/files": {"get": _list_known_files(references["KnownFile"])},
    }


def _failure_paths(references: dict[str, Any]) -> dict[str, Any]:
    post = _post_lines(
        "postFailures",
        "Keep a batch of files that could not be read",
        "One Failure a line. It is kept until the file is catalogued with its content, removed or dismissed.",
        references["Failure"],
        references["FailureReport"],
    )
    delete = {
        "operationId": "deleteFailure",
        "summary": "Dismiss a failure",
        "security": [{"token": []}],
        "parameters": [
            {"name": "id", "in": "path", "required": True, "schema": {"type": "integer"}, "description": "Its number"}
        ],
        "responses": {"204": {"description": "Done"}, **_failures(_DENIED, _GONE, _BAD, _AWAY)},
    }
    return {
        "/api/v1/failures": {"get": _list_failures(references["DeadLetter"]), "post": post},
        "/api/v1/failures/{id}": {"delete": delete},
    }


def _alert_paths(references: dict[str, Any]) -> dict[str, Any]:
    alerts = {"type": "array", "items": references["Alert"]}
    text = {"schema": {"type": "string"}}
    post = {
        "operationId": "postAlerts",
        "summary": "Keep a list of alerts, for questions to name",
        "description": "A CSV table with a header (time, t, trigger_time or isot in ISO 8601 and UTC, or mjd in UTC; "
        "ra and dec or ra_deg and dec_deg in ICRS degrees; further columns are ignored), VOEvents 2.0 or 2.1, or JSON. "
        "At most 10,000 alerts and 1 MB. Equal lists have one id, however they are written; sending one again changes "
        "nothing. Questions name it as filter.coincidence.alertList.",
        "security": [],
        "parameters": [_ENCODING],
        "requestBody": {
            "required": True,
            "content": {"text/csv": text, "application/xml": text, **_json_content(alerts)},
        },
        "responses": _responses(references["AlertListReport"], _BAD, _AWAY),
    }
    get = {
        "operationId": "getAlerts",
        "summary": "Show a list of alerts",
        "security": [],
        "parameters": [
            {
                "name": "id",
                "in": "path",
                "required": True,
                "schema": {"type": "string"},
                "description": "Id of the list",
            }
        ],
        "responses": _responses(alerts, _GONE, _AWAY),
    }
    return {"/api/v1/alerts": {"post": post}, "/api/v1/alerts/{id}": {"get": get}}


_ENCODING = {
    "name": "Content-Encoding",
    "in": "header",
    "schema": {"type": "string", "enum": ["gzip", "zstd"]},
    "description": "How the body is packed, if it is",
}


def _post_lines(operation: str, summary: str, description: str, line: Any, report: Any) -> dict[str, Any]:
    return {
        "operationId": operation,
        "summary": summary,
        "description": description,
        "security": [{"token": []}],
        "parameters": [_ENCODING],
        "requestBody": {"required": True, "content": _lines_content(line)},
        "responses": _responses(report, _DENIED, _BAD, _AWAY),
    }


def _list_known_files(reference: Any) -> dict[str, Any]:
    return {
        "operationId": "listKnownFiles",
        "summary": "List the living files of a storage",
        "description": "In the order of the bytes of their paths; fewer than the limit mean that there are no more. "
        "Of a shared storage only the files that the token may write.",
        "security": [{"token": []}],
        "parameters": [
            _name_parameter("storage"),
            _query_parameter("after", {"type": "string"}, "Path behind which the page begins"),
            _limit_parameter(MAX_FILES),
        ],
        "responses": {
            "200": {"description": "One a line", "content": _lines_content(reference)},
            **_failures(_DENIED, _GONE, _BAD, _AWAY),
        },
    }


def _list_failures(reference: Any) -> dict[str, Any]:
    return {
        "operationId": "listFailures",
        "summary": "List what could not be read or was rejected",
        "description": "Oldest first; fewer than the limit mean that there are no more. A publisher is told those of "
        "its facilities, an admin all, with those that belong to nobody.",
        "security": [{"token": []}],
        "parameters": [
            _query_parameter("facility", {"type": "string"}, "Only those of this facility"),
            _query_parameter("storage", {"type": "string"}, "Only those of this storage"),
            _query_parameter("after", {"type": "integer"}, "Number behind which the page begins"),
            _limit_parameter(MAX_LETTERS),
        ],
        "responses": {
            "200": {"description": "One a line", "content": _lines_content(reference)},
            **_failures(_DENIED, _BAD, _AWAY),
        },
    }


def _query_parameter(name: str, schema: dict[str, Any], description: str) -> dict[str, Any]:
    return {"name": name, "in": "query", "required": False, "schema": schema, "description": description}


def _limit_parameter(most: int) -> dict[str, Any]:
    schema = {"type": "integer", "minimum": 1, "maximum": most, "default": most}
    return _query_parameter("limit", schema, "Most lines of the answer")


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


def _get(kind: str, reference: Any, *, needs_token: bool = False) -> dict[str, Any]:
    return {
        "operationId": f"get{kind.capitalize()}",
        "summary": f"Show a {kind}",
        "security": [{"token": []}] if needs_token else [],
        "parameters": [_name_parameter(kind)],
        "responses": _responses(reference, *((_DENIED,) if needs_token else ()), _GONE, _AWAY),
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
