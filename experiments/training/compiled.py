"""What runs of one program share: the data on the device, and the compiled functions."""

import hashlib
import traceback
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Int

import gumbel
from experiments import tasks
from experiments.data import Dataset, load
from experiments.data.batches import Indices, RawImages
from experiments.errors import one_line, refuse
from experiments.settings import Settings
from experiments.tasks import contract
from experiments.tasks.base import Dynamic
from experiments.tasks.functional import params_of
from experiments.training import evaluation, hosts, memory
from experiments.training.dynamic import dynamic_of
from experiments.training.memory import Need
from experiments.training.placement import ALONE, Placement
from experiments.training.program import Program, Trace, TrainState
from gumbel.types import Params, PRNGKey


def prepared_dataset(settings: Settings) -> Dataset:
    """The dataset, binarized and otherwise prepared as the settings say.

    Raises:
      UserError: the dataset is unavailable, or does not suit the settings.
    """
    dataset = load(settings.dataset)
    if not settings.dynamic_binarization:
        dataset = dataset.binarized()
    dataset = tasks.load(settings.task).prepare(settings, dataset)
    if len(dataset.train) < settings.batch_size:
        fix = f"{dataset.name} has {len(dataset.train)} training images; give at most that"
        refuse("batch_size", settings.batch_size, fix)
    return dataset


def _common_dataset(settings: Settings) -> Dataset:
    """The dataset, checked to be the same in all processes of a run; the first may download it.

    Raises:
      UserError: as `prepared_dataset`, or the processes have other data.
    """
    if not hosts.several():
        return prepared_dataset(settings)
    hosts.by_first(lambda: len(prepared_dataset(settings).train))
    dataset = hosts.by_each(lambda: prepared_dataset(settings))
    found = hashlib.sha256(repr(sorted(settings.flat().items())).encode())
    for split in (dataset.train, dataset.validation, dataset.test):
        found.update(split.images.tobytes())
        found.update(b"" if split.labels is None else split.labels.tobytes())
    hosts.refuse_differing("the config or the dataset", found.digest())
    return dataset


def _is_of_the_library(error: Exception) -> bool:
    """Whether `gumbel` raised an error, and not what it called."""
    *_, last = traceback.extract_tb(error.__traceback__)
    return Path(last.filename).is_relative_to(Path(gumbel.__file__).parent)


class Compiled:
    """A program compiled for any number of runs, with the images on the device.

    The functions take and return states, dynamic hyperparameters, seeds and keys with a leading
    axis of runs, of length `placement.rows`.

    Args:
      settings: settings of any of the runs.
      placement: placement of their arrays on devices.

    Raises:
      UserError: the estimator does not support the model's variables.
    """

    def __init__(self, settings: Settings, placement: Placement = ALONE) -> None:
        self.settings, self.placement = settings, placement
        self.dataset = _common_dataset(settings)
        self._fits = False
        memory.check(_parameters(settings, self.dataset), settings)
        self.program = program = Program.make(settings, self.dataset, placement.spread)
        annealed = program.task.annealed(settings, dynamic_of(settings), 0)
        contract.check_model(settings.task, program.model, annealed)
        self.images = placement.put(self.dataset.train.images, of_runs=False)
        jit, over_runs = placement.jit, self._over_runs
        self.init = jit(over_runs(program.init, (0, None)))
        self._check_estimator()
        self.run = jit(_moving(over_runs(program.run, (0, None, 0, 0, None))), donate_argnums=2)
        self._indices: dict[int, Any] = {}
        self.image_costs = {
            m: jit(over_runs(evaluation.image_costs(program, m), (0, None, 0)))
            for m in {settings.monitor_num_samples, *settings.final_num_samples.values()}
        }
        self.metrics, self.outputs = program.task.metrics, None
        if self.metrics is not None:
            outputs = evaluation.image_outputs(program, self.metrics)
            self.outputs = jit(over_runs(outputs, (0, None, 0)))
        self.pictures = jax.jit(evaluation.pictures(program))
        self._trace_pictures()
        self.finite = jit(_finite)

    def indices(self, seeds: Any, start: Any, *, num_steps: int) -> Array:
        """The images that the next steps of each run read, `[runs, steps, batch]`."""
        if num_steps not in self._indices:
            function = partial(self.program.indices, num_steps=num_steps)
            self._indices[num_steps] = self.placement.jit(self._over_runs(function, (0, None)))
        return self._indices[num_steps](seeds, start)

    def _over_runs(self, function: Callable[..., Any], in_axes: tuple[int | None, ...]) -> Any:
        return self.placement.split(_mapped(function, in_axes), in_axes)

    def _dynamic(self) -> dict[str, Array]:
        rows = self.placement.rows
        return {key: jnp.broadcast_to(v, rows) for key, v in dynamic_of(self.settings).items()}

    def _check_estimator(self) -> None:
        try:
            # Traced here, it need not be again.
            jax.eval_shape(self.init, self._dynamic(), self.images)
        except ValueError as error:
            if not _is_of_the_library(error):
                raise
            refuse("estimator.name", self.settings.estimator.name, one_line(error))

    def _trace_pictures(self) -> None:
        """Traces the pictures, so that a mistake of a task's ends a run before it trains."""
        state = jax.eval_shape(self.init, self._dynamic(), self.images)
        params = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape[1:], a.dtype), state.params)
        shown = jnp.zeros((1, *self.images.shape[1:]))
        jax.eval_shape(self.pictures, params, shown, jax.random.key(0))

    def check_memory(self) -> None:
        """Checks, before the first step, that the devices can hold the run.

        Raises:
          OutOfMemoryError: it says how much memory is needed, and which key to lower.
        """
        if not self._fits:
            memory.check(self.needs(), self.settings, self.placement.devices)
            self._fits = True

    def shapes_of_run(self) -> tuple[Any, Any, TrainState, Any, int, np.ndarray]:
        """The arguments of a call of `run` as the loop passes them; of arrays, their shapes."""
        settings = self.settings
        dynamic = jax.eval_shape(self._dynamic)
        state = jax.eval_shape(self.init, dynamic, self.images)
        per_call = min(settings.steps_per_call, settings.log_every, settings.num_steps)
        indices = jax.eval_shape(
            partial(self.indices, num_steps=per_call), dynamic["seed"], jnp.zeros((), jnp.int32)
        )
        return dynamic, self.images, state, indices, 0, np.ones(self.placement.rows, bool)

    def needs(self) -> Iterator[Need]:
        """The memory that the parts of a run need, on all devices together."""
        settings = self.settings
        runs = self.placement.rows
        num_steps = min(settings.log_every, settings.num_steps)
        # A permutation of the images for each epoch that the steps touch, and their indices.
        epochs = num_steps // (len(self.images) // settings.batch_size) + 2
        numbers = runs * (epochs * len(self.images) + num_steps * settings.batch_size)
        yield Need("the order of the images", 4 * numbers, frozenset({"log_every"}))
        arguments = self.shapes_of_run()
        traced = self.run.trace(*arguments)
        yield Need("a step", memory.size_of_call(traced))
        if settings.estimator.spec.enumerates:  # a compiler may do with less, or need more
            analysis: Any = traced.lower().compile().memory_analysis()
            size = analysis.temp_size_in_bytes + analysis.argument_size_in_bytes
            yield Need("a step", size * self.placement.devices)
        keys = jax.eval_shape(lambda: jax.random.split(jax.random.key(0), runs))
        shape = (settings.eval_batch_size, *self.images.shape[1:])
        batch = jax.ShapeDtypeStruct(shape, self.images.dtype)
        for costs in self.image_costs.values():
            size = memory.size_of_call(costs.trace(arguments[2].params, batch, keys))
            yield Need("a batch of evaluation", size, frozenset({"eval_batch_size"}))


