"""Sums of arrays are those of plain Python, however large the numbers are."""

from collections.abc import Sequence

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from metadata_db.canonical import set_checksum
from metadata_db.sums import FILES, Sums, add_up, joined, numbered, read_sums, whole_bytes

INT64 = st.integers(-(2**63), 2**63 - 1)
Row = tuple[int, int, int, int, int]
"""Place, files, bytes, and the two halves of the fingerprints."""

rows = st.lists(
    st.tuples(st.integers(0, 9), st.integers(-(2**40), 2**40), st.integers(-(2**80), 2**80), INT64, INT64), max_size=40
)


def told(rows: Sequence[Row]) -> Sums:
    """Return the sums of rows as statements tell them."""
    columns = []
    for at in (2, 3, 4):
        columns += [[row[at] >> 32 for row in rows], [row[at] & (2**32 - 1) for row in rows]]
    numbers = [np.array(column, np.int64) for column in ([row[1] for row in rows], *columns)]
    return read_sums(np.array([row[0] for row in rows], np.int32), numbers)


def added(rows: Sequence[Row]) -> tuple[int, int, str]:
    files, size, high, low = (sum(row[at] for row in rows) for at in (1, 2, 3, 4))
    return files, size, set_checksum(high, low)


@given(st.lists(rows, max_size=4))
def test_parts_add_up_to_what_plain_python_adds_up(parts: list[list[Row]]) -> None:
    found = add_up([told(part) for part in parts])
    every = [row for part in parts for row in part]
    by_place = {place: [row for row in every if row[0] == place] for place in {row[0] for row in every}}
    nothing = added([])
    expected = {place: added(some) for place, some in by_place.items() if added(some) != nothing}
    assert found.places.tolist() == sorted(expected)
    for at, place in enumerate(found.places.tolist()):
        total = found.where(slice(at, at + 1)).total()
        assert (total.files, total.bytes, total.checksum) == expected[place]
    total = found.total()
    assert (total.files, total.bytes, total.checksum) == added(every)


@given(rows, st.sets(st.integers(0, 9)))
def test_some_strata_add_up_to_their_sums(rows: list[Row], chosen: set[int]) -> None:
    sums = told(rows)
    some = sums.where(np.isin(sums.places, [*chosen]))
    total = some.total()
    expected = [row for row in rows if row[0] in chosen]
    assert (total.files, total.bytes, total.checksum) == added(expected)
    assert whole_bytes(some.numbers) == [row[2] for row in expected]


@given(rows)
def test_strata_that_do_not_exist_are_left_out(rows: list[Row]) -> None:
    sums = told([(place - 1, *numbers) for place, *numbers in rows])
    assert sums.places.tolist() == [row[0] - 1 for row in rows if row[0]]
    assert sums.numbers[FILES].tolist() == [row[1] for row in rows if row[0]]
    assert len(joined([sums, sums])) == 2 * len(sums)
    assert sums.nbytes == len(sums) * 44


@given(st.lists(st.integers(0, 1000), min_size=1))
def test_different_keys_are_numbered_in_order(keys: list[int]) -> None:
    different, at = numbered(np.array(keys))
    assert different.tolist() == sorted({*keys})
    assert different[at].tolist() == keys
