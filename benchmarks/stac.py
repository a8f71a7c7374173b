"""How the service compares with pgstac, the usual STAC catalogue, on the same records in the same run.

Ingest: our requests against `pypgstac load`, each into an empty catalogue. Search: the same questions to both, none
asked before, answered with the same 12 fields of 50 files. Before anything is measured both must agree on how many
files match; only a cone, which is a polygon for pgstac, may match more there.
"""

import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from statistics import mean
from typing import Any

import httpx
import msgspec
import psutil  # type: ignore[import-untyped]

from benchmarks.catalogue import Batch, GeneratedFacility, make_facilities, written_batches
from benchmarks.ingest import BATCH_LINES, LANES, register, send_lanes, share_out
from benchmarks.load import Load, ask
from benchmarks.measuring import Sample, Table, gather, percentile
from benchmarks.pgstac import Api, Pgstac, running_pgstac
from benchmarks.questions import PAGE_FILES, Filter, iter_bodies
from benchmarks.service import BenchmarkError, Servers, Service, running_service
from benchmarks.stac_items import COMPARED, WITH_COUNT, Json, to_search, write_collections, write_items

DOCUMENT = f"""query Page($filter: SearchFilter!) {{
  search(filter: $filter, prepare: NEVER) {{
    totalCount {{ value }}
    totalBytes
    files(first: {PAGE_FILES}) {{
      nodes {{ facility path sizeBytes kind level timeBegin timeEnd obsId run object energyMinEv quality }}
      pageInfo {{ hasNextPage endCursor }}
    }}
  }}
}}"""
"""What Catchment is asked: that of `benchmarks.questions` without facets, which pgstac has not."""

CONNECTIONS = (1, 16)
"""Connections of the measurements."""

CHECKED = 10
"""Questions of each kind whose answers are compared before anything is measured."""

WARM_UP = 10
"""Questions of each kind asked before anything is measured."""

ANSWER_LIMIT_S = 120.0
"""Longest wait for an answer that is checked."""


@dataclass(frozen=True, kw_only=True, slots=True)
class _Way:
    """One way to load into pgstac; without options records are inserted, 10,000 in a chunk."""

    in_lanes: bool = False
    by_year: bool = False
    options: Sequence[str] = ()


WAYS: Mapping[str, _Way] = {
    "pypgstac load": _Way(),
    "pypgstac load, chunks of 200,000": _Way(options=["--chunksize=200000"]),
    "pypgstac load, upsert": _Way(options=["--method=upsert"]),
    f"pypgstac load, {LANES} at a time": _Way(in_lanes=True),
    f"pypgstac load, {LANES} at a time, upsert": _Way(in_lanes=True, options=["--method=upsert"]),
    f"pypgstac load, {LANES} at a time, partitions by year": _Way(in_lanes=True, by_year=True),
}
"""The default, what was found to be faster, and `upsert`, which can be repeated as our ingest can. What the last one
loads is searched."""


@dataclass(frozen=True, kw_only=True, slots=True)
class _Files:
    """The same records for both, ready to be sent."""

    lanes: Sequence[Sequence[Batch]]
    collections: Path
    items: Path
    item_lanes: Sequence[Path]


def run(servers: Servers, *, n_files: int, repeats: int, limit_s: float) -> Iterator[Table]:
    """Compare ingest and search of `n_files` generated records; each load takes at most `limit_s` seconds.

    A table comes as soon as all in it is measured.
    """
    facilities = make_facilities(n_files)
    folder = servers.data_dir / "pgstac"
    ingests: dict[str, list[Sample]] = {}
    with running_pgstac(folder) as pgstac, _written(facilities, folder / "lines") as files:
        for repeat in range(repeats):
            with running_service(servers, "stac") as service:
                for way, sample in _measure_ingest(servers, service, pgstac, facilities, files).items():
                    ingests.setdefault(way, []).append(sample)
                if repeat == repeats - 1:  # the last catalogues are those that are searched
                    yield _ingest_table(ingests, n_files, pgstac)
                    pgstac.make_indexes()
                    yield _measure_searches(service, pgstac, facilities, repeats=repeats, limit_s=limit_s)


def _ingest_table(ingests: Mapping[str, Sequence[Sample]], n_files: int, pgstac: Pgstac) -> Table:
    return Table(
        title=f"Ingest of {n_files:,} records, Catchment and pgstac",
        rows=tuple(gather(way, samples) for way, samples in ingests.items()),
        notes=(
            f"ratio: records per second of Catchment, {LANES} requests at a time over HTTP, to those of the row",
            "Catchment has all its indexes meanwhile; pgstac gets those of 'run' and 'block' afterwards",
            f"pgstac: {pgstac.versions()}",
        ),
    )


