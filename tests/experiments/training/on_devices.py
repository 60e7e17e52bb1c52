"""What `test_devices` holds against one device, computed in one process that has four of them.

Prints JSON: for each case how far the numbers are from those of one device.
"""

import contextlib
import dataclasses
import json
import signal
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np

from experiments.errors import Stopped, UserError
from experiments.files import read_json
from experiments.settings import Settings
from experiments.training import records, run
from experiments.training.compiled import Compiled
from experiments.training.dynamic import dynamic_of
from experiments.training.job import Job
from experiments.training.placement import Placement, PlacementRule
from experiments.training.run import Programs
from experiments.training.run_state import RunState
from experiments.training.signals import Stop
from gumbel import estimators
from gumbel.estimators.signal import Normalizer, SignalState
from tests.experiments import small

BATCH = {
    "batch_size": 8,
    "eval_batch_size": 300,
    "learning_rate": 0.1,
    "num_steps": 20,
    "log_every": 10,
    "eval_every": 10,
    "checkpoint_every": 10,
    "steps_per_call": 10,
    "test_num_samples": 1,
}


def settings_of(estimator: str, **overrides: Any) -> Settings:
    """A small model that the estimator serves."""
    latent = estimators.spec(estimator).families[0]
    chosen: dict[str, Any] = {"layers": (4,), "latent": latent, "estimator__name": estimator}
    return small.settings("sbn", **BATCH | chosen | overrides)


class Way(NamedTuple):
    """A way to train, with what it has compiled."""

    place: PlacementRule
    programs: Programs

    def train(self, jobs: Sequence[Job], *, to_the_end: bool = True) -> None:
        """Trains the jobs, or takes them ten steps further."""
        stop = Stop(None if to_the_end else signal.SIGTERM)
        with contextlib.suppress(Stopped):
            run.train_together(jobs, stop=stop, programs=self.programs, place=self.place)


def on(count: int) -> Way:
    """A run's batch divided among so many devices."""
    return Way(lambda settings, _: Placement.of_batch(settings, count), Programs())


def among(count: int) -> Way:
    """Runs divided among so many devices."""
    return Way(lambda _, runs: Placement.of_runs(runs, count), Programs())


def stepped(settings: Settings, ways: Mapping[int, Way]) -> dict[int, tuple[Any, float]]:
    """For so many devices, all that some steps leave, and the operations of one device."""
    found, start = {}, None
    indices = np.arange(8 * settings.steps_per_call).reshape(1, -1, 8)
    dynamic = {key: np.asarray(value)[None] for key, value in dynamic_of(settings).items()}
    for count, way in ways.items():
        compiled = way.programs.compiled(settings, way.place(settings, 1))
        put, images = compiled.placement.put, compiled.images
        placed = put(dynamic, of_runs=True)
        if start is None:
            start = jax.device_get(compiled.init(placed, images))
        arguments = placed, images, put(start, of_runs=True), indices, 0, np.ones(1, bool)
        program = compiled.run.lower(*arguments).compile()
        left = program(*arguments)
        assert all(leaf.is_fully_replicated for leaf in jax.tree.leaves(left))
        found[count] = jax.device_get(left), float(program.cost_analysis()["flops"])
    return found


def distance(ours: Any, theirs: Any) -> float:
    """The largest difference of two trees of numbers, of 1 + the size of the number."""
    pairs = zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True)
    return max(
        float(np.max(np.abs(np.asarray(a) - b) / (1 + np.abs(b)), initial=0.0)) for a, b in pairs
    )


def compared(each: Mapping[int, tuple[Any, float]]) -> dict[str, Any]:
    """How far several devices are from one, and the share of the work that each of them has."""
    alone, work = each[1]
    several = {count: found for count, found in each.items() if count > 1}
    return {
        "distance": {count: distance(left, alone) for count, (left, _) in several.items()},
        "share": {count: part / work for count, (_, part) in several.items()},
    }


