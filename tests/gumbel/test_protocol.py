"""One walk over all registered estimators: what holds for every one of them."""

import ast
import contextlib
import inspect
from collections.abc import Callable
from functools import cache, partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from gumbel import BERNOULLI, CATEGORICAL, estimators, exact, family, samplers
from gumbel.estimators import Estimator, Info
from gumbel.estimators.signal import Normalizer, SignalState
from gumbel.expressions import evaluated
from gumbel.layouts import layout
from gumbel.passes import passes
from gumbel.sites import as_families
from tests.gumbel.nets import FAMILIES, Net, two_layer
from tests.gumbel.recovered import keeps_its_size
from tests.gumbel.walks import BIASED, INDEPENDENT, QUICK, THROUGH_THE_SAMPLE, walk

KEY = jax.random.key(0)

# Held against the states themselves in `test_signature_and_shapes`.
WITH_STATE = (
    *("darn", "double_cv", "muprop", "nvil", "rebar", "relax", "rodeo", "sf", "vimco"),
    "slope_annealed_st",
)

every_estimator = pytest.mark.parametrize("name", walk())
every_family = pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)


def test_the_registry_says_what_is_true_of_each_estimator():
    specs = [estimators.spec(name) for name in estimators.names()]
    assert {spec.name for spec in specs if not spec.unbiased} == BIASED
    assert {spec.name for spec in specs if spec.smooth} == THROUGH_THE_SAMPLE
    assert {spec.name for spec in specs if spec.independent} == set(INDEPENDENT)
    assert {spec.name for spec in specs if spec.multi_sample} == {"vimco"}
    assert {spec.name for spec in specs if spec.enumerates} == {"marginalization"}
    for spec in specs:
        scales = "variance_normalization" in spec.options
        assert spec.unbiased_with({"variance_normalization": True}) == (
            spec.unbiased and not scales
        )


@every_estimator
def test_the_objective_runs_as_often_as_the_registry_says(name):
    check_passes(name)


def test_the_objective_runs_as_often_as_the_registry_says_with_other_options():
    check_passes("rloo", num_samples=3)
    check_passes("muprop", expansion="mean_field")


def check_passes(name, **options):
    net, ran, came_back = two_layer(BERNOULLI), [], []

    @jax.custom_vjp
    def noted(cost):
        return cost

    def back(_, cotangent):
        jax.debug.callback(came_back.append, cotangent[0])
        return (cotangent,)

    noted.defvjp(lambda cost: (cost, None), back)

    def objective(params, batch, key, sample):
        cost = net.objective(params, batch, key, sample)
        jax.debug.callback(ran.append, cost[0])  # once for each path that `vmap` runs at a time
        return noted(cost)

    if options:
        estimator = estimators.make(name, BERNOULLI, **options)
        init = jax.jit(lambda params: estimator.init(net.objective, params, net.batch, KEY))
        state = init(net.params)
    else:
        estimator, state = made(name, BERNOULLI)[1:3]
    gradient = jax.jit(jax.grad(estimator.surrogate, argnums=1, has_aux=True), static_argnums=0)
    jax.block_until_ready(gradient(objective, net.params, net.batch, KEY, 0.5, state))
    jax.effects_barrier()
    plan = layout(net.objective, net.params, net.batch, KEY, as_families(BERNOULLI))
    both = ast.parse(passes(estimators.spec(name), plan, options), mode="eval").body
    assert isinstance(both, ast.BinOp)  # forward + backward
    assert len(ran) == evaluated(ast.unparse(both.left), {})
    assert len(came_back) == evaluated(ast.unparse(both.right), {})


class Made(NamedTuple):
    """An estimator of a small net, its first state, and its compiled step."""

    net: Net
    estimator: Estimator
    state: Any
    # (params, batch, key, temperature, state)
    #   -> (value, (state, info)), (gradient in params, gradient in temperature)
    step: Callable[..., Any]

    def at(self, key, temperature=1.0):
        """A step of the first state."""
        return self.step(self.net.params, self.net.batch, key, jnp.float32(temperature), self.state)


