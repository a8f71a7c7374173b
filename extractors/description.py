"""Loads and checks a metadata description (MDD): the TOML text by which an experiment says how its files are read.

A Description is checked whole when it is loaded, so that a mistake is a message with a line number at the experiment,
and never a strange record in the catalogue.
"""

import hashlib
import re
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any, Literal, TypeAlias

import msgspec
from msgspec import Meta, Struct

from extractors import conversions
from extractors.clocks import Clock, TextClock
from extractors.errors import AddressError, ConversionError, DescriptionError, ReaderNotFoundError
from extractors.readers.reader import Reader, load_reader
from extractors.rules import ConstantRule, ContentRule, NameRule, Rule, SumRule, parse_rules
from metadata_db.records import Attribute, Authority, Facility, Name

CORE_FIELDS: Mapping[str, Attribute] = {
    field.name: field
    for field in (
        Attribute(name="kind", type="text"),
        Attribute(name="level", type="text"),
        Attribute(name="cluster", type="text"),
        Attribute(name="detector", type="text"),
        Attribute(name="channel", type="text"),
        Attribute(name="time_begin", type="time"),
        Attribute(name="time_end", type="time"),
        Attribute(name="obs_id", type="text"),
        Attribute(name="run", type="integer"),
        Attribute(name="ra_deg", type="number", unit="deg"),
        Attribute(name="dec_deg", type="number", unit="deg"),
        Attribute(name="position_basis", type="text"),
        Attribute(name="energy_min_ev", type="number", unit="eV"),
        Attribute(name="energy_max_ev", type="number", unit="eV"),
        Attribute(name="energy_basis", type="text"),
        Attribute(name="object", type="text"),
        Attribute(name="n_events", type="integer"),
        Attribute(name="is_simulation", type="boolean"),
        Attribute(name="processing", type="text"),
        Attribute(name="quality", type="text"),
        Attribute(name="conditions", type="text"),
        Attribute(name="licence", type="text"),
    )
}
"""The fields of a `FileRecord` that a Description may fill, with the type and unit they have there."""

