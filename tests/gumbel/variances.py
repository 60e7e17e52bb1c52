"""Which of two estimates has the smaller variance, at a stated error rate.

The variance of an estimate is summed over parameters: it is the mean squared distance from its
mean. Two estimates are compared by the difference of these distances, draw by draw, with a
one-sided z-test of its mean over independent draws. An order that does not hold passes a test with
probability `ERROR_RATE` at most, by Bonferroni over the comparisons of the test.
"""

from functools import partial

import jax
import numpy as np
from scipy import stats

ERROR_RATE = 1e-4


def squared_distances(net, estimator, state, num_estimates, *, temperature=1.0):
    """For each parameter the squared distances of the estimates from their mean."""
    gradient = jax.grad(estimator.surrogate, argnums=1, has_aux=True)

    @partial(jax.jit, compiler_options={"xla_backend_optimization_level": "0"})
    def run(params, keys):
        arguments = (net.objective, params, net.batch)
        return jax.vmap(lambda key: gradient(*arguments, key, temperature, state)[0])(keys)

    def distances(estimates):
        flat = np.asarray(estimates, np.float64).reshape(num_estimates, -1)
        return np.square(flat - flat.mean(axis=0)).sum(axis=1)

    keys = jax.random.split(jax.random.key(5), num_estimates)
    return jax.tree.map(distances, run(net.params, keys))


def total(distances):
    """The squared distances of all parameters together."""
    return np.sum(jax.tree.leaves(distances), axis=0)


def z_of_difference(smaller, larger):
    """How many standard errors the second variance is above the first."""
    difference = larger - smaller
    return difference.mean() / (difference.std() / np.sqrt(len(difference)))


def wrong_orders(distances, pairs):
    """Of the pairs `(smaller, larger)` those that are not shown, with both variances and the z."""
    critical = stats.norm.isf(ERROR_RATE / len(pairs))
    zs = {pair: z_of_difference(*(distances[name] for name in pair)) for pair in pairs}
    return {
        pair: [*(float(distances[name].mean()) for name in pair), float(z)]
        for pair, z in zs.items()
        if not z > critical
    }
