"""What is too large is refused before it is executed, with work in proportion to its text, whatever its fragments."""

from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

import orjson
import pytest
from graphql import GraphQLSyntaxError, get_introspection_query, parse
from hypothesis import given, settings
from hypothesis import strategies as st

from aggregator.api import execution, limits
from aggregator.api.errors import LimitExceededError
from aggregator.api.execution import Executor, Operation
from aggregator.api.limits import (
    INTROSPECTION_FIELDS,
    INTROSPECTION_LISTS,
    Anatomy,
    Limits,
    Measure,
    find_variable_excesses,
    measure,
    measure_values,
    parse_within,
    told_name,
)
from aggregator.api.schema import create_schema
from tests.support.documents import Document, Selection, count_directives, documents, opened

SCHEMA = create_schema()
PAGE = Path(__file__).parents[3] / "docs" / "graphql.md"


@pytest.fixture
def executor() -> Executor:
    return Executor(SCHEMA)


def refusals(executor: Executor, document: str, variables: dict[str, Any] | None = None) -> dict[str, Any]:
    """Return the limits that are told to be exceeded, with what there is."""
    found = executor.find_refusals(Operation(document=document, variables=variables))
    errors = [error.original_error for error in found]
    assert all(isinstance(error, LimitExceededError) for error in errors), found
    return {error.limit: error.value for error in errors if isinstance(error, LimitExceededError)}


# --- the measures are those of the document with its fragments put in -----------------------------------------------


def depth_of(selections: list[Selection]) -> int:
    return max((1 + depth_of(one.children) for one in opened(selections)), default=0)


def naive(selections: list[Selection]) -> Measure:
    """Measure by opening every fragment wherever it is spread."""
    here = list(opened(selections))
    within = [naive(one.children) for one in here]
    return Measure(
        depth=depth_of(selections),
        fields=len(here) + sum(one.fields for one in within),
        breadth=len(here),
        widest=max([len(here), *(one.widest for one in within)]),
        aliases=sum(one.alias is not None for one in here) + sum(one.aliases for one in within),
        directives=count_directives(selections),
    )


@given(documents(SCHEMA._schema))
@settings(deadline=None)
def test_measuring_each_selection_set_once_gives_what_opening_all_fragments_gives(document: Document) -> None:
    node = parse(str(document))
    anatomy = Anatomy(node)
    assert measure(anatomy)[id(anatomy.operations[0])] == naive(document.children)


@pytest.mark.parametrize(
    ("document", "pairs"),
    [
        ("{ a b c }", 0),
        ("{ a a a }", 3),
        ("{ a: x b: x }", 0),
        ("{ a: x a: y }", 1),
        ("{ a { b } a { b } }", 2),
        ("{ a { b b } a { b } }", 1 + 3),
        ("{ a { x } ... { a { x } } }", 2),
        ("{ ...F ...F } fragment F on Query { a }", 0),
        ("{ ...F a } fragment F on Query { a }", 1),
        ("{ ...F } fragment F on Query { a ...G } fragment G on Query { a }", 1 + 1),
        ("{ ...F ...F } fragment F on Query { ...G ...G } fragment G on Query { }", 0),
    ],
)
def test_pairs_of_fields_that_fall_together_are_counted(document: str, pairs: int) -> None:
    assert limits.count_repetitions(Anatomy(parse(document))) == pairs


def test_introspection_is_measured_apart() -> None:
    anatomy = Anatomy(parse("{ facilities { name } __schema { types { fields { type { fields { name } } } } } }"))
    found = measure(anatomy)[id(anatomy.operations[0])]
    assert (found.depth, found.introspection_depth, found.introspection_lists) == (2, 5, 2)
    assert set(INTROSPECTION_FIELDS) == {"__schema", "__type"}
    named = {
        name for kind in SCHEMA._schema.type_map.values() for name in getattr(kind, "fields", ()) if kind.name[0] != "_"
    }
    assert named.isdisjoint(INTROSPECTION_LISTS), "a field of ours would be taken for one of the introspection"


# --- what attacks a service with GraphQL ------------------------------------------------------------------------------


def nested(levels: int, within: str = "name") -> str:
    return "{ a " * levels + "{ " + within + " }" + " }" * levels


