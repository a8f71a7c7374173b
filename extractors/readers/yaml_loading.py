"""Loads YAML into plain values, and nothing else: no tag makes an object, no alias makes a bomb.

Plain scalars are what the core schema of YAML 1.2 says. The older rules of YAML 1.1 turn ``no`` into false and
``12:30`` into 750, which no author of metadata has meant; dates stay the text that they are.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from extractors.errors import ContentError
from extractors.readers.pointers import Refused

if TYPE_CHECKING:
    import yaml

MAX_DEPTH = 100
"""Deepest nesting; the parser takes a time that grows with its square."""

MAX_NODES = 1_000_000
"""Most nodes, those that aliases repeat counted again: what a few seconds and some hundred megabytes are enough for."""

_TAGS = "tag:yaml.org,2002:"
_STRUCTURES = frozenset({None, "!", *(f"{_TAGS}{name}" for name in ("map", "seq", "omap", "pairs", "set"))})
_TEXTS = frozenset({"!", f"{_TAGS}str", f"{_TAGS}timestamp"})
_RESOLVED = frozenset(f"{_TAGS}{name}" for name in ("null", "bool", "int", "float"))
_WORDS = {
    **dict.fromkeys(("", "~", "null", "Null", "NULL"), None),
    **dict.fromkeys(("true", "True", "TRUE"), True),
    **dict.fromkeys(("false", "False", "FALSE"), False),
}
# A number with leading zeros is octal to YAML 1.1 and an identifier to most authors: it stays text.
_INTEGER = re.compile(r"[-+]?(?:0|[1-9][0-9]{0,400})|0o[0-7]{1,400}|0x[0-9a-fA-F]{1,400}")
_FLOAT = re.compile(r"[-+]?(?:\.[0-9]+|[0-9]+\.[0-9]*(?:[eE][-+]?[0-9]+)?|\.?[0-9]+[eE][-+]?[0-9]+)")
_NO_NUMBER = re.compile(r"[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)")


def load_yaml(data: bytes) -> list[Any]:
    """Return the documents of a stream: mappings with text as keys, lists, plain values, `Refused` for what has none.

    Raises
    ------
    ContentError
        It is no YAML, nested too deeply, or repeats too much.
    """
    import yaml

    try:
        return _build(_iter_events(data))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ContentError(f"this is no YAML: {' '.join(str(error).split())[:300]}") from error


def _iter_events(data: bytes) -> Iterator["yaml.Event"]:
    import yaml

    loader = yaml.CSafeLoader if yaml.__with_libyaml__ else yaml.SafeLoader
    yield from yaml.parse(data, Loader=loader)


def _build(events: Iterator["yaml.Event"]) -> list[Any]:
    """Return the documents that `events` tell; nothing here calls itself, so depth costs no stack."""
    import yaml

    documents: list[Any] = []
    builder = _Builder()
    for event in events:
        match event:
            case yaml.DocumentStartEvent():
                builder = _Builder(n_nodes=builder.n_nodes)
            case yaml.DocumentEndEvent():
                documents.append(builder.root)
            case yaml.ScalarEvent():
                builder.add(event.anchor, _scalar(event))
            case yaml.AliasEvent():
                builder.add_alias(event.anchor)
            case yaml.MappingStartEvent() | yaml.SequenceStartEvent():
                builder.open(event.anchor, event.tag, is_mapping=isinstance(event, yaml.MappingStartEvent))
            case yaml.MappingEndEvent() | yaml.SequenceEndEvent():
                builder.close()
            case _:  # begin and end of the stream
                pass
    return documents


def _scalar(event: "yaml.ScalarEvent") -> Any:
    text: str = event.value
    is_plain, _ = event.implicit
    if is_plain or event.tag in _RESOLVED:
        return _resolve(text)
    if event.tag is None or event.tag in _TEXTS:
        return text
    return Refused(reason=f"has the tag {event.tag[:100]!r}, which is not followed")


def _resolve(text: str) -> Any:
    if text in _WORDS:
        return _WORDS[text]
    if _INTEGER.fullmatch(text):
        return int(text, 0) if text[:2] in ("0o", "0x") else int(text)
    if _FLOAT.fullmatch(text):
        return float(text)
    return None if _NO_NUMBER.fullmatch(text) else text


@dataclass(kw_only=True, slots=True)
class _Open:
    """A mapping or list that is not complete yet."""

    items: list[Any] = field(default_factory=list)
    """Elements, or keys and values in turn."""
    is_mapping: bool
    anchor: str | None
    tag: str | None
    n_before: int
    """Nodes before this one."""


class _Builder:
    """Builds one document."""

    def __init__(self, n_nodes: int = 0) -> None:
        self.root: Any = None
        self.n_nodes = n_nodes
        self._open: list[_Open] = []
        self._anchors: dict[str, tuple[Any, int]] = {}

    def open(self, anchor: str | None, tag: str | None, *, is_mapping: bool) -> None:
        """Begin a mapping or a list."""
        if len(self._open) >= MAX_DEPTH:
            raise ContentError(f"the YAML is nested more than {MAX_DEPTH} deep")
        self._open.append(_Open(is_mapping=is_mapping, anchor=anchor, tag=tag, n_before=self.n_nodes))

    def close(self) -> None:
        """End the innermost mapping or list."""
        ended = self._open.pop()
        node: Any = _mapping(ended.items) if ended.is_mapping else ended.items
        if ended.tag == f"{_TAGS}omap":
            node = _ordered_mapping(node)
        elif ended.tag not in _STRUCTURES:
            node = Refused(reason=f"has the tag {str(ended.tag)[:100]!r}, which is not followed")
        self.add(ended.anchor, node, weight=self.n_nodes - ended.n_before + 1)

    def add(self, anchor: str | None, node: Any, *, weight: int = 1) -> None:
        """Put a complete node where it belongs."""
        self._count(1)
        if anchor is not None:
            self._anchors[anchor] = (node, weight)
        self._place(node)

    def add_alias(self, anchor: str | None) -> None:
        """Repeat the node with an anchor."""
        if anchor is None or anchor not in self._anchors:
            raise ContentError(f"the alias *{str(anchor)[:100]} stands for nothing, or for something it is part of")
        node, weight = self._anchors[anchor]
        self._count(weight)
        self._place(node)

    def _count(self, weight: int) -> None:
        self.n_nodes += weight
        if self.n_nodes > MAX_NODES:
            raise ContentError(f"the YAML has more than {MAX_NODES} nodes, those counted that aliases repeat")

    def _place(self, node: Any) -> None:
        if self._open:
            self._open[-1].items.append(node)
        else:
            self.root = node


def _mapping(items: list[Any]) -> dict[str, Any]:
    mapping: dict[str, Any] = {}
    for key, value in zip(items[::2], items[1::2], strict=True):
        spelled = _key(key)
        if spelled is not None:
            mapping[spelled] = value if spelled not in mapping else Refused(reason="stands twice under the same key")
    return mapping


def _key(key: Any) -> str | None:
    """Return a key as text; None for lists and mappings, at which no pointer can point."""
    if isinstance(key, dict | list | Refused):
        return None
    if key is None or isinstance(key, bool):
        return {None: "null", True: "true", False: "false"}[key]
    return str(key)


def _ordered_mapping(node: Any) -> Any:
    """Return the mapping that a list of single pairs writes."""
    if not isinstance(node, list) or not all(isinstance(item, dict) for item in node):
        return node
    return _mapping([part for item in node for pair in item.items() for part in pair])
