"""Extracts: opens a file of a storage, read-only, finds out which product it is, and has its record built."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import BinaryIO

from extractors.building import FileIdentity, build_record, holds
from extractors.description import Description, Product
from extractors.errors import ContentError, ExtractionError, FileRejectedError
from extractors.joins import Joiner
from extractors.readers.address import Address
from extractors.readers.reader import DEFAULT_MAX_UNPACKED_BYTES, Content, Reader, ReadLimits
from extractors.rules import Material
from extractors.storages.fingerprint import Fingerprint, UnpackedFile, take_fingerprint
from extractors.storages.trees import LimitedStream, OpenedFile, Tree
from extractors.storages.unpacking import unpack_to_file
from metadata_db.records import FileRecord


@dataclass(frozen=True, kw_only=True, slots=True)
class Outcome:
    """What came of one file.

    `record` is None only when the file may not or cannot be catalogued at all, or, without a `failure`, when it was
    passed over. With a `failure` beside a record, the content could not be read and the record says what the storage
    knows.
    """

    path: str
    record: FileRecord | None = None
    is_matched: bool = False
    failure: str | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Extractor:
    """Reads files of one storage for one facility; holds settings only, so it can be sent to another process."""

    tree: Tree
    facility: str
    storage: str
    description: Description | None = None
    header_only: bool = False
    """Read no columns and make no checksums."""
    header_only_above: int | None = None
    """Size in bytes from which on files are read so anyhow."""
    max_unpacked_bytes: int = DEFAULT_MAX_UNPACKED_BYTES
    max_read_bytes: int | None = None
    """Most bytes of one file that are taken from the storage: where reading all would take more, only headers
    are read, and a file whose headers need more is registered with what the storage knows."""
    processing: str | None = None
    """Name of the reprocessing that made the files."""
    only_matched: bool = False
    """Pass over what no product of the Description matches: on a shared storage it may be another facility's."""
    joiner: Joiner = field(init=False, compare=False, repr=False)

    def __post_init__(self) -> None:
        limits = ReadLimits(max_unpacked_bytes=self.max_unpacked_bytes)
        object.__setattr__(self, "joiner", Joiner(self.tree, limits))

    def extract(self, path: str) -> Outcome:
        """Return what came of the file at `path` in the tree; never raises for what a file may hold."""
        if self.only_matched and self.description is not None and not self.description.may_match(path):
            return Outcome(path=path)
        try:
            with self.tree.open(path) as stream:
                return self._read(stream, path)
        except FileRejectedError as error:
            return Outcome(path=path, failure=error.reason)
        except ExtractionError as error:
            return Outcome(path=path, failure=str(error))
        except MemoryError:
            raise  # told by who set the limit, after the memory was let go
        except Exception as error:  # noqa: BLE001 - the top of the job: one file must not end the run
            return Outcome(path=path, failure=f"{type(error).__name__}: {error}")

    def extract_all(self, paths: Iterable[str]) -> list[Outcome]:
        """Return what came of each of `paths`, in their order."""
        return [self.extract(path) for path in paths]

    def without_description(self) -> "Extractor":
        """Return an extractor that opens files only to learn what the storage knows of them."""
        return replace(self, description=None)

    def _read(self, stream: OpenedFile, path: str) -> Outcome:
        before = stream.status()
        above, most = self.header_only_above, self.max_read_bytes
        header_only = (
            self.header_only
            or (above is not None and before.size_bytes > above)
            # Read whole it is read twice, for the checksums and for the content.
            or (most is not None and 2 * before.size_bytes > most)
        )
        fingerprint, content = take_fingerprint(
            stream if most is None else LimitedStream(stream, most),
            path,
            checksums=not header_only,
            max_unpacked_bytes=self.max_unpacked_bytes,
        )
        limits = ReadLimits(header_only=header_only, max_unpacked_bytes=self.max_unpacked_bytes)
        outcome = _Reading(extractor=self, path=path, content=content, limits=limits).interpret(fingerprint)
        if stream.status() != before:
            raise FileRejectedError(path, "the file changed while it was read; extract it again when it is complete")
        return outcome


