"""Packed rows hold what COPY wants, row by row; what is taken out of them is whole rows."""

import struct

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from metadata_db.packing import COLUMNS, select_rows, set_revision

rows_and_wishes = st.lists(st.tuples(st.binary(min_size=8, max_size=40), st.booleans()), min_size=1, max_size=30)


@given(rows_and_wishes, st.integers(1, 2**62))
def test_the_last_value_of_each_row_is_filled_in_and_nothing_else(
    rows: list[tuple[bytes, bool]], revision: int
) -> None:
    packed = b"".join(row for row, _ in rows)
    lengths = np.array([len(row) for row, _ in rows])
    expected = [row[:-8] + struct.pack(">q", revision) for row, _ in rows]
    filled = set_revision(packed, lengths, revision)
    assert filled == b"".join(expected)
    wanted = np.array([is_wanted for _, is_wanted in rows])
    chosen = [row for row, is_wanted in zip(expected, wanted, strict=True) if is_wanted]
    assert select_rows(filled, lengths, wanted) == b"".join(chosen)


def test_the_revision_is_the_last_column() -> None:
    assert COLUMNS[-1] == "added_in"
    assert len(set(COLUMNS)) == len(COLUMNS)
