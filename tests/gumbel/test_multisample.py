"""The estimators of several samples: their identities, and what the walk over all leaves out.

That they match enumeration with their default options, for both families, in stacks, in loops,
with masks, mixed families and coupled examples, is in `test_estimators`, `test_loops` and
`test_sites`.
"""

import importlib
import itertools
from contextlib import contextmanager
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from gumbel import BERNOULLI, CATEGORICAL, estimators
from gumbel.estimators import coupling, stein
from gumbel.estimators.changes import Changes
from gumbel.estimators.coupling import Bits
from gumbel.estimators.distinct import distinct_values, leave_out
from gumbel.estimators.multi import Paths, mean_of_others, shared_sites
from gumbel.estimators.signal import SignalState
from gumbel.layouts import layout
from gumbel.noise import gumbel_noise
from gumbel.passes import passes
from gumbel.samplers import Record
from gumbel.sites import as_families
from tests.gumbel.nets import FAMILIES, Net, exact_gradient, two_layer
from tests.gumbel.test_estimators import critical_z, largest_z
from tests.gumbel.variances import squared_distances, total, wrong_orders
from tests.gumbel.walks import walk

KEY = jax.random.key(9)
# The package's attributes of these names are the estimators.
arm_module, arms_module, double_cv_module, indecater_module, rloo_module, unordered_set_module = (
    importlib.import_module(f"gumbel.estimators.{name}")
    for name in ("arm", "arms", "double_cv", "indecater", "rloo", "unordered_set")
)
quick_jit = partial(jax.jit, compiler_options={"xla_backend_optimization_level": "0"})
every_family = pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)
slow = pytest.mark.slow
both_families = pytest.mark.parametrize(
    "family", [BERNOULLI, pytest.param(CATEGORICAL, marks=slow)], ids=lambda family: family.name
)


def one_layer(family, num_variables=4, batch_size=2) -> Net:
    """Logits alone as parameters, and a cost of all variables together, far from 0."""
    width = (num_variables,) if family is BERNOULLI else (num_variables, 3)
    weights = jax.random.normal(jax.random.key(1), (num_variables * (width[1:] or (1,))[0],))

    def objective(params, batch, key, sample):
        z = sample("z", params + batch).reshape(batch.shape[0], -1)
        return 10 + jnp.square(z @ weights - 0.4) + jnp.cos(3 * z @ weights[::-1])

    params = 0.7 * jax.random.normal(jax.random.key(2), width)
    return Net(family, objective, params, jax.random.normal(KEY, (batch_size, *width)))


def chain(family) -> Net:
    """Two sites of two variables, the second one's logits a function of the first one's values."""
    event = (2,) if family is BERNOULLI else (2, 3)
    width = 2 if family is BERNOULLI else 6
    keys = jax.random.split(jax.random.key(3), 4)
    params = {
        "a": jax.random.normal(keys[0], event),
        "w": 1.5 * jax.random.normal(keys[1], (width, width)),
    }
    slopes = jax.random.normal(keys[2], (2, width))

    def objective(params, batch, key, sample):
        first = sample("first", params["a"] + batch).reshape(2, width)
        logits = (first @ params["w"]).reshape(2, *event)
        second = sample("second", logits).reshape(2, width)
        return 3 + jnp.square(first @ slopes[0] + second @ slopes[1]) + jnp.sin(first @ slopes[1])

    return Net(family, objective, params, jax.random.normal(keys[3], (2, *event)))


def loop_without_a_batch(family) -> Net:
    """Three steps of a single variable each, whose logits depend on the values before it."""
    values = jnp.array(1.0) if family is BERNOULLI else jnp.array([0.0, 1.0, -1.5])
    params = {"in": 0.3 * values, "back": -0.8 * jnp.ones_like(values)}

    def objective(params, batch, key, sample):
        def step(state, x):
            z = sample("z", params["in"] * x + params["back"] * state)
            return 0.5 * state + jnp.sum(z * values), None

        return 3 + jnp.sin(3 * sample.scan(step, jnp.zeros(()), jnp.arange(1.0, 4.0))[0])

    return Net(family, objective, params, jnp.zeros(()))


