"""Hostile and broken files through the whole chain: one clear report each, bounded in time, memory and reach."""

import base64
import itertools
import math
import os
import pickle
import socket
import struct
import threading
import time
import tomllib
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from extractors.description import Description
from extractors.extract import Extractor, Outcome
from extractors.pool import PRELOAD, ExtractionPool, FileLimits
from extractors.storages.local_tree import LocalTree
from metadata_db.records import FileRecord
from tests.support.filed_extractor import FiledExtractor, file_extractor
from tests.support.fuzz_readers import Watch, make_target
from tests.support.hostile_files import CANARY, PACKERS, describe, make_object, make_samples

LIMITS = FileLimits(seconds=30.0, memory_bytes=400_000_000)
SHORT = FileLimits(seconds=3.0, memory_bytes=400_000_000)
SAMPLES = make_samples()
LINEWISE = ("blanks", "ecsv", "table", "text", "transposed", "widths", "yaml")
"""Formats in which nothing tells where a whole file would end."""


@pytest.fixture
def storage(tmp_path: Path) -> Path:
    """Return an empty storage, beside which is a folder that no reader may look into."""
    (tmp_path / "outside").mkdir()
    (tmp_path / "storage").mkdir()
    return tmp_path / "storage"


@pytest.fixture
def secret(storage: Path) -> Path:
    """Return a file outside of the storage that would be good, and tells the canary."""
    path = storage.parent / "outside" / "secret.json"
    path.write_text(f'{{"run": {{"start": {CANARY}}}}}')
    return path


_shared: dict[FileLimits, ExtractionPool] = {}


@pytest.fixture(scope="module", autouse=True)
def _pools() -> Iterator[None]:
    """Close the pools that the tests of this module share, as starting one takes longer than most files."""
    with ExitStack() as stack:
        stack.callback(_shared.clear)
        for limits in (LIMITS, SHORT):
            pool = ExtractionPool(FiledExtractor(), processes=1, limits=limits, preload=[*PRELOAD, "uproot"])
            _shared[limits] = stack.enter_context(pool)
        yield


def extract(
    storage: Path, description: Description, *paths: str, limits: FileLimits = LIMITS, **settings: Any
) -> list[Outcome]:
    """Return what a pool makes of files of `storage`."""
    tree = LocalTree(storage)
    extractor = Extractor(tree=tree, facility="hostile", storage="s", description=description, **settings)
    if limits in _shared:
        return list(_shared[limits].extract(map(file_extractor(storage.parent, extractor), paths)))
    with ExtractionPool(extractor, processes=1, limits=limits) as pool:
        return list(pool.extract(paths))


def extract_each(storage: Path, datas: Sequence[bytes], description: Description, **settings: Any) -> list[Outcome]:
    """Return what the pool makes of each of `datas` as a file, having checked that its reports are clear."""
    for number, data in enumerate(datas):
        (storage / f"{number}").write_bytes(data)
    outcomes = extract(storage, description, *map(str, range(len(datas))), **settings)
    for outcome in outcomes:
        assert_clear(outcome)
    return outcomes


def extract_one(storage: Path, data: bytes, description: Description, **settings: Any) -> Outcome:
    """Return what the pool makes of `data` as a file, having checked that its reports are clear."""
    [outcome] = extract_each(storage, [data], description, **settings)
    return outcome


def assert_clear(outcome: Outcome) -> FileRecord:
    """Return the record, having checked that every report is told once, and is no traceback."""
    record = outcome.record
    assert record is not None
    assert record.sha256 is not None
    assert str(CANARY) not in repr(record)
    if outcome.failure is not None:
        assert record.warnings == [outcome.failure]
        assert (record.attributes, record.description) == ({}, None)
    assert len(set(record.warnings)) == len(record.warnings)
    for warning in record.warnings:
        assert "Traceback" not in warning
        assert 10 < len(warning) <= 1000
    return record


def only_report(outcome: Outcome) -> str:
    """Return the one report there is about a file."""
    [report] = assert_clear(outcome).warnings
    return report


def attributes(outcome: Outcome) -> dict[str, Any]:
    assert outcome.record is not None
    return dict(outcome.record.attributes)


