"""Joins: values about one file that stand in another, a sidecar beside it or the row of an index table.

Also the templates by which a Description names other files, for joins and for relations.
"""

import posixpath
import re
from collections import OrderedDict
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from extractors.errors import ContentError, ConversionError, ExtractionError
from extractors.readers.address import Address, parse_address
from extractors.readers.reader import Content, Plain, RawValue, Reader, ReadLimits
from extractors.rules import Material, Rule
from extractors.storages.trees import Tree
from extractors.storages.unpacking import open_unpacked
from metadata_db.records import PathError, check_path

MAX_TABLES = 32
"""Index tables and sidecars that one process remembers."""

PLACEHOLDERS = ("path", "folder", "name", "stem")
"""What a template may hold beside named groups: the file's path, its folder, its name, and that without suffixes."""

_PLACEHOLDER = re.compile(r"\{(\w+)\}")


@dataclass(frozen=True, kw_only=True, slots=True)
class Join:
    """Where else a product's files are described."""

    name: str
    path: str
    """Template of the other file's path."""
    reader: Reader
    key: str | None
    """Column of an index table by which a row is found; None for a sidecar, which is about one file."""
    by: Rule | None
    """What the file itself says to find its row."""
    wanted: tuple[str, ...]
    """Addresses, or columns of an index table, that the rules ask for."""


def placeholders(template: str) -> frozenset[str]:
    """Return the names that a template holds."""
    return frozenset(_PLACEHOLDER.findall(template))


def expand(template: str, path: str, groups: Mapping[str, str]) -> str | None:
    """Return the path that a template comes to for the file at `path`, or None when a group it needs did not match.

    Raises
    ------
    ConversionError
        It leads out of the storage.
    """
    folder, name = posixpath.split(path)
    known = {**groups, "path": path, "folder": folder or ".", "name": name, "stem": name.partition(".")[0]}
    if not placeholders(template) <= known.keys():
        return None
    expanded = posixpath.normpath(_PLACEHOLDER.sub(lambda match: known[match[1]], template))
    try:
        return check_path(expanded)
    except PathError as error:
        raise ConversionError(expanded, f"a path below the storage's root: {error}") from error


class Joiner:
    """Finds what other files of the same storage say; remembers the tables it has read."""

    def __init__(self, tree: Tree, limits: ReadLimits) -> None:
        self._tree = tree
        self._limits = limits
        self._tables: OrderedDict[tuple[object, ...], _Table] = OrderedDict()

    def find(
        self, joins: Collection[Join], path: str, material: Material
    ) -> tuple[dict[str, Mapping[str, RawValue]], list[str]]:
        """Return what each of `joins` says about the file at `path`, and what was odd."""
        joined: dict[str, Mapping[str, RawValue]] = {}
        oddities: list[str] = []
        for join in joins:
            try:
                joined[join.name] = self._find_one(join, path, material)
            except (ExtractionError, OSError) as error:
                oddities.append(f"join {join.name}: {error}")
        return joined, oddities

    def _find_one(self, join: Join, path: str, material: Material) -> Mapping[str, RawValue]:
        other = expand(join.path, path, material.groups)
        if other is None or not self._tree.exists(other):
            return {}
        with self._tree.open(other) as stream:
            identity = (join.name, other, stream.status())
            if identity not in self._tables:
                self._tables[identity] = _try_table(stream, join, self._limits)
                if len(self._tables) > MAX_TABLES:
                    self._tables.popitem(last=False)
            # The least recently used goes first: sidecars, of which each file has its own, drive out no index.
            self._tables.move_to_end(identity)
            table = self._tables[identity]
        if table.problem is not None:
            raise ContentError(table.problem)
        return table.row(_key(join, material))


@dataclass(frozen=True, kw_only=True, slots=True)
class _Table:
    """The values of another file; of an index table one mapping for each key, of a sidecar one for the key None."""

    rows: Mapping[Plain | None, Mapping[str, RawValue]] = field(default_factory=dict)
    problem: str | None = None
    """Why it cannot be read; remembered, so that a damaged index is not read anew for each file."""

    def row(self, key: Plain | None) -> Mapping[str, RawValue]:
        return self.rows.get(key, {})


def _key(join: Join, material: Material) -> Plain | None:
    if join.key is None or join.by is None:
        return None
    found = join.by.find_all(material)
    return str(found[0].value).strip() if found else None


def _try_table(stream: Any, join: Join, limits: ReadLimits) -> _Table:
    try:
        return _read_table(stream, join, limits)
    except (ExtractionError, OSError) as error:
        return _Table(problem=str(error))
    except MemoryError:
        raise
    except Exception as error:  # noqa: BLE001 - whatever a format's library makes of another, damaged file
        return _Table(problem=f"{type(error).__name__}: {error}")


def _read_table(stream: Any, join: Join, limits: ReadLimits) -> _Table:
    unpacked, _ = open_unpacked(stream, max_bytes=limits.max_unpacked_bytes)
    if join.key is None:
        content = join.reader.read(unpacked, [parse_address(text) for text in join.wanted], limits=limits)
        return _Table(rows={None: content.values})
    columns = {text: parse_address(f"all({text})") for text in (join.key, *join.wanted)}
    content = join.reader.read(unpacked, list(columns.values()), limits=limits)
    return _Table(rows=dict(_iter_rows(content, columns, join)))


def _iter_rows(
    content: Content, columns: Mapping[str, Address], join: Join
) -> Iterator[tuple[str, Mapping[str, RawValue]]]:
    keys = _column(content, columns[join.key or ""])
    wanted = {text: _column(content, columns[text]) for text in join.wanted}
    for text, values in wanted.items():
        if values and len(values) != len(keys):
            raise ConversionError(text, f"as many values as {join.key} has, {len(keys)}")
    units = {text: _unit(content, columns[text]) for text in join.wanted}
    for number, key in enumerate(keys):
        row = {text: RawValue(value=values[number], unit=units[text]) for text, values in wanted.items() if values}
        yield str(key).strip(), row


def _column(content: Content, address: Address) -> Sequence[Plain]:
    if address.text in content.oddities:
        raise ConversionError(address.text, f"a column ({content.oddities[address.text]})")
    raw = content.values.get(address.text)
    if raw is None:
        return ()
    return raw.value if isinstance(raw.value, tuple) else (raw.value,)


def _unit(content: Content, address: Address) -> str | None:
    raw = content.values.get(address.text)
    return None if raw is None else raw.unit
