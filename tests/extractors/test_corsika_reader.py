import io
import struct
import tracemalloc
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from extractors.errors import AddressError, ContentError
from extractors.readers.address import parse_address
from extractors.readers.corsika import BLOCKS_PER_RECORD, PIECE_BYTES, WORDS, CorsikaReader
from extractors.readers.reader import Content, ReadLimits

PLACES = (
    "RUNH.run",
    "RUNH.date",
    "RUNH.version",
    "RUNH.energy_min",
    "RUNH.energy_max",
    "RUNH.spectral_index",
    "RUNH[17]",
    "EVTH.energy",
    "rows(EVTH)",
    "min(EVTH.energy)",
    "max(EVTH.energy; EVTH.event)",
    "distinct(EVTH.particle)",
)


def make_block(tag: bytes, words: dict[int, float], *, length: int = 273) -> bytes:
    """Return a sub-block; `words` are counted from 1 as in the user's guide."""
    numbers = [0.0] * length
    for number, value in words.items():
        numbers[number - 1] = value
    return tag + struct.pack(f"<{length - 1}f", *numbers[1:])


def make_run(
    energies_gev: Sequence[float] = (150.0, 900.0, 200.0), *, length: int = 273, has_end: bool = True
) -> list[bytes]:
    """Return the sub-blocks of a run of proton showers, with one block of particles each."""
    header = {2: 74.0, 3: 171018.0, 4: 7.741, 16: -2.7, 17: 100.0, 18: 1000.0}
    blocks = [make_block(b"RUNH", header, length=length)]
    for number, energy in enumerate(energies_gev, start=1):
        blocks.append(make_block(b"EVTH", {2: number, 3: 14, 4: energy, 11: 0.1, 44: 74}, length=length))
        blocks.append(make_block(struct.pack("<f", 5012.0), {}, length=length))
        blocks.append(make_block(b"EVTE", {2: number}, length=length))
    if has_end:
        blocks.append(make_block(b"RUNE", {2: 74.0, 3: len(energies_gev)}, length=length))
    return blocks


