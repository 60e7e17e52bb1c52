"""Files that are damaged or of another shape: one line that names file and fix, status 2."""

import itertools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from experiments import command, sweep, train
from experiments.config import cli
from experiments.errors import UserError
from experiments.reproduce import __main__ as reproduce
from experiments.training.trackers import Trackers
from scripts import collect, results_tables
from tests.experiments import small

CONFIGS = Path(__file__).resolve().parents[3] / "configs"
OVERRIDES = ("dataset=digits", "layers=(4,)", "num_steps=1000", "test_num_samples=2")
RESULT = {
    "config": {"task": "structured_prediction", "latent": "bernoulli", "estimator.name": "st"},
    "steps": 1000,
    "seed": 0,
    "validation_bound": 1.0,
    "test_bound": 1.0,
    "overrides": {},
    "test_num_samples": 2,
    "device": {"platform": "cpu", "kind": "cpu"},
    "versions": {"jax": "0.9"},
    "git": None,
}
# Of any file: not JSON, or not an object.
BROKEN = [b"", b'{"config": ', b"\xff\xfe", b"[" * 100_000, b"[]", b"null", b"3", b'"text"', b"{}"]


def settings() -> dict[str, Any]:
    """The flat config of the command below."""
    arguments = [f"--config={CONFIGS / 'sbn.py'}", "--workdir=x"]
    parsed = cli.parse([*arguments, *(f"--config.{each}" for each in OVERRIDES)])
    from experiments import config

    return config.read(parsed.config).flat()


def trains(directory: Path, main: Any = train.main, *more: str, define: Any = None) -> int:
    """The status of a command that a config file and a workdir are given to."""
    files = [f"--config={CONFIGS / 'sbn.py'}", f"--workdir={directory}"]
    return cli.run(main, [*files, *(f"--config.{each}" for each in OVERRIDES), *more], define)


def sweeps(directory: Path) -> int:
    return trains(directory, sweep.main, "--grid=seed=0", define=sweep.define_flags)


def collects(directory: Path) -> int:
    (directory / "metrics.jsonl").touch()
    flags = [str(directory), f"--output={directory / 'out'}"]
    return command.launch(collect.main, collect.define_flags, flags, takes="WORKDIR [WORKDIR ...]")


def reproduces(directory: Path) -> int:
    flags = ["table1", "--preset=smoke", f"--workdir={directory / 'w'}", f"--results={directory}"]
    return command.launch(reproduce.main, reproduce.define_flags, flags, takes="TARGET")


def writes_tables(directory: Path) -> int:
    return command.guarded(lambda: results_tables.results_page(directory) and 1)


