"""Reads raw binary files by an experiment's own Kaitai Struct specification (https://kaitai.io).

A folder holds the Description, ``NAME.ksy`` and ``NAME.py``, which the official compiler made of it beforehand. The
first line of the module states of which text it was made, so that the two cannot drift apart. At run time only the
runtime library `kaitaistruct` is needed.
"""

import hashlib
import io
import json
import re
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from enum import Enum
from functools import lru_cache
from importlib.abc import InspectLoader
from operator import attrgetter
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Annotated, Any, BinaryIO, TypeAlias

from msgspec import Meta, Struct

from extractors.errors import AddressError, ContentError, ReadLimitError
from extractors.readers.address import Address
from extractors.readers.corsika import read_up_to
from extractors.readers.reader import Content, Plain, RawValue, Reader, ReadLimits
from extractors.readers.reductions import reduce_columns

if TYPE_CHECKING:
    from numpy.typing import NDArray

FRAMES = "frames"
"""What the frames of a file are called as a table: ``rows(frames)``."""

WINDOW_BYTES = 4 * 1024**2
"""As much of a file is in memory at once, so no frame can be longer, whatever length it states."""

MAX_WHOLE_BYTES = 64 * 1024**2
"""Longest file that is read as one structure: its objects take many times the memory of its bytes."""

FRAMES_AT_ONCE = 4096
"""Columns are reduced in pieces of so many frames."""

MAX_LIST_VALUES = 1000
"""Longest list read as one value."""

MAX_VALUE_BYTES = 64 * 1024
"""Longest text read as one value."""

MAX_REASON_CHARACTERS = 300
"""Longest account of an error of a compiled module."""

COMPILER = "kaitai-struct-compiler"
"""The command of the official compiler, and the name of its npm package."""

_IDENTIFIER = r"[a-z][a-z0-9_]*"
_PLACE = re.compile(rf"{_IDENTIFIER}(?:\.(?:{_IDENTIFIER}|\d{{1,6}}))*")
_STAMP = re.compile(r"# Compiled from (?P<name>\S+\.ksy) with SHA-256 (?P<digest>[0-9a-f]{64})\n")
_EXPECTED = "the path of a field in a frame such as time.hour or channels.0.big, a reduction of such, or rows(frames)"

_POSITION = re.compile(r"at pos \d+: ")

Getter: TypeAlias = Callable[[Any], Any]


