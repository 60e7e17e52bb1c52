"""Inputs at the edge of what is documented: right, or refused by name."""

import functools
import json
import re
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import export

import gumbel
from gumbel import BERNOULLI, check_objective, estimators, exact, lab, samplers, schedules
from gumbel.estimators.nvil import flat_features
from gumbel.noise import gumbel_noise
from tests.gumbel.walks import THROUGH_THE_SAMPLE

KEY = jax.random.key(0)
INFO = estimators.Info(jnp.zeros(4), {})
MESH = jax.make_mesh((1,), ("x",), (jax.sharding.AxisType.Auto,))
PLACED = {
    "in_specs": (jax.sharding.PartitionSpec(), jax.sharding.PartitionSpec("x")),
    "out_specs": jax.sharding.PartitionSpec(),
}


def gradient(name, objective, params, batch, family=None, *, checked=False, **options):
    """One estimate, with the diagnostics; `checked` is for an `init` that sees values."""
    estimator = estimators.make(name, family, **options)
    state = estimator.init(objective, params, batch, KEY) if checked else None

    @jax.jit
    def found(params, batch, key, state):
        start = state if checked else estimator.init(objective, params, batch, key)
        slope = jax.grad(estimator.surrogate, argnums=1, has_aux=True)
        return slope(objective, params, batch, key, 1.0, start)

    value, (_, info) = found(params, batch, KEY, state)
    return value, info


@pytest.mark.parametrize("name", ["disarm", "arms"])
def test_a_categorical_variable_with_one_value_works(name):
    """Costs are in [1, 9] and slopes in [0, 3]: by Hoeffding, 2 seeds of 10^7 are 0.5 off."""

    def objective(params, batch, key, sample):
        only = sample("only", params["only"] + batch[:, None, None], family="categorical")
        y = sample("y", params["y"] + batch[:, None], family="bernoulli")
        return jnp.square(4 * y[:, 0] * only.sum((1, 2)) - 1)

    params = {"only": jnp.zeros((1, 1)), "y": jnp.zeros(1)}
    slope, info = gradient(name, objective, params, jnp.zeros(2048))
    assert abs(info.cost.mean() - 5) < 0.5  # 1 without the value of `only`
    assert abs(slope["y"][0] - 2) < 0.5  # 0 without it
    np.testing.assert_array_equal(slope["only"], 0)


def test_the_weights_of_rare_values_keep_their_digits():
    """`1 - p` of the common value is 3e-8, which float32 rounds to 0 or to 6e-8.

    A cost and three slopes are compared, each within five standard errors, 3 to 8%: one seed of
    400,000 fails.
    """
    costs, size = jnp.array([0.0, 1e8, 2e8]), 4096

    def objective(params, batch, key, sample):
        return (sample("z", params + batch[:, None]) * costs).sum(-1)

    logits = jnp.array([0.0, -18.0, -18.0])
    params = jnp.tile(logits, (size, 1))  # each example's own, for the spread of its slopes
    slope, info = gradient(
        "unordered_set", objective, params, jnp.zeros(size), "categorical", num_samples=2
    )
    value, expected = jax.value_and_grad(lambda x: jax.nn.softmax(x) @ costs)(logits)
    for found, wanted in ((info.cost, value), (size * slope, expected)):
        error = 5 * found.std(axis=0) / size**0.5
        assert np.all(abs(found.mean(axis=0) - wanted) < error)
        assert np.all(error < 0.1 * abs(wanted))


