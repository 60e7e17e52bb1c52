"""Inputs at the edge of what is documented: right, or refused by name."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gumbel
from gumbel import BERNOULLI, check_objective, estimators, exact, lab, schedules
from gumbel.noise import gumbel_noise

KEY = jax.random.key(0)


def gradient(name, objective, params, batch, family=None, **options):
    """One estimate, with the diagnostics."""
    estimator = estimators.make(name, family, **options)
    state = estimator.init(objective, params, batch, KEY)

    @jax.jit
    def found(params, batch, key, state):
        slope = jax.grad(estimator.surrogate, argnums=1, has_aux=True)
        return slope(objective, params, batch, key, 1.0, state)

    value, (_, info) = found(params, batch, KEY, state)
    return value, info


@pytest.mark.parametrize("name", ["disarm", "arms"])
def test_a_categorical_variable_of_one_value_is_there(name):
    def objective(params, batch, key, sample):
        only = sample("only", params["only"] + batch[:, None, None], family="categorical")
        y = sample("y", params["y"] + batch[:, None], family="bernoulli")
        return jnp.square(4 * y[:, 0] * only.sum((1, 2)) - 1)

    params = {"only": jnp.zeros((1, 1)), "y": jnp.zeros(1)}
    slope, info = gradient(name, objective, params, jnp.zeros(2048))
    assert abs(info.cost.mean() - 5) < 0.5  # 1 without the value of `only`; z over 5 at 0.5
    assert abs(slope["y"][0] - 2) < 0.5
    np.testing.assert_array_equal(slope["only"], 0)


def test_the_weights_of_rare_values_keep_their_digits():
    """`1 - p` of the common value is 3e-8, which float32 rounds to 0 or to 6e-8."""
    costs = jnp.array([0.0, 1e8, 2e8])

    def objective(params, batch, key, sample):
        return (sample("z", params + batch[:, None]) * costs).sum(-1)

    params = jnp.array([0.0, -18.0, -18.0])
    slope, info = gradient(
        "unordered_set", objective, params, jnp.zeros(4096), "categorical", num_samples=2
    )
    expected = lambda params: jax.nn.softmax(params) @ costs  # noqa: E731
    error = 5 * info.cost.std() / 64  # of the mean: five standard errors, about 3 %
    assert abs(info.cost.mean() - expected(params)) < error
    np.testing.assert_allclose(slope, jax.grad(expected)(params), atol=2 * error)


@pytest.mark.parametrize("name", ["sf", "gumbel_softmax", "rebar"])
def test_an_objective_over_traced_values_is_not_checked(name):
    """As in a sweep over a weight in the cost, under vmap."""

    def slope(weight):
        def objective(params, batch, key, sample):
            return (weight * jnp.square(sample("z", params + batch) - 0.3)).sum(-1)

        return gradient(name, objective, jnp.zeros(3), jnp.zeros((4, 1)), BERNOULLI)[0]

    together = jax.vmap(slope)(jnp.array([1.0, 2.0]))
    alone = jnp.stack([slope(1.0), slope(2.0)])
    np.testing.assert_allclose(together, alone, rtol=1e-5)


def test_what_compares_values_cannot_do_so_over_traced_values():
    def cost(weight):
        def objective(params, batch, key, sample):
            return weight * sample("z", params + batch).sum(-1)

        return objective

    arguments = jnp.zeros(3), jnp.zeros((4, 1)), KEY, BERNOULLI
    found = jax.vmap(lambda weight: exact.expected_cost(cost(weight), *arguments))(jnp.ones(2))
    np.testing.assert_allclose(found, 1.5)
    with pytest.raises(ValueError, match=r"call it outside of jit, vmap and grad"):
        jax.vmap(lambda weight: check_objective(cost(weight), *arguments).ok)(jnp.ones(2))


def test_every_discrete_sample_has_noise_of_its_own():
    z = jnp.tile(jnp.eye(3)[:1], (4, 1))
    relaxed = gumbel.conditional_gumbel_softmax(KEY, jnp.zeros(3), z, 1.0)
    assert relaxed.shape == (4, 3)
    assert len(np.unique(relaxed[:, 0])) == 4
    assert (relaxed.argmax(-1) == 0).all()
    relaxed = gumbel.conditional_binary_concrete(KEY, jnp.zeros(2), jnp.ones((4, 2)), 1.0)
    assert len(np.unique(relaxed)) == 8
    assert (relaxed > 0.5).all()


@pytest.mark.parametrize("share", [0.0, 1e-6, 0.3, 1.0])
def test_the_derivative_of_unimix_in_the_share(share):
    p = np.array([0.9, 0.1])
    found = jax.jacobian(lambda share: gumbel.unimix(jnp.log(jnp.asarray(p)), share))(share)
    np.testing.assert_allclose(found, (0.5 - p) / ((1 - share) * p + share / 2), rtol=1e-4)


def test_k_is_an_integer():
    for k in (3.0, jnp.array(2.5)):
        with pytest.raises(TypeError, match="k must be an integer that is not traced"):
            gumbel.gumbel_top_k(KEY, jnp.zeros(4), k)
    with pytest.raises(TypeError, match="k must be an integer that is not traced"):
        jax.jit(lambda k: gumbel.gumbel_top_k(KEY, jnp.zeros(4), k))(2)
    for k in (3, np.int64(3)):
        z, _ = gumbel.gumbel_top_k(KEY, jnp.zeros(4), k)
        assert z.shape == (3, 4)


@pytest.mark.parametrize(
    ("declared", "message"),
    [
        ({"passes": "m + m - 1"}, "write sums and products of numbers and L, m, N and V"),
        ({"passes": "m / 2 + 1"}, "write sums and products of numbers and L, m, N and V"),
        ({"enumerates": True}, "enumerates: give it an option max_values"),
    ],
)
def test_what_a_registration_may_not_declare(declared, message):
    with pytest.raises(ValueError, match=message):
        estimators.register("mine", unbiased=True, **declared)(lambda family: None)
    assert "mine" not in estimators.names()


@pytest.mark.parametrize("name", ["rebar", "relax", "nvil"])
def test_a_state_of_other_sites_is_refused(name):
    def objective(*sites):
        return lambda params, batch, key, sample: sum(
            sample(site, params + batch).sum(-1) for site in sites
        )

    arguments = jnp.zeros(3), jnp.zeros((4, 1)), KEY
    estimator = estimators.make(name, BERNOULLI)
    state = estimator.init(objective("z"), *arguments)
    with pytest.raises(ValueError, match=f"estimator '{name}' cannot use a .* as its state"):
        estimator.surrogate(objective("y", "w"), *arguments, 1.0, state)


def test_no_tracer_leaks_from_several_paths():
    def objective(params, batch, key, sample):
        return sample("z", params + batch).sum(-1)

    with jax.checking_leaks():
        gradient("rloo", objective, jnp.zeros(3), jnp.zeros((4, 1)), BERNOULLI)


def test_comparisons_take_arrays_and_refuse_what_has_no_gradient():
    def objective(params, batch, key, sample):
        return sample("z", params["z"] + batch).sum(-1)

    arguments = jnp.zeros((4, 1)), KEY
    params = {"z": jnp.zeros(2)}
    options = {"family": BERNOULLI, "estimators": ["gumbel_softmax"], "num_draws": 10}
    found = lab.compare(objective, params, *arguments, temperatures=jnp.array([0.5]), **options)
    assert json.loads(json.dumps(found.as_dict()))["rows"][0]["temperature"] == 0.5
    empty = lab.compare(objective, params, *arguments, **options | {"estimators": []})
    assert empty.rows == ()
    with pytest.raises(ValueError, match="reference_draws is -5: give at least 10"):
        lab.compare(objective, params, *arguments, reference_draws=-5, **options)
    with pytest.raises(TypeError, match="params has int32 at 'steps', which has no gradient"):
        lab.compare(objective, params | {"steps": jnp.array(3)}, *arguments, **options)


def test_a_dtype_by_its_name_is_that_dtype():
    with jax.enable_x64(True):
        by_name, by_type = (gumbel_noise(KEY, (8,), dtype) for dtype in ("float64", np.float64))
        np.testing.assert_array_equal(by_name, by_type)
        assert (by_name != by_name.astype(np.float32)).any()


def test_a_schedule_at_any_step():
    exponential = schedules.exponential(1e-9, 0.1)
    assert float(exponential(2**31 + 5)) == pytest.approx(np.exp(-(2**31) / 1e9), rel=1e-5)
    assert float(schedules.exponential(1e-3, 0.1, interval=1000)(jnp.uint8(200))) == 1
    for schedule in (
        schedules.exponential(0.01, 0.5),
        schedules.slope(0.1, 3.0),
        schedules.linear(1.0, 0.5, 100),
        schedules.cosine(1.0, 0.5, 100),
    ):
        assert float(schedule(-50)) == float(schedule(0)) == 1


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("unordered_set", {"num_samples": 2}),
        ("marginalization", {"chunk_size": 2}),
        pytest.param("indecater", {"chunk_size": 1}, marks=pytest.mark.slow),
    ],
)
def test_loops_run_under_shard_map(name, options):
    """Which asks of a loop's carry that it varies from its start on as it does at its end."""

    def objective(params, batch, key, sample):
        return (sample("z", params + batch) * jnp.arange(3.0)).sum(-1)

    estimator = estimators.make(name, BERNOULLI, **options)
    arguments = jnp.zeros(3), jnp.ones((4, 3)), KEY, 1.0, ()

    @jax.jit
    def slope(params, batch):
        found = jax.grad(estimator.surrogate, argnums=1, has_aux=True)
        return found(objective, params, batch, *arguments[2:])[0]

    spec = jax.sharding.PartitionSpec
    placed = {"in_specs": (spec(), spec("x")), "out_specs": spec()}
    mesh = jax.make_mesh((1,), ("x",), (jax.sharding.AxisType.Auto,))
    sharded = jax.shard_map(slope, mesh=mesh, **placed)
    np.testing.assert_allclose(jax.jit(sharded)(*arguments[:2]), slope(*arguments[:2]), rtol=1e-5)
