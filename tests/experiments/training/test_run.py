"""One run in its directory: what it leaves, and that stopping it anywhere changes no number."""

import contextlib
import fcntl
import io
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental.compilation_cache import compilation_cache

from experiments import config as configs
from experiments import train
from experiments.config import cli
from experiments.data import batches
from experiments.data.batches import Purpose
from experiments.errors import UserError
from experiments.tasks import functional
from experiments.training import (
    compiled,
    evaluation,
    loading,
    loop,
    metrics,
    provenance,
    records,
    run,
    run_state,
)
from experiments.training.dynamic import dynamic_of
from experiments.training.job import Job
from experiments.training.program import Program, Trace
from scripts import run_numbers
from tests.experiments import small
from tests.experiments.training.tensorboard import events

pytestmark = pytest.mark.usefixtures("shared_programs")

ROOT = Path(__file__).parents[3]
NUM_STEPS, LOG_EVERY, SAVE_EVERY = 60, 5, 10
SEED = 3  # of the kills: one in a save, one before and one after
DRAW = run_state.RunState.draw

# NVIL's state is the largest: moving averages, a network and its optimizer.
CONFIG = f"""
from tests.experiments import small

def get_config():
    return small.config(
        "sbn", layers=(4,), estimator__name="nvil", estimator__baseline_hidden=3,
        temperature__name="exponential", temperature__rate=0.01, learning_rate=0.03,
        num_steps={NUM_STEPS}, log_every={LOG_EVERY}, steps_per_call={LOG_EVERY},
        eval_every={SAVE_EVERY}, checkpoint_every={SAVE_EVERY}, batch_size=20,
    )
"""


class Ended(NamedTuple):
    """How a launch ended."""

    status: int
    out: str
    err: str


def settings(home: Path, *, cached: bool) -> dict[str, Any]:
    """Settings of jax that save time in compiling."""
    if not cached:
        return {}
    return {
        "jax_compilation_cache_dir": str(home / "compiled"),
        "jax_persistent_cache_min_compile_time_secs": 0.0,
        "jax_persistent_cache_min_entry_size_bytes": -1,
    }


@pytest.fixture(scope="module", name="home", autouse=True)
def fixture_home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A directory with a config file; programs that are compiled are kept for this module.

    Pictures are not drawn, which takes long, but by `finished`. And the state of the checkout is
    that of the start: an edit while the tests run would be another origin of a run.
    """
    home = tmp_path_factory.mktemp("runs")
    (home / "config.py").write_text(CONFIG)
    wanted = settings(home, cached=True)
    before = {name: getattr(jax.config, name) for name in wanted}
    for name, value in wanted.items():
        jax.config.update(name, value)
    compilation_cache.reset_cache()  # it was looked for, and not found, by the first compilation
    git = provenance.provenance()["git"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(provenance, "code_state", lambda: git)
        patch.setattr(run_state.RunState, "draw", lambda *_: None)
        yield home
    for name, value in before.items():
        jax.config.update(name, value)
    compilation_cache.reset_cache()


@pytest.fixture(name="launch")
def fixture_launch(home):
    return lambda workdir, *arguments: launched(home, workdir, *arguments)


def launched(home: Path, workdir: Path, *arguments: str) -> Ended:
    """What the command line gives, in this process."""
    out, err = io.StringIO(), io.StringIO()
    files = [f"--config={home / 'config.py'}", f"--workdir={workdir}"]
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        status = cli.run(train.main, [*files, *arguments], train.define_flags)
    return Ended(status, out.getvalue(), err.getvalue())


@contextlib.contextmanager
def signal_at(step: int, signum: int) -> Iterator[None]:
    """Sends this process a signal as soon as a step is logged."""
    append = metrics.MetricsLog.append

    def append_and_send(self: metrics.MetricsLog, logged: int, **scalars: Any) -> dict[str, Any]:
        row = append(self, logged, **scalars)
        if logged == step:
            signal.raise_signal(signum)
        return row

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(metrics.MetricsLog, "append", append_and_send)
        yield


@pytest.fixture(scope="module", name="finished")
def fixture_finished(home) -> tuple[Path, Ended]:
    """An undisturbed run."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(run_state.RunState, "draw", DRAW)
        ended = launched(home, home / "finished")
    assert ended.status == 0, ended.err
    return home / "finished", ended


@pytest.fixture(scope="module", name="stopped")
def fixture_stopped(home) -> tuple[Path, Ended]:
    """A run that got a SIGTERM at step 35, between two checkpoints."""
    with signal_at(35, signal.SIGTERM):
        return home / "stopped", launched(home, home / "stopped")


