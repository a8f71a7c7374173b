"""What a resolver is handed with each operation."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Self, TypeAlias

from strawberry.types import Info as StrawberryInfo

from aggregator.api.live import Live
from aggregator.controller import Answer, CoreController
from aggregator.present import ALIVE, mark_of
from aggregator.staging.ledger import Export, ExportLedger
from metadata_db.search import Revisions
from metadata_db.vocabulary import VocabularyStore


@dataclass(kw_only=True, slots=True)
class Footprint:
    """What the answer to an operation depends on, gathered while it is made.

    As long as none of it changes the answer may be told again. An answer whose footprint is empty is not kept: nobody
    said on what it rests.
    """

    revisions: dict[str, int] = field(default_factory=dict)
    """Revisions of the facilities that were looked at."""
    is_passing: bool = False
    """Whether it tells of something that changes by itself, such as an export under way, or did something."""
    is_settled: bool = False
    """Whether it tells of an answer as of an earlier moment, which stays as it is for ever."""
    questions: dict[str, Revisions] = field(default_factory=dict)
    """Canonical form of a question → revisions; whatever changes none of their answers leaves this one as it is."""
    is_movable: bool = True
    """Whether it tells no revision, and of files nothing but answers to `questions`."""
    vocabulary: str | None = None
    """Digest of the vocabulary that it tells of."""
    exports: dict[str, str] = field(default_factory=dict)
    """Id of an export → what is told of it, see `mark_of` and `ALIVE`."""

    @property
    def is_empty(self) -> bool:
        """Whether nothing is known that it depends on."""
        return not (self.revisions or self.is_settled or self.vocabulary or self.exports)

    def touch(self, revisions: Mapping[str, int]) -> None:
        """Note that the answer tells of facilities at these revisions, and that nobody said what of them."""
        self._touch(revisions)
        self.is_movable = False

    def rest_on(self, answer: Answer) -> None:
        """Note that it tells of an answer, though not of the answer's revision."""
        if answer.is_past:
            self.is_settled = True
            return
        self._touch(answer.revisions)
        known = self.questions.setdefault(answer.query.canonical, answer.revisions)
        self.is_movable &= known == answer.revisions and answer.query.coincidence is None
        # A catalogue that was empty has no revisions, and is looked at anew.
        self.is_passing |= not answer.revisions

    def tell_revision(self) -> None:
        """Note that it tells a revision, or what follows from one."""
        self.is_movable = False

    def tell_vocabulary(self, digest: str) -> None:
        """Note that it tells of the vocabulary."""
        self.is_passing |= self.vocabulary not in (None, digest)
        self.vocabulary = digest

    def rest_on_export(self, export_id: str, export: Export | None, *, is_told: bool = True) -> None:
        """Note that it tells of an export, or that an export had to be there; of none, that there is none."""
        if export is not None and export.is_under_way:
            self.is_passing |= is_told
        mark = mark_of(export) if is_told else ALIVE
        # What is told of it says more than that it is there.
        if self.exports.get(export_id, ALIVE) == ALIVE:
            self.exports[export_id] = mark

    def pass_by(self) -> None:
        """Note that the answer is true for this moment only."""
        self.is_passing = True

    def _touch(self, revisions: Mapping[str, int]) -> None:
        # Two fields may be answered by two moments: the answer is as old as the older one.
        for name, revision in revisions.items():
            self.revisions[name] = min(revision, self.revisions.get(name, revision))


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
