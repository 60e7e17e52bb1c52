"""`check_objective`: each thing that it looks at, on an objective that has it and one that has not.

The objectives are tiny, and one jit supports many calls where that is possible.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gumbel
from gumbel import BERNOULLI, CATEGORICAL, estimators
from gumbel.probes import halves
from tests.gumbel.walks import INDEPENDENT, THROUGH_THE_SAMPLE

KEY = jax.random.key(0)


def check(objective, params=None, batch=None, family=BERNOULLI):
    params = jnp.array([0.3, -0.4]) if params is None else params
    batch = jnp.zeros((3, 2)) if batch is None else batch
    return gumbel.check_objective(objective, params, batch, KEY, family)


def simple(params, batch, key, sample):
    return jnp.sin(sample("z", params + batch).sum(axis=-1))


def refusals(report):
    return {one.name: one.reason for one in report.estimators if one.reason}


def test_a_model_without_problems():
    report = check(simple)
    assert report.ok
    assert report.problems == ()
    assert report.applicable() == estimators.names()
    assert (report.batch_size, report.finite, report.deterministic) == (3, True, True)
    assert not report.has_aux
    [site] = report.sites
    assert site == ("z", "bernoulli", (3, 2), 0, 4, *[True] * 3, *[False] * 3, True, False, "")


def looped(params, batch, key, sample):
    """A gate, and an edge in two loops."""
    gate = sample("gate", batch @ params["gate"], family="bernoulli")  # [B]

    def inner(total, x):
        logits = params["edge"] * x + jnp.zeros((3, 2, 5))
        return total + sample("edge", logits, family="categorical")[..., 0].sum(-1), None

    def outer(total, xs):
        return sample.scan(inner, total, xs)[0], None

    total, _ = sample.scan(outer, gate, jnp.ones((4, 2)))
    return total, {"gate": gate}


def test_sites_loops_joint_values_and_passes_are_counted():
    params = {"gate": jnp.ones(2), "edge": jnp.arange(5.0)}
    report = check(looped, params, jnp.ones((3, 2)), family=None)
    gate, edge = report.sites
    assert (gate.name, gate.family, gate.shape, gate.loops, gate.num_values) == (
        *("gate", "bernoulli", (3,), 0),
        2,
    )
    assert (edge.name, edge.family, edge.shape, edge.loops) == (
        *("edge", "categorical", (3, 4, 2, 2, 5)),
        2,
    )
    assert edge.num_values == 5**16
    assert report.has_aux
    assert report.ok
    passes = {one.name: one.passes for one in report.estimators}
    assert passes["muprop"] == "(1 + 2) + (1 + 2)"  # the gate, and the outermost loop
    assert passes["vimco"] == "5 + 5"
    assert passes["darn"] == "2 + 2"
    assert passes["sf"] == "1 + 1"
    assert refusals(report) == {
        "marginalization": f"{2 * 5**16} joint values, over max_values=65536"
    }
    printed = str(report).splitlines()
    assert printed[:5] == SITES
    assert set(ESTIMATORS) < set(printed)
    assert printed[-2:] == ["problems:", "  none"]


SITES = [
    "cost: one for each of 3 examples, with aux",
    "sites:",
    "  gate: bernoulli [3], 2 joint values",
    "  edge: categorical [3, 4, 2, 2, 5], in 2 loops, 152587890625 joint values",
    "estimators (forward + backward passes):",
]
ESTIMATORS = [
    "  marginalization    no: 305175781250 joint values, over max_values=65536",
    "  sf                 1 + 1",
    "  muprop             (1 + 2) + (1 + 2)",
    "  vimco              5 + 5",
]


def test_counts_of_thousands_of_digits_are_printed_as_powers_of_ten():
    def objective(params, batch, key, sample):
        return sample("z", params + jnp.zeros((2, 15_000))).sum(axis=-1)

    report = check(objective, jnp.zeros(15_000))
    assert "z: bernoulli [2, 15000], about 10^4515 joint values" in str(report)
    assert "num_values='about 10^4515', used=True" in repr(report)
    assert "about 10^4515 joint values, over max_values" in refusals(report)["marginalization"]


def test_a_cost_that_is_not_finite():
    def objective(params, batch, key, sample):
        return sample("z", params + batch).sum(axis=-1) * jnp.array([1.0, jnp.inf, 1.0])

    report = check(objective)
    assert not report.finite
    assert "the cost is not finite" in report.problems


@pytest.mark.parametrize("coupled", [False, True])
def test_a_cost_that_is_not_finite_at_rare_samples(coupled):
    def objective(params, batch, key, sample):
        z = sample("z", params["gate"] + batch)
        cost = z - jnp.log(1 - z.astype(jnp.float32))
        return cost.sum() if coupled else cost

    report = check(objective, {"gate": jnp.array(-8.0)}, jnp.zeros(4))
    assert (report.finite, report.finite_if_rare) == (True, False)
    assert report.problems == ("the cost is not finite at samples that are rare under the model",)


def test_a_cost_that_is_not_finite_at_relaxed_samples():
    def check_cost(cost_of):
        def objective(params, batch, key, sample):
            return cost_of(sample("z", params + batch)).sum(axis=-1)

        report = check(objective)
        assert report.finite
        assert report.ok
        return report

    fine = check_cost(lambda z: jnp.sqrt(1 + z))
    assert (fine.finite_if_relaxed, fine.notes) == (True, ())
    hole = check_cost(lambda z: z + jnp.sqrt((z - 0.5) ** 2 - 0.2))
    assert not hole.finite_if_relaxed
    assert "not finite at relaxed samples" in hole.notes[0]
    # Of an estimator that needs a derivative, the samples are said to have none; that is enough.
    flat = check_cost(lambda z: jnp.floor(z) + 1 / (z * (1 - z) == 0))
    assert not flat.finite_if_relaxed
    assert len(flat.notes) == 1
    assert "no derivative" in flat.notes[0]


@pytest.mark.parametrize("masked", [False, True])
def test_draws_without_replacement_rule_out_every_value_of_a_relaxed_sample(masked):
    def objective(params, batch, key, sample):
        def body(chosen, _):
            logits = jnp.where(chosen > 0, -jnp.inf, params + batch)
            where = jnp.array([[not masked]])
            return chosen + sample("next", logits[:, None], where=where)[:, 0], None

        chosen, _ = sample.scan(body, jnp.zeros((len(batch), 3)), length=2)
        return chosen @ jnp.arange(3.0)

    arguments = jnp.zeros(3), jnp.zeros((4, 1)), jax.random.key(0)
    report = gumbel.check_objective(objective, *arguments, gumbel.CATEGORICAL)
    assert report.finite_if_relaxed == masked


@pytest.mark.parametrize("masked", [False, True])
def test_a_cost_that_is_not_finite_at_impossible_samples_only(masked):
    """The second pick is another one than the first, or its cost would be infinite."""

    def objective(params, batch, key, sample):
        first = sample("first", params + batch)
        logits = jnp.where(first > 0.5, -jnp.inf, params + batch)
        where = jnp.array([True, False, True]) if masked else None
        second = sample("second", logits, where=where)
        return (first - 2 * second)[:, 0] + jnp.where((first * second).sum(-1) > 0.5, jnp.inf, 0.0)

    assert check(objective, jnp.zeros(3), jnp.zeros((3, 3)), CATEGORICAL).ok


@pytest.mark.parametrize(
    ("cost", "message"),
    [
        (lambda z: z, r"cost of shape \(3, 2\): return one cost per example"),
        (lambda z: z.sum(0), r"cost has shape \(2,\)"),
        (lambda z: z.sum(-1).astype(int), "dtype int32: return floats"),
        (lambda z: (z.sum(-1), 0, 0), "a tuple of 3"),
    ],
)
def test_what_is_no_cost_is_refused(cost, message):
    with pytest.raises((TypeError, ValueError), match=message):
        check(lambda params, batch, key, sample: cost(sample("z", params + batch)))


# Leaks. `z` is [B, D]; each of these moves the cost of one example by the samples of another.


def of_the_mean(z):
    return (z - z.mean(0)).sum(-1) ** 2


def of_the_same_parity(z):
    """What passes between examples whose numbers are both even, or both odd."""
    return (z * jnp.roll(z, 2, axis=0)).sum(-1)


def of_one_pair(z):
    """The last example depends on the first one, and no others do."""
    return z.sum(-1).at[-1].add(z[0, 0])


def unless_all_are_flipped(z):
    """The energy of spins of neighbors: the same when all of them are flipped."""
    return ((2 * z - 1)[:, :1] * (2 * jnp.roll(z, 1, axis=0) - 1)[:, :1]).sum(-1)


LEAKS = [of_the_mean, of_the_same_parity, of_one_pair, unless_all_are_flipped]


@pytest.mark.parametrize("leak", LEAKS, ids=lambda leak: leak.__name__)
def test_examples_that_leak_into_each_other(leak):
    def objective(params, batch, key, sample):
        return leak(sample("leaking", params + batch)) + sample("own", batch)[:, 0]

    report = check(objective, batch=jnp.zeros((8, 2)))
    leaking, own = report.sites
    assert (leaking.leaks, own.leaks) == (True, False)
    assert not report.ok
    assert any(
        problem.startswith("one example's samples at site 'leaking' change another's cost: return")
        for problem in report.problems
    )
    assert refusals(report) == dict.fromkeys(
        INDEPENDENT, "examples depend on each other at site 'leaking'"
    )


@pytest.mark.parametrize("unit", [1e-8, 1.0, 1e6])
def test_whatever_the_unit_of_the_cost_is(unit):
    def objective(params, batch, key, sample):
        leaking, flat, plain = (sample(name, params + batch) for name in ("a", "b", "c"))
        leak = jnp.square(leaking - leaking.mean(0)).sum(-1)
        return unit * (leak + above_half(flat) + plain.sum(-1))

    sites = check(objective).sites
    assert [site.used for site in sites] == [True, True, True]
    assert [site.leaks for site in sites] == [True, False, False]
    assert [site.smooth for site in sites] == [True, False, True]


@pytest.mark.parametrize("offset", [1e3, -1e5])
def test_a_large_constant_in_the_cost_hides_nothing(offset):
    def objective(params, batch, key, sample):
        z, flat = sample("leaking", params + batch)[:, 0], sample("flat", params + batch)
        return offset + 1e-4 * abs(offset) * (z + jnp.roll(z, 1) + above_half(flat))

    leaking, flat = check(objective).sites
    assert (leaking.leaks, leaking.smooth) == (True, True)
    assert (flat.used, flat.leaks, flat.smooth) == (True, False, False)


@pytest.mark.parametrize("size", [2, 3, 7, 8, 100])
def test_a_leak_from_any_example_to_any_other_is_seen(size):
    """Some set of flipped examples holds the one and not the other, whichever they are."""
    sets = np.array(list(halves(size)))
    told_apart = np.einsum("si,sj->ij", sets.astype(int), (~sets).astype(int))
    assert (told_apart > 0).sum() == size * (size - 1)
    assert len(sets) == 2 * np.ceil(np.log2(size))


def test_a_leak_into_the_logits_of_another_site():
    def objective(params, batch, key, sample):
        first = sample("first", params + batch)
        return sample("second", params + batch + first.mean())[:, 0]

    first, second = check(objective).sites
    assert (first.leaks, second.leaks) == (True, False)


def test_a_scalar_cost_may_couple_the_examples():
    report = check(
        lambda *arguments: of_the_mean(arguments[3]("z", arguments[0] + arguments[1])).mean()
    )
    assert report.ok
    assert report.batch_size is None
    assert report.applicable() == estimators.names()
    assert report.sites[0].num_values == 2**6  # of the whole batch
    assert str(report).startswith("cost: one for the whole batch, whose examples are coupled\n")


# Randomness.


def test_a_cost_that_the_key_does_not_determine():
    generator = np.random.default_rng(0)

    def objective(params, batch, key, sample):
        return simple(params, batch, key, sample) + generator.normal()

    report = check(objective)
    assert not report.deterministic
    assert report.problems == (
        "one key gives two costs: take all randomness from the key that the objective is given",
    )


def test_noise_of_the_key_is_no_fault():
    def objective(params, batch, key, sample):
        return simple(params, batch, key, sample) + jax.random.normal(key, (3,))

    assert check(objective).ok


# Gradients.


def picked(z):
    return jnp.argmax(z, axis=-1) * 2.0


def above_half(z):
    return jnp.where(z[:, 0] > 0.5, 1.0, 3.0)


def stopped(z):
    return jax.lax.stop_gradient(z).sum(-1)


def rounded(z):
    return jnp.round(z).sum(-1)


# `init` refuses by what the registry says, as the report does: one estimator of each file for one.
@pytest.mark.parametrize(
    ("flat", "names"),
    [
        (picked, ["st"]),
        (above_half, ["st", "darn", "rebar"]),
        (stopped, ["st"]),
        (rounded, ["st"]),
    ],
)
def test_a_sample_in_which_the_cost_has_no_derivative(flat, names):
    """Whatever flows through the sample would be 0, and nobody would notice."""

    def objective(params, batch, key, sample):
        return flat(sample("flat", params + batch)) + sample("smooth", params + batch).sum(-1)

    report = check(objective)
    assert [site.smooth for site in report.sites] == [False, True]
    assert set(refusals(report)) == THROUGH_THE_SAMPLE
    assert report.ok
    [note] = report.notes
    assert "no derivative in the samples of site 'flat': estimators whose" in note
    assert note in str(report)
    for name in names:
        with pytest.raises(ValueError, match=f"of site 'flat', through which .* '{name}' flows"):
            estimators.make(name, BERNOULLI).init(objective, jnp.zeros(2), jnp.zeros((3, 2)), KEY)


@pytest.mark.parametrize(
    "smooth",
    [
        lambda z: jnp.cos(jnp.pi * z).sum(-1),  # of slope 0 at 0 and at 1
        lambda z: z.prod(-1),  # of slope 0 at most draws
        lambda z: jax.lax.scan(lambda total, x: (total + x, None), jnp.zeros(3), z.T)[0],
    ],
)
def test_a_slope_that_happens_to_be_0_is_a_derivative(smooth):
    report = check(lambda params, batch, key, sample: smooth(sample("z", params + batch)))
    assert report.ok
    assert set(report.applicable()) == set(estimators.names())


def test_a_site_that_only_reaches_the_cost_through_another_one():
    def objective(params, batch, key, sample):
        first = sample("first", params + batch)
        return sample("second", params * first).sum(-1)

    first, second = check(objective).sites
    assert (first.used, first.smooth) == (second.used, second.smooth) == (True, True)


def test_samples_that_nothing_depends_on():
    def objective(params, batch, key, sample):
        unused = sample("unused", params + batch)
        return simple(params, batch, key, sample), unused

    report = check(objective)
    assert [site.used for site in report.sites] == [False, True]
    assert report.problems == (
        "the cost does not depend on the samples of site 'unused', or by less than its rounding",
    )
    assert report.applicable() == estimators.names()  # it needs no gradient


def test_samples_on_which_only_later_ones_depend():
    """A random walk in a loop, and a pair of sites, that never reach the cost."""

    def objective(params, batch, key, sample):
        def step(z, _):
            return sample("walk", params + batch + z), None

        sample.scan(step, jnp.zeros((3, 2)), length=3)
        first = sample("first", params + batch)
        sample("second", params + batch + first)
        return simple(params, batch, key, sample)

    report = check(objective)
    assert {site.name: site.used for site in report.sites} == {
        "walk": False,
        "first": False,
        "second": False,
        "z": True,
    }
    assert report.applicable() == estimators.names()


def test_a_loop_whose_samples_have_a_derivative_in_each_other_only():
    """Each pick moves the logits of the next, but the reward is looked up."""

    def objective(params, batch, key, sample):
        def step(z, _):
            z = sample("pick", params + batch + z)
            return z, z

        _, picks = sample.scan(step, jnp.zeros((3, 2)), length=2)
        return picked(picks[-1])

    report = check(objective, family=CATEGORICAL)
    [site] = report.sites
    assert (site.used, site.smooth, site.breaks) == (True, False, True)
    assert set(refusals(report)) == THROUGH_THE_SAMPLE
    with pytest.raises(ValueError, match="no derivative in the samples of site 'pick'"):
        estimators.make("gumbel_softmax", CATEGORICAL).init(
            objective, jnp.zeros(2), jnp.zeros((3, 2)), KEY
        )


def test_the_error_names_the_site_that_breaks_the_chain():
    """The first site has a derivative in all that depends on it; the second breaks the chain."""

    def objective(params, batch, key, sample):
        first = sample("first", params + batch)
        return above_half(sample("second", params + batch + first))

    report = check(objective)
    assert [(site.smooth, site.breaks) for site in report.sites] == [(False, False), (False, True)]
    [note] = report.notes
    assert "in the samples of site 'second'" in note
    assert {reason[-8:] for reason in refusals(report).values()} == {"'second'"}


def test_a_mask_that_depends_on_a_sample_biases_what_must_be_smooth_everywhere():
    def objective(params, batch, key, sample):
        stop = sample("stop", params[0] + batch[:, 0])
        act = sample("act", params[1] + batch[:, 1], where=stop < 0.5)
        return 2 * act - stop

    report = check(objective)
    assert report.ok
    assert [(site.smooth, site.jumps) for site in report.sites] == [(True, True), (True, False)]
    assert set(refusals(report)) == {"rebar", "relax"}
    for name in ("rebar", "relax", "gumbel_softmax"):
        init = estimators.make(name, BERNOULLI).init
        if name in refusals(report):
            with pytest.raises(ValueError, match=f"such as a mask, .* which biases '{name}'"):
                init(objective, jnp.zeros(2), jnp.zeros((3, 2)), KEY)
        else:
            init(objective, jnp.zeros(2), jnp.zeros((3, 2)), KEY)


def straight_through(s):
    h = 1.6 * s - 0.3
    return (h + jax.lax.stop_gradient(jnp.round(h) - h) - 0.45) ** 2


HIDDEN = {
    "comparison": lambda z: 0.3 * z[:, 0] + jnp.where(z[:, 0] > 0.5, 2.0, 0.0),
    "table": lambda z: 0.3 * z[:, 0] + jnp.array([1.0, 3.0])[jnp.argmax(z, axis=-1)],
    "stop_gradient": lambda z: (z[:, 0] - 0.45) ** 2 + 2 * jax.lax.stop_gradient(z[:, 0]) * z[:, 0],
    "straight_through": lambda z: straight_through(z[:, 0]),
    "one_example": lambda z: z.sum(-1) + jnp.array([0.0, 0.0, 1.0]) * (z[:, 1] > 0.5),
}


def of_one_site(cost):
    return lambda params, batch, key, sample: cost(sample("z", params + batch))


@pytest.mark.parametrize("coupled", [False, True], ids=["separate", "coupled"])
@pytest.mark.parametrize("name", HIDDEN)
def test_a_part_of_the_cost_without_a_derivative_biases_what_must_be_smooth(name, coupled):
    cost = (lambda z: HIDDEN[name](z).sum()) if coupled else HIDDEN[name]
    family = CATEGORICAL if name == "table" else BERNOULLI
    report = check(of_one_site(cost), family=family)
    assert report.ok
    [site] = report.sites
    assert (site.smooth, site.jumps, site.hidden) == (True, False, True)
    assert set(refusals(report)) == {"rebar", "relax"}
    [note] = report.notes
    assert note.startswith("a part of the cost has no derivative in the samples of site 'z', ")
    init = estimators.make("rebar", family).init
    with pytest.raises(ValueError, match=r"a part of the cost .* of site 'z', .* biases 'rebar'"):
        init(of_one_site(cost), jnp.zeros(2), jnp.zeros((3, 2)), KEY)


def test_logits_that_change_beside_their_derivative():
    def objective(params, batch, key, sample):
        first = sample("first", params + batch)
        logits = 0.3 * first + jnp.where(first > 0.5, 2.0, 0.0)
        return first.sum(-1) + sample("second", params + logits).sum(-1)

    assert [site.hidden for site in check(objective).sites] == [True, False]


@jax.custom_vjp
def only_backward(x):
    return jnp.square(x)


only_backward.defvjp(lambda x: (jnp.square(x), x), lambda x, g: (2 * x * g,))

WHOLE = {
    "kinks": lambda z: jax.nn.relu(z - 0.9).sum(-1) + abs(z[:, 0] - 0.3),
    "steep": lambda z: jax.nn.sigmoid(30 * (z - 0.4)).sum(-1) + jnp.tanh(9 * z[:, 0] - 2),
    "logarithm": lambda z: -jnp.log(z + 1e-4).sum(-1),
    "large_constant": lambda z: 1e6 + jnp.square(z - 0.4).sum(-1),
    "wave": lambda z: jnp.cos(60 * z).sum(-1),
    "low_precision": lambda z: jnp.square(z.astype(jnp.bfloat16) - 0.45).sum(-1) * 1.0 + 50,
    "backward_only": lambda z: only_backward(z - 0.3).sum(-1),
    "not_finite": lambda z: jnp.where(z[:, 0] > 0.5, jnp.inf, z.sum(-1)),
    "overflow": lambda z: jnp.square(z - 0.4).sum(-1) * jnp.array([1.0, jnp.inf, jnp.nan]),
    "loop": lambda z: jax.lax.scan(lambda c, x: (jnp.sin(c + x), None), jnp.zeros(3), z.T)[0],
}


@pytest.mark.parametrize("name", WHOLE)
def test_a_cost_that_changes_by_its_derivative_alone_is_smooth(name):
    [site] = check(of_one_site(lambda z: WHOLE[name](z).astype(jnp.float32))).sites
    assert (site.smooth, site.hidden) == (True, False)


def test_examples_that_depend_on_each_other_hide_nothing_by_that():
    """Estimators whose gradient flows through the sample take a cost for each all the same."""
    [site] = check(of_one_site(lambda z: (z * z.mean(0)).sum(-1) + z.max(0).sum())).sites
    assert (site.leaks, site.hidden) == (True, False)


def test_a_loop_in_which_a_part_hides():
    def objective(params, batch, key, sample, *, jump):
        def step(total, x):
            z = sample("z", params + 0.5 * total[:, None] + x)
            return total + z.sum(-1) + jump * (z[:, 0] > 0.5), None

        return sample.scan(step, jnp.zeros(3), jnp.zeros((2, 3, 2)))[0]

    for jump in (0.0, 1.0):
        [site] = check(functools.partial(objective, jump=jump)).sites
        assert site.hidden == bool(jump)


def test_the_first_of_several_sites_at_fault_is_named():
    def objective(params, batch, key, sample):
        z = [sample(f"site{number}", params + batch) for number in range(8)]
        return jnp.stack([rounded(one) for one in z]).sum((0, -1))

    with pytest.raises(ValueError, match="in the samples of site 'site0'"):
        estimators.make("st", BERNOULLI).init(objective, jnp.zeros(2), jnp.zeros((3, 2)), KEY)


# What shows at rare samples only: the model opens the gate once in 20 draws.

RARE = {"gate": jnp.array(-3.0), "act": jnp.array(-0.5)}


def behind_a_gate(interact):
    def objective(params, batch, key, sample):
        gate = sample("gate", params["gate"] + batch)
        return gate * interact(gate, sample("act", params["act"] + batch))

    return objective


@pytest.mark.parametrize("seed", range(2))
def test_a_leak_behind_a_rare_gate(seed):
    objective = behind_a_gate(lambda gate, act: -act * (gate * act).sum())
    arguments = (objective, RARE, jnp.zeros(4), jax.random.key(seed))
    report = gumbel.check_objective(*arguments, BERNOULLI)
    assert any(site.leaks for site in report.sites)
    with pytest.raises(ValueError, match="change the cost of another"):
        estimators.make("sf", BERNOULLI).init(*arguments)


@pytest.mark.parametrize("seed", range(2))
def test_a_comparison_behind_a_rare_gate(seed):
    objective = behind_a_gate(lambda gate, act: jnp.where(act > 0.5, 2.0, 0.0))
    arguments = (objective, RARE, jnp.zeros(4), jax.random.key(seed))
    _, act = gumbel.check_objective(*arguments, BERNOULLI).sites
    assert (act.used, act.smooth) == (True, False)
    with pytest.raises(ValueError, match="no derivative in the samples of site 'act'"):
        estimators.make("gumbel_softmax", BERNOULLI).init(*arguments)


@pytest.mark.parametrize("seed", range(2))
def test_a_draw_that_ends_all_episodes_hides_nothing(seed):
    def objective(params, batch, key, sample):
        alive = sample("stop", params["stop"] + batch) < 0.5
        return sample("act", params["act"] + batch, where=alive)

    params = {"stop": jnp.array(6.0), "act": jnp.array(0.3)}
    report = gumbel.check_objective(
        objective, params, jnp.zeros(4), jax.random.key(seed), BERNOULLI
    )
    assert [(site.used, site.trained) for site in report.sites] == [(True, True)] * 2


def test_a_mask_that_no_relaxed_sample_changes_is_no_jump():
    """What is masked once a sample is 1 counts the less the closer to 1 it is."""

    def objective(params, batch, key, sample):
        going = 1 - sample("stop", params[0] + batch[:, 0])
        return going * sample("act", params[1] + batch[:, 1], where=going > 0)

    report = check(objective)
    assert [(site.breaks, site.jumps) for site in report.sites] == [(True, False), (False, False)]
    assert report.applicable() == estimators.names()
    estimators.make("rebar", BERNOULLI).init(objective, jnp.zeros(2), jnp.zeros((3, 2)), KEY)


def test_a_mask_counts_beside_logits_that_have_a_derivative():
    def objective(params, batch, key, sample):
        first = sample("first", params + batch)
        ones = first.sum(axis=-1)
        return first[:, 0] + sample("second", params[0] + ones, where=ones > 1.5)

    report = check(objective)
    assert [(site.smooth, site.jumps) for site in report.sites] == [(True, True), (True, False)]
    assert set(refusals(report)) == {"rebar", "relax"}


def test_a_cost_that_needs_the_same_value_at_many_sites():
    def objective(params, batch, key, sample):
        logits = params[0] - 1 + batch[:, 0]
        return jnp.prod(jnp.stack([sample(f"z{i}", logits) for i in range(6)]) > 0.5, axis=0) * 1.0

    report = check(objective)
    assert {(site.used, site.smooth) for site in report.sites} == {(True, False)}


def test_values_that_are_ruled_out_are_not_tried():
    """The cost couples examples at the last value only, which the logits exclude."""

    def objective(params, batch, key, sample):
        logits = jnp.where(jnp.arange(3) == 2, -jnp.inf, params + jnp.zeros((4, 3)))
        z = sample("z", logits)
        return z[:, 0] + z[:, 2] * z[:, 1].sum()

    [site] = check(objective, jnp.zeros(3), jnp.zeros(4), CATEGORICAL).sites
    assert site.used
    assert not site.leaks


def test_an_energy_that_is_the_same_when_all_spins_are_flipped_depends_on_them():
    def objective(params, batch, key, sample):
        spins = 2 * sample("spins", params + batch) - 1
        return spins.prod(-1)

    assert check(objective).ok


def test_logits_that_do_not_reach_the_parameters():
    def objective(params, batch, key, sample):
        logits = jax.lax.stop_gradient(params["z"]) + batch
        return sample("z", logits) @ params["out"] + sample("w", params["w"] + batch)[:, 0]

    params = {"z": jnp.zeros(2), "w": jnp.zeros(2), "out": jnp.ones(2), "steps": jnp.array(3)}
    report = check(objective, params)
    assert [site.trained for site in report.sites] == [False, True]
    assert report.problems == ("the logits of site 'z' do not depend on the parameters",)


def test_a_channel_of_fixed_noise_is_trained_by_what_it_transmits():
    def objective(params, batch, key, sample):
        z = sample("z", params + batch)
        received = sample("channel", 4.0 * (2 * z - 1))
        again = sample("relay", received - 0.5)
        return (again - 0.3).sum(-1) ** 2 + sample("noise", 0 * batch)[:, 0]

    report = check(objective)
    assert [site.trained for site in report.sites] == [True, True, True, False]
    assert report.problems == ("the logits of site 'noise' do not depend on the parameters",)


def test_a_site_without_a_choice_is_no_problem():
    """One category, or a loop that has no step with this configuration."""

    def objective(params, batch, key, sample):
        def step(total, x):
            return total + sample("never", params + x, family="bernoulli").sum(-1), None

        total, _ = sample.scan(step, jnp.zeros(3), jnp.zeros((0, 3, 2)))
        sample("one", (params + batch)[..., :1], family="categorical")
        return total + simple(params, batch, key, functools.partial(sample, family="bernoulli"))

    assert check(objective, family=None).problems == ()


def test_logits_of_complex_parameters():
    def objective(params, batch, key, sample):
        return jnp.sin(sample("z", abs(params + batch)).sum(axis=-1))

    report = check(objective, jnp.array([0.3 + 0.2j, -0.4j]))
    assert report.problems == ()


# Which estimators can serve it.


def test_an_estimator_of_one_family_cannot_serve_the_other():
    @estimators.register("only_bernoulli", unbiased=False, families=("bernoulli",))
    def only_bernoulli(family):
        return estimators.st(family)

    try:
        report = check(simple, family=CATEGORICAL)
        assert refusals(report) == {
            "only_bernoulli": "site 'z' is categorical; it supports bernoulli"
        }
    finally:
        estimators.unregister("only_bernoulli")


def test_it_wants_values():
    with pytest.raises(ValueError, match="compares values: call it outside of jit"):
        jax.jit(lambda params: check(simple, params).batch_size)(jnp.zeros(2))


def test_a_batch_that_a_baseline_cannot_read():
    def objective(params, batch, key, sample):
        return sample("z", params + batch["x"]).sum(axis=-1) - batch["statistics"].sum()

    batch = {"x": jnp.zeros((3, 2)), "statistics": jnp.zeros(5)}
    [(name, reason)] = refusals(check(objective, batch=batch)).items()
    assert name == "nvil"
    assert reason.startswith("nvil's baseline sees all of the batch")
    assert reason.endswith("give features=, a function of the batch to [B, F]")


def test_a_callback_that_jax_cannot_vmap():
    def objective(params, batch, key, sample, *, method=None):
        z = sample("z", params + batch)
        shape = jax.ShapeDtypeStruct(batch.shape[:1], jnp.float32)
        return jax.pure_callback(lambda z: np.sum(z, axis=-1), shape, z, vmap_method=method)

    report = check(objective)
    refused = refusals(report)
    assert not report.vectorizes
    assert "vmap_method='sequential'" in refused["rloo"]
    assert "sf" in report.applicable()
    fixed = check(functools.partial(objective, method="sequential"))
    assert {"rloo", "arms", "marginalization"} <= set(fixed.applicable())


def test_an_ordered_callback_rules_out_only_what_vmaps():
    def objective(params, batch, key, sample):
        z = sample("z", params + batch)
        stopped = jax.lax.stop_gradient(z)
        jax.experimental.io_callback(lambda z: None, None, stopped, ordered=True)
        return jnp.square(z - 0.3).sum(-1)

    report = check(objective)
    refused = refusals(report)
    assert not report.vectorizes
    assert refused["rloo"].startswith("JAX cannot vmap the objective, which it runs for several")
    assert refused["rloo"].endswith("vmap` ordered IO callback")
    assert {"sf", "nvil", "st"} <= set(report.applicable())


def test_parameters_that_are_not_arrays_are_named():
    def objective(params, batch, key, sample):
        return params["act"](sample("z", params["w"] + batch)).sum(-1)

    params = {"w": jnp.zeros(2), "act": jnp.sin}
    with pytest.raises(TypeError, match=r"params\['act'\] is a PjitFunction: keep only arrays"):
        estimators.make("sf", BERNOULLI).init(objective, params, jnp.zeros((3, 2)), KEY)
    with pytest.raises(TypeError, match=r"params\['act'\] is a PjitFunction: keep only arrays"):
        check(objective, params)