@pytest.mark.parametrize("name", ["sf", "rebar"])
def test_an_objective_over_traced_values_is_not_checked(name):
    """As in a sweep over a weight in the cost, under vmap."""

    def slope(weight):
        def objective(params, batch, key, sample):
            return (weight * jnp.square(sample("z", params + batch) - 0.3)).sum(-1)

        arguments = jnp.zeros(3), jnp.zeros((4, 1)), BERNOULLI
        return gradient(name, objective, *arguments, checked=True)[0]

    together = jax.vmap(slope)(jnp.array([1.0, 2.0]))
    np.testing.assert_allclose(together[1], slope(2.0), rtol=1e-5)


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
        ({"passes": "m m + 1"}, "write sums and products of numbers and L, m, N and V"),
        ({"passes": "k + 1"}, "write sums and products of numbers and L, m, N and V"),
        (
            {"ranges": {"decai": estimators.Range()}},
            "ranges of .* names 'decai': did you mean decay",
        ),
        ({"ranges": {"decay": 3}}, "ranges of estimator 'mine': decay is no Range, got 3"),
        ({"kinds": {"number": int}}, "kinds of .* names 'number': choose one of decay"),
        ({"biased_if": [("decays", 0)]}, "biased_if of .* names 'decays': did you mean decay"),
        ({"passes": "m / 2 + 1"}, "write sums and products of numbers and L, m, N and V"),
        ({"enumerates": True}, "enumerates: give it an option max_values"),
    ],
)
def test_what_a_registration_may_not_declare(declared, message):
    with pytest.raises(ValueError, match=message):
        estimators.register("mine", unbiased=True, **declared)(lambda family, *, decay=0.5: None)
    assert "mine" not in estimators.names()


@pytest.mark.parametrize(
    ("init", "returned", "message"),
    [
        ({"n": 0}, None, "its init returns a state with a int, 0: give arrays"),
        ((), lambda x, state: (x, (state, INFO)), r"a value of shape \(4,\): give its mean"),
        (
            (),
            lambda x, state: (x.sum(), (INFO, state)),
            r"returns \(Info, tuple\) beside its value",
        ),
        (
            {"n": jnp.zeros(2)},
            lambda x, state: (x.sum(), ({"n": jnp.zeros(3)}, INFO)),
            r"a state of shapes {'n': \(3,\)} where it was given {'n': \(2,\)}",
        ),
        ({}, lambda x, state: (x.sum(), ({"m": x}, INFO)), r"{'m': \(4,\)} where it was given {}"),
    ],
)
def test_what_an_estimator_may_not_return(init, returned, message):
    @estimators.register("mine", unbiased=False)
    def mine(family):
        def surrogate(objective, params, batch, key, temperature, state):
            return returned(batch[:, 0], state)

        return estimators.Estimator(lambda *_: init, surrogate)

    try:
        with pytest.raises(TypeError, match=f"estimator 'mine': .*{message}"):
            gradient("mine", square, jnp.zeros(3), jnp.zeros((4, 1)), BERNOULLI)
    finally:
        estimators.unregister("mine")


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


@pytest.mark.parametrize("name", ["rloo", "muprop", "marginalization", "unordered_set"])
def test_an_objective_that_is_not_pure_is_told_so(name):
    calls = []

    def objective(params, batch, key, sample):
        calls.append(None)
        return sample(f"z{len(calls)}", params + batch).sum(-1)

    estimator = estimators.make(name, BERNOULLI)
    with pytest.raises(ValueError, match="is sampled now, but not in the first pass of the obj"):
        state = estimator.init(objective, jnp.zeros(3), jnp.zeros((4, 1)), KEY)
        estimator.surrogate(objective, jnp.zeros(3), jnp.zeros((4, 1)), KEY, 1.0, state)


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
    with pytest.raises(ValueError, match="reference_draws must be an integer, 10 or more, got -5"):
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

    sharded = jax.shard_map(slope, mesh=MESH, **PLACED)
    np.testing.assert_allclose(jax.jit(sharded)(*arguments[:2]), slope(*arguments[:2]), rtol=1e-5)


def per_device(cost, name):
    """The shape of a gradient under `shard_map`, of which nothing is run."""

    def objective(params, batch, key, sample):
        return cost(sample("z", params + batch), batch)

    @functools.partial(jax.shard_map, mesh=MESH, **PLACED)
    def slope(params, batch):
        if name == "exact":
            return exact.value_and_grad(objective, params, batch, KEY, BERNOULLI)[1]
        estimator = estimators.make(name, BERNOULLI)
        state = estimator.init(objective, params, batch, KEY)
        return jax.grad(estimator.surrogate, argnums=1, has_aux=True)(
            objective, params, batch, KEY, 1.0, state
        )[0]

    return jax.eval_shape(slope, jnp.zeros(3), jnp.ones((4, 3)))


