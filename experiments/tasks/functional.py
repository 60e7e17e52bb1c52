"""A Flax model as pure functions: its parameters, and its cost as a function of them."""

from typing import Any

from flax import nnx

from experiments.tasks import contract
from gumbel import Objective
from gumbel.types import Batch, Cost, Params, PRNGKey, Sampler


def objective(
    model: Any, *, temperature: Any = None, hard: bool = False, **annealed: Any
) -> Objective:
    """The cost of a model's architecture, as a pure function of its parameters.

    Args:
      model: a `Model`; its own parameters are not read.
      temperature, hard: see `Model.cost`.
      annealed: other arguments of the model's cost that a schedule gives.

    Raises:
      UserError: (when called) the model's cost is not one per example.
    """

    def call(params: Params, batch: Batch, key: PRNGKey, sample: Sampler) -> Cost:
        merged = with_params(model, params)
        cost = merged.cost(batch, key, sample, temperature=temperature, hard=hard, **annealed)
        contract.check_cost(cost)
        return cost

    return call


def params_of(model: Any) -> Params:
    """The model's parameters as nested dictionaries of arrays."""
    return nnx.to_pure_dict(nnx.state(model, nnx.Param))


def with_params(model: Any, params: Params) -> Any:
    """A copy of the model that holds these parameters."""
    graph, _, *constants = nnx.split(model, nnx.Param, ...)
    return nnx.merge(graph, nnx.State(params), *constants)
