"""`catchment attribute`, as operators run it."""

import pytest

from tests.aggregator.commands.conftest import Catchment
from tests.aggregator.commands.test_bulk import register_names


@pytest.fixture
def registered(database_url: str, redis_url: str, monkeypatch: pytest.MonkeyPatch, catchment: Catchment) -> None:
    monkeypatch.setenv("CATCHMENT_DATABASE_URL", database_url)
    monkeypatch.setenv("CATCHMENT_REDIS_URL", redis_url)
    register_names(database_url)


def test_an_index_is_made_shown_and_dropped(catchment: Catchment, registered: None) -> None:
    said = catchment("attribute", "index", "zenith_deg").stdout
    assert said.startswith("zenith_deg: file_attribute_")
    assert said.endswith(" s, 8.19 kB\n")
    heading, _, *rows = catchment("attribute", "list").stdout.splitlines()
    assert heading.split() == ["name", "facility", "type", "asked", "indexed", "size"]
    assert "zenith_deg    aurora    number       0  yes      8.19 kB" in rows
    assert sum(" yes " in row for row in rows) == 1
    assert catchment("attribute", "unindex", "zenith_deg").stdout == "zenith_deg: has no index of its own now\n"
    assert " yes " not in catchment("attribute", "list").stdout


def test_what_is_no_attribute_is_a_misuse(catchment: Catchment, registered: None) -> None:
    said = catchment("attribute", "index", "colour", exit_code=2).stderr
    assert "name: got 'colour', expected a declared attribute" in said
