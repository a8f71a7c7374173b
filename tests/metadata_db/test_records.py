"""A record that could mislead is refused when it is made; everything else passes unchanged."""

import subprocess
import sys
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from metadata_db.records import (
    MAX_PATH_CHARACTERS,
    Attribute,
    Channel,
    Cluster,
    DeadLetter,
    Detector,
    Facility,
    Failure,
    FileRecord,
    KnownFile,
    PathError,
    Relation,
    Removal,
    Replica,
    Storage,
    check_path,
)
from tests.support.records import AURORA, file_record

NOON = datetime(2019, 11, 2, 12, tzinfo=UTC)

parts = st.text(st.characters(exclude_categories=["Cs", "Cc"], exclude_characters="/"), min_size=1, max_size=20).filter(
    lambda part: part not in (".", "..")
)


@given(st.lists(parts, min_size=1, max_size=6))
def test_a_plain_relative_path_is_left_as_it_is(names: list[str]) -> None:
    path = "/".join(names)
    assert check_path(path) == path
    assert file_record(path).path == path


@given(
    st.lists(parts, max_size=3),
    st.sampled_from(["", ".", "..", "a\0b", "a\nb", "\x7f", "a" * 256, "ü" * 128]),
    st.lists(parts, max_size=3),
)
def test_one_bad_part_spoils_a_path_wherever_it_stands(before: list[str], bad: str, after: list[str]) -> None:
    with pytest.raises(PathError):
        check_path("/".join([*before, bad, *after]))


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        ("", "empty"),
        ("/etc/passwd", "absolute"),
        ("/", "absolute"),
        ("a/../b", "'..'"),
        ("..", "'..'"),
        ("./a", "'.'"),
        ("a//b", "''"),
        ("a/", "''"),
        ("a\0", "control character"),
        ("a\r\nb", "control character"),
        ("a/" * 600 + "a", "1201 characters, at most 1024"),
        ("x" * 256, "255 bytes"),
        ("ü" * 128, "255 bytes"),
    ],
)
def test_a_bad_path_is_refused_with_the_reason(path: str, reason: str) -> None:
    with pytest.raises(PathError, match=reason):
        check_path(path)
    for make in (file_record, lambda path: Replica(storage="s", path=path)):
        with pytest.raises(ValueError, match=reason):
            make(path)


