"""The manifest: one JSON document, read and written line by line, with bytes that depend on its content alone."""

import json
import random
from io import BytesIO

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aggregator.staging.manifest import (
    Entry,
    Header,
    ManifestEncoder,
    ManifestError,
    Missing,
    encode_manifest,
    iter_entries,
    iter_missing,
    read_header,
)

DIGITS = "0123456789abcdef"


def hexadecimal(length: int) -> st.SearchStrategy[str]:
    return st.text(DIGITS, min_size=length, max_size=length)


HEADERS = st.builds(
    Header,
    query_id=hexadecimal(32),
    query=st.just(msgspec.Raw(b'{"facility":["aurora"]}')),
    revisions=st.dictionaries(st.text("abc", min_size=1), st.integers(0, 2**60), max_size=4),
    answer_checksum=hexadecimal(32),
    files_count=st.integers(0, 2**60),
    files_bytes=st.integers(0, 2**60),
    missing_count=st.integers(0, 2**60),
)
TEXT = st.text(st.characters(blacklist_categories=("Cs",)), max_size=30)
ENTRIES = st.builds(
    Entry,
    path=TEXT,
    size_bytes=st.integers(0, 2**60),
    crc32=hexadecimal(8),
    md5=hexadecimal(32),
    sha256=hexadecimal(64),
    facility=TEXT,
    storage=TEXT,
    source=TEXT,
    licence=st.none() | TEXT,
)
MISSING = st.builds(Missing, path=TEXT, size_bytes=st.integers(0, 2**60), reason=TEXT)


def read_all(stream: BytesIO) -> tuple[Header, list[Entry], list[Missing]]:
    return read_header(stream), list(iter_entries(stream)), list(iter_missing(stream))


@given(HEADERS, st.lists(ENTRIES, max_size=5), st.lists(MISSING, max_size=5))
def test_what_is_written_is_read_back_and_is_json(header: Header, files: list[Entry], missing: list[Missing]) -> None:
    text = encode_manifest(header, files, missing)
    found, found_files, found_missing = read_all(BytesIO(text))
    assert found == msgspec.structs.replace(header, query=found.query)
    assert sorted(found_files, key=repr) == sorted(files, key=repr)
    assert sorted(found_missing, key=repr) == sorted(missing, key=repr)
    document = json.loads(text)
    assert list(document)[-2:] == ["files", "missing"]
    assert [entry["path"] for entry in document["files"]] == sorted((f.path for f in files), key=str.encode)
    assert text.count(b"\n") == len(files) + len(missing) + 5 + (not files) + (not missing)


@given(HEADERS, st.lists(ENTRIES, max_size=6, unique_by=lambda entry: entry.path), st.randoms())
def test_order_and_batches_do_not_change_the_bytes(header: Header, files: list[Entry], rng: random.Random) -> None:
    text = encode_manifest(header, files)
    shuffled = rng.sample(files, len(files))
    turned = msgspec.structs.replace(header, revisions=dict(reversed(header.revisions.items())))
    assert encode_manifest(turned, shuffled) == text
    encoder = ManifestEncoder()
    ordered = sorted(files, key=lambda entry: entry.path.encode())
    cut = rng.randint(0, len(ordered))
    parts = [encoder.begin(header), encoder.entries(ordered[:cut]), encoder.entries(ordered[cut:])]
    assert b"".join([*parts, encoder.begin_missing(), encoder.entries([]), encoder.end()]) == text


@given(HEADERS, st.lists(ENTRIES, min_size=1, max_size=3), st.data())
def test_a_manifest_that_ends_early_is_refused(header: Header, files: list[Entry], data: st.DataObject) -> None:
    text = encode_manifest(header, files)
    stream = BytesIO(text[: data.draw(st.integers(0, len(text) - 2))])
    with pytest.raises(ManifestError):
        read_all(stream)


def test_another_format_is_named() -> None:
    header = Header(
        format="other-7", query_id="q", query=msgspec.Raw(b"{}"), revisions={}, answer_checksum="", files_count=0,
        files_bytes=0, missing_count=0,
    )  # fmt: skip
    with pytest.raises(ManifestError, match="'other-7', expected 'catchment-manifest-2'"):
        read_header(BytesIO(encode_manifest(header, [])))