def fan_out(levels: int, spread: str) -> str:
    """Return fragments of which each spreads the next one in two ways."""
    chain = [f"fragment F{n} on Query {{ {spread.format(n + 1)} }}" for n in range(levels)]
    return "{ ...F0 } " + " ".join(chain) + f" fragment F{levels} on Query {{ __typename }}"


ATTACKS: dict[str, tuple[str, str]] = {
    "a thousand aliases": ("{ " + " ".join(f"a{n}: __typename" for n in range(300)) + " }", "aliases"),
    "a hundred thousand fields": ("{ " + "__typename " * 100_000 + "}", "characters"),
    "a thousand fields": ("{ " + "__typename " * 900 + "}", "breadth"),
    "a million tokens": ("{" + "a " * 20_000 + "}", "tokens"),
    "comments": ("#\n" * 2000 + "{ __typename }", "tokens"),
    "known directives": ("{ __typename " + "@skip(if: false) " * 100 + "}", "directives"),
    "unknown directives": ("{ __typename " + "@a " * 400 + "}", "directives"),
    "directives of variables": ("query ($a: Int " + "@a " * 400 + ") { __typename }", "directives"),
    "deep selections": (nested(5000), "nesting"),
    "selections deeper than questions": (nested(13), "depth"),
    "deep inline fragments": ("{ ... " * 5000 + "{ __typename }" + " }" * 5000, "nesting"),
    "deep lists": ("{ a(b: " + "[" * 5000 + "]" * 5000 + ") }", "nesting"),
    "deep objects": ("{ a(b: " + "{ c: " * 5000 + "1" + "}" * 5000 + ") }", "nesting"),
    "fragments that double": (fan_out(30, "...F{0} ...F{0}"), "breadth"),
    "fields that double": (fan_out(30, "a: x {{ ...F{0} }} b: x {{ ...F{0} }}"), "fields"),
    "many operations": (" ".join(f"query q{n} {{ __typename }}" for n in range(100)), "operations"),
    "many variables": ("query (" + " ".join(f"$a{n}: Int" for n in range(200)) + ") { __typename }", "variables"),
    "overlapping fields": ("{ " + "a { " + "b " * 400 + "} " + "a { " + "b " * 400 + "} }", "breadth"),
    "fields that fall together": ("{ " + ("search(filter: {}) { " + "cached " * 35 + "} ") * 20 + "}", "repetitions"),
    "fields that fall together by fragments": (
        "{ " + "a { ...A ...B ...C } " * 9 + "} "
        + " ".join(f"fragment {name} on A {{ " + "b " * 33 + "}" for name in "ABC"),
        "repetitions",
    ),
    "circular introspection": (
        "{ __schema { types { fields { type { fields { type { fields { type { name } } } } } } } } }",
        "introspectionLists",
    ),
    "deep introspection": ("{ __schema " + nested(30) + " }", "introspectionDepth"),
    "many questions": (
        "{ " + " ".join(f"a{n}: search(filter: {{}}) {{ cached }}" for n in range(25)) + " }",
        "rootFields",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", ATTACKS)
def test_an_attack_is_refused_before_it_is_validated(
    name: str, executor: Executor, monkeypatch: pytest.MonkeyPatch
) -> None:
    def validated(*_args: Any, **_options: Any) -> list[Any]:
        raise AssertionError("it reached the validation")

    monkeypatch.setattr(execution, "validate", validated)
    document, limit = ATTACKS[name]
    assert limit in refusals(executor, document)


@pytest.mark.parametrize("name", ATTACKS)
def test_every_selection_set_of_an_attack_is_taken_apart_once(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    document = ATTACKS[name][0]
    taken = count_calls(monkeypatch, limits.Selections, "of")
    added = count_calls(monkeypatch, limits.Measure, "add_fragment")
    try:
        node = parse_within(document, Limits())
    except LimitExceededError:
        return
    limits.find_excesses(node, Limits())
    assert taken() <= document.count("{")
    assert added() <= document.count("...")


def count_calls(monkeypatch: pytest.MonkeyPatch, owner: Any, name: str) -> Callable[[], int]:
    calls: list[None] = []
    original = getattr(owner, name)

    def counted(*args: Any) -> Any:
        calls.append(None)
        return original(*args)

    monkeypatch.setattr(
        owner, name, staticmethod(counted) if isinstance(owner.__dict__[name], classmethod) else counted
    )
    return lambda: len(calls)


def test_fragments_in_a_circle_are_measured_and_then_refused_by_the_validation(executor: Executor) -> None:
    document = "{ ...A } fragment A on Query { ...B __typename } fragment B on Query { ...A ...B }"
    (error,) = [error for error in executor.check(document).errors if "Cannot spread fragment 'A'" in error.message]
    assert error.original_error is None


def test_a_chain_of_fragments_longer_than_the_stack_is_no_matter() -> None:
    wide = Limits(tokens=100_000, characters=1_000_000)
    chain = " ".join(f"fragment F{n} on Query {{ ...F{n + 1} }}" for n in range(5000))
    node = parse_within(f"{{ ...F0 }} {chain} fragment F5000 on Query {{ __typename }}", wide)
    assert limits.find_excesses(node, wide) == []


@pytest.mark.parametrize("more", [False, True])
def test_the_usual_introspection_is_answered(executor: Executor, more: bool) -> None:
    document = get_introspection_query(
        specified_by_url=more, directive_is_repeatable=more, schema_description=more, input_value_deprecation=more
    )
    assert executor.find_refusals(Operation(document=document)) == ()


# --- what is told -----------------------------------------------------------------------------------------------------


def test_every_limit_that_is_exceeded_is_told_with_its_numbers(executor: Executor) -> None:
    found = refusals(executor, "{ " + " ".join(f"a{n}: __typename @a @b" for n in range(120)) + " }")
    assert found == {"breadth": 120, "rootFields": 120, "aliases": 120, "directives": 240}


def test_a_document_within_its_limits_may_be_wrong_in_other_ways() -> None:
    with pytest.raises(GraphQLSyntaxError):
        parse_within('{ a(b: "more than 1000 tokens', Limits())


def test_names_of_limits_are_told_as_the_schema_spells_names() -> None:
    assert [told_name(name) for name in ("cost", "root_fields")] == ["cost", "rootFields"]
    assert all(item.metadata["meaning"] for item in fields(Limits))


# --- variables --------------------------------------------------------------------------------------------------------


def test_what_variables_hold_is_counted_to_the_limit_and_no_further() -> None:
    small = Limits(variable_values=10, variable_depth=3)
    assert measure_values([1, "a", None, {"a": [1, {}]}], small) == (7, 3)
    assert measure_values([[0] * 1_000_000], small)[0] == 11
    deep: list[Any] = []
    for _ in range(100_000):
        deep = [deep]
    assert measure_values([deep], small)[1] == 4
    assert [error.limit for error in find_variable_excesses({"a": deep}, small)] == ["variableDepth"]
    assert [error.limit for error in find_variable_excesses(dict.fromkeys(map(str, range(51))), Limits())] == [
        "variables"
    ]


json_values = st.recursive(
    st.none() | st.integers() | st.text(max_size=3),
    lambda within: st.lists(within, max_size=4) | st.dictionaries(st.text(max_size=2), within, max_size=4),
    max_leaves=12,
)


@given(json_values)
def test_values_are_counted_as_their_parts_are(value: Any) -> None:
    def count(one: Any) -> int:
        parts = one.values() if isinstance(one, dict) else one if isinstance(one, list) else ()
        return 1 + sum(count(part) for part in parts)

    def deep(one: Any) -> int:
        parts = list(one.values()) if isinstance(one, dict) else one if isinstance(one, list) else None
        return 0 if parts is None else 1 + max((deep(part) for part in parts), default=0)

    assert measure_values([value], Limits()) == (count(value), deep(value))


def test_a_refusal_is_json_that_every_reader_can_hold(executor: Executor) -> None:
    errors = executor.find_refusals(Operation(document=fan_out(90, "...F{0} ...F{0}")))
    told = orjson.loads(orjson.dumps(execution.format_errors(errors)))
    numbers = {one["extensions"]["limit"]: one["extensions"]["value"] for one in told}
    assert numbers["fields"] == 2**53 - 1
    assert all(one["extensions"]["code"] == "LIMIT_EXCEEDED" for one in told)


def test_the_table_of_limits_in_the_documentation_is_that_of_the_code() -> None:
    rows = [f"| `{told_name(one.name)}` | {one.default:,} | {one.metadata['meaning']} |" for one in fields(Limits)]
    table = "\n".join(["| limit | allowed | of what |", "|---|---|---|", *rows])
    told = PAGE.read_text().split("<!-- limits -->")
    assert told[1].strip() == table, f"in docs/graphql.md belongs\n\n{table}\n"
