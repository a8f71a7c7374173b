"""Whatever is wrong in a catalogue is found, and mended where it can be; what is right makes no findings."""

import asyncio
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from metadata_db.checking import Checker, Mend, Outcome
from metadata_db.database import connected
from metadata_db.errors import NotFoundError
from metadata_db.ingest import Ingest
from metadata_db.records import FileRecord, Removal
from metadata_db.settings import CatalogueSettings
from metadata_db.vocabulary import VocabularyStore
from tests.conftest import run_sql
from tests.support.records import chunked, file_record, load, ndjson, register

pytestmark = pytest.mark.anyio

BEGIN = datetime(2019, 10, 30, 20, tzinfo=UTC)


def some_records(*, size_bytes: int = 1000) -> Iterator[FileRecord]:
    for number in range(40):
        values: dict[str, Any] = {"level": f"DL{number % 3}", "detector": "iact-north", "size_bytes": size_bytes}
        if number % 4:
            begin = BEGIN + number * timedelta(hours=1)
            values |= {"time_begin": begin, "time_end": begin + timedelta(minutes=number)}
        if number % 3:
            values |= {"ra_deg": number * 7.0, "dec_deg": number - 20.0}
        yield file_record(f"run_{number}", **values)
    yield file_record("other", facility="borealis", storage="borealis-disk")


@pytest.fixture
async def settings(database_url: str, ingest: Ingest, vocabulary: VocabularyStore) -> CatalogueSettings:
    """A catalogue with living, changed and removed files of two facilities."""
    await register(vocabulary)
    await load(ingest, *some_records())
    await load(ingest, *list(some_records(size_bytes=7))[:10])
    removal = Removal(facility="aurora", storage="aurora-disk", path="run_20")
    await ingest.remove(chunked(ndjson([removal])), allowed=None)  # type: ignore[list-item]
    return CatalogueSettings(database_url=database_url)


def wrong(settings: CatalogueSettings, **options: Any) -> list[Outcome]:
    return [item for item in Checker(settings, **options).check() if item.count and not item.is_note]


def rows(settings: CatalogueSettings, statement: str) -> list[tuple[Any, ...]]:
    with connected(settings) as driver:
        return driver.execute(statement).fetchall()  # type: ignore[arg-type]


async def test_a_sound_catalogue_has_no_findings(settings: CatalogueSettings) -> None:
    for options in ({}, {"is_sampled": True}, {"facility": "aurora"}, {"facility": "borealis"}):
        assert wrong(settings, **options) == []


async def test_an_empty_catalogue_has_no_findings(database_url: str) -> None:
    assert wrong(CatalogueSettings(database_url=database_url)) == []