@pytest.mark.parametrize("name", ["sf", "rloo", "exact"])
@pytest.mark.parametrize(
    "cost",
    [
        lambda z, x: jnp.square(jax.lax.pmean(z.mean(), "x") - 0.3),
        lambda z, x: (z @ jax.lax.all_gather(z, "x", tiled=True).T).sum(),
        lambda z, x: jax.checkpoint(lambda z: z.sum() - jax.lax.psum(z.sum(), "x"))(z),
    ],
    ids=["pmean", "all_gather", "checkpoint"],
)
def test_a_cost_of_other_devices_samples_is_refused(cost, name):
    """Or the estimate would be that of a part of the gradient."""
    with pytest.raises(ValueError, match="depend on the samples of other devices"):
        per_device(cost, name)
    assert per_device(cost, "st").shape == (3,)


@pytest.mark.parametrize(
    "cost",
    [
        lambda z, x: ((z - x).sum(-1), jax.lax.pmean(z.mean(), "x")),
        lambda z, x: (z - jax.jit(lambda x: jax.lax.pmean(x.mean(), "x"))(x)).sum(-1),
        lambda z, x: (z * jax.lax.axis_index("x")).sum(-1),
    ],
    ids=["aux", "batch", "index"],
)
def test_collectives_of_anything_else_are_served(cost):
    assert per_device(cost, "sf").shape == (3,)


def around_a_loop(step, z):
    """Steps over the variables, `step(total, z)`."""
    return jax.lax.scan(lambda total, z: (step(total, z), None), 0 * z[:, 0], z.T)[0]


def with_custom_jvp(function, z):
    def along(primals, tangents):
        return jax.jvp(function, primals, tangents)

    wrapped = jax.custom_jvp(function)
    wrapped.defjvp(along)
    return wrapped(z)


def with_custom_vjp(function, z):
    wrapped = jax.custom_vjp(function)
    wrapped.defvjp(
        lambda z: (function(z), z.shape), lambda shape, g: (g[:, None] * jnp.ones(shape),)
    )
    return wrapped(z)


AROUND = {
    "checkpoint": lambda function, z: jax.checkpoint(function)(z),
    "custom_jvp": with_custom_jvp,
    "custom_vjp": with_custom_vjp,
    "cond": lambda function, z: jax.lax.cond(z.shape[0] > 1, function, lambda z: z.sum(-1), z),
    "branch": lambda function, z: jax.lax.cond(
        jnp.arange(3).sum() > 1, function, lambda z: z.sum(-1), z
    ),
    "scan": lambda function, z: around_a_loop(lambda total, z: total + function(z[:, None]), z),
    "while": lambda function, z: jax.lax.fori_loop(
        0, jnp.arange(3).sum(), lambda _, total: total + function(z), 0 * z[:, 0]
    ),
    "while_condition": lambda function, z: jax.lax.while_loop(
        lambda total: total.sum() < 0, lambda total: total + function(z), 0 * z[:, 0]
    ),
    "remat_of_a_scan": lambda function, z: jax.checkpoint(
        functools.partial(around_a_loop, lambda total, z: total + function(z[:, None]))
    )(z),
}


@pytest.mark.parametrize("name", AROUND)
def test_a_collective_inside_another_program(name):
    """It is of the samples or not, as outside of it."""

    def of_the_batch(z, x):
        offset = x[:, 0]
        return AROUND[name](lambda z: (z - jax.lax.pmean(offset.mean(), "x")).sum(-1) ** 2, z)

    def of_the_samples(z, x):
        return AROUND[name](lambda z: (z - jax.lax.pmean(z.mean(), "x")).sum(-1) ** 2, z)

    assert per_device(of_the_batch, "sf").shape == (3,)
    with pytest.raises(ValueError, match="depend on the samples of other devices"):
        per_device(of_the_samples, "sf")


