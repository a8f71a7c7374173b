"""Checks what a Description writes, and builds what it means.

A Description is checked whole when it is loaded, so that a mistake is a message with a line number at the experiment,
and never a strange record in the catalogue. The structs here are the format: its JSON Schema is made from them.
"""

import hashlib
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Annotated, Any, Literal, TypeAlias

import msgspec
from msgspec import Meta, Struct

from extractors import conversions
from extractors.clocks import Clock, TextClock
from extractors.description import Description, FieldRules, Product, RelationTemplate
from extractors.errors import AddressError, ConversionError, ReaderNotFoundError
from extractors.joins import PLACEHOLDERS, Join, placeholders
from extractors.readers.address import Address, parse_address
from extractors.readers.reader import Reader, load_reader
from extractors.rules import ConstantRule, JoinRule, NameRule, Rule, parse_rules
from extractors.storages.fingerprint import HEAD_BYTES
from metadata_db.records import Attribute, Authority, Facility, Name, RelationKind

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

_CHECKSUMS = ("md5", "sha256")
_VOCABULARY = {"cluster": "clusters", "detector": "detectors", "channel": "channels"}
_PART = re.compile(r"\.?([A-Za-z0-9_+-]+)|\[(\d+|\.\.\.)\]")

Key: TypeAlias = tuple[str | int, ...]
"""Path of a key in a Description: names of tables, numbers of array elements."""


ReaderText: TypeAlias = str | dict[str, Any]


