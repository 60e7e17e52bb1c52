"""Every estimator against an exact gradient.

A z-test compares the mean of many estimates with the exact gradient, one z per parameter, at a
family-wise error rate of `ERROR_RATE` per test (Bonferroni over the parameters).
"""

from functools import cache, partial

import jax
import jax.flatten_util
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from gumbel import BERNOULLI, CATEGORICAL, Family, estimators, exact, samplers
from gumbel.estimators import Estimator, Info, taylor
from tests.gumbel.nets import FAMILIES, Net, exact_gradient, stack, two_layer
from tests.gumbel.variances import squared_distances, total, wrong_orders
from tests.gumbel.walks import QUICK, SINGLE_SAMPLE_UNBIASED

pytestmark = pytest.mark.usefixtures("full_precision")

slow = pytest.mark.slow

ERROR_RATE = 1e-4
NUM_ESTIMATES = 10_000
TEMPERATURE = 0.7
KEY = jax.random.key(1)
BIASED = [name for name in estimators.names() if not estimators.spec(name).unbiased]


def with_families(names):
    """Every name with both families; of those that take long the second one is a slow test."""
    return [
        pytest.param(name, family, id=f"{name}-{family.name}", marks=[] if quick else slow)
        for name in names
        for family in FAMILIES
        for quick in [name in QUICK or family is BERNOULLI]
    ]


def initial_state(net: Net, estimator: Estimator):
    init = jax.jit(lambda params: estimator.init(net.objective, params, net.batch, KEY))
    return init(net.params)


@cache
def make(name: str, family: Family, **options) -> Estimator:
    """The same estimator for the same arguments, so that its estimates are made once."""
    return estimators.make(name, family, **options)


@cache
def estimates(net: Net, estimator: Estimator, *, num_estimates: int = NUM_ESTIMATES):
    """The mean and the standard error of each parameter's estimate, flat."""
    gradient = jax.grad(estimator.surrogate, argnums=1, has_aux=True)

    @jax.jit
    def moments(params, keys):
        state = estimator.init(net.objective, params, net.batch, KEY)

        def one(key):
            args = (net.objective, params, net.batch, key, TEMPERATURE, state)
            return jax.flatten_util.ravel_pytree(gradient(*args)[0])[0]

        values = jax.vmap(one)(keys)
        return values.mean(axis=0), values.std(axis=0) / jnp.sqrt(num_estimates)

    keys = jax.random.split(jax.random.key(2), num_estimates)
    return [np.asarray(moment, np.float64) for moment in moments(net.params, keys)]


def largest_z(mean, standard_error, expected):
    # A millionth of the gradient's size stands for float32 rounding, where there is no variance.
    rounding = 1e-6 * np.abs(expected).max()
    return np.max(np.abs(mean - expected) / (standard_error + rounding))


def critical_z(num_parameters):
    return stats.norm.isf(ERROR_RATE / 2 / num_parameters)


def is_accepted(net: Net, estimator: Estimator) -> bool:
    expected = exact_gradient(net)
    return largest_z(*estimates(net, estimator), expected) < critical_z(len(expected))


@cache
def multi_sample(net: Net, num_samples: int) -> Net:
    """The net whose cost is the multi-sample bound, each sample with sites of its own."""

    def objective(params, batch, key, sample):
        def renamed(index):
            return lambda site, logits: sample(f"{site}_{index}", logits)

        costs = [net.objective(params, batch, key, renamed(i)) for i in range(num_samples)]
        return jnp.log(num_samples) - jax.nn.logsumexp(-jnp.stack(costs), axis=0)

    return net._replace(objective=objective)


@pytest.mark.parametrize(("name", "family"), with_families(SINGLE_SAMPLE_UNBIASED))
def test_unbiased_estimators_match_enumeration(name, family):
    assert is_accepted(two_layer(family), make(name, family))


@pytest.mark.parametrize("name", ["sf", "nvil", "muprop"])
def test_centering_leaves_the_estimate_unbiased(name):
    """With an average of one batch, which halves the estimate if it is of the same two examples."""
    assert is_accepted(two_layer(BERNOULLI), make(name, BERNOULLI, centering=True, decay=0.0))


@pytest.mark.parametrize(
    "family", [BERNOULLI, pytest.param(CATEGORICAL, marks=slow)], ids=lambda family: family.name
)
@pytest.mark.parametrize(
    ("num_layers", "expansion"),
    [(2, "mean_field"), (3, "local"), pytest.param(3, "mean_field", marks=slow)],
)
def test_muprop_matches_enumeration_in_stacks(num_layers, expansion, family):
    """Two layers with `local`, the default, are in the test of all unbiased estimators."""
    assert is_accepted(stack(family, num_layers), make("muprop", family, expansion=expansion))