@contextmanager
def _written(facilities: Sequence[GeneratedFacility], folder: Path) -> Iterator[_Files]:
    """Give the records of all facilities in files below `folder`, which is gone afterwards."""
    shutil.rmtree(folder, ignore_errors=True)  # of a run that was killed
    folder.mkdir(parents=True)
    with written_batches(facilities, folder / "ours", batch_lines=BATCH_LINES) as batches:
        lanes = share_out(batches)
        names = [{batch.facility for batch in lane} for lane in lanes]
        files = _Files(
            lanes=lanes,
            collections=folder / "collections.ndjson",
            items=folder / "items.ndjson",
            item_lanes=[folder / f"items-{number}.ndjson" for number in range(LANES)],
        )
        write_collections(facilities, files.collections)
        with files.items.open("wb") as everything:
            for own, path in zip(names, files.item_lanes, strict=True):
                write_items([facility for facility in facilities if facility.name in own], path)
                with path.open("rb") as items:
                    shutil.copyfileobj(items, everything)
        yield files
    shutil.rmtree(folder)


# --- ingest -----------------------------------------------------------------------------------------------------------


def _measure_ingest(
    servers: Servers, service: Service, pgstac: Pgstac, facilities: Sequence[GeneratedFacility], files: _Files
) -> dict[str, Sample]:
    n_files = sum(facility.n_files for facility in facilities)
    register(service, facilities)
    begin = _begin()
    sent = send_lanes(service, files.lanes)
    ours = n_files / (time.perf_counter() - begin)
    if (added := sum(one.result.added for one in sent)) != n_files:
        raise BenchmarkError(f"{added} of {n_files} records were added")
    with servers.connect(service.settings.data_dir.name) as connection:
        connection.execute("vacuum analyze")  # now, and not by itself while pgstac is measured
        connection.execute("checkpoint")
    samples: dict[str, Sample] = {f"Catchment, {LANES} at a time": {"records per second": (ours, "")}}
    for label, way in WAYS.items():
        pgstac.make_empty()
        pgstac.load("collections", [files.collections])
        if way.by_year:
            pgstac.divide_by_year()
        begin = _begin()
        pgstac.load("items", files.item_lanes if way.in_lanes else [files.items], *way.options)
        theirs = n_files / (time.perf_counter() - begin)
        if (loaded := pgstac.count_items()) != n_files:
            raise BenchmarkError(f"{label}: there are {loaded} of {n_files} items")
        samples[label] = {"records per second": (theirs, ""), "ratio": (ours / theirs, "")}
    return samples


def _begin() -> float:
    """Start the clock when all that was written before is on the disk."""
    os.sync()
    return time.perf_counter()


# --- search -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True, slots=True)
class _Side:
    """One of those that are asked."""

    name: str
    url: str
    path: str
    process: psutil.Process
    translate: Callable[[bytes], bytes]
    """Makes what is posted out of the body of a GraphQL request."""
    read_count: Callable[[Any], int | None]
    """Finds in an answer how many files match; None where the side does not tell."""
    read_files: Callable[[Any], set[tuple[str, str]]]
    """Finds facility and path of the files in an answer."""

    def ask(self, bodies: Iterator[bytes], *, connections: int, limit_s: float) -> Load:
        """Ask until there are no more, or the time is over."""
        return ask(
            self.url,
            map(self.translate, bodies),
            connections=connections,
            limit=1_000_000,
            limit_s=limit_s,
            service=self.process,
            path=self.path,
        )

    def answer(self, body: bytes) -> bytes:
        """Return one answer as it is sent to a client that unpacks nothing."""
        headers = {"Content-Type": "application/json", "Accept-Encoding": "identity"}
        content = self.translate(body)
        answer = httpx.post(self.url + self.path, content=content, headers=headers, timeout=ANSWER_LIMIT_S)
        if answer.status_code != httpx.codes.OK:
            raise BenchmarkError(
                f"{self.name}: {content!r} was answered with {answer.status_code}: {answer.text[:2000]}"
            )
        return answer.content


@contextmanager
def _sides(service: Service, pgstac: Pgstac) -> Iterator[list[_Side]]:
    """Give all that are asked, ours first."""
    with pgstac.running_api(hydrates=False) as plain, pgstac.running_api(hydrates=True) as hydrating:
        yield [
            _Side(
                name="Catchment",
                url=service.url,
                path="/graphql",
                process=service.web,
                translate=lambda body: msgspec.json.encode(
                    {"query": DOCUMENT, "variables": {"filter": _filter_of(body)}}
                ),
                read_count=lambda answer: answer["data"]["search"]["totalCount"]["value"],
                read_files=lambda answer: {
                    (node["facility"], node["path"]) for node in answer["data"]["search"]["files"]["nodes"]
                },
            ),
            _stac_side("pgstac", plain, {}),
            _stac_side("pgstac, hydrating in the API", hydrating, {}),
            _stac_side("pgstac, the same and counting", hydrating, WITH_COUNT),
        ]


