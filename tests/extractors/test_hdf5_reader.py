"""The HDF5 reader on valid, odd and hostile files."""

import io
import pickle
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import hdf5plugin
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from extractors.errors import AddressError, ContentError
from extractors.readers.address import parse_address
from extractors.readers.hdf5 import Hdf5Reader
from extractors.readers.reader import Content, RawValue, ReadLimits

SHARED = Path(__file__).parents[3] / "shared" / "data" / "storages"


def read(write: Callable[[h5py.File], object], *addresses: str, **limits: int) -> Content:
    stream = io.BytesIO()
    with h5py.File(stream, "w") as file:
        write(file)
    return read_stream(stream, *addresses, **limits)


def read_stream(stream: Any, *addresses: str, **limits: int) -> Content:
    parsed = [parse_address(address) for address in addresses]
    return Hdf5Reader().read(stream, parsed, limits=ReadLimits(**limits))  # type: ignore[arg-type]


def values(content: Content) -> dict[str, Any]:
    assert content.oddities == {}
    return {address: found.value for address, found in content.values.items()}


def write_events(file: h5py.File) -> None:
    events = np.array([(1, 3.0), (2, np.nan), (3, 0.5)], dtype=[("id", "<i8"), ("energy", "<f4")])
    file["events"] = events
    file["events"].attrs["energy_unit"] = "EeV"
    file.attrs["station"] = "s03"
    file["meta/start"] = 1_300_000_000.0
    file["meta/name"] = "run one"
    file["meta/list"] = np.array([1, 2, 3])
    file["column"] = np.arange(1000.0)
    file["column"].attrs["units"] = "keV"


def make_times(file: h5py.File, name: str, time_type: Any, raw: Any, *, marked: bool = True) -> None:
    """Write a table as PyTables does, whose times have the type of HDF5 that numpy lacks."""
    table = h5py.h5t.create(h5py.h5t.COMPOUND, time_type.get_size() + 8)
    table.insert(b"time", 0, time_type)
    table.insert(b"x", time_type.get_size(), h5py.h5t.IEEE_F64LE)
    rows = np.zeros(len(raw), dtype=[("time", raw.dtype), ("x", "<f8")])
    rows["time"], rows["x"] = raw, np.arange(len(raw))
    created = h5py.h5d.create(file.id, name.encode(), table, h5py.h5s.create_simple((len(raw),)))
    created.write(h5py.h5s.ALL, h5py.h5s.ALL, rows, table)
    if marked:
        file[name].attrs.update(CLASS="TABLE", VERSION="2.7")


# ------------------------------------------------------------------------------------------ values and columns


def test_datasets_attributes_counts_and_ranges_are_read() -> None:
    found = read(
        write_events,
        "meta/start", "meta/name", "meta/list", "@station", "events@energy_unit", "rows(events)",
        "min(events[energy])", "max(events[energy])", "max(column)",
    ).values  # fmt: skip
    assert found == {
        "meta/start": RawValue(value=1_300_000_000.0),
        "meta/name": RawValue(value="run one"),
        "meta/list": RawValue(value=(1, 2, 3)),
        "@station": RawValue(value="s03"),
        "events@energy_unit": RawValue(value="EeV"),
        "rows(events)": RawValue(value=3),
        "min(events[energy])": RawValue(value=0.5),
        "max(events[energy])": RawValue(value=3.0),
        "max(column)": RawValue(value=999.0, unit="keV"),
    }


def test_what_is_not_there_is_absent_not_odd() -> None:
    addresses = (
        "gone", "meta/gone", "meta/start/deeper", "@gone", "gone@x", "rows(gone)", "max(events[gone])",
        "max(column[x])", "rows(**/gone)", "max(*/gone[x])", "distinct(gone/KEYS)", "min(events[id]; events[gone])",
    )  # fmt: skip
    assert read(write_events, *addresses) == Content()


def test_headers_alone_give_no_ranges_but_counts_and_names() -> None:
    found = read(write_events, "max(column)", "rows(column)", "meta/start", "distinct(KEYS)", header_only=True).values
    assert set(found) == {"rows(column)", "meta/start", "distinct(KEYS)"}


def test_the_names_in_a_group_are_listed() -> None:
    found = read(write_events, "distinct(KEYS)", "distinct(meta/KEYS)", "n_distinct(KEYS)")
    assert values(found) == {
        "distinct(KEYS)": ("column", "events", "meta"),
        "distinct(meta/KEYS)": ("list", "name", "start"),
        "n_distinct(KEYS)": 3,
    }


