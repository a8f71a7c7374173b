"""What travels between extractors and catalogue: one frozen record per vocabulary word.

The records are msgspec structs: they are decoded, checked and encoded in C, which is what lets the ingest API
take tens of thousands of files a second. Beyond msgspec this module needs the standard library only, so that an
extractor at an experiment stays light.
"""

import re
from collections.abc import Mapping
from datetime import datetime
from typing import Annotated, Literal, TypeAlias

from msgspec import Meta, Struct, field

MAX_PATH_CHARACTERS = 1024
"""Longest catalogued path; beyond it archives and file systems begin to disagree (components: 255 bytes)."""

MAX_COMPONENT_BYTES = 255
"""Longest name of one folder or file that Linux file systems hold."""

_BIGINT_MAX = 2**63 - 1

Name: TypeAlias = Annotated[
    str,
    Meta(
        pattern=r"^[A-Za-z0-9][A-Za-z0-9._+-]{0,63}\Z",
        description="1 to 64 letters, digits and . _ + -, the first a letter or digit",
    ),
]
"""Key of a vocabulary entry: stable, safe in addresses and in file names."""

Word: TypeAlias = Annotated[str, Meta(min_length=1, max_length=256)]
Text: TypeAlias = Annotated[str, Meta(max_length=4096)]
Sha256: TypeAlias = Annotated[str, Meta(pattern=r"^[0-9a-f]{64}\Z")]
Md5: TypeAlias = Annotated[str, Meta(pattern=r"^[0-9a-f]{32}\Z")]
Utc: TypeAlias = Annotated[datetime, Meta(tz=True)]
Count: TypeAlias = Annotated[int, Meta(ge=0, le=_BIGINT_MAX)]
RightAscension: TypeAlias = Annotated[float, Meta(ge=0, lt=360)]
Declination: TypeAlias = Annotated[float, Meta(ge=-90, le=90)]
EnergyEv: TypeAlias = Annotated[float, Meta(ge=0, le=1e30)]
AttributeValue: TypeAlias = bool | int | float | Text | list[bool | int | float | Text]
AttributeType: TypeAlias = Literal["boolean", "integer", "number", "text", "time", "list"]
RelationKind: TypeAlias = Literal["sidecar_of", "index_of", "irf_for", "reprocessing_of"]
FailureStage: TypeAlias = Literal["extraction", "ingest"]


class PathError(ValueError):
    """A path that no storage may deliver; the message says what is wrong with it."""


_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_PLAIN_PART = r"(?!\.\.?(?:/|\Z))[^/\x00-\x1f\x7f]{1,63}"
PLAIN_PATH = re.compile(rf"{_PLAIN_PART}(?:/{_PLAIN_PART})*")
"""Nearly all good paths, and none that is not good if it has at most `MAX_PATH_CHARACTERS`."""


def check_path(path: str) -> str:
    """Return `path` when it is a plain relative path below a storage.

    Raises
    ------
    PathError
        The path is empty, absolute, too long, climbs with ``..``, has empty or ``.`` parts, or holds NUL or other
        control characters.
    """
    if len(path) <= MAX_PATH_CHARACTERS and PLAIN_PATH.fullmatch(path):
        return path  # nearly all of them, at a fifth of the time of the questions below
    if not path:
        raise PathError("path is empty")
    if len(path) > MAX_PATH_CHARACTERS:
        raise PathError(f"path has {len(path)} characters, at most {MAX_PATH_CHARACTERS} are allowed")
    if path[0] == "/":
        raise PathError("path is absolute, expected one below the storage's root")
    if _CONTROL.search(path):
        raise PathError("path holds a control character")
    for part in path.split("/"):
        if part in ("", ".", ".."):
            raise PathError(f"path has a part {part!r}")
        if len(part) > 63 and len(part.encode()) > MAX_COMPONENT_BYTES:
            raise PathError(f"path has a part of more than {MAX_COMPONENT_BYTES} bytes")
    return path


