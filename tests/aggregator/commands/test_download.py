import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest

from aggregator.commands import download as module
from aggregator.commands.download import download
from aggregator.commands.failures import Failure

CONTENT = bytes(range(256)) * 4096


@dataclass
class Source:
    """A file on a server whose connections break after so many bytes."""

    content: bytes = CONTENT
    etag: str | None = '"one"'
    breaks_after: list[int] = field(default_factory=list)
    statuses: list[int] = field(default_factory=list)
    asked: list[tuple[str | None, str | None]] = field(default_factory=list)
    """Range and If-Range of each request."""


class Handler(BaseHTTPRequestHandler):
    source: Source

    def do_GET(self) -> None:
        source = self.source
        wanted, known = self.headers.get("Range"), self.headers.get("If-Range")
        source.asked.append((wanted, known))
        if source.statuses:
            self.send_error(source.statuses.pop(0))
            return
        start = int(wanted.removeprefix("bytes=").rstrip("-")) if wanted and known == source.etag else 0
        if start > len(source.content):
            self.send_error(416)
            return
        self.send_response(206 if start else 200)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(source.content) - 1}/{len(source.content)}")
        if source.etag is not None:
            self.send_header("ETag", source.etag)
        self.send_header("Content-Length", str(len(source.content) - start))
        self.end_headers()
        limit = source.breaks_after.pop(0) if source.breaks_after else None
        self.wfile.write(source.content[start:][:limit])
        self.close_connection = True

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def source(monkeypatch: pytest.MonkeyPatch) -> Source:
    monkeypatch.setattr(module, "FIRST_DELAY_S", 0.001)
    return Source()


@pytest.fixture
def http(source: Source) -> Iterator[httpx.Client]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Bound", (Handler,), {"source": source}))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    with httpx.Client(base_url=f"http://127.0.0.1:{server.server_port}", trust_env=False) as client:
        yield client
    server.shutdown()
    thread.join()
    server.server_close()


def nothing(_done: int, _total: int) -> None:
    pass


def test_a_file_appears_whole_and_alone(http: httpx.Client, tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    download(http, "/x", tmp_path / "x.zip", on_progress=lambda done, total: seen.append((done, total)))
    assert (tmp_path / "x.zip").read_bytes() == CONTENT
    assert list(tmp_path.iterdir()) == [tmp_path / "x.zip"]
    assert seen[-1] == (len(CONTENT), len(CONTENT))


def test_a_broken_connection_is_continued_where_it_broke(http: httpx.Client, source: Source, tmp_path: Path) -> None:
    source.breaks_after = [300_000, 300_000]
    download(http, "/x", tmp_path / "x.zip", on_progress=nothing)
    assert (tmp_path / "x.zip").read_bytes() == CONTENT
    assert source.asked[0] == (None, None)
    assert [known for _, known in source.asked[1:]] == ['"one"', '"one"']
    starts = [int(wanted.removeprefix("bytes=").rstrip("-")) for wanted, _ in source.asked[1:] if wanted]
    assert 0 < starts[0] < starts[1]


def test_the_next_run_goes_on_where_this_one_gave_up(http: httpx.Client, source: Source, tmp_path: Path) -> None:
    source.breaks_after = [300_000]
    source.statuses = []
    with pytest.raises(Failure, match="run the same command again"):
        download(http, "/x", tmp_path / "x.zip", on_progress=nothing, attempts=1)
    assert not (tmp_path / "x.zip").exists()
    kept = (tmp_path / "x.zip.part").stat().st_size
    download(http, "/x", tmp_path / "x.zip", on_progress=nothing)
    assert (tmp_path / "x.zip").read_bytes() == CONTENT
    assert source.asked[-1] == (f"bytes={kept}-", '"one"')
    assert kept > 0


def test_another_content_is_never_appended_to_the_old_one(http: httpx.Client, source: Source, tmp_path: Path) -> None:
    source.breaks_after = [300_000]
    with pytest.raises(Failure):
        download(http, "/x", tmp_path / "x.zip", on_progress=nothing, attempts=1)
    source.content, source.etag = CONTENT[::-1], '"two"'
    download(http, "/x", tmp_path / "x.zip", on_progress=nothing)
    assert (tmp_path / "x.zip").read_bytes() == CONTENT[::-1]


@pytest.mark.parametrize("etag", [None, 'W/"one"'])
def test_a_content_that_is_not_named_is_begun_anew(
    etag: str | None, http: httpx.Client, source: Source, tmp_path: Path
) -> None:
    source.etag, source.breaks_after = etag, [300_000]
    download(http, "/x", tmp_path / "x.zip", on_progress=nothing)
    assert (tmp_path / "x.zip").read_bytes() == CONTENT
    assert source.asked == [(None, None), (None, None)]


def test_more_than_there_is_is_begun_anew(http: httpx.Client, source: Source, tmp_path: Path) -> None:
    (tmp_path / "x.zip.part").write_bytes(CONTENT + b"more")
    (tmp_path / "x.zip.part.etag").write_text('"one"')
    download(http, "/x", tmp_path / "x.zip", on_progress=nothing)
    assert (tmp_path / "x.zip").read_bytes() == CONTENT


def test_a_server_that_is_down_is_asked_again_and_given_up_in_the_end(
    http: httpx.Client, source: Source, tmp_path: Path
) -> None:
    source.statuses = [503, 503]
    download(http, "/x", tmp_path / "x.zip", on_progress=nothing)
    source.statuses = [503] * 20
    with pytest.raises(Failure, match="status 503"):
        download(http, "/x", tmp_path / "y.zip", on_progress=nothing)
    assert len(source.asked) == 3 + module.ATTEMPTS


def test_a_refusal_is_not_tried_again(http: httpx.Client, source: Source, tmp_path: Path) -> None:
    source.statuses = [404]
    with pytest.raises(Failure, match="status 404"):
        download(http, "/x", tmp_path / "x.zip", on_progress=nothing)
    assert len(source.asked) == 1
