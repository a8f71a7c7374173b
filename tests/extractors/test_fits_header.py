"""Headers of FITS files: what is read here must be what astropy reads, for every card that astropy can read."""

import gzip
import io
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import pytest
from astropy.io import fits
from hypothesis import example, given, settings
from hypothesis import strategies as st

from extractors.errors import ContentError
from extractors.readers.fits_header import CARD_BYTES, MAX_PLAIN_CARDS, MAX_VALUE_CHARACTERS, FitsHeader

SHARED_STORAGES = Path(__file__).parents[3] / "shared" / "data" / "storages"

KEYWORDS = ("OBS_ID", "TSTART", "OBJECT", "DATE-OBS", "A")

NOTHING = object()


def card(text: str) -> bytes:
    return text.encode("latin-1")[:CARD_BYTES].ljust(CARD_BYTES)


def of_astropy(cards: bytes, keyword: str) -> Any:
    """Return what astropy says, or `NOTHING` where it raises."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return fits.Header.fromstring(cards).get(keyword)
        except Exception:  # noqa: BLE001 - it raises whatever the damage makes it stumble over
            return NOTHING


def of_ours(cards: bytes, keyword: str) -> Any:
    try:
        return FitsHeader(cards).get(keyword)
    except ContentError:
        return NOTHING


def assert_equal(cards: bytes, keyword: str) -> None:
    expected = of_astropy(cards, keyword)
    if isinstance(expected, complex):
        expected = NOTHING
    elif isinstance(expected, str) and not expected.isascii():
        return  # decoded otherwise, which has a test of its own
    found = of_ours(cards, keyword)
    assert type(found) is type(expected)
    # Not a number cannot be written in a header, but infinity can: it is 1E999.
    assert found is expected or found == expected


VALUES = st.one_of(
    st.integers(min_value=-(10**19), max_value=10**19),
    st.floats(allow_nan=False, allow_infinity=False),
    st.booleans(),
    st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=60),
)
ODDLY_WRITTEN = """T|F|TRUE|1|007|-0|+5|1.|.5|1.5E3|1D3|1.d-3|2e5|1E999|1.5.3|- 5|''|'it''s'|'a'' / b'|'a''|'''a'|''''
|'AXIS.1: 2'|'a: b'|'open|'  lead  '|x|(1.0, 2.0)|| |/ only a comment|1 2|1_0|'long&'|0x10|nan|'tab\there'|1E|'%'"""
WRITTEN = st.one_of(
    st.sampled_from(ODDLY_WRITTEN.replace("\n", "").split("|")),
    st.text(st.sampled_from("'/ TF0123456789.+-EeDd:&ab"), max_size=30),
    st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=70),
)
COMMENTS = st.sampled_from(["", " / comment", "/", " / it's '", " /'", " / [s] TSTART  = 5", "  / \x00"])


@st.composite
def valued_cards(draw: st.DrawFn) -> bytes:
    """Draw a card as astropy writes it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        image = str(fits.Card(draw(st.sampled_from(KEYWORDS)), draw(VALUES), draw(st.sampled_from(["", "a comment"]))))
    return image.encode("ascii")


@st.composite
def odd_cards(draw: st.DrawFn) -> bytes:
    """Draw a card with a value that may be odd, or in an odd place."""
    keyword = draw(st.sampled_from(KEYWORDS))
    padded = draw(st.sampled_from([f"{keyword:8}= ", f"{keyword:8}=", f"{keyword}= ", f"{keyword.lower():8}= "]))
    begin = draw(st.sampled_from([f"{keyword:8}= "] * 6 + [padded, f" {keyword:7}= ", f"HIERARCH {keyword} = "]))
    return card(begin + " " * draw(st.integers(0, 12)) + draw(WRITTEN) + draw(COMMENTS))


OTHERS = """COMMENT OBS_ID  = 5|HISTORY 'TSTART  = 1'||         TSTART  = 7|CONTINUE  'more' / note|CONTINUE|no card
|HIERARCH ESO OBS ID = 5|OBS_ID  |TSTART   3.0|OBJECT|OTHER   = 'OBS_ID  = 5'|A  = 1|END     = 5|END|A B     = 3
|COMMENT = 5|é       = 5"""
OTHER_CARDS = st.sampled_from([card(line) for line in OTHERS.replace("\n", "").split("|")])
HEADERS = st.lists(st.one_of(valued_cards(), odd_cards(), OTHER_CARDS), min_size=1, max_size=8).map(b"".join)


@given(HEADERS)
@example(card("OBJECT  = 'a'' / b'"))
@example(card("OBJECT  = 'AXIS.1: 2'"))
@settings(deadline=None, max_examples=400)
def test_valid_and_odd_headers_say_what_astropy_reads(cards: bytes) -> None:
    for keyword in KEYWORDS:
        assert_equal(cards, keyword)


@given(cards=HEADERS, at=st.integers(0, 640), damage=st.binary(min_size=1, max_size=3))
@settings(deadline=None, max_examples=200)
def test_damaged_headers_say_what_astropy_reads(cards: bytes, at: int, damage: bytes) -> None:
    at = min(at, len(cards) - len(damage))
    cards = cards[:at] + damage + cards[at + len(damage) :]
    for keyword in KEYWORDS:
        assert_equal(cards, keyword)


@given(WRITTEN)
@settings(deadline=None, max_examples=300)
def test_every_way_to_write_a_value_is_read_as_astropy_reads_it(written: str) -> None:
    assert_equal(card(f"OBS_ID  = {written}"), "OBS_ID")


def test_all_headers_of_the_real_files_say_what_astropy_reads() -> None:
    if not SHARED_STORAGES.is_dir():
        pytest.skip("the real files are not there: no folder ../shared/data/storages beside the checkout")
    n_headers = 0
    for path in sorted(SHARED_STORAGES.rglob("*.fits*")):
        raw = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
        with fits.open(io.BytesIO(raw), disable_image_compression=True) as hdus:
            for hdu in hdus:
                place = hdu.fileinfo()
                stored = raw[place["hdrLoc"] : place["datLoc"]]
                cards = stored[: stored.rindex(card("END"))]
                for keyword in {*hdu.header, *KEYWORDS} - {"", "COMMENT", "HISTORY"}:
                    assert_equal(cards, keyword)
                n_headers += 1
    assert n_headers > 500


def test_astropy_stays_away_from_a_plain_header() -> None:
    code = """
import sys
from extractors.readers.fits_header import FitsHeader
cards = ["OBS_ID  =                   41", "TSTART  = 1.5D3 / [s]", "OBJECT  = 'it''s'", "COMMENT  T", "GOOD    =  T"]
header = FitsHeader(b"".join(card.encode().ljust(80) for card in cards))
assert [header.get(word) for word in ("OBS_ID", "TSTART", "OBJECT", "GOOD", "GONE")] == [41, 1500.0, "it's", True, None]
assert not {"astropy", "numpy"} & set(sys.modules), "imported"
"""
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("written", ["caf\xc3\xa9", "caf\xe9"])
def test_text_that_is_no_ascii_is_no_value_but_in_lines_it_is_utf_8_or_else_latin_1(written: str) -> None:
    with pytest.raises(ContentError, match="the card OBJECT cannot be read"):
        FitsHeader(card(f"OBJECT  = '{written}'")).get("OBJECT")
    assert FitsHeader(card(f"HISTORY {written}")).get("HISTORY") == "café"


def test_the_lines_of_a_history_are_one_value() -> None:
    cards = card("HISTORY made") + card("OBS_ID  = 5") + card("HISTORY mended")
    assert FitsHeader(cards).get("HISTORY") == "made\nmended"
    assert FitsHeader(cards).get("COMMENT") is None


def test_a_text_in_many_cards_is_joined_but_not_without_an_end() -> None:
    assert FitsHeader(card("OBJECT  = 'Crab &'") + card("CONTINUE  'Nebula'")).get("OBJECT") == "Crab Nebula"
    endless = card("OBJECT  = '&'") + card(f"CONTINUE  '{'x' * 60}&'") * (MAX_VALUE_CHARACTERS // 60 + 1)
    with pytest.raises(ContentError, match="more than 65536 characters"):
        FitsHeader(endless).get("OBJECT")


def test_a_header_of_very_many_cards_is_read_as_well() -> None:
    cards = b"".join(card(f"K{number:<7}= {number}") for number in range(MAX_PLAIN_CARDS + 1))
    assert FitsHeader(cards).get("K2000") == 2000


def test_a_card_that_cannot_be_read_is_told_by_its_keyword() -> None:
    with pytest.raises(ContentError, match="the card OBS_ID cannot be read"):
        FitsHeader(card("OBS_ID  = 'open")).get("OBS_ID")
    with pytest.raises(ContentError, match="the value of OBS_ID is a complex"):
        FitsHeader(card("OBS_ID  = (1.0, 2.0)")).get("OBS_ID")


@pytest.mark.parametrize("written", ["T", "1.0", "'5'"])
def test_what_is_no_whole_number_is_not_taken_for_one(written: str) -> None:
    with pytest.raises(ContentError, match="expected a whole number"):
        FitsHeader(card(f"NAXIS   = {written}")).get_whole("NAXIS")
