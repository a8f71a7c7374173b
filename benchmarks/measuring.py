"""What a benchmark measures and how it is shown: figures with their spread, in tables, never a verdict."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any, TypeAlias

from rich.box import MARKDOWN
from rich.console import Console
from rich.table import Table as RichTable

Sample: TypeAlias = Mapping[str, tuple[float, str]]
"""What one repeat measured: column → value and unit."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Figure:
    """One quantity, measured once per repeat."""

    values: tuple[float, ...]
    unit: str

    def __post_init__(self) -> None:
        if not self.values or not all(map(math.isfinite, self.values)):
            raise ValueError(f"values: got {self.values}, expected at least one number, all of them finite")

    @property
    def median(self) -> float:
        """The value to quote."""
        return median(self.values)

    def __str__(self) -> str:
        shown = format_number(self.median)
        if len(self.values) == 1:
            return shown
        return f"{shown} ({format_number(min(self.values))} to {format_number(max(self.values))})"


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """What was measured of one thing: column → figure; a column without a figure was not measured."""

    label: str
    figures: dict[str, Figure]


@dataclass(frozen=True, kw_only=True, slots=True)
class Table:
    """Comparable rows, and in `notes` what must be known to read them."""

    title: str
    rows: tuple[Row, ...]
    notes: tuple[str, ...] = ()

    @property
    def columns(self) -> list[str]:
        """All columns of all rows, in the order of their first appearance."""
        return list(dict.fromkeys(column for row in self.rows for column in row.figures))


def gather(label: str, samples: Iterable[Sample]) -> Row:
    """Return the row of several repeats, all with the same columns."""
    repeats = list(samples)
    return Row(
        label=label,
        figures={
            column: Figure(values=tuple(repeat[column][0] for repeat in repeats), unit=unit)
            for column, (_, unit) in repeats[0].items()
        },
    )


def percentile(values: Sequence[float], share: float) -> float:
    """Return the smallest of `values` that at least `share` (above 0, at most 1) of them do not exceed.

    Notes
    -----
    The nearest-rank definition: a value that really occurred. Of fewer than 100 values the 99th percentile is the
    largest.
    """
    if not values or not 0 < share <= 1:
        raise ValueError(f"share: got {share} of {len(values)} values, expected above 0, at most 1, of at least one")
    return sorted(values)[math.ceil(share * len(values)) - 1]


def format_number(value: float) -> str:
    """Return three significant digits, without an exponent and without cutting whole numbers."""
    if value == 0:
        return "0"
    rounded = float(f"{value:.3g}")
    return f"{rounded:,.{max(0, 2 - math.floor(math.log10(abs(rounded))))}f}"


def print_table(table: Table, console: Console) -> None:
    """Print a table in Markdown, so that it can be put into a page as it is."""
    shown = RichTable(box=MARKDOWN)
    shown.add_column("")
    for column in table.columns:
        units = {row.figures[column].unit for row in table.rows if column in row.figures} - {""}
        shown.add_column(f"{column} [{', '.join(sorted(units))}]" if units else column, justify="right")
    for row in table.rows:
        shown.add_row(row.label, *(str(row.figures.get(column, "-")) for column in table.columns))
    console.print(f"### {table.title}\n", markup=False, highlight=False)
    console.print(shown, markup=False, highlight=False)
    for note in table.notes:
        console.print(f"- {note}", markup=False, highlight=False)
    console.print()


def as_mapping(table: Table) -> dict[str, Any]:
    """Return a table as plain JSON values, with the value of every repeat."""
    return {
        "title": table.title,
        "notes": list(table.notes),
        "rows": [
            {
                "label": row.label,
                "figures": {
                    column: {"median": figure.median, "unit": figure.unit, "values": list(figure.values)}
                    for column, figure in row.figures.items()
                },
            }
            for row in table.rows
        ],
    }
