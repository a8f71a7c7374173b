"""Pages of files without an object per file or field: columns of the catalogue, cut into the rows that JSON wants."""

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

from graphql import GraphQLObjectType, GraphQLOutputType, get_named_type, is_list_type, is_non_null_type
from graphql.execution.collect_fields import FieldDetailsList

from aggregator.api.compiled.fields import NotCompiledError, Selection, name_of
from aggregator.api.compiled.writers import Asking, Writer, composed, constant
from aggregator.api.inputs import FileOrder, to_paging
from aggregator.api.types import PageInfo, Relation, known
from metadata_db.found import FILE_FIELDS, PageColumns
from metadata_db.search import Paging

Make: TypeAlias = Callable[[PageColumns, Asking], Sequence[Any]]
"""Makes one value per file of a page."""

AS_THEY_ARE = ("String", "BigInt", "Float", "Boolean", "DateTime", "JSONObject")
"""Scalars whose values orjson writes as graphql-core would have had them written."""


def write_files(selection: Selection, parent: GraphQLObjectType, details: FieldDetailsList) -> Writer:
    """Return the writer of the field `files`, which is given the `SearchResult`."""
    connection: Any = get_named_type(selection.find_field(parent, details)[0].type)
    page = _Page(selection)
    writer = composed(
        [(key, page.write(connection, part)) for key, part in selection.below(connection, details).items()]
    )
    paging_of = selection.read_converted(parent, details, _to_paging)
    fields = tuple(name for name in FILE_FIELDS if name in page.fields)

    async def tell(result: Any, asking: Asking) -> Any:
        paging = paging_of(asking)
        found = await asking.context.controller.columns(result.answer, paging, fields)
        written = writer.tell(_Found(found, paging, result.answer, asking), asking)
        return await written if writer.is_async else written

    return Writer(tell, is_async=True)


def _to_paging(
    *,
    first: int | None = None,
    after: str | None = None,
    last: int | None = None,
    before: str | None = None,
    order_by: FileOrder | None = None,
) -> Paging:
    return to_paging(first, after, last, before, order_by)


class _Found:
    """A page that was read."""

    def __init__(self, page: PageColumns, paging: Paging, answer: Any, asking: Asking) -> None:
        self.page = page
        self._paging = paging
        self._answer = answer
        self._controller = asking.context.controller

    @property
    def info(self) -> PageInfo:
        """What lies around it."""
        page = self.page
        return PageInfo.around(
            (page.cursor(0), page.cursor(page.n - 1)) if page.n else (None, None),
            is_backward=self._paging.is_backward,
            further=known(page.has_more),
            beyond=lambda: self._controller.has_beyond(self._answer, self._paging),
        )


class _Page:
    """Makes the writers of a page, and gathers what they need of its files."""

    def __init__(self, selection: Selection) -> None:
        self._selection = selection
        self.fields: set[str] = set()
        """Fields of `FoundFile`."""

    def write(self, connection: GraphQLObjectType, details: FieldDetailsList) -> Writer:
        """Return the writer of one part of a page, which is given what was found."""
        name = name_of(details)
        if name == "__typename":
            return constant(connection.name)
        kind = self._selection.find_field(connection, details)[0].type
        part: Any = get_named_type(kind)
        if name in ("edges", "nodes"):
            make = self._make_table(part, details, self._make_edge if name == "edges" else self._make_value)
            return Writer(lambda found, asking: make(found.page, asking))
        if name == "pageInfo":
            writer = self._selection.write_value(kind, details)
            return Writer(lambda found, asking: writer.tell(found.info, asking), writer.is_async)
        raise NotCompiledError(f"the field {connection.name}.{name}")

    def _make_table(
        self,
        kind: GraphQLObjectType,
        details: FieldDetailsList,
        make_column: Callable[[GraphQLObjectType, FieldDetailsList], Make],
    ) -> Make:
        """Return the maker of one object per file."""
        selected = self._selection.below(kind, details)
        keys = tuple(selected)
        makes = [make_column(kind, part) for part in selected.values()]
        if not keys:  # all of it is skipped
            return lambda page, _asking: [{} for _ in range(page.n)]

        def make(page: PageColumns, asking: Asking) -> Sequence[Any]:
            rows = zip(*(make(page, asking) for make in makes), strict=True)
            return [dict(zip(keys, row, strict=True)) for row in rows]

        return make

    def _make_edge(self, edge: GraphQLObjectType, details: FieldDetailsList) -> Make:
        name = name_of(details)
        if name == "__typename":
            return _repeat(edge.name)
        if name == "cursor":
            return lambda page, _asking: page.cursors
        if name == "node":
            node: Any = get_named_type(self._selection.find_field(edge, details)[0].type)
            return self._make_table(node, details, self._make_value)
        raise NotCompiledError(f"the field {edge.name}.{name}")

    def _make_value(self, file: GraphQLObjectType, details: FieldDetailsList) -> Make:
        if name_of(details) == "__typename":
            return _repeat(file.name)
        known_field, ours = self._selection.find_field(file, details)
        name = ours.python_name
        if not ours.is_basic_field or name not in FILE_FIELDS:
            raise NotCompiledError(f"the field {file.name}.{name}")
        self.fields.add(name)
        if name == "relations":
            return self._make_relations(known_field.type, details)
        if name == "id":
            return lambda page, _asking: [str(number) for number in page.columns["id"]]
        if _scalar_of(known_field.type) not in AS_THEY_ARE:
            raise NotCompiledError(f"the type {known_field.type}")
        return lambda page, _asking: page.columns[name]

    def _make_relations(self, kind: GraphQLOutputType, details: FieldDetailsList) -> Make:
        self.fields.add("storage")
        writer = self._selection.write_value(kind, details)
        if writer.is_async:
            raise NotCompiledError("relations that wait for something")

        def make(page: PageColumns, asking: Asking) -> Sequence[Any]:
            found = zip(page.columns["relations"], page.columns["storage"], strict=True)
            return [
                writer.tell([Relation.of(relation, storage) for relation in relations], asking) if relations else []
                for relations, storage in found
            ]

        return make


def _repeat(value: Any) -> Make:
    return lambda page, _asking: [value] * page.n


def _scalar_of(kind: GraphQLOutputType) -> str:
    """Return the name of the scalar that a value, or each value of a list, is."""
    while is_non_null_type(kind) or is_list_type(kind):
        kind = kind.of_type
    return str(kind)
