"""One run as pure functions: made from a config, jitted or vmapped by whoever loops over them.

Every number in `experiments.config.TRACED` is an argument (`Hypers`), so runs that differ only in
those share one compiled program. What a step does depends on the seed and the step's number alone:
not on how steps are grouped into calls, nor on restarts.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int, UInt8
from ml_collections import ConfigDict

from experiments import config as configs
from experiments import labels as label_draws
from experiments import models
from experiments.data import Dataset
from gumbel import estimators, schedules
from gumbel.types import Params, PRNGKey

Hypers = dict[str, Any]
Images = UInt8[Array, "N H W"]
Indices = Int[Array, "steps batch"]

# What a key is for, folded into the seed's key, so that no two uses share one.
_INIT, _SHUFFLE, _STEP, VALIDATION, FINAL, PICTURE, _LABELS, _LABEL_SHUFFLE, _LABEL_STEP = range(9)


class TrainState(NamedTuple):
    """All that a run carries from step to step: arrays only, checkpointed as they are.

    `temperature` is the raw parameter of a learned temperature, `log(temperature - floor)`; it
    stays put under a schedule.
    """

    step: Int[Array, ""]
    params: Params
    temperature: Float[Array, ""]
    optimizer: optax.OptState
    estimator: estimators.State


class Trace(NamedTuple):
    """What a step reports: the mean cost in nats, the temperature, the estimator's metrics."""

    cost: Float[Array, "..."]
    temperature: Float[Array, "..."]
    metrics: dict[str, Float[Array, "..."]]


class Supervision(NamedTuple):
    """What the labelled images add to a program.

    Attributes:
      cost: `(hypers, images, params, step, indices) -> scalar`, the mean of the labelled costs.
      indices: `(seed, start, num_steps=) -> indices`, the labelled images that the steps read.
    """

    cost: Callable[..., Float[Array, ""]]
    indices: Callable[..., Indices]


class Program(NamedTuple):
    """The pure functions of one config.

    Attributes:
      init: `(hypers, images) -> TrainState`.
      run: `(hypers, images, state, indices) -> (TrainState, Trace)`, one step per row of
        `indices`; the trace's leaves have a leading axis of steps.
      indices: `(seed, start, num_steps=) -> indices`, the images that the steps read: of each row
        the first `batch_size` without their labels, any others with them.
      model: the model whose architecture the parameters in the state belong to.
    """

    init: Callable[[Hypers, Images], TrainState]
    run: Callable[[Hypers, Images, TrainState, Indices], tuple[TrainState, Trace]]
    indices: Callable[..., Indices]
    model: Any


def hypers_of(config: ConfigDict) -> Hypers:
    """The traced numbers of a config, as arrays."""
    kinds = {int: jnp.int32, float: jnp.float32}
    values = {key: configs.get(config, key) for key in configs.traced_keys(config)}
    return {key: jnp.asarray(value, kinds[type(value)]) for key, value in values.items()}


def key_for(seed: Int[Array, ""] | int, purpose: int) -> PRNGKey:
    """The key of a purpose under a seed."""
    return jax.random.fold_in(jax.random.key(seed), purpose)


def batch_indices(
    seed: Int[Array, ""],
    start: Int[Array, ""],
    *,
    num_steps: int,
    size: int,
    batch_size: int,
    purpose: int = _SHUFFLE,
) -> Indices:
    """The images of steps `start .. start + num_steps - 1`: each epoch is a fresh permutation.

    The last `size % batch_size` images of an epoch's permutation are left out of it. The answer
    for a step depends on the seed and the step alone.

    Args:
      seed: of the run.
      start: the first step.
      num_steps: how many steps.
      size: number of training images, at least `batch_size`.
      batch_size: images in a step.
      purpose: of the permutations' key.
    """
    per_epoch = size // batch_size
    first_epoch = start // per_epoch
    # A window of n steps touches at most this many epochs, wherever it starts.
    num_epochs = (num_steps + per_epoch - 2) // per_epoch + 1

    def permutation(epoch: Int[Array, ""]) -> Int[Array, " size"]:
        return jax.random.permutation(jax.random.fold_in(key_for(seed, purpose), epoch), size)

    permutations = jax.vmap(permutation)(first_epoch + jnp.arange(num_epochs))
    batches = permutations[:, : per_epoch * batch_size].reshape(-1, batch_size)
    return jax.lax.dynamic_slice_in_dim(batches, start - first_epoch * per_epoch, num_steps)