_VOCABULARY = {"cluster": "clusters", "detector": "detectors", "channel": "channels"}
_Key: TypeAlias = tuple[str | int, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class FieldRules:
    """How one field is filled: the rules in the order in which they are tried."""

    declaration: Attribute
    rules: tuple[Rule, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Product:
    """One kind of file of an experiment: which paths it has, who reads it, and how its fields are filled."""

    name: str
    pattern: re.Pattern[str]
    reader: str | None
    fields: tuple[FieldRules, ...]
    attributes: tuple[FieldRules, ...]
    addresses: tuple[str, ...]
    """Everything the reader is asked for, in a fixed order, without repeats."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Description:
    """An experiment's own account of its files, checked and ready to be applied."""

    name: str
    version: str
    digest: str
    """SHA-256 of the text."""
    facility: Facility
    authority: Authority | None
    clocks: Mapping[str, Clock]
    products: tuple[Product, ...]

    @property
    def label(self) -> str:
        """Name, version and digest: what a record keeps of the Description that read its file."""
        return f"{self.name}@{self.version} sha256:{self.digest}"

    def find_product(self, path: str) -> tuple[Product, dict[str, str]] | None:
        """Return the first product whose pattern is found in `path`, with the named groups that matched."""
        for product in self.products:
            match = product.pattern.search(path)
            if match is not None:
                return product, {name: text for name, text in match.groupdict().items() if text is not None}
        return None


def find_description(name: str) -> Description | None:
    """Return the built-in Description called `name`, or None when there is none."""
    found = files("extractors").joinpath("descriptions", f"{name}.toml")
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._+-]*", name) or not found.is_file():
        return None
    return load_description(Path(str(found)))


def builtin_names() -> tuple[str, ...]:
    """Return the names of all built-in Descriptions, sorted."""
    folder = files("extractors").joinpath("descriptions")
    return tuple(sorted(entry.name[:-5] for entry in folder.iterdir() if entry.name.endswith(".toml")))


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
    try:
        return _build(document, hashlib.sha256(raw).hexdigest())
    except _ProblemError as problem:
        line = find_line(text, problem.key)
        raise DescriptionError(path, line, _spell(problem.key), problem.text) from problem


# ------------------------------------------------------------------------------------------------- checking


class _ProductText(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    name: Name
    match: str
    reader: str = "none"
    fields: dict[str, Any] = {}
    attributes: dict[str, Any] = {}


class _Document(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    format: Literal[1]
    """The version of the Description format; a later one that means something else is refused."""
    name: Name
    version: Annotated[str, Meta(pattern=r"^[A-Za-z0-9._+-]{1,32}\Z")]
    facility: Facility
    authority: Authority | None = None
    clock: dict[str, Any] = {}
    product: list[_ProductText]


class _ProblemError(Exception):
    """Something wrong at a key; becomes a `DescriptionError` once the line is known."""

    def __init__(self, key: _Key, text: str) -> None:
        self.key = key
        self.text = text
        super().__init__(text)


def _build(document: dict[str, Any], digest: str) -> Description:
    checked: _Document = _convert(document, _Document, ())
    clocks = {name: _convert(table, Clock, ("clock", name)) for name, table in checked.clock.items()}
    if checked.authority is not None and checked.facility.authority != checked.authority.name:
        expected = f"the name of the authority below, {checked.authority.name!r}"
        raise _ProblemError(("facility", "authority"), f"found {checked.facility.authority!r}, expected {expected}")
    products = tuple(_build_product(checked, clocks, index) for index in range(len(checked.product)))
    return Description(
        name=checked.name,
        version=checked.version,
        digest=digest,
        facility=checked.facility,
        authority=checked.authority,
        clocks=clocks,
        products=products,
    )


def _convert(table: Any, target: Any, at: _Key) -> Any:
    """Return `table`, which is written at the key `at`, as a `target`."""
    try:
        return msgspec.convert(table, target)
    except msgspec.ValidationError as error:
        message, _, where = str(error).partition(" - at `$")
        key = _key_of(where.removesuffix("`"))
        raise _ProblemError((*at, *key), f"{message}{_found_at(table, key)}") from error


def _build_product(document: _Document, clocks: Mapping[str, Clock], index: int) -> Product:
    text = document.product[index]
    at: _Key = ("product", index)
    try:
        pattern = re.compile(text.match)
    except re.error as error:
        raise _ProblemError((*at, "match"), f"found {text.match!r}, expected a regular expression: {error}") from error
    reader = _find_reader(text.reader, (*at, "reader"))
    check = _RuleCheck(facility=document.facility, clocks=clocks, groups=frozenset(pattern.groupindex), reader=reader)
    fields = _build_fields(text.fields, CORE_FIELDS, (*at, "fields"), check)
    declared = {attribute.name: attribute for attribute in document.facility.attributes}
    attributes = _build_fields(text.attributes, declared, (*at, "attributes"), check)
    return Product(
        name=text.name,
        pattern=pattern,
        reader=None if reader is None else text.reader,
        fields=fields,
        attributes=attributes,
        addresses=_all_addresses((*fields, *attributes), clocks),
    )


def _find_reader(name: str, key: _Key) -> Reader | None:
    if name == "none":
        return None
    try:
        return load_reader(name)
    except ReaderNotFoundError as error:
        raise _ProblemError(key, f"{error}, or none") from error


def _build_fields(
    table: Mapping[str, Any], declared: Mapping[str, Attribute], at: _Key, check: "_RuleCheck"
) -> tuple[FieldRules, ...]:
    built = []
    for name, text in table.items():
        key = (*at, name)
        if name not in declared:
            kind = "core fields" if at[-1] == "fields" else "attributes that the facility declares"
            raise _ProblemError(key, f"found {name!r}, expected one of the {kind}: {', '.join(declared) or 'none'}")
        try:
            rules = parse_rules(text)
            for rule in rules:
                check.check(rule, declared[name])
        except (AddressError, ConversionError, ValueError) as error:
            raise _ProblemError(key, str(error)) from error
        built.append(FieldRules(declaration=declared[name], rules=rules))
    return tuple(built)


@dataclass(frozen=True, kw_only=True, slots=True)
class _RuleCheck:
    """What a rule of one product may refer to."""

    facility: Facility
    clocks: Mapping[str, Clock]
    groups: frozenset[str]
    reader: Reader | None

    def check(self, rule: Rule, declaration: Attribute) -> None:
        """Raise ValueError, AddressError or ConversionError when `rule` cannot fill the declared field."""
        self._check_clock(rule, declaration)
        self._check_addresses(rule)
        if isinstance(rule.unit, str) and declaration.type == "number" and declaration.unit is not None:
            conversions.unit_factor(rule.unit, declaration.unit)
        if isinstance(rule, NameRule) and rule.name not in self.groups:
            known = ", ".join(sorted(self.groups)) or "none"
            raise ValueError(f"found group {rule.name!r}, expected one of those in match: {known}")
        if isinstance(rule, ConstantRule) and declaration.type != "time":
            conversions.convert(rule.constant, rule.unit if isinstance(rule.unit, str) else None, declaration)
        self._check_vocabulary(rule, declaration)

    def _check_clock(self, rule: Rule, declaration: Attribute) -> None:
        if declaration.type != "time":
            if rule.clock is not None:
                raise ValueError(f"found clock {rule.clock!r}, expected none: {declaration.name} is no time")
            return
        clock = None if rule.clock is None else self.clocks.get(rule.clock)
        if clock is None:
            known = ", ".join(self.clocks) or "none"
            raise ValueError(f"found clock {rule.clock!r}, expected one of the clocks: {known}")
        if isinstance(rule.unit, str) and not isinstance(clock, TextClock):
            conversions.unit_factor(rule.unit, "s")
        self._check_each(clock.addresses())

    def _check_addresses(self, rule: Rule) -> None:
        if isinstance(rule, ContentRule | SumRule) and self.reader is None:
            raise ValueError("found a rule about the content, expected a reader that reads it")
        self._check_each(rule.addresses())

    def _check_each(self, addresses: Sequence[str]) -> None:
        if self.reader is not None:
            for address in addresses:
                self.reader.check(address)

    def _check_vocabulary(self, rule: Rule, declaration: Attribute) -> None:
        """Detectors and the like that are constants or words must be declared by the facility."""
        if declaration.name not in _VOCABULARY:
            return
        entries = getattr(self.facility, _VOCABULARY[declaration.name])
        known = [entry.name for entry in entries]
        stated = [rule.constant] if isinstance(rule, ConstantRule) else list(rule.words.values())
        for word in stated:
            if word not in known:
                raise ValueError(
                    f"found {word!r}, expected one of the facility's {_VOCABULARY[declaration.name]}: "
                    f"{', '.join(known) or 'none'}"
                )


def _all_addresses(fields: Sequence[FieldRules], clocks: Mapping[str, Clock]) -> tuple[str, ...]:
    addresses: dict[str, None] = {}
    for filled in fields:
        for rule in filled.rules:
            clock = clocks[rule.clock].addresses() if rule.clock is not None else ()
            addresses.update(dict.fromkeys((*rule.addresses(), *clock)))
    return tuple(addresses)


# ------------------------------------------------------------------------------------------ keys and lines

_PART = re.compile(r"\.?([A-Za-z0-9_+-]+)|\[(\d+|\.\.\.)\]")
_TABLE = re.compile(r"\s*(?P<open>\[\[?)\s*(?P<name>[^\[\]]+?)\s*\]")
_ASSIGNMENT = re.compile(r"""\s*(?P<name>["']?[A-Za-z0-9_.+-]+["']?)\s*=""")


def find_line(text: str, key: Sequence[str | int]) -> int:
    """Return the line, from 1, on which the longest known part of `key` is written in a TOML `text`.

    Notes
    -----
    tomllib keeps no positions. Keys inside an inline table or a list are found at the line where that begins.
    """
    lines: dict[_Key, int] = {}
    counts: dict[_Key, int] = {}
    table: _Key = ()
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


def _table_key(parts: Sequence[str], counts: dict[_Key, int], *, is_array: bool) -> _Key:
    key: _Key = ()
    for position, part in enumerate(parts):
        key = (*key, part.strip().strip("\"'"))
        if is_array and position == len(parts) - 1:
            counts[key] = counts.get(key, -1) + 1
        if key in counts:
            key = (*key, counts[key])
    return key


def _key_of(path: str) -> _Key:
    """Return the key of a msgspec path such as ``.product[1].match``."""
    parts = _PART.findall(path)
    return tuple(name if name else int(number) for name, number in parts if name or number != "...")


def _spell(key: _Key) -> str:
    return "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in key).removeprefix(".")


def _found_at(document: Any, key: _Key) -> str:
    for part in key:
        try:
            document = document[part]
        except (KeyError, IndexError, TypeError):
            return ""
    return "" if isinstance(document, dict | list) else f", found {document!r}"


def _line_of_syntax_error(error: tomllib.TOMLDecodeError, text: str) -> int:
    match = re.search(r"at line (\d+)", str(error))
    return int(match[1]) if match else text.count("\n") + 1
