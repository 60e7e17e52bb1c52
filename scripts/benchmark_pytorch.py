"""Steps per second of our SBN against the same model in eager PyTorch.

Both train 392-200-200-392 Bernoulli layers by Gumbel-Softmax at temperature 1: batch 100, SGD with
momentum, on images that are in memory. They take turns, so a machine whose speed drifts slows all;
the ratio within each round of turns is what counts. A third side takes the matrix products of the
step and nothing else: PyTorch's time over its own is the ratio that no program can go beyond that
multiplies in float32 as fast as this one.

  pip install torch
  python -m scripts.benchmark_pytorch [--processes=2] [--rounds=7] [--steps=500] [--output=F.json]

Each process has a core and a thread of its own, and all of them train the same side at a time: with
`--processes=2` that is what a sweep by worker processes does on two cores. PyTorch is no dependency
of the project.
"""

import os

if "GUMBEL_BENCHMARK_CORE" in os.environ:  # before jax and torch size their thread pools
    os.sched_setaffinity(0, {int(os.environ["GUMBEL_BENCHMARK_CORE"])})

import importlib
import importlib.metadata
import importlib.util
import itertools
import multiprocessing
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from multiprocessing.connection import Connection
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags

from configs import sbn
from experiments import command, config
from experiments.data import Dataset, Split
from experiments.data.batches import batch_indices
from experiments.errors import UserError
from experiments.training import records
from experiments.training.program import Program, dynamic_of
from experiments.training.provenance import provenance

Turn = Callable[[], float]
WIDTHS = (392, 200, 200, 392)
SIDES = ("jax", "torch", "products")


def random_dataset() -> Dataset:
    """Binary images of MNIST's size and density: the speed does not depend on what they show."""
    images = np.random.default_rng(0).random((50_000, 28, 28)) < 0.13
    split = Split(images.astype(np.uint8))
    return Dataset("random", split, split, split, max_value=1)


def jax_turn(dataset: Dataset, steps: int) -> Turn:
    """Our own training program: `steps` optimizer steps in one call, timed."""
    settings = config.read(sbn.get_config())
    program, dynamic = Program.make(settings, dataset), dynamic_of(settings)
    images = jnp.asarray(dataset.train.images)
    indices = jax.jit(batch_indices, static_argnames=("num_steps", "size", "batch_size"))(
        0, 0, num_steps=steps, size=len(images), batch_size=settings.batch_size
    )
    run, state = jax.jit(program.run), jax.jit(program.init)(dynamic, images)
    jax.block_until_ready(run(dynamic, images, state, indices))

    def turn() -> float:
        nonlocal state
        began = time.perf_counter()
        state, _ = jax.block_until_ready(run(dynamic, images, state, indices))
        return steps / (time.perf_counter() - began)

    return turn


def products_turn(steps: int) -> Turn:
    """The eight matrix products of a step, three forward and five back, and the update by them."""
    keys = jax.random.split(jax.random.key(0), len(WIDTHS) + 1)
    weights = [
        0.05 * jax.random.normal(key, shape)
        for key, shape in zip(keys, itertools.pairwise(WIDTHS), strict=False)
    ]
    below = jax.random.normal(keys[-1], (100, WIDTHS[0]))
    above = jax.random.normal(keys[-2], (100, WIDTHS[-1]))

    def linear_cost(weights: list[jax.Array]) -> jax.Array:
        hidden = below
        for weight in weights:
            hidden = hidden @ weight
        return jnp.vdot(hidden, above)

    def step(weights: list[jax.Array], _: None) -> tuple[list[jax.Array], jax.Array]:
        value, gradient = jax.value_and_grad(linear_cost)(weights)
        return jax.tree.map(lambda w, g: w - 1e-9 * g, weights, gradient), value

    run = jax.jit(lambda weights: jax.lax.scan(step, weights, length=steps))
    jax.block_until_ready(run(weights))

    def turn() -> float:
        began = time.perf_counter()
        jax.block_until_ready(run(weights))
        return steps / (time.perf_counter() - began)

    return turn


