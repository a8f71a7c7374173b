from dataclasses import replace
from pathlib import Path

import pytest

from aggregator.commands.bundle import Bundle
from aggregator.commands.demo import find_problems, find_storages
from aggregator.commands.failures import Misuse
from aggregator.commands.remote import Answer, Count, FilePage, PageInfo
from aggregator.exports.verification import Verification
from extractors.courier import IngestReport

REPORT = IngestReport(seen=6, extracted=6, added=3, changed=2, unchanged=1)
FOUND = Verification(query_id="0" * 32, files=6, bytes=60, missing=0, problems=())


def problems(*, answered: int = 6, report: IngestReport = REPORT, found: Verification = FOUND) -> str:
    answer = Answer(
        query_id="0" * 32,
        revision=1,
        canonical={},
        cached=False,
        checksum="",
        total_count=Count(value=answered, is_estimate=False),
        total_bytes=60,
        files=FilePage(nodes=[], page_info=PageInfo(has_next_page=False)),
        facets=[],
    )
    return "; ".join(find_problems({"x": report}, answer, Bundle(path=Path("x.zip"), verification=found, missing=())))


def test_all_files_that_were_sent_and_arrived_are_no_problem() -> None:
    assert problems() == ""


@pytest.mark.parametrize(
    ("told", "expected"),
    [
        (problems(answered=5), "6 files were catalogued, the answer has 5"),
        (problems(report=replace(REPORT, rejected=1)), "the catalogue rejected 1 files"),
        (problems(found=replace(FOUND, missing=2, files=4)), "2 files could not be had"),
        (problems(found=replace(FOUND, files=5)), "5 files arrived, expected 6"),
        (problems(found=replace(FOUND, problems=("a.fits: CRC",))), "the archive is not what its manifest says"),
    ],
)
def test_everything_else_is(told: str, expected: str) -> None:
    assert expected in told


def test_folders_become_storages_with_the_description_of_their_name(tmp_path: Path) -> None:
    for name in ("borealis", "unheard-of", ".hidden"):
        (tmp_path / name).mkdir()
    (tmp_path / "a file").touch()
    known, unknown = find_storages(tmp_path)
    assert (known.name, known.facility) == ("borealis", "borealis")
    assert known.description is not None
    assert (unknown.name, unknown.facility, unknown.description) == ("unheard-of", "unheard-of", None)


def test_a_folder_whose_name_no_storage_can_have_is_named(tmp_path: Path) -> None:
    (tmp_path / "my data").mkdir()
    with pytest.raises(Misuse, match="the folder 'my data' cannot be a storage"):
        find_storages(tmp_path)