def _stac_side(name: str, api: Api, further: Json) -> _Side:
    return _Side(
        name=name,
        url=api.url,
        path="/search",
        process=api.process,
        translate=lambda body: msgspec.json.encode(to_search(_filter_of(body)) | further),
        read_count=lambda answer: answer.get("numberMatched"),
        read_files=lambda answer: {(item["collection"], item["id"]) for item in answer["features"]},
    )


def _filter_of(body: bytes) -> Filter:
    asked: Filter = msgspec.json.decode(body)["variables"]["filter"]
    return asked


def _measure_searches(
    service: Service, pgstac: Pgstac, facilities: Sequence[GeneratedFacility], *, repeats: int, limit_s: float
) -> Table:
    def bodies(kind: str, seed: str) -> Iterator[bytes]:
        return iter_bodies([kind], facilities, seed=f"stac {kind} {seed}")

    n_files = sum(facility.n_files for facility in facilities)
    samples: dict[str, list[Sample]] = {}
    with _sides(service, pgstac) as sides:
        sizes = {kind: _compare_answers(sides, list(islice(bodies(kind, "compared"), CHECKED))) for kind in COMPARED}
        for kind in COMPARED:
            for side in sides:
                side.ask(
                    islice(bodies(kind, f"warm-up {side.name}"), WARM_UP), connections=max(CONNECTIONS), limit_s=limit_s
                )
        for repeat in range(repeats):
            for kind in COMPARED:
                rates: dict[int, float] = {}
                for side in sides:
                    sample: dict[str, tuple[float, str]] = {"answer": (sizes[kind][side.name] / 1000, "kB")}
                    for connections in CONNECTIONS:
                        seed = f"{repeat} {connections} {side.name}"
                        load = side.ask(bodies(kind, seed), connections=connections, limit_s=limit_s)
                        when = f"{connections} at a time"
                        sample[f"p50, {when}"] = (1000 * percentile(load.latencies_s, 0.5), "ms")
                        sample[f"per second, {when}"] = (load.per_second, "")
                        ours = rates.setdefault(connections, load.per_second)
                        sample[f"ratio, {when}"] = (ours / load.per_second, "")
                    samples.setdefault(f"{kind}: {side.name}", []).append(sample)
    return Table(
        title=f"Search among {n_files:,} files, uncached, Catchment and pgstac",
        rows=tuple(gather(label, repeated) for label, repeated in samples.items()),
        notes=(
            "ratio: answers per second of Catchment to those of the row",
            "Catchment tells for every answer how many files match and how many bytes they have; pgstac tells neither, "
            "'counting' how many match",
            f"answer: mean of {CHECKED} questions, for which all were found to match the same files; for a cone, which "
            "is a polygon for pgstac, it may be more there",
        ),
    )


def _compare_answers(sides: Sequence[_Side], bodies: Sequence[bytes]) -> dict[str, float]:
    """Return the mean size of the answers of each side, in bytes.

    Raises
    ------
    BenchmarkError
        They do not match the same files.
    """
    sizes: dict[str, list[int]] = {}
    for body in bodies:
        raw = {side.name: side.answer(body) for side in sides}
        answers = [msgspec.json.decode(answer) for answer in raw.values()]
        for name, answer in raw.items():
            sizes.setdefault(name, []).append(len(answer))
        counts = [side.read_count(answer) for side, answer in zip(sides, answers, strict=True)]
        files = [side.read_files(answer) for side, answer in zip(sides, answers, strict=True)]
        count, is_cone = counts[0] or 0, "cone" in _filter_of(body)
        for side, other_count, other_files in zip(sides, counts, files, strict=True):
            if other_count is not None and (other_count < count if is_cone else other_count != count):
                raise BenchmarkError(f"{body!r}: {count} files match, of {side.name} {other_count}")
            if len(other_files) < min(count, PAGE_FILES) or (not is_cone and len(other_files) > PAGE_FILES):
                raise BenchmarkError(f"{body!r}: {side.name} returned {len(other_files)} files, {count} match")
            if count <= PAGE_FILES and not is_cone and other_files != files[0]:
                raise BenchmarkError(f"{body!r}: the files of {side.name} are others")
    return {name: mean(found) for name, found in sizes.items()}
