import gzip
import io
import struct
from pathlib import Path

import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from extractors.errors import AddressError, ContentError
from extractors.readers.address import parse_address
from extractors.readers.eventio import MAX_HEADER_OBJECTS, ROWS_AT_ONCE, EventioReader
from extractors.readers.reader import Content, ReadLimits

PLACES = ("RUNH.run", "RUNH.energy_min", "RUNH.energy_max", "rows(1202)", "rows(2010)", "max(2010.id)", "2000.id")


def make_object(
    number: int,
    data: bytes = b"",
    *,
    identifier: int = 0,
    version: int = 0,
    is_inner: bool = False,
    has_objects: bool = False,
    is_extended: bool = False,
    size: int | None = None,
    order: str = "<",
) -> bytes:
    """Return an object; `size` may lie about its data."""
    size = len(data) if size is None else size
    kind = number | is_extended << 17 | version << 20
    header = struct.pack(f"{order}IiI", kind, identifier, (size & 0x3FFFFFFF) | has_objects << 30)
    if is_extended:
        header += struct.pack(f"{order}I", size >> 30)
    return (b"" if is_inner else struct.pack(f"{order}I", 0xD41F8A37)) + header + data


def make_block(tag: bytes, words: dict[int, float], *, order: str = "<", length: int = 273) -> bytes:
    numbers = [struct.unpack(f"{order}f", tag if order == "<" else tag[::-1])[0], *[0.0] * (length - 1)]
    for number, value in words.items():
        numbers[number - 1] = value
    return struct.pack(f"{order}i{length}f", length, *numbers)


def make_run(n_events: int = 3, *, is_extended: bool = False, order: str = "<") -> list[bytes]:
    """Return the objects of a run: a CORSIKA header, showers with nested photons, and telescope events."""

    def top(number: int, data: bytes, *, identifier: int = 0, has_objects: bool = False) -> bytes:
        return make_object(
            number, data, identifier=identifier, has_objects=has_objects, is_extended=is_extended, order=order
        )

    objects = [
        top(1200, make_block(b"RUNH", {2: 74, 17: 100, 18: 1000}, order=order), identifier=74),
        top(2000, bytes(100), identifier=74),
    ]
    for event in range(1, n_events + 1):
        photons = [make_object(1205, bytes(40), identifier=number, is_inner=True, order=order) for number in range(2)]
        header = make_block(b"EVTH", {2: event, 4: 100.0 * event}, order=order)
        objects += [
            top(1202, header, identifier=event),
            top(1204, b"".join(photons), has_objects=True),
            top(2010, bytes(8), identifier=100 * event),
        ]
    return objects


def read(data: bytes, *texts: str, header_only: bool = False) -> Content:
    reader = EventioReader()
    addresses = [parse_address(text) for text in texts]
    for address in addresses:
        reader.check(address)
    return reader.read(io.BytesIO(data), addresses, limits=ReadLimits(header_only=header_only))


def plain(content: Content) -> dict[str, object]:
    return {text: raw.value for text, raw in content.values.items()}


@pytest.mark.parametrize("is_extended", [True, False])
@pytest.mark.parametrize("order", ["<", ">"])
def test_blocks_and_objects_are_found_in_either_byte_order(*, is_extended: bool, order: str) -> None:
    content = read(b"".join(make_run(is_extended=is_extended, order=order)), *PLACES, "min(EVTH.energy)")
    assert content.oddities == {}
    assert plain(content) == {
        "RUNH.run": 74,
        "RUNH.energy_min": 100.0,
        "RUNH.energy_max": 1000.0,
        "rows(1202)": 3,
        "rows(2010)": 3,
        "max(2010.id)": 300,
        "2000.id": 74,
        "min(EVTH.energy)": 100.0,
    }
    assert content.values["min(EVTH.energy)"].unit == "GeV"


def test_objects_are_counted_on_all_levels() -> None:
    content = read(b"".join(make_run()), "rows(1205)", "rows(1204)", "distinct(1205.id)", "rows(9)")
    assert plain(content) == {"rows(1205)": 6, "rows(1204)": 3, "distinct(1205.id)": (0, 1), "rows(9)": 0}


