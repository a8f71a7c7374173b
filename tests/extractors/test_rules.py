"""Every kind of rule, from a Description and a small file to the value in the record."""

import json
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from extractors.errors import DescriptionError
from extractors.extract import Extractor
from extractors.loading import load_description
from extractors.storages.local_tree import LocalTree
from metadata_db.records import FileRecord

Read = Callable[..., FileRecord]

HEAD = """\
format = 1
name = "t"
version = "1"

[facility]
name = "t"
detectors = [{ name = "T1" }]
attributes = [
    { name = "number", type = "number" },
    { name = "length_m", type = "number", unit = "m" },
    { name = "words", type = "list" },
    { name = "moment", type = "time" },
]

[validity]
begin = 2000-01-01
end = 2030-01-01

[clock.unix]
kind = "unix"

[clock.text]
kind = "text"

"""


def describe(folder: Path, product: str, *, head: str = HEAD) -> Path:
    path = folder / "t.toml"
    path.write_text(f'{head}[[product]]\nname = "p"\n{product}')
    return path


@pytest.fixture
def read(tmp_path: Path) -> Read:
    """Apply rules to a small JSON document, or text to a reader of choice, and return the record."""

    def read(rules: str, content: Any, *, name: str = "run_0041.json", product: str = 'reader = "json"') -> FileRecord:
        root = tmp_path / "root"
        root.mkdir(exist_ok=True)
        (root / name).write_text(content if isinstance(content, str) else json.dumps(content))
        match = r"match = '_(?P<run>\d+)(?P<extra>x)?\.'"
        description = load_description(describe(tmp_path, f"{match}\n{product}\n{rules}"))
        outcome = Extractor(tree=LocalTree(root), facility="t", storage="s", description=description).extract(name)
        assert outcome.record is not None, outcome
        return outcome.record

    return read


def at(seconds: float) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)


def test_a_constant_is_the_same_for_every_file(read: Read) -> None:
    record = read('[product.fields]\nkind = "events"\nis_simulation = { constant = false }', {})
    assert (record.kind, record.is_simulation) == ("events", False)
    assert record.provenance == {"kind": "constant", "is_simulation": "constant"}


def test_a_named_group_of_the_path_is_a_value_if_it_matched(read: Read) -> None:
    record = read('[product.fields]\nrun = { name = "run" }\nobject = { name = "extra" }', {})
    assert (record.run, record.object) == (41, None)
    assert record.provenance == {"run": "name (run)"}


def test_the_first_rule_that_gives_a_good_value_counts(read: Read) -> None:
    rules = '[product.fields]\nrun = [{ content = "/a" }, { content = "/b" }, { name = "run" }]'
    assert read(rules, {"a": 1, "b": 2}).run == 1
    assert read(rules, {"b": 2}).run == 2
    record = read(rules, {"a": "many", "b": ""})
    assert record.run == 41
    assert record.warnings == ["run: found 'many', expected a whole number of at most 63 bits"]


def test_numbers_are_summed_unless_one_is_missing(read: Read) -> None:
    rules = '[product.attributes]\nlength_m = { sum = ["/a", "/b"], unit = "cm" }'
    assert read(rules, {"a": 100, "b": "50"}).attributes == {"length_m": 1.5}
    assert read(rules, {"a": 100}).attributes == {}
    record = read(rules, {"a": 100, "b": "long"})
    assert record.attributes == {}
    assert "attributes.length_m: found 'long'" in record.warnings[0]


@pytest.mark.parametrize(("kind", "expected"), [("least", 1_600_000_000), ("greatest", 1_600_000_002)])
def test_of_several_places_the_extreme_counts_after_conversion(read: Read, kind: str, expected: int) -> None:
    rules = f'[product.fields]\ntime_begin = {{ {kind} = ["/a", "/b", "/c"], clock = "unix" }}'
    record = read(rules, {"a": 1_600_000_001, "b": "1600000000", "c": 1.600000002e9})
    assert record.time_begin == at(expected)
    assert record.provenance["time_begin"].startswith("content /")
    assert read(rules, {"b": 1_600_000_005}).time_begin == at(1_600_000_005)
    assert read(rules, {}).time_begin is None


