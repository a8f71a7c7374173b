"""How many files are described in a second: by one process, and by several that scan very many small files.

The yardstick is what a plain script does: `astropy.io.fits.getheader` of the primary header and of the first
extension. Both take turns on the same files, which are read once before, so that no disk is measured. Header-only
leaves out checksums and columns, so that a file costs the same however large it is.
"""

import json
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from astropy.io import fits

from aggregator.samples import generate_samples
from benchmarks.measuring import Sample, Table, gather
from benchmarks.scanning import SCAN_PROCESSES
from benchmarks.service import BenchmarkError
from extractors.description import Description
from extractors.extract import Extractor
from extractors.loading import find_description
from extractors.readers.fits import FitsReader
from extractors.readers.hdf5 import Hdf5Reader
from extractors.readers.reader import DEFAULT_MAX_UNPACKED_BYTES
from extractors.storages.fingerprint import HEAD_BYTES
from extractors.storages.opening import open_tree
from extractors.storages.trees import RejectedFile, Tree
from extractors.storages.unpacking import open_unpacked, peek_head

REAL_STORAGES = Path(__file__).parents[2] / "shared" / "data" / "storages"
"""Real files of many facilities; not part of the project."""

LEAST_S = 0.5
"""A measurement goes over its files again until so much time has passed."""

SCANNED_FILES = 100_000
"""Small files of a scan at full size."""

SMALL_EVENTS = 20
"""Events of a small file, which has about 17 kB."""

_YARDSTICK = "getheader of two headers"
_READERS = {FitsReader: "fits", Hdf5Reader: "hdf5"}
_FIRST_RUN = 100_000


@dataclass(frozen=True, kw_only=True, slots=True)
class FileSet:
    """Files of one storage that one reader reads, all packed in the same way."""

    description: Description
    root: Path
    kind: str
    """Format, and packing if there is one: ``fits``, ``fits+gzip``, ``hdf5``."""
    paths: tuple[str, ...]


def run(data_dir: Path, *, scale: float, repeats: int) -> list[Table]:
    """Measure extraction from a share `scale` of the samples, and from the real storages if they are there."""
    samples = generate_samples(data_dir / "samples", scale=scale)
    tables = [_measure_all("generated files", find_file_sets([sample.root for sample in samples]), repeats)]
    if REAL_STORAGES.is_dir():
        tables.append(_measure_all("real files", find_file_sets(sorted(REAL_STORAGES.iterdir())), repeats))
    n_small = max(1, round(SCANNED_FILES * scale))
    small = _make_small_files(data_dir / f"small-{n_small}", n_small)
    return [*tables, _measure_scans(small, repeats)]


def find_file_sets(storages: Sequence[Path]) -> list[FileSet]:
    """Return the FITS and HDF5 files of `storages`, by what a built-in Description of the storage's name says."""
    found: dict[tuple[Path, str], list[str]] = {}
    descriptions = {root: description for root in storages if (description := find_description(root.name)) is not None}
    for root, description in descriptions.items():
        for path, kind in _iter_kinds(open_tree(str(root)), description):
            found.setdefault((root, kind), []).append(path)
    return [
        FileSet(description=descriptions[root], root=root, kind=kind, paths=tuple(paths))
        for (root, kind), paths in found.items()
    ]


def _iter_kinds(tree: Tree, description: Description) -> Iterator[tuple[str, str]]:
    """Yield path and kind of the files whose reader is measured."""
    for file in tree.walk():
        if isinstance(file, RejectedFile):
            continue
        with tree.open(file.path) as stream:
            unpacked, packing = open_unpacked(stream, max_bytes=DEFAULT_MAX_UNPACKED_BYTES)
            product, _ = next(description.iter_candidates(file.path, peek_head(unpacked, HEAD_BYTES)), (None, None))
        reader = None if product is None else product.reader
        word = next((word for reader_class, word in _READERS.items() if isinstance(reader, reader_class)), None)
        if word is not None:
            yield file.path, word if packing is None else f"{word}+{packing}"


# -------------------------------------------------------------------------------------------- one process


def _measure_all(what: str, file_sets: Sequence[FileSet], repeats: int) -> Table:
    kinds = sorted({one.kind for one in file_sets})
    by_kind = {kind: [one for one in file_sets if one.kind == kind] for kind in kinds}
    samples: dict[str, list[Sample]] = {}
    for _ in range(repeats):
        for kind, own in by_kind.items():
            for label, sample in _measure_kind(kind, own).items():
                samples.setdefault(label, []).append(sample)
    return Table(
        title=f"Extraction from {what} by one process",
        rows=tuple(gather(label, repeated) for label, repeated in samples.items()),
        notes=(
            *(f"{_describe(kind, own)}" for kind, own in by_kind.items()),
            "ratio: files per second of one core divided by those of getheader in the same repeat",
        ),
    )


def _describe(kind: str, file_sets: Sequence[FileSet]) -> str:
    paths = [one.root / path for one in file_sets for path in one.paths]
    size_mb = sum(path.stat().st_size for path in paths) / 1e6
    names = ", ".join(one.description.name for one in file_sets)
    return f"{kind}: {len(paths)} files of {names}, {size_mb / max(1, len(paths)):.2f} MB on average"