@pytest.fixture(name="halfway")
def fixture_halfway(stopped, tmp_path) -> Path:
    """A copy of that run."""
    return Path(shutil.copytree(stopped[0], tmp_path / "halfway"))


def numbers(workdir: Path) -> dict[str, Any]:
    """All that a run recorded but its times, the words that started it and the checkout's state."""
    result = json.loads((workdir / "result.json").read_text())
    rows = records.read_metrics(workdir / "metrics.jsonl")
    return {
        "result": {
            key: value
            for key, value in result.items()
            if key not in {"train_seconds", "eval_seconds", "git", "overrides"}
        },
        "rows": [{k: v for k, v in row.items() if k != "steps_per_second"} for row in rows],
    }


def scalars(workdir: Path) -> list[tuple[int, str, float]]:
    """The TensorBoard events of a run but its speed, and its picture, which few have here."""
    return [event for event in run_numbers.scalars(workdir) if event[1] != "picture"]


def checkpoints(workdir: Path) -> set[str]:
    return {path.name for path in (workdir / "checkpoints").iterdir()}


def snapshot(workdir: Path) -> dict[str, tuple[int, int]]:
    """The time and size of every file and directory."""
    stats = {str(path): path.stat() for path in workdir.rglob("*")}
    return {path: (stat.st_mtime_ns, stat.st_size) for path, stat in stats.items()}


# What a run leaves


def test_the_files_of_a_run(finished, home):
    workdir, ended = finished
    assert {path.name for path in workdir.iterdir()} == {
        ".lock",
        "config.json",
        "metrics.jsonl",
        "origins.json",
        "tensorboard",
        "checkpoints",
        "picture.png",
        "pictures.npz",
        "result.json",
    }
    expected = cli.parse([f"--config={home / 'config.py'}", "--workdir=x"]).config
    assert json.loads((workdir / "config.json").read_text()) == configs.read(expected).flat()
    assert checkpoints(workdir) == {"40", "50", "60"}
    picture = (workdir / "picture.png").read_bytes()
    assert picture.startswith(b"\x89PNG")
    assert len(picture) > 10_000
    shown = {(step, name): value for step, name, value in events(workdir)}
    for name in ("train_cost", "validation_bound", "temperature", "steps_per_second", "picture"):
        assert (NUM_STEPS, name) in shown
    bound = json.loads((workdir / "result.json").read_text())["test_bound"]
    assert shown[NUM_STEPS, "final/test_bound"] == pytest.approx(bound)
    assert f"numbers: {workdir / 'result.json'}" in ended.out
    assert f"picture: {workdir / 'picture.png'}" in ended.out


def test_the_metrics_of_a_run(finished):
    rows = records.read_metrics(finished[0] / "metrics.jsonl")
    assert [row["step"] for row in rows] == list(range(0, NUM_STEPS + 1, LOG_EVERY))
    for row in rows:
        assert ("validation_bound" in row) == (row["step"] % SAVE_EVERY == 0)
        assert all(np.isfinite(value) for value in row.values())
    for row in rows[1:]:
        assert {"train_cost", "temperature", "steps_per_second", "signal_scale"} <= set(row)
        # Of the last of the steps since the line before.
        assert row["temperature"] == pytest.approx(np.exp(-0.01 * (row["step"] - 1)))
        assert row["steps_per_second"] > 0


def test_the_result_of_a_run(finished):
    workdir, ended = finished
    result = json.loads((workdir / "result.json").read_text())
    for name in ("test_bound", "validation_bound", "train_seconds", "eval_seconds"):
        assert result[name] > 0
    assert result["steps"] == NUM_STEPS
    assert (result["seed"], result["test_num_samples"], result["overrides"]) == (0, 5, {})
    assert result["config"] == json.loads((workdir / "config.json").read_text())
    assert result["versions"]["jax"] == jax.__version__
    assert result["device"]["platform"] == jax.default_backend()
    assert result["matmul_precision"]
    assert result["git"] == provenance.provenance()["git"]
    assert f"test {result['test_bound']:.2f} (5-sample bound, nats), " in ended.out
    assert f"validation {result['validation_bound']:.2f} (5-sample)" in ended.out


def test_the_bound_improves(finished):
    workdir, _ = finished
    rows = records.read_metrics(workdir / "metrics.jsonl")
    bounds = [row["validation_bound"] for row in rows if "validation_bound" in row]
    assert bounds[-1] < bounds[0] - 1
    result = json.loads((workdir / "result.json").read_text())
    # More samples than the one of the validation bound while training.
    assert result["validation_bound"] < bounds[-1]


