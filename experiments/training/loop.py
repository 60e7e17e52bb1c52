"""The host's side of training: runs that share a program, stepped, logged and saved together.

A single run is a batch of one.
"""

import contextlib
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from tqdm import tqdm

from experiments.data.batches import Purpose, key_for
from experiments.errors import Stopped
from experiments.training import hosts, provenance
from experiments.training.compiled import Compiled
from experiments.training.dynamic import dynamic_of
from experiments.training.program import Trace, TrainState
from experiments.training.run_state import RunState, means_of, of_one_run
from experiments.training.scoring import Scorer, scalars
from experiments.training.signals import Stop
from gumbel.types import PRNGKey

# Saving many runs takes seconds: checkpointing takes at most 1/20 of training time.
_SAVE_SHARE = 20

Results = dict[Path, dict[str, Any] | Exception]


class Loop:
    """Trains runs that share a program, each in its own directory.

    Args:
      runs: not empty; their settings differ in dynamic hyperparameters alone.
      compiled: their program.
      progress: show a progress bar (on a terminal) or a line per evaluation, for a single run.
    """

    def __init__(self, runs: Sequence[RunState], compiled: Compiled, *, progress: bool) -> None:
        self.runs, self.compiled, self.settings = runs, compiled, runs[0].job.settings
        self.progress = progress and len(runs) == 1 and hosts.is_first()
        self.scorer = Scorer(compiled, progress=self.progress)
        self.provenance = provenance.provenance()
        placement, each = compiled.placement, [dynamic_of(run.job.settings) for run in runs]
        dynamic = {key: np.stack([values[key] for values in each]) for key in each[0]}
        self.dynamic = placement.put(placement.padded(dynamic), of_runs=True)
        self.began = self._saved_at = time.monotonic()
        self._save_took = 0.0

    def train(self, stop: Stop) -> Results:
        """Steps from the last checkpoints to the end; each job's result, or why it has none.

        Raises:
          Stopped: `stop` was requested; the states are saved.
        """
        with contextlib.ExitStack() as stack:
            state = self._open(stack)
            with self._bar() as bar:
                state = self._step_to_the_end(state, stop, bar)
            return self._finish(state, stop)

    def _step_to_the_end(self, state: TrainState, stop: Stop, bar: "tqdm[Any]") -> TrainState:
        settings = self.settings
        self._log([run for run in self._alive() if run.step == 0], state, {}, bar)
        while behind := self._behind():
            num_steps = min(settings.log_every, settings.num_steps - behind[0].step)
            began = time.monotonic()
            state, trace = self.advance(state, behind, num_steps)
            speed = num_steps / (time.monotonic() - began)
            moved = self._take_in(behind, state, trace)
            bar.update(num_steps)
            traced = {run.row: means_of(_row(trace, run.row), speed) for run in moved}
            self._log(moved, state, traced, bar)
            stopping = hosts.agreed(stop)
            if stopping or self._save_is_due(moved):
                self._save(moved, state)
            if stopping and (left := self._behind()):
                raise self._stopped(left[0].step, stop)
        self._save([run for run in self._alive() if run.step not in run.saved_steps()], state)
        return state

    def _stopped(self, step: int, stop: Stop) -> Stopped:
        return Stopped(step, self.settings.num_steps, stop.exit_status, self._failed())

    def _failed(self) -> dict[Path, Exception]:
        return {run.job.workdir: run.error for run in self.runs if run.error}

    def _open(self, stack: contextlib.ExitStack) -> TrainState:
        placement = self.compiled.placement
        fresh = jax.device_get(self.compiled.init(self.dynamic, self.compiled.images))
        rows = [run.open(stack, _row(fresh, run.row), self.provenance) for run in self.runs]
        state = jax.tree.map(lambda *leaves: np.stack(leaves), *rows)
        return placement.put(placement.padded(state), of_runs=True)

    def _alive(self) -> list[RunState]:
        return [run for run in self.runs if run.error is None]

    def _behind(self) -> list[RunState]:
        """The runs that take the next steps: those not done that are at the lowest step.

        These are all runs, unless a kill while saving left some further than others.
        """
        going = [run for run in self._alive() if run.step < self.settings.num_steps]
        lowest = min((run.step for run in going), default=0)
        return [run for run in going if run.step == lowest]

    def advance(
        self, state: TrainState, behind: Sequence[RunState], num_steps: int
    ) -> tuple[TrainState, Trace]:
        """`num_steps` steps of the runs that are behind, in compiled calls of `steps_per_call`."""
        compiled, per_call = self.compiled, self.settings.steps_per_call
        moving = np.isin(np.arange(compiled.placement.rows), [run.row for run in behind])
        # On the host: slicing an array on the device compiles anew for each position.
        indices = np.asarray(
            compiled.indices(self.dynamic["seed"], behind[0].step, num_steps=num_steps)
        )
        traces = []
        for start in range(0, num_steps, per_call):
            part, first = indices[:, start : start + per_call], behind[0].step + start
            state, trace = compiled.run(self.dynamic, compiled.images, state, part, first, moving)
            traces.append(trace)
        return state, jax.tree.map(lambda *leaves: np.concatenate(leaves, axis=1), *traces)

    def _take_in(
        self, behind: Sequence[RunState], state: TrainState, trace: Trace
    ) -> list[RunState]:
        """Advances the runs by the steps in the trace; returns those without an error."""
        finite = np.asarray(self.compiled.finite(state))
        for run in behind:
            run.check(_row(trace, run.row), finite=bool(finite[run.row]))
        moved = [run for run in behind if run.error is None]
        for run in moved:
            run.step += trace.cost.shape[1]
        return moved

    def _save_is_due(self, moved: Sequence[RunState]) -> bool:
        if not moved or moved[0].step % self.settings.checkpoint_every:
            return False
        since = time.monotonic() - self._saved_at
        return len(self.runs) == 1 or since >= _SAVE_SHARE * self._save_took

    def _save(self, runs: Sequence[RunState], state: TrainState) -> None:
        began = time.monotonic()
        on_host = jax.device_get(state)
        for run in runs:
            if run.error is None:
                with of_one_run(run.fail):
                    run.save(_row(on_host, run.row), began - self.began)
        self._saved_at = time.monotonic()
        self._save_took = self._saved_at - began

    def _log(
        self,
        runs: Sequence[RunState],
        state: TrainState,
        traced: Mapping[int, dict[str, float]],
        bar: "tqdm[Any]",
    ) -> None:
        """Appends to the runs' logs, with the validation bound where it is due."""
        if not runs:
            return
        step = runs[0].step
        scores: list[dict[str, float]] = [{} for _ in range(self.compiled.placement.rows)]
        if step % self.settings.eval_every == 0 or step == self.settings.num_steps:
            keys = [jax.random.fold_in(key, step) for key in self._keys(Purpose.VALIDATION)]
            params, number = state.params, self.settings.monitor_num_samples
            bounds = self.scorer.bounds(params, "validation", keys, number)
            metrics = self.scorer.metrics(params, "validation", keys)
            scores = [
                {"validation_bound": bound} | scalars(found)
                for bound, found in zip(bounds, metrics, strict=True)
            ]
        for run in runs:
            line = traced.get(run.row, {}) | scores[run.row]
            with of_one_run(run.fail):
                run.note(line)
                self._show(bar, step, line)

    def _keys(self, purpose: Purpose) -> list[PRNGKey]:
        """The key of each run for a purpose, and of the idle rows beyond them."""
        seeds = [run.job.settings.seed for run in self.runs]
        idle = self.compiled.placement.rows - len(seeds)
        return [key_for(seed, purpose) for seed in seeds + seeds[-1:] * idle]

    def _show(self, bar: "tqdm[Any]", step: int, line: Mapping[str, float]) -> None:
        shown = {
            name: f"{value:.2f}"
            for name, value in line.items()
            if name == "train_cost" or name.startswith("validation_")
        }
        bar.set_postfix(shown, refresh=False)
        if self.progress and bar.disable and "validation_bound" in line:
            speed = line.get("steps_per_second", 0.0)
            numbers = " ".join(f"{name} {value}" for name, value in shown.items())
            print(f"step {step} {numbers} {speed:.0f} steps/s", file=sys.stderr, flush=True)

    def _bar(self) -> "tqdm[Any]":
        settings = self.settings
        return tqdm(
            total=settings.num_steps,
            initial=self.runs[0].step,
            desc=f"{settings.task} {settings.latent} {settings.estimator.name}",
            unit="step",
            disable=None if self.progress else True,
        )

    def _finish(self, state: TrainState, stop: Stop) -> Results:
        """The final bounds, the pictures, and the results last: the marks of finished runs."""
        if not self._alive():
            return dict(self._failed())
        seconds, began = time.monotonic() - self.began, time.monotonic()
        numbers = self._final_scores(state, stop)
        on_host = jax.device_get(state)
        for run in self._alive():
            with of_one_run(run.fail):
                run.draw(self.compiled, _row(on_host, run.row))
        shared = {
            "eval_seconds": time.monotonic() - began,
            "trained_together": len(self.runs),  # the seconds are those of all these runs
            **self.provenance,
        }
        results: Results = {}
        for run in self._alive():
            with of_one_run(run.fail):
                results[run.job.workdir] = run.finish(numbers[run.row] | shared, seconds)
        return results | self._failed()

    def _final_scores(self, state: TrainState, stop: Stop) -> list[dict[str, Any]]:
        """Of each run, the bounds and metrics of the validation and the test images."""
        num_steps = self.settings.num_steps

        def leave_if_asked() -> None:  # the last state is saved; a deadline lets the bounds finish
            if hosts.agreed(stop) and stop.signum is not None:
                raise self._stopped(num_steps, stop)

        keys = list(zip(*map(jax.random.split, self._keys(Purpose.FINAL)), strict=True))
        numbers: list[dict[str, Any]] = [{} for _ in keys[0]]
        splits = self.settings.final_num_samples.items()
        for of_split, (split, number) in zip(keys, splits, strict=True):
            bounds = self.scorer.bounds(state.params, split, of_split, number, leave_if_asked)
            metrics = self.scorer.metrics(state.params, split, of_split)
            for row, bound, found in zip(numbers, bounds, metrics, strict=True):
                row.update({f"{split}_bound": bound}, **found)
        return numbers


def _row(tree: Any, row: int) -> Any:
    """The part of one run, of arrays with a leading axis of runs."""
    return jax.tree.map(lambda leaf: leaf[row], tree)
