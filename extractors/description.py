"""What a metadata description (MDD) says about an experiment's files, checked and ready to be applied."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime

from extractors.clocks import Clock
from extractors.joins import Join
from extractors.readers.address import Address
from extractors.readers.reader import Reader
from extractors.rules import Rule
from metadata_db.records import Attribute, Authority, Facility, RelationKind


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class FieldRules:
    """How one field is filled: the rules in the order in which they are tried.

    Equal only to itself, so that what they come to, where that is the same for every file, can be remembered.
    """

    declaration: Attribute
    rules: tuple[Rule, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class RelationTemplate:
    """How a file is related to others: their path as a template or pattern, or their observation."""

    kind: RelationKind
    path: str | None
    obs_id: Rule | None
    storage: str | None


@dataclass(frozen=True, kw_only=True, slots=True)
class Product:
    """One kind of file of an experiment: how it is known, who reads it, and how its fields are filled."""

    name: str
    pattern: re.Pattern[str]
    magic: bytes
    """What the unpacked file has at `magic_at`; empty when its bytes do not matter."""
    magic_at: int
    where: tuple[Rule, ...]
    """Rules that must all find a value; what they ask for makes a file of one format this product and not another."""
    reader: Reader | None
    fields: tuple[FieldRules, ...]
    attributes: tuple[FieldRules, ...]
    relations: tuple[RelationTemplate, ...]
    joins: tuple[Join, ...]
    where_addresses: tuple[Address, ...]
    addresses: tuple[Address, ...]
    """Everything that the reader is asked for, but for `where_addresses`, in a fixed order, without repeats."""

    def match(self, path: str, head: bytes) -> dict[str, str] | None:
        """Return the named groups when path and first bytes are those of this product, else None."""
        match = self.pattern.search(path)
        if match is None or not head.startswith(self.magic, self.magic_at):
            return None
        return {name: text for name, text in match.groupdict().items() if text is not None}


@dataclass(frozen=True, kw_only=True, slots=True)
class Description:
    """An experiment's own account of its files, checked and ready to be applied."""

    name: str
    version: str
    digest: str
    """SHA-256 of the text, and of the files that its readers need beside it."""
    facility: Facility
    authority: Authority | None
    valid_begin: datetime | None
    """Before this the facility cannot have measured."""
    valid_end: datetime | None
    """From then on it cannot have measured yet, or any more."""
    units: Mapping[str, str]
    """What units are called that only this facility's files call so."""
    clocks: Mapping[str, Clock]
    products: tuple[Product, ...]

    @property
    def label(self) -> str:
        """Name, version and digest: what a record keeps of the Description that read its file."""
        return f"{self.name}@{self.version} sha256:{self.digest}"

    def may_match(self, path: str) -> bool:
        """Tell whether a file may be one of the products by its path."""
        return any(product.pattern.search(path) for product in self.products)

    def iter_candidates(self, path: str, head: bytes) -> Iterator[tuple[Product, dict[str, str]]]:
        """Yield the products that a file may be by its path and first bytes, with the named groups that matched."""
        for product in self.products:
            groups = product.match(path, head)
            if groups is not None:
                yield product, groups
