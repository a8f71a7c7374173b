"""The catalogue that is measured: invented, but shaped like that of real observatories, of any size.

Twelve facilities, the largest with 44 times the files of the smallest, observe in the seasons (September to May) of
sixteen years, in clear nights, more around new moon and in the long nights of winter. Nearly all files are parts of
runs: 24 files of one target, among them two of monitoring, which overlap the others. A few are long, as summaries of a
month and responses valid for years, and a few have no time at all. What is not known of a real file is absent here too.

What is generated depends on the number of files alone, and any part can be generated without the rest, so several
processes can share the work. A line has about 800 bytes. Of each file there are as many versions as are asked for.

Lines are the one form that is made: by a template for each run, as making and encoding
records takes nearly twice the time.
"""

import hashlib
import math
import random
import shutil
from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cached_property
from itertools import accumulate
from multiprocessing import get_context
from pathlib import Path
from typing import Any, TypeAlias

import click
import msgspec

from extractors.client import encode_lines
from metadata_db.records import (
    Attribute,
    AttributeType,
    AttributeValue,
    Channel,
    Cluster,
    Detector,
    Facility,
    FileRecord,
    Removal,
    Storage,
)

FILES_PER_RUN = 24
"""Files of one run."""

MONITORING_FILES = 2
"""Files of a run, its last, that hold what was monitored during it."""

RUNS_PER_BLOCK = 10
"""Runs of one observation block: an attribute with many values, of which each is rare."""

FIRST_YEAR, SEASONS, NIGHTS_PER_SEASON = 2010, 16, 272
"""Seasons begin in the evening of 1 September; the last night ends in the morning of 30 or 31 May."""

LONG_SHARE, TIMELESS_SHARE = 0.0002, 0.002
"""Shares of the files that last for weeks, months or years, and of those that have no time."""

LONGEST_RUN = timedelta(minutes=40)
"""Time of a run when there are few in a night."""

TRIGGERS = ("stereo", "mono", "coincidence", "topological", "external")
"""Values of an attribute of which each is frequent."""

LEVELS = ("DL1", "DL2", "DL3", "DL3")
"""Levels of runs that are neither calibration nor monitoring, as often as they occur."""

QUALITIES = ("good", "good", "good", "good", "fair", "bad", None)
"""Qualities as often as they occur; None is not known."""

CONDITIONS = ("clear", "clear", "thin cloud", "dust", None, None)
"""Weather as often as it occurs."""

PROCESSINGS = ("v1.0", "v1.4", "v2.0", "v2.0", None)
"""Processings of first versions as often as they occur; a later version has a later one."""

FORMATS = (("fits", ".fits"), ("fits+gzip", ".fits.gz"), ("hdf5", ".h5"))
"""Format and suffix of a facility's files; facilities take them in turn."""

TARGETS: Sequence[tuple[str | None, float, float]] = (
    ("Crab Nebula", 83.633, 22.014),
    ("Crab Nebula", 83.633, 22.014),
    ("Mrk 421", 166.114, 38.209),
    ("Mrk 421", 166.114, 38.209),
    ("Mrk 501", 253.468, 39.760),
    ("M 87", 187.706, 12.391),
    ("PKS 2155-304", 329.717, -30.226),
    ("Galactic Centre", 266.417, -29.008),
    ("1ES 1959+650", 299.999, 65.149),
    (None, 201.365, -43.019),
)
"""Favourites of all facilities as often as they occur: name, right ascension and declination in degrees."""

TAIL_TARGETS, TAIL_SHARE = 20, 0.3
"""Further targets of each facility, each observed less often than the one before it; share of all their runs."""

SHARED_STORAGE = "common-tape"
"""Storage of several facilities."""

