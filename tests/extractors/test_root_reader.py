"""The ROOT reader on valid, odd and hostile files."""

import io
from functools import cache
from pathlib import Path
from typing import Any

import awkward
import numpy as np
import pytest
import uproot
from hypothesis import given, settings
from hypothesis import strategies as st

from extractors.errors import AddressError, ContentError
from extractors.readers.address import parse_address
from extractors.readers.reader import Content, RawValue, ReadLimits
from extractors.readers.root import RootReader

SHARED = Path(__file__).parents[3] / "shared" / "data" / "storages"


def read(data: bytes, *addresses: str, **limits: int) -> Content:
    parsed = [parse_address(address) for address in addresses]
    return RootReader().read(io.BytesIO(data), parsed, limits=ReadLimits(**limits))  # type: ignore[arg-type]


def values(content: Content) -> dict[str, Any]:
    assert content.oddities == {}
    return {address: found.value for address, found in content.values.items()}


class KeptBytes(io.BytesIO):
    """Stays readable when uproot closes what it wrote."""

    def close(self) -> None:
        pass


@cache
def make_sample(packing: str | None = None) -> bytes:
    """Return a file of many parts, its pieces packed in one of the ways that uproot names."""
    stream = KeptBytes()
    with uproot.recreate(stream, compression=getattr(uproot, packing)(4) if packing else None) as file:
        file["note"] = "hello world"
        file["h"] = np.histogram(np.arange(10.0))
        triple = np.dtype(("f8", (3,)))
        events = file.mktree("dir/E", {"s": np.dtype("i4"), "ns": np.dtype("i4"), "x": np.dtype("f8"), "v": triple})
        for first in (0, 40):
            s = np.arange(first, first + 40, dtype="i4") // 2
            events.extend({"s": s, "ns": np.arange(40, dtype="i4"), "x": s * 0.5, "v": np.full((40, 3), 2.0)})
        ragged = file.mktree("J", {"a": "var * float64", "n": np.dtype("i4"), "flag": np.dtype("?")})
        ragged.extend({"a": awkward.Array([[1.0, 2.0], [], [-3.0]]), "n": np.arange(3), "flag": np.ones(3, bool)})
        file.mktree("none", {"x": np.dtype("f8")})
        wide = file.mktree("wide", {"zeros": np.dtype("f8")})
        wide.extend({"zeros": np.zeros(50_000)})
    return stream.getvalue()


# ---------------------------------------------------------------------------------------------------- what is read


def test_trees_branches_texts_and_names_are_read() -> None:
    found = read(
        make_sample(), "rows(dir/E)", "max(dir/E/x)", "min(dir/E/s)", "count(dir/E/x)", "note", "note@class",
        "dir@class", "distinct(KEYS)", "distinct(dir/KEYS)", "rows(none)", "count(none/x)", "max(J/n)", "sum(J/flag)",
    )  # fmt: skip
    assert values(found) == {
        "rows(dir/E)": 80, "max(dir/E/x)": 19.5, "min(dir/E/s)": 0, "count(dir/E/x)": 80, "note": "hello world",
        "note@class": "TObjString", "dir@class": "TDirectory",
        "distinct(KEYS)": ("J", "dir", "h", "none", "note", "wide"),
        "distinct(dir/KEYS)": ("E",), "rows(none)": 0, "count(none/x)": 0, "max(J/n)": 2, "sum(J/flag)": 3,
    }  # fmt: skip


def test_several_branches_decide_together_across_baskets() -> None:
    found = read(make_sample(), "max(dir/E/s; dir/E/ns)", "min(dir/E/s; dir/E/ns)", "last(dir/E/ns; dir/E/x)")
    assert values(found) == {
        "max(dir/E/s; dir/E/ns)": (39, 39), "min(dir/E/s; dir/E/ns)": (0, 0), "last(dir/E/ns; dir/E/x)": (39, 19.5),
    }  # fmt: skip


def test_lists_in_a_branch_count_value_by_value_but_beside_nothing() -> None:
    found = read(
        make_sample(), "max(J/a)", "min(J/a)", "count(J/a)", "sum(dir/E/v)", "all(J/a)", "min(J/a; J/n)", "rows(J)",
        "max(J/n)",
    )  # fmt: skip
    assert {address: value.value for address, value in found.values.items()} == {
        "max(J/a)": 2.0, "min(J/a)": -3.0, "count(J/a)": 3, "sum(dir/E/v)": 480.0, "rows(J)": 3, "max(J/n)": 2,
    }  # fmt: skip
    assert found.oddities.keys() == {"all(J/a)", "min(J/a; J/n)"}
    assert all("lists" in reason for reason in found.oddities.values())


def test_what_is_not_there_is_absent_not_odd() -> None:
    addresses = (
        "gone", "gone@class", "rows(gone)", "max(J/gone)", "dir/gone", "max(dir/gone/x)", "note[gone]", "h[gone]",
        "distinct(gone/KEYS)", "min(J/n; J/gone)", "rows(J/n)",
    )  # fmt: skip
    assert read(make_sample(), *addresses) == Content()