def test_a_collective_that_a_loop_reaches_after_some_steps():
    """The third carry is of the samples after two steps."""

    def cost(z, x):
        def step(carry, _):
            first, second, _ = carry
            return (z[:, 0], first, jax.lax.psum(second, "x") + 0 * x[:, 0]), None

        zeros = jnp.zeros_like(x[:, 0])
        return jax.lax.scan(step, (zeros, zeros, zeros), length=3)[0][2]

    with pytest.raises(ValueError, match="depend on the samples of other devices"):
        per_device(cost, "sf")


def test_a_collective_along_an_axis_on_which_the_samples_do_not_differ():
    """Such as that of a decoder whose weights are divided among devices."""
    mesh = jax.make_mesh((1, 1), ("x", "m"), (jax.sharding.AxisType.Auto,) * 2)

    def value(params, batch):
        estimator = estimators.make("sf", BERNOULLI)

        def objective(params, batch, key, sample):
            part = sample("z", params + batch)[:, 0] * jax.lax.axis_index("m")
            return jax.lax.psum(part, "m")

        state = estimator.init(objective, params, batch, KEY)
        return jax.lax.pmean(estimator.surrogate(objective, params, batch, KEY, 1.0, state)[0], "x")

    arguments = jnp.zeros(3), jnp.ones((4, 3))
    jax.eval_shape(jax.shard_map(value, mesh=mesh, **PLACED), *arguments)
    with pytest.raises(ValueError, match="depend on the samples of other devices"):
        jax.eval_shape(jax.shard_map(value, mesh=mesh, check_vma=False, **PLACED), *arguments)


def square(params, batch, key, sample):
    return jnp.square(sample("z", params + batch) - 0.3).sum(-1)


@pytest.mark.parametrize("family", ["bernoulli", "categorical"])
def test_an_expectation_over_nan_is_nan(family):
    @jax.jit
    def found(logits):
        arguments = square, logits, 0.0, KEY, family
        return exact.expected_cost(*arguments), exact.value_and_grad(*arguments)

    costs, (value, slope) = found(jnp.array([[0.0, jnp.nan], [0.0, 1.0]]))
    assert np.isnan(costs).tolist() == [True, False]
    assert np.isnan(value)
    assert np.isnan(slope[0, 1])


@pytest.mark.parametrize(
    ("name", "options"), [("marginalization", {}), ("unordered_set", {"num_samples": 3})]
)
def test_an_impossible_value_whose_cost_has_an_infinite_derivative(name, options):
    def objective(params, batch, key, sample):
        z = sample("z", params["z"])
        return -jnp.log(params["scale"] * (1 - z[:, 0])) + z[:, 1] * params["scale"]

    params = {"z": jnp.array([[-jnp.inf, 0.0, 0.5]] * 2), "scale": jnp.array(2.0)}
    slope, info = gradient(name, objective, params, None, "categorical", **options)
    share = 1 / (1 + np.exp(0.5))
    np.testing.assert_allclose(slope["scale"], -0.5 + share, rtol=1e-5)
    np.testing.assert_allclose(info.cost, -np.log(2) + 2 * share, rtol=1e-5)
    assert np.isfinite(slope["z"]).all()


def test_nvil_sees_nothing_of_what_is_missing():
    x = jnp.array([[1.0, jnp.nan], [0.0, 1.0], [2.0, 1.0]])
    batch = {"x": x, "seen": ~jnp.isnan(x), "label": jnp.array([0, 1, 70_000])}

    def objective(params, batch, key, sample):
        x = jnp.where(batch["seen"], batch["x"], 0)
        return jnp.square(sample("z", x @ params) - x[:, :1]).sum(-1)

    slope, info = gradient("nvil", objective, jnp.zeros((2, 1)), batch, BERNOULLI)
    assert np.isfinite(slope).all()
    assert np.isfinite(info.metrics["baseline_loss"])
    with jax.numpy_dtype_promotion("strict"):
        features = flat_features({"x": x.astype(jnp.float16), "label": batch["label"]})
    assert features.dtype == jnp.float32
    assert features[2, 0] == 70_000  # infinite in the dtype of x
    with pytest.raises(TypeError, match="features are a NoneType: give features="):
        gradient("nvil", square, jnp.zeros(2), x, BERNOULLI, features=lambda batch: None)


