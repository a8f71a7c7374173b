import json
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from aggregator.commands.failures import Misuse
from aggregator.commands.filters import filter_options, take_filter


def parse(*arguments: str) -> dict[str, Any]:
    found: dict[str, Any] = {}

    @click.command()
    @filter_options
    @click.option("--other")
    def command(**options: Any) -> None:
        found.update(take_filter(options, upload=lambda path: f"id of {path.name}"))
        assert list(options) == ["other"], "a filter was left behind"

    result = CliRunner().invoke(command, arguments, standalone_mode=False)
    if result.exception is not None:
        raise result.exception
    return found


def test_without_options_nothing_is_filtered() -> None:
    assert parse() == {}


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--facility", "hess", "--facility", "magic"], {"facility": ["hess", "magic"]}),
        (["--obs-id", "0020136"], {"obsId": ["0020136"]}),
        (["--path", "2019/**/*.fits"], {"path": ["2019/**/*.fits"]}),
        (["--begin", "2019-11-02"], {"time": {"begin": "2019-11-02"}}),
        (["--season", "2019/20"], {"time": {"season": "2019/20"}}),
        (["--run", "5", "--run", "7..9"], {"run": [{"first": "5"}, {"first": "7", "last": "9"}]}),
        (["--energy", "1..10 TeV"], {"energy": {"min": 1.0, "max": 10.0, "unit": "TEV"}}),
        (["--energy", "..500GeV"], {"energy": {"max": 500.0, "unit": "GEV"}}),
        (["--energy", "1e-3.. PeV"], {"energy": {"min": 0.001, "unit": "PEV"}}),
        (["--cone", "83.6,-22.0,2"], {"cone": {"raDeg": 83.6, "decDeg": -22.0, "radiusDeg": 2.0}}),
        (["--attribute", "n_tels=4"], {"attributes": [{"name": "n_tels", "equals": 4}]}),
        (["--attribute", 'n_tels="4"'], {"attributes": [{"name": "n_tels", "equals": "4"}]}),
        (["--attribute", "gti=true"], {"attributes": [{"name": "gti", "equals": True}]}),
        (["--attribute", "mode=wobble"], {"attributes": [{"name": "mode", "equals": "wobble"}]}),
        (["--attribute", "zenith=10..45.5"], {"attributes": [{"name": "zenith", "min": 10.0, "max": 45.5}]}),
        (["--attribute", "zenith=..45"], {"attributes": [{"name": "zenith", "max": 45.0}]}),
        (["--attribute", "range=a..b"], {"attributes": [{"name": "range", "equals": "a..b"}]}),
        (["--simulated"], {"isSimulation": True}),
        (["--measured"], {"isSimulation": False}),
    ],
)
def test_options_become_the_filter_of_the_schema(arguments: list[str], expected: dict[str, Any]) -> None:
    assert parse(*arguments) == expected


def test_a_list_of_alerts_is_sent_and_its_id_asked_for(tmp_path: Path) -> None:
    path = tmp_path / "bursts.csv"
    path.touch()
    wanted = {"alertList": "id of bursts.csv", "withinS": 600.0}
    assert parse("--near", str(path), "--within-s", "600") == {"coincidence": wanted}
    found = parse("--near", str(path), "--within-s", "600", "--within-deg", "0.5")
    assert found == {"coincidence": wanted | {"withinDeg": 0.5}}
    for incomplete in (["--near", str(path)], ["--within-s", "0"], ["--within-deg", "0"]):
        with pytest.raises(Misuse, match="only make sense together"):
            parse(*incomplete)


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("energy", "1..10"),
        ("energy", "10 TeV"),
        ("energy", ".. TeV"),
        ("energy", "a..b TeV"),
        ("energy", "1..2 erg"),
        ("cone", "83.6,22.0"),
        ("cone", "a,b,c"),
        ("run", "5.."),
        ("run", "five"),
        ("attribute", "zenith"),
        ("attribute", "=5"),
    ],
)
def test_what_cannot_be_understood_is_told_with_option_value_and_expectation(option: str, value: str) -> None:
    with pytest.raises(Misuse) as caught:
        parse(f"--{option}", value)
    assert caught.value.message.startswith(f"--{option}: got {value!r}, expected ")
    assert caught.value.exit_code == 2


@given(first=st.integers(-(2**63), 2**63 - 1), last=st.integers(-(2**63), 2**63 - 1))
def test_runs_of_64_bits_are_passed_on_as_they_are(first: int, last: int) -> None:
    assert parse(f"--run={first}..{last}") == {"run": [{"first": str(first), "last": str(last)}]}


@given(
    value=st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1).filter(
        lambda text: ".." not in text
    )
)
def test_a_quoted_attribute_is_a_text_whatever_it_looks_like(value: str) -> None:
    assert parse(f"--attribute=a={json.dumps(value)}") == {"attributes": [{"name": "a", "equals": value}]}
