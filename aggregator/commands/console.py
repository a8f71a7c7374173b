"""What commands show: tables, sizes, and how far they are; bars on a terminal, plain lines in a pipe."""

import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Protocol

import click
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, MofNCompleteColumn, TaskID, TextColumn, TimeElapsedColumn
from rich.progress import Progress as RichProgress

LINE_EVERY_S = 5.0
"""Shortest time between two lines of progress in a pipe."""

_UNITS = ("B", "kB", "MB", "GB", "TB", "PB", "EB")


class Progress(Protocol):
    """Takes notice of how far something is; a `total` of 0 is not known yet."""

    def __call__(self, done: int, total: int) -> None: ...  # noqa: D102


@contextmanager
def showing_progress(label: str, *, in_bytes: bool = False) -> Iterator[Progress]:
    """Show on standard error how far something is, until the end of the ``with`` statement."""
    if sys.stderr.isatty():
        with RichProgress(
            TextColumn("{task.description}"),
            BarColumn(),
            DownloadColumn() if in_bytes else MofNCompleteColumn(),
            TimeElapsedColumn(),
            console=Console(stderr=True),
        ) as bars:
            yield _Bar(bars=bars, task=bars.add_task(label, total=None))
    else:
        lines = _Lines(label=label, in_bytes=in_bytes)
        yield lines
        lines.finish()


@dataclass(kw_only=True, slots=True)
class _Bar:
    bars: RichProgress
    task: TaskID

    def __call__(self, done: int, total: int) -> None:
        self.bars.update(self.task, completed=done, total=total or None)


@dataclass(kw_only=True, slots=True)
class _Lines:
    """One line now and then, and one at the end."""

    label: str
    in_bytes: bool
    shown_at: float = field(default_factory=time.monotonic)
    told: tuple[int, int] | None = None
    latest: tuple[int, int] | None = None

    def __call__(self, done: int, total: int) -> None:
        self.latest = (done, total)
        if time.monotonic() - self.shown_at >= LINE_EVERY_S:
            self.finish()

    def finish(self) -> None:
        if self.latest is None or self.latest == self.told:
            return
        done, total = (format_bytes(number) if self.in_bytes else f"{number:,}" for number in self.latest)
        click.echo(f"{self.label}: {done} of {total}" if self.latest[1] else f"{self.label}: {done}", err=True)
        self.told, self.shown_at = self.latest, time.monotonic()


def examples(*commands: str) -> str:
    """Return the end of a command's help; it is not wrapped, so that it can be copied."""
    return "\n".join(["\b", "Examples:" if len(commands) > 1 else "Example:", *(f"  {line}" for line in commands)])


def format_bytes(number: int) -> str:
    """Return a size as people write it: ``1.3 GB``; powers of 1000."""
    size, unit = float(number), 0
    while size >= 999.5 and unit < len(_UNITS) - 1:
        size, unit = size / 1000, unit + 1
    return f"{number} B" if unit == 0 else f"{size:.3g} {_UNITS[unit]}"


def format_count(number: int, noun: str) -> str:
    """Return ``1 file``, ``2 files``."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def print_table(headings: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Print rows in aligned columns, numbers to the right; what is None is shown as ``-``, nothing is cut."""
    cells = [["-" if value is None else _one_line(value) for value in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(headings, *cells, strict=True)]
    numeric = [{type(row[at]) for row in rows} - {type(None)} == {int} for at in range(len(headings))]
    for line in (list(headings), ["-" * width for width in widths], *cells):
        aligned = [
            text.rjust(width) if right else text.ljust(width)
            for text, width, right in zip(line, widths, numeric, strict=True)
        ]
        click.echo("  ".join(aligned).rstrip())


def print_some(lines: Sequence[str], count: int, *, limit: int) -> None:
    """Print the first `limit` of the lines that are at hand, and of how many in all."""
    for line in lines[:limit]:
        click.echo(_one_line(line))
    if count > limit:
        click.echo(f"... and {count - limit:,} more")


def _one_line(value: object) -> str:
    text = f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)
    return "".join(character if character.isprintable() else "\N{REPLACEMENT CHARACTER}" for character in text)