class _Record(Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """Common behaviour of all records: immutable, unknown fields refused.

    `kw_only` is not inherited by msgspec structs, so every record names it itself.
    """


def _check_time(name: str, moment: datetime | None) -> None:
    # An offset can carry a time out of the years that Python can read back from the database.
    if moment is not None and not 1 < moment.year < 9999:
        raise ValueError(f"{name} is not in the years 2 to 9998")


class Replica(_Record, frozen=True, kw_only=True):
    """A further place where the same bytes can be had."""

    storage: Name
    path: str

    def __post_init__(self) -> None:
        check_path(self.path)


class Relation(_Record, frozen=True, kw_only=True):
    """What a file is to others: the sidecar of one, the index of a folder, the response for some, made anew from one.

    The others are named, not looked up: they may be catalogued later, or never.
    """

    kind: RelationKind
    path: Annotated[str, Meta(min_length=1, max_length=MAX_PATH_CHARACTERS)] | None = None
    """Path of the other files, or a pattern with ``*``, ``**``, ``?`` and ``[abc]`` as in the filter of paths."""
    obs_id: Word | None = None
    """Observation id of the other files; with `path` too, both must hold."""
    storage: Name | None = None
    """Storage of the other files; None means the file's own."""

    def __post_init__(self) -> None:
        if self.path is None and self.obs_id is None:
            raise ValueError("a relation needs a path or an obs_id of what it is to")
        if self.path is not None and (self.path[0] == "/" or _CONTROL.search(self.path)):
            raise ValueError("the path of a relation is absolute or holds a control character")


class FileRecord(_Record, frozen=True, kw_only=True):
    """One file: what its storage knows, and what its content says. Absent means unknown, never zero.

    Times are UTC, intervals half-open; angles ICRS degrees; energies electronvolt.
    """

    facility: Name
    storage: Name
    path: str
    """Relative to the storage's root, with ``/`` between the parts."""
    size_bytes: Count
    sha256: Sha256 | None = None
    md5: Md5 | None = None
    modified_at: Utc | None = None
    """When the storage says the file was last written."""

    format: Word | None = None
    """Format of the stored bytes: ``fits``, ``fits+gzip``, ``hdf5`` …"""
    kind: Word | None = None
    """What the file holds: ``events``, ``index``, ``irf``, ``strain`` …"""
    level: Word | None = None
    """Data level in the facility's own words (``DL3``, ``raw`` …)."""
    cluster: Name | None = None
    detector: Name | None = None
    channel: Name | None = None
    time_begin: Utc | None = None
    time_end: Utc | None = None
    obs_id: Word | None = None
    """Observation id, verbatim from the content; text, because some have more than 32 bits."""
    run: Annotated[int, Meta(ge=-_BIGINT_MAX, le=_BIGINT_MAX)] | None = None
    ra_deg: RightAscension | None = None
    dec_deg: Declination | None = None
    position_basis: Word | None = None
    """What the position is of: ``pointing``, ``object``, ``event``, ``map centre``."""
    energy_min_ev: EnergyEv | None = None
    energy_max_ev: EnergyEv | None = None
    energy_basis: Word | None = None
    """What the energy range is of, such as ``EVENTS.ENERGY``."""
    object: Word | None = None
    """Name of the observed object, verbatim."""
    n_events: Count | None = None
    is_simulation: bool | None = None
    processing: Word | None = None
    quality: Word | None = None
    conditions: Word | None = None
    """Observing conditions, such as the weather, in the facility's words."""
    licence: Word | None = None
    attributes: dict[str, AttributeValue] = field(default_factory=dict)
    """Facility-specific values; every key is declared by the facility with type, unit and meaning."""

    provenance: dict[str, Text] = field(default_factory=dict)
    """Where each value came from: field → source, such as ``content EVENTS.TSTART [s, TT]``."""
    warnings: Annotated[list[Text], Meta(max_length=100)] = field(default_factory=list)
    """What was odd about the values."""
    description: Word | None = None
    """Name, version and digest of the Description by which the file was read, or found to be none of its products."""
    replicas: Annotated[list[Replica], Meta(max_length=16)] = field(default_factory=list)
    relations: Annotated[list[Relation], Meta(max_length=16)] = field(default_factory=list)
    """What the file is to others."""

    def __post_init__(self) -> None:
        check_path(self.path)
        for name in ("modified_at", "time_begin", "time_end"):
            _check_time(name, getattr(self, name))
        if self.time_end is not None and (self.time_begin is None or self.time_end < self.time_begin):
            raise ValueError("time_end is given without an earlier time_begin")
        if (self.ra_deg is None) != (self.dec_deg is None):
            raise ValueError("ra_deg and dec_deg only make sense together")
        low, high = self.energy_min_ev, self.energy_max_ev
        if low is not None and high is not None and high < low:
            raise ValueError("energy_max_ev is below energy_min_ev")
        if self.replicas and self.sha256 is None:
            raise ValueError("replicas need a sha256, which says that they are the same bytes")


class Removal(_Record, frozen=True, kw_only=True):
    """A file that is no longer on its storage.

    With `size_bytes` and `modified_at` as the catalogue told them, only that version is removed: a file that came
    back, and was catalogued anew, while a slow scan still held it for gone, stays.
    """

    facility: Name
    storage: Name
    path: str
    size_bytes: Count | None = None
    """Size of the version that was missed; None removes whichever version there is."""
    modified_at: Utc | None = None
    """Time of modification of the version that was missed, None if the catalogue told none; counts with a size only."""

    def __post_init__(self) -> None:
        check_path(self.path)
        _check_time("modified_at", self.modified_at)
        if self.modified_at is not None and self.size_bytes is None:
            raise ValueError("modified_at is given without size_bytes")


class Failure(_Record, frozen=True, kw_only=True):
    """A file that could not be read, and why."""

    facility: Name
    storage: Name
    path: Annotated[str, Meta(min_length=1, max_length=4096)]
    """As far as it can be told: a name that no catalogue may hold is a reason to fail."""
    reason: Annotated[str, Meta(min_length=1, max_length=4096)]


class Authority(_Record, frozen=True, kw_only=True):
    """Who decides about access to a facility's data, their licence and terms."""

    name: Name
    title: Word | None = None
    contact: Text | None = None
    licence: Word | None = None
    terms: Text | None = None
    """Address or text of the terms of use."""


class Cluster(_Record, frozen=True, kw_only=True):
    """A station or group of detectors of a facility."""

    name: Name
    title: Word | None = None
    latitude_deg: Annotated[float, Meta(ge=-90, le=90)] | None = None
    longitude_deg: Annotated[float, Meta(ge=-180, le=360)] | None = None
    altitude_m: float | None = None


class Detector(_Record, frozen=True, kw_only=True):
    """One instrument of a facility, such as a telescope."""

    name: Name
    title: Word | None = None
    cluster: Name | None = None
    kind: Word | None = None
    """Type of detector: ``imaging air Cherenkov telescope``, ``interferometer`` …"""


class Channel(_Record, frozen=True, kw_only=True):
    """A stream of files that a detector or facility writes."""

    name: Name
    title: Word | None = None
    detector: Name | None = None


class Attribute(_Record, frozen=True, kw_only=True):
    """Declaration of one facility-specific value."""

    name: Annotated[str, Meta(pattern=r"^[A-Za-z][A-Za-z0-9_]{0,63}\Z")]
    type: AttributeType
    unit: Word | None = None
    meaning: Text | None = None


class Facility(_Record, frozen=True, kw_only=True):
    """An experiment or observatory, with everything that belongs to it."""

    name: Name
    title: Word | None = None
    place: Word | None = None
    latitude_deg: Annotated[float, Meta(ge=-90, le=90)] | None = None
    longitude_deg: Annotated[float, Meta(ge=-180, le=360)] | None = None
    altitude_m: float | None = None
    url: Text | None = None
    authority: Name | None = None
    clusters: list[Cluster] = field(default_factory=list)
    detectors: list[Detector] = field(default_factory=list)
    channels: list[Channel] = field(default_factory=list)
    attributes: list[Attribute] = field(default_factory=list)


class Storage(_Record, frozen=True, kw_only=True):
    """A read-only place where bytes live."""

    name: Name
    kind: Literal["local", "remote"] = "local"
    """``local``: a tree of the local or a mounted file system (CernVM-FS, NFS, EOS); ``remote``: one at a server."""
    root: Annotated[str, Meta(min_length=1, max_length=1024)]
    """Absolute path of the tree on the hosts of the workers, or its address, without a user or a password in it."""
    title: Word | None = None
    facility: Name | None = None
    """The only facility whose files are there; None when several share it."""
    enabled: bool = True


# --- what the catalogue tells -----------------------------------------------------------------------------------


class _Told(Struct, frozen=True, omit_defaults=True):
    """Common behaviour of what the catalogue tells: nulls are left out, fields of a newer catalogue passed over."""


class KnownFile(_Told, frozen=True, kw_only=True):
    """What the catalogue knows of a file, for the eyes of a scan: enough to tell whether it changed."""

    path: str
    size_bytes: int
    facility: str
    modified_at: Utc | None = None
    sha256: str | None = None
    checked_at: Utc | None = None
    """When the content was last read and had this `sha256`, to an hour; None without one."""
    description: str | None = None
    """Name, version and digest of the Description that read it; None if its content was not read."""


class DeadLetter(_Told, frozen=True, kw_only=True):
    """A file or record that failed, kept until it succeeds or somebody dismisses it."""

    id: int
    stage: FailureStage
    """``extraction``: the file could not be read. ``ingest``: its record was rejected."""
    reason: str
    tries: int
    """How often it has failed."""
    first_at: Utc
    last_at: Utc
    facility: str | None = None
    """Whose it is; None if that cannot be told."""
    storage: str | None = None
    path: str | None = None
    field: str | None = None
    """The field of the record at fault."""
    line: str | None = None
    """The record as it was sent, if it is not too long."""


FIELD_EXPECTATIONS: Mapping[str, str] = {
    "facility": "the name of a registered facility",
    "storage": "the name of a registered storage",
    "path": "a relative path of at most 1024 characters without '..', empty parts or control characters",
    "sha256": "64 lower-case hexadecimal digits",
    "md5": "32 lower-case hexadecimal digits",
    "time_begin": "a time with offset such as 2019-11-02T18:04:00Z",
    "time_end": "a time with offset, not before time_begin",
}
"""What was expected, for errors, where the type alone does not say it."""


class AlertListReport(_Told, frozen=True, kw_only=True):
    """What became of an uploaded list of alerts."""

    id: str
    """64 hexadecimal digits; equal lists have equal ids."""
    alerts: int
    """How many different ones there are."""
