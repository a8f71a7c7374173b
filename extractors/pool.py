"""Extracts in processes of its own, so that a file which hangs, swells or kills its reader harms nothing else.

Each process says in shared memory which file it is at and since when. So the parent knows whom to end when a file takes
too long, and which file it was when a process died; the files beside it are read by another process.
"""

import fcntl
import gc
import logging
import multiprocessing
import os
import resource
import signal
import time
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from ctypes import Array, c_double
from dataclasses import dataclass, field, replace
from itertools import islice
from multiprocessing.connection import Connection, wait
from multiprocessing.context import ForkServerContext, ForkServerProcess
from types import TracebackType
from typing import NamedTuple, Protocol, Self

import msgspec

from extractors.building import MAX_WARNINGS
from extractors.extract import Outcome

logger = logging.getLogger(__name__)

CHUNK_FILES = 16
"""Files handed to a process at once: enough to hide the way there and back, few enough to share out evenly."""

CHUNKS_AHEAD = 8
"""Chunks under way or read ahead per process, so that a slow file does not make the others wait at once."""

PRELOAD = ("extractors.extract", "astropy.io.fits", "astropy.time", "h5py")
"""Imported once, by the server that the processes are forked from, which then share the pages."""

_CHUNKS_PER_PROCESS = 2
"""Chunks that a process holds: one to read and one waiting. Both ends of a pipe may be written to at once, and with
one waiting chunk the parent's end never fills up."""

_GROUP_SECONDS = 0.1
"""Outcomes of a chunk go back after this time, whole or not: what a process has not sent is lost when it dies."""

_START_SECONDS = 60.0
"""Longest time that a process may spend outside of files: to start, to import, to unpickle."""

_LEAVE_SECONDS = 0.5
"""Grace for a process to end by itself."""

_DIE_SECONDS = 5.0
"""Longest wait for a killed process: only one that waits for a dead mount needs longer, perhaps for ever."""

_OOM_SCORE = "500"
"""How readily the system ends these processes when memory is short, of 1000: before the experiment's own."""

_MAX_STUCK = 16
"""Killed processes that may linger: with more of them, the storage is dead rather than its files bad."""

_MAX_SETBACKS = 3
"""Ends between two files, without an outcome in between, after which a chunk's next file is to blame. One is usual:
a process leaves when it is swollen, or somebody ends it by hand."""


class FileExtractor(Protocol):
    """What a pool runs: something that can be pickled and describes one file at a time."""

    def extract(self, path: str) -> Outcome:
        """Return what came of the file at `path`."""

    def without_description(self) -> "FileExtractor":
        """Return an extractor that learns only what the storage knows of a file."""


@dataclass(frozen=True, kw_only=True, slots=True)
class FileLimits:
    """What one file may cost."""

    seconds: float = 120.0
    memory_bytes: int = 2 * 1024**3
    """Private memory beyond what the process has when it starts; mapped files and libraries do not count."""

    def __post_init__(self) -> None:
        for name in ("seconds", "memory_bytes"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} is {getattr(self, name)}, expected more than 0")


# ---------------------------------------------------------------------------------------------------- both sides


@dataclass(frozen=True, kw_only=True, slots=True)
class _Request:
    """What a process is asked to read."""

    paths: list[str]
    is_plain: bool
    """Whether only what the storage knows is wanted, because reading the content ended a process."""


class _Place:
    """Where a process is, in memory shared with the parent, who can still read it when the process hangs or is gone."""

    def __init__(self, cells: Array[c_double]) -> None:
        self._cells = cells
        self._cells[0] = -1

    @property
    def index(self) -> int:
        """The file of the request that was last begun, -1 before the first."""
        return int(self._cells[0])

    @property
    def since(self) -> float:
        """When the file was begun, on the monotonic clock that all processes share; 0 between files."""
        return self._cells[1]

    def begin(self, index: int) -> None:
        """Note that the file at `index` is begun."""
        self._cells[0] = index
        self._cells[1] = time.monotonic()

    def finish(self) -> None:
        """Note that the file is done."""
        self._cells[1] = 0


def _without_content(outcome: Outcome, ending: str) -> Outcome:
    """Return `outcome`, of an extractor without description, as that of a file whose reading ended like this."""
    if outcome.record is None:
        return Outcome(path=outcome.path, failure=ending)
    failure = f"content: {ending}"
    warnings = [failure, *outcome.record.warnings][:MAX_WARNINGS]
    record = msgspec.structs.replace(outcome.record, warnings=warnings)
    # It was matched, or its content would not have been read.
    return replace(outcome, record=record, is_matched=True, failure=failure)


