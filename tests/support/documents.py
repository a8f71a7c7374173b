"""Generated GraphQL documents, kept as a tree too, so that tests can measure them in the plainest way."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from graphql import GraphQLEnumType, GraphQLObjectType, GraphQLSchema, get_named_type
from hypothesis import strategies as st


@dataclass
class Field:
    parent: str
    name: str
    arguments: Mapping[str, str]
    alias: str | None = None
    directives: int = 0
    children: "list[Selection]" = field(default_factory=list)

    def __str__(self) -> str:
        told = f"{self.alias}: {self.name}" if self.alias else self.name
        if self.arguments:
            told += f"({', '.join(f'{name}: {value}' for name, value in self.arguments.items())})"
        return f"{told}{' @include(if: true)' * self.directives}{braced(self.children) if self.children else ''}"


@dataclass
class Inline:
    type: str | None
    directives: int
    children: "list[Selection]"

    def __str__(self) -> str:
        on = f" on {self.type}" if self.type else ""
        return f"...{on}{' @skip(if: false)' * self.directives}{braced(self.children)}"


@dataclass
class Spread:
    fragment: "Fragment"
    directives: int

    def __str__(self) -> str:
        return f"...{self.fragment.name}{' @include(if: true)' * self.directives}"


@dataclass
class Fragment:
    name: str
    type: str
    children: "list[Selection]"

    def __str__(self) -> str:
        return f"fragment {self.name} on {self.type} {braced(self.children)}"


Selection: TypeAlias = Field | Inline | Spread


@dataclass
class Document:
    children: list[Selection]
    """What is asked of the root."""
    fragments: list[Fragment]
    defaults: Mapping[str, str]
    """Variables, with their default in the document or an empty text."""

    def __str__(self) -> str:
        declared = ", ".join(
            f"${name}: Int{f' = {default}' if default else ''}" for name, default in self.defaults.items()
        )
        head = f"query Q({declared})" if declared else "query Q"
        return "\n".join([f"{head} {braced(self.children)}", *map(str, self.fragments)])


def braced(selections: list[Selection]) -> str:
    return f" {{ {' '.join(map(str, selections))} }}"


def opened(selections: list[Selection]) -> Iterator[Field]:
    """Yield the fields of a selection set, as if every fragment stood where it is spread."""
    for one in selections:
        if isinstance(one, Field):
            yield one
        elif isinstance(one, Spread):
            yield from opened(one.fragment.children)
        else:
            yield from opened(one.children)


def count_directives(selections: list[Selection]) -> int:
    total = 0
    for one in selections:
        within = one.fragment.children if isinstance(one, Spread) else one.children
        total += one.directives + count_directives(within)
    return total


VARIABLES = ("a", "b", "c")


@st.composite
def documents(draw: st.DrawFn, schema: GraphQLSchema, *, sizes: tuple[str, ...] = ()) -> Document:
    """Draw a query with fragments; arguments named in `sizes` are numbers or variables."""
    fragments: list[Fragment] = []
    types = [kind for kind in schema.type_map.values() if isinstance(kind, GraphQLObjectType)]
    reachable = [kind for kind in types if not kind.name.startswith("__") and kind.name != "Mutation"]
    for number in range(draw(st.integers(0, 4))):
        kind = draw(st.sampled_from(reachable))
        children = draw(selections(kind, fragments, sizes, 3))
        fragments.append(Fragment(f"F{number}", kind.name, children))
    root = schema.query_type
    assert root is not None
    asked = draw(selections(root, fragments, sizes, 4))
    defaults = {name: draw(st.sampled_from(["", "", "7", "null"])) for name in VARIABLES}
    return Document(asked, fragments, defaults)


@st.composite
def selections(
    draw: st.DrawFn, kind: GraphQLObjectType, fragments: list[Fragment], sizes: tuple[str, ...], depth: int
) -> list[Selection]:
    usable = [one for one in fragments if one.type == kind.name]
    found: list[Selection] = []
    for _ in range(draw(st.integers(1, 3))):
        choice = draw(st.integers(0, 9))
        directives = draw(st.sampled_from([0, 0, 0, 1, 2]))
        if choice < 2 and usable:
            found.append(Spread(draw(st.sampled_from(usable)), directives))
        elif choice < 3 and depth > 0:
            on = draw(st.sampled_from([None, kind.name]))
            found.append(Inline(on, directives, draw(selections(kind, fragments, sizes, depth - 1))))
        else:
            found.append(draw(fields(kind, fragments, sizes, depth, directives)))
    return found


@st.composite
def fields(
    draw: st.DrawFn,
    kind: GraphQLObjectType,
    fragments: list[Fragment],
    sizes: tuple[str, ...],
    depth: int,
    directives: int,
) -> Field:
    deep = {name: get_named_type(one.type) for name, one in kind.fields.items()}
    usable = [name for name, within in deep.items() if depth > 0 or not isinstance(within, GraphQLObjectType)]
    if not usable:
        return Field(kind.name, "__typename", {}, directives=directives)
    # What nests is what fragments and lists multiply.
    nesting = [name for name in usable if isinstance(deep[name], GraphQLObjectType)]
    name = draw(st.sampled_from(nesting) if nesting and draw(st.booleans()) else st.sampled_from(usable))
    arguments: dict[str, str] = {}
    for argument, described in kind.fields[name].args.items():
        if argument in sizes and draw(st.booleans()):
            arguments[argument] = draw(argument_values(get_named_type(described.type)))
    within = deep[name]
    children = draw(selections(within, fragments, sizes, depth - 1)) if isinstance(within, GraphQLObjectType) else []
    alias = draw(st.sampled_from([None, None, "x", "y"]))
    return Field(kind.name, name, arguments, alias, directives, children)


@st.composite
def argument_values(draw: st.DrawFn, kind: Any) -> str:
    if isinstance(kind, GraphQLEnumType):
        return f"[{', '.join(draw(st.lists(st.sampled_from(sorted(kind.values)), max_size=20)))}]"
    literals = st.integers(0, 2000).map(str)
    return draw(st.one_of(literals, st.sampled_from([f"${name}" for name in VARIABLES]), st.just("null")))
