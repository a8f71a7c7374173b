"""An answer by plan is, byte for byte, what graphql-core and Strawberry answer."""

import gc
import random
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import orjson
import pytest
import redis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from aggregator.api.context import Context
from aggregator.api.execution import Execution, Executor, Operation
from aggregator.api.schema import create_schema
from aggregator.controller import CoreController, Prepare
from aggregator.staging.ledger import ExportLedger
from metadata_db.ingest import Ingest
from metadata_db.query import SearchQuery
from metadata_db.records import FileRecord, Relation, Removal
from metadata_db.search import Paging
from metadata_db.vocabulary import VocabularyStore
from tests.support.operations import Asked, operations
from tests.support.records import chunked, file_record, load, ndjson, register

SCHEMA = create_schema()

NOON = datetime(2019, 11, 2, 12, tzinfo=UTC)
"""When the files begin, and of those in other centuries the time of day."""

TIMES = [None, NOON, NOON + timedelta(microseconds=1), NOON.replace(year=1066), NOON.replace(year=2345)]
ATTRIBUTES: list[dict[str, Any]] = [
    {},
    {"zenith_deg": 12.50, "n_telescopes": 2**53 + 1, "trigger": 'a"b\\ü\u2028\U0001f52d', "calibrated": True},
    {"zenith_deg": 1e300, "tags": ["x", 1, 0.1, False]},
    {"zenith_deg": -1e-7, "trigger": "", "tags": []},
]


def records(seed: int, n: int) -> list[FileRecord]:
    """Return files of which anything may be known or not."""
    rng = random.Random(seed)

    def seldom(*values: Any) -> Any:
        return rng.choice([None, *values])

    made = []
    for at in range(n):
        begin, position = rng.choice(TIMES), seldom((83.633, 22.014), (0.1 + 0.2, -90.0))
        begin = None if begin is None else begin + timedelta(minutes=at)
        ours = {
            "detector": seldom("iact-north"),
            "cluster": seldom("north", "south"),
            "attributes": rng.choice(ATTRIBUTES),
            "relations": rng.choice(
                [
                    [],
                    [
                        Relation(kind="sidecar_of", path="2019/*"),
                        Relation(kind="irf_for", storage="shared-disk", obs_id="1"),
                    ],
                ]
            ),
            "storage": rng.choice(["aurora-disk", "shared-disk"]),
        }
        theirs = {"facility": "borealis", "storage": "borealis-disk", "channel": seldom("air-showers")}
        made.append(
            file_record(
                f"{at % 3}/ü {at}.fits",
                **rng.choice([ours, ours, theirs]),
                size_bytes=rng.choice([0, 1000 + at, 2**40]),
                sha256=seldom(f"{at:064x}"),
                md5=seldom(f"{at:032x}"),
                modified_at=seldom(NOON, NOON.replace(microsecond=120_000)),
                time_begin=begin,
                time_end=None if begin is None else seldom(begin + timedelta(hours=1)),
                obs_id=seldom("1", "01"),
                run=seldom(-1, at),
                ra_deg=None if position is None else position[0],
                dec_deg=None if position is None else position[1],
                position_basis=seldom("pointing"),
                energy_min_ev=seldom(1e9, 123456789.125),
                energy_max_ev=seldom(1e12),
                energy_basis=seldom("data"),
                object=seldom("Crab Nebula"),
                n_events=seldom(0, 2**33),
                is_simulation=seldom(True, False),
                processing=seldom("fast"),
                quality=seldom("good"),
                conditions=seldom("clear"),
                licence=seldom("CC0-1.0"),
                level=seldom("DL3", "raw"),
                kind=seldom("events"),
                format=seldom("fits"),
                provenance=rng.choice([{}, {"run": "header RUN", "object": "name"}]),
                warnings=rng.choice([[], ["odd", "älter"]]),
                description=seldom("d 1 abc"),
            )
        )
    return made


KNOWN = [SearchQuery(level=("raw",)), SearchQuery()]
"""Questions that are registered, the one about everything last."""

CURSORS = ["CURSOR-0", "CURSOR-1", "CURSOR-2"]
"""Names of cursors, which are not known before there are files."""


