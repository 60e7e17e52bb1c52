"""The toys of the control-variate papers: E[(b - t)^2] of one Bernoulli variable b.

The nearer t is to 1/2, the smaller is the gradient compared with the noise of its estimates. The
optimum is b = 0 for t < 1/2, at a cost of t^2. REBAR's paper takes t = 0.45, RELAX's t = 0.499.
"""

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float
from tqdm import tqdm

import gumbel
from experiments.files import read_json
from experiments.lab.measure import centered
from experiments.reproduce import measurements
from experiments.training import records
from experiments.training.provenance import provenance
from gumbel import Objective, estimators
from gumbel.types import Batch, Cost, Params, PRNGKey, Sampler

TARGETS = (0.45, 0.499)
NUM_STEPS, EVERY, NUM_DRAWS, SEEDS = 5000, 50, 500, 5
LEARNING_RATE, TEMPERATURE = 0.01, 0.5
_SHAPE = {
    "setting": dict,
    "rows": [
        {
            "estimator": str,
            "target": float,
            "steps": [int],
            "cost": [float | None],
            "log_variance": [float | None],
        }
    ],
}


def objective(target: float | Float[Array, ""]) -> Objective:
    """The cost of each copy of the variable."""

    def cost(params: Params, batch: Batch, _key: PRNGKey, sample: Sampler) -> Cost:
        return jnp.square(sample("b", params + batch)[:, 0] - target)

    return cost


def names() -> list[str]:
    """The estimators that minimize this cost; those of a multi-sample bound are left out."""
    return [name for name in estimators.names() if not estimators.spec(name).multi_sample]


def train(name: str, *, num_steps: int = NUM_STEPS, num_draws: int = NUM_DRAWS) -> list[Any]:
    """Rows of one estimator, a target each: the expected cost and the log variance by step.

    The logit starts at 0 and follows Adam. Every few steps the variance of the estimate is that of
    `num_draws` further estimates at the parameters and the state of then. Both are means over
    seeds.
    """
    estimator = estimators.make(name, gumbel.BERNOULLI, **centered(name))
    optimizer = optax.adam(LEARNING_RATE)
    batch = jnp.zeros((1, 1))

    def of(target: Float[Array, ""], key: PRNGKey) -> tuple[Array, Array]:
        cost, start = objective(target), jnp.zeros(1)

        def estimate(params: Params, key: PRNGKey, state: Any) -> tuple[Array, Any]:
            surrogate = jax.grad(estimator.surrogate, argnums=1, has_aux=True)
            found, (state, _) = surrogate(cost, params, batch, key, TEMPERATURE, state)
            return found, state

        def step(carry: Any, key: PRNGKey) -> tuple[Any, None]:
            params, state, adam = carry
            found, state = estimate(params, key, state)
            updates, adam = optimizer.update(found, adam)
            return (optax.apply_updates(params, updates), state, adam), None

        def stretch(carry: Any, key: PRNGKey) -> tuple[Any, tuple[Array, Array]]:
            draw_key, key = jax.random.split(key)
            keys = jax.random.split(draw_key, num_draws)
            params, state, _ = carry
            draws = jax.vmap(lambda key: estimate(params, key, state)[0])(keys)
            p = jax.nn.sigmoid(params[0])
            expected = p * (1 - target) ** 2 + (1 - p) * target**2
            carry, _ = jax.lax.scan(step, carry, jax.random.split(key, EVERY))
            return carry, (expected, jnp.var(draws))

        init_key, key = jax.random.split(key)
        state = estimator.init(cost, start, batch, init_key)
        carry = (start, state, optimizer.init(start))
        return jax.lax.scan(stretch, carry, jax.random.split(key, num_steps // EVERY))[1]

    keys = jax.random.split(jax.random.key(0), SEEDS)
    run = jax.jit(jax.vmap(jax.vmap(of, (None, 0)), (0, None)))
    costs, variances = run(jnp.asarray(TARGETS), keys)
    smallest = np.finfo(np.float32).tiny
    log_variances = np.log(np.maximum(np.asarray(variances), smallest))
    steps = list(range(0, num_steps, EVERY))
    return [
        {
            "estimator": name,
            "target": target,
            "steps": steps,
            "cost": np.asarray(costs, np.float64)[index].mean(axis=0).round(6),
            "log_variance": log_variances[index].astype(np.float64).mean(axis=0).round(3),
        }
        for index, target in enumerate(TARGETS)
    ]


def write(path: Path, **sizes: int) -> list[dict[str, Any]]:
    """Trains what the file does not have yet; returns its rows.

    Args:
      path: path of the JSON, which holds the rows of every estimator that is done.
      sizes: options of `train`.

    Raises:
      UserError: another process trains, or the file is damaged or of other sizes.
    """
    sizes = {"num_steps": NUM_STEPS, "num_draws": NUM_DRAWS} | sizes
    setting = {"learning_rate": LEARNING_RATE, "temperature": TEMPERATURE, "seeds": SEEDS, **sizes}
    here = provenance()
    with measurements.locked(path):
        rows = measurements.resume(path, _SHAPE, {"setting": setting})
        for name in tqdm(names(), desc="toys", unit="estimator", disable=None):
            if any(row["estimator"] == name for row in rows):
                continue
            rows = [*rows, *records.plain(train(name, **sizes))]
            rows = measurements.write(path, here, {"setting": setting}, rows)
        return rows


def read(path: Path) -> list[dict[str, Any]]:
    """The rows of the file."""
    rows: list[dict[str, Any]] = read_json(path, _SHAPE)["rows"]
    return rows
