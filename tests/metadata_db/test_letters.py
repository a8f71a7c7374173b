"""Whatever failed is kept with its reason, once, until it succeeds, is removed or is dismissed."""

import asyncio
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from metadata_db.errors import BadInputError, NotFoundError
from metadata_db.ingest import Ingest
from metadata_db.letters import MAX_LETTERS, MAX_LINE_BYTES, FailureReport, make_letters
from metadata_db.records import Attribute, DeadLetter, Failure, FileRecord, Removal
from metadata_db.rows import Rejection
from metadata_db.vocabulary import Names, Vocabulary, VocabularyStore
from tests.support.records import AURORA, chunked, file_record, load, register

pytestmark = pytest.mark.anyio

BAD = file_record("bad", attributes={"colour": "red"})
"""A record with an attribute that aurora does not declare yet."""


async def send(ingest: Ingest, *lines: bytes | FileRecord, allowed: list[str] | None = None) -> None:
    """Send lines of which some will be rejected."""
    body = b"\n".join(line if isinstance(line, bytes) else msgspec.json.encode(line) for line in lines)
    await ingest.load(chunked(body), allowed=allowed)


async def fail(ingest: Ingest, *failures: Failure | bytes, allowed: list[str] | None = None) -> FailureReport:
    body = b"\n".join(item if isinstance(item, bytes) else msgspec.json.encode(item) for item in failures)
    return await ingest.letters.load(chunked(body), allowed=allowed)


async def remove(ingest: Ingest, *removals: Removal) -> None:
    await ingest.remove(chunked(b"\n".join(map(msgspec.json.encode, removals))), allowed=None)


async def letters(ingest: Ingest, *facilities: str) -> list[DeadLetter]:
    """Return the letters of some facilities, or all."""
    return await ingest.letters.page(facilities=facilities or None)


def failure(path: str = "a", reason: str = "content: ends early", **values: Any) -> Failure:
    usual: dict[str, Any] = {"facility": "aurora", "storage": "aurora-disk", "path": path, "reason": reason}
    return Failure(**usual | values)


# --- records that were rejected ---------------------------------------------------------------------------------------


async def test_a_rejected_line_is_kept_as_it_was_sent_and_gone_when_it_is_accepted(
    ingest: Ingest, vocabulary: VocabularyStore
) -> None:
    await register(vocabulary)
    await send(ingest, BAD, file_record("good"))
    (letter,) = await letters(ingest)
    assert (letter.stage, letter.facility, letter.storage, letter.path) == ("ingest", "aurora", "aurora-disk", "bad")
    assert (letter.field, letter.reason, letter.tries) == ("attributes.colour", "is not declared by aurora", 1)
    assert letter.line is not None
    assert msgspec.json.decode(letter.line, type=FileRecord) == BAD
    mended = msgspec.structs.replace(AURORA, attributes=[Attribute(name="colour", type="text")])
    await vocabulary.put_facility(mended)
    await send(ingest, letter.line.encode())
    assert await letters(ingest) == []


async def test_failing_again_is_one_more_try_of_the_same_letter(ingest: Ingest, vocabulary: VocabularyStore) -> None:
    await register(vocabulary)
    await send(ingest, BAD)
    (first,) = await letters(ingest)
    await send(ingest, msgspec.structs.replace(BAD, attributes={"zenith_deg": "high"}), BAD)
    (second,) = await letters(ingest)
    assert (second.id, second.tries, second.first_at) == (first.id, 3, first.first_at)
    assert second.last_at > first.last_at
    assert second.line == first.line
    await send(ingest, msgspec.structs.replace(BAD, attributes={"zenith_deg": "high"}))
    (third,) = await letters(ingest)
    assert (third.field, third.line is not None and "high" in third.line) == ("attributes.zenith_deg", True)


UNREADABLE = [b"nonsense", b'{"path": "a"', b"[1, 2]", b"\xff\xfe", b'{"facility": 7, "storage": [], "path": null}']


async def test_lines_that_name_no_path_are_known_by_what_they_say(ingest: Ingest, vocabulary: VocabularyStore) -> None:
    await register(vocabulary)
    for _ in range(2):
        await send(ingest, *UNREADABLE, allowed=["aurora"])
    found = await letters(ingest, "aurora")
    assert [letter.tries for letter in found] == [2] * len(UNREADABLE)
    assert {(letter.storage, letter.path) for letter in found} == {(None, None)}
    assert {letter.line for letter in found} == {line.decode(errors="replace") for line in UNREADABLE}


async def test_a_long_line_is_kept_without_the_line(ingest: Ingest, vocabulary: VocabularyStore) -> None:
    await register(vocabulary)
    long, short = ({"colour": "x" * length} for length in (MAX_LINE_BYTES - 1, MAX_LINE_BYTES - 200))
    await send(ingest, file_record("long", attributes=long), file_record("short", attributes=short))
    kept = {letter.path: letter.line is not None for letter in await letters(ingest)}
    assert kept == {"long": False, "short": True}


