"""Reads datasets, attributes and columns of HDF5 files, those of PyTables among them.

HDF5 can point out of its file in three ways (external links, external raw data, virtual datasets). All are refused: a
file in a storage must not make us open another one. PyTables hides Python pickles in attributes; they are recognised
and never opened.

Columns are read through the library's lower level, field by field: h5py knows no type for the times of PyTables, and
would rather refuse the whole table than leave one field out.

What the library would do with packed pieces that lie is checked before it sees them. Damaged texts of free length can
still have it run in circles; that is for the pool to end.
"""

import math
import re
import zlib
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from itertools import islice
from typing import TYPE_CHECKING, Any, BinaryIO

from extractors.errors import AddressError, ContentError, shorten
from extractors.readers.address import Address
from extractors.readers.reader import Content, Plain, RawValue, Reader, ReadLimits
from extractors.readers.reductions import reduce_columns

if TYPE_CHECKING:
    import h5py
    from numpy.typing import NDArray

MAX_LINKS = 16
"""Most soft links followed on the way to one object; more is a ring."""

MAX_WALKED = 20_000
"""Most objects looked at for one path with wildcards; files with more hold one object per event."""

MAX_DEPTH = 32
"""Most groups within groups that ``**`` goes down."""

MAX_KEYS = 10_000
"""Most names of one group that are listed."""

MAX_LIST_VALUES = 1000
"""Longest list read as one value."""

MAX_VALUE_BYTES = 64 * 1024
"""Largest single value read: a description of a file, not its data."""

MAX_CHUNK_BYTES = 64 * 1024**2
"""Largest packed piece of a dataset: the library unpacks each as a whole."""

MAX_DEFLATED_BYTES = 512 * 1024
"""Largest deflated piece that is unpacked untried: it can grow a thousandfold, whatever it claims to hold."""

CHECKSUM_BYTES = 4
"""What the checksum of a piece takes; the library looks for it without asking whether there is room for one."""

COLUMN_BYTES = 4 * 1024**2
"""Datasets are read in pieces of about this size."""

TEXT_ROWS = 64
"""Rows of texts without a fixed length read at once: nothing says how long they are before they are read."""

KEYS = "KEYS"
"""The place that lists the names in a group."""

_PATH = r"[^\[\]()@;]+"
_COLUMN = re.compile(rf"(?P<path>{_PATH})(?:\[(?P<field>[^\[\]]+)\])?")
_SINGLE = re.compile(rf"(?P<owner>{_PATH})?@(?P<attribute>[^@]+)|(?P<dataset>{_PATH})")
_EXPECTED = (
    "dataset, object@attribute, @attribute, rows(dataset), distinct(KEYS), or a reduction such as max(dataset) or "
    "min(dataset[field]; dataset[field]); * and ** only in reductions"
)

_PICKLE = re.compile(
    rb"(?:\x80[\x01-\x05]|[\]}]q|\((?:[dl]p\d+\n|[IFL][-+.\dL]+\n|[SV][^\n]*\n|K)|c[\w.]+\n\w+\n).*\.|N\.|[IL]\d+L?\n\.",
    re.DOTALL,
)
"""How the pickles begin and end that PyTables makes of attributes, in all protocols; text has no reason to."""

_UNREADABLE = (
    ContentError, OSError, RuntimeError, TypeError, ValueError, LookupError, ArithmeticError, MemoryError, zlib.error,
)  # fmt: skip
"""What h5py raises on damaged files and on types that it does not know."""


