"""Reads datasets, attributes and column ranges of HDF5 files.

HDF5 can point out of its file in three ways (external links, external raw data, virtual datasets). All are refused: a
file in a storage must not make us open another one.
"""

import math
import re
from collections.abc import Collection, Iterator
from typing import TYPE_CHECKING, Any, BinaryIO

from extractors.errors import AddressError, ContentError, TooLargeError
from extractors.readers.reader import Content, Plain, RawValue, ReadLimits

if TYPE_CHECKING:
    import h5py

MAX_LINKS = 16
"""Most soft links followed on the way to one object; more is a ring."""

MAX_LIST_VALUES = 1000
"""Longest list read as one value."""

MAX_VALUE_BYTES = 64 * 1024
"""Largest single value read: a description of a file, not its data."""

MAX_CHUNK_BYTES = 64 * 1024**2
"""Largest packed piece of a dataset: the library unpacks each as a whole."""

COLUMN_BYTES = 4 * 1024**2
"""Datasets are read in pieces of about this size."""

_PATH = r"[^\[\]()@]"
_ADDRESS = re.compile(
    rf"(?P<what>min|max)\((?P<column>{_PATH}+)(?:\[(?P<field>[^\[\]]+)\])?\)"
    rf"|rows\((?P<counted>{_PATH}+)\)"
    rf"|(?P<owner>{_PATH}*)@(?P<attribute>[^@]+)"
    rf"|(?P<dataset>{_PATH}+)"
)
_EXPECTED = "dataset, object@attribute, @attribute, min(dataset), max(dataset[field]) or rows(dataset)"


class Hdf5Reader:
    """Reads HDF5: ``meta/start`` is a dataset, ``strain@unit`` an attribute, ``min(events[energy])`` a field's range.

    ``@name`` is an attribute of the root, ``rows(events)`` the length of a dataset.
    """

    def check(self, address: str) -> None:
        """Raise `AddressError` unless `address` has one of the shapes above."""
        _parse(address)

    def read(self, stream: BinaryIO, addresses: Collection[str], *, limits: ReadLimits) -> Content:
        """Return the values at `addresses`; ranges are left out when only headers may be read.

        Raises
        ------
        ContentError
            This is no HDF5 file, or it is damaged.
        """
        import h5py

        values: dict[str, RawValue] = {}
        oddities: dict[str, str] = {}
        try:
            file = h5py.File(stream, "r")
        except OSError as error:
            raise ContentError(f"this is no HDF5 file, or it is damaged: {error}") from error
        with file:
            ranges = _Ranges(limits)
            for address in addresses:
                try:
                    found = _value(file, _parse(address), ranges)
                except TooLargeError:
                    raise
                except (ContentError, OSError, RuntimeError, TypeError, ValueError) as error:
                    oddities[address] = str(error)
                    continue
                if found is not None:
                    values[address] = found
        return Content(values=values, oddities=oddities)


def _parse(address: str) -> re.Match[str]:
    match = _ADDRESS.fullmatch(address)
    if match is None:
        raise AddressError(address, _EXPECTED)
    return match


def _value(file: "h5py.File", match: re.Match[str], ranges: "_Ranges") -> RawValue | None:
    if match["attribute"]:
        owner = _find(file, match["owner"])
        return None if owner is None else _attribute(owner, match["attribute"])
    dataset = _find_dataset(file, match["column"] or match["counted"] or match["dataset"])
    if dataset is None:
        return None
    if match["counted"]:
        return RawValue(value=int(dataset.shape[0]) if dataset.shape else 1)
    if match["column"]:
        return ranges.extreme(dataset, match["field"], match["what"])
    return _single(dataset)


# --------------------------------------------------------------------------------------------------- links


def _find(file: "h5py.File", path: str) -> "h5py.Group | h5py.Dataset | None":
    """Return the object at `path` without ever leaving the file, or None when there is none."""
    import h5py

    found: h5py.Group | h5py.Dataset = file
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
    if found.is_virtual or found.external:
        raise ContentError(f"{path} keeps its values in other files, which are not opened")
    return found


# -------------------------------------------------------------------------------------------------- values