def test_several_columns_of_a_table_decide_together() -> None:
    def write(file: h5py.File) -> None:
        file["t"] = np.array([(5, 9), (5, 1), (7, 0)], dtype=[("s", "<i4"), ("ns", "<i4")])
        file["split/s"] = np.array([3, 3, 2])
        file["split/ns"] = np.array([1, 8, 5])

    found = read(write, "min(t[s]; t[ns])", "max(t[s]; t[ns])", "max(split/s; split/ns)")
    assert values(found) == {"min(t[s]; t[ns])": (5, 1), "max(t[s]; t[ns])": (7, 0), "max(split/s; split/ns)": (3, 8)}


def test_columns_of_different_lengths_do_not_stand_side_by_side() -> None:
    def write(file: h5py.File) -> None:
        file["a"], file["b"] = np.arange(3), np.arange(4)

    assert "different numbers of rows" in read(write, "max(a; b)").oddities["max(a; b)"]


def test_a_dot_belongs_to_the_name_of_a_field_before_it_parts_names() -> None:
    def write(file: h5py.File) -> None:
        file["t"] = np.array([(1, (2, 3))], dtype=[("a.b", "<i4"), ("a", [("b", "<i4"), ("c", "<i4")])])

    found = read(write, "max(t[a.b])", "max(t[a.c])", "max(t[a/b])", "max(t[a])")
    assert {key: found.values[key].value for key in found.values} == {
        "max(t[a.b])": 1,
        "max(t[a.c])": 3,
        "max(t[a/b])": 2,
    }
    assert "no column" in found.oddities["max(t[a])"]


def test_lists_in_a_column_count_value_by_value_but_beside_nothing() -> None:
    def write(file: h5py.File) -> None:
        file["t"] = np.array([([1, 5],), ([7, 2],)], dtype=[("pulse", "<i4", (2,))])
        file["square"] = np.array([[4.0, 1.0], [3.0, 9.0]])

    found = read(write, "max(t[pulse])", "count(t[pulse])", "min(square)", "all(t[pulse])", "rows(square)")
    assert {key: found.values[key].value for key in found.values} == {
        "max(t[pulse])": 7, "count(t[pulse])": 4, "min(square)": 1.0, "rows(square)": 2,
    }  # fmt: skip
    assert "lists" in found.oddities["all(t[pulse])"]


def test_columns_of_text_are_read_whatever_their_length() -> None:
    def write(file: h5py.File) -> None:
        file["fixed"] = np.array([b"b", b"a", b"b"])
        file.create_dataset("free", data=["one", "two", "zwölf"] * 50, dtype=h5py.string_dtype())
        file["t"] = np.array([(1, b"x"), (2, b"y")], dtype=[("n", "<i4"), ("word", h5py.string_dtype())])
        file["mood"] = np.array([1, 0], dtype=h5py.enum_dtype({"GOOD": 1, "BAD": 0}))
        file["flag"] = np.array([True, False])

    found = read(write, "distinct(fixed)", "distinct(free)", "count(free)", "last(t[word])", "max(mood)", "sum(flag)")
    assert values(found) == {
        "distinct(fixed)": ("a", "b"),
        "distinct(free)": ("one", "two", "zwölf"),
        "count(free)": 150,
        "last(t[word])": "y",
        "max(mood)": 1,
        "sum(flag)": 1,
    }


def test_missing_values_of_a_rule_do_not_count() -> None:
    stream = io.BytesIO()
    with h5py.File(stream, "w") as file:
        file["t"] = np.array([0, 7, -999, 5])
    address = parse_address("min(t)", missing=(0, -999))
    assert Hdf5Reader().read(stream, [address], limits=ReadLimits()).values[address.text].value == 5


def test_a_table_without_rows_has_none() -> None:
    def write(file: h5py.File) -> None:
        file.create_dataset("t", (0,), dtype=[("x", "<f8")], maxshape=(None,))

    assert values(read(write, "rows(t)", "count(t[x])", "max(t[x])")) == {"rows(t)": 0, "count(t[x])": 0}


