"""Finite values and gradients over the whole documented range, in every documented dtype.

Temperatures from 0.01 to 100, logits to +-1e4, 2 to 1000 classes, float32, bfloat16 and float16.
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gumbel import densities, numerics, relaxations
from gumbel.families import BERNOULLI, CATEGORICAL

DTYPES = [jnp.float32, jnp.bfloat16, jnp.float16]
slow = pytest.mark.slow
CLASSES_AND_DTYPES = [
    *((10, jnp.float32), (2, jnp.bfloat16), (1000, jnp.float16)),
    *(
        pytest.param(k, dtype, marks=slow)
        for k, left in ((2, jnp.float16), (1000, jnp.bfloat16))
        for dtype in (jnp.float32, left)
    ),
]
TEMPERATURES = [0.01, 0.1, 1.0, 10.0, 100.0]


def extreme_rows(num_classes, dtype):
    """Logits [rows, K] at the ends of the range and in between."""
    rng = np.random.default_rng(0)
    normal = rng.normal(size=num_classes)
    rows = [
        np.zeros(num_classes),
        normal,
        30 * normal,
        1e4 * np.sign(normal),
        np.full(num_classes, 1e4),
        np.full(num_classes, -1e4),
        np.linspace(-1e4, 1e4, num_classes),
        np.where(np.arange(num_classes) == 0, 1e4, -1e4),
        np.where(np.arange(num_classes) == 0, -1e4, 1e4),
    ]
    return jnp.asarray(np.stack(rows), dtype)


def value_and_gradients(function, *arguments):
    """The value, and the gradients under a cotangent whose entries do not cancel."""
    value, vjp = jax.vjp(function, *arguments)
    cotangent = jnp.cos(jnp.arange(value.size, dtype=jnp.float32)).reshape(value.shape)
    return value, vjp(cotangent.astype(value.dtype))


def assert_finite(named_results):
    for name, result in named_results.items():
        for leaf in jax.tree.leaves(result):
            assert np.isfinite(np.asarray(leaf, np.float32)).all(), name


def at_all_temperatures(function, dtype):
    """Runs `function(temperature)`, jitted, at every temperature, cast to the dtype."""
    return jax.jit(jax.vmap(function))(jnp.asarray(TEMPERATURES, dtype))


@pytest.mark.parametrize(("num_classes", "dtype"), CLASSES_AND_DTYPES)
def test_categorical_relaxations(num_classes, dtype):
    key, logits = jax.random.key(0), extreme_rows(num_classes, dtype)

    def results(temperature):
        relax, exp_relax = relaxations.gumbel_softmax, relaxations.exp_gumbel_softmax
        return {
            "soft": value_and_gradients(partial(relax, key), logits, temperature),
            "hard": value_and_gradients(partial(relax, key, hard=True), logits, temperature),
            "log": value_and_gradients(partial(exp_relax, key), logits, temperature),
        }

    named = at_all_temperatures(results, dtype)
    assert_finite(named)
    values = (named[name][0] for name in ("soft", "hard", "log"))
    soft, hard, log_y = (np.asarray(value, np.float64) for value in values)
    np.testing.assert_allclose(soft.sum(axis=-1), 1, atol=5e-3)
    assert np.isin(hard, [0.0, 1.0]).all()
    assert (hard.sum(axis=-1) == 1).all()
    np.testing.assert_array_equal(log_y.argmax(axis=-1), hard.argmax(axis=-1))


@pytest.mark.parametrize(("num_classes", "dtype"), CLASSES_AND_DTYPES)
def test_categorical_densities(num_classes, dtype):
    logits = extreme_rows(num_classes, dtype)
    corner = jnp.zeros_like(logits).at[:, 0].set(1)
    uniform = CATEGORICAL.uniform_mean(logits)
    log_corner = (jnp.full_like(logits, -6e4)).at[:, 0].set(0)

    def results(temperature):
        simplex, log_space = (
            densities.gumbel_softmax_log_prob,
            densities.exp_gumbel_softmax_log_prob,
        )
        return {
            "corner": value_and_gradients(simplex, corner, logits, temperature),
            "near corner": value_and_gradients(simplex, corner + 1e-4, logits, temperature),
            "uniform": value_and_gradients(simplex, uniform, logits, temperature),
            "log space": value_and_gradients(log_space, log_corner, logits, temperature),
        }

    assert_finite(at_all_temperatures(results, dtype))


@pytest.mark.parametrize("dtype", DTYPES)
def test_bernoulli_relaxations_and_densities(dtype):
    key, logits = jax.random.key(0), extreme_rows(4, dtype)
    ends = jnp.tile(jnp.array([0.0, 1e-7, 0.999, 1.0], dtype), (len(logits), 1))
    far = jnp.tile(jnp.array([-6e4, -1.0, 1.0, 6e4], dtype), (len(logits), 1))

    def results(temperature):
        relax, logit_relax = relaxations.binary_concrete, relaxations.logit_binary_concrete
        log_prob = densities.binary_concrete_log_prob
        logit_log_prob = densities.logit_binary_concrete_log_prob
        return {
            "soft": value_and_gradients(partial(relax, key), logits, temperature),
            "hard": value_and_gradients(partial(relax, key, hard=True), logits, temperature),
            "logit": value_and_gradients(partial(logit_relax, key), logits, temperature),
            "density": value_and_gradients(log_prob, ends, logits, temperature),
            "logit density": value_and_gradients(logit_log_prob, far, logits, temperature),
        }

    named = at_all_temperatures(results, dtype)
    assert_finite(named)
    assert np.isin(np.asarray(named["hard"][0], np.float32), [0.0, 1.0]).all()


@pytest.mark.parametrize(
    ("fam", "size", "dtype"),
    [
        (BERNOULLI, 9, jnp.bfloat16),
        (CATEGORICAL, 1000, jnp.float32),
        (CATEGORICAL, 1000, jnp.float16),
        pytest.param(BERNOULLI, 9, jnp.float32, marks=slow),
        pytest.param(BERNOULLI, 9, jnp.float16, marks=slow),
        pytest.param(CATEGORICAL, 1000, jnp.bfloat16, marks=slow),
    ],
)
def test_families(fam, size, dtype):
    q = extreme_rows(size, dtype)
    p = jnp.roll(q, 1, axis=0)

    @jax.jit
    def results(q, p):
        z = fam.sample(jax.random.key(0), q)
        return {
            "sample": z,
            "mean": value_and_gradients(fam.mean, q),
            "log_prob": value_and_gradients(fam.log_prob, p, z),
            "entropy": value_and_gradients(fam.entropy, q),
            "kl": value_and_gradients(fam.kl, q, p),
        }

    named = results(q, p)
    assert_finite(named)
    assert (named["entropy"][0] >= 0).all()
    assert (named["kl"][0] >= -1e-5).all()


def test_the_grid_catches_a_careless_relaxation():
    def careless(logits, temperature):  # in the dtype of the logits, as given
        noise = relaxations.gumbel_noise(jax.random.key(0), logits.shape, logits.dtype)
        return jax.nn.softmax((logits + noise) / temperature, axis=-1)

    logits = extreme_rows(10, jnp.float16)
    named = {"careless": jax.jit(partial(value_and_gradients, careless))(logits, jnp.float16(0.01))}
    with pytest.raises(AssertionError, match="careless"):
        assert_finite(named)


@pytest.mark.parametrize("transform", [jax.jit, jax.vmap, jax.grad])
def test_concrete_or_none_knows_what_is_traced(transform):
    seen = []

    def note(x):
        seen.append(numerics.concrete_or_none(x))
        return x

    transform(note)(jnp.ones(2) if transform is jax.vmap else 1.0)
    assert seen == [None]
    np.testing.assert_array_equal(numerics.concrete_or_none(jnp.ones(2)), [1, 1])


@pytest.mark.parametrize("upcast", [numerics.upcast, numerics.upcast_saturating])
def test_upcast_widens_16_bits_and_keeps_gradients(upcast):
    for dtype in DTYPES:
        x = jnp.asarray([1.5, -2.0], dtype)
        assert upcast(x).dtype == jnp.float32
        np.testing.assert_array_equal(upcast(x), [1.5, -2.0])
        gradient = jax.grad(lambda x: jnp.sum(3 * upcast(x)))(x)
        assert gradient.dtype == dtype
        np.testing.assert_array_equal(gradient.astype(jnp.float32), [3, 3])
    with jax.enable_x64(True):
        assert upcast(jnp.ones(2, jnp.float64)).dtype == jnp.float64


def test_only_the_saturating_upcast_hides_an_overflow():
    x = jnp.float16(1.0)
    assert jnp.isinf(jax.grad(lambda x: 1e6 * numerics.upcast(x))(x))
    assert jax.grad(lambda x: -1e6 * numerics.upcast_saturating(x))(x) == -65504
    assert jnp.isnan(jax.grad(lambda x: jnp.nan * numerics.upcast_saturating(x))(x))
