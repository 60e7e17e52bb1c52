"""What an objective may look like: families by site, masks, shapes, coupled examples, aux."""

import re
from functools import cache, partial

import jax
import jax.flatten_util
import jax.numpy as jnp
import numpy as np
import pytest

from gumbel import BERNOULLI, CATEGORICAL, estimators, exact, samplers
from gumbel.estimators.multi import independent, trace_paths
from gumbel.sites import as_families
from tests.gumbel.nets import Net, exact_gradient
from tests.gumbel.test_estimators import critical_z, estimates, initial_state, largest_z
from tests.gumbel.walks import INDEPENDENT, SINGLE_SAMPLE_UNBIASED, walk

KEY = jax.random.key(4)
every_estimator = pytest.mark.parametrize("name", walk())
every_unbiased = pytest.mark.parametrize("name", walk(SINGLE_SAMPLE_UNBIASED))
# Of several paths, and of every value; what the others have of their own is in the walk above.
several_unbiased = pytest.mark.parametrize(
    "name", walk(SINGLE_SAMPLE_UNBIASED, quick={"marginalization", "rloo"})
)


def check_unbiased(net, name, expected=None):
    expected = exact_gradient(net) if expected is None else expected
    found = estimates(net, estimators.make(name, net.family))
    assert largest_z(*found, expected) < critical_z(len(expected))


# Variables of several kinds.


def mixed_objective(params, batch, key, sample, *, named=False):
    """A categorical edge chooses which of three gates counts."""
    options = [{"family": CATEGORICAL}, {"family": "bernoulli"}] if named else [{}, {}]
    edge = sample("edge", params["edge"] + batch[:, None, :], **options[0])
    gate = sample("gate", params["gate"] * batch + edge[:, 0], **options[1])
    return jnp.sin(jnp.sum(edge[:, 0] * gate, axis=-1) + gate @ params["value"])


MIXED = {"edge": CATEGORICAL, "gate": "bernoulli"}


@cache
def mixed_net(*, named=False):
    keys = jax.random.split(KEY, 3)
    params = {
        "edge": jax.random.normal(keys[0], (1, 3)),
        "gate": jnp.array([1.0, -0.5, 0.3]),
        "value": jnp.array([1.0, 2.0, -1.0]),
    }
    batch = jax.random.normal(keys[1], (2, 3))
    family = None if named else MIXED
    return Net(family, partial(mixed_objective, named=named), params, batch)


@cache
def mixed_by_hand():
    """The gradient of a sum over all 3 * 2^3 joint values, written out."""
    net = mixed_net()

    edges = np.repeat(np.eye(3, dtype=np.float32), 8, axis=0)
    gates = np.tile(np.float32(list(np.ndindex(2, 2, 2))), (3, 1))

    @jax.jit
    @jax.grad
    def gradient(params):
        def weighted(edge, gate):
            given = {"edge": jnp.tile(edge, (2, 1, 1)), "gate": jnp.tile(gate, (2, 1))}
            cost = mixed_objective(params, net.batch, KEY, lambda site, _: given[site])
            edge_logits = params["edge"] + net.batch[:, None, :]
            log_q = CATEGORICAL.log_prob(edge_logits, given["edge"]).sum(-1)
            gate_logits = params["gate"] * net.batch + given["edge"][:, 0]
            log_q += BERNOULLI.log_prob(gate_logits, given["gate"]).sum(-1)
            return jnp.exp(log_q) * cost

        return jnp.mean(jax.vmap(weighted)(edges, gates).sum(axis=0))

    return np.asarray(jax.flatten_util.ravel_pytree(gradient(net.params))[0], np.float64)


@every_unbiased
def test_one_estimator_serves_a_mixture_of_families(name):
    check_unbiased(mixed_net(), name, mixed_by_hand())


