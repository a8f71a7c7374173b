"""`catchment demo`: the whole way once, with real parts.

A service of its own is started as a child process (embedded servers, web process, worker); storages are registered
and extracted over HTTP, a question is asked, its export awaited, downloaded and verified.
"""

import asyncio
import fcntl
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import click
import httpx
import msgspec
import orjson

from aggregator.commands.bundle import Bundle
from aggregator.commands.console import examples, format_bytes, format_count, print_table, showing_progress
from aggregator.commands.failures import EXIT_FAILURE, Failure, Misuse
from aggregator.commands.get import get_bundle, print_bundle
from aggregator.commands.ingest import print_reports
from aggregator.commands.remote import Answer, Remote
from aggregator.commands.serve import GRACE_S, bound_socket, tied_command
from aggregator.commands.servers import attach
from aggregator.commands.settings import environ_of
from aggregator.commands.token import with_tokens
from aggregator.commands.web import LISTENING
from aggregator.embedded import find_running
from aggregator.samples import generate_samples
from aggregator.settings import Settings
from extractors.client import Client
from extractors.courier import IngestReport
from extractors.description import Description
from extractors.extract import Extractor
from extractors.ingest import ScanOptions, register, scan
from extractors.loading import find_description
from extractors.storages.local_tree import LocalTree
from metadata_db.records import Name, Storage
from metadata_db.tokens import Role

DEFAULT_DATA_DIR = Path("~/.local/share/catchment-demo")
"""Apart from the data of a `catchment serve`."""

DEFAULT_PORT = 8000
"""Taken when it is free."""

READY_LIMIT_S = 120.0
"""Longest wait for the service and its worker."""

PREDECESSOR_LIMIT_S = 60.0
"""Longest wait for the service of a demo that was killed: it drains before it ends."""

VERIFIED = "VERIFIED: every file arrived as it was catalogued"
"""What is said in the end, if it is so."""

LOG_TAIL_LINES = 15
"""Last lines of the service's log that are shown with its failure."""


@dataclass(frozen=True, kw_only=True, slots=True)
class DemoStorage:
    """A folder that becomes a storage, whose files are one facility's."""

    name: str
    facility: str
    root: Path
    description: Description | None


@dataclass(kw_only=True, slots=True)
class Steps:
    """Tells what is being done, and remembers how long it took."""

    durations_s: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        """Tell the beginning of a step, and measure it."""
        click.echo(f"\n{len(self.durations_s) + 1}. {name}")
        begin = time.monotonic()
        yield
        self.durations_s[name] = time.monotonic() - begin


@click.command(epilog=examples("catchment demo", "catchment demo --storages /data/experiments --once"))
@click.option(
    "--data-dir",
    type=click.Path(file_okay=False, path_type=Path),
    default=DEFAULT_DATA_DIR,
    show_default=True,
    help="Where everything is kept; remove it when you have seen enough.",
)
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    help=f"Port of the web page.  [default: {DEFAULT_PORT}, or a free one if that is taken]",
)
@click.option("--once", is_flag=True, help="End instead of serving; exit code 0 only if every file was verified.")
@click.option(
    "--storages",
    "folder",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Use the folders below this one as storages, instead of made ones. They are only read.",
)
def command(data_dir: Path, port: int | None, once: bool, folder: Path | None) -> None:
    """Show the whole way once, on files made for it or on your own.

    It starts a service with servers of its own, makes storages of three invented facilities, catalogues them, asks a
    question over all facilities, waits for the export, downloads and verifies it; then it serves until Ctrl-C.
    Nothing outside the data directory is written, and nothing but 127.0.0.1 is listened on.
    """
    # Ending in order needs an exception, whichever way we are told.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    data_dir = data_dir.expanduser().absolute()
    with _sole_demo(data_dir) as service_lock:
        click.echo(f"demo in {data_dir}")
        steps = Steps()
        with steps.step("Make sample storages" if folder is None else "Find the storages"):
            storages = make_storages(data_dir / "samples") if folder is None else find_storages(folder.absolute())
        settings = Settings(data_dir=data_dir, port=_choose_port(port))
        with _started_service(settings, service_lock) as service:
            with steps.step("Start Postgres, Redis, the service and a worker"):
                url = service.read_address()
                _wait_until_ready(service, url)
                click.echo(f"listening on {url}")
            with _admin_token(settings) as token, Remote(url) as remote:
                is_verified = _show_the_way(remote, token, storages, data_dir / "downloads", steps)
            click.echo()
            print_table(("step", "seconds"), [(name, f"{took:.1f}") for name, took in steps.durations_s.items()])
            if not once:
                _serve_on(service, url)
            elif not is_verified:
                raise SystemExit(EXIT_FAILURE)


# The storages