def pack(blocks: list[bytes], *, has_lengths: bool = True, filling: bytes = b"\0\0\0\0") -> bytes:
    """Return the file with these sub-blocks, filled up to whole records."""
    size = len(blocks[0])
    packed = b""
    for start in range(0, len(blocks), BLOCKS_PER_RECORD):
        record = b"".join(blocks[start : start + BLOCKS_PER_RECORD])
        record += filling * ((BLOCKS_PER_RECORD * size - len(record)) // len(filling))
        length = struct.pack("<I", len(record)) if has_lengths else b""
        packed += length + record + length
    return packed


def read(data: bytes, *texts: str, header_only: bool = False) -> Content:
    reader = CorsikaReader()
    addresses = [parse_address(text) for text in texts]
    for address in addresses:
        reader.check(address)
    return reader.read(io.BytesIO(data), addresses, limits=ReadLimits(header_only=header_only))


def plain(content: Content) -> dict[str, object]:
    return {text: raw.value for text, raw in content.values.items()}


@pytest.mark.parametrize("has_lengths", [True, False])
@pytest.mark.parametrize("length", [273, 312])
def test_words_and_events_are_read_from_every_layout(*, has_lengths: bool, length: int) -> None:
    content = read(pack(make_run(length=length), has_lengths=has_lengths), *PLACES)
    assert plain(content) == {
        "RUNH.run": 74,
        "RUNH.date": 171018,
        "RUNH.version": 7.741,
        "RUNH.energy_min": 100.0,
        "RUNH.energy_max": 1000.0,
        "RUNH.spectral_index": -2.7,
        "RUNH[17]": 100.0,
        "EVTH.energy": 150.0,
        "rows(EVTH)": 3,
        "min(EVTH.energy)": 150.0,
        "max(EVTH.energy; EVTH.event)": (900.0, 2),
        "distinct(EVTH.particle)": (14,),
    }
    assert content.oddities == {}


def test_energies_and_angles_have_the_units_of_the_users_guide() -> None:
    content = read(pack(make_run()), "RUNH.energy_max", "RUNH[18]", "min(EVTH.energy)", "EVTH.zenith", "EVTH.event")
    assert {text: raw.unit for text, raw in content.values.items()} == {
        "RUNH.energy_max": "GeV",
        "RUNH[18]": "GeV",
        "min(EVTH.energy)": "GeV",
        "EVTH.zenith": "rad",
        "EVTH.event": None,
    }


def test_a_run_of_many_records_is_counted_whole() -> None:
    blocks = make_run([100.0 + number for number in range(1000)])
    data = pack(blocks)
    assert len(data) > 2 * PIECE_BYTES
    assert plain(read(data, "rows(EVTH)", "RUNE.n_events", "last(EVTH.event)", "max(EVTH.energy)")) == {
        "rows(EVTH)": 1000,
        "RUNE.n_events": 1000,
        "last(EVTH.event)": 1000,
        "max(EVTH.energy)": 1099.0,
    }


def test_what_lay_in_memory_after_the_end_of_the_run_is_no_event() -> None:
    filling = make_block(b"EVTH", {2: 99.0})
    content = read(pack(make_run(), filling=filling), "rows(EVTH)")
    assert (plain(content), content.oddities) == ({"rows(EVTH)": 3}, {})


def test_a_word_that_is_not_in_this_block_is_no_value() -> None:
    content = read(pack(make_run()), "EVTH[300]", "max(EVTH[300])", "RUNH.run")
    assert plain(content) == {"RUNH.run": 74}
    assert plain(read(pack(make_run(length=312)), "EVTH[300]")) == {"EVTH[300]": 0.0}


def test_a_number_that_should_count_but_is_broken_is_left_as_it_is() -> None:
    blocks = [make_block(b"RUNH", {2: 1.5}), make_block(b"RUNE", {})]
    assert plain(read(pack(blocks), "RUNH.run")) == {"RUNH.run": 1.5}


@pytest.mark.parametrize("number", [1e38, -1e38, float("inf"), float("nan"), 2.0**63])
def test_a_number_that_is_too_large_to_count_is_left_as_it_is(number: float) -> None:
    blocks = [make_block(b"RUNH", {}), make_block(b"EVTH", {2: number}), make_block(b"RUNE", {})]
    content = read(pack(blocks), "EVTH.event", "max(EVTH.event)", "n_distinct(EVTH.event)")
    assert isinstance(content.values["EVTH.event"].value, float)
    assert content.values["n_distinct(EVTH.event)"].value in (0, 1)


def test_events_without_a_finite_energy_do_not_count_in_its_range() -> None:
    content = read(pack(make_run([float("nan"), 5.0, float("inf")])), "min(EVTH.energy)", "max(EVTH.energy)")
    assert plain(content) == {"min(EVTH.energy)": 5.0, "max(EVTH.energy)": 5.0}


def test_only_the_first_record_is_read_when_only_headers_may_be() -> None:
    stream = io.BytesIO(pack(make_run([1.0] * 1000)))
    addresses = [parse_address(text) for text in ("RUNH.run", "EVTH.energy", "RUNE.n_events", "rows(EVTH)")]
    content = CorsikaReader().read(stream, addresses, limits=ReadLimits(header_only=True))
    assert plain(content) == {"RUNH.run": 74, "EVTH.energy": 1.0}
    assert stream.tell() < 30_000


def test_nothing_after_the_run_header_is_read_for_it_alone() -> None:
    data = pack(make_run())
    damaged = data[: 4 + 273 * 4] + b"\xff" * (len(data) - 4 - 273 * 4)
    assert plain(read(damaged[:2000], "RUNH.run")) == {"RUNH.run": 74}


@pytest.mark.parametrize(
    "text",
    [
        "RUNH",
        "RUNH.energy",
        "RUNH[0]",
        "RUNH[1]",
        "RUNH[313]",
        "LONG[2]",
        "EVTH.energy.x",
        "rows(LONG)",
        "rows(EVTH.energy)",
        "min(EVTH)",
        "min(EVTH.energy; RUNH.run)",
        "runh.run",
        "",
    ],
)
def test_other_addresses_are_refused(text: str) -> None:
    with pytest.raises(AddressError):
        CorsikaReader().check(parse_address(text))


def test_all_named_words_have_numbers_of_their_own() -> None:
    for words in WORDS.values():
        numbers = [word.number for word in words.values()]
        assert len(set(numbers)) == len(numbers)
        assert all(2 <= number <= 273 for number in numbers)


# ------------------------------------------------------------------------------------------------- damage


def test_a_file_cut_off_anywhere_keeps_what_is_whole() -> None:
    blocks = make_run([1.0] * 12)
    data = pack(blocks)
    ends = [4 + 8 * (number // 21) + 1092 * (number + 1) for number in range(len(blocks))]
    for size in range(0, len(data), 211):
        if size < ends[0]:
            with pytest.raises(ContentError):
                read(data[:size], "RUNH.run", "rows(EVTH)")
            continue
        content = read(data[:size], "RUNH.run", "rows(EVTH)")
        n_whole = sum(end <= size for end, block in zip(ends, blocks, strict=True) if block.startswith(b"EVTH"))
        assert plain(content) == {"RUNH.run": 74, "rows(EVTH)": n_whole}
        assert ("records" in content.oddities) == (size < ends[-1])


def test_a_run_without_its_end_is_told() -> None:
    content = read(pack(make_run(has_end=False)), "rows(EVTH)")
    assert plain(content) == {"rows(EVTH)": 3}
    assert "without RUNE" in content.oddities["records"]


def test_a_second_run_in_the_file_is_told_and_not_mixed_in() -> None:
    run = pack(make_run())
    content = read(run + run, "rows(EVTH)")
    assert plain(content) == {"rows(EVTH)": 3}
    assert f"from byte {len(run)} on" in content.oddities["records"]


def test_a_record_with_a_wrong_length_ends_the_walk_at_its_byte() -> None:
    data = bytearray(pack(make_run([1.0] * 20)))
    record = 21 * 1092 + 8
    data[record : record + 4] = struct.pack("<I", 5)
    content = read(bytes(data), "rows(EVTH)")
    assert plain(content) == {"rows(EVTH)": 7}
    assert f"the record at byte {record} " in content.oddities["records"]


@pytest.mark.parametrize(
    "head",
    [
        b"",
        b"RUN",
        b"EVTH" + bytes(4000),
        bytes(8000),
        struct.pack("<I", 1000) + b"RUNH" + bytes(4000),
        struct.pack("<I", 0) + b"RUNH" + bytes(4000),
        struct.pack("<I", 1092 * 3_900_000) + b"RUNH" + bytes(4000),
        struct.pack(">I", 22932) + b"RUNH" + bytes(4000),
        b"RUNH" + bytes(1000),
    ],
)
def test_other_files_are_refused(head: bytes) -> None:
    with pytest.raises(ContentError):
        read(head, "RUNH.run")


@settings(max_examples=200, deadline=None)
@given(tail=st.binary(max_size=6000), has_lengths=st.booleans())
def test_no_bytes_after_the_run_header_make_it_fail_otherwise(*, tail: bytes, has_lengths: bool) -> None:
    head = pack(make_run(), has_lengths=has_lengths)[: 1092 + 4 * has_lengths]
    content = read(head + tail, *PLACES)
    assert content.values["RUNH.run"].value == 74


def test_memory_does_not_depend_on_the_length_of_the_file() -> None:
    record = pack(make_run())
    middle = pack([make_block(struct.pack("<f", 5012.0), {})] * 21)

    class LongRun(io.RawIOBase):
        """A record, a thousand of particles, and the first again, which are 24 MB nobody holds."""

        def __init__(self) -> None:
            self._left = 1002

        def readable(self) -> bool:
            return True

        def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
            piece = b"" if not self._left else middle if self._left < 1002 else pack(make_run(has_end=False))
            assert len(buffer) >= len(piece)
            buffer[: len(piece)] = piece
            self._left -= bool(self._left)
            return len(piece)

    assert len(record) == len(middle)
    stream = io.BufferedReader(LongRun(), len(middle))
    tracemalloc.start()
    content = CorsikaReader().read(stream, [parse_address("rows(EVTH)")], limits=ReadLimits())
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert plain(content) == {"rows(EVTH)": 3}
    assert peak < 10 * PIECE_BYTES


# --------------------------------------------------------------------------------------------- real files


@pytest.mark.parametrize(
    ("path", "date", "version", "energies_gev", "n_events"),
    [
        ("cta/corsika/corsika74100", 171018, 7.41, (2000.0, 2000.0), 20),
        ("cta/corsika/corsika75700", 180314, 7.57, (200.0, 200.0), 10),
        ("cta/corsika/corsika757_particle", 180315, 7.57, (200.0, 200.0), 10),
        ("km3net/corsika/DAT000001", 220323, 7.741, (1.1e6, 9e7), 10),
    ],
)
def test_real_files_say_what_is_known_of_them(
    path: str, date: int, version: float, energies_gev: tuple[float, float], n_events: int, shared_data: Path
) -> None:
    content = read((shared_data / "storages" / path).read_bytes(), *PLACES, "RUNE.n_events")
    values = plain(content)
    assert content.oddities == {}
    assert (values["RUNH.run"], values["RUNH.date"], values["RUNH.version"]) == (1, date, version)
    assert (values["RUNH.energy_min"], values["RUNH.energy_max"]) == energies_gev
    assert values["rows(EVTH)"] == values["RUNE.n_events"] == n_events