class Hdf5Reader(Reader):
    """Reads HDF5: ``meta/start`` is a dataset, ``strain@unit`` an attribute, ``min(events[energy])`` a reduction.

    ``@name`` is an attribute of the root, ``rows(events)`` the length of a dataset, ``distinct(KEYS)`` the names in the
    root, ``distinct(meta/KEYS)`` those in a group. In reductions ``*`` stands for any part of one name and ``**`` for
    any number of groups: ``rows(**/events)`` is the sum over all tables of this name. Soft links are followed when an
    address names them, not when a wildcard meets them: what they lead to would count twice.

    A column whose rows hold lists of one length counts each value of the lists.
    """

    random_access = True

    def check(self, address: Address) -> None:
        """Raise `AddressError` unless `address` has one of the shapes above."""
        _check(address)

    def read(self, stream: BinaryIO, addresses: Collection[Address], *, limits: ReadLimits) -> Content:
        """Return the values at `addresses`; reductions of columns are left out when only headers may be read.

        Raises
        ------
        ContentError
            This is no HDF5 file, or it is damaged.
        """
        import h5py

        for address in addresses:
            _check(address)
        try:
            file = h5py.File(stream, "r")
        except _UNREADABLE as error:
            raise ContentError(f"this is no HDF5 file, or it is damaged: {error}") from error
        with file:
            columns = [address for address in addresses if _is_of_columns(address)]
            found = _read_each(file, [address for address in addresses if not _is_of_columns(address)])
            return found if limits.header_only else found.joined_with(_reduce(file, columns, limits))


def _check(address: Address) -> None:
    if address.reduction is None:
        if not _SINGLE.fullmatch(address.place) or "*" in address.place.partition("@")[0]:
            raise AddressError(address.text, _EXPECTED)
        return
    columns = [_COLUMN.fullmatch(place) for place in address.places]
    if not all(columns):
        raise AddressError(address.text, _EXPECTED)
    if address.reduction == "rows" and (len(columns) > 1 or (columns[0] and columns[0]["field"])):
        raise AddressError(address.text, "rows(dataset)")


def _is_of_columns(address: Address) -> bool:
    return address.reduction not in (None, "rows") and not _lists_keys(address)


def _lists_keys(address: Address) -> bool:
    return address.reduction is not None and address.places[-1].rpartition("/")[2] == KEYS


def _read_each(file: "h5py.File", addresses: Sequence[Address]) -> Content:
    """Read what is no column: values, attributes, counts of rows, names."""
    content = Content()
    for address in addresses:
        try:
            found = _read_one(file, address)
        except _UNREADABLE as error:
            found = Content(oddities={address.text: _reason(error)})
        content = content.joined_with(found)
    return content


def _read_one(file: "h5py.File", address: Address) -> Content:
    if _lists_keys(address):
        return _list_keys(file, address)
    value = _single(file, address.place) if address.reduction is None else _count(file, address.place)
    return Content(values={} if value is None else {address.text: value})


def _reason(error: Exception) -> str:
    return (str(error.args[0]) if isinstance(error, LookupError) and error.args else str(error)) or type(error).__name__


# --------------------------------------------------------------------------------------------------- links


def _find(file: "h5py.File", path: str) -> "h5py.HLObject | None":
    """Return the object at `path` without ever leaving the file, or None when there is none."""
    import h5py

    found: h5py.HLObject = file
    parts = [part for part in path.split("/") if part]
    links_left = MAX_LINKS
    while parts:
        part = parts.pop(0)
        link = found.get(part, getlink=True) if isinstance(found, h5py.Group) else None
        if link is None:
            return None
        if isinstance(link, h5py.SoftLink):
            links_left -= 1
            if links_left < 0:
                raise ContentError(f"{path} goes through more than {MAX_LINKS} soft links")
            parts = [step for step in link.path.split("/") if step] + parts
            found = file if link.path.startswith("/") else found
        elif isinstance(link, h5py.HardLink):
            found = found[part]
        else:
            raise ContentError(f"{path} leads through a link out of the file, which is not followed")
    return found


def _find_dataset(file: "h5py.File", path: str) -> "h5py.Dataset | None":
    import h5py

    found = _find(file, path)
    if found is None:
        return None
    if not isinstance(found, h5py.Dataset):
        raise ContentError(f"{path} is no dataset")
    _check_stays_inside(found, path)
    return found


def _find_datasets(file: "h5py.File", path: str) -> list["h5py.Dataset"]:
    """Return all datasets that `path`, perhaps with wildcards, stands for."""
    import h5py

    if "*" not in path:
        found = _find_dataset(file, path)
        return [] if found is None else [found]
    matching = _Walk(path).find(file, [part for part in path.split("/") if part])
    datasets = [item for item in matching if isinstance(item, h5py.Dataset)]
    for dataset in datasets:
        _check_stays_inside(dataset, dataset.name)
    return datasets


