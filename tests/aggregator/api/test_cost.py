"""What an operation may cost is known from its text and variables, before it is executed."""

import inspect
from typing import Any

import pytest
from graphql import (
    GraphQLInterfaceType,
    GraphQLList,
    GraphQLNonNull,
    GraphQLObjectType,
    GraphQLUnionType,
    get_named_type,
    introspection_types,
    parse,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from aggregator.api import cost
from aggregator.api.cost import CONNECTIONS, LISTS, LOOKUPS, PAGED, find_costs
from aggregator.api.errors import LimitExceededError
from aggregator.api.execution import Executor, Operation
from aggregator.api.limits import Limits
from aggregator.api.schema import create_schema
from tests.support.documents import Document, Field, Selection, documents, opened

STRAWBERRY = create_schema()
SCHEMA = STRAWBERRY._schema
SIZES = ("first", "last", "longest", "by")


def cost_of(text: str, **variables: Any) -> int:
    (found,) = find_costs(SCHEMA, parse(text)).values()
    return found.of(variables)


# --- the tables are those of the schema -----------------------------------------------------------------------------


def object_types() -> dict[str, GraphQLObjectType]:
    known = {**SCHEMA.type_map, **introspection_types}
    return {name: kind for name, kind in known.items() if isinstance(kind, GraphQLObjectType)}


def is_list(kind: Any) -> bool:
    return isinstance(kind.of_type if isinstance(kind, GraphQLNonNull) else kind, GraphQLList)


def test_every_list_of_objects_has_a_size() -> None:
    lists = {
        f"{kind.name}.{name}"
        for kind in object_types().values()
        for name, one in kind.fields.items()
        if is_list(one.type) and isinstance(get_named_type(one.type), GraphQLObjectType)
    }
    assert lists == {*LISTS, *PAGED}


def test_every_argument_that_sizes_a_list_is_one_of_its_field() -> None:
    for name, size in {**CONNECTIONS, **LISTS}.items():
        kind, _, field = name.partition(".")
        # Pages are sized from either end, where a field has both.
        missing = set(size.arguments) - {"last"} - set(object_types()[kind].fields[field].args)
        assert not missing, name


def test_fragments_have_one_type_because_there_are_no_abstract_ones() -> None:
    assert not [kind for kind in SCHEMA.type_map.values() if isinstance(kind, GraphQLInterfaceType | GraphQLUnionType)]


WITHOUT_LOOKUP = {
    *(f"Query.{name}" for name in ("attributes", "clusters", "dataAuthorities", "dataChannels", "detectors")),
    "Query.facilities",
    "Query.storages",
    "Facility.revision",
}
"""Fields that wait for something: only for the vocabulary and the revisions, which are kept in memory."""


def test_every_field_that_waits_for_something_counts_as_a_look_up() -> None:
    waiting = set()
    for kind in STRAWBERRY.schema_converter.type_map.values():
        for field in getattr(kind.definition, "fields", ()):
            resolver = getattr(field, "base_resolver", None)
            if resolver is not None and inspect.iscoroutinefunction(resolver.wrapped_func):
                waiting.add(f"{kind.definition.name}.{STRAWBERRY.config.name_converter.get_graphql_name(field)}")
    assert waiting <= LOOKUPS | WITHOUT_LOOKUP
    assert {f"{kind.name}.{name}" for kind in object_types().values() for name in kind.fields} >= LOOKUPS


# --- the reckoning is that of the document with its fragments put in ------------------------------------------------


def naive(selections: list[Selection], document: Document, variables: dict[str, Any], page: int | None = None) -> int:
    total = 0
    for one in opened(selections):
        name = f"{one.parent}.{one.name}"
        inner_page = asked(one, CONNECTIONS[name], document, variables) if name in CONNECTIONS else None
        number = 1 + naive(one.children, document, variables, inner_page)
        if name in LISTS:
            number *= asked(one, LISTS[name], document, variables)
        if name in PAGED:
            number *= page or 0
        total += number
    return total


def asked(one: Field, size: cost.ListSize, document: Document, variables: dict[str, Any]) -> int:
    texts = [one.arguments[name] for name in size.arguments if one.arguments.get(name, "null") != "null"]
    found = [number for text in texts if (number := read(text, size, document, variables)) is not None]
    return max(found, default=size.usual)


def read(text: str, size: cost.ListSize, document: Document, variables: dict[str, Any]) -> int | None:
    if text.startswith("["):
        return min(len(text[1:-1].split(", ")) if text != "[]" else 0, size.most)
    if not text.startswith("$"):
        return min(int(text), size.most)
    name = text[1:]
    value = variables[name] if name in variables else {"": None, "null": None}.get(document.defaults[name], 7)
    if value is None:
        return size.usual
    return min(max(value, 0), size.most) if type(value) is int else size.most


values = st.one_of(st.none(), st.integers(-5, 3000), st.integers(), st.booleans(), st.text(max_size=2), st.floats())


@given(documents(SCHEMA, sizes=SIZES), st.dictionaries(st.sampled_from("abc"), values))
@settings(deadline=None)
def test_the_reckoning_gives_what_opening_all_fragments_gives(document: Document, variables: dict[str, Any]) -> None:
    (found,) = find_costs(SCHEMA, parse(str(document))).values()
    assert found.of(variables) == naive(document.children, document, variables)


@given(documents(SCHEMA, sizes=SIZES))
@settings(deadline=None)
def test_look_ups_are_counted_wherever_they_are_spread(document: Document) -> None:
    def count(selections: list[Selection]) -> int:
        return sum((f"{one.parent}.{one.name}" in LOOKUPS) + count(one.children) for one in opened(selections))

    (found,) = find_costs(SCHEMA, parse(str(document))).values()
    assert found.lookups == count(document.children)


FILES = "query ($n: Int) { search(filter: {}) { files(first: $n) { nodes { id path } pageInfo { hasNextPage } } } }"


@pytest.mark.parametrize(
    ("value", "files"),
    [(None, 50), (3, 3), (0, 0), (-1, 0), (10**8, 1000), ("x", 1000)],
)
def test_a_page_costs_as_much_as_its_size_asks_for(value: Any, files: int) -> None:
    assert cost_of(FILES, n=value) == 4 + files * 3


def test_the_reckoning_of_a_question_has_a_few_steps_however_often_it_is_asked() -> None:
    (found,) = find_costs(SCHEMA, parse(FILES)).values()
    assert [len(step.terms) for step in found.steps] == [0, 1]
    (fixed,) = find_costs(SCHEMA, parse("{ facilities { clusters { name } } }")).values()
    assert ([step.constant for step in fixed.steps], fixed.of({})) == ([20 * (1 + 10 * 2)], 20 * (1 + 10 * 2))


def test_what_costs_too_much_is_refused_with_its_variables_and_answered_with_smaller_ones() -> None:
    executor = Executor(STRAWBERRY, limits=Limits(cost=2000))
    assert executor.find_refusals(Operation(document=FILES, variables={"n": 500})) == ()
    (refusal,) = executor.find_refusals(Operation(document=FILES, variables={"n": 900}))
    error = refusal.original_error
    assert isinstance(error, LimitExceededError)
    assert error.facts == {"limit": "cost", "value": 2704, "allowed": 2000}


def test_too_many_look_ups_are_refused_though_they_give_few_values() -> None:
    parts = " ".join(f"a{n}: timeline(bins: {n + 1})" for n in range(30))
    (refusal,) = Executor(STRAWBERRY).find_refusals(Operation(document=f"{{ search(filter: {{}}) {{ {parts} }} }}"))
    assert isinstance(refusal.original_error, LimitExceededError)
    assert refusal.original_error.facts == {"limit": "lookups", "value": 31, "allowed": 30}


def test_the_largest_page_of_whole_files_is_allowed() -> None:
    every = " ".join(
        name if not isinstance(get_named_type(one.type), GraphQLObjectType) else f"{name} {{ kind storage path obsId }}"
        for name, one in object_types()["File"].fields.items()
    )
    document = f"{{ search(filter: {{}}) {{ files(first: 1000) {{ edges {{ cursor node {{ {every} }} }} }} }} }}"
    assert Executor(STRAWBERRY).find_refusals(Operation(document=document)) == ()
