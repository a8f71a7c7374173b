"""Finished answers: told again, byte for byte, as long as what they rest on stays as it is.

There are three ways to find out that a question is the same as an earlier one. Equal requests, byte for byte, are
answered before anything is parsed (`AnswersInFront`, and before even HTTP is read, `aggregator.wire`). Equal operations
that are written in another way, with other white space or another order of variables, share one answer
(`KeptAnswers`). And different operations about one question share its look-ups; that is the controller's.

What an answer rests on is gathered while it is made (`Footprint`) and kept with it, and looked at each time. Nothing is
ever removed because time went by: a process knows the present at most a second late, and its own ingests at once.
"""

import asyncio
import hashlib
import logging
import struct
from collections import OrderedDict
from collections.abc import Generator, Mapping
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias

import msgspec
import orjson
import strawberry
from graphql import OperationType, print_ast
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from aggregator.admission import Admission, BusyError
from aggregator.api.context import Context, Footprint
from aggregator.api.execution import Execution, Executor, Operation
from aggregator.api.protocol import too_busy
from aggregator.cache import CacheManager
from aggregator.controller import PUBLIC
from aggregator.flights import Flights
from aggregator.present import Present
from aggregator.wire import WHOLE
from metadata_db.errors import CatalogueError
from metadata_db.query import SearchQuery
from metadata_db.search import Revisions
from metadata_db.vocabulary import VocabularyStore

logger = logging.getLogger(__name__)

MAX_BODY_BYTES = 1_000_000
"""Longest answer that is kept: a page of 1000 files with all their fields has some."""

MAX_REQUEST_BYTES = 64_000
"""Longest request that is recognised before it is parsed."""

PATH = "/graphql"
"""Where operations are asked, and documents that have an address of their own."""

BODY_S = 1.0
"""A request whose body has not begun to come by then is handed on to where slow clients are dealt with."""

LRU_BYTES = 64_000_000
"""What one process holds of answers and of what it recognises them by."""

ENTRY_BYTES = 2_000
"""What an entry takes beside its body: keys, headers, objects."""

MAX_OPERATIONS = 2_000
"""Texts of documents of which the digest is remembered."""


# --- what is kept -----------------------------------------------------------------------------------------------------


class Grounds(msgspec.Struct, frozen=True, kw_only=True, array_like=True):
    """What a kept answer rests on."""

    digest: bytes
    """Of the answer."""
    revisions: dict[str, int]
    facilities: int
    """How many facilities had files when it was made: of a new one nobody could ask by its name."""
    questions: dict[str, dict[str, int]]
    """Canonical form → revisions; none when the answer changes with every revision."""
    vocabulary: str | None
    exports: dict[str, str]

    @classmethod
    def of(cls, body: bytes, footprint: Footprint, *, facilities: int) -> "Grounds":
        """Return what the answer `body` rests on."""
        return cls(
            digest=hashlib.blake2b(body, digest_size=16).digest(),
            revisions=footprint.revisions,
            facilities=facilities,
            questions=_plain(footprint.questions) if footprint.is_movable else {},
            vocabulary=footprint.vocabulary,
            exports=footprint.exports,
        )


def _plain(questions: Mapping[str, Revisions]) -> dict[str, dict[str, int]]:
    return {canonical: dict(revisions) for canonical, revisions in questions.items()}


@dataclass(frozen=True, kw_only=True, slots=True)
class Kept:
    """A finished answer, and what it rests on."""

    head: bytes
    """The grounds as they are written: equal heads, equal answers."""
    grounds: Grounds
    body: bytes

    @classmethod
    def of(cls, grounds: Grounds, body: bytes) -> "Kept":
        """Return an answer with its grounds."""
        written = msgspec.msgpack.encode(grounds)
        return cls(head=_LENGTH.pack(len(written)) + written, grounds=grounds, body=body)

    @classmethod
    def read(cls, raw: bytes) -> "Kept | None":
        """Return what `raw` is; None when another version of the service has written it."""
        try:
            end = _LENGTH.size + _LENGTH.unpack_from(raw)[0]
            grounds = msgspec.msgpack.decode(raw[_LENGTH.size : end], type=Grounds)
        except (struct.error, msgspec.MsgspecError):
            return None
        return cls(head=raw[:end], grounds=grounds, body=raw[end:])

    @property
    def raw(self) -> bytes:
        """The answer as it is kept."""
        return self.head + self.body


_LENGTH = struct.Struct("<I")


class Comparer(Protocol):
    """What is needed of the catalogue."""

    async def is_untouched(self, asked: SearchQuery, since: Revisions, until: Revisions) -> bool:
        """Tell whether the answers as of two moments are surely the same."""
        ...


