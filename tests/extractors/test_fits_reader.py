"""The FITS reader on valid, odd and hostile files; astropy writes them and is the second opinion."""

import gzip
import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from extractors.errors import AddressError, ContentError, TooLargeError
from extractors.readers.fits import BLOCK_BYTES, FitsReader
from extractors.readers.reader import Content, ReadLimits

Make = dict[str, Callable[..., None]]


def read(data: bytes, *addresses: str, **limits: int) -> Content:
    return FitsReader().read(io.BytesIO(data), addresses, limits=ReadLimits(**limits))  # type: ignore[arg-type]


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


def test_a_packed_file_reads_the_same(aurora: bytes) -> None:
    addresses = ("EVENTS.TSTART", "rows(GTI)", "max(EVENTS.ENERGY)", "PRIMARY.NAXIS", "GONE.KEY")
    assert read(gzip.compress(aurora), *addresses) == read(aurora, *addresses)


def test_what_is_not_there_is_absent_not_odd(aurora: bytes) -> None:
    found = read(aurora, "EVENTS.NOTHING", "GONE.KEY", "rows(GONE)", "max(EVENTS.GONE)")
    assert found == Content()


def test_hdus_go_by_number_and_in_any_case_and_columns_too(aurora: bytes) -> None:
    found = read(aurora, "1.OBS_ID", "events.OBS_ID", "max(events.energy)").values
    assert {value.value for value in found.values()} == {41, 30.0}


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


def test_scaled_and_unsigned_and_null_columns_give_physical_values() -> None:
    unsigned = fits.Column("U", "J", bzero=2**31, array=np.array([5, 4_000_000_000], dtype=np.uint32))
    hdu = fits.BinTableHDU.from_columns([fits.Column("S", "I", array=np.array([1, 4])), unsigned], name="EVENTS")
    hdu.header.update(TSCAL1=0.5, TZERO1=100.0)
    data = to_bytes(hdu)
    stated = fits.open(io.BytesIO(data))[1].data
    assert (stated["S"].max(), stated["U"].max()) == (102.0, 4_000_000_000)
    found = read(data, "min(EVENTS.S)", "max(EVENTS.S)", "max(EVENTS.U)").values
    assert found["min(EVENTS.S)"].value == 100.5
    assert found["max(EVENTS.S)"].value == 102.0
    assert found["max(EVENTS.U)"].value == 4_000_000_000
    nulls = table(fits.Column("N", "J", null=-999, array=np.array([-999, 3, 7])))
    assert read(nulls, "min(EVENTS.N)").values["min(EVENTS.N)"].value == 3


def test_text_and_bit_columns_beside_do_not_disturb_and_have_no_range() -> None:
    data = table(
        fits.Column("NAME", "5A", array=np.array(["a", "b"])),
        fits.Column("BITS", "32X", array=np.zeros((2, 32), dtype=bool)),
        fits.Column("E", "E", array=np.array([1.0, 2.0])),
    )
    found = read(data, "max(EVENTS.E)", "max(EVENTS.NAME)")
    assert found.values["max(EVENTS.E)"].value == 2.0
    assert "not numeric" in found.oddities["max(EVENTS.NAME)"]


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


def test_a_damaged_packing_says_so(aurora: bytes) -> None:
    packed = gzip.compress(aurora)
    with pytest.raises(ContentError, match="gzip"):
        read(packed[: len(packed) // 2], "max(EVENTS.ENERGY)", "GONE.KEY")


def test_a_header_without_end_is_refused() -> None:
    card = b"COMMENT x".ljust(80)
    data = b"SIMPLE  =                    T".ljust(80) + card * 36 * 3000
    with pytest.raises(ContentError, match="more than 2000 blocks"):
        read(gzip.compress(data), "EVENTS.OBS_ID")


def test_a_bomb_ends_at_the_limit(aurora: bytes) -> None:
    bomb = gzip.compress(aurora[:BLOCK_BYTES] + bytes(50 * BLOCK_BYTES))
    with pytest.raises(TooLargeError, match="allowed 1000000 bytes"):
        read(gzip.compress(to_bytes(fits.ImageHDU(np.zeros((1000, 1000))))), "GONE.KEY", max_unpacked_bytes=1_000_000)
    assert read(bomb, "EVENTS.OBS_ID") == Content()


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
    try:
        found = read(damaged, "EVENTS.OBS_ID", "rows(EVENTS)", "max(EVENTS.ENERGY)", "rows(GTI)")
    except ContentError:
        return
    assert isinstance(found, Content)


@pytest.mark.parametrize(
    "address", ["EVENTS", "max(EVENTS)", "rows()", "mean(EVENTS.ENERGY)", "EVENTS.", ".KEY", "max(EVENTS.E", ""]
)
def test_addresses_of_other_shapes_are_refused(address: str) -> None:
    with pytest.raises(AddressError, match=r"expected HDU\.KEYWORD"):
        FitsReader().check(address)


@pytest.mark.parametrize("address", ["EVENTS.DATE-OBS", "EFFECTIVE AREA.NAXIS", "0.TELESCOP", "rows(BAND.1)"])
def test_addresses_of_these_shapes_are_understood(address: str) -> None:
    FitsReader().check(address)
