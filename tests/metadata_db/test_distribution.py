"""Where files are too many to be looked at one by one, a sample stands for them, and says so."""

from datetime import UTC, datetime, timedelta

import numpy as np
import pytest

from metadata_db.canonical import fingerprint
from metadata_db.catalogue import Catalogue
from metadata_db.ingest import Ingest
from metadata_db.query import EnergyRange, Interval, RunRange, SearchQuery, parse_cone
from metadata_db.tables import SAMPLE_SHARE
from metadata_db.timeline import TimeBin, parse_bins
from metadata_db.vocabulary import VocabularyStore
from tests.support.evaluation import separation_deg
from tests.support.records import file_record, load, register

pytestmark = pytest.mark.anyio

NOON = datetime(2019, 11, 2, 12, tzinfo=UTC)
PARTICULAR = SearchQuery(energy=EnergyRange(min_ev=1.0))


@pytest.fixture
async def n_sampled(ingest: Ingest, vocabulary: VocabularyStore, monkeypatch: pytest.MonkeyPatch) -> int:
    """Catalogue 2000 files, allow none to be looked at, and tell how many are in the sample."""
    await register(vocabulary)
    records = [
        file_record(str(at), time_begin=NOON + timedelta(minutes=at), ra_deg=83.6, dec_deg=22.0, energy_max_ev=5.0)
        for at in range(2000)
    ]
    await load(ingest, *records)
    monkeypatch.setattr("metadata_db.planning.MAX_LOOKED_AT", 0)
    prints = [fingerprint(item.storage, item.path, item.size_bytes, item.sha256) for item in records]
    return sum(low % SAMPLE_SHARE == 0 for _, low in prints)


async def test_a_time_line_of_many_files_is_an_estimate(catalogue: Catalogue, n_sampled: int) -> None:
    revisions = await catalogue.revisions()
    assert n_sampled > 0
    for asked, bin in ((PARTICULAR, TimeBin.DAY), (PARTICULAR, TimeBin.HOUR), (SearchQuery(), TimeBin.HOUR)):
        told = await catalogue.timeline(asked, revisions, parse_bins(bin, None, None), exact=False)
        assert told.is_estimate
        assert np.frombuffer(told.counts, "<u4").sum() == SAMPLE_SHARE * n_sampled
        assert np.frombuffer(told.sizes, "<f8").sum() == SAMPLE_SHARE * n_sampled * 1000
        exact = await catalogue.timeline(asked, revisions, parse_bins(bin, None, None))
        assert (np.frombuffer(exact.counts, "<u4").sum(), exact.is_estimate) == (2000, False)


async def test_a_time_line_of_days_is_exact_however_many_files_there_are(catalogue: Catalogue, n_sampled: int) -> None:
    revisions = await catalogue.revisions()
    for interval in (None, Interval(begin=NOON + timedelta(minutes=1)), Interval(end=NOON + timedelta(days=10))):
        told = await catalogue.timeline(
            SearchQuery(time=interval), revisions, parse_bins(TimeBin.DAY, None, None), exact=False
        )
        assert not told.is_estimate
        assert np.frombuffer(told.counts, "<u4").sum() == 2000 - (interval is not None and interval.begin is not None)


async def test_a_sky_map_of_many_files_is_an_estimate(catalogue: Catalogue, n_sampled: int) -> None:
    revisions = await catalogue.revisions()
    for asked, order in ((PARTICULAR, 6), (SearchQuery(), 10)):
        told = await catalogue.sky(asked, revisions, order, exact=False)
        assert (told.is_estimate, told.no_position) == (True, 0)
        assert np.frombuffer(told.counts, "<u4").tolist() == [SAMPLE_SHARE * n_sampled]
    exact = await catalogue.sky(SearchQuery(), revisions, 6, exact=False)
    assert (np.frombuffer(exact.counts, "<u4").tolist(), exact.is_estimate) == ([2000], False)


async def test_a_number_of_bins_fits_the_files_that_are_found(
    catalogue: Catalogue, ingest: Ingest, vocabulary: VocabularyStore
) -> None:
    await register(vocabulary)
    far = file_record("far", time_begin=NOON - timedelta(days=5000), object="Crab")
    await load(ingest, far, *(file_record(str(at), time_begin=NOON + timedelta(minutes=at), run=7) for at in range(60)))
    revisions = await catalogue.revisions()
    told = await catalogue.timeline(
        SearchQuery(run=(RunRange(first=7, last=7),)), revisions, parse_bins(None, None, 60)
    )
    assert (told.begin, told.bin_s, told.n) == (NOON, 60.0, 60)
    told = await catalogue.timeline(SearchQuery(), revisions, parse_bins(None, None, 60))
    assert (told.bin, told.bin_s, told.n) == (None, 90 * 86_400.0, 57)


async def test_the_sample_of_a_cone_holds_what_lies_in_it_and_in_the_interval(
    ingest: Ingest, vocabulary: VocabularyStore, catalogue: Catalogue, monkeypatch: pytest.MonkeyPatch
) -> None:
    await register(vocabulary)
    hour, long = timedelta(hours=1), timedelta(days=400)
    records = [
        file_record(
            str(at),
            time_begin=NOON + (at % 100) * hour - (long if at % 7 == 0 else 0 * hour),
            time_end=NOON + (at % 100) * hour + (long if at % 7 == 0 else hour),
            ra_deg=83.6 + at / 1000,
            dec_deg=22.0,
        )
        for at in range(2000)
    ]
    await load(ingest, *records)
    monkeypatch.setattr("metadata_db.planning.MAX_LOOKED_AT", 0)
    cone = parse_cone("cone", ra_deg=84.0, dec_deg=22.0, radius_deg=0.3)
    interval = Interval(begin=NOON + 20 * hour, end=NOON + 40 * hour)
    for time in (None, interval, Interval(begin=interval.begin), Interval(end=interval.end)):
        inside = [
            item
            for item in records
            if separation_deg(item.ra_deg, item.dec_deg, 84.0, 22.0) <= 0.3
            and (time is None or time.end is None or item.time_begin < time.end)
            and (time is None or time.begin is None or item.time_end > time.begin)
        ]
        prints = [fingerprint(item.storage, item.path, item.size_bytes, item.sha256) for item in inside]
        asked = SearchQuery(cone=cone, time=time)
        told = await catalogue.summary(asked, await catalogue.revisions(), exact=False)
        assert (told.count, told.is_estimate) == (
            SAMPLE_SHARE * sum(low % SAMPLE_SHARE == 0 for _, low in prints),
            True,
        )
        exact = await catalogue.summary(asked, await catalogue.revisions())
        assert (exact.count, exact.is_estimate) == (len(inside), False)