@cache
def made(name, family):
    net = two_layer(family)
    estimator = estimators.make(name, family)
    init = jax.jit(lambda params: estimator.init(net.objective, params, net.batch, KEY))

    def surrogate(params, temperature, batch, key, state):
        return estimator.surrogate(net.objective, params, batch, key, temperature, state)

    differentiated = jax.value_and_grad(surrogate, argnums=(0, 1), has_aux=True)

    @jax.jit
    def step(params, batch, key, temperature, state):
        return differentiated(params, temperature, batch, key, state)

    return Made(net, estimator, init(net.params), step)


@every_family
@every_estimator
def test_signature_and_shapes(name, family):
    assert estimators.spec(name).factory.__doc__
    it = made(name, family)
    assert isinstance(it.estimator, Estimator)
    names = list(inspect.signature(it.estimator.surrogate).parameters)
    assert names == ["objective", "params", "batch", "key", "temperature", "state"]

    (value, (next_state, info)), _ = it.at(KEY, 0.5)
    assert value.shape == ()
    assert isinstance(info, Info)
    assert info.cost.shape == (2,)
    assert float(value) == pytest.approx(float(jnp.mean(info.cost)), rel=1e-5)
    assert all(metric.shape == () for metric in info.metrics.values())
    assert (it.state != ()) == (name in WITH_STATE)
    # The state keeps its structure, shapes and dtypes, or it could not be scanned over.
    assert jax.tree.structure(next_state) == jax.tree.structure(it.state)
    for before, after in zip(jax.tree.leaves(it.state), jax.tree.leaves(next_state), strict=True):
        assert (before.shape, before.dtype) == (after.shape, after.dtype)


@pytest.mark.parametrize(
    "family",
    [BERNOULLI, pytest.param(CATEGORICAL, marks=pytest.mark.slow)],
    ids=lambda family: family.name,
)
@every_estimator
def test_jit_vmap_and_no_retrace(name, family):
    it, traces = made(name, family), []

    def value(params, key, temperature):
        traces.append(None)
        arguments = (it.net.objective, params, it.net.batch, key, temperature, it.state)
        return it.estimator.surrogate(*arguments)[0]

    @jax.jit
    def over_keys_and_temperatures(params, keys, temperatures):
        return jax.vmap(jax.grad(value), (None, 0, 0))(params, keys, temperatures)

    keys = jax.random.split(KEY, 3)
    batched = over_keys_and_temperatures(it.net.params, keys, jnp.array([0.3, 1.0, 3.0]))
    over_keys_and_temperatures(it.net.params, keys, jnp.array([0.4, 2.0, 5.0]))
    assert len(traces) == 1

    _, (single, _) = it.at(keys[1])
    for one, many in zip(jax.tree.leaves(single), jax.tree.leaves(batched), strict=True):
        assert np.isfinite(many).all()
        np.testing.assert_allclose(many[1], one, rtol=1e-3, atol=1e-4)


@every_family
@every_estimator
def test_every_site_is_sampled_and_gets_a_gradient(name, family):
    it, seen = made(name, family), []

    def spying(params, batch, key, sample):
        def spied(site, logits):
            seen.append(site)
            return sample(site, logits)

        return it.net.objective(params, batch, key, spied)

    jax.eval_shape(
        partial(it.estimator.surrogate, spying), it.net.params, it.net.batch, KEY, 1.0, it.state
    )
    assert set(seen) == {"h1", "h2"}
    _, (gradient, _) = it.at(KEY)
    assert all(np.abs(leaf).max() > 0 for leaf in jax.tree.leaves(gradient))


@pytest.mark.parametrize("foreign", [(), {"mean": 0.0}], ids=["none", "another's"])
@pytest.mark.parametrize("name", WITH_STATE)
def test_the_state_of_another_estimator_is_refused(name, foreign):
    net, estimator = two_layer(BERNOULLI), estimators.make(name, BERNOULLI)
    step = partial(estimator.surrogate, net.objective)
    with pytest.raises(ValueError, match=f"'{name}' cannot use a .* as its state: start from"):
        jax.eval_shape(step, net.params, net.batch, KEY, 1.0, foreign)


def test_an_attribute_that_the_objective_lacks_is_not_taken_for_a_foreign_state():
    def objective(params, batch, key, sample):
        return sample("z", params.logits)[:, 0]

    step = jax.grad(estimators.make("sf", BERNOULLI).surrogate, argnums=1, has_aux=True)
    state = SignalState(jnp.zeros(()), jnp.ones(()))
    with pytest.raises(AttributeError, match="'dict' object has no attribute 'logits'"):
        step(objective, {"logits": jnp.zeros((4, 1))}, None, KEY, 1.0, state)