def test_what_a_pattern_finds_in_the_text_is_the_value(read: Read) -> None:
    rules = "[product.fields]\nobject = { content = \"/title\", pattern = 'of (\\w+ \\d+)' }"
    assert read(rules, {"title": "A map of Mrk 421, smoothed"}).object == "Mrk 421"
    assert read(rules, {"title": "A map"}).object is None


def test_marks_for_missing_values_are_no_values(read: Read) -> None:
    rules = (
        '[product.fields]\nrun = { content = "/run", missing = [-1, 0] }\nobject = { content = "/o", missing = ["?"] }'
    )
    assert read(rules, {"run": -1, "o": "?"}).warnings == []
    assert read(rules, {"run": -1, "o": "?"}).provenance == {}
    assert read(rules, {"run": "-1.0", "o": "!"}).run is None
    assert read(rules, {"run": 7, "o": "!"}).provenance.keys() == {"run", "object"}


@pytest.mark.parametrize(
    ("valid", "value", "is_good"),
    [
        ("[0.0, 10.0]", 0, True),
        ("[0.0, 10.0]", 10, True),
        ("[0.0, 10.0]", 10.01, False),
        ("[0.0, 10.0]", "11", False),
        ("[0.0, inf]", 1e300, True),
        ("[0.0, inf]", -1, False),
        ("[-inf, 0]", -1e300, True),
    ],
)
def test_what_lies_outside_of_the_range_is_no_value_and_a_warning(
    read: Read, valid: str, value: float | str, is_good: bool
) -> None:
    record = read(f'[product.attributes]\nnumber = {{ content = "/n", valid = {valid} }}', {"n": value})
    assert (record.attributes.keys() == {"number"}, record.warnings == []) == (is_good, is_good)


def test_of_a_column_only_what_counts_is_reduced(read: Read) -> None:
    rules = (
        "[product.attributes]\n"
        'number = { content = "max(/e)", missing = [-999.0], valid = [0.0, 100.0] }\n'
        'words = { content = "distinct(/w)" }\n'
        'length_m = { content = "count(/e)", unit = "m", valid = [50.0, inf] }'
    )
    record = read(rules, {"e": [1, 2.5, -999, 1e9, -3], "w": ["b", "a", "b"]})
    assert record.attributes == {"number": 2.5, "words": ["a", "b"], "length_m": 1.0}
    assert record.warnings == []


def test_a_time_in_two_columns_is_exact(read: Read) -> None:
    rules = (
        '[product.fields]\ntime_begin = { content = "min(s; ns)", units = ["s", "ns"], clock = "unix" }\n'
        'time_end = { content = "max(s; ns)", units = ["s", "ns"], clock = "unix" }'
    )
    table = "s,ns\n1600000001,5000\n1600000000,999999000\n1600000000,123456000\n1600000001,7000\n"
    product = 'reader = { name = "table", delimiter = "," }'
    record = read(rules, table, name="run_1.csv", product=product)
    assert record.time_begin == datetime(2020, 9, 13, 12, 26, 40, 123456, UTC)
    assert record.time_end == datetime(2020, 9, 13, 12, 26, 41, 7, UTC)
    assert "[s, ns]" in record.provenance["time_begin"]


def test_words_are_translated_and_unknown_ones_are_no_value(read: Read) -> None:
    rules = '[product.fields]\ndetector = { content = "/tel", words = { 1 = "T1" } }'
    assert read(rules, {"tel": 1}).detector == "T1"
    record = read(rules, {"tel": "2"})
    assert record.detector is None
    assert record.warnings == ["detector: found '2', expected one of the known words 1"]


@pytest.mark.parametrize(
    ("unit", "value"),
    [("cm", 0.03), ("m", 3.0), ("parsec", 3 * 3.0856775814913674e16), ("furlongs?", None), ("s", None)],
)
def test_a_unit_is_read_from_the_file_and_an_unknown_one_is_no_value(
    read: Read, unit: str, value: float | None
) -> None:
    rules = '[product.attributes]\nlength_m = { content = "/l", unit = { content = "/u" } }'
    record = read(rules, {"l": 3, "u": unit})
    assert record.attributes.get("length_m") == (None if value is None else pytest.approx(value))
    assert len(record.warnings) == (value is None)


