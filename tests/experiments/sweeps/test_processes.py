"""Sweeps as processes that are interrupted and resumed: the numbers stay."""

import contextlib
import fcntl
import io
import os
import random
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from experiments import command, sweep
from experiments.config import cli
from experiments.files import read_json
from experiments.sweeps import grids
from experiments.training.run_state import RunState
from tests.experiments.sweeps.launching import (
    SIX,
    finish,
    numbers,
    start,
    steps_of,
    wait_for,
)

GOOD = SIX[:4]
# Of the six, the two of the third learning rate fail.
QUICK = ("--grid=learning_rate=1e-3,1e-2,3e38;seed=0,1", "--config.num_steps=40")


class Swept(NamedTuple):
    """A sweep that is over, and what it printed."""

    workdir: Path
    out: str
    err: str


@pytest.fixture(scope="module", name="by_process")
def fixture_by_process(home: Path) -> Swept:
    """Processes of their own train, one run after the other."""
    child = start(home, "process", "--engine=process", "--workers=1", *QUICK)
    return Swept(home / "process", *finish(child, command.FAILED))


@pytest.fixture(scope="module", name="by_vmap")
def fixture_by_vmap(home: Path) -> Swept:
    """This process trains, all runs at once; it draws none of them, which takes long."""
    out, err = io.StringIO(), io.StringIO()
    files = [f"--config={home / 'config.py'}", f"--workdir={home / 'vmap'}"]
    with (
        pytest.MonkeyPatch.context() as patch,
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
    ):
        patch.setattr(RunState, "draw", lambda *_: None)
        status = cli.run(sweep.main, [*files, "--engine=vmap", *QUICK], sweep.define_flags)
    assert status == command.FAILED
    return Swept(home / "vmap", out.getvalue(), err.getvalue())


def test_every_run_has_a_directory_of_its_own(by_process):
    assert by_process.err.count("done: ") == len(GOOD)
    assert set(numbers(by_process.workdir)) == {grids.name(trial) for trial in GOOD}
    for trial in GOOD:
        result = read_json(run_of(by_process, trial) / "result.json")
        assert result["overrides"] == {"num_steps": 40, **trial}
        assert result["config"]["learning_rate"] == trial["learning_rate"]
        assert result["seed"] == trial["seed"]


def run_of(swept: Swept, trial: dict[str, Any]) -> Path:
    return swept.workdir / "runs" / grids.name(trial)


def test_the_table_and_the_plot(by_process):
    assert "table: " in by_process.out
    table = read_json(by_process.workdir / "table.json")
    *good, failed = table["rows"]
    bounds = [row["mean"] for row in good]
    assert table["keys"] == ["learning_rate"]
    assert len(good) == 2
    assert bounds == sorted(bounds)
    for row in good:
        assert row["mean"] == pytest.approx(sum(row["by_seed"].values()) / 2)
        for seed, bound in row["by_seed"].items():
            path = run_of(by_process, row["overrides"] | {"seed": int(seed)})
            assert read_json(path / "result.json")["validation_bound"] == bound
    assert failed["overrides"] == {"learning_rate": 3e38}
    assert failed["mean"] is None
    assert len((by_process.workdir / "table.md").read_text().splitlines()) == 2 + 3
    assert (by_process.workdir / "sweep.png").read_bytes().startswith(b"\x89PNG")


def assert_close(actual: Path, expected: Path) -> None:
    """The same runs with the same numbers, to float32 rounding: 1e-5 of each."""
    ours, theirs = numbers(actual), numbers(expected)
    assert set(ours) == set(theirs)
    for name, (result, rows) in ours.items():
        other_result, other_rows = theirs[name]
        for key in ("validation_bound", "test_bound"):
            assert result.pop(key) == pytest.approx(other_result.pop(key), rel=1e-5)
        assert result == other_result
        assert len(rows) == len(other_rows)
        for row, other in zip(rows, other_rows, strict=True):
            assert row == pytest.approx(other, rel=1e-5, abs=1e-5)


