"""How errors are told to users of GraphQL."""

import logging
import secrets
from typing import Any

from graphql import GraphQLError

from aggregator.errors import PUBLIC_ERRORS
from metadata_db.errors import BadInputError

logger = logging.getLogger(__name__)

MAX_MESSAGE = 1000
"""Longest message of an error, in characters."""

MAX_ERRORS = 20
"""Most errors of one answer."""


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
