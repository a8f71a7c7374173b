"""The readers of tables in text: delimited, fixed width, without names, transposed, and ECSV."""

import io
import pickle
import warnings
from contextlib import suppress
from typing import Any

import msgspec
import numpy as np
import pytest
from astropy.table import Table
from hypothesis import given, settings
from hypothesis import strategies as st

from extractors.errors import AddressError, ContentError
from extractors.readers.address import parse_address
from extractors.readers.lines import HEADER_BYTES
from extractors.readers.reader import Content, RawValue, ReadLimits, load_reader
from extractors.readers.table import MAX_LINE_BYTES, EcsvReader, TableOptions, TableReader
from extractors.readers.tabular import PIECE_ROWS

EVENTS = b"""# Station: (501) Somewhere
# run energy name
1 2.5 Crab
1 -999 "Mrk 421"
2 10 Crab
# Finished.
"""


def read(data: bytes, *texts: str, header_only: bool = False, **options: Any) -> Content:
    reader = TableReader(msgspec.convert(options, TableOptions))
    addresses = [parse_address(text) for text in texts]
    for address in addresses:
        reader.check(address)
    return reader.read(io.BytesIO(data), addresses, limits=ReadLimits(header_only=header_only))


def values(content: Content) -> dict[str, object]:
    assert not content.oddities
    return {text: raw.value for text, raw in content.values.items()}


def test_columns_are_found_by_name_and_by_number() -> None:
    found = read(
        EVENTS, "min(energy)", "max(#2)", "distinct(name)", "rows(table)", "name[2]", "#1[3]", header="comment"
    )
    assert values(found) == {
        "min(energy)": -999.0,
        "max(#2)": 10.0,
        "distinct(name)": ("Crab", "Mrk 421"),
        "rows(table)": 3,
        "name[2]": "Mrk 421",
        "#1[3]": "2",
    }


def test_missing_marks_do_not_count() -> None:
    reader = TableReader(msgspec.convert({"header": "comment"}, TableOptions))
    address = parse_address("min(energy)", missing=(-999,))
    found = reader.read(io.BytesIO(EVENTS), [address], limits=ReadLimits())
    assert [raw.value for raw in found.values.values()] == [2.5]


def test_comments_are_searched_and_are_no_rows() -> None:
    found = read(EVENTS, r"/Station: \((\d+)\)/", "/^# Finished/", "/nowhere/", header="comment")
    assert values(found) == {r"/Station: \((\d+)\)/": "501", "/^# Finished/": "# Finished"}


def test_lines_before_the_table_are_passed_over_but_searched() -> None:
    data = b"Data of run 12\n\na,b\n1,2\n"
    assert values(read(data, "/run (.*)/", "max(b)", delimiter=",", skip=1)) == {"/run (.*)/": "12", "max(b)": 2}


def test_csv_has_names_in_its_first_line_and_quoted_cells() -> None:
    data = b'id,"energy [GeV]",text\r\n1,2.5,"a, ""b""\nand more"\r\n\r\n2,3.5,plain\r\n'
    found = read(data, "max(energy [GeV])", "text[1]", "rows(table)", delimiter=",")
    assert values(found) == {"max(energy [GeV])": 3.5, "text[1]": 'a, "b"\nand more', "rows(table)": 2}


def test_units_come_from_the_description_or_from_the_second_line() -> None:
    declared = read(b"e t\n1 2\n", "max(e)", "max(#1)", "e[1]", "count(e)", units={"e": "GeV"})
    assert [raw.unit for raw in declared.values.values()] == ["GeV", "GeV", None, "GeV"]
    in_row = read(b"e\tt\n[TeV]\t(s)\n1\t2\n", "max(e)", "max(t)", "rows(table)", delimiter="\t", units="row")
    assert in_row.values["max(e)"] == RawValue(value=1, unit="TeV")
    assert in_row.values["max(t)"] == RawValue(value=2, unit="s")
    assert in_row.values["rows(table)"].value == 1
    by_number = read(b"1 2\n", "max(#2)", header=False, units={"#2": "eV"})
    assert by_number.values["max(#2)"].unit == "eV"


def test_rows_may_be_ragged_and_cells_that_are_not_there_are_no_values() -> None:
    data = b"1467588055422\n#fff\tCrab\n#fff\t5.5\t7\n"
    found = read(
        data,
        "#1[1]",
        "#2[1]",
        "#2[2]",
        "#3[3]",
        "#2[9]",
        "count(#3)",
        delimiter="\t",
        header=False,
        comment="",
        quote="",
    )
    assert values(found) == {"#1[1]": "1467588055422", "#2[2]": "Crab", "#3[3]": "7", "count(#3)": 1}


