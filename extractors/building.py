"""Builds the record of one file: what the storage knows, and what the rules of a product make of the content.

Pure: a Description, a fingerprint and raw values in, a record out, with the source of each value and a warning for
each that was odd.
"""

import glob
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import lru_cache
from typing import Any

import msgspec

from extractors.clocks import check_window, read_clock
from extractors.conversions import convert, degrees_of_right_ascension
from extractors.description import Description, FieldRules, Product, RelationTemplate
from extractors.errors import ConversionError
from extractors.joins import expand
from extractors.rules import ConstantRule, Found, LeastRule, Material, Rule
from extractors.storages.fingerprint import Fingerprint
from metadata_db.records import AttributeValue, FileRecord, Relation

MAX_WARNINGS = 100
"""As many as a record holds; a file with more oddities than that is told by the first."""

MAX_WARNING_CHARACTERS = 1000
"""Longest single warning."""

MAX_RELATIONS = 16
"""As many as a record holds."""

# What a bare type means, msgspec finds out for each value anew; of a struct, even of one field, it knows.
_FIELD_CHECKS: Mapping[str, type[msgspec.Struct]] = {
    info.name: msgspec.defstruct(info.name, [("value", info.type)]) for info in msgspec.structs.fields(FileRecord)
}
_ATTRIBUTE_CHECK = msgspec.defstruct("attribute", [("value", AttributeValue)])
_CHECKSUMS = ("md5", "sha256")
_NUMBERS = (bool, int, float)
_UNSPEAKABLE = re.compile("[\0\ud800-\udfff]")


@dataclass(frozen=True, kw_only=True, slots=True)
class FileIdentity:
    """Where a file belongs: its key in the catalogue."""

    facility: str
    storage: str
    path: str


def build_record(
    identity: FileIdentity,
    fingerprint: Fingerprint,
    *,
    description: Description | None = None,
    product: Product | None = None,
    material: Material | None = None,
    processing: str | None = None,
    oddities: Iterable[str] = (),
) -> FileRecord:
    """Return the record of one file: the storage's facts, and what the rules of its product make of `material`.

    A value that cannot be converted or does not fit its field is left out and told in the record's warnings, as are
    the `oddities` that were met before.

    Parameters
    ----------
    processing
        Name of the reprocessing that made the file; goes before what the Description says, and relates the file to
        the original.
    """
    sheet = _Sheet(warnings=list(oddities))
    relations: list[Relation] = []
    if description is not None and product is not None:
        material = material or Material()
        for filled in product.fields:
            _fill(filled, material, description, sheet, _FIELD_CHECKS[filled.declaration.name])
        if processing is not None:
            sheet.values["processing"], sheet.provenance["processing"] = processing, "named by the caller"
        _settle(sheet)
        _compare_checksums(sheet, fingerprint)
        attributes = _Sheet(warnings=sheet.warnings, provenance=sheet.provenance)
        for filled in product.attributes:
            _fill(filled, material, description, attributes, _ATTRIBUTE_CHECK, prefix="attributes.")
        sheet.values["attributes"] = attributes.values
        relations = _relate(product.relations, identity.path, material, sheet)
    elif processing is not None:
        sheet.values["processing"] = processing
    if processing is not None:
        relations.append(_original(relations, identity, sheet))
    facts = {"md5": fingerprint.md5, "sha256": fingerprint.sha256, "format": fingerprint.format}
    return FileRecord(
        facility=identity.facility,
        storage=identity.storage,
        path=identity.path,
        size_bytes=fingerprint.size_bytes,
        modified_at=fingerprint.modified_at,
        relations=list(dict.fromkeys(relations))[:MAX_RELATIONS],
        provenance={
            name: source if source.isprintable() else _speakable(source) for name, source in sheet.provenance.items()
        },
        warnings=[_speakable(warning)[:MAX_WARNING_CHARACTERS] for warning in sheet.warnings[:MAX_WARNINGS]],
        description=None if description is None else description.label,
        **facts | sheet.values,
    )


def _speakable(text: str) -> str:
    """Return `text` with what the catalogue cannot hold as escapes."""
    return _UNSPEAKABLE.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


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
    check: type[msgspec.Struct],
    *,
    prefix: str = "",
) -> None:
    """Put the value of the first rule that gives a good one into `sheet`; `prefix` goes before names in messages."""
    name = filled.declaration.name
    spelled = prefix + name
    constant = _find_constant(filled, check)
    if constant is not None:
        sheet.values[name], sheet.provenance[spelled] = constant
        return
    is_found = False
    for rule in filled.rules:
        try:
            candidates = rule.find_all(material)
            if not candidates:
                continue
            is_found = True
            value, source = _interpret(rule, candidates[0], filled, material, description)
            for found in candidates[1:]:
                other = _interpret(rule, found, filled, material, description)
                value, source = _choose(rule, [(value, source), other])
            if prefix and isinstance(value, datetime):
                value = value.isoformat().replace("+00:00", "Z")
            sheet.values[name] = _checked(value, check)
        except (ConversionError, msgspec.ValidationError) as error:
            sheet.warnings.append(f"{spelled}: {error}")
            continue
        sheet.provenance[spelled] = source
        return
    if not is_found and any(rule.required for rule in filled.rules):
        sheet.warnings.append(f"{spelled}: nothing found, though the Description requires it")


