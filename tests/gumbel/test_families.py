"""Families against enumeration, scipy and each other.

Statistical tests reject at level 1e-4 each, on fixed keys, and are shown to have power.
"""

import itertools
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special
import scipy.stats

from gumbel import densities, relaxations
from gumbel.families import BERNOULLI, CATEGORICAL, Bernoulli, family

LEVEL = 1e-4
NUM_DRAWS = 200_000
FAMILIES = [BERNOULLI, CATEGORICAL]
DTYPES = [jnp.float32, jnp.bfloat16, jnp.float16]
EVENT_SHAPES = {"bernoulli": (3,), "categorical": (2, 4)}


def make_logits(fam, seed=0, batch=(), scale=1.5):
    shape = (*batch, *EVENT_SHAPES[fam.name])
    return scale * np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def per_value(fam, logits):
    """Probabilities of each variable's values, [..., D, 2 or K], in float64."""
    logits = np.asarray(logits, np.float64)
    if fam is BERNOULLI:
        logits = np.stack([np.zeros_like(logits), logits], axis=-1)
    return scipy.special.softmax(logits, axis=-1)


def value_counts(fam, z):
    """How often each variable took each value, [D, 2 or K]."""
    return np.stack([(1 - z).sum(0), z.sum(0)], -1) if fam is BERNOULLI else z.sum(axis=0)


def p_values(fam, logits, sampler):
    rows = jnp.broadcast_to(logits, (NUM_DRAWS, *logits.shape))
    z = np.asarray(jax.jit(sampler)(jax.random.key(0), rows), np.float64)
    expected = NUM_DRAWS * per_value(fam, logits)
    return scipy.stats.chisquare(value_counts(fam, z), expected, axis=-1).pvalue


@pytest.mark.parametrize("fam", FAMILIES, ids=str)
def test_samples_follow_the_probabilities(fam):
    logits = make_logits(fam)
    assert (p_values(fam, logits, fam.sample) > LEVEL).all()
    assert p_values(fam, logits, lambda key, x: fam.sample(key, 1.05 * x)).min() < LEVEL


def test_variables_are_independent():
    # All joint values of two fair bits, in two examples, must be equally likely.
    z = jax.jit(BERNOULLI.sample)(jax.random.key(1), np.zeros((NUM_DRAWS, 4), np.float32))
    z = np.asarray(z, int)
    assert scipy.stats.chisquare(np.bincount(z @ [8, 4, 2, 1], minlength=16)).pvalue > LEVEL
    z[:, 3] = z[:, 0]
    assert scipy.stats.chisquare(np.bincount(z @ [8, 4, 2, 1], minlength=16)).pvalue < LEVEL


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("fam", FAMILIES, ids=str)
def test_shapes_and_dtypes(fam, dtype):
    logits = jnp.asarray(make_logits(fam, batch=(5,)), dtype)
    variables = logits.shape[: logits.ndim - fam.event_ndims]

    def values(key, logits):
        relaxed = fam.relax(key, logits, 0.5)
        return fam.sample(key, logits), relaxed, fam.mean(logits), fam.uniform_mean(logits)

    def in_nats(logits):
        log_probs = fam.log_prob(logits, logits), fam.relaxed_log_prob(logits, logits, 0.5)
        return *log_probs, fam.entropy(logits), fam.kl(logits, logits)

    for value in jax.eval_shape(values, jax.random.key(0), logits):
        assert (value.shape, value.dtype) == (logits.shape, dtype)
    for value in jax.eval_shape(in_nats, logits):
        assert (value.shape, value.dtype) == (variables, jnp.float32)


