"""API tokens: who may write what.

A token is ``catchment_<id>_<secret>``. The database holds its id and the SHA-256 of its secret: what is stolen from
there opens nothing. The secret has 256 random bits, so a plain hash is enough.
"""

import hashlib
import hmac
import re
import secrets
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import Enum
from typing import Any

from sqlalchemy import insert, select, update

from metadata_db.database import Database
from metadata_db.errors import NotFoundError, PermissionDeniedError
from metadata_db.tables import token

_FORM = re.compile(r"catchment_([0-9a-f]{12})_([A-Za-z0-9_-]{43})", re.ASCII)


class Role(Enum):
    """What a token allows."""

    PUBLISHER = "publisher"
    """Write the facilities it names, and their files."""
    ADMIN = "admin"
    """Write everything; storages above all, because their roots open directories of the workers' hosts."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Grant:
    """What the bearer of a token may do."""

    token_id: str
    role: Role
    facilities: tuple[str, ...] = ()

    @property
    def writable(self) -> Collection[str] | None:
        """Facilities that may be written; None means all."""
        return None if self.role is Role.ADMIN else self.facilities

    def require_facility(self, name: str) -> None:
        """Check that the facility may be written.

        Raises
        ------
        PermissionDeniedError
            The token does not name it.
        """
        if self.writable is not None and name not in self.writable:
            raise PermissionDeniedError(f"this token may not write for the facility {name}")

    def require_admin(self, what: str) -> None:
        """Check that this is an admin's token.

        Raises
        ------
        PermissionDeniedError
            It is not.
        """
        if self.role is not Role.ADMIN:
            raise PermissionDeniedError(f"{what} needs an admin's token")


class TokenStore:
    """Makes, lists, revokes and checks tokens."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def create(self, role: Role, facilities: Sequence[str] = (), *, note: str | None = None) -> str:
        """Make a token and return it; it cannot be shown again."""
        token_id, secret = secrets.token_hex(6), secrets.token_urlsafe(32)
        values = {
            "id": token_id,
            "secret_sha256": _digest(secret),
            "role": role.value,
            "facilities": list(facilities) if role is Role.PUBLISHER else [],
            "note": note,
        }
        async with self._database.transaction() as connection:
            await connection.execute(insert(token).values(values))
        return f"catchment_{token_id}_{secret}"

    async def check(self, text: str | None) -> Grant:
        """Return what a token allows.

        Raises
        ------
        PermissionDeniedError
            It is missing, malformed, unknown or revoked; which of these is not told.
        """
        match = _FORM.fullmatch(text or "")
        if match is None:
            raise PermissionDeniedError("a valid token is needed: 'Authorization: Bearer catchment_…'")
        async with self._database.snapshot() as connection:
            found = (await connection.execute(select(token).where(token.c.id == match[1]))).mappings().first()
        known = b"" if found is None else found["secret_sha256"]
        if found is None or not hmac.compare_digest(known, _digest(match[2])) or found["revoked_at"] is not None:
            raise PermissionDeniedError("a valid token is needed: 'Authorization: Bearer catchment_…'")
        return Grant(token_id=match[1], role=Role(found["role"]), facilities=tuple(found["facilities"]))

    async def revoke(self, token_id: str) -> None:
        """End a token.

        Raises
        ------
        NotFoundError
            There is none with this id.
        """
        statement = update(token).where(token.c.id == token_id).values(revoked_at=datetime.now(UTC))
        async with self._database.transaction() as connection:
            if (await connection.execute(statement)).rowcount == 0:
                raise NotFoundError("token", token_id)

    async def list_all(self) -> list[dict[str, Any]]:
        """Return all tokens without their secrets, newest first."""
        columns = [column for column in token.c if column is not token.c.secret_sha256]
        async with self._database.snapshot() as connection:
            rows = await connection.execute(select(*columns).order_by(token.c.created_at.desc()))
            return [dict(row) for row in rows.mappings()]


def _digest(secret: str) -> bytes:
    return hashlib.sha256(secret.encode()).digest()