def moments(net: Net, made, num_estimates=4000):
    """By name the mean and the standard error of the estimates of `{name: (estimator, state)}`."""

    def one(key):
        found = {}
        for name, (estimator, state, *around) in made.items():
            gradient = jax.grad(estimator.surrogate, argnums=1, has_aux=True)
            with around[0]() if around else contextmanager(lambda: iter([None]))():
                value, _ = gradient(net.objective, net.params, net.batch, key, 1.0, state)
            found[name] = jax.flatten_util.ravel_pytree(value)[0]
        return found

    @quick_jit
    def run(keys):
        values = jax.vmap(one)(keys)
        scale = num_estimates**0.5
        return jax.tree.map(lambda x: (x.mean(axis=0), x.std(axis=0) / scale), values)

    found = run(jax.random.split(jax.random.key(5), num_estimates))
    return {
        name: [np.asarray(moment, np.float64) for moment in pair] for name, pair in found.items()
    }


def started(net, name, **options):
    estimator = estimators.make(name, net.family, **options)
    init = quick_jit(lambda params: estimator.init(net.objective, params, net.batch, KEY))
    return estimator, init(net.params)


def gradient_at(net, estimator, state, key=KEY):
    gradient = jax.grad(estimator.surrogate, argnums=1, has_aux=True)
    return quick_jit(lambda p: gradient(net.objective, p, net.batch, key, 1.0, state)[0])(
        net.params
    )


def with_large_coefficients(state):
    """A state of rodeo whose network matters."""
    weights = state.control.coefficients
    keys = jax.random.split(KEY, len(weights))
    large = {
        name: jax.random.normal(key, leaf.shape)
        for key, (name, leaf) in zip(keys, weights.items(), strict=True)
    }
    return state._replace(control=state.control._replace(coefficients=large))


def assert_unbiased(net, made):
    expected = exact_gradient(net)
    for name, found in moments(net, made).items():
        assert largest_z(*found, expected) < critical_z(len(expected)), name


@both_families
def test_learned_coefficients_leave_the_estimates_unbiased(family):
    net = chain(family)
    rodeo, rodeo_state = started(net, "rodeo", num_samples=2)
    double_cv = estimators.make("double_cv", family, num_samples=2)
    alpha = double_cv_module.DoubleCVState(jnp.asarray(1.3), jnp.asarray(1.0))
    made = {
        "rodeo": (rodeo, with_large_coefficients(rodeo_state)),
        "double_cv": (double_cv, alpha),
    }
    assert_unbiased(net, made)


@slow
@every_family
def test_other_options_leave_the_estimates_unbiased(family):
    net, made = chain(family), {}
    for name, options in [
        ("rloo", {"num_samples": 2}),
        ("arm", {"num_samples": 4}),
        ("disarm", {"num_samples": 4}),
        ("arms", {"num_samples": 3}),
        ("unordered_set", {"num_samples": 3}),
        ("indecater", {"num_samples": 2, "chunk_size": 3}),
    ]:
        made[name] = (estimators.make(name, family, **options), ())
    assert_unbiased(net, made)


@both_families
def test_a_step_without_a_batch_axis_does_not_take_later_steps_for_its_own(family):
    net = loop_without_a_batch(family)
    rodeo, state = started(net, "rodeo", num_samples=2)

    def all_axes(record, per_variable, *, coupled):
        return tuple(range(1, per_variable.ndim))

    # The two costs of the first batch may be equal, and then say nothing of their unit.
    large = with_large_coefficients(
        state._replace(signal=SignalState(jnp.array(3.0), jnp.array(1.0)))
    )
    wrong = (rodeo, large, lambda: patched(stein, "own_event", all_axes))
    made = {"rodeo": (rodeo, large), "wrong": wrong}
    found, expected = moments(net, made, 200_000), exact_gradient(net)
    assert largest_z(*found["rodeo"], expected) < critical_z(len(expected))
    assert largest_z(*found["wrong"], expected) > critical_z(len(expected))


@contextmanager
def patched(owner, name, value):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(owner, name, value)
        yield


def uncorrelated(bits):
    pair, alone = arms_module.scores(bits)
    return jnp.sign(pair), alone


def unsigned(bits):
    pair, alone = arm_module.scores(bits)
    sign = jnp.where(bits.logits > 0, 1, -1)
    return sign[:, None] * pair, sign * alone


