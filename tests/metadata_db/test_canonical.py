"""Identities do not change from one release to the next, and say what they are said to say."""

import hashlib
import json
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from metadata_db.canonical import canonical_json, canonical_sha256, export_id, fingerprint, query_id, set_checksum

plain_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)
files = st.tuples(st.text(max_size=9), st.text(max_size=9), st.integers(0, 2**63 - 1), st.none() | st.just("ab" * 32))
INT64 = range(-(2**63), 2**63)


@given(plain_values)
def test_canonical_json_is_json_of_the_same_value(value: Any) -> None:
    assert json.loads(canonical_json(value)) == value


@given(st.dictionaries(st.text(), st.integers(), min_size=2))
def test_the_order_of_keys_does_not_change_canonical_json(mapping: dict[str, int]) -> None:
    assert canonical_json(dict(reversed(mapping.items()))) == canonical_json(mapping)


def test_canonical_json_has_one_spelling() -> None:
    assert canonical_json({"b": [1, 2.5, None, True], "a": "ü/\u2028"}) == '{"a":"ü/\u2028","b":[1,2.5,null,true]}'


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, {"a": [math.nan]}])
def test_what_json_cannot_say_is_refused(value: Any) -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        canonical_json(value)


def test_identities_are_those_of_earlier_releases() -> None:
    """A change here makes every stored id and checksum wrong: it is a breaking change."""
    canonical = '{"facility":["aurora"]}'
    assert query_id(canonical) == "b9524fe8476069ca634b8d3f3f1f0557"
    assert canonical_sha256(canonical).hex() == "ab40bfa353d740d1949f26153b2e0f2801fbf22fecb69149e11137686bdc54b9"
    assert export_id("b9524fe8476069ca634b8d3f3f1f0557", "0" * 32) == "ff295db6e4f4567f865ee8375b3e76df"
    assert fingerprint("aurora-disk", "2019/run_1.fits", 1000, None) == (-5264492676490799247, 7548908176639118081)
    assert fingerprint("aurora-disk", "2019/run_1.fits", 1000, "ab" * 32) == (-1429438898068219, 7871769464147282255)


def test_a_query_id_is_the_md5_of_the_canonical_form() -> None:
    assert query_id("{}") == hashlib.md5(b"{}").hexdigest()
    assert canonical_sha256("ü") == hashlib.sha256("ü".encode()).digest()


@given(files)
def test_a_fingerprint_is_two_numbers_that_postgres_can_hold(file: Any) -> None:
    high, low = fingerprint(*file)
    assert high in INT64
    assert low in INT64


@given(files, files)
def test_different_files_have_different_fingerprints(one: Any, other: Any) -> None:
    assert (fingerprint(*one) == fingerprint(*other)) == (one == other)


@given(st.lists(files, max_size=8), st.randoms())
def test_the_checksum_of_a_set_does_not_depend_on_order_and_can_be_moved_forward(found: list[Any], random: Any) -> None:
    def checksum(prints: list[tuple[int, int]]) -> str:
        return set_checksum(sum(high for high, _ in prints), sum(low for _, low in prints))

    prints = [fingerprint(*file) for file in found]
    shuffled = random.sample(prints, len(prints))
    assert checksum(shuffled) == checksum(prints)
    came = fingerprint("s", "new", 1, None)
    assert checksum([*prints, came]) != checksum(prints)
    assert checksum([*prints, came, (-came[0], -came[1])]) == checksum(prints)


def test_the_checksum_of_nothing_is_zero_and_every_checksum_has_32_digits() -> None:
    assert set_checksum(0, 0) == "0" * 32
    assert set_checksum(-1, 2**200 + 5) == "f" * 16 + "0" * 15 + "5"
