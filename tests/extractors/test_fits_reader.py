"""The FITS reader on valid, odd and hostile files; astropy writes them and is the second opinion."""

import io
import pickle
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pytest
from astropy.io import fits
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from extractors.errors import AddressError, ContentError
from extractors.readers.address import parse_address
from extractors.readers.fits import BLOCK_BYTES, MAX_HDUS, READ_BYTES, FitsReader
from extractors.readers.reader import Content, ReadLimits

Make = dict[str, Callable[..., None]]


def read(data: bytes | BinaryIO, *texts: str, header_only: bool = False) -> Content:
    stream = io.BytesIO(data) if isinstance(data, bytes) else data
    addresses = [parse_address(text) for text in texts]
    return FitsReader().read(stream, addresses, limits=ReadLimits(header_only=header_only))


def read_values(data: bytes, *texts: str) -> list[Any]:
    """Return the values at `texts`, None where there is none."""
    found = read(data, *texts)
    assert not found.oddities
    return [found.values[text].value if text in found.values else None for text in texts]


def to_bytes(*hdus: fits.hdu.base._BaseHDU) -> bytes:
    stream = io.BytesIO()
    fits.HDUList([fits.PrimaryHDU(), *hdus]).writeto(stream)
    return stream.getvalue()


def table(*columns: fits.Column, name: str = "EVENTS") -> bytes:
    return to_bytes(fits.BinTableHDU.from_columns(list(columns), name=name))


@pytest.fixture
def aurora_path(tmp_path: Path, make: Make) -> Path:
    make["aurora"](tmp_path / "a.fits")
    return tmp_path / "a.fits"


@pytest.fixture
def aurora(aurora_path: Path) -> bytes:
    return aurora_path.read_bytes()


def test_keywords_counts_and_ranges_come_with_the_column_s_unit(aurora: bytes) -> None:
    found = read(aurora, "EVENTS.OBS_ID", "rows(EVENTS)", "min(EVENTS.ENERGY)", "max(EVENTS.ENERGY)").values
    assert found["EVENTS.OBS_ID"].value == 41
    assert found["rows(EVENTS)"].value == 3
    assert (found["min(EVENTS.ENERGY)"].value, found["max(EVENTS.ENERGY)"].value) == (0.5, 30.0)
    assert found["max(EVENTS.ENERGY)"].unit == "TeV"


class Counted(io.BytesIO):
    """Bytes that know how far they were read, and whether somebody went back."""

    furthest = 0
    went_back = False

    def read(self, size: int | None = -1) -> bytes:
        piece = super().read(size)
        self.furthest = max(self.furthest, self.tell())
        return piece

    def seek(self, offset: int, whence: int = 0) -> int:
        self.went_back = self.went_back or offset < self.tell()
        return super().seek(offset, whence)


def test_only_the_headers_in_question_are_read() -> None:
    data = to_bytes(fits.ImageHDU(np.zeros((1000, 1000)), name="MAP"), fits.ImageHDU(name="LAST"))
    stream = Counted(data)
    assert read(stream, "MAP.NAXIS", "PRIMARY.NAXIS").values["MAP.NAXIS"].value == 2
    assert stream.furthest <= READ_BYTES


def test_a_stream_is_only_read_forward_so_that_a_packed_one_is_unpacked_once(aurora: bytes) -> None:
    stream = Counted(aurora)
    found = read(stream, "rows(GTI)", "max(EVENTS.ENERGY)", "min(GTI.START)", "PRIMARY.NAXIS", "GONE.KEY").values
    assert len(found) == 4
    assert not stream.went_back


def test_numpy_and_astropy_stay_away_from_plain_headers(aurora_path: Path) -> None:
    code = """
import sys
from extractors.readers.address import parse_address
from extractors.readers.fits import FitsReader
from extractors.readers.reader import ReadLimits
addresses = [parse_address(text) for text in ("EVENTS.OBS_ID", "rows(EVENTS)", "max(EVENTS.ENERGY)", "GONE.KEY")]
with open(sys.argv[1], "rb") as stream:
    found = FitsReader().read(stream, addresses, limits=ReadLimits(header_only=True))
assert {text: raw.value for text, raw in found.values.items()} == {"EVENTS.OBS_ID": 41, "rows(EVENTS)": 3}
assert not {"astropy", "numpy"} & set(sys.modules), "imported"
"""
    subprocess.run([sys.executable, "-c", code, str(aurora_path)], check=True)


def test_what_is_not_there_is_absent_not_odd(aurora: bytes) -> None:
    found = read(aurora, "EVENTS.NOTHING", "GONE.KEY", "rows(GONE)", "max(EVENTS.GONE)")
    assert found == Content()