def test_headers_alone_give_no_ranges_but_counts_and_names() -> None:
    found = read(make_sample(), "max(J/n)", "rows(J)", "distinct(KEYS)", "note", header_only=True)
    assert found.values.keys() == {"rows(J)", "distinct(KEYS)", "note"}


@pytest.mark.parametrize(
    ("address", "reason"),
    [
        ("J", "is a TTree, no single value"),
        ("dir", "is a TDirectory, no single value"),
        ("h", "is a TH1D, no single value"),
        ("rows(h)", "is a TH1D, no tree"),
        ("max(note/x)", "is a TObjString, no tree"),
        ("note/x", "no directory"),
        ("distinct(J/KEYS)", "is no directory"),
        ("min(J/n; none/x)", "different trees"),
    ],
)
def test_what_has_no_value_says_why(address: str, reason: str) -> None:
    assert reason in read(make_sample(), address).oddities[address]


def test_the_stream_stays_open_and_the_hook_of_uproot_is_put_back() -> None:
    before = uproot.compression.decompress.hook_before_block
    stream = io.BytesIO(make_sample("ZLIB"))
    RootReader().read(stream, [parse_address("max(J/n)")], limits=ReadLimits())
    assert not stream.closed
    assert uproot.compression.decompress.hook_before_block is before


# ----------------------------------------------------------------------------------- classes that a file describes


def test_a_plain_class_of_the_file_can_be_read() -> None:
    renamed = make_sample().replace(b"TObjString", b"XObjString")
    assert values(read(renamed, "note[fString]", "note@class")) == {
        "note[fString]": "hello world", "note@class": "XObjString",
    }  # fmt: skip


@pytest.mark.parametrize(
    "name", [b"f';q=12", b"f\nString"[:7], b"f);exit", b"{fault}", b"\xff\xfe\xfd\xfc\xfb\xfa\xf9"]
)
def test_nothing_is_made_of_a_class_with_odd_names(name: bytes) -> None:
    hostile = make_sample().replace(b"TObjString", b"XObjString").replace(b"fString", name)
    found = read(hostile, "note[fString]", "rows(J)")
    assert found.values == {"rows(J)": RawValue(value=3)}
    assert "not plain" in found.oddities["note[fString]"]


def test_nothing_is_made_of_a_class_that_is_not_plain() -> None:
    renamed = make_sample().replace(b"TH1D", b"XH1D")
    with uproot.open(io.BytesIO(renamed), custom_classes=dict(uproot.classes)) as file:
        assert file["h"].classname == "XH1D", "uproot would have made it"
    assert "not plain" in read(renamed, "h[fEntries]").oddities["h[fEntries]"]


def test_classes_and_objects_of_one_file_are_not_there_for_the_next() -> None:
    first = make_sample().replace(b"TObjString", b"XObjString")
    second = first.replace(b"hello world", b"other words")
    assert values(read(first, "note[fString]")) == {"note[fString]": "hello world"}
    assert values(read(second, "note[fString]")) == {"note[fString]": "other words"}
    assert "XObjString" not in uproot.classes


# ------------------------------------------------------------------------------------------------- hostile packing


@pytest.mark.parametrize("packing", ["ZLIB", "LZMA", "ZSTD", "LZ4"])
def test_packed_files_say_the_same_as_plain_ones(packing: str) -> None:
    addresses = ("max(dir/E/x)", "max(J/a)", "note", "max(wide/zeros)", "h[fEntries]")
    assert read(make_sample(packing), *addresses) == read(make_sample(), *addresses)


@pytest.mark.parametrize(("packing", "magic"), [("ZLIB", b"ZL"), ("LZMA", b"XZ"), ("ZSTD", b"ZS"), ("LZ4", b"L4")])
def test_a_block_that_holds_more_than_it_claims_is_not_unpacked(packing: str, magic: bytes) -> None:
    data = bytearray(make_sample(packing))
    size = (400_000).to_bytes(3, "little")
    position = data.index(size, data.index(b"zeros"))
    assert data[position - 6 : position - 4] == magic
    data[position : position + 3] = (100).to_bytes(3, "little")
    found = read(bytes(data), "max(wide/zeros)", "max(dir/E/x)")
    assert found.values.keys() == {"max(dir/E/x)"}
    assert found.oddities.keys() == {"max(wide/zeros)"}
    if packing != "LZ4":
        assert found.oddities["max(wide/zeros)"] == "a packed block claims 100 bytes and holds more"


def test_the_limit_holds_for_all_branches_together() -> None:
    found = read(make_sample(), "max(wide/zeros)", "max(J/n)", max_unpacked_bytes=100_000)
    assert found.values.keys() | found.oddities.keys() == {"max(wide/zeros)", "max(J/n)"}
    assert "more bytes than may be read" in found.oddities["max(wide/zeros)"]