@every_estimator
def test_a_family_may_come_with_the_call(name):
    """Then it is the same program."""
    programs = []
    for net in (mixed_net(named=True), mixed_net()):
        estimator = estimators.make(name, net.family)

        def gradient(params, estimator=estimator, net=net):
            state = estimator.init(net.objective, params, net.batch, KEY)
            arguments = (net.objective, params, net.batch, KEY, 0.7, state)
            return jax.grad(estimator.surrogate, argnums=1, has_aux=True)(*arguments)

        program = str(jax.make_jaxpr(gradient)(net.params))
        programs.append(re.sub("0x[0-9a-f]+", "", program))
    assert programs[0] == programs[1]


@pytest.mark.parametrize("name", walk(n for n in estimators.names() if estimators.spec(n).relaxes))
def test_each_site_may_have_its_temperature(name):
    net = mixed_net()
    estimator = estimators.make(name, MIXED)
    state = initial_state(net, estimator)

    @jax.jit
    def value(temperature):
        return estimator.surrogate(net.objective, net.params, net.batch, KEY, temperature, state)[0]

    shared = value(0.7)
    assert value({"edge": 0.7, "gate": 0.7}) == shared
    if name == "gumbel_softmax":
        assert value({"edge": 0.7, "gate": 2.0}) != shared
    gradient = jax.grad(value)({"edge": 0.7, "gate": 2.0})
    assert all(float(slope) != 0 for slope in gradient.values())
    with pytest.raises(
        ValueError, match="no temperature for site 'gate': the mapping names 'edge'"
    ):
        value({"edge": 0.7})
    with pytest.raises(ValueError, match="temperature names site 'gaet', which was not sampled"):
        value({"edge": 0.7, "gate": 0.7, "gaet": 1.0})


@pytest.mark.parametrize("name", ["gumbel_softmax", "rebar"])
def test_a_mapping_of_temperatures_may_name_observed_sites(name):
    """So that it serves the labeled and the unlabeled examples of a model."""
    estimator = estimators.make(name, BERNOULLI)

    def objective(params, batch, key, sample):
        y = sample("y", params + batch)
        return (sample("z", params + y) * y).sum(-1)

    labeled = samplers.condition(objective, {"y": jnp.ones((4, 3))})
    arguments = labeled, jnp.zeros(3), jnp.zeros((4, 3)), KEY
    state = estimator.init(*arguments)
    alone, _ = estimator.surrogate(*arguments, {"z": 0.7}, state)
    assert estimator.surrogate(*arguments, {"y": 0.5, "z": 0.7}, state)[0] == alone
    with pytest.raises(ValueError, match="temperature names site 'x', which was not sampled"):
        estimator.surrogate(*arguments, {"x": 0.5, "z": 0.7}, state)


def test_families_that_are_missing_wrong_or_two_are_refused():
    net = mixed_net()

    def trace(family, named=False):
        objective = partial(mixed_objective, named=named)
        return samplers.trace(objective, net.params, net.batch, KEY, family, samplers.hard_draw)

    with pytest.raises(ValueError, match="site 'gate' has no family"):
        trace({"edge": CATEGORICAL})
    with pytest.raises(
        ValueError, match=r"site 'edge' is called with family categorical, and listed"
    ):
        trace({"edge": BERNOULLI, "gate": BERNOULLI}, named=True)
    with pytest.raises(TypeError, match=r"give gumbel\.BERNOULLI"):
        trace(3)
    with pytest.raises(ValueError, match="did you mean 'bernoulli'"):
        trace({"edge": CATEGORICAL, "gate": "bernouli"})


# Masks.


def masked_objective(params, batch, key, sample):
    z = sample("z", params["logits"] + batch["shift"], where=batch["where"])
    return jnp.cos(z @ params["value"])


WHERE = jnp.array([[True, True, False], [False, True, False]])
MASKED = Net(
    BERNOULLI,
    masked_objective,
    {"logits": jnp.array([[0.5, -1.0, 2.0]]), "value": jnp.array([1.0, 2.0, 3.0])},
    {"shift": jnp.where(WHERE, 0.3, jnp.nan), "where": WHERE},
)