def test_hdus_go_by_number_and_in_any_case_and_columns_too(aurora: bytes) -> None:
    assert read_values(aurora, "1.OBS_ID", "events.obs_id", "max(events.energy)", "rows(1)") == [41, 41, 30.0, 3]


def test_the_names_of_all_hdus_are_a_column(aurora: bytes) -> None:
    assert read_values(aurora, "distinct(HDUS)", "count(HDUS)", "PRIMARY.NAXIS") == [("EVENTS", "GTI", "PRIMARY"), 3, 0]
    assert read(aurora, "n_distinct(HDUS)", header_only=True).values["n_distinct(HDUS)"].value == 3


def test_an_hdu_called_hdus_is_one_all_the_same() -> None:
    assert read_values(to_bytes(fits.ImageHDU(name="HDUS")), "HDUS.NAXIS") == [0]


def test_the_primary_hdu_may_have_a_name_of_its_own() -> None:
    primary = fits.PrimaryHDU()
    primary.header["EXTNAME"] = "Sky"
    stream = io.BytesIO()
    primary.writeto(stream)
    assert read_values(stream.getvalue(), "SKY.NAXIS", "PRIMARY.NAXIS", "0.NAXIS", "only(HDUS)") == [0, 0, 0, "Sky"]


def test_the_first_of_two_hdus_with_one_name_counts() -> None:
    data = to_bytes(fits.ImageHDU(name="MAP"), fits.ImageHDU(name="MAP"))
    assert read(data, "MAP.NAXIS").values["MAP.NAXIS"].value == 0


def test_headers_alone_give_no_ranges_but_counts(aurora: bytes) -> None:
    found = read(aurora, "max(EVENTS.ENERGY)", "rows(EVENTS)", "EVENTS.OBS_ID", header_only=True).values
    assert set(found) == {"rows(EVENTS)", "EVENTS.OBS_ID"}


def test_not_a_number_is_left_out_of_ranges_and_nothing_else_gives_none() -> None:
    some = np.array([np.nan, 2.0, np.inf, 1.0])
    data = table(fits.Column("A", "D", array=some), fits.Column("B", "D", array=np.full(4, np.nan)))
    assert {key: value.value for key, value in read(data, "min(EVENTS.A)", "max(EVENTS.A)").values.items()} == {
        "min(EVENTS.A)": 1.0,
        "max(EVENTS.A)": 2.0,
    }
    assert read(data, "max(EVENTS.B)") == Content()


def test_scaled_and_unsigned_columns_give_physical_values() -> None:
    unsigned = fits.Column("U", "J", bzero=2**31, array=np.array([5, 4_000_000_000], dtype=np.uint32))
    signed = fits.Column("B", "B", bzero=-128, array=np.array([-5, 100], dtype=np.int8))
    large = fits.Column("K", "K", bzero=2**63, array=np.array([3, 2**64 - 1], dtype=np.uint64))
    hdu = fits.BinTableHDU.from_columns(
        [fits.Column("S", "I", array=np.array([1, 4])), unsigned, signed, large], name="EVENTS"
    )
    hdu.header.update(TSCAL1=0.5, TZERO1=100.0)
    data = to_bytes(hdu)
    assert read_values(data, "min(EVENTS.S)", "max(EVENTS.S)") == [100.5, 102.0]
    assert read_values(data, "min(EVENTS.U)", "max(EVENTS.U)") == [5, 4_000_000_000]
    assert read_values(data, "min(EVENTS.B)", "max(EVENTS.B)") == [-5, 100]
    assert read_values(data, "min(EVENTS.K)", "max(EVENTS.K)") == [3, 2**64 - 1]


def test_whole_numbers_keep_every_digit() -> None:
    data = table(fits.Column("OBS_ID", "K", array=np.full(3, 2**62 + 1)))
    (found,) = read_values(data, "only(EVENTS.OBS_ID)")
    assert (type(found), found) == (int, 2**62 + 1)


def test_nulls_are_no_values_and_rows_stay_side_by_side() -> None:
    data = table(
        fits.Column("N", "K", null=-999, array=np.array([-999, 2**62, 7])),
        fits.Column("T", "J", null=-999, array=np.array([5, -999, -999])),
    )
    assert read_values(data, "min(EVENTS.N)", "max(EVENTS.N)", "count(EVENTS.N)") == [7, 2**62, 2]
    assert read_values(data, "min(EVENTS.T; EVENTS.N)") == [None]
    (listed,) = read_values(data, "all(EVENTS.N)")
    assert np.isnan(listed[0])
    assert listed[1:] == (2**62, 7)


