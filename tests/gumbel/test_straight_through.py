"""Straight-through estimators of one pass against formulas written out in NumPy.

A batch of `NUM_DRAWS` copies of one variable gives as many estimates in one call. Statistical tests
have an error rate of `ERROR_RATE` each, by Bonferroni over what they compare.
"""

import functools

import jax
import jax.flatten_util
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import special, stats

from gumbel import BERNOULLI, CATEGORICAL, estimators
from tests.gumbel.nets import FAMILIES, two_layer

ERROR_RATE = 1e-4
NUM_DRAWS = 20_000
TEMPERATURE = 0.7
KEY = jax.random.key(1)
# A Bernoulli variable of logit l is a categorical one of logits (l, 0), of which z is one entry.
LOGITS = {"bernoulli": np.array([0.8]), "categorical": np.array([0.8, -1.0, 0.1])}
OPTIONS = {
    "gapped_st": {"gap": 1.5},
    "decoupled_st": {"draw_temperature": 2.0},
    "reinmax": {"mean_temperature": 1.5},
    "zgr": {},
}
every_family = pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)


def cost(z, weight):
    """Quadratic where the weight is 0, `[B, K] -> [B]`."""
    size = z.shape[-1]
    pulls = jnp.array([1.0, -2.0, 0.5])[:size]
    couplings = jnp.array([[0.5, 2.0, -1.0], [0.0, 1.0, 3.0], [0.0, 0.0, -0.7]])[:size, :size]
    quadratic = z @ pulls + jnp.einsum("bi,ij,bj->b", z, couplings, z)
    return quadratic + weight * (jnp.sum(jnp.sin(z) - 3 * z**3, axis=-1) + (z @ pulls) ** 3)


@jax.jit
def cost_and_slope(z, weight):
    return cost(z, weight), jax.grad(lambda z: cost(z, weight).sum())(z)


@functools.cache
def runner(name, family, options):
    """`(logits, weight) -> (z, estimate)`, a row for each draw."""
    estimator = estimators.make(name, family, **dict(options))

    def objective(params, weight, key, sample):
        z = sample("z", params)
        return cost(z, weight), z

    @jax.jit
    def run(logits, weight):
        params = jnp.broadcast_to(logits, (NUM_DRAWS, logits.size))
        gradient, (_, info) = jax.grad(estimator.surrogate, argnums=1, has_aux=True)(
            objective, params, weight, KEY, TEMPERATURE, ()
        )
        return info.aux, NUM_DRAWS * gradient

    return run


def draws(name, family, *, weight=1.0, logits=None, **options):
    """The draws, and the estimate that each gives of the gradient in the logits, `[B, K]`."""
    logits = LOGITS[family.name] if logits is None else logits
    run = runner(name, family, tuple(options.items()))
    return [np.asarray(x, np.float64) for x in run(jnp.asarray(logits, jnp.float32), weight)]


def two_valued(logits):
    """The logits of all values, also of a Bernoulli variable."""
    return logits if logits.size > 1 else np.append(logits, 0.0)


def jacobian_of_softmax(q):
    return np.diag(q) - np.outer(q, q)


def jacobian(name, draw, logits):
    """What each estimator is defined by, for the number of the value drawn."""
    size, tau = len(logits), TEMPERATURE
    p, z = special.softmax(logits), np.eye(size)[draw]
    if name == "gapped_st":
        moved = logits.copy()
        for k in range(size):
            limit = logits.max() - OPTIONS[name]["gap"]
            moved[k] = logits.max() if k == draw else min(logits[k], limit)
        return jacobian_of_softmax(special.softmax(moved / tau)) / tau
    if name == "decoupled_st":
        return jacobian_of_softmax(special.softmax(logits / tau)) / tau
    if name == "reinmax":
        mean = special.softmax(logits / OPTIONS[name]["mean_temperature"])
        return 2 * jacobian_of_softmax((mean + z) / 2) - jacobian_of_softmax(p) / 2
    if name == "zgr":
        return (jacobian_of_softmax(p) + np.outer(z - p, z - p)) / 2
    return jacobian_of_softmax(p)  # st


