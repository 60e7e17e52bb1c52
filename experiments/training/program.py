"""One run as pure functions of its settings, jitted or vmapped by the code that calls them.

Every dynamic hyperparameter is an argument, so runs that differ only in those share one compiled
program. What a step does depends on the seed and the step's number alone: not on how steps are
grouped into calls, nor on restarts.
"""

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple, Self

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int

from experiments import tasks
from experiments.data import Dataset
from experiments.data.batches import Indices, Purpose, RawImages, batch_indices, key_for, pixels
from experiments.settings import Settings
from experiments.tasks.base import Dynamic, Extra, Model, Task
from experiments.tasks.functional import objective, params_of
from experiments.training import temperature
from experiments.training.dynamic import make_estimator, make_optimizer
from experiments.training.temperature import Adaptation
from gumbel import Objective, estimators
from gumbel.types import Batch, Params, PRNGKey


class TrainState(NamedTuple):
    """All that a run carries from step to step: arrays only, checkpointed as they are.

    `temperature` is the raw parameter of a learned temperature, `log(temperature - floor)`; under
    a schedule, it does not change, and `adaptation` is None.
    """

    step: Int[Array, ""]
    params: Params
    temperature: Float[Array, ""]
    optimizer: optax.OptState
    estimator: estimators.State
    adaptation: Adaptation | None


class Trace(NamedTuple):
    """What a step reports: the mean cost in nats, the temperature, the estimator's metrics."""

    cost: Float[Array, "..."]
    temperature: Float[Array, "..."]
    metrics: dict[str, Float[Array, "..."]]


