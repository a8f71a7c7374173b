"""The text reader on valid, odd and hostile text."""

import io
import pickle

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from extractors.errors import AddressError
from extractors.readers.address import parse_address
from extractors.readers.lines import CHUNK_BYTES, HEADER_BYTES, TextOptions, iter_lines
from extractors.readers.reader import Content, RawValue, ReadLimits, load_reader
from extractors.readers.text import MAX_LINE_BYTES, PIECE_LINES, TextReader

SHOWERS = b"""start_run: 7
cut_nu: 0.100E+03 0.100E+09-0.100E+01
start_event: 1 1
hit: E=2.5 t=10
hit: E=0.5 t=30
end_event:
start_event: 2 1
hit: E=1e3 t=20
end_event:
"""


def read(data: bytes, *texts: str, header_only: bool = False, **options: object) -> Content:
    reader = TextReader(msgspec.convert(options, TextOptions))
    addresses = [parse_address(text) for text in texts]
    for address in addresses:
        reader.check(address)
    return reader.read(io.BytesIO(data), addresses, limits=ReadLimits(header_only=header_only))


def values(content: Content) -> list[object]:
    assert not content.oddities
    return [raw.value for raw in content.values.values()]


def test_the_first_match_of_an_expression_is_its_group_or_the_whole() -> None:
    found = read(SHOWERS, r"/^start_run:\s*(\d+)/", "/E=[0-9.]+/", "line[2]", "/nowhere/", "line[99]")
    assert found.values == {
        r"/^start_run:\s*(\d+)/": RawValue(value="7"),
        "/E=[0-9.]+/": RawValue(value="E=2.5"),
        "line[2]": RawValue(value="cut_nu: 0.100E+03 0.100E+09-0.100E+01"),
    }
    assert not found.oddities


def test_a_group_that_took_no_part_is_no_value() -> None:
    assert values(read(b"run\nrun 12\n", r"/run(?: (\d+))?/")) == ["12"]


def test_reductions_take_everything_that_an_expression_finds() -> None:
    found = read(
        SHOWERS,
        "count(/^start_event:/)", r"min(/E=(\S+)/)", r"max(/E=(\S+)/)", r"sum(/t=(\d+)/)", "rows(lines)",
        r"distinct(/^(\w+_event)/)", r"last(/E=(\S+)/)",
    )  # fmt: skip
    assert [raw.value for raw in found.values.values()] == [2, 0.5, 1000.0, 60, ("end_event", "start_event"), 1000.0, 9]


def test_several_matches_in_a_line_are_several_values() -> None:
    assert values(read(b"1;2;3\n4;5\n", r"count(/\d/)", r"max(/\d/)")) == [5, 5]


def test_an_expression_may_hold_semicolons_and_brackets() -> None:
    assert values(read(b"a;b(1)\n", r"count(/a;b\(\d\)/)")) == [1]


def test_nothing_found_is_a_count_of_zero_but_no_smallest_value() -> None:
    found = read(SHOWERS, "count(/^track:/)", "min(/^track: (.*)/)")
    assert found == Content(values={"count(/^track:/)": RawValue(value=0)})


def test_words_have_no_smallest_value_and_say_so() -> None:
    assert "no column of numbers" in read(SHOWERS, r"min(/^(\w+):/)").oddities[r"min(/^(\w+):/)"]


def test_a_word_after_many_numbers_is_odd_and_not_passed_over() -> None:
    data = b"n=1\n" * (PIECE_LINES + 5) + b"n=many\n"
    found = read(data, r"max(/n=(\w+)/)", r"distinct(/n=(\w+)/)", r"count(/n=/)")
    assert set(found.oddities) == {r"max(/n=(\w+)/)", r"distinct(/n=(\w+)/)"}
    assert "'many'" in found.oddities[r"max(/n=(\w+)/)"]
    assert found.values["count(/n=/)"].value == PIECE_LINES + 6


def test_numbers_beyond_what_floats_hold_stay_whole() -> None:
    data = b"id=9007199254740993\nid=18446744073709551615\n"
    assert values(read(data, r"min(/id=(\d+)/)", r"max(/id=(\d+)/)")) == [9007199254740993, 18446744073709551615]


def test_missing_marks_and_what_is_not_finite_do_not_count() -> None:
    address = parse_address(r"min(/E=(\S+)/)", missing=(-999,), valid=(None, 50.0))
    data = b"E=-999\nE=nan\nE=inf\nE=7\nE=80\n"
    found = TextReader().read(io.BytesIO(data), [address], limits=ReadLimits())
    assert [raw.value for raw in found.values.values()] == [7.0]


def test_line_ends_and_a_byte_order_mark_are_not_part_of_lines() -> None:
    found = read(b"\xef\xbb\xbffirst\r\nsecond\r\n", "line[1]", "line[2]", "/^first$/", "rows(lines)")
    assert {text: raw.value for text, raw in found.values.items()} == {
        "line[1]": "first", "line[2]": "second", "/^first$/": "first", "rows(lines)": 2,
    }  # fmt: skip


