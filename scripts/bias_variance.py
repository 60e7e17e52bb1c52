"""Bias and noise of every registered estimator's gradient, against enumeration.

  python -m scripts.bias_variance [--output=results/bias_variance.json]

Two layers of three variables between an input and a target, Bernoulli and categorical, small enough
to enumerate. At its initial parameters each estimator draws many gradients. Recorded, relative to
the norm of the exact gradient of the two layers' weights: the distance of the draws' mean from it
(`bias`), their standard deviation (`noise`), and what `bias` is expected to be for an unbiased
estimator (`error`, the noise over the square root of the number of draws). Estimators of another
objective (multi-sample) and exact ones are left out.
"""

import sys
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from absl import flags
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float

import gumbel
from experiments import command
from experiments.lab.measure import centered
from experiments.training import records
from experiments.training.provenance import provenance
from gumbel import Family, Objective
from gumbel.types import Batch, Cost, Params, PRNGKey, Sampler

NUM_DRAWS = 4000
TEMPERATURES = (0.1, 0.5, 1.0)
_SITES = ("h1", "h2")


def small_net(family: Family) -> tuple[Objective, Params, Batch]:
    """The objective, its parameters, and a batch of two examples."""
    event = (3, 3) if family is gumbel.CATEGORICAL else (3,)
    width = 9 if family is gumbel.CATEGORICAL else 3

    def objective(params: Params, batch: Batch, _key: PRNGKey, sample: Sampler) -> Cost:
        hidden = batch["x"]
        for site in _SITES:
            logits = (hidden @ params[site]).reshape(-1, *event)
            hidden = sample(site, logits).reshape(-1, width)
        return jnp.sum((jnp.tanh(hidden @ params["out"]) - batch["y"]) ** 2, axis=-1)

    keys = jax.random.split(jax.random.key(0), 5)
    params = {
        "h1": jax.random.normal(keys[0], (4, width)),
        "h2": jax.random.normal(keys[1], (width, width)),
        "out": jax.random.normal(keys[2], (width, 2)),
    }
    batch = {"x": jax.random.normal(keys[3], (2, 4)), "y": jax.random.normal(keys[4], (2, 2))}
    return objective, params, batch


def measure(family: Family) -> Iterator[dict[str, Any]]:
    """A row for each estimator that can serve, and each temperature where it reads one."""
    objective, params, batch = small_net(family)
    key = jax.random.key(1)
    _, gradient = gumbel.exact.value_and_grad(objective, params, batch, key, family, chunk_size=81)
    exact = _flat(gradient)
    norm = jnp.linalg.norm(exact)
    for name in gumbel.check_objective(objective, params, batch, key, family).applicable():
        spec = gumbel.estimators.spec(name)
        if spec.multi_sample or spec.enumerates:
            continue
        options = centered(name)
        estimator = gumbel.estimators.make(name, family, **options)
        state = estimator.init(objective, params, batch, key)

        def estimate(
            key: PRNGKey, temperature: Any, estimator: Any = estimator, state: Any = state
        ) -> Float[Array, " P"]:
            surrogate = jax.grad(estimator.surrogate, argnums=1, has_aux=True)
            return _flat(surrogate(objective, params, batch, key, temperature, state)[0])

        draw = jax.jit(jax.vmap(estimate, in_axes=(0, None)))
        for temperature in TEMPERATURES if spec.relaxes else (None,):
            keys = jax.random.split(jax.random.key(2), NUM_DRAWS)
            draws = draw(keys, 1.0 if temperature is None else temperature)
            noise = float(jnp.sqrt(jnp.sum(jnp.var(draws, axis=0))) / norm)
            yield {
                "family": family.name,
                "estimator": name,
                "options": options,
                "temperature": temperature,
                "bias": float(jnp.linalg.norm(jnp.mean(draws, axis=0) - exact) / norm),
                "noise": noise,
                "error": noise / NUM_DRAWS**0.5,
            }


def _flat(gradient: Params) -> Float[Array, " P"]:
    return ravel_pytree({site: gradient[site] for site in _SITES})[0]


def define_flags(values: flags.FlagValues) -> None:
    """The command's flag."""
    flags.DEFINE_string(
        "output", "results/bias_variance.json", "the file to write", flag_values=values
    )


def main(given: Mapping[str, Any]) -> int:
    """Measures and writes the file."""
    path = command.required_path(given["output"], "output=FILE", "name the file to write")
    command.check_output(path)
    here = provenance()
    rows = []
    for family in (gumbel.BERNOULLI, gumbel.CATEGORICAL):
        for row in measure(family):
            print(f"{row['family']:12} {row['estimator']:18} {row['bias']:.3f} {row['noise']:.2f}")
            rows.append(row)
    records.write_json(path, {"draws": NUM_DRAWS, "rows": rows} | here)
    return 0


if __name__ == "__main__":
    sys.exit(command.launch(main, define_flags))
