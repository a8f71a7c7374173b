"""Pointers into documents: trees of mappings, lists and plain values, as JSON and YAML have them."""

import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any, Literal, TypeAlias

from extractors.errors import AddressError, ContentError
from extractors.readers.lines import check_text
from extractors.readers.reader import Plain

MAX_LIST_VALUES = 1000
"""Longest list that is read as one value."""

_EXPECTED = (
    "a pointer such as /run/start, /hits/*/energy or /**/energy, with ~1 for a slash in a key and ~0 for a tilde"
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Refused:
    """Stands in a tree where something is that has no value; says why."""

    reason: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Step:
    """One step down: to a child by its key, to any child, or to any depth."""

    kind: Literal["key", "child", "depth"]
    key: str = ""


Pointer: TypeAlias = tuple[Step, ...]

_INDEX = re.compile(r"0|[1-9][0-9]{0,8}")


@lru_cache(maxsize=4096)
def parse_pointer(text: str) -> Pointer:
    """Return the steps of a pointer as of RFC 6901, where ``*`` is any child and ``**`` any depth, even none.

    ``/`` alone is the whole document.

    Raises
    ------
    AddressError
        It is no pointer.
    """
    if not text.startswith("/"):
        raise AddressError(text, _EXPECTED)
    return tuple(_step(part, text) for part in text[1:].split("/")) if text != "/" else ()


def _step(part: str, text: str) -> Step:
    if part == "*":
        return Step(kind="child")
    if part == "**":
        return Step(kind="depth")
    key = part.replace("~1", "/").replace("~0", "\0")
    if "~" in key:
        raise AddressError(text, _EXPECTED)
    return Step(kind="key", key=key.replace("\0", "~"))


def iter_matches(tree: Any, pointer: Pointer) -> Iterator[Any]:
    """Return what is where `pointer` points, in the order of the document, each place once."""
    rest: list[tuple[Any, _State]] = [(tree, _state(pointer, _opened(pointer, {0})))]
    while rest:
        node, state = rest.pop()
        if state.is_end:
            yield node
        children: Iterable[tuple[Any, _State]] = ()
        if isinstance(node, dict):
            children = _members(node, state)
        elif isinstance(node, list):
            children = _elements(node, state)
        below = [(child, after) for child, after in children if after.is_end or isinstance(child, dict | list)]
        rest += reversed(below)


class _State:
    """Where in a pointer one is at a node: before which of its steps, which is several where a step has any depth."""

    def __init__(self, pointer: Pointer, steps: frozenset[int]) -> None:
        self._pointer = pointer
        self._before = [number for number in sorted(steps) if number < len(pointer)]
        self.is_end = len(pointer) in steps

    @cached_property
    def by_key(self) -> Mapping[str, "_State"]:
        """The state at a child by its key."""
        steps = [self._pointer[number] for number in self._before]
        after = {step.key: self._after(step.key) for step in steps if step.kind == "key"}
        return {key: state for key, state in after.items() if state is not None}

    @cached_property
    def other(self) -> "_State | None":
        """The state at children with other keys; None when no step leads to them."""
        return self._after(None)

    def _after(self, key: str | None) -> "_State | None":
        taken: set[int] = set()
        for number in self._before:
            step = self._pointer[number]
            if step.kind != "key" or step.key == key:
                taken.add(number if step.kind == "depth" else number + 1)
        return _state(self._pointer, _opened(self._pointer, taken)) if taken else None


def _members(node: dict[str, Any], state: _State) -> Iterable[tuple[Any, _State]]:
    other = state.other
    if other is None:
        return [(node[key], after) for key, after in state.by_key.items() if key in node]
    return [(child, state.by_key.get(key, other)) for key, child in node.items()]


def _elements(node: list[Any], state: _State) -> Iterable[tuple[Any, _State]]:
    numbered = {int(key): after for key, after in state.by_key.items() if _INDEX.fullmatch(key)}
    other = state.other
    if other is None:
        return [(node[index], after) for index, after in numbered.items() if index < len(node)]
    return [(child, numbered.get(index, other)) for index, child in enumerate(node)]


@lru_cache(maxsize=4096)
def _state(pointer: Pointer, steps: frozenset[int]) -> _State:
    return _State(pointer, steps)


def _opened(pointer: Pointer, steps: Iterable[int]) -> frozenset[int]:
    """Return the steps that may be next, given that a step to any depth may also be none."""
    opened = set(steps)
    for number, step in enumerate(pointer):
        if number in opened and step.kind == "depth":
            opened.add(number + 1)
    return frozenset(opened)


# ------------------------------------------------------------------------------------------------------ values


def find_single(documents: Iterable[Any], pointer: Pointer) -> Plain | tuple[Plain, ...] | None:
    """Return the first value where `pointer` points, or None: nothing, null and mappings are none.

    Raises
    ------
    ContentError
        There is something, but no value that may leave a reader.
    """
    for document in documents:
        for node in iter_matches(document, pointer):
            value = _single(node)
            if value is not None:
                return value
    return None


def _single(node: Any) -> Plain | tuple[Plain, ...] | None:
    if not isinstance(node, list):
        return _plain(node)
    if len(node) > MAX_LIST_VALUES:
        raise ContentError(f"holds a list of {len(node)} values, at most {MAX_LIST_VALUES} are read as one")
    values = [_plain(item) for item in node]
    if any(value is None for value in values):
        raise ContentError("holds a list with something in it that is no value")
    return tuple(value for value in values if value is not None) or None


def _plain(node: Any) -> Plain | None:
    if isinstance(node, Refused):
        raise ContentError(node.reason)
    if isinstance(node, str):
        return check_text(node)
    if node is None or (isinstance(node, float) and not math.isfinite(node)):
        return None
    return node if isinstance(node, bool | int | float) else None


def find_column(documents: Iterable[Any], pointer: Pointer) -> list[Plain | None] | None:
    """Return all values where `pointer` points, those in lists one by one; None when it points nowhere.

    A null is a row without a value; a mapping is no row.

    Raises
    ------
    ContentError
        Something there has no value.
    """
    column: list[Plain | None] = []
    is_there = False
    for document in documents:
        for node in iter_matches(document, pointer):
            is_there = is_there or not isinstance(node, dict)
            column += _iter_values(node)
    return column if is_there else None


def _iter_values(node: Any) -> Iterator[Plain | None]:
    rest = [node]
    while rest:
        item = rest.pop()
        if isinstance(item, list):
            rest += reversed(item)
        elif not isinstance(item, dict):
            yield _plain(item)


def count_items(documents: Iterable[Any], pointer: Pointer) -> int | None:
    """Return how long the lists are together where `pointer` points; None when it points nowhere.

    Raises
    ------
    ContentError
        Something there is no list.
    """
    lists: list[Sequence[Any]] = []
    for document in documents:
        for node in iter_matches(document, pointer):
            if not isinstance(node, list):
                raise ContentError("is no list, and has no rows")
            lists.append(node)
    return sum(map(len, lists)) if lists else None