@dataclass(frozen=True, kw_only=True, repr=False)
class Service:
    """What is asked both ways."""

    executor: Executor
    context: Context
    redis_url: str
    cursors: Mapping[str, str]
    """Name → cursor of the answer about everything."""

    def with_cursors(self, asked: Asked) -> Asked:
        """Return a question with cursors in place of their names."""
        document, variables = asked.document, orjson.dumps(asked.variables).decode()
        for name, cursor in self.cursors.items():
            document, variables = document.replace(name, cursor), variables.replace(name, cursor)
        return Asked(document=document, variables=orjson.loads(variables))

    async def ask(self, asked: Asked, *, cold: bool) -> tuple[bytes, bytes]:
        """Return the ordinary answer, and the one that is given."""
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "coroutine .*_async_resolver.* was never awaited", RuntimeWarning)
            return await self._ask(asked, cold=cold)

    async def _ask(self, asked: Asked, *, cold: bool) -> tuple[bytes, bytes]:
        document = self.executor.check(asked.document)
        assert document.node is not None
        assert document.errors == ()
        operation = Operation(document=asked.document, variables=asked.variables)
        if cold:
            self._forget()
        elif "cached" in asked.document:
            await self.executor.execute_ordinarily(document.node, operation, self.context.for_operation())
        expected = await self.executor.execute_ordinarily(document.node, operation, self.context.for_operation())
        if cold:
            self._forget()
        counts = self.executor.planner.counts
        answered = counts["answered"]
        given = await self.executor.execute(operation, self.context.for_operation())
        assert given.has_errors == expected.has_errors
        assert given.is_refused == expected.is_refused
        assert counts["answered"] == answered + (not expected.has_errors), "it was not answered by plan"
        if expected.has_errors:  # of several errors it is a race which one is told
            _drop_coroutines()
            return _data_of(expected), _data_of(given)
        assert given.footprint == expected.footprint
        return expected.body, given.body

    def _forget(self) -> None:
        with redis.Redis.from_url(self.redis_url) as client:
            client.flushall()