def test_the_version_of_an_object_is_read() -> None:
    assert plain(read(make_object(2000, version=17), "2000.version")) == {"2000.version": 17}


def test_columns_of_very_many_objects_are_reduced_in_pieces() -> None:
    data = make_object(1200) + b"".join(make_object(2010, identifier=number) for number in range(2 * ROWS_AT_ONCE + 5))
    content = read(data, "last(2010.id)", "n_distinct(2010.id)", "rows(2010)")
    n_objects = 2 * ROWS_AT_ONCE + 5
    assert plain(content) == {
        "last(2010.id)": n_objects - 1,
        "n_distinct(2010.id)": n_objects,
        "rows(2010)": n_objects,
    }


def test_an_object_that_should_hold_a_block_and_does_not_has_no_words() -> None:
    for data in (b"", b"\0\0", struct.pack("<i", 273), struct.pack("<i", -1) + bytes(40), struct.pack("<i", 2**30)):
        content = read(
            make_object(1200, data) + make_object(2000, identifier=5), "RUNH.run", "max(RUNH.run)", "2000.id"
        )
        assert plain(content) == {"2000.id": 5}


def test_a_word_that_blocks_are_too_short_for_takes_no_other_with_it() -> None:
    content = read(b"".join(make_run()), "max(EVTH.energy)", "max(EVTH[300])")
    assert plain(content) == {"max(EVTH.energy)": 300.0}


def test_only_the_first_objects_are_looked_at_when_only_headers_may_be_read() -> None:
    stream = io.BytesIO(b"".join(make_run(500)))
    addresses = [parse_address(text) for text in ("RUNH.run", "2000.id", "RUNE.run", "rows(1202)", "max(2010.id)")]
    content = EventioReader().read(stream, addresses, limits=ReadLimits(header_only=True))
    assert plain(content) == {"RUNH.run": 74, "2000.id": 74}
    assert stream.tell() < MAX_HEADER_OBJECTS * 1200


def test_nothing_is_read_after_all_single_values_are_found() -> None:
    objects = make_run()
    assert plain(read(objects[0] + b"no object", "RUNH.run")) == {"RUNH.run": 74}


@pytest.mark.parametrize(
    "text", ["RUNH", "RUNH.energy", "2000", "2000.size", "x.id", "rows(RUNH)", "rows(-1)", "rows(¹)", "rows(123456)",
             "min(RUNH.run; 1200.id)", "min(2000.id; 2010.id)"],
)  # fmt: skip
def test_other_addresses_are_refused(text: str) -> None:
    with pytest.raises(AddressError):
        EventioReader().check(parse_address(text))


# ------------------------------------------------------------------------------------------------- damage


def test_a_file_cut_off_anywhere_keeps_what_is_whole() -> None:
    objects = make_run(2)
    data = b"".join(objects)
    ends = [sum(map(len, objects[: number + 1])) for number in range(len(objects))]
    for size in range(0, len(data), 7):
        if size < 16:
            with pytest.raises(ContentError):
                read(data[:size], "rows(2010)")
            continue
        content = read(data[:size], "2000.id", "rows(2010)")
        assert ("objects" in content.oddities) == (size not in ends)
        assert ("2000.id" in content.values) == (size >= ends[1])
        assert content.values["rows(2010)"].value == sum(end <= size for end in (ends[4], ends[7]))


def test_what_is_no_object_between_objects_ends_the_walk_at_its_byte() -> None:
    objects = make_run(2)
    data = b"".join(objects[:5]) + b"garbage!" + b"".join(objects[5:])
    content = read(data, "rows(2010)")
    assert plain(content) == {"rows(2010)": 1}
    assert f"at byte {len(b''.join(objects[:5]))}" in content.oddities["objects"]


def test_an_inner_object_that_ends_after_the_outer_one_is_damage() -> None:
    inner = make_object(1205, bytes(4), is_inner=True, size=400)
    content = read(make_object(1204, inner, has_objects=True) + make_object(2010), "rows(2010)", "rows(1204)")
    assert plain(content) == {"rows(2010)": 0, "rows(1204)": 0}
    assert "after the one around it" in content.oddities["objects"]


