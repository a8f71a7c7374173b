"""Ranges of requests, against a plain evaluation byte by byte."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aggregator.exports.ranges import (
    MAX_RANGES,
    MERGED_GAP_BYTES,
    RangeNotSatisfiableError,
    Span,
    parse_ranges,
)

NUMBERS = st.integers(0, 1500)
SPECS = st.one_of(
    st.tuples(NUMBERS, NUMBERS).map(lambda ends: f"{min(ends)}-{max(ends)}"),
    NUMBERS.map(lambda first: f"{first}-"),
    NUMBERS.map(lambda last: f"-{last}"),
)


def bytes_of(spec: str, size: int) -> set[int]:
    """Which bytes one range means, as the standard says it."""
    first, last = spec.split("-")
    if not first:
        return set(range(max(0, size - int(last)), size))
    return {at for at in range(size) if at >= int(first) and (not last or at <= int(last))}


@given(specs=st.lists(SPECS, min_size=1, max_size=5), size=st.integers(0, 1200))
def test_what_is_sent_is_what_was_asked_for(specs: list[str], size: int) -> None:
    wanted = [bytes_of(spec, size) for spec in specs]
    try:
        spans = parse_ranges(f"bytes={','.join(specs)}", size)
    except RangeNotSatisfiableError:
        counted = [sum(at in one for one in wanted) for at in range(size)]
        assert not any(wanted) or max(counted) > 1
        return
    if not spans:
        assert size == 0
        return
    sent = [set(range(span.start, span.stop)) for span in spans]
    everything = set().union(*sent)
    assert set().union(*wanted) <= everything
    assert sum(map(len, sent)) == len(everything), "a byte is sent twice"
    assert everything <= set(range(size))
    surplus = everything - set().union(*wanted)
    assert len(surplus) <= MERGED_GAP_BYTES * (len(specs) - len(spans))


@given(specs=st.lists(SPECS, min_size=1, max_size=1), size=st.integers(1, 1200))
def test_one_range_is_the_part_of_it_that_exists(specs: list[str], size: int) -> None:
    wanted = bytes_of(specs[0], size)
    if not wanted:
        with pytest.raises(RangeNotSatisfiableError):
            parse_ranges(f"bytes={specs[0]}", size)
    else:
        assert parse_ranges(f"bytes={specs[0]}", size) == (Span(min(wanted), max(wanted) + 1),)


@given(st.text(max_size=20), st.integers(0, 50))
def test_nothing_that_is_sent_breaks_it(text: str, size: int) -> None:
    for header in (text, f"bytes={text}"):
        try:
            spans = parse_ranges(header, size)
        except RangeNotSatisfiableError:
            continue
        assert all(0 <= span.start < span.stop <= size for span in spans)


@pytest.mark.parametrize(
    "header",
    [
        *(
            "bytes",
            "bytes=",
            "bytes=-",
            "bytes=,",
            "bytes=a-b",
            "bytes=5-1",
            "bytes=0-1,5-1",
            "bytes=0-1,x",
            "bytes=٣-٤",
        ),
        *("lines=1-2", "seconds=0-", "bytes =0-1", "bytes=0-1;q=1", "bytes=0 - 1", "bytes=--1", "bytes=1-2-3", ""),
        "bytes=" + "," * 100 + "0-1",
    ],
)
def test_what_is_no_list_of_byte_ranges_asks_for_the_whole(header: str) -> None:
    assert parse_ranges(header, 10) == ()


@pytest.mark.parametrize("header", ["bytes=0-1", "BYTES=0-1", "Bytes= 0-1 ", "bytes=,,0-1 ,", "bytes=0-1,99-"])
def test_spelling_that_means_nothing_is_passed_over(header: str) -> None:
    assert parse_ranges(header, 10) == (Span(0, 2),)


def test_parts_come_as_they_were_asked_for() -> None:
    assert parse_ranges("bytes=5000-5009,0-9,-5", 10_000) == (Span(5000, 5010), Span(0, 10), Span(9995, 10_000))


def test_neighbours_become_one_part_where_the_first_of_them_was() -> None:
    assert parse_ranges("bytes=5000-5009,0-9,20-29", 10_000) == (Span(5000, 5010), Span(0, 30))
    assert parse_ranges("bytes=10-19,0-9,15-", 100) == (Span(0, 100),)


@pytest.mark.parametrize(
    "specs",
    [
        ["0-"] * 3,
        ["0-", "1-", "2-", "3-"],
        ["0-99", "50-149", "100-199"],
        [f"{at}-{at}" for at in range(0, 10_000, 10)],
        ["0-0"] * (MAX_RANGES + 1),
    ],
    ids=["same", "nested", "chain", "many", "more than served"],
)
def test_sets_that_cost_more_than_they_bring_are_refused(specs: list[str]) -> None:
    with pytest.raises(RangeNotSatisfiableError):
        parse_ranges(f"bytes={','.join(specs)}", 100_000)


def test_so_many_ranges_as_are_served() -> None:
    specs = [f"{at * 1000}-{at * 1000 + 9}" for at in range(MAX_RANGES)]
    assert len(parse_ranges(f"bytes={','.join(specs)}", 100_000)) == MAX_RANGES


def test_numbers_beyond_all_files_are_numbers() -> None:
    assert parse_ranges("bytes=0-99999999999999999999999", 10) == (Span(0, 10),)
    assert parse_ranges("bytes=-99999999999999999999999", 10) == (Span(0, 10),)


def test_the_last_bytes_of_nothing_are_the_whole_of_it() -> None:
    assert parse_ranges("bytes=-5", 0) == ()
    for header in ("bytes=-0", "bytes=0-", "bytes=0-0"):
        with pytest.raises(RangeNotSatisfiableError):
            parse_ranges(header, 0)
