"""What commands are told: options before environment variables before defaults."""

import os
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any, TypeVar

import click

from aggregator.commands.failures import Misuse
from aggregator.settings import PREFIX, Settings, SettingsError

F = TypeVar("F", bound=Callable[..., Any])


def load_settings(**options: Any) -> Settings:
    """Return the settings of this run; `options` that are None were not given.

    Raises
    ------
    Misuse
        A variable cannot be used; all of them are listed.
    """
    try:
        return Settings.from_environ(os.environ, **options)
    except SettingsError as error:
        raise Misuse(str(error)) from error


def environ_of(settings: Settings) -> dict[str, str]:
    """Return the environment for another process of ours that shall have exactly these settings."""
    others = {name: value for name, value in os.environ.items() if not name.startswith(PREFIX)}
    values = {item.name: getattr(settings, item.name) for item in fields(settings)}
    return others | {f"{PREFIX}{name.upper()}": _text(value) for name, value in values.items() if value is not None}


def _text(value: object) -> str:
    return ",".join(sorted(value)) if isinstance(value, frozenset) else str(value)


def data_dir_option(function: F) -> F:
    """Add ``--data-dir``."""
    return click.option(
        "--data-dir",
        type=click.Path(file_okay=False, path_type=Path),
        callback=lambda _context, _option, given: None if given is None else given.expanduser().absolute(),
        help="Where buffer and embedded servers keep their files.  [default: CATCHMENT_DATA_DIR, or "
        "~/.local/share/catchment]",
    )(function)