def test_a_lying_length_is_neither_read_nor_believed() -> None:
    huge = make_object(2010, bytes(10), size=2**41, is_extended=True)
    content = read(make_object(2000, identifier=5) + huge, "2000.id", "rows(2010)")
    assert plain(content) == {"2000.id": 5, "rows(2010)": 0}
    assert "the file ends" in content.oddities["objects"]


def test_nesting_without_end_is_damage() -> None:
    data = b""
    for _ in range(5000):
        data = make_object(1204, data, is_inner=True, has_objects=True)
    content = read(make_object(1204, data, has_objects=True), "rows(1204)")
    assert plain(content) == {"rows(1204)": 0}
    assert "nested more than" in content.oddities["objects"]


@pytest.mark.parametrize(
    "data", [b"", b"\x37\x8a", b"RUNH" + bytes(100), b"\x37\x8a\x1f\xd4", b"\x37\x8a\x1f\xd4" + bytes(8)]
)
def test_other_files_are_refused(data: bytes) -> None:
    with pytest.raises(ContentError):
        read(data, "RUNH.run")


@settings(max_examples=300, deadline=None)
@given(tail=st.binary(max_size=200), at=st.integers(0, 3000), flipped=st.binary(min_size=1, max_size=4))
def test_no_bytes_make_it_fail_otherwise_or_go_on_for_ever(tail: bytes, at: int, flipped: bytes) -> None:
    data = bytearray(b"".join(make_run(1)))
    data[at : at + len(flipped)] = flipped
    try:
        read(bytes(data) + tail, *PLACES, "min(EVTH.energy)", "rows(1205)")
    except ContentError:
        assert at < 16


# --------------------------------------------------------------------------------------------- real files


def unpacked(path: Path) -> bytes:
    data = path.read_bytes()
    if path.suffix == ".gz":
        return gzip.decompress(data)
    if path.suffix == ".zst":
        return zstandard.ZstdDecompressor().stream_reader(io.BytesIO(data)).read()
    return data


@pytest.mark.parametrize(
    ("name", "run", "energies_gev", "n_showers"),
    [
        ("3_gammas_reuse_5.dat", 1, (100.0, 200.0), 3),
        ("5_gamma_2_telescopes_reuse_2_split_always.zst", 1, (80.0, 80.0), 5),
        ("gamma_100gev_1216.eventio", 8, (100.0, 100.0), 1),
        ("one_shower.dat", 1, (5.0, 100.0), 1),
        ("one_shower.dat.gz", 1, (5.0, 100.0), 1),
        ("proton_500GeV_iactext.eventio.gz", 1, (500.0, 500.0), 1),
        ("two_telescopes.dat", 1, (200.0, 200.0), 2),
    ],
)
def test_real_showers_say_what_is_known_of_them(
    name: str, run: int, energies_gev: tuple[float, float], n_showers: int, shared_data: Path
) -> None:
    content = read(
        unpacked(shared_data / "storages" / "cta" / "eventio" / name),
        "RUNH.run", "RUNH.energy_min", "RUNH.energy_max", "rows(1202)", "RUNE.n_events",
    )  # fmt: skip
    assert content.oddities == {}
    assert plain(content) == {
        "RUNH.run": run,
        "RUNH.energy_min": energies_gev[0],
        "RUNH.energy_max": energies_gev[1],
        "rows(1202)": n_showers,
        "RUNE.n_events": n_showers,
    }


@pytest.mark.parametrize(
    ("name", "run", "n_events"), [("calib_true_pe.simtel.zst", 9990, 2), ("lst_with_photons.simtel.zst", 5, 1)]
)
def test_real_telescope_events_say_what_is_known_of_them(name: str, run: int, n_events: int, shared_data: Path) -> None:
    data = unpacked(shared_data / "storages" / "cta" / "eventio" / name)
    content = read(data, "2000.id", "rows(2010)")
    assert (plain(content), content.oddities) == ({"2000.id": run, "rows(2010)": n_events}, {})
    assert plain(read(data, "2000.id", header_only=True)) == {"2000.id": run}
