"""What runs of one program share: the data on the device, and the compiled functions."""

import os
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool
from ml_collections import ConfigDict

from experiments import config as configs
from experiments import evaluation, labels, models, training
from experiments.data import Dataset, load
from experiments.errors import UserError, one_line
from experiments.training import Hypers, Images, Indices, Trace, TrainState
from gumbel.types import Params, PRNGKey


def prepared_dataset(config: ConfigDict) -> Dataset:
    """The config's dataset, binarized and labelled as the config says.

    Raises:
      UserError: the dataset cannot be had, or does not suit the config.
    """
    dataset = load(config.dataset)
    if config.binarization == "threshold":
        dataset = dataset.binarized()
    if configs.semi_supervised(config):
        dataset = labels.prepared(config, dataset)
    if len(dataset.train.images) < config.batch_size:
        raise UserError(
            f"config.batch_size={config.batch_size}: {config.dataset} has "
            f"{len(dataset.train.images)} training images; give at most that"
        )
    return dataset


class Compiled:
    """A program compiled for any number of runs, with the images on the device.

    The functions take and give states, hypers, seeds and keys with a leading axis of runs.

    Args:
      config: of any of the runs; its traced numbers are not read.

    Raises:
      UserError: an estimator that cannot serve the model's variables.
    """

    def __init__(self, config: ConfigDict) -> None:
        self.dataset = prepared_dataset(config)
        self.program = training.make_program(config, self.dataset)
        self.images = jnp.asarray(self.dataset.train.images)
        self._check_estimator(config)
        self.init = jax.jit(_over_runs(self.program.init, (0, None)))
        self.run = jax.jit(_moving(_over_runs(self.program.run, (0, None, 0, 0))), donate_argnums=2)
        self.indices = jax.jit(
            _over_runs(self.program.indices, (0, None)), static_argnames="num_steps"
        )
        self.image_costs = {
            m: jax.jit(
                _over_runs(
                    evaluation.image_costs(config, self.program, self.dataset, m), (0, None, 0)
                )
            )
            for m in {config.valid_samples, *configs.final_samples(config).values()}
        }
        self._picture_names: list[str] = []
        self._picture_rows = jax.jit(self._rows_of_pictures)
        self.class_logits = None
        if isinstance(self.program.model, models.Classifier):
            logits = evaluation.class_logits(config, self.program, self.dataset)
            self.class_logits = jax.jit(_over_runs(logits, (0, None, 0)))
        self.finite = jax.jit(_finite)

    def _check_estimator(self, config: ConfigDict) -> None:
        try:
            jax.eval_shape(self.program.init, training.hypers_of(config), self.images)
        except ValueError as error:
            name = config.estimator.name
            raise UserError(f"config.estimator.name={name!r}: {one_line(error)}") from error

    def pictures(self, params: Params, pixels: models.Images, key: PRNGKey) -> models.Pictures:
        """The model's pictures, in its order."""
        rows = self._picture_rows(params, pixels, key)
        return dict(zip(self._picture_names, rows, strict=True))

    def _rows_of_pictures(
        self, params: Params, pixels: models.Images, key: PRNGKey
    ) -> list[models.Images]:
        pictures = models.with_params(self.program.model, params).pictures(pixels, key)
        self._picture_names = list(pictures)  # a compiled function would give them sorted
        return list(pictures.values())

    def check_memory(self, config: ConfigDict, runs: int) -> None:
        """Refuses a step of marginalization that the device cannot hold, before the first is taken.

        Args:
          config: of any of the runs.
          runs: how many train together.

        Raises:
          UserError: it says how much memory is needed.
        """
        if config.estimator.name != "marginalization":
            return
        single = training.hypers_of(config)
        hypers = {key: jnp.broadcast_to(value, runs) for key, value in single.items()}
        state = jax.eval_shape(self.init, hypers, self.images)
        num_steps = min(config.steps_per_call, config.log_every)
        indices = jax.eval_shape(
            partial(self.indices, num_steps=num_steps), hypers["seed"], jnp.zeros((), jnp.int32)
        )
        lowered = self.run.lower(hypers, self.images, state, indices, np.ones(runs, bool))
        memory: Any = lowered.compile().memory_analysis()
        needed = memory.temp_size_in_bytes + memory.argument_size_in_bytes
        held = _memory()
        if held is not None and needed > held:
            raise UserError(
                f"config.estimator.name=marginalization: a step needs {needed / 2**30:.1f} GiB and "
                f"there are {held / 2**30:.1f}; lower config.num_classes, config.batch_size or "
                "config.estimator.chunk_size, or use an estimator that samples"
            )


def _memory() -> int | None:
    """The bytes of the device's memory, or of this machine's; None if that is not known."""
    stats = jax.devices()[0].memory_stats() or {}
    if "bytes_limit" in stats:
        return int(stats["bytes_limit"])
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):
        return None


def _over_runs(function: Callable[..., Any], in_axes: tuple[int | None, ...]) -> Any:
    """The function with a leading axis of runs, by vmap; a single run has it as it is.

    So the numbers of a single run are those of the plain function, to the bit.
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
    """`run`, with a last argument that says which of the runs take the steps."""

    def call(
        hypers: Hypers,
        images: Images,
        state: TrainState,
        indices: Indices,
        moving: Bool[Array, " runs"],
    ) -> tuple[TrainState, Trace]:
        after, trace = run(hypers, images, state, indices)
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