def test_scaled_nulls_are_no_values_either() -> None:
    hdu = fits.BinTableHDU.from_columns([fits.Column("S", "I", null=-1, array=np.array([-1, 4]))], name="EVENTS")
    hdu.header["TSCAL1"] = 0.5
    assert read_values(to_bytes(hdu), "min(EVENTS.S)", "count(EVENTS.S)") == [2.0, 1]


def test_text_and_truth_columns_are_read() -> None:
    data = table(
        fits.Column("NAME", "8A", array=np.array(["Crab", "", "Mrk 421"])),
        fits.Column("GOOD", "L", array=np.array([True, False, True])),
    )
    assert read_values(data, "distinct(EVENTS.NAME)", "count(EVENTS.NAME)") == [("Crab", "Mrk 421"), 2]
    assert read_values(data, "all(EVENTS.GOOD)", "sum(EVENTS.GOOD)") == [(True, False, True), 2]
    unknown = data.replace(b"TCrab", b"\0Crab").replace(b"Crab\0\0\0\0T", b"Crab\0\0\0\0\0")
    assert read_values(unknown, "count(EVENTS.GOOD)") == [2]
    rest = data.replace(b"Crab\0\0\0\0", b"Crab\0old")
    assert read_values(rest, "first(EVENTS.NAME)") == ["Crab"]


@pytest.mark.parametrize(
    ("form", "array"),
    [
        ("8E", np.zeros((2, 8))),
        ("32X", np.zeros((2, 32), dtype=bool)),
        ("M", np.zeros(2, dtype=complex)),
        ("PE()", np.array([np.zeros(2), np.zeros(3)], dtype=object)),
    ],
)
def test_columns_of_other_things_are_odd_and_disturb_no_others(form: str, array: Any) -> None:
    data = table(fits.Column("ODD", form, array=array), fits.Column("E", "E", array=np.array([1.0, 2.0])))
    found = read(data, "max(EVENTS.E)", "max(EVENTS.ODD)")
    assert found.values["max(EVENTS.E)"].value == 2.0
    assert "column ODD holds" in found.oddities["max(EVENTS.ODD)"]


def test_offsets_that_need_more_than_64_bits_are_odd() -> None:
    hdu = fits.BinTableHDU.from_columns([fits.Column("K", "K", array=np.array([1]))], name="EVENTS")
    hdu.header["TZERO1"] = 2**63 - 1
    assert "TZERO" in read(to_bytes(hdu), "max(EVENTS.K)").oddities["max(EVENTS.K)"]


def test_the_columns_of_an_empty_table_are_there_without_values() -> None:
    data = table(fits.Column("E", "E", array=np.array([])))
    assert read_values(data, "count(EVENTS.E)", "max(EVENTS.E)", "count(EVENTS.GONE)") == [0, None, None]


def test_rows_are_compared_by_several_columns_of_one_table() -> None:
    data = table(
        fits.Column("SEC", "J", array=np.array([7, 5, 5])), fits.Column("NS", "J", array=np.array([0, 900, 100]))
    )
    assert read_values(data, "min(EVENTS.SEC; EVENTS.NS)") == [(5, 100)]
    with pytest.raises(AddressError, match="columns of one HDU"):
        FitsReader().check(parse_address("min(EVENTS.SEC; GTI.NS)"))


def test_columns_of_text_tables_and_images_are_odd() -> None:
    text = fits.TableHDU.from_columns([fits.Column("A", "I5", array=np.array([1, 2]))], name="TEXT")
    data = to_bytes(text, fits.ImageHDU(np.zeros((2, 2)), name="MAP"))
    found = read(data, "max(TEXT.A)", "rows(TEXT)", "max(MAP.A)")
    assert found.values["rows(TEXT)"].value == 2
    assert {text: "is no binary table" in why for text, why in found.oddities.items()} == {
        "max(TEXT.A)": True,
        "max(MAP.A)": True,
    }


def test_rows_of_an_image_are_odd() -> None:
    assert "is no table" in read(to_bytes(fits.ImageHDU(name="MAP")), "rows(MAP)").oddities["rows(MAP)"]


@given(values=st.lists(st.floats(width=32), min_size=1, max_size=50))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=50)
def test_ranges_equal_those_of_numpy(values: list[float]) -> None:
    data = table(fits.Column("E", "E", array=np.array(values, dtype=np.float32)))
    finite = [value for value in values if np.isfinite(value)]
    found = read(data, "min(EVENTS.E)", "max(EVENTS.E)").values
    assert [found[key].value for key in found] == ([min(finite), max(finite)] if finite else [])


