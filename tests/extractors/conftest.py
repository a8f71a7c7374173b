"""Small valid files of the three invented facilities, and a stand-in for the ingest API."""

import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import anyio
import h5py
import msgspec
import numpy as np
import pytest
import zstandard
from astropy.io import fits

from metadata_db.database import Database
from metadata_db.records import Failure, FileRecord, Removal
from metadata_db.settings import CatalogueSettings
from metadata_db.tokens import Role, TokenStore


def make_aurora(path: Path, *, run: int = 41, energies_tev: tuple[float, ...] = (0.5, 30.0, 2.0), **cards: Any) -> None:
    """Write an event list of the invented Cherenkov telescopes; a card that is None is left out."""
    path.parent.mkdir(parents=True, exist_ok=True)
    n = len(energies_tev)
    columns = [
        fits.Column("EVENT_ID", "K", array=np.arange(n)),
        fits.Column("TIME", "D", unit="s", array=np.arange(n, dtype=float)),
        fits.Column("RA", "E", unit="deg", array=np.full(n, 83.0)),
        fits.Column("DEC", "E", unit="deg", array=np.full(n, 22.0)),
        fits.Column("ENERGY", "E", unit="TeV", array=np.array(energies_tev)),
    ]
    events = fits.BinTableHDU.from_columns(columns, name="EVENTS")
    header = {
        "TELESCOP": "AURORA", "OBS_ID": run, "OBJECT": "Crab Nebula", "RA_PNT": 83.63, "DEC_PNT": 22.01,
        "TSTART": 3600.0, "TSTOP": 5400.5, "MJDREFI": 58849, "MJDREFF": 0.0, "TIMESYS": "TT",
        "LIVETIME": 1700.0, "ONTIME": 1800.5, "DEADC": 0.944, "N_TELS": 4, "QUALITY": "good", "WEATHER": "thin cloud",
    }  # fmt: skip
    for keyword, value in (header | cards).items():
        if value is not None:
            events.header[keyword] = value
    gti = fits.BinTableHDU.from_columns(
        [fits.Column("START", "D", array=np.array([3600.0])), fits.Column("STOP", "D", array=np.array([5400.5]))],
        name="GTI",
    )
    fits.HDUList([fits.PrimaryHDU(), events, gti]).writeto(path)


def make_borealis(path: Path, *, station: str = "s03", run: int = 77, unit: str = "EeV") -> None:
    """Write air showers of one invented station."""
    path.parent.mkdir(parents=True, exist_ok=True)
    showers = np.zeros(
        4, dtype=[("event_id", "<i8"), ("gps_seconds", "<f8"), ("energy_eev", "<f8"), ("zenith_deg", "<f4")]
    )
    showers["energy_eev"] = [0.4, 12.5, np.nan, 3.0]
    showers["zenith_deg"] = [10, 20, 45, 30]
    with h5py.File(path, "w") as file:
        file.attrs.update(facility="borealis", station=station, run=run, time_system="GPS")
        events = file.create_dataset("events", data=showers)
        events.attrs["energy_unit"] = unit
        file["meta/gps_start"] = 1_300_000_000.0
        file["meta/gps_stop"] = 1_300_086_400.0


def make_cascade(path: Path, *, unit: str = "keV", **cards: Any) -> None:
    """Write one map of the invented survey."""
    path.parent.mkdir(parents=True, exist_ok=True)
    primary = fits.PrimaryHDU()
    header = {
        "TELESCOP": "CASCADE", "DATE-BEG": "2021-03-01T00:00:00", "DATE-END": "2021-03-08T00:00:00", "TIMESYS": "UTC",
        "RA": 120.5, "DEC": -45.25, "OBJECT": "field 12", "BAND": "soft", "EMIN": 0.5, "EMAX": 2.0, "EUNIT": unit,
    }  # fmt: skip
    for keyword, value in (header | cards).items():
        primary.header[keyword] = value
    fits.HDUList([primary, fits.ImageHDU(np.zeros((4, 4), dtype=np.float32))]).writeto(path)


@pytest.fixture
def night(tmp_path: Path) -> Path:
    """Return a storage with three good files of the invented telescopes, one damaged and one unknown."""
    root = tmp_path / "storage"
    folder = root / "north" / "2020" / "01" / "20200101"
    for run in (41, 42, 43):
        make_aurora(folder / f"aurora_{run:06}_dl3.fits", run=run)
    good = (folder / "aurora_000041_dl3.fits").read_bytes()
    (folder / "aurora_000099_dl3.fits").write_bytes(good[:3000])
    (root / "notes.txt").write_text("clear sky\n")
    return root


