"""The newcomer's page of the README: its files are written, its commands run, and their output is compared."""

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

CHECKOUT = Path(__file__).parents[2]
README = CHECKOUT / "extractors" / "README.md"
BLOCK = re.compile(r"^```(?P<kind>text|toml|console)(?: file=(?P<file>\S+))?\n(?P<text>.*?)^```$", re.M | re.S)
OMITTED = "…"


@dataclass
class Step:
    """A file to be written, or a command with the output that the page shows."""

    file: str | None = None
    text: str = ""
    command: str | None = None


def iter_steps() -> Iterator[Step]:
    page = README.read_text().split("## Ten minutes", 1)[1].split("\n## ", 1)[0]
    for block in BLOCK.finditer(page):
        if block["file"]:
            yield Step(file=block["file"], text=block["text"])
        elif block["kind"] == "console":
            for command in re.split(r"^\$ ", block["text"], flags=re.M)[1:]:
                line, _, output = command.partition("\n")
                yield Step(command=line, text=output)


def matches(shown: str, printed: str) -> bool:
    """Tell whether the output is as shown; an ellipsis stands for anything, at the end of a line for its rest."""
    parts = [
        re.escape(line.removesuffix(OMITTED)) + ("[^\n]*" if line.endswith(OMITTED) else r"[ ]*") + "\n"
        if line != OMITTED
        else "(?:[^\n]*\n)*?"
        for line in shown.splitlines()
    ]
    return re.fullmatch("".join(parts), printed) is not None


def test_the_newcomers_page_holds_what_it_shows(tmp_path: Path) -> None:
    environ = {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "COLUMNS": "100", "HOME": str(tmp_path)}
    commands = 0
    for step in iter_steps():
        if step.file is not None:
            (tmp_path / step.file).parent.mkdir(exist_ok=True)
            (tmp_path / step.file).write_text(step.text)
            continue
        assert step.command is not None
        done = subprocess.run(
            step.command, shell=True, cwd=tmp_path, env=environ, capture_output=True, text=True, timeout=60, check=False
        )
        assert matches(step.text, done.stdout + done.stderr), f"$ {step.command}\n{done.stdout}{done.stderr}"
        commands += 1
    assert commands >= 5
