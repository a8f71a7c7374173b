"""TAIGA: frames are generated from the table of their layouts, extracted, and every field is looked at."""

import io
import re
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from extractors.description import Description
from extractors.extract import Extractor, Outcome
from extractors.loading import find_description
from extractors.readers.reader import ReadLimits
from extractors.storages.local_tree import LocalTree
from metadata_db.records import FileRecord
from tests.support.taiga_frames import (
    IACT_BYTES,
    make_grande_frame,
    make_hiscore_frame,
    make_iact_file,
    make_iact_frame,
    pack_seconds,
    pack_time,
)

IACT = "DATA_IACT/2019-20/nov19/021119.01/BSM05/021119.out_013"
HISCORE = "DATA_HISCORE/2019-20/nov19/021119/ST12/frames_001"
GRANDE = "DATA_GRANDE/2019-20/nov19/021119.02/link1"
EVENING_S = 12 * 3600 + 28 * 60 + 38.25


@pytest.fixture(scope="module")
def taiga() -> Description:
    found = find_description("taiga")
    assert found is not None
    return found


def extract(root: Path, path: str, data: bytes, description: Description, *, header_only: bool = False) -> Outcome:
    (root / path).parent.mkdir(parents=True, exist_ok=True)
    (root / path).write_bytes(data)
    extractor = Extractor(
        tree=LocalTree(root), facility="taiga", storage="tunka", description=description, header_only=header_only
    )
    return extractor.extract(path)


def read(root: Path, path: str, data: bytes, description: Description, *, header_only: bool = False) -> FileRecord:
    outcome = extract(root, path, data, description, header_only=header_only)
    assert outcome.failure is None
    assert outcome.record is not None
    return outcome.record


def test_a_telescope_file_fills_all_fields(tmp_path: Path, taiga: Description) -> None:
    data = make_iact_file([EVENING_S, EVENING_S + 0.00001234, EVENING_S + 1000.5], first_event=700)
    record = read(tmp_path, IACT, data, taiga)
    assert record.warnings == []
    assert record.time_begin == datetime(2019, 11, 2, 12, 28, 38, 250000, tzinfo=UTC)
    assert record.time_end == datetime(2019, 11, 2, 12, 45, 18, 750000, tzinfo=UTC)
    assert (record.kind, record.level, record.is_simulation, record.n_events) == ("events", "raw", False, 3)
    assert (record.cluster, record.detector, record.channel) == ("BSM05", "IACT", "iact-raw")
    assert (record.obs_id, record.run) == ("021119.01", 1)
    assert record.attributes == {
        "season": "2019-20",
        "period": "nov19",
        "event_min": 700,
        "event_max": 702,
        "n_impossible_times": 0,
        "n_channels": 32,
        "maroc": 5,
    }


def test_a_station_file_fills_all_fields(tmp_path: Path, taiga: Description) -> None:
    frames = (
        make_hiscore_frame(number, pack_seconds(EVENING_S + number), station=12, lengths=range(number, number + 9))
        for number in range(1, 6)
    )
    record = read(tmp_path, HISCORE, b"".join(frames), taiga)
    assert record.warnings == []
    assert record.time_begin == datetime(2019, 11, 2, 12, 28, 39, 250000, tzinfo=UTC)
    assert record.time_end == datetime(2019, 11, 2, 12, 28, 43, 250000, tzinfo=UTC)
    assert (record.kind, record.level, record.is_simulation, record.n_events) == ("events", "raw", False, 5)
    assert (record.cluster, record.detector, record.channel) == (None, "HiSCORE", "hiscore-raw")
    assert (record.obs_id, record.run) == ("021119", None)
    assert record.attributes == {
        "season": "2019-20",
        "period": "nov19",
        "event_min": 1,
        "event_max": 5,
        "n_impossible_times": 0,
        "n_channels": 9,
        "station": 12,
    }


@pytest.mark.parametrize("link", [1, 2, 3, 4])
def test_a_file_of_each_grande_link_fills_all_fields(link: int, tmp_path: Path, taiga: Description) -> None:
    frames = (
        make_grande_frame(number, pack_seconds(EVENING_S + number), link=link, errors=number == 3)
        for number in range(1, 5)
    )
    record = read(tmp_path, GRANDE, b"".join(frames), taiga)
    assert record.warnings == []
    assert record.time_begin == datetime(2019, 11, 2, 12, 28, 39, 250000, tzinfo=UTC)
    assert record.time_end == datetime(2019, 11, 2, 12, 28, 42, 250000, tzinfo=UTC)
    assert (record.kind, record.level, record.is_simulation, record.n_events) == ("events", "raw", False, 4)
    assert (record.cluster, record.detector, record.channel) == (None, "Grande", "grande-raw")
    assert (record.obs_id, record.run) == ("021119.02", 2)
    assert record.attributes == {
        "season": "2019-20",
        "period": "nov19",
        "event_min": 1,
        "event_max": 4,
        "n_impossible_times": 0,
        "n_channels": 8,
        "link": link,
        "n_error_frames": 1,
        "n_samples": 1024,
    }