def with_local_statistics(settings: Settings, whole: Any) -> float:
    """The distance that a moving average of one device's part of the batch would make."""

    def of_part(_: Normalizer, signal: jax.Array) -> SignalState:
        part = jax.lax.stop_gradient(signal[: len(signal) // 4])
        return SignalState(jnp.mean(part), jnp.var(part))

    with mock.patch.object(Normalizer, "init", of_part):
        return distance(stepped(settings, {1: on(1)})[1][0], whole)


def numbers(workdir: Path) -> Any:
    """The bounds and the costs that a run recorded."""
    result = read_json(workdir / "result.json")
    rows = records.read_metrics(workdir / "metrics.jsonl")
    kept = [{key: row[key] for key in row if key != "steps_per_second"} for row in rows]
    return [result["test_bound"], result["validation_bound"], kept]


def undrawn(*_: object) -> None:
    """In place of `RunState.draw`: the pictures are not looked at, and take long."""


def resumed(home: Path, settings: Settings, ways: Mapping[int, Way]) -> dict[str, Any]:
    """Runs alone, one that moves from one device to four, and sweeps of three on two devices."""
    each = [
        dataclasses.replace(settings, seed=seed, learning_rate=0.02 * (seed + 1))
        for seed in range(3)
    ]
    names = ("alone", "moved", "sweep", "mixed")
    alone, moved, sweep, mixed = (
        [Job(settings, home / f"{name}{settings.seed}", {}) for settings in each] for name in names
    )
    single, two = ways[1], among(2)
    for job in alone:
        single.train([job])
    single.train(moved[:1], to_the_end=False)
    ways[4].train(moved[:1])
    two.train(sweep)
    for job in mixed[:2]:
        single.train([job], to_the_end=False)
    two.train(mixed)
    wanted = [numbers(job.workdir) for job in alone]
    result = read_json(sweep[0].workdir / "result.json")
    return {
        "moved": distance(numbers(moved[0].workdir), wanted[0]),
        "sweep": distance([numbers(job.workdir) for job in sweep], wanted),
        "mixed": distance([numbers(job.workdir) for job in mixed], wanted),
        "together": result["trained_together"],
    }


def divided(runs: int) -> list[int]:
    """How many runs each device has, of those that there are and idle ones."""
    placement = Placement.of_runs(runs, None)
    array = placement.put(placement.padded(np.zeros((runs, 3))), of_runs=True)
    return [len(shard.data) for shard in array.addressable_shards]


def collectives() -> list[str]:
    """Whether a device waits for another in a step of five runs."""
    settings, placement = settings_of("sf"), Placement.of_runs(5, None)
    compiled = Compiled(settings, placement)
    dynamic = {key: np.repeat(value, 5) for key, value in dynamic_of(settings).items()}
    dynamic = placement.put(placement.padded(dynamic), of_runs=True)
    state = compiled.init(dynamic, compiled.images)
    indices = np.broadcast_to(np.arange(24).reshape(3, 8), (6, 3, 8))
    moving = np.arange(6) < 5
    arguments = dynamic, compiled.images, state, indices, 0, moving
    text = compiled.run.lower(*arguments).compile().as_text()
    return [word for word in ("all-", "collective-") if word in text]


def refused(**overrides: Any) -> str:
    """The error of a batch that does not divide among four devices."""
    try:
        Placement.of_batch(small.settings("sbn", **BATCH | overrides), 4)
    except UserError as error:
        return str(error)
    return ""


def main(home: Path, names: str) -> None:
    """Prints what the quick tests look at, or of these estimators what the slow ones do."""
    jax.config.update("jax_disable_most_optimizations", True)
    mock.patch.object(RunState, "draw", undrawn).start()
    if names:
        each = {name: settings_of(name) for name in names.split(",")}
        each["learned"] = settings_of(  # a temperature, whose criterion is of the whole batch
            "gumbel_softmax", temperature__name="learned", temperature__update_every=5
        )
        found = {
            "estimators": {
                name: compared(stepped(settings, {count: on(count) for count in (1, 2, 4)}))
                for name, settings in each.items()
            },
            "collectives": collectives(),
        }
    else:
        # One estimator, that has a baseline, moving averages and parameters of its own, serves all:
        # most of the time is the compiler's.
        settings, ways = settings_of("nvil"), {count: on(count) for count in (1, 4)}
        steps = stepped(settings, ways)
        found = {
            "estimators": {"nvil": compared(steps)},
            "local": with_local_statistics(settings, steps[1][0]),
            "resumed": resumed(home, settings, ways),
            "divided": [divided(runs) for runs in (5, 8, 2)],
            "refused": [refused(batch_size=6), refused(batch_size=6, eval_batch_size=7)],
        }
    print(json.dumps(found))


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