def test_a_long_table_is_read_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("extractors.readers.fits.COLUMN_BYTES", 100)
    data = table(fits.Column("E", "D", array=np.arange(1000.0)))
    found = read(data, "min(EVENTS.E)", "max(EVENTS.E)").values
    assert [value.value for value in found.values()] == [0.0, 999.0]


@pytest.mark.parametrize("data", [b"", b"hello", b"\x89HDF\r\n\x1a\n", b"SIMPLE  =" + b" " * 3000])
def test_what_is_no_fits_file_says_so(data: bytes) -> None:
    with pytest.raises(ContentError):
        read(data, "EVENTS.OBS_ID")


@pytest.mark.parametrize("length", [2880 + 100, 2 * 2880])
def test_a_file_cut_within_a_header_says_so(aurora: bytes, length: int) -> None:
    with pytest.raises(ContentError, match="ends within a header"):
        read(aurora[:length], "EVENTS.OBS_ID")


def test_a_file_cut_within_its_table_says_so(aurora: bytes) -> None:
    begin = fits.open(io.BytesIO(aurora))[1].fileinfo()["datLoc"]
    with pytest.raises(ContentError, match="ends within the table"):
        read(aurora[: begin + 30], "max(EVENTS.ENERGY)")


def test_a_file_cut_within_data_that_are_passed_over_says_so() -> None:
    data = to_bytes(fits.ImageHDU(np.ones((100, 100)), name="MAP"), fits.ImageHDU(name="LAST"))
    begin = fits.open(io.BytesIO(data))[1].fileinfo()["datLoc"]
    with pytest.raises(ContentError, match="ends within the data of HDU MAP"):
        read(data[: begin + 40_000], "LAST.NAXIS")
    assert read(data[: begin + 80_000], "MAP.NAXIS", "LAST.NAXIS").values.keys() == {"MAP.NAXIS"}


@pytest.mark.parametrize("length", range(0, 14_400, 97))
def test_a_file_cut_anywhere_says_so_or_holds_what_was_asked(aurora: bytes, length: int) -> None:
    texts = ("EVENTS.OBS_ID", "rows(EVENTS)", "max(EVENTS.ENERGY)", "max(GTI.STOP)")
    try:
        found = read(aurora[:length], *texts)
    except ContentError:
        return
    # Where the file ends behind the first HDU or the second, nothing tells that there was more.
    assert set(found.values) in (set(), set(texts[:3]), set(texts))


def test_a_header_without_end_is_refused() -> None:
    card = b"COMMENT x".ljust(80)
    data = b"SIMPLE  =                    T".ljust(80) + card * 36 * 3000
    with pytest.raises(ContentError, match="more than 2000 blocks"):
        read(data, "EVENTS.OBS_ID")


def test_the_word_end_elsewhere_ends_no_header() -> None:
    hdu = fits.ImageHDU(name="MAP")
    hdu.header["COMMENT"] = "END".ljust(72)
    hdu.header["AFTER"] = 5
    data = to_bytes(hdu)
    shifted = data.replace(b"COMMENT END".ljust(80), b"COMMENT " + b"END".rjust(72))
    assert read_values(data, "MAP.AFTER") == read_values(shifted, "MAP.AFTER") == [5]