class Ground:
    """Tells whether what answers rest on is as it was."""

    def __init__(self, present: Present, vocabulary: VocabularyStore, catalogue: Comparer) -> None:
        self._present = present
        self._vocabulary = vocabulary
        self._catalogue = catalogue

    @property
    def generation(self) -> int:
        """Grows with everything that this process learns: what was begun before may be about something older."""
        return self._present.generation

    async def count_facilities(self) -> int:
        """Return how many facilities have files; -1 when that cannot be known, with which no answer holds."""
        try:
            return len((await self._present.moment()).revisions)
        except CatalogueError:
            return -1

    async def holds(self, grounds: Grounds) -> bool:
        """Tell whether an answer with these grounds may be told now; not when the database is away.

        One that was made by a process that knew a later moment than this one does is as good.
        """
        try:
            return await self._are_current(grounds) and await self._is_rest_as_it_was(grounds)
        except CatalogueError:
            return False

    async def forward(self, grounds: Grounds) -> Grounds | None:
        """Return what an answer rests on now, if only revisions changed and none of its files with them."""
        try:
            return await self._forward(grounds) if await self._is_rest_as_it_was(grounds) else None
        except CatalogueError:
            return None

    async def _forward(self, grounds: Grounds) -> Grounds | None:
        now = (await self._present.moment()).revisions
        if not grounds.questions or grounds.facilities != len(now):
            return None
        questions = {}
        for canonical, since in grounds.questions.items():
            until = {name: now.get(name, 0) for name in since}
            is_older = all(until[name] >= revision for name, revision in since.items())
            asked = SearchQuery.from_canonical(canonical)
            if not (is_older and await self._catalogue.is_untouched(asked, since, until)):
                return None
            questions[canonical] = until
        revisions = {name: now.get(name, 0) for name in grounds.revisions}
        return msgspec.structs.replace(grounds, revisions=revisions, questions=questions)

    async def _are_current(self, grounds: Grounds) -> bool:
        now = (await self._present.moment()).revisions
        if grounds.facilities < len(now):
            return False
        return all(revision >= now.get(name, 0) for name, revision in grounds.revisions.items())

    async def _is_rest_as_it_was(self, grounds: Grounds) -> bool:
        if grounds.vocabulary is not None and grounds.vocabulary != (await self._vocabulary.get()).digest:
            return False
        for export_id, mark in grounds.exports.items():
            if not await self._present.is_export_as(export_id, mark):
                return False
        return True

    def known_generation(self) -> int:
        """Return the generation if the present is known without waiting, else `UNKNOWN`."""
        return self._present.generation if self._present.peek() is not None else UNKNOWN


UNKNOWN, NEVER = -1, -2
"""Generations that are none: of a present that is not known, and of an answer that is always looked at."""


# --- equal operations -------------------------------------------------------------------------------------------------


_Told: TypeAlias = tuple[Kept | None, Execution]