def test_a_tree_that_claims_more_entries_than_its_branches_is_odd() -> None:
    data = make_sample()
    assert data.count((50_000).to_bytes(8, "big")) >= 2, "of the tree and of its branch"
    hostile = data.replace((50_000).to_bytes(8, "big"), (10**15).to_bytes(8, "big"), 1)
    found = read(hostile, "max(wide/zeros)")
    assert found.values == {}
    assert "entries" in found.oddities["max(wide/zeros)"]


def test_branches_that_claim_entries_by_the_billion_are_odd_at_once() -> None:
    hostile = make_sample().replace((50_000).to_bytes(8, "big"), (10**15).to_bytes(8, "big"))
    found = read(hostile, "max(wide/zeros)")
    assert found.values == {}
    assert found.oddities.keys() == {"max(wide/zeros)"}


# ---------------------------------------------------------------------------------------------------- damaged files

ADDRESSES = ("rows(dir/E)", "max(dir/E/s; dir/E/ns)", "max(J/a)", "note", "h[fEntries]", "distinct(KEYS)", "J@title")


@pytest.mark.parametrize("data", [b"", b"roo", b"\x89HDF\r\n\x1a\n" + bytes(500)], ids=["empty", "short", "other"])
def test_what_is_no_root_file_says_so(data: bytes) -> None:
    with pytest.raises(ContentError, match="no ROOT file"):
        read(data, "x")


@pytest.mark.parametrize("packing", [None, "ZLIB"])
def test_a_file_cut_anywhere_gives_an_error_or_less(packing: str | None) -> None:
    whole = make_sample(packing)
    assert len(read(whole, *ADDRESSES).values) == len(ADDRESSES)
    for size in range(0, len(whole), len(whole) // 100):
        try:
            found = read(whole[:size], *ADDRESSES)
        except ContentError:
            continue
        assert not found.values.keys() & found.oddities.keys()


@given(st.lists(st.tuples(st.integers(0, 60_000), st.integers(0, 255)), min_size=1, max_size=20), st.booleans())
@settings(max_examples=100, deadline=None)
def test_a_file_with_wrong_bytes_gives_an_error_or_oddities(changes: list[tuple[int, int]], is_packed: bool) -> None:
    damaged = bytearray(make_sample("ZSTD" if is_packed else None))
    for position, value in changes:
        damaged[position % len(damaged)] = value
    try:
        found = read(bytes(damaged), *ADDRESSES)
    except ContentError:
        return
    assert not found.values.keys() & found.oddities.keys()


# --------------------------------------------------------------------------------------------------------- addresses


@pytest.mark.parametrize(
    "address", ["max(E)", "min(E/a; b)", "x@y", "a[b", "rows(E; F)", "mean(E/x)", "distinct(KEYS; KEYS)", "max(/E/x)"]
)
def test_addresses_of_other_shapes_are_refused(address: str) -> None:
    with pytest.raises(AddressError, match="expected"):
        RootReader().check(parse_address(address))


# -------------------------------------------------------------------------------------------------------- real files


@pytest.mark.skipif(not SHARED.is_dir(), reason="needs the sample files in ../shared/data")
@pytest.mark.parametrize(
    ("path", "expected"),
    [
        (
            "km3net/dst/orca6_sample.root",
            {
                "rows(E)": 2499,
                "only(E/Evt/run_id)": 9505,
                "min(E/t.fSec; E/t.fNanoSec)": (1614168008, 700000000),
                "max(E/Evt/t/t.fSec; E/Evt/t/t.fNanoSec)": (1614168328, 500000000),
            },
        ),
        ("km3net/offline/numucc.root", {"Head[start_run]": "1", "Head[can]": "0 1027 888.4", "only(E/det_id)": 20}),
        ("km3net/offline/usr-sample.root", {"max(E/AAObject/usr)": 825.0, "count(E/usr)": 51}),
        ("km3net/gseagen/gseagen.root", {"rows(Events)": 258, "first(Header/gSeaGenVer)": "v6r1"}),
        ("km3net/online/KM3NeT_00000133_JDAQEvent.root", {"rows(KM3NET_EVENT)": 10, "META/JMeta": "JConvert"}),
        ("km3net/oscillations/ORCA6_433kt-y_opendata_v0.4_testdata.root", {"max(binned_data/W)": 50.0}),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)  # fmt: skip
def test_files_of_experiments_say_what_they_are_known_to_say(path: str, expected: dict[str, Any]) -> None:
    assert values(read((SHARED / path).read_bytes(), *expected)) == expected


@pytest.mark.skipif(not SHARED.is_dir(), reason="needs the sample files in ../shared/data")
def test_a_map_that_uproot_cannot_read_is_odd_and_loses_nothing_else() -> None:
    data = (SHARED / "km3net/offline/km3net_offline.root").read_bytes()
    found = read(data, "Header[start_run]", "rows(E)", "Header@class")
    assert {address: value.value for address, value in found.values.items()} == {"rows(E)": 10, "Header@class": "Head"}
    assert found.oddities["Header[start_run]"].startswith("Header cannot be read")
