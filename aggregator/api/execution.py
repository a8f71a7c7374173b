"""How a GraphQL operation is carried out: parsed and checked once per text, then executed; its answer is bytes.

Strawberry makes the schema; the reference implementation, graphql-core, parses, validates and executes it. This module
is the only one that knows how the three go together. Transports (HTTP, WebSocket, events) hand in an `Operation` and
get an `Execution`, of which they know how to tell it to their clients.
"""

from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import orjson
import strawberry
from graphql import (
    DocumentNode,
    ExecutionResult,
    GraphQLError,
    GraphQLSchema,
    OperationDefinitionNode,
    OperationType,
    execute,
    get_operation_ast,
    parse,
    validate,
)

from aggregator.api.context import Context, Footprint
from aggregator.api.errors import MAX_ERRORS, format_error

MAX_TOKENS = 2000
"""Longest document, in tokens; the longest of the web page has some 300."""

MAX_DOCUMENTS = 500
"""Documents kept parsed and validated."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Operation:
    """What one request asks for."""

    document: str
    variables: Mapping[str, Any] | None = None
    name: str | None = None
    """Which operation of the document; None when there is only one."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Document:
    """A text of GraphQL that was parsed and checked."""

    text: str
    node: DocumentNode | None
    """None when it could not be parsed."""
    errors: tuple[GraphQLError, ...]
    """What is wrong with it; it is executed only when this is empty."""

    def find_operation(self, name: str | None) -> OperationDefinitionNode | None:
        """Return the operation of a name, or the only one; None when there is no such."""
        return None if self.node is None else get_operation_ast(self.node, name)


@dataclass(frozen=True, kw_only=True, slots=True)
class Execution:
    """What came of an operation."""

    body: bytes
    """The answer as JSON: ``data`` unless it was refused, ``errors`` if there are any."""
    is_refused: bool
    """Whether it was not executed at all: wrong syntax, against the schema or a limit, unusable variables."""
    has_errors: bool
    footprint: Footprint
    """What the answer depends on."""


class Executor:
    """Carries out operations on one schema."""

    def __init__(self, schema: strawberry.Schema) -> None:
        # Strawberry keeps the schema of graphql-core under this name, and passes it on nowhere else.
        self.schema: GraphQLSchema = schema._schema
        self._documents: OrderedDict[str, Document] = OrderedDict()

    def check(self, text: str) -> Document:
        """Parse and check a document, or find it among those that were."""
        known = self._documents.get(text)
        if known is not None:
            self._documents.move_to_end(text)
            return known
        document = self._check(text)
        self._documents[text] = document
        if len(self._documents) > MAX_DOCUMENTS:
            self._documents.popitem(last=False)
        return document

    def _check(self, text: str) -> Document:
        try:
            node = parse(text, max_tokens=MAX_TOKENS)
        except GraphQLError as error:
            return Document(text=text, node=None, errors=(error,))
        errors = validate(self.schema, node, max_errors=MAX_ERRORS)
        return Document(text=text, node=node, errors=tuple(errors))

    def kind_of(self, operation: Operation) -> OperationType | None:
        """Tell whether it is a query, a mutation or a subscription; None when the document has no such operation."""
        found = self.check(operation.document).find_operation(operation.name)
        return None if found is None else found.operation

    async def execute(self, operation: Operation, context: Context) -> Execution:
        """Carry out a query or a mutation.

        `context` is that of this one operation: what the answer depends on is gathered in its footprint.
        """
        document = self.check(operation.document)
        if document.errors or document.node is None:
            return _refusal(document.errors, context)
        if document.find_operation(operation.name) is None:
            return _refusal((GraphQLError(_no_operation(operation)),), context)
        found = execute(
            self.schema,
            document.node,
            context_value=context,
            variable_values=dict(operation.variables or {}),
            operation_name=operation.name,
        )
        result = found if isinstance(found, ExecutionResult) else await found
        if result.data is None and result.errors and all(error.path is None for error in result.errors):
            return _refusal(result.errors, context)
        return _executed(result, context)


def _no_operation(operation: Operation) -> str:
    if operation.name is None:
        return "operationName is needed: the document does not have exactly one operation"
    return f"operationName {operation.name!r:.80}: the document has no operation of this name"


def _refusal(errors: Any, context: Context) -> Execution:
    body = {"errors": [format_error(error) for error in errors[:MAX_ERRORS]]}
    return Execution(body=orjson.dumps(body), is_refused=True, has_errors=True, footprint=context.footprint)


def _executed(result: ExecutionResult, context: Context) -> Execution:
    body: dict[str, Any] = {"data": result.data}
    if result.errors:
        body["errors"] = [format_error(error) for error in result.errors[:MAX_ERRORS]]
    return Execution(
        body=orjson.dumps(body), is_refused=False, has_errors=bool(result.errors), footprint=context.footprint
    )