@every_estimator
def test_one_key_gives_one_answer_and_another_key_another(name):
    def at(seed):
        _, (gradient, _) = made(name, BERNOULLI).at(jax.random.key(seed))
        return gradient["w1"]

    np.testing.assert_array_equal(at(1), at(1))
    if not estimators.spec(name).enumerates:
        assert any((at(1) != at(seed)).any() for seed in range(2, 6))


@every_estimator
def test_only_relaxing_estimators_have_a_gradient_in_the_temperature(name):
    _, (_, gradient) = made(name, BERNOULLI).at(KEY, 0.7)
    assert (gradient != 0) == estimators.spec(name).relaxes


# A family a dtype for the quick walk; the first pair by a flow and a score alone.
SIXTEEN_BIT = {
    "bernoulli-bfloat16": (BERNOULLI, jnp.bfloat16, {"gumbel_softmax", "muprop"}),
    "categorical-float16": (CATEGORICAL, jnp.float16, QUICK),
    "bernoulli-float16": (BERNOULLI, jnp.float16, ()),
    "categorical-bfloat16": (CATEGORICAL, jnp.bfloat16, ()),
}


@pytest.mark.parametrize(
    ("name", "family", "dtype"),
    [
        pytest.param(
            *(name, family, dtype),
            id=f"{each}-{name}",
            marks=[] if name in quick else pytest.mark.slow,
        )
        for each, (family, dtype, quick) in SIXTEEN_BIT.items()
        for name in estimators.names()
    ],
)
def test_sixteen_bit_models_have_finite_gradients(name, family, dtype):
    net, estimator = two_layer(family), estimators.make(name, family)
    params, batch = jax.tree.map(lambda leaf: leaf.astype(dtype), (net.params, net.batch))

    @jax.jit
    def step(params, batch):
        state = estimator.init(net.objective, params, batch, KEY)
        gradient = jax.grad(estimator.surrogate, argnums=1, has_aux=True)
        # With one key the two samples of a pair may agree, and the estimate be 0.
        of_key = jax.vmap(lambda key: gradient(net.objective, params, batch, key, 0.5, state))
        return state, *of_key(jax.random.split(KEY, 4))

    state, gradient, (next_state, _) = step(params, batch)
    for leaf in jax.tree.leaves(gradient):
        assert leaf.dtype == dtype
        found = np.asarray(leaf, np.float32)
        assert np.isfinite(found).all()
        assert (found != 0).any()
    for before, after in zip(jax.tree.leaves(state), jax.tree.leaves(next_state), strict=True):
        assert before.dtype == after.dtype


def test_unknown_names_options_and_families_are_answered_with_the_nearest():
    with pytest.raises(ValueError, match="did you mean gumbel_softmax"):
        estimators.make("gumble_softmax", BERNOULLI)
    with pytest.raises(ValueError, match="no option 'num_sample': did you mean num_samples"):
        estimators.make("vimco", BERNOULLI, num_sample=3)
    with pytest.raises(ValueError, match="no option 'decay': it takes no options"):
        estimators.make("st", BERNOULLI, decay=0.9)
    with pytest.raises(ValueError, match="'temperature': pass it to each call of the surrogate"):
        estimators.make("gumbel_softmax", BERNOULLI, temperature=0.5)
    with pytest.raises(ValueError, match="did you mean 'bernoulli'"):
        estimators.make("st", "bernouli")
    with pytest.raises(ValueError, match="unknown estimator 3: choose one of arm, arms, "):
        estimators.make(3)
    with pytest.raises(ValueError, match=r"unknown estimator \['sf'\]: did you mean sf"):
        estimators.spec(["sf"])
    with pytest.raises(ValueError, match="unknown family 3: choose one of 'bernoulli', 'categ"):
        family(3)


@pytest.mark.parametrize(
    ("name", "option", "value"), [("slope_annealed_st", "slope", 2.0), ("nvil", "features", "x")]
)
def test_an_option_that_is_a_function_is_called_one(name, option, value):
    with pytest.raises(ValueError, match=f"estimator '{name}': {option}={value!r}: give a func"):
        estimators.make(name, BERNOULLI, **{option: value})