def test_the_loop_takes_the_steps_of_the_program(finished, home):
    """There in calls of five, here in a single one."""
    workdir, _ = finished
    config = cli.parse([f"--config={home / 'config.py'}", "--workdir=x"]).config
    settings = configs.read(config)
    dataset = compiled.prepared_dataset(settings)
    program, dynamic = Program.make(settings, dataset), dynamic_of(settings)
    images = jnp.asarray(dataset.train.images)

    @small.quick_jit
    def costs(dynamic):
        indices = batches.batch_indices(
            dynamic["seed"], 0, num_steps=NUM_STEPS, size=len(images), batch_size=20
        )
        return program.run(dynamic, images, program.init(dynamic, images), indices)[1].cost

    rows = records.read_metrics(workdir / "metrics.jsonl")[1:]
    means = np.asarray(costs(dynamic)).reshape(-1, LOG_EVERY).mean(axis=1)
    np.testing.assert_allclose([row["train_cost"] for row in rows], means, rtol=1e-4)


def test_a_finished_run_gives_its_model_back(finished):
    workdir, _ = finished
    settings, step, model, dataset = loading.load(workdir)
    assert step == NUM_STEPS
    assert settings.flat() == json.loads((workdir / "config.json").read_text())
    program = Program.make(settings, dataset)
    costs = jax.jit(evaluation.image_costs(program, settings.test_num_samples))
    [bound] = evaluation.dataset_bounds(
        lambda params, images, keys: costs(params, images, keys[0])[None],
        functional.params_of(model),
        dataset.test.images,
        jax.random.split(batches.key_for(settings.seed, Purpose.FINAL))[1:],
        batch_size=settings.eval_batch_size,
    )
    result = json.loads((workdir / "result.json").read_text())
    assert bound == pytest.approx(result["test_bound"], rel=1e-5)


def test_no_model_where_nothing_was_trained(tmp_path):
    with pytest.raises(UserError, match=r"has no config.json: name the --workdir of a run"):
        loading.load(tmp_path)
    records.write_json(tmp_path / "config.json", small.settings().flat())
    for directory in (None, tmp_path / "checkpoints"):
        if directory:
            directory.mkdir()
        with pytest.raises(UserError, match="has no checkpoint yet: train it first"):
            loading.load(tmp_path)
    (tmp_path / "result.json").write_text("{}")
    for directory in (tmp_path / "checkpoints", None):
        with pytest.raises(UserError, match=r"gone: delete result\.json and train again, or name"):
            loading.load(tmp_path)
        if directory:
            shutil.rmtree(directory)


def test_a_finished_run_says_so_and_does_nothing(finished, launch):
    workdir, ended = finished
    before = snapshot(workdir)
    again = launch(workdir)
    assert again.status == 0
    assert again.out == (
        f"{workdir} holds a finished run: choose another --workdir to train again\n{ended.out}"
    )
    assert again.err == ""
    assert snapshot(workdir) == before


def test_overrides_are_recorded(launch, tmp_path):
    launch(tmp_path, "--config.num_steps=55", "--config.learning_rate=0.05")
    result = json.loads((tmp_path / "result.json").read_text())
    assert result["overrides"] == {"num_steps": 55, "learning_rate": 0.05}
    assert (result["config"]["num_steps"], result["steps"]) == (55, 55)


def test_numbers_of_samples(finished, launch, tmp_path):
    """More while training, and fewer for the final bound of the validation images alone."""
    launch(tmp_path, "--config.monitor_num_samples=20", "--config.validation_num_samples=1")
    found, usual = numbers(tmp_path), numbers(finished[0])
    assert found["rows"][0]["validation_bound"] < usual["rows"][0]["validation_bound"]
    assert found["result"]["validation_bound"] > usual["result"]["validation_bound"]
    assert found["result"]["test_bound"] == usual["result"]["test_bound"]


def test_flags_change_no_number(finished, launch, tmp_path):
    assert launch(tmp_path, "--tracker=none", "--devices=all").status == 0
    assert not (tmp_path / "tensorboard").exists()
    assert numbers(tmp_path) == numbers(finished[0])


def test_overrides_that_do_nothing_are_named(monkeypatch, tmp_path, caplog):
    result = {"test_bound": 1.0, "validation_bound": 1.0}
    monkeypatch.setattr(train.run, "train", lambda *_, **__: result)
    config = small.config("sbn", estimator__name="st")
    overrides = {"temperature.rate": 1e-4, "learning_rate": 0.1}
    assert train.main(config, tmp_path, overrides) == 0
    assert caplog.messages == [
        "--config.temperature.rate does nothing: estimator.name=st reads no temperature"
    ]


# Stopping and going on


def test_sigterm_saves_and_leaves(stopped):
    workdir, ended = stopped
    assert ended.status == 128 + signal.SIGTERM
    assert ended.out == ""
    lines = ended.err.strip().splitlines()
    assert lines[-1] == f"stopped at step 35 of {NUM_STEPS}: rerun the same command to resume"
    assert checkpoints(workdir) == {"20", "30", "35"}
    assert not (workdir / "result.json").exists()