def test_20000_cards_are_read_in_little_time() -> None:
    cards = b"".join(f"K{number:<7}= {number:>20}".encode().ljust(80) for number in range(20_000))
    header = fits.ImageHDU(name="MAP").header.tostring(padding=False).encode().replace(b"END".ljust(80), cards)
    padded = (header + b"END".ljust(80)).ljust(-(-(len(header) + 80) // BLOCK_BYTES) * BLOCK_BYTES)
    data = to_bytes() + padded + to_bytes(fits.ImageHDU(name="LAST"))[BLOCK_BYTES:]
    begin = time.perf_counter()
    assert read_values(data, "MAP.K19999", "LAST.NAXIS") == [19_999, 0]
    assert time.perf_counter() - begin < 5


def test_a_keyword_that_stands_twice_is_the_first() -> None:
    hdu = fits.ImageHDU(name="MAP")
    hdu.header.append(fits.Card("TELLIST", "1,2"))
    hdu.header.append(fits.Card("TELLIST", 2))
    assert read_values(to_bytes(hdu), "MAP.TELLIST") == ["1,2"]


def test_a_damaged_card_is_odd_and_does_not_disturb_the_others(aurora: bytes) -> None:
    damaged = aurora.replace(b"OBJECT  = 'Crab Nebula'", b"OBJECT  = 'Crab Nebula ")
    found = read(damaged, "EVENTS.OBJECT", "EVENTS.OBS_ID", "GTI.NAXIS2", "max(EVENTS.ENERGY)")
    assert set(found.values) == {"EVENTS.OBS_ID", "GTI.NAXIS2", "max(EVENTS.ENERGY)"}
    assert "the card OBJECT cannot be read" in found.oddities["EVENTS.OBJECT"]


def test_columns_that_do_not_fill_their_row_are_odd(aurora: bytes) -> None:
    damaged = aurora.replace(b"NAXIS1  =                   28", b"NAXIS1  =                   27")
    assert damaged != aurora
    found = read(damaged, "max(EVENTS.ENERGY)", "EVENTS.OBS_ID")
    assert found.values["EVENTS.OBS_ID"].value == 41
    assert "have 28 bytes in a row, but NAXIS1 = 27" in found.oddities["max(EVENTS.ENERGY)"]


@pytest.mark.parametrize(
    ("before", "claim"),
    [
        ("NAXIS2  =                    3", "9223372036854775807"),
        ("NAXIS1  =                   28", "9223372036854775807"),
        ("NAXIS   =                    2", "999999999"),
        ("TFIELDS =                    5", "999999999"),
        ("NAXIS2  =                    3", "1000000000"),
    ],
)
def test_absurd_counts_cost_nothing(aurora: bytes, before: str, claim: str) -> None:
    damaged = aurora.replace(before.encode(), f"{before[:10]}{claim:>20}".encode(), 1)
    assert damaged != aurora
    begin = time.perf_counter()
    try:
        found = read(damaged, "max(EVENTS.ENERGY)", "max(GTI.STOP)")
    except ContentError:
        found = Content()
    assert "max(EVENTS.ENERGY)" not in found.values
    assert time.perf_counter() - begin < 1


def test_more_hdus_than_are_walked_through_are_told() -> None:
    end = b"".join(line.encode().ljust(80) for line in ("BITPIX  = 8", "NAXIS   = 0", "END"))
    first, other = (begin.ljust(80).encode() + end for begin in ("SIMPLE  = T", "XTENSION= 'IMAGE'"))
    data = first.ljust(BLOCK_BYTES) + other.ljust(BLOCK_BYTES) * (MAX_HDUS + 5)
    found = read(data, "GONE.KEY", "1.NAXIS", "count(HDUS)")
    assert found.values["1.NAXIS"].value == 0
    assert found.oddities["GONE.KEY"] == f"not in the first {MAX_HDUS} HDUs"


def test_absurd_sizes_are_refused(aurora: bytes) -> None:
    for claim in (b"-11", b"x"):
        damaged = aurora.replace(b"NAXIS2  =                    3", b"NAXIS2  = " + claim.rjust(20))
        with pytest.raises(ContentError):
            read(damaged, "GTI.NAXIS")


@given(st.binary(max_size=200), st.integers(min_value=0, max_value=12000))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=150)
def test_no_damage_does_more_than_a_content_error(aurora_path: Path, damage: bytes, at: int) -> None:
    aurora = aurora_path.read_bytes()
    damaged = aurora[:at] + damage + aurora[at + len(damage) :]
    texts = ("EVENTS.OBS_ID", "rows(EVENTS)", "max(EVENTS.ENERGY)", "rows(GTI)", "distinct(HDUS)", "all(EVENTS.TIME)")
    try:
        found = read(damaged, *texts)
    except ContentError:
        return
    assert set(found.values) | set(found.oddities) <= set(texts)


@pytest.mark.parametrize(
    "text",
    [
        "EVENTS",
        "max(EVENTS)",
        "rows()",
        "mean(EVENTS.ENERGY)",
        "EVENTS.",
        ".KEY",
        "max(EVENTS.E",
        "EVENTS.OBS*",
        "HDUS",
    ],
)
def test_addresses_of_other_shapes_are_refused(text: str) -> None:
    with pytest.raises(AddressError, match=r"expected HDU\.KEYWORD"):
        FitsReader().check(parse_address(text))


@pytest.mark.parametrize(
    "text", ["EVENTS.DATE-OBS", "EFFECTIVE AREA.NAXIS", "0.TELESCOP", "rows(BAND.1)", "sum(E.A)", "distinct(HDUS)"]
)
def test_addresses_of_these_shapes_are_understood(text: str) -> None:
    FitsReader().check(parse_address(text))


def test_the_reader_can_be_sent_to_another_process() -> None:
    assert isinstance(pickle.loads(pickle.dumps(FitsReader())), FitsReader)
