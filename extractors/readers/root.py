"""Reads keys, string maps and tree branches of ROOT files, through uproot.

ROOT files describe their own classes, and uproot makes Python classes of these descriptions by writing source text and
executing it. So that no file can have its way with that:

- nothing is made of a description, except of plain classes: numbers, texts and a map of texts, with names of letters,
  digits and underscores (a string map such as KM3NeT's ``Head`` is one). All else that is read here, trees and branches
  of numbers and texts, uproot knows by itself;
- what is made belongs to the file. uproot would keep it for all later files, as it would keep objects by an identifier
  that a file is free to copy from another one; its pool of classes is copied and its caches are off;
- branches are asked for by position, never by uproot's expressions, which evaluate aliases that are stored in a file.

uproot trusts what a packed block claims to hold and unpacks it whole. Each block is tried beforehand, only as far as
it claims.
"""

import lzma
import re
import struct
import zlib
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import islice, pairwise
from typing import TYPE_CHECKING, Any, BinaryIO

from extractors.errors import AddressError, ContentError, shorten
from extractors.readers.address import Address
from extractors.readers.reader import Content, Plain, RawValue, Reader, ReadLimits
from extractors.readers.reductions import reduce_columns

if TYPE_CHECKING:
    from numpy.typing import NDArray

MAGIC = b"root"
"""The first bytes of every ROOT file."""

MAX_PIECE_BYTES = 128 * 1024**2
"""Largest piece of a file read, and largest one unpacked, at once; ROOT writes baskets of 32 kB to some MB."""

MAX_OPENING_PIECES = 16
"""Most pieces read before the classes of a file are known: four or five, but descriptions that need themselves go round
in circles until the stack is full."""

MAX_KEYS = 10_000
"""Most names of one directory that are listed."""

MAX_BRANCHES = 100_000
"""Most branches of one tree looked through; large analysis trees have some thousands."""

MAX_VALUE_BYTES = 64 * 1024
"""Largest single value read: a description of a file, not its data."""

KEYS = "KEYS"
"""The place that lists the names in a directory."""

_SINGLE = re.compile(r"(?P<path>[^\[\]()@;]+)(?:\[(?P<member>[^\[\]]+)\]|@(?P<about>class|title))?")
_COLUMN = re.compile(r"[^()/]+(?:/[^()/]+)+")
_PATH = re.compile(r"[^()/]+(?:/[^()/]+)*")
_EXPECTED = (
    "NAME, NAME[member], NAME@class, NAME@title, rows(TREE), distinct(KEYS), or a reduction such as max(TREE/BRANCH) "
    "or min(TREE/BRANCH; TREE/BRANCH)"
)

_DIRECTORIES = ("TDirectory", "TDirectoryFile")
_TREES = ("TTree", "TNtuple", "TNtupleD", "TChain")

_CLASS_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*(?:::[A-Za-z_][A-Za-z0-9_]*)*(?:<[A-Za-z0-9_]+>)?")
_MEMBER_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_PLAIN_BASES = ("TObject", "TNamed")
_TEXT_MAPS = ("map<string,string>", "map<string,std::string>", "map<TString,TString>")
_PLAIN_CONTAINERS = ("string", *_TEXT_MAPS)

_BLOCK_HEADER = struct.Struct("<2sB3s3s")
"""Of a packed block: the way of packing, its version, the packed and the unpacked size."""


