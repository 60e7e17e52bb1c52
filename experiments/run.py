"""One training run in one directory: started, stopped, resumed and finished."""

import contextlib
import fcntl
import sys
import time
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict
from tqdm import tqdm

from experiments import config as configs
from experiments import evaluation, models, plots, records, training
from experiments.checkpoints import Checkpoints
from experiments.data import Dataset, load
from experiments.errors import UserError
from experiments.signals import Stop, graceful_stop
from experiments.training import Program, TrainState, key_for

CONFIG, METRICS, RESULT, PICTURE = "config.json", "metrics.jsonl", "result.json", "picture.png"


class Stopped(Exception):  # noqa: N818 - not an error: the run was asked to stop and did
    """The run saved its state and left, because a signal asked it to."""

    def __init__(self, step: int, num_steps: int, exit_status: int) -> None:
        super().__init__(f"stopped at step {step} of {num_steps}: the same command goes on")
        self.exit_status = exit_status


def train(
    config: ConfigDict,
    workdir: str | Path,
    overrides: Mapping[str, Any] | None = None,
    *,
    progress: bool = True,
) -> dict[str, Any]:
    """Trains to the end and returns what `result.json` holds; a finished run is only read.

    The run goes on from the newest checkpoint in `workdir` if there is one, to the same numbers.

    Args:
      config: see `experiments.config`; validated here.
      workdir: the run's directory; made if absent.
      overrides: what was changed on the command line, for the record.
      progress: show a progress bar (on a terminal) or a line per evaluation.

    Raises:
      UserError: a mistake in the config, the data or the directory; a cost that is not finite.
      Stopped: SIGTERM or Ctrl-C; the state is saved.
    """
    configs.validate(config)
    workdir = Path(workdir)
    with _claimed(workdir, config):
        if (workdir / RESULT).exists():
            return records.read_json(workdir / RESULT)
        loop = _Loop(config, workdir, progress=progress)
        with graceful_stop() as stop:
            state, seconds = loop.run(stop)
            return loop.finish(state, seconds, overrides or {})


def prepared_dataset(config: ConfigDict) -> Dataset:
    """The config's dataset, binarized if the config says so."""
    dataset = load(config.dataset)
    if config.binarization == "threshold":
        dataset = dataset.binarized()
    if len(dataset.train.images) < config.batch_size:
        raise UserError(
            f"config.batch_size={config.batch_size}: {config.dataset} has "
            f"{len(dataset.train.images)} training images; give at most that"
        )
    return dataset


@contextlib.contextmanager
def _claimed(workdir: Path, config: ConfigDict) -> Iterator[None]:
    """Makes the directory this config's and this process's, or says whose it is."""
    try:
        workdir.mkdir(parents=True, exist_ok=True)
        lock = (workdir / ".lock").open("w")
    except OSError as error:
        raise UserError(f"--workdir={workdir} cannot be used ({error.strerror})") from error
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(
                f"--workdir={workdir} is in use by another process: wait for it, or choose another"
            ) from None
        path, flat = workdir / CONFIG, configs.flatten(config)
        if path.exists():
            theirs = records.read_json(path)
            differing = sorted(
                k for k in flat.keys() | theirs.keys() if flat.get(k) != theirs.get(k)
            )
            if differing:
                shown = ", ".join(f"{k}={theirs.get(k)!r}" for k in differing[:4])
                raise UserError(
                    f"--workdir={workdir} belongs to another config ({shown}): "
                    "choose another directory, or delete it"
                )
        else:
            records.write_json(path, flat)
        yield


class _Saved(NamedTuple):
    """What a checkpoint holds."""

    state: TrainState
    seconds: np.ndarray  # spent so far, over all the processes of this run