@given(st.lists(st.floats(width=32), max_size=40), st.integers(1, 7))
@settings(max_examples=40, deadline=None)
def test_ranges_equal_those_of_numpy_however_the_column_is_cut(column: list[float], chunk: int) -> None:
    def write(file: h5py.File) -> None:
        file.create_dataset("t", data=np.array(column, dtype="<f4"), chunks=(chunk,), maxshape=(None,))

    finite = [value for value in column if np.isfinite(value)]
    found = values(read(write, "min(t)", "max(t)", "count(t)"))
    assert found == {"count(t)": len(finite), **({"min(t)": min(finite), "max(t)": max(finite)} if finite else {})}


def test_a_long_packed_column_is_read_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("extractors.readers.hdf5.COLUMN_BYTES", 64)

    def write(file: h5py.File) -> None:
        file.create_dataset("column", data=np.arange(1000.0), chunks=(7,), compression="gzip")

    assert values(read(write, "min(column)", "max(column)")) == {"min(column)": 0.0, "max(column)": 999.0}


# ---------------------------------------------------------------------------------------------------- PyTables


@pytest.mark.parametrize("order", ["<", ">"])
def test_times_of_pytables_are_read_beside_other_columns(order: str) -> None:
    narrow, wide = (
        (h5py.h5t.UNIX_D32LE, h5py.h5t.UNIX_D64LE) if order == "<" else (h5py.h5t.UNIX_D32BE, h5py.h5t.UNIX_D64BE)
    )
    timeval = [(1_300_000_000 << 32) | 250_000, (-1 << 32) | (-750_000 & 0xFFFFFFFF)]

    def write(file: h5py.File) -> None:
        make_times(file, "t32", narrow, np.array([1_300_000_000, -5], dtype=f"{order}i4"))
        make_times(file, "t64", wide, np.array(timeval, dtype=f"{order}i8"))

    found = read(write, "max(t32[time])", "min(t32[time]; t32[x])", "max(t32[x])", "max(t64[time])", "min(t64[time])")
    assert values(found) == {
        "max(t32[time])": 1_300_000_000,
        "min(t32[time]; t32[x])": (-5, 1.0),
        "max(t32[x])": 1.0,
        "max(t64[time])": 1_300_000_000.25,
        "min(t64[time])": -1.75,
    }


def test_times_of_64_bits_mean_nothing_without_pytables() -> None:
    def write(file: h5py.File) -> None:
        make_times(file, "t", h5py.h5t.UNIX_D64LE, np.array([7], dtype="<i8"), marked=False)

    found = read(write, "max(t[time])", "max(t[x])")
    assert found.values == {"max(t[x])": RawValue(value=0.0)}
    assert "does not say what it counts" in found.oddities["max(t[time])"]


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize("thing", [{"a": 1}, [1, 2], (1, "x"), None, 2.5j, io.BytesIO], ids=repr)
def test_pickles_in_attributes_are_recognised_and_stay_closed(thing: object, protocol: int) -> None:
    def write(file: h5py.File) -> None:
        file.attrs["thing"] = np.bytes_(pickle.dumps(thing, protocol))
        file["there"] = 1

    found = read(write, "@thing", "there")
    assert found.values == {"there": RawValue(value=1)}
    assert "Python pickle, which is never opened" in found.oddities["@thing"]


@pytest.mark.parametrize("text", ["", "(a) two words.", "carbon\nnights.", "Nothing.", "I.", "L1\nand more.", "]."])
def test_plain_text_is_not_taken_for_a_pickle(text: str) -> None:
    def write(file: h5py.File) -> None:
        file.attrs["text"] = text

    assert values(read(write, "@text")) == {"@text": text}


def test_attributes_of_odd_kinds_are_told_apart() -> None:
    def write(file: h5py.File) -> None:
        file["x"] = 1
        file.attrs["list"] = [1, 2]
        file.attrs["words"] = ["a", "b"]
        file.attrs["empty text"] = h5py.Empty("S1")
        file.attrs["empty number"] = h5py.Empty("f8")
        file.attrs["reference"] = file["x"].ref
        file.attrs["flag"] = True
        file.attrs["complex"] = 1j
        file.attrs["latin"] = np.bytes_(b"caf\xe9")
        file.attrs["opaque"] = np.void(b"\x00\x01")

    names = ("list", "words", "empty text", "empty number", "reference", "flag", "complex", "latin", "opaque")
    found = read(write, *(f"@{name}" for name in names))
    assert {key: value.value for key, value in found.values.items()} == {
        "@list": (1, 2), "@words": ("a", "b"), "@empty text": "", "@flag": True,
    }  # fmt: skip
    reasons = {
        "@empty number": "empty", "@reference": "reference", "@complex": "complex", "@latin": "UTF-8",
        "@opaque": "neither",
    }  # fmt: skip
    assert found.oddities.keys() == reasons.keys()
    assert all(word in found.oddities[address] for address, word in reasons.items())