def test_the_longest_path_and_names_that_only_look_dangerous_are_kept() -> None:
    longest = "a/" * (MAX_PATH_CHARACTERS // 2 - 1) + "bb"
    assert len(longest) == MAX_PATH_CHARACTERS
    for path in (longest, "x" * 255, "ü" * 127, "...", "..a/b..", "~/a", "a b/$HOME/*", "-rf", "a\\b"):
        assert check_path(path) == path


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ({"time_end": NOON}, "time_end is given without an earlier time_begin"),
        ({"time_begin": NOON, "time_end": NOON - timedelta(microseconds=1)}, "without an earlier"),
        ({"ra_deg": 1.0}, "only make sense together"),
        ({"dec_deg": 1.0}, "only make sense together"),
        ({"energy_min_ev": 2.0, "energy_max_ev": 1.0}, "below energy_min_ev"),
        ({"replicas": [Replica(storage="s", path="a")]}, "replicas need a sha256"),
    ],
)
def test_values_that_contradict_each_other_are_refused(values: dict[str, Any], reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        file_record(**values)


def test_absent_is_not_zero() -> None:
    record = file_record(
        size_bytes=0, n_events=0, run=0, ra_deg=0.0, dec_deg=0.0, energy_min_ev=0.0, is_simulation=False
    )
    unknown = file_record()
    names = ("n_events", "run", "ra_deg", "dec_deg", "energy_min_ev", "is_simulation")
    assert [getattr(record, name) for name in names] == [0, 0, 0, 0, 0, False]
    assert [getattr(unknown, name) for name in names] == [None] * len(names)
    decoded = msgspec.json.decode(msgspec.json.encode(record), type=FileRecord)
    assert [getattr(decoded, name) for name in names] == [0, 0, 0, 0, 0, False]


@pytest.mark.parametrize(
    ("values", "field"),
    [
        ({"facility": "with space"}, "facility"),
        ({"facility": "-dash"}, "facility"),
        ({"facility": "a" * 65}, "facility"),
        ({"facility": "a\n"}, "facility"),
        ({"facility": "ü"}, "facility"),
        ({"storage": "../a"}, "storage"),
        ({"size_bytes": -1}, "size_bytes"),
        ({"size_bytes": 2**63}, "size_bytes"),
        ({"sha256": "AB" * 32}, "sha256"),
        ({"sha256": "ab" * 31}, "sha256"),
        ({"sha256": "ab" * 32 + "\n"}, "sha256"),
        ({"md5": "0"}, "md5"),
        ({"time_begin": "2019-11-02T12:00:00"}, "time_begin"),
        ({"time_begin": "2019-11-02"}, "time_begin"),
        ({"ra_deg": 360, "dec_deg": 0}, "ra_deg"),
        ({"ra_deg": -0.1, "dec_deg": 0}, "ra_deg"),
        ({"ra_deg": 0, "dec_deg": 90.1}, "dec_deg"),
        ({"energy_min_ev": -1}, "energy_min_ev"),
        ({"energy_max_ev": 1e31}, "energy_max_ev"),
        ({"run": 1.5}, "run"),
        ({"run": 2**63}, "run"),
        ({"run": "7"}, "run"),
        ({"is_simulation": 1}, "is_simulation"),
        ({"object": ""}, "object"),
        ({"object": "x" * 257}, "object"),
        ({"attributes": {"a": {"b": 1}}}, "attributes[...]"),
        ({"attributes": {"a": None}}, "attributes[...]"),
        ({"attributes": {"a": [[1]]}}, "attributes[...][0]"),
        ({"warnings": ["x"] * 101}, "warnings"),
        ({"relations": [{"kind": "index_of", "path": "a"}] * 17}, "relations"),
        ({"relations": [{"kind": "friend_of", "path": "a"}]}, "relations[0].kind"),
        ({"relations": [{"kind": "index_of", "path": ""}]}, "relations[0].path"),
        ({"relations": [{"kind": "index_of", "path": "/etc/passwd"}]}, "relations[0]"),
        ({"relations": [{"kind": "index_of", "path": "a\nb"}]}, "relations[0]"),
        ({"relations": [{"kind": "index_of"}]}, "relations[0]"),
        ({"relations": [{"kind": "index_of", "storage": "disk"}]}, "relations[0]"),
        ({"relations": [{"kind": "index_of", "obs_id": ""}]}, "relations[0].obs_id"),
        ({"relations": [{"kind": "index_of", "path": "a", "storage": "a b"}]}, "relations[0].storage"),
    ],
)
def test_a_value_out_of_bounds_is_refused_by_name(values: dict[str, Any], field: str) -> None:
    plain = {"facility": "aurora", "storage": "disk", "path": "a", "size_bytes": 1} | values
    with pytest.raises(msgspec.ValidationError) as caught:
        msgspec.json.decode(msgspec.json.encode(plain), type=FileRecord)
    assert f"`$.{field}`" in str(caught.value)


@pytest.mark.parametrize(
    "record",
    [
        AURORA,
        file_record(attributes={"tags": [1, "a", True, 2.5]}, time_begin=NOON),
        file_record(relations=[Relation(kind="irf_for", obs_id="7"), Relation(kind="index_of", path="**/*.fits")]),
        Removal(facility="aurora", storage="disk", path="a", size_bytes=0, modified_at=NOON),
        Failure(facility="aurora", storage="disk", path="not / good\n", reason="why"),
        KnownFile(path="a", size_bytes=0, facility="aurora", sha256="ab" * 32, checked_at=NOON),
        DeadLetter(id=1, stage="ingest", reason="why", tries=1, first_at=NOON, last_at=NOON, line="{"),
    ],
)
def test_a_record_comes_back_from_json_as_it_was(record: msgspec.Struct) -> None:
    assert msgspec.json.decode(msgspec.json.encode(record), type=type(record)) == record


@pytest.mark.parametrize(
    "kind",
    [FileRecord, Facility, Cluster, Detector, Channel, Attribute, Storage, Replica, Relation, Removal, Failure],
)
def test_a_field_that_is_not_known_is_refused(kind: type[Any]) -> None:
    with pytest.raises(msgspec.ValidationError, match="unknown field `colour`"):
        msgspec.json.decode(b'{"colour": 1}', type=kind)


@pytest.mark.parametrize(
    "told",
    [
        KnownFile(path="a", size_bytes=1, facility="aurora"),
        DeadLetter(id=1, stage="ingest", reason="why", tries=1, first_at=NOON, last_at=NOON),
    ],
    ids=lambda told: type(told).__name__,
)
def test_what_a_newer_catalogue_tells_beside_is_passed_over(told: msgspec.Struct) -> None:
    line = msgspec.json.encode(told)[:-1] + b', "colour": 1}'
    assert msgspec.json.decode(line, type=type(told)) == told


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ({"path": "../a"}, "'..'"),
        ({"size_bytes": -1}, ">= 0"),
        ({"modified_at": NOON}, "without size_bytes"),
        ({"size_bytes": 1, "modified_at": "0001-01-01T00:00:00Z"}, "years 2 to 9998"),
    ],
)
def test_a_removal_that_could_mean_another_file_is_refused(values: dict[str, Any], reason: str) -> None:
    plain = {"facility": "aurora", "storage": "disk", "path": "a"} | values
    with pytest.raises(msgspec.ValidationError, match=reason):
        msgspec.json.decode(msgspec.json.encode(plain), type=Removal)


def test_a_record_cannot_be_altered() -> None:
    with pytest.raises(AttributeError, match="immutable"):
        file_record().size_bytes = 5  # type: ignore[misc]


def test_records_need_nothing_but_msgspec() -> None:
    """An extractor at an experiment loads this module; it must not bring the catalogue with it."""
    loaded = subprocess.run(
        [sys.executable, "-c", "import sys, metadata_db.records; print(*sys.modules)"],
        check=True,
        capture_output=True,
        text=True,
    ).stdout.split()
    ours = {name for name in loaded if name.partition(".")[0] == "metadata_db"}
    others = {name.partition(".")[0] for name in loaded} & {"sqlalchemy", "psycopg", "starlette", "orjson", "alembic"}
    assert (ours, others) == ({"metadata_db", "metadata_db.records"}, set())