def warnings_of(outcome: Outcome) -> list[str]:
    assert outcome.record is not None
    return outcome.record.warnings


def spaced(length: int, n: int) -> list[int]:
    """Return all of the places in so many bytes, or about `n` of them with the first and the last."""
    return sorted({*range(0, length, max(1, length // n)), *range(min(length, 8)), *range(max(0, length - 8), length)})


# ------------------------------------------------------------------------------------------- cut, empty, something else


@pytest.mark.parametrize("name", SAMPLES)
def test_a_file_cut_anywhere_says_what_the_whole_says_or_why_not(name: str, storage: Path) -> None:
    sample = SAMPLES[name]
    cuts = [*spaced(len(sample.data), 80), len(sample.data)]
    description = describe(storage.parent, sample.reader, sample.asked)
    *outcomes, whole = extract_each(storage, [sample.data[:cut] for cut in cuts], description)
    assert (warnings_of(whole), len(attributes(whole))) == ([], len(sample.asked))
    for cut, outcome in zip(cuts, outcomes, strict=False):
        is_whole_hdu = name == "fits" and cut % 2880 == 0
        if name not in LINEWISE and not is_whole_hdu and not warnings_of(outcome):
            assert attributes(outcome) == attributes(whole), f"cut at {cut} without a word"


@pytest.mark.parametrize("name", SAMPLES)
def test_an_empty_file_has_no_values_of_its_own(name: str, storage: Path) -> None:
    sample = SAMPLES[name]
    outcome = extract_one(storage, b"", describe(storage.parent, sample.reader, sample.asked))
    assert outcome.record is not None
    assert outcome.record.size_bytes == 0
    assert set(map(str, attributes(outcome).values())) <= {"0"}, "counts"
    if name not in LINEWISE or name in ("ecsv", "table"):
        assert outcome.failure is not None


@pytest.mark.parametrize("name", [name for name in SAMPLES if name not in LINEWISE])
def test_a_file_of_another_format_is_one_failure(name: str, storage: Path) -> None:
    sample = SAMPLES[name]
    junk = [b"\x89PNG\r\n\x1a\n" + bytes(500), b"\xff\xfe" + bytes(range(256)) * 8]
    for outcome in extract_each(storage, junk, describe(storage.parent, sample.reader, sample.asked)):
        assert outcome.failure == only_report(outcome)
        assert outcome.failure.startswith("content: ")


@pytest.mark.parametrize("name", LINEWISE)
def test_bytes_that_are_no_lines_of_text_give_no_values(name: str, storage: Path) -> None:
    sample = SAMPLES[name]
    junk = bytes(range(256)) * 40
    outcome = extract_one(storage, junk, describe(storage.parent, sample.reader, sample.asked))
    assert all(isinstance(value, int) for value in attributes(outcome).values()), "counts"


# ---------------------------------------------------------------------------------------------------------------- bombs


@pytest.mark.parametrize("packing", PACKERS)
@pytest.mark.parametrize(("reader", "address"), [("text", "rows(lines)"), ("hdf5", "rows(x)"), ("fits", "9.KEY")])
def test_a_packed_bomb_is_one_failure_and_does_not_go_off(
    packing: str, reader: str, address: str, storage: Path
) -> None:
    member = PACKERS[packing](bytes(16_000_000))
    begin = b"SIMPLE  =                    T".ljust(80) + b"BITPIX  = 8".ljust(80) + b"NAXIS   = 1".ljust(80)
    begin += b"NAXIS1  =        9000000000".ljust(80) + b"END".ljust(80)
    bomb = PACKERS[packing](begin.ljust(2880)) + member * 200
    description = describe(storage.parent, f'"{reader}"', {address: "integer"})
    # 3.2 GB of zeros would not fit into the memory, nor could they be unpacked in the time.
    outcome = extract_one(storage, bomb, description, limits=FileLimits(seconds=30.0, memory_bytes=150_000_000))
    assert "unpacks to more than the allowed ratio of 1000 bytes per packed byte" in only_report(outcome)


def test_a_bomb_in_a_bomb_is_one_failure(storage: Path) -> None:
    words = list(itertools.product(PACKERS, PACKERS))
    bombs = [PACKERS[outer](PACKERS[inner](bytes(2_000_000)) * 400) for inner, outer in words]
    description = describe(storage.parent, '"text"', {"rows(lines)": "integer"})
    limits = FileLimits(seconds=30.0, memory_bytes=150_000_000)
    for outcome, (inner, outer) in zip(extract_each(storage, bombs, description, limits=limits), words, strict=True):
        assert "unpacks to more than the allowed" in only_report(outcome)
        assert outcome.record is not None
        assert outcome.record.format == f"binary+{inner}+{outer}"


def test_more_than_may_be_unpacked_is_one_failure(storage: Path) -> None:
    noise = np.random.default_rng(1).bytes(300_000)
    description = describe(storage.parent, '"text"', {"rows(lines)": "integer"})
    outcome = extract_one(storage, PACKERS["gzip"](noise), description, max_unpacked_bytes=100_000)
    assert only_report(outcome) == "content: the file unpacks to more than the allowed 100000 bytes"


# --------------------------------------------------------------------------------------------------- trees of text: XML


XML_BOMBS = {
    "laughs": "<!DOCTYPE r [<!ENTITY a 'haha'>" + "".join(
        f"<!ENTITY {'abcdefghij'[n]} '{('&' + 'abcdefghij'[n - 1] + ';') * 10}'>" for n in range(1, 10)
    ) + "]><r><Who>&j;</Who></r>",
    "quadratic": f"<!DOCTYPE r [<!ENTITY a '{'x' * 100_000}'>]><r><Who>{'&a;' * 10_000}</Who></r>",
    "file": "<!DOCTYPE r [<!ENTITY a SYSTEM '{secret}'>]><r><Who>&a;</Who></r>",
    "network": "<!DOCTYPE r SYSTEM 'http://127.0.0.1:9/a.dtd'><r><Who>1</Who></r>",
    "parameters": "<!DOCTYPE r [<!ENTITY % a SYSTEM '{secret}'> %a;]><r><Who>1</Who></r>",
}  # fmt: skip


@pytest.mark.parametrize("name", XML_BOMBS)
def test_declarations_in_xml_are_one_failure(name: str, storage: Path, secret: Path) -> None:
    data = XML_BOMBS[name].replace("{secret}", secret.as_uri()).encode()
    outcome = extract_one(storage, data, describe(storage.parent, '"xml"', {"Who": "text"}))
    assert "declares a DTD or entities, which are not read" in only_report(outcome)


def test_inclusions_in_xml_are_not_followed(storage: Path, secret: Path) -> None:
    data = f'<r xmlns:i="http://www.w3.org/2001/XInclude"><Who><i:include href="{secret}" parse="text"/></Who></r>'
    outcome = extract_one(storage, data.encode(), describe(storage.parent, '"xml"', {"Who": "text"}))
    assert attributes(outcome) == {}


def test_deep_xml_is_one_failure(storage: Path) -> None:
    datas = [b"<a>" * n + b"</a>" * n for n in (1_000, 200_000)]
    for outcome in extract_each(storage, datas, describe(storage.parent, '"xml"', {".//b": "text"})):
        assert "deep" in only_report(outcome)


# ----------------------------------------------------------------------------------------- trees of text: YAML and ECSV

TAGS = ("!!python/object/apply:os.system", "!!python/object/new:os.mkdir", "!!python/object/apply:os.mkdir")
ALIAS_BOMB = "a0: &a0 [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 12)
)


@pytest.mark.parametrize("tag", TAGS)
def test_tags_of_yaml_make_no_objects(tag: str, storage: Path) -> None:
    made = storage.parent / "made"
    command = f"mkdir {made}" if "system" in tag else str(made)
    data = f"run:\n  start: {tag} ['{command}']\n  name: 7\n".encode()
    description = describe(storage.parent, '"yaml"', {"/run/start": "text", "/run/name": "integer"})
    outcome = extract_one(storage, data, description)
    assert "tag" in only_report(outcome)
    assert attributes(outcome) == {"a1": 7}
    assert not made.exists()


def test_a_bomb_of_aliases_is_one_failure(storage: Path) -> None:
    outcome = extract_one(storage, ALIAS_BOMB.encode(), describe(storage.parent, '"yaml"', {"/**/y": "text"}))
    assert "1000000 nodes, those counted that aliases repeat" in only_report(outcome)


def test_deep_yaml_is_one_failure(storage: Path) -> None:
    datas = [b"[" * 100_000, b"a: " * 5_000, b"- " * 100_000, b"{a: " * 50_000, b"? " * 50_000]
    for outcome in extract_each(storage, datas, describe(storage.parent, '"yaml"', {"/**/y": "text"})):
        assert "YAML" in only_report(outcome)


@pytest.mark.parametrize(
    ("meta", "reason"),
    [
        (ALIAS_BOMB, "aliases repeat"),
        ("meta: " + "[" * 500 + "]" * 500, "nested more than"),
        ("a: 1\n" * 10_001, "more than 10000 lines"),
        ("a: *b\n", "stands for nothing"),
        ("a: " + "x" * 5_000_000, "more than 4194304 bytes"),
    ],
    ids=["aliases", "deep", "lines", "no anchor", "long line"],
)
def test_bombs_in_headers_of_ecsv_are_one_failure(meta: str, reason: str, storage: Path) -> None:
    head = f"%ECSV 1.0\n---\ndatatype:\n- {{name: a, datatype: int64}}\n{meta}"
    data = "".join(f"# {line}\n" for line in head.splitlines()) + "a\n1\n"
    outcome = extract_one(storage, data.encode(), describe(storage.parent, '"ecsv"', {"max(a)": "integer"}))
    assert reason in only_report(outcome)


def test_tags_in_headers_of_ecsv_make_no_objects(storage: Path) -> None:
    made = storage.parent / "made"
    data = f"""# %ECSV 1.0
# ---
# datatype:
# - {{name: a, datatype: int64}}
# meta:
#   bad: !!python/object/apply:os.mkdir ['{made}']
a
1
"""
    description = describe(storage.parent, '"ecsv"', {"max(a)": "integer", "meta/bad": "text"})
    outcome = extract_one(storage, data.encode(), description)
    assert "tag" in only_report(outcome)
    assert attributes(outcome) == {"a0": 1}
    assert not made.exists()


# -------------------------------------------------------------------------------------------------- trees of text: JSON


def test_deep_json_is_one_failure(storage: Path) -> None:
    datas = [b"[" * 100_000, b'{"a":' * 100_000, b"[" * 900 + b"]" * 900 + b"x"]
    for outcome in extract_each(storage, datas, describe(storage.parent, '"json"', {"/**/y": "text"})):
        assert "JSON" in only_report(outcome)


def test_a_number_of_a_million_digits_is_one_failure(storage: Path) -> None:
    data = b'{"run": ' + b"9" * 1_000_000 + b"}"
    outcome = extract_one(storage, data, describe(storage.parent, '"json"', {"/run": "integer"}))
    assert "no JSON" in only_report(outcome)


@pytest.mark.parametrize(
    ("reader", "data", "address"),
    [
        ('"json"', b'{"run": 1, "run": 2, "n": 3}', "/run"),
        ('"yaml"', b"run: 1\nrun: 2\nn: 3\n", "/run"),
        ('{ name = "table", delimiter = "," }', b"run,run,n\n1,2,3\n", "max(run)"),
    ],
    ids=["json", "yaml", "table"],
)
def test_a_key_that_stands_twice_has_no_value_and_is_told(
    reader: str, data: bytes, address: str, storage: Path
) -> None:
    other = "max(n)" if "max" in address else "/n"
    outcome = extract_one(storage, data, describe(storage.parent, reader, {address: "integer", other: "integer"}))
    assert only_report(outcome).startswith(f"{address}: ")
    assert attributes(outcome) == {"a1": 3}


# ----------------------------------------------------------------------------------------------------------------- FITS


def make_header(**cards: str) -> bytes:
    text = b"".join(f"{keyword:8}= {value:>20}".encode().ljust(80) for keyword, value in cards.items())
    text += b"END".ljust(80)
    return text.ljust(-(-len(text) // 2880) * 2880)


def test_20000_cards_are_read_in_bounded_time(storage: Path) -> None:
    cards = {f"K{number}": str(number) for number in range(20_000)}
    data = make_header(SIMPLE="T", BITPIX="8", NAXIS="0", **cards)
    description = describe(storage.parent, '"fits"', {"0.K19999": "integer"})
    outcome = extract_one(storage, data, description, limits=FileLimits(seconds=30.0))
    assert attributes(outcome) == {"a0": 19_999}


@pytest.mark.parametrize("keyword", ["NAXIS1", "NAXIS2", "PCOUNT", "TFIELDS", "NAXIS", "GCOUNT", "BITPIX"])
def test_absurd_counts_in_headers_are_told_and_not_believed(keyword: str, storage: Path) -> None:
    data = SAMPLES["fits"].data
    at = data.index(keyword.ljust(8).encode() + b"=", 2880)
    cards = [f"{keyword:8}= {claim:>20}".encode().ljust(80) for claim in (2**62, 2**31, 10**19, -1)]
    asked = {"max(EVENTS.ENERGY)": "number", "1.OBJECT": "text", "9.KEY": "text"}
    limits = FileLimits(seconds=30.0, memory_bytes=100_000_000)
    hostile = [data[:at] + card + data[at + 80 :] for card in cards]
    for outcome in extract_each(storage, hostile, describe(storage.parent, '"fits"', asked), limits=limits):
        if warnings_of(outcome):
            assert "a0" not in attributes(outcome)
            assert "took longer" not in repr(warnings_of(outcome))
        else:
            assert attributes(outcome) == {"a0": 30.0, "a1": "Crab Nebula"}, "a count that does not matter"


def test_a_pointing_that_is_not_a_number_is_no_pointing(storage: Path) -> None:
    with h5py.File(storage / "file", "w") as file:
        file.attrs.update(ra=math.nan, dec=22.0)
    fields = 'ra_deg = { content = "@ra", unit = "deg" }\ndec_deg = { content = "@dec", unit = "deg" }'
    [outcome] = extract(storage, describe(storage.parent, '"hdf5"', {}, fields=fields), "file")
    record = assert_clear(outcome)
    assert (record.ra_deg, record.dec_deg) == (None, None)
    assert record.warnings


# ----------------------------------------------------------------------------------------------------------------- HDF5


def test_nothing_outside_is_read_through_hdf5(storage: Path) -> None:
    outside = storage.parent / "outside"
    (outside / "raw.bin").write_bytes(struct.pack("<4q", *[CANARY] * 4))
    with h5py.File(outside / "other.h5", "w") as other:
        other["x"] = np.full(4, CANARY)
    with h5py.File(storage / "file", "w") as file:
        file["linked"] = h5py.ExternalLink(str(outside / "other.h5"), "x")
        file["relative"] = h5py.ExternalLink("../outside/other.h5", "x")
        file.create_dataset("raw", (4,), "i8", external=[(str(outside / "raw.bin"), 0, 32)])
        layout = h5py.VirtualLayout((4,), "i8")
        layout[:] = h5py.VirtualSource(str(outside / "other.h5"), "x", (4,))
        file.create_virtual_dataset("virtual", layout)
        file["good"] = 5
    with h5py.File(storage / "file") as file:
        assert [int(file[name][0]) for name in ("linked", "raw", "virtual")] == [CANARY] * 3, "h5py alone would read it"
    asked = {f"max({name})": "integer" for name in ("linked", "relative", "raw", "virtual")} | {"good": "integer"}
    [outcome] = extract(storage, describe(storage.parent, '"hdf5"', asked), "file")
    record = assert_clear(outcome)
    assert (record.attributes, len(record.warnings)) == ({"a4": 5}, 4)


class Touching:
    """Makes a folder when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("protocol", [0, 2, 5])
def test_a_pickle_in_an_attribute_is_told_and_not_opened(protocol: int, storage: Path) -> None:
    made = storage.parent / "made"
    with h5py.File(storage / "file", "w") as file:
        file.attrs["station"] = np.void(pickle.dumps(Touching(made), protocol))
        file.attrs["text"] = np.bytes_(pickle.dumps(Touching(made), 0))
    [outcome] = extract(storage, describe(storage.parent, '"hdf5"', {"@station": "text", "@text": "text"}), "file")
    record = assert_clear(outcome)
    assert (record.attributes, len(record.warnings)) == ({}, 2)
    assert not made.exists()


def test_a_dataset_of_absurd_length_is_one_report(storage: Path) -> None:
    with h5py.File(storage / "file", "w") as file:
        file.create_dataset("huge", (10**15,), "f8", chunks=(1024,))
        file["good"] = 5
    description = describe(storage.parent, '"hdf5"', {"max(huge)": "number", "good": "integer"})
    [outcome] = extract(storage, description, "file", limits=FileLimits(seconds=30.0, memory_bytes=100_000_000))
    assert "more than may be read" in only_report(outcome)
    assert attributes(outcome) == {"a1": 5}


# -------------------------------------------------------------------------------------- binary frames and lying lengths


def test_classes_that_a_root_file_describes_run_no_code(storage: Path) -> None:
    renamed = SAMPLES["root"].data.replace(b"TObjString", b"XObjString")
    assert b"fString" in renamed
    hostile = [renamed.replace(b"fString", name) for name in (b"f';q=12", b"f\nStrin", b"f);exit", b"{fault}")]
    description = describe(storage.parent, '"root"', {"note[fString]": "text", "rows(dir/E)": "integer"})
    for outcome in extract_each(storage, hostile, description):
        assert "not plain" in only_report(outcome)
        assert attributes(outcome) == {"a1": 40}


def test_descriptions_of_classes_that_need_themselves_are_one_failure_at_once(storage: Path) -> None:
    data = SAMPLES["root"].data
    names = (b"TStreamerInfo", b"TObjArray", b"TStreamerBase")
    hostile = [data.replace(name, b"X" + name[1:]) for name in names]
    description = describe(storage.parent, SAMPLES["root"].reader, SAMPLES["root"].asked)
    for outcome in extract_each(storage, hostile, description, limits=LIMITS):
        assert only_report(outcome) == "content: this ROOT file is damaged: what describes its classes has no end"


LIES = {
    "corsika": [(0, b"\xff\xff\xff\x7f"), (0, b"\x01\0\0\0"), (0, b"\0\0\0\0")],
    "eventio": [(12, b"\xff\xff\xff\x3f"), (12, b"\xff\xff\xff\x7f"), (16, b"\xff\xff\xff\x7f"), (6, b"\x02")],
    "kaitai": [(26, b"\xff\xff"), (26, b"\0\0"), (34, b"\xff\xff")],
    "root": [(8, b"\x7f\xff\xff\xff"), (12, b"\xff\xff\xff\xff"), (37, b"\x7f\xff\xff\xff")],
    "hdf5": [(40, b"\xff" * 8), (9, b"\xff"), (13, b"\xff\xff")],
}  # fmt: skip


@pytest.mark.parametrize("name", LIES)
def test_lying_lengths_are_told_and_not_believed(name: str, storage: Path) -> None:
    sample = SAMPLES[name]
    hostile = [sample.data[:at] + lie + sample.data[at + len(lie) :] for at, lie in LIES[name]]
    description = describe(storage.parent, sample.reader, sample.asked)
    limits = FileLimits(seconds=30.0, memory_bytes=150_000_000)
    for outcome in extract_each(storage, hostile, description, limits=limits):
        assert warnings_of(outcome)
        assert "took longer" not in repr(warnings_of(outcome))


def test_objects_in_objects_without_end_are_told(storage: Path) -> None:
    data = b""
    for _ in range(3_000):
        data = make_object(1204, data, inner=True, flags=1 << 30)
    data = make_object(1204, data, flags=1 << 30)
    outcome = extract_one(storage, data, describe(storage.parent, '"eventio"', {"rows(1204)": "integer"}))
    assert "nested more than" in only_report(outcome)


# --------------------------------------------------------------------------------------------------- lines and patterns


@pytest.mark.parametrize("n_bytes", [50_000_000, pytest.param(1024**3, marks=pytest.mark.long)])
def test_a_line_without_end_is_told_in_little_memory(n_bytes: int, storage: Path) -> None:
    with (storage / "file").open("wb") as file:
        file.truncate(n_bytes)
    description = describe(storage.parent, '"text"', {"/x/": "text", "rows(lines)": "integer"})
    [outcome] = extract(storage, description, "file", limits=FileLimits(seconds=60.0, memory_bytes=40_000_000))
    assert "line 1 has more than 65536 bytes and was not read" in only_report(outcome)
    assert attributes(outcome) == {"a1": 1}


def test_a_pattern_that_goes_back_and_forth_for_ever_is_ended(storage: Path) -> None:
    (storage / "bad").write_bytes(b"a" * 5_000 + b"!\n")
    (storage / "good").write_bytes(b"aaa\n")
    description = describe(storage.parent, '"text"', {r"/^(?:(a+)+)$/": "text"})
    before = time.monotonic()
    bad, good = extract(storage, description, "bad", "good", limits=SHORT)
    assert time.monotonic() - before < 15
    assert only_report(bad) == "content: reading took longer than 3 s and was ended"
    assert attributes(good) == {"a0": "aaa"}


# ----------------------------------------------------------------------------------------------------- names and places


@pytest.fixture
def of_json(storage: Path) -> Description:
    return describe(storage.parent, '"json"', {"/run/start": "integer"})


def test_names_that_no_catalogue_holds_are_rejected_with_their_reason(storage: Path, of_json: Description) -> None:
    for name in (b"new\nline.json", b"\xff\xfe.json", b"tab\t.json", b"good.json"):
        Path(os.fsdecode(os.fsencode(storage) + b"/" + name)).write_bytes(b'{"run": {"start": 5}}')
    found = list(LocalTree(storage).walk())
    rejected = {entry.path: entry.reason for entry in found if hasattr(entry, "reason")}
    assert [entry.path for entry in found if not hasattr(entry, "reason")] == ["good.json"]
    assert len(rejected) == 3
    assert all("\n" not in reason and len(reason) > 10 for reason in rejected.values())
    for path in ("new\nline.json", "\udcff\udcfe.json", "tab\t.json"):
        [outcome] = extract(storage, of_json, path)
        assert outcome.record is None
        assert outcome.failure


def make_links(storage: Path, secret: Path) -> None:
    """Put links into a storage that lead out of it: a file, a folder, a chain, a ring, devices."""
    (storage / "file.json").symlink_to(secret)
    (storage / "relative.json").symlink_to("../outside/secret.json")
    (storage / "folder").symlink_to(secret.parent)
    (storage / "chain.json").symlink_to("file.json")
    (storage / "a").mkdir()
    (storage / "a" / "up").symlink_to("../..")
    (storage / "ring.json").symlink_to("ring.json")
    (storage / "zero.json").symlink_to("/dev/zero")
    (storage / "self.json").symlink_to("/proc/self/environ")


OUT_OF_IT = (
    "file.json", "relative.json", "folder/secret.json", "chain.json", "a/up/outside/secret.json", "ring.json",
    "zero.json", "self.json", "../outside/secret.json", "a/../../outside/secret.json",
)  # fmt: skip


def test_links_and_paths_out_of_the_storage_are_not_followed(storage: Path, secret: Path, of_json: Description) -> None:
    make_links(storage, secret)
    before = secret.stat().st_atime_ns
    outcomes = extract(storage, of_json, *OUT_OF_IT)
    assert [(outcome.path, outcome.record) for outcome in outcomes] == [(path, None) for path in OUT_OF_IT]
    assert all(outcome.failure for outcome in outcomes)
    assert str(CANARY) not in repr(outcomes)
    assert secret.stat().st_atime_ns == before, "opened"
    assert [entry for entry in LocalTree(storage).walk() if not hasattr(entry, "reason")] == []


@contextmanager
def in_background(act: Callable[[], object]) -> Iterator[None]:
    """Do something again and again beside the block."""
    stopped = threading.Event()

    def run() -> None:
        while not stopped.is_set():
            act()

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield
    finally:
        stopped.set()
        thread.join()


def test_a_link_that_is_swapped_while_files_are_opened_leads_nowhere(
    storage: Path, secret: Path, of_json: Description
) -> None:
    good = storage / "good.json"
    good.write_bytes(b'{"run": {"start": 5}}')
    spare, place = storage / "spare", storage / "swapped.json"

    def swap() -> None:
        for target in (good, secret):
            spare.symlink_to(target)
            spare.rename(place)

    swap()
    extractor = Extractor(tree=LocalTree(storage), facility="hostile", storage="s", description=of_json)
    with in_background(swap):
        outcomes = extractor.extract_all(["swapped.json"] * 1_500)
    assert {bool(outcome.failure) for outcome in outcomes} == {True, False}, "both were met"
    assert str(CANARY) not in repr(outcomes)


def test_what_is_no_regular_file_is_not_opened(storage: Path, of_json: Description) -> None:
    os.mkfifo(storage / "fifo.json")
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(storage / "socket.json"))
    (storage / "folder.json").mkdir()
    before = time.monotonic()
    outcomes = extract(storage, of_json, "fifo.json", "socket.json", "folder.json", "gone.json")
    assert time.monotonic() - before < 10, "opening a FIFO would wait for a writer"
    assert all(outcome.failure and outcome.record is None for outcome in outcomes)


# ---------------------------------------------------------------------------------------------------- files that change


@pytest.mark.parametrize("change", ["grows", "shrinks", "is written over"])
def test_a_file_that_changes_while_it_is_read_is_not_told_as_whole(
    change: str, storage: Path, of_json: Description
) -> None:
    path = storage / "file"
    path.write_bytes(b'{"run": {"start": 5}}'.ljust(20_000_000))
    sizes = itertools.count(19_999_000, -1_000)

    def act() -> None:
        if change == "grows":
            with path.open("ab") as file:
                file.write(b" ")
        elif change == "shrinks":
            os.truncate(path, max(1_000, next(sizes)))
        else:
            with path.open("r+b") as file:
                file.seek(10_000)
                file.write(b" ")

    extractor = Extractor(tree=LocalTree(storage), facility="hostile", storage="s", description=of_json)
    with in_background(act):
        outcome = extractor.extract("file")
    assert outcome.record is None
    assert outcome.failure is not None
    assert "extract it again" in outcome.failure


# ----------------------------------------------------------------------------------------------------- found by fuzzing

CASES = tomllib.loads((Path(__file__).parents[1] / "data" / "fuzz_cases.toml").read_text())["case"]


@pytest.mark.parametrize("case", CASES, ids=[case["name"] for case in CASES])
def test_what_fuzzing_found_stays_mended(case: dict[str, str], storage: Path) -> None:
    data = zlib.decompress(base64.b64decode(case["zlib_base64"]))
    if case.get("hangs"):
        sample = SAMPLES[case["target"]]
        description = describe(storage.parent, sample.reader, {case["address"]: "text"})
        outcome = extract_one(storage, data, description, limits=SHORT)
        assert only_report(outcome) == "content: reading took longer than 3 s and was ended"
    else:
        make_target(case["target"], storage.parent)(data)


def test_the_fuzzer_tells_each_distinct_failure_once_and_goes_on(tmp_path: Path) -> None:
    def fail_in_two_ways(data: bytes) -> None:
        if data.startswith(b"a"):
            raise KeyError("first")
        if data.startswith(b"b"):
            raise ValueError("second")

    watch = Watch(target=fail_in_two_ways, findings=tmp_path)
    for data in (b"a1", b"a2", b"good", b"b1"):
        watch.run(data)
    assert watch.n_runs == 4
    assert {found.read_bytes() for found in tmp_path.glob("*.bin")} == {b"a1", b"b1"}
    assert any("KeyError: 'first'" in account.read_text() for account in tmp_path.glob("*.txt"))