class Magic(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Bytes that the unpacked file has at a place, as text or as hexadecimal digits."""

    at: Annotated[int, Meta(ge=0, lt=HEAD_BYTES)] = 0
    text: str = ""
    hex: Annotated[str, Meta(pattern=r"^([0-9A-Fa-f]{2})*\Z")] = ""


class RelationText(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A relation as a product writes it."""

    kind: RelationKind
    path: str | None = None
    obs_id: dict[str, Any] | None = None
    storage: Name | None = None


class JoinText(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A join as a Description writes it."""

    name: Name
    path: str
    reader: ReaderText
    key: str | None = None
    by: dict[str, Any] | None = None


class ProductText(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A product as a Description writes it."""

    name: Name
    match: str = ""
    magic: str | Magic | None = None
    where: list[dict[str, Any]] = []
    reader: ReaderText = "none"
    fields: dict[str, Any] = {}
    attributes: dict[str, Any] = {}
    relation: list[RelationText] = []


class Validity(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """On which days, in UTC, the facility can have measured: times outside are no values."""

    begin: date | None = None
    """First day."""
    end: date | None = None
    """First day after."""


class DescriptionText(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A whole Description as it is written."""

    format: Literal[1]
    """The version of the Description format; a later one that means something else is refused."""
    name: Name
    version: Annotated[str, Meta(pattern=r"^[A-Za-z0-9._+-]{1,32}\Z")]
    facility: Facility
    authority: Authority | None = None
    validity: Validity = Validity()
    units: dict[str, str] = {}
    """What units are called that only this facility's files call so: ``MJD = "d"``."""
    clock: dict[str, Any] = {}
    join: list[JoinText] = []
    product: list[ProductText]


class ProblemError(Exception):
    """Something wrong at a key; becomes a `DescriptionError` once the line is known."""

    def __init__(self, key: Key, text: str) -> None:
        self.key = key
        self.text = text
        super().__init__(text)


def build_description(document: dict[str, Any], raw: bytes, folder: Path) -> Description:
    """Return the Description that `document` writes; `raw` is its text, `folder` where it stands.

    Raises
    ------
    ProblemError
        Something is wrong at a key.
    """
    checked: DescriptionText = _convert(document, DescriptionText, ())
    clocks = {name: _convert(table, Clock, ("clock", name)) for name, table in checked.clock.items()}
    for word, unit in checked.units.items():
        try:
            conversions.check_unit(unit)
        except ConversionError as error:
            raise ProblemError(("units", word), str(error)) from error
    if checked.authority is not None and checked.facility.authority != checked.authority.name:
        expected = f"the name of the authority below, {checked.authority.name!r}"
        raise ProblemError(("facility", "authority"), f"found {checked.facility.authority!r}, expected {expected}")
    builder = _Builder(document=checked, clocks=clocks, folder=folder)
    products = tuple(builder.build_product(index) for index in range(len(checked.product)))
    return Description(
        name=checked.name,
        version=checked.version,
        digest=_digest(raw, products),
        facility=checked.facility,
        authority=checked.authority,
        valid_begin=_moment(checked.validity.begin),
        valid_end=_moment(checked.validity.end),
        units=checked.units,
        clocks=clocks,
        products=products,
    )


def _digest(raw: bytes, products: Sequence[Product]) -> str:
    """Return the digest of all that decides how files are read."""
    digest = hashlib.sha256(raw)
    readers = [product.reader for product in products if product.reader is not None]
    for path in sorted({path for reader in readers for path in reader.companions}):
        digest.update(hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()


def _moment(day: date | None) -> datetime | None:
    return None if day is None else datetime(day.year, day.month, day.day, tzinfo=UTC)


def _convert(table: Any, target: Any, at: Key) -> Any:
    """Return `table`, which is written at the key `at`, as a `target`."""
    try:
        return msgspec.convert(table, target)
    except msgspec.ValidationError as error:
        message, _, where = str(error).partition(" - at `$")
        key = _key_of(where.removesuffix("`"))
        raise ProblemError((*at, *key), f"{message}{_found_at(table, key)}") from error


@dataclass(frozen=True, kw_only=True, slots=True)
class _Builder:
    """Turns what a Description writes into what it means, product by product."""

    document: DescriptionText
    clocks: Mapping[str, Clock]
    folder: Path

    def build_product(self, index: int) -> Product:
        text = self.document.product[index]
        at: Key = ("product", index)
        try:
            pattern = re.compile(text.match)
        except re.error as error:
            found = f"found {text.match!r}, expected a regular expression: {error}"
            raise ProblemError((*at, "match"), found) from error
        reader = self._find_reader(text.reader, (*at, "reader"))
        facility = self.document.facility
        joins = {join.name: join for join in self.document.join}
        groups = frozenset(pattern.groupindex)
        check = _RuleCheck(
            facility=facility,
            units=self.document.units,
            clocks=self.clocks,
            groups=groups,
            reader=reader,
            joins=frozenset(joins),
        )
        where = tuple(
            _build_rules(rule, _CONDITION, (*at, "where", number), check)[0] for number, rule in enumerate(text.where)
        )
        fields = _build_fields(text.fields, FILLABLE, (*at, "fields"), check)
        declared = {attribute.name: attribute for attribute in facility.attributes}
        attributes = _build_fields(text.attributes, declared, (*at, "attributes"), check)
        relations = tuple(
            _build_relation(relation, (*at, "relation", number), check) for number, relation in enumerate(text.relation)
        )
        rules = [rule for filled in (*fields, *attributes) for rule in filled.rules]
        used = {rule.join for rule in rules if isinstance(rule, JoinRule)}
        built_joins = tuple(
            self._build_join(number, check, rules)
            for number, join in enumerate(self.document.join)
            if join.name in used
        )
        others = [join.by for join in built_joins if join.by] + [item.obs_id for item in relations if item.obs_id]
        where_addresses = _all_addresses(where, self.clocks)
        asked = _all_addresses((*rules, *others), self.clocks)
        magic, magic_at = _magic(text.magic)
        return Product(
            name=text.name,
            pattern=pattern,
            magic=magic,
            magic_at=magic_at,
            where=where,
            reader=reader,
            fields=fields,
            attributes=attributes,
            relations=relations,
            joins=built_joins,
            where_addresses=where_addresses,
            addresses=tuple(address for address in asked if address not in where_addresses),
        )

    def _find_reader(self, text: ReaderText, key: Key) -> Reader | None:
        if text == "none":
            return None
        options = dict(text) if isinstance(text, dict) else {"name": text}
        name = options.pop("name", None)
        if not isinstance(name, str):
            raise ProblemError((*key, "name"), f"found {name!r}, expected the name of a reader")
        try:
            return load_reader(name, options, self.folder)
        except ReaderNotFoundError as error:
            raise ProblemError(key, f"{error}, or none") from error
        except msgspec.ValidationError as error:
            message, _, where = str(error).partition(" - at `$")
            at = _key_of(where.removesuffix("`"))
            raise ProblemError((*key, *at), f"{message}{_found_at(options, at)}") from error
        except ValueError as error:
            raise ProblemError(key, str(error)) from error

    def _build_join(self, index: int, check: "_RuleCheck", rules: Sequence[Rule]) -> Join:
        text = self.document.join[index]
        key: Key = ("join", index)
        reader = self._find_reader(text.reader, (*key, "reader"))
        if reader is None:
            raise ProblemError((*key, "reader"), "found none, expected the name of a reader")
        if (text.key is None) != (text.by is None):
            raise ProblemError(key, "found only one of key and by, expected both for an index table, or none")
        _check_template(text.path, check.groups, (*key, "path"))
        wanted = tuple(sorted({rule.at for rule in rules if isinstance(rule, JoinRule) and rule.join == text.name}))
        try:
            for column in (*wanted, *filter(None, [text.key])):
                reader.check(parse_address(column if text.key is None else f"all({column})"))
        except AddressError as error:
            raise ProblemError(key, str(error)) from error
        by = None if text.by is None else _build_rules(text.by, _CONDITION, (*key, "by"), check)[0]
        return Join(name=text.name, path=text.path, reader=reader, key=text.key, by=by, wanted=wanted)


_CONDITION = Attribute(name="where", type="text")
FILLABLE: Mapping[str, Attribute] = {
    **CORE_FIELDS,
    **{name: Attribute(name=name, type="text") for name in _CHECKSUMS},
}


def _magic(text: str | Magic | None) -> tuple[bytes, int]:
    if text is None or isinstance(text, str):
        return (text or "").encode("latin-1"), 0
    return bytes.fromhex(text.hex) or text.text.encode("latin-1"), text.at


def _check_template(template: str, groups: Collection[str], key: Key) -> None:
    unknown = placeholders(template) - {*groups, *PLACEHOLDERS}
    if unknown:
        known = ", ".join((*PLACEHOLDERS, *sorted(groups)))
        raise ProblemError(key, f"found {{{min(unknown)}}}, expected one of {known}")


def _build_relation(text: RelationText, at: Key, check: "_RuleCheck") -> RelationTemplate:
    if (text.path is None) == (text.obs_id is None):
        raise ProblemError(at, "found none or both of path and obs_id, expected one of them")
    if text.path is not None:
        _check_template(text.path, check.groups, (*at, "path"))
    rule = None
    if text.obs_id is not None:
        rule = _build_rules(text.obs_id, CORE_FIELDS["obs_id"], (*at, "obs_id"), check)[0]
    return RelationTemplate(kind=text.kind, path=text.path, obs_id=rule, storage=text.storage)


def _build_fields(
    table: Mapping[str, Any], declared: Mapping[str, Attribute], at: Key, check: "_RuleCheck"
) -> tuple[FieldRules, ...]:
    built = []
    for name, text in table.items():
        key = (*at, name)
        if name not in declared:
            kind = "core fields" if at[-1] == "fields" else "attributes that the facility declares"
            raise ProblemError(key, f"found {name!r}, expected one of the {kind}: {', '.join(declared) or 'none'}")
        rules = _build_rules(text, declared[name], key, check)
        built.append(FieldRules(declaration=declared[name], rules=rules))
    return tuple(built)


def _build_rules(text: object, declaration: Attribute, key: Key, check: "_RuleCheck") -> tuple[Rule, ...]:
    try:
        rules = parse_rules(text)
        for rule in rules:
            check.check(rule, declaration)
    except (AddressError, ConversionError, ValueError) as error:
        raise ProblemError(key, str(error)) from error
    return rules


@dataclass(frozen=True, kw_only=True, slots=True)
class _RuleCheck:
    """What a rule of one product may refer to."""

    facility: Facility
    units: Mapping[str, str]
    clocks: Mapping[str, Clock]
    groups: frozenset[str]
    reader: Reader | None
    joins: frozenset[str]

    def check(self, rule: Rule, declaration: Attribute) -> None:
        """Raise ValueError, AddressError or ConversionError when `rule` cannot fill the declared field."""
        self._check_clock(rule, declaration)
        self._check_addresses(rule)
        if declaration.type == "number" and declaration.unit is not None:
            self._check_units(rule, declaration.unit)
        if isinstance(rule, NameRule):
            self._check_group(rule.name)
        if isinstance(rule, JoinRule) and rule.join not in self.joins:
            known = ", ".join(sorted(self.joins)) or "none"
            raise ValueError(f"found join {rule.join!r}, expected one of the joins: {known}")
        if isinstance(rule, ConstantRule) and declaration.type != "time":
            conversions.convert(rule.constant, rule.unit if isinstance(rule.unit, str) else None, declaration)
        self._check_vocabulary(rule, declaration)

    def _check_units(self, rule: Rule, target: str) -> None:
        for unit in (*rule.units, *([rule.unit] if isinstance(rule.unit, str) else [])):
            conversions.unit_factor(self.units.get(unit, unit), target)

    def _check_group(self, name: str) -> None:
        if name not in self.groups:
            known = ", ".join(sorted(self.groups)) or "none"
            raise ValueError(f"found group {name!r}, expected one of those in match: {known}")

    def _check_clock(self, rule: Rule, declaration: Attribute) -> None:
        if declaration.type != "time":
            if rule.clock is not None:
                raise ValueError(f"found clock {rule.clock!r}, expected none: {declaration.name} is no time")
            return
        clock = None if rule.clock is None else self.clocks.get(rule.clock)
        if clock is None:
            known = ", ".join(self.clocks) or "none"
            raise ValueError(f"found clock {rule.clock!r}, expected one of the clocks: {known}")
        if not isinstance(clock, TextClock):
            self._check_units(rule, clock.unit)
        for name in clock.groups():
            self._check_group(name)
        self._check_each([parse_address(text) for text in clock.addresses()])

    def _check_addresses(self, rule: Rule) -> None:
        if rule.addresses() and self.reader is None:
            raise ValueError("found a rule about the content, expected a reader that reads it")
        self._check_each(rule.addresses())

    def _check_each(self, addresses: Sequence[Address]) -> None:
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


def _all_addresses(rules: Sequence[Rule], clocks: Mapping[str, Clock]) -> tuple[Address, ...]:
    addresses: dict[Address, None] = {}
    for rule in rules:
        clock = clocks[rule.clock].addresses() if rule.clock is not None else ()
        addresses.update(dict.fromkeys((*rule.addresses(), *map(parse_address, clock))))
    return tuple(addresses)


def _key_of(path: str) -> Key:
    """Return the key of a msgspec path such as ``.product[1].match``."""
    parts = _PART.findall(path)
    return tuple(name if name else int(number) for name, number in parts if name or number != "...")


def _found_at(document: Any, key: Key) -> str:
    for part in key:
        try:
            document = document[part]
        except (KeyError, IndexError, TypeError):
            return ""
    return "" if isinstance(document, dict | list) else f", found {document!r}"