@pytest.mark.parametrize("name", ["rloo", "arms"])
def test_a_number_of_samples_may_be_an_array(name):
    def surrogate(num_samples):
        estimator = estimators.make(name, BERNOULLI, num_samples=num_samples)
        return estimator.surrogate(
            lambda params, batch, key, sample: sample("z", params).sum(-1),
            *(jnp.zeros((4, 2)), None, KEY, 1.0, ()),
        )[0]

    assert surrogate(jnp.array(4)) == surrogate(4)


def test_an_estimator_may_have_further_names():
    assert estimators.spec("reinforce") is estimators.spec("score_function")
    assert estimators.reinforce is estimators.score_function is estimators.sf
    assert estimators.spec("reinforce").name == "sf"
    assert "reinforce" not in estimators.names()
    with pytest.raises(ValueError, match="'reinforce' is registered already"):
        estimators.register("reinforce", unbiased=True)(estimators.sf)


def test_a_family_may_be_named():
    it = made("st_gumbel_softmax", BERNOULLI)
    named = estimators.make("st_gumbel_softmax", "bernoulli")
    arguments = (it.net.objective, it.net.params, it.net.batch, KEY, 1.0, it.state)
    gradient, _ = jax.jit(
        lambda params: jax.grad(named.surrogate, argnums=1, has_aux=True)(
            arguments[0], params, *arguments[2:]
        )
    )(it.net.params)
    _, (expected, _) = it.at(KEY)
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-5), gradient, expected)


@pytest.mark.parametrize("num_samples", [1, 2.5])
def test_vimco_wants_two_samples_at_least(num_samples):
    with pytest.raises(ValueError, match="num_samples must be an integer >= 2, got"):
        estimators.make("vimco", BERNOULLI, num_samples=num_samples)


@pytest.mark.parametrize("decay", [-0.1, 1.0, 2.0])
@pytest.mark.parametrize("name", ["sf", "nvil", "darn", "muprop", "vimco"])
def test_averages_that_would_not_stay_finite_are_refused(name, decay):
    with pytest.raises(ValueError, match=r"decay must be in \[0, 1\)"):
        estimators.make(name, BERNOULLI, decay=decay)


@pytest.mark.parametrize(
    "batch", [None, 1.0, *({"x": jnp.zeros((4, 2)), "other": other} for other in (KEY, "name"))]
)
def test_nvil_says_how_to_give_its_baseline_features(batch):
    def objective(params, batch, key, sample):
        return sample("z", params).sum(axis=-1)

    with pytest.raises(ValueError, match="give features="):
        estimators.make("nvil", BERNOULLI).init(objective, jnp.zeros((4, 2)), batch, KEY)
    flat = estimators.make("nvil", BERNOULLI, features=lambda batch: jnp.ones(4))
    with pytest.raises(ValueError, match=r"shape \(4,\), and there are 4 costs: give features="):
        flat.init(objective, jnp.zeros((4, 2)), batch, KEY)
    told = estimators.make("nvil", BERNOULLI, features=lambda batch: jnp.ones((4, 1)))
    assert told.init(objective, jnp.zeros((4, 2)), batch, KEY)


@pytest.mark.parametrize("dtype", [jnp.float16, jnp.float32])
def test_a_slope_may_be_any_optax_schedule_and_steep(dtype):
    def objective(params, batch, key, sample):
        return sample("z", params).sum(axis=(-2, -1))

    slope = optax.schedules.constant_schedule(10.0)
    estimator = estimators.make("slope_annealed_st", CATEGORICAL, slope=slope)
    logits = jnp.asarray([[[1e4, -1e4, 0.0]]], dtype)
    state = estimator.init(objective, logits, None, KEY)
    gradient = jax.grad(estimator.surrogate, argnums=1, has_aux=True)
    found, _ = jax.jit(lambda logits: gradient(objective, logits, None, KEY, 1.0, state))(logits)
    assert np.isfinite(np.asarray(found, np.float32)).all()


