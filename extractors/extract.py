"""Turns what a file says into a `FileRecord`, by the rules of a Description.

`build_record` is pure: a Description, a fingerprint and raw values in, a record out. `Extractor` is the thin edge that
opens a file of a storage, read-only, and hands it on.
"""

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, BinaryIO

import msgspec

from extractors.clocks import read_clock
from extractors.conversions import convert, degrees_of_right_ascension
from extractors.description import Description, FieldRules, Product
from extractors.errors import ContentError, ConversionError, ExtractionError, FileRejectedError
from extractors.fingerprint import Fingerprint, take_fingerprint
from extractors.readers.reader import DEFAULT_MAX_UNPACKED_BYTES, Content, ReadLimits, load_reader
from extractors.rules import Found, Material, Rule
from extractors.scan import open_file
from metadata_db.records import AttributeValue, FileRecord

MAX_WARNINGS = 100
"""As many as a record holds; a file with more oddities than that is told by the first."""

MAX_WARNING_CHARACTERS = 1000
"""Longest single warning."""

_FIELD_TYPES: Mapping[str, Any] = {info.name: info.type for info in msgspec.structs.fields(FileRecord)}


@dataclass(frozen=True, kw_only=True, slots=True)
class FileIdentity:
    """Where a file belongs: its key in the catalogue."""

    facility: str
    storage: str
    path: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Outcome:
    """What came of one file.

    `record` is None only when the file may not or cannot be catalogued at all. With a `failure` beside a record, the
    content could not be read and the record says what the storage knows.
    """

    path: str
    record: FileRecord | None = None
    is_matched: bool = False
    failure: str | None = None


# ---------------------------------------------------------------------------------------------------- pure


def build_record(
    identity: FileIdentity,
    fingerprint: Fingerprint,
    *,
    description: Description | None = None,
    product: Product | None = None,
    material: Material | None = None,
    oddities: Iterable[str] = (),
) -> FileRecord:
    """Return the record of one file: the storage's facts, and what the rules of its product make of `material`.

    A value that cannot be converted or does not fit its field is left out and told in the record's warnings, as are
    the `oddities` that were met before.
    """
    sheet = _Sheet(warnings=list(oddities))
    if description is not None and product is not None:
        material = material or Material()
        for filled in product.fields:
            _fill(filled, material, description, sheet, _FIELD_TYPES[filled.declaration.name])
        _settle(sheet)
        attributes = _Sheet(warnings=sheet.warnings, provenance=sheet.provenance)
        for filled in product.attributes:
            _fill(filled, material, description, attributes, AttributeValue, prefix="attributes.")
        sheet.values["attributes"] = attributes.values
    return FileRecord(
        facility=identity.facility,
        storage=identity.storage,
        path=identity.path,
        size_bytes=fingerprint.size_bytes,
        sha256=fingerprint.sha256,
        md5=fingerprint.md5,
        modified_at=fingerprint.modified_at,
        format=fingerprint.format,
        provenance=sheet.provenance,
        warnings=[warning[:MAX_WARNING_CHARACTERS] for warning in sheet.warnings[:MAX_WARNINGS]],
        description=description.label if description is not None and product is not None else None,
        **sheet.values,
    )


@dataclass(kw_only=True, slots=True)
class _Sheet:
    """Values, sources and warnings while they are being collected."""

    values: dict[str, Any] = field(default_factory=dict)
    provenance: dict[str, str] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)

    def drop(self, names: Iterable[str], reason: str | None = None) -> None:
        """Take values back, with a warning when there is a `reason`."""
        for name in names:
            self.values.pop(name, None)
            self.provenance.pop(name, None)
        if reason is not None:
            self.warnings.append(reason)


def _fill(
    filled: FieldRules,
    material: Material,
    description: Description,
    sheet: _Sheet,
    field_type: Any,
    *,
    prefix: str = "",
) -> None:
    """Put the value of the first rule that gives a good one into `sheet`; `prefix` goes before names in messages."""
    name = filled.declaration.name
    spelled = prefix + name
    is_found = False
    for rule in filled.rules:
        try:
            found = rule.find(material)
            if found is None:
                continue
            is_found = True
            value, source = _interpret(rule, found, filled, material, description)
            sheet.values[name] = msgspec.convert(value, field_type)
        except (ConversionError, msgspec.ValidationError) as error:
            sheet.warnings.append(f"{spelled}: {error}")
            continue
        sheet.provenance[spelled] = source
        return
    if not is_found and any(rule.required for rule in filled.rules):
        sheet.warnings.append(f"{spelled}: nothing found, though the Description requires it")