class ByShift(Changes):
    def expected(self, record, differences):
        return super().expected(record._replace(z=jnp.zeros_like(record.z)), differences)


def equal_weights(log_p, everything):
    weights, pairs = leave_out(log_p, everything=everything)
    return jnp.full_like(weights, 1 / len(weights)), pairs


right_control = stein.control


def never_differentiated(drawn, changes):
    return jax.lax.stop_gradient(right_control(drawn, changes))


def every_site(objective, params, batch, key, family, plan):
    return frozenset(plan.records)


# By mistake, a function to the estimator and its state, and what it patches.
MISTAKES = {
    "arms without the correlation": (
        lambda: (coupling.estimator(as_families(BERNOULLI), uncorrelated, size=4, groups=1), ()),
        (),
    ),
    "arm with the noise of the rarer value throughout": (
        lambda: (coupling.estimator(as_families(BERNOULLI), unsigned, size=2, groups=1), ()),
        (),
    ),
    "indecater with changes in the place of values": (
        lambda: (estimators.make("indecater", BERNOULLI), ()),
        (indecater_module, "Changes", ByShift),
    ),
    "a baseline with the sample itself": (
        lambda: (estimators.make("rloo", BERNOULLI), ()),
        (rloo_module, "mean_of_others", lambda cost: cost.mean(0)[None]),
    ),
    "a control variate without its expectation": (
        lambda: (
            estimators.make("double_cv", BERNOULLI),
            double_cv_module.DoubleCVState(jnp.asarray(1.3), jnp.asarray(1.0)),
        ),
        (stein, "control", never_differentiated),
    ),
    "a set with equal weights": (
        lambda: (estimators.make("unordered_set", BERNOULLI, num_samples=3), ()),
        (unordered_set_module, "leave_out", equal_weights),
    ),
    "antithetic pairs where logits differ": (
        lambda: (estimators.make("disarm", BERNOULLI), ()),
        (coupling, "shared_sites", every_site),
    ),
}


@pytest.mark.parametrize(
    "mistake",
    walk(
        MISTAKES,
        quick=[
            "a baseline with the sample itself",
            "a control variate without its expectation",
            "antithetic pairs where logits differ",
        ],
    ),
)
def test_the_test_has_the_power_to_catch_mistakes(mistake):
    make, patches = MISTAKES[mistake]
    net = chain(BERNOULLI)
    expected = exact_gradient(net)
    around = [partial(patched, *patches)] if patches else []
    [found] = moments(net, {mistake: (*make(), *around)}).values()
    assert largest_z(*found, expected) > critical_z(len(expected))


# Every pair is (smaller variance, larger variance), and the number is that of the samples.
ORDERS = [
    *[(name, "sf") for name in ("rloo 2", "nvil", "muprop", "rebar", "relax", "indecater")],
    ("rloo 4", "rloo 2"),
    ("disarm 2", "arm 2"),  # for categorical sites it is the coupled form
    ("disarm 2", "rloo 2"),
    ("arms 4", "rloo 4"),
    ("arms 4", "disarm 4"),
    ("unordered_set 4", "rloo 4"),
    ("double_cv 4", "rloo 4"),
    ("rodeo 4", "rloo 4"),
    ("indecater", "rloo 4"),
    *[
        (name, other)
        for name in ("gapped_st", "decoupled_st", "reinmax", "zgr", "gumbel_rao")
        for other in ("sf", "rloo 2")
    ],
    ("gumbel_rao", "st_gumbel_softmax"),
]
LEARNING = {"double_cv", "nvil", "rebar", "relax", "rodeo"}


def distances_of(net, labels, num_estimates):
    """By label, a name and perhaps a number of samples; what learns has done so for 1,000 steps."""
    found = {}
    for label in labels:
        name, *num_samples = label.split()
        options = {"num_samples": int(num_samples[0])} if num_samples else {}
        prepared = partial(trained, num_steps=1000) if name in LEARNING else started
        estimator, state = prepared(net, name, **options)
        found[label] = total(squared_distances(net, estimator, state, num_estimates))
    return found