class _Reading:
    """The reading of one open file: which product it is, and what its content says."""

    def __init__(self, *, extractor: Extractor, path: str, content: UnpackedFile, limits: ReadLimits) -> None:
        self._extractor = extractor
        self._path = path
        self._content = content
        self._limits = limits
        self._failures: list[str] = []

    def interpret(self, fingerprint: Fingerprint) -> Outcome:
        """Return what came of the file."""
        description = self._extractor.description
        identity = FileIdentity(facility=self._extractor.facility, storage=self._extractor.storage, path=self._path)
        product, material, oddities = None, Material(), list[str]()
        if description is not None:
            try:
                product, material, oddities = self._read_content(description)
            except ContentError as error:
                self._failures.append(f"content: {error}")
        failure = self._failures[0] if self._failures and product is None else None
        if product is None and failure is None and description is not None and self._extractor.only_matched:
            return Outcome(path=self._path)
        record = build_record(
            identity,
            fingerprint,
            description=description if failure is None else None,
            product=product,
            material=material,
            processing=self._extractor.processing,
            oddities=[*self._failures, *oddities],
        )
        is_matched = product is not None or failure is not None
        return Outcome(path=self._path, record=record, is_matched=is_matched, failure=failure)

    def _read_content(self, description: Description) -> tuple[Product | None, Material, list[str]]:
        """Return the product that the file is, what is known about it, and what was odd."""
        if self._content.problem is not None:
            raise self._content.problem
        read = _ContentReading(self._content, self._limits)
        for product, groups in description.iter_candidates(self._path, self._content.head):
            material = self._check_where(product, groups, read)
            if material is not None:
                content = read.read(product.reader, product.addresses)
                whole = Material(groups=groups, content={**material.content, **content.values})
                oddities = [f"{address}: {reason}" for address, reason in content.oddities.items()]
                return product, *self._join(product, whole, oddities)
        return None, Material(), []

    def _check_where(self, product: Product, groups: Mapping[str, str], read: "_ContentReading") -> Material | None:
        """Return what was read to know that the file is a `product`, or None when it is none."""
        if not product.where:
            return Material(groups=groups)
        try:
            content = read.read(product.reader, product.where_addresses, is_condition=True)
        except ContentError as error:
            self._failures.append(f"content, as {product.name}: {error}")
            return None
        material = Material(groups=groups, content=content.values)
        return material if all(holds(rule, material) for rule in product.where) else None

    def _join(self, product: Product, material: Material, oddities: list[str]) -> tuple[Material, list[str]]:
        if not product.joins:
            return material, oddities
        joined, odd = self._extractor.joiner.find(product.joins, self._path, material)
        return replace(material, joined=joined), [*oddities, *odd]


class _ContentReading:
    """One unpacked stream, read by one reader or several."""

    def __init__(self, content: UnpackedFile, limits: ReadLimits) -> None:
        self._content = content
        self._limits = limits
        self._on_disk: BinaryIO | None = None

    def read(self, reader: Reader | None, addresses: tuple[Address, ...], *, is_condition: bool = False) -> Content:
        """Return what `reader` finds; a condition is looked for in columns even where only headers are read."""
        if reader is None or (not addresses and is_condition):
            return Content()
        limits = replace(self._limits, header_only=False) if is_condition else self._limits
        stream = self._stream_for(reader)
        stream.seek(0)
        try:
            return reader.read(stream, addresses, limits=limits)
        except (ExtractionError, MemoryError):
            raise
        except Exception as error:
            # Whatever a format's library makes of a damaged file.
            raise ContentError(f"{type(error).__name__}: {error}") from error

    def _stream_for(self, reader: Reader) -> BinaryIO:
        if not (reader.random_access and self._content.packing):
            return self._content.stream
        if self._on_disk is None:
            self._on_disk = unpack_to_file(self._content.stream)
        return self._on_disk