def by_callback(z):
    def cost(z):
        return np.asarray(np.square(np.asarray(z) - 0.3).sum(-1), np.float32)

    shape = jax.ShapeDtypeStruct(z.shape[:1], jnp.float32)
    return jax.pure_callback(cost, shape, z, vmap_method="sequential")


def by_a_loop(z):
    """As many steps as the values ask for."""

    def one(z):
        return jax.lax.while_loop(lambda x: x < z.sum(), lambda x: x + 1 + z[0], -1.0)

    return jax.vmap(one)(z)


def without_derivative(cost):
    def objective(params, batch, key, sample):
        return cost(sample("z", params + batch))

    return objective, jnp.zeros(2), jnp.zeros((3, 1))


@pytest.mark.parametrize("cost", [by_callback, by_a_loop])
def test_a_cost_that_jax_cannot_differentiate_is_reported(cost):
    arguments = without_derivative(cost)
    report = check_objective(*arguments, KEY, BERNOULLI)
    [note] = report.notes
    assert "cannot differentiate the cost in the samples of site 'z': " in note
    slopes = {name for name in estimators.names() if estimators.spec(name).slopes}
    assert set(report.applicable()).isdisjoint(slopes | THROUGH_THE_SAMPLE)
    assert {"sf", "nvil", "rloo", "marginalization"} <= set(report.applicable())


def test_a_cost_that_jax_cannot_differentiate():
    arguments = without_derivative(by_callback)
    for name in sorted({"st", "muprop", "double_cv"}):
        with pytest.raises(ValueError, match=r"(?s)samples of site 'z'.*'(nvil|rloo)'"):
            estimators.make(name, BERNOULLI).init(*arguments, KEY)
    assert np.isfinite(gradient("rloo", *arguments, BERNOULLI, checked=True)[0]).all()
    found = lab.compare(
        *arguments,
        KEY,
        family=BERNOULLI,
        estimators=["sf", "gumbel_softmax"],
        num_draws=10,
        max_values=1,
    )
    assert found.reference.startswith("100 draws of rloo")
    assert "cannot differentiate" in found.skipped["gumbel_softmax"]


@jax.custom_vjp
def of_the_wrong_shape(z):
    return z.sum(-1)


of_the_wrong_shape.defvjp(lambda z: (z.sum(-1), None), lambda _, g: (g,))


def beside_a_callback(z):
    """A smooth cost, of whose samples something is written to a log."""
    jax.experimental.io_callback(lambda z: None, None, z)
    return z.sum(-1)


@pytest.mark.parametrize(
    ("cost", "said"),
    [(of_the_wrong_shape, "Custom VJP bwd rule.* must produce"), (beside_a_callback, "callback")],
)
def test_what_jax_says_of_a_derivative_is_passed_on(cost, said):
    """The cost need not be at fault: a rule for its derivative may be."""
    arguments = without_derivative(cost)
    report = check_objective(*arguments, KEY, BERNOULLI)
    [note] = report.notes
    assert re.search(f"cannot differentiate the cost in the samples of site 'z': .*{said}", note)
    for name in ("st", "rebar", "muprop"):
        with pytest.raises(ValueError, match=f"site 'z'.*{said}.*; correct this, or use") as raised:
            estimators.make(name, BERNOULLI).init(*arguments, KEY)
        assert "\n" not in str(raised.value).partition("\n-----")[0]
        assert raised.value.__cause__ is not None


def test_a_batch_that_an_explicit_mesh_divides():
    mesh = jax.make_mesh((1,), ("x",), (jax.sharding.AxisType.Explicit,))
    spec = jax.sharding.PartitionSpec
    batch = jax.device_put(jnp.zeros((4, 3)), jax.NamedSharding(mesh, spec("x")))
    params = jax.device_put(jnp.zeros(3), jax.NamedSharding(mesh, spec()))
    with jax.set_mesh(mesh):
        assert check_objective(square, params, batch, KEY, BERNOULLI).ok
        for name in ("rloo", "marginalization"):
            slope, _ = gradient(name, square, params, batch, BERNOULLI)
            assert np.isfinite(slope).all()


