"""Random GraphQL operations, made from a schema: what can be selected, with aliases, fragments, directives, variables.

All of them are valid: a key stands for the same field with the same arguments wherever it is used, so that selections
of it can be merged.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from graphql import (
    GraphQLArgument,
    GraphQLField,
    GraphQLInputType,
    GraphQLObjectType,
    GraphQLSchema,
    get_named_type,
    is_enum_type,
    is_input_object_type,
    is_list_type,
    is_non_null_type,
    is_object_type,
    is_required_argument,
)
from hypothesis import strategies as st

Values = Mapping[tuple[str, str], st.SearchStrategy[Any]]
"""Field and argument → JSON values to give it; enums by their names."""

USUAL: Mapping[str, st.SearchStrategy[Any]] = {
    "Int": st.integers(1, 5),
    "Float": st.sampled_from([0.0, 1.5, 7200.0]),
    "Boolean": st.booleans(),
}
"""Values of arguments about which nothing is said, by their type."""


@dataclass(frozen=True, kw_only=True)
class Asked:
    """An operation, ready to be executed."""

    document: str
    variables: dict[str, Any]


@dataclass(kw_only=True)
class _Making:
    draw: Callable[[st.SearchStrategy[Any]], Any]
    schema: GraphQLSchema
    values: Values
    without: frozenset[str]
    often: Mapping[str, int]
    """Type and field, with a dot between them → how many times as often as others it is selected."""
    declared: dict[str, str] = field(default_factory=dict)
    """Variable → its type, and its default."""
    variables: dict[str, Any] = field(default_factory=dict)
    fragments: list[str] = field(default_factory=list)
    keys: dict[tuple[str, str], str] = field(default_factory=dict)
    """Type and key → the field with its arguments that it stands for."""
    budget: int = 60
    """Fields that may still be selected."""

    def chance(self, one_in: int) -> bool:
        return bool(self.draw(st.integers(0, one_in - 1)) == one_in - 1)

    # --- selections ----------------------------------------------------------------------------------------------

    def selection_set(self, kind: GraphQLObjectType, *, depth: int = 0, names: Sequence[str] = ()) -> str:
        known = [
            name
            for name in names or kind.fields
            for _ in range(self.often.get(f"{kind.name}.{name}", 1))
            if f"{kind.name}.{name}" not in self.without
        ]
        n = self.draw(st.integers(1, 5))
        parts = [self.selection(kind, known, depth) for _ in range(n)]
        return "{ " + " ".join(parts) + " }"

    def selection(self, kind: GraphQLObjectType, names: Sequence[str], depth: int) -> str:
        self.budget -= 1
        if depth < 6 and self.budget > 0 and self.chance(6):
            return self.fragment(kind, names, depth)
        if self.budget <= 0 or self.chance(9):
            return self.keyed(kind, "__typename", "") + self.directives()
        name = self.draw(st.sampled_from(names))
        known = kind.fields[name]
        text = self.keyed(kind, name, self.arguments(name, known)) + self.directives()
        inner = get_named_type(known.type)
        return f"{text} {self.selection_set(inner, depth=depth + 1)}" if is_object_type(inner) else text

    def keyed(self, kind: GraphQLObjectType, name: str, arguments: str) -> str:
        """Return a field with a key that is not taken by another."""
        wanted = self.draw(st.sampled_from([name, name, "a", "b"])) if self.chance(3) else name
        stands_for = f"{name}{arguments}"
        while self.keys.setdefault((kind.name, wanted), stands_for) != stands_for:
            wanted += "x"
        return stands_for if wanted == name else f"{wanted}: {stands_for}"

    def fragment(self, kind: GraphQLObjectType, names: Sequence[str], depth: int) -> str:
        inner = (
            "{ " + " ".join(self.selection(kind, names, depth + 1) for _ in range(self.draw(st.integers(1, 3)))) + " }"
        )
        how = self.draw(st.integers(0, 2))
        if how == 2:
            name = f"F{len(self.fragments)}"
            self.fragments.append(f"fragment {name} on {kind.name} {inner}")
            return f"...{name}{self.directives()}"
        return f"...{f' on {kind.name}' if how else ''}{self.directives()} {inner}"

    def directives(self) -> str:
        if not self.chance(6):
            return ""
        name, value = self.draw(
            st.sampled_from([("skip", False), ("include", True), ("skip", True), ("include", False)])
        )
        text = self.variable("Boolean!", value) if self.chance(2) else json.dumps(value)
        return f" @{name}(if: {text})"

    # --- arguments -----------------------------------------------------------------------------------------------

    def arguments(self, field_name: str, known: GraphQLField) -> str:
        given = []
        for name, argument in known.args.items():
            if (field_name, name) not in self.values and get_named_type(argument.type).name not in USUAL:
                continue
            if is_required_argument(argument) or self.chance(3):
                given.append(f"{name}: {self.argument(field_name, name, argument)}")
        return f"({', '.join(given)})" if given else ""

    def argument(self, field_name: str, name: str, argument: GraphQLArgument) -> str:
        usual = USUAL.get(get_named_type(argument.type).name, st.none())
        value = self.draw(self.values.get((field_name, name), usual))
        return self.variable(str(argument.type), value) if self.chance(3) else self.literal(argument.type, value)

    def variable(self, kind: str, value: Any) -> str:
        name = f"v{len(self.declared)}"
        if value is not None and not kind.endswith("!") and isinstance(value, int | bool) and self.chance(4):
            self.declared[name] = f"{kind} = {json.dumps(value)}"
        else:
            self.declared[name] = kind
            self.variables[name] = value
        return f"${name}"

    def literal(self, kind: GraphQLInputType, value: Any) -> str:
        if is_non_null_type(kind):
            return self.literal(kind.of_type, value)
        if value is None:
            return "null"
        if is_list_type(kind):
            return f"[{', '.join(self.literal(kind.of_type, item) for item in value)}]"
        if is_input_object_type(kind):
            return (
                "{"
                + ", ".join(f"{name}: {self.member(kind.fields[name].type, item)}" for name, item in value.items())
                + "}"
            )
        return str(value) if is_enum_type(kind) else json.dumps(value)

    def member(self, kind: GraphQLInputType, value: Any) -> str:
        return self.variable(str(kind), value) if self.chance(5) else self.literal(kind, value)


def operations(
    schema: GraphQLSchema,
    *,
    roots: Sequence[str],
    values: Values,
    often: Mapping[str, int],
    without: Sequence[str] = (),
) -> st.SearchStrategy[Asked]:
    """Return questions that begin with some of the root fields `roots`.

    Parameters
    ----------
    often
        Type and field, with a dot between them → how many times as often as others it is selected.
    without
        Fields not to be selected, spelled in the same way.
    """

    @st.composite
    def asked(draw: st.DrawFn) -> Asked:
        root = schema.query_type
        assert root is not None
        making = _Making(draw=draw, schema=schema, values=values, without=frozenset(without), often=often)
        text = making.selection_set(root, names=roots)
        declared = ", ".join(f"${name}: {kind}" for name, kind in making.declared.items())
        head = f"query Q({declared}) " if declared else ""
        return Asked(document="\n".join([head + text, *making.fragments]), variables=making.variables)

    return asked()
