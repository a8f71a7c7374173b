"""Who imports whom: the edges of the design, and no other."""

import ast
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("aggregator", "extractors", "metadata_db", "migrations")

FOUNDATION = (
    "aggregator.child",
    "aggregator.embedded",
    "aggregator.errors",
    "aggregator.launcher",
    "aggregator.log",
    "aggregator.samples",
    "aggregator.settings",
)
"""What every part of the service may stand on; it stands on the catalogue alone."""

CATALOGUE = ("metadata_db",)

ALLOWED: Mapping[str, tuple[str, ...]] = {
    "metadata_db": ("metadata_db",),
    "extractors": ("extractors", "metadata_db.records"),
    "migrations": ("migrations", "metadata_db.settings", "metadata_db.tables"),
    **dict.fromkeys(FOUNDATION, (*FOUNDATION, *CATALOGUE)),
    "aggregator.cache": ("aggregator.resp", *FOUNDATION, *CATALOGUE),
    "aggregator.resp": (),
    "aggregator.flights": ("aggregator.cache",),
    "aggregator.present": ("aggregator.staging.ledger", *CATALOGUE),
    "aggregator.admission": (),
    "aggregator.wire": ("aggregator.connection",),
    "aggregator.answers": (
        "aggregator.admission",
        "aggregator.wire",
        "aggregator.api.context",
        "aggregator.api.execution",
        "aggregator.api.protocol",
        "aggregator.cache",
        "aggregator.controller",
        "aggregator.flights",
        "aggregator.present",
        *CATALOGUE,
    ),
    "aggregator.staging": ("aggregator.staging", "aggregator.cache", "aggregator.citation", *FOUNDATION, *CATALOGUE),
    "aggregator.exports": (
        "aggregator.exports",
        "aggregator.staging.manifest",
        # The one rule of names, for the few files of an archive that are not in the manifest.
        "aggregator.staging.naming",
        # Where the files of an export lie, and in which state it is.
        "aggregator.staging.buffer",
        "aggregator.staging.ledger",
        *FOUNDATION,
        *CATALOGUE,
    ),
    "aggregator.controller": (
        "aggregator.cache",
        "aggregator.flights",
        "aggregator.present",
        "aggregator.staging",
        *FOUNDATION,
        *CATALOGUE,
    ),
    "aggregator.citation": (*FOUNDATION, *CATALOGUE),
    "aggregator.landing": ("aggregator.citation", "aggregator.controller", *FOUNDATION, *CATALOGUE),
    "aggregator.api": (
        "aggregator.api",
        "aggregator.citation",
        "aggregator.controller",
        "aggregator.present",
        # The records of exports, which the schema shows.
        "aggregator.staging.ledger",
        *FOUNDATION,
        *CATALOGUE,
    ),
    "aggregator.app": (
        "aggregator.admission",
        "aggregator.answers",
        "aggregator.api",
        "aggregator.controller",
        "aggregator.cache",
        "aggregator.staging",
        "aggregator.exports",
        "aggregator.landing",
        *FOUNDATION,
        *CATALOGUE,
    ),
    "aggregator.commands": ("aggregator", "metadata_db", "extractors", "migrations"),
    "aggregator.__main__": ("aggregator.commands", *FOUNDATION),
    "aggregator": (),
}
"""Part of the code → parts it may import; the longest name that fits a module is its part."""

ONLY_FROM: Mapping[str, tuple[str, ...]] = {
    "aggregator.app": ("aggregator.commands",),
    "aggregator.commands": ("aggregator.commands", "aggregator.__main__"),
    "metadata_db.app": ("aggregator.app",),
}
"""What knows everything, and who alone may know it."""

HEAVY = {"alembic", "procrastinate", "psycopg", "redis", "sqlalchemy", "starlette", "strawberry", "uvicorn"}
"""What must not be loaded at an experiment."""


def is_part(module: str, part: str) -> bool:
    return module == part or module.startswith(f"{part}.")


def modules() -> Mapping[str, Path]:
    """Return all modules of the project by name."""
    found = {}
    for path in (path for package in PACKAGES for path in (ROOT / package).rglob("*.py")):
        name = ".".join(path.relative_to(ROOT).with_suffix("").parts)
        found[name.removesuffix(".__init__")] = path
    return found


def imports_of(path: Path, known: Mapping[str, Path]) -> Iterator[str]:
    """Yield the names of our modules that a file imports, wherever in it that happens."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module is not None:
            inside = [f"{node.module}.{alias.name}" for alias in node.names]
            names = [name if name in known else node.module for name in inside]
        else:
            continue
        yield from (name for name in names if name.partition(".")[0] in (*PACKAGES, "tests", "benchmarks"))


def wrong_edges(module: str, imported: Iterator[str]) -> list[str]:
    part = max((part for part in ALLOWED if is_part(module, part)), key=len)
    return [
        f"{module} imports {name}"
        for name in imported
        if not any(is_part(name, allowed) for allowed in ALLOWED[part])
        or any(
            is_part(name, guarded) and not any(is_part(module, who) for who in (*allowed, guarded))
            for guarded, allowed in ONLY_FROM.items()
        )
    ]


def test_every_import_is_an_edge_of_the_design() -> None:
    known = modules()
    wrong = [edge for name, path in known.items() for edge in wrong_edges(name, imports_of(path, known))]
    assert wrong == []


@pytest.mark.parametrize(
    ("module", "statement"),
    [
        ("extractors.extract", "from metadata_db import tables"),
        ("extractors.extract", "from metadata_db.errors import BadInputError"),
        ("extractors.readers.fits", "def read():\n    import aggregator.settings"),
        ("metadata_db.search", "from aggregator.errors import AggregatorError"),
        ("metadata_db.search", "import extractors"),
        ("migrations.env", "from metadata_db.catalogue import Catalogue"),
        ("aggregator.cache", "from aggregator.controller import CoreController"),
        ("aggregator.cache", "from aggregator import staging"),
        ("aggregator.staging.jobs", "from aggregator.exports.archive import Archive"),
        ("aggregator.controller", "from aggregator.api.types import File"),
        ("aggregator.exports.archive", "from aggregator.staging.jobs import stage"),
        ("aggregator.api.resolvers", "from aggregator.cache import CacheManager"),
        ("aggregator.api.resolvers", "from metadata_db.app import IngestApi"),
        ("aggregator.controller", "from aggregator.app import create_app"),
        ("aggregator.app", "from aggregator.commands.serve import serve"),
        ("aggregator.app", "from extractors.extract import extract"),
        ("aggregator.settings", "from aggregator.cache import CacheManager"),
        ("aggregator.a_new_part", "from aggregator.errors import AggregatorError"),
    ],
)
def test_any_other_edge_would_be_found(tmp_path: Path, module: str, statement: str) -> None:
    path = tmp_path / "module.py"
    path.write_text(statement)
    assert len(wrong_edges(module, imports_of(path, modules()))) == 1


def test_an_extractor_brings_no_part_of_the_service_with_it() -> None:
    program = (
        "import importlib, sys\n"
        f"for name in {sorted(name for name in modules() if is_part(name, 'extractors'))!r}:\n"
        "    importlib.import_module(name)\n"
        "print(*sys.modules)"
    )
    loaded = subprocess.run(
        [sys.executable, "-c", program], check=True, capture_output=True, text=True, cwd=ROOT
    ).stdout.split()
    assert "extractors.extract" in loaded
    assert {name.partition(".")[0] for name in loaded} & (HEAVY | {"aggregator", "migrations"}) == set()
    assert [name for name in loaded if is_part(name, "metadata_db")] == ["metadata_db", "metadata_db.records"]