def make_storages(root: Path) -> list[DemoStorage]:
    """Make the sample storages below `root`, unless they are there."""
    with showing_progress("sample files") as progress:
        samples = generate_samples(root, on_progress=progress)
    for sample in samples:
        click.echo(f"{sample.name}: {format_count(sample.n_files, 'file')}, {format_bytes(sample.n_bytes)}")
    return [
        DemoStorage(
            name=sample.name,
            facility=sample.facility,
            root=sample.root,
            description=find_description(sample.facility),
        )
        for sample in samples
    ]


def find_storages(folder: Path) -> list[DemoStorage]:
    """Return one storage for each folder below `folder`, with the Description of its name if there is one.

    Raises
    ------
    Misuse
        There are no folders, or one has a name that no storage can have.
    """
    roots = sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))
    if not roots:
        raise Misuse(f"--storages: {folder} holds no folders, expected one for each storage")
    storages = []
    for root in roots:
        description = find_description(root.name)
        facility = root.name if description is None else description.facility.name
        storages.append(DemoStorage(name=_storage_name(root), facility=facility, root=root, description=description))
        told = "no Description: files only" if description is None else f"Description version {description.version}"
        click.echo(f"{root.name}: {told}")
    return storages


def _storage_name(root: Path) -> str:
    try:
        return msgspec.convert(root.name, type=Name)
    except msgspec.ValidationError as error:
        raise Misuse(
            f"--storages: the folder {root.name!r} cannot be a storage, whose name has 1 to 64 letters, digits and "
            "'._+-', the first a letter or digit"
        ) from error


# The service


@dataclass(frozen=True, kw_only=True, slots=True)
class _Service:
    """The child process `catchment serve`."""

    process: subprocess.Popen[str]
    settings: Settings
    log: Path

    def read_address(self) -> str:
        """Return where it listens, which is the first thing that it says."""
        line = self.process.stdout.readline() if self.process.stdout else ""
        if not line.startswith(LISTENING):
            raise self.failure("the service did not start")
        return line.removeprefix(LISTENING).strip()

    def check(self) -> None:
        """Return when it runs.

        Raises
        ------
        Failure
            It has ended.
        """
        if self.process.poll() is not None:
            raise self.failure(f"the service has ended (exit code {self.process.returncode})")

    def failure(self, what: str) -> Failure:
        """Return an error that shows the end of the log."""
        tail = self.log.read_text(errors="replace").splitlines()[-LOG_TAIL_LINES:]
        return Failure("\n".join([f"{what}; its log {self.log} ends with:", *tail]))

    def stop(self) -> None:
        """Let it drain; kill it when it takes too long."""
        self.process.send_signal(signal.SIGTERM)
        with suppress(subprocess.TimeoutExpired):
            self.process.wait(self.settings.drain_s + 2 * GRACE_S)
        self.process.kill()
        self.process.wait()


@contextmanager
def _started_service(settings: Settings, lock: int) -> Iterator[_Service]:
    """Start `catchment serve` as a child that ends with us, and that holds `lock` as long as it lives."""
    log = settings.data_dir / "log" / "serve.log"
    log.parent.mkdir(mode=0o700, exist_ok=True)
    with log.open("wb") as output:
        process = subprocess.Popen(
            tied_command([sys.executable, "-m", "aggregator", "serve"]),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=output,
            env=environ_of(settings),
            pass_fds=[lock],
            start_new_session=True,  # Ctrl-C in the terminal is for us, and we end the service in order
            text=True,
        )
    with process:
        service = _Service(process=process, settings=settings, log=log)
        try:
            yield service
        finally:
            service.stop()


def _wait_until_ready(service: _Service, url: str) -> None:
    """Wait until database, cache, buffer and worker are ready."""
    deadline = time.monotonic() + READY_LIMIT_S
    state = "no answer"
    with httpx.Client(base_url=url, timeout=10, trust_env=False) as http:
        while time.monotonic() < deadline:
            service.check()
            with suppress(httpx.TransportError):
                answer = http.get("/readyz").json()
                if answer["status"] == "ok":
                    return
                state = ", ".join(f"{part}: {state}" for part, state in answer["parts"].items())
            time.sleep(0.1)
    raise service.failure(f"the service is not ready after {READY_LIMIT_S:.0f} s ({state})")


def _choose_port(wanted: int | None) -> int:
    """Return the port that was asked for if it can be had, otherwise the default one, or 0 for a free one."""
    if wanted is not None:
        with bound_socket(Settings.host, wanted):
            return wanted
    try:
        with bound_socket(Settings.host, DEFAULT_PORT):
            return DEFAULT_PORT
    except Failure:
        click.echo(f"port {DEFAULT_PORT} is taken, a free one is used")
        return 0


