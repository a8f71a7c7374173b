"""Small valid files of every format, what is asked of them, and the means to make hostile ones of them."""

import bz2
import gzip
import io
import lzma
import shutil
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from pathlib import Path

import h5py
import numpy as np
import uproot
import zstandard
from astropy.io import fits

from extractors.description import Description
from extractors.loading import load_description
from tests.support.taiga_frames import make_hiscore_frame, pack_seconds

CANARY = 8_730_301
"""A number that stands only in files outside of the storage: whoever tells it has read one of them."""

PACKERS: Mapping[str, Callable[[bytes], bytes]] = {
    "gzip": gzip.compress,
    "zstd": zstandard.ZstdCompressor().compress,
    "bzip2": bz2.compress,
    "xz": lzma.compress,
}


@dataclass(frozen=True, kw_only=True)
class Sample:
    """A small valid file, and what a Description asks of it."""

    data: bytes
    reader: str
    """The reader as a Description writes it, in TOML."""
    asked: Mapping[str, str]
    """Address → type of the attribute that it fills."""


def describe(folder: Path, reader: str, asked: Mapping[str, str], *, fields: str = "", facts: str = "") -> Description:
    """Return a Description of files of any name, which asks for attributes ``a0``, ``a1`` …

    Parameters
    ----------
    folder
        Where the Description is written, with the specification of frames beside it.
    fields, facts
        TOML of the product's fields, and of what goes before the product.
    """
    for module in ("taiga_hiscore.ksy", "taiga_hiscore.py"):
        shutil.copy(str(files("extractors").joinpath("descriptions", "taiga", module)), folder)
    declared = "".join(f'{{ name = "a{number}", type = "{kind}" }}, ' for number, kind in enumerate(asked.values()))
    rules = "".join(f"a{number} = {{ content = '''{address}''' }}\n" for number, address in enumerate(asked))
    path = folder / "hostile.toml"
    path.write_text(
        'format = 1\nname = "hostile"\nversion = "1"\n'
        f'[facility]\nname = "hostile"\nattributes = [{declared}]\n{facts}\n'
        f"[[product]]\nname = \"any\"\nmatch = '.'\nreader = {reader}\n"
        f"[product.fields]\n{fields}\n[product.attributes]\n{rules}"
    )
    return load_description(path)


# ------------------------------------------------------------------------------------------------- valid files


@cache
def make_samples() -> Mapping[str, Sample]:
    """Return a small valid file of every reader, in a few ways of writing where there are several."""
    numbers = {
        "min(energy)": "number",
        "max(energy)": "number",
        "n_distinct(name)": "integer",
        "rows(table)": "integer",
    }
    in_tree = {"/run/start": "number", "/hits/*/t": "number", "max(/hits/*/e)": "number", "/**/name": "text"}
    return {
        "fits": Sample(data=_fits(), reader='"fits"', asked=_FITS_ASKED),
        "hdf5": Sample(data=_hdf5(), reader='"hdf5"', asked=_HDF5_ASKED),
        "root": Sample(data=_root(), reader='"root"', asked=_ROOT_ASKED),
        "table": Sample(data=_COMMAS, reader='{ name = "table", delimiter = "," }', asked=numbers),
        "blanks": Sample(
            data=_BLANKS,
            reader='{ name = "table", header = "comment" }',
            asked={**numbers, "/Station: (.*)/": "text", "name[2]": "text", "distinct(#3)": "list"},
        ),
        "widths": Sample(
            data=b"   1  2.50Crab  \n   2 10.00M\xfc1   \n",
            reader='{ name = "table", widths = [4, 6, 6], columns = ["n", "energy", "name"], fallback = "latin-1" }',
            asked=numbers,
        ),
        "transposed": Sample(
            data=b"energy,1,2,3\nname,a,b\nn,0001,-5,1e400\n",
            reader='{ name = "table", delimiter = ",", transposed = true }',
            asked={**numbers, "max(n)": "number"},
        ),
        "ecsv": Sample(
            data=_ECSV,
            reader='"ecsv"',
            asked={"min(e_ref)": "number", "max(flux)": "number", "meta/**/id": "integer", "meta/telescope": "text"},
        ),
        "text": Sample(
            data=b"station: North 3\nrun: 41\nE=1.5 E=2.5\nE=-1e3\n\xff\xfe end\n",
            reader='"text"',
            asked={
                r"/^run: (\d+)/": "integer",
                r"max(/E=(\S+)/)": "number",
                "line[1]": "text",
                "rows(lines)": "integer",
            },
        ),
        "json": Sample(
            data=b'{"run": {"start": 1.5e9, "name": "Crab"}, "hits": [{"t": 1, "e": 2.5}, {"t": 2, "e": null}]}',
            reader='"json"',
            asked=in_tree,
        ),
        "yaml": Sample(
            data=b"run: &run\n  start: 1.5e9\n  name: Crab\nhits:\n- {t: 1, e: 2.5}\n- {t: 2, e: .nan}\nagain: *run\n",
            reader='"yaml"',
            asked=in_tree,
        ),
        "xml": Sample(
            data=_VOEVENT,
            reader='"xml"',
            asked={
                "@ivorn": "text",
                ".//Param[@name='E']@value": "number",
                "max(.//Param@value)": "number",
                "Who/Date": "text",
            },
        ),
        "corsika": Sample(
            data=_corsika(),
            reader='"corsika"',
            asked={"RUNH.run": "integer", "max(EVTH.energy)": "number", "rows(EVTH)": "integer", "RUNE[3]": "number"},
        ),
        "eventio": Sample(
            data=_eventio(),
            reader='"eventio"',
            asked={
                "RUNH.run": "integer",
                "max(2010.id)": "integer",
                "rows(1205)": "integer",
                "max(EVTH.energy)": "number",
            },
        ),
        "kaitai": Sample(
            data=b"".join(make_hiscore_frame(number, pack_seconds(number), lengths=(2,) * 9) for number in (1, 2, 3)),
            reader='{ name = "kaitai", module = "taiga_hiscore" }',
            asked={
                "max(event)": "integer",
                "rows(frames)": "integer",
                "only(station)": "integer",
                "time.hour": "integer",
            },
        ),
    }


