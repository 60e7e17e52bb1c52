"""The host's side of training: runs that share a program, stepped, logged and saved together.

A single run is a batch of one.
"""

import contextlib
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Key
from tqdm import tqdm

from experiments import config as configs
from experiments import evaluation, records, training
from experiments.compiled import Compiled
from experiments.errors import UserError
from experiments.members import Job, Member
from experiments.signals import Stop
from experiments.training import Trace, TrainState, key_for

# Saving many runs takes seconds: several together are saved no oftener than leaves this many
# times as long for training.
_SAVE_SHARE = 20


class Stopped(Exception):  # noqa: N818 - not an error: the run was asked to stop and did
    """The run saved its state and left, because a signal asked it to."""

    def __init__(self, step: int, num_steps: int, exit_status: int) -> None:
        super().__init__(f"stopped at step {step} of {num_steps}: the same command goes on")
        self.exit_status = exit_status


class Loop:
    """Trains jobs that share a program, each in its own directory.

    Args:
      jobs: not empty; their configs differ in traced numbers alone.
      compiled: their program.
      progress: show a progress bar (on a terminal) or a line per evaluation, for a single job.
    """

    def __init__(self, jobs: Sequence[Job], compiled: Compiled, *, progress: bool) -> None:
        self.members = [Member(job, row) for row, job in enumerate(jobs)]
        self.compiled, self.config = compiled, jobs[0].config
        self.progress = progress and len(jobs) == 1
        self.provenance = records.provenance()  # of the code that runs, not of a later commit
        each = [training.hypers_of(job.config) for job in jobs]
        self.hypers = {key: jnp.stack([hypers[key] for hypers in each]) for key in each[0]}
        self.began = self._saved_at = time.monotonic()
        self._save_took = 0.0

    def train(self, stop: Stop) -> dict[Path, dict[str, Any] | UserError]:
        """Steps from the last checkpoints to the end; each job's result, or why it has none.

        Raises:
          Stopped: `stop` was requested; the states are saved.
        """
        config = self.config
        with contextlib.ExitStack() as stack:
            state = self._open(stack)
            bar = stack.enter_context(self._bar())
            self._log([m for m in self._alive() if m.step == 0], state, {}, bar)
            while behind := self._behind():
                num_steps = min(config.log_every, config.num_steps - behind[0].step)
                began = time.monotonic()
                state, trace = self._advance(state, behind, num_steps)
                speed = num_steps / (time.monotonic() - began)
                moved = self._take_in(behind, state, trace)
                bar.update(num_steps)
                scalars = {m.row: _scalars(_row(trace, m.row), speed) for m in moved}
                self._log(moved, state, scalars, bar)
                if stop.requested or self._save_is_due(moved):
                    self._save(moved, state)
                if stop.requested and (left := self._behind()):
                    raise Stopped(left[0].step, config.num_steps, stop.exit_status)
            self._save([m for m in self._alive() if m.step not in m.checkpoints.steps()], state)
        return self._finish(state, stop)

    def _open(self, stack: contextlib.ExitStack) -> TrainState:
        fresh = self.compiled.init(self.hypers, self.compiled.images)
        rows = [member.open(stack, _row(fresh, member.row)) for member in self.members]
        return jax.tree.map(lambda *leaves: jnp.stack(leaves), *rows)

    def _alive(self) -> list[Member]:
        return [member for member in self.members if member.error is None]

    def _behind(self) -> list[Member]:
        """The runs that take the next steps: those not done that are at the lowest step.

        They are all runs, unless a kill in the middle of saving left some further than others.
        """
        going = [member for member in self._alive() if member.step < self.config.num_steps]
        lowest = min((member.step for member in going), default=0)
        return [member for member in going if member.step == lowest]

    def _advance(
        self, state: TrainState, behind: Sequence[Member], num_steps: int
    ) -> tuple[TrainState, Trace]:
        """`num_steps` steps of the runs that are behind, in compiled calls of `steps_per_call`."""
        compiled, per_call = self.compiled, self.config.steps_per_call
        moving = np.isin(np.arange(len(self.members)), [member.row for member in behind])
        # On the host: a slice of a device's array is compiled anew for each place.
        indices = np.asarray(
            compiled.indices(self.hypers["seed"], behind[0].step, num_steps=num_steps)
        )
        traces = []
        for first in range(0, num_steps, per_call):
            part = indices[:, first : first + per_call]
            state, trace = compiled.run(self.hypers, compiled.images, state, part, moving)
            traces.append(trace)
        return state, jax.tree.map(lambda *leaves: np.concatenate(leaves, axis=1), *traces)

    def _take_in(self, behind: Sequence[Member], state: TrainState, trace: Trace) -> list[Member]:
        """Moves the runs on by the steps in the trace; returns those that are well."""
        finite = np.asarray(self.compiled.finite(state))
        for member in behind:
            member.check(_row(trace, member.row), finite=bool(finite[member.row]))
        moved = [member for member in behind if member.error is None]
        for member in moved:
            member.step += trace.cost.shape[1]
        return moved

    def _save_is_due(self, moved: Sequence[Member]) -> bool:
        if not moved or moved[0].step % self.config.checkpoint_every:
            return False
        since = time.monotonic() - self._saved_at
        return len(self.members) == 1 or since >= _SAVE_SHARE * self._save_took

    def _save(self, members: Sequence[Member], state: TrainState) -> None:
        began = time.monotonic()
        on_host = jax.device_get(state)
        for member in members:
            member.save(_row(on_host, member.row), began - self.began)
        self._saved_at = time.monotonic()
        self._save_took = self._saved_at - began

    def _log(
        self,
        members: Sequence[Member],
        state: TrainState,
        scalars: Mapping[int, dict[str, float]],
        bar: Any,
    ) -> None:
        """Appends to the runs' logs, with the validation bound where it is due."""
        if not members:
            return
        config, step, bounds = self.config, members[0].step, {}
        if step % config.eval_every == 0 or step == config.num_steps:
            keys = [
                jax.random.fold_in(key_for(m.job.config.seed, training.VALIDATION), step)
                for m in self.members
            ]
            bounds = {
                "valid_bound": self._bounds(state, "validation", keys, self.config.valid_samples)
            }
            if self.compiled.class_logits:
                confusions = self._confusions(state, "validation", keys)
                bounds["valid_accuracy"] = [evaluation.accuracy(c) for c in confusions]
        for member in members:
            row = {key: values[member.row] for key, values in bounds.items()}
            row = scalars.get(member.row, {}) | row
            member.log.append(step, **row)
            self._show(bar, step, row)

    def _show(self, bar: Any, step: int, row: Mapping[str, float]) -> None:
        names = ("train_cost", "valid_bound", "valid_accuracy")
        shown = {k: f"{row[k]:.2f}" for k in names if k in row}
        bar.set_postfix(shown, refresh=False)
        if self.progress and bar.disable and "valid_bound" in row:
            speed = row.get("steps_per_second", 0.0)
            numbers = " ".join(f"{k} {v}" for k, v in shown.items())
            print(f"step {step} {numbers} {speed:.0f} steps/s", file=sys.stderr, flush=True)

    def _bounds(
        self,
        state: TrainState,
        split: str,
        keys: Sequence[Key[Array, ""]],
        num_samples: int,
        on_batch: Callable[[], object] = lambda: None,
    ) -> list[float]:
        """The bound of each run, in nats."""
        images = getattr(self.compiled.dataset, split).images
        shown = self.progress and num_samples > 100
        with tqdm(
            total=len(images), desc=f"{split} bound", unit="image", disable=None if shown else True
        ) as bar:

            def count(images: int) -> None:
                bar.update(images)
                on_batch()

            return evaluation.dataset_bounds(
                self.compiled.image_costs[num_samples],
                state.params,
                images,
                jnp.stack(keys),
                batch_size=self.config.eval_batch_size,
                on_batch=count,
            )

    def _confusions(
        self, state: TrainState, split: str, keys: Sequence[Key[Array, ""]]
    ) -> list[np.ndarray]:
        """The confusion of each run between classes, for models that classify."""
        assert self.compiled.class_logits
        return evaluation.confusions(
            self.compiled.class_logits,
            state.params,
            getattr(self.compiled.dataset, split),
            jnp.stack(keys),
            batch_size=self.config.eval_batch_size,
        )

    def _bar(self) -> Any:
        config = self.config
        return tqdm(
            total=config.num_steps,
            initial=self.members[0].step,
            desc=f"{config.model} {config.latent} {config.estimator.name}",
            unit="step",
            disable=None if self.progress else True,
        )

    def _finish(self, state: TrainState, stop: Stop) -> dict[Path, dict[str, Any] | UserError]:
        """The m-sample bounds, the pictures, and the results last: the marks of finished runs."""
        results: dict[Path, dict[str, Any] | UserError] = {
            m.job.workdir: m.error for m in self.members if m.error
        }
        if not self._alive():
            return results
        config = self.config
        num_steps, seconds = config.num_steps, time.monotonic() - self.began
        began = time.monotonic()

        def leave_if_asked() -> None:  # the bounds may take minutes; the last state is saved
            if stop.requested:
                raise Stopped(num_steps, num_steps, stop.exit_status)

        pairs = [jax.random.split(key_for(m.job.config.seed, training.FINAL)) for m in self.members]
        valid_nll, test_nll = (
            self._bounds(
                state,
                split,
                [pair[index] for pair in pairs],
                num_samples,
                leave_if_asked,
            )
            for index, (split, num_samples) in enumerate(configs.final_samples(config).items())
        )
        numbers: list[dict[str, Any]] = [
            {"test_nll": test, "valid_nll": valid}
            for test, valid in zip(test_nll, valid_nll, strict=True)
        ]
        if self.compiled.class_logits:
            for split, short, index in (("validation", "valid", 0), ("test", "test", 1)):
                found = self._confusions(state, split, [pair[index] for pair in pairs])
                for row, confusion in enumerate(found):
                    numbers[row][f"{short}_accuracy"] = evaluation.accuracy(confusion)
                    numbers[row][f"{short}_confusion"] = confusion
        for member in self._alive():
            member.draw(self.compiled, _row(state, member.row))
        shared = {
            "eval_seconds": time.monotonic() - began,
            "trained_together": len(self.members),  # the seconds are those of all these runs
            **self.provenance,
        }
        for member in self._alive():
            results[member.job.workdir] = member.finish(numbers[member.row] | shared, seconds)
        return results


def _row(tree: Any, row: int) -> Any:
    """The part of one run, of arrays with a leading axis of runs."""
    return jax.tree.map(lambda leaf: leaf[row], tree)


def _scalars(trace: Trace, speed: float) -> dict[str, float]:
    """The means of a chunk of steps; the temperature is that of its last step."""
    return {
        "train_cost": float(trace.cost.mean()),
        "temperature": float(trace.temperature[-1]),
        "steps_per_second": speed,
        **{name: float(values.mean()) for name, values in trace.metrics.items()},
    }
