"""The catalogue that ingest and search are measured on: invented, but shaped like that of real observatories.

Twelve facilities, the largest with 44 times the files of the smallest, observe in the seasons (September to May) of
five years: nights of runs, runs of 24 files, a few favourite targets, calibration runs without position and energy,
three to six attributes each. What is generated depends on the number of files alone. A line has about 800 bytes.
"""

import hashlib
import random
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import islice
from pathlib import Path

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
    Storage,
)

FILES_PER_RUN = 24
"""Files of one run."""

RUNS_PER_BLOCK = 10
"""Runs of one observation block: an attribute with many values, of which each is rare."""

FIRST_YEAR, SEASONS, NIGHTS_PER_SEASON = 2015, 5, 270
"""Seasons begin on 1 September."""

TRIGGERS = ("stereo", "mono", "coincidence", "topological", "external")
"""Values of an attribute of which each is frequent."""

QUALITIES = ("good", "good", "good", "good", "fair", "bad", None)
"""Qualities as often as they occur; None is not known."""

CONDITIONS = ("clear", "clear", "thin cloud", "dust", None, None)
"""Weather as often as it occurs."""

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
_TARGETS = (
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
_ATTRIBUTES: Sequence[tuple[str, AttributeType, str | None, str]] = (
    ("block", "text", None, "Observation block"),
    ("trigger", "text", None, "Name of the trigger"),
    ("zenith_deg", "number", "deg", "Zenith angle of the pointing"),
    ("n_telescopes", "integer", None, "Telescopes in use"),
    ("calibrated", "boolean", None, "Whether calibrated"),
    ("threshold_ev", "number", "eV", "Energy threshold"),
)
_FORMATS = (("fits", ".fits"), ("fits+gzip", ".fits.gz"), ("hdf5", ".h5"))


@dataclass(frozen=True, kw_only=True, slots=True)
class GeneratedFacility:
    """One facility: how many files it has, and the habits in which it differs from the others."""

    name: str
    number: int
    n_files: int

    @property
    def n_runs(self) -> int:
        """Runs, the last perhaps not whole."""
        return -(-self.n_files // FILES_PER_RUN)

    @property
    def first_run(self) -> int:
        """Number of the first run; the others follow without gaps."""
        return 10_000 * (self.number + 1)

    @property
    def storage(self) -> str:
        """Name of its storage."""
        return f"{self.name}-disk"

    @property
    def attributes(self) -> Sequence[tuple[str, AttributeType, str | None, str]]:
        """What it declares beyond the core fields."""
        return _ATTRIBUTES[: 3 + self.number % 4]

    def block(self, run: int) -> str:
        """Name of the observation block of a run."""
        return f"{self.name[:3].upper()}-{(run - self.first_run) // RUNS_PER_BLOCK:05d}"

    def facility(self) -> Facility:
        """Return its vocabulary."""
        return Facility(
            name=self.name,
            title=f"{self.name.capitalize()} Observatory (invented)",
            clusters=[Cluster(name="north"), Cluster(name="south")],
            detectors=[Detector(name="tel-north", cluster="north"), Detector(name="tel-south", cluster="south")],
            channels=[Channel(name="gamma"), Channel(name="calibration")],
            attributes=[
                Attribute(name=name, type=kind, unit=unit, meaning=meaning)
                for name, kind, unit, meaning in self.attributes
            ],
        )

    def iter_records(self) -> Iterator[FileRecord]:
        """Yield its files in the order in which they were written."""
        rng = random.Random(f"catalogue of {self.name}")
        for index in range(self.n_runs):
            n_parts = min(FILES_PER_RUN, self.n_files - index * FILES_PER_RUN)
            yield from self._iter_run(index, n_parts, rng)

    def _iter_run(self, index: int, n_parts: int, rng: random.Random) -> Iterator[FileRecord]:
        run = self.first_run + index
        begin, part_s = self._schedule(index)
        side = rng.choice(("north", "south"))
        is_calibration = rng.random() < 0.1
        is_simulation = rng.random() < 0.05
        object_, ra_deg, dec_deg = rng.choice(_TARGETS)
        pointing = (round(ra_deg + rng.uniform(-0.5, 0.5), 4), round(dec_deg + rng.uniform(-0.5, 0.5), 4))
        about_run: dict[str, object] = {
            "facility": self.name,
            "storage": self.storage,
            "format": _FORMATS[self.number % 3][0],
            "kind": "calibration" if is_calibration else "events",
            "level": "raw" if is_calibration else rng.choice(("DL1", "DL3", "DL3")),
            "cluster": side,
            "detector": f"tel-{side}",
            "channel": "calibration" if is_calibration else "gamma",
            "obs_id": f"{self.name[:3].upper()}{run}",
            "run": run,
            "is_simulation": is_simulation,
            "quality": rng.choice(QUALITIES),
            "conditions": rng.choice(CONDITIONS),
            "attributes": self._attribute_values(run, rng),
        }
        if not is_calibration:
            about_run |= {
                "ra_deg": pointing[0],
                "dec_deg": pointing[1],
                "position_basis": "pointing",
                "energy_basis": "EVENTS.ENERGY",
                "object": object_,
            }
        for part in range(n_parts):
            yield self._record(about_run, begin + part * part_s, part_s, part, rng)

    def _schedule(self, index: int) -> tuple[datetime, timedelta]:
        """Spread the runs evenly over all nights, and those of a night evenly from 19:00 to 5:00 UTC."""
        n_nights = SEASONS * NIGHTS_PER_SEASON
        night = index * n_nights // self.n_runs
        first_of_night = -(-night * self.n_runs // n_nights)
        per_night = max(1, -(-self.n_runs // n_nights))
        season, day = divmod(night, NIGHTS_PER_SEASON)
        run_length = min(timedelta(hours=2), timedelta(hours=10) / per_night)
        begin = datetime(FIRST_YEAR + season, 9, 1, 19, tzinfo=UTC) + timedelta(days=day)
        return begin + (index - first_of_night) * run_length, run_length / (FILES_PER_RUN + 1)

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

    def _record(
        self, about_run: dict[str, object], begin: datetime, length: timedelta, part: int, rng: random.Random
    ) -> FileRecord:
        level, run = about_run["level"], about_run["run"]
        path = f"{level}/{begin:%Y/%m/%d}/{self.name}_{run:08d}_{part:03d}{_FORMATS[self.number % 3][1]}"
        identity = f"{self.name}/{path}".encode()
        content: dict[str, object] = {}
        if "energy_basis" in about_run:
            low_ev = round(10 ** rng.uniform(10.5, 12), -6)
            content = {"energy_min_ev": low_ev, "energy_max_ev": round(low_ev * 10 ** rng.uniform(1, 2.5), -6)}
        return FileRecord(
            path=path,
            size_bytes=rng.randrange(1_000_000, 400_000_000),
            sha256=hashlib.sha256(identity).hexdigest(),
            md5=hashlib.md5(identity, usedforsecurity=False).hexdigest(),
            modified_at=begin + length + timedelta(hours=2),
            time_begin=begin,
            time_end=begin + length,
            n_events=rng.randrange(100, 1_000_000),
            **about_run,  # type: ignore[arg-type]
            **content,  # type: ignore[arg-type]
        )


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
    counts = [max(1, int(share * n_files)) for share in _SHARES.values()]
    counts[0] += n_files - sum(counts)
    return [
        GeneratedFacility(name=name, number=number, n_files=count)
        for number, (name, count) in enumerate(zip(_SHARES, counts, strict=True))
    ]


def make_storage(generated: GeneratedFacility) -> Storage:
    """Return the storage of a facility; nothing is there, and nobody looks."""
    return Storage(name=generated.storage, root=f"/nowhere/{generated.name}", facility=generated.name)


@contextmanager
def written_batches(
    facilities: Sequence[GeneratedFacility], folder: Path, *, batch_lines: int
) -> Iterator[list[Batch]]:
    """Give the lines of all facilities in files below `folder`, which is gone afterwards."""
    yield write_batches(facilities, folder, batch_lines=batch_lines)
    shutil.rmtree(folder)


def write_batches(facilities: Sequence[GeneratedFacility], folder: Path, *, batch_lines: int) -> list[Batch]:
    """Write the lines of all facilities below `folder`, each file with lines of one facility only."""
    folder.mkdir(parents=True, exist_ok=True)
    batches: list[Batch] = []
    for generated in facilities:
        records = generated.iter_records()
        while chunk := list(islice(records, batch_lines)):
            path = folder / f"{len(batches):05d}-{generated.name}.ndjson"
            lines = encode_lines(chunk)
            path.write_bytes(lines)
            batches.append(Batch(facility=generated.name, path=path, n_lines=len(chunk), n_bytes=len(lines)))
    return batches
