"""`make reproduce-gpu`: what one table comes to decides whether the next one is trained."""

import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

# In the place of Python: notes its arguments; training table1 ends with the given status.
STUB = """#!/bin/sh
echo "$@" >> {log}
case "$*" in *table1*--thin) exit {status} ;; esac
"""


@pytest.mark.skipif(shutil.which("make") is None, reason="needs make")
@pytest.mark.parametrize(
    ("status", "tables", "ends"),
    [
        (0, ["table1", "table2"], 0),
        (1, ["table1", "table2"], 1),  # runs have failed: no slice repeats them
        (75, ["table1"], 75),  # the time is up
        (130, ["table1"], 130),
    ],
)
def test_only_a_table_that_is_not_done_holds_up_the_next(tmp_path, status, tables, ends):
    log, python = tmp_path / "log", tmp_path / "python"
    python.write_text(STUB.format(log=log, status=status))
    python.chmod(0o755)
    command = ["make", "-s", "reproduce-gpu", f"PYTHON={python}", f"WORKDIR={tmp_path}"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    trained = [line.split()[2] for line in log.read_text().splitlines() if "--thin" in line]
    assert trained == tables
    assert (done.returncode == 0) == (ends == 0)
    assert ends == 0 or f"Error {ends}" in done.stderr
