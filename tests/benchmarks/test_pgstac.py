"""What must be there before the peer can be run."""

from pathlib import Path

from benchmarks.pgstac import describe_missing, find_programs


def install(usr: Path, version: str, *, postgis: bool) -> Path:
    """Put down what Debian's packages put down, and return the server."""
    postgres = usr / "lib/postgresql" / version / "bin/postgres"
    extension = usr / "share/postgresql" / version / "extension"
    for folder in (postgres.parent, extension):
        folder.mkdir(parents=True)
    postgres.touch()
    if postgis:
        (extension / "postgis.control").touch()
    return postgres


def test_the_newest_postgres_with_postgis_is_taken(tmp_path: Path) -> None:
    install(tmp_path, "9.6", postgis=True)
    install(tmp_path, "15", postgis=True)
    wanted = install(tmp_path, "16", postgis=True)
    install(tmp_path, "17", postgis=False)
    programs = find_programs(tmp_path)
    assert programs is not None
    assert programs.postgres == wanted
    assert describe_missing(tmp_path) is None


def test_without_postgis_one_is_told_what_to_install(tmp_path: Path) -> None:
    install(tmp_path, "15", postgis=False)
    message = describe_missing(tmp_path)
    assert message is not None
    assert "apt-get install postgresql-15 postgresql-15-postgis-3" in message