# -------------------------------------------------------------------------------------------------- wildcards


def test_wildcards_sum_tables_of_one_name_in_several_groups() -> None:
    def write(file: h5py.File) -> None:
        for path, first in (("s1/events", 10), ("s2/events", 3), ("deep/er/events", 99), ("events", 50)):
            file[path] = np.array([(first,), (first + 1,)], dtype=[("t", "<i4")])
        file["s3/events/inner"] = 1
        file["s4/events"] = np.zeros(1, dtype=[("other", "<i4")])

    found = read(
        write, "rows(*/events)", "rows(**/events)", "rows(s?/events)", "max(**/events[t])", "min(s*/events[t])"
    )
    assert values(found) == {
        "rows(*/events)": 5, "rows(**/events)": 9, "max(**/events[t])": 100, "min(s*/events[t])": 3,
    }  # fmt: skip


def test_wildcards_meet_each_table_once_and_follow_no_links() -> None:
    def write(file: h5py.File) -> None:
        file["a/events"] = np.arange(4)
        file["b/events"] = file["a/events"]
        file["a/back"] = file["/"]
        file["c"] = h5py.SoftLink("/a")
        file["d"] = h5py.ExternalLink("elsewhere.h5", "/a")

    assert values(read(write, "rows(*/events)", "rows(**/events)")) == {"rows(*/events)": 4, "rows(**/events)": 4}


def test_a_search_through_too_many_objects_gives_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("extractors.readers.hdf5.MAX_WALKED", 20)

    def write(file: h5py.File) -> None:
        for number in range(30):
            file[f"g{number}/x"] = 1

    assert "more than 20 objects" in read(write, "rows(*/x)").oddities["rows(*/x)"]


# ---------------------------------------------------------------------------------------- links and other files


def test_soft_links_within_the_file_are_followed_but_not_in_rings() -> None:
    def write(file: h5py.File) -> None:
        file["a/value"] = 7
        file["b"] = h5py.SoftLink("/a")
        file["a/again"] = h5py.SoftLink("value")
        file["ring"] = h5py.SoftLink("/ring")

    found = read(write, "b/value", "b/again", "ring")
    assert {key: value.value for key, value in found.values.items()} == {"b/value": 7, "b/again": 7}
    assert "soft links" in found.oddities["ring"]


def test_external_links_are_never_followed(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "other.h5", "w") as other:
        other["secret"] = 42

    def write(file: h5py.File) -> None:
        file["out"] = h5py.ExternalLink(str(tmp_path / "other.h5"), "/")
        file["soft"] = h5py.SoftLink("/out/secret")

    found = read(write, "out/secret", "soft", "out", "max(out/secret)", "out@x")
    assert found.values == {}
    assert len(found.oddities) == 5
    assert all("out of the file" in reason for reason in found.oddities.values())


def test_values_kept_in_other_files_are_never_read(tmp_path: Path) -> None:
    (tmp_path / "raw.bin").write_bytes(np.arange(4.0).tobytes())
    with h5py.File(tmp_path / "source.h5", "w") as source:
        source["x"] = np.arange(4.0)

    def write(file: h5py.File) -> None:
        file.create_dataset("g/external", (4,), "f8", external=[(str(tmp_path / "raw.bin"), 0, 32)])
        layout = h5py.VirtualLayout((4,), "f8")
        layout[:] = h5py.VirtualSource(str(tmp_path / "source.h5"), "x", (4,))
        file.create_virtual_dataset("virtual", layout)

    found = read(write, "max(g/external)", "g/external", "max(virtual)", "virtual", "max(*/external)", "rows(virtual)")
    assert found.values == {}
    assert len(found.oddities) == 6
    assert all("in other files" in reason for reason in found.oddities.values())


# ---------------------------------------------------------------------------------------------- filters, bounds


def test_a_table_packed_with_blosc_is_read() -> None:
    def write(file: h5py.File) -> None:
        file.create_dataset("t", data=np.arange(500.0), chunks=(100,), **hdf5plugin.Blosc())

    assert values(read(write, "max(t)")) == {"max(t)": 499.0}