def _interpret(
    rule: Rule, found: Found, filled: FieldRules, material: Material, description: Description
) -> tuple[Any, str]:
    """Return the value in the catalogue's terms, and the whole account of its source."""
    if rule.clock is not None:
        time, note = read_clock(description.clocks[rule.clock], found.value, found.unit, material.content)
        return time, f"{found.source} {note}"
    value = found.value
    if rule.words:
        value = _translate(value, rule.words)
    value = convert(value, found.unit, filled.declaration)
    if filled.declaration.name == "ra_deg":
        value = degrees_of_right_ascension(value)
    return value, found.source


def _translate(value: Any, words: Mapping[str, Any]) -> Any:
    word = str(value).strip()
    if word not in words:
        raise ConversionError(value, f"one of the known words {', '.join(words)}")
    return words[word]


def _settle(sheet: _Sheet) -> None:
    """Take back what does not make sense together: a record that contradicts itself would be rejected whole."""
    values = sheet.values
    begin, end = values.get("time_begin"), values.get("time_end")
    if end is not None and begin is None:
        sheet.drop(["time_end"], "time_end: dropped, there is no time_begin")
    elif end is not None and end < begin:
        sheet.drop(["time_begin", "time_end"], f"time_end: {end} is before time_begin {begin}, both dropped")
    if ("ra_deg" in values) != ("dec_deg" in values):
        sheet.drop(["ra_deg", "dec_deg"], "ra_deg, dec_deg: only one of them is known, dropped")
    low, high = values.get("energy_min_ev"), values.get("energy_max_ev")
    if low is not None and high is not None and high < low:
        sheet.drop(["energy_min_ev", "energy_max_ev"], f"energy_max_ev: {high} is below {low}, both dropped")
    if "ra_deg" not in values:
        sheet.drop(["position_basis"])
    if "energy_min_ev" not in values and "energy_max_ev" not in values:
        sheet.drop(["energy_basis"])


# ---------------------------------------------------------------------------------------------------- edge


@dataclass(frozen=True, kw_only=True, slots=True)
class Extractor:
    """Reads files of one storage for one facility; holds settings only, so it can be sent to another process."""

    root: Path
    facility: str
    storage: str
    description: Description | None = None
    header_only: bool = False
    """Read no columns and make no checksums."""
    max_unpacked_bytes: int = DEFAULT_MAX_UNPACKED_BYTES

    def extract(self, path: str) -> Outcome:
        """Return what came of the file at `path` below the root; never raises for what a file may hold."""
        try:
            with open_file(self.root, path) as stream:
                return self._read(stream, path)
        except FileRejectedError as error:
            return Outcome(path=path, failure=error.reason)
        except Exception as error:  # noqa: BLE001 - the top of the job: one file must not end the run
            return Outcome(path=path, failure=f"{type(error).__name__}: {error}")

    def extract_all(self, paths: Iterable[str]) -> list[Outcome]:
        """Return what came of each of `paths`, in their order."""
        return [self.extract(path) for path in paths]

    def without_description(self) -> "Extractor":
        """Return an extractor that opens files only to learn what the storage knows of them."""
        return replace(self, description=None)

    def _read(self, stream: BinaryIO, path: str) -> Outcome:
        before = os.fstat(stream.fileno())
        fingerprint = take_fingerprint(stream, path, checksums=not self.header_only)
        matched = None if self.description is None else self.description.find_product(path)
        product, groups = matched if matched is not None else (None, {})
        content, failure = self._read_content(stream, product)
        after = os.fstat(stream.fileno())
        if (before.st_size, before.st_mtime_ns) != (after.st_size, after.st_mtime_ns):
            raise FileRejectedError(path, "the file changed while it was read; extract it again when it is complete")
        identity = FileIdentity(facility=self.facility, storage=self.storage, path=path)
        if failure is not None:
            record = build_record(identity, fingerprint, oddities=[failure])
        else:
            record = build_record(
                identity,
                fingerprint,
                description=self.description,
                product=product,
                material=Material(groups=groups, content=content.values),
                oddities=[f"{address}: {reason}" for address, reason in content.oddities.items()],
            )
        return Outcome(path=path, record=record, is_matched=product is not None, failure=failure)

    def _read_content(self, stream: BinaryIO, product: Product | None) -> tuple[Content, str | None]:
        """Return the raw values, or none and why the content cannot be read."""
        if product is None or product.reader is None:
            return Content(), None
        limits = ReadLimits(header_only=self.header_only, max_unpacked_bytes=self.max_unpacked_bytes)
        stream.seek(0)
        try:
            return load_reader(product.reader).read(stream, product.addresses, limits=limits), None
        except ContentError as error:
            return Content(), f"content: {error}"
        except ExtractionError:
            raise
        except Exception as error:  # noqa: BLE001 - whatever a format's library makes of a damaged file
            return Content(), f"content: {type(error).__name__}: {error}"