class _Loop:
    """The host's side of a run: compiled functions, data on the device, the checkpoints."""

    def __init__(self, config: ConfigDict, workdir: Path, *, progress: bool) -> None:
        self.config, self.workdir, self.progress = config, workdir, progress
        self.provenance = records.provenance()  # of the code that runs, not of a later commit
        self.dataset = prepared_dataset(config)
        self.program: Program = training.make_program(config, self.dataset)
        self.hypers = training.hypers_of(config)
        self.images = jnp.asarray(self.dataset.train.images)
        self._run = jax.jit(self.program.run, donate_argnums=2)
        self._indices = jax.jit(
            partial(training.batch_indices, size=len(self.images), batch_size=config.batch_size),
            static_argnames="num_steps",
        )
        self._image_costs = {
            m: jax.jit(evaluation.image_costs(config, self.program, self.dataset, m))
            for m in {config.valid_samples, config.eval_samples}
        }

    def run(self, stop: Stop) -> tuple[TrainState, float]:
        """Steps from the last checkpoint to the end; returns the state and the seconds spent."""
        config, start_time = self.config, time.monotonic()
        with contextlib.ExitStack() as stack:
            checkpoints = stack.enter_context(Checkpoints(self.workdir / "checkpoints"))
            state, before = self._restore(checkpoints)
            step = int(state.step)
            log = stack.enter_context(
                records.MetricsLog(self.workdir, resume_step=step if before else None)
            )
            bar = stack.enter_context(self._bar(step))
            if step == 0:
                self._log(log, bar, state, step, {})

            def save() -> None:
                seconds = before + time.monotonic() - start_time
                checkpoints.save(step, _Saved(state, np.asarray(seconds)))

            while step < config.num_steps:
                num_steps = min(config.log_every, config.num_steps - step)
                began = time.monotonic()
                state, trace = self._advance(state, step, num_steps)
                speed = num_steps / (time.monotonic() - began)
                self._check_finite(state, trace, step)
                step += num_steps
                bar.update(num_steps)
                self._log(log, bar, state, step, _scalars(trace, speed))
                if stop.requested or step % config.checkpoint_every == 0:
                    save()
                if stop.requested and step < config.num_steps:
                    raise Stopped(step, config.num_steps, stop.exit_status)
            if step not in checkpoints.steps():
                save()
        return state, before + time.monotonic() - start_time

    def _restore(self, checkpoints: Checkpoints) -> tuple[TrainState, float]:
        state = jax.jit(self.program.init)(self.hypers, self.images)
        restored = checkpoints.restore(like=_Saved(state, np.zeros(())))
        if restored is None:
            return state, 0.0
        _, saved = restored
        return jax.tree.map(jnp.asarray, saved.state), float(saved.seconds)

    def _advance(
        self, state: TrainState, start: int, num_steps: int
    ) -> tuple[TrainState, training.Trace]:
        """`num_steps` steps, in compiled calls of `steps_per_call`."""
        indices = self._indices(self.hypers["seed"], start, num_steps=num_steps)
        traces = []
        for first in range(0, num_steps, self.config.steps_per_call):
            part = indices[first : first + self.config.steps_per_call]
            state, trace = self._run(self.hypers, self.images, state, part)
            traces.append(trace)
        return state, jax.tree.map(lambda *leaves: np.concatenate(leaves), *traces)

    def _check_finite(self, state: TrainState, trace: training.Trace, start: int) -> None:
        bad = ~np.isfinite(trace.cost)
        if bad.any():
            step = start + int(bad.argmax()) + 1
            what = f"the training cost is {trace.cost[bad][0]} at step {step}"
        elif not all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(state)):
            what = f"a parameter is not finite at step {start + len(trace.cost)}"
        else:
            return
        raise UserError(
            f"{what}: lower config.learning_rate={self.config.learning_rate} or raise the "
            "temperature; the last good checkpoint is kept"
        )

    def _log(
        self,
        log: records.MetricsLog,
        bar: Any,
        state: TrainState,
        step: int,
        scalars: dict[str, float],
    ) -> None:
        if step % self.config.eval_every == 0 or step == self.config.num_steps:
            key = jax.random.fold_in(key_for(self.config.seed, training.VALIDATION), step)
            scalars = scalars | {
                "valid_bound": self._bound(state, "validation", key, self.config.valid_samples)
            }
        log.append(step, **scalars)
        shown = {k: f"{scalars[k]:.2f}" for k in ("train_cost", "valid_bound") if k in scalars}
        bar.set_postfix(shown, refresh=False)
        if self.progress and bar.disable and "valid_bound" in scalars:
            speed = scalars.get("steps_per_second", 0.0)
            numbers = " ".join(f"{k} {v}" for k, v in shown.items())
            print(f"step {step} {numbers} {speed:.0f} steps/s", file=sys.stderr, flush=True)

    def _bound(self, state: TrainState, split: str, key: Any, num_samples: int) -> float:
        images = getattr(self.dataset, split).images
        shown = self.progress and num_samples > 100
        with tqdm(
            total=len(images), desc=f"{split} bound", unit="image", disable=None if shown else True
        ) as bar:
            return evaluation.dataset_bound(
                self._image_costs[num_samples],
                state.params,
                images,
                key,
                batch_size=self.config.eval_batch_size,
                on_batch=bar.update,
            )

    def _bar(self, step: int) -> Any:
        name = f"{self.config.model} {self.config.latent} {self.config.estimator.name}"
        return tqdm(
            total=self.config.num_steps,
            initial=step,
            desc=name,
            unit="step",
            disable=None if self.progress else True,
        )

    def finish(
        self, state: TrainState, seconds: float, overrides: Mapping[str, Any]
    ) -> dict[str, Any]:
        """The m-sample bounds, the picture, and `result.json` last: the mark of a finished run."""
        config, began = self.config, time.monotonic()
        valid_key, test_key = jax.random.split(key_for(config.seed, training.FINAL))
        valid_nll = self._bound(state, "validation", valid_key, config.eval_samples)
        test_nll = self._bound(state, "test", test_key, config.eval_samples)
        self._picture(state)
        result = {
            "test_nll": test_nll,
            "valid_nll": valid_nll,
            "steps": int(state.step),
            "eval_samples": config.eval_samples,
            "seed": config.seed,
            "overrides": dict(overrides),
            "config": configs.flatten(config),
            "train_seconds": seconds,
            "eval_seconds": time.monotonic() - began,
            **self.provenance,
        }
        records.write_json(self.workdir / RESULT, result)
        return records.read_json(self.workdir / RESULT)

    def _picture(self, state: TrainState) -> None:
        model = models.with_params(self.program.model, state.params)
        images = jnp.asarray(self.dataset.test.images[:10])
        key = key_for(self.config.seed, training.PICTURE)
        batch_key, picture_key = jax.random.split(key)
        dynamic = self.config.binarization == "dynamic"
        pixels = training.pixels(images, self.dataset.levels, batch_key, dynamic=dynamic)
        plots.run_picture(
            self.workdir / PICTURE,
            records.read_metrics(self.workdir / METRICS),
            model.pictures(pixels, picture_key),
            title=f"{self.config.model}, {self.config.latent}, {self.config.estimator.name}",
        )


def _scalars(trace: training.Trace, speed: float) -> dict[str, float]:
    """The means of a chunk of steps; the temperature is that of its last step."""
    return {
        "train_cost": float(trace.cost.mean()),
        "temperature": float(trace.temperature[-1]),
        "steps_per_second": speed,
        **{name: float(values.mean()) for name, values in trace.metrics.items()},
    }
