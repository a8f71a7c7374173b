"""Unpacking as it is read: every packing, whole, damaged, cut off, endless, and one within the other."""

import bz2
import gzip
import io
import lzma
import os
import resource
import tracemalloc
import zlib
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import BinaryIO

import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from extractors.errors import ContentError, SpaceError, TooLargeError
from extractors.storages.unpacking import PACKINGS, RATIO_FREE_BYTES, open_unpacked, peek_head, unpack_to_file

Pack = Callable[[bytes], bytes]


def zstd(data: bytes) -> bytes:
    return zstandard.ZstdCompressor(write_checksum=True).compress(data)


def xz(data: bytes) -> bytes:
    return lzma.compress(data, preset=0)  # higher ones clear a hundred megabytes for each call


PACKS: dict[str, Pack] = {"gzip": gzip.compress, "zstd": zstd, "bzip2": bz2.compress, "xz": xz}
all_packings = pytest.mark.parametrize("word", PACKS)

TEXT = b"".join(b"line %d of an event list\n" % i for i in range(20_000))
GIB = 1024**3


def unpack(data: bytes, *, max_bytes: int = GIB) -> bytes:
    stream, _ = open_unpacked(io.BytesIO(data), max_bytes=max_bytes)
    return stream.read()


def test_every_packing_is_tested() -> None:
    assert set(PACKS) == set(PACKINGS)


@all_packings
def test_packed_bytes_are_recognised_and_unpacked(word: str) -> None:
    stream, found = open_unpacked(io.BytesIO(PACKS[word](TEXT)), max_bytes=GIB)
    assert found == word
    assert stream.read() == TEXT
    assert stream.read() == b""


def test_bytes_that_are_not_packed_are_given_back_as_they_are() -> None:
    plain = io.BytesIO(TEXT)
    plain.seek(5)
    stream, found = open_unpacked(plain, max_bytes=10)
    assert stream is plain
    assert found is None
    assert stream.tell() == 0


@pytest.mark.parametrize(
    "head", [b"", b"\x1f\x8b", b"\x1f\x8b\x00\x00", b"BZh9 is a text", b"BZh", b"\x28\xb5\x2f", b"PK\x03\x04", b"root"]
)
def test_beginnings_that_only_resemble_a_packing_are_none(head: bytes) -> None:
    assert open_unpacked(io.BytesIO(head), max_bytes=10)[1] is None


@all_packings
def test_an_empty_content_is_empty(word: str) -> None:
    stream, found = open_unpacked(io.BytesIO(PACKS[word](b"")), max_bytes=10)
    assert (stream.read(), found) == (b"", word)


@all_packings
def test_several_members_are_one_content(word: str) -> None:
    assert unpack(b"".join(PACKS[word](TEXT[i : i + 1000]) for i in range(0, 50_000, 1000))) == TEXT[:50_000]


@pytest.mark.parametrize(("word", "padding"), [("gzip", 1), ("gzip", 70_000), ("xz", 4), ("xz", 40_000)])
def test_zeros_between_and_after_members_are_padding(word: str, padding: int) -> None:
    member, zeros = PACKS[word](b"abc"), bytes(padding)
    assert unpack(member + zeros + member + zeros) == b"abcabc"


def test_frames_that_are_to_be_skipped_are_skipped() -> None:
    skippable = b"\x5a\x2a\x4d\x18" + (3).to_bytes(4, "little") + b"xyz"
    assert unpack(zstd(b"abc") + skippable + zstd(b"def") + skippable) == b"abcdef"


@all_packings
@pytest.mark.parametrize("garbage", [b"garbage after it", b"g", b"\x1f\x8b"])
def test_something_else_behind_a_member_is_damage(word: str, garbage: bytes) -> None:
    with pytest.raises(ContentError, match=rf"the {word} packing is damaged: something else follows"):
        unpack(PACKS[word](TEXT) + garbage)


@all_packings
def test_a_file_that_is_cut_off_anywhere_is_damaged(word: str) -> None:
    packed = PACKS[word](TEXT[:300])
    for length in range(16, len(packed)):
        with pytest.raises(ContentError, match=f"the {word} packing is damaged: "):
            unpack(packed[:length])


@all_packings
def test_good_bytes_before_a_damage_can_be_read(word: str) -> None:
    stream, _ = open_unpacked(io.BytesIO(PACKS[word](TEXT[:300]) + b"garbage after it"), max_bytes=GIB)
    for _ in range(2):
        assert stream.read(300) == TEXT[:300]
        for _ in range(2):
            with pytest.raises(ContentError, match="something else follows"):
                stream.read(1)
        stream.seek(0)