_COMMAS = b'number,energy,name\n1,2.5,"Crab, nebula"\n2,-999,\n3,nan,"M ""87"""\n'
_BLANKS = b'# Station: North 3\n# number energy name\n1 2.5 Crab\n1 -999 "Mrk 421"\n2 10 Crab\n# Finished.\n'
_ECSV = b"""# %ECSV 1.0
# ---
# datatype:
# - {name: e_ref, unit: TeV, datatype: float64}
# - {name: source, datatype: string}
# - {name: flux, datatype: string, subtype: 'float64[2]'}
# meta: !!omap
# - telescope: north
# - source: {id: 58, names: [M 87, Virgo A]}
# schema: astropy-2.0
e_ref source flux
0.5 "M 87" [1.0,2.0]
nan "" ""
"""
_VOEVENT = b"""<?xml version="1.0" encoding="UTF-8"?>
<voe:VOEvent xmlns:voe="http://www.ivoa.net/xml/VOEvent/v2.0" ivorn="ivo://a/b#1" role="test">
<Who><Date>2020-01-01T00:00:00</Date></Who>
<What><Param name="E" value="12.5" unit="TeV"/><Group><Param name="n" value="3"/></Group></What></voe:VOEvent>
"""
_TEXT_ASKED = {
    r"/^run: (\d+)/": "integer", r"max(/E=(\S+)/)": "number", "line[1]": "text", "rows(lines)": "integer",
}  # fmt: skip
_XML_ASKED = {
    "@ivorn": "text", ".//Param[@name='E']@value": "number", "max(.//Param@value)": "number", "Who/Date": "text",
}  # fmt: skip
_EVENTIO_ASKED = {
    "RUNH.run": "integer", "max(2010.id)": "integer", "rows(1205)": "integer", "max(EVTH.energy)": "number",
}  # fmt: skip
_FRAMES_ASKED = {
    "max(event)": "integer", "rows(frames)": "integer", "only(station)": "integer", "time.hour": "integer",
}  # fmt: skip
_FITS_ASKED = {
    "EVENTS.OBS_ID": "integer", "EVENTS.OBJECT": "text", "min(EVENTS.ENERGY)": "number", "max(EVENTS.ENERGY)": "number",
    "rows(EVENTS)": "integer", "distinct(EVENTS.NAME)": "list", "distinct(HDUS)": "list", "0.TELESCOP": "text",
}  # fmt: skip
_HDF5_ASKED = {
    "@station": "text", "meta/start": "number", "events@unit": "text", "max(events[energy])": "number",
    "rows(events)": "integer", "max(**/packed)": "number", "distinct(meta/KEYS)": "list", "meta/name": "text",
}  # fmt: skip
_ROOT_ASKED = {
    "rows(dir/E)": "integer", "max(dir/E/x)": "number", "note": "text", "h[fEntries]": "number",
    "distinct(KEYS)": "list", "max(dir/E/s; dir/E/n)": "list",
}  # fmt: skip


