"""The schema, its limits, and how errors are told."""

import logging
import secrets
from typing import Any

import strawberry
from graphql import GraphQLError
from starlette.requests import Request
from starlette.responses import Response
from starlette.websockets import WebSocket
from strawberry.asgi import GraphQL
from strawberry.extensions import MaxTokensLimiter, ParserCache, ValidationCache
from strawberry.http import GraphQLHTTPResponse
from strawberry.types import ExecutionContext, ExecutionResult

from aggregator.api.context import Context
from aggregator.api.resolvers import Mutation, Query
from aggregator.api.scalars import CONFIG
from aggregator.errors import PUBLIC_ERRORS
from metadata_db.errors import BadInputError

logger = logging.getLogger(__name__)

MAX_TOKENS = 2000
"""Longest document, in tokens; the longest of the web page has some 300."""


MAX_DOCUMENTS = 500
"""Documents kept parsed and validated."""

MAX_MESSAGE = 1000
"""Longest message of an error, in characters."""


class _Schema(strawberry.Schema):
    """A schema that leaves logging to `GraphQLView`, where an error is masked or told."""

    def process_errors(self, errors: list[GraphQLError], execution_context: ExecutionContext | None = None) -> None:
        """Do nothing here."""


def create_schema() -> strawberry.Schema:
    """Return the schema of the service."""
    extensions = [
        lambda: MaxTokensLimiter(max_token_count=MAX_TOKENS),
        # Clients send the same few documents over and over: parse and validate each once.
        lambda: ParserCache(maxsize=MAX_DOCUMENTS),
        lambda: ValidationCache(maxsize=MAX_DOCUMENTS),
    ]
    return _Schema(query=Query, mutation=Mutation, config=CONFIG, extensions=extensions)


class GraphQLView(GraphQL[Context, None]):
    """The endpoint ``/graphql``; it has no page of its own, because the known ones load scripts from elsewhere."""

    def __init__(self, schema: strawberry.Schema, context: Context) -> None:
        super().__init__(schema, graphql_ide=None, subscription_protocols=())
        self._context = context

    async def get_context(self, request: Request | WebSocket, response: Response | WebSocket) -> Context:
        """Return what resolvers are handed."""
        return self._context

    async def process_result(self, request: Request, result: ExecutionResult) -> GraphQLHTTPResponse:
        """Return the body of the answer."""
        body: GraphQLHTTPResponse = {"data": result.data}
        if result.errors:
            body["errors"] = [format_error(error) for error in result.errors]
        return body


def format_error(error: GraphQLError) -> dict[str, Any]:
    """Return an error as users see it: ours with code and facts, GraphQL's own as it is, all others masked."""
    formatted: dict[str, Any] = dict(error.formatted)
    formatted["message"] = formatted["message"][:MAX_MESSAGE]  # GraphQL's own errors repeat what was sent
    cause = error.original_error
    while isinstance(cause, GraphQLError) and cause.original_error is not None:
        cause = cause.original_error
    if isinstance(cause, PUBLIC_ERRORS):
        formatted["message"] = str(cause)
        formatted["extensions"] = {"code": cause.code}
        if isinstance(cause, BadInputError):
            formatted["extensions"] |= {"field": cause.field, "value": cause.value, "expected": cause.expected}
    elif cause is None or (isinstance(cause, GraphQLError | ValueError) and error.path is None):
        formatted["extensions"] = {"code": "GRAPHQL_INVALID"}
    else:
        reference = secrets.token_hex(4)
        logger.error("a resolver failed", exc_info=cause, extra={"action": "graphql", "reference": reference})
        formatted["message"] = f"something went wrong here; the operators find it in their log as {reference}"
        formatted["extensions"] = {"code": "INTERNAL", "reference": reference}
    return formatted
