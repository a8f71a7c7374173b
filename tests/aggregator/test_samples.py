import filecmp
import itertools
from datetime import UTC, datetime
from pathlib import Path

import h5py
import numpy as np
import pytest
from astropy.io import fits
from astropy.time import Time, TimeDelta

from aggregator.samples import SampleStorage, generate_samples

SCALE = 0.06


@pytest.fixture(scope="module")
def storages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, SampleStorage]:
    root = tmp_path_factory.mktemp("storages")
    return {storage.name: storage for storage in generate_samples(root, scale=SCALE)}


def _list_files(root: Path) -> list[Path]:
    return sorted(path for path in root.rglob("*") if path.is_file())


def test_three_facilities_are_made_and_counted(storages: dict[str, SampleStorage]) -> None:
    assert list(storages) == ["aurora", "borealis", "cascade"]
    for storage in storages.values():
        files = _list_files(storage.root)
        assert len(files) == storage.n_files > 3
        assert sum(path.stat().st_size for path in files) == storage.n_bytes


def test_layouts_are_those_the_descriptions_expect(storages: dict[str, SampleStorage]) -> None:
    patterns = {
        "aurora": ["north/20??/??/20??????/aurora_0?????_dl3.fits", "south/20??/??/20??????/aurora_0?????_dl3.fits",
                   "sim/aurora_sim_0?????.fits"],
        "borealis": ["s0[1-6]/20??/borealis_s0?_20??????.h5"],
        "cascade": ["week_20??-W??/cascade_soft_????.fits", "week_20??-W??/cascade_hard_????.fits"],
    }  # fmt: skip
    for name, storage in storages.items():
        found = [sorted(storage.root.glob(pattern)) for pattern in patterns[name]]
        assert all(found)
        assert sorted(itertools.chain(*found)) == _list_files(storage.root)


def test_fits_files_are_valid(storages: dict[str, SampleStorage]) -> None:
    for path in [*_list_files(storages["aurora"].root), *_list_files(storages["cascade"].root)]:
        with fits.open(path) as units:
            units.verify("exception")
            assert all(unit.data is not None for unit in units[1:])


def test_aurora_events_lie_in_the_run_and_the_run_in_its_night(storages: dict[str, SampleStorage]) -> None:
    for path in storages["aurora"].root.glob("*/????/**/*.fits"):
        with fits.open(path) as units:
            header, events = units["EVENTS"].header, units["EVENTS"].data
            good = units["GTI"].data
            assert header["TELESCOP"] == "AURORA"
            assert f"aurora_{header['OBS_ID']:06}_dl3.fits" == path.name
            assert header["TSTART"] <= events["TIME"].min() < events["TIME"].max() <= header["TSTOP"]
            assert header["ONTIME"] == pytest.approx((good["STOP"] - good["START"]).sum())
            assert header["LIVETIME"] == pytest.approx(header["ONTIME"] * header["DEADC"])
            in_good_time = (events["TIME"][:, None] >= good["START"]) & (events["TIME"][:, None] <= good["STOP"])
            assert in_good_time.any(axis=1).all()
            assert (np.abs(events["DEC"] - header["DEC_PNT"]) < 10).all()
            zero = Time(header["MJDREFI"], header["MJDREFF"], format="mjd", scale=header["TIMESYS"].lower())
        begin = zero + TimeDelta(header["TSTART"], format="sec")
        night = datetime.strptime(path.parent.name, "%Y%m%d").replace(hour=12, tzinfo=UTC)
        assert 0 < (begin.utc.to_datetime(timezone=UTC) - night).total_seconds() < 86400
        assert night.month in {9, 10, 11, 12, 1, 2, 3, 4, 5}


def test_aurora_simulations_have_no_time(storages: dict[str, SampleStorage]) -> None:
    for path in storages["aurora"].root.glob("sim/*.fits"):
        header = fits.getheader(path, "EVENTS")
        assert header["SIMULATE"] is True
        assert not {"TIMESYS", "TSTART", "TSTOP"} & set(header)


def test_borealis_days_are_whole_utc_days_in_gps_seconds(storages: dict[str, SampleStorage]) -> None:
    for path in _list_files(storages["borealis"].root):
        with h5py.File(path) as file:
            assert (file.attrs["facility"], file.attrs["time_system"]) == ("borealis", "GPS")
            assert file.attrs["station"] == path.parts[-3]
            events, start, stop = file["events"], file["meta/gps_start"][()], file["meta/gps_stop"][()]
            assert events.attrs["energy_unit"] == "EeV"
            assert events.dtype.names == ("event_id", "gps_seconds", "energy_eev", "zenith_deg")
            assert start <= events["gps_seconds"].min() < events["gps_seconds"].max() < stop
            assert 0.1 <= events["energy_eev"].min() < events["energy_eev"].max() <= 150
        day = Time(start, format="gps").utc
        assert f"{day.to_datetime():%Y%m%d %H:%M:%S}" == f"{path.stem[-8:]} 00:00:00"


def test_cascade_maps_are_of_the_iso_week_of_their_folder(storages: dict[str, SampleStorage]) -> None:
    for path in _list_files(storages["cascade"].root):
        with fits.open(path) as units:
            header = units[0].header
            assert (header["TELESCOP"], header["TIMESYS"]) == ("CASCADE", "UTC")
            assert header["BAND"] == path.name.split("_")[1]
            assert header["EUNIT"] == {"soft": "keV", "hard": "MeV"}[header["BAND"]]
            assert units["IMAGE"].data.sum() > 1000
        begin, end = (datetime.fromisoformat(header[key]) for key in ("DATE-BEG", "DATE-END"))
        assert f"week_{begin:%G-W%V}" == path.parent.name
        assert (end - begin).days == 7


def test_the_same_seed_makes_the_same_bytes(storages: dict[str, SampleStorage], tmp_path: Path) -> None:
    for storage in generate_samples(tmp_path, scale=SCALE):
        names = [str(path.relative_to(storage.root)) for path in _list_files(storage.root)]
        first = storages[storage.name].root
        assert [str(path.relative_to(first)) for path in _list_files(first)] == names
        assert filecmp.cmpfiles(first, storage.root, names, shallow=False) == (names, [], [])


def test_another_seed_makes_other_files(storages: dict[str, SampleStorage], tmp_path: Path) -> None:
    aurora = generate_samples(tmp_path, seed=2, scale=SCALE)[0]
    path = _list_files(aurora.root)[0]
    assert path.read_bytes() != (storages["aurora"].root / path.relative_to(aurora.root)).read_bytes()


def test_whole_files_are_kept_and_broken_or_missing_ones_made_again(tmp_path: Path) -> None:
    aurora = generate_samples(tmp_path, scale=0.02)[0]
    kept, cut, lost = _list_files(aurora.root)[:3]
    written_at, whole = kept.stat().st_mtime_ns, cut.read_bytes()
    cut.write_bytes(whole[:1000])
    lost.unlink()
    progress: list[tuple[int, int]] = []
    again = generate_samples(tmp_path, scale=0.02, on_progress=lambda done, total: progress.append((done, total)))
    assert kept.stat().st_mtime_ns == written_at
    assert cut.read_bytes() == whole
    assert lost.exists()
    n_total = sum(storage.n_files for storage in again)
    assert progress == [(done, n_total) for done in range(1, n_total + 1)]
    assert n_total == len(_list_files(tmp_path))


@pytest.mark.parametrize("scale", [0, -1, 1.5])
def test_a_scale_out_of_range_is_refused(tmp_path: Path, scale: float) -> None:
    with pytest.raises(ValueError, match="scale: got"):
        generate_samples(tmp_path, scale=scale)
