"""The pins are names and versions only, the same in both places, and there is one for everything that is used."""

import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
OWN = "catchment"


def normalise(requirement: str) -> str:
    """Name of a requirement as package indexes spell it (PEP 503)."""
    name = re.match(r"[A-Za-z0-9._-]+", requirement)
    assert name is not None, requirement
    return re.sub(r"[-_.]+", "-", name[0]).lower()


def read_pyproject() -> dict[str, Any]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text())


def read_pins() -> list[str]:
    return (ROOT / "constraints.txt").read_text().splitlines()


def iter_requirements(pyproject: dict[str, Any]) -> Iterator[str]:
    project = pyproject["project"]
    yield from project["dependencies"]
    for group in (*project["optional-dependencies"].values(), *pyproject["dependency-groups"].values()):
        yield from (item for item in group if isinstance(item, str))


def test_pins_are_sorted_names_and_versions_without_addresses() -> None:
    pins = read_pins()
    assert [pin for pin in pins if not re.fullmatch(r"[a-z0-9-]+==[A-Za-z0-9.!+]+", pin)] == []
    assert pins == sorted(pins)
    assert len({normalise(pin) for pin in pins}) == len(pins)


def test_uv_has_the_same_pins_as_pip() -> None:
    assert read_pyproject()["tool"]["uv"]["constraint-dependencies"] == read_pins()


def test_every_dependency_is_pinned() -> None:
    pinned = {normalise(pin) for pin in read_pins()}
    wanted = {normalise(requirement) for requirement in iter_requirements(read_pyproject())} - {OWN}
    assert wanted - pinned == set()


def test_no_lock_with_addresses_is_part_of_the_project() -> None:
    assert "uv.lock" in (ROOT / ".gitignore").read_text().splitlines()