# ---------------------------------------------------------------------------------------------------- parent


class ExtractionPool:
    """A few processes that extract; use it in a ``with`` statement.

    The processes are forked from a server without threads and connections, not from the caller, and start when there
    is work for them.

    Parameters
    ----------
    processes
        How many files are read at once.
    limits
        What one file may cost. A file that needs more is registered with what its storage knows, as is one that
        kills its process.
    preload
        Modules that most files need. The server lives as long as the program: only its first pool decides.
    """

    def __init__(
        self,
        extractor: FileExtractor,
        *,
        processes: int,
        limits: FileLimits | None = None,
        preload: Sequence[str] = PRELOAD,
    ) -> None:
        if processes < 1:
            raise ValueError(f"processes is {processes}, expected at least 1")
        self._extractor = extractor
        self._processes = processes
        self._limits = limits or FileLimits()
        self._context = multiprocessing.get_context("forkserver")
        self._context.set_forkserver_preload(list(preload))
        self._workers: list[_Worker] = []
        self._waiting: deque[_Chunk] = deque()
        self._stuck: list[_Worker] = []
        self._is_closed = False

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._is_closed = True
        for worker in self._workers:
            worker.hang_up()
        _end_processes([worker.process for worker in self._workers], grace_s=_LEAVE_SECONDS)
        for worker in [*self._workers, *self._stuck]:
            worker.close()
        self._workers.clear()
        self._stuck.clear()

    def extract(self, paths: Iterable[str]) -> Iterator[Outcome]:
        """Yield one outcome per path, in order; reads `paths` only a little ahead.

        Raises
        ------
        ChildProcessError
            No process can be started, or so many hang in the storage that cannot be ended that it must be dead.
        """
        remaining = iter(paths)
        ahead: deque[_Chunk] = deque()
        try:
            while True:
                if self._is_closed:
                    raise ValueError("the pool is closed, expected an open one")
                is_fed = self._read_ahead(remaining, ahead)
                if not ahead:
                    return
                self._hand_out()
                front = ahead[0]
                self._listen(is_patient=not is_fed and not front.has_news)
                yield from front.iter_news()
                if front.is_complete:
                    ahead.popleft()
        finally:
            self._abandon(ahead)

    def _read_ahead(self, remaining: Iterator[str], ahead: deque["_Chunk"]) -> bool:
        """Take one more chunk if there is room and one is left; only one, as listing a storage may be slow."""
        if len(ahead) > self._processes * CHUNKS_AHEAD:
            return False
        paths = list(islice(remaining, CHUNK_FILES))
        if not paths:
            return False
        chunk = _Chunk(paths=paths)
        ahead.append(chunk)
        self._waiting.append(chunk)
        return True

    def _hand_out(self) -> None:
        while self._waiting:
            worker = self._find_free()
            if worker is None:
                return
            worker.give(self._waiting.popleft())

    def _find_free(self) -> "_Worker | None":
        """Return who should get the next chunk: an idle process, or else a new one, or else the least busy."""
        least_busy = min(self._workers, key=lambda worker: len(worker.tasks), default=None)
        if least_busy is not None and not least_busy.tasks:
            return least_busy
        if len(self._workers) < self._processes:
            self._workers.append(_Worker(self._context, self._extractor, self._limits))
            return self._workers[-1]
        if least_busy is not None and len(least_busy.tasks) < _CHUNKS_PER_PROCESS:
            return least_busy
        return None

    def _listen(self, *, is_patient: bool) -> None:
        """Take in what the processes have to say, waiting for the first of them if `is_patient`; end who is overdue."""
        busy = [worker for worker in self._workers if worker.tasks]
        seconds = min((worker.seconds_to_look() for worker in busy), default=0.0) if is_patient else 0.0
        ready = set(wait([source for worker in busy for source in worker.sources], seconds))
        for worker in busy:
            if not ready.isdisjoint(worker.sources):
                if not worker.hear(self._waiting):
                    self._bury(worker)
            elif worker.is_overdue:
                self._bury(worker, overdue_at=time.monotonic())

    def _bury(self, worker: "_Worker", *, overdue_at: float | None = None) -> None:
        """Part with a process that died, or was found to take too long, and note which file it was."""
        self._end([worker], grace_s=_LEAVE_SECONDS if overdue_at is None else 0)
        worker.explain_end(overdue_at)
        self._waiting.extendleft(task.chunk for task in reversed(worker.tasks) if not task.chunk.is_complete)

    def _dismiss(self, workers: Sequence["_Worker"]) -> None:
        """Part with processes that did nothing wrong; what they had not done is done by others."""
        self._end(workers, grace_s=0)
        for worker in workers:
            self._waiting.extendleft(task.chunk for task in reversed(worker.tasks))

    def _abandon(self, chunks: Iterable["_Chunk"]) -> None:
        """Forget `chunks`, whose outcomes nobody wants any more; those of another iteration are kept."""
        unwanted = {id(chunk) for chunk in chunks}
        self._dismiss([worker for worker in self._workers if any(id(task.chunk) in unwanted for task in worker.tasks)])
        self._waiting = deque(chunk for chunk in self._waiting if id(chunk) not in unwanted)

    def _end(self, workers: Sequence["_Worker"], *, grace_s: float) -> None:
        """End processes and take in what they had sent."""
        _end_processes([worker.process for worker in workers], grace_s=grace_s)
        for worker in workers:
            self._workers.remove(worker)
            while worker.hear(self._waiting):
                pass
        ended = [*self._stuck, *workers]
        self._stuck = [worker for worker in ended if worker.process.is_alive()]
        for worker in ended:
            if worker not in self._stuck:
                worker.close()
        if len(self._stuck) > _MAX_STUCK:
            raise ChildProcessError(
                f"{len(self._stuck)} processes hang in reads that nothing can end: does the storage still answer?"
            )


