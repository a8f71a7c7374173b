"""Every benchmark once, as small as can be: whether it runs and what it tells, never how fast anything was."""

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from benchmarks.__main__ import main
from benchmarks.questions import KINDS

SMALL = [
    "--questions=1",
    "--staged=3",
    "--tiny=5",
    "--files=300",
    "--samples=0.02",
    "--repeats=1",
    "--limit-s=0.2",
    "--requests=500",
]


def run_benchmark(which: str, tmp_path: Path) -> dict[str, Any]:
    """Run one benchmark and return what it wrote."""
    json_file = tmp_path / "figures.json"
    arguments = [which, *SMALL, f"--data-dir={tmp_path / 'data'}", f"--json={json_file}"]
    result = CliRunner().invoke(main, arguments, catch_exceptions=False)
    assert result.exit_code == 0
    content: dict[str, Any] = json.loads(json_file.read_bytes())
    assert content["tables"]
    for table in content["tables"]:
        assert f"### {table['title']}" in result.output
    for name, value in content["machine"].items():
        assert f"- {name}: {value}" in result.output
    return content


def figures(table: dict[str, Any]) -> dict[str, dict[str, float]]:
    """Return row → column → median."""
    return {
        row["label"]: {column: figure["median"] for column, figure in row["figures"].items()} for row in table["rows"]
    }


@pytest.mark.long
def test_misses_tell_ratios_to_their_sql_and_to_the_peer_or_why_not(tmp_path: Path) -> None:
    beside_sql, beside_peer = run_benchmark("misses", tmp_path)["tables"]
    for found in figures(beside_sql).values():
        assert found["ratio to SQL"] == pytest.approx(found["miss p50"] / found["SQL p50"])
        assert found["SQL p50"] > found["page p50"] > 0
        assert found["ordinary to miss"] == pytest.approx(found["ordinary p50"] / found["miss p50"])
    assert figures(beside_peer) or "needs" in beside_peer["notes"][0] or "installed" in beside_peer["notes"][0]


@pytest.mark.long
def test_ingest_tells_rates_and_memory_for_new_and_for_unchanged_records(tmp_path: Path) -> None:
    rows = figures(run_benchmark("ingest", tmp_path)["tables"][0])
    assert list(rows) == ["2 at a time, new", "2 at a time, unchanged", "one stream, new", "one stream, unchanged"]
    for found in rows.values():
        assert found["records per second"] > 0
        assert found["web"] > 10
        assert found["Postgres"] > 1


@pytest.mark.long
def test_writes_tell_ratios_to_copy_steps_of_a_first_load_and_latencies_while_ingest_runs(tmp_path: Path) -> None:
    ingest, again, first_load, searches = map(figures, run_benchmark("writes", tmp_path)["tables"])
    assert list(ingest) == ["2 at a time", "one stream", "2 at a time, on top"]
    for found in ingest.values():
        rate, bare = found["ingest, records per second"], found["COPY, records per second"]
        assert found["ratio"] == pytest.approx(rate / bare)
    assert list(again) == ["2 at a time", "one stream"]
    for way, found in again.items():
        rate = ingest[way]["ingest, records per second"]
        assert found["ratio to new"] == pytest.approx(found["records per second"] / rate)
    in_all = first_load.pop("in all")
    assert list(first_load) == ["copy", "indexes", "count", "commit", "vacuum"]
    assert 0 < sum(found["time"] for found in first_load.values()) <= in_all["time"]
    assert in_all["records per second"] == pytest.approx(300 / in_all["time"])
    alone, meanwhile = searches["without ingest"], searches["while ingest runs"]
    assert 0 < alone["p50"] <= alone["p99"]
    assert meanwhile["ratio of p99"] == pytest.approx(meanwhile["p99"] / alone["p99"])
    assert meanwhile["ingest, records per second"] > 0


@pytest.mark.long
def test_archives_tell_rates_and_beginnings(tmp_path: Path) -> None:
    rates, beginnings = map(figures, run_benchmark("archives", tmp_path)["tables"])
    assert set(rates) - {"zip as a file, nginx", "tar as a file, nginx"} == {"zip", "tar"}
    assert all(found["rate"] > 0 for found in rates.values())
    assert list(beginnings) == [f"{kind} of {count} files" for count in (1, 5) for kind in ("zip", "tar")]
    for found in beginnings.values():
        assert all(found[place] > 0 for place in ("first", "beginning", "middle", "last bytes", "whole"))