_SHARES = {
    "aldebaran": 0.22,
    "bellatrix": 0.17,
    "capella": 0.13,
    "deneb": 0.11,
    "electra": 0.09,
    "fomalhaut": 0.08,
    "gacrux": 0.06,
    "hadar": 0.05,
    "izar": 0.04,
    "kochab": 0.03,
    "lesath": 0.015,
    "mirach": 0.005,
}
_ATTRIBUTES: Sequence[tuple[str, AttributeType, str | None, str]] = (
    ("block", "text", None, "Observation block"),
    ("trigger", "text", None, "Name of the trigger"),
    ("zenith_deg", "number", "deg", "Zenith angle of the pointing"),
    ("n_telescopes", "integer", None, "Telescopes in use"),
    ("calibrated", "boolean", None, "Whether calibrated"),
    ("threshold_ev", "number", "eV", "Energy threshold"),
)

_Values: TypeAlias = dict[str, Any]
"""Fields of a record and their values; None is left out."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Edition:
    """Which lines are wanted of a catalogue."""

    version: int = 0
    """0 is how all files were catalogued first; others have another content, size and processing at the same path."""
    share: float = 1.0
    """Share of the runs, another choice for each version."""
    is_removal: bool = False
    """Whether the lines remove the files."""

    def has(self, name: str) -> bool:
        """Tell whether the run of this name was chosen; the choices of several versions do not depend on each other."""
        digest = hashlib.blake2b(f"{self.is_removal} {self.version} {name}".encode(), digest_size=8).digest()
        return int.from_bytes(digest) < self.share * 2**64


FIRST_EDITION = Edition()
"""All files as they were first."""


@dataclass(frozen=True, kw_only=True)
class GeneratedFacility:
    """One facility: how many files it has, and the habits in which it differs from the others."""

    name: str
    number: int
    n_files: int

    # --- what there is ------------------------------------------------------------------------------------------------

    @property
    def n_long(self) -> int:
        """Files that last for weeks and more."""
        return 0 if self.n_files == 1 else max(1, round(LONG_SHARE * self.n_files))

    @property
    def n_special(self) -> int:
        """Files that belong to no run: long ones, and ones without a time."""
        return self.n_long + int(TIMELESS_SHARE * self.n_files)

    @cached_property
    def n_runs(self) -> int:
        """Runs, the last perhaps not whole."""
        return -(-(self.n_files - self.n_special) // FILES_PER_RUN)

    @property
    def first_run(self) -> int:
        """Number of the first run; the others follow without gaps."""
        return 10_000 * (self.number + 1)

    @property
    def storages(self) -> Sequence[str]:
        """Names of its storages; the last has the raw data. Two facilities have theirs together."""
        if self.name in ("izar", "kochab"):
            return (SHARED_STORAGE,)
        return (f"{self.name}-disk", f"{self.name}-tape") if self.number < 2 else (f"{self.name}-disk",)

    @property
    def detectors(self) -> Sequence[str]:
        """Names of its detectors, without the cluster: every other facility has a second set of smaller ones."""
        return ("tel", "mini") if self.number % 2 else ("tel",)

    @property
    def attributes(self) -> Sequence[tuple[str, AttributeType, str | None, str]]:
        """What it declares beyond the core fields."""
        return _ATTRIBUTES[: 3 + self.number % 4]

    @cached_property
    def targets(self) -> Sequence[tuple[str | None, float, float]]:
        """Names and positions of its targets, the less frequent behind the favourites."""
        rng = random.Random(f"targets of {self.name}")
        found = list(TARGETS)
        for _ in range(TAIL_TARGETS):
            ra_deg, dec_deg = round(rng.uniform(1, 359), 3), round(rng.uniform(-60, 70), 3)
            name = f"{self._short} J{int(ra_deg / 15):02d}{int(ra_deg * 4 % 60):02d}{int(dec_deg):+03d}"
            found.append((name, ra_deg, dec_deg))
        return found

    @property
    def format(self) -> str:
        """Format of its files."""
        return FORMATS[self.number % 3][0]

    @property
    def _suffix(self) -> str:
        return FORMATS[self.number % 3][1]

    @property
    def _short(self) -> str:
        return self.name[:3].upper()

    def block(self, run: int) -> str:
        """Name of the observation block of a run."""
        return f"{self._short}-{(run - self.first_run) // RUNS_PER_BLOCK:05d}"

    def obs_id(self, run: int) -> str:
        """Observation id of a run."""
        return f"{self._short}{run}"

    def facility(self) -> Facility:
        """Return its vocabulary."""
        sides = ("north", "south")
        return Facility(
            name=self.name,
            title=f"{self.name.capitalize()} Observatory (invented)",
            clusters=[Cluster(name=side) for side in sides],
            detectors=[Detector(name=f"{kind}-{side}", cluster=side) for kind in self.detectors for side in sides],
            channels=[Channel(name="gamma"), Channel(name="calibration"), Channel(name="monitor")],
            attributes=[
                Attribute(name=name, type=kind, unit=unit, meaning=meaning)
                for name, kind, unit, meaning in self.attributes
            ],
        )

    # --- lines --------------------------------------------------------------------------------------------------------

    def iter_records(self, edition: Edition = FIRST_EDITION) -> Iterator[FileRecord]:
        """Yield its files in the order in which they were written."""
        decoder = msgspec.json.Decoder(FileRecord)
        return map(decoder.decode, self._iter_lines(0, self.n_files, edition))

    def iter_lines(self, first: int = 0, last: int | None = None, edition: Edition = FIRST_EDITION) -> Iterator[bytes]:
        """Yield the lines of its files from number `first` on, up to `last` (excluded).

        Files that the edition leaves out are counted too.
        """
        lines = self._iter_lines(first, self.n_files if last is None else last, edition)
        return map(_removal_line, lines) if edition.is_removal else lines

    def _iter_lines(self, first: int, last: int, edition: Edition) -> Iterator[bytes]:
        index = bisect_right(range(self.n_runs), first, key=self._files_before) - 1
        at = self._files_before(index)
        while at < min(last, self.n_files):
            after = self._files_before(index + 1)
            if edition.has(f"{self.name} {index}"):
                version = 0 if edition.is_removal else edition.version
                yield from self._lines_of(index, version)[max(0, first - at) : last - at]
            index, at = index + 1, after

    def _files_before(self, index: int) -> int:
        """Number of files that come before a run; those of no run are strewn in between."""
        return min(FILES_PER_RUN * index, self.n_files - self.n_special) + index * self.n_special // self.n_runs

    def _lines_of(self, index: int, version: int) -> list[bytes]:
        """Return the lines of a run, and of the files without one that follow it."""
        n_parts = min(FILES_PER_RUN, self.n_files - self.n_special - index * FILES_PER_RUN)
        specials = range(index * self.n_special // self.n_runs, (index + 1) * self.n_special // self.n_runs)
        return [
            *self._run_lines(index, n_parts, version),
            *(self._special_line(number, version) for number in specials),
        ]

    # --- runs ---------------------------------------------------------------------------------------------------------

    def _run_lines(self, index: int, n_parts: int, version: int) -> Iterator[bytes]:
        run = self._make_run(index, version)
        n_data = FILES_PER_RUN - MONITORING_FILES
        for part in range(n_parts):
            yield run.data_line(part) if part < n_data else run.monitoring_line(part, part - n_data)

    def _make_run(self, index: int, version: int) -> "_Run":
        rng, run = random.Random(f"{self.name} {index}"), self.first_run + index
        begin, length = self._schedule(index)
        kind = rng.choices(("events", "simulation", "calibration"), (85, 5, 10))[0]
        about_run = self._about_run(kind, run, rng)
        about_data, pointing = self._about_data(kind, rng)
        later = _later(version)
        monitored: _Values = {"kind": "monitoring", "level": "aux", "channel": "monitor"}
        return _Run(
            rng=rng,
            data=_opening(about_run | about_data | later),
            monitoring=_opening(about_run | monitored | later),
            level=about_data["level"],
            stem=f"{begin:%Y/%m/%d}/{self.name}_{run:08d}_",
            suffix=self._suffix,
            sums=rng.choices(("both", "sha256", "none"), (95, 4, 1))[0],
            version=version,
            begin=begin,
            length=length,
            part_length=timedelta(seconds=max(1, int(length.total_seconds() / FILES_PER_RUN))),
            written_at=begin + length + timedelta(hours=2, days=365 * version),
            has_end=rng.random() > 0.03,
            has_energy="energy_basis" in about_data,
            pointing=pointing,
        )

    def _about_run(self, kind: str, run: int, rng: random.Random) -> _Values:
        """Return what all files of a run say."""
        side = rng.choice(("north", "south"))
        is_observed = kind != "simulation"
        return {
            "facility": self.name,
            "format": self.format,
            "cluster": side,
            "detector": f"{rng.choices(self.detectors, (80, 20)[: len(self.detectors)])[0]}-{side}",
            "storage": self.storages[-1 if kind == "calibration" else 0],
            "obs_id": self.obs_id(run),
            "run": run if rng.random() > 0.02 else None,
            "is_simulation": (False if self.number % 4 else None) if is_observed else True,
            "quality": rng.choice(QUALITIES),
            "conditions": rng.choice(CONDITIONS) if is_observed else None,
            "attributes": self._attribute_values(run, rng),
        }

    def _about_data(self, kind: str, rng: random.Random) -> tuple[_Values, tuple[float, float] | None]:
        """Return what all files of a run say but those of monitoring, and where it points to, if anywhere."""
        processing = rng.choice(PROCESSINGS)
        if kind == "calibration":
            return {"kind": kind, "level": "raw", "channel": kind}, None
        about: _Values = {
            "kind": "events",
            "level": rng.choice(LEVELS),
            "channel": "gamma",
            "processing": processing,
        }
        if rng.random() > 0.05:
            about["energy_basis"] = "EVENTS.ENERGY"
        name, ra_deg, dec_deg = rng.choices(self.targets, cum_weights=_TARGET_WEIGHTS)[0]
        if rng.random() < 0.05:
            return about, None
        about |= {"object": name, "position_basis": "pointing"}
        return about, (ra_deg + rng.uniform(-0.5, 0.5), dec_deg + rng.uniform(-0.5, 0.5))

    def _attribute_values(self, run: int, rng: random.Random) -> dict[str, AttributeValue]:
        values: Mapping[str, AttributeValue] = {
            "block": self.block(run),
            "trigger": rng.choice(TRIGGERS),
            "zenith_deg": round(rng.uniform(5, 60), 2),
            "n_telescopes": rng.randint(1, 5),
            "calibrated": rng.random() < 0.8,
            "threshold_ev": round(10 ** rng.uniform(10, 11.5), -6),
        }
        return {name: values[name] for name, *_ in self.attributes}

    def _schedule(self, index: int) -> tuple[datetime, timedelta]:
        """Return begin and length of a run: those of a night are spread evenly over it."""
        night = bisect_right(self._runs_before_nights, index) - 1
        first, after = self._runs_before_nights[night : night + 2]
        begin, length = self._night(night)
        slot = length / (after - first)
        moment = begin + (index - first) * slot
        return moment.replace(microsecond=0), min(LONGEST_RUN, slot)

    def _night(self, night: int) -> tuple[datetime, timedelta]:
        """Return begin and length of a night, which is the longer the nearer it is to 21 December."""
        season, day = divmod(night, NIGHTS_PER_SEASON)
        length = timedelta(hours=10.5 + 2.5 * math.cos(math.tau * (day - 111) / 365))
        local_midnight = _first_of_season(season) + timedelta(days=day + 1, hours=self.number % 5 - 2)
        return local_midnight - length / 2, length

    @cached_property
    def _runs_before_nights(self) -> Sequence[int]:
        """Number of runs before each night, and in the end of all: none in bad weather, fewer when the moon shines."""
        rng = random.Random(f"nights of {self.name}")
        weights = []
        for night in range(SEASONS * NIGHTS_PER_SEASON):
            begin, length = self._night(night)
            darkness = 0.6 + 0.4 * math.cos(math.tau * begin.toordinal() / 29.53)
            weights.append(0 if rng.random() < 0.2 else length.total_seconds() * darkness)
        before = list(accumulate(weights, initial=0.0))
        return [*(int(self.n_runs * weight / before[-1]) for weight in before[:-1]), self.n_runs]

    # --- other files --------------------------------------------------------------------------------------------------

    def _special_line(self, number: int, version: int) -> bytes:
        """Return the line of a file that belongs to no run."""
        rng = random.Random(f"{self.name} special {number}")
        before, after = (at * self.n_long // self.n_special for at in (number, number + 1))
        make = self._timeless if before == after else self._long
        about, begin, end = make(number if before == after else before, rng)
        label = f"{begin:%Y%m%d}" if begin else "all"
        written_at = (end or _first_of_season(rng.randrange(SEASONS))) + timedelta(days=3 + 365 * version)
        about |= {"facility": self.name, "storage": self.storages[0], "format": self.format}
        about |= {"processing": rng.choice(PROCESSINGS)} | _later(version)
        return _line(
            _opening(about),
            path=f"{about['kind']}/{about['level']}/{self.name}_{label}_{number:06d}{self._suffix}",
            sums="both",
            size_bytes=10_000 + int(1e8 * rng.random()),
            version=version,
            times=_times(written_at, begin, end),
        )

    def _long(self, number: int, rng: random.Random) -> tuple[_Values, datetime | None, datetime | None]:
        """Describe a summary of a month, a summary of a week, or a response that is valid for years, in turn."""
        season = _first_of_season(rng.randrange(SEASONS))
        if number % 3 == 2:
            return {"kind": "irf", "level": "DL3"}, season, season + timedelta(days=365 * rng.randint(1, 3))
        if number % 3 == 1:
            begin = season + timedelta(weeks=rng.randrange(38))
            return {"kind": "summary", "level": "week"}, begin, begin + timedelta(weeks=1)
        begin = season + timedelta(days=30 * rng.randrange(9))
        return {"kind": "summary", "level": "month", "channel": "monitor"}, begin, begin + timedelta(days=30)

    def _timeless(self, number: int, _rng: random.Random) -> tuple[_Values, datetime | None, datetime | None]:
        """Describe a catalogue of sources or a response that is always valid."""
        return {"kind": "irf" if number % 2 else "catalogue", "level": "DL4"}, None, None


@dataclass(frozen=True, kw_only=True, slots=True)
class _Run:
    """What the lines of a run are made of; they must be made in order, as chance is the same for all."""

    rng: random.Random
    data: str
    """Opening of the lines of data."""
    monitoring: str
    """Opening of the lines of monitoring."""
    level: str
    stem: str
    """Path below the level, up to the number of the part."""
    suffix: str
    sums: str
    version: int
    begin: datetime
    length: timedelta
    part_length: timedelta
    written_at: datetime
    has_end: bool
    has_energy: bool
    pointing: tuple[float, float] | None

    def data_line(self, part: int) -> bytes:
        """Return the line of a file of data."""
        chance = self.rng.random
        begin = self.begin + part * self.part_length
        content = f',"n_events":{100 + int(1e6 * chance())}'
        if self.pointing is not None:
            ra_deg, dec_deg = self.pointing[0] + 0.05 * chance(), self.pointing[1] + 0.05 * chance()
            content += f',"ra_deg":{ra_deg:.4f},"dec_deg":{dec_deg:.4f}'
        if self.has_energy:
            low_ev = 10 ** (10.5 + 1.5 * chance())
            high_ev = low_ev * 10 ** (1 + 1.5 * chance())
            content += f',"energy_min_ev":{low_ev:.6e},"energy_max_ev":{high_ev:.6e}'
        return _line(
            self.data,
            path=f"{self.level}/{self.stem}{part:03d}{self.suffix}",
            sums=self.sums,
            size_bytes=1_000_000 + int(4e8 * chance() ** 2),
            version=self.version,
            times=_times(self.written_at, begin, begin + self.part_length if self.has_end else None),
            content=content,
        )

    def monitoring_line(self, part: int, number: int) -> bytes:
        """Return the line of a file of monitoring: as long as the run, the second from its middle on."""
        begin = self.begin + number * self.length / MONITORING_FILES - timedelta(seconds=30)
        return _line(
            self.monitoring,
            path=f"aux/{self.stem}{part:03d}{self.suffix}",
            sums=self.sums,
            size_bytes=10_000 + int(1e6 * self.rng.random()),
            version=self.version,
            times=_times(self.written_at, begin, begin + self.length),
        )


_TARGET_WEIGHTS = list(
    accumulate(
        [(1 - TAIL_SHARE) / len(TARGETS)] * len(TARGETS)
        + [TAIL_SHARE / (number + 3.5) / 2.12 for number in range(TAIL_TARGETS)]
    )
)
"""Sums of the shares of a facility's targets."""