def _check_stays_inside(dataset: "h5py.Dataset", path: str) -> None:
    if dataset.is_virtual or dataset.external:
        raise ContentError(f"{path} keeps its values in other files, which are not opened")


class _Walk:
    """A search for all objects of one path with wildcards: each once, however many names it has."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._left = MAX_WALKED
        self._found: dict[int, Any] = {}
        self._entered: set[tuple[int, int]] = set()

    def find(self, root: "h5py.File", parts: Sequence[str]) -> list[Any]:
        """Return the objects, in the order of their names."""
        self._enter(root, parts, 0)
        return list(self._found.values())

    def _enter(self, item: Any, parts: Sequence[str], depth: int) -> None:
        import h5py

        identity = h5py.h5o.get_info(item.id).addr
        if not parts:
            self._found.setdefault(identity, item)
            return
        # Hard links may lead in a ring.
        if not isinstance(item, h5py.Group) or depth > MAX_DEPTH or (identity, len(parts)) in self._entered:
            return
        self._entered.add((identity, len(parts)))
        if parts[0] == "**":
            self._enter(item, parts[1:], depth)
        for name in sorted(islice(item, self._left + 1)):
            self._left -= 1
            if self._left < 0:
                raise ContentError(f"{self._path} stands for a search through more than {MAX_WALKED} objects")
            if not isinstance(item.get(name, getlink=True), h5py.HardLink):
                continue
            if parts[0] == "**":
                self._enter(item[name], parts, depth + 1)
            elif fnmatchcase(name, _literal(parts[0])):
                self._enter(item[name], parts[1:], depth + 1)


def _literal(pattern: str) -> str:
    """Leave ``*`` the only wildcard of `fnmatchcase`."""
    return pattern.replace("?", "[?]")


# -------------------------------------------------------------------------------------------------- values


def _single(file: "h5py.File", place: str) -> RawValue | None:
    path, at, attribute = place.partition("@")
    if at:
        owner = _find(file, path)
        return None if owner is None else _attribute(owner, attribute)
    dataset = _find_dataset(file, path)
    return None if dataset is None else _value(dataset)


def _count(file: "h5py.File", path: str) -> RawValue | None:
    """Count the rows of all datasets that `path` stands for; one without rows is one."""
    counts = [int(dataset.shape[0]) if dataset.shape else 1 for dataset in _find_datasets(file, path)]
    return RawValue(value=sum(counts)) if counts else None


def _list_keys(file: "h5py.File", address: Address) -> Content:
    import h5py
    import numpy as np

    path = address.place.rpartition("/")[0]
    group = _find(file, path)
    if group is None:
        return Content()
    if not isinstance(group, h5py.Group):
        raise ContentError(f"{path} is no group")
    names = list(islice(group, MAX_KEYS + 1))
    if len(names) > MAX_KEYS:
        raise ContentError(f"{path or 'the root'} has more than {MAX_KEYS} names")
    return reduce_columns([address], [{address.place: np.array(names, dtype=object)}], units={})


def _attribute(owner: Any, name: str) -> RawValue | None:
    import h5py

    if name not in owner.attrs:
        return None
    stored = h5py.h5a.open(owner.id, name.encode())
    if stored.get_space().get_simple_extent_npoints() * stored.get_type().get_size() > MAX_VALUE_BYTES:
        raise ContentError(f"attribute {name} has more than {MAX_VALUE_BYTES} bytes")
    if stored.get_type().get_class() == h5py.h5t.REFERENCE:
        raise ContentError(f"attribute {name} is a reference to an object, no value")
    return RawValue(value=_plain(owner.attrs[name], f"attribute {name}"))


def _value(dataset: "h5py.Dataset") -> RawValue:
    import h5py

    if dataset.shape is None:
        raise ContentError(f"{dataset.name} is empty")
    if dataset.size > MAX_LIST_VALUES or dataset.size * _row_bytes(dataset) > MAX_VALUE_BYTES:
        raise ContentError(
            f"{dataset.name} is no single value and no list of at most {MAX_LIST_VALUES} in {MAX_VALUE_BYTES} bytes"
        )
    if dataset.id.get_type().get_class() == h5py.h5t.COMPOUND:
        raise ContentError(f"{dataset.name} is a table, no single value; ask for first({dataset.name}[field])")
    _check_packing(dataset)
    if dataset.id.get_type().get_class() == h5py.h5t.TIME:
        stored = _Column.of(dataset, None).read(dataset, slice(0, dataset.shape[0] if dataset.shape else 1))
    else:
        stored = dataset[()]
    return RawValue(value=_plain(stored, dataset.name), unit=_unit(dataset))


def _plain(stored: Any, what: str) -> Plain | tuple[Plain, ...]:
    """Return `stored` as Python's own type; one-element arrays count as single values."""
    import h5py
    import numpy as np

    if isinstance(stored, h5py.Empty):
        if stored.dtype.kind in "SO":
            return ""
        raise ContentError(f"{what} is empty")
    if isinstance(stored, np.void):
        raise ContentError(f"{what} is neither text nor a number")
    if isinstance(stored, np.ndarray):
        if stored.size > MAX_LIST_VALUES:
            raise ContentError(f"{what} has more than {MAX_LIST_VALUES} values")
        values = tuple(_plain_scalar(item, what) for item in stored.ravel().tolist())
        return values[0] if len(values) == 1 else values
    return _plain_scalar(stored.item() if isinstance(stored, np.generic) else stored, what)


