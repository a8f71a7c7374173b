"""What a server started by root may do when root's power was laid down."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

import aggregator.launcher

NOBODY = 65534
CAP_DAC_READ_SEARCH = 2

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root gives up its power")


@needs_root
def test_programs_in_a_closed_home_are_found_runnable(tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir(mode=0o700)
    program = home / "program"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    (home / "secret").write_text("root's own")
    (home / "secret").chmod(0o600)
    ask = f"import os; print(os.getuid(), os.access({str(program)!r}, os.X_OK), os.access({str(home)!r}, os.W_OK))"
    arguments = [str(os.getpid()), "15", str(NOBODY), str(NOBODY), str(CAP_DAC_READ_SEARCH)]
    told = subprocess.run(
        [sys.executable, aggregator.launcher.__file__, *arguments, os.path.realpath(sys.executable), "-c", ask],
        capture_output=True,
        text=True,
        check=True,
    )
    assert told.stdout.split() == [str(NOBODY), "True", "False"]
