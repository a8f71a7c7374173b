"""How fast exports are made: by a real worker, from a local storage, against `cp -r` of the same tree.

The two take turns, each time into a fresh target on the same file system; before each turn everything written is
flushed to the disk. A worker makes every file durable before it counts, `cp` leaves that to later, so `cp -r` followed
by a flush is the second yardstick. The tree has just been written, so both find it in memory, as far as it fits.
"""

import hashlib
import random
import shutil
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from aggregator.commands.remote import ExportStatus, Remote
from benchmarks.measuring import Sample, Table, gather
from benchmarks.service import BenchmarkError, Servers, Service, cpu_s, peak_rss_mb, running_service
from extractors.client import Client
from metadata_db.records import Facility, FileRecord, Storage

FILE_BYTES = 1_000_000
"""Size of a file of the storage that is compared with `cp -r`."""

TINY_BYTES = 200
"""Size of a tiny file: what is left is the work for each file, and the memory that many files need."""

FILES_PER_FOLDER = 100
"""Files of one folder of the generated trees."""

BATCH_RECORDS = 5000
"""Records sent in one request."""

POLL_S = 0.02
"""How often an export is asked whether it is complete."""

STAGING_LIMIT_S = 3600.0
"""An export that takes longer is given up."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Tree:
    """A generated storage."""

    name: str
    root: Path
    n_files: int
    file_bytes: int

    @property
    def n_bytes(self) -> int:
        """Size of all files."""
        return self.n_files * self.file_bytes

    def make(self) -> None:
        """Write the files, all different."""
        rng = random.Random(f"tree {self.name}")
        for path in self.iter_paths():
            target = self.root / path
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(rng.randbytes(self.file_bytes))

    def iter_paths(self) -> Iterator[str]:
        """Yield the paths below the root."""
        return (f"{number // FILES_PER_FOLDER:04d}/run_{number:06d}.fits" for number in range(self.n_files))

    def iter_records(self) -> Iterator[FileRecord]:
        """Yield what an extractor says of the files, with their checksums."""
        for path in self.iter_paths():
            content = (self.root / path).read_bytes()
            yield FileRecord(
                facility="observatory",
                storage=self.name,
                path=path,
                size_bytes=len(content),
                sha256=hashlib.sha256(content).hexdigest(),
                md5=hashlib.md5(content, usedforsecurity=False).hexdigest(),
            )


def run(servers: Servers, *, n_files: int, n_tiny: int, repeats: int) -> Table:
    """Measure exports of `n_files` files of 1 MB and of `n_tiny` tiny ones."""
    tree = Tree(name="disk", root=servers.data_dir / "tree", n_files=n_files, file_bytes=FILE_BYTES)
    tiny = Tree(name="tiny-disk", root=servers.data_dir / "tiny-tree", n_files=n_tiny, file_bytes=TINY_BYTES)
    samples: dict[str, list[Sample]] = {}
    for one in (tree, tiny):
        shutil.rmtree(one.root, ignore_errors=True)
        one.make()
    for _ in range(repeats):
        copy_s = _copy(servers, tree, flush=False)
        flushed_copy_s = _copy(servers, tree, flush=True)
        first, again = _export_twice(servers, tree)
        first["ratio to cp -r"] = (copy_s / first["time"][0], "")
        first["ratio to cp -r and flush"] = (flushed_copy_s / first["time"][0], "")
        for label, sample in (
            ("cp -r", _rates(tree, copy_s)),
            ("cp -r and flush", _rates(tree, flushed_copy_s)),
            ("export, all files new", first),
            ("export, all files there (links only)", again),
            (f"export of {n_tiny:,} tiny files", _export_twice(servers, tiny)[0]),
        ):
            samples.setdefault(label, []).append(sample)
    for one in (tree, tiny):
        shutil.rmtree(one.root)
    return Table(
        title=f"Staging of {n_files:,} files of {FILE_BYTES / 1e6:.0f} MB",
        rows=tuple(gather(label, repeated) for label, repeated in samples.items()),
        notes=(
            "ratio: rate of the export divided by that of the copy in the same repeat; 1 is as fast as the copy",
            "time of an export: from the request to the moment it is seen to be complete, manifest included",
            f"worker: largest resident memory since the start of the process; tiny: {TINY_BYTES} bytes",
        ),
    )


def _rates(tree: Tree, duration_s: float) -> dict[str, tuple[float, str]]:
    return {
        "time": (duration_s, "s"),
        "files per second": (tree.n_files / duration_s, ""),
        "rate": (tree.n_bytes / 1e6 / duration_s, "MB/s"),
    }


def _copy(servers: Servers, tree: Tree, *, flush: bool) -> float:
    """Copy a tree with `cp -r` and return the seconds that took."""
    target = servers.data_dir / "copy"
    _flush(servers.data_dir)
    begin = time.perf_counter()
    subprocess.run(["cp", "-r", tree.root, target], check=True)
    if flush:
        _flush(target)
    duration_s = time.perf_counter() - begin
    shutil.rmtree(target)
    return duration_s


def _flush(path: Path) -> None:
    """Wait until all that was written to the file system of `path` is on the disk."""
    subprocess.run(["sync", "--file-system", path], check=True)


def _export_twice(servers: Servers, tree: Tree) -> list[dict[str, tuple[float, str]]]:
    """Export all files of a tree by a fresh service, and again for another question with the same answer."""
    samples = []
    with running_service(servers, "staging", with_worker=True) as service:
        catalogue(service, tree)
        for question in ({"facility": ["observatory"]}, {"storage": [tree.name]}):
            _flush(servers.data_dir)
            cpu_begin_s = cpu_s(service.require_worker())
            sample = _rates(tree, export(service, question, tree))
            sample["worker"] = (peak_rss_mb(service.require_worker()), "MB")
            sample["processor, worker"] = (cpu_s(service.require_worker()) - cpu_begin_s, "s")
            samples.append(sample)
    return samples


def catalogue(service: Service, tree: Tree) -> None:
    """Let a service know all files of a tree."""
    records = tree.iter_records()
    with Client(service.url, service.token) as client:
        client.put_facility(Facility(name="observatory"))
        client.put_storage(Storage(name=tree.name, root=str(tree.root), facility="observatory"))
        while batch := list(islice(records, BATCH_RECORDS)):
            client.send(batch)


def export(service: Service, question: Mapping[str, Sequence[str]], tree: Tree) -> float:
    """Ask a question, have its files staged, and return the seconds from the request to the complete export."""
    with Remote(service.url) as remote:
        query_id = remote.search(question).query_id
        begin = time.perf_counter()
        export = remote.prepare(query_id)
        while export.state in ("INITIALIZED", "WRITING"):
            if time.perf_counter() - begin > STAGING_LIMIT_S:
                raise BenchmarkError(f"an export is not complete after {STAGING_LIMIT_S:.0f} s")
            time.sleep(POLL_S)
            export = remote.get_export(export.id)
        duration_s = time.perf_counter() - begin
    _check(export, tree)
    return duration_s


def _check(export: ExportStatus, tree: Tree) -> None:
    progress = export.progress
    if export.state != "COMPLETED" or (progress.files_done, progress.files_failed) != (tree.n_files, 0):
        raise BenchmarkError(
            f"an export of {tree.n_files} files ended as {export.state} with {progress.files_done} files, "
            f"{progress.files_failed} failed: {export.error}"
        )