class RootReader(Reader):
    """Reads ROOT: ``rows(E)`` is the length of a tree, ``max(E/Evt/t/t.fSec)`` a reduction of a branch.

    Branches are called as uproot spells them, or by the end of that if it is the only one: ``E/t.fSec``. A tree in a
    directory is ``dir/E``. ``Head[start_run]`` is the text of a key in a map of texts, or a member of a plain class;
    ``META/JMeta`` the text of a TNamed or TObjString or the value of a TParameter; ``E@class`` and ``E@title`` what the
    key says about its object. ``distinct(KEYS)`` are the names in the file, ``distinct(dir/KEYS)`` those in a
    directory. Of several objects of one name the newest counts.

    A branch whose entries hold lists counts each value of the lists, so it stands beside no other branch.
    """

    random_access = True

    def check(self, address: Address) -> None:
        """Raise `AddressError` unless `address` has one of the shapes above."""
        _check(address)

    def read(self, stream: BinaryIO, addresses: Collection[Address], *, limits: ReadLimits) -> Content:
        """Return the values at `addresses`; reductions of branches are left out when only headers may be read.

        Raises
        ------
        ContentError
            This is no ROOT file, or it is damaged.
        """
        for address in addresses:
            _check(address)
        columns = [address for address in addresses if _is_of_columns(address)]
        with _opened(stream) as file:
            content = file.read_each([address for address in addresses if not _is_of_columns(address)])
            return content if limits.header_only else content.joined_with(_reduce(file, columns, limits))


def _check(address: Address) -> None:
    if address.reduction is None:
        shape = _SINGLE
    elif address.reduction == "rows" or _lists_keys(address):
        shape = _PATH
    else:
        shape = _COLUMN
    if not all(shape.fullmatch(place) for place in address.places):
        raise AddressError(address.text, _EXPECTED)
    if shape is _PATH and len(address.places) > 1:
        raise AddressError(address.text, f"{address.reduction}({address.place})")


def _is_of_columns(address: Address) -> bool:
    return address.reduction not in (None, "rows") and not _lists_keys(address)


def _lists_keys(address: Address) -> bool:
    return address.reduction not in (None, "rows") and address.place.rpartition("/")[2] == KEYS


def _reason(error: Exception) -> str:
    """Say in one short line what uproot says in many."""
    lines = str(getattr(error, "message", error)).split("\n")
    return next((line.strip()[:200] for line in lines if line.strip()), type(error).__name__)


# ------------------------------------------------------------------------------------------------- opening


class _Window:
    """What uproot sees of a stream: it cannot close it, nor read large pieces of it at once, nor many to open it."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self._n_pieces = 0
        self.is_opening = True

    def __repr__(self) -> str:
        return "the file"

    def seek(self, offset: int) -> int:
        return self._stream.seek(offset)

    def read(self, size: int) -> bytes:
        if not 0 <= size <= MAX_PIECE_BYTES:
            raise ContentError(f"the file claims a piece of {size} bytes, expected at most {MAX_PIECE_BYTES}")
        self._n_pieces += 1
        if self.is_opening and self._n_pieces > MAX_OPENING_PIECES:
            raise ContentError("this ROOT file is damaged: what describes its classes has no end")
        return self._stream.read(size)


class _Classes(dict[str, Any]):
    """The classes that uproot may use for one file: its own, and of the file's only the plain ones."""

    def __init__(self, known: Mapping[str, Any]) -> None:
        super().__init__(known)
        self.plain: frozenset[str] = frozenset()

    def __setitem__(self, name: str, made: Any) -> None:
        if name not in self.plain:
            raise ContentError(f"class {shorten(name)} is not plain, and nothing is made of it")
        super().__setitem__(name, made)


@contextmanager
def _opened(stream: BinaryIO) -> Iterator["_File"]:
    """Open a ROOT file; what uproot raises at a damaged one is a ContentError."""
    import uproot

    stream.seek(0)
    if stream.read(len(MAGIC)) != MAGIC:
        raise ContentError("this is no ROOT file: it does not begin with 'root'")
    classes = _Classes(uproot.classes)
    window = _Window(stream)
    with _checked_unpacking():
        try:
            root = uproot.open(window, object_cache=None, array_cache=None, custom_classes=classes, use_threads=False)
            descriptions = root.file.streamers
            window.is_opening = False
            # Versions of ROOT's own classes that uproot lacks it would take from the file, and keep for all files.
            for name in descriptions.keys() & {name for name, known in classes.items() if _has_versions(known)}:
                del descriptions[name]
            classes.plain = frozenset(
                name for name, versions in descriptions.items() if all(map(_is_plain, versions.values()))
            )
        except ContentError:
            raise
        except Exception as error:
            raise ContentError(f"this ROOT file is damaged: {_reason(error)}") from error
        try:
            yield _File(root=root)
        finally:
            root.file.close()


