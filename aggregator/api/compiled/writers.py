"""Writers: what becomes of the value of a selected field, made once per document.

A writer turns a value into what orjson writes. Those that wait for something are asynchronous; parts of one object that
wait do so at the same time, as in graphql-core's own execution.
"""

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from graphql.execution.values import VariableValues
from graphql.pyutils import Undefined

from aggregator.api.context import Context


@dataclass(frozen=True, slots=True)
class Asking:
    """One execution of a document. To resolvers it stands for graphql-core's info, of which they need the context."""

    context: Context
    variables: VariableValues


Tell: TypeAlias = Callable[[Any, Asking], Any]
"""Makes what is written of a value: at once, or, where the writer is asynchronous, as a coroutine."""


@dataclass(frozen=True, slots=True)
class Writer:
    """How a value is written."""

    tell: Tell
    is_async: bool = False


class ImpossibleValueError(Exception):
    """A value that its type does not allow; the ordinary execution says how that is told."""


def constant(value: Any) -> Writer:
    """Return the writer of one value, whatever is given."""
    return Writer(lambda _value, _asking: value)


def leaf(coerce: Callable[[Any], Any]) -> Writer:
    """Return the writer of a scalar or enum."""

    def tell(value: Any, _asking: Asking) -> Any:
        written = coerce(value)
        if written is None or written is Undefined:
            raise ImpossibleValueError
        return written

    return Writer(tell)


def required(writer: Writer) -> Writer:
    """Return the writer of a value that must not be null."""
    write = writer.tell

    def tell(value: Any, asking: Asking) -> Any:
        if value is None:
            raise ImpossibleValueError
        return write(value, asking)

    async def tell_later(value: Any, asking: Asking) -> Any:
        if value is None:
            raise ImpossibleValueError
        return await write(value, asking)

    return Writer(tell_later if writer.is_async else tell, writer.is_async)


def optional(writer: Writer) -> Writer:
    """Return the writer of a value that may be null."""
    write = writer.tell

    def tell(value: Any, asking: Asking) -> Any:
        return None if value is None else write(value, asking)

    async def tell_later(value: Any, asking: Asking) -> Any:
        return None if value is None else await write(value, asking)

    return Writer(tell_later if writer.is_async else tell, writer.is_async)


def several(writer: Writer) -> Writer:
    """Return the writer of a list."""
    write = writer.tell

    def tell(values: Any, asking: Asking) -> Any:
        return [write(value, asking) for value in values]

    async def tell_later(values: Any, asking: Asking) -> Any:
        return await together([write(value, asking) for value in values])

    return Writer(tell_later if writer.is_async else tell, writer.is_async)


def composed(parts: Sequence[tuple[str, Writer]]) -> Writer:
    """Return the writer of an object: key → writer, each of which is given the object."""
    if any(writer.is_async for _, writer in parts):
        return Writer(_composed_later(parts), is_async=True)
    told = [(key, writer.tell) for key, writer in parts]

    def tell(value: Any, asking: Asking) -> Any:
        return {key: write(value, asking) for key, write in told}

    return Writer(tell)


def _composed_later(parts: Sequence[tuple[str, Writer]]) -> Tell:
    keys = [key for key, _ in parts]
    now = [(key, writer.tell) for key, writer in parts if not writer.is_async]
    later = [(key, writer.tell) for key, writer in parts if writer.is_async]

    async def tell(value: Any, asking: Asking) -> Any:
        # What is told at once comes first: no coroutine is made that an error there would leave alone.
        told = {key: write(value, asking) for key, write in now}
        waited = await together([write(value, asking) for _, write in later])
        told |= {key: written for (key, _), written in zip(later, waited, strict=True)}
        return {key: told[key] for key in keys}

    return tell


async def together(coroutines: Sequence[Coroutine[Any, Any, Any]]) -> list[Any]:
    """Return the results of all; the first error ends those that are still under way."""
    if len(coroutines) == 1:
        return [await coroutines[0]]
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(coroutine) for coroutine in coroutines]
    return [task.result() for task in tasks]
