"""Dead letters: what could not be read or was rejected, kept with its reason until it succeeds or is dismissed.

A letter is one file at one stage: failing again raises its tries and renews its reason. Lines from which no path can
be read are known by their digest.
"""

import hashlib
import re
from collections.abc import AsyncIterator, Collection, Iterable, Sequence
from functools import partial
from typing import Any, TypeAlias

import msgspec
from sqlalchemy import ColumnElement, delete, func, select, true
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncConnection

from metadata_db.database import Database
from metadata_db.errors import BadInputError, NotFoundError
from metadata_db.loading import ForeignLine, LoadingTable
from metadata_db.records import DeadLetter, Failure, FailureStage
from metadata_db.rows import Line, Rejection, decode_as, find_home, iter_blocks, sift
from metadata_db.tables import dead_letter, facility
from metadata_db.vocabulary import Vocabulary, VocabularyStore

MAX_LINE_BYTES = 64_000
"""Longest line that is kept with its letter."""

MAX_LETTERS = 500
"""Most letters of one page, each with a line."""

MAX_TEXT = 4096
"""Most characters that are kept of what a line says of itself."""

Letter: TypeAlias = dict[str, Any]
"""Values of one row of `dead_letter`."""

_FAILURES = msgspec.json.Decoder(Failure)


class FailureReport(msgspec.Struct, kw_only=True):
    """What became of a batch of failures; received = kept + rejected."""

    received: int = 0
    kept: int = 0
    rejected: int = 0
    rejections: list[Rejection] = msgspec.field(default_factory=list)


class DeadLetters:
    """Keeps, lists and dismisses dead letters."""

    def __init__(self, database: Database, vocabulary: VocabularyStore) -> None:
        self._database = database
        self._vocabulary = vocabulary

    async def load(self, chunks: AsyncIterator[bytes], *, allowed: Collection[str] | None) -> FailureReport:
        """Keep the failures of a stream of NDJSON.

        Parameters
        ----------
        chunks
            The bytes as they arrive, unpacked, cut anywhere.
        allowed
            Facilities the sender may write for; None means all.

        Raises
        ------
        BadInputError
            The stream cannot be cut into lines. Failures before that place may have been kept.
        """
        report = FailureReport()
        async for block in iter_blocks(chunks):
            vocabulary = await self._vocabulary.get()
            lines = list(block)
            rows, rejections = sift(lines, partial(_make_failure_row, vocabulary=vocabulary, allowed=allowed))
            if rows:
                async with self._database.transaction() as connection:
                    await keep(connection, [letter for letter, _ in rows])
            report.received += len(lines)
            report.kept += len(rows)
            report.rejected += len(rejections)
            report.rejections += rejections
        return report

    async def page(
        self,
        *,
        facilities: Collection[str] | None,
        storage: str | None = None,
        after: int = 0,
        limit: int = MAX_LETTERS,
    ) -> list[DeadLetter]:
        """Return `limit` letters with numbers above `after`, in their order.

        Parameters
        ----------
        facilities
            Whose letters; None means all, with those that belong to nobody.
        storage
            Only those of this storage.

        Raises
        ------
        BadInputError
            `limit` is out of bounds, or `storage` cannot be a name.
        """
        if storage is not None and "\0" in storage:
            raise BadInputError("storage", storage, "a name")
        if not 1 <= limit <= MAX_LETTERS:
            raise BadInputError("limit", limit, f"a number from 1 to {MAX_LETTERS}")
        statement = (
            select(dead_letter, facility.c.name.label("facility"))
            .join_from(dead_letter, facility, isouter=True)
            .where(dead_letter.c.id > after, _whose(facilities))
            .order_by(dead_letter.c.id)
            .limit(limit)
        )
        if storage is not None:
            statement = statement.where(dead_letter.c.storage == storage)
        async with self._database.snapshot() as connection:
            rows = (await connection.execute(statement)).mappings().all()
        return [DeadLetter(**{name: row[name] for name in DeadLetter.__struct_fields__}) for row in rows]

    async def dismiss(self, number: int, *, facilities: Collection[str] | None) -> None:
        """Throw a letter away.

        Raises
        ------
        NotFoundError
            There is none with this number that belongs to one of `facilities` (None: to anybody).
        """
        statement = delete(dead_letter).where(dead_letter.c.id == number, _whose(facilities))
        async with self._database.transaction() as connection:
            if (await connection.execute(statement)).rowcount == 0:
                raise NotFoundError("failure", str(number))


def _whose(facilities: Collection[str] | None) -> ColumnElement[bool]:
    if facilities is None:
        return true()
    return dead_letter.c.facility_id.in_(select(facility.c.id).where(facility.c.name.in_(list(facilities))))


# --- letters are written ----------------------------------------------------------------------------------------------


def _make_failure_row(line: bytes, *, vocabulary: Vocabulary, allowed: Collection[str] | None) -> tuple[Letter]:
    failure = decode_as(_FAILURES, line)
    facility_id, _ = find_home(failure.facility, failure.storage, vocabulary, allowed)
    return (
        _letter(
            "extraction",
            facility_id=facility_id,
            storage=failure.storage,
            path=failure.path,
            field=None,
            reason=failure.reason,
        ),
    )


