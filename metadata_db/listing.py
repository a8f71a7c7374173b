"""What the catalogue knows of a storage, in the order of its paths: a scan walks beside it and sees what changed."""

from collections.abc import Collection

from sqlalchemy import RowMapping, ScalarSelect, select

from metadata_db.database import Database
from metadata_db.errors import BadInputError, NotFoundError, PermissionDeniedError
from metadata_db.records import KnownFile, Storage
from metadata_db.tables import facility, file, storage
from metadata_db.vocabulary import VocabularyStore

MAX_FILES = 10_000
"""Most files of one page."""


class Listing:
    """Lists the living files of storages."""

    def __init__(self, database: Database, vocabulary: VocabularyStore) -> None:
        self._database = database
        self._vocabulary = vocabulary

    async def get_storage(self, name: str, *, facilities: Collection[str] | None) -> Storage:
        """Return a storage that files of one of `facilities` may be on; None means all facilities.

        Raises
        ------
        NotFoundError
            There is none of this name.
        PermissionDeniedError
            It is another facility's.
        """
        known = await self._vocabulary.get()
        if name not in known.storage.ids:
            raise NotFoundError("storage", name)
        found = known.storages[known.storage.ids[name][0]]
        if facilities is not None and found.facility is not None and found.facility not in facilities:
            raise PermissionDeniedError(f"this token may not write for {found.facility}, whose storage {name} is")
        return found

    async def page(
        self, name: str, *, facilities: Collection[str] | None, after: str = "", limit: int = MAX_FILES
    ) -> list[KnownFile]:
        """Return `limit` files of a storage behind the path `after`, in the order of the bytes of their paths.

        Fewer mean that there are no more. Of a shared storage only the files of `facilities` are told.

        Raises
        ------
        BadInputError
            `after` or `limit` is out of bounds.
        NotFoundError, PermissionDeniedError
            As of `get_storage`.
        """
        if "\0" in after:
            raise BadInputError("after", after, "a path")
        if not 1 <= limit <= MAX_FILES:
            raise BadInputError("limit", limit, f"a number from 1 to {MAX_FILES}")
        await self.get_storage(name, facilities=facilities)
        statement = (
            select(*_COLUMNS)
            .join_from(file, facility, facility.c.id == file.c.facility_id)
            .where(file.c.storage_id == _number_of(name), file.c.path > after)
            .order_by(file.c.path)
            .limit(limit)
        )
        if facilities is not None:
            statement = statement.where(facility.c.name.in_(list(facilities)))
        async with self._database.snapshot() as connection:
            rows = (await connection.execute(statement)).mappings().all()
        return [_known_file(row) for row in rows]


def _number_of(name: str) -> ScalarSelect[int]:
    return select(storage.c.id).where(storage.c.name == name).scalar_subquery()


_COLUMNS = (
    file.c.path,
    file.c.size_bytes,
    facility.c.name.label("facility"),
    file.c.modified_at,
    file.c.sha256,
    file.c.checked_at,
    file.c.description,
)


def _known_file(row: RowMapping) -> KnownFile:
    has_sha256 = row["sha256"] is not None
    return KnownFile(
        path=row["path"],
        size_bytes=row["size_bytes"],
        facility=row["facility"],
        modified_at=row["modified_at"],
        sha256=row["sha256"].hex() if has_sha256 else None,
        checked_at=row["checked_at"] if has_sha256 else None,
        description=row["description"],
    )