def test_rows_are_compared_by_several_columns() -> None:
    data = b"10 5\n10 3\n9 8\n"
    found = read(data, "min(s; ns)", "max(s; ns)", "n_distinct(s)", columns=["s", "ns"])
    assert values(found) == {"min(s; ns)": (9, 8), "max(s; ns)": (10, 5), "n_distinct(s)": 2}


def test_text_of_fixed_width_is_cut_by_its_widths() -> None:
    data = b"  1Crab  2.5\n 12Mrk 42  3\n"
    found = read(data, "max(e)", "name[2]", "max(run)", widths=[3, 6, 3], columns=["run", "name", "e"])
    assert values(found) == {"max(e)": 3.0, "name[2]": "Mrk 42", "max(run)": 12}


def test_a_transposed_table_has_its_columns_in_lines() -> None:
    data = b"# rate run\n7.5,8.5,9.5\n2913.0,2914.0\n# Finished\n"
    found = read(
        data, "max(rate)", "min(run)", "run[2]", "run[3]", "#1[3]", "rows(table)", "max(rate; run)",
        delimiter=",", header="comment", transposed=True,
    )  # fmt: skip
    assert values(found) == {
        "max(rate)": 9.5, "min(run)": 2913.0, "run[2]": "2914.0", "#1[3]": "9.5", "rows(table)": 3,
        "max(rate; run)": (8.5, 2914.0),
    }  # fmt: skip
    assert values(read(b"rate;1;2\nrun;5;6\n", "max(run)", delimiter=";", transposed=True)) == {"max(run)": 6}


def test_whole_numbers_stay_whole_and_too_large_ones_are_not_rounded() -> None:
    big = 2**63 + 1
    found = read(f"id n\n{big} 1\n{2**60 + 1} \n".encode(), "max(id)", "min(id)", "max(n)")
    assert values(found) == {"max(id)": big, "min(id)": 2**60 + 1, "max(n)": 1.0}
    longer = read(f"id\n{2**70}\n".encode(), "distinct(id)", "max(id)")
    assert longer.values["distinct(id)"].value == (str(2**70),)
    assert "no column of numbers" in longer.oddities["max(id)"]


def test_columns_that_only_look_like_numbers_can_be_declared_text() -> None:
    assert values(read(b"run\n007\n", "only(run)", text=["run"])) == {"only(run)": "007"}
    assert values(read(b"run\n007\n", "only(#1)", text=["run"])) == {"only(#1)": "007"}


def test_a_decimal_comma_can_be_declared() -> None:
    assert values(read(b"e;n\n2,5;1\n3;2\n", "max(e)", "min(e)", delimiter=";", decimal=",")) == {
        "max(e)": 3.0,
        "min(e)": 2.5,
    }


def test_a_column_without_any_value_has_a_count_of_zero_only() -> None:
    assert values(read(b"a,b\n1,\n2,\n", "count(b)", "max(b)", "first(b)", delimiter=",")) == {"count(b)": 0}


def test_a_word_far_down_in_a_column_of_numbers_is_odd_and_no_other_column_suffers() -> None:
    data = b"a,b\n" + b"1,2\n" * PIECE_ROWS + b"1,bad\n"
    found = read(data, "max(a)", "max(b)", "distinct(b)", "max(a; b)", delimiter=",")
    assert {text: raw.value for text, raw in found.values.items()} == {"max(a)": 1}
    assert all("'bad'" in reason for reason in found.oddities.values())
    assert len(found.oddities) == 3


def test_python_spellings_of_numbers_are_text() -> None:
    assert "no column of numbers" in read(b"a\n1_000\n", "max(a)").oddities["max(a)"]


def test_a_name_that_stands_twice_is_odd_and_numbers_still_work() -> None:
    found = read(b"a,a\n1,2\n", "max(a)", "max(#2)", "a[1]", delimiter=",")
    assert {text: raw.value for text, raw in found.values.items()} == {"max(#2)": 2}
    assert set(found.oddities) == {"max(a)", "a[1]"}


def test_columns_that_are_not_there_are_absent_not_odd() -> None:
    assert read(b"a,b\n1,2\n", "max(c)", "c[1]", "min(a; c)", "a[5]", delimiter=",") == Content()


def test_headers_alone_give_cells_and_comments_but_no_columns() -> None:
    found = read(EVENTS, "name[1]", "/Station: (.*)/", "max(energy)", "rows(table)", header="comment", header_only=True)
    assert values(found) == {"name[1]": "Crab", "/Station: (.*)/": "(501) Somewhere"}