def test_generated_frames_have_the_sizes_of_the_public_samples() -> None:
    assert len(make_iact_frame(1, pack_seconds(0))) == IACT_BYTES
    assert 2995 * IACT_BYTES == 467_220
    assert 238 * len(make_grande_frame(1, pack_seconds(0))) == 3_921_288


def test_the_path_decides_between_frames_that_begin_alike(tmp_path: Path, taiga: Description) -> None:
    telescope, link = make_iact_frame(1, pack_seconds(EVENING_S)), make_grande_frame(1, pack_seconds(EVENING_S))
    assert telescope[:2] == link[:2]
    assert read(tmp_path, IACT, telescope, taiga).detector == "IACT"
    assert read(tmp_path, GRANDE, link, taiga).detector == "Grande"
    confused = extract(tmp_path, IACT, link, taiga)
    assert confused.record is not None
    assert confused.record.n_events is None


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("DATA_IACT/2019-20/nov19/021119/BSM00/x", "iact"),
        ("archive/DATA_IACT/2020-21/jan21/150121.12/BSM32/x.y", "iact"),
        ("DATA_IACT/2019-20/nov19/021119.01/BSM33/x", None),
        ("DATA_IACT/2019-20/nov19/BSM05/x", None),
        ("MY_DATA_IACT/2019-20/nov19/021119.01/BSM05/x", None),
        ("DATA_IACT/2019-20/nov19/021119.01/BSM05/logs/x", None),
    ],
)
def test_paths_outside_the_grammar_are_left_alone(path: str, name: str | None, taiga: Description) -> None:
    found = [product.name for product, _ in taiga.iter_candidates(path, b"\xd8\x0b")]
    assert found == ([] if name is None else [name])


def test_every_cluster_that_a_path_can_name_is_declared(taiga: Description) -> None:
    declared = {cluster.name for cluster in taiga.facility.clusters}
    possible = {f"BSM{number:02}" for number in range(100)}
    pattern = taiga.products[0].pattern
    assert {name for name in possible if pattern.search(f"DATA_IACT/2019-20/nov19/021119/{name}/x")} == declared


def test_a_night_goes_on_over_midnight(tmp_path: Path, taiga: Description) -> None:
    data = make_iact_file([23 * 3600 + 59 * 60 + 59.5, 0.25, 3600.0])
    record = read(tmp_path, IACT, data, taiga)
    assert record.time_begin == datetime(2019, 11, 2, 23, 59, 59, 500000, tzinfo=UTC)
    assert record.time_end == datetime(2019, 11, 3, 1, 0, 0, tzinfo=UTC)


def test_an_early_winter_evening_is_on_the_date_of_its_folder(tmp_path: Path, taiga: Description) -> None:
    # 18:30 in the Tunka valley in December is 10:30 UTC: before noon, and yet not the next morning.
    record = read(tmp_path, IACT.replace("021119", "211219"), make_iact_file([10.5 * 3600]), taiga)
    assert record.time_begin == datetime(2019, 12, 21, 10, 30, tzinfo=UTC)


@settings(max_examples=50, deadline=None)
@given(ticks=st.integers(0, 24 * 3600 * 10**8 - 1))
def test_every_time_of_day_is_read_as_it_was_written(ticks: int, taiga: Description) -> None:
    reader, product = taiga.products[0].reader, taiga.products[0]
    assert reader is not None
    frame = make_iact_frame(1, pack_seconds(ticks * 1e-8))
    content = reader.read(io.BytesIO(frame), product.addresses, limits=ReadLimits())
    assert content.values["first(time.seconds_of_day)"].value == pytest.approx(ticks * 1e-8, abs=2e-8)
    assert content.values["sum(time.is_impossible)"].value == 0


@pytest.mark.parametrize(
    "impossible", [pack_time(25, 0, 0), pack_time(31, 63, 63), pack_time(12, 60, 0), pack_time(12, 0, 60)]
)
def test_an_impossible_first_time_is_warned_about_and_passed_over(
    impossible: bytes, tmp_path: Path, taiga: Description
) -> None:
    data = make_iact_frame(1, impossible) + make_iact_file([EVENING_S, EVENING_S + 1])
    record = read(tmp_path, IACT, data, taiga)
    assert record.time_begin == datetime(2019, 11, 2, 12, 28, 38, 250000, tzinfo=UTC)
    assert record.time_end == datetime(2019, 11, 2, 12, 28, 39, 250000, tzinfo=UTC)
    assert record.attributes["n_impossible_times"] == 1
    assert [warning for warning in record.warnings if warning.startswith("time_begin")]


