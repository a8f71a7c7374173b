"""Fuzzes the readers, the unpacking, Descriptions, addresses and records: ``python -m tests.support.fuzz_readers``.

With `atheris` installed, which is no dependency of the project, mutations are led by the code that they reach; without
it they are random. Either way each target runs in a process of its own, which tells of every distinct failure and goes
on; one that hangs or dies is started again. What is found is written to a folder, to be made a case in
``tests/data/fuzz_cases.toml``.
"""

import argparse
import faulthandler
import hashlib
import importlib
import io
import logging
import random
import resource
import subprocess
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

MAX_SEED_BYTES = 64 * 1024
"""Larger files are no seeds: mutations would rarely meet what matters."""

HANG_SECONDS = 15.0
"""An input that takes so long is a finding, and ends the process."""

SLOW_SECONDS = 5.0
"""An input that takes so long is a finding as well: 64 kB are soon read."""

MEMORY_BYTES = 3 * 1024**3
"""All data of the process; an input that needs more is a finding."""

SUFFIXES: Mapping[str, tuple[str, ...]] = {
    "fits": (".fits",), "hdf5": (".h5", ".hdf5"), "root": (".root",), "ecsv": (".ecsv",), "json": (".json",),
    "yaml": (".yaml", ".yml"), "xml": (".xml",), "eventio": (".eventio",), "blanks": (".tsv", ".dat", ".txt"),
    "table": (".csv",), "text": (".detx", ".evt", ".txt"), "packing": (".gz", ".bz2", ".xz", ".zst"),
}  # fmt: skip
"""Which real files are seeds of a target."""

INTERESTING = (0, 1, 2**7, 2**8 - 1, 2**15, 2**16 - 1, 2**31 - 1, 2**31, 2**32 - 1, 2**62, 2**63 - 1, 2**64 - 1)


# --------------------------------------------------------------------------------------------------- targets


def list_targets() -> list[str]:
    """Return what can be fuzzed, by name."""
    from tests.support.hostile_files import make_samples

    return [*make_samples(), "packing", "description", "address", "record"]


def make_target(name: str, folder: Path) -> Callable[[bytes], None]:
    """Return what is fuzzed: it takes any bytes and raises nothing but what a user should see.

    Parameters
    ----------
    folder
        Where Descriptions are written.
    """
    others: Mapping[str, Callable[[], Callable[[bytes], None]]] = {
        "packing": lambda: _unpack,
        "description": lambda: _description_target(folder),
        "address": lambda: _parse,
        "record": _record_target,
    }
    return others[name]() if name in others else _reader_target(name, folder)


def _reader_target(name: str, folder: Path) -> Callable[[bytes], None]:
    from extractors.errors import ContentError
    from extractors.readers.reader import ReadLimits
    from tests.support.hostile_files import describe, make_samples

    sample = make_samples()[name]
    product = describe(folder, sample.reader, sample.asked).products[0]
    reader, addresses = product.reader, product.addresses
    assert reader is not None

    def read(data: bytes) -> None:
        for is_header_only in (False, True):
            limits = ReadLimits(header_only=is_header_only, max_unpacked_bytes=64 * 1024**2)
            try:
                content = reader.read(io.BytesIO(data), addresses, limits=limits)
            except ContentError as error:
                check_report(str(error))
                continue
            for value in content.values.values():
                check_value(value.value, value.unit)
            for reason in content.oddities.values():
                check_report(reason)

    return read


def check_report(reason: str) -> None:
    """Fail unless `reason` is a text that a report can hold."""
    assert reason, "an empty report"
    assert "Traceback" not in reason, "a traceback in a report"
    assert len(reason) < 5000, f"a report of {len(reason)} characters"


def check_line(line: int) -> None:
    """Fail unless `line` is one of a file."""
    assert line >= 1, f"line {line}"


def check_value(value: Any, unit: Any) -> None:
    """Fail unless `value` is one that may leave a reader."""
    parts = value if isinstance(value, tuple) else (value,)
    for part in parts:
        assert type(part) in (bool, int, float, str), f"a value of type {type(part).__name__}"
        assert not isinstance(part, str) or len(part.encode()) <= 64 * 1024, "a value that is too long"
    assert unit is None or type(unit) is str, f"a unit of type {type(unit).__name__}"