@pytest.mark.parametrize(
    ("num_classes", "dtype"),
    [(1, jnp.float32), (10, jnp.float32), (10, jnp.float16), (1000, jnp.bfloat16)],
)
def test_categorical_sample_is_exactly_one_hot(num_classes, dtype):
    logits = 4 * np.random.default_rng(2).normal(size=(100_000 // num_classes, num_classes))
    logits[:, ::3] -= 1e4
    z = jax.jit(CATEGORICAL.sample)(jax.random.key(3), jnp.asarray(logits, dtype))
    assert z.dtype == dtype
    z = np.asarray(z, np.float32)
    assert np.isin(z, [0.0, 1.0]).all()
    assert (z.sum(axis=-1) == 1).all()
    if num_classes > 1:
        assert z[:, ::3].sum() == 0  # what has no probability is never drawn


@pytest.mark.parametrize("fam", FAMILIES, ids=str)
def test_integer_logits_are_refused_where_they_would_round_the_answer(fam):
    logits = jnp.zeros((2, 3), int)
    for method in (partial(fam.sample, jax.random.key(0)), fam.mean, fam.uniform_mean):
        with pytest.raises(TypeError, match="logits must be floating-point, got int32"):
            method(logits)


@pytest.mark.parametrize("fam", FAMILIES, ids=str)
def test_no_gradient_through_a_sample(fam):
    logits = make_logits(fam)
    gradient = jax.jit(jax.grad(lambda x: jnp.sum(fam.sample(jax.random.key(0), x) ** 2)))
    np.testing.assert_array_equal(gradient(logits), np.zeros_like(logits))


@pytest.mark.parametrize(
    ("fam", "relax", "log_prob"),
    [
        (BERNOULLI, relaxations.binary_concrete, densities.binary_concrete_log_prob),
        (CATEGORICAL, relaxations.gumbel_softmax, densities.gumbel_softmax_log_prob),
    ],
    ids=["bernoulli", "categorical"],
)
def test_relax_is_the_relaxation_of_the_family(fam, relax, log_prob):
    @jax.jit
    def pairs(key, logits):
        z = relax(key, logits, 0.6)
        return [
            (fam.relax(key, logits, 0.6), z),
            (fam.relax(key, logits, 0.6, hard=True), relax(key, logits, 0.6, hard=True)),
            (fam.relaxed_log_prob(logits, z, 0.6), log_prob(z, logits, 0.6)),
        ]

    for value, expected in pairs(jax.random.key(4), make_logits(fam)):
        np.testing.assert_array_equal(value, expected)


@pytest.mark.parametrize("fam", FAMILIES, ids=str)
def test_support_has_every_joint_value_in_the_order_of_product(fam):
    event_shape = EVENT_SHAPES[fam.name]
    base, size = fam.num_values(event_shape), fam.num_variables(event_shape)
    digits = np.array(list(itertools.product(range(base), repeat=size)))
    expected = digits if fam is BERNOULLI else np.eye(base)[digits]
    np.testing.assert_array_equal(fam.support(event_shape), expected)
    traced = jax.jit(lambda index: fam.joint_value(index, event_shape, jnp.bfloat16))
    assert traced(5).dtype == jnp.bfloat16
    np.testing.assert_array_equal(traced(5).astype(jnp.float32), expected[5])
    several_axes = (1, *event_shape)
    np.testing.assert_array_equal(fam.joint_value(5, several_axes), expected[5][None])


def test_support_that_cannot_be_counted_is_refused():
    with pytest.raises(ValueError, match=r"200 bernoulli variables have 2\^200 joint values"):
        BERNOULLI.support((200,))
    with pytest.raises(ValueError, match=r"20 categorical variables have 10\^20 joint values"):
        CATEGORICAL.joint_value(0, (20, 10))
    assert BERNOULLI.joint_value(2**30 - 1, (30,)).sum() == 30


@pytest.mark.parametrize("fam", FAMILIES, ids=str)
def test_enumeration_gives_mean_entropy_and_kl(fam):
    q, p = make_logits(fam, 0), make_logits(fam, 1)
    support = np.asarray(fam.support(q.shape))
    log_prob = jax.jit(fam.log_prob)

    def joint(logits):
        return np.asarray(log_prob(logits, support), np.float64).sum(axis=-1)

    probability = np.exp(joint(q))
    np.testing.assert_allclose(probability.sum(), 1, rtol=1e-5)
    mean = np.tensordot(probability, support, axes=1)
    np.testing.assert_allclose(fam.mean(q), mean, rtol=1e-4)
    np.testing.assert_allclose(fam.entropy(q).sum(), -probability @ joint(q), rtol=1e-5)
    np.testing.assert_allclose(fam.kl(q, p).sum(), probability @ (joint(q) - joint(p)), rtol=1e-5)
    uniform = support.mean(axis=0)
    np.testing.assert_allclose(fam.uniform_mean(q), uniform, rtol=1e-6)


@pytest.mark.parametrize("fam", FAMILIES, ids=str)
def test_log_prob_entropy_and_kl_match_scipy(fam):
    q, p = make_logits(fam, 0, (50,), 4.0), make_logits(fam, 1, (), 4.0)
    q_values, p_values_ = per_value(fam, q), per_value(fam, p)
    entropy = scipy.stats.entropy(q_values, axis=-1)
    np.testing.assert_allclose(jax.jit(fam.entropy)(q), entropy, rtol=1e-4, atol=1e-6)
    kl = scipy.special.rel_entr(q_values, p_values_).sum(axis=-1)
    np.testing.assert_allclose(jax.jit(fam.kl)(q, p), kl, rtol=1e-4, atol=1e-6)
    z = np.asarray(jax.jit(fam.sample)(jax.random.key(5), q))
    index = z[..., None] == [0.0, 1.0] if fam is BERNOULLI else z == 1
    expected = np.log((q_values * index).sum(axis=-1))
    np.testing.assert_allclose(jax.jit(fam.log_prob)(q, z), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("fam", FAMILIES, ids=str)
def test_log_prob_is_linear_in_z(fam):
    support = np.asarray(fam.support(EVENT_SHAPES[fam.name]))
    z = np.stack([support[1], support[-1], 0.3 * support[1] + 0.7 * support[-1]])
    first, last, between = jax.jit(fam.log_prob)(make_logits(fam), z)
    np.testing.assert_allclose(between, 0.3 * first + 0.7 * last, rtol=1e-5, atol=1e-6)


def test_bernoulli_is_the_categorical_of_two_values():
    q = np.linspace(-8, 8, 33, dtype=np.float32)
    p = 0.5 * q[::-1]
    q_pair, p_pair = (np.stack([x, np.zeros_like(x)], axis=-1) for x in (q, p))

    @jax.jit
    def pairs():
        return [
            (BERNOULLI.entropy(q), CATEGORICAL.entropy(q_pair)),
            (BERNOULLI.kl(q, p), CATEGORICAL.kl(q_pair, p_pair)),
            (BERNOULLI.mean(q), CATEGORICAL.mean(q_pair)[..., 0]),
        ]

    for value, expected in pairs():
        np.testing.assert_allclose(value, expected, rtol=1e-4, atol=1e-6)


def test_bernoulli_entropy_and_kl_keep_their_digits_when_small():
    q, p = np.array([20.0, 60.0, -20.0, 20.0]), np.array([18.0, 40.0, -18.0, 18.5])
    rare_q, rare_p = np.exp(-np.abs(q)), np.exp(-np.abs(p))  # up to a relative 2e-8
    entropy = rare_q * (1 + np.abs(q))
    np.testing.assert_allclose(jax.jit(BERNOULLI.entropy)(q), entropy, rtol=1e-5)
    kl = rare_p - rare_q + rare_q * (np.log(rare_q) - np.log(rare_p))
    np.testing.assert_allclose(jax.jit(BERNOULLI.kl)(q, p), kl, rtol=1e-5)


def test_gradients_of_entropy_and_kl_at_the_extremes():
    logits = np.array([-1e4, -50.0, 0.0, 2.0, 50.0, 1e4], np.float32)
    mean = scipy.special.expit(logits.astype(np.float64))
    slope = jax.jit(jax.vmap(jax.grad(BERNOULLI.entropy)))(logits)
    np.testing.assert_allclose(slope, -logits * mean * (1 - mean), rtol=1e-4, atol=1e-8)
    q, p = (grid.ravel() for grid in np.meshgrid(logits, logits))
    mean_q, mean_p = (grid.ravel() for grid in np.meshgrid(mean, mean))
    slope_q, slope_p = jax.jit(jax.vmap(jax.grad(BERNOULLI.kl, argnums=(0, 1))))(q, p)
    np.testing.assert_allclose(slope_p, mean_p - mean_q, rtol=1e-5, atol=1e-7)
    expected = mean_q * (1 - mean_q) * (q - p)
    np.testing.assert_allclose(slope_q, expected, rtol=1e-4, atol=1e-6)

    row_q, row_p = np.float32([1e4, -1e4, 0.0]), np.float32([-1e4, 1e4, 0.0])
    assert CATEGORICAL.entropy(row_q) == 0
    value, slopes = jax.jit(jax.value_and_grad(CATEGORICAL.kl, argnums=(0, 1)))(row_q, row_p)
    assert value == 2e4
    np.testing.assert_array_equal(slopes[0], [0, 0, 0])
    np.testing.assert_array_equal(slopes[1], [-1, 1, 0])


def test_families_are_hashable_and_static():
    assert Bernoulli() == BERNOULLI
    assert BERNOULLI != CATEGORICAL
    assert len({BERNOULLI, CATEGORICAL, Bernoulli()}) == 2
    mean = jax.jit(lambda fam, logits: fam.mean(logits), static_argnums=0)
    np.testing.assert_allclose(mean(CATEGORICAL, jnp.zeros((2, 4))), 0.25)


@pytest.mark.parametrize("fam", FAMILIES, ids=str)
def test_lookup_by_name(fam):
    assert family(fam.name) is fam


def test_unknown_name_is_answered_with_the_nearest():
    with pytest.raises(ValueError, match=r"^unknown family 'categorial': .* 'categorical'\?$"):
        family("categorial")
    with pytest.raises(ValueError, match="choose one of 'bernoulli', 'categorical'"):
        family("gaussian")
