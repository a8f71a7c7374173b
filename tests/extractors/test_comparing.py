"""Comparing a storage with the catalogue: exactly the right findings, whatever the names."""

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta
from typing import TypeVar

import pytest
from hypothesis import given
from hypothesis import strategies as st

from extractors.comparing import Finding, Rereading, Same, ToRead, Unseen, Vanished, compare
from extractors.storages.trees import RejectedFile, ScannedFile
from metadata_db.records import KnownFile

MOMENT = datetime(2020, 1, 1, tzinfo=UTC)
NEVER = Rereading()
Entry = TypeVar("Entry", ScannedFile, KnownFile)

# Names that sort in another way as text, as bytes, or as folders: '!' and '-' are before '/', '0' behind it.
part = st.text(st.sampled_from("a!-0.\xe9\uffff\U0001f600"), min_size=1, max_size=3).filter(
    lambda name: name.strip(".")
)
path = st.lists(part, min_size=1, max_size=3).map("/".join)
facts = st.tuples(st.integers(0, 1), st.sampled_from([None, MOMENT]))


def scanned(path: str, size_bytes: int | None = 1, modified_at: datetime | None = MOMENT) -> ScannedFile:
    return ScannedFile(path=path, size_bytes=size_bytes, modified_at=modified_at)


def known(path: str, **values: object) -> KnownFile:
    return KnownFile(**{"path": path, "size_bytes": 1, "facility": "f", "modified_at": MOMENT, **values})


def in_order(found: Iterable[Entry]) -> list[Entry]:
    return sorted(found, key=lambda item: item.path.encode())


def findings(walked: Iterable[ScannedFile | RejectedFile], there: Sequence[KnownFile]) -> list[Finding]:
    return list(compare(walked, there, rereading=NEVER))


@given(st.dictionaries(path, facts), st.dictionaries(path, facts))
def test_each_path_of_either_side_gets_exactly_its_finding(
    storage: dict[str, tuple[int, datetime | None]], catalogue: dict[str, tuple[int, datetime | None]]
) -> None:
    walked = in_order(scanned(path, size, time) for path, (size, time) in storage.items())
    there = in_order(known(path, size_bytes=size, modified_at=time) for path, (size, time) in catalogue.items())
    found = findings(walked, there)
    expected: dict[str, object] = {}
    for name in storage.keys() | catalogue.keys():
        if name not in storage:
            expected[name] = Vanished
        elif name not in catalogue:
            expected[name] = "new"
        else:
            (size, time), (known_size, known_time) = storage[name], catalogue[name]
            is_same = size == known_size and time in (None, known_time)
            expected[name] = Same if is_same else "changed"
    told = {
        finding.known.path if isinstance(finding, Vanished) else finding.path: finding.reason
        if isinstance(finding, ToRead)
        else type(finding)
        for finding in found
        if not isinstance(finding, Unseen | RejectedFile)
    }
    assert told == expected
    assert len(found) == len(expected)


@given(st.sets(path), st.sets(path), st.data())
def test_what_cannot_be_looked_at_is_never_said_to_be_gone(
    storage: set[str], catalogue: set[str], data: st.DataObject
) -> None:
    folders = sorted({name.rsplit("/", 1)[0] for name in storage | catalogue if "/" in name})
    closed = set(data.draw(st.lists(st.sampled_from(folders), max_size=2))) if folders else set()
    odd = set(data.draw(st.lists(st.sampled_from(sorted(storage)), max_size=2))) if storage else set()

    def is_hidden(name: str) -> bool:
        return any(name.startswith(f"{folder}/") for folder in closed)

    open_ones = {name for name in storage if not is_hidden(name)} - closed
    odd &= open_ones
    seen: list[tuple[bytes, ScannedFile | RejectedFile]] = [
        (name.encode(), RejectedFile(path=name, reason="odd") if name in odd else scanned(name)) for name in open_ones
    ]
    told_folders = {folder for folder in closed if not is_hidden(folder)}
    seen += [(f"{name}/".encode(), RejectedFile(path=name, reason="closed", is_folder=True)) for name in told_folders]
    found = findings([item for _, item in sorted(seen, key=lambda pair: pair[0])], in_order(map(known, catalogue)))
    vanished = {finding.known.path for finding in found if isinstance(finding, Vanished)}
    unseen = {finding.known.path for finding in found if isinstance(finding, Unseen)}
    assert unseen == {name for name in catalogue if is_hidden(name) or name in odd}
    assert vanished == catalogue - unseen - open_ones
    assert {finding.path for finding in found if isinstance(finding, RejectedFile)} == odd | told_folders


def test_a_file_that_became_a_folder_vanished_and_what_is_in_it_is_new() -> None:
    assert findings([scanned("a/b")], [known("a")]) == [Vanished(known=known("a")), ToRead(path="a/b", reason="new")]


@pytest.mark.parametrize(
    ("size", "time", "expected"),
    [
        (None, None, "same"),
        (1, None, "same"),
        (None, MOMENT, "same"),
        (2, None, "changed"),
        (None, MOMENT + timedelta(microseconds=1), "changed"),
    ],
)
def test_what_a_storage_does_not_say_is_no_difference(size: int | None, time: datetime | None, expected: str) -> None:
    (found,) = findings([scanned("a", size, time)], [known("a")])
    assert (found.reason if isinstance(found, ToRead) else "same") == expected


@pytest.mark.parametrize(
    ("description", "checked_at", "reason"),
    [
        ("old", MOMENT, "outdated"),
        (None, MOMENT, "outdated"),
        ("mine", MOMENT, None),
        ("mine", MOMENT - timedelta(hours=1), "due"),
        ("mine", None, "due"),
    ],
)
def test_unchanged_files_are_read_again_for_another_description_or_a_check_that_is_due(
    description: str | None, checked_at: datetime | None, reason: str | None
) -> None:
    rereading = Rereading(label="mine", checked_before=MOMENT)
    there = [known("a", description=description, checked_at=checked_at)]
    (found,) = compare([scanned("a")], there, rereading=rereading)
    assert (found.reason if isinstance(found, ToRead) else None) == reason
    assert list(compare([scanned("a")], there, rereading=NEVER)) == [Same(path="a")]
