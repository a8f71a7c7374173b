"""The filters of a question as options of the command line; what they mean is said by the GraphQL schema."""

import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import click

from aggregator.commands.failures import Misuse

F = TypeVar("F", bound=Callable[..., Any])

_WORDS: Mapping[str, str] = {
    "facility": "Name of a facility.",
    "cluster": "Name of a cluster: a station or group of detectors.",
    "detector": "Name of a detector.",
    "channel": "Name of a data channel.",
    "storage": "Name of a storage.",
    "level": "Data level, in the facility's words.",
    "kind": "Kind of content: events, irf, strain ...",
    "format": "Format of the stored bytes: fits, fits+gzip, hdf5 ...",
    "obs-id": "Observation id, verbatim.",
    "object": "Name of the observed object, verbatim.",
    "processing": "Name of a processing.",
    "quality": "Quality, in the facility's words.",
    "conditions": "Observing conditions, such as the weather.",
    "path": "Pattern of the path below the storage's root; '**' crosses folders.",
}
"""Options that may be given several times, for alternatives."""

_TIMES: Mapping[str, str] = {
    "begin": "From this moment on: 2019-11-02, or 2019-11-02T18:00:00Z.",
    "end": "Before this moment.",
    "season": "September to May: 2019/20.",
    "month": "2019-11.",
    "week": "ISO week: 2019-W45.",
    "night": "Noon to noon UTC, by the date of its evening: 2019-11-02.",
}


def filter_options(function: F) -> F:
    """Add one option per filter; `take_filter` reads them out of the arguments."""
    options = [
        *(click.option(f"--{name}", multiple=True, metavar="TEXT", help=text) for name, text in _WORDS.items()),
        *(click.option(f"--{name}", metavar="TIME", help=text) for name, text in _TIMES.items()),
        click.option("--run", multiple=True, metavar="N|N..M", help="Run, or first and last run."),
        click.option("--energy", metavar="RANGE", help="Range with unit: '1..10 TeV', '..500 GeV', '1.. PeV'."),
        click.option("--cone", metavar="RA,DEC,RADIUS", help="Circle on the sky, ICRS degrees: 83.6,22.0,2."),
        click.option(
            "--attribute",
            multiple=True,
            metavar="NAME=VALUE",
            help='Declared attribute: name=value or name=low..high; name="5" is a text. All must hold.',
        ),
        click.option(
            "--near",
            type=click.Path(exists=True, dir_okay=False, path_type=Path),
            help="List of alerts, CSV, VOEvent or JSON: only files taken around one of them; needs --within-s.",
        ),
        click.option("--within-s", type=float, metavar="S", help="Largest time from an alert of --near, seconds."),
        click.option("--within-deg", type=float, metavar="D", help="Largest angle from the same alert, degrees."),
        click.option("--simulated/--measured", "is_simulation", default=None, help="Simulations, or measurements."),
    ]
    for option in reversed(options):
        function = option(function)
    return function


def as_of_option(function: F) -> F:
    """Add the option that asks for an answer as of an earlier moment; it comes as GraphQL's `AsOf`, or None."""
    return click.option(
        "--as-of",
        callback=lambda _context, _option, value: None if value is None else _read_moment(value),
        metavar="REVISION|TIME",
        help="The answer as of an earlier revision of the catalogue, or time: 812, or 2026-05-01.",
    )(function)


def take_filter(options: dict[str, Any], *, upload: Callable[[Path], str]) -> dict[str, Any]:
    """Take the filters out of a command's arguments, and return them as GraphQL's `SearchFilter`.

    Parameters
    ----------
    upload
        Sends a list of alerts, and returns its id.

    Raises
    ------
    Misuse
        An option cannot be understood.
    """
    words = {name.replace("-", "_"): list(options.pop(name.replace("-", "_"))) for name in _WORDS}
    found: dict[str, Any] = {_camel(name): values for name, values in words.items() if values}
    times = {name: options.pop(name) for name in _TIMES}
    if any(value is not None for value in times.values()):
        found["time"] = {name: value for name, value in times.items() if value is not None}
    for name, target, read in (("run", "run", _read_run), ("attribute", "attributes", _read_attribute)):
        if values := options.pop(name):
            found[target] = [read(value) for value in values]
    for name, read in (("energy", _read_energy), ("cone", _read_cone)):
        if (value := options.pop(name)) is not None:
            found[name] = read(value)
    if (is_simulation := options.pop("is_simulation")) is not None:
        found["isSimulation"] = is_simulation
    near, within_s, within_deg = (options.pop(name) for name in ("near", "within_s", "within_deg"))
    if near is not None and within_s is not None:
        angle = {} if within_deg is None else {"withinDeg": within_deg}
        found["coincidence"] = {"alertList": upload(near), "withinS": within_s, **angle}
    elif any(value is not None for value in (near, within_s, within_deg)):
        raise Misuse("--near and --within-s only make sense together, --within-deg only with both")
    return found


def _camel(name: str) -> str:
    return {"obs_id": "obsId"}.get(name, name)


def _read_moment(text: str) -> dict[str, str]:
    is_number = text.isascii() and text.isdigit()
    return {"revision" if is_number else "moment": text}


def _read_run(text: str) -> dict[str, str]:
    match = re.fullmatch(r"\s*(-?\d+)(?:\s*\.\.\s*(-?\d+))?\s*", text, re.ASCII)
    if match is None:
        raise _misuse("run", text, "a run such as 5012, or the first and last such as 5012..5020")
    return {"first": match[1]} if match[2] is None else {"first": match[1], "last": match[2]}


def _read_energy(text: str) -> dict[str, Any]:
    expected = "a range with a unit from eV to EeV, such as '1..10 TeV', '..500 GeV' or '1.. PeV'"
    match = re.fullmatch(r"\s*(\S*?)\s*\.\.\s*(\S*?)\s*([kMGTPE]?eV)\s*", text)
    if match is None or not (match[1] or match[2]):
        raise _misuse("energy", text, expected)
    ends = {"min": match[1], "max": match[2]}
    try:
        return {name: float(value) for name, value in ends.items() if value} | {"unit": match[3].upper()}
    except ValueError as error:
        raise _misuse("energy", text, expected) from error


def _read_cone(text: str) -> dict[str, float]:
    try:
        ra, dec, radius = (float(part) for part in text.split(","))
    except ValueError as error:
        expected = "right ascension, declination and radius in degrees, such as 83.6,22.0,2"
        raise _misuse("cone", text, expected) from error
    return {"raDeg": ra, "decDeg": dec, "radiusDeg": radius}


def _read_attribute(text: str) -> dict[str, Any]:
    name, equals, value = (part.strip() for part in text.partition("="))
    if not (name and equals and value):
        raise _misuse("attribute", text, "name=value or name=low..high")
    low, dots, high = value.partition("..")
    ends = {"min": _read_number(low), "max": _read_number(high)}
    if dots and all(number is not None or not end for number, end in zip(ends.values(), (low, high), strict=True)):
        return {"name": name} | {end: number for end, number in ends.items() if number is not None}
    return {"name": name, "equals": _read_value(value)}


def _read_number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


def _read_value(text: str) -> bool | float | str:
    """Read what JSON calls a boolean, number or text; everything else is a text that was not quoted."""
    try:
        value = json.loads(text)
    except ValueError:
        return text
    return value if isinstance(value, bool | int | float | str) else text


def _misuse(option: str, value: str, expected: str) -> Misuse:
    return Misuse(f"--{option}: got {value!r}, expected {expected}")
