"""What a resolver is handed with each operation."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Self, TypeAlias

from strawberry.types import Info as StrawberryInfo

from aggregator.api.live import Live
from aggregator.controller import CoreController
from aggregator.staging.ledger import ExportLedger
from metadata_db.vocabulary import VocabularyStore


@dataclass(kw_only=True, slots=True)
class Footprint:
    """What the answer to an operation depends on, gathered while it is made.

    As long as none of it changes the answer may be told again.
    """

    revisions: dict[str, int] = field(default_factory=dict)
    """Revisions of the facilities that were looked at."""
    is_passing: bool = False
    """Whether it tells of something that changes by itself, such as an export under way, or did something."""

    def touch(self, revisions: Mapping[str, int]) -> None:
        """Note that the answer tells of facilities at these revisions."""
        self.revisions.update(revisions)

    def pass_by(self) -> None:
        """Note that the answer is true for this moment only."""
        self.is_passing = True


@dataclass(frozen=True, kw_only=True)
class Context:
    """The parts of the service that resolvers call, and the footprint of the operation that they work on."""

    controller: CoreController
    vocabulary: VocabularyStore
    ledger: ExportLedger
    footprint: Footprint = field(default_factory=Footprint)
    live: Live = field(default_factory=Live)

    def for_operation(self) -> Self:
        """Return the context of one more operation."""
        return replace(self, footprint=Footprint())


Info: TypeAlias = StrawberryInfo[Context, None]
"""Strawberry's info with our context."""