def _unpack(data: bytes) -> None:
    from extractors.errors import ContentError
    from extractors.storages.unpacking import open_unpacked

    try:
        stream, _ = open_unpacked(io.BytesIO(data), max_bytes=64 * 1024**2)
        stream.seek(5)
        while stream.read(1024**2):
            pass
        stream.seek(0)
        stream.read(1)
    except ContentError as error:
        check_report(str(error))


def _description_target(folder: Path) -> Callable[[bytes], None]:
    from extractors.errors import DescriptionError
    from extractors.loading import load_description

    path = folder / "fuzzed.toml"

    def load(data: bytes) -> None:
        path.write_bytes(data)
        try:
            load_description(path)
        except DescriptionError as error:
            check_report(str(error))
            check_line(error.line)

    return load


def _parse(data: bytes) -> None:
    from extractors.errors import AddressError
    from extractors.readers.address import parse_address
    from extractors.readers.reader import find_reader_class

    try:
        address = parse_address(data.decode("utf-8", "replace"))
    except AddressError as error:
        check_report(str(error))
        return
    for name in ("fits", "hdf5", "root", "table", "ecsv", "text", "json", "yaml", "xml", "corsika", "eventio"):
        try:
            find_reader_class(name)().check(address)
        except AddressError as error:
            check_report(str(error))


def _record_target() -> Callable[[bytes], None]:
    import msgspec

    from extractors.building import FileIdentity, build_record
    from extractors.loading import find_description
    from extractors.readers.reader import RawValue
    from extractors.rules import Material
    from extractors.storages.fingerprint import Fingerprint
    from metadata_db.records import FileRecord

    descriptions = [found for name in ("hess", "veritas", "lst", "magic") if (found := find_description(name))]
    products = [(description, product) for description in descriptions for product in description.products]
    identity, fingerprint = (
        FileIdentity(facility="f", storage="s", path="a/b"),
        Fingerprint(size_bytes=1, modified_at=None, format="fits"),
    )

    def build(data: bytes) -> None:
        source = _Source(data)
        description, product = products[source.take() % len(products)]
        content = {address.text: RawValue(value=source.value(), unit=source.unit()) for address in product.addresses}
        groups = {name: source.text() for name in product.pattern.groupindex}
        material = Material(groups=groups, content=content)
        record = build_record(identity, fingerprint, description=description, product=product, material=material)
        assert msgspec.json.decode(msgspec.json.encode(record), type=FileRecord) == record

    return build


