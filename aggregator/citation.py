"""How an answer is cited: its address, and a text to put into a list of references.

The address names the question and a revision of the catalogue, which together say for ever which files are meant. The
text says the same to people; what only the reader knows, the day of access, is left open.
"""

import json
import re
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Any, Protocol

import msgspec

from metadata_db.query import SearchQuery
from metadata_db.records import Count
from metadata_db.vocabulary import Vocabulary

MAX_WORDS = 5
"""Most values of one filter that a title names; the address knows all of them."""

_SINGULAR: Mapping[str, str] = {"obs_id": "observation", "path": "path like"}


def query_url(query_id: str) -> str:
    """Return the address of a question, relative to this site: its answer as of now."""
    return f"/q/{query_id}"


def cite_url(query_id: str, revision: int) -> str:
    """Return the address of an answer, relative to this site."""
    return f"/q/{query_id}@{revision}"


class CitedAnswer(Protocol):
    """What is cited of an answer: its question, and what the catalogue was at."""

    @property
    def query(self) -> SearchQuery: ...  # noqa: D102

    @property
    def revisions(self) -> Mapping[str, int]: ...  # noqa: D102

    @property
    def revision(self) -> int: ...  # noqa: D102


class CitedSummary(Protocol):
    """What is cited of the files of an answer, counted exactly."""

    @property
    def count(self) -> int: ...  # noqa: D102

    @property
    def bytes(self) -> int: ...  # noqa: D102

    @property
    def checksum(self) -> str | None: ...  # noqa: D102


class CitedResponse(Protocol):
    """An answer with its summary."""

    @property
    def answer(self) -> CitedAnswer: ...  # noqa: D102

    @property
    def summary(self) -> CitedSummary: ...  # noqa: D102