@cache
def masked_by_hand():
    """The gradient by enumeration of the variables that are left."""

    @jax.jit
    @jax.grad
    def gradient(params):
        costs = []
        for row in range(2):
            kept = np.flatnonzero(np.asarray(WHERE)[row])

            def weighted(bits, kept=kept):
                z = jnp.zeros(3).at[kept].set(bits)
                log_q = BERNOULLI.log_prob(params["logits"][0, kept] + 0.3, bits).sum()
                return jnp.exp(log_q) * jnp.cos(z @ params["value"])

            values = np.float32(list(np.ndindex(*[2] * len(kept))))
            costs.append(jax.vmap(weighted)(values).sum())
        return jnp.mean(jnp.stack(costs))

    return np.asarray(jax.flatten_util.ravel_pytree(gradient(MASKED.params))[0], np.float64)


def test_enumeration_leaves_masked_variables_out():
    found = exact_gradient(MASKED)
    np.testing.assert_allclose(found, masked_by_hand(), rtol=1e-4, atol=1e-6)


@every_unbiased
def test_masked_variables_are_inert(name):
    """The estimate is that of the variables that are left, whatever the masked logits."""
    # nvil's baseline sees the batch, in which masked places may hold anything.
    options = {"features": lambda batch: batch["where"].astype(float)} if name == "nvil" else {}
    found = estimates(MASKED, estimators.make(name, BERNOULLI, **options))
    assert largest_z(*found, masked_by_hand()) < critical_z(len(masked_by_hand()))


@every_estimator
@pytest.mark.parametrize("family", [BERNOULLI, CATEGORICAL], ids=lambda family: family.name)
def test_what_is_masked_has_no_value_and_no_gradient(name, family):
    shape = (2, 4) if family is BERNOULLI else (2, 4, 3)
    where = jnp.array([[True, False, True, True], [False, False, True, True]])
    expanded = where if family is BERNOULLI else jnp.broadcast_to(where[..., None], shape)
    logits = jnp.where(expanded, jax.random.normal(KEY, shape), jnp.inf)

    def objective(params, batch, key, sample):
        z = sample("z", params, where=where)
        return jnp.square((z * jnp.arange(1.0, 1 + shape[-1])).reshape(2, -1).sum(-1)), z

    estimator = estimators.make(name, family)

    @jax.jit
    def gradient_and_info(logits):
        state = estimator.init(objective, logits, jnp.zeros((2, 1)), KEY)
        arguments = (objective, logits, jnp.zeros((2, 1)), KEY, 0.5, state)
        return jax.grad(estimator.surrogate, argnums=1, has_aux=True)(*arguments)

    gradient, (_, info) = gradient_and_info(logits)
    assert np.all(np.asarray(info.aux)[~np.asarray(expanded)] == 0)
    assert np.all(np.asarray(gradient)[~np.asarray(expanded)] == 0)
    assert np.any(np.asarray(gradient)[np.asarray(expanded)] != 0)
    assert np.isfinite(gradient).all()
    if family is CATEGORICAL:
        np.testing.assert_allclose(np.asarray(info.aux).sum(-1), where, atol=1e-6)


@pytest.mark.parametrize(
    "where",
    [jnp.ones((2,), bool), jnp.ones((2, 4, 3), bool), jnp.ones((2, 4)), jnp.ones((3, 4), bool)],
)
def test_masks_of_another_shape_or_kind_are_refused(where):
    sample = samplers.hard(KEY, CATEGORICAL)
    with pytest.raises(
        ValueError, match=r"where= of site 'z' is .*: give booleans of shape \[2, 4\]"
    ):
        sample("z", jnp.zeros((2, 4, 3)), where=where)


# Shapes.


# The last ones have no variable, or one value.
SHAPES = {
    "bernoulli": (BERNOULLI, [(3,), (3, 2), (3, 2, 2), (3, 0)]),
    "categorical": (CATEGORICAL, [(3, 4), (3, 2, 4), (3, 2, 1, 4), (3, 0, 4), (3, 2, 1)]),
}


