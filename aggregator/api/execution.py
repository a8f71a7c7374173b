"""How a GraphQL operation is carried out: parsed and checked once per text, then executed; its answer is bytes.

Strawberry makes the schema; the reference implementation, graphql-core, parses, validates and executes it. This module
is the only one that knows how the three go together. Transports (HTTP, WebSocket, events) hand in an `Operation` and
get an `Execution`, of which they know how to tell it to their clients.
"""

import asyncio
from collections import OrderedDict
from collections.abc import AsyncGenerator, Mapping
from dataclasses import dataclass, field
from inspect import isawaitable
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
    subscribe,
    validate,
)

from aggregator.api.compiled.plans import Planner, Plans
from aggregator.api.context import Context, Footprint
from aggregator.api.cost import OperationCost, find_costs
from aggregator.api.errors import MAX_ERRORS, LimitExceededError, TookTooLongError, as_graphql, format_errors
from aggregator.api.limits import Limits, find_excesses, find_over, find_variable_excesses, parse_within
from aggregator.api.live import EndingError

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
    costs: Mapping[int, OperationCost] = field(default_factory=dict)
    """How to reckon what each operation costs, by `id` of its node."""
    plans: Plans | None = None
    """How it is answered without graphql-core; None when it is not executed at all."""

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
    """Carries out operations on one schema, within limits.

    Parameters
    ----------
    suggests
        Whether errors about unknown names tell similar ones that there are.
    """

    def __init__(self, schema: strawberry.Schema, *, limits: Limits | None = None, suggests: bool = False) -> None:
        # Strawberry keeps the schema of graphql-core under this name, and passes it on nowhere else.
        self.schema: GraphQLSchema = schema._schema
        self.planner = Planner(schema)
        self.limits = Limits() if limits is None else limits
        self._hides_suggestions = not suggests
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
            node = parse_within(text, self.limits)
        except LimitExceededError as error:
            return Document(text=text, node=None, errors=(as_graphql(error),))
        except GraphQLError as error:
            return Document(text=text, node=None, errors=(error,))
        # Before the validation, some rules of which compare every field with every other.
        if excesses := find_excesses(node, self.limits):
            return Document(text=text, node=node, errors=tuple(as_graphql(excess) for excess in excesses))
        if errors := self._validate(node):
            return Document(text=text, node=node, errors=tuple(errors))
        return Document(
            text=text, node=node, errors=(), costs=find_costs(self.schema, node), plans=Plans(document=node)
        )

    def _validate(self, node: DocumentNode) -> list[GraphQLError]:
        # The last error then says that there are more.
        most = MAX_ERRORS - 1
        return validate(self.schema, node, max_errors=most, hide_suggestions=self._hides_suggestions)

    def find_refusals(self, operation: Operation) -> tuple[GraphQLError, ...]:
        """Return why an operation is not to be executed: its document, its name, its size or what it costs."""
        document = self.check(operation.document)
        if document.errors:
            return document.errors
        node = document.find_operation(operation.name)
        if node is None:
            return (GraphQLError(_no_operation(operation)),)
        variables = operation.variables or {}
        # What the variables are is known only if they are not too many.
        excesses = find_variable_excesses(variables, self.limits) or self._find_costly(
            document.costs[id(node)], variables
        )
        return tuple(as_graphql(excess) for excess in excesses)

    def _find_costly(self, cost: OperationCost, variables: Mapping[str, Any]) -> list[LimitExceededError]:
        found = {"lookups": cost.lookups, "cost": cost.of(variables)}
        return find_over(found, self.limits)

    def kind_of(self, operation: Operation) -> OperationType | None:
        """Tell whether it is a query, a mutation or a subscription; None when the document has no such operation."""
        found = self.check(operation.document).find_operation(operation.name)
        return None if found is None else found.operation

    async def execute(self, operation: Operation, context: Context) -> Execution:
        """Carry out a query or a mutation.

        `context` is that of this one operation: what the answer depends on is gathered in its footprint.
        """
        document = self.check(operation.document)
        refusals = self.find_refusals(operation)
        if refusals or document.node is None:
            return _refusal(refusals, context)
        chosen = document.find_operation(operation.name)
        if chosen is not None and document.plans is not None:
            attempt = context.for_operation()
            body = await self.planner.answer(document.plans, chosen, operation.variables or {}, attempt)
            if body is not None:
                return Execution(body=body, is_refused=False, has_errors=False, footprint=attempt.footprint)
        return await self.execute_ordinarily(document.node, operation, context)

    async def execute_ordinarily(self, document: DocumentNode, operation: Operation, context: Context) -> Execution:
        """Carry out an operation of a document without errors by graphql-core."""
        found = execute(
            self.schema,
            document,
            context_value=context,
            variable_values=dict(operation.variables or {}),
            operation_name=operation.name,
            max_coercion_errors=MAX_ERRORS - 1,
            hide_suggestions=self._hides_suggestions,
        )
        result = found if isinstance(found, ExecutionResult) else await found
        if result.data is None and result.errors and all(error.path is None for error in result.errors):
            return _refusal(result.errors, context)
        return _executed(result, context)

    async def stream(
        self, operation: Operation, context: Context, *, timeout_s: float | None = None
    ) -> AsyncGenerator[Execution]:
        """Carry out any operation: one execution of a query or a mutation, one for each event of a subscription.

        Parameters
        ----------
        timeout_s
            How long a query or a mutation may take.

        Raises
        ------
        EndingError
            The service ends, and with it the subscription.
        """
        if self.kind_of(operation) is not OperationType.SUBSCRIPTION:
            try:
                async with asyncio.timeout(timeout_s):
                    execution = await self.execute(operation, context)
            except TimeoutError:
                execution = _refusal((as_graphql(TookTooLongError(timeout_s or 0)),), context)
            yield execution
            return
        document = self.check(operation.document)
        refusals = self.find_refusals(operation)
        if refusals or document.node is None:
            yield _refusal(refusals, context)
            return
        found = subscribe(
            self.schema,
            document.node,
            context_value=context,
            variable_values=dict(operation.variables or {}),
            operation_name=operation.name,
            max_coercion_errors=MAX_ERRORS - 1,
            hide_suggestions=self._hides_suggestions,
        )
        events = await found if isawaitable(found) else found
        if isinstance(events, ExecutionResult):
            yield _refusal(events.errors or (), context)
            return
        try:
            async for event in events:
                yield _executed(event, context)
        except EndingError:
            raise
        except Exception as error:  # noqa: BLE001  # the top of a subscription
            yield _refusal((_of_stream(error),), context)
        finally:
            if isinstance(events, AsyncGenerator):
                await events.aclose()


def _of_stream(error: Exception) -> GraphQLError:
    """Return what ended a subscription, as an error of its field: it came from a resolver."""
    cause = error.original_error if isinstance(error, GraphQLError) else error
    path = error.path if isinstance(error, GraphQLError) else None
    return GraphQLError(str(error), original_error=cause, path=path or ["subscription"])


def _no_operation(operation: Operation) -> str:
    if operation.name is None:
        return "operationName is needed: the document does not have exactly one operation"
    return f"operationName {operation.name!r:.80}: the document has no operation of this name"


def _refusal(errors: Any, context: Context) -> Execution:
    body = {"errors": format_errors(errors)}
    return Execution(body=orjson.dumps(body), is_refused=True, has_errors=True, footprint=context.footprint)


def _executed(result: ExecutionResult, context: Context) -> Execution:
    body: dict[str, Any] = {"data": result.data}
    if result.errors:
        body["errors"] = format_errors(result.errors)
    return Execution(
        body=orjson.dumps(body), is_refused=False, has_errors=bool(result.errors), footprint=context.footprint
    )