@dataclass(kw_only=True, slots=True, eq=False)
class _Chunk:
    """Consecutive paths, and what came of the first of them."""

    paths: list[str]
    outcomes: list[Outcome] = field(default_factory=list)
    endings: dict[int, str] = field(default_factory=dict)
    """How reading ended a process, by the position of the file: these are not read like the others again."""
    yielded: int = 0
    setbacks: int = 0
    """Processes that ended with this chunk since the last outcome, at no file."""

    @property
    def is_complete(self) -> bool:
        """Whether there is nothing left to read."""
        return len(self.outcomes) == len(self.paths)

    @property
    def has_news(self) -> bool:
        """Whether there are outcomes that `iter_news` has not given."""
        return self.yielded < len(self.outcomes)

    def iter_news(self) -> Iterator[Outcome]:
        """Yield the outcomes that were not yielded before."""
        while self.has_news:
            self.yielded += 1
            yield self.outcomes[self.yielded - 1]

    def next_task(self) -> "_Task":
        """Return the next files that can be read in one go: up to one that is known to be bad, or that one alone."""
        start = len(self.outcomes)
        if start in self.endings:
            return _Task(chunk=self, start=start, stop=start + 1, is_plain=True)
        stop = min((bad for bad in self.endings if bad > start), default=len(self.paths))
        return _Task(chunk=self, start=start, stop=stop, is_plain=False)

    def add(self, outcomes: Sequence[Outcome]) -> None:
        """Take in what came of the next files."""
        self.setbacks = 0
        for outcome in outcomes:
            ending = self.endings.get(len(self.outcomes))
            self.outcomes.append(outcome if ending is None else _without_content(outcome, ending))

    def blame(self, position: int, ending: str, *, was_plain: bool) -> None:
        """Note how reading the file at `position` ended a process; for a second time, that is its outcome."""
        if was_plain:
            self.add([Outcome(path=self.paths[position])])
        else:
            self.endings[position] = ending


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class _Task:
    """A part of a chunk, as given to a process."""

    chunk: _Chunk
    start: int
    stop: int
    is_plain: bool

    @property
    def is_done(self) -> bool:
        return len(self.chunk.outcomes) >= self.stop

    @property
    def request(self) -> _Request:
        return _Request(paths=self.chunk.paths[self.start : self.stop], is_plain=self.is_plain)