@pytest.mark.parametrize("expansion", ["local", pytest.param("mean_field", marks=slow)])
def test_the_z_test_sees_that_a_middle_layer_of_muprop_lacks_its_correction(expansion, monkeypatch):
    right = taylor._control_variate

    def forgetful(log_q, expansions):
        _, layer, _ = expansions
        own = expansions[layer]
        constant = jax.lax.stop_gradient(own.innovations[layer])
        without = own._replace(innovations=own.innovations | {layer: constant})
        return right(log_q, expansions | {layer: without})

    monkeypatch.setattr(taylor, "_control_variate", forgetful)
    wrong = estimators.make("muprop", BERNOULLI, expansion=expansion)
    assert not is_accepted(stack(BERNOULLI, 3), wrong)


@pytest.mark.parametrize(
    ("family", "num_layers"),
    [(BERNOULLI, 2), *[(family, 3) for family in FAMILIES]],
    ids=lambda it: getattr(it, "name", it),
)
@slow
def test_a_local_expansion_lowers_the_variance_of_muprop_s_later_layers(family, num_layers):
    """That of the first one it leaves, since there both expansions are the same."""
    net, found = stack(family, num_layers), {}
    for expansion in ("local", "mean_field"):
        estimator = make("muprop", family, expansion=expansion)
        state = initial_state(net, estimator)
        distances = squared_distances(net, estimator, state, 5000)
        found |= {(expansion, weights): each for weights, each in distances.items()}
    later = [f"w{layer}" for layer in range(2, num_layers + 1)]
    assert wrong_orders(found, [(("local", w), ("mean_field", w)) for w in later]) == {}
    np.testing.assert_allclose(found["local", "w1"], found["mean_field", "w1"], rtol=1e-4)


@pytest.mark.parametrize(
    ("family", "options"),
    [(BERNOULLI, {}), (CATEGORICAL, {}), (BERNOULLI, {"centering": True, "decay": 0.0})],
    ids=["bernoulli", "categorical", "centering"],
)
def test_vimco_matches_enumeration_of_the_multi_sample_bound(family, options):
    net = two_layer(family, batch_size=1)
    expected = exact_gradient(multi_sample(net, 2))
    mean, standard_error = estimates(net, make("vimco", family, num_samples=2, **options))
    assert largest_z(mean, standard_error, expected) < critical_z(len(expected))
    # And it tells that bound from the single-sample one.
    assert largest_z(mean, standard_error, exact_gradient(net)) > 10


@pytest.mark.parametrize(
    ("name", "family"),
    [
        pytest.param(name, family, id=f"{name}-{family.name}", marks=[] if quick else slow)
        for name in BIASED
        for family in FAMILIES
        for quick in [(name, family) in {("st", BERNOULLI), ("gumbel_softmax", CATEGORICAL)}]
    ],
)
def test_biased_estimators_are_told_from_enumeration(name, family):
    assert not is_accepted(two_layer(family), make(name, family))


def broken_score_function(mistake: str) -> Estimator:
    """The score function with one mistake in it."""
    family = BERNOULLI

    def surrogate(objective, params, batch, key, temperature, state):
        drawn = samplers.trace(objective, params, batch, key, family, samplers.hard_draw)
        cost, records = drawn.cost, drawn.records
        signal = jax.lax.stop_gradient(cost)
        if mistake == "a layer is left out":
            drawn = drawn._replace(records={"h2": records["h2"]})
        elif mistake == "the baseline looks at the sample":
            signal = signal - jax.lax.stop_gradient(records["h1"].z).sum(axis=-1)
        elif mistake == "the signal is a fifth too small":
            signal = 0.8 * signal
        value = jnp.mean(cost + signal * drawn.log_prob())
        return value, (state, Info(cost, {}))

    return estimators.make("sf", family)._replace(surrogate=surrogate)


@pytest.mark.parametrize(
    ("mistake", "accepted"),
    [
        ("none", True),
        ("a layer is left out", False),
        ("the baseline looks at the sample", False),
        ("the signal is a fifth too small", False),
    ],
)
def test_the_z_test_has_the_power_to_catch_a_mistake(mistake, accepted):
    assert is_accepted(two_layer(BERNOULLI), broken_score_function(mistake)) == accepted


# One Bernoulli variable with a cost f(z): the expectation of each biased estimate is known.

LOGIT = 0.8
SLOPE = 2.0


def cubic(z):
    return z + 2 * z**2 - 3 * z**3 + jnp.sin(z)


