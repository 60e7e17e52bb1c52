"""What `test_devices` holds against one device, computed in one process that has four of them.

Prints JSON: for each case how far the numbers are from those of one device.
"""

import contextlib
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np

from experiments.errors import UserError
from experiments.settings import Settings
from experiments.training import records, run
from experiments.training.compiled import Compiled
from experiments.training.loop import Stopped
from experiments.training.placement import Placement
from experiments.training.program import dynamic_of
from experiments.training.run_state import Job, RunState
from experiments.training.signals import Stop
from gumbel import estimators
from gumbel.estimators.signal import Normalizer, SignalState
from tests.experiments import small

BATCH = {"batch_size": 8, "eval_batch_size": 300, "learning_rate": 0.1}
BATCH |= {"num_steps": 40, "test_num_samples": 2}


def settings_of(estimator: str, **overrides: Any) -> Settings:
    """A small model that the estimator serves."""
    latent = estimators.spec(estimator).families[0]
    chosen: dict[str, Any] = {"layers": (4,), "latent": latent, "estimator__name": estimator}
    return small.settings("sbn", **BATCH | chosen | overrides)


def stepped(settings: Settings, count: int) -> tuple[Any, float]:
    """All that three steps on so many devices leave, and the operations of one device."""
    compiled = Compiled(settings, Placement.of_batch(settings, count))
    dynamic = {key: np.asarray(value)[None] for key, value in dynamic_of(settings).items()}
    dynamic = compiled.placement.put(dynamic, of_runs=True)
    state = compiled.init(dynamic, compiled.images)
    indices = np.asarray(compiled.indices(dynamic["seed"], 0, num_steps=3))
    arguments = dynamic, compiled.images, state, indices, np.ones(1, bool)
    program = compiled.run.lower(*arguments).compile()
    left = program(*arguments)
    assert all(leaf.is_fully_replicated for leaf in jax.tree.leaves(left))
    return jax.device_get(left), float(program.cost_analysis()["flops"])


def distance(ours: Any, theirs: Any) -> float:
    """The largest difference of two trees of numbers, of 1 + the size of the number."""
    pairs = zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True)
    return max(
        float(np.max(np.abs(np.asarray(a) - b) / (1 + np.abs(b)), initial=0.0)) for a, b in pairs
    )


def by_estimator(counts: tuple[int, ...], names: tuple[str, ...]) -> dict[str, Any]:
    """For each estimator the distances by number of devices, and the share of the work of each."""
    found = {}
    for name in names:
        settings = settings_of(name)
        alone, work = stepped(settings, 1)
        each = {count: stepped(settings, count) for count in counts}
        found[name] = {
            "distance": {count: distance(left, alone) for count, (left, _) in each.items()},
            "share": {count: part / work for count, (_, part) in each.items()},
        }
    return found


def with_local_statistics() -> float:
    """The distance that a moving average of one device's part of the batch would make."""
    settings = settings_of("sf")
    alone, _ = stepped(settings, 1)

    def of_part(_: Normalizer, signal: jax.Array) -> SignalState:
        part = jax.lax.stop_gradient(signal[: len(signal) // 4])
        return SignalState(jnp.mean(part), jnp.var(part))

    with mock.patch.object(Normalizer, "init", of_part):
        return distance(stepped(settings, 1)[0], alone)


def numbers(workdir: Path) -> Any:
    """The bounds and the costs that a run recorded."""
    result = records.read_json(workdir / "result.json")
    rows = records.read_metrics(workdir / "metrics.jsonl")
    kept = [{key: row[key] for key in row if key != "steps_per_second"} for row in rows]
    return [result["test_bound"], result["validation_bound"], kept]


def undrawn(*_: object) -> None:
    """In place of `RunState.draw`: the pictures are not looked at, and take long."""


def in_turns(jobs: list[Job], places: list[Callable[..., Placement]]) -> None:
    """Trains jobs on each of the placements in turn, twenty steps at a time."""
    for turn, place in enumerate(places):
        last = turn == len(places) - 1
        try:
            run.train_together(jobs, stop=Stop(None if last else 15), place=place)
        except Stopped:
            assert not last


def on(count: int) -> Callable[..., Placement]:
    """A run's batch divided among so many devices."""
    return lambda settings, _: Placement.of_batch(settings, count)


def among(count: int) -> Callable[..., Placement]:
    """Runs divided among so many devices."""
    return lambda _, runs: Placement.of_runs(runs, count)


def resumed(home: Path) -> float:
    """A run that goes from one device to four."""
    settings = settings_of("nvil")
    alone, moved = (Job(settings, home / name, {}) for name in ("alone", "moved"))
    in_turns([alone], [on(1)])
    in_turns([moved], [on(1), on(4)])
    return distance(numbers(moved.workdir), numbers(alone.workdir))


def sweep(home: Path) -> dict[str, Any]:
    """Five runs on four devices: two each on three of them; then from any mixture."""
    each = [settings_of("muprop", seed=seed, learning_rate=0.02 * (seed + 1)) for seed in range(5)]
    names = ("one", "four", "mixed")
    one, four, mixed = ([Job(s, home / f"{n}{s.seed}", {}) for s in each] for n in names)
    in_turns(one, [among(1)])
    in_turns(four, [among(4)])
    in_turns(mixed[:1], [among(1)])  # one is done,
    with contextlib.suppress(Stopped):  # and two are at step 20, when all are asked for
        run.train_together(mixed[1:3], stop=Stop(15), place=among(2))
    in_turns(mixed, [among(4)])
    wanted = [numbers(job.workdir) for job in one]
    together = records.read_json(four[0].workdir / "result.json")["trained_together"]
    return {
        "distance": distance([numbers(job.workdir) for job in four], wanted),
        "mixed": distance([numbers(job.workdir) for job in mixed], wanted),
        "together": together,
    }


def shares(runs: int) -> dict[str, Any]:
    """Which devices have which runs, and whether any waits for another."""
    settings = settings_of("sf")
    placement = Placement.of_runs(runs, None)
    compiled = Compiled(settings, placement)
    dynamic = {key: np.repeat(value, runs) for key, value in dynamic_of(settings).items()}
    dynamic = placement.put(placement.padded(dynamic), of_runs=True)
    state = compiled.init(dynamic, compiled.images)
    indices = np.asarray(compiled.indices(dynamic["seed"], 0, num_steps=3))
    moving = np.arange(placement.rows) < runs
    text = compiled.run.lower(dynamic, compiled.images, state, indices, moving).compile().as_text()
    return {
        "rows": [len(shard.data) for shard in state.step.addressable_shards],
        "collectives": [word for word in ("all-", "collective-") if word in text],
    }


def refused(**overrides: Any) -> str:
    """The error of a batch that does not divide among four devices."""
    try:
        Placement.of_batch(small.settings("sbn", **BATCH | overrides), 4)
    except UserError as error:
        return str(error)
    return ""


def main(home: Path, counts: str, names: str) -> None:
    """Prints all of it."""
    jax.config.update("jax_disable_most_optimizations", True)
    mock.patch.object(RunState, "draw", undrawn).start()
    chosen = tuple(names.split(",")) if names else estimators.names()
    print(
        json.dumps(
            {
                "estimators": by_estimator(tuple(map(int, counts.split(","))), chosen),
                "local": with_local_statistics(),
                "resumed": resumed(home),
                "sweep": sweep(home),
                "shares": shares(5),
                "refused": [refused(batch_size=6), refused(batch_size=6, eval_batch_size=7)],
            }
        )
    )


if __name__ == "__main__":
    main(Path(sys.argv[1]), *sys.argv[2:])