def test_vmap_gives_the_numbers_of_process(by_vmap, by_process):
    result = read_json(run_of(by_vmap, GOOD[0]) / "result.json")
    assert result["trained_together"] == 6
    assert_close(by_vmap.workdir, by_process.workdir)


@pytest.mark.parametrize("engine", ["process", "vmap"])
def test_a_run_that_fails_is_recorded_and_the_others_go_on(engine, request):
    swept = request.getfixturevalue(f"by_{engine}")
    for seed in (0, 1):
        trial = {"learning_rate": 3e38, "seed": seed}
        failure = read_json(run_of(swept, trial) / "failure.json")
        assert failure["overrides"]["learning_rate"] == 3e38
        assert "the training cost is" in failure["reason"]
        assert f"{grids.name(trial)}: the training cost is" in swept.out
        assert grids.name(trial) in swept.err


@pytest.fixture(scope="module", name="undisturbed")
def fixture_undisturbed(home: Path) -> Path:
    """The directory of a sweep of six longer runs, for those that are disturbed."""
    _, err = finish(start(home, "undisturbed", "--engine=process", "--workers=1"))
    assert err.count("done: ") == 6
    return home / "undisturbed"


@pytest.mark.slow
def test_only_what_is_missing_is_done(home, undisturbed):
    """Two runs are missing, one of which another process holds until the other is done.

    With two workers, where there was one before, the numbers are the same to the bit.
    """
    workdir = home / "missing"
    shutil.copytree(undisturbed, workdir)
    gone, held = (workdir / "runs" / grids.name(trial) for trial in SIX[:2])
    shutil.rmtree(gone)
    shutil.rmtree(held)
    held.mkdir()
    before = {path: path.stat().st_mtime_ns for path in workdir.glob("runs/*/*")}
    with (held / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        child = start(home, "missing", "--engine=process", "--workers=2")
        wait_for((gone / "result.json").exists)
        assert not (held / "metrics.jsonl").exists()
    _, err = finish(child)
    assert err.count("done: ") == 2
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert numbers(workdir) == numbers(undisturbed)
    out, err = finish(start(home, "missing", "--engine=process"))
    assert "done: " not in err
    assert "table: " in out


@pytest.mark.slow
def test_a_worker_that_is_told_to_stop_is_replaced(home):
    """Not the sweep is asked to stop, but a worker, as when a machine runs short of memory."""
    grids_given = ("--grid=seed=0", "--grid=seed=0,1")  # two grids with a run in common
    options = ("--config.num_steps=4000", "--config.checkpoint_every=1000", "--workers=1")
    child = start(home, "terminated", "--engine=process", *options, *grids_given)
    workdir = home / "terminated"
    wait_for(lambda: steps_of(workdir) > 0)
    [worker] = workers_of(child)
    os.kill(worker, signal.SIGTERM)
    _, err = finish(child)
    assert err.count("done: ") == 2
    assert workdir.joinpath("sweep.json").exists()
    assert len(list(workdir.glob("runs/*/result.json"))) == 2


def workers_of(child: subprocess.Popen[str]) -> list[int]:
    """The worker processes of a sweep."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            parent = int(path.with_name("stat").read_text().rpartition(")")[2].split()[1])
            if parent == child.pid and b"spawn_main" in path.read_bytes():
                found.append(int(path.parent.name))
        except OSError:
            continue  # it has just ended
    return found


@pytest.mark.slow
def test_interrupted_in_every_way_it_comes_to_the_same_numbers(home, undisturbed):
    workdir = home / "interrupted"

    def more_steps(steps: int) -> Any:
        goal = steps_of(workdir) + steps
        return lambda: steps_of(workdir) >= goal

    child = start(home, "interrupted", "--engine=process", "--workers=1")
    wait_for(more_steps(50))
    [worker] = workers_of(child)
    os.kill(worker, signal.SIGKILL)  # the sweep replaces it
    wait_for(lambda: workers_of(child) not in ([], [worker]))
    wait_for(more_steps(50))
    child.send_signal(signal.SIGTERM)
    _, err = finish(child, 128 + signal.SIGTERM)
    assert "rerun the same command to resume" in err
    assert "Traceback" not in err

    child = start(home, "interrupted", "--engine=process", "--workers=1")
    wait_for(more_steps(50))
    orphans = workers_of(child)
    child.kill()
    child.communicate()
    # The worker of a sweep that was killed saves its run and leaves.
    wait_for(lambda: not any(Path(f"/proc/{pid}").exists() for pid in orphans))

    finish(start(home, "interrupted", "--engine=process", "--workers=1"))
    assert numbers(workdir) == numbers(undisturbed)


def kill_at_random(home: Path, workdir: str, times: int, *arguments: str) -> None:
    """Kills a sweep at random moments, some of them before it trains, and starts it again.

    In turn all of its processes are killed, and the sweep's own process alone.
    """
    moments, hits = random.Random(0), 0
    for kill in range(times):
        child = start(home, workdir, *arguments)
        if kill % 4 == 0:
            time.sleep(moments.uniform(0, 6))
        else:
            goal = steps_of(home / workdir) + moments.randrange(1, 80)
            while child.poll() is None and steps_of(home / workdir) < goal:
                time.sleep(0.01)
            time.sleep(moments.uniform(0, 0.3))
        if child.poll() is None:
            hits += 1
            os.killpg(child.pid, signal.SIGKILL) if kill % 2 else child.kill()
        child.communicate()
    assert hits >= times // 2


@pytest.mark.slow
def test_twenty_kills_at_random_come_to_the_same_numbers(home, undisturbed):
    kill_at_random(home, "killed", 20, "--engine=process", "--workers=2")
    finish(start(home, "killed", "--engine=process", "--workers=2"))
    assert numbers(home / "killed") == numbers(undisturbed)


@pytest.mark.slow
def test_two_sweeps_on_one_directory(home, undisturbed):
    both = [start(home, "two", f"--engine={engine}") for engine in ("process", "vmap")]
    for child in both:
        finish(child)
    assert_close(home / "two", undisturbed)


@pytest.mark.slow
def test_vmap_goes_on_from_any_mixture_of_checkpoints(home, undisturbed):
    """Begun by two processes, so that the runs have come to different steps."""
    child = start(home, "mixed", "--engine=process", "--workers=2")
    wait_for(lambda: steps_of(home / "mixed") >= 250)
    child.send_signal(signal.SIGTERM)
    finish(child, 128 + signal.SIGTERM)
    assert len(numbers(home / "mixed")) < 6
    kill_at_random(home, "mixed", 4, "--engine=vmap")
    child = start(home, "mixed", "--engine=vmap")
    steps = steps_of(home / "mixed")
    wait_for(lambda: child.poll() is not None or steps_of(home / "mixed") != steps)
    child.send_signal(signal.SIGTERM)
    child.communicate()
    finish(start(home, "mixed", "--engine=vmap"))
    assert_close(home / "mixed", undisturbed)


@pytest.mark.ray
def test_ray_gives_the_numbers_of_process(home, undisturbed):
    finish(start(home, "ray", "--engine=ray", "--workers=2"))
    assert_close(home / "ray", undisturbed)


@pytest.mark.ray
def test_ray_replaces_a_killed_worker_and_stops_when_asked(home, undisturbed):
    def ray_workers() -> Iterator[int]:
        for path in Path("/proc").glob("[0-9]*/cmdline"):
            try:
                if path.read_bytes().startswith(b"ray::_work"):
                    yield int(path.parent.name)
            except OSError:
                continue

    workdir = home / "ray-killed"
    child = start(home, "ray-killed", "--engine=ray", "--workers=1")
    wait_for(lambda: steps_of(workdir) >= 50)
    for pid in ray_workers():
        os.kill(pid, signal.SIGKILL)
    steps = steps_of(workdir)
    wait_for(lambda: steps_of(workdir) >= steps + 50)
    child.send_signal(signal.SIGTERM)
    finish(child, 128 + signal.SIGTERM)
    finish(start(home, "ray-killed", "--engine=ray", "--workers=1"))
    assert_close(workdir, undisturbed)
