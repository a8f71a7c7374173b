"""The rules of a Description: where the value of one field is looked for.

A kind of rule is one class here and one entry in `RULES`, under the key by which a Description writes it. A rule only
finds a value and says where; what the value means is decided afterwards, alike for all kinds.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import msgspec
from msgspec import Struct

from extractors.clocks import FromContent
from extractors.errors import ConversionError
from extractors.readers.reader import Plain, RawValue


@dataclass(frozen=True, kw_only=True, slots=True)
class Material:
    """Everything known about one file that a rule may look into.

    `groups` are the named groups of the path pattern, `content` the raw values by address.
    """

    groups: Mapping[str, str] = field(default_factory=dict)
    content: Mapping[str, RawValue] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True, slots=True)
class Found:
    """A value as it was found, and its source in words."""

    value: Any
    unit: str | None
    source: str


class _RuleBase(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What may stand in every rule beside the key that names its kind."""

    unit: str | FromContent | None = None
    """The unit of the value where the file states none beside it."""
    clock: str | None = None
    """Name of the clock by which a time counts."""
    words: dict[str, Plain] = {}
    """What each word of the file is called in the catalogue; other words are no value."""
    required: bool = False
    """Whether it is odd, and worth a warning, when nothing is found."""

    def addresses(self) -> tuple[str, ...]:
        """Return every address in the file that the rule may need."""
        return (self.unit.content,) if isinstance(self.unit, FromContent) else ()

    def _stated_unit(self, material: Material) -> str | None:
        if not isinstance(self.unit, FromContent):
            return self.unit
        raw = material.content.get(self.unit.content)
        return raw.value.strip() if raw is not None and isinstance(raw.value, str) else None


class ConstantRule(_RuleBase, frozen=True, kw_only=True):
    """The same value for every file of the product."""

    constant: Plain

    def find(self, material: Material) -> Found:
        """Return the constant."""
        return Found(value=self.constant, unit=self._stated_unit(material), source="constant")


class NameRule(_RuleBase, frozen=True, kw_only=True):
    """A named group of the path pattern."""

    name: str

    def find(self, material: Material) -> Found | None:
        """Return what the group matched, or None when it is an optional group that did not."""
        value = material.groups.get(self.name)
        if not value:
            return None
        return Found(value=value, unit=self._stated_unit(material), source=f"name ({self.name})")


class ContentRule(_RuleBase, frozen=True, kw_only=True):
    """A value in the file, at an address of the product's reader."""

    content: str

    def addresses(self) -> tuple[str, ...]:
        """Return the value's address and those of its unit."""
        return (self.content, *super().addresses())

    def find(self, material: Material) -> Found | None:
        """Return the raw value, or None when the file has none there or an empty text."""
        raw = material.content.get(self.content)
        if raw is None or (isinstance(raw.value, str) and not raw.value.strip()):
            return None
        unit = raw.unit or self._stated_unit(material)
        return Found(value=raw.value, unit=unit, source=f"content {self.content}{f' [{unit}]' if unit else ''}")


class SumRule(_RuleBase, frozen=True, kw_only=True):
    """The sum of several numbers of one unit, such as a start and a duration; nothing when one is missing."""

    sum: list[str]

    def addresses(self) -> tuple[str, ...]:
        """Return the addresses of all numbers and of their unit."""
        return (*self.sum, *super().addresses())

    def find(self, material: Material) -> Found | None:
        """Return the sum, or None when one of the numbers is not there.

        Raises
        ------
        ConversionError
            One of them is no number.
        """
        raws = [material.content.get(address) for address in self.sum]
        total: int | float = 0
        for raw in raws:
            if raw is None:
                return None
            if isinstance(raw.value, bool) or not isinstance(raw.value, int | float):
                raise ConversionError(raw.value, "a number to add")
            total += raw.value
        unit = self._stated_unit(material)
        source = f"content {' + '.join(self.sum)}{f' [{unit}]' if unit else ''}"
        return Found(value=total, unit=unit, source=source)


Rule: TypeAlias = ConstantRule | NameRule | ContentRule | SumRule

RULES: Mapping[str, type[Rule]] = {
    "constant": ConstantRule,
    "name": NameRule,
    "content": ContentRule,
    "sum": SumRule,
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
