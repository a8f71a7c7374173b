"""The files of answers as users see them: rows of the catalogue with numbers turned into names."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any

import msgspec

from metadata_db.filters import NAMED
from metadata_db.paging import PAGE_COLUMNS
from metadata_db.records import Relation
from metadata_db.vocabulary import Vocabulary


class FoundFile(msgspec.Struct, frozen=True, kw_only=True):
    """One file of a page: the catalogue's row with numbers turned into names. See `FileRecord` for the fields."""

    id: int
    cursor: str
    facility: str
    storage: str
    path: str
    size_bytes: int
    sha256: str | None
    md5: str | None
    modified_at: datetime | None
    format: str | None
    kind: str | None
    level: str | None
    cluster: str | None
    detector: str | None
    channel: str | None
    time_begin: datetime | None
    time_end: datetime | None
    obs_id: str | None
    run: int | None
    ra_deg: float | None
    dec_deg: float | None
    position_basis: str | None
    energy_min_ev: float | None
    energy_max_ev: float | None
    energy_basis: str | None
    object: str | None
    n_events: int | None
    is_simulation: bool | None
    processing: str | None
    quality: str | None
    conditions: str | None
    licence: str | None
    attributes: dict[str, Any]
    provenance: dict[str, str]
    warnings: list[str]
    description: str | None
    relations: list[Relation]


_AT = {name: at for at, name in enumerate(PAGE_COLUMNS)}
_NUMBERED = [(name, _AT[f"{name}_id"]) for name in NAMED]
_PLAIN = [
    (name, _AT[name])
    for name in FoundFile.__struct_fields__
    if name in _AT and name not in ("sha256", "md5", "relations")
]


def make_found_file(row: Sequence[Any], cursor: str, vocabulary: Vocabulary) -> FoundFile:
    """Return the file of a row of `PAGE_COLUMNS`.

    Raises
    ------
    KeyError
        The vocabulary does not know one of its numbers.
    """
    values = {name: row[at] for name, at in _PLAIN}
    for name, at in _NUMBERED:
        number = row[at]
        values[name] = None if number is None else getattr(vocabulary, name).names[number]
    sha256, md5, relations = row[_AT["sha256"]], row[_AT["md5"]], row[_AT["relations"]]
    return FoundFile(
        cursor=cursor,
        sha256=None if sha256 is None else sha256.hex(),
        md5=None if md5 is None else md5.hex(),
        relations=[] if not relations else msgspec.convert(relations, list[Relation]),
        **values,
    )
