"""Members of exports: what is to be fetched of each file, and where its bytes can be had."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from metadata_db.database import Database
from metadata_db.vocabulary import Vocabulary, VocabularyStore

_COLUMNS = ("id", "facility_id", "storage_id", "path", "size_bytes", "sha256", "md5", "licence")
"""What an export needs of a file."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Place:
    """Where the bytes of a file can be had."""

    storage: str
    kind: str
    root: str
    path: str
    enabled: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class Member:
    """One file of an export: what it is, and where it can be had, the catalogued place first."""

    file_id: int
    facility: str
    storage: str
    path: str
    size_bytes: int
    sha256: str | None
    md5: str | None
    licence: str | None
    places: tuple[Place, ...]


_MEMBERS = f"""
    select {", ".join(_COLUMNS)} from file where id = any(%(numbers)s) union all
    select {", ".join(_COLUMNS)} from file_history where id = any(%(numbers)s) order by id
"""

_OTHER_PLACES = """
    select sha256, storage_id, path from replica where sha256 = any(%(digests)s) union
    select sha256, storage_id, path from file where sha256 = any(%(digests)s)
"""
"""Further places of equal bytes: declared replicas, and other living files with the same SHA-256."""


async def read_members(database: Database, store: VocabularyStore, numbers: Sequence[int]) -> list[Member]:
    """Return the members of the numbers of versions, in order."""
    vocabulary = await store.get()
    rows = await database.read(_MEMBERS, {"numbers": list(numbers)})
    if any(row[1] not in vocabulary.facility.names or row[2] not in vocabulary.storages for row in rows):
        vocabulary = await store.renew()
    digests = [row[5] for row in rows if row[5] is not None]
    elsewhere: dict[bytes, list[Place]] = {}
    if digests:
        for digest, storage_id, path in await database.read(_OTHER_PLACES, {"digests": digests}):
            elsewhere.setdefault(digest, []).append(_place(vocabulary, storage_id, path))
    return [_member(row, vocabulary, elsewhere) for row in rows]


def _member(row: tuple[Any, ...], vocabulary: Vocabulary, elsewhere: Mapping[bytes, list[Place]]) -> Member:
    number, facility_id, storage_id, path, size_bytes, sha256, md5, licence = row
    home = _place(vocabulary, storage_id, path)
    others = sorted(
        (place for place in elsewhere.get(sha256 or b"", ()) if place != home),
        key=lambda place: (place.storage, place.path),
    )
    return Member(
        file_id=number,
        facility=vocabulary.facility.names[facility_id],
        storage=home.storage,
        path=path,
        size_bytes=size_bytes,
        sha256=None if sha256 is None else sha256.hex(),
        md5=None if md5 is None else md5.hex(),
        licence=licence,
        places=(home, *others),
    )


def _place(vocabulary: Vocabulary, storage_id: int, path: str) -> Place:
    storage = vocabulary.storages[storage_id]
    return Place(storage=storage.name, kind=storage.kind, root=storage.root, path=path, enabled=storage.enabled)