def _plain_scalar(value: Any, what: str) -> Plain:
    if isinstance(value, str | bytes):
        return _text(value, what)
    if isinstance(value, Plain):
        return value
    raise ContentError(f"{what} has the type {type(value).__name__}, which is neither text nor a number")


def _text(value: str | bytes, what: str) -> str:
    # h5py hands bytes that are no UTF-8 on in a form that only errors="surrogateescape" undoes.
    raw = value.encode(errors="surrogateescape") if isinstance(value, str) else value
    if len(raw) > MAX_VALUE_BYTES:
        raise ContentError(f"{what} has more than {MAX_VALUE_BYTES} bytes")
    raw = raw.rstrip(b"\0")
    if _PICKLE.fullmatch(raw):
        raise ContentError(f"{what} holds a Python pickle, which is never opened")
    try:
        return raw.decode()
    except UnicodeDecodeError:
        raise ContentError(f"{what} is no UTF-8 text: {shorten(raw)}") from None


def _unit(dataset: "h5py.Dataset") -> str | None:
    for name in ("unit", "units"):
        try:
            found = _attribute(dataset, name)
        except _UNREADABLE:
            continue  # whatever it is, it states no unit
        if found is not None and isinstance(found.value, str) and found.value.strip():
            return found.value.strip()
    return None


def _row_bytes(dataset: "h5py.Dataset") -> int:
    """Return the size of one element; without `dataset.dtype`, which some types do not have."""
    return max(1, int(dataset.id.get_type().get_size()))


# ------------------------------------------------------------------------------------------------- packing


def _check_packing(dataset: "h5py.Dataset") -> None:
    """Make sure that the pieces of a dataset can be unpacked, and are not too large to."""
    if dataset.chunks and math.prod(dataset.chunks) * _row_bytes(dataset) > MAX_CHUNK_BYTES:
        raise ContentError(f"{dataset.name} is packed in pieces of more than {MAX_CHUNK_BYTES} bytes")
    properties = dataset.id.get_create_plist()
    filters = [properties.get_filter(index) for index in range(properties.get_nfilters())]
    for code, _, _, name in filters:
        if not _has_filter(code):
            spoken = name.decode(errors="replace") or "no name"
            raise ContentError(f"{dataset.name} is packed with filter {code} ({spoken}), which is not installed")
    if filters:
        _check_pieces(dataset, [code for code, *_ in filters])