@slow
@every_family
def test_variances_are_as_the_literature_orders_them(family):
    """For one layer and a cost far from 0."""
    labels = dict.fromkeys(label for pair in ORDERS for label in pair)
    found = distances_of(one_layer(family), labels, 20_000)
    assert wrong_orders(found, ORDERS) == {}


@slow
@every_family
def test_rebar_and_relax_have_less_variance_than_rloo_of_two_samples(family):
    """For two layers and a cost of size 1."""
    found = distances_of(two_layer(family), ["rloo 2", "rebar", "relax"], 20_000)
    assert wrong_orders(found, [("rebar", "rloo 2"), ("relax", "rloo 2")]) == {}


@slow
def test_rebar_has_more_variance_than_rloo_if_eta_leaves_a_part_of_a_large_cost():
    """The cost is about 10, so 2% of it is as much as the cost varies.

    Learned in batches of two examples, the coefficient moves by about 1% at the default rate. So
    `rebar` and `relax` are compared with `rloo` for a cost of size 1, and here with that of `sf`.
    """
    net = one_layer(BERNOULLI)
    found = distances_of(net, ["rloo 2"], 4000)
    for eta in (1.0, 0.98):
        estimator, state = started(net, "rebar", eta=eta)
        found[eta] = total(squared_distances(net, estimator, state, 4000))
    assert wrong_orders(found, [(1.0, "rloo 2"), ("rloo 2", 0.98)]) == {}


@slow
def test_variances_of_one_and_two_samples_are_ordered():
    pairs = [("rloo 2", "sf"), ("disarm 2", "rloo 2"), ("zgr", "sf"), ("zgr", "rloo 2")]
    found = distances_of(one_layer(BERNOULLI), ["sf", "rloo 2", "disarm 2", "zgr"], 4000)
    assert wrong_orders(found, pairs) == {}
    # And equal variances are not taken for ordered ones.
    [same] = distances_of(one_layer(BERNOULLI), ["reinmax"], 4000).values()
    assert wrong_orders({"zgr": found["zgr"], "reinmax": same}, [("zgr", "reinmax")])


# Identities.


@pytest.mark.parametrize("name", ["double_cv", pytest.param("rodeo", marks=slow)])
@both_families
def test_without_coefficients_they_are_rloo(name, family):
    net = chain(family)
    estimator, state = started(net, name, num_samples=3)
    zero = jax.tree.map(jnp.zeros_like, state)
    if name == "rodeo":
        weights = state.control.coefficients | {"a": jnp.zeros(()), "v": jnp.zeros(8)}
        zero = state._replace(control=state.control._replace(coefficients=weights))
    rloo = estimators.make("rloo", family, num_samples=3)
    found, expected = (gradient_at(net, e, s) for e, s in ((estimator, zero), (rloo, ())))
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), found, expected
    )
    other = with_large_coefficients(state) if name == "rodeo" else state
    assert np.abs(gradient_at(net, estimator, other)["a"] - expected["a"]).max() > 1e-2


@pytest.mark.parametrize(
    ("name", "family", "options"),
    [
        ("indecater", BERNOULLI, {}),
        ("indecater", CATEGORICAL, {}),
        ("unordered_set", BERNOULLI, {"num_samples": 2}),
        ("unordered_set", CATEGORICAL, {"num_samples": 3}),
    ],
)
def test_one_variable_all_of_whose_values_are_visited_is_exact(name, family, options):
    net = one_layer(family, num_variables=1)
    found = gradient_at(net, estimators.make(name, family, **options), ())
    np.testing.assert_allclose(found.ravel(), exact_gradient(net), rtol=1e-4, atol=1e-5)


weights_of = partial(jax.jit, static_argnames="everything")(leave_out)


def test_weights_of_rare_values_beside_a_sure_one():
    logits = np.array([0.0, -14.0, -14.0])
    p = np.exp(logits) / np.exp(logits).sum()
    both = p[0] * p[1] / (1 - p[0]) + p[1] * p[0] / (1 - p[1])
    expected = [p[0] * p[1] / (1 - p[0]) / both, p[1] * p[0] / (1 - p[1]) / both]
    w, _ = weights_of(jax.nn.log_softmax(jnp.asarray(logits, jnp.float32))[:2], everything=False)
    np.testing.assert_allclose(w, expected, rtol=0.01)


