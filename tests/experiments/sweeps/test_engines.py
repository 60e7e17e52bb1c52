"""Sweeps, mostly as their users start them: as processes that are interrupted and resumed."""

import fcntl
import json
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from experiments.engines import Job, Options, vmapped
from experiments.engines import process as process_engine

from configs import semi_supervised
from experiments import cli, grids, overrides, progress, records, run, sweep, sweep_report
from experiments.errors import UserError
from experiments.training.checkpoints import Checkpoints
from tests.experiments import small

ROOT = Path(__file__).parents[3]

CONFIG = """
from experiments import grids
from tests.experiments import small

def get_config():
    return small.config("sbn", layers=(4,), num_steps=200, log_every=10)

def get_sweep():
    return grids.product({"learning_rate": (1e-3, 1e-2, 3e-2), "seed": (0, 1)})
"""
SIX = grids.product({"learning_rate": (1e-3, 1e-2, 3e-2), "seed": (0, 1)})


@pytest.fixture(scope="module", name="home")
def fixture_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with a config file and a cache of compiled programs, for speed alone."""
    home = tmp_path_factory.mktemp("sweeps")
    (home / "config.py").write_text(CONFIG)
    return home


def start(home: Path, workdir: str, *arguments: str) -> subprocess.Popen[str]:
    """Starts a sweep, in a process group of its own."""
    flags = os.environ.get("XLA_FLAGS", "") + " --xla_backend_optimization_level=0"
    cache = {
        "JAX_COMPILATION_CACHE_DIR": str(home / "compiled"),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
    }
    files = [f"--config={home / 'config.py'}", f"--workdir={home / workdir}"]
    return subprocess.Popen(
        [sys.executable, "-m", "experiments.sweep", *files, *arguments],
        cwd=ROOT,
        env=os.environ | cache | {"XLA_FLAGS": flags.strip()},
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
    times = {"train_seconds", "eval_seconds", "steps_per_second", "trained_together", "git"}

    def kept(row: dict[str, Any]) -> dict[str, Any]:
        return {key: value for key, value in row.items() if key not in times}

    return {
        path.parent.name: (
            kept(records.read_json(path)),
            [kept(row) for row in records.read_metrics(path.with_name("metrics.jsonl"))],
        )
        for path in sorted(workdir.glob("runs/*/result.json"))
    }


def wait_for(condition: Any, seconds: float = 120) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


def steps_of(workdir: Path) -> int:
    """The steps that all runs have logged."""
    logs = workdir.glob("runs/*/metrics.jsonl")
    return sum(row["step"] for log in logs for row in records.read_metrics(log)[-1:])


@pytest.fixture(scope="module", name="by_process")
def fixture_by_process(home: Path) -> Path:
    """The directory of an undisturbed sweep of six runs."""
    out, err = finish(start(home, "process", "--engine=process", "--workers=1"))
    assert "table: " in out
    assert err.count("done: ") == 6
    return home / "process"


def test_every_run_has_a_directory_of_its_own(by_process):
    assert set(numbers(by_process)) == {grids.name(point) for point in SIX}
    for point in SIX:
        result = records.read_json(by_process / "runs" / grids.name(point) / "result.json")
        assert result["overrides"] == point
        assert result["config"]["learning_rate"] == point["learning_rate"]
        assert result["seed"] == point["seed"]


def test_the_table_and_the_plot(by_process):
    table = records.read_json(by_process / "table.json")
    bounds = [row["mean"] for row in table["rows"]]
    assert table["keys"] == ["learning_rate"]
    assert bounds == sorted(bounds)
    for row in table["rows"]:
        assert row["mean"] == pytest.approx(sum(row["by_seed"].values()) / 2)
        for seed, bound in row["by_seed"].items():
            path = by_process / "runs" / grids.name(row["overrides"] | {"seed": int(seed)})
            assert records.read_json(path / "result.json")["validation_bound"] == bound
    assert len((by_process / "table.md").read_text().splitlines()) == 2 + 3
    assert (by_process / "sweep.png").read_bytes().startswith(b"\x89PNG")


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


@pytest.fixture(scope="module", name="by_vmap")
def fixture_by_vmap(home: Path) -> Path:
    finish(start(home, "vmap", "--engine=vmap"))
    return home / "vmap"


def test_vmap_gives_the_numbers_of_process(by_vmap, by_process):
    together = records.read_json(next(by_vmap.glob("runs/*/result.json")))["trained_together"]
    assert together == 6
    assert_close(by_vmap, by_process)


def test_only_what_is_missing_is_done(home, by_process):
    """Two runs are missing, one of which another process holds until the other is done.

    With two workers, where there was one before, the numbers are the same to the bit.
    """
    workdir = home / "missing"
    shutil.copytree(by_process, workdir)
    gone, held = (workdir / "runs" / grids.name(point) for point in SIX[:2])
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
    assert numbers(workdir) == numbers(by_process)
    out, err = finish(start(home, "missing", "--engine=process"))
    assert "done: " not in err
    assert "table: " in out


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


def test_interrupted_in_every_way_it_comes_to_the_same_numbers(home, by_process):
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
    assert numbers(workdir) == numbers(by_process)


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
def test_twenty_kills_at_random_come_to_the_same_numbers(home, by_process):
    kill_at_random(home, "killed", 20, "--engine=process", "--workers=2")
    finish(start(home, "killed", "--engine=process", "--workers=2"))
    assert numbers(home / "killed") == numbers(by_process)


@pytest.mark.slow
def test_two_sweeps_on_one_directory(home, by_process):
    both = [start(home, "two", f"--engine={engine}") for engine in ("process", "vmap")]
    for child in both:
        finish(child)
    assert_close(home / "two", by_process)


@pytest.mark.slow
def test_vmap_goes_on_from_any_mixture_of_checkpoints(home, by_process):
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
    assert_close(home / "mixed", by_process)


@pytest.mark.ray
def test_ray_gives_the_numbers_of_process(home, by_process):
    finish(start(home, "ray", "--engine=ray", "--workers=2"))
    assert_close(home / "ray", by_process)


@pytest.mark.ray
def test_ray_replaces_a_killed_worker_and_stops_when_asked(home, by_process):
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
    assert_close(workdir, by_process)


def test_a_run_that_fails_is_recorded_and_the_others_go_on(home, by_vmap):
    grid = "--grid=learning_rate=1e-3,1e-2,3e38;seed=0,1"
    out, err = finish(start(home, "failing", "--engine=vmap", grid), sweep.FAILED)
    failing = {grids.name({"learning_rate": 3e38, "seed": seed}) for seed in (0, 1)}
    good, wanted = numbers(home / "failing"), numbers(by_vmap)
    assert set(good) == set(wanted) - {grids.name(point) for point in SIX[4:]}
    assert all(good[name] == wanted[name] for name in good)
    for name in failing:
        failure = records.read_json(home / "failing" / "runs" / name / "failure.json")
        assert failure["overrides"]["learning_rate"] == 3e38
        assert "the training cost is" in failure["reason"]
        assert f"{name}: the training cost is" in out
        assert name in err


# Bad input, none of which trains anything


@pytest.fixture(name="fail")
def fixture_fail(home, capsys):
    """The error line of a sweep that must be refused."""

    def fail(*arguments: str, workdir: str = "refused", config: str = "config.py") -> str:
        files = [f"--config={home / config}", f"--workdir={home / workdir}"]
        assert cli.run(sweep.main, [*files, *arguments], sweep.define_flags) == 2
        out, err = capsys.readouterr()
        assert out == ""
        assert err.startswith("error: ")
        assert err.count("\n") == 1
        return err

    return fail


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--grid=learing_rate=1"], "unknown config key learing_rate (learing_rate=1): did you"),
        (["--grid="], "--grid: no key is named"),
        (["--grid=seed=x"], "--grid: seed=x: seed takes an integer"),
        (["--grid=momentum=0.5,1"], "the run momentum=1.0: config.momentum=1.0: give a number in"),
        (["--grid=estimator.name=sf,gs"], "the run estimator.name=gs: config.estimator.name: "),
        (["--config.seed=3"], "--config.seed sets a key that the grid varies"),
        (["--engine=threads"], "--engine=threads: value should be one of <process|vmap|ray>"),
        (["--workers=0"], "--workers=0"),
        (["--grid=seed=1", "--grid=sed=2"], "unknown config key sed"),
        (["--workers=2", "--ray_address=a"], "--workers is for a cluster started here"),
        (["--engine=process", "--ray_address=a"], "--ray_address is for --engine=ray, and"),
        (["--grid=batch_size=5000"], "config.batch_size=5000: digits has"),
        (["--gird=seed=1"], "unknown flag --gird: did you mean --grid?"),
    ],
)
def test_bad_input(fail, arguments, message):
    assert message in fail(*arguments)


def test_a_config_without_a_sweep_needs_a_grid(fail, home):
    text = CONFIG.partition("def get_sweep")[0]
    (home / "no_sweep.py").write_text(text)
    assert "no_sweep.py has no function get_sweep()" in fail(config="no_sweep.py")
    (home / "empty.py").write_text(text + "def get_sweep():\n    return []\n")
    assert "get_sweep() of" in (line := fail(config="empty.py"))
    assert "returns no run" in line


def test_a_directory_of_another_config_is_refused(fail, by_process):
    before = (by_process / "sweep.json").read_text()
    line = fail("--config.num_steps=400", workdir=by_process.name)
    assert "belongs to another config (num_steps=200)" in line
    assert (by_process / "sweep.json").read_text() == before
    single = by_process / "runs" / grids.name(SIX[0])
    assert "that of a single run" in fail(workdir=str(single))


def test_a_sweep_that_is_refused_leaves_the_directory_free(fail, home):
    assert "give at most that" in fail("--config.batch_size=5000", workdir="mended")
    assert not (home / "mended" / "sweep.json").exists()


def test_ray_that_is_not_installed_is_named(fail, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    assert "pip install -e '.[ray]'" in fail("--engine=ray", workdir="no-ray")


def jobs_in(workdir: Path, **overrides: Any) -> list[Job]:
    config = small.config("sbn", layers=(4,), **overrides)
    return sweep.jobs_of(config, grids.product({"seed": (0, 1)}), workdir)


def test_a_full_disk_ends_the_sweep(tmp_path, monkeypatch, fail):
    def full(*_: object, **__: object) -> None:
        raise ValueError('Failed writing "d/a0": No space left on device [os_error_code=28]')

    def save(jobs: list[Job], **_: object) -> None:
        with Checkpoints(jobs[0].workdir / "checkpoints") as checkpoints:
            monkeypatch.setattr(checkpoints._manager, "save", full)
            checkpoints.save(1, {"x": np.zeros(3)})

    monkeypatch.setattr(run, "train_together", save)
    line = fail("--engine=vmap", workdir=str(tmp_path))
    assert "runs/" in line
    assert "No space left on device: rerun the same command to resume" in line


def test_a_bug_in_one_run_is_recorded_with_its_traceback(tmp_path, monkeypatch):
    def broken(*_: object, **__: object) -> None:
        raise ZeroDivisionError("division by zero")

    monkeypatch.setattr(run, "train_together", broken)
    jobs = jobs_in(tmp_path)
    failures, status = sweep.train(jobs, "vmap")
    assert status == 0
    assert failures == {job.workdir: "ZeroDivisionError: division by zero" for job in jobs}
    assert "in broken" in records.read_json(jobs[0].workdir / "failure.json")["traceback"]

    def mended(jobs: list[Job], **_: object) -> list[dict[str, Any]]:
        for job in jobs:
            records.write_json(job.workdir / "result.json", {"steps": 60, "validation_bound": 7.0})
        return [{}] * len(jobs)

    # Those that failed are tried again.
    monkeypatch.setattr(run, "train_together", mended)
    assert sweep.train(jobs, "vmap") == ({}, 0)
    assert not (jobs[0].workdir / "failure.json").exists()


def test_a_grid_may_be_extended(tmp_path):
    config = small.config("sbn")
    for seeds in ((0, 1), (1, 2)):
        sweep.open_directory(tmp_path, config, grids.product({"seed": seeds}))
    recorded = records.read_json(tmp_path / "sweep.json")
    assert recorded["grid"] == [{"seed": 0}, {"seed": 1}, {"seed": 2}]


def test_the_table_is_of_all_grids_of_the_directory(tmp_path, capsys):
    config = small.config("sbn")
    for rates in ((1e-3, 1e-2), (1e-2, 1e-1)):
        grid = grids.product({"learning_rate": rates})
        sweep.open_directory(tmp_path, config, grid)
        jobs = sweep.jobs_of(config, grid, tmp_path)
        for job in jobs:
            result = {"validation_bound": 7.0 - job.config.learning_rate, "seed": 0, "steps": 60}
            job.workdir.mkdir(parents=True, exist_ok=True)
            records.write_json(job.workdir / "result.json", result)
        assert sweep._conclude(tmp_path, jobs, {}, 0) == 0
    table = records.read_json(tmp_path / "table.json")
    assert [row["overrides"]["learning_rate"] for row in table["rows"]] == [0.1, 0.01, 0.001]


def test_a_run_that_was_lost_is_a_failure(tmp_path, capsys):
    config, grid = small.config("sbn"), grids.product({"seed": (0,)})
    sweep.open_directory(tmp_path, config, grid)
    jobs = sweep.jobs_of(config, grid, tmp_path)
    assert sweep._conclude(tmp_path, jobs, {}, 0) == sweep.FAILED
    assert "not finished: give the command again" in capsys.readouterr().err


def test_a_sweep_says_which_swept_keys_do_nothing(tmp_path, caplog):
    config = small.config("vae", temperature__name="exponential")
    points = grids.parse("estimator.name=st,gumbel_softmax;temperature.rate=1e-5,1e-4", config)
    sweep._warn_of_unread(sweep.jobs_of(config, points, tmp_path), {})
    [message] = caplog.messages
    assert message == (
        "temperature.rate does nothing in 2 of 4 runs: estimator.name=st reads no temperature"
    )


def test_a_single_run_does_not_train_in_a_sweeps_directory(tmp_path, capsys):
    config, points = small.config("sbn"), grids.product({"seed": (0,)})
    sweep.open_directory(tmp_path, config, points)
    with pytest.raises(UserError, match="is that of a sweep: choose another directory"):
        run.train(config, tmp_path)
    sweep.open_directory(tmp_path, config, points)  # and the sweep can go on


def test_runs_of_one_program_are_grouped(tmp_path):
    config = small.config("sbn")
    points = grids.parse("seed=0,1;batch_size=4,5;learning_rate=1,2", config)
    jobs = sweep.jobs_of(config, points, tmp_path)
    groups = vmapped.grouped(jobs, 100)
    sizes = [{job.config.batch_size for job in group} for group in groups]
    assert sizes == [{4}, {5}]
    assert [len(group) for group in groups] == [4, 4]
    assert [len(group) for group in vmapped.grouped(jobs, 3)] == [3, 1, 3, 1]


@pytest.mark.parametrize(
    ("soft", "hard", "runs", "most", "raised"),
    [
        (1024, 4096, 10, 10, None),  # the limit is high enough as it is
        (1024, 4096, 500, 500, 4 * 500 + 128),
        (256, 256, 500, 32, None),
        (1024, resource.RLIM_INFINITY, 5000, 5000, 4 * 5000 + 128),
    ],
)
def test_vmap_opens_no_more_files_than_it_may(monkeypatch, soft, hard, runs, most, raised):
    limits = [(soft, hard)]
    monkeypatch.setattr(resource, "getrlimit", lambda _: limits[-1])
    monkeypatch.setattr(resource, "setrlimit", lambda _, pair: limits.append(pair))
    assert vmapped._most_open(runs) == most
    assert limits[-1][0] == (raised or soft)


def test_a_run_that_kills_its_worker_again_and_again_fails(tmp_path):
    [job, other] = jobs_in(tmp_path)
    queue = process_engine._Queue([job, other])
    assert queue.next() == job
    tries = 1
    while queue.resume(job):
        assert queue.next() == job
        tries += 1
    assert tries == 3
    assert queue.next() == other
    # One that gains steps between the deaths goes on.
    for step in range(10, 100, 10):
        other.workdir.mkdir(parents=True, exist_ok=True)
        (other.workdir / "metrics.jsonl").write_text(json.dumps({"step": step}) + "\n")
        assert queue.resume(other)
        assert queue.next() == other


# How far runs are, and what a sweep comes to


def test_the_standing_of_a_run(tmp_path):
    job, _ = jobs_in(tmp_path)
    assert progress.standing(job) == progress.Standing(done=False, step=0, bound=None)
    job.workdir.mkdir(parents=True)
    rows = [
        {"step": 0, "validation_bound": 9.0},
        {"step": 10, "validation_bound": 8.0},
        {"step": 20},
    ]
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    (job.workdir / "metrics.jsonl").write_text(lines + '{"step": 3')
    assert progress.standing(job) == progress.Standing(done=False, step=20, bound=8.0)
    (job.workdir / "metrics.jsonl").write_text("x" * 10_000 + "\n" + lines)
    assert progress.standing(job) == progress.Standing(done=False, step=20, bound=8.0)
    records.write_json(job.workdir / "result.json", {"steps": 60, "validation_bound": 7.0})
    assert progress.standing(job) == progress.Standing(done=True, step=60, bound=7.0)


def test_the_display_says_what_ended_and_what_is_left(tmp_path, capsys):
    first, second = jobs_in(tmp_path)
    with progress.Display([first, second]) as display:
        first.workdir.mkdir(parents=True)
        records.write_json(first.workdir / "result.json", {"steps": 60, "validation_bound": 7.125})
        display.done(first)
        display.failed(second, "why")
    done, failed = capsys.readouterr().err.splitlines()
    assert done.startswith("done: seed=0: validation bound 7.12 nats (1/2 runs, ")
    assert " run-steps/s, " in done
    assert done.endswith(" left)")
    assert failed.startswith("failed: seed=1: why (1/2 runs, 1 failed, ")
    assert failed.endswith("00:00 left)")


def report(tmp_path: Path, bounds: dict[str, float | None]) -> tuple[list[Any], str]:
    """The rows and the text for runs whose points are given as the text of a grid."""
    config = small.config("vae")
    jobs = []
    for text, bound in bounds.items():
        [job] = sweep.jobs_of(config, grids.parse(text, config), tmp_path)
        jobs.append(job)
        if bound is not None:
            job.workdir.mkdir(parents=True)
            result = {"validation_bound": bound, "seed": job.config.seed}
            records.write_json(job.workdir / "result.json", result)
    text = sweep_report.write(tmp_path, jobs, {jobs[-1].workdir: "a | b"})
    return records.read_json(tmp_path / "table.json")["rows"], text


def test_the_report_averages_seeds_and_ranks_settings(tmp_path):
    rows, text = report(
        tmp_path,
        {
            "learning_rate=0.1;seed=0": 70.0,
            "learning_rate=0.1;seed=1": 72.0,
            "learning_rate=0.2;seed=0": 60.0,
            "learning_rate=0.2;seed=1": None,
            "learning_rate=0.3;seed=0": float("inf"),
            "learning_rate=0.4;seed=0": None,
        },
    )
    assert [row["overrides"]["learning_rate"] for row in rows] == [0.2, 0.1, 0.3, 0.4]
    assert [row["mean"] for row in rows] == [60.0, 71.0, None, None]
    lines = text.splitlines()
    assert lines[0] == "| learning_rate | validation bound, nats | seeds | missing |"
    missing = grids.name({"learning_rate": 0.2, "seed": 1})
    assert lines[2] == f"| 0.2 | 60.00 | 1 | {missing}: not finished |"
    assert lines[3] == "| 0.1 | 71.00 (70.00 to 72.00) | 2 |  |"
    assert lines[4] == "| 0.3 | not finite | 1 |  |"
    assert lines[5].endswith(": a \\| b |")


def test_a_classifier_is_ranked_by_its_error(tmp_path):
    """The better accuracy has the worse bound."""
    config = overrides.load(semi_supervised.__file__)
    jobs = sweep.jobs_of(config, grids.product({"alpha": (0.1, 1.0)}), tmp_path)
    for job, accuracy, bound in zip(jobs, (90.0, 95.0), (100.0, 110.0), strict=True):
        job.workdir.mkdir(parents=True)
        result = {"validation_bound": bound, "validation_accuracy": accuracy, "seed": 0}
        records.write_json(job.workdir / "result.json", result)
    lines = sweep_report.write(tmp_path, jobs, {}).splitlines()
    assert lines[0] == "| alpha | validation error, % | seeds |"
    assert lines[2:] == ["| 1.0 | 5.00 | 1 |", "| 0.1 | 10.00 | 1 |"]


@pytest.mark.parametrize(
    "points",
    [
        {"seed=0": 1.0},
        {"learning_rate=0.1": 1.0, "learning_rate=0.2": None},
        {"learning_rate=0.1": 1.0, "learning_rate=0.2": 1e30, "learning_rate=0.3": 2.0},
        {"estimator.name=sf": 1.0, "estimator.name=st": 2.0},
        {f"learning_rate={a};momentum={b}": 1.0 + a + b for a in (0.1, 0.2) for b in (0.1, 0.2)},
        {
            f"learning_rate={a};momentum={b};temperature.interval={c}": 1.0 + a + b
            for a in (0.1, 0.2)
            for b in (0.1, 0.2)
            for c in (500, 1000, 2000)
        },
        {"temperature.name=constant": 1.0, "temperature.name=linear;temperature.floor=0.2": 2.0},
    ],
)
def test_every_kind_of_grid_has_a_plot(tmp_path, points):
    report(tmp_path, points | {"learning_rate=0.7;momentum=0.7": None})
    report(tmp_path / "whole", points)
    for directory in (tmp_path, tmp_path / "whole"):
        assert (directory / "sweep.png").read_bytes().startswith(b"\x89PNG")


def test_an_unknown_ray_address_is_refused_before_anything_is_trained(tmp_path, monkeypatch):
    class Ray:
        @staticmethod
        def init(**options: Any) -> None:
            raise ConnectionError(f"cannot reach {options['address']}")

    monkeypatch.setitem(sys.modules, "ray", Ray)
    with pytest.raises(
        UserError, match=r"--ray_address=far:1: no Ray cluster .*cannot reach far:1"
    ):
        sweep.train(jobs_in(tmp_path), "ray", Options(ray_address="far:1"))
    assert not list(tmp_path.glob("runs/*/metrics.jsonl"))