class _Worker:
    """The parent's side of one process."""

    def __init__(self, context: ForkServerContext, extractor: FileExtractor, limits: FileLimits) -> None:
        self.tasks: deque[_Task] = deque()
        """What the process has been given and not yet done, in order; it is at the first."""
        self.exit_code: int | None = None
        self._limits = limits
        self._place = _Place(context.RawArray(c_double, 2))
        self._connection, theirs = context.Pipe()
        # A daemon, so that a caller who never closes the pool is not kept from ending.
        self.process = context.Process(target=_serve, args=(extractor, limits, theirs, self._place), daemon=True)
        with theirs:
            self.process.start()
        self._heard_at = time.monotonic()

    @property
    def sources(self) -> tuple[Connection, int]:
        """What becomes ready when there is something to hear, or the process is dead."""
        return self._connection, self.process.sentinel

    @property
    def is_overdue(self) -> bool:
        """Whether the process is at its file, or outside of files, for too long."""
        return self._due() < time.monotonic()

    def seconds_to_look(self) -> float:
        """Return when to look again: before, the process cannot be overdue, even if it is about to begin a file."""
        return max(0.0, min(self._due() - time.monotonic(), self._limits.seconds, _START_SECONDS))

    def _due(self) -> float:
        since = self._place.since
        return since + self._limits.seconds if since else self._heard_at + _START_SECONDS

    def give(self, chunk: _Chunk) -> None:
        """Send the next part of `chunk`."""
        if not self.tasks:
            self._heard_at = time.monotonic()
        task = chunk.next_task()
        self.tasks.append(task)
        with suppress(ConnectionError):  # it is dead, which is dealt with when it is next listened to
            self._connection.send(task.request)

    def hear(self, waiting: deque[_Chunk]) -> bool:
        """Take in the next outcomes, and put a chunk that needs another turn to the front of `waiting`.

        False when there are none and, if its sources are ready, none will come.
        """
        try:
            if not self._connection.poll():
                return False
            outcomes = self._connection.recv()
        except (EOFError, ConnectionError):
            return False
        self._heard_at = time.monotonic()
        task = self.tasks[0]
        task.chunk.add(outcomes)
        if task.is_done:
            self.tasks.popleft()
            if not task.chunk.is_complete:
                waiting.appendleft(task.chunk)
        return True

    def explain_end(self, overdue_at: float | None) -> None:
        """Blame the file that the process was at when it ended, or was ended because it looked overdue."""
        if not self.tasks:
            return
        task, index, since = self.tasks[0], self._place.index, self._place.since
        # An overdue process may have come to its next file in the moment before it was killed.
        if since and (overdue_at is None or overdue_at - since > self._limits.seconds):
            task.chunk.blame(task.start + index, self._ending(overdue_at), was_plain=task.is_plain)
            return
        task.chunk.setbacks += 1
        if task.chunk.setbacks == _MAX_SETBACKS:
            if index < 0:
                raise ChildProcessError(f"{_MAX_SETBACKS} processes ended before they read a file: {self._how()}")
            task.chunk.blame(len(task.chunk.outcomes), self._ending(None), was_plain=task.is_plain)

    def hang_up(self) -> None:
        """Let the process know that nothing more will come."""
        self._connection.close()

    def close(self) -> None:
        """Give back what belongs to the process, which is over or will never be."""
        self.exit_code = self.process.exitcode
        self._connection.close()
        if self.exit_code is None:
            # At exit multiprocessing would wait for it, perhaps for ever: a sentinel without a writer says it is over.
            with open(os.devnull, "rb") as over:
                os.dup2(over.fileno(), self.process.sentinel, inheritable=False)
            self.process.join()
        self.process.close()

    def _ending(self, overdue_at: float | None) -> str:
        if overdue_at is not None:
            return f"reading took longer than {self._limits.seconds:g} s and was ended"
        return f"reading the file ended the process that read it: {self._how()}"

    def _how(self) -> str:
        if self.exit_code is None:
            return "it does not answer"
        if self.exit_code >= 0:
            return f"exit code {self.exit_code}"
        if self.exit_code == -signal.SIGKILL:
            return "SIGKILL, as the system does when memory is short"
        return signal.Signals(-self.exit_code).name


def _end_processes(processes: Sequence[ForkServerProcess], *, grace_s: float) -> None:
    """End processes, by force after `grace_s`; those in an uninterruptible wait live on for a while, or for ever."""
    _join(processes, grace_s)
    for process in processes:
        process.kill()
    _join(processes, _DIE_SECONDS)
    for process in processes:
        if process.is_alive():
            logger.warning("process %s hangs in a read and cannot be ended", process.pid)


def _join(processes: Sequence[ForkServerProcess], seconds: float) -> None:
    """Wait until all have ended, but not longer than `seconds` in all."""
    until = time.monotonic() + seconds
    for process in processes:
        process.join(max(0.0, until - time.monotonic()))


# ---------------------------------------------------------------------------------------------------- process