def pixels(images: Images, levels: int, key: PRNGKey, *, dynamic: bool) -> Float[Array, "B H W"]:
    """Images with pixels in [0, 1]; if `dynamic`, grey ones become draws of 0 or 1."""
    scaled = images.astype(jnp.float32) / levels
    if not dynamic or levels == 1:
        return scaled
    return jax.random.bernoulli(key, scaled).astype(jnp.float32)


def make_program(config: ConfigDict, dataset: Dataset) -> Program:
    """Builds the model, the estimator, the schedule and the optimizer of a config.

    Args:
      config: validated.
      dataset: gives the image shape, the levels and the pixel mean, not the images: those are an
        argument of the program.
    """
    mean = jnp.asarray(dataset.train_mean())
    # The architecture and its constants; the parameters come from `init`.
    model = models.build(config, mean, jax.random.key(0))
    dynamic = config.binarization == "dynamic"
    supervision = _supervision(config, dataset, model) if configs.semi_supervised(config) else None

    def batch_of(images: Images, key: PRNGKey) -> Any:
        return model.batch(pixels(images, dataset.levels, key, dynamic=dynamic))

    def indices_of(seed: Int[Array, ""], start: Int[Array, ""], *, num_steps: int) -> Indices:
        size, batch_size = len(dataset.train), config.batch_size
        rows = batch_indices(seed, start, num_steps=num_steps, size=size, batch_size=batch_size)
        if supervision is None:
            return rows
        labelled = supervision.indices(seed, start, num_steps=num_steps)
        return jnp.concatenate([rows, labelled], axis=1)

    def init(hypers: Hypers, images: Images) -> TrainState:
        key = key_for(hypers["seed"], _INIT)
        weight_key, batch_key, estimator_key = jax.random.split(key, 3)
        params = models.params_of(models.build(config, mean, weight_key))
        value, floor = hypers["temperature.value"], hypers["temperature.floor"]
        learned = config.temperature.name == "learned"
        raw = jnp.log(value - floor) if learned else jnp.zeros(())
        batch = batch_of(images[: config.batch_size], batch_key)
        objective = models.objective(model, temperature=value, **annealed(config, hypers, 0))
        state = _estimator(config, hypers).init(objective, params, batch, estimator_key)
        optimizer = _optimizer(config, hypers).init((params, raw))
        return TrainState(jnp.zeros((), jnp.int32), params, raw, optimizer, state)

    def step(
        hypers: Hypers, images: Images, state: TrainState, indices: Int[Array, " batch"]
    ) -> tuple[TrainState, Trace]:
        key = jax.random.fold_in(key_for(hypers["seed"], _STEP), state.step)
        batch_key, estimator_key = jax.random.split(key)
        unlabelled, labelled = jnp.split(indices, [config.batch_size])
        batch = batch_of(images[unlabelled], batch_key)

        def surrogate(trained: tuple[Params, Float[Array, ""]]) -> Any:
            params, raw = trained
            temperature = temperature_at(config, hypers, state.step, raw)
            value, (estimator_state, info) = _estimator(config, hypers).surrogate(
                models.objective(
                    model, temperature=temperature, **annealed(config, hypers, state.step)
                ),
                params,
                batch,
                estimator_key,
                temperature,
                state.estimator,
            )
            if supervision is not None:
                cost = supervision.cost(hypers, images, params, state.step, labelled)
                value += cost
                info = info._replace(metrics=info.metrics | {"labelled_cost": cost})
            return value, (estimator_state, info, temperature)

        trained = (state.params, state.temperature)
        gradient, (estimator_state, info, temperature) = jax.grad(surrogate, has_aux=True)(trained)
        updates, optimizer_state = _optimizer(config, hypers).update(
            gradient, state.optimizer, trained
        )
        params, raw = optax.apply_updates(trained, updates)
        trace = Trace(jnp.mean(info.cost), temperature, info.metrics)
        return TrainState(state.step + 1, params, raw, optimizer_state, estimator_state), trace

    def run(
        hypers: Hypers, images: Images, state: TrainState, indices: Indices
    ) -> tuple[TrainState, Trace]:
        if indices.shape[0] == 1:  # outside of a loop, where convolutions are fast on CPU
            state, trace = step(hypers, images, state, indices[0])
            return state, jax.tree.map(lambda leaf: leaf[None], trace)
        return jax.lax.scan(lambda s, i: step(hypers, images, s, i), state, indices)

    return Program(init, run, indices_of, model)


