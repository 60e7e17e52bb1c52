"""Measures what a sweep of many tiny runs costs beside their training.

  python -m scripts.many_runs --workdir=DIR [--runs=1000] [--engine=process|vmap]

It prints the CPU seconds per run, and the memory of all of the sweep's processes when a tenth of
the runs is done and when all are. A run takes 20 steps of a model of four variables.
"""

import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from absl import flags

from experiments import command
from experiments.errors import UserError

_CONFIG = """
from experiments.config import base

def get_config():
    config = base("structured_prediction")
    config.update(dataset="digits", layers=(4,), num_steps=20, log_every=10, eval_every=20)
    config.update(checkpoint_every=20, test_num_samples=2, eval_batch_size=300)
    return config
"""
_RATES = [number / 1000 for number in range(1, 11)]
_POLL_SECONDS = 1.0


class Cost(NamedTuple):
    """What a sweep cost.

    Attributes:
      seconds, cpu_seconds: of all its processes.
      early, late: the most memory that they held together, in MiB, until a tenth of the runs was
        done, and until the end.
    """

    seconds: float
    cpu_seconds: float
    early: float
    late: float


def define_flags(values: flags.FlagValues) -> None:
    """The command's flags."""
    define: dict[str, Any] = {"flag_values": values}
    flags.DEFINE_string("workdir", None, "a new directory for the sweep", **define)
    flags.DEFINE_integer("runs", 1000, "number of runs", lower_bound=10, **define)
    flags.DEFINE_enum("engine", "process", ["process", "vmap"], "the engine", **define)


def main(given: Mapping[str, Any]) -> int:
    """Trains the sweep, and prints what it cost."""
    workdir = command.required_path(given["workdir"], "workdir=DIR", "name a new directory")
    if (workdir / "sweep").exists():
        raise UserError(f"--workdir={workdir} has a sweep: name a new directory")
    runs, engine = given["runs"], given["engine"]
    if runs % len(_RATES):
        raise UserError(f"--runs={runs}: give a multiple of {len(_RATES)}")
    cost = measured(workdir, runs, engine)
    each = cost.cpu_seconds / runs
    print(
        f"{runs} runs by {engine}: {cost.seconds:.0f} s, {each:.3f} CPU s a run; "
        f"at most {cost.early:.0f} MiB until run {runs // 10}, {cost.late:.0f} MiB until the last"
    )
    return 0


def measured(workdir: Path, runs: int, engine: str) -> Cost:
    """The cost of a sweep of so many runs."""
    workdir.mkdir(parents=True, exist_ok=True)
    (workdir / "config.py").write_text(_CONFIG)
    arguments = [
        f"--config={workdir / 'config.py'}",
        f"--workdir={workdir / 'sweep'}",
        f"--engine={engine}",
        f"--grid=seed=0..{runs // len(_RATES) - 1};learning_rate={','.join(map(str, _RATES))}",
    ]
    began, cpu_before = time.monotonic(), _cpu_of_children()
    with (workdir / "log").open("w") as log:
        sweep = subprocess.Popen(
            [sys.executable, "-m", "experiments.sweep", *arguments],
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
        early = late = 0.0
        try:
            while sweep.poll() is None:
                late = max(late, _memory_of(sweep.pid))
                if len(list(workdir.glob("sweep/runs/*/result.json"))) <= runs // 10:
                    early = late
                time.sleep(_POLL_SECONDS)
        finally:
            if sweep.poll() is None:  # Ctrl-C reaches this process alone
                os.killpg(sweep.pid, signal.SIGTERM)
    if sweep.returncode:
        raise UserError(f"the sweep failed: see {workdir / 'log'}")
    return Cost(time.monotonic() - began, _cpu_of_children() - cpu_before, early, late)


def _memory_of(group: int) -> float:
    """The memory that the processes of a group do not share, in MiB."""
    total = 0.0
    for path in Path("/proc").glob("[0-9]*"):
        try:
            if os.getpgid(int(path.name)) == group:
                pages = (path / "statm").read_text().split()
                total += (int(pages[1]) - int(pages[2])) * resource.getpagesize()
        except OSError:
            continue  # it has just ended
    return total / 2**20


def _cpu_of_children() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


if __name__ == "__main__":
    sys.exit(command.launch(main, define_flags))
