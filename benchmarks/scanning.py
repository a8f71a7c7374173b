"""`python -m benchmarks.scanning ROOT MODE`: one scan of a storage of small files, in a program of its own.

The processes of a pool import what the program that starts them has imported. So the scan of `extraction.py` happens
here, where that is no more than an ingest needs; the figures go to standard output as JSON.
"""

import json
import sys
import time
from collections.abc import Mapping

import psutil  # type: ignore[import-untyped]

from extractors.extract import Extractor
from extractors.loading import find_description
from extractors.pool import ExtractionPool
from extractors.storages.opening import open_tree

SCAN_PROCESSES = 4

MEMORY_SAMPLE_S = 0.5
"""Memory is looked at so often: rarely enough that looking costs the scan nothing."""


def main(root: str, mode: str) -> None:
    """Scan the invented telescopes' storage at `root`, and print what that took; `mode` is ``header`` or ``full``."""
    description = find_description("aurora")
    if description is None or mode not in ("header", "full"):
        raise SystemExit(f"found mode {mode!r}, expected header or full")
    extractor = Extractor(
        tree=open_tree(root),
        facility="aurora",
        storage="small",
        description=description,
        header_only=mode == "header",
    )
    print(json.dumps(scan(extractor)))


def scan(extractor: Extractor) -> Mapping[str, float]:
    """Walk the tree, extract each file that is found, and return how many, in what time and memory."""
    n_files, n_bad, peak_bytes, looked_at = 0, 0, 0, 0.0
    begin = time.perf_counter()
    with ExtractionPool(extractor, processes=SCAN_PROCESSES) as pool:
        for outcome in pool.extract(file.path for file in extractor.tree.walk()):
            n_files += 1
            n_bad += outcome.failure is not None or not outcome.is_matched
            if time.perf_counter() - looked_at > MEMORY_SAMPLE_S:
                peak_bytes = max(peak_bytes, memory_bytes())
                looked_at = time.perf_counter()
    seconds = time.perf_counter() - begin
    return {"n_files": n_files, "n_bad": n_bad, "seconds": seconds, "peak_mb": peak_bytes / 1e6}


def memory_bytes() -> int:
    """Return the memory of this process and of those that it started; pages that they share count once (PSS)."""
    this = psutil.Process()
    total = 0
    for process in (this, *this.children(recursive=True)):
        try:
            total += process.memory_full_info().pss
        except psutil.NoSuchProcess:
            continue
    return total


if __name__ == "__main__":
    main(*sys.argv[1:])