async def test_a_letter_is_shown_to_whom_the_line_belongs_or_to_its_sender(
    ingest: Ingest, vocabulary: VocabularyStore
) -> None:
    await register(vocabulary)
    foreign = file_record("x", facility="borealis", storage="borealis-disk")
    await send(ingest, foreign, b"nonsense of aurora", allowed=["aurora"])
    assert {letter.path for letter in await letters(ingest, "aurora")} == {"x", None}
    assert await letters(ingest, "borealis") == []
    await send(ingest, b"nonsense of both", allowed=["aurora", "borealis"])
    await send(ingest, b"nonsense of an admin")
    assert len(await letters(ingest, "aurora", "borealis")) == 2
    assert [letter.facility for letter in await letters(ingest)] == ["aurora", "aurora", None, None]


async def test_a_letter_of_nobody_is_settled_by_the_file_that_it_names(
    ingest: Ingest, vocabulary: VocabularyStore
) -> None:
    await register(vocabulary)
    await send(ingest, b'{"storage":"aurora-disk","path":"a","size_bytes":1}')
    (letter,) = await letters(ingest)
    assert (letter.facility, letter.path, letter.field) == (None, "a", "facility")
    await load(ingest, file_record("b"))
    assert len(await letters(ingest)) == 1
    await load(ingest, file_record("a"))
    assert await letters(ingest) == []


async def test_a_path_of_another_facility_is_a_letter_of_the_one_that_sent_it(
    ingest: Ingest, vocabulary: VocabularyStore
) -> None:
    await register(vocabulary)
    await load(ingest, file_record("a", storage="shared-disk"))
    await send(ingest, file_record("a", facility="borealis", storage="shared-disk"))
    (letter,) = await letters(ingest)
    assert (letter.facility, letter.path, letter.reason) == ("borealis", "a", "is catalogued for aurora already")
    await load(ingest, file_record("a", storage="shared-disk", size_bytes=2))
    assert len(await letters(ingest, "borealis")) == 1
    await remove(ingest, Removal(facility="aurora", storage="shared-disk", path="a"))
    await load(ingest, file_record("a", facility="borealis", storage="shared-disk"))
    assert await letters(ingest) == []


async def test_rejections_of_batches_side_by_side_are_all_kept(ingest: Ingest, vocabulary: VocabularyStore) -> None:
    await register(vocabulary)
    bad = [file_record(f"bad {number}", attributes={"colour": "red"}) for number in range(200)]
    await asyncio.gather(*(send(ingest, *order) for order in (bad, bad[::-1], bad, bad[::-1])))
    assert [letter.tries for letter in await letters(ingest)] == [4] * 200


# --- files that could not be read -------------------------------------------------------------------------------------


async def test_a_failure_stays_until_the_file_is_catalogued_with_its_content(
    ingest: Ingest, vocabulary: VocabularyStore
) -> None:
    await register(vocabulary)
    report = await fail(ingest, failure("a"), failure("b"))
    assert (report.received, report.kept, report.rejected) == (2, 2, 0)
    await load(ingest, file_record("a"), file_record("b"))
    assert [letter.path for letter in await letters(ingest)] == ["a", "b"]
    await load(ingest, file_record("a", description="aurora@1"))
    (left,) = await letters(ingest)
    assert (left.stage, left.path, left.reason, left.line) == ("extraction", "b", "content: ends early", None)


async def test_an_equal_record_settles_as_well_as_a_new_one(ingest: Ingest, vocabulary: VocabularyStore) -> None:
    await register(vocabulary)
    record = file_record("a", description="aurora@1")
    await load(ingest, record)
    await fail(ingest, failure("a"))
    assert (await load(ingest, record)).unchanged == 1
    assert await letters(ingest) == []


async def test_the_letters_of_other_files_stay(ingest: Ingest, vocabulary: VocabularyStore) -> None:
    await register(vocabulary)
    others = [
        failure("a/b"),
        failure("a", facility="borealis", storage="borealis-disk"),
        failure("a", storage="shared-disk"),
    ]
    await fail(ingest, failure("a"), *others)
    await load(ingest, file_record("a", description="aurora@1"))
    assert [(one.facility, one.storage, one.path) for one in await letters(ingest)] == [
        (one.facility, one.storage, one.path) for one in others
    ]