def test_a_set_with_all_that_is_possible_has_the_probabilities_for_weights():
    log_p = jax.nn.log_softmax(jax.random.normal(KEY, (200, 2)))
    impossible = jnp.full((200, 1), -jnp.inf)  # the third draw of two values
    w, _ = weights_of(jnp.concatenate([log_p, impossible], axis=1).T, everything=False)
    np.testing.assert_allclose(w[:2].T, jnp.exp(log_p), rtol=1e-5)


@pytest.mark.parametrize("base", [-1e2, -1e4, -1e6])
def test_weights_of_values_of_many_variables_sum_to_1(base):
    log_p = base + jnp.array([0.0, -1.0, -2.0, -4.0])
    w, v = weights_of(log_p, everything=False)
    # Each of them is so rare that the draws do not know of one another.
    np.testing.assert_allclose(w, 0.25, rtol=1e-5)
    np.testing.assert_allclose(v, (1 - np.eye(4)) / 3, rtol=1e-5)


def test_a_set_of_values_of_very_many_variables_has_the_cost_and_its_derivative():
    """Their log probability is below -1e5."""
    num_variables = 200_000

    def objective(params, batch, key, sample):
        z = sample("z", params["logits"] + batch, family=BERNOULLI)
        return z.mean(axis=-1) + params["shift"]

    params, batch = {"logits": jnp.zeros(num_variables), "shift": jnp.ones(())}, jnp.zeros((1, 1))
    made = estimators.make("unordered_set", num_samples=4)
    gradient = jax.grad(made.surrogate, argnums=1, has_aux=True)
    found, (_, info) = gradient(objective, params, batch, KEY, 1.0, ())
    assert float(info.cost[0]) == pytest.approx(1.5, abs=0.01)
    assert float(found["shift"]) == pytest.approx(1.0, rel=1e-5)


def test_a_set_of_all_joint_values_is_exact():
    net = one_layer(BERNOULLI, num_variables=3)
    found = gradient_at(net, estimators.make("unordered_set", BERNOULLI, num_samples=8), ())
    np.testing.assert_allclose(found, exact_gradient(net), rtol=1e-4, atol=1e-5)


def score_coefficients(scores, logit, noise, cost, *, shared=True):
    """The mean over paths of what multiplies the logit, for `noise` and `cost` [m, N]."""
    rare = jax.nn.sigmoid(-jnp.abs(logit))
    z = ((noise < rare) ^ (logit > 0)).astype(jnp.float32)
    bits = Bits(jnp.broadcast_to(logit, z.shape), z, jnp.ones(z.shape, bool), noise)
    drawn = Paths(cost(z), {}, None)
    return z, coupling.coefficients(drawn, bits, scores, shared=shared).mean(axis=0)


@pytest.mark.parametrize("logit", [-1.3, 0.0, 0.4])
def test_arm_with_its_noise_integrated_out_is_disarm_as_published(logit):
    """Over a fine grid of noise, in each cell of equal samples."""
    u = (jnp.arange(20_000) + 0.5) / 20_000
    noise = jnp.stack([u, 1 - u])
    cost = lambda z: 7 + 3 * z  # noqa: E731
    z, arm = score_coefficients(arm_module.scores, jnp.asarray(logit), noise, cost)
    _, disarm = score_coefficients(arms_module.scores, jnp.asarray(logit), noise, cost)
    # The papers' formulas; the noise is u of ARM where 0 is the rarer value, else 1 - u.
    paper_u = jnp.where(logit > 0, noise[0], 1 - noise[0])
    difference = cost(z[0]) - cost(z[1])
    np.testing.assert_allclose(arm, difference * (paper_u - 0.5), atol=1e-4)
    sign = (-1) ** z[1] * (z[0] != z[1])
    expected = 0.5 * difference * sign * jax.nn.sigmoid(abs(logit))
    np.testing.assert_allclose(disarm, expected, atol=1e-5)
    for first, second in itertools.product((0, 1), repeat=2):
        inside = np.asarray((z[0] == first) & (z[1] == second))
        if inside.any():
            assert np.mean(arm[inside]) == pytest.approx(float(disarm[inside][0]), abs=2e-3)