def test_a_stopped_run_goes_on_to_the_same_numbers(halfway, finished, launch):
    ended = launch(halfway)
    assert ended.status == 0
    assert ended.err.startswith("step 40 ")  # the first bound after 35: no step was taken again
    assert numbers(halfway) == numbers(finished[0])
    assert scalars(halfway) == scalars(finished[0])


def test_a_result_names_the_commits_and_versions_of_all_its_steps(halfway, launch, monkeypatch):
    here = provenance.provenance()
    later = here | {"git": {"commit": "later", "dirty": True}}
    monkeypatch.setattr(provenance, "provenance", lambda: later)
    assert launch(halfway).status == 0
    assert json.loads((halfway / "result.json").read_text())["origins"] == [
        {"from_step": 0, **provenance.origin(here), "cores": here["device"]["cores"]},
        {"from_step": 35, **provenance.origin(later), "cores": here["device"]["cores"]},
    ]


def test_a_tracker_is_given_what_was_logged_and_the_final_numbers(halfway, launch, recorder):
    [made, _] = recorder
    assert launch(halfway, "--tracker=tensorboard", "--tracker=recorder").status == 0
    result = json.loads((halfway / "result.json").read_text())
    assert [row["step"] for row in made[0].run.rows] == list(range(0, 36, LOG_EVERY))
    assert [row["step"] for row in made[0].rows] == list(range(40, NUM_STEPS + 1, LOG_EVERY))
    assert made[0].result["test_bound"] == result["test_bound"]
    assert made[0].picture == halfway / "picture.png"
    assert made[0].closed == 1


@pytest.mark.parametrize("step", [0, NUM_STEPS])
def test_ctrl_c_at_either_end(step, finished, launch, tmp_path):
    """Before the first steps, which are then taken; and before the final bounds, which are not."""
    with signal_at(step, signal.SIGINT):
        ended = launch(tmp_path)
    assert ended.status == 128 + signal.SIGINT
    where = step or LOG_EVERY
    assert f"stopped at step {where} of {NUM_STEPS}: rerun the same command to resume" in ended.err
    assert str(where) in checkpoints(tmp_path)
    assert not (tmp_path / "result.json").exists()
    assert launch(tmp_path).status == 0
    assert numbers(tmp_path) == numbers(finished[0])


# Kills itself at the given one of the Python calls that follow the logging of a step: the next
# 14,000 or so save a checkpoint where one is due, and 13,000 more take and log the next steps.
KILLED = """
import os, signal, sys
from experiments import train
from experiments.config import cli
from experiments.training import metrics

left, step, append = int(sys.argv.pop()), int(sys.argv.pop()), metrics.MetricsLog.append

def count(frame, event, argument):
    global left
    left -= 1
    if left == 0:
        os.kill(os.getpid(), signal.SIGKILL)

def append_and_count(self, logged, **scalars):
    append(self, logged, **scalars)
    if logged == step:
        sys.setprofile(count)

metrics.MetricsLog.append = append_and_count
cli.run(train.main, define_flags=train.define_flags)
"""


