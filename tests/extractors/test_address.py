"""Addresses: one grammar for all formats."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from extractors.errors import AddressError
from extractors.readers.address import REDUCTIONS, parse_address


def test_a_place_is_all_that_is_no_reduction() -> None:
    for text in ("EVENTS.TSTART", "/run/start", "mean(A.B)", "min", "min(A", "max[A]", "f(x) = min(A)"):
        address = parse_address(f"  {text} ")
        assert (address.text, address.places, address.reduction) == (text, (text,), None)


@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_a_reduction_has_its_place(reduction: str) -> None:
    address = parse_address(f"{reduction}( EVENTS.ENERGY )")
    assert (address.reduction, address.places, address.place) == (reduction, ("EVENTS.ENERGY",), "EVENTS.ENERGY")


def test_rows_may_be_compared_by_several_columns() -> None:
    assert parse_address("min(s; ns)").places == ("s", "ns")


def test_a_regular_expression_keeps_its_semicolons_and_parentheses() -> None:
    assert parse_address(r"max(/E=(\d+);x/)").places == (r"/E=(\d+);x/",)


@pytest.mark.parametrize("text", ["", "  ", "min( )", "min(a;)", "min(;)"])
def test_an_empty_place_is_none(text: str) -> None:
    with pytest.raises(AddressError):
        parse_address(text)


def test_the_same_column_under_other_conditions_is_another_address() -> None:
    texts = {
        parse_address("min(E)").text,
        parse_address("min(E)", missing=(-999,)).text,
        parse_address("min(E)", valid=(0.0, None)).text,
        parse_address("min(E)", valid=(None, 0.0)).text,
        parse_address("min(E)", missing=(-999,), valid=(0.0, 1.0)).text,
    }
    assert len(texts) == 5


def test_conditions_of_a_column_do_not_change_the_address_of_a_single_value() -> None:
    assert parse_address("E", missing=(-999,), valid=(0.0, 1.0)) == parse_address("E")


@given(st.text(max_size=30))
def test_every_text_is_an_address_or_says_why_not(text: str) -> None:
    try:
        address = parse_address(text)
    except AddressError:
        return
    assert all(address.places)
    assert parse_address(address.text) == address