@pytest.mark.parametrize("size", [2, 3, 5])
def test_arms_is_as_published_and_at_two_samples_disarm(size):
    logit = jnp.array([-2.0, -0.3, 0.0, 0.6, 3.0])
    noise = jax.random.uniform(KEY, (size, 5))
    cost = lambda z: jnp.cumsum(2 + z + noise, axis=0)  # noqa: E731
    z, found = score_coefficients(arms_module.scores, logit, noise, cost)
    p, f = jax.nn.sigmoid(logit), cost(z)
    below = jnp.where(p < 0.5, p, 1 - p)
    p11 = jnp.maximum(2 * below ** (1 / (size - 1)) - 1, 0) ** (size - 1)
    p11 = jnp.where(p < 0.5, p11, 2 * p - 1 + p11)
    factor = size / (size - 1) * p * (1 - p) / (p - p11)
    expected = jnp.mean((f - f.mean(0)) * (z - p), axis=0) * factor
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)
    if size == 2:
        sign = (-1) ** z[1] * (z[0] != z[1])
        disarm = 0.5 * (f[0] - f[1]) * sign * jax.nn.sigmoid(jnp.abs(logit))
        np.testing.assert_allclose(found, disarm, rtol=1e-4, atol=1e-4)


def test_arms_of_two_samples_and_disarm_are_one_estimator():
    net = chain(CATEGORICAL)
    arms, disarm = (estimators.make(n, CATEGORICAL, num_samples=2) for n in ("arms", "disarm"))
    found, expected = gradient_at(net, arms, ()), gradient_at(net, disarm, ())
    jax.tree.map(np.testing.assert_array_equal, found, expected)


# What they are made of.


def test_noise_is_uniform_and_as_dependent_as_the_correction_says():
    size, count = 3, 20_000
    record = Record(jnp.zeros(count), jnp.zeros(count), BERNOULLI)
    plan = Paths(jnp.zeros(1), {"z": record, "later": record}, None)
    noise = quick_jit(lambda: coupling.noise_of(KEY, plan, frozenset({"z"}), size))()
    for values in (*noise["z"], *noise["later"]):
        assert stats.kstest(np.asarray(values), "uniform").pvalue > 1e-4
    p = 0.4
    for name, both in (("z", max(2 * p**0.5 - 1, 0) ** 2), ("later", p * p)):
        low = np.asarray(noise[name] < p)
        for i, j in itertools.combinations(range(size), 2):
            share = np.mean(low[i] & low[j])
            assert abs(share - both) < 4.5 * np.sqrt(both * (1 - both) / count)


def test_sites_are_shared_by_the_structure_of_the_program():
    def objective(params, batch, key, sample):
        def free(total, x):
            return total + sample("free", params + x).sum(-1), None

        def bound(state, x):
            return sample("bound", params * state + x), None

        total, _ = sample.scan(free, jnp.zeros(1), jnp.zeros((3, 1)))
        last, _ = sample.scan(bound, jnp.zeros((1, 2)), jnp.zeros((3, 1)))
        chosen = jnp.where(sample("gate", params) > 0.5, 1.0, 2.0)  # no derivative, yet it depends
        return total + last.sum(-1) + sample("gated", params * chosen).sum(-1)

    arguments = (objective, jnp.ones((1, 2)), None, KEY, as_families(BERNOULLI))
    assert shared_sites(*arguments, layout(*arguments)) == {"free", "gate"}
    plan = layout(*arguments)
    assert list(plan.records) == ["free", "bound", "gate", "gated"]


def test_records_say_where_a_loop_begins():
    def objective(params, batch, key, sample):
        def outer(total, x):
            inner = lambda t, y: (t + sample("z", params).sum(-1), None)  # noqa: E731
            return sample.scan(inner, total, length=4)

        return sample.scan(outer, jnp.zeros(1), length=3, reverse=True)[0]

    plan = layout(objective, jnp.ones((1, 2)), None, KEY, as_families(BERNOULLI))
    assert plan.records["z"].first == (2, 0)