def test_an_estimator_of_one_family_refuses_the_other():
    @estimators.register("only_bernoulli", unbiased=False, families=("bernoulli",))
    def only_bernoulli(family):
        return estimators.st(family)

    try:
        estimators.make("only_bernoulli", BERNOULLI)
        with pytest.raises(ValueError, match="does not support categorical variables"):
            estimators.make("only_bernoulli", CATEGORICAL)
        with pytest.raises(ValueError, match="registered already"):
            estimators.register("only_bernoulli", unbiased=False)(estimators.st)
    finally:
        estimators.unregister("only_bernoulli")


def test_an_estimator_that_is_defined_again_replaces_the_earlier_one():
    """As in a cell of a notebook that runs again, or a module that is reloaded."""

    def defined(name, **options):
        @estimators.register(name, unbiased=False, **options)
        def mine(family):
            return estimators.st(family)

    defined("mine", aliases=("m",))
    try:
        defined("mine", aliases=("m", "my_own"))
        assert estimators.spec("my_own").aliases == ("m", "my_own")
        with pytest.raises(ValueError, match="'m' is registered already"):
            defined("other", aliases=("m",))
        with pytest.raises(ValueError, match="'mine' is registered already"):
            estimators.register("mine", unbiased=False)(partial(estimators.st))
    finally:
        estimators.unregister("mine")
    assert not {"mine", "other"} & set(estimators.names())


@pytest.mark.parametrize(
    ("declared", "error", "said"),
    [
        ({"derivatives": "frist"}, ValueError, "derivatives='frist' .* did you mean 'first'"),
        ({"families": "bernoulli"}, TypeError, r"give a tuple, such as \('bernoulli',\)"),
        ({"families": ("bernouli",)}, ValueError, "did you mean 'bernoulli'"),
    ],
)
def test_what_is_declared_of_an_estimator_is_checked(declared, error, said):
    with pytest.raises(error, match=said):
        estimators.register("mine", unbiased=False, **declared)
    assert "mine" not in estimators.names()


def test_factories_that_are_none_are_told_so():
    with pytest.raises(TypeError, match="the name of an estimator must be a string"):
        estimators.register(estimators.st, unbiased=False)

    def by_position(family, scale=1.0):
        return estimators.st(family)

    with pytest.raises(ValueError, match=r"parameter 'scale' .* put a \* before it"):
        estimators.register("mine", unbiased=False)(by_position)

    def half(family):
        return estimators.st(family).surrogate

    try:
        estimators.register("mine", unbiased=False)(half)
        with pytest.raises(TypeError, match="'mine': its factory returns a function: return est"):
            estimators.make("mine", BERNOULLI)
    finally:
        estimators.unregister("mine")


class _Noisy(nnx.Module):
    def __init__(self, rngs):
        self.linear = nnx.Linear(2, 2, rngs=rngs)
        self.drop = nnx.Dropout(0.2, rngs=rngs)

    def cost(self, x, sample):
        return sample("z", self.linear(self.drop(x))).sum(axis=-1)


@pytest.mark.parametrize("merged", [False, True])
def test_an_objective_that_changes_a_module_of_flax_is_told_so(merged):
    """Under `vmap` or `scan`, in which Flax notices."""
    graph, params, rest = nnx.split(_Noisy(nnx.Rngs(0)), nnx.Param, ...)

    def objective(params, batch, key, sample):
        return nnx.merge(graph, params, rest, copy=merged).cost(batch, sample)

    arguments = objective, params, jnp.ones((3, 2)), jax.random.key(0)
    with contextlib.nullcontext() if merged else pytest.raises(ValueError, match="copy=True"):
        estimators.make("rloo", BERNOULLI).surrogate(*arguments, 1.0, ())


def test_an_alias_unregisters_its_estimator_and_an_unknown_name_is_told_so():
    @estimators.register("longer_name", unbiased=False, aliases=("ln",))
    def longer_name(family):
        return estimators.st(family)

    estimators.unregister("ln")
    assert "longer_name" not in estimators.names()
    with pytest.raises(ValueError, match="unknown estimator 'gumbel_sofmax': did you mean"):
        estimators.unregister("gumbel_sofmax")