def squares(params, batch, key, sample):
    """`sum_i (i + 1) (z_i - 0.3)^2` over the entries of each site."""
    cost = jnp.zeros(3)
    for index, (shift, logits) in enumerate(zip(params, batch, strict=True)):
        z = sample(f"z{index}", shift + logits).reshape(3, -1)
        cost += jnp.square(z - 0.3) @ jnp.arange(1.0, 1 + z.shape[1])
    return cost


def slope_of_squares(family, logits):
    """A square is 0.09, and 0.4 more where the entry is 1."""
    mean = jax.nn.sigmoid if family is BERNOULLI else jax.nn.softmax
    return jax.grad(lambda x: 0.4 * mean(x).ravel() @ jnp.arange(1.0, 1 + x.size))(logits)


@every_estimator
@pytest.mark.parametrize(("family", "shapes"), SHAPES.values(), ids=SHAPES)
def test_logits_may_have_any_number_of_axes(name, family, shapes):
    params = [jax.random.normal(KEY, shape[1:]) for shape in shapes]
    batch = [jnp.zeros(shape) for shape in shapes]
    options = {"features": lambda batch: jnp.ones((3, 1))} if name == "nvil" else {}
    estimator = estimators.make(name, family, **options)

    @jax.jit
    def gradient_and_info(params):
        state = estimator.init(squares, params, batch, KEY)
        arguments = (squares, params, batch, KEY, 0.5, state)
        return jax.grad(estimator.surrogate, argnums=1, has_aux=True)(*arguments)

    gradient, (_, info) = gradient_and_info(params)
    assert info.cost.shape == (3,)
    for logits, leaf in zip(params, gradient, strict=True):
        assert leaf.shape == logits.shape
        assert np.isfinite(leaf).all()
        expected = slope_of_squares(family, logits)
        assert np.any(np.abs(leaf) > 1e-6) == np.any(expected != 0)
        if name == "marginalization":
            np.testing.assert_allclose(leaf, expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    ("family", "shape"), [(BERNOULLI, (3, 0)), (CATEGORICAL, (3, 0, 4)), (CATEGORICAL, (3, 2, 1))]
)
def test_unordered_set_wants_two_values_at_its_first_site(family, shape):
    init = estimators.make("unordered_set", family).init
    with pytest.raises(ValueError, match=r"draws num_samples=2 distinct values, .*, has 1:"):
        init(squares, [jnp.zeros(shape[1:])], [jnp.zeros(shape)], KEY)


@cache
def lone_variable(family):
    def objective(params, batch, key, sample):
        z = sample("z", params + batch)
        return jnp.sin(z * 2 if family is BERNOULLI else z @ jnp.array([1.0, 2.0, 4.0]))

    shape = () if family is BERNOULLI else (3,)
    params = jax.random.normal(KEY, shape)
    return Net(family, objective, params, jnp.zeros((2, *shape)))


@several_unbiased
@pytest.mark.parametrize("family", [BERNOULLI, CATEGORICAL], ids=lambda family: family.name)
def test_a_single_variable_needs_no_axis(name, family):
    check_unbiased(lone_variable(family), name)


def time_major(params, batch, key, sample):
    z = sample("z", params + batch)  # [T, B]
    return jnp.square(z.sum(axis=0) - batch[0])


@pytest.mark.parametrize("name", walk(INDEPENDENT, quick={"sf"}))  # `make` checks for them all
@pytest.mark.parametrize("num_steps", [3, 4])
def test_time_major_logits_are_refused_also_where_steps_are_as_many_as_examples(name, num_steps):
    batch = jnp.zeros((num_steps, 4))
    estimator = estimators.make(name, BERNOULLI)
    with pytest.raises(ValueError, match="put the batch axis"):
        estimator.init(time_major, jnp.zeros(()), batch, KEY)


