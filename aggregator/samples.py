"""Sample storages of three invented facilities, so that `catchment demo` has real files to gather.

The files are valid FITS and HDF5 and hold what such instruments measure, each facility in its own habits: another
format, folder layout, time scale (TT, GPS, UTC), energy unit and way to name an observation. What is in a file
depends on the seed and its path alone.

- Aurora: two clusters of imaging air Cherenkov telescopes; one event list per run, and simulations (FITS).
- Borealis: six stations of surface detectors; one day of events per file (HDF5).
- Cascade: a survey satellite; weekly sky maps in two energy bands (FITS).
"""

import io
import os
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any, Literal

import h5py
import numpy as np
import numpy.typing as npt
from astropy.io import fits
from astropy.time import Time

Floats = npt.NDArray[np.float64]
Quality = Literal["good", "fair", "bad"]


@dataclass(frozen=True, kw_only=True, slots=True)
class SampleStorage:
    """One generated storage, with everything that one facility has written."""

    name: str
    facility: str
    root: Path
    n_files: int
    n_bytes: int


def generate_samples(
    root: Path,
    *,
    seed: int = 1,
    scale: float = 1.0,
    on_progress: Callable[[int, int], None] | None = None,
) -> list[SampleStorage]:
    """Make the storages below `root`, one folder per facility: about 300 files, 130 MB.

    Files appear by rename; those that are there with the right size are kept, so that a broken run is completed by
    the next one.

    Parameters
    ----------
    root
        Folder for the storages, made when absent.
    seed
        Another seed makes other files of the same layout.
    scale
        Share of the files to make, above 0 and at most 1; some of every kind.
    on_progress
        Called after each file with the numbers of files done and in all.

    Raises
    ------
    ValueError
        `scale` is out of range.
    """
    if not 0 < scale <= 1:
        raise ValueError(f"scale: got {scale}, expected a number above 0 and at most 1")
    plans = {name: list(plan(scale)) for name, plan in _FACILITIES.items()}
    n_total, n_done, storages = sum(map(len, plans.values())), 0, []
    for name, files in plans.items():
        n_bytes = 0
        for file in files:
            n_bytes += _write(root / name, file, seed)
            n_done += 1
            if on_progress is not None:
                on_progress(n_done, n_total)
        storages.append(SampleStorage(name=name, facility=name, root=root / name, n_files=len(files), n_bytes=n_bytes))
    return storages


@dataclass(frozen=True, kw_only=True, slots=True)
class _SampleFile:
    """A file to be: where below its storage, and how its content is made from random numbers."""

    path: str
    make: Callable[[np.random.Generator], bytes]


def _write(root: Path, file: _SampleFile, seed: int) -> int:
    """Make one file unless it is there already; return its size in bytes."""
    content = file.make(np.random.default_rng([seed, zlib.crc32(file.path.encode())]))
    path = root / file.path
    if not (path.is_file() and path.stat().st_size == len(content)):
        path.parent.mkdir(parents=True, exist_ok=True)
        unfinished = path.with_name(f".{path.name}.part")
        unfinished.write_bytes(content)
        os.replace(unfinished, path)
    return len(content)


# What was observed, and when


@dataclass(frozen=True, kw_only=True, slots=True)
class _Target:
    name: str
    ra_deg: float
    dec_deg: float
    months: frozenset[int]
    """Months of the year in which it is up at night."""


_CRAB = _Target(name="Crab Nebula", ra_deg=83.633, dec_deg=22.014, months=frozenset({10, 11, 12, 1, 2, 3}))
_MRK_421 = _Target(name="Mrk 421", ra_deg=166.114, dec_deg=38.209, months=frozenset({12, 1, 2, 3, 4, 5}))
_MRK_501 = _Target(name="Mrk 501", ra_deg=253.468, dec_deg=39.760, months=frozenset({9, 3, 4, 5}))
_M_87 = _Target(name="M 87", ra_deg=187.706, dec_deg=12.391, months=frozenset({1, 2, 3, 4, 5}))
_PKS_2155 = _Target(name="PKS 2155-304", ra_deg=329.717, dec_deg=-30.226, months=frozenset({9, 10, 11}))
_CENTAURUS_A = _Target(name="Centaurus A", ra_deg=201.365, dec_deg=-43.019, months=frozenset({2, 3, 4, 5}))