MENDABLE = {
    "stratum says more files": ("update stratum set files = files + 1 where id = 1", {"stratum"}, "says 1", 1),
    "stratum has another checksum": (
        "update stratum set fingerprint_low = 1 where id = 1",
        {"stratum"},
        "bytes, another checksum",
        1,
    ),
    "stratum counts files that are not": (
        "update stratum set bytes = 5 where id = (select min(id) from stratum where files > 0 and facility_id = 1)",
        {"stratum"},
        " files, 5 bytes; counted ",
        1,
    ),
    "a day is missing": ("delete from stratum_day where day = 18200", {"stratum_day"}, "18200", None),
    "a day is too much": (
        "insert into stratum_day values (1, 77, 1, 1, 1, 0, 0)",
        {"stratum_day"},
        "stratum_day 1 77",
        1,
    ),
    "a month is wrong": (
        "update facet_month set bytes = bytes - 1 where field = 'level' and month = -1",
        {"facet_month"},
        "facet_month level -1 1 DL",
        3,
    ),
    "a cell is wrong": ("update sky_day set files = 9 where day > 0", {"sky_day"}, "says 9 files", None),
    "time_over is wrong": (
        "update file set time_over = time_begin + interval '3 hours' where path = 'run_5'",
        {"time_over", "longest"},
        "file aurora-disk/run_5: says 2019-10-31 04:00:00+00; it is ",
        1,
    ),
    "time_over of an ended version is wrong": (
        "update file_history set time_over = time_begin + interval '3 hours' where path = 'run_5'",
        {"time_over"},
        "file aurora-disk/run_5, until revision 2: says ",
        1,
    ),
    "the stratum is another": (
        "update file set stratum_id = (select min(id) from stratum where level = 'DL1') where path = 'run_3'",
        {"stratum_id", "stratum", "stratum_day", "facet_month"},
        "file aurora-disk/run_3: stratum ",
        1,
    ),
    "the stratum is none": (
        "update file set stratum_id = 999 where path = 'run_30'",
        {"stratum_id", "stratum", "stratum_day", "facet_month", "orphans"},
        "file aurora-disk/run_30: stratum 999",
        1,
    ),
    "values have no stratum yet": (
        "update file_history set level = 'new' where path = 'run_1'",
        {"stratum_id"},
        "run_1, until revision 2: stratum ",
        1,
    ),
    "the cell is of another place": (
        "update file set hpx = 5 where path = 'run_5'",
        {"hpx", "sky_day"},
        "file aurora-disk/run_5: says cell 5; its position is in ",
        1,
    ),
    "the cell is missing": (
        "update file_history set hpx = null where path = 'run_5'",
        {"hpx"},
        "file_history aurora-disk/run_5: says cell None",
        1,
    ),
    "the cell is of no position": (
        "update file set hpx = 0 where path = 'run_3'",
        {"hpx", "sky_day"},
        "says cell 0; its position is in None",
        1,
    ),
    "longest is too short": (
        "update facility set longest = '1 minute' where name = 'aurora'",
        {"longest"},
        "facility aurora: says 00:01:00; there is one of 00:39:00",
        1,
    ),
    "the revision is behind": (
        "update facility set revision = 1 where name = 'aurora'",
        {"revision"},
        "facility aurora: is at revision 1 by change 4, files went in 3",
        3,
    ),
    "the last change is another": (
        "update facility set change_id = 1 where id = 1",
        {"revision"},
        "last change is 4",
        1,
    ),
    "the changes are gone": ("delete from change", {"revision"}, "the changes say 0", 4),
    "an index is not valid": (
        "update pg_index set indisvalid = false where indexrelid = 'file_hpx_idx'::regclass",
        {"indexes"},
        "index file_hpx_idx: is not valid",
        1,
    ),
    "an index is left by a rebuilding": (
        "create index file_run_ccnew on file (run);"
        "update pg_index set indisvalid = false where indexrelid = 'file_run_ccnew'::regclass",
        {"indexes"},
        "index file_run_ccnew: is not valid",
        1,
    ),
}


@pytest.mark.parametrize(("damage", "names", "told", "count"), MENDABLE.values(), ids=MENDABLE)
async def test_damage_is_found_mended_and_gone(
    settings: CatalogueSettings, damage: str, names: set[str], told: str, count: int | None
) -> None:
    revisions = rows(settings, "select sum(revision), (select max(id) from change) from facility")[0]
    for statement in damage.split(";"):
        run_sql(settings.database_url, statement)
    found = wrong(settings)
    assert {item.name for item in found} == names
    texts = [text for item in found for text in item.findings]
    assert any(told in text for text in texts), texts
    assert count is None or found[0].count == count
    others = [text for item in wrong(settings, facility="borealis") for text in item.findings]
    assert others == [text for text in texts if "borealis" in text or text.startswith("index ")]
    done = list(Checker(settings).mend(found))
    assert done
    assert wrong(settings) == []
    assert rows(settings, "select count(*) from change where kind = 'repair'")[0][0] > 0
    if names != {"indexes"}:
        assert rows(settings, "select sum(revision) from facility")[0][0] > revisions[0] or "changes" in damage


