"""From a selection to writers: any field of the schema, resolved by Strawberry's own resolvers.

What is selected of an object, merged as GraphQL says, is what graphql-core collects, and arguments are read by
graphql-core and Strawberry; nothing of that is done anew here.
"""

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from operator import attrgetter
from typing import Any, Protocol, TypeVar

import strawberry
from graphql import (
    DirectiveNode,
    DocumentNode,
    FragmentDefinitionNode,
    GraphQLError,
    GraphQLField,
    GraphQLObjectType,
    GraphQLOutputType,
    OperationDefinitionNode,
    VariableNode,
    Visitor,
    is_leaf_type,
    is_list_type,
    is_non_null_type,
    is_object_type,
    visit,
)
from graphql.execution.collect_fields import (
    FieldDetailsList,
    FragmentDetails,
    GroupedFieldSet,
    collect_fields,
    collect_subfields,
)
from graphql.execution.values import VariableValues, get_argument_values
from strawberry.types.field import StrawberryField

from aggregator.api.compiled.inputs import InputReader
from aggregator.api.compiled.writers import (
    Asking,
    Writer,
    composed,
    constant,
    leaf,
    optional,
    required,
    several,
)
from aggregator.errors import PUBLIC_ERRORS

T = TypeVar("T")


class NotCompiledError(Exception):
    """The document has something that is not compiled: it is executed by graphql-core as a whole."""


class FieldRule(Protocol):
    """Makes the writer of one field in a way of its own; the writer is given the object that has the field."""

    def __call__(self, selection: "Selection", parent: GraphQLObjectType, details: FieldDetailsList, /) -> Writer:
        """Return the writer."""


