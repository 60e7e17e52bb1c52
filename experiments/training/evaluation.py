"""The importance-weighted (IWAE) bound with discrete samples, and other numbers of a split."""

from collections import OrderedDict
from collections.abc import Callable, Iterator

import jax
import jax.numpy as jnp
import numpy as np
from jax.nn import logsumexp
from jaxtyping import Array, Float, Key, UInt8

from experiments.data import batches
from experiments.tasks import contract, functional
from experiments.tasks.base import Images, Metrics
from experiments.training.program import Program
from gumbel import Family, Objective, samplers
from gumbel.types import Batch, Params, PRNGKey

SAMPLES_AT_ONCE = 10
_SAMPLES_PER_SUM = 10_000


def streaming_bound(
    objective: Objective,
    family: Family,
    params: Params,
    batch: Batch,
    key: PRNGKey,
    *,
    num_samples: int,
    samples_at_once: int = SAMPLES_AT_ONCE,
) -> Float[Array, " B"]:
    """`-log (1/m) sum_i exp(-cost_i)` for each example, in nats, from discrete samples.

    A running log-sum-exp is carried, so memory does not grow with `m`; one for every 10,000
    samples, so that rounding does not either. Sample `i` uses `fold_in(key, i)`, so how many are
    taken at once affects only rounding.

    Args:
      objective: its cost is the negative log weight of a discrete sample.
      family: family of its sites.
      params, batch: passed to the objective.
      key: PRNG key of this batch.
      num_samples: m.
      samples_at_once: how many samples are held in memory together.
    """
    at_once = min(samples_at_once, num_samples)

    def cost_of(index: Array) -> Float[Array, " B"]:
        sample_key = jax.random.fold_in(key, index)
        return samplers.trace(objective, params, batch, sample_key, family, samplers.hard_draw).cost

    def add(total: Float[Array, " B"], start: Array) -> tuple[Float[Array, " B"], None]:
        indices = start + jnp.arange(at_once)
        log_weights = -jax.vmap(cost_of)(indices)
        log_weights = jnp.where(indices[:, None] < num_samples, log_weights, -jnp.inf)
        return jnp.logaddexp(total, logsumexp(log_weights, axis=0)), None

    shape = jax.eval_shape(cost_of, jnp.zeros((), jnp.int32))
    empty = jnp.full(shape.shape, -jnp.inf, shape.dtype)
    num_sums = -(-num_samples // _SAMPLES_PER_SUM)
    calls = -(-num_samples // (num_sums * at_once))  # of each sum

    def add_sum(total: Float[Array, " B"], start: Array) -> tuple[Float[Array, " B"], None]:
        found, _ = jax.lax.scan(add, empty, start + at_once * jnp.arange(calls))
        return jnp.logaddexp(total, found), None

    if num_sums == 1:
        total, _ = jax.lax.scan(add, empty, at_once * jnp.arange(calls))
    else:
        total, _ = jax.lax.scan(add_sum, empty, at_once * calls * jnp.arange(num_sums))
    return jnp.log(num_samples) - total


ImageCosts = Callable[[Params, UInt8[Array, "B H W"], PRNGKey], Float[Array, " B"]]


def image_costs(program: Program, num_samples: int) -> ImageCosts:
    """The function that gives the bound of each of a batch of images, with that many samples.

    Gray images under dynamic binarization are drawn once per image and not per sample.
    """
    model = program.model
    objective = functional.objective(model, hard=True)

    def costs(params: Params, images: UInt8[Array, "B H W"], key: PRNGKey) -> Float[Array, " B"]:
        shown, sample_key = pixels(program, program.spread(images), key)
        batch = model.batch(shown)
        return streaming_bound(
            objective, model.family, params, batch, sample_key, num_samples=num_samples
        )

    return costs


def dataset_bounds(
    image_costs: Callable[..., Float[Array, "runs B"]],
    params: Params,
    images: UInt8[np.ndarray, "N H W"],
    keys: Key[Array, " runs"],
    *,
    batch_size: int,
    on_batch: Callable[[int], object] = lambda _count: None,
) -> list[float]:
    """The means over a split of the bounds that `image_costs` gives for each image, in nats.

    Args:
      image_costs: `(params, images, keys) -> cost [runs, B]`, jitted by the caller; the images are
        the same for all runs.
      params: parameters of the models, with a leading axis of runs.
      images: the split. The last batch is padded with repeats, which do not count.
      keys: key of each run; batch `i` has `fold_in(key, i)`, so results depend on the batch size.
      batch_size: images in a call.
      on_batch: called after each batch with the number of its images, for a progress bar.
    """
    totals = np.zeros(len(keys))
    for costs in _over_batches(image_costs, params, images, keys, batch_size, on_batch):
        totals += costs.astype(np.float64).sum(axis=1)
    return [float(total) / len(images) for total in totals]


def image_outputs(program: Program, metrics: Metrics) -> Callable[..., Array]:
    """The function `(params, images, key) -> [B, ...]` that the task's metrics summarize.

    Gray images under dynamic binarization are drawn as `image_costs` draws them from the key.
    """

    def outputs(params: Params, images: UInt8[Array, "B H W"], key: PRNGKey) -> Array:
        shown, _ = pixels(program, program.spread(images), key)
        return metrics.output(functional.with_params(program.model, params), shown)

    return outputs


def dataset_outputs(
    outputs: Callable[..., Array],
    params: Params,
    images: UInt8[np.ndarray, "N H W"],
    keys: Key[Array, " runs"],
    *,
    batch_size: int,
) -> np.ndarray:
    """What `outputs` gives for each image of a split, `[runs, N, ...]`; see `dataset_bounds`."""
    found = _over_batches(outputs, params, images, keys, batch_size)
    return np.concatenate(list(found), axis=1)


def pictures(program: Program) -> Callable[[Params, Images, PRNGKey], OrderedDict[str, Images]]:
    """The function `(params, pixels, key) -> {name: images}`, in the model's order."""

    def rows(params: Params, shown: Images, key: PRNGKey) -> OrderedDict[str, Images]:
        found = functional.with_params(program.model, params).pictures(shown, key)
        contract.check_pictures(program.settings.task, found, shown.shape[1:])
        return OrderedDict(found)  # other dictionaries leave a compiled function sorted

    return rows


def pixels(program: Program, images: UInt8[Array, "B H W"], key: PRNGKey) -> tuple[Images, PRNGKey]:
    """The pixels of images that are evaluated or shown, and a key for what is drawn next."""
    pixel_key, sample_key = jax.random.split(key)
    shown = batches.pixels(
        images,
        program.max_value,
        pixel_key,
        dynamic_binarization=program.settings.dynamic_binarization,
    )
    return shown, sample_key


# Compiled: run eagerly for each batch, it costs more than a small model's bound.
_keys_of_batch = jax.jit(jax.vmap(jax.random.fold_in, (0, None)))


def _over_batches(
    function: Callable[..., Array],
    params: Params,
    images: UInt8[np.ndarray, "N H W"],
    keys: Key[Array, " runs"],
    batch_size: int,
    on_batch: Callable[[int], object] = lambda _count: None,
) -> Iterator[np.ndarray]:
    """What the function gives for each batch, `[runs, B, ...]`.

    The last batch is padded with repeats, whose results are cut off again.
    """
    for index, start in enumerate(range(0, len(images), batch_size)):
        chunk = images[start : start + batch_size]
        filled = np.resize(chunk, (batch_size, *chunk.shape[1:]))
        found = function(params, jnp.asarray(filled), _keys_of_batch(keys, index))
        yield np.asarray(found)[:, : len(chunk)]
        on_batch(len(chunk))
