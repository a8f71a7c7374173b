"""How many files one process describes in a second: on generated samples, and on real files where they are.

The yardstick is what a plain script does: `astropy.io.fits.getheader` of the primary header and of the first
extension. Both take turns on the same files, which are read once before, so that no disk is measured. Header-only
leaves out checksums and column ranges, so that a file costs the same however large it is.
"""

import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from astropy.io import fits

from aggregator.samples import generate_samples
from benchmarks.measuring import Sample, Table, gather
from benchmarks.service import BenchmarkError
from extractors.description import Description, find_description
from extractors.extract import Extractor
from extractors.scan import RejectedFile, walk

REAL_STORAGES = Path(__file__).parents[2] / "shared" / "data" / "storages"
"""Real files of many facilities; not part of the project."""

LEAST_S = 0.5
"""A measurement goes over its files again until so much time has passed."""


@dataclass(frozen=True, kw_only=True, slots=True)
class FileSet:
    """Files of one storage that one reader reads."""

    description: Description
    root: Path
    reader: str
    paths: tuple[str, ...]


def run(data_dir: Path, *, scale: float, repeats: int) -> list[Table]:
    """Measure extraction from a share `scale` of the samples, and from the real storages if they are there."""
    samples = generate_samples(data_dir / "samples", scale=scale)
    tables = [_measure_all("generated files", find_file_sets([sample.root for sample in samples]), repeats)]
    if REAL_STORAGES.is_dir():
        tables.append(_measure_all("real files", find_file_sets(sorted(REAL_STORAGES.iterdir())), repeats))
    return tables


def find_file_sets(storages: Sequence[Path]) -> list[FileSet]:
    """Return the files of `storages` that a built-in Description of the storage's name says how to read."""
    found: dict[tuple[Path, str], list[str]] = {}
    descriptions = {root: find_description(root.name) for root in storages}
    for root, description in descriptions.items():
        for file in walk(root):
            match = None if isinstance(file, RejectedFile) or not description else description.find_product(file.path)
            if match is not None and match[0].reader is not None:
                found.setdefault((root, match[0].reader), []).append(file.path)
    return [
        FileSet(description=description, root=root, reader=reader, paths=tuple(paths))
        for (root, reader), paths in found.items()
        if (description := descriptions[root]) is not None
    ]


def _measure_all(what: str, file_sets: Sequence[FileSet], repeats: int) -> Table:
    by_reader = {reader: [one for one in file_sets if one.reader == reader] for reader in ("fits", "hdf5")}
    samples: dict[str, list[Sample]] = {}
    for _ in range(repeats):
        for reader, own in by_reader.items():
            for label, sample in _measure_reader(reader, own).items():
                samples.setdefault(label, []).append(sample)
    return Table(
        title=f"Extraction from {what} by one process",
        rows=tuple(gather(label, repeated) for label, repeated in samples.items()),
        notes=(
            *(f"{_describe(reader, own)}" for reader, own in by_reader.items()),
            "ratio: files per second divided by those of getheader in the same repeat; 1 is as fast as getheader",
        ),
    )


def _describe(reader: str, file_sets: Sequence[FileSet]) -> str:
    paths = [one.root / path for one in file_sets for path in one.paths]
    size_mb = sum(path.stat().st_size for path in paths) / 1e6
    names = ", ".join(one.description.name for one in file_sets)
    return f"{reader}: {len(paths)} files of {names}, {size_mb / max(1, len(paths)):.2f} MB on average"


def _measure_reader(reader: str, file_sets: Sequence[FileSet]) -> dict[str, Sample]:
    """Return label → what was measured, for the files of one reader."""
    if not file_sets:
        return {}
    ways: dict[str, Callable[[FileSet], None]] = {
        f"{reader}, header only": lambda one: _extract(one, header_only=True),
        f"{reader}, full": lambda one: _extract(one, header_only=False),
    }
    if reader == "fits":
        ways = {"getheader of two headers": _get_headers} | ways
    found = {label: _time(way, file_sets) for label, way in ways.items()}
    if reader == "fits":
        yardstick = found["getheader of two headers"]["files per second"][0]
        for sample in found.values():
            sample["ratio to getheader"] = (sample["files per second"][0] / yardstick, "")
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
    extractor = Extractor(
        root=files.root,
        facility=files.description.facility.name,
        storage=files.root.name,
        description=files.description,
        header_only=header_only,
    )
    for outcome in extractor.extract_all(files.paths):
        if outcome.failure is not None:
            raise BenchmarkError(f"{outcome.path}: {outcome.failure}")


def _get_headers(files: FileSet) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # real files have cards that astropy complains about, each time
        for path in files.paths:
            fits.getheader(files.root / path, 0)
            fits.getheader(files.root / path, 1)
