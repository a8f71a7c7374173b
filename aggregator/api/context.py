"""What a resolver is handed with each request."""

from dataclasses import dataclass
from typing import TypeAlias

from strawberry.types import Info as StrawberryInfo

from aggregator.controller import CoreController
from aggregator.staging.ledger import ExportLedger
from metadata_db.vocabulary import VocabularyStore


@dataclass(frozen=True, kw_only=True)
class Context:
    """The parts of the service that resolvers call."""

    controller: CoreController
    vocabulary: VocabularyStore
    ledger: ExportLedger


Info: TypeAlias = StrawberryInfo[Context, None]
"""Strawberry's info with our context."""
