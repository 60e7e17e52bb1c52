"""The Ray engine on a cluster of two nodes, made by Ray's own test cluster on this machine."""

import os
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import jax
import pytest

from experiments.errors import UserError
from experiments.sweeps.engines import Options, ray_tasks
from tests.experiments.sweeps.launching import finish, numbers, start, steps_of, wait_for

pytestmark = pytest.mark.ray


@pytest.fixture(scope="module", name="cluster")
def fixture_cluster() -> Iterator[Any]:
    """Two nodes, of one and two make-believe GPUs."""
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "num_gpus": 1})
    cluster.add_node(num_cpus=2, num_gpus=2)
    yield cluster
    cluster.shutdown()


@pytest.fixture(name="joined")
def fixture_joined(cluster) -> Iterator[Any]:
    """Ray as the engine joins it."""
    ray = ray_tasks.import_ray()
    ray_tasks.connect(ray, Options(ray_address=cluster.address))
    yield ray
    ray.shutdown()


def test_a_run_without_a_gpu_sees_none(monkeypatch):
    """Ray leaves the GPUs of a node in sight of a task that asks for none of them."""
    monkeypatch.delenv("JAX_PLATFORMS")
    told = []
    monkeypatch.setattr(jax.config, "update", lambda *said: told.append(said))
    for asked, expected in ((0.0, [("jax_platforms", "cpu")]), (None, []), (0.5, [])):
        told.clear()
        with mock.patch.dict(os.environ):
            ray_tasks.set_environment(ray_tasks.variables_of(Options(ray_gpus=asked, ray_cpus=2.5)))
            assert os.environ["NPROC"] == "2"
        assert told == expected


def seen() -> tuple[str, str, set[str]]:
    """What a task sees: its node, its GPUs, and which packages were sent to it."""
    import ray

    time.sleep(3)  # so that none is done before the last one starts
    # Here the checkout is found first; on another machine there is none.
    sent = [Path(path) for path in sys.path if "py_modules" in path]
    names = {package.name for path in sent for package in path.iterdir()}
    node = ray.get_runtime_context().get_node_id()
    return node, os.environ["CUDA_VISIBLE_DEVICES"], names


def test_a_run_sees_its_own_device_and_the_driver_s_code(joined):
    share = ray_tasks.share_of(joined, Options())
    assert share == {"num_cpus": 1.0, "num_gpus": 1.0}
    task = joined.remote(**share)(seen)
    found = joined.get([task.remote() for _ in range(3)])
    assert len({(node, gpu) for node, gpu, _ in found}) == 3
    assert {gpu for _, gpu, _ in found} == {"0", "1"}
    assert all(names >= {"gumbel", "experiments", "configs"} for _, _, names in found)


def test_shares_that_no_node_has_are_refused(joined):
    for options, said in (
        (Options(ray_gpus=3.0), "--ray_gpus_per_run=3: the largest node has 2"),
        (Options(ray_cpus=99.0), "--ray_cpus_per_run=99: the largest node has 2"),
        (Options(ray_gpus=1.5), "--ray_gpus_per_run=1.5: give an integer, or a part of 1"),
    ):
        with pytest.raises(UserError, match=said):
            ray_tasks.share_of(joined, options)


def test_a_sweep_on_two_nodes_outlives_its_workers(home, cluster):
    """Its workers are killed once; the numbers are those of an undisturbed sweep by `process`."""
    grid = ("--grid=seed=0,1", "--config.num_steps=400")
    finish(start(home, "process", "--engine=process", "--workers=1", *grid))
    child = start(home, "ray", "--engine=ray", f"--ray_address={cluster.address}", *grid)
    wait_for(lambda: steps_of(home / "ray") >= 50)
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        if path.read_bytes().startswith(b"ray::_work"):
            os.kill(int(path.parent.name), signal.SIGKILL)
    finish(child)
    assert numbers(home / "ray") == numbers(home / "process")