class _Source:
    """Makes values of bytes."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._position = 0

    def take(self, n: int = 1) -> int:
        piece = self._data[self._position : self._position + n]
        self._position += n
        return int.from_bytes(piece, "little", signed=n > 1)

    def value(self) -> Any:
        import struct

        match self.take() % 6:
            case 0:
                return self.take(1 + self.take() % 16)
            case 1:
                return struct.unpack("<d", self.take(8).to_bytes(8, "little", signed=True))[0]
            case 2:
                return bool(self.take() % 2)
            case 3:
                return tuple(self.value() for _ in range(self.take() % 3 + 1)) if self.take() % 4 == 0 else 59000.5
            case _:
                return self.text()

    def text(self) -> str:
        n = self.take() % 32
        piece = self._data[self._position : self._position + n]
        self._position += n
        return piece.decode("utf-8", "surrogateescape")

    def unit(self) -> str | None:
        return (None, "TeV", "s", "deg", self.text())[self.take() % 5]


def iter_seeds(name: str, storages: Path | None) -> Iterator[bytes]:
    """Yield the seeds of a target: what is made for it, and small real files."""
    from tests.support.hostile_files import PACKERS, make_samples

    samples = make_samples()
    if name in samples:
        yield samples[name].data
    elif name == "packing":
        for pack in PACKERS.values():
            yield pack(b"abc" * 50)
            yield pack(pack(b"abc" * 50))
            yield pack(b"abc" * 50) * 2
    elif name == "description":
        for path in sorted((Path(__file__).parents[2] / "extractors" / "descriptions").rglob("*.toml")):
            yield path.read_bytes()
    elif name == "address":
        for sample in samples.values():
            yield from (address.encode() for address in sample.asked)
    elif name == "record":
        yield bytes(range(256)) * 4
    if storages is not None and name in SUFFIXES:
        found = [path for path in sorted(storages.rglob("*")) if path.name.endswith(SUFFIXES[name])]
        small = [path for path in found if path.is_file() and path.stat().st_size <= MAX_SEED_BYTES]
        yield from (path.read_bytes() for path in random.Random(0).sample(small, min(20, len(small))))


# --------------------------------------------------------------------------------------------------- one process


@dataclass(kw_only=True)
class Watch:
    """Runs a target and tells of each distinct failure once."""

    target: Callable[[bytes], None]
    findings: Path
    n_runs: int = 0
    seen: set[str] = field(default_factory=set)

    def run(self, data: bytes) -> None:
        """Run the target on `data`; what it raises is written down, what hangs or kills stays in ``current``."""
        self.n_runs += 1
        (self.findings / "current").write_bytes(data)
        faulthandler.dump_traceback_later(HANG_SECONDS, exit=True)
        before = time.monotonic()
        try:
            self.target(data)
        except Exception as error:  # noqa: BLE001 - that is what is searched for
            self._tell(data, _signature(error), "".join(traceback.format_exception(error)))
        else:
            seconds = time.monotonic() - before
            if seconds > SLOW_SECONDS:
                self._tell(data, "slow", f"took {seconds:.1f} s")
        finally:
            faulthandler.cancel_dump_traceback_later()

    def _tell(self, data: bytes, signature: str, account: str) -> None:
        if signature in self.seen:
            return
        self.seen.add(signature)
        write_finding(self.findings, data, account)


def write_finding(folder: Path, data: bytes, account: str) -> None:
    """Write an input and what went wrong with it."""
    name = hashlib.sha256(data).hexdigest()[:12]
    (folder / f"{name}.bin").write_bytes(data)
    (folder / f"{name}.txt").write_text(account, encoding="utf-8", errors="backslashreplace")


def _signature(error: BaseException) -> str:
    last = traceback.extract_tb(error.__traceback__)[-1]
    return f"{type(error).__name__} {last.filename}:{last.lineno}"


def _mutate(data: bytes, random_: random.Random, seeds: Sequence[bytes]) -> bytes:
    """Return `data` with a few random damages, in or near its first kilobytes more often than behind."""
    changed = bytearray(data)
    for _ in range(random_.choice((1, 1, 2, 4, 8))):
        at = random_.randrange(min(len(changed), random_.choice((64, 1024, 10**9))) or 1)
        match random_.randrange(8):
            case 0:
                del changed[at:]
            case 1:
                changed[at : at + random_.randrange(1, 64)] = b""
            case 2:
                changed[at:at] = random_.randbytes(random_.randrange(1, 16))
            case 3:
                changed[at:at] = bytes([random_.choice(b"\0 \n{}[](),:;'\"<>&*!#-0129")]) * random_.randrange(1, 300)
            case 4:
                size = random_.choice((1, 2, 4, 8))
                value = random_.choice(INTERESTING) % (1 << 8 * size)
                changed[at : at + size] = value.to_bytes(size, random_.choice(("little", "big")))
            case 5:
                other = random_.choice(seeds)
                begin = random_.randrange(len(other) or 1)
                changed[at : at + 32] = other[begin : begin + random_.randrange(1, 200)]
            case 6:
                changed[at : at + 1] = random_.randbytes(1)
            case _:
                begin = random_.randrange(len(changed) or 1)
                changed[at:at] = changed[begin : begin + random_.randrange(1, 200)]
    return bytes(changed[:MAX_SEED_BYTES])


def fuzz_one(name: str, *, seconds: float, findings: Path, seeds: Sequence[bytes], seed: int) -> None:
    """Fuzz one target in this process; with atheris this does not return."""
    warnings.simplefilter("ignore")
    logging.disable()
    resource.setrlimit(resource.RLIMIT_DATA, (MEMORY_BYTES, MEMORY_BYTES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    atheris = find_atheris()
    if atheris is None:
        _fuzz_randomly(name, seconds=seconds, findings=findings, seeds=seeds, seed=seed)
        return
    with atheris.instrument_imports(include=["extractors"], enable_loader_override=False):
        _import_target_modules()
    watch = Watch(target=make_target(name, findings), findings=findings)
    corpus = findings / "corpus"
    corpus.mkdir(exist_ok=True)
    for number, data in enumerate(seeds):
        (corpus / f"seed{number}").write_bytes(data)

    def run(data: bytes) -> None:
        watch.run(data)
        if watch.n_runs % 50 == 0:
            (findings / "runs").write_text(str(watch.n_runs))

    limits = [f"-max_total_time={int(seconds)}", f"-max_len={MAX_SEED_BYTES}", "-timeout=600", "-rss_limit_mb=0"]
    atheris.Setup(
        [sys.argv[0], *limits, f"-seed={seed}", "-verbosity=0", f"-artifact_prefix={findings}/", str(corpus)], run
    )
    atheris.Fuzz()


def _import_target_modules() -> None:
    import extractors.building
    import extractors.loading
    import extractors.readers.corsika
    import extractors.readers.document
    import extractors.readers.eventio
    import extractors.readers.fits
    import extractors.readers.hdf5
    import extractors.readers.kaitai
    import extractors.readers.root
    import extractors.readers.table
    import extractors.readers.text
    import extractors.storages.unpacking  # noqa: F401 - imported here to be instrumented


def _fuzz_randomly(name: str, *, seconds: float, findings: Path, seeds: Sequence[bytes], seed: int) -> None:
    watch = Watch(target=make_target(name, findings), findings=findings)
    random_ = random.Random(seed)
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        watch.run(_mutate(random_.choice(seeds), random_, seeds))
        if watch.n_runs % 50 == 0:
            (findings / "runs").write_text(str(watch.n_runs))


def find_atheris() -> Any:
    """Return the module, or None where it is not installed."""
    try:
        return importlib.import_module("atheris")
    except ImportError:
        return None


# --------------------------------------------------------------------------------------------------- all of them


def fuzz_in_process(name: str, *, seconds: float, folder: Path, storages: Path | None, seed: int) -> int:
    """Fuzz a target in processes of its own for so long, and return how many inputs were run."""
    findings = folder / name
    findings.mkdir(parents=True, exist_ok=True)
    end = time.monotonic() + seconds
    n_runs = 0
    while (left := end - time.monotonic()) > 1:
        (findings / "runs").write_text("0")
        (findings / "current").unlink(missing_ok=True)
        command = [sys.executable, "-m", "tests.support.fuzz_readers", "--one", name, "--folder", str(folder)]
        command += ["--seconds", str(left), "--seed", str(seed)]
        command += ["--storages", str(storages)] if storages is not None else []
        with tempfile.TemporaryFile() as errors:
            done = subprocess.run(command, stdout=errors, stderr=errors, check=False)
            n_runs += int((findings / "runs").read_text())
            if done.returncode:
                errors.seek(0)
                account = f"ended with {done.returncode}\n" + errors.read().decode("utf-8", "replace")[-20_000:]
                if not (findings / "current").exists():
                    raise ChildProcessError(f"fuzzing {name} did not begin: {account}")
                write_finding(findings, (findings / "current").read_bytes(), account)
        seed += 1
    return n_runs


def main() -> None:
    """Fuzz all targets, or those named, one after the other, and print what was found."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("targets", nargs="*", help="which to fuzz; all unless given")
    parser.add_argument("--seconds", type=float, default=600, help="for all targets together")
    parser.add_argument("--folder", type=Path, default=None, help="where findings go; a temporary one unless given")
    parser.add_argument("--storages", type=Path, default=None, help="real files that are seeds, if they are small")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--one", help=argparse.SUPPRESS)
    options = parser.parse_args()
    folder = options.folder or Path(tempfile.mkdtemp(prefix="fuzz-"))
    if options.one:
        seeds = list(iter_seeds(options.one, options.storages))
        fuzz_one(options.one, seconds=options.seconds, findings=folder / options.one, seeds=seeds, seed=options.seed)
        return
    if find_atheris() is None:
        print("atheris is not installed: mutations are random, and not led by the code that they reach")
    names = options.targets or list_targets()
    for name in names:
        share = options.seconds / len(names)
        n_runs = fuzz_in_process(name, seconds=share, folder=folder, storages=options.storages, seed=options.seed)
        found = sorted((folder / name).glob("*.txt"))
        print(f"{name:12} {share:6.0f} s {n_runs:9} runs {len(found):4} findings", flush=True)
        for account in found:
            print(f"    {account.with_suffix('.bin')}: {account.read_text().strip().splitlines()[-1][:150]}")


if __name__ == "__main__":
    main()
