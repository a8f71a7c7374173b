"""Reductions: a table in pieces gives what the whole table would, and what is no value never counts."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from extractors.readers.address import parse_address
from extractors.readers.reader import Content, RawValue
from extractors.readers.reductions import MAX_DISTINCT, reduce_columns

NUMERIC = ("count", "min", "max", "sum", "first", "last", "only", "distinct", "n_distinct")


def pieces_of(values: st.SearchStrategy[Any], *, min_size: int) -> st.SearchStrategy[list[list[Any]]]:
    return st.lists(st.lists(values, min_size=min_size, max_size=4), min_size=1, max_size=4)


def reduce(
    text: str, *pieces: Mapping[str, Any], units: Mapping[str, str] | None = None, **conditions: Any
) -> tuple[Any, str | None]:
    """Return the value and what was odd."""
    address = parse_address(text, **conditions)
    arrays = [{name: _array(values) for name, values in piece.items()} for piece in pieces]
    content = reduce_columns([address], arrays, units=units or {})
    assert content.values.keys() | content.oddities.keys() <= {address.text}
    raw = content.values.get(address.text)
    return (None if raw is None else raw.value), content.oddities.get(address.text)


def _array(values: Any) -> Any:
    return values if isinstance(values, np.ndarray) else np.array(values)


def plainly(reduction: str, values: Sequence[Any]) -> Any:
    """Return what a reduction means, written down in the plainest way."""
    different = sorted(set(values))
    meanings: dict[str, Any] = {
        "count": len(values),
        "min": min(values, default=None),
        "max": max(values, default=None),
        "sum": sum(values) if values and reduction == "sum" else None,
        "first": values[0] if values else None,
        "last": values[-1] if values else None,
        "only": different[0] if len(different) == 1 else None,
        "distinct": tuple(different) or None,
        "n_distinct": len(different),
    }
    return meanings[reduction]


@given(st.lists(st.lists(st.integers(-5, 5), max_size=4), min_size=1, max_size=4), st.sampled_from(NUMERIC))
def test_whole_numbers_in_pieces(pieces: list[list[int]], reduction: str) -> None:
    arrays = [{"c": np.array(piece, dtype=np.int64)} for piece in pieces]
    kept = [value for piece in pieces for value in piece if value != 3 and -4 <= value <= 4]
    value, odd = reduce(f"{reduction}(c)", *arrays, missing=(3,), valid=(-4.0, 4.0))
    assert (value, odd) == (plainly(reduction, kept), None)


@given(pieces_of(st.sampled_from([0.5, -1.0, 2.25, math.nan, math.inf, -999.0]), min_size=0), st.sampled_from(NUMERIC))
def test_numbers_that_are_none_and_marks_never_count(pieces: list[list[float]], reduction: str) -> None:
    arrays = [{"c": np.array(piece, dtype=np.float32)} for piece in pieces]
    kept = [value for piece in pieces for value in piece if math.isfinite(value) and value != -999.0]
    value, odd = reduce(f"{reduction}(c)", *arrays, missing=(-999.0,))
    assert (value, odd) == (plainly(reduction, kept), None)


@given(
    pieces_of(st.sampled_from(["a", "b", "", " ", "-", "c "]), min_size=1),
    st.sampled_from(("count", "first", "last", "only", "distinct", "n_distinct")),
)
def test_texts_that_are_empty_or_marks_never_count(pieces: list[list[str]], reduction: str) -> None:
    arrays = [{"c": np.array(piece)} for piece in pieces]
    kept = [value.strip() for piece in pieces for value in piece if value.strip() not in ("", "-")]
    value, odd = reduce(f"{reduction}(c)", *arrays, missing=("-",))
    assert (value, odd) == (plainly(reduction, kept), None)


rows = st.lists(st.tuples(st.integers(0, 2), st.integers(0, 2)), max_size=4)


@given(st.lists(rows, min_size=1, max_size=3), st.sampled_from(("min", "max", "first", "last", "only")))
def test_rows_are_compared_by_the_first_column_and_then_by_the_next(
    pieces: list[list[tuple[int, int]]], reduction: str
) -> None:
    arrays = [
        {"s": np.array([row[0] for row in piece], dtype=int), "ns": np.array([row[1] for row in piece], dtype=int)}
        for piece in pieces
    ]
    value, odd = reduce(f"{reduction}(s; ns)", *arrays)
    assert (value, odd) == (plainly(reduction, [row for piece in pieces for row in piece]), None)


def test_masked_values_never_count_and_keep_their_place_in_a_whole_column() -> None:
    column = np.ma.array([5, 1, 9], mask=[False, True, False])
    assert reduce("min(c)", {"c": column}) == (5, None)
    value, _ = reduce("all(c)", {"c": column})
    assert value[0] == 5
    assert math.isnan(value[1])


def test_whole_numbers_are_summed_beyond_64_bits() -> None:
    assert reduce("sum(c)", {"c": np.array([2**63 - 1] * 3, dtype=np.int64)}) == (3 * (2**63 - 1), None)


def test_values_are_plain_python_values() -> None:
    for values in ([1], [1.5], [True], ["a"], [b"a"]):
        value, _ = reduce("first(c)", {"c": values})
        assert type(value) in (int, float, bool, str)


def test_a_column_that_is_not_there_gives_nothing_and_nothing_odd() -> None:
    assert reduce("min(gone)", {"c": [1]}) == (None, None)
    assert reduce("min(c; gone)", {"c": [1]}) == (None, None)
    assert reduce("count(c)") == (None, None)


@pytest.mark.parametrize(
    ("text", "column", "reason"),
    [
        ("max(c)", ["a", "b"], "is no column of numbers"),
        ("sum(c)", ["a"], "is no column of numbers"),
        ("min(c)", [[1, 2], [3, 4]], "holds lists"),
        ("distinct(c)", list(range(MAX_DISTINCT + 1)), "more than 1000 different values"),
    ],
)
def test_what_cannot_be_reduced_is_odd_and_costs_only_itself(text: str, column: list[Any], reason: str) -> None:
    addresses = [parse_address(text), parse_address("max(good)")]
    piece = {"c": np.array(column), "good": np.arange(len(column))}
    content = reduce_columns(addresses, [piece, piece], units={})
    assert content == Content(
        values={"max(good)": RawValue(value=len(column) - 1)}, oddities={text: content.oddities[text]}
    )
    assert reason in content.oddities[text]


def test_only_results_in_the_unit_of_the_column_have_it() -> None:
    piece = {"e": np.array([1.0, 2.0]), "f": np.array([1.0, 2.0])}
    texts = ("min(e)", "sum(e)", "count(e)", "n_distinct(e)", "min(e; f)", "all(e)")
    content = reduce_columns([parse_address(text) for text in texts], [piece], units={"e": "TeV"})
    assert {text for text, raw in content.values.items() if raw.unit == "TeV"} == {"min(e)", "sum(e)", "all(e)"}


@pytest.mark.parametrize("reduction", ["distinct", "min", "max"])
def test_a_column_of_mixed_values_ends_nothing(reduction: str) -> None:
    column = np.array([1, "a", None], dtype=object)
    value, odd = reduce(f"{reduction}(c)", {"c": column})
    assert value is not None or odd is not None