def _attribute(owner: Any, name: str) -> RawValue | None:
    import h5py

    if name not in owner.attrs:
        return None
    stored = h5py.h5a.open(owner.id, name.encode())
    if stored.get_storage_size() > MAX_VALUE_BYTES:
        raise ContentError(f"attribute {name} has more than {MAX_VALUE_BYTES} bytes")
    return RawValue(value=_plain(owner.attrs[name]))


def _single(dataset: "h5py.Dataset") -> RawValue:
    if dataset.shape is None or dataset.size > MAX_LIST_VALUES or dataset.nbytes > MAX_VALUE_BYTES:
        raise ContentError(f"{dataset.name} is no single value and no list of at most {MAX_LIST_VALUES}")
    _check_chunks(dataset)
    return RawValue(value=_plain(dataset[()]), unit=_unit(dataset))


def _plain(stored: Any) -> Plain | tuple[Plain, ...]:
    """Return `stored` as Python's own type; one-element arrays count as single values."""
    import numpy as np

    if isinstance(stored, np.ndarray):
        values = tuple(_plain_scalar(item) for item in stored.ravel().tolist())
        return values[0] if len(values) == 1 else values
    return _plain_scalar(stored.item() if isinstance(stored, np.generic) else stored)


def _plain_scalar(value: Any) -> Plain:
    if isinstance(value, bytes):
        return value.rstrip(b"\0").decode("utf-8")
    if isinstance(value, Plain):
        return value
    raise ContentError(f"a value of type {type(value).__name__} is neither text nor a number")


def _unit(dataset: "h5py.Dataset") -> str | None:
    for name in ("unit", "units"):
        found = _attribute(dataset, name)
        if found is not None and isinstance(found.value, str) and found.value.strip():
            return found.value.strip()
    return None


class _Ranges:
    """Smallest and largest finite values; each column is read once, however often it is asked for."""

    def __init__(self, limits: ReadLimits) -> None:
        self._limits = limits
        self._known: dict[tuple[str, str | None], tuple[float, float] | None] = {}

    def extreme(self, dataset: "h5py.Dataset", field: str | None, what: str) -> RawValue | None:
        """Return the ``min`` or ``max`` of a dataset or of one field, or None when it has no finite value."""
        if self._limits.header_only or (field is not None and field not in (dataset.dtype.names or ())):
            return None
        key = (dataset.name, field)
        if key not in self._known:
            self._check(dataset, field)
            self._known[key] = _range(dataset, field)
        found = self._known[key]
        return None if found is None else RawValue(value=found[what == "max"], unit=_unit(dataset))

    def _check(self, dataset: "h5py.Dataset", field: str | None) -> None:
        kind = (dataset.dtype if field is None else dataset.dtype[field]).kind
        if kind not in "iuf" or dataset.ndim > 1:
            raise ContentError(f"{dataset.name}{f'[{field}]' if field else ''} is no column of numbers")
        if dataset.nbytes > self._limits.max_unpacked_bytes:
            raise TooLargeError(f"dataset {dataset.name}", self._limits.max_unpacked_bytes)
        _check_chunks(dataset)


def _range(dataset: "h5py.Dataset", field: str | None) -> tuple[float, float] | None:
    import numpy as np

    lows: list[float] = []
    highs: list[float] = []
    for piece in _iter_pieces(dataset, field):
        finite = piece[np.isfinite(piece)]
        if finite.size:
            lows.append(float(finite.min()))
            highs.append(float(finite.max()))
    return (min(lows), max(highs)) if lows else None


def _check_chunks(dataset: "h5py.Dataset") -> None:
    if dataset.chunks and math.prod(dataset.chunks) * dataset.dtype.itemsize > MAX_CHUNK_BYTES:
        raise ContentError(f"{dataset.name} is packed in pieces of more than {MAX_CHUNK_BYTES} bytes")


def _iter_pieces(dataset: "h5py.Dataset", field: str | None) -> Iterator[Any]:
    source = dataset.fields(field) if field is not None else dataset
    if not dataset.shape:
        yield source[()].reshape(-1)
        return
    step = max(1, COLUMN_BYTES // max(1, dataset.dtype.itemsize))
    if dataset.chunks:
        # Whole chunks at a time: otherwise each would be unpacked once per piece that touches it.
        step = math.ceil(step / dataset.chunks[0]) * dataset.chunks[0]
    for first in range(0, dataset.shape[0], step):
        yield source[first : first + step]