@pytest.mark.parametrize("reverse", [False, True])
def test_a_set_is_of_the_first_step_of_a_loop(reverse):
    """With two values at each step both are tried at the first, whichever end that is."""

    def objective(params, batch, key, sample):
        def step(state, x):
            z = sample("z", params * x + state)
            return 0.5 * state + z, z

        state, z = sample.scan(step, jnp.zeros(2), jnp.arange(1.0, 4.0), reverse=reverse)
        return jnp.sin(3 * state), z

    net = Net(BERNOULLI, objective, jnp.asarray(0.3), None)
    estimator = estimators.make("unordered_set", BERNOULLI)
    [found] = moments(net, {"": (estimator, ())}).values()
    expected = exact_gradient(net)
    assert largest_z(*found, expected) < critical_z(1)


def ordered_probability(p, order):
    left, found = 1.0, 1.0
    for index in order:
        found *= p[index] / left
        left -= p[index]
    return found


def test_distinct_values_are_drawn_without_replacement():
    logits = np.array([[0.0, 1.0, -0.5], [0.4, -1.0, 0.0]])
    log_p = jax.nn.log_softmax(jnp.asarray(logits), axis=-1)
    joint = np.exp(np.asarray(log_p, np.float64))
    p = (joint[0][:, None] * joint[1][None]).ravel()
    count = 20_000
    draw = quick_jit(
        jax.vmap(lambda key: distinct_values(log_p, gumbel_noise(key, (2, 2, 3), log_p.dtype)))
    )
    values = np.asarray(draw(jax.random.split(KEY, count)))
    index = np.sort(values[..., 0] * 3 + values[..., 1], axis=-1)
    sets = list(itertools.combinations(range(9), 2))
    expected = [sum(ordered_probability(p, o) for o in itertools.permutations(s)) for s in sets]
    observed = [np.sum(np.all(index == s, axis=-1)) for s in sets]
    assert sum(observed) == count  # never one value twice
    assert stats.chisquare(observed, count * np.array(expected)).pvalue > 1e-4


def test_weights_of_sets_sum_over_them_to_the_expectation():
    """And so do those of each set without one of its values, by themselves."""
    p = np.array([0.05, 0.1, 0.15, 0.3, 0.4])
    f = np.array([3.0, -1.0, 4.0, 1.0, -5.0])
    size, total, without = 3, 0.0, np.zeros(5)
    for chosen in itertools.combinations(range(5), size):
        weights, pairs = map(
            np.asarray, weights_of(jnp.log(jnp.asarray(p[list(chosen)])), everything=False)
        )
        permutations = itertools.permutations(chosen)
        probability = sum(ordered_probability(p, order) for order in permutations)
        total += probability * np.sum(weights * f[list(chosen)])
        for row, s in enumerate(chosen):
            rest = [a for a in chosen if a != s]
            q = p / (1 - p[s])
            given = sum(ordered_probability(q, order) for order in itertools.permutations(rest))
            assert weights[row] == pytest.approx(p[s] * given / probability, rel=1e-4)
            estimate = p[s] * f[s] + np.sum(pairs[row] * f[list(chosen)])
            without[s] += given * estimate
    assert total == pytest.approx(np.sum(p * f), rel=1e-4)
    np.testing.assert_allclose(without, np.sum(p * f), rtol=1e-4)


def test_weights_of_improbable_values_are_finite():
    log_p = jnp.array([-300.0, -301.0, -299.5])
    weights, pairs = weights_of(log_p, everything=False)
    assert float(weights.sum()) == pytest.approx(1, rel=1e-3)
    np.testing.assert_allclose(pairs.sum(axis=1), 1, rtol=1e-3)


def test_the_mean_of_others_leaves_out_the_sample_itself():
    values = jnp.array([[1.0], [2.0], [6.0]])
    np.testing.assert_allclose(mean_of_others(values), [[4.0], [3.5], [1.5]])


# Learning.


def trained(net, name, num_steps, **options):
    estimator, state = started(net, name, **options)

    def step(state, key):
        _, (state, _) = estimator.surrogate(net.objective, net.params, net.batch, key, 1.0, state)
        return state, None

    keys = jax.random.split(jax.random.key(8), num_steps)
    return estimator, quick_jit(lambda s: jax.lax.scan(step, s, keys)[0])(state)