# Coupled examples.


def standardized(params, batch, key, sample):
    """Batch statistics of the samples; by brute force the mean is 2.0550."""
    z = sample("z", params[:, None])[:, 0]
    return jnp.mean(((z - z.mean()) / jnp.sqrt(z.var() + 0.1) - jnp.array([0.0, 1.0, 2.0])) ** 2)


COUPLED = Net(BERNOULLI, standardized, jnp.array([0.5, -0.3, 1.0]), jnp.zeros((3, 1)))


@cache
def coupled_by_hand():
    """The expected cost and its gradient, by a sum over the 8 joint values."""

    @jax.jit
    @jax.value_and_grad
    def value_and_grad(params):
        def weighted(bits):
            z = bits[:, None]
            cost = standardized(params, None, None, lambda site, logits: z)
            return jnp.exp(BERNOULLI.log_prob(params[:, None], z).sum()) * cost

        return jax.vmap(weighted)(np.float32(list(np.ndindex(2, 2, 2)))).sum()

    value, gradient = value_and_grad(COUPLED.params)
    return float(value), np.asarray(gradient, np.float64)


@several_unbiased
def test_a_scalar_cost_couples_the_examples(name):
    value, gradient = coupled_by_hand()
    assert value == pytest.approx(2.0550, abs=1e-4)
    check_unbiased(COUPLED, name, gradient)


def test_vimco_takes_a_scalar_cost():
    def bound(params, batch, key, sample):
        costs = [
            standardized(params, batch, key, lambda site, x, i=i: sample(f"{site}{i}", x))
            for i in range(2)
        ]
        return jnp.log(2.0) - jax.nn.logsumexp(-jnp.stack(costs))

    expected = exact_gradient(COUPLED._replace(objective=bound))
    found = estimates(COUPLED, estimators.make("vimco", BERNOULLI, num_samples=2))
    assert largest_z(*found, expected) < critical_z(3)


@pytest.mark.parametrize("name", walk(INDEPENDENT, quick={"sf"}))  # `make` checks for them all
def test_a_cost_an_example_whose_examples_leak_is_refused(name):
    def objective(params, batch, key, sample):
        z = sample("z", params[:, None])[:, 0]
        return (z - z.mean()) ** 2

    estimator = estimators.make(name, BERNOULLI)
    with pytest.raises(ValueError, match="at site 'z' change the cost of another: return a scalar"):
        estimator.init(objective, COUPLED.params, COUPLED.batch, KEY)


def test_a_leak_through_the_logits_of_a_later_site_is_refused():
    def objective(params, batch, key, sample):
        first = sample("first", params[:, None])
        return sample("second", params[:, None] + first.mean())[:, 0]

    with pytest.raises(ValueError, match="at site 'first'"):
        estimators.make("sf", BERNOULLI).init(objective, COUPLED.params, COUPLED.batch, KEY)
    with pytest.raises(ValueError, match="at site 'first'"):
        exact.value_and_grad(objective, COUPLED.params, COUPLED.batch, KEY, BERNOULLI)


def test_enumeration_of_coupled_examples_counts_the_whole_batch():
    def objective(params, batch, key, sample):
        return sample("z", params + batch).mean()

    with pytest.raises(ValueError, match=r"1048576 joint values \(z: 2\^20\), of the whole batch"):
        exact.value_and_grad(objective, jnp.zeros(4), jnp.zeros((5, 4)), KEY, BERNOULLI)


def shared_and_own(params, batch, key, sample, *, scalar=True):
    shared = sample("shared", params)  # [D], no batch axis
    own = sample("own", params + batch)
    costs = jnp.sin((shared[None] + own) @ jnp.array([1.0, 2.0]))
    return costs.mean() if scalar else costs


SHARED = Net(BERNOULLI, shared_and_own, jnp.array([0.3, -0.4]), jnp.zeros((2, 2)) + 0.1)