class Citation(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that a citation says, for those who write lists of references in their own ways."""

    query_id: str
    authors: tuple[str, ...]
    """Titles of the facilities whose files the answer can hold."""
    title: str
    """What the question asks for, in words."""
    files: Count
    bytes: Count
    checksum: str
    revision: int
    """Revision of the catalogue."""
    at: datetime | None
    """When that was made; None before the first change."""

    @property
    def url(self) -> str:
        """Address of the answer, relative to the site that gave it."""
        return cite_url(self.query_id, self.revision)

    @property
    def text(self) -> str:
        """The citation in one line."""
        return f"{'. '.join(self._parts())} (accessed [date])"

    def _parts(self) -> list[str]:
        # To the microsecond: asked as of a time that is cut short, the revision would not be there yet.
        state = f"catalogue revision {self.revision}" + ("" if self.at is None else f" of {_spell_moment(self.at)}")
        return [
            f"{'; '.join(self.authors) or 'Catchment'} ({'n.d.' if self.at is None else self.at.year})",
            f"{self.title} ({self.size})",
            f"Catchment, {state}",
            f"Checksum {self.checksum}",
            self.url,
        ]

    @property
    def size(self) -> str:
        """How much it is, in words."""
        return f"{self.files} {'file' if self.files == 1 else 'files'}, {self.bytes} bytes"

    def as_bibtex(self) -> str:
        """Return the citation as an entry of BibTeX."""
        fields = {
            "author": " and ".join(f"{{{_for_tex(author)}}}" for author in self.authors or ("Catchment",)),
            "title": f"{{{_for_tex(self.title)}}}",
            "year": "n.d." if self.at is None else str(self.at.year),
            "publisher": "Catchment",
            "version": str(self.revision),
            "note": _for_tex(f"{self.size}, checksum {self.checksum}, {self.url}"),
        }
        lines = "".join(f"  {name} = {{{value}}},\n" for name, value in fields.items())
        return f"@misc{{catchment-{self.query_id[:12]}-{self.revision},\n{lines}}}\n"

    def as_cff(self) -> str:
        """Return the citation in the Citation File Format 1.2.0."""
        released = [] if self.at is None else [f"date-released: {_spell_moment(self.at)[:10]}"]
        lines = [
            "cff-version: 1.2.0",
            "message: Please cite these files as below, and their facilities as they ask for it.",
            "type: dataset",
            f"title: {_for_yaml(f'{self.title} ({self.size})')}",
            "authors:",
            *(f"  - name: {_for_yaml(author)}" for author in self.authors or ("Catchment",)),
            f"version: {_for_yaml(str(self.revision))}",
            *released,
            "identifiers:",
            f"  - type: other\n    value: {_for_yaml(self.url)}\n    description: Address of the answer at its service",
            f"  - type: other\n    value: {_for_yaml(self.checksum)}\n    description: Checksum of the set of files",
        ]
        return "\n".join(lines) + "\n"


def make_citation(
    asked: SearchQuery,
    revisions: Mapping[str, int],
    vocabulary: Vocabulary,
    *,
    files: int,
    bytes: int,
    checksum: str,
    revision: int,
    at: datetime | None,
) -> Citation:
    """Return how an answer that was counted exactly is cited.

    It names the facilities whose files the answer can hold, by their titles.

    Parameters
    ----------
    revisions, revision
        What the facilities, and the catalogue, were at.
    at
        When the answer's revision was made; None before the first change.
    """
    titles = {facility.name: facility.title or facility.name for facility in vocabulary.facilities}
    return Citation(
        query_id=asked.query_id,
        authors=tuple(titles.get(name, name) for name in cited_facilities(asked, revisions)),
        title=title(asked),
        files=files,
        bytes=bytes,
        checksum=checksum,
        revision=revision,
        at=at,
    )


def cited_facilities(asked: SearchQuery, revisions: Mapping[str, int]) -> list[str]:
    """Return the names of the facilities whose files an answer can hold."""
    return [name for name in sorted(revisions) if not asked.facility or name in asked.facility]


def cite(response: CitedResponse, vocabulary: Vocabulary, at: datetime | None) -> str:
    """Return the text by which an answer that was counted exactly is cited; `at` is when its revision was made."""
    answer, summary = response.answer, response.summary
    return make_citation(
        answer.query,
        answer.revisions,
        vocabulary,
        files=summary.count,
        bytes=summary.bytes,
        checksum=summary.checksum or "",
        revision=answer.revision,
        at=at,
    ).text


def title(asked: SearchQuery) -> str:
    """Return what a question asks for, in words."""
    words = "; ".join(_describe(asked.as_mapping()))
    return f"Files with {words}" if words else "All files"


def _describe(canonical: Mapping[str, Any]) -> list[str]:
    return [_describe_one(name, value) for name, value in canonical.items()]


def _describe_one(name: str, value: Any) -> str:
    match name:
        case "is_simulation":
            return "simulated events" if value else "measured events"
        case "time":
            return f"time {_spell_range(value.get('begin'), value.get('end'), _spell_time, to='before')}"
        case "run":
            return f"run {_any_of(_spell_run(item) for item in value)}"
        case "energy":
            return f"energy {_spell_range(value.get('min_ev'), value.get('max_ev'), lambda ev: f'{ev:g} eV')}"
        case "cone":
            return f"position within {value['radius_deg']:g}° of RA {value['ra_deg']:g}°, Dec {value['dec_deg']:g}°"
        case "attributes":
            return "; ".join(_spell_attribute(item) for item in value)
        case "coincidence":
            return _spell_coincidence(value)
        case _:
            return f"{_SINGULAR.get(name, name)} {_any_of(value)}"


def _any_of(values: Iterable[Any]) -> str:
    # White space within a value is data, but a line of a list of references it must not break.
    words = [" ".join(str(value).split()) for value in values]
    if len(words) > MAX_WORDS:
        words = [*words[:MAX_WORDS], f"{len(words) - MAX_WORDS} more"]
    return " or ".join(words)


def _spell_range(low: Any, high: Any, spell: Any, *, to: str = "to") -> str:
    parts = [] if low is None else [f"from {spell(low)}"]
    if high is not None:
        parts.append(f"{'up to' if low is None and to == 'to' else to} {spell(high)}")
    return " ".join(parts)


def _spell_time(text: str) -> str:
    day, _, rest = text.partition("T")
    if rest == "00:00:00.000000Z":
        return day
    return f"{day}T{rest.removesuffix('.000000Z')}{'Z' if rest.endswith('.000000Z') else ''}"


def _spell_moment(moment: datetime) -> str:
    return f"{moment.astimezone(UTC).replace(tzinfo=None).isoformat(timespec='microseconds')}Z"


def _spell_run(run: Mapping[str, int]) -> str:
    return str(run["first"]) if run["first"] == run["last"] else f"{run['first']} to {run['last']}"


def _spell_attribute(wanted: Mapping[str, Any]) -> str:
    if "values" in wanted:
        return f"{wanted['name']} {_any_of(wanted['values'])}"
    return f"{wanted['name']} {_spell_range(wanted.get('minimum'), wanted.get('maximum'), '{:g}'.format)}"


def _spell_coincidence(wanted: Mapping[str, Any]) -> str:
    near = f"{wanted['within_s']:g} s" + (f" and {wanted['within_deg']:g}°" if "within_deg" in wanted else "")
    if "files" in wanted:
        return f"other files within {near}: {', '.join(_describe(wanted['files']))}"
    if "alert_list" in wanted:
        return f"alerts of the list {wanted['alert_list'][:12]}… within {near}"
    count = len(wanted["alerts"])
    return f"{count} {'alert' if count == 1 else 'alerts'} within {near}"


# --- how formats of others are written --------------------------------------------------------------------------------

_TEX = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    **{character: f"\\{character}" for character in "{}$&#%_"},
}


def _for_tex(text: str) -> str:
    return re.sub(r"[\\~^{}$&#%_]", lambda found: _TEX[found[0]], text)


def _for_yaml(text: str) -> str:
    """Return a scalar in double quotes; what JSON writes is YAML too."""
    return json.dumps(text)
