"""What one request may hold, decided before anything of it is executed.

A document is measured between parsing and validation, because some rules of GraphQL compare every field with every
other. Fragments make documents that are short to write and endless to carry out: 30 fragments that each spread the next
one twice stand for a thousand million fields. So each selection set is measured once, from the measures of what it
holds, and the work is in proportion to the length of the text.

What an operation costs depends on its variables, and is reckoned in `aggregator.api.cost`.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from graphql import (
    DirectiveNode,
    DocumentNode,
    FieldNode,
    FragmentDefinitionNode,
    FragmentSpreadNode,
    GraphQLSyntaxError,
    InlineFragmentNode,
    OperationDefinitionNode,
    SelectionSetNode,
    parse,
)
from graphql.language.parser import MAX_NESTING_DEPTH

from aggregator.api.errors import LimitExceededError

INTROSPECTION_FIELDS = ("__schema", "__type")
"""Root fields that tell of the schema. They nest deeper than questions, in programs that nobody here can change."""

INTROSPECTION_LISTS = ("fields", "inputFields", "interfaces", "possibleTypes")
"""Fields of a type that lead to further types."""

Owner: TypeAlias = OperationDefinitionNode | FragmentDefinitionNode | FieldNode
"""What a selection set belongs to."""


def _limit(allowed: int, meaning: str) -> Any:
    return field(default=allowed, metadata={"meaning": meaning})


@dataclass(frozen=True, kw_only=True, slots=True)
class Limits:
    """The most of everything; the table in `docs/graphql.md` is compared with this class by a test.

    What counts fields counts them as if every fragment stood where it is spread.
    """

    characters: int = _limit(50_000, "length of a document, in characters")
    tokens: int = _limit(1_000, "names, values, signs and comments of a document")
    nesting: int = _limit(MAX_NESTING_DEPTH, "brackets within brackets of a document")
    operations: int = _limit(10, "operations in a document")
    depth: int = _limit(12, "fields within fields, down from the root")
    fields: int = _limit(1_000, "fields of an operation")
    breadth: int = _limit(100, "fields side by side")
    root_fields: int = _limit(20, "fields side by side at the root")
    repetitions: int = _limit(5_000, "pairs of fields of one name, or alias, that fall together")
    aliases: int = _limit(30, "aliases of an operation")
    directives: int = _limit(30, "directives of an operation")
    introspection_depth: int = _limit(20, "fields within `__schema` or `__type`, down from them")
    introspection_lists: int = _limit(
        2, f"lists within lists of {', '.join(f'`{name}`' for name in INTROSPECTION_LISTS)} of types"
    )
    variables: int = _limit(50, "variables that are declared, or given")
    variable_values: int = _limit(10_000, "values within all variables together")
    variable_depth: int = _limit(20, "lists and objects within each other in a variable")
    lookups: int = _limit(30, "fields of an operation that may look into the catalogue")
    cost: int = _limit(100_000, "values that the answer may hold, by the page sizes asked for")


# --- documents ----------------------------------------------------------------------------------------------------


def parse_within(text: str, limits: Limits) -> DocumentNode:
    """Parse a document, or stop at once when it is too long.

    Raises
    ------
    LimitExceededError
        It is too long, or too deep for a parser.
    GraphQLSyntaxError
        It is no GraphQL.
    """
    require("characters", len(text), limits.characters)
    try:
        return parse(text, max_lexical_tokens=limits.tokens, max_comments=limits.tokens)
    except GraphQLSyntaxError as error:
        # The parser has no other way to say why it stopped.
        if error.message.startswith(f"Syntax Error: Document contains more than {limits.tokens} "):
            raise LimitExceededError("tokens", None, limits.tokens) from error
        if error.message == "Syntax Error: Document is nested too deeply. Parsing aborted.":
            raise LimitExceededError("nesting", None, limits.nesting) from error
        raise


@dataclass(frozen=True, kw_only=True, slots=True)
class Selections:
    """What a selection set holds, inline fragments opened."""

    fields: tuple[FieldNode, ...]
    spreads: tuple[str, ...]
    directives: int
    """Directives on anything in it, but not within its fields."""

    @classmethod
    def of(cls, selection_set: SelectionSetNode) -> "Selections":
        """Return what a selection set holds."""
        found: list[FieldNode] = []
        spreads: list[str] = []
        directives = 0
        waiting = list(reversed(selection_set.selections))
        while waiting:
            selection = waiting.pop()
            directives += len(selection.directives or ())
            if isinstance(selection, FieldNode):
                found.append(selection)
            elif isinstance(selection, FragmentSpreadNode):
                spreads.append(selection.name.value)
            elif isinstance(selection, InlineFragmentNode):
                waiting += reversed(selection.selection_set.selections)
        return cls(fields=tuple(found), spreads=tuple(spreads), directives=directives)


class Anatomy:
    """A document taken apart into its selection sets."""

    def __init__(self, document: DocumentNode) -> None:
        definitions = document.definitions
        self.operations = [node for node in definitions if isinstance(node, OperationDefinitionNode)]
        self.fragments = {node.name.value: node for node in definitions if isinstance(node, FragmentDefinitionNode)}
        self._selections: dict[int, Selections] = {}

    def selections_of(self, owner: Owner) -> Selections:
        """Return what the selection set of `owner` holds."""
        found = self._selections.get(id(owner))
        if found is None:
            found = Selections.of(owner.selection_set or SelectionSetNode(selections=()))
            self._selections[id(owner)] = found
        return found

    def parts_of(self, owner: Owner) -> Iterator[Owner]:
        """Yield the owners of the selection sets within that of `owner`: fields and fragments."""
        selections = self.selections_of(owner)
        yield from (node for node in selections.fields if node.selection_set is not None)
        yield from (self.fragments[name] for name in selections.spreads if name in self.fragments)

    def from_below(self) -> Iterator[Owner]:
        """Yield every owner of a selection set once, after all that are within it.

        In a cycle of fragments, which the validation refuses, one comes before what it holds.
        """
        begun: set[int] = set()
        roots: list[Owner] = [*self.operations, *self.fragments.values()]
        for root in roots:
            # No recursion: a chain of fragments may be longer than Python's stack.
            path: list[tuple[Owner, Iterator[Owner]]] = []
            if id(root) not in begun:
                path.append((root, self.parts_of(root)))
            begun.add(id(root))
            while path:
                owner, parts = path[-1]
                part = next((part for part in parts if id(part) not in begun), None)
                if part is None:
                    path.pop()
                    yield owner
                else:
                    begun.add(id(part))
                    path.append((part, self.parts_of(part)))


@dataclass(kw_only=True, slots=True)
class Measure:
    """How large a selection set is, with everything that is within it."""

    depth: int = 0
    fields: int = 0
    breadth: int = 0
    """Fields of this set."""
    widest: int = 0
    """Fields of the set, this or one within it, that has the most."""
    aliases: int = 0
    directives: int = 0
    introspection_depth: int = 0
    introspection_lists: int = 0

    def add_field(self, node: FieldNode, within: "Measure") -> None:
        """Take in a field and what is within it."""
        name = node.name.value
        if name in INTROSPECTION_FIELDS:
            self.depth = max(self.depth, 1)
            self.introspection_depth = max(self.introspection_depth, within.depth)
            self.introspection_lists = max(self.introspection_lists, within.introspection_lists)
        else:
            self.depth = max(self.depth, 1 + within.depth)
            self.introspection_depth = max(self.introspection_depth, within.introspection_depth)
            lists = within.introspection_lists + (name in INTROSPECTION_LISTS)
            self.introspection_lists = max(self.introspection_lists, lists)
        self.breadth += 1
        self.fields += 1 + within.fields
        self.widest = max(self.widest, within.widest)
        self.aliases += (node.alias is not None) + within.aliases
        self.directives += within.directives

    def add_fragment(self, within: "Measure") -> None:
        """Take in a fragment where it is spread."""
        self.depth = max(self.depth, within.depth)
        self.introspection_depth = max(self.introspection_depth, within.introspection_depth)
        self.introspection_lists = max(self.introspection_lists, within.introspection_lists)
        self.breadth += within.breadth
        self.fields += within.fields
        self.widest = max(self.widest, within.widest)
        self.aliases += within.aliases
        self.directives += within.directives


NOTHING = Measure()


def measure(anatomy: Anatomy) -> dict[int, Measure]:
    """Return the measure of every selection set, by `id` of its owner."""
    found: dict[int, Measure] = {}
    for owner in anatomy.from_below():
        selections = anatomy.selections_of(owner)
        one = Measure(directives=selections.directives)
        if not isinstance(owner, FieldNode):
            one.directives += _count_own_directives(owner)
        for node in selections.fields:
            one.add_field(node, found.get(id(node), NOTHING))
        for name in selections.spreads:
            one.add_fragment(found.get(id(anatomy.fragments.get(name)), NOTHING))
        one.widest = max(one.widest, one.breadth)
        found[id(owner)] = one
    return found


def _count_own_directives(definition: OperationDefinitionNode | FragmentDefinitionNode) -> int:
    directives: list[DirectiveNode] = list(definition.directives or ())
    for variable in definition.variable_definitions or ():
        directives += variable.directives or ()
    return len(directives)


_OF_OPERATIONS: Mapping[str, Callable[[Measure], int]] = {
    "depth": lambda one: one.depth,
    "root_fields": lambda one: one.breadth,
    "introspection_depth": lambda one: one.introspection_depth,
    "introspection_lists": lambda one: one.introspection_lists,
}
_OF_ALL: Mapping[str, Callable[[Measure], int]] = {
    "fields": lambda one: one.fields,
    "breadth": lambda one: one.widest,
    "aliases": lambda one: one.aliases,
    "directives": lambda one: one.directives,
}
"""What also holds for fragments that are spread nowhere: they are validated all the same."""


def find_excesses(document: DocumentNode, limits: Limits) -> list[LimitExceededError]:
    """Return the limits that a document exceeds, whatever its variables are."""
    anatomy = Anatomy(document)
    measures = measure(anatomy)
    operations = [measures[id(node)] for node in anatomy.operations]
    everything = [*operations, *(measures[id(node)] for node in anatomy.fragments.values())]
    found = {name: max(map(of, operations), default=0) for name, of in _OF_OPERATIONS.items()}
    found |= {name: max(map(of, everything), default=0) for name, of in _OF_ALL.items()}
    found["operations"] = len(anatomy.operations)
    found["variables"] = max((len(node.variable_definitions or ()) for node in anatomy.operations), default=0)
    # These are counted field by field, which must not be too many.
    return find_over(found, limits) or find_over({"repetitions": count_repetitions(anatomy)}, limits)


def count_repetitions(anatomy: Anatomy) -> int:
    """Return how many pairs of fields are to be merged into one: the validation compares each pair."""
    total = 0
    roots: list[Owner] = [*anatomy.operations, *anatomy.fragments.values()]
    waiting = [[root] for root in roots]
    while waiting:
        together: dict[str, list[FieldNode]] = {}
        for node in _fields_of(waiting.pop(), anatomy):
            together.setdefault((node.alias or node.name).value, []).append(node)
        for nodes in together.values():
            total += len(nodes) * (len(nodes) - 1) // 2
            within: list[Owner] = [node for node in nodes if node.selection_set is not None]
            if within:
                waiting.append(within)
    return total


def _fields_of(owners: Sequence[Owner], anatomy: Anatomy) -> Iterator[FieldNode]:
    """Yield the fields of selection sets that fall together; a fragment that is spread twice is there once."""
    spread: set[str] = set()
    reading = [anatomy.selections_of(owner) for owner in owners]
    while reading:
        selections = reading.pop()
        yield from selections.fields
        for name in selections.spreads:
            if name not in spread and name in anatomy.fragments:
                spread.add(name)
                reading.append(anatomy.selections_of(anatomy.fragments[name]))


# --- variables ----------------------------------------------------------------------------------------------------


def find_variable_excesses(variables: Mapping[str, Any], limits: Limits) -> list[LimitExceededError]:
    """Return the limits that the variables of an operation exceed."""
    values, depth = measure_values(variables.values(), limits)
    return find_over({"variables": len(variables), "variable_values": values, "variable_depth": depth}, limits)


def measure_values(given: Iterable[Any], limits: Limits) -> tuple[int, int]:
    """Return how many values there are, and how deep they nest; no more is looked at than is allowed and one."""
    count, deepest = 0, 0
    waiting = [(value, 0) for value in given]
    while waiting and count <= limits.variable_values and deepest <= limits.variable_depth:
        value, depth = waiting.pop()
        count += 1
        if isinstance(value, Mapping | list):
            deepest = max(deepest, depth + 1)
            within = value.values() if isinstance(value, Mapping) else value
            waiting += [(part, depth + 1) for part in within]
    return count, deepest


# --- the outcome --------------------------------------------------------------------------------------------------


def require(name: str, value: int, allowed: int) -> None:
    """Raise when there is more of something than is allowed."""
    if value > allowed:
        raise LimitExceededError(told_name(name), value, allowed)


def find_over(found: Mapping[str, int], limits: Limits) -> list[LimitExceededError]:
    """Return those of some numbers, by the name of their limit, that are larger than allowed."""
    return [
        LimitExceededError(told_name(name), value, getattr(limits, name))
        for name, value in found.items()
        if value > getattr(limits, name)
    ]


def told_name(name: str) -> str:
    """Return the name of a limit as users see it, in the spelling of the schema."""
    first, *others = name.split("_")
    return first + "".join(other.capitalize() for other in others)
