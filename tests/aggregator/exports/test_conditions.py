"""Conditions of requests, against the standard's list of steps spelled out plainly."""

from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aggregator.exports.conditions import Validators, Verdict, allows_range, evaluate, parse_date

ETAG = '"abc"'
MODIFIED = datetime(2026, 5, 17, 12, 0, 0, tzinfo=UTC)
CURRENT = Validators(etag=ETAG, modified_at=MODIFIED)


def http(moment: datetime) -> str:
    return format_datetime(moment, usegmt=True)


TAGS = st.lists(st.sampled_from([ETAG, f"W/{ETAG}", '"other"', 'W/"other"', '"a,b"']), min_size=1, max_size=3)
LISTS = st.one_of(st.just("*"), TAGS.map(", ".join), TAGS.map(" ,".join))
DATES = st.integers(-2, 2).map(lambda days: http(MODIFIED + timedelta(days=days)))
HEADERS = st.fixed_dictionaries(
    {},
    optional={
        "if-match": LISTS,
        "if-none-match": LISTS,
        "if-modified-since": DATES,
        "if-unmodified-since": DATES,
    },
)


def by_the_book(headers: dict[str, str]) -> Verdict:
    """RFC 9110, section 13.2.2, step by step, for a GET of something with both validators."""

    def tags(name: str) -> list[str]:
        return [tag.strip() for tag in headers[name].replace('"a,b"', '"a;b"').split(",")]

    def moment(name: str) -> datetime:
        return datetime.strptime(headers[name], "%a, %d %b %Y %H:%M:%S GMT").replace(tzinfo=UTC)

    if "if-match" in headers:  # 1
        if headers["if-match"] != "*" and ETAG not in tags("if-match"):
            return Verdict.FAILED
    elif "if-unmodified-since" in headers and moment("if-unmodified-since") < MODIFIED:  # 2
        return Verdict.FAILED
    if "if-none-match" in headers:  # 3
        if headers["if-none-match"] == "*" or {ETAG, f"W/{ETAG}"} & set(tags("if-none-match")):
            return Verdict.NOT_MODIFIED
    elif "if-modified-since" in headers and moment("if-modified-since") >= MODIFIED:  # 4
        return Verdict.NOT_MODIFIED
    return Verdict.SEND


@given(HEADERS)
def test_conditions_are_evaluated_as_the_standard_lists_them(headers: dict[str, str]) -> None:
    assert evaluate(headers, CURRENT) is by_the_book(headers)


@given(HEADERS.map(lambda headers: {name: value for name, value in headers.items() if "since" in name}))
def test_dates_mean_nothing_where_none_is_known(headers: dict[str, str]) -> None:
    assert evaluate(headers, Validators(etag=ETAG)) is Verdict.SEND


@given(st.text(max_size=30), st.sampled_from(["if-match", "if-none-match", "if-modified-since", "if-unmodified-since"]))
def test_nothing_that_is_sent_breaks_it(text: str, name: str) -> None:
    assert evaluate({name: text}, CURRENT) in Verdict


@pytest.mark.parametrize("header", ["", "abc", '"abc', f"{ETAG} {ETAG}", "'abc'", f"w/{ETAG}"])
def test_what_is_no_list_of_tags_matches_nothing(header: str) -> None:
    assert evaluate({"if-match": header}, CURRENT) is Verdict.FAILED
    assert evaluate({"if-none-match": header}, CURRENT) is Verdict.SEND


@pytest.mark.parametrize("header", ["yesterday", "2026-05-17T12:00:00Z", "Sun, 31 Feb 2026 12:00:00 GMT", ""])
def test_what_is_no_date_is_ignored(header: str) -> None:
    assert evaluate({"if-modified-since": header, "if-unmodified-since": header}, CURRENT) is Verdict.SEND


@pytest.mark.parametrize(
    "text", ["Sun, 06 Nov 1994 08:49:37 GMT", "Sunday, 06-Nov-94 08:49:37 GMT", "Sun Nov  6 08:49:37 1994"]
)
def test_the_three_forms_of_a_date(text: str) -> None:
    assert parse_date(text) == datetime(1994, 11, 6, 8, 49, 37, tzinfo=UTC)


@pytest.mark.parametrize(
    ("if_range", "allowed"),
    [
        (None, True),
        (ETAG, True),
        (f" {ETAG}", True),
        (f"W/{ETAG}", False),
        ('"other"', False),
        (http(MODIFIED), True),
        (http(MODIFIED + timedelta(seconds=1)), False),
        (http(MODIFIED - timedelta(seconds=1)), False),
        ("nonsense", False),
    ],
)
def test_a_part_only_fits_a_beginning_of_the_same_bytes(if_range: str | None, allowed: bool) -> None:
    assert allows_range(if_range, CURRENT) is allowed