@lru_cache(maxsize=4096)
def _find_constant(filled: FieldRules, check: type[msgspec.Struct]) -> tuple[Any, str] | None:
    """Return value and source of a field that is the same for every file; None when that needs a closer look."""
    rule = filled.rules[0]
    if not isinstance(rule, ConstantRule) or rule != ConstantRule(constant=rule.constant):
        return None
    found = rule.find(Material())
    try:
        value = convert(rule.constant, None, filled.declaration)
        _check_speakable(value)
        return None if found is None else (_checked(value, check), found.source)
    except (ConversionError, msgspec.ValidationError):
        return None


def _checked(value: Any, check: type[msgspec.Struct]) -> Any:
    try:
        checked: Any = msgspec.convert({"value": value}, check)
    except msgspec.ValidationError as error:
        raise msgspec.ValidationError(str(error).partition(" - at ")[0]) from error
    return checked.value


def _choose(rule: Rule, values: list[tuple[Any, str]]) -> tuple[Any, str]:
    choose = min if isinstance(rule, LeastRule) else max
    return choose(values, key=lambda item: item[0])


def _interpret(
    rule: Rule, found: Found, filled: FieldRules, material: Material, description: Description
) -> tuple[Any, str]:
    """Return the value in the catalogue's terms, and the whole account of its source."""
    if rule.valid:
        rule.check_bounds(found.value)
    units: Sequence[str | None] = found.units
    if description.units:
        units = [None if unit is None else description.units.get(unit, unit) for unit in units]
    if rule.clock is not None:
        time, note = read_clock(description.clocks[rule.clock], found.value, units, material.stated)
        return check_window(time, description.valid_begin, description.valid_end), f"{found.source} {note}"
    value = found.value
    if rule.words:
        value = _translate(value, rule.words)
    value = convert(value, units[0], filled.declaration)
    if not isinstance(value, _NUMBERS) and not (isinstance(value, str) and value.isprintable()):
        _check_speakable(value)
    if filled.declaration.name == "ra_deg":
        value = degrees_of_right_ascension(value)
    return value, found.source


def _check_speakable(value: Any) -> None:
    for text in value if isinstance(value, list) else (value,):
        if isinstance(text, str) and _UNSPEAKABLE.search(text):
            raise ConversionError(value, "text without NUL and halves of surrogate pairs, which no catalogue holds")


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


def _compare_checksums(sheet: _Sheet, fingerprint: Fingerprint) -> None:
    """Let what was computed count before what a sidecar states, and say so when they differ."""
    for name in _CHECKSUMS:
        stated, computed = sheet.values.get(name), getattr(fingerprint, name)
        if stated is None or computed is None:
            continue
        sheet.drop([name], None if stated == computed else f"{name}: stated is {stated}, but the bytes have {computed}")


def _relate(templates: Iterable[RelationTemplate], path: str, material: Material, sheet: _Sheet) -> list[Relation]:
    relations = []
    for template in templates:
        try:
            target = None if template.path is None else expand(template.path, path, material.groups)
            found = None if template.obs_id is None else template.obs_id.find_all(material)
            if target or found:
                obs_id = str(found[0].value) if found else None
                _check_speakable(obs_id)
                relations.append(Relation(kind=template.kind, storage=template.storage, path=target, obs_id=obs_id))
        except (ConversionError, msgspec.ValidationError, ValueError) as error:
            sheet.warnings.append(f"relation {template.kind}: {error}")
    return relations


def _original(relations: Iterable[Relation], identity: FileIdentity, sheet: _Sheet) -> Relation:
    """Return the relation of a reprocessed file to its original: as described, by its observation, or by its name."""
    for relation in relations:
        if relation.kind == "reprocessing_of":
            return relation
    if "obs_id" in sheet.values:
        return Relation(kind="reprocessing_of", obs_id=sheet.values["obs_id"])
    return Relation(kind="reprocessing_of", path=f"**/{glob.escape(identity.path.rpartition('/')[2])}")


def holds(rule: Rule, material: Material) -> bool:
    """Tell whether a condition finds a value that counts."""
    try:
        for found in rule.find_all(material):
            rule.check_bounds(found.value)
            if not rule.words or str(found.value).strip() in rule.words:
                return True
    except ConversionError:
        pass
    return False