def _has_versions(known: Any) -> bool:
    from uproot.model import DispatchByVersion

    return issubclass(known, DispatchByVersion)


def _is_plain(description: Any) -> bool:
    """Tell whether a class is nothing but numbers and texts, by names that are safe in source text."""
    return bool(_CLASS_NAME.fullmatch(description.name)) and all(map(_is_plain_element, description.elements))


def _is_plain_element(element: Any) -> bool:
    from uproot import streamers

    if isinstance(element, streamers.Model_TStreamerBase):
        return element.name in _PLAIN_BASES
    if isinstance(element, streamers.Model_TStreamerSTL):
        named = bool(_MEMBER_NAME.fullmatch(element.name)) or element.name in _TEXT_MAPS
        return named and element.typename in _PLAIN_CONTAINERS
    if isinstance(element, streamers.Model_TStreamerBasicType | streamers.Model_TStreamerString):
        return bool(_MEMBER_NAME.fullmatch(element.name)) and element.array_length == 0
    return False


# ----------------------------------------------------------------------------------------------- unpacking


@contextmanager
def _checked_unpacking() -> Iterator[None]:
    """Have every packed block checked before uproot unpacks it, by the hook that uproot offers.

    The hook is one for the whole process, and put back afterwards. Files are read one after the other in a process.
    """
    from uproot.compression import decompress

    before = decompress.hook_before_block
    decompress.hook_before_block = _check_block
    try:
        yield
    finally:
        decompress.hook_before_block = before


def _check_block(*, chunk: Any, cursor: Any, context: Any, uncompressed_bytes: int, **_: Any) -> None:
    if uncompressed_bytes > MAX_PIECE_BYTES:
        raise ContentError(f"a packed piece claims {uncompressed_bytes} bytes, expected at most {MAX_PIECE_BYTES}")
    cursor = cursor.copy()
    packing, _version, packed_size, size = cursor.fields(chunk, _BLOCK_HEADER, context)
    claimed = int.from_bytes(size, "little")
    packed = bytes(cursor.bytes(chunk, int.from_bytes(packed_size, "little"), context))
    if _unpacks_to_more(packing, packed, claimed):
        raise ContentError(f"a packed block claims {claimed} bytes and holds more")


def _unpacks_to_more(packing: bytes, packed: bytes, claimed: int) -> bool:
    """Unpack as far as one byte beyond what is claimed."""
    if packing == b"ZL":
        return len(zlib.decompressobj().decompress(packed, claimed + 1)) > claimed
    if packing == b"XZ":
        stream = lzma.LZMADecompressor(memlimit=MAX_PIECE_BYTES)
        return len(stream.decompress(packed, claimed + 1)) > claimed or bool(stream.unused_data)
    if packing == b"ZS":
        import zstandard

        unpacker = zstandard.ZstdDecompressor(max_window_size=MAX_PIECE_BYTES)
        with unpacker.stream_reader(packed, read_across_frames=True) as reader:
            return len(reader.read(claimed + 1)) > claimed
    return False  # LZ4 is unpacked into a buffer of the claimed size, and uproot knows no other


# ------------------------------------------------------------------------------------------ keys and trees