def _first_of_season(season: int) -> datetime:
    return datetime(FIRST_YEAR + season, 9, 1, tzinfo=UTC)


def _later(version: int) -> _Values:
    """Return what a version says that is not the first: it is processed later."""
    return {"processing": f"v{version + 2}.1"} if version else {}


def _opening(values: _Values) -> str:
    """Return the JSON of the values that are known, without its closing brace."""
    known = {name: value for name, value in values.items() if value is not None}
    return msgspec.json.encode(known)[:-1].decode()


def _times(written_at: datetime, begin: datetime | None, end: datetime | None) -> str:
    found = f',"modified_at":"{written_at.isoformat()}"'
    if begin is not None:
        found += f',"time_begin":"{begin.isoformat()}"'
    if end is not None:
        found += f',"time_end":"{end.isoformat()}"'
    return found


def _line(opening: str, *, path: str, sums: str, size_bytes: int, version: int, times: str, content: str = "") -> bytes:
    """Return a line: what several files have in common, and what is of this one only."""
    known = ""
    if sums != "none":
        identity = f"{path} {version}".encode()
        known = f',"sha256":"{hashlib.sha256(identity).hexdigest()}"'
        if sums == "both":
            known += f',"md5":"{hashlib.md5(identity, usedforsecurity=False).hexdigest()}"'
    size_bytes += 4096 * version
    return f'{opening},"path":"{path}","size_bytes":{size_bytes}{known}{times}{content}}}\n'.encode()