def _serve(extractor: FileExtractor, limits: FileLimits, connection: Connection, place: _Place) -> None:
    """Read the files of one request after the other until the parent hangs up, or a fresh process would do better."""
    _settle_in(limits)
    reader = _Reader(extractor, limits, place)
    with suppress(EOFError, ConnectionError):
        while not reader.is_swollen:
            request: _Request = connection.recv()
            for group in reader.iter_groups(request):
                connection.send(group)


class _Reader:
    """Reads files, and says where it is."""

    def __init__(self, extractor: FileExtractor, limits: FileLimits, place: _Place) -> None:
        self._extractor = extractor
        self._plain = extractor.without_description()
        self._limits = limits
        self._place = place
        self._swollen_bytes = _memory_bytes().resident + limits.memory_bytes // 2

    @property
    def is_swollen(self) -> bool:
        """Whether libraries keep so much memory that the next files would miss it."""
        return _memory_bytes().resident > self._swollen_bytes

    def iter_groups(self, request: _Request) -> Iterator[list[Outcome]]:
        """Yield outcomes in groups: all at once when files are read quickly, and sooner when they are not.

        Stops early when the process is swollen.
        """
        extractor = self._plain if request.is_plain else self._extractor
        group: list[Outcome] = []
        due = time.monotonic() + _GROUP_SECONDS
        for index, path in enumerate(request.paths):
            self._place.begin(index)
            group.append(self._extract(extractor, path))
            self._place.finish()
            if self.is_swollen:
                break
            if time.monotonic() > due:
                yield group
                group = []
                due = time.monotonic() + _GROUP_SECONDS
        if group:
            yield group

    def _extract(self, extractor: FileExtractor, path: str) -> Outcome:
        try:
            return extractor.extract(path)
        except MemoryError:
            pass  # leaving the handler lets go of the traceback, and with it of what fills the memory
        except Exception as error:  # noqa: BLE001 - the top of the job: one file must not end the run
            return Outcome(path=path, failure=f"{type(error).__name__}: {error}")
        gc.collect()
        ending = f"reading needed more than {self._limits.memory_bytes // 1_000_000} MB"
        if extractor is self._plain:
            return Outcome(path=path, failure=ending)
        return _without_content(self._extract(self._plain, path), ending)


def _settle_in(limits: FileLimits) -> None:
    """Make the process harmless: to its parent, whose Ctrl-C and output are not its own, and to the machine."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # What a library prints must not get into the paths that a pipeline step passes on.
    os.dup2(2, 1)
    _set_limit(resource.RLIMIT_CORE, 0)
    with suppress(OSError), open("/proc/self/oom_score_adj", "w") as score:
        score.write(_OOM_SCORE)  # not everywhere may a process offer itself
    # Private memory only. Address space would count libraries and mapped files, resident memory cannot be limited.
    _set_limit(resource.RLIMIT_DATA, _memory_bytes().data + limits.memory_bytes)
    # What the server imported stays as it is: collecting it would write to pages that all processes share.
    gc.freeze()
    _end_with_parent()


def _end_with_parent() -> None:
    """Have the kernel end this process when the parent goes; a thread would not get to run while a library hangs."""
    parent = multiprocessing.parent_process()
    if parent is None:
        raise RuntimeError("found no parent process, expected to be one of a pool")
    signal.signal(signal.SIGIO, signal.SIG_DFL)
    fcntl.fcntl(parent.sentinel, fcntl.F_SETOWN, os.getpid())
    fcntl.fcntl(parent.sentinel, fcntl.F_SETFL, fcntl.fcntl(parent.sentinel, fcntl.F_GETFL) | os.O_ASYNC)
    if wait([parent.sentinel], 0):
        os._exit(1)


def _set_limit(kind: int, value: int) -> None:
    """Lower a limit of this process; one that is lower already stays."""
    soft, hard = resource.getrlimit(kind)
    if soft == resource.RLIM_INFINITY or value < soft:
        resource.setrlimit(kind, (value, hard))


class _Memory(NamedTuple):
    """What this process occupies."""

    resident: int
    data: int


def _memory_bytes() -> _Memory:
    descriptor = os.open("/proc/self/statm", os.O_RDONLY)
    try:
        fields = os.read(descriptor, 256).split()
    finally:
        os.close(descriptor)
    page = resource.getpagesize()
    return _Memory(resident=int(fields[1]) * page, data=int(fields[5]) * page)
