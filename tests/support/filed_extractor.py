"""One extractor for many: it reads each file with the extractor that was put into a file for it.

So one pool can serve tests with storages and Descriptions of their own.
"""

import pickle
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from extractors.extract import Extractor, Outcome

_SEPARATOR = "\0"


def file_extractor(folder: Path, extractor: Extractor) -> Callable[[str], str]:
    """Put `extractor` into `folder`, and return what names a file so that a `FiledExtractor` reads it by this one."""
    filed = folder / "extractor.pickle"
    filed.write_bytes(pickle.dumps(extractor))
    return lambda path: f"{filed}{_SEPARATOR}{path}"


@dataclass(frozen=True, kw_only=True)
class FiledExtractor:
    """Reads a file by the extractor that stands in another."""

    is_plain: bool = False

    def extract(self, path: str) -> Outcome:
        filed, _, below = path.partition(_SEPARATOR)
        extractor: Extractor = pickle.loads(Path(filed).read_bytes())
        return (extractor.without_description() if self.is_plain else extractor).extract(below)

    def without_description(self) -> "FiledExtractor":
        return replace(self, is_plain=True)
