import hashlib
import io
import os
import pickle
import struct
import sys
import tracemalloc
from pathlib import Path

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from extractors.errors import AddressError, ContentError, DescriptionError
from extractors.loading import load_description
from extractors.readers import kaitai
from extractors.readers.address import parse_address
from extractors.readers.kaitai import WINDOW_BYTES, KaitaiReader, compile_ksy
from extractors.readers.reader import Content, ReadLimits, load_reader

SPECIFICATION = """
meta:
  id: lamp
  endian: le
seq:
  - id: magic
    contents: LA
  - id: number
    type: u4
  - id: colour
    type: u1
    enum: colour
  - id: len_name
    type: u4
  - id: name
    type: str
    size: len_name
    encoding: UTF-8
  - id: num_points
    type: u1
  - id: points
    type: point
    repeat: expr
    repeat-expr: num_points
  - id: extra
    type: u2
    if: num_points > 1
instances:
  share:
    value: 100 / num_points
types:
  point:
    seq:
      - id: x
        type: s2
      - id: y
        type: s2
enums:
  colour:
    0: red
    1: green
"""

MODULE = """
from enum import IntEnum
from kaitaistruct import KaitaiStream, KaitaiStruct, ValidationNotEqualError


class Lamp(KaitaiStruct):
    class Colour(IntEnum):
        red = 0
        green = 1

    def __init__(self, _io, _parent=None, _root=None):
        super().__init__(_io)
        self.magic = self._io.read_bytes(2)
        if not self.magic == b"LA":
            raise ValidationNotEqualError(b"LA", self.magic, self._io, "/seq/0")
        self.number = self._io.read_u4le()
        self.colour = KaitaiStream.resolve_enum(Lamp.Colour, self._io.read_u1())
        self.len_name = self._io.read_u4le()
        self.name = (self._io.read_bytes(self.len_name)).decode("UTF-8")
        self.num_points = self._io.read_u1()
        self.points = [Lamp.Point(self._io) for _ in range(self.num_points)]
        if self.num_points > 1:
            self.extra = self._io.read_u2le()

    @property
    def share(self):
        return 100 // self.num_points

    class Point(KaitaiStruct):
        def __init__(self, _io):
            super().__init__(_io)
            self.x = self._io.read_s2le()
            self.y = self._io.read_s2le()
"""
"""What the compiler makes of the specification, shortened."""


def make_folder(folder: Path, specification: str = SPECIFICATION, module: str = MODULE, *, name: str = "lamp") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}.ksy").write_text(specification)
    digest = hashlib.sha256(specification.encode()).hexdigest()
    (folder / f"{name}.py").write_text(f"# Compiled from {name}.ksy with SHA-256 {digest}\n{module}")
    return folder


def make_frame(
    number: int, *, colour: int = 0, name: bytes = b"porch", points: tuple[tuple[int, int], ...] = ()
) -> bytes:
    frame = b"LA" + struct.pack("<IBI", number, colour, len(name)) + name + bytes([len(points)])
    frame += b"".join(struct.pack("<hh", *point) for point in points)
    return frame + (struct.pack("<H", 1000 + number) if len(points) > 1 else b"")


def make_reader(folder: Path, **options: object) -> KaitaiReader:
    reader = load_reader("kaitai", {"module": "lamp"} | options, folder)
    assert isinstance(reader, KaitaiReader)
    return reader


def read(reader: KaitaiReader, data: bytes, *texts: str, header_only: bool = False) -> Content:
    addresses = [parse_address(text) for text in texts]
    for address in addresses:
        reader.check(address)
    return reader.read(io.BytesIO(data), addresses, limits=ReadLimits(header_only=header_only))


def plain(content: Content) -> dict[str, object]:
    return {text: raw.value for text, raw in content.values.items()}


@pytest.fixture(scope="module")
def reader(tmp_path_factory: pytest.TempPathFactory) -> KaitaiReader:
    return make_reader(make_folder(tmp_path_factory.mktemp("lamps")))


