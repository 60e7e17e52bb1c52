"""Subsets of values, drawn and relaxed, and logits mixed with the uniform distribution."""

import itertools
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import special, stats

import gumbel
from gumbel import gumbel_top_k, ordered_log_prob, relaxed_top_k
from tests.gumbel.test_multisample import ordered_probability

KEY = jax.random.key(6)
LOGITS = jnp.array([0.0, 1.0, -0.5, 0.3])


def test_top_k_draws_every_order_as_often_as_its_log_probability_says():
    count = 20_000
    draw = jax.jit(jax.vmap(lambda key: gumbel_top_k(key, LOGITS, 2)))
    z, log_prob = draw(jax.random.split(KEY, count))
    orders = list(itertools.permutations(range(4), 2))
    p = special.softmax(np.asarray(LOGITS, np.float64))
    expected = np.array([ordered_probability(p, order) for order in orders])
    index = np.asarray(z.argmax(-1))
    observed = [np.sum(np.all(index == order, axis=-1)) for order in orders]
    assert stats.chisquare(observed, count * expected).pvalue > 1e-4
    # With replacement, less what is equal, the orders have other probabilities.
    independent = np.array([p[first] * p[second] for first, second in orders])
    assert stats.chisquare(observed, count * independent / independent.sum()).pvalue < 1e-4
    own = expected[[orders.index(tuple(pair)) for pair in index[:50].tolist()]]
    np.testing.assert_allclose(np.exp(log_prob[:50]), own, rtol=1e-5)
    one_hot = jnp.eye(4)[jnp.array(orders)]
    np.testing.assert_allclose(np.exp(ordered_log_prob(LOGITS, one_hot)), expected, rtol=1e-5)


def test_the_gradient_of_the_log_probability_is_the_score():
    """Its expectation is 0, by enumeration of all orders."""
    one_hot = jnp.eye(4)[jnp.array(list(itertools.permutations(range(4), 3)))]
    scores = jax.jit(jax.vmap(jax.value_and_grad(ordered_log_prob), in_axes=(None, 0)))
    log_prob, score = scores(LOGITS, one_hot)
    assert float(jnp.abs(score).max()) > 0.5
    np.testing.assert_allclose(jnp.exp(log_prob) @ score, 0, atol=1e-6)


@pytest.mark.parametrize("mask", [-np.inf, -1e9])
def test_ruled_out_values_and_repeated_ones_have_no_probability(mask):
    logits = jnp.array([0.0, mask, 1.0])
    draw = jax.jit(jax.vmap(lambda key: gumbel_top_k(key, logits, 2)))
    z, log_prob = draw(jax.random.split(KEY, 100))
    assert float(z[..., 1].max()) == 0
    assert np.isfinite(log_prob).all()
    assert ordered_log_prob(logits, jnp.eye(3)[jnp.array([0, 1])]) == -jnp.inf
    assert ordered_log_prob(logits, jnp.eye(3)[jnp.array([0, 0])]) == -jnp.inf
    gradient = jax.grad(ordered_log_prob)(logits, z[0])
    assert np.isfinite(gradient).all()


@pytest.mark.parametrize("mask", [-np.inf, -1e9])
def test_with_fewer_possible_values_than_k_the_subset_is_nan(mask):
    """In the rows that have too few, and in no other."""
    logits = jnp.array([[0.0, mask, mask, 1.0], [0.0, mask, 0.0, 1.0], [-jnp.inf] * 4])

    @jax.jit
    def subsets(logits):
        z, log_prob = gumbel_top_k(KEY, logits, 3)
        soft, hard = (relaxed_top_k(KEY, logits, 3, 0.5, hard=hard) for hard in (False, True))
        return z, log_prob, soft, hard

    for value in subsets(logits):
        assert np.isnan(value[0]).all()
        assert np.isfinite(value[1]).all()
        assert np.isnan(value[2]).all()


