import logging
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aggregator.log import LineFormatter, RedactingFilter, configure_logging, redact

SECRET = "s3cr3t-Zq"


@pytest.fixture
def lines() -> Iterator[list[str]]:
    """Lines that a logger with our filter and formatter writes."""
    written: list[str] = []

    class ListHandler(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            written.append(self.format(record))

    handler = ListHandler()
    handler.setFormatter(LineFormatter())
    handler.addFilter(RedactingFilter())
    logger = logging.getLogger("test_log")
    logger.addHandler(handler)
    logger.setLevel(logging.DEBUG)
    logger.propagate = False
    yield written
    logger.removeHandler(handler)


@pytest.fixture
def logger(lines: list[str]) -> logging.Logger:
    return logging.getLogger("test_log")


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("postgresql://user:{}@host/db", "postgresql://user:***@host/db"),
        ("postgresql+psycopg://user:{}@/db?host=/run", "postgresql+psycopg://user:***@/db?host=/run"),
        ("redis://:{}@host:6379/0 is away", "redis://:***@host:6379/0 is away"),
        ("'https://me:{}@host'", "'https://me:***@host'"),
        ("redis://user:p@ss/{}@host:1/0", "redis://user:***@host:1/0"),
        ("host=h password={} dbname=d", "host=h password=*** dbname=d"),
        ("host=h password='{} and more' dbname=d", "host=h password=*** dbname=d"),
        ("{{'token': '{}', 'n': 1}}", "{{'token': ***, 'n': 1}}"),
        ("/stream?token={}&n=1", "/stream?token=***&n=1"),
        ("Authorization: Bearer {}", "Authorization: Bearer ***"),
        ("(b'authorization', b'bearer {}')", "(b'authorization', b'bearer ***')"),
        ("Authorization: Basic {}", "Authorization: Basic ***"),
    ],
)
def test_secrets_are_hidden_and_the_rest_stays(text: str, shown: str) -> None:
    assert redact(text.format(SECRET)) == shown.format()


@pytest.mark.parametrize(
    "text",
    [
        "http://127.0.0.1:8000/q/1?mail=a@b",
        "unix:///run/redis.sock",
        "postgresql+psycopg://postgres@/catchment?host=/run&port=5432",
        "sent by someone@example.org at 18:04",
        "a basic question of the bearer",
    ],
)
def test_text_without_secrets_is_not_changed(text: str) -> None:
    assert redact(text) == text


@given(
    password=st.text(st.characters(exclude_categories=["C", "Z"], exclude_characters="\"'<>"), min_size=8),
    host=st.from_regex(r"[a-z]{1,9}(:[1-9][0-9]{0,4})?", fullmatch=True),
)
def test_no_password_survives_in_an_address(password: str, host: str) -> None:
    shown = redact(f"redis://user:{password}@{host}/0")
    if not re.match(r"\d+[/?#]", password):  # that would be a port
        assert shown == f"redis://user:***@{host}/0"


def test_a_record_is_one_line_with_extra_and_the_duration_last(logger: logging.Logger, lines: list[str]) -> None:
    logger.info("answered", extra={"duration_s": 0.00412345, "action": "search", "note": "two words", "n": 3})
    time, rest = lines[0].split(" ", 1)
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", time)
    assert rest == 'INFO test_log answered action=search note="two words" n=3 duration_s=0.00412345'


def test_a_line_break_in_a_message_or_value_forges_no_record(logger: logging.Logger, lines: list[str]) -> None:
    logger.info("path %s", "a\n2019-11-02 INFO b", extra={"path": "a\nb"})
    assert len(lines[0].splitlines()) == 1


def test_secrets_in_arguments_extra_and_traceback_are_hidden(logger: logging.Logger, lines: list[str]) -> None:
    url = f"redis://:{SECRET}@host/0"
    try:
        raise ValueError(f"cannot reach {url}")
    except ValueError:
        logger.exception("failed for %s", url, extra={"url": url, "job": {"url": url}})
    assert SECRET not in lines[0]
    assert lines[0].count("***") == 4
    assert "Traceback (most recent call last)" in lines[0]


def test_a_message_whose_arguments_do_not_fit_is_still_written(logger: logging.Logger, lines: list[str]) -> None:
    logger.info("one %s two %s", f"redis://:{SECRET}@host")
    assert "one %s two %s" in lines[0]
    assert SECRET not in lines[0]


def test_an_unknown_level_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match="log_level: got 'LOUD'"):
        configure_logging("LOUD")


def test_configured_logging_writes_to_standard_error_from_its_level_on() -> None:
    program = (
        "import logging, warnings\n"
        "from aggregator.log import configure_logging\n"
        "configure_logging('info')\n"
        "logging.getLogger('a').debug('unseen')\n"
        "logging.getLogger('httpx').info('unseen')\n"
        "logging.getLogger('a').info('seen', extra={'action': 'x'})\n"
        "warnings.warn('odd')\n"
    )
    checkout = Path(__file__).parents[2]
    ran = subprocess.run([sys.executable, "-c", program], cwd=checkout, capture_output=True, text=True, check=True)
    first, second = ran.stderr.splitlines()
    assert first.endswith("INFO a seen action=x")
    assert "WARNING py.warnings" in second
    assert "odd" in second
    assert ran.stdout == ""