async def test_a_removed_file_takes_its_letters_along_but_one_that_stays_keeps_them(
    ingest: Ingest, vocabulary: VocabularyStore
) -> None:
    await register(vocabulary)
    await load(ingest, file_record("gone"), file_record("back"))
    await fail(ingest, *(failure(path) for path in ("gone", "back", "never catalogued")))
    gone = Removal(facility="aurora", storage="aurora-disk", path="gone")
    back = msgspec.structs.replace(gone, path="back", size_bytes=1)
    await remove(ingest, gone, back, msgspec.structs.replace(gone, path="never catalogued"))
    assert [letter.path for letter in await letters(ingest)] == ["back"]


async def test_a_failure_is_refused_by_line_field_and_reason_and_the_others_kept(
    ingest: Ingest, vocabulary: VocabularyStore
) -> None:
    await register(vocabulary)
    lines: list[tuple[Failure | bytes, str, str]] = [
        (b"nonsense", "", "not a JSON object"),
        (b'{"facility":"aurora","storage":"aurora-disk","path":"a"}', "reason", "missing required field"),
        (failure("p" * 5000), "path", "length <= 4096"),
        (failure(facility="nowhere"), "facility", "not registered"),
        (failure(facility="borealis", storage="borealis-disk"), "facility", "may not write for borealis"),
        (failure(storage="nowhere"), "storage", "not registered"),
    ]
    report = await fail(ingest, *(line for line, _, _ in lines), failure("good"), allowed=["aurora"])
    assert (report.received, report.kept, report.rejected) == (len(lines) + 1, 1, len(lines))
    for rejection, (_, field, reason) in zip(report.rejections, lines, strict=True):
        assert (rejection.field, reason in rejection.reason) == (field, True), rejection
    assert [letter.path for letter in await letters(ingest)] == ["good"]


# --- letters are listed and dismissed ---------------------------------------------------------------------------------


async def test_letters_are_told_page_by_page_in_the_order_of_their_numbers(
    ingest: Ingest, vocabulary: VocabularyStore
) -> None:
    await register(vocabulary)
    await fail(ingest, *(failure(f"{at}", storage=("aurora-disk", "shared-disk")[at % 2]) for at in range(7)))
    found: list[DeadLetter] = []
    while page := await ingest.letters.page(facilities=["aurora"], after=found[-1].id if found else 0, limit=3):
        assert len(page) <= 3
        found += page
    assert sorted(letter.path or "" for letter in found) == [*"0123456"]
    assert [letter.id for letter in found] == sorted(letter.id for letter in found)
    shared = await ingest.letters.page(facilities=None, storage="shared-disk")
    assert {letter.path for letter in shared} == {*"135"}
    for limit in (0, MAX_LETTERS + 1):
        with pytest.raises(BadInputError, match="limit"):
            await ingest.letters.page(facilities=None, limit=limit)
    with pytest.raises(BadInputError, match="storage"):
        await ingest.letters.page(facilities=None, storage="a\0b")


async def test_a_letter_is_dismissed_once_and_by_its_own_facility(ingest: Ingest, vocabulary: VocabularyStore) -> None:
    await register(vocabulary)
    await fail(ingest, failure("a"))
    await send(ingest, b"nonsense")
    mine, nobodys = await letters(ingest)
    for number in (mine.id, nobodys.id, 10**17):
        with pytest.raises(NotFoundError, match=f"no failure '{number}'"):
            await ingest.letters.dismiss(number, facilities=["borealis"])
    await ingest.letters.dismiss(mine.id, facilities=["aurora"])
    await ingest.letters.dismiss(nobodys.id, facilities=None)
    assert await letters(ingest) == []


# --- what a letter holds can be kept, whatever the line was ----------------------------------------------------------


KNOWN = Vocabulary(
    facility=Names({1: "aurora"}),
    **{kind: Names({}) for kind in ("cluster", "detector", "channel", "storage")},
    facilities=[AURORA],
    authorities=[],
    storages={},
    revisions={},
    longest={},
)

anything = st.one_of(st.text(max_size=50), st.integers(), st.none(), st.lists(st.integers(), max_size=2))


@given(
    line=st.binary(max_size=200)
    | st.dictionaries(
        st.sampled_from(["facility", "storage", "path"]), anything | st.sampled_from(["aurora", "a\0b\n"])
    ).map(msgspec.json.encode)
)
def test_every_line_gives_a_letter_of_printable_texts_and_always_the_same(line: bytes) -> None:
    rejection = Rejection(line=1, field="a\0", reason="b\nc")
    (letter,) = make_letters([(1, line)], [rejection], KNOWN, None)
    for name in ("storage", "path", "field", "reason"):
        text = letter[name]
        assert text is None or not any(character < " " or character == "\x7f" for character in text), name
    assert "\0" not in letter["line"]
    assert make_letters([(1, line)], [rejection], KNOWN, None) == [letter]
    (other,) = make_letters([(1, line + b" and more")], [rejection], KNOWN, None)
    assert other["key"] != letter["key"]
