"""The peer PostGraphile: GraphQL made from the tables of a Postgres, in Node, which compiles each question into SQL.

It is installed by npm into the folder of the benchmark and is no dependency of ours. It works on the very database of
our service, with its tables and indexes, as one process that we start and end.

Found with PostGraphile 4.14:

- Files have no foreign key to their facility. A smart tag tells of it, so that names can be asked for.
- A table called `query` cannot be told of by its own name.
- Filters by intervals need the plugin `postgraphile-plugin-connection-filter`.
- PostGraphile 5 is another program; its documents are those of a preview.
"""

import re
import shutil
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import psutil  # type: ignore[import-untyped]

from aggregator.commands.serve import tied_command
from benchmarks.load import Load, ask
from benchmarks.questions import PAGE_FILES, Filter
from benchmarks.service import END_LIMIT_S, LOG_TAIL_LINES, START_LIMIT_S, BenchmarkError, Servers

PACKAGES = {"postgraphile": "4.14.1", "postgraphile-plugin-connection-filter": "2.3.0"}
"""What is installed into the folder of the peer, and in which version."""

INSTALL_LIMIT_S = 300.0
"""Longest installation of the peer's packages."""

LOOK_BACK = timedelta(hours=6)
"""Longer than any file of the generated catalogue: lets the peer begin at the interval as we do."""

_SERVER = """
const http = require("http");
const { Pool } = require("pg");
const { postgraphile } = require("postgraphile");
const { makeJSONPgSmartTagsPlugin } = require("graphile-utils");
const tags = makeJSONPgSmartTagsPlugin({
  version: 1,
  config: {
    class: {
      file: { tags: { foreignKey: "(facility_id) references facility (id)|@fieldName facility" } },
      query: { tags: { name: "question" } },
    },
  },
});
const [, , host, port, user, database] = process.argv;
const handler = postgraphile(new Pool({ host, port: Number(port), user, database, max: 8 }), "public", {
  appendPlugins: [tags, require("postgraphile-plugin-connection-filter")],
  dynamicJson: true,
  disableQueryLog: true,
  graphiql: false,
  disableDefaultMutations: true,
});
const server = http.createServer(handler);
server.keepAliveTimeout = 60000;
server.listen(0, "127.0.0.1", () => console.log(`listening on http://127.0.0.1:${server.address().port}`));
"""

_DOCUMENT = """query Page($filter: FileFilter!) {{
  allFiles(first: {files}, orderBy: [TIME_BEGIN_ASC, ID_ASC], filter: $filter) {{
    {count}
    nodes {{
      facility {{ name }} path sizeBytes kind level timeBegin timeEnd obsId run object energyMinEv quality
    }}
    pageInfo {{ hasNextPage endCursor }}
  }}
}}"""


def describe_missing() -> str | None:
    """Tell what must be installed before the peer can be run, None if nothing."""
    missing = [name for name in ("node", "npm") if shutil.which(name) is None]
    return f"the peer PostGraphile needs {' and '.join(missing)}" if missing else None


@dataclass(frozen=True, kw_only=True, slots=True)
class Postgraphile:
    """The running peer."""

    url: str
    process: psutil.Process

    def body(self, given: Filter, numbers: Mapping[str, int], *, count: bool) -> bytes:
        """Return the request that asks the same as a filter of ours: facilities by their numbers, and a time."""
        begin, end = (datetime.fromisoformat(given["time"][name]) for name in ("begin", "end"))
        wanted: dict[str, Any] = {
            "timeBegin": {"lessThan": end.isoformat(), "greaterThan": (begin - LOOK_BACK).isoformat()},
            "timeOver": {"greaterThan": begin.isoformat()},
        }
        if "facility" in given:
            wanted["facilityId"] = {"in": [numbers[name] for name in given["facility"]]}
        text = _DOCUMENT.format(files=PAGE_FILES, count="totalCount" if count else "")
        return msgspec.json.encode({"query": text, "variables": {"filter": wanted}})

    def ask(self, bodies: Iterator[bytes], *, connections: int, limit_s: float, limit: int = 1_000_000) -> Load:
        """Ask until there are no more, or the time is over."""
        return ask(self.url, bodies, connections=connections, limit=limit, limit_s=limit_s, service=self.process)

    def versions(self) -> str:
        """Return names and versions of everything whose speed is in the figures."""
        node = subprocess.run(["node", "--version"], check=True, stdout=subprocess.PIPE, text=True).stdout.strip()
        return ", ".join([f"Node {node.removeprefix('v')}", *(f"{name} {number}" for name, number in PACKAGES.items())])


@contextmanager
def running_postgraphile(servers: Servers, database: str) -> Iterator[Postgraphile]:
    """Run the installed peer on one of our databases.

    Raises
    ------
    BenchmarkError
        It does not start.
    """
    folder = _folder(servers)
    script, log = folder / "server.js", folder / "server.log"
    script.write_text(_SERVER)
    with servers.connect(database) as connection:
        arguments = [connection.info.host, str(connection.info.port), connection.info.user, database]
    with (
        log.open("w") as output,
        subprocess.Popen(
            tied_command([str(shutil.which("node")), str(script), *arguments]),
            cwd=folder,
            env={"PATH": "/usr/bin:/bin", "NODE_ENV": "production", "GRAPHILE_ENV": "production"},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
        ) as process,
    ):
        try:
            yield Postgraphile(url=_wait_for_address(process, log), process=psutil.Process(process.pid))
        finally:
            process.terminate()
            try:
                process.wait(END_LIMIT_S)
            except subprocess.TimeoutExpired:
                process.kill()


def _folder(servers: Servers) -> Path:
    return servers.data_dir / "postgraphile"


def install(servers: Servers) -> None:
    """Install the peer, unless an earlier run did.

    Raises
    ------
    BenchmarkError
        No package index can be reached, or takes too long.
    """
    folder = _folder(servers)
    done = folder / "installed.txt"
    wanted = [f"{name}@{number}" for name, number in PACKAGES.items()]
    if done.exists() and done.read_text() == "\n".join(wanted):
        return
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    try:
        result = subprocess.run(
            ["npm", "install", "--no-audit", "--no-fund", "--silent", "--prefix", str(folder), *wanted],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=INSTALL_LIMIT_S,
        )
    except subprocess.TimeoutExpired as error:
        raise BenchmarkError(f"PostGraphile was not installed within {INSTALL_LIMIT_S:.0f} s") from error
    if result.returncode != 0:
        raise BenchmarkError(f"PostGraphile could not be installed:\n{_tail(result.stdout)}")
    done.write_text("\n".join(wanted))


def _wait_for_address(process: "subprocess.Popen[bytes]", log: Path) -> str:
    deadline = time.monotonic() + START_LIMIT_S
    while process.poll() is None and time.monotonic() < deadline:
        if found := re.search(r"listening on (http://[\d.]+:\d+)", log.read_text()):
            return found[1]
        time.sleep(0.1)
    raise BenchmarkError(f"PostGraphile did not start:\n{_tail(log.read_text())}")


def _tail(text: str) -> str:
    return "\n".join(text.splitlines()[-LOG_TAIL_LINES:])
