"""How a look-up is done: at which moment, by which way to the files, and what happens when the catalogue moves on.

A look-up is first made about the present. The statement tells the revisions that it saw; if they are not those that
are wanted it is made again as of these.
"""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from metadata_db.alerts import AlertStore
from metadata_db.counting import Statement
from metadata_db.database import Database
from metadata_db.filters import Filters, build_filters
from metadata_db.leading import RARE, Lead, lead_of, probe_lead, read_lead
from metadata_db.planning import MAX_LOOKED_AT, ROW_EFFORT, Choice, choose, probe, probe_attributes
from metadata_db.query import Alert, SearchQuery
from metadata_db.search import Order, OrderField, Revisions
from metadata_db.vocabulary import Vocabulary, VocabularyStore

T = TypeVar("T")

MAX_ALERT_LISTS = 20
"""Lists of alerts that a process remembers."""

MAX_CHOICES = 2_000
"""Choices of how to find the files of a question that a process remembers."""

_TRIES = 5
"""Times that a look-up is begun anew, for the catalogue moved on or the vocabulary did not know a name."""

_AT_A_MOMENT = """
    select moment.*, found.* from (
        select coalesce(sum(revision), 0)::int8, coalesce(max(longest), '0') from facility
        where %(is_everybody)s or id = any(%(touched)s)
    ) as moment left join lateral (select true as is_found, each.* from ({}) as each) as found on true
"""
"""The revisions and the rows in one statement, and so in one snapshot; one row of nulls when there are none."""


class MovedOnError(Exception):
    """The catalogue is at a later moment than the one that was asked for."""


class _StaleError(Exception):
    """The vocabulary is older than the files."""


@dataclass(frozen=True)
class View:
    """A question at a moment, as the statements about it are made."""

    asked: SearchQuery
    revisions: Revisions
    vocabulary: Vocabulary
    filters: Filters
    is_past: bool
    """Whether the moment may lie in the past."""

    @property
    def sum_of_revisions(self) -> int:
        """Sum of the revisions that a statement about the present must see."""
        if self.filters.touches_all:
            return sum(self.revisions.values())
        return sum(self.revisions[self.vocabulary.facility.names[number]] for number in self.filters.touched)

    @property
    def values(self) -> dict[str, Any]:
        """Values of the parameters that tell a statement the moment."""
        at = {self.vocabulary.facility.ids[name][0]: self.revisions[name] for name in self._names}
        numbers = self.filters.facilities
        return {
            "is_everybody": self.filters.touches_all,
            "touched": list(self.filters.touched),
            "at_facilities": list(numbers),
            "at_revisions": [at[number] for number in numbers],
            "at": [at.get(number) for number in range(1, max(at, default=0) + 1)],
        }

    @property
    def _names(self) -> list[str]:
        return [name for name in self.revisions if name in self.vocabulary.facility.ids]


class LookUps:
    """Makes look-ups, and remembers what helps the next ones."""

    def __init__(self, database: Database, vocabulary: VocabularyStore, alerts: AlertStore) -> None:
        self._database = database
        self._vocabulary = vocabulary
        self._alerts = alerts
        self._alert_lists: dict[str, Sequence[Alert]] = {}
        self._choices: dict[Any, Choice] = {}

    async def as_of(self, asked: SearchQuery, revisions: Revisions, look_up: Callable[[View], Awaitable[T]]) -> T:
        """Do a look-up about the present if that is what `revisions` are, as they nearly always are; else of them."""
        vocabulary, is_past = await self._vocabulary.get(), False
        alerts = await self._find_alerts(asked)
        for _ in range(_TRIES):
            filters = build_filters(
                asked,
                vocabulary,
                facilities=revisions.keys(),
                indexed=vocabulary.indexed,
                alerts=alerts,
                is_past=is_past,
            )
            try:
                return await look_up(View(asked, revisions, vocabulary, filters, is_past))
            except MovedOnError:
                is_past = True
            except (_StaleError, KeyError):
                vocabulary = await self._vocabulary.renew()
        raise RuntimeError("the vocabulary does not fit the files")

    async def _find_alerts(self, asked: SearchQuery) -> Sequence[Alert]:
        """Return the alerts of a question's coincidence; lists never change, so they are remembered."""
        wanted = asked.coincidence
        if wanted is None or wanted.alert_list is None:
            return () if wanted is None else wanted.alerts
        if (known := self._alert_lists.get(wanted.alert_list)) is None:
            known = await self._alerts.get(wanted.alert_list)
            if len(self._alert_lists) >= MAX_ALERT_LISTS:
                self._alert_lists.clear()
            self._alert_lists[wanted.alert_list] = known
        return known

    async def read(self, view: View, statement: Statement, *, is_sample: bool = False) -> list[tuple[Any, ...]]:
        """Return the rows of a statement, if the catalogue is at the moment that the statement was made for."""
        rows = await self._database.read(
            _AT_A_MOMENT.format(statement.text), {**statement.values, **view.values}, is_stable=statement.is_stable
        )
        revisions, longest = rows[0][:2]
        if longest > view.filters.lookback:
            raise _StaleError
        # Revisions only grow: an equal sum is an equal state.
        if not (view.is_past or is_sample) and revisions != view.sum_of_revisions:
            raise MovedOnError
        return [row[3:] for row in rows if row[2]]

    async def choose(self, view: View, *, looks_at_files: bool = False) -> Choice:
        """Decide how the files of a question are found; what was decided is remembered for a while."""
        filters = view.filters
        if not (filters.particular or looks_at_files):
            return Choice(way=None, bound=0, in_time=0)
        for way in filters.ways.values():
            if way.is_few:
                return Choice(way=way, bound=0, in_time=0)
        key = (view.asked.query_id, tuple(filters.facilities))
        if (known := self._choices.get(key)) is not None:
            return known
        if len(self._choices) >= MAX_CHOICES:
            self._choices.clear()
        self._choices[key] = await self._weigh(view)
        return self._choices[key]

    async def find_lead(self, view: View, order: Order, after: tuple[Any, int] | None) -> Lead | None:
        """Return where a walk along `order` meets its first files; None when nothing is known about that."""
        filters = view.filters
        if view.is_past or order.field is not OrderField.TIME_BEGIN:
            return None
        if filters.counted:
            statement = probe_lead(filters, order, after)
            rows = await self._database.read(statement.text, statement.values)
            return read_lead(filters, order, rows, rare=RARE)
        if filters.particular:
            return lead_of(filters, order, (await self.choose(view)).in_time)
        return None

    async def _weigh(self, view: View) -> Choice:
        filters = view.filters
        statement = probe(filters)
        (told,) = await self._database.read(statement.text, statement.values)
        best = choose(filters, told)
        if best.effort > MAX_LOOKED_AT and "attributes" in filters.ways:
            statement, weight = probe_attributes(filters, best.in_all)
            ((hits,),) = await self._database.read(statement.text, statement.values)
            if hits * weight * ROW_EFFORT <= MAX_LOOKED_AT:
                best = replace(best, way=filters.ways["attributes"], bound=MAX_LOOKED_AT, effort=MAX_LOOKED_AT)
        return best