@pytest.mark.parametrize("data", [b"", b"\n\n", b"# only comments\n"])
def test_a_table_without_the_line_of_names_is_refused(data: bytes) -> None:
    with pytest.raises(ContentError, match="no line with the names"):
        read(data, "max(a)")


def test_an_empty_table_without_names_has_no_rows() -> None:
    assert values(read(b"", "rows(table)", "#1[1]", "max(#1)", header=False)) == {"rows(table)": 0}


@pytest.mark.parametrize("cell", ['"open', '"a"b'])
def test_a_lone_quote_swallows_no_rows(cell: str) -> None:
    with pytest.raises(ContentError, match="no table as described"):
        read(f"a,b\n{cell},2\n3,4\n5,6\n".encode(), "rows(table)", delimiter=",")
    assert values(read(f"a,b\n{cell},2\n3,4\n".encode(), "rows(table)", delimiter=",", quote="")) == {"rows(table)": 2}


def test_lines_and_cells_without_end_are_refused() -> None:
    with pytest.raises(ContentError, match="line 2 has more than"):
        read(b"a\n" + b"1 " * MAX_LINE_BYTES, "max(a)")
    with pytest.raises(ContentError, match="field larger"):
        read(b"a,b\n" + b"x" * 200_000 + b",1\n", "max(b)", delimiter=",")
    found = read(b"a b\n" + b"x" * 100_000 + b" 1\n", "a[1]", "max(b)")
    assert "at most" in found.oddities["a[1]"]
    assert found.values["max(b)"].value == 1


def test_a_transposed_table_without_end_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("extractors.readers.table.MAX_TRANSPOSED_CELLS", 100)
    with pytest.raises(ContentError, match="more than 100 cells"):
        read(b"a,1\n" * 51, "max(a)", delimiter=",", transposed=True)


def test_with_headers_only_the_rows_are_not_searched_to_their_end() -> None:
    stream = io.BytesIO(b"a,b\n" + b"1,2\n" * 1_000_000)
    addresses = [parse_address(text) for text in ("a[1]", "a[900000]", "/nowhere/")]
    reader = TableReader(msgspec.convert({"delimiter": ","}, TableOptions))
    assert set(reader.read(stream, addresses, limits=ReadLimits(header_only=True)).values) == {"a[1]"}
    assert stream.tell() < 2 * HEADER_BYTES


def test_bytes_that_are_no_text_are_odd_only_where_they_are() -> None:
    found = read(b"a,b\ncaf\xe9,1\n", "a[1]", "distinct(a)", "max(b)", delimiter=",")
    assert {text: raw.value for text, raw in found.values.items()} == {"max(b)": 1}
    assert set(found.oddities) == {"a[1]", "distinct(a)"}
    assert values(read(b"a,b\ncaf\xe9,1\n", "a[1]", delimiter=",", fallback="latin-1")) == {"a[1]": "café"}


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"columns": ["a"], "header": True}, "columns and a header"),
        ({"widths": [3], "delimiter": ","}, "widths and a delimiter"),
        ({"transposed": True, "units": "row"}, "transposed"),
        ({"encoding": "utf-16"}, "keeps ASCII"),
        ({"delimiter": ",,"}, "length <= 1"),
        ({"widths": [0]}, ">= 1"),
        ({"delimeter": ","}, "delimeter"),
    ],
)
def test_options_that_make_no_sense_are_refused(options: dict[str, Any], reason: str) -> None:
    with pytest.raises(msgspec.ValidationError, match=reason):
        load_reader("table", options)


@pytest.mark.parametrize("address", ["energy", "energy[0]", "rows(energy)", "/(/", "//", "count(/x/)"])
def test_addresses_of_other_shapes_are_refused(address: str) -> None:
    with pytest.raises(AddressError, match="expected"):
        TableReader().check(parse_address(address))


def test_names_that_the_table_cannot_have_are_refused_when_the_description_is_loaded() -> None:
    with pytest.raises(AddressError, match="none has a name"):
        load_reader("table", {"header": False}).check(parse_address("max(energy)"))
    with pytest.raises(AddressError, match="run, energy"):
        load_reader("table", {"columns": ["run", "energy"]}).check(parse_address("max(enrgy)"))


numbers = st.one_of(st.integers(-(2**62), 2**62), st.floats(allow_nan=False, allow_infinity=False), st.none())