@pytest.mark.parametrize("mask", [-np.inf, -1e9])
def test_an_order_that_goes_on_to_excluded_values_has_no_probability(mask):
    logits = jnp.array([0.0, mask, mask, 1.0])
    log_prob = jax.jit(ordered_log_prob)
    assert log_prob(logits, jnp.eye(4)[jnp.array([3, 0, 1])]) == -jnp.inf
    assert np.isnan(log_prob(jnp.full(4, -jnp.inf), jnp.eye(4)[:1]))
    assert np.isnan(log_prob(logits.at[0].set(jnp.nan), jnp.eye(4)[3:]))


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16, jnp.float16])
def test_relaxed_subsets_have_k_values_and_finite_gradients(dtype):
    logits = jnp.asarray([[1e4, 0.0, -1e4, 3.0, -jnp.inf], [0.0, 0.1, 0.2, 0.3, 0.4]], dtype)

    def total(logits, temperature, hard):
        y = relaxed_top_k(KEY, logits, 3, temperature, hard=hard)
        return jnp.sum(y.astype(jnp.float32) * jnp.arange(5)), y

    gradients = jax.jit(jax.grad(total, argnums=(0, 1), has_aux=True), static_argnames="hard")
    for temperature, hard in itertools.product((0.01, 1.0, 100.0), (False, True)):
        gradient, y = gradients(logits, temperature, hard)
        assert y.dtype == dtype
        np.testing.assert_allclose(y.astype(jnp.float32).sum(-1), 3, rtol=2e-2)
        assert float(y.min()) >= 0
        assert float(y[0, 4]) == 0
        assert all(np.isfinite(np.asarray(g, np.float32)).all() for g in gradient)
        if hard:
            assert set(np.unique(np.asarray(y, np.float32))) == {0.0, 1.0}


def test_relaxed_subsets_are_the_softmax_at_one_and_the_drawn_subset_when_cold():
    logits = jax.random.normal(KEY, (50, 6))

    @jax.jit
    def results(logits):
        return (
            (relaxed_top_k(KEY, logits, 1, 0.7), gumbel.gumbel_softmax(KEY, logits, 0.7)),
            gumbel_top_k(KEY, logits, 3)[0].sum(-2),
            relaxed_top_k(KEY, logits, 3, 1.0, hard=True),
            relaxed_top_k(KEY, logits, 3, 1e-3),
            relaxed_top_k(KEY, logits, 6, 1.0, hard=True),
        )

    ones, drawn, hard, cold, everything = results(logits)
    np.testing.assert_allclose(*ones, rtol=1e-5)
    np.testing.assert_array_equal(hard, drawn)
    assert float(jnp.mean(jnp.abs(cold - drawn).max(-1) < 0.01)) > 0.9
    np.testing.assert_array_equal(everything, 1)


@pytest.mark.parametrize(("k", "temperature"), [(2, 0.7), (3, 2.0)])
def test_each_softmax_of_a_relaxed_subset_softly_excludes_what_earlier_ones_selected(
    k, temperature
):
    logits = jax.random.normal(KEY, (20, 6))
    first, found = (relaxed_top_k(KEY, logits, n, temperature) for n in (1, k))
    perturbed, expected = temperature * np.log(np.asarray(first, np.float64)), 0.0
    for _ in range(k):
        p = special.softmax(perturbed / temperature, axis=-1)
        expected += p
        perturbed = perturbed + np.log1p(-p)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-6)


def test_a_hard_subset_has_the_gradient_of_the_relaxed_one():
    weights = jnp.arange(4.0)
    gradients = [
        jax.jit(jax.grad(lambda x, h=hard: relaxed_top_k(KEY, x, 2, 0.5, hard=h) @ weights))(LOGITS)
        for hard in (False, True)
    ]
    np.testing.assert_array_equal(*gradients)
    assert float(jnp.abs(gradients[0]).max()) > 1e-3


