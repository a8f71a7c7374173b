"""Addresses: what a Description asks of a file, in one grammar for all formats.

``PLACE`` is a single value, ``min(PLACE)`` a reduction of a column, and ``min(PLACE; PLACE)`` compares rows by several
columns, the first before the second, such as seconds and nanoseconds. What a place is, is the reader's to say.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal, TypeAlias, cast, get_args

from extractors.errors import AddressError

Reduction: TypeAlias = Literal[
    "rows", "count", "min", "max", "sum", "first", "last", "only", "distinct", "n_distinct", "all"
]
"""``rows``: rows of the table PLACE. Of the values that a column really has: ``count`` how many, ``min``, ``max``,
``sum``, ``first``, ``last``, ``only`` the one value if there is but one, ``distinct`` the different ones in order,
``n_distinct`` how many different ones. ``all`` is the whole column, row by row, as an index table needs it."""

REDUCTIONS: tuple[str, ...] = get_args(Reduction)

_CALL = re.compile(rf"(?P<reduction>{'|'.join(REDUCTIONS)})\((?P<places>.+)\)", re.DOTALL)


@dataclass(frozen=True, kw_only=True, slots=True)
class Address:
    """One thing that is asked of a file."""

    text: str
    """The whole address as a Description has it, with what counts as missing: the key of the answer."""
    places: tuple[str, ...]
    """Where, in the reader's own grammar; more than one only within a reduction."""
    reduction: Reduction | None = None
    missing: tuple[bool | int | float | str, ...] = ()
    """Values of a column that stand for "no value", such as -999."""
    valid: tuple[float | None, float | None] = (None, None)
    """Least and largest value of a column that counts, both included; None is no bound."""

    @property
    def place(self) -> str:
        """The first place."""
        return self.places[0]


@lru_cache(maxsize=4096)
def parse_address(
    text: str,
    *,
    missing: tuple[bool | int | float | str, ...] = (),
    valid: tuple[float | None, float | None] = (None, None),
) -> Address:
    """Return the address that `text` writes.

    Raises
    ------
    AddressError
        It is empty, or a reduction without a place.
    """
    text = text.strip()
    match = _CALL.fullmatch(text)
    if match is None:
        if not text:
            raise AddressError(text, "a place in the file")
        return Address(text=text, places=(text,))
    # A regular expression, which begins with a slash, may hold semicolons of its own.
    written = match["places"].strip()
    places = (written,) if written.startswith("/") else tuple(part.strip() for part in written.split(";"))
    if not all(places):
        raise AddressError(text, f"{match['reduction']}(PLACE) with no place left empty")
    return Address(
        text=text + _conditions(missing, valid),
        places=places,
        reduction=cast(Reduction, match["reduction"]),
        missing=missing,
        valid=valid,
    )


def _conditions(missing: Sequence[object], valid: tuple[float | None, float | None]) -> str:
    """Spell what does not count, because the same column may be asked for with other conditions."""
    without = f" without {', '.join(map(str, missing))}" if missing else ""
    low, high = valid
    within = f" within {'' if low is None else low}..{'' if high is None else high}" if valid != (None, None) else ""
    return without + within
