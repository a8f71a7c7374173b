"""How commands fail: which errors are told in a line, and with which exit code."""

import click

from aggregator.errors import AggregatorError
from extractors.errors import ExtractionError
from metadata_db.errors import BadInputError, CatalogueError

EXIT_FAILURE = 1
"""What was asked could not be done."""

EXIT_USAGE = 2
"""The command line or a setting cannot be understood."""

EXIT_GAPS = 3
"""All that could be had is there and verified, but some files could not be had."""


class Failure(click.ClickException):
    """Something could not be done; shown as a line."""

    exit_code = EXIT_FAILURE


class Misuse(click.ClickException):
    """The command line or a setting cannot be understood; shown as a line."""

    exit_code = EXIT_USAGE


def explain(error: Exception) -> click.ClickException | None:
    """Return an error as it is told to the user, or None when it is a defect whose traceback is wanted."""
    match error:
        case click.ClickException() | click.exceptions.Exit() | click.Abort():
            return None
        case BadInputError():
            return Misuse(str(error))
        case CatalogueError() | AggregatorError() | ExtractionError():
            return Failure(str(error))
        case OSError(strerror=str(reason)):
            return Failure(reason if error.filename is None else f"{error.filename}: {reason}")
        case _:
            return None