UNMENDABLE = {
    "a path lives twice": (
        "drop index file_storage_id_path_key;"
        "create temporary table twin as select * from file where path = 'run_39';"
        "update twin set id = 5000; insert into file overriding system value select * from twin",
        {"lives", "stratum", "stratum_day", "facet_month"},
        "file aurora-disk/run_39: lives 2 times",
    ),
    "an ended version lives on": (
        "update file_history set removed_in = 3 where path = 'run_1'",
        {"lives"},
        "file aurora-disk/run_1, until revision 3: lives beside one of revision 2",
    ),
    "a version ended before it came": (
        "alter table file_history drop constraint file_history_life_check;"
        "update file_history set removed_in = 1 where path = 'run_20'",
        {"ended"},
        "file aurora-disk/run_20, until revision 1: came in revision 1",
    ),
    "a detector is another facility's": (
        "insert into detector (id, facility_id, name) overriding system value values (50, 2, 'x');"
        "update file_history set detector_id = 50 where path = 'run_2'",
        {"orphans", "stratum_id"},
        "file aurora-disk/run_2, until revision 2: there is no detector 50",
    ),
    "a storage and a facility are not there": (
        "update file_history set storage_id = 70 where path = 'run_2'",
        {"orphans", "stratum_id"},
        "file 70/run_2, until revision 2: there is no storage 70",
    ),
    "the version of a member of an export is gone": (
        "insert into query (id, canonical, canonical_sha256) values ('q', '{}', '');"
        "insert into export (id, query_id, revisions, answer_checksum, files_total, bytes_total)"
        " values ('e', 'q', '{}', '', 1, 1);"
        "insert into export_file (export_id, file_id, path, size_bytes) values ('e', 4711, 'gone', 1)",
        {"orphans"},
        "export_file e gone: there is no version 4711",
    ),
    "a replica is on no storage": (
        "alter table replica drop constraint replica_storage_id_fkey;"
        "insert into replica (sha256, storage_id, path) values ('x', 70, 'copy')",
        {"orphans"},
        "replica copy: there is no storage 70",
    ),
}


@pytest.mark.parametrize(("damage", "names", "told"), UNMENDABLE.values(), ids=UNMENDABLE)
async def test_what_cannot_be_derived_is_only_told(
    settings: CatalogueSettings, damage: str, names: set[str], told: str
) -> None:
    with connected(settings, autocommit=True) as driver:
        for statement in damage.split(";"):
            driver.execute(statement)  # type: ignore[arg-type]
    found = wrong(settings)
    assert {item.name for item in found} == names
    assert told in [text for item in found for text in item.findings]
    done = list(Checker(settings).mend(found))
    cannot = [item.name for item in found if item.mend is Mend.NONE]
    assert [text.partition(":")[0] for text in done if "cannot be mended" in text] == cannot
    assert [item.name for item in wrong(settings)] == cannot


async def test_an_index_that_duplicates_forbid_is_told(settings: CatalogueSettings) -> None:
    run_sql(settings.database_url, "drop index file_storage_id_path_key")
    run_sql(settings.database_url, "create index file_storage_id_path_key on file (storage_id, path)")
    run_sql(
        settings.database_url,
        "update pg_index set indisunique = true, indisvalid = false, indisready = false"
        " where indexrelid = 'file_storage_id_path_key'::regclass",
    )
    with connected(settings, autocommit=True) as driver:
        driver.execute("create temporary table twin as select * from file where path = 'run_39'")
        driver.execute("update twin set id = 5000")
        driver.execute("insert into file overriding system value select * from twin")
    done = list(Checker(settings).mend([item for item in wrong(settings) if item.name == "indexes"]))
    assert len(done) == 1
    assert done[0].startswith("indexes: file_storage_id_path_key cannot be built: Key (storage_id, path)=(1, run_39)")


async def test_an_unknown_facility_is_told(settings: CatalogueSettings) -> None:
    with pytest.raises(NotFoundError, match="no facility 'hess'"):
        list(Checker(settings, facility="hess").check())


async def test_ingests_that_go_on_make_no_findings_and_survive_a_repair(
    settings: CatalogueSettings, ingest: Ingest
) -> None:
    ended = asyncio.Event()

    async def go_on() -> int:
        size = 0
        while not ended.is_set():
            size += 1
            await load(ingest, *some_records(size_bytes=size))
        return size

    def look() -> list[Outcome]:
        found = [item for _ in range(5) for item in wrong(settings)]
        run_sql(settings.database_url, "update stratum set files = files + 1 where id = 1")
        list(Checker(settings).mend(wrong(settings)))
        return [*found, *wrong(settings)]

    going = asyncio.create_task(go_on())
    found = await asyncio.to_thread(look)
    ended.set()
    assert found == []
    assert await going > 2
    assert wrong(settings) == []