class KeptAnswers(Executor):
    """An executor that tells again what was told before.

    Parameters
    ----------
    version
        What the schema and its answers depend on besides the catalogue; another version has other answers.
    """

    def __init__(
        self,
        schema: strawberry.Schema,
        *,
        cache: CacheManager,
        flights: Flights,
        ground: Ground,
        admission: Admission,
        version: str = "",
        **options: Any,
    ) -> None:
        super().__init__(schema, **options)
        self._cache = cache
        self._flights = flights
        self._ground = ground
        self._admission = admission
        self._version = hashlib.sha256(f"{version}\0{schema.as_str()}".encode()).digest()
        self._texts: OrderedDict[tuple[str, str | None], bytes | None] = OrderedDict()

    async def execute(self, operation: Operation, context: Context) -> Execution:
        """Carry out a query or a mutation, see `Executor.execute`."""
        key = self.key_of(operation)
        if key is None:
            return await self._execute(operation, context)
        seen = _SEEN.get()
        flight = ("bytes", key, self._ground.generation)
        kept, execution = await self._flights.here(flight, lambda: self._find_or_make(key, operation, context))
        if kept is not None and seen is not None:
            seen.key, seen.kept = key, kept
        return execution

    def key_of(self, operation: Operation) -> str | None:
        """Return the key of a query's answer, the same for all ways to write it; None of what is not kept."""
        text = self._digest_of(operation.document, operation.name)
        if text is None:
            return None
        try:
            variables = orjson.dumps(operation.variables or {}, option=orjson.OPT_SORT_KEYS)
        except TypeError:
            return None
        content = b"\0".join((self._version, PUBLIC.encode(), text, variables))
        return hashlib.blake2b(content, digest_size=24).hexdigest()

    def _digest_of(self, text: str, name: str | None) -> bytes | None:
        """Return the digest of a document and an operation's name; None unless that is a correct query."""
        known = (text, name)
        if known in self._texts:
            self._texts.move_to_end(known)
            return self._texts[known]
        document = self.check(text)
        operation = None if document.errors or document.node is None else document.find_operation(name)
        found = None
        if operation is not None and operation.operation is OperationType.QUERY and document.node is not None:
            found = hashlib.blake2b(f"{name or ''}\0{print_ast(document.node)}".encode(), digest_size=24).digest()
        self._texts[known] = found
        if len(self._texts) > MAX_OPERATIONS:
            self._texts.popitem(last=False)
        return found

    async def find(self, key: str) -> Kept | None:
        """Return the answer that is kept under a key, if it still holds."""
        raw = await self._cache.find_bytes(key)
        kept = None if raw is None else Kept.read(raw)
        if kept is None or await self._ground.holds(kept.grounds):
            return kept
        grounds = await self._ground.forward(kept.grounds)
        if grounds is None:
            return None
        kept = Kept.of(grounds, kept.body)
        await self._cache.put_bytes(key, kept.raw)
        return kept

    async def _find_or_make(self, key: str, operation: Operation, context: Context) -> _Told:
        async def find() -> _Told | None:
            kept = await self.find(key)
            return None if kept is None else (kept, _told_again(kept))

        async def make() -> tuple[_Told, bool]:
            kept, execution = await self._make(key, operation, context)
            if kept is not None:
                await self._cache.put_bytes(key, kept.raw)
            return (kept, execution), kept is not None

        told = await find()
        return await self._flights.everywhere(key, find=find, make=make) if told is None else told

    async def _make(self, key: str, operation: Operation, context: Context) -> _Told:
        logger.debug("executing an operation", extra={"action": "execute", "operation": key})
        # Before: what joins meanwhile may be missing.
        facilities = await self._ground.count_facilities()
        execution = await self._execute(operation, context)
        footprint = execution.footprint
        is_lasting = not (execution.is_refused or execution.has_errors or footprint.is_passing or footprint.is_empty)
        if not is_lasting or len(execution.body) > MAX_BODY_BYTES:
            return None, execution
        return Kept.of(Grounds.of(execution.body, footprint, facilities=facilities), execution.body), execution

    async def _execute(self, operation: Operation, context: Context) -> Execution:
        """Execute an operation when it is its client's turn."""
        seen = _SEEN.get()
        try:
            async with self._admission.turn("" if seen is None else seen.client):
                return await super().execute(operation, context)
        except BusyError as error:
            raise too_busy() from error


def _told_again(kept: Kept) -> Execution:
    return Execution(body=kept.body, is_refused=False, has_errors=False, footprint=Footprint())


# --- equal requests ---------------------------------------------------------------------------------------------------


@dataclass(kw_only=True, slots=True)
class _Seen:
    """What became of a request further in: which kept answer was told."""

    client: str
    key: str | None = None
    kept: Kept | None = None


_SEEN: ContextVar[_Seen | None] = ContextVar("seen", default=None)


@dataclass(kw_only=True, slots=True)
class _Entry:
    """A request that was answered by a kept answer: how, and which."""

    request: bytes
    key: str
    head: bytes
    grounds: Grounds
    generation: int
    """Of the present when it last was found to hold; `NEVER` if that does not tell all that can have changed."""
    start: Message
    body: Message | None
    """None when only the way to Redis is remembered."""
    has_body: bool
    """False of one that tells the client that it has the answer already."""
    whole: bytes | None = None
    """The bytes of a request as it was sent, head and all."""
    wire: bytes = b""
    """The bytes of the answer as they are sent, but for headers that the server adds and a body that is not held."""

    @property
    def n_bytes(self) -> int:
        held = 0 if self.body is None else len(self.body["body"])
        return ENTRY_BYTES + len(self.request) + len(self.head) + held + len(self.whole or b"") + len(self.wire)


class Finder(Protocol):
    """What is needed of the cache."""

    async def find_bytes(self, key: str) -> bytes | None:
        """Return what is kept of a finished answer."""
        ...

    def ask_bytes(self, key: str) -> "asyncio.Future[Any] | None":
        """Return what will be the same; None when that cannot be asked at once."""
        ...


