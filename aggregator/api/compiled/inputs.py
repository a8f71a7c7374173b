"""Arguments as resolvers get them: Strawberry's conversion of input objects, with all that can be known looked up once.

Strawberry resolves the types of all fields of an input object, and spells their names, for every object anew, which
takes longer than all else that is done with a filter.
"""

from collections.abc import Callable, Mapping
from dataclasses import MISSING
from typing import Any, TypeAlias

import strawberry
from strawberry.scalars import is_scalar
from strawberry.types.arguments import StrawberryArgument, convert_argument
from strawberry.types.base import StrawberryList, StrawberryOptional, has_object_definition
from strawberry.types.enum import StrawberryEnumDefinition, has_enum_definition

Read: TypeAlias = Callable[[Any], Any]
"""Makes of a value that graphql-core has coerced what a resolver is given."""


def _as_it_is(value: Any) -> Any:
    return value


class InputReader:
    """Reads the arguments of the fields of one schema."""

    def __init__(self, schema: strawberry.Schema) -> None:
        self._config = schema.config
        self._registry = schema.schema_converter.scalar_registry
        self._objects: dict[type, Read] = {}

    def read_all(self, arguments: list[StrawberryArgument]) -> Callable[[Mapping[str, Any]], dict[str, Any]]:
        """Return how to make keyword arguments of the coerced arguments of a field."""
        known = [
            (self._config.name_converter.from_argument(argument), argument.python_name, self.read(argument.type))
            for argument in arguments
        ]
        return lambda given: {name: read(given[key]) for key, name, read in known if key in given}

    def read(self, kind: Any) -> Read:
        """Return how to read a value of a type."""
        if type(kind) is StrawberryOptional:
            inner = self.read(kind.of_type)
            return inner if inner is _as_it_is else lambda value: None if value is None else inner(value)
        if type(kind) is StrawberryList:
            each = self.read(kind.of_type)
            return list if each is _as_it_is else lambda values: [each(value) for value in values]
        if is_scalar(kind, self._registry) or isinstance(kind, StrawberryEnumDefinition) or has_enum_definition(kind):
            return _as_it_is
        if isinstance(kind, type) and has_object_definition(kind):
            return self._read_object(kind)
        return lambda value: convert_argument(value, kind, self._registry, self._config)

    def _read_object(self, kind: Any) -> Read:
        if kind not in self._objects:
            fields: list[tuple[str, str, Read]] = []
            needed: list[str] = []

            def read(value: Any) -> Any:
                values: dict[str, Any] = dict.fromkeys(needed)
                values |= {name: read_field(value[key]) for key, name, read_field in fields if key in value}
                return kind(**values)

            # Known before its fields are, one of which may be of this type again.
            self._objects[kind] = read
            definition = kind.__strawberry_definition__
            for field in definition.fields:
                key = self._config.name_converter.get_graphql_name(field)
                fields.append((key, field.python_name, self.read(field.resolve_type(type_definition=definition))))
                if field.default_value is MISSING and field.default_factory is MISSING:
                    needed.append(field.python_name)
        return self._objects[kind]
