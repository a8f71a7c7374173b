"""Reads documents: JSON and YAML by pointers, XML by the paths of ElementTree."""

import io
import json
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import replace
from functools import lru_cache
from typing import TYPE_CHECKING, Any, BinaryIO

from extractors.errors import AddressError, ContentError, TooLargeError
from extractors.readers.address import Address
from extractors.readers.cells import ColumnMaker, column_of_values
from extractors.readers.lines import check_text
from extractors.readers.pointers import Refused, count_items, find_column, find_single, parse_pointer
from extractors.readers.reader import Content, Plain, RawValue, Reader, ReadLimits
from extractors.readers.reductions import reduce_columns
from extractors.readers.yaml_loading import load_yaml

if TYPE_CHECKING:
    from xml.etree.ElementTree import Element

MAX_JSON_BYTES = 32 * 1024**2
"""Largest JSON document: it is held whole, and Python's objects take up to thirty times as many bytes."""

MAX_YAML_BYTES = 16 * 1024**2
"""Largest YAML stream: a parser in C makes some megabytes of it per second."""

MAX_XML_BYTES = 64 * 1024**2
"""Largest XML document, which is held whole."""

MAX_XML_DEPTH = 200
"""Deepest nesting of elements; paths with ``//`` look at every level from every level."""

MAX_XML_ELEMENTS = 1_000_000
"""Most elements of one document, each of which takes some hundred bytes."""


def _read_whole(stream: BinaryIO, max_bytes: int, limits: ReadLimits) -> bytes:
    limit = min(max_bytes, limits.max_unpacked_bytes)
    data = stream.read(limit + 1)
    if len(data) > limit:
        raise TooLargeError("a document, which is held whole,", limit)
    return data


def _without_columns(addresses: Iterable[Address], limits: ReadLimits) -> list[Address]:
    return [item for item in addresses if item.reduction in (None, "rows") or not limits.header_only]


class _PointerReader(Reader):
    """What JSON and YAML share: a pointer says where.

    ``/run/start`` is a value or a short list, ``/hits/0/t`` counts from 0, ``*`` is any child, ``**`` any depth; of
    several values the first one counts, in reductions all of them, those in lists one by one. ``rows(/hits)`` is the
    length of a list.
    """

    def check(self, address: Address) -> None:
        """Raise `AddressError` unless all places are pointers."""
        for place in _with_pointers(address).places:
            parse_pointer(place)

    def read(self, stream: BinaryIO, addresses: Collection[Address], *, limits: ReadLimits) -> Content:
        """Return what the document says at `addresses`."""
        asked = _without_columns(addresses, limits)
        if not asked:
            return Content()
        documents = self._load(stream, limits)
        return _read_each(asked, lambda address: _find(documents, _with_pointers(address)))

    def _load(self, stream: BinaryIO, limits: ReadLimits) -> Sequence[Any]:
        """Return the documents of a file."""
        raise NotImplementedError


@lru_cache(maxsize=4096)
def _with_pointers(address: Address) -> Address:
    """Return `address` with the pointers that stand in its one place, which the general grammar leaves together."""
    if address.reduction is None:
        return address
    return replace(address, places=tuple(part for place in address.places for part in re.split(r"\s*;\s*(?=/)", place)))


def _read_each(addresses: Iterable[Address], find: Callable[[Address], Content]) -> Content:
    """Return what `find` finds at each of `addresses`, where a problem of one is no problem of the others."""
    content = Content()
    for address in addresses:
        try:
            content = content.joined_with(find(address))
        except ContentError as error:
            content = content.joined_with(Content(oddities={address.text: str(error)}))
    return content


def _single(address: Address, value: Plain | tuple[Plain, ...] | None) -> Content:
    return Content() if value is None else Content(values={address.text: RawValue(value=value)})


def _find(documents: Sequence[Any], address: Address) -> Content:
    if address.reduction is None:
        return _single(address, find_single(documents, parse_pointer(address.place)))
    if address.reduction == "rows":
        return _single(address, count_items(documents, parse_pointer(address.place)))
    found = {place: find_column(documents, parse_pointer(place)) for place in address.places}
    columns = {place: column for place, column in found.items() if column is not None}
    if len({len(column) for column in columns.values()}) > 1:
        raise ContentError(f"the columns of {address.text} are not of one length, and cannot be compared row by row")
    piece = {place: column_of_values(column) for place, column in columns.items()}
    return reduce_columns([address], [piece], units={})


class JsonReader(_PointerReader):
    """Reads JSON by pointers; a key that stands twice, and ``NaN``, have no value."""

    def _load(self, stream: BinaryIO, limits: ReadLimits) -> Sequence[Any]:
        data = _read_whole(stream, MAX_JSON_BYTES, limits)
        try:
            return [json.loads(data, object_pairs_hook=_object, parse_constant=_no_number)]
        except RecursionError as error:
            raise ContentError("this JSON is nested too deeply") from error
        except ValueError as error:
            raise ContentError(f"this is no JSON: {str(error)[:300]}") from error


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        keys: set[str] = set()
        for key, _ in pairs:
            if key in keys:
                # RFC 8259, section 4: what software makes of it is unpredictable.
                found[key] = Refused(reason="stands twice under the same key")
            keys.add(key)
    return found