@every_unbiased
def test_a_variable_shared_by_the_batch_needs_a_scalar_cost(name):
    check_unbiased(SHARED, name)


def test_a_variable_shared_by_the_batch_is_refused_beside_a_cost_an_example():
    objective = partial(shared_and_own, scalar=False)
    with pytest.raises(ValueError, match=r"site 'shared' have shape \(2,\), but the cost"):
        exact.value_and_grad(objective, SHARED.params, jnp.zeros((3, 2)), KEY, BERNOULLI)


# What leaves the objective.


@every_estimator
def test_aux_is_delivered(name):
    def objective(params, batch, key, sample):
        z = sample("z", params + batch)
        return z.sum(-1), {"z": z, "fixed": 3.0}

    estimator, batch = estimators.make(name, BERNOULLI), jnp.zeros((4, 2))

    @jax.jit
    def step(params):
        state = estimator.init(objective, params, batch, KEY)
        return estimator.surrogate(objective, params, batch, KEY, 0.5, state)

    _, (_, info) = step(jnp.zeros(2))
    assert info.aux["z"].shape == (4, 2)
    assert float(info.aux["fixed"]) == 3.0
    spec = estimators.spec(name)
    if "num_samples" not in spec.options and not spec.enumerates:  # one pass, or several alike
        np.testing.assert_allclose(info.aux["z"].sum(-1), info.cost, rtol=1e-6)
    if name != "gumbel_softmax":
        assert set(np.unique(info.aux["z"])) <= {0.0, 1.0}


def test_the_slope_stays_for_an_interval():
    estimator = estimators.make(
        "slope_annealed_st", BERNOULLI, slope_rate=0.25, slope_maximum=1.4, slope_interval=2
    )

    def objective(params, batch, key, sample):
        return sample("z", params + batch).sum(-1)

    arguments, slopes = (objective, jnp.zeros(2), jnp.zeros((4, 2)), KEY), []
    state = estimator.init(*arguments)
    for _ in range(5):
        _, (state, info) = estimator.surrogate(*arguments, 0.5, state)
        slopes.append(float(info.metrics["slope"]))
    assert slopes == pytest.approx([1.0, 1.0, 1.4, 1.4, 1.4])


def test_the_aux_of_several_samples_is_that_of_the_first():
    def objective(params, batch, key, sample):
        z = sample("z", params + batch)
        return z.sum(-1), z

    paths = trace_paths(
        *(objective, jnp.zeros(2), jnp.zeros((4, 2)), KEY, as_families(BERNOULLI)), independent, 3
    )
    np.testing.assert_array_equal(paths.first_aux, paths.records["z"].z[0])
    assert (paths.records["z"].z[0] != paths.records["z"].z[2]).any()


# Refusals.


@pytest.mark.parametrize(
    "transform",
    [
        lambda draw, x: jax.vmap(draw)(x + 0),
        lambda draw, x: jax.lax.scan(lambda c, row: (c, draw(row)), 0, x)[1],
        lambda draw, x: jax.lax.fori_loop(0, 3, lambda i, c: draw(c), x),
        lambda draw, x: jax.lax.while_loop(lambda c: c.sum() > 100, draw, x),
        lambda draw, x: jax.lax.cond(x.sum() > 0, draw, lambda y: y, x),
        lambda draw, x: jax.jit(draw)(x),
        lambda draw, x: jax.checkpoint(draw)(x),
        jax.lax.map,
        lambda draw, x: jax.grad(lambda y: draw(y).sum())(x),
    ],
    ids=["vmap", "scan", "fori", "while", "cond", "jit", "checkpoint", "map", "grad"],
)
@pytest.mark.parametrize("jitted", [False, True], ids=["eager", "jitted"])
def test_other_transformations_around_a_site_are_refused(transform, jitted):
    def objective(params, batch, key, sample):
        return transform(lambda x: sample("edge", x), params).sum(-1)

    def run(params):
        args = (objective, params, None, KEY, BERNOULLI, samplers.hard_draw)
        return samplers.trace(*args).cost

    run = jax.jit(run) if jitted else run
    with pytest.raises(ValueError, match=r"site 'edge' is sampled inside a JAX .*sample\.scan"):
        run(jnp.zeros((4, 2)))
    sample = samplers.hard(KEY, BERNOULLI)
    with pytest.raises(ValueError, match="site 'edge' is sampled inside a JAX"):
        objective(jnp.zeros((4, 2)), None, KEY, sample)