@all_packings
def test_opening_never_fails_for_what_is_damaged(word: str) -> None:
    packed = PACKS[word](TEXT)
    stream, found = open_unpacked(io.BytesIO(packed[:20]), max_bytes=GIB)
    assert found == word
    with pytest.raises(ContentError, match="damaged"):
        stream.read(1000)


@all_packings
def test_a_second_member_that_is_cut_off_is_damage(word: str) -> None:
    packed = PACKS[word](b"abc")
    with pytest.raises(ContentError, match=f"the {word} packing is damaged: "):
        unpack(packed + packed[:-1])


@all_packings
def test_a_wrong_checksum_is_damage(word: str) -> None:
    packed = bytearray(PACKS[word](os.urandom(1000)))
    packed[-20 if word == "xz" else 500] ^= 1
    with pytest.raises(ContentError, match=f"the {word} packing is damaged: "):
        unpack(bytes(packed))


@given(st.sampled_from(sorted(PACKS)), st.integers(0, 10_000), st.integers(0, 255), st.binary(min_size=1, max_size=400))
@settings(deadline=None)
def test_a_changed_byte_gives_the_content_or_a_clear_error(word: str, at: int, value: int, data: bytes) -> None:
    packed = bytearray(PACKS[word](data))
    at %= len(packed)
    packed[at] = value
    stream, found = open_unpacked(io.BytesIO(bytes(packed)), max_bytes=100_000)
    if found is None:
        assert at < 10  # the magic bytes themselves
        return
    with suppress(ContentError):
        stream.read()


@given(
    st.sampled_from(sorted(PACKS)),
    st.lists(st.tuples(st.integers(0, 70_000), st.integers(-1, 40_000)), max_size=8),
)
@settings(deadline=None, max_examples=40)
def test_seeking_and_reading_are_those_of_the_content(word: str, steps: list[tuple[int, int]]) -> None:
    content = TEXT[:60_000]
    stream, _ = open_unpacked(io.BytesIO(PACKS[word](content)), max_bytes=GIB)
    plain = io.BytesIO(content)
    for offset, size in steps:
        assert min(stream.seek(offset), len(content)) == min(plain.seek(offset), len(content))
        assert stream.read(size) == plain.read(size)


@all_packings
def test_positions_may_be_given_from_anywhere(word: str) -> None:
    stream, _ = open_unpacked(io.BytesIO(PACKS[word](TEXT)), max_bytes=GIB)
    assert stream.seek(-10, os.SEEK_END) == len(TEXT) - 10
    assert stream.read() == TEXT[-10:]
    stream.seek(100)
    assert stream.seek(-50, os.SEEK_CUR) == 50
    assert stream.seek(100_000, os.SEEK_CUR) == 100_050
    assert stream.read(5) == TEXT[100_050:100_055]


@all_packings
def test_content_up_to_the_limit_is_read_and_more_is_not(word: str) -> None:
    packed = PACKS[word](TEXT)
    assert unpack(packed, max_bytes=len(TEXT)) == TEXT
    with pytest.raises(TooLargeError, match=f"more than the allowed {len(TEXT) - 1} bytes"):
        unpack(packed, max_bytes=len(TEXT) - 1)


@all_packings
def test_a_bomb_goes_off_in_little_memory(word: str) -> None:
    packed = PACKS[word](bytes(2 * RATIO_FREE_BYTES)) * 2
    stream, _ = open_unpacked(io.BytesIO(packed), max_bytes=3 * RATIO_FREE_BYTES, max_ratio=10**9)
    tracemalloc.start()
    try:
        with pytest.raises(TooLargeError, match="bytes"):
            deque(iter(lambda: stream.read(65536), b""), maxlen=0)
        assert tracemalloc.get_traced_memory()[1] < 2 * RATIO_FREE_BYTES  # less than one member
    finally:
        tracemalloc.stop()


def test_a_single_frame_of_zstd_is_not_unpacked_at_once() -> None:
    packed = zstd(bytes(8 * RATIO_FREE_BYTES))
    tracemalloc.start()
    try:
        assert open_unpacked(io.BytesIO(packed), max_bytes=GIB, max_ratio=10**9)[0].read(1) == bytes(1)
        assert tracemalloc.get_traced_memory()[1] < 4 * RATIO_FREE_BYTES
    finally:
        tracemalloc.stop()


@all_packings
def test_a_ratio_beyond_the_limit_is_told_as_one(word: str) -> None:
    small = PACKS[word](bytes(RATIO_FREE_BYTES))
    with pytest.raises(TooLargeError, match="ratio of 500 bytes per packed byte"):
        open_unpacked(io.BytesIO(small * 2), max_bytes=GIB, max_ratio=500)[0].seek(0, os.SEEK_END)
    assert len(open_unpacked(io.BytesIO(small), max_bytes=GIB, max_ratio=500)[0].read()) == RATIO_FREE_BYTES


