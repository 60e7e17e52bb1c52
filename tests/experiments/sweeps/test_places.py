"""Workers of a sweep, on accelerators whose list is made up here and on cores."""

import os
import subprocess
import sys
from unittest import mock

import jax
import pytest

from experiments.errors import UserError
from experiments.sweeps import engines, jobs
from experiments.sweeps.engines import (
    Options,
    Outcome,
    accelerators,
    places,
    process,
    ray_tasks,
    vmapped,
)
from experiments.sweeps.engines.places import Place
from experiments.training.signals import Stop
from tests.experiments.sweeps import telling
from tests.experiments.sweeps.launching import jobs_in


@pytest.fixture(name="machine")
def fixture_machine(monkeypatch, tmp_path):
    """Makes this a machine on which jax finds so many accelerators of a kind."""
    monkeypatch.setattr(places, "_CPU_QUOTA", tmp_path / "none")  # not that of a container
    monkeypatch.delenv("JAX_PLATFORMS", raising=False)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr(accelerators.importlib.metadata, "entry_points", lambda group: [group])

    def machine(lines: str) -> None:
        def answer(command: list[str], **_: object) -> subprocess.CompletedProcess[str]:
            return subprocess.CompletedProcess(command, 0, lines, "")

        monkeypatch.setattr(accelerators.subprocess, "run", answer)

    return machine


def test_each_accelerator_has_an_environment(machine):
    machine("cuda 3\n")
    assert accelerators.environments() == [{"CUDA_VISIBLE_DEVICES": name} for name in "012"]
    assert accelerators.environments(2) == [{"CUDA_VISIBLE_DEVICES": name} for name in "01"]
    machine("tpu 4\n")
    assert [found["TPU_VISIBLE_CHIPS"] for found in accelerators.environments()] == list("0123")
    assert accelerators.environments()[0]["TPU_PROCESS_BOUNDS"] == "1,1,1"


def test_those_that_a_scheduler_gave_are_shared_out(machine, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "5,GPU-abc")
    machine("cuda 2\n")
    assert accelerators.environments() == [
        {"CUDA_VISIBLE_DEVICES": name} for name in ("5", "GPU-abc")
    ]


def test_more_than_there_are_is_refused(machine):
    machine("cuda 2\n")
    with pytest.raises(UserError, match="--devices=3: this machine has 2 accelerators"):
        accelerators.environments(3)
    machine("")
    assert accelerators.environments() == []
    with pytest.raises(UserError, match="--devices=1: jax finds no accelerator here"):
        accelerators.environments(1)


@pytest.mark.slow
def test_jax_is_asked_in_a_process_of_its_own(monkeypatch):
    """Which answers, and finds none where the tests have it look at the CPU alone."""
    monkeypatch.setattr(accelerators, "_may_be_any", lambda: True)
    assert accelerators.environments() == []


@pytest.mark.parametrize(
    ("workers", "runs", "expected"),
    [(None, 9, "012"), (None, 2, "01"), (5, 9, "01201"), (1, 9, "0")],
)
def test_a_worker_an_accelerator(machine, workers, runs, expected):
    machine("cuda 3\n")
    ours = places.of_workers(Options(workers=workers), runs)
    assert ours == [Place(None, {"CUDA_VISIBLE_DEVICES": name}) for name in expected]


@pytest.mark.parametrize(
    ("workers", "runs", "expected"),
    [
        (None, 9, [4, 6, 7]),
        (5, 9, [4, 6, 7, 4, 6]),
        (2, 9, [None, None]),
        (None, 2, [None, None]),
    ],
)
def test_a_worker_a_core_pinned_if_all_are_taken(machine, monkeypatch, workers, runs, expected):
    """Of the cores that `taskset` has left to this process."""
    machine("")
    monkeypatch.setattr(os, "sched_getaffinity", lambda _process: {7, 4, 6}, raising=False)
    ours = places.of_workers(Options(workers=workers), runs)
    assert ours == [Place(core) for core in expected]


def test_where_the_system_cannot_pin_there_is_a_worker_a_core(machine, monkeypatch):
    machine("")
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 3)
    assert places.of_workers(Options(), 9) == [Place(None)] * 3


@pytest.mark.parametrize(
    ("quota", "expected"),
    [
        ("200000 100000", [None] * 2),
        ("150000 100000", [None] * 2),
        ("10000 100000", [None]),
        ("300000 100000", [4, 6, 7]),
        ("max 100000", [4, 6, 7]),
    ],
)
def test_a_container_has_as_many_workers_as_its_share(
    machine, monkeypatch, tmp_path, quota, expected
):
    machine("")
    monkeypatch.setattr(os, "sched_getaffinity", lambda _process: {7, 4, 6}, raising=False)
    (tmp_path / "cpu.max").write_text(f"{quota}\n")
    monkeypatch.setattr(places, "_CPU_QUOTA", tmp_path / "cpu.max")
    assert places.of_workers(Options(), 9) == [Place(core) for core in expected]


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="this system cannot pin")
def test_what_starts_in_a_place_runs_on_its_core():
    before = os.sched_getaffinity(0)
    core = max(before)
    code = "import os; print(os.sched_getaffinity(0))"
    with Place(core).taken():
        found = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True)
    assert found.stdout.decode().strip() == f"{{{core}}}"
    assert os.sched_getaffinity(0) == before


def test_the_default_engine_is_by_what_jax_finds(monkeypatch):
    for platform, engine in (("cpu", "process"), ("gpu", "vmap"), ("tpu", "vmap")):
        monkeypatch.setattr(jax, "local_devices", lambda p=platform: [mock.Mock(platform=p)])
        assert engines.default() == engine


def test_workers_bound_the_runs_of_one_program():
    assert vmapped.most_together(50, Options(workers=3)) == 3
    assert vmapped.most_together(2, Options(workers=3)) == 2


def test_workers_see_their_own_accelerator_alone(machine, tmp_path, monkeypatch):
    machine("cuda 2\n")
    monkeypatch.setattr(process, "_work", telling.tell)
    before = dict(os.environ)
    failures, _ = jobs.train(jobs_in(tmp_path), "process")
    assert sorted(failures.values()) == ["0", "1"]
    assert dict(os.environ) == before


def test_vmap_takes_as_many_devices_as_it_is_told(tmp_path, monkeypatch):
    asked = []

    def attempt(group, stop, programs, place):
        place(group[0].settings, len(group))
        return [Outcome("done")] * len(group)

    monkeypatch.setattr(vmapped, "attempt", attempt)
    monkeypatch.setattr(vmapped, "select_devices", lambda devices, _count: devices)
    of_runs = staticmethod(lambda runs, count: asked.append((runs, count)))
    monkeypatch.setattr(vmapped.Placement, "of_runs", of_runs)
    vmapped.train(jobs_in(tmp_path), Options(devices=3), Stop(), lambda *_: None)
    assert asked == [(2, 3)]


@pytest.mark.parametrize("asked", [(16, 1.0), (2, 4.0), (64, 1.0)])
def test_a_ray_task_has_to_fit_on_one_node(asked):
    resources = ({"CPU": 64.0}, {"CPU": 4.0, "GPU": 4.0})
    ray = mock.Mock(nodes=lambda: [{"Resources": each, "Alive": True} for each in resources])
    options = Options(ray_cpus=asked[0], ray_gpus=asked[1])
    if asked[0] > 4:
        with pytest.raises(UserError, match="no node has both; ask for less of one"):
            ray_tasks.share_of(ray, options)
    else:
        assert ray_tasks.share_of(ray, options) == {"num_cpus": 2, "num_gpus": 4.0}
