"""Whether a request wants what there is: the headers If-…, as pure functions.

Notes
-----
RFC 9110, sections 8.8 (validators) and 13 (conditional requests). What no header can be understood from is no match:
a list of entity tags that is none matches nothing, a date that is none is ignored.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import format_datetime
from enum import Enum

_TAG = re.compile(r'(W/)?("[\x21\x23-\x7e\x80-\xff]*")')
_LIST = re.compile(rf"[ \t,]*{_TAG.pattern}(?:[ \t]*,[ \t,]*{_TAG.pattern})*[ \t,]*")
_DAY, _MONTH = "(?:Mon|Tue|Wed|Thu|Fri|Sat|Sun)", "Jan|Feb|Mar|Apr|May|Jun|Jul|Aug|Sep|Oct|Nov|Dec"
_CLOCK = r"(?P<hour>\d\d):(?P<minute>\d\d):(?P<second>\d\d)"
_DATES = (
    re.compile(rf"{_DAY}, (?P<day>\d\d) (?P<month>{_MONTH}) (?P<year>\d{{4}}) {_CLOCK} GMT", re.ASCII),
    re.compile(rf"[A-Z][a-z]{{5,8}}, (?P<day>\d\d)-(?P<month>{_MONTH})-(?P<short>\d\d) {_CLOCK} GMT", re.ASCII),
    re.compile(rf"{_DAY} (?P<month>{_MONTH}) (?P<day>[ \d]\d) {_CLOCK} (?P<year>\d{{4}})", re.ASCII),
)
"""The three forms of section 5.6.7: one to write, two more to read."""


class Verdict(Enum):
    """What the conditions of a request come to."""

    SEND = "send"
    NOT_MODIFIED = "not modified"
    FAILED = "failed"


@dataclass(frozen=True, kw_only=True, slots=True)
class Validators:
    """By what a representation is told from an earlier one."""

    etag: str
    """Strong entity tag, with its quotes."""
    modified_at: datetime | None = None
    """When it last became another one, at most so exact as a second; None if that is not known."""

    @property
    def last_modified(self) -> str | None:
        """The date as it is sent."""
        return None if self.modified_at is None else format_datetime(self.modified_at.astimezone(UTC), usegmt=True)


def evaluate(headers: Mapping[str, str], current: Validators) -> Verdict:
    """Return what If-Match, If-Unmodified-Since, If-None-Match and If-Modified-Since of a GET or HEAD come to.

    Parameters
    ----------
    headers
        By names in small letters; of a header that came several times, its values joined by commas.
    """
    if "if-match" in headers:
        if not _is_listed(headers["if-match"], current.etag, weak=False):
            return Verdict.FAILED
    elif (since := _date_of(headers, "if-unmodified-since", current)) is not None and _is_newer(current, since):
        return Verdict.FAILED
    if "if-none-match" in headers:
        if _is_listed(headers["if-none-match"], current.etag, weak=True):
            return Verdict.NOT_MODIFIED
    elif (since := _date_of(headers, "if-modified-since", current)) is not None and not _is_newer(current, since):
        return Verdict.NOT_MODIFIED
    return Verdict.SEND


def allows_range(if_range: str | None, current: Validators) -> bool:
    """Tell whether a part is wanted under If-Range: only if its beginning is of the same bytes."""
    if if_range is None:
        return True
    value = if_range.strip(" \t")
    if value.startswith(('"', "W/")):
        return value == current.etag
    # Exactly this date: contents never change twice in a second here, so it is a strong validator (8.8.2.2).
    return current.modified_at is not None and parse_date(value) == current.modified_at


def parse_date(text: str) -> datetime | None:
    """Return a date of a header; None if it is none."""
    match = next((found for form in _DATES if (found := form.fullmatch(text.strip(" \t"))) is not None), None)
    if match is None:
        return None
    parts = match.groupdict()
    year = int(parts["year"]) if parts.get("year") else _year_of(int(parts["short"]))
    month = 1 + _MONTH.split("|").index(parts["month"])
    clock = (int(parts["hour"]), int(parts["minute"]), min(int(parts["second"]), 59))  # 60: a leap second
    try:
        return datetime(year, month, int(parts["day"]), *clock, tzinfo=UTC)
    except ValueError:
        return None


def _year_of(two_digits: int) -> int:
    """Return the year that two digits mean: not more than 50 years ahead."""
    now = datetime.now(UTC).year
    year = now - now % 100 + two_digits
    return year - 100 if year > now + 50 else year


def _is_listed(header: str, etag: str, *, weak: bool) -> bool:
    """Tell whether a list of entity tags holds `etag`, by weak or strong comparison."""
    if header.strip(" \t") == "*":
        return True
    if _LIST.fullmatch(header) is None:
        return False
    return any(match[2] == etag and (weak or not match[1]) for match in _TAG.finditer(header))


def _date_of(headers: Mapping[str, str], name: str, current: Validators) -> datetime | None:
    return parse_date(headers[name]) if name in headers and current.modified_at is not None else None


def _is_newer(current: Validators, since: datetime) -> bool:
    return current.modified_at is not None and current.modified_at > since