def torch_turn(dataset: Dataset, steps: int) -> Turn:
    """The same model and optimizer as PyTorch code is usually written, without compilation."""
    torch: Any = importlib.import_module("torch")
    torch.set_num_threads(1)
    torch.manual_seed(0)
    linear, functional = torch.nn.Linear, torch.nn.functional
    images = torch.from_numpy(dataset.train.images)
    mean = torch.from_numpy(dataset.train_mean()).reshape(-1)[:392]
    layers = [linear(*shape) for shape in itertools.pairwise(WIDTHS)]
    parameters = [p for layer in layers for p in layer.parameters()]
    optimizer = torch.optim.SGD(parameters, lr=1e-3, momentum=0.9)

    def binary_concrete(logits: Any) -> Any:
        uniform = torch.rand_like(logits).clamp_(1e-7, 1 - 1e-7)
        return torch.sigmoid(logits + torch.log(uniform) - torch.log1p(-uniform))

    def step(indices: Any) -> None:
        pixels = images[indices].float().reshape(-1, 784)
        hidden = pixels[:, :392] - mean
        for layer in layers[:-1]:
            hidden = 2 * binary_concrete(layer(hidden)) - 1
        cost = functional.binary_cross_entropy_with_logits(
            layers[-1](hidden), pixels[:, 392:], reduction="sum"
        )
        optimizer.zero_grad()
        (cost / len(pixels)).backward()
        optimizer.step()

    def turn() -> float:
        order = torch.randperm(len(images))
        began = time.perf_counter()
        for index in range(steps):
            step(order[(index * 100) % 50_000 :][:100])
        return steps / (time.perf_counter() - began)

    turn()
    return turn


def work(connection: Connection, steps: int) -> None:
    """A process's life: says that it is ready, then takes the turns that it is told to."""
    dataset = random_dataset()
    turns = {
        "jax": jax_turn(dataset, steps),
        "torch": torch_turn(dataset, steps),
        "products": products_turn(steps),
    }
    connection.send("ready")
    while (side := connection.recv()) is not None:
        connection.send(turns[side]())


def together(connections: list[Connection], side: str) -> float:
    """The steps per second of all processes, training one side at once."""
    for connection in connections:
        connection.send(side)
    return sum(connection.recv() for connection in connections)


def measure(cores: Sequence[int], rounds: int, steps: int) -> list[dict[str, float]]:
    """The speeds of all sides, a turn each a round, of a process on each core."""
    context, connections, processes = multiprocessing.get_context("spawn"), [], []
    for core in cores:
        os.environ["GUMBEL_BENCHMARK_CORE"] = str(core)
        mine, theirs = context.Pipe()
        processes.append(context.Process(target=work, args=(theirs, steps), daemon=True))
        processes[-1].start()
        theirs.close()  # so that a process that dies ends the connection
        connections.append(mine)
    for connection in connections:
        connection.recv()
    found = [{side: together(connections, side) for side in SIDES} for _ in range(rounds)]
    for connection, process in zip(connections, processes, strict=True):
        connection.send(None)
        process.join()
    return found


def define_flags(values: flags.FlagValues) -> None:
    """The command's flags."""
    define: dict[str, Any] = {"flag_values": values, "lower_bound": 1}
    flags.DEFINE_integer("processes", 1, "that train at once, one a core", **define)
    flags.DEFINE_integer("rounds", 7, "turns of each side", **define)
    flags.DEFINE_integer("steps", 500, "optimizer steps in a turn", **define)
    flags.DEFINE_string("output", None, "a JSON file for the numbers", flag_values=values)


def main(given: Mapping[str, Any]) -> int:
    """Takes turns and prints the steps per second of each and the ratios."""
    processes, output = given["processes"], command.path(given["output"], "output")
    if importlib.util.find_spec("torch") is None:
        raise UserError("PyTorch is not installed: pip install torch")
    cores = sorted(os.sched_getaffinity(0))
    if processes > len(cores):
        raise UserError(f"--processes: give a number from 1 to {len(cores)}, the cores")
    command.check_output(output)

    found = measure(cores[:processes], given["rounds"], given["steps"])
    ratios = [turns["jax"] / turns["torch"] for turns in found]
    limits = [turns["products"] / turns["torch"] for turns in found]
    result = {
        "processes": processes,
        **{f"{side}_steps_per_second": [turns[side] for turns in found] for side in SIDES},
        "median_ratio": statistics.median(ratios),
        "median_limit": statistics.median(limits),
        "torch": importlib.metadata.version("torch"),
        **provenance(),
    }
    for side in SIDES:
        median = statistics.median(turns[side] for turns in found)
        print(f"{side:9}{median:8.0f} steps/s (median)")
    for name, values in (("ratio", ratios), ("limit", limits)):
        low, high = min(values), max(values)
        print(f"{name:9}{statistics.median(values):8.2f} (median; {low:.2f} to {high:.2f})")
    if output:
        records.write_json(output, result)
    return 0


if __name__ == "__main__":
    sys.exit(command.launch(main, define_flags))