def make_letters(
    block: Iterable[Line], rejections: Iterable[Rejection], vocabulary: Vocabulary, allowed: Collection[str] | None
) -> list[Letter]:
    """Return the letters of the rejected lines of a block."""
    lines = dict(block)
    return [_rejected_letter(lines[item.line], item, vocabulary, allowed) for item in rejections]


def make_foreign_letters(foreign: Iterable[ForeignLine], facility_id: int, vocabulary: Vocabulary) -> list[Letter]:
    """Return the letters of a facility's lines about files of others; the lines themselves are no longer at hand."""
    return [
        _letter(
            "ingest",
            facility_id=facility_id,
            storage=vocabulary.storages[found.storage_id].name,
            path=found.path,
            field=found.rejection.field,
            reason=found.rejection.reason,
        )
        for found in foreign
    ]


class _Names(msgspec.Struct):
    """What a rejected line says of itself, if it says anything."""

    facility: Any = None
    storage: Any = None
    path: Any = None


def _rejected_letter(
    line: bytes, rejection: Rejection, vocabulary: Vocabulary, allowed: Collection[str] | None
) -> Letter:
    try:
        names = msgspec.json.decode(line, type=_Names)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        names = _Names()
    return _letter(
        "ingest",
        facility_id=_find_owner(names.facility, vocabulary, allowed),
        storage=names.storage if isinstance(names.storage, str) else None,
        path=names.path if isinstance(names.path, str) else None,
        field=rejection.field,
        reason=rejection.reason,
        line=line,
    )


def _find_owner(said: Any, vocabulary: Vocabulary, allowed: Collection[str] | None) -> int | None:
    """Return the facility that may see a letter: the one of the line, else the only one that the sender writes for."""
    ids = vocabulary.facility.ids
    if isinstance(said, str) and said in ids and (allowed is None or said in allowed):
        return ids[said][0]
    mine = [name for name in allowed or () if name in ids]
    return ids[mine[0]][0] if len(mine) == 1 else None


def _letter(
    stage: FailureStage,
    *,
    facility_id: int | None,
    storage: str | None,
    path: str | None,
    field: str | None,
    reason: str,
    line: bytes | None = None,
) -> Letter:
    identity = line if path is None else msgspec.json.encode((facility_id, storage, path, stage))
    is_short = line is not None and len(line) <= MAX_LINE_BYTES
    return {
        "key": hashlib.blake2b(identity or b"", digest_size=16).digest(),
        "facility_id": facility_id,
        "storage": None if storage is None else _printable(storage),
        "path": None if path is None else _printable(path),
        "stage": stage,
        "field": _printable(field) if field else None,
        "reason": _printable(reason),
        "line": line.decode(errors="replace").replace("\0", "\ufffd") if line is not None and is_short else None,
    }


_UNPRINTABLE = re.compile("[\x00-\x1f\x7f\ud800-\udfff]")


def _printable(text: str) -> str:
    """Return a text without what no path may have; other paths stay as they are, so that they are found again."""
    return _UNPRINTABLE.sub(lambda found: found[0].encode("unicode_escape").decode(), text[:MAX_TEXT])


async def keep(connection: AsyncConnection, letters: Sequence[Letter]) -> None:
    """Keep letters, of which there is at least one; one that is known has one more try and its newest reason."""
    statement = insert(dead_letter)
    renewed = {name: statement.excluded[name] for name in ("field", "reason", "line")}
    statement = statement.on_conflict_do_update(
        index_elements=[dead_letter.c.key], set_=renewed | {"tries": dead_letter.c.tries + 1, "last_at": func.now()}
    )
    # In one order everywhere, so that two batches with the same files wait for each other and never both ways.
    in_order = sorted(letters, key=_place)
    await connection.execute(statement, in_order)


def _place(letter: Letter) -> tuple[str, str, bytes]:
    return letter["storage"] or "", letter["path"] or "", letter["key"]


# --- letters are settled by batches, in their transactions ------------------------------------------------------------


async def _has_letters(table: LoadingTable) -> bool:
    """Tell whether there is any letter that a batch may settle."""
    return bool((await table.fetch_one(_ANY, {"facility_id": table.facility_id}))["has_letters"])


async def settle_catalogued(table: LoadingTable) -> None:
    """Throw away the letters of the files in the table: those of extraction only where the content was read."""
    if await _has_letters(table):
        await table.execute(_SETTLE + _AS_FAR_AS_READ, {"facility_id": table.facility_id})


async def settle_removed(table: LoadingTable) -> None:
    """Throw away all letters of the files in the table."""
    if await _has_letters(table):
        await table.execute(_SETTLE, {"facility_id": table.facility_id})


_ANY = """
    select exists (select from dead_letter where facility_id = %(facility_id)s)
        or exists (select from dead_letter where facility_id is null) as has_letters
"""

_SETTLE = """
    delete from dead_letter using {incoming} as incoming, storage
    where (dead_letter.facility_id = %(facility_id)s or dead_letter.facility_id is null)
      and storage.id = incoming.storage_id and dead_letter.storage = storage.name
      and dead_letter.path = incoming.path
"""

_AS_FAR_AS_READ = " and (dead_letter.stage = 'ingest' or incoming.is_read)"