@dataclass(frozen=True, kw_only=True, slots=True)
class _Tree:
    """A tree and its branches by their full names."""

    name: str
    tree: Any
    branches: Mapping[str, Any]

    @classmethod
    def of(cls, name: str, tree: Any) -> "_Tree":
        branches = dict(islice(tree.iteritems(), MAX_BRANCHES + 1))
        if len(branches) > MAX_BRANCHES:
            raise ContentError(f"{name} has more than {MAX_BRANCHES} branches")
        return cls(name=name, tree=tree, branches=branches)

    @property
    def n_entries(self) -> int:
        n_entries = int(self.tree.num_entries)
        if n_entries < 0:
            raise ContentError(f"{self.name} claims {n_entries} entries")
        return n_entries

    def find_branch(self, path: str) -> Any:
        """Return the branch whose full name is `path` or, as the only one, ends so; None if there is none."""
        if path in self.branches:
            return self.branches[path]
        named = [name for name in self.branches if name.endswith(f"/{path}")]
        if len(named) > 1:
            raise ContentError(f"{path} is the end of several branches' names: {shorten(', '.join(named))}")
        return self.branches[named[0]] if named else None


@dataclass(kw_only=True, slots=True)
class _File:
    """An open file, and what has been read of it."""

    root: Any
    _trees: dict[str, _Tree | ContentError] = field(default_factory=dict)

    def read_each(self, addresses: Iterable[Address]) -> Content:
        """Read what is no column: objects, lengths of trees, names."""
        content = Content()
        for address in addresses:
            try:
                found = self._read_one(address)
            except Exception as error:  # noqa: BLE001 - uproot raises whatever a damaged object makes it stumble over
                found = Content(oddities={address.text: _reason(error)})
            content = content.joined_with(found)
        return content

    def find_tree(self, path: str) -> tuple[_Tree, str] | None:
        """Return the tree at the beginning of `path`, and the rest; None if there is none."""
        located = self._locate(path)
        if located is None:
            return None
        key, rest = located
        if key.fClassName not in _TREES:
            raise ContentError(f"{key.fName} is a {key.fClassName}, no tree")
        name = path.removesuffix(rest).rstrip("/")
        if name not in self._trees:
            self._trees[name] = _read_tree(name, key)
        tree = self._trees[name]
        if isinstance(tree, ContentError):
            raise tree
        return tree, rest

    def _read_one(self, address: Address) -> Content:
        if _lists_keys(address):
            return self._list_keys(address)
        value = self._count(address.place) if address.reduction == "rows" else self._single(address.place)
        return Content(values={} if value is None else {address.text: value})

    def _locate(self, path: str) -> tuple[Any, str] | None:
        """Return the key of the first object on `path` that is no directory, or the last directory's, and the rest."""
        directory = self.root
        parts = path.split("/")
        for index, part in enumerate(parts, start=1):
            key = _find_key(directory, part)
            if key is None or index == len(parts) or key.fClassName not in _DIRECTORIES:
                return None if key is None else (key, "/".join(parts[index:]))
            directory = key.get()
        return None

    def _count(self, path: str) -> RawValue | None:
        found = self.find_tree(path)
        if found is None:
            return None
        tree, rest = found
        return RawValue(value=tree.n_entries) if not rest else None

    def _list_keys(self, address: Address) -> Content:
        import numpy as np

        directory = self.root
        path = address.place.rpartition("/")[0]
        if path:
            located = self._locate(path)
            if located is None:
                return Content()
            key, rest = located
            if rest or key.fClassName not in _DIRECTORIES:
                raise ContentError(f"{path} is no directory")
            directory = key.get()
        names = list(islice(directory.iterkeys(recursive=False, cycle=False), MAX_KEYS + 1))
        if len(names) > MAX_KEYS:
            raise ContentError(f"{path or 'the file'} has more than {MAX_KEYS} names")
        texts = np.array([_text(name, f"a name in {path or 'the file'}") for name in names], dtype=object)
        return reduce_columns([address], [{address.place: texts}], units={})

    def _single(self, place: str) -> RawValue | None:
        match = _SINGLE.fullmatch(place)
        located = None if match is None else self._locate(match["path"])
        if match is None or located is None:
            return None
        key, rest = located
        if rest:
            raise ContentError(f"{key.fName} is a {key.fClassName}, no directory")
        if match["about"]:
            return _value(key.fClassName if match["about"] == "class" else key.fTitle, place)
        if key.fClassName in (*_TREES, *_DIRECTORIES):
            raise ContentError(f"{key.fName} is a {key.fClassName}, no single value")
        return _member(key, match["member"], place) if match["member"] else _value(_content_of(key), place)


