"""How an answer is cited: its address, and a text to put into a list of references.

The address names the question and a revision of the catalogue, which together say for ever which files are meant. The
text says the same to people; what only the reader knows, the day of access, is left open.
"""

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Any

from aggregator.controller import QuickResponse
from metadata_db.query import SearchQuery
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


def cite(response: QuickResponse, vocabulary: Vocabulary, at: datetime | None) -> str:
    """Return the text by which an answer that was counted exactly is cited.

    It names the facilities whose files the answer can hold, by their titles.

    Parameters
    ----------
    at
        When the answer's revision was made; None before the first change.
    """
    answer, summary = response.answer, response.summary
    asked = answer.query
    titles = {facility.name: facility.title or facility.name for facility in vocabulary.facilities}
    authors = [titles.get(name, name) for name in answer.revisions if not asked.facility or name in asked.facility]
    size = f"{summary.count} {'file' if summary.count == 1 else 'files'}, {summary.bytes} bytes"
    # To the microsecond: asked as of a time that is cut short, the revision would not be there yet.
    state = f"catalogue revision {answer.revision}" + ("" if at is None else f" of {_spell_moment(at)}")
    parts = [
        f"{'; '.join(authors) or 'Catchment'} ({'n.d.' if at is None else at.year})",
        f"{title(asked)} ({size})",
        f"Catchment, {state}",
        f"Checksum {summary.checksum}",
        cite_url(asked.query_id, answer.revision),
    ]
    return f"{'. '.join(parts)} (accessed [date])"


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
