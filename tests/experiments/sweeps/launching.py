"""Sweeps as their users start them: as processes, in a directory with a config file."""

import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from experiments.files import read_json
from experiments.sweeps import grids, jobs
from experiments.training import records
from experiments.training.job import Job
from tests.experiments import small

ROOT = Path(__file__).parents[3]

CONFIG = """
from experiments.sweeps import grids
from tests.experiments import small

def get_config():
    return small.config("sbn", layers=(4,), num_steps=200, log_every=10)

def get_sweep():
    return grids.product({"learning_rate": (1e-3, 1e-2, 3e-2), "seed": (0, 1)})
"""
SIX = grids.product({"learning_rate": (1e-3, 1e-2, 3e-2), "seed": (0, 1)})


def start(home: Path, workdir: str, *arguments: str) -> subprocess.Popen[str]:
    """Starts a sweep, in a process group of its own."""
    cache = {
        "JAX_COMPILATION_CACHE_DIR": str(home / "compiled"),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
    }
    files = [f"--config={home / 'config.py'}", f"--workdir={home / workdir}"]
    return subprocess.Popen(
        [sys.executable, "-m", "experiments.sweep", *files, *arguments],
        cwd=ROOT,
        env=os.environ | cache,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def finish(child: subprocess.Popen[str], status: int = 0) -> tuple[str, str]:
    out, err = child.communicate(timeout=300)
    assert child.returncode == status, err
    return out, err


def numbers(workdir: Path) -> dict[str, Any]:
    """All that the runs of a sweep recorded, but for times, paths and where it ran."""
    apart = {"train_seconds", "eval_seconds", "steps_per_second", "trained_together", "git"}
    apart |= {"device"}  # several workers share the cores

    def kept(row: dict[str, Any]) -> dict[str, Any]:
        return {key: value for key, value in row.items() if key not in apart}

    return {
        path.parent.name: (
            kept(read_json(path)),
            [kept(row) for row in records.read_metrics(path.with_name("metrics.jsonl"))],
        )
        for path in sorted(workdir.glob("runs/*/result.json"))
    }


def wait_for(condition: Any, seconds: float = 600) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


def steps_of(workdir: Path) -> int:
    """The steps that all runs have logged."""
    logs = workdir.glob("runs/*/metrics.jsonl")
    return sum(row["step"] for log in logs for row in records.read_metrics(log)[-1:])


def jobs_in(workdir: Path, **overrides: Any) -> list[Job]:
    base = small.config("sbn", layers=(4,), **overrides)
    return jobs.jobs_of(base, grids.product({"seed": (0, 1)}), workdir)
