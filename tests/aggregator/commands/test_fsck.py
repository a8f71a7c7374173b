"""`catchment fsck`, as operators run it."""

import pytest

from tests.aggregator.commands.conftest import Catchment
from tests.aggregator.commands.test_bulk import files  # noqa: F401  # a fixture
from tests.conftest import run_sql


@pytest.mark.usefixtures("files")
def test_damage_is_told_mended_and_gone(catchment: Catchment, database_url: str) -> None:
    clean = catchment("fsck").stdout
    assert {line.split()[0] for line in clean.splitlines()} == {"ok"}
    assert "ok       stratum_day:  sums of each day and stratum against the files" in clean
    run_sql(database_url, "insert into stratum_day select 1, day, 5, 1, 1, 0, 0 from generate_series(1, 8) as day")
    said = catchment("fsck", exit_code=1).stdout
    assert "DAMAGED  stratum_day:  sums of each day and stratum against the files: 8 findings\n" in said
    assert "         stratum_day 1 1 5: says 1 files, 1 bytes; counted 0 files, 0 bytes\n" in said
    assert "... and 3 more\n" in said
    assert "DAMAGED" not in catchment("fsck", "--facility", "borealis").stdout
    said = catchment("fsck", "--repair").stdout
    assert "repair   roll-ups: counted anew" in said
    assert "DAMAGED" not in said.partition("once more:")[2]
    sampled = catchment("fsck", "--sample").stdout
    assert sampled.replace(", in one file of 256", "") == clean
    assert sampled.count(", in one file of 256") == 3


@pytest.mark.usefixtures("files")
def test_an_unknown_facility_is_told_in_a_line(catchment: Catchment) -> None:
    assert "no facility 'hess'" in catchment("fsck", "--facility", "hess", exit_code=1).stderr


@pytest.mark.usefixtures("files")
def test_a_database_of_another_revision_is_left_alone(catchment: Catchment, database_url: str) -> None:
    run_sql(database_url, "update alembic_version set version_num = '0003'")
    assert "is at revision 0003, this program needs" in catchment("fsck", "--repair", exit_code=1).stderr