def estimates_by_value(name, family):
    """The estimate for each value, in the order of the logits."""
    logits, width = two_valued(LOGITS[family.name]), LOGITS[family.name].size
    values = np.eye(len(logits), width, dtype=np.float32)
    slopes = np.asarray(cost_and_slope(values, 1.0)[1])
    return values, np.stack(
        [jacobian(name, d, logits)[:width, :width].T @ slopes[d] for d in range(len(logits))]
    )


@every_family
@pytest.mark.parametrize("name", OPTIONS)
def test_each_draw_gives_the_estimate_of_its_formula(name, family):
    z, found = draws(name, family, **OPTIONS[name])
    values, expected = estimates_by_value(name, family)
    drawn = np.argmax((z[:, None, :] == values).all(axis=-1), axis=-1)
    np.testing.assert_allclose(found, expected[drawn], rtol=1e-4, atol=1e-5)
    # And not that of another.
    assert np.abs(found - estimates_by_value("st", family)[1][drawn]).max() > 0.05
    # The values come as often as they should, and so the mean is what enumeration gives.
    draw_temperature = OPTIONS[name].get("draw_temperature", 1.0)
    p = special.softmax(two_valued(LOGITS[family.name]) / draw_temperature)
    counts = np.bincount(drawn, minlength=len(p))
    assert stats.chisquare(counts, NUM_DRAWS * p).pvalue > ERROR_RATE
    error = found.std(axis=0) / np.sqrt(NUM_DRAWS)
    np.testing.assert_array_less(np.abs(found.mean(axis=0) - p @ expected), 5 * error + 1e-6)


@every_family
def test_gumbel_rao_has_the_mean_of_st_gumbel_softmax_and_less_variance(family):
    rng = np.random.default_rng(5)
    logits, width = two_valued(LOGITS[family.name]), LOGITS[family.name].size
    perturbed = logits + rng.gumbel(size=(200_000, len(logits)))
    z = np.eye(len(logits))[perturbed.argmax(axis=-1)][:, :width]
    y = special.softmax(perturbed / TEMPERATURE, axis=-1)[:, :width]
    slope = np.asarray(cost_and_slope(z.astype(np.float32), 1.0)[1])
    reference = y * (slope - np.sum(y * slope, axis=-1, keepdims=True)) / TEMPERATURE
    found = {r: draws("gumbel_rao", family, num_noises=r)[1] for r in (1, 20)}
    for estimate in found.values():
        error = np.hypot(
            estimate.std(axis=0) / np.sqrt(NUM_DRAWS), reference.std(axis=0) / np.sqrt(len(y))
        )
        distance = np.abs(estimate.mean(axis=0) - reference.mean(axis=0))
        assert (distance / error).max() < stats.norm.isf(ERROR_RATE / 2 / width)
    variance = {r: estimate.var(axis=0).sum() for r, estimate in found.items()}
    assert variance[1] == pytest.approx(reference.var(axis=0).sum(), rel=0.1)
    assert variance[20] < 0.8 * variance[1]
    # The same mean is not that of other estimators.
    other = draws("zgr", family)[1].mean(axis=0)
    assert (np.abs(other - reference.mean(axis=0)) / error).max() > 10


@every_family
@pytest.mark.parametrize("name", ["reinmax", "zgr"])
def test_reinmax_and_zgr_are_exact_for_a_quadratic_cost_of_one_variable(name, family):
    width = LOGITS[family.name].size
    p = special.softmax(two_valued(LOGITS[family.name]))
    values = np.eye(len(p), width, dtype=np.float32)
    for weight in (0.0, 1.0):
        costs = np.asarray(cost_and_slope(values, weight)[0], np.float64)
        exact = (p * (costs - p @ costs))[:width]
        z, found = draws(name, family, weight=weight)
        rows = [np.argmax((z == value).all(axis=-1)) for value in values]
        assert np.allclose(p @ found[rows], exact, rtol=1e-4, atol=1e-5) == (weight == 0)


