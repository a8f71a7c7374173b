"""The endpoint ``/graphql``: GraphQL over HTTP."""

from typing import Any

import orjson
from graphql import OperationType
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from aggregator.api.context import Context
from aggregator.api.execution import Executor, Operation


class GraphQLEndpoint:
    """Answers operations; it has no page of its own, because the known ones load scripts from elsewhere."""

    def __init__(self, executor: Executor, context: Context) -> None:
        self._executor = executor
        self._context = context

    async def answer(self, request: Request) -> Response:
        """Answer one request."""
        asked = await _read_body(request) if request.method == "POST" else _read_address(request)
        operation = _operation(asked)
        if request.method == "GET" and self._executor.kind_of(operation) is not OperationType.QUERY:
            raise HTTPException(405, "by GET only questions are answered", headers={"allow": "POST"})
        execution = await self._executor.execute(operation, self._context.for_operation())
        return Response(execution.body, media_type="application/json")


async def _read_body(request: Request) -> Any:
    try:
        return orjson.loads(await request.body())
    except orjson.JSONDecodeError as error:
        raise HTTPException(400, f"the body is no JSON: {error}") from error


def _read_address(request: Request) -> dict[str, Any]:
    asked: dict[str, Any] = dict(request.query_params)
    if "variables" in asked:
        try:
            asked["variables"] = orjson.loads(asked["variables"])
        except orjson.JSONDecodeError as error:
            raise HTTPException(400, f"variables are no JSON: {error}") from error
    return asked


def _operation(asked: Any) -> Operation:
    if not isinstance(asked, dict) or not isinstance(asked.get("query"), str):
        raise HTTPException(400, "expected a JSON object with a text 'query'")
    variables, name = asked.get("variables"), asked.get("operationName")
    if not isinstance(variables, dict | None):
        raise HTTPException(400, "variables: expected an object")
    if not isinstance(name, str | None):
        raise HTTPException(400, "operationName: expected a text")
    return Operation(document=asked["query"], variables=variables, name=name)