def _read_tree(name: str, key: Any) -> _Tree | ContentError:
    """Return the tree, or why there is none: it is asked for often, and read once."""
    try:
        return _Tree.of(name, key.get())
    except Exception as error:  # noqa: BLE001 - uproot raises whatever a damaged tree makes it stumble over
        return ContentError(f"{name} cannot be read: {_reason(error)}")


def _read_object(key: Any) -> Any:
    try:
        return key.get()
    except Exception as error:
        raise ContentError(f"{key.fName} cannot be read: {_reason(error)}") from error


def _find_key(directory: Any, name: str) -> Any:
    """Return the newest key called `name`, or None."""
    from uproot import KeyInFileError

    try:
        return directory.key(name)
    except KeyInFileError:
        return None


def _content_of(key: Any) -> Any:
    """Return the one value of objects that have but one."""
    if key.fClassName == "TNamed":
        return _read_object(key).member("fTitle")
    if key.fClassName == "TObjString":
        return str(_read_object(key))
    if key.fClassName.startswith("TParameter<"):
        return _read_object(key).member("fVal")
    raise ContentError(f"{key.fName} is a {key.fClassName}, no single value")


def _member(key: Any, name: str, place: str) -> RawValue | None:
    members = _read_object(key).all_members
    for stored in members.values():
        if isinstance(stored, Mapping):
            return _value(stored[name], place) if name in stored else None
    return _value(members[name], place) if name in members else None


def _value(stored: Any, place: str) -> RawValue:
    plain = stored.item() if hasattr(stored, "item") else stored
    if isinstance(plain, str):
        plain = _text(str(plain), place)
    if not isinstance(plain, Plain):
        raise ContentError(f"{place} has the type {type(plain).__name__}, which is neither text nor a number")
    return RawValue(value=plain)


def _text(text: str, place: str) -> str:
    # uproot hands bytes that are no UTF-8 on in a form that only errors="surrogateescape" undoes.
    raw = text.encode(errors="surrogateescape")
    if len(raw) > MAX_VALUE_BYTES:
        raise ContentError(f"{place} has more than {MAX_VALUE_BYTES} bytes")
    try:
        return raw.decode().strip()
    except UnicodeDecodeError:
        raise ContentError(f"{place} is no UTF-8 text: {shorten(raw)}") from None


# ----------------------------------------------------------------------------------------------- branches


@dataclass(frozen=True, kw_only=True, slots=True)
class _Column:
    """A branch of numbers or texts."""

    place: str
    branch: Any
    is_text: bool = False
    holds_lists: bool = False

    @classmethod
    def of(cls, place: str, branch: Any) -> "_Column":
        from uproot.interpretation.jagged import AsJagged
        from uproot.interpretation.numerical import AsDtype
        from uproot.interpretation.strings import AsStrings

        kind = branch.interpretation
        if isinstance(kind, AsStrings):
            return cls(place=place, branch=branch, is_text=True)
        is_jagged = isinstance(kind, AsJagged)
        numbers = kind.content if is_jagged else kind
        if not isinstance(numbers, AsDtype) or numbers.to_dtype.base.names:
            raise ContentError(f"{place} holds neither numbers nor texts")
        return cls(place=place, branch=branch, holds_lists=is_jagged or bool(numbers.to_dtype.shape))

    def iter_pieces(self, budget: "_Budget") -> Iterator["NDArray[Any]"]:
        """Yield the values, basket by basket, so that each is unpacked once."""
        for start, stop in pairwise(self.branch.entry_offsets):
            if not 0 <= stop - start <= MAX_PIECE_BYTES:
                raise ContentError(f"{self.place} claims a basket with {stop - start} entries")
            if start < stop:
                values = self.branch.array(entry_start=start, entry_stop=stop, library="np")
                piece = self._flat(values)
                budget.spend(self.place, piece.nbytes)
                yield piece

    def _flat(self, values: "NDArray[Any]") -> "NDArray[Any]":
        import numpy as np

        if self.is_text:
            return np.array([text.encode(errors="surrogateescape") for text in values], dtype=object)
        if values.dtype.kind == "O":
            return np.concatenate([np.asarray(entry).reshape(-1) for entry in values])
        return values.reshape(-1)