@every_family
def test_reinmax_at_temperature_1_is_zgr(family):
    """The same matrix, in a stack too: the same gradient for the same key."""
    net = two_layer(family)

    @jax.jit
    def of_each(params):
        found = []
        for name in ("reinmax", "zgr", "st"):
            surrogate = jax.grad(estimators.make(name, family).surrogate, argnums=1, has_aux=True)
            gradient, _ = surrogate(net.objective, params, net.batch, KEY, 0.3, ())
            found.append(jax.flatten_util.ravel_pytree(gradient)[0])
        return found

    gradients = of_each(net.params)
    np.testing.assert_allclose(gradients[0], gradients[1], rtol=1e-4, atol=1e-5)
    assert np.abs(gradients[0] - gradients[2]).max() > 0.01


@every_family
def test_decoupled_st_with_equal_temperatures_is_st_of_tempered_logits(family):
    z, found = draws("st", family, logits=LOGITS[family.name] / TEMPERATURE)
    same, decoupled = draws("decoupled_st", family, draw_temperature=TEMPERATURE)
    np.testing.assert_array_equal(z, same)
    np.testing.assert_allclose(decoupled, found / TEMPERATURE, rtol=1e-5, atol=1e-6)


EXTREME = {
    "bernoulli": [[1e4, -1e4, np.inf], [-np.inf, 1e9, 0.5]],
    "categorical": [[1e4, -1e4, 0.0], [-np.inf, 0.0, 0.5], [-1e9, 0.3, -np.inf]],
}
ONE_PASS = ("gumbel_rao", "gapped_st", "decoupled_st", "reinmax", "zgr")


@every_family
@pytest.mark.parametrize(
    "names", [ONE_PASS, pytest.param(("rebar", "relax"), marks=pytest.mark.slow)], ids=" ".join
)
def test_gradients_are_finite_for_saturated_and_excluded_values(names, family):
    logits = jnp.asarray(EXTREME[family.name], jnp.float32)
    impossible = np.asarray(logits) < -1e8

    def objective(params, batch, key, sample):
        z = sample("z", params)
        return jnp.sum(jnp.sin(2 * z) + z**3, axis=-1)

    made = {name: estimators.make(name, family) for name in names}

    @jax.jit
    def gradients(params, temperature):
        found = {}
        for name, estimator in made.items():
            state = estimator.init(objective, params, None, KEY)
            arguments = (objective, params, None, KEY, temperature, state)
            found[name] = jax.grad(estimator.surrogate, argnums=1, has_aux=True)(*arguments)
        return found

    for temperature in (0.1, 1.0):
        for name, (gradient, (state, _)) in gradients(logits, temperature).items():
            assert np.isfinite(gradient).all(), name
            assert (np.asarray(gradient)[impossible] == 0).all(), name
            assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(state)), name
            # At a low temperature a relaxed sample is discrete, and REBAR's estimate may be 0.
            assert temperature < 1 or np.abs(gradient).max() > 0, name


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("gumbel_rao", {"num_noises": 0}, "num_noises must be an integer >= 1, got 0"),
        ("gapped_st", {"gap": -1.0}, "gap must be a finite number >= 0, got -1.0"),
        ("decoupled_st", {"draw_temperature": 0.0}, "draw_temperature must be a finite number"),
        ("reinmax", {"mean_temperature": 0.5}, "mean_temperature must be a finite number >= 1"),
        ("zgr", {"temperature": 1.0}, "no option 'temperature': pass it to each call"),
    ],
)
def test_options_out_of_range_are_refused(name, options, message):
    with pytest.raises(ValueError, match=message):
        estimators.make(name, BERNOULLI, **options)


@pytest.mark.parametrize("temperature", [np.ones(3), np.ones((4, 3)), np.ones((2, 4, 1))])
@pytest.mark.parametrize("name", ["st_gumbel_softmax", "gapped_st", "decoupled_st"])
def test_a_temperature_per_class_is_refused(name, temperature):
    estimator = estimators.make(name, CATEGORICAL)
    with pytest.raises(ValueError, match=r"temperature (has|of) shape"):
        estimator.surrogate(
            lambda params, batch, key, sample: sample("z", params).sum(-1),
            *(jnp.zeros((4, 3)), None, KEY, jnp.asarray(temperature), ()),
        )