def noise_average(function, num_points=20_000):
    """The expectation over standard logistic noise, by the midpoint rule in its quantiles."""
    quantiles = (jnp.arange(num_points) + 0.5) / num_points
    return float(jnp.mean(jax.vmap(function)(jax.scipy.special.logit(quantiles))))


def known_expectation(name):
    """What one Bernoulli variable's biased estimate is on average."""
    slope_of = jax.grad(cubic)
    p = jax.nn.sigmoid(LOGIT)
    over_samples = p * slope_of(1.0) + (1 - p) * slope_of(0.0)

    def relaxed(noise, logit):
        return jax.nn.sigmoid((logit + noise) / TEMPERATURE)

    def gumbel_softmax(noise):
        return jax.grad(lambda logit: cubic(relaxed(noise, logit)))(LOGIT)

    def st_gumbel_softmax(noise):
        hard = jnp.where(LOGIT + noise > 0, 1.0, 0.0)
        return slope_of(hard) * jax.grad(relaxed, argnums=1)(noise, LOGIT)

    def steep_mean(logit):
        return jax.nn.sigmoid(SLOPE * logit)

    def over_values(jacobian):
        """Of an estimate that is known given the sample."""
        return p * jacobian(1.0) * slope_of(1.0) + (1 - p) * jacobian(0.0) * slope_of(0.0)

    def gapped(z):
        return jax.grad(relaxed, argnums=1)(0.0, jnp.where(z, max(LOGIT, 1.0), min(LOGIT, -1.0)))

    return {
        "st": lambda: p * (1 - p) * over_samples,
        "slope_annealed_st": lambda: jax.grad(steep_mean)(LOGIT) * over_samples,
        "darn": lambda: p * (1 - p) * (slope_of(1.0) + slope_of(0.0)) / 2,
        "gumbel_softmax": lambda: noise_average(gumbel_softmax),
        "st_gumbel_softmax": lambda: noise_average(st_gumbel_softmax),
        "gumbel_rao": lambda: noise_average(st_gumbel_softmax),
        "gapped_st": lambda: over_values(gapped),
        "decoupled_st": lambda: jax.grad(relaxed, argnums=1)(0.0, LOGIT) * over_samples,
        "reinmax": lambda: over_values(lambda z: (p + z - 2 * p * z) / 2),
        "zgr": lambda: over_values(lambda z: (p * (1 - p) + (z - p) ** 2) / 2),
    }[name]()


def single_variable(cost) -> Net:
    def objective(params, batch, key, sample):
        return cost(sample("z", jnp.broadcast_to(params, (batch.shape[0], 1)))[:, 0])

    return Net(BERNOULLI, objective, jnp.asarray(LOGIT), jnp.zeros((16, 1)))


@pytest.mark.parametrize("name", BIASED)
def test_biased_estimators_have_their_known_bias(name):
    options = {"slope": lambda step: jnp.asarray(SLOPE)} if name == "slope_annealed_st" else {}
    net = single_variable(cubic)
    mean, standard_error = estimates(net, make(name, BERNOULLI, **options))
    expected = np.asarray([known_expectation(name)])
    assert largest_z(mean, standard_error, expected) < critical_z(1)
    assert largest_z(mean, standard_error, exact_gradient(net)) > 10


def coupled_quadratic(z):
    """Quadratic in three variables, with products between them."""
    pulls = jnp.array([1.0, -2.0, 0.5])
    couplings = jnp.array([[0.5, 2.0, -1.0], [0.0, 1.0, 3.0], [0.0, 0.0, -0.7]])
    return z @ pulls + jnp.einsum("bi,ij,bj->b", z, couplings, z)


def linear(z):
    return z @ jnp.array([1.0, -2.0, 0.5])


@pytest.mark.parametrize(("name", "cost"), [("st", linear), ("darn", coupled_quadratic)])
def test_st_is_exact_for_linear_and_darn_for_quadratic_costs(name, cost):
    def objective(params, batch, key, sample):
        return cost(sample("z", jnp.broadcast_to(params, (batch.shape[0], 3))))

    net = Net(BERNOULLI, objective, jnp.array([0.4, -1.0, 2.0]), jnp.zeros((4, 1)))
    assert is_accepted(net, estimators.make(name, BERNOULLI))


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)
def test_control_variates_lower_the_variance(family):
    """That of `muprop` is less than half of it."""
    net, distances = two_layer(family), {}
    options = {"sf": {}, "centering": {"centering": True}, "nvil": {}, "muprop": {}}
    if family is CATEGORICAL:  # whose baselines are the same
        del options["nvil"]
    for label, chosen in options.items():
        name = "sf" if label == "centering" else label
        estimator = make(name, family, **chosen)
        found = squared_distances(net, estimator, initial_state(net, estimator), 4000)
        distances[label] = total(found)
    distances["half of sf"] = distances["sf"] / 2
    pairs = [(label, "sf") for label in options if label not in {"sf", "muprop"}]
    assert wrong_orders(distances, [*pairs, ("muprop", "half of sf")]) == {}