def _removal_line(line: bytes) -> bytes:
    """Return the line that removes the file of a line."""
    record = msgspec.json.decode(line, type=FileRecord)
    return encode_lines([Removal(facility=record.facility, storage=record.storage, path=record.path)])


# --- the whole --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True, slots=True)
class Batch:
    """Lines of one facility in a file, ready to be sent."""

    facility: str
    path: Path
    n_lines: int
    n_bytes: int


def make_facilities(n_files: int) -> list[GeneratedFacility]:
    """Return all facilities, with `n_files` files together; each has at least one.

    Raises
    ------
    ValueError
        There are fewer files than facilities.
    """
    if n_files < len(_SHARES):
        raise ValueError(f"n_files: got {n_files}, expected at least {len(_SHARES)}, one for each facility")
    counts = [1 + int(share * (n_files - len(_SHARES))) for share in _SHARES.values()]
    counts[0] += n_files - sum(counts)
    return [
        GeneratedFacility(name=name, number=number, n_files=count)
        for number, (name, count) in enumerate(zip(_SHARES, counts, strict=True))
    ]


def make_storages(generated: GeneratedFacility) -> list[Storage]:
    """Return the storages of a facility; nothing is there, and nobody looks."""
    return [
        Storage(name=name, root=f"/nowhere/{name}", facility=None if name == SHARED_STORAGE else generated.name)
        for name in generated.storages
    ]


