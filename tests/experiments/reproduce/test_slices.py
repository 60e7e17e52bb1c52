"""Tables in slices of time: what a plan says, what is left after a slice, and what is moved."""

import json
import shutil
import signal
import time

import numpy as np
import pytest

from experiments import command
from experiments.errors import UserError
from experiments.reproduce import plan, planned, waves
from experiments.reproduce.__main__ import define_flags, main
from experiments.reproduce.survey import Survey
from experiments.reproduce.table1 import Table1
from experiments.reproduce.table1_presets import PRESETS
from experiments.reproduce.table2 import PRESETS as PRESETS2
from experiments.reproduce.table2 import Table2
from experiments.reproduce.waves import Slice
from experiments.sweeps.engines import Options
from experiments.training import records, rundir, signals
from tests.experiments.reproduce.test_tables import finish

SMALL = PRESETS["smoke"]._replace(
    learning_rates=(1e-3, 3e-3),
    columns=("gumbel_softmax",),
    rows=("sbn_bernoulli",),
    seeds=1,
    pick_steps=40,
    final_steps=60,
)
SMALL = SMALL._replace(
    changes=SMALL.changes
    | {"log_every": 20, "eval_every": 20, "checkpoint_every": 20, "steps_per_call": 20}
)
VMAP = Options()


def small(tmp_path):
    return Table1(SMALL, tmp_path / "work", tmp_path / "results")


def numbers(results):
    """The bounds in the records, by file."""
    return {
        path.relative_to(results): [
            (row["step"], row["validation_bound"]) for row in record["curve"]
        ]
        + [(record["steps"], record["test_bound"])]
        for path in sorted(results.rglob("*/*/*.json"))
        if (record := json.loads(path.read_text()))
    }


def test_slices_come_to_the_records_of_an_undisturbed_run(tmp_path, capsys):
    whole = small(tmp_path / "whole")
    assert waves.train(whole, "vmap", VMAP, Slice()) == 0
    expected = numbers(whole.results)
    assert len(expected) == 3
    capsys.readouterr()
    left, home = [], tmp_path / "0"
    for index in range(1, 20):
        # Each slice ends at its first look at the clock, and the next is on another machine.
        table = small(home)
        status = waves.train(table, "vmap", VMAP, Slice(time.monotonic(), thin=True))
        if status == 0:
            break
        assert status == signals.TIME_IS_UP == 75
        left.append(capsys.readouterr().err.splitlines()[-1])
        assert len(rundir.saved_steps(next((home / "work").rglob("checkpoints")).parent)) == 1
        home = shutil.move(home, tmp_path / str(index))
        home.mkdir(exist_ok=True)
    assert status == 0
    # Two runs pick together, one is final, each by 20 steps; the last are scored at once.
    assert left == [
        f"stopped with {done} runs done and {runs} left, of {steps} steps: rerun the same command "
        "to resume"
        for done, runs, steps in ((0, 3, 100), (2, 1, 40), (2, 1, 20))
    ]
    found = numbers(home / "results")
    assert found.keys() == expected.keys()
    for name, rows in found.items():
        np.testing.assert_allclose(rows, expected[name], rtol=1e-5)
    assert "`gumbel_softmax` | " in capsys.readouterr().out
