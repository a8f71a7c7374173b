"""A snapshot of the vocabulary: names and their numbers. Apart from the store, for processes that only read lines."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from functools import cached_property

import msgspec

from metadata_db.errors import BadInputError
from metadata_db.records import Attribute, Authority, Facility, Storage


@dataclass(frozen=True)
class Names:
    """Two-way map between the numbers in `file` rows and names; one name may belong to several facilities."""

    names: Mapping[int, str]
    """Number → name."""
    facilities: Mapping[int, int] = field(default_factory=dict)
    """Number → number of its facility; empty for what belongs to none."""

    @cached_property
    def ids(self) -> Mapping[str, tuple[int, ...]]:
        """Name → all numbers that bear it."""
        found: dict[str, tuple[int, ...]] = {}
        for number, name in self.names.items():
            found[name] = (*found.get(name, ()), number)
        return found

    @cached_property
    def in_facility(self) -> Mapping[tuple[int, str], int]:
        """(number of the facility, name) → number."""
        return {(self.facilities[number], name): number for number, name in self.names.items()}


@dataclass(frozen=True)
class Vocabulary:
    """A snapshot of all names and declarations."""

    facility: Names
    cluster: Names
    detector: Names
    channel: Names
    storage: Names
    facilities: Sequence[Facility]
    authorities: Sequence[Authority]
    storages: Mapping[int, Storage]
    revisions: Mapping[str, int]
    """Revision of each facility when this was read."""
    longest: Mapping[int, timedelta]
    """Number of a facility → length of its longest file up to a day, never too short for the revisions above."""
    indexed: frozenset[str] = frozenset()
    """Attributes that have an index of their own."""

    @cached_property
    def attributes(self) -> Mapping[int, Mapping[str, Attribute]]:
        """Number of a facility → its declared attributes by name."""
        return {
            self.facility.ids[facility.name][0]: {attribute.name: attribute for attribute in facility.attributes}
            for facility in self.facilities
        }

    @cached_property
    def digest(self) -> str:
        """Digest of all names and declarations, which stays as long as they do; revisions are not in it."""
        content = msgspec.json.encode([self.facilities, self.authorities, list(self.storages.values())])
        return hashlib.blake2b(content, digest_size=16).hexdigest()

    @cached_property
    def homes(self) -> Mapping[tuple[str, str], tuple[int, int]]:
        """(facility, storage that its files may be on) → their numbers."""
        return {
            (name, storage.name): (facility_id, storage_id)
            for facility_id, name in self.facility.names.items()
            for storage_id, storage in self.storages.items()
            if storage.facility in (None, name)
        }

    def require(self, kind: str, name: str, values: Sequence[str]) -> None:
        """Check that all `values` are known names of `kind` (``facility``, ``cluster`` …).

        Raises
        ------
        BadInputError
            Naming `name`, the first unknown value, and what is known.
        """
        known = getattr(self, kind).ids
        for value in values:
            if value not in known:
                raise BadInputError(
                    name, value, f"one of the known names: {', '.join(sorted(known)[:30]) or 'none yet'}"
                )