class AnswersInFront:
    """Answers requests that are equal to earlier ones, byte for byte; hands on all others.

    It stands in front of everything else, and tells headers again as they were told.

    Parameters
    ----------
    lru_bytes
        How much of answers is held in this process; 0 asks Redis each time.
    """

    def __init__(self, app: ASGIApp, *, cache: Finder, ground: Ground, lru_bytes: int = LRU_BYTES) -> None:
        self._app = app
        self._cache = cache
        self._ground = ground
        self._lru_bytes = lru_bytes
        self._entries: OrderedDict[bytes, _Entry] = OrderedDict()
        self._wholes: dict[bytes, _Entry] = {}
        self.n_bytes = 0
        """What the entries take."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, or hand it on."""
        said = _said(scope) if scope["type"] == "http" and scope["path"].startswith(PATH) else None
        if said is None:
            await self._app(scope, receive, send)
            return
        body = b""
        if scope["method"] == "POST":
            # Mostly the body is there already; then no clock is started, which would take longer than all the rest.
            step = receive().__await__()
            try:
                message = await _Begun(next(step), step).wait(BODY_S)
            except StopIteration as done:
                message = done.value
            if message is None:
                await self._app(scope, receive, send)
                return
            body = message.get("body", b"")
            if message["type"] != "http.request" or message.get("more_body") or len(body) > MAX_REQUEST_BYTES:
                await self._app(scope, _Replay(message, receive), send)
                return
            receive = _Replay(message, receive)
        request = _joined(said, body)
        entry = self._entries.get(request)
        if entry is None:
            await self._hand_on(request, scope, receive, send)
            return
        told = entry.body
        if told is None or entry.generation != self._ground.known_generation():
            told = await self._find_body(entry)
        if told is None:
            await self._hand_on(request, scope, receive, send)
            return
        self._entries.move_to_end(request)
        if WHOLE in scope and entry.whole is None:
            self._know_whole(scope, entry)
        await send(entry.start)
        await send(told)

    def tell(self, whole: bytes) -> bytes | None:
        """Return the answer to the bytes of a request, from its first header on; None when it is not known to hold."""
        entry = self._wholes.get(whole)
        if entry is None or entry.body is None or entry.generation != self._ground.known_generation():
            return None
        self._entries.move_to_end(entry.request)
        return entry.wire

    def ask(self, whole: bytes) -> "asyncio.Future[Any] | None":
        """Ask Redis for the answer to the bytes of a request; None when that is not known to be of use."""
        entry = self._wholes.get(whole)
        if entry is None or entry.body is not None or entry.generation != self._ground.known_generation():
            return None
        return self._cache.ask_bytes(entry.key)

    def take(self, whole: bytes, asked: "asyncio.Future[Any]") -> bytes | None:
        """Return the answer that Redis gave, as `tell` does."""
        entry = self._wholes.get(whole)
        raw = None if asked.cancelled() or asked.exception() is not None else asked.result()
        if entry is None or raw is None or not raw.startswith(entry.head):
            return None
        # Something may have come in while Redis was asked.
        return entry.wire + raw[len(entry.head) :] if entry.generation == self._ground.known_generation() else None

    def _know_whole(self, scope: Scope, entry: _Entry) -> None:
        """Note the bytes of a request, so that the next one like it need not be read."""
        is_usual = scope["http_version"] == "1.1" and scope["method"] in ("GET", "POST")
        is_lasting = not any(name in (b"connection", b"expect", b"upgrade") for name, _ in scope["headers"])
        if entry.start["status"] != 200 or not (is_usual and is_lasting):
            return
        headers = b"".join(b"%b: %b\r\n" % header for header in entry.start["headers"])
        entry.whole, entry.wire = scope[WHOLE], headers + b"\r\n"
        if entry.body is not None:
            entry.wire += entry.body["body"]
        self._wholes[entry.whole] = entry
        self.n_bytes += len(entry.whole) + len(entry.wire)
        self._keep_within_bounds()

    async def _find_body(self, entry: _Entry) -> Message | None:
        """Return the body of an answer, from here or from Redis, if it holds and its headers are known."""
        if entry.body is not None and await self._holds(entry):
            return entry.body
        raw = await self._cache.find_bytes(entry.key)
        if raw is None or not (raw.startswith(entry.head) or self._is_brought_forward(entry, raw)):
            return None
        if entry.generation != self._ground.known_generation() and not await self._holds(entry):
            return None
        body = {"type": "http.response.body", "body": raw[len(entry.head) :] if entry.has_body else b""}
        if entry.body is not None:
            entry.body = body
        return body

    async def _holds(self, entry: _Entry) -> bool:
        """Tell whether an answer holds, and note as of which generation, if that says all."""
        generation = self._ground.generation
        if not await self._ground.holds(entry.grounds):
            return False
        is_of_revisions_alone = entry.grounds.vocabulary is None and not entry.grounds.exports
        entry.generation = generation if is_of_revisions_alone else NEVER
        return True

    def _is_brought_forward(self, entry: _Entry, raw: bytes) -> bool:
        """Tell whether what Redis has is the same answer on newer grounds, and note these if it is."""
        kept = Kept.read(raw)
        if kept is None or kept.grounds.digest != entry.grounds.digest:
            return False
        self.n_bytes += len(kept.head) - len(entry.head)
        entry.head, entry.grounds, entry.generation = kept.head, kept.grounds, NEVER
        return True

    async def _hand_on(self, request: bytes, scope: Scope, receive: Receive, send: Send) -> None:
        """Let the service answer, and remember its answer if it is one that is kept."""
        client = scope.get("client")
        seen, sent = _Seen(client=client[0] if client else ""), list[Message]()

        async def send_and_look(message: Message) -> None:
            if len(sent) <= 2:  # of more than that nothing is kept
                sent.append(message)
            await send(message)

        token = _SEEN.set(seen)
        try:
            await self._app(scope, receive, send_and_look)
        finally:
            _SEEN.reset(token)
        if seen.key is not None and seen.kept is not None and _tells(sent, seen.kept.body):
            self._remember(request, seen.key, seen.kept, *sent)

    def _remember(self, request: bytes, key: str, kept: Kept, start: Message, body: Message) -> None:
        start = {**start, "headers": [*start["headers"], (b"cache-status", b"catchment; hit")]}
        is_held = len(kept.body) * 4 <= self._lru_bytes
        self._forget(request)
        self._entries[request] = entry = _Entry(
            request=request,
            key=key,
            head=kept.head,
            grounds=kept.grounds,
            generation=NEVER,  # it is looked at when it is asked for
            start=start,
            body=body if is_held else None,
            has_body=bool(body.get("body")),
        )
        self.n_bytes += entry.n_bytes
        self._keep_within_bounds()

    def _keep_within_bounds(self) -> None:
        while self.n_bytes > max(self._lru_bytes, LRU_BYTES // 4):
            self._forget(next(iter(self._entries)))

    def _forget(self, request: bytes) -> None:
        if (entry := self._entries.pop(request, None)) is not None:
            self.n_bytes -= entry.n_bytes
            if entry.whole is not None:
                del self._wholes[entry.whole]


_TOLD_APART = frozenset(
    {b"accept", b"accept-encoding", b"content-encoding", b"content-type", b"if-none-match", b"origin"}
)
"""Headers by which equal bodies are answered in different ways."""


_TELLS_WHO = frozenset({b"authorization", b"cookie"})
"""Headers by which a client says who it is: it may see more than everybody, or less."""


def _said(scope: Scope) -> list[bytes] | None:
    """Return all but the body that decides how a request is answered; None when it is not one of everybody's."""
    said = [scope["method"].encode(), scope["path"].encode(), scope["query_string"]]
    for header in scope["headers"]:
        if header[0] in _TOLD_APART:
            said += header
        elif header[0] in _TELLS_WHO:
            return None
    return said


def _joined(said: list[bytes], body: bytes) -> bytes:
    # With its length, so that nothing can be moved from one part to the next.
    return b"\0".join((*said, b"%d" % len(body), body))


def _tells(sent: list[Message], body: bytes) -> bool:
    """Tell whether `body` was sent, in one piece, or that the client has it already."""
    if len(sent) != 2 or sent[0]["type"] != "http.response.start" or sent[1].get("more_body"):
        return False
    return sent[1].get("body", b"") == (b"" if sent[0]["status"] == 304 else body) and sent[0]["status"] in (200, 304)


class _Begun:
    """What was begun to be waited for, to be waited for to its end."""

    def __init__(self, waited_for: Any, step: Generator[Any, Any, Message]) -> None:
        self._waited_for = waited_for
        self._step = step

    async def wait(self, limit_s: float) -> Message | None:
        """Return the message; None when it does not come in time."""
        try:
            async with asyncio.timeout(limit_s):
                return await self
        except TimeoutError:
            return None

    def __await__(self) -> Generator[Any, Any, Message]:
        try:
            yield self._waited_for
        except BaseException:
            self._step.close()
            raise
        return (yield from self._step)


class _Replay:
    """Gives a message that was received already, and then those that follow."""

    def __init__(self, message: Message, receive: Receive) -> None:
        self._message: Message | None = message
        self._receive = receive

    async def __call__(self) -> Message:
        if self._message is not None:
            message, self._message = self._message, None
            return message
        return await self._receive()