@pytest.fixture(name="refused")
def fixture_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Writes a file, gives a command, which must refuse; returns the one line that it says."""

    def refused(give: Callable[[Path], int], name: str, content: bytes) -> str:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        assert give(tmp_path) == 2
        out, err = capsys.readouterr()
        assert out == ""
        [line] = err.splitlines()
        assert line.startswith(f"error: {path} is damaged (")
        assert line.rpartition("): ")[2]  # what to do
        assert path.read_bytes() == content
        return line

    return refused


READERS = [
    (trains, "config.json"),
    (sweeps, "sweep.json"),
    (collects, "result.json"),
    (reproduces, "table1.json"),
    (writes_tables, "runs/a.json"),
]


@pytest.mark.parametrize(
    ("reader", "content"),
    list(itertools.product(READERS, BROKEN)),
    ids=lambda value: value[1] if isinstance(value, tuple) else str(value)[-30:],
)
def test_a_file_that_is_no_object(refused, reader, content):
    refused(*reader, content)


def changed(**changes: Any) -> dict[str, Any]:
    return RESULT | changes


WHOLE = {
    "task": "generative",
    "latent": "bernoulli",
    "estimator.name": "st",
    "dataset": "digits",
    "optimizer": "sgd",
    "momentum": 0.9,
    "batch_size": 100,
    "learning_rate": 0.1,
    "layers": [200],
}
WRONG = [
    (trains, "config.json", {"task": 3, "num_steps": 1}, "task is an integer, not a string"),
    (trains, "config.json", {"task": "x", "num_steps": "1"}, "num_steps is a string"),
    (trains, "config.json", {"task": "x", "num_steps": None}, "num_steps is null"),
    (sweeps, "sweep.json", {"config": {}}, "it has no grid"),
    (sweeps, "sweep.json", {"config": [], "grid": []}, "config is a list, not an object"),
    (sweeps, "sweep.json", {"config": {}, "grid": {}}, "grid is an object, not a list"),
    (sweeps, "sweep.json", {"config": {}, "grid": [0]}, "grid[0] is an integer"),
    (collects, "result.json", changed(config=[]), "config is a list, not an object"),
    (collects, "result.json", changed(config={"task": "x"}), "config has no latent"),
    (collects, "result.json", changed(steps=None), "steps is null, not an integer"),
    (collects, "result.json", changed(steps="../1"), "steps is a string"),
    (collects, "result.json", changed(seed=[1]), "seed is a list"),
    (reproduces, "table1.json", {"preset": "smoke"}, "preset is a string, not an object"),
    (reproduces, "table1.json", {"preset": {}}, "preset has no name"),
    (reproduces, "table1.json", {"preset": {"name": None}}, "preset.name is null"),
    (writes_tables, "runs/a.json", RESULT, "has no"),
    (writes_tables, "runs/a.json", changed(config=WHOLE), "it has no curve"),
    (writes_tables, "runs/a.json", changed(config=WHOLE, curve=None), "curve is null"),
    (
        writes_tables,
        "runs/a.json",
        changed(config=WHOLE, curve=[], test_bound="1"),
        "test_bound is",
    ),
    (writes_tables, "figure5a.json", {"rows": []}, "it has no device"),
    (writes_tables, "benchmark_pytorch.json", {"torch": 2}, "it has no jax_steps_per_second"),
]


@pytest.mark.parametrize(("give", "name", "value", "said"), WRONG)
def test_a_file_of_another_shape(refused, give, name, value, said):
    assert said in refused(give, name, json.dumps(value).encode())


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"steps": "1000"}, "steps is a string"),
        ({"test_bound": []}, "test_bound is a list, not a number or null"),
        ({"validation_bound": True}, "validation_bound is true or false"),
        ({"config": None}, "config is null"),
        ({"seed": 0.5}, "seed is a number, not an integer"),
        ({"overrides": "none"}, "overrides is a string"),
    ],
)
def test_a_result_of_another_shape(refused, tmp_path, changes, said):
    (tmp_path / "config.json").write_text(json.dumps(settings()))
    line = refused(trains, "result.json", json.dumps(changed(**changes)).encode())
    assert said in line
    assert line.endswith("delete it, and the run finishes again")


def test_a_result_without_a_bound_is_shown(tmp_path, capsys):
    """The program writes null for a bound that is not finite."""
    (tmp_path / "config.json").write_text(json.dumps(settings()))
    result = changed(test_bound=None, config=settings())
    (tmp_path / "result.json").write_text(json.dumps(result))
    assert trains(tmp_path) == 0
    assert "test not finite (2-sample bound, nats), validation 1.00" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("recorded", "said"),
    [
        ({"config": {}, "grid": []}, "grid is empty"),
        ({"config": {}, "grid": [{}]}, "this config has no task"),
        ({"config": {"task": "generative"}, "grid": [{"seed": "a"}]}, "this config has seed='a'"),
        (
            {"config": {"task": "generative"}, "grid": [{"sed": 1}]},
            "unknown key 'sed': did you mean seed",
        ),
        ({"config": {"task": "x"}, "grid": [{}]}, "config.task='x' is not known"),
        ([], "it is a list"),
    ],
)
def test_a_report_of_a_sweep_of_another_shape(tmp_path, capsys, recorded, said):
    path = tmp_path / "sweep.json"
    path.write_text(json.dumps(recorded))
    assert sweep.run([f"--report={tmp_path}"]) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith(f"error: {path}")
    assert said in line


@pytest.mark.parametrize(
    ("directory", "said"),
    [
        ("", "--report=DIR is missing"),
        ("none", "--report=none is not a sweep"),
        ("/dev/null", "--report=/dev/null is not a sweep"),
        ("a\0b", "a path has no NUL character"),
        ("~nosuchuser/x", "there is no user 'nosuchuser'"),
    ],
)
def test_a_report_of_no_sweep(capsys, directory, said):
    assert sweep.run([f"--report={directory}"]) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert said in line


@pytest.mark.parametrize("content", BROKEN[:-1])
def test_names_at_trackers_that_are_damaged(tmp_path, content):
    (tmp_path / "trackers.json").write_bytes(content)
    with pytest.raises(UserError, match=r"trackers.json is damaged \(.*\): delete it"):
        Trackers([], tmp_path, {}, [])


@pytest.mark.parametrize("name", ["metrics.jsonl", "picture.png", "pictures.npz"])
def test_a_run_does_not_write_over_files_that_may_be_the_users(tmp_path, capsys, name):
    (tmp_path / name).write_text("mine")
    assert trains(tmp_path) == 2
    assert f"{tmp_path / name} would be written over" in capsys.readouterr().err
    assert (tmp_path / name).read_text() == "mine"


@pytest.mark.parametrize("name", ["checkpoints", "tensorboard"])
def test_a_file_where_a_directory_belongs(tmp_path, capsys, name):
    (tmp_path / name).write_text("")
    assert trains(tmp_path) == 2
    expected = f"error: {tmp_path / name} is a file, and a run keeps a directory there: delete it\n"
    assert capsys.readouterr().err == expected
    assert not (tmp_path / "config.json").exists()


@pytest.mark.parametrize(
    "name", ["config.json", "metrics.jsonl", "result.json", "picture.png", "pictures.npz"]
)
def test_a_directory_where_a_file_belongs(tmp_path, capsys, name):
    (tmp_path / name).mkdir()
    assert trains(tmp_path) == 2
    err = capsys.readouterr().err
    assert err == f"error: {tmp_path / name} is a directory, and a run keeps a file there\n"


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("task", "../x"),
        ("task", "/tmp/x"),
        ("latent", "a/b"),
        ("estimator.name", ".."),
        ("estimator.name", "a\0b"),
        ("latent", ""),
    ],
)
def test_collect_writes_nowhere_else(tmp_path, capsys, key, value):
    run = tmp_path / "run"
    run.mkdir()
    result = changed(config=RESULT["config"] | {key: value})
    (run / "result.json").write_text(json.dumps(result))
    assert collects(run) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert line.endswith("cannot be part of a file's name")
    assert str(run / "result.json") in line
    assert not list(tmp_path.rglob("*seed0.json"))


SCHEDULES = [
    ("learning_rate_schedule", "cosine"),
    ("temperature.name", "linear"),
    ("temperature.name", "cosine"),
]


@pytest.mark.parametrize(("key", "value"), SCHEDULES)
def test_a_run_that_cannot_be_made_longer(tmp_path, capsys, key, value):
    made = small.settings(**{key.replace(".", "__"): value})
    (tmp_path / "config.json").write_text(json.dumps(made.flat() | {"num_steps": 40}))
    arguments = {key.replace(".", "__"): value}
    config = small.config(**arguments)

    def main() -> int:
        return train.main(config, tmp_path, {})

    assert command.guarded(main) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert f"has a run of 40 steps that cannot be made longer: its config.{key}={value}" in line
    (tmp_path / "config.json").write_text(json.dumps(made.flat() | {"num_steps": 80}))
    assert command.guarded(main) == 2
    assert "belongs to another config (num_steps is 80 there, 60 here)" in capsys.readouterr().err