def _drop_coroutines() -> None:
    """Let go of what graphql-core cancelled before it began, beside a field that failed, without being warned of it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        gc.collect()


def _data_of(execution: Execution) -> bytes:
    return orjson.dumps(orjson.loads(execution.body).get("data"))


@pytest.fixture
async def service(
    controller: CoreController, ledger: ExportLedger, vocabulary: VocabularyStore, ingest: Ingest, redis_url: str
) -> Service:
    await register(vocabulary)
    first = records(1, 14)
    await load(ingest, *first)
    await load(ingest, *records(2, 9))
    gone = [Removal(facility=item.facility, storage=item.storage, path=item.path) for item in first[10:12]]
    await ingest.remove(chunked(ndjson(gone)), allowed=None)  # type: ignore[arg-type]
    await load(ingest, *records(3, 4))
    for query in KNOWN:
        response = await controller.search(query, prepare=Prepare.NEVER)
    files = (await controller.page(response.answer, Paging(n=9))).files
    return Service(
        executor=Executor(SCHEMA),
        context=Context(controller=controller, vocabulary=vocabulary, ledger=ledger),
        redis_url=redis_url,
        cursors=dict(zip(CURSORS, (file.cursor for file in files[::3]), strict=False)),
    )


FILTERS: list[Mapping[str, Any]] = [
    {},
    {"facility": ["aurora"]},
    {"time": {"begin": "2019-11-02", "end": "2019-11-03"}},
    {"run": [{"first": -1, "last": 9}], "level": ["raw"]},
    {"object": ["Crab Nebula"], "isSimulation": True},
    {"attributes": [{"name": "zenith_deg", "min": -1.0}]},
    {"cone": {"raDeg": 83.6, "decDeg": 22.0, "radiusDeg": 1.0}},
    {"path": ["0/*"], "energy": {"min": 1.0, "unit": "GEV"}},
]
BAD_FILTERS: list[Mapping[str, Any]] = [{"facility": ["nowhere"]}, {"time": {"begin": "soon"}}, {"level": []}]


def asked_operations(*, cold: bool) -> st.SearchStrategy[Asked]:
    """Return questions about the catalogue; most of them can be answered."""
    filters = st.sampled_from([*FILTERS * 8, *BAD_FILTERS])
    moments = st.sampled_from([*({"revision": at} for at in range(8)), {"moment": "2001-01-01"}, {}])
    enum = {name: sorted(SCHEMA._schema.type_map[name].values) for name in ("FacetField", "FileOrderField", "TimeBin")}  # type: ignore[attr-defined]
    orders = st.fixed_dictionaries(
        {}, optional={"field": st.sampled_from(enum["FileOrderField"]), "descending": st.booleans()}
    )
    return operations(
        SCHEMA._schema,
        roots=["search", "search", "search", "query"],
        values={
            ("search", "filter"): filters,
            ("search", "prepare"): st.sampled_from(["NEVER", "NEVER", "AUTO"]),
            ("search", "asOf"): moments,
            ("query", "id"): st.sampled_from([*(query.query_id for query in KNOWN), "0" * 32]),
            ("query", "asOf"): moments,
            ("files", "first"): st.sampled_from([1, 2, 3, 7, 20, 1000, None, 0]),
            ("files", "after"): st.sampled_from([None, *CURSORS * 2, "x"]),
            ("files", "last"): st.sampled_from([1, 2, 3, None]),
            ("files", "before"): st.sampled_from([None, *CURSORS]),
            ("files", "orderBy"): orders,
            ("facets", "by"): st.lists(st.sampled_from(enum["FacetField"]), max_size=3),
            ("timeline", "bin"): st.sampled_from(enum["TimeBin"]),
            ("timeline", "binS"): st.sampled_from([3600.0, 1e9]),
            ("sky", "order"): st.integers(0, 11),
        },
        often={"SearchResult.files": 8, "FileConnection.pageInfo": 2, "File.relations": 4, "File.attributes": 3},
        without=["SearchResult.cached"] if cold else [],
    )


WARM, COLD = asked_operations(cold=False), asked_operations(cold=True)


BOTH_WAYS = settings(
    max_examples=70,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)


@BOTH_WAYS
@given(asked=WARM)
@pytest.mark.anyio
async def test_both_ways_give_the_same_bytes(service: Service, asked: Asked) -> None:
    expected, given_ = await service.ask(service.with_cursors(asked), cold=False)
    assert given_ == expected


@BOTH_WAYS
@given(asked=COLD)
@pytest.mark.anyio
async def test_both_ways_give_the_same_bytes_when_nothing_is_cached(service: Service, asked: Asked) -> None:
    expected, given_ = await service.ask(service.with_cursors(asked), cold=True)
    assert given_ == expected


REFUSED = [
    '{ search(filter: { facility: ["nowhere"] }) { revision } }',
    "{ a: search(filter: {}, prepare: NEVER) { files(first: 0) { nodes { id } } } }",
    "{ search(filter: {}, prepare: NEVER) { files(first: 1, last: 1) { nodes { id } } } }",
    '{ search(filter: {}, prepare: NEVER) { files(after: "x") { nodes { id } } } }',
    '{ search(filter: {}, prepare: NEVER) { files(last: 2, before: "x") { nodes { id } } } }',
    "{ search(filter: {}, prepare: NEVER) { ... { sky(order: 99) } } }",
    '{ __typename query(id: "99914b932bd37a50b983c5e7c90ae93b") { timeline(bin: DAY, bins: 5) } }',
    'query($at: AsOf = { revision: 99 }) { query(id: "99914b932bd37a50b983c5e7c90ae93b", asOf: $at) { revision } }',
    "query($run: [RunRangeInput!] = [{ first: 5, last: 1 }]) { search(filter: { run: $run }) { revision } }",
]


@pytest.mark.parametrize("document", REFUSED)
@pytest.mark.anyio
async def test_errors_are_told_as_ever(service: Service, document: str) -> None:
    operation = Operation(document=document)
    node = service.executor.check(document).node
    assert node is not None
    expected = await service.executor.execute_ordinarily(node, operation, service.context.for_operation())
    given_ = await service.executor.execute(operation, service.context.for_operation())
    assert expected.has_errors
    assert given_.body == expected.body


OTHERS = """{
  facilities { name clusters { name } detectors { cluster } dataChannels { name } attributes { unit }
    authority { licence } revision latitudeDeg }
  availability { detector files liveS timeEnd gaps(longest: 2) { begin lengthS } }
  dataAuthorities { name } storages { kind enabled } detectors(facility: ["aurora"]) { name }
  diff(queryId: "99914b932bd37a50b983c5e7c90ae93b", from: 2, first: 3) {
    from to added { count } replaced { previousBytes }
    edges { cursor node { kind file { id path attributes relations { storage } } previous { sha256 } } }
    pageInfo { hasNextPage hasPreviousPage endCursor }
  }
  export(id: "none") { id }
}"""


@pytest.mark.anyio
async def test_questions_of_other_kinds_are_answered_by_plan_too(service: Service) -> None:
    expected, given_ = await service.ask(Asked(document=OTHERS, variables={}), cold=False)
    assert given_ == expected