FRAMES = (
    make_frame(7, colour=1, points=((1, 2), (3, 4)))
    + make_frame(9, name=b"hall", points=((-5, 0),))
    + make_frame(8, colour=1, points=((2, 2), (0, 0), (1, 1)))
)


def test_single_values_are_those_of_the_first_frame(reader: KaitaiReader) -> None:
    content = read(reader, FRAMES, "number", "colour", "name", "points.1.y", "extra", "share", "magic")
    assert plain(content) == {
        "number": 7,
        "colour": "green",
        "name": "porch",
        "points.1.y": 4,
        "extra": 1007,
        "share": 50,
        "magic": "LA",
    }


def test_reductions_go_over_all_frames(reader: KaitaiReader) -> None:
    content = read(
        reader, FRAMES, "rows(frames)", "min(number)", "max(number)", "last(number)", "distinct(colour)",
        "min(points.0.x)", "max(number; share)", "n_distinct(name)",
    )  # fmt: skip
    assert content.oddities == {}
    assert plain(content) == {
        "rows(frames)": 3,
        "min(number)": 7,
        "max(number)": 9,
        "last(number)": 8,
        "distinct(colour)": ("green", "red"),
        "min(points.0.x)": -5,
        "max(number; share)": (9, 100),
        "n_distinct(name)": 2,
    }


def test_a_field_that_some_frames_lack_is_reduced_over_the_others(reader: KaitaiReader) -> None:
    content = read(reader, FRAMES, "count(extra)", "max(extra)", "points.2.x", "count(points.2.x)")
    assert (plain(content), content.oddities) == ({"count(extra)": 2, "max(extra)": 1008.0, "count(points.2.x)": 1}, {})


def test_a_computed_field_that_fails_is_odd_and_costs_no_other(reader: KaitaiReader) -> None:
    frames = make_frame(1) + make_frame(2, points=((0, 0),))
    content = read(reader, frames, "share", "max(share)", "number", "rows(frames)")
    assert plain(content) == {"max(share)": 100.0, "number": 1, "rows(frames)": 2}
    assert "division" in content.oddities["share"]
    assert "in 1 of 2 frames, first in frame 0: " in content.oddities["max(share)"]


def test_a_list_or_structure_is_no_value(reader: KaitaiReader) -> None:
    content = read(reader, FRAMES, "points", "points.0", "max(points)", "number")
    assert plain(content) == {"number": 7}
    assert set(content.oddities) == {"points", "points.0", "max(points)"}


def test_a_word_that_the_enumeration_lacks_stays_a_number(reader: KaitaiReader) -> None:
    assert plain(read(reader, make_frame(1, colour=77), "colour")) == {"colour": 77}


def test_frames_are_read_over_the_ends_of_windows(reader: KaitaiReader) -> None:
    frames = [make_frame(number, name=b"n" * (number * 7919 % 200_000)) for number in range(150)]
    data = b"".join(frames)
    assert len(data) > 3 * WINDOW_BYTES
    content = read(reader, data, "rows(frames)", "last(number)", "n_distinct(number)")
    assert (plain(content), content.oddities) == (
        {"rows(frames)": 150, "last(number)": 149, "n_distinct(number)": 150},
        {},
    )


def test_columns_of_very_many_frames_are_reduced_in_pieces(reader: KaitaiReader) -> None:
    data = b"".join(make_frame(number) for number in range(2 * kaitai.FRAMES_AT_ONCE))
    content = read(reader, data, "count(number)", "sum(number)", "first(number)")
    n_frames = 2 * kaitai.FRAMES_AT_ONCE
    assert plain(content) == {
        "count(number)": n_frames,
        "sum(number)": n_frames * (n_frames - 1) // 2,
        "first(number)": 0,
    }


def test_header_only_reads_the_first_frame_alone(reader: KaitaiReader) -> None:
    content = read(reader, FRAMES, "number", "max(number)", "rows(frames)", header_only=True)
    assert plain(content) == {"number": 7}


