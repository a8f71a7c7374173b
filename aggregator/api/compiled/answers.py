"""The root fields `search` and `query`: only what is selected of an answer is looked up, all of it at the same time.

The ordinary way counts the files of every answer first. Here pages, facets and the like are read meanwhile, nothing is
counted that nobody wants to know, and no export is looked for. A new question is registered meanwhile, and before
anything is told.
"""

from typing import Any

from graphql import GraphQLObjectType, get_named_type
from graphql.execution.collect_fields import FieldDetailsList

from aggregator.api.compiled.fields import FieldRule, Selection, name_of
from aggregator.api.compiled.pages import write_files
from aggregator.api.compiled.writers import Asking, Writer, composed, together
from aggregator.api.inputs import AsOf, SearchFilter, to_as_of, to_query
from aggregator.api.types import SearchResult
from aggregator.controller import Answer, Prepare
from aggregator.controller import AsOf as Moment
from metadata_db.errors import NotFoundError
from metadata_db.query import SearchQuery

OF_THE_ANSWER = frozenset(
    {
        "__typename",
        "queryId",
        "canonical",
        "revisions",
        "revision",
        "asOf",
        "citeUrl",
        "files",
        "facets",
        "timeline",
        "sky",
    }
)
"""Fields of `SearchResult` for which its quick response need not be known."""


def write_search(selection: Selection, parent: GraphQLObjectType, details: FieldDetailsList) -> Writer:
    """Return the writer of the root field `search`."""
    result = _Result(selection, parent, details)
    read = selection.read_converted(parent, details, _to_search)

    async def tell(_root: Any, asking: Asking) -> Any:
        asked, prepare, moment = read(asking)
        controller = asking.context.controller
        is_registered = await controller.is_registered(asked)
        if prepare is Prepare.AUTO and not is_registered:
            await controller.register(asked)  # an export names it
            is_registered = True
        answer = await controller.find_answer(asked, moment)
        asking.context.footprint.rest_on(answer)
        work: list[Any] = [result.tell(answer, prepare, asking)]
        if not is_registered:
            work.append(controller.register(asked))
        return (await together(work))[0]

    return Writer(tell, is_async=True)


def _to_search(
    *, filter: SearchFilter, prepare: Prepare = Prepare.AUTO, as_of: AsOf | None = None
) -> tuple[SearchQuery, Prepare, Moment]:
    moment = to_as_of(as_of)
    return to_query(filter), prepare, moment


def write_query(selection: Selection, parent: GraphQLObjectType, details: FieldDetailsList) -> Writer:
    """Return the writer of the root field `query`."""
    result = _Result(selection, parent, details)
    read = selection.read_converted(parent, details, _to_query_id)

    async def tell(_root: Any, asking: Asking) -> Any:
        query_id, moment = read(asking)
        controller = asking.context.controller
        try:
            asked = await controller.get_query(query_id)
        except NotFoundError:
            asking.context.footprint.pass_by()
            return None
        answer = await controller.find_answer(asked, moment)
        asking.context.footprint.rest_on(answer)
        return await result.tell(answer, Prepare.NEVER, asking)

    return Writer(tell, is_async=True)


def _to_query_id(*, id: str, as_of: AsOf | None = None) -> tuple[str, Moment]:
    return id, to_as_of(as_of)


class _Result:
    """Writes a `SearchResult`."""

    def __init__(self, selection: Selection, parent: GraphQLObjectType, details: FieldDetailsList) -> None:
        kind: Any = get_named_type(selection.find_field(parent, details)[0].type)
        selected = selection.below(kind, details)
        self._keys = tuple(selected)
        of_answer = {key: part for key, part in selected.items() if name_of(part) in OF_THE_ANSWER}
        self._ahead = composed([(key, selection.write_field(kind, part)) for key, part in of_answer.items()])
        self._rest = composed(
            [(key, selection.write_field(kind, part)) for key, part in selected.items() if key not in of_answer]
        )
        self._needs_response = len(of_answer) < len(selected)
        self._needs_export = any(name_of(part) == "export" for part in selected.values())

    async def tell(self, answer: Answer, prepare: Prepare, asking: Asking) -> dict[str, Any]:
        """Return what is selected of an answer."""
        ahead = _later(self._ahead, SearchResult(answer=answer), asking)
        if not (self._needs_response or prepare is Prepare.AUTO):
            told: dict[str, Any] = await ahead
            return told
        first, second = await together([ahead, self._tell_rest(answer, prepare, asking)])
        return {key: first[key] if key in first else second[key] for key in self._keys}

    async def _tell_rest(self, answer: Answer, prepare: Prepare, asking: Asking) -> Any:
        response = await asking.context.controller.respond(answer, prepare=prepare, looks_for_export=self._needs_export)
        if prepare is Prepare.AUTO and response.export is not None:
            # Whoever asks the same later relies on it too; when it has ended, asking begins it again.
            asking.context.footprint.rest_on_export(response.export.id, response.export, is_told=False)
        return await _later(self._rest, SearchResult.of(response), asking)


async def _later(writer: Writer, value: Any, asking: Asking) -> Any:
    return await writer.tell(value, asking) if writer.is_async else writer.tell(value, asking)


RULES: dict[tuple[str, str], FieldRule] = {
    ("Query", "search"): write_search,
    ("Query", "query"): write_query,
    ("SearchResult", "files"): write_files,
}
"""Fields that are not written by their resolvers."""
