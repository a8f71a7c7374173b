"""A question is told in words, whatever it asks, on one line."""

import re
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import msgspec
import pytest
import yaml

from aggregator.citation import Citation, title
from metadata_db.query import (
    Alert,
    AttributeFilter,
    Cone,
    EnergyRange,
    Interval,
    RunRange,
    SearchQuery,
    parse_coincidence,
)

NOON = datetime(2019, 11, 2, 12, tzinfo=UTC)
MIDNIGHT = datetime(2019, 11, 3, tzinfo=UTC)

CASES: list[tuple[dict[str, Any], str]] = [
    ({}, "All files"),
    ({"facility": ("aurora", "borealis")}, "Files with facility aurora or borealis"),
    ({"obs_id": ("1",), "kind": ("events",)}, "Files with kind events; observation 1"),
    ({"is_simulation": False}, "Files with measured events"),
    ({"is_simulation": True}, "Files with simulated events"),
    ({"time": Interval(begin=NOON, end=MIDNIGHT)}, "Files with time from 2019-11-02T12:00:00Z before 2019-11-03"),
    ({"time": Interval(end=MIDNIGHT)}, "Files with time before 2019-11-03"),
    ({"time": Interval(begin=NOON.replace(microsecond=1))}, "Files with time from 2019-11-02T12:00:00.000001Z"),
    ({"run": (RunRange(first=1, last=1), RunRange(first=5, last=9))}, "Files with run 1 or 5 to 9"),
    ({"energy": EnergyRange(min_ev=1e12, max_ev=5e12)}, "Files with energy from 1e+12 eV to 5e+12 eV"),
    ({"energy": EnergyRange(max_ev=5e12)}, "Files with energy up to 5e+12 eV"),
    (
        {"cone": Cone(ra_deg=83.6, dec_deg=22.0, radius_deg=1.5)},
        "Files with position within 1.5° of RA 83.6°, Dec 22°",
    ),
    ({"attributes": (AttributeFilter(name="zenith_deg", minimum=10.0),)}, "Files with zenith_deg from 10"),
    ({"attributes": (AttributeFilter(name="trigger", values=("a", 1)),)}, "Files with trigger a or 1"),
    ({"path": ("**/*.fits",)}, "Files with path like **/*.fits"),
    ({"object": ("Crab\nNebula",)}, "Files with object Crab Nebula"),
    ({"object": tuple("abcdefgh")}, "Files with object a or b or c or d or e or 3 more"),
    (
        {"coincidence": parse_coincidence("c", within_s=10, files=SearchQuery(kind=("events",), level=("DL3",)))},
        "Files with other files within 10 s: level DL3, kind events",
    ),
    (
        {"coincidence": parse_coincidence("c", within_s=0.5, alerts=[Alert(time=NOON)])},
        "Files with 1 alert within 0.5 s",
    ),
    (
        {"coincidence": parse_coincidence("c", within_s=1, within_deg=2.5, alert_list="ab" * 32)},
        "Files with alerts of the list abababababab… within 1 s and 2.5°",
    ),
]


@pytest.mark.parametrize(("filters", "words"), CASES, ids=[words for _, words in CASES])
def test_a_question_in_words(filters: dict[str, Any], words: str) -> None:
    assert title(SearchQuery(**filters)) == words


def test_every_filter_there_is_is_told() -> None:
    told = {name for filters, _ in CASES for name in filters}
    plain = {"cluster", "detector", "channel", "storage", "level", "format", "processing", "quality", "conditions"}
    assert told | plain == set(SearchQuery.__dataclass_fields__)


CITATION = Citation(
    query_id="0123456789abcdef" * 2,
    authors=("Aurora {north} & south", "Łódź #1"),
    title='Files with object "Crab" 100%_~^\\',
    files=1,
    bytes=7,
    checksum="ab" * 16,
    revision=17,
    at=NOON,
)


def test_a_citation_as_an_entry_of_bibtex() -> None:
    assert CITATION.as_bibtex() == (
        "@misc{catchment-0123456789ab-17,\n"
        r"  author = {{Aurora \{north\} \& south} and {Łódź \#1}},"
        "\n"
        r'  title = {{Files with object "Crab" 100\%\_\textasciitilde{}\textasciicircum{}\textbackslash{}}},'
        "\n"
        "  year = {2019},\n  publisher = {Catchment},\n  version = {17},\n"
        f"  note = {{1 file, 7 bytes, checksum {'ab' * 16}, /q/{'0123456789abcdef' * 2}@17}},\n}}\n"
    )


def test_a_citation_as_a_citation_file() -> None:
    found = yaml.safe_load(CITATION.as_cff())
    assert found["title"] == 'Files with object "Crab" 100%_~^\\ (1 file, 7 bytes)'
    assert [author["name"] for author in found["authors"]] == list(CITATION.authors)
    assert (found["type"], found["version"], found["date-released"]) == ("dataset", "17", date(2019, 11, 2))
    assert [one["value"] for one in found["identifiers"]] == [CITATION.url, CITATION.checksum]
    undated = msgspec.structs.replace(CITATION, at=None, authors=())
    assert "date-released" not in yaml.safe_load(undated.as_cff())
    assert "year = {n.d.}" in undated.as_bibtex()
    assert undated.text.startswith("Catchment (n.d.). ")


def test_every_test_that_the_page_on_citation_names_is_there() -> None:
    root = Path(__file__).parents[2]
    named = re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", (root / "docs" / "data-citation.md").read_text(encoding="utf-8"))
    assert len(named) > 14
    missing = [
        f"{path}::{name}" for path, name in named if f"def {name}(" not in (root / path).read_text(encoding="utf-8")
    ]
    assert missing == []