def test_header_only_finds_the_last_of_frames_of_one_size(tmp_path: Path) -> None:
    size = len(make_frame(0))
    reader = make_reader(make_folder(tmp_path), frame_bytes=size)
    data = b"".join(make_frame(number) for number in range(5, 25))
    texts = ("number", "first(number)", "last(number)", "max(number)", "rows(frames)")
    assert plain(read(reader, data, *texts, header_only=True)) == {
        "number": 5, "first(number)": 5, "last(number)": 24, "rows(frames)": 20,
    }  # fmt: skip
    cut = read(reader, data[:-1], *texts, header_only=True)
    assert plain(cut) == {"number": 5, "first(number)": 5, "last(number)": 23, "rows(frames)": 19}
    assert "within frame 19" in cut.oddities["frames"]
    uneven = read(reader, data + make_frame(25, name=b"an" + b"x" * size), *texts, header_only=True)
    assert "last(number)" not in uneven.values
    assert "frames" in uneven.oddities


def test_a_whole_file_is_one_structure_if_the_description_says_so(tmp_path: Path) -> None:
    reader = make_reader(make_folder(tmp_path), whole=True)
    content = read(reader, FRAMES, "number", "rows(frames)")
    assert (plain(content), content.oddities) == ({"number": 7, "rows(frames)": 1}, {})


def test_a_reader_can_be_sent_to_another_process(reader: KaitaiReader) -> None:
    sent = pickle.loads(pickle.dumps(reader))
    assert plain(read(sent, FRAMES, "number")) == {"number": 7}


def test_the_module_is_imported_without_a_trace(reader: KaitaiReader) -> None:
    assert reader.folder is not None
    before = set(sys.modules)
    read(reader, FRAMES, "number")
    assert not [name for name in set(sys.modules) - before if "lamp" in name]
    assert sorted(path.name for path in reader.folder.iterdir()) == ["lamp.ksy", "lamp.py"]


@pytest.mark.parametrize(
    "text",
    [
        "numbr",
        "points.x",
        "points.0.z",
        "number.x",
        "rows(number)",
        "_io",
        "points.0._io",
        "number()",
        "a..b",
        "max(__class__)",
        "Number",
        "number; name",
    ],
)
def test_fields_that_the_specification_lacks_are_refused(text: str, reader: KaitaiReader) -> None:
    with pytest.raises(AddressError):
        reader.check(parse_address(text))


# ------------------------------------------------------------------------------------------------- damage