@pytest.mark.parametrize("moment", ["1970-01-01T00:00:00", "1999-12-31T23:59:59", "2030-01-01T00:00:00"])
def test_a_time_at_which_the_facility_cannot_have_measured_is_absent_with_a_warning(read: Read, moment: str) -> None:
    rules = '[product.fields]\ntime_begin = { content = "/t", clock = "text" }'
    record = read(rules, {"t": moment})
    assert record.time_begin is None
    assert "a time within the facility's validity, 2000-01-01 to 2030-01-01" in record.warnings[0]


@pytest.mark.parametrize("seconds", [0, -1e9, 9.467e13, 1e30])
def test_nineteen_seventy_and_the_year_three_million_are_absent_with_a_warning(read: Read, seconds: float) -> None:
    record = read('[product.fields]\ntime_begin = { content = "/t", clock = "unix" }', {"t": seconds})
    assert record.time_begin is None
    assert len(record.warnings) == 1
    good = read('[product.fields]\ntime_begin = { content = "/t", clock = "unix" }', {"t": 946684800})
    assert good.time_begin == datetime(2000, 1, 1, tzinfo=UTC)


def test_an_attribute_may_be_a_time(read: Read) -> None:
    record = read('[product.attributes]\nmoment = { content = "/t", clock = "unix" }', {"t": 1_600_000_000.5})
    assert record.attributes == {"moment": "2020-09-13T12:26:40.500000Z"}


@pytest.mark.parametrize("text", ["nul\0", "half \ud800"])
def test_text_that_no_catalogue_holds_is_no_value(read: Read, text: str) -> None:
    rules = '[product.fields]\nobject = { content = "/o" }\n[product.attributes]\nwords = { content = "all(/w)" }'
    record = read(rules, {"o": text, "w": ["good", text]})
    assert record.object is None
    assert record.warnings[0].startswith(("object: found ", "/o: "))
    assert record.attributes == {}
    assert len(record.warnings) == 2
    assert all(ord(character) not in (0, 0xD800) for warning in record.warnings for character in warning)


# ------------------------------------------------------------------------------------------------- the format


@pytest.mark.parametrize(
    ("product", "words"),
    [
        ('[product.fields]\nkind = { content = "/a", name = "b" }', "found name and content, expected exactly one"),
        ('reader = "json"\n[product.fields]\nkind = { content = "a" }', "found address 'a', expected"),
        ('reader = "json"\n[product.fields]\nkind = { content = "max(/a)", missin = [1] }', "unknown field `missin`"),
        ('reader = "json"\n[product.fields]\nkind = { content = "/a", pattern = "abc" }', "expected one with a group"),
        ('reader = "json"\n[product.fields]\nkind = { content = "/a", pattern = "(" }', "a regular expression"),
        ('reader = "json"\n[product.fields]\nrun = { content = "/a", valid = [2.0, 1.0] }', "a least and a largest"),
        ('reader = "json"\n[product.fields]\nrun = { content = "/a", valid = [1.0] }', "a least and a largest value"),
        ('reader = "json"\n[product.fields]\nkind = { join = "x", at = "/a" }', "expected one of the joins: none"),
        ('reader = { name = "json", deep = 1 }', "unknown field `deep`"),
        ('reader = { name = "table", skip = -1 }', "`int` >= 0"),
        ('reader = { name = "kaitai", module = "gone" }', "gone"),
        ("magic = { hex = 'zz' }", "matching regex"),
        ("magic = { text = 'x', at = 512 }", "<= 511, found 512"),
        ('[[product.relation]]\nkind = "sidecar_of"', "found none or both of path and obs_id"),
        ('[[product.relation]]\nkind = "sidecar_of"\npath = "{nam}.fits"', "found {nam}, expected one of path, folder"),
        ('[[product.relation]]\nkind = "part_of"\npath = "x"', "'part_of'"),
        ('[product.fields]\nkind = "a"\nkind = "b"', "Cannot overwrite a value"),
    ],
    ids=range(17),
)  # fmt: skip
def test_mistakes_say_what_was_expected_and_where(tmp_path: Path, product: str, words: str) -> None:
    path = describe(tmp_path, product)
    with pytest.raises(DescriptionError) as caught:
        load_description(path)
    assert words in str(caught.value)
    first = HEAD.count("\n") + 2
    assert first < caught.value.line <= first + product.count("\n") + 1