def _fits() -> bytes:
    columns = [
        fits.Column("ENERGY", "E", unit="TeV", array=np.array([0.5, np.nan, 30.0])),
        fits.Column("NAME", "4A", array=np.array(["a", "bb", "a"])),
        fits.Column("LONG", "J", array=np.arange(3), null=1, bzero=5),
    ]
    events = fits.BinTableHDU.from_columns(columns, name="EVENTS")
    events.header.update(OBS_ID=41, OBJECT="Crab Nebula", RA_PNT=83.63, DEC_PNT=22.01)
    primary = fits.PrimaryHDU()
    primary.header["TELESCOP"] = "AURORA"
    stream = io.BytesIO()
    fits.HDUList([primary, events]).writeto(stream)
    return stream.getvalue()


def _hdf5() -> bytes:
    stream = io.BytesIO()
    with h5py.File(stream, "w") as file:
        file["events"] = np.array([(1, 3.0), (2, np.nan)], dtype=[("id", "<i8"), ("energy", "<f4")])
        # Texts of fixed length but for one: damaged texts of free length have the library run in circles.
        file["events"].attrs["unit"] = np.bytes_("EeV")
        file.attrs["station"] = np.bytes_("s03")
        file["meta/start"] = 1.3e9
        file["meta/name"] = "run one"
        file.create_dataset("deep/packed", data=np.arange(300), chunks=(100,), compression="gzip", shuffle=True)
    return stream.getvalue()


class _KeptBytes(io.BytesIO):
    """Stays readable when uproot closes what it wrote."""

    def close(self) -> None:
        pass


def _root() -> bytes:
    stream = _KeptBytes()
    with uproot.recreate(stream, compression=uproot.ZLIB(4)) as file:
        file["note"] = "hello world"
        file["h"] = np.histogram(np.arange(10.0))
        tree = file.mktree("dir/E", {"s": np.dtype("i4"), "n": np.dtype("i4"), "x": np.dtype("f8")})
        tree.extend({"s": np.arange(40, dtype="i4"), "n": np.zeros(40, dtype="i4"), "x": np.arange(40.0)})
    return stream.getvalue()


def _block(tag: bytes, words: Mapping[int, float]) -> bytes:
    numbers = [words.get(number, 0.0) for number in range(2, 274)]
    return tag + struct.pack("<272f", *numbers)


def _corsika() -> bytes:
    blocks = [_block(b"RUNH", {2: 74, 3: 171018, 4: 7.74, 17: 100, 18: 1000})]
    for event, energy in ((1, 150.0), (2, 900.0)):
        blocks += [_block(b"EVTH", {2: event, 3: 14, 4: energy}), _block(b"EVTE", {2: event})]
    blocks.append(_block(b"RUNE", {2: 74, 3: 2}))
    record = b"".join(blocks).ljust(21 * 273 * 4, b"\0")
    length = struct.pack("<I", len(record))
    return length + record + length


def make_object(number: int, data: bytes = b"", *, identifier: int = 0, inner: bool = False, flags: int = 0) -> bytes:
    """Return an object of EventIO; `flags` are added to its length."""
    header = struct.pack("<IiI", number, identifier, len(data) | flags)
    return (b"" if inner else b"\x37\x8a\x1f\xd4") + header + data


def _eventio() -> bytes:
    run = struct.pack("<i", 273) + _block(b"RUNH", {2: 74, 17: 100, 18: 1000})
    shower = struct.pack("<i", 273) + _block(b"EVTH", {2: 1, 4: 150.0})
    photons = b"".join(make_object(1205, bytes(8), identifier=number, inner=True) for number in (1, 2))
    return b"".join((
        make_object(1200, run, identifier=74), make_object(1202, shower, identifier=1),
        make_object(1204, photons, flags=1 << 30), make_object(2010, bytes(8), identifier=100),
    ))  # fmt: skip