def _check_pieces(dataset: "h5py.Dataset", codes: Sequence[int]) -> None:
    """Make sure of the packed pieces what the library takes for granted: it would crash, or unpack all there is."""
    import h5py

    if codes.count(h5py.h5z.FILTER_DEFLATE) > 1:
        raise ContentError(f"{dataset.name} is packed several times over")
    least_bytes = 1 + CHECKSUM_BYTES * codes.count(h5py.h5z.FILTER_FLETCHER32)
    most_bytes = MAX_DEFLATED_BYTES if h5py.h5z.FILTER_DEFLATE in codes else 2 * MAX_CHUNK_BYTES
    odd: list[Any] = []
    dataset.id.chunk_iter(lambda piece: odd.append(piece) if not least_bytes <= piece.size <= most_bytes else None)
    for piece in odd:
        if piece.size < least_bytes:
            raise ContentError(f"{dataset.name} has a piece of {piece.size} bytes, which is damaged")
        if piece.size > 2 * MAX_CHUNK_BYTES:
            raise ContentError(f"{dataset.name} has a piece of {piece.size} bytes, at most {MAX_CHUNK_BYTES} are read")
        _, packed = dataset.id.read_direct_chunk(piece.chunk_offset)
        if len(zlib.decompressobj().decompress(packed, MAX_CHUNK_BYTES + 1)) > MAX_CHUNK_BYTES:
            raise ContentError(f"{dataset.name} has a piece that unpacks to more than {MAX_CHUNK_BYTES} bytes")


def _has_filter(code: int) -> bool:
    import h5py

    if not h5py.h5z.filter_avail(code):
        import hdf5plugin  # noqa: F401 - importing it registers its filters

    return bool(h5py.h5z.filter_avail(code))


# ------------------------------------------------------------------------------------------------- columns


@dataclass(frozen=True, kw_only=True, slots=True)
class _Column:
    """A dataset, or one field of one, as it is read: the type in the file's terms, and in numpy's."""

    memory_type: Any
    """What the library is asked for: the field alone, however deep it is."""
    dtype: Any
    is_timeval: bool = False
    """Whether the numbers are seconds and microseconds in one, as PyTables keeps times of 64 bits."""
    has_texts: bool = False
    """Whether the rows are texts of any length."""

    @classmethod
    def of(cls, dataset: "h5py.Dataset", field: str | None) -> "_Column":
        """Return the column of `field`, or of the whole dataset.

        Raises
        ------
        ContentError
            Its values are neither numbers nor texts.
        KeyError
            There is no such field.
        """
        import h5py

        stored = dataset.id.get_type()
        names: tuple[bytes, ...] = ()
        if field is not None:
            names, stored = _find_member(stored, field)
        what = dataset.name if field is None else f"{dataset.name}[{field}]"
        kind = stored.get_class()
        if kind == h5py.h5t.TIME:
            base, dtype = _time_types(stored, dataset, what)
            return cls(memory_type=_wrapped(base, names), dtype=dtype, is_timeval=dtype.itemsize == 8)
        is_text = kind == h5py.h5t.STRING
        if not is_text and kind not in (h5py.h5t.INTEGER, h5py.h5t.FLOAT, h5py.h5t.ENUM, h5py.h5t.ARRAY):
            raise ContentError(f"{what} is no column of numbers or texts")
        dtype = stored.dtype
        if dtype.base.kind not in "iufbSO" or (dtype.base.kind == "O" and not is_text):
            raise ContentError(f"{what} is no column of numbers or texts")
        base = h5py.h5t.py_create(dtype)
        return cls(memory_type=_wrapped(base, names), dtype=dtype, has_texts=dtype.kind == "O")

    @property
    def holds_lists(self) -> bool:
        return bool(self.dtype.shape)

    def read(self, dataset: "h5py.Dataset", rows: slice) -> "NDArray[Any]":
        """Return the values of some rows, one after the other, in one dimension."""
        import h5py
        import numpy as np

        if rows.start == rows.stop:
            return np.empty(0, dtype=self.dtype.base)
        space = dataset.id.get_space()
        shape = (rows.stop - rows.start, *dataset.shape[1:]) if dataset.shape else ()
        if dataset.shape:
            space.select_hyperslab((rows.start, *[0] * (len(shape) - 1)), shape)
        values = np.empty((*shape, *self.dtype.shape), dtype=self.dtype.base)
        memory = h5py.h5s.create_simple(shape) if shape else h5py.h5s.create(h5py.h5s.SCALAR)
        dataset.id.read(memory, space, values, self.memory_type)
        return self._decoded(values.reshape(-1))

    def _decoded(self, values: "NDArray[Any]") -> "NDArray[Any]":
        if not self.is_timeval:
            return values
        seconds, microseconds = values >> 32, values & 0xFFFFFFFF
        return seconds + microseconds.astype("i4") * 1e-6


