"""The page without a browser: what its modules import, ask and load."""

import gzip
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
from graphql import GraphQLSchema, OperationDefinitionNode, OperationType, build_schema, parse, validate

from aggregator.api.execution import Executor, Operation
from aggregator.api.schema import create_schema

ROOT = Path(__file__).resolve().parents[2]
WEB = ROOT / "web"
MODULES = sorted(WEB.glob("*.js"))

_TEMPLATE = re.compile(r"const (\w+) = graphql`([^`]*)`", re.ASCII)
_INCLUDED = re.compile(r"\$\{(\w+)\}", re.ASCII)
_IMPORT = re.compile(r'^import\b[^"]*"([^"]+)";$', re.MULTILINE)


def _texts() -> dict[str, str]:
    """Return the GraphQL texts of the page by the name of their constant, with the included fragments put in."""
    raw = dict(_TEMPLATE.findall((WEB / "api.js").read_text(encoding="utf-8")))
    return {name: _INCLUDED.sub(lambda match: raw[match[1]], text) for name, text in raw.items()}


def _operations() -> dict[str, str]:
    return {name: text for name, text in _texts().items() if not text.lstrip().startswith("fragment")}


@pytest.fixture(scope="module")
def schema() -> GraphQLSchema:
    return build_schema((ROOT / "aggregator" / "api" / "schema.graphql").read_text(encoding="utf-8"))


class _Page(HTMLParser):
    """Collects what a strict content security policy would refuse, and what the page refers to."""

    def __init__(self) -> None:
        super().__init__()
        self.refused: list[str] = []
        self.references: list[str] = []
        self.tags: list[str] = []
        self._inside: str | None = None
        self.feed((WEB / "index.html").read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self._inside = tag
        self.refused += [f"{tag} {name}" for name, _ in attrs if name == "style" or name.startswith("on")]
        self.references += [value for name, value in attrs if name in ("src", "href") and value is not None]

    def handle_endtag(self, tag: str) -> None:
        self._inside = None

    def handle_data(self, data: str) -> None:
        if self._inside in ("script", "style") and data.strip():
            self.refused.append(f"text in {self._inside}")


@pytest.mark.parametrize("name", sorted(_operations()))
def test_an_operation_of_the_page_is_valid_against_the_schema(name: str, schema: GraphQLSchema) -> None:
    assert validate(schema, parse(_operations()[name])) == []


@pytest.mark.parametrize("name", sorted(_operations()))
def test_an_operation_of_the_page_is_within_the_limits_of_the_service(name: str) -> None:
    operation = Operation(document=_operations()[name], variables={"first": 1000, "by": ["FACILITY"] * 20})
    assert Executor(create_schema()).find_refusals(operation) == ()


def test_every_graphql_text_of_the_page_is_found_by_these_tests() -> None:
    source = (WEB / "api.js").read_text(encoding="utf-8")

    assert len(_texts()) == source.count("graphql`") > 0


def test_an_operation_that_the_schema_does_not_know_is_noticed(schema: GraphQLSchema) -> None:
    assert validate(schema, parse("{ search(filter: {}, prepare: NEVER) { fileCount } }")) != []


def test_exploring_never_starts_a_preparation() -> None:
    searches = [text for text in _operations().values() if "search(" in text]

    assert searches
    assert all("prepare: NEVER" in text for text in searches)


def test_only_buttons_that_say_so_change_anything() -> None:
    mutations = {
        definition.name.value
        for text in _operations().values()
        for definition in parse(text).definitions
        if isinstance(definition, OperationDefinitionNode)
        and definition.operation is OperationType.MUTATION
        and definition.name is not None
    }

    assert mutations == {"Prepare", "Cancel"}


def test_every_field_that_the_page_counts_by_can_be_counted_by(schema: GraphQLSchema) -> None:
    source = (WEB / "filters.js").read_text(encoding="utf-8")
    table = re.search(r"const FACETS = \{(.*?)\};", source, re.DOTALL)
    assert table is not None
    counted = {name.upper() for name in re.findall(r"^  (\w+):", table[1], re.MULTILINE)}

    assert counted
    assert counted <= set(schema.type_map["FacetField"].values)  # type: ignore[attr-defined]


def test_every_state_of_an_export_has_words(schema: GraphQLSchema) -> None:
    source = (WEB / "staging.js").read_text(encoding="utf-8")
    table = re.search(r"const STATES = \{(.*?)^\};", source, re.DOTALL | re.MULTILINE)
    assert table is not None

    assert set(re.findall(r"^  (\w+):", table[1], re.MULTILINE)) == set(
        schema.type_map["ExportState"].values  # type: ignore[attr-defined]
    )


def test_only_one_module_speaks_graphql() -> None:
    speakers = [path.name for path in MODULES if re.search(r"\bfetch\(|/graphql", path.read_text(encoding="utf-8"))]

    assert speakers == ["api.js"]


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.name)
def test_a_module_imports_only_modules_that_exist(path: Path) -> None:
    source = path.read_text(encoding="utf-8")
    imported = _IMPORT.findall(source)

    assert len(imported) == len(re.findall(r"^import\b", source, re.MULTILINE))
    assert "import(" not in source
    assert [name for name in imported if not (name.startswith("/web/") and _served(name).is_file())] == []


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.name)
def test_a_module_imports_only_names_that_are_exported(path: Path) -> None:
    imports = re.findall(r'^import \{([^}]*)\} from "([^"]+)";$', path.read_text(encoding="utf-8"), re.MULTILINE)
    missing = [
        f"{module}: {name}"
        for names, module in imports
        for name in re.findall(r"\w+", names)
        if not re.search(
            rf"^export (?:async )?(?:class|const|function) {name}\b",
            _served(module).read_text(encoding="utf-8"),
            re.MULTILINE,
        )
    ]

    assert missing == []


def test_every_module_is_reached_from_the_page() -> None:
    reached: set[str] = set()
    waiting = ["/web/app.js"]
    while waiting:
        name = waiting.pop()
        if name not in reached:
            reached.add(name)
            waiting += _IMPORT.findall(_served(name).read_text(encoding="utf-8"))

    assert reached == {f"/web/{path.name}" for path in MODULES}


def test_the_page_has_no_inline_script_and_no_inline_style() -> None:
    page = _Page()

    assert page.refused == []
    assert "style" not in page.tags


def test_the_page_refers_to_files_that_exist_wherever_it_is_served() -> None:
    references = [reference for reference in _Page().references if not reference.startswith("#")]

    assert "/web/app.js" in references
    assert [name for name in references if name != "/" and not _served(name).is_file()] == []


@pytest.mark.parametrize("path", [WEB / "index.html", WEB / "style.css", *MODULES], ids=lambda path: path.name)
def test_nothing_of_the_page_comes_from_another_host(path: Path) -> None:
    assert re.findall(r"https?://|[\"'(]//\w", path.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.name)
def test_a_module_makes_no_code_and_no_markup_from_text(path: Path) -> None:
    forbidden = r"\beval\(|new Function|innerHTML|outerHTML|insertAdjacentHTML|document\.write|\.style\s*=|cssText"

    assert re.findall(forbidden, path.read_text(encoding="utf-8")) == []


def test_the_script_of_the_first_screen_is_small() -> None:
    assert sum(len(gzip.compress(path.read_bytes())) for path in MODULES) < 60_000


def _served(name: str) -> Path:
    """Return the file behind an address such as ``/web/app.js``."""
    return WEB / name.removeprefix("/web/")