@dataclass
class StandInCatalogue:
    """Keeps records by their key, as the ingest API does; can be told to fail."""

    url: str = ""
    token: str = "a-token-of-the-tests"
    records: dict[tuple[str, str], FileRecord] = field(default_factory=dict)
    batches: list[int] = field(default_factory=list)
    requests: list[tuple[str, str, Any]] = field(default_factory=list)
    failures: list[tuple[int, dict[str, str]]] = field(default_factory=list)
    """Status and headers of the next answers to records, before all is well again."""
    told: dict[tuple[str, str], str] = field(default_factory=dict)
    """Storage and path of files that were told to have failed → why."""
    root: str | None = None
    """Where all storages are; None knows no storage."""
    reject: Callable[[FileRecord], str | None] = lambda record: None

    def list_files(self, storage: str, after: str) -> bytes:
        known = sorted((item for item in self.records.values() if item.storage == storage), key=lambda item: item.path)
        names = ("path", "size_bytes", "facility", "modified_at", "sha256", "description")
        told = [{name: getattr(item, name) for name in names} for item in known if item.path > after]
        return b"".join(msgspec.json.encode(item) + b"\n" for item in told)

    def keep(self, body: bytes) -> dict[str, Any]:
        failures = msgspec.json.Decoder(Failure).decode_lines(body)
        self.told |= {(failure.storage, failure.path): failure.reason for failure in failures}
        return {"received": len(failures), "kept": len(failures), "rejected": 0, "rejections": []}

    def remove(self, body: bytes) -> dict[str, Any]:
        removals = msgspec.json.Decoder(Removal).decode_lines(body)
        gone = [self.records.pop((removal.storage, removal.path), None) for removal in removals]
        unknown = gone.count(None)
        counts = {"received": len(gone), "removed": len(gone) - unknown, "kept": 0, "unknown": unknown, "rejected": 0}
        return {**counts, "rejections": [], "rejections_omitted": 0, "revisions": {}}

    def take(self, body: bytes) -> dict[str, Any]:
        decoder = msgspec.json.Decoder(FileRecord)
        counts = {"received": 0, "added": 0, "changed": 0, "unchanged": 0, "rejected": 0}
        rejections = []
        for number, line in enumerate(body.splitlines(), start=1):
            record = decoder.decode(line)
            counts["received"] += 1
            reason = self.reject(record)
            if reason is not None:
                counts["rejected"] += 1
                rejections.append({"line": number, "field": "path", "reason": reason})
                continue
            before = self.records.get((record.storage, record.path))
            counts["added" if before is None else "unchanged" if before == record else "changed"] += 1
            self.records[record.storage, record.path] = record
        self.batches.append(counts["received"])
        return {**counts, "rejections": rejections, "rejections_omitted": 0, "revisions": {"aurora": len(self.batches)}}


def _make_handler(catalogue: StandInCatalogue) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            works = {"files": catalogue.take, "failures": catalogue.keep, "removals": catalogue.remove}
            what = self.path.rpartition("/")[2]
            lines = zstandard.ZstdDecompressor().decompressobj().decompress(body)
            self._answer(lambda: works[what](lines), may_fail=what == "files")

        def do_GET(self) -> None:
            address = urlsplit(self.path)
            parts = address.path.split("/")
            if parts[-1] == "files":
                after = parse_qs(address.query).get("after", [""])[0]
                self._answer(lambda: catalogue.list_files(parts[-2], after), may_fail=False)
            elif catalogue.root is not None:
                self._answer(lambda: {"name": parts[-1], "root": catalogue.root}, may_fail=False)
            else:
                self._send(404, {"error": {"code": "NOT_FOUND", "message": f"no storage {parts[-1]!r}"}}, {})

        def do_PUT(self) -> None:
            body = msgspec.json.decode(self.rfile.read(int(self.headers["Content-Length"])))
            catalogue.requests.append((self.command, self.path, body))
            self._answer(dict)

        def _answer(self, work: Callable[[], dict[str, Any] | bytes], *, may_fail: bool = True) -> None:
            if may_fail and catalogue.failures:
                status, headers = catalogue.failures.pop(0)
                self._send(status, {"error": {"code": "UNAVAILABLE", "message": "as told"}}, headers)
            elif self.headers["Authorization"] != f"Bearer {catalogue.token}":
                self._send(401, {"error": {"code": "PERMISSION_DENIED", "message": "no such token"}}, {})
            else:
                self._send(200, work(), {})

        def _send(self, status: int, answer: dict[str, Any] | bytes, headers: dict[str, str]) -> None:
            data = answer if isinstance(answer, bytes) else msgspec.json.encode(answer)
            self.send_response(status)
            for name, value in {"Content-Length": str(len(data)), **headers}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *arguments: Any) -> None:
            pass

    return Handler


@pytest.fixture
def catalogue() -> Iterator[StandInCatalogue]:
    """Return a stand-in for the ingest API that listens on this machine."""
    catalogue = StandInCatalogue()
    server = ThreadingHTTPServer(("127.0.0.1", 0), _make_handler(catalogue))
    catalogue.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    yield catalogue
    server.shutdown()
    thread.join()
    server.server_close()


@dataclass(frozen=True, kw_only=True)
class Api:
    """An ingest API to talk to, and an admin's token."""

    url: str
    token: str


async def make_token(database_url: str) -> str:
    database = Database(CatalogueSettings(database_url=database_url))
    try:
        return await TokenStore(database).create(Role.ADMIN)
    finally:
        await database.close()


@pytest.fixture
def real(service_url: str, database_url: str) -> Api:
    """Return the ingest API of a service that runs here."""
    return Api(url=service_url, token=anyio.run(make_token, database_url))


@pytest.fixture
def make() -> dict[str, Callable[..., None]]:
    """Return what writes a valid file, by facility."""
    return {"aurora": make_aurora, "borealis": make_borealis, "cascade": make_cascade}