@given(rows=st.lists(st.tuples(numbers, numbers), min_size=1, max_size=30), delimiter=st.sampled_from([",", "\t", ";"]))
def test_the_range_of_a_column_is_that_of_its_numbers(rows: list[tuple[Any, Any]], delimiter: str) -> None:
    lines = [delimiter.join("" if cell is None else repr(cell) for cell in row) for row in rows]
    data = "\n".join(["a" + delimiter + "b", *lines]).encode()
    found = read(data, "min(a)", "max(a)", "count(a)", delimiter=delimiter)
    cells = [row[0] for row in rows if row[0] is not None]
    is_whole = all(isinstance(cell, int) for cell in cells)
    if not cells:
        assert found == Content(values={"count(a)": RawValue(value=0)})
    elif is_whole and len(cells) < len(rows) and any(abs(cell) > 2**53 for cell in cells):
        assert set(found.oddities) == {"min(a)", "max(a)"}
    else:
        numbers = cells if is_whole else [float(cell) for cell in cells]
        assert [raw.value for raw in found.values.values()] == [min(numbers), max(numbers), len(cells)]


@given(data=st.binary(max_size=200), header=st.sampled_from([True, False, "comment"]), transposed=st.booleans())
def test_no_bytes_make_the_reader_fail(data: bytes, header: bool | str, transposed: bool) -> None:
    reader = TableReader(msgspec.convert({"header": header, "transposed": transposed, "delimiter": ","}, TableOptions))
    addresses = [
        parse_address(text) for text in ("max(#1)", "distinct(#2)", "#1[1]", "rows(table)", "/(.)/", "max(#1; #2)")
    ]
    with suppress(ContentError):
        assert "rows(table)" in reader.read(io.BytesIO(data), addresses, limits=ReadLimits()).values


def test_the_readers_can_be_sent_to_other_processes() -> None:
    reader = pickle.loads(pickle.dumps(load_reader("table", {"columns": ["a"], "units": {"a": "eV"}})))
    assert reader.read(io.BytesIO(b"5\n"), [parse_address("max(a)")], limits=ReadLimits()).values == {
        "max(a)": RawValue(value=5, unit="eV")
    }


# ------------------------------------------------------------------------------------------------------- ECSV

ECSV = b"""# %ECSV 1.0
# ---
# datatype:
# - {name: e_ref, unit: TeV, datatype: float64}
# - {name: time, unit: MJD, datatype: float64}
# - {name: n, datatype: int64}
# - {name: source, datatype: string}
# - {name: is_ul, datatype: bool}
# - {name: flux, unit: cm-2, datatype: string, subtype: 'float64[2]'}
# meta: !!omap
# - telescope: north
# - source: {id: 58, names: [M 87, Virgo A]}
# - mjd: {max: 54647.0, min: 54466.0}
# - __serialized_columns__: {e_ref: {unit: !astropy.units.Unit {unit: TeV}}}
# schema: astropy-2.0
e_ref time n source is_ul flux
0.5   55000.5 9007199254740993 "M 87" False [1.0,2.0]
2.5 "" 3 0058 True [null,-4.0]
nan 54000 4 "" False ""
"""


def read_ecsv(data: bytes, *texts: str, header_only: bool = False, **options: Any) -> Content:
    reader = load_reader("ecsv", options)
    addresses = [parse_address(text) for text in texts]
    for address in addresses:
        reader.check(address)
    return reader.read(io.BytesIO(data), addresses, limits=ReadLimits(header_only=header_only))


def test_ecsv_columns_have_the_units_and_types_of_the_header() -> None:
    found = read_ecsv(ECSV, "max(e_ref)", "count(e_ref)", "max(n)", "distinct(source)", "sum(is_ul)", "rows(table)")
    assert found.values == {
        "max(e_ref)": RawValue(value=2.5, unit="TeV"),
        "count(e_ref)": RawValue(value=2),
        "max(n)": RawValue(value=9007199254740993),
        "distinct(source)": RawValue(value=("0058", "M 87")),
        "sum(is_ul)": RawValue(value=1),
        "rows(table)": RawValue(value=3),
    }


def test_every_element_of_an_array_cell_is_a_value() -> None:
    found = read_ecsv(ECSV, "min(flux)", "max(flux)", "count(flux)", "max(flux; n)")
    assert {text: raw.value for text, raw in found.values.items()} == {
        "min(flux)": -4.0,
        "max(flux)": 2.0,
        "count(flux)": 3,
    }
    assert found.values["min(flux)"].unit == "cm-2"
    assert "several values in a row" in found.oddities["max(flux; n)"]