@dataclass(kw_only=True, slots=True)
class _Budget:
    """How many bytes may still be read, so that a few addresses cannot keep us busy for ever."""

    left_bytes: int

    def spend(self, place: str, size_bytes: int) -> None:
        self.left_bytes -= size_bytes
        if self.left_bytes < 0:
            raise ContentError(f"{place} has more bytes than may be read of one file")


def _reduce(file: _File, addresses: Iterable[Address], limits: ReadLimits) -> Content:
    """Return the reductions, in one pass for all over the same tree."""
    content = Content()
    passes: dict[str, list[tuple[Address, Sequence[_Column]]]] = {}
    for address in addresses:
        try:
            tree, columns = _columns_of(file, address)
        except Exception as error:  # noqa: BLE001 - uproot raises whatever a damaged tree makes it stumble over
            content = content.joined_with(Content(oddities={address.text: _reason(error)}))
            continue
        if columns:
            # Lists have a length of their own, and so a pass of their own.
            together = address.place if columns[0].holds_lists else tree
            passes.setdefault(together, []).append((address, columns))
    budget = _Budget(left_bytes=limits.max_unpacked_bytes)
    for asked in passes.values():
        content = content.joined_with(_reduce_together(asked, budget))
    return content


def _columns_of(file: _File, address: Address) -> tuple[str, list[_Column]]:
    """Return the name of the tree and the branches of one address, none if the file does not have all."""
    columns = []
    trees = set()
    for place in address.places:
        found = file.find_tree(place)
        branch = found and found[0].find_branch(found[1])
        if found is None or branch is None:
            return "", []
        tree = found[0]
        if int(branch.num_entries) != tree.n_entries:
            raise ContentError(f"{place} has {branch.num_entries} entries, its tree {tree.n_entries}")
        trees.add(tree.name)
        columns.append(_Column.of(place, branch))
    if len(trees) > 1:
        raise ContentError(f"{' and '.join(sorted(trees))} are different trees")
    if any(column.holds_lists for column in columns) and (len(columns) > 1 or address.reduction == "all"):
        raise ContentError(f"{address.place} holds lists, which stand beside no other branch")
    return trees.pop(), columns


def _reduce_together(asked: Sequence[tuple[Address, Sequence[_Column]]], budget: _Budget) -> Content:
    columns = {column.place: column for _, wanted in asked for column in wanted}
    try:
        return reduce_columns([address for address, _ in asked], _iter_rows(columns, budget), units={})
    except Exception as error:  # noqa: BLE001 - uproot raises whatever a damaged basket makes it stumble over
        return Content(oddities={address.text: _reason(error) for address, _ in asked})


def _iter_rows(columns: Mapping[str, _Column], budget: _Budget) -> Iterator[dict[str, "NDArray[Any]"]]:
    """Yield pieces with as many rows of every branch; their baskets end at different entries."""
    baskets = {place: column.iter_pieces(budget) for place, column in columns.items()}
    left = {place: next(pieces, None) for place, pieces in baskets.items()}
    if all(values is None for values in left.values()):
        yield {place: _no_values(column) for place, column in columns.items()}
    while all(values is not None for values in left.values()):
        rows = {place: values for place, values in left.items() if values is not None}
        n = min(len(values) for values in rows.values())
        yield {place: values[:n] for place, values in rows.items()}
        left = {place: values[n:] if len(values) > n else next(baskets[place], None) for place, values in rows.items()}


def _no_values(column: _Column) -> "NDArray[Any]":
    import numpy as np

    return np.empty(0, dtype=object if column.is_text else np.float64)
