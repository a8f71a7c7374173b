"""Figures, tables and what is printed of them."""

import io
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from benchmarks.measuring import Figure, Row, Table, as_mapping, format_number, gather, percentile, print_table

NUMBERS = st.floats(allow_nan=False, allow_infinity=False)


@given(st.lists(NUMBERS, min_size=1), st.floats(0, 1, exclude_min=True))
def test_a_percentile_is_the_least_value_that_enough_values_do_not_exceed(values: list[float], share: float) -> None:
    found = percentile(values, share)
    assert found in values
    needed = math.ceil(share * len(values))
    assert sum(value <= found for value in values) >= needed
    assert sum(value < found for value in values) < needed


def test_the_99th_percentile_of_few_values_is_the_largest() -> None:
    assert percentile([3.0, 9.0, 1.0], 0.99) == 9
    assert percentile([float(value) for value in range(1, 201)], 0.99) == 198


def test_a_percentile_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="share"):
        percentile([], 0.5)


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (0, "0"),
        (12_345.6, "12,300"),
        (123.4, "123"),
        (9.996, "10.0"),
        (0.012345, "0.0123"),
        (-4.5678, "-4.57"),
        (999.6, "1,000"),
    ],
)
def test_numbers_are_shown_with_three_significant_digits(value: float, shown: str) -> None:
    assert format_number(value) == shown


def test_a_figure_is_shown_as_median_with_the_extremes_of_its_repeats() -> None:
    assert str(Figure(values=(3.0, 1.0, 2.0), unit="s")) == "2.00 (1.00 to 3.00)"
    assert str(Figure(values=(3.0,), unit="s")) == "3.00"


@pytest.mark.parametrize("values", [(), (math.nan,), (1.0, math.inf)])
def test_a_figure_that_is_no_number_is_refused(values: tuple[float, ...]) -> None:
    with pytest.raises(ValueError, match="values"):
        Figure(values=values, unit="s")


def make_table() -> Table:
    rows = (
        gather("fast", [{"time": (1.0, "s"), "memory": (10.0, "MB")}, {"time": (3.0, "s"), "memory": (20.0, "MB")}]),
        Row(label="slow [not markup]", figures={"time": Figure(values=(5.0,), unit="s")}),
    )
    return Table(title="Cases", rows=rows, notes=("read [this]",))


def test_a_table_is_printed_as_markdown_with_units_and_notes() -> None:
    printed = io.StringIO()
    print_table(make_table(), Console(file=printed, width=200))
    lines = [" ".join(line.split()) for line in printed.getvalue().splitlines()]
    assert "### Cases" in lines
    assert "| | time [s] | memory [MB] |" in lines
    assert "| fast | 2.00 (1.00 to 3.00) | 15.0 (10.0 to 20.0) |" in lines
    assert "| slow [not markup] | 5.00 | - |" in lines
    assert "- read [this]" in lines


def test_a_table_as_a_mapping_keeps_the_value_of_every_repeat() -> None:
    row = as_mapping(make_table())["rows"][0]
    assert row["label"] == "fast"
    assert row["figures"]["memory"] == {"median": 15.0, "unit": "MB", "values": [10.0, 20.0]}