def test_a_file_cut_off_at_any_byte_keeps_its_whole_frames(reader: KaitaiReader) -> None:
    frame = make_frame(3, points=((1, 2), (3, 4)))
    for size in range(2 * len(frame) + 1):
        if size < len(frame):
            with pytest.raises(ContentError, match=r"frame 0 at byte 0 |empty"):
                read(reader, (frame * 2)[:size], "number", "rows(frames)")
            continue
        content = read(reader, (frame * 2)[:size], "number", "rows(frames)")
        assert plain(content) == {"number": 3, "rows(frames)": size // len(frame)}
        assert (f"frame 1 at byte {len(frame)} " in content.oddities.get("frames", "")) == (size % len(frame) != 0)


def test_garbage_between_frames_is_told_and_not_skipped(reader: KaitaiReader) -> None:
    frame = make_frame(3)
    content = read(reader, frame + b"??" + frame, "rows(frames)", "max(number)")
    assert plain(content) == {"rows(frames)": 1, "max(number)": 3}
    told = content.oddities["frames"]
    assert f"frame 1 at byte {len(frame)} is damaged: /seq/0: validation failed" in told
    assert "at pos" not in told


def test_a_failure_is_told_shortly(tmp_path: Path) -> None:
    module = MODULE.replace("if not self.magic", "if True or not self.magic").replace(
        "self.magic, self", "b'x' * 9000, self"
    )
    with pytest.raises(ContentError, match="frame 0 at byte 0 is damaged") as caught:
        read(make_reader(make_folder(tmp_path, module=module)), FRAMES, "number")
    assert len(str(caught.value)) < 400


def test_a_lying_length_is_neither_read_nor_waited_for(reader: KaitaiReader) -> None:
    liar = b"LA" + struct.pack("<IBI", 1, 0, 0xFFFFFFFF)
    data = make_frame(3) + liar + bytes(3 * WINDOW_BYTES)
    tracemalloc.start()
    content = read(reader, data, "rows(frames)")
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert plain(content) == {"rows(frames)": 1}
    assert "frame 1 at byte" in content.oddities["frames"]
    assert peak < 5 * WINDOW_BYTES


def test_memory_does_not_depend_on_the_length_of_the_file(reader: KaitaiReader) -> None:
    data = make_frame(3, name=b"n" * 1000) * 20_000
    tracemalloc.start()
    content = read(reader, data, "rows(frames)", "max(number)")
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert plain(content) == {"rows(frames)": 20_000, "max(number)": 3}
    assert peak < 5 * WINDOW_BYTES < len(data) + WINDOW_BYTES


def test_a_frame_of_no_bytes_does_not_go_on_for_ever(tmp_path: Path) -> None:
    nothing = "meta:\n  id: lamp\nseq: []\n"
    module = "from kaitaistruct import KaitaiStruct\n\n\nclass Lamp(KaitaiStruct):\n    pass\n"
    with pytest.raises(ContentError, match="no bytes"):
        read(make_reader(make_folder(tmp_path, nothing, module)), b"abc", "rows(frames)")


def test_nesting_without_end_is_damage(tmp_path: Path) -> None:
    nested = "meta:\n  id: lamp\nseq:\n  - id: inner\n    type: lamp\n"
    module = (
        "from kaitaistruct import KaitaiStruct\n\n\nclass Lamp(KaitaiStruct):\n    def __init__(self, _io):\n"
        "        super().__init__(_io)\n        self._io.read_u1()\n        self.inner = Lamp(self._io)\n"
    )
    with pytest.raises(ContentError, match="frame 0 at byte 0 is damaged"):
        read(make_reader(make_folder(tmp_path, nested, module)), bytes(100_000), "rows(frames)")


def test_text_that_is_none_is_damage_of_its_frame(reader: KaitaiReader) -> None:
    content = read(reader, make_frame(1) + make_frame(2, name=b"\xff\xfe"), "rows(frames)")
    assert plain(content) == {"rows(frames)": 1}
    assert "utf-8" in content.oddities["frames"]


def test_a_whole_file_that_is_too_long_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kaitai, "MAX_WHOLE_BYTES", 100)
    with pytest.raises(ContentError, match="more than 100 bytes"):
        read(make_reader(make_folder(tmp_path), whole=True), bytes(101), "number")


@settings(max_examples=300, deadline=None)
@given(at=st.integers(0, len(FRAMES) - 1), flipped=st.binary(min_size=1, max_size=6), tail=st.binary(max_size=40))
def test_no_bytes_make_it_fail_otherwise(at: int, flipped: bytes, tail: bytes, reader: KaitaiReader) -> None:
    data = FRAMES[:at] + flipped + FRAMES[at + len(flipped) :] + tail
    try:
        content = read(reader, data, "number", "name", "rows(frames)", "max(points.0.x)", "distinct(colour)")
    except ContentError:
        assert at < len(make_frame(7, points=((1, 2), (3, 4))))
    else:
        assert 0 < int(plain(content)["rows(frames)"]) <= 3 + len(tail)


# --------------------------------------------------------------------------- specification and module


def test_specification_and_module_belong_to_the_meaning(reader: KaitaiReader) -> None:
    assert [path.name for path in reader.companions] == ["lamp.ksy", "lamp.py"]


def test_a_specification_that_was_changed_has_to_be_compiled_again(tmp_path: Path) -> None:
    make_folder(tmp_path)
    (tmp_path / "lamp.ksy").write_text(SPECIFICATION + "# one more remark\n")
    with pytest.raises(ValueError, match=r"lamp\.py was not made from this lamp\.ksy: compile it again"):
        make_reader(tmp_path)


def test_a_module_without_a_stamp_is_refused(tmp_path: Path) -> None:
    make_folder(tmp_path)
    (tmp_path / "lamp.py").write_text(MODULE)
    with pytest.raises(ValueError, match="compile it again"):
        make_reader(tmp_path)