def _find_member(stored: Any, field: str) -> tuple[tuple[bytes, ...], Any]:
    """Return the names on the way to `field` and its type; a dot is part of a name before it parts names."""
    import h5py

    if stored.get_class() != h5py.h5t.COMPOUND:
        raise KeyError(field)
    members = {stored.get_member_name(index): index for index in range(stored.get_nmembers())}
    index = members.get(field.encode())
    if index is not None:
        return (field.encode(),), stored.get_member_type(index)
    for name, index in members.items():
        head = name.decode(errors="replace")
        if field.startswith((f"{head}.", f"{head}/")):
            names, found = _find_member(stored.get_member_type(index), field[len(head) + 1 :])
            return (name, *names), found
    raise KeyError(field)


def _wrapped(base: Any, names: Sequence[bytes]) -> Any:
    """Return the type of a compound of nothing but `base`, called `names[-1]` within `names[-2]` and so on."""
    import h5py

    for name in reversed(names):
        outer = h5py.h5t.create(h5py.h5t.COMPOUND, base.get_size())
        outer.insert(name, 0, base)
        base = outer
    return base


def _time_types(stored: Any, dataset: "h5py.Dataset", what: str) -> tuple[Any, Any]:
    """Return the types by which values of HDF5's own type for times are read: as they lie in the file."""
    import h5py
    import numpy as np

    known = {"<i4": h5py.h5t.UNIX_D32LE, ">i4": h5py.h5t.UNIX_D32BE}
    # What 64 bits of time count is nowhere laid down; of PyTables it is known.
    if "CLASS" in dataset.attrs and "VERSION" in dataset.attrs:
        known |= {"<i8": h5py.h5t.UNIX_D64LE, ">i8": h5py.h5t.UNIX_D64BE}
    for code, time_type in known.items():
        if stored.equal(time_type):
            return stored, np.dtype(code)
    raise ContentError(f"{what} is a time of {stored.get_size()} bytes, and the file does not say what it counts")


# ---------------------------------------------------------------------------------------------- reductions


def _reduce(file: "h5py.File", addresses: Sequence[Address], limits: ReadLimits) -> Content:
    """Return the reductions, in one pass for all that ask for the same tables."""
    content = Content()
    groups: dict[tuple[str, ...], list[Address]] = {}
    for address in addresses:
        groups.setdefault(tuple(sorted({_path(place) for place in address.places})), []).append(address)
    budget = _Budget(left_bytes=limits.max_unpacked_bytes)
    for paths, asked in groups.items():
        content = content.joined_with(_reduce_tables(file, paths, asked, budget))
    return content


def _path(place: str) -> str:
    return place.partition("[")[0].strip()


def _field(place: str) -> str | None:
    return place.partition("[")[2].rstrip("]") or None


@dataclass(kw_only=True, slots=True)
class _Budget:
    """How many bytes may still be read, so that a few addresses cannot keep us busy for ever."""

    left_bytes: int

    def spend(self, name: str, size_bytes: int) -> None:
        if size_bytes > self.left_bytes:
            raise ContentError(f"{name} has {size_bytes} bytes, more than may be read of one file")
        self.left_bytes -= size_bytes


def _reduce_tables(file: "h5py.File", paths: Sequence[str], asked: Sequence[Address], budget: _Budget) -> Content:
    """Return the reductions over the datasets at `paths`, which stand side by side when they are several."""
    try:
        tables = [_Table.of(parts, asked) for parts in zip(*_side_by_side(file, paths), strict=True)]
    except _UNREADABLE as error:
        return Content(oddities={address.text: _reason(error) for address in asked})
    odd = {text: reason for table in tables for text, reason in table.oddities.items()}
    sound = [address for address in asked if address.text not in odd]
    places = {place for address in sound for place in address.places}
    try:
        units = {place: unit for table in tables for place, unit in table.units(places).items()}
        pieces = (piece for table in tables for piece in table.iter_pieces(places, budget))
        return Content(oddities=odd).joined_with(reduce_columns(sound, pieces, units=units))
    except _UNREADABLE as error:
        return Content(oddities={**odd, **{address.text: _reason(error) for address in sound}})