@pytest.mark.parametrize(
    ("name", "family"),
    [(name, family) for name in estimators.names() for family in estimators.spec(name).families],
)
def test_every_estimator_is_traced_on_an_explicit_mesh(name, family):
    """Where JAX refuses to combine arrays that are divided differently, and loops' carries that
    become so.
    """

    def objective(params, batch, key, sample):
        def body(x, _):
            logits = x[..., None] * params
            where = (logits if family == "bernoulli" else x) > 0
            z = sample("loop", logits, where=where)
            return z.sum(-1), sample("seen", x, family="bernoulli")

        x, _ = sample.scan(body, batch, length=2)
        z = sample("after", x[..., None] * params)
        return jnp.square(z - 0.3).sum((1, 2))

    observed = samplers.condition(objective, {"seen": jnp.ones((4, 2, 2))})
    options = {"chunk_size": 2} if "chunk_size" in estimators.spec(name).options else {}
    estimator = estimators.make(name, family, **options)

    def slope(params, batch):
        state = estimator.init(observed, params, batch, KEY)
        found = jax.grad(estimator.surrogate, argnums=1, has_aux=True)
        return found(observed, params, batch, KEY, 1.0, state)

    mesh = jax.make_mesh((1,), ("x",), (jax.sharding.AxisType.Explicit,))
    spec = jax.sharding.PartitionSpec
    with jax.set_mesh(mesh):
        batch = jax.device_put(jnp.ones((4, 2)), jax.NamedSharding(mesh, spec("x")))
        params = jax.device_put(jnp.zeros(2), jax.NamedSharding(mesh, spec()))
        found, _ = jax.eval_shape(slope, params, batch)
    assert found.shape == (2,)


@pytest.mark.parametrize(
    ("name", "family"),
    [(name, family) for name in estimators.names() for family in estimators.spec(name).families],
)
def test_every_estimator_is_traced_where_a_mesh_divides_variables_and_classes(name, family):
    """Of a model whose parameters are divided: by variable, and of another site by class."""

    def objective(params, batch, key, sample):
        first = sample("first", batch @ params["variables"], family="bernoulli")
        cost = (first * params["weights"]).sum(-1)
        if family == "bernoulli":
            return cost**2
        second = sample("second", batch @ params["classes"], family=family)
        return (cost + (second * params["values"]).sum(-1)) ** 2

    options = {"chunk_size": 2} if "chunk_size" in estimators.spec(name).options else {}
    estimator = estimators.make(name, **options)

    def slope(params, batch):
        state = estimator.init(objective, params, batch, KEY)
        found = jax.grad(estimator.surrogate, argnums=1, has_aux=True)
        return found(objective, params, batch, KEY, 1.0, state)

    axes = (jax.sharding.AxisType.Explicit,) * 2
    mesh, spec = jax.make_mesh((1, 1), ("data", "model"), axes), jax.sharding.PartitionSpec

    def placed(shape, *names):
        return jax.device_put(jnp.ones(shape), jax.NamedSharding(mesh, spec(*names)))

    with jax.set_mesh(mesh):
        params = {
            "variables": placed((2, 3), None, "model"),
            "weights": placed(3, "model"),
            "classes": placed((2, 4), None, "model"),
            "values": placed(4, "model"),
        }
        found, _ = jax.eval_shape(slope, params, placed((4, 2), "data"))
    assert jax.tree.map(jnp.shape, found) == jax.tree.map(jnp.shape, params)


@pytest.mark.parametrize("num_classes", [4, 64])
def test_a_mesh_may_divide_the_classes(num_classes):
    mesh = jax.make_mesh((1,), ("model",), (jax.sharding.AxisType.Explicit,))
    spec, shape = jax.sharding.PartitionSpec(None, "model"), (3, num_classes)
    whole = jax.random.normal(KEY, shape)

    def samples(logits):
        return (
            gumbel.CATEGORICAL.sample(KEY, logits),
            gumbel.gumbel_max(KEY, logits),
            gumbel.gumbel_softmax(KEY, logits, 0.5),
            gumbel.gumbel_softmax(KEY, logits, 0.5, hard=True),
            *gumbel.gumbel_top_k(KEY, logits, 2),
            gumbel.relaxed_top_k(KEY, logits, 2, 0.5, hard=True),
        )

    expected = samples(whole)
    with jax.set_mesh(mesh):
        found = samples(jax.device_put(whole, jax.NamedSharding(mesh, spec)))
    for value, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(value, other, rtol=1e-6)
    assert all(jax.typeof(value).sharding.spec == spec for value in found[:4])


