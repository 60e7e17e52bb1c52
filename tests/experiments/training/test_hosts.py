"""One run by several processes on this machine: one process's numbers, whoever is killed."""

import contextlib
import os
import random
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

import pytest

from experiments.files import read_json
from experiments.training import records
from tests.experiments.sweeps.launching import wait_for
from tests.experiments.training.on_devices import distance, numbers

pytestmark = pytest.mark.slow

_FIRST_PORT = 2**16 - 2**12  # of those that jax takes for a job of a cluster
ROOT = Path(__file__).parents[3]
CONFIG = """
from tests.experiments import small

def get_config():
    return small.config(
        "sbn", layers=(4,), batch_size=8, eval_batch_size=60, num_steps=400, log_every=20,
        estimator__name="nvil",
    )
"""


class Launch(NamedTuple):
    """How a process of several learns of the others."""

    flags: tuple[str, ...] = ()
    variables: Mapping[str, str] = MappingProxyType({})


def by_flags(index: int, count: int, port: int) -> Launch:
    """The flags that a person gives."""
    address = f"--coordinator=localhost:{port}"
    return Launch((address, f"--num_processes={count}", f"--process_id={index}"))


def by_slurm(index: int, count: int, port: int) -> Launch:
    """The environment of `srun`; jax takes the port from the number of the job."""
    variables = {"JOB_ID": port - _FIRST_PORT, "STEP_NODELIST": "localhost", "NTASKS": count}
    variables |= {"PROCID": index, "LOCALID": index}
    slurm = {f"SLURM_{name}": str(value) for name, value in variables.items()}
    return Launch(("--coordinator=cluster",), slurm)


def by_open_mpi(index: int, count: int, port: int) -> Launch:
    """The environment of `mpirun`; jax takes the port from the number of the job."""
    job = (port - _FIRST_PORT) * 2**12
    mpi = {"OMPI_MCA_orte_hnp_uri": f"{job}.0;tcp://127.0.0.1:1"}
    variables = {"SIZE": count, "RANK": index, "LOCAL_RANK": index}
    mpi |= {f"OMPI_COMM_WORLD_{name}": str(value) for name, value in variables.items()}
    return Launch(("--coordinator=cluster",), mpi)


def free_port() -> int:
    """A port that jax may take for a job, too."""
    for port in random.sample(range(_FIRST_PORT, 2**16), 100):
        with contextlib.suppress(OSError), socket.socket() as free:
            free.bind(("localhost", port))
            return port
    raise AssertionError("no port is free")


def start(
    workdir: Path,
    count: int,
    launched: Callable[[int, int, int], Launch] = by_flags,
    *,
    apart: bool = False,
) -> list[subprocess.Popen[str]]:
    """Starts the processes of a run, in one directory or each in its own below it."""
    config = workdir.parent / "config.py"
    config.write_text(CONFIG)
    port = free_port()
    cache = {"JAX_COMPILATION_CACHE_DIR": str(workdir.parent / "compiled")}
    each = [launched(index, count, port) if count > 1 else Launch() for index in range(count)]
    directories = [workdir / str(index) if apart else workdir for index in range(count)]
    return [
        subprocess.Popen(
            [
                *(sys.executable, "-m", "experiments.train"),
                *(f"--config={config}", f"--workdir={directory}", *launch.flags),
            ],
            cwd=ROOT,
            env=os.environ | cache | launch.variables,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for launch, directory in zip(each, directories, strict=True)
    ]


def finish(children: Sequence[subprocess.Popen[str]], *status: int) -> list[str]:
    """Waits until all have ended, and gives what they said."""
    said = ["".join(child.communicate(timeout=600)) for child in children]
    assert {child.returncode for child in children} == set(status or (0,)), said
    return said


def steps_of(workdir: Path) -> int:
    """The steps that the run has logged."""
    log = workdir / "metrics.jsonl"
    return records.read_metrics(log)[-1]["step"] if log.exists() and log.stat().st_size else 0


@pytest.fixture(scope="module", name="alone")
def fixture_alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory of the run by one process."""
    workdir = tmp_path_factory.mktemp("hosts") / "alone"
    finish(start(workdir, 1))
    return workdir


@pytest.fixture(scope="module", name="by_two")
def fixture_by_two(alone: Path) -> Path:
    """That of the run by two processes."""
    workdir = alone.with_name("two")
    first, second = finish(start(workdir, 2))
    assert "numbers: " in first
    assert "numbers: " not in second
    return workdir


def test_two_processes_have_the_numbers_of_one(alone, by_two):
    assert distance(numbers(by_two), numbers(alone)) < 1e-4
    assert read_json(by_two / "result.json")["device"]["count"] == 2


@pytest.mark.parametrize("launched", [by_slurm, by_open_mpi])
def test_a_cluster_says_which_process_is_which(by_two, launched):
    workdir = by_two.with_name(launched.__name__)
    finish(start(workdir, 2, launched))
    assert numbers(workdir) == numbers(by_two)


def test_four_processes_have_the_numbers_of_one(alone):
    workdir = alone.with_name("four")
    finish(start(workdir, 4))
    assert distance(numbers(workdir), numbers(alone)) < 1e-4


@pytest.mark.parametrize("victim", [0, 1])
def test_a_killed_process_ends_the_run_which_resumes(by_two, tmp_path, victim):
    """To the same numbers, to the bit."""
    workdir = tmp_path / "killed"
    children = start(workdir, 2)
    wait_for(lambda: steps_of(workdir) >= 40)
    children[victim].kill()
    for child in children:
        child.communicate(timeout=300)
    assert not (workdir / "result.json").exists()
    finish(start(workdir, 2))
    assert numbers(workdir) == numbers(by_two)


def test_a_process_that_is_told_to_stop_stops_all(by_two, tmp_path):
    workdir = tmp_path / "stopped"
    children = start(workdir, 2)
    wait_for(lambda: steps_of(workdir) >= 40)
    children[1].send_signal(signal.SIGTERM)
    said = finish(children, 128 + signal.SIGTERM)
    assert all("rerun the same command to resume" in each for each in said)
    finish(start(workdir, 2))
    assert numbers(workdir) == numbers(by_two)


def test_a_mistake_that_the_first_one_finds_is_said_by_all(tmp_path):
    workdir = tmp_path / "other"
    workdir.mkdir()
    theirs = {"task": "generative", "num_steps": 7, "seed": 7}
    records.write_json(workdir / "config.json", theirs)
    said = finish(start(workdir, 2), 2)
    assert all("belongs to another config" in each for each in said)


def test_a_damaged_file_that_the_first_one_alone_has_ends_all(tmp_path):
    workdir = tmp_path / "damaged"
    (workdir / "0").mkdir(parents=True)
    (workdir / "0" / "result.json").write_text("{")
    said = finish(start(workdir, 2, apart=True), 2)
    assert all("result.json is damaged" in each for each in said)
