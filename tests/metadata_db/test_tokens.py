"""A token opens what it names until it is revoked, and nothing that is stored can be used as one."""

import hashlib
import re

import pytest
from sqlalchemy import select

from metadata_db import tables
from metadata_db.database import Database
from metadata_db.errors import NotFoundError, PermissionDeniedError
from metadata_db.tokens import Grant, Role, TokenStore

pytestmark = pytest.mark.anyio


@pytest.fixture
def tokens(database: Database) -> TokenStore:
    return TokenStore(database)


async def test_a_publishers_token_names_its_facilities(tokens: TokenStore) -> None:
    text = await tokens.create(Role.PUBLISHER, ["aurora", "borealis"], note="night crew")
    grant = await tokens.check(text)
    assert (grant.role, grant.facilities, grant.writable) == (
        Role.PUBLISHER,
        ("aurora", "borealis"),
        ("aurora", "borealis"),
    )
    grant.require_facility("aurora")
    with pytest.raises(PermissionDeniedError, match="may not write for the facility cascade"):
        grant.require_facility("cascade")
    with pytest.raises(PermissionDeniedError, match="registering a storage needs an admin's token"):
        grant.require_admin("registering a storage")


async def test_an_admins_token_may_write_everything(tokens: TokenStore) -> None:
    grant = await tokens.check(await tokens.create(Role.ADMIN))
    grant.require_admin("registering a storage")
    grant.require_facility("any")
    assert grant.writable is None


async def test_a_publishers_token_without_facilities_may_write_nothing() -> None:
    grant = Grant(token_id="0", role=Role.PUBLISHER)
    assert grant.writable == ()
    with pytest.raises(PermissionDeniedError):
        grant.require_facility("aurora")


async def test_what_is_stored_is_not_the_token(tokens: TokenStore, database: Database) -> None:
    text = await tokens.create(Role.ADMIN)
    match = re.fullmatch(r"catchment_([0-9a-f]{12})_([A-Za-z0-9_-]{43})", text)
    assert match is not None
    async with database.snapshot() as connection:
        row = (await connection.execute(select(tables.token))).mappings().one()
    assert (row["id"], row["secret_sha256"]) == (match[1], hashlib.sha256(match[2].encode()).digest())
    assert match[2] not in str(dict(row))
    with pytest.raises(PermissionDeniedError):
        await tokens.check(f"catchment_{row['id']}_{row['secret_sha256'].hex()[:43]}")


async def test_each_token_is_another(tokens: TokenStore) -> None:
    assert len({await tokens.create(Role.ADMIN) for _ in range(20)}) == 20


async def test_whatever_is_no_token_of_ours_is_refused_with_the_same_words(tokens: TokenStore) -> None:
    good = await tokens.create(Role.ADMIN)
    other = await tokens.create(Role.PUBLISHER, ["aurora"])
    revoked = await tokens.create(Role.ADMIN)
    await tokens.revoke(revoked.split("_")[1])
    last = "A" if good[-1] != "A" else "B"
    mixed = f"{good[:23]}{other[23:]}"
    unknown = f"catchment_{'0' * 12}_{'A' * 43}"
    wrong = [None, "", "catchment_", good[:-1], good + "A", f" {good}", f"{good}\n", good.upper(), good[:-1] + last]
    messages = set()
    for text in [*wrong, mixed, unknown, revoked, "catchment_ü", "x" * 100_000]:
        with pytest.raises(PermissionDeniedError) as caught:
            await tokens.check(text)
        messages.add(str(caught.value))
    assert messages == {"a valid token is needed: 'Authorization: Bearer catchment_…'"}
    assert (await tokens.check(good)).role is Role.ADMIN


async def test_a_revoked_token_stays_revoked_and_the_others_stay_good(tokens: TokenStore) -> None:
    first, second = await tokens.create(Role.ADMIN), await tokens.create(Role.ADMIN)
    for _ in range(2):
        await tokens.revoke(first.split("_")[1])
    with pytest.raises(PermissionDeniedError):
        await tokens.check(first)
    await tokens.check(second)


async def test_revoking_what_there_is_not_is_an_error(tokens: TokenStore) -> None:
    with pytest.raises(NotFoundError, match="no token '000000000000'"):
        await tokens.revoke("0" * 12)


async def test_the_list_of_tokens_shows_everything_but_the_secret(tokens: TokenStore) -> None:
    first = await tokens.create(Role.PUBLISHER, ["aurora"], note="night crew")
    second = await tokens.create(Role.ADMIN, ["ignored for an admin"])
    listed = await tokens.list_all()
    assert [row["id"] for row in listed] == [second.split("_")[1], first.split("_")[1]]
    assert [(row["role"], row["facilities"], row["note"], row["revoked_at"]) for row in listed] == [
        ("admin", [], None, None),
        ("publisher", ["aurora"], "night crew", None),
    ]
    assert all("secret_sha256" not in row for row in listed)