class KaitaiOptions(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a Description sets."""

    module: Annotated[str, Meta(pattern=rf"^{_IDENTIFIER}\Z")]
    """Name of the specification and of the module made of it, without ``.ksy`` and ``.py``."""
    whole: bool = False
    """Whether the root type is the whole file, and not one of the frames of which the file is a row."""
    frame_bytes: Annotated[int, Meta(ge=1, le=WINDOW_BYTES)] | None = None
    """Size of every frame, if all have the same: then the last one is found without reading those before it."""


class KaitaiReader(Reader):
    """Reads frames: ``event`` and ``time.hour`` are fields of the first one, ``channels.0.big`` goes into a list.

    ``min(event)`` goes over all frames, ``rows(frames)`` counts them. Enumerations give their words. The root type of
    the specification is one frame, which tells its own length; it must not ask how long the file is or where in the
    file it stands, for it sees a part of the file only.
    """

    Options = KaitaiOptions

    def __init__(self, options: Any = None, folder: Path | None = None) -> None:
        if options is None or folder is None:
            raise ValueError("found no module or no folder, expected a Description with a specification beside it")
        super().__init__(options, folder)
        self._paths = (folder / f"{options.module}.ksy", folder / f"{options.module}.py")
        self._specification, self._source = _load_pair(*self._paths)

    @property
    def companions(self) -> Sequence[Path]:
        """The specification, and the module made of it."""
        return self._paths

    def check(self, address: Address) -> None:
        """Raise `AddressError` unless the specification has fields of these names."""
        if address.reduction == "rows":
            if address.place != FRAMES:
                raise AddressError(address.text, f"rows({FRAMES})")
            return
        for place in address.places:
            if not _PLACE.fullmatch(place):
                raise AddressError(address.text, _EXPECTED)
            _check_place(place, self._specification)

    def read(self, stream: BinaryIO, addresses: Collection[Address], *, limits: ReadLimits) -> Content:
        """Return the values at `addresses`.

        After damage or in a file that was cut off, they are those of the frames before it. Where only headers may be
        read, the first frame alone is read, and the last one if all have the same size.

        Raises
        ------
        ContentError
            Not even the first frame could be read.
        """
        walk = _Walk(stream, _make_root(self._source, self.options.module), is_whole=self.options.whole)
        first = next(walk.iter_frames(), None)
        if first is None:
            raise ContentError(walk.damage or "the file is empty, expected at least one frame")
        single = _read_singles(first, [address for address in addresses if address.reduction is None])
        tables = [address for address in addresses if address.reduction is not None]
        if not limits.header_only:
            return single.joined_with(_read_all(walk, first, tables)) if tables else single
        if self.options.frame_bytes is None:
            return single
        try:
            return single.joined_with(_read_ends(walk, first, tables, self.options.frame_bytes))
        except ReadLimitError as error:
            return single.joined_with(Content(oddities={FRAMES: str(error)}))


# ------------------------------------------------------------------------------- specification and module


def compile_ksy(path: Path, *, npm_folder: Path | None = None) -> Path:
    """Compile a specification with the official compiler, and return the module, which is put beside it.

    Parameters
    ----------
    path
        The specification; its ``meta/id`` is its name.
    npm_folder
        Where ``npm install kaitai-struct-compiler`` was run; without it the command of that name is used.

    Raises
    ------
    ValueError
        The compiler is not there, or refuses the specification.
    """
    raw = path.read_bytes()
    specification = _parse_specification(path, raw)
    compiled = _run_command(path) if npm_folder is None else _run_node(specification, npm_folder)
    digest = hashlib.sha256(raw).hexdigest()
    lines = [
        f"# Compiled from {path.name} with SHA-256 {digest}",
        "# ruff: noqa",
        "# mypy: ignore-errors",
        "# fmt: off",
    ]
    module = path.with_suffix(".py")
    # The compiler leaves blanks at line ends, and empty lines at the end of the file.
    lines += [line.rstrip() for line in compiled.rstrip().splitlines()]
    module.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return module


def _run_command(path: Path) -> str:
    command = shutil.which(COMPILER)
    if command is None:
        raise ValueError(f"found no {COMPILER}, expected it on the PATH, or a folder where npm installed it")
    with tempfile.TemporaryDirectory() as folder:
        _run([command, "--target", "python", "--outdir", folder, str(path.resolve())], folder=Path(folder))
        return (Path(folder) / f"{path.stem}.py").read_text(encoding="utf-8")


_NODE_SCRIPT = f"""
const compiler = require("{COMPILER}");
const specification = JSON.parse(require("fs").readFileSync(0, "utf8"));
compiler.compile("python", specification, null, false).then(
  (files) => process.stdout.write(Object.values(files)[0]),
  (error) => {{ process.stderr.write(String(error)); process.exitCode = 1; }},
);
"""
"""The npm package has no command, only this function, which wants the specification parsed."""


def _run_node(specification: Mapping[str, Any], npm_folder: Path) -> str:
    return _run(["node", "-e", _NODE_SCRIPT], folder=npm_folder, text=json.dumps(specification))


def _run(command: Sequence[str], *, folder: Path, text: str = "") -> str:
    try:
        run = subprocess.run(command, cwd=folder, input=text, capture_output=True, text=True, timeout=300, check=False)
    except OSError as error:
        raise ValueError(f"the Kaitai Struct compiler cannot be run: {error}") from error
    if run.returncode:
        raise ValueError(f"the Kaitai Struct compiler refuses the specification: {run.stderr.strip() or run.stdout}")
    return run.stdout


def _load_pair(specification: Path, module: Path) -> tuple[dict[str, Any], str]:
    """Return what the specification says, and the text of the module that was made of it.

    Raises
    ------
    ValueError
        One of them is not there, or the module was made of another specification.
    """
    for path in (specification, module):
        if not path.is_file():
            raise ValueError(f"found no {path.name} beside the Description, expected the specification and its module")
    raw, source = specification.read_bytes(), module.read_text(encoding="utf-8")
    stamp = _STAMP.match(source)
    if stamp is None or stamp["digest"] != hashlib.sha256(raw).hexdigest():
        raise ValueError(f"{module.name} was not made from this {specification.name}: compile it again")
    return _parse_specification(specification, raw), source


def _parse_specification(path: Path, raw: bytes) -> dict[str, Any]:
    import yaml

    try:
        specification = yaml.safe_load(raw)
        meta = specification["meta"]
    except (yaml.YAMLError, UnicodeDecodeError, TypeError, KeyError) as error:
        raise ValueError(f"{path.name} is no Kaitai Struct specification: {error}") from error
    if meta.get("id") != path.stem:
        raise ValueError(f"{path.name}: found meta/id {meta.get('id')!r}, expected the name of the file, {path.stem!r}")
    if "imports" in meta:
        raise ValueError(f"{path.name}: found meta/imports, expected all types in this one file")
    return dict(specification)


class _TextLoader(InspectLoader):
    """Imports a module from its text; writes no bytecode beside a Description and reads no stale one."""

    def __init__(self, source: str) -> None:
        self._source = source

    def get_source(self, fullname: str) -> str:
        return self._source


@lru_cache(maxsize=64)
def _make_root(source: str, name: str) -> type[Any]:
    """Return the class of the root type in the text of a compiled module."""
    module = ModuleType(f"_catchment_kaitai_{name}")
    _TextLoader(source).exec_module(module)
    root: type[Any] = getattr(module, "".join(part.capitalize() for part in name.split("_")))
    return root


def _check_place(place: str, specification: Mapping[str, Any]) -> None:
    """Raise `AddressError` when the specification surely has no such field; where it cannot be told, it may have."""
    types: Mapping[str, Any] = specification.get("types", {})
    current: Mapping[str, Any] | None = specification
    parts = place.split(".")
    while parts and current is not None:
        fields = {field["id"]: field for field in current.get("seq", []) if "id" in field}
        fields |= current.get("instances", {})
        name = parts.pop(0)
        if name not in fields:
            raise AddressError(place, f"one of the fields {', '.join(sorted(fields))} instead of {name!r}")
        field = fields[name]
        if parts and "repeat" in field and not parts.pop(0).isdecimal():
            raise AddressError(place, f"the number of an element after the list {name!r}, from 0")
        kind = field.get("type")
        if parts and isinstance(kind, str) and re.fullmatch(r"[sufb]\d+(?:[lb]e)?|strz?", kind):
            raise AddressError(place, f"nothing after {name!r}, which is a single value")
        # Nested, chosen and computed types are not resolved here.
        current = types.get(kind) if isinstance(kind, str) else None


# -------------------------------------------------------------------------------------------------- frames


class _Walk:
    """Goes through the frames of one stream, up to the end or the first damage, which it remembers."""

    def __init__(self, stream: BinaryIO, root: type[Any], *, is_whole: bool) -> None:
        self._stream = stream
        self._root = root
        self._is_whole = is_whole
        self._frames = self._iter_whole() if is_whole else self._iter_windows()
        self._n_frames = 0
        self.damage: str | None = None

    def iter_frames(self) -> Iterator[Any]:
        """Yield each frame that has not been yielded yet."""
        return self._frames

    def read_last(self, frame_bytes: int) -> tuple[int, Any]:
        """Return how many frames of a size there are, and the last one, or None when that is damaged."""
        n_frames, n_rest = divmod(self._stream.seek(0, io.SEEK_END), frame_bytes)
        begin = (n_frames - 1) * frame_bytes
        if n_rest:
            self.damage = f"the file ends at byte {n_frames * frame_bytes + n_rest}, within frame {n_frames}"
        self._stream.seek(begin)
        data = read_up_to(self._stream, frame_bytes)
        frame, end = self._parse(_open(data), 0, begin, number=n_frames - 1, is_end=True)
        if frame is not None and end != frame_bytes:
            self.damage = f"frame {n_frames - 1} at byte {begin} has {end} bytes, expected {frame_bytes}"
            return n_frames, None
        return n_frames, frame

    def _iter_whole(self) -> Iterator[Any]:
        data = read_up_to(self._stream, MAX_WHOLE_BYTES + 1)
        if len(data) > MAX_WHOLE_BYTES:
            raise ContentError(f"the file has more than {MAX_WHOLE_BYTES} bytes, too many to be read as a whole")
        frame, _ = self._parse(_open(data), 0, 0, number=0, is_end=True)
        if frame is not None:
            yield frame

    def _iter_windows(self) -> Iterator[Any]:
        base, data, is_end = 0, b"", False
        number = 0
        while not is_end and self.damage is None:
            more = read_up_to(self._stream, WINDOW_BYTES - len(data))
            data += more
            is_end = len(data) < WINDOW_BYTES
            window, begin = _open(data), 0
            while begin < len(data):
                # A frame that does not even fit into a whole window gets no second chance.
                frame, end = self._parse(window, begin, base + begin, number=number, is_end=is_end or begin == 0)
                if frame is None:
                    break
                yield frame
                begin, number = end, number + 1
            base, data = base + begin, data[begin:]

    def _parse(self, window: Any, begin: int, position: int, *, number: int, is_end: bool) -> tuple[Any, int]:
        """Return the frame at `begin` of a window, and where it ends; None when there is no whole one.

        That is damage, unless it was cut off by the window and not by the end of the file.
        """
        try:
            frame = self._root(window)
            end = window.pos()
        except EOFError as error:
            if is_end:
                self.damage = f"frame {number} at byte {position} is damaged or cut off: {_reason(error)}"
            return None, begin
        except Exception as error:  # noqa: BLE001 - whatever the compiled module makes of a damaged frame
            self.damage = f"frame {number} at byte {position} is damaged: {_reason(error)}"
            return None, begin
        if end <= begin and not self._is_whole:
            self.damage = f"frame {number} at byte {position} has no bytes, so no end of the frames would come"
            return None, begin
        return frame, end


def _open(data: bytes) -> Any:
    from kaitaistruct import KaitaiStream

    return KaitaiStream(io.BytesIO(data))


def _read_singles(frame: Any, addresses: Sequence[Address]) -> Content:
    values: dict[str, RawValue] = {}
    oddities: dict[str, str] = {}
    for address in addresses:
        try:
            value = _plain(_getter(address.place)(frame))
        except (AttributeError, IndexError):
            continue
        except Exception as error:  # noqa: BLE001 - a computed field can fail in any way
            oddities[address.text] = _reason(error)
            continue
        if value is not None:
            values[address.text] = RawValue(value=value)
    return Content(values=values, oddities=oddities)


def _read_all(walk: _Walk, first: Any, addresses: Sequence[Address]) -> Content:
    """Return reductions over all frames; `first` has been taken from the `walk` already."""
    columns = [address for address in addresses if address.reduction != "rows"]
    table = _Table(columns)
    reduced = reduce_columns(columns, table.iter_pieces(first, walk.iter_frames()), units={})
    rows = {address.text: RawValue(value=table.n_frames) for address in addresses if address.reduction == "rows"}
    oddities = {**reduced.oddities, **table.oddities}
    if walk.damage is not None:
        oddities[FRAMES] = walk.damage
    return Content(values={**reduced.values, **rows}, oddities=oddities)


def _read_ends(walk: _Walk, first: Any, addresses: Sequence[Address], frame_bytes: int) -> Content:
    """Return what the first and the last frame tell of all: how many they are, and the ends of columns."""
    n_frames, last = walk.read_last(frame_bytes)
    rows = {address.text: RawValue(value=n_frames) for address in addresses if address.reduction == "rows"}
    content = Content(values=rows, oddities={} if walk.damage is None else {FRAMES: walk.damage})
    for reduction, frame in (("first", first), ("last", last)):
        columns = [address for address in addresses if address.reduction == reduction]
        if columns and frame is not None:
            table = _Table(columns)
            content = content.joined_with(reduce_columns(columns, table.iter_pieces(frame, iter(())), units={}))
            content = content.joined_with(Content(oddities=table.oddities))
    return content


class _Table:
    """Fields of many frames as columns."""

    def __init__(self, addresses: Sequence[Address]) -> None:
        self.n_frames = 0
        self._addresses = addresses
        self._getters = {place: _getter(place) for address in addresses for place in address.places}
        self._failures: dict[str, tuple[int, str]] = {}

    @property
    def oddities(self) -> dict[str, str]:
        """What was wrong with fields, by address: of each the first failure, and how many frames had one."""
        return {
            address.text: f"{place} has no value in {count} of {self.n_frames} frames, first in {first}"
            for address in self._addresses
            for place in address.places
            if place in self._failures
            for count, first in [self._failures[place]]
        }

    def iter_pieces(self, first: Any, frames: Iterator[Any]) -> Iterator[dict[str, "NDArray[Any]"]]:
        """Yield the columns of some frames at a time."""
        columns: dict[str, list[Any]] = {place: [] for place in self._getters}
        self._take(first, columns)
        for frame in frames:
            if self.n_frames % FRAMES_AT_ONCE == 0:
                yield self._convert(columns)
                columns = {place: [] for place in self._getters}
            self._take(frame, columns)
        yield self._convert(columns)

    def _take(self, frame: Any, columns: Mapping[str, list[Any]]) -> None:
        for place, get in self._getters.items():
            try:
                value = get(frame)
            except (AttributeError, IndexError):
                value = None
            except Exception as error:  # noqa: BLE001 - a computed field can fail in any way
                value = None
                self._fail(place, _reason(error), number=self.n_frames)
            columns[place].append(value)
        self.n_frames += 1

    def _convert(self, columns: Mapping[str, list[Any]]) -> dict[str, "NDArray[Any]"]:
        converted = {}
        for place, values in columns.items():
            try:
                column = _as_column(values)
            except ContentError as error:
                self._fail(place, str(error), number=self.n_frames - len(values), count=len(values))
                continue
            if column is not None:
                converted[place] = column
        return converted

    def _fail(self, place: str, reason: str, *, number: int, count: int = 1) -> None:
        before, first = self._failures.get(place, (0, f"frame {number}: {reason}"))
        self._failures[place] = (before + count, first)


# -------------------------------------------------------------------------------------------------- values


def _reason(error: Exception) -> str:
    """Return what went wrong within a module, shortly: messages quote whole fields, and some errors have none."""
    # The runtime's positions are those in the window, which would be taken for those in the file.
    text = _POSITION.sub("", str(error)) or type(error).__name__
    return text if len(text) <= MAX_REASON_CHARACTERS else f"{text[: MAX_REASON_CHARACTERS - 1]}…"


def _getter(place: str) -> Getter:
    """Return what fetches a place from a frame; a number in it is the position in a list."""
    if not any(part.isdecimal() for part in place.split(".")):
        return attrgetter(place)

    def get(frame: Any) -> Any:
        for part in place.split("."):
            frame = frame[int(part)] if part.isdecimal() else getattr(frame, part)
        return frame

    return get


def _plain(value: Any) -> Plain | tuple[Plain, ...] | None:
    """Return a field's value as a reader gives it away; None is a field that the frame does not have."""
    if isinstance(value, list):
        if len(value) > MAX_LIST_VALUES:
            raise ContentError(f"a list of {len(value)} values, expected at most {MAX_LIST_VALUES}")
        return tuple(_plain_scalar(item) for item in value)
    return None if value is None else _plain_scalar(value)


def _plain_scalar(value: Any) -> Plain:
    if isinstance(value, Enum):
        return value.name
    if isinstance(value, bytes | str) and len(value) > MAX_VALUE_BYTES:
        raise ContentError(f"a text of {len(value)} bytes, expected at most {MAX_VALUE_BYTES}")
    if isinstance(value, bytes):
        # Fields of fixed length are filled up with NUL.
        return value.rstrip(b"\0").decode("utf-8")
    if isinstance(value, Plain):
        return value
    raise ContentError(f"a {type(value).__name__} is neither text nor a number")


def _as_column(values: Sequence[Any]) -> "NDArray[Any] | None":
    """Return the values of one place in some frames, or None when no frame has one.

    Raises
    ------
    ContentError
        They are lists or structures.
    """
    import numpy as np

    present = {type(value) for value in values if value is not None}
    if not present:
        return None
    if present <= {int, float, bool}:
        # Where a frame lacks the field: no number, and so no value to a reduction.
        return np.array([np.nan if value is None else value for value in values] if None in values else values)
    if list in present:
        raise ContentError("a list, expected one value in each frame")
    try:
        texts = [None if value is None else _plain_scalar(value) for value in values]
    except UnicodeDecodeError as error:
        raise ContentError(f"bytes that are no UTF-8: {error}") from error
    column = np.empty(len(texts), dtype=object)
    column[:] = ["" if text is None else str(text) for text in texts]
    return column
