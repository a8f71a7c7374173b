"""Extraction in other processes, with a reader that kills its own."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from extractors.description import find_description, load_description
from extractors.extract import Extractor
from extractors.pool import CHUNK_FILES, CHUNKS_AHEAD, ExtractionPool

Make = dict[str, Callable[..., None]]

DEADLY_READER = '''
import os

from extractors.readers.reader import Content


class DeadlyReader:
    """Dies of files that say so."""

    def check(self, address):
        pass

    def read(self, stream, addresses, *, limits):
        if stream.read() == b"die":
            os.abort()
        return Content()
'''
DESCRIPTION = """
format = 1
name = "t"
version = "1"
[facility]
name = "t"
[[product]]
name = "all"
match = 'f'
reader = "deadly"
[product.fields]
kind = "events"
"""


@pytest.fixture
def deadly(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Extractor:
    """Return an extractor whose reader is a plug-in that dies of some files; 60 of them, two deadly."""
    plugin = tmp_path / "plugin"
    (plugin / "deadly-1.0.dist-info").mkdir(parents=True)
    (plugin / "deadly-1.0.dist-info" / "METADATA").write_text("Metadata-Version: 2.1\nName: deadly\nVersion: 1.0\n")
    (plugin / "deadly-1.0.dist-info" / "entry_points.txt").write_text(
        "[catchment.readers]\ndeadly = deadly_reader:DeadlyReader\n"
    )
    (plugin / "deadly_reader.py").write_text(DEADLY_READER)
    monkeypatch.syspath_prepend(plugin)
    (tmp_path / "t.toml").write_text(DESCRIPTION)
    root = tmp_path / "storage"
    root.mkdir()
    for number in range(60):
        (root / f"f{number:02}").write_text("die" if number in (7, 40) else "live")
    return Extractor(root=root, facility="t", storage="s", description=load_description(tmp_path / "t.toml"))


def test_a_file_that_kills_its_reader_is_named_and_registered_and_the_others_are_whole(deadly: Extractor) -> None:
    paths = [f"f{number:02}" for number in range(60)]
    with ExtractionPool(deadly, processes=2) as pool:
        outcomes = list(pool.extract(paths))
    assert [outcome.path for outcome in outcomes] == paths
    killed = [outcome for outcome in outcomes if outcome.failure is not None]
    assert [outcome.path for outcome in killed] == ["f07", "f40"]
    for outcome in killed:
        assert outcome.failure == "content: reading the file ended the process that read it"
        assert outcome.record is not None
        assert (outcome.record.size_bytes, outcome.record.kind, outcome.record.warnings) == (3, None, [outcome.failure])
    assert all(outcome.record is not None and outcome.record.kind == "events"
               for outcome in outcomes if outcome.failure is None)  # fmt: skip


def test_paths_are_read_only_a_little_ahead(night: Path) -> None:
    taken = 0

    def paths() -> Iterator[str]:
        nonlocal taken
        for _ in range(1000):
            taken += 1
            yield "notes.txt"

    extractor = Extractor(root=night, facility="aurora", storage="s", description=None)
    with ExtractionPool(extractor, processes=1) as pool:
        outcomes = pool.extract(paths())
        next(outcomes)
        assert taken <= CHUNK_FILES * (CHUNKS_AHEAD + 1)
        assert sum(1 for _ in outcomes) == 999


def test_a_pool_says_the_same_as_its_extractor(night: Path) -> None:
    extractor = Extractor(root=night, facility="aurora", storage="s", description=find_description("aurora"))
    paths = [str(path.relative_to(night)) for path in sorted(night.rglob("*")) if path.is_file()] + ["gone"]
    with ExtractionPool(replace(extractor, header_only=True), processes=2) as pool:
        assert list(pool.extract(paths)) == replace(extractor, header_only=True).extract_all(paths)
