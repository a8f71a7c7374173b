"""Columns of binary tables in FITS files: where they are in a row, and what their stored values mean."""

import re
from collections.abc import Collection
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from extractors.errors import ContentError
from extractors.readers.fits_header import FitsHeader

if TYPE_CHECKING:
    from numpy.typing import NDArray

MAX_COLUMNS = 999
"""FITS standard 4.0, section 7.3.1."""

_FORM = re.compile(r"(?P<repeat>[0-9]*)(?P<code>[LXBIJKAEDCMPQ]).*", re.IGNORECASE)
_BYTES = {"L": 1, "B": 1, "I": 2, "J": 4, "K": 8, "A": 1, "E": 4, "D": 8, "C": 8, "M": 16, "P": 8, "Q": 16}
_STORED_TYPES = {"L": "u1", "B": "u1", "I": ">i2", "J": ">i4", "K": ">i8", "E": ">f4", "D": ">f8"}
_WHOLE = "BIJK"
_UNREADABLE = {"X": "bits", "C": "complex numbers", "M": "complex numbers", "P": "lists", "Q": "lists"}
_UNSIGNED_64 = 2**63
_MAX_ZERO = 2**62


@dataclass(frozen=True, kw_only=True, slots=True)
class FitsColumn:
    """One column of a binary table."""

    name: str
    """In upper case."""
    code: str
    """Letter of its type (FITS standard 4.0, table 18)."""
    repeat: int
    start: int
    """Where it begins in a row."""
    unit: str | None
    scale: int | float
    zero: int | float
    null: int | None
    """Stored value that stands for none."""

    @property
    def problem(self) -> str | None:
        """Why its values cannot be reduced; None when they can."""
        if self.code in _UNREADABLE:
            return f"column {self.name} holds {_UNREADABLE[self.code]}, not single values"
        if self.code != "A" and self.repeat != 1:
            return f"column {self.name} holds {self.repeat} values in each row, not single ones"
        has_room = self.zero == _UNSIGNED_64 if self.code == "K" else abs(self.zero) <= _MAX_ZERO
        if self.is_whole and self.zero and not has_room:
            return f"column {self.name} has TZERO = {self.zero}, with which its numbers may need more than 64 bits"
        return None

    @property
    def stored_type(self) -> str:
        """What numpy calls the type of the stored values."""
        return f"S{self.repeat}" if self.code == "A" else _STORED_TYPES[self.code]

    @property
    def is_whole(self) -> bool:
        """Whether its physical values are whole numbers."""
        return self.code in _WHOLE and self.scale == 1 and float(self.zero).is_integer()

    def to_physical(self, stored: "NDArray[Any]") -> "NDArray[Any]":
        """Return what `stored` values mean: text as bytes, whole numbers as such; masked and NaN are none."""
        import numpy as np

        if self.code == "A":
            # A NUL ends a text; what stands behind it is left from before.
            return np.array([text.partition(b"\0")[0] for text in stored.tolist()] or [], dtype=object)
        if self.code == "L":
            return _to_truths(stored)
        if self.code in _WHOLE and self.null is not None and (stored == self.null).any():
            return np.ma.masked_array(self._scaled(stored), mask=stored == self.null)
        return self._scaled(stored)

    def _scaled(self, stored: "NDArray[Any]") -> "NDArray[Any]":
        import numpy as np

        if self.is_whole and self.zero == _UNSIGNED_64:
            return stored.astype(np.int64).view(np.uint64) ^ np.uint64(_UNSIGNED_64)
        if self.is_whole:
            return stored.astype(np.int64) + int(self.zero)
        values = stored.astype(np.float64)
        return values if (self.scale, self.zero) == (1, 0) else values * self.scale + self.zero


def _to_truths(stored: "NDArray[Any]") -> "NDArray[Any]":
    import numpy as np

    truths = stored == ord("T")
    is_known = truths | (stored == ord("F"))
    return truths if is_known.all() else np.ma.masked_array(truths, mask=~is_known)


def find_columns(header: FitsHeader, wanted: Collection[str]) -> dict[str, FitsColumn]:
    """Return the `wanted` columns (upper case) that a binary table has; of several with one name the first.

    Raises
    ------
    ContentError
        The header does not tell where the columns are.
    """
    n_columns = header.get_whole("TFIELDS")
    if not 0 <= n_columns <= MAX_COLUMNS:
        raise ContentError(f"a header has TFIELDS = {n_columns}, expected 0 to {MAX_COLUMNS}")
    columns: dict[str, FitsColumn] = {}
    start = 0
    for number in range(1, n_columns + 1):
        form = header.get_text(f"TFORM{number}")
        match = _FORM.fullmatch(form)
        if match is None:
            raise ContentError(f"a header has TFORM{number} = {form!r}, expected the format of a column")
        repeat, code = int(match["repeat"] or 1), match["code"].upper()
        name = header.get_text(f"TTYPE{number}").upper()
        if repeat and name in wanted and name not in columns:
            columns[name] = _make_column(header, number, name=name, code=code, repeat=repeat, start=start)
        start += -(-repeat // 8) if code == "X" else repeat * _BYTES[code]
    row_bytes = header.get_whole("NAXIS1")
    if start != row_bytes:
        raise ContentError(f"the columns of a table have {start} bytes in a row, but NAXIS1 = {row_bytes}")
    return columns


def _make_column(header: FitsHeader, number: int, *, name: str, code: str, repeat: int, start: int) -> FitsColumn:
    null = header.get(f"TNULL{number}")
    return FitsColumn(
        name=name,
        code=code,
        repeat=repeat,
        start=start,
        unit=header.get_text(f"TUNIT{number}") or None,
        scale=_get_number(header, f"TSCAL{number}", 1),
        zero=_get_number(header, f"TZERO{number}", 0),
        null=null if isinstance(null, int) and not isinstance(null, bool) else None,
    )


def _get_number(header: FitsHeader, keyword: str, default: int) -> int | float:
    value = header.get(keyword)
    if value is None:
        return default
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ContentError(f"a header has {keyword} = {value!r}, expected a number")
    return value