@dataclasses.dataclass(frozen=True)
class Program:
    """The pure functions of one run's settings.

    Attributes:
      settings: checked; their dynamic hyperparameters are not read.
      task: task of the settings.
      size: number of training images.
      max_value: the pixel value that means 1.0.
      pixel_mean: `[H, W]`, of the training images.
      model: the architecture and its constants; the parameters are in the state.
      extra: the task's extra cost, if it has one.
      spread: divides the images of a batch among devices that share it.
    """

    settings: Settings
    task: Task
    size: int
    max_value: int
    pixel_mean: Float[Array, "H W"]
    model: Model
    extra: Extra | None
    spread: Callable[[Array], Array]

    @classmethod
    def make(
        cls, settings: Settings, dataset: Dataset, spread: Callable[[Array], Array] = lambda x: x
    ) -> Self:
        """The program of the settings; of the dataset it keeps no image."""
        task, mean = tasks.load(settings.task), jnp.asarray(dataset.train_mean())
        model = task.build(settings, mean, jax.random.key(0))
        extra = task.extra(settings, dataset, model) if task.extra else None
        size, max_value = len(dataset.train), dataset.max_value
        return cls(settings, task, size, max_value, mean, model, extra, spread)

    def indices(self, seed: Int[Array, ""], start: Int[Array, ""], *, num_steps: int) -> Indices:
        """The images that the steps read: of each row the first `batch_size`, then the extra's."""
        batch_size = self.settings.batch_size
        rows = batch_indices(
            seed, start, num_steps=num_steps, size=self.size, batch_size=batch_size
        )
        if self.extra is None:
            return rows
        return jnp.concatenate([rows, self.extra.indices(seed, start, num_steps=num_steps)], axis=1)

    def init(self, dynamic: Dynamic, images: RawImages) -> TrainState:
        """The state before the first step."""
        key = key_for(dynamic["seed"], Purpose.INIT)
        weight_key, batch_key, estimator_key, reference_key = jax.random.split(key, 4)
        params = params_of(self.task.build(self.settings, self.pixel_mean, weight_key))
        value, floor = dynamic["temperature.value"], dynamic["temperature.floor"]
        raw = jnp.log(value - floor) if self._learned else jnp.zeros(())
        batch = self._batch(images[: self.settings.batch_size], batch_key)
        estimator = make_estimator(self.settings.estimator, self.settings.family, dynamic)
        state = estimator.init(self._objective(dynamic, 0, value), params, batch, estimator_key)
        optimizer = make_optimizer(self.settings, dynamic).init(params)
        adaptation: Adaptation | None = None
        if self._learned:
            hard, family = self._objective(dynamic, 0, None, hard=True), self.settings.family
            adaptation = temperature.init(family, hard, params, batch, reference_key, raw)
        return TrainState(jnp.zeros((), jnp.int32), params, raw, optimizer, state, adaptation)

    def run(
        self,
        dynamic: Dynamic,
        images: RawImages,
        state: TrainState,
        indices: Indices,
        first: Int[Array, ""] | None = None,
    ) -> tuple[TrainState, Trace]:
        """One step per row of `indices`; the trace's leaves have a leading axis of steps.

        `first` is the number of the first step, by default the state's. Given apart from it to
        vmapped runs, which take the same steps, it keeps what is due every so many steps from
        being computed in each.
        """
        steps = None
        if self._learned:
            steps = jnp.arange(len(indices)) + (state.step if first is None else first)

        def step(state: TrainState, inputs: Any) -> tuple[TrainState, Trace]:
            return self._step(dynamic, images, state, *inputs)

        if len(indices) == 1:  # outside of a loop, where convolutions are fast on CPU
            only = jax.tree.map(lambda leaf: leaf[0], (indices, steps))
            state, trace = step(state, only)
            return state, jax.tree.map(lambda leaf: leaf[None], trace)
        return jax.lax.scan(step, state, (indices, steps))

    def _step(
        self,
        dynamic: Dynamic,
        images: RawImages,
        state: TrainState,
        indices: Int[Array, " batch"],
        step: Int[Array, ""] | None,
    ) -> tuple[TrainState, Trace]:
        gradient, (estimator_state, info, tau) = jax.grad(self._surrogate, has_aux=True)(
            state.params, dynamic, images, state, indices
        )
        updates, optimizer_state = make_optimizer(self.settings, dynamic).update(
            gradient, state.optimizer, state.params
        )
        trace = Trace(jnp.mean(info.cost), tau, info.metrics)
        raw, adaptation = self._adapt(dynamic, images, state, indices, step)
        after = TrainState(
            state.step + 1,
            optax.apply_updates(state.params, updates),
            raw,
            optimizer_state,
            estimator_state,
            adaptation,
        )
        return after, trace

    def _surrogate(
        self,
        params: Params,
        dynamic: Dynamic,
        images: RawImages,
        state: TrainState,
        indices: Int[Array, " batch"],
    ) -> tuple[Float[Array, ""], tuple[estimators.State, estimators.Info, Float[Array, ""]]]:
        """The scalar whose gradient a step follows, and what comes with it."""
        batch_key, estimator_key = jax.random.split(self._key(dynamic, state))
        own, extra_indices = jnp.split(indices, [self.settings.batch_size])
        tau = temperature.at(
            self.settings.temperature,
            self.settings.num_steps,
            dynamic,
            state.step,
            state.temperature,
        )
        estimator = make_estimator(self.settings.estimator, self.settings.family, dynamic)
        value, (estimator_state, info) = estimator.surrogate(
            self._objective(dynamic, state.step, tau),
            params,
            self._batch(images[self.spread(own)], batch_key),
            estimator_key,
            tau,
            state.estimator,
        )
        if self.extra is not None:
            rows = self.spread(extra_indices)
            cost = self.extra.cost(dynamic, images, params, state.step, rows)
            value += cost
            info = info._replace(metrics=info.metrics | {self.extra.name: cost})
        return value, (estimator_state, info, tau)

    @property
    def _learned(self) -> bool:
        return self.settings.temperature.name == "learned"

    def _key(self, dynamic: Dynamic, state: TrainState) -> PRNGKey:
        return jax.random.fold_in(key_for(dynamic["seed"], Purpose.STEP), state.step)

    def _adapt(
        self,
        dynamic: Dynamic,
        images: RawImages,
        state: TrainState,
        indices: Int[Array, " batch"],
        number: Int[Array, ""] | None,
    ) -> tuple[Float[Array, ""], Adaptation | None]:
        """The learned temperature after step `number`; it changes every `update_every` steps."""
        raw, adaptation = state.temperature, state.adaptation
        if adaptation is None or number is None:
            return raw, None

        def adapted() -> tuple[Float[Array, ""], Adaptation]:
            batch_key, _ = jax.random.split(self._key(dynamic, state))
            own_key = key_for(dynamic["seed"], Purpose.TEMPERATURE)
            step = temperature.Step(
                make_estimator(self.settings.estimator, self.settings.family, dynamic),
                state.estimator,
                partial(self._objective, dynamic, state.step),
                self._objective(dynamic, state.step, None, hard=True),
                state.params,
                self._batch(images[indices[: self.settings.batch_size]], batch_key),
                jax.random.fold_in(own_key, state.step),
            )
            return temperature.adapt(self.settings.family, dynamic, raw, adaptation, step)

        due = number % self.settings.temperature.update_every == 0
        return jax.lax.cond(due, adapted, lambda: (raw, adaptation))

    def _objective(
        self, dynamic: Dynamic, step: Int[Array, ""] | int, tau: Any, *, hard: bool = False
    ) -> Objective:
        annealed = self.task.annealed(self.settings, dynamic, step)
        return objective(self.model, temperature=tau, hard=hard, **annealed)

    def _batch(self, images: RawImages, key: PRNGKey) -> Batch:
        drawn = pixels(
            self.spread(images),
            self.max_value,
            key,
            dynamic_binarization=self.settings.dynamic_binarization,
        )
        return self.model.batch(drawn)