def test_the_meta_data_of_ecsv_are_found_by_pointers() -> None:
    found = read_ecsv(ECSV, "meta/telescope", "meta/source/names/1", "meta/mjd/min", "meta/gone", "meta/source/names")
    assert values(found) == {
        "meta/telescope": "north",
        "meta/source/names/1": "Virgo A",
        "meta/mjd/min": 54466.0,
        "meta/source/names": ("M 87", "Virgo A"),
    }


def test_a_description_may_know_the_unit_better_than_the_header() -> None:
    assert read_ecsv(ECSV, "min(time)").values["min(time)"] == RawValue(value=54000.0, unit="MJD")
    assert read_ecsv(ECSV, "min(time)", units={"time": "d"}).values["min(time)"].unit == "d"
    assert read_ecsv(ECSV, "min(time)", units={"#2": "d"}).values["min(time)"].unit == "d"


def test_cells_of_ecsv_are_told_as_they_stand() -> None:
    found = read_ecsv(ECSV, "source[2]", "e_ref[1]", "source[3]", "#4[1]", "gone[1]", header_only=True)
    assert values(found) == {"source[2]": "0058", "e_ref[1]": "0.5", "#4[1]": "M 87"}


@pytest.mark.parametrize("delimiter", [" ", ","])
def test_what_astropy_writes_is_read_alike(delimiter: str) -> None:
    table = Table({"e": np.array([1.5, np.nan, 3.0]), "n": [1, 2, 2], "name": ["a b", "", 'c"d']}, meta={"k": [1, 2]})
    table["e"].unit = "GeV"
    stream = io.StringIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        table.write(stream, format="ascii.ecsv", delimiter=delimiter)
    found = read_ecsv(
        stream.getvalue().encode(), "max(e)", "min(e)", "n_distinct(n)", "distinct(name)", "meta/k", "rows(table)"
    )
    assert found.values["max(e)"] == RawValue(value=3.0, unit="GeV")
    assert values(found) == {
        "max(e)": 3.0, "min(e)": 1.5, "n_distinct(n)": 2, "distinct(name)": ("a b", 'c"d'), "meta/k": (1, 2),
        "rows(table)": 3,
    }  # fmt: skip


def test_a_damaged_cell_loses_its_own_column_only() -> None:
    found = read_ecsv(ECSV.replace(b"2.5 ", b"2.5x "), "max(e_ref)", "max(n)")
    assert "'2.5x'" in found.oddities["max(e_ref)"]
    assert found.values["max(n)"].value == 9007199254740993


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        (b"# %ECSV 1.0", b"# %CSV 1.0", "no ECSV"),
        (b"# datatype:", b"# columns:", "datatype"),
        (b"# - {name: n,", b"# - {name: n", "no YAML"),
        (b"e_ref time n source", b"e_ref time source n", "does not agree"),
        (b"# schema:", b"# delimiter: '|'\n# schema:", "blank or a comma"),
        (b"0.5 ", b'"0.5 ', "damaged"),
        (b"telescope: north", b"telescope: n\xf6rth", "stated encoding"),
    ],
)
def test_what_is_no_whole_ecsv_file_is_refused(old: bytes, new: bytes, reason: str) -> None:
    with pytest.raises(ContentError, match=reason):
        read_ecsv(ECSV.replace(old, new, 1), "max(e_ref)", "rows(table)")


def test_an_ecsv_file_cut_off_anywhere_is_read_as_far_as_it_goes_or_refused() -> None:
    for length in range(len(ECSV)):
        with suppress(ContentError):
            found = read_ecsv(ECSV[:length], "max(e_ref)", "meta/telescope", "max(flux)", "source[1]")
            assert found.values.get("max(e_ref)", RawValue(value=2.5)).value in (0.0, 0.5, 2.0, 2.5)


@pytest.mark.parametrize("address", ["meta", "e_ref", "rows(e_ref)", "/x/", "max(meta/mjd)"])
def test_ecsv_addresses_of_other_shapes_are_refused(address: str) -> None:
    with pytest.raises(AddressError, match="expected"):
        EcsvReader().check(parse_address(address))


@settings(max_examples=50)
@given(cut=st.integers(0, len(ECSV)), junk=st.binary(max_size=20))
def test_no_damage_makes_the_ecsv_reader_fail(cut: int, junk: bytes) -> None:
    with suppress(ContentError):
        read_ecsv(ECSV[:cut] + junk + ECSV[cut + len(junk) :], "max(e_ref)", "max(flux)", "meta/source/id", "is_ul[1]")
