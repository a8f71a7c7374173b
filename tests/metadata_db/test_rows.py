"""Lines are read quickly, and to the same effect as slowly."""

import json
from typing import Any

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from metadata_db.records import FileRecord
from metadata_db.rows import RecordError, decode_as, decode_line

TIMES = ["2019-11-02T18:00:00Z", "2019-11-02T19:00:00+01:00", "0001-01-01T00:00:00Z", "9999-12-31T23:59:59Z", "2019"]
VALUES: dict[str, st.SearchStrategy[Any]] = {
    "facility": st.sampled_from(["aurora", "", "a b", "ü", 5, None]),
    "storage": st.sampled_from(["disk", "../x", "x" * 65]),
    "path": st.sampled_from(["a", "a/b.fits", "", "/a", "a//b", "../a", "a\0", "ü" * 200, "x" * 300, "a/./b", "a\nb"]),
    "size_bytes": st.sampled_from([0, 1, -1, 2**63, 1.5, "1"]),
    "sha256": st.sampled_from(["ab" * 32, "AB" * 32, "ab" * 31, "ab" * 32 + "\n", None]),
    "md5": st.sampled_from(["ab" * 16, "g" * 32, None]),
    "modified_at": st.sampled_from(TIMES),
    "time_begin": st.sampled_from(TIMES),
    "time_end": st.sampled_from(TIMES),
    "ra_deg": st.sampled_from([0.0, 359.9, 360.0, None]),
    "dec_deg": st.sampled_from([0.0, -90.0, 90.1, None]),
    "energy_min_ev": st.sampled_from([0.0, 1e12, -1.0]),
    "energy_max_ev": st.sampled_from([0.0, 1e11, 1e31]),
    "detector": st.sampled_from(["iact", "", None]),
    "attributes": st.sampled_from([{}, {"a": 1}, {"a": None}, {"a": {"b": 1}}]),
    "warnings": st.sampled_from([[], ["x"], [1]]),
    "replicas": st.sampled_from([[], [{"storage": "d", "path": "a"}], [{"storage": "d", "path": "/a"}]]),
    "relations": st.sampled_from([[], [{"kind": "index_of", "path": "a"}], [{"kind": "index_of"}]]),
    "unknown": st.just(1),
}
GOOD = {"facility": "aurora", "storage": "disk", "path": "a", "size_bytes": 1}
SLOW = msgspec.json.Decoder(FileRecord)


def read(decode: Any, line: bytes) -> Any:
    try:
        return msgspec.to_builtins(decode(line))
    except RecordError as error:
        return error.field, str(error)


@given(st.fixed_dictionaries({}, optional=VALUES), st.sampled_from([*GOOD]))
def test_a_line_is_good_or_bad_for_the_same_reason_however_it_is_read(values: dict[str, Any], kept: str) -> None:
    line = json.dumps({**GOOD, **values, kept: GOOD[kept]}).encode()
    slow = read(lambda text: decode_as(SLOW, text), line)
    quick = read(decode_line, line)
    if isinstance(slow, tuple) and slow[0] in ("facility", "storage", "detector"):
        return  # names are looked up in the vocabulary, which has no bad ones
    assert quick == slow


def test_what_is_not_json_is_told_so() -> None:
    for line in (b"", b"[]", b"5", b"{", b"\xff", b'{"facility": "\\u0000"}', b"[" * 5000):
        assert read(decode_line, line) == read(lambda text: decode_as(SLOW, text), line)