@pytest.mark.parametrize("function", [gumbel_top_k, partial(relaxed_top_k, temperature=1.0)])
@pytest.mark.parametrize("k", [0, 5])
def test_more_distinct_values_than_there_are_are_refused(function, k):
    message = f"k={k} distinct values of 4 cannot be drawn: give k from 1 to 4"
    with pytest.raises(ValueError, match=message):
        function(KEY, LOGITS, k=k)


def test_unimix_gives_every_possible_value_its_share():
    logits = jnp.array([1e4, 0.0, -1e4, -jnp.inf, -1e9])
    share = 0.03
    unimix = jax.jit(gumbel.unimix)
    mixed = unimix(logits, share)
    np.testing.assert_allclose(jnp.exp(mixed), [0.98, 0.01, 0.01, 0, 0], rtol=1e-4)
    plain = jnp.array([0.5, -1.0, 2.0])
    p = jax.nn.softmax(plain)
    np.testing.assert_allclose(jnp.exp(unimix(plain, share)), 0.97 * p + 0.01, rtol=1e-5)
    np.testing.assert_allclose(unimix(plain, 0.0), jnp.log(p), rtol=1e-5)
    np.testing.assert_allclose(unimix(plain, 1.0), -jnp.log(3.0), rtol=1e-5)
    np.testing.assert_allclose(unimix(logits.at[:3].set(0.0), 0.5)[:3], -jnp.log(3.0))


def test_binary_unimix_is_unimix_of_two_values():
    odds = jnp.array([-1e4, -2.0, 0.0, 3.0, 1e4])
    binary_unimix = jax.jit(gumbel.binary_unimix)
    mixed = jax.nn.sigmoid(binary_unimix(odds, 0.1))
    np.testing.assert_allclose(mixed, 0.9 * jax.nn.sigmoid(odds) + 0.05, rtol=1e-4)
    ends = jnp.array([-jnp.inf, jnp.inf])
    np.testing.assert_array_equal(binary_unimix(ends, 0.1), ends)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_gradients_of_unimix_are_finite(dtype):
    logits = jnp.asarray([1e4, 0.0, -1e4, -jnp.inf], dtype)
    jacobian = jax.jit(jax.jacobian(lambda x, share: gumbel.unimix(x, share)[:3]))
    for share in (0.0, 0.01, 1.0):
        gradient = jacobian(logits, share)
        assert np.isfinite(np.asarray(gradient, np.float32)).all()
    odds = jnp.asarray([-jnp.inf, -1e4, 0.0, jnp.inf], dtype)
    total = lambda x: gumbel.binary_unimix(x, 0.01)[1:3].sum().astype(jnp.float32)  # noqa: E731
    slope = jax.jit(jax.grad(total))(odds)
    assert np.isfinite(np.asarray(slope, np.float32)).all()
    assert np.isnan(gumbel.unimix(jnp.array([jnp.nan, 0.0]), 0.1)).all()


@pytest.mark.parametrize("share", [-0.1, 1.5, float("nan")])
def test_a_share_out_of_range_is_refused(share):
    for function in (gumbel.unimix, gumbel.binary_unimix):
        with pytest.raises(ValueError, match=r"share must be in \[0, 1\]"):
            function(LOGITS, share)
        assert np.isnan(jax.jit(function)(LOGITS, share)).all()


def test_every_variable_may_have_its_own_share():
    shares = jnp.array([0.0, 0.2])
    alone = [gumbel.binary_unimix(jnp.array(5.0), float(share)) for share in shares]
    both = gumbel.binary_unimix(jnp.full(2, 5.0), shares)
    np.testing.assert_allclose(both, jnp.stack(alone), rtol=1e-6)
    rows = gumbel.unimix(jnp.array([[5.0, 0.0]] * 2), shares[:, None])
    np.testing.assert_allclose(rows[1], gumbel.unimix(jnp.array([5.0, 0.0]), 0.2), rtol=1e-6)
    with pytest.raises(ValueError, match=r"share has shape \(2,\): give a scalar or one per row"):
        gumbel.unimix(jnp.zeros((2, 2)), shares)