def _side_by_side(file: "h5py.File", paths: Sequence[str]) -> list[list[tuple[str, "h5py.Dataset"]]]:
    found = [[(path, dataset) for dataset in _find_datasets(file, path)] for path in paths]
    if all(found) and len({len(datasets) for datasets in found}) > 1:
        raise ContentError(f"{' and '.join(paths)} stand for different numbers of datasets")
    return found if all(found) else []


@dataclass(frozen=True, kw_only=True, slots=True)
class _Table:
    """One dataset, or several of one length, with the columns that are asked for."""

    datasets: Mapping[str, "h5py.Dataset"]
    """The datasets by the path that an address has for them."""
    columns: Mapping[str, _Column]
    """The columns by their place; what the table does not have is not among them."""
    oddities: Mapping[str, str]
    """By the text of the address, why it cannot be reduced here."""

    @classmethod
    def of(cls, parts: Sequence[tuple[str, "h5py.Dataset"]], asked: Sequence[Address]) -> "_Table":
        datasets = dict(parts)
        if len({dataset.shape[:1] for dataset in datasets.values()}) > 1:
            raise ContentError(f"{' and '.join(datasets)} have different numbers of rows")
        for dataset in datasets.values():
            if dataset.shape is None:
                raise ContentError(f"{dataset.name} is empty")
            _check_packing(dataset)
        columns: dict[str, _Column] = {}
        oddities: dict[str, str] = {}
        for address in asked:
            try:
                columns.update(_columns_of(address, datasets))
            except _UNREADABLE as error:
                oddities[address.text] = _reason(error)
        return cls(datasets=datasets, columns=columns, oddities=oddities)

    def units(self, places: Collection[str]) -> dict[str, str | None]:
        """Return what the file states as the unit of each of `places`."""
        return {place: _unit(self.datasets[_path(place)]) for place in places if place in self.columns}

    def iter_pieces(self, places: Collection[str], budget: _Budget) -> Iterator[dict[str, "NDArray[Any]"]]:
        """Yield the columns at `places` in pieces."""
        columns = {place: column for place, column in self.columns.items() if place in places}
        used = {_path(place): self.datasets[_path(place)] for place in columns}
        for dataset in used.values():
            budget.spend(dataset.name, dataset.size * _row_bytes(dataset))
        if not used:
            return
        has_texts = any(column.has_texts for column in columns.values())
        step = TEXT_ROWS if has_texts else min(_rows_at_once(dataset) for dataset in used.values())
        n_rows = next((dataset.shape[0] for dataset in used.values() if dataset.shape), 1)
        for first in range(0, max(1, n_rows), step):
            rows = slice(first, min(n_rows, first + step))
            yield {place: column.read(self.datasets[_path(place)], rows) for place, column in columns.items()}


def _columns_of(address: Address, datasets: Mapping[str, "h5py.Dataset"]) -> dict[str, _Column]:
    """Return the columns of one address, or none of them if the table does not have all."""
    columns: dict[str, _Column] = {}
    for place in address.places:
        dataset = datasets[_path(place)]
        try:
            columns[place] = _Column.of(dataset, _field(place))
        except KeyError:
            return {}
        holds_lists = columns[place].holds_lists or dataset.ndim > 1
        if holds_lists and (len(address.places) > 1 or address.reduction == "all"):
            raise ContentError(f"{place} holds lists, which stand beside no other column")
    return columns


def _rows_at_once(dataset: "h5py.Dataset") -> int:
    if not dataset.shape:
        return 1
    step = max(1, COLUMN_BYTES // max(1, _row_bytes(dataset) * int(math.prod(dataset.shape[1:]))))
    if dataset.chunks:
        # Whole chunks at a time: otherwise each would be unpacked once per piece that touches it.
        step = math.ceil(step / dataset.chunks[0]) * int(dataset.chunks[0])
    return step