def kill_at(step: int, calls: int, home: Path, workdir: Path, *, cached: bool) -> None:
    """Runs the command in a process that is killed so many calls after it logged a step."""
    variables = {name.upper(): str(value) for name, value in settings(home, cached=cached).items()}
    files = [f"--config={home / 'config.py'}", f"--workdir={workdir}"]
    done = subprocess.run(
        [sys.executable, "-c", KILLED, *files, str(step), str(calls)],
        cwd=ROOT,
        env=os.environ | variables,
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == -signal.SIGKILL, (done.returncode, done.stdout, done.stderr)
    assert not (workdir / "result.json").exists()


@pytest.mark.slow
def test_sigkill_at_random_moments_changes_no_number(home, finished, launch, tmp_path):
    moments = random.Random(SEED)
    for step in sorted(moments.sample(range(LOG_EVERY, NUM_STEPS + 1, LOG_EVERY), 3)):
        # The first of them compiles for itself, as its user's would.
        cached = (tmp_path / "config.json").exists()
        kill_at(step, moments.randrange(1, 25_000), home, tmp_path, cached=cached)
        logged = [row["step"] for row in records.read_metrics(tmp_path / "metrics.jsonl")]
        assert logged == list(range(0, logged[-1] + 1, LOG_EVERY))
        assert logged[-1] >= step
    assert launch(tmp_path).status == 0
    assert numbers(tmp_path) == numbers(finished[0])
    assert scalars(tmp_path) == scalars(finished[0])


# Made longer


@pytest.fixture(scope="module", name="long")
def fixture_long(home) -> Path:
    """An undisturbed run of 80 steps."""
    assert launched(home, home / "long", "--config.num_steps=80").status == 0
    return home / "long"


@pytest.mark.parametrize("steps", [60, 55, pytest.param(5, marks=pytest.mark.slow)])
def test_a_finished_run_is_made_longer(steps, finished, long, launch, tmp_path):
    """Also one that ended between the steps at which a longer one evaluates and saves."""
    workdir = tmp_path / "run"
    if steps == NUM_STEPS:
        shutil.copytree(finished[0], workdir)
    else:
        assert launch(workdir, f"--config.num_steps={steps}").status == 0
    ended = launch(workdir, "--config.num_steps=80")
    assert ended.status == 0, ended.err
    assert "holds a finished run" not in ended.out
    assert numbers(workdir) == numbers(long)
    assert scalars(workdir) == scalars(long)
    kept = json.loads((workdir / f"result-{steps}.json").read_text())
    assert kept["steps"] == steps
    assert "holds a finished run" in launch(workdir, "--config.num_steps=80").out
    assert "belongs to another config (num_steps is 80 there, 60 here)" in launch(workdir).err


def test_a_stopped_run_is_made_longer(halfway, long, launch):
    assert launch(halfway, "--config.num_steps=80").status == 0
    assert numbers(halfway) == numbers(long)


@pytest.mark.parametrize("place", [pytest.param("rename", marks=pytest.mark.slow), "write_json"])
def test_a_kill_while_a_run_is_made_longer(place, long, launch, tmp_path, monkeypatch):
    """Before the old result is put aside, and after it: the new command still works."""
    launch(tmp_path, "--config.num_steps=55")

    def killed(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        if place == "rename":
            patch.setattr(Path, "replace", killed)
        else:
            patch.setattr(records, "write_json", killed)
        assert launch(tmp_path, "--config.num_steps=80").status == 130
    assert launch(tmp_path, "--config.num_steps=80").status == 0
    assert numbers(tmp_path) == numbers(long)


# What stands in the way


REFUSED_AT_OPENING = {
    "numerics": "was written with",
    "origins": "origins.json is damaged",
    "metrics": "is damaged",
    "checkpoints": "every checkpoint in",
}


@pytest.mark.parametrize("cause", REFUSED_AT_OPENING)
def test_a_refused_lengthening_leaves_the_finished_run(cause, launch, tmp_path, monkeypatch):
    """It ended between the steps at which a longer one saves, and nothing of it is changed."""
    assert launch(tmp_path, "--config.num_steps=55").status == 0
    if cause == "numerics":
        ours = {**provenance.numerics(), "jax_default_matmul_precision": "highest"}
        monkeypatch.setattr(provenance, "numerics", lambda: ours)
    elif cause == "origins":
        (tmp_path / "origins.json").write_text('[{"from_step": "a"}]')
    elif cause == "metrics":
        metrics = tmp_path / "metrics.jsonl"
        metrics.write_text("torn\n" + metrics.read_text())
    else:
        for step in checkpoints(tmp_path):
            spoil(tmp_path / "checkpoints" / step)
    before = snapshot(tmp_path)
    assert REFUSED_AT_OPENING[cause] in refused(launch(tmp_path, "--config.num_steps=80"))
    assert snapshot(tmp_path) == before
    assert "holds a finished run" in launch(tmp_path, "--config.num_steps=55").out


def spoil(checkpoint: Path) -> None:
    """Changes one byte of the data."""
    file = max((f for f in checkpoint.rglob("*") if f.is_file()), key=lambda f: f.stat().st_size)
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)


def test_a_damaged_newest_checkpoint(halfway, finished, launch, caplog):
    spoil(halfway / "checkpoints" / "35")
    ended = launch(halfway)
    [said] = [
        r.getMessage() for r in caplog.records if r.name == "experiments.training.checkpoints"
    ]
    assert f"checkpoint {halfway / 'checkpoints' / '35'} is damaged" in said
    assert "falling back to the one before" in said
    assert ended.status == 0
    assert "damaged-35" in checkpoints(halfway)
    assert numbers(halfway) == numbers(finished[0])


def refused(ended: Ended) -> str:
    """The one line of a launch that was refused."""
    assert ended.status == 2
    assert ended.out == ""
    [line] = ended.err.splitlines()
    return line


def test_all_checkpoints_damaged(halfway, launch):
    for step in ("20", "30", "35"):
        spoil(halfway / "checkpoints" / step)
    before = (halfway / "metrics.jsonl").read_text()
    line = refused(launch(halfway))
    assert line.startswith(f"error: every checkpoint in {halfway / 'checkpoints'} is damaged")
    assert "delete that directory" in line
    assert (halfway / "metrics.jsonl").read_text() == before


def test_a_workdir_of_another_config(halfway, launch):
    before = snapshot(halfway)
    line = refused(launch(halfway, "--config.seed=1", "--config.learning_rate=0.5"))
    assert line == (
        f"error: --workdir={halfway} belongs to another config (learning_rate is 0.03 there, 0.5 "
        "here; seed is 0 there, 1 here): choose another directory, or delete it"
    )
    assert snapshot(halfway) == before


def test_checkpoints_that_nothing_says_the_config_of(halfway, launch):
    (halfway / "config.json").unlink()
    before = snapshot(halfway)
    line = refused(launch(halfway, "--config.seed=1"))
    assert "has checkpoints but no config.json, so nothing says of which config they are" in line
    assert snapshot(halfway) == before


def test_the_result_of_another_config_is_not_taken_for_ours(finished, tmp_path, launch):
    workdir = shutil.copytree(finished[0], tmp_path / "run")
    (workdir / "config.json").unlink()
    assert "belongs to another config (seed is 0 there, 1 here)" in refused(
        launch(workdir, "--config.seed=1")
    )
    shutil.copyfile(finished[0] / "config.json", workdir / "config.json")
    theirs = json.loads((workdir / "result.json").read_text())
    theirs["config"]["seed"] = 5
    (workdir / "result.json").write_text(json.dumps(theirs))
    assert "belongs to another config (seed is 5 there, 0 here)" in refused(launch(workdir))


@pytest.mark.parametrize("name", ["job[1]", "a\\b"])
def test_a_path_that_orbax_cannot_read_from(tmp_path, launch, name):
    line = refused(launch(tmp_path / name))
    assert "no checkpoint can be read from a path with" in line
    assert not (tmp_path / name).exists()


def test_a_workdir_from_before_a_key_was_there(halfway, finished, launch):
    """A newer version resumes it where the key is at its default, and there alone."""
    path = halfway / "config.json"
    older = {key: v for key, v in json.loads(path.read_text()).items() if key != "standardize"}
    path.write_text(json.dumps(older))
    line = refused(launch(halfway, "--config.standardize=False"))
    assert "belongs to another config (standardize is True there, False here)" in line
    assert launch(halfway).status == 0
    assert numbers(halfway) == numbers(finished[0])


OTHER = {
    "jax_default_prng_impl": ("threefry2x32", "rbg"),
    "jax_threefry_partitionable": (True, False),
    "jax_default_matmul_precision": ("default", "highest"),
    "jax_enable_x64": (False, True),
    "jax_disable_most_optimizations": (False, True),
}
OTHER_FLAGS = "--xla_cpu_enable_fast_math=true"  # for a process that XLA has read them in before


def test_every_setting_that_changes_numbers_is_here():
    assert set(OTHER) | {"xla_flags"} == set(provenance.numerics())


@pytest.fixture(name="other")
def fixture_other():
    """Sets an option of jax as a process has it that was started with another value."""
    before = {  # jax has options of two kinds
        name: getattr(jax.config, name) if hasattr(jax.config, name) else jax.config.read(name)
        for name in OTHER
    }
    yield jax.config.update
    for name, value in before.items():
        jax.config.update(name, value)


def test_keys_whose_draws_depend_on_the_others_of_a_batch_are_refused(launch, other, tmp_path):
    other("jax_default_prng_impl", "rbg")
    program = "--config.batch_size=19"  # which no other test has compiled
    assert refused(launch(tmp_path / "run", program)) == (
        "error: jax_default_prng_impl=rbg: the draws of such keys depend on what is computed "
        "together; unset JAX_DEFAULT_PRNG_IMPL, or set it to threefry2x32"
    )
    assert not (tmp_path / "run" / "config.json").exists()


def change(name, other):
    """Gives the option its other value; both values."""
    mine = provenance.numerics()[name]
    [theirs] = {*OTHER[name]} - {mine}
    other(name, theirs)
    return mine, theirs


@pytest.mark.parametrize("name", sorted(OTHER))
def test_every_setting_of_jax_is_noticed(name, other):
    """A checkpoint compares them all: here with one of them, for the others would compile anew."""
    _, theirs = change(name, other)
    assert provenance.numerics()[name] == theirs


def test_a_run_under_another_setting_of_jax_is_refused_and_goes_on_under_its_own(
    halfway, finished, launch, other
):
    name = "jax_enable_x64"
    metrics = (halfway / "metrics.jsonl").read_text()
    mine, theirs = change(name, other)
    assert refused(launch(halfway)) == (
        f"error: checkpoint {halfway / 'checkpoints' / '35'} was written with {name}={mine}, this "
        f"process has {name}={theirs}: set {name.upper()}={mine} to resume, or take another "
        "--workdir"
    )
    assert (halfway / "metrics.jsonl").read_text() == metrics
    assert checkpoints(halfway) == {"20", "30", "35"}
    other(name, mine)
    assert launch(halfway).status == 0
    assert numbers(halfway) == numbers(finished[0])


def test_a_run_under_other_flags_of_xla(halfway, launch, monkeypatch):
    """Flags that change no number do not count."""
    ours = str(provenance.numerics()["xla_flags"])  # of the tests
    monkeypatch.setenv("XLA_FLAGS", f"{ours} --xla_dump_to=x --xla_cpu_enable_fast_math=true")
    line = refused(launch(halfway))
    assert "this process has xla_flags=--xla_cpu_enable_fast_math=true" in line
    assert "xla_dump_to" not in line
    assert re.search(f": set XLA_FLAGS='?{re.escape(ours)}'? to resume", line)
    monkeypatch.setenv("XLA_FLAGS", f"{ours} --xla_force_host_platform_device_count=2")
    assert launch(halfway).status == 0


def test_a_log_that_was_lost_is_missed(halfway, launch, caplog):
    (halfway / "metrics.jsonl").unlink()
    assert launch(halfway).status == 0
    [said] = caplog.messages
    assert said.startswith(f"{halfway / 'metrics.jsonl'} has no step, but the checkpoint is of 35")


def test_a_run_from_before_settings_were_recorded_goes_on(launch, monkeypatch, tmp_path):
    here = provenance.provenance()
    with pytest.MonkeyPatch.context() as patch, signal_at(35, signal.SIGTERM):
        patch.setattr(provenance, "numerics", dict)
        patch.setattr(provenance, "provenance", lambda: here)
        launch(tmp_path / "run")
    assert checkpoints(tmp_path / "run") == {"20", "30", "35"}
    monkeypatch.setenv("XLA_FLAGS", OTHER_FLAGS)
    assert launch(tmp_path / "run").status == 0
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert result["xla_flags"] == OTHER_FLAGS


def test_a_finished_run_is_read_under_any_setting(finished, launch, other, monkeypatch):
    before = provenance.numerics()
    for name in OTHER:
        change(name, other)
    monkeypatch.setenv("XLA_FLAGS", OTHER_FLAGS)
    assert not before.items() & provenance.numerics().items()
    assert launch(finished[0]).status == 0


def test_a_workdir_in_use(halfway, launch):
    before = snapshot(halfway)
    with (halfway / ".lock").open() as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        line = refused(launch(halfway))
    assert line.startswith(f"error: --workdir={halfway} is in use by another process")
    assert snapshot(halfway) == before


def test_a_workdir_with_a_damaged_config(halfway, launch):
    (halfway / "config.json").write_text('{"seed": ')
    line = refused(launch(halfway))
    assert line.startswith(f"error: {halfway / 'config.json'} is damaged")


# A cost that is not finite


@pytest.mark.parametrize(
    ("name", "fix"),
    [("st", "=0.03; no"), ("gumbel_softmax", "=0.03 or raise the temperature; no")],
)
def test_the_temperature_is_named_where_it_is_read(name, fix, tmp_path, monkeypatch):
    settings = small.settings(estimator__name=name, learning_rate=0.03)
    state = run_state.RunState(Job(settings, tmp_path, {}), 0)
    monkeypatch.setattr(state, "saved_steps", list)
    state.check(Trace(np.array([1.0, np.nan]), np.ones(2), {}), finite=True)
    assert f"is nan at step 2: lower config.learning_rate{fix}" in str(state.error)


def test_a_cost_that_diverges_at_once(launch, tmp_path):
    ended = launch(tmp_path, "--config.learning_rate=1e38")
    assert ended.status == 2
    line = ended.err.splitlines()[-1]
    assert line.startswith("error: the training cost is ")
    assert " at step 2: lower config.learning_rate=1e+38; " in line
    assert line.endswith("no checkpoint was due")
    assert not (tmp_path / "result.json").exists()


@pytest.mark.parametrize(
    ("what", "said"),
    [
        ("cost", "the training cost is nan at step 48"),
        ("parameter", "a parameter, or another number of the state, is not finite at step 50"),
    ],
)
def test_a_nan_keeps_the_last_good_checkpoint(what, said, halfway, finished, launch, monkeypatch):
    """Put in by hand at step 48: first in the cost alone, then in the state alone."""
    advance = loop.Loop.advance

    def spoiled_advance(self, state, behind, num_steps):
        start = behind[0].step
        state, trace = advance(self, state, behind, num_steps)
        if start == 45 and what == "cost":
            trace.cost[0, 2] = np.nan
        elif start == 45:
            state = state._replace(params=jax.tree.map(lambda p: p * np.nan, state.params))
        return state, trace

    with monkeypatch.context() as patch:
        patch.setattr(loop.Loop, "advance", spoiled_advance)
        ended = launch(halfway)
    assert ended.status == 2
    line = ended.err.splitlines()[-1]
    assert line.startswith(f"error: {said}: lower config.learning_rate=0.03; ")
    assert line.endswith("the checkpoint of step 40 is kept")
    assert checkpoints(halfway) == {"30", "35", "40"}
    assert records.read_metrics(halfway / "metrics.jsonl")[-1]["step"] == 45
    # It is a good one: without the damage the run goes on from there.
    assert launch(halfway).status == 0
    assert numbers(halfway) == numbers(finished[0])


@pytest.mark.parametrize("which", ["while training", "final validation", "final test"])
def test_each_recorded_bound_is_of_the_images_that_it_names(which, finished):
    workdir, _ = finished
    settings, step, model, dataset = loading.load(workdir)
    final = jax.random.split(batches.key_for(settings.seed, Purpose.FINAL))
    last = records.read_metrics(workdir / "metrics.jsonl")[-1]
    result = json.loads((workdir / "result.json").read_text())
    split, key, number, recorded = {
        "while training": (
            dataset.validation,
            jax.random.fold_in(batches.key_for(settings.seed, Purpose.VALIDATION), step),
            settings.monitor_num_samples,
            last["validation_bound"],
        ),
        "final validation": (
            dataset.validation,
            final[0],
            settings.final_num_samples["validation"],
            result["validation_bound"],
        ),
        "final test": (
            dataset.test,
            final[1],
            settings.final_num_samples["test"],
            result["test_bound"],
        ),
    }[which]
    costs = jax.jit(evaluation.image_costs(Program.make(settings, dataset), number))
    [bound] = evaluation.dataset_bounds(
        lambda params, images, keys: costs(params, images, keys[0])[None],
        functional.params_of(model),
        split.images,
        key[None],
        batch_size=settings.eval_batch_size,
    )
    assert bound == pytest.approx(recorded, rel=1e-5)


def test_the_seconds_of_all_processes_of_a_run_are_added_up(halfway, launch, monkeypatch):
    """Each that resumes here finds a thousand more than there were."""
    restore = run_state.Checkpoints.restore

    def later(self, like, **options):
        step, (state, seconds) = restore(self, like, **options)
        return step, run_state.Saved(state, seconds + 1000)

    monkeypatch.setattr(run_state.Checkpoints, "restore", later)
    with signal_at(45, signal.SIGTERM):
        launch(halfway)
    assert launch(halfway).status == 0
    result = json.loads((halfway / "result.json").read_text())
    assert 2000 < result["train_seconds"] < 2600


def test_runs_that_train_together_are_saved_where_it_takes_a_twentieth_of_their_time(monkeypatch):
    settings = types.SimpleNamespace(checkpoint_every=10)

    def due(runs, step, now):
        monkeypatch.setattr(loop.time, "monotonic", lambda: now)
        it = types.SimpleNamespace(
            runs=[None] * runs, settings=settings, _saved_at=100.0, _save_took=1.0
        )
        return loop.Loop._save_is_due(it, [types.SimpleNamespace(step=step)])

    assert [due(2, 20, now) for now in (119.0, 120.0)] == [False, True]
    assert [due(2, 21, 120.0), due(1, 20, 100.0), due(1, 21, 120.0)] == [False, True, False]


def test_a_learned_temperature_is_due_at_the_same_steps_however_they_are_grouped(tmp_path):
    sizes = {"num_steps": 20, "log_every": 5, "steps_per_call": 5, "eval_every": 20}
    settings = small.settings(
        layers=(4,),
        temperature__name="learned",
        temperature__update_every=2,
        checkpoint_every=20,
        test_num_samples=1,
        **sizes,
    )
    run.train(settings, tmp_path, progress=False)
    dataset = compiled.prepared_dataset(settings)
    program, dynamic = Program.make(settings, dataset), dynamic_of(settings)
    images = jnp.asarray(dataset.train.images)

    @small.quick_jit
    def temperatures(dynamic):
        indices = program.indices(dynamic["seed"], 0, num_steps=20)
        return program.run(dynamic, images, program.init(dynamic, images), indices)[1].temperature

    rows = records.read_metrics(tmp_path / "metrics.jsonl")[1:]
    expected = np.asarray(temperatures(dynamic))[4::5]
    np.testing.assert_allclose([row["temperature"] for row in rows], expected, rtol=1e-4)
