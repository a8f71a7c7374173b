"""The client that asks, against a plain HTTP server."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import repeat

import psutil
import pytest

from benchmarks.load import Load, ask
from benchmarks.service import BenchmarkError


@contextmanager
def answering(status: int, body: bytes) -> Iterator[tuple[str, list[bytes]]]:
    """Give the address of a server that answers everything the same, and what it was asked.

    What is posted elsewhere than to ``/graphql`` has its path before it.
    """
    asked: list[bytes] = []

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            question = self.rfile.read(int(self.headers["Content-Length"]))
            asked.append(question if self.path == "/graphql" else f"{self.path} ".encode() + question)
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_arguments: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}", asked
        server.shutdown()
        thread.join()


def ask_all(url: str, bodies: Iterator[bytes], *, connections: int = 1, limit: int = 10_000) -> Load:
    return ask(url, bodies, connections=connections, limit=limit, limit_s=10, service=psutil.Process())


@pytest.mark.parametrize("connections", [1, 4])
def test_every_question_is_asked_once_and_its_latency_kept(connections: int) -> None:
    bodies = [f"question {number}".encode() for number in range(20)]
    with answering(200, b'{"data": {"n": 1}}' * 10_000) as (url, asked):
        load = ask_all(url, iter(bodies), connections=connections)
    assert sorted(asked) == sorted(bodies)
    assert len(load.latencies_s) == 20
    assert 0 < max(load.latencies_s) <= load.duration_s
    assert load.per_second == pytest.approx(20 / load.duration_s)


def test_questions_go_to_the_path_that_is_asked_for() -> None:
    with answering(200, b"{}") as (url, asked):
        ask(url, iter([b"q"]), connections=1, limit=1, limit_s=10, service=psutil.Process(), path="/search")
    assert asked == [b"/search q"]


def test_no_more_questions_are_asked_than_the_limit_allows() -> None:
    with answering(200, b"{}") as (url, asked):
        ask_all(url, repeat(b"again"), connections=3, limit=7)
    assert len(asked) == 7


def test_asking_ends_when_its_time_is_over() -> None:
    with answering(200, b"{}") as (url, asked):
        load = ask(url, repeat(b"again"), connections=1, limit=10**9, limit_s=0.2, service=psutil.Process())
    assert asked
    assert load.duration_s < 5


@pytest.mark.parametrize(
    ("status", "body"), [(503, b"{}"), (200, b'{"data":null,"errors":[{"message":"no such facility"}]}')]
)
def test_an_answer_that_is_no_success_ends_the_benchmark_with_its_text(status: int, body: bytes) -> None:
    with answering(status, body) as (url, _), pytest.raises(BenchmarkError, match=str(status)):
        ask_all(url, repeat(b"question"), connections=2)


def test_asking_nothing_is_an_error() -> None:
    with answering(200, b"{}") as (url, _), pytest.raises(BenchmarkError, match="no question"):
        ask_all(url, iter([]))
