"""The rules of a Description: where the value of one field is looked for.

A kind of rule is one class here and one entry in `RULES`, under the key by which a Description writes it. A rule only
finds a value and says where; what the value means is decided afterwards, alike for all kinds.
"""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import msgspec
from msgspec import Struct

from extractors.clocks import FromContent, Stated
from extractors.conversions import finite_number
from extractors.errors import ConversionError
from extractors.readers.address import Address, parse_address
from extractors.readers.reader import Plain, RawValue


@dataclass(frozen=True, kw_only=True, slots=True)
class Material:
    """Everything known about one file that a rule may look into.

    `groups` are the named groups of the path pattern, `content` the raw values by address, `joined` those of other
    files by the name of the join and the address there.
    """

    groups: Mapping[str, str] = field(default_factory=dict)
    content: Mapping[str, RawValue] = field(default_factory=dict)
    joined: Mapping[str, Mapping[str, RawValue]] = field(default_factory=dict)

    @property
    def stated(self) -> Stated:
        """What the file says of its own clock."""
        return Stated(self.content, self.groups)


class Found(Struct, frozen=True, kw_only=True):
    """A value as it was found, the unit of each of its parts, and its source in words."""

    value: Any
    units: tuple[str | None, ...]
    source: str

    @property
    def unit(self) -> str | None:
        """The unit of a value that has one part."""
        return self.units[0]