def test_bytes_that_are_no_utf8_are_odd_where_they_are_asked_for() -> None:
    data = b"name: caf\xe9\nrun: 5\n"
    found = read(data, "/^name: (.*)/", "/^run: (.*)/", "line[1]", "count(/^name: (.*)/)", "rows(lines)")
    assert {text: raw.value for text, raw in found.values.items()} == {"/^run: (.*)/": "5", "rows(lines)": 2}
    assert all("no text in the stated encoding" in reason for reason in found.oddities.values())
    assert len(found.oddities) == 3


def test_another_encoding_counts_only_when_the_description_names_it() -> None:
    assert values(read(b"caf\xe9\n", "line[1]", encoding="latin-1")) == ["café"]
    assert values(read("café\n".encode() + b"\xe9t\xe9\n", "line[1]", "line[2]", fallback="latin-1")) == ["café", "été"]


@pytest.mark.parametrize("encoding", ["utf-16", "hex", "nonsense", "cp037"])
def test_encodings_in_which_lines_cannot_be_told_are_refused(encoding: str) -> None:
    with pytest.raises(msgspec.ValidationError, match="expected one that keeps ASCII"):
        load_reader("text", {"encoding": encoding})


def test_a_line_that_is_too_long_is_not_searched_and_says_so() -> None:
    data = b"run: 5\n" + b"E=1 " * MAX_LINE_BYTES + b"run: 6\nafter: 1\n"
    found = read(data, "/run: (.)/", "/after: (.)/", "/gone/", "line[2]", "count(/E=1/)", "line[3]", "rows(lines)")
    assert [raw.value for raw in found.values.values()] == ["5", "after: 1", "1", 3]
    assert set(found.oddities) == {"/gone/", "line[2]", "count(/E=1/)"}
    assert all(str(MAX_LINE_BYTES) in reason for reason in found.oddities.values())


def test_with_headers_only_no_column_is_read_and_not_the_whole_file() -> None:
    data = b"run: 5\n" + b"#\n" * HEADER_BYTES + b"late: 1\n"
    stream = io.BytesIO(data)
    addresses = [parse_address(text) for text in ("/^run: (.)/", "/^late/", "count(/#/)", "rows(lines)")]
    found = TextReader().read(stream, addresses, limits=ReadLimits(header_only=True))
    assert found == Content(values={"/^run: (.)/": RawValue(value="5")})
    assert stream.tell() <= HEADER_BYTES + CHUNK_BYTES


def test_reading_stops_once_all_is_found() -> None:
    stream = io.BytesIO(b"run: 5\n" + b"#\n" * 1_000_000)
    TextReader().read(stream, [parse_address("/^run: (.)/"), parse_address("line[2]")], limits=ReadLimits())
    assert stream.tell() <= CHUNK_BYTES


def test_an_empty_file_has_no_values_and_no_lines() -> None:
    assert read(b"", "/x/", "line[1]", "rows(lines)", "count(/x/)").values == {
        "rows(lines)": RawValue(value=0),
        "count(/x/)": RawValue(value=0),
    }


@pytest.mark.parametrize(
    "address",
    ["//", "/", "/(/", "run", "line[0]", "line[x]", "min(line[3])", "rows(table)", "min(a; b)", "count(/x/; line[1])"],
)
def test_addresses_of_other_shapes_are_refused(address: str) -> None:
    with pytest.raises(AddressError, match="expected"):
        TextReader().check(parse_address(address))


@given(
    lines=st.lists(st.binary(max_size=30).map(lambda raw: raw.replace(b"\n", b"").rstrip(b"\r")), max_size=20),
    chunk_bytes=st.integers(1, 40),
)
def test_lines_are_the_same_however_the_bytes_arrive(lines: list[bytes], chunk_bytes: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("extractors.readers.lines.CHUNK_BYTES", chunk_bytes)
        stream = io.BytesIO(b"".join(line + b"\n" for line in lines))
        found = list(iter_lines(stream, TextOptions(encoding="latin-1"), max_line_bytes=12))
    expected = [None if len(line) > 12 else line.decode("latin-1") for line in lines]
    if lines and lines[0].startswith(b"\xef\xbb\xbf"):
        expected[0] = None if len(lines[0]) > 12 else lines[0][3:].decode("latin-1")
    assert found == expected


@given(data=st.binary(max_size=300))
def test_no_bytes_make_the_reader_fail(data: bytes) -> None:
    found = read(data, "/(.+)/", "line[1]", "max(/(.*)/)", "distinct(/./)", "rows(lines)")
    assert found.values["rows(lines)"].value == data.count(b"\n") + (not data.endswith(b"\n") and bool(data))


def test_the_reader_can_be_sent_to_other_processes() -> None:
    reader = pickle.loads(pickle.dumps(load_reader("text", {"fallback": "latin-1"})))
    assert reader.options.fallback == "latin-1"