_ALL_TARGETS = (_CRAB, _MRK_421, _MRK_501, _M_87, _PKS_2155, _CENTAURUS_A)

_SEASONS = ((date(2018, 9, 1), date(2019, 5, 31)), (date(2019, 9, 1), date(2020, 5, 31)))
"""First and last night of each season: nights are long from September to May."""

_NIGHTS_PER_SEASON = 12


def _nights() -> list[date]:
    """Evenly spread observing nights, named by the day on which they begin."""
    return [
        first + (last - first) * index // (_NIGHTS_PER_SEASON - 1)
        for first, last in _SEASONS
        for index in range(_NIGHTS_PER_SEASON)
    ]


def _spread(items: Sequence[_SampleFile], scale: float) -> Iterator[_SampleFile]:
    """Pick a share of the files, evenly over all, at least one."""
    n_picked = max(1, round(len(items) * scale))
    return (items[index * len(items) // n_picked] for index in range(n_picked))


def _power_law(rng: np.random.Generator, size: int, *, low: float, high: float, index: float) -> Floats:
    """Draw energies from a spectrum that falls as energy to the power of ``-index``."""
    exponent = 1 - index
    share = rng.random(size)
    energies: Floats = (low**exponent + share * (high**exponent - low**exponent)) ** (1 / exponent)
    return energies


# Aurora: event lists of imaging air Cherenkov telescopes

_AURORA_TARGETS = {
    "north": (_CRAB, _MRK_421, _MRK_501, _M_87),
    "south": (_PKS_2155, _CENTAURUS_A, _CRAB, _M_87),
}
_AURORA_FIRST_RUN = {"north": 10_001, "south": 20_001}
_AURORA_RUNS_PER_NIGHT = 3
_AURORA_SIMULATIONS = 8

_MJDREFI, _MJDREFF = 51910, 7.428703703703703e-4
"""Zero of Aurora's clock in TT: 2001-01-01T00:00:00 UTC."""


def _plan_aurora(scale: float) -> Iterator[_SampleFile]:
    runs = [
        _aurora_run(cluster, night, index, _AURORA_FIRST_RUN[cluster] + night_index * _AURORA_RUNS_PER_NIGHT + index)
        for cluster in _AURORA_TARGETS
        for night_index, night in enumerate(_nights())
        for index in range(_AURORA_RUNS_PER_NIGHT)
    ]
    simulations = [_aurora_simulation(90_001 + index) for index in range(_AURORA_SIMULATIONS)]
    yield from _spread(runs, scale)
    yield from _spread(simulations, scale)


def _aurora_run(cluster: str, night: date, index: int, run: int) -> _SampleFile:
    visible = [target for target in _AURORA_TARGETS[cluster] if night.month in target.months]
    target = visible[index % len(visible)]
    return _SampleFile(
        path=f"{cluster}/{night:%Y}/{night:%m}/{night:%Y%m%d}/aurora_{run:06}_dl3.fits",
        make=lambda rng: _make_aurora_run(rng, night, index, run, target),
    )


def _make_aurora_run(rng: np.random.Generator, night: date, index: int, run: int, target: _Target) -> bytes:
    weather, quality = _observing_conditions(rng)
    # The last run of a night begins after midnight, on another day than the night is named by.
    dusk = datetime(night.year, night.month, night.day, 20, 30, tzinfo=UTC)
    begin = dusk + timedelta(minutes=150 * index + int(rng.integers(0, 30)))
    t_start = _aurora_clock(begin)
    t_stop = t_start + float(rng.integers(900, 1260))
    pause_begin = t_start + float(rng.integers(300, 600))
    pause_s = float(rng.integers(5, 40))
    on_time = t_stop - t_start - pause_s
    dead_time_share = 0.96 - 0.02 * rng.random()
    events = _aurora_events(
        rng, target, n_events=int(rng.poisson({"good": 19_000, "fair": 16_000, "bad": 9_000}[quality]))
    )
    times = t_start + np.sort(rng.random(len(events["EVENT_ID"]))) * on_time
    times[times > pause_begin] += pause_s
    header = _aurora_header(run, target, n_telescopes=int(rng.integers(3, 6)))
    header.extend(
        [
            ("MJDREFI", _MJDREFI, "[d] zero of all times"),
            ("MJDREFF", _MJDREFF, "[d]"),
            ("TIMESYS", "TT"),
            ("TIMEUNIT", "s"),
            ("TSTART", t_start, "[s]"),
            ("TSTOP", t_stop, "[s]"),
            ("ONTIME", on_time, "[s]"),
            ("LIVETIME", on_time * dead_time_share, "[s]"),
            ("DEADC", dead_time_share),
            ("QUALITY", quality),
            ("WEATHER", weather),
        ]
    )
    times_first = {"EVENT_ID": events.pop("EVENT_ID"), "TIME": times}
    good_times = {"START": np.array([t_start, pause_begin + pause_s]), "STOP": np.array([pause_begin, t_stop])}
    return _fits_bytes(
        fits.PrimaryHDU(),
        _table("EVENTS", times_first | events, header),
        _table("GTI", good_times, fits.Header([("MJDREFI", _MJDREFI), ("MJDREFF", _MJDREFF), ("TIMESYS", "TT")])),
    )


def _aurora_simulation(run: int) -> _SampleFile:
    target = _ALL_TARGETS[run % len(_ALL_TARGETS)]
    return _SampleFile(
        path=f"sim/aurora_sim_{run:06}.fits",
        make=lambda rng: _make_aurora_simulation(rng, run, target),
    )


def _make_aurora_simulation(rng: np.random.Generator, run: int, target: _Target) -> bytes:
    header = _aurora_header(run, target, n_telescopes=5)
    header["SIMULATE"] = (True, "simulated: there is no time")
    return _fits_bytes(fits.PrimaryHDU(), _table("EVENTS", _aurora_events(rng, target, n_events=20_000), header))


def _aurora_header(run: int, target: _Target, *, n_telescopes: int) -> fits.Header:
    return fits.Header(
        [
            ("HDUCLASS", "GADF", "data format for gamma-ray astronomy"),
            ("HDUVERS", "0.3"),
            ("HDUCLAS1", "EVENTS"),
            ("TELESCOP", "AURORA"),
            ("OBS_ID", run),
            ("OBJECT", target.name),
            ("RADECSYS", "ICRS"),
            ("RA_PNT", target.ra_deg, "[deg] pointing"),
            ("DEC_PNT", round(target.dec_deg + 0.5, 3), "[deg] pointing, half a degree off the object"),
            ("N_TELS", n_telescopes),
        ]
    )


def _aurora_events(rng: np.random.Generator, target: _Target, *, n_events: int) -> dict[str, npt.NDArray[Any]]:
    """Draw one event in ten from the target and the others from the night sky around it."""
    from_target = rng.random(n_events) < 0.1
    spread_deg = np.where(from_target, 0.08, 1.3)
    dec_deg = target.dec_deg + rng.normal(size=n_events) * spread_deg
    ra_deg = target.ra_deg + rng.normal(size=n_events) * spread_deg / np.cos(np.radians(dec_deg))
    return {
        "EVENT_ID": np.arange(1, n_events + 1, dtype=np.int64),
        "RA": (ra_deg % 360).astype(np.float32),
        "DEC": dec_deg.astype(np.float32),
        "ENERGY": _power_law(rng, n_events, low=0.05, high=60, index=2.7).astype(np.float32),
    }


def _aurora_clock(moment: datetime) -> float:
    """Seconds of TT since Aurora's zero."""
    zero = Time(_MJDREFI, _MJDREFF, format="mjd", scale="tt")
    return round(float((Time(moment, scale="utc").tt - zero).sec), 3)


def _observing_conditions(rng: np.random.Generator) -> tuple[str, Quality]:
    weather = str(rng.choice(["clear", "thin cloud", "cloud"], p=[0.7, 0.2, 0.1]))
    qualities: dict[str, Quality] = {"clear": "good", "thin cloud": "fair", "cloud": "bad"}
    return weather, qualities[weather]


# Borealis: days of surface detectors

_BOREALIS_STATIONS = ("s01", "s02", "s03", "s04", "s05", "s06")
_BOREALIS_DAYS = 14
_BOREALIS_EVENT = np.dtype([("event_id", "<i8"), ("gps_seconds", "<f8"), ("energy_eev", "<f8"), ("zenith_deg", "<f4")])


def _plan_borealis(scale: float) -> Iterator[_SampleFile]:
    # Days on which Aurora observes, so that a question about an interval finds both.
    days = _nights()[:_BOREALIS_DAYS]
    files = [
        _borealis_day(station, day, run)
        for station in _BOREALIS_STATIONS
        for run, day in enumerate(days, start=1000 * int(station[1:]) + 1)
    ]
    yield from _spread(files, scale)


def _borealis_day(station: str, day: date, run: int) -> _SampleFile:
    return _SampleFile(
        path=f"{station}/{day:%Y}/borealis_{station}_{day:%Y%m%d}.h5",
        make=lambda rng: _make_borealis_day(rng, station, day, run),
    )


def _make_borealis_day(rng: np.random.Generator, station: str, day: date, run: int) -> bytes:
    midnight = datetime(day.year, day.month, day.day, tzinfo=UTC)
    gps_start, gps_stop = (float(Time(midnight + timedelta(days=n), scale="utc").gps) for n in (0, 1))
    n_events = int(rng.poisson(16_000))
    events = np.zeros(n_events, dtype=_BOREALIS_EVENT)
    events["event_id"] = np.arange(1, n_events + 1)
    events["gps_seconds"] = gps_start + np.sort(rng.random(n_events)) * (gps_stop - gps_start)
    events["energy_eev"] = _power_law(rng, n_events, low=0.1, high=150, index=3.1)
    events["zenith_deg"] = np.degrees(np.arcsin(np.sqrt(rng.random(n_events) * 0.75)))
    content = io.BytesIO()
    with h5py.File(content, "w") as file:
        file.attrs["facility"] = "borealis"
        file.attrs["station"] = station
        file.attrs["run"] = run
        file.attrs["time_system"] = "GPS"
        dataset = file.create_dataset("events", data=events, track_times=False)
        dataset.attrs["energy_unit"] = "EeV"
        file.create_dataset("meta/gps_start", data=gps_start, track_times=False)
        file.create_dataset("meta/gps_stop", data=gps_stop, track_times=False)
    return content.getvalue()


# Cascade: weekly maps of a survey satellite

_CASCADE_WEEKS = 12
_CASCADE_WEEKS_APART = 7
_CASCADE_FIELDS_PER_WEEK = 3
_CASCADE_BANDS = {"soft": (0.5, 2.0, "keV"), "hard": (0.02, 0.2, "MeV")}
"""Band → least energy, greatest energy, and the unit that its team writes them in."""

_CASCADE_PIXELS = 256
_CASCADE_PIXEL_DEG = 0.02


def _plan_cascade(scale: float) -> Iterator[_SampleFile]:
    first_monday = date(2018, 9, 3)
    mondays = [first_monday + timedelta(weeks=_CASCADE_WEEKS_APART * index) for index in range(_CASCADE_WEEKS)]
    files = [
        _cascade_map(monday, band, 1 + (_CASCADE_FIELDS_PER_WEEK * week + index) % len(_ALL_TARGETS))
        for band in _CASCADE_BANDS
        for week, monday in enumerate(mondays)
        for index in range(_CASCADE_FIELDS_PER_WEEK)
    ]
    yield from _spread(files, scale)


def _cascade_map(monday: date, band: str, field: int) -> _SampleFile:
    return _SampleFile(
        path=f"week_{monday:%G-W%V}/cascade_{band}_{field:04}.fits",
        make=lambda rng: _make_cascade_map(rng, monday, band, _ALL_TARGETS[field - 1]),
    )


def _make_cascade_map(rng: np.random.Generator, monday: date, band: str, target: _Target) -> bytes:
    energy_min, energy_max, unit = _CASCADE_BANDS[band]
    header = fits.Header(
        [
            ("TELESCOP", "CASCADE"),
            ("OBJECT", target.name),
            ("RA", target.ra_deg, "[deg] centre of the map"),
            ("DEC", target.dec_deg, "[deg] centre of the map"),
            ("RADESYS", "ICRS"),
            ("TIMESYS", "UTC"),
            ("DATE-BEG", f"{monday}T00:00:00"),
            ("DATE-END", f"{monday + timedelta(weeks=1)}T00:00:00"),
            ("BAND", band),
            ("EMIN", energy_min),
            ("EMAX", energy_max),
            ("EUNIT", unit, "unit of EMIN and EMAX"),
        ]
    )
    image = fits.ImageHDU(_cascade_counts(rng), header=_cascade_projection(target), name="IMAGE")
    return _fits_bytes(fits.PrimaryHDU(header=header), image)


def _cascade_counts(rng: np.random.Generator) -> npt.NDArray[np.float32]:
    """Count photons of an even background, of the target in the middle and of a dozen faint sources."""
    y, x = np.mgrid[:_CASCADE_PIXELS, :_CASCADE_PIXELS]
    middle = (_CASCADE_PIXELS - 1) / 2
    sources = [(middle, middle, 60.0)]
    sources += [(*rng.uniform(0, _CASCADE_PIXELS, 2), float(rng.pareto(1.5)) + 1) for _ in range(12)]
    expected = np.full(x.shape, 0.3)
    for source_x, source_y, brightness in sources:
        expected += brightness * np.exp(-((x - source_x) ** 2 + (y - source_y) ** 2) / (2 * 2.5**2))
    return rng.poisson(expected).astype(np.float32)


def _cascade_projection(target: _Target) -> fits.Header:
    centre = (_CASCADE_PIXELS + 1) / 2
    return fits.Header(
        [
            *(("CTYPE1", "RA---TAN"), ("CTYPE2", "DEC--TAN"), ("CUNIT1", "deg"), ("CUNIT2", "deg")),
            *(("CRVAL1", target.ra_deg), ("CRVAL2", target.dec_deg), ("CRPIX1", centre), ("CRPIX2", centre)),
            *(("CDELT1", -_CASCADE_PIXEL_DEG), ("CDELT2", _CASCADE_PIXEL_DEG), ("BUNIT", "count")),
        ]
    )


_FACILITIES: dict[str, Callable[[float], Iterator[_SampleFile]]] = {
    "aurora": _plan_aurora,
    "borealis": _plan_borealis,
    "cascade": _plan_cascade,
}


# FITS

_UNITS = {"TIME": "s", "START": "s", "STOP": "s", "RA": "deg", "DEC": "deg", "ENERGY": "TeV"}
_FORMATS = {np.dtype(np.int64): "K", np.dtype(np.float64): "D", np.dtype(np.float32): "E"}


def _table(name: str, columns: dict[str, npt.NDArray[Any]], header: fits.Header) -> fits.BinTableHDU:
    return fits.BinTableHDU.from_columns(
        [
            fits.Column(name=column, format=_FORMATS[values.dtype], unit=_UNITS.get(column), array=values)
            for column, values in columns.items()
        ],
        header=header,
        name=name,
    )


def _fits_bytes(*units: Any) -> bytes:
    content = io.BytesIO()
    fits.HDUList(list(units)).writeto(content, output_verify="exception")
    return content.getvalue()