def test_a_window_of_more_memory_than_allowed_is_refused() -> None:
    parameters = zstandard.ZstdCompressionParameters.from_level(3, window_log=30)
    compressor = zstandard.ZstdCompressor(compression_params=parameters)
    stream = io.BytesIO()
    with compressor.stream_writer(stream, closefd=False) as writer:
        writer.write(TEXT)
    with pytest.raises(ContentError, match="too much memory"):
        unpack(stream.getvalue())


@pytest.mark.parametrize("outer", PACKS)
@pytest.mark.parametrize("inner", PACKS)
def test_what_is_packed_twice_is_unpacked_twice(inner: str, outer: str) -> None:
    stream, found = open_unpacked(io.BytesIO(PACKS[outer](PACKS[inner](TEXT))), max_bytes=GIB)
    assert found == f"{inner}+{outer}"
    assert stream.read() == TEXT
    stream.seek(10)
    assert stream.read(10) == TEXT[10:20]


def test_a_third_packing_is_left_as_it_is() -> None:
    stream, found = open_unpacked(io.BytesIO(bz2.compress(zstd(gzip.compress(TEXT)))), max_bytes=GIB)
    assert found == "zstd+bzip2"
    assert gzip.decompress(stream.read()) == TEXT


def test_a_packing_that_unpacks_to_itself_ends() -> None:
    deflated = zlib.compressobj(wbits=31)
    bomb = deflated.compress(bytes(10)) + deflated.flush()
    for _ in range(5):
        bomb = gzip.compress(bomb)
    assert open_unpacked(io.BytesIO(bomb), max_bytes=GIB)[1] == "gzip+gzip"


def test_an_error_of_the_disk_is_not_taken_for_damage() -> None:
    class Broken(io.BytesIO):
        def read(self, size: int | None = -1, /) -> bytes:
            if self.tell() > 20_000:
                raise OSError(5, "Input/output error")
            return super().read(size)

    packed = bz2.compress(os.urandom(100_000))
    with pytest.raises(OSError, match="Input/output error"):
        open_unpacked(Broken(packed), max_bytes=GIB)[0].read()


def test_closing_the_unpacked_stream_leaves_the_packed_one_open() -> None:
    packed = io.BytesIO(gzip.compress(TEXT))
    open_unpacked(packed, max_bytes=GIB)[0].close()
    assert not packed.closed


def test_an_unpacked_stream_cannot_be_written() -> None:
    stream, _ = open_unpacked(io.BytesIO(gzip.compress(TEXT)), max_bytes=GIB)
    assert not stream.writable()
    with pytest.raises(io.UnsupportedOperation):
        stream.write(b"x")


@all_packings
def test_a_head_is_looked_at_without_moving(word: str) -> None:
    for stream in (io.BytesIO(TEXT), open_unpacked(io.BytesIO(PACKS[word](TEXT)), max_bytes=GIB)[0]):
        stream.seek(70_000)
        assert peek_head(stream, 30) == TEXT[:30]
        assert stream.tell() == 0
        assert peek_head(stream, len(TEXT) + 1) == TEXT


@all_packings
def test_a_temporary_file_holds_the_content_and_has_no_name(word: str) -> None:
    stream, _ = open_unpacked(io.BytesIO(PACKS[word](TEXT)), max_bytes=GIB)
    stream.seek(1000)
    with unpack_to_file(stream) as file:
        assert file.read() == TEXT
        assert os.fstat(file.fileno()).st_nlink == 0


@contextmanager
def no_file_longer_than(size_bytes: int) -> Iterator[None]:
    """Let the kernel refuse to write more into any file, as a full disk does."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_full_disk_of_temporary_files_is_told_as_such_and_leaves_nothing() -> None:
    before = len(os.listdir("/proc/self/fd"))
    stream, _ = open_unpacked(io.BytesIO(gzip.compress(TEXT)), max_bytes=GIB)
    with no_file_longer_than(5000), pytest.raises(SpaceError, match="no temporary file can be written here"):
        unpack_to_file(stream)
    assert len(os.listdir("/proc/self/fd")) == before


def test_a_temporary_file_is_closed_when_unpacking_fails() -> None:
    before = len(os.listdir("/proc/self/fd"))
    stream: BinaryIO = open_unpacked(io.BytesIO(gzip.compress(TEXT)), max_bytes=1000)[0]
    with pytest.raises(TooLargeError):
        unpack_to_file(stream)
    assert len(os.listdir("/proc/self/fd")) == before
