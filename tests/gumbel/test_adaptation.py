"""The slope of the squared error of a gradient estimate in its temperature."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gumbel.adaptation import squared_error_slope

DRAWS = 40_000


@pytest.fixture(scope="module", name="slopes")
def fixture_slopes():
    """`slopes(tau, n)`: draws for an estimate of the gradient (1, -2), with noisy references.

    As in training, a reference shares the noise of the estimate of its own number.

    Its mean is (1 + tau, -2), its variance 1 / tau^2 in each of the two entries.
    """
    gradient = jnp.array([1.0, -2.0])

    def draw(key, tau, n):
        one, two = jax.random.split(key)
        noise = jax.random.normal(one, (2, 2))
        references = gradient + 3 * jax.random.normal(two, (2, 2)) + 2 * noise

        def estimates(t):
            return {"a": gradient[:1] + t + noise[:, :1] / t, "b": gradient[1:] + noise[:, 1:] / t}

        pair = {"a": references[:, :1], "b": references[:, 1:]}
        return squared_error_slope(estimates, pair, tau, average_over=n, spread=0.01)

    keys = jax.random.split(jax.random.key(0), DRAWS)
    return jax.jit(lambda tau, n: jax.vmap(draw, (0, None, None))(keys, tau, n))


@pytest.mark.parametrize(("tau", "n"), [(0.5, 1.0), (1.5, 1.0), (0.5, 10.0), (1.5, 1e30)])
def test_the_slope_is_that_of_squared_bias_plus_variance_over_n(slopes, tau, n):
    """At 4.5 standard errors, a false alarm in 36,000 runs of all four; a wrong n is seen."""
    found = np.asarray(slopes(tau, n))
    error = found.std() / np.sqrt(DRAWS)

    def exact(n):
        return 2 * tau**2 - 2 * 2 / tau**2 / n

    assert abs(found.mean() - exact(n)) < 4.5 * error
    assert abs(found.mean() - exact(2 * n if n < 1e9 else 1)) > 9 * error


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_the_slope_of_short_gradients_is_that_of_the_same_numbers_in_float32(dtype):
    noise = jax.random.normal(jax.random.key(1), (2, 10_000))

    def slope(dtype, short):
        def estimates(t):
            return ((1 + t) / 8 + noise).astype(short).astype(dtype)

        references = (1 / 8 + 3 * noise[::-1]).astype(short).astype(dtype)
        return squared_error_slope(estimates, references, 1.0)

    found, expected = slope(dtype, dtype), slope(jnp.float32, dtype)
    assert found.dtype == jnp.float32
    np.testing.assert_allclose(found, expected, rtol=1e-5)
