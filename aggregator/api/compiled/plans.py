"""Plans: how the answer to a document is made, decided once and kept with the document.

Whether a document has a plan is decided when it is compiled: mutations and what no writer is known for have none, and
graphql-core executes them as a whole. So it does when an answer by plan fails: how errors are told, with their places
and with what becomes null around them, is known to graphql-core alone. Errors are rare, and asking again is safe.
"""

import logging
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import orjson
import strawberry
from graphql import (
    DocumentNode,
    GraphQLError,
    OperationDefinitionNode,
    OperationType,
    get_variable_values,
)
from graphql.execution.values import VariableValues

from aggregator.api.compiled.answers import RULES
from aggregator.api.compiled.fields import NotCompiledError, Selection, find_conditions, find_fragments
from aggregator.api.compiled.inputs import InputReader
from aggregator.api.compiled.writers import Asking, Writer
from aggregator.api.context import Context
from aggregator.errors import PUBLIC_ERRORS

logger = logging.getLogger(__name__)

MAX_PLANS = 64
"""Plans kept of one document: one per operation and outcome of its conditions."""


@dataclass(frozen=True, kw_only=True)
class Plans:
    """The plans of one document, made as they are needed."""

    document: DocumentNode
    known: dict[Any, Writer | None] = field(default_factory=dict)
    """Operation and outcome of conditions → plan; None where there is none."""

    @cached_property
    def conditions(self) -> tuple[str, ...]:
        """Variables on which it depends what is selected."""
        return find_conditions(self.document)


class Planner:
    """Answers operations by plans."""

    def __init__(self, schema: strawberry.Schema) -> None:
        self._schema = schema
        self._inputs = InputReader(schema)
        self.counts: Counter[str] = Counter()
        """How many operations were answered by plan, had none, or failed."""

    async def answer(
        self, plans: Plans, operation: OperationDefinitionNode, variables: Mapping[str, Any], context: Context
    ) -> bytes | None:
        """Return the answer to a query; None when graphql-core has to execute it, with another context."""
        if operation.operation is not OperationType.QUERY:
            return None
        coerced = get_variable_values(
            self._schema._schema, operation.variable_definitions or (), dict(variables), max_errors=1
        )
        if isinstance(coerced, list):
            return None
        plan = self._find(plans, operation, coerced)
        if plan is None:
            self.counts["not compiled"] += 1
            return None
        try:
            body = orjson.dumps({"data": await _carry_out(plan, Asking(context, coerced))})
        except Exception as error:  # noqa: BLE001  # whatever it is, it is told by the ordinary execution
            self.counts["failed"] += 1
            _note(error)
            return None
        self.counts["answered"] += 1
        return body

    def _find(self, plans: Plans, operation: OperationDefinitionNode, variables: VariableValues) -> Writer | None:
        outcome = (id(operation), *(variables.coerced.get(name) for name in plans.conditions))
        if outcome not in plans.known:
            if len(plans.known) >= MAX_PLANS:
                plans.known.clear()
            plans.known[outcome] = self._compile(plans.document, operation, variables)
        return plans.known[outcome]

    def _compile(
        self, document: DocumentNode, operation: OperationDefinitionNode, variables: VariableValues
    ) -> Writer | None:
        selection = Selection(
            schema=self._schema,
            inputs=self._inputs,
            operation=operation,
            fragments=find_fragments(document),
            conditions=variables,
            rules=RULES,
        )
        root = self._schema._schema.query_type
        try:
            if root is None:
                raise NotCompiledError("a schema without questions")
            return selection.write_object(root, selection.of_root(root))
        except (NotCompiledError, GraphQLError, RecursionError) as error:
            logger.debug("a document is not compiled: %s", error, extra={"action": "compile"})
            return None


async def _carry_out(plan: Writer, asking: Asking) -> Any:
    return await plan.tell(None, asking) if plan.is_async else plan.tell(None, asking)


def _note(error: Exception) -> None:
    """Log a failure that users are not to blame for: the ordinary execution may do without it."""
    if all(isinstance(cause, PUBLIC_ERRORS) for cause in _causes(error)):
        logger.debug("a plan met an error of the user's", extra={"action": "compile"})
    else:
        logger.error("a plan failed", exc_info=error, extra={"action": "compile"})


def _causes(error: Exception) -> Iterable[Exception]:
    if isinstance(error, ExceptionGroup):
        for cause in error.exceptions:
            yield from _causes(cause)
    else:
        yield error