def test_objectives_that_break_the_protocol_are_told_so():
    def plain(params, batch, key, sample):
        return sample("z", params).sum(axis=-1)

    def trace(objective):
        params = jnp.zeros((4, 2))
        return samplers.trace(objective, params, None, KEY, BERNOULLI, samplers.hard_draw)

    with pytest.raises(ValueError, match="sampled site 'z' twice"):
        trace(lambda params, batch, key, sample: sample("z", params) + sample("z", params))
    with pytest.raises(ValueError, match="sampled no site"):
        trace(lambda params, batch, key, sample: params.sum(axis=-1))
    with pytest.raises(ValueError, match=r"sampled no site: .* leave one of them unobserved"):
        trace(samplers.condition(plain, {"z": jnp.zeros((4, 2))}))
    with pytest.raises(TypeError, match=r"the name of a site must be a string, .* the name first"):
        trace(lambda params, batch, key, sample: sample(params, "z").sum(axis=-1))
    with pytest.raises(TypeError, match=r"got int: the order is \(objective, params, batch, key\)"):
        samplers.trace(plain, jnp.zeros((4, 2)), None, 0, BERNOULLI, samplers.hard_draw)
    with pytest.raises(ValueError, match=r"cost of shape \(4, 2\): return one cost per example"):
        trace(lambda params, batch, key, sample: sample("z", params))
    with pytest.raises(ValueError, match=r"site 'z' have shape \(2,\), but the cost has .*\(4,\)"):
        trace(lambda params, batch, key, sample: sample("z", params[0])[0] * params[:, 0])
    with pytest.raises(ValueError, match=r"site 'z' have shape \(\), but the cost"):
        trace(lambda params, batch, key, sample: sample("z", params[0, 0]) * params[:, 0])
    with pytest.raises(TypeError, match="dtype int32: return floats"):
        trace(lambda params, batch, key, sample: sample("z", params).sum(-1).astype(int))
    with pytest.raises(TypeError, match="a tuple of 3"):
        trace(lambda params, batch, key, sample: (sample("z", params).sum(-1), 0, 0))
    with pytest.raises(TypeError, match="a dict for its cost"):
        trace(lambda params, batch, key, sample: {"cost": sample("z", params).sum(-1)})
    with pytest.raises(TypeError, match=r"aux\['a'\]\[0\] is a str: return arrays or numbers"):
        trace(lambda params, batch, key, sample: (sample("z", params).sum(-1), {"a": ["x"]}))

    def unpaired(returned):
        def objective(params, batch, key, sample):
            carry, _ = sample.scan(
                lambda carry, _: returned(carry + sample("z", params)), params, length=3
            )
            return carry.sum(-1)

        return objective

    for returned, what in (
        (lambda carry: carry[:2], r"float32\[2,2\]"),  # whose rows are no carry and y
        (lambda carry: None, "NoneType"),
        (lambda carry: {"carry": carry, "y": carry}, "dict"),
    ):
        with pytest.raises(TypeError, match=f"sample.scan returned a {what}: return .carry, y."):
            trace(unpaired(returned))
    with pytest.raises(ValueError, match="the batch has no examples"):
        trace(lambda params, batch, key, sample: sample("z", params[:0]).sum(-1))


def test_conditioning_gives_known_values_and_asks_the_sampler_for_the_rest():
    known = samplers.condition(
        lambda params, batch, key, sample: (sample("y", params), sample("h", params)),
        {"y": jnp.ones((1, 2))},
    )
    y, h = known(jnp.zeros((1, 2)), None, KEY, samplers.mean_field(BERNOULLI))
    np.testing.assert_array_equal(y, jnp.ones((1, 2)))
    np.testing.assert_array_equal(h, jnp.full((1, 2), 0.5))


def test_hard_sampler_gives_each_site_noise_of_its_own():
    sample = samplers.hard(KEY, BERNOULLI)
    logits = jnp.zeros((1, 64))
    assert (sample("a", logits) != sample("b", logits)).any()


def test_the_objective_s_noise_is_not_that_of_its_sites():
    """Not even if both fold the same numbers into the keys that they are given."""

    def objective(params, batch, key, sample):
        z = sample("z", params)
        own = [BERNOULLI.sample(jax.random.fold_in(key, index), params) for index in range(3)]
        return z.mean(axis=-1), (z, *own, BERNOULLI.sample(key, params))

    drawn = samplers.trace(objective, jnp.zeros((1, 64)), None, KEY, BERNOULLI, samplers.hard_draw)
    z, *own = drawn.aux
    assert all((z != noise).any() for noise in own)