def test_a_raw_scan_inside_a_loop_and_a_loop_inside_a_raw_scan_are_refused():
    def inner_raw(params, batch, key, sample):
        def body(c, x):
            return c, jax.lax.map(lambda row: sample("z", row), x)

        return sample.scan(body, 0, params[None])[1].sum((0, 2))

    def outer_raw(params, batch, key, sample):
        def body(c, x):
            return c, sample.scan(lambda d, row: (d, sample("z", row[None])), 0, x)[1]

        return jax.lax.scan(body, 0, params[None])[1].sum((0, 2, 3))

    for objective, message in ((inner_raw, "site 'z'"), (outer_raw, "sample.scan is called")):
        with pytest.raises(ValueError, match=f"{message}.* inside a JAX transformation"):
            samplers.trace(objective, jnp.zeros((4, 2)), None, KEY, BERNOULLI, samplers.hard_draw)


def test_a_checkpointed_or_jitted_part_without_a_site_is_fine():
    def objective(params, batch, key, sample):
        z = sample("z", jax.jit(lambda x: 2 * x)(params))
        return jax.checkpoint(lambda z: jnp.sin(z).sum(-1))(z)

    gradient = jax.grad(lambda p: exact.value_and_grad(objective, p, None, KEY, BERNOULLI)[0])
    assert np.isfinite(jax.jit(gradient)(jnp.ones((2, 2)))).all()


def test_observed_sites_are_checked():
    def objective(params, batch, key, sample):
        return sample("label", params)[:, 0] + sample("other", params)[:, 0]

    params = jnp.zeros((3, 2))
    with pytest.raises(
        ValueError, match="observed site 'lable' was never sampled: did you mean 'label'"
    ):
        samplers.condition(objective, {"lable": params})(
            params, None, KEY, samplers.hard(KEY, BERNOULLI)
        )
    with pytest.raises(
        ValueError, match=r"site 'label' has shape \(3,\), but its logits have \(3, 2\)"
    ):
        samplers.condition(objective, {"label": jnp.array([0, 1, 1])})(
            params, None, KEY, samplers.hard(KEY, BERNOULLI)
        )


def test_a_masked_observed_value_is_0():
    def objective(params, batch, key, sample):
        return sample("label", params, where=jnp.array([[True, False]])).sum(-1)

    observed = samplers.condition(objective, {"label": jnp.ones((1, 2))})
    sample = samplers.hard(KEY, BERNOULLI)
    np.testing.assert_array_equal(observed(jnp.zeros((1, 2)), None, KEY, sample), [1.0])

    def mistaken(params, batch, key, sample):
        return sample("label", params, where=jnp.ones(7)).sum(-1)

    with pytest.raises(ValueError, match=r"where= of site 'label' is float32\[7\]: give booleans"):
        samplers.condition(mistaken, {"label": jnp.ones((1, 2))})(
            jnp.zeros((1, 2)), None, KEY, samplers.hard(KEY, BERNOULLI)
        )


def test_observed_values_are_refused_as_those_of_a_sampled_site():
    def twice(params, batch, key, sample):
        return (sample("label", params) + sample("label", params)).sum(-1)

    observed = samplers.condition(twice, {"label": jnp.ones((1, 2))})
    with pytest.raises(ValueError, match="sampled site 'label' twice"):
        observed(jnp.zeros((1, 2)), None, KEY, samplers.hard(KEY, BERNOULLI))

    def of_classes(params, batch, key, sample):
        return sample("label", params).sum(-1)

    labels = jnp.arange(9).reshape(3, 3)
    with pytest.raises(ValueError, match="'label' has integer values that are not one-h"):
        samplers.condition(of_classes, {"label": labels})(
            jnp.zeros((3, 3)), None, KEY, samplers.hard(KEY, CATEGORICAL)
        )


