"""The cache of compiled programs: found again, kept apart by processor, never in the way."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from unittest import mock

import jax
import pytest

from experiments.errors import UserError
from experiments.training import compilations
from experiments.training.provenance import num_cores

ROOT = Path(__file__).parents[3]
SCRIPT = """
import json, sys
from experiments.training.compilations import keep_compilations
import jax
import jax.numpy as jnp
keep_compilations()
events = []
jax.monitoring.register_event_listener(lambda name, **_: events.append(name))
values = jax.jit(lambda x: jnp.sin(x @ x.T).sum(axis=0))(jnp.arange(12.0).reshape(4, 3))
hits = events.count("/jax/compilation_cache/cache_hits")
print(json.dumps([hits, values.tolist()]))
"""


def compiled(home: Path, **variables: str) -> tuple[int, list[float]]:
    """How many programs a process found in the cache, and what it computed."""
    without = {key: value for key, value in os.environ.items() if not key.startswith("JAX_")}
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT],
        cwd=ROOT,
        env=without | {"JAX_PLATFORMS": "cpu", "XDG_CACHE_HOME": str(home)} | variables,
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    hits, values = json.loads(done.stdout)
    return hits, values


def directories(home: Path) -> list[Path]:
    return sorted((home / "gumbel" / "compiled").glob("*"))


def test_programs_are_found_again_and_give_the_same_bits(tmp_path):
    hits, values = compiled(tmp_path)
    assert hits == 0
    again, same = compiled(tmp_path)
    assert again > 0
    assert same == values
    assert len(directories(tmp_path)) == 1
    # Other threads, another way to divide the work: not the same program.
    assert compiled(tmp_path, NPROC=str((num_cores() or os.cpu_count()) + 5))[0] == 0
    assert len(directories(tmp_path)) == 2


@pytest.fixture(name="told")
def fixture_told(tmp_path, monkeypatch):
    """The options that jax is told in this process, where they have no effect."""
    told = {}
    monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(jax.config, "update", told.__setitem__)
    return told


def test_a_directory_of_the_environment_is_used_as_it_is(told, tmp_path, monkeypatch):
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", str(tmp_path / "mine"))
    compilations.keep_compilations()
    assert told == {}
    assert not (tmp_path / "gumbel").exists()


def test_a_cache_that_cannot_be_written_costs_nothing_but_time(told, tmp_path):
    (tmp_path / "gumbel").write_text("")
    compilations.keep_compilations()
    assert told == {}


def test_processors_have_directories_of_their_own(monkeypatch):
    monkeypatch.setattr(compilations.platform, "machine", lambda: "one")
    one = compilations.fingerprint()
    assert compilations.fingerprint() == one
    monkeypatch.setattr(compilations.platform, "machine", lambda: "another")
    assert compilations.fingerprint() != one


def test_what_no_process_has_used_for_a_month_goes(told, tmp_path):
    stale, fresh = tmp_path / "gumbel/compiled/stale", tmp_path / "gumbel/compiled/fresh"
    for directory in (stale, fresh):
        directory.mkdir(parents=True)
        (directory / "program").write_text("x")
    before = time.time() - 40 * 24 * 3600
    os.utime(stale, (before, before))
    compilations.keep_compilations()
    assert not stale.exists()
    assert set(directories(tmp_path)) == {fresh, Path(told["jax_compilation_cache_dir"])}


def test_commands_import_what_they_need_when_they_need_it():
    names = "experiments.train, experiments.sweep, experiments.reproduce.__main__"
    script = f"import json, sys, {names}; print(json.dumps(list(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, check=True)
    imported = set(json.loads(done.stdout))
    assert "jax" in imported
    assert imported.isdisjoint({"matplotlib", "orbax", "tensorboardX", "sklearn"})


def test_a_program_without_its_time_of_use_is_removed(tmp_path, told, monkeypatch):
    """With one of them in it, jax's cache would keep nothing more."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    directory = tmp_path / "gumbel" / "compiled" / compilations.fingerprint()
    directory.mkdir(parents=True)
    for name in ("whole-cache", "whole-atime", "half-cache", "new-cache"):
        (directory / name).write_bytes(b"x")
    old = time.time() - 3600
    for name in ("whole-cache", "half-cache"):
        os.utime(directory / name, (old, old))
    compilations.keep_compilations()
    assert {path.name for path in directory.iterdir()} == {
        "whole-cache",
        "whole-atime",
        "new-cache",
    }


def test_without_a_home_nothing_is_kept(monkeypatch, told):
    monkeypatch.setattr(compilations, "home", mock.Mock(side_effect=UserError("HOME is not set")))
    compilations.keep_compilations()
    assert not told