@contextmanager
def written_batches(
    facilities: Sequence[GeneratedFacility], folder: Path, *, batch_lines: int
) -> Iterator[list[Batch]]:
    """Give the lines of all facilities in files below `folder`, which is gone afterwards."""
    yield write_batches(facilities, folder, batch_lines=batch_lines)
    shutil.rmtree(folder)


def write_batches(
    facilities: Sequence[GeneratedFacility],
    folder: Path,
    *,
    batch_lines: int,
    edition: Edition = FIRST_EDITION,
    processes: int = 1,
) -> list[Batch]:
    """Write the lines of all facilities below `folder`, each file with lines of one facility only.

    What is written does not depend on the number of processes. There is no file without a line.
    """
    folder.mkdir(parents=True, exist_ok=True)
    parts = [
        (generated, first, edition) for generated in facilities for first in range(0, generated.n_files, batch_lines)
    ]
    jobs = [_Job(folder / f"{at:05d}-{part[0].name}.ndjson", *part, batch_lines) for at, part in enumerate(parts)]
    if processes == 1:
        written = list(map(_write_batch, jobs))
    else:
        with ProcessPoolExecutor(processes, mp_context=get_context("spawn")) as pool:
            written = list(pool.map(_write_batch, jobs))
    return [batch for batch in written if batch is not None]


