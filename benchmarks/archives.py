"""How fast archives of exports begin and flow, against the same bytes as one file given out by nginx.

The client is a bare socket that throws away what it reads, and both servers are read in turns, so that what is
compared is what the servers do. The contents have just been written: both find them in memory, as far as it fits.
"""

import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from urllib.parse import urlsplit

from aggregator.commands.remote import Remote
from benchmarks.measuring import Sample, Table, gather
from benchmarks.service import BenchmarkError, Servers, Service, cpu_s, peak_rss_mb, running_service
from benchmarks.staging import FILE_BYTES, TINY_BYTES, Tree, catalogue, export

BEGINNINGS = 20
"""How often the first byte is waited for; the figure is the median."""

BUFFER_BYTES = 1 << 20
"""What the client reads at a time."""

LIMIT_S = 300.0
"""A server that sends nothing for so long is given up."""

KINDS = ("zip", "tar")


@dataclass(frozen=True, kw_only=True, slots=True)
class Transfer:
    """One answer, as its client saw it."""

    first_byte_s: float
    duration_s: float
    n_bytes: int


def run(servers: Servers, *, n_files: int, n_tiny: int, repeats: int) -> list[Table]:
    """Measure archives of `n_files` files of 1 MB, and how those of `n_tiny` tiny files, and of a tenth, begin."""
    return [
        _measure_rates(servers, n_files=n_files, repeats=repeats),
        _measure_beginnings(servers, counts=[max(n_tiny // 10, 1), n_tiny], repeats=repeats),
    ]


def _measure_rates(servers: Servers, *, n_files: int, repeats: int) -> Table:
    samples: dict[str, list[Sample]] = {}
    with _exported(servers, n_files, FILE_BYTES) as (service, paths):
        for kind, path in paths.items():
            copy = servers.data_dir / f"archive.{kind}"
            _save(service.url + path, copy)
            try:
                with _nginx(servers.data_dir, copy.name) as static:
                    for _ in range(repeats):
                        sample = _rate_of(service, service.url + path)
                        samples.setdefault(kind, []).append(sample)
                        if static is not None:
                            found = _rates(fetch(static))
                            samples.setdefault(f"{kind} as a file, nginx", []).append(found)
                            sample["ratio to nginx"] = (sample["rate"][0] / found["rate"][0], "")
            finally:
                copy.unlink()
    return Table(
        title=f"Archives of {n_files:,} files of {FILE_BYTES / 1e6:.0f} MB",
        rows=tuple(gather(label, repeated) for label, repeated in samples.items()),
        notes=(
            "one connection, to a client that throws away what it reads; nginx: one process, sendfile",
            "web: largest resident memory since the start of the process; processor: its time for one archive",
        ),
    )


def _rate_of(service: Service, url: str) -> dict[str, tuple[float, str]]:
    begin_s = cpu_s(service.web)
    sample = _rates(fetch(url))
    sample["processor"] = (cpu_s(service.web) - begin_s, "s")
    sample["web"] = (peak_rss_mb(service.web), "MB")
    return sample


def _rates(found: Transfer) -> dict[str, tuple[float, str]]:
    return {"rate": (found.n_bytes / 1e6 / found.duration_s, "MB/s"), "time": (found.duration_s, "s")}


def _measure_beginnings(servers: Servers, *, counts: list[int], repeats: int) -> Table:
    samples: dict[str, list[Sample]] = {}
    for count in counts:
        for _ in range(repeats):
            with _exported(servers, count, TINY_BYTES) as (service, paths):
                for kind, path in paths.items():
                    samples.setdefault(f"{kind} of {count:,} files", []).append(_begin(service, service.url + path))
    return Table(
        title="Beginnings of archives",
        rows=tuple(gather(label, repeated) for label, repeated in samples.items()),
        notes=(
            f"until the first byte of the answer; first: of the first request for the archive; others: median of "
            f"{BEGINNINGS} requests, one after another, each with a connection of its own",
            "last bytes: a request for the last 100 bytes; middle: for 100 bytes in the middle; whole: all of it",
        ),
    )


def _begin(service: Service, url: str) -> Sample:
    before_mb = peak_rss_mb(service.web)
    first = fetch(url, "bytes=0-99")
    size = fetch(url).n_bytes
    ranges = {"beginning": "0-99", "middle": f"{size // 2}-{size // 2 + 99}", "last bytes": "-100"}
    sample: dict[str, tuple[float, str]] = {"first": (1000 * first.first_byte_s, "ms")}
    for name, asked in ranges.items():
        times = [fetch(url, f"bytes={asked}").first_byte_s for _ in range(BEGINNINGS)]
        sample[name] = (1000 * median(times), "ms")
    whole = fetch(url)
    sample["whole"] = (whole.duration_s, "s")
    sample["web, grown by"] = (peak_rss_mb(service.web) - before_mb, "MB")
    return sample


@contextmanager
def _exported(servers: Servers, n_files: int, file_bytes: int) -> Iterator[tuple[Service, dict[str, str]]]:
    """Give a service with one complete export, and the addresses of its archives."""
    tree = Tree(name="disk", root=servers.data_dir / "archive-tree", n_files=n_files, file_bytes=file_bytes)
    shutil.rmtree(tree.root, ignore_errors=True)
    tree.make()
    with running_service(servers, "archives", with_worker=True) as service:
        catalogue(service, tree)
        question = {"facility": ["observatory"]}
        export(service, question, tree)
        with Remote(service.url) as remote:
            found = remote.search(question).export
        if found is None:
            raise BenchmarkError("the answer does not know its export")
        yield service, {kind: f"/exports/{found.id}.{kind}" for kind in KINDS}
    shutil.rmtree(tree.root)


# --- the client, and the server to compare with -----------------------------------------------------------------------


def fetch(url: str, asked: str | None = None, target: Path | None = None) -> Transfer:
    """Get an address, or a range of it, and throw it away unless there is a `target` for it."""
    parts = urlsplit(url)
    header = f"Range: {asked}\r\n" if asked else ""
    request = f"GET {parts.path} HTTP/1.1\r\nHost: {parts.netloc}\r\n{header}Connection: close\r\n\r\n"
    begin = time.perf_counter()
    with socket.create_connection((parts.hostname, parts.port), LIMIT_S) as connection:
        connection.sendall(request.encode())
        received = connection.recv(BUFFER_BYTES)
        first_byte_s = time.perf_counter() - begin
        while b"\r\n\r\n" not in received:
            received += connection.recv(BUFFER_BYTES)
        head, _, body = received.partition(b"\r\n\r\n")
        n_bytes = len(body) + _drain(connection, body, target)
    duration_s = time.perf_counter() - begin
    status, *lines = head.decode("latin-1").lower().split("\r\n")
    expected = next((int(line.partition(":")[2]) for line in lines if line.startswith("content-length:")), -1)
    if status.split()[1] not in ("200", "206") or n_bytes != expected:
        raise BenchmarkError(f"{url}: {status}, {n_bytes} bytes of {expected}")
    return Transfer(first_byte_s=first_byte_s, duration_s=duration_s, n_bytes=n_bytes)


def _drain(connection: socket.socket, body: bytes, target: Path | None) -> int:
    buffer = memoryview(bytearray(BUFFER_BYTES))
    count = 0
    with (target or Path("/dev/null")).open("wb", buffering=0) as output:
        output.write(body)
        while part := connection.recv_into(buffer):
            count += part
            if target is not None:
                output.write(buffer[:part])
    return count


def _save(url: str, target: Path) -> None:
    fetch(url, target=target)


@contextmanager
def _nginx(folder: Path, name: str) -> Iterator[str | None]:
    """Give the address of a file in `folder` at an nginx of our own; None if there is no nginx here."""
    if shutil.which("nginx") is None:
        yield None
        return
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    configuration = folder / "nginx.conf"
    scratch = "".join(
        f"{kind}_temp_path {folder}/nginx-{kind};" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    configuration.write_text(
        f"daemon off; master_process off; pid {folder}/nginx.pid; error_log stderr;\nevents {{}}\n"
        f"http {{ access_log off; sendfile on; {scratch}\n"
        f"server {{ listen 127.0.0.1:{port}; root {folder}; }} }}\n"
    )
    with subprocess.Popen(["nginx", "-c", configuration, "-p", folder], stderr=subprocess.DEVNULL) as process:
        try:
            _wait_for(port)
            yield f"http://127.0.0.1:{port}/{name}"
        finally:
            process.terminate()


def _wait_for(port: int) -> None:
    for _ in range(100):
        try:
            socket.create_connection(("127.0.0.1", port)).close()
        except OSError:
            time.sleep(0.05)
        else:
            return
    raise BenchmarkError("nginx did not start")