class _RuleBase(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What may stand in every rule beside the key that names its kind."""

    unit: str | FromContent | None = None
    """The unit of the value where the file states none beside it."""
    units: list[str] = []
    """The units of a value in parts, such as seconds and nanoseconds."""
    clock: str | None = None
    """Name of the clock by which a time counts."""
    pattern: str | None = None
    """A regular expression: what its first group finds in the text is the value."""
    words: dict[str, Plain] = {}
    """What each word of the file is called in the catalogue; other words are no value."""
    missing: list[Plain] = []
    """Values that stand for "no value", such as -999."""
    valid: list[float] = []
    """Least and largest value that there can be: ``[0.0, 100.0]``, or ``[0.0, inf]`` for no upper bound."""
    required: bool = False
    """Whether it is odd, and worth a warning, when nothing is found."""

    def __post_init__(self) -> None:
        if self.pattern is not None:
            try:
                n_groups = re.compile(self.pattern).groups
            except re.error as error:
                raise ValueError(f"found pattern {self.pattern!r}, expected a regular expression: {error}") from error
            if n_groups < 1:
                raise ValueError(f"found pattern {self.pattern!r}, expected one with a group")
        if self.valid and (len(self.valid) != 2 or not self.valid[0] <= self.valid[1]):
            raise ValueError(f"found valid = {self.valid}, expected a least and a largest value")

    @property
    def bounds(self) -> tuple[float | None, float | None]:
        """The least and the largest value; None is no bound."""
        if not self.valid:
            return None, None
        low, high = self.valid
        return None if low == -math.inf else low, None if high == math.inf else high

    def address(self, text: str) -> Address:
        """Return the address that `text` writes, with what this rule leaves out of columns."""
        if not self.missing and not self.valid:
            return parse_address(text)
        return parse_address(text, missing=tuple(self.missing), valid=self.bounds)

    def addresses(self) -> tuple[Address, ...]:
        """Return every address in the file that the rule may need."""
        return (parse_address(self.unit.content),) if isinstance(self.unit, FromContent) else ()

    def find(self, material: Material) -> Found | None:
        """Return what the rule finds, or None when that is nothing."""
        raise NotImplementedError  # abstract; the metaclass of structs leaves no room for that of ABC

    def find_all(self, material: Material) -> list[Found]:
        """Return what the rule finds: nothing, one value, or the candidates of which the least or greatest counts.

        Raises
        ------
        ConversionError
            There is something, but it is no value.
        """
        found = self.find(material)
        return [] if found is None else [found]

    def _found(self, raw: RawValue | None, material: Material, source: str) -> Found | None:
        """Return what a raw value comes to, or None when it stands for none."""
        if raw is None or self._is_missing(raw.value):
            return None
        value = raw.value if self.pattern is None else self._cut(raw.value, self.pattern)
        if value is None:
            return None
        units = self._units(raw, material)
        if any(units):
            source = f"{source} [{', '.join(filter(None, units))}]"
        return Found(value=value, units=units, source=source)

    def check_bounds(self, value: Any) -> None:
        """Raise `ConversionError` when a single value lies outside of what there can be.

        Values of a column were left out one by one where they were read; how many there are is no such value.
        """
        if not self.valid:
            return
        low, high = self.bounds
        if isinstance(value, bool | tuple) or any(item.reduction for item in self.addresses()):
            return
        try:
            number = float(value)
        except (ValueError, OverflowError):
            return
        if (low is not None and not number >= low) or (high is not None and not number <= high):
            bounds = f"{'…' if low is None else low} to {'…' if high is None else high}"
            raise ConversionError(value, f"a value from {bounds}")

    def _is_missing(self, value: Any) -> bool:
        if isinstance(value, str) and not value.strip():
            return True
        return bool(self.missing) and any(_is_mark(value, mark) for mark in self.missing)

    def _cut(self, value: Any, pattern: str) -> str | None:
        match = re.search(pattern, str(value))
        return match[1] if match else None

    def _units(self, raw: RawValue, material: Material) -> tuple[str | None, ...]:
        if self.units:
            return tuple(self.units)
        if raw.unit:
            return (raw.unit,)
        if self.unit is None or isinstance(self.unit, str):
            return (self.unit,)
        stated = material.content.get(parse_address(self.unit.content).text)
        return (stated.value.strip() if stated is not None and isinstance(stated.value, str) else None,)


class ConstantRule(_RuleBase, frozen=True, kw_only=True):
    """The same value for every file of the product."""

    constant: Plain

    def find(self, material: Material) -> Found | None:
        """Return the constant."""
        return self._found(RawValue(value=self.constant), material, "constant")


class NameRule(_RuleBase, frozen=True, kw_only=True):
    """A named group of the path pattern."""

    name: str

    def find(self, material: Material) -> Found | None:
        """Return what the group matched, or None when it is an optional group that did not."""
        value = material.groups.get(self.name)
        return self._found(None if value is None else RawValue(value=value), material, f"name ({self.name})")


class ContentRule(_RuleBase, frozen=True, kw_only=True):
    """A value in the file, at an address of the product's reader."""

    content: str

    def addresses(self) -> tuple[Address, ...]:
        """Return the value's address and those of its unit."""
        return (self.address(self.content), *super().addresses())

    def find(self, material: Material) -> Found | None:
        """Return the raw value, or None when the file has none there or an empty text."""
        raw = material.content.get(self.address(self.content).text)
        return self._found(raw, material, f"content {self.content}")


class SumRule(_RuleBase, frozen=True, kw_only=True):
    """The sum of several numbers of one unit, such as a start and a duration; nothing when one is missing."""

    sum: list[str]

    def addresses(self) -> tuple[Address, ...]:
        """Return the addresses of all numbers and of their unit."""
        return (*(self.address(text) for text in self.sum), *super().addresses())

    def find(self, material: Material) -> Found | None:
        """Return the sum, or None when one of the numbers is not there.

        Raises
        ------
        ConversionError
            One of them is no number, or they state different units.
        """
        raws = [material.content.get(self.address(text).text) for text in self.sum]
        total: int | float = 0
        for raw in raws:
            if raw is None:
                return None
            total += _number(raw.value)
        stated = {raw.unit for raw in raws if raw is not None and raw.unit}
        if len(stated) > 1:
            raise ConversionError(tuple(sorted(stated)), "numbers of one unit to add")
        unit = next(iter(stated), None)
        return self._found(RawValue(value=total, unit=unit), material, f"content {' + '.join(self.sum)}")


def _number(value: Plain | tuple[Plain, ...]) -> int | float:
    """Return a number, whole if it is; text formats spell theirs.

    Raises
    ------
    ConversionError
        It is none.
    """
    if isinstance(value, int | float) and not isinstance(value, bool):
        return value
    number = finite_number(value)
    return int(number) if number.is_integer() else number


def _is_mark(value: Any, mark: Plain) -> bool:
    """Tell whether `value` is a mark for no value; in text formats ``-999.0`` is the number that it spells."""
    if isinstance(mark, str) or isinstance(value, bool) or isinstance(mark, bool):
        return bool(value == mark) and isinstance(value, bool) == isinstance(mark, bool)
    try:
        return _number(value) == mark
    except ConversionError:
        return False


class _ExtremeRule(_RuleBase, frozen=True, kw_only=True):
    """The smallest or largest of the values at several addresses, compared after their conversion."""

    @property
    def texts(self) -> Sequence[str]:
        """The addresses as they are written."""
        raise NotImplementedError  # abstract, as `find` of the base

    def addresses(self) -> tuple[Address, ...]:
        """Return the addresses of all candidates and of their unit."""
        return (*(self.address(text) for text in self.texts), *super().addresses())

    def find_all(self, material: Material) -> list[Found]:
        """Return each value that is there."""
        candidates = (
            self._found(material.content.get(self.address(text).text), material, f"content {text}")
            for text in self.texts
        )
        return [found for found in candidates if found is not None]


class LeastRule(_ExtremeRule, frozen=True, kw_only=True):
    """The smallest of the values at several addresses."""

    least: list[str]

    @property
    def texts(self) -> Sequence[str]:
        """The addresses as they are written."""
        return self.least


class GreatestRule(_ExtremeRule, frozen=True, kw_only=True):
    """The largest of the values at several addresses."""

    greatest: list[str]

    @property
    def texts(self) -> Sequence[str]:
        """The addresses as they are written."""
        return self.greatest


class JoinRule(_RuleBase, frozen=True, kw_only=True):
    """A value in another file: of a sidecar, or of the row of an index table that is about this file."""

    join: str
    """Name of the join."""
    at: str
    """Address in the other file; the column, if it is an index table."""

    def find(self, material: Material) -> Found | None:
        """Return the raw value, or None when there is no such file, row or value."""
        raw = material.joined.get(self.join, {}).get(self.at)
        return self._found(raw, material, f"join {self.join}, {self.at}")


SimpleRule: TypeAlias = ConstantRule | NameRule | ContentRule | SumRule | JoinRule
Rule: TypeAlias = SimpleRule | LeastRule | GreatestRule

RULES: Mapping[str, type[Rule]] = {
    "constant": ConstantRule,
    "name": NameRule,
    "content": ContentRule,
    "sum": SumRule,
    "least": LeastRule,
    "greatest": GreatestRule,
    "join": JoinRule,
}
"""Every kind of rule, by the key that a Description writes it with."""


def parse_rules(text: object) -> tuple[Rule, ...]:
    """Return the rules that a Description writes for one field: a constant, one table, or a list of tables to try.

    Raises
    ------
    ValueError
        It is none of these; the message says what was found and expected.
    """
    if isinstance(text, Plain):
        return (ConstantRule(constant=text),)
    tables = text if isinstance(text, list) else [text]
    if not tables:
        raise ValueError("found an empty list, expected at least one rule")
    return tuple(_parse_rule(table) for table in tables)


def _parse_rule(table: object) -> Rule:
    kinds = ", ".join(RULES)
    if not isinstance(table, dict):
        raise ValueError(f"found {table!r}, expected a table with one of {kinds}")
    named = [kind for kind in RULES if kind in table]
    if len(named) != 1:
        found = " and ".join(named) or ", ".join(map(str, table)) or "an empty table"
        raise ValueError(f"found {found}, expected exactly one of {kinds}")
    rule: Rule = msgspec.convert(table, RULES[named[0]])
    return rule