@dataclass(frozen=True, slots=True)
class _Job:
    """A file to be written by some process."""

    path: Path
    generated: GeneratedFacility
    first: int
    edition: Edition
    batch_lines: int


def _write_batch(job: _Job) -> Batch | None:
    lines = list(job.generated.iter_lines(job.first, job.first + job.batch_lines, job.edition))
    if not lines:
        return None
    n_bytes = job.path.write_bytes(b"".join(lines))
    return Batch(facility=job.generated.name, path=job.path, n_lines=len(lines), n_bytes=n_bytes)


@click.command()
@click.option("--files", type=click.IntRange(len(_SHARES)), default=1_000_000, show_default=True, help="Files in all.")
@click.option("--out", type=click.Path(file_okay=False, path_type=Path), required=True, help="Folder for the lines.")
@click.option("--batch-lines", type=click.IntRange(1), default=50_000, show_default=True, help="Most lines of a file.")
@click.option(
    "--processes", type=click.IntRange(1), default=1, show_default=True, help="Processes that share the work."
)
@click.option("--version", type=click.IntRange(0), default=0, show_default=True, help="0 first; others are changes.")
@click.option("--share", type=click.FloatRange(0, 1), default=1.0, show_default=True, help="Share of the runs.")
@click.option("--removals", is_flag=True, help="Write removals of the files.")
def main(
    *, files: int, out: Path, batch_lines: int, processes: int, version: int, share: float, removals: bool
) -> None:
    """Write the lines of a generated catalogue.

    \b
    Example:
      python -m benchmarks.catalogue --files 100000 --out lines
      python -m benchmarks.catalogue --files 100000 --out changes --version 1 --share 0.3
    """
    edition = Edition(version=version, share=share, is_removal=removals)
    batches = write_batches(make_facilities(files), out, batch_lines=batch_lines, edition=edition, processes=processes)
    n_lines, n_bytes = sum(batch.n_lines for batch in batches), sum(batch.n_bytes for batch in batches)
    click.echo(f"{n_lines:,} lines, {n_bytes / 1e6:,.1f} MB, in {len(batches):,} files below {out}")


if __name__ == "__main__":
    main()