def with_variance(state, variance):
    """An estimator's state whose moving variance is this."""
    if hasattr(state, "signal"):
        return state._replace(signal=state.signal._replace(variance=jnp.asarray(variance)))
    return state._replace(variance=jnp.asarray(variance))


def gradients_at(net, estimator, variances):
    """The estimate of one key for each moving variance, the rest of the state as it starts."""
    state, key = initial_state(net, estimator), jax.random.key(3)

    @jax.jit
    @jax.vmap
    def gradient(variance):
        arguments = (net.objective, net.params, net.batch, key, 1.0)
        known = with_variance(state, variance)
        return jax.grad(estimator.surrogate, argnums=1, has_aux=True)(*arguments, known)[0]

    return np.asarray(gradient(jnp.asarray(variances)), np.float64)


@pytest.mark.parametrize("name", ["sf", "nvil", "muprop", "darn"])
def test_variance_normalization_divides_the_signal_by_sigma(name):
    net, sigmas = single_variable(cubic), np.array([4.0, 0.5])
    plain, divided = (
        gradients_at(net, estimators.make(name, BERNOULLI, variance_normalization=on), sigmas**2)
        for on in (False, True)
    )
    np.testing.assert_allclose(plain, np.maximum(sigmas, 1) * divided, rtol=1e-4)
    assert plain.all()


@pytest.mark.parametrize("padding", [0, 6])
def test_masked_variables_do_not_move_the_averages_of_darn(padding):
    """Padding a site must not change the scale of the estimate."""

    def objective(params, batch, key, sample):
        wide = jnp.pad(params + batch, ((0, 0), (0, padding)))
        z = sample("z", wide, where=jnp.broadcast_to(jnp.arange(2 + padding) < 2, wide.shape))
        return 6 * z[:, 0] * z[:, 1] + 4 * z[:, 0]

    estimator = estimators.make("darn", BERNOULLI, decay=0.0)
    arguments = objective, jnp.array([[40.0, -40.0]]), jnp.zeros((8, 1)), KEY  # z is (1, 0)
    first = estimator.init(*arguments)
    _, (second, info) = estimator.surrogate(*arguments, 1.0, first)
    for state in (first, second):  # the signals are 4 / 2 and -6 / 2
        assert float(state.mean) == pytest.approx(-0.5)
        assert float(state.variance) == pytest.approx(6.25)
    assert float(info.metrics["signal_scale"]) == pytest.approx(2.5)


@pytest.mark.parametrize("name", ["sf", "nvil", "muprop", "darn", "vimco"])
def test_variance_normalization_leaves_the_gradient_of_the_cost_itself(name):
    """Of the decoder, which no sample depends on."""
    net, sigma = two_layer(BERNOULLI), 4.0

    @jax.jit
    def gradients():
        found = []
        for on in (False, True):
            estimator = make(name, BERNOULLI, variance_normalization=on)
            state = with_variance(initial_state(net, estimator), sigma**2)
            arguments = (net.objective, net.params, net.batch, jax.random.key(3), 1.0, state)
            found.append(jax.grad(estimator.surrogate, argnums=1, has_aux=True)(*arguments)[0])
        return found

    plain, divided = gradients()
    np.testing.assert_allclose(plain["w3"], divided["w3"], rtol=1e-5)
    for encoder in ("w1", "w2"):
        np.testing.assert_allclose(plain[encoder], sigma * divided[encoder], rtol=1e-4, atol=1e-6)
        assert float(jnp.abs(plain[encoder]).max()) > 1e-3


def test_darn_subtracts_the_average_of_its_signal_from_that_of_each_variable():
    net, key = two_layer(BERNOULLI), jax.random.key(3)
    estimator = make("darn", BERNOULLI, centering=True)

    @jax.jit
    def gradients():
        def of_average(mean):
            state = estimator.init(net.objective, net.params, net.batch, key)
            arguments = (net.objective, net.params, net.batch, key, 1.0)
            surrogate = jax.grad(estimator.surrogate, argnums=1, has_aux=True)
            return surrogate(*arguments, state._replace(mean=jnp.asarray(mean)))[0]

        def log_q(params):
            arguments = (net.objective, params, net.batch, key, BERNOULLI, samplers.hard_draw)
            return samplers.trace(*arguments).log_prob().mean()

        return of_average(0.0), of_average(2.0), jax.grad(log_q)(net.params)

    uncentered, centered, score = (jax.flatten_util.ravel_pytree(g)[0] for g in gradients())
    np.testing.assert_allclose(uncentered - centered, 2 * score, rtol=1e-3, atol=1e-5)
    assert float(jnp.abs(score).max()) > 1e-2


