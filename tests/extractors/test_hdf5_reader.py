"""The HDF5 reader on valid, odd and hostile files."""

import io
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest

from extractors.errors import AddressError, ContentError, TooLargeError
from extractors.readers.hdf5 import Hdf5Reader
from extractors.readers.reader import Content, RawValue, ReadLimits


def read(write: Callable[[h5py.File], object], *addresses: str, **limits: int) -> Content:
    stream = io.BytesIO()
    with h5py.File(stream, "w") as file:
        write(file)
    return Hdf5Reader().read(stream, addresses, limits=ReadLimits(**limits))  # type: ignore[arg-type]


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
    addresses = ("gone", "meta/gone", "meta/start/deeper", "@gone", "gone@x", "rows(gone)", "max(events[gone])")
    assert read(write_events, *addresses) == Content()


def test_headers_alone_give_no_ranges_but_counts() -> None:
    found = read(write_events, "max(column)", "rows(column)", "meta/start", header_only=True).values
    assert set(found) == {"rows(column)", "meta/start"}


def test_a_long_packed_column_is_read_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("extractors.readers.hdf5.COLUMN_BYTES", 64)

    def write(file: h5py.File) -> None:
        file.create_dataset("column", data=np.arange(1000.0), chunks=(7,), compression="gzip")

    assert [value.value for value in read(write, "min(column)", "max(column)").values.values()] == [0.0, 999.0]


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

    found = read(write, "out/secret", "soft", "out")
    assert found.values == {}
    assert all("out of the file" in reason for reason in found.oddities.values())
    assert len(found.oddities) == 3


def test_values_kept_in_other_files_are_never_read(tmp_path: Path) -> None:
    (tmp_path / "raw.bin").write_bytes(np.arange(4.0).tobytes())
    with h5py.File(tmp_path / "source.h5", "w") as source:
        source["x"] = np.arange(4.0)

    def write(file: h5py.File) -> None:
        file.create_dataset("external", (4,), "f8", external=[(str(tmp_path / "raw.bin"), 0, 32)])
        layout = h5py.VirtualLayout((4,), "f8")
        layout[:] = h5py.VirtualSource(str(tmp_path / "source.h5"), "x", (4,))
        file.create_virtual_dataset("virtual", layout)

    found = read(write, "max(external)", "external", "max(virtual)", "virtual")
    assert found.values == {}
    assert all("in other files" in reason for reason in found.oddities.values())


def test_a_claim_of_endless_data_is_refused_at_the_limit() -> None:
    def write(file: h5py.File) -> None:
        file.create_dataset("huge", (10**14,), "f8", chunks=(1024,))

    with pytest.raises(TooLargeError, match="huge"):
        read(write, "max(huge)")
    assert "no single value" in read(write, "huge").oddities["huge"]


def test_huge_chunks_and_attributes_are_refused() -> None:
    def write(file: h5py.File) -> None:
        file.create_dataset("chunky", (2**24,), "f8", chunks=(2**24,), compression="gzip")
        file["small"] = 1
        file["small"].attrs.create("long", "x" * 60_000)
        file["dense"] = 1
        file["dense"].attrs.create("long", np.zeros(8000))

    found = read(write, "max(chunky)", "dense@long")
    assert "packed in pieces" in found.oddities["max(chunky)"]
    assert found.values["dense@long"].value == (0.0,) * 8000 or "dense@long" in found.oddities


@pytest.mark.parametrize(
    ("address", "reason"),
    [("max(text)", "no column of numbers"), ("max(square)", "no column of numbers"), ("group", "is no dataset")],
)
def test_what_has_no_range_or_value_says_why(address: str, reason: str) -> None:
    def write(file: h5py.File) -> None:
        file["text"] = np.array([b"a", b"b"])
        file["square"] = np.zeros((2, 2))
        file["group/x"] = 1

    assert reason in read(write, address).oddities[address]


@pytest.mark.parametrize("data", [b"", b"SIMPLE", b"\x89HDF\r\n\x1a\n" + bytes(100)], ids=["empty", "other", "cut"])
def test_what_is_no_hdf5_file_says_so(data: bytes) -> None:
    with pytest.raises(ContentError, match="no HDF5 file"):
        Hdf5Reader().read(io.BytesIO(data), ["x"], limits=ReadLimits())


@pytest.mark.parametrize("address", ["", "max()", "max(a[b)", "mean(a)", "a@", "rows(a[b])"])
def test_addresses_of_other_shapes_are_refused(address: str) -> None:
    with pytest.raises(AddressError, match="expected dataset"):
        Hdf5Reader().check(address)
