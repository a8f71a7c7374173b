"""Logging of the service: one line per record on standard error, and never a secret in it.

A line is: time in UTC, level, logger, message, and the record's `extra` as ``key=value``, durations last::

    2019-11-02T18:04:00.123Z INFO aggregator.controller answered action=search query_id=0cc175b9 duration_s=0.004

Tracebacks follow on lines of their own.
"""

import json
import logging
import re
import sys
from collections.abc import Iterator
from datetime import UTC, datetime

HIDDEN = "***"
"""What is shown in place of a secret."""

_SECRETS = (
    # A password in an address ends at the last @: people forget to quote the ones inside. A port is no password.
    re.compile(r"""([a-z][a-z0-9+.-]*://[^\s/@:"']*:)(?!\d+(?:[/?#\s"']|$))[^\s"'<>]*(?=@)""", re.IGNORECASE),
    re.compile(
        r"""(\b(?:password|passwd|secret|token|access_token|api_key)(?:=|["']\s*:\s*))(?:'[^']*'|"[^"]*"|[^\s&"',]+)""",
        re.IGNORECASE,
    ),
    re.compile(r"(\bbearer\s+)[A-Za-z0-9._~+/=-]{6,}", re.IGNORECASE),
    re.compile(r"""(\bauthorization\b["']?\s*[:=,]\s*b?["']?(?:basic|digest)\s+)[^\s"',]+""", re.IGNORECASE),
)

_CHATTY = ("httpx", "httpcore", "alembic.runtime", "procrastinate")
"""Loggers that tell every request, migration or job at INFO."""

_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "color_message"}
"""Attributes that every record may have; all others came with `extra`."""


def configure_logging(level: str) -> None:
    """Send all records from `level` on to standard error; replaces what was set up before.

    Parameters
    ----------
    level
        ``DEBUG``, ``INFO``, ``WARNING`` or ``ERROR``.

    Raises
    ------
    ValueError
        There is no such level.
    """
    number = logging.getLevelNamesMapping().get(level.upper())
    if number is None:
        raise ValueError(f"log_level: got {level!r}, expected DEBUG, INFO, WARNING or ERROR")
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(LineFormatter())
    handler.addFilter(RedactingFilter())
    logging.basicConfig(level=number, handlers=[handler], force=True)
    logging.captureWarnings(True)
    for name in _CHATTY:
        logging.getLogger(name).setLevel(max(number, logging.WARNING) if number > logging.DEBUG else number)


def redact(text: str) -> str:
    """Hide passwords in addresses and settings, and tokens, keeping everything else readable."""
    for secret in _SECRETS:
        text = secret.sub(rf"\1{HIDDEN}", text)
    return text


class RedactingFilter(logging.Filter):
    """Lets every record pass, its message, extra, stack and traceback without secrets."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Hide the secrets of one record."""
        record.msg, record.args = redact(_read_message(record)), None
        if record.exc_info:
            record.exc_text = redact(logging.Formatter().formatException(record.exc_info))
        if record.stack_info:
            record.stack_info = redact(record.stack_info)
        for name, value in _iter_extra(record):
            setattr(record, name, redact(value if isinstance(value, str) else _show(value)))
        return True


class LineFormatter(logging.Formatter):
    """Writes a record as one line, followed by the lines of its traceback."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the text of one record, without an end of line."""
        # A line break in a message would let whoever is quoted in it forge records.
        message = record.getMessage().replace("\r", "\\r").replace("\n", "\\n")
        head = (self._time(record), record.levelname, record.name, message)
        extra = sorted(_iter_extra(record), key=lambda item: item[0].startswith("duration"))
        line = " ".join([*head, *(f"{name}={_quote(_show(value))}" for name, value in extra)])
        if record.exc_info and not record.exc_text:
            record.exc_text = self.formatException(record.exc_info)
        return "\n".join(part for part in (line, record.exc_text, record.stack_info) if part)

    @staticmethod
    def _time(record: logging.LogRecord) -> str:
        moment = datetime.fromtimestamp(record.created, tz=UTC)
        return f"{moment:%Y-%m-%dT%H:%M:%S}.{moment.microsecond // 1000:03}Z"


def _read_message(record: logging.LogRecord) -> str:
    try:
        return record.getMessage().rstrip()
    except (TypeError, ValueError):  # placeholders and arguments do not fit: a fault in the log is none of the caller's
        return f"{record.msg} {record.args}"


def _iter_extra(record: logging.LogRecord) -> Iterator[tuple[str, object]]:
    return ((name, value) for name, value in list(vars(record).items()) if name not in _STANDARD)


def _show(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.6g}"
    return value if isinstance(value, str) else str(value)


def _quote(text: str) -> str:
    """Quote a value as JSON does when it would not end where a reader thinks."""
    return text if re.fullmatch(r"[^\s\"=\\\x00-\x1f]+", text) else json.dumps(text, ensure_ascii=False)
