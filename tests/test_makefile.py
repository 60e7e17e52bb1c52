"""`make reproduce-gpu`: what one table comes to decides whether the next one is trained."""

import os
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
    done, orders = made(tmp_path, status=status)
    assert [order[2] for order in orders if "--thin" in order] == tables
    assert (done.returncode == 0) == (ends == 0)
    assert ends == 0 or f"Error {ends}" in done.stderr


@pytest.mark.skipif(shutil.which("make") is None, reason="needs make")
def test_plans_and_tables_share_the_slice(tmp_path):
    """Each time that `date` is asked, 20 seconds have passed."""
    (tmp_path / "bin").mkdir()
    clock, date = tmp_path / "clock", tmp_path / "bin" / "date"
    date.write_text(f"#!/bin/sh\necho x >> {clock}\nexpr 20 '*' $(wc -l < {clock})\n")
    date.chmod(0o755)
    path = f"{date.parent}:{os.environ['PATH']}"
    done, orders = made(tmp_path, "SLICE=70", status=0, environment={"PATH": path})
    assert "Error 75" in done.stderr
    slices = [(order[2], word) for order in orders for word in order if word.startswith("--slice=")]
    assert slices == [("table1", "--slice=30"), ("table1", "--slice=10")]


def made(tmp_path, *variables, status, environment=None):
    """What `make` came to, and the orders that it gave."""
    log, python = tmp_path / "log", tmp_path / "python"
    python.write_text(STUB.format(log=log, status=status))
    python.chmod(0o755)
    command = ["make", "-s", "reproduce-gpu", f"PYTHON={python}", f"WORKDIR={tmp_path}"]
    done = subprocess.run(
        [*command, *variables],
        cwd=ROOT,
        env=os.environ | (environment or {}),
        capture_output=True,
        text=True,
        check=False,
    )
    return done, [line.split() for line in log.read_text().splitlines()]