def _no_number(_: str) -> None:
    """Stand for NaN and the infinities, which are no JSON and no values."""


class YamlReader(_PointerReader):
    """Reads YAML by pointers, in a stream of documents the first one that has a value."""

    def _load(self, stream: BinaryIO, limits: ReadLimits) -> Sequence[Any]:
        return load_yaml(_read_whole(stream, MAX_YAML_BYTES, limits))


# -------------------------------------------------------------------------------------------------------- XML

_ATTRIBUTE = re.compile(r"(?P<path>.*)@(?P<attribute>(?:\{[^{}]*\})?[^\s@\[\]='\"{}/:]+)", re.DOTALL)
_EXPECTED_XML = "a path such as .//Param[@name='Energy']@value, ./Who/Date or {*}What, relative to the root element"


class XmlReader(Reader):
    """Reads XML: ``.//Param[@name='Energy']@value`` is an attribute, ``Who/Date`` the text of an element.

    Paths are those of ElementTree and begin at the root element, whose own attribute is ``@ivorn``; ``{*}name`` is a
    name of any namespace. In reductions every match counts; ``rows(.//Param)`` is how many there are.
    """

    def check(self, address: Address) -> None:
        """Raise `AddressError` unless all places are paths."""
        for place in address.places:
            _parse_path(place)

    def read(self, stream: BinaryIO, addresses: Collection[Address], *, limits: ReadLimits) -> Content:
        """Return what the document says at `addresses`, all of it text but for reductions."""
        asked = _without_columns(addresses, limits)
        if not asked:
            return Content()
        root = _load_xml(_read_whole(stream, MAX_XML_BYTES, limits))
        return _read_each(asked, lambda address: _find_in_xml(root, address))


@lru_cache(maxsize=4096)
def _parse_path(place: str) -> tuple[str, str | None]:
    """Return the path of the elements and the attribute that is asked of them, if any."""
    from xml.etree.ElementTree import Element

    match = _ATTRIBUTE.fullmatch(place)
    path, attribute = (match["path"] or ".", match["attribute"]) if match else (place, None)
    try:
        list(Element("root").iterfind(path))
    except (SyntaxError, KeyError, ValueError, TypeError) as error:
        raise AddressError(place, f"{_EXPECTED_XML} ({error})") from error
    return path, attribute


def _load_xml(data: bytes) -> "Element":
    """Return the root of a document without declarations of its own: no DTD, no entity, nothing from elsewhere."""
    from xml.etree.ElementTree import ParseError

    from defusedxml import DefusedXmlException
    from defusedxml.ElementTree import iterparse

    depth = n_elements = 0
    root: Element | None = None
    try:
        for event, element in iterparse(io.BytesIO(data), events=("start", "end"), forbid_dtd=True):
            root = element if root is None else root
            depth += 1 if event == "start" else -1
            n_elements += event == "start"
            if depth > MAX_XML_DEPTH or n_elements > MAX_XML_ELEMENTS:
                raise ContentError(f"this XML has over {MAX_XML_ELEMENTS} elements, or more than {MAX_XML_DEPTH} deep")
    except DefusedXmlException as error:
        raise ContentError(f"this XML declares a DTD or entities, which are not read: {error}") from error
    except (ParseError, ValueError, LookupError) as error:
        raise ContentError(f"this is no XML: {error}") from error
    if root is None:
        raise ContentError("this is no XML: it has no element")
    return root


def _find_in_xml(root: "Element", address: Address) -> Content:
    if address.reduction is None:
        texts = _iter_texts(root, address.place)
        first = next((text for text in texts if text), None)
        return _single(address, None if first is None else check_text(first))
    if address.reduction == "rows":
        return _single(address, len(_elements(root, _parse_path(address.place)[0])))
    columns = {place: list(_iter_texts(root, place)) for place in address.places}
    if len({len(column) for column in columns.values()}) > 1:
        raise ContentError(f"the columns of {address.text} are not of one length, and cannot be compared row by row")
    maker = ColumnMaker({})
    piece = {place: maker.make(place, column) for place, column in columns.items() if column}
    return maker.correct(reduce_columns([address], [piece], units={}), {address.text: address.places})


def _iter_texts(root: "Element", place: str) -> Iterator[str]:
    """Return the text at each match; empty where an element has no such attribute, or no text."""
    path, attribute = _parse_path(place)
    for element in _elements(root, path):
        yield ("".join(element.itertext()) if attribute is None else _attribute(element, attribute) or "").strip()


def _elements(root: "Element", path: str) -> list["Element"]:
    """Return the elements at `path`, each once; ElementTree tells those below two matches of ``//`` twice."""
    return list({id(element): element for element in root.iterfind(path)}.values())


def _attribute(element: "Element", name: str) -> str | None:
    if not name.startswith("{*}"):
        return element.get(name)
    return next((value for key, value in element.items() if key.rpartition("}")[2] == name[3:]), None)
