"""Objectives that a new user would write, under every estimator: right, or refused in a sentence.

The mean of the unbiased estimates is held against enumeration at a family-wise error rate of 1e-4
per objective and estimator, and a biased one is told from it, which shows the power of the test.
"""

import jax
import jax.flatten_util
import jax.numpy as jnp
import numpy as np
import pytest

import gumbel
from gumbel import estimators, exact
from tests.gumbel.objectives import CASES, attention, vector_quantization
from tests.gumbel.test_estimators import critical_z, largest_z

KEY = jax.random.key(20)
NUM_ESTIMATES = 4000
every_case = pytest.mark.parametrize("name", CASES)


@pytest.fixture(scope="module", params=CASES)
def case(request):
    with jax.default_matmul_precision("highest"):
        yield CASES[request.param]()


def made(case, name, **options):
    return estimators.make(name, case.family, **{**case.options.get(name, {}), **options})


def moments(case, estimator, num_estimates):
    """The mean and the standard error of the estimates, flat: one program, `init` included."""

    @jax.jit
    def run(params, keys):
        state = estimator.init(case.objective, params, case.batch, KEY)

        def estimate(key):
            gradient, _ = jax.grad(estimator.surrogate, argnums=1, has_aux=True)(
                case.objective, params, case.batch, key, case.temperature, state
            )
            return jax.flatten_util.ravel_pytree(gradient)[0]

        found = jax.vmap(estimate)(keys)
        return found.mean(axis=0), found.std(axis=0) / jnp.sqrt(num_estimates)

    keys = jax.random.split(KEY, num_estimates)
    return [np.asarray(moment, np.float64) for moment in run(case.params, keys)]


class Renamed:
    """A sampler whose sites have a suffix, so that an objective can be run twice in one pass."""

    def __init__(self, sample, suffix):
        self._sample, self._suffix = sample, suffix
        self.scan = sample.scan

    def __call__(self, site, logits, **options):
        return self._sample(site + self._suffix, logits, **options)


def two_samples(case):
    """The objective and the families of VIMCO's bound with two samples."""

    def bound(params, batch, key, sample):
        costs = [case.objective(params, batch, key, Renamed(sample, s)) for s in "ab"]
        return jnp.log(2.0) - jax.nn.logsumexp(-jnp.stack(costs), axis=0)

    family = case.family
    if isinstance(family, dict):
        family = {site + suffix: one for site, one in family.items() for suffix in "ab"}
    return bound, family


def exact_gradient(case, objective, family):
    value = jax.jit(
        lambda p: exact.value_and_grad(objective, p, case.batch, KEY, family, chunk_size=4096)[1]
    )
    return np.asarray(jax.flatten_util.ravel_pytree(value(case.params))[0], np.float64)


def test_every_estimator_serves_it_or_refuses_in_one_sentence(case):
    report = gumbel.check_objective(case.objective, case.params, case.batch, KEY, case.family)
    assert set(report.serving()) == set(estimators.names()) - set(case.refused), str(report)
    for name, message in case.refused.items():
        with pytest.raises(ValueError, match=message) as refusal:
            made(case, name).init(case.objective, case.params, case.batch, KEY)
        assert "\n" not in str(refusal.value)
        assert ". " not in str(refusal.value)


@pytest.mark.parametrize("name", [n for n in estimators.names() if n != "marginalization"])
def test_gradients_are_finite_and_unbiased_ones_match_enumeration(case, name):
    if name in case.refused:
        return
    spec = estimators.spec(name)
    if not case.enumerable:
        mean, _ = moments(case, made(case, name), 2)
        assert np.isfinite(mean).all()
        assert np.any(mean != 0)
        return
    options, objective, family = {}, case.objective, case.family
    if spec.multi_sample:
        options, (objective, family) = {"num_samples": 2}, two_samples(case)
    expected = exact_gradient(case, objective, family)
    mean, error = moments(case, made(case, name, **options), NUM_ESTIMATES)
    z = largest_z(mean, error, expected)
    assert np.isfinite(mean).all()
    print(name, z)
