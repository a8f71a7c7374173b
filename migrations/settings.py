"""The one setting of migrations that are run by hand with `alembic`."""

import os


def database_url_from_environ() -> str:
    """Return the URL of the database to migrate.

    Raises
    ------
    SystemExit
        `CATCHMENT_DATABASE_URL` is not set.
    """
    try:
        return os.environ["CATCHMENT_DATABASE_URL"]
    except KeyError:
        raise SystemExit("set CATCHMENT_DATABASE_URL, or use 'catchment migrate'") from None
