"""The spool: oldest first, nothing lost, removed only once acknowledged."""

from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from extractors.client import SendResult
from extractors.errors import CatalogueAwayError, RefusedError
from extractors.spool import Kind, Spool

OK = SendResult(received=1, added=1, changed=0, unchanged=0, rejected=0)


def answers(sent: list[bytes], *problems: Exception | None) -> Callable[[Kind, bytes], SendResult]:
    """Return a sender that meets each of `problems` in turn, and then none."""
    remaining = list(problems)

    def send(kind: Kind, lines: bytes) -> SendResult:
        problem = remaining.pop(0) if remaining else None
        if problem is not None:
            raise problem
        sent.append(lines)
        return OK

    return send


def test_batches_are_sent_oldest_first_and_then_gone(tmp_path: Path) -> None:
    spool = Spool(tmp_path / "deep" / "spool")
    for lines in (b"1\n", b"2\n", b"3\n"):
        spool.add(lines)
    sent: list[bytes] = []
    assert list(spool.flush(answers(sent))) == [OK, OK, OK]
    assert sent == [b"1\n", b"2\n", b"3\n"]
    assert list(spool.folder.iterdir()) == []


def test_a_batch_stays_until_it_is_acknowledged(tmp_path: Path) -> None:
    spool = Spool(tmp_path)
    for lines in (b"1\n", b"2\n"):
        spool.add(lines)
    sent: list[bytes] = []
    with pytest.raises(CatalogueAwayError):
        list(spool.flush(answers(sent, None, CatalogueAwayError("away"))))
    assert (sent, [path.read_bytes() for path in spool.pending()]) == ([b"1\n"], [b"2\n"])


def test_a_batch_refused_for_its_content_is_kept_aside_and_the_others_go_on(tmp_path: Path) -> None:
    spool = Spool(tmp_path)
    for lines in (b"bad\n", b"good\n"):
        spool.add(lines)
    sent: list[bytes] = []
    refusal, result = spool.flush(answers(sent, RefusedError(422, "BAD_INPUT", "no")))
    assert isinstance(refusal, RefusedError)
    assert (result, sent, spool.pending()) == (OK, [b"good\n"], [])
    assert [path.read_bytes() for path in tmp_path.glob("*.refused")] == [b"bad\n"]
    assert ["no" in path.read_text() for path in tmp_path.glob("*.reason")] == [True]


def test_records_and_failures_are_told_apart(tmp_path: Path) -> None:
    spool = Spool(tmp_path)
    spool.add(b"record\n")
    spool.add(b"failure\n", "failures")
    sent: list[tuple[Kind, bytes]] = []

    def send(kind: Kind, lines: bytes) -> SendResult | None:
        sent.append((kind, lines))
        return OK if kind == "files" else None

    assert list(spool.flush(send)) == [OK, None]
    assert sent == [("files", b"record\n"), ("failures", b"failure\n")]
    assert list(tmp_path.iterdir()) == []


def test_batches_wait_for_a_sender_who_is_allowed(tmp_path: Path) -> None:
    spool = Spool(tmp_path)
    spool.add(b"1\n")
    with pytest.raises(RefusedError):
        list(spool.flush(answers([], RefusedError(403, "PERMISSION_DENIED", "no"))))
    assert len(spool.pending()) == 1


def test_what_a_crash_left_half_written_is_never_sent(tmp_path: Path) -> None:
    (tmp_path / "00000000000000000001-abcdef01.part").write_bytes(b'{"half')
    sent: list[bytes] = []
    assert list(Spool(tmp_path).flush(answers(sent))) == []
    assert sent == []


def test_an_empty_spool_need_not_exist(tmp_path: Path) -> None:
    assert list(Spool(tmp_path / "none").flush(answers([]))) == []


def test_a_spool_that_cannot_be_written_says_so_and_leaves_no_part(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(OSError, match="file"):
        Spool(tmp_path / "file" / "spool").add(b"1\n")


@given(st.lists(st.sampled_from(["ok", "away", "refused"]), max_size=8))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=30)
def test_nothing_is_lost_and_nothing_sent_twice(tmp_path_factory: pytest.TempPathFactory, troubles: list[str]) -> None:
    spool = Spool(tmp_path_factory.mktemp("spool"))
    batches = [f"{number}\n".encode() for number in range(4)]
    for lines in batches:
        spool.add(lines)
    problems = {"ok": None, "away": CatalogueAwayError("away"), "refused": RefusedError(422, "BAD_INPUT", "no")}
    sent: list[bytes] = []
    send = answers(sent, *(problems[trouble] for trouble in troubles))
    for _ in range(len(troubles) + 1):
        try:
            list(spool.flush(send))
        except CatalogueAwayError:
            continue
    refused = [path.read_bytes() for path in spool.folder.glob("*.refused")]
    assert sorted(sent + refused) == batches
    assert spool.pending() == []
