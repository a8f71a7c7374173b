"""Extracts in processes of their own, so that a file which kills its reader kills nothing else."""

import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, replace
from itertools import islice
from multiprocessing.connection import wait
from types import TracebackType
from typing import Self

import msgspec

from extractors.extract import Extractor, Outcome

CHUNK_FILES = 16
"""Files handed to a process at once: enough to hide the way there and back, few enough to repeat one by one."""

CHUNKS_AHEAD = 2
"""Chunks waiting per process: with these memory is flat, however many files there are."""

_PRELOADED = ["extractors.extract", "astropy.io.fits", "astropy.time", "h5py"]
"""Imported once, by the server that the processes are forked from: half a second each time otherwise."""

_DEATH = "reading the file ended the process that read it"


@dataclass(frozen=True, kw_only=True, slots=True)
class _Task:
    """One chunk on its way, and the executor it was given to."""

    paths: list[str]
    executor: ProcessPoolExecutor
    future: Future[list[Outcome]]


class ExtractionPool:
    """A few processes that extract; use it in a ``with`` statement.

    The processes are started afresh, not forked, because the caller may have threads and open connections.
    """

    def __init__(self, extractor: Extractor, *, processes: int) -> None:
        self._extractor = extractor
        self._processes = processes
        self._executor = _start_executor(processes)
        self._lone_executor: ProcessPoolExecutor | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._executor.shutdown(cancel_futures=True)
        if self._lone_executor is not None:
            self._lone_executor.shutdown(cancel_futures=True)

    def extract(self, paths: Iterable[str]) -> Iterator[Outcome]:
        """Yield one outcome per path, in order; reads `paths` only a little ahead."""
        ahead: deque[_Task] = deque()
        remaining = iter(paths)
        while chunk := list(islice(remaining, CHUNK_FILES)):
            ahead.append(self._submit(chunk))
            if len(ahead) > self._processes * CHUNKS_AHEAD:
                yield from self._collect(ahead.popleft())
        while ahead:
            yield from self._collect(ahead.popleft())

    def _submit(self, paths: list[str]) -> _Task:
        try:
            future = self._executor.submit(self._extractor.extract_all, paths)
        except BrokenProcessPool:
            self._replace(self._executor)
            future = self._executor.submit(self._extractor.extract_all, paths)
        return _Task(paths=paths, executor=self._executor, future=future)

    def _collect(self, task: _Task) -> Iterator[Outcome]:
        try:
            outcomes = task.future.result()
        except BrokenProcessPool:
            self._replace(task.executor)
            # One of all files under way did it, and nobody knows which: each is tried alone.
            outcomes = [self._extract_alone(path) for path in task.paths]
        yield from outcomes

    def _replace(self, broken: ProcessPoolExecutor) -> None:
        if broken is self._executor:
            broken.shutdown(wait=False, cancel_futures=True)
            self._executor = _start_executor(self._processes)

    def _extract_alone(self, path: str) -> Outcome:
        """Return the outcome of one file; should its content kill the reader, what the storage knows of it."""
        outcome = self._try_alone(self._extractor, path)
        if outcome is not None:
            return outcome
        outcome = self._try_alone(self._extractor.without_description(), path)
        if outcome is None or outcome.record is None:
            return Outcome(path=path, failure=_DEATH)
        failure = f"content: {_DEATH}"
        record = msgspec.structs.replace(outcome.record, warnings=[failure])
        return replace(outcome, record=record, failure=failure)

    def _try_alone(self, extractor: Extractor, path: str) -> Outcome | None:
        """Return None when the process did not survive."""
        if self._lone_executor is None:
            self._lone_executor = _start_executor(1)
        try:
            return self._lone_executor.submit(extractor.extract, path).result()
        except BrokenProcessPool:
            self._lone_executor.shutdown(wait=False, cancel_futures=True)
            self._lone_executor = None
            return None


def _start_executor(processes: int) -> ProcessPoolExecutor:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(_PRELOADED)
    return ProcessPoolExecutor(max_workers=processes, mp_context=context, initializer=_settle_in)


def _settle_in() -> None:
    """Leave Ctrl-C to the parent, which ends the run in order; and end with the parent should it be killed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=_end_with, args=(parent.sentinel,), daemon=True).start()


def _end_with(sentinel: int) -> None:
    wait([sentinel])
    os._exit(1)
