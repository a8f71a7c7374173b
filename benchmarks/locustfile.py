"""People at the web page, for Locust (`pip install locust`, which is not among our dependencies).

    locust --headless --users 200 --spawn-rate 20 --run-time 1m --host http://127.0.0.1:8000 -f benchmarks/locustfile.py

They explore (a new question after each look at the answer), repeat what others ask, prepare an export now and then,
and download what is ready. The catalogue may be any: the questions are made of what it says it has.
"""

import random
from datetime import UTC, datetime, timedelta
from typing import Any

from locust import HttpUser, between  # type: ignore[import-not-found, unused-ignore]  # only where it is used

WHAT_THERE_IS = "{ facilities { name } availability { facility timeBegin timeEnd } }"

SEARCH = """query ($filter: SearchFilter!) {
  search(filter: $filter, prepare: NEVER) {
    queryId totalCount { value isEstimate } totalBytes
    files(first: 50) { nodes { path sizeBytes kind timeBegin } pageInfo { hasNextPage endCursor } }
    facets(by: [FACILITY, LEVEL, KIND]) { field values { value count } }
  }
}"""

PREPARE = "mutation ($id: ID!) { prepare(queryId: $id) { id state filesTotal bytesTotal archiveUrl } }"

MAX_PREPARED_BYTES = 10_000_000
"""Larger exports are not asked for: it is the service that is tried, not the disk."""


class Person(HttpUser):  # type: ignore[misc, unused-ignore]  # its base class may not be there
    """Somebody at the web page."""

    wait_time = between(0.2, 2.0)

    def on_start(self) -> None:
        """Learn what there is."""
        found = self._ask("what there is", WHAT_THERE_IS, {}) or {"availability": []}
        self.spans = [one for one in found["availability"] if one["timeBegin"] is not None]

    def explore(self) -> None:
        """Ask something that nobody has asked before."""
        self._search("explore", self._some_week(random.Random()))

    def repeat(self) -> None:
        """Ask what others ask as well."""
        self._search("repeat", self._some_week(random.Random(random.randrange(20))))

    def prepare(self) -> None:
        """Have a small answer prepared, and download it once it is ready."""
        found = self._search("repeat", self._some_week(random.Random(random.randrange(5))))
        if found is None or not 0 < int(found["totalBytes"]) <= MAX_PREPARED_BYTES:
            return
        told = self._ask("prepare", PREPARE, {"id": found["queryId"]})
        if told is not None and told["prepare"]["archiveUrl"] is not None:
            self.client.get(told["prepare"]["archiveUrl"], name="download")

    tasks = {explore: 6, repeat: 12, prepare: 1}  # noqa: RUF012  # how often each, as Locust wants it

    def _some_week(self, chance: random.Random) -> dict[str, Any]:
        if not self.spans:
            return {}
        span = chance.choice(self.spans)
        begin, end = (datetime.fromisoformat(span[name]) for name in ("timeBegin", "timeEnd"))
        at = begin + (end - begin) * chance.random()
        times = {"begin": _text(at), "end": _text(at + timedelta(days=7))}
        return {"facility": [span["facility"]], "time": times}

    def _search(self, name: str, asked: dict[str, Any]) -> dict[str, Any] | None:
        found = self._ask(name, SEARCH, {"filter": asked})
        return None if found is None else found["search"]

    def _ask(self, name: str, document: str, variables: dict[str, Any]) -> dict[str, Any] | None:
        body = {"query": document, "variables": variables}
        with self.client.post("/graphql", json=body, name=name, catch_response=True) as answer:
            told = answer.json() if answer.status_code == 200 else {}
            if "errors" in told or "data" not in told:
                answer.failure(f"{answer.status_code}: {answer.text[:200]}")
                return None
            answer.success()
            data: dict[str, Any] = told["data"]
            return data


def _text(moment: datetime) -> str:
    return moment.astimezone(UTC).isoformat()
