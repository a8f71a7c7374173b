"""Settings fail at start, all at once, and keep their secrets; the README tells what they are."""

from dataclasses import MISSING, Field, fields
from pathlib import Path
from typing import Any

import pytest

from aggregator.settings import PREFIX, Settings, SettingsError

README = Path(__file__).parents[1] / "README.md"
MARKER = "<!-- settings -->"
HOME = Path("~").expanduser()


def test_without_anything_set_the_defaults_hold() -> None:
    settings = Settings.from_environ({})
    assert settings == Settings()
    assert (settings.database_url, settings.redis_url) == (None, None)
    assert (settings.host, settings.port) == ("127.0.0.1", 8000)


def test_each_variable_is_read_as_what_it_means() -> None:
    settings = Settings.from_environ(
        {
            "CATCHMENT_DATABASE_URL": "postgresql://u:secret@db/catchment",
            "CATCHMENT_REDIS_URL": "redis://cache",
            "CATCHMENT_DATA_DIR": "~/somewhere",
            "CATCHMENT_HOST": "0.0.0.0",
            "CATCHMENT_PORT": "0",
            "CATCHMENT_POOL_SIZE": "3",
            "CATCHMENT_STATEMENT_TIMEOUT_S": "0.5",
            "CATCHMENT_ANSWER_TTL_S": "60",
            "CATCHMENT_ALLOWED_ORIGINS": "https://a.example, HTTP://b.example:8080",
            "CATCHMENT_GRAPHQL_SUGGESTIONS": "Yes",
            "CATCHMENT_LOG_LEVEL": "debug",
            "CATCHMENT_UNKNOWN": "is somebody else's",
            "PORT": "1",
        }
    )
    assert str(settings.database_url) == "postgresql://u:secret@db/catchment"
    assert str(settings.redis_url) == "redis://cache"
    assert settings.data_dir == HOME / "somewhere"
    assert settings.buffer_dir == HOME / "somewhere" / "buffer"
    assert (settings.host, settings.port, settings.pool_size) == ("0.0.0.0", 0, 3)
    assert (settings.statement_timeout_s, settings.answer_ttl_s, settings.log_level) == (0.5, 60, "DEBUG")
    assert settings.allowed_origins == {"https://a.example", "http://b.example:8080"}
    assert settings.graphql_suggestions is True
    assert settings.catalogue.database_url == "postgresql://u:secret@db/catchment"
    assert (settings.catalogue.pool_size, settings.catalogue.statement_timeout_s) == (3, 0.5)


def test_a_relative_directory_is_taken_from_where_the_command_was_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert Settings.from_environ({"CATCHMENT_DATA_DIR": "here"}).data_dir == tmp_path / "here"


def test_an_override_wins_unless_it_is_none() -> None:
    settings = Settings.from_environ({"CATCHMENT_PORT": "9000"}, port=None, host="::1")
    assert (settings.port, settings.host) == (9000, "::1")
    assert Settings.from_environ({"CATCHMENT_PORT": "9000"}, port=1).port == 1


def test_all_bad_values_are_listed_at_once() -> None:
    bad = {
        "CATCHMENT_DATABASE_URL": "localhost",
        "CATCHMENT_PORT": "70000",
        "CATCHMENT_POOL_SIZE": "0",
        "CATCHMENT_STATEMENT_TIMEOUT_S": "soon",
        "CATCHMENT_DRAIN_S": "nan",
        "CATCHMENT_LOG_LEVEL": "loud",
    }
    with pytest.raises(SettingsError) as caught:
        Settings.from_environ(bad | {"CATCHMENT_HOST": "fine"})
    lines = str(caught.value).splitlines()
    assert sorted(line.partition(":")[0] for line in lines) == sorted(bad)
    for name, text in bad.items():
        line = next(line for line in lines if line.startswith(f"{name}: got "))
        assert (repr(text) in line) == (name != "CATCHMENT_DATABASE_URL")
        assert line.rpartition("expected ")[2]
    assert "expected a port from 0 to 65535" in str(caught.value)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("PORT", ""),
        ("PORT", "-1"),
        ("PORT", "8000.0"),
        ("PORT", "²"),
        ("POOL_SIZE", "-1"),
        ("POOL_SIZE", "many"),
        ("POOL_SIZE", "1e3"),
        ("STATEMENT_TIMEOUT_S", "0"),
        ("STATEMENT_TIMEOUT_S", "-1"),
        ("STATEMENT_TIMEOUT_S", "inf"),
        ("STATEMENT_TIMEOUT_S", ""),
        ("ANSWER_TTL_S", "0"),
        ("ALLOWED_ORIGINS", "https://a.example/"),
        ("ALLOWED_ORIGINS", "*"),
        ("GRAPHQL_SUGGESTIONS", "1"),
        ("LOG_LEVEL", "TRACE"),
        ("REDIS_URL", "cache"),
        ("DATABASE_URL", ""),
    ],
)
def test_a_bad_value_is_refused_by_name_with_what_was_expected(name: str, text: str) -> None:
    with pytest.raises(SettingsError, match=rf"^CATCHMENT_{name}: got .*, expected (a|an|yes|origins|DEBUG,) "):
        Settings.from_environ({f"CATCHMENT_{name}": text})


def test_secrets_are_never_shown() -> None:
    environ = {
        "CATCHMENT_DATABASE_URL": "postgresql://someone:swordfish@db/catchment",
        "CATCHMENT_REDIS_URL": "redis://:swordfish@cache",
    }
    settings = Settings.from_environ(environ)
    assert "swordfish" not in f"{settings!r} {settings!s} {settings.database_url!r} {settings.catalogue!r}"
    with pytest.raises(SettingsError) as caught:
        Settings.from_environ({"CATCHMENT_DATABASE_URL": "someone:swordfish@db", "CATCHMENT_PORT": "x"})
    assert "swordfish" not in f"{caught.value!r} {caught.value}"


def test_settings_cannot_be_altered() -> None:
    with pytest.raises(AttributeError):
        Settings().port = 1  # type: ignore[misc]


def test_a_catalogue_without_an_address_is_an_error() -> None:
    with pytest.raises(SettingsError, match="CATCHMENT_DATABASE_URL is not set"):
        _ = Settings().catalogue


# --- the README -----------------------------------------------------------------------------------------------------


def shown_default(item: Field[Any]) -> str:
    """Return a default as the README shows it: absent as none, the home directory as a tilde."""
    assert item.default is not MISSING
    if item.default in (None, frozenset()):
        return "none"
    if isinstance(item.default, bool):
        return f"`{'yes' if item.default else 'no'}`"
    return f"`{str(item.default).replace(str(HOME), '~', 1)}`"


def settings_table() -> str:
    rows = [
        f"| `{PREFIX}{item.name.upper()}` | {shown_default(item)} | {item.metadata['meaning']} |"
        for item in fields(Settings)
    ]
    return "\n".join(["| variable | default | meaning |", "|---|---|---|", *rows])


def test_the_table_of_settings_in_the_readme_is_that_of_the_code() -> None:
    told = README.read_text().split(MARKER)
    assert len(told) == 3, f"the README has no two lines {MARKER}; between them belongs\n\n{settings_table()}"
    assert told[1].strip() == settings_table(), f"in the README belongs\n\n{settings_table()}\n"