@pytest.mark.long
def test_search_tells_latencies_of_all_kinds_of_questions_and_rates(tmp_path: Path) -> None:
    latencies, rates = map(figures, run_benchmark("search", tmp_path)["tables"])
    assert list(latencies) == list(KINDS)
    for found in latencies.values():
        assert 0 < found["uncached p50"] <= found["uncached p99"]
        assert 0 < found["cached p50"] <= found["cached p99"]
    assert list(rates) == ["facility and month", "mixture"]
    for found in rates.values():
        for connections in (1, 16):
            assert found[f"uncached, {connections} at a time"] > 0
            assert found[f"cached, {connections} at a time"] > 0


@pytest.mark.long
def test_look_ups_tell_latencies_of_all_kinds_and_how_other_ways_compare(tmp_path: Path) -> None:
    ahead, latencies, compared = map(figures, run_benchmark("lookups", tmp_path)["tables"])
    assert ahead["sums of strata and days"]["time"] > 0
    assert list(latencies) == list(KINDS)
    for found in latencies.values():
        assert 0 < found["summary p50"] < found["p50"] <= found["p95"]
    scans = [f"{kind}: count" for kind in ("facility and month", "season, all facilities", "everything")]
    assert list(compared) == [*scans, "facility and month: page"]
    for label in scans:
        found = compared[label]
        assert found["ratio"] == pytest.approx(found["other way"] / found["ours"])


@pytest.mark.long
def test_history_tells_the_ratio_of_look_ups_with_three_versions(tmp_path: Path) -> None:
    (rows,) = map(figures, run_benchmark("history", tmp_path)["tables"])
    for found in rows.values():
        assert found["ratio"] == pytest.approx(found["three versions"] / found["one version"])


@pytest.mark.long
def test_a_migration_tells_how_long_a_reader_waited(tmp_path: Path) -> None:
    (rows,) = map(figures, run_benchmark("migration", tmp_path)["tables"])
    found = rows["migrate"]
    assert 0 < found["reader, p50"] <= found["reader, longest"] <= 1e3 * found["time"]


@pytest.mark.long
def test_staging_tells_the_ratio_to_a_plain_copy_and_the_memory_of_the_worker(tmp_path: Path) -> None:
    rows = figures(run_benchmark("staging", tmp_path)["tables"][0])
    first = rows["export, all files new"]
    assert first["ratio to cp -r"] == pytest.approx(rows["cp -r"]["time"] / first["time"])
    assert first["worker"] > 10
    assert rows["export, all files there (links only)"]["files per second"] > 0
    assert rows["export of 5 tiny files"]["worker"] > 10


@pytest.mark.long
def test_extraction_tells_rates_of_both_readers_and_the_ratio_to_getheader(tmp_path: Path) -> None:
    tables = run_benchmark("extraction", tmp_path)["tables"]
    rows = figures(tables[0])
    yardstick = rows["fits, getheader of two headers"]["files per second of one core"]
    for mode in ("header only", "full"):
        fits, hdf5 = rows[f"fits, {mode}"], rows[f"hdf5, {mode}"]
        assert fits["ratio to getheader"] == pytest.approx(fits["files per second of one core"] / yardstick)
        assert hdf5["files per second of one core"] > 0
    scans = figures(tables[-1])
    assert list(scans) == ["header only", "full"]
    for found in scans.values():
        assert found["files per second"] > 0
        assert found["memory"] > 50


@pytest.mark.long
def test_hits_tell_rates_beside_rivals_and_what_many_requests_take(tmp_path: Path) -> None:
    rates, ratios, cold, workers, seasons, memory = map(figures, run_benchmark("hits", tmp_path)["tables"])
    assert {"hit in memory", "hit in Redis", "pure ASGI, the same bytes"} <= rates.keys()
    assert all(found["answers per second"] > 0 for found in (*rates.values(), *workers.values()))
    assert all(ratio > 0 for ratio in ratios["ratio"].values())
    assert cold["searches"]["p50"] <= cold["searches"]["slowest"]
    assert seasons["while files of another season come"]["hits"] > 0
    assert memory["resident"]["before"] <= memory["resident"]["in the end"]