def test_a_mistake_in_the_objective_is_not_one_of_the_state():
    estimator = estimators.make("gumbel_softmax", BERNOULLI)
    for state in ((), None):
        with pytest.raises(ValueError, match="no temperature for site 'z'"):
            estimator.surrogate(square, jnp.ones(3), jnp.ones((2, 3)), KEY, {"zz": 1.0}, state)


def test_the_temperatures_of_rebar():
    arguments = square, jnp.zeros(3), jnp.ones((2, 3))
    estimator = estimators.make("rebar", BERNOULLI)

    @jax.jit
    def values(temperature):
        state = estimator.init(*arguments, KEY)
        return [
            estimator.surrogate(*arguments, KEY, given, state)[0]
            for given in (temperature, types.MappingProxyType({"z": temperature}))
        ]

    found = values(0.5)
    assert found[0] == found[1]
    with pytest.raises(ValueError, match=r"temperature has shape \(2, 1\): give a scalar"):
        values(jnp.ones((2, 1)))


def test_no_estimator_is_advised_where_the_gradient_is_0():
    def constant(params, batch, key, sample):
        return 0 * sample("z", params + batch).sum(-1) + 1

    found = lab.compare(
        constant,
        jnp.zeros(3),
        jnp.ones((2, 3)),
        KEY,
        family=BERNOULLI,
        estimators=["sf"],
        num_draws=10,
    )
    assert found.advice().startswith("The true gradient is 0")
    with pytest.raises(ValueError, match="params has no arrays"):
        lab.compare(square, {}, jnp.ones((2, 3)), KEY, family=BERNOULLI, estimators=["sf"])


def test_a_loop_over_a_scalar_is_refused():
    def objective(params, batch, key, sample):
        return sample.scan(lambda carry, x: (carry, sample("z", params)), batch, jnp.zeros(()))[0]

    with pytest.raises(ValueError, match="needs xs with a first axis of steps"):
        gradient("sf", objective, jnp.zeros((2, 1)), jnp.zeros(2), BERNOULLI)


def test_a_name_that_is_like_no_other():
    with pytest.raises(ValueError, match=r"unknown estimator 'xyz': choose one of arm, arms, "):
        estimators.make("xyz")
    with pytest.raises(ValueError, match=r"unknown estimator 'VIMCO': did you mean vimco"):
        estimators.make("VIMCO")


@pytest.mark.parametrize("name", ["gumbel_softmax", "nvil", "marginalization", None])
def test_programs_are_exported_for_batches_of_any_size(name):
    """With the numbers of the program for this size; `None` only samples."""

    def objective(params, batch, key, sample):
        return (sample("z", batch + params) * jnp.arange(3.0)).sum(-1)

    def found(batch):
        if name is None:
            return objective(0.0, batch, KEY, samplers.hard(KEY, BERNOULLI))
        slope = jax.grad(estimator.surrogate, argnums=1, has_aux=True)
        return slope(objective, jnp.zeros(3), batch, KEY, 0.5, state)[0]

    batch = jnp.linspace(-1.0, 1.0, 15).reshape(5, 3)
    if name is not None:
        estimator = estimators.make(name, BERNOULLI)
        state = estimator.init(objective, jnp.zeros(3), batch, KEY)
    shape = jax.ShapeDtypeStruct(export.symbolic_shape("b, 3"), batch.dtype)
    exported = export.export(jax.jit(found))(shape)
    np.testing.assert_allclose(exported.call(batch), jax.jit(found)(batch), rtol=1e-6, atol=1e-6)
