"""What an operation may cost at most, reckoned from the sizes of the lists it asks for, before it is executed.

The cost is the number of values that the answer may hold: each field counts once, and within a list as often as the
list may be long. That is known from the arguments, such as `first`, which are often variables. So the valid document is
turned into a short reckoning once, and the reckoning is done for each request, in microseconds.

Fields that may look into the catalogue are counted besides: ten of them are ten statements, however few values they
give.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from graphql import (
    DocumentNode,
    FieldNode,
    GraphQLSchema,
    IntValueNode,
    ListValueNode,
    NullValueNode,
    OperationDefinitionNode,
    TypeInfo,
    TypeInfoVisitor,
    ValueNode,
    VariableNode,
    Visitor,
    visit,
)

from aggregator.api.inputs import MAX_PAGE
from aggregator.api.limits import Anatomy, Owner
from metadata_db.availability import MAX_GAPS
from metadata_db.search import FacetField


@dataclass(frozen=True, kw_only=True, slots=True)
class ListSize:
    """How long a list may be."""

    usual: int
    """When no argument says so: the default of the argument, or what catalogues have."""
    arguments: tuple[str, ...] = ()
    """Each of them may say so, as a number or as a list of as many."""
    most: int = MAX_PAGE
    """Beyond this the resolver refuses, before it looks anything up."""


PAGE = ListSize(usual=50, arguments=("first", "last"))

CONNECTIONS: Mapping[str, ListSize] = {"SearchResult.files": PAGE, "Query.diff": PAGE}
"""Fields whose arguments say how long the lists `PAGED` within them are."""

PAGED = frozenset({"FileConnection.edges", "FileConnection.nodes", "Diff.edges", "Diff.nodes"})

LISTS: Mapping[str, ListSize] = {
    "Availability.gaps": ListSize(usual=20, arguments=("longest",), most=MAX_GAPS),
    "Facet.values": ListSize(usual=1000),
    "Facility.attributes": ListSize(usual=20),
    "Facility.clusters": ListSize(usual=10),
    "Facility.dataChannels": ListSize(usual=10),
    "Facility.detectors": ListSize(usual=10),
    "File.relations": ListSize(usual=2),
    "Query.attributes": ListSize(usual=200),
    "Query.availability": ListSize(usual=100),
    "Query.clusters": ListSize(usual=100),
    "Query.dataAuthorities": ListSize(usual=20),
    "Query.dataChannels": ListSize(usual=100),
    "Query.detectors": ListSize(usual=100),
    "Query.facilities": ListSize(usual=20),
    "Query.storages": ListSize(usual=50),
    "SearchResult.facets": ListSize(usual=1, arguments=("by",), most=len(FacetField)),
    "SearchResult.revisions": ListSize(usual=20),
    "Subscription.revisions": ListSize(usual=20),
    "__Directive.args": ListSize(usual=2),
    "__Field.args": ListSize(usual=1),
    "__Schema.directives": ListSize(usual=8),
    "__Schema.types": ListSize(usual=60),
    "__Type.enumValues": ListSize(usual=3),
    "__Type.fields": ListSize(usual=8),
    "__Type.inputFields": ListSize(usual=3),
    "__Type.interfaces": ListSize(usual=1),
    "__Type.possibleTypes": ListSize(usual=1),
}
"""All other lists of objects; a test compares them with the schema."""

LOOKUPS = frozenset(
    {
        *(f"Query.{name}" for name in ("availability", "diff", "export", "query", "search")),
        *(f"Mutation.{name}" for name in ("cancel", "prepare")),
        *(f"SearchResult.{name}" for name in ("asOf", "checksum", "citation", "facets", "files", "sky", "timeline")),
        "SearchResult.totalCount",
        *(f"Diff.{name}" for name in ("added", "edges", "nodes", "pageInfo", "removed", "replaced")),
        "Export.progress",
        *(f"PageInfo.{name}" for name in ("hasNextPage", "hasPreviousPage")),
        *(f"Subscription.{name}" for name in ("exportProgress", "revisions")),
    }
)
"""Fields that may cost a statement of the database or an exchange with Redis."""


# --- sizes ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True, slots=True)
class AskedSize:
    """The length of a list that variables decide."""

    variables: tuple[str, ...]
    least: int
    """What is asked for without them."""
    usual: int
    most: int

    def of(self, variables: Mapping[str, Any]) -> int:
        """Return the length for the variables of one request."""
        asked = [_clamp(variables.get(name), usual=self.usual, most=self.most) for name in self.variables]
        return max([self.least, *asked])


Size: TypeAlias = int | AskedSize


def _clamp(value: Any, *, usual: int, most: int) -> int:
    """Return the length that an argument asks for; what cannot be used is refused later, and is the most till then."""
    if value is None:
        return usual
    number = len(value) if isinstance(value, Sequence) and not isinstance(value, str) else value
    return min(max(number, 0), most) if isinstance(number, int) and not isinstance(number, bool) else most


def _literal(node: ValueNode | None) -> Any:
    """Return as much of a literal as says how long a list may be."""
    if isinstance(node, IntValueNode):
        return int(node.value)
    if isinstance(node, ListValueNode):
        return node.values
    return None if node is None or isinstance(node, NullValueNode) else node


def size_of(node: FieldNode, size: ListSize) -> Size:
    """Return how long the list of a field may be."""
    given = [argument.value for argument in node.arguments or () if argument.name.value in size.arguments]
    variables = tuple(value.name.value for value in given if isinstance(value, VariableNode))
    literals = [value for value in given if not isinstance(value, VariableNode | NullValueNode)]
    known = [_clamp(_literal(value), usual=size.usual, most=size.most) for value in literals]
    if not variables:
        return max(known, default=size.usual)
    return AskedSize(variables=variables, least=max(known, default=0), usual=size.usual, most=size.most)


# --- the reckoning ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Term:
    """A list whose length variables decide: as many times what an earlier step gave."""

    size: AskedSize
    step: int


@dataclass(slots=True)
class Amount:
    """A number of values: a constant, and lists whose length is not known yet."""

    constant: int = 0
    terms: list[Term] = field(default_factory=list)

    def add(self, other: "Amount") -> None:
        """Add another amount."""
        self.constant += other.constant
        self.terms += other.terms


@dataclass(kw_only=True, slots=True)
class SetCost:
    """What a selection set costs."""

    once: Amount = field(default_factory=Amount)
    per_item: Amount = field(default_factory=Amount)
    """What each item costs of the lists whose length the arguments of the field above say."""
    lookups: int = 0


FREE = SetCost()


@dataclass(frozen=True, kw_only=True, slots=True)
class OperationCost:
    """How to reckon what an operation costs."""

    lookups: int
    defaults: Mapping[str, Any]
    """Values of variables that are not given, if the document has some."""
    steps: Sequence[Amount]
    """The last one is the whole; each needs only those before it."""

    def of(self, variables: Mapping[str, Any]) -> int:
        """Return the cost for the variables of one request."""
        if len(self.steps) == 1:
            return self.steps[0].constant
        values = {**self.defaults, **variables}
        found: list[int] = []
        for step in self.steps:
            found.append(step.constant + sum(term.size.of(values) * found[term.step] for term in step.terms))
        return found[-1]


class _Costing:
    """Turns the selection sets of a valid document into reckonings, each once."""

    def __init__(self, schema: GraphQLSchema, document: DocumentNode) -> None:
        self._anatomy = Anatomy(document)
        self._names = _FieldNames(schema, document).found
        self._steps: list[Amount] = []

    def operations(self) -> Iterator[tuple[OperationDefinitionNode, OperationCost]]:
        found: dict[int, SetCost] = {}
        for owner in self._anatomy.from_below():
            found[id(owner)] = self._cost(owner, found)
        for operation in self._anatomy.operations:
            cost = found[id(operation)]
            steps = [*self._steps, cost.once] if cost.once.terms else [cost.once]
            yield (
                operation,
                OperationCost(lookups=cost.lookups, defaults=_defaults(operation), steps=steps),
            )

    def _cost(self, owner: Owner, found: Mapping[int, SetCost]) -> SetCost:
        selections = self._anatomy.selections_of(owner)
        one = SetCost()
        for node in selections.fields:
            self._add_field(one, node, found.get(id(node), FREE))
        for name in selections.spreads:
            fragment = found[id(self._anatomy.fragments[name])]
            one.once.add(fragment.once)
            one.per_item.add(fragment.per_item)
            one.lookups += fragment.lookups
        return one

    def _add_field(self, to: SetCost, node: FieldNode, within: SetCost) -> None:
        name = self._names.get(id(node), "")
        each = Amount(1 + within.once.constant, list(within.once.terms))
        if name in CONNECTIONS:
            each.add(self._times(size_of(node, CONNECTIONS[name]), within.per_item))
        if name in LISTS:
            each = self._times(size_of(node, LISTS[name]), each)
        (to.per_item if name in PAGED else to.once).add(each)
        to.lookups += (name in LOOKUPS) + within.lookups

    def _times(self, size: Size, amount: Amount) -> Amount:
        if isinstance(size, int) and not amount.terms:
            return Amount(size * amount.constant)
        if isinstance(size, int):
            size = AskedSize(variables=(), least=size, usual=size, most=size)
        self._steps.append(amount)
        return Amount(0, [Term(size, len(self._steps) - 1)])


class _FieldNames(Visitor):
    """Finds the `Type.field` of every field of a document."""

    def __init__(self, schema: GraphQLSchema, document: DocumentNode) -> None:
        super().__init__()
        self._types = TypeInfo(schema)
        self.found: dict[int, str] = {}
        visit(document, TypeInfoVisitor(self._types, self))

    def enter_field(self, node: FieldNode, *_args: Any) -> None:
        parent = self._types.get_parent_type()
        if parent is not None:
            self.found[id(node)] = f"{parent.name}.{node.name.value}"


def _defaults(operation: OperationDefinitionNode) -> dict[str, Any]:
    definitions = operation.variable_definitions or ()
    return {one.variable.name.value: _literal(one.default_value) for one in definitions if one.default_value}


def find_costs(schema: GraphQLSchema, document: DocumentNode) -> dict[int, OperationCost]:
    """Return how to reckon the cost of each operation of a valid document, by `id` of its node."""
    return {id(operation): cost for operation, cost in _Costing(schema, document).operations()}