@pytest.mark.parametrize("missing", ["lamp.ksy", "lamp.py"])
def test_both_files_must_be_there(missing: str, tmp_path: Path) -> None:
    (make_folder(tmp_path) / missing).unlink()
    with pytest.raises(ValueError, match=f"found no {missing}"):
        make_reader(tmp_path)


@pytest.mark.parametrize("name", ["../lamp", "lamp.py", "", "Lamp", "/lamp", "a/b", "lamp\n", "läm"])
def test_names_that_are_no_identifiers_are_refused(name: str, tmp_path: Path) -> None:
    make_folder(tmp_path / "lamps")
    make_folder(tmp_path)
    with pytest.raises(msgspec.ValidationError):
        make_reader(tmp_path / "lamps", module=name)


@pytest.mark.parametrize(
    ("specification", "expected"),
    [
        (SPECIFICATION.replace("id: lamp", "id: candle"), "expected the name of the file, 'lamp'"),
        (SPECIFICATION.replace("endian: le", "imports: [other]"), "meta/imports"),
        ("[]", "no Kaitai Struct specification"),
        ("meta: [", "no Kaitai Struct specification"),
    ],
)
def test_specifications_that_cannot_be_used_are_refused(specification: str, expected: str, tmp_path: Path) -> None:
    make_folder(tmp_path, specification)
    with pytest.raises(ValueError, match=expected):
        make_reader(tmp_path)


def test_a_description_names_the_line_of_a_reader_that_is_out_of_date(tmp_path: Path) -> None:
    make_folder(tmp_path)
    (tmp_path / "lamp.ksy").write_text(SPECIFICATION + "\n")
    description = tmp_path / "lamps.toml"
    description.write_text(
        'format = 1\nname = "lamps"\nversion = "1"\n[facility]\nname = "lamps"\n[[product]]\nname = "frames"\n'
        'match = "lamp$"\nreader = { name = "kaitai", module = "lamp" }\n'
    )
    with pytest.raises(DescriptionError, match="compile it again") as caught:
        load_description(description)
    assert caught.value.line == 9


# ----------------------------------------------------------------------------------------------- compiler


def install_compiler(folder: Path, script: str) -> str:
    command = folder / "bin" / "kaitai-struct-compiler"
    command.parent.mkdir()
    command.write_text(f"#!/bin/sh\n{script}\n")
    command.chmod(0o755)
    return f"{command.parent}{os.pathsep}{os.defpath}"


def test_what_the_compiler_made_is_stamped_and_can_be_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "made.txt").write_text(MODULE + "\n\n")
    script = f'test "$1 $2 $3" = "--target python --outdir" && cp {tmp_path}/made.txt "$4/$(basename "$5" .ksy).py"'
    monkeypatch.setenv("PATH", install_compiler(tmp_path, script))
    specification = tmp_path / "lamp.ksy"
    specification.write_text(SPECIFICATION)
    assert compile_ksy(specification) == tmp_path / "lamp.py"
    assert plain(read(make_reader(tmp_path), FRAMES, "number")) == {"number": 7}
    specification.write_text(SPECIFICATION + "\n")
    with pytest.raises(ValueError, match="compile it again"):
        make_reader(tmp_path)


def test_a_compiler_that_refuses_leaves_the_old_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", install_compiler(tmp_path, "echo 'lamp.ksy: /seq/0: no such type' >&2; exit 2"))
    make_folder(tmp_path)
    before = (tmp_path / "lamp.py").read_bytes()
    with pytest.raises(ValueError, match="/seq/0: no such type"):
        compile_ksy(tmp_path / "lamp.ksy")
    assert (tmp_path / "lamp.py").read_bytes() == before


def test_a_compiler_that_is_not_there_is_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    (tmp_path / "lamp.ksy").write_text(SPECIFICATION)
    with pytest.raises(ValueError, match="found no kaitai-struct-compiler"):
        compile_ksy(tmp_path / "lamp.ksy")
    with pytest.raises(ValueError, match="cannot be run"):
        compile_ksy(tmp_path / "lamp.ksy", npm_folder=tmp_path)
