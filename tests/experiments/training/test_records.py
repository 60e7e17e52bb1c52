import json
import os
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.errors import UserError
from experiments.files import ROOT, read_json
from experiments.training import provenance as provenance_module
from experiments.training.events import wall_times
from experiments.training.metrics import MetricsLog
from experiments.training.provenance import code_state, git_state, provenance
from experiments.training.records import read_metrics, write_json
from tests.experiments.training.tensorboard import events


def write_log(workdir, steps, **options):
    with MetricsLog(workdir, **options) as log:
        for step in steps:
            log.append(step, train_cost=100.0 / (1 + step))
    return log.path


def steps_in(path):
    return [row["step"] for row in read_metrics(path)]


def test_provenance_is_json_and_complete():
    found = json.loads(json.dumps(provenance(), allow_nan=False))
    assert found["versions"]["jax"] == jax.__version__
    assert found["versions"]["python"].split(".")[0] == "3"
    names = {"python", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy", "gumbel-jax"}
    assert set(found["versions"]) == names
    assert found["device"]["platform"] == jax.default_backend()
    assert found["device"]["count"] == jax.device_count()
    assert os.uname().nodename not in json.dumps(found["device"])


def test_provenance_names_the_precision_in_force():
    with jax.default_matmul_precision("highest"):
        assert provenance()["matmul_precision"] == "highest"
    with jax.default_matmul_precision(None):
        assert provenance()["matmul_precision"] == "default"


def test_provenance_names_what_else_decides_numbers(monkeypatch):
    monkeypatch.delenv("XLA_FLAGS", raising=False)
    found = provenance()
    keys = ("prng_impl", "threefry_partitionable", "x64", "xla_flags")
    assert [found[key] for key in keys] == ["threefry2x32", True, False, None]
    monkeypatch.setenv("XLA_FLAGS", "--xla_cpu_enable_fast_math=false")
    with jax.default_prng_impl("rbg"), jax.threefry_partitionable(False), jax.enable_x64(True):
        found = provenance()
    assert [found[key] for key in keys] == ["rbg", False, True, "--xla_cpu_enable_fast_math=false"]


def test_the_state_of_the_code_names_the_commit(tmp_path):
    config = tmp_path / "config"  # in place of the user's; os.devnull may be an ordinary file
    config.write_text("[user]\n name = a\n email = a@example.org\n")
    alone = os.environ | {"GIT_CONFIG_GLOBAL": str(config), "GIT_CONFIG_NOSYSTEM": "1"}
    root = (tmp_path / "repository").resolve()
    root.mkdir()

    def git(*arguments):
        command = ["git", *arguments]
        run = subprocess.run(
            command, check=False, capture_output=True, text=True, env=alone, cwd=root
        )
        assert run.returncode == 0, run.stderr
        return run.stdout.strip()

    assert git_state(root) is None, "no repository"
    git("init")
    assert git_state(root) is None, "no commit"
    (root / "file").write_text("one")
    git("add", "file")
    git("commit", "-m", "first")
    first = {"commit": git("rev-parse", "HEAD"), "dirty": False}
    assert git_state(root) == first
    (root / "file").write_text("another size")
    assert git_state(root)["dirty"] is True
    (root / "inner").mkdir()
    assert git_state(root / "inner") is None, "the repository of somebody else"


def test_provenance_names_the_commit_of_the_code_in_memory(monkeypatch):
    commits = iter(["first", "later"])
    monkeypatch.setattr(provenance_module, "git_state", lambda _: {"commit": next(commits)})
    code_state.cache_clear()
    found = [provenance()["git"]["commit"] for _ in range(2)]
    code_state.cache_clear()
    assert found == ["first", "first"]


def test_provenance_without_git(monkeypatch):
    monkeypatch.setenv("PATH", "")
    assert git_state(ROOT) is None


def test_json_round_trip(tmp_path):
    value = {
        "float": jnp.float32(0.5),
        "int": np.int64(3),
        "array": np.arange(3),
        "bfloat16": jnp.ones(2, jnp.bfloat16),
        "tuple": (1, None, True, "ä"),
        "path": Path("a/b"),
        "nan": float("nan"),
        "inf": [np.float32("inf"), {"deep": -jnp.inf}],
    }
    write_json(tmp_path / "a.json", value)
    assert read_json(tmp_path / "a.json") == {
        "float": 0.5,
        "int": 3,
        "array": [0, 1, 2],
        "bfloat16": [1.0, 1.0],
        "tuple": [1, None, True, "ä"],
        "path": "a/b",
        "nan": None,
        "inf": [None, {"deep": None}],
    }
    assert [path.name for path in tmp_path.iterdir()] == ["a.json"]


def test_a_failed_write_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "a.json"
    write_json(path, {"a": 1})
    with pytest.raises(TypeError, match="not JSON serializable"):
        write_json(path, {"a": object()})
    assert read_json(path) == {"a": 1}

    def fail(descriptor):
        raise OSError("disk full")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="disk full"):
        write_json(path, {"a": 2})
    assert read_json(path) == {"a": 1}


def test_unreadable_json(tmp_path):
    with pytest.raises(UserError, match=r"a\.json does not exist"):
        read_json(tmp_path / "a.json")
    (tmp_path / "a.json").write_text('{"a": ')
    with pytest.raises(UserError, match=r"a\.json is damaged .*delete it"):
        read_json(tmp_path / "a.json")


