"""Finds and loads Descriptions, and tells on which line of the text a mistake is."""

import re
import tomllib
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path

from extractors.checking import Key, ProblemError, build_description
from extractors.description import Description
from extractors.errors import DescriptionError


def find_description(name: str) -> Description | None:
    """Return the built-in Description called `name`, or None when there is none."""
    folder = Path(str(files("extractors").joinpath("descriptions")))
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._+-]*", name):
        return None
    # One with files of its own beside it has a folder.
    for found in (folder / f"{name}.toml", folder / name / f"{name}.toml"):
        if found.is_file():
            return load_description(found)
    return None


def builtin_names() -> tuple[str, ...]:
    """Return the names of all built-in Descriptions, sorted."""
    folder = Path(str(files("extractors").joinpath("descriptions")))
    return tuple(sorted(found.stem for found in (*folder.glob("*.toml"), *folder.glob("*/*.toml"))))


def load_description(path: Path) -> Description:
    """Return the Description in the file at `path`.

    Raises
    ------
    DescriptionError
        The text is no Description; the message names line, key, what was found and what was expected.
    OSError
        The file cannot be read.
    """
    raw = path.read_bytes()
    try:
        text = raw.decode()
        document = tomllib.loads(text)
    except UnicodeDecodeError as error:
        raise DescriptionError(
            path, raw.count(b"\n", 0, error.start) + 1, "", "found bytes that are no UTF-8"
        ) from error
    except tomllib.TOMLDecodeError as error:
        raise DescriptionError(path, _line_of_syntax_error(error, text), "", f"no TOML: {error}") from error
    except RecursionError as error:
        raise DescriptionError(path, 1, "", "found tables nested too deeply, expected a Description") from error
    try:
        return build_description(document, raw, path.parent)
    except ProblemError as problem:
        line = find_line(text, problem.key)
        raise DescriptionError(path, line, _spell(problem.key), problem.text) from problem


# ------------------------------------------------------------------------------------------ keys and lines

_TABLE = re.compile(r"\s*(?P<open>\[\[?)\s*(?P<name>[^\[\]]+?)\s*\]")
_ASSIGNMENT = re.compile(r"""\s*(?P<name>["']?[A-Za-z0-9_.+-]+["']?)\s*=""")


def find_line(text: str, key: Sequence[str | int]) -> int:
    """Return the line, from 1, on which the longest known part of `key` is written in a TOML `text`.

    Notes
    -----
    tomllib keeps no positions. Keys inside an inline table or a list are found at the line where that begins.
    """
    lines: dict[Key, int] = {}
    counts: dict[Key, int] = {}
    table: Key = ()
    for number, line in enumerate(text.splitlines(), start=1):
        if header := _TABLE.match(line):
            table = _table_key(header["name"].split("."), counts, is_array=header["open"] == "[[")
            lines.setdefault(table, number)
        elif assignment := _ASSIGNMENT.match(line):
            lines.setdefault((*table, *assignment["name"].strip("\"'").split(".")), number)
    for length in range(len(key), 0, -1):
        if tuple(key[:length]) in lines:
            return lines[tuple(key[:length])]
    return 1


def _table_key(parts: Sequence[str], counts: dict[Key, int], *, is_array: bool) -> Key:
    key: Key = ()
    for position, part in enumerate(parts):
        key = (*key, part.strip().strip("\"'"))
        if is_array and position == len(parts) - 1:
            counts[key] = counts.get(key, -1) + 1
        if key in counts:
            key = (*key, counts[key])
    return key


def _spell(key: Key) -> str:
    return "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in key).removeprefix(".")


def _line_of_syntax_error(error: tomllib.TOMLDecodeError, text: str) -> int:
    match = re.search(r"at line (\d+)", str(error))
    return int(match[1]) if match else text.count("\n") + 1