def test_double_cv_learns_to_be_exact_for_a_linear_cost():
    def objective(params, batch, key, sample):
        return sample("z", params + batch) @ jnp.array([1.0, -2.0, 3.0])

    net = Net(BERNOULLI, objective, jnp.array([0.3, 0.0, -0.5]), jnp.zeros((2, 3)))
    estimator, state = trained(net, "double_cv", 500)
    assert float(state.product / state.square) == pytest.approx(1, rel=0.1)
    learned = double_cv_module.DoubleCVState(jnp.asarray(1.0), jnp.asarray(1.0))
    np.testing.assert_allclose(
        gradient_at(net, estimator, learned), exact_gradient(net), rtol=1e-3, atol=1e-4
    )


@slow
def test_rodeo_learns_a_smaller_variance_than_it_starts_from():
    net = one_layer(BERNOULLI, batch_size=8)
    made = {
        "rodeo": trained(net, "rodeo", 300, control_learning_rate=0.03),
        "rloo": started(net, "rloo"),
    }
    variance = {name: np.sum(error**2) for name, (_, error) in moments(net, made, 1000).items()}
    assert variance["rodeo"] < 0.8 * variance["rloo"]


def test_an_infinite_cost_does_not_spoil_what_is_learned():
    def objective(params, batch, key, sample):
        z = sample("z", params + batch)
        return jnp.where(z.sum(-1) > 1, jnp.inf, z[:, 0])

    net = Net(BERNOULLI, objective, jnp.zeros(2), jnp.zeros((4, 2)))
    _, state = trained(net, "double_cv", 20)
    assert np.isfinite(jax.tree.leaves(state)).all()


@pytest.mark.parametrize("name", ["double_cv", pytest.param("rodeo", marks=slow), "muprop"])
@pytest.mark.parametrize(
    "cost", [lambda z: jnp.sqrt(z.sum(-1)), lambda z: 1 / (2 * z[:, 0] - 1)], ids=["root", "pole"]
)
def test_a_slope_that_is_not_finite_leaves_the_estimate_unbiased(name, cost):
    """At no sample, and at the mean 1/2."""

    def objective(params, batch, key, sample):
        return cost(sample("z", params + batch))

    net = Net(BERNOULLI, objective, jnp.zeros(2), jnp.zeros((4, 2)))
    assert_unbiased(net, {name: started(net, name)})


# Refusals.


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        *[
            (name, {"num_samples": 1}, "num_samples must be an integer >= 2, got 1")
            for name in ("rloo", "arm", "disarm", "arms", "double_cv", "rodeo")
        ],
        ("unordered_set", {"num_samples": 1}, r"num_samples must be an integer in \[2, 8\], got 1"),
        ("unordered_set", {"num_samples": 9}, r"num_samples must be an integer in \[2, 8\], got 9"),
        ("disarm", {"num_samples": 3}, "num_samples must be even, as it draws pairs, got 3"),
        ("arm", {"num_samples": 5}, "num_samples must be even, as it draws pairs, got 5"),
        ("indecater", {"chunk_size": 0}, "chunk_size must be an integer >= 1, got 0"),
        ("rodeo", {"control_hidden": 0}, "control_hidden must be an integer >= 1, got 0"),
    ],
)
def test_options_out_of_range_are_refused(name, options, message):
    with pytest.raises(ValueError, match=f"estimator '{name}': {message}"):
        estimators.make(name, BERNOULLI, **options)


def test_more_distinct_values_than_there_are_are_refused():
    net = one_layer(BERNOULLI, num_variables=2)
    estimator = estimators.make("unordered_set", BERNOULLI, num_samples=5)
    message = "'unordered_set' draws num_samples=5 distinct values, but the first site, 'z', has 4"
    with pytest.raises(ValueError, match=message):
        estimator.init(net.objective, net.params, net.batch, KEY)
    with pytest.raises(ValueError, match="lower num_samples, or use 'rloo' or 'arms'"):
        gradient_at(net, estimator, ())


def test_passes_are_counted():
    net = chain(CATEGORICAL)
    plan = layout(net.objective, net.params, net.batch, KEY, as_families(CATEGORICAL))
    found = {name: passes(estimators.spec(name), plan, {}) for name in ("indecater", "rodeo")}
    assert found == {"indecater": "1 * (1 + 8) + 1", "rodeo": "2 * 4 + 2 * 4"}