def test_without_any_possible_time_there_is_no_time(tmp_path: Path, taiga: Description) -> None:
    record = read(tmp_path, IACT, make_iact_frame(1, pack_time(25, 0, 0)), taiga)
    assert (record.time_begin, record.time_end, record.n_events) == (None, None, 1)
    assert [warning for warning in record.warnings if warning.startswith("time_begin")]


def test_header_only_reads_the_ends_of_a_telescope_file(tmp_path: Path, taiga: Description) -> None:
    data = make_iact_file([EVENING_S + number for number in range(10)])
    record = read(tmp_path, IACT, data, taiga, header_only=True)
    assert record.n_events == 10
    assert record.time_begin == datetime(2019, 11, 2, 12, 28, 38, 250000, tzinfo=UTC)
    assert record.time_end == datetime(2019, 11, 2, 12, 28, 47, 250000, tzinfo=UTC)
    assert "event_max" not in record.attributes


# ------------------------------------------------------------------------------------------------- damage


@pytest.mark.parametrize(
    ("path", "frame"),
    [
        (IACT, make_iact_frame(1, pack_seconds(EVENING_S))),
        (HISCORE, make_hiscore_frame(1, pack_seconds(EVENING_S), lengths=(1, 0, 2, 0, 0, 0, 0, 0, 3))),
        (GRANDE, make_grande_frame(1, pack_seconds(EVENING_S), n_samples=2)),
    ],
)
def test_a_file_cut_off_at_any_byte_keeps_its_whole_frames(
    path: str, frame: bytes, tmp_path: Path, taiga: Description
) -> None:
    for size in range(2, 2 * len(frame)):
        outcome = extract(tmp_path, path, (frame * 2)[:size], taiga)
        assert outcome.record is not None
        told = [*outcome.record.warnings, outcome.failure or ""]
        if size < len(frame):
            assert outcome.record.n_events is None
            assert any("frame 0 at byte 0 " in text for text in told)
        else:
            assert outcome.record.n_events == 1
            assert any(f"frame 1 at byte {len(frame)} " in text for text in told) == (size != len(frame))


def mend(frame: bytes, at: int, new: bytes) -> bytes:
    return frame[:at] + new + frame[at + len(new) :]


@pytest.mark.parametrize(
    ("path", "frame"),
    [
        (IACT, make_iact_frame(1, pack_seconds(EVENING_S))),
        (HISCORE, make_hiscore_frame(1, pack_seconds(EVENING_S))),
        (GRANDE, make_grande_frame(1, pack_seconds(EVENING_S), n_samples=2)),
    ],
)
def test_a_wrong_end_mark_or_beginning_ends_the_frames_at_its_place(
    path: str, frame: bytes, tmp_path: Path, taiga: Description
) -> None:
    for damaged in (mend(frame, len(frame) - 1, b"\xfe"), mend(frame, 0, b"\x00"), b"garbage" + frame):
        record = read(tmp_path, path, frame + damaged + frame, taiga)
        assert record.n_events == 1
        assert any(re.search(f"frames: frame 1 at byte {len(frame)} is damaged", text) for text in record.warnings)


@pytest.mark.parametrize("size", [0, 3, 4, 131, 133, 0xFFFF])
def test_a_lying_size_is_damage(size: int, tmp_path: Path, taiga: Description) -> None:
    for path, frame in (
        (IACT, make_iact_frame(1, pack_seconds(EVENING_S))),
        (GRANDE, make_grande_frame(1, pack_seconds(EVENING_S), n_samples=2)),
    ):
        record = read(tmp_path, path, frame + mend(frame, 2, size.to_bytes(2, "little")) + frame, taiga)
        assert record.n_events == 1
        assert any("frame 1 at byte" in text for text in record.warnings)


def test_a_lying_number_of_samples_is_damage(tmp_path: Path, taiga: Description) -> None:
    station = make_hiscore_frame(1, pack_seconds(EVENING_S))
    link = make_grande_frame(1, pack_seconds(EVENING_S), n_samples=2)
    for path, frame, at in ((HISCORE, station, 26), (GRANDE, link, 28)):
        record = read(tmp_path, path, frame + mend(frame, at, b"\xff\xff"), taiga)
        assert record.n_events == 1
        assert any("frame 1 at byte" in text for text in record.warnings)
