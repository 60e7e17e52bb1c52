"""Steps per second of our models against the same models in eager PyTorch, and of their products.

All train by Gumbel-Softmax on batches of 100 images that are in memory: the Bernoulli SBN
(392-200-200-392) and the categorical VAE (784-(20x10)-200-784) by SGD with momentum, and the
semi-supervised model, which has convolutions, by Adam. Speeds are per second of CPU time, so other
programs on the core do not affect them. The sides take turns, so a machine whose speed drifts
slows all; the ratio within each round of turns is what counts. A third side takes the matrix
products and convolutions of the step and nothing else. PyTorch's time divided by its time is the
upper limit for any program with equally fast float32 products.

  pip install torch
  python -m scripts.benchmark_pytorch [--model=vae] [--processes=2] [--rounds=7] [--output=F.json]
  python -m scripts.benchmark_pytorch --sides=jax,products     # needs no PyTorch

Each process has a core and a thread of its own, and all of them train the same side at a time: with
`--processes=2` that is what a sweep by worker processes does on two cores. The project does
not depend on PyTorch.
"""

import os

if "GUMBEL_BENCHMARK_CORE" in os.environ:  # before jax and torch size their thread pools
    os.sched_setaffinity(0, {int(os.environ["GUMBEL_BENCHMARK_CORE"])})

import importlib.metadata
import importlib.util
import multiprocessing
import statistics
import sys
from collections.abc import Mapping, Sequence
from multiprocessing.connection import Connection
from typing import Any

from absl import flags

from experiments import command
from experiments.errors import UserError
from experiments.training import records
from experiments.training.provenance import provenance
from scripts import benchmark_sides, pytorch_models
from scripts.benchmark_sides import MODELS

SIDES = ("jax", "torch", "products")


def work(connection: Connection, model: str, sides: Sequence[str], steps: int) -> None:
    """A process's life: says that it is ready, then takes the turns that it is told to."""
    made = {
        "jax": benchmark_sides.jax_turn,
        "torch": pytorch_models.turn,
        "products": benchmark_sides.products_turn,
    }
    turns = {side: made[side](model, steps) for side in sides}
    connection.send("ready")
    while (side := connection.recv()) is not None:
        connection.send(turns[side]())


def together(connections: list[Connection], side: str) -> float:
    """The steps per second of all processes, training one side at once."""
    for connection in connections:
        connection.send(side)
    return sum(connection.recv() for connection in connections)


def measure(
    model: str, sides: Sequence[str], cores: Sequence[int], rounds: int, steps: int
) -> list[dict[str, float]]:
    """The speeds of all sides, a turn each a round, of a process on each core."""
    context, connections, processes = multiprocessing.get_context("spawn"), [], []
    for core in cores:
        os.environ["GUMBEL_BENCHMARK_CORE"] = str(core)
        mine, theirs = context.Pipe()
        arguments = (theirs, model, sides, steps)
        processes.append(context.Process(target=work, args=arguments, daemon=True))
        processes[-1].start()
        theirs.close()  # so that a process that dies ends the connection
        connections.append(mine)
    try:
        for connection in connections:
            connection.recv()
        found = [{side: together(connections, side) for side in sides} for _ in range(rounds)]
    except EOFError as error:
        raise UserError("one of the processes that are timed has died: see above") from error
    for connection, process in zip(connections, processes, strict=True):
        connection.send(None)
        process.join()
    return found


# Names of ratios in a record: of the first side's speed over the second's.
RATIOS = {
    "median_ratio": ("jax", "torch"),
    "median_limit": ("products", "torch"),
    "median_share": ("jax", "products"),
}


def ratios(found: Sequence[Mapping[str, float]]) -> dict[str, list[float]]:
    """Of the sides that took turns, the ratios of each round, by name."""
    return {
        name: [turns[first] / turns[second] for turns in found]
        for name, (first, second) in RATIOS.items()
        if {first, second} <= set(found[0])
    }


def define_flags(values: flags.FlagValues) -> None:
    """The command's flags."""
    define: dict[str, Any] = {"flag_values": values, "lower_bound": 1}
    flags.DEFINE_enum("model", "sbn", list(MODELS), "model to train", flag_values=values)
    flags.DEFINE_list("sides", list(SIDES), f"which of {','.join(SIDES)}", flag_values=values)
    flags.DEFINE_integer("processes", 1, "processes that train at once, one per core", **define)
    flags.DEFINE_integer("rounds", 7, "turns of each side", **define)
    flags.DEFINE_integer("steps", None, "optimizer steps in a turn [by the model]", **define)
    flags.DEFINE_string("output", None, "JSON file to write the numbers to", flag_values=values)


def main(given: Mapping[str, Any]) -> int:
    """Takes turns and prints the steps per second of each and the ratios."""
    processes = given["processes"]
    sides = list(dict.fromkeys(given["sides"]))
    if not sides or not set(sides) <= set(SIDES):
        raise UserError(f"--sides={','.join(sides)}: give some of {','.join(SIDES)}")
    if "torch" in sides and importlib.util.find_spec("torch") is None:
        raise UserError("PyTorch is not installed: pip install torch, or --sides=jax,products")
    cores = sorted(os.sched_getaffinity(0))
    if processes > len(cores):
        raise UserError(f"--processes: give a number from 1 to {len(cores)}, the cores")
    output = command.output_file(given["output"])
    here = provenance()

    steps = given["steps"] or MODELS[given["model"]].steps
    found = measure(given["model"], sides, cores[:processes], given["rounds"], steps)
    compared = ratios(found)
    result = {
        "trained": given["model"],
        "processes": processes,
        **{f"{side}_steps_per_second": [turns[side] for turns in found] for side in sides},
        **{name: statistics.median(values) for name, values in compared.items()},
        **({"torch": importlib.metadata.version("torch")} if "torch" in sides else {}),
        **here,
    }
    for side in sides:
        median = statistics.median(turns[side] for turns in found)
        print(f"{side:9}{median:9.1f} steps/s (median)")
    for name, values in compared.items():
        first, second = RATIOS[name]
        low, high = min(values), max(values)
        middle = f"{statistics.median(values):.2f} (median; {low:.2f} to {high:.2f})"
        print(f"{first} over {second}: {middle}")
    if output:
        records.write_json(output, result)
    return 0


if __name__ == "__main__":
    sys.exit(command.launch(main, define_flags))
