"""What an objective depends on is found whatever the size of its other numbers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gumbel
from gumbel import estimators, exact
from gumbel.independence import leaks
from gumbel.probes import Probe

KEY = jax.random.key(0)
FAMILIES = {"gate": "bernoulli", "expert": "categorical"}
PARAMS = {"gate": jnp.zeros(1), "expert": jnp.ones(1)}
BATCH = jnp.zeros((4, 1))


def experts(gate_to_logit, ruled_out):
    """The last of three experts is ruled out; a gate decides about the others."""

    def objective(params, batch, key, sample):
        gate = sample("gate", params["gate"] + batch)
        logit = params["expert"] * gate_to_logit(gate)
        out = jnp.full_like(gate, ruled_out)
        expert = sample("expert", jnp.stack([logit, jnp.zeros_like(gate), out], axis=-1))
        return 2 * expert[:, 0, 0] + 0.1 * gate[:, 0]

    return objective


# A logit of -1e9 is no unit in which the others are small.
@pytest.mark.parametrize("ruled_out", [-1e6, -1e9, -jnp.inf])
def test_a_value_that_is_ruled_out_hides_nothing(ruled_out):
    coupled = experts(lambda gate: 3 * gate.mean(0, keepdims=True) + 0 * gate, ruled_out)
    with pytest.raises(ValueError, match="one example at site 'gate' change the cost of another"):
        exact.expected_cost(coupled, PARAMS, BATCH, KEY, FAMILIES)
    stepped = experts(lambda gate: (gate > 0.5).astype(gate.dtype), ruled_out)
    with pytest.raises(ValueError, match=r"site 'gate'.* has no derivative"):
        estimators.make("rebar", FAMILIES).init(stepped, PARAMS, BATCH, KEY)
    smooth = experts(lambda gate: 3 * gate, ruled_out)
    estimators.make("rebar", FAMILIES).init(smooth, PARAMS, BATCH, KEY)


def test_a_leak_of_a_millionth_of_the_cost_is_seen():
    def coupled(params, batch, key, sample):
        z = sample("z", params + batch)[:, 0]
        return 1e6 + 3 * z.mean() * z

    with pytest.raises(ValueError, match="site 'z' change the cost of another"):
        exact.expected_cost(coupled, jnp.zeros(1), BATCH, KEY, "bernoulli")


@pytest.mark.parametrize(
    "large",
    [
        lambda z: 1e8 * jnp.array([1.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 1.0]),
        lambda z: 1e7 * (z.sum(-1) > 1.5),  # as a penalty of what is infeasible
    ],
)
def test_a_leak_beside_the_huge_costs_of_some_examples_is_seen(large):
    def objective(params, batch, key, sample):
        z = sample("z", params + batch)
        return large(z) + (z - z.mean(0)).sum(-1) ** 2

    def independent(params, batch, key, sample):
        z = sample("z", params + batch)
        return large(z) + (z - 0.3).sum(-1) ** 2

    arguments = jnp.zeros(3), jnp.zeros((8, 3)), KEY, "bernoulli"
    assert leaks(Probe(objective, *arguments)) == ("z",)
    assert leaks(Probe(independent, *arguments)) == ()


@pytest.mark.parametrize("outlier", [0.0, 100.0])
def test_rounding_is_no_leak(outlier):
    """What is subtracted and added again is of the whole batch, as in a stable log-sum-exp."""

    def shifted(params, batch, key, sample):
        z = sample("z", params + batch)
        x = z @ jnp.array([1.0, 2.1, 3.3]) + outlier * z.prod(-1)
        largest = x.max() + 0.3
        return (x - largest) + largest

    params, batch = jnp.zeros(3), jnp.zeros((16, 3))
    exact.expected_cost(shifted, params, batch, KEY, "bernoulli")


def test_sites_are_told_apart_whatever_the_order_of_their_names():
    def objective(params, batch, key, sample):
        first = sample("z", params + batch)
        return sample("a", params + first).sum(-1)

    probe = Probe(objective, jnp.zeros(2), jnp.zeros((3, 2)), KEY, "bernoulli")
    assert list(probe.drawn.records) == ["z", "a"]
    assert probe.targets(["z", "a"]) == {"z": {"a"}, "a": {None}}


def test_a_batch_is_no_constant_of_the_checks_programs():
    """XLA would fold what is computed of constants, for minutes if they are large."""
    traced = []

    def objective(params, batch, key, sample):
        traced.append((isinstance(batch["x"], jax.core.Tracer), batch["name"]))
        return sample("z", params + batch["x"]).sum(-1)

    batch = {"x": jnp.zeros((3, 2)), "name": "train"}
    probe = Probe(objective, jnp.zeros(2), batch, KEY, "bernoulli")
    probe.start(1)
    assert traced == [(True, "train")] * 2

    def of_values(params, batch, key, sample):
        return sample("z", params + batch["x"])[:, np.asarray(batch["columns"])].sum(-1)

    batch = {"x": jnp.zeros((3, 2)), "columns": jnp.array([True, False])}
    estimators.make("sf", "bernoulli").init(of_values, jnp.zeros(2), batch, KEY)
    assert gumbel.check_objective(of_values, jnp.zeros(2), batch, KEY, "bernoulli").ok
