"""Arguments that are not what is asked for, which are refused in one sentence that names them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gumbel import exact, samplers
from gumbel.noise import gumbel_noise
from gumbel.unimix import binary_unimix, unimix

KEY = jax.random.key(0)


def total(params, batch, key, sample):
    return sample("z", params + batch).sum(axis=-1)


def looped(length):
    def objective(params, batch, key, sample):
        def body(carry, _):
            return carry + sample("z", params + batch).sum(axis=-1), None

        return sample.scan(body, jnp.zeros(2), length=length)[0]

    return objective


def expected(objective=total, num_variables=2, **options):
    params, batch = jnp.zeros(num_variables), jnp.zeros((2, num_variables))
    return exact.expected_cost(objective, params, batch, KEY, "bernoulli", **options)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: expected(chunk_size=2.5), TypeError, "chunk_size must be an integer .* got 2.5"),
        (lambda: expected(chunk_size=0), ValueError, "chunk_size must be an integer, 1 or more"),
        (lambda: expected(max_values=None), TypeError, "max_values must be an integer"),
        (
            lambda: expected(num_variables=33, max_values=1 << 40),
            ValueError,
            "8589934592 joint values .* over max_values=2147483647",
        ),
        (lambda: expected(looped(-1)), ValueError, "the length of sample.scan .* 0 or more"),
        (lambda: expected(looped(3.0)), TypeError, "the length of sample.scan must be an integer"),
        (lambda: expected(looped(True)), ValueError, "the length of sample.scan .* got True"),
        (
            lambda: expected(lambda p, b, k, sample: sample("z", p + b, family=3)),
            TypeError,
            "family is 3: give gumbel.BERNOULLI",
        ),
        (
            lambda: expected(samplers.condition(total, {"z": jnp.array([[3.0, 0.0], [0.0, 1.0]])})),
            ValueError,
            "observed value of site 'z' is not within 0 and 1",
        ),
        (lambda: gumbel_noise(KEY, (3,), jnp.int32), TypeError, "a floating one, got int32"),
        (lambda: gumbel_noise(KEY, 3), TypeError, "a tuple of integers, got 3"),
        (
            lambda: unimix(jnp.zeros(3), jnp.full((5, 1), 0.1)),
            ValueError,
            r"share of shape \(5, 1\) does not broadcast to logits of \(3,\)",
        ),
        (lambda: binary_unimix(jnp.zeros(3), jnp.full((5, 1), 0.1)), ValueError, "share of shape"),
    ],
)
def test_what_is_out_of_range_is_refused_by_name(call, error, message):
    with pytest.raises(error, match=message):
        call()


def test_an_observed_value_may_be_relaxed_or_nan():
    for value in (0.5, jnp.nan):
        observed = samplers.condition(total, {"z": jnp.full((2, 2), value)})
        cost = observed(jnp.zeros(2), jnp.zeros((2, 2)), KEY, samplers.mean_field("bernoulli"))
        assert jnp.array_equal(cost, jnp.full(2, 2 * value), equal_nan=True)


def test_observed_categories_that_are_no_distribution_are_refused():
    def objective(params, batch, key, sample):
        return sample("z", params, family="categorical", where=batch).sum((-2, -1))

    logits, sampler = jnp.zeros((2, 2, 3)), samplers.mean_field()
    everywhere = jnp.ones((2, 2), bool)
    soft = jnp.full((2, 2, 3), 1 / 3)
    for wrong in (0.0, 0.9):
        values = soft.at[1, 0].set(wrong)
        observed = samplers.condition(objective, {"z": values})
        with pytest.raises(ValueError, match="rows that sum to 1, and mask variables that are not"):
            observed(logits, everywhere, KEY, sampler)
        cost = observed(logits, everywhere.at[1, 0].set(False), KEY, sampler)
        assert cost.tolist() == pytest.approx([2.0, 1.0])
    cost = samplers.condition(objective, {"z": soft})(logits, everywhere, KEY, sampler)
    assert cost.tolist() == pytest.approx([2.0, 2.0])


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.int32])
@pytest.mark.parametrize("family", ["bernoulli", "categorical"])
def test_placeholders_at_masked_variables_are_no_observed_values(family, dtype):
    """Whatever is masked is 0; beside the mask, the same values are refused."""
    width = (3,) if family == "categorical" else ()

    def objective(params, batch, key, sample):
        return sample("z", params, family=family, where=batch).reshape(2, -1).sum(-1)

    def of_a_loop(params, batch, key, sample):
        def step(total, _):
            return total + objective(params, batch, key, sample), None

        return sample.scan(step, jnp.zeros(2), length=4)[0]

    label = jnp.array([[1, -1], [1, 1]])
    values = (jax.nn.one_hot(label, 3) if width else label).astype(dtype)
    logits, mask, sampler = jnp.zeros((2, 2, *width)), label >= 0, samplers.mean_field()
    observed = samplers.condition(objective, {"z": values})
    assert observed(logits, mask, KEY, sampler).tolist() == [1.0, 2.0]
    for minus in (values, values.at[0, 1].set(-1)):  # one_hot(-1) is 0
        observed = samplers.condition(objective, {"z": minus})
        assert observed(logits, mask, KEY, sampler).tolist() == [1.0, 2.0]
        with pytest.raises(ValueError, match="'z'"):
            observed(logits, jnp.ones((2, 2), bool), KEY, sampler)
        steps = jnp.repeat(minus[:, None], 4, axis=1)
        observed = samplers.condition(of_a_loop, {"z": steps})
        assert observed(logits, mask, KEY, sampler).tolist() == [4.0, 8.0]
    traced = jax.jit(lambda mask: observed(logits, mask, KEY, samplers.mean_field()))
    assert traced(mask).tolist() == [4.0, 8.0]


def test_params_may_hold_integers_and_keys():
    def objective(params, batch, key, sample):
        noise = jax.random.normal(params["key"])
        return (params["n"] + noise) * sample("z", params["logits"], family="bernoulli")[:, 0]

    params = {"logits": jnp.zeros((2, 1)), "n": jnp.array(2), "key": KEY}
    value, gradient = exact.value_and_grad(objective, params, None, KEY)
    slope = 2 + float(jax.random.normal(KEY))
    assert float(value) == pytest.approx(slope / 2)
    np.testing.assert_allclose(gradient["logits"], slope / 8, rtol=1e-5)
    assert gradient["n"].dtype == jax.dtypes.float0