def test_a_filter_that_nobody_has_is_odd_and_loses_nothing_else() -> None:
    def write(file: h5py.File) -> None:
        properties = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        properties.set_chunk((10,))
        properties.set_filter(33_333, h5py.h5z.FLAG_OPTIONAL, ())
        h5py.h5d.create(file.id, b"t", h5py.h5t.NATIVE_DOUBLE, h5py.h5s.create_simple((10,)), properties)
        file["u"] = np.arange(3)

    found = read(write, "max(t)", "t", "max(u)", "rows(t)")
    assert {key: value.value for key, value in found.values.items()} == {"max(u)": 2, "rows(t)": 10}
    assert all("filter 33333" in found.oddities[address] for address in ("max(t)", "t"))


def test_a_claim_of_endless_data_is_refused_at_the_limit() -> None:
    def write(file: h5py.File) -> None:
        file.create_dataset("huge", (10**14,), "f8", chunks=(1024,))
        file["small"] = np.arange(3)

    found = read(write, "max(huge)", "huge", "max(small)")
    assert found.values == {"max(small)": RawValue(value=2)}
    assert "more than may be read" in found.oddities["max(huge)"]
    assert "no single value" in found.oddities["huge"]


def test_the_limit_holds_for_all_columns_together() -> None:
    def write(file: h5py.File) -> None:
        for name in "abc":
            file[name] = np.arange(100.0)

    found = read(write, "max(a)", "max(b)", "max(c)", max_unpacked_bytes=2000)
    assert (len(found.values), len(found.oddities)) == (2, 1)


def test_huge_chunks_and_long_values_are_refused() -> None:
    def write(file: h5py.File) -> None:
        file.create_dataset("chunky", (2**24,), "f8", chunks=(2**24,), compression="gzip")
        file["text"] = "x" * 70_000
        file["list"] = np.zeros(1001)

    found = read(write, "max(chunky)", "text", "list")
    assert found.values == {}
    assert "packed in pieces" in found.oddities["max(chunky)"]
    assert "65536 bytes" in found.oddities["text"]
    assert "no single value" in found.oddities["list"]


def test_a_deflated_piece_that_holds_more_than_it_claims_is_not_unpacked() -> None:
    bomb = zlib.compress(bytes(160 * 2**20), 1)  # 0.7 MB
    twice = zlib.compress(zlib.compress(bytes(2**20)))

    def write(file: h5py.File) -> None:
        file.create_dataset("bomb", (100,), "f8", chunks=(100,), compression="gzip")
        file["bomb"].id.write_direct_chunk((0,), bomb)
        properties = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        properties.set_chunk((100,))
        properties.set_deflate(1)
        properties.set_deflate(1)
        h5py.h5d.create(file.id, b"twice", h5py.h5t.NATIVE_DOUBLE, h5py.h5s.create_simple((100,)), properties)
        file["twice"].id.write_direct_chunk((0,), twice)

    found = read(write, "max(bomb)", "bomb", "max(twice)")
    assert found.values == {}
    assert "unpacks to more" in found.oddities["max(bomb)"]
    assert "unpacks to more" in found.oddities["bomb"]
    assert "several times" in found.oddities["max(twice)"]


def test_a_piece_too_short_for_its_checksum_is_never_given_to_the_library() -> None:
    def write(file: h5py.File) -> None:
        file.create_dataset("t", data=np.arange(10.0), chunks=(5,), fletcher32=True)
        file["t"].id.write_direct_chunk((5,), b"\0")

    assert "damaged" in read(write, "max(t)").oddities["max(t)"]


def test_a_large_honest_deflated_piece_is_read() -> None:
    noise = np.random.default_rng(1).normal(size=200_000)

    def write(file: h5py.File) -> None:
        file.create_dataset("t", data=noise, chunks=(200_000,), compression="gzip", compression_opts=1, fletcher32=True)

    assert values(read(write, "max(t)")) == {"max(t)": noise.max()}


@pytest.mark.parametrize(
    ("address", "reason"),
    [
        ("max(text)", "no column of numbers"),
        ("group", "is no dataset"),
        ("rows(group)", "is no dataset"),
        ("distinct(text/KEYS)", "is no group"),
        ("table", "is a table"),
        ("max(ragged)", "no column of numbers"),
        ("max(references)", "no column of numbers"),
    ],
)
def test_what_has_no_range_or_value_says_why(address: str, reason: str) -> None:
    def write(file: h5py.File) -> None:
        file["text"] = np.array([b"a", b"b"])
        file["group/x"] = 1
        file["table"] = np.zeros(2, dtype=[("x", "<f8")])
        file.create_dataset("ragged", (2,), dtype=h5py.vlen_dtype(np.dtype("f8")))
        file.create_dataset("references", (2,), dtype=h5py.ref_dtype)

    assert reason in read(write, address).oddities[address]


