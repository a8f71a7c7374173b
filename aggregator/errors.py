"""What can go wrong in the service, and how it is told to users.

AggregatorError
├── BufferFullError        no room in the local file buffer
├── StagingError           a file could not be staged: path and reason
├── StorageDownError       (staging.mounts) a whole storage is away: tried again later
├── BufferUnusableError    (staging.buffer) the buffer cannot be used as it is set up
└── EmbeddedServerError    (aggregator.child) the embedded Postgres or Redis is missing or cannot run
CatalogueError             (metadata_db.errors) bad input, not found, permission, collision, unavailable

`HTTP_STATUS` is the one table from our errors to HTTP; the GraphQL `extensions.code` is the error's own `code`.
"""

from collections.abc import Mapping

from metadata_db.errors import (
    BadInputError,
    CatalogueError,
    NotFoundError,
    PermissionDeniedError,
    QueryIdCollisionError,
    UnavailableError,
)


class AggregatorError(Exception):
    """Base of all errors of the service; `code` is the stable word that users see."""

    code = "INTERNAL"


class BufferFullError(AggregatorError):
    """The local file buffer has no room for what is asked."""

    code = "BUFFER_FULL"


class StagingError(AggregatorError):
    """One file could not be staged; `reason` goes into the manifest in plain words."""

    code = "STAGING_FAILED"

    def __init__(self, path: str, reason: str) -> None:
        self.path = path
        self.reason = reason
        super().__init__(f"{path}: {reason}")


HTTP_STATUS: Mapping[type[Exception], int] = {
    BadInputError: 422,
    NotFoundError: 404,
    PermissionDeniedError: 403,
    QueryIdCollisionError: 409,
    UnavailableError: 503,
    BufferFullError: 507,
}
"""Status of the nearest base class of an error; everything else is 500 and masked."""

PUBLIC_ERRORS = (CatalogueError, AggregatorError)
"""Errors whose text is meant for users."""


def http_status(error: Exception) -> int:
    """Return the HTTP status of an error."""
    return next((HTTP_STATUS[kind] for kind in type(error).__mro__ if kind in HTTP_STATUS), 500)