def test_metrics_are_lines_and_events(tmp_path):
    with MetricsLog(tmp_path / "new") as log:
        log.append(1, train_cost=jnp.float32(2.5), temperature=np.float64(1))
        log.append(1, validation_bound=None)
        log.append(2, train_cost=float("nan"), steps_per_second=7)
    assert read_metrics(log.path) == [
        {"step": 1, "train_cost": 2.5, "temperature": 1.0},
        {"step": 1, "validation_bound": None},
        {"step": 2, "train_cost": None, "steps_per_second": 7},
    ]
    assert sorted(events(tmp_path / "new")) == [
        (1, "temperature", 1.0),
        (1, "train_cost", 2.5),
        (2, "steps_per_second", 7.0),
    ]


def test_append_refuses_what_is_no_log_line(tmp_path):
    with MetricsLog(tmp_path) as log:
        log.append(5, a=1)
        with pytest.raises(ValueError, match="step 4 lies before the last one logged, 5"):
            log.append(4, a=1)
        with pytest.raises(TypeError, match="b must be a scalar"):
            log.append(6, a=1, b=np.zeros(2))
        with pytest.raises(TypeError, match="name must be a scalar"):
            log.append(6, name="text")
    assert steps_in(log.path) == [5]


def test_lines_and_events_are_on_disk_when_append_returns(tmp_path):
    script = """
import os, signal, sys
from experiments.training.events import wall_times
from experiments.training.metrics import MetricsLog
log = MetricsLog(sys.argv[1])
for step in range(40):
    log.append(step, a=1.5)
os.kill(os.getpid(), signal.SIGKILL)
"""
    root = Path(__file__).parents[3]
    subprocess.run([sys.executable, "-c", script, tmp_path], cwd=root, check=False)
    expected = [{"step": step, "a": 1.5} for step in range(40)]
    assert read_metrics(tmp_path / "metrics.jsonl") == expected
    assert events(tmp_path) == [(step, "a", 1.5) for step in range(40)]


@pytest.mark.parametrize("torn", ["lost", "cut", "spoiled", "as it was"])
def test_events_are_made_again_of_the_lines(tmp_path, torn):
    """Whatever is left of them; those that are left keep the time at which they were logged."""
    write_log(tmp_path, range(0, 50, 10))
    [before] = (tmp_path / "tensorboard").iterdir()
    times = wall_times(before)
    data = before.read_bytes()
    if torn == "lost":
        before.unlink()
    elif torn == "cut":
        before.write_bytes(data[:-5])
    elif torn == "spoiled":
        before.write_bytes(data[:-20] + b"\xff" * 20)
    write_log(tmp_path, range(30, 60, 10), resume_step=20)
    whole = tmp_path / "whole"
    write_log(whole, range(0, 60, 10))
    assert events(tmp_path) == events(whole)
    [after] = (tmp_path / "tensorboard").iterdir()
    again = wall_times(after)
    assert len(again) == 6
    for key in [(step, "train_cost") for step in (0, 10, 20)]:
        assert (again[key] == times[key]) == (torn != "lost")


@pytest.mark.parametrize("torn", [b"", b'{"step": 50, "trai', b"\xff\xfe", b"{}", b"7\n"])
def test_resuming_leaves_no_duplicates(tmp_path, torn):
    path = write_log(tmp_path, range(0, 50, 10))
    with path.open("ab") as file:
        file.write(torn)
    assert steps_in(path) == [0, 10, 20, 30, 40]
    write_log(tmp_path, range(30, 60, 10), resume_step=20)
    assert steps_in(path) == [0, 10, 20, 30, 40, 50]
    assert path.read_bytes().endswith(b"\n")


def test_resuming_leaves_no_duplicate_events(tmp_path):
    write_log(tmp_path, range(0, 50, 10))
    write_log(tmp_path, range(30, 60, 10), resume_step=20)
    assert [step for step, _, _ in events(tmp_path)] == [0, 10, 20, 30, 40, 50]


def test_resuming_keeps_the_lines_of_the_checkpoint(tmp_path):
    path = write_log(tmp_path, [0, 10, 20])
    write_log(tmp_path, [], resume_step=20)
    assert steps_in(path) == [0, 10, 20]
    with MetricsLog(tmp_path, resume_step=20) as log, pytest.raises(ValueError, match="before"):
        log.append(10, a=1)


def test_a_fresh_start_empties_the_log(tmp_path):
    write_log(tmp_path, [0, 10])
    assert steps_in(write_log(tmp_path, [0])) == [0]


def test_resuming_without_a_log(tmp_path):
    assert steps_in(write_log(tmp_path, [30], resume_step=20)) == [30]


def test_a_line_damaged_in_the_middle_is_named(tmp_path):
    path = write_log(tmp_path, [0, 10, 20])
    path.write_bytes(path.read_bytes().replace(b"10,", b"10;"))
    with pytest.raises(UserError, match=r"line 2 of .*\.jsonl is damaged .*delete that line"):
        read_metrics(path)
    with pytest.raises(UserError, match="line 2"):
        MetricsLog(tmp_path, resume_step=10)
    with pytest.raises(UserError, match="does not exist"):
        read_metrics(tmp_path / "none.jsonl")