# ------------------------------------------------------------------------------------------------ damaged files


@pytest.mark.parametrize("data", [b"", b"SIMPLE", b"\x89HDF\r\n\x1a\n" + bytes(100)], ids=["empty", "other", "cut"])
def test_what_is_no_hdf5_file_says_so(data: bytes) -> None:
    with pytest.raises(ContentError, match="no HDF5 file"):
        read_stream(io.BytesIO(data), "x")


def packed_sample() -> bytes:
    """Return a file of many parts, without texts of free length: damaged, they have the HDF5 library run in circles.

    Such a file is for the pool, which ends a reader that takes too long.
    """
    stream = io.BytesIO()
    with h5py.File(stream, "w") as file:
        file["events"] = np.array([(1, 3.0), (2, np.nan)], dtype=[("id", "<i8"), ("energy", "<f4")])
        file["meta/name"] = np.bytes_("run one")
        file.attrs["station"] = np.bytes_("s03")
        file.create_dataset("packed", data=np.arange(500.0), chunks=(100,), compression="gzip", fletcher32=True)
        make_times(file, "times", h5py.h5t.UNIX_D32LE, np.array([1, 2], dtype="<i4"))
    return stream.getvalue()


SAMPLE = packed_sample()
ADDRESSES = ("rows(events)", "max(events[energy])", "max(packed)", "meta/name", "@station", "max(times[time])",
             "distinct(KEYS)", "rows(**/name)", "max(**/times[time])")  # fmt: skip


def test_a_file_cut_anywhere_gives_an_error_or_less() -> None:
    whole = read_stream(io.BytesIO(SAMPLE), *ADDRESSES)
    assert len(whole.values) == len(ADDRESSES)
    for size in range(0, len(SAMPLE), 97):
        with pytest.raises(ContentError):
            read_stream(io.BytesIO(SAMPLE[:size]), *ADDRESSES)


@given(st.lists(st.tuples(st.integers(0, len(SAMPLE) - 1), st.integers(0, 255)), min_size=1, max_size=20))
@settings(max_examples=150, deadline=None)
def test_a_file_with_wrong_bytes_gives_an_error_or_oddities(changes: list[tuple[int, int]]) -> None:
    damaged = bytearray(SAMPLE)
    for position, value in changes:
        damaged[position] = value
    try:
        found = read_stream(io.BytesIO(damaged), *ADDRESSES)
    except ContentError:
        return
    assert not found.values.keys() & found.oddities.keys()


# --------------------------------------------------------------------------------------------------- addresses


@pytest.mark.parametrize(
    "address", ["max(a[b)", "mean(a)", "a@", "rows(a[b])", "rows(a; b)", "*/a", "*@x", "max(a@b)", "min(a[b]c)"]
)
def test_addresses_of_other_shapes_are_refused(address: str) -> None:
    with pytest.raises(AddressError, match=r"expected (dataset|rows)"):
        Hdf5Reader().check(parse_address(address))


# ---------------------------------------------------------------------------------------------------- real files

needs_shared = pytest.mark.skipif(not SHARED.is_dir(), reason="needs the sample files in ../shared/data")


@needs_shared
@pytest.mark.parametrize(
    ("path", "expected"),
    [
        (
            "hisparc/hdf5/process_events.h5",
            {"rows(**/events)": 280, "min(**/events[timestamp])": 1283299200, "max(**/events[timestamp])": 1283299499},
        ),
        ("hisparc/hdf5/coincidences.h5", {"rows(**/events)": 173, "max(**/events[timestamp])": 1325376118}),
        (
            "kascade/kascade.h5",
            {"max(kascade/events[energy])": 5.00402e15, "distinct(kascade/events[run_id])": (6402, 6898)},
        ),
        (
            "km3net/online/events_sample.h5",
            {
                "only(event_info[run_id])": 6884,
                "min(event_info[timestamp]; event_info[nanoseconds])": (1575979235, 900000000),
            },
        ),
        ("ligo/GW150914_4_template.hdf5", {"meta@eventname": "GW150914"}),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_files_of_experiments_say_what_they_are_known_to_say(path: str, expected: dict[str, Any]) -> None:
    with (SHARED / path).open("rb") as stream:
        assert values(read_stream(stream, *expected)) == expected