@dataclass(frozen=True, kw_only=True)
class Selection:
    """What an operation selects, given what its conditions (@skip, @include) come to."""

    schema: strawberry.Schema
    inputs: InputReader
    operation: OperationDefinitionNode
    fragments: Mapping[str, FragmentDetails]
    conditions: VariableValues
    """Variables of which only those count that conditions name."""
    rules: Mapping[tuple[str, str], FieldRule] = field(default_factory=dict)
    """Type and field → how it is written, where not by its resolver."""

    # --- what is selected ----------------------------------------------------------------------------------------

    def of_root(self, root: GraphQLObjectType) -> GroupedFieldSet:
        """Return key → nodes of the operation's own fields."""
        found = collect_fields(self.schema._schema, dict(self.fragments), self.conditions, root, self.operation)
        return found.grouped_field_set

    def below(self, parent: GraphQLObjectType, details: FieldDetailsList) -> GroupedFieldSet:
        """Return key → nodes of what is selected of an object."""
        found = collect_subfields(
            self.schema._schema, dict(self.fragments), self.conditions, self.operation, parent, details
        )
        return found.grouped_field_set

    # --- how it is written ---------------------------------------------------------------------------------------

    def write_object(self, parent: GraphQLObjectType, selected: GroupedFieldSet) -> Writer:
        """Return the writer of an object."""
        return composed([(key, self.write_field(parent, details)) for key, details in selected.items()])

    def write_field(self, parent: GraphQLObjectType, details: FieldDetailsList) -> Writer:
        """Return the writer of a field, which is given the object that has it."""
        name = name_of(details)
        if name == "__typename":
            return constant(parent.name)
        rule = self.rules.get((parent.name, name))
        return self._write_resolved(parent, details) if rule is None else rule(self, parent, details)

    def write_value(self, kind: GraphQLOutputType, details: FieldDetailsList) -> Writer:
        """Return the writer of a value of a type."""
        if is_non_null_type(kind):
            return required(self._write_known(kind.of_type, details))
        return optional(self._write_known(kind, details))

    def _write_known(self, kind: GraphQLOutputType, details: FieldDetailsList) -> Writer:
        if is_list_type(kind):
            return several(self.write_value(kind.of_type, details))
        if is_leaf_type(kind):
            return leaf(kind.coerce_output_value)
        if is_object_type(kind) and kind.is_type_of is None:
            return self.write_object(kind, self.below(kind, details))
        raise NotCompiledError(f"the type {kind}")

    def _write_resolved(self, parent: GraphQLObjectType, details: FieldDetailsList) -> Writer:
        known, ours = self.find_field(parent, details)
        writer = self.write_value(known.type, details)
        write = writer.tell
        if ours.is_basic_field:
            get = attrgetter(ours.python_name)
            if writer.is_async:
                return Writer(lambda value, asking: write(get(value), asking), is_async=True)
            return Writer(lambda value, asking: write(get(value), asking))
        resolve: Any = known.resolve
        arguments = self.read_arguments(known, details, lambda given: given)
        if not inspect.iscoroutinefunction(resolve):
            if not writer.is_async:
                return Writer(lambda value, asking: write(resolve(value, asking, **arguments(asking)), asking))

            async def tell(value: Any, asking: Asking) -> Any:
                return await write(resolve(value, asking, **arguments(asking)), asking)

            return Writer(tell, is_async=True)

        async def tell_later(value: Any, asking: Asking) -> Any:
            found = await resolve(value, asking, **arguments(asking))
            return await write(found, asking) if writer.is_async else write(found, asking)

        return Writer(tell_later, is_async=True)

    def find_field(self, parent: GraphQLObjectType, details: FieldDetailsList) -> tuple[GraphQLField, StrawberryField]:
        """Return a field as graphql-core and as Strawberry know it."""
        name = name_of(details)
        known = parent.fields.get(name)
        ours = self.schema.get_field_for_type(name, parent.name)
        if known is None or ours is None:
            raise NotCompiledError(f"the field {parent.name}.{name}")
        return known, ours

    # --- arguments -----------------------------------------------------------------------------------------------

    def read_arguments(
        self, known: GraphQLField, details: FieldDetailsList, make: Callable[[dict[str, Any]], T]
    ) -> Callable[[Asking], T]:
        """Return how to read the arguments of a field: once, if no variable is in them."""
        node = details[0].node

        def read(asking: Asking) -> T:
            return make(get_argument_values(known, node, asking.variables))

        if any(names_variable(argument) for argument in node.arguments or ()):
            return read
        try:
            made = make(get_argument_values(known, node))
        except (GraphQLError, *PUBLIC_ERRORS):
            # Refused when it comes to it: the field may be below something that is null.
            return read
        return lambda _asking: made

    def read_converted(
        self, parent: GraphQLObjectType, details: FieldDetailsList, make: Callable[..., T]
    ) -> Callable[[Asking], T]:
        """Return how to make something of the arguments of a field as its resolver gets them, by their Python names."""
        known, ours = self.find_field(parent, details)
        convert = self.inputs.read_all(ours.arguments)
        return self.read_arguments(known, details, lambda given: make(**convert(given)))


def name_of(details: FieldDetailsList) -> str:
    """Return the name of a field, whatever its alias."""
    return details[0].node.name.value


def find_fragments(document: DocumentNode) -> dict[str, FragmentDetails]:
    """Return the fragments of a document by name."""
    return {
        node.name.value: FragmentDetails(node)
        for node in document.definitions
        if isinstance(node, FragmentDefinitionNode)
    }


def find_conditions(document: DocumentNode) -> tuple[str, ...]:
    """Return the names of the variables on which it depends what a document selects."""
    visitor = _Conditions()
    visit(document, visitor)
    return tuple(sorted(visitor.names))


class _Conditions(Visitor):
    def __init__(self) -> None:
        super().__init__()
        self.names: set[str] = set()

    def enter_directive(self, node: DirectiveNode, *_: Any) -> None:
        if node.name.value in ("skip", "include"):
            self.names |= {
                argument.value.name.value
                for argument in node.arguments or ()
                if isinstance(argument.value, VariableNode)
            }


class _Variables(Visitor):
    def __init__(self) -> None:
        super().__init__()
        self.is_met = False

    def enter_variable(self, *_: Any) -> None:
        self.is_met = True


def names_variable(node: Any) -> bool:
    """Tell whether there is a variable in an argument."""
    visitor = _Variables()
    visit(node, visitor)
    return visitor.is_met