def _measure_kind(kind: str, file_sets: Sequence[FileSet]) -> dict[str, Sample]:
    """Return label → what was measured, for the files of one kind."""
    ways: dict[str, Callable[[FileSet], None]] = {
        f"{kind}, header only": partial(_extract, header_only=True),
        f"{kind}, full": partial(_extract, header_only=False),
    }
    yardstick = f"{kind}, {_YARDSTICK}"
    if kind.startswith("fits"):
        ways = {yardstick: _get_headers} | ways
    found = {label: _time(way, file_sets) for label, way in ways.items()}
    if yardstick in found:
        rate, _ = found[yardstick]["files per second of one core"]
        for sample in found.values():
            sample["ratio to getheader"] = (sample["files per second of one core"][0] / rate, "")
    return dict(found)


def _time(way: Callable[[FileSet], None], file_sets: Sequence[FileSet]) -> dict[str, tuple[float, str]]:
    """Go over all files once unmeasured, and then until `LEAST_S` have passed."""
    n_files = 0
    for one in file_sets:
        way(one)
    begin, cpu_begin = time.perf_counter(), time.process_time()
    while (duration_s := time.perf_counter() - begin) < LEAST_S:
        for one in file_sets:
            way(one)
            n_files += len(one.paths)
    cpu_s = time.process_time() - cpu_begin
    return {
        "files per second": (n_files / duration_s, ""),
        "files per second of one core": (n_files / cpu_s, ""),
    }


def _extract(files: FileSet, *, header_only: bool) -> None:
    for outcome in _make_extractor(files, header_only=header_only).extract_all(files.paths):
        if outcome.failure is not None:
            raise BenchmarkError(f"{outcome.path}: {outcome.failure}")


def _make_extractor(files: FileSet, *, header_only: bool) -> Extractor:
    return Extractor(
        tree=open_tree(str(files.root)),
        facility=files.description.facility.name,
        storage=files.root.name,
        description=files.description,
        header_only=header_only,
    )


def _get_headers(files: FileSet) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # real files have cards that astropy complains about, each time
        for path in files.paths:
            fits.getheader(files.root / path, 0)
            fits.getheader(files.root / path, 1)


# ------------------------------------------------------------------------------------ scans of small files


def _make_small_files(root: Path, n_files: int) -> FileSet:
    """Write `n_files` event lists of the invented telescopes, which differ in their run; those that are there stay."""
    description = find_description("aurora")
    if description is None:
        raise BenchmarkError("found no built-in Description aurora, expected one")
    card = f"OBS_ID  = {_FIRST_RUN:>20}"
    template = _small_file(root)
    paths = []
    for run_number in range(_FIRST_RUN, _FIRST_RUN + n_files):
        folder = f"north/2020/01/202001{1 + run_number * 28 // (_FIRST_RUN + n_files):02}"
        path = f"{folder}/aurora_{run_number:06}_dl3.fits"
        paths.append(path)
        if not (root / path).exists():
            (root / folder).mkdir(parents=True, exist_ok=True)
            (root / path).write_bytes(template.replace(card.encode(), f"OBS_ID  = {run_number:>20}".encode()))
    return FileSet(description=description, root=root, kind="fits", paths=tuple(paths))


def _small_file(root: Path) -> bytes:
    """Return an event list of the run `_FIRST_RUN`."""
    columns = {"EVENT_ID": "K", "TIME": "D", "RA": "E", "DEC": "E", "ENERGY": "E"}
    events = fits.BinTableHDU.from_columns(
        [
            fits.Column(name, form, unit={"TIME": "s", "ENERGY": "TeV"}.get(name), array=np.arange(1, SMALL_EVENTS + 1))
            for name, form in columns.items()
        ],
        name="EVENTS",
    )
    cards: Mapping[str, object] = {
        "TELESCOP": "AURORA", "OBS_ID": _FIRST_RUN, "OBJECT": "Crab Nebula", "RA_PNT": 83.63, "DEC_PNT": 22.01,
        "TSTART": 3600.25, "TSTOP": 5400.5, "MJDREFI": 58849, "MJDREFF": 0.0, "TIMESYS": "TT", "LIVETIME": 1700.5,
        "ONTIME": 1800.25, "DEADC": 0.944, "N_TELS": 4, "QUALITY": "good", "WEATHER": "thin cloud",
    }  # fmt: skip
    events.header.update(cards)
    root.mkdir(parents=True, exist_ok=True)
    fits.HDUList([fits.PrimaryHDU(), events]).writeto(root / "template", overwrite=True)
    template = (root / "template").read_bytes()
    (root / "template").unlink()
    return template


def _measure_scans(files: FileSet, repeats: int) -> Table:
    samples: dict[str, list[Sample]] = {}
    for _ in range(repeats):
        for label, mode in (("header only", "header"), ("full", "full")):
            samples.setdefault(label, []).append(_scan(files, mode))
    return Table(
        title=f"Extraction from {len(files.paths):,} small files by {SCAN_PROCESSES} processes",
        rows=tuple(gather(label, repeated) for label, repeated in samples.items()),
        notes=(
            _describe(files.kind, [files]),
            "memory: largest sum of the proportional sizes (PSS) of the scanning process and of all that it started",
        ),
    )


def _scan(files: FileSet, mode: str) -> Sample:
    command = [sys.executable, "-m", "benchmarks.scanning", str(files.root), mode]
    ran = subprocess.run(command, stdout=subprocess.PIPE, check=True)
    found = json.loads(ran.stdout)
    if found["n_bad"] or found["n_files"] != len(files.paths):
        raise BenchmarkError(f"scanned {found['n_files']} files, {found['n_bad']} of them bad, of {len(files.paths)}")
    return {"files per second": (found["n_files"] / found["seconds"], ""), "memory": (found["peak_mb"], "MB")}