def _supervision(config: ConfigDict, dataset: Dataset, model: Any) -> Supervision:
    """The labelled cost and its images.

    With N_u unlabelled and N_l labelled images in all, the mean of the labelled images' bounds
    weighs N_l / N_u times `labelled_weight`, beside the mean of the others: at `labelled_weight` 1
    every image counts once, at 50 each label is worth 50 images. The mean cross-entropy weighs
    alpha N_u / N_l, our reading of the paper's alpha (at 0.1, 100 labels of 50,000 images: 50).
    Where that is from, and what else was tried, stands in results/README.md.
    """
    labelled_per_unlabelled = config.num_labels / len(dataset.train)
    labels = jnp.asarray(dataset.train.labels)
    dynamic = config.binarization == "dynamic"

    def cost(
        hypers: Hypers,
        images: Images,
        params: Params,
        step: Int[Array, ""],
        indices: Int[Array, " labelled"],
    ) -> Float[Array, ""]:
        key = jax.random.fold_in(key_for(hypers["seed"], _LABEL_STEP), step)
        pixel_key, cost_key = jax.random.split(key)
        costs = models.with_params(model, params).labelled_cost(
            pixels(images[indices], dataset.levels, pixel_key, dynamic=dynamic),
            labels[indices],
            cost_key,
            bound_weight=hypers["labelled_weight"] * labelled_per_unlabelled,
            label_weight=hypers["alpha"] / labelled_per_unlabelled,
            **annealed(config, hypers, step),
        )
        return jnp.mean(costs)

    def indices_of(seed: Int[Array, ""], start: Int[Array, ""], *, num_steps: int) -> Indices:
        labelled = label_draws.labelled(
            key_for(seed, _LABELS),
            labels,
            num_labels=config.num_labels,
            num_classes=config.num_classes,
        )
        rows = batch_indices(
            seed,
            start,
            num_steps=num_steps,
            size=config.num_labels,
            batch_size=config.labelled_batch_size,
            purpose=_LABEL_SHUFFLE,
        )
        return labelled[rows]

    return Supervision(cost, indices_of)


def temperature_at(
    config: ConfigDict, hypers: Hypers, step: Int[Array, ""], raw: Float[Array, ""]
) -> Float[Array, ""]:
    """The temperature of a step: the schedule's, or `floor + exp(raw)` where it is learned."""
    value, floor = hypers["temperature.value"], hypers["temperature.floor"]
    interval, name = hypers["temperature.interval"], config.temperature.name
    if name == "learned":
        return floor + jnp.exp(raw)
    if name == "constant":
        return schedules.constant(value)(step)
    if name == "exponential":
        rate = hypers["temperature.rate"]
        return schedules.exponential(rate, floor, value=value, interval=interval)(step)
    over = {"linear": schedules.linear, "cosine": schedules.cosine}[name]
    num_steps = _steps_in(config.temperature.share, config)
    return over(value, floor, num_steps, interval=interval)(step)


def annealed(config: ConfigDict, hypers: Hypers, step: Int[Array, ""] | int) -> dict[str, Any]:
    """What the cost of the config's model reads besides the temperature."""
    if not configs.semi_supervised(config):
        return {}
    until = _steps_in(config.style_beta_share, config)
    return {"style_beta": schedules.linear(hypers["style_beta"], 1.0, until)(step)}


def _steps_in(share: float, config: ConfigDict) -> int:
    """A share of the run's steps, at least one."""
    return max(1, round(share * config.num_steps))


def _estimator(config: ConfigDict, hypers: Hypers) -> estimators.Estimator:
    options = configs.estimator_options(config)
    for option in options:
        options[option] = hypers.get(f"estimator.{option}", options[option])
    return estimators.make(config.estimator.name, configs.family_of(config), **options)


def _optimizer(config: ConfigDict, hypers: Hypers) -> optax.GradientTransformation:
    rate: Any = hypers["learning_rate"]
    if config.learning_rate_schedule == "cosine":
        rate = optax.schedules.cosine_decay_schedule(rate, config.num_steps)
    if config.optimizer == "adam":
        return optax.adam(rate)
    return optax.sgd(rate, momentum=hypers["momentum"])