@pytest.mark.parametrize(
    "name", ["sf", "muprop", pytest.param("double_cv", marks=pytest.mark.slow)]
)
def test_one_key_for_the_state_and_the_estimate_biases_nothing(name):
    """A state made of the samples of the estimate would: `sf` with a baseline would be 0.

    A z-test of two coordinates at an error rate of 1e-4.
    """

    def objective(params, batch, key, sample):
        return jnp.square(sample("z", params)[:, 0] + sample("w", params)[:, 1] - 0.3)

    params = jnp.array([[0.3, -0.2]])
    estimator = estimators.make(name, BERNOULLI)
    _, expected = exact.value_and_grad(objective, params, None, KEY, BERNOULLI)

    def estimate(key):
        state = estimator.init(objective, params, None, key)
        gradient = jax.grad(estimator.surrogate, argnums=1, has_aux=True)
        return gradient(objective, params, None, key, 1.0, state)[0]

    estimates = jax.jit(jax.vmap(estimate))(jax.random.split(KEY, 20_000))
    error = estimates.std(axis=0) / len(estimates) ** 0.5
    assert jnp.max(abs(estimates.mean(axis=0) - expected) / error) < 4.1


def test_the_spread_of_one_cost_in_several_layers_is_not_that_between_layers():
    normalizer = Normalizer(centering=True, variance_normalization=True, decay=0.5)
    state = SignalState(jnp.float32(0), jnp.float32(0))
    layers = jnp.array([[3.0], [4.0]])
    moved = normalizer.update(state, jnp.array([3.0]), spread_of=layers, of_one=True)
    assert float(moved.variance) == 0.5 * 12.5


def test_the_noise_of_coupled_layers_sets_the_scale_of_nvil(monkeypatch):
    """And not the spread between the layers.

    The mean of 300 squares has a standard error of 8%, and this allows for five of them.
    """

    def objective(params, batch, key, sample):
        first = sample("first", params + jnp.zeros((4, 2)))
        return 100 * jnp.mean(first + sample("second", params + first))

    nvil = estimators.make("nvil", BERNOULLI, variance_normalization=True, decay=0.9)
    arguments = objective, jnp.zeros(2), jnp.zeros((4, 1))

    def mean_variance():
        def step(state, key):
            _, (state, _) = nvil.surrogate(*arguments, key, 1.0, state)
            return state, state.signal.variance

        def run(keys):
            return jax.lax.scan(step, nvil.init(*arguments, KEY), keys)[1][100:].mean()

        return float(jax.jit(run)(jax.random.split(KEY, 400)))

    # The variance of the cost: 100^2 / 8 that of one sum, which is 0, 1 or 2.
    likely = 1 / (1 + np.exp(-1))  # that the second is 1 if the first is
    mean, square = (1.5 + likely) / 2, (0.5 + 1 - likely + 4 * likely) / 2
    expected = 100**2 / 8 * (square - mean**2)
    assert mean_variance() == pytest.approx(expected, rel=0.4)

    right = Normalizer.update

    def between_layers(self, state, signal, spread_of=None, of_one=None):
        return right(self, state, signal, spread_of)

    monkeypatch.setattr(Normalizer, "update", between_layers)
    assert mean_variance() < 0.1 * expected


@pytest.mark.parametrize("name", ["nvil", "rebar", "rodeo"])
def test_a_cost_that_overflows_the_optimizer_leaves_what_was_learned(name):
    """Its gradient is finite, but not the square that Adam averages."""

    def scaled(params, batch, key, sample):
        z = sample("z", params + jnp.zeros((len(batch), 1)))
        return batch * (z.sum(axis=-1) - 0.4) ** 2

    estimator, params, batch = estimators.make(name, BERNOULLI), jnp.zeros(2), jnp.ones(8)
    start = estimator.init(scaled, params, batch, KEY)
    gradient = jax.jit(jax.grad(estimator.surrogate, argnums=1, has_aux=True), static_argnums=0)
    _, (learned, _) = gradient(scaled, params, batch, KEY, 0.5, start)
    for largest in (1e21, 1e30):
        _, (state, _) = gradient(scaled, params, batch.at[0].set(largest), KEY, 0.5, learned)
        assert all(jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(state))
        assert keeps_its_size(learned, state)
