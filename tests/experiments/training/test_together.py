"""Runs trained as one program: an error of one of them is its own, and memory is shared."""

import errno
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import pytest

from experiments.errors import Stopped, UserError
from experiments.settings import Settings
from experiments.sweeps.engines import Options, attempt, vmapped
from experiments.training import out_of_memory, run, rundir
from experiments.training.checkpoints import Checkpoints
from experiments.training.compiled import Compiled
from experiments.training.job import Job
from experiments.training.metrics import MetricsLog
from experiments.training.run import Programs
from experiments.training.run_state import RunState
from experiments.training.signals import Stop
from tests.experiments import small

FAILING = ("opened", "logged", "saved", "drawn", "finished")


@pytest.fixture(autouse=True)
def fixture_compiled_fast():
    """The numbers do not matter here, so programs may be slow and quickly made."""
    before = jax.config.read("jax_disable_most_optimizations")
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", before)


def jobs(directory: Path, names: tuple[str, ...], **overrides: Any) -> list[Job]:
    every = {"num_steps": 4, "log_every": 2, "eval_every": 4, "checkpoint_every": 2}

    def settings(seed: int) -> Settings:
        return small.settings(layers=(4,), seed=seed, **every, **overrides)

    return [Job(settings(seed), directory / name, {}) for seed, name in enumerate(names)]


def break_files(patch: pytest.MonkeyPatch, directory: Path) -> None:
    """Has one thing fail in the directory of each name."""
    broken = {
        "opened": (MetricsLog, "__init__", lambda log, workdir, *_, **__: workdir),
        "logged": (MetricsLog, "append", lambda log, *_, **__: log.path.parent),
        "saved": (Checkpoints, "save", lambda saver, *_: saver.directory.parent),
        "drawn": (RunState, "draw", lambda run, *_: run.job.workdir),
        "finished": (RunState, "finish", lambda run, *_: run.job.workdir),
    }
    for name, (owner, method, workdir_of) in broken.items():
        fail = failing(directory / name, getattr(owner, method), workdir_of)
        patch.setattr(owner, method, fail)


def failing(workdir: Path, method: Callable[..., Any], workdir_of: Callable[..., Path]) -> Any:
    """The method, but for the run in this directory."""

    def call(*args: Any, **named: Any) -> Any:
        if workdir_of(*args, **named) == workdir:
            raise OSError(errno.EIO, "Input/output error", workdir.name)
        return method(*args, **named)

    return call


def test_the_error_of_one_run_fails_that_run_alone(tmp_path, monkeypatch):
    good = ("good",)
    ours = jobs(tmp_path, (*FAILING, *good))
    monkeypatch.setattr(RunState, "draw", lambda *_: None)  # a second each
    break_files(monkeypatch, tmp_path)
    outcomes = attempt.attempt(ours, Stop(), Programs())
    found = {job.workdir.name: outcome for job, outcome in zip(ours, outcomes, strict=True)}
    for name in FAILING:
        assert found[name].status == "failed", name
        assert found[name].reason == f"OSError: [Errno 5] Input/output error: {name!r}"
        assert (tmp_path / name / "failure.json").exists()
    for name in good:
        assert found[name].status == "done"
        assert rundir.read_result(tmp_path / name)["steps"] == 4


def test_a_full_disk_is_not_one_runs(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device", "x")

    monkeypatch.setattr(RunState, "open", full)
    monkeypatch.setattr(Compiled, "check_memory", lambda *_: None)
    outcomes = attempt.attempt(jobs(tmp_path, ("a", "b")), Stop(), Programs())
    assert {outcome.status for outcome in outcomes} == {"no_space"}


def refusal() -> Exception:
    return jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 7 bytes.")


def test_a_group_that_needs_too_much_memory_is_split(tmp_path, monkeypatch, caplog):
    ours, tried, reported = jobs(tmp_path, tuple("abcde")), [], []

    def train_together(group, **_):
        tried.append(len(group))
        with out_of_memory.explaining(len(group)):
            if len(group) > 2:
                raise refusal()
            if group[0].workdir.name == "e":
                raise MemoryError
        return [{} for _ in group]

    monkeypatch.setattr(attempt.run, "train_together", train_together)
    monkeypatch.setattr(vmapped, "_RETRY_SECONDS", 0)
    vmapped.train(ours, Options(), Stop(), lambda job, outcome: reported.append((job, outcome)))
    assert tried == [5, 2, 2, 1]
    assert [outcome.status for _, outcome in reported] == 4 * ["done"] + ["failed"]
    assert reported[-1][1].reason.startswith("this machine is out of memory: this run needs")
    [said] = caplog.messages
    assert said.endswith("; training 2 runs at a time")
    assert "is out of memory: 5 runs together need more than it has" in said


def test_each_program_has_a_limit_of_its_own(tmp_path, monkeypatch):
    ours = jobs(tmp_path, ("a", "b"), batch_size=10) + jobs(tmp_path, tuple("cdefgh"))
    fits, tried = {10: 1, 5: 3}, []

    def train_together(group, **_):
        batch_size = group[0].settings.batch_size
        tried.append((batch_size, len(group)))
        with out_of_memory.explaining(len(group)):
            if len(group) > fits[batch_size]:
                raise refusal()
        return [{} for _ in group]

    monkeypatch.setattr(attempt.run, "train_together", train_together)
    monkeypatch.setattr(vmapped, "_RETRY_SECONDS", 0)
    vmapped.train(ours, Options(), Stop(), lambda *_: None)
    assert tried == [(10, 2), (5, 6), (10, 1), (10, 1), (5, 3), (5, 3)]


def test_other_errors_of_the_device_are_not_put_in_other_words():
    with pytest.raises(jax.errors.JaxRuntimeError, match="INTERNAL"), out_of_memory.explaining():
        raise jax.errors.JaxRuntimeError("INTERNAL: a bug")
    with pytest.raises(UserError, match="out of memory"), out_of_memory.explaining():
        raise refusal()


def test_a_stop_says_which_runs_had_diverged(tmp_path):
    ours = [
        Job(small.settings("sbn", learning_rate=rate), tmp_path / str(rate), {})
        for rate in (1e-3, 3e38)
    ]
    with pytest.raises(Stopped) as stopped:
        run.train_together(ours, stop=Stop(deadline=0.0))
    assert stopped.value.failed.keys() == {ours[1].workdir}
