"""Masked values, empty shapes, NaN, and arguments that are refused, over all functions.

What is unknown under jit cannot be refused, so it has to become NaN.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special

from gumbel import conditional, densities, estimators, noise, relaxations, samplers, subsets
from gumbel.families import BERNOULLI, CATEGORICAL

KEY = jax.random.key(0)
INF, NAN = np.inf, np.nan
FAMILIES = [BERNOULLI, CATEGORICAL]
RELAXED_GIVEN = {
    BERNOULLI: conditional.conditional_binary_concrete,
    CATEGORICAL: conditional.conditional_gumbel_softmax,
}
MASKS = [-INF, -1e9]


def draws(fam, temperature=0.5):
    """All ways to a value of a family, and its mean."""
    values = {
        "sample": lambda logits: fam.sample(KEY, logits),
        "relax": lambda logits: fam.relax(KEY, logits, temperature),
        "hard": lambda logits: fam.relax(KEY, logits, temperature, hard=True),
        "mean": fam.mean,
        "uniform_mean": fam.uniform_mean,
        "given": lambda logits: RELAXED_GIVEN[fam](
            KEY, logits, jax.lax.stop_gradient(fam.sample(KEY, logits)), temperature
        ),
    }
    if fam is CATEGORICAL:
        values |= {
            "gumbel_max": lambda logits: relaxations.gumbel_max(KEY, logits),
            "gumbel_top_k": lambda logits: subsets.gumbel_top_k(KEY, logits, 1)[0][..., 0, :],
            "relaxed_top_k": lambda logits: subsets.relaxed_top_k(KEY, logits, 1, temperature),
        }
    return values


def all_of(functions, logits):
    """The value of each function, from one program, as NumPy arrays."""
    values = jax.jit(lambda x: {name: function(x) for name, function in functions.items()})(logits)
    return {name: np.asarray(value) for name, value in values.items()}


def in_nats(fam):
    """All that is measured in nats, as a function of the logits."""
    return {
        "log_prob": lambda logits: fam.log_prob(logits, jnp.zeros_like(logits).at[..., 0].set(1)),
        "entropy": fam.entropy,
        "kl": lambda logits: fam.kl(logits, jnp.zeros_like(logits)),
        "kl from": lambda logits: fam.kl(jnp.zeros_like(logits), logits),
        "density": lambda logits: fam.relaxed_log_prob(
            logits, jnp.full_like(logits, 1 / logits.shape[-1]), 0.5
        ),
    }


@pytest.mark.parametrize(("fam", "size"), [(BERNOULLI, 3), (CATEGORICAL, 3), (CATEGORICAL, 40)])
def test_nan_logits_give_nan_for_their_variable_and_no_other(fam, size):
    logits = np.zeros((4, 2, size), np.float32)
    logits[1, 0, 2] = NAN
    affected = np.isnan(logits)
    if fam is CATEGORICAL:
        affected = np.broadcast_to(affected.any(-1, keepdims=True), logits.shape)
    for name, value in all_of({**draws(fam), **in_nats(fam)}, logits).items():
        where = affected if value.shape == affected.shape else affected[..., 0]
        np.testing.assert_array_equal(np.isnan(value), where, err_msg=name)


@pytest.mark.parametrize("fam", FAMILIES, ids=str)
def test_an_invalid_temperature_that_is_traced_gives_nan(fam):
    logits = jnp.array([[0.0, 1.0, -jnp.inf]])

    @jax.jit
    def results(temperature):
        values = draws(fam, temperature)
        y = jnp.array([[0.4, 0.6, 0.0]])
        return (
            values["relax"](logits),
            values["hard"](logits),
            values["given"](logits),
            values.get("relaxed_top_k", values["relax"])(logits),
            fam.relaxed_log_prob(logits, y, temperature),
        )

    for bad in (NAN, 0.0, -1.0, INF):
        assert all(np.isnan(value).all() for value in results(bad)), bad
    assert not any(np.isnan(value).any() for value in results(0.5))


def test_nan_points_have_no_density():
    logits = jnp.array([0.0, 1.0, -jnp.inf])
    odds = jnp.array([0.0, 1.0, jnp.inf])
    y = jnp.where(jnp.eye(3, dtype=bool), jnp.nan, jnp.array([0.4, 0.6, 0.0]))

    def categorical(y):
        return [
            densities.gumbel_softmax_log_prob(y, logits, 0.5),
            densities.exp_gumbel_softmax_log_prob(y, logits, 0.5),
            CATEGORICAL.log_prob(logits, y),
        ]

    def bernoulli(y):
        return [
            densities.binary_concrete_log_prob(y, odds, 0.5),
            densities.logit_binary_concrete_log_prob(y, odds, 0.5),
            BERNOULLI.log_prob(odds, y),
        ]

    for value in jax.jit(categorical)(y):
        assert np.isnan(value).all()
    for value in jax.jit(bernoulli)(y):
        np.testing.assert_array_equal(np.isnan(value), np.eye(3))


@pytest.mark.parametrize("name", ["st", "reinmax", "zgr", "arm", "disarm", "arms"])
def test_the_gradient_of_a_variable_whose_logits_are_all_masked_is_nan(name):
    def objective(params, batch, key, sample):
        return sample("z", params) @ jnp.arange(3.0)

    logits = jnp.array([[0.0, 1.0, 2.0], [-INF, -INF, -INF], [-INF, 0.0, 1.0]])
    estimator = estimators.make(name, CATEGORICAL)
    gradient = jax.grad(lambda x: estimator.surrogate(objective, x, None, KEY, 1.0, ())[0])(logits)
    assert np.isnan(gradient).all(axis=-1).tolist() == [False, True, False]
    assert np.isfinite(gradient[0]).all()
    assert np.isfinite(gradient[2]).all()


def test_all_logits_of_a_variable_masked_give_nan():
    logits = np.full((2, 3), -INF, np.float32)
    logits[1] = 0
    for name, value in all_of({**draws(CATEGORICAL), **in_nats(CATEGORICAL)}, logits).items():
        assert np.isnan(value[0]).all(), name
        assert not np.isnan(value[1]).any(), name


@pytest.mark.parametrize(("mask", "size"), [(-INF, 4), (-1e9, 4), (-INF, 40)])
def test_masked_categorical_is_the_categorical_of_the_other_values(mask, size):
    rng = np.random.default_rng(0)
    logits_q, logits_p = rng.normal(size=(2, 50, size)).astype(np.float32)
    masked = np.arange(size) % 2 == 1
    full_q, full_p = (np.where(masked, mask, x).astype(np.float32) for x in (logits_q, logits_p))
    kept_q, kept_p = logits_q[:, ~masked], logits_p[:, ~masked]
    values = all_of(draws(CATEGORICAL), full_q)
    for name, value in values.items():
        assert (value[:, masked] == 0).all(), name
        np.testing.assert_allclose(value.sum(axis=-1), 1, rtol=1e-6)
    np.testing.assert_allclose(values["uniform_mean"][:, ~masked], 2 / size, rtol=1e-6)
    mean = values["mean"][:, ~masked]
    np.testing.assert_allclose(mean, scipy.special.softmax(kept_q, -1), rtol=1e-5)
    z = np.zeros_like(full_q)
    z[:, 0] = 1
    y = values["relax"]

    def measures(q, p, z, y):
        return {
            "log_prob": CATEGORICAL.log_prob(q, z),
            "entropy": CATEGORICAL.entropy(q),
            "kl": CATEGORICAL.kl(q, p),
            "density": CATEGORICAL.relaxed_log_prob(q, y, 0.5),
            "log density": densities.exp_gumbel_softmax_log_prob(jnp.log(y), q, 0.5),
        }

    found = jax.jit(measures)(full_q, full_p, z, y)
    wanted = jax.jit(measures)(kept_q, kept_p, z[:, ~masked], y[:, ~masked])
    for name, value in wanted.items():
        np.testing.assert_allclose(found[name], value, rtol=1e-4, atol=1e-5, err_msg=name)


@pytest.mark.parametrize("mask", MASKS)
def test_masked_categorical_has_finite_gradients(mask):
    logits_q = jnp.array([0.3, mask, -1.0, mask, 0.5])
    logits_p = jnp.array([0.1, mask, 0.2, 0.4, -0.3])
    z = jnp.array([1.0, 0.0, 0.0, 0.0, 0.0])

    @jax.jit
    def gradients(q, p, z, temperature):
        functions = {
            "mean": lambda q, p, z, t: CATEGORICAL.mean(q)[0],
            "log_prob": lambda q, p, z, t: CATEGORICAL.log_prob(q, z),
            "entropy": lambda q, p, z, t: CATEGORICAL.entropy(q),
            "kl": lambda q, p, z, t: CATEGORICAL.kl(q, p),
            "relax": lambda q, p, z, t: CATEGORICAL.relax(KEY, q, t)[0],
            "hard": lambda q, p, z, t: CATEGORICAL.relax(KEY, q, t, hard=True)[0],
            "density": lambda q, p, z, t: CATEGORICAL.relaxed_log_prob(q, z, t),
            "density of a sample": lambda q, p, z, t: CATEGORICAL.relaxed_log_prob(
                q, CATEGORICAL.relax(KEY, q, t), t
            ),
        }
        return {
            name: jax.grad(f, (0, 1, 2, 3))(q, p, z, temperature) for name, f in functions.items()
        }

    for name, slopes in gradients(logits_q, logits_p, z, 0.5).items():
        assert all(np.isfinite(slope).all() for slope in slopes), name
        assert (np.asarray(slopes[0])[[1, 3]] == 0).all(), name


@pytest.mark.parametrize("far", [INF, 1e9])
def test_constant_bernoulli_variables(far):
    logits = jnp.array([-far, far, 0.3])
    for name, value in all_of(draws(BERNOULLI), logits).items():
        np.testing.assert_array_equal(value[:2], [0, 1], err_msg=name)
    z = jnp.array([0.0, 1.0, 1.0])

    def measures(q, p, z, temperature):
        return {
            "log_prob": BERNOULLI.log_prob(q, z),
            "entropy": BERNOULLI.entropy(q),
            "kl": BERNOULLI.kl(q, p),
            "density": BERNOULLI.relaxed_log_prob(q, z, temperature),
            "relax": BERNOULLI.relax(KEY, q, temperature),
            "log odds": jnp.tanh(relaxations.logit_binary_concrete(KEY, q, temperature)),
        }

    found = jax.jit(measures)(logits, logits, z, 0.5)
    for name in ("log_prob", "entropy", "kl", "density"):
        np.testing.assert_array_equal(found[name][:2], [0, 0], err_msg=name)
    np.testing.assert_allclose(found["log_prob"][2], np.log(scipy.special.expit(0.3)), rtol=1e-6)

    @jax.jit
    def slopes(*arguments):
        summed = {
            name: lambda *args, name=name: jnp.sum(measures(*args)[name])
            for name in measures(*arguments)
        }
        return {name: jax.grad(f, (0, 1, 2, 3))(*arguments) for name, f in summed.items()}

    for p in (logits, jnp.array([0.1, -0.2, 0.3])):
        for name, gradients in slopes(logits, p, z, 0.5).items():
            assert all(np.isfinite(gradient).all() for gradient in gradients), name


def test_what_is_impossible_has_log_probability_minus_inf():
    logits = jnp.array([0.0, -jnp.inf, 1.0])
    np.testing.assert_array_equal(CATEGORICAL.log_prob(logits, jnp.eye(3)) == -INF, [0, 1, 0])
    odds = jnp.array([INF, -INF, INF, -INF, 0.0])
    found = BERNOULLI.log_prob(odds, jnp.array([0.0, 1.0, 1.0, 0.0, 1.0]))
    np.testing.assert_array_equal(found == -INF, [1, 1, 0, 0, 0])
    assert densities.gumbel_softmax_log_prob(jnp.array([0.2, 0.3, 0.5]), logits, 0.5) == -INF
    assert densities.binary_concrete_log_prob(jnp.array(0.5), jnp.array(INF), 0.5) == -INF


def test_kl_is_infinite_where_only_q_has_mass():
    q, p = jnp.array([0.0, 0.5, -jnp.inf]), jnp.array([0.0, -jnp.inf, -jnp.inf])
    assert CATEGORICAL.kl(q, p) == INF
    assert CATEGORICAL.kl(p, q) == pytest.approx(float(np.log1p(np.exp(0.5))), rel=1e-6)
    odds_q, odds_p = jnp.array([0.0, INF, INF, -INF]), jnp.array([INF, -INF, INF, INF])
    np.testing.assert_array_equal(BERNOULLI.kl(odds_q, odds_p), [INF, INF, 0, INF])
    np.testing.assert_allclose(BERNOULLI.kl(odds_p[:1], odds_q[:1]), [np.log(2)], rtol=1e-6)


@pytest.mark.parametrize("shape", [(2, 3, 1), (1,)])
def test_one_value_is_always_drawn(shape):
    logits = jnp.full(shape, -3.0)
    for name, value in all_of(draws(CATEGORICAL), logits).items():
        np.testing.assert_array_equal(value, np.ones(shape), err_msg=name)
    for name, value in all_of(in_nats(CATEGORICAL), logits).items():
        np.testing.assert_array_equal(value, np.zeros(shape[:-1]), err_msg=name)


@pytest.mark.parametrize("shape", [(2, 0, 3), (0, 2, 3), (0, 40), (2, 0, 40)])
@pytest.mark.parametrize("fam", FAMILIES, ids=str)
def test_empty_arrays(fam, shape):
    def shapes(functions):
        found = {name: jax.eval_shape(f, jnp.zeros(shape)).shape for name, f in functions.items()}
        return set(found.values())

    assert shapes(draws(fam)) == {shape}
    assert shapes(in_nats(fam)) == {shape[: len(shape) - fam.event_ndims]}


def test_no_values_are_refused():
    logits = jnp.zeros((2, 0))
    for function in draws(CATEGORICAL).values():
        with pytest.raises(ValueError, match=r"logits of shape \(2, 0\) have no values"):
            function(logits)
    for function in (CATEGORICAL.entropy, lambda x: CATEGORICAL.log_prob(x, x)):
        with pytest.raises(ValueError, match=r"logits of shape \(2, 0\) have no values"):
            function(logits)
    for shape in ((), (0,)):
        with pytest.raises(ValueError, match="have no values"):
            CATEGORICAL.num_values(shape)


def test_a_site_of_one_variable_without_its_axis():
    assert BERNOULLI.num_variables(()) == CATEGORICAL.num_variables((3,)) == 1
    assert (BERNOULLI.num_values(()), CATEGORICAL.num_values((3,))) == (2, 3)
    np.testing.assert_array_equal(BERNOULLI.support(()), [0, 1])
    np.testing.assert_array_equal(CATEGORICAL.support((3,)), np.eye(3))
    assert BERNOULLI.support((0,)).shape == (1, 0)
    for fam, shape in ((BERNOULLI, (5,)), (CATEGORICAL, (5, 3))):
        assert {value.shape for value in all_of(draws(fam), jnp.zeros(shape)).values()} == {shape}
        assert {value.shape for value in all_of(in_nats(fam), jnp.zeros(shape)).values()} == {(5,)}


@pytest.mark.parametrize("jit", [False, True], ids=["eager", "jit"])
def test_labels_in_place_of_one_hot_values_are_refused(jit):
    def refused(function, *arguments):
        with pytest.raises(ValueError, match=r"^(z|y|log_y) [^\n]+ use jax\.nn\.one_hot"):
            (jax.jit(function) if jit else function)(*arguments)

    logits = jnp.zeros((3, 3))
    temperature = 0.5
    for labels in (jnp.array([0, 1, 2]), jnp.array([0.0, 1.0, 2.0]), jnp.zeros((3, 1), int)):
        refused(CATEGORICAL.log_prob, logits, labels)
        refused(lambda x, y: CATEGORICAL.relaxed_log_prob(x, y, temperature), logits, labels)
        refused(densities.exp_gumbel_softmax_log_prob, labels, logits, 1.0)
    if not jit:  # traced values are unknown
        refused(CATEGORICAL.log_prob, jnp.zeros(3), jnp.array([0, 1, 2]))
        refused(CATEGORICAL.log_prob, logits, np.zeros((3, 3), int))
        refused(CATEGORICAL.log_prob, logits, np.ones((3, 3), bool))
        with pytest.raises(ValueError, match="z has integer values that are not 0 or 1"):
            BERNOULLI.log_prob(jnp.zeros(3), jnp.array([0, 1, 2]))
    one_hot = jnp.eye(3, dtype=int)
    np.testing.assert_allclose(CATEGORICAL.log_prob(logits, one_hot), -np.log(3), rtol=1e-6)


def test_values_and_logits_that_do_not_fit_are_refused():
    with pytest.raises(
        ValueError, match=r"z of shape \(4,\) does not fit logits of shape \(2, 4\)"
    ):
        BERNOULLI.log_prob(jnp.zeros((2, 4)), jnp.zeros(4))
    with pytest.raises(ValueError, match="z of shape"):
        BERNOULLI.log_prob(jnp.zeros((2, 4)), jnp.zeros((3, 4)))
    with pytest.raises(ValueError, match="K must be equal"):
        CATEGORICAL.kl(jnp.zeros((2, 4)), jnp.zeros((2, 1)))
    with pytest.raises(ValueError, match=r"logits of shapes \(2,\) and \(3,\) do not fit"):
        BERNOULLI.kl(jnp.zeros(2), jnp.zeros(3))


@pytest.mark.parametrize("temperature", [jnp.ones((5, 1)), jnp.ones((3, 1, 1))])
def test_a_temperature_that_does_not_fit_the_point_is_named(temperature):
    point, logits = jnp.full((2, 4, 3), 1 / 3), jnp.zeros((4, 3))
    with pytest.raises(ValueError, match=r"temperature of shape \(.*\) does not broadcast with y "):
        CATEGORICAL.relaxed_log_prob(logits, point, temperature)


def test_the_order_of_arguments_is_that_of_the_function():
    with pytest.raises(TypeError, match=r"got tuple: the order is \(key, shape, dtype\)"):
        noise.gumbel_noise((2, 3), KEY)
    with pytest.raises(TypeError, match=r"got Bernoulli: the order is \(key, family\)"):
        samplers.hard(BERNOULLI, KEY)


SAMPLERS = {
    "bernoulli.sample": BERNOULLI.sample,
    "categorical.sample": CATEGORICAL.sample,
    "bernoulli.relax": lambda key, logits: BERNOULLI.relax(key, logits, 0.5),
    "categorical.relax": lambda key, logits: CATEGORICAL.relax(key, logits, 0.5),
    "gumbel_max": relaxations.gumbel_max,
    "gumbel_top_k": lambda key, logits: subsets.gumbel_top_k(key, logits, 2),
    "relaxed_top_k": lambda key, logits: subsets.relaxed_top_k(key, logits, 2, 0.5),
    "given a binary sample": lambda key, logits: RELAXED_GIVEN[BERNOULLI](key, logits, logits, 0.5),
    "given a categorical sample": lambda key, logits: RELAXED_GIVEN[CATEGORICAL](
        key, logits, jnp.zeros((2, 3)).at[:, 0].set(1), 0.5
    ),
    **{
        relax.__name__: lambda key, logits, relax=relax: relax(key, logits, 0.5)
        for relax in (
            relaxations.gumbel_softmax,
            relaxations.exp_gumbel_softmax,
            relaxations.binary_concrete,
            relaxations.logit_binary_concrete,
        )
    },
}


@pytest.mark.parametrize("name", SAMPLERS)
def test_what_is_no_key_is_refused(name):
    sampler, logits = SAMPLERS[name], jnp.zeros((2, 3))
    # torch's order: logits first.
    with pytest.raises(TypeError, match=r"got float32\[2,3\]: the order is \(key, logits, \.\.\."):
        sampler(logits, KEY)
    with pytest.raises(TypeError, match=r"got float32\[2,3\]: the order is"):
        jax.jit(sampler)(logits, KEY)
    raw, three = (jnp.uint32(0), "uint32[]"), (jnp.zeros(3, jnp.uint32), "uint32[3]")
    for wrong, got in ((0, "int"), (None, "NoneType"), raw, three):
        with pytest.raises(TypeError) as caught:
            sampler(wrong, logits)
        assert f"got {got}: the order is (key, logits, ...)" in str(caught.value)
        assert "\n" not in str(caught.value)
    for keys in (jax.random.split(KEY, 2), jax.random.key_data(jax.random.split(KEY, 2))):
        with pytest.raises(TypeError, match="expected one PRNG key, got an array of shape"):
            sampler(keys, logits)


@pytest.mark.parametrize(
    ("temperature", "got"),
    [
        ({"edge": 0.5}, "dict"),
        ("0.5", "str"),
        (None, "NoneType"),
        ([0.5], "list"),
        (True, "bool"),
        (np.array([True]), "bool"),
        (0.5j, "complex"),
    ],
)
@pytest.mark.parametrize("fam", FAMILIES, ids=str)
def test_a_temperature_that_is_no_number_is_refused(fam, temperature, got):
    logits = jnp.zeros((2, 3))
    hint = ": only estimators take [^\n]+" if got == "dict" else ""
    message = rf"^temperature must be a real number [^\n]+, got {got}{hint}$"
    with pytest.raises(TypeError, match=message):
        fam.relax(KEY, logits, temperature)
    with pytest.raises(TypeError, match=message):
        fam.relaxed_log_prob(logits, logits, temperature)


@pytest.mark.parametrize("fam", FAMILIES, ids=str)
def test_a_temperature_below_the_normal_floats_is_refused(fam):
    logits = jnp.zeros((2, 3))
    with pytest.raises(ValueError, match=r"^temperature 1e-40 is below 1.2e-38, the smallest"):
        fam.relax(KEY, logits, 1e-40)
    assert fam.relax(KEY, logits, 1.2e-38, hard=True).shape == (2, 3)
    assert fam.relax(KEY, logits, 1).shape == (2, 3)  # an integer will do