def test_muprop_may_normalize_its_signal_alone():
    """Then the estimate lies between the mean field's gradient and MuProp's, at 1/sigma."""
    net, sigmas = single_variable(cubic), np.array([2.0, 1e6])

    def gradients(**options):
        return gradients_at(net, estimators.make("muprop", BERNOULLI, **options), sigmas**2)

    p = jax.nn.sigmoid(LOGIT)
    mean_field = float(p * (1 - p) * jax.grad(cubic)(p))
    whole = gradients()
    assert whole[0] != pytest.approx(mean_field, rel=0.1)
    found = gradients(variance_normalization=True, scale_correction=False)
    np.testing.assert_allclose(found, mean_field + (whole - mean_field) / sigmas, rtol=1e-4)
    np.testing.assert_array_equal(gradients(scale_correction=False), whole)  # nothing to scale


@pytest.mark.parametrize(("sees", "explained"), [(True, 0.5), (False, 1.0)])
def test_nvil_baseline_of_a_later_layer_sees_the_samples_below(sees, explained):
    """The first layer's coins decide the cost, so its own baseline explains none of it.

    A square of what is left is 100, give or take 10 by the second layer's coin: the mean of 200
    batches has a standard error of 0.2%. The rest of the 5% is what is not learned yet.
    """

    def objective(params, batch, key, sample):
        first = sample("first", params + batch)
        return 20.0 * first[:, 0] + sample("second", params + batch)[:, 0]

    batch, params = jnp.zeros((32, 1)), jnp.zeros((1, 1))
    options = {"baseline_learning_rate": 0.03, "baseline_sees_samples": sees}
    estimator = estimators.make("nvil", BERNOULLI, **options)
    state = estimator.init(objective, params, batch, jax.random.key(0))

    def step(state, key):
        _, (state, info) = estimator.surrogate(objective, params, batch, key, 1.0, state)
        return state, info.metrics["baseline_loss"]

    _, losses = jax.lax.scan(step, state, jax.random.split(jax.random.key(1), 400))
    variance = 20**2 / 4  # of the cost, but for the second layer's 1/4
    assert np.mean(losses[-200:]) == pytest.approx(explained * variance, rel=0.05)


def test_slope_state_counts_steps_and_the_slope_follows():
    net = two_layer(BERNOULLI)
    estimator = estimators.make("slope_annealed_st", BERNOULLI, slope_rate=0.5, slope_maximum=2.0)
    state = initial_state(net, estimator)
    step = jax.jit(partial(estimator.surrogate, net.objective, net.params, net.batch))
    slopes = []
    for key in jax.random.split(jax.random.key(2), 4):
        _, (state, info) = step(key, 1.0, state)
        slopes.append(float(info.metrics["slope"]))
    assert slopes == [1.0, 1.5, 2.0, 2.0]


def test_marginalization_chunks_change_nothing():
    """16 joint values, at once and by 7."""
    net = two_layer(BERNOULLI)
    expected = exact_gradient(net)
    estimator = estimators.make("marginalization", BERNOULLI, chunk_size=7)
    arguments = (net.objective, net.params, net.batch, KEY)

    @jax.jit
    def gradients():
        surrogate = jax.grad(estimator.surrogate, argnums=1, has_aux=True)
        _, direct = exact.value_and_grad(*arguments, BERNOULLI, chunk_size=7)
        return surrogate(*arguments, 1.0, ())[0], direct

    for gradient in gradients():
        found, _ = jax.flatten_util.ravel_pytree(gradient)
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


def test_marginalization_says_how_many_values_are_too_many():
    def objective(params, batch, key, sample):
        return sample("deep", params + batch).sum(axis=-1)

    estimator = estimators.make("marginalization", BERNOULLI)
    arguments = (objective, jnp.zeros(20), jnp.zeros((2, 20)), jax.random.key(0))
    with pytest.raises(ValueError, match=r"1048576 joint values \(deep: 2\^20\)"):
        estimator.init(*arguments)
    with pytest.raises(ValueError, match="1048576 joint values"):
        estimator.surrogate(*arguments, 1.0, ())