@contextmanager
def _sole_demo(data_dir: Path) -> Iterator[int]:
    """Make sure that no other demo uses the data directory; give the lock which its service shall hold.

    The service has a lock of its own, because after a kill -9 of its demo it drains before it ends.
    """
    data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    if not any(data_dir.iterdir()):
        data_dir.chmod(0o700)
    with _open_lock(data_dir / "demo.lock") as demo, _open_lock(data_dir / "service.lock") as service:
        if not _try_lock(demo):
            raise Failure(f"another demo runs in {data_dir}: end it, or choose another place with --data-dir")
        deadline = time.monotonic() + PREDECESSOR_LIMIT_S
        if not _try_lock(service):
            click.echo("the service of an earlier demo is still ending, waiting for it")
            while not _try_lock(service):
                if time.monotonic() > deadline:
                    raise Failure(f"the service of an earlier demo does not end: end the one that uses {data_dir}")
                time.sleep(0.1)
        yield service


@contextmanager
def _open_lock(path: Path) -> Iterator[int]:
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _try_lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


# The way


def _show_the_way(remote: Remote, token: str, storages: Sequence[DemoStorage], folder: Path, steps: Steps) -> bool:
    """Go the whole way, and return whether every file arrived as it was catalogued."""
    with steps.step("Register and extract, over HTTP"):
        reports = {storage.name: _ingest(storage, remote.url, token) for storage in storages}
        print_reports(reports)
    with steps.step("Ask one question over all facilities"):
        facilities = sorted({storage.facility for storage in storages})
        answer = remote.search({"facility": facilities})
        _print_answer(answer, facilities)
    with steps.step("Prepare the export, download it and verify it"):
        bundle = get_bundle(remote, answer, folder)
        print_bundle(bundle)
        problems = find_problems(reports, answer, bundle)
        click.echo(f"NOT VERIFIED: {'; '.join(problems)}" if problems else VERIFIED)
    return not problems


def _ingest(storage: DemoStorage, url: str, token: str) -> IngestReport:
    with Client(url, token) as client:
        record = Storage(name=storage.name, root=str(storage.root), facility=storage.facility)
        register(client, description=storage.description, facility=storage.facility, storage=record)
        with showing_progress(f"ingest {storage.name}") as progress:
            extractor = Extractor(
                tree=LocalTree(storage.root),
                facility=storage.facility,
                storage=storage.name,
                description=storage.description,
            )
            options = ScanOptions(processes=min(4, os.cpu_count() or 1), vanished="all")
            return scan(extractor, client, options=options, on_progress=progress)


def _print_answer(answer: Answer, facilities: Sequence[str]) -> None:
    # A facet leaves out its own choice, so it counts facilities of earlier demos too.
    counted = [found for found in answer.by_facility if found.value in facilities]
    print_table(
        ("facility", "files", "size"),
        [(found.value, found.count, format_bytes(found.total_bytes)) for found in counted],
    )
    click.echo(f"{format_count(answer.total_count.value, 'file')}, {format_bytes(answer.total_bytes)}, ", nl=False)
    click.echo(f"query id {answer.query_id}")


def find_problems(reports: Mapping[str, IngestReport], answer: Answer, bundle: Bundle) -> list[str]:
    """Return what keeps every file from having arrived as it was catalogued; empty when all did."""
    sent = sum(report.added + report.changed + report.unchanged + report.same for report in reports.values())
    rejected = sum(report.rejected for report in reports.values())
    found, expected = bundle.verification, answer.total_count.value
    problems = {
        f"the catalogue rejected {rejected:,} files": rejected > 0,
        f"{sent:,} files were catalogued, the answer has {expected:,}": expected < sent,
        f"{found.missing:,} files could not be had": found.missing > 0,
        "the archive is not what its manifest says": not found.is_good,
        f"{found.files:,} files arrived, expected {expected:,}": found.files != expected,
    }
    return [problem for problem, is_there in problems.items() if is_there]


@contextmanager
def _admin_token(settings: Settings) -> Iterator[str]:
    """Give a token that ends with the ``with`` statement."""
    servers = find_running(settings.data_dir)
    if servers is None:
        raise Failure("the embedded servers have ended")
    attached = attach(settings, servers)
    token = asyncio.run(with_tokens(attached, lambda tokens: tokens.create(Role.ADMIN, note="catchment demo")))
    try:
        yield token
    finally:
        token_id = token.split("_")[1]
        asyncio.run(with_tokens(attached, lambda tokens: tokens.revoke(token_id)))


def _serve_on(service: _Service, url: str) -> None:
    """Say where to look, and wait for Ctrl-C."""
    question = orjson.dumps({"query": "{ search(filter: {}) { queryId totalCount { value } totalBytes } }"}).decode()
    lines = (
        "\nLook around:",
        f"  web page  {url}/",
        f"  GraphQL   {url}/graphql",
        f"  curl -s {url}/graphql -H 'content-type: application/json' -d {shlex.quote(question)}",
        f"  catchment search --url {url}",
        "\nServing until Ctrl-C.",
    )
    try:
        click.echo("\n".join(lines))
        service.process.wait()
    except KeyboardInterrupt:
        click.echo("stopping")
    else:
        service.check()
