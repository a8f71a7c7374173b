import pytest

from aggregator.commands import console
from aggregator.commands.console import format_bytes, format_count, print_table, showing_progress


@pytest.mark.parametrize(
    ("number", "expected"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1 kB"),
        (1_304_000_000, "1.3 GB"),
        (999_600, "1 MB"),
        (2**63, "9.22 EB"),
        (5 * 10**21, "5e+03 EB"),
    ],
)
def test_sizes_are_written_as_people_do(number: int, expected: str) -> None:
    assert format_bytes(number) == expected


def test_one_is_no_plural() -> None:
    assert (format_count(1, "file"), format_count(1200, "file")) == ("1 file", "1,200 files")


def test_a_table_is_aligned_with_numbers_to_the_right(capsys: pytest.CaptureFixture[str]) -> None:
    print_table(("name", "files"), [("fact", 213), ("a-long-name", 1_000_000), ("none", None)])
    assert capsys.readouterr().out.splitlines() == [
        "name             files",
        "-----------  ---------",
        "fact               213",
        "a-long-name  1,000,000",
        "none                 -",
    ]


def test_a_table_shows_what_a_terminal_would_obey(capsys: pytest.CaptureFixture[str]) -> None:
    print_table(("path",), [("a\x1b[2Jb\nc",)])
    assert capsys.readouterr().out.splitlines()[-1] == "a\N{REPLACEMENT CHARACTER}[2Jb\N{REPLACEMENT CHARACTER}c"


def test_progress_in_a_pipe_is_plain_lines_and_the_end_is_always_told(capsys: pytest.CaptureFixture[str]) -> None:
    with showing_progress("copy") as progress:
        for done in range(1001):
            progress(done, 1000)
    assert capsys.readouterr().err == "copy: 1,000 of 1,000\n"


def test_progress_in_a_pipe_is_told_now_and_then(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(console, "LINE_EVERY_S", 0.0)
    with showing_progress("copy", in_bytes=True) as progress:
        progress(500, 0)
        progress(1000, 2000)
    assert capsys.readouterr().err == "copy: 500 B\ncopy: 1 kB of 2 kB\n"


def test_without_anything_done_there_is_no_line(capsys: pytest.CaptureFixture[str]) -> None:
    with showing_progress("copy"):
        pass
    assert capsys.readouterr().err == ""