def test_an_observed_objective_serves_any_estimator():
    def objective(params, batch, key, sample):
        return 3 * sample("label", params)[:, 0] + sample("other", params)[:, 0]

    params = jnp.zeros((2, 1))
    observed = samplers.condition(objective, {"label": jnp.array([[1.0], [0.0]])})
    value, gradient = jax.jit(
        lambda params: exact.value_and_grad(observed, params, None, KEY, BERNOULLI)
    )(params)
    assert float(value) == pytest.approx(2.0)  # 3/2 and 1/2
    np.testing.assert_allclose(gradient, 0.125)


def test_vimco_gives_an_infinite_cost_weight_zero():
    def objective(params, batch, key, sample):
        z = sample("z", params + jnp.zeros((1, 2)))
        return jnp.where(z[:, 0] > 0.5, jnp.inf, 1.0 + z[:, 1])

    estimator = estimators.make("vimco", BERNOULLI, num_samples=5)

    @jax.jit
    @jax.vmap
    def gradients(key):
        state = estimator.init(objective, jnp.zeros(2), None, jax.random.key(1))
        return jax.grad(estimator.surrogate, 1, has_aux=True)(
            objective, jnp.zeros(2), None, key, 1.0, state
        )

    found, (_, info) = gradients(jax.random.split(KEY, 400))
    all_infinite = np.isinf(info.cost[:, 0])
    assert 0 < all_infinite.mean() < 0.1
    assert np.isfinite(found).all(-1)[~all_infinite].all()


@every_estimator
def test_nan_logits_give_nan_gradients(name):
    def objective(params, batch, key, sample):
        return jnp.square(sample("z", params + batch)).sum(-1)

    estimator, batch = estimators.make(name, BERNOULLI), jnp.zeros((2, 2))

    @jax.jit
    def gradient(params):
        state = estimator.init(objective, jnp.zeros(2), batch, KEY)
        arguments = (objective, params, batch, KEY, 0.5, state)
        return jax.grad(estimator.surrogate, argnums=1, has_aux=True)(*arguments)[0]

    assert np.isnan(gradient(jnp.array([0.3, jnp.nan]))[1])


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("marginalization", {"chunk_size": 0}, "chunk_size must be an integer >= 1, got 0"),
        ("marginalization", {"chunk_size": 1.5}, "chunk_size must be an integer >= 1, got 1.5"),
        ("marginalization", {"max_values": True}, "max_values must be an integer >= 1"),
        ("sf", {"centering": "no"}, "centering must be True or False, got 'no'"),
        ("sf", {"decay": jnp.asarray(1.0)}, r"decay must be in \[0, 1\)"),
        ("nvil", {"baseline_hidden": 0}, "baseline_hidden must be an integer >= 1, got 0"),
        ("nvil", {"baseline_learning_rate": jnp.nan}, "baseline_learning_rate must be a finite"),
        ("muprop", {"expansion": "global"}, "expansion must be one of 'local', 'mean_field'"),
        ("slope_annealed_st", {"slope_rate": -1.0}, "slope_rate must be a finite number >= 0"),
        ("slope_annealed_st", {"slope_interval": 2.5}, "slope_interval must be an integer >= 1"),
        ("vimco", {"num_samples": 10.0}, "num_samples must be an integer >= 2, got 10.0"),
    ],
)
def test_options_out_of_range_are_refused(name, options, message):
    with pytest.raises(ValueError, match=message):
        estimators.make(name, BERNOULLI, **options)
    with pytest.raises(ValueError, match=message):
        getattr(estimators, name)(BERNOULLI, **options)