def _parameters(settings: Settings, dataset: Dataset) -> Iterator[Need]:
    """The memory of the parameters, estimated without making them."""
    mean = jnp.asarray(dataset.train_mean())

    def parameters(key: PRNGKey) -> Params:
        return params_of(tasks.load(settings.task).build(settings, mean, key))

    size = memory.size_of(jax.eval_shape(parameters, jax.random.key(0)))
    # Those of the model and of the state, and a gradient.
    yield Need("the model with its gradient", 3 * size)


def _mapped(function: Callable[..., Any], in_axes: tuple[int | None, ...]) -> Any:
    """The function over a leading axis of runs: by vmap, or as it is for a single run.

    So the numbers of a single run are those of the plain function, bit for bit.
    """

    def call(*arguments: Any, **static: Any) -> Any:
        each = partial(function, **static)
        mapped = next(a for a, axis in zip(arguments, in_axes, strict=True) if axis == 0)
        if len(jax.tree.leaves(mapped)[0]) > 1:
            return jax.vmap(each, in_axes)(*arguments)
        alone = [
            a if axis is None else jax.tree.map(lambda leaf: leaf[0], a)
            for a, axis in zip(arguments, in_axes, strict=True)
        ]
        return jax.tree.map(lambda leaf: leaf[None], each(*alone))

    return call


def _moving(run: Callable[..., tuple[TrainState, Trace]]) -> Any:
    """`run`, with arguments for the first step's number and for which runs take the steps."""

    def call(
        dynamic: Dynamic,
        images: RawImages,
        state: TrainState,
        indices: Indices,
        first: Int[Array, ""],
        moving: Bool[Array, " runs"],
    ) -> tuple[TrainState, Trace]:
        after, trace = run(dynamic, images, state, indices, first)
        if len(moving) == 1:
            return after, trace

        def pick(new: Array, old: Array) -> Array:
            return jnp.where(moving.reshape(-1, *[1] * (new.ndim - 1)), new, old)

        return jax.tree.map(pick, after, state), trace

    return call


def _finite(state: TrainState) -> Bool[Array, " runs"]:
    """Whether all numbers of each run's state are finite."""
    leaves = jax.tree.leaves(state)
    return jnp.stack(
        [jnp.isfinite(leaf).all(axis=tuple(range(1, leaf.ndim))) for leaf in leaves]
    ).all(axis=0)
