"""Training on several devices gives the numbers of one, wherever the run or the sweep is cut."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from jax.experimental import multihost_utils

from experiments import train
from experiments.config import cli
from experiments.errors import UserError
from experiments.training import hosts
from experiments.training.signals import Stop
from gumbel import estimators

ROOT = Path(__file__).parents[3]
ROUNDING = 1e-5  # of 1 + the size of a number, after some steps in float32


def on_four_devices(home: Path, names: str = "") -> dict[str, Any]:
    """What `on_devices` prints."""
    flags = os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=4"
    child = subprocess.run(
        [sys.executable, "-m", "tests.experiments.training.on_devices", str(home), names],
        cwd=ROOT,
        env=os.environ | {"XLA_FLAGS": flags.strip()},
        capture_output=True,
        text=True,
        check=False,
    )
    assert child.returncode == 0, child.stderr
    return json.loads(child.stdout.splitlines()[-1])


@pytest.fixture(scope="module", name="found")
def fixture_found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return on_four_devices(tmp_path_factory.mktemp("devices"))


def assert_equal_to_one_device(by_estimator: dict[str, Any]) -> None:
    for name, found in by_estimator.items():
        for count, distance in found["distance"].items():
            assert distance < ROUNDING, (name, count)
            # Each device has its part of the work, and what is done for all of the batch at once.
            assert found["share"][count] < 0.75, (name, count)


def test_an_estimate_on_four_devices_is_that_of_one(found):
    assert list(found["estimators"]) == ["nvil"]
    assert_equal_to_one_device(found["estimators"])


def test_statistics_of_a_part_of_the_batch_would_be_noticed(found):
    assert found["local"] > 100 * ROUNDING


def test_a_run_resumes_on_another_number_of_devices(found):
    assert found["resumed"]["moved"] < ROUNDING


def test_a_sweep_on_two_devices_has_the_numbers_of_one(found):
    assert found["resumed"]["together"] == 3  # and an idle one
    assert found["resumed"]["sweep"] < ROUNDING


def test_a_sweep_resumes_from_any_mixture(found):
    assert found["resumed"]["mixed"] < ROUNDING


def test_runs_are_divided_evenly(found):
    assert found["divided"] == [[2, 2, 2], [2, 2, 2, 2], [1, 1]]


def test_a_batch_that_does_not_divide_is_refused(found):
    one, both = found["refused"]
    assert one == "config.batch_size=6: not a multiple of 4 devices; give one, or --devices=3"
    assert both.startswith("config.batch_size=6 and config.eval_batch_size=7: not a multiple of 4")
    assert both.endswith("give multiples, or --devices=1")


@pytest.mark.slow
def test_every_estimator_on_two_and_four_devices(tmp_path):
    found = on_four_devices(tmp_path, ",".join(estimators.names()))
    assert tuple(found["estimators"]) == (*estimators.names(), "learned")
    assert_equal_to_one_device(found["estimators"])
    assert found["collectives"] == []


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--devices=some"], "--devices=some: give a number of at least 1, or all"),
        (["--devices=0"], "--devices=0: give a number of at least 1, or all"),
        (["--devices=99"], "--devices=99: jax finds 1 here (cpu); give at most that"),
        (["--process_id=1"], "--process_id is for several processes: also give --coordinator"),
        (["--coordinator=here"], "--coordinator=here: give HOST:PORT, or cluster"),
        (["--coordinator=here:1"], "give --num_processes and --process_id, too"),
        (
            ["--coordinator=here:1", "--num_processes=2", "--process_id=2"],
            "--process_id=2: give a number from 0 to 1, of --num_processes=2",
        ),
        (
            ["--coordinator=cluster", "--num_processes=2"],
            "--num_processes: leave it out, --coordinator=cluster knows it",
        ),
    ],
)
def test_flags_that_cannot_be_met_are_refused(tmp_path, capsys, arguments, said):
    files = [f"--config={ROOT / 'configs' / 'quickstart.py'}", f"--workdir={tmp_path / 'run'}"]
    assert cli.run(train.main, [*files, *arguments], train.define_flags) == 2
    err = capsys.readouterr().err
    assert said in err
    assert err.count("\n") == 1
    assert not (tmp_path / "run" / "config.json").exists()


@pytest.fixture(name="second_of_two")
def fixture_second_of_two(monkeypatch):
    """This process as the second of two; what the first shares, and what each has, is set."""
    said: dict[str, Any] = {}
    monkeypatch.setattr(hosts, "several", lambda: True)
    monkeypatch.setattr(hosts, "is_first", lambda: False)
    monkeypatch.setattr(hosts, "_from_first", lambda _: said["shared"])
    monkeypatch.setattr(
        multihost_utils, "process_allgather", lambda mine: np.stack([said["theirs"], mine])
    )
    return said


def test_the_first_process_sends_its_result_to_the_others(second_of_two):
    def not_here() -> str:
        raise AssertionError("only the first process may do this")

    second_of_two["shared"] = hosts.CallOutcome("the first one's", None)
    assert hosts.by_first(not_here) == "the first one's"
    second_of_two["shared"] = hosts.CallOutcome(None, UserError("the disk is full"))
    with pytest.raises(UserError, match="the disk is full"):
        hosts.by_first(not_here)


def test_all_processes_stop_if_one_is_asked_to(second_of_two):
    second_of_two["theirs"] = np.int32(15)
    stop = Stop()
    assert hosts.agreed(stop)
    assert stop.exit_status == 128 + 15


def test_processes_with_other_data_are_refused(second_of_two):
    second_of_two["theirs"] = np.array([0, 2], np.uint8)
    with pytest.raises(UserError, match="the dataset of process 1 differs from that of process 0"):
        hosts.refuse_differing("the dataset", b"\0\1")


def test_what_one_process_cannot_do_ends_all(second_of_two):
    second_of_two["theirs"] = np.int32(1)
    with pytest.raises(UserError, match="process 0 failed: see its error message"):
        hosts.by_each(lambda: "mine is well")
    second_of_two["theirs"] = np.int32(0)
    assert hosts.by_each(lambda: "mine is well") == "mine is well"
